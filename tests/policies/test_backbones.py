"""Denoisers: one call, independent rows, any horizon, export to ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from alltrades.errors import UserError
from alltrades.policies.model.backbones import BACKBONES, Backbone, Image, make_backbone
from alltrades.policies.model.backbones.base import TimeEmbedding

NAMES = sorted(BACKBONES.names())
ACTION, CONDITION = 6, 39
IMAGE = Image(4, 3, 2)  # an action is an image, and the condition begins with four


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shaken(name: str, horizon: int = 16, width: int = 128, depth: int = 3) -> Backbone:
    """A network with no zeroed layer, as after some training."""
    return shake(make_backbone(name, horizon, ACTION, CONDITION, width, depth, IMAGE).eval())


def shake(net: Backbone) -> Backbone:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    return net


def inputs(
    batch: int, horizon: int = 16, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, horizon, ACTION, generator=g),
        torch.rand(batch, generator=g),
        torch.randn(batch, CONDITION, generator=g),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("horizon", "depth"), [(16, 3), (7, 3), (1, 2), (5, 1)])
def test_any_horizon_gives_a_chunk_of_its_own_shape(name: str, horizon: int, depth: int) -> None:
    net = shaken(name, horizon, 64, depth)
    out = net(*inputs(3, horizon))
    assert out.shape == (3, horizon, ACTION)
    assert out.isfinite().all() and out.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_width_works_on_one_row_of_one_step(name: str) -> None:
    out = shaken(name, 1, 8, 1)(*inputs(1, 1))
    assert out.isfinite().all() and out.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_network_predicts_zero_and_learns(name: str) -> None:
    net = make_backbone(name, 16, ACTION, CONDITION, 64, 2, IMAGE)
    x, t, c = inputs(8)
    assert not net(x, t, c).any()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    target = torch.randn(8, 16, ACTION, generator=torch.Generator().manual_seed(3))
    for _ in range(60):
        loss = (net(x, t, c) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.square().mean()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [0, 1, 17, 31])
def test_a_row_is_bit_equal_whatever_its_position_and_its_neighbours(
    name: str, position: int, one_thread: None
) -> None:
    net = shaken(name)
    x, t, c = inputs(32)
    others = [50.0 * v if v.dim() > 1 else v for v in inputs(32, seed=2)]
    with torch.no_grad():
        row = net(x, t, c)[13]
        for there, here in zip(others, (x, t, c)):
            there[position] = here[13]
        moved = net(*others)
    assert torch.equal(moved[position], row)
    assert not torch.equal(moved[(position + 1) % 32], row)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_prediction_depends_on_chunk_time_and_condition(name: str, which: int) -> None:
    net = shaken(name)
    a, b = list(inputs(4)), inputs(4, seed=2)
    before = net(*a)
    a[which] = b[which]
    assert ((net(*a) - before).abs().amax((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("name", ["unet1d", "unet2d", "transformer"])
def test_every_step_of_the_chunk_sees_every_other(name: str) -> None:
    net = shaken(name)
    x, t, c = inputs(1)
    x.requires_grad_()
    for step in (0, 15):
        (grad,) = torch.autograd.grad(net(x, t, c)[0, step].sum(), x)
        assert (grad[0].abs().amax(-1) > 0).all()


@pytest.mark.parametrize(("width", "low", "high"), [(512, 1.6e6, 1.8e6), (128, 0.12e6, 0.15e6)])
def test_the_mlp_has_the_advertised_size(width: int, low: float, high: float) -> None:
    net = make_backbone("mlp", 16, 4, 100, width, 3)
    assert low < sum(p.numel() for p in net.parameters()) < high


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("horizon", [16, 6])
def test_exported_graph_agrees_at_other_batch_sizes(
    name: str, horizon: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
    runtime = pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    net = shaken(name, horizon, 64)
    names = ["noisy", "t", "condition"]
    torch.onnx.export(
        net,
        inputs(2, horizon),
        str(tmp_path / "net.onnx"),
        input_names=names,
        output_names=["out"],
        dynamic_axes={n: {0: "batch"} for n in [*names, "out"]},
        dynamo=False,
    )
    graph = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        values = inputs(batch, horizon)
        (out,) = graph.run(None, {n: v.numpy() for n, v in zip(names, values)})
        with torch.no_grad():
            np.testing.assert_allclose(out, net(*values).numpy(), atol=2e-5)


def test_time_embedding_separates_neighbouring_steps_and_the_ends_of_time() -> None:
    grid = TimeEmbedding(64)(torch.arange(101) / 100)
    distance = torch.cdist(grid, grid) + 10.0 * torch.eye(101)
    assert grid.shape == (101, 64)
    assert distance.min() > 1.0


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'unet1d'"):
        make_backbone("unet1", 16, 4, 10, 64, 2)


def test_images_without_their_shape_and_chunks_that_are_no_images_are_refused() -> None:
    with pytest.raises(UserError, match="needs environments that are images"):
        make_backbone("unet2d", 1, 64, 80, 16, 2)
    with pytest.raises(UserError, match="actions of 5 entries; expected a multiple of 4"):
        make_backbone("unet2d", 1, 5, 39, 16, 2, Image(2, 2, 2))


def test_a_shifted_image_is_answered_by_a_shifted_image() -> None:
    """Away from the border: only the border tells a convolution where it is."""
    net = make_backbone("unet2d", 1, 24 * 24, 24 * 24 + 3, 16, 1, Image(1, 24, 24)).eval()
    shake(net)
    g = torch.Generator().manual_seed(5)
    seen, drawn = torch.zeros(2, 24, 24), torch.zeros(2, 24, 24)
    seen[0, 10:13, 10:13], drawn[0, 10:13, 10:13] = torch.randn(2, 3, 3, generator=g)
    seen[1], drawn[1] = seen[0].roll((1, 2), (0, 1)), drawn[0].roll((1, 2), (0, 1))
    out = net(
        drawn.flatten(1)[:, None],
        torch.full((2,), 0.5),
        torch.cat([seen.flatten(1), torch.ones(2, 3)], 1),
    )
    image = out.unflatten(2, (24, 24))[:, 0]
    torch.testing.assert_close(image[1, 7:20, 7:20], image[0, 6:19, 5:18], atol=1e-5, rtol=0)
    assert image[0, 6:19, 5:18].std() > 1e-3
