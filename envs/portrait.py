"""Pictures of an environment for people, who watch, and learn nothing from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from alltrades.envs.boundary.origin import raised
from alltrades.envs.rendering.backends import chosen
from alltrades.envs.rendering.made import Rendering
from alltrades.envs.rendering.painter import Painter
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError

HEIGHT = 240  # pixels of a camera's picture


class Portrait:
    """What an environment draws of itself, else what its declared cameras see, beside one another,
    else what an environment that it wraps draws.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self._viewer: Painter | None = None  # of its cameras
        self._undrawn: str | None = None  # why there are no pictures

    def begin(self, seed: int) -> None:
        """The episode of a seed begins."""
        if self._viewer is not None:
            self._viewer.begin(seed)

    def of(self, env: Any, seed: int) -> np.ndarray | None:
        """(H, W, 3) uint8 of a built environment in the episode of a seed; None where nothing can
        be drawn.

        Raises UserError where drawing fails, such as without OpenGL, and from then on.
        """
        if self._undrawn is not None:
            raise UserError(self._undrawn)
        try:
            return self._pictured(env, seed)
        except Exception as error:  # whatever a simulator or a graphics driver raises
            said = str(error) if isinstance(error, UserError) else raised(error, env)
            self._undrawn = (
                f"environment '{self.spec.id}' cannot be drawn: {said}; expected a picture of "
                "render(), or of its cameras; mend that (`alltrades doctor` says what draws)"
            )
            raise UserError(self._undrawn) from error

    def close(self) -> None:
        """The environment is no more."""
        self._viewer = None

    def _pictured(self, env: Any, seed: int) -> np.ndarray | None:
        found = _drawn(env)
        if found is None and self.spec.cameras:
            found = self._viewed(env, seed)
        inner = getattr(env, "env", None)
        while found is None and inner is not None:
            found, inner = _drawn(inner), getattr(inner, "env", None)
        return found

    def _viewed(self, env: Any, seed: int) -> np.ndarray:
        """Its declared cameras, beside one another."""
        if self._viewer is None:
            cameras = {
                name: camera.of_size(HEIGHT, HEIGHT * camera.width // camera.height, depth=False)
                for name, camera in self.spec.cameras.items()
            }
            rendering = Rendering(cameras, backend=chosen())
            self._viewer = Painter(env, rendering, f"environment '{self.spec.id}'")
            self._viewer.begin(seed)
        pictures = self._viewer.pictures(list(self.spec.cameras)).values()
        return np.concatenate([np.asarray(x) for x in pictures], axis=1)


def _drawn(env: Any) -> np.ndarray | None:
    """What an environment's own `render` gives, where it is a picture."""
    if getattr(env, "render_mode", None) is None:
        if "rgb_array" not in (getattr(env, "metadata", None) or {}).get("render_modes", ()):
            return None
        getattr(env, "unwrapped", env).render_mode = "rgb_array"
    try:
        found = env.render()
    except NotImplementedError:
        return None
    is_picture = isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.ndim == 3
    return found if is_picture and found.shape[2] == 3 else None
