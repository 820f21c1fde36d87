"""Weights of the states that actions lead to, against closed forms and quadrature."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from pydantic import ValidationError

from alltrades.data.weights.density_ratio import relative_ratio
from alltrades.data.weights.estimate import estimate_weights
from alltrades.data.weights.reaching import rows_ahead, weighed_by
from alltrades.data.weights.settings import WeightSettings
from tests.data.stores import states
from tests.data.test_weights import steps

RHO, SHIFT, LENGTH = 0.6, 1.0, 40
NOISE = np.sqrt(1 - RHO**2)


def chain(episodes: int, mean: float, seed: int):
    """Stationary s' - mean = RHO (s - mean) + a with a ~ N(0, 1 - RHO^2): states N(mean, 1). The
    action of a row is the push away from RHO s, so that s' = RHO s + action.
    """
    rng = np.random.default_rng(seed)
    s = np.empty((episodes, LENGTH + 1))
    s[:, 0] = mean + rng.normal(size=episodes)
    for t in range(LENGTH):
        s[:, t + 1] = mean + RHO * (s[:, t] - mean) + NOISE * rng.normal(size=episodes)
    found = steps(s[:, :-1].reshape(-1, 1), LENGTH, "any")
    action = (s[:, 1:] - RHO * s[:, :-1]).reshape(-1, 1)
    return replace(found, action=action.astype(np.float32))


@pytest.fixture(scope="module")
def chains():
    return chain(150, SHIFT, 0), chain(500, 0.0, 1)


@pytest.fixture(scope="module")
def weights(chains):
    """Weights of the two chains under settings, each estimated once."""
    return cache(lambda **settings: estimate(chains, **settings))


def estimate(chains, **settings):
    given = {"alpha": 0.05, "floor": 0.0, "ess_min": 0.0, "folds": 2} | settings
    return estimate_weights(*chains, WeightSettings(**given), np.random.default_rng(0))


def mean_action(chains, result, near: float) -> float:
    """Of rollout rows whose state is near to this and that have a next one, under their weights."""
    _, rollouts = chains
    s, a = states(rollouts)[:].ravel(), rollouts.action[:].ravel()
    inner = np.arange(len(s)) % LENGTH < LENGTH - 1
    rows = inner & (np.abs(s - near) < 0.15)
    w = result.rollout_weight[rows]
    return float(w @ a[rows] / w.sum())


def weighted_mean_action(s: float, alpha: float) -> float:
    """E[a w(RHO s + a)] / E[w(RHO s + a)] by quadrature: log(p / q) is SHIFT s - SHIFT^2 / 2."""
    nodes, mass = hermegauss(80)
    a = NOISE * nodes
    w = mass * relative_ratio(SHIFT * (RHO * s + a) - SHIFT**2 / 2, alpha)
    return float(w @ a / w.sum())


@pytest.mark.parametrize("s", [-1.0, 0.0, 1.0])
def test_resultant_weights_tilt_the_actions_as_on_the_known_chain(chains, weights, s):
    result = weights(at="resultant", ahead=1)
    assert mean_action(chains, result, s) == pytest.approx(weighted_mean_action(s, 0.05), abs=0.06)
    assert weighted_mean_action(s, 1e-9) == pytest.approx(SHIFT * NOISE**2)  # the closed form


@pytest.mark.parametrize("s", [-1.0, 0.0, 1.0])
def test_weights_of_the_state_itself_leave_actions_as_they_are(chains, weights, s):
    assert mean_action(chains, weights(), s) == pytest.approx(0.0, abs=0.06)


def test_progress_counts_what_an_action_gains_whatever_the_state(chains, weights):
    """log(p / q) of s' less that of s is SHIFT ((RHO - 1) s + a): tilted alike at every s."""
    result = weights(at="progress", ahead=1, alpha=0.01)
    found = [mean_action(chains, result, s) for s in (-0.5, 0.5)]
    assert found == pytest.approx([SHIFT * NOISE**2] * 2, abs=0.1)
    assert result.moment_balance is None


def test_a_row_reaches_so_far_or_to_the_end_of_its_episode():
    episode = np.array([0, 0, 0, 2, 2, 5])
    assert rows_ahead(episode, 2).tolist() == [2, 2, 2, 4, 4, 5]
    assert rows_ahead(episode, 1).tolist() == [1, 2, 2, 4, 4, 5]
    assert rows_ahead(episode[:0], 3).tolist() == []
    logit = np.array([0.0, 1.0, 4.0])
    reached = rows_ahead(np.zeros(3, int), 1)
    assert weighed_by(logit, reached, "state").tolist() == [0, 1, 4]
    assert weighed_by(logit, reached, "resultant").tolist() == [1, 4, 4]
    assert weighed_by(logit, reached, "progress").tolist() == [1, 3, 0]


def test_steps_after_success_are_not_reached(chains):
    """With first successes known, weights end there, and so does what a row can reach."""
    demos, rollouts = chains
    first = np.full(len(rollouts.ends), 10)
    cut = replace(rollouts, first_success=first)
    result = estimate((demos, cut), at="resultant", ahead=30)
    s = result.rollout_weight.reshape(-1, LENGTH)
    assert np.allclose(s[:, :10], s[:, 9:10]) and np.ptp(s[:, 9]) > 0.1


@pytest.mark.parametrize("kind", ["none", "mixture", "success", "success*mixture"])
def test_kinds_without_a_ratio_refuse_to_look_ahead(kind):
    with pytest.raises(ValidationError, match=f"at = resultant with kind: .*{kind[-7:]}"):
        WeightSettings(kind=kind, at="resultant")
