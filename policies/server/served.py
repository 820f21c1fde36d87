"""The controller of robots that are elsewhere: what each of them was sent, and what brings it to
rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.chunks import Overlap
from alltrades.policies.control.guard import SLACK
from alltrades.policies.control.guards import Guard
from alltrades.policies.control.lanes import BATCH, Lanes


class ServedController(Lanes):
    """A controller with one lane per robot, of which it sees what they ask and not what they
    execute.

    Without an overlap a lane executes all actions of its plan, and the guard knows the last two of
    them. With one it gets the whole horizon and executes an unknown number of them. The rate limit
    of its next chunk then begins

    - at `known[0]`, which is what it executes now. It must be where the rate limit can have brought
      the robot from the
      first action of the last chunk within one horizon (see `check`);
    - where nothing is known, at that action of the last chunk which is nearest.

    Acceleration is left to whoever executes such a chunk, who alone knows what was executed before.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int = 1,
        guard: Guard = True,
        batch: int = BATCH,
    ) -> None:
        super().__init__(policy, lanes, guard, batch)
        self.unfinite = 0  # chunks of the last plan with numbers that are not finite
        self._sent: list[np.ndarray | None] = [None] * lanes  # last chunk handed out, (k, A_env)

    def begin(self, lane: int, environment: str, seed: int, goes_on: bool = False) -> None:
        """Start an episode in one lane; with `goes_on` the robot is where it was: what it was sent
        is not forgotten.
        """
        memory = self.states[lane].last, self._sent[lane]
        super().begin(lane, environment, seed)
        self._sent[lane] = None
        if goes_on:
            self.states[lane].last, self._sent[lane] = memory

    def plan(
        self, frames: Mapping[int, Observation], overlaps: Mapping[int, Overlap] | None = None
    ) -> dict[int, np.ndarray]:
        """Next actions (n_action_steps, action_dim of its environment) of the lanes that ask; a
        lane with an overlap gets the whole horizon. `frames` as of `Controller.plan`, which were
        checked already.
        """
        overlaps = overlaps or {}
        for lane, new in frames.items():
            self.states[lane].push(new)
        chunks = self.source.chunks(
            [self.states[lane] for lane in frames], [overlaps.get(lane) for lane in frames]
        )
        self.unfinite = sum(not np.isfinite(chunk).all() for chunk in chunks)
        return {
            lane: self._chosen(lane, chunk, overlaps.get(lane))
            for lane, chunk in zip(frames, chunks)
        }

    def _chosen(self, lane: int, chunk: np.ndarray, overlap: Overlap | None) -> np.ndarray:
        """What is sent of a new chunk (horizon, A_env), guarded."""
        state = self.states[lane]
        before = self._before(lane, chunk[0])
        if overlap is None:
            state.last = before
            out = self.leave(lane, chunk[: self.policy.n_action_steps])
        else:
            known = overlap.known[:1]
            guard = self.guards.of(state.environment, acceleration=False)
            out = self.guards.apply(lane, guard, chunk, known if len(known) else before)
            state.last = None
        self._sent[lane] = out
        return out

    def check(self, lane: int, known: np.ndarray) -> None:
        """Raise UserError where a robot cannot have come to `known[0]`, which it says it executes
        now, within the rate limit.
        """
        sent, guard = self._sent[lane], self.guards.of(self.environment(lane))
        if sent is None or not len(known) or guard is None or guard.rate is None:
            return
        steps = (
            self.policy.horizon + 1
        )  # the first action of the last chunk may itself be one step from what was known then
        far = np.abs(np.clip(known[0], guard.low, guard.high) - sent[0]) > (
            steps * guard.rate * (1 + SLACK)
        )
        if far.any():
            i = int(np.argmax(far))
            raise UserError(
                f"'known' begins with {known[0][i]:.6g} in dimension {i} and the last reply with "
                f"{sent[0][i]:.6g}; expected no more than {steps} steps of {guard.rate[i]:.6g} "
                "between; send what is executed, or reset"
            )

    def can_hold(
        self, lane: int, info: Interface, overlap: Overlap | None, remembers: bool
    ) -> bool:
        """Whether `hold` knows what to send; `remembers` says whether the lane's last actions will
        still be known by then.
        """
        whole = info.action.stop is not None and None not in info.action.stop
        return (
            whole
            or (overlap is not None and len(overlap.known) > 0)
            or (remembers and self._executed(lane) is not None)
        )

    def hold(self, lane: int, overlap: Overlap | None = None) -> np.ndarray:
        """In place of a plan, of the same shape: actions that bring a lane to rest, where
        `can_hold`.

        They lead to the stop action of its environment along the guard's limits, or repeat its last
        action in dimensions (or environments) that declare none. An asynchronous robot first
        executes what it has frozen. Nothing is counted as refused: the way to rest is no fault of
        the policy.
        """
        info = self.environment(lane)
        dims = info.action_dim
        frozen, last = np.zeros((0, dims), np.float32), self._executed(lane)
        if overlap is not None and len(overlap.known):
            frozen = overlap.known[: max(1, int((overlap.keep == 1).cumprod().sum()))]
            last = frozen[:1]
        end = frozen[-1] if len(frozen) else None if last is None else last[-1]
        stop = [None] * dims if info.action.stop is None else info.action.stop
        rest = np.array([v if v is not None else end[i] for i, v in enumerate(stop)], np.float32)  # type: ignore[index]
        length = self.policy.n_action_steps if overlap is None else self.policy.horizon
        actions = np.concatenate([frozen, np.repeat(rest[None], length - len(frozen), axis=0)])
        guard = self.guards.of(self.environment(lane), acceleration=overlap is None)
        out = actions if guard is None else guard.preview(actions, last)
        self.states[lane].last, self._sent[lane] = out[-2:] if overlap is None else None, out
        return out

    def _executed(self, lane: int) -> np.ndarray | None:
        """What the lane will have executed last, (1 or 2, A_env): a robot that executes an unknown
        number, as many as a synchronous one.
        """
        last, sent = self.states[lane].last, self._sent[lane]
        return last if last is not None or sent is None else sent[: self.policy.n_action_steps][-2:]

    def _before(self, lane: int, first: np.ndarray) -> np.ndarray | None:
        """Where the limits of a chunk with the first action `first` begin, (1 or 2, A_env); None
        where nothing is known.
        """
        last, sent, guard = (
            self.states[lane].last,
            self._sent[lane],
            self.guards.of(self.environment(lane)),
        )
        if (
            last is not None
            or sent is None
            or guard is None
            or guard.rate is None
            or not np.isfinite(first).all()
        ):
            return self._executed(lane)
        steps = (np.abs(first - sent) / guard.rate).max(axis=1)  # (k,) from each to the first one
        return sent[int(np.argmin(steps))][None]
