"""A registered or Gymnasium environment as a robot: time stands still between two actions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.checking.declared import declared
from alltrades.envs.checking.findings import Findings
from alltrades.envs.robots.robot import Outcome, Reading, Robot
from alltrades.envs.spec import EnvSpec


class EnvironmentRobot(Robot):
    """One step of the environment per action; an episode is that of a rollout with the same seed
    and actions.
    """

    waits = True

    def __init__(self, spec: EnvSpec) -> None:
        self.environment = spec.id
        self.limits = replace(spec.action, stop=None)  # it waits: nothing has to be stopped
        self.control_hz, self.interface = spec.control_hz, spec.interface
        self._spec, self._adapter = spec, EnvAdapter(spec)
        self._observation: Observation = {}
        self._outcome = Outcome()
        self._stamp = 0

    def look(self) -> Findings:
        """What the environment declares, read from the instance that is used: nothing is reset or
        stepped, and no other instance is built.
        """
        self._adapter.build(0)
        return Findings(self._spec.id, tuple(declared(self._adapter.built, self._spec)))

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

    def picture(self) -> np.ndarray | None:
        return self._adapter.picture()

    def close(self) -> None:
        self._adapter.close()
