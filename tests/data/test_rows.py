"""Rows are an array, whatever they are read from."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.placing import SHARE, available_memory, placed, storage_for
from alltrades.data.rows import Rows
from alltrades.data.sources import Memory
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from tests.data.stores import episode, states

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
    array = np.concatenate([np.pad(states(e), ((0, 0), (0, i % 2))) for i, e in enumerate(written)])
    steps = store.steps()
    if request.param == "store":
        return states(steps), array
    keep = np.arange(12) % 3 != 1
    ends = np.cumsum([len(e) for e in written])
    rows = np.concatenate([np.arange(s, e) for s, e, k in zip([0, *ends], ends, keep) if k])
    view = Steps.concatenate([steps.select(keep), steps.select(~keep).select(np.zeros(4, bool))])
    return states(view), array[rows]


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
    assert states(some).shape == (60, 3) and some.action.nbytes == 60 * 2 * 4
    with pytest.raises(AssertionError, match="read"):
        states(some)[0]


@pytest.mark.parametrize("width", [2, 3, 5])
def test_rows_are_the_same_in_every_place(tmp_path, width):
    store = EpisodeStore.write(
        tmp_path / "s", [episode(i, environment=NAMES[i % 2]) for i in range(8)]
    )
    rows = states(store.steps())
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


IMAGES = {
    "a": (4, 6, 3, "uint8"),
    "b": (8, 6, 3, "uint8"),
    "c": (4, 6, 3, "uint16"),
    "d": None,
}


def image_episode(i: int, name: str) -> Episode:
    rng = np.random.default_rng(i)
    fields = {"state": rng.random((3 + i % 3, 2))}
    kind = IMAGES[name]
    if kind is not None:
        fields["images.front"] = rng.integers(0, 255, (3 + i % 3, *kind[:3])).astype(kind[3])
    return Episode.from_arrays(fields, np.zeros((3 + i % 3, 1)), name)


@pytest.fixture(params=["memory", "store"])
def pictured(request, tmp_path) -> tuple[Steps, list[Episode]]:
    """Steps of environments with images of several shapes and dtypes, and without."""
    written = [image_episode(i, "abcd"[i % 4]) for i in range(12)]
    if request.param == "store":
        return EpisodeStore.write(tmp_path / "s", written).steps(), written
    parts = [
        EpisodeStore.write(tmp_path / f"{i}", [e]).steps().select(np.ones(1, bool))
        for i, e in enumerate(written)
    ]
    loaded = [
        replace(s, observation={k: Rows.of(v.load()) for k, v in s.observation.items()})
        for s in parts
    ]
    return Steps.concatenate(loaded), written


def layout_of(names: str) -> Layout:
    return Layout([Interface(n, image_episode(0, n).fields, ActionSpec.unknown(1)) for n in names])


def test_a_window_has_the_images_of_each_slot_and_zeros_for_others(pictured):
    steps, written = pictured
    layout = layout_of("abcd")
    index = np.stack([steps.starts, steps.ends - 1], axis=1)
    window = steps.window(layout, index)
    assert list(window) == [
        "state",
        "images.front@4x6x3",
        "images.front@8x6x3",
        "images.front@4x6x3-uint16",
    ]
    for key, slot in layout.slots.items():
        assert window[key].shape == (12, 2, *slot.shape) and window[key].dtype == slot.dtype
        for i, e in enumerate(written):
            own = layout.fields["abcd".index(e.environment)].get(slot.field) == key
            expected = e.observations[slot.field][[0, -1]] if own else 0
            assert (window[key][i] == expected).all()


@pytest.mark.parametrize("place", ["memory", "file", "store"])
def test_placed_images_take_space_only_where_they_are(pictured, tmp_path, place):
    steps, _ = pictured
    layout = layout_of("abcd")
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(steps), (20, 2))
    for key, slot in layout.slots.items():
        rows = placed(
            steps.observation[slot.field].only(slot.dtype), slot.shape, tmp_path / "work", place
        )
        assert rows.dtype == slot.dtype and len(rows) == len(steps)
        assert np.array_equal(rows.take(index), steps.window(layout, index)[key])
        if slot.kind == "image":
            own = [n for n, f in zip(layout.ids, layout.fields) if f.get(slot.field) == key]
            present = int(steps.lengths[np.isin(steps.environment, own)].sum())
            assert rows.nbytes == present * int(np.prod(slot.shape)) * rows.dtype.itemsize
            if place != "store":
                held = rows.runs.sources
                assert rows.nbytes == sum(s.array.nbytes for s in held if isinstance(s, Memory))


def test_rows_that_are_sent_are_those_that_are_read_and_no_others():
    numbers = np.arange(40, dtype=np.float32).reshape(20, 2)
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    mixed = Rows.concatenate([Rows.of(numbers), Rows.absent(3), Rows.of(numbers[:, :1])])
    kept = mixed.select(np.arange(len(mixed)) % 3 == 1).resized(4)
    sent = pickle.loads(pickle.dumps(kept))
    assert sent.load().tobytes() == kept.load().tobytes() and sent.shape == kept.shape
    assert len(sent.present()) == len(kept.present()) and sent.dtype == kept.dtype
    few = Rows.of(np.zeros((10_000, 2))).select(np.arange(10_000) < 9)
    assert len(pickle.dumps(few)) < 2_000
    pictures = Rows.concatenate([Rows.of(images), Rows.absent(2)])
    again = pickle.loads(pickle.dumps(pictures))
    assert again.shapes == pictures.shapes
    assert again.take(np.array([6, 4])).tobytes() == pictures.take(np.array([6, 4])).tobytes()
