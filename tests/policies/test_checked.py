"""Networks of plugins that no policy can have are named where they are built or first run."""

import pytest
import torch
from torch import nn

from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.learning import initial
from alltrades.policies.model.backbones import BACKBONES, ResidualMLP
from alltrades.policies.model.batch import Batch
from alltrades.policies.model.encoders import ENCODERS, Convolution, Encoder
from alltrades.policies.model.loading import load_policy
from alltrades.policies.settings import EncoderSettings

from .test_encoders import BOX, policy_of, window_of
from .toys import SMALL

SEEN = [Interface("a", {"image": Field.image(16, 16)}, BOX)]


class Flat(Encoder):
    """Tells `given` numbers of a frame, and says `dim`; `further` layers follow its own."""

    dim, given = 4, 4
    further: nn.Module = nn.Identity()

    def __init__(self, slot):
        super().__init__(slot)
        self.project = nn.Linear(16 * 16 * 3, self.given)
        self.more = self.further

    def forward(self, frames):
        return self.more(self.project(frames.flatten(1)))


class Thin(Convolution):
    """Feature maps of fewer channels than it says."""

    def maps(self, frames):
        return super().maps(frames)[:, :-1]


class Short(ResidualMLP):
    """Gives an action too few."""

    def forward(self, noisy, t, condition):
        return super().forward(noisy, t, condition)[:, :-1]


def settings_of(kind):
    ENCODERS.register("test checked", kind)
    return SMALL.model_copy(update={"encoder": EncoderSettings(name="test checked")})


@pytest.mark.parametrize(
    "further, said",
    [
        (nn.BatchNorm1d(4), "layer BatchNorm1d, which normalises over the batch"),
        (nn.Dropout(0.5), "layer Dropout with dropout of 0.5, which draws random numbers"),
        (nn.Sequential(nn.ReLU(), nn.AlphaDropout(0.1)), "layer AlphaDropout with dropout of 0.1"),
        (nn.MultiheadAttention(4, 2, dropout=0.5), "layer MultiheadAttention with dropout of 0.5"),
        (nn.GRU(4, 4, 2, dropout=0.2), "layer GRU with dropout of 0.2"),
        (nn.RReLU(), "layer RReLU with random slopes"),
    ],
)
def test_layers_by_which_rows_or_equal_commands_differ_are_refused(further, said):
    kind = type("Random", (Flat,), {"further": further})
    with pytest.raises(UserError, match=f"encoder 'test checked' has a {said}"):
        policy_of(SEEN, settings_of(kind))


class Fixed(nn.BatchNorm1d):
    """Has the statistics of its training."""

    def train(self, mode=True):
        super().train(False)  # and, as many do, returns nothing


def test_layers_that_change_nothing_are_taken():
    policy = policy_of(SEEN, settings_of(type("Fixed", (Flat,), {"further": Fixed(4)})))
    assert torch.isfinite(condition(policy)).all()
    kind = type("Still", (Flat,), {"further": nn.Sequential(nn.Dropout(0.0), nn.LayerNorm(4))})
    policy = policy_of(SEEN, settings_of(kind))
    assert policy.training is False and torch.isfinite(condition(policy)).all()


def condition(policy):
    return policy.condition(window_of(policy), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    "kind, said",
    [
        (
            type("Wide", (Flat,), {"given": 7}),
            r"encoder Wide gave rows of shape \(7,\); expected \(4,\)",
        ),
        (
            Thin,
            r"feature maps of encoder Thin gave .* \(63, 16, 16\); expected \(64, 16, 16\)",
        ),
    ],
)
def test_numbers_that_are_not_as_many_as_an_encoder_says_are_named(kind, said):
    policy = policy_of(SEEN, settings_of(kind))
    with pytest.raises(UserError, match=said):
        condition(policy)


def test_an_encoder_of_texts_that_gives_other_numbers_is_named():
    kind = type(
        "Words", (Encoder,), {"kinds": ("text",), "dim": 3, "forward": lambda s, x: x[:, :5]}
    )
    policy = policy_of([Interface("a", {"say": Field.text()}, BOX)], settings_of(kind))
    with pytest.raises(
        UserError, match=r"encoder Words gave rows of shape \(5,\); expected \(3,\)"
    ):
        condition(policy)


def test_an_artifact_of_such_layers_can_still_act(tmp_path, monkeypatch):
    """They are in evaluation mode then."""
    kind = type("Random", (Flat,), {"further": nn.Dropout(0.5)})
    with monkeypatch.context() as patched:
        patched.setattr(initial, "check_network", lambda policy: None)
        policy = policy_of(SEEN, settings_of(kind))
    policy.save(tmp_path)
    loaded = load_policy(tmp_path).eval()
    assert torch.equal(condition(loaded), condition(policy))


def test_a_backbone_that_gives_another_chunk_is_named():
    BACKBONES.register("test short", Short)
    policy = policy_of(SEEN, SMALL.model_copy(update={"backbone": "test short"}))
    with pytest.raises(UserError, match="backbone 'test short' gave rows of shape"):
        chunks = torch.zeros(4, policy.horizon, 2)
        here, ones = torch.zeros(4, dtype=torch.long), torch.ones(4)
        batch = Batch(window_of(policy), chunks, torch.ones(chunks.shape[:2]), here, ones)
        policy.loss(batch, torch.Generator().manual_seed(0))
