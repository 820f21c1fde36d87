"""Estimators of log(p / q) from rows of two laws: a quadratic logistic model, RuLSIF, a small
neural classifier.

Each is a function (x, mass, fold, alpha, rng) -> model. x: whitened rows of demonstrations (N, k)
and rollouts (M, k); mass: base measure of the rows, each side is balanced to the same total; fold:
(N,) and (M,) fold of each row's episode, for the choice of hyperparameters on episodes that a
candidate has not seen; alpha: of the relative ratio. A model maps rows (B, k) to the estimated
log(p / q) (B,). Those of BY_DISTANCE get rows that are not whitened.

Packages offer others as entry points of the group `alltrades.estimators`, plugins call
`ESTIMATORS.register(name, function)`; `distill.weights.kind` is then their name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alltrades.system.extensions import Extensions

Model = Callable[[np.ndarray], np.ndarray]
Pair = Sequence[np.ndarray]
Moments = tuple[np.ndarray, np.ndarray]  # (L, L), (L,)

MAX_ROWS = 6000  # rows per side of a fit; more are thinned evenly, which keeps a fit under a second
STRENGTHS = (0.01, 0.1, 1.0)  # inverse L2 penalties of the logistic model
STEPS = 200
CENTERS = 100  # kernels of RuLSIF, at demonstration rows
KNOTS = 8  # Gaussians of each single component, at quantiles of both sides
WIDTHS = (
    0.5,
    1.0,
)  # of kernels times the median distance between rows, of the others times the deviation
RIDGES = (1e-3, 1e-2, 1e-1)
HIDDEN = (32, 32)  # layers of the neural classifier
DECAYS = (1e-2, 1.0, 10.0)  # its L2 penalties
MLP_ROWS = 3000  # that it sees at most, resampled by their mass; a multiple of BATCH
BATCH, EPOCHS, LEARNING_RATE = 500, 60, 3e-3


def logistic(x: Pair, mass: Pair, fold: Pair, alpha: float, rng: np.random.Generator) -> Model:
    """Logistic regression on [z, z_i z_j]; the L2 strength has the lowest log loss on a held-out
    fold.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def train(masks: Pair, strength: float) -> Model:
        features, label, weight = _balanced([_quadratic(a) for a in x], mass, masks)
        scaler = StandardScaler().fit(features)
        model = LogisticRegression(C=strength, max_iter=STEPS).fit(
            scaler.transform(features), label, sample_weight=weight
        )
        return lambda rows: model.decision_function(scaler.transform(_quadratic(rows)))

    return _chosen(train, STRENGTHS, x, mass, fold, probes=4)


def classifier_mlp(
    x: Pair, mass: Pair, fold: Pair, alpha: float, rng: np.random.Generator
) -> Model:
    """A neural classifier with two hidden layers; the L2 penalty has the lowest log loss on a
    held-out fold.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    state = int(rng.integers(1 << 31))

    def train(masks: Pair, decay: float) -> Model:
        features, label, weight = _balanced(x, mass, masks)
        size = min(
            -(-len(label) // BATCH) * BATCH, MLP_ROWS
        )  # whole batches: scikit-learn divides the penalty by their rows
        share = (
            np.cumsum(weight) / weight.sum()
        )  # systematic resampling: the network takes no weights
        drawn = np.minimum(np.searchsorted(share, (np.arange(size) + 0.5) / size), len(label) - 1)
        network = MLPClassifier(
            HIDDEN,
            alpha=decay,
            batch_size=BATCH,
            learning_rate_init=LEARNING_RATE,
            max_iter=EPOCHS,
            random_state=state,
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # the penalty, not convergence, is what is chosen
            network.fit(features[drawn], label[drawn])
        if len(network.classes_) < 2:
            return lambda rows: np.zeros(len(rows))

        def model(rows: np.ndarray) -> np.ndarray:
            p = np.clip(network.predict_proba(rows)[:, 1], 1e-12, 1 - 1e-12)
            return np.log(p) - np.log1p(-p)

        return model

    return _chosen(train, DECAYS, x, mass, fold, probes=1)


def rulsif(x: Pair, mass: Pair, fold: Pair, alpha: float, rng: np.random.Generator) -> Model:
    """Relative unconstrained least-squares importance fitting (Yamada et al. 2011, equations 6 to
    8).

    w_alpha = theta . phi; theta = (H + ridge I)^-1 h, H the second moments of phi under the mixture
    alpha p + (1 - alpha) q, h its mean under p. Width and ridge minimise theta H theta / 2 - h
    theta on held-out folds. The returned log(p / q) is the one that has this relative ratio.

    phi: beside Gaussian kernels at demonstrations it has Gaussians of single components and a
    constant without penalty. Few episodes fill little of the space: with kernels alone all wide
    ones fit as badly as w = 1, and narrow ones worse.
    """
    used = np.flatnonzero(mass[0] > 0)
    centers = x[0][rng.choice(used, size=min(CENTERS, len(used)), replace=False)]  # (L, k)
    scale = (
        float(
            np.median(np.sqrt(_squared_distances(x[0][used][:: max(1, len(used) // 200)], centers)))
        )
        or 1.0
    )
    both = np.concatenate([a[m > 0] for a, m in zip(x, mass)])
    knots = np.quantile(both, np.linspace(0.02, 0.98, KNOTS), axis=0)  # (KNOTS, k)
    spread = np.maximum(both.std(axis=0), 1e-12)

    def basis(rows: np.ndarray, width: float) -> np.ndarray:
        """(n, 1 + L + KNOTS k)."""
        kernels = np.exp(-_squared_distances(rows, centers) / (2 * (width * scale) ** 2))
        single = np.exp(-(((rows[:, None] - knots) / spread) ** 2) / (2 * width**2)).reshape(
            len(rows), -1
        )
        return np.concatenate([np.ones((len(rows), 1)), kernels, single], axis=1)

    def solution(moments: Moments, ridge: float) -> np.ndarray:
        penalty = np.full(len(moments[1]), ridge)
        penalty[0] = 1e-6
        return np.linalg.solve(moments[0] + np.diag(penalty), moments[1])

    every = np.unique(np.concatenate(fold))
    losses, whole = np.zeros((len(WIDTHS), len(RIDGES))), []
    for i, width in enumerate(WIDTHS):
        parts = [_fold_moments(basis, width, a, m, f, every) for a, m, f in zip(x, mass, fold)]
        whole.append(_moments(parts, np.ones(len(every), bool), alpha))
        for k in np.flatnonzero((parts[0][2] > 0) & (parts[1][2] > 0)) if len(every) > 1 else ():
            probe = np.arange(len(every)) == k
            inside, (h_matrix, h) = _moments(parts, ~probe, alpha), _moments(parts, probe, alpha)
            for j, ridge in enumerate(RIDGES):
                t = solution(inside, ridge)
                losses[i, j] += t @ h_matrix @ t / 2 - h @ t
    best = divmod(int(np.argmin(losses)), len(RIDGES))
    width, theta = WIDTHS[best[0]], solution(whole[best[0]], RIDGES[best[1]])

    def model(rows: np.ndarray) -> np.ndarray:
        w = np.clip(basis(rows, width) @ theta, 1e-6, (1 - 1e-6) / alpha)
        return np.log(w) + np.log1p(-alpha) - np.log1p(-alpha * w)

    return model


def _fold_moments(
    basis: Callable[[np.ndarray, float], np.ndarray],
    width: float,
    x: np.ndarray,
    mass: np.ndarray,
    fold: np.ndarray,
    every: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per fold the sums of mass x phi phi' (F, L, L), mass x phi (F, L) and mass (F,) of one side's
    rows.
    """
    seconds, firsts, totals = [], [], []
    for k in every:
        rows = _thinned(fold == k)
        phi, m = basis(x[rows], width), mass[rows]
        seconds.append((phi * m[:, None]).T @ phi)
        firsts.append(m @ phi)
        totals.append(m.sum())
    return np.stack(seconds), np.stack(firsts), np.array(totals)


