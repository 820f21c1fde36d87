"""What a study goes through: each value once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from alltrades.settings.schema import show


def once(values: Sequence[Any]) -> Sequence[Any]:
    """The values. Raises ValueError where one is there twice: the same run would count as two."""
    seen = []
    for value in values:
        if value in seen:
            raise ValueError(f"{show(value, 60)} twice; expected every value once; leave one out")
        seen.append(value)
    return values


Once = AfterValidator(once)
Seeds = Annotated[
    tuple[int, ...],
    Field(min_length=1, description="training seeds, in place of `seed`"),
    Once,
]
