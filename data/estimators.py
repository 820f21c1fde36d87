"""Estimators of log(p / q) from rows of two laws: a quadratic logistic model, RuLSIF, a small neural classifier.

Each is a function (x, mass, fold, alpha, rng) -> model. x: whitened rows of demonstrations (N, k) and rollouts (M, k); mass:
base measure of the rows, each side is balanced to the same total; fold: (N,) and (M,) fold of each row's episode, for the
choice of hyperparameters on episodes that a candidate has not seen; alpha: of the relative ratio. A model maps rows (B, k)
to the estimated log(p / q) (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
Pair = Sequence[np.ndarray]

MAX_ROWS = 6000  # rows per side of a fit; more are thinned evenly, which keeps a fit under a second
STRENGTHS = (0.01, 0.1, 1.0)  # inverse L2 penalties of the logistic model
STEPS = 200
CENTERS = 100  # kernels of RuLSIF, at demonstration rows
WIDTHS = (0.5, 1.0, 2.0)  # of those kernels, times the median distance between rows
RIDGES = (1e-3, 1e-2, 1e-1)
HIDDEN = (32, 32)  # layers of the neural classifier
DECAYS = (1e-2, 1.0, 10.0)  # its L2 penalties
EPOCHS = 100


def logistic(x: Pair, mass: Pair, fold: Pair, alpha: float, rng: np.random.Generator) -> Model:
    """Logistic regression on [z, z_i z_j]; the L2 strength has the lowest log loss on a held-out fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def train(masks: Pair, strength: float) -> Model:
        features, label, weight = _balanced([_quadratic(a) for a in x], mass, masks)
        scaler = StandardScaler().fit(features)
        model = LogisticRegression(C=strength, max_iter=STEPS).fit(scaler.transform(features), label, sample_weight=weight)
        return lambda rows: model.decision_function(scaler.transform(_quadratic(rows)))

    return _chosen(train, STRENGTHS, x, mass, fold, _log_loss)


def classifier_mlp(x: Pair, mass: Pair, fold: Pair, alpha: float, rng: np.random.Generator) -> Model:
    """A neural classifier with two hidden layers; the L2 penalty has the lowest log loss on a held-out fold."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    state = int(rng.integers(1 << 31))

    def train(masks: Pair, decay: float) -> Model:
        features, label, weight = _balanced(x, mass, masks)
        size = min(len(label), MAX_ROWS)  # systematic resampling: the network takes no weights
        drawn = np.searchsorted(np.cumsum(weight) / weight.sum(), (np.arange(size) + 0.5) / size)
        network = MLPClassifier(HIDDEN, alpha=decay, max_iter=EPOCHS, random_state=state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the penalty, not convergence, is what is chosen
            network.fit(features[drawn], label[drawn])
        if len(network.classes_) < 2:
            return lambda rows: np.zeros(len(rows))

        def model(rows: np.ndarray) -> np.ndarray:
            p = np.clip(network.predict_proba(rows)[:, 1], 1e-12, 1 - 1e-12)
            return np.log(p) - np.log1p(-p)

        return model

    return _chosen(train, DECAYS, x, mass, fold, _log_loss)


def rulsif(x: Pair, mass: Pair, fold: Pair, alpha: float, rng: np.random.Generator) -> Model:
    """Relative unconstrained least-squares importance fitting (Yamada et al. 2011, equations 6 to 8).

    w_alpha = sum_l theta_l K(., c_l) with Gaussian kernels; theta = (H + ridge I)^-1 h, H the second moments of the kernels
    under the mixture alpha p + (1 - alpha) q, h their mean under p. Width and ridge minimise theta H theta / 2 - h theta on
    a held-out fold. The returned log(p / q) is the one that has this relative ratio.
    """
    used = np.flatnonzero(mass[0] > 0)
    centers = x[0][rng.choice(used, size=min(CENTERS, len(used)), replace=False)]  # (L, k)
    scale = float(np.median(np.sqrt(_squared_distances(x[0][used][:: max(1, len(used) // 200)], centers)))) or 1.0

    def moments(masks: Pair, width: float) -> tuple[np.ndarray, np.ndarray]:
        parts, means = [], []
        for a, m, mask in zip(x, mass, masks):
            rows = _thinned(mask)
            k = np.exp(-_squared_distances(a[rows], centers) / (2 * (width * scale) ** 2))  # (n, L)
            share = m[rows] / m[rows].sum()
            parts.append((k * share[:, None]).T @ k)
            means.append(share @ k)
        return alpha * parts[0] + (1 - alpha) * parts[1], means[0]

    def theta(masks: Pair, setting: tuple[float, float]) -> np.ndarray:
        h_matrix, h = moments(masks, setting[0])
        return np.linalg.solve(h_matrix + setting[1] * np.eye(len(h)), h)

    settings = [(w, r) for w in WIDTHS for r in RIDGES]
    best = settings[len(settings) // 2]
    probe = _probe(fold)
    if probe is not None:
        rest = [~p for p in probe]
        losses = []
        for setting in settings:
            t = theta(rest, setting)
            h_matrix, h = moments(probe, setting[0])
            losses.append(float(t @ h_matrix @ t / 2 - h @ t))
        best = settings[int(np.argmin(losses))]
    final = theta([np.ones(len(f), bool) for f in fold], best)

    def model(rows: np.ndarray) -> np.ndarray:
        w = np.exp(-_squared_distances(rows, centers) / (2 * (best[0] * scale) ** 2)) @ final
        w = np.clip(w, 1e-6, (1 - 1e-6) / alpha)
        return np.log(w) + np.log1p(-alpha) - np.log1p(-alpha * w)

    return model


ESTIMATORS: dict[str, Callable[[Pair, Pair, Pair, float, np.random.Generator], Model]] = {
    "ratio": logistic, "rulsif": rulsif, "classifier-mlp": classifier_mlp}


def _chosen(train: Callable[[Pair, float], Model], options: Sequence[float], x: Pair, mass: Pair, fold: Pair,
            loss: Callable[[Model, Pair, Pair, Pair], float]) -> Model:
    """A model with the option whose loss on a held-out fold is lowest, trained on all rows."""
    best = options[len(options) // 2]
    probe = _probe(fold)
    if probe is not None:
        rest = [~p for p in probe]
        best = options[int(np.argmin([loss(train(rest, option), x, mass, probe) for option in options]))]
    return train([np.ones(len(f), bool) for f in fold], best)


def _probe(fold: Pair) -> Pair | None:
    """Masks of the rows of one fold that both sides have, or None where nothing would be left to train on."""
    shared: list[Any] = sorted(set(np.unique(fold[0])) & set(np.unique(fold[1])))
    return [f == shared[0] for f in fold] if len(shared) >= 2 else None


def _log_loss(model: Model, x: Pair, mass: Pair, masks: Pair) -> float:
    features, label, weight = _balanced(x, mass, masks)
    logit = model(features)
    return float(np.sum(weight * np.logaddexp(0.0, np.where(label == 1, -logit, logit))))


def _balanced(x: Pair, mass: Pair, masks: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both sides under their masks, label 1 for demonstrations, weights that give both sides the same total."""
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
