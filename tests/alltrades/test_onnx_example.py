"""The example of an exported policy runs with numpy and onnxruntime alone, and both of its ways
give the policy's actions.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades.policies.control.controller import Controller
from alltrades.policies.onnx.export import export_onnx
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from tests.policies.test_export import make_policy

EXAMPLE = Path(__file__).parents[2] / "notebooks" / "onnx_controller.py"
NOTHING_ELSE = """
import runpy, sys
allowed = {*sys.stdlib_module_names, *sys.argv[1].split(",")}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(packages: str, *words: str) -> subprocess.CompletedProcess:
    """The example where only the standard library and `packages` can be imported."""
    command = [sys.executable, "-c", NOTHING_ELSE, packages, str(EXAMPLE), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_controller", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a deterministic sampler and any batch size, of a stochastic one and a fixed batch."""
    folder = tmp_path_factory.mktemp("graphs")
    return [
        export_onnx(make_policy(), folder / "a.onnx").path,
        export_onnx(make_policy(process="vp", sampler="ddpm"), folder / "b.onnx", batch=3).path,
    ]


def test_the_example_runs_with_numpy_and_onnxruntime_alone(graphs: list[Path]) -> None:
    for graph in graphs:
        done = run("numpy,onnxruntime", str(graph), "--bare", "--environment", "toy/large")
        assert done.returncode == 0, done.stderr
        assert (
            "bare: 50 actions for toy/large" in done.stdout
            and "PyTorch imported: False" in done.stdout
        )
        assert "No module named 'alltrades'" in run("numpy,onnxruntime", str(graph)).stderr


def test_controller_and_guard_need_no_package_beside_those_two(graphs: list[Path]) -> None:
    for graph in graphs:
        done = run("numpy,onnxruntime,alltrades", str(graph), "--environment", "toy/large")
        assert done.returncode == 0, done.stderr
        assert "controller: 50 actions for toy/large" in done.stdout and "'rate': " in done.stdout
        assert "PyTorch imported: False" in done.stdout


@pytest.mark.parametrize("environment", ["toy/small", "toy/large"])
def test_both_ways_give_the_same_actions_for_the_same_noise(
    graphs: list[Path], example: ModuleType, environment: str
) -> None:
    from alltrades.envs.rollouts.seeding import policy_generator

    for graph in graphs:
        bare = example.BarePolicy(graph, environment, policy_generator(4))
        controller = Controller(OnnxPolicy(graph))
        controller.reset(environment=environment, seed=4)
        queue, both = [], []
        for observation in example.robot(bare.info["observation"], 10):
            bare.observe(observation)
            queue = queue or list(bare.chunk())
            both.append((queue.pop(0), controller.act(observation)))
        got, want = map(np.stack, zip(*both))
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert want.std(axis=0).max() > 1e-2
