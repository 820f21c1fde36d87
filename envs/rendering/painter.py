"""Draws what the cameras of one built environment see."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache, partial
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.envs.boundary.physics import simulation
from alltrades.envs.rendering.backends import chosen
from alltrades.envs.rendering.camera import FREE, Camera, Pose, depth_of
from alltrades.envs.rendering.made import PLAIN, Rendering
from alltrades.envs.rendering.ranges import Changes, drawn
from alltrades.envs.rendering.resize import resized
from alltrades.errors import UserError, nearest

MORE = 256  # geoms of a scene beside those of the model: sites, marks, distractors
FARTHEST = 65535  # mm


class Painter:
    """Pictures of the present state of an environment, by field.

    They are drawn from a copy of the simulation's positions, so that nothing of the simulation
    changes, and show where things are, though a simulator may work that out a step later.

    Args:
        env: as the specification built it.
        where: names the environment in errors.

    Raises UserError for cameras that the environment does not have.
    """

    def __init__(self, env: Any, rendering: Rendering, where: str) -> None:
        self.env, self.rendering, self.where = env, rendering, where
        self._seed = 0
        self._stage: Stage | None = None
        self._unseen = set(rendering.cameras)
        if any(not camera.own_picture for camera in rendering.cameras.values()):
            self._stage = Stage(env, rendering, where)

    def begin(self, seed: int) -> None:
        """Start the episode of `seed`, before its first picture."""
        if self._stage is not None:
            self._stage.begin(seed)

    def pictures(self, names: Collection[str]) -> Observation:
        """Those of the fields `names` that cameras make, of the present state."""
        out: Observation = {}
        if self._stage is not None:
            self._stage.follow()
        for name, camera in self.rendering.cameras.items():
            if not any(field in names for field in camera.fields(name)):
                continue
            if camera.own_picture:
                out[name] = self._own(camera, name)
            else:
                assert self._stage is not None
                out |= self._stage.look(name, camera)
            if name in self._unseen:
                self._check(name, out[name])
        return {field: value for field, value in out.items() if field in names}

    def _own(self, camera: Camera, name: str) -> np.ndarray:
        try:
            picture = np.asarray(self.env.render())
        except NotImplementedError as error:
            raise UserError(
                f"{self.where}: its render() is not implemented, which camera '{name}' is to show; "
                "expected the picture that its metadata promise (render_modes); implement it, or "
                "register the environment with cameras={}"
            ) from error
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(
                f"{self.where}: render() returned {picture.dtype} of shape {picture.shape} for "
                f"camera '{name}'; expected a picture (height, width, 3) of uint8; declare another "
                "camera, or build it with render_mode='rgb_array'"
            )
        return resized(picture, camera.height, camera.width)

    def _check(self, name: str, picture: Any) -> None:
        self._unseen.discard(name)
        if (picture == picture[0, 0]).all():
            raise UserError(
                f"{self.where}: all pixels of the first picture of camera '{name}' are "
                f"{picture[0, 0].tolist()}; expected something in view; move the camera, or try "
                "a larger --rendering.size (small things are not drawn at few pixels) or another "
                "--rendering.backend (`alltrades doctor` says which draw)"
            )


class Stage:
    """The scene of a MuJoCo model that cameras look at."""

    def __init__(self, env: Any, rendering: Rendering, where: str) -> None:
        import mujoco

        from alltrades.envs.rendering.screen import key_of, screen

        data = simulation(env)
        if data is None:
            raise UserError(
                f"{where}: its cameras are of a MuJoCo model and it has none; expected an "
                "environment with .model and .data, or Camera.own(height, width), whose picture is "
                "what its render() returns"
            )
        self._mj, self._screen = mujoco, partial(screen, chosen(rendering.backend))
        self.rendering, self.where = rendering, where
        self.data, self.model = data, data.model
        self._shown = mujoco.MjData(self.model)
        self._options = mujoco.MjvOption()
        self._plain = rendering.style == PLAIN
        self._key = key_of(self.model, self._plain)
        self._views = {
            name: self._view(name, camera)
            for name, camera in rendering.cameras.items()
            if not camera.own_picture
        }
        self._scene = self._new_scene()
        self._changes: Changes | None = None
        self._distractors: list[tuple[Any, ...]] | None = None
        self._screen().load(self.model, self._key, self._plain)

    def begin(self, seed: int) -> None:
        """Draw the changes of the episode of `seed`."""
        ranges, model = self.rendering.ranges, self.model
        if ranges != type(ranges)():
            sizes = model.ngeom, model.nsite, model.nmat
            self._changes = drawn(ranges, seed, list(self._views), sizes)
            self._distractors = None

    def follow(self) -> None:
        """Take over where things are now."""
        mj, model, shown, data = self._mj, self.model, self._shown, self.data
        shown.qpos[:], shown.time = data.qpos, data.time
        if model.nmocap:
            shown.mocap_pos[:], shown.mocap_quat[:] = data.mocap_pos, data.mocap_quat
        mj.mj_kinematics(model, shown)
        mj.mj_comPos(model, shown)
        mj.mj_camlight(model, shown)
        if model.ntendon:
            mj.mj_tendon(model, shown)
        if model.nflex:
            mj.mj_flex(model, shown)
        if self._changes is not None and self._distractors is None:
            self._place()

    def look(self, name: str, camera: Camera) -> dict[str, np.ndarray]:
        """The fields of a camera, of the state followed last."""
        self._set(self._scene, name, camera)

        def first() -> Any:
            scene = self._new_scene()
            self._set(scene, name, camera)
            return scene

        picture, depths = self._screen().draw(
            self.model,
            self._key,
            self._plain,
            self._scene,
            (camera.height, camera.width),
            camera.depth,
            first,
        )
        out = {name: picture}
        if depths is not None:
            out[depth_of(name)] = self._millimetres(depths)
        return out

    def _view(self, name: str, camera: Camera) -> Any:
        mj, model = self._mj, self.model
        view = mj.MjvCamera()
        if isinstance(camera.at, Pose):
            mj.mjv_defaultFreeCamera(model, view)
            if camera.at.body is not None:
                self._named(name, "body", camera.at.body, mj.mjtObj.mjOBJ_BODY, model.nbody)
        elif camera.at == FREE and mj.mj_name2id(model, mj.mjtObj.mjOBJ_CAMERA, FREE) < 0:
            mj.mjv_defaultFreeCamera(model, view)
        else:
            kind = mj.mjtObj.mjOBJ_CAMERA
            view.type = mj.mjtCamera.mjCAMERA_FIXED
            view.fixedcamid = self._named(name, "camera", camera.at, kind, model.ncam)
        return view

    def _named(self, field: str, what: str, name: str, kind: Any, count: int) -> int:
        found: int = self._mj.mj_name2id(self.model, kind, name)
        if found < 0:
            known = [self._mj.mj_id2name(self.model, kind, i) or f"#{i}" for i in range(count)]
            known += [FREE] if what == "camera" else []
            raise UserError(
                f"{self.where}: '{field}' names {what} '{name}', which its model does not have"
                f"{nearest(name, known)}; expected one of {', '.join(known)}, or a Pose"
            )
        return found

    def _new_scene(self) -> Any:
        flags = self._mj.mjtRndFlag
        scene = self._mj.MjvScene(self.model, maxgeom=self.model.ngeom + self.model.nsite + MORE)
        if self._plain:
            for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX):
                scene.flags[flag] = 0
            scene.flags[flags.mjRND_HAZE] = scene.flags[flags.mjRND_FOG] = 0
        return scene

    def _set(self, scene: Any, name: str, camera: Camera) -> None:
        """Fill a scene for one of the cameras."""
        mj, changes = self._mj, self._changes
        every = mj.mjtCatBit.mjCAT_ALL.value
        mj.mjv_updateScene(
            self.model, self._shown, self._options, None, self._views[name], every, scene
        )
        if isinstance(camera.at, Pose):
            self._stand(scene, camera.at)
        if changes is not None:
            self._move(scene, changes.shift[name], changes.turn[name])
            self._paint(scene, changes)

    def _stand(self, scene: Any, pose: Pose) -> None:
        """Put the camera of a scene to a pose."""
        position, forward, up, tall = axes(pose)
        if pose.body is not None:
            i = self._mj.mj_name2id(self.model, self._mj.mjtObj.mjOBJ_BODY, pose.body)
            turned = self._shown.xmat[i].reshape(3, 3)
            position = self._shown.xpos[i] + turned @ position
            forward, up = turned @ forward, turned @ up
        for eye in scene.camera:
            eye.pos[:], eye.forward[:], eye.up[:] = position, forward, up
            half = eye.frustum_near * tall
            eye.frustum_top, eye.frustum_bottom = half, -half
            eye.frustum_center = eye.frustum_width = 0.0

    def _move(self, scene: Any, shift: np.ndarray, turn: np.ndarray) -> None:
        turned = rotation(turn)
        for eye in scene.camera:
            eye.pos[:] = eye.pos + shift
            eye.forward[:], eye.up[:] = turned @ eye.forward, turned @ eye.up

    def _paint(self, scene: Any, changes: Changes) -> None:
        """Change lights, colours and materials, and add distractors."""
        objects = self._mj.mjtObj
        for i in range(scene.nlight):
            light = scene.lights[i]
            for part in (light.ambient, light.diffuse, light.specular):
                part[:] = part * changes.light[i % len(changes.light)]
        tables = {int(objects.mjOBJ_GEOM): changes.geoms, int(objects.mjOBJ_SITE): changes.sites}
        for i in range(scene.ngeom):
            geom = scene.geoms[i]
            table = tables.get(geom.objtype)
            if table is None or not 0 <= geom.objid < len(table):
                continue
            geom.rgba[:3] = np.clip(geom.rgba[:3] + table[geom.objid], 0, 1)
            if table is changes.geoms and changes.materials[geom.objid] > -2:
                geom.matid = int(changes.materials[geom.objid])
        for kind, size, position, turned, rgba in self._distractors or ():
            if scene.ngeom >= scene.maxgeom:
                break
            self._mj.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, position, turned, rgba)
            scene.ngeom += 1

    def _place(self) -> None:
        """Lay the episode's distractors on what stands still, or behind everything, as the first
        camera sees it at the first state; none lies on what moves.
        """
        mj, changes = self._mj, self._changes
        assert changes is not None
        self._distractors = []
        name = next(iter(self._views))
        camera = self.rendering.cameras[name]
        scene = self._new_scene()
        view, every = self._views[name], mj.mjtCatBit.mjCAT_ALL.value
        mj.mjv_updateScene(self.model, self._shown, self._options, None, view, every, scene)
        if isinstance(camera.at, Pose):
            self._stand(scene, camera.at)
        eye = scene.camera[0]
        position, forward, up = (np.array(v, float) for v in (eye.pos, eye.forward, eye.up))
        right, tall = np.cross(forward, up), eye.frustum_top / eye.frustum_near
        wide = tall * camera.width / camera.height
        farthest = self._farthest(scene, position, forward)
        for thing in changes.distractors:
            x, y = thing.at
            ray = _unit(forward + x * wide * right + y * tall * up)
            hit = np.zeros(1, np.int32)
            distance = mj.mj_ray(self.model, self._shown, position, ray, None, 1, -1, hit)
            if distance > 0 and self.model.body_weldid[self.model.geom_bodyid[hit[0]]] > 0:
                continue
            size = thing.size * tall * (distance if distance > 0 else farthest)
            if distance > 0:
                distance -= size
            else:
                distance = (farthest + 2 * size) / (ray @ forward)
            kind = mj.mjtGeom.mjGEOM_SPHERE if thing.round else mj.mjtGeom.mjGEOM_BOX
            self._distractors.append(
                (
                    kind,
                    np.full(3, size),
                    position + ray * distance,
                    rotation(np.array([0.0, 0.0, thing.turn])).ravel(),
                    np.array([*thing.rgb, 1.0], np.float32),
                )
            )

    def _farthest(self, scene: Any, position: np.ndarray, forward: np.ndarray) -> float:
        """How deep the scene is from the camera, without what has no end."""
        deep = 0.0
        for i in range(scene.ngeom):
            geom = scene.geoms[i]
            if geom.type != self._mj.mjtGeom.mjGEOM_PLANE:
                deep = max(deep, float((np.array(geom.pos) - position) @ forward))
        return max(deep, 1e-3)

    def _millimetres(self, depths: np.ndarray) -> np.ndarray:
        """Depths in [0, 1] (1 near) as (H, W, 1) uint16 in mm along the view; 0 where nothing is.

        glFrustum with reversed depth: v = near / (far - near) (far / z - 1).
        """
        eye = self._scene.camera[0]
        near, far = float(eye.frustum_near), float(eye.frustum_far)
        z = near * far / (depths.astype(np.float64) * (far - near) + near)
        out = np.minimum(np.rint(1000 * z), FARTHEST).astype(np.uint16)
        return np.where(depths > 0, out, 0).astype(np.uint16)[..., None]


@lru_cache(maxsize=64)
def axes(pose: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Position, forward and up of a pose, (3,) each, and half the height of its picture at 1 m."""
    position, target, up = map(np.array, (pose.position, pose.target, pose.up))
    forward = _unit(target - position)
    tall = float(np.tan(np.deg2rad(pose.fovy) / 2))
    return position, forward, _unit(up - forward * (up @ forward)), tall


def _unit(v: np.ndarray) -> np.ndarray:
    out: np.ndarray = v / np.linalg.norm(v)
    return out


def rotation(turn: np.ndarray) -> np.ndarray:
    """(3, 3) rotation by a vector (3,) of radians (Rodrigues' formula)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    out: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return out


def made(rendering: Rendering, own: Observation) -> Observation:
    """Fields that are parts of an observation's states."""
    return {name: np.take(own[part.of], part.columns) for name, part in rendering.parts.items()}
