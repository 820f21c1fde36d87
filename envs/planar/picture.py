"""A planar task from above, drawn without OpenGL: for people who steer it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDE = 320  # pixels
HALF = 0.75  # half width of what is shown, m
GROUND, ARM = (245, 243, 238), (150, 150, 160)
GOAL, OBJECT, EFFECTOR = (70, 160, 90), (60, 110, 190), (200, 60, 50)


def top_view(
    effector: Sequence[float] | np.ndarray,
    thing: Sequence[float] | np.ndarray | None,
    goal: Sequence[float] | np.ndarray | None,
    tolerance: float,
    joints: Sequence[Sequence[float]] = (),
) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8; x to the right, y up, in metres.

    Args:
        thing: position of what is moved or avoided; None where there is nothing.
        goal: a ring of radius `tolerance` about it; None where it is hidden.
        joints: of an arm, its base first; links are drawn between them.
    """
    image = np.full((SIDE, SIDE, 3), GROUND, np.uint8)
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 * HALF - HALF
    x, y = axis[None, :], -axis[:, None]
    for a, b in zip(joints, joints[1:]):
        start, way = np.asarray(a, float), np.subtract(b, a)
        along = ((x - start[0]) * way[0] + (y - start[1]) * way[1]) / max(way @ way, 1e-12)
        along = np.clip(along, 0, 1)
        near = np.hypot(x - start[0] - along * way[0], y - start[1] - along * way[1]) < 0.015
        image[near] = ARM
    if goal is not None:
        distance = np.hypot(x - goal[0], y - goal[1])
        radius = max(tolerance, 0.03)
        image[abs(distance - radius) < 0.008] = GOAL
        image[distance < 0.008] = GOAL
    if thing is not None:
        image[np.hypot(x - thing[0], y - thing[1]) < 0.05] = OBJECT
    image[np.hypot(x - effector[0], y - effector[1]) < 0.025] = EFFECTOR
    return image
