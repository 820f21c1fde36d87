"""Exported graphs, run by onnxruntime, against PyTorch."""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
runtime = pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades import cli  # noqa: E402
from alltrades.data.actions import ActionSpec  # noqa: E402
from alltrades.data.episode import Episode  # noqa: E402
from alltrades.data.fields import Field  # noqa: E402
from alltrades.data.interface import Interface  # noqa: E402
from alltrades.data.layout import Layout  # noqa: E402
from alltrades.data.store import EpisodeStore  # noqa: E402
from alltrades.errors import UserError  # noqa: E402
from alltrades.policies.model.normalizer import Normalizer  # noqa: E402
from alltrades.policies.model.policy import DiffusionPolicy  # noqa: E402
from alltrades.policies.onnx import export  # noqa: E402
from alltrades.policies.onnx.export import export_onnx  # noqa: E402
from alltrades.policies.onnx.onnx_policy import OnnxPolicy  # noqa: E402
from alltrades.policies.onnx.parity import (  # noqa: E402
    check_windows,
    max_relative_error,
    observed_windows,
)
from alltrades.policies.settings import PolicySettings  # noqa: E402


def make_policy(environments: int = 2, **settings: object) -> DiffusionPolicy:
    """Toy environments of 2 and 5 observations; actions of the second reach from 0 to 512."""
    torch.manual_seed(0)
    infos = [
        Interface(
            "toy/small", {"state": Field.state(2)}, ActionSpec((-1.0, -1.0), (1.0, 1.0)), 50, 10.0
        ),
        Interface(
            "toy/large",
            {"state": Field.state(5)},
            ActionSpec((0.0, 0.0, -np.inf), (512.0, 512.0, np.inf)),
            50,
            20.0,
        ),
    ]
    infos = infos[:environments]
    obs_dim, action_dim = infos[-1].state_dim, infos[-1].action_dim
    normalizer = Normalizer(Layout(infos))
    normalizer.obs_mean.copy_(torch.randn(environments, obs_dim))
    normalizer.obs_scale.copy_(torch.rand(environments, obs_dim) + 0.1)
    normalizer.action_mean.copy_(torch.arange(action_dim) * 1.0)
    normalizer.action_scale.copy_(torch.arange(action_dim) + 1.0)
    normalizer.fitted.fill_(1)
    small = {
        "n_obs_steps": 2,
        "horizon": 8,
        "n_action_steps": 4,
        "width": 32,
        "depth": 2,
        "sampling_steps": 3,
    }
    policy = DiffusionPolicy(PolicySettings.model_validate(small | settings), infos, normalizer)
    with (
        torch.no_grad()
    ):  # last layers may start at zero, where an output would not depend on its input
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.eval()


CASES = [
    ("mlp", "flow", "euler", "sample"),
    ("mlp", "flow", "heun", "velocity"),
    ("mlp", "vp", "ddim", "noise"),
    ("mlp", "vp", "dpmpp2m", "sample"),
    ("unet1d", "flow", "euler", "sample"),
    ("transformer", "vp", "ddim", "velocity"),
    ("mlp", "vp", "ddpm", "noise"),
    ("unet1d", "vp", "dpmpp2m", "velocity"),
    ("transformer", "flow", "heun", "sample"),
    ("mlp", "flow", "ddpm", "sample"),
]


