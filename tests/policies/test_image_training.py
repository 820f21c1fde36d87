"""Training on images: the same bits wherever they are kept, features of frozen encoders once per
frame, and batches made ahead.
"""

import pickle

import numpy as np
import pytest
import torch

from alltrades.data.decoded import Images
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.policies.learning.ahead import Ahead
from alltrades.policies.learning.batches import TrainingData, TrainingRows, demonstration_data
from alltrades.policies.learning.features import feature_rows, name_of_features
from alltrades.policies.learning.held_out import HeldOutLoss, held_out_batch
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.specialists import Specialists, Task
from alltrades.policies.learning.stacked_training import Candidate
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.conditioning import features_key
from alltrades.policies.model.encoders import Convolution
from alltrades.policies.model.encoders.weights import EncoderWeights
from alltrades.policies.model.threads import threads, threads_for
from alltrades.policies.settings import EncoderSettings

from .test_fields_training import ONE, SHORT, interface, scene

KINDS = {"state": "noise", "images.top": "image"}
KEY = "images.top@12x12x3"
ENVIRONMENT = interface("a", **KINDS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    steps, episodes = scene("a", 6, **KINDS), []
    for start, stop in zip(steps.starts, steps.ends):
        seen = {name: rows[int(start) : int(stop)] for name, rows in steps.observation.items()}
        episodes.append(Episode.from_arrays(seen, steps.action[int(start) : int(stop)], "a"))
    return EpisodeStore.write(tmp_path_factory.mktemp("store") / "s.zarr", episodes)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """A folder with an encoder of another training."""
    torch.manual_seed(3)
    slot = build(ONE, scene("a", 3, **KINDS)).layout.slots[KEY]
    folder = tmp_path_factory.mktemp("eyes")
    return str(
        EncoderWeights.of("convolution", {"images/top@12x12x3": Convolution(slot)}).save(folder)
    )


def build(settings, steps):
    return build_policy(settings, [ENVIRONMENT], make_normalizer(steps, [ENVIRONMENT], settings), 0)


def of(encoder, **more):
    return ONE.model_copy(update={"encoder": encoder, "n_obs_steps": 2, **more})


@pytest.mark.parametrize("frozen", [False, True])
def test_trainings_end_with_the_same_bits_wherever_images_are_kept(store, eyes, frozen, tmp_path):
    encoder = EncoderSettings(weights=eyes, frozen=True) if frozen else EncoderSettings(shift=1)
    digests = set()
    plain = store.steps()
    held = {
        "memory": scene("a", 6, **KINDS),
        "store": plain,
        "file": plain,
        "decoded": Images(tmp_path).of(plain),
        "compressed": Images(tmp_path, 30_000).of(plain),
        "over the budget": Images(tmp_path, 0).of(plain),
    }
    for name, steps in held.items():
        policy = build(of(encoder), steps)
        storage = name if name in ("store", "file") else "memory"
        rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
        data = TrainingData(rows, policy, folder=tmp_path, storage=storage)
        digests.add(Trainer(policy, data, SHORT, 0).fit().digest())
    assert len(digests) == 1


def test_features_of_a_frozen_encoder_are_computed_once_a_frame_for_all_trainings(
    store, eyes, tmp_path, monkeypatch
):
    steps, seen = Images(tmp_path).of(store.steps()), []
    real = Convolution.forward

    def counting(self, frames, condition=None):
        seen.append(len(frames))
        return real(self, frames, condition)

    settings = of(EncoderSettings(weights=eyes, frozen=True))
    live, *learning = (build(settings, steps) for _ in range(3))
    monkeypatch.setattr(Convolution, "forward", counting)
    for seed, policy in enumerate(learning):
        data = demonstration_data(steps, policy)
        Trainer(policy, data, SHORT, seed).fit()
    assert sum(seen) == 4 * 32  # 120 frames in pieces of 32
    batch, rows = data.batch(16, 0, 0)
    assert KEY not in batch.window and batch.window[features_key(KEY)].shape == (16, 2, 193)
    index = data.windows.take(rows).obs_index
    pixels = {k: torch.from_numpy(v) for k, v in steps.window(live.layout, index).items()}
    torch.testing.assert_close(
        live.condition(batch.window, batch.environment),
        live.condition(pixels, batch.environment),
        rtol=1e-4,
        atol=1e-5,
    )


def test_another_process_is_sent_the_features_that_batches_show(store, eyes, tmp_path, monkeypatch):
    steps, seen = Images(tmp_path).of(store.steps()), []
    real = Convolution.forward

    def counting(self, frames, condition=None):
        seen.append(len(frames))
        return real(self, frames, condition)

    policy = build(of(EncoderSettings(weights=eyes, frozen=True)), steps)
    monkeypatch.setattr(Convolution, "forward", counting)
    probability = np.zeros(len(steps))
    probability[[0, 50, 51]] = 1.0  # of the first frame of an episode, and from within one
    data = TrainingData(TrainingRows(steps=steps, probability=probability), policy)
    sent = pickle.loads(pickle.dumps(data))
    assert sum(seen) == 2 * 32  # of the pieces with frames 0 and 49 to 51
    features = sent.observation[features_key(KEY)].load()
    assert np.flatnonzero(features.any(1)).tolist() == [0, 49, 50, 51]
    for step in range(3):
        (here, _), (there, _) = data.batch(16, 0, step), sent.batch(16, 0, step)
        assert all(torch.equal(here.window[k], there.window[k]) for k in here.window)


def test_frozen_weights_stay_and_all_others_learn(store, eyes, tmp_path):
    settings = of(EncoderSettings(weights=eyes, frozen=True))
    steps = Images(tmp_path).of(store.steps())
    policy = build(settings, steps)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    held = [held_out_batch(demonstration_data(steps, policy), 0)]
    trainer = Trainer(
        policy, demonstration_data(steps, policy), SHORT, 0, held_out=HeldOutLoss(held, [0], 12)
    )
    trainer.fit()
    assert len(trainer.curve) == 10
    changed = {k for k, v in policy.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(k.startswith("conditioner.encoders") for k in changed)
    assert any(k.startswith("conditioner.heads") for k in changed)
    train = SHORT.model_copy(update={"steps": 4})
    tasks = [Task(ENVIRONMENT, 0)]
    (fit,), _ = Specialists(steps, tasks).fit([Candidate("", settings, train)], "last", 2, 1)
    after = fit.policy.state_dict()
    own = [k for k in before if k.startswith("conditioner.encoders")]
    assert all(torch.equal(after[k], before[k]) for k in own)


def test_features_are_kept_only_where_they_are_a_function_of_the_frame(store, eyes):
    steps = store.steps()
    frozen = EncoderSettings(weights=eyes, frozen=True)
    assert name_of_features(build(of(frozen), steps), KEY) is not None
    learning = EncoderSettings(weights=eyes)
    for other in (
        learning,
        *(frozen.model_copy(update=c) for c in ({"shift": 2}, {"jitter": 0.1})),
    ):
        assert name_of_features(build(of(other), steps), KEY) is None
    policy = build(of(frozen), steps)
    teacher = build(of(learning), steps)
    rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
    data = TrainingData(rows, policy, teachers={"t": {"a": teacher}})
    assert KEY in data.batch(4, 0, 0)[0].window  # a teacher's own encoder needs the frames
    absent = feature_rows(steps.observation["images.top"].resized((9, 9, 3)), policy, KEY, "x")
    assert (absent.take(np.arange(5)) == 0).all()


def test_a_camera_that_is_left_out_has_no_features(store, eyes):
    steps = store.steps()
    policy = build(of(EncoderSettings(weights=eyes, frozen=True, drop=0.5)), steps)
    batch, _ = demonstration_data(steps, policy).batch(64, 0, 0)
    found = batch.window[features_key(KEY)]
    dropped = (found == 0).flatten(1).all(1)
    assert 0.3 < dropped.float().mean() < 0.7 and (found[~dropped][..., -1] == 1).all()


def test_small_networks_that_learn_to_see_use_the_threads_of_large_ones(store, eyes):
    steps = store.steps()

    def used(policy):
        with threads(3), threads_for(policy):
            return torch.get_num_threads()

    assert used(build(of(EncoderSettings()), steps)) == 3
    assert used(build(of(EncoderSettings(weights=eyes, frozen=True)), steps)) == 1  # by features


def test_what_is_made_ahead_is_what_would_be_made_and_errors_are_of_their_step():
    asked = []

    def make(size, seed, step):
        asked.append(step)
        if step == 3:
            raise ValueError("step 3")
        return size, seed, step

    ahead = Ahead(make)
    assert [ahead(2, 5, step) for step in (0, 1, 1, 2)] == [(2, 5, s) for s in (0, 1, 1, 2)]
    assert asked.count(0) == 1 and asked.count(1) == 2
    with pytest.raises(ValueError, match="step 3"):
        ahead(2, 5, 3)
    assert ahead(2, 5, 4) == (2, 5, 4)
