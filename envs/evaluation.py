"""Success rates that can be believed: fixed starts, every started episode counted, intervals, paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.data.errors import UserError
from alltrades.envs.rollout import Job, LaneController, rollout
from alltrades.envs.seeding import evaluation_seeds
from alltrades.envs.spec import EnvSpec
from alltrades.envs.statistics import Paired, bootstrap_mean, paired, wilson


@dataclass(frozen=True)
class EnvironmentResult:
    """Episodes of one environment; lists are in the order of the starts.

    first_success: steps until the first success, -1 for never. max_rewards: largest reward of each episode.
    """

    environment: str
    seeds: tuple[int, ...]
    first_success: tuple[int, ...]
    returns: tuple[float, ...]
    max_rewards: tuple[float, ...]
    max_steps: int
    policy: str

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def successes(self) -> int:
        return int(self.success().sum())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson(self.successes, self.n)

    def success(self, at: int | None = None) -> np.ndarray:
        """(n,) success of each episode, within `at` steps where given."""
        first = np.array(self.first_success)
        return (first > 0) & (first <= (self.max_steps if at is None else at))


@dataclass(frozen=True)
class Evaluation:
    """One row of the table: a policy (or one per environment) on common starts."""

    name: str
    rows: tuple[EnvironmentResult, ...]
    used_success_signal: bool = False

    def mean(self, at: int | None = None) -> tuple[float, tuple[float, float]]:
        """Mean success over environments, and its 95 % bootstrap interval over starts."""
        return bootstrap_mean([r.success(at).astype(float) for r in self.rows])

    def success_at(self, limit: int) -> dict[str, float]:
        """Success rate per environment within `limit` steps."""
        return {r.environment: float(r.success(limit).mean()) for r in self.rows}

    def to_json(self) -> dict[str, Any]:
        """Plain data without wall times: equal results give equal JSON."""
        mean, interval = self.mean()
        return {"name": self.name, "used_success_signal": self.used_success_signal, "mean": mean, "interval": list(interval),
                "rows": [{"environment": r.environment, "n": r.n, "successes": r.successes, "interval": list(r.interval),
                          "max_steps": r.max_steps, "policy": r.policy, "seeds": list(r.seeds),
                          "first_success": list(r.first_success), "returns": list(r.returns),
                          "max_rewards": list(r.max_rewards)} for r in self.rows]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        rows = tuple(EnvironmentResult(r["environment"], tuple(r["seeds"]), tuple(r["first_success"]), tuple(r["returns"]),
                                       tuple(r["max_rewards"]), r["max_steps"], r["policy"]) for r in value["rows"])
        return cls(value["name"], rows, value["used_success_signal"])


def evaluate(name: str, controllers: Mapping[str, LaneController], specs: Mapping[str, EnvSpec],
             policy_of_env: Mapping[str, str], episodes: int, root_seed: int, *, workers: int = 0, lanes: int = 32,
             used_success_signal: bool = False, digests: Mapping[str, str] | None = None,
             progress: Callable[[int, int], None] | None = None) -> Evaluation:
    """Run `episodes` evaluation starts of every environment.

    Args:
        controllers: by policy key. policy_of_env: policy key of every environment.
        root_seed: root of the evaluation starts (see `evaluation_seeds`); equal roots mean equal starts.
        digests: policy digest of every environment, recorded.
    """
    seeds = {s.id: evaluation_seeds(s, root_seed, episodes) for s in specs.values()}
    jobs = [Job(name_, seeds[name_][i], policy_of_env[name_]) for i in range(episodes) for name_ in specs]
    found: dict[str, list[tuple[int, int, float, float]]] = {s: [] for s in specs}
    for episode in rollout(jobs, specs, controllers, workers=workers, lanes=lanes, source=name, progress=progress):
        found[episode.environment].append((episode.seed, episode.first_success, episode.return_, float(episode.rewards.max())))
    rows = tuple(EnvironmentResult(s.id, *(tuple(x) for x in zip(*found[s.id])), s.max_steps, (digests or {}).get(s.id, ""))  # type: ignore[arg-type]
                 for s in specs.values())
    return Evaluation(name, rows, used_success_signal)


def _differences(a: Evaluation, b: Evaluation, at: int | None) -> dict[str, np.ndarray]:
    theirs = {r.environment: r for r in b.rows}
    out = {}
    for r in a.rows:
        other = theirs.get(r.environment)
        if other is None or other.seeds != r.seeds:
            raise UserError(f"'{a.name}' and '{b.name}' were not measured on the same starts of '{r.environment}'; expected equal "
                            "environments, episode counts and evaluation seed; evaluate both with the same settings")
        out[r.environment] = r.success(at).astype(float) - other.success(at).astype(float)
    return out


def paired_difference(a: Evaluation, b: Evaluation, n_boot: int = 10_000, seed: int = 0, at: int | None = None) -> Paired:
    """Success of a minus success of b on common starts; raises UserError when the starts differ."""
    return paired(_differences(a, b, at), n_boot, seed)


def paired_over_seeds(pairs: Sequence[tuple[Evaluation, Evaluation]], n_boot: int = 10_000, seed: int = 0,
                      at: int | None = None) -> Paired:
    """The same for several training seeds: each start's difference is averaged over them."""
    each = [_differences(a, b, at) for a, b in pairs]
    if any(d.keys() != each[0].keys() for d in each):
        raise UserError("the runs measured different environments; expected runs of one recipe that differ in --seed only")
    merged = {name: np.mean([d[name] for d in each], axis=0) for name in each[0]}
    return paired(merged, n_boot, seed, [float(np.mean([v.mean() for v in d.values()])) for d in each])
