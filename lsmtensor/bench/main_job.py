"""``lsmtensor run``: a durable tensor database at work on real data, every figure measured on this machine.

Each step takes a `Job`, does one thing, checks what came out and puts plain numbers into ``job.facts``. A wrong result
ends the run. The database stays behind.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import lsmtensor as lt

from ..env.local import LocalEnv
from ..errors import LsmTensorError, NotADatabaseError
from . import crash, record
from .datasets import Dataset, debian

PACKAGES = "packages"
BEGUN, ENDED = "lsmtensor-run", "lsmtensor-run-end"
HNSW = "hnsw(m=16, ef_construction=200, metric=cosine)"
FLAT = "flat(metric=cosine)"
HELD_OUT = 200
BATCH = 200
TEXTS = ("name", "section", "priority", "version", "homepage", "tags", "summary", "description")

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Job:
    """What the steps share. ``progress(what, total)`` is a context manager that gives a function to advance by."""

    path: str
    out: Path
    data: Dataset
    source: str | None
    config: lt.RunConfig
    say: Callable[[str], None]
    progress: Progress
    kills: int = 3
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    facts: dict[str, Any] = field(default_factory=dict)
    queries: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    stored: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    deleted: list[str] = field(default_factory=list)

    def rows(self, which: np.ndarray) -> dict[str, Any]:
        """Rows of the data set, by number, as the table wants them."""
        part = self.data.packages.take(pa.array(which))
        return {**{n: part.column(n) for n in part.column_names}, "embedding": np.ascontiguousarray(self.data.embeddings[which])}

    def names(self, which: np.ndarray) -> list[str]:
        names: list[str] = self.data.packages.column("name").take(pa.array(which)).to_pylist()
        return names

    def open(self, **settings: Any) -> lt.Database:
        return lt.open(self.path, config=self.config, **settings)


def must(holds: bool, otherwise: str) -> None:
    """End the run where a result is wrong."""
    if not holds:
        raise LsmTensorError(f"lsmtensor run: {otherwise}; this is a fault of lsmtensor, please report it")


def make_room(path: str) -> None:
    """Remove what an earlier run left at ``path``; anything else there is refused."""
    where = Path(path)
    if not where.exists():
        return
    other = f"{path} is there already and `lsmtensor run` did not make it; give another place with --db PATH"
    try:
        with lt.open(path, mode="r") as db:
            tags = _tags(db)
            version = db.version
    except NotADatabaseError as why:
        raise NotADatabaseError(other) from why
    if BEGUN not in tags:
        raise NotADatabaseError(other)
    if version != tags.get(ENDED, version):
        raise NotADatabaseError(
            f"{path} holds commits made after `lsmtensor run` ended (version {version}, not {tags[ENDED]}); "
            "they would be lost: move the folder, or give another place with --db PATH"
        )
    lt.open(path).close()  # nobody else writes there
    shutil.rmtree(where)


def _tags(db: lt.Database) -> dict[str, int]:
    found = {}
    for tag in (BEGUN, ENDED):
        try:
            with db.at(tag=tag) as snapshot:
                found[tag] = snapshot.version
        except lt.UnknownNameError:
            continue
    return found


# -- the steps -----------------------------------------------------------------------------------


def ingest(job: Job) -> None:
    """Create the tables; insert packages in durable batches; compact, which builds the index segments."""
    order = job.rng.permutation(len(job.data))
    job.queries, job.stored = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    env = LocalEnv()
    seconds: list[float] = []
    given = 0
    with job.open(mode="x", env=env) as db:
        columns = [lt.Column(f.name, f.type) for f in job.data.packages.schema]
        schema = lt.Schema([*columns, lt.Column("embedding", lt.tensor("float32", job.data.embeddings.shape[1:]))], primary_key="name")
        table = db.create_table(PACKAGES, schema, indexes={"embedding": [HNSW, FLAT]})
        edge_columns = [lt.Column(n, pa.string()) for n in ("src", "dst", "kind")]
        db.create_table(crash.TABLE, lt.Schema([*edge_columns, lt.Column("commit", pa.int64())], primary_key=("src", "dst", "kind")))
        db.tag(BEGUN)
        with job.progress("ingesting packages", len(job.stored)) as advance:
            for start in range(0, len(job.stored), BATCH):
                rows = table.schema.batch(job.rows(job.stored[start : start + BATCH]))
                begin = time.perf_counter()
                table.insert(rows)
                seconds.append(time.perf_counter() - begin)
                given += rows.nbytes
                advance(rows.num_rows)
        must(len(table) == len(job.stored), f"{len(table)} rows after inserting {len(job.stored)}")
        begin = time.perf_counter()
        db.compact()
        compacted = time.perf_counter() - begin
        written = _written(db.stats()["io"])
    job.facts["ingest"] = {
        "rows": len(job.stored), "bytes": given, "commit_seconds": seconds, "rows_per_second": len(job.stored) / sum(seconds),
        "bytes_per_second": given / sum(seconds), "compact_seconds": compacted, "written": written,
        "write_amplification": sum(written.values()) / given,
    }  # fmt: skip


def _written(io: dict[str, int]) -> dict[str, int]:
    """Bytes written, by kind of file and cause."""
    return {name.removeprefix("io.write."): amount for name, amount in io.items() if name.startswith("io.write.") and amount}


def survive(job: Job) -> None:
    """Writers killed by SIGKILL; what they acknowledged, what came back."""
    log = job.out / "acknowledged.log"
    results = []
    with job.progress("killing writers", job.kills) as advance:
        for kill in crash.kills(job.path, job.source, job.data.edges, log, job.kills, job.config.seed, config=job.config):
            results.append(vars(kill))
            advance(1)
    last = results[-1]
    job.facts["kills"] = {"signal": "SIGKILL", "rounds": results, "log": str(log), **{k: last[k] for k in ("acknowledged", "recovered", "lost", "torn")}}
    must(last["lost"] == 0 and last["torn"] == 0, f"{last['lost']} acknowledged commits lost, {last['torn']} torn")
    with job.open() as db:
        table = db[crash.TABLE]
        have = set(table.to_arrow(["src"]).column("src").to_pylist())
        rest = [{**e, "commit": 0} for src, group in crash.groups(job.data.edges) if src not in have for e in group]
        if rest:
            table.upsert(rest)
        must(len(table) == job.data.edges.num_rows, f"{len(table)} dependency edges of {job.data.edges.num_rows}")


def read(job: Job) -> None:
    """get, get of what is not there, get_many, scan, a filter; all compared with the data set."""
    row_of = {n: i for i, n in enumerate(job.data.packages.column("name").to_pylist())}
    with job.open(mode="r") as db:
        table = db[PACKAGES]
        names = job.names(job.rng.choice(job.stored, min(1000, len(job.stored)), replace=False))
        hits = []
        for name in names:
            begin = time.perf_counter()
            row = table.get(name)
            hits.append(time.perf_counter() - begin)
            must(row is not None and np.array_equal(row["embedding"], job.data.embeddings[row_of[name]]), f"get({name!r}) gave other bytes")
        misses = []
        for name in names:
            begin = time.perf_counter()
            row = table.get(name + "?")
            misses.append(time.perf_counter() - begin)
            must(row is None, f"get({name + '?'!r}) found something")
        begin = time.perf_counter()
        many = table.get_many(names)
        together = time.perf_counter() - begin
        must(many.column("name").to_pylist() == names, "get_many() lost the order of its keys")
        begin = time.perf_counter()
        scanned = sum(batch.num_rows for batch in table.scan())
        scan = time.perf_counter() - begin
        must(scanned == len(job.stored), f"a scan gave {scanned} rows of {len(job.stored)}")
        where = (pc.field("section") == "libs") & (pc.field("installed_kib") > 1000)
        begin = time.perf_counter()
        matching = table.scan(columns=["name"], where=where).read_all()
        filtered = time.perf_counter() - begin
        wanted = job.data.packages.take(pa.array(job.stored)).filter(where)
        must(sorted(matching.column("name").to_pylist()) == sorted(wanted.column("name").to_pylist()), "a filter gave other rows")
    job.facts["read"] = {
        "get_seconds": hits, "get_absent_seconds": misses, "get_many_keys": len(names), "get_many_seconds": together,
        "scan_rows": scanned, "scan_seconds": scan, "filter": "section == 'libs' and installed_kib > 1000",
        "filter_rows": matching.num_rows, "filter_seconds": filtered,
    }  # fmt: skip


def change(job: Job) -> None:
    """New packages arrive, some change, some go; the past stays; every byte is checked; a row is proved."""
    with job.open() as db:
        table = db[PACKAGES]
        before = db.version
        table.insert(job.rows(job.queries))
        some = job.rng.choice(job.stored, 140, replace=False)
        changed, job.deleted = job.names(some[:100]), job.names(some[100:])
        table.update(changed, {"priority": "reviewed"})
        table.delete(job.deleted)
        must(table.count(pc.field("priority") == "reviewed") == len(changed), "update() did not change what it was given")
        must(not any(name in table for name in job.deleted), "a deleted row is still there")
        gone = job.data.embeddings[some[100:]]
        found = set(table.search(gone, k=10).column("name").to_pylist())
        must(not found & set(job.deleted), "a search found a deleted row")
        begin = time.perf_counter()
        past = db.at(version=before)[PACKAGES]
        must(len(past) == len(job.stored) and all(past.get(n) is not None for n in job.deleted), "the past has changed")
        # a package's own vector: its nearest row in the past is itself, or one with the same text
        nearest = past.search(gone, k=1).column("_distance").to_numpy()
        travelled = time.perf_counter() - begin
        must(bool((nearest < 1e-5).all()), "a search in the past missed a row that was there")
        db.flush()
        begin = time.perf_counter()
        checked = db.verify()
        verified = time.perf_counter() - begin
        begin = time.perf_counter()
        with db.snapshot() as snapshot:
            proof = snapshot[PACKAGES].prove(changed[0])
            root = snapshot.root()
        row = lt.verify_proof(proof, root=root)
        proved = time.perf_counter() - begin
        must(row["name"] == changed[0] and row["priority"] == "reviewed", "a proof showed another row")
        must(_refused(proof, ("0" if root[0] != "0" else "1") + root[1:]), "a proof was accepted against another root")
    job.facts["change"] = {
        "inserted": len(job.queries), "updated": len(changed), "deleted": len(job.deleted), "past_version": before,
        "past_seconds": travelled, "verify": checked, "verify_seconds": verified, "prove_seconds": proved, "root": root,
    }  # fmt: skip


def _refused(proof: dict[str, Any], root: str) -> bool:
    try:
        lt.verify_proof(proof, root=root)
    except lt.CorruptionError:
        return True
    return False


def leave(job: Job) -> None:
    """Compact a last time; count bytes; mark the end, so that a later run knows whether somebody wrote since."""
    with job.open() as db:
        db.compact()
        live = db[PACKAGES].to_arrow().nbytes + db[crash.TABLE].to_arrow().nbytes
        rows = {name: len(db[name]) for name in db.tables}
        db.tag(ENDED)
    begin = time.perf_counter()
    job.open().close()
    opened = time.perf_counter() - begin
    parts: dict[str, int] = {}
    for file in sorted(Path(job.path).rglob("*")):
        if file.is_file():
            kind = {".wal": "log", ".arrow": "rows", ".dead": "marks"}.get(file.suffix) or ("index" if file.parent.name == "sst" else "layout")
            parts[kind] = parts.get(kind, 0) + file.stat().st_size
    job.facts["size"] = {"rows": rows, "live_bytes": live, "files": parts, "space_amplification": sum(parts.values()) / live, "open_ms": opened * 1e3}


def run(job: Job) -> dict[str, Any]:
    """All steps; returns the record, which is also appended to ``job.out/run.jsonl``."""
    from . import matrix

    begin = time.perf_counter()
    make_room(job.path)
    job.out.mkdir(parents=True, exist_ok=True)
    job.rng = np.random.default_rng(job.config.seed)
    for step in (ingest, survive, read, matrix.search, change, leave):
        started = time.perf_counter()
        step(job)
        job.facts.setdefault("step_seconds", {})[step.__name__] = time.perf_counter() - started
    job.facts["seconds"] = time.perf_counter() - begin
    line = {
        **record.header("run", job.config, job.data.describe(), job.config.seed), "case": "main job", "who": "lsmtensor", "facts": job.facts,
        "samples": {"seconds": [job.facts["seconds"]]}, "summary": {"seconds": record.spread([job.facts["seconds"]])},
    }  # fmt: skip
    record.write(job.out / "run.jsonl", [line])
    return line


def make(
    path: str, out: str, data: str | None, config: lt.RunConfig, say: Callable[[str], None], progress: Progress, kills: int = 3
) -> Job:
    """A job on the bundled part, or on the full set in ``data``; a part's files of few rows get their index too."""
    settings = config if config.index.min_rows != lt.RunConfig().index.min_rows else config.with_set("index.min_rows=1000")
    return Job(path, Path(out), debian(data), data, settings, say, progress, kills)


THREE_LINES = """\
import lsmtensor as lt
db = lt.open({path!r})
print(db["packages"].search(db["packages"].get({name!r})["embedding"], k=5, columns=["name", "summary"]).to_pylist())"""
