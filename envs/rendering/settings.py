"""What a run's cameras see."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from alltrades.envs.rendering.camera import LARGEST

Backend = Literal["auto", "egl", "osmesa", "glfw"]


class RandomizeSettings(BaseModel):
    """How far pictures may change from episode to episode, drawn from its seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    camera_position: float = Field(
        0.0, ge=0, description="metres that a camera is moved by at most, along each axis"
    )
    camera_angle: float = Field(
        0.0, ge=0, le=180, description="degrees that a camera is turned by at most, on each axis"
    )
    light: tuple[float, float] = Field(
        (1.0, 1.0), description="least and most factor of the brightness of each light"
    )
    colors: float = Field(
        0.0, ge=0, le=1, description="most that red, green and blue of a thing change by"
    )
    textures: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of a thing to wear another of the model's materials, or none",
    )
    distractors: int = Field(
        0, ge=0, le=50, description="most things that lie about and do not belong to the scene"
    )

    @field_validator("light")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError(
                f"light = {list(value)}; expected [least, most] with 0 <= least <= most"
            )
        return value


class RenderingSettings(BaseModel):
    """Which cameras of environments are drawn, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cameras: tuple[str, ...] = Field(
        (),
        description="cameras that are drawn beside an environment's own fields in all that is "
        "recorded, by name or pattern, such as images.top; those that an observe names are drawn "
        "anyway, of teachers that see states only where something is learned of it",
    )
    size: tuple[int, ...] | None = Field(
        None,
        description="pixels of every picture: a side, or [height, width]; default: each camera's "
        "own",
    )
    depth: bool = Field(False, description="measure depth too: depth.top beside images.top, in mm")
    proprioception: bool = Field(
        False,
        description="the field proprioception beside state: what a robot knows of itself; made "
        "anyway where an observe names it",
    )
    backend: Backend = Field(
        "auto",
        description="GL library that draws: egl (graphics cards), osmesa (processors) or glfw (a "
        "screen); auto: MUJOCO_GL, or the first of them that draws",
    )
    style: Literal["plain", "simulator"] = Field(
        "plain",
        description="plain: without shadows, reflections, sky and smoothed edges, which is many "
        "times faster; simulator: as the model says",
    )
    randomize: RandomizeSettings = RandomizeSettings()

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width of every picture."""
        return None if self.size is None else (self.size[0], self.size[-1])

    @field_validator("size", mode="before")
    @classmethod
    def _side(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | str) else value

    @field_validator("size")
    @classmethod
    def _possible(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (
            len(value) not in (1, 2) or not all(1 <= side <= LARGEST for side in value)
        ):
            raise ValueError(
                f"size = {list(value)}; expected a side, or [height, width], of 1 to {LARGEST} "
                "pixels"
            )
        return value
