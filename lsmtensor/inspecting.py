"""What a file of a database says of itself, by its name: database, manifest, table file, log, index segment. Changes nothing."""

from __future__ import annotations

import os
import re
from typing import Any

from . import container
from .env.base import Env
from .errors import CorruptionError, InvalidArgumentError
from .lsm import commit
from .lsm.manifest import Manifest, edits, parse_file_name
from .sstable.reader import TableReader
from .wal.format import BATCHES
from .wal.reader import read_wal

KINDS = ("db", "manifest", "sst", "wal", "index")
_SEGMENT = re.compile(r"\d{6,}\.i\d+\.\w+")


def kind_of(path: str) -> str:
    """Which of `KINDS` a path is, by its name; `InvalidArgumentError` for none."""
    name = os.path.basename(os.path.normpath(path))
    if os.path.isdir(path):
        return "db"
    if name == "CURRENT":
        return "manifest"
    if _SEGMENT.fullmatch(name):
        return "index"
    kind = (parse_file_name(name) or ("",))[0]
    if kind in ("manifest", "wal", "table"):
        return "sst" if kind == "table" else kind
    raise InvalidArgumentError(f"{path} is no file of a database; give a folder, CURRENT, MANIFEST-N, N.arrow, N.wal or N.iN.NAME")


def describe(env: Env, path: str, kind: str | None = None) -> dict[str, Any]:
    """Everything that a file says, as a JSON value. Checks what it reads; damage is `CorruptionError` with its place."""
    found = kind_of(path)
    if kind == "manifest" and found == "db":
        path, found = f"{path}/CURRENT", "manifest"
    if kind is not None and kind != found:
        raise InvalidArgumentError(f"{path} is of kind {found}, asked for as {kind}")
    if not env.exists(path):
        raise InvalidArgumentError(f"{path} is not there")
    what: dict[str, Any] = {"kind": found, "path": path, **_OF[found](env, path)}
    return what


def _db(env: Env, path: str) -> dict[str, Any]:
    from .config import RunConfig
    from .database import Database

    with Database(env, path, "r", RunConfig()) as db:
        columns = {n: {c.name: str(c.type) for c in db[n].schema.columns} for n in db.tables}
        return {"version": db.version, "oldest_version": db.oldest_version, "columns": columns, **db.stats()}


def _manifest(env: Env, path: str) -> dict[str, Any]:
    if os.path.basename(path) == "CURRENT":
        folder = os.path.dirname(path) or "."
        number, *_ = Manifest.read(env, folder)
        path = f"{folder}/MANIFEST-{number:06d}"
    number = int(os.path.basename(path).split("-")[1])
    file = env.open(path, kind="manifest")
    frames = list(edits(file.pread(0, file.size), number, path))
    if not frames:
        raise CorruptionError("the manifest holds no whole layout", path, 0)
    layout = frames[-1].layout
    made = [{"offset": e.offset, "version": e.layout.version, "ops": [o["op"] for o in e.ops] or ["layout"], "root": e.layout.root} for e in frames]
    tables = [
        {"name": t.name, "id": t.id, "runs": [
            {**r.to_dict(), "rows": r.rows, "bytes": r.bytes, "files": [f.number for f in r.files]} for r in t.runs
        ]} for t in layout.tables.values()
    ]  # fmt: skip
    return {"file": path, "bytes": file.size, "good_bytes": frames[-1].end, "version": layout.version, "root": layout.root, "wals": list(layout.wals),
            "tags": layout.tags, "tables": tables, "edits": made}  # fmt: skip


def _sst(env: Env, path: str) -> dict[str, Any]:
    name = parse_file_name(os.path.basename(path))
    assert name is not None
    reader = TableReader(env, path, name[1])
    batches = []
    for i in range(reader.num_batches):
        seqs = reader.column(i, "_seq").to_numpy()
        ops = reader.column(i, "_op").to_numpy()
        batches.append({"rows": len(seqs), "deletes": int((ops == 0).sum()), "first_key": _shown(reader.first_key(i)),
                        "last_key": _shown(reader.last_key(i)), "min_version": int(seqs.min()), "max_version": int(seqs.max())})  # fmt: skip
    return {"bytes": env.size(path), "rows": reader.rows, "columns": {f.name: str(f.type) for f in reader.schema}, **reader.about(), "batches": batches}


def _wal(env: Env, path: str) -> dict[str, Any]:
    name = parse_file_name(os.path.basename(path))
    assert name is not None
    log, records = read_wal(env, path, name[1]), []
    for record in log:
        said: dict[str, Any] = {"offset": record.offset, "bytes": record.end - record.offset, "version": record.version, "time_ns": record.time_ns}
        if record.kind == BATCHES:
            held = commit.decode(record.payload, path=path, offset=record.offset)
            said |= {"rows": {t: b.num_rows for t, b in held.parts}, "runs": [run["id"] for _, run in held.runs]}
        else:
            said |= {"payload": f"compact rows, {len(record.payload)} bytes"}
        records.append(said)
    return {"bytes": env.size(path), "number": log.number, "sealed": log.sealed, "good_bytes": log.valid_end, "torn_bytes": log.torn_bytes, "records": records}


def _index(env: Env, path: str) -> dict[str, Any]:
    header, arrays = container.unpack(env.open(path, kind="index").map(), where=path)
    return {"bytes": env.size(path), "header": header, "arrays": {n: {"dtype": str(a.dtype), "shape": list(a.shape), "bytes": a.nbytes} for n, a in arrays.items()}}


def _shown(key: int | bytes) -> int | str:
    return key if isinstance(key, int) else key.hex()


_OF = {"db": _db, "manifest": _manifest, "sst": _sst, "wal": _wal, "index": _index}
