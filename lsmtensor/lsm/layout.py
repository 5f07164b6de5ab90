"""Which files there are: an immutable value, and the edits that make the next one.

A layout is the set of tables with their sorted runs, the logs not yet retired, tags, and the chained
root. Nothing here touches a disk; `manifest.py` makes edits durable.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from ..errors import CorruptionError, FormatVersionError
from ..merkle import leaf_hash, merkle_root
from ..sstable.meta import TableMeta

Key = int | bytes
MAX_TIMES = 4096
MAX_ROOTS = 256


def key_to_json(key: Key) -> Any:
    return key if isinstance(key, int) else {"b64": base64.b64encode(key).decode()}


def key_from_json(value: Any) -> Key:
    return int(value) if isinstance(value, int) else base64.b64decode(value["b64"])


def check_types(made: Any) -> None:
    """`ValueError` where a field that is read from a file is not of the plain type that it is declared with."""
    for name, declared in made.__dataclass_fields__.items():
        wanted = _PLAIN.get(declared.type)
        if wanted is not None and type(getattr(made, name)) is not wanted:
            raise ValueError(f"{type(made).__name__}.{name} is {getattr(made, name)!r}; wanted {declared.type}")


_PLAIN: dict[Any, type] = {"int": int, "str": str, "dict[str, Any]": dict}
_FILE_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class SegmentRef:
    """An index segment, named with a table file: over its rows, or over those of the table files ``files``, this one first. ``codebook`` is the
    file of what it learned of the rows, which other segments may share."""

    index: str
    column: str
    spec: str
    number: int
    rows: int
    file: str
    files: tuple[int, ...] = ()
    codebook: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "files", tuple(self.files))
        for name in self.names:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"index segment {name!r} lies outside the folder")

    @property
    def names(self) -> tuple[str, ...]:
        """Its files in ``sst/``."""
        return (self.file, self.codebook) if self.codebook else (self.file,)

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v or k not in ("files", "codebook")}


@dataclass(frozen=True)
class FileRef:
    """A table file, as the layout knows it: enough to prune by key and version without opening it."""

    number: int
    size: int
    rows: int
    tombstones: int
    min_key: Key
    max_key: Key
    min_seq: int
    max_seq: int
    root: str
    segments: tuple[SegmentRef, ...] = ()
    blobs: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        check_types(self)

    @classmethod
    def from_meta(cls, meta: TableMeta) -> FileRef:
        return cls(
            meta.number, meta.size, meta.rows, meta.tombstones, meta.min_key, meta.max_key, meta.min_seq, meta.max_seq, meta.root, blobs=meta.blobs
        )

    def to_dict(self) -> dict[str, Any]:
        made = {**asdict(self), "min_key": key_to_json(self.min_key), "max_key": key_to_json(self.max_key), "segments": [s.to_dict() for s in self.segments]}
        if not self.blobs:
            del made["blobs"]
        return made

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> FileRef:
        segments = tuple(SegmentRef(**s) for s in d["segments"])
        blobs = tuple((int(file), int(count), int(size)) for file, count, size in d.get("blobs", ()))
        return cls(**{**d, "segments": segments, "blobs": blobs, "min_key": key_from_json(d["min_key"]), "max_key": key_from_json(d["max_key"])})


@dataclass(frozen=True)
class Run:
    """A sorted run: disjoint files in key order. ``id`` is the number of its first file. One ``behind`` another holds older versions of
    keys that are in that one too, and is read at versions of before that one's newest row only; 0 for all others.
    """

    id: int
    level: int
    files: tuple[FileRef, ...]
    behind: int = 0

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)

    @property
    def bytes(self) -> int:
        return sum(f.size for f in self.files)

    @property
    def min_seq(self) -> int:
        return min(f.min_seq for f in self.files)

    @property
    def max_seq(self) -> int:
        return max(f.max_seq for f in self.files)

    @property
    def min_key(self) -> Key:
        return self.files[0].min_key

    @property
    def max_key(self) -> Key:
        return self.files[-1].max_key

    def overlaps(self, first: Key, last: Key) -> bool:
        """Whether some key in [first, last] may be here."""
        return bool(self.min_key <= last and first <= self.max_key)  # type: ignore[operator]

    def to_dict(self) -> dict[str, Any]:
        made = {"id": self.id, "level": self.level, "files": [f.to_dict() for f in self.files]}
        return {**made, "behind": self.behind} if self.behind else made

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Run:
        return cls(int(d["id"]), int(d["level"]), tuple(FileRef.from_dict(f) for f in d["files"]), int(d.get("behind", 0)))


class _Placed(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def behind(self) -> int: ...
    @property
    def min_seq(self) -> int: ...


P = TypeVar("P", bound=_Placed)


def newest_first(runs: Iterable[P]) -> list[P]:
    """Runs, or sources of a reader, by their intervals of versions; each that is behind another comes next to it."""
    made = list(runs)
    starts = {r.id: r.min_seq for r in made if not r.behind}
    return sorted(made, key=lambda r: (starts.get(r.behind, r.min_seq), not r.behind), reverse=True)


@dataclass(frozen=True)
class TableState:
    """One table: its schema and options as JSON values, its runs newest first.

    ``flushed_seq``: every commit of this table up to it is in the runs. ``past``: the schemas before this one, oldest first, each
    with its options and the version that ended it, ``{"until": version, "schema": schema, "options": options}``.
    """

    id: int
    name: str
    schema: dict[str, Any]
    options: dict[str, Any]
    indexes: dict[str, Any]
    runs: tuple[Run, ...]
    created: int
    flushed_seq: int
    past: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "past" or self.past}
        return {**fields, "runs": [r.to_dict() for r in self.runs]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> TableState:
        return cls(**{**d, "runs": tuple(Run.from_dict(r) for r in d["runs"]), "past": tuple(d.get("past", ()))})


@dataclass(frozen=True)
class Layout:
    """The files of a database after ``number`` edits; ``times`` are (version, commit time) marks, ``roots`` the newest of each version,
    ``ends`` (log, where its last record ends) of closed logs. ``id`` names the database in its logs, 0 in old ones.
    """

    number: int = 0
    tables: dict[int, TableState] = field(default_factory=dict)
    next_file: int = 1
    wals: tuple[int, ...] = ()
    tags: dict[str, int] = field(default_factory=dict)
    version: int = 0
    time_ns: int = 0
    times: tuple[tuple[int, int], ...] = ()
    root: str = ""
    roots: tuple[tuple[int, str], ...] = ()
    ends: tuple[tuple[int, int], ...] = ()
    id: int = 0

    def with_root(self, root: str) -> Layout:
        """The layout with its root, which is kept among the last by the version it holds."""
        rest = self.roots[:-1] if self.roots and self.roots[-1][0] == self.version else self.roots
        return replace(self, root=root, roots=(*rest, (self.version, root))[-MAX_ROOTS:])

    def state_root(self) -> bytes:
        """The hash tree over (table, file, root of the file), sorted."""
        return merkle_root(self.file_leaves()[1])

    def file_leaves(self) -> tuple[list[tuple[int, int]], list[bytes]]:
        """([(table, file)], [leaf hash]) in order."""
        files = sorted((t.id, f.number, f.root) for t in self.tables.values() for r in t.runs for f in r.files)
        return [(t, n) for t, n, _ in files], [leaf_hash(f"{t}/{n}/{root}".encode()) for t, n, root in files]

    def to_dict(self) -> dict[str, Any]:
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, "tables": [t.to_dict() for t in self.tables.values()]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Layout:
        tables = {int(t["id"]): TableState.from_dict(t) for t in d["tables"]}
        return cls(**{**d, "tables": tables, "wals": tuple(d["wals"]), **{k: tuple((v, x) for v, x in d.get(k, [])) for k in ("times", "roots", "ends")}})


def apply(layout: Layout, edit: dict[str, Any]) -> Layout:
    """The layout after an edit. Pure; an edit that does not fit raises `CorruptionError`."""
    try:
        for op in edit["ops"]:
            if op["op"] not in _OPS:
                raise FormatVersionError(f"layout edit {layout.number + 1} does {op['op']!r}, which this lsmtensor does not know: upgrade it")
            layout = _OPS[op["op"]](layout, op)
        version, time_ns = int(edit["version"]), int(edit["time_ns"])
        times = _with_times(layout.times, [*((int(v), int(t)) for v, t in edit.get("times", [])), (version, time_ns)])
        return replace(
            layout,
            number=layout.number + 1,
            version=max(layout.version, version),
            time_ns=max(layout.time_ns, time_ns),
            times=times,
            next_file=max(layout.next_file, int(edit["next_file"])),
        )
    except (KeyError, TypeError, ValueError) as why:
        raise CorruptionError(f"layout edit {layout.number + 1} does not fit the layout before it ({why!r})") from why


def _with_times(old: tuple[tuple[int, int], ...], new: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The marks and the new ones, rising in both; over MAX_TIMES every second of the older half goes, so that what is
    long ago is known coarsely and what was just now exactly."""
    made = list(old)
    for version, time_ns in new:
        if not made or (version > made[-1][0] and time_ns >= made[-1][1]):
            made.append((version, time_ns))
    while len(made) > MAX_TIMES:
        half = len(made) // 2
        made = made[:half:2] + made[half:]
    return tuple(made)


