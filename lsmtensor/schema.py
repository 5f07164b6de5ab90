"""Schemas: columns, the primary key, and rows of any shape turned into one checked Arrow batch."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from . import dtypes
from .arrowbytes import stream_arrays, stream_bytes
from .convert import row_value, to_array
from .convert_tensors import column_numpy
from .dtypes import LogicalType, TensorType
from .errors import InvalidArgumentError, SchemaError
from .registry import Spec, near, parse_chain


@dataclass(frozen=True)
class Column:
    """A named, typed column. ``type`` is an Arrow type, `tensor`, `ragged`, `sparse` or `json`.

    ``codec`` (a chain such as ``"shuffle+zstd(level=3)"``) and ``quant`` (``"int8"``) are specs of how the values
    are stored; ``keep_full=False`` keeps the quantizer's codes only, so it needs ``quant``, which may also be a trained
    `Quantizer` (kept as the bytes that `lsmtensor.quant.save` makes of it). Beside full values codes are what an exhaustive
    search looks through, an index ``flat(quant=…)``. A primary key column is never null, whatever ``nullable`` says.
    """

    name: str
    type: Any
    nullable: bool = True
    codec: str | None = None
    quant: Any = None
    keep_full: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name.startswith("_"):
            raise InvalidArgumentError(f"column name {self.name!r}; give a non-empty text that does not begin with '_'")
        try:
            if isinstance(self.type, pa.DataType):
                object.__setattr__(self, "type", dtypes.of_arrow(self.type))
            elif not isinstance(self.type, LogicalType):
                raise InvalidArgumentError(f"type {self.type!r}; give an Arrow type or lsmtensor.tensor(…), ragged, sparse, json")
            if self.codec is not None:
                object.__setattr__(self, "codec", "+".join(map(str, parse_chain(self.codec))))
            if hasattr(self.quant, "saved"):
                object.__setattr__(self, "quant", self.quant.saved())
            elif self.quant is not None and not isinstance(self.quant, bytes):
                object.__setattr__(self, "quant", str(Spec.of(self.quant)))
        except InvalidArgumentError as why:
            raise InvalidArgumentError(f"column {self.name!r}: {why}") from why
        if self.quant is not None and not isinstance(self.type, TensorType):
            raise InvalidArgumentError(f"column {self.name!r}: quant={told(self.quant)} of a {self.type} column; only fixed-shape tensors are quantized")
        if not self.keep_full and self.quant is None:
            raise InvalidArgumentError(f"column {self.name!r}: keep_full=False without quant; name the quantizer whose codes are to be kept")

    def to_dict(self) -> dict[str, Any]:
        """A JSON value, without plain Arrow types."""
        made: dict[str, Any] = {"name": self.name, "nullable": self.nullable, "type": None if isinstance(self.type, pa.DataType) else self.type.to_dict()}
        made |= {n: getattr(self, n) for n in ("codec", "quant", "keep_full") if getattr(self, n) not in (None, True)}
        return made | ({"quant": {"trained": base64.b64encode(self.quant).decode()}} if isinstance(self.quant, bytes) else {})

    @property
    def rounding(self) -> str | bytes | None:
        """The quantizer whose codes are all that is kept of the values."""
        return None if self.keep_full else self.quant

    @property
    def arrow(self) -> pa.Field:
        kind = self.type if isinstance(self.type, pa.DataType) else self.type.arrow_type
        return pa.field(self.name, kind, self.nullable)


def told(quant: str | bytes | None) -> str:
    """A quantizer of a column, for messages."""
    return f"<trained, {len(quant)} bytes>" if isinstance(quant, bytes) else str(quant)


class Schema:
    """Columns in order, and which of them are the key. Key columns are never null."""

    def __init__(
        self, columns: Sequence[Column], primary_key: str | Sequence[str], *, ids: Sequence[int] | None = None, next_id: int | None = None,
        fills: Mapping[int, pa.Array] | None = None,
    ) -> None:
        """``ids`` and what follows are for schemas that were changed (`evolution`): what a column is called may change, its id not."""
        key = (primary_key,) if isinstance(primary_key, str) else tuple(primary_key)
        names = [c.name for c in columns]
        if len(set(names)) != len(names):
            raise InvalidArgumentError(f"columns {names}: a name is there twice")
        for name in key:
            if name not in names:
                raise InvalidArgumentError(f"primary key column {name!r} is not a column; {near(name, names)}")
        if not key or len(set(key)) != len(key):
            raise InvalidArgumentError(f"primary_key={primary_key!r}; give one or more different columns")
        self.columns = tuple(replace(c, nullable=c.nullable and c.name not in key) for c in columns)
        self.primary_key = key
        self.names = names
        self._by_name = {c.name: c for c in self.columns}
        for name in key:
            if isinstance(self.field(name).type, LogicalType):
                raise InvalidArgumentError(f"primary key column {name!r} is a {self.field(name).type}; keys are plain scalars")
            if self.field(name).codec is not None:
                raise InvalidArgumentError(f"primary key column {name!r} has codec={self.field(name).codec!r}; keys are searched where they lie: leave it out")
        self.arrow = pa.schema([c.arrow for c in self.columns])
        self.ids = tuple(ids) if ids is not None else tuple(range(len(columns)))
        self.next_id = next_id if next_id is not None else len(columns)
        # what rows hold in a column that was added after they were written: an array of one value by id
        self.fills = dict(fills or {})

    def field(self, name: str) -> Column:
        """The column of a name; `SchemaError` lists the near ones."""
        column = self._by_name.get(name)
        if column is None:
            raise SchemaError(f"no column named {name!r}; {near(str(name), self.names)}")
        return column

    # -- rows in ---------------------------------------------------------------------------------

    def batch(self, rows: Any, *, partial: bool = False) -> pa.RecordBatch:
        """One record batch of the schema's columns (with ``partial``, of those given) from rows of any common kind.

        A dict of arrays, a list of dicts, anything with an Arrow stream (Table, RecordBatch, reader, pandas, polars),
        or an iterable of Arrow batches. Columns left out are null. C-contiguous numpy of the column's dtype is not copied:
        the batch sees later changes to it. Raises `SchemaError`, and nothing is written.
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
                arrays[column.name] = nulls(length[1], column.arrow.type)
        schema = pa.schema([c.arrow for c in self.columns if c.name in arrays])
        return pa.RecordBatch.from_arrays([arrays[n] for n in schema.names], schema=schema)

    def keys(self, keys: Any) -> pa.RecordBatch:
        """The key columns of one key, or of a list or array of keys (tuples for a key of several columns)."""
        if isinstance(keys, (pa.Table, pa.RecordBatch)):
            given = _columns_of(keys)
        elif len(self.primary_key) == 1:
            single = isinstance(keys, (str, bytes)) or not hasattr(keys, "__len__") or getattr(keys, "ndim", 1) == 0
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
        plain = pa.schema([pa.field(c.name, c.type) for c in self.columns if isinstance(c.type, pa.DataType)])
        changed: dict[str, Any] = {}
        if self.ids != tuple(range(self.next_id)) or self.fills:
            fills = {str(i): base64.b64encode(stream_bytes(v)).decode() for i, v in self.fills.items()}
            changed = {"ids": list(self.ids), "next_id": self.next_id, "fills": fills}
        return {
            "columns": [c.to_dict() for c in self.columns],
            "arrow": base64.b64encode(plain.serialize().to_pybytes()).decode(),
            "primary_key": list(self.primary_key),
            **changed,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Schema:
        plain = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["arrow"])))
        columns = [
            Column(**{**c, "type": plain.field(c["name"]).type if c["type"] is None else dtypes.from_dict(c["type"]), "quant": _trained(c.get("quant"))})
            for c in value["columns"]
        ]
        fills = {int(i): stream_arrays(base64.b64decode(text))[0] for i, text in value.get("fills", {}).items()}
        return cls(columns, value["primary_key"], ids=value.get("ids"), next_id=value.get("next_id"), fills=fills)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.columns == other.columns and self.primary_key == other.primary_key

    def __hash__(self) -> int:
        return hash((self.columns, self.primary_key))

    def __repr__(self) -> str:
        lines = []
        for c in self.columns:
            extra = "" if c.nullable else ", key" if c.name in self.primary_key else ", not null"
            extra += f", codec={c.codec}" if c.codec else ""
            extra += f", quant={told(c.quant)}" if c.quant else ""
            extra += "" if c.keep_full else ", codes only"
            lines.append(f"\n  {c.name}: {c.type}{extra}")
        return f"Schema, primary key {', '.join(self.primary_key)}:{''.join(lines)}"


