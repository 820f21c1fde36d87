"""A run on images in small: convolutions, ensembles of teachers, metrics beside success from the
rollout to the comparison.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs.suites.restoration import split_seed
from alltrades.errors import UserError
from alltrades.pipeline.runner import RunResult, run
from alltrades.policies.model.loading import load_policy
from alltrades.policies.onnx.export import export_onnx
from alltrades.settings.load import load_settings
from alltrades.settings.rows import Row
from alltrades.settings.run import RunSettings

SMALL = [
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--environments",
    "[restoration/denoise, restoration/inpaint]",
    "--labeled_only.steps",
    "10",
    "--distill.train.steps",
    "8",
    "--specialist.finetune.steps",
    "4",
    "--demos.episodes",
    "3",
]
TEACHERS = ["joint_init_2", "labeled_only_holdout", "labeled_only_holdout_2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("run")
    rows = ["--evaluation.rows", "[labeled_only_holdout, generalist]", "--evaluation.episodes", "6"]
    settings = load_settings(
        RunSettings,
        defaults_file="restoration",
        small=True,
        overrides=[*SMALL, *rows, "--distill.teachers", str(TEACHERS), "--distill.rollouts", "4"],
    )[0]
    return folder, run(settings, folder)


def test_every_member_of_an_ensemble_is_another_network_with_rollouts_of_its_own(
    finished: tuple[Path, RunResult],
) -> None:
    folder, _ = finished
    policies = {
        p.parent.relative_to(folder / "policies").as_posix(): json.loads(p.read_text())
        for p in folder.glob("policies/**/policy.json")
    }
    assert set(policies) == {
        "labeled_only_2",
        "labeled_only_holdout",
        "labeled_only_holdout_2",
        "generalist",
        "specialists/joint_init_2/restoration__denoise",
        "specialists/joint_init_2/restoration__inpaint",
    }
    del policies[
        "labeled_only_2"
    ]  # the last weights of a network whose held-out-best ones may be the same
    assert len({facts["digest"] for facts in policies.values()}) == len(policies)
    assert policies["generalist"]["training"]["teachers"] == TEACHERS
    seeds = []
    for teacher in TEACHERS:
        columns = EpisodeStore.open(folder / "stores" / f"rollouts_{teacher}.zarr").columns()
        assert set(columns["source"]) == {teacher} and len(columns["seed"]) == 8
        seeds += columns["seed"].tolist()
    assert len(set(seeds)) == 24  # no image is degraded twice alike


def test_metrics_go_from_the_rollouts_to_the_comparison(
    finished: tuple[Path, RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = finished
    for row in ("labeled_only_holdout", "generalist"):
        for found in json.loads((folder / "evaluation" / f"{row}.json").read_text())["rows"]:
            assert (
                found["metrics"]["psnr"] == found["returns"]
                and len(found["metrics"]["ssim"]) == found["n"] == 6
            )
            assert found["seeds"] == [split_seed("evaluation", i) for i in range(6)]
    pairs = {p["metric"]: p for p in result.comparison["pairs"]}
    assert list(pairs) == ["success", "psnr", "ssim"]
    means = [
        result.evaluations[row].mean(metric="psnr")[0]
        for row in ("generalist", "labeled_only_holdout")
    ]
    assert pairs["psnr"]["mean"] == pytest.approx(means[0] - means[1])
    command = ["compare", str(folder), "--rows", "generalist", "labeled_only_holdout", "--metric"]
    assert cli.main([*command, "psnr"]) == 0
    assert (
        f"generalist - labeled_only_holdout, psnr  {means[0] - means[1]:+.3f}"
        in capsys.readouterr().out
    )
    assert cli.main([*command, "psrn"]) == 2
    assert "no metric 'psrn' was measured" in capsys.readouterr().err


def test_the_artifact_knows_its_images_and_exports(
    finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    policy = load_policy(finished[0] / "policies" / "generalist")
    shown = [list(e.observation) for e in policy.environments]
    assert shown == [["image"], ["image", "missing"]] and policy.action_dim == 64
    for environment in policy.environments:
        assert environment.action.image == (8, 8, 1)
        assert {str(f) for f in environment.observation.values()} == {"image of 8 x 8 x 1 float32"}
    # one statistic for all pixels of an environment's images
    assert all(len(set(row.tolist())) == 1 for row in policy.normalizer.action_scale)
    pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    assert export_onnx(policy, tmp_path / "policy.onnx").max_error <= 1e-4


@pytest.mark.parametrize(
    "name, expected",
    [
        ("scratch", Row("scratch")),
        ("scratch_2", Row("scratch", 2)),
        ("labeled_only", Row("labeled_only")),
        ("joint_init_12", Row("joint_init", 12)),
    ],
)
def test_names_of_teachers(name: str, expected: Row) -> None:
    assert Row.of_teacher(name) == expected and expected.teacher == name


@pytest.mark.parametrize("name", ["scratch_1", "scratch_x", "scratch_02", "specialists", "_2"])
def test_other_names_are_no_teachers(name: str) -> None:
    with pytest.raises(ValueError, match="expected one of scratch, joint_init, "):
        Row.of_teacher(name)


def test_rows_have_the_names_of_the_evaluation() -> None:
    rows = RunSettings(generalists={"wide": {"rounds": {"count": 1}}}).rows()
    assert all(str(row) == name for name, row in rows.items())
    assert rows["specialists_joint"] == Row("joint_init")
    assert rows["wide_round1"] == Row("wide", round=1) and "generalist_round0" not in rows
    with pytest.raises(ValueError, match="may not be called 'wide_round0'"):
        RunSettings(generalists={"wide": {"rounds": {"count": 1}}, "wide_round0": {}})


@pytest.mark.parametrize(
    "override, message",
    [
        (
            ["--distill.teachers", "[scratchy]"],
            "teacher 'scratchy'; expected one of .* did you mean 'scratch'",
        ),
        (["--distill.teachers", "[scratch_0]"], "teacher 'scratch_0'"),
        (["--generalists.labeled_only_2.rollouts", "3"], "may not be called 'labeled_only_2'"),
    ],
)
def test_wrong_names_of_teachers_and_generalists_are_refused(
    override: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(RunSettings, overrides=override)


def test_a_backbone_of_images_is_refused_where_environments_are_none(tmp_path: Path) -> None:
    settings = load_settings(
        RunSettings,
        defaults_file="restoration",
        small=True,
        overrides=[*SMALL, "--environments", "[planar/reach]"],
    )[0]
    with pytest.raises(UserError, match="needs environments that are images"):
        run(settings, tmp_path)
