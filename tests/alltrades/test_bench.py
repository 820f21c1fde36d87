"""The deployment benches in small form: what they count is right."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")

from alltrades import cli
from alltrades.bench import latency
from alltrades.bench.latency import paced
from alltrades.bench.malformed import KINDS, Subject, attack, messages
from alltrades.bench.subject import LoadProcess
from alltrades.bench.subject import artifact as fresh_artifact
from alltrades.errors import UserError
from alltrades.policies.client.messages import pack, unpack
from alltrades.policies.model.loading import load_policy
from alltrades.policies.server.requests import read_request
from tests.policies import fields
from tests.policies.serving import LARGE, SMALL, make_policy, running


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy().save(tmp_path_factory.mktemp("bench") / "policy")


def test_several_hundred_malformed_messages_of_every_kind_are_refused_and_the_service_goes_on() -> (
    None
):
    with running(make_policy(), rate_limit=0) as server:
        *_, state = attack(server.port, 600, seed=3)
    assert state["refused"] == state["sent"] == 600 and not state["wrong"]
    assert set(state["kinds"]) == set(KINDS)
    assert state["good"] == 4  # on both connections, after 500 and at the end


def test_no_malformed_message_is_a_request_that_makes_sense() -> None:
    """Otherwise the bench would ask the server to refuse what is right."""
    policy = make_policy()
    good = {
        "observation": {"state": np.zeros(2, np.float32)},
        "environment": SMALL,
        "known": np.zeros((1, 2), np.float32),
    }
    assert read_request(pack(good), policy, None).environment == SMALL
    subject = Subject(good, policy.environments[0])
    for kind, message in messages(3000, subject, seed=1):
        if kind != "oversized":
            with pytest.raises((ValueError, UserError), match="."):
                read_request(message, policy, SMALL)


def test_malformed_fields_of_all_kinds_are_refused_and_the_service_goes_on() -> None:
    policy, found = fields.Seeing(), []
    for info in policy.environments:
        good = {
            "observation": fields.observe(0, info),
            "environment": info.id,
            "known": np.zeros((1, 2), np.float32),
        }
        assert read_request(pack(good), policy, None).environment == info.id
        found += messages(1500, Subject(good, info), seed=1)
    for kind, message in found:
        if kind != "oversized":
            with pytest.raises((ValueError, UserError), match="."):
                read_request(message, policy, fields.CAMERAS)
    with running(policy, rate_limit=0) as server:  # type: ignore[arg-type]
        *_, state = attack(server.port, 300, seed=3)
    assert state["refused"] == state["sent"] == 300 and not state["wrong"]
    assert state["good"] == 2


def test_robots_of_the_load_send_fields_of_all_kinds() -> None:
    with running(fields.Seeing(), rate_limit=0) as server:  # type: ignore[arg-type]
        found = latency.over_server(server.port, clients=3, rate=20.0, seconds=0.5)
    assert found["ok"] and found["ticks"] >= 3 and found["p50"] > 0


def test_a_bench_finds_a_server_that_answers_what_it_should_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from alltrades.policies.server import answers

    def lenient(message: bytes | str, policy: object, environment: str | None) -> object:
        try:
            return read_request(message, policy, environment)
        except Exception:
            return read_request(
                pack({"observation": np.zeros(5), "environment": LARGE}), policy, environment
            )

    monkeypatch.setattr(answers, "read_request", lenient)
    with running(make_policy(), rate_limit=0) as server:
        *_, state = attack(server.port, 20, seed=3)
    assert state["refused"] < 20 and state["wrong"]


def test_ticks_that_go_by_are_missed_deadlines() -> None:
    """A call of 2.5 periods misses two deadlines; the truth is the clock."""
    calls = iter([0.0] * 20 + [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    spent, missed, ticks = paced(lambda: time.sleep(next(calls, 0.0)), rate=5.0, seconds=1.2)
    assert missed == 2 and len(spent) == ticks - 1
    assert 480 < max(spent)


def test_latency_is_measured_on_every_path(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latency.json"
    threads = torch.get_num_threads()
    assert (
        cli.main(
            [
                "bench",
                "latency",
                "--policy",
                str(artifact),
                "--clients",
                "1",
                "5",
                "--seconds",
                "0.5",
                "--rate",
                "20",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    assert torch.get_num_threads() == threads
    results = json.loads(out.read_text())
    text = capsys.readouterr().out
    kinds = ["torch"] if "onnx: left out" in text else ["torch", "onnx"]
    paths = {"server, torch"} | {f"in-process, {kind}, batch {n}" for kind in kinds for n in (1, 5)}
    assert {r["path"] for r in results} == paths
    for r in results:
        assert (
            0 < r["p50"] <= r["p95"] <= r["p99"] <= r["max"]
            and r["ticks"] >= r["clients"]
            and not r["errors"]
        )
    by_path = {(r["path"], r["clients"]): r for r in results}
    for n in (1, 5):
        server = by_path["server, torch", n]
        assert 0 < server["overhead_p50"] < server["p50"]
    alone = by_path["server, torch", 1]
    assert (
        alone["over_in_process_p50"]
        == alone["p50"] - by_path["in-process, torch, batch 1", 1]["p50"]
    )
    assert (
        "over_in_process_p50" not in by_path["server, torch", 5]
    )  # several robots are not in phase there


def test_latency_of_a_policy_that_sees_cameras(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In place of states, which it does not get."""
    with fresh_artifact(None, ["planar/push"], 2, 24) as path:
        seen = load_policy(path).environments[0].observation
    assert seen["images.top"].shape == (24, 24, 3) and "state" not in seen
    assert seen["proprioception"].shape == (4,)
    out = tmp_path / "figures.json"
    words = ["bench", "latency", "--names", "planar/push", "--pixels", "24", "--clients", "1"]
    more = ["--steps", "2", "--seconds", "0.3", "--paths", "torch", "--json", str(out)]
    assert cli.main([*words, *more]) == 0
    (result,) = json.loads(out.read_text())
    assert result["ok"] and result["p50"] > 0
    assert cli.main([*words, "--policy", str(artifact)]) == 2
    assert "--pixels 24 and --policy" in capsys.readouterr().err
    assert cli.main([*words[:4], "--pixels", "4"]) == 2
    assert "--pixels 4: 'planar/push' has 1 cameras; expected" in capsys.readouterr().err


