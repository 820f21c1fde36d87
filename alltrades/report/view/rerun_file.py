"""Writes recordings as a file for the Rerun viewer, an episode as a recording of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from alltrades.data.checks.subject import ACTION
from alltrades.errors import MissingExtra, UserError
from alltrades.report.view.curves import PREDICTED
from alltrades.report.view.episodes import Recordings, Viewed, labels
from alltrades.report.view.pictures import colours, image_library
from alltrades.system.files import replacing

if TYPE_CHECKING:
    from alltrades.report.view.predictions import Chunks, Predictor

FILE_BYTES = 2**28  # of all pictures
READ_BYTES = 2**24  # of pictures in memory
QUALITY = 85  # of JPEG
Progress = Callable[[int], None]


def write_recording(
    recordings: Recordings,
    chosen: np.ndarray,
    path: Path,
    predictor: Predictor | None = None,
    progress: Progress = lambda done: None,
) -> list[str]:
    """Write some episodes (n,) of a store and return what is left out, in words.

    Every step's numbers are there, and of pictures as many, evenly spread, as FILE_BYTES take,
    which all episodes and cameras share. One episode is in memory at a time, and READ_BYTES of its
    pictures; Rerun joins them with the file in memory. Raises UserError where the extra `view` is
    not installed.
    """
    rerun, left_out = require(), 0
    with TemporaryDirectory(prefix="alltrades-") as folder:
        parts: list[Path] = []
        seen: set[str] = set()
        for number in chosen.tolist():
            episode = recordings.episode(number)
            chunks = None
            if predictor is not None:
                chunks = predictor.along(episode.environment, episode.place)
            parts.append(Path(folder) / f"{number}.rrd")
            work = _Writer(rerun, recordings, episode, chunks)
            first = episode.environment not in seen
            seen.add(episode.environment)
            left_out += work.write(parts[-1], FILE_BYTES // len(chosen), first)
            progress(len(parts))
        with replacing(path) as partial:
            _join(parts, partial)
    if not left_out:
        return []
    return [f"{left_out} pictures are left out, evenly: all together have {FILE_BYTES // 2**20} MB"]


def _join(parts: Sequence[Path], out: Path) -> None:
    """Recordings in one file, by Rerun's own command: behind one another they would be none."""
    if len(parts) == 1:
        shutil.copyfile(parts[0], out)
        return
    command = [sys.executable, "-m", "rerun", "rrd", "merge", *map(str, parts), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode or not out.exists():
        said = " ".join(done.stderr.split())[-200:]
        raise UserError(
            f"`rerun rrd merge` failed ({said}); expected one file of {len(parts)} recordings; "
            "name a single one with --episodes, or install another rerun-sdk"
        )


def require() -> Any:
    """The package rerun; UserError where the extra `view` is not installed."""
    try:
        import rerun
        import rerun.blueprint
    except ImportError as error:
        raise MissingExtra(
            f"a Rerun recording needs rerun-sdk, found no {error.name}", "view"
        ) from error
    return rerun


class _Writer:
    """One episode as a recording."""

    def __init__(
        self, rerun: Any, recordings: Recordings, episode: Viewed, chunks: Chunks | None
    ) -> None:
        self.rerun, self.episode, self.chunks = rerun, episode, chunks
        kind = int(recordings.subject[episode.number])  # two ids may look alike in plain letters
        self.subject = recordings.subjects[kind]
        plain = re.sub(r"[^A-Za-z0-9]+", "-", episode.environment)
        # a stream that is made alone keeps its threads when it is gone; `init` ends those before
        rerun.init(f"alltrades-{kind}-{plain}", recording_id=uuid4())
        self.stream = rerun.get_global_data_recording()
        success = recordings.table.columns["success"][episode.number]
        words = {1.0: ", success", 0.0: ", no success"}.get(float(success), "")
        self.groups = _groups(recordings, self.subject.episodes)
        self.name = f"episode {episode.number} of {episode.environment}{words}"

    def write(self, path: Path, room: int, first: bool) -> int:
        """Write it and return how many pictures are left out; `room` is the bytes of those that
        are not. The layout that comes with the first of an environment is that of all of them.
        """
        self.stream.save(path, default_blueprint=self._layout() if first else None)
        self.stream.send_recording_name(_plain(self.name))
        self._numbers()
        for name, text in self.episode.texts.items():
            document = self.rerun.TextDocument(_plain(text))
            self.stream.log(self._entity("texts", name), document, static=True)
        left_out = 0
        for name in self.episode.cameras:
            left_out += self._pictures(name, room // len(self.episode.cameras))
        self.stream.flush()
        self.stream.disconnect()
        return left_out

    # ---- numbers ---------------------------------------------------------------------------------
    def _numbers(self) -> None:
        e = self.episode
        every = np.arange(e.length)
        for name, values in e.numbers.items():
            if name != ACTION:
                self._scalars(self._entity("states", name), every, values, e.labels[name])
        for name, values in e.outcome.items():
            self._scalars(self._entity(_group(name), name), every, values[:, None], [name])
        if ACTION not in e.numbers:
            return
        actions, names = e.numbers[ACTION], e.labels[ACTION]
        if self.chunks is None:
            self._scalars("action", every, actions, names)
            return
        for d, name in enumerate(names[:PREDICTED]):
            where = self._entity("action", name)
            self._scalars(f"{where}/recorded", every, actions[:, d : d + 1], ["recorded"])
            steps, values = self._predicted(d)
            self._scalars(f"{where}/predicted", steps, values, ["predicted"], points=True)

    def _predicted(self, d: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.chunks is not None
        steps = self.chunks.at[:, None] + np.arange(self.chunks.values.shape[1])
        there = steps < self.episode.length
        return steps[there], self.chunks.values[:, :, d][there][:, None]

    def _scalars(
        self,
        entity: str,
        steps: np.ndarray,
        values: np.ndarray,
        names: Sequence[str],
        points: bool = False,
    ) -> None:
        """Values (n, D) at steps (n,)."""
        rerun = self.rerun
        style = rerun.SeriesPoints if points else rerun.SeriesLines
        self.stream.log(entity, style(names=list(map(_plain, names))), static=True)
        columns = rerun.Scalars.columns(scalars=np.ascontiguousarray(values, np.float64))
        self.stream.send_columns(entity, indexes=self._times(steps), columns=columns)

    def _times(self, steps: np.ndarray) -> list[Any]:
        out = [self.rerun.TimeColumn("step", sequence=steps)]
        if self.episode.times is not None:
            out.append(self.rerun.TimeColumn("seconds", duration=self.episode.times[steps]))
        return out

    # ---- pictures --------------------------------------------------------------------------------
    def _pictures(self, name: str, room: int) -> int:
        e, rerun = self.episode, self.rerun
        shape, dtype = e.cameras[name]
        depth = dtype == np.uint16 and shape[2] == 1
        raw = int(np.prod(shape)) * dtype.itemsize
        size = raw if depth else len(_jpeg(colours(e.pictures(name, np.array([0])))[0][0]))
        count = int(np.clip(room // max(size, 1), 1, e.length))
        steps = np.unique(np.linspace(0, e.length - 1, count).round().astype(int))
        for part in _parts(steps, max(1, READ_BYTES // raw)):
            frames = e.pictures(name, part)
            shown = frames if depth else colours(frames)[0]
            for step, frame in zip(part.tolist(), shown):
                self.stream.set_time("step", sequence=step)
                if e.times is not None:
                    self.stream.set_time("seconds", duration=float(e.times[step]))
                image = (
                    rerun.DepthImage(frame[..., 0], meter=1000.0)
                    if depth
                    else rerun.EncodedImage(contents=_jpeg(frame), media_type="image/jpeg")
                )
                self.stream.log(self._entity("cameras", name), image)
        return e.length - len(steps)

    # ---- where -----------------------------------------------------------------------------------
    def _entity(self, *parts: str) -> str:
        return self.rerun.new_entity_path([_plain(part) for part in parts])

    def _layout(self) -> Any:
        """Cameras in a row above plots, and texts beside them, as any of its episodes may have."""
        e, view, fields = self.episode, self.rerun.blueprint, self.subject.numbers
        plots = []
        if ACTION in fields and self.chunks is not None:
            names = labels(self.subject, ACTION)[:PREDICTED]
            plots += [self._plot("action", name) for name in names]
        elif ACTION in fields:
            plots.append(self._plot("action"))
        plots += [self._plot("states", name) for name in fields if name != ACTION]
        plots += [self._plot(group) for group in self.groups]
        cameras = [
            view.Spatial2DView(origin=self._entity("cameras", name), name=name)
            for name in e.cameras
        ]
        texts = [
            view.TextDocumentView(origin=self._entity("texts", name), name=name) for name in e.texts
        ]
        rows = [view.Horizontal(*cameras)] if cameras else []
        if plots or texts:
            beside = [view.Vertical(*plots)] if plots else []
            beside += [view.Vertical(*texts)] if texts else []
            shares = [4, 1] if len(beside) == 2 else None
            rows.append(view.Horizontal(*beside, column_shares=shares))
        return view.Blueprint(view.Vertical(*rows), collapse_panels=False)

    def _plot(self, *parts: str) -> Any:
        view = self.rerun.blueprint.TimeSeriesView
        return view(origin=self._entity(*parts), name=_plain(parts[-1]))


def _group(name: str) -> str:
    """Where rewards, successes and interventions stand, and weights apart: of another size."""
    return "weight" if name == "weight" else "outcome"


def _groups(recordings: Recordings, episodes: np.ndarray) -> list[str]:
    """Those of which some of these episodes have values."""
    c = recordings.table.columns
    told = np.isfinite(c["success"][episodes]).any() or c["return"][episodes].any()
    told = told or recordings.marked[episodes].any()
    outcome = ["outcome"] if told or recordings.store.foreign else []
    return [*outcome, *(["weight"] if recordings.weights is not None else [])]


def _parts(steps: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for low in range(0, len(steps), size):
        yield steps[low : low + size]


def _jpeg(picture: np.ndarray) -> bytes:
    out = BytesIO()
    image = image_library().fromarray(np.ascontiguousarray(picture))
    image.save(out, "jpeg", quality=QUALITY)
    return out.getvalue()


def _plain(text: str) -> str:
    """Text without halves of pairs, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
