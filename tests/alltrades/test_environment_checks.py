"""Runs and commands check environments before they trust them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.robots.load import load_robot
from alltrades.errors import UserError
from alltrades.pipeline import environment_checks
from alltrades.pipeline.context import opened
from alltrades.pipeline.environment_checks import checked
from alltrades.pipeline.rundir import RunDir
from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.run import RunSettings
from tests.envs import check_toys as toys


def settings_of(name: str, make: Any, **facts: Any) -> RunSettings:
    registry.register(name, make, replace=True, expert=toys.expert, max_steps=40, **facts)
    return RunSettings(environments=(name, "planar/reach"), rollout={"workers": 0})


def test_environments_of_a_run_are_tried_once(tmp_path, monkeypatch, capsys):
    settings, tried = settings_of("tried/left", toys.Left), []
    plain = environment_checks.tried
    monkeypatch.setattr(environment_checks, "tried", lambda *a: tried.append(1) or plain(*a))
    for _ in range(2):
        with RunDir(tmp_path / "run", 0) as rundir:
            with opened(settings, rundir.manifest) as context:
                again = checked(context, tmp_path / "run" / "environments.json")
        assert {s.id: s.rebuild for s in again.specs} == {"tried/left": True, "planar/reach": False}
        said = capsys.readouterr().err
        assert "environment 'tried/left': warning: its reset is incomplete" in said
        assert "it is built anew for every episode" in said
    assert len(tried) == 1


def test_a_run_is_refused_before_anything_is_recorded(tmp_path, capsys):
    settings = settings_of("tried/clock", toys.Clock)
    with RunDir(tmp_path / "run", 0) as rundir, opened(settings, rundir.manifest) as context:
        with pytest.raises(UserError, match="environment 'tried/clock': two new instances"):
            checked(context, tmp_path / "run" / "environments.json")
        assert not rundir.manifest.stages


def test_commands_that_step_check_environments_of_others(tmp_path, capsys):
    settings_of("tried/clock", toys.Clock)
    words = ["collect", "--environments", '["tried/clock"]', "--out", str(tmp_path / "s.zarr")]
    assert cli.main(words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "'tried/clock': two new instances with the same seed" in line
    assert not (tmp_path / "s.zarr").exists()


def test_an_environment_with_an_incomplete_reset_is_recorded_as_if_it_were_always_new(
    tmp_path, capsys
):
    settings_of("tried/left", toys.Left)
    stores = []
    for episodes in (1, 4):
        path = tmp_path / f"{episodes}.zarr"
        words = ["collect", "--environments", '["tried/left"]', "--demos.episodes", str(episodes)]
        assert cli.main([*words, "--out", str(path)]) == 0
        stores.append(EpisodeStore.open(path))
    seed = stores[0].episode(0).seed
    env = toys.Left()
    seen = [env.reset(seed=seed)[0]]
    for action in stores[0].episode(0).actions[:-1]:
        seen.append(env.step(action)[0])
    assert np.array_equal(np.array(seen), stores[1].episode(0).observations["state"])
    assert "it is built anew" in capsys.readouterr().err


def test_what_hangs_is_given_up_after_the_time_that_rollouts_have(tmp_path):
    rollout = {"workers": 0, "timeout": 0.5}
    settings = settings_of("tried/hangs", toys.Hangs).model_copy(
        update={"rollout": RolloutSettings.model_validate(rollout)}
    )
    account = tmp_path / "run" / "environments.json"
    with RunDir(tmp_path / "run", 0) as rundir, opened(settings, rundir.manifest) as context:
        checked(context, account)
    assert "it hangs: no answer within 0.5 seconds to step 0" in account.read_text()


def test_a_robot_that_is_an_environment_is_built_anew_where_that_is_declared():
    """It is not tried, for what is deployed on may move."""
    settings_of("tried/left", toys.Left, rebuild=True)
    robot, seen = load_robot("env:tried/left"), []
    for _ in range(2):
        robot.reset(3)
        for action in (0.5, -0.5, 0.5):
            robot.act(np.array([action], np.float32))
        seen.append(robot.observe().observation["state"])
    robot.close()
    np.testing.assert_array_equal(*seen)
