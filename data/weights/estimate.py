"""Importance weights of one environment's rollout and demonstration states: from its state fields
to sampling probabilities.

The measure that stage 2 samples from is nu = alpha d* + (1 - alpha) d^h: demonstration rows with
base share alpha, rollout rows with 1 - alpha, every row times its weight, normalised over the
union. The estimator, its guard and the cap on the demonstrations' share are this project's own; see
`density_ratio` for the formula.

Base measure, everywhere: an episode has mass 1 / n_episodes, shared equally by its steps up to the
first success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import UNKNOWN
from alltrades.data.steps import Steps
from alltrades.data.weights.density_ratio import (
    Scores,
    cross_fit,
    relative_ratio,
    separating_feature,
)
from alltrades.data.weights.reaching import rows_ahead, weighed_by
from alltrades.data.weights.settings import WeightSettings
from alltrades.errors import UserError
from alltrades.system.files import file_digest, replacing
from alltrades.system.reading import read_mapping, write_sealed
from alltrades.system.tensors import read_tensors

ROWS, FACTS = "weights.safetensors", "weights.json"
EXPECTED, REMEDY = "weights as `alltrades weigh` writes them", "weigh again"
TAUS = (1.0, 0.75, 0.5, 0.25, 0.0)
SEPARABLE = 0.95
COMPONENTS = 8  # principal components that an estimator sees at most
FEWEST = 4  # demonstrations below which no ratio is estimated


@dataclass
class WeightResult:
    """Weights of one environment and what is known of their quality.

    demo_weight (N,), rollout_weight (M,): weights after floor and guard, mean 1 under nu.
    demo_base, rollout_base: base measure of the rows (each sums to 1; 0 for steps after the first
    success and for filtered episodes). demo_mass: share of demonstration rows under sampling. ess:
    effective share of the rollout episodes under the weights that are used; raw_ess: under those
    that were estimated, before the guard. moment_balance: distance of the rollouts' feature means
    from those of held-out demonstrations, before and after weighing, in deviations; of resultant
    states where weights are of these, None where they are of progress. nuisance: the
    state's number, such as "state[3]", that alone tells both apart.
    """

    demo_weight: np.ndarray
    rollout_weight: np.ndarray
    demo_base: np.ndarray
    rollout_base: np.ndarray
    demo_mass: float
    base_demo_mass: float
    active: bool = False
    tau: float = 0.0
    auc: float | None = None
    auc_interval: tuple[float, float] | None = None
    ess: float | None = None
    raw_ess: float | None = None
    max_weight: float = 1.0
    moment_balance: tuple[float, float] | None = None
    nuisance: str | None = None
    warnings: list[str] = field(default_factory=list)

    def row_probability(self) -> tuple[np.ndarray, np.ndarray]:
        """Sampling probability of every row, (N,) and (M,); sums to 1 over both."""
        return (
            self.demo_mass * _normalised(self.demo_base * self.demo_weight),
            (1 - self.demo_mass) * _normalised(self.rollout_base * self.rollout_weight),
        )

    def base_probability(self) -> tuple[np.ndarray, np.ndarray]:
        """The same without weights: what a loss multiplied by weights is sampled from."""
        return self.base_demo_mass * self.demo_base, (1 - self.base_demo_mass) * self.rollout_base

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, with a histogram of the rollouts' weights."""
        out = {k: v for k, v in asdict(self).items() if not isinstance(v, np.ndarray)}
        counts, edges = np.histogram(
            self.rollout_weight,
            bins=30,
            range=(0, max(1.5, float(self.rollout_weight.max(initial=0)))),
            weights=self.rollout_base,
        )
        return out | {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}

    def save(self, folder: Path) -> None:
        """Write weights.safetensors, then weights.json, which holds its digest."""
        from safetensors.numpy import save_file

        rows = {k: v for k, v in self.__dict__.items() if isinstance(v, np.ndarray)}
        with replacing(folder / ROWS) as partial:
            save_file({k: np.ascontiguousarray(v) for k, v in rows.items()}, partial)
        facts = {k: v for k, v in self.__dict__.items() if k not in rows}
        write_sealed(folder / FACTS, facts | {"sha256": file_digest(folder / ROWS)})

    @classmethod
    def load(cls, folder: Path) -> WeightResult:
        """The weights that `save` wrote; UserError, in one line, where they cannot be read."""
        facts = read_mapping(folder / FACTS, EXPECTED, REMEDY)
        digest = facts.pop("sha256", None)
        rows = read_tensors(folder / ROWS, EXPECTED, REMEDY, digest=digest)
        try:
            for name in ("auc_interval", "moment_balance"):
                facts[name] = None if facts[name] is None else tuple(facts[name])
            found = cls(**rows, **facts)
            found.check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{folder}: its weights cannot be read ({' '.join(str(error).split())[:120]}); "
                f"expected {EXPECTED}; {REMEDY}"
            ) from error
        return found

    def check(self) -> None:
        """ValueError where its rows are no measures, or do not belong together."""
        for source in ("demo", "rollout"):
            weight, base = getattr(self, f"{source}_weight"), getattr(self, f"{source}_base")
            if not weight.ndim == base.ndim == 1 or len(weight) != len(base):
                raise ValueError(f"{source}: {weight.shape} weights of {base.shape} rows")
            for name, values in (("weight", weight), ("base", base)):
                if values.dtype.kind != "f" or not (np.isfinite(values) & (values >= 0)).all():
                    raise ValueError(f"{source}_{name} is negative, or no finite number")
        for name in ("demo_mass", "base_demo_mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}, which is no share")


