"""Settings from their four sources, in one order: defaults < file < the file's `small:` block <
command line.

Knows nothing of the concrete models. A recipe is a YAML file or a packaged name; `extends: NAME` at
its top starts from another recipe; an empty mapping (`generalists: {}`) clears what came before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from alltrades.errors import UserError
from alltrades.settings.nested import flatten, merge, nest
from alltrades.settings.recipes import (
    Layer,
    Recipe,
    find_recipe,
    packaged_recipes,
    read_recipe,
)
from alltrades.settings.schema import (
    Leaf,
    check_value,
    defaults,
    describe,
    lookup,
    mapping_value,
    model_of,
    plain,
    sequence_item,
    show,
    takes,
)
from alltrades.system.yaml_files import Loader, parse_yaml

__all__ = [
    "describe",
    "dump_yaml",
    "find_recipe",
    "invalid",
    "load_settings",
    "packaged_recipes",
    "parse_overrides",
]

M = TypeVar("M", bound=BaseModel)
COMMAND_LINE = "command line"
SHORT = {"compute": "compute.on"}  # what may be said for a setting on the command line


def load_settings(
    model: type[M],
    *,
    defaults_file: Path | str | None = None,
    small: bool = False,
    overrides: Sequence[str] = (),
) -> tuple[M, dict[str, str]]:
    """Settings from a recipe and command line tokens, merged over the model's defaults.

    Args:
        model: a frozen pydantic model, possibly nested.
        defaults_file: YAML file or packaged recipe name; None: defaults and overrides only.
        small: apply the recipe's `small:` block.
        overrides: `--a.b value`, `--a.b=value`, `--a.b` and `--no-a.b` (true/false settings); the
            last one wins.

    Returns:
        The settings, and for each dotted key that a source has set the label of the last source
        that did.

    Raises:
        UserError: recipe not found or not readable, unknown key, wrong type, inconsistent values.
            One line.
    """
    recipe = read_recipe(defaults_file) if defaults_file is not None else Recipe()
    layers = list(recipe.layers)
    if small:
        if not recipe.small:
            found = (
                f"recipe '{layers[-1].label}' has no `small:` block"
                if layers
                else "--small was given without a recipe"
            )
            raise UserError(
                f"{found}; expected a recipe with one; choose another or leave --small out"
            )
        layers += recipe.small
    for layer in (*recipe.layers, *recipe.small):  # a mistake in `small:` shows without --small too
        check_value(Leaf((), model), layer.values, layer.label)
    layers += [Layer(COMMAND_LINE, values) for values in parse_overrides(model, overrides)]
    values: dict[str, Any] = defaults(model)
    origins: dict[str, str] = {}
    for layer in layers:
        values = merge(values, layer.values)
        for key, _ in flatten(layer.values):
            origins = {k: v for k, v in origins.items() if not k.startswith(key + ".")}
            origins[key] = layer.label
    try:
        return model.model_validate(values), origins
    except ValidationError as error:
        raise invalid(model, error, origins) from error


def invalid(
    model: type[BaseModel], error: ValidationError, origins: Mapping[str, str]
) -> UserError:
    """The first thing that a model refuses, as one line that names the setting, its value and where
    that came from.
    """
    return UserError(_translate(model, error, origins))


# ---- command line --------------------------------------------------------------------------------
def parse_overrides(model: type[BaseModel], tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Command line tokens as nested data, one item per setting, in order.

    Values are YAML; text settings take the token as it is; lists take `[a, b]`, `a,b` or several
    tokens.

    Raises:
        UserError: token that is no setting, unknown key, missing value.
    """
    found: list[dict[str, Any]] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise UserError(
                f"unexpected '{token}' on the command line; expected a setting such as --seed 1"
            )
        key, equals, text = token[2:].partition("=")
        key = SHORT.get(key, key)
        if key.startswith("no-") and not _exists(model, key):
            leaf = lookup(model, key.removeprefix("no-"))
            if not takes(leaf.annotation, bool) or equals:
                raise UserError(
                    f"{token}: --no-KEY is for true/false settings; {leaf.key} takes "
                    f"{leaf.accepted}"
                )
            found.append(nest(leaf.path, False))
            continue
        leaf = lookup(model, key)
        if equals:
            value = _parse(leaf, [text])
        else:
            many = sequence_item(leaf.annotation) is not None
            texts: list[str] = []
            while rest and not rest[0].startswith("--") and (many or not texts):
                texts.append(rest.pop(0))
            if not texts and not takes(leaf.annotation, bool):
                raise UserError(f"--{leaf.key} has no value; expected {leaf.accepted}")
            value = _parse(leaf, texts) if texts else True
        check_value(leaf, value, COMMAND_LINE)
        found.append(nest(leaf.path, value))
    return found


