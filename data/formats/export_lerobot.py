"""LeRobot data sets, v3.0: rows in parquet, pictures as PNG among them, without loss, or as
videos.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.fields import text_field
from alltrades.data.formats.export_video import Camera, check_codec, is_camera
from alltrades.data.formats.pictures import encode_png
from alltrades.data.formats.recording import OWN
from alltrades.data.interface import Interface
from alltrades.errors import UserError

DATA = "data/chunk-{:03d}/file-{:03d}.parquet"
FILE_BYTES = 10**8  # of one parquet file
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TOLERANCE = 1e-4  # seconds by which LeRobot lets a time stamp differ from its frame's
SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
    "next.reward": "float32",
    "next.done": "bool",
}
MARKS = "intervention"


def write_lerobot(
    episodes: Iterable[Episode],
    out: Path,
    interface: Interface,
    rate: float | None,
    video: str | None = None,
) -> list[str]:
    """A folder that LeRobot loads; what was lost, in words: nothing, unless cameras are written as
    a `video` (a codec).

    Raises UserError without a rate, and for pictures of floats.
    """
    if rate is None:
        raise UserError(
            f"'{interface.id}': no control rate, which LeRobot needs; expected one; say it with "
            "--rate"
        )
    for name, f in interface.observation.items():
        if f.kind == "image" and f.dtype == "float32":
            raise UserError(
                f"'{interface.id}': '{name}' has pictures of floats; expected uint8 or "
                "uint16; export npz or robomimic instead"
            )
    if video is not None:
        check_codec(video, interface.observation)
    return _Writer(out, interface, rate, video).write(episodes)


class _Writer:
    """One data set that is being written."""

    def __init__(self, out: Path, interface: Interface, rate: float, video: str | None) -> None:
        self.out, self.interface, self.rate = out, interface, rate
        self.cameras = {
            name: Camera(out, f"observation.{name}", f, rate, video)
            for name, f in interface.observation.items()
            if video is not None and is_camera(f)
        }
        self.told = text_field(interface.observation)  # whose texts are LeRobot's tasks
        self.uneven = 0  # episodes whose time stamps are not those of their frames
        self.tasks: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []  # of meta/episodes
        self.stats: dict[str, _Statistics] = {}
        self.file = self.start = self.size = 0
        self.success = self.marked = False
        self._writer: Any = None

    def write(self, episodes: Iterable[Episode]) -> list[str]:
        try:
            for i, episode in enumerate(episodes):
                self._episode(i, episode)
        finally:
            if self._writer is not None:
                self._writer.close()
            for camera in self.cameras.values():
                camera.close()
        self._meta()
        said = [f"loss: {camera.loss()}" for camera in self.cameras.values() if self.rows]
        if self.uneven:
            said.append(
                f"left out: measured time stamps of {self.uneven} episodes: LeRobot finds the "
                "frames of a video by even ones"
            )
        return said

    # ---- rows ------------------------------------------------------------------------------------
    def _episode(self, i: int, episode: Episode) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        steps = len(episode)
        said = self.interface.id if self.told is None else str(episode.observations[self.told])
        task = self.tasks.setdefault(said, len(self.tasks))
        done = np.zeros(steps, bool)
        done[-1] = True
        values: dict[str, Any] = {}
        for name, value in episode.observations.items():
            if name != self.told and name not in self.cameras:
                values[f"observation.{name}"] = value
        values |= {
            "action": episode.actions,
            "timestamp": self._times(episode).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, i),
            "index": self.start + np.arange(steps),
            "task_index": np.full(steps, task),
            "next.reward": episode.rewards,
            "next.done": done,
        }
        if i == 0:
            self.success = episode.success is not None
            self.marked = episode.interventions is not None
        if self.success:
            values["next.success"] = episode.successes
        if self.marked:
            values[MARKS] = episode.interventions
        table = pa.table({key: _column(value, steps) for key, value in values.items()})
        for key, value in values.items():
            if not isinstance(value, str):
                self.stats.setdefault(key, _Statistics()).add(value)
        videos: dict[str, Any] = {}
        for name, camera in self.cameras.items():
            pictures: Any = episode.observations[name]
            self.stats.setdefault(camera.key, _Statistics()).add(pictures)
            videos |= camera.add(pictures)
        if self._writer is not None and self.size + table.nbytes > FILE_BYTES:
            self._writer.close()
            self._writer, self.file, self.size = None, self.file + 1, 0
        if self._writer is None:
            file = self.out / DATA.format(*divmod(self.file, 1000))
            file.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(file, table.schema)
        self._writer.write_table(table)
        self.size += table.nbytes
        chunk, number = divmod(self.file, 1000)
        self.rows.append(
            {
                "episode_index": i,
                "tasks": [said],
                "length": steps,
                "data/chunk_index": chunk,
                "data/file_index": number,
                "dataset_from_index": self.start,
                "dataset_to_index": self.start + steps,
                **videos,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        self.start += steps

    def _times(self, episode: Episode) -> np.ndarray:
        """(T,) seconds from the episode's start, as measured; even beside videos, or where nothing
        measured them.
        """
        even = np.arange(len(episode)) / self.rate
        if episode.timestamps is None:
            return even
        if not self.cameras:
            return episode.timestamps
        self.uneven += bool(np.abs(episode.timestamps - even).max() > TOLERANCE)
        return even

    # ---- meta ------------------------------------------------------------------------------------
    def _meta(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        meta = self.out / "meta"
        (meta / "episodes/chunk-000").mkdir(parents=True)
        rows = pa.Table.from_pylist(self.rows)
        parquet.write_table(rows, meta / "episodes/chunk-000/file-000.parquet")
        index = "__index_level_0__"
        table = pa.table({"task_index": list(self.tasks.values()), index: list(self.tasks)})
        said = {"pandas": _pandas(index), OWN: {"instruction": self.told}}
        table = table.replace_schema_metadata({k: json.dumps(v) for k, v in said.items()})
        parquet.write_table(table, meta / "tasks.parquet")
        stats = {key: s.facts() for key, s in self.stats.items()}
        (meta / "stats.json").write_text(json.dumps(stats, indent=1))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=1))

    def _info(self) -> dict[str, Any]:
        rate = int(self.rate) if float(self.rate).is_integer() else self.rate
        return {
            "codebase_version": "v3.0",
            "robot_type": self.interface.id,
            "total_episodes": len(self.rows),
            "total_frames": self.start,
            "total_tasks": len(self.tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 500,
            "fps": rate,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": VIDEO_PATH if self.cameras else None,
            "features": self._features(),
        }

    def _features(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, f in self.interface.observation.items():
            if name == self.told:
                continue
            if name in self.cameras:
                out[f"observation.{name}"] = self.cameras[name].facts()
                continue
            names = None if f.names is None else list(f.names)
            facts: tuple[str, list[int], list[str] | None]
            if f.kind == "image":
                facts = ("image", list(f.shape), ["height", "width", "channels"])
            elif f.kind == "text":
                facts = ("string", [1], None)
            else:
                facts = (f.dtype, list(f.shape), names)
            out[f"observation.{name}"] = dict(zip(("dtype", "shape", "names"), facts))
        action = self.interface.action
        names = None if action.names is None else list(action.names)
        out["action"] = {"dtype": "float32", "shape": [action.size], "names": names}
        scalars = SCALARS | ({"next.success": "bool"} if self.success else {})
        scalars |= {MARKS: "bool"} if self.marked else {}
        out |= {k: {"dtype": d, "shape": [1], "names": None} for k, d in scalars.items()}
        return out


class _Statistics:
    """Running minimum, maximum, mean and deviation of a feature; of pictures per channel: bytes as
    shares of 255, depth in its own unit, as LeRobot hands them to a policy.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, value: np.ndarray) -> None:
        """Rows (T, ...)."""
        image = value.ndim == 4
        x = value[:: max(1, len(value) // 8)] if image else value  # a sample of the pictures
        scale = 255.0 if image and value.dtype == np.uint8 else 1.0
        flat = x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1).astype(np.float64) / scale
        parts = (flat.min(0), flat.max(0), flat.sum(0), (flat**2).sum(0))
        if not self.count:
            self.low, self.high, self.total, self.square = parts
        else:
            self.low, self.high = np.minimum(self.low, parts[0]), np.maximum(self.high, parts[1])
            self.total, self.square = self.total + parts[2], self.square + parts[3]
        self.count += len(flat)
        self.rows = getattr(self, "rows", 0) + len(x)
        self.image = image

    def facts(self) -> dict[str, Any]:
        """As stats.json has them."""
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(self.square / self.count - mean**2, 0))
        named = {"min": self.low, "max": self.high, "mean": mean, "std": deviation}
        shape = (-1, 1, 1) if self.image else (-1,)
        return {**{k: v.reshape(shape).tolist() for k, v in named.items()}, "count": [self.rows]}


def _column(value: Any, steps: int) -> Any:
    """Values of an episode as an Arrow column."""
    import pyarrow as pa

    if isinstance(value, str):
        return pa.array([value] * steps)
    if value.ndim == 4:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return pa.array([{"bytes": encode_png(x), "path": None} for x in value], kind)
    if value.ndim == 2 and value.shape[1] > 1:
        flat = pa.array(np.ascontiguousarray(value).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
    return pa.array(value.reshape(-1))


def _pandas(index: str) -> dict[str, Any]:
    """What tells pandas which column is the index."""
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    return {
        "index_columns": [index],
        "column_indexes": [
            {"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": None, "field_name": index, **text, "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": "1"},
        "pandas_version": "2.0.0",
    }
