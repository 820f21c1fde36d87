"""What each experiment was expected to show, and whether its numbers show it.

`judge(NAME, results)` reads what `results.json` of the recipe experiments/NAME holds. A claim is
"held" where 95 % intervals support it, "refuted" where they speak against it, else "undecided", as
it is where something was not measured. Success counts as equal within 5 points. Thresholds are this
project's own.
"""

from __future__ import annotations

from collections.abc import Callable

from alltrades.studies import adaptation_claims, sweep_claims, weighing_claims
from alltrades.studies.evidence import Change, Claim, Results, Row, interval, missing, table, word

GROWS = 0.25  # elasticity from which a need grows with a size
NO_WORSE = 0.05  # relative error by which an estimator may exceed another and not be beaten


def judge(name: str, results: Results) -> list[Claim]:
    """Claims of the recipe experiments/NAME on its results; none for other recipes, and results
    that are of none.

    Args:
        results: content of results.json: "tables" with "columns" and "rows" by name, and the
            study's further facts.
    """
    if name not in CLAIMS:
        return []
    settings, claims = CLAIMS[name]
    columns = {c for t in results["tables"].values() for c in t["columns"]}
    return claims(results) if columns.issuperset(settings) else []


def _exact(results: Results) -> list[Claim]:
    def claim(text: str, key: str, grows: bool) -> Claim:
        e = results.get("elasticities", {}).get(key)
        if e is None:
            return Claim(text, "undecided", f"{key}: not reached")
        low, high = e["interval"]
        yes, no = low > GROWS, high < GROWS
        return Claim(
            text,
            word(yes if grows else no, no if grows else yes),
            f"elasticity {Change(e['value'], low, high)}",
        )

    return [
        claim(
            "demonstrations that two stages need do not grow with the generalist",
            "score n d_G",
            False,
        ),
        claim("demonstrations that two stages need grow with the specialists", "score n d_H", True),
        claim(
            "demonstrations that labeled-only needs grow with the generalist", "labeled n d_G", True
        ),
        claim("rollouts that drawn chunks need grow with the generalist", "noise N d_G", True),
    ]


def _estimators(results: Results) -> list[Claim]:
    rows = table(results, "differences")
    few = min((r["demos"] for r in rows), default=0)

    def claim(text: str, mine: list[Row], held: Callable[[Row], bool]) -> Claim:
        numbers = ", ".join(f"d={r['d']}, {r['demos']} demos: {interval(r)}" for r in mine)
        return (
            Claim(text, word(all(map(held, mine)), any(r["low"] > 0 for r in mine)), numbers)
            if mine
            else missing(text)
        )

    out = [
        claim(
            f"the relative ratio beats the raw one at {few} demonstrations (error, lower is "
            "better)",
            [
                r
                for r in rows
                if r["a - b"] == "quadratic, relative - quadratic, raw" and r["demos"] == few
            ],
            lambda r: r["high"] < 0,
        )
    ]
    for name in dict.fromkeys(
        r["a - b"] for r in rows if r["a - b"].endswith("mlp in-sample, raw")
    ):
        ours = name.removesuffix(" - mlp in-sample, raw")
        out.append(
            claim(
                f"{ours} is not beaten by a network whose ratio is read off in sample",
                [r for r in rows if r["a - b"] == name],
                lambda r: r["high"] < NO_WORSE,
            )
        )
    return out


def _pareto(results: Results) -> list[Claim]:
    rows = [r for r in table(results, "gaps") if r["measure"] == "success"]
    out = []
    for front, against in dict.fromkeys((r["front"], r["against"]) for r in rows):
        mine = [r for r in rows if (r["front"], r["against"]) == (front, against)]
        higher = sum(r["weighed by lambda"] > 0 for r in mine)
        better, worse = (sum(r["verdict"] == w for r in mine) for w in ("BETTER", "WORSE"))
        volume = next(
            (
                Change(d["difference"], *d["interval"])
                for d in results.get("differences", [])
                if (d["front"], d["against"], d["measure"]) == (front, against, "success")
            ),
            None,
        )
        held = (
            higher == len(mine)
            and worse == 0
            and (better > 0 if volume is None else volume.low > 0)
        )
        reverse = worse > better or (volume is not None and volume.high < 0)
        out.append(
            Claim(
                f"{front}: the generalist's front lies above that of {against}",
                word(held, reverse),
                f"weighed by lambda above at {higher} of {len(mine)} preferences, {better} with an "
                f"interval that excludes 0, {worse} below with one"
                + ("" if volume is None else f"; hypervolume {volume}"),
            )
        )
    return out


# by recipe: columns that its results have, and what judges them
CLAIMS: dict[str, tuple[tuple[str, ...], Callable[[Results], list[Claim]]]] = {
    "demos": (("demos.episodes", "a - b"), sweep_claims.demos),
    "generalist_width": (("policy.width",), sweep_claims.generalist_width),
    "exact": (("elasticity",), _exact),
    "specialist_width": (("specialist.width", "demos.episodes"), sweep_claims.specialist_width),
    "rollouts": (("distill.rollouts", "policy.width"), sweep_claims.rollouts),
    "weights": (("specialist.train.steps", "policy.width", "a - b"), weighing_claims.weights),
    "estimators": (("d", "demos"), _estimators),
    "pareto": (("lambda", "against"), _pareto),
    "shares": (("demos.episodes", "a - b"), weighing_claims.shares),
    "resultant": (("demos.ends", "a - b"), weighing_claims.resultant),
    "blind": (("demos.episodes", "a - b"), weighing_claims.blind),
    "outcome": (("demos.episodes", "a - b"), weighing_claims.outcome),
    "conflict": ((weighing_claims.FEWER, "a - b"), weighing_claims.conflict),
    "targets": (("distill.train.steps",), sweep_claims.targets),
    "rounds": (("distill.rounds.count", "a - b"), sweep_claims.rounds),
    "environments": (("environments",), sweep_claims.environments),
    "adapt": (("left out", "demonstrations", "a - b"), adaptation_claims.adapt),
    "adapt_planar": (("left out", "demonstrations", "a - b"), adaptation_claims.adapt),
    "restoration_pairs": (("demos.episodes", "a - b"), sweep_claims.restoration_pairs),
}
