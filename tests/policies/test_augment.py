"""Random changes of images in training."""

import numpy as np
import pytest
import torch

from alltrades.policies.learning.augment import jittered, shifted
from alltrades.policies.learning.batches import TrainingData, TrainingRows
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.settings import EncoderSettings

from .test_fields_training import ONE, interface, scene

KINDS = {"state": "state", "images.top": "image"}
KEY = "images.top@12x12x3"


def test_a_shift_moves_all_frames_of_a_row_and_repeats_the_edge():
    frames = np.random.default_rng(0).integers(0, 256, (3, 2, 6, 7, 3), np.uint8)
    out = shifted(frames, np.array([[0, 0], [2, -1], [-1, 3]]))
    assert np.array_equal(out[0], frames[0])
    assert np.array_equal(out[1][:, 2:, :-1], frames[1][:, :-2, 1:])
    assert np.array_equal(out[1][:, 0, :-1], frames[1][:, 0, 1:])
    assert np.array_equal(out[2][:, :-1, 3:], frames[2][:, 1:, :-3])


def test_jitter_changes_brightness_contrast_and_colours_and_leaves_out_what_is_missing():
    frames = np.full((4, 1, 2, 2, 3), 100, np.uint8)
    frames[3] = 0
    by = np.zeros((4, 5))
    by[0, 0], by[1, 1], by[2, 4], by[3] = 0.2, -0.1, 0.5, 0.3
    out = jittered(frames, by)
    assert (out[0] == round(127.5 - 1.2 * 27.5)).all() and (out[1] == 90).all()
    assert (out[2][..., 2] == 150).all() and (out[2][..., :2] == 100).all()
    assert (out[3] == 0).all()


@pytest.mark.parametrize("change", ["shift", "jitter", "drop"])
def test_batches_are_changed_as_the_encoders_settings_say_and_the_same_at_every_call(change):
    steps, environment = scene("a", 3, **KINDS), interface("a", **KINDS)
    encoder = EncoderSettings(**{"shift": {"shift": 2}, "jitter": {"jitter": 0.3}}.get(change, {}))
    if change == "drop":
        encoder = EncoderSettings(drop=0.5)
    settings = ONE.model_copy(update={"encoder": encoder, "n_obs_steps": 2})
    normalizer = make_normalizer(steps, [environment], settings)
    policy = build_policy(settings, [environment], normalizer, 0)
    data = TrainingData(TrainingRows(steps=steps, probability=np.ones(len(steps))), policy)
    batch, rows = data.batch(64, 0, 3)
    again, _ = data.batch(64, 0, 3)
    assert all(torch.equal(batch.window[key], again.window[key]) for key in batch.window)
    plain = data.gather(rows).window
    assert torch.equal(batch.window["state"], plain["state"])
    changed = (batch.window[KEY] != plain[KEY]).flatten(1).any(1).float().mean()
    assert 0.3 < changed < 0.7 if change == "drop" else changed > 0.8
    if change == "drop":
        dropped = (batch.window[KEY] == 0).flatten(1).all(1)
        assert torch.equal(batch.window[KEY][~dropped], plain[KEY][~dropped])
