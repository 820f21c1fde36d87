"""Changes of what is seen: of pictures, of scenes before they are drawn, of instructions."""

from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.perturbations import NAMES, PICTURES, Disturbed, check_names, perturbed
from alltrades.envs.rendering import with_cameras
from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.envs.rollouts.hosts import EXPERT
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.errors import UserError
from tests.alltrades import looking  # noqa: F401
from tests.envs.drawn import BLIND, CAMERA, Drawn

FIELDS = {
    "images.front": Field.image(24, 32),
    "images.wrist": Field.image(24, 32),
    "images.grey": Field.image(10, 12, 1),
    "images.float": Field.image(16, 16, 3, "float32"),
    "depth.front": Field.depth(24, 32),
    "state": Field.state(3),
    "instruction": Field.text(),
}


def observation(seed: int = 0):
    rng = np.random.default_rng(seed)
    out = {"state": np.ones(3, np.float32), "instruction": "lift it"}
    for name, f in FIELDS.items():
        if f.dtype == "float32" and f.kind == "image":
            out[name] = rng.uniform(0.1, 0.9, f.shape).astype(np.float32)
        elif f.kind == "image":
            out[name] = rng.integers(20, 200, f.shape).astype(f.dtype)
    return out


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_change_and_nothing_else_does(kind):
    seen = observation()
    before = {k: np.copy(v) for k, v in seen.items() if isinstance(v, np.ndarray)}
    out = Disturbed(kind, 5, FIELDS)(seen)
    assert out["instruction"] == "lift it" and np.array_equal(out["state"], seen["state"])
    assert all(np.array_equal(seen[k], v) for k, v in before.items())  # what is given stays
    for name in ("images.front", "images.float"):
        assert out[name].shape == seen[name].shape and out[name].dtype == seen[name].dtype
        assert not np.array_equal(out[name], seen[name])
    assert 0 <= out["images.float"].min() and out["images.float"].max() <= 1
    still = {"light": {"depth.front"}, "colors": {"depth.front", "images.grey"}}.get(kind, set())
    same = {n for n in ("depth.front", "images.grey") if np.array_equal(out[n], seen[n])}
    assert same == still


@pytest.mark.parametrize("kind", PICTURES)
def test_a_change_is_drawn_from_the_seed_once_an_episode(kind):
    one, again, other = (Disturbed(kind, seed, FIELDS) for seed in (5, 5, 9))
    first = one(observation(0))["images.front"]
    one(observation(1))
    assert np.array_equal(one(observation(0))["images.front"], first)
    assert np.array_equal(again(observation(0))["images.front"], first)
    assert not np.array_equal(other(observation(0))["images.front"], first)


def test_cameras_change_apart_and_depth_with_its_camera():
    seen = observation()
    seen["images.wrist"] = seen["images.front"].copy()
    seen["depth.front"] = seen["images.front"][..., :1].astype(np.uint16)
    out = Disturbed("shift", 2, FIELDS)(seen)
    assert not np.array_equal(out["images.wrist"], out["images.front"])
    assert np.array_equal(out["depth.front"][..., 0], out["images.front"][..., 0])


def test_a_shift_moves_the_picture_and_repeats_its_edge():
    seen = observation()
    moved = Disturbed("shift", 3, FIELDS)(seen)["images.front"]
    found = []
    for down in range(-4, 5):
        for right in range(-5, 6):
            rows = np.clip(np.arange(24) - down, 0, 23)
            columns = np.clip(np.arange(32) - right, 0, 31)
            if np.array_equal(seen["images.front"][rows][:, columns], moved):
                found.append((down, right))
    assert len(found) == 1 and found != [(0, 0)]


def test_a_tiny_picture_is_moved_by_a_pixel_at_least():
    fields = {"images.tiny": Field.image(4, 4)}
    seen = {"images.tiny": np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + 1}
    for seed in range(20):
        out = Disturbed("shift", seed, fields)(seen)
        assert not np.array_equal(out["images.tiny"], seen["images.tiny"])


def test_what_covers_depth_is_nearer_than_all_that_is_seen():
    seen = observation()
    out = Disturbed("occlusion", 1, FIELDS)(seen)["depth.front"]
    covered = out != seen["depth.front"]
    assert covered.any() and out[covered].max() < seen["depth.front"].min()


