from pathlib import Path

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.errors import UserError
from alltrades.pipeline.weights_folder import weight_column
from alltrades.system.files import slug

NAMES = ("toy/a", "toy/b")


def episode(rng: np.random.Generator, steps: int, environment: str, shift: float) -> Episode:
    success = np.zeros(steps, bool)
    success[-1] = True
    return Episode(
        {"state": (shift + rng.standard_normal((steps, 3))).astype(np.float32)},
        rng.standard_normal((steps, 2)).astype(np.float32),
        np.zeros(steps, np.float32),
        success,
        environment,
        "scratch",
        int(rng.integers(1 << 30)),
        True,
        steps,
        1.0,
    )


def fill(path: Path, kind: str, lengths: dict[str, list[int]], shift: float) -> EpisodeStore:
    """Episodes of two environments in turn, of different lengths."""
    rng = np.random.default_rng(len(kind))
    store = EpisodeStore.create(path, provenance={"kind": kind})
    for i in range(max(map(len, lengths.values()))):
        store.append([episode(rng, lengths[n][i], n, shift) for n in NAMES if i < len(lengths[n])])
    return store


@pytest.fixture
def stores(tmp_path: Path) -> tuple[EpisodeStore, EpisodeStore, dict[str, Steps], Path]:
    demos = fill(
        tmp_path / "demos.zarr",
        "demonstrations",
        {"toy/a": [7, 8, 9, 6], "toy/b": [5, 6, 7, 9]},
        0.0,
    )
    rollouts = fill(
        tmp_path / "rollouts.zarr",
        "rollouts",
        {"toy/a": [9, 12, 8, 10, 11], "toy/b": [6, 14, 7, 9, 5]},
        0.7,
    )
    used = {}
    for name in NAMES:  # the first four rollouts only
        used[name] = rollouts.steps([name]).select(np.arange(5) < 4)
        estimate_weights(
            demos.steps([name]), used[name], WeightSettings(), np.random.default_rng(0)
        ).save(tmp_path / "weights" / slug(name))
    return demos, rollouts, used, tmp_path / "weights"


def test_every_step_has_the_weight_that_was_estimated_for_its_observation(stores) -> None:
    demos, rollouts, used, folder = stores
    column, steps = weight_column(rollouts, folder), rollouts.steps()
    assert column.shape == (rollouts.n_steps,)
    fresh = {
        name: estimate_weights(
            demos.steps([name]), used[name], WeightSettings(), np.random.default_rng(0)
        )
        for name in NAMES
    }
    for name in NAMES:
        weight_of = {
            o.tobytes(): w
            for o, w in zip(used[name].observation["state"], fresh[name].rollout_weight)
        }
        mine = np.flatnonzero(steps.environment[steps.episode_of_step] == name)
        want = [weight_of.get(steps.observation["state"][i].tobytes(), np.nan) for i in mine]
        np.testing.assert_array_equal(column[mine], want)
        assert np.isnan(column[mine]).sum() == rollouts.steps([name]).lengths[4]
    assert np.nanstd(column) > 0.05
    assert np.isfinite(weight_column(demos, folder)).all()


def test_the_command_shows_the_column_and_refuses_weights_of_other_rows(
    stores, tmp_path: Path, capsys
) -> None:
    demos, rollouts, used, folder = stores
    assert cli.main(["data", "info", str(rollouts.path), "--weights", str(folder)]) == 0
    assert f"toy/a: {len(used['toy/a'])} weights" in capsys.readouterr().out
    other = fill(tmp_path / "other.zarr", "rollouts", {"toy/a": [9, 30], "toy/b": [6, 14]}, 0.7)
    with pytest.raises(UserError, match="weights of this store alone"):
        weight_column(other, folder)
    assert cli.main(["data", "info", str(rollouts.path), "--weights", str(tmp_path)]) == 2
    assert "no weights of toy/a, toy/b" in capsys.readouterr().err
