"""Runs over a grid of settings and training seeds: a recipe that `extends` another one and says
what varies.

    extends: quickstart
    study: sweep
    sweep: {demos.episodes: [2, 5, 10]}   # dotted settings; several: every value with every other
    seeds: [0, 1, 2]
    small: {seeds: [0], first: 2}         # beside the small form of what it extends

Every combination and seed is an ordinary run in a folder of its own, resumed where it was. Runs
take over from one another what depends on nothing that differs between them (demonstrations,
specialists, rollouts), so that only the rest is computed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alltrades.errors import UserError
from alltrades.pipeline.rundir import RunDir
from alltrades.studies.result import StudyResult
from alltrades.studies.sweep_settings import Settings, cell_name, cell_settings
from alltrades.studies.sweep_tables import Cell, summarise
from alltrades.system.files import write_text


def run(settings: Settings, folder: Path, origins: dict[str, str]) -> StudyResult:
    """All runs of the grid, seed by seed, in folder/CELL/seed-N, and what they say together."""
    from alltrades.pipeline.context import resolve
    from alltrades.pipeline.runner import run as run_pipeline
    from alltrades.settings.load import dump_yaml

    empty = [key for key, values in settings.sweep.items() if not values]
    if empty or not settings.sweep:
        found = f"sweep.{empty[0]} = []" if empty else "sweep = {}"
        raise UserError(
            f"{found}; expected at least one setting with a list of values, such as "
            "demos.episodes: [2, 5, 10]"
        )
    jobs = [
        (seed, values, cell_settings(settings, values, seed, origins))
        for seed in settings.seeds
        for values in settings.grid()
    ]
    for _, _, own in jobs:
        specs, _ = resolve(own)
        if not any(spec.simulated for spec in specs):
            raise UserError(
                f"no simulator of {', '.join(s.id for s in specs)}: a sweep compares success; "
                "expected environments that can be stepped; use `alltrades run` on recordings"
            )
    cells = {cell_name(values): Cell(values) for values in settings.grid()}
    with RunDir(folder, seed=settings.seeds[0]):
        write_text(folder / "settings.yaml", dump_yaml(settings, origins))
        done: list[Path] = []
        for i, (seed, values, own) in enumerate(jobs, 1):
            name = cell_name(values)
            print(f"run {i} of {len(jobs)}: {name}, seed {seed}", file=sys.stderr)
            place = folder / name / f"seed-{seed}"
            result = run_pipeline(own, place, origins, relatives=done)
            cells[name].add(seed, result.evaluations, place)
            done.append(place)
        return summarise(settings, list(cells.values()))
