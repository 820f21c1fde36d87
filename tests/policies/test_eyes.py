"""Encoders of cameras that learn to tell the state from pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.envs.rendering import Part
from alltrades.errors import UserError
from alltrades.policies.learning.batches import TrainingData, TrainingRows
from alltrades.policies.learning.estimated import Estimated
from alltrades.policies.learning.eyes import Reader, Sight, frames_of, load_reader, make_reader
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.settings import EncoderSettings, PolicySettings, TrainSettings

SIDE, LENGTH = 16, 5
BOX = ActionSpec((-1.0,), (1.0,))
FIELDS = {
    "state": Field.state(
        4, names=("arm", "goal_x", "goal_y", "fixed"), units=("rad", "cm", "cm", "cm")
    ),
    "proprioception": Field.state(1, names=("arm",), units=("rad",)),
    "images.top": Field.image(SIDE, SIDE),
}
INTERFACES = [Interface(name, FIELDS, BOX, 50, 10.0) for name in ("toy/near", "toy/far")]
NETWORK = PolicySettings(
    observe=("images.top", "proprioception"),
    encoder=EncoderSettings(pretrain="state", frozen=True),
    width=16,
    depth=1,
)
SIGHT = Sight(
    ("images.top",),
    ("proprioception",),
    {("toy/near", "state"): (1, 2, 3), ("toy/far", "state"): (1, 2, 3)},
)


def scene(name: str, episodes: int, seed: int) -> Steps:
    """A bright spot where the goal is, in cm: the far one's are ten times as many to a pixel."""
    rng = np.random.default_rng(seed)
    n = episodes * LENGTH
    at = rng.integers(2, SIDE - 2, (n, 2))
    images = np.full((n, SIDE, SIDE, 3), 20, np.uint8)
    for k, (x, y) in enumerate(at):
        images[k, y - 1 : y + 2, x - 1 : x + 2] = (255, 40, 40)
    arm = rng.uniform(-1, 1, n)
    scale = 10.0 if name == "toy/far" else 1.0
    state = np.column_stack([arm, scale * at, np.full(n, 3.0)])
    return Steps(
        observation={
            "state": state.astype(np.float32),
            "proprioception": arm[:, None].astype(np.float32),
            "images.top": Rows.of(images),
        },
        action=np.zeros((n, 1), np.float32),
        success=np.zeros(n, bool),
        ends=np.arange(1, episodes + 1) * LENGTH,
        environment=np.array([name] * episodes),
        source=np.array(["scratch"] * episodes),
        seed=np.arange(episodes, dtype=np.uint64),
        episode_success=np.ones(episodes, bool),
        first_success=np.full(episodes, -1),
        has_actions=np.ones(episodes, bool),
        return_=np.zeros(episodes),
    )


@pytest.fixture(scope="module")
def taught() -> tuple[Reader, TrainingData, np.ndarray]:
    steps = Steps.concatenate([scene("toy/near", 80, 0), scene("toy/far", 80, 1)])
    reader = make_reader(steps, INTERFACES, NETWORK, SIGHT, 64, 0, "cpu")
    learned, unseen = frames_of(steps, 1, 0.1, 0, np.zeros(160, bool))
    data = TrainingData(TrainingRows(steps=steps, probability=learned), reader)
    settings = TrainSettings(steps=300, batch=64, lr=3e-3, ema=0.98)
    Trainer(reader, data, settings, 0, Goal(loss=reader.misses)).fit()
    return reader, data, np.flatnonzero(unseen)


def test_places_are_told_from_pictures_never_seen_in_units_of_each_environment(taught):
    reader, data, unseen = taught
    found = reader.distances(data, unseen)
    spread = (SIDE - 4) / np.sqrt(12)  # of a goal's coordinates, in pixels
    assert (found["toy/near"][1:3] < 0.25 * spread).all()
    assert (found["toy/far"][1:3] < 0.25 * spread * 10).all()
    assert (found["toy/far"][1:3] > 3 * found["toy/near"][1:3]).all()  # ten times the cm


def test_what_the_policy_knows_of_itself_and_what_stands_still_is_not_told(taught):
    reader, data, unseen = taught
    assert reader.wanted.tolist() == [[0, 1, 1, 0]] * 2
    assert np.isnan(reader.distances(data, unseen)["toy/near"][[0, 3]]).all()
    assert reader.names("toy/near") == [
        ("arm", "rad"),
        ("goal_x", "cm"),
        ("goal_y", "cm"),
        ("fixed", "cm"),
    ]


def test_errors_are_root_mean_squares_in_units(taught):
    reader, data, unseen = taught
    batch = data.gather(unseen)
    with torch.inference_mode():
        told, true = reader.tell(batch.window, batch.environment)
    scale = reader.normalizer.obs_scale[:, reader.layout.slices[reader.tells[0]]]
    near = batch.environment == 0
    squared = ((told - true)[near] * scale[0]).square().mean(0).sqrt()
    np.testing.assert_allclose(reader.distances(data, unseen)["toy/near"][1:3], squared[1:3], 1e-4)


