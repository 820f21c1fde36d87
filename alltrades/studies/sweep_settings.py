"""Settings of a sweep, and of each of its runs."""

from __future__ import annotations

import itertools
import zlib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from alltrades.settings.load import invalid
from alltrades.settings.run import RunSettings
from alltrades.settings.schema import check_value, lookup, plain, show
from alltrades.studies.at_once import AT_ONCE
from alltrades.studies.varied import Once, Seeds

OWN = ("study", "seeds", "sweep", "first", "title", "at_once")


class Settings(RunSettings):
    """A run's settings, what varies, and training seeds."""

    study: Literal["sweep"] = "sweep"
    title: str = Field("", description="what is asked, for the page; default the name")
    seeds: Seeds = (0, 1, 2)
    sweep: dict[str, Annotated[list[Any], Once]] = Field(
        default_factory=dict, description="values of each dotted setting that varies"
    )
    at_once: int = Field(1, ge=1, description=AT_ONCE)
    first: int | None = Field(None, ge=1, description="use only so many values of each setting")

    @field_validator("sweep")
    @classmethod
    def _seeds_are_apart(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "seed" in value:
            raise ValueError("seed varies as `seeds`; expected other settings; name them there")
        return value

    def grid(self) -> list[dict[str, Any]]:
        """One mapping of dotted settings to values per combination; the first setting varies
        slowest.
        """
        values = [v[: self.first] for v in self.sweep.values()]
        return [dict(zip(self.sweep, combination)) for combination in itertools.product(*values)]


def cell_settings(
    settings: Settings, values: dict[str, Any], seed: int, origins: dict[str, str]
) -> RunSettings:
    """Settings of one run: the recipe's with `values` and `seed` in their place.

    A further generalist follows `distill` in what the recipe does not say of it (`origins`: what it
    says), as in any recipe.

    Raises UserError for values that the settings do not accept.
    """
    data = {k: v for k, v in plain(settings).items() if k not in OWN} | {"seed": seed}
    for name, own in data["generalists"].items():
        data["generalists"][name] = _said(own, data["distill"], f"generalists.{name}", origins)
    for key, value in values.items():
        leaf = lookup(RunSettings, key)
        check_value(leaf, value, "sweep")
        level = data
        for part in leaf.path[:-1]:
            level = level.setdefault(part, {})
        level[leaf.path[-1]] = value
    try:
        return RunSettings.model_validate(data)
    except ValidationError as error:
        raise invalid(RunSettings, error, {**origins, **dict.fromkeys(values, "sweep")}) from error


def _said(
    own: dict[str, Any], base: dict[str, Any], key: str, origins: dict[str, str]
) -> dict[str, Any]:
    """The part of a generalist's settings that a source has set, or that is not as in `distill`."""
    out = {}
    for name, value in own.items():
        here = f"{key}.{name}"
        if isinstance(value, dict) and isinstance(base.get(name), dict) and here not in origins:
            inner = _said(value, base[name], here, origins)
            if inner:
                out[name] = inner
        elif here in origins or value != base.get(name):
            out[name] = value
    return out


def cell_name(values: dict[str, Any]) -> str:
    """Folder of a combination: its settings and values; what is long is cut and told apart by a
    checksum.
    """
    parts = []
    for key, value in values.items():
        name, text = _plain(key), _plain(show(value, 10**6))
        parts.append(
            f"{name}={text}"
            if len(text) <= 40
            else f"{name}={text[:31]}-{zlib.crc32(text.encode()):08x}"
        )
    return "+".join(parts) or "base"


def _plain(text: str) -> str:
    """Without what means something in a path."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)
