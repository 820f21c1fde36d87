"""What each sweep was expected to show, and whether its numbers show it; see `claims`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alltrades.envs.rollouts.verdicts import EQUAL
from alltrades.studies.evidence import (
    Change,
    Claim,
    Results,
    Verdict,
    above,
    change,
    differences,
    interval,
    judged,
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

FOLLOWS = 0.7  # correlation from which one curve follows another
FEW, MANY = (
    10,
    50,
)  # demonstrations up to which labeled-only must not win, and from which it is to have caught up


def demos(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for row in ("generalist", "filtered", "practice"):
        tracks, lead = (
            differences(results, f"{row} - {other}", key)
            for other in ("specialists", "labeled_only")
        )
        out.append(
            judged(
                f"{row} tracks or exceeds the specialists at every number of demonstrations",
                tracks,
                lambda rows: no_lower([interval(r) for r in rows]),
                key,
            )
        )
        out.append(
            judged(
                f"{row} is above labeled-only at {FEW} demonstrations and fewer",
                [r for r in lead if r[key] <= FEW],
                above,
                key,
            )
        )
        out.append(
            judged(
                f"labeled-only has caught up with {row} at {MANY} demonstrations",
                [r for r in lead if r[key] >= MANY][:1],
                lambda rows: word(rows[0]["high"] < EQUAL, rows[0]["low"] > EQUAL),
                key,
            )
        )
    for row, text in (
        (
            "filtered",
            "with success filter, specialists beside labeled-only are better teachers than "
            "labeled-only alone",
        ),
        (
            "practice",
            "fine-tuned specialists beside these, and rounds, are better than labeled-only's "
            "successes",
        ),
    ):
        lead = [r for r in differences(results, f"{row} - labeled_only_plus", key) if r[key] <= FEW]
        out.append(judged(text, lead, above, key))
    return out


def generalist_width(results: Results) -> list[Claim]:
    key, out = "policy.width", []
    for row in ("generalist", "labeled_only"):
        text, rows = f"{row} does not get worse with width", rows_of(results, row, key)
        if len(rows) < 2:
            out.append(missing(text))
            continue
        best = max(rows[:-1], key=lambda r: r["success"])
        found = change(rows[-1], best)
        out.append(
            Claim(
                text,
                no_lower([found]),
                f"{said(rows, key, 'success')}; {rows[-1][key]} against {best[key]} wide {found}",
            )
        )
    return out


def specialist_width(results: Results) -> list[Claim]:
    key, sensitive = "specialist.width", False
    out: list[Claim] = []
    centred: list[np.ndarray] = []
    for n in sorted({r["demos.episodes"] for r in table(results, "success")}):
        text = f"{n} demonstrations: success is an inverted U in the specialists' width"
        rows, follow = (
            rows_of(results, who, key, **{"demos.episodes": n})
            for who in ("specialists", "generalist")
        )
        if len(rows) < 3:
            out.append(missing(text))
            continue
        best, ends = max(rows, key=lambda r: r["success"]), (rows[0], rows[-1])
        inner = max(rows[1:-1], key=lambda r: r["success"])
        flat = all(change(best, r).high < EQUAL for r in rows if r is not best)
        outside = any(change(end, inner).low > 0 for end in ends)
        out.append(
            Claim(
                text,
                word(all(change(inner, end).low > 0 for end in ends), flat or outside),
                said(rows, key, "success"),
            )
        )
        sensitive |= not flat
        if [r[key] for r in rows] == [r[key] for r in follow]:
            pairs = np.array([[a["success"], b["success"]] for a, b in zip(rows, follow)])
            centred.append(
                pairs - pairs.mean(0)
            )  # else more demonstrations, which help both, would correlate them
    text = "the generalist follows the specialists' width"
    every = np.concatenate([*centred, np.empty((0, 2))])
    if len(every) < 3 or every.std(0).min() == 0:
        return [*out, missing(text)]
    value = float(np.corrcoef(every.T)[0, 1])
    return [
        *out,
        Claim(
            text,
            word(sensitive and value > FOLLOWS, sensitive and value < 0),
            f"correlation of means at equal demonstrations, {len(every)} settings: {value:.2f}",
        ),
    ]


def rollouts(results: Results) -> list[Claim]:
    key = "distill.rollouts"
    out: list[Claim] = []
    widths = sorted({r["policy.width"] for r in table(results, "success")})
    for row, width in ((row, width) for row in ("generalist", "filtered") for width in widths):
        rows = rows_of(results, row, key, **{"policy.width": width})
        texts = [
            f"{row} of width {width}: success {what} with rollouts"
            for what in ("rises", "levels off")
        ]
        if len(rows) < 3:
            out += map(missing, texts)
            continue
        rise, end = change(rows[-1], rows[0]), change(rows[-1], rows[-2])
        start = next(
            i
            for i in range(len(rows))
            if all(abs(change(rows[-1], r).value) < EQUAL for r in rows[i:])
        )
        out += [
            Claim(
                texts[0],
                positive(rise),
                f"{said(rows, key, 'success')}; {rows[-1][key]} against {rows[0][key]} {rise}",
            ),
            Claim(
                texts[1],
                level(end),
                f"{rows[-1][key]} against {rows[-2][key]} rollouts {end}; means are within {EQUAL} "
                f"of the last from {rows[start][key]} on",
            ),
        ]
    return out


def targets(results: Results) -> list[Claim]:
    key = "distill.train.steps"
    found = differences(results, "score - generalist", key)
    out = [
        judged(
            "chunks drawn from the teacher are nowhere the better target",
            found,
            lambda rows: word(
                all(r["low"] > -EQUAL for r in rows), any(r["verdict"] == "WORSE" for r in rows)
            ),
            key,
        ),
        judged("both targets end alike", found[-1:], lambda rows: level(interval(rows[0])), key),
    ]
    text, noise, score = (
        "score needs at least 2 times fewer steps",
        *(rows_of(results, r, key) for r in ("generalist", "score")),
    )
    if not found or len(noise) < 2 or not score:
        return [*out, missing(text)]
    end = noise[-1]
    reached, own = (
        next((r[key] for r in rows if r is end or change(r, end).low > -EQUAL), None)
        for rows in (score, noise)
    )
    assert own is not None
    return [
        *out,
        Claim(
            text,
            word(
                reached is not None and own >= 2 * reached,
                found[-1]["high"] < -EQUAL if reached is None else own < reached,
            ),
            f"noise {end['success']:.3f} after {end[key]} steps; no lower by more than {EQUAL}: "
            f"noise from {own}, score from {'none' if reached is None else reached} of "
            f"{', '.join(str(r[key]) for r in score)} steps",
        ),
    ]


def rounds(results: Results) -> list[Claim]:
    key, out = "distill.rounds.count", []
    for row, who in (("generalist", "labelled by the best teacher"), ("self", "own successes")):
        text = f"rounds ({who}) close at least half of the gap to the specialists"
        gaps = differences(results, f"{row} - specialists", key)
        if len(gaps) < 2 or gaps[0][key] != 0:
            out.append(missing(text))
            continue
        gap, closed = -gaps[0]["difference"], change(gaps[-1], gaps[0], "difference")
        trails = gap > EQUAL and gaps[0]["high"] < 0
        out.append(
            Claim(
                text,
                word(
                    trails and closed.value >= gap / 2 and closed.low > 0,
                    trails and closed.high < EQUAL,
                ),
                f"{row} - specialists by rounds: {said(gaps, key)}; closed {closed}"
                + ("" if trails else f"; no gap above {EQUAL}"),
            )
        )
    return out


def environments(results: Results) -> list[Claim]:
    key, out = "environments", []
    common = "_common" if table(results, "success_common") else ""
    cases: tuple[tuple[str, str, Callable[[Change], Verdict]], ...] = (
        ("labeled_only", "labeled-only gains from structure that tasks share", signed),
        (
            "generalist",
            "the generalist keeps its success as environments are added",
            lambda c: no_lower([c]),
        ),
    )
    where = "in the common environments"
    for row, text, verdict in cases:
        rows = rows_of(results, row, key, f"success{common}")
        if len(rows) < 2:
            out.append(missing(text))
            continue
        found = change(rows[-1], rows[0])
        out.append(
            Claim(
                text,
                verdict(found),
                f"{row} {where}: {said(rows, key, 'success')}; {rows[-1][key]} against "
                f"{rows[0][key]} environments {found}",
            )
        )
    text = "labeled-only falls behind the generalist as environments are added"
    lead = differences(results, "generalist - labeled_only", key, f"differences{common}")
    if len(lead) < 2:
        return [*out, missing(text)]
    found = change(lead[-1], lead[0], "difference")
    return [
        *out,
        Claim(
            text,
            signed(found),
            f"generalist - labeled_only {where}: {said(lead, key)}; change {found}",
        ),
    ]


def restoration_pairs(results: Results) -> list[Claim]:
    key, out = "demos.episodes", []
    for metric in ("psnr", "ssim"):
        for other in ("labeled_only", "labeled_only_holdout"):
            lead = differences(results, f"generalist - {other}", key, f"differences_{metric}")
            n = lead[0][key] if lead else "the fewest"
            out.append(
                judged(
                    f"{metric}: the generalist is above {other} at {n} pairs",
                    lead[:1],
                    lambda rows: word(
                        rows[0]["verdict"] == "BETTER", rows[0]["verdict"] in ("SAME", "WORSE")
                    ),
                    key,
                )
            )
            text = f"{metric}: the lead over {other} falls with pairs"
            if len(lead) < 2:
                out.append(missing(text))
                continue
            found = change(lead[-1], lead[0], "difference")
            out.append(
                Claim(
                    text, word(found.high < 0, found.low > 0), f"{said(lead, key)}; change {found}"
                )
            )
    return out
