"""Open-loop errors, against what is known beforehand."""

import numpy as np
import pytest
from scipy import stats

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.baselines import HOLD, MEAN, NEIGHBOUR, STATE
from alltrades.policies.learning.open_loop import open_loop
from alltrades.policies.learning.resampling import Resampling, interval
from alltrades.report.open_loop import verdicts

H = 4
ARM = Interface("lab/arm", {"state": Field.state(3)}, ActionSpec.unknown(2))


class Knows(ActingPolicy):
    """Reads the next actions off the state, which holds them: its error is `off` everywhere."""

    n_obs_steps, horizon, n_action_steps, draws = 1, H, 2, 1

    def __init__(self, table, off=0.0):
        self.environments, self.table, self.off = (ARM,), table, off

    def act(self, window, environment, noise, known=None, keep=None):
        rows = window["state"][:, 0, 0].round().astype(int)
        index = np.minimum(rows[:, None] + np.arange(H), len(self.table) - 1)
        return self.table[index] + np.float32(self.off)


@pytest.fixture
def steps(tmp_path):
    """Held-out and learned episodes: the state is the step's number among all actions."""
    rng, episodes, at, table = np.random.default_rng(0), [], 0, []
    for length in (9, 5, 30, 12, 20, 7, 6):
        actions = np.cumsum(rng.normal(0, 1, (length, 2)), 0) * [1.0, 1000.0]
        numbers = np.arange(at, at + length)[:, None] * [1, 0, 0]
        episodes.append(Episode.from_arrays({"state": numbers}, actions, "lab/arm"))
        table.append(actions)
        at += length
    EpisodeStore.write(tmp_path / "s.zarr", episodes)
    every = EpisodeStore.open(tmp_path / "s.zarr").steps()
    held = np.arange(7) < 6
    return every.select(held), every.select(~held), np.concatenate(table).astype(np.float32)


def test_policy_that_does_what_the_operator_did_has_no_error_in_any_unit(steps):
    held, learned, table = steps
    found = open_loop({"own": Knows(table)}, held, learned, ARM, 0)
    own = found["rows"]["own"]
    assert own["share"] == pytest.approx(0, abs=1e-9)
    assert own["better"] and found["episodes"] == 6 and found["learned"] == 1


def test_errors_are_shares_of_the_variance_and_in_units_of_each_dimension(steps):
    held, learned, table = steps
    own = open_loop({"own": Knows(table, 2.0)}, held, learned, ARM, 0)["rows"]["own"]
    variance = learned.action.load(2).astype(float).var(0)
    np.testing.assert_allclose(own["dimensions"]["rmse"], [2.0, 2.0], rtol=1e-3)
    np.testing.assert_allclose(own["dimensions"]["share"], 4 / variance, rtol=1e-3)
    assert own["share"] == pytest.approx((4 / variance).mean(), rel=1e-3)


def test_baselines_are_what_holding_and_the_mean_of_what_was_learned_give(steps):
    held, learned, table = steps
    found = open_loop({"own": Knows(table)}, held, learned, ARM, 0)["baselines"]
    recorded = learned.action.load(2).astype(float)
    mean, variance = recorded.mean(0), recorded.var(0)
    of_each = {HOLD: [], MEAN: []}
    for start, end in zip(held.starts, held.ends):
        actions = held.action[start:end].astype(float)
        squares = {HOLD: [], MEAN: []}
        for t in range(1, len(actions)):
            chunk = actions[t : t + H]
            squares[HOLD].append((chunk - actions[t - 1]) ** 2)
            squares[MEAN].append((chunk - mean) ** 2)
        for name, parts in squares.items():
            of_each[name].append((np.concatenate(parts).mean(0) / variance).mean())
    for name, shares in of_each.items():
        np.testing.assert_allclose(found[name]["shares"], shares, rtol=1e-4)
        low, high = stats.t.interval(0.95, 5, np.mean(shares), stats.sem(shares))
        np.testing.assert_allclose(found[name]["interval"], [low, high], rtol=1e-4)


