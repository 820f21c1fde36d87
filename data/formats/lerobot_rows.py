"""Rows of a LeRobot data set: parquet files, and which rows are which episode's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.formats.lerobot_meta import OF_EPISODE, OF_FILE, Meta
from alltrades.data.formats.parquet import column_of, kind_of
from alltrades.data.formats.recording import Refusal, bounded, guarded

BLOCK_BYTES = 2**23  # of row groups that are read at once
NUMBER = 8  # bytes of the widest


@dataclass(frozen=True)
class _Span:
    """Rows start to stop of a file."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Block:
    """Rows start to stop of some columns of a file, in memory."""

    file: int
    names: tuple[str, ...]
    start: int
    stop: int
    rows: dict[str, Any]


class RowFiles:
    """The rows, episode by episode.

    Attributes:
        schema: column -> Arrow type, of the first file.
        episodes: (E,) numbers of the episodes, ascending. total: rows of all.
        fresh: columns that were read last, for whoever looks at all of them; None once it has.
    """

    def __init__(self, path: Path, meta: Meta, warn: Callable[[str], None]) -> None:
        self.path, self._meta, self._warn = path, meta, warn
        self.files = sorted((path / "data").glob("**/*.parquet"))
        if not self.files:
            raise Refusal(f"{path}/data: no parquet files; expected rows; restore them")
        self._open: tuple[int, Any] | None = None
        self._rows: list[int] = []
        self.schema: dict[str, Any] = {}
        spans = self._spans()
        if not spans:
            raise Refusal(f"{path}/data: no rows; expected at least one episode; restore them")
        self.episodes = sorted(spans)
        self._of = [spans[number] for number in self.episodes]
        self.total = sum(s.stop - s.start for s in self._of)
        self._cached: _Block | None = None
        self.fresh: dict[str, Any] | None = None

    # ---- files -----------------------------------------------------------------------------------
    def _file(self, k: int) -> Any:
        """File k, opened; the one before is closed."""
        import pyarrow.parquet as parquet

        if self._open is None or self._open[0] != k:
            self.close()
            opened = guarded(self.files[k], lambda: parquet.ParquetFile(self.files[k]))
            self._open = (k, opened)
        return self._open[1]

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
        self._open = None

    def _spans(self) -> dict[int, _Span]:
        """Episode -> its rows."""
        out: dict[int, _Span] = {}
        for k, path in enumerate(self.files):
            opened = self._file(k)
            fields = {f.name: f.type for f in opened.schema_arrow}
            if not self.schema:
                self.schema = fields
            missing = [name for name in self.schema if name not in fields]
            if missing:
                raise Refusal(
                    f"{path}: no column '{missing[0]}'; expected it as in {self.files[0].name}; "
                    "restore the file"
                )
            rows = opened.metadata.num_rows
            own = OF_EPISODE.search(path.name)
            if own:
                number = int(own[1])
                if "episode_index" not in fields:
                    self._warn("data/ has no column 'episode_index'; files are named by episode")
                found = {number: _Span(k, 0, rows)} if rows else {}
            elif "episode_index" in fields:
                found = self._counted(k, opened)
            else:
                found = self._told(k, path, rows)
            for number, span in found.items():
                if number in out:
                    raise Refusal(
                        f"{path}: rows of episode {number}, which "
                        f"{self.files[out[number].file].name} has too; expected an "
                        "episode in one file"
                    )
                out[number] = span
        return out

    def _counted(self, k: int, opened: Any) -> dict[int, _Span]:
        path = self.files[k]
        bounded(path, NUMBER * opened.metadata.num_rows)
        table = guarded(path, lambda: opened.read(columns=["episode_index"]))
        number = column_of(f"{path}: column 'episode_index'", table.column(0)).reshape(-1)
        if number.dtype.kind not in "iu":
            raise Refusal(f"{path}: column 'episode_index' is {number.dtype}; expected integers")
        edges = np.flatnonzero(np.diff(number)) + 1
        starts = np.concatenate([[0], edges])[: len(number)]
        stops = np.append(edges, len(number))[: len(starts)]
        out: dict[int, _Span] = {}
        for start, stop in zip(starts.tolist(), stops.tolist()):
            e = int(number[start])
            if e in out:
                raise Refusal(
                    f"{path}: rows of episode {e} stand in two places; expected them "
                    "one after another"
                )
            out[e] = _Span(k, start, stop)
        return out

    def _told(self, k: int, path: Path, rows: int) -> dict[int, _Span]:
        """Without the column, by meta/episodes, where its lengths fill the file."""
        place = OF_FILE.search(path.as_posix())
        code = tuple(map(int, place.groups())) if place else (0, 0)
        mine = sorted(
            number
            for number, facts in self._meta.facts.items()
            if (facts.get("data/chunk_index", 0), facts.get("data/file_index", 0)) == code
        )
        lengths = [self._meta.lengths.get(number, 0) for number in mine]
        if sum(lengths) != rows or not all(lengths):
            raise Refusal(
                f"{path}: no column 'episode_index', and the lengths in meta/episodes add up to "
                f"{sum(lengths)}; expected {rows} rows; restore one of them"
            )
        self._warn("data/ has no column 'episode_index'; episodes are cut by meta/episodes")
        ends = np.cumsum(lengths).tolist()
        return {e: _Span(k, end - n, end) for e, end, n in zip(mine, ends, lengths)}

    # ---- reading ---------------------------------------------------------------------------------
    def file(self, i: int) -> Path:
        """Of episode i in order."""
        return self.files[self._of[i].file]

    def steps(self, i: int) -> int:
        """Its rows."""
        return self._of[i].stop - self._of[i].start

    def columns(self) -> dict[str, tuple[str, tuple[int, ...], str]]:
        """Kind, shape of a step and dtype of each column, by its type and its first rows."""
        out: dict[str, tuple[str, tuple[int, ...], str]] = {}
        kinds = {name: kind_of(type_) for name, type_ in self.schema.items()}
        rows = self.read(0, [name for name, (kind, _) in kinds.items() if kind == "numbers"])
        for name, (kind, dtype) in kinds.items():
            shape: tuple[int, ...] = ()
            if name in rows:
                shape, dtype = tuple(rows[name].shape[1:]), rows[name].dtype.name
            out[name] = kind, shape, dtype
        return out

    def read(self, i: int, names: Sequence[str]) -> dict[str, Any]:
        """Columns of episode i: (T, ...) arrays, or lists of packed pictures. The row groups that
        hold it are read, with those behind them up to BLOCK_BYTES, and kept.
        """
        span, known = self._of[i], self._cached
        inside = known is not None and known.file == span.file and set(names) <= set(known.names)
        if known is None or not (inside and known.start <= span.start and span.stop <= known.stop):
            known = self._cached = self._block(span, tuple(names))
            self.fresh = known.rows
        start, stop = span.start - known.start, span.stop - known.start
        return {name: known.rows[name][start:stop] for name in names}

    def _block(self, span: _Span, names: tuple[str, ...]) -> _Block:
        opened, path = self._file(span.file), self.files[span.file]
        groups: list[int] = []
        at = first = last = size = 0
        for g in range(opened.num_row_groups):
            facts = opened.metadata.row_group(g)
            unpacked = _unpacked(facts, names)
            at, begin = at + facts.num_rows, at
            needed = begin < span.stop and at > span.start
            if needed or (groups and size + unpacked <= BLOCK_BYTES):
                first = first if groups else begin
                last, size = at, size + unpacked
                groups.append(g)
            elif groups:
                break
        bounded(path, size)
        table = guarded(path, lambda: opened.read_row_groups(groups, columns=list(names)))
        rows = {name: column_of(f"{path}: column '{name}'", table.column(name)) for name in names}
        return _Block(span.file, names, first, last, rows)


def _unpacked(group: Any, names: Sequence[str]) -> int:
    """Bytes of some columns of a row group in memory: what they say they take or, where runs of one
    value are packed, so many numbers.
    """
    columns = [group.column(k) for k in range(group.num_columns)]
    mine = [c for c in columns if c.path_in_schema.split(".")[0] in names]
    return sum(max(c.total_uncompressed_size, NUMBER * c.num_values) for c in mine)
