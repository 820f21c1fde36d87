"""Stores that exist are continued by what belongs to them, and by nothing else."""

import pytest
import zarr

from alltrades import cli
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.errors import UserError
from alltrades.pipeline import collection
from alltrades.pipeline.rollouts import record
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.settings import PolicySettings
from alltrades.settings.rollouts import RolloutSettings
from tests.alltrades.contexts import context_of

NAMES = ["planar/reach", "planar/push"]
SPECS = [registry.get(name) for name in NAMES]
HERE = RolloutSettings(lanes=4, workers=0)


def policies(seed=0):
    settings = PolicySettings(width=16, depth=1)
    return {
        s.id: build_policy(settings, [s.interface], Normalizer(Layout([s.interface])), seed)
        for s in SPECS
    }


def roll_out(path, *, by=0, specs=SPECS, episodes=2, seed=1, teacher="scratch"):
    given = {s.id: policies(by)[s.id] for s in specs}
    record(context_of(specs, HERE), given, teacher, episodes, seed, path)
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    path = tmp_path_factory.mktemp("rollouts") / "r.zarr"
    roll_out(path, episodes=1)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"by": 1}, "its policies differ for planar/reach"),
        ({"seed": 2}, "its seed is 1, not 2"),
        ({"teacher": "joint_init"}, "its teacher is scratch, not joint_init"),
        ({"specs": SPECS[:1]}, "its policies differ for planar/push"),
        ({"specs": SPECS[::-1]}, "its environments differ in their order"),
    ],
)
def test_rollouts_of_anything_else_are_not_mixed_into_a_store(rollouts, change, said):
    digest = EpisodeStore.open(rollouts).digest()
    with pytest.raises(
        UserError, match=f"{said}; expected one made from the same.*choose another path"
    ):
        roll_out(rollouts, **change)
    assert EpisodeStore.open(rollouts).digest() == digest


def test_rollouts_of_the_same_are_continued(rollouts, tmp_path):
    whole = roll_out(tmp_path / "whole.zarr")
    roll_out(tmp_path / "parts.zarr", episodes=1)
    assert roll_out(tmp_path / "parts.zarr").digest() == whole.digest() and len(whole) == 4


def test_demonstrations_are_continued_by_environments_and_by_episodes_that_follow(tmp_path):
    collection.collect(SPECS[:1], 2, 0, tmp_path / "parts.zarr", HERE)
    collection.collect(SPECS[:1], 3, 0, tmp_path / "parts.zarr", HERE)
    rates = collection.collect(SPECS, 3, 0, tmp_path / "parts.zarr", HERE)
    assert rates == collection.collect(SPECS, 3, 0, tmp_path / "whole.zarr", HERE)
    parts, whole = (EpisodeStore.open(tmp_path / f"{name}.zarr") for name in ("parts", "whole"))
    assert parts.digest() == whole.digest() and parts.provenance == whole.provenance
    with pytest.raises(UserError, match="its seed is 0, not 5"):
        collection.collect(SPECS, 4, 5, tmp_path / "parts.zarr", HERE)
    with pytest.raises(UserError, match="its kind is demonstrations, not rollouts"):
        roll_out(tmp_path / "parts.zarr")


def test_collect_never_removes_what_was_in_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("x")
    assert cli.main(["collect", "--environments", "[planar/reach]", "--out", "."]) == 2
    assert (
        "expected a new or an empty folder" in capsys.readouterr().err
        and (tmp_path / "thesis.tex").read_text() == "x"
    )


def test_a_foreign_store_needs_an_environment_that_reads_it(tmp_path, capsys):
    group = zarr.open_group(str(tmp_path / "foreign.zarr"), mode="w", zarr_format=2)
    group.create_array("data/state", shape=(4, 5), dtype="float32")[:] = 1
    group.create_array("meta/episode_ends", shape=(1,), dtype="int64")[:] = 4
    words = [
        "run",
        "--small",
        "--environments",
        "[planar/reach, planar/push]",
        "--data",
        str(tmp_path / "foreign.zarr"),
        "--out",
        str(tmp_path / "run"),
        "--no-report",
    ]
    assert cli.main([*words, "--tracking.wandb", "disabled"]) == 2
    *before, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith("environments ") for line in before)  # tried before anything else
    assert (
        error.startswith("alltrades: ")
        and "names no environments, and none of planar/reach, planar/push can read it" in error
    )
