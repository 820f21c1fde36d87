"""`alltrades deploy` drives a user's own robots: bad sensors, hanging policies and drivers,
signals.
"""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.policies.control import background
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.realtime import RealTimeController
from alltrades.policies.model.loading import load_policy
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from alltrades.system.progress import StatusLine

from .deploying import bad_robot, good_robot, log_of, make_artifacts


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifacts(tmp_path_factory.mktemp("artifacts"))


def test_a_robot_that_drops_repeats_and_delays_observations_is_driven_and_recorded(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    robot = bad_robot(tmp_path, "BadSensors")
    words = [
        "deploy",
        str(artifacts / "toy.onnx"),
        "--robot",
        robot,
        "--rate",
        "100",
        "--steps",
        "25",
        "--record",
        "r.zarr",
        "--json",
        "out/r.json",
        "--seed",
        "3",
        "--timeout",
        "20",
    ]
    assert cli.main(words) == 0, capsys.readouterr().err
    log = log_of(tmp_path, "BadSensors")
    kinds = [kind for kind, _ in log]
    acts = np.array([value for kind, value in log if kind == "act"], np.float32)
    new = [value for kind, value in log if kind == "new"]
    assert log[0] == ["reset", episode_seed(3, "deploy", "toy", 0)]
    episode = EpisodeStore.open("r.zarr").episode(0)
    assert len(episode) == 25 and episode.observations["state"][:, 0].tolist() == new[:25]
    assert episode.timestamps is not None and (np.diff(episode.timestamps) > 0).all()
    assert episode.timestamps[-1] >= 0.01 * (new[24] - new[0] - 1)  # ticks of what was dropped, too
    # every observation is answered by one action; whatever came instead of one repeats the last,
    # and so does a slow policy
    answers: list[
        list[list[float]]
    ] = []  # to every observation, good or bad, until the last one, which ends the episode
    for kind, value in log[1 : max(i for i, (kind, _) in enumerate(log) if kind == "new")]:
        if kind == "act":
            answers[-1].append(value)
        else:
            answers.append([])
    executed, held = [], 0
    for kind, told in zip((k for k in kinds[1:] if k != "act"), answers):
        held += len(told) - (kind == "new")
        assert all(value == executed[-1] for value in (told[:-1] if kind == "new" else told))
        executed += told[-1:] if kind == "new" else []
    np.testing.assert_array_equal(episode.actions, np.array(executed[:25], np.float32))
    assert acts[-1].tolist() == [0.0, 0.0]  # stopped
    # the same observations through a controller in this process
    controller = Controller(OnnxPolicy(artifacts / "toy.onnx"), guard=False)
    controller.reset(environment="toy", seed=episode.seed)
    want = np.array([controller.act(row) for row in episode.observations["state"]])
    np.testing.assert_allclose(episode.actions, np.clip(want, -1, 1), atol=1e-6)
    assert np.clip(want, -1, 1).std(axis=0).min() > 1e-2
    facts = json.loads((tmp_path / "out" / "r.json").read_text())
    seen = {
        kind: kinds[: len(kinds) - kinds[::-1].index("new")].count(kind)
        for kind in ("dropped", "repeated", "late")
    }
    assert facts["observations"] == {
        "missing": seen["dropped"],
        "repeated": seen["repeated"],
        "late": seen["late"],
        "unreadable": 0,
    }
    assert facts["held"] == held and facts["missed"] >= 4 and facts["steps"] == 25
    assert not facts["episodes"][0]["success"] and facts["episodes"][0]["ended"] == "steps"


@pytest.mark.parametrize("mode", ["async", "ensemble"])
def test_other_ways_of_execution_act_at_every_step(
    mode: str, artifacts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    assert (
        cli.main(
            [
                "deploy",
                str(artifacts / "planar.onnx"),
                "--robot",
                "env:planar/reach",
                "--mode",
                mode,
                "--steps",
                "30",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    facts = json.loads(out.read_text())
    assert facts["steps"] == 30 and facts["mode"] == mode
    text = capsys.readouterr().out
    if mode == "async":
        found = facts["chunks"]
        assert (
            found["chunks"] >= 3
            and found["failures"] == 0
            and f"asynchronous: {found['chunks']} chunks" in text
        )
    else:
        assert facts["chunks"] is None and "asynchronous" not in text


def test_an_asynchronous_robot_whose_server_ends_is_stopped_and_reported_in_one_line(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("websockets", reason="needs: pip install alltrades[serve]")
    from tests.policies.serving import running

    monkeypatch.chdir(tmp_path)
    with running(load_policy(artifacts / "planar")) as server:
        act, seen = RealTimeController.act, []

        def counted(self: RealTimeController, observation: np.ndarray) -> np.ndarray:
            seen.append(observation)
            if len(seen) == 12:
                server.stop()
            return act(self, observation)

        monkeypatch.setattr(RealTimeController, "act", counted)
        words = [
            "deploy",
            f"ws://127.0.0.1:{server.port}",
            "--robot",
            "env:planar/reach",
            "--mode",
            "async",
            "--timeout",
            "0.5",
            "--record",
            "r.zarr",
            "--json",
            "r.json",
        ]
        assert cli.main(words) == 2
    error = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("alltrades: ")
    ]
    assert len(error) == 1 and "no fresh action for 0.5 s" in error[0]
    facts = json.loads(Path("r.json").read_text())
    assert facts["episodes"][-1]["ended"] == "starved" and facts["chunks"]["stopped"] >= 1
    assert len(EpisodeStore.open("r.zarr").episode(0)) >= 12


def test_a_robot_that_falls_silent_is_stopped_recorded_and_reported_in_one_line(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    robot = bad_robot(tmp_path, "Silent", silent_after=9)
    words = [
        "deploy",
        str(artifacts / "toy"),
        "--robot",
        robot,
        "--rate",
        "100",
        "--timeout",
        "0.5",
        "--record",
        "r.zarr",
        "--episodes",
        "3",
        "--json",
        "r.json",
    ]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("alltrades: ")
        and error.count("\n") == 1
        and "no new observation for 0.5 s" in error
    )
    store = EpisodeStore.open("r.zarr")
    assert (
        len(store) == 1 and len(store.episode(0)) == 7
    )  # ticks 0 to 8 without 2, dropped, and 4, repeated
    assert log_of(tmp_path, "Silent")[-1] == ["act", [0.0, 0.0]]
    facts = json.loads(Path("r.json").read_text())
    assert facts["episodes"][-1]["ended"] == "timeout" and error == f"alltrades: {facts['error']}\n"


def test_a_policy_that_hangs_leaves_the_robot_stopped_and_is_reported_in_one_line(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    act, seen, release = Controller.act, [], threading.Event()

    def hung(self: Controller, observation: np.ndarray) -> np.ndarray:
        seen.append(observation)
        if len(seen) == 12:
            release.wait(60)
        return act(self, observation)

    monkeypatch.setattr(Controller, "act", hung)
    words = [
        "deploy",
        str(artifacts / "toy.onnx"),
        "--robot",
        good_robot(tmp_path, "Left", {}),
        "--rate",
        "50",
        "--timeout",
        "1",
        "--record",
        "r.zarr",
        "--episodes",
        "3",
        "--json",
        "r.json",
    ]
    assert cli.main(words) == 2 and not release.is_set()
    release.set()
    (error,) = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith("alltrades: ")
    )
    facts, acts = json.loads(Path("r.json").read_text()), np.array(log_of(tmp_path, "Left"))
    assert "no fresh action for 1 s" in error and error == f"alltrades: {facts['error']}"
    assert [e["ended"] for e in facts["episodes"]] == ["starved"] and facts["refusals"]["late"] == 1
    assert len(EpisodeStore.open("r.zarr").episode(0)) == 11 and facts["held"] > 20
    assert acts[-1].tolist() == [0.0, 0.0] and np.abs(np.diff(acts, axis=0)).max() <= 0.2 * (
        1 + 1e-4
    )


def test_a_signal_stops_the_robot_saves_the_episode_and_ends_the_command_well(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    robot = bad_robot(tmp_path, "Signalled", signal_at=5)
    words = [
        "deploy",
        str(artifacts / "toy.onnx"),
        "--robot",
        robot,
        "--rate",
        "100",
        "--record",
        "r.zarr",
        "--episodes",
        "9",
        "--timeout",
        "20",
    ]
    assert cli.main(words) == 0
    assert "episode 1: stopped after" in capsys.readouterr().out
    episode = EpisodeStore.open("r.zarr").episode(0)
    log = log_of(tmp_path, "Signalled")
    assert [kind for kind, _ in log].count("reset") == 1 and log[-1] == ["act", [0.0, 0.0]]
    assert len(episode) == len([k for k, _ in log if k == "new"]) and not episode.success


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP])
def test_signals_on_the_way_to_rest_and_while_the_robot_is_closed_are_ignored_and_that_is_said_once(
    first: int,
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"Impatient{int(first)}"
    again = {("act", n): [signal.SIGINT, first] for n in (21, 22)} | {("close", 0): [signal.SIGINT]}
    words = [
        "deploy",
        str(artifacts / "toy.onnx"),
        "--robot",
        good_robot(tmp_path, name, {("act", 20): [first]} | again),
    ]
    assert cli.main([*words, "--rate", "100", "--timeout", "20", "--json", "r.json"]) == 0
    acts = np.array(log_of(tmp_path, name))
    assert np.abs(acts[20]).max() > 0 and acts[-1].tolist() == [
        0.0,
        0.0,
    ]  # the second signal came on the way
    assert np.abs(np.diff(acts, axis=0)).max() <= 0.1 * (1 + 1e-4)  # 1 in 0.1 s
    captured = capsys.readouterr()
    assert captured.err.count("a signal was ignored") == 1
    assert json.loads(Path("r.json").read_text())["episodes"][0]["ended"] == "stopped"


def test_a_driver_that_hangs_is_interrupted_by_the_second_signal_and_the_robot_still_stopped(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    robot = good_robot(
        tmp_path, "Hanging", {("observe", 20): [signal.SIGINT, signal.SIGINT, signal.SIGINT]}
    )
    assert (
        cli.main(
            [
                "deploy",
                str(artifacts / "toy.onnx"),
                "--robot",
                robot,
                "--rate",
                "100",
                "--timeout",
                "20",
                "--record",
                "r.zarr",
                "--json",
                "r.json",
            ]
        )
        == 130
    )
    acts = np.array(log_of(tmp_path, "Hanging"))
    assert acts[-1].tolist() == [0.0, 0.0] and np.abs(np.diff(acts, axis=0)).max() <= 0.1 * (
        1 + 1e-4
    )
    facts = json.loads(Path("r.json").read_text())
    assert facts["episodes"][0]["ended"] == "failed" and "KeyboardInterrupt" in facts["error"]
    assert len(EpisodeStore.open("r.zarr").episode(0)) == 19


def test_a_terminal_that_stops_reading_does_not_stop_the_robots_loop(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    release, blocked = threading.Event(), threading.Event()

    def show(self: StatusLine, text: object) -> None:
        blocked.set()
        release.wait(60)

    monkeypatch.setattr(StatusLine, "show", show)
    robot = good_robot(tmp_path, "Unwatched", {})
    assert (
        cli.main(
            [
                "deploy",
                str(artifacts / "toy.onnx"),
                "--robot",
                robot,
                "--rate",
                "100",
                "--steps",
                "40",
                "--timeout",
                "20",
            ]
        )
        == 0
    )
    assert blocked.is_set() and not release.is_set()
    release.set()
    assert len(log_of(tmp_path, "Unwatched")) >= 40
