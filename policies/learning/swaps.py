"""Does a policy look? How much its chunks change where a field comes from another moment.

At recorded states one field of the window is taken from another episode, or from another step of
the same one, and the chunk is computed again from the same initial noise: what a policy ignores
changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.windows import WindowIndex
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.recorded import Errors, Recorded
from alltrades.policies.learning.resampling import Resampling
from alltrades.system.streams import stream

STATES = 256  # at which chunks are computed, or one of each episode
BATCH = 64
LEAST = 0.01  # share of the actions' variance up to which a change is none: a tenth of a deviation
FAINT_SHARE = 0.05  # of what everything changes together, below which a field is hardly used
IGNORED, FAINT, USED = "ignored", "hardly used", "used"
CONSTANT, UNCLEAR = "the same everywhere", "not told apart"
IMAGE = "teach its encoder (policy.encoder.pretrain: state), or give more demonstrations"
GIVEN = (
    "give more demonstrations, or better weights to its encoder (eyes.train.steps and eyes.starts, "
    "or policy.encoder.weights)"
)
OTHER = "give demonstrations in which it alone tells what to do (docs/instructions.md)"
IMAGES, EVERYTHING = "all images", "everything"  # fields that are exchanged together


@dataclass(frozen=True)
class Exchange:
    """Slots of a window that are taken together from other rows (n,) of the steps."""

    slots: tuple[str, ...]
    rows: np.ndarray


def swaps(
    policy: ActingPolicy,
    steps: Steps,
    interface: Interface,
    seed: int,
    goals: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """How much chunks change per field in one environment; plain data.

    `fields` holds for each field of the policy, "all images" where there are several, and
    "everything":

    - `share`: mean squared change of the executed actions over the variance of each dimension of
      the recorded ones, averaged over dimensions and episodes; `interval`, 95 % over episodes;
      unrelated actions come to 2;
    - `rms`: its root in each dimension, in action units;
    - `within`: the share where the field comes from another step of the same episode, None where
      episodes have one step;
    - `verdict`: "ignored" where share and interval are up to `LEAST`; "hardly used" where it is
      below `noise` or `FAINT_SHARE` of "everything", with the interval of the difference; "used",
      "the same everywhere", or "not told apart".

    `noise` is the same of another draw of the policy's noise, with everything in its place.

    Args:
        steps: episodes of that environment with actions.
        goals: of each text, what it asks for: texts are exchanged for those that ask for something
            else; default: for other ones.

    Raises UserError for a single episode.
    """
    if len(steps.ends) < 2:
        raise UserError(
            f"1 episode of '{interface.id}'; expected two or more, whose fields can be exchanged; "
            "give more demonstrations"
        )
    index, executed = policy.environment_index(interface.id), policy.n_action_steps
    few, _ = Recorded.of(steps, steps, interface, executed).part(STATES)
    own = policy.environments[index].observation
    slots = policy.layout.fields[index]
    chunks = Chunks(policy, steps, few.rows, interface.id, seed)
    base = chunks.draw()
    there = replace(few, chunks=base[:, :executed])
    resampling = Resampling(len(np.unique(few.episode)))

    def change(exchange: Exchange | None, number: int = 0) -> Errors:
        return there.errors(chunks.draw(exchange, number)[:, :executed])

    noise = change(None, 1)
    rng = stream(seed, "swaps", interface.id)
    elsewhere = _elsewhere(few, rng)
    within = _within(few, rng)
    found: dict[str, Any] = {}
    errors: dict[str, Errors] = {}
    for name, members in _together(own).items():
        texts = [m for m in members if own[m].kind == "text"]
        rows = elsewhere
        if texts and len(members) == 1:
            rows = _otherwise(steps, texts[0], few, elsewhere, goals or {}, rng)
        keys = tuple(slots[m] for m in members)
        exchange = Exchange(keys, rows)
        error = errors[name] = change(exchange)
        later = None  # of texts, which stay as they are within an episode
        if within is not None and len(texts) < len(members):
            later = float(change(Exchange(keys, within)).share.mean())
        found[name] = {
            "kinds": sorted({own[m].kind for m in members}),
            **_figures(error, resampling),
            "within": later,
            "verdict": CONSTANT if chunks.equal(exchange) else "",
        }
    least = noise.share
    if EVERYTHING in errors:
        least = np.maximum(least, FAINT_SHARE * errors[EVERYTHING].share)
    for name, facts in found.items():
        facts["verdict"] = facts["verdict"] or _verdict(errors[name].share, least, resampling)
    return {
        "episodes": len(np.unique(few.episode)),
        "states": len(few.rows),
        "executed": executed,
        "names": list(interface.action.names or map(str, range(few.chunks.shape[2]))),
        "units": list(interface.action.units or [""] * few.chunks.shape[2]),
        "std": few.std.tolist(),
        "noise": _figures(noise, resampling),
        "fields": found,
    }


class Chunks:
    """Chunks of a policy at some rows (n,) of steps, from the same noise whatever is exchanged."""

    def __init__(
        self, policy: ActingPolicy, steps: Steps, rows: np.ndarray, name: str, seed: int
    ) -> None:
        self.policy, self.steps, self.rows, self.name, self.seed = policy, steps, rows, name, seed
        self.index = policy.environment_index(name)
        self._windows = WindowIndex(steps.ends, policy.n_obs_steps, 1)

    def draw(self, exchange: Exchange | None = None, number: int = 0) -> np.ndarray:
        """(n, H, A) in the environment's own dimensions; another number draws others."""
        out, policy = [], self.policy
        for start, window in self._each(exchange):
            count = min(BATCH, len(self.rows) - start)
            rng = stream(self.seed, "swaps", self.name, start, number)
            shape = (count, policy.draws, policy.horizon, policy.action_dim)
            noise = rng.standard_normal(shape, dtype=np.float32)
            where = np.full(count, self.index, np.int64)
            out.append(policy.layout.action(self.index, policy.act(window, where, noise)))
        return np.concatenate(out)

    def equal(self, exchange: Exchange) -> bool:
        """Whether an exchange changes no window at all."""
        pairs = zip(self._each(None), self._each(exchange))
        return all(
            np.array_equal(before[key], after[key])
            for (_, before), (_, after) in pairs
            for key in exchange.slots
        )

    def window(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Windows that end at some rows (B,)."""
        return self.steps.window(self.policy.layout, self._windows.take(rows).obs_index)

    def _each(self, exchange: Exchange | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for start in range(0, len(self.rows), BATCH):
            window = self.window(self.rows[start : start + BATCH])
            if exchange is not None:
                other = self.window(exchange.rows[start : start + BATCH])
                window |= {key: other[key] for key in exchange.slots}
            yield start, window


def _together(fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is exchanged at once, by name: every field alone, all images, and all fields."""
    images = [name for name, f in fields.items() if f.kind == "image"]
    out = {name: [name] for name in fields}
    if len(images) > 1:
        out[IMAGES] = images
    return out | ({EVERYTHING: list(fields)} if len(fields) > 1 else {})


def _elsewhere(few: Recorded, rng: np.random.Generator) -> np.ndarray:
    """(n,) a row of another episode for each."""
    out = np.empty_like(few.rows)
    for i, episode in enumerate(few.episode):
        others = few.rows[few.episode != episode]
        out[i] = others[rng.integers(len(others))]
    return out


def _within(few: Recorded, rng: np.random.Generator) -> np.ndarray | None:
    """(n,) another row of the same episode for each, as far as there is one; None where there is
    none at all.
    """
    out = few.rows.copy()
    for i, episode in enumerate(few.episode):
        others = few.rows[(few.episode == episode) & (few.rows != few.rows[i])]
        if len(others):
            out[i] = others[rng.integers(len(others))]
    return None if np.array_equal(out, few.rows) else out


def _otherwise(
    steps: Steps,
    name: str,
    few: Recorded,
    elsewhere: np.ndarray,
    goals: Mapping[str, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """(n,) a row whose text asks for something else, where there is one."""
    if name not in steps.text:
        return elsewhere
    said = steps.text[name][few.episode]
    asked = np.array([str(goals.get(str(t), t)) for t in said])
    out = elsewhere.copy()
    for i in range(len(out)):
        others = few.rows[asked != asked[i]]
        if len(others):
            out[i] = others[rng.integers(len(others))]
    return out


def _figures(error: Errors, resampling: Resampling) -> dict[str, Any]:
    return {
        "share": float(error.share.mean()),
        "interval": _bounds(error.share, resampling),
        "rms": np.sqrt(error.dimensions.mean(0)).tolist(),
    }


def _bounds(values: np.ndarray, resampling: Resampling) -> list[float]:
    low, high = resampling.intervals(values)
    return [max(0.0, float(low)), float(high)]


def _verdict(share: np.ndarray, least: np.ndarray, resampling: Resampling) -> str:
    """Of changes (E,); up to `least` (E,) they are small."""
    low, high = _bounds(share, resampling)
    if high <= LEAST:
        return IGNORED
    if low <= LEAST:
        return UNCLEAR
    return FAINT if float(resampling.intervals(share - least)[1]) < 0 else USED


def warnings_of(
    facts: Mapping[str, Any], matters: Collection[str], given: bool = False
) -> list[str]:
    """Lines about fields that a policy hardly uses: cameras, and fields that are said to matter.

    Args:
        given: whether its encoders began with weights that were made before, such as eyes.
    """
    lines, fields = [], facts["fields"]
    for name, own in fields.items():
        image = "image" in own["kinds"] and name != EVERYTHING
        if not (image or name in matters) or own["verdict"] not in (IGNORED, FAINT):
            continue
        low, high = own["interval"]
        said = f"from another episode it changes {own['share']:.3f} [{low:.3f}, {high:.3f}]"
        said += " of the actions' variance"
        remedy = OTHER if not image else GIVEN if given else IMAGE
        if own["verdict"] == IGNORED:
            lines.append(f"'{name}' is ignored: {said}; {remedy}")
        else:
            said += f", another draw of noise {facts['noise']['share']:.3f}"
            if EVERYTHING in fields:
                said += f", all fields together {fields[EVERYTHING]['share']:.3f}"
            lines.append(f"'{name}' is hardly used: {said}; {remedy}")
    if all(own["verdict"] in (IGNORED, CONSTANT) for own in fields.values()):
        lines.append("nothing that it sees changes its actions; train it for more steps")
    return lines
