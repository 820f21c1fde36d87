import json

import numpy as np
import pytest
import torch

from alltrades import cli
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.pipeline import collection
from alltrades.pipeline.acting import controllers_of
from alltrades.pipeline.rollouts import record
from alltrades.policies.control.ensembling import Ensembling
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.stacked_training import StackedTrainer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.stacked import StackedPolicy
from alltrades.policies.settings import PolicySettings
from alltrades.settings.rollouts import RolloutSettings
from alltrades.system.files import slug
from tests.alltrades.contexts import context_of
from tests.policies.toys import SMALL, info, make_policy

NAMES = ["planar/reach", "planar/reach-long", "planar/push"]


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "demos.zarr"
    collection.collect(registry.resolve(NAMES[:2]), 3, 0, path, RolloutSettings())
    return path


def train(demos, out, *more):
    return cli.main(
        [
            "train",
            "specialists",
            "--demos",
            str(demos),
            "--out",
            str(out),
            "--environments",
            str(NAMES[:2]),
            "--specialist.train.steps",
            "30",
            "--specialist.width",
            "32",
            *more,
        ]
    )


def test_a_training_that_diverged_leaves_no_policy_and_begins_anew_with_other_settings(
    demos, tmp_path, monkeypatch, capsys
):
    """Mended, it has the bits of one that never diverged, whatever its checkpoint held."""
    forward = StackedTrainer.forward

    def explode(self):
        at_fault = self.settings.lr > 0.05 and self.step >= 20
        return forward(self) * (torch.inf if at_fault else 1.0)

    monkeypatch.setattr(StackedTrainer, "forward", explode)
    checkpoints = ("--training.checkpoint_every", "10")
    capsys.readouterr()
    assert train(demos, tmp_path / "a", "--specialist.train.lr", "0.09", *checkpoints) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "training diverged at step 21: its loss is inf" in said
    assert "lower specialist.train.lr (now 0.09)" in said
    assert "the checkpoint of step 20 is kept" in said
    assert not list((tmp_path / "a").rglob("policy.json"))
    for name in "ab":
        assert train(demos, tmp_path / name, *checkpoints) == 0
    for name in NAMES[:2]:
        a, b = (load_policy(tmp_path / x / slug(name)).digest() for x in "ab")
        assert a == b


def test_expert_rates_survive_a_collection_that_was_interrupted(tmp_path):
    specs = registry.resolve(["planar/reach", "planar/push"])
    first = collection.collect(specs[:1], 3, 0, tmp_path / "s", RolloutSettings())
    both = collection.collect(specs, 3, 0, tmp_path / "s", RolloutSettings())
    assert both["planar/reach"] == first["planar/reach"] and both["planar/push"]["successes"] == 3
    assert collection.collect(specs, 3, 0, tmp_path / "s", RolloutSettings()) == both
    assert len(EpisodeStore.open(tmp_path / "s")) == 6


def test_rollouts_of_specialists_are_the_same_for_any_number_of_workers(tmp_path):
    """Those of equal shape are one stack; each episode is still a function of its own policy and
    seed.
    """
    specs = registry.resolve(NAMES)
    settings = PolicySettings(width=32, depth=1)
    policies = {}
    for k, spec in enumerate(specs):
        policy = build_policy(settings, [spec.interface], Normalizer(Layout([spec.interface])), k)
        torch.nn.init.normal_(
            policy.backbone.head.weight, std=0.5, generator=torch.Generator().manual_seed(k)
        )
        policies[spec.id] = policy
    controllers, keys = controllers_of(policies, RolloutSettings(lanes=6))
    assert (
        any(isinstance(c.policy, StackedPolicy) for c in controllers.values())
        and len(controllers) < 3
    )
    digests = []
    for workers in (0, 1, 2):
        here = context_of(specs, RolloutSettings(lanes=6, workers=workers))
        with here.crew:
            record(here, policies, "scratch", 3, 1, tmp_path / str(workers))
        digests.append(EpisodeStore.open(tmp_path / str(workers)).digest())
    assert len(set(digests)) == 1
    here = context_of(specs[:2], RolloutSettings(lanes=6, workers=0))
    record(here, {k: policies[k] for k in NAMES[:2]}, "scratch", 3, 1, tmp_path / "fewer")
    steps = {str(n): EpisodeStore.open(tmp_path / n).steps([NAMES[1]]) for n in ("0", "fewer")}
    assert np.array_equal(
        steps["0"].action.load(), steps["fewer"].action.load()
    )  # whoever else is in the stack


