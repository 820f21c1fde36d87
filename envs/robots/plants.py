"""MuJoCo models that can be stepped in real time: a planar environment, or any MJCF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.envs.robots.robot import Outcome
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError

HEIGHT, WIDTH = 480, 640  # of a picture of an MJCF model; its offscreen buffer is no smaller


class Plant(Protocol):
    """Physics of which the time passes on request.

    timestep: seconds of one physics step. substeps: physics steps after which a held action is
    commanded anew, and the outcome is looked at. max_steps: physics steps of an episode, or None.
    environment: its id, or None. limits, control_hz: see `Robot`. `look` returns what
    `Robot.observe` may, and the outcome; `picture` what `Robot.picture` may.
    """

    limits: ActionSpec
    control_hz: float | None
    timestep: float
    substeps: int
    max_steps: int | None
    environment: str | None

    def reset(self, seed: int) -> None: ...

    def command(self, action: np.ndarray) -> None: ...

    def advance(self, steps: int) -> None: ...

    def look(self) -> tuple[Any, Outcome]: ...

    def picture(self) -> np.ndarray | None: ...

    def close(self) -> None: ...


class PlanarPlant:
    """A task of the planar family: the action is a velocity command of the effector, and zero stops
    it.

    Raises UserError for an environment that is not of the family.
    """

    def __init__(self, spec: EnvSpec) -> None:
        from alltrades.envs.planar.env import PlanarEnv
        from alltrades.envs.planar.model import SUBSTEPS, TIMESTEP

        env = spec.build()
        if not isinstance(env, PlanarEnv):
            env.close()
            raise UserError(
                f"mujoco:{spec.id}: cannot be stepped in real time; expected a planar environment "
                f"or an MJCF file; use env:{spec.id}"
            )
        self._env = env
        self.environment: str | None = spec.id
        self.limits = spec.action
        self.control_hz: float | None = spec.control_hz
        self.timestep, self.substeps = TIMESTEP, SUBSTEPS
        self.max_steps: int | None = spec.max_steps and spec.max_steps * SUBSTEPS

    def reset(self, seed: int) -> None:
        self._env.reset(seed=seed)

    def command(self, action: np.ndarray) -> None:
        self._env.command(action)

    def advance(self, steps: int) -> None:
        self._env.advance(steps)

    def look(self) -> tuple[np.ndarray, Outcome]:
        observation, reward, info = self._env.look()
        return observation, Outcome(reward, bool(info["success"]))

    def picture(self) -> np.ndarray:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


class MjcfPlant:
    """A model from an MJCF file: the action is `ctrl`, the observation `sensordata`, or qpos and
    qvel without sensors.

    The box is that of the actuators' ctrlrange. An episode starts at the first keyframe, where
    there is one. Zero stops an actuator, but a position servo holds its last action.

    Raises UserError for a file that MuJoCo cannot read, or an actuator without a range.
    """

    environment: str | None = None
    control_hz: float | None = None
    max_steps: int | None = None
    substeps = 10

    def __init__(self, path: Path | str) -> None:
        import mujoco

        self._mujoco: Any = mujoco
        try:
            self.model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise UserError(
                f"{path}: MuJoCo cannot read it ({str(error)[:200]}); expected an MJCF file"
            ) from error
        m = self.model
        if m.nu == 0 or not m.actuator_ctrllimited.all():
            raise UserError(
                f"{path}: {m.nu} actuators, {int(m.actuator_ctrllimited.sum())} with a ctrlrange; "
                "expected at least one, and a ctrlrange for each"
            )
        self.data = mujoco.MjData(m)
        self._renderer: Any = None
        low, high = m.actuator_ctrlrange.T
        holds = (m.actuator_biasprm[:, 1] != 0) | (low > 0) | (high < 0)
        self.limits = ActionSpec(
            low.tolist(), high.tolist(), stop=[None if h else 0.0 for h in holds]
        )
        self.timestep = float(m.opt.timestep)

    def reset(self, seed: int) -> None:
        if self.model.nkey:
            self._mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        else:
            self._mujoco.mj_resetData(self.model, self.data)
        self._mujoco.mj_forward(self.model, self.data)

    def command(self, action: np.ndarray) -> None:
        self.data.ctrl[:] = action

    def advance(self, steps: int) -> None:
        self._mujoco.mj_step(self.model, self.data, steps)

    def look(self) -> tuple[np.ndarray, Outcome]:
        d = self.data
        seen = d.sensordata if self.model.nsensordata else np.concatenate([d.qpos, d.qvel])
        return np.array(seen, dtype=np.float32), Outcome()

    def picture(self) -> np.ndarray:
        """By MuJoCo's free camera; UserError where OpenGL cannot."""
        try:
            if self._renderer is None:
                self._renderer = self._mujoco.Renderer(self.model, HEIGHT, WIDTH)
            self._renderer.update_scene(self.data)
            return self._renderer.render()
        except Exception as error:  # whatever a graphics driver raises
            raise UserError(
                f"the model cannot be drawn: {type(error).__name__}: {error}; expected OpenGL; set "
                "MUJOCO_GL=egl or osmesa"
            ) from error

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
