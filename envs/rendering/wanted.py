"""Which cameras a run asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from alltrades.data.fields import Field, field_name
from alltrades.envs.rendering.camera import depth_of
from alltrades.envs.rendering.made import Rendering
from alltrades.envs.rendering.ranges import Ranges
from alltrades.errors import UserError, nearest

if TYPE_CHECKING:
    from alltrades.envs.rendering.settings import RenderingSettings

Spec = TypeVar("Spec", bound=Any)  # of an environment: the dataclass `EnvSpec`
PROPRIOCEPTION = "proprioception"


def drawn_like(
    specs: Mapping[str, Spec], seen: Mapping[str, Mapping[str, Field]]
) -> dict[str, Any]:
    """Settings of rendering by which cameras draw the pictures that somebody saw.

    Args:
        specs: of environments by id. seen: of each, fields that were seen. What an environment
            returns by itself has the size that it has.
    """
    sizes, depths = set(), False
    for env_id, spec in specs.items():
        fields, own = seen[env_id], spec.own_observation
        for camera in spec.cameras:
            for name in (n for n in (camera, depth_of(camera)) if n in fields and n not in own):
                sizes.add(fields[name].shape[:2])
                depths |= name != camera
    found: dict[str, Any] = {"size": sizes.pop()} if len(sizes) == 1 else {}
    return found | ({"depth": True} if depths else {})


def with_cameras(spec: Spec, settings: RenderingSettings, observe: Sequence[str] = ()) -> Spec:
    """An environment whose observations have what settings ask for beside its own fields: the
    pictures of its cameras, their depths, and `proprioception`.

    Args:
        spec: its specification; one that cannot be stepped stays as it is.
        observe: names and patterns of fields that some network is to see: cameras and parts that
            they name are made too, where no field of the environment itself fits.

    Raises UserError for a camera that the environment does not have.
    """
    return with_all_cameras([spec], settings, observe)[0]


def with_all_cameras(
    specs: Sequence[Spec], settings: RenderingSettings, observe: Sequence[str] = ()
) -> list[Spec]:
    """The same of several environments, each of which makes what it has.

    Raises UserError for a camera that none of them has.
    """
    simulated = [spec for spec in specs if spec.simulated]
    known = list(dict.fromkeys(n for s in simulated for n in (*s.cameras, *s.observation)))
    for pattern in settings.cameras:
        if not any(fnmatchcase(name, field_name(pattern)) for name in known):
            declared = [name for name in known if any(name in s.cameras for s in simulated)]
            raise UserError(
                f"rendering.cameras = {pattern}: no environment has such a camera"
                f"{nearest(pattern, declared)}; expected some of "
                f"{', '.join(declared) or 'none: register it with cameras={...}'}"
            )
    if settings.proprioception and not any(PROPRIOCEPTION in s.parts for s in simulated):
        raise UserError(
            "rendering.proprioception: no environment says which numbers of its state those are; "
            "expected one that does; register it with parts={'proprioception': Part(columns)}"
        )
    return [_made(spec, settings, observe) if spec.simulated else spec for spec in specs]


def seeing(spec: Spec, fields: Mapping[str, Field], settings: RenderingSettings) -> Spec:
    """An environment that makes those of some fields that it does not have itself, in the sizes
    that they have: what a policy that was trained elsewhere sees.
    """
    sizes = [f.shape[:2] for name, f in fields.items() if name in spec.cameras]
    if sizes and settings.size is None and len(set(sizes)) == 1:
        settings = settings.model_copy(update={"size": sizes[0]})
    depth = any(depth_of(n) in fields and depth_of(n) not in spec.observation for n in spec.cameras)
    settings = settings.model_copy(update={"depth": settings.depth or depth})
    return with_cameras(spec, settings, list(fields))


def _made(spec: Spec, settings: RenderingSettings, observe: Sequence[str]) -> Spec:
    own = spec.own_observation
    patterns = [p for p in map(field_name, observe) if not any(fnmatchcase(n, p) for n in own)]
    patterns += map(field_name, settings.cameras)

    def asked(declared: Mapping[str, Any]) -> list[str]:
        return [name for name in declared if any(fnmatchcase(name, p) for p in patterns)]

    cameras = {}
    for name in asked(spec.cameras):
        camera = spec.cameras[name]
        height, width = settings.pixels or (camera.height, camera.width)
        cameras[name] = camera.of_size(height, width, settings.depth)
    wanted = {*asked(spec.parts), *([PROPRIOCEPTION] if settings.proprioception else [])}
    parts = {name: part for name, part in spec.parts.items() if name in wanted}
    if not cameras and not parts:
        return replace(spec, observation=own, rendering=None) if spec.rendering else spec
    ranges = Ranges(**settings.randomize.model_dump())
    fixed = [name for name, camera in cameras.items() if camera.own_picture]
    if fixed and ranges != Ranges():
        raise UserError(
            f"rendering.randomize: '{fixed[0]}' of '{spec.id}' is a picture that the environment "
            "draws itself and cannot be changed; expected cameras of a MuJoCo model; leave "
            "randomize out, or the environment"
        )
    backend: str = settings.backend
    if len(fixed) < len(cameras):
        from alltrades.envs.rendering.backends import chosen

        backend = chosen(backend)
    made = Rendering(cameras, parts, settings.style, ranges, backend)
    fields = dict(own)
    for name, part in parts.items():
        fields[name] = part.field(own[part.of])
    return replace(spec, observation=fields | made.images, rendering=made)
