"""Independent work on a Ray cluster whose nodes die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from alltrades import cli
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.rollout import rollout
from alltrades.errors import UserError
from alltrades.pipeline.executors import executor_of
from alltrades.pipeline.runner import run
from alltrades.settings.compute import ComputeSettings
from alltrades.system.compute.executor import Ears, Here
from alltrades.system.processes import alive, descendants
from tests.alltrades.small_run import settings
from tests.alltrades.test_run_elsewhere import SETTINGS, contents, metrics
from tests.envs.test_rollout_workers import SPECS, assert_same, diffusion_episodes, diffusion_jobs

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.slow  # a cluster takes ten seconds to start


KINDS = {"run_block", "_train", "_draw", "_weigh"}  # of tasks


def working(pid: int) -> list[int]:
    """Workers of this project below a process: others of Ray's wait for work from its start on."""
    return sorted({*descendants(pid)} & {*processes_called("ray::alltrades")})


@pytest.fixture
def short():
    """A folder whose name leaves room for those of sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def with_no_cluster(folder: str) -> dict[str, str]:
    """The environment of a process that belongs to no cluster of this machine."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "RAY_TMPDIR": folder}


def test_the_cluster_that_another_process_has_for_itself_is_let_be(short):
    connects = "from alltrades.system.compute.ray_pool import Cluster; Cluster('ray', print)"
    command = [sys.executable, "-c", f"{connects}; print('connected', flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        said = []
        for _ in range(2):  # the first goes on while the second connects
            process = stack.enter_context(
                subprocess.Popen(command, env=with_no_cluster(short), **pipes)
            )
            stack.callback(process.communicate, "\n")
            said.append("")
            for line in process.stdout:
                said[-1] += line
                if line == "connected\n":
                    break
    assert all("one was started" in text and "connected" in text for text in said), said


def test_an_interrupted_command_leaves_nothing_behind(tmp_path, short):
    words = "run --small --compute ray --no-report --tracking.wandb disabled"
    words += " --specialist.train.steps 200000 --labeled_only.steps 200000"  # until it is told
    command = [
        sys.executable,
        "-m",
        "alltrades.cli",
        *words.split(),
        "--out",
        str(tmp_path / "run"),
    ]

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it

    env, pipe = with_no_cluster(short), subprocess.PIPE
    with subprocess.Popen(command, env=env, stderr=pipe, text=True, preexec_fn=listen) as process:
        for line in process.stderr:
            if line.startswith("environments"):
                break
        deadline = time.monotonic() + 180
        while not (workers := working(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert workers
        time.sleep(2.0)
        below = {*workers, *descendants(process.pid)}
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(180) == 130, said
    assert "interrupted; the same command goes on where it was" in said
    deadline = time.monotonic() + 120
    while (left := [pid for pid in below if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left and len(below) > 4


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one processor each, besides the one of this process."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def executor(cluster):
    with executor_of(ComputeSettings(on="ray")) as found:
        yield found


def work(here: Here, shared: int, item: str | int) -> int:
    if item == "fail":
        raise UserError("nothing found; expected something")
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    here.say(f"doing {item}")
    here.report.log(int(item), {"loss": 1.0})
    here.tell(item)
    here.report.progress(1, 2)
    return shared + int(item)


def test_tasks_report_and_fail_as_here(executor):
    said, told = [], []
    ears = Ears(say=said.append, hear=told.append)
    assert executor.slots == 2
    assert list(executor.map(work, range(5), 10, ears)) == [10, 11, 12, 13, 14]
    assert sorted(said) == [f"doing {i}" for i in range(5)] and sorted(told) == list(range(5))
    with pytest.raises(UserError) as caught:
        list(executor.map(work, [1, "fail", 2], 0, ears))
    assert str(caught.value) == "nothing found; expected something"
    assert "in work" in caught.value.__notes__[0]  # what --traceback shows
    with pytest.raises(UserError, match="one task ended 3 workers of the cluster"):
        list(executor.map(work, ["die"], 0, ears))
    assert list(executor.map(work, [4], 0, ears)) == [4]


def test_episodes_on_a_cluster_are_bit_equal(executor):
    controller, jobs, experts = diffusion_jobs()
    with Crew(1, timeout=300.0, executor=executor) as crew:
        given = {"lanes": 5, "experts": experts, "crew": crew}
        assert_same(diffusion_episodes(0), list(rollout(jobs, SPECS, {"p": controller}, **given)))
        found = rollout(jobs, SPECS, {"p": controller}, **given)
        first = next(found)
        found.close()  # given up while others run
        assert_same([first], diffusion_episodes(0)[:1])


def test_a_run_survives_the_loss_of_a_node_in_every_stage(cluster, tmp_path, monkeypatch, capsys):
    from alltrades.system.compute import ray_executor

    lost: dict[str, int] = {}
    start = ray_executor._Map._start

    def start_and_lose(self) -> None:
        start(self)
        kind = self.function.__name__
        for running in self._running[-1:] if kind not in lost else ():
            nodes = {node.node_id: node for node in cluster.worker_nodes}
            lost[kind] = len(nodes)
            cluster.remove_node(nodes[running.member.node], allow_graceful=False)

    for _ in range(len(KINDS)):
        cluster.add_node(num_cpus=1)
    run(settings(*SETTINGS), tmp_path / "here")
    monkeypatch.setattr(ray_executor._Map, "_start", start_and_lose)
    run(settings(*SETTINGS, "--compute", "ray", "--compute.tasks", "2"), tmp_path / "there")
    assert set(lost) == KINDS
    assert "died" in capsys.readouterr().err
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert {k for k in here if here[k] != there.get(k)} == set() and here.keys() == there.keys()
    assert metrics(tmp_path / "here") == metrics(tmp_path / "there") != []


def test_the_bench_finds_equal_episodes(cluster, tmp_path):
    words = ["bench", "cluster", "--names", "planar/reach", "--repeat", "1", "--count", "1"]
    words += ["--episodes", "9"]
    assert cli.main([*words, "--json", str(tmp_path / "found.json")]) == 0
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"] and found["ratio"] > 0


# ---- one training in several processes -----------------------------------------------------------
RANKS = [
    *("--compute.on", "ray", "--compute.ranks", "2", "--trainings", "1"),
    *("--environments", "[planar/reach]", "--demos.episodes", "4", "--generalists", "{}"),
    *("--labeled_only.steps", "300", "--training.checkpoint_every", "20"),
    *("--evaluation.rows", "[labeled_only]"),
]


def networks(folder):
    from alltrades.policies.model.loading import load_policy

    return load_policy(folder / "policies" / "labeled_only").state_dict()


def test_a_training_of_several_processes_is_that_of_one_even_where_one_is_lost(
    cluster, tmp_path, capsys, monkeypatch
):
    from alltrades.policies.learning import elsewhere

    came, remove_older = [], elsewhere.remove_older

    def wrote(folder):
        """A checkpoint has come: at the first one a process of the group is killed."""
        remove_older(folder)
        came.append(folder)
        if len(came) == 1:
            os.kill(processes_called("RayTrainWorker")[-1], signal.SIGKILL)

    monkeypatch.setattr(elsewhere, "remove_older", wrote)
    run(settings(*RANKS), tmp_path / "group")
    said = capsys.readouterr().err
    # one is killed here; a busy machine may lose another
    assert "a group of 2 processes of the cluster was lost" in said
    assert "labeled_only  300/300" in said
    run(settings(*RANKS, "--compute.ranks", "1"), tmp_path / "one")
    one, group = networks(tmp_path / "one"), networks(tmp_path / "group")
    for name, weights in one.items():
        # single numbers drift apart by rounding in 1,000 steps, most of all in bf16
        if weights.is_floating_point() and weights.isfinite().all():
            assert (group[name] - weights).norm() <= 0.1 * weights.norm(), name
        else:
            assert group[name].equal(weights), name
    assert any((group[name] != weights).any() for name, weights in one.items())
    steps = [r["step"] for r in metrics(tmp_path / "group") if "loss" in r]
    assert len(steps) == len(set(steps))  # what was repeated is recorded once
    last = [max(metrics(tmp_path / n), key=lambda r: r["step"]) for n in ("one", "group")]
    assert last[0]["step"] == last[1]["step"] == 300
    assert last[1]["loss"] == pytest.approx(last[0]["loss"], rel=1e-3)


def processes_called(name: str) -> list[int]:
    """Processes whose title has a name in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if name in path.read_text():
                found.append(int(path.parent.name))
    return sorted(found)


def test_more_processes_than_the_cluster_has_room_for_are_one_line(cluster, tmp_path):
    words = [*RANKS, "--compute.ranks", "5"]
    with pytest.raises(UserError, match=r"compute.ranks = 5 and the cluster has room for 2"):
        run(settings(*words), tmp_path / "many")
