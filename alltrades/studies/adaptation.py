"""Leave-one-out: a generalist of all environments but one takes that one from few demonstrations.

    extends: metaworld_mt10
    study: adapt
    leave_out: [metaworld/door-open-v3]   # each in turn
    demonstrations: [1, 2]                # of the one that was left out
    seeds: [0, 1, 2]

Every run of the others is an ordinary run in a folder of its own, every adaptation another one
beside it; all of it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from alltrades.errors import UserError, nearest
from alltrades.pipeline.rundir import RunDir
from alltrades.settings.rows import GENERALIST, Row
from alltrades.settings.run import RunSettings
from alltrades.settings.schema import plain
from alltrades.studies.adaptation_tables import Adapted, summarise
from alltrades.studies.at_once import AT_ONCE, StudyRun, carry_out
from alltrades.studies.result import StudyResult
from alltrades.studies.varied import Once, Seeds
from alltrades.system.files import slug, write_text

OWN = ("study", "title", "seeds", "leave_out", "demonstrations", "replay_from", "at_once")


class Settings(RunSettings):
    """A run's settings, what is left out of it, and training seeds."""

    study: Literal["adapt"] = "adapt"
    title: str = Field("", description="what is asked, for the page; default the name")
    seeds: Seeds = (0, 1, 2)
    leave_out: Annotated[tuple[str, ...], Once] = Field(
        (), description="environments that are left out, one at a time, and adapted to"
    )
    demonstrations: Annotated[tuple[int, ...], Once] = Field(
        (1, 2), min_length=1, description="of the environment that was left out"
    )
    at_once: int = Field(1, ge=1, description=AT_ONCE)
    replay_from: Literal["rollouts", "demonstrations"] = Field(
        "rollouts",
        description="what reminds the generalist: its own rollouts, or the demonstrations of the "
        "other environments",
    )


def run(settings: Settings, folder: Path, origins: dict[str, str]) -> StudyResult:
    """All runs in folder/without-ENVIRONMENT/seed-N, and what they say together."""
    from alltrades.pipeline.resolution import resolve
    from alltrades.settings.load import dump_yaml

    specs = {spec.id: spec for spec in resolve(settings)[0]}
    for left in settings.leave_out:
        if left not in specs or len(specs) < 2:
            raise UserError(
                f"leave_out names '{left}'; expected some of several environments of the recipe, "
                f"{', '.join(specs)}{nearest(left, list(specs))}"
            )
    if not settings.leave_out:
        raise UserError(
            "leave_out = []; expected at least one environment of the recipe that is left out; "
            "name one"
        )
    silent = [spec.id for spec in specs.values() if not spec.simulated or spec.success is None]
    if silent:
        raise UserError(
            f"no simulator that says success of {silent[0]}: a study of adaptation compares "
            "success; expected environments that say it; leave it out of environments"
        )
    runs = []
    for seed in settings.seeds:
        for left in settings.leave_out:
            others = tuple(name for name in specs if name != left)
            place = folder / f"without-{slug(left)}" / f"seed-{seed}"
            args = settings, left, others, seed, place, origins
            runs.append(StudyRun(f"without {left}, seed {seed}", place, _adapted, args))
    with RunDir(folder, seed=settings.seeds[0]):
        write_text(folder / "settings.yaml", dump_yaml(settings, origins))
        each = carry_out(runs, settings.at_once, settings.compute)
    found = [adapted for of_run in each for adapted in of_run]
    return summarise(settings.title or settings.name, found)


def _adapted(
    settings: Settings,
    left: str,
    others: tuple[str, ...],
    seed: int,
    place: Path,
    origins: dict[str, str],
    _: Sequence[Path],
) -> list[Adapted]:
    """One generalist, and what becomes of it with each number of demonstrations."""
    from alltrades.pipeline.adapt_settings import settings_for
    from alltrades.pipeline.adapting import AFTER, BEFORE, SCRATCH, adapt
    from alltrades.pipeline.context import opened
    from alltrades.pipeline.demonstrations import record
    from alltrades.pipeline.folder import RunFolder
    from alltrades.pipeline.runner import run as run_pipeline

    before = _of(settings, seed, others)
    run_pipeline(before, place / "run", origins)
    files, store = RunFolder(place / "run"), place / "demos.zarr"
    generalist = files.policy(Row(GENERALIST))
    most = max(settings.demonstrations)
    demos = {"path": None, "episodes": most}
    with opened(_of(settings, seed, (left,), demos)) as context:
        record(context, store)
    replay = [files.demos] if settings.replay_from == "demonstrations" else []
    out = []
    for count in settings.demonstrations:
        given = _of(settings, seed, (left,), {"path": str(store), "episodes": count})
        own = settings_for(given, (left,), generalist)
        result = adapt(own, generalist, place / f"demos-{count}", replay, origins)
        rows = {
            BEFORE: result.old[BEFORE],
            AFTER: result.old[AFTER],
            f"{AFTER} (new)": replace(result.new[AFTER], name=AFTER),
        }
        if SCRATCH in result.new:
            rows[SCRATCH] = result.new[SCRATCH]
        out.append(Adapted(left, count, seed, rows))
    return out


def _of(
    settings: Settings,
    seed: int,
    environments: tuple[str, ...],
    demos: dict[str, Any] | None = None,
) -> RunSettings:
    """A run's settings for some environments, with other demonstrations where these are given."""
    data = {k: v for k, v in plain(settings).items() if k not in OWN}
    data |= {"seed": seed, "environments": environments, "optional_environments": ()}
    data["demos"] = data["demos"] | (demos or {})
    return RunSettings.model_validate(data)
