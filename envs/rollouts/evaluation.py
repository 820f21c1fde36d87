"""Results that can be believed: fixed starts, every started episode counted, intervals, paired
comparisons.

The result of an episode is its success, or where nothing says success its return, and where the
environment names further metrics, those: higher is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.faults import Errors, Faults
from alltrades.envs.rollouts.rollout import Job, LaneController, results
from alltrades.envs.rollouts.statistics import bootstrap_mean, wilson
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError, nearest
from alltrades.system.reporting import Report

Outcome = tuple[
    int, int | None, float, float, dict[str, float], str
]  # seed, first success, return, largest reward, metrics, fault
SUCCESS, RETURN = "success", "return"  # metrics: of environments that say success, and of all
# the three ways in which the simulator's success signal reaches what is trained
ENDS, FILTERS, CHOOSES = "ends episodes", "filters", "chooses"
CONDITIONS = "conditions"


@dataclass(frozen=True)
class EnvironmentResult:
    """Episodes of one environment; lists are in the order of the starts.

    first_success: steps until the first success, -1 for never; None where no episode says success
    (then returns are the result; beside others that do, one that says nothing did not succeed).
    max_rewards: largest reward of each
    episode. policy: digest of what acted ("" where it has none). metrics: further values of each
    episode, by name. faults: why an environment could not finish an episode, "" where it did.
    """

    environment: str
    seeds: tuple[int, ...]
    first_success: tuple[int, ...] | None
    returns: tuple[float, ...]
    max_rewards: tuple[float, ...]
    max_steps: int
    policy: str
    metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def successes(self) -> int | None:
        """None where nothing says success."""
        return None if self.first_success is None else int(self.success().sum())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson 95 % interval of the success rate; None where nothing says success."""
        return None if self.successes is None else wilson(self.successes, self.n)

    @property
    def metric(self) -> str:
        """Its result: success, or the return where nothing says success."""
        return RETURN if self.first_success is None else SUCCESS

    def success(self, at: int | None = None) -> np.ndarray:
        """(n,) success of each episode, within `at` steps where given.

        Raises UserError where nothing says success.
        """
        if self.first_success is None:
            raise UserError(
                f"nothing says success in '{self.environment}'; expected a metric that it has: "
                f"{', '.join([RETURN, *self.metrics])}"
            )
        first = np.array(self.first_success)
        return (first > 0) & (first <= (self.max_steps if at is None else at))

    def values(self, metric: str = SUCCESS, at: int | None = None) -> np.ndarray:
        """(n,) f64 of each episode: success (0 or 1), return, or a further metric. Raises UserError
        for one that was not measured.
        """
        if metric == SUCCESS:
            return self.success(at).astype(float)
        if metric in (RETURN, *self.metrics) and at is not None:
            raise UserError(
                f"{metric} within {at} steps; expected success, which alone has steps; leave --at "
                "out"
            )
        if metric == RETURN and RETURN not in self.metrics:
            return np.array(self.returns, dtype=np.float64)
        if metric not in self.metrics:
            known = [SUCCESS, RETURN, *self.metrics]
            raise UserError(
                f"no metric '{metric}' was measured in '{self.environment}'; expected one of "
                f"{', '.join(known)}{nearest(metric, known)}"
            )
        return np.array(self.metrics[metric])

    def estimate(
        self, metric: str = SUCCESS, at: int | None = None
    ) -> tuple[float, tuple[float, float]]:
        """Mean over the episodes and its 95 % interval: Wilson for success (within `at` steps where
        given), else bootstrap over starts.
        """
        values = self.values(metric, at)
        if metric == SUCCESS:
            return float(values.mean()), wilson(int(values.sum()), self.n)
        return bootstrap_mean([values])


