"""Schemas that change: columns added, dropped, renamed, widened. Each change is a new schema; a column keeps its id through all of them.

Nothing here touches a row: files stay as they were written, and are read through the schema that is asked for (`lsm/columns.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from .convert import to_array
from .dtypes import DTYPES, TensorType
from .errors import DuplicateKeyError, SchemaError
from .keys import KeyCodec
from .schema import Column, Schema

# what each number type can become without changing a value
_WIDER = {
    "int8": {"int16", "int32", "int64", "float16", "float32", "float64"},
    "int16": {"int32", "int64", "float32", "float64"},
    "int32": {"int64", "float64"},
    "uint8": {"uint16", "uint32", "uint64", "int16", "int32", "int64", "float16", "float32", "float64"},
    "uint16": {"uint32", "uint64", "int32", "int64", "float32", "float64"},
    "uint32": {"uint64", "int64", "float64"},
    "float16": {"float32", "float64"},
    "float32": {"float64"},
    "complex64": {"complex128"},
}
_PAIRS = {(pa.string(), pa.large_string()), (pa.binary(), pa.large_binary()), (pa.date32(), pa.date64())}


def added(schema: Schema, column: Column, fill: pa.Array | None) -> Schema:
    """With one more column, the last; ``fill`` (1) is its value in the rows that are there already, null without it."""
    if column.name in schema.names:
        raise DuplicateKeyError(f"a column named {column.name!r} is there already; drop or rename it first")
    fills = schema.fills if fill is None else {**schema.fills, schema.next_id: fill}
    return Schema([*schema.columns, column], schema.primary_key, ids=(*schema.ids, schema.next_id), next_id=schema.next_id + 1, fills=fills)


def fill_of(column: Column, value: Any) -> pa.Array | None:
    """The value of a new column for the rows that are there, checked: an array of one; None for null."""
    if value is None:
        if not column.nullable:
            raise SchemaError(f"column {column.name!r} is never null and the table may have rows; give the value that they get")
        return None
    return to_array([value], column.name, column.type)


def dropped(schema: Schema, name: str) -> Schema:
    """Without a column, which must not be of the key."""
    schema.field(name)
    if name in schema.primary_key:
        raise SchemaError(f"column {name!r} is of the primary key and cannot be dropped; make a new table with another key")
    keep = [i for i, n in enumerate(schema.names) if n != name]
    # its fill stays: older versions go on reading it
    return Schema([schema.columns[i] for i in keep], schema.primary_key, ids=[schema.ids[i] for i in keep], next_id=schema.next_id, fills=schema.fills)


def renamed(schema: Schema, old: str, new: str) -> Schema:
    """With a column called otherwise."""
    schema.field(old)
    if new in schema.names:
        raise DuplicateKeyError(f"a column named {new!r} is there already; drop or rename it first")
    columns = [replace(c, name=new) if c.name == old else c for c in schema.columns]
    key = [new if n == old else n for n in schema.primary_key]
    return Schema(columns, key, ids=schema.ids, next_id=schema.next_id, fills=schema.fills)


def widened(schema: Schema, name: str, kind: Any) -> Schema:
    """With a column of a type that holds every value of its old one; a key column only where its encoding stays."""
    old = schema.field(name)
    new = replace(old, type=kind)
    if not _holds(old.type, new.type):
        raise SchemaError(f"column {name!r} is {old.type}; {new.type} does not hold each of its values unchanged, or is no wider")
    columns = [new if c.name == name else c for c in schema.columns]
    fills = {i: cast(v, new.arrow.type) if i == schema.ids[schema.names.index(name)] else v for i, v in schema.fills.items()}
    made = Schema(columns, schema.primary_key, ids=schema.ids, next_id=schema.next_id, fills=fills)
    if name in schema.primary_key:
        before, after = KeyCodec(schema), KeyCodec(made)
        whole = pa.types.is_integer(old.type) and pa.types.is_integer(new.type) and new.type != pa.uint64()
        if (before.kind, before.stored) != (after.kind, after.stored) or (pa.types.is_integer(old.type) and not whole) or pa.types.is_date(old.type):
            raise SchemaError(f"key column {name!r} from {old.type} to {new.type}: keys would sort by other bytes; make a new table")
    return made


def _holds(old: Any, new: Any) -> bool:
    if isinstance(old, TensorType) and isinstance(new, TensorType):
        bits = old.dtype == "bfloat16" or old.dtype.startswith("float8")
        return old.shape == new.shape and not bits and new.dtype in _WIDER.get(old.dtype, ()) and new.dtype in DTYPES
    if not isinstance(old, pa.DataType) or not isinstance(new, pa.DataType):
        return False
    if (old, new) in _PAIRS:
        return True
    if pa.types.is_decimal(old) and pa.types.is_decimal(new):
        return bool(old.scale == new.scale and old.precision < new.precision)
    return _name(new) in _WIDER.get(_name(old), ())


def _name(kind: pa.DataType) -> str:
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))


def cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values in a wider type; back in a narrower one those that fit are right, and the others must not be looked at."""
    if array.type == kind:
        return array
    if isinstance(kind, pa.BaseExtensionType):
        storage = array.storage if isinstance(array, pa.ExtensionArray) else array
        return pa.ExtensionArray.from_storage(kind, storage.cast(kind.storage_type, safe=False))
    return array.cast(kind, safe=False)
