"""Runs over a grid of settings and training seeds: a recipe that `extends` another one and says
what varies.

    extends: quickstart
    study: sweep
    sweep: {demos.episodes: [2, 5, 10]}   # dotted settings; several: every value with every other
    seeds: [0, 1, 2]
    small: {seeds: [0], first: 2}         # beside the small form of what it extends
    at_once: 4                            # runs beside one another

Every combination and seed is an ordinary run in a folder of its own, resumed where it was. Runs
take over from one another what depends on nothing that differs between them (demonstrations,
specialists, rollouts), so that only the rest is computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alltrades.errors import UserError
from alltrades.pipeline.rundir import RunDir
from alltrades.studies.at_once import StudyRun, carry_out
from alltrades.studies.result import StudyResult
from alltrades.studies.sweep_settings import Settings, cell_name, cell_settings
from alltrades.studies.sweep_tables import Cell, summarise
from alltrades.system.files import write_text

if TYPE_CHECKING:
    from alltrades.envs.rollouts.evaluation import Evaluation
    from alltrades.settings.run import RunSettings


def run(settings: Settings, folder: Path, origins: dict[str, str]) -> StudyResult:
    """All runs of the grid, seed by seed, in folder/CELL/seed-N, and what they say together."""
    from alltrades.pipeline.resolution import resolve
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
        runs, first = list[StudyRun](), dict[int, int]()
        for i, (seed, values, own) in enumerate(jobs):
            name = cell_name(values)
            place = folder / name / f"seed-{seed}"
            after = first.setdefault(seed, i)
            runs.append(
                StudyRun(
                    f"{name}, seed {seed}",
                    place,
                    _run,
                    (own, place, origins),
                    after if after < i else None,
                )
            )
        results = carry_out(runs, settings.at_once, settings.compute)
        for (seed, values, _), run_of_it, found in zip(jobs, runs, results):
            cells[cell_name(values)].add(seed, found, run_of_it.folder)
        return summarise(settings, list(cells.values()))


def _run(
    settings: RunSettings, place: Path, origins: dict[str, str], relatives: list[Path]
) -> dict[str, Evaluation]:
    """One run; what was found of each row."""
    from alltrades.pipeline.runner import run

    return run(settings, place, origins, relatives).evaluations
