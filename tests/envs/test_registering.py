"""Environments registered in a few lines: the rest is read from their spaces."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs import register, registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.rollouts.hosts import Chunk, LaneHost, Start
from alltrades.envs.rollouts.rollout import Job, results, rollout
from alltrades.errors import UserError
from tests.envs import scenes
from tests.envs.rollout_toys import NoisyController
from tests.envs.test_rollout_workers import assert_same

REGISTRATION = """
from alltrades.envs import register
from tests.envs.scenes import Homing, Scene

register("mine/scene", Scene, expert=Homing(), max_steps=30)
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of the test's own."""
    monkeypatch.setattr(registry, "_REGISTRY", registry._Registry())


def test_cameras_of_different_sizes_a_state_and_an_instruction_take_twelve_lines_at_most() -> None:
    assert len(REGISTRATION.strip().splitlines()) <= 12
    exec(REGISTRATION, {})
    spec = registry.get("mine/scene")
    assert spec.observation == {
        "depth": Field.depth(6, 5),
        "images.front": Field.image(12, 16),
        "images.wrist": Field.image(8, 8, 1),
        "instruction": Field.text(),
        "state": Field.state(4, "float64", low=(-9.0,) * 4, high=(9.0,) * 4),
    }
    assert (spec.action, spec.max_steps, spec.control_hz) == (ActionSpec([-1] * 2, [1] * 2), 30, 25)
    assert spec.stop_at_success and registry.get("mine/scene") is spec


@pytest.mark.parametrize("policy", ["p", "expert"])
def test_episodes_of_all_kinds_of_fields_are_bit_equal_for_any_number_of_workers(
    policy: str,
) -> None:
    exec(REGISTRATION, {})
    specs = {"mine/scene": registry.get("mine/scene")}
    jobs = [Job("mine/scene", seed, policy) for seed in range(6)]

    def run(workers: int) -> list[Any]:
        controllers = {"p": NoisyController(lanes=3)} if policy == "p" else {}
        return list(rollout(jobs, specs, controllers, workers=workers, lanes=3))

    episodes = run(0)
    assert_same(episodes, run(2))
    for episode in episodes:
        shapes = {n: v.shape for n, v in episode.observations.items() if not isinstance(v, str)}
        steps = len(episode)
        assert shapes == {
            "depth": (steps, 6, 5, 1),
            "images.front": (steps, 12, 16, 3),
            "images.wrist": (steps, 8, 8, 1),
            "state": (steps, 4),
        }
        x = episode.observations["state"][:, 0]  # each frame is of its own step
        pixels = (50 * np.abs(x)).astype(int) % 256
        assert (np.abs(episode.observations["images.front"][:, 0, 0, 0] - pixels) <= 1).all()
        assert episode.observations["instruction"] == scenes.INSTRUCTIONS[episode.seed % 3]


def test_controllers_get_frames_of_every_field_and_the_text() -> None:
    exec(REGISTRATION, {})
    controller = NoisyController(lanes=1, n_action_steps=3)
    specs = {"mine/scene": registry.get("mine/scene")}
    list(rollout([Job("mine/scene", 1, "p")], specs, {"p": controller}, lanes=1))
    first, second = (frames[0] for frames in controller.frames[:2])
    assert first["images.front"].shape == (1, 12, 16, 3) and first["state"].shape == (1, 4)
    assert second["images.front"].shape == (3, 12, 16, 3) and second["depth"].dtype == np.uint16
    assert first["instruction"] == second["instruction"] == scenes.INSTRUCTIONS[1]


def test_a_text_that_changes_within_an_episode_ends_the_run_in_one_line() -> None:
    register("mine/undecided", scenes.Undecided, max_steps=9)
    adapter = EnvAdapter(registry.get("mine/undecided"))
    adapter.reset(0)
    adapter.step(np.zeros(2))
    expected = (
        r"'mine/undecided', episode with seed 0, step 1: text 'instruction' changed from "
        r"'öffne die Schublade' to 'come back'; expected one string per episode"
    )
    with pytest.raises(UserError, match=expected):
        adapter.step(np.zeros(2))