def base_measure(steps: Steps, keep: np.ndarray | None = None, discount: float = 1.0) -> np.ndarray:
    """(S,) mass of every step: that of an episode is spread equally over its steps up to its first
    success.

    Kept episodes have equal mass, or with `discount` < 1 the factor discount^T each, T being the
    number of those steps: the discounted return of an episode whose only reward is its success.
    Where nothing says success all count alike: to end early is no merit then.
    """
    kept = np.ones(len(steps.ends), bool) if keep is None else keep
    used = np.where(
        steps.first_success > 0, np.minimum(steps.first_success, steps.lengths), steps.lengths
    )  # (E,)
    position = np.arange(len(steps)) - steps.starts[steps.episode_of_step]
    least = used[kept].min() if kept.any() else 0  # keeps discount^T from underflowing
    quick = float(discount) ** np.maximum(used - least, 0)
    mass = np.where(kept, np.where(steps.first_success == UNKNOWN, 1.0, quick), 0.0)  # (E,)
    share = (mass / np.maximum(used, 1))[steps.episode_of_step] * (
        position < used[steps.episode_of_step]
    )
    return share / max(float(mass.sum()), 1e-300)


def kept_episodes(steps: Steps, top: float) -> np.ndarray:
    """(E,) bool, what a filter keeps of one environment's episodes: those that succeed or, where
    none says success, the share `top` of the highest returns (equal ones together).
    """
    if steps.tells_success or not len(steps.ends):
        return steps.episode_success
    return steps.return_ >= top_return(steps.return_, top)


def top_return(returns: np.ndarray, top: float) -> float:
    """The lowest return (n,) of the share `top` of the highest ones, at least one."""
    count = max(1, math.ceil(top * len(returns) - 1e-9))
    return float(np.sort(returns)[-count])


