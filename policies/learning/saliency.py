"""Where a policy looks: how much its chunk changes where a part of a picture is hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alltrades.data.steps import Steps
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.swaps import Chunks
from alltrades.system.streams import stream

PATCH = 6  # of the side of a picture, the side of what is hidden; patches overlap by half
BACKGROUND = 32  # frames whose mean is put in its place
MOST_BYTES = 2**26  # of the windows of one call
ROWS = 64  # of them


@dataclass(frozen=True)
class Saliency:
    """Of one camera.

    Attributes:
        frames: (k, H, W, C) as seen. maps: (k, H, W) f64, mean over the patches that hide a pixel
            of the squared change of the executed actions over their variance.
    """

    frames: np.ndarray
    maps: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(H, W) over the frames."""
        out: np.ndarray = self.maps.mean(0)
        return out


def saliency(
    policy: ActingPolicy,
    steps: Steps,
    rows: np.ndarray,
    name: str,
    field: str,
    std: np.ndarray,
    seed: int,
) -> Saliency:
    """Of the camera `field` of an environment, at some rows (k,) of its steps.

    Patches of a frame, and of those before it in the window, are replaced by the mean picture of
    the recordings, and the chunk is computed again from the same noise (Zeiler and Fergus 2014,
    "Visualizing and understanding convolutional networks", for actions).

    Args:
        std: (A,) of the recorded actions, 0 where a dimension stands still.

    Cost: 1 + (2 PATCH - 1)^2 windows a row.
    """
    chunks = Chunks(policy, steps, rows, name, seed)
    key = policy.layout.fields[chunks.index][field]
    slot = policy.layout.slots[key]
    spread = np.unique(np.linspace(0, len(steps) - 1, BACKGROUND).round().astype(int))
    frames = steps.observation[field].only(slot.dtype).take(spread, slot.shape)
    background = frames.astype(np.float64).mean(0)
    if np.dtype(slot.dtype).kind == "u":
        background = np.rint(background)
    background = background.astype(slot.dtype)  # (H, W, C)
    patches = _patches(*slot.shape[:2])
    covered = np.zeros(slot.shape[:2])
    for rows_of, columns_of in patches:
        covered[rows_of, columns_of] += 1
    shown, maps = [], []
    for i, row in enumerate(rows):
        window = chunks.window(np.array([row]))
        shown.append(window[key][0, -1])
        changes = _changes(chunks, window, key, background, patches, std, i)
        total = np.zeros(slot.shape[:2])
        for (rows_of, columns_of), change in zip(patches, changes):
            total[rows_of, columns_of] += change
        maps.append(total / covered)
    return Saliency(np.stack(shown), np.stack(maps))


def _patches(height: int, width: int) -> list[tuple[slice, slice]]:
    """Places that cover a picture, each twice as wide as the way to the next."""

    def along(side: int) -> list[slice]:
        size = max(1, round(side / PATCH))
        starts = np.unique(np.linspace(0, side - size, min(2 * PATCH - 1, side - size + 1)))
        return [slice(s, s + size) for s in np.unique(starts.round().astype(int)).tolist()]

    return [(r, c) for r in along(height) for c in along(width)]


def _changes(
    chunks: Chunks,
    window: dict[str, np.ndarray],
    key: str,
    background: np.ndarray,
    patches: list[tuple[slice, slice]],
    std: np.ndarray,
    number: int,
) -> np.ndarray:
    """(patches,) share of the variance by which each one that is hidden changes the chunk."""
    policy, index = chunks.policy, chunks.index
    rng = stream(chunks.seed, "saliency", chunks.name, number)
    noise = rng.standard_normal(
        (1, policy.draws, policy.horizon, policy.action_dim), dtype=np.float32
    )
    size = sum(v.nbytes for v in window.values())
    count = int(np.clip(MOST_BYTES // max(1, size), 1, ROWS))
    moves = std > 0

    def act(frames: np.ndarray) -> np.ndarray:
        """Chunks of `count` windows, of which fewer may be asked for: the bits of a product depend
        on its size.
        """
        batch = {k: np.repeat(v, count, axis=0) for k, v in window.items()}
        batch[key][: len(frames)] = frames
        where = np.full(count, index, np.int64)
        found = policy.act(batch, where, np.repeat(noise, count, axis=0))
        own = policy.layout.action(index, found)[: len(frames), : policy.n_action_steps]
        return own.astype(np.float64)

    whole, out = act(window[key]), []
    for start in range(0, len(patches), count):
        part = patches[start : start + count]
        frames = np.repeat(window[key], len(part), axis=0)  # (n, frames, H, W, C)
        for i, (rows_of, columns_of) in enumerate(part):
            frames[i, :, rows_of, columns_of] = background[rows_of, columns_of]
        squared = np.square(act(frames) - whole).mean(1)  # (n, A)
        shares = squared[:, moves] / std[moves] ** 2
        out.append(shares.mean(1) if moves.any() else np.zeros(len(part)))
    return np.concatenate(out)