def test_integers_are_a_state_and_actions_are_rounded_where_bounds_are_given() -> None:
    register("mine/grid", scenes.Grid, action=ActionSpec([0], [2]), max_steps=20)
    spec = registry.get("mine/grid")
    assert list(spec.observation.values()) == [
        Field.state(2, low=(0.0,) * 2, high=(2.0,) * 2),
        Field.state(1, low=(1.0,), high=(9.0,)),
    ]
    adapter = EnvAdapter(spec)
    assert adapter.reset(0)["cell"].tolist() == [1.0]
    cells = [adapter.step(np.array([a])).observation["cell"][0] for a in (1.4, 0.6, 7.0, 0.2)]
    assert cells == [2, 3, 2, 2]
    assert adapter.action.tolist() == [0.0]  # recorded as executed
    assert adapter.step(np.array([1.0])).observation["at"].tolist() == [0.0, 2.0]


def built_elsewhere() -> Any:
    raise RuntimeError("no license")


def test_registering_and_listing_build_and_import_nothing() -> None:
    register("mine/costly", built_elsewhere, max_steps=5)
    register("mine/lost", "a_module_that_is_missing:Env", max_steps=5)
    assert {"mine/costly", "mine/lost"} <= set(registry.list_environments())
    with pytest.raises(UserError, match="'mine/costly' cannot be built: RuntimeError: no license"):
        registry.get("mine/costly")
    with pytest.raises(UserError, match="'mine/lost' cannot be built: .*a_module_that_is_missing"):
        registry.get("mine/lost")


def test_what_is_given_stands_in_place_of_what_is_derived() -> None:
    named = Field.state(4, names=("x", "y", "gx", "gy"), units=("m",) * 4)
    register(
        "mine/scene",
        "tests.envs.scenes:Scene",
        observation={"state": named},
        action=ActionSpec([-0.5] * 2, [0.5] * 2, stop=[0, 0]),
        max_steps=7,
        control_hz=4.0,
        evaluation_seed=int,
        stop_at_success=False,
        version=3,
    )
    spec = registry.get("mine/scene")
    assert spec.observation["state"].units == ("m",) * 4
    assert spec.observation["images.front"] == Field.image(12, 16)
    assert (spec.max_steps, spec.control_hz, spec.version) == (7, 4.0, 3)
    assert spec.action.stop == (0.0, 0.0) and not spec.stop_at_success
    assert spec.evaluation_seed is int and registry.expert("mine/scene") is None
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_an_id_of_gymnasium_can_be_registered_with_bounds_of_its_own() -> None:
    register("mine/cart", "gym:CartPole-v1", action=ActionSpec([0], [1]))
    spec = registry.get("mine/cart")
    assert (spec.max_steps, spec.control_hz, spec.action.high) == (500, 50.0, (1.0,))
    register("mine/wrapped", partial(gymnasium.make, "Pendulum-v1"))
    assert registry.get("mine/wrapped").max_steps == 200  # its own time limit
    adapter = EnvAdapter(spec)
    adapter.reset(3)
    assert adapter.step(np.array([0.7])).reward == 1.0


class NoEnvironment:
    """What somebody registers by mistake."""


@pytest.mark.parametrize(
    "make, facts, message",
    [
        (scenes.Scene, {}, "'mine/x': no max_steps; expected a time limit"),
        (scenes.Grid, {"max_steps": 5}, r"'mine/x' has integer actions \(Discrete\(3\)\)"),
        (NoEnvironment, {"max_steps": 5}, "a NoEnvironment without observation_space; expected a"),
        (scenes.Scene, {"max_steps": 0}, "'mine/x': max_steps must be positive, got 0"),
        (scenes.Scene, {"max_steps": 5, "control_hz": -1.0}, "'mine/x': control_hz -1.0"),
        (
            scenes.Scene,
            {"max_steps": 5, "observation": {"images/fornt": Field.image(12, 16)}},
            "'images.fornt' is given.*did you mean 'images.front'",
        ),
    ],
)
def test_mistakes_are_explained_when_the_environment_is_first_used(
    make: Any, facts: dict[str, Any], message: str
) -> None:
    register("mine/x", make, **facts)
    with pytest.raises(UserError, match=message):
        registry.get("mine/x")


