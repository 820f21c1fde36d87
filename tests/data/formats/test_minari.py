"""Minari data sets of both kinds."""

import numpy as np
import pytest

from tests.data.formats import made
from tests.data.formats.test_import import imported, same_numbers


@pytest.mark.parametrize("kind", ["hdf5", "arrow"])
@pytest.mark.parametrize("packed", [False, True])
def test_minari_arrives_without_the_observation_after_the_last_action(tmp_path, kind, packed):
    store = imported(tmp_path, made.minari(tmp_path / "set", kind, packed))
    same_numbers(store)
    for i, (found, expected) in enumerate(zip(store.episodes(), made.numbers())):
        image = found.observations["front"]
        assert len(image) == len(found)
        if packed:
            assert np.abs(image.astype(int) - made.pictures(i)).max() <= 3
        else:
            np.testing.assert_array_equal(image, expected["images"])


@pytest.mark.parametrize("kind", ["hdf5", "arrow"])
def test_a_vector_of_observations_is_the_state(tmp_path, kind):
    same_numbers(imported(tmp_path, made.minari(tmp_path / "set", kind, flat=True)))
