"""Runs of one recipe with several training seeds, the Pareto fronts of each, and what they say
together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from alltrades.errors import UserError
from alltrades.pipeline.rundir import RunDir
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from alltrades.studies.pareto_tables import summarise
from alltrades.studies.pareto_training import Measured, ParetoSettings, measure_fronts
from alltrades.studies.result import StudyResult
from alltrades.studies.varied import Seeds
from alltrades.system.files import write_text
from alltrades.system.trust import check_environments, check_named


class Settings(RunSettings):
    """A run's settings, its training seeds and the fronts."""

    study: Literal["pareto"] = "pareto"
    seeds: Seeds = (0, 1, 2)
    pareto: ParetoSettings = ParetoSettings()


def run(settings: Settings, folder: Path, origins: dict[str, str]) -> StudyResult:
    """Runs in folder/seed-N, then their fronts; whatever is finished there is kept."""
    from alltrades.pipeline.runner import run as run_pipeline
    from alltrades.settings.load import dump_yaml

    plain = {k: getattr(settings, k) for k in RunSettings.model_fields}
    measured: list[Measured] = []
    environments: list[str] = []
    with RunDir(folder, seed=settings.seeds[0]):
        write_text(folder / "settings.yaml", dump_yaml(settings, origins))
        for seed in settings.seeds:
            own = RunSettings.model_validate(plain | {"seed": seed})
            place = folder / f"seed-{seed}"
            run_pipeline(own, place, origins)
            environments, found = measure_fronts(own, place, settings.pareto)
            measured.append(found)
    return summarise(
        environments,
        settings.pareto.vectors(environments),
        measured,
        settings.seeds,
        {"pareto": settings.pareto.model_dump(mode="json")},
    )


def of_run(folder: Path, pareto: ParetoSettings, episodes: int | None) -> StudyResult:
    """The fronts of one finished run folder; `episodes` in place of the run's evaluation
    episodes. Raises UserError where the run names a plugin that the user has never named.
    """
    path = folder / "settings.yaml"
    if not path.exists():
        raise UserError(f"{folder} holds no run; expected a folder that `alltrades run` wrote")
    settings, _ = load_settings(RunSettings, defaults_file=path)
    check_named(list(settings.plugins), folder)
    check_environments(list(settings.environments), folder)
    if episodes is not None:
        settings = settings.model_copy(
            update={"evaluation": settings.evaluation.model_copy(update={"episodes": episodes})}
        )
    environments, found = measure_fronts(settings, folder, pareto)
    return summarise(
        environments,
        pareto.vectors(environments),
        [found],
        [settings.seed],
        {"pareto": pareto.model_dump(mode="json")},
    )
