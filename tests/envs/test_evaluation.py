"""Evaluations: starts, counts, records, comparisons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.differences import over_seeds, paired_difference, paired_over_seeds
from alltrades.envs.rollouts.evaluation import (
    Actors,
    EnvironmentResult,
    Evaluation,
    evaluate,
    measures,
)
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed, evaluation_starts
from alltrades.envs.rollouts.statistics import bootstrap_mean, wilson
from alltrades.errors import UserError
from tests.envs import rollout_toys as toys
from tests.envs.rollout_toys import LONG, WALK, NoisyController

SPECS = {s.id: s for s in (LONG, WALK)}
KEYS = {LONG.id: "p", WALK.id: "p"}


def published(index: int) -> int:
    return 100_000 + index


def measure(
    workers: int = 0, specs=SPECS, keys=KEYS, episodes: int = 16, root: int = 5, **options
) -> Evaluation:
    actors = Actors({"p": NoisyController(4)}, keys, **options)
    with Crew(workers) as crew:
        starts = evaluation_starts(specs.values(), root, episodes)
        return evaluate("row", actors, specs, starts, lanes=4, crew=crew)


def row(
    first: list[int], name: str = "env", limit: int = 500, seeds: list[int] | None = None, **metrics
) -> EnvironmentResult:
    n = len(first)
    return EnvironmentResult(
        name,
        tuple(seeds or range(n)),
        tuple(first),
        (0.0,) * n,
        (1.0,) * n,
        limit,
        "digest",
        metrics,
    )


def coins(rate: float, n: int, seed: int) -> list[int]:
    return [7 if x < rate else -1 for x in np.random.default_rng(seed).uniform(size=n)]


def test_starts_are_the_evaluation_seeds_in_order():
    result = measure()
    for r in result.rows:
        assert list(r.seeds) == [episode_seed(5, "evaluation", r.environment, i) for i in range(16)]


def test_published_starts_take_precedence():
    spec = replace(LONG, evaluation_seed=published)
    (r,) = measure(specs={LONG.id: spec}, episodes=3).rows
    assert r.seeds == (100_000, 100_001, 100_002)


def test_success_is_counted_over_every_start():
    long = next(r for r in measure().rows if r.environment == LONG.id)
    truth = [9 + s % 8 if s % 8 < 6 else -1 for s in long.seeds]  # what the toy does
    assert list(long.first_success) == truth
    assert long.n == 16 and long.successes == sum(t > 0 for t in truth)
    assert long.interval == wilson(long.successes, 16)
    assert list(long.max_rewards) == [0.5 * (t if t > 0 else 14) for t in truth]
    assert list(long.returns) == [0.25 * t * (t + 1) for t in (t if t > 0 else 14 for t in truth)]


def test_success_within_fewer_steps():
    result = Evaluation("row", (row([3, 10, -1, 300, 301]),))
    assert result.mean(300)[0] == pytest.approx(0.6) and result.mean(3)[0] == pytest.approx(0.2)
    assert result.mean()[0] == 0.8 and result.mean(at=10)[0] == 0.4
    assert result.mean()[1] == result.rows[0].interval  # one environment, one interval


def test_the_mean_weighs_environments_equally():
    result = Evaluation("row", (row([1] * 10, "a"), row([-1] * 30, "b")))
    assert result.mean()[0] == 0.5


def test_the_record_is_the_same_to_the_byte_for_any_number_of_workers():
    records = [json.dumps(measure(workers).to_json()) for workers in (0, 2)]
    assert records[0] == records[1]


def test_the_record_says_what_was_measured_and_reads_back():
    result = measure(success_uses=("filters",), digests={LONG.id: "abc", WALK.id: "def"})
    record = json.loads(json.dumps(result.to_json()))
    assert record["name"] == "row" and record["used_success_signal"] is True
    first = record["rows"][0]
    assert (first["environment"], first["n"], first["max_steps"], first["policy"]) == (
        LONG.id,
        16,
        14,
        "abc",
    )
    assert set(first) >= {"successes", "interval", "first_success", "max_rewards", "seeds"}
    assert Evaluation.from_json(record) == result


def test_digests_are_those_of_the_environments_that_have_one():
    result = measure(episodes=1, digests={LONG.id: "c0ffee"})
    assert {r.environment: r.policy for r in result.rows} == {LONG.id: "c0ffee", WALK.id: ""}


def test_experts_can_be_measured():
    result = measure(
        specs={WALK.id: WALK}, keys={WALK.id: "expert"}, experts={WALK.id: toys.Homing()}
    )
    assert result.rows[0].successes == 16


@pytest.mark.parametrize(
    "options, message",
    [
        ({"episodes": 0}, "0 evaluation episodes"),
        ({"keys": {LONG.id: "p"}}, "no policy for environment 'toy/walk'"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        measure(**options)


def test_paired_difference_is_over_common_starts():
    a = Evaluation("a", (row(coins(0.9, 200, 0), "x"), row(coins(0.6, 100, 1), "y")))
    b = Evaluation("b", (row(coins(0.4, 200, 2), "x"), row(coins(0.6, 100, 3), "y")))
    result = paired_difference(a, b)
    own = [
        np.mean(np.array(p.first_success) > 0) - np.mean(np.array(q.first_success) > 0)
        for p, q in zip(a.rows, b.rows)
    ]
    assert (
        result.mean == pytest.approx(np.mean(own))
        and result.verdict == "BETTER"
        and result.n == 300
    )
    back = paired_difference(b, a)
    assert back.verdict == "WORSE" and back.mean == pytest.approx(-result.mean)


def test_a_policy_is_the_same_as_itself_and_few_starts_are_underpowered():
    a = Evaluation("a", (row(coins(0.5, 200, 0)),))
    assert paired_difference(a, a).verdict == "SAME"
    few = [Evaluation("x", (row(coins(0.5, 20, seed)),)) for seed in (1, 2)]
    assert paired_difference(*few).verdict == "UNDERPOWERED"


def test_comparison_at_fewer_steps():
    a, b = Evaluation("a", (row([100] * 80),)), Evaluation("b", (row([400] * 80),))
    assert paired_difference(a, b).verdict == "SAME"
    assert paired_difference(a, b, at=300).verdict == "BETTER"


@pytest.mark.parametrize(
    "other",
    [
        row([1, 1, 1], seeds=[0, 1, 3]),
        row([1, 1]),
        row([1, 1, 1], "another"),
    ],
)
def test_different_starts_are_not_compared(other: EnvironmentResult):
    mine = Evaluation("a", (row([1, 1, 1]),))
    with pytest.raises(UserError, match="not measured on the same starts"):
        paired_difference(mine, Evaluation("b", (other,)))


def test_an_environment_that_only_one_has_is_not_passed_over():
    a, b = Evaluation("a", (row([1, 1]),)), Evaluation("b", (row([1, 1]), row([1, 1], "more")))
    for pair in ((a, b), (b, a)):
        with pytest.raises(UserError, match="same starts of 'more'"):
            paired_difference(*pair)


def test_different_time_limits_are_compared_only_where_both_reach():
    a, b = Evaluation("a", (row([1, 400, 2]),)), Evaluation("b", (row([1, 2, -1], limit=300),))
    with pytest.raises(UserError, match="had 500 steps"):
        paired_difference(a, b)
    assert paired_difference(a, b, at=300).mean == 0.0


def test_training_seeds_are_averaged_per_start():
    pairs = [
        (Evaluation("a", (row([1, 1, -1, -1]),)), Evaluation("b", (row([1, -1, -1, -1]),))),
        (Evaluation("a", (row([1, 1, 1, -1]),)), Evaluation("b", (row([-1, 1, -1, -1]),))),
    ]
    result = paired_over_seeds(pairs)
    assert result.seeds == (0.25, 0.5) and result.mean == 0.375
    assert result.n == 4  # starts, not starts times seeds: seeds do not make a start twice


def test_a_row_of_several_training_seeds_has_its_starts_once():
    runs = [
        Evaluation("a", (row([1, 1, -1, -1], "x"), row([1, 400], "y"))),
        Evaluation("a", (row([1, 1], "y"), row([1, -1, 1, -1], "x"))),
    ]  # the environments in another order
    result = over_seeds(runs)
    assert (
        result.seeds == (0.75, 0.75)
        and result.mean == 0.75
        and result.environments == {"x": 0.5, "y": 1.0}
    )
    assert (
        result.interval
        == bootstrap_mean([np.array([1, 0.5, 0.5, 0]), np.ones(2)], bounds=(0.0, 1.0))[1]
    )
    assert (
        over_seeds(runs, at=300).seeds == (0.5, 0.75)
        and over_seeds(runs[:1]).interval == runs[0].mean()[1]
    )
    with pytest.raises(UserError, match="same starts of 'y'"):
        over_seeds([runs[0], Evaluation("a", (row([1, 1, -1, -1], "x"),))])


def test_averaging_over_training_seeds_needs_the_same_starts_in_all():
    one = (Evaluation("a", (row([1, 1]),)), Evaluation("b", (row([1, -1]),)))
    two = tuple(Evaluation(e.name, (row([1, 1], seeds=[8, 9]),)) for e in one)
    with pytest.raises(UserError, match="same starts"):
        paired_over_seeds([one, two])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no runs"):
        paired_over_seeds([])


CLOSE = replace(WALK, metrics=("closeness",))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_metric_is_the_info_value_of_an_episodes_last_step(workers: int):
    (result,) = measure(workers, specs={CLOSE.id: CLOSE}, episodes=6).rows
    jobs = [Job(CLOSE.id, seed, "p") for seed in result.seeds]
    last = [
        e.rewards[-1] for e in rollout(jobs, {CLOSE.id: CLOSE}, {"p": NoisyController(4)}, lanes=4)
    ]
    assert result.metrics["closeness"] == pytest.approx(
        last, rel=1e-6
    )  # what the toy also gives as its reward


def test_metrics_are_averaged_compared_and_recorded_like_success():
    rng = np.random.default_rng(0)
    low, high = rng.normal(20, 2, 50), rng.normal(21, 2, 80)
    a = Evaluation(
        "a", (row([1] * 50, "x", psnr=tuple(low + 1)), row([1] * 80, "y", psnr=tuple(high + 2)))
    )
    b = Evaluation("b", (row([1] * 50, "x", psnr=tuple(low)), row([1] * 80, "y", psnr=tuple(high))))
    assert a.metrics == ("success", "psnr")
    mean, (lower, upper) = a.mean(metric="psnr")
    assert mean == pytest.approx((low.mean() + high.mean() + 3) / 2)
    error = 0.5 * np.hypot(
        low.std() / np.sqrt(50), high.std() / np.sqrt(80)
    )  # of the mean of two means
    assert [lower, upper] == pytest.approx(
        [mean - 1.96 * error, mean + 1.96 * error], abs=0.25 * error
    )
    result = paired_difference(a, b, metric="psnr")
    assert result.mean == pytest.approx(1.5) and result.verdict == "BETTER"
    assert result.per_environment["y"]["interval"] == pytest.approx([2, 2])
    assert paired_difference(a, b).verdict == "SAME"  # in success
    assert paired_over_seeds([(a, b), (b, a)], metric="psnr").seeds == pytest.approx((1.5, -1.5))
    assert Evaluation.from_json(json.loads(json.dumps(a.to_json()))) == a
    assert a.rows[0].estimate("psnr")[0] == pytest.approx(low.mean() + 1) and a.rows[0].estimate()[
        1
    ] == wilson(50, 50)


def test_a_metric_that_was_not_measured_is_refused():
    a, b = Evaluation("a", (row([1, 1], psnr=(1.0, 2.0)),)), Evaluation("b", (row([1, 1]),))
    assert (
        tuple(measures([a, b])) == ("success",)
        and tuple(measures([a, a])) == ("success", "psnr")
        and tuple(measures([])) == ()
    )
    with pytest.raises(
        UserError,
        match="no metric 'psrn' was measured in 'env'; expected one of success, return, psnr, did "
        "you mean",
    ):
        a.mean(metric="psrn")
    with pytest.raises(UserError, match="no metric 'psnr' was measured"):
        paired_difference(a, b, metric="psnr")
