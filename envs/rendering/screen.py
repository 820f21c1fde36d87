"""The one OpenGL context of a thread, and what of models is loaded into it.

A MuJoCo context (`MjrContext`) that is freed while another OpenGL context is current deletes names
of the other: blank or noisy pictures, and no error. So there is one OpenGL context in a thread that
draws, which is all of a worker process; everything is loaded into it, and what is freed is freed
while it is current. Code of others may still draw beside it: a first picture of every model is
kept, and drawn again now and then.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from alltrades.envs.rendering.backends import context_of
from alltrades.envs.rendering.meshes import thinned
from alltrades.errors import UserError

KEPT = 24  # models that stay loaded: one takes some 10 to 50 MB
AGAIN = 500  # pictures between two looks at the first one
APART = 2.0  # mean of how far two pictures of one scene may be, of 255: a card's rounding
WINDOW = 64  # pixels of the context's own buffer, in which nothing is drawn
# arrays of a model that are loaded
LOADED = ("mesh_vert", "mesh_normal", "mesh_texcoord", "mesh_face", "hfield_data", "tex_data")


class Loaded:
    """A model as the screen has it.

    context: MuJoCo's. scene, size, picture: of its first picture.
    """

    def __init__(self, context: Any) -> None:
        self.context = context
        self.scene: Any = None
        self.size = (0, 0)
        self.picture = np.zeros(0, np.uint8)
        self.drawn = 0


class Screen:
    """Draws scenes, in the thread that made it."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._gl = context_of(backend, WINDOW, WINDOW)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def load(self, model: Any, key: str, plain: bool) -> None:
        """Load a model, unless it is."""
        self._gl.make_current()
        self._find(model, key, plain)

    def draw(
        self,
        model: Any,
        key: str,
        plain: bool,
        scene: Any,
        size: tuple[int, int],
        depth: bool,
        first: Callable[[], Any],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The picture (H, W, 3) uint8 of a scene, and its depths (H, W) in [0, 1], 1 near.

        Args:
            model, key, plain: see `key_of`.
            size: height and width.
            first: makes a scene like this one, which is kept to look at again.

        Raises UserError where pictures are ruined by others who draw in this process.
        """
        self._gl.make_current()
        found = self._find(model, key, plain)
        if found.scene is None:
            found.scene, found.size = first(), size
            found.picture = self._pixels(found, found.scene, size, False)[0]
        picture, depths = self._pixels(found, scene, size, depth)
        found.drawn += 1
        if found.drawn % AGAIN == 0 or is_blank(picture):
            self._look_again(found)
        return picture, depths

    def _look_again(self, found: Loaded) -> None:
        again = self._pixels(found, found.scene, found.size, False)[0]
        if np.abs(again.astype(float) - found.picture).mean() > APART:
            raise UserError(
                "a picture that was drawn again is another: what else draws with OpenGL in this "
                "process has ruined the pictures of cameras; expected one that draws; leave out "
                "the environment's own drawing, or use --rollout.workers 1 or more"
            )

    def _find(self, model: Any, key: str, plain: bool) -> Loaded:
        found = self._loaded.get(key)
        if found is None:
            while len(self._loaded) >= KEPT:
                self._loaded.popitem(last=False)[1].context.free()
            found = self._loaded[key] = Loaded(_context(model, plain))
        self._loaded.move_to_end(key)
        return found

    def _pixels(
        self, found: Loaded, scene: Any, size: tuple[int, int], depth: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        height, width = size
        context = found.context
        if context.offHeight < height or context.offWidth < width:
            largest = max(width, context.offWidth), max(height, context.offHeight)
            mujoco.mjr_resizeOffscreen(*largest, context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        rectangle = mujoco.MjrRect(0, 0, width, height)
        picture = np.empty((height, width, 3), np.uint8)
        depths = np.empty((height, width), np.float32) if depth else None
        mujoco.mjr_render(rectangle, scene, context)
        mujoco.mjr_readPixels(picture, depths, rectangle, context)
        return picture[::-1].copy(), None if depths is None else depths[::-1].copy()


def _context(model: Any, plain: bool) -> Any:
    """A model loaded, from a copy: the qualities of the simulated model stay as they are."""
    shown = copy.copy(model)
    if plain:
        shown.vis.quality.offsamples = 0
        shown.vis.quality.shadowsize = 0
        thinned(shown)
    shown.vis.global_.offwidth = shown.vis.global_.offheight = WINDOW
    context = mujoco.MjrContext(shown, mujoco.mjtFontScale.mjFONTSCALE_50)
    context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
    return context


def key_of(model: Any, plain: bool) -> str:
    """Digest of what of a model is loaded: models that differ elsewhere alone share it."""
    digest = hashlib.sha256(repr((plain, model.nmesh, model.ntex, model.nmat)).encode())
    for name in LOADED:
        digest.update(np.ascontiguousarray(getattr(model, name)).tobytes())
    return digest.hexdigest()


def is_blank(picture: np.ndarray) -> bool:
    """Whether all pixels (H, W, C) are of one colour."""
    return bool((picture == picture[0, 0]).all())


_ALL: list[Screen] = []  # kept: what another thread collects would be freed in its context
_OWN = threading.local()


def screen(backend: str) -> Screen:
    """The screen of this thread: a context can be current in one at a time."""
    found: dict[str, Screen] = _OWN.__dict__.setdefault("screens", {})
    if backend not in found:
        found[backend] = Screen(backend)
        _ALL.append(found[backend])
    return found[backend]