def test_a_policy_begins_with_these_eyes_and_leaves_them_as_they_are(taught, tmp_path):
    reader, _, _ = taught
    folder = reader.weights().save(tmp_path / "eyes")
    demos = Steps.concatenate([scene("toy/near", 4, 5), scene("toy/far", 4, 6)])
    encoder = EncoderSettings(weights=str(folder), frozen=True)
    settings = NETWORK.model_copy(update={"encoder": encoder})
    policy = build_policy(settings, INTERFACES, make_normalizer(demos, INTERFACES, settings), 3)
    mine, theirs = (p.conditioner.encoders.state_dict() for p in (policy, reader))
    assert mine.keys() == theirs.keys() and len(mine)
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert not any(p.requires_grad for p in policy.conditioner.encoders.parameters())


def test_eyes_that_no_run_has_made_are_asked_for():
    demos = scene("toy/near", 4, 5)
    normalizer = make_normalizer(demos, INTERFACES[:1], NETWORK)
    with pytest.raises(UserError, match="is a stage of `alltrades run`.*RUN/policies/eyes"):
        build_policy(NETWORK, INTERFACES[:1], normalizer, 0)


def test_nothing_left_to_be_told_is_named():
    still = scene("toy/near", 4, 0)
    state = still.observation["state"][:].copy()
    state[:, 1:] = 1.0
    still = replace(still, observation=still.observation | {"state": state})
    with pytest.raises(UserError, match="nothing of 'toy/near' that moves"):
        make_reader(still, INTERFACES[:1], NETWORK, SIGHT, 16, 0, "cpu")


def test_whole_episodes_of_every_environment_are_held_out():
    steps = Steps.concatenate([scene("toy/near", 30, 0), scene("toy/far", 10, 1)])
    still = np.arange(40) < 5
    learned, unseen = frames_of(steps, 2, 0.2, 4, still)
    assert not (learned & unseen).any()
    episode = steps.episode_of_step
    held = set(episode[unseen])
    assert not held & set(episode[learned]) and len(held) == 6 + 2
    assert sum(e < 30 for e in held) == 6
    left = steps.ends[episode] - 1 - np.arange(len(steps))
    wanted = np.where(still[episode], left == 0, (left % 2 == 0) & (left < LENGTH - 1))
    np.testing.assert_array_equal(learned | unseen, wanted)


@pytest.mark.parametrize("every", [1, 2, 100])
def test_first_steps_are_looked_at_only_where_there_are_no_others(every):
    brief = scene("toy/near", 10, 0)
    learned, unseen = frames_of(brief, every, 0.1, 0, np.zeros(10, bool))
    assert not (learned | unseen)[brief.starts].any()
    assert (learned | unseen)[brief.ends - 1].all()


def teacher_of(*observe: str):
    demos = Steps.concatenate([scene("toy/near", 4, 5), scene("toy/far", 4, 6)])
    settings = PolicySettings(observe=observe, width=16, depth=1, n_obs_steps=2)
    return build_policy(settings, INTERFACES, make_normalizer(demos, INTERFACES, settings), 3)


def seen_by(actor: Estimated, steps: Steps, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Windows of these rows, frames (row, row + 1), by the actor's slots."""
    return {
        slot: np.stack([steps.observation[name][:][rows + i] for i in (0, 1)], 1)
        for name, slot in actor.layout.fields[0].items()
    }


def test_specialists_act_on_the_state_as_the_eyes_tell_it(taught, tmp_path):
    reader = load_reader(taught[0].save(tmp_path / "eyes"))
    teacher = teacher_of("state")
    actor = Estimated(reader, teacher, "toy/far", {"proprioception": Part((0,))})
    assert set(actor.environments[0].observation) == {"images.top", "proprioception"}
    steps, rows = scene("toy/far", 40, 9), np.arange(60)
    window = seen_by(actor, steps, rows)
    state = np.stack([np.asarray(steps.observation["state"])[rows + i] for i in (0, 1)], 1)
    (told,) = actor.estimates(window).values()
    assert told.shape == state.shape
    np.testing.assert_array_equal(told[..., 0], state[..., 0])  # the arm, which it knows
    np.testing.assert_allclose(told[..., 3], 3.0, rtol=1e-6)  # what stands still
    errors = np.sqrt(np.square(told - state)[..., 1:3].mean((0, 1)))
    assert (errors < 0.25 * 10 * (SIDE - 4) / np.sqrt(12)).all()
    noise = np.random.default_rng(0).normal(size=(60, teacher.draws, teacher.horizon, 1))
    noise, where = noise.astype(np.float32), np.zeros(60, int)
    slot = teacher.layout.fields[1]["state"]
    np.testing.assert_array_equal(
        actor.act(window, where, noise), teacher.act({slot: told}, where + 1, noise)
    )


def test_specialists_of_fields_that_the_eyes_do_not_tell_are_refused(taught):
    other = replace(INTERFACES[0], observation={"force": Field.state(1)})
    demos = scene("toy/near", 4, 5)
    demos = replace(demos, observation={"force": np.zeros((len(demos), 1), np.float32)})
    settings = PolicySettings(width=16, depth=1)
    teacher = build_policy(settings, [other], make_normalizer(demos, [other], settings), 3)
    with pytest.raises(UserError, match="sees 'force', which the eyes do not tell"):
        Estimated(taught[0], teacher, "toy/near", {})


@pytest.mark.parametrize("name", ["reader.json", "reader.safetensors"])
def test_damaged_eyes_are_one_line(taught, tmp_path, name):
    folder = taught[0].save(tmp_path / "eyes")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}.*cannot be read"):
        load_reader(folder)
