"""`alltrades bench store`: what stores of many episodes and environments take, and how it grows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alltrades.bench.store_slopes import (
    BATCH,
    MEASURES,
    STEPS,
    fitted,
    in_units,
    plan_lines,
    planned,
    slope_lines,
)
from alltrades.bench.synthetic import LENGTH, write_synthetic
from alltrades.errors import UserError
from alltrades.report.columns import columns

SWEEP = (
    *((10**4, 10), (10**5, 10), (10**6, 10), (10**7, 10)),
    *((10**6, 100), (10**6, 1000), (10**7, 1000)),
)
MOST = 10**8  # steps of a store that is made
TRAIN = "train labeled_only --small --labeled_only.steps 1 --demos.holdout 0"


def store(
    steps: int | None,
    environments: int | None,
    sweep: bool,
    updates: int,
    seed: int,
    folder: str | None,
    results: list[dict[str, Any]],
) -> Iterator[str]:
    """Yield lines for a synthetic store of so many steps and environments, each part measured in a
    fresh process; with `sweep` for stores of all sizes of SWEEP, and the slopes between them.
    Append the same as plain values.

    Args:
        steps: default 10^6. environments: default 10.
        updates: training steps that are timed.
        seed: of the numbers.
        folder: where stores are made, and deleted; default a temporary one.
    """
    steps = 10**6 if steps is None else steps
    environments = 10 if environments is None else environments
    if not (1 <= environments <= steps / LENGTH and steps <= MOST):
        raise UserError(
            f"--steps {steps}, --environments {environments}; expected an environment or more, "
            f"{LENGTH} steps or more of each, and {MOST:,} at most"
        )
    cases = SWEEP if sweep else ((steps, environments),)
    with tempfile.TemporaryDirectory(prefix="alltrades-bench-", dir=folder) as place:
        found = []
        for case in cases:
            path = Path(place) / "bench.zarr"
            yield f"{case[0]:,} steps of {case[1]:,} environments:"
            found.append(_measured(path, *case, updates, seed))
            yield from _lines(found[-1])
            for made in Path(place).iterdir():
                shutil.rmtree(made)
    results += found
    if sweep:
        yield from ("", *_table(found), "")
        slopes = {name: fitted(found, name) for name in MEASURES}
        plan = planned(slopes, found)
        results.append({"slopes": slopes, "plan": plan})
        yield from (*slope_lines(slopes), "", *plan_lines(plan))


def _measured(path: Path, steps: int, environments: int, updates: int, seed: int) -> dict[str, Any]:
    """Seconds and bytes of one store."""
    wall, processor = time.perf_counter(), time.process_time()
    made = write_synthetic(path, steps, environments, seed)
    out: dict[str, Any] = {
        "steps": made.n_steps,
        "environments": environments,
        "episodes": len(made),
        "write_s": time.perf_counter() - wall,
        "write_processor_s": time.process_time() - processor,
        "disk_bytes": sum(512 * f.lstat().st_blocks for f in path.rglob("*")),
        "commit_bytes": (path / "commit.json").stat().st_size,
    }
    out |= _process(path, "index", updates)
    out |= _command("info", ["data", "info", str(path)])
    policy = str(path.parent / "policy")
    out |= _command("train", [*TRAIN.split(), "--demos", str(path), "--out", policy])
    for part in ("memory", "store"):
        taken = _process(path, part, updates)
        kept = ("start_s", "start_processor_s", "batch_processor_s", "step_s", "step_processor_s")
        out |= {f"{part}_{name}": taken[name] for name in (*kept, "bytes")}
        out[f"{part}_windows_per_s"] = BATCH / taken["step_s"]
    return out | _process(path, "append", updates)


def _command(name: str, words: Sequence[str]) -> dict[str, float]:
    """Seconds of a whole command."""
    wall, processor = time.perf_counter(), _of_children()
    _run([sys.executable, "-m", "alltrades", *words])
    spent = time.perf_counter() - wall, _of_children() - processor
    return {f"{name}_s": spent[0], f"{name}_processor_s": spent[1]}


def _process(path: Path, part: str, updates: int) -> dict[str, Any]:
    module = "alltrades.bench.store_process"
    said = _run([sys.executable, "-m", module, str(path), part, str(updates)])
    taken: dict[str, Any] = json.loads(said.splitlines()[-1])
    return taken


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"{' '.join(words[2:4])} ended with exit code {done.returncode}: "
            f"{done.stderr.strip()[-300:]}; expected its measurements; try it by hand"
        )
    return done.stdout


def _of_children() -> float:
    """Processor seconds of all processes that ended."""
    import resource  # of POSIX alone

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---- what is said --------------------------------------------------------------------------------
def _lines(x: dict[str, Any]) -> Iterator[str]:
    """Seconds, those of the processor in parentheses."""

    def spent(name: str) -> str:
        return f"{x[f'{name}_s']:.2f} s ({x[f'{name}_processor_s']:.2f})"

    million = x["steps"] / 1e6
    yield (
        f"  written in {spent('write')}, {x['write_processor_s'] / million:.1f} processor seconds "
        f"a million steps; {_mb(x['disk_bytes'])} on disk, commit {_mb(x['commit_bytes'])}"
    )
    yield (
        f"  open and index {spent('index')}, {_mb(x['index_bytes'])}, "
        f"{x['index_bytes'] / x['episodes']:.0f} bytes an episode; data info {spent('info')}; "
        f"append of one episode {spent('append')}"
    )
    for part, where in (("memory", "rows in memory"), ("store", "rows in the store")):
        yield (
            f"  training, {where}: starts in {spent(f'{part}_start')}, peak "
            f"{_mb(x[f'{part}_bytes'])}; a step {spent(f'{part}_step')}, "
            f"{x[f'{part}_windows_per_s']:,.0f} windows/s"
        )
    yield f"  alltrades {TRAIN}: {spent('train')}"


def _table(found: Sequence[dict[str, Any]]) -> list[str]:
    every = MEASURES | STEPS
    rows = [["steps", "environments", *(f"{said}, {unit}" for said, unit in every.values())]]
    for x in found:
        values = [in_units(x[name], unit) for name, (_, unit) in every.items()]
        rows.append([f"{x['steps']:,}", f"{x['environments']:,}", *values])
    return columns([list(row) for row in zip(*rows)], range(1, len(rows)))


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
