"""Environments are checked before they are trusted: each mistake is found, and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.checking import apart
from alltrades.envs.checking import examine as module
from alltrades.envs.checking.apart import examine_apart
from alltrades.envs.checking.examine import LONG, SHORT, examine
from alltrades.envs.checking.findings import Findings
from alltrades.envs.spaces import bounds
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from tests.envs import check_toys as toys

PLAN = replace(LONG, starts=3, steps=20, episodes=4)


def spec_of(make: Any, **facts: Any) -> EnvSpec:
    env_id = f"toy/{getattr(make, '__name__', 'env')}"
    action = ActionSpec([-1], [1])
    field = Field.state(2, low=(-3, -3), high=(3, 3))
    return EnvSpec(env_id, make, {"state": field}, action, 40, **facts)


def found(make: Any, expert: Any = None, plan: Any = PLAN, **facts: Any) -> Findings:
    return examine(spec_of(make, **facts), expert, plan)


def test_an_environment_without_mistakes_is_ok_and_its_expert_is_measured():
    findings = found(toys.Slide, toys.expert)
    assert findings.ok and not findings.of("warning") and not findings.rebuild
    assert "its expert succeeds in 4 of 4 episodes" in findings.of("note")


@pytest.mark.parametrize("make", [toys.Clock, toys.Entropy, toys.Shared])
def test_episodes_that_their_seed_does_not_decide_are_an_error(make: Any):
    (error,) = found(make).of("error")
    assert error.startswith("two new instances with the same seed")
    assert "differ: 'state' is" in error and "reproducible=False" in error
    findings = found(make, reproducible=False)
    assert findings.ok and "registered as reproducible=False" in findings.of("warning")[0]


def test_an_incomplete_reset_is_found_and_the_environment_built_anew():
    findings = found(toys.Left)
    assert findings.ok and findings.rebuild
    (warning,) = findings.of("warning")
    assert warning.startswith("its reset is incomplete: after other episodes in the same instance")
    assert "in step 1" in warning and "it is built anew for every episode" in warning
    assert not found(toys.Left, rebuild=True).of("warning")


@pytest.mark.parametrize(
    "make, level, message",
    [
        (toys.Four, "error", "step 0: step returned a tuple of 4 (as the old Gym did); expected"),
        (toys.Raises, "error", "OSError: no license (envs/check_toys.py:"),
        (toys.Wide, "error", "its action space has 2 numbers and its registration 1"),
        (toys.Solved, "warning", "3 of 3 starts are solved after one step of random actions"),
        (toys.Fast, "warning", "its metadata say 50 Hz (render_fps) and its registration 10 Hz"),
        (toys.Old, "note", "it refuses seeds beyond 32 bits; it gets 31 bits of them"),
        (toys.Constant, "note", "3 different seeds give the same first observation"),
    ],
)
def test_a_mistake_is_found_and_named(make: Any, level: Any, message: str):
    assert any(message in what for what in found(make).of(level))


def test_large_numbers_that_float32_does_not_hold_are_named():
    spec = replace(spec_of(toys.Far), observation={"state": Field.state(2)})
    (warning,) = examine(spec, None, PLAN).of("warning")
    assert "'state' at entry 0 is 499999" in warning and "float32 is off by up to 0.2" in warning
    assert "subtract a constant" in warning
    spec = replace(spec_of(toys.Telling), observation={"state": Field.state(2)})
    assert not examine(spec, None, PLAN).of("warning")


def test_an_observation_beyond_its_declared_bounds_is_found():
    spec = replace(spec_of(toys.Slide), observation={"state": Field.state(2, high=(-1.0, 9.0))})
    (warning,) = examine(spec, None, PLAN).of("warning")
    assert "observation 'state' is" in warning and "above its bound -1, in step 0" in warning


@pytest.mark.parametrize(
    "expert, level, message",
    [
        (toys.two, "error", "it was given an action of shape (2,); expected (1,)"),
        (toys.confused, "error", "its expert raised KeyError: 'gripper' (envs/check_toys.py:"),
        (toys.lazy, "warning", "its expert succeeds in 0 of 4 episodes"),
        (toys.greedy, "note", "actions of its expert are not in the box; they are clipped"),
    ],
)
def test_an_experts_mistakes_are_found(expert: Any, level: Any, message: str):
    assert any(message in what for what in found(toys.Slide, expert).of(level))


def test_a_failed_episode_is_counted_in_a_run_and_no_error_of_its_check():
    findings = found(toys.Raises, plan=SHORT)
    assert findings.ok and "OSError: no license" in str(findings.of("note"))
    with pytest.raises(UserError, match="'toy/Four': episode with seed .*a tuple of 4"):
        found(toys.Four, plan=SHORT).require()


def test_an_environment_that_hangs_or_dies_is_named_and_the_others_are_checked():
    specs = [spec_of(make) for make in (toys.Hangs, toys.Slide, toys.Dies, toys.Left)]
    hangs, slide, dies, left = examine_apart(specs, {}, PLAN, timeout=2.0)
    assert "it hangs: no answer within 2 seconds to step 0 of the episode with" in str(hangs)
    assert slide.ok and slide.environment == "toy/Slide" and left.rebuild
    assert "its process died with exit code 7 in step 0 of the episode with seed" in str(dies)


def test_what_cannot_be_sent_to_a_process_is_checked_in_this_one():
    class Local(toys.Slide):
        """Known in this function alone."""

    findings = list(examine_apart([spec_of(Local), spec_of(toys.Slide)], {}, SHORT))
    assert [f.environment for f in findings] == ["toy/Local", "toy/Slide"]
    assert all(f.ok for f in findings)


@pytest.mark.parametrize("low, high", [(1.0, -1.0), (np.nan, 1.0), (-1.0, np.nan)])
def test_bounds_out_of_order_and_of_no_numbers_are_refused(low: float, high: float):
    space = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
    space.low[1], space.high[1] = low, high
    with pytest.raises(ValueError, match="at entry 1; expected low <= high"):
        bounds(space)

    class Wrong(toys.Slide):
        action_space = space

    registry.register("toy/wrong", Wrong, replace=True, max_steps=9)
    with pytest.raises(UserError, match="environment 'toy/wrong': .*expected low <= high"):
        registry.get("toy/wrong")


def test_built_in_environments_are_known_as_such_until_they_are_replaced():
    assert registry.is_built_in("planar/reach") and not registry.is_built_in("gym:Pendulum-v1")
    registry.register("toy/slide", toys.Slide, max_steps=40)
    assert not registry.is_built_in("toy/slide")


@pytest.mark.parametrize("env_id", ["planar/reach", "planar/push", "planar/drawer"])
def test_planar_environments_pass_the_check_before_a_run(env_id: str):
    findings = examine(registry.get(env_id), None, SHORT)
    assert not findings.lines(["error", "warning"]) and not findings.rebuild


@pytest.mark.parametrize("steps", [None, 40])
def test_a_time_limit_that_a_gymnasium_id_does_not_declare_is_named(steps: int | None):
    name = f"check/Limit{steps or 0}-v0"
    gymnasium.register(name, toys.Slide, max_episode_steps=steps)
    notes = examine(registry.get(f"gym:{name}"), None, PLAN).of("note")
    said = "it declares no time limit; episodes are cut after 1000 steps"
    assert (said in notes) is (steps is None)


def test_findings_survive_json():
    findings = found(toys.Left)
    assert Findings.from_json(findings.to_json()) == findings


def test_envs_check_says_what_it_found_and_its_exit_code_says_whether_all_is_well(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "LONG", PLAN)
    registry.register("check/slide", toys.Slide, expert=toys.expert, max_steps=40)
    registry.register("check/clock", toys.Clock, max_steps=40)
    assert cli.main(["envs", "check", "check/slide", "--episodes", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("check/slide: ok\n") and "succeeds in 3 of 3 episodes" in shown
    out = tmp_path / "found.json"
    assert cli.main(["envs", "check", "check/*", "--episodes", "0", "--json", str(out)]) == 2
    shown = capsys.readouterr().out
    assert "check/clock: 1 error\n  error: two new instances with the same seed" in shown
    assert '"environment": "check/slide"' in out.read_text()
    assert cli.main(["envs", "check"]) == 2
    assert "expected ids, suites or globs" in capsys.readouterr().err
    assert cli.main(["envs", "list", "check/*"]) == 0
    assert capsys.readouterr().out.startswith("check/clock  state")


def test_a_process_that_cannot_start_leaves_the_check_to_this_one(monkeypatch):
    monkeypatch.setattr(apart, "_serve", gymnasium.make)  # ends at once
    assert [f.ok for f in examine_apart([spec_of(toys.Slide)], {}, SHORT)] == [True]
