"""Environments with fields of all kinds, and a policy whose every action can be computed by hand
from what it saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field, Observation
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings

CAMERAS, OTHER, PLAIN = "toy/cameras", "toy/other", "toy/plain"
BOX = ActionSpec((-1e6,) * 2, (1e6,) * 2)
INTERFACES = (
    Interface(
        CAMERAS,
        {
            "state": Field.state(3),
            "images.front": Field.image(12, 16),
            "images.wrist": Field.depth(6, 8),
            "instruction": Field.text(),
        },
        BOX,
        50,
        10.0,
    ),
    Interface(OTHER, {"images.front": Field.image(8, 8), "pose": Field.state(2)}, BOX, 50, 10.0),
    Interface(PLAIN, {"state": Field.state(5)}, BOX, 50, 10.0),
)


class Seeing(ActingPolicy):
    """Action i of a chunk is (sum of all that its row of the window holds + i, noise)."""

    def __init__(self, environments: Any = INTERFACES, n_obs_steps: int = 2) -> None:
        self.environments, self.n_obs_steps = tuple(environments), n_obs_steps
        self.horizon, self.n_action_steps, self.draws = 8, 4, 1
        self.windows: list[dict[str, np.ndarray]] = []

    def digest(self) -> str:
        return "seeing"

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        self.windows.append({key: value.copy() for key, value in window.items()})
        chunk = np.zeros((len(environment), self.horizon, self.action_dim), np.float32)
        for values in window.values():
            chunk[:, :, 0] += values.reshape(len(values), -1).sum(axis=1, dtype=np.float64)[:, None]
        chunk[:, :, 0] += np.arange(self.horizon)
        chunk[:, :, 1] = noise[:, 0, :, 0]
        return chunk


def real_policy(n_obs_steps: int = 2, **settings: Any) -> DiffusionPolicy:
    """An untrained network of these environments, with actions in [-1, 1], of which every output
    depends on every input.
    """
    unit = ActionSpec((-1.0, -1.0), (1.0, 1.0))
    infos = [replace(e, action=unit) for e in INTERFACES]
    normalizer = Normalizer(Layout(infos))
    normalizer.fitted.fill_(1)
    small = {"horizon": 8, "n_action_steps": 4, "width": 32, "depth": 1, "sampling_steps": 3}
    torch.manual_seed(0)
    made = PolicySettings.model_validate({"n_obs_steps": n_obs_steps, **small, **settings})
    policy = DiffusionPolicy(made, infos, normalizer)
    with torch.no_grad():  # last layers may start at zero
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.eval()


def observe(
    seed: int, environment: Interface = INTERFACES[0], text: str = "lift it"
) -> Observation:
    rng = np.random.default_rng(seed)
    out: Observation = {}
    for name, f in environment.observation.items():
        if f.kind == "text":
            out[name] = text
        elif f.kind == "state":
            out[name] = rng.normal(size=f.shape).astype(np.float32)
        else:
            out[name] = rng.integers(0, 200, f.shape).astype(f.dtype)
    return out


def stacked(observations: list[Observation]) -> Observation:
    """Frames {field: (k, *shape) or text} of several observations."""
    first = observations[0]
    return {
        name: v if isinstance(v, str) else np.stack([o[name] for o in observations])
        for name, v in first.items()
    }
