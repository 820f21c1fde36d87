"""Objectives against autograd, closed forms and SciPy's minimisers."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar

from alltrades.errors import UserError
from alltrades.policies.learning.objectives import (
    Linear,
    ObjectiveSettings,
    Tchebycheff,
    make_objective,
)
from alltrades.policies.model.preference import (
    draw_preferences,
    parse_preference,
    preference_vector,
)

NAMES = ["a", "b", "c"]
PREFERENCE = {"a": 0.5, "b": 0.3, "c": 0.2}


def batch(seed=0, rows=30, k=3):
    rng = np.random.default_rng(seed)
    losses = torch.tensor(rng.uniform(0.1, 1.0, rows), dtype=torch.float32, requires_grad=True)
    return (
        losses,
        torch.arange(rows) % k,
        torch.tensor(rng.uniform(0.5, 1.5, rows), dtype=torch.float32),
    )


def gradient(objective, losses, environment, weight):
    losses.grad = None
    objective(losses, environment, weight).backward()
    return losses.grad.clone()


def means(losses, environment, weight, k=3):
    return torch.stack([(losses * weight)[environment == i].mean() for i in range(k)])


@pytest.mark.parametrize("mu", [0.03, 0.3, 3.0])
def test_gradient_is_that_of_the_exact_log_sum_exp_at_its_running_average(mu):
    """Without averaging the running average is the batch's own mean: autograd of mu log sum exp
    gives the truth.
    """
    losses, environment, weight = batch()
    found = gradient(Tchebycheff(NAMES, PREFERENCE, mu, ema=0.0), losses, environment, weight)
    preference = torch.tensor([0.5, 0.3, 0.2])
    excess = means(losses, environment, weight)
    absolute = mu * (preference * excess).max().detach()
    losses.grad = None
    (absolute * torch.logsumexp(preference * excess / absolute, 0)).backward()
    assert torch.allclose(found, losses.grad, rtol=1e-5)


def test_large_mu_is_linear_and_small_mu_is_the_worst_environment():
    losses, environment, weight = batch()
    linear = gradient(Linear(NAMES, PREFERENCE), losses, environment, weight)
    smooth = gradient(Tchebycheff(NAMES, PREFERENCE, 1e6, 0.0), losses, environment, weight)
    assert torch.allclose(3 * smooth, linear, rtol=1e-4)  # softmax shares of 1/3 each
    worst = gradient(
        make_objective(ObjectiveSettings(kind="worst", ema=0.0), NAMES, PREFERENCE),
        losses,
        environment,
        weight,
    )
    nearly = gradient(Tchebycheff(NAMES, PREFERENCE, 1e-3, 0.0), losses, environment, weight)
    assert torch.allclose(nearly, worst, atol=1e-9)
    product = torch.tensor([0.5, 0.3, 0.2]) * means(losses, environment, weight)
    k = int(product.argmax())
    expected = torch.where(environment == k, torch.tensor([0.5, 0.3, 0.2])[k] * weight / 10, 0.0)
    assert torch.allclose(worst, expected, rtol=1e-5)


def test_shares_follow_the_running_average_and_not_the_batch():
    """After many batches in which c is worst one batch in which a is worst hardly moves the
    shares.
    """
    objective = Tchebycheff(NAMES, None, mu=0.1, ema=0.99)
    environment, weight = torch.arange(3), torch.ones(3)
    for _ in range(300):
        objective(torch.tensor([0.1, 0.2, 0.9]), environment, weight)
    assert torch.allclose(objective.excess(), torch.tensor([0.1, 0.2, 0.9]), rtol=1e-3)
    value = torch.tensor([0.9, 0.2, 0.1], requires_grad=True)
    objective(value, environment, weight).backward()
    assert value.grad[2] > 0.99 / 3 * 0.9 and value.grad[0] < 0.01


def test_average_is_unbiased_from_the_first_batch_and_skips_absent_environments():
    objective = Tchebycheff(["a", "b"], None, ema=0.99)
    objective(torch.tensor([0.4, 0.4]), torch.tensor([0, 0]), torch.ones(2))
    assert objective.excess().tolist() == pytest.approx([0.4, 0.0])
    objective(torch.tensor([0.7]), torch.tensor([1]), torch.ones(1))
    assert objective.excess().tolist() == pytest.approx([0.4, 0.7])


# ---- fronts known in closed form -----------------------------------------------------------------
CENTER, NOISE = (-1.0, 2.0), 0.3
SCALE = (1.0, 4.0)


def least_squares(x):
    """Excess losses of two environments that want x = -1 and x = 2: ((x - y)^2 - (c - y)^2) / scale
    over noisy y.
    """
    rng = np.random.default_rng(0)
    rows = []
    for center, scale in zip(CENTER, SCALE):
        y = rng.normal(0, NOISE, 200)
        y = torch.tensor(center + y - y.mean(), dtype=torch.float32)
        rows.append(((x - y) ** 2 - (center - y) ** 2) / scale)
    return torch.cat(rows), torch.arange(400) // 200, torch.ones(400)


def concave(x):
    """Two environments whose front is concave (Fonseca & Fleming 1995): no weighted sum has a
    minimum inside.
    """
    return (
        torch.stack([1 - torch.exp(-((x - 1) ** 2)), 1 - torch.exp(-((x + 1) ** 2))]),
        torch.arange(2),
        torch.ones(2),
    )


def descend(problem, objective, start, steps=800, rate=0.2):
    x = torch.tensor(float(start), requires_grad=True)
    for step in range(steps):
        x.grad = None
        objective(*problem(x)).backward()
        with torch.no_grad():
            x -= rate * (1 - step / steps) * x.grad
    return float(x.detach())


@pytest.mark.parametrize("first", [0.1, 0.5, 0.8])
def test_linear_lands_on_the_predicted_point_of_a_least_squares_front(first):
    w = [first / SCALE[0], (1 - first) / SCALE[1]]
    predicted = (w[0] * CENTER[0] + w[1] * CENTER[1]) / sum(w)
    found = descend(least_squares, Linear(["a", "b"], {"a": first, "b": 1 - first}), 5.0, rate=0.5)
    assert found == pytest.approx(predicted, abs=1e-3)


@pytest.mark.parametrize("first", [0.1, 0.5, 0.8])
def test_worst_environment_lands_where_weighted_losses_are_equal(first):
    ratio = np.sqrt((1 - first) / SCALE[1] / (first / SCALE[0]))  # |x - a| / |b - x|
    predicted = (CENTER[0] + ratio * CENTER[1]) / (1 + ratio)
    objective = make_objective(
        ObjectiveSettings(kind="worst", ema=0.9), ["a", "b"], {"a": first, "b": 1 - first}
    )
    assert descend(least_squares, objective, 5.0, 3000, rate=0.05) == pytest.approx(
        predicted, abs=5e-3
    )


@pytest.mark.parametrize("mu", [0.05, 0.5])
def test_smooth_tchebycheff_lands_on_the_minimum_of_the_log_sum_exp(mu):
    preference = np.array([0.7, 0.3])
    objective = Tchebycheff(["a", "b"], {"a": 0.7, "b": 0.3}, mu, ema=0.9)
    found = descend(least_squares, objective, 5.0, 3000, rate=0.1)

    def excess(x):
        return preference * np.array([(x - c) ** 2 / s for c, s in zip(CENTER, SCALE)])

    absolute = mu * excess(found).max()
    truth = minimize_scalar(
        lambda x: absolute * np.log(np.exp(excess(x) / absolute).sum()),
        bounds=(-2, 3),
        method="bounded",
    )
    assert found == pytest.approx(truth.x, abs=2e-3)


@pytest.mark.parametrize("first", [0.4, 0.5, 0.6])
def test_tchebycheff_reaches_a_point_of_a_concave_front_that_no_linear_preference_does(first):
    preference = {"a": first, "b": 1 - first}

    def gap(x):
        return first * (1 - np.exp(-((x - 1) ** 2))) - (1 - first) * (1 - np.exp(-((x + 1) ** 2)))

    predicted = brentq(gap, -0.999, 0.999)
    assert abs(predicted) < 0.5
    worst = make_objective(ObjectiveSettings(kind="worst", ema=0.5), ["a", "b"], preference)
    found = descend(concave, worst, 0.6, 3000, rate=0.05)
    assert found == pytest.approx(predicted, abs=5e-3)
    for start in (-0.6, -0.05, 0.05, 0.6):
        assert abs(abs(descend(concave, Linear(["a", "b"], preference), start, rate=0.2)) - 1) < 0.1


# ---- preferences ---------------------------------------------------------------------------------
def test_drawn_preferences_carry_lambda_once():
    """K E[lambda_k f(lambda)] under the plain Dirichlet law equals E[f] under the drawn one, for f
    that depend on k.
    """
    rng, k, n = np.random.default_rng(0), 3, 400_000
    plain = rng.dirichlet([0.7] * k, n)
    for environment in range(k):
        drawn = draw_preferences(np.full(n, environment), k, 0.7, rng)
        assert np.allclose(drawn.sum(1), 1, atol=1e-5) and (drawn >= 0).all()
        for f in (lambda v: v[:, 0], lambda v: v[:, 1] ** 2, lambda v: np.exp(v[:, 0] - v[:, 2])):
            truth = k * np.mean(plain[:, environment] * f(plain))
            assert np.mean(f(drawn)) == pytest.approx(truth, rel=0.01)


def test_preference_is_normalised_and_mistakes_are_named():
    assert preference_vector(["a", "b"], {"b": 4}).tolist() == [0, 1]
    assert preference_vector(["a", "b"]).tolist() == [0.5, 0.5]
    for wrong, words in (
        ({"a": -1.0}, ">= 0"),
        ({"a": float("nan")}, ">= 0"),
        ({"a": 0.0}, "every preference is 0"),
    ):
        with pytest.raises(UserError, match=words):
            preference_vector(["a", "b"], wrong)
    with pytest.raises(UserError, match="did you mean 'reach'"):
        preference_vector(["reach", "push"], {"reech": 1.0})
    assert parse_preference(["a=b=0.5", "c=1"]) == {"a=b": 0.5, "c": 1.0}
    for wrong in ("a", "=1", "a=x"):
        with pytest.raises(UserError, match="ENVIRONMENT=NUMBER"):
            parse_preference([wrong])
