"""What becomes of keys, sticks and leaders: actions, commands, and who acts."""

from __future__ import annotations

import os

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.robots.teleop.controller import HandController
from alltrades.robots.teleop.desk import Desk
from alltrades.robots.teleop.drive import Drive, positions
from alltrades.robots.teleop.hands import GamepadLeader, KeyboardLeader
from alltrades.robots.teleop.inputs import Inputs
from alltrades.robots.teleop.leader import Leader
from alltrades.robots.teleop.leaders import LEADERS, load_leader
from alltrades.robots.teleop.picture import tiled

RATE = 10.0


def interface(action: ActionSpec, names: tuple[str, ...] | None = None, size: int = 3) -> Interface:
    return Interface("lab/x", {"state": Field.state(size, names=names)}, action, None, RATE)


VELOCITIES = ActionSpec((-1, -2), (1, 2), stop=(0, 0))
SERVOS = ActionSpec((0, 100), (512, 300), names=("x", "y"))


@pytest.mark.parametrize(
    ("action", "names", "found"),
    [
        (VELOCITIES, ("x", "y", "z"), [False, False]),
        (ActionSpec((-1, 0), (1, 1), stop=(0, None)), None, [False, True]),
        (SERVOS, None, [True, True]),  # boxes without 0 inside
        (ActionSpec((-3,), (3,), names=("j1",)), ("j1", "b", "c"), [True]),
        (ActionSpec((-3,), (3,), names=("j1",), units=("rad/s",)), ("j1", "b", "c"), [False]),
        (ActionSpec.unknown(2), None, [False, False]),
    ],
)
def test_what_stays_where_it_is_let_go_follows_from_the_declaration(action, names, found):
    assert positions(interface(action, names)).tolist() == found


def test_ways_are_given_for_all_or_for_each_dimension():
    assert positions(interface(VELOCITIES), ["velocity", "position"]).tolist() == [False, True]
    for ways in (["speed"], ["auto", "auto", "auto"]):
        with pytest.raises(UserError, match="one for all or one for each of the 2"):
            positions(interface(VELOCITIES), ways)


def test_a_velocity_ramps_up_stays_inside_its_box_and_returns_to_rest():
    space = interface(VELOCITIES)
    drive = Drive(space, RATE, positions(space), 0.5)
    moves = [drive.move(np.array([1.0, -1.0])) for _ in range(3)]
    assert moves[-1].tolist() == [0.5, -1.0] and not drive.still
    drive.faster(8)
    assert max(abs(drive.move(np.array([1.0, 0]))[0]) for _ in range(9)) == 1.0
    assert drive.move(np.zeros(2))[0] == 0.0 and drive.still


def test_a_position_starts_at_the_state_moves_by_its_box_and_stays():
    space = interface(SERVOS, ("y", "x", "z"))
    drive = Drive(space, RATE, positions(space), 1.0)
    drive.reset()
    drive.begin({"state": np.array([200.0, 30.0, 0.0])})
    assert drive.unknown() == []
    assert drive.move(np.array([1.0, 0.0])).tolist() == pytest.approx([30 + 512 / 20, 200])
    assert drive.move(np.zeros(2)).tolist() == pytest.approx([30 + 512 / 20, 200])
    for _ in range(50):
        drive.move(np.array([-1.0, 1.0]))
    assert drive.value.tolist() == [0, 300]
    other = Drive(interface(SERVOS), RATE, np.array([True, True]))
    assert other.unknown() == [0, 1] and other.value.tolist() == [256, 200]


def leader_of(kind, action: ActionSpec):
    space, inputs = interface(action), Inputs()
    leader = kind(space)
    leader.attach(inputs, Drive(space, RATE, positions(space, ["velocity"]), 1.0), RATE)
    leader.reset()
    return leader, inputs


def test_keys_move_four_dimensions_at_once_and_tab_the_next_ones():
    leader, inputs = leader_of(KeyboardLeader, ActionSpec((-1,) * 6, (1,) * 6))
    assert leader.action({}) is None
    for key in ("right", "s", "r", "e"):
        inputs.press(key)
    for _ in range(3):
        moved = leader.action({})
    assert moved.tolist() == [1, -1, 1, 1, 0, 0]
    leader.click("tab")
    for _ in range(5):
        moved = leader.action({})
    assert moved.tolist() == [0, 0, 0, 0, 1, -1] and "moves 4, 5 (2 of 2" in leader.status()
    leader.click("tab")
    leader.click("[")
    assert leader.drive.scale == 0.5 and list(leader.chosen) == [0, 1, 2, 3]