def _trained(value: Any) -> Any:
    return base64.b64decode(value["trained"]) if isinstance(value, dict) else value


def nulls(n: int, kind: pa.DataType) -> pa.Array:
    """``n`` nulls, of an extension type too."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.nulls(n, kind.storage_type))
    return pa.nulls(n, kind)


def _columns_given(rows: Any) -> dict[str, Any]:
    """Columns by name, whatever holds them."""
    if isinstance(rows, Mapping):
        return {str(k): v for k, v in rows.items()}
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        return _columns_of(rows)
    if hasattr(rows, "__arrow_c_stream__"):
        return _columns_of(_arrow(rows))
    if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, np.ndarray)):
        parts = list(rows)
        if not parts:
            raise SchemaError("no rows given; give at least one, or a table with columns")
        if all(isinstance(p, Mapping) for p in parts):
            names = dict.fromkeys(name for p in parts for name in p)
            return {str(n): [p.get(n) for p in parts] for n in names}
        if all(isinstance(p, (pa.RecordBatch, pa.Table)) for p in parts):
            try:
                return _columns_of(pa.concat_tables([p if isinstance(p, pa.Table) else pa.table(p) for p in parts]))
            except pa.ArrowException as why:
                raise SchemaError(f"batches that do not fit each other: {why}; give batches of one schema") from why
        odd = next(i for i, p in enumerate(parts) if not isinstance(p, Mapping))
        raise SchemaError(f"row {odd} is a {type(parts[odd]).__name__}; give a dict of columns, a list of dicts, or an Arrow, pandas or polars table")
    raise SchemaError(f"rows of type {type(rows).__name__}; give a dict of columns, a list of dicts, or an Arrow, pandas or polars table")


def _arrow(rows: Any) -> pa.Table:
    try:
        return rows.read_all() if isinstance(rows, pa.RecordBatchReader) else pa.table(rows)
    except (pa.ArrowException, TypeError, ValueError) as why:
        raise SchemaError(f"rows are a {type(rows).__name__} that does not become an Arrow table ({why}); give a dict of columns instead") from why


def _columns_of(table: pa.Table | pa.RecordBatch) -> dict[str, Any]:
    names = table.schema.names
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise SchemaError(f"column {twice!r} is there twice; wanted each once")
    return {n: table.column(i) for i, n in enumerate(names)}


__all__ = ["Column", "Schema", "column_numpy"]
