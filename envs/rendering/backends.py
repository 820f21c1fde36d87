"""The libraries that draw: which of them work on this machine."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from alltrades.errors import UserError

AUTO = "auto"
BACKENDS = ("egl", "osmesa", "glfw")  # a graphics card or none; a processor; a screen
VARIABLE = "MUJOCO_GL"
PATIENCE = 30  # seconds
REMEDY = (
    "install libegl1 (a graphics card) or libosmesa6 (a processor) with the system's package "
    "manager, and name it: --rendering.backend egl, osmesa or glfw"
)
# A picture says more than a context: drivers hand out contexts that cannot draw.
_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().any(), "the picture is empty"
"""


@dataclass(frozen=True)
class Tried:
    """What became of a picture that a library was to draw. fault: None where it drew it."""

    backend: str
    fault: str | None


def candidates() -> list[str]:
    """The libraries that may work here, best first: that of MUJOCO_GL where it names one."""
    named = os.environ.get(VARIABLE, "").lower().strip()
    if named:
        return [named]
    return ["egl", "osmesa", *(["glfw"] if os.environ.get("DISPLAY") else [])]


def tried(backend: str) -> Tried:
    """One picture drawn, in a process of its own (a second)."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DRAW],
            env={**inherited, VARIABLE: backend},
            text=True,
            capture_output=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tried(backend, _short(error))
    if done.returncode == 0:
        return Tried(backend, None)
    return Tried(backend, _short((done.stderr.strip().splitlines() or ["no message"])[-1]))


def chosen(backend: str = AUTO) -> str:
    """The library to draw with: the one that is named, or the first that draws a picture.

    Raises UserError where none does.
    """
    return _first() if backend == AUTO else backend


@functools.cache
def _first() -> str:
    found: list[Tried] = []
    for name in candidates():
        found.append(tried(name))
        if found[-1].fault is None:
            return name
    faults = "; ".join(f"{t.backend}: {t.fault}" for t in found)
    raise UserError(f"nothing draws pictures here ({faults}); expected a GL library; {REMEDY}")


def context_of(backend: str, height: int, width: int) -> Any:
    """A GL context of MuJoCo's, to be made current.

    Raises UserError where the library cannot give one in this process.
    """
    os.environ[VARIABLE] = backend  # MuJoCo's own library looks functions up by it
    os.environ.setdefault("LP_NUM_THREADS", "0")  # small pictures wait for Mesa's threads
    try:
        found: Any = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        found.make_current()
    except Exception as error:  # whatever GL libraries raise
        raise UserError(
            f"{backend} draws nothing in this process ({_short(error)}); expected a GL context; "
            f"{REMEDY}"
        ) from error
    return found


def _short(error: object) -> str:
    return " ".join(str(error).split())[:80]
