"""Recorded actions played back in the simulator: whether they lead where the recording says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from alltrades.data.checks.examine import Examined
from alltrades.data.checks.findings import Finding, Severity
from alltrades.data.episode import Episode
from alltrades.data.fields import Observation
from alltrades.data.store import EpisodeStore
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.spec import EnvSpec

KIND = "replay"
TOLERANCE = 1e-3  # share of a number's range by which a replay may deviate
FAR = 0.1  # share from which the actions do not lead to what was recorded
IMAGE = 0.02  # mean share of a pixel's range: drivers of graphics differ by less
TRIED = 8  # episodes after which seeds that never start one are none


@dataclass
class Deviation:
    """How far one field of a replay was from the recording.

    Attributes:
        share, amount: the largest, as a share of the number's range and in its unit; of a picture
            the mean over its pixels. dimension, step: where that was; a picture has no dimension.
        first: the first step beyond the tolerance; None where there is none.
    """

    share: float = 0.0
    amount: float = 0.0
    dimension: int | None = None
    step: int = 0
    first: int | None = None

    def add(self, step: int, amount: np.ndarray, unit: np.ndarray, tolerance: float) -> None:
        """Absolute differences (D,) at a step, and the range (D,) of each number."""
        share = amount / unit
        worst = int(share.argmax())
        if share[worst] > self.share:
            self.share, self.amount = float(share[worst]), float(amount[worst])
            self.dimension, self.step = worst, step
        if self.first is None and share[worst] > tolerance:
            self.first = step


@dataclass
class Played:
    """What a replay of one episode showed.

    over: the step after which the simulator ended it, before its recording does; None where not.
    success: whether it succeeded; None where nothing says it. failure: of the environment.
    """

    deviations: dict[str, Deviation] = field(default_factory=dict)
    started: bool = True
    over: int | None = None
    success: bool | None = None
    failure: str | None = None

    @property
    def same(self) -> bool:
        return (self.failure, self.over) == (None, None) and not any(
            d.first is not None for d in self.deviations.values()
        )


class Replay:
    """Plays back episodes of one environment of a store that has been examined.

    Args:
        spec: of the environment, which can be stepped.
        most: so many episodes, evenly spread; default all.

    Time: a reset and its steps for every episode; memory of one. An episode whose start is not that
    of its seed is not stepped.
    """

    def __init__(
        self, examined: Examined, store: EpisodeStore, spec: EnvSpec, most: int | None = None
    ) -> None:
        self.examined, self.store, self.spec = examined, store, spec
        self.subject = examined.subject
        count = len(self.subject.episodes)
        self.chosen = np.unique(np.linspace(0, count - 1, min(most or count, count)).astype(int))
        self._ranges = {n: _range(s.least, s.most) for n, s in examined.scales.items()}

    def run(self, progress: Callable[[int], None] = lambda done: None) -> list[Finding]:
        """What was found; one line for a store whose seeds start none of its episodes."""
        played: dict[int, Played] = {}
        told: dict[int, bool | None] = {}
        silent = 0
        adapter = EnvAdapter(self.spec)
        try:
            for done, i in enumerate(self.chosen.tolist(), 1):
                episode = self.store.episode(int(self.subject.episodes[i]))
                if episode.actions is None:
                    silent += 1
                    continue
                played[i], told[i] = self._play(adapter, episode), episode.success
                progress(done)
                if len(played) == TRIED and not any(p.started for p in played.values()):
                    break
        finally:
            adapter.close()
        if not played:
            what = f"{silent} episodes without actions cannot be played back"
            return [self._found("warning", what, "record actions")]
        if not any(p.started for p in played.values()):
            return [self._seedless(played)]
        found = [f for i, p in played.items() for f in self._of(i, p, told[i])]
        return [*found, self._summary(played, told)]

    # ---- one episode -----------------------------------------------------------------------------
    def _play(self, adapter: EnvAdapter, episode: Episode) -> Played:
        out = Played()
        assert episode.actions is not None
        try:
            self._compare(out, 0, adapter.reset(episode.seed), episode)
            if any(d.first is not None for d in out.deviations.values()):
                out.started = False
                return out
            for step, action in enumerate(episode.actions):
                result = adapter.step(action)
                if result.success is not None:
                    out.success = bool(out.success) or result.success
                if step + 1 == len(episode):
                    break
                self._compare(out, step + 1, result.observation, episode)
                if result.done:
                    out.over = step
                    break
        except EnvironmentFailure as failure:
            out.failure = str(failure)
        return out

    def _compare(self, out: Played, step: int, seen: Observation, episode: Episode) -> None:
        for name, recorded in episode.observations.items():
            value, deviation = seen.get(name), out.deviations.setdefault(name, Deviation())
            if isinstance(recorded, str) or isinstance(value, str):
                off = np.array([float(recorded != value)])
                deviation.add(step, off, np.ones(1), 0.5)
                deviation.dimension = None
            elif value is None or value.shape != recorded.shape[1:]:
                continue  # that other fields are registered is a finding of its own
            elif value.ndim == 1:
                off = np.abs(value.astype(np.float64) - recorded[step])
                deviation.add(step, off, self._ranges.get(name, np.ones(len(off))), TOLERANCE)
            else:
                most = 1.0 if value.dtype.kind == "f" else float(np.iinfo(value.dtype).max)
                off = np.abs(value.astype(np.float64) - recorded[step]).mean()
                deviation.add(step, np.array([off]), np.array([most]), IMAGE)
                deviation.dimension = None

    # ---- findings --------------------------------------------------------------------------------
    def _of(self, i: int, played: Played, told: bool | None) -> Iterator[Finding]:
        if played.failure is not None:
            yield self._found("error", played.failure, "mend the environment, or the actions", i)
            return
        wrong: Severity = "error" if self.spec.reproducible else "warning"
        if not played.started:
            name, far = self._worst(played)
            what = f"it does not start as its seed does: {self._by(name, far)}"
            yield self._found("warning", what, "give it the seed that started it", i, 0, name, far)
            return
        for name, d in played.deviations.items():
            if d.first is not None:
                yield self._found(
                    wrong if d.share >= FAR else "warning",
                    f"played back, '{name}' leaves the recording at step {d.first}: "
                    f"{self._by(name, d)} at step {d.step}",
                    "check actions, their units and what the simulator was when it was recorded",
                    i,
                    d.first,
                    name,
                    d,
                )
        if played.over is not None:
            what = f"played back, it is over after {played.over + 1} steps; recorded are "
            what += f"{self.subject.length[i]}"
            remedy = "cut it there, or check the environment's end"
            yield self._found("warning", what, remedy, i, played.over)
        if told is not None and played.success is not None and told != played.success:
            words = {True: "succeeds", False: "does not succeed"}
            what = f"played back, it {words[played.success]}; recorded, it {words[told]}"
            yield self._found(wrong, what, "check its actions, or how success is told", i)

    def _seedless(self, played: dict[int, Played]) -> Finding:
        i, first = next(iter(played.items()))
        name, far = self._worst(first)
        return self._found(
            "warning",
            f"its seeds are not what started its episodes: of {len(played)} that were tried none "
            f"begins as its seed does (episode {self.subject.episodes[i]}, seed "
            f"{int(self.store.columns()['seed'][self.subject.episodes[i]])}: "
            f"{self._by(name, far)}); nothing was played back",
            "needed is, as the seed of each episode, what the environment's `reset` was given",
        )

    def _summary(self, played: dict[int, Played], told: dict[int, bool | None]) -> Finding:
        begun = {i: p for i, p in played.items() if p.started and p.failure is None}
        same = sum(p.same for p in begun.values())
        words = [f"{same} of {len(played)} episodes play back as they were recorded"]
        for name in next(iter(begun.values())).deviations if begun else ():
            largest = max((p.deviations[name] for p in begun.values()), key=lambda d: d.share)
            words.append(
                f"largest deviation of '{name}' {largest.amount:.3g} ({largest.share:.2%})"
            )
        said = [(told[i], p.success) for i, p in begun.items() if None not in (told[i], p.success)]
        if said:
            words.append(f"success agrees in {sum(a == b for a, b in said)} of {len(said)}")
        remedy = "nothing to do" if same == len(played) else "see the others"
        return self._found("note", "; ".join(words), remedy)

    def _worst(self, played: Played) -> tuple[str, Deviation]:
        return max(played.deviations.items(), key=lambda pair: pair[1].share)

    def _by(self, name: str, d: Deviation) -> str:
        which = f"'{name}'" if d.dimension is None else self.subject.named(name, d.dimension)
        if name in self.examined.scales or name in self.subject.images:
            return f"{which} is {d.amount:.3g} off, {d.share:.1%} of its range"
        return f"{which} differs"

    def _found(
        self,
        severity: Severity,
        what: str,
        remedy: str,
        i: int | None = None,
        step: int | None = None,
        name: str | None = None,
        deviation: Deviation | None = None,
    ) -> Finding:
        return Finding(
            severity,
            KIND,
            self.subject.environment,
            what,
            remedy,
            None if i is None else int(self.subject.episodes[i]),
            step,
            name,
            None if deviation is None else deviation.dimension,
            str(self.store.path),
        )


def _range(least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(D,) of each number; of one that never changes its size, or 1."""
    width = (most - least).astype(np.float64)
    return np.where(width > 0, width, np.maximum(np.abs(most), 1.0))


def no_simulator(examined: Examined, spec: EnvSpec | None) -> Finding | None:
    """Why the episodes of an environment cannot be played back at all, in one line; None where they
    can.
    """
    subject = examined.subject
    if subject.steps is None:
        why = "a store of another framework has no seeds"
        remedy = "needed are seeds that start its episodes: record them with `alltrades collect`"
    elif spec is None or not spec.simulated:
        why = "it is not registered with a simulator"
        remedy = "name what registers it with --plugins"
    else:
        return None
    what = f"it cannot be played back: {why}"
    return Finding("warning", KIND, subject.environment, what, remedy, store=str(subject.store))
