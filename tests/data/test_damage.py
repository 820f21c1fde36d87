"""A damaged store is refused in one line or read as it was: never read as something else."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alltrades import cli
from alltrades.data import chunks, contents
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from tests.data.stores import episode, rich_episode, states

Read = Callable[[EpisodeStore], object]


def _bytes(value: object) -> bytes:
    return np.ascontiguousarray(value).tobytes()


def _observation(e: Episode) -> list[object]:
    return [(k, v if isinstance(v, str) else _bytes(v)) for k, v in e.observations.items()]


def _episodes(store: EpisodeStore) -> object:
    return [
        (_observation(e), e.actions is not None and _bytes(e.actions), _bytes(e.rewards))
        + (_bytes(e.successes), e.environment, e.source, e.seed, e.success, e.return_)
        for e in store.episodes()
    ]


def _steps(store: EpisodeStore) -> object:
    steps = store.steps()
    texts = {name: values.tolist() for name, values in steps.text.items()}
    return [steps.digest(), texts, _bytes(states(steps).take(np.arange(0, len(steps), 3)))]


READS: dict[str, Read] = {
    "episodes": _episodes,
    "steps": _steps,
    "columns": lambda s: {k: v.tolist() for k, v in s.columns().items()},
    "digest": lambda s: (s.digest(), s.digest(5)),
    "provenance": lambda s: (s.provenance, len(s), s.n_steps, s.describe()),
}


@pytest.fixture(scope="module")
def small_chunks():
    """An eighth of the usual bytes in a chunk: so much less to read again after every damage."""

    def fewer(shape, dtype, size=chunks.CHUNK_BYTES, rows=chunks.chunk_rows):
        return rows(shape, dtype, size // 8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "chunk_rows", fewer)
        patch.setattr(contents, "chunk_rows", fewer)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_chunks) -> Path:
    """A store of four environments; the states of one and the pictures of another are large and
    fill several of its small chunks.
    """
    path = tmp_path_factory.mktemp("damage") / "s"
    sizes = {"planar/reach": (3, 2), "b": (3, 2), "wide:1": (4_000, 1)}
    with EpisodeStore.create(path, provenance={"kind": "demonstrations", "seed": 0}) as store:
        for part in range(3):
            store.append(
                [
                    episode(10 * part + i, 4 + i, *size, name, actions=i != 1)
                    for i in range(2)
                    for name, size in sizes.items()
                ]
                + [rich_episode(part, 3, large=np.full((3, 130, 180, 3), part, np.uint8))]
            )
    return path


KINDS = (
    "flip",
    "truncate",
    "delete",
    "swap",
    "swap chunks",
    "edit",
    "edit value",
    "zero",
    "grow",
)


def _edit_number(text: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one digit, letter or value changed."""
    digits = [i for i, c in enumerate(text) if chr(c).isalnum()]
    at = digits[rng.integers(len(digits))]
    new = b"0123456789aft"[rng.integers(13)]
    return text[:at] + bytes([new]) + text[at + 1 :]


def _edit_value(text: bytes, rng: np.random.Generator) -> bytes:
    """JSON with the value of one key changed or left out."""
    facts = json.loads(text)
    where = facts
    while True:
        key = sorted(where)[rng.integers(len(where))]
        inner = where[key]
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            inner = inner[rng.integers(len(inner))]
        if not isinstance(inner, dict) or not inner or rng.random() < 0.2:
            break
        where = inner
    choices = [None, 0, 1, -1, 2**40, 0.5, "x", "float64", [], [1], [3, 1], {}, True]
    if rng.random() < 0.2:
        del where[key]
    else:
        where[key] = choices[rng.integers(len(choices))]
    return json.dumps(facts, sort_keys=True).encode()


