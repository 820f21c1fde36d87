"""Runs a policy in many lanes at once, one chunk after another: for evaluation and for robots that
can wait for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.execution import Execution
from alltrades.policies.control.guards import Guard
from alltrades.policies.control.lanes import BATCH, Given, Lanes


class RobotController(ABC):
    """What decides for one robot: `Controller` and `RealTimeController` with one lane, or a class
    of your own.

    Attributes:
        stopped: (lanes,) bool: lanes that got no action for too long and stay stopped until
            `reset`; their loop should end.
        held: the operator of the policy's server holds the robots.
        refusals: actions that were replaced so far, by reason.
    """

    @property
    def stopped(self) -> np.ndarray:
        return np.zeros(1, dtype=bool)

    @property
    def held(self) -> bool:
        return False

    @property
    def refusals(self) -> dict[str, int]:
        return {}

    @property
    def intervened(self) -> bool | None:
        """Whether the last action was a person's, in a policy's place; None where no person can
        act.
        """
        return None

    @abstractmethod
    def reset(self, *, environment: str | None = None, seed: int | None = None) -> None:
        """Start an episode."""

    @abstractmethod
    def act(self, observation: Any) -> np.ndarray:
        """One control step: observation {field: value} -> (action_dim,) of the environment."""

    def statistics(self) -> dict[str, Any] | None:
        """What became of chunks that were drawn in the background; None where none are."""
        return None

    def close(self) -> None:  # noqa: B027
        """End what runs in the background."""


class Controller(Lanes, RobotController):
    """Synchronous: a lane whose actions are used up waits for its next chunk.

    Simulation: `begin(lane, ...)`, then `plan` with the new frames of the lanes that need a chunk.
    Deployment: `reset(...)`, then `act` at every control step.

    Args:
        policy, lanes, guard, batch: see `Lanes`.
        execution: what of each chunk is executed; by default its first `n_action_steps`. See
            `Ensembling`, `Exploration`.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        lanes: int = 1,
        guard: Guard = True,
        batch: int = BATCH,
        execution: Execution | None = None,
    ) -> None:
        super().__init__(policy, lanes, guard, batch)
        self.execution = execution or Execution()
        self.execution.check(policy)

    def noise_seed(self, seed: int) -> int:
        return self.execution.noise_seed(seed)

    def begin(self, lane: int, environment: str, seed: int) -> None:
        super().begin(lane, environment, seed)
        self.execution.begin(lane, self.environment(lane), seed)

    # ---- simulation ------------------------------------------------------------------------------
    def plan(self, frames: Mapping[int, Any]) -> dict[int, np.ndarray]:
        """Next actions of the lanes that ask.

        Args:
            frames: per lane {field: (k, *shape), or the text}, k >= 1: observations since its last
                plan, oldest first; where the only field is a state also (k, D).

        Returns per lane (n_action_steps, action_dim of its environment) float32 in environment
        units, guarded. The history before an episode's first frame is that frame, as in training.
        """
        frames = self.frames(frames)
        for lane, new in frames.items():
            self.states[lane].push(new)
        proposed = self._propose(list(frames))
        return {lane: self.leave(lane, actions) for lane, actions in proposed.items()}

    def _propose(self, lanes: Sequence[int]) -> dict[int, np.ndarray]:
        """The actions that each lane is to execute, not guarded yet."""
        chunks = self.source.chunks([self.states[lane] for lane in lanes], [None] * len(lanes))
        return {
            lane: self.execution.actions(lane, chunk, self.policy)
            for lane, chunk in zip(lanes, chunks)
        }

    def follow(self, observation: Any, action: np.ndarray) -> None:
        """One control step of one lane at which somebody else acts (A,): the observation joins the
        history, limits count from the action, and what was planned is dropped.
        """
        for lane, row in self.observed(observation).items():
            state = self.states[lane]
            state.look(row)
            state.queue.clear()
            state.executed(np.asarray(action, np.float32)[None])
            assert state.seed is not None  # `observed` begins a lane that has not
            self.execution.begin(lane, state.environment, state.seed)

    # ---- deployment ------------------------------------------------------------------------------
    def act(self, observation: Given) -> Any:
        """One control step; the answer has the form of the question and each environment's own
        number of dimensions A, float32:

        - an observation {field: value}, or the numbers (D,) of an only state -> (A,)
        - {lane: observation} for some lanes -> {lane: (A,)}
        - numbers (lanes, D) of all lanes -> (lanes, A)

        A lane plans when its queue of actions is empty. A lane that was never reset starts by
        itself when the policy has one environment. Raises UserError for what does not fit, and for
        rows of lanes whose environments differ in A; nothing has been used then.
        """
        rows = self.observed(observation)  # all are checked before any is used
        for lane, row in rows.items():
            self.states[lane].look(row)
        asking = [lane for lane in rows if not self.states[lane].queue]
        if asking:
            for lane, actions in self._propose(asking).items():
                self.states[lane].queue = list(actions[::-1])
        return self.answered(
            observation,
            {lane: self.leave(lane, self.states[lane].queue.pop()[None])[0] for lane in rows},
        )
