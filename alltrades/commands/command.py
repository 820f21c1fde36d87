"""What a command of the command line is, and what several of them share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.errors import UserError
from alltrades.policies.fetched import fetched
from alltrades.system.files import check_json
from alltrades.system.remote.place import is_remote

if TYPE_CHECKING:
    from alltrades.data.opened import Stores
    from alltrades.settings.run import RunSettings

DEFAULT_RECIPE = "quickstart"
PATH = "--demos.path"
MOST = 4  # environments that a line names


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
    appends: str = ""  # its option that names a store to append to, which may be remote


OUTPUTS = ("out", "json", "html", "rrd", "fix", "cache", "record")  # options of all commands


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError for an address where a command writes files, and where --json would replace
    something else.
    """
    for name in set(OUTPUTS) - {args.entry.appends}:
        given = getattr(args, name, None)
        for word in [given] if isinstance(given, str) else given or ():
            if is_remote(str(word)):
                raise UserError(
                    f"--{name} {word}; expected a path on this machine, where results are written; "
                    "give one, and copy them there afterwards"
                )
    if getattr(args, "json", None):
        check_json(args.json)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument that counts something."""

    def whole(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = None
        if found is None or found < least:
            raise argparse.ArgumentTypeError(
                f"{text}; expected a whole number that is at least {least}"
            )
        return found

    return whole


def positive(text: str) -> float:
    """The type of an argument that is a rate or a time."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}; expected a finite number above 0")
    return found


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Which recipe a command reads its settings from."""
    parser.add_argument("--config", default=None, help="recipe: a YAML file or a packaged name")
    parser.add_argument("--small", action="store_true", help="the recipe's small form")


def demos_argument(
    parser: argparse.ArgumentParser,
    required: bool = True,
    purpose: str = "used whole unless --demos.episodes says how many",
) -> None:
    """--demos of a command that reads demonstrations; `recipe_settings` reads it too."""
    parser.add_argument(
        "--demos",
        nargs="+",
        required=required,
        metavar="STORE",
        help=f"store(s) of demonstrations; {purpose}",
    )


def preference_argument(parser: argparse.ArgumentParser) -> None:
    """--preference, of policies that take one."""
    parser.add_argument(
        "--preference",
        nargs="+",
        default=[],
        metavar="ENV=NUMBER",
        help="what a policy that takes a preference acts by; default uniform",
    )


def unknown_instruction_argument(parser: argparse.ArgumentParser) -> None:
    """--unknown-instruction, of policies that read sentences."""
    parser.add_argument(
        "--unknown-instruction",
        choices=["refuse", "nearest", "warn"],
        default=None,
        help="what becomes of an instruction that asks for something else than those of training, "
        "as far as its distance says: refused, or read like others with a warning (default); "
        "nearest: every new one is taken for the nearest of training",
    )


def n_action_steps_argument(parser: argparse.ArgumentParser) -> None:
    """--n-action-steps, in place of what a policy was trained with."""
    parser.add_argument(
        "--n-action-steps",
        type=at_least(1),
        default=None,
        metavar="N",
        help="actions of a chunk that are executed before the next one; default as in training",
    )


def trust_argument(parser: argparse.ArgumentParser) -> None:
    """--trust, of commands that read a folder which may come from elsewhere."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the plugins that the folder names, also those that no command of yours has named",
    )


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Of a command that takes none."""


def recipe_settings(
    args: argparse.Namespace, stores: Stores | None = None
) -> tuple[RunSettings, dict[str, str]]:
    """Settings of a command: its recipe (default quickstart) and the command line.

    Environments named on the command line replace the recipe's, its optional ones too; a command
    that is given a policy and neither them nor a recipe takes the policy's, and with no recipe
    environments show what their policy sees. Where environments need them the policy's plugins are
    added. A given store of demonstrations is used whole: how many a recipe asks for are those that
    are recorded. Where neither a recipe nor environments nor a policy are named they are those of
    the given store; `stores` are those that the command opens.
    """
    from alltrades.envs import registry
    from alltrades.settings.load import COMMAND_LINE, load_settings
    from alltrades.settings.run import RunSettings

    overrides, recipe = _overrides(args), args.config or DEFAULT_RECIPE
    settings, origins = load_settings(
        RunSettings, defaults_file=recipe, small=args.small, overrides=overrides
    )
    changed: dict[str, Any] = {}  # by the policy
    if getattr(args, "policy", None):
        plugins = plugins_for(settings, fetched(args.policy))
        if plugins != settings.plugins:
            changed["plugins"] = plugins
    if getattr(args, "policy", None) and args.config is None:
        policy = fetched(args.policy)
        registry.load_plugins(changed.get("plugins", settings.plugins))  # what they see is theirs
        if settings.demos.path is None and "--environments" not in _named(args.overrides):
            plugins = changed.get("plugins", settings.plugins)
            changed["environments"] = _with_simulator(settings.environments, plugins)
        asked = _asked(settings.model_copy(update=changed), policy)
        shown = _seen_by(asked, _named(overrides))
        settings, origins = load_settings(
            RunSettings, defaults_file=recipe, small=args.small, overrides=[*overrides, *shown]
        )
    if changed:
        settings = settings.model_copy(update=changed)
        origins |= dict.fromkeys(changed, "the policy")
    if settings.demos.path is not None:
        said = {key for key, origin in origins.items() if origin == COMMAND_LINE}
        whole: dict[str, Any] = {} if "demos.episodes" in said else {"episodes": None}
        if not any(key.startswith("demos.episodes_of") for key in said):
            whole |= {"episodes_of": {}}
        settings = settings.model_copy(update={"demos": settings.demos.model_copy(update=whole)})
        origins |= {f"demos.{key}": "a given store is used whole" for key in whole}
    named = args.config is not None or origins.get("environments") == COMMAND_LINE
    if settings.demos.path is not None and not named:
        from alltrades.data.opened import Stores
        from alltrades.pipeline.given import environments_of

        stores = Stores() if stores is None else stores
        ids = tuple(e.id for e in environments_of(stores.all(settings.demos.stores)))
        chosen = {"environments": ids, "optional_environments": ()}
        settings = settings.model_copy(update=chosen)
        origins |= dict.fromkeys(chosen, "the given store")
    return settings, origins


def _overrides(args: argparse.Namespace) -> list[str]:
    """What replaces the recipe's settings: the command line, and what follows from it."""
    out = [*_one_list(args.overrides)]
    if getattr(args, "demos", None):
        out += ["--demos.path", *args.demos]
    given = _named(out)
    if getattr(args, "policy", None) and "--environments" not in given and args.config is None:
        out += _of_artifact(fetched(args.policy))
        given.add("--environments")
    if "--environments" in given and "--optional_environments" not in given:
        out += ["--optional_environments", "[]"]
    return out


