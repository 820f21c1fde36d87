"""Recordings of every format, made by the libraries of the formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

LENGTHS = (7, 5, 9)
TASKS = ("pick up", "put down")


def numbers(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Three episodes of a state, an action, a reward and a success at the last step."""
    rng = np.random.default_rng(seed)
    out = []
    for n in LENGTHS:
        success = np.zeros(n, bool)
        success[-1] = True
        out.append(
            {
                "state": rng.normal(size=(n, 3)).astype(np.float32),
                "action": rng.normal(size=(n, 2)).astype(np.float32),
                "reward": rng.normal(size=n).astype(np.float32),
                "success": success,
                "images": rng.integers(0, 255, (n, 16, 24, 3), np.uint8),
            }
        )
    return out


def zarr_store(path: Path, version: int = 2, arrays=(), ends=None) -> Path:
    """The layout of Diffusion Policy."""
    import zarr

    episodes = numbers()
    store = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else str(path)
    root = zarr.create_group(store, zarr_format=version)
    held = {"state": "state", "action": "action", "img": "images"} | dict(arrays)
    for name, key in held.items():
        value = np.concatenate([e[key] for e in episodes]) if isinstance(key, str) else key
        root.create_array(f"data/{name}", data=value, chunks=(4, *value.shape[1:]))
    ends = np.cumsum(LENGTHS) if ends is None else ends
    root.create_array("meta/episode_ends", data=np.asarray(ends))
    if path.suffix == ".zip":
        store.close()
    return path


def lerobot(path: Path, version: str = "v3.0", video: bool = False, drop=(), **info) -> Path:
    """A LeRobot data set: v2.1 (a file per episode) or v3.0 (episodes in one file)."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    episodes, start, tables = numbers(), 0, []
    for i, e in enumerate(episodes):
        n = len(e["state"])
        columns = {
            "observation.state": pa.FixedSizeListArray.from_arrays(e["state"].reshape(-1), 3),
            "action": pa.FixedSizeListArray.from_arrays(e["action"].reshape(-1), 2),
            "next.reward": e["reward"],
            "next.success": e["success"],
            "next.done": e["success"],
            "timestamp": (np.arange(n) / 10).astype(np.float32),
            "frame_index": np.arange(n),
            "episode_index": np.full(n, i),
            "index": np.arange(start, start + n),
            "task_index": np.full(n, i % 2),
        }
        tables.append(pa.table({k: v for k, v in columns.items() if k not in drop}))
        start += n
    facts = {
        "observation.state": ("float32", [3], ["x", "y", "z"]),
        "action": ("float32", [2], {"motors": ["left", "right"]}),
    }
    scalars = {k: ("float32", [1], None) for k in ("next.reward", "timestamp")}
    scalars |= {k: ("int64", [1], None) for k in ("frame_index", "episode_index", "task_index")}
    if video:
        facts["observation.images.front"] = ("video", [16, 24, 3], None)
    features = {
        k: {"dtype": d, "shape": s, "names": n} for k, (d, s, n) in {**facts, **scalars}.items()
    }
    meta = path / "meta"
    meta.mkdir(parents=True)
    said = {"codebase_version": version, "fps": 10, "features": features, "total_episodes": 3}
    (meta / "info.json").write_text(json.dumps(said | info))
    if version.startswith("v2"):
        (path / "data/chunk-000").mkdir(parents=True)
        for i, table in enumerate(tables):
            parquet.write_table(table, path / f"data/chunk-000/episode_{i:06d}.parquet")
        tasks = [json.dumps({"task_index": k, "task": t}) for k, t in enumerate(TASKS)]
        (meta / "tasks.jsonl").write_text("\n".join(tasks))
        lines = [
            json.dumps({"episode_index": i, "tasks": [TASKS[i % 2]], "length": n})
            for i, n in enumerate(LENGTHS)
        ]
        (meta / "episodes.jsonl").write_text("\n".join(lines))
        for i in range(3 if video else 0):
            file = path / f"videos/chunk-000/observation.images.front/episode_{i:06d}.mp4"
            mp4(file, pictures(i))
        return path
    (path / "data/chunk-000").mkdir(parents=True)
    parquet.write_table(pa.concat_tables(tables), path / "data/chunk-000/file-000.parquet")
    parquet.write_table(
        pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)}), meta / "tasks.parquet"
    )
    ends = np.cumsum(LENGTHS)
    rows = {
        "episode_index": [0, 1, 2],
        "length": list(LENGTHS),
        "tasks": [[TASKS[i % 2]] for i in range(3)],
        "data/chunk_index": [0] * 3,
        "data/file_index": [0] * 3,
        "dataset_from_index": (ends - LENGTHS).tolist(),
        "dataset_to_index": ends.tolist(),
    }
    if video:
        key = "videos/observation.images.front"
        rows |= {f"{key}/chunk_index": [0] * 3, f"{key}/file_index": [0] * 3}
        rows[f"{key}/from_timestamp"] = ((ends - LENGTHS) / 10).tolist()
        file = path / f"{key}/chunk-000/file-000.mp4"
        mp4(file, np.concatenate([pictures(i) for i in range(3)]))
    (meta / "episodes/chunk-000").mkdir(parents=True)
    parquet.write_table(pa.table(rows), meta / "episodes/chunk-000/file-000.parquet")
    return path


def pictures(episode: int) -> np.ndarray:
    """(T, 16, 24, 3) uint8 of one grey each, 8 times the step further, which a codec keeps."""
    grey = 20 + 60 * episode + 6 * np.arange(LENGTHS[episode])
    return np.broadcast_to(grey[:, None, None, None], (len(grey), 16, 24, 3)).astype(np.uint8)


def mp4(path: Path, frames: np.ndarray, rate: int = 10) -> None:
    """A video of RGB frames."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
