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
from alltrades.bench.latency import paced
from alltrades.bench.malformed import KINDS, attack, messages
from alltrades.policies.client import pack, unpack
from alltrades.policies.server.requests import read_request
from tests.policies.serving import LARGE, SMALL, make_policy, running


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy().save(tmp_path_factory.mktemp("bench") / "policy")


def test_several_hundred_malformed_messages_of_every_kind_are_refused_and_the_service_goes_on() -> None:
    with running(make_policy(), rate_limit=0) as server:
        *_, state = attack(server.port, 600, seed=3)
    assert state["refused"] == state["sent"] == 600 and not state["wrong"]
    assert set(state["kinds"]) == set(KINDS)
    assert state["good"] == 4  # on both connections, after 500 and at the end


def test_no_malformed_message_is_a_request_that_makes_sense() -> None:
    """Otherwise the bench would ask the server to refuse what is right."""
    policy = make_policy()
    good = {"observation": np.zeros(2, np.float32), "environment": SMALL, "known": np.zeros((1, 2), np.float32)}
    assert read_request(pack(good), policy, None).environment == SMALL
    for kind, message in messages(3000, good, 2, seed=1):
        if kind != "oversized":
            with pytest.raises((ValueError, Exception), match="."):
                read_request(message, policy, SMALL)


def test_a_bench_finds_a_server_that_answers_what_it_should_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    from alltrades.policies.server import service

    def lenient(message: bytes | str, policy: object, environment: str | None) -> object:
        try:
            return read_request(message, policy, environment)
        except Exception:
            return read_request(pack({"observation": np.zeros(5), "environment": LARGE}), policy, environment)

    monkeypatch.setattr(service, "read_request", lenient)
    with running(make_policy(), rate_limit=0) as server:
        *_, state = attack(server.port, 20, seed=3)
    assert state["refused"] < 20 and state["wrong"]


def test_ticks_that_go_by_are_missed_deadlines() -> None:
    """A call of 2.5 periods misses two deadlines; the truth is the clock."""
    calls = iter([0.0] * 20 + [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    spent, missed, ticks = paced(lambda: time.sleep(next(calls, 0.0)), rate=5.0, seconds=1.2)
    assert missed == 2 and len(spent) == ticks - 1
    assert 480 < max(spent)


def test_latency_is_measured_on_every_path(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "latency.json"
    threads = torch.get_num_threads()
    assert cli.main(["bench", "latency", "--policy", str(artifact), "--clients", "1", "5", "--seconds", "1", "--rate", "5",
                     "--json", str(out)]) == 0
    assert torch.get_num_threads() == threads
    results = json.loads(out.read_text())
    text = capsys.readouterr().out
    kinds = ["torch"] if "onnx: left out" in text else ["torch", "onnx"]
    paths = {"server, torch"} | {f"in-process, {kind}, batch {n}" for kind in kinds for n in (1, 5)}
    assert {r["path"] for r in results} == paths
    for r in results:
        assert 0 < r["p50"] <= r["p95"] <= r["p99"] <= r["max"] and r["ticks"] >= r["clients"] and not r["errors"]
    by_path = {(r["path"], r["clients"]): r for r in results}
    for n in (1, 5):
        server = by_path["server, torch", n]
        assert 0 < server["overhead_p50"] < server["p50"]
        assert server["over_in_process_p50"] == server["p50"] - by_path[f"in-process, torch, batch {n}", n]["p50"]


def test_a_short_soak_kills_robots_and_reports_the_others(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    assert cli.main(["bench", "soak", "--policy", str(artifact), "--clients", "2", "--minutes", "0.2", "--rate", "10",
                     "--kill-every", "3", "--json", str(out)]) == 0
    (result,) = json.loads(out.read_text())
    assert result["kills"] >= 2 and result["ok"] and result["ticks"] > 10 and result["settled_mib"] > 50


def test_the_fields_of_a_reply_are_those_that_robots_of_the_bench_read() -> None:
    import asyncio

    from alltrades.bench.load import Load, run

    with running(make_policy()) as server:
        measured = asyncio.run(run(Load(server.port, clients=3, rate=5.0, seconds=1.0, warmup=0.2)))
    assert not measured.errors and len(measured.latency) == len(measured.infer) > 3
    assert unpack(server._metadata)["server"] == "alltrades"
