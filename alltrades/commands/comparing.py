"""Two evaluations, or rows over several runs, beside one another: compare."""

from __future__ import annotations

import argparse
import sys
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from alltrades.commands.command import Command, at_least
from alltrades.errors import UserError

if TYPE_CHECKING:
    from alltrades.envs.rollouts.evaluation import Evaluation

# settings by which training seeds of one experiment may differ, or that evaluations say themselves
ASIDE = {
    *("name", "title", "seed", "trainings", "compute", "device", "same_code", "tracking"),
    *("report", "evaluation", "adapt"),
}
ACTED_BY = tuple(f"rollout.{key}" for key in ("workers", "timeout", "lanes", "batch", "engine"))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a",
        nargs="+",
        help="two evaluation JSON files, or run folders (paired over training seeds)",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=None,
        metavar="ROW",
        help="rows to compare when run folders are given: the first with each of the others",
    )
    parser.add_argument(
        "--at", type=at_least(1), default=None, help="count success within this many steps"
    )
    parser.add_argument(
        "--metric",
        default=None,
        help="what to compare: success, return, or a metric of the environments; default success, "
        "and return where nothing says success",
    )
    parser.add_argument(
        "--letters",
        action="store_true",
        help="compare all pairs of rows; rows that share a letter are not told apart",
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="also the differences in each environment, with intervals over starts",
    )
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="go through the starts one by one and stop at the first that decides; of another "
        "metric than success counts which is higher",
    )


def compare(args: argparse.Namespace) -> int:
    """Two evaluations, or rows over runs: their means and paired differences."""
    with TemporaryDirectory(prefix="alltrades-compare-") as copies:
        rows = _agreed(_read_rows(args, Path(copies)))
    for line in _unlike(rows):
        print(line, file=sys.stderr)
    for k, (metric, names) in enumerate(_judged(rows, args.metric, args.at)):
        if k:
            print()
        own = {row: [e.only(names) for e in each] for row, each in rows.items()}
        _compare_by(args, own, metric)
    return 0


def _read_rows(args: argparse.Namespace, copies: Path) -> dict[str, list[Evaluation]]:
    """The evaluations that a comparison names; what is at an address is copied into a folder."""
    from alltrades.envs.rollouts.evaluation_files import read_evaluation
    from alltrades.report.fetched import file_at, run_at
    from alltrades.report.run_files import read_row

    if args.rows is not None:
        if len(set(args.rows)) < 2:
            raise UserError(
                f"--rows {' '.join(args.rows)}; expected at least two different rows, such as "
                "--rows generalist labeled_only"
            )
        folders = [run_at(folder, copies) for folder in args.a]
        found = {row: [read_row(folder, row) for folder in folders] for row in args.rows}
        _check_apart(args.a, found)
        for line in _other_settings(dict(zip(args.a, folders))):
            print(line, file=sys.stderr)
        return found
    if len(args.a) != 2:
        raise UserError(
            f"got {len(args.a)} evaluations; expected two JSON files, or run folders with "
            "--rows A B"
        )
    folder = next((x for x in args.a if Path(x).is_dir()), None)
    if folder is not None:
        raise UserError(
            f"{folder}: a folder; expected two JSON files of `alltrades evaluate --out`, or "
            "run folders with the rows to compare, such as --rows generalist labeled_only"
        )
    a, b = (read_evaluation(file_at(x, copies)) for x in args.a)
    return {a.name: [a], b.name if b.name != a.name else f"{b.name} (second)": [b]}


def _check_apart(folders: list[str], rows: dict[str, list[Evaluation]]) -> None:
    """Raises UserError for a run that is named twice, or whose copy is: no two training seeds."""
    there: dict[object, str] = {}
    for i, folder in enumerate(folders):
        acted = [(r.environment, r.policy) for each in rows.values() for r in each[i].rows]
        for what in (Path(folder).resolve(), tuple(acted)):
            known = isinstance(what, Path) or all(digest for _, digest in acted)
            if known and what in there:
                raise UserError(
                    f"{there[what]} and {folder} hold the same policies of {', '.join(rows)}; "
                    "expected runs of different training seeds; name each once"
                )
            there[what] = folder


def _other_settings(folders: dict[str, Path]) -> list[str]:
    """Lines about runs whose networks were trained by other settings than the first one's: they are
    no training seeds of one another, which is what intervals over seeds take them for.
    """
    from alltrades.pipeline.changes import in_short, key_changes
    from alltrades.report.run_files import settings_of

    (first, mine), *others = [(name, settings_of(path)) for name, path in folders.items()]
    lines = []
    for name, theirs in others:
        parts = [{k: v for k, v in s.items() if k not in ASIDE} for s in (mine, theirs)]
        changes = [c for c in key_changes(*parts) if not c.startswith(ACTED_BY)]
        if mine and theirs and changes:
            lines.append(
                f"warning: {first} and {name} were made with other settings, not another training "
                f"seed alone: {in_short(changes)}"
            )
    return lines


