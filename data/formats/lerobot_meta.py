"""meta/ of a LeRobot data set, of whichever version: features, episodes, tasks, videos."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.fields import NAME, PREFIX
from alltrades.data.formats.recording import OWN, Refusal, bounded, guarded

OF_EPISODE = re.compile(r"episode_(\d+)\.\w+$")
TASK = "task"
CELL = 100  # bytes of a value of meta/ in memory
OF_FILE = re.compile(r"chunk-(\d+)/file-(\d+)\.\w+$")


class Meta:
    """What meta/ says; nothing of it is believed against the data.

    Attributes:
        info: info.json. features: of it, by key.
        tasks: code -> instruction. told: the key under which they are read; None where an export of
            a store made them up. named: whether an export says so.
        lengths, episode_tasks: by episode, where they are listed.
        facts: further columns of meta/episodes by episode (v3).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = self._json("info.json")
        features = self.info.get("features")
        if not isinstance(features, dict) or not all(
            isinstance(f, dict) for f in features.values()
        ):
            raise Refusal(f"{path}/meta/info.json: no features; expected them by key; restore it")
        self.features: dict[str, dict[str, Any]] = features
        self.lengths: dict[int, int] = {}
        self.episode_tasks: dict[int, list[str]] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self.named = False
        self.told: str | None = TASK
        self.tasks = self._tasks()
        self._episodes()
        self._files: dict[str, dict[tuple[int, ...], Path]] = {}

    def _json(self, name: str) -> Any:
        file = self.path / "meta" / name
        if not file.is_file():
            raise Refusal(f"{file}: no such file; expected a LeRobot data set; check the path")
        found = guarded(file, lambda: json.loads(file.read_text(encoding="utf-8")))
        if not isinstance(found, dict):
            raise Refusal(f"{file}: no mapping; expected one; restore it from a copy")
        return found

    def _lines(self, name: str) -> list[dict[str, Any]]:
        file = self.path / "meta" / name
        if not file.is_file():
            return []
        lines = guarded(file, lambda: file.read_text(encoding="utf-8").splitlines())
        return [
            guarded(f"{file}: line {i + 1}", json.loads, t)
            for i, t in enumerate(lines)
            if t.strip()
        ]

    def _tasks(self) -> dict[int, str]:
        file = self.path / "meta" / "tasks.parquet"
        if file.is_file():
            rows = self._table(file, None)
            name = next((c for c in ("task", "__index_level_0__") if c in rows), None)
            if name is None or "task_index" not in rows:
                raise Refusal(f"{file}: columns {', '.join(rows)}; expected task_index and task")
            self._own(file)
            return {int(c): str(t) for c, t in zip(rows["task_index"], rows[name])}
        found = self._lines("tasks.jsonl")
        return guarded(
            self.path / "meta" / "tasks.jsonl",
            lambda: {int(t["task_index"]): str(t["task"]) for t in found},
        )

    def _own(self, file: Path) -> None:
        """What an export says of its tasks beside the columns that LeRobot reads."""
        import pyarrow.parquet as parquet

        said = (guarded(file, parquet.read_schema, file).metadata or {}).get(OWN.encode())
        if said is not None:
            told = guarded(file, lambda: json.loads(said)["instruction"])
            if told is not None and not (isinstance(told, str) and NAME.fullmatch(told)):
                raise Refusal(f"{file}: tasks are the field {told!r}; expected a name; restore it")
            self.named, self.told = True, f"{PREFIX}{told}" if told else None

    def _table(self, file: Path, columns: list[str] | None) -> dict[str, list[Any]]:
        import pyarrow.parquet as parquet

        def read() -> dict[str, list[Any]]:
            with parquet.ParquetFile(file) as opened:
                known = opened.schema_arrow.names
                chosen = (
                    known
                    if columns is None
                    else [c for c in known if c in columns or c.startswith("videos/")]
                )
                bounded(file, opened.metadata.num_rows * len(chosen) * CELL)
                return opened.read(columns=chosen).to_pydict()

        return guarded(file, read)

    def _episodes(self) -> None:
        for line in self._lines("episodes.jsonl"):
            file = self.path / "meta" / "episodes.jsonl"
            number = guarded(file, int, guarded(file, line.__getitem__, "episode_index"))
            if isinstance(line.get("length"), int):
                self.lengths[number] = line["length"]
            self.episode_tasks[number] = list(map(str, line.get("tasks") or []))
        wanted = [
            "episode_index",
            "length",
            "tasks",
            "dataset_from_index",
            "dataset_to_index",
            "data/chunk_index",
            "data/file_index",
        ]
        for file in sorted((self.path / "meta" / "episodes").glob("**/*.parquet")):
            rows = self._table(file, wanted)
            if "episode_index" not in rows:
                raise Refusal(f"{file}: no column 'episode_index'; expected it; restore it")
            for k, number in enumerate(map(int, rows["episode_index"])):
                facts = {name: values[k] for name, values in rows.items()}
                self.facts[number] = facts
                if isinstance(facts.get("length"), int):
                    self.lengths[number] = facts["length"]
                self.episode_tasks[number] = list(map(str, facts.get("tasks") or []))

    # ---- statistics ------------------------------------------------------------------------------
    def ranges(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Low and high (D,) of each key, as stats.json has them, a little wider; empty where there
        is no file.
        """
        if not (self.path / "meta" / "stats.json").is_file():
            return {}
        out = {}
        for key, said in self._json("stats.json").items():
            try:
                low, high = (np.asarray(said[k], np.float64).reshape(-1) for k in ("min", "max"))
            except (KeyError, TypeError, ValueError):
                continue
            if low.shape == high.shape and np.isfinite(low).all() and np.isfinite(high).all():
                slack = 1e-3 * np.maximum(high - low, 1e-6)
                out[key] = (low - slack, high + slack)
        return out

    # ---- videos ----------------------------------------------------------------------------------
    def videos(self, key: str) -> dict[tuple[int, ...], Path]:
        """Video files of a camera, by episode (v2) or by chunk and file (v3). Found by their
        places, and not by the path that info.json spells.
        """
        if key not in self._files:
            found: dict[tuple[int, ...], Path] = {}
            root = self.path / "videos"
            if root.is_dir() and "/" not in key and ".." not in key.split("/"):
                for file in root.glob(f"chunk-*/{_literal(key)}/episode_*.mp4"):
                    number = OF_EPISODE.search(file.name)
                    if number:
                        found[(int(number[1]),)] = file
                for file in root.glob(f"{_literal(key)}/chunk-*/file-*.mp4"):
                    place = OF_FILE.search(file.as_posix())
                    if place:
                        found[(int(place[1]), int(place[2]))] = file
            self._files[key] = found
        return self._files[key]

    def place(self, number: int, key: str) -> tuple[Path, float]:
        """The video of an episode, and the second at which the episode begins in it."""
        files = self.videos(key)
        where: tuple[int, ...] = (number,)
        begin = 0.0
        if (number,) not in files:
            facts = self.facts.get(number, {})
            try:
                where = tuple(
                    int(facts[f"videos/{key}/{n}"]) for n in ("chunk_index", "file_index")
                )
                begin = float(facts[f"videos/{key}/from_timestamp"])
                if not 0 <= begin < np.inf:
                    raise ValueError(f"from_timestamp is {begin}")
            except (KeyError, TypeError, ValueError) as error:
                if self.facts:
                    raise Refusal(
                        f"{self.path}/meta/episodes: where the video of '{key}' of episode "
                        f"{number} stands is not said ({error}); expected chunk_index, file_index "
                        "and from_timestamp; leave the field out"
                    ) from error
        if where not in files:
            raise Refusal(
                f"{self.path}/videos: no video of '{key}' for episode {number}; expected one as "
                "for the others; leave the episode or the field out"
            )
        return files[where], begin


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
