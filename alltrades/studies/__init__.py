"""Studies: recipes with `study: NAME` at their top. `alltrades run` gives each its own settings;
each leaves tables and a plot.

A study is a module with `Settings`, a frozen model whose field `study` is its name, and
`run(settings, folder, origins)`, which works in `folder`, continues what it finds there, and
returns a `StudyResult`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from alltrades.errors import UserError, nearest
from alltrades.settings.recipes import read_recipe

STUDIES = {
    "adapt": "alltrades.studies.adaptation",
    "estimators": "alltrades.studies.estimators",
    "pareto": "alltrades.studies.pareto",
    "random_features": "alltrades.studies.random_features",
    "sweep": "alltrades.studies.sweep",
}


def study_of(recipe: str | None) -> ModuleType | None:
    """The study that a recipe names, or None for the recipe of a run.

    Raises UserError for a recipe that cannot be read or names no known study.
    """
    if recipe is None:
        return None
    found = [
        layer.values["study"] for layer in read_recipe(recipe).layers if "study" in layer.values
    ]
    if not found:
        return None
    name = str(found[-1])
    if name not in STUDIES:
        raise UserError(
            f"recipe '{recipe}' names the study '{name}'; expected one of "
            f"{', '.join(sorted(STUDIES))}{nearest(name, list(STUDIES))}"
        )
    return import_module(STUDIES[name])
