from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs.symmetry import Reflection, Translation
from alltrades.errors import UserError
from alltrades.policies.learning.batches import (
    Augmentation,
    TrainingData,
    TrainingRows,
    demonstration_data,
)
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.held_out import HeldOutLoss, held_out_batch
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.learning.training import Trainer, learning_rate
from alltrades.policies.settings import TrainSettings

from .toys import SMALL, fit_demonstrations, info, make_policy, make_steps

TRAIN = TrainSettings(steps=30, batch=16, checkpoint_every=10, log_every=5, precision="fp32")


def _trainer(total=None):
    policy = make_policy([info("a"), info("b")])
    steps = Steps.concatenate([make_steps("a"), make_steps("b", seed=1)])
    return Trainer(policy, demonstration_data(steps, policy), TRAIN, seed=3, total=total)


@pytest.mark.parametrize("stop", [10, 13, 29])
def test_killed_training_resumes_to_the_same_bits(tmp_path, stop):
    whole = _trainer().fit()
    killed = _trainer(total=stop)
    killed.fit(Place(tmp_path))  # leaves the checkpoint of step 10 or 20 behind
    resumed = _trainer()
    policy = resumed.fit(Place(tmp_path))
    for a, b in zip(whole.state_dict().values(), policy.state_dict().values()):
        assert torch.equal(a, b)


def test_restored_average_keeps_its_counter(tmp_path):
    first = _trainer()
    for _ in range(7):
        first.update()
    first.save(tmp_path)
    second = _trainer()
    assert second.restore(tmp_path) and second.step == 7
    assert second.ema.count == first.ema.count == 7
    assert second.ema.current_decay() == first.ema.current_decay()


FLIP = Reflection((1, 0, 2), (-1.0, -1.0, 1.0), (0.5, 0.5, 0.0), (1, 0), (-1.0, -1.0), (0.25, 0.25))
SHIFT = Translation(((0, 1), (3, 4)), span=(0.2, 0.1))


def test_windows_are_shown_in_equivalent_forms_where_an_environment_has_symmetries():
    infos = [info("a"), info("b", obs_dim=5, action_dim=3), info("c")]
    policy = make_policy(infos)
    steps = Steps.concatenate(
        [make_steps("a"), make_steps("b", obs_dim=5, action_dim=3, seed=1), make_steps("c", seed=2)]
    )
    observation = steps.observation["state"].load()
    observation[steps.episode_of_step == 6, 3:5] = 0.0  # there the second thing of b is absent
    steps = replace(steps, observation={"state": observation})
    data = demonstration_data(steps, policy, Augmentation(symmetries={"a": (FLIP,), "b": (SHIFT,)}))
    batch, rows = data.batch(768, 0, 0)
    plain = data.gather(rows)
    a, b, c = ((batch.environment == k).numpy() for k in range(3))
    assert np.array_equal(batch.window["state"][c], plain.window["state"][c]) and np.array_equal(
        batch.action[b | c], plain.action[b | c]
    )

    changed = (batch.window["state"] != plain.window["state"]).numpy().any(axis=(1, 2)) & a
    assert 80 < changed.sum() < 176  # of 256
    assert np.allclose(
        batch.window["state"].numpy()[changed, :, :3],
        FLIP.observation(plain.window["state"].numpy()[changed, :, :3]),
        atol=1e-6,
    )
    assert np.allclose(
        batch.action.numpy()[changed, :, :2],
        FLIP.action(plain.action.numpy()[changed, :, :2]),
        atol=1e-6,
    )
    assert (batch.window["state"][a][..., 3:] == 0).all() and (batch.action[a][..., 2:] == 0).all()
    assert np.array_equal(batch.action[a & ~changed], plain.action[a & ~changed])

    moved = (batch.window["state"] - plain.window["state"]).numpy()[b]
    assert (
        0.15 < np.abs(moved[..., 0]).max() <= 0.2 + 1e-6
        and 0.08 < np.abs(moved[..., 1]).max() <= 0.1 + 1e-6
    )
    present = plain.window["state"].numpy()[b, 0, 3] != 0
    assert 0 < (~present).sum() < present.sum()
    assert np.allclose(
        moved[present, :, 3:5], moved[present, :, 0:2], atol=1e-6
    )  # everything by the same amount
    assert (moved[~present, :, 3:5] == 0).all() and (moved[..., 2] == 0).all()


