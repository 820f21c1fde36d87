"""Statistics that environments share because they measure the same."""

from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.policies.model.pooling import pooled
from alltrades.policies.model.statistics import measure

NAMED = Field.state(3, names=("x", "y", "goal_x"), units=("m", "m", "m"))


def environment(name, f=NAMED):
    return Interface(name, {"state": f}, ActionSpec((-1.0,), (1.0,)))


def measured(interface, x):
    return measure(interface, {"state": x.astype(np.float32)}, np.linspace(-1, 1, len(x))[:, None])


def scene(rng, goal, spread=1.0):
    """Two starts of a task: x and y move, the goal hardly differs between them."""
    x = rng.normal(0, spread, (400, 3))
    x[:, 2] = goal + 0.01 * rng.standard_normal(400)
    return x


def moments(statistics):
    return np.stack([[s.states["state"].mean, s.states["state"].std] for s in statistics])


def test_the_spread_of_a_goal_is_that_of_all_tasks_that_name_it_the_same():
    rng = np.random.default_rng(0)
    names = [environment(n) for n in "abcd"]
    own = [measured(e, scene(rng, goal)) for e, goal in zip(names, (-0.3, -0.1, 0.1, 0.3))]
    together = moments(pooled(own, names))
    assert (moments(own)[:, 1, 2] < 0.02).all() and (together[:, 1, 2] > 0.15).all()
    np.testing.assert_array_equal(together, together[[0] * 4])


def test_the_moments_are_those_of_the_rows_of_all_of_them():
    rng = np.random.default_rng(1)
    names = [environment(n) for n in "ab"]
    rows = [scene(rng, 0.0, 1.0), scene(rng, 0.5, 2.0)]
    got = moments(pooled([measured(e, x) for e, x in zip(names, rows)], names))
    every = np.concatenate(rows)  # equally long: each environment counts alike
    np.testing.assert_allclose(got[0, 0], every.mean(0), atol=1e-5)
    np.testing.assert_allclose(got[1, 1], every.std(0), rtol=0.03)


@pytest.mark.parametrize(
    "other",
    [
        Field.state(3),
        replace(NAMED, units=None),
        replace(NAMED, units=("mm", "mm", "mm")),
        replace(NAMED, names=("x", "y", "door_x")),
    ],
)
def test_fields_of_other_or_undeclared_names_and_units_are_never_pooled(other):
    rng = np.random.default_rng(2)
    names = [environment("a"), environment("b", other)]
    own = [measured(names[0], scene(rng, 0)), measured(names[1], 1000 * scene(rng, 1))]
    np.testing.assert_array_equal(moments(pooled(own, names)), moments(own))


def test_a_dimension_stands_still_only_where_it_does_in_the_whole_pool():
    rng = np.random.default_rng(3)
    a, b = scene(rng, 0), scene(rng, 0)
    a[:, 1] = b[:, 1] = 2.0
    a[:, 2] = 0.25
    names = [environment("a"), environment("b")]
    own = [measured(e, x) for e, x in zip(names, (a, b))]
    assert own[0].states["state"].still.tolist() == [False, True, True]
    got = pooled(own, names)[0].states["state"]
    assert got.still.tolist() == [False, True, False] and got.std[2] > 0


HAND = ActionSpec((-1.0, -1.0), (1.0, 1.0), names=("dx", "dy"))


def acting(specs, ranges):
    """Statistics of actions that reach so far, before and after the pool."""
    environments = [Interface(f"e{k}", {"state": NAMED}, a) for k, a in enumerate(specs)]
    rng = np.random.default_rng(4)
    own = [
        measure(e, {"state": scene(rng, 0)}, np.linspace(-1, 1, 200)[:, None] * np.array(reach))
        for e, reach in zip(environments, ranges)
    ]
    return own, pooled(own, environments)


def test_the_reach_of_actions_is_that_of_all_tasks_that_name_them_the_same():
    own, together = acting([HAND, HAND], [(0.2, 1.0), (1.0, 0.0)])
    assert own[1].action.still.tolist() == [False, True]
    for statistics in together:
        assert statistics.action.still.tolist() == [False, False]
        np.testing.assert_allclose(statistics.action.inner_high, [1.0, 1.0])
        np.testing.assert_allclose(statistics.action.low, [-1.0, -1.0])  # as far as it is sampled


@pytest.mark.parametrize(
    "other",
    [
        replace(HAND, low=(-1000.0, -1000.0), high=(1000.0, 1000.0)),
        replace(HAND, names=("dx", "gripper")),
        replace(HAND, units=("m", "m")),
        replace(HAND, names=None),
        ActionSpec.unknown(2, names=("dx", "dy")),
    ],
)
def test_actions_of_other_names_units_or_box_are_never_pooled(other):
    own, together = acting([HAND, other], [(0.2, 1.0), (1.0, 0.5)])
    for a, b in zip(own, together):
        np.testing.assert_array_equal(a.action.inner_high, b.action.inner_high)
        np.testing.assert_array_equal(a.action.std, b.action.std)
