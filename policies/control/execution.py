"""What of a policy's chunks is executed."""

from __future__ import annotations

import numpy as np

from alltrades.data.interface import Interface
from alltrades.policies.acting import ActingPolicy


class Execution:
    """The first `n_action_steps` of every chunk; subclasses execute something else.

    One object serves all lanes of one controller.
    """

    def check(self, policy: ActingPolicy) -> None:
        """Raise UserError for a policy that it does not suit."""

    def noise_seed(self, seed: int) -> int:
        """Seed of the policy's noise in the episode of `seed`."""
        return seed

    def begin(self, lane: int, environment: Interface, seed: int) -> None:
        """An episode starts in a lane."""

    def actions(self, lane: int, chunk: np.ndarray, policy: ActingPolicy) -> np.ndarray:
        """Actions to execute (k, A_env) of a new chunk (horizon, A_env), before the guard."""
        return chunk[: policy.n_action_steps]
