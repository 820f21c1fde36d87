"""Statistics of one environment's data, from which its units come: ranges, deviations, outliers,
and dimensions that stand still.

Everything is judged relative to the data: numbers in other units give the same verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.extremes import extremes
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows

MOST = 100_000  # rows of which quantiles and deviations are taken, evenly spread
NUMBERS = 2**24  # nor more numbers in all
FRAMES = 256  # images of which a scale is taken
TAIL = 0.005  # share of the rows beyond each of the two quantiles
MANY, FEW = 2048, 512  # rows whose tails are looked for among some; rows that say among which
FEWEST = 50  # rows from which a single one can be called an outlier
AGAIN = 3  # times that a value is reached from which it is a limit, and no outlier
# A dimension stands still where half its range is below these shares
OF_ITSELF = 1e-4  # of its own largest value; in float64, where also of the widest other, or
ROUNDING = 1e-12  # where of its own largest value
OF_BOX = 1e-5  # of half its box
OF_OTHERS = 1e-6  # of the widest other dimension of its field
UNBOUNDED = 1e30  # bounds beyond mean none: spaces write the largest float


@dataclass(frozen=True)
class Spread:
    """What D dimensions do in the data; arrays (D,) of float64.

    Attributes:
        low, high: extremes of all rows.
        inner_low, inner_high: the same without outliers.
        mean, std: with outliers moved to `inner_low` and `inner_high`.
        outliers: number of rows, of those looked at, that lie outside.
        still: (D,) bool, whether the dimension hardly moves.
        unit: size of what a dimension that stands still would be measured in.
    """

    low: np.ndarray
    high: np.ndarray
    inner_low: np.ndarray
    inner_high: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    outliers: np.ndarray
    still: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Of one environment: `states` by field, (low, high) of `images` by field, of its `action`."""

    states: Mapping[str, Spread]
    images: Mapping[str, tuple[float, float]]
    action: Spread


def measure(
    interface: Interface, observation: Mapping[str, Rows | np.ndarray], action: Rows | np.ndarray
) -> Statistics:
    """Statistics of the rows of one environment, (N, *shape) of each field and (N, A). Rows are
    read once, in pieces.
    """
    rows = {name: Rows.of(value) for name, value in observation.items()}
    return Statistics(
        {
            name: state_spread(rows[name].resized(f.shape), f)
            for name, f in interface.of_kind("state").items()
        },
        {
            name: image_range(rows[name].resized(f.shape), f)
            for name, f in interface.of_kind("image").items()
        },
        action_spread(Rows.of(action).resized(interface.action_dim), interface.action),
    )


def state_spread(rows: Rows, f: Field) -> Spread:
    """Of the numbers of a state."""
    low = np.full(f.shape, -np.inf) if f.low is None else np.array(f.low, float)
    high = np.full(f.shape, np.inf) if f.high is None else np.array(f.high, float)
    return spread(rows, rows.width, low, high)


def action_spread(rows: Rows, spec: ActionSpec) -> Spread:
    """Of actions; those that are images have one for each channel, over all pixels."""
    size = spec.size if spec.image is None else spec.image[2]
    low, high = (bound.reshape(-1, size) for bound in spec.box)
    return spread(rows, size, low.min(0), high.max(0), limits=True)


def spread(
    rows: Rows, size: int, box_low: np.ndarray, box_high: np.ndarray, limits: bool = False
) -> Spread:
    """Of rows (N, pixels * size), whose pixels count as rows of `size` dimensions.

    Values that lie farther beyond the quantile of their tail than the two quantiles lie apart are
    outliers. With `limits` a value that is reached several times, or the only ones that differ
    from the rest, are what was meant, as with a gripper that closes once.
    """
    sample, low, high = _sample(rows, size)
    below, above = _tails(sample)
    inner_low, inner_high = low.copy(), high.copy()
    outliers = np.zeros(size, np.int64)
    apart = np.maximum(above - below, 0.0)
    for d in np.flatnonzero((below - low > apart) | (high - above > apart)):
        if sample.shape[1] >= FEWEST and (apart[d] > 0 or not limits):
            inner_low[d], inner_high[d] = _inside(sample[d], below[d], above[d], limits)
            outliers[d] = ((sample[d] < inner_low[d]) | (sample[d] > inner_high[d])).sum()
            sample[d].clip(inner_low[d], inner_high[d], out=sample[d])
    mean = sample.mean(1, dtype=np.float64)
    std = sample.std(1, dtype=np.float64)
    moves, own = (inner_high - inner_low) / 2, np.maximum(abs(inner_low), abs(inner_high))
    box = np.where(
        (abs(box_low) < UNBOUNDED) & (abs(box_high) < UNBOUNDED), box_high / 2 - box_low / 2, 0.0
    )
    widest = moves.max(initial=0.0)
    still = moves <= OF_ITSELF * own
    if sample.dtype == np.float64:  # which holds small changes of large numbers
        still = (still & (moves <= OF_ITSELF * widest)) | (moves <= ROUNDING * own)
    still |= (moves <= OF_BOX * box) | ((moves <= OF_OTHERS * widest) & (size > 1))
    largest = own.max(initial=0.0)
    unit = np.where(own > OF_OTHERS * largest, own, largest)
    unit = np.where(unit > 0, unit, np.where(box > 0, box, 1.0))
    return Spread(low, high, inner_low, inner_high, mean, std, outliers, still, unit)


