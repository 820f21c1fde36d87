"""`alltrades deploy` as a user runs it: own robots with bad sensors, simulators, servers, stores, signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollout import Job, rollout
from alltrades.envs.seeding import episode_seed
from alltrades.policies import worker
from alltrades.policies.control_loop import ControlLoop
from alltrades.policies.controller import Controller
from alltrades.policies.export import export_onnx
from alltrades.policies.onnx_policy import OnnxPolicy
from alltrades.policies.policy import EnvironmentInfo, load_policy
from alltrades.policies.realtime import RealTimeController
from alltrades.policies.settings import PolicySettings
from alltrades.progress import StatusLine
from tests.policies.toys import info, make_policy

SETTINGS = PolicySettings(history=2, horizon=8, execute=4, width=32, depth=1, embedding=4, sampling_steps=3)

# A robot whose sensor does everything wrong; what it sent and was told is written when it is closed.
BAD_ROBOT = """
import json, os, signal, time
import numpy as np
from alltrades.envs.robots import Reading, RobotLimits

class {name}:
    limits = RobotLimits((-1, -1), (1, 1), control_hz=10, stop_action=(0, 0))
    silent_after, signal_at = {silent_after}, {signal_at}

    def __init__(self):
        self.log, self.count, self.acts, self.old = [], 0, 0, None

    def reset(self, seed):
        self.log.append(["reset", seed])

    def observe(self):
        tick = self.count
        self.count += 1
        fresh = Reading(np.array([tick, 0.5, -0.5], np.float32), stamp=tick)
        if tick >= self.silent_after or tick % 7 == 2:
            return self.note("dropped", None)
        if tick % 7 == 4:
            return self.note("repeated", self.old)
        if tick % 7 == 5 and tick > 7:
            return self.note("late", Reading(np.array([tick - 6, 9, 9], np.float32), stamp=tick - 6))
        if tick % 7 == 6:
            time.sleep(0.03)  # longer than two periods at 100 Hz
        self.old = fresh
        return self.note("new", fresh)

    def note(self, kind, reading):
        self.log.append([kind, self.count - 1])
        return reading

    def act(self, action):
        self.log.append(["act", [float(a) for a in action]])
        self.acts += 1
        if self.acts == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        with open("{name}.json", "w") as file:
            json.dump(self.log, file)
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy`, for an environment of 3 observations and 2 actions; `planar`, for three environments; each exported, too."""
    folder = tmp_path_factory.mktemp("artifacts")
    names = ["planar/reach", "planar/push", "gym:Pendulum-v1"]
    for name, infos in (("toy", [info("toy")]), ("planar", [EnvironmentInfo.of(registry.get(n)) for n in names])):
        policy = make_policy(infos, SETTINGS)
        with torch.no_grad():  # last layers may start at zero, where an output would not depend on its input
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        policy.save(folder / name)
        export_onnx(policy, folder / f"{name}.onnx")
    return folder


def bad_robot(folder: Path, name: str, silent_after: int = 10**9, signal_at: int = -1) -> str:
    (folder / f"{name.lower()}.py").write_text(BAD_ROBOT.format(name=name, silent_after=silent_after, signal_at=signal_at))
    return f"{name.lower()}:{name}"


def log_of(folder: Path, name: str) -> list:
    return json.loads((folder / f"{name}.json").read_text())


# ---- one's own robot ---------------------------------------------------------------------------------------------
def test_a_robot_that_drops_repeats_and_delays_observations_is_driven_and_recorded(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    robot = bad_robot(tmp_path, "BadSensors")
    words = ["deploy", str(artifacts / "toy.onnx"), "--robot", robot, "--rate", "100", "--steps", "25", "--record", "r.zarr",
             "--json", "out/r.json", "--seed", "3", "--timeout", "20"]
    assert cli.main(words) == 0, capsys.readouterr().err
    log = log_of(tmp_path, "BadSensors")
    kinds = [kind for kind, _ in log]
    acts = np.array([value for kind, value in log if kind == "act"], np.float32)
    new = [value for kind, value in log if kind == "new"]
    assert log[0] == ["reset", episode_seed(3, "deploy", "toy", 0)]
    episode = EpisodeStore.open("r.zarr").episode(0)
    assert len(episode) == 25 and episode.observation[:, 0].tolist() == new[:25]
    # every observation is answered by one action; whatever came instead of one repeats the last, and so does a slow policy
    answers: list[list[list[float]]] = []  # to every observation, good or bad, until the last one, which ends the episode
    for kind, value in log[1: max(i for i, (kind, _) in enumerate(log) if kind == "new")]:
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
    want = np.array([controller.act(row)[0] for row in episode.observation])
    np.testing.assert_allclose(episode.actions, np.clip(want, -1, 1), atol=1e-6)
    assert np.clip(want, -1, 1).std(axis=0).min() > 1e-2
    facts = json.loads((tmp_path / "out" / "r.json").read_text())
    seen = {kind: kinds[: len(kinds) - kinds[::-1].index("new")].count(kind) for kind in ("dropped", "repeated", "late")}
    assert facts["observations"] == {"missing": seen["dropped"], "repeated": seen["repeated"], "late": seen["late"],
                                     "unreadable": 0}
    assert facts["held"] == held and facts["missed"] >= 4 and facts["steps"] == 25
    assert not facts["episodes"][0]["success"] and facts["episodes"][0]["ended"] == "steps"


@pytest.mark.parametrize("mode", ["async", "ensemble"])
def test_other_ways_of_execution_act_at_every_step(mode: str, artifacts: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    assert cli.main(["deploy", str(artifacts / "planar.onnx"), "--robot", "env:planar/reach", "--mode", mode, "--steps", "30",
                     "--json", str(out)]) == 0
    facts = json.loads(out.read_text())
    assert facts["steps"] == 30 and facts["mode"] == mode
    text = capsys.readouterr().out
    if mode == "async":
        found = facts["chunks"]
        assert found["chunks"] >= 3 and found["failures"] == 0 and f"asynchronous: {found['chunks']} chunks" in text
    else:
        assert facts["chunks"] is None and "asynchronous" not in text


def test_an_asynchronous_robot_whose_server_ends_is_stopped_and_reported_in_one_line(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
        words = ["deploy", f"ws://127.0.0.1:{server.port}", "--robot", "env:planar/reach", "--mode", "async", "--timeout", "0.5",
                 "--record", "r.zarr", "--json", "r.json"]
        assert cli.main(words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alltrades: ")]
    assert len(error) == 1 and "no fresh action for 0.5 s" in error[0]
    facts = json.loads(Path("r.json").read_text())
    assert facts["episodes"][-1]["ended"] == "starved" and facts["chunks"]["stopped"] >= 1
    assert len(EpisodeStore.open("r.zarr").episode(0)) >= 12


def test_a_robot_that_falls_silent_is_stopped_recorded_and_reported_in_one_line(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    robot = bad_robot(tmp_path, "Silent", silent_after=9)
    words = ["deploy", str(artifacts / "toy"), "--robot", robot, "--rate", "100", "--timeout", "0.5", "--record", "r.zarr",
             "--episodes", "3", "--json", "r.json"]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("alltrades: ") and error.count("\n") == 1 and "no new observation for 0.5 s" in error
    store = EpisodeStore.open("r.zarr")
    assert len(store) == 1 and len(store.episode(0)) == 7  # ticks 0 to 8 without 2, dropped, and 4, repeated
    assert log_of(tmp_path, "Silent")[-1] == ["act", [0.0, 0.0]]
    facts = json.loads(Path("r.json").read_text())
    assert facts["episodes"][-1]["ended"] == "timeout" and error == f"alltrades: {facts['error']}\n"


def test_a_policy_that_hangs_leaves_the_robot_stopped_and_is_reported_in_one_line(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "PATIENCE", 0.05)
    act, seen, release = Controller.act, [], threading.Event()

    def hung(self: Controller, observation: np.ndarray) -> np.ndarray:
        seen.append(observation)
        if len(seen) == 12:
            release.wait(60)
        return act(self, observation)

    monkeypatch.setattr(Controller, "act", hung)
    words = ["deploy", str(artifacts / "toy.onnx"), "--robot", good_robot(tmp_path, "Left", {}), "--rate", "50", "--timeout", "1",
             "--record", "r.zarr", "--episodes", "3", "--json", "r.json"]
    assert cli.main(words) == 2 and not release.is_set()
    release.set()
    error, = (line for line in capsys.readouterr().err.splitlines() if line.startswith("alltrades: "))
    facts, acts = json.loads(Path("r.json").read_text()), np.array(log_of(tmp_path, "Left"))
    assert "no fresh action for 1 s" in error and error == f"alltrades: {facts['error']}"
    assert [e["ended"] for e in facts["episodes"]] == ["starved"] and facts["refusals"]["late"] == 1
    assert len(EpisodeStore.open("r.zarr").episode(0)) == 11 and facts["held"] > 20
    assert acts[-1].tolist() == [0.0, 0.0] and np.abs(np.diff(acts, axis=0)).max() <= 0.2 * (1 + 1e-4)


def test_a_signal_stops_the_robot_saves_the_episode_and_ends_the_command_well(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    robot = bad_robot(tmp_path, "Signalled", signal_at=5)
    words = ["deploy", str(artifacts / "toy.onnx"), "--robot", robot, "--rate", "100", "--record", "r.zarr", "--episodes", "9",
             "--timeout", "20"]
    assert cli.main(words) == 0
    assert "episode 1: stopped after" in capsys.readouterr().out
    episode = EpisodeStore.open("r.zarr").episode(0)
    log = log_of(tmp_path, "Signalled")
    assert [kind for kind, _ in log].count("reset") == 1 and log[-1] == ["act", [0.0, 0.0]]
    assert len(episode) == len([k for k, _ in log if k == "new"]) and not episode.success


GOOD_ROBOT = """
import json, os, signal, time
import numpy as np
from alltrades.envs.robots import Reading, RobotLimits

class {name}:
    limits = RobotLimits((-1, -1), (1, 1), control_hz=10, rate=(1, 1), stop_action=(0, 0))
    signals = {signals}  # by the number of observations, and of actions

    def __init__(self):
        self.acts, self.count = [], 0

    def observe(self):
        self.count += 1
        self.kill("observe", self.count)
        return Reading(np.array([self.count / 100, 0.5, -0.5], np.float32), stamp=self.count)

    def act(self, action):
        self.acts.append([float(a) for a in action])
        self.kill("act", len(self.acts))

    def kill(self, method, count):
        for number in self.signals.get((method, count), []):
            os.kill(os.getpid(), number)

    def close(self):
        self.kill("close", 0)
        with open("{name}.json", "w") as file:
            json.dump(self.acts, file)
"""


def good_robot(folder: Path, name: str, signals: dict[tuple[str, int], list[int]]) -> str:
    plain = {key: [int(number) for number in numbers] for key, numbers in signals.items()}
    (folder / f"{name.lower()}.py").write_text(GOOD_ROBOT.format(name=name, signals=plain))
    return f"{name.lower()}:{name}"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP])
def test_signals_on_the_way_to_rest_and_while_the_robot_is_closed_are_ignored_and_that_is_said_once(
        first: int, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"Impatient{int(first)}"
    again = {("act", n): [signal.SIGINT, first] for n in (21, 22)} | {("close", 0): [signal.SIGINT]}
    words = ["deploy", str(artifacts / "toy.onnx"), "--robot", good_robot(tmp_path, name, {("act", 20): [first]} | again)]
    assert cli.main([*words, "--rate", "100", "--timeout", "20", "--json", "r.json"]) == 0
    acts = np.array(log_of(tmp_path, name))
    assert np.abs(acts[20]).max() > 0 and acts[-1].tolist() == [0.0, 0.0]  # the second signal came on the way
    assert np.abs(np.diff(acts, axis=0)).max() <= 0.1 * (1 + 1e-4)  # 1 in 0.1 s
    captured = capsys.readouterr()
    assert captured.err.count("a signal was ignored") == 1
    assert json.loads(Path("r.json").read_text())["episodes"][0]["ended"] == "stopped"


def test_a_driver_that_hangs_is_interrupted_by_the_second_signal_and_the_robot_still_stopped(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    robot = good_robot(tmp_path, "Hanging", {("observe", 20): [signal.SIGINT, signal.SIGINT, signal.SIGINT]})
    assert cli.main(["deploy", str(artifacts / "toy.onnx"), "--robot", robot, "--rate", "100", "--timeout", "20", "--record",
                     "r.zarr", "--json", "r.json"]) == 130
    acts = np.array(log_of(tmp_path, "Hanging"))
    assert acts[-1].tolist() == [0.0, 0.0] and np.abs(np.diff(acts, axis=0)).max() <= 0.1 * (1 + 1e-4)
    facts = json.loads(Path("r.json").read_text())
    assert facts["episodes"][0]["ended"] == "failed" and "KeyboardInterrupt" in facts["error"]
    assert len(EpisodeStore.open("r.zarr").episode(0)) == 19


def test_a_terminal_that_stops_reading_does_not_stop_the_robots_loop(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    release, blocked = threading.Event(), threading.Event()

    def show(self: StatusLine, text: object) -> None:
        blocked.set()
        release.wait(60)

    monkeypatch.setattr(StatusLine, "show", show)
    robot = good_robot(tmp_path, "Unwatched", {})
    assert cli.main(["deploy", str(artifacts / "toy.onnx"), "--robot", robot, "--rate", "100", "--steps", "40", "--timeout",
                     "20"]) == 0
    assert blocked.is_set() and not release.is_set()
    release.set()
    assert len(log_of(tmp_path, "Unwatched")) >= 40


# ---- simulators --------------------------------------------------------------------------------------------------
def test_an_environment_gives_the_episodes_of_a_rollout_bit_for_bit(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, name in (("planar", "planar/push"), ("planar.onnx", "gym:Pendulum-v1")):
        robot = f"env:{name}".replace("env:gym:", "gym:")
        words = ["deploy", str(artifacts / kind), "--robot", robot, "--fast", "--episodes", "2", "--record", f"{kind}.zarr",
                 "--steps", "60"]
        assert cli.main(words) == 0
        policy = OnnxPolicy(artifacts / kind) if kind.endswith(".onnx") else load_policy(artifacts / kind)
        seeds = [episode_seed(0, "deploy", name, i) for i in range(2)]
        want = list(rollout([Job(name, s, "p") for s in seeds], {name: registry.get(name)}, {"p": Controller(policy)}, lanes=1))
        for a, b in zip(EpisodeStore.open(f"{kind}.zarr").episodes(), want):
            assert a.seed == b.seed and a.source == f"deploy/{kind}"
            for mine, other in ((a.observation, b.observation), (a.actions, b.actions), (a.rewards, b.rewards)):
                assert mine is not None and other is not None and len(mine) == 60
                np.testing.assert_array_equal(mine, other[:60])


def test_a_store_is_continued_with_new_starts_and_tells_where_they_come_from(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["deploy", str(artifacts / "planar.onnx"), "--robot", "env:planar/reach", "--fast", "--steps", "5"]
    words += ["--record", "r.zarr"]
    assert cli.main([*words, "--episodes", "2"]) == 0 and cli.main(words) == 0
    store = EpisodeStore.open("r.zarr")
    assert len(set(store.columns()["seed"].tolist())) == len(store) == 3
    entries = store.provenance["deployments"]
    assert [e["first_episode"] for e in entries] == [0, 2]
    assert entries[0]["policy"] == load_policy(artifacts / "planar").digest() and entries[0]["robot"] == "env:planar/reach"
    capsys.readouterr()
    assert cli.main(["data", "info", "r.zarr"]) == 0
    out = capsys.readouterr().out
    assert "planar/reach from deploy/planar.onnx: 3 episodes, 5-5 steps" in out


def test_a_simulated_arm_in_real_time_keeps_the_rate_of_its_policy(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["deploy", str(artifacts / "planar.onnx"), "--robot", "mujoco:planar/push", "--steps", "12", "--record", "r.zarr",
             "--json", "r.json", "--timeout", "20"]
    assert cli.main(words) == 0
    facts = json.loads(Path("r.json").read_text())
    assert facts["steps"] == 12 and facts["rate"] == 20.0 and facts["seconds"] >= 12 / 20 - 0.01
    assert len(EpisodeStore.open("r.zarr").episode(0)) == 12


def test_an_asynchronous_robot_gets_the_same_first_actions_and_never_waits_again(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["deploy", str(artifacts / "planar.onnx"), "--robot", "mujoco:planar/push", "--steps", "14", "--timeout", "20"]
    for mode in ("sync", "async"):
        assert cli.main([*common, "--mode", mode, "--record", f"{mode}.zarr", "--json", f"{mode}.json"]) == 0
    a, b = (EpisodeStore.open(f"{mode}.zarr").episode(0) for mode in ("sync", "async"))
    assert a.actions is not None and b.actions is not None and len(b) == 14
    np.testing.assert_array_equal(a.actions[0], b.actions[0])  # from the same first observation and noise
    facts = json.loads(Path("async.json").read_text())
    assert facts["chunks"]["chunks"] >= 2 and facts["chunks"]["failures"] == 0 and facts["steps"] == 14


# ---- without torch -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("robot", "mode"), [("env:planar/reach", "sync"), ("mujoco:planar/reach", "async"),
                                             ("gym:Pendulum-v1", "sync")])
def test_an_exported_policy_acts_and_is_recorded_without_torch(artifacts: Path, tmp_path: Path, robot: str, mode: str) -> None:
    code = ("import sys; from alltrades import cli; code = cli.main(sys.argv[1:]); "
            "print('TORCH', 'torch' in sys.modules, code)")
    words = ["deploy", str(artifacts / "planar.onnx"), "--robot", robot, "--mode", mode, "--steps", "2", "--timeout", "20"]
    words += ["--record", "r.zarr", "--json", "r.json"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["TORCH False 0"], done.stderr
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["steps"] == 2 and facts["first_action_at"] > 0 and not facts["torch_imported"]
    assert len(EpisodeStore.open(tmp_path / "r.zarr").episode(0)) == 2
    assert "\x1b" not in done.stderr + done.stdout  # no live line without a terminal


def test_bench_start_times_fresh_processes_and_says_whether_torch_was_imported(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "start.json"
    assert cli.main(["bench", "start", "--policy", str(artifacts / "planar.onnx"), "--repeat", "2", "--json", str(out)]) == 0
    assert "torch imported in 0 of them" in capsys.readouterr().out
    result, = json.loads(out.read_text())
    assert result["processes"] == 2 and result["torch_imported"] == 0 and 0 < result["p50"] <= result["max"]
    assert cli.main(["bench", "start", "--policy", str(tmp_path / "nothing.onnx")]) == 2
    monkeypatch.setattr("alltrades.bench.start._first_action", lambda *_: {"first_action_at": 0.0, "torch_imported": True})
    assert cli.main(["bench", "start", "--policy", str(artifacts / "planar.onnx"), "--repeat", "1"]) == 1


# ---- a server, a terminal ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["sync", "ensemble"])
def test_a_server_gives_the_robot_the_actions_of_the_policy(
        mode: str, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
    pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")
    from tests.policies.serving import running

    monkeypatch.chdir(tmp_path)
    common = ["--robot", "env:planar/push", "--fast", "--steps", "30", "--timeout", "20", "--mode", mode]
    with running(load_policy(artifacts / "planar"), batch=1) as server:
        assert cli.main(["deploy", f"ws://127.0.0.1:{server.port}", *common, "--record", "a.zarr"]) == 0
    assert cli.main(["deploy", str(artifacts / "planar"), *common, "--record", "b.zarr"]) == 0
    a, b = (EpisodeStore.open(name).episode(0) for name in ("a.zarr", "b.zarr"))
    assert a.source == "deploy/server" and len(a) == 30
    np.testing.assert_array_equal(a.actions, b.actions)


def test_a_server_that_is_lost_is_reported_with_the_figures_and_the_episode(
        artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
    pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")
    from tests.policies.serving import running

    monkeypatch.chdir(tmp_path)
    act, seen = Controller.act, []
    with running(load_policy(artifacts / "toy")) as server:
        def counted(self: Controller, observation: np.ndarray) -> np.ndarray:
            seen.append(observation)
            if len(seen) == 13:
                server.stop()
            return act(self, observation)

        monkeypatch.setattr(Controller, "act", counted)
        words = ["deploy", f"ws://127.0.0.1:{server.port}", "--robot", good_robot(tmp_path, "Deserted", {}), "--rate", "50",
                 "--timeout", "20", "--record", "r.zarr", "--json", "r.json"]
        assert cli.main(words) == 2
    captured = capsys.readouterr()
    error, = (line for line in captured.err.splitlines() if line.startswith("alltrades: "))
    facts = json.loads(Path("r.json").read_text())
    assert facts["error"] and f"alltrades: {' '.join(facts['error'].split())}" == error
    steps = len(EpisodeStore.open("r.zarr").episode(0))
    assert facts["episodes"][0]["ended"] == "failed" and facts["episodes"][0]["steps"] == facts["steps"] == steps >= 12
    assert "toy on deserted:Deserted: 0 of 1 episodes succeeded" in captured.out
    assert log_of(tmp_path, "Deserted")[-1] == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble"])
def test_a_robot_that_the_operator_holds_rests_until_it_may_go_on_and_that_is_shown(
        mode: str, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
    pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")
    from tests.policies.serving import running

    monkeypatch.chdir(tmp_path)
    shown: list[str] = []
    monkeypatch.setattr(StatusLine, "show", lambda self, text: shown.append(text()))
    observe, seen = ControlLoop._look, []
    with running(load_policy(artifacts / "toy")) as server:
        def operated(self: ControlLoop) -> str | None:
            seen.append(self.operator_holds)
            if len(seen) == 20 or seen.count(True) == 60:
                server.hold(len(seen) == 20)
            return observe(self)

        monkeypatch.setattr(ControlLoop, "_look", operated)
        words = ["deploy", f"ws://127.0.0.1:{server.port}", "--robot", good_robot(tmp_path, f"Held{mode}", {}), "--rate", "50",
                 "--timeout", "20", "--mode", mode, "--steps", "60", "--json", "r.json"]
        assert cli.main(words) == 0
    acts, facts = np.array(log_of(tmp_path, f"Held{mode}")), json.loads(Path("r.json").read_text())
    rest = (acts == 0).all(axis=1)
    first, last = int(np.flatnonzero(rest[:-1])[0]), int(np.flatnonzero(rest[:-10])[-1])
    assert 19 <= first and last - first >= 40 and rest[first:last].all() and not rest[last + 1: last + 5].any()
    assert np.abs(np.diff(acts, axis=0)).max() <= 0.2 * (1 + 1e-4)
    assert facts["paused"] >= 50 and facts["steps"] == 60 and facts["episodes"][0]["ended"] == "steps"
    assert any("HELD BY THE OPERATOR" in line for line in shown) and "HELD" not in shown[-1]
    assert f"held by the operator for {facts['paused']} control steps" in capsys.readouterr().out


def test_on_a_terminal_one_line_shows_rate_latency_and_guard(artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text("planar/push: {rate: 0.001}\n")
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "alltrades.cli", "deploy", str(artifacts / "planar.onnx"), "--robot", "mujoco:planar/push",
             "--steps", "15", "--limits", "limits.yaml", "--timeout", "20"]
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=follower, env=environment) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(leader)
    assert process.returncode == 0, seen
    text = seen.decode()
    assert re.search(r"episode 1/1  step \d+/15", text) and " Hz  latency " in text and "guard rate " in text
    assert "action refused (rate)" in text  # a warning of the guard
    assert text.rstrip().endswith("\x1b[K")  # nothing of it stays


# ---- mistakes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("words", "expected"), [
    (["nowhere", "--robot", "env:planar/reach"], "no policy here"),
    (["nowhere", "--robot", "env:planar/reach", "--device", "warp"], "--device warp"),
    (["POLICY", "--robot", "planar/reach"], "expected gym:ID"),
    (["POLICY", "--robot", "env:planar/drawer"], "does not know environment 'planar/drawer'"),
    (["POLICY", "--robot", "env:planar/reach", "--environment", "gym:Pendulum-v1"], "2 action values"),
    (["POLICY", "--robot", "env:planar/reach", "--episodes", "0"], "--episodes 0"),
    (["POLICY", "--robot", "env:planar/reach", "--limits", "nowhere.yaml"], "limits cannot be read"),
    (["POLICY", "--robot", "env:planar/reach", "--record", "."], "cannot be read as a store"),
    (["POLICY", "--robot", "mujoco:planar/reach", "--fast"], "real time"),
    (["POLICY", "--robot", "mujoco:planar/reach", "--timeout", "0.05", "--record", "new.zarr"], "expected two control steps"),
    (["POLICY", "--robot", "mujoco:planar/reach", "--rate", "inf"], "--rate inf"),
    (["POLICY", "--robot", "env:planar/reach", "--preference", "planar/reach=1"], "expected a policy's folder"),
    (["POLICY", "--robot", "env:planar/reach", "--mode", "psychic"], "psychic"),
])
def test_mistakes_are_one_line_and_move_nothing(
        artifacts: Path, words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    assert cli.main(["deploy", *(str(artifacts / "planar.onnx") if w == "POLICY" else w for w in words)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and expected in captured.err and "episode" not in captured.out
    assert (tmp_path / "mine.txt").read_text() == "kept" and not (tmp_path / "new.zarr").exists()
