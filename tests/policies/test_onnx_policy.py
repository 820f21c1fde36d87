"""An exported policy in the controller, where PyTorch cannot be imported, against the policy
itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades.errors import UserError
from alltrades.policies.artifact import contract_digest
from alltrades.policies.control.controller import Controller
from alltrades.policies.onnx.export import export_onnx
from alltrades.policies.onnx.onnx_policy import OnnxPolicy

from .test_export import make_policy

WITHOUT_TORCH = """
import json, sys
for name in ("torch", "pydantic", "zarr", "sklearn", "mujoco", "gymnasium"):
    sys.modules[name] = None  # an import of it raises
import numpy as np
from concurrent.futures import Executor, Future
from alltrades.policies.control.controller import Controller
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from alltrades.policies.control.realtime import RealTimeController
from alltrades.policies.client.remote import RemotePolicy  # only that it can be imported
class Now(Executor):
    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future
policy = OnnxPolicy(sys.argv[1])
if sys.argv[2] == "synchronous":
    controller = Controller(policy, lanes=2)
else:  # without delay and overlap the two are the same
    now = {"executor": Now(), "clock": lambda: 0.0}
    controller = RealTimeController(policy, lanes=2, delay=0.0, overlap=0, **now)
controller.reset(environment=["toy/small", "toy/large"], seed=5)
rows = np.random.default_rng(0).normal(size=(9, 2, 5)).astype(np.float32)
out = [controller.act(dict(enumerate(row))) for row in rows]
print(json.dumps([[o[0].tolist(), o[1].tolist()] for o in out]))
"""


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
@pytest.mark.parametrize(
    "settings", [{}, {"process": "vp", "sampler": "ddpm", "prediction": "noise"}]
)
def test_a_controller_without_torch_gives_the_actions_of_the_policy_for_the_same_seed(
    tmp_path: Path, settings: dict, kind: str
) -> None:
    policy = make_policy(**settings)
    export_onnx(policy, tmp_path / "p.onnx")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "p.onnx"), kind],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    controller = Controller(policy, lanes=2)
    controller.reset(environment=["toy/small", "toy/large"], seed=5)
    rows = np.random.default_rng(0).normal(size=(9, 2, 5)).astype(np.float32)
    want = [controller.act(dict(enumerate(row))) for row in rows]
    got = json.loads(done.stdout)
    for lane, tolerance in ((0, 2e-4), (1, 1e-3)):  # ranges of 2; scales up to 3, ranges of 512
        large = np.array([actions[lane] for actions in want])
        np.testing.assert_allclose([a[lane] for a in got], large, atol=tolerance)
    assert large.shape == (9, 3) and large.std(axis=0).max() > 1e-2


ROBOT = """
import numpy as np
from alltrades.envs.robots import ActionSpec
class Robot:
    limits = ActionSpec((-1, -1), (1, 1), stop=(0, 0))
    def observe(self):
        return np.zeros(2)
    def act(self, action):
        pass
    def close(self):
        pass
"""
DEPLOY = """
import sys
for name in ("torch", "pydantic", "sklearn"):
    sys.modules[name] = None  # an import of it raises