def _moments(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], folds: np.ndarray, alpha: float
) -> Moments:
    """H and h of RuLSIF over some folds."""
    second = [s[folds].sum(0) / max(total[folds].sum(), 1e-300) for s, _, total in parts]
    return alpha * second[0] + (1 - alpha) * second[1], parts[0][1][folds].sum(0) / max(
        parts[0][2][folds].sum(), 1e-300
    )


Estimator = Callable[[Pair, Pair, Pair, float, np.random.Generator], Model]

ESTIMATORS: Extensions[Estimator] = Extensions(
    "alltrades.estimators",
    "estimator",
    {"ratio": logistic, "rulsif": rulsif, "classifier-mlp": classifier_mlp},
)
BY_DISTANCE = {
    "rulsif"
}  # these see components that are not whitened: whitening makes noise as far as signal


def _chosen(
    train: Callable[[Pair, float], Model],
    options: Sequence[float],
    x: Pair,
    mass: Pair,
    fold: Pair,
    probes: int,
) -> Model:
    """A model with the option whose log loss over the first `probes` held-out folds is lowest,
    trained on all rows.
    """
    losses = np.zeros(len(options))
    for probe in _probes(fold)[:probes]:
        rest = [~p for p in probe]
        losses += [_log_loss(train(rest, option), x, mass, probe) for option in options]
    best = options[int(np.argmin(losses)) if losses.any() else len(options) // 2]
    return train([np.ones(len(f), bool) for f in fold], best)


def _probes(fold: Pair) -> list[Pair]:
    """Masks of the rows of each fold that both sides have; none where nothing would be left to
    train on.
    """
    shared: list[Any] = sorted(set(np.unique(fold[0])) & set(np.unique(fold[1])))
    return [[f == k for f in fold] for k in shared] if len(shared) >= 2 else []


def _log_loss(model: Model, x: Pair, mass: Pair, masks: Pair) -> float:
    features, label, weight = _balanced(x, mass, masks)
    logit = model(features)
    return float(np.sum(weight * np.logaddexp(0.0, np.where(label == 1, -logit, logit))))


def _balanced(x: Pair, mass: Pair, masks: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both sides under their masks, label 1 for demonstrations, weights that give both
    sides the same total.
    """
    rows = [_thinned(m) for m in masks]
    features = np.concatenate([a[r] for a, r in zip(x, rows)])
    label = np.repeat([1, 0], [len(r) for r in rows])
    weight = np.concatenate([len(features) / 2 * m[r] / m[r].sum() for m, r in zip(mass, rows)])
    return features, label, weight


def _thinned(mask: np.ndarray) -> np.ndarray:
    where = np.flatnonzero(mask)
    return where[:: max(1, -(-len(where) // MAX_ROWS))]


def _quadratic(z: np.ndarray) -> np.ndarray:
    """[z, z_i z_j (i <= j)], standardised to comparable scale by the whitening of z."""
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([z, np.clip(z[:, i] * z[:, j], -25.0, 25.0)], axis=1)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, k), (L, k) -> (n, L)."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0.0)
