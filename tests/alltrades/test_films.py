"""Moving pictures of episodes."""

from io import BytesIO

import numpy as np
import pytest

from alltrades.report.films import GAP, MOVING, SHOWN, animation

Image = pytest.importorskip("PIL.Image", reason="the extra report is not installed")


def pictures(count, height, width, channels=3):
    """Each of one grey of its own."""
    greys = np.linspace(10, 240, count).round().astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (count, height, width, channels)).copy()


def shown(data):
    with Image.open(BytesIO(data)) as image:
        found = []
        for k in range(image.n_frames):
            image.seek(k)
            found.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        return found


def test_cameras_stand_side_by_side_at_the_episodes_own_rate():
    made = shown(animation([pictures(12, 48, 64), pictures(12, 96, 96, 1)], hz=10))
    assert len(made) == 12 and {duration for _, duration in made} == {100}
    for (frame, _), grey in zip(made, pictures(12, 1, 1)[:, 0, 0, 0], strict=True):
        assert frame.shape == (SHOWN, 128 + GAP + 96, 3)
        assert abs(int(frame[5, 5, 0]) - int(grey)) <= 2 and abs(int(frame[5, -5, 0]) - grey) <= 2


def test_fast_and_long_episodes_are_thinned_and_last_as_long():
    fast = shown(animation([pictures(40, 8, 8)], hz=80))
    assert len(fast) == 10 and fast[0][1] == 50
    long = shown(animation([pictures(400, 8, 8)], hz=None))
    assert len(long) <= MOVING and long[0][1] == 300
