"""Planted faults are found where they are, and nothing else is an error."""

import numpy as np
import pytest
import zarr

from alltrades.data.actions import ActionSpec
from alltrades.data.store import EpisodeStore
from tests.data.checks.planted import check, declared, recordings, store

E, S = 7, 20  # where faults are planted
FAULTS = {}


def fault(kind, severity, episode=E, step=S, camera=False, near=0):
    """Register what plants a fault, and what is to be found."""

    def keep(plant):
        FAULTS[plant.__name__] = (plant, kind, severity, episode, step, camera, near)
        return plant

    return keep


@fault("not finite", "error")
def nan(raw):
    raw[E]["state"][S, 2] = np.nan


@fault("not finite", "error")
def infinite(raw):
    raw[E]["state"][S:, 0] = np.inf


@fault("short", "error", step=None)
def one_step(raw):
    raw[E] = {k: v if isinstance(v, str) else v[:1] for k, v in raw[E].items()}


@fault("short", "error", step=None)
def two_steps(raw):
    raw[E] = {k: v if isinstance(v, str) else v[:2] for k, v in raw[E].items()}


@fault("empty text", "warning", step=None)
def no_words(raw):
    raw[E]["task"] = "  "


@fault("time", "warning")
def gap(raw):
    raw[E]["timestamp"][S:] += 0.25


@fault("time", "error")
def long_gap(raw):
    raw[E]["timestamp"][S:] += 30


@fault("time", "error")
def time_goes_back(raw):
    raw[E]["timestamp"][S:] -= 1


@fault("time", "warning", step=None)
def jitter(raw):
    rng = np.random.default_rng(0)
    raw[E]["timestamp"] += rng.uniform(0, 0.045, raw[E]["timestamp"].shape).astype(np.float32)


@fault("constant", "warning", episode=None, step=None)
def constant(raw):
    for r in raw:
        r["state"][:, 4] = 0.3


@fault("constant", "warning", step=0)
def constant_in_one(raw):
    raw[E]["state"][:, 1] = 0.3


@fault("saturated", "warning", episode=None, step=None)
def saturated(raw):
    for r in raw:
        r["action"][:, 1] = r["action"][:, 1].clip(None, 0.25)


@fault("wrapping", "warning", episode=None, step=None)
def wrapping(raw):
    for r in raw:
        angle = np.cumsum(np.full(len(r["state"]), 0.15)) + r["state"][:, 0]
        r["state"][:, 5] = np.mod(angle, 2 * np.pi) - np.pi


@fault("outlier", "warning")
def outlier(raw):
    raw[E]["state"][S, 3] = 25


@fault("outlier", "error")
def absurd(raw):
    raw[E]["state"][S, 3] = -1e6


@fault("outlier", "warning")
def spike_within_range(raw):
    raw[E]["state"][S, 3] += np.float32(1.4) * -np.sign(raw[E]["state"][S, 3])


@fault("idle", "warning", step=0)
def idle_head(raw):
    _hold(raw[E], 0, 18)


@fault("idle", "warning", step=None)
def idle_tail(raw):
    _hold(raw[E], len(raw[E]["state"]) - 19, 18)


@fault("idle", "warning", step=0)
def nothing_moves(raw):
    for name in ("state", "action"):
        raw[E][name][:] = raw[E][name][0]


@fault("duplicate", "error", step=0)
def duplicate(raw):
    raw[E] = raw[2]


@fault("duplicate", "warning", step=0)
def cut_duplicate(raw):
    raw[E] = {k: v if isinstance(v, str) else v[5:].copy() for k, v in raw[2].items()}


@fault("duplicate", "warning", step=0)
def noisy_duplicate(raw):
    rng = np.random.default_rng(3)
    raw[E] = {k: v if isinstance(v, str) else v.copy() for k, v in raw[2].items()}
    raw[E]["state"] += rng.normal(0, 2e-3, raw[E]["state"].shape).astype(np.float32)


@fault("lag", "warning", episode=None, step=None)
def actions_late(raw):
    for r in raw:
        r["action"] = np.concatenate([r["action"][:1].repeat(5, 0), r["action"][:-5]])


@fault("lag", "warning", step=None)
def actions_late_in_one(raw):
    raw[E]["action"] = np.concatenate([raw[E]["action"][:1].repeat(6, 0), raw[E]["action"][:-6]])


@fault("success", "warning", episode=0, step=None)
def failures(raw):
    for r in raw[:15]:
        r["successes"] = np.zeros(len(r["state"]), bool)


@fault("black", "error", camera=True)
def black(raw):
    raw[E]["images.front"][S : S + 3] = 0


@fault("torn", "warning", camera=True)
def torn(raw):
    x = raw[E]["images.front"]
    x[S, 30:] = np.roll(x[S, 30:], 30, axis=1)


@fault("torn", "warning", camera=True)
def half_a_picture(raw):
    raw[E]["images.front"][S, 25:] = raw[E]["images.front"][S, 24]


@fault("torn", "warning", camera=True)
def half_of_the_picture_before(raw):
    raw[E]["images.front"][S, 25:] = raw[E]["images.front"][S - 1, 25:]


@fault("frozen", "warning", camera=True, step=S + 1)
def frozen(raw):
    raw[E]["images.front"][S : S + 12] = raw[E]["images.front"][S]