from alltrades.cli import main
sys.exit(main(["deploy", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_robot_is_driven_by_a_server_that_wants_a_token_without_torch(
    tmp_path: Path, mode: str
) -> None:
    pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
    pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")
    from tests.policies import serving

    (tmp_path / "token").write_text("0123456789abcdef-secret\n")
    (tmp_path / "tokenless.py").write_text(ROBOT)
    with serving.running(serving.make_policy(1), token_file=tmp_path / "token") as server:
        words = [
            f"ws://127.0.0.1:{server.port}",
            "--robot",
            "tokenless:Robot",
            "--steps",
            "5",
            "--mode",
            mode,
            "--timeout",
            "20",
            "--token-file",
            "token",
        ]
        done = subprocess.run(
            [sys.executable, "-c", DEPLOY, *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert server.metrics.value("requests", outcome="answered") >= 2
    assert done.returncode == 0, done.stderr
    assert "after 5 steps" in done.stdout


def test_facts_of_the_contract_are_those_of_the_policy(tmp_path: Path) -> None:
    policy = make_policy()
    export_onnx(policy, tmp_path / "p.onnx")
    loaded = OnnxPolicy(tmp_path / "p.onnx")
    for name in ("action_dim", "n_obs_steps", "horizon", "n_action_steps", "draws"):
        assert getattr(loaded, name) == getattr(policy, name)
    assert loaded.digest() == policy.digest()
    assert [vars(e) for e in loaded.environments] == [vars(e) for e in policy.environments]


def write(contract: dict, path: Path) -> None:
    path.write_text(json.dumps(contract | {"digest": contract_digest(contract)}))


def test_a_contract_that_was_changed_is_a_user_error(tmp_path: Path) -> None:
    """Two fields of one size could be exchanged unnoticed, or a bound be widened."""
    export_onnx(make_policy(), tmp_path / "p.onnx")
    contract = json.loads((tmp_path / "p.json").read_text())
    contract["environments"][0]["action"]["high"] = [9.0, 9.0]
    (tmp_path / "p.json").write_text(json.dumps(contract))
    with pytest.raises(UserError, match=r"p\.json: cannot be read \(it was changed"):
        OnnxPolicy(tmp_path / "p.onnx")


def test_files_that_do_not_fit_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        OnnxPolicy(tmp_path / "p.onnx")
    export_onnx(make_policy(), tmp_path / "p.onnx")
    contract = json.loads((tmp_path / "p.json").read_text())
    for change, message in (
        ({"contract_version": 1}, "version 1"),
        ({"horizon": None}, "cannot be read"),
        ({"inputs": {"noise": {"shape": ["batch", 9, 9]}}}, "contract says"),
    ):
        write(contract | change, tmp_path / "p.json")
        with pytest.raises(UserError, match=message):
            OnnxPolicy(tmp_path / "p.onnx")
    (tmp_path / "p.onnx").write_bytes(b"junk")
    write(contract | {"sha256": sha256(b"junk").hexdigest()}, tmp_path / "p.json")
    with pytest.raises(UserError, match="onnxruntime cannot read"):
        OnnxPolicy(tmp_path / "p.onnx")


def test_a_graph_cut_short_or_of_another_export_is_a_user_error(tmp_path: Path) -> None:
    """The other export has the same shapes, as after a crash between the two files of one over
    another.
    """
    graph, other = tmp_path / "p.onnx", tmp_path / "other.onnx"
    export_onnx(make_policy(), graph)
    whole = graph.read_bytes()
    changed = make_policy()
    changed.normalizer.action_mean += 1
    export_onnx(changed, other)
    for data in (whole[:-100], b"", other.read_bytes()):
        graph.write_bytes(data)
        with pytest.raises(UserError, match=r"not the graph that p\.json describes"):
            OnnxPolicy(graph)
    graph.write_bytes(whole)
    OnnxPolicy(graph)


@pytest.mark.parametrize("guard", [True, False])
def test_a_graph_whose_answers_are_not_finite_moves_nothing(tmp_path: Path, guard: bool) -> None:
    """Its guard holds what was executed last; without one nothing is answered."""
    export_onnx(make_policy(), tmp_path / "p.onnx")
    policy = OnnxPolicy(tmp_path / "p.onnx")
    controller = Controller(policy, guard=guard)
    controller.reset(environment="toy/small", seed=5)
    size = policy.environments[policy.environment_index("toy/small")].of_kind("state")["state"]
    frame = np.zeros(size.shape, np.float32)
    last = [controller.act(frame) for _ in range(policy.n_action_steps)][-1]
    session = policy.session
    broken = type("Session", (), {"run": lambda self, *a: [session.run(*a)[0] * np.nan]})()
    policy.session = broken
    if guard:
        np.testing.assert_array_equal(controller.act(frame), last)
        assert controller.refusals["finite"] > 0
    else:
        with pytest.raises(UserError, match="the policy's action is nan in dimension 0 of"):
            controller.act(frame)


def test_a_policy_whose_answers_are_not_finite_is_not_exported(tmp_path: Path) -> None:
    policy = make_policy()
    with np.errstate(invalid="ignore"):
        policy.normalizer.action_mean.fill_(float("nan"))
    with pytest.raises(UserError, match="finite|differ"):
        export_onnx(policy, tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())
