"""What planar environments are told."""

from __future__ import annotations

from alltrades.envs.instructions import Goal, Instructions

COLOURS = ("red", "green", "yellow")
FIRST = 4  # column of the first mark in the state of `planar/marks`
TRAINING = (
    "go to the {} mark",
    "move to the {} circle",
    "reach the {} goal",
    "drive to {}",
    "head for the {} one",
    "the {} mark, please",
    "stop on the {} spot",
    "touch the {} target",
)
HELD_OUT = (
    "please bring the tip to the {} mark",
    "now travel over to the {} circle",
    "I would like you at the {} goal",
    "take the robot to the {} spot",
)
MARKS = Instructions(
    tuple(
        Goal(
            tuple(s.format(colour) for s in TRAINING),
            tuple(s.format(colour) for s in HELD_OUT),
            (FIRST + 2 * i, FIRST + 2 * i + 1),
        )
        for i, colour in enumerate(COLOURS)
    )
)

TASKS = {
    "reach": Instructions.of(
        ("reach the goal", "move the arm's tip to the mark", "go to the green circle", "touch it"),
        ("bring the tip of the arm onto the mark", "please go and touch the green circle"),
    ),
    "push": Instructions.of(
        ("push the puck to the goal", "move the red disc to the mark", "shove the puck there"),
        ("slide the disc onto the green mark", "please push the puck over to the goal"),
    ),
    "obstacle": Instructions.of(
        ("go around the obstacle to the goal", "pass it and reach the mark", "avoid the obstacle"),
        ("reach the green mark without touching the obstacle", "please drive around to the goal"),
    ),
    "drawer": Instructions.of(
        ("open the drawer", "pull the handle out", "draw the handle towards you"),
        ("please pull the drawer open", "get behind the handle and pull it"),
    ),
}
MIRRORED = {
    "reach": Instructions.of(
        ("reach the mirror image of the goal", "go to where the mark is in a mirror", "mirrored"),
        ("bring the tip to the mirrored mark", "the other side of the goal, as in a mirror"),
    ),
    "push": Instructions.of(
        ("push the puck to the mirror image of the goal", "move the disc to the mirrored mark"),
        ("slide the disc to where the mark is in a mirror", "mirror the goal and push it there"),
    ),
    "obstacle": Instructions.of(
        ("go around the obstacle to the mirror image of the goal", "pass it, mirrored"),
        ("reach the mirrored mark without touching the obstacle", "around it, as in a mirror"),
    ),
    "drawer": Instructions.of(
        ("close the drawer", "push the handle in", "press the handle away from you"),
        ("please push the drawer shut", "get before the handle and press it in"),
    ),
}
