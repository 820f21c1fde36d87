"""A run learns from episodes in which a person took over as its settings say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.resolution import resolve
from alltrades.settings.run import RunSettings
from tests.alltrades.contexts import context_of
from tests.alltrades.recordings import FOLLOW, follow


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> list[Path]:
    """Ten demonstrations, and five episodes of a policy of which a person took a part of four."""
    folder = tmp_path_factory.mktemp("taken")
    plain = follow(folder / "demos.zarr")
    taken = []
    for i, episode in enumerate(EpisodeStore.open(plain).episodes()):
        marks = np.zeros(len(episode), bool)
        marks[5 : 5 + i] = True
        taken.append(replace(episode, seed=100 + i, source="policy", interventions=marks))
    EpisodeStore.write(folder / "taken.zarr", taken[:5])
    return [plain, folder / "taken.zarr"]


def demonstrations(stores: list[Path], **demos) -> Demonstrations:
    settings = RunSettings(
        environments=[FOLLOW],
        demos={"path": [str(s) for s in stores], "episodes": None, "holdout": 0.0, **demos},
    )
    context = context_of(resolve(settings)[0], settings=settings)
    return Demonstrations(context, stores[0], tuple(stores[1:]))


def test_the_next_round_learns_from_both_stores_and_of_the_second_from_the_person(stores, capsys):
    found = demonstrations(stores)
    found.check()
    assert "a person took 10 of 100 steps, in 4 of 5 episodes" in capsys.readouterr().out
    steps = found.steps()
    assert len(steps.ends) == 14 and steps.begins.sum() == 10 * 20 + 10


def test_settings_choose_what_is_learned(stores):
    weighted = demonstrations(stores, interventions="weighted").steps()
    taken = np.concatenate([np.zeros(200, bool), np.zeros(100, bool)])
    for i in range(5):
        taken[200 + 20 * i + 5 : 200 + 20 * i + 5 + i] = True
    assert weighted.begins[taken].sum() == pytest.approx(weighted.begins[~taken].sum())
    assert demonstrations(stores, interventions="all").steps().begins is None
    keys = [demonstrations(stores, interventions=how).key() for how in ("human", "weighted")]
    assert keys[0] != keys[1]


def test_what_is_held_out_is_judged_at_the_persons_steps(stores):
    held = demonstrations(stores, holdout=0.5).held_out()
    marks = held.intervention
    assert all((marks[a:b] != 0).any() for a, b in zip(held.starts, held.ends))


def test_a_store_in_which_nobody_took_over_is_refused(stores, tmp_path):
    policy = list(EpisodeStore.open(stores[1]).episodes())[:1]
    EpisodeStore.write(tmp_path / "policy.zarr", policy)
    with pytest.raises(
        UserError, match=f"a policy acted at every step of all 1 episodes of '{FOLLOW}'"
    ):
        demonstrations([tmp_path / "policy.zarr"]).check()
    demonstrations([tmp_path / "policy.zarr"], interventions="all").check()
