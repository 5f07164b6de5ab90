"""Checking an index that a table is to have, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from .. import indexes
from ..dtypes import SparseType, TensorType
from ..errors import DuplicateKeyError, InvalidArgumentError, UnknownNameError
from ..indexes.analyze import TextSpec
from ..lsm import ops, retention
from ..lsm.alter import check_stored
from ..lsm.expiry import option_of
from ..lsm.indexing import forget_index
from ..lsm.segments import OTHERS, PLACEMENTS
from ..lsm.sorted import sortable
from ..lsm.tree import Tree
from ..lsm.unique import declared
from ..registry import Spec, near
from ..schema import Schema

# indexes of posting lists
LEXICAL = {"text": "strings", "sparse": "sparse vectors"}


def check_index(schema: Schema, column: str, spec: Any, *, name: str | None = None, taken: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(index name, layout entry) of an index spec for a column; the spec is tried on an empty index."""
    kind = schema.field(column).type
    parsed = Spec.of(spec)
    placement = parsed.params.get("placement", "run")
    if placement not in PLACEMENTS:
        raise UnknownNameError(f"{parsed}: no placement named {placement!r}; {near(str(placement), PLACEMENTS)}")
    if parsed.name in OTHERS and "placement" in parsed.params:
        raise InvalidArgumentError(f"{parsed}: placement is for vector indexes")
    if parsed.name in LEXICAL:
        if parsed.name == "text":
            TextSpec.of(parsed)
        elif set(parsed.params) - {"nearly"} or not isinstance(parsed.params.get("nearly", False), bool):
            raise InvalidArgumentError(f"{parsed}: sparse takes nearly=true, for searches with recall=, and no other parameter")
        if (kind not in (pa.string(), pa.large_string())) if parsed.name == "text" else not (isinstance(kind, SparseType) and kind.searchable):
            raise InvalidArgumentError(f"column {column!r} is a {kind}; {parsed.name} indexes are for {LEXICAL[parsed.name]}")
        return _named(column, parsed, name, taken)
    if parsed.name == "sorted":
        if parsed.params:
            raise InvalidArgumentError(f"{parsed}: sorted takes no parameters")
        if not sortable(kind):
            raise InvalidArgumentError(f"column {column!r} is a {kind}; sorted indexes are for numbers, text, bytes, dates and times")
        return _named(column, parsed, name, taken)
    if not isinstance(kind, TensorType) or len(kind.shape) != 1 or kind.dtype not in ("float16", "float32", "float64"):
        raise InvalidArgumentError(f"column {column!r} is a {kind}; vector indexes are for one-dimensional float tensors")
    own = Spec(parsed.name, {k: v for k, v in parsed.params.items() if k != "placement"})
    indexes.create(own, dim=kind.shape[0])
    chosen, entry = _named(column, own, name, taken)
    return chosen, entry if placement == "run" else {**entry, "placement": placement}


def _named(column: str, parsed: Spec, name: str | None, taken: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    chosen = name or f"{column}_{parsed.name}"
    if chosen in taken:
        raise DuplicateKeyError(f"an index named {chosen!r} is there already; give another name=")
    return chosen, {"column": column, "spec": str(parsed)}


def create_table(
    tree: Tree, name: str, schema: Schema, indexed: Mapping[str, Any], *, history: str | int | None, compaction: str | None, ttl: Any, unique: Any
) -> int:
    """The body of `Database.create_table`; the table's id."""
    if not isinstance(name, str) or not name or name.startswith("_") or "/" in name:
        raise InvalidArgumentError(f"table name {name!r}; give a non-empty text without '/' that does not begin with '_'")
    if not isinstance(schema, Schema):
        raise InvalidArgumentError(f"schema is a {type(schema).__name__}; give lsmtensor.Schema([...], primary_key=...)")
    if tree.head()[0].by_name(name) is not None:
        raise DuplicateKeyError(f"a table named {name!r} is already there; open it with db[{name!r}] or drop it first")
    for stored in schema.columns:
        check_stored(stored)
    options: dict[str, Any] = {}
    if history is not None:
        retention.parse(history)
        options["history"] = history
    if compaction is not None:
        options["compaction"] = str(Spec.of(compaction))
    if ttl is not None:
        options["ttl"] = option_of(schema, ttl)
    entries: dict[str, Any] = {}
    for column, specs in _with_codes(schema, indexed).items():
        for spec in specs:
            index_name, entry = check_index(schema, column, spec, taken=entries)
            entries[index_name] = entry
    for columns in [unique] if isinstance(unique, str) else unique:
        options.setdefault("unique", []).append(declared(tree, schema, columns))
    return tree.create_table(name, schema.to_dict(), entries, options)


def _with_codes(schema: Schema, indexed: Mapping[str, Any]) -> dict[str, list[Spec]]:
    """The specs of each column's indexes; of one with codes beside its full values `flat` looks through these."""
    made = {column: [Spec.of(spec) for spec in (specs if isinstance(specs, (list, tuple)) else [specs])] for column, specs in indexed.items()}
    for column in schema.columns:
        if column.quant is not None and column.keep_full:
            asked = made.get(column.name, [])
            asked += [] if any(spec.name == "flat" for spec in asked) else [Spec("flat")]
            made[column.name] = [Spec("flat", {"quant": column.quant, **spec.params}) if spec.name == "flat" else spec for spec in asked]
    return made


def create_index(tree: Tree, table: int, column: str, spec: Any, name: str | None, wait: bool, replaces: str | None) -> str:
    """The body of `Table.create_index`."""
    tree.check_writable()
    with tree.writing:
        version = tree.view(table).table
        present = version.state.indexes
        chosen, entry = check_index(version.schema, column, spec, name=name, taken=present)
        if replaces is not None:
            if replaces not in present or present[replaces]["column"] != column:
                raise UnknownNameError(f"column {column!r} has no index named {replaces!r} to replace; {near(replaces, present)}")
            entry["replaces"] = replaces
        tree.install([ops.set_index(table, chosen, entry)])
    if wait or not tree.config.background:
        tree.work()
    else:
        tree.on_work()
    return chosen


def drop_index(tree: Tree, table: int, name: str) -> None:
    """The body of `Table.drop_index`; waits for a build in hand."""
    tree.check_writable()
    with tree.maintaining():
        version = tree.view(table).table
        if name not in version.state.indexes:
            raise UnknownNameError(f"table {version.state.name!r} has no index named {name!r}; {near(name, version.state.indexes)}")
        tree.install(forget_index(table, name, [f for run in version.runs for f in run.run.files]))
