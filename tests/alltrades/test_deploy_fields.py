"""A policy of two cameras, a state and an instruction on a robot that is a Gymnasium environment:
in-process, exported and served.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")

from alltrades import cli
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.policies.control.controller import Controller
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.onnx.export import export_onnx
from alltrades.policies.settings import PolicySettings
from tests.policies.serving import running

MODULE = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Dot(gymnasium.Env):
    observation_space = spaces.Dict({
        "state": spaces.Box(-2, 2, (2,), np.float32),
        "images.front": spaces.Box(0, 255, (12, 16, 3), np.uint8),
        "images.wrist": spaces.Box(0, 65535, (8, 8, 1), np.uint16),
        "instruction": spaces.Text(40),
    })
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.goal = ("left", "right")[self.np_random.integers(2)]
        return self.seen(), {}

    def seen(self):
        front = np.zeros((12, 16, 3), np.uint8)
        front[int(6 + 5 * self.at[0]), int(8 + 7 * self.at[1])] = 255
        wrist = np.full((8, 8, 1), int(1000 * (2 + self.at[0])), np.uint16)
        said = f"go {self.goal} \\u2615"
        return {"state": self.at, "images.front": front, "images.wrist": wrist, "instruction": said}

    def step(self, action):
        self.at = np.clip(self.at + 0.1 * action, -1, 1).astype(np.float32)
        return self.seen(), 0.0, False, False, {"success": False}

gymnasium.register("Dot-v0", Dot, max_episode_steps=12)
"""
ROBOT = "gym:dots_of_a_test:Dot-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dots")
    (folder / "dots_of_a_test.py").write_text(MODULE)
    return folder


@pytest.fixture
def policy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DiffusionPolicy:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    info = registry.get(ROBOT).interface
    normalizer = Normalizer(Layout([info]))
    normalizer.fitted.fill_(1)
    torch.manual_seed(0)
    settings = PolicySettings(
        n_obs_steps=2, horizon=8, n_action_steps=4, width=32, depth=1, sampling_steps=3
    )
    policy = DiffusionPolicy(settings, [info], normalizer)
    with torch.no_grad():  # last layers may start at zero
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.eval()


def deploy(artifact: str, out: str) -> None:
    words = ["deploy", artifact, "--robot", ROBOT, "--fast", "--episodes", "2", "--timeout", "20"]
    words += ["--record", f"{out}.zarr", "--json", f"{out}.json"]
    assert cli.main(words) == 0
    assert json.loads(Path(f"{out}.json").read_text())["error"] is None


def test_deployed_in_process_exported_and_served_it_does_what_a_rollout_does(
    policy: DiffusionPolicy,
) -> None:
    policy.save("p")
    export_onnx(policy, "p.onnx")
    deploy("p", "torch")
    deploy("p.onnx", "onnx")
    with running(policy, batch=1, rate_limit=0) as server:
        deploy(f"ws://127.0.0.1:{server.port}", "served")
    spec = registry.get(ROBOT)
    seeds = [episode_seed(0, "deploy", ROBOT, i) for i in range(2)]
    jobs = [Job(ROBOT, seed, "p") for seed in seeds]
    want = list(rollout(jobs, {ROBOT: spec}, {"p": Controller(policy)}, lanes=1))
    for name in ("torch", "onnx", "served"):
        store = EpisodeStore.open(f"{name}.zarr")
        assert store.interfaces() == {ROBOT: spec.interface}
        for mine, other in zip(store.episodes(), want, strict=True):
            assert len(mine) == len(other) == 12 and mine.seed == other.seed
            exact = name != "onnx"
            np.testing.assert_allclose(mine.actions, other.actions, atol=0 if exact else 1e-4)
            assert set(mine.observations) == set(spec.observation)
            for field, values in mine.observations.items():
                theirs = other.observations[field]
                if isinstance(values, str) or isinstance(theirs, str):
                    assert values == theirs and str(values).endswith("☕")
                    continue
                assert values.dtype == theirs.dtype
                if exact:
                    np.testing.assert_array_equal(values, theirs)


def test_a_policy_that_sees_the_cameras_alone_records_the_rest_as_well(
    policy: DiffusionPolicy,
) -> None:
    settings = policy.settings.model_copy(update={"observe": ("images.*",)})
    info = registry.get(ROBOT).interface
    normalizer = Normalizer(Layout([info.seeing(settings.observe)]))
    normalizer.fitted.fill_(1)
    seeing = DiffusionPolicy(settings, [info], normalizer)
    assert set(seeing.environments[0].observation) == {"images.front", "images.wrist"}
    seeing.save("cameras")
    deploy("cameras", "cameras")
    store = EpisodeStore.open("cameras.zarr")
    assert store.interfaces() == {ROBOT: info}
    assert set(store.episode(0).observations) == set(info.observation)
