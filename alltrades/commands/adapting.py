"""A trained generalist takes a new environment: adapt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alltrades.commands.command import (
    Command,
    demos_argument,
    plugins_for,
    recipe_arguments,
    recipe_settings,
    trust_argument,
)
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.remote.place import place

NONE = "none"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="generalist", help="artifact of the generalist")
    recipe_arguments(parser)
    demos_argument(parser)
    parser.add_argument(
        "--replay",
        nargs="+",
        default=[],
        metavar="STORE",
        help="store(s) of episodes of environments that the generalist knows; it is rolled out in "
        "the others; none: nothing reminds it of them, and they are forgotten",
    )
    trust_argument(parser)
    parser.add_argument("--out", required=True, help="folder of the new artifact")


def adapt(args: argparse.Namespace) -> int:
    """A new environment from few demonstrations, without forgetting."""
    from alltrades.pipeline.adapt_settings import settings_for
    from alltrades.pipeline.adapting import adapt, described
    from alltrades.report.open_loop import open_loop_text
    from alltrades.report.tables import show_result

    settings, origins = recipe_settings(args)
    given = {token.split("=")[0] for token in args.overrides}
    other = [name for name in sorted(given) if name.startswith("--policy.")]
    if set(other) - {"--policy.observe"}:
        raise UserError(
            f"{other[0]}: the network is the generalist's; expected --policy.observe alone of "
            "these; leave it out"
        )
    generalist, stores = fetched(args.policy), tuple(map(place, args.replay))
    if NONE in args.replay and len(args.replay) > 1:
        raise UserError(
            f"--replay {' '.join(args.replay)}; expected stores, or none alone; leave one out"
        )
    named = settings.environments if "--environments" in given else None
    if "--policy.observe" not in given:  # else it is what the generalist's own ones show
        plain = settings.policy.model_copy(update={"observe": None})
        settings = settings.model_copy(update={"policy": plain})
    plugins = plugins_for(settings, generalist, all_of_it=True)  # simulators remind it of them
    settings = settings_for(settings.model_copy(update={"plugins": plugins}), named, generalist)
    replay = None if args.replay == [NONE] else stores
    found = adapt(settings, generalist, Path(args.out), replay, origins)
    limits = settings.evaluation.limits
    for name in dict.fromkeys(row["environment"] for row in found.candidates):
        print(f"candidates of {name}")
        for row in found.candidates:
            if row["environment"] == name:
                print(f"  {described(row)}")
    if found.open_loop:
        print(open_loop_text(found.open_loop, str(Path(args.out) / "open_loop.json")))
    for title, rows, of in (
        ("environments before", found.old, "old"),
        ("new environments", found.new, "new"),
    ):
        if rows:
            print(f"\n{title}")
            show_result(rows, found.comparisons[of], {}, limits)
    for line in found.warnings:
        print(f"warning: {line}", file=sys.stderr)
    print(f"wrote {args.out}")
    return 0


COMMANDS = (
    Command(
        "adapt",
        "a new environment for a trained generalist, without forgetting",
        "adapt runs/quickstart/policies/generalist --demos new.zarr --out g2",
        _arguments,
        adapt,
    ),
)
