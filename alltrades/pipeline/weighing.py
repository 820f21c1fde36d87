"""The stage of weights: rollouts weighed against demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import WeightResult, estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.logs import digests_of
from alltrades.pipeline.rollouts import digest_of_first, rollouts_and_logs
from alltrades.pipeline.weights_folder import load_weights, save_weights, weight_files
from alltrades.settings.distill import DistillSettings
from alltrades.system.compute.executor import Executor, Here
from alltrades.system.files import write_json
from alltrades.system.reporting import Report
from alltrades.system.streams import stream


def weigh(
    demos: Demonstrations,
    stores: Sequence[Path],
    row: str,
    settings: DistillSettings,
    out: Path,
    summary: Path | None = None,
) -> dict[str, WeightResult]:
    """Importance weights of every environment for the generalist `row`, into a folder and, in
    short, into a JSON file.

    Args:
        stores: rollouts of its teachers, in their order.
    """
    context = demos.context
    key = demos.key() | {
        "rollouts": [digest_of_first(context, path, settings.rollouts) for path in stores],
        "n": settings.rollouts,
        "weights": settings.weighing.model_dump(mode="json"),
    }
    if settings.logs:
        key["logs"] = digests_of(settings, context.stores)
    del key["policy"]  # states only

    def body(report: Report) -> None:
        steps = demos.steps()
        rollouts = rollouts_and_logs(context, stores, settings, demos.stores)
        seed = context.seed(f"distill/{row}")
        results = estimate(steps, rollouts, settings, seed, report, context.executor)
        save_weights(out, results, steps, rollouts, settings.weighing)
        if summary is not None:
            write_json(summary, {name: r.summary() for name, r in results.items()})

    outputs = [*weight_files(out, context.ids), *([summary] if summary is not None else [])]
    context.stage(f"weigh/{row}", key, outputs, body, len(context.specs), "env")
    return load_weights(out, context.ids)


def estimate(
    demos: Steps,
    rollouts: Steps,
    settings: DistillSettings,
    seed: int,
    report: Report,
    executor: Executor,
) -> dict[str, WeightResult]:
    """Importance weights of every environment's rollouts against its demonstrations."""
    results = {}
    names = [str(x) for x in dict.fromkeys(demos.environment)]
    items = ((name, _states_of(demos, name), _states_of(rollouts, name)) for name in names)
    shared = settings.weighing, seed, _blas_threads()
    for name, found in zip(names, executor.map(_weigh, items, shared)):
        results[name] = found
        report.progress(len(results), len(names))
    return results


def _states_of(steps: Steps, name: str) -> Steps:
    """An environment's steps, without the fields that no estimator reads."""
    mine = steps.choose(steps.numbers(name))
    return replace(mine, observation={state: mine.observation[state] for state in mine.states})


def _weigh(
    here: Here, shared: tuple[WeightSettings, int, int], item: tuple[str, Steps, Steps]
) -> WeightResult:
    (settings, seed, threads), (name, demos, rollouts) = shared, item
    with ExitStack() as limits:
        if threads != _blas_threads():  # elsewhere: bits may depend on it
            limits.enter_context(threadpool_limits(threads, "blas"))
        return estimate_weights(demos, rollouts, settings, stream(seed, "weights", name))


def _blas_threads() -> int:
    """Threads of linear algebra in this process."""
    found = [own["num_threads"] for own in threadpool_info() if own["user_api"] == "blas"]
    return max(found, default=1)
