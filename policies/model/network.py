"""What is learned of a policy: a denoiser of action chunks, conditional on what encoders see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.errors import UserError
from alltrades.policies.model.backbones import BACKBONES, Image, make_backbone
from alltrades.policies.model.batch import Batch, Generators, Noised, draw_random
from alltrades.policies.model.checked import shaped
from alltrades.policies.model.conditioning import Conditioner, features_key, mask_key, there
from alltrades.policies.model.encoders.sentences import NUMBERS, SentenceEncoder
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.pointing import STATE, Pointer
from alltrades.policies.model.processes import make_process
from alltrades.policies.model.samplers import draws, sample
from alltrades.policies.settings import PolicySettings
from alltrades.system.streams import GLOBAL_STATE


class DiffusionNetwork(nn.Module):
    """What is learned of a policy: encoders and a denoiser of chunks, in the units of every
    environment.

    Args:
        settings: architecture, process and sampling.
        environments: those the policy was made for, of which it keeps the fields that
            `settings.observe` names; sizes are padded to their maxima.
        normalizer: fitted statistics of those fields; a policy without them cannot be saved.
        grown: how many of the environments there were before each growth (see `growth.grown`).
        architecture: of the encoders of images, where it is not what their settings alone make (see
            `Encoder`).
        sentences: of the encoders of texts, as `Reading.described` says it; default what the
            normaliser's reading says, or none: then words are read.
    """

    preference: Tensor

    def __init__(
        self,
        settings: PolicySettings,
        environments: Sequence[Interface],
        normalizer: Normalizer,
        grown: Sequence[int] = (),
        architecture: Mapping[str, Any] | None = None,
        sentences: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        every = tuple(e.seeing(settings.observe) for e in environments)
        self.settings, self.grown = settings, tuple[int, ...]()
        self.environments = every[: grown[0]] if grown else every
        self.layout = Layout(self.environments)
        self.n_obs_steps, self.horizon, self.n_action_steps = (
            settings.n_obs_steps,
            settings.horizon,
            settings.n_action_steps,
        )
        self.normalizer = normalizer
        count = len(self.environments)
        self.takes_preference = settings.preference_input and count > 1
        if self.takes_preference:
            self.register_buffer("preference", torch.full((count,), 1.0 / count))
        image = action_image(self.environments) if BACKBONES.get(settings.backbone).pixels else None
        if sentences is None and normalizer.reading is not None:
            sentences = normalizer.reading.described()
        self._sentences = sentences
        reading = (
            None
            if sentences is None
            else partial(SentenceEncoder, facts=sentences, encoder=settings.text.encoder)
        )
        with GLOBAL_STATE:  # layers draw their first weights from PyTorch's one generator
            self.conditioner = Conditioner(
                self.layout,
                self.n_obs_steps,
                settings.embedding,
                self.takes_preference,
                settings.encoder,
                image,
                settings.outcome_input,
                architecture,
                reading,
            )
            self.backbone = make_backbone(
                settings.backbone,
                self.horizon,
                self.layout.action_dim,
                self.conditioner.dim,
                settings.width,
                settings.depth,
                image and Image(self.conditioner.images, *image),
            )
        self.draws = draws(settings.sampler, settings.sampling_steps)
        self.process = make_process(
            settings.process, settings.prediction, settings.diffusion_steps, settings.schedule
        )
        self.beside: nn.Module | None = None  # learns with it, in training alone
        self.pointer: Pointer | None = None
        told = sentences or {}
        targets = told.get("targets")
        if settings.text.pointing and targets and self.conditioner.pointing:
            with GLOBAL_STATE:
                self.pointer = Pointer(self.conditioner.pointing, targets, *told["places"])
            self.pointer.look(self.layout.ids)
        for end in (*grown[1:], len(every))[: len(grown)]:
            self.widen(every[:end])
        if normalizer.reading is not None:
            for texts in self.reading:
                texts.fill(normalizer.reading)

    def widen(self, environments: Sequence[Interface]) -> None:
        """Take these environments, whose first ones are those that there are, into the network and
        the layout; the normaliser is for the caller to put in place.

        Raises UserError where that cannot be (see `Backbone.widen`).
        """
        check_growth(self, environments)
        before, self.layout = self.layout, Layout(environments)
        self.grown = (*self.grown, len(self.environments))
        self.environments = tuple(environments)
        condition = self.conditioner.grow(self.layout)
        if self.pointer is not None:
            self.pointer.look(self.layout.ids)
        self.backbone.widen(self.layout.action_dim - before.action_dim, condition)

    # ---- training --------------------------------------------------------------------------------
    def condition(
        self,
        window: Mapping[str, Tensor],
        environment: Tensor,
        observation_noise: Tensor | None = None,
        preference: Tensor | None = None,
        outcome: Tensor | None = None,
        text_noise: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """A window in environment units, (B,) -> (B, C).

        Args:
            window: of the policy's layout, or with more slots, frames and wider states than it
                sees.
            observation_noise: (B, n_obs_steps, D), added to the normalised states.
            preference: lambda (B, K) of each row; default the policy's own. Ignored where it is no
                input.
            outcome: (B,) of each row, see `Conditioner`; default good. Ignored where it is no
                input.
            text_noise: see `Conditioner`.
        """
        x = self._normalised(window, environment)
        if observation_noise is not None:
            noise = observation_noise * self.normalizer.obs_mask[environment][:, None]
            x |= {key: x[key] + noise[..., part] for key, part in self.layout.slices.items()}
        if self.takes_preference and preference is None:
            preference = self.preference.expand(environment.shape[0], -1)
        if self.settings.outcome_input and outcome is None:
            outcome = torch.ones_like(environment, dtype=torch.float32)
        return self.conditioner(x, environment, preference, outcome, text_noise)

    def _normalised(self, window: Mapping[str, Tensor], environment: Tensor) -> dict[str, Tensor]:
        """What the conditioner sees of a window in environment units."""
        seen = self.fit_window(window)
        x = self.normalizer.observation(seen, environment)
        return x | {mask_key(k): there(seen[k]) for k in self.conditioner.cameras if k in seen}

    def fit_window(self, window: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the policy sees of a window that may have more slots, frames and wider states;
        features of a camera in place of its frames where the window has them.
        """
        kept = {k: features_key(k) for k in self.conditioner.cameras if features_key(k) in window}
        seen = [key for key in self.layout.slots if key not in kept]
        return self.layout.of_window({key: window[key][:, -self.n_obs_steps :] for key in seen}) | {
            key: window[key][:, -self.n_obs_steps :] for key in kept.values()
        }

    def noised(self, batch: Batch, generator: Generators) -> Noised:
        """The batch's chunks with noise, at times drawn for each.

        `generator` is one for all rows, or one for each of equal blocks of rows.
        """
        device = batch.action.device
        dims = self.dims(batch.environment)
        noise = draw_random(torch.randn, batch.action.shape, generator, device) * dims
        uniform = draw_random(torch.rand, batch.action.shape[:1], generator, device)
        clean = self.normalizer.action(batch.action, batch.environment) * dims
        t = self.process.draw_time(uniform)
        return Noised(self.process.noise(clean, noise, t), t, self.process.target(clean, noise, t))

    def predict(
        self,
        batch: Batch,
        noised: Noised,
        observation_noise: Tensor | None = None,
        text_noise: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The network's prediction (B, H, A); for the noise see `condition`."""
        condition = self.condition(
            batch.window,
            batch.environment,
            observation_noise,
            batch.preference,
            batch.outcome,
            text_noise,
        )
        found = self.backbone(noised.chunk, noised.t, condition)
        return shaped(found, noised.chunk.shape[1:], f"backbone '{self.settings.backbone}'")

    @property
    def device(self) -> torch.device:
        return self.normalizer.fitted.device

    @property
    def concentration(self) -> float | None:
        """Of the law of the preference in training; None where the policy takes none."""
        return self.settings.preference_concentration if self.takes_preference else None

    def dims(self, environment: Tensor) -> Tensor:
        """(B, 1, A) mask of the action dimensions that each row's environment has."""
        return self.normalizer.action_mask[environment][:, None]

    def errors(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over real steps and dimensions, one value per sample (B,)."""
        mask = batch.mask[:, :, None] * self.dims(batch.environment)  # (B, H, A)
        squared = (prediction.float() - target).square() * mask
        return squared.sum((1, 2)) / mask.sum((1, 2)).clamp(min=1.0)

    def loss(self, batch: Batch, generator: Generators, observation_noise: float = 0.0) -> Tensor:
        """Denoising loss, one value per sample (B,); neither weighted nor reduced. For `generator`
        see `noised`.
        """
        noised = self.noised(batch, generator)
        jitter = None
        if observation_noise > 0:
            shape = torch.Size((len(batch.action), self.n_obs_steps, self.layout.state_dim))
            jitter = observation_noise * draw_random(
                torch.randn, shape, generator, batch.action.device
            )
        misheard = self._misheard(batch, generator) if self.training else None
        if self.pointer is None or not self.training:
            predicted = self.predict(batch, noised, jitter, misheard)
            return self.errors(predicted, noised.target, batch)
        with self.conditioner.one_look():
            predicted = self.predict(batch, noised, jitter, misheard)
            errors = self.errors(predicted, noised.target, batch)
            return errors + self.settings.text.pointing * self._pointing(batch, generator)

    def _misheard(self, batch: Batch, generator: Generators) -> dict[str, Tensor]:
        """Noise (B, NUMBERS) of every text that is read by sentences."""
        scale, device = self.settings.text.noise, batch.action.device
        shape = torch.Size((len(batch.action), NUMBERS))
        return {
            key: scale * draw_random(torch.randn, shape, generator, device)
            for key in self.conditioner.hearing
        }

    def _pointing(self, batch: Batch, generator: Generators) -> Tensor:
        """(B,) errors of where something is that an instruction of each environment names, any of
        them alike.
        """
        assert self.pointer is not None
        environment, device = batch.environment, batch.action.device
        uniform = draw_random(torch.rand, environment.shape, generator, device)
        goals, columns = self.pointer.choose(environment, uniform)
        noise = self._misheard(batch, generator)
        reading = self.conditioner.hearing
        said = [of.off(of.of_goals(goals), noise[key]) for key, of in reading.items()]
        x = self._normalised(batch.window, environment)
        features = self.conditioner.looked(x, environment, torch.cat(said, dim=-1))
        state = batch.window[STATE][:, -1]
        return self.pointer.errors(features, state, columns, environment)

    # ---- sampling --------------------------------------------------------------------------------
    def denoiser(self, environment: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The network (noisy chunk, t, condition) -> prediction for rows of these environments
        (B,).
        """
        return self.backbone

    def sample(
        self,
        window: Mapping[str, Tensor],
        environment: Tensor,
        noise: Tensor,
        draw: Callable[[], Tensor] | None = None,
        steps: int | None = None,
        known: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Chunk (B, H, A) in environment units from initial noise (B, H, A); `draw` feeds
        stochastic samplers.

        Steps of `known` (B, H, A), in environment units, are kept by the weights `keep` (B, H) (see
        `sample`).
        """
        condition = self.condition(window, environment)
        dims = self.dims(environment)
        s = self.settings
        fresh = None if draw is None else (lambda: draw() * dims)
        held = None if known is None else self.normalizer.action(known, environment) * dims
        weights = None if keep is None else keep[:, :, None]
        denoise = self._guided(self.denoiser(environment), condition)
        clean = sample(
            s.sampler,
            self.process,
            lambda x, t: denoise(x, t) * dims,
            noise * dims,
            steps or s.sampling_steps,
            fresh,
            self.normalizer.bounds(environment),
            held,
            weights,
        )
        return self.normalizer.unaction(clean, environment)

    def _guided(
        self, network: Callable[[Tensor, Tensor, Tensor], Tensor], condition: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The prediction under a condition, with classifier-free guidance towards its outcome."""
        scale = self.settings.guidance
        if not self.settings.outcome_input or scale == 1:
            return lambda x, t: network(x, t, condition)
        free = self.conditioner.unsaid(condition)
        if scale == 0:
            return lambda x, t: network(x, t, free)
        return lambda x, t: torch.lerp(network(x, t, free), network(x, t, condition), scale)

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def reading(self) -> list[SentenceEncoder]:
        """What reads its texts by sentence; none where it reads words."""
        return [*self.conditioner.hearing.values()]


def action_image(environments: Sequence[Interface]) -> tuple[int, int] | None:
    """Height and width where the actions of all environments are images of one shape."""
    shapes = {e.action.image for e in environments}
    shape = shapes.pop()
    return None if shapes or shape is None else shape[:2]


def check_growth(policy: DiffusionNetwork, environments: Sequence[Interface]) -> None:
    """Raises UserError where a policy's network cannot take further environments."""
    if policy.takes_preference:
        raise UserError(
            "the policy takes a preference over its environments, and cannot grow; expected one "
            "trained without --policy.preference_input; train a policy of all environments"
        )
    if not policy.backbone.pixels:
        return
    known, image = {slot.key for slot in policy.layout.of_kind("image")}, action_image(environments)
    first = action_image(environments[:1])
    seen = [s for s in Layout(environments).of_kind("image") if s.shape[:2] == first]
    other = [slot.key for slot in seen if slot.key not in known]
    if image is None or other:
        found = f"it would see '{other[0]}'" if other else "the new one's actions are none"
        raise UserError(
            f"backbone '{policy.settings.backbone}' works on images of one shape, and {found}; "
            "expected actions and observed images of the shapes and names that it knows; train a "
            "policy of its own for the new environment"
        )