def test_policy_that_knows_nothing_is_not_better_than_the_best_baseline(steps):
    held, learned, table = steps
    found = open_loop({"own": Knows(table, 1e4)}, held, learned, ARM, 0)
    own, best = found["rows"]["own"], found["baselines"][found["best_baseline"]]
    assert not own["better"] and own["difference"] > 0
    assert best["share"] == min(b["share"] for b in found["baselines"].values())


def test_dimension_that_stands_still_counts_for_nothing(tmp_path):
    rng, episodes = np.random.default_rng(1), []
    for k in range(4):
        actions = np.stack([rng.normal(0, 1, 60), np.full(60, 0.25)], 1)
        numbers = np.arange(60 * k, 60 * k + 60)[:, None] * [1, 0, 0]
        episodes.append(Episode.from_arrays({"state": numbers}, actions, "lab/arm"))
    EpisodeStore.write(tmp_path / "s.zarr", episodes)
    every = EpisodeStore.open(tmp_path / "s.zarr").steps()
    table = every.action.load(2)
    held = np.array([True, True, False, False])
    own = open_loop({"own": Knows(table, 0.5)}, every.select(held), every.select(~held), ARM, 0)[
        "rows"
    ]["own"]
    assert own["dimensions"]["share"][1] is None
    assert own["share"] == pytest.approx(own["dimensions"]["share"][0])


def test_single_episode_has_no_interval():
    assert interval(np.array([0.3])) is None


def _ramps(path, count, slope=0.5, length=40):
    """Actions that grow by `slope` a step and say what the next state is."""
    episodes, table = [], []
    for k in range(count):
        actions = np.stack([slope * np.arange(length) + k, -slope * np.arange(length)], 1)
        states = np.concatenate([actions, np.full((length, 1), k)], 1)
        episodes.append(Episode.from_arrays({"state": states}, actions, "lab/arm"))
        table.append(actions)
    EpisodeStore.write(path, episodes)
    return EpisodeStore.open(path).steps(), np.concatenate(table).astype(np.float32)


class Zero(Knows):
    def act(self, window, environment, noise, known=None, keep=None):
        return np.zeros((len(environment), H, 2), np.float32) + self.off


def test_holding_the_last_action_on_a_ramp_is_off_by_the_slope_times_the_steps(tmp_path):
    every, _ = _ramps(tmp_path / "s.zarr", 6)
    held = np.arange(6) < 3
    found = open_loop({"own": Zero(None)}, every.select(held), every.select(~held), ARM, 0)
    cells = np.array(found["baselines"][HOLD]["cells"]["rmse"])
    np.testing.assert_allclose(cells, 0.5 * np.arange(1, H + 1)[:, None] * [1, 1], rtol=1e-5)


def test_nearest_neighbour_of_states_that_decide_the_action_has_no_error(tmp_path):
    every, _ = _ramps(tmp_path / "s.zarr", 1)
    found = open_loop({"own": Zero(None)}, every, every, ARM, 0)  # its states are among those known
    assert found["baselines"][NEIGHBOUR]["share"] == pytest.approx(0, abs=1e-9)


def test_warning_is_of_policies_that_are_no_better_than_the_best_baseline_alone(steps):
    held, learned, table = steps
    rows = {"good": Knows(table), "bad": Knows(table, 1e4)}
    found = open_loop(rows, held, learned, ARM, 0)
    (line,) = verdicts({"lab/arm": found | {"simulated": False}})
    assert "no better than" in line and "bad" in line and "good" not in line
    assert {s["verdict"] for s in found["rows"]["bad"]["best_steps"]} == {"worse"}
    assert found["pairs"][0]["a"] == "bad" and found["pairs"][0]["verdict"] == "worse"


def test_state_is_commanded_only_where_the_sizes_allow(steps):
    held, learned, table = steps
    found = open_loop({"own": Knows(table)}, held, learned, ARM, 0)
    assert STATE not in found["baselines"] and STATE in found["left_out"]


@pytest.mark.parametrize("episodes", [3, 12])
def test_intervals_over_episodes_cover_the_mean_of_skewed_errors(episodes):
    resampling, rng = Resampling(episodes), np.random.default_rng(0)
    low, high = resampling.intervals(rng.gamma(2.0, 1.0, (episodes, 1000)))
    assert ((low <= 2) & (2 <= high)).mean() > 0.88
