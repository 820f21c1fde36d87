"""LeRobot data sets, v2.0, v2.1 and v3.x, read by what is in the folder: rows in parquet, facts in
meta/, cameras in videos or in the rows.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.formats.convert import fits
from alltrades.data.formats.lerobot_meta import Meta
from alltrades.data.formats.lerobot_rows import RowFiles
from alltrades.data.formats.pictures import decode
from alltrades.data.formats.recording import Column, Recording, Refusal, rate_of
from alltrades.data.formats.video import Video


class LeRobot(Recording):
    """Episodes of such a folder."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / "meta" / "info.json").is_file() and (path / "data").is_dir()

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.meta = Meta(path)
        self.rows = RowFiles(path, self.meta, self.warn)
        self._videos: dict[str, Video] = {}
        self._ranges = self.meta.ranges()
        self._columns()
        self._count()
        self._rate()
        self._instruction()

    # ---- what there is ---------------------------------------------------------------------------
    def _columns(self) -> None:
        features, self._kinds = self.meta.features, self.rows.columns()
        for key in [*features, *(k for k in self.rows.schema if k not in features)]:
            said = features.get(key, {})
            if key in self.rows.schema:
                column = self._column(key, said)
                if column is not None:
                    self.columns[key] = column
            elif said.get("dtype") == "video":
                self._camera(key, said)
            elif said:
                self.warn(f"meta/info.json names '{key}', which no column of data/ has; left out")

    def _column(self, key: str, said: dict[str, Any]) -> Column | None:
        kind, shape, dtype = self._kinds[key]
        if kind == "other":
            self.left_out[key] = f"of type {dtype}; expected numbers, images or text"
            return None
        if kind == "image":
            picture = self.rows.read(0, [key])[key][:1]
            if not len(picture) or picture[0] is None:
                self.left_out[key] = "its first picture is missing"
                self.warn(f"column '{key}': {self.left_out[key]}; left out")
                return None
            first = decode(f"{self.path}: '{key}'", picture[0])
            return Column(first.shape, first.dtype.name, "image")
        if kind == "text":
            return Column((), "str", "text")
        declared = tuple(said.get("shape") or shape)
        if int(np.prod(declared)) != int(np.prod(shape)):
            self.warn(
                f"column '{key}' has {int(np.prod(shape))} numbers, and meta/info.json says "
                f"{int(np.prod(declared))}; the column counts"
            )
            declared = shape
        told = said.get("dtype")
        if told and told != dtype and not (told == "bool" or dtype == "bool"):
            self.warn(
                f"column '{key}' is {dtype}, and meta/info.json says {told}; the column counts"
            )
        names = _names(said.get("names"), int(np.prod(shape)))
        return Column(declared if np.prod(declared) > 1 else shape, dtype, "numbers", names)

    def _camera(self, key: str, said: dict[str, Any]) -> None:
        """A camera whose pictures stand in videos."""
        files = self.meta.videos(key)
        if not files:
            self.left_out[key] = "its videos are missing"
            self.warn(
                f"'{key}': no videos/ of it; expected those that meta/info.json names; left out"
            )
            return
        try:
            video = Video(files[min(files)])
        except Refusal as refusal:
            raise Refusal(f"{refusal} ('{key}')") from refusal
        shape, dtype = video.shape, video.dtype
        video.close()
        declared = tuple(said.get("shape") or shape)
        if sorted(declared) != sorted(shape):
            self.warn(
                f"'{key}' has pictures of {shape}, and meta/info.json says {declared}; the "
                "video counts"
            )
        self.columns[key] = Column(shape, dtype, "image")

    def _count(self) -> None:
        for name, found in (("total_episodes", len(self)), ("total_frames", self.rows.total)):
            told = self.meta.info.get(name)
            if isinstance(told, int) and told != found:
                self.warn(f"meta/info.json says {name} {told}; found {found}, which count")

    def _rate(self) -> None:
        """Time stamps count where they disagree with what is said."""
        told = self.meta.info.get("fps")
        self.rate = float(told) if isinstance(told, int | float) and 0 < told < np.inf else None
        timed = "timestamp" in self.rows.schema
        if not timed:
            self.warn("data/ has no column 'timestamp'; rows are taken to be 1 / fps apart")
        for i in range(min(3, len(self)) if timed else 0):
            times = self.rows.read(i, ["timestamp"])["timestamp"].astype(np.float64).reshape(-1)
            steps = np.diff(times)
            if len(steps) > 1 and np.isfinite(steps).all() and np.median(steps) > 0:
                found = float(np.round(1 / np.median(steps), 3))
                if self.rate is None or abs(found / self.rate - 1) > 0.01:
                    self.warn(
                        f"meta/info.json says fps {told}, and time stamps are of {found:g} Hz; "
                        "time stamps count"
                    )
                    self.rate = found
                break
        if self.rate is None:
            self.rate = rate_of(f"{self.path}/meta/info.json: fps", told)

    def _instruction(self) -> None:
        self.tasks = list(dict.fromkeys(self.meta.tasks.values()))
        if not self.tasks and "task_index" in self.rows.schema:
            self.warn("meta/ has no tasks that 'task_index' could mean; there are no instructions")
        self.named, told = self.meta.named, self.meta.told
        if not self.tasks or told is None or told in self.columns:
            self.instruction = told if told in self.columns else None
            return
        if "task_index" not in self.rows.schema:
            self.warn("data/ has no column 'task_index'; each episode's task is that of meta/")
        self.columns[told] = Column((), "str", "text")
        self.instruction = told

    # ---- reading ---------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.rows.episodes)

    def where(self, i: int) -> str:
        return f"{self.rows.file(i)}: episode {self.rows.episodes[i]}"

    def read(self, i: int, keys: Collection[str]) -> dict[str, Any]:
        where, columns = self.where(i), {k: self.columns[k] for k in keys}
        steps = self.rows.steps(i)
        fits(where, columns, steps)
        wanted = {k for k in keys if k in self.rows.schema}
        wanted |= {k for k in ("timestamp", "task_index", "frame_index") if k in self.rows.schema}
        rows = self.rows.read(i, sorted(wanted))
        self._check(i, rows, steps)
        out: dict[str, Any] = {}
        for key, column in columns.items():
            if key == self.meta.told and key not in self.rows.schema:
                out[key] = self._task(i, rows)
            elif key not in self.rows.schema:
                out[key] = self._frames(i, key, rows, steps)
            elif column.kind == "image":
                out[key] = self._pictures(where, key, rows[key])
            else:
                out[key] = rows[key]
        if self.rows.fresh is not None:
            for key, whole in self.rows.fresh.items():
                self._stale(key, whole)
            self.rows.fresh = None
        return out

    def _check(self, i: int, rows: dict[str, Any], steps: int) -> None:
        number = self.rows.episodes[i]
        told = self.meta.lengths.get(number)
        if told is not None and told != steps:
            self.warn(f"episode {number} has {steps} rows, and meta/ says {told}; the rows count")
        frames = rows.get("frame_index")
        if frames is not None and not (np.diff(frames.reshape(-1)) == 1).all():
            raise Refusal(
                f"{self.where(i)}: 'frame_index' does not count up by one; expected the rows in "
                "order; restore the file, or leave the episode out"
            )
        if "timestamp" in rows and self.rate is not None and steps > 1:
            times = rows["timestamp"].astype(np.float64).reshape(-1)
            with np.errstate(invalid="ignore"):
                off = np.abs(np.diff(times) * self.rate - 1)
            most = float(off.max())  # NaN where one is
            if not np.isfinite(most):
                raise Refusal(
                    f"{self.where(i)}: 'timestamp' is not finite; expected seconds; "
                    "leave the episode out"
                )
            if most > 0.5:
                step = int(np.argmax(off))
                self.warn(
                    f"episode {number}: {times[step + 1] - times[step]:.3g} s between steps {step} "
                    f"and {step + 1}; expected {1 / self.rate:.3g}; kept as if they were even"
                )

    def _stale(self, key: str, rows: Any) -> None:
        """Warn where rows leave what the statistics say of them."""
        if key not in self._ranges or isinstance(rows, list) or rows.dtype.kind not in "iuf":
            return
        low, high = self._ranges[key]
        x = rows.reshape(len(rows), -1)
        if len(low) != x.shape[1]:
            return
        if (x.min(0) < low).any() or (x.max(0) > high).any():
            self.warn(
                f"meta/: statistics of '{key}' are stale: rows leave its min and max; they "
                "are not used"
            )

    def _task(self, i: int, rows: dict[str, Any]) -> Any:
        number, tasks = self.rows.episodes[i], self.meta.tasks
        if "task_index" not in rows:
            said = self.meta.episode_tasks.get(number, [])
            said = said or (self.tasks if len(self.tasks) == 1 else [])
            if len(said) != 1:
                raise Refusal(
                    f"{self.where(i)}: no 'task_index', and {len(said)} tasks in meta/; "
                    "expected one"
                )
            return said[0]
        codes = rows["task_index"].reshape(-1)
        codes = codes[:1] if (codes == codes[0]).all() else np.unique(codes)
        for code in codes.tolist():
            if code not in tasks:
                raise Refusal(
                    f"{self.where(i)}: 'task_index' is {code}; expected one of meta/: "
                    f"{', '.join(map(str, list(tasks)[:9]))}"
                )
        if len(codes) == 1:
            return tasks[int(codes[0])]
        return np.array([tasks[int(c)] for c in rows["task_index"].reshape(-1)], dtype=object)

    def _pictures(self, where: str, key: str, packed: list[bytes | None]) -> np.ndarray:
        column, out = self.columns[key], None
        for k, data in enumerate(packed):
            if data is None:
                raise Refusal(f"{where}: '{key}' has no picture at step {k}; expected one per step")
            picture = decode(f"{where}: '{key}', step {k}", data)
            if picture.shape != column.shape:
                raise Refusal(
                    f"{where}: '{key}' has a picture of {picture.shape} at step {k}; "
                    f"expected {column.shape}"
                )
            if out is None:
                out = np.empty((len(packed), *picture.shape), picture.dtype)
            out[k] = picture
        assert out is not None
        return out

    def _frames(self, i: int, key: str, rows: dict[str, Any], steps: int) -> np.ndarray:
        number = self.rows.episodes[i]
        file, begin = self.meta.place(number, key)
        if key not in self._videos or self._videos[key].path != file:
            if key in self._videos:
                self._videos.pop(key).close()
            self._videos[key] = Video(file)
        rate = self.rate or 30.0
        times = np.arange(steps) / rate
        return self._videos[key].read(
            f"{self.where(i)}: '{key}' in {file.relative_to(self.path)}", begin + times, rate
        )

    def close(self) -> None:
        for video in self._videos.values():
            video.close()
        self._videos = {}
        self.rows.close()


def _names(said: Any, size: int) -> tuple[str, ...] | None:
    """Names of a feature's numbers, a list or a list inside a mapping."""
    if isinstance(said, dict):
        said = next((v for v in said.values() if isinstance(v, list)), None)
    if isinstance(said, list) and len(said) == size:
        if all(isinstance(n, str) and n.isprintable() for n in said):
            return tuple(said)
    return None
