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


@dataclass(frozen=True)
class _Span:
    """Rows start to stop of a file."""

    file: int
    start: int
    stop: int


class RowFiles:
    """The rows, episode by episode.

    Attributes:
        schema: column -> Arrow type, of the first file.
        episodes: (E,) numbers of the episodes, ascending. total: rows of all.
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
        self._cached: tuple[Any, dict[str, Any]] | None = None

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

    def column(self, name: str) -> tuple[str, tuple[int, ...], str]:
        """Kind, shape of a step and dtype of a column, by its type and its first rows."""
        kind, dtype = kind_of(self.schema[name])
        if kind != "numbers":
            return kind, (), dtype
        values = self.read(0, [name])[name]
        return kind, tuple(values.shape[1:]), values.dtype.name

    def read(self, i: int, names: Sequence[str]) -> dict[str, Any]:
        """Columns of episode i: (T, ...) arrays, or lists of packed pictures. The row groups that
        hold it are read, and the last ones kept.
        """
        span = self._of[i]
        opened = self._file(span.file)
        groups, first = [], 0
        start = 0
        for g in range(opened.num_row_groups):
            rows = opened.metadata.row_group(g).num_rows
            if start < span.stop and start + rows > span.start:
                first = first if groups else start
                groups.append(g)
            start += rows
        key = (span.file, tuple(groups), tuple(names))
        if self._cached is None or self._cached[0] != key:
            path = self.files[span.file]
            for g in groups:
                bounded(path, opened.metadata.row_group(g).total_byte_size)
            table = guarded(path, lambda: opened.read_row_groups(groups, columns=list(names)))
            self._cached = (
                key,
                {name: column_of(f"{path}: column '{name}'", table.column(name)) for name in names},
            )
        rows = self._cached[1]
        return {name: rows[name][span.start - first : span.stop - first] for name in names}
