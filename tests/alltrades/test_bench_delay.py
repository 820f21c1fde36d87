"""The bench of delays: simulated time is right, and what it compares differs by the delay alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")

from alltrades import cli
from alltrades.bench.delay import SimulatedExecutor, WaitingController, WithheldLanes, control_steps
from alltrades.policies.control.controller import Controller
from tests.policies.test_realtime import Counting


def test_control_steps_of_a_delay_are_counted_up() -> None:
    assert [control_steps(s, 80.0) for s in (0.0, 0.001, 0.0125, 0.05, 0.06)] == [0, 1, 1, 4, 5]


def test_a_result_is_there_when_simulated_time_says_so_and_not_before() -> None:
    with ThreadPoolExecutor(1) as pool:
        time = SimulatedExecutor(pool, 0.25)
        first = time.submit(lambda: 1)
        time.advance(0.125)
        second = time.submit(lambda: 1 / 0)
        seen = []
        for _ in range(3):
            seen.append((first.done(), second.done()))
            time.advance(0.125)
        assert seen == [(False, False), (True, False), (True, True)] and first.result() == 1
        assert isinstance(second.exception(), ZeroDivisionError)
        start = time.clock()
        assert (
            time.submit(lambda: 3).result(9) == 3 and time.clock() == start + 0.25
        )  # waiting takes that long


def test_asynchronous_robots_execute_the_action_of_every_step_and_waiting_ones_are_late() -> None:
    """The policy's actions name the step that they were meant for."""
    seconds, frame = 0.3, (lambda step: {"state": np.array([[step, 0.0]], np.float32)})
    lanes = WithheldLanes([Counting] * 2, seconds, every=6)
    for lane in (0, 1):
        lanes.begin(lane, "count", lane)
    out = [[lanes.plan({lane: frame(step)})[lane] for lane in (0, 1)] for step in range(30)]
    np.testing.assert_array_equal(
        np.array(out)[:, :, 0, 0], np.arange(30)[:, None].repeat(2, axis=1)
    )
    assert (
        lanes.statistics()["late"] == lanes.statistics()["held"] == 0
        and lanes.statistics()["chunks"] == 2 * 5
    )
    lanes.close()
    waiting = WaitingController(Counting(), 1, seconds)
    waiting.begin(0, "count", 0)
    assert waiting.plan({0: frame(0)})[0][:, 0].tolist() == list(range(6))
    assert waiting.plan({0: frame(6)})[0][:, 0].tolist() == [5, 5, 5, 6, 7, 8, 9, 10, 11]


def test_without_delay_every_way_of_acting_has_the_same_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the server, its client and simulated time add nothing to the synchronous controller."""
    out = tmp_path / "delay.json"
    assert (
        cli.main(
            [
                "bench",
                "delay",
                "--names",
                "planar/reach",
                "planar/push",
                "--episodes",
                "2",
                "--delay-ms",
                "0",
                "--overlap",
                "0",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    rows = {r["path"]: r for r in json.loads(out.read_text())}
    assert (
        set(rows) == {"synchronous", "waiting", "asynchronous"}
        and "n = 4" in capsys.readouterr().out
    )
    returns = {name: [e["returns"] for e in r["evaluation"]["rows"]] for name, r in rows.items()}
    assert returns["waiting"] == returns["synchronous"]
    np.testing.assert_allclose(returns["asynchronous"], returns["synchronous"], rtol=1e-6)
    for row in rows.values():
        assert row["n"] == 4 and row["interval"][0] <= row["success"] <= row["interval"][1]
    assert rows["asynchronous"]["ok"]
    assert (
        rows["asynchronous"]["statistics"]["held"] == 0
        and rows["waiting"]["minus_synchronous"]["n"] == 4
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--delay-ms", "-1"],
        ["--episodes", "0"],
        ["--overlap", "-2"],
        ["--every", "0"],
        ["--delay-ms", "nan"],
    ],
)
def test_a_bench_that_makes_no_sense_is_a_user_error(options: list[str]) -> None:
    assert cli.main(["bench", "delay", *options]) == 2


def test_the_waiting_controller_is_the_synchronous_one_but_for_the_wait() -> None:
    controllers = WaitingController(Counting(), 1, 0.0), Controller(Counting(), 1)
    for controller in controllers:
        controller.begin(0, "count", 3)
    for step in (0, 6):
        frames = {0: np.array([[step, 0.0]], np.float32)}
        np.testing.assert_array_equal(*(c.plan(frames)[0] for c in controllers))
