"""The one wrapper around an environment: owns seeding, time limit, success, clipping and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import NotFinite
from alltrades.envs.boundary.contract import BrokenContract, number, reset_values, step_values
from alltrades.envs.boundary.origin import raised
from alltrades.envs.boundary.physics import Physics
from alltrades.envs.boundary.randomness import EpisodeRandomness
from alltrades.envs.instructions import INSTRUCTION
from alltrades.envs.perturbations import Disturbed
from alltrades.envs.portrait import Portrait
from alltrades.envs.rendering.painter import Painter, made
from alltrades.envs.spaces import integers, plain_state, read, writer
from alltrades.envs.spec import EnvSpec
from alltrades.envs.success import Success
from alltrades.errors import UserError
from alltrades.system.streams import stream_seed

BUILDING = 0  # seed of the global generators while an environment is built
SMALL = 2**31  # seeds that every generator takes are below
HUGE = 1e15  # no state that begins below comes to it, unless physics diverged


class EnvironmentFailure(Exception):
    """An episode that its environment could not finish. Survives pickling.

    Attributes:
        environment, seed, step: where; step counts the control steps before.
        cause: what was found, one line, with the place in the environment's code where it raised.
        kind: "raised", "hung" (no answer in time) or "diverged" (physics that cannot be believed).
    """

    def __init__(
        self, environment: str, seed: int, step: int, cause: str, kind: str = "raised"
    ) -> None:
        super().__init__(environment, seed, step, cause, kind)
        self.environment, self.seed, self.step = environment, seed, step
        self.cause, self.kind = cause, kind

    def __str__(self) -> str:
        return (
            f"environment '{self.environment}' failed at step {self.step} of the episode with seed "
            f"{self.seed}: {self.cause}"
        )


@dataclass(slots=True)  # made at every step: frozen ones take three times as long
class StepResult:
    """What one control step returns. `done`: the episode is over; `truncated`: by the time limit
    alone. `success`: None where nothing says it.

    metrics: the info values that the specification names.
    """

    observation: Observation
    reward: float
    success: bool | None
    done: bool
    truncated: bool
    metrics: dict[str, float] = field(default_factory=dict)


class EnvAdapter:
    """Steps the environment of a specification. Built at the first reset; reused from episode to
    episode.

    `reset(seed)` is all that an episode depends on besides its actions. Some simulators draw from
    global generators, or seed them: inside every call these are the episode's own.

    Attributes:
        action: the last one, as it was executed.
        returned: the observation that the environment returned last, as it was.
        expert_observation: the same, or what its info shows to experts alone.
        randomness: of the episode; what runs within `with` draws from its global generators.
        images: names of the fields that cameras make.
        folded: whether the environment refused the last seed for its size, and was given 31 bits of
            it.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec, self._own = spec, spec.returned.interface
        made_here = spec.rendering is not None or spec.told is not None
        self._plain = None if made_here else plain_state(self._own)
        self._limit = np.inf if spec.max_steps is None else spec.max_steps
        self.low, self.high = (bound.astype(np.float32) for bound in spec.action.box)
        self.returned: Any = None
        self.expert_observation: Any = None
        self.action = np.zeros(spec.action_dim, np.float32)
        self._texts: dict[str, str] = {}  # of this episode
        self._env: Any = None
        self._write: Callable[[np.ndarray], Any] | None = None  # action -> the environment's own
        self._rounds = False
        self._seed, self._step = 0, 0
        self._success = Success(spec.success)
        self._first: Observation = {}
        self._physics = Physics(None)
        self._stale = False  # whether it may not see another episode
        self._painter: Painter | None = None
        self._portrait = Portrait(spec)
        self._told = ""  # in this episode
        self._disturbed: Disturbed | None = None  # its pictures
        self.images = () if spec.rendering is None else tuple(spec.rendering.images)
        self.randomness, self.folded = EpisodeRandomness(0), False

    def build(self, seed: int) -> None:
        """Build the environment, for the episode of `seed`, where it was not yet: `reset` does it
        too, but may not take as long. It is built anew where the specification says so, and after
        an episode that failed.
        """
        self._seed, self._step = seed, 0
        if self._stale:
            self._guarded(self.close)
        if self._env is None:
            self.randomness = EpisodeRandomness(BUILDING)
            self._guarded(self._build)

    def reset(self, seed: int, images: Collection[str] | None = None) -> Observation:
        """Start the episode of `seed`; returns the first observation.

        images: which of the fields that cameras make are drawn; None: all.
        """
        self.build(seed)
        self._stale = self.spec.rebuild
        env = self._env
        self.randomness = EpisodeRandomness(seed)
        if self.spec.told is not None:
            assert self.spec.instructions is not None
            self._told = self.spec.instructions.sentence(seed, self.spec.told)
        if self.spec.perturbed is not None:
            self._disturbed = Disturbed(self.spec.perturbed, seed, self.spec.observation)
        returned = self._guarded(self._started, env)
        observation, info = self._kept(reset_values, returned)
        self._physics, self._first = Physics(env), {}
        self._first = self._observe(observation, info)
        self._kept(self._success.begin, info)
        self._portrait.begin(seed)
        self._texts = {name: v for name, v in self._first.items() if isinstance(v, str)}
        if not self.images:
            return self._first
        self.painter.begin(seed)
        return self._first | self.look(images)

    def step(self, action: np.ndarray, images: Collection[str] | None = None) -> StepResult:
        """Execute an action (action_dim,), or of the shape of the environment's own, clipped to the
        box, and rounded where the environment's are integers. The environment gets a copy.

        images: which of the fields that cameras make are drawn; None: all.

        Raises EnvironmentFailure when it is not finite, and UserError for another shape and for
        what breaks the environment's contract.
        """
        try:
            given = np.asarray(action, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise self._broken(
                f"it was given a {type(action).__name__} as an action; expected {len(self.low)} "
                "numbers"
            ) from error
        if given.shape != self.low.shape:
            given = self._raveled(given)
        # a third of np.clip's time
        self.action = np.minimum(np.maximum(given, self.low), self.high)
        if self._rounds:
            self.action = np.rint(self.action)
        if not self.action.dot(self.action) < np.inf and not np.isfinite(self.action).all():
            raise self._failure(
                f"it was given the action {self.action.tolist()}; expected finite numbers"
            )
        mine = self._write(self.action) if self._write else self.action.copy()
        returned = self._guarded(self._env.step, mine)
        observation, reward, terminated, truncated, info = self._kept(step_values, returned)
        found = self._physics.diverged()
        if found is not None:
            raise self._failure(found, "diverged")
        if not math.isfinite(reward):
            raise self._failure(f"its reward is {reward}; expected a finite number", "diverged")
        seen = self._observe(observation, info)
        if self._texts:
            self._check_texts(seen)
        late = self._step + 1 >= self._limit or truncated
        try:
            success = self._judge(info, reward, terminated, truncated, terminated or late)
        except BrokenContract as error:
            raise self._broken(str(error)) from error
        metrics = self._metrics(info) if self.spec.metrics else {}
        self._step += 1
        over = terminated or (success is True and self.spec.stop_at_success)
        if self.images:
            seen |= self.look(images)
        return StepResult(
            seen,
            reward,
            success,
            over or late,
            late and not over,
            metrics,
        )

    def look(self, images: Collection[str] | None = None) -> Observation:
        """Pictures of the present state: those of the fields `images`, or of all that cameras make.

        Raises UserError for a camera that the environment does not have.
        """
        names = self.images if images is None else images
        if not names:
            return {}
        drawn: Observation = self._guarded(lambda: self.painter.pictures(names))
        return drawn if self._disturbed is None else self._disturbed(drawn)

    def place(self, observation: Observation) -> Observation:
        """Bring what is drawn where an observation of the environment's own fields says, in one
        that can; returns the observation with the parts of its states.
        """
        self._guarded(lambda: self._env.place(observation))
        made_of = self.spec.rendering
        return observation | ({} if made_of is None else made(made_of, observation))

    @property
    def painter(self) -> Painter:
        """What draws the pictures of the built environment; made when first asked for, which may
        take as long as building it.
        """
        if self._painter is None:
            assert self.spec.rendering is not None
            where = f"environment '{self.spec.id}'"
            self._painter = Painter(self._env, self.spec.rendering, where)
        return self._painter

    @property
    def built(self) -> Any:
        """The environment itself; None before it is built."""
        return self._env

    def trajectory_point(self) -> np.ndarray | None:
        """(k, 2) positions for plots, where the environment offers them."""
        point = getattr(self._env, "trajectory_point", None)
        return None if point is None else np.asarray(self._guarded(point), dtype=np.float32)

    def picture(self) -> np.ndarray | None:
        """(H, W, 3) uint8 for people (see `Portrait`); the episode does not depend on it."""
        with EpisodeRandomness(BUILDING):
            return self._portrait.of(self._env, self._seed)

    def close(self) -> None:
        env, self._env, self._stale = self._env, None, False
        self._painter = None
        self._portrait.close()
        if env is not None:
            env.close()

    def _build(self) -> None:
        self._env = self.spec.build()
        space = getattr(self._env, "action_space", None)
        self._write, self._rounds = writer(space, self.spec.action_dim), integers(space)

    def _started(self, env: Any) -> Any:
        """What `reset` returns, for a seed of fewer bits where that of the episode has too many."""
        self.folded = False
        try:
            return env.reset(seed=self._seed)
        except (OverflowError, ValueError) as error:
            too_large = isinstance(error, OverflowError) or "seed" in str(error).lower()
            if self._seed < SMALL or not too_large:
                raise
            self.folded = True
        return env.reset(seed=stream_seed(self._seed, "folded") % SMALL)

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            if self.randomness.entered:
                return call(*arguments)
            with self.randomness:
                return call(*arguments)
        except (UserError, BrokenContract):
            raise
        except Exception as error:  # whatever a simulator raises is reported with its place
            raise self._failure(raised(error, self._env)) from error

    def _judge(self, *facts: Any) -> bool | None:
        """Success at a step, by its info, reward and end (see `Success`)."""
        if callable(self.spec.success):  # code of the user's, which may raise or draw
            return self._guarded(self._success, *facts)
        return self._success(*facts)

    def _failure(self, cause: str, kind: str = "raised") -> EnvironmentFailure:
        self._stale = True
        return EnvironmentFailure(self.spec.id, self._seed, self._step, cause, kind)

    def _broken(self, cause: str) -> UserError:
        """Of what an environment may not return, in no episode."""
        return UserError(
            f"environment '{self.spec.id}', episode with seed {self._seed}, step {self._step}: "
            f"{cause}"
        )

    def _kept(self, check: Callable[[Any], Any], returned: Any) -> Any:
        try:
            return check(returned)
        except BrokenContract as error:
            raise self._broken(str(error)) from error

    def _raveled(self, action: np.ndarray) -> np.ndarray:
        own = getattr(getattr(self._env, "action_space", None), "shape", None)
        if action.size == len(self.low) and action.shape in ((), own):
            return action.ravel()
        raise self._broken(
            f"it was given an action of shape {action.shape}; expected ({len(self.low)},)"
        )

    def _metrics(self, info: Mapping[str, Any]) -> dict[str, float]:
        missing = [name for name in self.spec.metrics if name not in info]
        if missing:
            raise self._broken(
                f"its info has no '{missing[0]}'; expected it, since the specification names it as "
                "a metric"
            )
        return {name: self._kept(partial(number, name), info[name]) for name in self.spec.metrics}

    def _observe(self, returned: Any, info: Mapping[str, Any]) -> Observation:
        self.returned = returned
        self.expert_observation = info.get("expert_observation", returned)
        plain = self._plain
        if (
            plain is not None
            and type(returned) is np.ndarray
            and returned.shape == plain.shape
            and returned.dtype == plain.dtype
            and returned.dot(returned) < HUGE**2  # so also finite
        ):
            return {plain.name: returned.copy()}
        try:
            seen = read(returned, self._own)
        except NotFinite as error:
            raise self._failure(str(error), "diverged") from error
        except UserError as error:
            raise self._broken(str(error)) from error
        for name, values in seen.items():
            if (
                not isinstance(values, str)
                and values.ndim == 1
                and not values.dot(values) < HUGE**2
            ):
                self._check_huge(name, values)
        if self.spec.rendering is not None:
            seen |= made(self.spec.rendering, seen)
        if self.spec.told is not None:
            seen[INSTRUCTION] = self._told
        return seen if self._disturbed is None else self._disturbed(seen)

    def _check_huge(self, name: str, values: np.ndarray) -> None:
        """Values that grew beyond what can be believed within the episode."""
        first = self._first.get(name)
        if first is None or isinstance(first, str):
            return
        grown = (abs(values) >= HUGE) & (abs(first) < HUGE)
        if grown.any():
            i = int(grown.argmax())
            raise self._failure(
                f"'{name}' grew from {first[i]:.3g} to {values[i]:.3g} at entry {i} within the "
                "episode: its physics diverged",
                "diverged",
            )

    def _check_texts(self, seen: Observation) -> None:
        for name, first in self._texts.items():
            if seen[name] != first:
                raise self._broken(
                    f"text '{name}' changed from {first[:40]!r} to {str(seen[name])[:40]!r}; "
                    "expected one string per episode"
                )
