"""The stage of weights: rollouts weighed against demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alltrades.data.steps import Steps
from alltrades.data.weights.estimate import WeightResult, estimate_weights
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.logs import digests_of
from alltrades.pipeline.rollouts import digest_of_first, rollouts_and_logs
from alltrades.pipeline.weights_folder import load_weights, save_weights, weight_files
from alltrades.settings.parts import DistillSettings
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
        key["logs"] = digests_of(settings)
    del key["policy"]  # states only

    def body(report: Report) -> None:
        steps = demos.steps()
        rollouts = rollouts_and_logs(context, stores, settings, demos.stores)
        seed = context.seed(f"distill/{row}")
        results = estimate(steps, rollouts, settings, seed, report)
        save_weights(out, results, steps, rollouts, settings.weighing)
        if summary is not None:
            write_json(summary, {name: r.summary() for name, r in results.items()})

    outputs = [*weight_files(out, context.ids), *([summary] if summary is not None else [])]
    context.stage(f"weigh/{row}", key, outputs, body, len(context.specs), "env")
    return load_weights(out, context.ids)


def estimate(
    demos: Steps, rollouts: Steps, settings: DistillSettings, seed: int, report: Report
) -> dict[str, WeightResult]:
    """Importance weights of every environment's rollouts against its demonstrations."""
    results = {}
    names = [str(x) for x in dict.fromkeys(demos.environment)]
    for k, name in enumerate(names):
        results[name] = estimate_weights(
            demos.select(demos.environment == name),
            rollouts.select(rollouts.environment == name),
            settings.weighing,
            stream(seed, "weights", name),
        )
        report.progress(k + 1, len(names))
    return results
