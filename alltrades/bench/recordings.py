"""How fast recordings come in and are checked, as shares of what others take to read them."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EPISODES, STEPS = 200, 125  # about PushT
CAMERA = (20, 100, 96)  # episodes, steps, pixels of a side
MANY = (2000, 500)  # episodes, steps of a store that is checked
ROUNDS = 5


@dataclass
class Pair:
    """Ours beside a reference, in turn: seconds of the wall, and of the processor by all threads,
    which other programs hardly change.
    """

    ours: list[tuple[float, float]] = field(default_factory=list)
    reference: list[tuple[float, float]] = field(default_factory=list)

    def ratios(self) -> tuple[float, float]:
        """Reference over ours, medians: above 1 is faster than the reference."""
        sides = np.median(self.ours, axis=0), np.median(self.reference, axis=0)
        wall, processor = sides[1] / sides[0]
        return float(wall), float(processor)


def recordings(folder: str | None, results: list[dict[str, Any]]) -> Iterator[str]:
    """Steps per second of an import beside reading with the format's library and writing with
    Zarr; of videos beside decoding alone; of a check of stores beside one pass over their rows.
    Medians of ROUNDS, one after the other in turn. Bytes of the imported Zarr store beside its own.

    Args:
        folder: with a LeRobot data set and a Zarr store of the Diffusion Policy layout; default
            such that are made here.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if folder is None:
            sources = {"zarr": _zarr(scratch / "a.zarr"), "parquet": _lerobot(scratch / "b")}
        else:
            found = [p for p in sorted(Path(folder).iterdir()) if p.is_dir()]
            stores = [p for p in found if (p / "meta/episode_ends").is_dir()]
            sets = [p for p in found if (p / "meta/info.json").is_file()]
            sources = {k: v[0] for k, v in (("zarr", stores), ("parquet", sets)) if v}
        references: dict[str, Callable[[Path, Path], None]] = {
            "zarr": _read_zarr,
            "parquet": _read_parquet,
            "video": _decode,
        }
        sources["video"] = _lerobot(scratch / "c", CAMERA)
        for kind, source in sources.items():
            yield _imported(kind, source, references[kind], scratch / "out.zarr", results)
        if "zarr" in sources:
            yield _size(sources["zarr"], scratch / "size.zarr", results)
        yield _checked(scratch / "many.zarr", results)


def _imported(
    kind: str,
    source: Path,
    reference: Callable[[Path, Path], None],
    out: Path,
    results: list[dict[str, Any]],
) -> str:
    pair, steps = Pair(), 0
    for _ in range(ROUNDS):
        begun = _clocks()
        steps = _import(source, out)
        pair.ours.append(_since(begun))
        shutil.rmtree(out)
        begun = _clocks()
        reference(source, out)
        pair.reference.append(_since(begun))
        shutil.rmtree(out, ignore_errors=True)
    ours, library = (float(np.median(side, axis=0)[0]) for side in (pair.ours, pair.reference))
    ratio, processor = pair.ratios()
    results.append(
        {
            "what": f"import {kind}",
            "steps": steps,
            "steps_per_s": steps / ours,
            "library_steps_per_s": steps / library,
            "ratio": ratio,
            "processor_ratio": processor,
        }
    )
    unit = "frames" if kind == "video" else "steps"
    return (
        f"import of {kind}: {steps / ours:,.0f} {unit}/s; the library alone {steps / library:,.0f}"
        f"; ratio {ratio:.2f} ({processor:.2f} of processor time)"
    )


def _size(source: Path, out: Path, results: list[dict[str, Any]]) -> str:
    _import(source, out)
    ours, theirs = _bytes(out), _bytes(source)
    results.append({"what": "size", "bytes": ours, "source_bytes": theirs, "ratio": ours / theirs})
    return f"size of the imported Zarr store: {ours:,} bytes, {ours / theirs:.2f} of its source's"


def _checked(path: Path, results: list[dict[str, Any]]) -> str:
    from alltrades.data.checks.examine import examine_stores
    from alltrades.data.store import EpisodeStore

    EpisodeStore.write(path, _walks())
    pair = Pair()
    for _ in range(ROUNDS):
        begun = _clocks()
        examine_stores([EpisodeStore.open(path)], {})
        pair.ours.append(_since(begun))
        begun = _clocks()
        _one_pass(path)
        pair.reference.append(_since(begun))
    ratio, processor = (1 / r for r in pair.ratios())
    steps = len(EpisodeStore.open(path).steps())
    seconds = float(np.median(pair.ours, axis=0)[0])
    results.append(
        {
            "what": "check",
            "steps": steps,
            "seconds": seconds,
            "times_one_pass": ratio,
            "processor_times_one_pass": processor,
        }
    )
    return (
        f"check of {steps:,} steps: {seconds:.2f} s; {ratio:.1f} times reading them with one pass "
        f"for what is not finite, least and largest ({processor:.1f} of processor time)"
    )


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    now = _clocks()
    return now[0] - begun[0], now[1] - begun[1]


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _walks() -> Iterator[Any]:
    """10^6 steps of an arm that follows what it is told."""
    from alltrades.data.episode import Episode

    episodes, steps = MANY
    for i in range(episodes):
        rng = np.random.default_rng(i)
        action = np.sin(rng.normal(0, 0.05, (steps, 4)).cumsum(0))
        joints = np.roll(action, 1, 0) + rng.normal(0, 1e-3, action.shape)
        other = rng.normal(0, 0.1, (steps, 4)).cumsum(0)
        state = np.concatenate([joints, other], 1).astype(np.float32)
        yield Episode.from_arrays(
            {"state": state}, action, "lab/bench", successes=np.arange(steps) == steps - 1, seed=i
        )


