"""Which episodes are held out, and that nothing learns from them."""

import numpy as np
import pytest

from alltrades.data.store import EpisodeStore
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.holdout import held_out_places
from alltrades.pipeline.resolution import resolve
from alltrades.settings.run import RunSettings
from tests.alltrades.contexts import context_of
from tests.alltrades.recordings import FOLLOW, follow


@pytest.mark.parametrize(
    "count, share, expected",
    [(10, 0.2, 2), (10, 0, 0), (2, 0.2, 1), (3, 0.01, 1), (1, 0.2, 0), (2, 0.9, 1), (206, 0.2, 41)],
)
def test_share_is_held_out_but_at_least_one_and_never_all(count, share, expected):
    places = held_out_places(count, share, 0, "lab/arm")
    assert len(places) == expected == len(set(places.tolist()))
    assert all(0 <= p < count for p in places)


def test_choice_depends_on_seed_and_environment_alone():
    same = held_out_places(50, 0.2, 1, "lab/a").tolist()
    assert held_out_places(50, 0.2, 1, "lab/a").tolist() == same
    assert held_out_places(50, 0.2, 2, "lab/a").tolist() != same
    assert held_out_places(50, 0.2, 1, "lab/b").tolist() != same


def _demonstrations(path, **demos):
    settings = RunSettings(
        environments=[FOLLOW], demos={"path": str(path), "episodes": None, **demos}
    )
    return Demonstrations(context_of(resolve(settings)[0], settings=settings), path)


def test_recorded_episodes_are_learned_from_or_judged_on_and_never_both(tmp_path):
    found = _demonstrations(follow(tmp_path / "s.zarr"))
    learned, held = (set(s.seed.tolist()) for s in (found.steps(), found.held_out()))
    assert learned | held == set(range(10)) and not learned & held and len(held) == 2


def test_held_out_episodes_are_the_same_however_many_are_learned_from(tmp_path):
    path = follow(tmp_path / "s.zarr")
    few, all_ = _demonstrations(path, episodes=3), _demonstrations(path)
    assert few.held_out().seed.tolist() == all_.held_out().seed.tolist()
    assert few.steps().seed.tolist() == all_.steps().seed.tolist()[:3]


def test_holdout_is_said_and_can_be_set(tmp_path, capsys):
    path = follow(tmp_path / "s.zarr")
    _demonstrations(path, holdout=0.5).check()
    assert f"{FOLLOW}: 10 of 10 episodes, 5 of them held out" in capsys.readouterr().out
    none = _demonstrations(path, holdout=0.0)
    assert len(none.held_out().ends) == 0 and len(none.steps().ends) == 10


def test_simulated_environments_hold_out_none_by_default(tmp_path):
    settings = RunSettings(environments=["planar/reach"])
    assert context_of(resolve(settings)[0], settings=settings).holdout == {"planar/reach": 0.0}


def test_environment_of_a_store_needs_no_registration_and_has_no_simulator(tmp_path):
    found = _demonstrations(follow(tmp_path / "s.zarr")).context
    (spec,) = found.specs
    assert isinstance(spec, EnvSpec) and not spec.simulated and found.recorded == [FOLLOW]
    assert spec.control_hz is None and spec.max_steps is None and not spec.action.bounded


def test_patterns_choose_environments_of_the_registry_and_of_the_store(tmp_path):
    path = follow(tmp_path / "s.zarr")
    settings = RunSettings(
        environments=["planar/reac*", "lab/*"], demos={"path": str(path), "episodes": None}
    )
    names = [spec.id for spec in resolve(settings)[0]]
    assert "planar/reach" in names and names[-1] == FOLLOW


def test_unknown_environment_is_one_line_that_says_what_the_store_has(tmp_path):
    path = follow(tmp_path / "s.zarr")
    settings = RunSettings(environments=["lab/other"], demos={"path": str(path), "episodes": None})
    with pytest.raises(UserError, match=rf"lab/other.*the given stores have {FOLLOW}"):
        resolve(settings)


def test_episodes_without_actions_are_not_held_out(tmp_path):
    path = follow(tmp_path / "s.zarr")
    with EpisodeStore.open(path, mode="a") as store:
        first = store.episode(0)
        store.append([type(first)(**{**vars(first), "actions": None, "seed": 99})])
    found = _demonstrations(path)
    assert 99 not in found.held_out().seed and 99 in found.steps().seed
    assert np.isin(found.held_out().has_actions, True).all()
