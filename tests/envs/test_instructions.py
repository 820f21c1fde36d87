"""Environments that are told what to do: sentences, starts, and the scene of three marks."""

from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.instructions import Goal, Instructions, phrased, with_instructions
from alltrades.envs.planar.marks import NAMES
from alltrades.envs.planar.sentences import COLOURS, MARKS
from alltrades.envs.rendering import with_cameras
from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.envs.rollouts.seeding import episode_seed, evaluation_seeds
from alltrades.envs.suites.metaworld import MT10
from alltrades.envs.suites.metaworld_sentences import SENTENCES
from alltrades.errors import UserError

SCENE = registry.get("planar/marks")
REACH = registry.get("planar/reach")


def episode(spec, seed, goal=None):
    """Success of the expert's episode, or of driving to mark `goal` of the state."""
    adapter, expert = EnvAdapter(spec), registry.expert("planar/marks")
    observation = adapter.reset(seed)
    while True:
        if goal is None:
            action = expert(adapter.expert_observation)
        else:
            place = observation["state"][list(MARKS.goals[goal].target)]
            action = expert(np.concatenate([observation["state"], place]))
        result = adapter.step(action)
        if result.done:
            return result.success
        observation = result.observation


def colour(sentence):
    (named,) = [i for i, c in enumerate(COLOURS) if c in sentence.split()]
    return named


def test_three_seeds_in_a_row_are_one_scene_under_every_instruction():
    adapter = EnvAdapter(SCENE)
    scenes = [[adapter.reset(3 * k + i) for i in range(3)] for k in range(20)]
    for scene in scenes:
        assert len({o["state"].tobytes() for o in scene}) == 1
        assert [colour(o["instruction"]) for o in scene] == [0, 1, 2]
    assert len({scene[0]["state"].tobytes() for scene in scenes}) == 20


def test_reaching_the_named_mark_succeeds_and_reaching_another_does_not():
    for seed in range(30):
        assert episode(SCENE, seed)
        assert episode(SCENE, seed, MARKS.goal(seed))
        assert not episode(SCENE, seed, (MARKS.goal(seed) + 1) % 3)


def test_targets_are_the_columns_that_say_where_a_mark_is():
    for name, goal in zip(COLOURS, MARKS.goals):
        assert [NAMES[c] for c in goal.target] == [f"{name}_x", f"{name}_y"]


