"""Whose code runs unasked: plugins that the user named, now or in an earlier command on this
computer.

A policy or a run folder that came from elsewhere names plugins, too; to look at it must run nothing
of them. What was named is kept in a text file, one plugin a line, in the user's state folder
(XDG_STATE_HOME, default ~/.local/state).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from alltrades.errors import UserError

_told: list[str] = []  # not empty once the user said to trust whatever is named


def trust_all() -> None:
    """Run every plugin that is named, whoever names it, for the rest of the process."""
    _told.append("--trust")


def remember(plugin: str) -> None:
    """The user named this plugin. Where nothing can be kept it is asked for again next time."""
    name = _identity(plugin)
    with suppress(OSError):
        if name not in _remembered():
            _file().parent.mkdir(parents=True, exist_ok=True)
            with _file().open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")


def check_named(plugins: list[str], by: Path | str) -> None:
    """Raises UserError where a file or folder `by` names a plugin that the user never named."""
    if _told:
        return
    new = [name for name in plugins if _identity(name) not in _remembered()]
    if new:
        raise UserError(
            f"{by} names the plugin {new[0]}, which no command of yours has named yet, and its "
            f"code is not run unasked; expected a plugin that you know; read it, then add --trust, "
            f"or --plugins {new[0]}"
        )


def module_of(environment: str) -> str:
    """The module that an id "gym:MODULE:NAME" names; empty for other ids."""
    kind, _, rest = environment.partition(":")
    return rest.rpartition(":")[0] if kind == "gym" else ""


def check_environments(ids: list[str], by: Path | str) -> None:
    """Raises UserError where a file or folder `by` names an environment of a module that is neither
    an installed package nor one that the user has named.
    """
    for name in ids if not _told else ():
        module = module_of(name)
        identity = _identity(module)
        installed = {"site-packages", "dist-packages"} & set(Path(identity).parts)
        if module and not installed and identity not in _remembered():
            raise UserError(
                f"{by} names the environment {name}, whose module {module} no command of yours has "
                "named yet, and its code is not run unasked; expected a module that you know; "
                f"read it, then add --trust, or --environments '[{name}]'"
            )


def _identity(plugin: str) -> str:
    """A plugin with where it lies: a module of the same name elsewhere is another one."""
    if plugin.endswith(".py"):
        return str(Path(plugin).resolve())
    top = plugin.split(".")[0]  # the only one that is found without running anything
    try:
        spec = None if top in sys.modules else find_spec(top)
        origin = sys.modules[top].__file__ if spec is None else spec.origin
    except (KeyError, ValueError, ImportError, AttributeError):
        origin = None
    return f"{plugin}\t{origin}"


def _remembered() -> set[str]:
    try:
        return set(_file().read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return set()


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "alltrades" / "plugins.txt"
