"""Steps at which a person took over from a policy: kept by stores, and by whatever copies them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.checks.fix import _cut
from alltrades.data.editing.conditions import Condition
from alltrades.data.editing.copying import Copy
from alltrades.data.editing.table import Table
from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from tests.data.stores import episode


def marked(seed: int, taken: list[int], length: int = 5, **facts) -> Episode:
    marks = np.zeros(length, bool)
    marks[taken] = True
    return replace(episode(seed, length, **facts), interventions=marks)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("marks") / "mixed.zarr"
    with EpisodeStore.create(path) as store:
        store.append([episode(0), episode(1, 3)])
        store.append([marked(2, [1, 2]), episode(3, 4), marked(4, [], environment="b")])
    return EpisodeStore.open(path)


def test_a_store_tells_marked_episodes_from_those_that_say_nothing(store):
    found = [e.interventions for e in store.episodes()]
    assert found[0] is None and found[1] is None and found[3] is None
    assert found[2].tolist() == [False, True, True, False, False]
    assert found[4].tolist() == [False] * 5
    assert store.read_array("meta/intervention", "a").dtype == bool
    steps = store.steps()
    assert steps.intervention.tolist() == [-1] * 8 + [0, 1, 1, 0, 0] + [-1] * 4 + [0] * 5
    assert store.steps(["a"]).select(np.array([1, 1, 0, 1], bool)).begins.tolist() == [1] * 12


def test_steps_without_marks_have_none(tmp_path):
    steps = EpisodeStore.write(tmp_path / "plain.zarr", [episode(0)]).steps()
    assert steps.intervention is None and steps.begins is None
    assert not (tmp_path / "plain.zarr" / "a" / "meta" / "intervention").exists()


def test_windows_begin_where_no_policy_acted(store):
    steps = store.steps()
    assert steps.begins.tolist() == [1.0] * 8 + [0, 1, 1, 0, 0] + [1.0] * 4 + [0.0] * 5
    joined = Steps.concatenate([steps, replace(steps, intervention=None)])
    assert joined.intervention.tolist() == [*steps.intervention.tolist(), *[-1] * len(steps)]


def test_marks_count_in_digests(tmp_path):
    one, other, none = (
        EpisodeStore.write(tmp_path / f"{k}.zarr", [e])
        for k, e in enumerate([marked(0, [1]), marked(0, [2]), episode(0)])
    )
    assert len({s.digest() for s in (one, other, none)}) == 3
    assert len({s.steps().digest() for s in (one, other, none)}) == 3


def test_copies_keep_marks_and_filters_know_them(store, tmp_path):
    table = Table.of([store])
    assert table.columns["interventions"][2:5].tolist()[0::2] == [2.0, 0.0]
    index = table.chosen(Condition("intervention_share >= 0.4 and interventions == 2"))
    assert index.tolist() == [2]
    assert table.chosen(Condition("interventions == unknown")).tolist() == [0, 1, 3]
    copy = Copy(table, np.arange(len(table)), tmp_path / "copy.zarr", {"command": "x"}).run()
    assert copy.digest() == store.digest()
    cut = _cut(store.episode(2), 1, 4)
    assert cut.interventions.tolist() == [True, True, False]


def test_info_says_how_much_a_person_did(store):
    said = "\n".join(store.describe())
    assert "a person intervened in 1 of 1, at 2 of 5 steps" in said  # of those that say, in 'a'
    assert "a person intervened in 0 of 1, at 0 of 5 steps" in said


def test_marks_are_flags():
    with pytest.raises(ValueError, match="interventions hold"):
        Episode.from_arrays(
            {"state": np.zeros((2, 1))}, np.zeros((2, 1)), "a", interventions=[0, 2]
        )
    with pytest.raises(ValueError, match="interventions has 1 steps"):
        replace(episode(0), interventions=np.zeros(1, bool))
