"""`alltrades data check --replay`: the actions of a store, played back in the simulator."""

from dataclasses import replace

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.checks.examine import examine_stores
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.checking.replay import Replay

REACH = "planar/reach"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("replayed") / "reach.zarr"
    words = ["collect", "--environments", REACH, "--demos.episodes", "5", "--out", str(path)]
    assert main(words) == 0
    return EpisodeStore.open(path)


def replayed(store: EpisodeStore, most: int | None = None):
    (examined,) = examine_stores([store], {})[1]
    return Replay(examined, store, registry.get(REACH), most).run()


def changed(tmp_path, store: EpisodeStore, change) -> EpisodeStore:
    """A copy in which `change(episode, i)` stands for episode i."""
    episodes = (change(e, i) for i, e in enumerate(store.episodes()))
    return EpisodeStore.write(tmp_path / "changed.zarr", episodes)


def test_what_the_simulator_recorded_plays_back_exactly(recorded, capsys):
    assert main(["data", "check", str(recorded.path), "--replay"]) == 0
    said = capsys.readouterr().out
    assert "note: replay: planar/reach: 5 of 5 episodes play back as they were recorded" in said
    assert "largest deviation of 'state' 0 (0.00%); success agrees in 5 of 5" in said


def test_other_actions_are_found_with_field_step_deviation_and_success(tmp_path, recorded):
    def change(e: Episode, i: int) -> Episode:
        actions = e.actions.copy()
        actions[5:] *= -1
        return replace(e, actions=actions) if i == 2 else e

    found = replayed(changed(tmp_path, recorded, change))
    leaves, success = (f for f in found if f.severity == "error")
    assert (leaves.episode, leaves.step, leaves.field) == (2, 6, "state")
    assert "leaves the recording at step 6" in leaves.what and "of its range" in leaves.what
    assert success.episode == 2 and "does not succeed; recorded, it succeeds" in success.what
    assert "4 of 5 episodes" in found[-1].what and "agrees in 4 of 5" in found[-1].what


def test_small_deviations_are_warnings_and_smaller_ones_are_nothing(tmp_path, recorded):
    width = np.ptp(np.concatenate([e.observations["state"] for e in recorded.episodes()]), axis=0)

    def change(e: Episode, i: int) -> Episode:
        state = e.observations["state"].copy()
        state[7, 0] += {1: 0.01, 3: 1e-4}.get(i, 0.0) * width[0]
        return replace(e, observations={"state": state})

    found = replayed(changed(tmp_path, recorded, change))
    assert [(f.severity, f.episode, f.step, f.dimension) for f in found[:-1]] == [
        ("warning", 1, 7, 0)
    ]


def test_an_episode_of_another_seed_is_named_and_the_others_are_played(tmp_path, recorded):
    store = changed(tmp_path, recorded, lambda e, i: replace(e, seed=e.seed + (i == 4)))
    found = replayed(store)
    (other,) = (f for f in found if f.severity == "warning")
    assert other.episode == 4 and "it does not start as its seed does" in other.what
    assert "4 of 5 episodes" in found[-1].what


def test_a_store_without_seeds_is_one_line_that_says_what_is_needed(tmp_path, recorded):
    store = changed(tmp_path, recorded, lambda e, i: replace(e, seed=i))
    (found,) = replayed(store)
    assert "of 5 that were tried none begins as its seed does" in found.what
    assert (
        found.severity == "warning" and "what the environment's `reset` was given" in found.remedy
    )


def test_so_many_episodes_are_played_as_are_asked_for(recorded):
    assert "2 of 2 episodes" in replayed(recorded, 2)[-1].what


def test_an_episode_that_goes_on_after_the_simulator_ends_is_found(tmp_path, recorded):
    def change(e: Episode, i: int) -> Episode:
        if i:
            return e
        state = np.concatenate([e.observations["state"], e.observations["state"][-1:]])
        actions, flags = np.concatenate([e.actions, e.actions[-1:]]), [*e.successes, True]
        return Episode.from_arrays({"state": state}, actions, REACH, None, flags, "demo", e.seed)

    (over,) = (f for f in replayed(changed(tmp_path, recorded, change)) if "is over" in f.what)
    assert (over.severity, over.episode) == ("warning", 0)
    assert f"over after {len(recorded.episode(0))} steps" in over.what


def test_environments_without_a_simulator_and_negative_numbers_are_told(tmp_path, capsys):
    e = Episode.from_arrays({"state": np.eye(9)}, np.eye(9), "lab/none")
    path = EpisodeStore.write(tmp_path / "a.zarr", [e]).path
    main(["data", "check", str(path), "--replay"])
    assert (
        "it cannot be played back: it is not registered with a simulator" in capsys.readouterr().out
    )
    assert main(["data", "check", str(path), "--replay", "-1"]) == 2
    assert "--replay -1: expected so many episodes" in capsys.readouterr().err