@pytest.mark.parametrize(
    "make, facts, message",
    [
        (scenes.Scene, {"max_step": 5}, "was given max_step, did you mean 'max_steps'"),
        (None, {"max_steps": 5}, "was given None to build it with; expected a class or function"),
        ("Scene", {"max_steps": 5}, "was given 'Scene' to build it with"),
        (scenes.Scene(), {}, "was given <.*Scene.*> to build it with"),
    ],
)
def test_mistakes_of_the_call_are_explained_at_once(
    make: Any, facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        register("mine/x", make, **facts)


def test_what_no_process_can_import_is_one_line_for_workers() -> None:
    register("mine/here", lambda: scenes.Scene(), max_steps=5)
    spec = registry.get("mine/here")
    with pytest.raises(UserError, match="'mine/here' cannot be sent to a worker process"):
        list(
            rollout(
                [Job(spec.id, 0, "p")],
                {spec.id: spec},
                {"p": NoisyController(1)},
                workers=1,
                lanes=1,
            )
        )


def test_seeds_of_an_evaluation_may_be_a_function_that_no_process_can_import() -> None:
    register("mine/scene", scenes.Scene, max_steps=3, evaluation_seed=lambda i: i)
    specs = {"mine/scene": registry.get("mine/scene")}
    jobs = [Job("mine/scene", 0, "p")]
    (episode,) = rollout(jobs, specs, {"p": NoisyController(1)}, workers=1, lanes=1)
    assert len(episode) == 3


PACKAGE = """
import gymnasium
from tests.envs.scenes import Scene
gymnasium.register("third/Scene-v0", "third_party_scenes:Scene", max_episode_steps=12)
"""
SCRIPT = """
from alltrades.envs import registry
from alltrades.envs.rollouts.hosts import Chunk, LaneHost, Start
from alltrades.envs.rollouts.rollout import Job, results, rollout
from tests.envs.rollout_toys import NoisyController

if __name__ == "__main__":
    name = "gym:third_party_scenes:third/Scene-v0"
    specs = {name: registry.get(name)}
    for workers in (0, 2):
        jobs = [Job(name, seed, "p") for seed in range(4)]
        done = list(rollout(jobs, specs, {"p": NoisyController(2)}, workers=workers, lanes=2))
        print([(len(e), e.return_, sorted(e.observations)) for e in done])
    print(registry.expert(name))
"""


def test_a_package_on_the_path_alone_works_in_worker_processes(tmp_path: Path) -> None:
    (tmp_path / "third_party_scenes.py").write_text(PACKAGE)
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    alone, workers, expert = done.stdout.splitlines()
    assert alone == workers and "images.wrist" in alone and expert == "None"


class Seeing(NoisyController):
    """Sees two fields, and two frames."""

    def needs(self, environment: str) -> tuple[tuple[str, ...], int]:
        return ("state", "instruction"), 2


@pytest.mark.parametrize("workers", [0, 2])
def test_controllers_get_what_they_need_alone_and_episodes_are_whole(workers: int) -> None:
    exec(REGISTRATION, {})
    controller, specs = Seeing(lanes=2), {"mine/scene": registry.get("mine/scene")}
    jobs = [Job("mine/scene", seed, "p") for seed in range(3)]
    episodes = list(rollout(jobs, specs, {"p": controller}, workers=workers, lanes=2))
    given = [frames for call in controller.frames for frames in call.values()]
    assert all(frames.keys() == {"state", "instruction"} for frames in given)
    assert {len(frames["state"]) for frames in given} == {1, 2}  # of chunks of 3 actions
    assert_same(episodes, list(rollout(jobs, specs, {"p": NoisyController(2)}, lanes=2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_results_are_those_of_the_recorded_episodes(workers: int) -> None:
    exec(REGISTRATION, {})
    specs = {"mine/scene": registry.get("mine/scene")}
    jobs = [Job("mine/scene", seed, policy) for seed in range(4) for policy in ("p", "expert")]
    whole = list(rollout(jobs, specs, {"p": NoisyController(3)}, lanes=3))
    found = list(results(jobs, specs, {"p": NoisyController(3)}, workers=workers, lanes=3))
    for episode, result in zip(whole, found, strict=True):
        assert (episode.environment, episode.seed) == (result.environment, result.seed)
        assert (episode.first_success, episode.return_) == (result.first_success, result.return_)
        np.testing.assert_array_equal(episode.rewards, result.rewards)


def test_a_host_keeps_no_observations_of_an_episode_that_is_not_recorded() -> None:
    exec(REGISTRATION, {})
    host = LaneHost({"mine/scene": registry.get("mine/scene")}, {})
    start = Start(0, "mine/scene", 0, "p", expert=False, recorded=False)
    host.run([start])
    for _ in range(4):
        ((_, frames),) = host.run([Chunk(0, np.zeros((3, 2), np.float32))])
        assert len(frames["images.front"]) == 3
        assert len(host._lanes[0].observations) == 3
    host.close()
