"""Recipes: YAML files and packaged names, with what they extend and their `small:` blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alltrades.errors import UserError, nearest
from alltrades.settings.nested import flatten, without
from alltrades.settings.schema import show
from alltrades.system.reading import read_text
from alltrades.system.yaml_files import MOST_BYTES, parse_yaml


@dataclass(frozen=True)
class Layer:
    """One source of settings: nested plain data, and the label that names it in messages and saved
    settings.
    """

    label: str
    values: dict[str, Any]


@dataclass
class Recipe:
    """A recipe with what it extends, base first: layers of the recipe proper and of the `small:`
    blocks.
    """

    layers: list[Layer] = field(default_factory=list)
    small: list[Layer] = field(default_factory=list)


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package, such as "quickstart" and
    "experiments/estimators".
    """
    from importlib.resources import files

    root = files("alltrades.configs")
    top = [p.name.removesuffix(".yaml") for p in root.iterdir() if p.name.endswith(".yaml")]
    experiments = root / "experiments"
    nested = (
        [
            f"experiments/{p.name.removesuffix('.yaml')}"
            for p in experiments.iterdir()
            if p.name.endswith(".yaml")
        ]
        if experiments.is_dir()
        else []
    )
    return sorted(top) + sorted(nested)


def find_recipe(name: Path | str, beside: Path | None = None) -> tuple[str, str]:
    """(label, text) of a recipe: a file, a file in the folder `beside`, or a packaged name.

    A packaged name may have "configs/" before it and ".yaml" behind it, as in a checkout. The label
    is the packaged name or the file's name, never a path of this machine.

    Raises:
        UserError: neither a readable file nor a packaged name.
    """
    from importlib.resources import files

    path = Path(name)
    candidates = [path] if beside is None else [beside / path, beside / f"{path}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            text = read_text(candidate, "a recipe in YAML", "mend the file", MOST_BYTES)
            return candidate.name.removesuffix(".yaml"), text
    packaged = (
        path.as_posix()
        .removeprefix("./")
        .removeprefix("configs/")
        .removesuffix(".yaml")
        .removesuffix(".yml")
    )
    known = packaged_recipes()
    if packaged in known:
        return packaged, files("alltrades.configs").joinpath(
            *f"{packaged}.yaml".split("/")
        ).read_text(encoding="utf-8")
    raise UserError(
        f"recipe '{name}' not found; expected a YAML file or one of "
        f"{', '.join(known)}{nearest(packaged, known)}"
    )


def read_recipe(
    name: Path | str, beside: Path | None = None, chain: tuple[str, ...] = ()
) -> Recipe:
    """A recipe and what it extends. `beside`: folder in which names are looked for first; `chain`:
    who extends it.

    Raises:
        UserError: not found, not YAML, not a mapping, or it extends itself.
    """
    label, text = find_recipe(name, beside)
    if label in chain:
        raise UserError(
            f"recipe '{label}' extends itself ({' -> '.join((*chain, label))}); remove one "
            "`extends:`"
        )
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"recipe '{label}': {error}; mend the file") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(
            f"recipe '{label}' holds {show(values, 40)}; expected a mapping of settings"
        )
    extends, small = values.pop("extends", None), values.pop("small", None)
    if extends is not None and not isinstance(extends, str):
        raise UserError(
            f"recipe '{label}': extends = {show(extends, 40)}; expected the name of one recipe"
        )
    if small is not None and not isinstance(small, dict):
        raise UserError(
            f"recipe '{label}': small = {show(small, 40)}; expected a mapping of settings"
        )
    folder = Path(name).parent if beside is None else beside
    recipe = read_recipe(extends, folder, (*chain, label)) if extends is not None else Recipe()
    cleared = [key for key, value in flatten(values) if value == {}]
    recipe.small = [
        Layer(x.label, without(x.values, cleared)) for x in recipe.small
    ]  # gone there as well
    recipe.layers.append(Layer(label, values))
    if small is not None:
        recipe.small.append(Layer(f"{label} (small)", small))
    return recipe
