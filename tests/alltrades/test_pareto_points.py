"""Fronts of points: against brute force and simulation."""

import numpy as np
import pytest

from alltrades.studies.pareto_points import dominated, hypervolume, lattice


def test_lattice_holds_every_preference_once():
    assert lattice(2, 8).tolist() == [[i / 8, 1 - i / 8] for i in range(9)]
    three = lattice(3, 4)
    assert len(three) == 15 and np.allclose(three.sum(1), 1) and len(np.unique(three, axis=0)) == 15
    assert set((three * 4).round(9).ravel()) == {0, 1, 2, 3, 4}


def test_domination_needs_no_worse_anywhere_and_better_somewhere():
    points = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, 2.0], [0.5, 2.0]])
    assert dominated(points).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_hypervolume_is_the_share_of_random_points_below_the_front(k):
    rng = np.random.default_rng(k)
    points, reference = rng.uniform(0, 1, (7, k)), np.full(k, 0.1)
    below = rng.uniform(0.1, 1, (200_000, k))
    share = (below[:, None] <= points[None]).all(2).any(1).mean() * 0.9**k
    assert hypervolume(points, reference) == pytest.approx(share, abs=0.01)


def test_points_below_the_reference_and_dominated_ones_add_nothing():
    points = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert hypervolume(points, np.zeros(2)) == 3.0
    assert (
        hypervolume(np.vstack([points, [[0.5, 0.5], [3.0, -1.0], [1.0, 2.0]]]), np.zeros(2)) == 3.0
    )
    assert hypervolume(points, np.array([5.0, 5.0])) == 0.0
