"""Comparison that may stop at any time: an e-process on paired outcomes.

Round t brings the mean over environments of the differences a - b of one common start each, D_t in
[-1, 1] for success. Under the null hypothesis that a is not better, E[D_t | past] <= 0, each bet
prod_t (1 + lambda D_t), 0 < lambda < 1, is a nonnegative supermartingale that begins at 1, and so
is a mean of bets. By Ville's inequality it ever reaches 1/alpha with probability at most alpha:
looking after every round costs nothing (Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting"; Ville 1939). The mean is over a grid of lambda, so that no effect size
needs to be known beforehand. Two such processes, one for each direction, at alpha / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BETS = np.concatenate([np.geomspace(0.01, 0.5, 12), np.linspace(0.55, 0.95, 9)])  # lambda


@dataclass(frozen=True)
class Sequential:
    """Outcome of a sequential comparison.

    verdict: BETTER, WORSE, or UNDECIDED where the rounds were used up first. rounds: those looked
    at. evidence: e-values for a better and for b better then; 2 / alpha decides.
    """

    verdict: str
    rounds: int
    evidence: tuple[float, float]


def e_process(differences: np.ndarray) -> np.ndarray:
    """(n,) evidence against "the mean difference is at most 0" after each of n rounds.

    Raises ValueError for differences outside [-1, 1]. O(n x bets).
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or (np.abs(d) > 1).any():
        raise ValueError("differences; expected a vector of values between -1 and 1")
    wealth = np.cumsum(np.log1p(BETS[:, None] * d), axis=1)  # (bets, n)
    highest = wealth.max(axis=0)
    return np.exp(highest) * np.exp(wealth - highest).mean(axis=0)


def sequential(differences: np.ndarray, alpha: float = 0.05) -> Sequential:
    """Go through rounds (n,), each the mean over environments of one start's difference a - b, and
    stop at the first that decides.

    The probability of a wrong BETTER or WORSE is at most alpha whatever n, for new starts of the
    same policies; it says nothing of other training seeds.
    """
    up, down = e_process(differences), e_process(-np.asarray(differences))
    decided = np.flatnonzero(np.maximum(up, down) >= 2 / alpha)
    last = int(decided[0]) if len(decided) else len(up) - 1
    evidence = (float(up[last]), float(down[last])) if len(up) else (1.0, 1.0)
    if not len(decided):
        return Sequential("UNDECIDED", len(up), evidence)
    return Sequential("BETTER" if evidence[0] > evidence[1] else "WORSE", last + 1, evidence)
