"""Pictures through OpenGL. One is small and quick; the others are slow."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.rendering import Camera, Pose, with_cameras
from alltrades.envs.rendering import screen as screens
from alltrades.envs.rendering.backends import chosen
from alltrades.envs.rendering.ranges import Ranges, drawn
from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.envs.rollouts.rendering import render_episode
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.errors import UserError

HALF = {"reach": (0.85, -0.1)}  # of the picture of planar tasks: half its side, middle in y
EVERY = {
    "camera_position": 0.05,
    "camera_angle": 4.0,
    "light": (0.5, 1.5),
    "colors": 0.2,
    "textures": 0.5,
    "distractors": 3,
}


@pytest.fixture(scope="module", autouse=True)
def gl():
    """A library that draws here."""
    try:
        return chosen()
    except UserError as error:
        pytest.skip(str(error))


def seen(name, **settings):
    return with_cameras(registry.get(name), RenderingSettings(cameras=("images.*",), **settings))


def place(picture, color):
    """Mean (row, column) of the pixels that are of a colour, in shares of the picture's sides."""
    strongest = picture.astype(int).argmax(-1)
    rows, columns = np.nonzero((strongest == color) & (picture.max(-1) > 90))
    return (rows.mean() + 0.5) / picture.shape[0], (columns.mean() + 0.5) / picture.shape[1]


def test_a_picture_shows_things_where_the_state_says():
    """Puck (red), goal (green) and effector (blue) of planar/push, to 2 cm at 64 pixels."""
    adapter = EnvAdapter(seen("planar/push"))
    adapter.reset(5)
    for _ in range(3):
        result = adapter.step(np.array([0.6, 0.9]))
    state, picture = result.observation["state"], result.observation["images.top"]
    for color, first in ((2, 0), (0, 4), (1, 8)):
        row, column = place(picture, color)
        x, y = 0.65 * (2 * column - 1), 0.65 * (1 - 2 * row)
        assert np.allclose((x, y), state[first : first + 2], atol=0.02)


@pytest.mark.slow
def test_drawing_changes_nothing_of_the_simulation():
    plain, looked = EnvAdapter(registry.get("planar/push")), EnvAdapter(seen("planar/push"))
    a, b = plain.reset(3), looked.reset(3)
    quality = looked.built.model.vis.quality
    before = (quality.offsamples, quality.shadowsize)
    rng = np.random.default_rng(0)
    for _ in range(30):
        action = rng.uniform(-1, 1, 2)
        a, b = plain.step(action).observation, looked.step(action).observation
        assert np.array_equal(a["state"], b["state"])
    assert np.array_equal(plain.built.data.qpos, looked.built.data.qpos)
    assert (quality.offsamples, quality.shadowsize) == before


@pytest.mark.slow
def test_depth_is_in_millimetres():
    """A camera 3 m above the plane: the puck's top is 8 cm nearer than its middle."""
    adapter = EnvAdapter(seen("planar/push", depth=True))
    first = adapter.reset(5)
    row, column = place(first["images.top"], 0)
    depth = first["depth.top"][..., 0]
    assert abs(int(depth[int(row * 64), int(column * 64)]) - 2920) <= 4
    assert depth[0, 0] == 0  # nothing is there


@pytest.mark.slow
def test_sizes_and_models_share_one_context_without_harm(gl):
    """Environments come and go, in other sizes, and pictures stay the same."""
    adapter = EnvAdapter(seen("planar/push"))
    adapter.reset(5)
    before = adapter.look()["images.top"]
    for size in (32, 200, 48):
        for name in ("planar/reach", "planar/drawer"):
            other = EnvAdapter(seen(name, size=size))
            assert other.reset(1)["images.top"].shape == (size, size, 3)
            other.close()
    assert np.array_equal(adapter.look()["images.top"], before)


@pytest.mark.slow
def test_models_that_are_put_away_are_loaded_again(monkeypatch, gl):
    monkeypatch.setattr(screens, "KEPT", 1)
    monkeypatch.setattr(screens, "key_of", lambda model, plain: repr(id(model)))
    one, two = EnvAdapter(seen("planar/push")), EnvAdapter(seen("planar/reach"))
    first = one.reset(5)["images.top"]
    other = two.reset(5)["images.top"]
    assert np.array_equal(one.look()["images.top"], first)
    assert np.array_equal(two.look()["images.top"], other)


@pytest.mark.slow
def test_ruined_pictures_are_noticed(monkeypatch, gl):
    """As when another context's collection takes what a model is drawn from."""
    monkeypatch.setattr(screens, "AGAIN", 2)
    adapter = EnvAdapter(seen("planar/obstacle"))
    adapter.reset(5)
    screen = screens.screen(gl)  # of this thread
    pixels = screen._pixels

    def noise(*args):
        picture, depths = pixels(*args)
        return np.random.default_rng(0).integers(0, 255, picture.shape, dtype=np.uint8), depths

    monkeypatch.setattr(screen, "_pixels", noise)
    with pytest.raises(UserError, match="drawn again is another"):
        for _ in range(4):
            adapter.look()


@pytest.mark.slow
def test_a_camera_that_sees_nothing_is_refused():
    away = {"images.away": Camera(Pose((0, 0, 3), (0, 0, 6), (0, 1, 0)))}
    spec = replace(registry.get("planar/push"), cameras=away)
    with pytest.raises(UserError, match="first picture of camera 'images.away' are .0, 0, 0"):
        EnvAdapter(with_cameras(spec, RenderingSettings(cameras=("images.*",)))).reset(0)


