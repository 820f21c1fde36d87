"""Rows are an array, whatever they are read from."""

import numpy as np
import pytest

from alltrades.data.placing import SHARE, available_memory, placed, storage_for
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from tests.data.stores import episode

NAMES = ["a", "b"]


@pytest.fixture(params=["memory", "store", "view"])
def pair(request, tmp_path) -> tuple[Rows, np.ndarray]:
    """Rows of each kind, and the array that they are."""
    if request.param == "memory":
        array = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        return Rows.of(array), array
    written = [
        episode(i, 3 + i % 5, 3 if i % 2 else 4, 2, NAMES[i % 2], actions=i != 3) for i in range(12)
    ]
    store = EpisodeStore.write(tmp_path / "s", written)
    array = np.concatenate(
        [np.pad(e.observation, ((0, 0), (0, i % 2))) for i, e in enumerate(written)]
    )
    steps = store.steps()
    if request.param == "store":
        return steps.observation, array
    keep = np.arange(12) % 3 != 1
    ends = np.cumsum([len(e) for e in written])
    rows = np.concatenate([np.arange(s, e) for s, e, k in zip([0, *ends], ends, keep) if k])
    view = Steps.concatenate([steps.select(keep), steps.select(~keep).select(np.zeros(4, bool))])
    return view.observation, array[rows]


def test_rows_read_as_the_array_does(pair):
    rows, array = pair
    n = len(array)
    assert rows.shape == array.shape and len(rows) == n and rows.nbytes == array.nbytes
    rng = np.random.default_rng(1)
    keys = [
        slice(None),
        slice(3, 20, 2),
        slice(-5, None),
        5,
        -1,
        rng.integers(-n, n, 30),
        rng.integers(0, n, (4, 6)),
        rng.random(n) < 0.3,
        np.zeros(n, bool),
        (slice(2, 9), slice(None, 2)),
        (rng.integers(0, n, 8), 1),
        (rng.random(n) < 0.5, slice(1, 3)),
    ]
    for key in keys:
        assert np.array_equal(rows[key], array[key]) and rows[key].dtype == array.dtype
    assert np.array_equal(rows.load(), array) and np.array_equal(np.asarray(rows), array)
    index = rng.integers(0, n, (3, 7))
    assert np.array_equal(rows.take(index, 2), array[index][..., :2])
    assert np.array_equal(rows.take(index, 6), np.pad(array[index], ((0, 0), (0, 0), (0, 2))))
    assert np.array_equal(rows.resized(2).load(), array[:, :2])
    keep = rng.random(n) < 0.5
    assert np.array_equal(rows.select(keep).load(3), array[keep, :3])
    assert np.array_equal(np.concatenate(list(rows.pieces(100))), array)
    assert max(map(len, rows.pieces(100))) * 16 <= 112
    with pytest.raises(IndexError):
        rows.take(np.array([n]))


def test_selecting_and_concatenating_read_nothing(tmp_path, monkeypatch):
    store = EpisodeStore.write(
        tmp_path / "s", [episode(i, environment=NAMES[i % 2]) for i in range(8)]
    )
    store.columns()
    steps = store.steps()
    from alltrades.data.chunks import ChunkedArray

    def refuse(*args: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(ChunkedArray, "read_chunk", refuse)
    some = Steps.concatenate([steps.select(np.arange(8) < 4), steps])
    assert some.observation.shape == (60, 3) and some.action.nbytes == 60 * 2 * 4
    with pytest.raises(AssertionError, match="read"):
        some.observation[0]


@pytest.mark.parametrize("width", [2, 3, 5])
def test_rows_are_the_same_in_every_place(tmp_path, width):
    store = EpisodeStore.write(
        tmp_path / "s", [episode(i, environment=NAMES[i % 2]) for i in range(8)]
    )
    rows = store.steps().observation
    index = np.random.default_rng(0).integers(0, 40, (5, 3))
    taken = [
        placed(rows, width, tmp_path / "work", p).take(index) for p in ("memory", "file", "store")
    ]
    assert taken[0].shape == (5, 3, width)
    assert all(np.array_equal(taken[0], x) and x.dtype == np.float32 for x in taken[1:])
    assert list((tmp_path / "work").iterdir()) == []


def test_the_place_is_chosen_by_size(tmp_path):
    assert storage_for(1000, tmp_path) == storage_for(1000, None) == "memory"
    more = int(available_memory() * SHARE * 2)
    assert (storage_for(more, tmp_path), storage_for(more, None)) == ("file", "store")