@pytest.mark.parametrize("present", ["a", "b", "c"])
def test_a_batch_may_lack_the_environments_that_have_symmetries(present):
    """A policy of many environments goes on with the demonstrations of one."""
    sizes = {"a": (3, 2), "b": (5, 3), "c": (3, 2)}
    infos = [info(name, obs_dim=o, action_dim=a) for name, (o, a) in sizes.items()]
    obs_dim, action_dim = sizes[present]
    steps = make_steps(present, obs_dim=obs_dim, action_dim=action_dim)
    augmentation = Augmentation(symmetries={"a": (FLIP,), "b": (SHIFT,)})
    data = demonstration_data(steps, make_policy(infos), augmentation)
    batch, rows = data.batch(64, 0, 0)
    changed = (batch.window["state"] != data.gather(rows).window["state"]).any()
    assert bool(changed) == (present != "c")


def test_a_reflection_must_undo_itself():
    with pytest.raises(ValueError, match="involution"):
        Reflection((1, 2, 0), (1.0,) * 3, (0.0,) * 3, (0,), (1.0,), (0.0,))


def test_learning_rate_is_one_cycle():
    s = TrainSettings(steps=1000, lr=1e-3, warmup=0.1)
    rates = [learning_rate(i, s) for i in range(1000)]
    assert np.argmax(rates) in (99, 100) and max(rates) == pytest.approx(1e-3)
    assert rates[0] == pytest.approx(1e-5) and rates[-1] == pytest.approx(1e-5, rel=0.05)


def test_batches_are_balanced_over_environments_of_unequal_size():
    steps = Steps.concatenate([make_steps("a", episodes=2), make_steps("b", episodes=20)])
    data = demonstration_data(steps, make_policy([info("a"), info("b")]))
    batch, _ = data.batch(256, 0, 0)
    assert (batch.environment == 0).sum() == 128


def test_rows_follow_their_probabilities_and_zero_rows_never_appear():
    steps = make_steps("a", episodes=1, length=4)
    data = TrainingData(
        TrainingRows(steps=steps, probability=np.array([0.0, 1.0, 3.0, 0.0])),
        make_policy([info("a")]),
    )
    rows = data.rows(40_000, np.random.default_rng(0))
    share = np.bincount(rows, minlength=4) / 40_000
    assert share[0] == share[3] == 0 and share[2] == pytest.approx(0.75, abs=0.01)


def test_batch_is_a_function_of_seed_and_step():
    data = demonstration_data(
        make_steps("a"), make_policy([info("a")], SMALL.model_copy(update={"n_obs_steps": 2}))
    )
    a, b, c = data.batch(8, 1, 5)[0], data.batch(8, 1, 5)[0], data.batch(8, 1, 6)[0]
    assert torch.equal(a.window["state"], b.window["state"]) and not torch.equal(
        a.window["state"], c.window["state"]
    )


def test_no_rows_is_a_clear_error():
    with pytest.raises(UserError, match="no training rows"):
        demonstration_data(make_steps("a"), make_policy([info("other")]))


def test_weights_in_sampling_and_in_loss_give_equal_expected_gradients_once():
    """Drawing row i with probability w_i / N equals uniform rows with factor w_i; w squared does
    not.
    """
    steps = make_steps("a", episodes=4, length=10)
    rng = np.random.default_rng(0)
    w = rng.uniform(0.2, 3.0, 40)
    w /= w.mean()
    losses = torch.from_numpy(rng.uniform(0, 1, 40)).float()
    objective = Linear(["a"])

    def expected(probability, weight):
        data = TrainingData(
            TrainingRows(steps=steps, probability=probability, loss_weight=weight),
            make_policy([info("a")]),
        )
        rows = data.rows(200_000, np.random.default_rng(1))
        batch = data.gather(rows)
        return float(
            objective(losses[torch.from_numpy(rows)], batch.environment, batch.loss_weight)
        )

    by_sample, by_loss = expected(w, None), expected(np.ones(40), w)
    truth = float((losses * torch.from_numpy(w).float()).mean())
    assert by_sample == pytest.approx(truth, rel=0.01) and by_loss == pytest.approx(truth, rel=0.01)
    assert abs(expected(w, w) - truth) > 0.05 * truth


