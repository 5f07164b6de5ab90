"""A small life of a database, step by step, beside a model of what it holds: what the fault suites run.

Every step is one commit or none, so that after a fault the database must hold what it held before the step or after it. Whatever
adds a file kind, a sync or an operation joins the suites by a step of its own in `STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import RunConfig
from ..copies import backups
from ..database import Database
from ..database import open as open_database
from ..dtypes import ragged, tensor
from ..env.base import Env
from ..lsm import manifest
from ..schema import Column, Schema

PATH = "db"
CONFIG = RunConfig(background=False, direct_commit_bytes=3000, large_tensor_bytes=500).with_set(
    "memtable.limit_bytes=2500", "compaction.level0_runs=2", "wal.segment_bytes=5000", "sstable.chunk_bytes=4096", "index.min_rows=40"
)
DOCS = Schema([Column("id", pa.int64()), Column("n", pa.int64()), Column("v", tensor("float32", (4,)))], primary_key="id")
FILMS = Schema([Column("id", pa.int64()), Column("frames", ragged("uint8", 2))], primary_key="id")
WORDS = Schema([Column("word", pa.string()), Column("n", pa.int64(), nullable=True)], primary_key="word")
LARGE = np.arange(1200, dtype=np.float32).reshape(30, 40)


@dataclass
class Model:
    """What a database holds: rows by table and key, arrays, and what it held when a tag was given."""

    tables: dict[str, dict[Any, tuple[Any, ...]]] = field(default_factory=dict)
    tensors: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, dict[str, dict[Any, tuple[Any, ...]]]] = field(default_factory=dict)
    indexes: dict[str, set[str]] = field(default_factory=dict)
    copies: set[str] = field(default_factory=set, compare=False)  # folders that hold a database of their own from then on


@dataclass(frozen=True)
class Step:
    """One thing done to a database, and what it does to the model."""

    name: str
    act: Callable[[Database], object]
    change: Callable[[Model], object] = lambda model: None


def vectors(ids: Any) -> np.ndarray:
    """float32 (…, 4): the vector of each id, no two alike."""
    at = np.asarray(ids, np.float32)
    return np.stack([at, at * at / 64, 100 - at, np.sin(at)], axis=-1)


def _upsert(step: int, size: int) -> Step:
    ids = np.unique((np.arange(size) * 3 + step) % 97)

    def change(model: Model) -> None:
        model.tables["docs"].update({int(i): (step, *vectors(i)) for i in ids})

    return Step(f"upsert {len(ids)} rows", lambda db: db["docs"].upsert({"id": ids, "n": np.full(len(ids), step), "v": vectors(ids)}), change)


def _delete(first: int, stop: int) -> Step:
    def change(model: Model) -> None:
        for key in range(first, stop):
            model.tables["docs"].pop(key, None)

    return Step("delete", lambda db: db["docs"].delete(list(range(first, stop))), change)


def _words(n: int, size: int = 5) -> Step:
    rows: dict[str, list[Any]] = {"word": [f"w{i}" for i in range(n, n + size)], "n": [None if i % 4 == 0 else i for i in range(n, n + size)]}

    def change(model: Model) -> None:
        model.tables["words"].update({w: (v,) for w, v in zip(rows["word"], rows["n"], strict=True)})

    return Step("upsert words", lambda db: db["words"].upsert(rows), change)


def _films(step: int, ids: list[int]) -> Step:
    """Rows of values that go to a blob file, and of some that do not."""
    frames = {i: np.full((8, 40 + 30 * (i % 3)), step + i, np.uint8) for i in ids}

    def change(model: Model) -> None:
        model.tables["films"].update({i: (array.shape, array.tobytes()) for i, array in frames.items()})

    return Step(f"upsert {len(ids)} films", lambda db: db["films"].upsert({"id": ids, "frames": list(frames.values())}), change)


def _transaction(n: int) -> Step:
    def act(db: Database) -> None:
        with db.transaction() as txn:
            txn["docs"].delete([n])
            txn["words"].put(f"of {n}", {"n": n})
            txn["docs"].upsert({"id": [500 + n], "n": [n], "v": vectors([n])})

    def change(model: Model) -> None:
        model.tables["docs"].pop(n, None)
        model.tables["docs"][500 + n] = (n, *vectors(n))
        model.tables["words"][f"of {n}"] = (n,)

    return Step("transaction over two tables", act, change)


def _arrays(**given: Any) -> Step:
    """Named arrays; None removes one."""

    def act(db: Database) -> None:
        gone = [name for name, array in given.items() if array is None]
        if gone:
            del db.tensors[gone[0]]
        else:
            db.tensors.update(given)

    def change(model: Model) -> None:
        for name, array in given.items():
            model.tensors.pop(name, None)
            if array is not None:
                model.tensors[name] = array.tobytes()

    return Step("arrays", act, change)


def _slice() -> Step:
    def act(db: Database) -> None:
        db.tensors["large"][2:5, ::7] = -1

    def change(model: Model) -> None:
        array = np.frombuffer(model.tensors["large"], LARGE.dtype).reshape(LARGE.shape).copy()
        array[2:5, ::7] = -1
        model.tensors["large"] = array.tobytes()

    return Step("a slice of an array", act, change)


def _tag(name: str) -> Step:
    return Step("tag", lambda db: db.tag(name), lambda model: model.tags.update({name: deepcopy(model.tables)}))


def _index(name: str, spec: str | None) -> Step:
    def act(db: Database) -> None:
        if spec is None:
            db["docs"].drop_index(name)
        else:
            db["docs"].create_index("v", spec, name=name, wait=True)

    def change(model: Model) -> None:
        model.indexes["docs"].discard(name) if spec is None else model.indexes["docs"].add(name)

    return Step("create an index" if spec else "drop an index", act, change)


def _column() -> Step:
    def change(model: Model) -> None:
        rows = model.tables["words"]
        rows.update({word: (n, None if n is None else 2 * n) for word, (n,) in rows.items()})

    twice = Column("twice", pa.int64(), nullable=True)
    return Step("a column that a function makes", lambda db: db["words"].add_column(twice, lambda batch: _twice(batch["n"])), change)


def _twice(n: pa.Array) -> pa.Array:
    return pa.array([None if x is None else 2 * x for x in n.to_pylist()], pa.int64())


def _create(name: str, schema: Schema, **options: Any) -> Step:
    def change(model: Model) -> None:
        model.tables[name] = {}
        model.indexes[name] = {f"{column}_{spec.partition('(')[0]}" for column, spec in options.get("indexes", {}).items()}

    return Step("create a table", lambda db: db.create_table(name, schema, **options), change)


def _drop(name: str) -> Step:
    def change(model: Model) -> None:
        del model.tables[name], model.indexes[name]

    return Step("drop a table", lambda db: db.drop_table(name), change)


FLUSH, COMPACT = Step("flush", lambda db: db.flush()), Step("compact", lambda db: db.compact())
REOPEN = Step("reopen", lambda db: db.close())
STEPS = [
    _create("docs", DOCS, indexes={"v": "hnsw"}), _create("words", WORDS, indexes={"word": "text"}), _upsert(0, 12), _words(0), _upsert(1, 200), _delete(3, 23), _tag("early"),
    _transaction(40), _arrays(small=LARGE[0], other=LARGE[3]), FLUSH, _upsert(5, 12), _arrays(large=LARGE), _slice(), _upsert(6, 300), _words(3, 45), COMPACT,
    _create("films", FILMS, history="none"), _films(0, [1, 2, 3]), _films(1, [4, 5, 6, 7, 8, 9]), FLUSH,
    _index("second", "ivfflat(placement=table)"), _upsert(7, 12), REOPEN, _upsert(8, 12), _delete(50, 60), _tag("late"), _index("second", None), _arrays(small=None),
    _create("brief", WORDS), _transaction(77), _drop("brief"),
    Step("checkpoint", lambda db: db.checkpoint("copy"), lambda model: model.copies.add("copy")),
    Step("backup", lambda db: db.backup("saved"), lambda model: model.copies.add("saved/000001")), _films(2, [1, 2, 4, 5, 7, 8]), _upsert(10, 80), _words(9), _column(), FLUSH, COMPACT,
    Step("collect garbage", lambda db: db.collect_garbage()),
]  # fmt: skip


def run(env: Env, config: RunConfig = CONFIG, steps: list[Step] = STEPS, done: list[int] | None = None, close: bool = True, rotate: int = 6000) -> None:
    """The steps, in an environment of nothing; ``done`` gets the number of each that returned. Without ``close`` the database is
    left as a killed process leaves it. A manifest of more than ``rotate`` bytes is begun anew."""
    usual, manifest.ROTATE_BYTES = manifest.ROTATE_BYTES, rotate
    try:
        _run(env, config, steps, done, close)
    finally:
        manifest.ROTATE_BYTES = usual


def _run(env: Env, config: RunConfig, steps: list[Step], done: list[int] | None, close: bool) -> None:
    db = open_database(PATH, env=env, config=config)
    for number, step in enumerate(steps):
        step.act(db)
        if step is REOPEN:
            db = open_database(PATH, env=env, config=config)
        if done is not None:
            done.append(number)
    if close:
        db.close()
    else:
        db._finalizer.detach()


def models(steps: list[Step] = STEPS) -> list[Model]:
    """What is held after 0, 1, 2, … steps."""
    made = [Model()]
    for step in steps:
        made.append(deepcopy(made[-1]))
        step.change(made[-1])
    return made


def held(db: Database) -> Model:
    """What a database holds, read by scans, by key and through its tags; a search that does not find a row raises."""
    model = Model()
    model.tables = _rows(db)
    model.tensors = {name: db.tensors[name].numpy().tobytes() for name in db.tensors}
    for pin in db.pins():
        if pin["kind"] == "tag":
            with db.at(tag=pin["name"]) as then:
                model.tags[pin["name"]] = _rows(then)
    for name in db.tables:
        model.indexes[name] = {index for index in db[name].indexes}
    docs = model.tables.get("docs", {})
    for key in list(docs)[:: max(1, len(docs) // 3)]:
        row = db["docs"].get(key)
        if row is None or (row["n"], *row["v"]) != docs[key]:
            raise AssertionError(f"get({key}) is {row}, a scan says {docs[key]}")
        found = db["docs"].search(np.array(docs[key][1:], np.float32), k=1).column("id").to_pylist()
        if not found or docs[found[0]][1:] != docs[key][1:]:
            raise AssertionError(f"a search for the vector of row {key} finds {found}")
    for word in list(model.tables["words"])[:: max(1, len(model.tables["words"]) // 3)] if model.indexes.get("words") else ():
        found = db["words"].search(text=word, k=9).column("word").to_pylist()
        if word not in found or not set(found) <= set(model.tables["words"]):
            raise AssertionError(f"a search for {word!r} finds {found}")
    return model


def _rows(tables: Any) -> dict[str, dict[Any, tuple[Any, ...]]]:
    found: dict[str, dict[Any, tuple[Any, ...]]] = {}
    for name in tables.tables:
        if name.startswith("_"):
            continue
        if "frames" in tables[name].schema.names:
            films = tables[name].get_many(tables[name].to_arrow(["id"]).column("id"))
            rows = [tables[name].schema.row(batch, i) for batch in films.to_batches() for i in range(batch.num_rows)]
            found[name] = {row["id"]: (row["frames"].shape, row["frames"].tobytes()) for row in rows}
            continue
        vectors = "v" in tables[name].schema.names
        columns = tables[name].to_numpy() if vectors else tables[name].to_arrow().to_pydict()
        if vectors:
            found[name] = {int(i): (int(n), *v) for i, n, v in zip(columns["id"], columns["n"], columns["v"], strict=True)}
        else:
            found[name] = {word: tuple(rest) for word, *rest in zip(*columns.values(), strict=True)}
    return found


def check(env: Env, allowed: list[Model], config: RunConfig = CONFIG) -> None:
    """The database opens, holds one of ``allowed``, every byte of it verifies, and it takes and keeps another commit."""
    with open_database(PATH, env=env, config=config) as db:
        found = held(db)
        if found not in allowed:
            raise AssertionError(f"{told(found)} is none of {[told(m) for m in allowed]}")
        db.verify()
        write(db)
        if db["after"].get("word") != {"word": "word", "n": db.version}:
            raise AssertionError(f"the commit after the fault reads {db['after'].get('word')}")
        for _, run in ((t, r) for t in db._state().layout.tables.values() for r in t.runs):
            lost = [name for file in run.files for s in file.segments for name in s.names if not env.exists(f"{PATH}/sst/{name}")]
            if lost:
                raise AssertionError(f"the layout names {lost[0]}, which is not there")
    made = {f"saved/{b['number']:06d}" for b in backups("saved", env=env)}
    for copy in {"copy", *made} if env.exists("copy/CURRENT") else made:
        with open_database(copy, "r", env=env, config=config) as db:
            db.verify()
            if "docs" not in db or not db["docs"].count():
                raise AssertionError(f"{copy} is there and empty")
    gone = [c for c in set.intersection(*(m.copies for m in allowed)) if not env.exists(f"{c}/CURRENT")]
    if gone:
        raise AssertionError(f"{gone[0]} was made and is not there")


def write(db: Database) -> None:
    """A commit to a table of its own, ``after``."""
    if "after" not in db:
        db.create_table("after", WORDS)
    db["after"].put("word", {"n": db.version + 1})


def told(model: Model) -> str:
    """A model in a line."""
    rows = ", ".join(f"{name}: {len(rows)} rows, sum {sum(hash(r) for r in rows.items()) % 9973}" for name, rows in model.tables.items())
    return f"<{rows}; arrays {sorted(model.tensors)}; tags {sorted(model.tags)}; indexes {model.indexes}>"


