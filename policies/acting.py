"""What acts: the policy as controllers see it, wherever it computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout

Unknown = Literal["refuse", "nearest", "warn"]


class ActingPolicy(ABC):
    """A map from observation windows to action chunks. `DiffusionPolicy`, `OnnxPolicy` and
    `RemotePolicy` are some; one of your own gives the attributes and `act`.

    Attributes:
        environments: those that it knows, each with the fields that it sees; the position of each
            is its index.
        n_obs_steps, horizon, n_action_steps: observations in a window, actions in a chunk, and of
            them those that are executed.
        draws: standard normal arrays (horizon, action_dim) that a row of `act` uses.
        held: the operator of a policy's server has stopped the robots: a chunk says how they come
            to rest, and no older one counts.
        unknown_instruction: what becomes of instructions that ask for something else than those of
            training, where that is known.
    """

    environments: tuple[Interface, ...]
    n_obs_steps: int
    horizon: int
    n_action_steps: int
    draws: int
    held: bool = False
    unknown_instruction: Unknown = "warn"

    @abstractmethod
    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """Chunks (B, horizon, action_dim) float32 in environment units.

        Args:
            window: by slot of `layout`, (B, n_obs_steps, *shape), of a text (B, 1, TEXT_DIM).
            environment: (B,) positions in `environments`.
            noise: (B, draws, horizon, action_dim), standard normal.
            known, keep: (B, horizon, action_dim) actions that are decided and their weights (B,
                horizon), or None.
        """

    def begin(self, lane: int) -> None:  # noqa: B027
        """An episode starts in a lane of a controller; a served policy tells its server."""

    @property
    def sentences(self) -> Sequence[str]:
        """Those that it reads in any case, where it is particular about them."""
        return ()

    def hear(self, text: str) -> None:  # noqa: B027
        """The features of this text may stand in the next windows; a served policy tells its server
        the text itself. Raises UserError for one that the policy cannot read, or refuses.
        """

    def close(self) -> None:  # noqa: B027
        """End connections; what is asked next may open new ones."""

    def digest(self) -> str:
        """Of what computes the actions: two policies with equal digests act alike."""
        raise NotImplementedError(f"{type(self).__name__} has no digest")

    @cached_property
    def layout(self) -> Layout:
        """Sizes of the environments, and of the arrays that hold all of them."""
        return Layout(self.environments)

    @property
    def action_dim(self) -> int:
        return self.layout.action_dim

    def environment_index(self, env_id: str) -> int:
        """Position of an environment; raises UserError for one that the policy does not know."""
        return self.layout.index(env_id)
