"""Episodes that their environments cannot finish: what they cost, and what they leave alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.faults import Faults, ManyFailures, from_json, line, to_json
from alltrades.envs.rollouts.rollout import Job, results, rollout
from alltrades.envs.rollouts.scheduler import DEATHS
from alltrades.system.processes import alive
from tests.envs.fault_toys import (
    Leaking,
    SlowToBuild,
    Spawning,
    hanging_expert,
    troubled,
)
from tests.envs.rollout_toys import COUNTER, WALK, NoisyController, spec
from tests.envs.test_rollout_workers import assert_same, no_process_is_left  # noqa: F401

CALM = [Job(name, seed, "p") for seed in range(12) for name in (COUNTER.id, WALK.id)]


def calm(without: tuple[int, ...] = ()):
    """The episodes of `CALM` where nothing goes wrong, without some of the counter's."""
    specs = {COUNTER.id: COUNTER, WALK.id: WALK}
    every = list(rollout(CALM, specs, {"p": NoisyController(4)}, lanes=4))
    return [e for e in every if e.environment != COUNTER.id or e.seed not in without]


def run(bad, workers: int = 0, timeout: float = 0.0, jobs=CALM):
    said: list[str] = []
    faults = Faults(say=said.append)
    with Crew(workers, timeout) as crew:
        episodes = list(
            rollout(
                jobs,
                {COUNTER.id: bad, WALK.id: WALK},
                {"p": NoisyController(4)},
                lanes=4,
                crew=crew,
                faults=faults,
            )
        )
    return episodes, faults, said


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_environment_that_raises_costs_its_episode_alone(workers: int):
    episodes, faults, said = run(troubled({2: "raise", 7: "exit"}), workers)
    assert_same(episodes, calm(without=(2, 7)))
    assert [(f.environment, f.seed, f.step, f.kind) for f in faults.found] == [
        (COUNTER.id, 2, 2, "raised"),
        (COUNTER.id, 7, 2, "raised"),
    ]
    assert said[0].startswith(
        "environment 'toy/counter' seed 2: raised at step 2: OSError: the license has expired ("
    )
    assert said[0].endswith("; the episode is dropped")
    assert "called sys.exit('no display')" in said[1]


@pytest.mark.parametrize("closing", ["", "raise", "exit"])
def test_an_instance_that_raised_is_closed_and_not_used_again(closing: str):
    episodes, faults, _ = run(troubled({2: "raise", 3: "raise"}, closing=closing))
    assert_same(episodes, calm(without=(2, 3)))
    assert len(faults.found) == 2  # the toy asserts that it is never reset after it went wrong


def test_an_instance_that_hangs_when_it_is_closed_costs_nothing_more():
    episodes, faults, said = run(troubled({2: "raise"}, closing="hang"), 1, timeout=0.5)
    assert_same(episodes, calm(without=(2,)))
    assert [f.kind for f in faults.found] == ["raised"]
    assert "hung when it closed an environment that had failed" in "".join(said)


@pytest.mark.parametrize("workers, at, step", [(0, "step", 2), (2, "step", 2), (2, "reset", 0)])
def test_a_step_or_reset_that_hangs_is_killed_in_time(workers: int, at: str, step: int):
    start = time.monotonic()
    episodes, faults, _ = run(troubled({2: "hang", 5: "busy"}, at=at), workers, timeout=1.5)
    assert time.monotonic() - start < 30
    assert_same(episodes, calm(without=(2, 5)))
    assert [(f.seed, f.step, f.kind) for f in faults.found] == [
        (2, step, "hung"),
        (5, step, "hung"),
    ]
    assert faults.found[0].cause == f"its {at} gave no answer in 1.5 s"


def test_an_expert_that_hangs_is_named():
    faults = Faults(say=lambda _: None)
    with Crew(1, timeout=0.5) as crew:
        done = rollout(
            [Job(WALK.id, 3, "expert")],
            {WALK.id: WALK},
            {},
            experts={WALK.id: hanging_expert},
            crew=crew,
            faults=faults,
        )
        with pytest.raises(StopIteration):
            next(done)
    assert "its expert" in faults.found[0].cause


def test_building_an_environment_may_take_ten_times_as_long():
    slow = spec(partial(SlowToBuild, 1.0))
    episodes, faults, _ = run(slow, 1, timeout=0.4)
    assert faults.found == []
    assert_same(episodes, calm())


@pytest.mark.parametrize(
    "what, cause",
    [("quit", "exit code 3"), pytest.param("crash", "SIGSEGV", marks=pytest.mark.slow)],
)
def test_an_episode_that_kills_its_workers_is_a_fault_and_blames_no_other(what: str, cause: str):
    episodes, faults, said = run(troubled({2: what, 3: what}), 2)
    assert_same(episodes, calm(without=(2, 3)))
    assert [(f.seed, f.step, f.kind) for f in faults.found] == [(2, 2, "raised"), (3, 2, "raised")]
    assert faults.found[0].cause == f"it ended {DEATHS} worker processes ({cause})"
    deaths = [x for x in said if x.startswith("a rollout worker died")]
    assert len(deaths) == 2 * DEATHS
    assert all(f"({cause}) at step 2 of 'toy/counter' seed" in x for x in deaths)


