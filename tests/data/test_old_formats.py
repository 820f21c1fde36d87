"""Stores of format 1 and foreign ones are read as they are, and never written."""

import json
from pathlib import Path

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from tests.data.stores import episode, same, states, write_format_1

WRITTEN = [
    episode(0),
    episode(1, 7, 4, 1, "b/x", "scratch"),
    episode(2, 3, actions=False),
    episode(3, 6, 4, 1, "b/x"),
]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    write_format_1(tmp_path / "old", WRITTEN, {"kind": "demonstrations", "seed": 3})
    return tmp_path / "old"


def test_format_1_opens_as_the_field_state(old, tmp_path):
    store = EpisodeStore.open(old)
    assert all(same(a, b) for a, b in zip(WRITTEN, store.episodes())) and len(store) == 4
    assert list(store.episode(0).observations) == ["state"]
    assert store.provenance == {"kind": "demonstrations", "seed": 3} and store.n_steps == 21
    new = EpisodeStore.write(tmp_path / "new", store.episodes(), store.provenance)
    assert all(same(a, b) for a, b in zip(WRITTEN, new.episodes()))
    for first in (None, 0, 1, 3):
        assert new.digest(first) == store.digest(first)
    for names in (None, ["b/x"], ["a"]):
        a, b = store.steps(names), new.steps(names)
        width = states(b).shape[1]
        assert np.array_equal(states(a)[:, :width], states(b)[:])
        assert np.array_equal(a.ends, b.ends) and np.array_equal(a.source, b.source)
        assert np.array_equal(a.success, b.success) and np.array_equal(a.seed, b.seed)
    assert {k: v.tolist() for k, v in store.columns().items()} == {
        k: v.tolist() for k, v in new.columns().items()
    }


def test_format_1_is_not_written(old):
    with pytest.raises(UserError, match="format 1, which is read and no longer written"):
        EpisodeStore.open(old, mode="a")
    with pytest.raises(UserError, match="already"):
        EpisodeStore.create(old)


def test_format_1_is_described_as_before(old, capsys):
    assert cli.main(["data", "info", str(old)]) == 0
    assert capsys.readouterr().out.splitlines()[:8] == [
        f"{old}: 4 episodes, 21 steps (format 1)",
        "  data/action: (21, 2) float32",
        "  data/observation: (21, 4) float32",
        "  data/reward: (21,) float32",
        "  data/success: (21,) bool",
        "  a from expert: 2 episodes, 3-5 steps, 2 marked successful, 1 without actions",
        "  b/x from expert: 1 episodes, 6-6 steps, 0 marked successful",
        "  b/x from scratch: 1 episodes, 7-7 steps, 0 marked successful",
    ]


def test_format_2_is_described_per_environment(tmp_path, capsys):
    EpisodeStore.write(tmp_path / "new", WRITTEN, {"seed": 3})
    assert cli.main(["data", "info", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'new'}: 4 episodes, 21 steps (format 2)",
        "  a: 2 episodes, 8 steps, rate unknown",
        "    state: state of 3 numbers float32",
        "    action: 2 numbers, box unknown",
        "    from expert: 2 episodes, 3-5 steps, 2 marked successful, 1 without actions",
        "  b/x: 2 episodes, 13 steps, rate unknown",
        "    state: state of 4 numbers float32",
        "    action: 1 numbers, box unknown",
        "    from expert: 1 episodes, 6-6 steps, 0 marked successful",
        "    from scratch: 1 episodes, 7-7 steps, 0 marked successful",
        "  seed: 3",
        "  a, ranges:",
        "    state: -2.441 to 1.304; -0.6233 to 1.8; -1.246 to 1.144",
        "    action: -0.7323 to 1.366; -0.6652 to 0.9035",
        "  b/x, ranges:",
        "    state: -2.711 to 2.041; -2.556 to 3.323; -2.02 to 1.294; -1.303 to 1.007",
        "    action: -1.112 to 2.118",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 20}, "end at step 21, not 20"),
        ({"episodes": 9}, "expected 9 rows"),
        ({"episodes": 3}, "end at step 15, not 21"),
        ({"episodes": "x"}, "disagree"),
        ({"environments": ["a"]}, "codes without a name"),
        ({"sources": []}, "codes without a name"),
        ({"environments": 3}, "codes without a name"),
    ],
)
def test_a_format_1_store_whose_commit_disagrees_with_its_arrays_is_refused(old, change, said):
    commit = json.loads((old / "commit.json").read_text())
    (old / "commit.json").write_text(json.dumps(commit | change))
    with pytest.raises(UserError, match=said) as error:
        EpisodeStore.open(old).columns()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("meta/episode_ends", [5, 4, 15, 21], "does not increase"),
        ("meta/episode_ends", [5, 12, 15, 20], "end at step 20, not 21"),
        ("meta/source", [0, -1, 0, 0], "codes without a name"),
        ("meta/environment", [0, 5, 0, 0], "codes without a name"),
        ("meta/observation_dim", [3, 9, 3, 4], "exceeds the 4 columns"),
        ("data/reward", [np.nan] * 21, "not finite"),
        ("data/observation", np.full((21, 4), np.inf), "not finite"),
    ],
)
def test_a_format_1_store_with_broken_arrays_is_refused(old, name, value, said):
    import zarr

    zarr.open_group(str(old), mode="r+")[name][:] = np.array(value)
    with pytest.raises(UserError, match=said) as error:
        list(EpisodeStore.open(old).episodes())
    assert "\n" not in str(error.value)