def test_a_bench_in_which_robots_get_errors_fails_and_the_server_has_the_rows_of_the_controller(
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[tuple[str, ...]] = []

    class Gone:
        """A server that has ended: nobody listens at its port."""

        def __init__(self, folder: Path, *options: str) -> None:
            started.append(options)
            self.port = 1

        def __enter__(self) -> Gone:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(latency, "ServerProcess", Gone)
    words = [
        "bench",
        "latency",
        "--policy",
        str(artifact),
        "--clients",
        "1",
        "3",
        "--seconds",
        "0.2",
        "--rate",
        "50",
        "--batch",
        "2",
        "--paths",
        "server",
        "--json",
        str(tmp_path / "latency.json"),
    ]
    assert cli.main(words) == 1
    assert "1 ERRORS, such as client 0" in capsys.readouterr().out
    assert [r["ok"] for r in json.loads((tmp_path / "latency.json").read_text())] == [False, False]
    assert [options[options.index("--batch") + 1] for options in started] == ["1", "2"]


def test_robots_that_cannot_start_give_one_line_with_the_cause() -> None:
    with pytest.raises(UserError, match="ended with code 1 .*unexpected keyword argument 'speed'"):
        LoadProcess(1, clients=1, rate=1.0, seconds=1.0, speed=3).result()


def test_an_attack_on_a_server_that_is_gone_ends_with_what_it_found() -> None:
    *_, state = attack(1, 10)
    assert state["sent"] == 0 and state["wrong"][0].startswith(
        "no answer after 0 messages: ConnectionRefusedError"
    )


def test_actions_of_a_fresh_artifact_depend_on_what_it_sees() -> None:
    """Otherwise rows were equal in all batch sizes, and the server would choose smaller ones than
    for a trained policy.
    """
    with fresh_artifact(None, ["planar/reach"], None) as path:
        policy = load_policy(path)
    rng = np.random.default_rng(0)
    dims = policy.layout.state_dim
    window = {"state": rng.normal(size=(6, policy.n_obs_steps, dims)).astype(np.float32)}
    noise = np.zeros((6, policy.draws, policy.horizon, policy.action_dim), np.float32)
    assert policy.act(window, np.zeros(6, np.int64), noise).std(axis=0).min() > 1e-4


def test_a_short_soak_kills_robots_and_reports_the_others(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    assert (
        cli.main(
            [
                "bench",
                "soak",
                "--policy",
                str(artifact),
                "--clients",
                "2",
                "--minutes",
                "0.12",
                "--rate",
                "10",
                "--kill-every",
                "2",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    (result,) = json.loads(out.read_text())
    assert (
        result["kills"] >= 2
        and result["ok"]
        and result["ticks"] > 10
        and result["settled_mib"] > 50
    )


def test_the_fields_of_a_reply_are_those_that_robots_of_the_bench_read() -> None:
    import asyncio

    from alltrades.bench.load import Load, run

    with running(make_policy()) as server:
        measured = asyncio.run(run(Load(server.port, clients=3, rate=5.0, seconds=1.0, warmup=0.2)))
    assert not measured.errors and len(measured.latency) == len(measured.infer) > 3
    assert unpack(server._metadata)["server"] == "alltrades"
