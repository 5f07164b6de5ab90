"""Values that no two rows of a table share: ``unique=`` of a table.

Each constraint has a table of claims beside its own, value → key of the row that took it, written in the same commits. So snapshots,
recovery and the conflicts of transactions hold for it as for any table: two that take one value both write its claim, and the first
to commit wins. A claim counts only while its row still has the value; one that is left behind is taken over by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import DuplicateKeyError, InvalidArgumentError, SchemaError, UnknownNameError
from ..keys import KeyCodec
from ..schema import Column, Schema
from . import alter, keyspace
from .commit import Write, physical_batch
from .state import View
from .tree import Head, Tree

Rule = dict[str, Any]
CLAIMS = "_unique_"  # and a number: a table of claims, of which only the newest version is ever read


def names_of(schema: Schema, rule: Rule) -> list[str]:
    """The columns of a constraint as they are called now."""
    return [schema.names[schema.ids.index(i)] for i in rule["columns"]]


def declared(tree: Tree, schema: Schema, columns: str | Sequence[str]) -> Rule:
    """The layout's entry of a constraint, and its table of claims, made empty."""
    names = [columns] if isinstance(columns, str) else list(columns)
    fields = [schema.field(n) for n in names]
    if not names or len(set(names)) != len(names):
        raise InvalidArgumentError(f"unique={columns!r}; give one or more different columns")
    values = [Column(f"u{i}", f.type) for i, f in enumerate(fields)]
    keys = [Column(f"k{i}", schema.field(n).type) for i, n in enumerate(schema.primary_key)]
    try:
        claims = Schema([*values, *keys], primary_key=[c.name for c in values])
        KeyCodec(claims)
    except (SchemaError, InvalidArgumentError) as why:
        kinds = ", ".join(f"{f.name} ({f.type})" for f in fields)
        raise SchemaError(f"unique over {kinds}; wanted integers, floats, bool, text, bytes, dates and times") from why
    table = tree.create_table(f"{CLAIMS}{tree.next_file()}", claims.to_dict(), {}, {"history": "none"})
    return {"columns": [schema.ids[schema.names.index(n)] for n in names], "table": table}


def add(tree: Tree, table: int, columns: str | Sequence[str]) -> int:
    """The body of `Table.add_unique`: the rows that are there are checked first. O(rows log rows), over the columns and keys."""
    tree.check_writable()
    with tree.writing:
        view = tree.view(table)
        schema = view.table.schema
        rule = declared(tree, schema, columns)
        names = names_of(schema, rule)
        known = view.table.state.options.get("unique", [])
        try:
            if any(r["columns"] == rule["columns"] for r in known):
                raise DuplicateKeyError(f"{', '.join(names)} is unique already")
            fields = pa.schema([schema.arrow.field(n) for n in dict.fromkeys([*names, *schema.primary_key])])
            parts = [w.gather(fields.names) for w in view.windows() if len(w)]
            if parts:
                rows = pa.concat_tables([p.cast(fields) for p in parts]).combine_chunks().to_batches()[0]
                tree.commit(lambda head: [_sorted(w) for w in _claims(view, head(rule["table"]), rule, rows, view.table.codec.encode(rows))])
            return alter.set_options(tree, table, {"unique": [*known, rule]})
        except BaseException:
            tree.drop_table(rule["table"])
            raise


def drop(tree: Tree, table: int, columns: str | Sequence[str]) -> int:
    """The body of `Table.drop_unique`."""
    names = [columns] if isinstance(columns, str) else list(columns)
    now = tree.view(table).table
    rules = now.state.options.get("unique", [])
    found = next((r for r in rules if names_of(now.schema, r) == names), None)
    if found is None:
        there = "; ".join(", ".join(names_of(now.schema, r)) for r in rules) or "none"
        raise UnknownNameError(f"{', '.join(names)} is not unique; what is: {there}")
    version = alter.set_options(tree, table, {"unique": [r for r in rules if r is not found] or None})
    tree.drop_table(found["table"])
    return version


def guarded(prepare: Callable[[Head], list[Write]]) -> Callable[[Head], list[Write]]:
    """The writes that ``prepare`` makes and the claims that go with them; `DuplicateKeyError` where a value is another row's."""

    def checked(head: Head) -> list[Write]:
        writes = prepare(head)
        claims = []
        for write in writes:
            view = head(write.table)
            for rule in view.table.state.options.get("unique", ()):
                if write.more is not None:
                    raise InvalidArgumentError("load(sorted=True) into a table with unique columns; leave sorted out, so that all values can be compared")
                claims += _claims(view, head(rule["table"]), rule, write.batch, write.keys)
        return [*writes, *claims]

    return checked