def _named(tokens: Sequence[str]) -> set[str]:
    """The settings that tokens of a command line set."""
    return {token.split("=")[0] for token in tokens}


def _facts(policy: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What an artifact says of itself, or each of a folder of them, and their environments' ids."""
    from alltrades.policies.artifact import environments_of, facts_of

    folders = [f.parent for f in sorted(policy.glob("*/policy.json"))]
    every = [facts_of(f) for f in (folders if not (policy / "policy.json").exists() else [])]
    every = every or [facts_of(policy)]
    return every, list(dict.fromkeys(i for facts in every for i in environments_of(facts)))


def _of_artifact(policy: Path) -> list[str]:
    """Environments of an artifact, or of a folder of them, as tokens of a command line."""
    from alltrades.system.trust import check_environments

    ids = _facts(policy)[1]
    check_environments(ids, policy)
    return ["--environments", json.dumps(ids)]


def _asked(settings: RunSettings, policy: Path) -> list[dict[str, Any]]:
    """The environments of an artifact, or of a folder of them, that settings name."""
    from alltrades.envs import registry

    ids = {i for name in settings.environments for i in registry.suite(name)}
    every = [e for facts in _facts(policy)[0] for e in facts["environments"]]
    return [e for e in every if any(fnmatchcase(e["id"], i) for i in ids)]


def plugins_for(settings: RunSettings, policy: Path, all_of_it: bool = False) -> tuple[str, ...]:
    """The settings' plugins and, where these lack an environment that is asked for, those of an
    artifact, or of a folder of them. `all_of_it`: its own environments are asked for, too.

    UserError where the user has never named one that an environment of the artifact needs; where
    others are asked for, or recordings may describe them, such plugins are not loaded.
    """
    from alltrades.envs import registry
    from alltrades.policies.artifact import plugins_of
    from alltrades.system.trust import check_named

    registry.load_plugins(settings.plugins)
    every, ids = _facts(policy)
    asked = (*settings.environments, *(ids if all_of_it else ()))
    unknown = [name for name in asked if not registry.means(name)]
    if not unknown:
        return settings.plugins
    plugins = list(dict.fromkeys(name for facts in every for name in plugins_of(facts)))
    try:
        check_named(plugins, policy)
    except UserError:
        if settings.demos.path is None and any(fnmatchcase(i, n) for i in ids for n in unknown):
            raise
        return settings.plugins
    return (*settings.plugins, *(name for name in plugins if name not in settings.plugins))


def _with_simulator(names: tuple[str, ...], plugins: Sequence[str]) -> tuple[str, ...]:
    """A policy's environments without those that only recordings know, where it has others."""
    from alltrades.envs import registry

    registry.load_plugins(plugins)
    there = tuple(name for name in names if registry.means(name))
    lost = [name for name in names if name not in there]
    if not there or not lost:
        return names
    print(
        f"no simulator of {', '.join(lost[:MOST])}: left out; recordings judge the policy there: "
        "--demos STORE",
        file=sys.stderr,
    )
    return there


def _seen_by(environments: Sequence[Mapping[str, Any]], given: set[str]) -> list[str]:
    """What a policy sees of environments, where that is pictures, parts of states or instructions,
    which are made where they are named, as tokens of a command line.
    """
    from alltrades.data.fields import Field
    from alltrades.data.interface import Interface
    from alltrades.envs import registry
    from alltrades.envs.instructions import INSTRUCTION
    from alltrades.envs.rendering.wanted import PROPRIOCEPTION, drawn_like

    fields = {f["name"]: f for e in environments for f in e["observation"]}
    images = [f for f in fields.values() if f["kind"] == "image"]
    made = images or PROPRIOCEPTION in fields or INSTRUCTION in fields
    if "--policy.observe" in given or not made:
        return []
    out = ["--policy.observe", json.dumps(list(fields))]
    seen: dict[str, dict[str, Field]] = {}
    for e in environments:  # several policies may see other fields of one
        seen.setdefault(e["id"], {}).update(Interface.from_json(e).observation)
    drawn = drawn_like(registry.installed(seen), seen)
    for key, value in drawn.items():
        if f"--rendering.{key}" not in given:
            out += [f"--rendering.{key}", json.dumps(value)]
    return out


def _one_list(tokens: Sequence[str]) -> list[str]:
    """Command line tokens with the stores of every --demos.path behind a single one."""
    rest, stores, several = [], list[str](), False
    for token in tokens:
        if token == PATH or token.startswith(f"{PATH}="):
            several = True
            stores += [token.removeprefix(f"{PATH}=")] if "=" in token else []
        elif several and not token.startswith("--"):
            stores.append(token)
        else:
            several = False
            rest.append(token)
    return [*rest, PATH, *stores] if stores else list(tokens)
