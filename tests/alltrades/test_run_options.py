"""What single settings do to a run."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs.rollouts.seeding import plot_seeds, selection_seeds
from alltrades.errors import UserError
from alltrades.pipeline.measurement import check_starts
from alltrades.pipeline.runner import run
from alltrades.policies.learning.training import Trainer
from tests.alltrades.contexts import context_of
from tests.alltrades.small_run import SMALL, SPECS, settings


def test_rows_decide_what_is_trained(tmp_path):
    result = run(
        settings(
            "--evaluation.rows",
            "[labeled_only, labeled_only_holdout]",
            "--labeled_only.steps",
            "40",
        ),
        tmp_path,
    )
    assert list(result.evaluations) == ["labeled_only", "labeled_only_holdout"]
    assert {p.name for p in (tmp_path / "policies").iterdir()} == set(result.evaluations)
    last, chosen = (
        json.loads((tmp_path / "policies" / row / "policy.json").read_text())["training"]
        for row in result.evaluations
    )
    assert last["held_out_loss"] is None and last["steps"] == 40
    assert chosen["held_out_loss"] > 0 and chosen["steps"] in range(4, 41, 4)


def test_a_held_out_form_takes_an_average_of_labeled_only_with_the_bits_of_its_own_training(
    tmp_path, monkeypatch
):
    updates: list[int] = []
    update = Trainer.update
    monkeypatch.setattr(
        Trainer, "update", lambda self: (updates.append(self.step), update(self))[1]
    )
    more = ["--labeled_only.steps", "40", "--training.log_every", "4"]
    more += ["--policy.width", "256", "--policy.depth", "2", "--evaluation.rows"]  # soon too much
    counts = []
    for rows in ("labeled_only", "labeled_only_holdout", "labeled_only, labeled_only_holdout"):
        updates.clear()
        run(settings(*more, f"[{rows}]"), tmp_path / str(len(counts)))
        counts.append(len(updates))
    chosen = json.loads((tmp_path / "1/policies/labeled_only_holdout/policy.json").read_text())[
        "training"
    ]["steps"]
    assert counts == [40, 40 + chosen, 80] and chosen < 40
    for alone, row in (("0", "labeled_only"), ("1", "labeled_only_holdout")):
        name = f"policies/{row}/model.safetensors"
        assert (tmp_path / alone / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert not (tmp_path / "2" / "work" / "labeled_only_averages").exists()


def test_rollouts_are_computed_by_onnxruntime_where_asked(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    for engine in ("torch", "onnx"):
        run(
            settings("--evaluation.rows", "[generalist]", "--rollout.engine", engine),
            tmp_path / engine,
        )
    found = [
        EpisodeStore.open(tmp_path / engine / "stores" / "rollouts_scratch.zarr").steps()
        for engine in ("torch", "onnx")
    ]
    first = [s.action[np.concatenate([[0], s.ends[:-1]])] for s in found]
    assert np.abs(first[0] - first[1]).max() < 1e-4 and not np.array_equal(*first)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime is not installed.*export"):
        run(settings("--rollout.engine", "onnx"), tmp_path / "missing")
    assert not (tmp_path / "missing" / "stores").exists()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_run_with_variance_preserving_diffusion(tmp_path, sampler):
    process = [
        "--policy.process",
        "vp",
        "--policy.sampler",
        sampler,
        "--policy.diffusion_steps",
        "10",
        "--policy.width",
        "32",
        "--policy.sampling_steps",
        "3",
        "--distill.label_steps",
        "20",
    ]
    result = run(
        settings(
            *process,
            "--evaluation.rows",
            "[labeled_only, generalist]",
            "--evaluation.episodes",
            "2",
            "--distill.teachers",
            "[labeled_only]",
        ),
        tmp_path,
    )
    assert set(result.evaluations) == {"labeled_only", "generalist"}
    assert all(facts["distillation_gap"] is not None for facts in result.advice.values())


def test_a_run_with_score_targets_weights_in_the_loss_and_labeled_only_to_start_from(tmp_path):
    rows = ["--evaluation.rows", "[labeled_only, generalist]", "--evaluation.episodes", "2"]
    options = {"targets": "score", "apply": "loss", "init": "labeled_only"}
    result = run(
        settings(
            *rows,
            *(x for k, v in options.items() for x in (f"--distill.{k}", v)),
            "--distill.train.steps",
            "1",
            "--distill.train.lr",
            "1e-12",
        ),
        tmp_path,
    )
    assert set(result.evaluations) == {"labeled_only", "generalist"}
    nets = [
        load_file(tmp_path / "policies" / name / "model.safetensors")
        for name in ("labeled_only", "generalist")
    ]
    assert all(
        torch.allclose(nets[0][key], nets[1][key], atol=1e-6) for key in nets[0]
    )  # where it starts


@pytest.mark.parametrize(("use", "said"), [("plot", "plots"), ("selection", "selection")])
def test_a_run_whose_evaluation_starts_are_used_otherwise_is_refused(
    tmp_path, monkeypatch, use, said
):
    monkeypatch.setattr(
        "alltrades.pipeline.measurement.evaluation_seeds",
        {"plot": plot_seeds, "selection": selection_seeds}[use],
    )
    here = context_of(SPECS, settings=settings("--distill.rounds.count", "1"))
    with pytest.raises(UserError, match=f"evaluation starts were used for {said} too"):
        check_starts(here, {})


def test_a_run_says_what_is_left_out_where_an_extra_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    words = [
        "--optional_environments",
        "[metaworld/door-open-v3]",
        "--evaluation.rows",
        "[labeled_only]",
        "--demos.episodes",
        "1",
        "--labeled_only.steps",
        "2",
        "--evaluation.episodes",
        "1",
    ]
    assert cli.main(["run", "--small", "--out", str(tmp_path), *SMALL, *words]) == 0
    said = capsys.readouterr().out
    assert (
        'left out: metaworld/door-open-v3; to add it: pip install "alltrades[metaworld]"' in said
        and "planar/reach" in said
    )


def test_a_run_says_what_it_normalises_by_before_it_trains(tmp_path, capsys):
    run(
        settings(
            "--evaluation.rows",
            "[labeled_only]",
            "--labeled_only.steps",
            "2",
            "--evaluation.episodes",
            "1",
        ),
        tmp_path,
    )
    lines = capsys.readouterr().err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("planar/reach: "))
    assert " steps of " in lines[at] and lines[at + 1].startswith("  state: 16 numbers, ")
    assert lines[at + 2].startswith("  action: 2 numbers, -")


@pytest.mark.parametrize(
    ("name", "nearest"), [("backbone", "transformer"), ("encoder.name", "convolution")]
)
def test_an_unknown_network_is_named_before_anything_is_recorded(name, nearest, tmp_path, capsys):
    words = ["run", "--small", "--out", str(tmp_path), f"--policy.{name}", nearest[:-1]]
    assert cli.main(words) == 2
    assert f"did you mean '{nearest}'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.zarr"))
