"""The moving average against a scalar recursion, and its state under resume."""

from __future__ import annotations

import pytest
import torch

from alltrades.policies.learning.ema import EMA


def walk(steps: int, seed: int = 0) -> list[list[torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(3, 2, generator=g), torch.randn(5, generator=g)] for _ in range(steps)]


def test_average_follows_the_recursion_with_warm_up() -> None:
    path = walk(201)
    ema = EMA(path[0], decay=0.9)
    expected = [p.double() for p in path[0]]
    for k, parameters in enumerate(path[1:]):
        ema.update(parameters)
        d = min(0.9, (1 + k) / (10 + k))
        expected = [d * e + (1 - d) * p.double() for e, p in zip(expected, parameters)]
    for mine, truth in zip(ema.shadow, expected):
        torch.testing.assert_close(mine.double(), truth, atol=1e-6, rtol=0)


def test_first_update_takes_nine_tenths_of_the_new_value_however_large_the_decay() -> None:
    ema = EMA([torch.zeros(2)], decay=0.9999)
    ema.update([torch.ones(2)])
    torch.testing.assert_close(ema.shadow[0], torch.full((2,), 0.9))


def test_decay_stops_at_its_final_value() -> None:
    ema = EMA([torch.zeros(1)], decay=0.5)
    for _ in range(100):
        ema.update([torch.zeros(1)])
    assert ema.current_decay() == 0.5


def test_resuming_midway_equals_never_stopping_bit_for_bit() -> None:
    path = walk(40)
    whole = EMA(path[0], decay=0.99)
    for parameters in path[1:]:
        whole.update(parameters)
    first = EMA(path[0], decay=0.99)
    for parameters in path[1:17]:
        first.update(parameters)
    second = EMA(walk(1, seed=9)[0], decay=0.99)
    second.load_state_dict(first.state_dict())
    for parameters in path[17:]:
        second.update(parameters)
    assert second.count == whole.count == 39
    assert all(torch.equal(a, b) for a, b in zip(whole.shadow, second.shadow))


def test_a_forgotten_counter_would_show() -> None:
    """The counter changes the result: a state restored without it warms up again."""
    path = walk(6)
    ema = EMA(path[0], decay=0.99)
    for parameters in path[1:5]:
        ema.update(parameters)
    forgetful = EMA(path[0], decay=0.99)
    forgetful.load_state_dict(ema.state_dict() | {"count": 0})
    ema.update(path[5])
    forgetful.update(path[5])
    assert not torch.allclose(ema.shadow[0], forgetful.shadow[0])


def test_saved_state_does_not_change_with_later_updates() -> None:
    ema = EMA([torch.zeros(4)])
    state = ema.state_dict()
    ema.update([torch.ones(4)])
    assert torch.equal(state["shadow"][0], torch.zeros(4)) and state["count"] == 0


def test_average_copies_into_parameters_and_shares_no_memory_with_them() -> None:
    layer = torch.nn.Linear(3, 2)
    ema = EMA(layer.parameters(), decay=0.9)
    before = [s.clone() for s in ema.shadow]
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, ema.shadow))
    ema.copy_to(layer.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters()))


def test_other_tensors_are_refused_even_where_shapes_would_broadcast() -> None:
    ema = EMA([torch.zeros(3, 2)])
    with pytest.raises(ValueError, match="same number and shapes"):
        ema.update([torch.zeros(2)])
    with pytest.raises(ValueError, match="same number and shapes"):
        ema.load_state_dict({"count": 1, "shadow": [torch.zeros(3, 2), torch.zeros(3, 2)]})
    with pytest.raises(ValueError, match="decay"):
        EMA([torch.zeros(1)], decay=1.0)