@pytest.mark.parametrize("kind", PICTURES)
def test_a_missing_frame_stays_missing(kind):
    seen = observation() | {"images.front": np.zeros((24, 32, 3), np.uint8)}
    assert not Disturbed(kind, 1, FIELDS)(seen)["images.front"].any()


def test_an_environment_shows_its_cameras_changed_and_acts_as_before():
    spec = with_cameras(replace(BLIND, cameras=CAMERA), RenderingSettings(cameras=("images.top",)))
    plain, dark = EnvAdapter(spec), EnvAdapter(perturbed(spec, "light", {"images.top"}))
    a, b = plain.reset(4), dark.reset(4)
    assert np.array_equal(a["state"], b["state"])
    for _ in range(3):
        a, b = (x.step(np.zeros(1)).observation for x in (plain, dark))
        assert np.array_equal(a["state"], b["state"])
    want = Disturbed("light", 4, spec.observation)(a)["images.top"]
    assert np.array_equal(b["images.top"], want) and not np.array_equal(want, a["images.top"])


class Seen(Drawn):
    """Its observation is a picture."""

    def look(self):
        return np.full((8, 8, 3), 100, np.uint8)


def test_pictures_of_the_environment_itself_change_too():
    spec = replace(BLIND, make=Seen, observation={"images.top": Field.image(8, 8)})
    out = EnvAdapter(replace(spec, perturbed="occlusion")).reset(2)["images.top"]
    assert (out == 100).any() and not (out == 100).all()


def test_what_is_not_seen_is_not_perturbed():
    spot = with_cameras(registry.get("looking/spot"), RenderingSettings(cameras=("images.top",)))
    for name in NAMES:
        assert perturbed(spot, name, {"state"}) is None
    assert [n for n in NAMES if perturbed(spot, n, {"images.top"})] == list(PICTURES)


def test_scenes_change_before_they_are_drawn_where_a_model_is():
    marks = with_cameras(
        registry.get("planar/marks"), RenderingSettings(cameras=("images.top",), backend="osmesa")
    )
    found = perturbed(marks, "scene-camera", {"images.top"})
    assert found.rendering.ranges.camera_angle > 0 and found.perturbed is None
    assert replace(found, rendering=marks.rendering) == marks
    assert perturbed(marks, "scene-camera", {"state"}) is None
    assert perturbed(marks.without_rendering, "scene-camera", {"state"}) is None


def test_instructions_change_where_they_are_seen_and_told_otherwise():
    marks = registry.get("planar/marks")
    seen = {"state", "instruction"}
    assert perturbed(marks, "wrong-instruction", seen).told == "wrong"
    assert perturbed(marks, "held-out-instruction", seen).told == "held_out"
    assert perturbed(marks, "training-instruction", seen) is None  # as it is told
    assert perturbed(marks, "wrong-instruction", {"state"}) is None
    assert perturbed(registry.get("planar/reach"), "wrong-instruction", seen) is None


def test_names_are_checked():
    check_names(NAMES, "x")
    with pytest.raises(UserError, match="no perturbation 'lihgt', did you mean 'light'"):
        check_names(["lihgt"], "evaluation.perturbations")
    with pytest.raises(UserError, match="names shift twice"):
        check_names(["shift", "shift"], "x")


@pytest.mark.parametrize("kind", ["distractor", "colors"])
def test_episodes_are_seen_changed_and_the_same_for_any_workers(kind):
    """By whoever records them, or acts by them."""
    spot = with_cameras(registry.get("looking/spot"), RenderingSettings(cameras=("images.top",)))
    jobs = [Job(spot.id, seed, EXPERT) for seed in range(5)]
    plain = list(rollout(jobs, {spot.id: spot}, {}))
    changed = perturbed(spot, kind, {"images.top"})
    for workers in (0, 2):
        found = list(rollout(jobs, {spot.id: changed}, {}, workers=workers))
        for before, after in zip(plain, found):
            assert np.array_equal(before.actions, after.actions)
            change = Disturbed(kind, before.seed, spot.observation)
            pictures = before.observations["images.top"]
            wanted = np.stack([change({"images.top": p})["images.top"] for p in pictures])
            assert np.array_equal(after.observations["images.top"], wanted)
            assert not np.array_equal(wanted, pictures)
