"""Parts that other packages and plugins add by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from alltrades.errors import UserError, nearest
from alltrades.system.blame import blame

T = TypeVar("T")


class Extensions(Generic[T]):
    """Values by name: built in, registered by a plugin, or offered by an installed package.

    Args:
        group: of the entry points by which packages offer them; an entry point's name is the
            value's, and it is loaded when that name is asked for.
        what: what they are, for errors: "backbone".
        built_in: those that are there anyway.
    """

    def __init__(self, group: str, what: str, built_in: Mapping[str, T]) -> None:
        self.group, self.what = group, what
        self._built_in, self._registered = dict(built_in), dict[str, T]()

    def register(self, name: str, value: T) -> None:
        """Add one, or replace one that was registered; raises UserError for a name that is built
        in.
        """
        if name in self._built_in:
            raise UserError(
                f"{self.what} '{name}' is built in; expected a new name; register it under another"
            )
        self._registered[name] = value

    def __contains__(self, name: str) -> bool:
        """Whether `names` has it; packages are searched for one that is neither built in nor
        registered only.
        """
        known = name in self._built_in or name in self._registered
        return known or bool(entry_points(group=self.group, name=name))

    def names(self, installed: bool = True) -> list[str]:
        """All names, those that are built in first; without those that only `installed` packages
        offer, which takes a search.
        """
        if not installed:
            return list(dict.fromkeys([*self._built_in, *self._registered]))
        offered = [point.name for point in entry_points(group=self.group)]
        return list(dict.fromkeys([*self._built_in, *self._registered, *offered]))

    def get(self, name: str) -> T:
        """The value of a name. Raises UserError for an unknown one, and for an entry point that
        cannot be loaded.
        """
        for known in (self._built_in, self._registered):
            if name in known:
                return known[name]
        for point in entry_points(group=self.group, name=name):
            try:
                self._registered[name] = point.load()
            except (Exception, SystemExit) as error:
                raise UserError(
                    f"entry point '{point.name} = {point.value}' of group {self.group} cannot be "
                    f"loaded: {blame(error)}; repair or remove the package that declares it"
                ) from error
            return self._registered[name]
        raise UserError(
            f"{self.what} '{name}'; expected one of {', '.join(self.names())}"
            f"{nearest(name, self.names())}; load what brings it with --plugins"
        )
