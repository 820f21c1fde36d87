"""Rows of evaluations against one another, on their common starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alltrades.envs.rollouts.differences import paired_difference
from alltrades.envs.rollouts.evaluation import Evaluation, agreed, measures
from alltrades.envs.rollouts.verdicts import corrected


def compared(rows: Mapping[str, Evaluation], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Paired differences a - b of each metric, as plain values under "pairs"; those of a metric are
    corrected for their number. Pairs with a row that is not there are left out.
    """
    wanted = [(a, b) for a, b in pairs if a in rows and b in rows]
    found: list[dict[str, Any]] = []
    same = agreed(rows) if wanted else {}
    for metric, names in measures(same.values()).items():
        own = {name: e.only(names) for name, e in same.items()}
        every = [paired_difference(own[a], own[b], metric=metric) for a, b in wanted]
        for (a, b), pair in zip(wanted, corrected(every)):
            found.append({"a": a, "b": b, "metric": metric, **pair.to_json()})
    return {"pairs": found}
