"""Threads that read, write, search, flush and merge at once, and the history of what they saw, checked as snapshot isolation.

Every written value is unique and commits are numbered, so each read can be judged alone: it must show the newest write at or below
its snapshot. A transaction that commits must be the only one since its snapshot that wrote what it wrote (no lost update) and,
if serializable, what it read (no write skew). After Adya's definitions and the checkers of Jepsen; here the order of versions is
known and need not be searched for.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import RunConfig
from ..database import Database
from ..database import open as open_database
from ..dtypes import tensor
from ..env.memory import FaultyEnv
from ..errors import ConflictError
from ..schema import Column, Schema

CONFIG = RunConfig(background=True).with_set("memtable.limit_bytes=2000", "wal.segment_bytes=4000", "compaction.level0_runs=2", "index.min_rows=20")
SCHEMA = Schema([Column("k", pa.int64()), Column("w", pa.int64()), Column("v", tensor("float32", (4,)))], primary_key="k")


@dataclass(frozen=True)
class Done:
    """A transaction that ended: ``commit`` is None for one that was refused or given up. ``writes`` are unique numbers."""

    snapshot: int
    commit: int | None
    reads: dict[int, int]
    writes: dict[int, int]
    serializable: bool


@dataclass
class History:
    """What the threads did; ``broken`` is what they saw that no isolation allows."""

    done: list[Done] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    begun: int = 0
    broken: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """Everything that snapshot isolation (or serializability where it was asked for) does not allow."""
        wrong = list(self.broken)
        written: dict[int, list[tuple[int, int]]] = {k: [(self.begun, w)] for k, w in self.first.items()}
        for txn in sorted((d for d in self.done if d.commit is not None), key=lambda d: d.commit or 0):
            for key, number in txn.writes.items():
                written[key].append((txn.commit or 0, number))
        for txn in self.done:
            for key, seen in txn.reads.items():
                right = [w for v, w in written[key] if v <= txn.snapshot][-1]
                if seen != right:
                    wrong.append(f"a read of {key} at {txn.snapshot} saw {seen}, the newest write there is {right}")
            if txn.commit is None or not txn.writes:
                continue
            guarded = {*txn.writes, *(txn.reads if txn.serializable else ())}
            for key in guarded:
                between = [v for v, _ in written[key] if txn.snapshot < v < txn.commit]
                if between:
                    wrong.append(f"a transaction of {txn.snapshot} committed at {txn.commit} though {key} was written at {between}")
        return wrong


def run_history(seed: int, *, threads: int = 4, transactions: int = 60, keys: int = 8, config: RunConfig = CONFIG, delays: bool = True) -> History:
    """``threads`` writers with ``transactions`` each, beside readers, a searcher, and one that flushes, merges and tags."""
    env, history = FaultyEnv(), History()
    if delays:
        luck = random.Random(seed)
        env.watch(lambda op, path: time.sleep(luck.choice((0, 0, 0, 0.0005, 0.002))))
    switch, stop = sys.getswitchinterval(), threading.Event()
    with open_database("db", env=env, config=config) as db:
        table = db.create_table("t", SCHEMA, history="forever")
        numbers = itertools.count(1)
        history.first = {k: next(numbers) for k in range(keys)}
        history.begun = table.insert({"k": list(history.first), "w": list(history.first.values()), "v": _vectors(list(history.first.values()))})
        writers = [lambda n=n: _writer(db, history, numbers, random.Random(f"{seed} {n}"), transactions, keys) for n in range(threads)]
        others = [_reader, _searcher, _carer]
        beside = [lambda body=body: _until(stop, body, db, history, random.Random(seed)) for body in others]
        pool = [threading.Thread(target=_guarded, args=(body, history)) for body in [*writers, *beside]]
        sys.setswitchinterval(1e-5)
        try:
            for thread in pool:
                thread.start()
            for thread in pool[:threads]:
                thread.join()
            stop.set()
            for thread in pool[threads:]:
                thread.join()
        finally:
            sys.setswitchinterval(switch)
        env.heal()
        final = Done(db.version, None, _seen(db["t"]), {}, False)
        history.done.append(final)
        db.verify()
    with open_database("db", env=env.crash(keep=0), config=config) as db:
        history.done.append(Done(db.version, None, _seen(db["t"]), {}, False))
    return history


def _guarded(body: Callable[[], None], history: History) -> None:
    try:
        body()
    except Exception as why:  # whatever it is, it is a finding
        history.broken.append(f"{type(why).__name__}: {why}")


def _until(stop: threading.Event, body: Callable[..., None], *given: Any) -> None:
    while not stop.is_set():
        body(*given)


def _vectors(numbers: list[int]) -> np.ndarray:
    return np.repeat(np.asarray(numbers, np.float32)[:, None], 4, axis=1)


def _seen(table: Any) -> dict[int, int]:
    rows = table.to_arrow(["k", "w"])
    return dict(zip(rows.column("k").to_pylist(), rows.column("w").to_pylist(), strict=True))


def _writer(db: Database, history: History, numbers: Any, luck: random.Random, transactions: int, keys: int) -> None:
    for _ in range(transactions):
        txn = db.transaction(serializable=luck.random() < 0.3)
        reads = {k: txn["t"].get(k)["w"] for k in luck.sample(range(keys), 3)}  # type: ignore[index]
        if luck.random() < 0.2:
            reads |= _seen(txn["t"])
        writes = {k: next(numbers) for k in luck.sample(sorted(reads), luck.randint(1, 2))}
        txn["t"].upsert({"k": list(writes), "w": list(writes.values()), "v": _vectors(list(writes.values()))})
        if any(txn["t"].get(k)["w"] != w for k, w in writes.items()):  # type: ignore[index]
            history.broken.append("a transaction does not see its own writes")
        commit = None
        try:
            if luck.random() < 0.1:
                txn.rollback()
            else:
                commit = txn.commit()
        except ConflictError:
            commit = None
        history.done.append(Done(txn.version, commit, reads, writes, txn.serializable))


def _reader(db: Database, history: History, luck: random.Random) -> None:
    with db.snapshot() as snap:
        once = _seen(snap["t"])
        again = {k: snap["t"].get(k)["w"] for k in once}  # type: ignore[index]
        if once != again or once != _seen(snap["t"]):
            history.broken.append(f"a snapshot of version {snap.version} changed under its reader: {once}, then {again}")
        history.done.append(Done(snap.version, None, once, {}, False))


def _searcher(db: Database, history: History, luck: random.Random) -> None:
    with db.snapshot() as snap:
        k, w = luck.choice(sorted(_seen(snap["t"]).items()))
        found = snap["t"].search(_vectors([w])[0], k=1, columns=["k", "w"]).to_pylist()
        if [(r["k"], r["w"], r["_distance"]) for r in found] != [(k, w, 0.0)]:
            history.broken.append(f"a search at version {snap.version} for row {k} = {w} found {found}")


def _carer(db: Database, history: History, luck: random.Random) -> None:
    acts: list[Callable[[], object]] = [
        db.flush, db.compact, lambda: db.tag(f"tag {luck.randint(0, 3)}"), db.collect_garbage, db.verify, lambda: time.sleep(0.01),
    ]  # fmt: skip
    luck.choice(acts)()