def damage(path: Path, rng: np.random.Generator) -> tuple[str, list[Path]]:
    """Damage a store; returns what was done, and the files that it was done to."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    chunks = [p for p in files if p.suffix != ".json"]
    descriptions = [p for p in files if p.suffix == ".json"]
    kind = KINDS[rng.integers(len(KINDS))]
    among = {"swap chunks": chunks, "edit": descriptions, "edit value": descriptions}
    chosen = among.get(kind, files)
    if kind.startswith("edit") and rng.random() < 0.4:
        chosen = [path / "commit.json"]
    file = chosen[rng.integers(len(chosen))]
    data = file.read_bytes()
    if kind in ("swap", "swap chunks"):
        other = chosen[rng.integers(len(chosen))]
        file.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"{kind} {file} {other}", [file, other]
    at = int(rng.integers(len(data)))
    if kind == "flip":
        file.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
    elif kind == "truncate":
        file.write_bytes(data[:at])
    elif kind == "delete":
        file.unlink()
    elif kind == "zero":
        stop = int(rng.integers(at, len(data))) + 1
        file.write_bytes(data[:at] + bytes(stop - at) + data[stop:])
    elif kind == "grow":
        file.write_bytes(data + rng.bytes(5))
    else:
        file.write_bytes((_edit_number if kind == "edit" else _edit_value)(data, rng))
    return f"{kind} {file}", [file]


def judge(path: Path, expected: dict[str, object], what: str) -> Counter:
    """Count refusals and equal results of the reads; fails on anything else."""
    out: Counter = Counter()
    for name, read in READS.items():
        try:
            value = read(EpisodeStore.open(path))
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error), what
            out["refused"] += 1
        else:
            assert value == expected[name], f"{what}: {name} reads as something else"
            out["equal"] += 1
    return out


def try_damages(whole: Path, path: Path, numbers: range, capsys) -> Counter:
    shutil.copytree(whole, path)
    expected = {name: read(EpisodeStore.open(path)) for name, read in READS.items()}
    assert cli.main(["data", "info", str(path)]) == 0
    shown, counts = capsys.readouterr().out, Counter()
    for number in numbers:
        what, touched = damage(path, np.random.default_rng(number))
        found = judge(path, expected, f"damage {number}: {what}")
        counts += found
        counts["damages seen"] += "refused" in found
        if number % 10 == 0:
            code, (out, error) = cli.main(["data", "info", str(path)]), capsys.readouterr()
            assert (code, out) == (0, shown) or (code, error.count("\n")) == (2, 1), what
        for file in touched:
            shutil.copyfile(whole / file.relative_to(path), file)
    assert judge(path, expected, "restored") == {"equal": len(READS)}
    return counts


def test_150_random_damages_are_refused_or_change_nothing(whole, tmp_path, capsys):
    counts = try_damages(whole, tmp_path / "s", range(150), capsys)
    assert counts["damages seen"] > 120 and counts["equal"] > 50


@pytest.mark.slow
def test_1000_random_damages_are_refused_or_change_nothing(whole, tmp_path, capsys):
    counts = try_damages(whole, tmp_path / "s", range(1000, 2000), capsys)
    with capsys.disabled():
        print(dict(counts))
    assert counts["damages seen"] > 800


def test_a_chunk_that_is_whole_but_of_another_place_is_refused(whole, tmp_path):
    """What a checksum of the bytes alone cannot tell."""
    shutil.copytree(whole, tmp_path / "s")
    chunks = sorted((tmp_path / "s").glob("wide*/data/state/c/*/0"))
    assert len(chunks) > 2
    os.replace(chunks[0], chunks[1])
    with pytest.raises(UserError, match="not the rows that were written there|cannot be read"):
        list(EpisodeStore.open(tmp_path / "s").episodes())
    column = "meta/first_success/c/0"
    shutil.copyfile(next(whole.glob("b/meta/episode_ends/c/0")), tmp_path / "s" / column)
    with pytest.raises(UserError, match=f"{column}: not the rows"):
        EpisodeStore.open(tmp_path / "s").columns()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [1, 3]),
        ("shape", [27, 2]),
        ("data_type", "int32"),
        ("fill_value", 1.0),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [9, 3]}}),
        ("codecs", [{"name": "bytes", "configuration": {"endian": "big"}}]),
    ],
)
def test_a_changed_description_of_an_array_is_refused(whole, tmp_path, key, value):
    shutil.copytree(whole, tmp_path / "s")
    file = tmp_path / "s" / "b/data/state/zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    store = EpisodeStore.open(tmp_path / "s")
    assert len(store.columns()["seed"]) == 21
    with pytest.raises(UserError, match="b/data/state/zarr.json: missing or changed"):
        list(store.episodes())
