"""Schemas: columns, the primary key, and rows of any shape turned into one checked Arrow batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from . import dtypes
from .convert import column_numpy, row_value, to_array
from .dtypes import LogicalType
from .errors import InvalidArgumentError, SchemaError
from .registry import near


@dataclass(frozen=True)
class Column:
    """A named, typed column. ``type`` is an Arrow type, `tensor`, `ragged`, `sparse` or `json`."""

    name: str
    type: Any
    nullable: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name.startswith("_"):
            raise InvalidArgumentError(f"column name {self.name!r}; give a non-empty text that does not begin with '_'")
        if not isinstance(self.type, (pa.DataType, LogicalType)):
            raise InvalidArgumentError(
                f"column {self.name!r}: type {self.type!r}; give an Arrow type or lsmtensor.tensor(…), ragged, sparse, json"
            )

    @property
    def arrow(self) -> pa.Field:
        kind = self.type if isinstance(self.type, pa.DataType) else self.type.arrow_type
        return pa.field(self.name, kind, self.nullable)


class Schema:
    """Columns in order, and which of them are the key. Key columns are never null."""

    def __init__(self, columns: Sequence[Column], primary_key: str | Sequence[str]) -> None:
        key = (primary_key,) if isinstance(primary_key, str) else tuple(primary_key)
        names = [c.name for c in columns]
        if len(set(names)) != len(names):
            raise InvalidArgumentError(f"columns {names}: a name is there twice")
        for name in key:
            if name not in names:
                raise InvalidArgumentError(f"primary key column {name!r} is not a column; {near(name, names)}")
        if not key or len(set(key)) != len(key):
            raise InvalidArgumentError(f"primary_key={primary_key!r}; give one or more different columns")
        self.columns = tuple(Column(c.name, c.type, c.nullable and c.name not in key) for c in columns)
        self.primary_key = key
        for name in key:
            if isinstance(self.field(name).type, LogicalType):
                raise InvalidArgumentError(f"primary key column {name!r} is a {self.field(name).type}; keys are plain scalars")
        self.names = names
        self.arrow = pa.schema([c.arrow for c in self.columns])

    def field(self, name: str) -> Column:
        """The column of a name; `SchemaError` lists the near ones."""
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"no column named {name!r}; {near(str(name), [c.name for c in self.columns])}")

    # -- rows in ---------------------------------------------------------------------------------

    def batch(self, rows: Any, *, partial: bool = False) -> pa.RecordBatch:
        """One record batch of the schema's columns (with ``partial``, of those given) from rows of any common kind.

        A dict of arrays, a list of dicts, anything with an Arrow stream (Table, RecordBatch, reader, pandas,
        polars). Columns left out are null. Raises `SchemaError`, and nothing is written.
        """
        given = _columns_given(rows)
        for name in given:
            self.field(name)
        missing = [n for n in self.primary_key if n not in given]
        if missing:
            raise SchemaError(f"rows lack the key column {missing[0]!r}; given: {', '.join(given) or 'none'}")
        arrays: dict[str, pa.Array] = {}
        length: tuple[str, int] | None = None
        for column in self.columns:
            if column.name in given:
                array = to_array(given[column.name], column.name, column.type)
                if length is not None and len(array) != length[1]:
                    raise SchemaError(f"column {column.name!r} has {len(array)} rows, column {length[0]!r} has {length[1]}; wanted as many")
                length = length or (column.name, len(array))
                if not column.nullable and array.null_count:
                    row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
                    raise SchemaError(f"column {column.name!r}, row {row}: given null; this column is never null")
                arrays[column.name] = array
        assert length is not None
        for column in self.columns:
            if column.name not in arrays and not partial:
                if not column.nullable:
                    raise SchemaError(f"rows lack the column {column.name!r}, which is never null")
                arrays[column.name] = _nulls(length[1], column.arrow.type)
        schema = pa.schema([c.arrow for c in self.columns if c.name in arrays])
        return pa.RecordBatch.from_arrays([arrays[n] for n in schema.names], schema=schema)

    def keys(self, keys: Any) -> pa.RecordBatch:
        """The key columns of one key, or of a list or array of keys (tuples for a key of several columns)."""
        if isinstance(keys, (pa.Table, pa.RecordBatch)):
            given: dict[str, Any] = {n: keys.column(n) for n in keys.schema.names}
        elif len(self.primary_key) == 1:
            single = isinstance(keys, (str, bytes)) or not hasattr(keys, "__len__")
            given = {self.primary_key[0]: [keys] if single else keys}
        else:
            rows = [keys] if isinstance(keys, tuple) else list(keys)
            for row, key in enumerate(rows):
                if not isinstance(key, (tuple, list)) or len(key) != len(self.primary_key):
                    raise SchemaError(f"key {row}: given {key!r}; wanted a tuple of {self.primary_key}")
            given = {n: [key[i] for key in rows] for i, n in enumerate(self.primary_key)}
        columns = [self.field(n) for n in self.primary_key]
        arrays = []
        for c in columns:
            if c.name not in given:
                raise SchemaError(f"keys lack the column {c.name!r}; wanted {self.primary_key}")
            arrays.append(to_array(given[c.name], c.name, c.type))
            if arrays[-1].null_count:
                raise SchemaError(f"key column {c.name!r}: given null; a key is never null")
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([c.arrow for c in columns]))

    # -- rows out --------------------------------------------------------------------------------

    def row(self, batch: pa.RecordBatch, row: int) -> dict[str, Any]:
        """One row as a dict; tensors are numpy arrays."""
        return {c.name: row_value(batch.column(c.name), row, c.type) for c in self.columns if c.name in batch.schema.names}

    # -- as a value ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """A JSON value; Arrow types travel as a serialized Arrow schema in base64."""
        import base64

        plain = pa.schema([pa.field(c.name, c.type) for c in self.columns if isinstance(c.type, pa.DataType)])
        return {
            "columns": [
                {"name": c.name, "nullable": c.nullable, "type": None if isinstance(c.type, pa.DataType) else c.type.to_dict()}
                for c in self.columns
            ],
            "arrow": base64.b64encode(plain.serialize().to_pybytes()).decode(),
            "primary_key": list(self.primary_key),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Schema:
        import base64

        plain = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["arrow"])))
        columns = [
            Column(c["name"], plain.field(c["name"]).type if c["type"] is None else dtypes.from_dict(c["type"]), c["nullable"])
            for c in value["columns"]
        ]
        return cls(columns, value["primary_key"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.columns == other.columns and self.primary_key == other.primary_key

    def __hash__(self) -> int:
        return hash((self.columns, self.primary_key))

    def __repr__(self) -> str:
        lines = "".join(f"\n  {c.name}: {c.type}{'' if c.nullable else ' not null'}" for c in self.columns)
        return f"Schema(primary_key={self.primary_key}){lines}"


def _nulls(n: int, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.nulls(n, kind.storage_type))
    return pa.nulls(n, kind)


def _columns_given(rows: Any) -> dict[str, Any]:
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        return {n: rows.column(n) for n in rows.schema.names}
    if isinstance(rows, Mapping):
        return {str(k): v for k, v in rows.items()}
    if hasattr(rows, "__arrow_c_stream__"):
        return _columns_given(pa.table(rows))
    if isinstance(rows, (list, tuple)) and all(isinstance(r, Mapping) for r in rows):
        if not rows:
            raise SchemaError("no rows given; give at least one, or a table with columns")
        names = dict.fromkeys(name for r in rows for name in r)
        return {str(n): [r.get(n) for r in rows] for n in names}
    if isinstance(rows, (list, tuple)) and rows and all(isinstance(r, (pa.RecordBatch, pa.Table)) for r in rows):
        return _columns_given(pa.concat_tables([pa.table(r) if isinstance(r, pa.RecordBatch) else r for r in rows]))
    raise SchemaError(f"rows are a {type(rows).__name__}; give a dict of columns, a list of dicts, or an Arrow, pandas or polars table")


__all__ = ["Column", "Schema", "column_numpy"]
