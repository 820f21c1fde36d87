"""A window that shows what is recorded, and reads keyboard and gamepad. Needs pygame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from alltrades.errors import MissingExtra, UserError
from alltrades.robots.teleop.inputs import Inputs

SIZE = (960, 720)
LINE = 22  # pixels of a line of text
STICK = 32768.0
AXES = ("leftx", "lefty", "rightx", "righty")
BUTTONS = {
    "A": "a",
    "B": "b",
    "X": "x",
    "Y": "y",
    "BACK": "back",
    "START": "start",
    "GUIDE": "guide",
    "LEFTSHOULDER": "leftshoulder",
    "RIGHTSHOULDER": "rightshoulder",
    "RIGHTSTICK": "rightstick",
    "DPAD_UP": "dpup",
    "DPAD_DOWN": "dpdown",
}


class Window:
    """Everything is called from the main thread.

    Args:
        title: of the window.
        inputs: what keys and sticks are written to.
        pad: a gamepad is read.
        shown: there is a window; without one there is no keyboard either.

    Raises UserError without pygame, without a screen, and without the gamepad.
    """

    def __init__(self, title: str, inputs: Inputs, pad: bool = False, shown: bool = True) -> None:
        self.inputs = inputs
        if not shown:
            os.environ["SDL_VIDEODRIVER"] = "dummy"
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "0" if shown else "1")
        try:
            import pygame
        except ImportError as error:
            raise MissingExtra(
                "the window of --teleop needs pygame, which is missing; expected it", "teleop"
            ) from error
        self._pygame: Any = pygame
        try:
            pygame.display.init()
            pygame.font.init()
            self._screen = pygame.display.set_mode(SIZE, pygame.RESIZABLE)
        except pygame.error as error:
            pygame.quit()
            raise UserError(
                f"no window can be opened ({error}); expected a screen; use a computer that has "
                "one, or --no-window with a gamepad or a leader that has commands of its own"
            ) from error
        pygame.display.set_caption(title)
        self._font = pygame.font.Font(None, LINE)
        self._buttons = {
            getattr(pygame, f"CONTROLLER_BUTTON_{name}"): f"pad {ours}"
            for name, ours in BUTTONS.items()
        }
        self._axes = {getattr(pygame, f"CONTROLLER_AXIS_{name.upper()}"): name for name in AXES}
        self._pads = self._opened() if pad else []
        if pad and not self._pads:
            self.close()
            raise UserError(
                "no gamepad is connected; expected one that SDL knows; connect it, or use "
                "--teleop keyboard"
            )

    def _opened(self) -> list[Any]:
        from pygame._sdl2 import controller

        controller.init()
        return [
            controller.Controller(i)
            for i in range(controller.get_count())
            if controller.is_controller(i)
        ]

    def poll(self) -> None:
        """Note what was pressed, moved and let go."""
        pygame, inputs = self._pygame, self.inputs
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                inputs.press("escape")
            elif event.type == pygame.KEYDOWN:
                inputs.press(pygame.key.name(event.key))
            elif event.type == pygame.KEYUP:
                inputs.release(pygame.key.name(event.key))
            elif event.type in (pygame.WINDOWFOCUSLOST, pygame.CONTROLLERDEVICEREMOVED):
                inputs.release_all()
            elif event.type == pygame.CONTROLLERBUTTONDOWN and event.button in self._buttons:
                inputs.press(self._buttons[event.button])
            elif event.type == pygame.CONTROLLERBUTTONUP and event.button in self._buttons:
                inputs.release(self._buttons[event.button])
            elif event.type == pygame.CONTROLLERAXISMOTION and event.axis in self._axes:
                inputs.axes[self._axes[event.axis]] = max(-1.0, event.value / STICK)

    def show(self, picture: np.ndarray | None, lines: Sequence[str]) -> None:
        """Draw a picture (H, W, 3) uint8 as large as it fits, and lines of text below it."""
        pygame, screen = self._pygame, self._screen
        screen = self._screen = pygame.display.get_surface()
        screen.fill((24, 24, 28))
        width, height = screen.get_size()
        room = height - LINE * len(lines) - LINE // 2
        if picture is not None and room > LINE:
            h, w = picture.shape[:2]
            factor = min(width / w, room / h)
            size = max(1, round(factor * w)), max(1, round(factor * h))
            surface = pygame.image.frombuffer(
                np.ascontiguousarray(picture, np.uint8).tobytes(), (w, h), "RGB"
            )
            screen.blit(pygame.transform.scale(surface, size), ((width - size[0]) // 2, 0))
        for i, line in enumerate(lines):
            text = self._font.render(line.replace("\0", ""), True, (235, 235, 235))
            screen.blit(text, (LINE // 2, height - LINE * (len(lines) - i)))
        pygame.display.flip()

    def close(self) -> None:
        """Take it away."""
        self._pads = []
        self._pygame.quit()
