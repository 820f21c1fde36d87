from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from alltrades.data.rows import Rows
from alltrades.data.steps import Steps
from alltrades.data.weights.density_ratio import cross_fit, relative_ratio, weighted_auc
from alltrades.data.weights.estimate import WeightResult, base_measure, estimate_weights
from alltrades.data.weights.estimators import ESTIMATORS, rulsif
from alltrades.data.weights.settings import WeightSettings
from alltrades.errors import UserError
from tests.data.stores import states


def steps(
    observation: np.ndarray,
    length: int,
    source: str,
    success: np.ndarray | None = None,
    first: np.ndarray | None = None,
) -> Steps:
    """Episodes of equal length from rows of states."""
    n = len(observation)
    episodes = n // length
    return Steps(
        observation={"state": Rows.of(observation.astype(np.float32))},
        action=np.zeros((n, 1), np.float32),
        success=np.zeros(n, bool),
        ends=np.arange(1, episodes + 1) * length,
        environment=np.array(["a"] * episodes),
        source=np.array([source] * episodes),
        seed=np.arange(episodes, dtype=np.uint64),
        episode_success=np.ones(episodes, bool) if success is None else success,
        first_success=np.full(episodes, -1) if first is None else first,
        has_actions=np.ones(episodes, bool),
        return_=np.zeros(episodes),
    )


def gaussian_pair(n=600, m=600, shift=0.8, dims=2, seed=0) -> tuple[Steps, Steps, np.ndarray]:
    """One-row episodes: demonstrations N(shift e1, I), rollouts N(0, I); also the true log ratio on
    the rollouts.
    """
    rng = np.random.default_rng(seed)
    demo, rollout = rng.normal(size=(n, dims)), rng.normal(size=(m, dims))
    demo[:, 0] += shift
    return (
        steps(demo, 1, "expert"),
        steps(rollout, 1, "scratch"),
        shift * rollout[:, 0] - shift**2 / 2,
    )


def estimate(demos, rollouts, seed=0, **settings) -> WeightResult:
    return estimate_weights(
        demos, rollouts, WeightSettings(**settings), np.random.default_rng(seed)
    )


@pytest.mark.parametrize("kind", ["ratio", "rulsif", "classifier-mlp"])
def test_estimated_ratio_follows_the_known_ratio_of_two_gaussians(kind):
    demos, rollouts, log_ratio = gaussian_pair()
    result = estimate(demos, rollouts, kind=kind, ess_min=0.0)
    truth = np.maximum(relative_ratio(log_ratio, 0.2), 0.1)
    found = result.rollout_weight * truth.mean() / result.rollout_weight.mean()
    assert result.active and np.corrcoef(found, truth)[0, 1] > 0.95
    assert np.abs(found - truth).mean() < 0.15 * truth.mean()


def test_success_times_ratio_follows_the_known_ratio_to_the_successes_alone():
    """Rollouts N(0, I) succeed where x_1 > 0 and there only demonstrations N(e_0, I) are: the ratio
    is that of x_0.
    """
    demos, rollouts, log_ratio = gaussian_pair(n=1200, m=1200, seed=2)
    demos = demos.select(states(demos)[:, 1] > 0)
    kept = states(rollouts)[:, 1] > 0
    rollouts = replace(rollouts, episode_success=kept)
    result = estimate(demos, rollouts, kind="success*ratio", ess_min=0.0)
    truth = np.maximum(relative_ratio(log_ratio[kept], 0.2), 0.1)
    found = result.rollout_weight[kept] * truth.mean() / result.rollout_weight[kept].mean()
    assert result.active and np.corrcoef(found, truth)[0, 1] > 0.95
    assert np.abs(found - truth).mean() < 0.15 * truth.mean()
    _, q = result.row_probability()
    _, plain = estimate(demos, rollouts, kind="success").row_probability()
    assert q[~kept].sum() == plain[~kept].sum() == 0
    assert plain @ states(rollouts) == pytest.approx(
        [0.0, np.sqrt(2 / np.pi)], abs=0.1
    )  # E[x | x_1 > 0]


def test_weights_move_the_mean_of_the_mixture_to_the_demonstrations():
    """E_nu[w x] = E_d*[x] needs samples from nu and w on every row, demonstration rows included."""
    demos, rollouts, _ = gaussian_pair(seed=3)
    result = estimate(demos, rollouts, ess_min=0.0, demo_cap=1.0, floor=0.0)
    p, q = result.row_probability()
    mean = p @ states(demos) + q @ states(rollouts)
    target = states(demos)[:].mean(0)
    assert abs(mean[0] - target[0]) < 0.15 * abs(states(rollouts)[:, 0].mean() - target[0])
    assert (
        result.moment_balance is not None
        and result.moment_balance[1] < 0.3 * result.moment_balance[0]
    )


def test_balance_is_measured_against_demonstrations_that_neither_weights_nor_mixture_saw():
    """Of one law, weights cannot bring rollouts nearer to held-out demonstrations than two samples
    of that size are.
    """
    demos, rollouts, _ = gaussian_pair(n=10, m=500, shift=0.0, dims=4, seed=1)
    result = estimate(demos, rollouts, ess_min=0.0, folds=5)
    assert result.active and result.moment_balance is not None
    chance = np.sqrt(1 / 2 + 1 / 100)  # folds of 2 demonstrations and 100 rollouts
    assert result.moment_balance == pytest.approx((chance, chance), rel=0.35)
    assert (
        result.moment_balance[1] > result.moment_balance[0]
    )  # weights fitted to 8 demonstrations are noise


@pytest.mark.parametrize("kind", ["ratio", "rulsif", "classifier-mlp"])
def test_two_samples_of_one_law_have_auc_one_half_and_weights_near_one(kind):
    demos, rollouts, _ = gaussian_pair(shift=0.0)
    result = estimate(demos, rollouts, kind=kind)
    assert result.auc == pytest.approx(0.5, abs=0.05)
    assert np.abs(result.rollout_weight - 1).mean() < 0.12


def test_auc_interval_covers_the_known_value():
    """Gaussians one deviation apart: AUC = Phi(1 / sqrt 2) = 0.760."""
    demos, rollouts, _ = gaussian_pair(shift=1.0, seed=5)
    result = estimate(demos, rollouts)
    assert result.auc == pytest.approx(0.760, abs=0.035)
    low, high = result.auc_interval
    assert low < 0.760 < high and high - low < 0.12


def test_weighted_auc_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40).astype(float), rng.integers(1, 6, 60).astype(float)
    wa, wb = rng.uniform(size=40), rng.uniform(size=60)
    truth = roc_auc_score(
        np.repeat([1, 0], [40, 60]), np.concatenate([a, b]), sample_weight=np.concatenate([wa, wb])
    )
    assert weighted_auc(a, b, wa, wb) == pytest.approx(truth)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.9])
def test_relative_ratio_is_bounded_and_never_overflows(alpha):
    w = relative_ratio(np.array([-1e6, -50.0, 0.0, 50.0, 1e6]), alpha)
    assert (
        np.isfinite(w).all()
        and (w > 0).all()
        and (w <= 1 / alpha).all()
        and (np.diff(w) >= 0).all()
    )
    assert relative_ratio(np.array([0.0]), alpha)[0] == pytest.approx(1.0)


def test_rows_are_scored_by_models_that_have_not_seen_their_episode():
    """Every episode has its own constant state: a model that saw the episode would know its
    class.
    """
    rng = np.random.default_rng(0)
    demo, rollout = (np.repeat(rng.normal(size=(20, 8)), 20, axis=0) for _ in range(2))
    episode = np.repeat(np.arange(20), 20)
    mass = np.full(400, 1 / 400)
    scores = cross_fit(demo, episode, mass, rollout, episode, mass, 5, 8, np.random.default_rng(1))
    assert scores.auc < 0.75
    by_row = np.arange(400)
    leaky = cross_fit(demo, by_row, mass, rollout, by_row, mass, 5, 8, np.random.default_rng(1))
    assert leaky.auc > 0.95


def test_rulsif_solves_its_least_squares_problem():
    """The minimum over theta of E_nu[w^2] / 2 - E_p[w] is -E_p[w] / 2, and w approximates the true
    relative ratio.
    """
    rng = np.random.default_rng(0)
    x = [rng.normal(1.0, 1.0, (3000, 1)), rng.normal(0.0, 1.0, (3000, 1))]
    mass, fold = [np.full(3000, 1 / 3000)] * 2, [np.arange(3000) % 5] * 2
    w = [relative_ratio(rulsif(x, mass, fold, 0.2, rng)(side), 0.2) for side in x]
    objective = 0.5 * (0.2 * np.mean(w[0] ** 2) + 0.8 * np.mean(w[1] ** 2)) - np.mean(w[0])
    assert objective == pytest.approx(-0.5 * np.mean(w[0]), abs=0.02)
    truth = relative_ratio(x[1][:, 0] - 0.5, 0.2)
    assert np.abs(w[1] - truth).mean() < 0.08 * truth.mean()


def test_every_episode_has_the_same_mass_up_to_its_first_success():
    s = steps(np.zeros((12, 2)), 4, "scratch", first=np.array([2, -1, 4]))
    mass = base_measure(s)
    assert mass.reshape(3, 4).sum(1) == pytest.approx([1 / 3] * 3)
    assert mass[:4] == pytest.approx([1 / 6, 1 / 6, 0, 0])


def test_discounted_successes_weigh_by_their_length_however_long_they_are():
    s = steps(np.zeros((12, 2)), 4, "scratch", first=np.array([2, 3, 4]))
    kept = np.array([True, False, True])
    mass = base_measure(s, kept, 0.5).reshape(3, 4)
    assert mass.sum(1) == pytest.approx(np.array([0.5**2, 0, 0.5**4]) / (0.5**2 + 0.5**4))
    assert mass[0] == pytest.approx([0.4, 0.4, 0, 0])
    long = steps(np.zeros((20000, 1)), 10000, "scratch", first=np.array([9000, 10000]))
    assert base_measure(long, discount=0.5).sum() == pytest.approx(1.0)
    demos, rollouts, _ = gaussian_pair(20, 40)
    plain, quick = (
        estimate(demos, rollouts, kind="success", discount=g).row_probability() for g in (1.0, 0.9)
    )
    assert quick[1].sum() == pytest.approx(plain[1].sum())


def test_a_discount_needs_the_success_filter():
    with pytest.raises(ValueError, match="success kind"):
        WeightSettings(kind="ratio", discount=0.9)


@pytest.mark.parametrize(
    "kind", ["none", "ratio", "rulsif", "classifier-mlp", "success", "success*ratio"]
)
def test_probabilities_of_all_rows_sum_to_one(kind):
    demos, rollouts, _ = gaussian_pair(60, 200)
    rollouts = replace(rollouts, episode_success=np.arange(200) % 2 == 0)
    result = estimate(demos, rollouts, kind=kind)
    p, q = result.row_probability()
    assert p.sum() + q.sum() == pytest.approx(1.0) and (p >= 0).all() and (q >= 0).all()
    assert p.sum() == pytest.approx(result.demo_mass) and result.demo_mass <= 0.3
    if kind.startswith("success"):
        assert q[1::2].sum() == 0
    if kind in ("none", "success"):
        assert p.sum() == 0 and np.ptp(q[::2]) < 1e-12


def test_constant_weights_equal_no_weights():
    demos, rollouts, _ = gaussian_pair(60, 200)
    result = estimate(demos, rollouts)
    flat = replace(
        result,
        demo_weight=np.full(60, 3.0),
        rollout_weight=np.full(200, 3.0),
        demo_mass=result.base_demo_mass,
    )
    assert np.allclose(flat.row_probability()[1], flat.base_probability()[1])
    assert np.allclose(flat.row_probability()[0], flat.base_probability()[0])


def test_weights_enter_probabilities_once():
    demos, rollouts, _ = gaussian_pair(100, 300)
    result = estimate(demos, rollouts, ess_min=0.0)
    _, q = result.row_probability()
    _, base = result.base_probability()
    ratio = (q / q.sum()) / (base / base.sum()) * result.rollout_weight.mean()
    assert np.allclose(ratio, result.rollout_weight) and not np.allclose(
        ratio, result.rollout_weight**2, rtol=0.1
    )


def test_demonstration_share_is_capped_where_supports_differ():
    demos, rollouts, _ = gaussian_pair(100, 300, shift=2.0)
    result = estimate(demos, rollouts, ess_min=0.0)
    uncapped = estimate(demos, rollouts, ess_min=0.0, demo_cap=1.0)
    assert uncapped.demo_mass > 0.3 and result.demo_mass == pytest.approx(0.3)


def test_a_mixture_has_its_share_of_demonstration_states_and_no_weights():
    demos, rollouts, _ = gaussian_pair(n=40, m=60)
    got = estimate(demos, rollouts, kind="mixture", alpha=0.5)
    demo, rollout = got.row_probability()
    np.testing.assert_allclose(demo, 0.5 / 40)
    np.testing.assert_allclose(rollout, 0.5 / 60)
    assert estimate(demos, rollouts, kind="none").row_probability()[0].sum() == 0
    half = np.arange(60) % 2 == 0
    filtered = replace(rollouts, episode_success=half)
    demo, rollout = estimate(demos, filtered, kind="success*mixture", alpha=0.25).row_probability()
    np.testing.assert_allclose([demo.sum(), rollout[half].sum()], [0.25, 0.75])


def test_weights_can_be_held_at_the_share_of_a_mixture():
    demos, rollouts, _ = gaussian_pair(shift=2.0)
    weighted, held, mixture = (
        estimate(demos, rollouts, alpha=0.2, demo_cap=0.9, **more)
        for more in ({"share": "weighted"}, {"share": "alpha"}, {"kind": "mixture"})
    )
    assert weighted.demo_mass > 0.25
    assert held.active and held.demo_mass == mixture.demo_mass == 0.2
    np.testing.assert_array_equal(held.rollout_weight, weighted.rollout_weight)


def test_guard_flattens_weights_until_enough_episodes_count():
    demos, rollouts, _ = gaussian_pair(100, 300, shift=1.8)
    free, guarded = estimate(demos, rollouts, ess_min=0.0), estimate(demos, rollouts, ess_min=0.6)
    assert free.tau == 1.0 and free.ess < 0.6 and guarded.tau < 1.0 and guarded.ess >= 0.6
    assert guarded.max_weight < free.max_weight
    assert guarded.raw_ess == free.raw_ess == free.ess  # what the guard saw


def test_few_demonstrations_turn_the_ratio_off_and_say_so():
    demos, rollouts, _ = gaussian_pair(3, 100)
    result = estimate(demos, rollouts)
    assert (
        not result.active
        and "3 demonstrations" in result.warnings[0]
        and result.demo_mass == pytest.approx(0.2)
    )
    assert np.allclose(result.rollout_weight, 1.0)


def test_separable_sources_turn_the_ratio_off_and_name_the_nuisance_column():
    rng = np.random.default_rng(0)
    demo, rollout = rng.normal(size=(100, 3)), rng.normal(size=(200, 3))
    demo[:, 1] += 30.0
    result = estimate(steps(demo, 10, "expert"), steps(rollout, 10, "scratch"))
    assert not result.active and result.tau == 0 and result.nuisance == "state[1]"
    assert result.ess == 1.0 and result.raw_ess is not None
    assert any("state[1] alone" in w for w in result.warnings) and any(
        "hardly overlap" in w for w in result.warnings
    )


