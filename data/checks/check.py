"""What every kind of check is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from alltrades.data.checks.findings import Finding, Severity
from alltrades.data.checks.scale import Scale
from alltrades.data.checks.subject import Block, Subject


class Check(ABC):
    """One kind of check of one environment: it sees every block once, in order, and then says what
    it found. Memory O(episodes).

    Attributes:
        kind: of its findings.
        scales: by field. sample: the blocks that they are of.
    """

    kind: ClassVar[str]

    def __init__(
        self, subject: Subject, scales: Mapping[str, Scale], sample: Sequence[Block]
    ) -> None:
        self.subject, self.scales, self.sample = subject, scales, sample

    def see(self, block: Block) -> None:  # noqa: B027 - some look at the sample alone
        """Look at a block."""

    @abstractmethod
    def found(self) -> Iterator[Finding]:
        """After the last block."""

    def finding(
        self,
        severity: Severity,
        what: str,
        remedy: str,
        episode: int | None = None,
        step: int | None = None,
        field: str | None = None,
        dimension: int | None = None,
    ) -> Finding:
        """A finding of this kind; `episode` counts the subject's, `what` may name the number as
        {it}.
        """
        if field is not None and dimension is not None:
            what = what.replace("{it}", self.subject.named(field, dimension))
        return Finding(
            severity,
            self.kind,
            self.subject.environment,
            what,
            remedy,
            None if episode is None else int(self.subject.episodes[episode]),
            step,
            field,
            dimension,
            str(self.subject.store),
        )

    def motion(self, block: Block, first: np.ndarray, then: np.ndarray) -> np.ndarray:
        """(n,) largest difference between rows (n,) and others, as a share of their ranges, of
        numbers that are neither noise nor clocks; zero where none varies.
        """
        out = np.zeros(len(first))
        for name, x in block.values.items():
            scale = self.scales[name]
            moves = scale.smooth | (scale.switch & (scale.width > 0))
            if moves.any():
                part = abs(x[then] - x[first])[:, moves] / scale.width[moves]
                out = np.maximum(out, part.max(1))
        return out