def _unlike(rows: dict[str, list[Evaluation]]) -> list[str]:
    """Lines about evaluations that were measured with other code or settings than the first."""
    from alltrades.pipeline.changes import code_changes, in_short, key_changes

    first, *others = [(row, e) for row, each in rows.items() for e in each]
    lines = []
    for row, other in others:
        mine, theirs = first[1].made, other.made
        if not mine or not theirs:
            changes = ["one of them does not say with which"] if mine or theirs else []
        else:
            changes = [
                *code_changes(mine.get("code"), theirs.get("code", {})),
                *key_changes(mine.get("settings", {}), theirs.get("settings", {})),
            ]
        if changes:
            pair = f"'{first[0]}'" if row == first[0] else f"'{first[0]}' and '{row}'"
            lines.append(
                f"warning: {pair} were measured with other code or settings: {in_short(changes)}"
            )
    return list(dict.fromkeys(lines))


def _agreed(rows: dict[str, list[Evaluation]]) -> dict[str, list[Evaluation]]:
    """All runs' rows, of one mind about which environments say success."""
    from alltrades.envs.rollouts.evaluation import agreed

    every = {f"{i} {row}": e for row, each in rows.items() for i, e in enumerate(each)}
    same = agreed(every)
    return {row: [same[f"{i} {row}"] for i in range(len(each))] for row, each in rows.items()}


def _judged(
    rows: dict[str, list[Evaluation]], metric: str | None, at: int | None
) -> list[tuple[str, list[str] | None]]:
    """Metrics that are compared, each with the environments that have it (None: all): the one that
    is asked for, or success, and return where nothing says success. `at`: success alone has steps.
    """
    from alltrades.envs.rollouts.evaluation import RETURN, SUCCESS, measures

    found = measures(e for each in rows.values() for e in each)
    longest = max(r.max_steps for each in rows.values() for e in each for r in e.rows)
    if at is not None and at > longest:
        raise UserError(
            f"--at {at} and no episode lasts longer than {longest} steps; expected fewer; leave it "
            "out"
        )
    if at is not None and metric is None and SUCCESS not in found:
        metric = SUCCESS  # which alone has steps
    if metric is None:
        return [
            (m, found[m]) for m in (SUCCESS, RETURN) if m in found and (m == SUCCESS or at is None)
        ]
    if metric == SUCCESS and SUCCESS not in found:
        raise UserError(
            f"nothing says success in {', '.join(found[RETURN][:4])}; expected a metric that they "
            "have; compare with --metric return"
        )
    return [(metric, None if metric == RETURN else found.get(metric))]


def _compare_by(args: argparse.Namespace, rows: dict[str, list[Evaluation]], metric: str) -> None:
    """Print what one metric says of the rows."""
    from alltrades.envs.rollouts.differences import (
        over_seeds,
        paired_over_seeds,
        sequential_difference,
    )
    from alltrades.envs.rollouts.verdicts import corrected, letters
    from alltrades.report import text
    from alltrades.report.tables import over_seeds_text, show_result

    first, *others = rows
    if args.sequential:
        for other in others:
            for folder, mine, theirs in zip(args.a, rows[first], rows[other]):
                outcome = sequential_difference(mine, theirs, args.at, metric=metric)
                where = f" in {folder}" if args.rows is not None else ""
                pair = f"{first} - {other}{text.metric({'metric': metric})}"
                print(f"{pair}{where}: {text.sequential(outcome)}")
        return
    names = list(combinations(rows, 2)) if args.letters else [(first, other) for other in others]
    every = corrected(
        [
            paired_over_seeds(list(zip(rows[a], rows[b])), at=args.at, metric=metric)
            for a, b in names
        ]
    )
    groups = None
    if args.letters:
        means = {name: over_seeds(each, args.at, metric).mean for name, each in rows.items()}
        apart = [pair for pair, p in zip(names, every) if p.verdict in ("BETTER", "WORSE")]
        groups = letters(sorted(means, key=lambda name: -means[name]), apart)
    pairs = [
        {"a": a, "b": b, "metric": metric, **pair.to_json()}
        for (a, b), pair in zip(names, every)
        if a == first
    ]
    print(over_seeds_text(rows, args.at, metric, groups) + "\n")
    show_result({}, {"pairs": pairs})
    if args.each:
        for facts in pairs:
            print("\n".join(["", *text.by_environment(facts)]))


COMPARE = Command(
    "compare",
    "two evaluations, or rows over several runs: means and paired differences",
    "compare generalist.json specialists.json",
    _arguments,
    compare,
    settings=False,
)
