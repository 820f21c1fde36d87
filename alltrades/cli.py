"""The command line: one table of commands (`commands/`). Heavy imports stay inside their
functions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from alltrades import __version__
from alltrades.commands import (
    adapting,
    environments,
    evaluating,
    looking,
    rendering,
    serving,
    stage,
    tools,
    whole,
)
from alltrades.commands.command import Command, check_outputs
from alltrades.errors import UserError
from alltrades.system.ranks import started_together
from alltrades.system.refusals import in_words, os_error
from alltrades.system.trust import trust_all

COMMANDS = [
    *whole.COMMANDS[:1],
    *stage.COMMANDS,
    *evaluating.COMMANDS,
    *looking.COMMANDS,
    *adapting.COMMANDS,
    *whole.COMMANDS[1:],
    *serving.COMMANDS,
    *environments.COMMANDS,
    *rendering.COMMANDS,
    *tools.COMMANDS,
]
TRACEBACK = "--traceback"


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, which declares a command's arguments when it is asked for:
    `alltrades --help` waits for no library that they are made from.

    Attributes:
        options: what begins an option of its own.
    """

    def __init__(self, *args: Any, command: Command | None = None, **kwargs: Any) -> None:
        self.options: set[str] = set()
        self._command = command
        self._many: str | None = None  # what takes any number of words
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self.options.update(action.option_strings)
        if not action.option_strings and action.nargs == "*":
            self._many = action.dest
        return action

    def declare(self) -> None:
        """Add the arguments of its command, once."""
        command, self._command = self._command, None
        if command is None:
            return
        command.arguments(self)
        if command.settings:
            self.add_argument(
                "--help-settings",
                action=_SettingsHelp,
                nargs=0,
                help="list every setting with its default",
            )
        self.set_defaults(entry=command)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.declare()
        found, rest = super().parse_known_args(args, namespace)
        if self._many is not None:  # argparse stops at the first option between them
            more = [word for word in rest if not word.startswith("-")]
            setattr(found, self._many, [*getattr(found, self._many), *more])
            rest = [word for word in rest if word.startswith("-")]
        return found, rest

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see `{self.prog} --help`")


class _SettingsHelp(argparse.Action):
    """--help-settings: list every setting with its default."""

    def __call__(self, *args: object, **kwargs: object) -> None:
        from alltrades.settings.load import describe
        from alltrades.settings.run import RunSettings

        for key, kind, default, text in describe(RunSettings):
            print(f"--{key}  ({kind}, default {default})  {text}")
        raise SystemExit(0)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = _Parser(
        prog="alltrades",
        description="One diffusion policy for many environments, from a handful of demonstrations.",
        epilog="example: alltrades run",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"alltrades {__version__}")
    top.add_argument(
        TRACEBACK, action="store_true", help="of any command: show where an error comes from"
    )
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        epilog = f"example: alltrades {command.example}"
        if command.settings:
            epilog += (
                "\n\nevery setting of a recipe is an option too, such as --distill.train.steps "
                "20000; "
                "--help-settings lists them"
            )
        subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            command=command,
        )
    return top


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """Separate a command's own arguments from settings (`--a.b value`, `--a.b=value`,
    `--no-a.b`).
    """
    entry = next((c for c in COMMANDS if argv and c.name == argv[0]), None)
    if entry is None or not entry.settings:
        return argv, []
    sub = _Parser(command=entry)
    sub.declare()
    own, overrides, i = argv[:1], [], 1
    while i < len(argv):
        token = argv[i]
        i += 1
        if not token.startswith("--") or token.split("=")[0] in sub.options:
            own.append(token)
            continue
        overrides.append(token)
        if (
            "=" not in token
            and not token.startswith("--no-")
            and i < len(argv)
            and not argv[i].startswith("--")
        ):
            overrides.append(argv[i])
            i += 1
    return own, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, in all processes that torchrun has started for it; returns the exit code."""
    if not started_together():
        return _main(argv)
    from alltrades.policies.learning.following import together

    return together(partial(_main, argv))


def _main(argv: Sequence[str] | None = None) -> int:
    """Run one command in this process; returns the exit code.

    0 success; 2 the user's mistake and 1 an environment that raised, both in one line on stderr,
    behind the whole traceback with --traceback; any other bug is raised.
    """
    top, words = parser(), sys.argv[1:] if argv is None else list(argv)
    traced, words = TRACEBACK in words, [word for word in words if word != TRACEBACK]
    try:
        own, overrides = split_overrides(words)
        args, others = top.parse_known_args(own)
        if others:
            asked = " ".join(filter(None, ("alltrades", args.command)))
            raise UserError(f"unrecognized arguments: {' '.join(others)}; see `{asked} --help`")
        if args.command is None:
            top.print_help()
            return 0
        args.overrides = overrides
        check_outputs(args)
        if getattr(args, "trust", False):
            trust_all()
        code = int(args.entry.call(args))
        sys.stdout.flush()  # a full disk behind it shows here, not when Python ends
        return code
    except UserError as error:
        _say(error, traced)
        return 2
    except KeyboardInterrupt:
        print("alltrades: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        found = os_error(error)
        if found is None:
            raise
        print(f"alltrades: {in_words(found, 'standard output, or a file')}", file=sys.stderr)
        return 2
    except Exception as error:
        from alltrades.envs.adapter import (
            EnvironmentFailure,
        )  # not worth its import time before something went wrong

        if not isinstance(error, EnvironmentFailure):
            raise
        _say(error, traced)
        return 1


def _say(error: Exception, traced: bool) -> None:
    """One line, behind its traceback where that is wanted, with those of worker processes."""
    if traced:
        import traceback

        traceback.print_exception(error)
    print(f"alltrades: {' '.join(str(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
