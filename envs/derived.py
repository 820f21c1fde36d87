"""Environments that describe themselves: their specification from an instance's spaces."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from alltrades.data.fields import NAME, field_name
from alltrades.envs.boundary.origin import raised
from alltrades.envs.boundary.physics import simulation
from alltrades.envs.instructions.wanted import told_apart
from alltrades.envs.rendering.camera import FREE, IMAGES, Camera
from alltrades.envs.spaces import action_of, fields_of
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError

OTHERS = ("id", "make", "extra", "rendering", "perturbed")  # which nobody registers as facts
FACTS = tuple(f.name for f in fields(EnvSpec) if f.name not in OTHERS)
RATE = 10.0  # Hz, where an environment says nothing
PICTURE = "rgb_array"  # a mode of `render`
RENDERED = (96, 96)  # pixels of what an environment draws itself
RATES = (1.0, 1000.0)  # Hz, of those that are believed


@dataclass(frozen=True)
class Named:
    """Builds what a name "module:Class" stands for; imported where it is called."""

    name: str
    arguments: tuple[str, ...] = ()

    def __call__(self) -> Any:
        module, _, attribute = self.name.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found(*self.arguments)


@dataclass(frozen=True)
class Draft:
    """A registration of which the rest is read from an instance.

    Attributes:
        id: name in the registry.
        make: builds the environment.
        facts: attributes of the specification in place of what is read, or beside it: fields by
            name in `observation`; `max_steps` is by default the limit of `gymnasium.make`,
            `control_hz` the metadata's `render_fps`, or 10 Hz.
    """

    id: str
    make: Callable[[], Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def spec(self) -> EnvSpec:
        """Build the environment once and describe it.

        Raises UserError where it cannot be built or says what cannot be used.
        """
        env = self._built()
        try:
            return self._described(env)
        except (TypeError, ValueError) as error:
            cause = str(error).removeprefix(f"{self.id}: ")
            raise UserError(f"environment '{self.id}': {cause}") from error
        finally:
            env.close()

    def _built(self) -> Any:
        try:
            env = self.make()
        except UserError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise UserError(f"environment '{self.id}' cannot be built: {raised(error)}") from error
        missing = [
            name
            for name in ("observation_space", "action_space", "reset", "step", "close")
            if not hasattr(env, name)
        ]
        if missing:
            raise UserError(
                f"environment '{self.id}' is a {type(env).__name__} without {missing[0]}; expected "
                "a gymnasium.Env, or a function that returns one"
            )
        return env

    def _described(self, env: Any) -> EnvSpec:
        where = f"environment '{self.id}'"
        facts = {k: v for k, v in self.facts.items() if v is not None or k == "success"}
        given = {field_name(name): f for name, f in facts.pop("observation", {}).items()}
        for name in ("cameras", "parts"):
            if name in facts:
                facts[name] = {field_name(key): value for key, value in facts[name].items()}
        limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        read = {
            "observation": fields_of(env.observation_space, where, given),
            "action": action_of(env.action_space, facts.pop("action", None), where),
            "max_steps": limit,
            "control_hz": rate_of(env),
        }
        if "cameras" not in facts:
            own = fields_of(env.observation_space, where, given)
            facts["cameras"] = {n: c for n, c in cameras_of(env).items() if n not in own}
        return told_apart(EnvSpec(self.id, self.make, **{**read, **facts}))


def cameras_of(env: Any) -> dict[str, Camera]:
    """What can look at an environment: the cameras of its MuJoCo model and the free one, or its own
    `render()` where its metadata promise a picture.
    """
    data = simulation(env)
    if data is not None:
        names = [data.model.camera(i).name for i in range(data.model.ncam)]
        named = {f"{IMAGES}{name}": Camera(name) for name in names if NAME.fullmatch(name)}
        return {f"{IMAGES}{FREE}": Camera(FREE)} | named
    modes = (getattr(env, "metadata", None) or {}).get("render_modes") or ()
    return {f"{IMAGES}render": Camera.own(*RENDERED)} if PICTURE in modes else {}


def rate_of(env: Any) -> float:
    """Control rate in Hz: what the metadata call `render_fps`, where that is plausible."""
    said = (getattr(env, "metadata", None) or {}).get("render_fps")
    if isinstance(said, int | float) and RATES[0] <= said <= RATES[1]:
        return float(said)
    return RATE
