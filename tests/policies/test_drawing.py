"""Rows are drawn in proportion to their probability, and alike however they are kept."""

from types import SimpleNamespace

import numpy as np
import pytest

from alltrades.policies.learning.drawing import UniformDraws, WeightedDraws, draws_of


def steps_of(lengths):
    ends = np.cumsum(lengths)
    kept = {"ends": ends, "starts": ends - lengths, "lengths": np.asarray(lengths)}

    class Steps(SimpleNamespace):
        def __len__(self):
            return int(self.ends[-1])

    return Steps(**kept)


def drawn(draws, number, rng):
    slot = rng.integers(0, len(draws.present), number)
    return slot, draws.at(slot, rng.random(number))


@pytest.mark.parametrize("seed", range(8))
def test_uniform_draws_are_those_of_equal_weights_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    steps = steps_of(rng.integers(1, 40, 300))
    of_episode = rng.integers(-1, 12 if seed % 2 else 2000, 300).astype(np.int16)
    chosen = rng.random(300) < 0.8
    probability = np.repeat(chosen, steps.lengths)
    uniform = draws_of(steps, of_episode, probability)
    weighted = WeightedDraws(steps, of_episode, probability)
    assert isinstance(uniform, UniformDraws)
    assert uniform.present.tolist() == weighted.present.tolist()
    assert uniform.every().tolist() == weighted.every().tolist()
    slot = rng.integers(0, len(uniform.present), 20000)
    count = np.bincount(np.searchsorted(uniform.present, of_row(steps, of_episode, uniform)))[slot]
    edges = rng.integers(0, count) / count  # where one row ends and the next begins
    for point in (rng.random(20000), edges, np.nextafter(edges, 0), np.full(20000, 1 - 2**-53)):
        assert np.array_equal(uniform.at(slot, point), weighted.at(slot, point))


def of_row(steps, of_episode, draws):
    return of_episode[np.searchsorted(steps.ends, draws.every(), side="right")]


def test_every_row_of_an_environment_is_as_probable_and_none_of_others():
    steps = steps_of([3, 5, 2, 4])
    draws = draws_of(steps, np.array([1, 0, 1, -1], np.int16), np.ones(14))
    slot, rows = drawn(draws, 30000, np.random.default_rng(0))
    shares = np.bincount(rows, minlength=14) / np.array(
        [(slot == 1).sum()] * 3 + [(slot == 0).sum()] * 5 + [(slot == 1).sum()] * 2 + [1] * 4
    )
    expected = [1 / 5] * 10 + [0] * 4
    assert np.allclose(shares, expected, atol=0.02)


@pytest.mark.parametrize(
    "probability",
    [[1, 1, 0, 1, 1, 1], [0.5, 0.5, 0.5, 2, 2, 2], [1, 1, 1, 2, 2, 2]],
    ids=["within an episode", "no ones", "unequal episodes"],
)
def test_rows_that_are_not_equally_probable_have_weights_of_their_own(probability):
    steps, probability = steps_of([3, 3]), np.array(probability, float)
    draws = draws_of(steps, np.zeros(2, np.int16), probability)
    assert isinstance(draws, WeightedDraws)
    _, rows = drawn(draws, 30000, np.random.default_rng(0))
    shares = np.bincount(rows, minlength=6) / 30000
    assert np.allclose(shares, probability / probability.sum(), atol=0.02)
