"""A registered or Gymnasium environment as a robot: time stands still between two actions."""

from __future__ import annotations

import numpy as np

from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.robots.robot import Outcome, Reading, RobotLimits
from alltrades.envs.spec import EnvSpec


class EnvironmentRobot:
    """One step of the environment per action; an episode is that of a rollout with the same seed
    and actions.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec, self.environment = spec, spec.id
        self.limits = RobotLimits(
            spec.action_low,
            spec.action_high,
            spec.control_hz,
            spec.max_action_rate,
            spec.max_action_acceleration,
        )
        self.waits = True
        self._adapter = EnvAdapter(spec)
        self._observation = np.zeros(spec.obs_dim, np.float32)
        self._outcome = Outcome()
        self._stamp = 0

    def reset(self, seed: int) -> None:
        self._observation, self._outcome = self._adapter.reset(seed), Outcome()
        self._stamp += 1

    def observe(self) -> Reading:
        return Reading(self._observation, self._stamp)

    def act(self, action: np.ndarray) -> None:
        result = self._adapter.step(action)
        self._observation, self._outcome = (
            result.observation,
            Outcome(result.reward, result.success, result.done),
        )
        self._stamp += 1

    def outcome(self) -> Outcome:
        return self._outcome

    def close(self) -> None:
        self._adapter.close()
