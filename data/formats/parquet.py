"""Columns of Arrow tables as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from alltrades.data.formats.recording import Refusal


def kind_of(type_: Any) -> tuple[str, str]:
    """("numbers", "image", "text" or "other", Arrow's name of the type)."""
    import pyarrow as pa

    inner = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    while (
        pa.types.is_list(inner)
        or pa.types.is_fixed_size_list(inner)
        or pa.types.is_large_list(inner)
    ):
        inner = inner.value_type
    if pa.types.is_struct(inner) and inner.get_field_index("bytes") >= 0:
        return "image", str(type_)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text", "str"
    if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
        return "numbers", str(inner)
    return "other", str(type_)


def column_of(where: str, column: Any) -> Any:
    """A column (N rows) as an array (N, *shape) of numbers, an object array of texts, or a list of
    the packed bytes of pictures.

    Raises `Refusal` for rows without a value and for rows of unequal sizes.
    """
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # several chunks cannot be one
        array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_struct(array.type):
        return array.field("bytes").to_pylist()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        _whole(where, array)
        return np.array(array.to_pylist(), dtype=object)
    shape: list[int] = []
    rows = len(array)
    while not pa.types.is_primitive(array.type):
        _whole(where, array)
        if pa.types.is_fixed_size_list(array.type):
            size = array.type.list_size
            flat = array.flatten()
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            sizes = np.asarray(array.value_lengths())
            if len(sizes) and (sizes != sizes[0]).any():
                odd = int(np.argmax(sizes != sizes[0]))
                raise Refusal(
                    f"{where}: {sizes[odd]} numbers in row {odd // max(1, int(np.prod(shape)))}; "
                    f"expected {sizes[0]} as in row 0; restore the file"
                )
            size = int(sizes[0]) if len(sizes) else 0
            flat = array.flatten()
        else:
            raise Refusal(f"{where}: of type {array.type}; expected numbers; leave it out")
        shape.append(size)
        array = flat
    _whole(where, array)
    return array.to_numpy(zero_copy_only=False).reshape(rows, *shape)


def _whole(where: str, array: Any) -> None:
    if array.null_count:
        row = int(np.argmax(np.asarray(array.is_null())))
        raise Refusal(f"{where}: no value in row {row}; expected one per row; restore the file")
