"""One network for every preference: trained on drawn lambdas, asked for any of them afterwards."""

import json

import numpy as np
import pytest
import torch

from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.batches import demonstration_data
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.settings import TrainSettings

from .toys import SMALL, fit_demonstrations, info, make_policy, make_steps

TAKES = SMALL.model_copy(
    update={
        "horizon": 1,
        "n_action_steps": 1,
        "embedding": 0,
        "preference_input": True,
        "width": 64,
        "depth": 2,
        "sampling_steps": 8,
        "clip": None,
    }
)
INFOS = [info("a"), info("b")]
TRAIN = TrainSettings(steps=2000, batch=256, lr=3e-3, ema=0.98)


def conflict() -> Steps:
    """Experts that do opposite things at equal observations; which environment it is is hidden."""
    return Steps.concatenate(
        [make_steps("a", episodes=40, gain=0.8), make_steps("b", episodes=40, seed=1, gain=-0.8)]
    )


@pytest.fixture(scope="module")
def policy():
    steps = conflict()
    return fit_demonstrations(steps, INFOS, TAKES, TRAIN).policy


def test_share_of_chunks_of_each_expert_is_the_preference(policy):
    """The mixture of two experts under lambda is what minimises sum_k lambda_k L_k: a drawn chunk
    is expert a's with probability lambda_a.
    """
    rng = torch.Generator().manual_seed(0)
    window = torch.rand(4000, 1, 3, generator=rng) * 2 - 1
    window = window[window[:, 0, :2].norm(dim=1) > 0.5]  # experts want +-0.8 of it: far apart
    noise = torch.randn(len(window), 1, 2, generator=rng)
    for wanted in (0.0, 0.25, 0.5, 0.75, 1.0):
        policy.set_preference({"a": wanted, "b": 1 - wanted})
        with torch.inference_mode():
            chunk = policy.sample(
                {"state": window}, torch.zeros(len(window), dtype=torch.long), noise
            )[:, 0]
        as_a = (chunk * window[:, 0, :2]).sum(1) > 0
        assert float(as_a.float().mean()) == pytest.approx(wanted, abs=0.05)


def test_chosen_preference_belongs_to_the_artifact(policy, tmp_path):
    uniform = policy.set_preference(None).digest()
    assert policy.set_preference({"a": 3, "b": 1}).digest() != uniform
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert again.chosen_preference() == {"a": 0.75, "b": 0.25} and again.digest() == policy.digest()
    assert json.loads((tmp_path / "policy.json").read_text())["settings"]["preference_input"]


def test_preference_is_refused_where_none_is_taken(policy):
    with pytest.raises(UserError, match="does not take one"):
        make_policy(INFOS).set_preference({"a": 1.0})
    with pytest.raises(UserError, match="expected one of a, b"):
        policy.set_preference({"c": 1.0})
    assert (
        make_policy(INFOS[:1], TAKES).chosen_preference() is None
    )  # one environment leaves nothing to prefer


def test_server_keeps_the_chosen_preference_when_it_loads_the_artifact_again(policy, tmp_path):
    from alltrades.policies.server.reload import load_successor

    policy.set_preference(None).save(tmp_path)
    served = load_policy(tmp_path).set_preference({"a": 1})
    assert load_successor(tmp_path, served, "cpu").digest() == served.digest() != policy.digest()


def test_training_with_drawn_preferences_resumes_to_the_same_bits(tmp_path):
    steps, settings = (
        conflict(),
        TRAIN.model_copy(update={"steps": 30, "batch": 16, "checkpoint_every": 10}),
    )

    def trainer(total=None):
        policy = make_policy(INFOS, TAKES)
        return Trainer(policy, demonstration_data(steps, policy), settings, 3, total=total)

    whole = trainer().fit()
    trainer(17).fit(Place(tmp_path))
    resumed = trainer().fit(Place(tmp_path))
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)


def test_drawing_preferences_leaves_windows_and_labels_as_they_are():
    steps, plain, takes = (
        conflict(),
        make_policy(INFOS),
        make_policy(INFOS, TAKES.model_copy(update={"horizon": 4})),
    )
    a, rows = demonstration_data(steps, plain).batch(64, 0, 5)
    b, same = demonstration_data(steps, takes).batch(64, 0, 5)
    assert (
        np.array_equal(rows, same)
        and torch.equal(a.window["state"], b.window["state"])
        and torch.equal(a.action, b.action)
    )
    assert a.preference is None and b.preference.shape == (64, 2)
    assert torch.allclose(b.preference.sum(1), torch.ones(64))


def test_exported_graph_acts_by_the_preference_it_was_exported_with(policy, tmp_path):
    pytest.importorskip("onnxruntime", reason='needs: pip install "alltrades[export]"')
    pytest.importorskip("onnx", reason='needs: pip install "alltrades[export]"')
    from alltrades.policies.onnx.export import export_onnx
    from alltrades.policies.onnx.onnx_policy import OnnxPolicy

    rng = np.random.default_rng(0)
    window = {"state": np.full((64, 1, 3), 0.7, np.float32)}
    environment = np.zeros(64, np.int64)
    noise = rng.standard_normal((64, 1, 1, 2)).astype(np.float32)
    for preference, sign in (({"a": 1.0}, 1), ({"b": 1.0}, -1)):
        report = export_onnx(policy.set_preference(preference), tmp_path / "p.onnx")
        assert (
            json.loads(report.contract.read_text())["preference"]
            == {"a": 0.0, "b": 0.0} | preference
        )
        chunk = OnnxPolicy(report.path).act(window, environment, noise)
        assert (np.sign(chunk.mean(axis=(1, 2))) == sign).mean() > 0.95
