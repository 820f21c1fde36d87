"""Flags of a command from a settings model: names, kinds, choices, help and defaults are the
model's.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from alltrades.errors import UserError
from alltrades.settings.schema import accepted, default_of, members, sequence_item, show, takes

M = TypeVar("M", bound=BaseModel)


def add_flags(
    parser: argparse.ArgumentParser, model: type[BaseModel], without: Collection[str] = ()
) -> None:
    """--NAME for every field of a flat model but those in `without`; true/false settings, false by
    default, are switches.

    What is not given is left out of the namespace: the model's defaults are said once.
    """
    for name, field in model.model_fields.items():
        if name in without:
            continue
        option, said = f"--{name.replace('_', '-')}", (field.description or "").replace("%", "%%")
        if takes(field.annotation, bool):
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=said)
            continue
        default = default_of(field)
        if default not in (None, (), []) and not field.is_required():
            said += f"; default {show(default)}"
        choices = [
            x for m in members(field.annotation) if get_origin(m) is Literal for x in get_args(m)
        ]
        several: dict[str, Any] = (
            {"nargs": "*"} if sequence_item(field.annotation) is not None else {}
        )
        parser.add_argument(
            option,
            default=argparse.SUPPRESS,
            required=field.is_required(),
            choices=choices or None,
            metavar=None if choices else _placeholder(field),
            help=said,
            **several,
        )


def _placeholder(field: FieldInfo) -> str | None:
    if takes(field.annotation, int):
        return "N"
    return "X" if takes(field.annotation, float) else None


def settings_from_flags(model: type[M], args: argparse.Namespace) -> M:
    """The model of what was given.

    Raises:
        UserError: the first value that the model refuses, by its flag.
    """
    given = {name: value for name, value in vars(args).items() if name in model.model_fields}
    try:
        return model(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise UserError(first["msg"].partition(", ")[2] or first["msg"]) from error
        name = str(first["loc"][0])
        field = model.model_fields[name]
        raise UserError(
            f"--{name.replace('_', '-')} {show(first['input'])}; expected "
            f"{accepted(field.annotation, field.metadata)}"
        ) from error
