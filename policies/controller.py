"""Runs a policy in many lanes at once: history, chunk queue, noise and guard of each; for evaluation and deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from alltrades.data.errors import UserError
from alltrades.envs.seeding import policy_generator
from alltrades.policies.guard import REASONS, ActionGuard
from alltrades.policies.limits import Limits

BATCH = 8


class ActingPolicy(Protocol):
    """What a controller needs of a policy; `DiffusionPolicy` and `OnnxPolicy` have it.

    `draws` is the number of standard normal arrays (horizon, action_dim) that a row of `act` uses.
    """

    environments: tuple[Any, ...]
    history: int
    horizon: int
    draws: int
    execute: int
    obs_dim: int
    action_dim: int

    def act(self, window: np.ndarray, environment: np.ndarray, noise: np.ndarray, known: np.ndarray | None = None,
            keep: np.ndarray | None = None) -> np.ndarray: ...

    def environment_index(self, env_id: str) -> int: ...


class Controller:
    """One policy, `lanes` independent episodes.

    The policy is always called with `batch` rows, padded where fewer lanes ask, several times where more do: results of a
    matrix product may depend on the batch size in the last bit, and an episode must not depend on its neighbours. Each lane
    has its own noise generator, which advances only when the lane asks.

    Simulation: `begin(lane, ...)`, then `plan` with the new frames of the lanes that need a chunk. Deployment:
    `reset(...)`, then `act` at every control step.

    Args:
        policy: moves to evaluation mode where it has one.
        lanes: independent episodes.
        batch: rows of every policy call, at most `lanes`. Small enough that a few lanes do not pay for all, large enough to
            share the reading of the weights.
        guard: True for the action box (with rate and acceleration, where they are defined) of each environment, limits by
            environment id (see `read_limits`), False for none, or one guard that holds for every environment.
    """

    def __init__(self, policy: ActingPolicy, lanes: int = 1, guard: bool | ActionGuard | Mapping[str, Limits] = True,
                 batch: int = BATCH) -> None:
        if lanes < 1 or batch < 1:
            raise ValueError(f"lanes = {lanes}, batch = {batch}; expected at least 1")
        self.policy, self.lanes, self.batch = policy, lanes, min(batch, lanes)
        if hasattr(policy, "eval"):  # a torch module, without importing torch
            policy.eval()
        self._shared = guard if isinstance(guard, ActionGuard) else None
        self._limits = guard if isinstance(guard, Mapping) else None
        self._guarded = guard is not False
        self._guards: dict[int, ActionGuard] = {}
        self._window = np.zeros((lanes, policy.history, policy.obs_dim), dtype=np.float32)
        self._environment = np.zeros(lanes, dtype=np.int64)
        self._generators = [np.random.default_rng(0)] * lanes  # of the lane's episode, from `begin` on
        self._begun = [False] * lanes
        self._seen = [False] * lanes  # a frame of this episode is in the window
        self._obs_dims, self._action_dims = [0] * lanes, [0] * lanes
        self._last: list[np.ndarray | None] = [None] * lanes  # last two actions handed out, (1 or 2, A_env)
        self._queues: list[list[np.ndarray]] = [[] for _ in range(lanes)]  # of act(), next action last
        self._frames: list[list[np.ndarray]] = [[] for _ in range(lanes)]  # of act(), since the last plan
        self._seeds = [-1] * lanes

    # ---- simulation ----------------------------------------------------------------------------------------------
    def begin(self, lane: int, environment: str, seed: int) -> None:
        """Start an episode in one lane: empty history and queue, noise from the episode's seed.

        Raises UserError for an environment that the policy does not know.
        """
        index = self.policy.environment_index(environment)
        info = self.policy.environments[index]
        self._environment[lane] = index
        self._obs_dims[lane], self._action_dims[lane] = info.obs_dim, info.action_dim
        self._generators[lane] = policy_generator(seed)
        self._window[lane] = 0.0
        self._begun[lane], self._seen[lane], self._last[lane] = True, False, None
        self._queues[lane].clear()
        self._frames[lane].clear()
        self._seeds[lane] = seed

    def plan(self, frames: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Next actions of the lanes that ask.

        Args:
            frames: per lane (k, obs_dim of its environment), k >= 1: observations since its last plan, oldest first.

        Returns per lane (execute, action_dim of its environment) float32 in environment units, guarded. The history
        before an episode's first frame is that frame, as in training.
        """
        arrays = {lane: np.asarray(new, dtype=np.float32) for lane, new in frames.items()}
        return {lane: self._leave(lane, actions) for lane, actions in self._propose(arrays).items()}

    def _propose(self, arrays: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Checks and pushes the frames, calls the policy: per lane (execute, A_env), not guarded yet."""
        for lane, new in arrays.items():
            self._check(lane, new)
        for lane, new in arrays.items():
            self._push(lane, new)
        out: dict[int, np.ndarray] = {}
        asking = list(arrays)
        for start in range(0, len(asking), self.batch):
            lanes = asking[start: start + self.batch]
            for lane, actions in zip(lanes, self._call(lanes)):
                out[lane] = actions[:, : self._action_dims[lane]].copy()  # (execute, A_env)
        return out

    def _leave(self, lane: int, actions: np.ndarray) -> np.ndarray:
        """The only way out: actions (k, A_env) that are executed next, one after another, through the lane's guard."""
        if self._guarded:
            actions = self._guard(int(self._environment[lane]))(actions, self._last[lane])
        last = self._last[lane]
        self._last[lane] = actions[-2:] if last is None or len(actions) > 1 else np.concatenate([last[-1:], actions])
        return actions

    def _call(self, lanes: list[int]) -> np.ndarray:
        """One policy call for at most `batch` lanes -> (batch, execute, A); rows beyond the lanes repeat the first."""
        rows = lanes + [lanes[0]] * (self.batch - len(lanes))
        chunk = self.policy.act(self._window[rows], self._environment[rows], self._noise(lanes))  # (batch, horizon, A)
        return chunk[:, : self.policy.execute]

    def _noise(self, lanes: list[int]) -> np.ndarray:
        """(batch, draws, horizon, A) float32, each row from its lane's generator; zero in rows beyond the lanes."""
        shape = (self.policy.draws, self.policy.horizon, self.policy.action_dim)
        noise = np.zeros((self.batch, *shape), dtype=np.float32)
        for row, lane in enumerate(lanes):
            self._generators[lane].standard_normal(dtype=np.float32, out=noise[row])
        return noise

    def _check(self, lane: int, new: np.ndarray) -> None:
        if not 0 <= lane < self.lanes or not self._begun[lane]:
            raise UserError(f"lane {lane} has no episode; expected one of {self.lanes} lanes after begin() or reset()")
        dim = self._obs_dims[lane]
        if new.ndim != 2 or new.shape[1] != dim or not len(new):
            name = self.policy.environments[self._environment[lane]].id
            raise UserError(f"observations of shape {new.shape} in lane {lane}; expected (k, {dim}) with k >= 1 for "
                            f"'{name}'; check the environment id and what the observation holds")

    def _push(self, lane: int, new: np.ndarray) -> None:
        window = self._window[lane, :, : self._obs_dims[lane]]  # (history, D_env), a view
        if not self._seen[lane]:
            window[:] = new[0]
            self._seen[lane] = True
        history = len(window)
        if len(new) < history:
            window[: history - len(new)] = window[len(new):].copy()
            window[history - len(new):] = new
        else:
            window[:] = new[-history:]

    def _guard(self, index: int) -> ActionGuard:
        if self._shared is not None:
            return self._shared
        if index not in self._guards:
            info = self.policy.environments[index]
            limits = Limits.of(info) if self._limits is None else self._limits[info.id]
            self._guards[index] = ActionGuard(limits.low, limits.high, limits.rate, limits.acceleration)
        return self._guards[index]

    @property
    def refusals(self) -> dict[str, int]:
        """Actions replaced so far, by reason, over all environments."""
        guards = list(self._guards.values()) if self._shared is None else [self._shared]
        return {reason: sum(g.refusals[reason] for g in guards) for reason in REASONS}

    # ---- deployment ----------------------------------------------------------------------------------------------
    def reset(self, mask: np.ndarray | Sequence[bool] | None = None, *, environment: str | Sequence[str] | None = None,
              seed: int | Sequence[int] | None = None) -> None:
        """Forget history, queue and last action of the lanes in `mask` (lanes,), or of all of them.

        Args:
            environment: id for those lanes, or one for each of all lanes; default: the lane's current one, or the
                policy's only one.
            seed: lane i starts from seed + i, or from its own entry; default: a seed that the lane has not used.

        Raises UserError where the environment is unknown or missing.
        """
        chosen = np.ones(self.lanes, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if chosen.shape != (self.lanes,):
            raise UserError(f"reset mask of shape {chosen.shape}; expected ({self.lanes},), one entry per lane")
        for name, value in (("environment", environment), ("seed", seed)):
            if isinstance(value, Sequence) and not isinstance(value, str) and len(value) != self.lanes:
                raise UserError(f"{len(value)} entries of {name}; expected {self.lanes}, one per lane")
        for lane in map(int, np.flatnonzero(chosen)):
            named = environment if isinstance(environment, str) or environment is None else environment[lane]
            if seed is None:  # steps of `lanes`: two lanes that count on from the first do not meet
                start = lane if self._seeds[lane] < 0 else self._seeds[lane] + self.lanes
            else:
                start = seed + lane if isinstance(seed, (int, np.integer)) else seed[lane]
            self.begin(lane, named or self._default(lane), int(start))

    def _default(self, lane: int) -> str:
        if self._begun[lane]:
            return self.policy.environments[self._environment[lane]].id
        if len(self.policy.environments) > 1:
            known = ", ".join(e.id for e in self.policy.environments[:12])
            raise UserError(f"no environment given and the policy knows {len(self.policy.environments)}; "
                            f"expected one of {known}; call reset(environment=...)")
        return self.policy.environments[0].id

    def act(self, observation: np.ndarray | Mapping[int, np.ndarray]) -> np.ndarray:
        """One control step: observation (lanes, obs_dim), or lane -> (obs_dim,) for some lanes, -> (lanes, action_dim).

        A lane plans when its queue of actions is empty. Rows of lanes that were not given, and dimensions that an
        environment does not have, are 0. A lane that was never reset starts by itself when the policy has one
        environment.
        """
        items = observation if isinstance(observation, Mapping) else dict(enumerate(self._rows(observation)))
        rows = {lane: self._row(lane, row) for lane, row in items.items()}  # all are checked before any is used
        asking: dict[int, np.ndarray] = {}
        for lane, row in rows.items():
            self._frames[lane].append(row)
            if not self._queues[lane]:
                asking[lane] = np.stack(self._frames[lane])
        if asking:
            for lane, actions in self._propose(asking).items():
                self._queues[lane] = list(actions[::-1])
                self._frames[lane].clear()
        out = np.zeros((self.lanes, self.policy.action_dim), dtype=np.float32)
        for lane in rows:
            action = self._leave(lane, self._queues[lane].pop()[None])[0]
            out[lane, : len(action)] = action
        return out

    def _rows(self, observation: np.ndarray) -> np.ndarray:
        rows = np.asarray(observation, dtype=np.float32)
        if rows.ndim == 1 and self.lanes == 1:
            rows = rows[None]
        if rows.ndim != 2 or len(rows) != self.lanes:
            raise UserError(f"observation of shape {rows.shape}; expected ({self.lanes}, obs_dim), one row per lane")
        return rows

    def _row(self, lane: int, row: np.ndarray) -> np.ndarray:
        if 0 <= lane < self.lanes and not self._begun[lane]:
            self.reset(np.arange(self.lanes) == lane)
        row = np.array(row, dtype=np.float32)  # a copy: the caller may reuse its buffer
        if row.shape == (self.policy.obs_dim,) and 0 <= lane < self.lanes:
            row = row[: self._obs_dims[lane]]  # zero-padded to the largest environment
        self._check(lane, row[None])
        return row
