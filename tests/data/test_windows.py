import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alltrades.data.windows import WindowIndex


def naive(ends, n_obs_steps, horizon, row):
    """The definition, one index at a time."""
    start = max([0, *[e for e in ends if e <= row]])
    end = min(e for e in ends if e > row)
    obs = [(max(i, start), i >= start) for i in range(row - n_obs_steps + 1, row + 1)]
    action = [(min(i, end - 1), i < end) for i in range(row, row + horizon)]
    return [*zip(*obs), *zip(*action)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    n_obs_steps=st.integers(1, 4),
    horizon=st.integers(1, 12),
)
def test_every_window_matches_the_definition(lengths, n_obs_steps, horizon):
    ends = np.cumsum(lengths)
    rows = np.arange(ends[-1])
    window = WindowIndex(ends, n_obs_steps, horizon).take(rows)
    for row in rows:
        expected = naive(ends.tolist(), n_obs_steps, horizon, row)
        found = [
            window.obs_index[row],
            window.obs_mask[row],
            window.action_index[row],
            window.action_mask[row],
        ]
        for a, b in zip(found, expected):
            assert a.tolist() == list(b)


@pytest.mark.parametrize(
    ("n_obs_steps", "horizon", "row", "obs", "obs_mask", "action", "action_mask"),
    [
        (1, 2, 0, [0], [1], [0, 1], [1, 1]),
        (2, 2, 0, [0, 0], [0, 1], [0, 1], [1, 1]),  # start of the first episode
        (
            3,
            3,
            4,
            [3, 3, 4],
            [0, 1, 1],
            [4, 4, 4],
            [1, 0, 0],
        ),  # second episode (3, 4), shorter than both
        (2, 4, 2, [1, 2], [1, 1], [2, 2, 2, 2], [1, 0, 0, 0]),  # end of the first episode (0, 1, 2)
        (1, 5, 5, [5], [1], [5, 5, 5, 5, 5], [1, 0, 0, 0, 0]),  # an episode of one step
    ],
)
def test_table(n_obs_steps, horizon, row, obs, obs_mask, action, action_mask):
    window = WindowIndex(np.array([3, 5, 6]), n_obs_steps, horizon).take(np.array([row]))
    assert (
        window.obs_index[0].tolist() == obs and window.obs_mask[0].astype(int).tolist() == obs_mask
    )
    assert (
        window.action_index[0].tolist() == action
        and window.action_mask[0].astype(int).tolist() == action_mask
    )


def test_own_step_is_always_real():
    window = WindowIndex(np.array([1, 4]), 3, 5).take(np.arange(4))
    assert window.obs_mask[:, -1].all() and window.action_mask[:, 0].all()
    assert (window.obs_index[:, -1] == np.arange(4)).all() and (
        window.action_index[:, 0] == np.arange(4)
    ).all()


def test_senseless_sizes_are_refused():
    with pytest.raises(ValueError, match="n_obs_steps = 0"):
        WindowIndex(np.array([3]), 0, 1)
