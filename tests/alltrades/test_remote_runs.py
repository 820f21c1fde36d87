"""Commands whose stores and policies are in an object store."""

import json

import pytest

from alltrades.cli import main
from alltrades.data.store import EpisodeStore
from alltrades.policies.model.loading import load_policy
from tests.alltrades.test_stage_commands import QUICK

BASE = ["--environments", "[planar/reach]", *QUICK]


def command(*words: object) -> None:
    assert main([*map(str, words)]) == 0


@pytest.mark.slow
def test_stages_read_and_append_there_what_they_do_on_a_disk(s3, tmp_path, capsys):
    """Each command with addresses, and the same with paths beside it."""
    there, here = "s3://bucket/stages", tmp_path / "here"
    made = {}
    for place, folder in ((there, tmp_path / "far"), (here, tmp_path / "near")):
        demos, rollouts = f"{place}/demos.zarr", f"{place}/rollouts.zarr"
        command("collect", "--out", demos, *BASE, "--demos.episodes", "4")
        words = ["--demos", demos, "--out", folder / "specialists", *BASE]
        command("train", "specialists", *words)
        specialists = folder / "specialists"
        if place == there:
            specialists = s3.upload(specialists, "stages/specialists")
        words = ["--teacher", "scratch", "--episodes", "2", "--out", rollouts]
        command("rollout", specialists, *words, *BASE)
        words = ["--teacher", f"scratch={specialists}:{rollouts}", "--out", folder / "policy"]
        command("distill", "--demos", demos, *words, *BASE, "--distill.teachers", "[scratch]")
        policy = folder / "policy"
        if place == there:
            policy = s3.upload(policy, "stages/policy")
        command("evaluate", policy, "--out", folder / "policy.json", *BASE)
        made[place] = (
            EpisodeStore.open(demos).digest(),
            EpisodeStore.open(rollouts).digest(),
            load_policy(policy).digest(),
            json.loads((folder / "policy.json").read_text()),
        )
    assert made[there] == made[here]
    words = ["--teacher", "scratch", "--episodes", "3", "--out", f"{there}/rollouts.zarr"]
    command("rollout", "s3://bucket/stages/specialists", *words, *BASE)  # continues it
    assert len(EpisodeStore.open(f"{there}/rollouts.zarr")) == 3


def test_a_run_is_given_a_store_there(s3, tmp_path):
    local = tmp_path / "demos.zarr"
    command("collect", "--out", local, *BASE, "--demos.episodes", "4")
    url = s3.upload(local, "runs/demos.zarr")
    small = [*BASE, "--no-report", "--tracking.wandb", "disabled"]
    small += ["--evaluation.rows", "[labeled_only]", "--distill.teachers", "[scratch]"]
    command("run", "--out", tmp_path / "far", "--demos.path", url, *small)
    command("run", "--out", tmp_path / "near", "--demos.path", local, *small)
    copied = [
        EpisodeStore.open(tmp_path / n / "stores/demos.zarr").digest() for n in ("far", "near")
    ]
    assert copied[0] == copied[1]
    row = "evaluation/labeled_only.json"
    assert (tmp_path / "far" / row).read_text() == (tmp_path / "near" / row).read_text()
    s3.proxy.fault = lambda method, path: "503" if path.endswith("/c/0/0") else None
    command("run", "--out", tmp_path / "far", "--demos.path", url, *small)  # nothing is copied anew


def test_a_robot_gets_its_policy_there_and_records_there(s3, tmp_path):
    from alltrades.envs import registry
    from tests.policies.toys import make_policy

    folder = make_policy([registry.get("planar/reach").interface]).save(tmp_path / "arm")
    url, store = s3.upload(folder, "robots/arm"), "s3://bucket/robots/log.zarr"
    for _ in range(2):  # the second continues the store
        words = ["--robot", "env:planar/reach", "--fast", "--steps", "5", "--record", store]
        command("deploy", url, *words)
    found = EpisodeStore.open(store)
    assert len(found) == 2 and [len(e) for e in found.episodes()] == [5, 5]
    assert [d["artifact"] for d in found.provenance["deployments"]] == [url, url]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run --out s3://b/run", "--out s3://b/run; expected a path on this machine"),
        ("evaluate p --out s3://b/e.json", "--out s3://b/e.json; expected a path on this machine"),
        ("data merge a.zarr --out s3://b/a", "--out s3://b/a; expected a path on this machine"),
        ("deploy p --robot gym:X --json gs://b/x", "--json gs://b/x; expected a path"),
        ("export s3://b/p", "export of s3://b/p without --out; expected a path to write"),
        ("serve s3://b/p --watch", "--watch with s3://b/p; expected a folder of this machine"),
    ],
)
def test_what_is_written_to_disks_alone_is_said(words, line, capsys):
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_runs_there_are_compared_and_reported(s3, tmp_path, capsys):
    from tests.alltrades.fake_run import fake_run

    folders = [fake_run(tmp_path / name, policy=name) for name in ("a", "b")]
    urls = [s3.upload(folder, f"runs/{folder.name}") for folder in folders]
    said = []
    for places in (folders, urls):
        command("compare", *places, "--rows", "generalist", "labeled_only", "--each")
        files = [f"{place}/evaluation/{row}.json" for place in places[:1] for row in ROWS]
        command("compare", *files)
        said.append(capsys.readouterr().out)
        command("report", places[0], "--out", tmp_path / f"{len(said)}.html")
        capsys.readouterr()
    assert said[0] == said[1] and "BETTER" in said[0]
    pages = [(tmp_path / f"{k}.html").read_text() for k in (1, 2)]
    assert pages[0] == pages[1]
    asked = {path for _, path in s3.proxy.asked}
    assert not any("policies/generalist" in path or "stores" in path for path in asked)


ROWS = ("generalist", "labeled_only")


def test_what_cannot_be_compared_or_reported_there_is_one_line(s3, tmp_path, capsys):
    (tmp_path / "x").write_text("x")
    s3.upload(tmp_path, "empty")
    for words, expected in (
        (["report", "s3://bucket/runs/a"], "expected --out"),
        (["report", "s3://bucket/empty", "--out", tmp_path / "r.html"], "holds no run"),
        (["compare", "s3://bucket/empty", "--rows", *ROWS], "holds no run"),
        (["compare", "s3://bucket/a.json", "s3://bucket/b.json"], "there is no such file"),
    ):
        assert main([*map(str, words)]) == 2
        assert expected in capsys.readouterr().err
