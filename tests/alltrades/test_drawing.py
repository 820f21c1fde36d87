"""Rollouts of teachers that see states, and the pictures that are drawn of them afterwards."""

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades import cli
from alltrades.data import store as stores
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts import rendering
from alltrades.pipeline.context import Context
from alltrades.pipeline.drawing import draw, drawn_of, pictured, positions
from alltrades.pipeline.resolution import resolve
from alltrades.pipeline.rollouts import record
from alltrades.pipeline.rundir import RunDir
from alltrades.pipeline.runner import run
from alltrades.pipeline.visits import _drawn
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.settings import PolicySettings
from alltrades.settings.run import RunSettings
from tests.alltrades import looking, test_eyes
from tests.alltrades.contexts import context_of

NAMES = ["planar/reach", "planar/push"]
CAMERA = "images.top"


def context(workers: int = 0, manifest=None, **rendering_of) -> Context:
    """Two planar tasks, of which a generalist sees the camera, and teachers the state."""
    settings = RunSettings.model_validate(
        {
            "environments": NAMES,
            "policy": {"observe": [CAMERA, "proprioception"]},
            "specialist": {"observe": ["state"]},
            "rendering": {"size": 16, **rendering_of},
            "rollout": {"workers": workers, "timeout": 60 * (workers > 0), "lanes": 4},
        }
    )
    specs = [replace(s, max_steps=12) for s in resolve(settings)[0]]
    return context_of(specs, manifest=manifest, settings=settings)


def teachers(of: Context, observe=("state",)):
    settings = PolicySettings(width=16, depth=1, observe=observe)
    seen = [s.interface.seeing(observe) for s in of.specs]
    return {e.id: build_policy(settings, [e], Normalizer(Layout([e])), 0) for e in seen}