@pytest.mark.slow
def test_a_camera_that_the_model_lacks_is_named():
    spec = replace(registry.get("planar/push"), cameras={"images.a": Camera("overview")})
    with pytest.raises(UserError, match="camera 'overview', which its model does not have"):
        EnvAdapter(with_cameras(spec, RenderingSettings(cameras=("images.*",)))).reset(0)


@pytest.mark.slow
def test_a_camera_on_a_body_goes_with_it():
    above = Pose((0, 0, 1.0), (0, 0, 0), (0, 1, 0), 30, body="effector")
    spec = replace(registry.get("planar/push"), cameras={"images.hand": Camera(above)})
    adapter = EnvAdapter(with_cameras(spec, RenderingSettings(cameras=("images.*",))))
    adapter.reset(4)
    for _ in range(5):
        picture = adapter.step(np.array([1.0, 0.3])).observation["images.hand"]
        row, column = place(picture, 2)
        assert abs(row - 0.5) < 0.03 and abs(column - 0.5) < 0.03


@pytest.mark.slow
def test_episodes_are_drawn_afterwards_as_they_were_live():
    """With everything randomised: changes come from the episode's seed."""
    spec = seen("planar/push", randomize=EVERY)
    (live,) = rollout([Job(spec.id, 7, "expert")], {spec.id: spec}, {}, lanes=1)
    kept = replace(live, observations={"state": live.observations["state"]})
    frames = render_episode(spec, kept)["images.top"]
    assert np.array_equal(frames, live.observations["images.top"])
    plain = render_episode(seen("planar/push"), kept)["images.top"]
    assert np.abs(plain.astype(int) - frames).mean() > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in EVERY if k != "textures"])
def test_every_kind_of_randomisation_changes_pictures_by_the_seed(kind):
    adapter = EnvAdapter(seen("planar/push", randomize={kind: EVERY[kind]}))
    plain = EnvAdapter(seen("planar/push"))
    changed = [
        s
        for s in range(4)
        if (adapter.reset(s)["images.top"] != plain.reset(s)["images.top"]).any()
    ]
    assert len(changed) >= 2
    assert np.array_equal(adapter.reset(2)["images.top"], adapter.reset(2)["images.top"])


def test_changes_lie_within_their_ranges():
    ranges = Ranges(0.05, 4.0, (0.5, 1.5), 0.2, 0.5, 3)
    every = [drawn(ranges, seed, ["images.a", "images.b"], (10, 2, 4)) for seed in range(200)]
    shifts = np.array([c.shift["images.a"] for c in every])
    assert 0.04 < np.abs(shifts).max() <= 0.05 and abs(shifts.mean()) < 0.01
    light = np.concatenate([c.light for c in every])
    assert 0.5 <= light.min() < 0.52 and 1.48 < light.max() <= 1.5
    worn = np.concatenate([c.materials for c in every])
    assert 0.45 < (worn > -2).mean() < 0.55 and worn.max() == 3
    assert {len(c.distractors) for c in every} == {0, 1, 2, 3}
    alone = drawn(ranges, 5, ["images.b"], (10, 2, 4))
    assert np.array_equal(alone.shift["images.b"], every[5].shift["images.b"])


@pytest.mark.slow
def test_metaworld_shows_the_goal_where_it_is():
    """The goal's mark moves after the simulation was last looked at."""
    pytest.importorskip("metaworld")
    spec = registry.get("metaworld/reach-v3")
    above = Pose((0, 0.7, 1.5), (0, 0.7, 0), (0, 1, 0), 40)
    spec = with_cameras(
        replace(spec, cameras={"images.above": Camera(above, 128, 128)}),
        RenderingSettings(cameras=("images.*",)),
    )
    adapter = EnvAdapter(spec)
    for seed in (1, 2):
        first = adapter.reset(seed)
        state = first["state"].astype(float)
        picture = first["images.above"].astype(int)
        red = (picture[..., 0] > 200) & (picture[..., 1:].max(-1) < 60)  # the mark glows
        rows, columns = np.nonzero(red)
        away = 1.5 - state[38]  # of the camera from the goal's height
        half = away * np.tan(np.deg2rad(20))
        x, y = half * (2 * (columns + 0.5) / 128 - 1), 0.7 + half * (1 - 2 * (rows + 0.5) / 128)
        near = np.hypot(x - state[36], y - state[37]) < 0.03
        assert near.any()


@pytest.mark.slow
def test_thinned_meshes_look_the_same(monkeypatch):
    """At 64 pixels; the simulated model keeps its faces."""
    pytest.importorskip("metaworld")
    adapter = EnvAdapter(seen("metaworld/door-open-v3"))
    thin = adapter.reset(1)
    model = adapter.built.env.model
    assert int(model.mesh_facenum.sum()) > 60_000
    shown = copy.copy(model)
    screens.thinned(shown)
    assert int(shown.mesh_facenum.sum()) < 15_000
    monkeypatch.setattr(screens, "thinned", lambda model: None)
    monkeypatch.setattr(screens, "key_of", lambda model, plain: "whole")
    whole = EnvAdapter(seen("metaworld/door-open-v3")).reset(1)
    for name in ("images.corner", "images.side", "images.top"):
        apart = np.abs(thin[name].astype(int) - whole[name])
        assert apart.mean() < 3 and apart.max() > 0