@dataclass(frozen=True)
class Evaluation:
    """One row of the table: a policy (or one per environment) on common starts.

    success_uses: how the simulator's success signal reached its training, of ENDS (episodes that it
    learned from end there), FILTERS (those without are left out), CONDITIONS (the network is told
    of it) and CHOOSES (teachers or rounds were chosen by it). made: with what it was measured:
    "code", versions and digests by name, and "settings"; empty where nothing was said.
    """

    name: str
    rows: tuple[EnvironmentResult, ...]
    success_uses: tuple[str, ...] = ()
    made: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def used_success_signal(self) -> bool:
        """Whether it reached training or choice at all."""
        return bool(self.success_uses)

    @property
    def metrics(self) -> tuple[str, ...]:
        """ "success" where an environment says it, "return" where one does not, and what else was
        measured in every environment.
        """
        own = {r.metric for r in self.rows}
        further = (m for m in self.rows[0].metrics if all(m in r.metrics for r in self.rows))
        return tuple(dict.fromkeys((*(m for m in (SUCCESS, RETURN) if m in own), *further)))

    def mean(
        self, at: int | None = None, metric: str = SUCCESS
    ) -> tuple[float, tuple[float, float]]:
        """Mean of a metric over environments, and its 95 % bootstrap interval over starts; of a
        single one its own interval.
        """
        if len(self.rows) == 1:
            return self.rows[0].estimate(metric, at)
        return bootstrap_mean(
            [r.values(metric, at) for r in self.rows],
            bounds=(0.0, 1.0) if metric == SUCCESS else None,
        )

    def result(self) -> tuple[float, tuple[float, float]] | None:
        """Mean success over the environments that say it; None where none does."""
        told = [r.environment for r in self.rows if r.metric == SUCCESS]
        return self.only(told).mean() if told else None

    def only(self, environments: Sequence[str] | None) -> Evaluation:
        """The results of some environments; of all with None."""
        if environments is None:
            return self
        return replace(self, rows=tuple(r for r in self.rows if r.environment in environments))

    def to_json(self) -> dict[str, Any]:
        """Plain data without wall times: equal results give equal JSON."""
        found = self.result()
        silent = [r.environment for r in self.rows if r.metric == RETURN]
        returns = self.only(silent).mean(metric=RETURN) if silent else None
        return {
            "name": self.name,
            "used_success_signal": self.used_success_signal,
            "success_uses": list(self.success_uses),
            "mean": None if found is None else found[0],
            "interval": None if found is None else list(found[1]),
            **(
                {"return": {"mean": returns[0], "interval": list(returns[1]), "of": silent}}
                if returns is not None
                else {}
            ),
            "rows": [
                {
                    "environment": r.environment,
                    "n": r.n,
                    "successes": r.successes,
                    "interval": None if r.interval is None else list(r.interval),
                    "max_steps": r.max_steps,
                    "policy": r.policy,
                    "seeds": list(r.seeds),
                    "first_success": None if r.first_success is None else list(r.first_success),
                    "returns": list(r.returns),
                    "max_rewards": list(r.max_rewards),
                    "faults": list(r.faults),
                    **(
                        {"metrics": {k: list(v) for k, v in r.metrics.items()}} if r.metrics else {}
                    ),
                }
                for r in self.rows
            ],
            **({"made": {k: dict(v) for k, v in self.made.items()}} if self.made else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        rows = tuple(
            EnvironmentResult(
                r["environment"],
                tuple(r["seeds"]),
                None if r["first_success"] is None else tuple(r["first_success"]),
                _numbers(r["returns"]),
                _numbers(r["max_rewards"]),
                r["max_steps"],
                r["policy"],
                {k: _numbers(v) for k, v in r.get("metrics", {}).items()},
                tuple(r.get("faults", ())),
            )
            for r in value["rows"]
        )
        before = (FILTERS,) if value["used_success_signal"] else ()  # what alone was told of once
        return cls(
            value["name"], rows, tuple(value.get("success_uses", before)), value.get("made", {})
        )


def _numbers(values: Iterable[float | None]) -> tuple[float, ...]:
    """What JSON has no number for, such as the return of an episode that broke off, is NaN."""
    return tuple(float("nan") if value is None else value for value in values)


@dataclass(frozen=True)
class Actors:
    """Who acts in which environment.

    Attributes:
        controllers: by key.
        key_of: key of every environment's controller, or "expert".
        digests: policy digest of every environment, recorded; "" for those not named.
        success_uses: how the simulator's success signal reached training (see `Evaluation`).
        experts: in place of the registry's (see `rollout`).
    """

    controllers: Mapping[str, LaneController]
    key_of: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)
    success_uses: tuple[str, ...] = ()
    experts: Mapping[str, Any] | None = None


def evaluate(
    name: str,
    actors: Actors,
    specs: Mapping[str, EnvSpec],
    starts: Mapping[str, Sequence[int]],
    *,
    lanes: int = 32,
    crew: Crew | None = None,
    report: Report | None = None,
    errors: Errors = "count",
) -> Evaluation:
    """Run the starts of every environment.

    Args:
        starts: seeds of every environment, equally many, such as `evaluation_starts`.
        lanes: see `rollout`.
        crew: what steps environments; default this process.
        report: gets the episodes done.
        errors: what an episode costs that its environment could not finish (see `Faults`); counted,
            it is a failed start, whose other values are the lowest that were measured in its
            environment.

    Raises UserError for environments without a policy, and what `rollout` raises.
    """
    report = report or Report()
    without = [s for s in specs if s not in actors.key_of]
    if without:
        raise UserError(
            f"no policy for environment '{without[0]}'; expected one for each of {', '.join(specs)}"
        )
    jobs = [
        Job(s, x, actors.key_of[s])
        for of_index in zip(*(starts[s] for s in specs))
        for s, x in zip(specs, of_index)
    ]
    found: dict[str, list[Outcome]] = {s: [] for s in specs}
    for done in results(
        jobs,
        specs,
        actors.controllers,
        lanes=lanes,
        experts=actors.experts,
        crew=crew,
        progress=report.progress,
        faults=Faults(errors, "counted as failed"),
    ):
        largest = float(done.rewards.max(initial=-np.inf))
        found[done.environment].append(
            (done.seed, done.first_success, done.return_, largest, done.metrics, done.fault)
        )
    return Evaluation(
        name,
        tuple(_result(s, found[s.id], actors.digests.get(s.id, "")) for s in specs.values()),
        actors.success_uses,
    )


def agreed(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """The same, where all say success in an environment as soon as one does: an environment that
    tells of success alone never told a row that had none.
    """
    told = {r.environment for e in evaluations.values() for r in e.rows if r.metric == SUCCESS}

    def filled(r: EnvironmentResult) -> EnvironmentResult:
        silent = r.first_success is None and r.environment in told
        return replace(r, first_success=(-1,) * r.n) if silent else r

    return {name: replace(e, rows=tuple(map(filled, e.rows))) for name, e in evaluations.items()}


def measures(evaluations: Iterable[Evaluation]) -> dict[str, list[str]]:
    """What a table shows of `agreed` rows, and of which environments: success of those that say it,
    returns of the others, and further metrics of those that have them in every row.
    """
    every = list(evaluations)
    if not every:
        return {}
    metric_of = {r.environment: r.metric for e in every for r in e.rows}
    out = {m: [e for e, own in metric_of.items() if own == m] for m in (SUCCESS, RETURN)}
    rows = [r for e in every for r in e.rows]
    for m in dict.fromkeys(m for r in rows for m in r.metrics):
        lacking = {r.environment for r in rows if m not in r.metrics}
        out.setdefault(m, [name for name in metric_of if name not in lacking])
    return {m: names for m, names in out.items() if names}


def _result(spec: EnvSpec, outcomes: list[Outcome], digest: str) -> EnvironmentResult:
    assert spec.max_steps is not None  # of what was stepped
    seeds, first, returns, largest, metrics, faults = zip(*outcomes)
    said = any(f is not None for f in first)

    def measured(values: Sequence[float]) -> tuple[float, ...]:
        lowest = min((v for v, fault in zip(values, faults) if not fault), default=0.0)
        return tuple(lowest if fault else v for v, fault in zip(values, faults))

    return EnvironmentResult(
        spec.id,
        seeds,
        tuple(-1 if f is None else f for f in first) if said else None,
        measured(returns),
        measured(largest),
        spec.max_steps,
        digest,
        {name: measured([m.get(name, np.nan) for m in metrics]) for name in spec.metrics},
        faults,
    )
