"""The recipes whose environments are extras run in their small form, from demonstrations to the
table.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import zarr

from alltrades import cli

QUIET = [
    "--small",
    "--no-report",
    "--tracking.wandb",
    "disabled",
    "--rollout.workers",
    "0",
    "--rollout.timeout",
    "0",
]


@pytest.mark.parametrize("recipe", ["metaworld_mt10", "metaworld_mt10_paper"])
@pytest.mark.skipif(
    find_spec("metaworld") is None, reason='needs: pip install "alltrades[metaworld]"'
)
def test_metaworld_recipes_measure_all_their_rows(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = [
        "--evaluation.episodes",
        "1",
        "--rollout.engine",
        "torch",
    ]  # graphs are exported elsewhere, at seconds each
    assert cli.main(["run", recipe, *QUIET, *fewer, "--out", str(tmp_path)]) == 0
    shown, rows = (
        capsys.readouterr().out,
        {p.stem for p in (tmp_path / "evaluation").glob("*.json")},
    )
    paper = recipe == "metaworld_mt10_paper"
    assert rows == (
        {"specialists", "labeled_only", "generalist"}
        if paper
        else {
            "specialists",
            "specialists_joint",
            "labeled_only",
            "labeled_only_holdout",
            "labeled_only_plus",
            "paper",
            "generalist",
        }
    )
    assert "mean of 2" in shown and ("mean within 300 steps" in shown)
    used = {
        row: json.loads((tmp_path / "evaluation" / f"{row}.json").read_text())[
            "used_success_signal"
        ]
        for row in rows
    }
    assert {row for row, value in used.items() if value} == (
        {"generalist"} if paper else {"labeled_only_plus", "paper", "generalist"}
    )


@pytest.mark.skipif(find_spec("gym_pusht") is None, reason='needs: pip install "alltrades[pusht]"')
@pytest.mark.skipif(
    "ALLTRADES_TEST_DATA" not in os.environ,
    reason="needs pusht_lowdim.zarr in the folder ALLTRADES_TEST_DATA",
)
def test_pusht_learns_from_the_published_demonstrations_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(os.environ["ALLTRADES_TEST_DATA"]) / "pusht_lowdim.zarr"
    assert cli.main(["run", "pusht", *QUIET, "--data", str(data), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "labeled_only" in shown and "generalist" in shown and "pusht/keypoints-v0" in shown
    facts = json.loads((tmp_path / "evaluation" / "generalist.json").read_text())
    assert facts["rows"][0]["n"] == 2


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("metaworld") is None, reason='needs: pip install "alltrades[metaworld]"'
)
def test_metaworld_is_learned_from_cameras_by_teachers_that_see_the_state(tmp_path: Path) -> None:
    command = ["run", "metaworld_cameras", *QUIET, "--out", str(tmp_path)]
    assert cli.main([*command, "--environments", "[metaworld/reach-v3]"]) == 0
    rows = {p.stem for p in (tmp_path / "evaluation").glob("*.json")}
    assert rows >= {"labeled_only_privileged", "state", "estimated", "labeled_only", "generalist"}
    told = json.loads((tmp_path / "eyes.json").read_text())["metaworld/reach-v3"]["numbers"]
    assert {n["name"] for n in told} >= {"goal_x", "goal_y", "goal_z"}


def first_episodes(source: Path, out: Path, count: int) -> Path:
    """A Zarr store of arrays in `data` that end at `meta/episode_ends`, cut behind so many."""
    whole, few = zarr.open_group(source, mode="r"), zarr.open_group(out, mode="w", zarr_format=2)
    ends = np.asarray(whole["meta/episode_ends"])[:count]
    for name in whole["data"]:
        few.create_array(f"data/{name}", data=np.asarray(whole[f"data/{name}"])[: ends[-1]])
    few.create_array("meta/episode_ends", data=ends)
    return out


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gym_pusht") is None, reason='needs: pip install "alltrades[pusht]"')
@pytest.mark.skipif(
    "ALLTRADES_TEST_DATA" not in os.environ,
    reason="needs pusht_lowdim.zarr in the folder ALLTRADES_TEST_DATA",
)
def test_pusht_is_learned_from_pictures_of_the_published_demonstrations(tmp_path: Path) -> None:
    data = Path(os.environ["ALLTRADES_TEST_DATA"]) / "pusht_lowdim.zarr"
    few = first_episodes(data, tmp_path / "few.zarr", 10)  # each of their frames is drawn
    command = ["run", "pusht_image", *QUIET, "--data", str(few), "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--demos.episodes", "4"]) == 0
    told = json.loads((tmp_path / "run" / "eyes.json").read_text())["pusht/keypoints-v0"]["numbers"]
    assert len(told) == 16  # the corners of the block
    facts = json.loads((tmp_path / "run" / "evaluation" / "generalist.json").read_text())
    assert facts["rows"][0]["n"] == 2
