"""Lanes: history, noise, guard and last actions of episodes that run side by side. What every
controller builds on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from alltrades.data.interface import ActionSpec, Interface
from alltrades.envs.rollouts.seeding import policy_generator
from alltrades.errors import UserError
from alltrades.policies.control.guard import REASONS, TIMEOUTS, ActionGuard

BATCH = 8


class ActingPolicy(Protocol):
    """What a controller needs of a policy; `DiffusionPolicy` and `OnnxPolicy` have it.

    `draws` is the number of standard normal arrays (horizon, action_dim) that a row of `act` uses.
    A policy may have `begin(lane)`, too: it is called when an episode starts in a lane.
    """

    environments: tuple[Interface, ...]
    n_obs_steps: int
    horizon: int
    draws: int
    n_action_steps: int
    obs_dim: int
    action_dim: int

    def act(
        self,
        window: np.ndarray,
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray: ...

    def environment_index(self, env_id: str) -> int: ...


@dataclass(frozen=True)
class Overlap:
    """What is decided about a lane's next chunk before it is drawn (real-time chunking, Black et
    al. 2025).

    known (k, A_env), k <= horizon: finite actions of its first steps, in environment units. keep
    (k,) in [0, 1]: how much of each stays; 1 freezes it. noise (draws, horizon, A): in place of the
    lane's own, or None.
    """

    known: np.ndarray
    keep: np.ndarray
    noise: np.ndarray | None = None


class Lanes:
    """Independent episodes of one policy, which is always called with `batch` rows.

    Rows are padded where fewer lanes ask, and the policy is called several times where more do:
    results of a matrix product may depend on the batch size in the last bit, and an episode must
    not depend on its neighbours. Each lane has its own noise generator, which advances only when
    the lane asks.

    Args:
        policy: moves to evaluation mode where it has one.
        lanes: independent episodes.
        batch: rows of every policy call, at most `lanes`. Small enough that a few lanes do not pay
            for all, large enough to share the reading of the weights.
        guard: True for the action box (with rate and acceleration, where they are defined) of each
            environment, limits by environment id (see `read_limits`), False for none, or one guard
            that holds for every environment.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int = 1,
        guard: bool | ActionGuard | Mapping[str, ActionSpec] = True,
        batch: int = BATCH,
    ) -> None:
        if lanes < 1 or batch < 1:
            raise ValueError(f"lanes = {lanes}, batch = {batch}; expected at least 1")
        self.policy, self.lanes, self.batch = policy, lanes, min(batch, lanes)
        if hasattr(policy, "eval"):  # a torch module, without importing torch
            policy.eval()
        self._shared = guard if isinstance(guard, ActionGuard) else None
        self._limits = guard if isinstance(guard, Mapping) else None
        self._guarded = guard is not False
        self._guards: dict[tuple[int, bool], ActionGuard] = {}
        self._refused = [dict.fromkeys((*REASONS, *TIMEOUTS), 0) for _ in range(lanes)]
        self._window = np.zeros((lanes, policy.n_obs_steps, policy.obs_dim), dtype=np.float32)
        self._environment = np.zeros(lanes, dtype=np.int64)
        self._generators = [
            np.random.default_rng(0)
        ] * lanes  # of the lane's episode, from `begin` on
        self._begun = [False] * lanes
        self._seen = [False] * lanes  # a frame of this episode is in the window
        self._obs_dims, self._action_dims = [0] * lanes, [0] * lanes
        self._last: list[np.ndarray | None] = [
            None
        ] * lanes  # last two actions handed out, (1 or 2, A_env)
        self._queues: list[list[np.ndarray]] = [
            [] for _ in range(lanes)
        ]  # of act(), next action last
        self._seeds = [-1] * lanes

    # ---- episodes --------------------------------------------------------------------------------
    def begin(self, lane: int, environment: str, seed: int) -> None:
        """Start an episode in one lane: empty history and queue, noise from the episode's seed.

        Raises UserError for an environment that the policy does not know.
        """
        index = self.policy.environment_index(environment)
        info = self.policy.environments[index]
        told = getattr(
            self.policy, "begin", None
        )  # a served policy tells its server, which guards, too
        if told is not None:
            told(lane)
        self._environment[lane] = index
        self._obs_dims[lane], self._action_dims[lane] = info.obs_dim, info.action_dim
        self._generators[lane] = policy_generator(seed)
        self._window[lane] = 0.0
        self._begun[lane], self._seen[lane], self._last[lane] = True, False, None
        self._queues[lane].clear()
        self._seeds[lane] = seed

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
            seed: lane i starts from seed + i, or from its own entry; default: a seed that the lane
                has not used.

        Raises UserError where the environment is unknown or missing.
        """
        chosen = np.ones(self.lanes, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if chosen.shape != (self.lanes,):
            raise UserError(
                f"reset mask of shape {chosen.shape}; expected ({self.lanes},), one entry per lane"
            )
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
            if seed is None:  # steps of `lanes`: two lanes that count on from the first do not meet
                start = lane if self._seeds[lane] < 0 else self._seeds[lane] + self.lanes
            else:
                start = seed + lane if isinstance(seed, (int, np.integer)) else seed[lane]
            self.begin(lane, named or self._default(lane), int(start))

    def environment(self, lane: int) -> Interface:
        """What the policy knows of the environment that a lane is in."""
        return self.policy.environments[self._environment[lane]]

    def _default(self, lane: int) -> str:
        if self._begun[lane]:
            return self.environment(lane).id
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
    def _observed(
        self, observation: np.ndarray | Mapping[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """One control step's observations, checked: lane -> (obs_dim of its environment,)."""
        items = (
            observation
            if isinstance(observation, Mapping)
            else dict(enumerate(self._rows(observation)))
        )
        return {lane: self._row(lane, row) for lane, row in items.items()}

    def _rows(self, observation: np.ndarray) -> np.ndarray:
        rows = np.asarray(observation, dtype=np.float32)
        if rows.ndim == 1 and self.lanes == 1:
            rows = rows[None]
        if rows.ndim != 2 or len(rows) != self.lanes:
            raise UserError(
                f"observation of shape {rows.shape}; expected ({self.lanes}, obs_dim), one row "
                "per lane"
            )
        return rows

    def _row(self, lane: int, row: np.ndarray) -> np.ndarray:
        if 0 <= lane < self.lanes and not self._begun[lane]:
            self.reset(np.arange(self.lanes) == lane)
        row = np.array(row, dtype=np.float32)  # a copy: the caller may reuse its buffer
        if row.shape == (self.policy.obs_dim,) and 0 <= lane < self.lanes:
            row = row[: self._obs_dims[lane]]  # zero-padded to the largest environment
        self._check(lane, row[None])
        return row

    def _check(self, lane: int, new: np.ndarray) -> None:
        if not 0 <= lane < self.lanes or not self._begun[lane]:
            raise UserError(
                f"lane {lane} has no episode; expected one of {self.lanes} lanes after begin() or "
                "reset()"
            )
        dim = self._obs_dims[lane]
        if new.ndim != 2 or new.shape[1] != dim or not len(new):
            name = self.environment(lane).id
            raise UserError(
                f"observations of shape {new.shape} in lane {lane}; expected (k, {dim}) with k >= "
                "1 for "
                f"'{name}'; check the environment id and what the observation holds"
            )

    def _push(self, lane: int, new: np.ndarray) -> None:
        window = self._window[lane, :, : self._obs_dims[lane]]  # (n_obs_steps, D_env), a view
        if not self._seen[lane]:
            window[:] = new[0]
            self._seen[lane] = True
        n_obs_steps = len(window)
        if len(new) < n_obs_steps:
            window[: n_obs_steps - len(new)] = window[len(new) :].copy()
            window[n_obs_steps - len(new) :] = new
        else:
            window[:] = new[-n_obs_steps:]

    # ---- the policy's inputs ---------------------------------------------------------------------
    def _inputs(
        self, lanes: Sequence[int], overlaps: Mapping[int, Overlap]
    ) -> tuple[np.ndarray, ...]:
        """Arguments of `policy.act` for at most `batch` lanes, copied; rows beyond the lanes repeat
        the first.
        """
        rows = [*lanes, *[lanes[0]] * (self.batch - len(lanes))]
        inputs = self._window[rows], self._environment[rows], self._noise(lanes, overlaps)
        if not any(lane in overlaps for lane in lanes):
            return inputs
        known = np.zeros((self.batch, self.policy.horizon, self.policy.action_dim), np.float32)
        keep = np.zeros((self.batch, self.policy.horizon), np.float32)
        for row, lane in enumerate(lanes):
            if lane in overlaps:
                k, dim = overlaps[lane].known.shape
                known[row, :k, :dim], keep[row, :k] = overlaps[lane].known, overlaps[lane].keep
        return *inputs, known, keep

    def _noise(self, lanes: Sequence[int], overlaps: Mapping[int, Overlap]) -> np.ndarray:
        """(batch, draws, horizon, A) float32, each row from its lane's generator; zero in rows
        beyond the lanes.
        """
        shape = (self.policy.draws, self.policy.horizon, self.policy.action_dim)
        noise = np.zeros((self.batch, *shape), dtype=np.float32)
        for row, lane in enumerate(lanes):
            given = overlaps[lane].noise if lane in overlaps else None
            if given is None:
                self._generators[lane].standard_normal(dtype=np.float32, out=noise[row])
            else:
                noise[row] = given
        return noise

    # ---- the guard -------------------------------------------------------------------------------
    def _leave(self, lane: int, actions: np.ndarray) -> np.ndarray:
        """The only way out: actions (k, A_env) that are executed next, one after another, through
        the lane's guard.
        """
        actions = self._through(
            lane, self._guard(int(self._environment[lane])), actions, self._last[lane]
        )
        last = self._last[lane]
        self._last[lane] = (
            actions[-2:]
            if last is None or len(actions) > 1
            else np.concatenate([last[-1:], actions])
        )
        return actions

    def _through(
        self, lane: int, guard: ActionGuard | None, actions: np.ndarray, last: np.ndarray | None
    ) -> np.ndarray:
        if guard is None:
            return actions
        before = dict(guard.refusals)
        actions = guard(actions, last)
        for reason, count in guard.refusals.items():
            self._refused[lane][reason] += count - before[reason]
        return actions

    def _guard(self, index: int, acceleration: bool = True) -> ActionGuard | None:
        """The guard of an environment, or None; without `acceleration` it limits box and
        rate only.
        """
        if not self._guarded or self._shared is not None:
            return self._shared
        if (index, acceleration) not in self._guards:
            info = self.policy.environments[index]
            limits = info.action if self._limits is None else self._limits[info.id]
            self._guards[index, acceleration] = ActionGuard(
                limits if acceleration else replace(limits, acceleration=None)
            )
        return self._guards[index, acceleration]

    @property
    def refusals(self) -> dict[str, int]:
        """Actions replaced so far, by reason, over all lanes; `refusals_of` tells those of one
        lane.
        """
        return {
            reason: sum(refused[reason] for refused in self._refused)
            for reason in (*REASONS, *TIMEOUTS)
        }

    def refusals_of(self, lane: int) -> dict[str, int]:
        """Actions of one lane (one robot) replaced so far, by reason, over all its episodes."""
        return dict(self._refused[lane])

    @property
    def stopped(self) -> np.ndarray:
        """(lanes,) bool: lanes that got no action for too long and stay stopped until `reset`;
        their loop should end.
        """
        return np.zeros(self.lanes, dtype=bool)
