"""Which state's logit a row is weighed by: its own, or one that its actions lead to.

A weight of the state alone says where to learn, not what: it leaves the best policy of a network
that contains the teacher as it is. Row t weighed by the ratio w at the state `ahead` steps later
makes the law of actions p'(a | s) proportional to p(a | s) E[w(s_t+H) | s, a], so that executed
actions that lead to where demonstrations are count more, at every state. It is the selection rule
of ILID (Yue et al. 2024, arXiv 2405.17476) with a cross-fitted relative ratio in place of its
discriminator.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

At = Literal["state", "resultant", "progress"]


def rows_ahead(episode: np.ndarray, ahead: int) -> np.ndarray:
    """(R,) index of the row `ahead` steps after each, or of its episode's last one.

    Args:
        episode: (R,) of each row; an episode's rows are consecutive steps in their order.
    """
    last = np.searchsorted(episode, episode, side="right") - 1
    return np.minimum(np.arange(len(episode)) + ahead, last)


def weighed_by(logit: np.ndarray, reached: np.ndarray, at: At) -> np.ndarray:
    """(R,) logits that the ratio of every row is made of.

    Args:
        logit: (R,) log(p / q) of every row's own state.
        reached: (R,) what `rows_ahead` gave.
        at: "resultant", that of the state reached; "progress", by how much it exceeds the row's
            own.
    """
    if at == "state":
        return logit
    return logit[reached] - (logit if at == "progress" else 0.0)
