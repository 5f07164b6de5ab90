"""What a database has done since it was opened and what it holds, as a mapping and as one Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from . import space
from .manifest import file_path
from .segments import Opened
from .state import TableVersion

if TYPE_CHECKING:
    from .tree import Tree

SCHEMA = pa.schema([
    ("group", pa.string()), ("name", pa.string()), ("table", pa.string()), ("up_to_seconds", pa.float64()), ("value", pa.float64()), ("unit", pa.string()),
])  # fmt: skip


class Stats(Mapping[str, Any]):
    """``stats["tables"]["docs"]["runs"]``; ``to_arrow()``, or anything that takes an Arrow stream, gives all of it as rows."""

    def __init__(self, values: dict[str, Any], rows: pa.Table) -> None:
        self._values, self._rows = values, rows

    def to_arrow(self) -> pa.Table:
        """group, name, table (null of the whole database), up_to_seconds (of latencies: a bucket's upper end), value, unit."""
        return self._rows

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._rows.__arrow_c_stream__(requested_schema)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def stats_of(tree: Tree, deep: bool) -> Stats:
    """The body of `Database.stats`."""
    state, version = tree.head()
    counters = tree.env.metrics.snapshot()
    io = {n: c for n, c in counters.items() if n.startswith("io.")}
    filters = {n: counters.get(f"filter.{n}", 0) for n in ("sought", "passed", "found")}
    tables = {t.state.name: table_stats(t) for t in state.tables.values()}
    cache = tree.cache.stats()
    opened = Opened.of(tree).stats()
    values = {"version": version, "tables": tables, "cache": cache, "segments": opened, "filters": filters, "io": io}
    rows: list[tuple[Any, ...]] = [("database", "version", None, None, version, "version")]
    for name, about in tables.items():
        rows += [("table", n, name, None, about[n], unit) for n, unit in (("runs", "runs"), ("file_rows", "rows"), ("memtable_rows", "rows"))]
        # a key that no filter rules out is looked for in every one of them
        rows.append(("amplification", "read", name, None, about["runs"] + (about["memtable_rows"] > 0), "sources a lookup"))
    rows += [("held", kind, name, None, size, "bytes") for name, kind, size in _held(tree, state.tables.values())]
    rows += _io_rows(io)
    rows += [("filter", n, None, None, c, "keys") for n, c in filters.items()]
    absent = filters["sought"] - filters["found"]
    if absent:
        rows.append(("filter", "false_positives", None, None, (filters["passed"] - filters["found"]) / absent, "of absent keys"))
    rows += [("cache", n, None, None, c, "bytes" if n in ("bytes", "limit") else "values") for n, c in cache.items()]
    rows += [("segments", n, None, None, c, "bytes" if n in ("bytes", "limit") else "values") for n, c in opened.items()]
    for event, seconds in tree.events.seconds().items():
        rows.append(("stall" if event == "stall" else "busy", event, None, None, seconds, "seconds"))
    rows += [("latency", r["event"], None, r["up_to_seconds"], r["count"], "times") for r in tree.events.histogram().to_pylist()]
    if deep:
        rows += _space_rows(space.report(tree))
    columns = zip(*rows, strict=True)
    return Stats(values, pa.table([pa.array(list(c), f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA))


def table_stats(table: TableVersion) -> dict[str, Any]:
    """What `stats` says of one table."""
    return {
        "runs": len(table.runs), "levels": sorted({r.run.level for r in table.runs}), "file_rows": sum(r.rows for r in table.every),
        "file_bytes": sum(f.ref.size for r in table.every for f in r.files), "memtable_rows": sum(m.rows for m in table.mems),
        "indexes": dict(table.state.indexes),
    }  # fmt: skip


def _held(tree: Tree, tables: Any) -> Iterator[tuple[str | None, str, int]]:
    """(table, kind of file, bytes) of what is there now; memtables too."""
    for table in tables:
        refs = [f.ref for r in table.every for f in r.files]
        yield table.state.name, "table files", sum(f.size for f in refs)
        yield table.state.name, "indexes", sum(space.size_of(tree, f"{tree.path}/sst/{n}") for n in {n for f in refs for s in f.segments for n in s.names})
        yield table.state.name, "memtables", sum(m.memtable.nbytes for m in table.mems if m.rows)
    yield None, "logs", sum(space.size_of(tree, file_path(tree.path, "wal", n)) for n in tree.state.layout.wals)


def _io_rows(io: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    """Bytes and syncs by file kind and cause; and what was written for each byte that commits brought, by cause."""
    written: dict[str, int] = {}
    for name, amount in io.items():
        _, what, kind, *cause = name.split(".")
        named = ".".join([kind, *cause])
        yield {"write": "written", "read": "read"}.get(what, what), named, None, None, amount, "syncs" if what == "syncs" else "bytes"
        if what == "write":
            written[named] = amount
    # a commit's rows go to the log, or to a file of their own
    brought = sum(written.get(n, 0) for n in ("wal.commit", "table.bulk"))
    if brought:
        for named, amount in written.items():
            yield "amplification", f"write {named}", None, None, amount / brought, "of bytes committed"
        yield "amplification", "write", None, None, sum(written.values()) / brought, "of bytes committed"


def _space_rows(report: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for row in report["tables"].to_pylist():
        yield "space", row["what"], row["table"], None, row["bytes"], "bytes"
    yield "space", "logs", None, None, report["log_bytes"], "bytes"
    yield "space", "stray", None, None, report["stray_bytes"], "bytes"
    live = report["live_bytes"]
    if live:
        causes = {n: report[f"{n}_bytes"] for n in ("history", "garbage", "index", "log", "stray")}
        for cause, size in causes.items():
            yield "amplification", f"space {cause}", None, None, size / live, "of live bytes"
        yield "amplification", "space", None, None, (live + sum(causes.values())) / live, "of live bytes"
