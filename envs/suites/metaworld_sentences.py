"""What the tasks of Meta-World's MT10 are told."""

from __future__ import annotations

from alltrades.envs.instructions import Instructions

SENTENCES = {
    "reach-v3": Instructions.of(
        ("reach the goal", "move the hand to the red ball", "go to the target position"),
        ("bring the gripper to the red ball", "please move to the goal position"),
    ),
    "push-v3": Instructions.of(
        ("push the puck to the goal", "slide the puck onto the target", "move the puck there"),
        ("please push the puck over to the goal", "shove the puck onto the target"),
    ),
    "pick-place-v3": Instructions.of(
        (
            "pick up the puck and place it",
            "lift the puck to the goal",
            "grasp the puck and lift it",
        ),
        ("take the puck and put it at the goal", "pick the puck up and bring it to the target"),
    ),
    "door-open-v3": Instructions.of(
        ("open the door", "pull the door open", "swing the door open by its handle"),
        ("please open the door", "take the handle and pull the door open"),
    ),
    "drawer-open-v3": Instructions.of(
        ("open the drawer", "pull the drawer out", "pull the drawer open by its handle"),
        ("please open the drawer", "take the handle and pull the drawer out"),
    ),
    "drawer-close-v3": Instructions.of(
        ("close the drawer", "push the drawer in", "push the drawer shut"),
        ("please close the drawer", "press against the drawer until it is shut"),
    ),
    "button-press-topdown-v3": Instructions.of(
        ("press the button", "press the button from above", "push the button down"),
        ("please press the button down", "move above the button and press it"),
    ),
    "peg-insert-side-v3": Instructions.of(
        (
            "insert the peg",
            "put the peg into the hole",
            "insert the peg into the box from the side",
        ),
        ("take the peg and insert it sideways", "please put the peg into the hole of the box"),
    ),
    "window-open-v3": Instructions.of(
        ("open the window", "slide the window open", "push the window's handle to open it"),
        ("please open the window", "move the handle until the window is open"),
    ),
    "window-close-v3": Instructions.of(
        ("close the window", "slide the window shut", "push the window's handle to close it"),
        ("please close the window", "move the handle until the window is shut"),
    ),
}
