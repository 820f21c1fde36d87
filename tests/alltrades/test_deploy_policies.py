"""`alltrades deploy` with simulators, stores, exported and served policies, and its status line."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.policies.control.controller import Controller
from alltrades.policies.model.loading import load_policy
from alltrades.policies.onnx.onnx_policy import OnnxPolicy
from alltrades.robots.loop import ControlLoop
from alltrades.system.progress import StatusLine

from .deploying import good_robot, log_of, make_artifacts


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifacts(tmp_path_factory.mktemp("artifacts"))


# ---- simulators ----------------------------------------------------------------------------------
def test_an_environment_gives_the_episodes_of_a_rollout_bit_for_bit(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, name in (("planar", "planar/push"), ("planar.onnx", "gym:Pendulum-v1")):
        robot = f"env:{name}".replace("env:gym:", "gym:")
        words = [
            "deploy",
            str(artifacts / kind),
            "--robot",
            robot,
            "--fast",
            "--episodes",
            "2",
            "--record",
            f"{kind}.zarr",
            "--steps",
            "60",
        ]
        assert cli.main(words) == 0
        policy = (
            OnnxPolicy(artifacts / kind)
            if kind.endswith(".onnx")
            else load_policy(artifacts / kind)
        )
        seeds = [episode_seed(0, "deploy", name, i) for i in range(2)]
        want = list(
            rollout(
                [Job(name, s, "p") for s in seeds],
                {name: registry.get(name)},
                {"p": Controller(policy)},
                lanes=1,
            )
        )
        for a, b in zip(EpisodeStore.open(f"{kind}.zarr").episodes(), want):
            assert a.seed == b.seed and a.source == f"deploy/{kind}"
            for mine, other in (
                *((a.observations[name], b.observations[name]) for name in a.observations),
                (a.actions, b.actions),
                (a.rewards, b.rewards),
            ):
                assert mine is not None and other is not None and len(mine) == 60
                np.testing.assert_array_equal(mine, other[:60])


def test_a_store_is_continued_with_new_starts_and_tells_where_they_come_from(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "deploy",
        str(artifacts / "planar.onnx"),
        "--robot",
        "env:planar/reach",
        "--fast",
        "--steps",
        "5",
    ]
    words += ["--record", "r.zarr"]
    assert cli.main([*words, "--episodes", "2"]) == 0 and cli.main(words) == 0
    store = EpisodeStore.open("r.zarr")
    assert len(set(store.columns()["seed"].tolist())) == len(store) == 3
    entries = store.provenance["deployments"]
    assert [e["first_episode"] for e in entries] == [0, 2]
    assert (
        entries[0]["policy"] == load_policy(artifacts / "planar").digest()
        and entries[0]["robot"] == "env:planar/reach"
    )
    capsys.readouterr()
    assert cli.main(["data", "info", "r.zarr"]) == 0
    out = capsys.readouterr().out
    assert "planar/reach: 3 episodes, 15 steps" in out
    assert "from deploy/planar.onnx: 3 episodes, 5-5 steps" in out


def test_what_a_policy_did_is_not_added_to_demonstrations(
    artifacts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demos = str(tmp_path / "demos.zarr")
    few = ["--environments", "planar/reach", "--demos.episodes", "1", "--rollout.workers", "0"]
    assert cli.main(["collect", *few, "--rollout.timeout", "0", "--out", demos]) == 0
    before = EpisodeStore.open(demos).digest()
    words = ["deploy", str(artifacts / "planar.onnx"), "--robot", "env:planar/reach", "--fast"]
    assert cli.main([*words, "--steps", "5", "--record", demos]) == 2
    assert "a store of demonstrations; expected one that deploy wrote" in capsys.readouterr().err
    assert EpisodeStore.open(demos).digest() == before


def test_a_simulated_arm_in_real_time_keeps_the_rate_of_its_policy(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "deploy",
        str(artifacts / "planar.onnx"),
        "--robot",
        "mujoco:planar/push",
        "--steps",
        "12",
        "--record",
        "r.zarr",
        "--json",
        "r.json",
        "--timeout",
        "20",
    ]
    assert cli.main(words) == 0
    facts = json.loads(Path("r.json").read_text())
    assert facts["steps"] == 12 and facts["rate"] == 20.0 and facts["seconds"] >= 12 / 20 - 0.01
    assert len(EpisodeStore.open("r.zarr").episode(0)) == 12


def test_an_asynchronous_robot_gets_the_same_first_actions_and_never_waits_again(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = [
        "deploy",
        str(artifacts / "planar.onnx"),
        "--robot",
        "mujoco:planar/push",
        "--steps",
        "14",
        "--timeout",
        "20",
    ]
    for mode in ("sync", "async"):
        assert (
            cli.main(
                [*common, "--mode", mode, "--record", f"{mode}.zarr", "--json", f"{mode}.json"]
            )
            == 0
        )
    a, b = (EpisodeStore.open(f"{mode}.zarr").episode(0) for mode in ("sync", "async"))
    assert a.actions is not None and b.actions is not None and len(b) == 14
    np.testing.assert_array_equal(
        a.actions[0], b.actions[0]
    )  # from the same first observation and noise
    facts = json.loads(Path("async.json").read_text())
    assert (
        facts["chunks"]["chunks"] >= 2 and facts["chunks"]["failures"] == 0 and facts["steps"] == 14
    )


# ---- without torch -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("robot", "mode"),
    [("env:planar/reach", "sync"), ("mujoco:planar/reach", "async"), ("gym:Pendulum-v1", "sync")],
)
def test_an_exported_policy_acts_and_is_recorded_without_torch(
    artifacts: Path, tmp_path: Path, robot: str, mode: str
) -> None:
    code = (
        "import sys; from alltrades import cli; code = cli.main(sys.argv[1:]); print('TORCH', "
        "'torch' in sys.modules, code)"
    )
    words = [
        "deploy",
        str(artifacts / "planar.onnx"),
        "--robot",
        robot,
        "--mode",
        mode,
        "--steps",
        "2",
        "--timeout",
        "20",
    ]
    words += ["--record", "r.zarr", "--json", "r.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["TORCH False 0"], done.stderr
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["steps"] == 2 and facts["first_action_at"] > 0 and not facts["torch_imported"]
    assert len(EpisodeStore.open(tmp_path / "r.zarr").episode(0)) == 2
    assert "\x1b" not in done.stderr + done.stdout  # no live line without a terminal


def test_bench_start_times_fresh_processes_and_says_whether_torch_was_imported(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "start.json"
    assert (
        cli.main(
            [
                "bench",
                "start",
                "--policy",
                str(artifacts / "planar.onnx"),
                "--repeat",
                "2",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    assert "torch imported in 0 of them" in capsys.readouterr().out
    (result,) = json.loads(out.read_text())
    assert (
        result["processes"] == 2
        and result["torch_imported"] == 0
        and 0 < result["p50"] <= result["max"]
    )
    assert cli.main(["bench", "start", "--policy", str(tmp_path / "nothing.onnx")]) == 2
    monkeypatch.setattr(
        "alltrades.bench.start._first_action",
        lambda *_: {"first_action_at": 0.0, "torch_imported": True},
    )
    assert (
        cli.main(["bench", "start", "--policy", str(artifacts / "planar.onnx"), "--repeat", "1"])
        == 1
    )


# ---- a server, a terminal ------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["sync", "ensemble"])
def test_a_server_gives_the_robot_the_actions_of_the_policy(
    mode: str, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
    pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")
    from tests.policies.serving import running

    monkeypatch.chdir(tmp_path)
    common = [
        "--robot",
        "env:planar/push",
        "--fast",
        "--steps",
        "30",
        "--timeout",
        "20",
        "--mode",
        mode,
    ]
    with running(load_policy(artifacts / "planar"), batch=1) as server:
        assert (
            cli.main(["deploy", f"ws://127.0.0.1:{server.port}", *common, "--record", "a.zarr"])
            == 0
        )
    assert cli.main(["deploy", str(artifacts / "planar"), *common, "--record", "b.zarr"]) == 0
    a, b = (EpisodeStore.open(name).episode(0) for name in ("a.zarr", "b.zarr"))
    assert a.source == "deploy/server" and len(a) == 30
    np.testing.assert_array_equal(a.actions, b.actions)


def test_a_server_that_is_lost_is_reported_with_the_figures_and_the_episode(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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
        words = [
            "deploy",
            f"ws://127.0.0.1:{server.port}",
            "--robot",
            good_robot(tmp_path, "Deserted", {}),
            "--rate",
            "50",
            "--timeout",
            "6",  # tries to connect again end after 3 s
            "--record",
            "r.zarr",
            "--json",
            "r.json",
        ]
        assert cli.main(words) == 2
    captured = capsys.readouterr()
    (error,) = (line for line in captured.err.splitlines() if line.startswith("alltrades: "))
    facts = json.loads(Path("r.json").read_text())
    assert facts["error"] and f"alltrades: {' '.join(facts['error'].split())}" == error
    steps = len(EpisodeStore.open("r.zarr").episode(0))
    assert (
        facts["episodes"][0]["ended"] == "failed"
        and facts["episodes"][0]["steps"] == facts["steps"] == steps >= 12
    )
    assert "toy on deserted:Deserted: 1 episodes, success unknown" in captured.out
    assert log_of(tmp_path, "Deserted")[-1] == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble"])
def test_a_robot_that_the_operator_holds_rests_until_it_may_go_on_and_that_is_shown(
    mode: str,
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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
        words = [
            "deploy",
            f"ws://127.0.0.1:{server.port}",
            "--robot",
            good_robot(tmp_path, f"Held{mode}", {}),
            "--rate",
            "50",
            "--timeout",
            "20",
            "--mode",
            mode,
            "--steps",
            "60",
            "--json",
            "r.json",
        ]
        assert cli.main(words) == 0
    acts, facts = np.array(log_of(tmp_path, f"Held{mode}")), json.loads(Path("r.json").read_text())
    rest = (acts == 0).all(axis=1)
    first, last = int(np.flatnonzero(rest[:-1])[0]), int(np.flatnonzero(rest[:-10])[-1])
    assert (
        19 <= first
        and last - first >= 40
        and rest[first:last].all()
        and not rest[last + 1 : last + 5].any()
    )
    assert np.abs(np.diff(acts, axis=0)).max() <= 0.2 * (1 + 1e-4)
    assert (
        facts["paused"] >= 50 and facts["steps"] == 60 and facts["episodes"][0]["ended"] == "steps"
    )
    assert any("HELD BY THE OPERATOR" in line for line in shown) and "HELD" not in shown[-1]
    assert f"held by the operator for {facts['paused']} control steps" in capsys.readouterr().out


def test_on_a_terminal_one_line_shows_rate_latency_and_guard(
    artifacts: Path, tmp_path: Path
) -> None:
    (tmp_path / "limits.yaml").write_text("planar/push: {rate: 0.001}\n")
    leader, follower = pty.openpty()
    words = [
        sys.executable,
        "-m",
        "alltrades.cli",
        "deploy",
        str(artifacts / "planar.onnx"),
        "--robot",
        "mujoco:planar/push",
        "--steps",
        "15",
        "--limits",
        "limits.yaml",
        "--timeout",
        "20",
    ]
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=follower, env=environment
    ) as process:
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
    assert (
        re.search(r"episode 1/1  step \d+/15", text)
        and " Hz  latency " in text
        and "guard rate " in text
    )
    assert "action refused (rate)" in text  # a warning of the guard
    assert text.rstrip().endswith("\x1b[K")  # nothing of it stays


# ---- mistakes ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "--robot", "env:planar/reach"], "no policy here"),
        (["nowhere", "--robot", "env:planar/reach", "--device", "warp"], "--device warp"),
        (["POLICY", "--robot", "planar/reach"], "expected gym:ID"),
        (["POLICY", "--robot", "env:planar/drawer"], "does not know environment 'planar/drawer'"),
        (
            ["POLICY", "--robot", "env:planar/reach", "--environment", "gym:Pendulum-v1"],
            "2 action values",
        ),
        (["POLICY", "--robot", "env:planar/reach", "--episodes", "0"], "--episodes: 0"),
        (
            ["POLICY", "--robot", "env:planar/reach", "--limits", "nowhere.yaml"],
            "nowhere.yaml: cannot be read (No such file",
        ),
        (["POLICY", "--robot", "env:planar/reach", "--record", "."], "cannot be read as a store"),
        (["POLICY", "--robot", "mujoco:planar/reach", "--fast"], "real time"),
        (
            [
                "POLICY",
                "--robot",
                "mujoco:planar/reach",
                "--timeout",
                "0.05",
                "--record",
                "new.zarr",
            ],
            "expected two control steps",
        ),
        (["POLICY", "--robot", "mujoco:planar/reach", "--rate", "inf"], "--rate inf"),
        (
            ["POLICY", "--robot", "env:planar/reach", "--preference", "planar/reach=1"],
            "expected a policy's folder",
        ),
        (["POLICY", "--robot", "env:planar/reach", "--mode", "psychic"], "psychic"),
    ],
)
def test_mistakes_are_one_line_and_move_nothing(
    artifacts: Path,
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    assert (
        cli.main(
            ["deploy", *(str(artifacts / "planar.onnx") if w == "POLICY" else w for w in words)]
        )
        == 2
    )
    captured = capsys.readouterr()
    assert (
        captured.err.count("\n") == 1 and expected in captured.err and "episode" not in captured.out
    )
    assert (tmp_path / "mine.txt").read_text() == "kept" and not (tmp_path / "new.zarr").exists()
