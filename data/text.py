"""Text as numbers: hashed words and pieces of words, without a vocabulary and for any Unicode."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from zlib import crc32

import numpy as np

TEXT_DIM = 256
PIECES = (3, 4, 5)  # letters


@lru_cache(maxsize=4096)
def text_features(text: str) -> np.ndarray:
    """(TEXT_DIM,) float32 of length 1 (0 for no text), not to be written to.

    Words and their pieces of 3 to 5 letters are hashed into signed counts (Weinberger et al. 2009),
    as in fastText (Bojanowski et al. 2017): equal texts are equal, and similar ones near.
    """
    out = np.zeros(TEXT_DIM, np.float32)
    for word in unicodedata.normalize("NFKC", text).casefold().split():
        marked = f"<{word}>"
        pieces = [marked[i : i + n] for n in PIECES for i in range(len(marked) - n + 1)]
        for piece in [marked, *pieces]:
            number = crc32(piece.encode("utf-8", "surrogatepass"))
            out[number % TEXT_DIM] += 1.0 if number & 0x80000000 else -1.0
    norm = float(np.linalg.norm(out))
    if norm > 0:
        out /= norm
    out.setflags(write=False)
    return out
