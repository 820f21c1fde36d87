"""Sizes of several environments in arrays of one shape."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alltrades.data.layout import Layout, pad
from alltrades.errors import UserError

LAYOUT = Layout(
    [SimpleNamespace(id=i, obs_dim=d, action_dim=a) for i, d, a in (("a", 3, 2), ("b", 5, 1))]
)


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("of", [np.asarray, torch.as_tensor])
def test_what_is_packed_is_found_again_with_zeros_behind_it(k, of):
    d, a = int(LAYOUT.obs_dims[k]), int(LAYOUT.action_dims[k])
    x, y = of(np.arange(4.0 * d).reshape(2, 2, d)), of(np.arange(2.0 * a).reshape(2, a))
    packed, acted = LAYOUT.pack_observation(x), LAYOUT.pack_action(y)
    assert packed.shape == (2, 2, 5) and acted.shape == (2, 2)
    assert packed.dtype == x.dtype
    assert (LAYOUT.observation(k, packed) == x).all() and (LAYOUT.action(k, acted) == y).all()
    assert (np.asarray(packed)[..., ~LAYOUT.obs_mask[k]] == 0).all()
    assert (np.asarray(acted)[..., ~LAYOUT.action_mask[k]] == 0).all()


def test_masks_count_each_environments_dimensions():
    assert LAYOUT.obs_mask.sum(1).tolist() == [3, 5]
    assert LAYOUT.action_mask.sum(1).tolist() == [2, 1]


def test_nothing_is_cut_off():
    with pytest.raises(ValueError, match="6 dimensions; expected at most 5"):
        LAYOUT.pack_observation(np.zeros((2, 6)))
    x = np.zeros(5)
    assert pad(x, 5) is x


def test_an_unknown_environment_is_told_which_there_are():
    assert [LAYOUT.index(name) for name in ("a", "b")] == [0, 1]
    with pytest.raises(UserError, match="unknown environment 'bb'; expected one of a, b.*'b'"):
        LAYOUT.index("bb")