@pytest.mark.parametrize("purpose", ["demos", "rollout", "evaluation", "round"])
def test_episodes_come_in_blocks_of_one_scene(purpose):
    seeds = [episode_seed(7, purpose, SCENE.id, i, SCENE.block) for i in range(12)]
    assert [s % 3 for s in seeds] == [0, 1, 2] * 4
    assert len({s // 3 for s in seeds}) == 4 and max(seeds) < 2**63
    assert SCENE.block == 3 and REACH.block == 1


def test_seeds_of_environments_without_goals_stay_as_they_were():
    assert episode_seed(0, "demos", "planar/reach", 3) == 2526258398815275124
    assert evaluation_seeds(SCENE, 0, 7) == evaluation_seeds(SCENE, 0, 9)[:7]


def test_held_out_sentences_name_the_same_goal_in_other_words_and_wrong_ones_another_goal():
    held_out, wrong = phrased(SCENE, "held_out"), phrased(SCENE, "wrong")
    known = {s for goal in MARKS.goals for s in goal.training}
    others = set()
    for seed in range(60):
        told = [
            EnvAdapter(spec).spec.instructions.sentence(seed, spec.told)
            for spec in (SCENE, held_out, wrong)
        ]
        assert told[0] in known and told[1] not in known and told[2] in known
        assert colour(told[0]) == colour(told[1]) == seed % 3 != colour(told[2])
        others.add((seed % 3, colour(told[2])))
    assert len(others) == 6
    assert EnvAdapter(held_out).reset(5)["instruction"] == MARKS.sentence(5, "held_out")
    assert held_out.interface.digest() == SCENE.interface.digest()


def test_what_is_told_stays_through_the_episode_and_beside_made_fields():
    spec = with_cameras(SCENE, RenderingSettings(proprioception=True))
    adapter = EnvAdapter(spec)
    first = adapter.reset(4)
    later = adapter.step(np.ones(2)).observation
    assert set(first) == {
        "state",
        "proprioception",
        "instruction",
    }
    assert first["instruction"] == later["instruction"] == MARKS.sentence(4, "training")


def test_sentences_are_declared_and_made_where_they_are_asked_for():
    assert "instruction" not in REACH.observation
    assert with_instructions([REACH]) == [REACH] == with_instructions([REACH], observe=["*"])
    for made in (
        with_instructions([REACH], True),
        with_instructions([REACH], observe=["instruction"]),
    ):
        (spec,) = made
        assert spec.observation["instruction"] == Field.text() and spec.block == 1
        assert EnvAdapter(spec).reset(3)["instruction"] in REACH.instructions.goals[0].training
        assert np.array_equal(
            EnvAdapter(spec).reset(3)["state"], EnvAdapter(REACH).reset(3)["state"]
        )
    mirrored = registry.get("planar/reach-mirror")
    assert mirrored.instructions != REACH.instructions
    with pytest.raises(UserError, match="no environment has sentences that name its goals"):
        with_instructions([replace(REACH, instructions=None)], True)
    (told,) = with_instructions([REACH], True)
    with pytest.raises(UserError, match="has one goal, of which every sentence is right"):
        phrased(told, "wrong")


class Lamps(gymnasium.Env):
    """The seed says which of two lamps counts; nothing that is returned does."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"success": False}


def test_an_environment_of_your_own_with_several_goals_is_always_told_which():
    goals = Goal(("left",), ("the left one",)), Goal(("right",), ("the right one",))
    register = partial(registry.register, "mine/lamps", Lamps, max_steps=5, replace=True)
    register(instructions=Instructions(goals))
    spec = registry.get("mine/lamps")
    assert with_instructions([spec]) == [spec] and spec.block == 2
    assert [EnvAdapter(spec).reset(s)["instruction"] for s in range(3)] == ["left", "right", "left"]
    assert EnvAdapter(phrased(spec, "held_out")).reset(1)["instruction"] == "the right one"
    (plain,) = [replace(spec, told=None, observation={"state": spec.observation["state"]})]
    registry.register(plain, replace=True)  # a whole specification
    assert registry.get("mine/lamps").told == "training" and registry.get("mine/lamps").block == 2
    register(instructions=Instructions(goals[:1]))
    assert "instruction" not in registry.get("mine/lamps").observation


def test_every_task_of_mt10_has_sentences_of_its_own():
    assert sorted(SENTENCES) == sorted(MT10)
    said = [s for i in SENTENCES.values() for g in i.goals for s in (*g.training, *g.held_out)]
    assert len(said) == len(set(said)) == 50


def test_sentences_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="expected one or more of both"):
        Goal(("go",), ())
    with pytest.raises(ValueError, match="stands there twice"):
        Goal(("go",), ("go",))
    with pytest.raises(ValueError, match="names two goals"):
        Instructions((Goal(("go",), ("run",)), Goal(("run",), ("walk",))))
    with pytest.raises(ValueError, match="target is column 16 of 'state'"):
        replace(REACH, instructions=Instructions((Goal(("a",), ("b",), (16,)),)))
    with pytest.raises(ValueError, match="it is to be told its instruction"):
        replace(REACH, told="training")


@pytest.mark.slow
def test_the_camera_sees_every_mark():
    spec = with_cameras(SCENE, RenderingSettings(cameras=("images.top",)))
    picture = EnvAdapter(spec).reset(0)["images.top"].astype(int)
    red, green, blue = np.moveaxis(picture, -1, 0)
    assert ((red > 2 * green) & (red > 2 * blue)).any()
    assert ((green > 2 * red) & (green > 2 * blue)).any()
    assert ((red > 3 * blue) & (green > 3 * blue)).any()
