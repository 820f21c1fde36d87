"""How what a store takes grows with steps and environments, and what that makes of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from alltrades.bench.synthetic import LENGTH

MEASURES = {  # what grows with a store, and how it is said
    "write_processor_s": ("writing", "s"),
    "disk_bytes": ("on disk", "MB"),
    "index_processor_s": ("open and index", "s"),
    "index_bytes": ("index", "MB"),
    "info_processor_s": ("data info", "s"),
    "memory_start_processor_s": ("start, rows in memory", "s"),
    "memory_bytes": ("peak, rows in memory", "MB"),
    "store_start_processor_s": ("start, rows in the store", "s"),
    "store_bytes": ("peak, rows in the store", "MB"),
    "train_processor_s": ("alltrades train, 1 step", "s"),
    "append_processor_s": ("append of one episode", "s"),
}
STEPS = {  # what does not, or only until its chunks are as many as a batch has windows
    "memory_step_processor_s": ("training step, rows in memory", "s"),
    "store_step_processor_s": ("training step, rows in the store", "s"),
}
BATCH = 256  # windows of a training step
PLANNED = 10**8, 1000  # steps and environments of the store that is planned
LARGE = 10**6  # steps of a store whose training steps count
PRICE = 0.05  # dollars an hour of a processor: an assumption

Slopes = Mapping[str, Mapping[str, float]]


def fitted(found: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Of y = base + step * steps + environment * environments, none below 0, the one with the least
    sum of squared relative errors over some stores.
    """
    from scipy.optimize import lsq_linear

    terms = np.array([[1.0, x["steps"], x["environments"]] for x in found])
    y = np.maximum([float(x[name]) for x in found], 1e-9)
    size = terms.max(0)  # numbers of one size
    # an active set, which also solves what few stores leave open
    ones, bounds = np.ones(len(y)), (0.0, np.inf)
    solution = lsq_linear(terms / size / y[:, None], ones, bounds, method="bvls").x
    return dict(zip(("base", "step", "environment"), (solution / size).tolist()))


def slope_lines(slopes: Slopes) -> Iterator[str]:
    """What each measure grows by."""
    yield "slopes, of processor seconds and bytes:"
    for name, (said, unit) in MEASURES.items():
        base, step, environment = slopes[name].values()
        yield (
            f"  {said}: {in_units(base, unit)} {unit}, {in_units(1e6 * step, unit)} more a million "
            f"steps, {in_units(1e3 * environment, unit)} more a thousand environments"
        )


def planned(slopes: Slopes, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same of a store of PLANNED size, by the slopes; beside them the processor seconds of all
    its episodes appended one by one, and of a pass over its windows, each drawn once on average, by
    the median step of the stores of LARGE size, or of all where none is.
    """
    steps, environments = PLANNED
    out = {
        name: s["base"] + s["step"] * steps + s["environment"] * environments
        for name, s in slopes.items()
    }
    out["appends_processor_s"] = steps / LENGTH * out["append_processor_s"]
    large = [x for x in found if x["steps"] >= LARGE] or found
    for name in STEPS:
        out[name.replace("step", "pass")] = steps / BATCH * median(x[name] for x in large)
    return out


def plan_lines(plan: Mapping[str, float]) -> Iterator[str]:
    """The plan in words; dollars at PRICE."""
    steps, environments = PLANNED
    yield f"{steps:,} steps of {environments:,} environments, by these slopes:"
    for name, (said, unit) in MEASURES.items():
        yield f"  {said}: {in_units(plan[name], unit)} {unit}"
    for name, said in (
        ("appends_processor_s", "appending every episode by itself"),
        ("memory_pass_processor_s", "a pass of training, rows in memory"),
        ("store_pass_processor_s", "a pass of training, rows in the store"),
    ):
        hours = plan[name] / 3600
        yield f"  {said}: {hours:,.1f} hours of a processor, {PRICE * hours:,.2f} dollars"


def in_units(value: float, unit: str) -> str:
    """Seconds, or bytes as MB."""
    return f"{value / 1e6:,.1f}" if unit == "MB" else f"{value:,.2f}"