def recorded(of: Context, path, observe=("state",)) -> EpisodeStore:
    record(of, teachers(of, observe), "scratch", 3, 1, path)
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Rollouts with the pictures that were seen as they were acted."""
    path = tmp_path_factory.mktemp("live") / "rollouts.zarr"
    return recorded(context(cameras=[CAMERA]), path)


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    return recorded(context(), tmp_path_factory.mktemp("blind") / "rollouts.zarr")


def test_rollouts_of_state_teachers_are_recorded_without_pictures(live, blind, monkeypatch):
    fields = [set(s.interfaces()[NAMES[0]].observation) for s in (live, blind)]
    assert fields == [{"state", "proprioception", CAMERA}, {"state", "proprioception"}]
    for a, b in zip(live.episodes(), blind.episodes()):
        assert a.seed == b.seed and np.array_equal(a.actions, b.actions)
        assert np.array_equal(a.observations["state"], b.observations["state"])


def test_teachers_that_look_see_what_they_plan_by_and_no_picture_is_recorded(tmp_path):
    observe, found = (CAMERA, "proprioception"), []
    for name, cameras in (("live", [CAMERA]), ("late", [])):
        found.append(recorded(context(cameras=cameras), tmp_path / f"{name}.zarr", observe))
    live, late = found
    assert [CAMERA in s.interfaces()[NAMES[0]].observation for s in found] == [True, False]
    for a, b in zip(live.episodes(), late.episodes()):
        assert np.array_equal(a.actions, b.actions)
    draw(context(), "draw", late, {1: 1, 4: 1}, tmp_path / "kept.zarr")
    drawn = drawn_of(context(), late, [tmp_path / "kept.zarr"])
    seen = pictured(late.steps(), np.arange(len(late)), drawn)
    for e in (1, 4):
        rows = [s.choose(np.array([e])).observation[CAMERA].load() for s in (seen, live.steps())]
        assert np.array_equal(*rows)


def test_environments_that_do_not_repeat_are_recorded_as_they_are_seen(tmp_path):
    own = context()
    own = replace(own, specs=(replace(own.specs[0], reproducible=False), own.specs[1]))
    found = recorded(own, tmp_path / "mixed.zarr").interfaces()
    assert [CAMERA in found[name].observation for name in NAMES] == [True, False]


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_those_of_rollouts_that_were_recorded_with_them(
    live, blind, tmp_path, workers
):
    here = context(workers)
    eyes, kept = tmp_path / "eyes.zarr", tmp_path / "kept.zarr"
    numbers = np.arange(len(blind))
    with here.crew:
        draw(here, "draw/eyes", blind, dict.fromkeys(range(5), 3) | {5: 1}, eyes)
        draw(here, "draw", blind, {1: 1, 4: 1, 5: 1}, kept, [eyes])
    drawn = drawn_of(here, blind, [eyes, kept, tmp_path / "none.zarr"])
    seen, true = pictured(blind.steps(), numbers, drawn), live.steps()
    left = seen.ends[seen.episode_of_step] - 1 - np.arange(len(seen))
    there = np.isin(seen.episode_of_step, [1, 4, 5]) | (left % 3 == 0)
    found, wanted = (s.observation[CAMERA].load((16, 16, 3)) for s in (seen, true))
    assert found.dtype == np.uint8 and np.array_equal(found[there], wanted[there])
    assert wanted[~there].any(axis=(1, 2, 3)).all() and not found[~there].any()
    assert sum(s.n_steps for s in drawn) == there.sum()  # nothing else, and nothing twice
    window = seen.choose(np.array([4, 1])).observation[CAMERA]
    assert np.array_equal(window.load(), true.choose(np.array([4, 1])).observation[CAMERA].load())


def test_pictures_are_added_to_episodes_of_environments_that_lack_them_alone(live, blind):
    """Others, which do not repeat, have theirs from when they were acted."""
    own, other = NAMES
    mixed = [b if b.environment == own else a for a, b in zip(live.episodes(), blind.episodes())]
    found = _drawn(context(), mixed, {own})
    assert {e.environment for e in mixed} == set(NAMES)
    for before, after, true in zip(mixed, found, live.episodes(), strict=True):
        assert np.array_equal(after.observations[CAMERA], true.observations[CAMERA])
        assert (after is before) == (before.environment == other)


def test_pictures_of_other_rollouts_or_cameras_are_not_taken(blind, tmp_path):
    out = tmp_path / "kept.zarr"
    draw(context(), "draw", blind, {0: 1}, out)
    assert len(drawn_of(context(), blind, [out])) == 1
    assert not drawn_of(context(style="simulator"), blind, [out])
    other = EpisodeStore.write(tmp_path / "other.zarr", [blind.episode(1)])
    assert not drawn_of(context(), other, [out])


def test_drawing_that_was_killed_goes_on_to_equal_bytes(blind, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "BATCH", 1)
    played, replay = [], rendering._replay

    def counted(spec, episode, *rest):
        played.append(episode.seed)
        if len(played) == 4:
            raise KeyboardInterrupt
        return replay(spec, episode, *rest)

    def drawing(folder):
        with RunDir(tmp_path / folder, 0) as rundir:
            here, wanted = context(manifest=rundir.manifest), dict.fromkeys(range(5), 2)
            draw(here, "draw", blind, wanted, folder_of(folder))
        return EpisodeStore.open(folder_of(folder))

    def folder_of(folder):
        return tmp_path / folder / "kept.zarr"

    monkeypatch.setattr(rendering, "AHEAD", 1)
    whole = drawing("whole")
    monkeypatch.setattr(rendering, "_replay", counted)
    with pytest.raises(KeyboardInterrupt):
        drawing("killed")
    before = len(EpisodeStore.open(folder_of("killed")))
    assert 0 < before < 5
    again = drawing("killed")
    assert len(played) == 4 + 5 - before
    assert again.digest() == whole.digest()
    files = [
        {p.relative_to(s.path): p.read_bytes() for p in s.path.rglob("*") if p.is_file()}
        for s in (whole, again)
    ]
    assert files[0] == files[1]
    drawing("killed")
    assert len(played) == 4 + 5 - before


def test_a_stride_and_what_it_leaves_are_all_steps():
    for length in range(1, 9):
        for k in range(1, 5):
            both = [*positions(length, k), *positions(length, -k)]
            assert sorted(both) == list(range(length))
    assert positions(7, 3).tolist() == [0, 3, 6] and positions(6, 4).tolist() == [1, 5]


# ---- runs ----------------------------------------------------------------------------------------
RUN = ("--eyes.train.steps", "20", "--eyes.starts", "4", "--distill.rollouts", "10")
RUN += ("--generalists.state.rollouts", "10", "--specialist.train.steps", "40")
RUN += ("--evaluation.rows", "[state,generalist]", "--evaluation.looks", "false")
RUN += ("--evaluation.perturbations", "[]", "--distill.teachers", "[scratch]")
RUN += ("--generalists.state.teachers", "[scratch]")


def test_generalists_learn_the_same_from_pictures_that_are_drawn_of_what_is_kept(tmp_path):
    digests = []
    for name, more in (("live", ("--rendering.cameras", f"[{CAMERA}]")), ("late", ())):
        run(test_eyes.settings(*RUN, *more), tmp_path / name)
        names = ("generalist", "eyes")
        weights = [p for n in names for p in (tmp_path / name / "policies" / n).glob("*.safet*")]
        digests.append([p.read_bytes() for p in sorted(weights, key=lambda p: str(p.name))])
    assert len(digests[0]) > 2 and digests[0] == digests[1]
    assert not list((tmp_path / "live/stores").glob("pictures*"))
    rollouts, drawn = (
        EpisodeStore.open(tmp_path / f"late/stores/{n}.zarr")
        for n in ("rollouts_scratch", "pictures_scratch_eyes")
    )
    success = rollouts.columns()["success"]
    assert 0 < success.sum() < 10 and drawn.provenance["episodes"] == list(range(10))
    assert drawn.provenance["strides"] == np.where(success, 1, 3).tolist()
    assert not (tmp_path / "late/stores/pictures_scratch.zarr").exists()  # nothing is left
    assert CAMERA not in rollouts.interfaces()["looking/spot"].observation
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "late").rglob("*.safetensors")}
    run(test_eyes.settings(*RUN), tmp_path / "late")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_eyes_may_learn_from_more_rollouts_than_generalists(tmp_path):
    words = (*RUN, "--eyes.every", "8", "--evaluation.rows", "[generalist]")
    for name, more in (("few", ()), ("many", ("--eyes.rollouts", "25"))):
        run(test_eyes.settings(*words, *more), tmp_path / name)
    few, many = (
        EpisodeStore.open(tmp_path / name / "stores/rollouts_scratch.zarr")
        for name in ("few", "many")
    )
    assert len(few) == 10 and len(many) == 25
    assert np.array_equal(few.columns()["seed"], many.columns()["seed"][:10])
    drawn = EpisodeStore.open(tmp_path / "many/stores/pictures_scratch_eyes.zarr").provenance
    success = many.columns()["success"]
    assert success[10:].any() and drawn["episodes"] == list(range(25))
    whole = success & (np.arange(25) < 10)  # what the generalist learns from
    assert drawn["strides"] == np.where(whole, 1, 8).tolist()
    frames = []
    for name in ("few", "many"):
        told = json.loads((tmp_path / name / "eyes.json").read_text())["looking/spot"]
        frames.append(told["frames"] + told["held_out_frames"])
    assert frames[1] - frames[0] == sum(max(1, -(-(n - 1) // 8)) for n in many.steps().lengths[10:])
    run(test_eyes.settings(*words, "--eyes.rollouts", "17"), tmp_path / "fewer")
    run(test_eyes.settings(*words, "--eyes.rollouts", "17"), tmp_path / "many")  # has 25
    assert len(EpisodeStore.open(tmp_path / "many/stores/rollouts_scratch.zarr")) == 25
    told = [(tmp_path / name / "eyes.json").read_text() for name in ("fewer", "many")]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "learns",
    [
        (),
        ("--distill.weights.kind", "none"),  # with labels that the teacher draws by what it sees
    ],
)
def test_rollouts_of_a_labeled_only_policy_that_looks_are_drawn_where_they_are_kept(
    tmp_path, learns
):
    words = ("--eyes.train.steps", "20", "--eyes.starts", "4", "--distill.rollouts", "8")
    words += ("--evaluation.rows", "[generalist]", "--evaluation.looks", "false")
    words += ("--evaluation.perturbations", "[]", "--distill.teachers", "[scratch,labeled_only]")
    digests = []
    for name, more in (("live", ("--rendering.cameras", f"[{CAMERA}]")), ("late", ())):
        run(test_eyes.settings(*words, *learns, *more), tmp_path / name)
        digests.append(load_policy(tmp_path / name / "policies/generalist").digest())
    assert digests[0] == digests[1]
    stores = tmp_path / "late/stores"
    rollouts = EpisodeStore.open(stores / "rollouts_labeled_only.zarr")
    assert CAMERA not in rollouts.interfaces()["looking/spot"].observation
    drawn = EpisodeStore.open(stores / "pictures_labeled_only.zarr").provenance["episodes"]
    success = rollouts.columns()["success"]
    assert 0 < success.sum() < 8
    assert drawn == np.flatnonzero(success | bool(learns)).tolist()


def test_nothing_is_drawn_for_generalists_that_see_states_alone(tmp_path):
    plain = ("--policy.encoder.pretrain", "null", "--policy.encoder.frozen", "false")
    run(test_eyes.settings(*RUN, *plain, "--evaluation.rows", "[state]"), tmp_path)
    assert not list((tmp_path / "stores").glob("pictures*"))
    found = EpisodeStore.open(tmp_path / "stores/rollouts_scratch.zarr").interfaces()
    assert CAMERA not in found["looking/spot"].observation


def test_distill_draws_what_rollouts_lack(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "is_built_in", lambda name: True)
    words = ["--environments", "looking/spot", "--plugins", "[tests.alltrades.looking]", "--small"]
    words += ["--rollout.workers", "0", "--rollout.timeout", "0", "--rollout.lanes", "4"]
    words += ["--specialist.observe", "[state]", "--policy.observe", f"[{CAMERA}, proprioception]"]
    words += ["--distill.weights.kind", "success", "--distill.train.steps", "8"]
    words += ["--distill.rollouts", "6"]
    demos, policies = tmp_path / "demos.zarr", tmp_path / "specialists"

    def do(*command):
        assert cli.main([*map(str, command), *words]) == 0

    do("collect", "--demos.episodes", "4", "--out", demos)
    do("train", "specialists", "--demos", demos, "--out", policies)
    digests = []
    for name, more in (("live", ["--rendering.cameras", f"[{CAMERA}]"]), ("late", [])):
        store = tmp_path / f"{name}.zarr"
        do("rollout", policies, "--episodes", "6", *more, "--out", store)
        given = f"scratch={policies}:{store}"
        do("distill", "--demos", demos, "--teacher", given, "--out", tmp_path / name)
        digests.append(load_policy(tmp_path / name).digest())
    assert digests[0] == digests[1]
    drawn = [
        list((tmp_path / n / ".stage").glob("pictures_scratch.zarr")) for n in ("live", "late")
    ]
    success = EpisodeStore.open(tmp_path / "late.zarr").columns()["success"]
    assert not drawn[0] and len(EpisodeStore.open(drawn[1][0])) == success.sum()


def test_later_tries_of_a_generalist_that_looks_are_drawn_where_they_are_kept(
    tmp_path, monkeypatch
):
    words = ("--eyes.train.steps", "20", "--eyes.starts", "4", "--distill.rollouts", "6")
    words += ("--evaluation.rows", "[generalist]", "--evaluation.looks", "false")
    words += ("--evaluation.perturbations", "[]", "--distill.rounds.count", "1")
    words += ("--distill.rounds.episodes", "8", "--distill.rounds.tries", "4")
    words += ("--distill.rounds.train.steps", "8", "--distill.rounds.selection", "2")
    looks, look, found = [], looking.Spot.render, []

    def counted(self):
        looks.append(0)
        return look(self)

    monkeypatch.setattr(looking.Spot, "render", counted)
    for name, more in (("live", ("--rendering.cameras", f"[{CAMERA}]")), ("late", ())):
        before = len(looks)
        run(test_eyes.settings(*words, *more), tmp_path / name)
        store = EpisodeStore.open(tmp_path / name / "stores/generalist_round1.zarr")
        digest = load_policy(tmp_path / name / "policies/generalist").digest()
        found.append((store.digest(), digest, len(looks) - before))
        again = [of["looking/spot"] for of in store.provenance["tries"][1:]]
        assert sum(of["n"] for of in again) > sum(of["kept"] for of in again) > 0
    (live, one, many), (late, other, few) = found
    assert live == late and one == other and few < many
