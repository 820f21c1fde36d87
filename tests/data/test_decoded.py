"""Images of stores, decoded once: equal values wherever they are kept, within a budget."""

import errno
import gc
import os
import threading

import numpy as np
import pytest

from alltrades.data import kept as kept_module
from alltrades.data.chunks import ChunkedArray
from alltrades.data.decoded import Images
from alltrades.data.episode import Episode
from alltrades.data.kept import Kept, Packed
from alltrades.data.store import EpisodeStore


def pictures(count, seed=0, side=24):
    """(count, side, side, 3) uint8 with few colours, as simulators draw them."""
    rng = np.random.default_rng(seed)
    out = np.full((count, side, side, 3), 40, np.uint8)
    for frame, (y, x) in zip(out, rng.integers(0, side - 6, (count, 2))):
        frame[y : y + 6, x : x + 6] = rng.integers(0, 256, 3)
    return out


def store_of(path, lengths=(30, 25, 40), seed=0, environment="a"):
    episodes = []
    for k, length in enumerate(lengths):
        seen = {"front": pictures(length, seed + k), "state": np.full((length, 2), float(k))}
        episodes.append(Episode.from_arrays(seen, np.zeros((length, 1)), environment))
    return EpisodeStore.write(path, episodes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("s") / "s.zarr")


def whole(store):
    return np.concatenate([e.observations["front"] for e in store.episodes()])


def source_of(rows):
    (source,) = rows.runs.sources
    return source


@pytest.mark.parametrize("kind", [Kept, Packed])
def test_rows_are_got_once_a_piece_and_are_what_was_got(kind, tmp_path):
    rows, got = pictures(50), []

    def fill(start, stop):
        got.append((start, stop))
        return rows[start:stop]

    source = kind(rows.shape, rows.dtype, 8, fill, tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(20):
        index = rng.integers(0, 50, 6)
        assert np.array_equal(source.take(index), rows[index])
    assert np.array_equal(source.read(3, 41), rows[3:41])
    assert np.array_equal(source.read(48, 50), rows[48:])
    assert sorted(got) == sorted(set(got)) and got[0][0] % 8 == 0
    assert not list(tmp_path.iterdir())  # a file without a name
    assert source.take(np.array([], np.int64)).shape == (0, 24, 24, 3)


@pytest.mark.parametrize("kind", [Kept, Packed])
def test_what_a_full_disk_cannot_keep_is_got_again(kind, tmp_path, monkeypatch):
    rows, count = pictures(40), 0
    source = kind(rows.shape, rows.dtype, 8, lambda a, b: rows[a:b], tmp_path)
    assert np.array_equal(source.take(np.array([1])), rows[[1]])
    real = os.pwrite

    def full(*arguments):
        nonlocal count
        count += 1
        if count > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(kept_module.os, "pwrite", full)
    for index in ([9, 1], [20, 1, 9, 39], [39, 38, 1]):
        assert np.array_equal(source.take(np.array(index)), rows[index])


def test_threads_share_what_is_kept(tmp_path):
    rows, got = pictures(64), []

    def fill(start, stop):
        got.append(start)
        return rows[start:stop]

    source = Kept(rows.shape, rows.dtype, 4, fill, tmp_path)
    wrong = []

    def ask(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            index = rng.integers(0, 64, 5)
            if not np.array_equal(source.take(index), rows[index]):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and len(got) == len(set(got))


@pytest.mark.parametrize(
    ("budget", "kind"), [(None, Kept), (2**30, Kept), (60_000, Packed), (0, ChunkedArray)]
)
def test_images_are_equal_wherever_the_budget_lets_them_be(store, budget, kind, tmp_path):
    steps = Images(tmp_path, budget).of(store.steps())
    assert steps.digest() == store.steps().digest()
    rows = steps.observation["front"]
    assert isinstance(source_of(rows).source, kind)
    index = np.random.default_rng(0).integers(0, len(rows), (5, 2))
    assert np.array_equal(rows.take(index), whole(store)[index])
    assert isinstance(source_of(steps.observation["state"]), ChunkedArray)


def test_the_same_images_are_decoded_once_for_all_that_ask(store, tmp_path):
    images = Images(tmp_path)
    first = images.of(store.steps()).observation["front"]
    again = images.of(EpisodeStore.open(store.path).steps()).observation["front"]
    assert source_of(first) is source_of(again)
    some = images.of(store.steps().select(np.array([True, False, True]))).observation["front"]
    assert source_of(some) is source_of(first) and len(some) == 70
    assert np.array_equal(some.load(), whole(store)[np.r_[0:30, 55:95]])


def test_images_that_nobody_asks_for_any_more_make_room(store, tmp_path):
    size = 95 * 24 * 24 * 3
    other = store_of(tmp_path / "t.zarr", seed=10)
    images = Images(tmp_path / "files", 1.5 * size)
    rows = images.of(store.steps()).observation["front"]
    rows.take(np.arange(3))
    assert isinstance(source_of(rows).source, Kept)
    del rows
    gc.collect()
    rows = images.of(other.steps()).observation["front"]
    assert type(source_of(rows).source) is Kept
    assert np.array_equal(rows.load(), whole(other))
