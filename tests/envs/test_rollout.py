"""The rollout loop in this process: order, contents of episodes, which lanes run what."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from alltrades.data.episode import Episode
from alltrades.envs import registry
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.rollouts import stepping
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.scheduler import AHEAD
from alltrades.errors import UserError
from tests.envs import rollout_toys as toys
from tests.envs.rollout_toys import COUNTER, FAR, LONG, WALK, NoisyController

SPECS = {s.id: s for s in (COUNTER, LONG, WALK, FAR)}


def jobs_of(names: list[str], n: int, policy: str = "p") -> list[Job]:
    return [Job(name, seed, policy) for seed in range(n) for name in names]


def run(jobs: list[Job], lanes: int = 4, **options) -> list[Episode]:
    options.setdefault("controllers", {"p": NoisyController(lanes)})
    return list(rollout(jobs, SPECS, lanes=lanes, **options))


def test_every_job_yields_one_episode_in_the_order_of_the_jobs():
    jobs = jobs_of([LONG.id, COUNTER.id], 11)
    episodes = run(jobs)
    assert [(e.environment, e.seed) for e in episodes] == [(j.environment, j.seed) for j in jobs]


def test_an_episode_holds_what_the_environment_did():
    (episode,) = run([Job(COUNTER.id, 2, "p")])  # succeeds at step 5 + 2
    assert len(episode) == 7 and episode.success and episode.first_success == 7
    assert episode.observations["state"][:, 0].tolist() == list(
        range(7)
    )  # t counts the steps before: aligned, buffer not shared
    assert episode.rewards.tolist() == [0.5 * t for t in range(1, 8)]
    assert episode.successes.tolist() == [False] * 6 + [True]
    assert episode.return_ == 14.0
    assert {x.dtype for x in (episode.observations["state"], episode.rewards, episode.actions)} == {
        np.dtype(np.float32)
    }


def test_actions_are_recorded_as_executed():
    (episode,) = run([Job(COUNTER.id, 2, "p")])
    generator = np.random.default_rng(2)
    planned = np.concatenate([generator.normal(0, 1, (3, 2)) for _ in range(3)])[:7]
    assert (np.abs(planned) > 1).any()
    np.testing.assert_array_equal(episode.actions, np.clip(planned.astype(np.float32), -1, 1))


def test_failures_and_long_episodes_are_finished_and_counted():
    episodes = run(jobs_of([LONG.id], 16))
    assert [e.success for e in episodes] == [s % 8 < 6 for s in range(16)]
    assert [len(e) for e in episodes] == [min(9 + s % 8, 14) for s in range(16)]
    assert [e.first_success for e in episodes] == [
        9 + s % 8 if s % 8 < 6 else -1 for s in range(16)
    ]


def test_without_stop_at_success_the_episode_runs_on_and_the_first_success_stands():
    episodes = run([Job(FAR.id, s, "p") for s in range(6)])
    assert all(len(e) == 45 for e in episodes) and any(e.success for e in episodes)
    for e in episodes:
        assert e.first_success == (int(np.flatnonzero(e.successes)[0]) + 1 if e.success else -1)


def test_the_controller_sees_every_observation_once_and_in_order():
    controller = NoisyController(lanes=1)
    (episode,) = run([Job(LONG.id, 0, "p")], lanes=1, controllers={"p": controller})
    seen = np.concatenate([f[0]["state"] for f in controller.frames])
    np.testing.assert_array_equal(seen, episode.observations["state"][: len(seen)])
    assert [len(f[0]["state"]) for f in controller.frames] == [1, 3, 3]
    assert (
        len(seen) == 7 and len(episode) == 9
    )  # the rest was seen by no one: the episode ended inside a chunk


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_episodes_do_not_depend_on_the_number_of_lanes_for_a_row_wise_controller(lanes: int):
    jobs = jobs_of([WALK.id, LONG.id], 6)
    for a, b in zip(run(jobs, lanes=4), run(jobs, lanes=lanes)):
        np.testing.assert_array_equal(a.observations["state"], b.observations["state"])
        np.testing.assert_array_equal(a.actions, b.actions)


def test_lanes_are_kept_full_while_jobs_wait():
    controller = NoisyController(lanes=4)
    run(jobs_of([LONG.id], 20), controllers={"p": controller})
    with_work = [len(f) for f in controller.frames[:-6]]
    assert np.mean(with_work) > 3.2  # an ending episode costs its lane at most a turn
    assert {lane for lane, _, _ in controller.begun} == {0, 1, 2, 3}


def test_one_call_serves_lanes_of_all_environments():
    controller = NoisyController(lanes=4)
    run(jobs_of([LONG.id, COUNTER.id], 2), controllers={"p": controller})
    assert len(controller.frames[0]) == 4


def test_each_job_is_served_by_its_own_policy():
    first, second = NoisyController(4, n_action_steps=2), NoisyController(4, n_action_steps=5)
    jobs = [Job(COUNTER.id, s, "first" if s % 2 else "second") for s in range(8)]
    run(jobs, controllers={"first": first, "second": second})
    assert sorted(s for _, _, s in first.begun) == [1, 3, 5, 7]
    assert sorted(s for _, _, s in second.begun) == [0, 2, 4, 6]


def test_a_lane_is_never_given_two_episodes_at_once():
    controller = NoisyController(lanes=3)
    episodes = run(jobs_of([COUNTER.id, LONG.id], 8), lanes=3, controllers={"p": controller})
    assert sum(len(f) for f in controller.frames) == sum(
        -(-len(e) // 3) for e in episodes
    )  # one request per chunk begun
    assert len(controller.begun) == 16


def test_instances_of_an_environment_are_bounded_and_reused():
    toys.Surroundings.built = 0
    around = toys.spec(toys.Surroundings, "toy/around", obs_dim=4, max_steps=3)
    specs = {**SPECS, around.id: around}
    jobs = [
        Job(name, s, "p") for name in (around.id, COUNTER.id) for s in range(10)
    ]  # all of one first: it wants 4
    list(rollout(jobs, specs, {"p": NoisyController(4)}, lanes=4))
    assert toys.Surroundings.built == 2  # 4 lanes, 2 environments


def test_jobs_are_not_started_far_ahead_of_the_episode_handed_out():
    controller = NoisyController(lanes=2)
    # one endless lane in front, short episodes behind it
    endless = replace(
        COUNTER, id="toy/endless", make=partial(toys.Counter, 3, 10_000, 1), max_steps=600
    )
    jobs = [Job(endless.id, 0, "p"), *(Job(COUNTER.id, s, "p") for s in range(100))]
    episodes = rollout(jobs, {endless.id: endless, COUNTER.id: COUNTER}, {"p": controller}, lanes=2)
    next(episodes)
    assert len(controller.begun) <= 2 * AHEAD + 1
    assert len(list(episodes)) == 100


def test_few_episodes_wait_for_one_before_them_where_they_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
):
    endless = replace(
        COUNTER, id="toy/endless", make=partial(toys.Counter, 3, 10_000, 1), max_steps=600
    )
    jobs = [Job(endless.id, 0, "p"), *(Job(COUNTER.id, s, "p") for s in range(40))]
    specs = {endless.id: endless, COUNTER.id: COUNTER}

    def begun(most: int) -> tuple[int, list[int]]:
        monkeypatch.setattr(stepping, "HELD", most)
        controller = NoisyController(lanes=2)
        episodes = rollout(jobs, specs, {"p": controller}, lanes=2)
        first = next(episodes)
        return len(controller.begun), [len(e) for e in (first, *episodes)]

    (few, lengths), (many, same) = begun(200), begun(1 << 30)  # an episode has some 120 bytes
    assert few == 3 and many == 2 * AHEAD and lengths == same


def test_experts_run_with_their_memory_reset_and_need_no_controller():
    jobs = jobs_of([WALK.id], 6, "expert")
    episodes = run(jobs, controllers={}, experts={WALK.id: toys.Homing()}, source="expert")
    assert all(e.success and e.source == "expert" for e in episodes)
    for e in episodes:
        np.testing.assert_allclose(
            e.actions[0], np.random.default_rng(e.seed).uniform(-1, 1, 2), rtol=1e-6
        )


def test_the_registry_gives_the_expert_where_none_is_passed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "expert", lambda name: toys.Homing() if name == WALK.id else None)
    assert all(e.success for e in run(jobs_of([WALK.id], 3, "expert"), controllers={}))
    with pytest.raises(UserError, match="no scripted expert"):
        run(jobs_of([COUNTER.id], 1, "expert"), controllers={})


def test_positions_for_plots_stand_beside_the_observations_when_asked_for():
    with_points, without, no_place = run(
        [
            Job(WALK.id, 0, "p", points=True),
            Job(WALK.id, 0, "p"),
            Job(COUNTER.id, 0, "p", points=True),
        ]
    )
    seen = with_points.observations["state"]
    np.testing.assert_array_equal(with_points.points[:, 0], seen[:, :2])
    np.testing.assert_array_equal(seen, without.observations["state"])
    assert without.points is None and no_place.points is None


def test_source_may_depend_on_the_job():
    episodes = run(jobs_of([COUNTER.id], 3), source=lambda job: f"teacher {job.seed}")
    assert [e.source for e in episodes] == ["teacher 0", "teacher 1", "teacher 2"]


def test_policies_are_called_with_one_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        controller = NoisyController(4)
        for _ in rollout(jobs_of([COUNTER.id], 8), SPECS, {"p": controller}, lanes=4):
            assert torch.get_num_threads() == 2
        assert controller.threads == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_progress_counts_to_the_number_of_jobs():
    seen: list[tuple[int, int]] = []
    run(jobs_of([COUNTER.id], 5), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_no_jobs_no_episodes():
    assert run([]) == []


@pytest.mark.parametrize(
    "job, message",
    [
        (Job("toy/countre", 0, "p"), "did you mean 'toy/counter'"),
        (Job(COUNTER.id, 0, "nobody"), "names policy 'nobody'"),
        (Job(COUNTER.id, 0, "small"), "has 2 lanes; the rollout has 4"),
    ],
)
def test_jobs_that_cannot_run_are_refused_at_the_call(job: Job, message: str):
    with pytest.raises(UserError, match=message):
        rollout([job], SPECS, {"p": NoisyController(4), "small": NoisyController(2)}, lanes=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_raises_is_named_with_seed_and_step(workers: int):
    bad = toys.spec(toys.Raising)
    with pytest.raises(EnvironmentFailure, match="the arm came off") as info:
        list(
            rollout(
                jobs_of([bad.id], 10),
                {bad.id: bad},
                {"p": NoisyController(4)},
                lanes=4,
                workers=workers,
            )
        )
    assert (info.value.environment, info.value.seed) == (bad.id, 7)
    assert info.value.step == 2  # two steps were done


def test_a_reward_that_is_not_finite_is_an_error_of_the_environment():
    bad = toys.spec(toys.Diverging)
    with pytest.raises(EnvironmentFailure, match="reward is nan") as info:
        list(rollout([Job(bad.id, 3, "p")], {bad.id: bad}, {"p": NoisyController(4)}, lanes=4))
    assert info.value.seed == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_expert_that_raises_is_reported_with_its_environment(workers: int):
    with pytest.raises(EnvironmentFailure, match="its expert raised KeyError: 'gripper'") as info:
        run(
            [Job(WALK.id, 5, "expert")],
            controllers={},
            experts={WALK.id: toys.Clumsy()},
            workers=workers,
        )
    assert (info.value.environment, info.value.seed, info.value.step) == (WALK.id, 5, 2)


def test_a_controller_that_forgets_a_lane_is_an_error_not_a_hang():
    class Forgetful(NoisyController):
        def plan(self, frames: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
            return dict(list(super().plan(frames).items())[1:])

    with pytest.raises(ValueError, match="'p' planned for lanes"):
        run(jobs_of([COUNTER.id], 4), controllers={"p": Forgetful(4)})
