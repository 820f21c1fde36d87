"""Recordings of every format, made by the libraries of the formats."""

from __future__ import annotations

import json
from io import BytesIO
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


def robomimic(path: Path, instruction: bool = False) -> Path:
    """One file of demonstrations with filter keys."""
    import h5py

    with h5py.File(path, "w") as file:
        for i, e in enumerate(numbers()):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = len(e["state"])
            demo["obs/state"], demo["obs/front_image"] = e["state"], e["images"]
            demo["next_obs/state"], demo["states"] = e["state"], e["state"]
            demo["actions"], demo["rewards"] = e["action"], e["reward"]
            demo["dones"] = e["success"].astype(int)
            if instruction:
                demo.attrs["ep_meta"] = json.dumps({"lang": TASKS[i % 2]})
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
    return path


def aloha(folder: Path, compressed: bool = False) -> Path:
    """A folder of episodes; pictures as they are, or as rows of JPEG bytes."""
    import h5py

    folder.mkdir()
    for i, e in enumerate(numbers()):
        with h5py.File(folder / f"episode_{i}.hdf5", "w") as file:
            file["observations/qpos"], file["action"] = e["state"], e["action"]
            file["observations/images/top"] = e["images"]
            if compressed:
                packed = [jpeg(picture) for picture in pictures(i)]
                rows = np.zeros((len(packed), max(map(len, packed))), np.uint8)
                for row, data in zip(rows, packed):
                    row[: len(data)] = np.frombuffer(data, np.uint8)
                del file["observations/images/top"]
                file["observations/images/top"] = rows
                file.attrs["compress"] = True
    return folder


def jpeg(picture: np.ndarray) -> bytes:
    """A picture as a JPEG."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95)
    return out.getvalue()


def npz(folder: Path) -> Path:
    """A folder of .npz files."""
    folder.mkdir()
    for i, e in enumerate(numbers()):
        np.savez_compressed(folder / f"{i}.npz", task=TASKS[i % 2], **e)
    return folder


def hdf5(path: Path, groups: bool) -> Path:
    """Plain HDF5: a group per episode in one file, or a folder of files."""
    import h5py

    if not groups:
        path.mkdir()
    for i, e in enumerate(numbers()):
        file, at = (path, f"run_{i}/") if groups else (path / f"run_{i}.h5", "")
        with h5py.File(file, "a") as opened:
            for name, value in e.items():
                opened[f"{at}{name}"] = value
            (opened[f"run_{i}"] if groups else opened).attrs["task"] = TASKS[i % 2]
    return path


def ros2(path: Path, mcap: bool = False, steps: int = 20, late: float = 0.001) -> Path:
    """A ROS 2 bag: joints at 100 Hz, commands at 20 Hz `late` s after what they answer, a camera
    at 10 Hz, success at the end.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = store.types
    stamp = kind["builtin_interfaces/msg/Time"](0, 0)
    header = kind["std_msgs/msg/Header"](stamp, "")
    names, none = ["lift", "tilt"], np.array([])
    joints, image = kind["sensor_msgs/msg/JointState"], kind["sensor_msgs/msg/Image"]
    layout = kind["std_msgs/msg/MultiArrayLayout"]([], 0)
    array, flag = kind["std_msgs/msg/Float64MultiArray"], kind["std_msgs/msg/Bool"]
    text, messages = kind["std_msgs/msg/String"], []
    messages.append((0.0, "/instruction", text("open the door")))
    for k in range(steps * 5 + 1):
        t = k / 100
        position = np.array([t, -t])
        messages.append((t, "/joint_states", joints(header, names, position, none, none)))
        if k % 5 == 0:
            messages.append((t + late, "/arm/command", array(layout, np.array([t, 2 * t]))))
        if k % 10 == 0:
            data = np.full(8 * 12 * 3, k % 250, np.uint8)
            camera = image(header, 8, 12, "bgr8", 0, 36, data)
            messages.append((t, "/camera", camera))
    messages.append((steps / 20, "/success", flag(True)))
    plugin = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        open_ = {}
        for t, topic, message in sorted(messages, key=lambda m: m[0]):
            name = message.__msgtype__
            if topic not in open_:
                open_[topic] = writer.add_connection(topic, name, typestore=store)
            data = store.serialize_cdr(message, name)
            writer.write(open_[topic], 10**18 + round(t * 1e9), data)
    return path


def mcap_json(path: Path, steps: int = 20) -> Path:
    """An MCAP file of JSON messages."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("any", "jsonschema", b"{}")
        channels = {
            topic: writer.register_channel(topic, "json", schema)
            for topic in ("/pose", "/action", "/reward")
        }
        for k in range(steps):
            for topic, value in (
                ("/pose", {"position": {"x": k, "y": 2.0}, "timestamp": 3}),
                ("/action", {"data": [k * 1.0, -1.0, 0.5]}),
                ("/reward", {"data": k / 10}),
            ):
                data, time = json.dumps(value).encode(), k * 10**8
                writer.add_message(channels[topic], time, data, time)
        writer.finish()
    return path


def minari(path: Path, kind: str, packed: bool = False, flat: bool = False) -> Path:
    """A Minari data set of a dictionary of observations, or of a vector (`flat`)."""
    import gymnasium
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    box = gymnasium.spaces.Box
    state, image = box(-9, 9, (3,), np.float32), box(0, 255, (16, 24, 3), np.uint8)
    space = state if flat else gymnasium.spaces.Dict({"state": state, "front": image})
    actions = box(-9, 9, (2,), np.float32)
    path.mkdir()
    storage = MinariStorage.new(path / "data", space, actions, None, kind, jpeg_encoding=packed)

    def longer(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, x[-1:]])

    episodes = []
    for i, e in enumerate(numbers()):
        images = longer(pictures(i) if packed else e["images"])
        seen = {"state": longer(e["state"]), "front": images}
        info = {"success": np.concatenate([[False], e["success"]])}
        episodes.append(
            EpisodeBuffer(
                id=i,
                observations=seen["state"] if flat else seen,
                actions=e["action"],
                rewards=e["reward"].tolist(),
                terminations=e["success"].tolist(),
                truncations=[False] * len(e["success"]),
                infos=info,
            )
        )
    storage.update_episodes(episodes)
    return path
