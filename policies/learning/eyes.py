"""Encoders of cameras that learn where things are, before any policy does: from pictures of which
a simulator knows the state, they tell it.

The denoising loss alone hardly teaches a small encoder that. Pictures of rollouts and of random
resets cost no demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.initial import check_network, measured
from alltrades.policies.model.batch import Batch, Generators
from alltrades.policies.model.conditioning import mask_key
from alltrades.policies.model.encoders.weights import EncoderWeights
from alltrades.policies.model.normalizer import Normalizer, fit_normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings
from alltrades.system.files import file_digest, replacing
from alltrades.system.reading import read_mapping, write_sealed
from alltrades.system.streams import GLOBAL_STATE, stream
from alltrades.system.tensors import read_tensors

ROWS = 512  # at which errors are taken at once
READER, READER_TENSORS = "reader.json", "reader.safetensors"
EXPECTED, REMEDY = "eyes that alltrades wrote", "copy them again, or train them again"


@dataclass(frozen=True)
class Sight:
    """What the eyes are to tell.

    Attributes:
        cameras: fields of images that they see.
        known: states that the policy observes too, which they need not tell.
        told: (environment, state) -> places of its numbers that are to be told.
    """

    cameras: tuple[str, ...]
    known: tuple[str, ...]
    told: Mapping[tuple[str, str], tuple[int, ...]]


class Reader(DiffusionPolicy):
    """The encoders of a policy, and a head that tells the states of an environment from what they
    see, what the policy knows of itself, and the environment.

    Args:
        network: settings of the policy that is to have the encoders.
        environments: with all fields of `sight`.
        normalizer: of these fields.
        width: of the head's two hidden layers.
    """

    wanted: Tensor

    def __init__(
        self,
        network: PolicySettings,
        environments: Sequence[Interface],
        normalizer: Normalizer,
        sight: Sight,
        still: Mapping[tuple[str, str], np.ndarray],
        width: int,
    ) -> None:
        super().__init__(network, environments, normalizer)
        self.sight, self.head_width = sight, width
        own = self.conditioner
        for part in (self.backbone, own):
            part.requires_grad_(False)
        self.keys = list(own.cameras)
        for key in self.keys:
            own.encoders[own.module[key]].requires_grad_(True)
        named = {slot: name for fields in self.layout.fields for name, slot in fields.items()}
        self.knows = [key for key in self.layout.slices if named[key] in sight.known]
        self.tells = [key for key in self.layout.slices if key not in self.knows]
        wanted = torch.zeros(len(environments), sum(self._width(key) for key in self.tells))
        start = 0
        for key in self.tells:
            for k, (environment, fields) in enumerate(zip(self.layout.ids, self.layout.fields)):
                name = next((n for n, slot in fields.items() if slot == key), None)
                for place in sight.told.get((environment, str(name)), ()):
                    moves = not still[environment, str(name)][place]
                    wanted[k, start + place] = float(moves)
            start += self._width(key)
        self.register_buffer("wanted", wanted)  # (K, D) 1 for numbers that are to be told
        seen = sum(own.features[key] for key in self.keys)
        seen += sum(self._width(key) for key in self.knows) + len(environments)
        with GLOBAL_STATE:
            self.head = nn.Sequential(
                nn.Linear(seen, width),
                nn.ReLU(inplace=True),
                nn.Linear(width, width),
                nn.ReLU(inplace=True),
                nn.Linear(width, wanted.shape[1]),
            )

    def _width(self, key: str) -> int:
        part = self.layout.slices[key]
        return part.stop - part.start

    def tell(self, window: Mapping[str, Tensor], environment: Tensor) -> tuple[Tensor, Tensor]:
        """What is told of the last frame and what is so, both (B, D) and normalised."""
        x = self._normalised(window, environment)
        parts = [
            self.conditioner.encoded(key, x[key][:, -1], x[mask_key(key)][:, -1])
            for key in self.keys
        ]
        parts += [x[key][:, -1] for key in self.knows]
        parts.append(nn.functional.one_hot(environment, len(self.layout.ids)).float())
        found = self.head(torch.cat(parts, dim=-1))
        return found, torch.cat([x[key][:, -1] for key in self.tells], dim=-1)

    @torch.inference_mode()
    def told(self, frames: Mapping[str, np.ndarray], environment: int) -> dict[str, np.ndarray]:
        """What the eyes say of one environment's frames, (B, 1, *shape) by slot of the layout: the
        states (B, D) by slot, in its units. Numbers that are not told are those that they had where
        they stood still.
        """
        window = {key: torch.from_numpy(x).to(self.device) for key, x in frames.items()}
        where = torch.full((len(next(iter(frames.values()))),), environment, device=self.device)
        found, _ = self.tell(window, where)
        found = found.float() * self.wanted[environment]
        out, start = {}, 0
        for key in self.tells:
            part = self.layout.slices[key]
            mean, scale = (
                b[environment, part] for b in (self.normalizer.obs_mean, self.normalizer.obs_scale)
            )
            own = found[:, start : start + self._width(key)]
            out[key] = (own * scale + mean).cpu().numpy()
            start += self._width(key)
        return out

    def misses(
        self, policy: DiffusionPolicy, batch: Batch, generator: Generators, rows: np.ndarray
    ) -> Tensor:
        """(B,) what is `missed` of a batch: a loss of `Trainer`."""
        return self.missed(batch.window, batch.environment)

    def missed(self, window: Mapping[str, Tensor], environment: Tensor) -> Tensor:
        """(B,) mean squared error over the numbers that are to be told, normalised."""
        found, true = self.tell(window, environment)
        wanted = self.wanted[environment]
        squared = (found.float() - true).square() * wanted
        return squared.sum(1) / wanted.sum(1).clamp(min=1.0)

    def save(self, folder: Path | str, extra: dict | None = None) -> Path:
        """Write the encoders as policies take them (see `EncoderWeights`), and in
        reader.safetensors and reader.json what tells the states from them.
        """
        folder = self.weights().save(folder, extra)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        with replacing(folder / READER_TENSORS) as partial:
            save_file(state, partial)
        facts = {
            "settings": self.settings.model_dump(mode="json"),
            "environments": [e.to_json() for e in self.environments],
            "sight": {
                "cameras": list(self.sight.cameras),
                "known": list(self.sight.known),
                "told": [[*k, list(v)] for k, v in self.sight.told.items()],
            },
            "width": self.head_width,
            "sha256": file_digest(folder / READER_TENSORS),
        }
        write_sealed(folder / READER, facts)
        return folder

    def weights(self) -> EncoderWeights:
        """Those of the encoders of cameras."""
        own = self.conditioner
        modules = dict.fromkeys(own.module[key] for key in self.keys)
        return EncoderWeights.of(
            self.settings.encoder.name, {name: own.encoders[name] for name in modules}
        )

    @torch.inference_mode()
    def distances(self, data: TrainingData, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Root mean squared error (D,) of every environment at some rows, in units of the states;
        NaN for numbers that are not told.
        """
        total = torch.zeros_like(self.wanted, dtype=torch.float64)
        count = torch.zeros(len(self.layout.ids), dtype=torch.float64)
        for start in range(0, len(rows), ROWS):
            batch = data.gather(rows[start : start + ROWS])
            found, true = self.tell(batch.window, batch.environment)
            squared = (found.float() - true).double().square().cpu()
            here = batch.environment.cpu()
            total.index_add_(0, here, squared)
            count.index_add_(0, here, torch.ones(len(here), dtype=torch.float64))
        places = torch.cat(
            [torch.arange(s.start, s.stop) for s in (self.layout.slices[k] for k in self.tells)]
        )
        scale = self.normalizer.obs_scale.cpu()[:, places].double()
        rms = (total / count[:, None].clamp(min=1)).sqrt() * scale
        rms[(self.wanted.cpu() == 0) | (count[:, None] == 0)] = torch.nan
        return {name: rms[k].numpy() for k, name in enumerate(self.layout.ids)}

    def names(self, environment: str) -> list[tuple[str, str]]:
        """(name, unit) of each of the D numbers in an environment."""
        k = self.layout.ids.index(environment)
        out: list[tuple[str, str]] = []
        for key in self.tells:
            name = next((n for n, slot in self.layout.fields[k].items() if slot == key), None)
            f = None if name is None else self.environments[k].observation[name]
            for i in range(self._width(key)):
                names, units = (f.names or (), f.units or ()) if f is not None else ((), ())
                label = names[i] if i < len(names) else f"{name}[{i}]"
                out.append((label, units[i] if i < len(units) else ""))
        return out


