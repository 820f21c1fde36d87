"""Cameras on the command line; pictures are the environment's own, so that no GL is needed."""

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest

from alltrades import cli
from alltrades.commands.command import _seen_by, recipe_settings
from alltrades.data.fields import Field
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rendering import Rendering
from alltrades.envs.robots.load import load_robot
from alltrades.pipeline.demonstrations import imported
from alltrades.pipeline.resolution import resolve
from alltrades.pipeline.rundir import RunDir
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.settings import PolicySettings
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from tests.alltrades.contexts import context_of
from tests.envs.drawn import BLIND, CAMERA, PARTS, still

QUICK = ["--rollout.workers", "0", "--rollout.timeout", "0"]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The environment that draws itself, trusted as those of the package are."""
    registry.register(replace(BLIND, cameras=CAMERA, parts=PARTS), still, replace=True)
    monkeypatch.setattr(registry, "is_built_in", lambda name: True)
    yield
    del registry._REGISTRY.specs[BLIND.id]


def collect(path, *more):
    words = ["--environments", BLIND.id, "--demos.episodes", "2", "--keep", "all", *more]
    assert cli.main(["collect", *words, *QUICK, "--out", str(path)]) == 0


def test_a_store_is_rendered_as_it_would_have_been_recorded(tmp_path, capsys):
    asked = ["--rendering.cameras", "images.top", "--rendering.size", "4"]
    asked += ["--rendering.proprioception"]
    collect(tmp_path / "live.zarr", *asked)
    collect(tmp_path / "states.zarr")
    words = ["render", str(tmp_path / "states.zarr"), "--out", str(tmp_path / "seen.zarr")]
    assert cli.main([*words, *asked, *QUICK]) == 0
    assert "2 episodes, 20 steps" in capsys.readouterr().out
    live, seen = (EpisodeStore.open(tmp_path / f"{n}.zarr") for n in ("live", "seen"))
    assert seen.interfaces()[BLIND.id].observation == live.interfaces()[BLIND.id].observation
    for a, b in zip(live.episodes(), seen.episodes()):
        assert a.seed == b.seed and np.array_equal(a.actions, b.actions)
        for name in ("state", "proprioception", "images.top"):
            assert np.array_equal(a.observations[name], b.observations[name])
    assert cli.main([*words, *QUICK]) == 2
    assert "nothing is drawn of 'toy/drawn'; expected cameras that it has (images.top)" in (
        capsys.readouterr().err
    )
    assert cli.main(["render", words[1], "--out", words[1], *asked]) == 2


def test_an_observe_that_names_a_camera_asks_for_it(tmp_path):
    """In a recipe: nothing else has to be set."""
    collect(tmp_path / "seen.zarr", "--policy.observe", '["images.top", "proprioception"]')
    fields = EpisodeStore.open(tmp_path / "seen.zarr").interfaces()[BLIND.id].observation
    assert list(fields) == ["state", "proprioception", "images.top"]


def test_given_demonstrations_without_pictures_are_drawn(tmp_path):
    """Where a network of a run sees them; others are copied as they are."""
    collect(tmp_path / "states.zarr")
    told = {"path": str(tmp_path / "states.zarr"), "holdout": 0, "episodes": None}
    asked = {"demos": told, "policy": {"observe": ["images.top"]}, "rendering": {"size": 4}}
    asked |= {"environments": [BLIND.id], "specialist": {"observe": ["state"]}}
    settings = RunSettings.model_validate({**asked, "rollout": {"workers": 0, "timeout": 0}})
    specs, _ = resolve(settings)
    with RunDir(tmp_path / "run") as rundir:
        context = context_of(specs, manifest=rundir.manifest, settings=settings)
        imported(context, tmp_path / "run" / "demos.zarr")
    drawn = EpisodeStore.open(tmp_path / "run" / "demos.zarr")
    for episode in drawn.episodes():
        assert episode.observations["images.top"].shape == (10, 4, 4, 3)
        assert episode.observations["images.top"][:, 1, 1, 0].tolist() == list(range(10))
    assert drawn.interfaces()[BLIND.id].observation == specs[0].observation


def test_a_stage_that_is_given_states_alone_says_how_to_draw_them(tmp_path, capsys):
    collect(tmp_path / "states.zarr")
    words = ["train", "labeled_only", "--demos", str(tmp_path / "states.zarr"), "--small", *QUICK]
    see = ["--policy.observe", '["images.top"]', "--out", str(tmp_path / "policy")]
    assert cli.main([*words, *see]) == 2
    assert "draw it: alltrades render STORE --out SEEN --policy.observe" in capsys.readouterr().err


def test_pictures_of_declared_cameras_are_as_registered(tmp_path, capsys):
    collect(tmp_path / "seen.zarr", "--rendering.cameras", "images.top", "--rendering.size", "4")
    cli.main(["data", "check", str(tmp_path / "seen.zarr")])
    assert "as it is registered" not in capsys.readouterr().out


def test_a_camera_that_no_environment_has_ends_a_command(capsys):
    words = ["collect", "--environments", BLIND.id, "--rendering.cameras", "images.tip"]
    assert cli.main([*words, "--out", "nowhere.zarr"]) == 2
    assert "no environment has such a camera" in capsys.readouterr().err


def test_the_bench_says_how_fast_pictures_are_drawn(capsys):
    assert cli.main(["bench", "render", "--names", BLIND.id, "--seconds", "0.01"]) == 0
    assert "toy/drawn: images.top, 8 x 8, its own, plain: " in capsys.readouterr().out


def test_an_artifact_is_shown_what_it_sees():
    """Its cameras, in the sizes of its training."""
    fields = {"state": Field.state(3), "images.top": Field.image(32, 48)}
    facts = replace(BLIND, observation=fields).interface.to_json()
    words = _seen_by([facts], set())
    settings, _ = load_settings(RunSettings, overrides=words)
    assert settings.policy.observe == ("state", "images.top") and settings.rendering.size == (
        32,
        48,
    )
    assert _seen_by([facts], {"--policy.observe"}) == []
    told = {"state": Field.state(3), "instruction": Field.text()}
    facts = replace(BLIND, observation=told).interface.to_json()
    assert _seen_by([facts], set()) == ["--policy.observe", '["state", "instruction"]']
    assert _seen_by([BLIND.interface.to_json()], set()) == []


def test_pictures_that_an_environment_returns_do_not_say_how_large_others_are_drawn():
    own = replace(BLIND, id="toy/own", observation={"images.wrist": Field.image(20, 28)})
    registry.register(replace(own, cameras={}, parts={}), still, replace=True)
    seen = {"images.top": Field.image(32, 48), "state": Field.state(3)}
    facts = [own.interface.to_json(), replace(BLIND, observation=seen).interface.to_json()]
    words = _seen_by(facts, set())
    assert words[words.index("--rendering.size") + 1] == "[32, 48]"
    assert "--rendering.depth" not in words
    several = [replace(BLIND, observation={"state": Field.state(3)}).interface.to_json(), *facts]
    assert "[32, 48]" in _seen_by(several[::-1], set())
    del registry._REGISTRY.specs["toy/own"]


@pytest.mark.parametrize(
    "asked", [[], ["--environments", "planar/reach"], ["--environments=planar"]]
)
def test_environments_show_what_a_policy_sees_where_they_are_named_too(tmp_path, asked):
    plain = registry.get("planar/reach")
    fields = dict(plain.observation) | {
        "instruction": Field.text(),
        "images.top": Field.image(32, 32),
    }
    told = replace(plain.interface, observation=fields)
    policy = build_policy(PolicySettings(width=16, depth=1), [told], Normalizer(Layout([told])), 0)
    policy.normalizer.fitted.fill_(1.0)
    policy.save(tmp_path)
    args = Namespace(policy=str(tmp_path), config=None, small=False, overrides=asked)
    settings, _ = recipe_settings(args)
    assert settings.policy.observe == tuple(fields) and settings.rendering.size == (32, 32)
    args.overrides = ["--environments", "planar/push"]  # of which the policy knows nothing
    assert recipe_settings(args)[0].policy.observe is None


def test_an_environment_as_a_robot_has_the_cameras_of_its_policy():
    fields = {"proprioception": Field.state(2), "images.top": Field.image(16, 16)}
    robot = load_robot(f"env:{BLIND.id}", [replace(BLIND, observation=fields).interface])
    assert robot.interface.observation["images.top"] == Field.image(16, 16)
    robot.reset(3)
    seen = robot.observe().observation
    assert seen["images.top"].shape == (16, 16, 3) and seen["proprioception"].shape == (2,)
    robot.close()


def test_stages_depend_on_how_pictures_are_drawn():
    one, two = Rendering(style="plain").described(), Rendering(style="simulator").described()
    assert one != two and Rendering(backend="egl").described() == one
