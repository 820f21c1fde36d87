"""Policies to deploy, and a robot with bad sensors that writes down what it was told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades.envs import registry
from alltrades.policies.onnx.export import export_onnx
from alltrades.policies.settings import PolicySettings
from tests.policies.toys import info, make_policy

SETTINGS = PolicySettings(
    n_obs_steps=2, horizon=8, n_action_steps=4, width=32, depth=1, embedding=4, sampling_steps=3
)

# A robot whose sensor does everything wrong; what it sent and was told is written when it is
# closed.
BAD_ROBOT = """
import json, os, signal, time
import numpy as np
from alltrades.envs.robots import ActionSpec, Reading

class {name}:
    limits = ActionSpec((-1, -1), (1, 1), stop=(0, 0))
    control_hz = 10
    silent_after, signal_at = {silent_after}, {signal_at}

    def __init__(self):
        self.log, self.count, self.acts, self.old = [], 0, 0, None

    def reset(self, seed):
        self.log.append(["reset", seed])

    def observe(self):
        tick = self.count
        self.count += 1
        fresh = Reading(np.array([tick, 0.5, -0.5], np.float32), stamp=tick)
        if tick >= self.silent_after or tick % 7 == 2:
            return self.note("dropped", None)
        if tick % 7 == 4:
            return self.note("repeated", self.old)
        if tick % 7 == 5 and tick > 7:
            old = Reading(np.array([tick - 6, 9, 9], np.float32), stamp=tick - 6)
            return self.note("late", old)
        if tick % 7 == 6:
            time.sleep(0.03)  # longer than two periods at 100 Hz
        self.old = fresh
        return self.note("new", fresh)

    def note(self, kind, reading):
        self.log.append([kind, self.count - 1])
        return reading

    def act(self, action):
        self.log.append(["act", [float(a) for a in action]])
        self.acts += 1
        if self.acts == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        with open("{name}.json", "w") as file:
            json.dump(self.log, file)
"""


def make_artifacts(folder: Path) -> Path:
    """`toy`, for an environment of 3 observations and 2 actions; `planar`, for three environments;
    each exported, too.
    """
    names = ["planar/reach", "planar/push", "gym:Pendulum-v1"]
    for name, infos in (
        ("toy", [info("toy")]),
        ("planar", [registry.get(n).interface for n in names]),
    ):
        policy = make_policy(infos, SETTINGS)
        with (
            torch.no_grad()
        ):  # last layers may start at zero, where an output would not depend on its input
            for parameter in policy.parameters():
                parameter.add_(
                    0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
        policy.save(folder / name)
        export_onnx(policy, folder / f"{name}.onnx")
    return folder


def bad_robot(folder: Path, name: str, silent_after: int = 10**9, signal_at: int = -1) -> str:
    (folder / f"{name.lower()}.py").write_text(
        BAD_ROBOT.format(name=name, silent_after=silent_after, signal_at=signal_at)
    )
    return f"{name.lower()}:{name}"


def log_of(folder: Path, name: str) -> list:
    return json.loads((folder / f"{name}.json").read_text())


GOOD_ROBOT = """
import json, os, signal, time
import numpy as np
from alltrades.envs.robots import ActionSpec, Reading

class {name}:
    limits = ActionSpec((-1, -1), (1, 1), rate=(1, 1), stop=(0, 0))
    control_hz = 10
    signals = {signals}  # by the number of observations, and of actions

    def __init__(self):
        self.acts, self.count = [], 0

    def observe(self):
        self.count += 1
        self.kill("observe", self.count)
        return Reading(np.array([self.count / 100, 0.5, -0.5], np.float32), stamp=self.count)

    def act(self, action):
        self.acts.append([float(a) for a in action])
        self.kill("act", len(self.acts))

    def kill(self, method, count):
        for number in self.signals.get((method, count), []):
            os.kill(os.getpid(), number)

    def close(self):
        self.kill("close", 0)
        with open("{name}.json", "w") as file:
            json.dump(self.acts, file)
"""


def good_robot(folder: Path, name: str, signals: dict[tuple[str, int], list[int]]) -> str:
    plain = {key: [int(number) for number in numbers] for key, numbers in signals.items()}
    (folder / f"{name.lower()}.py").write_text(GOOD_ROBOT.format(name=name, signals=plain))
    return f"{name.lower()}:{name}"
