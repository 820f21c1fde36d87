"""Preference vectors: what lambda, the weight of each environment, may be, and how it is written
and drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from alltrades.errors import UserError, nearest


def preference_vector(
    environments: Sequence[str], preference: Mapping[str, float] | None = None
) -> Tensor:
    """(K,) float32 summing to 1, in the order of `environments`.

    Args:
        preference: lambda per environment, any scale; those left out are 0; empty or None: uniform.

    Raises UserError for unknown environments, negative or infinite numbers, and a sum of 0.
    """
    preference = dict(preference or {})
    for name, value in preference.items():
        if name not in environments:
            raise UserError(
                f"preference names '{name}'; expected one of "
                f"{', '.join(environments)}{nearest(name, list(environments))}"
            )
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"preference of '{name}' is {value}; expected a number >= 0")
    values = torch.tensor(
        [preference.get(e, 0.0 if preference else 1.0) for e in environments], dtype=torch.float32
    )
    if values.sum() <= 0:
        raise UserError(
            "every preference is 0; expected at least one positive number; name an environment "
            "with one"
        )
    return values / values.sum()


def parse_preference(words: Sequence[str]) -> dict[str, float]:
    """`ENVIRONMENT=NUMBER` words of a command line as a mapping; raises UserError for anything
    else.
    """
    found = {}
    for word in words:
        name, _, text = word.rpartition("=")
        try:
            found[name] = float(text)
        except ValueError:
            name = ""
        if not name:
            raise UserError(
                f"preference {word!r}; expected ENVIRONMENT=NUMBER, such as planar/reach=0.8"
            )
    return found


def draw_preferences(
    environment: np.ndarray, count: int, concentration: float, rng: np.random.Generator
) -> np.ndarray:
    """(B, K) float32: for a sample of environment k a draw from Dirichlet(concentration + e_k).

    This is lambda's law Dirichlet(concentration, ..., concentration) reweighted by lambda_k: for
    every f, K E[lambda_k f(lambda)] = E[f(lambda')] with lambda' ~ Dirichlet(concentration + e_k).
    So the plain mean of such samples' losses has the expectation of sum_k lambda_k L_k(g(.,
    lambda)) over lambda, with lambda applied once and without the variance of lambda_k as a factor
    of the loss.

    Args:
        environment: (B,) index of each sample's environment.
        count: K.
        concentration: > 0; 1 is uniform on the simplex, smaller values favour its corners.
    """
    shape = np.full((len(environment), count), float(concentration))
    shape[np.arange(len(environment)), environment] += 1.0
    draws = rng.standard_gamma(shape)
    return (draws / draws.sum(axis=1, keepdims=True)).astype(np.float32)
