"""The policy artifact: a conditional diffusion model over action chunks, with everything needed to
run it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alltrades.data.interface import Interface, common_image_shape
from alltrades.data.layout import Layout
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.model.backbones import Image, make_backbone
from alltrades.policies.model.batch import Batch, Generators, Noised, draw_random
from alltrades.policies.model.conditioning import Conditioner
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.preference import preference_vector
from alltrades.policies.model.processes import make_process
from alltrades.policies.model.samplers import draws, sample
from alltrades.policies.settings import PolicySettings
from alltrades.system.files import replacing, write_text

FORMAT_VERSION = 2
initialising = (
    threading.RLock()
)  # layers draw their first weights from PyTorch's one generator, which all threads share


class DiffusionPolicy(nn.Module, ActingPolicy):
    """Stateless map from observation windows to action chunks.

    Args:
        settings: architecture, process and sampling.
        environments: those the policy was made for; observation and action sizes are padded to
            their maxima.
        normalizer: fitted statistics; a policy without them cannot be saved.

    With `settings.preference_input` and several environments the preference that it acts by is part
    of the policy: uniform, or what `set_preference` chose.
    """

    preference: Tensor

    def __init__(
        self,
        settings: PolicySettings,
        environments: Sequence[Interface],
        normalizer: Normalizer,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.environments = tuple(environments)
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
        shape = common_image_shape(self.environments)
        with initialising:
            self.conditioner = Conditioner(
                count, self.n_obs_steps, self.obs_dim, settings.embedding, self.takes_preference
            )
            self.backbone = make_backbone(
                settings.backbone,
                self.horizon,
                self.action_dim,
                self.conditioner.dim,
                settings.width,
                settings.depth,
                shape and Image(self.n_obs_steps * self.obs_dim // (shape[0] * shape[1]), *shape),
            )
        self.draws = draws(settings.sampler, settings.sampling_steps)
        self.process = make_process(
            settings.process, settings.prediction, settings.diffusion_steps, settings.schedule
        )

    # ---- training --------------------------------------------------------------------------------
    def condition(
        self,
        window: Tensor,
        environment: Tensor,
        observation_noise: Tensor | None = None,
        preference: Tensor | None = None,
    ) -> Tensor:
        """(B, n_obs_steps, D) in environment units, (B,) -> (B, C).

        Args:
            observation_noise: added after normalisation.
            preference: lambda (B, K) of each row; default the policy's own. Ignored where it is no
                input.
        """
        x = self.normalizer.observation(window, environment)
        if observation_noise is not None:
            x = x + observation_noise * self.normalizer.obs_mask[environment][:, None]
        if self.takes_preference and preference is None:
            preference = self.preference.expand(window.shape[0], -1)
        return self.conditioner(x, environment, preference)

    def noised(self, batch: Batch, generator: Generators) -> Noised:
        """The batch's chunks with noise, at times drawn for each.

        `generator` is one for all rows, or one for each of equal blocks of rows.
        """
        device = batch.action.device
        dims = self.dims(batch.environment)
        noise = draw_random(torch.randn, batch.action.shape, generator, device) * dims
        uniform = draw_random(torch.rand, batch.action.shape[:1], generator, device)
        clean = self.normalizer.action(batch.action) * dims
        t = self.process.draw_time(uniform)
        return Noised(self.process.noise(clean, noise, t), t, self.process.target(clean, noise, t))

    def predict(
        self, batch: Batch, noised: Noised, observation_noise: Tensor | None = None
    ) -> Tensor:
        """The network's prediction (B, H, A); for `observation_noise` see `condition`."""
        condition = self.condition(
            batch.window, batch.environment, observation_noise, batch.preference
        )
        return self.backbone(noised.chunk, noised.t, condition)

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
            jitter = observation_noise * draw_random(
                torch.randn, batch.window.shape, generator, batch.window.device
            )
        return self.errors(self.predict(batch, noised, jitter), noised.target, batch)

    # ---- acting ----------------------------------------------------------------------------------
    def denoiser(self, environment: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The network (noisy chunk, t, condition) -> prediction for rows of these environments
        (B,).
        """
        return self.backbone

    def sample(
        self,
        window: Tensor,
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
        held = None if known is None else self.normalizer.action(known) * dims
        weights = None if keep is None else keep[:, :, None]
        denoise = self.denoiser(environment)
        clean = sample(
            s.sampler,
            self.process,
            lambda x, t: denoise(x, t, condition) * dims,
            noise * dims,
            steps or s.sampling_steps,
            fresh,
            s.clip,
            held,
            weights,
        )
        return self.normalizer.unaction(clean)

    def sample_from(
        self,
        window: Tensor,
        environment: Tensor,
        noise: Tensor,
        known: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Chunk (B, H, A) from all the noise that the policy's own sampler needs, (B,
        draws, H, A).
        """
        first, *later = noise.unbind(1)
        fresh = iter(later)
        return self.sample(window, environment, first, lambda: next(fresh), known=known, keep=keep)

    @torch.inference_mode()
    def act(
        self,
        window: np.ndarray,
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """`sample_from` on arrays: float32 (B, n_obs_steps, D), int64 (B,), float32 (B, draws, H,
        A) -> float32 (B, H, A).
        """
        where = (torch.from_numpy(x).to(self.device) for x in (window, environment, noise))
        held = (None if x is None else torch.from_numpy(x).to(self.device) for x in (known, keep))
        return self.sample_from(*where, *held).float().cpu().numpy()

    def set_preference(self, preference: Mapping[str, float] | None) -> DiffusionPolicy:
        """Choose lambda per environment (uniform with None) and return the policy.

        Raises UserError for a policy to which the preference is no input, and for what is no
        preference.
        """
        if not self.takes_preference:
            if preference:
                raise UserError(
                    "a preference was given and this policy does not take one; expected a policy "
                    "of several environments trained with --policy.preference_input true"
                )
            return self
        self.preference.copy_(preference_vector(self.layout.ids, preference))
        return self

    def set_n_action_steps(self, actions: int | None) -> DiffusionPolicy:
        """Choose how many actions of each chunk are executed before the next one (as trained with
        None); returns the policy.

        Fewer look more often, at the cost of more calls. Raises UserError for a number that is not
        in a chunk.
        """
        if actions is not None:
            if not 1 <= actions <= self.horizon:
                raise UserError(
                    f"n_action_steps = {actions}; expected 1 to {self.horizon}, the length of this "
                    "policy's chunks"
                )
            self.n_action_steps = actions
            self.settings = self.settings.model_copy(update={"n_action_steps": actions})
        return self

    def chosen_preference(self) -> dict[str, float] | None:
        """Lambda that the policy acts by, per environment; None where it takes none."""
        if not self.takes_preference:
            return None
        return {k: round(float(v), 7) for k, v in zip(self.layout.ids, self.preference)}

    def check(self, spec: EnvSpec) -> int:
        """Index of the environment; raises UserError when its definition differs from the one
        trained on.
        """
        index = self.environment_index(spec.id)
        if self.environments[index].digest() != spec.interface.digest():
            info = self.environments[index]
            raise UserError(
                f"environment '{spec.id}' changed since the policy was trained (observation "
                f"{info.obs_dim} -> {spec.obs_dim}, action {info.action_dim} -> {spec.action_dim}, "
                "or bounds, rate, version); train again or use the environment it was trained on"
            )
        return index

    # ---- artifact --------------------------------------------------------------------------------
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def digest(self) -> str:
        """Hash of weights and settings: two policies with equal digests act alike."""
        h = hashlib.sha256(json.dumps(self._description(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            h.update(name.encode())
            h.update(value.detach().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()[:16]

    def _description(self) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "settings": self.settings.model_dump(),
            "environments": [e.to_json() for e in self.environments],
        }

    def save(self, folder: Path | str, extra: dict | None = None) -> Path:
        """Write model.safetensors and policy.json; raises UserError when the normaliser was never
        fitted.
        """
        if not bool(self.normalizer.fitted):
            raise UserError(
                "policy has no normalisation statistics; expected a fitted normaliser; train it "
                "before saving"
            )
        folder = Path(folder)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        with replacing(folder / "model.safetensors") as partial:
            save_file(state, partial)
        text = json.dumps(
            self._description()
            | {
                "digest": self.digest(),
                "parameters": self.parameter_count(),
                "training": extra or {},
            },
            indent=1,
            sort_keys=True,
        )
        write_text(folder / "policy.json", text)
        return folder


def load_policy(folder: Path | str, device: str = "cpu") -> DiffusionPolicy:
    """Read a policy artifact.

    Raises UserError when it is missing, unreadable, or its two files do not belong together.
    """
    folder = Path(folder)
    weights = folder / "model.safetensors"
    try:
        text = json.loads((folder / "policy.json").read_text())
        version = text["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{folder}: policy format {version}; expected {FORMAT_VERSION}; train the policy "
                "again, or use the alltrades that wrote it"
            )
        environments = [Interface.from_json(e) for e in text["environments"]]
        settings = PolicySettings(**text["settings"])
        normalizer = Normalizer(Layout(environments))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no policy here (policy.json is missing); expected a folder with "
            "policy.json and model.safetensors"
        ) from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: policy.json cannot be read ({error}); expected a trained artifact"
        ) from error
    if not weights.is_file():
        raise UserError(
            f"{folder}: no policy here (model.safetensors is missing); expected a folder with "
            "policy.json and model.safetensors"
        )
    policy = DiffusionPolicy(settings, environments, normalizer).to(device)
    try:
        policy.load_state_dict(load_file(weights, device=device))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{weights}: cannot be read ({error}); expected the weights that were saved with "
            "policy.json; copy the artifact again, or train it again"
        ) from error
    except RuntimeError as error:  # of load_state_dict: a line for each weight
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(
            f"{weights}: not the weights that policy.json describes ({first[0].strip()}); expected "
            "two files of one artifact; copy it again, or train it again"
        ) from error
    return policy.eval()
