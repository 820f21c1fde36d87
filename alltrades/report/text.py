"""Numbers and names as text, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alltrades.report.columns import columns

if TYPE_CHECKING:
    from alltrades.envs.rollouts.evaluation import Evaluation
    from alltrades.envs.rollouts.sequential import Sequential

WORDS = {
    "BETTER": "better than {}",
    "WORSE": "worse than {}",
    "SAME": "the same as {} within 0.05",
    "SEEDS DISAGREE": "not told apart from {} by these training seeds",
    "UNDERPOWERED": "not told apart from {} by this many episodes",
}


def rate(value: float | None, digits: int = 2) -> str:
    """A share or any small number; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = 2) -> str:
    """ "[0.71, 0.92]"."""
    return "" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def signed(value: float, digits: int = 3) -> str:
    """With its sign; what rounds to nothing has none."""
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def signed_interval(bounds: Sequence[float], digits: int = 3) -> str:
    """ "[+0.020, +0.110]"."""
    return f"[{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]"


def duration(seconds: float) -> str:
    """ "0.4 s", "42 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def metric(pair: Mapping[str, Any]) -> str:
    """ ", psnr" for a pair that compares another metric than success."""
    return "" if pair.get("metric", "success") == "success" else f", {pair['metric']}"


def sentence(pairs: Sequence[Mapping[str, Any]], a: str = "generalist") -> str | None:
    """A sentence for every metric on row `a` against the rows it was compared with; None when it
    was compared with none.
    """
    names = dict.fromkeys(pair.get("metric", "success") for pair in pairs)
    found = [
        _sentence([p for p in pairs if p.get("metric", "success") == name], a, name)
        for name in names
    ]
    return " ".join(s for s in found if s) or None


def _sentence(pairs: Sequence[Mapping[str, Any]], a: str, name: str) -> str | None:
    groups: dict[str, list[str]] = {}
    for pair in pairs:
        if pair["a"] == a:
            groups.setdefault(pair["verdict"], []).append(pair["b"])
    words = WORDS | {"SAME": "the same as {} within a tenth of their deviation"}
    words = words if name == "return" else WORDS
    parts = [words.get(word, "{}").format(_and(names)) for word, names in groups.items()]
    start = "The" if name == "success" else f"In {name} the"
    return f"{start} {a} is {_and(parts, ', and ')}." if parts else None


def by_environment(pair: Mapping[str, Any]) -> list[str]:
    """A pair's difference in each environment, in aligned columns under a heading."""
    rows = [
        [name, signed(found["mean"]), signed_interval(found["interval"]), found["verdict"]]
        for name, found in pair["per_environment"].items()
    ]
    return [f"{pair['a']} - {pair['b']}{metric(pair)}", *columns(rows, right=(1,))]


def sequential(found: Sequential) -> str:
    """The outcome of a sequential comparison and the rounds that it took."""
    up, down = found.evidence
    rounds = f"after {found.rounds} starts per environment"
    return f"{found.verdict} {rounds} (evidence {up:.3g} for, {down:.3g} against)"


def selection(table: Mapping[str, Any]) -> str:
    """What cross-validation of specialists chose."""
    ordered = sorted(table["relative_loss"].items(), key=lambda item: (item[1] is None, item[1]))
    losses = ", ".join(
        f"{name} diverged" if loss is None else f"{name} {loss:.3f}" for name, loss in ordered
    )
    return (
        f"cross-validation over {len(table['losses'])} environments chose: {table['chosen']}, "
        f"{table['steps']:,} of {table['of']:,} steps (held-out loss in shares of the lowest: "
        f"{losses})"
    )


def weight_warnings(warnings: Mapping[str, Sequence[str]], most: int = 3) -> list[str]:
    """What went wrong in weighing rollouts, from the warnings of every environment: equal ones
    together, `most` of them.
    """
    groups: dict[str, list[str]] = {}
    for name, messages in warnings.items():
        for message in messages:
            groups.setdefault(message, []).append(name)
    lines = []
    for message, names in groups.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        lines.append(f"{', '.join(names[:most])}{more}: {message}")
    return (
        lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more warnings"]
    )


def _and(parts: Sequence[str], last: str = " and ") -> str:
    return last.join(x for x in (", ".join(parts[:-1]), parts[-1]) if x)


def tally(pair: Mapping[str, Any]) -> tuple[int, int, int]:
    """Environments in which a pair's interval lies above 0, below 0, and their number."""
    each = [v["interval"] for v in pair.get("per_environment", {}).values()]
    return sum(low > 0 for low, _ in each), sum(high < 0 for _, high in each), len(each)


def faults(rows: Mapping[str, Sequence[Evaluation]], most: int = 3) -> list[str]:
    """A line for every environment that could not finish some of its episodes: how many of each
    row, and `most` of the reasons.
    """
    counts: dict[str, dict[str, int]] = {}
    reasons: dict[str, dict[str, None]] = {}
    for name, evaluations in rows.items():
        for result in (r for e in evaluations for r in e.rows):
            for seed, fault in zip(result.seeds, result.faults):
                if fault:
                    of_row = counts.setdefault(result.environment, {})
                    of_row[name] = of_row.get(name, 0) + 1
                    reasons.setdefault(result.environment, {})[f"seed {seed} {fault}"] = None
    lines = []
    for environment, of_row in counts.items():
        told = list(reasons[environment])
        more = f"; and {len(told) - most} more" if len(told) > most else ""
        episodes = _and([f"{n} of {row}" for row, n in of_row.items()])
        lines.append(
            f"{environment}: episodes that it could not finish count as failed, {episodes}: "
            f"{'; '.join(told[:most])}{more}"
        )
    return lines


def kept(teachers: Mapping[str, Any]) -> str:
    """What a generalist keeps of its best teachers (see `pipeline.gap`), in words."""
    names = dict.fromkeys(facts["teacher"] for facts in teachers["environments"].values())
    share = "none of them ever succeeds"
    if teachers["kept"] is not None:
        ends = teachers["interval"]
        within = "(too few successes for an interval)" if ends is None else interval(ends)
        share = f"it keeps {rate(teachers['kept'])} {within} of it"
    best = f"the best of {', '.join(names)} by environment" if len(names) > 1 else next(iter(names))
    return (
        f"{teachers['row']} {rate(teachers['mean'], 3)}, its teachers "
        f"{rate(teachers['teachers_mean'], 3)} ({best}): {share}"
    )
