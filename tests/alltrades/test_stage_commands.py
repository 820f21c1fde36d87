"""The stages one by one make what `run` makes, and each environment has files of its own."""

import json
from pathlib import Path

import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.policies.model.loading import load_policy
from alltrades.system.files import slug, tree_digest
from tests.data.stores import episode

NAMES = ["planar/reach", "planar/push"]
QUICK = ["--small", "--rollout.workers", "0", "--rollout.timeout", "0", "--rollout.lanes", "8"]
QUICK += ["--policy.width", "64", "--specialist.width", "32"]
QUICK += ["--labeled_only.steps", "20", "--specialist.train.steps", "20"]
QUICK += ["--specialist.finetune.steps", "10", "--distill.train.steps", "20"]
QUICK += ["--distill.teachers", "[scratch, joint_init]", "--distill.rollouts", "3"]
QUICK += ["--evaluation.episodes", "3", "--distill.rounds.count", "0"]
ROWS = ["specialists", "specialists_joint", "labeled_only", "labeled_only_holdout", "generalist"]


def command(*words: object) -> None:
    assert cli.main([*map(str, words)]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """run/ by one command, and the same by the stage commands beside it."""
    folder = tmp_path_factory.mktemp("made")
    settings = ["--environments", str(NAMES), *QUICK]
    rows = ["--evaluation.rows", f"[{', '.join(ROWS)}]", "--no-report"]
    command("run", "--out", folder / "run", *settings, *rows, "--tracking.wandb", "disabled")
    demos = ["--demos", folder / "demos.zarr"]
    command("collect", "--out", folder / "demos.zarr", *settings)
    for row in ROWS[:-1]:
        joint = ["--labeled-only", folder / "labeled_only"] if row == "specialists_joint" else []
        if row == "specialists_joint":
            command("train", "labeled_only", *demos, "--out", folder / "labeled_only", *settings)
        command("train", row, *demos, *joint, "--out", folder / row, *settings)
    teachers = []
    for name, row in (("scratch", "specialists"), ("joint_init", "specialists_joint")):
        store = folder / f"rollouts_{name}.zarr"
        words = ["--teacher", name, "--episodes", 3, "--out", store]
        command("rollout", folder / row, *words, *settings)
        teachers += ["--teacher", f"{name}={folder / row}:{store}"]
    stores = [folder / f"rollouts_{name}.zarr" for name in ("scratch", "joint_init")]
    command("weigh", *stores, *demos, "--out", folder / "weights", *settings)
    command("distill", *demos, *teachers, "--out", folder / "generalist", *settings)
    for row in ROWS:
        words = ["--name", row, "--out", folder / f"{row}.json"]
        command("evaluate", folder / row, *words, *settings)
    return folder


def policies(folder: Path) -> dict[str, str]:
    files = [folder] if (folder / "policy.json").exists() else [folder / slug(n) for n in NAMES]
    return {f.name: load_policy(f).digest() for f in files}


@pytest.mark.parametrize("row", ROWS)
def test_stage_commands_make_the_policies_of_a_run_and_measure_the_same(made, row):
    own = {"specialists": "specialists/scratch", "specialists_joint": "specialists/joint_init"}
    of_run, alone = policies(made / "run/policies" / own.get(row, row)), policies(made / row)
    assert of_run == alone and len(alone) == (2 if row in own else 1)
    evaluation = (made / "run" / "evaluation" / f"{row}.json").read_text()
    assert json.loads(evaluation) == json.loads((made / f"{row}.json").read_text())


def test_stage_commands_make_the_stores_and_weights_of_a_run(made):
    for name in ("demos", "rollouts_scratch", "rollouts_joint_init"):
        stores = [EpisodeStore.open(f / f"{name}.zarr") for f in (made / "run" / "stores", made)]
        assert stores[0].digest() == stores[1].digest() and len(stores[0]) > 0, name
    of_run = made / "run" / "weights" / "generalist"
    for folder in (made / "weights", made / "generalist" / ".stage" / "weights"):
        names = [f"{slug(n)}/weights.safetensors" for n in NAMES]
        assert tree_digest(folder, names) == tree_digest(of_run, names)


def test_weights_and_policies_of_a_run_are_inputs_of_the_stage_commands(made, tmp_path):
    run = made / "run"
    words = ["--demos", run / "stores" / "demos.zarr", "--weights", run / "weights" / "generalist"]
    for name in ("scratch", "joint_init"):
        artifacts, store = run / "policies/specialists" / name, run / f"stores/rollouts_{name}.zarr"
        words += ["--teacher", f"{name}={artifacts}:{store}"]
    command("distill", *words, "--out", tmp_path, "--environments", str(NAMES), *QUICK)
    assert load_policy(tmp_path).digest() == load_policy(made / "generalist").digest()


def test_a_stage_that_is_done_is_not_done_again(made, capsys):
    kept = {p: p.stat().st_mtime_ns for p in (made / "labeled_only").glob("*.*")}
    words = ["train", "labeled_only", "--demos", made / "demos.zarr", "--environments", str(NAMES)]
    command(*words, "--out", made / "labeled_only", *QUICK)
    assert kept and {p: p.stat().st_mtime_ns for p in kept} == kept
    said = capsys.readouterr().err  # what the networks are normalised by
    assert all(f"{name}: " in said for name in NAMES) and "action: 2 numbers" in said


def test_a_policy_that_no_command_made_is_not_overwritten(made, tmp_path, capsys):
    load_policy(made / "labeled_only").save(tmp_path)
    words = ["train", "labeled_only", "--demos", str(made / "demos.zarr"), "--out", str(tmp_path)]
    assert cli.main([*words, "--environments", str(NAMES), *QUICK]) == 2
    assert "is there already and no run wrote it" in capsys.readouterr().err


def test_rollouts_of_nothing_or_twice_are_not_weighed(made, tmp_path, capsys):
    words = ["--demos", str(made / "demos.zarr"), "--out", str(tmp_path / "w")]
    store = made / "rollouts_scratch.zarr"
    other = EpisodeStore.write(tmp_path / "other.zarr", [episode(3, environment="lab/other")])
    for given, said in (
        ([store, store], "is named twice"),
        ([store, other.path], "other.zarr: no episodes of"),
    ):
        own = [*map(str, given), *words, "--environments", str(NAMES), *QUICK]
        assert cli.main(["weigh", *own]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "w" / "weights.npz").exists()


@pytest.mark.parametrize("number", ["0", "-3", "few"])
def test_counts_are_counts(made, tmp_path, capsys, number):
    policy, out = str(made / "specialists"), str(tmp_path / "out.zarr")
    for words in (
        ["rollout", policy, "--out", out, "--episodes", number],
        ["compare", "a.json", "b.json", "--at", number],
        ["data", "sample", "a.zarr", "--out", out, "--episodes", number],
        ["deploy", policy, "--robot", "env:planar/reach", "--episodes", number],
        ["export", policy, "--batch", number],
    ):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert f"{number}; expected a whole number that is at least 1" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out.zarr").exists()


PLUGIN = """
from dataclasses import replace
from alltrades.envs import registry

for name in ("a/b", "a-b", "a:b"):
    spec, expert = registry.get("planar/reach"), registry.expert("planar/reach")
    registry.register(replace(spec, id=name), expert, replace=True)
"""


def test_environments_of_similar_names_keep_files_of_their_own(tmp_path):
    names = ["a/b", "a-b", "a:b"]
    (tmp_path / "similar_names.py").write_text(PLUGIN)
    plugin = ["--plugins", f"[{tmp_path / 'similar_names.py'}]", "--environments", str(names)]
    rows = ["--evaluation.rows", "[specialists, generalist]", "--distill.teachers", "[scratch]"]
    run = tmp_path / "run"
    command(
        "run", "--out", run, *plugin, *QUICK, *rows, "--no-report", "--tracking.wandb", "disabled"
    )
    artifacts = list((run / "policies" / "specialists" / "scratch").glob("*/policy.json"))
    facts = [json.loads(path.read_text()) for path in artifacts]
    assert sorted(f["environments"][0]["id"] for f in facts) == sorted(names)
    assert len({f["digest"] for f in facts}) == 3
    assert len(list((run / "metrics" / "specialist" / "scratch").glob("*.jsonl"))) == 3
    assert len(list((run / "weights" / "generalist").glob("*/weights.json"))) == 3
    command("report", run)
    page = (run / "report.html").read_text()
    assert all(name in page for name in names)
    words = ["--name", "specialists", "--out", tmp_path / "again.json"]
    command("evaluate", run / "policies/specialists/scratch", *words, *plugin, *QUICK)
    found = [
        json.loads(f.read_text())
        for f in (tmp_path / "again.json", run / "evaluation/specialists.json")
    ]
    assert found[0] == found[1] and len({r["policy"] for r in found[0]["rows"]}) == 3


@pytest.mark.parametrize("further", [[], ["--demos.episodes", "2"]])
def test_collect_beside_given_demonstrations_is_refused_in_one_line(tmp_path, capsys, further):
    given, out = tmp_path / "given.zarr", tmp_path / "out.zarr"
    EpisodeStore.write(given, [episode(0)])
    words = ["collect", "--environments", "planar/reach", "--demos.path", str(given)]
    assert cli.main([*words, "--out", str(out), *further]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"demos.path {given} gives demonstrations" in line and "leave --demos.path out" in line
    assert not out.exists()
