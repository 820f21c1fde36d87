"""Stores of fields of every kind: what is written is read, and what does not fit is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr

from alltrades import cli
from alltrades.data.actions import ActionSpec
from alltrades.data.chunks import CHUNK_BYTES
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from tests.data.stores import TEXTS, episode, rich_episode, same

DOT = Interface(
    "mine/dot",
    {
        "state": Field.state(2, names=("x", "y"), units=("m", "m")),
        "images.front": Field.image(4, 6),
        "instruction": Field.text(),
    },
    ActionSpec((-1, -1), (1, 2), names=("left", "right")),
    20,
    5.0,
)


def dot(seed=0, length=3, **change) -> Episode:
    fields = {
        "state": np.full((length, 2), seed, np.float32),
        "images.front": np.full((length, 4, 6, 3), seed, np.uint8),
        "instruction": f"go {seed % 3}",
    }
    return Episode.from_arrays(fields | change, np.zeros((length, 2)), "mine/dot", seed=seed)


def test_fields_of_every_kind_come_back_as_they_were(tmp_path):
    written = [rich_episode(i, 1 + i % 5, actions=i != 2) for i in range(2 * len(TEXTS))]
    store = EpisodeStore.create(tmp_path / "s")
    for low, high in ((0, 3), (3, 4), (4, len(written))):
        store.append(written[low:high])
    read = EpisodeStore.open(tmp_path / "s")
    assert all(same(a, b) for a, b in zip(written, read.episodes()))
    assert [e.observations["instruction"] for e in read.episodes()] == TEXTS * 2
    steps = read.steps()
    assert steps.text["instruction"].tolist() == TEXTS * 2
    assert steps.observation["images.front"].dtype == np.uint8
    assert np.array_equal(
        steps.observation["depth"][:], np.concatenate([e.observations["depth"] for e in written])
    )
    some = np.array([5, 2, 9])
    assert [read.episode(int(i)).observations["success"] for i in some] == [
        f"try {i}" for i in some
    ]
    assert EpisodeStore.write(tmp_path / "at once", written).digest() == read.digest()


@pytest.mark.parametrize("field", ["state", "depth", "images.front", "instruction"])
def test_the_digest_tells_a_change_of_one_value_of_any_field(tmp_path, field):
    one = rich_episode(0)
    value = one.observations[field]
    if isinstance(value, str):
        changed: object = value + "\0"
    else:
        changed = value.copy()
        changed.flat[-1] += 1  # type: ignore[attr-defined]
    two = replace(one, observations={**one.observations, field: changed})
    a, b = (
        EpisodeStore.write(tmp_path / n, [rich_episode(1), e]) for n, e in zip("ab", (one, two))
    )
    assert a.digest() != b.digest() and a.digest(1) == b.digest(1)
    assert a.steps().digest() != b.steps().digest()


def test_fields_are_zarr_arrays_of_their_own_shape_in_chunks_of_a_megabyte(tmp_path):
    large = np.zeros((30, 120, 160, 3), np.uint8)
    EpisodeStore.write(tmp_path / "s", [rich_episode(i, 30, large=large) for i in range(2)])
    group = zarr.open_group(str(tmp_path / "s"), mode="r")["rich"]
    assert {name: (a.shape, str(a.dtype)) for name, a in group["data"].arrays()} == {
        "state": ((60, 3), "float64"),
        "images.front": ((60, 12, 16, 3), "uint8"),
        "images.wrist": ((60, 5, 7, 4), "uint8"),
        "depth": ((60, 9, 5, 1), "uint16"),
        "heat": ((60, 4, 4, 1), "float32"),
        "large": ((60, 120, 160, 3), "uint8"),
        "observation.action": ((60, 1), "float64"),
        "action": ((60, 2), "float32"),
        "reward": ((60,), "float32"),
        "success": ((60,), "bool"),
    }
    for _, a in group["data"].arrays():
        row = a.dtype.itemsize * int(np.prod(a.shape[1:]))
        assert a.chunks[0] * row <= CHUNK_BYTES < (a.chunks[0] + 1) * row
    assert bytes(group["text/success/bytes"][:]) == b"try 0try 1"
    assert group["text/success/ends"][:].tolist() == [5, 10]


def test_the_commit_does_not_grow_with_texts(tmp_path):
    def speaking(count):
        for i in range(count):
            yield Episode.from_arrays({"said": f"instruction number {i}"}, np.zeros((1, 1)), "a")

    few, many = (EpisodeStore.write(tmp_path / str(n), speaking(n)) for n in (1000, 100_000))
    sizes = [(s.path / "commit.json").stat().st_size for s in (few, many)]
    assert sizes[1] < sizes[0] + 3000
    assert many.steps().text["said"][[0, 99_999]].tolist() == [
        "instruction number 0",
        "instruction number 99999",
    ]


# ---- description -------------------------------------------------------------------------------
def test_a_declared_environment_travels_with_the_store(tmp_path):
    with EpisodeStore.create(tmp_path / "s", [DOT]) as store:
        store.append([dot(1)])
    read = EpisodeStore.open(tmp_path / "s")
    assert read.interfaces() == {"mine/dot": DOT}
    assert list(read.interfaces()["mine/dot"].observation) == list(DOT.observation)


def test_what_nobody_declared_is_what_the_episodes_are_and_else_unknown(tmp_path):
    with EpisodeStore.create(tmp_path / "s") as store:
        store.append([replace(dot(1), actions=None)])
        assert store.interfaces()["mine/dot"].action.size == 0
        store.append([dot(2)])
    found = EpisodeStore.open(tmp_path / "s").interfaces()["mine/dot"]
    assert {n: (f.kind, f.shape, f.dtype) for n, f in found.observation.items()} == {
        n: (f.kind, f.shape, f.dtype) for n, f in DOT.observation.items()
    }
    assert found.action == ActionSpec.unknown(2)
    assert (found.control_hz, found.max_steps) == (None, None)
    with EpisodeStore.open(tmp_path / "s", "a") as store:
        store.declare([DOT])
        assert store.interfaces() == {"mine/dot": DOT}
        store.declare([replace(DOT, action=ActionSpec.unknown(2), control_hz=None)])
    assert EpisodeStore.open(tmp_path / "s").interfaces() == {"mine/dot": DOT}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images.front": np.zeros((3, 6, 4, 3), np.uint8)}, "is an image of 6 x 4 x 3 uint8, not"),
        ({"images.front": np.zeros((3, 4, 6, 3), np.uint16)}, "uint16, not an image .* uint8"),
        ({"images.front": "a word"}, "'images.front' is text, not an image of 4 x 6 x 3 uint8"),
        ({"state": np.zeros((3, 5))}, "'state' is a state of 5 numbers, not a state of 2"),
        ({"further": np.zeros((3, 5))}, "a field 'further' .state of 5 numbers. beside state, "),
        ({"images.front": None}, "no field 'images.front' .image .* among state, instruction"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_episodes_of_other_fields_are_refused_naming_both(tmp_path, change, said, declared):
    bad = dot(2)
    fields = {k: v for k, v in {**bad.observations, **change}.items() if v is not None}
    bad = replace(bad, observations=fields)
    with EpisodeStore.create(tmp_path / "s", [DOT] if declared else []) as store:
        store.append([dot(1)])
        with pytest.raises(
            UserError, match=f"episode of 'mine/dot' does not fit: .*{said}"
        ) as error:
            store.append([dot(3), bad])
        assert "\n" not in str(error.value)
        store.append([dot(4)])
    assert [e.seed for e in EpisodeStore.open(tmp_path / "s").episodes()] == [1, 4]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"observation": {"state": Field.state(2)}}, "a field|no field"),
        ({"action": ActionSpec.unknown(3)}, "actions have 3 numbers, not 2"),
        ({"control_hz": 20.0}, "it runs at 20 Hz, not 5"),
    ],
)
def test_another_description_of_an_environment_is_refused(tmp_path, change, said):
    with EpisodeStore.create(tmp_path / "s", [DOT]) as store:
        with pytest.raises(UserError, match=f"'mine/dot' is described otherwise: ({said})"):
            store.declare([replace(DOT, **change)])
        store.declare([replace(DOT, max_steps=30)])
        assert store.interfaces()["mine/dot"].max_steps == 30


def test_pictures_that_no_field_can_be_are_refused(tmp_path):
    bad = replace(dot(), observations={"x": np.zeros((3, 4, 4, 2), np.uint8)})
    with EpisodeStore.create(tmp_path / "s") as store, pytest.raises(UserError, match="1, 3 or 4"):
        store.append([bad])


def test_environments_of_different_fields_stand_in_one_store(tmp_path):
    written = [dot(0), episode(1), rich_episode(2), dot(3), episode(4), rich_episode(5)]
    store = EpisodeStore.write(tmp_path / "s", written)
    assert all(same(a, b) for a, b in zip(written, store.episodes()))
    steps = store.steps()
    assert list(steps.observation)[:3] == ["state", "images.front", "images.wrist"]
    said = ["go 0", "", TEXTS[2], "go 0", "", TEXTS[5]]
    assert steps.text["instruction"].tolist() == said
    only = store.steps(["a"])
    assert list(only.observation) == ["state"] and not only.text


def test_info_tells_what_every_environment_observes_and_does(tmp_path, capsys):
    with EpisodeStore.create(tmp_path / "s", [DOT]) as store:
        store.append([*(dot(i) for i in range(4)), rich_episode(1)])
    assert cli.main(["data", "info", str(tmp_path / "s")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:7] == [
        "  mine/dot: 4 episodes, 12 steps, 5 Hz, time limit 20 steps",
        "    state: state of 2 numbers float32; x m, y m",
        "    images.front: image of 4 x 6 x 3 uint8",
        "    instruction: text, 3 distinct: 'go 0', 'go 1', 'go 2'",
        "    action: 2 numbers, box -1 to [1, 2]; left, right",
        "    from demo: 4 episodes, 3-3 steps, success unknown",
    ]
    assert "    depth: image of 9 x 5 x 1 uint16" in lines
    assert "    action: 2 numbers, box unknown" in lines


def test_a_store_as_it_was_before_it_had_fields_is_refused(tmp_path):
    store = EpisodeStore.write(tmp_path / "s", [episode(0)])
    from alltrades.data.commit import write_commit

    commit = json.loads((store.path / "commit.json").read_text())
    del commit["checksum"], commit["columns"]
    write_commit(store.path, commit)
    with pytest.raises(UserError, match="before it was released, .*; record it again"):
        EpisodeStore.open(store.path)


# ---- kills and memory ----------------------------------------------------------------------------
WRITER = """
import sys, numpy as np
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
store = EpisodeStore.open(sys.argv[1], mode="a")
print("ready", flush=True)
for i in range(10**6):
    fields = {"front": np.full((40, 64, 64, 3), i % 256, np.uint8), "said": f"{i}!" * (i % 7)}
    store.append([Episode.from_arrays(fields, np.zeros((40, 1)), "a", seed=i)])
"""


@pytest.mark.parametrize("delay", [0.05, 0.4, 0.83])
def test_appends_of_images_and_texts_killed_at_any_moment_leave_whole_episodes(tmp_path, delay):
    path = tmp_path / "s"
    EpisodeStore.create(path)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with EpisodeStore.open(path, "a") as store:
        count = len(store)
        image = np.full((1, 64, 64, 3), 200, np.uint8)
        last = Episode.from_arrays(
            {"front": image, "said": "last"}, np.zeros((1, 1)), "a", seed=count
        )
        store.append([last])
    for i, e in enumerate(EpisodeStore.open(path).episodes()):
        assert e.seed == i
        if i < count:
            assert e.observations["said"] == f"{i}!" * (i % 7)
            assert (e.observations["front"] == i % 256).all() and len(e) == 40  # type: ignore
        else:
            assert same(e, last)


LIMITED = """
import resource, sys, numpy as np
from pathlib import Path
from alltrades.data.episode import Episode
from alltrades.data.placing import placed
from alltrades.data.store import EpisodeStore
path, n, rng = Path(sys.argv[1]), 250, np.random.default_rng(0)
EpisodeStore.write(path / "warm", [Episode.from_arrays({"x": np.zeros((1, 1))}, None, "a")])
facts = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
most = 1024 * int(facts["VmData"].split()[0]) + 220 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (most, most))

def recordings():
    for i in range(n):
        image = rng.integers(0, 256, (50, 96, 96, 3), np.uint8)
        yield Episode.from_arrays({"front": image, "said": f"{i}"}, np.zeros((50, 1)), f"e{i % 2}")

store = EpisodeStore.write(path / "s", recordings())
steps = store.steps()
assert steps.observation["front"].nbytes > 340e6
for storage in ("file", "store"):
    rows = placed(steps.observation["front"], (96, 96, 3), path / "work", storage)
    for _ in range(3):
        rows.take(rng.integers(0, len(rows), (64, 2)))
assert sum(len(e) for e in EpisodeStore.write(path / "copy", store.episodes()).episodes()) == 50 * n
try:
    placed(steps.observation["front"], (96, 96, 3), None, "memory")
except MemoryError:
    print("limited")
"""


def test_images_larger_than_memory_are_written_placed_copied_and_read(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True)
    assert done.stdout == b"limited\n", done.stderr
