"""What a run found: one self-contained HTML page, and the table for a terminal."""

from alltrades.report.page import write_report

__all__ = ["write_report"]
