"""Steps of many episodes, one after another: what training and weighing read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from alltrades.data.columns import UNMARKED
from alltrades.data.episode import UNKNOWN
from alltrades.data.layout import Layout
from alltrades.data.rows import Rows
from alltrades.data.text import TEXT_DIM, text_features

T = TypeVar("T")
COLUMNS = (
    "environment",
    "source",
    "seed",
    "episode_success",
    "first_success",
    "has_actions",
    "return_",
)


@dataclass(frozen=True)
class Steps:
    """S steps of E episodes, one after another, of any environments.

    Attributes:
        observation: by field, S rows that need not be in memory (an array that is given becomes
            rows); those of episodes without the field are `Absent`.
        action: S rows (A,) f32, zero-padded to the largest environment.
        success: (S,) bool. ends: (E,) one past each episode's last step.
        environment, source: (E,) str. seed: (E,) uint64. episode_success, has_actions: (E,) bool.
        first_success: (E,) steps until success, -1 for none, UNKNOWN where nothing says success.
        return_: (E,) f64 sum of rewards.
        text: by field, (E,) object array of str, which keeps any of them as it is; "" for episodes
            without the field.
        intervention: (S,) int8, 1 where a person acted in a policy's place, 0 where the policy did,
            UNMARKED in episodes that do not say; None where none does.
        emphasis: (S,) f32 factor of the probability with which a window that learns the recorded
            actions begins at a step; None: 1.
    """

    observation: Mapping[str, Rows]
    action: Rows
    success: np.ndarray
    ends: np.ndarray
    environment: np.ndarray
    source: np.ndarray
    seed: np.ndarray
    episode_success: np.ndarray
    first_success: np.ndarray
    has_actions: np.ndarray
    return_: np.ndarray
    text: Mapping[str, np.ndarray] = field(default_factory=dict)
    intervention: np.ndarray | None = None
    emphasis: np.ndarray | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = {name: Rows.of(value) for name, value in self.observation.items()}
        object.__setattr__(self, "observation", rows)
        object.__setattr__(self, "action", Rows.of(self.action))
        text = {name: np.asarray(value, dtype=object) for name, value in self.text.items()}
        object.__setattr__(self, "text", text)

    def __len__(self) -> int:
        return len(self.success)

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` says of these steps, which never change: asked for the first time alone of a
        name. Threads that ask at the same time may make it twice.
        """
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def tells_success(self) -> bool:
        """Whether any of its episodes says whether it succeeded; those that do not, beside others
        of their environment, did not succeed.
        """
        return bool((self.first_success != UNKNOWN).any())

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) steps of each episode."""
        return np.diff(self.ends, prepend=0)

    @cached_property
    def starts(self) -> np.ndarray:
        """(E,) first step of each episode."""
        return self.ends - self.lengths

    @cached_property
    def episode_of_step(self) -> np.ndarray:
        """(S,) int32, episode of each step."""
        return np.repeat(np.arange(len(self.ends), dtype=np.int32), self.lengths)

    @cached_property
    def of_environment(self) -> dict[str, np.ndarray]:
        """Numbers (n,) of the episodes of each environment, in order; environments by name."""
        names, which = np.unique(self.environment, return_inverse=True)
        edges = np.cumsum(np.bincount(which, minlength=len(names)))[:-1]
        parts = np.split(np.argsort(which, kind="stable"), edges)
        return dict(zip(map(str, names), parts)) if len(names) else {}

    def numbers(self, environment: str) -> np.ndarray:
        """(n,) episodes of an environment, in order."""
        return self.of_environment.get(environment, np.zeros(0, np.int64))

    def acted(self, environment: str) -> np.ndarray:
        """The same of those with actions alone."""
        mine = self.numbers(environment)
        return mine[self.has_actions[mine]]

    @property
    def states(self) -> list[str]:
        """Fields of numbers (D,) that some episode has, in order."""
        return [n for n, rows in self.observation.items() if {len(s) for s in rows.shapes} == {1}]

    def state(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Numbers (n, D) of some state fields, one after another, in some rows (n,)."""
        return np.concatenate([self.observation[name].take(rows) for name in names], axis=-1)

    def window(self, layout: Layout, index: np.ndarray) -> dict[str, np.ndarray]:
        """Windows of a layout at steps (B, frames): (B, frames, *shape) for each of its slots, (B,
        1, TEXT_DIM) of a text; zero where an episode lacks the field. O(B frames log blocks).
        """
        out: dict[str, np.ndarray] = {}
        for key, slot in layout.slots.items():
            if slot.kind == "text":
                out[key] = self._text(slot.field, index[:, -1])
            elif slot.field in self.observation:
                rows = self.observation[slot.field].only(slot.dtype)
                out[key] = rows.take(index, slot.shape).astype(slot.dtype, copy=False)
            else:
                out[key] = np.zeros((*index.shape, *slot.shape), slot.dtype)
        return out

    def _text(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(B, 1, TEXT_DIM) features of the texts of some steps (B,)."""
        if name not in self.text:
            return np.zeros((len(rows), 1, TEXT_DIM), np.float32)
        said, which = np.unique(self.text[name][self.episode_of_step[rows]], return_inverse=True)
        return np.stack([text_features(str(t)) for t in said])[which][:, None]

    def select(self, episodes: np.ndarray) -> Steps:
        """The episodes where the mask (E,) is true, itself where all are; observations and actions
        are not copied.
        """
        chosen = np.flatnonzero(np.asarray(episodes, dtype=bool))
        return self if len(chosen) == len(self.ends) else self.choose(chosen)

    def spans(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k,) each: the steps low to high of some episodes (n,), in this order, those that stand
        together as one.
        """
        apart = np.flatnonzero(np.diff(chosen) != 1) + 1  # where others stand between two
        first, last = (np.concatenate(x) for x in (([0], apart), (apart, [len(chosen)])))
        if not len(chosen):
            first = last = chosen
        return self.starts[chosen[first]], self.ends[chosen[last - 1]]

    def choose(self, chosen: np.ndarray) -> Steps:
        """Some episodes (n,), in this order; observations and actions are not copied. O(n log E),
        and a byte of each of their steps.
        """
        low, high = self.spans(chosen)

        def rows(value: np.ndarray) -> np.ndarray:
            return np.concatenate([value[:0], *(value[i:j] for i, j in zip(low, high))])

        return Steps(
            {name: value.between(low, high) for name, value in self.observation.items()},
            self.action.between(low, high),
            rows(self.success),
            np.cumsum(self.lengths[chosen]),
            **{name: getattr(self, name)[chosen] for name in COLUMNS},
            text={name: value[chosen] for name, value in self.text.items()},
            intervention=None if self.intervention is None else rows(self.intervention),
            emphasis=None if self.emphasis is None else rows(self.emphasis),
        )

    @property
    def overruled(self) -> np.ndarray | None:
        """(S,) bool, steps at which a policy acted although a person could, which are no
        demonstration; None where there are none.
        """
        return None if self.intervention is None else self.intervention == 0

    @property
    def demonstrated(self) -> np.ndarray:
        """(S,) bool, steps of episodes with actions at which no policy acted."""
        acted = np.repeat(self.has_actions, self.lengths)
        return acted if self.overruled is None else acted & ~self.overruled

    @property
    def begins(self) -> np.ndarray | None:
        """(S,) f32 factor of the probability with which a window that learns the recorded actions
        begins at a step: `emphasis`, and 0 where a policy acted; None where it is 1 everywhere.
        """
        if self.overruled is None:
            return self.emphasis
        emphasis = np.float32(1) if self.emphasis is None else self.emphasis
        return np.where(self.overruled, np.float32(0), emphasis)

    def digest(self) -> str:
        """Hash of everything: equal for equal episodes in equal order. O(bytes), in pieces."""
        h = hashlib.sha256()
        for name, rows in sorted({**self.observation, "action": self.action}.items()):
            h.update(f"{name}{len(rows)}{sorted(rows.shapes)}{rows.dtype}".encode())
            for shape in sorted(rows.shapes):
                for piece in rows.resized(shape).pieces():
                    h.update(piece.tobytes())
        for name in ("success", "ends", *COLUMNS):
            value = getattr(self, name)
            h.update(f"{name}{value.shape}".encode())
            h.update("\0".join(value).encode() if value.dtype.kind == "U" else value.tobytes())
        for name, texts in sorted(self.text.items()):
            for text in (name, *texts):
                data = text.encode("utf-8", "surrogatepass")
                h.update(len(data).to_bytes(8, "little") + data)
        for name in ("intervention", "emphasis"):
            marks = getattr(self, name)
            if marks is not None:
                h.update(name.encode() + marks.tobytes())
        return h.hexdigest()[:16]

    @staticmethod
    def concatenate(parts: Sequence[Steps]) -> Steps:
        """All episodes of `parts`, in order; fields that a part lacks are absent there."""
        offsets = np.cumsum([0, *map(len, parts)])
        names = dict.fromkeys(name for p in parts for name in p.observation)
        texts = dict.fromkeys(name for p in parts for name in p.text)
        return Steps(
            {
                name: Rows.concatenate(
                    [p.observation.get(name) or Rows.absent(len(p)) for p in parts]
                )
                for name in names
            },
            Rows.concatenate([p.action for p in parts]),
            np.concatenate([p.success for p in parts]),
            np.concatenate([p.ends + o for p, o in zip(parts, offsets)]),
            **{name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS},
            text={
                name: np.concatenate([p.text.get(name, _silent(p)) for p in parts])
                for name in texts
            },
            intervention=_joined(parts, "intervention", "int8", UNMARKED),
            emphasis=_joined(parts, "emphasis", "float32", 1),
        )


def _joined(parts: Sequence[Steps], name: str, kind: str, rest: int) -> np.ndarray | None:
    """Marks of the steps of all parts, `rest` where a part has none; None where none does."""
    marks = [getattr(p, name) for p in parts]
    if all(m is None for m in marks):
        return None
    return np.concatenate(
        [np.full(len(p), rest, kind) if m is None else m for p, m in zip(parts, marks)]
    )


def _silent(steps: Steps) -> np.ndarray:
    return np.full(len(steps.ends), "", dtype=object)