@pytest.mark.parametrize("backbone,process,sampler,prediction", CASES)
def test_the_graph_gives_the_actions_of_the_policy_at_any_batch_size(
    tmp_path: Path,
    backbone: str,
    process: str,
    sampler: str,
    prediction: str,
) -> None:
    policy = make_policy(backbone=backbone, process=process, sampler=sampler, prediction=prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = export_onnx(policy, tmp_path / "policy.onnx")
    assert (
        report.rows == 1000
        and report.max_error <= 3e-4
        and report.size == report.path.stat().st_size
    )
    session = runtime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    for rows in (1, 5):
        state = rng.normal(size=(rows, 2, 5)).astype(np.float32)
        environment = np.arange(rows) % 2
        noise = rng.normal(size=(rows, policy.draws, 8, 3)).astype(np.float32)
        known, keep = np.zeros((rows, 8, 3), np.float32), np.zeros((rows, 8), np.float32)
        feed = {
            "observation.state": state,
            "environment": environment,
            "noise": noise,
            "known": known,
            "keep": keep,
        }
        got = session.run(["actions"], feed)[0]
        later = iter(torch.from_numpy(noise[:, 1:]).unbind(1))
        with torch.no_grad():
            first = (torch.from_numpy(x) for x in (environment, noise[:, 0]))
            seen = {"state": torch.from_numpy(state)}
            want = policy.sample(seen, *first, partial(next, later)).numpy()
        np.testing.assert_allclose(got, want, atol=3e-4)
        np.testing.assert_allclose(
            OnnxPolicy(report.path).act({"state": state}, environment, noise), got, atol=1e-6
        )
        assert got.shape == (rows, 8, 3) and want.std(axis=1).max() > 1e-3


def test_the_contract_describes_the_graph(tmp_path: Path) -> None:
    policy = make_policy()
    report = export_onnx(policy, tmp_path / "deep" / "policy.onnx")
    contract = json.loads(report.contract.read_text())
    session = runtime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for tensors, described in ((inputs, contract["inputs"]), (outputs, contract["outputs"])):
        assert {t.name: t.shape for t in tensors} == {
            name: d["shape"] for name, d in described.items()
        }
        kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
        assert {t.name: kinds[t.type] for t in tensors} == {
            name: d["dtype"] for name, d in described.items()
        }
        assert all(d["units"] for d in described.values())
    assert [e["id"] for e in contract["environments"]] == ["toy/small", "toy/large"]
    assert contract["environments"][1]["action"]["high"] == [512.0, 512.0, None]
    assert [e["control_hz"] for e in contract["environments"]] == [10.0, 20.0]
    assert (contract["horizon"], contract["n_action_steps"], contract["n_obs_steps"]) == (8, 4, 2)
    assert (contract["sampler"], contract["steps"], contract["policy"]) == (
        "euler",
        3,
        policy.digest(),
    )
    assert sorted(p.name for p in report.path.parent.iterdir()) == ["policy.json", "policy.onnx"]


def test_a_fixed_batch_is_fixed_and_still_checked_on_every_window(tmp_path: Path) -> None:
    policy = make_policy(environments=1)
    report = export_onnx(policy, tmp_path / "p.onnx", batch=7)  # 1000 is no multiple of 7
    session = runtime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    assert [t.shape[0] for t in session.get_inputs()] == [7] * 5
    rng = np.random.default_rng(0)
    state, noise = (rng.normal(size=s).astype(np.float32) for s in ((10, 2, 2), (10, 1, 8, 2)))
    window = {"state": state}
    environment = np.zeros(10, dtype=np.int64)  # two calls, the second filled up
    np.testing.assert_allclose(
        OnnxPolicy(report.path).act(window, environment, noise),
        policy.act(window, environment, noise),
        atol=1e-5,
    )


@pytest.mark.parametrize("backbone,sampler", [("unet1d", "dpmpp2m"), ("transformer", "ddpm")])
def test_a_fixed_batch_suits_every_backbone(tmp_path: Path, backbone: str, sampler: str) -> None:
    policy = make_policy(backbone=backbone, sampler=sampler, process="vp")
    report = export_onnx(policy, tmp_path / "p.onnx", batch=64)
    assert report.max_error <= 3e-4 and OnnxPolicy(report.path).batch == 64


@pytest.mark.parametrize("process,sampler", [("flow", "heun"), ("vp", "ddpm"), ("vp", "dpmpp2m")])
def test_a_policy_of_images_is_exported_with_several_steps(
    tmp_path: Path, process: str, sampler: str
) -> None:
    """One action is an image of 4 x 6 and is seen by the convolutions in every step of the loop."""
    info = Interface(
        "toy/image",
        {"image": Field.image(4, 6, 1, "float32")},
        ActionSpec((0.0,) * 24, (1.0,) * 24, image=(4, 6, 1)),
        1,
        1.0,
    )
    normalizer = Normalizer(Layout([info]))
    normalizer.fitted.fill_(1)
    settings = PolicySettings(
        backbone="unet2d",
        n_obs_steps=1,
        horizon=1,
        n_action_steps=1,
        width=16,
        depth=2,
        process=process,
        sampler=sampler,
        sampling_steps=4,
    )
    torch.manual_seed(0)
    policy = DiffusionPolicy(settings, [info], normalizer)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    policy.eval()
    report = export_onnx(policy, tmp_path / "p.onnx")
    assert report.max_error <= 3e-4 and policy.draws == (4 if sampler == "ddpm" else 1)
    rng = np.random.default_rng(0)
    image, noise = (
        rng.normal(size=s).astype(np.float32) for s in ((5, 1, 4, 6, 1), (5, policy.draws, 1, 24))
    )
    window = {next(iter(policy.layout.slots)): image}
    environment = np.zeros(5, np.int64)
    want = policy.act(window, environment, noise)
    np.testing.assert_allclose(
        OnnxPolicy(report.path).act(window, environment, noise), want, atol=1e-4
    )
    assert want.std(axis=0).max() > 1e-2


def test_given_windows_join_the_check(tmp_path: Path) -> None:
    policy = make_policy()
    small, large = np.zeros((4, 2, 5), np.float32), np.full((3, 2, 5), 0.25, np.float32)
    small[..., :2] = 0.5
    given = {"toy/small": {"state": small}, "toy/large": {"state": large}}
    windows, environment = check_windows(policy, given)
    state = windows["state"]
    assert state.shape == (1007, 2, 5) and environment[1000:].tolist() == [0] * 4 + [1] * 3
    assert (state[1000:1004, :, 2:] == 0).all() and (state[1000:1004, :, :2] == 0.5).all()
    report = export_onnx(policy, tmp_path / "p.onnx", observations=given)
    assert (report.rows, report.observed) == (1007, 7)
    with pytest.raises(UserError, match="shape"):
        check_windows(policy, {"toy/small": {"state": np.zeros((4, 2, 3))}})


def make_store(path: Path, environments: dict[str, tuple[int, int]]) -> EpisodeStore:
    """Per environment id episodes of 40 steps: (how many, observation size). An observation's
    values are 100 episode + step.
    """
    store = EpisodeStore.create(path)
    rng = np.random.default_rng(0)
    for name, (count, dim) in environments.items():
        for k in range(count):
            values = np.repeat(100.0 * k + np.arange(40.0)[:, None], dim, axis=1).astype(np.float32)
            store.append(
                [
                    Episode(
                        {"state": values},
                        rng.normal(size=(40, 2)).astype(np.float32),
                        np.zeros(40, np.float32),
                        np.zeros(40, bool),
                        name,
                        "expert",
                        k,
                        False,
                        -1,
                        0.0,
                    )
                ]
            )
    return store


def test_observed_windows_are_those_of_training_and_as_many_of_each_environment(
    tmp_path: Path,
) -> None:
    store = make_store(
        tmp_path / "s.zarr", {"toy/small": (20, 2), "other": (3, 4), "toy/large": (2, 5)}
    )
    found = observed_windows(make_policy(), store)
    assert {name: x["state"].shape for name, x in found.items()} == {
        "toy/small": (500, 2, 5),
        "toy/large": (80, 2, 5),
    }
    assert (found["toy/small"]["state"][..., 2:] == 0).all()
    for name, dim in (("toy/small", 2), ("toy/large", 5)):
        windows = found[name]["state"][..., :dim]
        assert (windows == windows[..., :1]).all()
        before, now = windows[:, 0, 0], windows[:, 1, 0]
        np.testing.assert_array_equal(
            before, np.where(now % 100 == 0, now, now - 1)
        )  # an episode's first frame is repeated
        assert len(set(now)) == len(now) and len(set(now // 100)) == (20 if len(now) == 500 else 2)


def test_a_store_that_does_not_fit_the_policy_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no episode of toy/small, toy/large"):
        observed_windows(make_policy(), make_store(tmp_path / "a.zarr", {"other": (1, 2)}))
    with pytest.raises(
        UserError,
        match="'toy/large' has state .state of 4 numbers.; expected 'state' .state of 5 numbers",
    ):
        observed_windows(make_policy(), make_store(tmp_path / "b.zarr", {"toy/large": (1, 4)}))


def test_the_command_checks_recorded_observations_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_policy().save(tmp_path / "p")
    make_store(tmp_path / "s.zarr", {"toy/small": (20, 2), "toy/large": (20, 5)})
    out = tmp_path / "p.onnx"
    assert (
        cli.main(
            [
                "export",
                str(tmp_path / "p"),
                "--out",
                str(out),
                "--observations",
                str(tmp_path / "s.zarr"),
            ]
        )
        == 0
    )
    assert "1000 random and 1000 recorded observations" in capsys.readouterr().out
    parity = json.loads(out.with_suffix(".json").read_text())["parity"]
    assert (parity["rows"], parity["observed"]) == (2000, 1000)
    assert (
        cli.main(
            [
                "export",
                str(tmp_path / "p"),
                "--out",
                str(out),
                "--observations",
                str(tmp_path / "none.zarr"),
            ]
        )
        == 2
    )


def test_random_windows_lie_in_the_range_of_the_normalizer() -> None:
    policy = make_policy()
    windows, environment = check_windows(policy)
    for k in range(2):
        dim = policy.environments[k].state_dim
        mine = windows["state"][environment == k]
        z = (mine - policy.normalizer.obs_mean[k].numpy()) / policy.normalizer.obs_scale[k].numpy()
        assert len(mine) == 500 and abs(z[..., :dim]).max() <= 3.001 and z[..., :dim].std() > 1.5
        assert (mine[..., dim:] == 0).all()


class Off:
    """A session whose graph is PyTorch plus an offset in one action dimension of one
    environment.
    """

    def __init__(self, policy: DiffusionPolicy, environment: int, dim: int, offset: float) -> None:
        self.policy, self.change = policy, (environment, dim, offset)

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        rest = (feed[n] for n in ("environment", "noise", "known", "keep"))
        out = self.policy.act({"state": feed["observation.state"]}, *rest).copy()
        environment, dim, offset = self.change
        out[feed["environment"] == environment, 0, dim] += offset
        return [out]


@pytest.mark.parametrize(
    "environment,dim,offset,expected",
    [
        (0, 0, 0.01, 0.01 / 2),
        (1, 1, 0.512, 0.512 / 512),
        (1, 2, 0.06, 0.06 / 6),
        (0, 2, 5.0, 0.0),
        (1, 0, np.nan, np.inf),
    ],
)
def test_the_error_is_relative_to_the_action_range_of_each_environment(
    environment: int,
    dim: int,
    offset: float,
    expected: float,
) -> None:
    """Unbounded: twice the normaliser's scale. A dimension that the environment does not have: no
    error.
    """
    policy = make_policy()
    error = max_relative_error(
        policy, Off(policy, environment, dim, offset), *check_windows(policy)
    )
    assert error == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_a_graph_that_differs_is_an_error_and_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = make_policy()
    trace = export._trace

    def faulty(traced: DiffusionPolicy, path: Path, batch: int | None) -> None:
        other = make_policy()
        with torch.no_grad():
            other.normalizer.action_scale.mul_(1.01)
        trace(other, path, batch)

    monkeypatch.setattr(export, "_trace", faulty)
    with pytest.raises(UserError, match="differs from PyTorch"):
        export_onnx(policy, tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_policy_itself_is_not_changed(tmp_path: Path) -> None:
    policy = make_policy().train()
    before = policy.digest()
    export_onnx(policy, tmp_path / "p.onnx")
    assert policy.training and policy.digest() == before


def test_what_cannot_be_exported_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="batch 0"):
        export_onnx(make_policy(), tmp_path / "p.onnx", batch=0)
    with pytest.raises(UserError, match=r"\.onnx"):
        export_onnx(make_policy(), tmp_path / "p.json")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r'pip install "alltrades\[export\]"'):
        export_onnx(make_policy(), tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []
