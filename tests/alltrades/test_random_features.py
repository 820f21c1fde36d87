"""The exact study: closed forms against simulation and scikit-learn, and its claim in small."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from alltrades import cli
from alltrades.settings.load import load_settings
from alltrades.studies import random_features
from alltrades.studies.feature_world import (
    Denoisers,
    Features,
    Normal,
    Sizes,
    Stage2,
    World,
    draw_pairs,
    fit_specialists,
)
from alltrades.studies.requirements import crossing, elasticity

SIZES = Sizes(environments=2, state_dim=4, d_h=3, d_g=12, times=4, noise=0.5, bandwidth=0.7)


def world(seed=0):
    return World(SIZES, np.random.default_rng(seed), np.random.default_rng(seed + 1))


def test_second_moments_are_those_of_simulated_features():
    rng = np.random.default_rng(0)
    features = Features.draw(5, 3, 0.6, rng)
    phi = features(rng.standard_normal((400_000, 3)))
    assert np.abs(phi.T @ phi / len(phi) - features.second_moment()).max() < 0.01


def test_ridge_is_that_of_scikit_learn():
    """x_t is unpenalised: scikit-learn gets it scaled up, so that its penalty vanishes."""
    rng = np.random.default_rng(0)
    phi, x, target = (
        rng.standard_normal((60, 5)),
        rng.standard_normal((1, 60)),
        rng.standard_normal((1, 60)),
    )
    ours = Normal(phi).fit(x, target, np.array([3.0]))
    theirs = Ridge(alpha=3.0, fit_intercept=False).fit(
        np.column_stack([1e4 * x[0], phi]), target[0]
    )
    assert ours.slope[0] == pytest.approx(1e4 * theirs.coef_[0], rel=1e-4)
    assert np.allclose(ours.weight[0], theirs.coef_[1:], rtol=1e-4)


def test_best_denoiser_has_no_excess_and_any_other_that_of_simulation():
    w = world()
    rng = np.random.default_rng(5)
    best = [w.gain[:, None] * theta for theta in w.theta]
    for k in range(2):
        assert w.specialist_excess(k, Denoisers(w.slope, best[k])) == pytest.approx(0.0, abs=1e-12)
    other = Denoisers(w.slope + 0.2, np.random.default_rng(1).standard_normal((4, 12)) * 0.3)
    simulated, blind = [], []
    for k in range(2):
        state = rng.standard_normal((200_000, 4))
        mean = w.own[k](state) @ w.theta[k]
        x = w.noised(w.actions(state, k, rng), rng)
        truth = w.slope[:, None] * x + w.gain[:, None] * mean
        guess = other.slope[:, None] * x + other.weight @ w.generalist_features(state, k).T
        simulated.append(((guess - truth) ** 2).mean())
        fits = (x * truth).sum(1) / (x * x).sum(1)
        blind.append(((fits[:, None] * x - truth) ** 2).mean())
    assert w.blind == pytest.approx(np.mean(blind), rel=0.02)
    assert w.generalist_excess(other) == pytest.approx(np.mean(simulated) / w.blind, rel=0.02)


@pytest.mark.parametrize(("times", "narrow"), [(8, 0.1), (64, 0.02)])
def test_sampled_chunks_have_the_law_of_the_expert_where_the_specialist_is_perfect(times, narrow):
    w = World(replace(SIZES, times=times), np.random.default_rng(0), np.random.default_rng(1))
    rng = np.random.default_rng(2)
    psi = w.own[0](np.repeat(rng.standard_normal((1, 4)), 20_000, axis=0))
    chunk = w.sample(
        Denoisers(w.slope, w.gain[:, None] * w.theta[0]), psi, rng.standard_normal(20_000)
    )
    assert chunk.mean() == pytest.approx(float(psi[0] @ w.theta[0]), abs=0.01)
    assert (1 - narrow) * 0.5 < chunk.std() < 0.505  # few steps of the sampler make it narrow


def test_generalist_copies_its_specialists_where_it_is_told_their_predictions():
    w = world()
    rng = np.random.default_rng(3)
    specialists = fit_specialists(w, draw_pairs(w, 40, rng), 40)
    own = np.mean([w.specialist_excess(k, h) for k, h in enumerate(specialists)])
    copied = Stage2(w, 200, rng).fit(specialists, 200)
    slopes = np.mean(
        [h.slope for h in specialists], axis=0
    )  # the generalist has one slope for all environments
    assert w.generalist_excess(copied["score"]) < 1.1 * own and np.allclose(
        copied["score"].slope, slopes, atol=0.1
    )


def test_requirement_and_elasticity_of_known_curves():
    sizes = np.array([10, 20, 40, 80, 160])
    assert crossing(sizes, 5.0 / sizes, 0.1) == pytest.approx(50)
    assert np.isnan(crossing(sizes, 5.0 / sizes, 0.01)) and np.isnan(
        crossing(sizes, 5.0 / sizes, 9.0)
    )
    rng = np.random.default_rng(0)
    curves = {
        d: (sizes, d / sizes * np.exp(0.05 * rng.standard_normal((20, 5)))) for d in (2, 4, 8)
    }
    found = elasticity(curves, 0.1)
    assert (
        found["value"] == pytest.approx(1.0, abs=0.05)
        and found["interval"][0] < 1.0 < found["interval"][1] + 0.05
    )
    assert elasticity({d: (sizes, np.full((3, 5), 0.5)) for d in (2, 4)}, 0.1) is None


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    assert (
        cli.main(
            ["run", "experiments/exact", "--small", "--repetitions", "6", "--out", str(folder)]
        )
        == 0
    )
    return folder, json.loads((folder / "results.json").read_text())


def test_demonstrations_needed_follow_the_specialist_and_rollouts_the_generalist(studied):
    found = studied[1]["elasticities"]
    low, high = found["score n d_G"]["interval"]
    assert -0.15 < low and high < 0.15  # two stages: not the generalist's size
    assert found["labeled n d_G"]["interval"][0] > 0.8  # labeled-only: in proportion to it
    assert found["score n d_H"]["interval"][0] > 0.5 and found["labeled n d_H"]["interval"][1] < 0.3
    assert found["noise N d_G"]["interval"][0] > 0.8 and found["noise N d_H"]["interval"][1] < 0.3


def test_study_leaves_tables_and_plots_and_is_continued(studied):
    folder, results = studied
    header, *lines = (folder / "requirements.csv").read_text().splitlines()
    assert header == "method,data,against,elasticity,low,high,needed" and len(lines) == 12
    assert "Rollouts needed" in (folder / "results.html").read_text()
    before = {p: p.stat().st_mtime_ns for p in (folder / "repetitions").iterdir()}
    assert len(before) == 6 * 5
    settings, _ = load_settings(
        random_features.Settings,
        defaults_file="experiments/exact",
        small=True,
        overrides=["--repetitions", "6"],
    )
    again = random_features.run(settings, folder, {})
    assert again.facts["elasticities"] == results["elasticities"]
    assert {p: p.stat().st_mtime_ns for p in (folder / "repetitions").iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--generalist", "[16, 64]"], "cannot hold"),
        (["--demos", "[8, 4]"], "increasing"),
        (["--repetition", "3"], "did you mean 'repetitions'"),
        (["--data", "x.zarr"], "for runs"),
    ],
)
def test_mistakes_in_a_study_give_one_line(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "experiments/exact", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error


def test_unknown_study_names_the_nearest(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("study: random_feature\n")
    assert cli.main(["run", str(tmp_path / "mine.yaml")]) == 2
    assert "did you mean 'random_features'" in capsys.readouterr().err