def _exists(model: type[BaseModel], key: str) -> bool:
    try:
        lookup(model, key)
    except UserError:
        return False
    return True


def _parse(leaf: Leaf, texts: list[str]) -> Any:
    item = sequence_item(leaf.annotation)
    if item is None:
        return _scalar(leaf.annotation, texts[0], leaf)
    if len(texts) == 1 and texts[0].lstrip().startswith("["):
        listed = _yaml(texts[0], leaf, yaml.BaseLoader if takes(item, str) else Loader)
        return listed
    if len(texts) == 1:
        if takes(leaf.annotation, type(None)) and texts[0] in ("null", "~"):
            return None
        texts = [part.strip() for part in texts[0].split(",") if part.strip()]
    return [_scalar(item, text, leaf) for text in texts]


def _scalar(annotation: Any, text: str, leaf: Leaf) -> Any:
    if takes(annotation, type(None)) and text in ("null", "~"):
        return None
    textual = takes(annotation, str) or not any(
        takes(annotation, kind) for kind in (bool, int, float)
    )
    nested = any(of(annotation) is not None for of in (model_of, mapping_value, sequence_item))
    if textual and not nested:
        return text  # not YAML: "off", "5" and "1e3" stay the text they are
    return _yaml(text, leaf, Loader)


def _yaml(text: str, leaf: Leaf, loader: Any) -> Any:
    try:
        return parse_yaml(text, loader)
    except ValueError as error:
        raise UserError(
            f"--{leaf.key} {show(text, 60)}: not a YAML value; expected {leaf.accepted}"
        ) from error


# ---- messages and saved settings -----------------------------------------------------------------
def _translate(model: type[BaseModel], error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first of pydantic's errors as one line: field, value, where it came from, what is
    accepted.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    path: list[str] = []
    leaf = Leaf((), model)
    for part in first["loc"]:
        if isinstance(part, int):
            path.append(str(part))
            continue
        try:
            leaf = lookup(model, ".".join((*leaf.path, part)))
        except UserError:
            continue  # pydantic's mark for a member of a union, no name of ours
        path.append(part)
    key = ".".join(path)
    source = next(
        (f" ({label})" for k, label in origins.items() if key == k or key.startswith(k + ".")), ""
    )
    if first["type"] in ("value_error", "assertion_error"):
        message = first["msg"].partition(", ")[2] or first["msg"]
        line = f"{key}{source}: {message}" if key else message
    elif first["type"] == "missing":
        line = f"{key} is not set; expected {leaf.accepted}"
    else:
        words = leaf.accepted if leaf.path else first["msg"]
        line = f"{key} = {show(first['input'], 60)}{source}; expected {words}"
    # a value can give several errors, one per member of a union or one for the list and one for its
    # item: count values
    depth = len(first["loc"])
    others = len(
        {
            p["loc"]
            for p in problems
            if p["loc"][:depth] != first["loc"][: len(p["loc"])]
            and p["loc"][: len(path)] != first["loc"][: len(path)]
        }
    )
    return " ".join(line.split()) + (f" (and {others} more)" if others > 0 else "")


def dump_yaml(settings: BaseModel, origins: Mapping[str, str] | None = None) -> str:
    """The resolved settings as YAML that loads back, each line that is not a default with its
    origin as a comment.
    """
    return "".join(f"{line}\n" for line in _lines(plain(settings), (), origins or {}))


def _lines(
    values: Mapping[str, Any], path: tuple[str, ...], origins: Mapping[str, str]
) -> Iterator[str]:
    for name, value in values.items():
        here = (*path, str(name))
        origin = origins.get(".".join(here))
        start = "  " * len(path) + show(str(name), 10**6) + ":"
        if isinstance(value, dict) and value:
            yield start
            yield from _lines(value, here, origins)
        else:
            yield f"{start} {show(value, 10**6)}" + (f"  # {origin}" if origin else "")