def test_cross_validated_specialists_record_what_was_chosen(demos, tmp_path, capsys):
    candidates = "[{width: 24}, {observation_noise: 0.1, lr: 1.0e-6}]"
    assert (
        train(
            demos,
            tmp_path / "cv",
            "--specialist.selection",
            "cv",
            "--specialist.candidates",
            candidates,
        )
        == 0
    )
    table = json.loads((tmp_path / "cv" / "selection.json").read_text())
    assert table["chosen"] == "width 24" and set(table["losses"]) == set(NAMES[:2])
    assert set(table["relative_loss"]) == {"width 24", "lr 1e-06, observation_noise 0.1"}
    said = capsys.readouterr().out
    assert "cross-validation over 2 environments chose: width 24, " in said and not list(
        (tmp_path / "cv" / ".stage").rglob("*.safetensors")
    )
    for name in NAMES[:2]:
        folder = tmp_path / "cv" / slug(name)
        facts = json.loads((folder / "policy.json").read_text())["training"]
        assert facts["selection"]["chosen"] == "width 24" and facts["steps"] == table["steps"]
        assert facts["selection"]["losses"] == table["losses"][name] and facts["held_out_loss"] > 0
        assert load_policy(folder).settings.width == 24


def test_candidates_are_checked(demos, tmp_path, capsys):
    assert train(demos, tmp_path, "--specialist.candidates", "[{width: 24}]") == 2
    assert "set selection: cv" in capsys.readouterr().err
    assert (
        train(
            demos,
            tmp_path,
            "--specialist.selection",
            "cv",
            "--specialist.candidates",
            "[{widht: 24}]",
        )
        == 2
    )
    assert (
        "unknown setting 'specialist.candidates.0.widht'" in (said := capsys.readouterr().err)
        and "'width'" in said
    )
    assert (
        train(
            demos, tmp_path, "--specialist.selection", "cv", "--specialist.candidates", "[{}, {}]"
        )
        == 2
    )
    assert "candidates repeat" in capsys.readouterr().err


def test_specialists_of_a_training_that_was_killed_are_those_of_one_that_was_not(
    demos, tmp_path, monkeypatch
):
    from alltrades.policies.model.policy import DiffusionPolicy

    assert train(demos, tmp_path / "whole", "--specialist.selection", "holdout") == 0
    save, saved = DiffusionPolicy.save, []

    def failing(self, folder, extra=None):
        if saved:
            raise KeyboardInterrupt
        saved.append(folder)
        return save(self, folder, extra)

    monkeypatch.setattr(DiffusionPolicy, "save", failing)
    assert train(demos, tmp_path / "killed", "--specialist.selection", "holdout") == 130
    monkeypatch.undo()
    assert train(demos, tmp_path / "killed", "--specialist.selection", "holdout") == 0
    for name in NAMES[:2]:
        a, b = (load_policy(tmp_path / x / slug(name)).digest() for x in ("whole", "killed"))
        assert a == b
    assert (
        train(demos, tmp_path / "killed", "--specialist.train.steps", "20") == 0
    )  # nothing of the other training is left
    assert (
        json.loads((tmp_path / "killed" / slug(NAMES[0]) / "policy.json").read_text())["training"][
            "steps"
        ]
        == 20
    )


def test_a_policy_is_called_with_as_many_rows_as_asked_for_and_its_lanes_allow():
    one, *others = (
        make_policy([info("a")], SMALL.model_copy(update={"width": 16 + 8 * k})) for k in range(4)
    )
    for settings, alone, shared in (
        (RolloutSettings(lanes=64, batch=64), 64, 16),
        (RolloutSettings(lanes=6, batch=64), 6, 1),
        (RolloutSettings(lanes=32), 8, 8),
    ):
        found = [
            {c.batch for c in controllers_of(policies, settings)[0].values()}
            for policies in ({"a": one, "b": one}, dict(zip("abcd", [one, *others])))
        ]
        assert found == [{alone}, {shared}]


def test_an_ensembling_evaluation_plans_at_every_step():
    policies = {"a": make_policy([info("a")], SMALL)}
    (controller,) = controllers_of(policies, RolloutSettings(lanes=2), ensemble=0.5)[0].values()
    execution = controller.execution
    assert isinstance(execution, Ensembling) and (execution.m, execution.every) == (0.5, 1)
    controller.begin(0, "a", 0)
    assert controller.plan({0: np.zeros((1, 3), np.float32)})[0].shape == (1, 2)
