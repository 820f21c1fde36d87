"""What may be said of paired differences: verdicts that heed starts, training seeds and the number
of pairs.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from alltrades.envs.rollouts.verdicts import (
    corrected,
    letters,
    paired,
    seed_interval,
    seed_p,
    verdict,
)

ENVIRONMENTS, STARTS = 6, 100


def null_pair(rng: np.random.Generator, seeds: int, spread: float):
    """Differences of two methods that are equal on average over training seeds: networks of one
    seed are `spread` (standard deviation) better or worse, and starts differ in difficulty.
    """
    effect = rng.normal(0, spread, seeds)
    hard = rng.random((ENVIRONMENTS, STARTS))
    won = np.empty((2, seeds, ENVIRONMENTS, STARTS))
    for side, sign in ((0, 0.5), (1, -0.5)):
        rate = 0.7 + sign * effect[:, None, None]
        own = rng.random((seeds, ENVIRONMENTS, STARTS))
        luck = np.where(rng.random(own.shape) < 0.3, own, hard)
        won[side] = luck < rate
    differences = won[0] - won[1]
    return dict(enumerate(differences.mean(0))), differences.mean((1, 2))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.02, 0.03])
def test_false_verdicts_stay_below_five_percent_at_any_spread_of_training_seeds(seeds, spread):
    rng = np.random.default_rng(int(100 * spread) + seeds)
    words = []
    for trial in range(400):
        differences, each = null_pair(rng, seeds, spread)
        found = paired(differences, 200, trial, each, (-1, 1))
        words.append(found.verdict in ("BETTER", "WORSE"))
    assert np.mean(words) <= 0.05


def test_starts_alone_would_be_wrong_far_more_often():
    """The bound above is not met by a verdict that can say nothing: without the interval over
    training seeds the same cases give it up.
    """
    rng = np.random.default_rng(8)
    wrong = []
    for trial in range(200):
        differences, _ = null_pair(rng, 3, 0.03)
        wrong.append(paired(differences, 200, trial, (), (-1, 1)).verdict in ("BETTER", "WORSE"))
    assert np.mean(wrong) > 0.1


def test_a_real_difference_is_found_with_five_training_seeds():
    rng = np.random.default_rng(9)
    found = []
    for trial in range(60):
        differences, each = null_pair(rng, 5, 0.01)
        shifted = {k: d + 0.06 for k, d in differences.items()}
        found.append(paired(shifted, 200, trial, each + 0.06).verdict == "BETTER")
    assert np.mean(found) > 0.8


def test_the_wider_interval_decides():
    assert verdict((0.01, 0.05), (0.02, 0.04)) == "BETTER"
    assert verdict((0.02, 0.04), (-0.01, 0.07)) == "SEEDS DISAGREE"
    assert verdict((-0.07, -0.02), (-0.2, 0.1)) == "SEEDS DISAGREE"
    assert verdict((0.01, 0.03), (-0.01, 0.04)) == "SAME"
    assert verdict((-0.04, 0.03), (-0.2, 0.2)) == "UNDERPOWERED"
    assert verdict((-0.09, 0.03), (-0.01, 0.01)) == "UNDERPOWERED"


def test_interval_and_p_over_training_seeds_are_students():
    x = [0.021, 0.049, 0.056]
    test = stats.ttest_1samp(x, 0)
    exact = test.confidence_interval(0.95)
    assert seed_interval(x) == pytest.approx((exact.low, exact.high))
    assert seed_p(x) == pytest.approx(test.pvalue)
    assert seed_p([0.1, 0.1]) == 0.0 and seed_p([0.0, 0.0]) == 1.0


def test_pairs_of_a_table_are_corrected_for_their_number():
    """Holm: the smallest p is multiplied by the number of pairs, the next by one less, and
    so on.
    """
    rng = np.random.default_rng(3)
    values = [rng.normal(m, 1, 400) for m in (0.12, 0.12, 0.0, 0.0, 0.5)]
    alone = [paired({"a": v}) for v in values]
    p = np.array([x.p for x in alone])
    order = np.argsort(p)
    expected = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(5, 0, -1)))
    together = corrected(alone)
    assert np.allclose([together[i].p_holm for i in order], expected)
    assert together[4].verdict == "BETTER"
    for before, after in zip(alone, together):
        if before.verdict == "BETTER" and after.p_holm > 0.05:
            assert after.verdict == "UNDERPOWERED"
    assert corrected(alone[:1])[0].p_holm == alone[0].p
    assert corrected([]) == []


@pytest.mark.parametrize("seed", range(30))
def test_rows_share_a_letter_exactly_when_they_were_not_told_apart(seed):
    rng = np.random.default_rng(seed)
    names = list("pqrstu")
    pairs = list(itertools.combinations(names, 2))
    different = {pair for pair in pairs if rng.random() < 0.5}
    found = letters(names, different)
    for a, b in pairs:
        assert bool(set(found[a]) & set(found[b])) == ((a, b) not in different)
    assert all(found.values())


def test_letters_go_from_the_best_row_on():
    assert letters(["x", "y", "z"], [("x", "z")]) == {"x": "a", "y": "ab", "z": "b"}
    assert letters(["x", "y"], []) == {"x": "a", "y": "a"}
