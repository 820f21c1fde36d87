"""The whole run in small: every artifact, and nothing done twice."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alltrades.bench.kills import differing, run_results
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import WeightResult
from alltrades.envs import registry
from alltrades.envs.rollouts.seeding import evaluation_seeds, plot_seeds, selection_seeds
from alltrades.pipeline import generalist
from alltrades.pipeline.collection import first_demos
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.generalist import Sources
from alltrades.pipeline.runner import run
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.loading import load_policy
from tests.alltrades.contexts import context_of
from tests.alltrades.small_run import SPECS, settings


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


def test_trainings_beside_one_another_change_nothing_where_each_has_one_thread(finished, tmp_path):
    """The small networks of this run use one thread in any case."""
    run(settings("--trainings", "3"), tmp_path)
    assert differing(run_results(finished[0]), run_results(tmp_path)) == []


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
    assert differing(run_results(finished[0]), run_results(tmp_path)) == []


def test_plots_are_of_starts_that_neither_selection_nor_evaluation_uses(finished):
    specs = SPECS
    uses = [
        {(s.id, x) for s in specs for x in seeds(s, 0, 50)}
        for seeds in (plot_seeds, selection_seeds, evaluation_seeds)
    ]
    assert not uses[0] & uses[1] and not uses[0] & uses[2] and not uses[1] & uses[2]
    drawn = json.loads((finished[0] / "trajectories.json").read_text())
    assert {len(paths) for of_row in drawn.values() for paths in of_row.values()} == {4}


def test_episodes_without_actions_join_stage_2_as_conditions(finished, tmp_path):
    episodes = list(EpisodeStore.open(finished[0] / "stores" / "demos.zarr").episodes())
    store = EpisodeStore.create(tmp_path / "mixed.zarr")
    store.append([replace(e, actions=None) if i % 4 == 3 else e for i, e in enumerate(episodes)])
    rows = ["--evaluation.rows", "[labeled_only, generalist]", "--evaluation.episodes", "2"]
    result = run(
        settings("--demos.path", str(store.path), "--demos.episodes", "3", *rows), tmp_path / "run"
    )
    assert set(result.evaluations) == {"labeled_only", "generalist"}
    copied = EpisodeStore.open(tmp_path / "run" / "stores" / "demos.zarr")
    environments = ["planar/reach", "planar/push"]
    steps = first_demos(copied.steps(environments), environments, lambda name: 3)
    assert steps.has_actions.tolist() == [True, True, True, False] * 2
    assert all(
        facts["held_out_error"] is None for facts in result.advice.values()
    )  # the store has no fourth demonstration
    weights = WeightResult.load(tmp_path / "run" / "weights" / "generalist" / "planar__reach")
    assert len(weights.demo_weight) == steps.lengths[steps.environment == "planar/reach"].sum()


def test_logs_are_labelled_by_specialists_that_have_not_learned_from_them(finished, tmp_path):
    folder = finished[0]
    episodes = [
        replace(e, actions=None)
        for e in EpisodeStore.open(folder / "stores" / "rollouts_scratch.zarr").episodes()
    ]
    store = EpisodeStore.create(tmp_path / "seen.zarr")
    store.append(episodes)
    run(
        settings(
            "--distill.logs",
            f"[{store.path}]",
            "--evaluation.rows",
            "[generalist]",
            "--evaluation.episodes",
            "2",
        ),
        tmp_path / "run",
    )
    demos = EpisodeStore.open(tmp_path / "run" / "stores" / "demos.zarr").steps(["planar/reach"])
    rolled = EpisodeStore.open(tmp_path / "run" / "stores" / "rollouts_scratch.zarr")
    weights = WeightResult.load(tmp_path / "run" / "weights" / "generalist" / "planar__reach")
    assert len(weights.demo_weight) == len(demos)  # logs are no demonstrations
    logs = sum(len(e) for e in episodes if e.environment == "planar/reach")
    assert len(weights.rollout_weight) == len(rolled.steps(["planar/reach"])) + logs
    assert weights.rollout_base[-logs:].sum() == pytest.approx(0.5)
    first, second = (
        f / "policies/specialists/scratch/planar__reach/model.safetensors"
        for f in (folder, tmp_path / "run")
    )
    assert first.read_bytes() == second.read_bytes()


def test_logs_are_known_by_what_they_hold_and_runs_without_them_as_before(finished, tmp_path):
    demos, logs = (finished[0] / "stores" / f"{n}.zarr" for n in ("demos", "rollouts_scratch"))
    here = context_of(SPECS, settings=settings())
    given = Sources(Demonstrations(here, demos), (), tmp_path)
    moved = tmp_path / "moved.zarr"
    shutil.copytree(logs, moved)
    plain, first, second = (
        given.key(settings("--distill.logs", f"[{', '.join(map(str, paths))}]").distill)
        for paths in ([], [logs], [moved])
    )
    assert "logs" not in plain and first == second == plain | {"logs": first["logs"]}


def test_a_conditioned_generalist_is_told_which_episodes_went_well(tmp_path, monkeypatch):
    learned = []
    plain = generalist.TrainingData

    def seen(rows, *more, **named):
        learned.append(rows)
        return plain(rows, *more, **named)

    monkeypatch.setattr(generalist, "TrainingData", seen)
    condition = ["--distill.outcome", "condition", "--distill.weights.kind", "success"]
    condition += ["--generalists.unweighted.weights.kind", "success"]
    given = settings(*condition, "--evaluation.rows", "[generalist]", "--evaluation.episodes", "2")
    result = run(given, tmp_path)
    (rows,) = learned
    steps = EpisodeStore.open(tmp_path / "stores" / "rollouts_scratch.zarr").steps()
    went = {
        (str(e), int(x)): 1.0 if good else -1.0
        for e, x, good in zip(steps.environment, steps.seed, steps.episode_success)
    }
    own = rows.steps
    told = [went.get((str(e), int(x))) for e, x in zip(own.environment, own.seed)]
    rolled = ~rows.demonstration
    of_step = np.array([np.nan if w is None else w for w in told])[own.episode_of_step]
    assert -1.0 in rows.outcome[rolled] and (rows.outcome == of_step)[rolled].all()
    assert (rows.probability[rolled] > 0).any()  # failures are kept
    assert load_policy(tmp_path / "policies" / "generalist").settings.outcome_input
    assert set(result.evaluations["generalist"].success_uses) == {"ends episodes", "conditions"}


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