@fault("frozen", "error", camera=True, step=4)
def frozen_for_most(raw):
    raw[E]["images.front"][3:] = raw[E]["images.front"][3]


@fault("dropped", "warning", camera=True)
def dropped(raw):
    raw[E]["images.front"][S] = raw[E]["images.front"][S - 1]


def _hold(r, first, count):
    for name in ("state", "action"):
        held = np.repeat(r[name][first : first + 1], count, 0)
        noise = np.random.default_rng(1).normal(0, 1e-3, held.shape) if name == "state" else 0
        if first:
            r[name][first + 1 :] = (held + noise)[: len(r[name]) - first - 1]
        else:
            r[name][:count] = held + noise
    if not first:
        r["state"][count:] += r["state"][count - 1] - r["state"][count]
        r["action"][count:] += r["action"][count - 1] - r["action"][count]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    return {
        camera: check(store(folder / f"{camera}.zarr", recordings(camera=camera)))
        for camera in (False, True)
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_where_it_is(name, tmp_path, clean):
    plant, kind, severity, episode, step, camera, _ = FAULTS[name]
    raw = recordings(camera=camera)
    plant(raw)
    found = check(store(tmp_path / "a.zarr", raw))
    mine = [f for f in found if f.kind == kind and f.severity == severity]
    assert mine, [str(f) for f in found]
    if episode is not None:
        assert {f.episode for f in mine} == {episode}, [str(f) for f in mine]
    if step is not None:
        assert any(f.step == step for f in mine), [str(f) for f in mine]
    assert not [f for f in clean[camera] if (f.kind, f.severity) == (kind, severity)]
    other = [str(f) for f in found if f.severity == "error" and f.kind != kind]
    assert not other


@pytest.mark.parametrize("camera", [False, True])
def test_clean_recordings_have_notes_alone(clean, camera):
    assert [str(f) for f in clean[camera] if f.severity != "note"] == []


def test_actions_outside_the_declared_box(tmp_path):
    raw = recordings()
    raw[E]["action"][S, 1] = 4.5
    found = check(store(tmp_path / "a.zarr", raw, declared()))
    (mine,) = [f for f in found if f.kind == "bounds"]
    assert (mine.severity, mine.episode, mine.step, mine.field, mine.dimension) == (
        "error",
        E,
        S,
        "action",
        1,
    )


def test_sizes_and_names_of_another_environment(tmp_path):
    names = ["a", "b", "c", "d"]
    kept = store(
        tmp_path / "a.zarr", recordings(), declared(action=ActionSpec.unknown(4, names=names))
    )
    other = declared(action=ActionSpec([-3] * 3, [3] * 3))
    (mine,) = [f for f in check(kept, expected={"lab/pick": other}) if f.kind == "description"]
    assert mine.severity == "error" and "actions have 4 numbers, not 3" in mine.what
    swapped = declared(action=ActionSpec([-3] * 4, [3] * 4, names=["a", "c", "b", "d"]))
    (mine,) = [f for f in check(kept, expected={"lab/pick": swapped}) if f.kind == "description"]
    assert (mine.severity, mine.field, mine.dimension) == ("error", "action", 1)
    assert not [f for f in check(kept, expected={"lab/pick": declared()}) if f.severity == "error"]


@pytest.mark.parametrize("factor", [1000, 180 / np.pi])
def test_units_of_environments_that_share_names(tmp_path, factor):
    far = recordings(seed=4)
    for r in far:
        r["state"] *= np.float32(factor)
    stores = [
        store(tmp_path / "a.zarr", recordings(), name="lab/pick"),
        store(tmp_path / "b.zarr", far, name="lab/place"),
    ]
    (mine,) = [f for f in check(*stores) if f.kind == "units"]
    assert (mine.severity, mine.environment, mine.field) == ("warning", "lab/place", "state")
    again = store(tmp_path / "c.zarr", recordings(seed=4), name="lab/place")
    assert not [f for f in check(stores[0], again) if f.kind == "units"]


def test_fields_of_unequal_lengths(tmp_path):
    raw, root = recordings(), zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.create_array("data/state", data=np.concatenate([r["state"] for r in raw]))
    root.create_array("data/action", data=np.concatenate([r["action"] for r in raw])[:-9])
    root.create_array("meta/episode_ends", data=np.cumsum([len(r["state"]) for r in raw]))
    (mine,) = [f for f in check(EpisodeStore.open(tmp_path / "a.zarr")) if f.severity == "error"]
    assert (mine.kind, mine.episode, mine.field) == ("lengths", 19, "action")


def test_a_foreign_store_with_nan_is_checked(tmp_path):
    raw, root = recordings(), zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    raw[E]["state"][S, 1] = np.nan
    for name in ("state", "action", "timestamp"):
        root.create_array(f"data/{name}", data=np.concatenate([r[name] for r in raw]))
    root.create_array("meta/episode_ends", data=np.cumsum([len(r["state"]) for r in raw]))
    (mine,) = [f for f in check(EpisodeStore.open(tmp_path / "a.zarr")) if f.severity == "error"]
    assert (mine.kind, mine.episode, mine.step, mine.dimension) == ("not finite", E, S, 1)
