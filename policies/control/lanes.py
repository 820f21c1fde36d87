"""Lanes: episodes that run side by side, what they observe, and the only way out for their actions.
What every controller builds on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.chunks import ChunkSource
from alltrades.policies.control.guards import Guard, Guards
from alltrades.policies.control.lane import Lane
from alltrades.system.streams import checked_seed

BATCH = 8
Given = Mapping[str, Any] | Mapping[int, Any] | np.ndarray  # an observation, or one for each lane


class Lanes:
    """Independent episodes of one policy. Each lane has its own noise generator, which advances
    only when the lane asks.

    Args:
        policy: what acts.
        lanes: independent episodes.
        guard: see `Guards`; by default the limits of each environment.
        batch: rows of every policy call, at most `lanes`. Small enough that a few lanes do not pay
            for all, large enough to share the reading of the weights.

    Attributes:
        states: the lanes. source: asks the policy. guards: what actions must pass.
    """

    def __init__(
        self, policy: ActingPolicy, lanes: int = 1, guard: Guard = True, batch: int = BATCH
    ) -> None:
        if lanes < 1 or batch < 1:
            raise ValueError(f"lanes = {lanes}, batch = {batch}; expected at least 1")
        self.lanes = lanes
        self.states = [Lane(policy.n_obs_steps, policy.layout) for _ in range(lanes)]
        self.source = ChunkSource(policy, min(batch, lanes))
        self.guards = Guards(policy.environments, guard, lanes)

    @property
    def policy(self) -> ActingPolicy:
        return self.source.policy

    @property
    def batch(self) -> int:
        """Rows of every policy call."""
        return self.source.batch

    # ---- episodes --------------------------------------------------------------------------------
    def begin(self, lane: int, environment: str, seed: int) -> None:
        """Start an episode in one lane: empty history and queue, noise from the episode's seed.

        Raises UserError for an environment that the policy does not know.
        """
        index = self.policy.environment_index(environment)
        self.policy.begin(lane)
        interface = self.policy.environments[index]
        self.states[lane].begin(index, interface, seed, self.noise_seed(seed))

    def needs(self, environment: str) -> tuple[tuple[str, ...], int]:
        """Fields of an environment that the policy sees, and how many of the newest frames."""
        policy = self.policy
        interface = policy.environments[policy.environment_index(environment)]
        return tuple(interface.observation), policy.n_obs_steps

    def noise_seed(self, seed: int) -> int:
        """Seed of the policy's noise in the episode of `seed`."""
        return seed

    def reset(
        self,
        mask: np.ndarray | Sequence[bool] | None = None,
        *,
        environment: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> None:
        """Forget history, queue and last action of the lanes in `mask` (lanes,), or of all of them.

        Args:
            environment: id for those lanes, or one for each of all lanes; default: the lane's
                current one, or the policy's only one.
            seed: any integer; lane i starts from seed + i, or from its own entry; default: a seed
                that the lane has not used.

        Raises UserError where the environment is unknown or missing, or a seed is no integer.
        """
        chosen = np.ones(self.lanes, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if chosen.shape != (self.lanes,):
            raise UserError(
                f"reset mask of shape {chosen.shape}; expected ({self.lanes},), one entry per lane"
            )
        if isinstance(seed, np.ndarray) and seed.ndim == 1:
            seed = list(seed)
        for name, value in (("environment", environment), ("seed", seed)):
            if (
                isinstance(value, Sequence)
                and not isinstance(value, str)
                and len(value) != self.lanes
            ):
                raise UserError(
                    f"{len(value)} entries of {name}; expected {self.lanes}, one per lane"
                )
        for lane in map(int, np.flatnonzero(chosen)):
            named = (
                environment
                if isinstance(environment, str) or environment is None
                else environment[lane]
            )
            before = self.states[lane].seed
            if seed is None:  # steps of `lanes`: two lanes that count on from the first do not meet
                start = lane if before is None else before + self.lanes
            else:
                start = seed[lane] if isinstance(seed, Sequence) else checked_seed(seed) + lane
            self.begin(lane, named or self._default(lane), checked_seed(start))

    def environment(self, lane: int) -> Interface:
        """The environment that a lane is in."""
        return self.states[lane].environment

    def _default(self, lane: int) -> str:
        current = self.states[lane].interface
        if current is not None:
            return current.id
        if len(self.policy.environments) > 1:
            known = ", ".join(e.id for e in self.policy.environments[:12])
            raise UserError(
                f"no environment given and the policy knows {len(self.policy.environments)}; "
                f"expected one of {known}; call reset(environment=...)"
            )
        return self.policy.environments[0].id

    def close(self) -> None:
        """End what runs in the background."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- observations ----------------------------------------------------------------------------
    def observed(self, observation: Given) -> dict[int, Observation]:
        """One control step's observations, checked: lane -> its environment's fields, copied.

        A lane that was never reset starts by itself when the policy has one environment. Raises
        UserError for what does not fit; nothing has been used then.
        """
        out: dict[int, Observation] = {}
        for lane, given in self._by_lane(observation).items():
            if 0 <= lane < self.lanes and self.states[lane].interface is None:
                self.reset(np.arange(self.lanes) == lane)
            state = self._begun(lane)
            out[lane] = state.environment.check(self._unpadded(state, given))
            state.check(out[lane])
        sizes = {lane: self.environment(lane).action_dim for lane in out}
        if not isinstance(observation, Mapping) and len(set(sizes.values())) > 1:
            raise UserError(
                f"rows of lanes whose actions have {min(sizes.values())} to {max(sizes.values())} "
                "dimensions; expected {lane: observation}"
            )
        return out

    def frames(self, given: Mapping[int, Any]) -> dict[int, Observation]:
        """Frames {field: (k, *shape) or text} of several lanes, checked and copied; of an
        environment whose only field is a state also (k, D). Raises UserError for what does not fit.
        """
        out: dict[int, Observation] = {}
        for lane, new in given.items():
            state = self._begun(lane)
            out[lane] = state.environment.check_frames(self._recent(new))
            state.check(out[lane])
        return out

    def _recent(self, frames: Any) -> Any:
        """Images, and what belongs to them, without frames that no window holds: they need not be
        copied.
        """
        if not isinstance(frames, Mapping):
            return frames
        arrays = [v for v in frames.values() if isinstance(v, np.ndarray) and v.ndim > 1]
        if max((v.ndim for v in arrays), default=0) < 3 or len({len(v) for v in arrays}) != 1:
            return frames
        count = self.policy.n_obs_steps
        return {n: v[-count:] if np.ndim(v) > 1 else v for n, v in frames.items()}

    def _by_lane(self, given: Given) -> Mapping[int, Any]:
        if isinstance(given, Mapping):
            if not any(isinstance(key, str) for key in given):
                return {int(lane): of_lane for lane, of_lane in given.items()}
            if self.lanes == 1:
                return {0: given}
            raise UserError(
                f"one observation ({', '.join(map(str, given))}) and {self.lanes} lanes; expected "
                "{lane: observation}"
            )
        rows = np.asarray(given)
        if rows.ndim == 1 and self.lanes == 1:
            rows = rows[None]
        if rows.ndim != 2 or len(rows) != self.lanes:
            raise UserError(
                f"observation of shape {rows.shape}; expected ({self.lanes}, D), one row per lane, "
                "or {lane: observation}"
            )
        return dict(enumerate(rows))

    @staticmethod
    def answered(given: Given, actions: dict[int, np.ndarray]) -> Any:
        """Actions (A_env,) by lane in the form in which `given` asked for them."""
        if isinstance(given, Mapping):
            return actions[0] if any(isinstance(key, str) for key in given) else actions
        return actions[0] if np.ndim(given) == 1 else np.stack(list(actions.values()))

    def _unpadded(self, state: Lane, given: Any) -> Any:
        """Without the zeros up to the largest environment that a row of numbers may have."""
        own = state.environment.observation
        if isinstance(given, Mapping) or len(own) != 1:
            return given
        ((name, field),), shape = own.items(), np.shape(given)
        layout = self.policy.layout
        if field.kind != "state" or shape == field.shape or shape != (layout.state_dim,):
            return given
        start = layout.slices[layout.fields[state.index][name]].start
        return np.asarray(given)[start : start + field.shape[0]]

    def _begun(self, lane: int) -> Lane:
        if not 0 <= lane < self.lanes or self.states[lane].interface is None:
            raise UserError(
                f"lane {lane} has no episode; expected one of {self.lanes} lanes after begin() or "
                "reset()"
            )
        return self.states[lane]

    # ---- actions ---------------------------------------------------------------------------------
    def leave(self, lane: int, actions: np.ndarray) -> np.ndarray:
        """The only way out: actions (k, A_env) that are executed next, one after another, through
        the lane's guard.
        """
        state = self.states[lane]
        actions = self.guards.apply(lane, self.guards.of(state.environment), actions, state.last)
        state.executed(actions)
        return actions

    @property
    def stopped(self) -> np.ndarray:
        """(lanes,) bool: lanes that got no action for too long and stay stopped until `reset`;
        their loop should end.
        """
        return np.zeros(self.lanes, dtype=bool)

    @property
    def held(self) -> bool:
        """Whether the operator of the policy's server holds the robots."""
        return self.policy.held

    @property
    def refusals(self) -> dict[str, int]:
        """Actions replaced so far, by reason, over all lanes; `refusals_of` tells those of one
        lane.
        """
        return self.guards.refusals

    def refusals_of(self, lane: int) -> dict[str, int]:
        """Actions of one lane (one robot) replaced so far, by reason, over all its episodes."""
        return self.guards.refusals_of(lane)
