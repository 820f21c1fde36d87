"""What a study found: tables, figures, findings."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

from alltrades.report.columns import columns
from alltrades.report.figures import Figure


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

    def show(self) -> None:
        """Print tables and findings in aligned plain columns."""
        for table in self.tables:
            if table.shown:
                print(table.caption or table.name)
                print("\n".join(columns([table.columns, *table.text()])) + "\n")
        print("\n".join(self.findings))


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
