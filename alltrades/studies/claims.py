"""What each experiment was expected to show, and whether its numbers show it.

`judge(NAME, results)` reads what `results.json` of the recipe experiments/NAME holds. A claim is "held" where 95 % intervals
support it, "refuted" where they speak against it, else "undecided", as it is where something was not measured. Success
counts as equal within 5 points. Thresholds are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alltrades.envs.statistics import EQUAL
from alltrades.studies.evidence import (
    Change,
    Claim,
    Results,
    Row,
    Verdict,
    above,
    change,
    differences,
    interval,
    level,
    missing,
    no_lower,
    positive,
    rows_of,
    said,
    signed,
    table,
    word,
)

RATIO_COST = -0.03  # pooled, from which `ratio` is not to be the default
FOLLOWS = 0.7  # correlation from which one curve follows another
FEW, MANY = 10, 50  # demonstrations up to which labeled-only must not win, and from which it is to have caught up
GROWS = 0.25  # elasticity from which a need grows with a size
NO_WORSE = 0.05  # relative error by which an estimator may exceed another and not be beaten


def judge(name: str, results: Results) -> list[Claim]:
    """Claims of the recipe experiments/NAME on its results; none for other recipes, and results that are of none.

    Args:
        results: content of results.json: "tables" with "columns" and "rows" by name, and the study's further facts.
    """
    if name not in CLAIMS:
        return []
    settings, claims = CLAIMS[name]
    columns = {c for t in results["tables"].values() for c in t["columns"]}
    return claims(results) if columns.issuperset(settings) else []


# ---- the experiments, in method.md's order -------------------------------------------------------------------------
def _demos(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for row in ("generalist", "filtered"):
        tracks, lead = (differences(results, f"{row} - {other}", key) for other in ("specialists", "labeled_only"))
        out.append(_judged(f"{row} tracks or exceeds the specialists at every number of demonstrations", tracks,
                           lambda rows: no_lower([interval(r) for r in rows]), key))
        out.append(_judged(f"{row} is above labeled-only at {FEW} demonstrations and fewer",
                           [r for r in lead if r[key] <= FEW], above, key))
        out.append(_judged(f"labeled-only has caught up with {row} at {MANY} demonstrations",
                           [r for r in lead if r[key] >= MANY][:1],
                           lambda rows: word(rows[0]["high"] < EQUAL, rows[0]["low"] > EQUAL), key))
    return [*out, _judged("with success filter, specialists beside labeled-only are better teachers than labeled-only alone",
                          [r for r in differences(results, "filtered - labeled_only_plus", key) if r[key] <= FEW], above, key)]


def _judged(text: str, rows: list[Row], verdict: Callable[[list[Row]], Verdict], key: str, value: str = "difference") -> Claim:
    return Claim(text, verdict(rows), said(rows, key, value)) if rows else missing(text)


def _generalist_width(results: Results) -> list[Claim]:
    key, out = "policy.width", []
    for row in ("generalist", "labeled_only"):
        text, rows = f"{row} does not get worse with width", rows_of(results, row, key)
        if len(rows) < 2:
            out.append(missing(text))
            continue
        best = max(rows[:-1], key=lambda r: r["success"])
        found = change(rows[-1], best)
        out.append(Claim(text, no_lower([found]),
                         f"{said(rows, key, 'success')}; {rows[-1][key]} against {best[key]} wide {found}"))
    return out


def _specialist_width(results: Results) -> list[Claim]:
    key, sensitive = "specialist.width", False
    out: list[Claim] = []
    centred: list[np.ndarray] = []
    for n in sorted({r["demos.episodes"] for r in table(results, "success")}):
        text = f"{n} demonstrations: success is an inverted U in the specialists' width"
        rows, follow = (rows_of(results, who, key, **{"demos.episodes": n}) for who in ("specialists", "generalist"))
        if len(rows) < 3:
            out.append(missing(text))
            continue
        best, ends = max(rows, key=lambda r: r["success"]), (rows[0], rows[-1])
        inner = max(rows[1:-1], key=lambda r: r["success"])
        flat = all(change(best, r).high < EQUAL for r in rows if r is not best)
        outside = any(change(end, inner).low > 0 for end in ends)
        out.append(Claim(text, word(all(change(inner, end).low > 0 for end in ends), flat or outside),
                         said(rows, key, "success")))
        sensitive |= not flat
        if [r[key] for r in rows] == [r[key] for r in follow]:
            pairs = np.array([[a["success"], b["success"]] for a, b in zip(rows, follow)])
            centred.append(pairs - pairs.mean(0))  # else more demonstrations, which help both, would correlate them
    text = "the generalist follows the specialists' width"
    every = np.concatenate([*centred, np.empty((0, 2))])
    if len(every) < 3 or every.std(0).min() == 0:
        return [*out, missing(text)]
    value = float(np.corrcoef(every.T)[0, 1])
    return [*out, Claim(text, word(sensitive and value > FOLLOWS, sensitive and value < 0),
                        f"correlation of means at equal demonstrations, {len(every)} settings: {value:.2f}")]


def _rollouts(results: Results) -> list[Claim]:
    key = "distill.rollouts"
    out: list[Claim] = []
    for width in sorted({r["policy.width"] for r in table(results, "success")}):
        rows = rows_of(results, "generalist", key, **{"policy.width": width})
        texts = [f"generalist of width {width}: success {what} with rollouts" for what in ("rises", "levels off")]
        if len(rows) < 3:
            out += map(missing, texts)
            continue
        rise, end = change(rows[-1], rows[0]), change(rows[-1], rows[-2])
        start = next(i for i in range(len(rows)) if all(abs(change(rows[-1], r).value) < EQUAL for r in rows[i:]))
        out += [Claim(texts[0], positive(rise), f"{said(rows, key, 'success')}; {rows[-1][key]} against {rows[0][key]} {rise}"),
                Claim(texts[1], level(end), f"{rows[-1][key]} against {rows[-2][key]} rollouts {end}; means are within {EQUAL} "
                                            f"of the last from {rows[start][key]} on")]
    return out


def _weights(results: Results) -> list[Claim]:
    key = "policy.width"
    found, filtered = (differences(results, f"{row} - none", key) for row in ("generalist", "success"))

    def named(rows: list[Row]) -> str:
        return "; ".join(f"specialists of {r['specialist.train.steps']} steps, generalist {r[key]} wide {interval(r)}"
                         for r in rows)

    text = "ratio weights cost no more than 3 points over all settings"
    if found:
        # whatever the settings' correlation, the interval of their mean is no wider than the mean of their intervals
        pooled = Change(*(float(np.mean([r[k] for r in found])) for k in ("difference", "low", "high")))
        seeds = [float(np.mean([r[k] for r in found])) for k in found[0] if k.startswith("seed ")]
        active = [str(r["weights active in"] or 0) for r in rows_of(results, "generalist", key)]
        on = any(int(x) for words in active for x in words.split())
        cost = Claim(text, word(on and pooled.low >= RATIO_COST, on and pooled.high < RATIO_COST),
                     f"ratio - none {pooled}, seeds {', '.join(f'{s:+.3f}' for s in seeds)}; active in {'; '.join(active)} "
                     "environments")
    else:
        cost = missing(text)
    wide = max((r[key] for r in found), default=0)
    large, small = ([r for r in found if (r[key] == wide) is same] for same in (True, False))
    several = len({r[key] for r in found}) > 1
    claims = (("the large generalist gains or loses little by ratio weights", large if several else [], _all_level),
              ("ratio weights help the small generalist", small, above),
              ("the success filter helps in every setting", filtered, above))
    return [cost, *(Claim(text, verdict(rows), named(rows)) if rows else missing(text) for text, rows, verdict in claims)]


def _all_level(rows: list[Row]) -> Verdict:
    each = [level(interval(r)) for r in rows]
    return word(set(each) == {"held"}, "refuted" in each)


def _targets(results: Results) -> list[Claim]:
    key = "distill.train.steps"
    found = differences(results, "score - generalist", key)
    out = [_judged("chunks drawn from the teacher are nowhere the better target", found, lambda rows: word(
               all(r["low"] > -EQUAL for r in rows), any(r["verdict"] == "WORSE" for r in rows)), key),
           _judged("both targets end alike", found[-1:], lambda rows: level(interval(rows[0])), key)]
    text, noise, score = "score needs at least 2 times fewer steps", *(rows_of(results, r, key) for r in ("generalist", "score"))
    if not found or len(noise) < 2 or not score:
        return [*out, missing(text)]
    end = noise[-1]
    reached, own = (next((r[key] for r in rows if r is end or change(r, end).low > -EQUAL), None) for rows in (score, noise))
    assert own is not None
    return [*out, Claim(text, word(reached is not None and own >= 2 * reached,
                                   found[-1]["high"] < -EQUAL if reached is None else own < reached),
                        f"noise {end['success']:.3f} after {end[key]} steps; no lower by more than {EQUAL}: noise from {own}, "
                        f"score from {'none' if reached is None else reached} of "
                        f"{', '.join(str(r[key]) for r in score)} steps")]


def _rounds(results: Results) -> list[Claim]:
    key, out = "distill.rounds.count", []
    for row, who in (("generalist", "labelled by the best teacher"), ("self", "own successes")):
        text = f"rounds ({who}) close at least half of the gap to the specialists"
        gaps = differences(results, f"{row} - specialists", key)
        if len(gaps) < 2 or gaps[0][key] != 0:
            out.append(missing(text))
            continue
        gap, closed = -gaps[0]["difference"], change(gaps[-1], gaps[0], "difference")
        trails = gap > EQUAL and gaps[0]["high"] < 0
        out.append(Claim(text, word(trails and closed.value >= gap / 2 and closed.low > 0, trails and closed.high < EQUAL),
                         f"{row} - specialists by rounds: {said(gaps, key)}; closed {closed}"
                         + ("" if trails else f"; no gap above {EQUAL}")))
    return out


def _environments(results: Results) -> list[Claim]:
    key, out = "environments", []
    common = "_common" if table(results, "success_common") else ""
    cases: tuple[tuple[str, str, Callable[[Change], Verdict]], ...] = (
        ("labeled_only", "labeled-only gains from structure that tasks share", signed),
        ("generalist", "the generalist keeps its success as environments are added", lambda c: no_lower([c])))
    where = "in the common environments"
    for row, text, verdict in cases:
        rows = rows_of(results, row, key, f"success{common}")
        if len(rows) < 2:
            out.append(missing(text))
            continue
        found = change(rows[-1], rows[0])
        out.append(Claim(text, verdict(found), f"{row} {where}: {said(rows, key, 'success')}; {rows[-1][key]} against "
                                               f"{rows[0][key]} environments {found}"))
    text = "labeled-only falls behind the generalist as environments are added"
    lead = differences(results, "generalist - labeled_only", key, f"differences{common}")
    if len(lead) < 2:
        return [*out, missing(text)]
    found = change(lead[-1], lead[0], "difference")
    return [*out, Claim(text, signed(found), f"generalist - labeled_only {where}: {said(lead, key)}; change {found}")]


def _restoration_pairs(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for metric in ("psnr", "ssim"):
        for other in ("labeled_only", "labeled_only_holdout"):
            lead = differences(results, f"generalist - {other}", key, f"differences_{metric}")
            n = lead[0][key] if lead else "the fewest"
            out.append(_judged(f"{metric}: the generalist is above {other} at {n} pairs", lead[:1], lambda rows: word(
                rows[0]["verdict"] == "BETTER", rows[0]["verdict"] in ("SAME", "WORSE")), key))
            text = f"{metric}: the lead over {other} falls with pairs"
            if len(lead) < 2:
                out.append(missing(text))
                continue
            found = change(lead[-1], lead[0], "difference")
            out.append(Claim(text, word(found.high < 0, found.low > 0), f"{said(lead, key)}; change {found}"))
    return out


def _exact(results: Results) -> list[Claim]:
    def claim(text: str, key: str, grows: bool) -> Claim:
        e = results.get("elasticities", {}).get(key)
        if e is None:
            return Claim(text, "undecided", f"{key}: not reached")
        low, high = e["interval"]
        yes, no = low > GROWS, high < GROWS
        return Claim(text, word(yes if grows else no, no if grows else yes), f"elasticity {Change(e['value'], low, high)}")

    return [claim("demonstrations that two stages need do not grow with the generalist", "score n d_G", False),
            claim("demonstrations that two stages need grow with the specialists", "score n d_H", True),
            claim("demonstrations that labeled-only needs grow with the generalist", "labeled n d_G", True),
            claim("rollouts that drawn chunks need grow with the generalist", "noise N d_G", True)]


def _estimators(results: Results) -> list[Claim]:
    rows = table(results, "differences")
    few = min((r["demos"] for r in rows), default=0)

    def claim(text: str, mine: list[Row], held: Callable[[Row], bool]) -> Claim:
        numbers = ", ".join(f"d={r['d']}, {r['demos']} demos: {interval(r)}" for r in mine)
        return Claim(text, word(all(map(held, mine)), any(r["low"] > 0 for r in mine)), numbers) if mine else missing(text)

    out = [claim(f"the relative ratio beats the raw one at {few} demonstrations (error, lower is better)",
                 [r for r in rows if r["a - b"] == "quadratic, relative - quadratic, raw" and r["demos"] == few],
                 lambda r: r["high"] < 0)]
    for name in dict.fromkeys(r["a - b"] for r in rows if r["a - b"].endswith("mlp in-sample, raw")):
        ours = name.removesuffix(" - mlp in-sample, raw")
        out.append(claim(f"{ours} is not beaten by a network whose ratio is read off in sample",
                         [r for r in rows if r["a - b"] == name], lambda r: r["high"] < NO_WORSE))
    return out


def _pareto(results: Results) -> list[Claim]:
    rows = [r for r in table(results, "gaps") if r["measure"] == "success"]
    out = []
    for front, against in dict.fromkeys((r["front"], r["against"]) for r in rows):
        mine = [r for r in rows if (r["front"], r["against"]) == (front, against)]
        higher = sum(r["weighed by lambda"] > 0 for r in mine)
        better, worse = (sum(r["verdict"] == w for r in mine) for w in ("BETTER", "WORSE"))
        volume = next((Change(d["difference"], *d["interval"]) for d in results.get("differences", [])
                       if (d["front"], d["against"], d["measure"]) == (front, against, "success")), None)
        held = higher == len(mine) and worse == 0 and (better > 0 if volume is None else volume.low > 0)
        reverse = worse > better or (volume is not None and volume.high < 0)
        out.append(Claim(f"{front}: the generalist's front lies above that of {against}", word(held, reverse),
                         f"weighed by lambda above at {higher} of {len(mine)} preferences, {better} with an interval that "
                         f"excludes 0, {worse} below with one" + ("" if volume is None else f"; hypervolume {volume}")))
    return out


# by recipe: columns that its results have, and what judges them
CLAIMS: dict[str, tuple[tuple[str, ...], Callable[[Results], list[Claim]]]] = {
    "demos": (("demos.episodes", "a - b"), _demos), "generalist_width": (("policy.width",), _generalist_width),
    "exact": (("elasticity",), _exact), "specialist_width": (("specialist.width", "demos.episodes"), _specialist_width),
    "rollouts": (("distill.rollouts", "policy.width"), _rollouts),
    "weights": (("specialist.train.steps", "policy.width", "a - b"), _weights), "estimators": (("d", "demos"), _estimators),
    "pareto": (("lambda", "against"), _pareto), "targets": (("distill.train.steps",), _targets),
    "rounds": (("distill.rounds.count", "a - b"), _rounds), "environments": (("environments",), _environments),
    "restoration_pairs": (("demos.episodes", "a - b"), _restoration_pairs),
}
