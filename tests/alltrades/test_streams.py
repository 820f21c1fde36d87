"""Random streams by name."""

import itertools
import subprocess
import sys

import numpy as np

from alltrades.system.streams import stream, stream_seed


def test_equal_names_give_equal_streams_in_every_process():
    code = (
        "from alltrades.system.streams import stream, stream_seed\n"
        "print(stream_seed(3, 'a', 4), stream(3, 'a', 4).random())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seed, first = done.stdout.split()
    assert int(seed) == stream_seed(3, "a", 4) < 1 << 63
    assert float(first) == stream(3, "a", 4).random()


def test_no_two_lists_of_names_share_a_stream():
    """Also where their parts are cut elsewhere, a number is written as text, or a seed is large."""
    parts = ["a", "b", "ab", "a/b", 1, "1", 12, 2, "", 1 << 32, (1 << 32) + 1, 0]
    names = [n for size in (0, 1, 2, 3) for n in itertools.product(parts, repeat=size)]
    seeds = {stream_seed(seed, *n) for seed in (0, 1, 1 << 40) for n in names}
    assert len(seeds) == 3 * len(names)
    assert stream_seed(1, 2) == stream_seed(np.int64(1), np.int64(2))


def test_streams_of_neighbouring_names_are_uncorrelated():
    drawn = np.stack([stream(0, "step", i).standard_normal(500) for i in range(40)])
    correlation = np.corrcoef(drawn)[np.triu_indices(40, 1)]
    assert abs(correlation.mean()) < 0.01 and abs(correlation).max() < 0.25
