import json

import numpy as np
import pytest
import torch

from alltrades.data.fields import Field
from alltrades.data.layout import Layout
from alltrades.errors import UserError
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.batch import Batch
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings
from alltrades.system.reading import SEAL, SEALED_BY, write_sealed

from .toys import SMALL, info, make_policy


def _batch(policy: DiffusionPolicy, environment: list[int], seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    n = len(environment)
    return Batch(
        {"state": torch.rand(n, policy.n_obs_steps, policy.layout.state_dim, generator=g)},
        torch.rand(n, policy.horizon, policy.action_dim, generator=g),
        torch.ones(n, policy.horizon),
        torch.tensor(environment),
        torch.ones(n),
    )


def _randomise(policy: DiffusionPolicy) -> None:
    """Give the zero-initialised head weights, so that the output depends on the input."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))


def test_saved_policy_acts_bit_for_bit_as_before(tmp_path):
    policy = make_policy([info("a"), info("b", 5, 1)])
    _randomise(policy)
    policy.save(tmp_path / "p")
    again = load_policy(tmp_path / "p")
    args = ({"state": torch.rand(4, 1, 5)}, torch.tensor([0, 1, 0, 1]), torch.randn(4, 4, 2))
    assert torch.equal(policy.eval().sample(*args), again.sample(*args))
    assert again.digest() == policy.digest()
    assert json.loads((tmp_path / "p" / "policy.json").read_text())["digest"] == policy.digest()


def test_policy_without_statistics_is_not_saved(tmp_path):
    policy = build_policy(SMALL, [info("a")], Normalizer(Layout([info("a")])), 0)
    with pytest.raises(UserError, match="normalis"):
        policy.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unreadable_artifacts_give_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="policy.json is missing"):
        load_policy(tmp_path / "nothing")
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(tmp_path)


def test_weights_that_are_cut_short_or_of_another_policy_are_a_user_error(tmp_path):
    make_policy([info("a")]).save(tmp_path / "p")
    make_policy([info("a", obs_dim=4)]).save(tmp_path / "other")
    weights = tmp_path / "p" / "model.safetensors"
    for data, message in (
        (weights.read_bytes()[:-50], "cannot be read"),
        (b"", "cannot be read"),
        ((tmp_path / "other" / weights.name).read_bytes(), "size mismatch for normalizer.obs_mean"),
    ):
        weights.write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            load_policy(tmp_path / "p")
        assert str(weights) in str(error.value) and "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(UserError, match="model.safetensors is missing"):
        load_policy(tmp_path / "p")


def test_an_artifact_without_environments_is_a_user_error(tmp_path):
    make_policy([info("a")]).save(tmp_path)
    facts = json.loads((tmp_path / "policy.json").read_text())
    kept = {k: v for k, v in facts.items() if k not in (SEAL, SEALED_BY)}
    write_sealed(tmp_path / "policy.json", kept | {"environments": []})
    with pytest.raises(UserError, match="policy.json cannot be read"):
        load_policy(tmp_path)


def test_unknown_environment_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'reach'"):
        make_policy([info("reach"), info("push")]).environment_index("reech")


def test_changed_environment_is_refused():
    from alltrades.data.actions import ActionSpec
    from alltrades.envs.spec import EnvSpec

    box = ActionSpec((-1, -1), (1, 1))
    old = EnvSpec("e", dict, {"state": Field.state(3)}, box, 50)
    new = EnvSpec("e", dict, {"state": Field.state(4)}, box, 50)
    more = EnvSpec("e", dict, {"state": Field.state(3), "more": Field.state(1)}, box, 50)
    policy = make_policy([old.interface])
    assert policy.check(old) == policy.check(more) == 0
    with pytest.raises(UserError, match="changed since"):
        policy.check(new)


def test_padded_dimensions_change_neither_loss_nor_action():
    policy = make_policy([info("a", 3, 1), info("b", 5, 2)])
    _randomise(policy)
    batch = _batch(policy, [0, 0])
    window = {"state": batch.window["state"].clone()}
    other = Batch(window, batch.action.clone(), batch.mask, batch.environment, batch.loss_weight)
    window["state"][:, :, 3:] += 7.0
    other.action[:, :, 1:] -= 3.0
    losses = [policy.loss(b, torch.Generator().manual_seed(0)) for b in (batch, other)]
    assert torch.equal(*losses)
    noise = torch.randn(2, 4, 2)
    changed = noise.clone()
    changed[:, :, 1:] += 5.0
    a = policy.sample(batch.window, batch.environment, noise)
    b = policy.sample(other.window, batch.environment, changed)
    assert torch.equal(a[:, :, 0], b[:, :, 0])


def test_masked_steps_do_not_count():
    policy = make_policy([info("a")])
    _randomise(policy)
    batch = _batch(policy, [0, 0, 0])
    batch.mask[:, 2:] = 0
    other = Batch(
        batch.window, batch.action.clone(), batch.mask, batch.environment, batch.loss_weight
    )
    clean = policy.normalizer.action(batch.action, batch.environment)
    target_free = policy.errors(torch.zeros_like(clean), clean, batch)
    other.action[:, 2:] += 9.0
    assert torch.equal(
        policy.errors(
            torch.zeros_like(clean),
            policy.normalizer.action(other.action, other.environment),
            other,
        ),
        target_free,
    )


def test_a_row_depends_on_its_own_noise_only():
    policy = make_policy([info("a")])
    _randomise(policy)
    window, environment = (
        {"state": np.random.default_rng(0).random((3, 1, 3), dtype=np.float32)},
        np.zeros(3, dtype=np.int64),
    )
    shape = (policy.draws, policy.horizon, policy.action_dim)
    noise = {
        s: np.random.default_rng(s).standard_normal(shape, dtype=np.float32)
        for s in (1, 2, 3, 8, 9)
    }
    first, other = (
        policy.act(window, environment, np.stack([noise[s] for s in row]))
        for row in ((1, 2, 3), (9, 2, 8))
    )
    assert np.array_equal(first[1], other[1]) and not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    "bad",
    [
        {"n_action_steps": 9, "horizon": 8},
        {"process": "vp", "diffusion_steps": 10, "sampling_steps": 20},
        {"action_normalizer": "standard", "clip": 1.0},
    ],
)
def test_inconsistent_settings_are_refused(bad):
    with pytest.raises(ValueError):
        PolicySettings(**bad)
