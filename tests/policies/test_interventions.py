"""What is learned of episodes in which a person took over from a policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import WeightResult
from alltrades.errors import UserError
from alltrades.pipeline.interventions import learned_from, lines
from alltrades.policies.learning.batches import Augmentation, demonstration_data
from alltrades.policies.learning.distillation import Targets, stage2_rows
from alltrades.policies.learning.recorded import Recorded
from alltrades.policies.settings import PolicySettings
from tests.policies.toys import info, make_policy, make_steps

SETTINGS = PolicySettings(
    n_obs_steps=2, horizon=4, n_action_steps=2, width=8, depth=1, embedding=4, sampling_steps=2
)


def mixed(episodes: int = 3, marks: list[int] | None = None) -> Steps:
    """A plain demonstration, one in which a person took steps 2, 3 and 5, one without any."""
    steps = make_steps("toy", episodes, 6)
    marks = [-1] * 6 + [0, 0, 1, 1, 0, 1] + [0] * 6 if marks is None else marks
    return replace(steps, intervention=np.array(marks, np.int8))


@pytest.mark.parametrize("hold_end", [False, True])
def test_windows_begin_at_the_persons_steps_and_end_where_they_let_go(hold_end):
    steps = learned_from(mixed(), "human")
    assert len(steps.ends) == 2  # in the third episode nothing is a person's
    data = demonstration_data(steps, make_policy([info("toy")], SETTINGS), Augmentation(hold_end))
    assert sorted(data.draws.every().tolist()) == [0, 1, 2, 3, 4, 5, 8, 9, 11]
    masks = data.gather(np.array([0, 4, 8, 9, 11])).mask.tolist()
    end = 1.0 if hold_end else 0.0
    assert masks[0] == [1, 1, 1, 1] and masks[1] == [1, 1, end, end]
    assert masks[2] == [1, 1, 0, 0]  # what follows step 4 answers states that the policy led to
    assert masks[3] == [1, 0, 0, 0] and masks[4] == [1, end, end, end]


def test_half_of_the_windows_begin_at_interventions():
    steps = learned_from(mixed(), "weighted")
    assert len(steps.ends) == 3 and steps.overruled is None
    taken = np.isin(np.arange(18), [8, 9, 11])
    assert steps.begins[taken].sum() == pytest.approx(9) == steps.begins[~taken].sum()
    data = demonstration_data(steps, make_policy([info("toy")], SETTINGS))
    drawn = data.rows(4000, np.random.default_rng(0))
    assert np.isin(drawn, [8, 9, 11]).mean() == pytest.approx(0.5, abs=0.03)
    assert data.gather(np.array([8])).mask.tolist() == [[1, 1, 1, 1]]


def test_a_command_says_how_much_a_person_did_and_what_is_learned():
    (line,) = lines(mixed(), "human")
    assert line == (
        "interventions of toy: a person took 3 of 12 steps, in 1 of 2 episodes; learned from are "
        "those alone"
    )
    none = mixed(1, [0] * 6)
    with pytest.raises(UserError, match="a policy acted at every step of all 1 episodes of 'toy'"):
        list(lines(none, "human"))
    assert len(list(lines(none, "all"))) == 1 and not list(lines(make_steps("toy", 1), "human"))


def test_all_steps_alike_and_stores_without_marks_are_as_they_were():
    steps = learned_from(mixed(), "all")
    assert steps.begins is None and len(steps.ends) == 3
    plain = make_steps("toy", 2, 6)
    assert all(learned_from(plain, how) is plain for how in ("human", "weighted", "all"))


@pytest.mark.parametrize("reuse", [True, False])
def test_the_generalist_repeats_no_action_of_the_policy(reuse):
    """Where a teacher labels states, those that the policy led to are as good as any."""
    demos = learned_from(mixed(), "human")
    rollouts = make_steps("toy", 1, 6, source="scratch")
    weights = {"toy": uniform(demos, rollouts)}
    rows = stage2_rows(demos, rollouts, weights, ["scratch"], Targets(False, reuse, 0.5))
    of_demos = rows.probability[:12]
    if reuse:
        assert of_demos.sum() == pytest.approx(0.5)
        assert np.flatnonzero(of_demos == 0).tolist() == [6, 7, 10]
    else:
        assert (of_demos > 0).all() and (rows.teacher[:12] == 0).all()


def uniform(demos: Steps, rollouts: Steps) -> WeightResult:
    n, m = len(demos), len(rollouts)
    return WeightResult(np.ones(n), np.ones(m), np.full(n, 1 / n), np.full(m, 1 / m), 0.5, 0.5)


def test_nothing_is_judged_where_a_policy_acted():
    held = learned_from(mixed(2, [0, 0, 1, 1, 0, 1, *[0] * 6]), "human")
    there = Recorded.of(held, make_steps("toy", 1, 6), info("toy"), 4)
    assert there.rows.tolist() == [2, 3, 5]
    assert there.mask.sum(1).tolist() == [2, 1, 1]
