"""The policies of a run by name: rows of its evaluation, and teachers whose rollouts are learned
from.
"""

from __future__ import annotations

from dataclasses import dataclass

from alltrades.errors import nearest

PRIVILEGED = "labeled_only_privileged"  # labeled-only that sees what specialists do
TEACHERS = ("scratch", "joint_init", "labeled_only", "labeled_only_holdout", PRIVILEGED)
SPECIALISTS = {"scratch": "specialists", "joint_init": "specialists_joint"}  # kind -> its row
GENERALIST = "generalist"  # the one that `distill` describes
END_TO_END = "labeled_only_end_to_end"  # labeled-only, its encoder of cameras from scratch
ESTIMATED = "estimated"  # specialists that act on the state as the eyes tell it
OF_EYES = (END_TO_END, ESTIMATED)  # rows that there are where encoders are taught to tell the state


@dataclass(frozen=True)
class Row:
    """A policy of a run, or its specialists: one policy per environment.

    Attributes:
        kind: one of `TEACHERS` or `OF_EYES`, or the name of a generalist.
        number: of those that teach: 1, or 2, 3, ... for the same from another seed.
        round: of a generalist: its form after so many rounds; None for the one that is kept.
    """

    kind: str
    number: int = 1
    round: int | None = None

    @classmethod
    def of_teacher(cls, name: str) -> Row:
        """The row that `distill.teachers` calls by this name, such as "scratch_2"; ValueError for
        others.
        """
        kind, _, number = name.rpartition("_")
        row = cls(kind, int(number)) if number.isdigit() and int(number) > 1 else cls(name)
        if row.kind not in TEACHERS or row.teacher != name:
            raise ValueError(
                f"teacher '{name}'; expected one of {', '.join(TEACHERS)}, or one of these with "
                f"_2, _3, ... behind it{nearest(name, list(TEACHERS))}"
            )
        return row

    @property
    def teacher(self) -> str:
        """Its name among `distill.teachers`, such as "scratch_2"."""
        return f"{self.kind}{self._number}"

    def __str__(self) -> str:
        """Its name in the evaluation, such as "specialists" or "generalist_round1"."""
        name = SPECIALISTS.get(self.kind, self.kind)
        return f"{name}{self._number}" + ("" if self.round is None else f"_round{self.round}")

    @property
    def _number(self) -> str:
        return "" if self.number == 1 else f"_{self.number}"

    @property
    def specialists(self) -> bool:
        """Whether it is one policy per environment."""
        return self.kind in SPECIALISTS

    @property
    def labeled_only(self) -> bool:
        """Whether it has learned from demonstrations of all environments alone."""
        return self.kind in ("labeled_only", "labeled_only_holdout", PRIVILEGED, END_TO_END)

    @property
    def held_out(self) -> bool:
        """Whether held-out demonstrations choose when its training ends."""
        return self.kind == "labeled_only_holdout"


OWN_ROWS = {str(Row(kind)): Row(kind) for kind in (*TEACHERS, *OF_EYES, GENERALIST)}
