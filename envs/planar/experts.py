"""Scripted experts of the planar tasks: functions of the observation (and of a side drawn at the
episode's start).
"""

from __future__ import annotations

import math

import numpy as np

from alltrades.envs.planar.model import (
    CLEARANCE,
    EFFECTOR_RADIUS,
    HANDLE_HALF_LENGTH,
    HANDLE_RADIUS,
    PUCK_RADIUS,
    PlanarParams,
)
from alltrades.system.streams import stream

TOUCH = EFFECTOR_RADIUS + PUCK_RADIUS  # centre distance of effector and puck in contact
GAIN = 8.0  # command per metre left
# largest command while pushing: a puck slips off a fast effector within one open-loop chunk
PUSH_DRIVE = 0.4


class PlanarExpert:
    """Expert of one task with given parameters; `reset(seed)` draws the side on which it passes the
    obstacle.
    """

    def __init__(self, task: str, params: PlanarParams) -> None:
        self.task, self.params = task, params
        self.side = 1.0

    def reset(self, seed: int) -> None:
        """Start of the episode with this seed."""
        self.side = 1.0 if stream(seed, "side").random() < 0.5 else -1.0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Observation (16,) with the goal visible -> action (2,) in [-unit, unit]."""
        o = [float(x) for x in observation]
        goal = (-o[8] if self.params.mirror else o[8], o[9])
        effector, thing = (o[0], o[1]), (o[4], o[5])
        if self.task == "reach":
            x, y = towards(effector, goal)
        elif self.task == "push":
            x, y = _push(effector, thing, goal)
        elif self.task == "obstacle":
            x, y = _around(effector, thing, goal, self.side)
        elif self.params.mirror:  # pushing in is pulling out, seen in a mirror on the x axis
            x, y = _pull((o[0], -o[1]), (o[4], -o[5]))
            y = -y
        else:
            x, y = _pull(effector, thing)
        unit = self.params.unit
        x, y = min(1.0, max(-1.0, x)), min(1.0, max(-1.0, y))
        return np.array((unit * x, unit * y), dtype=np.float32)


def towards(
    a: tuple[float, float], b: tuple[float, float], least: float = 0.0
) -> tuple[float, float]:
    """Command along b - a: proportional near b, of length at most 1 and at least `least`."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    distance = math.hypot(dx, dy)
    size = min(1.0, max(least, GAIN * distance))
    return (0.0, 0.0) if distance < 1e-9 else (dx / distance * size, dy / distance * size)


def _push(
    e: tuple[float, float], p: tuple[float, float], g: tuple[float, float]
) -> tuple[float, float]:
    """Circle the puck to the side opposite the goal, then push along the line to it; blended, so
    that it is smooth.
    """
    gx, gy = g[0] - p[0], g[1] - p[1]
    distance = math.hypot(gx, gy) + 1e-9
    ux, uy = gx / distance, gy / distance  # towards the goal
    rx, ry = e[0] - p[0], e[1] - p[1]
    radius = math.hypot(rx, ry) + 1e-9
    along, across = rx * ux + ry * uy, ry * ux - rx * uy  # effector in the puck's frame
    angle = math.atan2(across, -along)  # 0 exactly behind the puck
    behind, aside = math.cos(angle), math.sin(angle)
    turn, hold = -math.tanh(2.5 * angle), min(1.0, max(-1.0, 12.0 * (TOUCH + 0.03 - radius)))
    circle_x = (
        turn * (aside * ux - behind * uy) + hold * rx / radius
    )  # along the circle, and onto it
    circle_y = turn * (aside * uy + behind * ux) + hold * ry / radius
    drive, fix = min(PUSH_DRIVE, max(0.25, 6.0 * distance)), -10.0 * across
    push_x, push_y = drive * ux - fix * uy, drive * uy + fix * ux
    share = min(
        1.0, max(0.0, 10.0 * (behind - 0.85))
    )  # of pushing: none over 32 degrees off the line, all under 18
    x, y = share * push_x + (1 - share) * circle_x, share * push_y + (1 - share) * circle_y
    size = max(1.0, math.hypot(x, y))
    return x / size, y / size


def _around(
    e: tuple[float, float], o: tuple[float, float], g: tuple[float, float], side: float
) -> tuple[float, float]:
    """Past the obstacle on the drawn side, then to the goal."""
    margin = CLEARANCE + 0.05
    beside = o[0] + side * margin
    clear = side * (e[0] - o[0]) > CLEARANCE + 0.01
    if e[1] < o[1] and not clear:
        return towards(e, (beside, o[1] - 0.02), least=0.5)
    if (
        e[1] < o[1] + 0.8 * CLEARANCE and side * (g[0] - e[0]) < 0
    ):  # the goal lies behind it: pass it first
        return towards(e, (beside, o[1] + margin), least=0.5)
    return towards(e, g)


def _pull(e: tuple[float, float], h: tuple[float, float]) -> tuple[float, float]:
    """Around the nearer end of the handle to its far side, then pull it towards -y."""
    gap = HANDLE_RADIUS + EFFECTOR_RADIUS
    dx, dy = e[0] - h[0], e[1] - h[1]
    if dy > gap - 0.012 and abs(dx) < HANDLE_HALF_LENGTH * 0.6:
        return -GAIN * dx, -0.8
    if dy > gap + 0.005:
        return towards(e, (h[0], h[1] + gap + 0.03), least=0.3)
    side = 1.0 if dx >= 0 else -1.0
    beside = HANDLE_HALF_LENGTH + gap + 0.03
    if abs(dx) < beside - 0.015:
        if dy < -gap - 0.02:
            return towards(e, (h[0] + side * beside, min(e[1] + 0.1, h[1] - gap - 0.03)), least=0.3)
        return side, 0.0
    return towards(e, (h[0] + side * beside, h[1] + gap + 0.05), least=0.4)
