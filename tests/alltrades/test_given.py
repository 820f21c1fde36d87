"""Given demonstrations are checked before anything trains, and a given store is used whole."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from alltrades import cli
from alltrades.commands.command import recipe_settings
from alltrades.data.actions import ActionSpec
from alltrades.data.chunks import ChunkedArray
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline import collection, demonstrations, quality
from alltrades.pipeline.given import check, environments_of
from alltrades.settings.demos import DemoSettings
from alltrades.settings.run import RunSettings
from tests.alltrades.contexts import context_of

DOT = EnvSpec.recorded(
    Interface(
        "lab/dot",
        {
            "state": Field.state(2),
            "images.front": Field.image(4, 6),
            "instruction": Field.text(),
        },
        ActionSpec((-1, 0), (1, 512), names=("left", "right")),
        20,
        5.0,
    )
)
ALL = {DOT.id: set(DOT.observation)}


def dot(seed=0, length=5, action=(0.5, 100), environment=DOT.id, **change) -> Episode:
    rng = np.random.default_rng(seed)
    fields = {
        "state": rng.random((length, 2), np.float32),
        "images.front": rng.integers(0, 256, (length, 4, 6, 3), np.uint8),
        "instruction": "go",
    }
    fields = {k: v for k, v in {**fields, **change}.items() if v is not None}
    actions = None if action is None else np.tile(action, (length, 1))
    return Episode.from_arrays(fields, actions, environment, seed=seed)


def _opened(*paths: Path) -> list[EpisodeStore]:
    return [EpisodeStore.open(path) for path in paths]


def write(path: Path, *episodes: Episode, **declared) -> Path:
    with EpisodeStore.create(path) as store:
        store.append(episodes)
        if declared:
            store.declare([replace(DOT.interface, **declared)])
    return path


def test_demonstrations_that_fit_are_taken_whatever_nobody_knows(tmp_path):
    plain = write(tmp_path / "a", dot(), dot(1, 20), dot(2, action=None))
    check(_opened(plain), [DOT], ALL)
    check(_opened(plain), [replace(DOT, action=ActionSpec.unknown(2), control_hz=None)], ALL)
    check(_opened(write(tmp_path / "b", dot(action=(1.01, 515)), max_steps=9)), [DOT], ALL)
    open_box = replace(DOT, action=ActionSpec((-np.inf, 0), (np.inf, 512)))
    check(_opened(write(tmp_path / "c", dot(action=(1e6, 1)))), [open_box], ALL)


@pytest.mark.parametrize(
    ("change", "declared", "said"),
    [
        ({"images.front": None}, {}, "no field 'images.front' .* among state, instruction; exp"),
        ({"state": np.zeros((5, 3))}, {}, "'state' is a state of 3 numbers, not a state of 2 num"),
        ({"images.front": np.zeros((5, 6, 4, 3), np.uint8)}, {}, "6 x 4 x 3 uint8, not an image"),
        ({"instruction": np.zeros((5, 2))}, {}, "'instruction' is a state of 2 numbers, not text"),
        ({"action": (1, 2, 3)}, {}, "actions have 3 numbers, not 2"),
        (
            {"action": (0.5, 700)},
            {},
            r"0.71 of 7 steps have actions outside the box; worst is dimension 1 \('right'\), from "
            "100 to 700; expected 0 to 512; record actions in the environment's units",
        ),
        ({"action": (-3, 515)}, {}, r"dimension 0 \('left'\), from -3 to -3; expected -1 to 1"),
        ({"length": 21}, {}, "1 of 2 episodes are longer .* has 21 steps; expected at most 20"),
        ({}, {"control_hz": 30.0}, "it runs at 30 Hz, not 5"),
        ({"action": None}, {}, "the 1 episodes of 'lab/dot' have no actions, and some"),
        ({"environment": "other"}, {}, "no episodes of 'lab/dot'; expected demonstrations"),
    ],
)
def test_what_does_not_fit_is_one_line_naming_what_was_found_and_expected(
    tmp_path, change, declared, said
):
    beside = [dot(0, 2)] if "steps" in said or "longer" in said else []
    store = write(tmp_path / "s", *beside, dot(1, **change), **declared)
    with pytest.raises(UserError, match=said) as error:
        check(_opened(store), [DOT], ALL)
    text = str(error.value)
    assert "\n" not in text and "'lab/dot'" in text and str(store) in text


def test_a_field_that_no_network_sees_may_be_missing(tmp_path):
    store = write(tmp_path / "s", dot(**{"images.front": None}))
    check(_opened(store), [DOT], {DOT.id: {"state", "instruction"}})


def test_networks_that_see_everything_need_every_field():
    assert context_of([DOT]).observed == {DOT.id: {"state", "images.front", "instruction"}}
    seen = {"specialist": {"observe": ["state"]}, "policy": {"observe": ["images.*"]}}
    context = context_of([DOT], settings=RunSettings.model_validate(seen))
    assert context.observed == {DOT.id: {"state", "images.front"}}


def test_actions_are_read_only_where_the_store_says_that_some_lie_outside(tmp_path, monkeypatch):
    inside, outside = (write(tmp_path / n, dot(action=(v, 1))) for n, v in (("a", 1.0), ("b", 2.0)))
    read, real = [], ChunkedArray.read_chunk
    monkeypatch.setattr(
        ChunkedArray, "read_chunk", lambda a, i: read.append(a.path.name) or real(a, i)
    )
    check(_opened(inside), [DOT], ALL)
    assert "success" in read and "action" not in read
    with pytest.raises(UserError, match="1 of 5 steps have actions outside the box"):
        check(_opened(outside), [DOT], ALL)
    assert "action" in read


def test_environments_of_several_stores_are_united(tmp_path):
    one = write(tmp_path / "one", dot(), dot(environment="b"))
    two = write(tmp_path / "two", dot(environment="c"), dot(3), control_hz=5.0)
    found = environments_of(_opened(one, two))
    assert [e.id for e in found] == ["lab/dot", "b", "c"]
    assert found[0] == DOT.interface and found[1].control_hz is None
    other = write(tmp_path / "other", dot(state=np.zeros((5, 3))))
    with pytest.raises(UserError, match=f"{other}: 'lab/dot' is not as in the stores before: 'sta"):
        environments_of(_opened(one, other))
    EpisodeStore.create(tmp_path / "empty", [DOT.interface]).close()
    with pytest.raises(UserError, match="no episodes; expected some"):
        environments_of(_opened(tmp_path / "empty"))


def foreign(path: Path, width=2) -> Path:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("data/state", shape=(9, width), dtype="float64")[:] = 1
    group.create_array("data/action", shape=(9, 1), dtype="float32")[:] = 3
    group.create_array("meta/episode_ends", shape=(2,), dtype="int64")[:] = [4, 9]
    return path


def test_a_foreign_store_is_an_environment_named_after_its_folder(tmp_path):
    (found,) = environments_of(_opened(foreign(tmp_path / "my_robot.zarr")))
    assert found == Interface("my_robot", {"state": Field.state(2)}, ActionSpec.unknown(1))
    spec = EnvSpec.recorded(found)
    collection.import_demos([spec], _opened(tmp_path / "my_robot.zarr"), tmp_path / "ours")
    ours = EpisodeStore.open(tmp_path / "ours")
    assert ours.interfaces() == {"my_robot": found} and len(ours) == 2 and ours.n_steps == 9


def test_a_foreign_store_without_actions_has_observations_alone(tmp_path):
    group = zarr.open_group(str(tmp_path / "seen.zarr"), mode="w", zarr_format=2)
    group.create_array("data/state", shape=(4, 2), dtype="float32")[:] = 1
    group.create_array("meta/episode_ends", shape=(1,), dtype="int64")[:] = 4
    (only,) = EpisodeStore.open(tmp_path / "seen.zarr").episodes()
    assert only.actions is None and len(only) == 4
    (found,) = environments_of(_opened(tmp_path / "seen.zarr"))
    with pytest.raises(UserError, match="the 1 episodes of 'seen' have no actions, and some"):
        check(_opened(tmp_path / "seen.zarr"), [EnvSpec.recorded(found)], {"seen": {"state"}})


def imported(tmp_path: Path, *paths: Path, **demos):
    given = RunSettings.model_validate(
        {"demos": {"path": list(map(str, paths)), "holdout": 0, **demos}}
    )
    context = context_of([DOT], settings=given)
    demonstrations.imported(context, tmp_path / "copy")
    return demonstrations.Demonstrations(context, tmp_path / "copy").steps()


def test_stores_are_copied_one_after_another_with_the_fields_of_the_environment(tmp_path, capsys):
    one = write(tmp_path / "one", dot(0), dot(1, environment="other"), dot(2))
    two = write(
        tmp_path / "two",
        *(dot(i, **{"images.side": np.zeros((5, 2, 2, 3), np.uint8)}) for i in (5, 6)),
    )
    steps = imported(tmp_path, one, two, episodes=None)
    assert steps.seed.tolist() == [0, 2, 5, 6] and "images.side" not in steps.observation
    assert EpisodeStore.open(tmp_path / "copy").interfaces() == {DOT.id: DOT.interface}
    assert "demonstrations of lab/dot: 4 of 4 episodes\n" in capsys.readouterr().out
    assert imported(tmp_path, one, two, episodes=3).seed.tolist() == [0, 2, 5]
    assert "demonstrations of lab/dot: 3 of 4 episodes\n" in capsys.readouterr().out


def test_a_copy_that_was_cut_short_goes_on_where_it_was(tmp_path):
    one, two = (write(tmp_path / str(k), *(dot(3 * k + i) for i in range(3))) for k in (0, 1))
    whole = tmp_path / "whole"
    collection.import_demos([DOT], _opened(one, two), whole)
    for count in (2, 4):
        facts = {"kind": "demonstrations"}
        facts |= {"imported": [EpisodeStore.open(p).digest() for p in (one, two)]}
        with collection.open_or_create(tmp_path / f"part{count}", [DOT], facts) as store:
            store.append([dot(i) for i in range(count)])
        collection.import_demos([DOT], _opened(one, two), tmp_path / f"part{count}")
        found = EpisodeStore.open(tmp_path / f"part{count}")
        assert found.digest() == EpisodeStore.open(whole).digest()


def test_nothing_is_copied_that_does_not_fit(tmp_path):
    with pytest.raises(UserError, match="outside the box"):
        imported(tmp_path, write(tmp_path / "s", dot(action=(7, 7))))
    assert not (tmp_path / "copy").exists()


def test_what_is_odd_in_given_numbers_is_said_before_anything_is_trained(
    tmp_path, capsys, monkeypatch
):
    rng = np.random.default_rng(0)

    def moving(seed: int) -> Episode:
        actions = rng.uniform((-1, 0), (1, 512), (20, 2))
        return replace(dot(seed, 20), actions=actions.astype(np.float32))

    episodes = [moving(i) for i in range(5)]
    imported(tmp_path / "clean", write(tmp_path / "clean" / "s", *episodes))
    assert "demonstrations: error" not in capsys.readouterr().err
    episodes[3].observations["state"][10, 1] = 1e6
    store = write(tmp_path / "odd" / "s", *episodes)
    imported(tmp_path / "odd", store)
    said = capsys.readouterr().err
    assert "demonstrations: error: outlier: lab/dot, episode 3, step 10: state[1]" in said
    assert f"`alltrades data check {store}`" in said
    monkeypatch.setattr(quality, "STEPS", 99)
    imported(tmp_path / "large", write(tmp_path / "large" / "s", *episodes))
    assert "100 steps are too many for a quick look" in capsys.readouterr().err


# ---- settings and commands -----------------------------------------------------------------------
def settings(*words: str, **arguments) -> DemoSettings:
    words = ("--environments", "[planar]", *words)
    given = argparse.Namespace(overrides=list(words), config=None, small=False, **arguments)
    return recipe_settings(given)[0].demos


def test_a_given_store_is_used_whole_unless_the_command_line_says_how_many():
    assert settings().episodes == 2  # that the quickstart records
    assert settings("--demos.path", "a").episodes is None
    assert settings("--demos.path", "a", "--demos.episodes", "7").episodes == 7
    assert settings(demos=["a"]).episodes is None
    assert settings("--demos.episodes=3", demos=["a"]).episodes == 3


def test_single_environments_may_have_other_numbers_of_demonstrations(tmp_path, capsys):
    few = "--demos.episodes_of.planar/push"
    assert settings("--demos.path", "a", few, "1").wanted("planar/push") == 1
    assert settings("--demos.path", "a", few, "1").wanted("planar/reach") is None
    words = ["collect", "--environments", "[planar/reach, planar/push]", "--demos.episodes", "3"]
    assert cli.main([*words, few, "1", "--out", str(tmp_path / "some.zarr")]) == 0
    made = EpisodeStore.open(tmp_path / "some.zarr").columns()["environment"].tolist()
    assert made == ["planar/reach"] * 3 + ["planar/push"]
    demos = DemoSettings(path="a", episodes=None, episodes_of={"planar/reach": 2})
    context = context_of(registry.resolve(["planar/*"]), settings=RunSettings(demos=demos))
    context = replace(context, specs=tuple(map(registry.get, ("planar/reach", "planar/push"))))
    used = demonstrations.Demonstrations(context, tmp_path / "some.zarr").steps()
    assert used.environment.tolist() == ["planar/reach"] * 2 + ["planar/push"]
    capsys.readouterr()
    for word, said in (("planar/pusch", "did you mean 'planar/push'?"), ("planar/push", "= 0; ex")):
        words = [*words[:5], f"--demos.episodes_of.{word}", "0" if "= 0" in said else "1"]
        assert cli.main([*words, "--out", str(tmp_path / "none.zarr")]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--demos.path", "a", "b"],
        ["--demos.path", "[a, b]"],
        ["--demos.path", "a", "--seed", "3", "--demos.path", "b"],
        ["--demos.path=a", "--demos.path=b"],
    ],
)
def test_several_stores_may_be_given_in_every_manner(words):
    assert settings(*words).stores == (Path("a"), Path("b"))
    assert settings("--demos.path", "a").stores == (Path("a"),)
    assert DemoSettings(path="a").stores == (Path("a"),)
    assert settings(demos=["a", "b"]).stores == (Path("a"), Path("b"))


@pytest.fixture(scope="module")
def reach(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reach") / "reach.zarr"
    collection.collect([registry.get("planar/reach")], 4, 0, path, context_of([]).settings.rollout)
    return path


@pytest.mark.parametrize("command", ["train", "weigh", "distill", "run"])
def test_every_command_checks_what_it_is_given(reach, tmp_path, capsys, command):
    store = EpisodeStore.open(reach)
    faster = [replace(e, actions=e.actions * 1000) for e in store.episodes()]  # type: ignore
    EpisodeStore.write(tmp_path / "bad.zarr", faster)
    words = {
        "train": ["labeled_only", "--demos", str(tmp_path / "bad.zarr")],
        "weigh": [str(reach), "--demos", str(tmp_path / "bad.zarr")],
        "distill": ["--teacher", f"a=b:{reach}", "--demos", str(tmp_path / "bad.zarr")],
        "run": ["--demos.path", str(tmp_path / "bad.zarr"), "--tracking.wandb", "disabled"],
    }[command]
    common = ["--small", "--environments", "[planar/reach]", "--out", str(tmp_path / "out")]
    assert cli.main([command, *words, *common]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert "bad.zarr: demonstrations of 'planar/reach': 1 of " in error[-1]
    assert "actions outside the box; worst is dimension" in error[-1]


def test_a_stage_uses_the_whole_store_and_says_so(reach, tmp_path, capsys):
    words = ["train", "labeled_only", "--small", "--environments", "[planar/reach]"]
    words += ["--labeled_only.steps", "2", "--demos", str(reach), str(reach)]
    assert cli.main([*words, "--out", str(tmp_path / "a")]) == 0
    assert "demonstrations of planar/reach: 8 of 8 episodes\n" in capsys.readouterr().out
    assert cli.main([*words, "--demos.episodes", "3", "--out", str(tmp_path / "b")]) == 0
    assert "demonstrations of planar/reach: 3 of 8 episodes\n" in capsys.readouterr().out