def estimate_weights(
    demos: Steps, rollouts: Steps, settings: WeightSettings, rng: np.random.Generator
) -> WeightResult:
    """Weights of one environment.

    Args:
        demos, rollouts: steps of that environment only.
        rng: folds and bootstrap.

    Cost: folds x candidates fits on at most 12,000 rows: about a second, for classifier-mlp
    several.
    """
    filtered = settings.filtered
    everything = np.ones(len(rollouts.ends), bool)
    keep = kept_episodes(rollouts, settings.top) if filtered else everything
    demo_base, rollout_base = base_measure(demos), base_measure(rollouts, keep, settings.discount)
    alpha = settings.base_share
    result = WeightResult(
        np.ones(len(demo_base)), np.ones(len(rollout_base)), demo_base, rollout_base, alpha, alpha
    )
    if not keep.any():
        result.demo_mass = result.base_demo_mass = 1.0
        result.warnings.append(
            "no successful rollout: demonstrations only"
            if filtered and len(keep)
            else "no rollouts: demonstrations only"
        )
        return result
    if settings.estimator is None:
        return result
    if len(demos.ends) < FEWEST:
        result.warnings.append(
            f"{len(demos.ends)} demonstrations; expected at least {FEWEST} to estimate a ratio: "
            "weights off"
        )
        return result
    if keep.sum() < 2:
        result.warnings.append("one rollout only: weights off")
        return result
    states = demos.states
    if not states:
        result.warnings.append(
            f"'{demos.environment[0]}' has no state field to estimate a ratio on: weights off"
        )
        return result
    d_rows, r_rows = np.flatnonzero(demo_base > 0), np.flatnonzero(rollout_base > 0)
    x, y = (
        steps.state(states, rows).astype(np.float64)
        for steps, rows in ((demos, d_rows), (rollouts, r_rows))
    )
    center, scale = _standardise(
        np.concatenate([x, y]), np.concatenate([demo_base[d_rows], rollout_base[r_rows]])
    )
    x, y = (x - center) / scale, (y - center) / scale
    folds = min(settings.folds, len(demos.ends), int(keep.sum()))
    scores = cross_fit(
        x,
        demos.episode_of_step[d_rows],
        demo_base[d_rows],
        y,
        rollouts.episode_of_step[r_rows],
        rollout_base[r_rows],
        folds,
        COMPONENTS,
        rng,
        settings.estimator,
        alpha,
    )
    result.auc, result.auc_interval = scores.auc, scores.auc_interval
    separating = separating_feature(x, y, demo_base[d_rows], rollout_base[r_rows])
    if separating is not None:
        result.nuisance = _entry(demos, states, separating)
        result.warnings.append(
            f"{result.nuisance} alone tells demonstrations from rollouts (a nuisance column?)"
        )
    reached = [
        rows_ahead(demos.episode_of_step[d_rows], settings.ahead),
        rows_ahead(rollouts.episode_of_step[r_rows], settings.ahead),
    ]
    raw = [
        np.maximum(relative_ratio(weighed_by(s, to, settings.at), alpha), settings.floor)
        for s, to in zip((scores.demo, scores.rollout), reached)
    ]
    result.raw_ess = effective_share(raw[1], rollout_base[r_rows], rollouts.episode_of_step[r_rows])
    result.tau, result.ess, reason = flattening(
        scores, raw[1], rollout_base[r_rows], rollouts.episode_of_step[r_rows], settings
    )
    if reason is not None:
        result.warnings.append(f"{reason}: weights off")
        return result
    powered = [w**result.tau for w in raw]
    mean = alpha * float(demo_base[d_rows] @ powered[0]) + (1 - alpha) * float(
        rollout_base[r_rows] @ powered[1]
    )
    result.demo_weight[d_rows], result.rollout_weight[r_rows] = powered[0] / mean, powered[1] / mean
    if settings.share == "weighted":
        weighted = alpha * float(demo_base[d_rows] @ powered[0]) / mean
        result.demo_mass = min(settings.demo_cap, weighted)
    result.max_weight = float(max(w.max() for w in powered) / mean)
    result.active = True
    assert scores.demo_fold is not None and scores.rollout_fold is not None
    if settings.at == "progress":  # towards no law of states
        return result
    result.moment_balance = _balance(
        x if settings.at == "state" else x[reached[0]],
        y if settings.at == "state" else y[reached[1]],
        demo_base[d_rows],
        rollout_base[r_rows],
        powered,
        alpha,
        [scores.demo_fold, scores.rollout_fold],
    )
    return result


