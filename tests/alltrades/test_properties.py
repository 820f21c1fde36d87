"""What must hold for whatever comes: stores, normalisers, messages, settings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.policies.client.messages import pack, read_seed, unpack, wire_seed
from alltrades.policies.model.normalizer import fit_normalizer
from alltrades.policies.model.statistics import measure
from alltrades.policies.settings import PolicySettings
from alltrades.settings.nested import flatten, merge
from tests.data.stores import episode

QUICK = settings(max_examples=200, deadline=None, derandomize=True)
SLOW = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


# ---- stores --------------------------------------------------------------------------------------
def same(a: Episode, b: Episode) -> bool:
    pairs = [(a.actions, b.actions), (a.rewards, b.rewards), (a.successes, b.successes)]
    pairs += [(a.observations[name], b.observations[name]) for name in a.observations]
    facts = ("environment", "source", "seed", "success", "first_success", "return_")
    return all(np.array_equal(x, y) for x, y in pairs) and all(
        getattr(a, name) == getattr(b, name) for name in facts
    )


@SLOW
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 6), max_size=3),
)
def test_episodes_appended_in_any_parts_by_any_number_of_writers_are_those_written_at_once(
    lengths: list[int], cuts: list[int]
) -> None:
    episodes = [
        episode(i, n, obs=2 + i % 2, environment="ab"[i % 2]) for i, n in enumerate(lengths)
    ]
    with tempfile.TemporaryDirectory() as folder:
        whole = EpisodeStore.write(Path(folder) / "whole", episodes)
        path = Path(folder) / "parts"
        EpisodeStore.create(path).close()
        ends = sorted({min(cut, len(episodes)) for cut in cuts} | {0, len(episodes)})
        for first, last in zip(ends, ends[1:]):
            with EpisodeStore.open(path, "a") as writer:
                writer.append(episodes[first:last])
        parts = EpisodeStore.open(path)
        assert parts.digest() == whole.digest() and len(parts) == len(episodes)
        assert parts.episode_ends.tolist() == np.cumsum(lengths).tolist()
        assert all(same(a, b) for a, b in zip(parts.episodes(), episodes, strict=True))


@SLOW
@given(data=st.data())
def test_a_store_with_a_file_cut_short_is_refused_in_one_line_or_reads_as_it_was(
    data: st.DataObject,
) -> None:
    episodes = [episode(i, 4, environment="ab"[i % 2]) for i in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        EpisodeStore.write(path, episodes).close()
        files = sorted(p for p in path.rglob("*") if p.is_file())
        for _ in range(4):
            damaged = Path(folder) / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(path, damaged)
            file = damaged / data.draw(st.sampled_from(files)).relative_to(path)
            kept = data.draw(st.integers(0, max(0, file.stat().st_size - 1)))
            file.write_bytes(file.read_bytes()[:kept])
            try:
                found = list(EpisodeStore.open(damaged).episodes())
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert all(same(a, b) for a, b in zip(found, episodes, strict=True))


# ---- normalisers ---------------------------------------------------------------------------------
@settings(QUICK, max_examples=100)
@given(
    offset=st.sampled_from([0.0, 1.0, -300.0, 1e4]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    seed=st.integers(0, 1000),
    ranged=st.booleans(),
)
def test_normalised_actions_come_back_as_they_were_in_each_environment(
    offset: float, spread: float, seed: int, ranged: bool
) -> None:
    rng = np.random.default_rng(seed)
    infos, found, data = [], [], []
    for name, dim in (("small", 1), ("large", 3)):
        values = (offset + spread * rng.normal(size=(1, 20, dim))).astype(np.float32)
        low, high = values.min((0, 1)) - 1, values.max((0, 1)) + 1
        info = Interface(name, {"state": Field.state(2)}, ActionSpec(low, high), 50, 10.0)
        states = {"state": rng.normal(size=(20, 2)).astype(np.float32)}
        found.append(measure(info, states, values[0]))
        infos.append(info)
        data.append(values)
    layout = Layout(infos)
    normalizer = fit_normalizer(found, layout, PolicySettings())
    for index, values in enumerate(data):
        padded = torch.from_numpy(np.asarray(layout.pack_action(values[0])))[None]
        which = torch.tensor([index])
        scaled = normalizer.action(padded, which)
        back = normalizer.unaction(scaled, which)[0, :, : values.shape[2]].numpy()
        assert torch.isfinite(scaled).all()
        tolerance = 4 * np.finfo(np.float32).eps * max(1.0, np.abs(values).max())
        np.testing.assert_allclose(back, values[0], atol=tolerance)


# ---- messages ------------------------------------------------------------------------------------
NUMBERS = st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.int64, np.bool_])
ARRAYS = NUMBERS.flatmap(
    lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20)
)
MESSAGES = st.recursive(
    st.one_of(PLAIN, ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.tobytes() == b.tobytes()
            and (a.shape == b.shape)
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or a != a and b != b)


@QUICK
@given(MESSAGES)
def test_a_message_comes_back_bit_for_bit(message: Any) -> None:
    assert equal(message, unpack(pack(message)))


@QUICK
@given(MESSAGES, st.data())
def test_a_damaged_message_is_a_value_error_or_a_message(message: Any, data: st.DataObject) -> None:
    sent = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(sent[: data.draw(st.integers(0, len(sent)))]))
    except ValueError as error:
        assert "\n" not in str(error)


@QUICK
@given(st.integers(-(10**300), 10**300))
def test_seeds_of_any_size_come_over_the_wire(seed: int) -> None:
    assert read_seed(unpack(pack({"seed": wire_seed(seed)}))["seed"]) == seed


# ---- settings ------------------------------------------------------------------------------------
LAYERS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 5), max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from("abc"), st.one_of(st.integers(0, 5), inner), min_size=1, max_size=3
    ),
    max_leaves=6,
)


@QUICK
@given(LAYERS, LAYERS)
def test_merged_settings_hold_what_the_later_layer_says_and_else_what_the_earlier_says(
    base: dict, layer: dict
) -> None:
    before = (repr(base), repr(layer))
    merged = merge(base, layer)
    assert (repr(base), repr(layer)) == before
    said, earlier = dict(flatten(layer)), dict(flatten(base))
    found = dict(flatten(merged))
    assert all(found[key] == value for key, value in said.items())
    for key, value in found.items():
        assert value == (said[key] if key in said else earlier[key])
    assert merge(merged, layer) == merged and merge(base, {}) == base and merge({}, base) == base


VALUES = st.integers(0, 5)
ALIKE = st.fixed_dictionaries(
    {},
    optional={
        "a": VALUES,
        "b": VALUES,
        "c": st.dictionaries(st.sampled_from("de"), VALUES, min_size=1),
    },
)


@QUICK
@given(ALIKE, ALIKE, ALIKE)
def test_layers_of_one_shape_merge_in_any_grouping(a: dict, b: dict, c: dict) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
