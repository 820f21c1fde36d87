"""What may be read of an archive or an array file before any of it is unpacked."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alltrades.data.formats.recording import LIMIT, Refusal, bounded, guarded

# decoders of numbers: none of them runs what a file says
CODECS = {
    "blosc",
    "zstd",
    "gzip",
    "zlib",
    "lz4",
    "bz2",
    "lzma",
    "delta",
    "shuffle",
    "bitround",
    "fixedscaleoffset",
    "packbits",
    "crc32",
    "crc32c",
    "adler32",
    "fletcher32",
    "astype",
    "bytes",
    "transpose",
    "sharding_indexed",
    "quantize",
}


def check_zip(path: Path) -> zipfile.ZipFile:
    """The archive, opened, when its members have plain names and bounded sizes.

    Raises `Refusal` for names that lead out of it, for members larger than LIMIT, and for what is
    no archive.
    """
    archive = guarded(path, lambda: zipfile.ZipFile(path))
    for info in archive.infolist():
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
            archive.close()
            raise Refusal(
                f"{path}: a member called '{info.filename[:80]}'; expected names inside the "
                "archive; do not use it"
            )
        if info.file_size > LIMIT:
            archive.close()
            bounded(f"{path}: '{info.filename[:80]}'", info.file_size)
    return archive


def check_zarr(where: str, facts: Mapping[str, Any]) -> None:
    """Refuse an array, by its zarr.json or .zarray, that is none of numbers, whose codecs are not
    known to be harmless, or whose chunks are larger than LIMIT.
    """
    kind = facts.get("dtype", facts.get("data_type"))
    try:
        dtype = np.dtype(kind)
        harmless = dtype.kind in "biuf"
    except TypeError:
        harmless = False
    if not harmless:
        raise Refusal(
            f"{where}: an array of {json.dumps(kind)[:60]}; expected numbers; leave it out"
        )
    for codec in _codecs(facts):
        name = str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.")
        if name not in CODECS:
            raise Refusal(
                f"{where}: packed with '{name[:40]}', which is not read; expected one of blosc, "
                "zstd, gzip, lz4; write it anew with one of them"
            )
    chunks = facts.get("chunks") or facts["chunk_grid"]["configuration"]["chunk_shape"]
    bounded(where, int(np.prod([int(c) for c in chunks], dtype=object)) * dtype.itemsize)


def _codecs(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All of an array, those inside shards too."""
    found = [*(facts.get("filters") or []), *(facts.get("codecs") or [])]
    found += [facts["compressor"]] if facts.get("compressor") else []
    found += facts.get("index_codecs") or []
    inner = [c["configuration"] for c in found if c.get("name") == "sharding_indexed"]
    return found + [codec for configuration in inner for codec in _codecs(configuration)]


def load_npz(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of an .npz file's arrays that are named; `Refusal` for objects (they are pickled), and
    for an array that is not as large as it says.
    """
    with check_zip(path) as archive:
        bounded(path, sum(info.file_size for info in archive.infolist()))
        return {
            info.filename.removesuffix(".npy"): _member(path, archive, info)
            for info in archive.infolist()
            if info.filename.endswith(".npy") and info.filename[:-4] in names
        }


def shapes_of_npz(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and dtypes of an .npz file's arrays; their numbers are not read."""
    out = {}
    with check_zip(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                with guarded(path, archive.open, info) as file:
                    out[name] = guarded(f"{path}: '{name}'", _header, file)
    return out


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the array format")
    shape, _, dtype = read(file)
    return shape, dtype


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    where = f"{path}: '{info.filename.removesuffix('.npy')}'"

    def read() -> np.ndarray:
        with archive.open(info) as file:
            shape, dtype = _header(file)
            header = file.tell()
        if dtype.hasobject:
            raise Refusal(
                f"{where}: Python objects, which are never unpacked; expected numbers; "
                "save arrays of numbers or text"
            )
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size != info.file_size - header:
            raise Refusal(
                f"{where}: {info.file_size - header} bytes; expected {size} for shape "
                f"{shape}; restore it from a copy"
            )
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return guarded(where, read)
