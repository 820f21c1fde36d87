"""Rollouts over worker processes: equal bits, deaths, ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from alltrades.data.episode import Episode
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.scheduler import DEATHS
from alltrades.envs.rollouts.workers import START_TRIES
from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller
from alltrades.system.processes import alive
from tests.envs import rollout_toys as toys
from tests.envs.rollout_toys import COUNTER, LONG, WALK, NoisyController
from tests.policies.toys import info, make_policy

SPECS = {s.id: s for s in (COUNTER, LONG, WALK)}


def assert_same(a: list[Episode], b: list[Episode]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert (x.environment, x.source, x.seed, x.success, x.first_success, x.return_) == (
            y.environment,
            y.source,
            y.seed,
            y.success,
            y.first_success,
            y.return_,
        )
        assert x.observations.keys() == y.observations.keys()
        for mine, theirs in (
            *((x.observations[name], y.observations[name]) for name in x.observations),
            (x.actions, y.actions),
            (x.rewards, y.rewards),
            (x.successes, y.successes),
        ):
            assert type(mine) is type(theirs)
            if isinstance(mine, str):
                assert mine == theirs
            else:
                assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


def diffusion_jobs() -> tuple[Controller, list[Job], dict]:
    policy = make_policy([info(WALK.id, obs_dim=4), info(LONG.id, obs_dim=5)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a fresh policy's last layer is zero, and its actions would say nothing
        for weights in policy.parameters():
            weights.add_(0.3 * torch.randn(weights.shape, generator=generator))
    jobs = [
        *(Job(name, seed, "p") for seed in range(6) for name in (WALK.id, LONG.id)),
        *(Job(WALK.id, 100 + seed, "expert") for seed in range(4)),
    ]
    return Controller(policy, lanes=5), jobs, {WALK.id: toys.Homing()}


def diffusion_episodes(workers: int) -> list[Episode]:
    controller, jobs, experts = diffusion_jobs()
    return list(rollout(jobs, SPECS, {"p": controller}, workers=workers, lanes=5, experts=experts))


def test_episodes_of_a_diffusion_policy_are_bit_equal_for_any_number_of_workers():
    here = diffusion_episodes(0)
    assert len({e.actions.tobytes() for e in here}) == len(here)
    for workers in (1, 2, 3):
        assert_same(here, diffusion_episodes(workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_kept_crew_runs_one_rollout_after_another_with_equal_bits(workers: int):
    jobs = [Job(name, seed, "p") for seed in range(6) for name in (COUNTER.id, WALK.id)]
    other = [Job(LONG.id, seed, "p") for seed in range(5)]
    whole, rest = (
        list(rollout(x, SPECS, {"p": NoisyController(4)}, lanes=4)) for x in (jobs, other)
    )
    slower = toys.spec(partial(toys.Counter, period=9))
    assert slower.id == COUNTER.id
    with Crew(workers) as crew:

        def again(jobs: list[Job], specs: dict = SPECS) -> list[Episode]:
            return list(rollout(jobs, specs, {"p": NoisyController(4)}, lanes=4, crew=crew))

        assert_same(whole, again(jobs))
        children = {p.pid for p in multiprocessing.active_children()}
        assert_same(rest, again(other))  # an environment that it had not seen
        changed = again([Job(COUNTER.id, 0, "p")], {**SPECS, COUNTER.id: slower})
        assert [len(e) for e in changed] == [9]  # one of the same name takes the place of the first
        assert_same(whole, again(jobs))
        assert {p.pid for p in multiprocessing.active_children()} == children and len(
            children
        ) == workers
        next(
            rollout(jobs, SPECS, {"p": NoisyController(4)}, lanes=4, crew=crew)
        )  # abandoned while episodes run
        assert_same(whole, again(jobs))


def test_a_killed_worker_is_replaced_and_its_episodes_run_again(tmp_path: Path):
    jobs = [Job(name, seed, "p") for seed in range(12) for name in (COUNTER.id, WALK.id)]
    whole = list(rollout(jobs, SPECS, {"p": NoisyController(4)}, lanes=4))
    dying = toys.spec(partial(toys.Dying, tmp_path, 1))
    seen: list[int] = []
    controller = NoisyController(4)
    again = list(
        rollout(
            jobs,
            {**SPECS, COUNTER.id: dying},
            {"p": controller},
            workers=2,
            lanes=4,
            progress=lambda done, total: seen.append(done),
        )
    )
    assert len(list(tmp_path.iterdir())) == 1  # it did die
    assert_same(whole, again)
    assert len(controller.begun) > len(jobs)
    assert seen == list(range(1, len(jobs) + 1))


def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path):
    slow = toys.spec(partial(toys.Slow, tmp_path), "toy/slow", max_steps=20)
    jobs = [Job(slow.id, seed, "p") for seed in range(4)]

    def kill_one() -> None:
        while not (started := list(tmp_path.iterdir())):
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(int(started[0].name), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    episodes = list(rollout(jobs, {slow.id: slow}, {"p": NoisyController(2)}, workers=2, lanes=2))
    killer.join()
    assert len(list(tmp_path.iterdir())) == 3  # the two, and the one in place of the dead one
    assert [len(e) for e in episodes] == [20] * 4
    assert_same(episodes, list(rollout(jobs, {slow.id: slow}, {"p": NoisyController(2)}, lanes=2)))


def test_an_episode_that_kills_every_worker_ends_with_its_name(tmp_path: Path):
    dying = toys.spec(partial(toys.Dying, tmp_path, 10**9))
    with pytest.raises(EnvironmentFailure, match=r"seed 7: it ended 3 .* \(SIGKILL\)"):
        list(
            rollout(
                [Job(dying.id, 7, "p"), Job(dying.id, 8, "p")],
                {dying.id: dying},
                {"p": NoisyController(1)},
                workers=1,
                lanes=1,
            )
        )
    assert len(list(tmp_path.iterdir())) == DEATHS


def test_a_worker_that_cannot_start_is_an_error_with_its_cause():
    absent = toys.spec(toys.LoadsHereOnly())
    with pytest.raises(
        UserError, match=rf"could not start, {START_TRIES} times in a row.*"
    ) as caught:
        list(
            rollout(
                [Job(absent.id, 0, "p")],
                {absent.id: absent},
                {"p": NoisyController(2)},
                workers=1,
                lanes=2,
            )
        )
    assert "no module named 'left_at_home'" in str(caught.value)


def test_what_cannot_be_sent_to_a_worker_is_named():
    local = toys.spec(lambda: toys.Counter())
    with pytest.raises(UserError, match="environment 'toy/counter' cannot be sent to a worker"):
        list(
            rollout(
                [Job(local.id, 0, "p")],
                {local.id: local},
                {"p": NoisyController(2)},
                workers=1,
                lanes=2,
            )
        )
    with pytest.raises(UserError, match="expert of 'toy/walk' cannot be sent to a worker"):
        list(
            rollout(
                [Job(WALK.id, 0, "expert")],
                SPECS,
                {},
                workers=1,
                lanes=2,
                experts={WALK.id: lambda o: o[:2]},
            )
        )


def test_a_failure_in_one_worker_ends_all():
    bad = toys.spec(toys.Raising, "toy/bad")
    jobs = [Job(name, seed, "p") for seed in range(10) for name in (bad.id, COUNTER.id)]
    with pytest.raises(EnvironmentFailure) as caught:
        list(rollout(jobs, {bad.id: bad, **SPECS}, {"p": NoisyController(4)}, workers=2, lanes=4))
    assert (caught.value.environment, caught.value.seed, caught.value.step) == (bad.id, 7, 2)


def test_closing_the_generator_ends_the_workers():
    episodes = rollout(
        [Job(LONG.id, s, "p") for s in range(50)],
        SPECS,
        {"p": NoisyController(4)},
        workers=2,
        lanes=4,
    )
    next(episodes)
    assert len(multiprocessing.active_children()) == 2
    episodes.close()
    assert multiprocessing.active_children() == []


def test_an_interrupt_in_the_parent_ends_the_workers():
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(
            rollout(
                [Job(LONG.id, s, "p") for s in range(50)],
                SPECS,
                {"p": NoisyController(4)},
                workers=2,
                lanes=4,
                progress=interrupt,
            )
        )


def test_workers_start_light_single_threaded_and_deaf_to_interrupts(
    monkeypatch: pytest.MonkeyPatch,
):
    around = toys.spec(toys.Surroundings, "toy/around", obs_dim=4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (episode,) = rollout(
        [Job(around.id, 0, "p")], {around.id: around}, {"p": NoisyController(1)}, workers=1, lanes=1
    )
    torch_imported, threads, ignored, built = episode.observations["state"][0]
    assert (torch_imported, threads, ignored, built) == (0, 1, 1, 1)
    assert os.environ["OMP_NUM_THREADS"] == "3"  # the parent keeps its own


def test_more_workers_than_lanes_start_no_idle_process():
    episodes = rollout(
        [Job(COUNTER.id, s, "p") for s in range(4)],
        SPECS,
        {"p": NoisyController(1)},
        workers=3,
        lanes=1,
    )
    next(episodes)
    assert len(multiprocessing.active_children()) == 1
    assert len(list(episodes)) == 3


SCRIPT = """
import signal
import sys
from functools import partial
from pathlib import Path
from alltrades.envs.rollouts.rollout import Job, rollout
from tests.envs import rollout_toys as toys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    slow = toys.spec(partial(toys.Slow, Path(sys.argv[1])), "toy/slow", max_steps=5000)
    jobs = [Job(slow.id, s, "p") for s in range(4)]
    try:
        list(rollout(jobs, {slow.id: slow}, {"p": toys.NoisyController(4)}, workers=2, lanes=4))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_do_not_outlive_their_parent(how: signal.Signals, tmp_path: Path):
    script, marks = tmp_path / "script.py", tmp_path / "marks"
    script.write_text(SCRIPT)
    marks.mkdir()
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(marks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
        text=True,
        start_new_session=True,
    )
    while len(started := [int(p.name) for p in marks.iterdir()]) < 2:
        assert parent.poll() is None, parent.communicate()[0]
        time.sleep(0.02)
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does: to all of them
    else:
        parent.kill()
    out = parent.communicate(timeout=60)[0]
    for _ in range(500):
        if not any(map(alive, started)):
            break
        time.sleep(0.02)
    assert not any(map(alive, started))
    if how == signal.SIGINT:
        assert out == "interrupted\n"  # no traceback of a worker


def test_a_script_without_a_main_guard_is_told(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert found.returncode != 0
    assert "could not start, 2 times in a row" in found.stderr and "__main__" in found.stderr


def test_the_results_are_the_same_when_the_reader_is_slow():
    jobs = [Job(WALK.id, s, "p") for s in range(8)]
    quick = list(rollout(jobs, SPECS, {"p": NoisyController(3)}, workers=2, lanes=3))
    slow = []
    for episode in rollout(jobs, SPECS, {"p": NoisyController(3)}, workers=2, lanes=3):
        time.sleep(0.03)
        slow.append(episode)
    assert_same(quick, slow)
    assert len({np.float64(e.return_) for e in quick}) == 8
