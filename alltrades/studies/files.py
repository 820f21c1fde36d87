"""The files of a study: its numbers, one CSV per table, and one page, as the report of a run."""

from __future__ import annotations

from pathlib import Path

from alltrades.errors import MissingExtra
from alltrades.report.page import render
from alltrades.studies.result import StudyResult
from alltrades.system.files import write_json, write_text


def write_study(result: StudyResult, folder: Path, stem: str = "results") -> list[Path]:
    """Write STEM.json, NAME.csv for every table, and STEM.html where the extra `report` is
    installed; returns their paths. Without it the findings say so.
    """
    paths = [folder / f"{stem}.json"]
    write_json(paths[0], result.to_json())
    for table in result.tables:
        paths.append(folder / f"{table.name}.csv")
        write_text(paths[-1], table.csv())
    try:
        paths.append(_write_page(result, folder / f"{stem}.html"))
    except MissingExtra as error:
        result.findings = [*result.findings, f"left out: plots ({error})"]
    return paths


def _write_page(result: StudyResult, path: Path) -> Path:
    """Write the page and return its path; raises MissingExtra where the extra `report` is not
    installed.
    """
    from alltrades import __version__

    named = [(title, f"figure-{i}", figure) for i, (title, figure) in enumerate(result.figures)]
    return render(
        "study.html",
        {
            "title": result.title,
            "lead": result.lead,
            "findings": result.findings,
            "version": __version__,
            "plots": [
                {"title": title, "id": name, "label": figure.label, "height": figure.height}
                for title, name, figure in named
            ],
            "tables": [t for t in result.tables if t.shown],
            "figures": {name: figure for _, name, figure in named},
        },
        path,
    )
