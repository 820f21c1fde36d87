"""Errors that the user can mend."""

import pickle

from alltrades.errors import MissingExtra


def test_a_missing_extra_says_the_same_when_it_comes_from_another_process():
    error = MissingExtra("package zarr is not installed; expected it", "serve")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.extra == "serve"
    assert str(error).endswith('expected it; pip install "alltrades[serve]"')