def flattening(
    scores: Scores, w: np.ndarray, mass: np.ndarray, episode: np.ndarray, settings: WeightSettings
) -> tuple[float, float, str | None]:
    """The guard: exponent tau of the rollouts' weights w (M,), the ESS / n that is left, and why
    tau is 0 where it is.

    tau is the largest of TAUS whose w**tau keeps the episode-level ESS / n at `ess_min`. It is 0
    where the held-out AUC says that the weights may be noise (interval reaching below `auc_min`) or
    that there is no common support (interval above 0.95).
    """
    low, high = scores.auc_interval
    if low > SEPARABLE:
        return 0.0, 1.0, f"demonstrations and rollouts hardly overlap (AUC {scores.auc:.2f})"
    if low < settings.auc_min:
        return (
            0.0,
            1.0,
            f"no shift that held-out episodes confirm (AUC {scores.auc:.2f} [{low:.2f}, "
            f"{high:.2f}])",
        )
    for tau in TAUS[:-1]:
        ess = effective_share(w**tau, mass, episode)
        if ess >= settings.ess_min:
            return tau, ess, None
    return 0.0, 1.0, f"fewer than {settings.ess_min:.0%} of the rollouts would count"


def effective_share(w: np.ndarray, mass: np.ndarray, episode: np.ndarray) -> float:
    """ESS / n of episodes, each counted by the mean of its rows' weights w (M,) under their masses
    (M,).
    """
    _, inverse = np.unique(episode, return_inverse=True)
    means = np.bincount(inverse, mass * w) / np.bincount(inverse, mass)  # of each episode
    return float(means.sum() ** 2 / (means @ means) / len(means))


def _entry(steps: Steps, names: Sequence[str], column: int) -> str:
    """The field and the number in it that a column of these states is."""
    for name in names:
        width = steps.observation[name].width
        if column < width:
            return f"{name}[{column}]"
        column -= width
    raise IndexError(column)


def _standardise(x: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of the pooled rows; columns that hardly move are measured in their own
    size.
    """
    share = mass / mass.sum()
    center = share @ x
    std = np.sqrt(share @ (x - center) ** 2)
    size = np.abs(x).max(0)
    return center, np.where(std > 1e-6 * size, std, np.where(size > 0, size, 1.0))


def _balance(
    x: np.ndarray,
    y: np.ndarray,
    p: np.ndarray,
    q: np.ndarray,
    w: list[np.ndarray],
    alpha: float,
    folds: list[np.ndarray],
) -> tuple[float, float]:
    """Root mean squared difference of feature means from those of held-out demonstrations: rollouts
    alone, and the mixture.

    For every fold the demonstrations that it held out are compared with rollouts whose weights are
    of the model that has not seen them, and with the mixture of these and the other demonstrations.
    """
    found = []
    for fold in np.unique(folds[0]):
        held, mine = folds[0] == fold, folds[1] == fold
        target, alone = _mean(x[held], p[held]), _mean(y[mine], q[mine])
        a, b = (
            alpha * _normalised(p[~held]) * w[0][~held],
            (1 - alpha) * _normalised(q[mine]) * w[1][mine],
        )
        mixed = _mean(np.concatenate([x[~held], y[mine]]), np.concatenate([a, b]))
        found.append((alone - target, mixed - target))
    rms = np.sqrt(np.mean(np.square(found), axis=(0, 2)))  # over folds and features
    return float(rms[0]), float(rms[1])


def _mean(rows: np.ndarray, mass: np.ndarray) -> np.ndarray:
    return mass @ rows / mass.sum()


def _normalised(x: np.ndarray) -> np.ndarray:
    total = x.sum()
    return x / total if total > 0 else x
