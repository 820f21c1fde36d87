"""Comparison that may stop at any time."""

import math

import numpy as np
import pytest

from alltrades.envs.rollouts.sequential import BETS, e_process, sequential

ENVIRONMENTS = 4


def rounds(rng: np.random.Generator, n: int, gain: float) -> np.ndarray:
    """(n,) mean difference over environments of paired successes; a has `gain` more."""
    hard = rng.uniform(0.2, 0.8 - gain, (1, ENVIRONMENTS))
    u = rng.random((n, ENVIRONMENTS))  # common starts: a and b agree often
    flip = rng.random((n, ENVIRONMENTS)) < 0.3
    other = np.where(flip, rng.random((n, ENVIRONMENTS)), u)
    return ((u < hard + gain).astype(float) - (other < hard)).mean(1)


def test_wrong_verdicts_in_2000_null_pairs_stay_below_alpha_though_all_rounds_are_looked_at():
    rng = np.random.default_rng(0)
    wrong = [sequential(rounds(rng, 400, 0.0)).verdict != "UNDECIDED" for _ in range(2000)]
    assert np.mean(wrong) <= 0.05


def test_clear_differences_stop_early_in_the_right_direction():
    rng = np.random.default_rng(1)
    found = [sequential(rounds(rng, 400, 0.15)) for _ in range(200)]
    assert np.mean([f.verdict == "BETTER" for f in found]) > 0.95
    assert np.median([f.rounds for f in found]) < 150
    assert not any(f.verdict == "WORSE" for f in found)
    swapped = sequential(-rounds(np.random.default_rng(1), 400, 0.15))
    assert swapped.verdict == "WORSE"


def test_evidence_is_the_mean_of_bets_and_one_on_average_under_the_null():
    d = np.array([0.5, -1.0, 1.0])
    expected = [np.mean([math.prod(1 + b * x for x in d[:n]) for b in BETS]) for n in (1, 2, 3)]
    assert np.allclose(e_process(d), expected)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (40_000, 3))
    assert np.mean([e_process(s)[-1] for s in signs]) == pytest.approx(1.0, abs=0.02)


def test_nothing_is_decided_without_rounds_and_values_out_of_bounds_are_refused():
    assert sequential(np.zeros(0)).verdict == "UNDECIDED"
    assert sequential(np.zeros(50)) == sequential(np.zeros(50))
    with pytest.raises(ValueError, match="between -1 and 1"):
        sequential(np.array([0.0, 1.5]))
