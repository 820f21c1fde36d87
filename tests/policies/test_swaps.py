"""What a policy looks at, of policies of which that is known."""

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.saliency import saliency
from alltrades.policies.learning.swaps import swaps, warnings_of
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings

H, SIDE = 4, 12
CAMERAS = ("images.front", "images.wrist")
LAB = Interface(
    "lab/eye",
    {
        "state": Field.state(2),
        **{name: Field.image(SIDE, SIDE) for name in CAMERAS},
        "task": Field.text(),
    },
    ActionSpec((-1.0,) * 2, (1.0,) * 2, names=("x", "y"), units=("m", "m")),
)
TASKS = ("push the red one", "push the green one")


class Looking(ActingPolicy):
    """Every action is a sum of what it looks at, each times a factor."""

    n_obs_steps, horizon, n_action_steps, draws = 1, H, 2, 1

    def __init__(self, **factors):
        self.environments, self.factors = (LAB,), factors

    def act(self, window, environment, noise, known=None, keep=None):
        f, key = self.factors, self.layout.fields[0]
        total = f.get("state", 0) * window["state"][:, 0, 0].astype(np.float64)
        for name in CAMERAS:
            pixels = window[key[name]][:, 0, :3, :3].astype(np.float64).mean((1, 2, 3)) / 255
            total = total + f.get(name.removeprefix("images."), 0) * pixels
        total = total + f.get("task", 0) * window["task"][:, 0].sum(1)
        chunk = np.repeat(total[:, None, None], H, 1).repeat(2, 2)
        return (chunk + f.get("noise", 0) * noise[:, 0]).astype(np.float32)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Each episode has a picture of one brightness, a state and one of two tasks."""
    rng, episodes = np.random.default_rng(0), []
    for i in range(12):
        light = rng.integers(20, 230, 2)
        fields = {"state": rng.normal(size=(10, 2)).astype(np.float32), "task": TASKS[i % 2]}
        for name, value in zip(CAMERAS, light):
            fields[name] = np.full((10, SIDE, SIDE, 3), value, np.uint8)
        actions = rng.uniform(-1, 1, (10, 2)).astype(np.float32)
        episodes.append(Episode.from_arrays(fields, actions, LAB.id, seed=i))
    path = tmp_path_factory.mktemp("swaps") / "s.zarr"
    EpisodeStore.write(path, episodes)
    return EpisodeStore.open(path).steps()


def test_what_a_policy_ignores_changes_nothing_and_what_it_uses_does(steps):
    found = swaps(Looking(front=3.0, state=0.5), steps, LAB, 0)["fields"]
    assert list(found) == ["state", *CAMERAS, "task", "all images", "everything"]
    for name in ("images.wrist", "task"):
        assert found[name]["share"] == 0 and found[name]["interval"] == [0, 0]
        assert found[name]["verdict"] == "ignored"
    for name in ("images.front", "state", "all images", "everything"):
        assert found[name]["verdict"] == "used" and found[name]["interval"][0] > 0.01
    assert found["all images"]["share"] == found["images.front"]["share"]


def test_changes_are_in_units_and_shares_of_the_variance(steps):
    """Of a brightness that is independent from episode to episode: twice its variance."""
    facts = swaps(Looking(front=1.0), steps, LAB, 3)
    own, std = facts["fields"]["images.front"], np.array(facts["std"])
    np.testing.assert_allclose(std, steps.action.load(2).astype(float).std(0), rtol=1e-6)
    np.testing.assert_allclose(own["share"], np.mean((own["rms"] / std) ** 2), rtol=1e-6)
    lights = steps.observation["images.front"].take(steps.starts)[:, 0, 0, 0] / 255
    pairs = np.subtract.outer(lights, lights)
    others = np.square(pairs).sum() / (len(lights) * (len(lights) - 1))
    np.testing.assert_allclose(np.square(own["rms"]), others, rtol=0.25)


def test_a_field_that_stays_within_an_episode_changes_nothing_within(steps):
    found = swaps(Looking(front=3.0, state=1.0), steps, LAB, 0)["fields"]
    assert found["images.front"]["within"] == 0 and found["state"]["within"] > 0.1
    assert found["task"]["within"] is None


def test_noise_stays_the_same_and_is_told_beside(steps):
    facts = swaps(Looking(front=0.05, noise=1.0, state=2.0), steps, LAB, 0)
    own = facts["fields"]
    assert own["images.wrist"]["share"] == 0
    variance = np.square(facts["std"])
    np.testing.assert_allclose(facts["noise"]["share"], np.mean(2 / variance), rtol=0.1)
    small = swaps(Looking(front=0.5, noise=1.0), steps, LAB, 0)["fields"]["images.front"]
    assert small["verdict"] == "hardly used"


def test_a_field_of_which_others_leave_little_is_hardly_used(steps):
    facts = swaps(Looking(front=0.3, state=3.0), steps, LAB, 0)
    assert facts["fields"]["images.front"]["share"] > 0.01
    assert facts["fields"]["images.front"]["verdict"] == "hardly used"
    assert facts["fields"]["state"]["verdict"] == "used"
    assert "'images.front' is hardly used: from another" in "".join(warnings_of(facts, []))


def test_texts_are_exchanged_for_those_that_ask_for_something_else(steps):
    found = swaps(Looking(task=1.0), steps, LAB, 0)["fields"]["task"]
    assert found["verdict"] == "used"
    one = dict.fromkeys(TASKS, 0)  # they say the same: any other moment will do
    assert swaps(Looking(task=1.0), steps, LAB, 0, one)["fields"]["task"]["share"] < found["share"]


def test_one_instruction_for_all_cannot_be_exchanged(steps):
    told = steps.select(steps.text["task"] == TASKS[0])
    assert swaps(Looking(task=1.0), told, LAB, 0)["fields"]["task"]["verdict"] == (
        "the same everywhere"
    )


def test_warnings_name_cameras_and_what_matters(steps):
    facts = swaps(Looking(front=3.0), steps, LAB, 0)
    (line,) = warnings_of(facts, [])
    assert "policy.encoder.pretrain: state" in line
    assert "eyes.train.steps" in warnings_of(facts, [], given=True)[0]
    assert line.startswith("'images.wrist' is ignored: from another episode it changes 0.000")
    lines = warnings_of(facts, ["task"])
    assert len(lines) == 2 and lines[1].startswith("'task' is ignored")
    nothing = warnings_of(swaps(Looking(), steps, LAB, 0), [])
    assert nothing[-1].startswith("nothing that it sees changes its actions")


def test_a_single_episode_has_nothing_to_exchange(steps):
    one = steps.select(np.arange(len(steps.ends)) == 0)
    with pytest.raises(UserError, match="1 episode of 'lab/eye'; expected two or more"):
        swaps(Looking(), one, LAB, 0)


def network(**changes):
    made = PolicySettings.model_validate(
        {"horizon": 8, "n_action_steps": 4, "width": 32, "depth": 1, "sampling_steps": 3} | changes
    )
    normalizer = Normalizer(Layout([LAB]))
    normalizer.fitted.fill_(1)
    torch.manual_seed(0)
    policy = DiffusionPolicy(made, [LAB], normalizer)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.eval()


def test_a_network_whose_weights_of_a_camera_are_zero_is_blind(steps):
    policy = network()
    key = policy.layout.fields[0]["images.wrist"]
    found = swaps(policy, steps, LAB, 0)["fields"]
    assert found["images.wrist"]["share"] > 0
    with torch.no_grad():
        for name, parameter in policy.conditioner.heads.named_parameters():
            if key.replace(".", "/") in name:
                parameter.zero_()
    found = swaps(policy, steps, LAB, 0)["fields"]
    assert found["images.wrist"]["share"] == 0 and found["images.wrist"]["verdict"] == "ignored"
    assert found["images.front"]["share"] > 0


def test_saliency_is_where_a_policy_looks(steps):
    """At the corner of 3 x 3 pixels."""
    std = np.ones(2)
    rows = np.array([3, 25, 47])
    own = saliency(Looking(front=5.0), steps, rows, LAB.id, "images.front", std, 0)
    assert own.frames.shape == (3, SIDE, SIDE, 3) and own.maps.shape == (3, SIDE, SIDE)
    assert own.mean[:3, :3].min() > 0 and own.mean[5:].max() == own.mean[:, 5:].max() == 0
    other = saliency(Looking(front=5.0), steps, rows, LAB.id, "images.wrist", std, 0)
    assert other.maps.max() == 0
