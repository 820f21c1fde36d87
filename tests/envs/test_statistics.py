"""Intervals and verdicts against scipy, closed forms and simulated coverage."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from alltrades.envs.rollouts.statistics import bootstrap_mean, wilson
from alltrades.envs.rollouts.verdicts import paired, verdict


@pytest.mark.parametrize("n", [1, 2, 7, 50, 100, 400])
def test_wilson_agrees_with_scipy(n: int):
    for k in {0, 1, n // 3, n - 1, n}:
        found = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((found.low, found.high), abs=1e-12)


def test_tables_of_ten_thousand_rates_cost_nothing():
    start = time.perf_counter()
    for n in range(10_000):
        wilson(n // 3, n)
    assert time.perf_counter() - start < 0.5  # 15 s with a test of SciPy's in it


def test_wilson_stays_in_the_unit_interval_and_touches_its_ends():
    for n in (1, 3, 50, 1000):
        assert wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0
        assert 0 < wilson(0, n)[1] < 1 and 0 < wilson(n, n)[0] < 1
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("k, n", [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(k: int, n: int):
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        wilson(k, n)


def test_wilson_covers_the_truth_as_often_as_it_says():
    n = 50
    intervals = [wilson(k, n) for k in range(n + 1)]
    rates = np.linspace(0.02, 0.98, 97)
    inside = np.array([[low <= p <= high for low, high in intervals] for p in rates])
    coverage = (binom.pmf(np.arange(n + 1), n, rates[:, None]) * inside).sum(
        axis=1
    )  # exact, for every rate
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)
    assert coverage.min() > 0.89


def groups_of(rng: np.random.Generator) -> list[np.ndarray]:
    return [
        rng.choice([-1.0, 0.0, 1.0], size=n, p=p)
        for n, p in ((80, (0.1, 0.6, 0.3)), (200, (0.2, 0.6, 0.2)), (120, (0.05, 0.9, 0.05)))
    ]


def test_bootstrap_agrees_with_the_normal_approximation_of_a_stratified_mean():
    groups = groups_of(np.random.default_rng(0))
    mean, interval = bootstrap_mean(groups, 20_000)
    deviation = np.sqrt(sum(g.var() / len(g) for g in groups)) / len(groups)
    assert mean == pytest.approx(np.mean([g.mean() for g in groups]))
    assert interval == pytest.approx(
        (mean + norm.ppf(0.025) * deviation, mean + norm.ppf(0.975) * deviation), abs=0.004
    )


def test_environments_are_fixed_not_resampled():
    groups = [
        np.full(30, 1.0),
        np.full(10, 0.0),
        np.full(20, -0.4),
    ]  # differ between environments, not within
    mean, interval = bootstrap_mean(groups)
    assert interval == pytest.approx((0.2, 0.2)) and mean == pytest.approx(0.2)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth = (0.2 + 0.0 + 0.0) / 3
    hits = [
        low <= truth <= high
        for low, high in (bootstrap_mean(groups_of(rng), 400, seed)[1] for seed in range(600))
    ]
    assert np.mean(hits) == pytest.approx(
        0.95, abs=0.03
    )  # three standard errors of 600 trials, about


@pytest.mark.parametrize(
    ("wins", "ties", "losses", "word"),
    [
        (0, 4, 0, "UNDERPOWERED"),
        (4, 0, 0, "UNDERPOWERED"),
        (0, 0, 4, "UNDERPOWERED"),
        (3, 1, 0, "UNDERPOWERED"),
        (0, 40, 0, "UNDERPOWERED"),
        (0, 100, 0, "SAME"),
        (8, 0, 0, "BETTER"),
        (0, 0, 8, "WORSE"),
        (3, 97, 0, "UNDERPOWERED"),
        (4, 96, 0, "UNDERPOWERED"),
        (8, 92, 0, "BETTER"),
        (0, 91, 9, "WORSE"),
    ],
)
def test_few_starts_decide_nothing_even_where_they_all_agree(
    wins: int, ties: int, losses: int, word: str
):
    values = np.repeat([1.0, 0.0, -1.0], [wins, ties, losses])
    result = paired({"env": values}, bounds=(-1, 1))
    assert (result.verdict, result.per_environment["env"]["verdict"]) == (word, word)
    assert (
        result.interval[0] <= values.mean() <= result.interval[1] and result.mean == values.mean()
    )


def test_few_starts_of_many_environments_decide_together():
    assert paired({str(k): np.zeros(4) for k in range(3)}, bounds=(-1, 1)).verdict == "UNDERPOWERED"
    together = paired({str(k): np.ones(4) for k in range(5)}, bounds=(-1, 1))
    assert together.verdict == "BETTER" and {
        e["verdict"] for e in together.per_environment.values()
    } == {"UNDERPOWERED"}
    assert paired(
        {str(k): np.zeros(100) for k in range(10)}, bounds=(-1, 1)
    ).interval == pytest.approx((-0.003, 0.003), abs=3e-4)


@pytest.mark.parametrize(
    ("environments", "n", "p"),
    [  # p: of a loss, a tie, a win
        (1, 4, (0.0, 0.6, 0.4)),
        (1, 4, (0.3, 0.0, 0.7)),
        (1, 5, (0.05, 0.9, 0.05)),
        (1, 50, (0.0, 0.97, 0.03)),
        (1, 100, (0.01, 0.96, 0.03)),
        (8, 4, (0.02, 0.96, 0.02)),
        (8, 50, (0.001, 0.996, 0.003)),
        (8, 50, (0.2, 0.5, 0.3)),
    ],
)
def test_bounded_bootstrap_covers_the_truth_with_few_starts_and_with_rare_differences(
    environments: int, n: int, p: tuple[float, float, float]
):
    rng, trials = np.random.default_rng(7), 300
    hits = 0
    for trial in range(trials):
        groups = list(rng.choice([-1.0, 0.0, 1.0], size=(environments, n), p=p))
        low, high = bootstrap_mean(groups, 400, trial, (-1, 1))[1]
        hits += low <= p[2] - p[0] <= high
    assert hits / trials > 0.92  # 95 % less two and a half standard errors of the trials


def test_bootstrap_is_a_function_of_its_seed():
    groups = groups_of(np.random.default_rng(2))
    assert (
        bootstrap_mean(groups, seed=3)
        == bootstrap_mean(groups, seed=3)
        != bootstrap_mean(groups, seed=4)
    )


@pytest.mark.parametrize(
    "interval, word",
    [
        ((0.01, 0.2), "BETTER"),
        ((-0.2, -0.01), "WORSE"),
        ((-0.05, 0.05), "SAME"),
        ((-0.04, 0.03), "SAME"),
        ((0.0, 0.2), "UNDERPOWERED"),
        ((-0.06, 0.01), "UNDERPOWERED"),
        ((-0.3, 0.3), "UNDERPOWERED"),
        ((0.0, 0.0), "SAME"),
        ((0.01, 0.03), "BETTER"),
    ],
)
def test_verdicts(interval: tuple[float, float], word: str):
    assert verdict(interval) == word


def test_a_small_but_sure_difference_is_found_by_pairing():
    rng = np.random.default_rng(4)
    hard = rng.uniform(size=400) < 0.5  # starts that both fail
    a, b = ~hard * 1.0, (~hard & (rng.uniform(size=400) > 0.1)) * 1.0
    result = paired({"env": a - b})
    assert result.verdict == "BETTER" and result.n == 400
    unpaired = np.sqrt(a.var() / 400 + b.var() / 400)
    assert (result.interval[1] - result.interval[0]) < 0.6 * 2 * 1.96 * unpaired


def test_each_environment_has_its_own_difference():
    rng = np.random.default_rng(5)
    up, down = rng.choice([0.0, 1.0], 100), rng.choice([0.0, -1.0], 100)
    result = paired({"up": up, "down": down})
    assert result.per_environment["up"]["verdict"] == "BETTER"
    assert result.per_environment["down"]["verdict"] == "WORSE"
    assert result.per_environment["up"]["mean"] == up.mean()
    assert result.mean == pytest.approx((up.mean() + down.mean()) / 2)


@pytest.mark.parametrize(
    "seeds, word",
    [
        ((0.3, 0.2, 0.4), "BETTER"),
        ((0.9, 0.1, -0.1), "SEEDS DISAGREE"),
        ((0.9, 0.0), "SEEDS DISAGREE"),
        ((), "BETTER"),
    ],
)
def test_training_seeds_that_disagree_withhold_the_verdict(seeds: tuple[float, ...], word: str):
    values = np.tile([1.0, 0.0, 0.0, 0.0], 50)
    assert paired({"env": values}, seeds=seeds).verdict == word
