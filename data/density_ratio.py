"""Relative density ratio of demonstration states to rollout states, from a classifier that is cross-fitted by episode.

With p the law of demonstration states and q that of rollout states, the relative ratio (Yamada et al. 2011) is
w = p / (alpha p + (1 - alpha) q) <= 1 / alpha. A logistic classifier with balanced classes estimates logit = log(p / q),
hence w = 1 / (alpha + (1 - alpha) exp(-logit)), which cannot overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_ROWS = 6000  # training rows per class and fold; more are thinned evenly, which keeps a fit under a second
STRENGTHS = (0.01, 0.1, 1.0)  # inverse L2 penalties tried inside the training folds
STEPS = 200


@dataclass(frozen=True)
class Scores:
    """Held-out logits of every row, and how well they tell demonstrations from rollouts."""

    demo: np.ndarray  # (N,)
    rollout: np.ndarray  # (M,)
    auc: float
    auc_interval: tuple[float, float]


def relative_ratio(logit: np.ndarray, alpha: float) -> np.ndarray:
    """1 / (alpha + (1 - alpha) exp(-logit)), in (0, 1 / alpha]."""
    return 1.0 / (alpha + (1.0 - alpha) * np.exp(-np.clip(logit, -500.0, 500.0)))


def weighted_auc(positive: np.ndarray, negative: np.ndarray, w_positive: np.ndarray, w_negative: np.ndarray) -> float:
    """P(positive > negative) + P(equal) / 2 under weights; O(n log n)."""
    order = np.argsort(negative, kind="stable")
    ordered, mass = negative[order], np.concatenate([[0.0], np.cumsum(w_negative[order])])
    below = mass[np.searchsorted(ordered, positive, side="left")]
    not_above = mass[np.searchsorted(ordered, positive, side="right")]
    return float(np.sum(w_positive * (below + not_above)) / (2.0 * w_positive.sum() * mass[-1]))


def cross_fit(demo: np.ndarray, demo_episode: np.ndarray, demo_mass: np.ndarray, rollout: np.ndarray,
              rollout_episode: np.ndarray, rollout_mass: np.ndarray, folds: int, max_pca: int,
              rng: np.random.Generator, boot: int = 200) -> Scores:
    """Score every row by a classifier that has not seen its episode.

    Args:
        demo (N, D), rollout (M, D): states.
        demo_episode (N,), rollout_episode (M,): episode of each row; folds are over these.
        demo_mass, rollout_mass: base measure of the rows; each class is balanced to the same total.
        folds: folds over episodes; at least 2 episodes per class.
        max_pca: most principal components kept (fewer where they hold 99 % of the variance).
    """
    keep, center, whiten = _pca(np.concatenate([demo, rollout]), np.concatenate([demo_mass, rollout_mass]), max_pca)
    z = [_quadratic(((x - center) @ keep) * whiten) for x in (demo, rollout)]
    fold_of = [_folds(e, folds, rng) for e in (demo_episode, rollout_episode)]
    logits = [np.zeros(len(demo)), np.zeros(len(rollout))]
    for fold in range(folds):
        train = [f != fold for f in fold_of]
        model = _fit([x[t] for x, t in zip(z, train)], [m[t] for m, t in zip((demo_mass, rollout_mass), train)],
                     [f[t] for f, t in zip(fold_of, train)])
        for side in (0, 1):
            logits[side][~train[side]] = model(z[side][~train[side]])
    auc = weighted_auc(logits[0], logits[1], demo_mass, rollout_mass)
    return Scores(logits[0], logits[1], auc, _auc_interval(logits, (demo_episode, rollout_episode),
                                                           (demo_mass, rollout_mass), rng, boot))


def _pca(x: np.ndarray, mass: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projection (D, k), centre (D,), whitening (k,) of the pooled rows."""
    share = mass / mass.sum()
    center = share @ x
    centered = (x - center) * np.sqrt(share)[:, None]
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    variance = s**2
    needed = int(np.searchsorted(np.cumsum(variance) / max(variance.sum(), 1e-12), 0.99)) + 1
    k = max(1, min(most, needed, int((variance > 1e-12 * variance[0]).sum())))
    return vt[:k].T, center, 1.0 / np.sqrt(variance[:k])


def _quadratic(z: np.ndarray) -> np.ndarray:
    """[z, z_i z_j (i <= j)], standardised to comparable scale by the whitening of z."""
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([z, np.clip(z[:, i] * z[:, j], -25.0, 25.0)], axis=1)


def _folds(episode: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    ids, inverse = np.unique(episode, return_inverse=True)
    return (rng.permutation(len(ids)) % folds)[inverse]


def _fit(x: list[np.ndarray], mass: list[np.ndarray], fold: list[np.ndarray]):  # type: ignore[no-untyped-def]
    """Logistic regression with balanced classes; L2 strength by the log loss of one of the training folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def stack(masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = []
        for m in masks:
            where = np.flatnonzero(m)
            rows.append(where[:: max(1, -(-len(where) // MAX_ROWS))])
        features = np.concatenate([a[r] for a, r in zip(x, rows)])
        label = np.repeat([1, 0], [len(r) for r in rows])
        weight = np.concatenate([len(features) / 2 * m[r] / m[r].sum() for m, r in zip(mass, rows)])
        return features, label, weight

    def train(masks: list[np.ndarray], strength: float):  # type: ignore[no-untyped-def]
        features, label, weight = stack(masks)
        scaler = StandardScaler().fit(features)
        model = LogisticRegression(C=strength, max_iter=STEPS).fit(scaler.transform(features), label, sample_weight=weight)
        return lambda rows: model.decision_function(scaler.transform(rows))

    shared = sorted(set(np.unique(fold[0])) & set(np.unique(fold[1])))
    strength = STRENGTHS[1]
    if len(shared) >= 2:
        probe = [f == shared[0] for f in fold]
        features, label, weight = stack(probe)
        losses = []
        for s in STRENGTHS:
            logit = train([~p for p in probe], s)(features)
            losses.append(float(np.sum(weight * np.logaddexp(0.0, np.where(label == 1, -logit, logit)))))
        strength = STRENGTHS[int(np.argmin(losses))]
    return train([np.ones(len(f), bool) for f in fold], strength)


def _auc_interval(logits: list[np.ndarray], episodes: tuple[np.ndarray, np.ndarray], mass: tuple[np.ndarray, np.ndarray],
                  rng: np.random.Generator, boot: int) -> tuple[float, float]:
    """95 % interval of the AUC under resampling of episodes within each class."""
    inverse = [np.unique(e, return_inverse=True)[1] for e in episodes]
    counts = [int(i.max()) + 1 for i in inverse]
    found = []
    for _ in range(boot):
        w = [m * np.bincount(rng.integers(c, size=c), minlength=c)[i] for m, c, i in zip(mass, counts, inverse)]
        found.append(weighted_auc(logits[0], logits[1], w[0], w[1]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def separating_feature(demo: np.ndarray, rollout: np.ndarray, demo_mass: np.ndarray, rollout_mass: np.ndarray,
                       limit: float = 0.95) -> int | None:
    """The single column whose own AUC exceeds `limit` (a nuisance column?), or None."""
    best, where = limit, None
    for d in range(demo.shape[1]):
        auc = weighted_auc(demo[:, d], rollout[:, d], demo_mass, rollout_mass)
        if max(auc, 1 - auc) > best:
            best, where = max(auc, 1 - auc), d
    return where
