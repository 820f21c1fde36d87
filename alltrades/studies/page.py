"""The page of a study: what was found, its plots, its tables; one file, as the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alltrades.report.page import render

if TYPE_CHECKING:
    from alltrades.studies.result import StudyResult


def write_study_page(result: StudyResult, path: Path) -> Path:
    """Write the page and return its path; raises UserError where the extra `report` is not
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
