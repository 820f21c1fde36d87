"""Recordings of an arm with a camera, and faults to plant in them."""

from pathlib import Path

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.checks.examine import examine_stores
from alltrades.data.checks.findings import Finding
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.store import EpisodeStore

RATE = 10.0
HEIGHT, WIDTH = 48, 64


def recording(seed: int, number: int, camera: bool = False, steps: int | None = None) -> dict:
    """Arrays of an episode: joints follow what they are told one step later."""
    rng = np.random.default_rng([seed, number])
    steps = int(rng.integers(40, 90)) if steps is None else steps
    t = np.arange(steps + 1) / RATE
    action = sum(
        a * np.sin(2 * np.pi * f * t[:, None] + p)
        for a, f, p in zip(
            rng.uniform(0.2, 0.6, (3, 4)), rng.uniform(0.1, 0.6, (3, 4)), rng.uniform(0, 6, (3, 4))
        )
    )
    joints = np.concatenate([action[:1], action[:-1]])[:steps] + rng.normal(0, 1e-3, (steps, 4))
    force = rng.gamma(2.0, 1.0, (steps, 2))
    out = {
        "state": np.concatenate([joints, force], 1).astype(np.float32),
        "timestamp": (np.arange(steps) / RATE)[:, None].astype(np.float32),
        "action": action[:steps].astype(np.float32),
        "task": "pick it up",
        "successes": np.arange(steps) == steps - 1,
    }
    if camera:
        out["images.front"] = pictures(joints)
    return out


def pictures(joints: np.ndarray) -> np.ndarray:
    """(T, HEIGHT, WIDTH, 3) of a scene in which a square goes where the joints are."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    scene = 90 + 40 * np.sin(x / 9)[..., None] + 30 * np.cos(y / 7)[..., None] * [1, 0.5, 0.2]
    out = np.repeat(scene[None], len(joints), 0)
    for k, q in enumerate(joints):
        top, left = (int(np.clip(22 + 12 * v, 0, m)) for v, m in ((q[0], 36), (q[1], 52)))
        out[k, top : top + 12, left : left + 12] = [220, 60, 40]
    return (out + rng.normal(0, 2, out.shape)).clip(0, 255).astype(np.uint8)


def recordings(count: int = 20, seed: int = 0, camera: bool = False) -> list[dict]:
    return [recording(seed, k, camera) for k in range(count)]


def store(path: Path, raw: list[dict], interface: Interface | None = None, name="lab/pick"):
    """A store of recordings; what is not finite gets in as memory that went bad would."""
    episodes = []
    for number, arrays in enumerate(raw):
        fields = {k: v for k, v in arrays.items() if k not in ("action", "successes")}
        odd = {k: v for k, v in fields.items() if not isinstance(v, str)}
        bad = {k: v[~np.isfinite(v)].size for k, v in odd.items() if v.dtype.kind == "f"}
        clean = {k: np.nan_to_num(v) if bad.get(k) else v for k, v in fields.items()}
        episode = Episode.from_arrays(
            clean, arrays["action"], name, successes=arrays["successes"], seed=number
        )
        for k, count in bad.items():
            if count:
                episode.observations[k][:] = fields[k]
        episodes.append(episode)
    with EpisodeStore.create(path, [interface] if interface else []) as made:
        made.extend(episodes)
    return EpisodeStore.open(path)


def declared(**facts) -> Interface:
    fields = {"state": Field.state(6), "timestamp": Field.state(1), "task": Field.text()}
    action = facts.pop("action", ActionSpec([-3] * 4, [3] * 4))
    return Interface("lab/pick", fields, action, control_hz=RATE, **facts)


def check(*stores: EpisodeStore, expected=None) -> list[Finding]:
    return examine_stores(stores, expected or {})[0]
