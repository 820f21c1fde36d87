"""Training batches: windows drawn from rows, balanced over environments; a pure function of (seed,
step).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alltrades.data.fields import Field
from alltrades.data.layout import Layout, Slot
from alltrades.data.placing import Storage, placed, size_to_place, storage_for
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.data.text import text_features
from alltrades.data.windows import WindowIndex
from alltrades.envs.symmetry import Symmetry
from alltrades.errors import UserError
from alltrades.policies.learning.ahead import Ahead
from alltrades.policies.learning.augment import augmented
from alltrades.policies.learning.drawing import draws_of
from alltrades.policies.learning.features import feature_rows, kept_features
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.model.batch import Batch
from alltrades.policies.model.conditioning import features_key
from alltrades.policies.model.pointing import STATE, Pointer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.preference import draw_preferences
from alltrades.system.streams import stream

UNSAID = 0.1  # share of a batch whose outcome is not told, for classifier-free guidance

Symmetries = Mapping[str, Sequence[Symmetry]]  # by environment id


@dataclass(frozen=True)
class Labels:
    """Chunks in place of the recorded actions of some rows.

    Attributes:
        chunks: (L, H, A), in environment units.
        of_row: (S,) index into `chunks`, -1 for the recorded actions.
    """

    chunks: np.ndarray
    of_row: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """What batches are drawn from: S steps, each a row.

    A weight enters training in one of two ways that have the same expected gradient: as
    `probability` or as `loss_weight`.

    Attributes:
        steps: S steps of E episodes.
        probability: (S,) with which a row is drawn: non-negative numbers of any scale, or bool;
            normalised within each environment.
        loss_weight: (S,) factor of a row's loss; None: 1.
        labels: what rows are to learn where it is not their recorded actions.
        outcome: (S,) 1 for what went well, -1 for what did not, 0 where it is not said; None: well.
        shares: of a batch, by environment; None: as many rows of each.
    """

    steps: Steps
    probability: np.ndarray
    loss_weight: np.ndarray | None = None
    labels: Labels | None = None
    outcome: np.ndarray | None = None
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Augmentation:
    """What training makes of recorded windows.

    Attributes:
        hold_end: the last action counts as held after an episode's end, rather than masking those
            steps.
        symmetries: by environment; `TrainingData.batch` shows every window in a randomly chosen
            equivalent form, where the field that a symmetry maps is all that is seen of the
            environment.
    """

    hold_end: bool = False
    symmetries: Symmetries = field(default_factory=dict)

    def symmetric(self, wanted: bool) -> Augmentation:
        """The same, without symmetries unless they are wanted."""
        return self if wanted else replace(self, symmetries={})


PLAIN = Augmentation()


class TrainingData:
    """Rows as batches for one policy, in its sizes, on its device.

    Args:
        rows: those of environments that the policy does not know are ignored.
        policy: where the preference is one of its inputs, `batch` draws one for every sample (see
            `draw_preferences`); where the outcome is one, a tenth of a batch does not say it.
        folder: for a file of rows that do not fit into memory.
        storage: where the rows are kept, by default according to their size (see `placed`).
        teachers: whose predictions at the batches are asked for: windows hold what they see too.

    Attributes:
        layout: of the batches' windows and actions.

    Raises UserError where no row can be drawn. Memory: the rows (none in storage "store"), 34 bytes
    for each episode, and where not all steps of an episode are equally probable 12 for each step; a
    batch costs O(B log S).
    """

    def __init__(
        self,
        rows: TrainingRows,
        policy: DiffusionPolicy,
        augmentation: Augmentation = PLAIN,
        folder: Path | None = None,
        storage: Storage | None = None,
        teachers: Teachers = MappingProxyType({}),
    ) -> None:
        seeing = [policy, *(p for own in teachers.values() for p in own.values())]
        steps = rows.steps
        self.layout = layout = seen_by(seeing)
        if policy.pointer is not None:
            self.layout = layout = _with_places(layout, policy.pointer, steps)
        self.device, self.count = policy.device, len(layout.ids)
        self.hold_end, self.concentration = augmentation.hold_end, policy.concentration
        position = {name: k for k, name in enumerate(layout.ids)}
        names, which = np.unique(steps.environment, return_inverse=True)
        known = np.array([position.get(str(name), -1) for name in names], dtype=np.int16)
        self._of_episode, self._ends = known[which], steps.ends
        self.draws = draws_of(steps, self._of_episode, rows.probability)
        self.present = self.draws.present
        if len(self.present) == 0:
            raise UserError(
                "no training rows: every row has probability 0; expected demonstrations or "
                "successful rollouts; collect more, or turn the success filter off"
            )
        self.shares: np.ndarray | None = None
        if rows.shares is not None:
            own = np.array([rows.shares[layout.ids[k]] for k in self.present])
            self.shares = np.cumsum(own) / own.sum()
        self.encoder = policy.settings.encoder
        self.cameras = policy.conditioner.cameras
        frames = max(p.n_obs_steps for p in seeing)
        self.windows = WindowIndex(steps.ends, frames, policy.horizon)
        features = kept_features(seeing)
        seen = [slot for slot in layout.slots.values() if slot.frames and slot.key not in features]
        found = {slot.key: _rows(steps, slot) for slot in seen}
        if storage is None:
            size = sum(size_to_place(found[slot.key].resized(slot.shape)) for slot in seen)
            storage = storage_for(size + steps.action.nbytes, folder)
        self.observation = {
            slot.key: placed(found[slot.key], slot.shape, folder, storage) for slot in seen
        } | {
            features_key(key): feature_rows(
                _rows(steps, layout.slots[key]).resized(layout.slots[key].shape), policy, key, name
            )
            for key, name in features.items()
        }
        self._ahead = Ahead(self._batch) if layout.of_kind("image") else self._batch
        self.texts = {
            slot.key: _Texts(steps, slot.field) for slot in layout.slots.values() if not slot.frames
        }
        self.action = placed(steps.action, layout.action_dim, folder, storage)
        weight = rows.loss_weight
        self.loss_weight = None if weight is None else np.asarray(weight, dtype=np.float32)
        self.labels = rows.labels
        self.overruled = steps.overruled
        told = policy.settings.outcome_input and rows.outcome is not None
        self.outcome = np.asarray(rows.outcome, dtype=np.float32) if told else None
        self.symmetries: dict[
            tuple[Symmetry, str], np.ndarray
        ] = {}  # with the slot that it maps, to (K,) bool: the environments that have it
        for k, (name, fields) in enumerate(zip(layout.ids, layout.fields)):
            for symmetry in augmentation.symmetries.get(name, ()):
                if list(fields) == [symmetry.field]:
                    mapped = symmetry, fields[symmetry.field]
                    self.symmetries.setdefault(mapped, np.zeros(self.count, bool))[k] = True

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: the features of a frame only where a batch may show it, since each
        costs a look of the encoder.
        """
        state = dict(self.__dict__)
        features = self.observation.keys() - self.layout.slots.keys()
        if features:
            shown = np.flatnonzero(self.windows.observed(self.draws.every()))
            state["observation"] = self.observation | {
                key: _alone(self.observation[key], shown) for key in features
            }
        return state

    def __len__(self) -> int:
        """S, of all steps."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def nbytes(self) -> int:
        """Of what is observed, done and to be learned, wherever it is kept."""
        labels = 0 if self.labels is None else self.labels.chunks.nbytes
        return labels + sum(rows.nbytes for rows in (*self.observation.values(), self.action))

    def rows(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """`size` rows (B,), the same number (+-1) from every environment present, or its share."""
        if self.shares is None:
            slot = (np.arange(size) + rng.integers(len(self.present))) % len(self.present)  # (B,)
        else:
            points = (np.arange(size) + rng.random()) / size
            slot = np.searchsorted(self.shares[:-1], points, side="right")
        return self.draws.at(slot, rng.random(size))

    def environment_of(self, rows: np.ndarray) -> np.ndarray:
        """Number (B,) of the environment of rows (B,) in the layout."""
        return self._of_episode[np.searchsorted(self._ends, rows, side="right")]

    def gather(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """The batch of given rows (B,), as recorded, or with `rng` augmented by symmetries, and
        images as the policy's settings say.
        """
        window = self.windows.take(rows)
        action = torch.from_numpy(self.action.take(window.action_index))  # (B, H, A)
        mask = torch.from_numpy(window.action_mask.astype(np.float32))  # (B, H)
        if self.hold_end:
            mask = torch.ones_like(mask)
        if self.overruled is not None:  # a chunk ends where the person let go
            ended = np.logical_or.accumulate(self.overruled[window.action_index], axis=1)
            mask[torch.from_numpy(ended)] = 0.0
        if self.labels is not None:
            label = self.labels.of_row[rows]
            labelled = np.flatnonzero(label >= 0)
            action[labelled] = torch.from_numpy(self.labels.chunks[label[labelled]])
            mask[labelled] = 1.0
        seen = {key: of.take(window.obs_index) for key, of in self.observation.items()}
        own = self.environment_of(rows)
        if rng is not None:
            for (symmetry, key), members in self.symmetries.items():
                symmetry.augment(seen[key], action.numpy(), np.flatnonzero(members[own]), rng)
            for key in self.cameras:
                kept = key if key in seen else features_key(key)
                seen[kept] = self._augmented(seen[kept], rng)
        seen |= {key: of.take(rows) for key, of in self.texts.items()}
        weight = (
            torch.ones(len(rows))
            if self.loss_weight is None
            else torch.from_numpy(self.loss_weight[rows])
        )
        environment = torch.from_numpy(own.astype(np.int64))
        batch = (action, mask, environment, weight)
        out = Batch(
            {key: self._there(torch.from_numpy(x)) for key, x in seen.items()},
            *map(self._there, batch),
        )
        if self.outcome is not None:
            out.outcome = self._there(torch.from_numpy(self.outcome[rows]))
        return out

    def _augmented(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Windows (B, frames, *shape) of a camera, or its features, as training shows them."""
        if frames.ndim == 5:
            frames = augmented(frames, self.encoder, rng)
        if self.encoder.drop:
            frames[rng.random(len(frames)) < self.encoder.drop] = 0
        return frames

    def _there(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)

    def batch(self, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]:
        """Batch number `step` and its rows; with images, a thread makes the next one ahead."""
        return self._ahead(size, seed, step)

    def _batch(self, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]:
        rng = stream(seed, "batch", step)
        rows = self.rows(size, rng)
        batch = self.gather(rows, rng)
        if self.concentration is not None:
            drawn = draw_preferences(self.environment_of(rows), self.count, self.concentration, rng)
            batch.preference = self._there(torch.from_numpy(drawn))
        if batch.outcome is not None:
            said = rng.random(size) >= UNSAID
            batch.outcome = batch.outcome * self._there(torch.from_numpy(said))
        return batch, rows


