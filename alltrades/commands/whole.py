"""Whole runs, and what is read from their folders: run, report, pareto."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from alltrades.commands.command import Command, at_least, recipe_settings, trust_argument
from alltrades.commands.comparing import COMPARE
from alltrades.errors import MissingExtra, UserError

if TYPE_CHECKING:
    pass


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
    COMPARE,
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
