"""What a study found, as files: results.json, one CSV per table, and one self-contained HTML page
with the plots.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.report.figures import Figure
from alltrades.system.files import write_json, write_text


@dataclass(frozen=True)
class Table:
    """Named rows of equal columns; cells are text, numbers or None."""

    name: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    caption: str = ""
    shown: bool = True  # in the terminal and on the page; the CSV is written anyway

    def csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([[_cell(x, 6) for x in row] for row in self.rows])
        return out.getvalue()

    def text(self) -> list[list[str]]:
        """Rows of cells for readers, three significant digits."""
        return [[_cell(x, 3) for x in row] for row in self.rows]


@dataclass
class StudyResult:
    """What a study found.

    Attributes:
        title, lead: heading and what was done, for a reader of the page.
        findings: one sentence each, with numbers.
        tables, figures: in the page's order; figures with a title each.
        facts: further plain data for results.json.
    """

    title: str
    lead: str
    findings: list[str]
    tables: list[Table]
    figures: list[tuple[str, Figure]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Content of results.json."""
        return {
            "title": self.title,
            "lead": self.lead,
            "findings": self.findings,
            **self.facts,
            "tables": {t.name: {"columns": t.columns, "rows": t.rows} for t in self.tables},
        }

    def write(self, folder: Path, stem: str = "results") -> list[Path]:
        """Write STEM.json, NAME.csv for every table, and STEM.html where the extra `report` is
        installed.
        """
        from alltrades.studies.page import write_study_page

        paths = [folder / f"{stem}.json"]
        write_json(paths[0], self.to_json())
        for table in self.tables:
            paths.append(folder / f"{table.name}.csv")
            write_text(paths[-1], table.csv())
        try:
            paths.append(write_study_page(self, folder / f"{stem}.html"))
        except UserError as error:
            self.findings = [*self.findings, f"left out: plots ({error})"]
        return paths

    def show(self) -> None:
        """Print tables and findings in aligned plain columns."""
        for table in self.tables:
            if table.shown:
                print(table.caption or table.name)
                print("\n".join(columns([table.columns, *table.text()])) + "\n")
        print("\n".join(self.findings))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with every column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
