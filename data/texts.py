"""Texts of episodes in two arrays: their UTF-8 bytes one after another, and where each ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alltrades.data.chunks import ChunkedArray

FOLDER = "text"
BYTES, ENDS = "bytes", "ends"


class Texts:
    """One string per episode of an environment, read when it is asked for."""

    def __init__(self, data: ChunkedArray, ends: ChunkedArray) -> None:
        self.data, self.ends = data, ends

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) object array of the strings of some episodes (n,). O(bytes between the first and the
        last of them).
        """
        out = np.empty(len(numbers), object)
        if not len(numbers):
            return out
        low, high = int(numbers.min()), int(numbers.max()) + 1
        ends = self.ends.read(max(low - 1, 0), high)
        edges = ends if low else np.concatenate([[0], ends])  # (high - low + 1,)
        data = self.data.read(int(edges[0]), int(edges[-1])).tobytes()
        edges = edges - edges[0]
        known: dict[bytes, str] = {}  # equal ones are one object
        for i, k in enumerate((numbers - low).tolist()):
            text = data[edges[k] : edges[k + 1]]
            if text not in known:
                known[text] = text.decode("utf-8", "surrogatepass")
            out[i] = known[text]
        return out


def text_arrays(arrays: Mapping[str, ChunkedArray]) -> dict[str, Texts]:
    """The texts among an environment's arrays, by field."""
    names = {name.split("/")[1] for name in arrays if name.startswith(f"{FOLDER}/")}
    return {
        name: Texts(arrays[f"{FOLDER}/{name}/{BYTES}"], arrays[f"{FOLDER}/{name}/{ENDS}"])
        for name in names
    }


def added_texts(name: str, texts: Sequence[str], held: int) -> dict[str, np.ndarray]:
    """What further episodes' texts of a field add to its arrays, of which the first has `held`
    bytes.
    """
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = held + np.cumsum([len(d) for d in data], dtype=np.int64)
    return {
        f"{FOLDER}/{name}/{BYTES}": np.frombuffer(b"".join(data), np.uint8),
        f"{FOLDER}/{name}/{ENDS}": ends,
    }
