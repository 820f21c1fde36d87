"""Runs of sources are the rows that a list of blocks is, whatever is cut out of them."""

import numpy as np
import pytest

from alltrades.data.extremes import extremes
from alltrades.data.rows import Rows
from alltrades.data.runs import Runs
from alltrades.data.sources import Absent, Block, Memory
from alltrades.data.steps import Steps


def sources_of(rng):
    arrays = [rng.normal(size=(60, 3)).astype(np.float32) for _ in range(4)]
    return [*map(Memory, arrays), Absent(60)]


def some_runs(rng, count=40):
    """Blocks of a few sources, some of which follow one another or are empty, and their rows."""
    sources = sources_of(rng)
    blocks = []
    for _ in range(count):
        source, start = sources[rng.integers(5)], int(rng.integers(0, 50))
        if blocks and rng.random() < 0.4:
            source, _, start = blocks[-1]
        blocks.append(Block(source, start, min(60, start + int(rng.integers(0, 8)))))
    rows = [
        np.zeros((b.stop - b.start, 3))
        if isinstance(b.source, Absent)
        else b.source.array[b.start : b.stop]
        for b in blocks
    ]
    return blocks, np.concatenate(rows).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_runs_hold_the_rows_of_their_blocks(seed):
    rng = np.random.default_rng(seed)
    blocks, array = some_runs(rng)
    runs = Runs.of(blocks)
    assert runs.rows == len(array) == runs.of_source.sum()
    assert all(b.stop > b.start for b in runs)
    pairs = list(zip(list(runs), list(runs)[1:]))
    assert not any(a.source is b.source and a.stop == b.start for a, b in pairs)
    rows = Rows(runs, 3)
    assert np.array_equal(rows.load(), array)
    assert np.array_equal(rows.take(np.arange(len(array))[::-1]), array[::-1])
    assert np.array_equal(np.concatenate(list(rows.pieces(40))), array)
    low = rng.integers(0, len(array), 12)
    high = np.minimum(low + rng.integers(0, 30, 12), len(array))
    cut = np.concatenate([array[i:j] for i, j in zip(low, high)])
    assert np.array_equal(rows.between(low, high).load(), cut)
    keep = rng.random(len(array)) < 0.5
    assert np.array_equal(rows.select(keep).load(), array[keep])
    both = Rows.concatenate([rows, rows.select(keep)])
    assert np.array_equal(both.resized(3).load(), np.concatenate([array, array[keep]]))
    assert len(both.runs.sources) == len(runs.sources)
    there = runs.having([not isinstance(s, Absent) for s in runs.sources])
    assert np.array_equal(Rows(there, 3).load(), array[present_of(blocks)])


def present_of(blocks):
    return np.concatenate(
        [np.full(b.stop - b.start, not isinstance(b.source, Absent)) for b in blocks]
    )


@pytest.mark.parametrize("most", [1, 5, 1000])
def test_rows_of_a_source_are_read_in_its_order_and_once(most):
    rng = np.random.default_rng(0)
    source = Memory(np.arange(300.0)[:, None])
    starts = rng.permutation(100) * 3
    runs = Runs.of([Block(source, int(s), int(s) + 3) for s in starts])
    read, out = [], np.full(300, -1.0)
    for which, first, last, places in runs.by_source(most):
        assert which is source and last - first <= max(most, 1)
        read += range(first, last)
        for at, low, high in places:
            out[at : at + high - low] = source.array[low:high, 0]
    assert read == list(range(300))
    assert out.tolist() == [float(s + i) for s in starts for i in range(3)]


def test_a_million_runs_take_28_bytes_each():
    count = 10**6
    source = np.arange(count) % 1000
    start = np.arange(count) // 1000 * 100
    runs = Runs([Absent(10**6) for _ in range(1000)], source, start, start + 100)
    kept = sum(x.nbytes for x in (runs.source, runs.start, runs.offsets))
    assert len(runs) == count and kept <= 28 * (count + 1)


@pytest.mark.parametrize("width", [1, 3, 8, 200, 300])
def test_extremes_are_the_least_and_largest_of_each_column(width):
    rng = np.random.default_rng(0)
    for count in (1, 2, 31, 255, 256, 1000):
        rows = rng.normal(size=(count, width)).astype(np.float32)
        low, high = extremes(rows)
        assert np.array_equal(low, rows.min(0)) and np.array_equal(high, rows.max(0))


def test_episodes_of_an_environment_are_found_in_their_order():
    names = np.array(["b", "a", "b", "c", "a"])
    acted = np.array([True, True, False, False, True])
    rows = np.arange(10, dtype=np.float32)[:, None]
    steps = Steps(
        {"state": Rows.of(rows)},
        Rows.of(rows),
        np.arange(10) % 2 == 0,
        np.arange(2, 11, 2),
        names,
        np.full(5, "x"),
        np.arange(5, dtype=np.uint64),
        acted,
        np.zeros(5, int),
        acted,
        np.zeros(5),
    )
    assert steps.numbers("b").tolist() == [0, 2] and steps.acted("b").tolist() == [0]
    assert steps.numbers("none").tolist() == [] and steps.acted("c").tolist() == []
    chosen = steps.choose(np.array([3, 0, 1]))
    assert chosen.seed.tolist() == [3, 0, 1] and chosen.ends.tolist() == [2, 4, 6]
    assert chosen.action.load()[:, 0].tolist() == [6, 7, 0, 1, 2, 3]
    assert chosen.success.tolist() == [True, False] * 3
    assert len(steps.choose(steps.numbers("none"))) == 0
