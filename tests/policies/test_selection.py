"""Cross-validation over episodes: what is held out, what decides, and that one choice serves all
environments.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.initial import make_normalizer
from alltrades.policies.learning.selection import choose, fold_of_episode
from alltrades.policies.learning.specialists import Specialists, Task, specialist_normalizers
from alltrades.policies.learning.stacked_training import Candidate
from alltrades.policies.settings import TrainSettings
from alltrades.report.text import selection
from alltrades.system.reporting import Report

from .toys import SMALL, info, make_steps

ONE = SMALL.model_copy(
    update={"horizon": 1, "n_action_steps": 1}
)  # observations here are random: only the next action can be known
TRAIN = TrainSettings(steps=60, batch=32, lr=1e-2, ema=0.9, precision="fp32", checkpoint_every=7)
LEARNS = Candidate("learns", ONE, TRAIN)
FROZEN = Candidate(
    "frozen", ONE, TRAIN.model_copy(update={"lr": 1e-9})
)  # goes on predicting the mean


def several(episodes=(3, 2, 1), noise=False, obs_dims=(3, 3, 3), length=20):
    """Environments a, b, c with as many episodes each; random actions where `noise`."""
    parts = [
        make_steps("abc"[k], episodes=n, seed=k, obs_dim=d, length=length)
        for k, (n, d) in enumerate(zip(episodes, obs_dims))
    ]
    steps = Steps.concatenate(parts)
    if noise:
        rng = np.random.default_rng(1)
        steps = replace(steps, action=rng.uniform(-1, 1, steps.action.shape).astype(np.float32))
    return steps, [info("abc"[k], obs_dim=d) for k, d in enumerate(obs_dims)]


def specialists(demos, infos, **more):
    return Specialists(demos, [Task(info, 5 + k) for k, info in enumerate(infos)], **more)


def test_every_episode_is_held_out_once_and_never_in_part():
    demos, _ = several((7, 2, 1))
    demos = replace(demos, has_actions=np.arange(10) != 3)
    fold = fold_of_episode(demos, 3, seed=0)
    assert sorted(fold[:7].tolist()) == [-1, 0, 0, 1, 1, 2, 2]  # one of a has no actions
    assert fold[3] == -1 and sorted(fold[7:9].tolist()) == [
        0,
        1,
    ]  # two demonstrations: leave one out
    assert fold[9] == -1  # one: never held out
    assert (fold != fold_of_episode(demos, 3, seed=1)).any()


def test_choice_is_the_lowest_mean_over_environments_in_shares_of_each_lowest():
    """Environment "loud" has losses a hundred times larger; it must not outvote the other two."""
    losses = {
        "loud": np.array([[300.0, 200.0], [190.0, 240.0]]),
        "x": np.array([[4.0, 1.0], [3.0, 2.0]]),
        "y": np.array([[4.0, 1.0], [3.0, 2.0]]),
    }
    choice = choose(losses, (10, 20))
    assert (choice.candidate, choice.steps) == (0, 20)
    assert choice.relative == pytest.approx(
        np.array([[(300 / 190 + 8) / 3, (200 / 190 + 2) / 3], [(1 + 6) / 3, (240 / 190 + 4) / 3]])
    )
    table = choice.to_json([LEARNS, FROZEN])
    assert (
        table["chosen"] == "learns"
        and table["steps"] == 20
        and table["losses"]["x"] == {"learns": 1.0, "frozen": 2.0}
    )
    assert table["relative_loss"] == pytest.approx(
        {"learns": (200 / 190 + 2) / 3, "frozen": (240 / 190 + 4) / 3}
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_candidate_whose_training_diverged_in_one_environment_is_not_chosen(bad):
    losses = {
        "x": np.array([[bad, bad], [3.0, 2.0], [4.0, 1.0]]),
        "y": np.array([[1.0, 1.0], [3.0, 2.0], [3.0, bad]]),
    }
    choice = choose(losses, (10, 20))
    assert (choice.candidate, choice.steps) == (1, 20)
    assert choice.relative[1] == pytest.approx([3.0, 2.0]) and choice.relative[2] == pytest.approx(
        [3.5, np.inf]
    )
    table = choice.to_json([LEARNS, FROZEN, replace(FROZEN, name="other")])
    assert table["relative_loss"] == pytest.approx({"learns": None, "frozen": 2.0, "other": 3.5})
    assert table["losses"]["x"]["learns"] is None and "learns diverged)" in selection(table)
    with pytest.raises(UserError, match="diverged"):
        choose({"x": np.array([[1.0], [bad]]), "y": np.array([[bad], [bad]])}, (10,))


def test_candidate_is_trained_no_further_than_its_patience():
    """Looks that one candidate never reached cannot be chosen for it; those of the others can."""
    wide = ONE.model_copy(update={"width": 96, "depth": 2})
    train = TRAIN.model_copy(update={"steps": 300})
    demos, infos = several((4, 4), noise=True, obs_dims=(3, 3), length=8)
    candidates = [
        Candidate("sees", wide, train),
        Candidate("blind", wide, train.model_copy(update={"observation_noise": 5.0})),
    ]
    whole = specialists(demos, infos).cross_validate(candidates, 2, 10)
    done = []
    choice = specialists(
        demos, infos, report=Report(lambda *counts: done.append(counts))
    ).cross_validate(candidates, 2, 10, patience=2)
    known = np.isfinite(choice.relative)
    lowest = int(whole.relative[0].argmin())
    assert (
        known[0].sum() < 10 and not np.diff(known.astype(int)).max(initial=0) > 0
    )  # from the first look to the last one
    assert abs(int(choice.relative[0].argmin()) - lowest) <= 1
    for name, losses in choice.losses.items():
        assert np.array_equal(losses[known], whole.losses[name][known])
    table = choice.to_json(candidates)
    assert (
        table["relative_curves"]["sees"][-1] is None and table["relative_loss"]["sees"] is not None
    )
    assert done[-1][0] == 2 * 2 * 2 * 300  # what was not trained counts as done
    alone = (
        specialists(demos, infos)
        .cross_validate(candidates[:1], 2, 10, patience=2)
        .to_json(candidates[:1])
    )
    assert (
        alone["steps"] < alone["looks"][-1] < alone["of"] == 300
    )  # no candidate came to the end of its schedule


def test_candidate_that_diverges_leaves_the_choice_to_the_others():
    demos, infos = several((2, 2, 1))
    short = TRAIN.model_copy(update={"steps": 10})
    wild = Candidate("wild", ONE, short.model_copy(update={"lr": 1e30}))
    choice = specialists(demos, infos).cross_validate([wild, replace(LEARNS, train=short)], 3, 10)
    assert (
        choice.candidate == 1
        and np.isinf(choice.relative[0]).any()
        and np.isfinite(choice.relative[1]).all()
    )


def test_hidden_observations_are_chosen_where_actions_are_noise_and_nowhere_else():
    """Noise on observations keeps a network from memorising; where actions follow from observations
    it only harms.
    """
    train = TRAIN.model_copy(update={"steps": 300})
    wide = ONE.model_copy(update={"width": 96, "depth": 2})
    candidates = [
        Candidate("sees", wide, train),
        Candidate("blind", wide, train.model_copy(update={"observation_noise": 5.0})),
    ]
    demos, infos = several((4, 4), obs_dims=(3, 3), length=8)
    choice = specialists(demos, infos).cross_validate(candidates, 2, 10)
    assert choice.candidate == 0 and choice.steps > 150
    assert all(x[0].min() < 0.5 * x[1].min() for x in choice.losses.values())
    demos, infos = several((4, 4), noise=True, obs_dims=(3, 3), length=8)
    choice = specialists(demos, infos).cross_validate(candidates, 2, 10)
    assert choice.candidate == 1
    assert choice.relative[0].argmin() < 9  # the one that sees is best before it has memorised


def test_environment_with_one_demonstration_takes_the_choice_made_on_others():
    demos, infos = several((3, 2, 1), obs_dims=(3, 4, 3))
    fits, choice = specialists(demos, infos).fit([FROZEN, LEARNS], "cv", 3, 10)
    assert set(choice.losses) == {"a", "b"}
    assert [f.steps for f in fits] == [choice.steps] * 3 and choice.candidate == 1
    assert fits[0].held_out == pytest.approx(
        choice.losses["a"][1, choice.looks.index(choice.steps)]
    )
    assert fits[2].held_out is None
    window = torch.rand(64, 1, 3) * 2 - 1
    fits[2].policy.eval()
    chunk = fits[2].policy.sample(
        {"state": window}, torch.zeros(64, dtype=torch.long), torch.randn(64, 1, 2)
    )
    assert (chunk[:, 0] - 0.5 * window[:, 0, :2]).square().mean() < 0.5 * (
        0.5 * window[:, 0, :2]
    ).square().mean()


def test_without_a_second_demonstration_there_is_no_choice_and_the_first_candidate_is_kept():
    demos, infos = several((1, 1, 1))
    fits, choice = specialists(demos, infos).fit([LEARNS, FROZEN], "cv", 3, 10)
    assert choice is None and [(f.steps, f.held_out) for f in fits] == [(60, None)] * 3


def test_at_most_so_many_environments_take_part():
    demos, infos = several((2, 2, 2))
    short = replace(LEARNS, train=TRAIN.model_copy(update={"steps": 10}))
    assert list(specialists(demos, infos).cross_validate([short], 3, 2).losses) == ["a", "c"]


def test_holdout_finds_the_steps_of_each_environment():
    learnable, infos = several((5, 5, 2), length=4)
    noise, _ = several((5, 5, 2), noise=True, length=4)
    action = np.where((learnable.episode_of_step < 5)[:, None], learnable.action, noise.action)
    candidate = Candidate(
        "wide",
        ONE.model_copy(update={"width": 96, "depth": 2}),
        TRAIN.model_copy(update={"steps": 600}),
    )
    done = []
    demos = replace(learnable, action=action)
    fits, _ = specialists(demos, infos, report=Report(lambda *counts: done.append(counts))).fit(
        [candidate], "holdout", 3, 10
    )
    assert fits[0].steps > fits[1].steps
    assert (
        done[-1][0] == done[-1][1] == 1200 + sum(f.steps for f in fits)
    )  # the count ends where the work does
    assert fits[2].steps == 600 and fits[2].held_out is None  # fewer than three episodes


def test_specialists_share_the_action_scale_and_have_their_share_of_the_observations():
    demos, infos = several((3, 3, 3), obs_dims=(3, 5, 4))
    everything = make_normalizer(demos, infos, SMALL)
    part = demos.select(np.arange(9) % 3 > 0)
    own = specialist_normalizers(part, infos, SMALL, everything)
    rows = part.observation["state"][part.environment[part.episode_of_step] == "b"]
    assert [n.obs_mean.shape for n in own] == [(1, 3), (1, 5), (1, 4)]
    for k, normalizer in enumerate(own):
        for name in ("action_mean", "action_scale", "action_low", "action_high"):
            assert torch.equal(getattr(normalizer, name)[0], getattr(everything, name)[k])
        assert normalizer.same_actions(0, everything, k)
    assert not own[0].same_actions(0, everything, 1)
    assert np.allclose(own[1].obs_mean[0], rows.mean(0), atol=1e-5)
    assert np.allclose(own[1].obs_scale[0], rows.std(0), atol=1e-5)
    assert all(bool(n.fitted) for n in own)


def test_interrupted_cross_validation_goes_on_and_ends_with_the_same_bits(tmp_path):
    demos, infos = several((3, 2, 1))
    candidates = [LEARNS, replace(LEARNS, name="wide", policy=ONE.model_copy(update={"width": 40}))]
    whole, choice = specialists(demos, infos).fit(candidates, "cv", 3, 10)
    seen = []

    def interrupt(at):
        def each(done, total):
            assert done <= total
            seen.append(done)
            if done >= at:
                raise KeyboardInterrupt

        return each

    for at in (
        100,
        400,
        650,
    ):  # in the first and the second stack of folds, and in the last training
        with pytest.raises(KeyboardInterrupt):
            specialists(demos, infos, place=Place(tmp_path), report=Report(interrupt(at))).fit(
                candidates, "cv", 3, 10
            )
    assert seen.count(5) == 1  # what was done was not done again
    fits, again = specialists(demos, infos, place=Place(tmp_path)).fit(candidates, "cv", 3, 10)
    assert np.array_equal(again.relative, choice.relative) and again.steps == choice.steps
    for a, b in zip(whole, fits):
        assert all(
            torch.equal(x, y)
            for x, y in zip(a.policy.state_dict().values(), b.policy.state_dict().values())
        )
