"""`alltrades evaluate`: success of a policy on the common evaluation starts, and its errors on
recordings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from alltrades.commands.command import (
    Command,
    demos_argument,
    n_action_steps_argument,
    preference_argument,
    recipe_arguments,
    trust_argument,
    unknown_instruction_argument,
)
from alltrades.commands.stage_context import stage_context
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.files import check_json

OPEN_LOOP = ".open_loop.json"  # beside the JSON of an evaluation


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    recipe_arguments(parser)
    parser.add_argument("--name", default=None, help="name of the row; default the folder's name")
    parser.add_argument("--out", default=None, help="JSON file of the result")
    demos_argument(
        parser,
        required=False,
        purpose="their environments are judged open loop, on their share --demos.holdout; those "
        "with a simulator are rolled out too",
    )
    parser.add_argument(
        "--open-loop", action="store_true", help="roll nothing out: only judge on --demos"
    )
    parser.add_argument(
        "--ensemble",
        type=float,
        default=None,
        metavar="M",
        help="plan at every step and execute the mean of overlapping chunks, weighted by exp(-M i) "
        "from the oldest on",
    )
    n_action_steps_argument(parser)
    preference_argument(parser)
    unknown_instruction_argument(parser)
    trust_argument(parser)


def evaluate(args: argparse.Namespace) -> int:
    """Success with intervals, returns where nothing says success; open loop on recordings."""
    from alltrades.pipeline.measurement import Manner, measure
    from alltrades.pipeline.open_loop import judge_given
    from alltrades.policies.model.preference import parse_preference
    from alltrades.report.open_loop import open_loop_text
    from alltrades.report.tables import show_result

    folder, asked = fetched(args.policy), parse_preference(args.preference)
    out = Path(args.out) if args.out else None
    if out is not None:
        check_json(out)
    if args.ensemble is not None and args.n_action_steps is not None:
        raise UserError(
            f"--n-action-steps {args.n_action_steps} with --ensemble, which plans at every step; "
            "expected one of them; leave the other out"
        )
    if args.open_loop and not args.demos:
        raise UserError("--open-loop judges on recordings; expected --demos STORE; add it")
    with stage_context(args, tried=not args.open_loop) as context:
        rolled_out = bool(context.simulated) and not args.open_loop
        manner = Manner(
            asked or context.settings.evaluation.preference,
            strict=bool(asked),
            n_action_steps=args.n_action_steps,
            ensemble=args.ensemble,
            unknown_instruction=args.unknown_instruction,
        )
        name, limits = args.name or folder.name, context.settings.evaluation.limits
        if args.demos or context.recorded:
            errors = out.with_suffix(OPEN_LOOP) if out is not None and rolled_out else out
            judged = judge_given(context, name, folder, errors, asked or None)
            print(open_loop_text(judged, "--out FILE" if errors is None else str(errors)))
            if errors is not None:
                print(f"wrote {errors}")
        if rolled_out:
            result = measure(context, name, folder, out, manner)
            show_result({name: result}, {"pairs": []}, {}, limits)
            if out is not None:
                print(f"wrote {out}")
    return 0


COMMANDS = (
    Command(
        "evaluate",
        "success with intervals on the common evaluation starts",
        "evaluate generalist --environments planar --out generalist.json",
        _arguments,
        evaluate,
    ),
)