def demonstration_data(
    demos: Steps,
    policy: DiffusionPolicy,
    augmentation: Augmentation = PLAIN,
    folder: Path | None = None,
    teachers: Teachers = MappingProxyType({}),
) -> TrainingData:
    """Recorded actions of all demonstrations that have actions, uniform over the steps at which
    windows may begin (see `Steps.begins`); `folder` and `teachers` as in `TrainingData`.
    """
    probability = np.repeat(demos.has_actions, demos.lengths)
    if demos.begins is not None:
        probability = probability * demos.begins
    rows = TrainingRows(steps=demos, probability=probability)
    return TrainingData(rows, policy, augmentation, folder, teachers=teachers)


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """The rows of several networks as equal blocks of one batch, whose environment is the network's
    number.
    """
    network = torch.arange(len(batches), device=batches[0].action.device)
    window = {key: torch.cat([b.window[key] for b in batches]) for key in batches[0].window}
    action, mask, weight = (
        torch.cat([getattr(b, name) for b in batches]) for name in ("action", "mask", "loss_weight")
    )
    return Batch(window, action, mask, network.repeat_interleave(len(batches[0].action)), weight)


def windows_of(policy: DiffusionPolicy, steps: Steps, rows: np.ndarray) -> dict[str, Tensor]:
    """Observation windows of given rows (B,) as the policy sees them, on its device."""
    index = WindowIndex(steps.ends, policy.n_obs_steps, 1).take(rows).obs_index
    window = steps.window(policy.layout, index)
    return {key: torch.from_numpy(x).to(policy.device) for key, x in window.items()}


