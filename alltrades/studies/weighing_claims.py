"""What the studies of weights and shares were expected to show; see `claims`."""

from __future__ import annotations

import numpy as np

from alltrades.envs.rollouts.verdicts import EQUAL
from alltrades.studies.evidence import (
    Change,
    Claim,
    Results,
    Row,
    Verdict,
    above,
    differences,
    interval,
    judged,
    level,
    missing,
    no_lower,
    rows_of,
    table,
    word,
)

RATIO_COST = -0.03  # pooled, from which `ratio` is not to be the default
FEWER = "demos.episodes_of.planar/reach-mirror"  # what is varied where environments conflict
AHEAD = ("resultant_8", "resultant_16", "resultant_32", "progress")


def weights(results: Results) -> list[Claim]:
    key = "policy.width"
    found, filtered = (
        differences(results, f"{row} - mixture", key) for row in ("generalist", "success_mixture")
    )

    def named(rows: list[Row]) -> str:
        return "; ".join(
            f"specialists of {r['specialist.train.steps']} steps, generalist {r[key]} wide "
            f"{interval(r)}"
            for r in rows
        )

    text = "ratio weights cost no more than 3 points over all settings"
    if found:
        # whatever the settings' correlation, the interval of their mean is no wider than the mean
        # of their intervals
        pooled = Change(
            *(float(np.mean([r[k] for r in found])) for k in ("difference", "low", "high"))
        )
        seeds = [float(np.mean([r[k] for r in found])) for k in found[0] if k.startswith("seed ")]
        active = [str(r["weights active in"] or 0) for r in rows_of(results, "generalist", key)]
        on = any(int(x) for words in active for x in words.split())
        cost = Claim(
            text,
            word(on and pooled.low >= RATIO_COST, on and pooled.high < RATIO_COST),
            f"ratio - mixture {pooled}, seeds {', '.join(f'{s:+.3f}' for s in seeds)}; active in "
            f"{'; '.join(active)} environments",
        )
    else:
        cost = missing(text)
    wide = max((r[key] for r in found), default=0)
    large, small = ([r for r in found if (r[key] == wide) is same] for same in (True, False))
    several = len({r[key] for r in found}) > 1
    claims = (
        (
            "the large generalist gains or loses little by ratio weights",
            large if several else [],
            _all_level,
        ),
        ("ratio weights help the small generalist", small, above),
        ("the success filter helps in every setting", filtered, above),
    )
    return [
        cost,
        *(
            Claim(text, verdict(rows), named(rows)) if rows else missing(text)
            for text, rows, verdict in claims
        ),
    ]


def shares(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for row, who in (("share", "the teachers' labels"), ("filtered", "successful rollouts")):
        found = [
            r
            for other in (0, 50, 75)
            for r in differences(results, f"{row}_25 - {row}_{other}", key)
        ]
        none = differences(results, f"{row}_25 - {row}_0", key)
        out += [
            judged(f"{who}: a quarter of demonstrations is better than none", none, above, key),
            judged(
                f"{who}: no other share of demonstrations is better than a quarter",
                found,
                lambda rows: word(
                    all(r["low"] > -EQUAL for r in rows), any(r["verdict"] == "WORSE" for r in rows)
                ),
                key,
            ),
        ]
    return out


def _all_level(rows: list[Row]) -> Verdict:
    each = [level(interval(r)) for r in rows]
    return word(set(each) == {"held"}, "refuted" in each)


def resultant(results: Results) -> list[Claim]:
    key, out = "demos.ends", []
    for ends in dict.fromkeys(r[key] for r in table(results, "differences")):

        def beside(row: str, ends: str = ends) -> list[Row]:
            return [r for r in differences(results, f"{row} - executed", key) if r[key] == ends]

        where = f"demonstrations end at {ends}"
        own = f"{where}: weights at the state itself change little"
        out += [
            judged(own, beside("state"), _all_level, key),
            *(
                judged(f"{where}: {row} is better than no weights", beside(row), above, key)
                for row in AHEAD
            ),
        ]
    return out


def outcome(results: Results) -> list[Claim]:
    key = "demos.episodes"
    found = {
        row: differences(results, f"{row} - filtered", key)
        for row in ("conditioned", "guided_2", "guided_4")
    }
    worse = "conditioned is nowhere worse than the filter"
    return [
        judged(
            worse,
            found["conditioned"],
            lambda rows: word(
                all(r["low"] > -EQUAL for r in rows), any(r["verdict"] == "WORSE" for r in rows)
            ),
            key,
        ),
        *(
            judged(
                f"{row} is better than the filter from the fewest demonstrations", r[:1], above, key
            )
            for row, r in found.items()
        ),
        judged(
            "conditioned is below the filter because failures take their share of the steps",
            differences(results, "conditioned_longer - filtered_longer", key),
            lambda rows: no_lower([interval(r) for r in rows]),
            key,
        ),
    ]


def blind(results: Results) -> list[Claim]:
    key = "demos.episodes"

    def kept(a: str, b: str) -> Claim:
        return judged(
            f"{a} is no lower than {b}",
            differences(results, f"{a} - {b}", key),
            lambda rows: no_lower([interval(r) for r in rows]),
            key,
        )

    def gained(a: str, b: str) -> Claim:
        return judged(
            f"{a} is better than {b}", differences(results, f"{a} - {b}", key), above, key
        )

    return [
        kept("lo_recorded", "labeled_only"),
        kept("lo_recorded", "specialists"),
        gained("lo_resultant", "lo_executed"),
        gained("lo_progress", "lo_executed"),
        kept("lo_resultant", "lo_recorded"),
    ]


def conflict(results: Results) -> list[Claim]:
    found = {
        pair: differences(results, f"{pair[0]} - {pair[1]}", FEWER)
        for pair in (
            ("generalist", "mixture"),
            ("resultant", "executed"),
            ("success_ratio", "success_mixture"),
        )
    }
    fewest = min((r[FEWER] for rows in found.values() for r in rows), default=0)
    unequal, equal = (
        {pair: [r for r in rows if (r[FEWER] == fewest) is own] for pair, rows in found.items()}
        for own in (True, False)
    )
    return [
        *(
            judged(f"unequal shift: {a} is better than {b}", rows, above, FEWER)
            for (a, b), rows in unequal.items()
        ),
        judged(
            "equal shift: weights on states change little",
            equal["generalist", "mixture"],
            _all_level,
            FEWER,
        ),
    ]
