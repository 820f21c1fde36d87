"""The code that a run's results depend on, by name: what changes here makes stages run again.

Sources of plugins and of the run's environments (with their experts and whatever else their
specifications hold), also where these are modules that nobody installed; versions of the packages
behind them, of torch, gymnasium and mujoco; and alltrades: its version and a digest of the sources
that computation goes through.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from alltrades.envs import registry
from alltrades.envs.derived import Named
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline.own_code import SHOWN, own_code
from alltrades.system.sources import Sources


def code_of(
    specs: Iterable[EnvSpec], plugins: Iterable[str], parts: Iterable[Any] = ()
) -> dict[str, str]:
    """Versions and digests by name: of packages, and of files that belong to none.

    Args:
        plugins: as the settings name them.
        parts: classes and functions that extensions brought, such as the backbone.

    What code opens by names that it puts together at run time is not known here.
    """
    walk = _Walk()
    for plugin in plugins:
        walk.sources.module(Path(plugin).stem if plugin.endswith(".py") else plugin, whole=True)
    for spec in specs:
        walk.visit(spec)
        if spec.simulated:
            walk.visit(registry.expert(spec.id))
    for part in parts:
        walk.visit(part)
    digests = {name: digest[:SHOWN] for name, digest in walk.sources.digests().items()}
    return {**own_code(), **walk.sources.versions(), **walk.texts, **digests}


class _Walk:
    """Finds the modules behind objects."""

    def __init__(self) -> None:
        self.sources, self.texts = Sources("alltrades"), dict[str, str]()
        self._seen: dict[int, Any] = {}  # keeps them alive: an id is one object's

    def visit(self, value: Any) -> None:
        if value is None or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, str | Path):
            self._text(str(value))
        elif isinstance(value, Mapping):
            self._each(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            self._each(value)
        elif isinstance(value, functools.partial):
            self._each((value.func, value.args, value.keywords))
        elif isinstance(value, Named):
            self.sources.module(value.name.partition(":")[0])
            self._each(value.arguments)
        elif isinstance(value, type):
            for base in value.__mro__:
                self._defined(base)
        elif inspect.isroutine(value):
            self._each((getattr(value, "__self__", None), getattr(value, "__wrapped__", None)))
            self._each(c.cell_contents for c in getattr(value, "__closure__", None) or () if _is(c))
            self._defined(value)
        else:
            self.visit(type(value))
            if is_dataclass(value):
                self._each(getattr(value, f.name) for f in fields(value))
            elif callable(value):
                self._each(list(getattr(value, "__dict__", {}).values()))

    def _each(self, values: Iterable[Any]) -> None:
        for value in values:
            self.visit(value)

    def _defined(self, value: Any) -> None:
        """The module of a class or function; its text where it has none, as in a notebook."""
        name = getattr(value, "__module__", None)
        if not isinstance(name, str) or name == "builtins":
            return
        self.sources.module(name)
        if name == "__main__":
            try:
                text = inspect.getsource(value)
            except (OSError, TypeError):
                return
            digest = hashlib.sha256(text.encode()).hexdigest()[:SHOWN]
            self.texts[f"__main__.{value.__qualname__}"] = digest

    def _text(self, text: str) -> None:
        """A file that an environment is made with, or Gymnasium's id of one."""
        path = Path(text)
        if 0 < len(text) < 1000 and "\0" not in text and path.suffix and path.is_file():
            self.sources.add(path, path.resolve().parent)
        import gymnasium  # late: most runs are of environments that need no registry of it

        module, _, name = text.rpartition(":")
        entry = gymnasium.registry.get(name)
        if entry is None:
            return
        if module:
            self.sources.module(module)
        point = entry.entry_point
        if isinstance(point, str):
            self.sources.module(point.partition(":")[0])
        else:
            self.visit(point)
        self._each(wrapper.entry_point for wrapper in entry.additional_wrappers)
        self._each(entry.kwargs.values())


def _is(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not filled yet
        return False
