"""From directions, such as keys and sticks give, to actions: as velocities or as positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.errors import UserError

WAYS = ("auto", "velocity", "position")
SWEEP = 2.0  # seconds in which a position crosses its whole box at full speed
RAMP = 0.2  # seconds in which a velocity goes from rest to full
SLOWEST, FASTEST = 1 / 16, 1.0


def positions(interface: Interface, ways: Sequence[str] = ("auto",)) -> np.ndarray:
    """(A,) bool, which dimensions are positions, that stay where they are let go; the others are
    velocities, efforts or changes, that go back to rest.

    Args:
        ways: one of WAYS for all dimensions, or one for each. "auto": a dimension whose `stop` is
            None is a position and one with a `stop` value is not; without `stop` one that a state
            has under the same name is (unless its unit is per second), and one whose box does not
            hold 0 inside; all others are velocities.

    Raises UserError for other words and another number of them.
    """
    action = interface.action
    each = list(ways) * (action.size if len(ways) == 1 else 1)
    if len(each) != action.size or not set(each) <= set(WAYS):
        raise UserError(
            f"--drive {' '.join(ways)}; expected {', '.join(WAYS)}, one for all or one for each of "
            f"the {action.size} actions of '{interface.id}'"
        )
    guess = _guessed(interface)
    return np.array([g if w == "auto" else w == "position" for g, w in zip(guess, each)], bool)


def _guessed(interface: Interface) -> list[bool]:
    action = interface.action
    if action.stop is not None:
        return [v is None for v in action.stop]
    low, high = action.box
    states = [set(f.names or ()) for f in interface.of_kind("state").values()]
    out = []
    for i in range(action.size):
        unit = action.units[i] if action.units else ""
        name = action.names[i] if action.names else None
        named = any(name in names for names in states)
        out.append(not unit.endswith("/s") and (named or not low[i] < 0 < high[i]))
    return out


class Drive:
    """Directions (A,) in [-1, 1] to actions (A,) inside the box.

    A velocity is the direction times `scale` of the way from rest to the bound, reached over RAMP
    seconds; let go it returns to rest, which is `stop`, else 0, else the nearest bound. A position
    moves by the direction times `scale` of its box in SWEEP seconds, from where the episode began:
    the state of the same name, else the middle of the box. An infinite box counts as -1 to 1 about
    rest.

    Attributes:
        scale: share of the full speed, SLOWEST to FASTEST.
    """

    def __init__(
        self, interface: Interface, rate: float, position: np.ndarray, scale: float = 0.5
    ) -> None:
        self.interface, self.position, self.scale = interface, position, scale
        action = interface.action
        self.low, self.high = action.box
        self.rest = _rest(action)
        span = np.where(np.isfinite(self.high - self.low), self.high - self.low, 2.0)
        self._up = np.where(np.isfinite(self.high), self.high - self.rest, 1.0)
        self._down = np.where(np.isfinite(self.low), self.rest - self.low, 1.0)
        self._sweep, self._ramp = span / (SWEEP * rate), span / (RAMP * rate)
        self.value = self._start({})

    def reset(self) -> None:
        """An episode begins; where its positions are says its first observation."""
        self._begun = False

    def begin(self, observation: Observation) -> None:
        """Take positions from the episode's first observation; later ones change nothing."""
        if not self._begun:
            self.value, self._begun = self._start(observation), True

    def move(self, direction: np.ndarray) -> np.ndarray:
        """The next action (A,) f32."""
        wanted = self.scale * np.clip(direction, -1, 1)
        velocity = self.rest + np.where(wanted > 0, wanted * self._up, wanted * self._down)
        change = np.clip(velocity - self.value, -self._ramp, self._ramp)
        moved = np.where(self.position, wanted * self._sweep, change)
        self.value = np.clip(self.value + moved, self.low, self.high)
        return self.value.astype(np.float32)

    def follow(self, action: np.ndarray) -> None:
        """Count on from an action that somebody else chose."""
        self.value, self._begun = np.array(action, float), True

    @property
    def still(self) -> bool:
        """Whether all velocities are at rest."""
        return bool(np.array_equal(self.value[~self.position], self.rest[~self.position]))

    def faster(self, factor: float) -> None:
        """Change the scale."""
        self.scale = float(np.clip(self.scale * factor, SLOWEST, FASTEST))

    def _start(self, observation: Observation) -> np.ndarray:
        """(A,) rest, and of positions the state of the same name."""
        self._begun = bool(observation)
        middle = np.where(
            np.isfinite(self.low) & np.isfinite(self.high), (self.low + self.high) / 2, self.rest
        )
        out = np.where(self.position, middle, self.rest)
        for i, name in enumerate(self.interface.action.names or ()):
            for field, f in self.interface.of_kind("state").items():
                if self.position[i] and name in (f.names or ()) and field in observation:
                    out[i] = observation[field][(f.names or ()).index(name)]
        return np.clip(out, self.low, self.high)

    def unknown(self) -> list[int]:
        """Positions of which no state says where an episode begins."""
        states = [f.names or () for f in self.interface.of_kind("state").values()]
        names = self.interface.action.names or [""] * len(self.rest)
        known = [any(name in own for own in states) for name in names]
        return [i for i, k in enumerate(known) if self.position[i] and not k]


def _rest(action: ActionSpec) -> np.ndarray:
    """(A,) what a velocity is when nothing moves."""
    low, high = action.box
    rest = np.clip(np.zeros(action.size), low, high)
    for i, value in enumerate(action.stop or ()):
        rest[i] = rest[i] if value is None else value
    return rest
