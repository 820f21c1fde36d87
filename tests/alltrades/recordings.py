"""Recordings of robots that nobody can simulate."""

from pathlib import Path

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore

FOLLOW = "lab/follow"


def follow(path: Path, episodes: int = 10, camera: bool = False, environment: str = FOLLOW) -> Path:
    """An operator who moves a point towards a target that the observation names."""
    out = []
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        x, target = rng.uniform(-1, 1, (2, 2))
        states, actions, images = [], [], []
        for _ in range(20):
            states.append([*x, *target])
            actions.append(0.3 * (target - x) + rng.normal(0, 0.01, 2))
            images.append(_picture(x, target))
            x = x + actions[-1]
        fields = {"state": np.array(states)}
        if camera:
            fields |= {"images.front": np.array(images), "task": f"follow target {seed % 2}"}
        out.append(Episode.from_arrays(fields, np.array(actions), environment, seed=seed))
    EpisodeStore.write(path, out)
    return path


def _picture(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    image = np.zeros((12, 12, 3), np.uint8)
    for channel, point in enumerate((x, target)):
        row, column = np.clip(((point + 1) * 6).astype(int), 0, 11)
        image[row, column, channel] = 255
    return image
