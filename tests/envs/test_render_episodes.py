"""Pictures of recorded episodes, drawn after the fact."""

from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rendering import with_cameras
from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.rendering import Frames, render_episode, render_episodes
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.suites.pusht import start_of_seed
from alltrades.errors import UserError
from alltrades.pipeline.rendering import render_store
from tests.envs.drawn import BLIND, CAMERA, PARTS, Drawn

SPEC = with_cameras(
    replace(BLIND, cameras=CAMERA, parts=PARTS),
    RenderingSettings(cameras=("images.top",), proprioception=True),
)


class Still:
    """A controller that sees nothing."""

    lanes = 1

    def begin(self, lane, environment, seed):
        pass

    def plan(self, frames):
        return {lane: np.zeros((4, 1), np.float32) for lane in frames}


@pytest.fixture(scope="module")
def live():
    """Three episodes with their pictures."""
    jobs = [Job(SPEC.id, seed, "p") for seed in (3, 4, 5)]
    return list(rollout(jobs, {SPEC.id: SPEC}, {"p": Still()}, lanes=1))


@pytest.fixture
def kept(live):
    """The same as they are kept: states alone."""
    return [replace(e, observations={"state": e.observations["state"]}) for e in live]


def same(frames, episode):
    return all(np.array_equal(v, episode.observations[name]) for name, v in frames.items())


def test_an_episode_is_drawn_as_it_was_seen(live, kept):
    frames = render_episode(SPEC, kept[0])
    assert set(frames) == {"images.top", "proprioception"} and same(frames, live[0])


def test_some_steps_of_some_fields_are_drawn_alone(live, kept):
    Drawn.drawn = 0
    frames = render_episode(SPEC, kept[0], ["images.top"], steps=[0, 3, 6])
    assert list(frames) == ["images.top"] and Drawn.drawn == 3
    assert np.array_equal(frames["images.top"], live[0].observations["images.top"][[0, 3, 6]])
    every_third = render_episodes(
        {SPEC.id: SPEC}, kept[:1], ["images.top"], steps=lambda e: range(0, len(e), 3)
    )
    (thinned,) = every_third
    assert len(thinned["images.top"]) == 4


def test_an_episode_that_does_not_repeat_is_refused(kept):
    state = kept[0].observations["state"].copy()
    state[7, 2] += 1e-6
    with pytest.raises(UserError, match="another at step 7: 'state' is 5 at entry 2, recorded 5.0"):
        render_episode(SPEC, replace(kept[0], observations={"state": state}))
    with pytest.raises(UserError, match="has no actions"):
        render_episode(SPEC, replace(kept[0], actions=None))
    with pytest.raises(UserError, match="'images.tip' is nothing"):
        render_episode(SPEC, kept[0], ["images.tip"])
    with pytest.raises(UserError, match="'images.tip' is nothing that cameras of toy/drawn make"):
        list(render_episodes({SPEC.id: SPEC}, kept, ["images.tip"]))
    with pytest.raises(UserError, match="nothing is asked"):
        render_episode(SPEC.without_rendering, kept[0])


def test_workers_draw_the_same_in_order(live, kept):
    with Crew(2) as crew:
        found = list(render_episodes({SPEC.id: SPEC}, kept, crew=crew))
    assert len(found) == 3 and all(map(same, found, live))


def test_pictures_are_kept_by_all_that_they_depend_on(live, kept, tmp_path):
    frames = Frames(tmp_path)
    list(render_episodes({SPEC.id: SPEC}, kept[:2], frames=frames))
    Drawn.drawn = 0
    found = list(render_episodes({SPEC.id: SPEC}, kept, frames=frames))
    assert Drawn.drawn == 10 and all(map(same, found, live))  # the third alone
    files = list(tmp_path.rglob("*.npz"))
    assert len(files) == 3
    files[0].write_bytes(b"torn")
    assert all(map(same, render_episodes({SPEC.id: SPEC}, kept, frames=frames), live))
    smaller = with_cameras(SPEC, RenderingSettings(cameras=("images.top",), size=4))
    assert (
        next(render_episodes({SPEC.id: smaller}, kept, frames=frames))["images.top"].shape[1] == 4
    )


def test_a_store_is_continued_by_what_it_lacks(live, kept, tmp_path):
    source, out = tmp_path / "states.zarr", tmp_path / "seen.zarr"
    with EpisodeStore.create(source, [BLIND.interface], {"kind": "rollouts"}) as store:
        store.append(kept[:2])
    with Crew(0) as crew:
        render_store(source, out, [SPEC], crew)
        with EpisodeStore.open(source, mode="a") as store:
            store.append(kept[2:])
        Drawn.drawn = 0
        made = render_store(source, out, [SPEC], crew)
        assert Drawn.drawn == 10 and made.provenance["kind"] == "rollouts"
        assert [e.seed for e in made.episodes()] == [3, 4, 5]
        assert all(same(e.observations, x) for e, x in zip(made.episodes(), live))
        smaller = with_cameras(SPEC, RenderingSettings(cameras=("images.top",), size=4))
        with pytest.raises(UserError, match="of other pictures"):
            render_store(source, out, [smaller], crew)
        other = tmp_path / "other.zarr"
        EpisodeStore.write(other, kept[1:])
        with pytest.raises(UserError, match="of other episodes"):
            render_store(other, out, [SPEC], crew)


def test_published_pushes_are_drawn_where_their_states_say():
    """People's episodes are of another simulator, which does not repeat them: they are placed."""
    pytest.importorskip("gym_pusht")
    spec = with_cameras(
        registry.get("pusht/keypoints-v0"), RenderingSettings(cameras=("images.top",))
    )
    block = start_of_seed(100_003)[2:4]  # the agent pushes through it
    target = np.repeat(np.array([block, block + 60], np.float32), 12, axis=0)

    class Going(Still):
        def plan(self, frames):
            return {lane: target for lane in frames}

    (episode,) = rollout([Job(spec.id, 100_003, "p")], {spec.id: spec}, {"p": Going()}, lanes=1)
    frames = render_episode(spec, episode, steps=[0, 10, 23])["images.top"]
    seen = episode.observations["images.top"][[0, 10, 23]]
    assert (frames != seen).mean() < 0.005 and (seen[0] != seen[2]).mean() > 0.01
    (stepped,) = render_episodes({spec.id: spec}, [episode], place=False)
    assert same(stepped, episode)  # of our own simulator, which repeats them bit for bit


def test_a_specification_without_pictures_keeps_parts_of_its_states():
    assert list(SPEC.without_pictures.observation) == ["state", "proprioception"]
    assert SPEC.without_pictures.rendering.parts == SPEC.rendering.parts
    pictures = with_cameras(
        replace(BLIND, cameras=CAMERA), RenderingSettings(cameras=("images.*",))
    )
    assert pictures.without_pictures == pictures.without_rendering
