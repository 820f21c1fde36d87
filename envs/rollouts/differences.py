"""Differences between evaluations on common starts, of one training seed or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alltrades.envs.rollouts.evaluation import RETURN, SUCCESS, Evaluation, agreed
from alltrades.envs.rollouts.sequential import Sequential, sequential
from alltrades.envs.rollouts.statistics import bootstrap_mean
from alltrades.envs.rollouts.verdicts import Paired, paired
from alltrades.errors import UserError

SPREAD = 0.1  # of the deviation of returns over starts, within which they count as the same


def _check_common(a: Evaluation, b: Evaluation) -> None:
    mine, theirs = {r.environment: r for r in a.rows}, {r.environment: r for r in b.rows}
    for name in (*mine, *theirs):
        if name not in mine or name not in theirs or mine[name].seeds != theirs[name].seeds:
            raise UserError(
                f"'{a.name}' and '{b.name}' were not measured on the same starts of '{name}'; "
                "expected equal environments, episode counts and evaluation seed; evaluate both "
                "with the same settings"
            )


def _differences(
    a: Evaluation, b: Evaluation, at: int | None, metric: str
) -> dict[str, np.ndarray]:
    """Per environment (n,) result of a minus result of b."""
    _check_common(a, b)
    both = agreed({"a": a, "b": b})
    a, b = both["a"], both["b"]
    theirs = {r.environment: r for r in b.rows}
    for r in a.rows:
        limits = (r.max_steps, theirs[r.environment].max_steps)
        if limits[0] != limits[1] and (at is None or at > min(limits)):
            raise UserError(
                f"'{a.name}' had {limits[0]} steps in '{r.environment}' and '{b.name}' had "
                f"{limits[1]}; expected the same; compare with --at {min(limits)} or less"
            )
    return {
        r.environment: r.values(metric, at) - theirs[r.environment].values(metric, at)
        for r in a.rows
    }


def _bounds(metric: str) -> tuple[float, float] | None:
    """Of the difference of two results, where they are known."""
    return (-1.0, 1.0) if metric == SUCCESS else None


def paired_difference(
    a: Evaluation,
    b: Evaluation,
    n_boot: int = 10_000,
    seed: int = 0,
    at: int | None = None,
    metric: str = SUCCESS,
) -> Paired:
    """Result of a minus result of b on common starts: success, within `at` steps where given,
    return, or another metric.

    Raises UserError when the starts or the time limits differ, or the metric was not measured.
    """
    differences = _differences(a, b, at, metric)
    equal = _equal([a, b], metric)
    return paired(differences, n_boot, seed, bounds=_bounds(metric), equal=equal)


def improvement(a: Evaluation, b: Evaluation) -> Paired:
    """What a has over b, to choose by: success where it is said and elsewhere returns, in
    deviations of the environment's over starts.
    """
    both = agreed({"a": a, "b": b})
    told = [r.environment for r in both["a"].rows if r.metric == SUCCESS]
    if len(told) == len(a.rows):
        return paired_difference(a, b)
    silent = [r.environment for r in both["a"].rows if r.metric == RETURN]
    mine, theirs = (e.only(silent) for e in both.values())
    unit = {name: equal / SPREAD for name, equal in _equal([mine, theirs], RETURN).items()}
    returns = {
        name: d / (unit[name] or 1.0)
        for name, d in _differences(mine, theirs, None, RETURN).items()
    }
    mine, theirs = (e.only(told) for e in both.values())
    return paired(_differences(mine, theirs, None, SUCCESS) | returns if told else returns)


def _equal(evaluations: Sequence[Evaluation], metric: str) -> Mapping[str, float]:
    """By environment, the difference that counts as none: of returns, which have units of their
    own, a tenth of their deviation over starts; else that of `verdict`.
    """
    if metric != RETURN:
        return {}
    spread: dict[str, list[float]] = {}
    for e in evaluations:
        for r in e.rows:
            spread.setdefault(r.environment, []).append(float(np.std(r.returns)))
    return {name: SPREAD * float(np.mean(found)) for name, found in spread.items()}


def sequential_difference(
    a: Evaluation,
    b: Evaluation,
    at: int | None = None,
    alpha: float = 0.05,
    metric: str = SUCCESS,
) -> Sequential:
    """Success of a against b, start after start, as if each had been run when the one before left
    it open: a round is one common start of every environment (see `sequential`). Another metric has
    no bounds that are known, so of it counts which of the two is higher on a start.

    Raises UserError as `paired_difference`.
    """
    found = _differences(a, b, at, metric).values()
    each = [d if metric == SUCCESS else np.sign(d) for d in found]
    n = min(map(len, each))
    return sequential(np.mean([d[:n] for d in each], axis=0), alpha)


@dataclass(frozen=True)
class Repeated:
    """One row of several training seeds: mean, its 95 % interval over starts, each seed's mean, and
    means by environment.
    """

    mean: float
    interval: tuple[float, float]
    seeds: tuple[float, ...]
    environments: dict[str, float]


def over_seeds(
    evaluations: Sequence[Evaluation], at: int | None = None, metric: str = SUCCESS
) -> Repeated:
    """Several training seeds of one row on common starts; a start's values are averaged over them.

    The interval speaks of new starts for these training seeds, as `paired_over_seeds`. O(seeds x
    episodes).
    """
    for other in evaluations[1:]:
        _check_common(evaluations[0], other)
    every = agreed({str(i): e for i, e in enumerate(evaluations)}).values()
    results = [{r.environment: r.values(metric, at) for r in e.rows} for e in every]
    values = {name: np.mean([found[name] for found in results], axis=0) for name in results[0]}
    mean, interval = bootstrap_mean(
        list(values.values()), bounds=(0.0, 1.0) if metric == SUCCESS else None
    )
    return Repeated(
        mean,
        interval,
        tuple(float(np.mean([v.mean() for v in found.values()])) for found in results),
        {name: float(v.mean()) for name, v in values.items()},
    )


def paired_over_seeds(
    pairs: Sequence[tuple[Evaluation, Evaluation]],
    n_boot: int = 10_000,
    seed: int = 0,
    at: int | None = None,
    metric: str = SUCCESS,
) -> Paired:
    """The same for several training seeds: each start's difference is averaged over them.

    `Paired.interval` speaks of new starts for these training seeds, `Paired.seed_interval` of new
    training seeds.
    """
    if not pairs:
        raise UserError("no runs to compare; expected at least one; name run folders")
    each = [_differences(a, b, at, metric) for a, b in pairs]
    for a, _ in pairs[1:]:
        _check_common(pairs[0][0], a)
    merged = {name: np.mean([d[name] for d in each], axis=0) for name in each[0]}
    return paired(
        merged,
        n_boot,
        seed,
        [float(np.mean([v.mean() for v in d.values()])) for d in each],
        _bounds(metric),
        _equal([e for pair in pairs for e in pair], metric),
    )