def test_linear_objective_is_the_preference_weighted_mean_of_environment_means():
    losses, environment = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1])
    assert Linear(["a", "b"])(losses, environment, torch.ones(3)) == pytest.approx(
        0.5 * 2 + 0.5 * 10
    )
    assert Linear(["a", "b"], {"a": 3, "b": 1})(
        losses, environment, torch.ones(3)
    ) == pytest.approx(0.75 * 2 + 0.25 * 10)
    with pytest.raises(UserError, match="did you mean"):
        Linear(["reach", "push"], {"reech": 1.0})


def test_policy_learns_a_known_linear_expert():
    steps = make_steps("a", episodes=40)
    fit = fit_demonstrations(
        steps,
        [info("a")],
        SMALL.model_copy(update={"horizon": 1, "n_action_steps": 1}),
        TrainSettings(steps=400, batch=128, lr=3e-3, ema=0.98),
    )
    window = torch.rand(64, 1, 3) * 2 - 1
    chunk = fit.policy.sample(
        {"state": window}, torch.zeros(64, dtype=torch.long), torch.randn(64, 1, 2)
    )
    error = (chunk[:, 0] - 0.5 * window[:, 0, :2]).square().mean()
    assert error < 0.02 * (0.5 * window[:, 0, :2]).square().mean()


def test_held_out_selection_stops_before_overfitting():
    rng = np.random.default_rng(0)
    steps = make_steps("a", episodes=5, length=8)
    steps = replace(steps, action=rng.uniform(-1, 1, steps.action.shape).astype(np.float32))
    settings = TrainSettings(steps=600, batch=64, lr=3e-3, ema=0.9, precision="fp32")
    big = SMALL.model_copy(update={"width": 128, "depth": 2})
    fit = fit_demonstrations(steps, [info("a")], big, settings, "holdout")
    assert fit.steps < 600  # actions are noise: every later step memorises
    last = fit_demonstrations(steps, [info("a")], big, settings)
    fresh = make_steps("a", episodes=5, length=8, seed=9)
    fresh = replace(fresh, action=rng.uniform(-1, 1, fresh.action.shape).astype(np.float32))
    look = HeldOutLoss([held_out_batch(demonstration_data(fresh, fit.policy), 0)], [0], 1)
    assert look(fit.policy, list(fit.policy.parameters())) < look(
        last.policy, list(last.policy.parameters())
    )


def test_environments_with_few_episodes_hold_none_out():
    settings = TRAIN.model_copy(update={"steps": 20})

    def fit(episodes_of_a: int):
        steps = Steps.concatenate(
            [make_steps("a", episodes=episodes_of_a), make_steps("b", episodes=2, seed=1)]
        )
        infos = [info("a"), info("b")]
        return fit_demonstrations(steps, infos, SMALL, settings, "holdout")

    assert fit(2).held_out is None and fit(2).steps == 20
    assert fit(3).held_out is not None


def test_policy_of_a_small_environment_trains_on_steps_padded_for_larger_ones():
    small, large = (
        make_steps("a", obs_dim=2, action_dim=1),
        make_steps("b", obs_dim=5, action_dim=3),
    )
    both = Steps.concatenate([small, large])
    data = demonstration_data(both, make_policy([info("a", 2, 1)]))
    batch, rows = data.batch(16, 0, 0)
    assert np.array_equal(
        batch.window["state"][:, 0].numpy(), small.observation["state"][rows]
    ) and batch.action.shape == (16, 4, 1)


def test_batches_are_bit_equal_from_memory_a_file_and_a_store(tmp_path):
    infos = [info("a"), info("b", obs_dim=5, action_dim=3)]
    policy = make_policy(infos)
    episodes = [
        Episode.from_arrays(
            {"state": rng.normal(size=(7 + i, i % 2 * 2 + 3))},
            rng.normal(size=(7 + i, i % 2 + 2)),
            "ab"[i % 2],
        )
        for i in range(10)
        for rng in [np.random.default_rng(i)]
    ]
    steps = EpisodeStore.write(tmp_path / "s", episodes).steps()
    augmentation = Augmentation(symmetries={"a": (FLIP,), "b": (SHIFT,)})
    rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
    batches = [
        TrainingData(rows, policy, augmentation, tmp_path, storage).batch(64, 0, 3)[0]
        for storage in ("memory", "file", "store")
    ]
    facts = [{**vars(b), **b.window} for b in batches]
    for name in ("state", "action", "mask", "environment", "loss_weight"):
        first, *others = (f[name] for f in facts)
        assert all(torch.equal(first, x) for x in others), name
