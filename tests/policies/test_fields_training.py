"""Training on fields of all kinds: images and text reach the loss, teachers see fields of their
own, and stopping changes nothing.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.envs.symmetry import Reflection
from alltrades.policies.learning.batches import (
    Augmentation,
    TrainingData,
    TrainingRows,
    demonstration_data,
)
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.diagnosis import (
    demonstration_error,
    distillation_gap,
    neighbour_error,
)
from alltrades.policies.learning.distillation import (
    Targets,
    excess_loss,
    label_rows,
    score_loss,
    stage2_rows,
)
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.specialists import Specialists, Task
from alltrades.policies.learning.stacked_training import Candidate
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.settings import TrainSettings
from alltrades.system.reporting import Report

from .toys import SMALL, fit_demonstrations

ONE = SMALL.model_copy(update={"horizon": 1, "n_action_steps": 1})
TRAIN = TrainSettings(steps=300, batch=64, lr=3e-3, ema=0.97, precision="fp32")
SHORT = TRAIN.model_copy(update={"steps": 12, "checkpoint_every": 4})
BOX = ActionSpec((-1.0, -1.0), (1.0, 1.0))
SIDE = 12


def spots(where):
    """(N, 12, 12, 3) uint8 images with a bright spot at (N, 2) in [-1, 1]."""
    grid = np.linspace(-1, 1, SIDE)
    distance = np.square(where[:, None, None, 0] - grid[:, None]) + np.square(
        where[:, None, None, 1] - grid
    )
    return np.repeat((255 * np.exp(-8 * distance)).astype(np.uint8)[..., None], 3, axis=3)


def scene(name, episodes=20, length=20, seed=0, gain=0.5, source="expert", **kinds):
    """Steps whose action is gain * position; `kinds` names the fields that show it: state, image,
    or text, which turns its sign.
    """
    rng = np.random.default_rng(seed)
    count = episodes * length
    position = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    turned = rng.random(episodes) < 0.5
    sign = np.repeat(np.where(turned, -1.0, 1.0), length)[:, None]
    observation, text = {}, {}
    for field, kind in kinds.items():
        if kind == "state":
            noise = rng.normal(size=(count, 1)).astype(np.float32)
            observation[field] = np.concatenate([position, noise], axis=1)
        elif kind == "noise":
            observation[field] = rng.normal(size=(count, 3)).astype(np.float32)
        elif kind == "image":
            observation[field] = spots(position)
        elif kind == "text":
            said = np.where(turned, "go away from it", "go to the spot")
            text[field] = said.astype(object)
    action = gain * position * (sign if text else 1.0)
    return Steps(
        observation,
        action.astype(np.float32),
        np.zeros(count, bool),
        np.arange(1, episodes + 1) * length,
        environment=np.array([name] * episodes),
        source=np.array([source] * episodes),
        seed=np.arange(episodes, dtype=np.uint64),
        episode_success=np.ones(episodes, bool),
        first_success=np.full(episodes, -1),
        has_actions=np.ones(episodes, bool),
        return_=np.zeros(episodes),
        text=text,
    )


FIELDS = {
    "state": Field.state(3),
    "noise": Field.state(3),
    "image": Field.image(SIDE, SIDE),
    "text": Field.text(),
}


def interface(name, **kinds):
    return Interface(name, {field: FIELDS[kind] for field, kind in kinds.items()}, BOX)


def error(policy, name, **kinds):
    """Mean squared error in shares of the variance, on new episodes."""
    steps = scene(name, seed=9, **kinds)
    return demonstration_error(policy, steps, name, np.random.default_rng(0), tries=1)


@pytest.mark.parametrize(
    ("kinds", "updates"),
    [({"state": "noise", "images.top": "image"}, 300), ({"state": "state", "task": "text"}, 1000)],
)
def test_a_policy_learns_what_only_an_image_or_a_text_tells(kinds, updates):
    environments = [interface("a", **kinds)]
    steps = scene("a", episodes=60, **kinds)
    train = TRAIN.model_copy(update={"steps": updates})
    sees = fit_demonstrations(steps, environments, ONE, train).policy
    last = list(kinds)[-1]
    others = ONE.model_copy(update={"observe": tuple(k for k in kinds if k != last)})
    blind = fit_demonstrations(steps, environments, others, train).policy
    assert error(sees, "a", **kinds) < 0.2
    assert error(blind, "a", **kinds) > 0.7


def test_environments_of_different_fields_and_sizes_learn_in_one_network():
    kinds = {"a": {"state": "state"}, "b": {"state": "noise", "images.top": "image"}}
    environments = [interface(name, **own) for name, own in kinds.items()]
    steps = Steps.concatenate(
        [
            scene("a", 30, gain=0.5, **kinds["a"]),
            scene("b", 60, seed=1, gain=500.0, **kinds["b"]),
        ]
    )
    environments[1] = replace(environments[1], action=ActionSpec((-500.0,) * 2, (500.0,) * 2))
    train = TRAIN.model_copy(update={"batch": 128})
    policy = fit_demonstrations(steps, environments, ONE, train).policy
    assert error(policy, "a", **kinds["a"]) < 0.1
    assert error(policy, "b", gain=500.0, **kinds["b"]) < 0.3


ALL = {"state": "state", "images.top": "image", "task": "text"}


@pytest.mark.parametrize("storage", ["memory", "file", "store"])
def test_batches_hold_each_environments_own_fields(storage, tmp_path):
    kinds = {"a": {"state": "state", "task": "text"}, "b": {"images.top": "image"}}
    steps = Steps.concatenate(
        [scene(name, 3, seed=k, **own) for k, (name, own) in enumerate(kinds.items())]
    )
    environments = [interface(name, **own) for name, own in kinds.items()]
    settings = ONE.model_copy(update={"n_obs_steps": 2})
    policy = build_policy(settings, environments, make_normalizer(steps, environments, settings), 0)
    rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
    data = TrainingData(rows, policy, folder=tmp_path, storage=storage)
    batch, chosen = data.batch(32, 0, 0)
    here = batch.environment == 1
    assert batch.window["images.top@12x12x3"].dtype == torch.uint8
    for key, own in batch.window.items():
        absent = own[here] if key != "images.top@12x12x3" else own[~here]
        present = own[~here] if key != "images.top@12x12x3" else own[here]
        assert (absent == 0).all() and (present != 0).any()
    image = steps.observation["images.top"][chosen[here.numpy()]]
    assert np.array_equal(batch.window["images.top@12x12x3"][here, -1].numpy(), image)
    want = steps.window(policy.layout, data.windows.take(chosen).obs_index)
    assert all(np.array_equal(batch.window[key], want[key]) for key in want)


@pytest.fixture(scope="module")
def taught():
    """Demonstrations with a state and an image, and a specialist that sees the state alone."""
    kinds = {"state": "state", "images.top": "image"}
    environment = interface("a", **kinds)
    demos = scene("a", 40, **kinds)
    settings = ONE.model_copy(update={"observe": ("state",)})
    train = TRAIN.model_copy(update={"steps": 600})
    teacher = fit_demonstrations(demos, [environment], settings, train).policy
    rollouts = scene("a", 40, seed=5, source="scratch", **kinds)
    weights = {
        "a": estimate_weights(
            demos, rollouts, WeightSettings(kind="none"), np.random.default_rng(0)
        )
    }
    targets = Targets(executed=False, reuse_labels=False, demo_share=0.25)
    rows = stage2_rows(demos, rollouts, weights, ["scratch"], targets)
    blind = ONE.model_copy(update={"observe": ("images.*",)})
    policy = build_policy(blind, [environment], make_normalizer(demos, [environment], blind), 1)
    return rows, {"scratch": {"a": teacher}}, policy


def test_labels_are_those_that_the_teacher_gives_by_its_own_fields(taught):
    rows, teachers, policy = taught
    labelled = label_rows(rows, teachers, steps=20, seed=0)
    data = TrainingData(labelled, policy)
    batch, chosen = data.batch(64, 0, 0)
    state = rows.steps.observation["state"][chosen]
    assert list(batch.window) == ["images.top@12x12x3"]
    assert np.square(batch.action[:, 0].numpy() - 0.5 * state[:, :2]).mean() < 0.005


@pytest.mark.parametrize("kind", ["score", "excess"])
def test_targets_are_what_the_teacher_predicts_by_its_own_fields_of_the_same_step(taught, kind):
    rows, teachers, policy = taught
    teacher = teachers["scratch"]["a"]
    rows = label_rows(rows, teachers, steps=20, seed=0)
    data = TrainingData(rows, policy, teachers=teachers)
    assert set(data.layout.slots) == {"images.top@12x12x3", "state"}
    batch, chosen = data.batch(16, 0, 0)
    generator = torch.Generator().manual_seed(3)
    noised = policy.noised(batch, torch.Generator().manual_seed(3))
    state = torch.from_numpy(rows.steps.observation["state"][chosen])[:, None]
    with torch.no_grad():
        seen = teacher.condition({"state": state}, batch.environment)
        predicted = teacher.backbone(noised.chunk, noised.t, seen)
        own = policy.predict(batch, noised)
        if kind == "score":
            got = score_loss(rows, teachers, policy)(policy, batch, generator, chosen)
            want = policy.errors(own, predicted, batch)
        else:
            loss = excess_loss(rows, teachers, data, policy, 0, score=False)
            got = loss(policy, batch, generator, chosen)
            reference = policy.errors(predicted, noised.target, batch)
            want = (policy.errors(own, noised.target, batch) - reference) / loss.scale[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targets", ["noise", "score"])
def test_a_generalist_that_sees_images_follows_a_teacher_that_sees_states(taught, targets):
    rows, teachers, policy = taught
    rows = label_rows(rows, teachers, steps=20, seed=0)
    score = targets == "score"
    data = TrainingData(rows, policy, teachers=teachers if score else {})
    policy = build_policy(policy.settings, policy.environments, policy.normalizer, 2)
    loss = score_loss(rows, teachers, policy) if score else None
    Trainer(policy, data, TRAIN, 0, Goal(loss=loss)).fit()
    kinds = {"state": "state", "images.top": "image"}
    assert error(policy, "a", **kinds) < 0.2
    gap = distillation_gap(policy, teachers, rows, "a", np.random.default_rng(0))
    assert 0 < gap < 0.2
    demos = scene("a", **kinds)
    assert neighbour_error(policy, demos, "a", np.random.default_rng(0)) is None  # no states
    assert neighbour_error(teachers["scratch"]["a"], demos, "a", np.random.default_rng(0)) < 1


FLIP = Reflection((0, 1, 2), (-1.0, -1.0, 1.0), (0.0,) * 3, (0, 1), (-1.0, -1.0), (0.0, 0.0))


def test_symmetries_are_used_only_where_all_that_is_seen_is_their_field(taught):
    rows, teachers, policy = taught
    augmentation = Augmentation(symmetries={"a": (FLIP,)})
    teacher = teachers["scratch"]["a"]
    assert demonstration_data(rows.steps, teacher, augmentation).symmetries
    assert not demonstration_data(rows.steps, policy, augmentation).symmetries
    both = {"x": {"a": policy}}
    assert not demonstration_data(rows.steps, teacher, augmentation, teachers=both).symmetries


class Killed(Exception):
    pass


def killing(at):
    def each(step, _):
        if step >= at:
            raise Killed

    return Report(each)


def test_a_killed_training_on_all_kinds_of_fields_resumes_to_the_same_bits(tmp_path):
    kinds = {"a": ALL, "b": {"state": "noise", "images.side": "image"}}
    steps = Steps.concatenate(
        [scene(n, 4, seed=k, **own) for k, (n, own) in enumerate(kinds.items())]
    )
    environments = [interface(name, **own) for name, own in kinds.items()]
    normalizer = make_normalizer(steps, environments, ONE)

    def trainer():
        policy = build_policy(ONE, environments, normalizer, 0)
        return Trainer(policy, demonstration_data(steps, policy), SHORT, 0)

    whole = trainer().fit()
    with pytest.raises(Killed):
        trainer().fit(Place(tmp_path), killing(10))
    resumed = trainer().fit(Place(tmp_path))
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("selection", ["last", "cv"])
def test_specialists_with_images_and_text_are_trained_one_by_one_beside_those_without(
    selection, tmp_path
):
    kinds = {"a": ALL, "b": {"state": "state"}, "c": ALL, "d": {"state": "state"}}
    demos = Steps.concatenate(
        [scene(n, 5, seed=k, **own) for k, (n, own) in enumerate(kinds.items())]
    )
    tasks = [Task(interface(n, **own), k) for k, (n, own) in enumerate(kinds.items())]
    candidates = [Candidate("small", ONE, SHORT)]

    def fit(**more):
        return Specialists(demos, tasks, **more).fit(candidates, selection, 2, 10)[0]

    whole = fit()
    with pytest.raises(Killed):
        fit(place=Place(tmp_path), report=killing(17))
    resumed = fit(place=Place(tmp_path))
    for a, b in zip(whole, resumed, strict=True):
        assert a.policy.digest() == b.policy.digest() and a.steps == b.steps
        if selection == "last":
            name = a.policy.layout.ids[0]
            task = next(t for t in tasks if t.environment.id == name)
            mine = build_policy(ONE, [task.environment], a.policy.normalizer, task.seed)
            own = demos.select(demos.environment == name)
            alone = Trainer(mine, demonstration_data(own, mine), SHORT, task.seed).fit()
            for x, y in zip(alone.parameters(), a.policy.parameters(), strict=True):
                torch.testing.assert_close(x, y, atol=1e-3, rtol=0)
