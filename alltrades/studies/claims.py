"""What each experiment was expected to show, and whether its numbers show it.

`judge(NAME, results)` reads what `results.json` of the recipe experiments/NAME holds. A claim is "held" where intervals
or differences support it, "refuted" where they speak against it, else "undecided". Thresholds are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Verdict = Literal["held", "refuted", "undecided"]
Row = dict[str, Any]
Results = Mapping[str, Any]
EQUAL = 0.05  # in success, as in verdicts of paired differences
RATIO_COST = -0.03  # pooled, from which `ratio` is not to be the default
FOLLOWS = 0.7  # correlation from which one curve follows another


@dataclass(frozen=True)
class Claim:
    """A statement that an experiment can refute, the verdict, and the numbers that it rests on."""

    text: str
    verdict: Verdict
    numbers: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.text} ({self.numbers})"


def judge(name: str, results: Results) -> list[Claim]:
    """Claims of the recipe experiments/NAME on its results; none for a recipe without any.

    Args:
        results: content of results.json: "tables" with "columns" and "rows" by name, and the study's further facts.
    """
    return CLAIMS[name](results) if name in CLAIMS else []


# ---- helpers -----------------------------------------------------------------------------------------------------
def table(results: Results, name: str) -> list[Row]:
    """Rows of a table as mappings; none for a table that is not there."""
    found = results["tables"].get(name)
    return [] if found is None else [dict(zip(found["columns"], row)) for row in found["rows"]]


def _differences(results: Results, pair: str, metric: str = "") -> list[Row]:
    return [r for r in table(results, f"differences{metric}") if r["a - b"] == pair]


def _of(results: Results, row: str, name: str = "success", **values: Any) -> list[Row]:
    return [r for r in table(results, name) if r["row"] == row and all(r[k] == v for k, v in values.items())]


def _said(rows: list[Row], key: str, value: str = "difference") -> str:
    sign = "+" if value == "difference" else ""
    return ", ".join(f"{r[key]}: {r[value]:{sign}.3f} [{r['low']:{sign}.3f}, {r['high']:{sign}.3f}]" for r in rows)


def _word(held: bool, refuted: bool) -> Verdict:
    return "refuted" if refuted else "held" if held else "undecided"


def _above(rows: list[Row]) -> Verdict:
    """Held where every difference is BETTER, refuted where one is WORSE."""
    return _word(bool(rows) and all(r["verdict"] == "BETTER" for r in rows), any(r["verdict"] == "WORSE" for r in rows))


# ---- the experiments, in method.md's order -------------------------------------------------------------------------
def _demos(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for row in ("generalist", "filtered"):
        tracks = _differences(results, f"{row} - specialists")
        out.append(Claim(f"{row} tracks or exceeds the specialists at every number of demonstrations",
                         _word(all(r["low"] > -EQUAL for r in tracks), any(r["high"] < -EQUAL for r in tracks)),
                         _said(tracks, key)))
        lead = _differences(results, f"{row} - labeled_only")
        few = [r for r in lead if r[key] <= 10]
        out.append(Claim(f"{row} is above labeled-only at 10 demonstrations and fewer", _above(few), _said(few, key)))
        last = max(lead, key=lambda r: r[key])
        out.append(Claim(f"labeled-only is level with {row} at {last[key]} demonstrations",
                         _word(last["verdict"] == "SAME", last["low"] > EQUAL), _said([last], key)))
    own = [r for r in _differences(results, "filtered - labeled_only_plus") if r[key] <= 10]
    return [*out, Claim("with success filter, specialists beside labeled-only are better teachers than labeled-only alone",
                        _above(own), _said(own, key))]


def _generalist_width(results: Results) -> list[Claim]:
    key, out = "policy.width", []
    for row in ("generalist", "labeled_only"):
        rows = sorted(_of(results, row), key=lambda r: r[key])
        best, widest = max(rows, key=lambda r: r["success"]), rows[-1]
        out.append(Claim(f"{row} does not get worse with width", _word(
            widest["success"] > best["success"] - EQUAL, widest["high"] < best["low"] and
            widest["success"] <= best["success"] - EQUAL), _said(rows, key, "success")))
    return out


def _specialist_width(results: Results) -> list[Claim]:
    key, out = "specialist.width", []
    numbers = sorted({r["demos.episodes"] for r in table(results, "success")})
    for n in numbers:
        rows = sorted(_of(results, "specialists", **{"demos.episodes": n}), key=lambda r: r[key])
        best = max(rows, key=lambda r: r["success"])
        inner = best not in (rows[0], rows[-1])
        falls = [end["high"] < best["low"] for end in (rows[0], rows[-1])]
        flat = not any(r["high"] < best["low"] for r in rows)
        out.append(Claim(f"{n} demonstrations: success is an inverted U in the specialists' width",
                         _word(inner and all(falls), flat or not inner), _said(rows, key, "success")))
    pairs = np.array([(a["success"], b["success"]) for a, b in zip(_of(results, "specialists"), _of(results, "generalist"))])
    value = float(np.corrcoef(pairs.T)[0, 1]) if len(pairs) > 2 and pairs.std(0).min() > 0 else float("nan")
    return [*out, Claim("the generalist follows the specialists", _word(value > FOLLOWS, value < 0),
                        f"correlation of means over {len(pairs)} settings {value:.2f}")]


def _rollouts(results: Results) -> list[Claim]:
    key, out = "distill.rollouts", []
    for width in sorted({r["policy.width"] for r in table(results, "success")}):
        rows = sorted(_of(results, "generalist", **{"policy.width": width}), key=lambda r: r[key])
        first, last, before = rows[0], rows[-1], rows[-2]
        said = _said(rows, key, "success")
        out.append(Claim(f"generalist of width {width}: success rises with rollouts",
                         _word(last["low"] > first["high"], last["success"] <= first["success"]), said))
        out.append(Claim(f"generalist of width {width}: from {before[key]} to {last[key]} rollouts it has levelled off",
                         _word(abs(last["success"] - before["success"]) < EQUAL, last["low"] > before["high"]), said))
    return out


def _weights(results: Results) -> list[Claim]:
    found = _differences(results, "generalist - none")
    cost = float(np.mean([r["difference"] for r in found]))
    seeds = [float(np.mean([r[k] for r in found])) for k in found[0] if k.startswith("seed ")]

    def named(r: Row) -> str:
        return (f"specialists of {r['specialist.train.steps']} steps, generalist {r['policy.width']} wide {r['difference']:+.3f} "
                f"[{r['low']:+.3f}, {r['high']:+.3f}]")

    active = [r["weights active in"] for r in _of(results, "generalist")]
    out = [Claim("ratio weights cost no more than 3 points over all settings", _word(cost >= RATIO_COST, cost < RATIO_COST),
                 f"ratio - none {cost:+.3f}, seeds {', '.join(f'{s:+.3f}' for s in seeds)}; active in "
                 f"{'; '.join(map(str, active))} environments")]
    wide = max(r["policy.width"] for r in found)
    for small, text in ((False, "the large generalist gains or loses little by ratio weights"),
                        (True, "ratio weights help the small generalist")):
        mine = [r for r in found if (r["policy.width"] < wide) is small]
        verdict = _above(mine) if small else _word(all(-EQUAL < r["low"] and r["high"] < EQUAL for r in mine),
                                                   any(r["low"] > EQUAL or r["high"] < -EQUAL for r in mine))
        out.append(Claim(text, verdict, "; ".join(map(named, mine)) or "no smaller generalist"))
    filtered = _differences(results, "success - none")
    return [*out, Claim("the success filter helps in every setting", _above(filtered), "; ".join(map(named, filtered)))]


def _targets(results: Results) -> list[Claim]:
    key = "distill.train.steps"
    found = sorted(_differences(results, "score - generalist"), key=lambda r: r[key])
    score = sorted(_of(results, "score"), key=lambda r: r[key])
    end = max(_of(results, "generalist"), key=lambda r: r[key])
    reached = next((r[key] for r in score if r["success"] >= end["success"] - 0.02), None)
    return [Claim("chunks drawn from the teacher are nowhere the better target", _word(
                all(r["low"] > -EQUAL for r in found), any(r["verdict"] == "WORSE" for r in found)), _said(found, key)),
            Claim("both targets end alike", _word(found[-1]["verdict"] == "SAME", abs(found[-1]["difference"]) > EQUAL),
                  _said(found[-1:], key)),
            Claim("score needs at least 2 times fewer steps",
                  _word(reached is not None and end[key] >= 2 * reached, reached is None),
                  f"noise {end['success']:.3f} after {end[key]} steps, score within 0.02 of it after {reached}")]


def _rounds(results: Results) -> list[Claim]:
    key, out = "distill.rounds.count", []
    for row, who in (("generalist", "labelled by the best teacher"), ("self", "own successes")):
        gaps = sorted(_differences(results, f"{row} - specialists"), key=lambda r: r[key])
        gap, change = -gaps[0]["difference"], gaps[-1]["difference"] - gaps[0]["difference"]
        verdict = _word(change > gap / 2, change < 0.02) if gap > EQUAL else "undecided"
        out.append(Claim(f"rounds ({who}) close at least half of the gap to the specialists", verdict,
                         f"{row} - specialists by rounds: {_said(gaps, key)}"))
    return out


def _environments(results: Results) -> list[Claim]:
    key, out = "environments", []
    name = "success_common" if table(results, "success_common") else "success"
    rows = {row: sorted(_of(results, row, name), key=lambda r: r[key]) for row in ("labeled_only", "generalist")}
    for row, text in (("labeled_only", "labeled-only gains from structure that tasks share"),
                      ("generalist", "the generalist keeps its success as environments are added")):
        first, last = rows[row][0], rows[row][-1]
        held = last["low"] > first["high"] if row == "labeled_only" else last["success"] > first["success"] - EQUAL
        out.append(Claim(text, _word(held, last["high"] < first["low"]),
                         f"{row} in the common environments: {_said(rows[row], key, 'success')}"))
    lead = sorted(_differences(results, "generalist - labeled_only"), key=lambda r: r[key])
    return [*out, Claim("labeled-only falls behind the generalist as environments are added", _word(
        lead[-1]["low"] > lead[0]["high"], lead[-1]["high"] < lead[0]["low"]), f"generalist - labeled_only: {_said(lead, key)}")]


def _restoration_pairs(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for metric in ("psnr", "ssim"):
        for other in ("labeled_only", "labeled_only_holdout"):
            lead = sorted(_differences(results, f"generalist - {other}", f"_{metric}"), key=lambda r: r[key])
            few = lead[0]
            out.append(Claim(f"{metric}: the generalist is above {other} at {few[key]} pairs",
                             _word(few["low"] > 0, few["high"] < 0), _said(lead, key)))
            out.append(Claim(f"{metric}: the lead over {other} falls with pairs", _word(
                lead[-1]["high"] < few["low"], lead[-1]["low"] > few["high"]), _said(lead, key)))
    return out


def _exact(results: Results) -> list[Claim]:
    found = results["elasticities"]

    def claim(text: str, key: str, held: Callable[[float, float], bool], refuted: Callable[[float, float], bool]) -> Claim:
        e = found.get(key)
        if e is None:
            return Claim(text, "undecided", f"{key}: not reached")
        low, high = e["interval"]
        return Claim(text, _word(held(low, high), refuted(low, high)), f"elasticity {e['value']:+.2f} [{low:+.2f}, {high:+.2f}]")

    return [claim("demonstrations that two stages need do not grow with the generalist", "score n d_G",
                  lambda low, high: high < 0.25, lambda low, high: low > 0.25),
            claim("demonstrations that two stages need grow with the specialists", "score n d_H",
                  lambda low, high: low > 0.25, lambda low, high: high < 0.25),
            claim("demonstrations that labeled-only needs grow with the generalist", "labeled n d_G",
                  lambda low, high: low > 0.25, lambda low, high: high < 0.25),
            claim("rollouts that drawn chunks need grow with the generalist", "noise N d_G",
                  lambda low, high: low > 0.25, lambda low, high: high < 0.25)]


def _estimators(results: Results) -> list[Claim]:
    rows = table(results, "differences")
    few = min(r["demos"] for r in rows)

    def said(mine: list[Row]) -> str:
        return ", ".join(f"d={r['d']}, {r['demos']} demos: {r['difference']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
                         for r in mine)

    raw = [r for r in rows if r["a - b"] == "quadratic, relative - quadratic, raw" and r["demos"] == few]
    out = [Claim(f"the relative ratio beats the raw one at {few} demonstrations (error, lower is better)",
                 _word(all(r["high"] < 0 for r in raw), any(r["low"] > 0 for r in raw)), said(raw))]
    for name in dict.fromkeys(r["a - b"] for r in rows if r["a - b"].endswith("mlp in-sample, raw")):
        mine = [r for r in rows if r["a - b"] == name]
        ours = name.removesuffix(" - mlp in-sample, raw")
        out.append(Claim(f"{ours} is not beaten by a network whose ratio is read off in sample",
                         _word(all(r["difference"] <= 0 for r in mine), any(r["low"] > 0 for r in mine)), said(mine)))
    return out


def _pareto(results: Results) -> list[Claim]:
    rows = [r for r in table(results, "gaps") if r["measure"] == "success"]
    out = []
    for front, against in dict.fromkeys((r["front"], r["against"]) for r in rows):
        mine = [r for r in rows if (r["front"], r["against"]) == (front, against)]
        above = sum(r["weighed by lambda"] > 0 for r in mine)
        better, worse = (sum(r["verdict"] == w for r in mine) for w in ("BETTER", "WORSE"))
        out.append(Claim(f"{front}: the generalist's front is above that of {against} at every preference",
                         _word(above == len(mine), worse > 0), f"above at {above} of {len(mine)} preferences, {better} with an "
                         f"interval that excludes 0, {worse} below with one"))
    return out


CLAIMS: dict[str, Callable[[Results], list[Claim]]] = {
    "demos": _demos, "generalist_width": _generalist_width, "exact": _exact, "specialist_width": _specialist_width,
    "rollouts": _rollouts, "weights": _weights, "estimators": _estimators, "pareto": _pareto, "targets": _targets,
    "rounds": _rounds, "environments": _environments, "restoration_pairs": _restoration_pairs,
}
