"""Does a policy look? diagnose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alltrades.commands.command import (
    Command,
    at_least,
    demos_argument,
    recipe_arguments,
    recipe_settings,
    trust_argument,
)
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.files import check_writable

if TYPE_CHECKING:
    from alltrades.pipeline.acting import Policies
    from alltrades.pipeline.context import Context
    from alltrades.pipeline.perturbations import Trials

NOTHING = "none"  # in place of perturbations
FACTS = "diagnose.json"  # in the folder --out, beside the page


def _arguments(parser: argparse.ArgumentParser) -> None:
    from alltrades.envs.perturbations import NAMES

    parser.add_argument("policy", help="artifact, or folder with one artifact per environment")
    recipe_arguments(parser)
    demos_argument(parser, purpose="episodes between which fields are exchanged")
    parser.add_argument(
        "--perturbations",
        nargs="*",
        default=None,
        metavar="NAME",
        help=f"changes under which episodes are rolled out where there is a simulator: "
        f"{', '.join(NAMES)}; default all that change what the policy sees; {NOTHING}: roll "
        "nothing out",
    )
    parser.add_argument(
        "--episodes",
        type=at_least(1),
        default=50,
        metavar="N",
        help="episodes per environment and perturbation; default 50",
    )
    parser.add_argument(
        "--own-starts",
        action="store_true",
        help="starts that no evaluation uses, so that what is chosen by them is measured fairly "
        "later; default the first ones of the evaluation",
    )
    parser.add_argument("--json", default=None, metavar="FILE", help="file for the figures")
    parser.add_argument(
        "--out", default=None, metavar="FOLDER", help=f"folder of a page, pictures and {FACTS}"
    )
    trust_argument(parser)


def diagnose(args: argparse.Namespace) -> int:
    """How much actions change with each field, where the policy looks, success under
    perturbations.
    """
    from alltrades.data.commit import refuse_store
    from alltrades.envs.perturbations import check_names
    from alltrades.pipeline.context import opened
    from alltrades.pipeline.environment_checks import checked
    from alltrades.pipeline.looking import look_given, narrowed, say
    from alltrades.pipeline.perturbations import measure_perturbed
    from alltrades.report.look_page import write_looks
    from alltrades.report.looks import look_text
    from alltrades.report.perturbations import perturbation_text
    from alltrades.report.view.pictures import image_library
    from alltrades.system.files import write_json

    policy, out = fetched(args.policy), Path(args.out) if args.out else None
    if args.perturbations == [NOTHING]:
        args.perturbations = []
    check_names(args.perturbations or (), "--perturbations")
    if out is not None:
        image_library()
        refuse_store(out, "folder of pictures")
        out.mkdir(parents=True, exist_ok=True)
    files = [Path(args.json)] if args.json else []
    if out is not None:
        check_writable(out / FACTS)
        files.append(out / FACTS)
    with opened(recipe_settings(args)[0]) as context:
        context, policies = narrowed(context, policy)
        trials = _trials(args, context, policies)
        found, pictures = look_given(context, policies, out is not None)
        print(look_text(found))
        say(found)
        disturbed = None
        if trials is not None:
            disturbed = measure_perturbed(checked(context), policy.name, policy, trials)
    if disturbed is not None:
        print("\n" + perturbation_text(disturbed))
    facts = {"policy": str(args.policy), "environments": found, "perturbations": disturbed}
    for file in files:
        write_json(file, facts)
    pages = [] if out is None else write_looks(out, policy.name, found, pictures, disturbed)
    for file in (*pages, *files):
        print(f"wrote {file}")
    return 0


def _trials(args: argparse.Namespace, context: Context, policies: Policies) -> Trials | None:
    """What is rolled out; None where nothing is."""
    from alltrades.envs.perturbations import NAMES
    from alltrades.pipeline.perturbations import Trials, worlds_of

    asked = args.perturbations
    if not context.simulated:
        if asked:
            raise UserError(
                f"--perturbations {asked[0]}: no simulator of {', '.join(context.ids)}, so that "
                "nothing can be rolled out; leave it out"
            )
        context.unsimulated("perturbations", "nothing is rolled out")
        return None
    worlds = worlds_of(context, policies, NAMES if asked is None else asked)
    none = [name for name in asked or () if not worlds[name]]
    if none:
        raise UserError(
            f"--perturbations {none[0]}: it changes nothing that the policy sees in any "
            "environment; expected one that does; leave it out"
        )
    names = tuple(name for name, specs in worlds.items() if specs)
    return Trials(names, args.episodes, args.own_starts) if names else None


COMMANDS = (
    Command(
        "diagnose",
        "whether a policy looks: what each field changes, saliency, success under perturbations",
        "diagnose generalist --demos demos.zarr --out looks",
        _arguments,
        diagnose,
    ),
)