def seen_by(policies: Sequence[DiffusionPolicy]) -> Layout:
    """The environments of the first with all fields that it or one of the others sees there."""
    fields = {e.id: dict(e.observation) for e in policies[0].environments}
    for policy in policies[1:]:
        for environment in policy.environments:
            if environment.id in fields:
                fields[environment.id] |= environment.observation
    return Layout([replace(e, observation=fields[e.id]) for e in policies[0].environments])


def _with_places(layout: Layout, pointer: Pointer, steps: Steps) -> Layout:
    """The same with the states that say where things are. Raises UserError where no step has
    them.
    """
    if STATE not in steps.observation:
        raise UserError(
            f"policy.text.pointing: no episode has '{STATE}', which says where things are; "
            "expected demonstrations and rollouts with it; record them again, or set pointing: 0"
        )
    state = Field.state(max(shape[0] for shape in steps.observation[STATE].shapes))
    return Layout(
        [
            replace(e, observation={STATE: state} | dict(e.observation))
            if e.id in pointer.targets and STATE not in e.observation
            else e
            for e in layout.environments
        ]
    )


def _alone(rows: Rows, index: np.ndarray) -> Rows:
    """Rows (N, D) in one array, those of an index; zeros elsewhere."""
    out = np.zeros((len(rows), rows.width), rows.dtype)
    out[index] = rows.take(index)
    return Rows.of(out)


def _rows(steps: Steps, slot: Slot) -> Rows:
    """Those of a slot's field; zeros where no episode has it."""
    if slot.field in steps.observation:
        return steps.observation[slot.field].only(slot.dtype)
    return Rows(Rows.absent(len(steps)).runs, slot.shape, slot.dtype)


class _Texts:
    """Features of the texts of episodes, each of which is computed once."""

    def __init__(self, steps: Steps, field: str) -> None:
        said = steps.text.get(field, np.full(len(steps.ends), "", dtype=object))
        number: dict[str, int] = {}
        self.of_episode = np.array([number.setdefault(text, len(number)) for text in said])
        self.features = np.stack([text_features(text) for text in number])  # (texts, TEXT_DIM)
        self.ends = steps.ends

    def take(self, rows: np.ndarray) -> np.ndarray:
        """(B, 1, TEXT_DIM) of the texts at some steps (B,)."""
        episode = np.searchsorted(self.ends, rows, side="right")
        return self.features[self.of_episode[episode]][:, None]
