"""Where the things are that instructions name: an exercise beside the denoising loss, so that the
features of cameras follow what is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

STATE = "state"  # the field whose columns say it
WIDTH = 64


class Pointer(nn.Module):
    """Reads from features of cameras, as an instruction has modulated them, the place of what it
    names. Acting does not use it.

    Args:
        inputs: number of the features.
        targets: by environment, pairs of the number of a goal and its columns of the state.
        mean, scale: (d,) of the places.
    """

    goals: Tensor
    columns: Tensor
    count: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self, inputs: int, targets: Mapping[str, Any], mean: Sequence[float], scale: Sequence[float]
    ) -> None:
        super().__init__()
        self.targets = {
            str(k): [(int(g), list(map(int, c))) for g, c in v] for k, v in targets.items()
        }
        self.head = nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, len(mean)))
        for name, value in (("mean", mean), ("scale", scale)):
            tensor = torch.tensor(list(value), dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)

    def look(self, ids: Sequence[str]) -> None:
        """Take the environments that the policy has, in order."""
        own = [self.targets.get(i, []) for i in ids]
        most = max(map(len, own))
        goals = torch.zeros(len(own), most, dtype=torch.long)
        columns = torch.zeros(len(own), most, len(self.mean), dtype=torch.long)
        for k, pairs in enumerate(own):
            for i, (goal, where) in enumerate(pairs):
                goals[k, i], columns[k, i] = goal, torch.tensor(where)
        device = self.mean.device
        self.register_buffer("goals", goals.to(device), persistent=False)  # (K, most)
        self.register_buffer("columns", columns.to(device), persistent=False)  # (K, most, d)
        self.register_buffer(
            "count", torch.tensor([len(pairs) for pairs in own], device=device), persistent=False
        )

    def choose(self, environment: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A goal of each row's environment (B,), by numbers in [0, 1): (B,) of all goals, and its
        columns (B, d).
        """
        i = (uniform * self.count[environment]).long()
        return self.goals[environment, i], self.columns[environment, i]

    def errors(
        self, features: Tensor, state: Tensor, columns: Tensor, environment: Tensor
    ) -> Tensor:
        """Mean squared error (B,) of the place at some columns (B, d) of states (B, D) as read from
        features (B, inputs); 0 in environments without targets.
        """
        wanted = (state.gather(1, columns).float() - self.mean) / self.scale
        found = self.head(features).float()
        return (found - wanted).square().mean(1) * (self.count[environment] > 0)