def test_no_tap_is_lost_and_who_lets_go_acts_for_a_moment():
    leader, inputs = leader_of(KeyboardLeader, ActionSpec((-1,), (1,)))
    inputs.press("d")
    inputs.release("d")
    said = [leader.action({}) for _ in range(8)]
    assert said[0][0] > 0 and said[1] is not None
    assert said[-1] is None  # after 0.3 seconds at rest


def test_a_lost_focus_lets_go_of_everything():
    leader, inputs = leader_of(KeyboardLeader, ActionSpec((-1,), (1,)))
    inputs.press("d")
    inputs.axes["leftx"] = 1.0
    leader.action({})
    inputs.release_all()
    assert leader.directions()[0] == 0 and not inputs.axes


def test_sticks_have_a_dead_middle_and_up_is_up():
    leader, inputs = leader_of(GamepadLeader, ActionSpec((-1,) * 4, (1,) * 4))
    inputs.axes |= {"leftx": 0.1, "lefty": -1.0, "righty": 0.56, "rightx": 1.0}
    assert leader.directions().tolist() == pytest.approx([0, 1, -0.5, 1])


# ---- who acts ----------------------------------------------------------------------------------
class Script(Leader):
    """Says what it is told."""

    def __init__(self, *said):
        self.said, self.followed = list(said), []

    def action(self, observation):
        return self.said.pop(0)

    def follow(self, action):
        self.followed.append(action.tolist())


class Acting:
    """A policy's controller that always says the same."""

    held, refusals = False, {}

    def __init__(self):
        self.seen = []

    def reset(self, *, environment, seed):
        self.seen = []

    def act(self, observation):
        self.seen.append("act")
        return np.array([0.5, 0.5], np.float32)

    def follow(self, observation, action):
        self.seen.append(action.tolist())


def hand(leader, policy=None, by_key=False) -> HandController:
    space = interface(VELOCITIES)
    found = HandController(leader, space, Drive(space, RATE, positions(space)), policy, by_key)
    found.reset(environment="lab/x", seed=0)
    return found


def test_without_a_policy_a_silent_leader_keeps_its_place():
    controller = hand(Script([0.1, 0.2], None, None, None))
    said = [controller.act({}).tolist() for _ in range(4)]
    assert said[0] == pytest.approx([0.1, 0.2]) and said[-1] == [0, 0]
    assert controller.intervened is None


def test_who_moves_takes_over_and_the_policy_sees_what_was_done():
    leader, policy = Script(None, [1, 1], None), Acting()
    controller = hand(leader, policy)
    marks = []
    for _ in range(3):
        controller.act({})
        marks.append(controller.intervened)
    assert marks == [False, True, False] and policy.seen == ["act", [1.0, 1.0], "act"]
    assert leader.followed == [[0.5, 0.5], [0.5, 0.5]]


def test_by_key_the_person_acts_while_they_have_taken_over():
    controller = hand(Script([1, 1], [1, 1], None), Acting(), by_key=True)
    assert controller.act({}).tolist() == [0.5, 0.5] and controller.intervened is False
    controller.taken = True
    assert controller.act({}).tolist() == [1, 1] and controller.intervened
    controller.act({})
    assert controller.intervened  # they hold still


@pytest.mark.parametrize("said", [[1.0], [np.nan, 0.0], "left", [[1.0, 2.0]]])
def test_a_leader_that_says_nonsense_is_named(said):
    with pytest.raises(UserError, match="the leader's action is .*expected \\(2,\\) finite"):
        hand(Script(said)).act({})


def test_a_leader_that_raises_is_named():
    class Unplugged(Script):
        def action(self, observation):
            raise OSError("no such device")

    with pytest.raises(UserError, match="the leader raised OSError: no such device"):
        hand(Unplugged()).act({})


def test_after_a_pause_the_policy_plans_anew():
    policy = Acting()
    controller = hand(Script(None, None), policy)
    controller.paused = True
    controller.act({})
    controller.paused = False
    controller.act({})
    assert policy.seen == [[0.0, 0.0], "act"]


