"""What a command of the command line is, and what several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alltrades.settings.run import RunSettings

DEFAULT_RECIPE = "quickstart"


@dataclass(frozen=True)
class Command:
    """One command: what it does, an example, how its arguments are declared, and the function that
    gets them, parsed, and returns the exit code.
    """

    name: str
    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int]
    settings: bool = True  # takes a recipe and --dotted.key value overrides


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Which recipe a command reads its settings from."""
    parser.add_argument("--config", default=None, help="recipe: a YAML file or a packaged name")
    parser.add_argument("--small", action="store_true", help="the recipe's small form")


def preference_argument(parser: argparse.ArgumentParser) -> None:
    """--preference, of policies that take one."""
    parser.add_argument(
        "--preference",
        nargs="+",
        default=[],
        metavar="ENV=NUMBER",
        help="what a policy that takes a preference acts by; default uniform",
    )


def n_action_steps_argument(parser: argparse.ArgumentParser) -> None:
    """--n-action-steps, in place of what a policy was trained with."""
    parser.add_argument(
        "--n-action-steps",
        type=int,
        default=None,
        metavar="N",
        help="actions of a chunk that are executed before the next one; default as in training",
    )


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a command that takes none."""


def recipe_settings(args: argparse.Namespace) -> tuple[RunSettings, dict[str, str]]:
    """Settings of a command: its recipe (default quickstart) and the command line.

    Environments named on the command line replace the recipe's, its optional ones too.
    """
    from alltrades.settings.load import load_settings
    from alltrades.settings.run import RunSettings

    overrides = list(args.overrides)
    given = {token.split("=")[0] for token in overrides}
    if "--environments" in given and "--optional_environments" not in given:
        overrides += ["--optional_environments", "[]"]
    return load_settings(
        RunSettings,
        defaults_file=args.config or DEFAULT_RECIPE,
        small=args.small,
        overrides=overrides,
    )
