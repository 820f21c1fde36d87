"""What adaptation was expected to show: nothing is forgotten, and the new environment gains."""

from __future__ import annotations

from alltrades.studies.evidence import Claim, Results, interval, missing, said, table, word

KEPT = 0.02  # of success, by which environments before may change
GAIN = 0.10  # of success, over specialists from scratch
FEW = (1, 2)  # demonstrations of which that was expected


def adapt(results: Results) -> list[Claim]:
    rows = table(results, "differences")
    lefts = dict.fromkeys(r["left out"] for r in rows if "left out" in r)
    whole = "all" if "all" in lefts else next(iter(lefts), None)
    mine = [r for r in rows if r["left out"] == whole and r["demonstrations"] in FEW]
    kept = "environments before keep their success within 2 points"
    gain = "the new environment is above a specialist from scratch by 10 points or more"
    before = [r for r in mine if r["a - b"] == "after - before"]
    new = [r for r in mine if r["a - b"] == "after (new) - scratch"]
    found = [interval(r) for r in before], [interval(r) for r in new]
    return [
        Claim(
            kept,
            word(all(c.low > -KEPT for c in found[0]), any(c.high < -KEPT for c in found[0])),
            said(before, "demonstrations"),
        )
        if before
        else missing(kept),
        Claim(
            gain,
            word(all(c.low > GAIN for c in found[1]), any(c.high < GAIN for c in found[1])),
            said(new, "demonstrations"),
        )
        if new
        else missing(gain),
    ]
