"""Relative density ratio of demonstration states to rollout states, from an estimator that is
cross-fitted by episode.

With p the law of demonstration states and q that of rollout states, the relative ratio (Yamada et
al. 2011) is w = p / (alpha p + (1 - alpha) q) <= 1 / alpha. Every estimator (estimators.py) gives
logit = log(p / q), hence w = 1 / (alpha + (1 - alpha) exp(-logit)), which cannot overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from alltrades.data.weights.estimators import BY_DISTANCE, ESTIMATORS
from alltrades.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Held-out logits of every row, and how well they tell demonstrations from rollouts; the fold
    that held a row out.
    """

    demo: np.ndarray  # (N,)
    rollout: np.ndarray  # (M,)
    auc: float
    auc_interval: tuple[float, float]
    demo_fold: np.ndarray | None = None  # (N,)
    rollout_fold: np.ndarray | None = None  # (M,)


def relative_ratio(logit: np.ndarray, alpha: float) -> np.ndarray:
    """1 / (alpha + (1 - alpha) exp(-logit)), in (0, 1 / alpha]."""
    return 1.0 / (alpha + (1.0 - alpha) * np.exp(-np.clip(logit, -500.0, 500.0)))


def weighted_auc(
    positive: np.ndarray, negative: np.ndarray, w_positive: np.ndarray, w_negative: np.ndarray
) -> float:
    """P(positive > negative) + P(equal) / 2 under weights; O(n log n)."""
    order = np.argsort(negative, kind="stable")
    ordered, mass = negative[order], np.concatenate([[0.0], np.cumsum(w_negative[order])])
    below = mass[np.searchsorted(ordered, positive, side="left")]
    not_above = mass[np.searchsorted(ordered, positive, side="right")]
    return float(np.sum(w_positive * (below + not_above)) / (2.0 * w_positive.sum() * mass[-1]))


def cross_fit(
    demo: np.ndarray,
    demo_episode: np.ndarray,
    demo_mass: np.ndarray,
    rollout: np.ndarray,
    rollout_episode: np.ndarray,
    rollout_mass: np.ndarray,
    folds: int,
    max_pca: int,
    rng: np.random.Generator,
    estimator: str = "ratio",
    alpha: float = 0.2,
    boot: int = 200,
) -> Scores:
    """Score every row by a model that has not seen its episode.

    Args:
        demo (N, D), rollout (M, D): states.
        demo_episode (N,), rollout_episode (M,): episode of each row; folds are over these.
        demo_mass, rollout_mass: base measure of the rows; each class is balanced to the same total.
        folds: folds over episodes; at least 2 episodes per class.
        estimator, alpha: see `estimators.py`.
        max_pca: most principal components kept (fewer where they hold 99 % of the variance).
    """
    from threadpoolctl import threadpool_limits

    keep, center, whiten = _pca(
        np.concatenate([demo, rollout]), np.concatenate([demo_mass, rollout_mass]), max_pca
    )
    fit = ESTIMATORS.get(estimator)
    scale = np.ones_like(whiten) if estimator in BY_DISTANCE else whiten
    z = [((x - center) @ keep) * scale for x in (demo, rollout)]
    fold_of = [_folds(e, folds, rng) for e in (demo_episode, rollout_episode)]
    logits = [np.zeros(len(demo)), np.zeros(len(rollout))]
    for fold in range(folds):
        train = [f != fold for f in fold_of]
        inside = [
            [side[t] for side, t in zip(part, train)]
            for part in (z, (demo_mass, rollout_mass), fold_of)
        ]
        with threadpool_limits(
            1
        ):  # matrices so small that a second thread costs more than it brings
            model = fit(inside[0], inside[1], inside[2], alpha, rng)
            for side in (0, 1):
                logits[side][~train[side]] = _checked(model(z[side][~train[side]]), estimator)
    found = scored(logits, (demo_episode, rollout_episode), (demo_mass, rollout_mass), rng, boot)
    return replace(found, demo_fold=fold_of[0], rollout_fold=fold_of[1])


def _checked(logit: np.ndarray, estimator: str) -> np.ndarray:
    found = np.asarray(logit)
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        raise UserError(
            f"estimator '{estimator}' gave {found.dtype} numbers that are not all finite; expected "
            "log(p / q) of every row; mend it"
        )
    return found


def scored(
    logits: Sequence[np.ndarray],
    episodes: Sequence[np.ndarray],
    mass: Sequence[np.ndarray],
    rng: np.random.Generator,
    boot: int = 200,
) -> Scores:
    """Logits of demonstrations (N,) and rollouts (M,) with their AUC and its interval over
    episodes.
    """
    auc = weighted_auc(logits[0], logits[1], mass[0], mass[1])
    return Scores(logits[0], logits[1], auc, _auc_interval(logits, episodes, mass, rng, boot))


def _pca(x: np.ndarray, mass: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projection (D, k), centre (D,), whitening (k,) of the pooled rows."""
    share = mass / mass.sum()
    center = share @ x
    centered = (x - center) * np.sqrt(share)[:, None]
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    variance = s**2
    needed = int(np.searchsorted(np.cumsum(variance) / max(variance.sum(), 1e-12), 0.99)) + 1
    k = max(1, min(most, needed, int((variance > 1e-12 * variance[0]).sum())))
    kept = variance[:k]
    return vt[:k].T, center, 1.0 / np.sqrt(np.where(kept > 0, kept, 1.0))  # 0: nothing moves


def _folds(episode: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    ids, inverse = np.unique(episode, return_inverse=True)
    return (rng.permutation(len(ids)) % folds)[inverse]


def _auc_interval(
    logits: Sequence[np.ndarray],
    episodes: Sequence[np.ndarray],
    mass: Sequence[np.ndarray],
    rng: np.random.Generator,
    boot: int,
) -> tuple[float, float]:
    """95 % interval of the AUC under resampling of episodes within each class."""
    inverse = [np.unique(e, return_inverse=True)[1] for e in episodes]
    counts = [int(i.max()) + 1 for i in inverse]
    found = []
    for _ in range(boot):
        w = [
            m * np.bincount(rng.integers(c, size=c), minlength=c)[i]
            for m, c, i in zip(mass, counts, inverse)
        ]
        found.append(weighted_auc(logits[0], logits[1], w[0], w[1]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def separating_feature(
    demo: np.ndarray,
    rollout: np.ndarray,
    demo_mass: np.ndarray,
    rollout_mass: np.ndarray,
    limit: float = 0.95,
) -> int | None:
    """The single column whose own AUC exceeds `limit` (a nuisance column?), or None."""
    best, where = limit, None
    for d in range(demo.shape[1]):
        auc = weighted_auc(demo[:, d], rollout[:, d], demo_mass, rollout_mass)
        if max(auc, 1 - auc) > best:
            best, where = max(auc, 1 - auc), d
    return where
