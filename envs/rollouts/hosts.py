"""Hosts of environments: they step lanes by whole chunks, in whatever process they are.

Nothing slow to import, such as torch, may be imported here: workers would start late.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alltrades.data.episode import Episode, succeeded
from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.boundary.origin import raised
from alltrades.envs.boundary.randomness import OUTSIDE
from alltrades.envs.rollouts.growth import Growth, resident
from alltrades.envs.rollouts.marks import (
    ASKING,
    BEAT,
    BUILDING,
    CLOSING,
    IDLE,
    LANE,
    PHASE,
    RESETTING,
    STEPPING,
    STEPS,
    Marks,
    local_marks,
)
from alltrades.envs.rollouts.replay import Replay, play
from alltrades.envs.spec import EnvSpec

EXPERT = "expert"  # policy key of jobs whose expert runs beside the environment
KEPT = 64  # environments that a host keeps built for later rollouts


@dataclass(frozen=True)
class Start:
    """Begin an episode in a lane.

    expert: it runs to its end at once. points: positions are recorded. needs: names of the fields
    that its controller sees, and how many of the newest frames; None: all. recorded: the answer is
    the whole episode; else its result, and observations are forgotten. images: whether the whole
    episode has the pictures of cameras, at every step; else they are drawn where its controller
    looks alone.
    """

    lane: int
    environment: str
    seed: int
    source: str
    expert: bool
    points: bool = False
    needs: tuple[tuple[str, ...], int] | None = None
    recorded: bool = True
    images: bool = True

    def drawn(self, spec: EnvSpec) -> tuple[tuple[str, ...], int | None]:
        """Fields that cameras make which are needed, and of how many of the newest steps before its
        controller looks; None: of every step.
        """
        made = () if spec.rendering is None else tuple(spec.rendering.images)
        if self.recorded and self.images:
            return made, None
        if self.expert:
            return (), 0
        if self.needs is None:
            return made, None
        names, count = self.needs
        return tuple(name for name in made if name in names), count


@dataclass(frozen=True)
class Chunk:
    """Execute actions (k, A) in a lane, until the episode ends."""

    lane: int
    actions: np.ndarray


@dataclass(frozen=True)
class Result:
    """What is left of an episode that was not recorded; as in `Episode`.

    fault: why its environment could not finish it, in one line; "" where it did. Such an episode
    has no success, no rewards and no return.
    """

    environment: str
    seed: int
    rewards: np.ndarray
    first_success: int | None
    return_: float
    metrics: dict[str, float]
    fault: str = ""

    @property
    def nbytes(self) -> int:
        return self.rewards.nbytes


@dataclass
class _Lane:
    adapter: EnvAdapter
    start: Start
    observations: list[Observation]
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    successes: list[bool | None] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # of the last step
    images: tuple[str, ...] = ()  # fields that cameras make
    looks: int | None = None  # newest steps of which they are drawn; None: of all

    @property
    def nbytes(self) -> int:
        """Of the observations that it keeps."""
        first = self.observations[0] if self.observations else {}
        return len(self.observations) * sum(
            v.nbytes for v in first.values() if isinstance(v, np.ndarray)
        )

    def frames(self, first: int) -> Observation:
        """Observations from number `first` on, as far as the controller needs them."""
        new = self.observations[first:]
        if self.start.needs is None:
            return stacked(new)
        names, count = self.start.needs
        return stacked(new[-count:], names)


Command = Start | Chunk | Replay
Outcome = Episode | Result | EnvironmentFailure  # how an episode ended
Reply = tuple[int, "Observation | Outcome"]  # lane, and its new frames or how it ended
Expert = Callable[[Any], Any]


class LaneHost:
    """Owns environments and the episodes that run in them.

    Environments are built when first needed and reused, unless they failed: then they are closed
    (`tidy`) and built anew. Memory: O(lanes x episode length).

    marks: where it notes what it is doing.
    """

    def __init__(
        self,
        specs: Mapping[str, EnvSpec],
        experts: Mapping[str, Expert],
        marks: Marks | None = None,
    ) -> None:
        self.specs, self.experts = dict(specs), dict(experts)
        self._marks = local_marks() if marks is None else marks
        self._lanes: dict[int, _Lane] = {}
        self._free: dict[str, list[EnvAdapter]] = {}
        self._retired: list[EnvAdapter] = []
        self._growth = Growth()

    def learn(
        self,
        specs: Mapping[str, EnvSpec],
        experts: Mapping[str, Expert],
    ) -> None:
        """Add environments and experts, between rollouts; idle instances that they replace are
        closed.

        So are those of other environments where more than `KEPT` have gathered.
        """
        crowded = sum(map(len, self._free.values())) > KEPT
        for name in list(self._free):
            if (name in specs and specs[name] != self.specs.get(name)) or (
                crowded and name not in specs
            ):
                self._retired += self._free.pop(name)
        self.tidy()
        self.specs.update(specs)
        self.experts.update(experts)

    def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Carry out one command per lane; replies in the same order.

        What an environment or its expert raises, or returns that is not finite, is the reply of its
        lane. Raises UserError when an environment breaks its contract, or cannot be built for want
        of an extra.
        """
        with OUTSIDE:
            return [self._carry_out(command) for command in commands]

    def tidy(self) -> None:
        """Close the instances that failed; what that raises is of no interest any more."""
        while self._retired:
            adapter = self._retired.pop()
            self._marks[PHASE] = CLOSING
            self._growth.closed()
            try:
                adapter.close()
            except (Exception, SystemExit):
                pass
            self._marks[PHASE] = IDLE

    def growth(self) -> int:
        """Bytes that this process grew by without a reason."""
        return self._growth.measure(sum(lane.nbytes for lane in self._lanes.values()))

    def close(self) -> None:
        self._retired += [lane.adapter for lane in self._lanes.values()]
        self._retired += [adapter for free in self._free.values() for adapter in free]
        self._lanes.clear()
        self._free.clear()
        self.tidy()

    def _carry_out(self, command: Command) -> Reply:
        index, marks = command.lane, self._marks
        marks[LANE], marks[BEAT] = index, marks[BEAT] + 1
        try:
            if isinstance(command, Replay):
                return self._replay(command)
            return self._start(command) if isinstance(command, Start) else self._chunk(command)
        except EnvironmentFailure as failure:
            return index, self._failed(index, failure)
        except SystemExit as error:  # a simulator's library, for one, that finds no display
            exited = self._failure(self._lanes[index], f"it called sys.exit({error.code!r})")
            return index, self._failed(index, exited)
        finally:
            marks[PHASE] = IDLE

    def _failed(self, index: int, failure: EnvironmentFailure) -> EnvironmentFailure:
        """The end of a lane; what raised is kept as text, not as frames, which hold episodes."""
        failure.add_note(traceback.format_exc())
        failure.__cause__ = failure.__context__ = failure.__traceback__ = None
        self._retired.append(self._lanes.pop(index).adapter)
        return failure

    def _start(self, command: Start) -> Reply:
        lane, marks = self._begin(command), self._marks
        adapter = lane.adapter
        marks[PHASE] = RESETTING
        lane.observations.append(adapter.reset(command.seed, lane.images))
        if not command.expert:
            return command.lane, lane.frames(0)
        with adapter.randomness:
            act = self._expert(lane)
            while not self._step(lane, act()):
                pass
        return command.lane, self._finish(command.lane)

    def _begin(self, start: Start) -> _Lane:
        """A lane with a built environment."""
        free, marks = self._free.setdefault(start.environment, []), self._marks
        marks[STEPS] = 0
        new = not free
        adapter = EnvAdapter(self.specs[start.environment]) if new else free.pop()
        lane = self._lanes[start.lane] = _Lane(adapter, start, [])
        lane.images, lane.looks = start.drawn(adapter.spec)
        if new or adapter.spec.rebuild:
            marks[PHASE] = BUILDING
            if not new:
                self._growth.closed()
            before = resident()
            adapter.build(start.seed)
            if lane.images:
                _ = adapter.painter  # which loads the model
            self._growth.built(before)
        return lane

    def _replay(self, command: Replay) -> Reply:
        lane = self._begin(Start(command.lane, command.environment, command.seed, "", False))

        def beat(step: int) -> None:
            self._marks[STEPS] = step

        self._marks[PHASE] = STEPPING
        frames = play(lane.adapter, command, beat)
        self._free[command.environment].append(self._lanes.pop(command.lane).adapter)
        return command.lane, frames

    def _chunk(self, command: Chunk) -> Reply:
        lane = self._lanes[command.lane]
        if not lane.start.recorded:
            lane.observations.clear()
        before = len(lane.observations)
        self._marks[STEPS], self._marks[PHASE] = len(lane.rewards), STEPPING
        left = len(command.actions)
        seen = left if lane.looks is None else lane.looks  # of the steps at the end
        with lane.adapter.randomness:
            done = any(
                self._step(lane, action, left - i <= seen)
                for i, action in enumerate(command.actions)
            )
        if done:
            return command.lane, self._finish(command.lane)
        return command.lane, lane.frames(before)

    def _expert(self, lane: _Lane) -> Callable[[], np.ndarray]:
        """The expert at the start of an episode, as a function that answers the current
        observation.
        """
        expert: Any = self.experts[lane.start.environment]

        def guarded(call: Callable[..., Any], argument: Any) -> Any:
            self._marks[PHASE] = ASKING
            try:
                return call(argument)
            except Exception as error:  # whatever a user's expert raises is reported with its place
                raise self._failure(lane, f"its expert raised {raised(error, expert)}") from error
            finally:
                self._marks[PHASE] = STEPPING

        if hasattr(expert, "reset"):
            guarded(expert.reset, lane.start.seed)
        return lambda: guarded(expert, lane.adapter.expert_observation)

    def _step(self, lane: _Lane, action: np.ndarray, looks: bool = True) -> bool:
        if lane.start.points and (point := lane.adapter.trajectory_point()) is not None:
            lane.points.append(np.array(point))
        result = lane.adapter.step(action, ())
        lane.actions.append(np.array(lane.adapter.action))
        lane.rewards.append(result.reward)
        self._marks[STEPS] = len(lane.rewards)
        lane.successes.append(result.success)
        lane.metrics = result.metrics
        if not result.done:  # the observation after the last action is dropped
            seen = lane.adapter.look(lane.images) if looks and lane.images else {}
            lane.observations.append(result.observation | seen)
        if not lane.start.recorded and lane.start.expert:
            lane.observations.clear()
        return result.done

    def _failure(self, lane: _Lane, cause: str) -> EnvironmentFailure:
        return EnvironmentFailure(lane.start.environment, lane.start.seed, len(lane.rewards), cause)

    def _finish(self, index: int) -> Episode | Result:
        lane = self._lanes.pop(index)
        start = lane.start
        self._free[start.environment].append(lane.adapter)
        successes = np.array(lane.successes, dtype=bool)  # None, not said: not yet
        hit: bool | None = None
        first: int | None = None
        if any(said is not None for said in lane.successes):
            hit, first = succeeded(successes)
        rewards, total = np.array(lane.rewards, dtype=np.float32), float(np.sum(lane.rewards))
        if not start.recorded:
            return Result(start.environment, start.seed, rewards, first, total, lane.metrics)
        spec = lane.adapter.spec
        kept = (
            None
            if start.images or spec.rendering is None
            else ([name for name in spec.observation if name not in spec.rendering.images])
        )
        return Episode(
            stacked(lane.observations, kept),
            np.stack(lane.actions),
            rewards,
            successes,
            start.environment,
            start.source,
            start.seed,
            hit,
            first,
            total,
            lane.metrics,
            np.stack(lane.points) if lane.points else None,
        )


def stacked(observations: Sequence[Observation], names: Iterable[str] | None = None) -> Observation:
    """Observations, oldest first, as frames: (k, *shape) of each field, or of those named, a text
    as it is.
    """
    last = observations[-1]
    return {
        name: value
        if isinstance(value := last[name], str)
        else np.stack([o[name] for o in observations])
        for name in (last if names is None else names)
    }
