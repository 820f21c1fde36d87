"""Cameras of environments: what they see, declared without any simulator and drawn where asked."""

from alltrades.envs.rendering.camera import Camera, Part, Pose
from alltrades.envs.rendering.made import Rendering
from alltrades.envs.rendering.wanted import with_cameras

__all__ = ["Camera", "Part", "Pose", "Rendering", "with_cameras"]
