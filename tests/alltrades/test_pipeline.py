"""The whole run in small: every artifact, resume after kill -9, and nothing done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult
from alltrades.envs import registry
from alltrades.envs.rollouts.seeding import evaluation_seeds, plot_seeds, selection_seeds
from alltrades.errors import UserError
from alltrades.pipeline.collection import first_demos
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.measurement import check_starts
from alltrades.pipeline.runner import run
from alltrades.policies.learning.training import Trainer
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from tests.alltrades.contexts import context_of

SMALL = [
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--rollout.workers",
    "0",
    "--rollout.lanes",
    "8",
]
SPECS = registry.resolve(["planar/reach", "planar/push"])


def settings(*more: str) -> RunSettings:
    return load_settings(
        RunSettings, defaults_file="quickstart", small=True, overrides=[*SMALL, *more]
    )[0]


def results(folder: Path) -> dict[str, bytes | str]:
    """Everything that a killed run must reproduce: networks, evaluation, stores, weights."""
    out: dict[str, bytes | str] = {}
    for pattern in (
        "policies/**/*.safetensors",
        "policies/**/policy.json",
        "evaluation/*.json",
        "weights/**/*",
        "comparison.json",
        "advice.json",
    ):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                out[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.glob("stores/*.zarr")):
        out[path.name] = EpisodeStore.open(path).digest()
    return out


def differing(a: dict[str, bytes | str], b: dict[str, bytes | str]) -> list[str]:
    """Names that one lacks or whose content differs. Comparing the contents themselves lets pytest
    diff megabytes.
    """
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(settings(), folder)


def test_run_leaves_every_artifact_and_row(finished):
    folder, result = finished
    assert set(result.evaluations) == {"specialists", "labeled_only", "unweighted", "generalist"}
    assert all(r.n == 4 for e in result.evaluations.values() for r in e.rows)
    assert {p["b"] for p in result.comparison["pairs"]} == {
        "specialists",
        "labeled_only",
        "unweighted",
    }
    assert set(result.advice) == {"planar/reach", "planar/push"}
    for name in (
        "settings.yaml",
        "manifest.json",
        "policies/generalist/model.safetensors",
        "stores/demos.zarr/commit.json",
        "stores/rollouts_scratch.zarr/commit.json",
        "weights/generalist.json",
        "metrics/labeled_only.jsonl",
        "stores/held_out.zarr/commit.json",
    ):
        assert (folder / name).exists(), name


def test_run_says_where_weights_are_off_also_when_they_were_estimated_before(
    finished, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    again = settings("--distill.weights.auc_min", "0.99", "--distill.train.steps", "2")
    for _ in range(2):
        run(again, folder)
        said = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line.startswith("weights of generalist: planar/")
        ]
        assert len(said) == 2 and all(line.endswith("weights off") for line in said)


def test_same_command_again_does_nothing_twice(finished):
    folder, _ = finished
    kept = [*folder.rglob("*.safetensors"), folder / "advice.json"]
    before = {p: p.stat().st_mtime_ns for p in kept}
    _, result = finished
    assert run(settings(), folder).advice == result.advice
    assert {p: p.stat().st_mtime_ns for p in kept} == before


def test_advice_comes_and_goes_with_the_generalist_among_the_rows(finished, tmp_path):
    advised = finished[1].advice
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    for rows, expected in (
        ("[specialists]", {}),
        ("[specialists, labeled_only, unweighted, generalist]", advised),
        ("[specialists]", {}),
    ):
        assert run(settings("--evaluation.rows", rows), folder).advice == expected
        assert json.loads((folder / "advice.json").read_text()) == expected
    fresh = tmp_path / "fresh"
    assert run(settings("--evaluation.rows", "[specialists]"), fresh).advice == {}
    assert run(settings(), fresh).advice == advised


def test_changed_setting_reruns_only_what_depends_on_it(finished, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    kept = (folder / "policies" / "labeled_only" / "model.safetensors").stat().st_mtime_ns
    changed = (folder / "policies" / "generalist" / "model.safetensors").stat().st_mtime_ns
    run(settings("--distill.train.steps", "70"), folder)
    assert (folder / "policies" / "labeled_only" / "model.safetensors").stat().st_mtime_ns == kept
    assert (folder / "policies" / "generalist" / "model.safetensors").stat().st_mtime_ns != changed


def test_a_row_that_needs_more_rollouts_leaves_the_generalist_as_it_is_and_so_does_its_end(
    finished, tmp_path
):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    network, rollouts = (
        folder / "policies" / "generalist" / "model.safetensors",
        folder / "stores" / "rollouts_scratch.zarr",
    )
    before, count = network.stat().st_mtime_ns, len(EpisodeStore.open(rollouts))
    advised = (folder / "advice.json").stat().st_mtime_ns
    run(settings("--generalists.unweighted.rollouts", "6"), folder)
    assert (
        folder / "advice.json"
    ).stat().st_mtime_ns != advised  # it counts every rollout of a teacher
    assert len(EpisodeStore.open(rollouts)) == 1.5 * count and network.stat().st_mtime_ns == before
    written = (folder / "manifest.json").read_text()
    run(settings("--evaluation.rows", "[specialists, labeled_only, generalist]"), folder)
    assert network.stat().st_mtime_ns == before
    assert (
        json.loads((folder / "manifest.json").read_text())["stages"]["rollouts/scratch"]
        == json.loads(written)["stages"]["rollouts/scratch"]
    )


def test_rollouts_that_were_damaged_are_made_again(finished, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    store = folder / "stores" / "rollouts_scratch.zarr"
    before = EpisodeStore.open(store).digest()
    shutil.rmtree(store)
    store.mkdir()
    run(settings(), folder)
    assert EpisodeStore.open(store).digest() == before


def test_a_newly_declared_symmetry_trains_again(finished, tmp_path, monkeypatch):
    import shutil

    from alltrades.envs import registry
    from alltrades.envs.symmetry import Translation

    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    networks = [
        folder / "policies" / row / "model.safetensors" for row in ("labeled_only", "generalist")
    ]
    before = [path.read_bytes() for path in networks]
    resolve = registry.resolve
    shift = (Translation(((0,),), (0.1,)),)
    monkeypatch.setattr(
        registry, "resolve", lambda names: [replace(s, symmetries=shift) for s in resolve(names)]
    )
    run(settings(), folder)
    assert all(path.read_bytes() != bits for path, bits in zip(networks, before))


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
    more = ["--labeled_only.steps", "40", "--training.log_every", "4", "--evaluation.rows"]
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


def test_trainings_beside_one_another_change_nothing_where_each_has_one_thread(finished, tmp_path):
    """The small networks of this run use one thread in any case."""
    run(settings("--trainings", "3"), tmp_path)
    assert differing(results(finished[0]), results(tmp_path)) == []


def test_a_failing_training_ends_those_beside_it_and_the_run_goes_on_afterwards(
    finished, tmp_path, monkeypatch
):
    update, seen = Trainer.update, []

    def fail(self):
        seen.append(self)
        if len(seen) == 25:
            raise RuntimeError("out of luck")
        return update(self)

    monkeypatch.setattr(Trainer, "update", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(settings("--trainings", "3"), tmp_path)
    assert len(seen) < 60 and not any(t.name.startswith("beside") for t in threading.enumerate())
    monkeypatch.setattr(Trainer, "update", update)
    run(settings("--trainings", "3"), tmp_path)
    assert differing(results(finished[0]), results(tmp_path)) == []


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


def test_plots_are_of_starts_that_neither_selection_nor_evaluation_uses(finished):
    specs = SPECS
    uses = [
        {(s.id, x) for s in specs for x in seeds(s, 0, 50)}
        for seeds in (plot_seeds, selection_seeds, evaluation_seeds)
    ]
    assert not uses[0] & uses[1] and not uses[0] & uses[2] and not uses[1] & uses[2]
    drawn = json.loads((finished[0] / "trajectories.json").read_text())
    assert {len(paths) for of_row in drawn.values() for paths in of_row.values()} == {4}


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


def test_a_run_says_in_one_line_which_dimensions_hardly_move(tmp_path, monkeypatch, capsys):
    still = [
        "observation[3] hardly moves",
        "observation[4] hardly moves",
        "action[0] hardly moves",
        "action[1] hardly moves",
    ]
    monkeypatch.setattr("alltrades.pipeline.runner.constant_dimensions", lambda *args: still)
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
    lines = [line for line in capsys.readouterr().err.splitlines() if "hardly moves" in line]
    assert lines == [
        "normaliser: observation[3] hardly moves; observation[4] hardly moves; and 2 more"
    ]


def test_episodes_without_actions_join_stage_2_as_conditions(finished, tmp_path):
    episodes = list(EpisodeStore.open(finished[0] / "stores" / "demos.zarr").episodes())
    store = EpisodeStore.create(tmp_path / "mixed.zarr")
    store.append([replace(e, actions=None) if i % 4 == 3 else e for i, e in enumerate(episodes)])
    rows = ["--evaluation.rows", "[labeled_only, generalist]", "--evaluation.episodes", "2"]
    result = run(
        settings("--demos.path", str(store.path), "--demos.episodes", "3", *rows), tmp_path / "run"
    )
    assert set(result.evaluations) == {"labeled_only", "generalist"}
    steps = first_demos(
        tmp_path / "run" / "stores" / "demos.zarr", ["planar/reach", "planar/push"], 3
    )
    assert steps.has_actions.tolist() == [True, True, True, False] * 2
    assert all(
        facts["held_out_error"] is None for facts in result.advice.values()
    )  # the store has no fourth demonstration
    weights = WeightResult.load(tmp_path / "run" / "weights" / "generalist" / "planar__reach")
    assert len(weights.demo_weight) == steps.lengths[steps.environment == "planar/reach"].sum()


def test_a_store_of_observations_is_labelled_by_specialists_that_have_not_learned_from_it(
    finished, tmp_path
):
    folder = finished[0]
    episodes = [
        replace(e, actions=None)
        for e in EpisodeStore.open(folder / "stores" / "rollouts_scratch.zarr").episodes()
    ]
    store = EpisodeStore.create(tmp_path / "seen.zarr")
    store.append(episodes)
    run(
        settings(
            "--demos.observations",
            str(store.path),
            "--evaluation.rows",
            "[generalist]",
            "--evaluation.episodes",
            "2",
        ),
        tmp_path / "run",
    )
    steps = first_demos(
        tmp_path / "run" / "stores" / "demos.zarr", ["planar/reach"], None, str(store.path)
    )
    assert steps.has_actions.sum() == 4 and (~steps.has_actions).sum() == sum(
        e.environment == "planar/reach" for e in episodes
    )
    weights = WeightResult.load(tmp_path / "run" / "weights" / "generalist" / "planar__reach")
    assert len(weights.demo_weight) == steps.lengths.sum()
    first, second = (
        f / "policies/specialists/scratch/planar__reach/model.safetensors"
        for f in (folder, tmp_path / "run")
    )
    assert first.read_bytes() == second.read_bytes()


def test_observations_do_not_change_what_runs_without_them_are_known_by(finished):
    def key(*more):
        here = context_of(SPECS, settings=settings(*more))
        return Demonstrations(here, finished[0] / "stores" / "demos.zarr").key()

    assert set(key()) == {"demos", "policy", "settings"} and "observations" not in key()["settings"]
    assert (
        key("--demos.observations", str(finished[0] / "stores" / "demos.zarr"))["observations"]
        == key()["demos"]
    )


def test_run_killed_at_many_moments_ends_with_the_same_bits(finished, tmp_path):
    """kill -9 after growing delays, again and again, then to the end."""
    folder = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "alltrades.cli",
        "run",
        "--small",
        "--out",
        str(folder),
        *SMALL,
        "--training.checkpoint_every",
        "20",
    ]
    kills, delay = 0, 4.0
    deadline = (
        time.monotonic() + 600
    )  # each try is given longer than the one before: a busy machine gets there, too
    while time.monotonic() < deadline:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path
        )
        try:
            _, err = process.communicate(timeout=delay)
            assert process.returncode == 0, err.decode()[-2000:]
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills, delay = kills + 1, delay * 1.3
    else:
        pytest.fail("the run did not finish")
    assert kills >= 2
    whole = tmp_path / "whole"
    subprocess.run(
        [str(whole) if word == str(folder) else word for word in command],
        check=True,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    assert differing(results(folder), results(whole)) == []


def test_evaluation_starts_are_disjoint_from_every_other_use(finished):
    folder, result = finished
    used = set()
    for path in folder.glob("stores/*.zarr"):
        columns = EpisodeStore.open(path).columns()
        used |= set(zip(columns["environment"], columns["seed"].astype(int)))
    starts = {
        (r.environment, s) for e in result.evaluations.values() for r in e.rows for s in r.seeds
    }
    assert starts and not used & starts


def test_results_carry_no_path_of_the_machine(finished):
    folder, _ = finished
    for path in (
        folder / "manifest.json",
        folder / "settings.yaml",
        *folder.glob("policies/**/policy.json"),
    ):
        assert str(Path.home()) not in path.read_text() or str(Path.home()) == "/"
        assert json.loads(path.read_text()) if path.suffix == ".json" else True