def image_range(rows: Rows, f: Field) -> tuple[float, float]:
    """The values of pixels that become -1 and 1: those that the type or the field's bounds give,
    else quantiles of the data.
    """
    if f.dtype == "uint8":
        return 0.0, 255.0
    if f.low is not None and f.high is not None and np.isfinite([*f.low, *f.high]).all():
        return f.low[0], f.high[0]
    seen = rows.take(_evenly(len(rows), FRAMES)).ravel()
    low, high = np.quantile(seen.astype(np.float64), [TAIL, 1 - TAIL])
    low = 0.0 if f.dtype == "uint16" else float(low)
    return low, max(float(high), low + (abs(low) or 1.0) * OF_ITSELF)


def _sample(rows: Rows, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evenly spread rows as (size, n), and extremes (size,) of all."""
    pixels = max(1, rows.width // size)
    wanted = _evenly(len(rows), min(MOST, NUMBERS // max(rows.width, 1)))
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    parts, at = [], 0
    for piece in rows.pieces():
        first, last = np.searchsorted(wanted, [at, at + len(piece)])
        whole = last - first == len(piece)
        parts.append((piece if whole else piece[wanted[first:last] - at]).reshape(-1, size))
        least, largest = extremes(piece.reshape(len(piece) * pixels, size))
        low, high = np.minimum(low, least), np.maximum(high, largest)
        at += len(piece)
    sample = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.array(sample.T, order="C"), low, high  # a copy: it is changed


def _inside(values: np.ndarray, below: float, above: float, limits: bool) -> tuple[float, float]:
    """The least and largest of a dimension's values (n,) that are no outliers."""
    apart, out = above - below, []
    for sign, tail in ((-1.0, -below), (1.0, above)):
        ours = sign * values
        largest = ours.max()
        again = (ours == largest).sum() if limits else 0 if apart > 0 else (ours > tail).sum()
        far = again < AGAIN and largest - tail > apart
        out.append(sign * float(ours[ours <= tail + apart].max() if far else largest))
    return out[0], out[1]


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` (at least 1) of `count` numbers, evenly spread."""
    if count <= most:
        return np.arange(count)
    found = np.linspace(0, count - 1, max(1, most)).round().astype(np.int64)
    return found[np.diff(found, prepend=-1) > 0]


def _tails(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (D,) of sample (D, n) of which at most `TAIL` of the rows, but at least one, are below
    and above. Of many rows only those are put in order that a few of them, sorted, say may count.
    """
    count = sample.shape[1]
    first = min(int(np.ceil(TAIL * (count - 1))), count - 1)
    last = max(count - 1 - first, 0)
    if count < MANY:
        ordered = np.partition(sample, sorted({first, last}), axis=1)
        return ordered[:, first].astype(np.float64), ordered[:, last].astype(np.float64)
    few = np.sort(sample[:, :: count // FEW], axis=1)
    far = 2 * first * few.shape[1] // count + 4  # inside either tail, most probably
    out = np.empty((2, len(sample)))
    for d, values in enumerate(sample):
        below, above = values[values <= few[d, far]], values[values >= few[d, -1 - far]]
        if min(len(below), len(above)) <= first:
            below = above = values
        out[0, d] = np.partition(below, first)[first]
        out[1, d] = np.partition(above, len(above) - 1 - first)[len(above) - 1 - first]
    return out[0], out[1]
