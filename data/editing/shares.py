"""Which episodes go where by chance: shares and numbers, environment by environment."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from alltrades.errors import UserError


def split_by_shares(
    environments: np.ndarray, shares: Sequence[float], seed: int
) -> list[np.ndarray]:
    """Episodes (n,) of these environments in parts, each with its share of every environment's
    episodes, as nearly as whole episodes allow.

    Returns the numbers in each part, ascending. They depend on the seed, and for each environment
    on its number of episodes alone. Raises UserError for shares that are no parts of one whole, and
    where a part gets no episode.
    """
    if len(shares) < 2 or min(shares) <= 0 or not np.isclose(sum(shares), 1.0):
        said = " ".join(f"{s:g}" for s in shares)
        raise UserError(
            f"shares {said}: they sum to {sum(shares):g}; expected two or more positive ones that "
            "sum to 1, such as 0.8 0.2"
        )
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for name in dict.fromkeys(environments.tolist()):
        mine = np.flatnonzero(environments == name)
        drawn = mine[_generator(seed, name).permutation(len(mine))]
        stops = np.cumsum(apportioned(len(mine), shares))
        for part, piece in zip(parts, np.split(drawn, stops[:-1])):
            part.append(piece)
    out = [np.sort(np.concatenate(part)) for part in parts]
    for share, chosen in zip(shares, out):
        if not len(chosen):
            raise UserError(
                f"share {share:g} of {len(environments)} episodes is none; expected at least one "
                "in each part; give it a larger share"
            )
    return out


def apportioned(count: int, shares: Sequence[float]) -> np.ndarray:
    """`count` in whole numbers by shares that sum to 1: the largest remainders get what is left."""
    exact = np.asarray(shares, float) * count
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: count - int(whole.sum())]
    whole[rest] += 1
    return whole


def sample(
    environments: np.ndarray, episodes: int | None, share: float | None, seed: int
) -> np.ndarray:
    """Numbers of drawn episodes, ascending: so many of every environment, or that share of them,
    rounded, but at least one.

    Raises UserError for neither or both, and for more episodes than an environment has.
    """
    if (episodes is None) == (share is None):
        raise UserError("sample: expected either --episodes or --share; give one of them")
    if episodes is not None and episodes < 1:
        raise UserError(f"--episodes {episodes}: expected at least 1; give another number")
    if share is not None and not 0 < share < 1:
        raise UserError(f"--share {share:g}: expected a number between 0 and 1, such as 0.1")
    out = []
    for name in dict.fromkeys(environments.tolist()):
        mine = np.flatnonzero(environments == name)
        wanted = max(1, round((share or 0) * len(mine))) if episodes is None else episodes
        if wanted > len(mine):
            raise UserError(
                f"--episodes {wanted}: '{name}' has {len(mine)}; expected no more than that of "
                "every environment; ask for fewer, or leave it out with --where"
            )
        out.append(mine[_generator(seed, name).permutation(len(mine))[:wanted]])
    return np.sort(np.concatenate(out))


def _generator(seed: int, environment: str) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"--seed {seed}: expected 0 or more; give another number")
    return np.random.default_rng([seed, zlib.crc32(environment.encode(errors="surrogatepass"))])
