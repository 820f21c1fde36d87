"""Sizes: observations and actions of several environments in arrays of one shape. The only code
that pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from alltrades.errors import UserError, nearest


class Sized(Protocol):
    """An environment's id and sizes; an `EnvSpec` and what a policy remembers of one have them."""

    @property
    def id(self) -> str: ...
    @property
    def obs_dim(self) -> int: ...
    @property
    def action_dim(self) -> int: ...


class Layout:
    """Where each of K environments stands in arrays padded with zeros to the largest of them.

    Attributes:
        ids: of the environments, in order.
        obs_dims, action_dims: (K,) own sizes.
        obs_dim, action_dim: padded sizes D and A.
    """

    def __init__(self, environments: Sequence[Sized]) -> None:
        self.ids = tuple(e.id for e in environments)
        self.obs_dims = np.array([e.obs_dim for e in environments], dtype=np.int64)
        self.action_dims = np.array([e.action_dim for e in environments], dtype=np.int64)
        self.obs_dim, self.action_dim = int(self.obs_dims.max()), int(self.action_dims.max())

    def index(self, environment: str) -> int:
        """Position of an environment. Raises UserError for one that is not among them."""
        if environment not in self.ids:
            raise UserError(
                f"unknown environment '{environment}'; expected one of "
                f"{', '.join(self.ids[:12])}{nearest(environment, list(self.ids))}"
            )
        return self.ids.index(environment)

    @property
    def obs_mask(self) -> np.ndarray:
        """(K, D) bool: the observation dimensions that each environment has."""
        return np.arange(self.obs_dim) < self.obs_dims[:, None]

    @property
    def action_mask(self) -> np.ndarray:
        """(K, A) bool: the action dimensions that each environment has."""
        return np.arange(self.action_dim) < self.action_dims[:, None]

    def pack_observation(self, x: Any) -> Any:
        """(..., d <= D) -> (..., D)."""
        return pad(x, self.obs_dim)

    def pack_action(self, x: Any) -> Any:
        """(..., a <= A) -> (..., A)."""
        return pad(x, self.action_dim)

    def fit_observation(self, x: Any) -> Any:
        """(..., d) -> (..., D): padded, or without what is padding of environments of another
        layout.
        """
        return pad(cut(x, self.obs_dim), self.obs_dim)

    def fit_action(self, x: Any) -> Any:
        """(..., a) -> (..., A), as `fit_observation`."""
        return pad(cut(x, self.action_dim), self.action_dim)

    def observation(self, environment: int, x: Any) -> Any:
        """(..., D) -> (..., D_k), a view of environment k's own dimensions."""
        return cut(x, int(self.obs_dims[environment]))

    def action(self, environment: int, x: Any) -> Any:
        """(..., A) -> (..., A_k), a view of environment k's own dimensions."""
        return cut(x, int(self.action_dims[environment]))


def cut(x: Any, width: int) -> Any:
    """An array or tensor (..., d >= width) without the padding behind its own (..., width):
    a view.
    """
    return x[..., :width]


def pad(x: Any, width: int) -> Any:
    """An array or tensor (..., d) with zeros behind its last dimension to (..., width); itself
    where it is that wide.

    Raises ValueError for one that is wider: its last values would be lost.
    """
    missing = width - x.shape[-1]
    if missing < 0:
        raise ValueError(f"{x.shape[-1]} dimensions; expected at most {width}")
    if missing == 0:
        return x
    if isinstance(x, np.ndarray):
        return np.concatenate([x, np.zeros((*x.shape[:-1], missing), x.dtype)], axis=-1)
    import torch

    return torch.nn.functional.pad(x, (0, missing))
