"""States of float64: what moves little far from zero is seen as well as around zero."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.spec import EnvSpec
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.control.controller import Controller
from alltrades.policies.learning.initial import make_normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import TrainSettings
from tests.envs import check_toys as toys

from .serving import running
from .toys import SMALL, fit_demonstrations

TOYS = {"far": toys.Mapped, "near": toys.Near}
STARTS = 8


def spec_of(name: str, make: Any = None, **facts: Any) -> EnvSpec:
    registry.register(f"wide/{name}", make or TOYS[name], replace=True, max_steps=40, **facts)
    return registry.get(f"wide/{name}")


def played(spec: EnvSpec, act: Any, seeds: range) -> list[Episode]:
    """Episodes of a function from observation to action."""
    adapter, out = EnvAdapter(spec), []
    for seed in seeds:
        seen, actions, done = [adapter.reset(seed)["state"]], [], False
        while not done:
            actions.append(act(seen[-1]))
            result = adapter.step(actions[-1])
            seen.append(result.observation["state"])
            done = result.done
        hits = np.zeros(len(actions), bool)
        hits[-1] = bool(result.success)
        out.append(
            Episode.from_arrays(
                {"state": np.array(seen[:-1])}, np.array(actions), spec.id, None, hits, seed=seed
            )
        )
    adapter.close()
    return out


def expert(state: np.ndarray) -> np.ndarray:
    return np.clip([500 * (state[1] - state[0])], -1, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> dict[str, tuple[EnvSpec, Steps, DiffusionPolicy]]:
    out = {}
    train = TrainSettings(steps=300, batch=64, precision="fp32")
    for name in TOYS:
        spec = spec_of(name)
        store = EpisodeStore.create(tmp_path_factory.mktemp(name) / "s.zarr")
        store.declare([spec.interface])
        store.append(played(spec, expert, range(30)))
        steps = EpisodeStore.open(store.path).steps()
        fit = fit_demonstrations(steps, [spec.interface], SMALL, train)
        out[name] = spec, steps, fit.policy
    return out


def test_a_state_is_float64_where_its_space_is_and_float32_keeps_it_elsewhere() -> None:
    assert spec_of("far").observation["state"].dtype == "float64"
    named = spec_of(
        "named", toys.Mapped, observation={"place": Field.state(2, names=("x", "goal"))}
    )
    assert named.observation["place"].dtype == "float64"
    assert spec_of("slide", toys.Slide).observation["state"].dtype == "float32"


def test_observations_and_stores_keep_every_digit(tmp_path: Any) -> None:
    spec, env = spec_of("far"), toys.Mapped()
    adapter = EnvAdapter(spec)
    want = [env.reset(seed=3)[0]]
    got = [adapter.reset(3)["state"]]
    for _ in range(5):
        want.append(env.step(np.array([0.3]))[0])
        got.append(adapter.step(np.array([0.3])).observation["state"])
    np.testing.assert_array_equal(got, want)
    made = Episode.from_arrays({"state": np.array(want)}, np.zeros((6, 1)), spec.id)
    read = EpisodeStore.write(tmp_path / "s.zarr", [made])
    np.testing.assert_array_equal(read.episode(0).observations["state"], want)
    window = read.steps().window(Layout([spec.interface]), np.array([[0, 1], [4, 5]]))["state"]
    np.testing.assert_array_equal(window, [want[:2], want[4:]])


def test_a_store_keeps_a_field_as_it_began(tmp_path: Any) -> None:
    spec = spec_of("far")
    (made,) = played(spec, expert, range(1))
    store = EpisodeStore.create(tmp_path / "s.zarr")
    narrow = Interface(spec.id, {"state": Field.state(2)}, spec.action)
    store.declare([narrow])
    store.append([made])
    store.declare([spec.interface])
    store.append([made])
    assert store.interfaces()[spec.id].observation["state"].dtype == "float32"
    assert EpisodeStore.open(store.path).episode(1).observations["state"].dtype == np.float32


def test_what_moves_far_from_zero_is_learned_as_well_as_around_zero(trained: Any) -> None:
    for spec, _, policy in trained.values():
        controller = Controller(policy)

        def act(state: np.ndarray) -> np.ndarray:
            return controller.act({0: {"state": state}})[0]  # noqa: B023

        solved = 0
        for seed in range(1000, 1000 + STARTS):
            controller.begin(0, spec.id, seed)  # an episode is that of its seed alone
            solved += bool(played(spec, act, range(seed, seed + 1))[0].success)
        assert solved == STARTS, spec.id


def test_far_from_zero_windows_are_normalised_to_the_same_numbers(trained: Any) -> None:
    seen = []
    for _, steps, policy in trained.values():
        window = steps.window(policy.layout, np.arange(40)[:, None])
        there = torch.zeros(40, dtype=torch.long)
        tensors = {key: torch.from_numpy(x) for key, x in window.items()}
        seen.append(policy.normalizer.observation(tensors, there)["state"])
        assert seen[-1].dtype == torch.float32
    torch.testing.assert_close(*seen, rtol=0, atol=1e-5)
    assert seen[0].std() > 0.3


def test_beside_environments_of_float32_each_keeps_its_own_numbers(trained: Any) -> None:
    (far, steps, _), slide = trained["far"], spec_of("slide", toys.Slide)
    made = played(slide, lambda s: np.clip([5 * (s[1] - s[0])], -1, 1), range(30))
    arrays = np.concatenate([e.observations["state"] for e in made])
    other = Steps.concatenate([steps, _steps(slide, made)])
    normalizer = make_normalizer(other, [far.interface, slide.interface], SMALL)
    window = {"state": torch.from_numpy(arrays[:50, None].astype(np.float64))}
    got = normalizer.observation(window, torch.ones(50, dtype=torch.long))["state"][:, 0]
    want = (arrays[:50] - arrays.mean(0, dtype=float)) / arrays.std(0, dtype=float)
    np.testing.assert_allclose(got, want, atol=1e-5)


def _steps(spec: EnvSpec, episodes: list[Episode]) -> Steps:
    lengths = [len(e) for e in episodes]
    n = len(episodes)
    return Steps(
        {"state": np.concatenate([e.observations["state"] for e in episodes])},
        np.concatenate([e.actions for e in episodes]),
        np.concatenate([e.successes for e in episodes]),
        np.cumsum(lengths),
        np.array([spec.id] * n),
        np.array(["demo"] * n),
        np.arange(n, dtype=np.uint64),
        np.ones(n, bool),
        np.ones(n, int),
        np.ones(n, bool),
        np.zeros(n),
    )


def test_a_saved_and_an_exported_policy_act_as_the_one_that_was_trained(
    trained: Any, tmp_path: Any
) -> None:
    pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    from alltrades.policies.model.loading import load_policy
    from alltrades.policies.onnx.export import export_onnx
    from alltrades.policies.onnx.onnx_policy import OnnxPolicy

    _, steps, policy = trained["far"]
    policy.save(tmp_path / "p")
    report = export_onnx(policy, tmp_path / "p.onnx")
    facts = json.loads(report.contract.read_text())
    assert facts["inputs"][facts["fields"]["wide/far"]["state"]]["dtype"] == "float64"
    window = steps.window(policy.layout, np.arange(60)[:, None])
    there = np.zeros(60, np.int64)
    shape = (60, policy.draws, policy.horizon, policy.action_dim)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    want = policy.act(window, there, noise)
    np.testing.assert_array_equal(load_policy(tmp_path / "p").act(window, there, noise), want)
    got = OnnxPolicy(tmp_path / "p.onnx").act(window, there, noise)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.ptp(want[:, 0]) > 0.1


def test_a_server_sees_every_digit(trained: Any) -> None:
    spec, steps, policy = trained["far"]
    states = steps.observation["state"][:10]
    controller = Controller(policy)
    controller.begin(0, spec.id, 3)
    want = [controller.plan({0: {"state": s[None]}})[0] for s in states]
    with running(policy, rate_limit=0) as server, PolicyClient(port=server.port) as client:
        client.reset(environment=spec.id, seed=3)
        got = [client.infer({"state": s})["actions"] for s in states]
    np.testing.assert_allclose(got, want, atol=1e-6)  # batches round otherwise
    assert np.ptp(want) > 0.1