def test_results_say_of_a_failed_start_why_it_failed():
    found = list(
        results(
            [Job(COUNTER.id, seed, "p") for seed in range(4)],
            {COUNTER.id: troubled({2: "raise"})},
            {"p": NoisyController(4)},
            lanes=4,
            faults=Faults(say=lambda _: None),
        )
    )
    assert [r.seed for r in found] == [0, 1, 2, 3]
    assert [bool(r.fault) for r in found] == [False, False, True, False]
    assert found[2].fault.startswith("raised at step 2: OSError: the license has expired")
    assert len(found[2].rewards) == 0


def judged(failing: list[int], episodes: int, workers: int = 0) -> Faults:
    faults = Faults(say=lambda _: None)
    jobs = [Job(COUNTER.id, seed, "p") for seed in range(episodes)]
    bad = {COUNTER.id: troubled(dict.fromkeys(failing, "raise"))}
    list(rollout(jobs, bad, {"p": NoisyController(4)}, lanes=4, workers=workers, faults=faults))
    return faults


@pytest.mark.parametrize("workers", [0, 2])
def test_a_rollout_ends_when_more_than_a_third_of_an_environment_fails(workers: int):
    with pytest.raises(ManyFailures) as caught:
        judged(list(range(10, 17)), 18, workers)
    assert [f.seed for f in caught.value.failures] == list(range(10, 17))  # at the seventh of 18
    text = str(caught.value)
    assert "could not finish 7 of its 18 episodes" in text and "seed 14 step 2 and 2 more" in text


def test_a_third_of_the_episodes_and_any_four_may_fail():
    assert len(judged(list(range(6)), 18).found) == 6
    assert len(judged([0, 1, 2, 3], 4).found) == 4
    with pytest.raises(ManyFailures):
        judged([0, 1, 2, 3, 4], 5)


def test_diverged_episodes_never_end_a_rollout():
    faults = Faults(say=lambda _: None)
    faults.expect(["x"] * 10)
    for seed in range(10):
        faults.add(EnvironmentFailure("x", seed, 3, "a joint is at 1e9 m", "diverged"))
    assert len(faults.found) == 10


def test_with_fail_the_first_of_the_jobs_ends_the_rollout_for_any_number_of_workers():
    for workers in (0, 2):
        with pytest.raises(EnvironmentFailure) as caught, Crew(workers) as crew:
            list(
                rollout(
                    CALM,
                    {COUNTER.id: troubled({5: "raise", 2: "raise"}), WALK.id: WALK},
                    {"p": NoisyController(4)},
                    lanes=4,
                    crew=crew,
                    faults=Faults("fail"),
                )
            )
        assert caught.value.seed == 2


def test_faults_survive_a_file_and_count_after_a_resume():
    before = [EnvironmentFailure("x", seed, 3, "cable\ncut", "raised") for seed in range(4)]
    again = from_json(to_json(before))
    assert [line(f) for f in again] == ["raised at step 3: cable cut"] * 4
    faults = Faults(say=lambda _: None)
    faults.resume(again)
    faults.expect(["x"] * 6)
    with pytest.raises(ManyFailures):
        faults.add(before[0])


def test_a_worker_that_grows_is_replaced_and_the_episodes_are_the_same(tmp_path: Path, capsys):
    jobs = [Job(COUNTER.id, seed, "p") for seed in range(30)]
    specs = {COUNTER.id: spec(partial(Leaking, tmp_path))}
    with Crew(1, growth=64 * 2**20) as crew:
        episodes = list(rollout(jobs, specs, {"p": NoisyController(4)}, lanes=4, crew=crew))
    assert 2 <= len(list(tmp_path.iterdir())) <= 5  # 240 MiB leak, 64 MiB or a little more each
    assert capsys.readouterr().err.count("had grown by 0.") == 1
    assert_same(
        episodes,
        list(rollout(jobs, {COUNTER.id: COUNTER}, {"p": NoisyController(4)}, lanes=4)),
    )


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from alltrades.envs.rollouts.rollout import Job, rollout
from tests.envs.fault_toys import Spawning
from tests.envs.rollout_toys import NoisyController, spec

if __name__ == "__main__":
    bad = spec(partial(Spawning, Path(sys.argv[1])))
    jobs = [Job(bad.id, s, "p") for s in range(2)]
    list(rollout(jobs, {bad.id: bad}, {"p": NoisyController(2)}, workers=2, lanes=2))
"""


def wait_for(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.slow
def test_nothing_outlives_a_killed_parent_not_even_in_a_step_that_hangs(tmp_path: Path):
    script, marks = tmp_path / "script.py", tmp_path / "marks"
    script.write_text(SCRIPT)
    marks.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(marks)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
    )
    assert wait_for(lambda: len(list(marks.iterdir())) == 4)
    started = [int(p.name) for p in marks.iterdir()]
    assert all(map(alive, started))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_for(lambda: not any(map(alive, started)), 10)


def test_what_a_hanging_worker_started_is_killed_with_it(tmp_path: Path):
    run(spec(partial(Spawning, tmp_path)), 1, timeout=0.8, jobs=[Job(COUNTER.id, 0, "p")])
    started = [int(p.name) for p in tmp_path.iterdir()]
    assert len(started) == 2
    assert wait_for(lambda: not any(map(alive, started)), 10)
