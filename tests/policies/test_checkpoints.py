"""Files of a training."""

import json

import pytest
import torch

from alltrades.errors import UserError
from alltrades.policies.learning.checkpoints import (
    Place,
    read_average,
    read_checkpoint,
    write_average,
    write_checkpoint,
)
from alltrades.policies.learning.demonstrations import DemonstrationFit
from alltrades.policies.settings import TrainSettings
from alltrades.system.reporting import Report

from .toys import info, make_policy, make_steps

CPU = torch.device("cpu")
TRAIN = TrainSettings(steps=20, batch=8, precision="fp32", log_every=5)


def test_a_place_without_a_folder_has_none_within():
    assert Place().within("training").work is None


def test_a_folder_within_a_place_keeps_where_averages_are(tmp_path):
    called = []
    place = Place(tmp_path / "work", tmp_path / "averages", lambda: called.append(1))
    within = place.within("training")
    assert within.work == tmp_path / "work" / "training"
    assert within.averages == tmp_path / "averages"
    within.selected()
    assert called == [1]


def test_the_last_checkpoint_is_read_and_older_ones_are_gone(tmp_path):
    assert read_checkpoint(tmp_path, CPU) is None
    for step in (10, 20):
        write_checkpoint(tmp_path, step, {"x": torch.full((2,), float(step))}, {"count": step + 1})
    tensors, facts = read_checkpoint(tmp_path, CPU)
    assert torch.equal(tensors["x"], torch.full((2,), 20.0))
    assert (facts["step"], facts["count"]) == (20, 21)
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["checkpoint-20.safetensors"]


def test_a_checkpoint_that_was_not_finished_leaves_the_one_before(tmp_path, monkeypatch):
    from alltrades.policies.learning import checkpoints

    write_checkpoint(tmp_path, 10, {"x": torch.zeros(1)}, {})

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match="no space"):
        write_checkpoint(tmp_path, 20, {"x": torch.ones(1)}, {})
    tensors, facts = read_checkpoint(tmp_path, CPU)
    assert facts["step"] == 10 and not tensors["x"].any()
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 10


def test_averages_are_given_back_by_step(tmp_path):
    policy, other = make_policy([info("a")]), make_policy([info("a")], seed=1)
    write_average(tmp_path, 30, [p for p in policy.parameters() if p.requires_grad])
    assert not read_average(tmp_path, 20, other)
    assert read_average(tmp_path, 30, other)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters()))


def test_the_held_out_fit_ends_with_the_averages_that_the_whole_one_kept(tmp_path):
    """They are looked for after `selected`, and trained where they are not there."""
    steps, initial, waited = make_steps(episodes=5), make_policy([info("a")]), []
    place = Place(averages=tmp_path)
    whole = DemonstrationFit(initial, TRAIN, 0, place=place).fit(steps)
    found = sorted(int(p.stem) for p in tmp_path.glob("*.safetensors"))
    assert found == list(range(2, 21, 2))
    shown = []
    fit = DemonstrationFit(
        initial,
        TRAIN,
        0,
        place=Place(averages=tmp_path, selected=lambda: waited.append(len(shown))),
        report=Report(lambda done, total: shown.append((done, total))),
    ).fit(steps, "holdout")
    assert waited == [20] and shown[-1] == (20, 40)  # nothing was trained after it
    alone = DemonstrationFit(initial, TRAIN, 0).fit(steps, "holdout")
    assert (fit.steps, fit.held_out) == (alone.steps, alone.held_out)
    for a, b in zip(fit.policy.parameters(), alone.policy.parameters()):
        assert torch.equal(a, b)
    if fit.steps == 20:
        for a, b in zip(fit.policy.parameters(), whole.policy.parameters()):
            assert torch.equal(a, b)


def test_a_fit_records_the_metrics_of_the_training_that_is_kept():
    lines = []
    report = Report(record=lambda name, step, values: lines.append((name, step)), name="row")
    DemonstrationFit(make_policy([info("a")]), TRAIN, 0, report=report).fit(
        make_steps(episodes=5), "holdout"
    )
    steps = [step for _, step in lines]
    assert {name for name, _ in lines} == {"row"} and steps == sorted(set(steps)) and steps
