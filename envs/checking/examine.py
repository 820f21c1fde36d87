"""All checks of one environment, in the process that calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.boundary.origin import raised
from alltrades.envs.checking.declared import declared, imprecise, outside
from alltrades.envs.checking.findings import Finding, Findings, Level
from alltrades.envs.checking.repeat import Beat, Trace, between, check_seed, difference, play
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError

SEED_IT = (
    "it depends on time, on what instances share, or on a generator that `reset(seed)` does not "
    "seed"
)


@dataclass(frozen=True)
class Plan:
    """How much is tried.

    starts: different starts. steps: of an episode, at most. episodes: of the expert. strict:
    whether an episode that failed is an error: a run counts it and names it, and goes on.
    """

    starts: int
    steps: int
    episodes: int = 0
    strict: bool = False

    @property
    def of_failures(self) -> Level:
        return "error" if self.strict else "note"


SHORT = Plan(starts=3, steps=12)  # before a run
LONG = Plan(starts=5, steps=1000, episodes=10, strict=True)


def examine(spec: EnvSpec, expert: Any, plan: Plan, beat: Beat = lambda where: None) -> Findings:
    """Check an environment.

    Args:
        spec: of an environment that can be stepped.
        expert: its expert, or None.
        beat: told what is done next, before everything that may take long.

    What the environment raises or returns wrongly is a finding.
    """
    found: list[Finding] = []
    rebuild = False
    adapters: list[EnvAdapter] = []

    def fresh() -> EnvAdapter:
        adapters.append(EnvAdapter(replace(spec, rebuild=False)))
        beat("building it")
        adapters[-1].build(check_seed(spec, 0))
        return adapters[-1]

    try:
        one = fresh()
        begun = time.perf_counter()
        found += declared(one.built, spec)
        traces = [play(one, check_seed(spec, i), plan.steps, beat) for i in range(plan.starts)]
        seconds = time.perf_counter() - begun
        again = play(one, check_seed(spec, 0), plan.steps, beat)
        other = play(fresh(), check_seed(spec, 0), plan.steps, beat)
        differs, left = difference(traces[0], other), difference(traces[0], again)
        if differs is None and left is not None:
            differs = difference(other, play(fresh(), check_seed(spec, 0), plan.steps, beat))
        if differs is not None:
            found.append(_not_repeatable(spec, traces[0].seed, differs))
        elif left is not None:
            rebuild = True
            found.append(_incomplete(spec, traces[0].seed, left))
        if one.folded:
            found.append(
                Finding("note", "it refuses seeds beyond 32 bits; it gets 31 bits of them")
            )
        found += _seen(traces, spec, plan)
        found += imprecise([r for t in traces for r in t.returned], spec.returned)
        if expert is not None and plan.episodes:
            found += _expert(one if not rebuild else fresh(), expert, plan, beat)
        rate = sum(len(t.steps) for t in traces) / seconds
        found.append(Finding("note", f"{rate:,.0f} control steps/s, resets included"))
    except EnvironmentFailure as failure:
        found.append(Finding(plan.of_failures, str(failure)))
    except UserError as error:
        said = str(error).removeprefix(f"environment '{spec.id}', ")
        found.append(Finding("error", said.removeprefix(f"environment '{spec.id}': ")))
    finally:
        for adapter in adapters:
            _close(adapter)
    return Findings(spec.id, tuple(found), rebuild)


def _close(adapter: EnvAdapter) -> None:
    try:
        adapter.close()
    except Exception:  # of no interest any more
        pass


def _not_repeatable(spec: EnvSpec, seed: int, differs: str) -> Finding:
    what = f"two new instances with the same seed {seed} and the same actions differ: {differs}"
    if not spec.reproducible:
        return Finding("warning", f"{what}; it is registered as reproducible=False")
    return Finding(
        "error",
        f"{what}; {SEED_IT}; expected equal episodes; mend it, or register it with "
        "reproducible=False",
    )


def _incomplete(spec: EnvSpec, seed: int, left: str) -> Finding:
    already = spec.rebuild
    return Finding(
        "note" if already else "warning",
        f"its reset is incomplete: after other episodes in the same instance, the one with seed "
        f"{seed} differs: {left}; it is built anew for every episode"
        + (", as registered" if already else ", which takes longer; mend its reset"),
    )


def _seen(traces: list[Trace], spec: EnvSpec, plan: Plan) -> Iterator[Finding]:
    """What the episodes of random actions showed."""
    solved = [t.seed for t in traces if t.steps[0].success]
    if solved:
        yield Finding(
            "warning" if 2 * len(solved) > len(traces) else "note",
            f"{len(solved)} of {len(traces)} starts are solved after one step of random actions, "
            f"such as seed {solved[0]}; expected starts from which something has to be done",
        )
    if len(traces) > 1 and not any(between(traces[0].first, t.first) for t in traces[1:]):
        yield Finding(
            "note",
            f"{len(traces)} different seeds give the same first observation: every episode of an "
            "evaluation may be the same one",
        )
    for trace in traces:
        seen = [trace.first, *(step.observation for step in trace.steps)]
        beyond = [outside(observation, spec) for observation in seen]
        first = next((i for i, words in enumerate(beyond) if words), None)
        if first is not None:
            yield Finding(
                "warning",
                f"observation {beyond[first]}, in step {first} of the episode with seed "
                f"{trace.seed}; expected values inside its space",
            )
            break
    cut = [len(t.steps) for t in traces if t.steps[-1].truncated]
    if cut and spec.max_steps is not None and min(cut) < min(spec.max_steps, plan.steps):
        yield Finding(
            "note",
            f"it cuts episodes itself, after {min(cut)} steps; its time limit is {spec.max_steps}",
        )


def _expert(adapter: EnvAdapter, expert: Any, plan: Plan, beat: Beat) -> Iterator[Finding]:
    """How often the expert succeeds, and what it asks for."""
    spec, successes, returns = adapter.spec, [], []
    asked = clipped = 0
    for i in range(plan.episodes):
        seed, total, success, done = check_seed(spec, i), 0.0, None, False
        beat(f"reset of the expert's episode with seed {seed}")
        adapter.reset(seed)
        with adapter.randomness:
            if hasattr(expert, "reset"):
                expert.reset(seed)
            while not done:
                beat(f"the expert's episode with seed {seed}")
                try:
                    action = expert(adapter.expert_observation)
                except Exception as error:
                    words = f"in the episode with seed {seed}"
                    yield Finding("error", f"its expert raised {raised(error, expert)} {words}")
                    return
                result = adapter.step(action)
                asked += 1
                clipped += bool((adapter.action != np.ravel(action).astype(np.float32)).any())
                total, done = total + result.reward, result.done
                if result.success is not None:
                    success = bool(success) or bool(result.success)
        successes.append(success)
        returns.append(total)
    if clipped:
        yield Finding(
            "note",
            f"{clipped} of {asked} actions of its expert are not in the box; they are clipped, and "
            "recorded so",
        )
    n = len(successes)
    if all(s is None for s in successes):
        yield Finding("note", f"its expert's return is {np.mean(returns):.4g} over {n} episodes")
        return
    count = sum(map(bool, successes))
    level: Level = "note" if count > n / 2 else "warning"
    yield Finding(level, f"its expert succeeds in {count} of {n} episodes")
