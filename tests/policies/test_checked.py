"""Networks of plugins that no policy can have are named where they are built or first run."""

import pytest
import torch
from torch import nn

from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.learning import initial
from alltrades.policies.model.backbones import BACKBONES, ResidualMLP
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


class Mixed(ResidualMLP):
    """Normalises over the batch before its last layer, which begins with 0."""

    def forward(self, noisy, t, condition):
        return super().forward(noisy - noisy.mean(0), t, condition)


class Dropped(ResidualMLP):
    """Draws random numbers before its last layer."""

    def forward(self, noisy, t, condition):
        return super().forward(noisy, t, torch.nn.functional.dropout(condition, 0.5))


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
            r"encoder 'test checked' of 'image' gave rows of shape \(7,\); expected \(4,\)",
        ),
        (
            Thin,
            r"feature maps of encoder Thin gave .* \(63, 16, 16\); expected \(64, 16, 16\)",
        ),
    ],
)
def test_numbers_that_are_not_as_many_as_an_encoder_says_are_named(kind, said):
    with pytest.raises(UserError, match=said):
        policy_of(SEEN, settings_of(kind))


def test_an_encoder_that_changes_afterwards_is_named_too():
    policy = policy_of(SEEN, settings_of(type("Late", (Flat,), {})))
    (encoder,) = policy.conditioner.encoders.values()
    encoder.more = nn.Linear(4, 6)
    with pytest.raises(UserError, match=r"encoder Late gave rows of shape \(6,\); expected"):
        condition(policy)


class Three(Flat):
    """Takes three channels alone."""

    def forward(self, frames):
        red, green, blue = frames.movedim(3, 0)
        return self.project(torch.stack([red, green, blue], -1).flatten(1))


class Whitened(Flat):
    """Normalises over the batch without a layer that says so."""

    def forward(self, frames):
        x = self.project(frames.flatten(1))
        return x - x.mean(0)


class Noisy(Flat):
    """Draws random numbers without a layer that says so."""

    def forward(self, frames):
        return torch.nn.functional.dropout(self.project(frames.flatten(1)), 0.5, self.training)


@pytest.mark.parametrize(
    "kind, channels, said",
    [
        (
            Three,
            4,
            r"encoder 'test checked' of 'image' raised ValueError on rows of \(2, 16, 16, 4\): too "
            r"many values to unpack \(expected 3\); expected a network that takes them",
        ),
        (Whitened, 3, "of 'image' gave other numbers for a row beside another one than alone"),
        (Noisy, 3, "of 'image' gave other numbers for equal rows the second time"),
    ],
)
def test_what_layers_do_not_say_is_found_by_a_first_run(kind, channels, said):
    seen = [Interface("a", {"image": Field.image(16, 16, channels)}, BOX)]
    state = torch.random.get_rng_state()
    with pytest.raises(UserError, match=said):
        policy_of(seen, settings_of(kind))
    assert torch.equal(torch.random.get_rng_state(), state)


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


@pytest.mark.parametrize(
    "kind, said",
    [
        (Short, r"backbone 'test checked' gave rows of shape \(3, 2\); expected \(4, 2\)"),
        (Mixed, "backbone 'test checked' gave other numbers for a row beside another one"),
        (Dropped, "backbone 'test checked' gave other numbers for equal rows the second time"),
    ],
)
def test_a_backbone_that_gives_another_chunk_or_mixes_rows_is_named(kind, said):
    BACKBONES.register("test checked", kind)
    with pytest.raises(UserError, match=said):
        policy_of(SEEN, SMALL.model_copy(update={"backbone": "test checked"}))


class Paired(Flat):
    """Gives two things."""

    def forward(self, frames):
        return super().forward(frames), None


class Endless(Flat):
    def forward(self, frames):
        return super().forward(frames) / 0


class Changed(Flat):
    """Changes its input, which is nobody else's, and counts, which is: a copy counts."""

    def __init__(self, slot):
        super().__init__(slot)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, frames):
        self.calls += 1
        return super().forward(frames.sub_(0.5))


@pytest.mark.parametrize(
    "kind, said",
    [
        (Paired, r"of 'image' gave a tuple; expected a tensor of rows of \(4,\)"),
        (Endless, "of 'image' gave numbers that are not finite"),
    ],
)
def test_what_is_no_row_of_numbers_is_named(kind, said):
    with pytest.raises(UserError, match=said):
        policy_of(SEEN, settings_of(kind))


def test_a_first_run_leaves_a_network_as_it_is():
    (encoder,) = policy_of(SEEN, settings_of(Changed)).conditioner.encoders.values()
    assert encoder.calls == 0