def test_no_success_leaves_demonstrations_only():
    demos, rollouts, _ = gaussian_pair(20, 30)
    result = estimate(demos, replace(rollouts, episode_success=np.zeros(30, bool)), kind="success")
    p, q = result.row_probability()
    assert (
        p.sum() == pytest.approx(1.0)
        and q.sum() == 0
        and "no successful rollout" in result.warnings[0]
    )


def test_saved_weights_come_back_equal(tmp_path):
    demos, rollouts, _ = gaussian_pair(60, 100)
    result = estimate(demos, rollouts)
    result.save(tmp_path / "w")
    again = WeightResult.load(tmp_path / "w")
    for name, value in result.__dict__.items():
        assert (
            np.array_equal(value, getattr(again, name))
            if isinstance(value, np.ndarray)
            else value == getattr(again, name)
        )


def test_estimate_is_a_function_of_its_seed():
    demos, rollouts, _ = gaussian_pair(60, 100)
    a, b, c = (estimate(demos, rollouts, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a.rollout_weight, b.rollout_weight) and not np.array_equal(
        a.rollout_weight, c.rollout_weight
    )


def test_weights_are_off_where_held_out_episodes_confirm_no_shift():
    demos, rollouts, _ = gaussian_pair(12, 60, shift=0.0)
    result = estimate(demos, rollouts, seed=1, auc_min=0.5)
    assert result.auc_interval[0] < 0.5 and not result.active and (result.rollout_weight == 1).all()
    assert "no shift that held-out episodes confirm" in result.warnings[0]
    assert estimate(demos, rollouts, seed=1).active
    shifted, others, _ = gaussian_pair(60, 60, shift=1.5)
    assert estimate(shifted, others, auc_min=0.5).active


def test_a_plugins_estimator_is_used_by_its_name(monkeypatch):
    monkeypatch.setattr(ESTIMATORS, "_registered", {})
    with pytest.raises(UserError, match="kind = mines; expected one of none, .*--plugins"):
        WeightSettings(kind="mines").check()
    ESTIMATORS.register("mine", lambda x, mass, fold, alpha, rng: lambda rows: rows[:, 0])
    WeightSettings(kind="mine").check()
    with pytest.raises(UserError, match="did you mean 'mine'"):
        WeightSettings(kind="mines").check()
    demos, rollouts, _ = gaussian_pair(200, 200)
    results = [estimate(demos, rollouts, kind=k, ess_min=0.0) for k in ("mine", "success*mine")]
    assert results[0].active and np.array_equal(*(r.rollout_weight for r in results))
    ESTIMATORS.register("wrong", lambda *given: lambda rows: np.full(len(rows), np.nan))
    with pytest.raises(UserError, match="estimator 'wrong' gave .*not all finite"):
        estimate(demos, rollouts, kind="wrong")


def test_states_of_several_fields_are_weighed_as_those_of_one():
    demos, rollouts, _ = gaussian_pair(200, 200, dims=3)

    def parted(s: Steps) -> Steps:
        x, image = states(s)[:], np.zeros((len(s), 2, 2, 3), np.uint8)
        fields = {"a": x[:, :2], "images.front": image, "b": x[:, 2:]}
        return replace(s, observation={k: Rows.of(v) for k, v in fields.items()})

    one, several = estimate(demos, rollouts), estimate(parted(demos), parted(rollouts))
    assert one.active and np.array_equal(one.rollout_weight, several.rollout_weight)
    apart = replace(demos, observation={"state": Rows.of(states(demos)[:] + [0, 0, 30])})
    assert estimate(parted(apart), parted(rollouts)).nuisance == "b[0]"


def test_an_environment_without_states_gets_no_weights_and_one_warning():
    image = {"images.front": Rows.of(np.zeros((40, 2, 2, 3), np.uint8))}
    blind = [replace(s, observation=image) for s in gaussian_pair(40, 40)[:2]]
    result = estimate(*blind)
    assert not result.active and (result.rollout_weight == 1).all()
    assert result.warnings == ["'a' has no state field to estimate a ratio on: weights off"]