def _claims(view: View, claims: View, rule: Rule, batch: pa.RecordBatch, keys: pa.Array) -> list[Write]:
    """The claims of the rows of a batch that are no deletes and have no null among the values."""
    schema = view.table.schema
    names = names_of(schema, rule)
    puts = batch.column("_op").to_numpy() == 1 if "_op" in batch.schema.names else np.ones(batch.num_rows, bool)
    rows = np.flatnonzero(puts & _all_there(batch, names))
    if not len(rows):
        return []
    at = pa.array(rows)
    own, values = keys.take(at), [batch.column(n).take(at) for n in names]
    wanted = claims.table.codec.encode(_named(values, "u"))
    twice = keyspace.first_duplicate(wanted)
    if twice is not None:
        raise DuplicateKeyError(f"row {rows[twice]}: {_said(claims, names, wanted, twice)} is twice in the rows given; it is unique")
    mine = _live(view, claims, names, wanted, own, keys, rows)
    if mine.all():
        return []
    key_columns = [batch.column(n).take(at) for n in schema.primary_key]
    made = pa.RecordBatch.from_arrays([*values, *key_columns], schema=claims.table.schema.arrow)
    fresh = pa.array(~mine)
    made, encoded = made.filter(fresh), wanted.filter(fresh)
    return [Write(claims.table.state.id, physical_batch(claims, made, encoded, 1), encoded)]


def _live(view: View, claims: View, names: list[str], wanted: pa.Array, own: pa.Array, keys: pa.Array, rows: np.ndarray) -> np.ndarray:
    """bool: the values that their rows hold already. Raises where another row, which this write leaves as it is, holds one."""
    import pyarrow.compute as pc

    mine = np.zeros(len(rows), bool)
    owner, row = claims.locate(wanted)
    hit = np.flatnonzero(owner >= 0)
    if not len(hit):
        return mine
    fields = [f for f in claims.table.schema.arrow if f.name not in claims.table.schema.primary_key]
    held = claims.rows(owner[hit], row[hit], pa.schema(fields)).combine_chunks()
    holders = view.table.codec.encode(held.rename_columns(list(view.table.schema.primary_key)))
    # does the holder still have the value?
    owner, row = view.locate(holders)
    there = np.flatnonzero(owner >= 0)
    arrow = view.table.schema.arrow
    now = view.rows(owner[there], row[there], pa.schema([arrow.field(n) for n in names])).combine_chunks()
    full = _all_there(now, names)
    there = there[full]
    encoded = claims.table.codec.encode(_named([c.filter(pa.array(full)).combine_chunks() for c in now.columns], "u"))
    same = _np(pc.equal(encoded, wanted.take(pa.array(hit[there]))))
    hit, holders = hit[there[same]], holders.take(pa.array(there[same]))
    is_own = _np(pc.equal(holders, own.take(pa.array(hit))))
    mine[hit[is_own]] = True
    # a row that this write replaces gives its value up
    foreign = np.flatnonzero(~is_own & ~_np(pc.is_in(holders, keys)))
    if len(foreign):
        first = int(foreign[0])
        key = view.table.codec.key_of(holders[first].as_py())
        said = _said(claims, names, wanted, int(hit[first]))
        raise DuplicateKeyError(f"row {rows[hit[first]]}: {said} is in table {view.table.state.name!r} already, at key {key!r}; it is unique")
    return mine


def _all_there(batch: pa.RecordBatch | pa.Table, names: Sequence[str]) -> np.ndarray:
    full = np.ones(batch.num_rows, bool)
    for name in names:
        if batch.column(name).null_count:
            full &= _np(batch.column(name).is_valid())
    return full


def _named(columns: Sequence[Any], letter: str) -> pa.Table:
    return pa.table(list(columns), names=[f"{letter}{i}" for i in range(len(columns))])


def _np(mask: Any) -> np.ndarray:
    whole = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    return np.asarray(whole.to_numpy(zero_copy_only=False), bool)


def _said(claims: View, names: list[str], wanted: pa.Array, at: int) -> str:
    return f"{', '.join(names)} = {claims.table.codec.key_of(wanted[at].as_py())!r}"


def _sorted(write: Write) -> Write:
    order = pa.array(keyspace.order(write.keys))
    return Write(write.table, write.batch.take(order), write.keys.take(order))
