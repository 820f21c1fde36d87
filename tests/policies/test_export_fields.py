"""Exported policies with states, images and text against PyTorch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.data.text import text_features
from alltrades.envs.rollouts.seeding import policy_generator
from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller
from alltrades.policies.onnx import parity
from alltrades.policies.onnx.export import export_onnx
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from alltrades.policies.onnx.parity import check_windows, observed_windows
from tests.policies.fields import CAMERAS, INTERFACES, OTHER, observe, real_policy, stacked

EXAMPLE = Path(__file__).parents[2] / "notebooks" / "onnx_controller.py"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(real_policy(), tmp_path_factory.mktemp("graph") / "p.onnx").path


def test_every_field_is_an_input_of_its_own_type_and_the_contract_says_whose_it_is(
    graph: Path,
) -> None:
    contract = json.loads(graph.with_suffix(".json").read_text())
    assert contract["contract_version"] == 5 and contract["parity"]["max_error"] <= 1e-4
    assert contract["fields"][CAMERAS] == {
        "state": "observation.state",
        "images.front": "observation.images.front@12x16x3",
        "images.wrist": "observation.images.wrist",
        "instruction": "observation.instruction",
    }
    assert contract["fields"][OTHER]["images.front"] == "observation.images.front@8x8x3"
    types = {"float32": "float", "int64": "int64", "uint8": "uint8", "uint16": "uint16"}
    assert {t.name: t.type for t in OnnxPolicy(graph).session.get_inputs()} == {
        name: f"tensor({types[facts['dtype']]})" for name, facts in contract["inputs"].items()
    }
    assert contract["inputs"]["observation.images.wrist"]["dtype"] == "uint16"


@pytest.mark.parametrize("environment", [0, 1, 2])
def test_a_controller_of_the_graph_gives_the_actions_of_the_policy(
    graph: Path, environment: int
) -> None:
    info, acted = INTERFACES[environment], []
    for policy in (real_policy(), OnnxPolicy(graph)):
        controller = Controller(policy)
        controller.reset(environment=info.id, seed=4)
        acted.append([controller.act(observe(i, info)) for i in range(9)])
    np.testing.assert_allclose(*acted, atol=2e-4)
    assert np.array(acted).std(axis=1).min() > 1e-2


@pytest.mark.parametrize("name", ["state", "images.front", "images.wrist", "instruction"])
def test_every_field_matters_in_the_graph(graph: Path, name: str) -> None:
    out, seen = [], observe(0)
    for change in (seen, seen | {name: observe(5, text="drop the plate")[name]}):
        controller = Controller(OnnxPolicy(graph))
        controller.reset(environment=CAMERAS, seed=4)
        out.append(controller.act(change))
    assert np.abs(out[0] - out[1]).max() > 1e-6


def test_random_windows_of_the_check_have_pixels_and_words_of_the_environments_that_have_them() -> (
    None
):
    windows, environment = check_windows(real_policy(), rows=60)
    front, wrist = windows["images.front@12x16x3"], windows["images.wrist@6x8x1-uint16"]
    assert front.dtype == np.uint8 and wrist.dtype == np.uint16
    assert front[environment == 0].std() > 60 and wrist[environment == 0].std() > 15000
    assert not front[environment != 0].any() and not wrist[environment != 0].any()
    said = windows["instruction"]
    np.testing.assert_allclose(np.linalg.norm(said[environment == 0], axis=-1), 1, rtol=1e-5)
    assert not said[environment != 0].any()


@pytest.mark.parametrize("encoder", [{}, {"shared": True, "film": True}])
def test_images_are_encoded_once_a_chunk_and_not_at_every_step(
    encoder: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.setattr(parity, "BYTES", 1)  # a few windows

    policy = real_policy(encoder=encoder, sampling_steps=5)
    report = export_onnx(policy, tmp_path / "p.onnx")
    assert report.max_error <= 1e-4
    nodes = [node.op_type for node in onnx.load(report.path).graph.node]
    own = policy.conditioner
    convolutions = [
        sum(isinstance(m, torch.nn.Conv2d) for m in own.encoders[own.module[key]].modules())
        for key in own.cameras
    ]
    assert nodes.count("Conv") == sum(convolutions) > 0
    assert nodes.count("Gemm") >= 5  # the denoiser's layers, once a step


def test_of_large_images_fewer_windows_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "BYTES", 100_000)
    assert len(check_windows(real_policy())[1]) == 35  # of 2.8 kB each


def test_windows_of_a_store_join_the_check(tmp_path: Path) -> None:
    policy = real_policy()
    frames = [observe(i) for i in range(30)]
    episode = Episode.from_arrays(stacked(frames), np.zeros((30, 2)), CAMERAS)
    store = EpisodeStore.write(tmp_path / "s.zarr", [episode])
    given = observed_windows(policy, store)
    assert set(given) == {CAMERAS} and given[CAMERAS]["images.front@12x16x3"].shape[0] == 30
    np.testing.assert_array_equal(given[CAMERAS]["instruction"][7, 0], text_features("lift it"))
    assert export_onnx(policy, tmp_path / "p.onnx", observations=given).observed == 30
    less = Episode.from_arrays({"state": np.zeros((30, 3))}, np.zeros((30, 2)), CAMERAS)
    other = EpisodeStore.write(tmp_path / "t.zarr", [less])
    with pytest.raises(UserError, match="expected 'images.front' .image of 12 x 16 x 3 uint8."):
        observed_windows(policy, other)


def test_the_example_with_numpy_alone_gives_the_actions_of_the_controller(graph: Path) -> None:
    spec = importlib.util.spec_from_file_location("onnx_controller", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for text in ("push the cup", "hebe die Täſſe ☕", ""):
        np.testing.assert_allclose(example.text_features(text, 256), text_features(text), rtol=1e-6)
    bare = example.BarePolicy(graph, CAMERAS, policy_generator(4))
    controller = Controller(OnnxPolicy(graph))
    controller.reset(environment=CAMERAS, seed=4)
    queue: list[np.ndarray] = []
    for observation in example.robot(bare.info["observation"], 10):
        bare.observe(observation)
        queue = queue or list(bare.chunk())
        np.testing.assert_allclose(queue.pop(0), controller.act(observation), atol=1e-5)
