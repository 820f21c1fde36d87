"""Controllers, the control loop and what stands before it, with states, images and text."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field, Observation
from alltrades.data.interface import Interface
from alltrades.data.text import TEXT_DIM, text_features
from alltrades.envs.robots import Outcome, Reading, Robot
from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.realtime import RealTimeController
from alltrades.robots.feed import Feed
from alltrades.robots.fit import (
    environment_of,
    limits_of,
    rate_of,
    recorded_interface,
)
from alltrades.robots.loop import ControlLoop
from tests.policies.background import Immediate
from tests.policies.fields import CAMERAS, INTERFACES, OTHER, PLAIN, Seeing, observe, stacked

FRONT, OTHER_FRONT, WRIST = (
    "images.front@12x16x3",
    "images.front@8x8x3",
    "images.wrist@6x8x1-uint16",
)


def test_a_window_holds_the_last_frames_of_every_field_in_its_own_type_and_the_text_once() -> None:
    policy = Seeing()
    controller = Controller(policy)
    controller.begin(0, CAMERAS, seed=1)
    frames = [observe(i) for i in range(5)]
    controller.plan({0: stacked(frames[:1])})
    controller.plan({0: stacked(frames[1:4])})
    first, second = policy.windows
    assert {k: (v.shape[1:], v.dtype.name) for k, v in second.items()} == {
        "state": ((2, 5), "float32"),
        FRONT: ((2, 12, 16, 3), "uint8"),
        WRIST: ((2, 6, 8, 1), "uint16"),
        "instruction": ((1, TEXT_DIM), "float32"),
        OTHER_FRONT: ((2, 8, 8, 3), "uint8"),
        "pose": ((2, 2), "float32"),
    }
    for window, rows in ((first, (0, 0)), (second, (2, 3))):
        for key, name in ((FRONT, "images.front"), (WRIST, "images.wrist")):
            np.testing.assert_array_equal(window[key][0], [frames[i][name] for i in rows])
        np.testing.assert_array_equal(window["state"][0, :, :3], [frames[i]["state"] for i in rows])
        np.testing.assert_array_equal(window["instruction"][0, 0], text_features("lift it"))
        assert not window["state"][0, :, 3:].any()
        assert not window[OTHER_FRONT].any() and not window["pose"].any()


def test_an_episode_is_bit_equal_beside_lanes_of_other_fields_and_to_one_that_acts_alone() -> None:
    def episode(lanes: int, mine: int) -> np.ndarray:
        controller, out = Controller(Seeing(), lanes=lanes, batch=2), []
        for lane in range(lanes):
            controller.begin(
                lane, (CAMERAS, OTHER, PLAIN)[lane % 3] if lane != mine else CAMERAS, 3
            )
        for step in range(9):
            given = {mine: observe(step)}
            for lane in range(lanes):
                if lane != mine and (step + lane) % 2:
                    given[lane] = observe(100 * lane + step, controller.environment(lane))
            out.append(controller.act(given)[mine])
        return np.array(out)

    alone = episode(1, 0)
    for lanes, mine in ((3, 1), (5, 4)):
        np.testing.assert_array_equal(episode(lanes, mine), alone)


def test_a_robot_may_reuse_its_buffers_and_further_fields_are_ignored() -> None:
    policy = Seeing(n_obs_steps=1)
    controller = Controller(policy)
    controller.reset(environment=CAMERAS, seed=0)
    seen = observe(4)
    given: dict[str, Any] = {
        "observation/state": seen["state"].tolist(),
        "observation/images/front": np.array(seen["images.front"]),
        "images.wrist": seen["images.wrist"][..., 0],
        "prompt": "lift it",
        "images.left": np.zeros((4, 4, 3), np.uint8),
    }
    controller.act(given)
    given["observation/images/front"][:] = 0
    controller.states[0].queue.clear()
    controller.reset(environment=CAMERAS, seed=0)
    controller.act(seen)
    for key, value in policy.windows[0].items():
        np.testing.assert_array_equal(value, policy.windows[1][key])


@pytest.mark.parametrize(
    "change,words",
    [
        ({"images.front": None}, "has no 'images.front'.*it has state"),
        ({"images.front": np.zeros((16, 12, 3), np.uint8)}, r"shape \(16, 12, 3\); expected"),
        ({"images.front": np.zeros((12, 16, 3), np.float32)}, "dtype float32; expected uint8"),
        ({"instruction": 3}, "is a int; expected a string"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_field_and_changes_nothing(
    change: dict[str, Any], words: str
) -> None:
    policy = Seeing()
    controller = Controller(policy, lanes=2)
    controller.reset(environment=CAMERAS, seed=0)
    bad = {k: v for k, v in {**observe(1), **change}.items() if v is not None}
    with pytest.raises(UserError, match=words) as caught:
        controller.act({0: observe(0), 1: bad})
    assert "\n" not in str(caught.value) and not policy.windows
    out = controller.act({0: observe(5)})
    np.testing.assert_array_equal(policy.windows[0]["state"][0, 0, :3], observe(5)["state"])
    assert list(out) == [0] and out[0].shape == (2,)


def test_one_observation_for_several_lanes_must_say_whose_it_is() -> None:
    controller = Controller(Seeing(), lanes=2)
    controller.reset(environment=CAMERAS, seed=0)
    with pytest.raises(UserError, match="expected {lane: observation}"):
        controller.act(observe(0))


def test_text_that_changes_within_an_episode_is_an_error_and_a_new_episode_may_have_another() -> (
    None
):
    policy = Seeing()
    controller = Controller(policy)
    controller.reset(environment=CAMERAS, seed=0)
    controller.act(observe(0))
    with pytest.raises(UserError, match="'lift it', then 'drop it'; expected one string per epis"):
        controller.act(observe(1, text="drop it"))
    controller.reset(seed=1)
    controller.act(observe(1, text="hebe die Täſſe ☕"))
    np.testing.assert_array_equal(
        policy.windows[-1]["instruction"][0, 0], text_features("hebe die Täſſe ☕")
    )


def test_numbers_alone_are_the_state_of_an_environment_that_has_no_other_field() -> None:
    policy = Seeing()
    controller = Controller(policy)
    controller.reset(environment=PLAIN, seed=0)
    controller.act(np.arange(5.0))
    controller.reset(environment=PLAIN, seed=0)
    padded = np.zeros(policy.layout.state_dim)
    padded[:5] = np.arange(5.0)  # the layout has the states of 5 numbers and `pose`
    controller.act(padded)
    assert all((w["state"][0] == np.arange(5)).all() for w in policy.windows)
    controller.reset(environment=CAMERAS, seed=0)
    with pytest.raises(UserError, match="expected its fields by name: state"):
        controller.act(np.arange(3.0))


def test_without_delay_asynchronous_and_synchronous_controllers_see_and_do_the_same() -> None:
    now = {"executor": Immediate(), "clock": lambda: 0.0, "delay": 0.0}
    pairs = []
    for make in (lambda p: Controller(p), lambda p: RealTimeController(p, **now)):
        policy = Seeing()
        controller = make(policy)
        controller.reset(environment=CAMERAS, seed=7)
        pairs.append((policy, [controller.act(observe(i)) for i in range(9)]))
    (one, acted), (two, also) = pairs
    np.testing.assert_array_equal(acted, also)
    for a, b in zip(one.windows, two.windows, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_a_flight_keeps_its_frames_while_the_robot_goes_on() -> None:
    held: list[tuple[Any, ...]] = []

    class Waiting(Immediate):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future:
            held.append(args)
            return super().submit(function, *args) if len(held) == 1 else Future()

    controller = RealTimeController(
        Seeing(), executor=Waiting(), clock=lambda: 0.0, delay=0.0, every=1
    )
    controller.reset(environment=CAMERAS, seed=7)
    for i in range(4):
        controller.act(observe(i))
    np.testing.assert_array_equal(held[1][0][FRONT][0, 1], observe(1)["images.front"])


def test_a_rate_that_nobody_knows_is_asked_for() -> None:
    unknown = [replace(INTERFACES[2], control_hz=None)]
    with pytest.raises(UserError, match="control rate of 'toy/plain' is unknown.*rate=HZ"):
        RealTimeController(Seeing(unknown)).reset(seed=0)
    RealTimeController(Seeing(unknown), rate=20.0).reset(seed=0)


# ---- feed and loop -------------------------------------------------------------------------------
def test_only_an_observation_of_the_same_arrays_with_the_same_values_is_repeated() -> None:
    feed, seen = Feed(INTERFACES[0]), observe(0)
    assert feed.take(seen) is not None and feed.take(seen) is None
    assert feed.take(dict(seen)) is None  # another map of the same arrays
    again = {k: v if isinstance(v, str) else v.copy() for k, v in seen.items()}
    assert feed.take(again) is not None  # a robot at rest
    again["images.wrist"][2, 3] = 9  # one camera wrote into its buffer again
    kept = feed.take(again)
    assert kept is not None and kept["images.wrist"][2, 3] == 9
    again["images.wrist"][2, 3] = 8
    assert kept["images.wrist"][2, 3] == 9
    assert feed.counts == {"new": 3, "repeated": 2}


def test_a_state_that_is_not_finite_is_unreadable_whatever_the_cameras_show() -> None:
    feed = Feed(INTERFACES[0])
    assert feed.take(Reading({**observe(0), "state": [np.nan, 0, 0]}, 1)) is None
    assert feed.counts == {"unreadable": 1}


class Showing(Robot):
    """Shows a scripted episode, and three fields more than the policy sees."""

    waits = True

    def __init__(self, script: list[Observation], interface: Interface) -> None:
        self.limits, self.interface = interface.action, interface
        self.environment, self.control_hz = interface.id, interface.control_hz
        self.script = script

    def observe(self) -> Observation | None:
        return self.script.pop(0) if self.script else None

    def act(self, action: np.ndarray) -> None: ...

    def outcome(self) -> Outcome:
        return Outcome(done=not self.script)

    def close(self) -> None: ...


def test_a_recorded_episode_has_all_that_the_robot_observes_though_the_policy_sees_less() -> None:
    full = INTERFACES[0]
    policy = Seeing([full.seeing(["images.*"])])
    script = [observe(i) for i in range(6)]
    robot = Showing(list(script), full)
    info = environment_of(policy.environments, robot)
    interface = recorded_interface(info, robot, limits_of(info, robot), None)
    loop = ControlLoop(robot, Controller(policy), interface, None, executor=Immediate())
    assert interface == full and loop.run(0) == "over"
    episode = loop.recorded("deploy/x")
    assert episode is not None and len(episode) == 5 and episode.timestamps is None
    for name, values in stacked(script[:5]).items():
        np.testing.assert_array_equal(episode.observations[name], values)
    assert set(policy.windows[0]) == {FRONT, WRIST}


# ---- what is known of a robot --------------------------------------------------------------------
def recorded(**facts: Any) -> Interface:
    """What recordings know of a robot: neither rate nor box."""
    return Interface("lab/follow", {"state": Field.state(3)}, ActionSpec.unknown(2), **facts)


class Arm(Showing):
    waits = False

    def __init__(self, limits: ActionSpec, hz: float | None = None) -> None:
        self.limits, self.control_hz, self.environment, self.interface = limits, hz, None, None


NO_BOX = ActionSpec.unknown(2, stop=(0.0, 0.0))


def test_a_rate_that_neither_policy_nor_robot_knows_must_be_given() -> None:
    with pytest.raises(UserError, match="control rate of 'lab/follow' is unknown.*--rate HZ"):
        rate_of(recorded(), Arm(NO_BOX))
    assert rate_of(recorded(), Arm(NO_BOX), 12.0) == 12.0
    assert rate_of(recorded(), Arm(NO_BOX, 30.0)) == 30.0
    assert rate_of(recorded(control_hz=15.0), Arm(NO_BOX)) == 15.0


def test_a_box_that_neither_policy_nor_robot_knows_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="box of the actions of 'lab/follow' is unknown.*--limits"):
        limits_of(recorded(), Arm(NO_BOX), rate=10.0)
    file = tmp_path / "limits.yaml"
    file.write_text('"*": {low: -2, high: 3}')
    assert limits_of(recorded(), Arm(NO_BOX), file, 10.0).low == (-2.0, -2.0)
    own = ActionSpec((-1, -4), (1, 4), rate=(0.5, 0.5), stop=(0, 0))
    found = limits_of(recorded(), Arm(own, 10.0), file, 20.0)
    assert (found.low, found.high) == ((-1.0, -2.0), (1.0, 3.0)) and found.rate == (0.25, 0.25)
    file.write_text("lab/follow: {low: -2}")
    with pytest.raises(UserError, match="box of the actions"):
        limits_of(recorded(), Arm(NO_BOX), file, 10.0)


def test_what_was_found_of_a_recorded_robot_is_recorded_with_its_new_episodes() -> None:
    robot = Arm(ActionSpec((-1, -4), (1, 4), rate=(0.5, 0.5), stop=(0, 0)), 20.0)
    limits = limits_of(recorded(), robot, rate=20.0)
    found = recorded_interface(recorded(), robot, limits, 20.0)
    assert (found.id, found.control_hz) == ("lab/follow", 20.0)
    assert found.action == ActionSpec((-1, -4), (1, 4))


def test_a_robot_without_a_field_that_the_policy_sees_is_refused() -> None:
    fields = INTERFACES[0].observation
    larger = {**fields, "images.front": Field.image(24, 32)}
    for own, words in (
        ({"state": fields["state"]}, "sees 'images.front' .* and the robot has state"),
        (larger, "the robot has there image of 24 x 32 x 3"),
    ):
        robot = Showing([], replace(INTERFACES[0], id="other", observation=own))
        with pytest.raises(UserError, match=words):
            environment_of(INTERFACES[:1], robot, CAMERAS)


def test_a_policy_of_recordings_fits_the_same_environment_once_it_is_simulated() -> None:
    known = Interface(
        "lab/follow", {"state": Field.state(3)}, ActionSpec((-1, -1), (1, 1)), 50, 10.0
    )
    assert environment_of([recorded()], Showing([], known)) == recorded()
    with pytest.raises(UserError, match="changed since the policy was trained"):
        environment_of([known], Showing([], replace(known, control_hz=20.0)))
