"""Whole runs, and what is read from their folders: run, compare, report, pareto."""

from __future__ import annotations

import argparse
import sys
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from alltrades.commands.command import Command, at_least, recipe_settings, trust_argument
from alltrades.errors import MissingExtra, UserError

if TYPE_CHECKING:
    from alltrades.envs.rollouts.evaluation import Evaluation


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="?",
        default=None,
        help="recipe: a YAML file or a packaged name; default quickstart",
    )
    parser.add_argument(
        "--small", action="store_true", help="the recipe's small form, for a first look"
    )
    parser.add_argument("--out", default=None, help="run folder; default runs/NAME")
    parser.add_argument(
        "--data", default=None, help="store of demonstrations (the same as --demos.path)"
    )


def run(args: argparse.Namespace) -> int:
    """The whole pipeline, or the study that the recipe names."""
    from alltrades.studies import study_of

    study = study_of(args.config)
    if study is not None:
        return _run_study(study, args)
    from alltrades.pipeline.runner import run as run_pipeline
    from alltrades.report.open_loop import open_loop_text
    from alltrades.report.perturbations import perturbation_text
    from alltrades.report.tables import show_result

    if args.data is not None:
        args.overrides = [*args.overrides, "--demos.path", args.data]
    settings, origins = recipe_settings(args)
    folder = (
        Path(args.out)
        if args.out
        else Path("runs") / (settings.name + ("-small" if args.small else ""))
    )
    result = run_pipeline(settings, folder, origins)
    if result.open_loop:
        print(open_loop_text(result.open_loop, str(result.folder / "open_loop.json")) + "\n")
    show_result(result.evaluations, result.comparison, result.advice, settings.evaluation.limits)
    if result.perturbations is not None:
        print("\n" + perturbation_text(result.perturbations))
    for name, why in result.left_out.items():
        hint = f"; to add it: {why.remedy}" if isinstance(why, MissingExtra) else f" ({why})"
        print(f"left out: {name}{hint}")
    print(f"run folder: {result.folder}")
    if result.report is not None:
        print(f"report: {result.report}")
    return 0


def _run_study(study: Any, args: argparse.Namespace) -> int:
    """A recipe with `study:` at its top."""
    from alltrades.pipeline.executors import connected
    from alltrades.settings.compute import ComputeSettings
    from alltrades.settings.load import load_settings
    from alltrades.studies.claims import judge
    from alltrades.studies.files import write_study

    if args.data is not None:
        raise UserError("--data is for runs and the recipe names a study; leave it out")
    settings, origins = load_settings(
        study.Settings, defaults_file=args.config, small=args.small, overrides=args.overrides
    )
    folder = (
        Path(args.out)
        if args.out
        else Path("runs") / (settings.name + ("-small" if args.small else ""))
    )
    with connected(getattr(settings, "compute", ComputeSettings())):  # some compute here alone
        result = study.run(settings, folder, origins)
    if not args.small:  # too few episodes to judge by
        result.findings += map(str, judge(settings.name, result.to_json()))
    written = write_study(result, folder)
    result.show()
    for path in written:
        print(f"wrote {path}")
    return 0


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
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
        return found
    if len(args.a) != 2:
        raise UserError(
            f"got {len(args.a)} evaluations; expected two JSON files, or run folders with "
            "--rows A B"
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
    return [(metric, found[SUCCESS] if metric == SUCCESS else None)]


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


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder")
    parser.add_argument("--out", default=None, help="HTML file; default RUN/report.html")


def report(args: argparse.Namespace) -> int:
    """The HTML page."""
    from alltrades.report import write_report
    from alltrades.report.fetched import run_at
    from alltrades.system.remote.place import is_remote

    out = Path(args.out) if args.out else None
    if out is None and is_remote(args.run):
        raise UserError(
            f"report {args.run}: a report is written on a disk; expected --out, such as "
            "--out report.html"
        )
    with TemporaryDirectory(prefix="alltrades-report-") as copies:
        print(f"wrote {write_report(run_at(args.run, Path(copies)), out)}")
    return 0


def _pareto_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="finished run folder")
    parser.add_argument(
        "--fronts",
        nargs="+",
        default=["linear"],
        metavar="KIND",
        help="linear, tchebycheff, worst: a generalist per preference; conditioned: one that takes "
        "them",
    )
    parser.add_argument(
        "--divisions",
        type=at_least(1),
        default=8,
        help="preferences are the multiples of 1/DIVISIONS that sum to 1",
    )
    parser.add_argument(
        "--preferences",
        nargs="+",
        default=[],
        metavar="A,B,..",
        help="preferences in place of those, one number per environment of the run",
    )
    parser.add_argument(
        "--row",
        default="generalist",
        help="generalist of the run whose settings and weights are used",
    )
    parser.add_argument(
        "--labeled-only",
        nargs="*",
        default=["last"],
        metavar="KIND",
        help="labeled-only fronts: last, holdout, or none",
    )
    parser.add_argument(
        "--episodes",
        type=at_least(1),
        default=None,
        help="evaluation episodes; default those of the run",
    )
    trust_argument(parser)


def pareto(args: argparse.Namespace) -> int:
    """Pareto fronts of a finished run."""
    from alltrades.settings.load import load_settings
    from alltrades.studies.files import write_study
    from alltrades.studies.pareto import of_run
    from alltrades.studies.pareto_training import ParetoSettings

    words = [
        f"--{name}=[{','.join(values)}]"
        for name, values in (("fronts", args.fronts), ("labeled_only", args.labeled_only))
    ]
    words += [f"--divisions={args.divisions}", f"--row={args.row}"]
    words.append(f"--preferences=[{','.join(f'[{p}]' for p in args.preferences)}]")
    settings, _ = load_settings(ParetoSettings, overrides=words)
    folder = Path(args.run)
    result = of_run(folder, settings, args.episodes)
    written = write_study(result, folder / "pareto", "front")
    result.show()
    for path in written:
        print(f"wrote {path}")
    return 0


COMMANDS = (
    Command(
        "run",
        "the whole pipeline, or a study, resumable; without a recipe the quickstart",
        "run metaworld_mt10 --seed 1",
        _run_arguments,
        run,
    ),
    Command(
        "compare",
        "two evaluations, or rows over several runs: means and paired differences",
        "compare generalist.json specialists.json",
        _compare_arguments,
        compare,
        settings=False,
    ),
    Command(
        "report",
        "one self-contained HTML page for a run",
        "report runs/quickstart",
        _report_arguments,
        report,
        settings=False,
    ),
    Command(
        "pareto",
        "the Pareto front between the environments of a run",
        "pareto runs/quickstart --divisions 2",
        _pareto_arguments,
        pareto,
        settings=False,
    ),
)
