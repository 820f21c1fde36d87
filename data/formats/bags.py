"""ROS bags and MCAP: messages of topics at their own times, put on one control rate."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alltrades.data.formats.bag_files import Bag, bag_files
from alltrades.data.formats.hdf5 import TEXTS
from alltrades.data.formats.messages import Leaf, leaves
from alltrades.data.formats.recording import Column, Recording, Refusal, bounded, guarded

EVENTS = ("success", "is_success", "reward", "done")  # published when there is something to say
COMMANDS = ("command", "cmd", "action", "target", "teleop", "leader", "setpoint")
SLACK = 0.02  # of a control period
TIME = "@time"
GAP = 10  # of a topic's own periods: a silence that is worth a warning


class Bags(Recording):
    """Each bag is an episode. A key is a topic, or an array of a topic's messages
    ("/joint_states/position").

    At every control step a key has its newest message; an action has the newest before the next
    step, as it answers what is seen at the step. The key TIME has when the message of the action
    was published, or without actions that of the topic that speaks least. Episodes begin when every
    topic has spoken and end when the first falls silent; success and reward may speak at any time.
    """

    resampled: ClassVar[bool] = True

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return bool(bag_files(path))

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.files = bag_files(path)
        if not self.files:
            raise Refusal(f"{path}: no bags; expected .mcap, .bag, or a folder with metadata.yaml")
        first = guarded(self.files[0], lambda: Bag(self.files[0]))
        rates: dict[str, float] = {}
        try:
            times: dict[str, list[int]] = {}
            for topic, time, message in guarded(self.files[0], lambda: first.messages(None)):
                if topic not in times:
                    where = f"{self.files[0]}: topic {topic}"
                    for key, leaf in guarded(where, _first, topic, message):
                        self._add(key, leaf)
                times.setdefault(topic, []).append(time)
            for topic, kind in first.unread.items():
                self.left_out[topic] = f"messages of {kind}, which are not read"
            for topic, at in times.items():
                if len(at) > 2 and np.median(np.diff(at)) > 0:
                    rates[topic] = float(1e9 / np.median(np.diff(at)))
        finally:
            first.close()
        commands = [k for k in self.columns if any(c in _topic(k, rates) for c in COMMANDS)]
        self.acts = [k for k in commands if self.columns[k].kind == "numbers"]
        if len({_topic(k, rates) for k in self.acts}) == 1 and len(self.acts) > 1:
            position = [k for k in self.acts if k.endswith("/position")]
            self.acts = position or self.acts
        spoken = {_topic(k, rates) for k in self.acts} & set(rates) or set(rates)
        steady = [rates[t] for t in spoken if t.rpartition("/")[2] not in EVENTS]
        self.rate = float(np.round(min(steady), 1)) if steady else None
        self.columns[TIME] = Column((), "float64")

    def _add(self, key: str, leaf: Leaf) -> None:
        if leaf.kind == "text":
            self.columns[key] = Column((), "str", "text")
            if any(word in key.lower().split("/") for word in TEXTS):
                self.instruction = self.instruction or key
        elif leaf.value.size:
            kind = leaf.kind
            value = leaf.value
            self.columns[key] = Column(value.shape, value.dtype.name, kind, leaf.names)

    def __len__(self) -> int:
        return len(self.files)

    def where(self, i: int) -> str:
        return str(self.files[i])

    # ---- reading ---------------------------------------------------------------------------------
    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        where = self.where(i)
        if self.rate is None:
            raise Refusal(f"{where}: no rate; expected control_hz in the mapping; say it")
        bag = Bag(self.files[i])
        try:
            spoken = self._collect(where, bag, keys)
        finally:
            bag.close()
        for key in keys:
            if key not in spoken and not _event(key) and key != TIME:
                raise Refusal(f"{where}: no messages of '{key}'; expected some; leave it out")
        grid = self._grid(where, {k: t for k, (t, _) in spoken.items()})
        out: dict[str, Any] = {}
        for key in keys:
            if key == TIME:
                out[key] = self._times(where, grid, {k: t for k, (t, _) in spoken.items()})
                continue
            if key not in spoken:
                out[key] = np.zeros(len(grid))
                continue
            out[key] = self._on(where, key, grid, *spoken[key])
        return out

    def _collect(self, where: str, bag: Bag, keys: Collection[str]) -> dict[str, Any]:
        """key -> (times (n,) in s, values); pictures stay packed."""
        found: dict[str, tuple[list[float], list[Any]]] = {}
        topics = {topic for topic in bag.topics if any(_of(k, topic) for k in keys)}
        size = 0
        for topic, time, message in bag.messages(topics):
            for key, leaf in leaves(topic, message, unpack=False):
                if key in keys:
                    times, values = found.setdefault(key, ([], []))
                    if times and time * 1e-9 < times[-1]:
                        raise Refusal(
                            f"{where}: '{key}' goes back in time at message "
                            f"{len(times)}; expected messages in order; record it anew"
                        )
                    times.append(time * 1e-9)
                    values.append(leaf)
                    size += leaf.nbytes
                    bounded(where, size)
        return {k: (np.array(t), v) for k, (t, v) in found.items()}

    def _grid(self, where: str, times: dict[str, np.ndarray]) -> np.ndarray:
        """(T,) seconds of the control steps."""
        assert self.rate is not None
        period = 1 / self.rate
        held = self._steady(where, times)
        ahead = (1 - 2 * SLACK) * period
        start = max(t[0] - (ahead if k in self.acts else 0.0) for k, t in held.items())
        stop = min(t[-1] for t in held.values())
        if stop < start:
            late = max(held, key=lambda k: held[k][0])
            raise Refusal(
                f"{where}: '{late}' begins after another topic has ended; expected "
                "topics that overlap; leave it out"
            )
        for key, t in held.items():
            inside = np.diff(t[(t >= start) & (t <= stop)])
            if len(inside) > 2 and inside.max() > GAP * max(np.median(inside), period):
                at = int(np.argmax(inside))
                self.warn(
                    f"{where}: '{key}' is silent for {inside[at]:.2g} s; its last message is held"
                )
        steps = int((stop - start) * self.rate + SLACK) + 1
        bounded(where, 8 * steps)
        return start + np.arange(steps) * period

    def _steady(self, where: str, times: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Times of what speaks all along."""
        held = {k: t for k, t in times.items() if not _event(k) and self.columns[k].kind != "text"}
        if not held:
            raise Refusal(f"{where}: no topic that speaks all the time; expected one")
        return held

    def _newest(self, key: str, grid: np.ndarray, times: np.ndarray) -> np.ndarray:
        """(T,) number of the message that a key has at each step; -1 before the first."""
        assert self.rate is not None
        period = 1 / self.rate
        ahead = (1 - 2 * SLACK) * period if key in self.acts or _event(key) else 0.0
        return np.searchsorted(times - ahead, grid + SLACK * period, side="right") - 1

    def _times(self, where: str, grid: np.ndarray, times: dict[str, np.ndarray]) -> np.ndarray:
        """(T,) seconds at which the messages were published that set the pace. The steps' own
        times where those come less often than the steps.
        """
        held = self._steady(where, times)
        acts = [k for k in self.acts if k in held]
        key = acts[0] if acts else min(held, key=lambda k: len(held[k]))
        own = held[key]
        if len(own) < 2 or np.median(np.diff(own)) > 1.25 * (
            grid[1] - grid[0] if len(grid) > 1 else np.inf
        ):
            self.warn(f"'{key}' has fewer messages than there are steps; its times are not kept")
            return grid
        return own[np.maximum(self._newest(key, grid, own), 0)]

    def _on(self, where: str, key: str, grid: np.ndarray, times: np.ndarray, said: Any) -> Any:
        assert self.rate is not None
        column, index = self.columns[key], self._newest(key, grid, times)
        if column.kind == "text":
            return np.array([said[max(k, 0)].value for k in index.tolist()], dtype=object)
        picked: dict[int, np.ndarray] = {}
        for k in np.unique(np.maximum(index, 0)).tolist():
            value = said[k].unpacked(f"{where}: '{key}', message {k}")
            if value.shape != column.shape:
                raise Refusal(
                    f"{where}: '{key}' has shape {value.shape} in message {k}; expected "
                    f"{column.shape} as in the first bag; leave it out"
                )
            if said[k].names is not None and said[k].names != column.names:
                raise Refusal(
                    f"{where}: '{key}' names {', '.join(said[k].names)[:60]} in message "
                    f"{k}; expected {', '.join(column.names or ())[:60]}; leave it out"
                )
            picked[k] = value
        bounded(where, len(grid) * next(iter(picked.values())).nbytes)
        out = np.stack([picked[max(k, 0)] for k in index.tolist()])
        if _event(key):
            out[index < 0] = 0
        return out


def _first(topic: str, message: Any) -> list[tuple[str, Leaf]]:
    return list(leaves(topic, message, unpack=True))


def _event(key: str) -> bool:
    return key.rpartition("/")[2] in EVENTS


def _of(key: str, topic: str) -> bool:
    return key == topic or key.startswith(f"{topic}/")


def _topic(key: str, topics: Collection[str]) -> str:
    return max((t for t in topics if _of(key, t)), key=len, default=key)
