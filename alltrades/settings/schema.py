"""What a tree of settings models accepts: names, types and bounds in words, for checks, messages
and help.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from alltrades.errors import UserError, nearest

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    type(None): "null",
    Any: "anything",
}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, else the annotation alone; `Annotated` is unwrapped."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(m for a in get_args(annotation) for m in members(a))
    return (annotation,)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The nested settings model of a field (also an optional one), or None for a plain value."""
    found = [m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    return found[0] if len(found) == 1 else None


def mapping_value(annotation: Any) -> Any:
    """X for a field of type dict[str, X] (also an optional one), else None."""
    found = [m for m in members(annotation) if get_origin(m) in (dict, Mapping)]
    return get_args(found[0])[1] if len(found) == 1 else None


def sequence_item(annotation: Any) -> Any:
    """X for a list[X] or tuple[X, ...]; Any for other sequences; None for a field that is no
    sequence.
    """
    for member in members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if origin in (list, tuple, set, frozenset, Sequence):
            return (
                arguments[0]
                if origin is not tuple or (len(arguments) == 2 and arguments[1] is Ellipsis)
                else Any
            )
        if member in (list, tuple, set, frozenset):
            return Any
    return None


def takes(annotation: Any, kind: type) -> bool:
    """Whether a plain value of exactly `kind` (bool, str, NoneType, ...) is among what the field
    accepts.
    """
    for member in members(annotation):
        if member in (Any, kind) or (
            get_origin(member) is Literal and any(type(v) is kind for v in get_args(member))
        ):
            return True
    return False


def accepted(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The accepted values in words: "an integer >= 1", "one of flow, vp", "a number > 0, or
    null".
    """
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return accepted(inner, [*more, *metadata])
    alternatives = (
        list(get_args(annotation))
        if get_origin(annotation) in (Union, types.UnionType)
        else [annotation]
    )
    alternatives.sort(key=lambda a: a is type(None))
    words = [_word(a) if get_origin(a) is not Annotated else accepted(a) for a in alternatives]
    bounds = [
        f"{sign} {getattr(m, name)}"
        for m in metadata
        for name, sign in _BOUNDS.items()
        if hasattr(m, name)
    ]
    if bounds:
        words[0] += " " + " and ".join(bounds)
    shortest = max((m.min_length for m in metadata if getattr(m, "min_length", None)), default=0)
    if shortest:
        words[0] += (
            f", at least {shortest} of them"
            if sequence_item(annotation) is not None
            else ", not empty"
        )
    return words[0] if len(words) == 1 else ", or ".join(words)


def _word(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        shown = ", ".join(show(v) for v in arguments)
        return f"one of {shown}" if len(arguments) > 1 else shown
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return f"a list of {len(arguments)}: " + ", ".join(accepted(a) for a in arguments)
    if sequence_item(annotation) is not None:
        return f"a list of ({accepted(sequence_item(annotation))})" if arguments else "a list"
    if mapping_value(annotation) is not None:
        return f"a mapping of names to ({accepted(mapping_value(annotation))})"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a group of settings"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def show(value: Any, limit: int = 200) -> str:
    """A value as YAML on one line, cut to `limit` characters."""
    try:
        text = yaml.safe_dump(
            plain(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
        )
    except yaml.YAMLError:
        text = repr(value)
    text = text.strip().removesuffix("...").strip()
    return text if len(text) <= limit else text[:limit] + " ..."


def plain(value: Any) -> Any:
    """Settings as plain dicts, lists and scalars."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def default_of(field: FieldInfo) -> Any:
    """A field's default, PydanticUndefined for a required one."""
    return field.get_default(call_default_factory=True, validated_data={})


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Every default as plain data; a nested group keeps the defaults that its field gives it."""
    found = {name: default_of(field) for name, field in model.model_fields.items()}
    return {name: plain(value) for name, value in found.items() if value is not PydanticUndefined}


@dataclass(frozen=True)
class Leaf:
    """A setting reached by a dotted key: its path in the tree, type and bounds."""

    path: tuple[str, ...]
    annotation: Any
    metadata: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def accepted(self) -> str:
        return accepted(self.annotation, self.metadata)


def lookup(model: type[BaseModel], key: str) -> Leaf:
    """The setting behind a dotted key; `-` stands for `_` in field names.

    Raises:
        UserError: no such setting; names the nearest one at the level where the key leaves the
            tree.
    """
    parts = key.split(".")
    path: tuple[str, ...] = ()
    node: Any = model
    metadata: tuple[Any, ...] = ()
    while parts:
        group, values = model_of(node), mapping_value(node)
        if group is not None:
            name = parts[0] if parts[0] in group.model_fields else parts[0].replace("-", "_")
            if name not in group.model_fields:
                raise unknown(path, parts[0], list(group.model_fields), "")
            node, metadata = (
                group.model_fields[name].annotation,
                tuple(group.model_fields[name].metadata),
            )
            path, parts = (*path, name), parts[1:]
        elif values is not None:
            nested = model_of(values) is not None or mapping_value(values) is not None
            name = parts[0] if nested else ".".join(parts)  # names of plain values may hold dots
            node, metadata = values, ()
            path, parts = (*path, name), parts[1:] if nested else []
        else:
            raise UserError(
                f"unknown setting '{key}'; '{'.'.join(path)}' is {accepted(node, metadata)}, it "
                "has no keys below it"
            )
    return Leaf(path, node, metadata)


def unknown(path: tuple[str, ...], name: str, known: list[str], source: str) -> UserError:
    """The error for a name that a level of the tree does not have."""
    where = f" in {source}" if source else ""
    level = f"'{'.'.join(path)}'" if path else "the top level"
    guess = nearest(name, known)
    rest = guess if guess else f"; expected one of {', '.join(known)}"
    return UserError(
        f"unknown setting '{'.'.join((*path, name))}'{where}; not among the keys of {level}{rest}"
    )


def check_value(leaf: Leaf, value: Any, source: str) -> None:
    """Refuse unknown keys, a value in place of a group, and true or false as a number (pydantic
    takes that).

    Raises:
        UserError: names the dotted key, the value, its source and what is accepted.
    """
    group, values = model_of(leaf.annotation), mapping_value(leaf.annotation)
    if value is None and takes(leaf.annotation, type(None)):
        return
    if isinstance(value, str) and takes(leaf.annotation, str):
        return
    if group is not None or values is not None:
        if not isinstance(value, Mapping):
            keys = f" with the keys {', '.join(group.model_fields)}" if group is not None else ""
            raise UserError(
                f"{leaf.key} = {show(value, 60)} ({source}); expected "
                f"{accepted(leaf.annotation)}{keys}"
            )
        for name, item in value.items():
            if group is not None:
                if name not in group.model_fields:
                    raise unknown(leaf.path, str(name), list(group.model_fields), source)
                field = group.model_fields[name]
                check_value(
                    Leaf((*leaf.path, name), field.annotation, tuple(field.metadata)), item, source
                )
            else:
                check_value(Leaf((*leaf.path, str(name)), values), item, source)
    elif isinstance(value, list) and model_of(sequence_item(leaf.annotation)) is not None:
        for i, item in enumerate(value):
            check_value(Leaf((*leaf.path, str(i)), sequence_item(leaf.annotation)), item, source)
    elif isinstance(value, bool) and not takes(leaf.annotation, bool):
        raise UserError(f"{leaf.key} = {show(value)} ({source}); expected {leaf.accepted}")


def describe(model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    """(dotted key, accepted values, default, help) of every setting.

    A mapping of names to groups that occur elsewhere in the tree is one line that points there.
    """
    return list(_describe(model, defaults(model), (), _homes(model)))


def _homes(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[type[BaseModel], str]:
    homes: dict[type[BaseModel], str] = {}
    for name, field in model.model_fields.items():
        group = model_of(field.annotation)
        if group is not None:
            homes = {group: ".".join((*path, name)), **_homes(group, (*path, name)), **homes}
    return homes


def _describe(
    model: type[BaseModel], values: Any, path: tuple[str, ...], homes: dict[type[BaseModel], str]
) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        key, help_text = ".".join((*path, name)), field.description or ""
        value = (
            values.get(name, PydanticUndefined) if isinstance(values, dict) else PydanticUndefined
        )
        group, items = model_of(field.annotation), mapping_value(field.annotation)
        item_group = model_of(items) if items is not None else None
        default = "required" if value is PydanticUndefined else show(value)
        if group is not None:
            yield from _describe(
                group, value if isinstance(value, dict) else defaults(group), (*path, name), homes
            )
        elif item_group is not None and item_group in homes:
            yield f"{key}.NAME.KEY", f"the keys of {homes[item_group]}", default, help_text
        elif item_group is not None:
            yield from _describe(item_group, defaults(item_group), (*path, name, "NAME"), homes)
        else:
            yield (
                key + (".NAME" if items is not None else ""),
                accepted(field.annotation if items is None else items, field.metadata),
                default,
                help_text,
            )