def _one_pass(path: Path) -> None:
    from alltrades.data.store import EpisodeStore

    steps = EpisodeStore.open(path).steps()
    for rows in (*steps.observation.values(), steps.action):
        for piece in rows.pieces():
            np.isfinite(piece).all()
            piece.min(0)
            piece.max(0)


def _import(source: Path, out: Path) -> int:
    from alltrades.data.formats import open_recording
    from alltrades.data.formats.importing import Import
    from alltrades.data.formats.mapping import propose

    _, recording = open_recording(source)
    try:
        store = Import(recording, propose(recording)[0], "lab/bench", out).run()
    finally:
        recording.close()
    return store.n_steps


# ---- what the libraries do -----------------------------------------------------------------------
def _read_zarr(source: Path, out: Path) -> None:
    import zarr

    held: Any = zarr.open_group(str(source), mode="r")
    _write({f"data/{name}": array[:] for name, array in held["data"].arrays()}, out)


def _read_parquet(source: Path, out: Path) -> None:
    import pyarrow.parquet as parquet

    names = [
        "observation.state",
        "action",
        "next.reward",
        "next.success",
        "episode_index",
        "frame_index",
        "timestamp",
        "task_index",
    ]
    for file in sorted((source / "data").glob("**/*.parquet")):
        table = parquet.read_table(file, columns=names)
        held = {}
        for name in names:
            column = table.column(name).combine_chunks()
            flat = column.flatten() if hasattr(column, "flatten") else column
            held[name] = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        _write(held, out)


def _write(arrays: dict[str, np.ndarray], out: Path) -> None:
    import zarr

    root = zarr.create_group(str(out))
    for name, value in arrays.items():
        root.create_array(name, data=value)


def _decode(source: Path, out: Path) -> None:
    import av

    for file in sorted((source / "videos").glob("**/*.mp4")):
        with av.open(str(file)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")


# ---- recordings ----------------------------------------------------------------------------------
def _zarr(path: Path) -> Path:
    import zarr

    rng, root = np.random.default_rng(0), zarr.create_group(str(path), zarr_format=2)
    for name, width in (("state", 5), ("action", 2), ("keypoint", 18)):
        value = rng.normal(size=(EPISODES * STEPS, width)).cumsum(0).astype(np.float32)
        root.create_array(f"data/{name}", data=value, chunks=(161, width))
    root.create_array("meta/episode_ends", data=np.arange(1, EPISODES + 1) * STEPS)
    return path


def _lerobot(path: Path, camera: tuple[int, int, int] | None = None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    episodes, steps = (EPISODES, STEPS) if camera is None else camera[:2]
    rng, rows = np.random.default_rng(0), episodes * steps
    frame = np.tile(np.arange(steps), episodes)
    columns: dict[str, Any] = {
        name: pa.FixedSizeListArray.from_arrays(
            rng.normal(size=2 * rows).astype(np.float32).cumsum(), 2
        )
        for name in ("observation.state", "action")
    }
    columns |= {
        "next.reward": np.zeros(rows, np.float32),
        "next.success": frame == steps - 1,
        "timestamp": (frame / 10).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(episodes), steps),
        "task_index": np.zeros(rows, np.int64),
    }
    (path / "data/chunk-000").mkdir(parents=True)
    parquet.write_table(pa.table(columns), path / "data/chunk-000/file-000.parquet")
    (path / "meta/episodes").mkdir(parents=True)
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [2], "names": None}
        for name in ("observation.state", "action")
    }
    if camera is not None:
        features["observation.images.front"] = {"dtype": "video", "shape": [camera[2]] * 2 + [3]}
        _video(path / "videos/observation.images.front/chunk-000/file-000.mp4", camera)
        key, start = "videos/observation.images.front", np.arange(episodes) * steps / 10
        facts: dict[str, Any] = {
            "episode_index": np.arange(episodes),
            f"{key}/from_timestamp": start,
        }
        facts |= {f"{key}/{n}_index": np.zeros(episodes, np.int64) for n in ("chunk", "file")}
        parquet.write_table(pa.table(facts), path / "meta/episodes/file-000.parquet")
    info = {"codebase_version": "v3.0", "fps": 10, "features": features}
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "push"}')
    return path


def _video(path: Path, camera: tuple[int, int, int]) -> None:
    """A texture that moves."""
    import av

    episodes, steps, size = camera
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (24, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = size
        stream.pix_fmt = "yuv420p"
        for k in range(episodes * steps):
            frame = np.roll(texture, (k % 97, 2 * k % 89), (0, 1))[:size, :size]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