def version_before(times: Sequence[tuple[int, int]], time_ns: int) -> int:
    """The newest version that was made by then; 0 where none is known. O(log n), for marks rise in both."""
    at = bisect_right(times, time_ns, key=itemgetter(1))
    return times[at - 1][0] if at else 0


def time_of(times: Sequence[tuple[int, int]], version: int) -> int | None:
    """The commit time of a version, or of the last one before it that is known."""
    at = bisect_right(times, version, key=itemgetter(0))
    return times[at - 1][1] if at else None


def thinned(times: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most 1,024 marks for an edit: the newest exactly, those before evenly."""
    if len(times) <= 1024:
        return times
    old, new = times[:-512], times[-512:]
    return old[:: -(-len(old) // 512)] + new


def _with(layout: Layout, table: TableState) -> Layout:
    return replace(layout, tables={**layout.tables, table.id: table})


def _with_runs(table: TableState, runs: list[Run]) -> TableState:
    """Runs newest first; intervals of runs that share keys must not overlap, but for one that is behind another."""
    ordered = newest_first(runs)
    heads = [r for r in ordered if not r.behind]
    if not {r.behind for r in ordered if r.behind} <= {r.id for r in heads}:
        raise ValueError(f"older versions of table {table.name!r} lie behind a run that is not there")
    for newer, older in zip(heads, heads[1:], strict=False):
        if older.max_seq >= newer.min_seq and older.min_key <= newer.max_key and newer.min_key <= older.max_key:  # type: ignore[operator]
            raise ValueError(f"runs {newer.id} and {older.id} of table {table.name!r} share keys and versions")
    return replace(table, runs=tuple(ordered))


def _create_table(layout: Layout, op: dict[str, Any]) -> Layout:
    table = TableState.from_dict(op["table"])
    if any(t.name == table.name for t in layout.tables.values()):
        raise ValueError(f"table {table.name!r} is there twice")
    return _with(layout, table)


def _drop_table(layout: Layout, op: dict[str, Any]) -> Layout:
    rest = dict(layout.tables)
    del rest[op["table"]]
    return replace(layout, tables=rest)


def _add_run(layout: Layout, op: dict[str, Any]) -> Layout:
    table = layout.tables[op["table"]]
    return _with(layout, _with_runs(table, [*table.runs, Run.from_dict(op["run"])]))


def _flush(layout: Layout, op: dict[str, Any]) -> Layout:
    table = layout.tables[op["table"]]
    if op["run"] is not None:
        table = _with_runs(table, [*table.runs, Run.from_dict(op["run"])])
    return _with(layout, replace(table, flushed_seq=max(table.flushed_seq, int(op["flushed_seq"]))))


def _replace_runs(layout: Layout, op: dict[str, Any]) -> Layout:
    table = layout.tables[op["table"]]
    old = set(op["old"])
    if not old <= {r.id for r in table.runs}:
        raise ValueError(f"runs {sorted(old)} are not all in table {table.name!r}")
    new = [Run.from_dict(r) for r in op["new"]]
    return _with(layout, _with_runs(table, [r for r in table.runs if r.id not in old] + new))


def _set_segments(layout: Layout, op: dict[str, Any]) -> Layout:
    table = layout.tables[op["table"]]
    segments = tuple(SegmentRef(**s) for s in op["segments"])
    runs = [
        replace(r, files=tuple(replace(f, segments=segments) if f.number == op["file"] else f for f in r.files))
        for r in table.runs
    ]
    return _with(layout, replace(table, runs=tuple(runs)))


def _set_index(layout: Layout, op: dict[str, Any]) -> Layout:
    table = layout.tables[op["table"]]
    indexes = {k: v for k, v in table.indexes.items() if k != op["name"]}
    if op["entry"] is not None:
        indexes[op["name"]] = op["entry"]
    return _with(layout, replace(table, indexes=indexes))


def _set_schema(layout: Layout, op: dict[str, Any]) -> Layout:
    table = layout.tables[op["table"]]
    past = [*table.past, {"until": int(op["version"]), "schema": table.schema, "options": table.options}]
    kept = tuple(p for p in past if p["until"] > int(op["oldest"]))
    return _with(layout, replace(table, schema=op["schema"], indexes=op["indexes"], options=op["options"], past=kept))


def _add_wal(layout: Layout, op: dict[str, Any]) -> Layout:
    return replace(layout, wals=(*layout.wals, int(op["number"])))


def _drop_wals(layout: Layout, op: dict[str, Any]) -> Layout:
    gone = set(op["numbers"])
    if not gone <= set(layout.wals):
        raise ValueError(f"logs {sorted(gone)} are not all there")
    return replace(layout, wals=tuple(n for n in layout.wals if n not in gone), ends=tuple(e for e in layout.ends if e[0] not in gone))


def _end_wal(layout: Layout, op: dict[str, Any]) -> Layout:
    number, end = int(op["number"]), int(op["end"])
    # one that was retired meanwhile needs none
    return replace(layout, ends=tuple({**dict(layout.ends), number: end}.items())) if number in layout.wals else layout


def _tag(layout: Layout, op: dict[str, Any]) -> Layout:
    tags = {k: v for k, v in layout.tags.items() if k != op["name"]}
    if op["version"] is not None:
        tags[op["name"]] = int(op["version"])
    return replace(layout, tags=tags)


_OPS: dict[str, Callable[[Layout, dict[str, Any]], Layout]] = {
    "create_table": _create_table,
    "drop_table": _drop_table,
    "add_run": _add_run,
    "flush": _flush,
    "replace_runs": _replace_runs,
    "set_segments": _set_segments,
    "set_index": _set_index,
    "set_schema": _set_schema,
    "add_wal": _add_wal,
    "end_wal": _end_wal,
    "drop_wals": _drop_wals,
    "tag": _tag,
}