# ---- names and the window ------------------------------------------------------------------------
def test_leaders_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_leader_x.py").write_text(
        "class Mine:\n"
        "    def __init__(self, interface):\n"
        "        self.size = interface.action_dim\n"
        "    def action(self, observation):\n"
        "        return [0.0] * self.size\n"
        "class None_:\n"
        "    def __init__(self, interface): ...\n"
    )
    space = interface(VELOCITIES)
    assert load_leader("my_leader_x:Mine", space).action({}) == [0.0, 0.0]
    assert isinstance(load_leader("keyboard", space), KeyboardLeader)
    LEADERS.register("mine_x", Script)
    assert isinstance(load_leader("mine_x", space), Script)
    with pytest.raises(UserError, match="leader 'keybord', did you mean 'keyboard'"):
        load_leader("keybord", space)
    with pytest.raises(UserError, match="has no action"):
        load_leader("my_leader_x:None_", space)
    with pytest.raises(UserError, match="leader 'my_leader_x:Other': the module has no 'Other'"):
        load_leader("my_leader_x:Other", space)


def test_a_package_brings_a_leader(tmp_path, monkeypatch):
    (tmp_path / "leader_package_x.py").write_text(
        "class Package:\n"
        "    def __init__(self, interface): ...\n"
        "    def action(self, observation): return None\n"
    )
    info = tmp_path / "leader_package_x-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leader-package-x\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[alltrades.leaders]\npackage_x = leader_package_x:Package\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "package_x" in LEADERS.names()
    assert load_leader("package_x", interface(VELOCITIES)).action({}) is None


@pytest.fixture
def desk(monkeypatch):
    pytest.importorskip("pygame", reason="needs: pip install alltrades[teleop]")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    made = Desk("keyboard")
    yield made
    made.close()


def test_the_window_reads_keys_buttons_and_sticks_and_shows_pictures(desk):
    import pygame

    leader = KeyboardLeader(interface(VELOCITIES))
    leader.attach(desk.inputs, Drive(leader.interface, RATE, np.zeros(2, bool)), RATE)

    def post(kind, **facts):
        pygame.event.post(pygame.event.Event(kind, **facts))

    post(pygame.KEYDOWN, key=pygame.K_RIGHT)
    post(pygame.KEYDOWN, key=pygame.K_SPACE)
    post(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_A, instance_id=0)
    post(pygame.CONTROLLERAXISMOTION, axis=pygame.CONTROLLER_AXIS_LEFTY, value=-32768)
    post(pygame.KEYDOWN, key=pygame.K_RIGHTBRACKET)
    post(pygame.QUIT)
    assert desk.heard(leader) == ["start", "accept", "quit"]
    assert leader.drive.scale == 1.0
    assert leader.directions().tolist() == [1, 0, 0, 0] and desk.inputs.axes == {"lefty": -1.0}
    post(pygame.KEYUP, key=pygame.K_RIGHT)
    post(pygame.WINDOWFOCUSLOST)
    assert desk.heard(leader) == [] and not desk.inputs.axes
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255, 0, 0
    desk.show(lambda: picture, lambda: ["one", "two"])
    shown = pygame.surfarray.array3d(pygame.display.get_surface())
    assert shown[shown.shape[0] // 4, 100].tolist() == [255, 0, 0]
    assert shown[3 * shown.shape[0] // 4, 100].tolist() == [0, 0, 0]
    assert (shown[:200, -44:] > 200).any()  # the lines


def test_a_leader_without_commands_of_its_own_cannot_go_without_a_window():
    with pytest.raises(UserError, match="--no-window with --teleop keyboard"):
        Desk("keyboard", windowed=False)


def test_without_a_gamepad_it_is_missed(monkeypatch):
    pytest.importorskip("pygame", reason="needs: pip install alltrades[teleop]")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.raises(UserError, match="no gamepad is connected"):
        Desk("gamepad")


def test_without_a_screen_the_window_says_so(monkeypatch):
    pytest.importorskip("pygame", reason="needs: pip install alltrades[teleop]")
    monkeypatch.setenv("SDL_VIDEODRIVER", "nothing")
    with pytest.raises(UserError, match="no window can be opened"):
        Desk("keyboard")
    assert os.environ["SDL_VIDEODRIVER"] == "nothing"


def test_cameras_are_shown_beside_one_another():
    depth = np.full((4, 4, 1), 500, np.uint16)
    seen = {
        "a": np.full((2, 4, 3), 7, np.uint8),
        "depth": depth,
        "state": np.zeros(3),
        "f": np.ones((4, 2, 4), np.float32),
    }
    found = tiled(seen)
    assert found.shape == (4, 8 + 4 + 2, 3) and found.dtype == np.uint8
    assert (found[:, :8] == 7).all() and (found[:, 8:] == 255).all()
    assert tiled({"state": np.zeros(3)}) is None and tiled(None) is None
