"""Where independent work is done: the interface, and rollouts through it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from functools import partial

import pytest

from alltrades.envs.elsewhere import Surroundings
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.faults import Faults
from alltrades.envs.rollouts.rollout import Job, results, rollout
from alltrades.errors import MissingExtra, UserError
from alltrades.pipeline.executors import executor_of
from alltrades.settings.compute import ComputeSettings
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from alltrades.system.compute.executor import Ears, Here, Kept, Local, Unsent
from alltrades.system.compute.processes import Processes
from alltrades.system.compute.spawning import inherited
from alltrades.system.reporting import Report
from tests.alltrades.posted import Posted, process
from tests.envs import rollout_toys as toys
from tests.envs.rollout_toys import COUNTER, NoisyController
from tests.envs.test_rollout_workers import SPECS, assert_same, diffusion_episodes, diffusion_jobs

RAISING = toys.spec(partial(toys.Raising), "toy/raising")


class Thing:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def add(here: Here, shared: int, item: int) -> int:
    here.report.progress(1, 1)
    here.tell(item)
    here.say(f"item {item}")
    if item < 0:
        raise UserError(f"{item}; expected more")
    return shared + item


def test_tasks_return_in_the_order_of_their_items_and_are_heard():
    shown, told, said = [], [], []
    reports = [Report(lambda done, total, i=i: shown.append(i)) for i in range(3)]
    ears = Ears(reports.__getitem__, said.append, told.append)
    with Local() as executor:
        assert list(executor.map(add, iter([3, 1, 2]), 10, ears)) == [13, 11, 12]
        assert executor.call(add, 5, 1) == 6
    assert shown == [0, 1, 2] and told == [3, 1, 2] and said == ["item 3", "item 1", "item 2"]


def test_what_a_task_raises_ends_the_others():
    told = []
    with Local() as executor, pytest.raises(UserError, match="-1; expected more"):
        list(executor.map(add, [1, -1, 2], 0, Ears(hear=told.append)))
    assert told == [1, -1]


def test_what_is_kept_is_closed_when_others_take_its_place():
    kept = Kept()
    first = kept.get("thing", 1, Thing)
    assert kept.get("thing", 1, Thing) is first
    second = kept.get("thing", 2, Thing)
    assert first.closed and not second.closed
    both = [kept.get("other", i, Thing, most=2) for i in range(2)]
    kept.close()
    assert second.closed and all(thing.closed for thing in both)


def test_episodes_of_a_remote_executor_are_bit_equal():
    here = diffusion_episodes(0)
    controller, jobs, experts = diffusion_jobs()
    done: list[tuple[int, int]] = []
    with Posted() as executor, Crew(1, timeout=30.0, executor=executor) as crew:
        there = rollout(
            jobs,
            SPECS,
            {"p": controller},
            lanes=5,
            experts=experts,
            crew=crew,
            progress=lambda *counts: done.append(counts),
        )
        assert_same(here, list(there))
        assert crew.hosts == 2
    assert executor.sent > 1
    assert [n for n, _ in done] == sorted(n for n, _ in done) and done[-1] == (16, 16)


def test_results_of_a_remote_executor_count_faults_as_here():
    specs = {RAISING.id: RAISING, COUNTER.id: COUNTER}
    jobs = [Job(name, seed, "p") for seed in range(10) for name in specs]

    def measured(crew: Crew) -> tuple[list, list]:
        said: list[str] = []
        faults = Faults("count", "counted as failed", said.append)
        controllers = {"p": NoisyController(4)}
        found = results(jobs, specs, controllers, lanes=4, crew=crew, faults=faults)
        return [(r.environment, r.seed, r.return_, r.fault) for r in found if not r.fault], said

    with Crew(0) as crew:
        here = _until_it_ends(measured, crew)
    with Posted() as executor, Crew(0, executor=executor) as crew:
        assert _until_it_ends(measured, crew) == here


def _until_it_ends(measured, crew):
    try:
        return measured(crew)
    except Exception as error:
        return type(error), str(error)


def test_what_cannot_be_sent_is_refused_in_one_line():
    local = toys.spec(lambda: toys.Walk())
    with Posted() as executor, Crew(1, executor=executor) as crew:
        with pytest.raises(UserError, match="cannot be sent to a worker process"):
            controllers = {"p": NoisyController(4)}
            list(
                rollout([Job(local.id, 0, "p")], {local.id: local}, controllers, lanes=4, crew=crew)
            )
    assert executor.sent == 0


def test_the_short_option_and_its_mistakes():
    settings, _ = load_settings(RunSettings, overrides=["--compute", "ray", "--compute.tasks", "3"])
    assert (settings.compute.on, settings.compute.tasks) == ("ray", 3)
    assert load_settings(RunSettings)[0].compute.on == "local"
    for wrong in ("slurm", "ray://", "http://head:10001"):
        with pytest.raises(UserError, match=r"compute\.on|expected local, ray or ray://HOST:PORT"):
            load_settings(RunSettings, overrides=["--compute", wrong])


def test_gpus_are_asked_for_where_tasks_compute_on_them():
    with pytest.raises(UserError, match="compute.gpus_per_task 1"):
        executor_of(ComputeSettings(on="ray"), "cuda")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "alltrades\[ray\]"'):
        executor_of(ComputeSettings(on="ray"))


def test_a_plugin_is_loaded_where_its_file_is_not(tmp_path, monkeypatch):
    text = "from alltrades.envs.registry import register_suite\nregister_suite('far/suite', [])\n"
    gone = tmp_path / "far_plugin.py"
    from alltrades.envs import registry

    Surroundings(str(tmp_path), (), ((str(gone), text.encode()),))()
    assert "far/suite" in registry.list_suites() and not gone.exists()


def test_processes_return_in_order_and_raise_what_tasks_raise():
    with Processes(2) as executor:
        assert list(executor.map(add, range(7), 10)) == list(range(10, 17))
        with pytest.raises(UserError, match="-1; expected more"):
            list(executor.map(add, [1, -1, 2], 0))
        assert executor.call(add, 1, 1) == 2


def end(here: Here, shared: None, item: int) -> int:
    """A task that ends its process with a signal."""
    os.kill(os.getpid(), item)
    time.sleep(60)
    return 0


def sleep(here: Here, shared: None, item: int) -> int:
    here.tell(os.getpid())
    time.sleep(60)
    return item


def test_processes_are_heard_and_kept():
    shown, told, said, recorded = [], [], [], []
    reports = [Report(lambda done, total, i=i: shown.append(i)) for i in range(3)]
    ears = Ears(reports.__getitem__, said.append, told.append)
    with Processes(2) as executor:
        assert list(executor.map(add, [3, 1, 2], 10, ears)) == [13, 11, 12]
        assert sorted(shown) == [0, 1, 2] and sorted(told) == [1, 2, 3]
        assert sorted(said) == ["item 1", "item 2", "item 3"]
        first = executor.call(process, 0)
        assert executor.call(process, 0) == first  # by the same process
        record = Ears(lambda _: Report(record=lambda *r: recorded.append(r), name="mine"))
        assert executor.call(log, 5, ears=record) == 5
    assert recorded == [("mine", 5, {"loss": 0.5})]


def log(here: Here, shared: None, item: int) -> int:
    here.report.log(item, {"loss": 0.5})
    return item


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_is_said_in_one_line_and_others_take_its_place(how):
    with Processes(1, remedy="; do less") as executor:
        with pytest.raises(UserError, match=rf"died over its work \({how.name}\).*; do less"):
            executor.call(end, int(how))
        assert executor.call(add, 1, 1) == 2
        os.kill(executor.call(process, 0), how)  # while it has nothing to do
        time.sleep(0.2)
        assert executor.call(add, 1, 1) == 2


def test_a_process_that_cannot_get_ready_says_why():
    with Processes(1, partial(int, "no number")) as executor:
        for _ in range(2):
            with pytest.raises(ValueError, match="no number"):
                executor.call(add, b"x" * 5_000_000, 1)


def lock(here: Here, shared: None, item: int) -> object:
    return threading.Lock()


def leave(here: Here, shared: None, item: int) -> None:
    raise SystemExit(item)


class OnlyHere:
    def __reduce__(self):
        return getattr, (sys, "only_here")


def test_what_cannot_be_sent_and_what_would_end_the_caller_are_said(monkeypatch):
    monkeypatch.setattr(sys, "only_here", 1, raising=False)
    with Processes(1) as executor:
        for item in (lambda: 0, OnlyHere()):
            with pytest.raises(Unsent, match="cannot be sent to another process .*; move them"):
                executor.call(add, item, 1)
        with pytest.raises(TypeError, match="pickle"):
            executor.call(lock, 0)
        with pytest.raises(RuntimeError, match="SystemExit: 3"):
            executor.call(leave, 3)
        assert executor.call(add, 1, 1) == 2


def test_processes_that_threads_start_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def start() -> None:
        with inherited():
            time.sleep(0.01)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "OMP_NUM_THREADS" not in os.environ


def test_what_ends_the_caller_ends_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Enough(BaseException):
        pass

    def stop() -> None:
        if pids:
            raise Enough

    pids: list[int] = []
    with Processes(1) as executor:
        assert executor.call(holds, 0).startswith(str(tmp_path))
        executor.check = stop
        with pytest.raises(Enough):
            executor.call(sleep, 0, ears=Ears(hear=pids.append))
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)
    assert not list(tmp_path.iterdir())  # temporary files of what was killed


def holds(here: Here, shared: None, item: int) -> str:
    return tempfile.mkdtemp()