def load_reader(folder: Path, device: str = "cpu") -> Reader:
    """What `Reader.save` wrote. Raises UserError for what is missing, damaged or was edited."""
    facts = read_mapping(folder / READER, EXPECTED, REMEDY)
    try:
        settings = PolicySettings(**facts["settings"])
        environments = [Interface.from_json(e) for e in facts["environments"]]
        sight = Sight(
            tuple(facts["sight"]["cameras"]),
            tuple(facts["sight"]["known"]),
            {(e, name): tuple(places) for e, name, places in facts["sight"]["told"]},
        )
        still = {
            (e.id, name): np.zeros(f.shape, bool)  # which it is, the weights say
            for e in environments
            for name, f in e.of_kind("state").items()
        }
        normalizer = Normalizer(Layout(environments))
        reader = Reader(settings, environments, normalizer, sight, still, int(facts["width"]))
        state = read_tensors(
            folder / READER_TENSORS, EXPECTED, REMEDY, digest=str(facts["sha256"]), device="cpu"
        )
        reader.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        said = str(error).splitlines()[0][:160]
        raise UserError(
            f"{folder / READER}: cannot be read ({said}); expected {EXPECTED}; {REMEDY}"
        ) from error
    return reader.to(device).eval()


def make_reader(
    steps: Steps,
    environments: Sequence[Interface],
    network: PolicySettings,
    sight: Sight,
    width: int,
    seed: int,
    device: str,
) -> Reader:
    """A reader with fresh weights, a function of `seed`, in units of these steps.

    Raises UserError where no camera shows anything that moves.
    """
    states = {name for _, name in sight.told}
    observe = (*sight.cameras, *sight.known, *sorted(states))
    seen = [e.seeing(observe) for e in environments]
    found = [measured(steps, e) for e in seen]
    still = {
        (e.id, name): spread.still for e, s in zip(seen, found) for name, spread in s.states.items()
    }
    small = {"n_obs_steps": 1, "horizon": 1, "n_action_steps": 1, "width": 8, "depth": 1}
    encoder = network.encoder.model_copy(
        update={"weights": None, "frozen": False, "film": False, "pretrain": None}
    )
    settings = network.model_copy(
        update=small | {"backbone": "mlp", "observe": observe, "encoder": encoder}
    )
    normalizer = fit_normalizer(found, Layout(seen), settings)
    with GLOBAL_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(settings, seen, normalizer, sight, still, width)
    check_network(reader)
    nothing = [name for k, name in enumerate(reader.layout.ids) if not reader.wanted[k].any()]
    if nothing:
        raise UserError(
            f"policy.encoder.pretrain: nothing of '{nothing[0]}' that moves is left to be told "
            "from pictures; expected states that the policy does not observe; set pretrain: null"
        )
    return reader.to(device)


def frames_of(
    steps: Steps, every: int, holdout: float, seed: int, still: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(S,) which steps are learned from, and on which errors are taken: every so many of each
    episode, counted from its last one back, the last alone of those (E,) that show a start, whole
    episodes held out, the same share of every environment's, drawn by `seed`.

    The first step of a longer episode is left out: some simulators' first observation does not yet
    show what the reset placed, such as Meta-World's of drawers and windows.
    """
    at, first = np.arange(len(steps)), steps.starts[steps.episode_of_step]
    left = steps.ends[steps.episode_of_step] - 1 - at
    chosen = np.where(still[steps.episode_of_step], left == 0, left % every == 0)
    chosen &= (at > first) | (left == 0)
    held = np.zeros(len(steps.ends), bool)
    for name in np.unique(steps.environment):
        mine = np.flatnonzero(steps.environment == name)
        rng = stream(seed, "eyes", str(name))
        held[rng.permutation(mine)[: max(1, round(holdout * len(mine)))]] = True
    out = held[steps.episode_of_step]
    return chosen & ~out, chosen & out
