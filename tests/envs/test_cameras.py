"""Cameras as environments declare them and runs ask for them; nothing is drawn by GL but once."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.planar.registration import VARIANTS, planar_spec
from alltrades.envs.rendering import Camera, Part, Pose, with_cameras
from alltrades.envs.rendering.resize import resized
from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.envs.rendering.wanted import with_all_cameras
from alltrades.envs.rollouts.rollout import Job, results, rollout
from alltrades.errors import UserError
from tests.envs.drawn import BLIND, CAMERA, PARTS, Drawn

TOP = RenderingSettings(cameras=("images.top",))


class Watching:
    """A controller that sees some fields, and keeps what it was shown."""

    def __init__(self, names, frames, lanes=1):
        self.lanes, self._needs, self.shown = lanes, (names, frames), []

    def needs(self, environment):
        return self._needs

    def begin(self, lane, environment, seed):
        pass

    def plan(self, frames):
        self.shown += frames.values()
        return {lane: np.zeros((4, 1), np.float32) for lane in frames}


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    """No library is tried: nothing here is drawn by one."""
    monkeypatch.setattr("alltrades.envs.rendering.backends.chosen", lambda backend: "osmesa")


@pytest.fixture
def drawn():
    """The specification of `Drawn`, of 10 steps, with its camera."""
    Drawn.drawn = 0
    return with_cameras(replace(BLIND, cameras=CAMERA, parts=PARTS), TOP)


def test_a_camera_is_a_field_only_where_a_run_asks_for_it():
    spec = registry.get("planar/push")
    assert with_cameras(spec, RenderingSettings()) == spec
    seen = with_cameras(spec, RenderingSettings(cameras=("images.*",)))
    assert seen.observation["images.top"] == Field.image(64, 64)
    assert list(seen.observation) == ["state", "images.top"]
    assert seen.without_rendering == spec
    assert with_cameras(seen, RenderingSettings()) == spec


def test_fields_that_a_network_names_are_made(drawn):
    spec = drawn.without_rendering
    seen = with_cameras(spec, RenderingSettings(), ["images.top", "proprioception"])
    assert list(seen.observation) == ["state", "proprioception", "images.top"]
    assert seen.observation["proprioception"].names == ("seed", "at")
    assert with_cameras(spec, RenderingSettings(), ["state", "*"]) == spec


def test_proprioception_is_columns_of_the_state(drawn):
    spec = with_cameras(drawn, RenderingSettings(proprioception=True))
    adapter = EnvAdapter(spec)
    adapter.reset(12)
    seen = adapter.step(np.zeros(1)).observation
    assert seen["proprioception"].tolist() == [5, 1] and seen["state"].tolist() == [1, 5, 5]


def test_sizes_and_depth_of_a_run_are_those_of_all_cameras():
    settings = RenderingSettings(cameras=("images.top",), size=(48, 32), depth=True)
    spec = with_cameras(registry.get("planar/push"), settings)
    assert spec.observation["images.top"] == Field.image(48, 32)
    assert spec.observation["depth.top"] == Field.depth(48, 32)


def test_a_camera_that_no_environment_has_is_refused(drawn):
    with pytest.raises(UserError, match="rendering.cameras = images.tip: no .*'images.top'"):
        with_cameras(drawn, RenderingSettings(cameras=("images.tip",)))
    assert with_all_cameras([drawn.without_rendering, BLIND], TOP)[1] == BLIND
    with pytest.raises(UserError, match="which numbers of its state"):
        with_cameras(BLIND, RenderingSettings(proprioception=True))


def test_what_an_environment_draws_itself_is_not_randomised(drawn):
    settings = RenderingSettings(cameras=("images.top",), randomize={"light": (0.5, 2)})
    with pytest.raises(UserError, match="'images.top' of .* cannot be changed"):
        with_cameras(drawn, settings)


def test_declarations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="looks at"):
        Pose((0, 0, 1), (0, 0, 0))  # up is along its view
    with pytest.raises(ValueError, match="0 x 64 pixels"):
        Camera("top", height=0)
    spec = registry.get("planar/push")
    with pytest.raises(ValueError, match="as a field is"):
        replace(spec, cameras={"state": Camera("top")})
    with pytest.raises(ValueError, match="columns \\[16\\]"):
        replace(spec, parts={"proprioception": Part((16,))})


def test_an_environment_without_a_model_is_told_what_cameras_need(drawn):
    spec = replace(drawn.without_rendering, cameras={"images.top": Camera("overview")})
    with pytest.raises(UserError, match="of a MuJoCo model and it has none"):
        EnvAdapter(with_cameras(spec, TOP)).reset(0)


def test_recorded_episodes_have_a_picture_of_every_step(drawn):
    (episode,) = rollout(
        [Job(drawn.id, 3, "p")], {drawn.id: drawn}, {"p": Watching((), 1)}, lanes=1
    )
    assert episode.observations["images.top"][:, 4, 4, 0].tolist() == list(range(10))
    assert episode.fields == dict(drawn.observation) | {"state": Field.state(3)}


@pytest.mark.parametrize(("frames", "pictures"), [(1, 3), (2, 5), (9, 10)])
def test_pictures_are_drawn_where_a_policy_looks_alone(drawn, frames, pictures):
    """Chunks of 4 of 10 steps: it looks before steps 0, 4 and 8, at so many of the newest."""
    watching = Watching(("images.top",), frames)
    list(results([Job(drawn.id, 3, "p")], {drawn.id: drawn}, {"p": watching}, lanes=1))
    assert Drawn.drawn == pictures
    shown = [list(f["images.top"][:, 4, 4, 0]) for f in watching.shown]
    assert shown == [[0], list(range(5))[1:][-frames:], list(range(9))[5:][-frames:]]


def test_nothing_is_drawn_for_a_policy_that_sees_the_state(drawn):
    watching = Watching(("state",), 1)
    jobs = [Job(drawn.id, 3, "p")]
    list(results(jobs, {drawn.id: drawn}, {"p": watching}, lanes=1))
    (episode,) = rollout(jobs, {drawn.id: drawn}, {"p": watching}, lanes=1, images=())
    assert Drawn.drawn == 0 and list(episode.observations) == ["state"]


def test_a_picture_that_shrinks_keeps_its_mean():
    picture = np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    small = resized(picture, 4, 6)
    blocks = picture.reshape(4, 3, 6, 3, 3).astype(float).mean((1, 3))
    assert np.abs(small - blocks).max() <= 0.51
    assert abs(resized(picture, 5, 7).mean() - picture.mean()) < 3


def test_the_camera_above_planar_tasks_sees_every_goal():
    for name, (task, params) in VARIANTS.items():
        spec, _ = planar_spec(f"planar/{name}", task, params)
        pose, env = spec.cameras["images.top"].at, spec.build()
        half = pose.position[2] * np.tan(np.deg2rad(pose.fovy) / 2)
        for seed in range(20):
            env.reset(seed=seed)
            away = np.abs(np.array(env.shown) - pose.position[:2])
            assert (away < half).all(), name


def test_pusht_is_seen_without_gl():
    pytest.importorskip("gym_pusht")
    spec = with_cameras(registry.get("pusht/keypoints-v0"), TOP)
    adapter = EnvAdapter(spec)
    seen = adapter.reset(100_000)
    assert seen["images.top"].shape == (96, 96, 3)
    agent = tuple((adapter.built.env.agent.position[i] / 512 * 96) for i in (1, 0))
    r, g, b = seen["images.top"][int(agent[0]), int(agent[1])].astype(int)
    assert b > r + 50  # the agent is blue


def test_gymnasium_environments_have_the_cameras_of_their_model():
    cheetah = registry.get("gym:HalfCheetah-v5")
    assert cheetah.cameras == {"images.free": Camera("free"), "images.track": Camera("track")}
    assert registry.get("gym:Pendulum-v1").cameras == {"images.render": Camera.own(96, 96)}


def test_gymnasium_environments_draw_themselves_where_they_can():
    pytest.importorskip("pygame")
    spec = with_cameras(registry.get("gym:Pendulum-v1"), RenderingSettings(cameras=("images.*",)))
    adapter = EnvAdapter(spec)
    first = adapter.reset(1)["images.render"]
    for _ in range(10):
        seen = adapter.step(np.ones(1), ()).observation
    assert "images.render" not in seen
    assert first.shape == (96, 96, 3) and (adapter.look()["images.render"] != first).any()


class Promising(Drawn):
    """Promises a picture that it cannot draw."""

    metadata = {"render_modes": ["rgb_array"]}
    render = gymnasium.Env.render


def test_a_picture_that_is_promised_and_not_drawn_is_said_in_one_line():
    registry.register("mine/promising", Promising, max_steps=5, replace=True)
    spec = registry.get("mine/promising")
    assert spec.cameras == {"images.render": Camera.own(96, 96)}
    adapter = EnvAdapter(with_cameras(spec, RenderingSettings(cameras=("images.*",))))
    with pytest.raises(UserError, match="is not implemented, which camera 'images.render'"):
        adapter.reset(1)
    registry.register("mine/promising", Promising, max_steps=5, replace=True, cameras={})
    assert not registry.get("mine/promising").cameras
