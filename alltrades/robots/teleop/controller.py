"""A person as a robot's controller, alone or in a policy's place."""

from __future__ import annotations

from typing import Any

import numpy as np

from alltrades.data.actions import few
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller, RobotController
from alltrades.robots.teleop.drive import Drive
from alltrades.robots.teleop.leader import Leader
from alltrades.system.blame import blame


class HandController(RobotController):
    """Asks the leader at every control step, and where it does nothing the policy. Without one the
    robot then keeps its place: positions stay, velocities rest.

    Args:
        leader, interface: who acts, and in what environment.
        idle: what keeps the place.
        policy: runs while the person does nothing; it sees every step, and plans anew after one
            that the person took.
        by_key: with a policy, the person acts only while `taken`, not by moving the leader.

    Attributes:
        taken: the person has taken over, whether or not the leader moves.
        paused: the robot is to rest meanwhile.
    """

    def __init__(
        self,
        leader: Leader,
        interface: Interface,
        idle: Drive,
        policy: Controller | None = None,
        by_key: bool = False,
    ) -> None:
        self.leader, self.interface, self.policy = leader, interface, policy
        self.taken = self.paused = False
        self._idle, self._by_key = idle, by_key
        self._intervened = False

    @property
    def held(self) -> bool:
        return self.paused or (self.policy is not None and self.policy.held)

    @property
    def refusals(self) -> dict[str, int]:
        return {} if self.policy is None else self.policy.refusals

    @property
    def intervened(self) -> bool | None:
        return None if self.policy is None else self._intervened

    def reset(self, *, environment: str | None = None, seed: int | None = None) -> None:
        self.taken = self.paused = self._intervened = False
        self._idle.reset()
        self.leader.reset()
        if self.policy is not None:
            self.policy.reset(environment=environment, seed=seed)

    def act(self, observation: Any) -> np.ndarray:
        self._idle.begin(observation)
        moved = self._moved(observation)
        if self.paused:  # the loop brings the robot to rest; what was planned does not count
            self._note(self._rest(), False)
            if self.policy is not None:
                self.policy.follow(observation, self._last)
        elif self.policy is None:
            self._note(self._rest() if moved is None else moved, moved is not None)
        elif self.taken or (moved is not None and not self._by_key):
            self._intervened = True
            self._note(self._rest() if moved is None else moved, moved is not None)
            self.policy.follow(observation, self._last)
        else:
            self._intervened = False
            self._note(np.asarray(self.policy.act(observation), np.float32), False)
        return self._last

    def _moved(self, observation: Any) -> np.ndarray | None:
        try:
            given = self.leader.action(observation)
        except UserError:
            raise
        except Exception as error:  # whatever a device raises
            raise UserError(
                f"the leader raised {blame(error)}; expected an action, or None; mend it, or "
                "connect its device again: what was accepted is in the store"
            ) from error
        if given is None:
            return None
        try:
            moved = np.asarray(given, np.float32)
        except (TypeError, ValueError):
            moved = np.empty(0, np.float32)
        if moved.shape != (self.interface.action_dim,) or not np.isfinite(moved).all():
            said = few(moved.ravel().tolist()) if moved.size else type(given).__name__
            raise UserError(
                f"the leader's action is {said}, of shape {moved.shape}; expected "
                f"({self.interface.action_dim},) finite numbers, an action of "
                f"'{self.interface.id}', or None"
            )
        return moved

    def _rest(self) -> np.ndarray:
        return self._idle.move(np.zeros(self.interface.action_dim))

    def _note(self, action: np.ndarray, by_leader: bool) -> None:
        self._last = action
        self._idle.follow(action)
        if not by_leader:
            self.leader.follow(action)

    def close(self) -> None:
        if self.policy is not None:
            self.policy.close()
