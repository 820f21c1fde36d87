"""A stack is its members: trained together as alone, called together as alone."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.fields import Field
from alltrades.data.layout import Layout
from alltrades.pipeline.beside import Beside
from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.stacked_training import Candidate, Learner, fit_learners
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.stacked import StackedPolicy, stack_key, stacks
from alltrades.policies.settings import TrainSettings
from alltrades.system.reporting import Report

from .toys import SMALL, info, make_policy, make_steps

BACKBONES = ["mlp", "transformer", "unet1d"]
TRAIN = TrainSettings(steps=40, batch=16, precision="fp32", observation_noise=0.05, lr=3e-3)


def learners(train=TRAIN, **changes):
    """Three environments with experts of very different gain, so that their gradients have very
    different norms.
    """
    settings = SMALL.model_copy(update={"depth": 2, "n_obs_steps": 2, **changes})
    out = []
    for k, gain in enumerate((0.01, 0.5, 3.0)):
        name = "abc"[k]
        steps = make_steps(name, seed=k, gain=gain)
        policy = make_policy([info(name)], settings)
        out.append(
            Learner(
                info(name),
                steps,
                policy.normalizer,
                Candidate("small", settings, train),
                seed=10 + k,
                stop=(40, 20, 40)[k],
            )
        )
    return out


def alone(learner):
    policy = learner.untrained("cpu")
    return Trainer(
        policy,
        demonstration_data(learner.demos, policy),
        learner.train,
        learner.seed,
        total=learner.steps,
    ).fit()


def distance(a, b):
    return max(
        float((x - y).detach().abs().max())
        for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("clip", [1.0, 0.01])
def test_members_of_a_stack_end_where_they_would_alone(backbone, clip):
    """Own rows, noise, stop and gradient clipping: with 0.01 every gradient is clipped, by factors
    that differ greatly. Rounding, which differs between processors, grows over the steps.
    """
    many = learners(TRAIN.model_copy(update={"grad_clip": clip}), backbone=backbone)
    for learner, learned in zip(many, fit_learners(many), strict=True):
        policy = learned.policy
        single = alone(learner)
        start = learner.untrained("cpu")
        assert distance(policy, single) < 1e-3 < 1e-2 < distance(single, start)
        assert policy.environments == single.environments and policy.settings == single.settings


def test_shapes_that_differ_are_trained_in_stacks_of_their_own():
    wide = Learner(
        info("w", obs_dim=5, action_dim=2),
        make_steps("w", obs_dim=5),
        make_policy([info("w", obs_dim=5)]).normalizer,
        Candidate("small", SMALL, TRAIN),
        seed=3,
    )
    many = [learners()[0], wide, *learners()[1:]]
    found = fit_learners(many)
    assert all(
        distance(a.policy, alone(learner)) < 1e-3 for a, learner in zip(found, many, strict=True)
    )


def test_stacks_may_be_trained_beside_one_another():
    many = [*learners(), *learners(backbone="transformer"), *learners(width=24)]
    counts = []
    beside = fit_learners(
        many, run=Beside(2).run, report=Report(lambda done, _: counts.append(done))
    )
    assert counts[-1] == max(counts) == 3 * 100  # steps of all stacks
    for a, b in zip(fit_learners(many), beside, strict=True):
        assert distance(a.policy, b.policy) == 0


def test_patience_ends_a_stack_when_no_group_has_had_a_new_lowest_loss(tmp_path):
    """Random actions: whatever is learned harms on held-out episodes, and beside them one group
    goes on learning.
    """
    train = TRAIN.model_copy(
        update={"steps": 100, "observation_noise": 0.0, "lr": 1e-2, "ema": 0.5}
    )
    learner = replace(learners(train)[1], stop=None)
    rng = np.random.default_rng(0)
    noise = make_steps("b", episodes=3, seed=5)
    signs = rng.choice([-1.0, 1.0], noise.action.shape).astype(np.float32)
    noise = replace(noise, action=signs)
    lost = replace(
        learner, demos=noise, held=make_steps("b", episodes=50, seed=6, gain=0.0), group=1
    )
    (whole,) = fit_learners([lost])
    lowest = min(whole.curve, key=whole.curve.get)
    assert lowest < 60  # else there is nothing to end
    (ended,) = fit_learners([lost], patience=2, place=Place(tmp_path))
    assert sorted(ended.curve) == list(range(10, lowest + 21, 10))
    assert ended.curve == {step: whole.curve[step] for step in ended.curve}
    (again,) = fit_learners([lost], patience=2, place=Place(tmp_path))
    assert (
        again.curve == ended.curve and distance(again.policy, ended.policy) == 0
    )  # a finished one is not continued
    assert distance(ended.policy, whole.policy) > 0
    (capped,) = fit_learners([replace(lost, held=None, stop=lowest + 20)])
    assert distance(ended.policy, capped.policy) < 1e-6  # kept as it was when it ended
    learning = replace(learner, held=make_steps("b", episodes=20, seed=7, gain=0.5), group=2)
    both = fit_learners([lost, learning], patience=2)
    assert len(both[0].curve) == len(both[1].curve) > len(ended.curve)


def test_killed_stack_resumes_to_the_same_bits(tmp_path):
    train = TRAIN.model_copy(update={"checkpoint_every": 10})
    many = [replace(x, held=x.demos) for x in learners(train)]
    whole = fit_learners(many)

    class Killed(Exception):
        pass

    def steps_of_all(step):
        return sum(min(step, x.steps) for x in many)  # one of them stops after 20

    def kill(at):
        def each(step, _):
            if step >= steps_of_all(at):
                raise Killed

        return each

    for at in (13, 27):
        with pytest.raises(Killed):
            fit_learners(many, place=Place(tmp_path), report=Report(kill(at)))
    resumed_at = []
    resumed = fit_learners(
        many, place=Place(tmp_path), report=Report(lambda done, _: resumed_at.append(done))
    )
    assert min(resumed_at) == steps_of_all(21) and max(resumed_at) == steps_of_all(40) == 100
    again_at = []
    again = fit_learners(
        many, place=Place(tmp_path), report=Report(lambda done, _: again_at.append(done))
    )
    assert again_at == [100]  # nothing was trained again
    for a, b, c in zip(whole, resumed, again, strict=True):
        assert distance(a.policy, b.policy) == distance(a.policy, c.policy) == 0
        assert a.curve == b.curve and sorted(a.curve) == list(range(4, 41, 4))


def test_held_out_curve_is_the_loss_of_the_average_at_that_step():
    """Random actions cannot be predicted: their loss in the units of the normaliser is known."""
    learner = learners()[1]
    rng = np.random.default_rng(0)
    noise = make_steps("b", episodes=50, seed=5)
    signs = rng.choice([-1.0, 1.0], noise.action.shape).astype(np.float32)
    noise = replace(noise, action=signs)
    curve = fit_learners([replace(learner, held=noise, stop=None)])[0].curve
    scale = learner.normalizer.action_scale.square().mean() ** 0.5
    assert curve[4] == pytest.approx(
        float(1 / scale**2), rel=0.25
    )  # hardly trained: predicts about 0
    assert list(curve) == sorted(curve) and len(set(curve.values())) == 10


@pytest.mark.parametrize("backbone", BACKBONES)
def test_row_of_a_stack_acts_as_its_member_whatever_the_other_rows(backbone):
    settings = SMALL.model_copy(update={"backbone": backbone, "width": 32, "depth": 2})
    members = [make_policy([info(name)], settings, seed=k) for k, name in enumerate("abcd")]
    for k, member in enumerate(members):
        member.normalizer.action_scale.mul_(10.0**k)
        for p in member.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(k))
    stack = StackedPolicy(members).eval()
    assert stack.environment_index("c") == 2 and stack.environments[2].id == "c"
    rng = np.random.default_rng(0)
    window = rng.standard_normal((8, 1, 3), dtype=np.float32)
    noise = rng.standard_normal((8, stack.draws, stack.horizon, stack.action_dim), dtype=np.float32)

    def act(rows, environment):
        return stack.act({"state": window[rows]}, np.array(environment), noise[rows])

    chunk = act(list(range(8)), [2, 0, 1, 1, 3, 2, 0, 0])
    for i, k in enumerate([2, 0, 1, 1, 3, 2, 0, 0]):
        own = {"state": window[i : i + 1]}
        single = members[k].eval().act(own, np.zeros(1, np.int64), noise[i : i + 1])
        np.testing.assert_allclose(chunk[i], single[0], atol=1e-5 * 10.0**k)
    assert np.abs(chunk[2] - chunk[3]).max() > 1e-3
    other = act([5, 4, 7, 0, 1, 2, 3, 6], [2, 3, 2, 2, 1, 3, 0, 1])
    assert all(np.array_equal(other[a], chunk[b]) for a, b in ((0, 5), (1, 4), (3, 0)))


def test_first_weights_are_those_of_the_seed_while_other_threads_make_and_stack_policies(tmp_path):
    members = [make_policy([info(name)]) for name in "ab"]
    members[0].save(tmp_path)
    first, stop = members[0].digest(), threading.Event()

    def others():
        while not stop.is_set():
            StackedPolicy(members)
            load_policy(tmp_path)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        digests = {make_policy([info("a")]).digest() for _ in range(300)}
    finally:
        stop.set()
        thread.join()
    assert digests == {first}


def test_stacks_are_even_and_keep_the_order():
    assert stacks("aabab", 2) == [[0], [1, 3], [2, 4]]
    assert [len(x) for x in stacks([0] * 65, 32)] == [21, 22, 22]


def test_policies_that_differ_in_shape_fields_or_environments_are_not_stacked():
    a, scaled = make_policy([info("a")]), make_policy([info("b")])
    scaled.normalizer.action_scale.mul_(2)
    assert stack_key(a) == stack_key(scaled)
    wide = make_policy([info("c")], SMALL.model_copy(update={"width": 40}))
    other = replace(info("d"), observation={"joints": Field.state(3)})
    named = build_policy(SMALL, [other], Normalizer(Layout([other])), 0)
    two = [make_policy([info("a"), info("b")]) for _ in range(2)]
    assert len({stack_key(p) for p in (a, wide, named, *two)}) == 5
    with pytest.raises(ValueError, match="shapes"):
        StackedPolicy([a, wide])
