"""Features of frozen encoders: computed once for every frame, and read by training in place of
pixels.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

from alltrades.data.decoded import Decoded
from alltrades.data.kept import Kept
from alltrades.data.rows import Rows
from alltrades.data.sources import Absent, Source
from alltrades.policies.model.conditioning import there
from alltrades.policies.model.policy import DiffusionPolicy

PIECE = 32  # frames that an encoder sees at once: always so many, so that results are equal


def name_of_features(policy: DiffusionPolicy, key: str) -> str | None:
    """What features of a camera are called: equal names for equal features. None where they are no
    function of a frame alone that stays the same while the policy learns: of encoders that learn,
    of images that are changed at random or modulated by texts, of images other than uint8, whose
    units are an environment's own.
    """
    own, settings = policy.conditioner, policy.settings.encoder
    if key not in own.cameras or not settings.frozen or settings.shift or settings.jitter:
        return None
    if own.modulated(key) or policy.layout.slots[key].dtype != "uint8":
        return None
    encoder = own.encoders[own.module[key]]
    if any(p.requires_grad for p in encoder.parameters()):
        return None
    h = hashlib.sha256(f"{settings.name}{own.architecture}{policy.device}".encode())
    for name, value in encoder.state_dict().items():
        h.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def kept_features(seeing: Sequence[DiffusionPolicy]) -> dict[str, str]:
    """The cameras whose features all of some policies can read in place of their frames, and what
    these are called.
    """
    names: dict[str, set[str | None]] = {}
    for policy in seeing:
        for slot in policy.layout.of_kind("image"):
            names.setdefault(slot.key, set()).add(name_of_features(policy, slot.key))
    return {k: n for k, (n, *others) in names.items() if n is not None and not others}


def feature_rows(rows: Rows, policy: DiffusionPolicy, key: str, name: str) -> Rows:
    """Features (N, features) of a camera's frames, the last of which says whether a frame is there;
    zeros where there is none. Of images of a run's stores they are kept from one training to the
    next. Computed when they are first asked for: one call of the encoder per 32 frames.
    """
    encode = _Encode(policy, key)
    fits = dict(zip(map(id, rows.runs.sources), rows.fitting))

    def other(source: Source) -> Source:
        if not fits[id(source)]:
            return Absent(source.shape[0])
        if isinstance(source, Decoded):
            return source.derive(name, partial(_kept, source, encode, source.folder))
        return _kept(source, encode, Path(gettempdir()))

    return Rows(rows.reading(other).runs, encode.size)


def _kept(source: Source, encode: _Encode, folder: Path) -> Kept:
    def fill(start: int, stop: int) -> np.ndarray:
        return encode(source.read(start, stop))

    shape = (source.shape[0], encode.size)
    return Kept(shape, np.dtype(np.float32), PIECE, fill, folder)


class _Encode:
    """Frames (n <= PIECE, H, W, C) of uint8 -> features (n, size), with a copy of a camera's
    encoder.
    """

    def __init__(self, policy: DiffusionPolicy, key: str) -> None:
        own, self.device = policy.conditioner, policy.device
        self.size = own.features[key]
        self.encoder = copy.deepcopy(own.encoders[own.module[key]]).eval()

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        filled = np.zeros((PIECE, *frames.shape[1:]), np.uint8)
        filled[: len(frames)] = frames
        x = torch.from_numpy(filled).to(self.device)
        shown = there(x)[:, None]
        found = self.encoder((x.float() - 127.5) / 127.5)
        out = torch.cat([found * shown, shown], dim=-1)
        return out[: len(frames)].float().cpu().numpy()
