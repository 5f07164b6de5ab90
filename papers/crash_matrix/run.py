"""Which syncs and checksums of the engine are needed? Take each away, lose the power everywhere, flip bytes, and see who notices."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lab  # noqa: E402

import lsmtensor as lt  # noqa: E402
from lsmtensor import container  # noqa: E402
from lsmtensor.env.memory import FaultyEnv  # noqa: E402
from lsmtensor.lsm import manifest  # noqa: E402
from lsmtensor.sstable import checks  # noqa: E402
from lsmtensor.sstable import reader as table_reader  # noqa: E402
from lsmtensor.sstable import writer as table_writer  # noqa: E402
from lsmtensor.testing import crash, workload  # noqa: E402
from lsmtensor.wal import format as wal_format  # noqa: E402

warnings.simplefilter("ignore")  # an index segment that is refused is answered by a scan, with a warning
LUCK = {"nothing unsynced survives": ((0.0, 0),), "a torn part survives": ((0.5, 1), (0.5, 2), (0.9, 3))}
IN_RECOVERY, KILLED, FLIPPED = "again in recovery", "killed, then power lost", "a flipped byte"
SEALING = "sync of log — wal/reader.py*"
"""Two syncs in a row; each alone is covered by the other."""
PACKAGE = str(Path(lt.__file__).parent)
MODES = ("buffered(ms=5)", "none", "interval(ms=5)", "group", "every")
# (calls between losses, recoveries between losses in recovery, flips a file)
SIZES = {"smoke": (67, 3, 4), "laptop": (17, 4, 12), "full": (1, 1, 200)}


# -- syncs ---------------------------------------------------------------------------------------


def site() -> str:
    """Who asks for a sync: file, line and function of the engine, the layer of files left out."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ or f"{PACKAGE}/env/" in frame.f_code.co_filename:
        assert frame.f_back is not None
        frame = frame.f_back
    name = frame.f_code.co_filename.removeprefix(PACKAGE + "/")
    return f"{name}:{frame.f_lineno} {frame.f_code.co_qualname}"


def kind_of(path: str) -> str:
    """What a path holds: a log, table file, segment, sidecar, manifest or CURRENT."""
    name = path.rpartition("/")[2]
    for ending, kind in ((".wal", "log"), (".arrow", "table file"), (".dead", "sidecar")):
        if name.endswith(ending):
            return kind
    if name.startswith(("MANIFEST", "CURRENT")):
        return name.partition("-")[0].partition(".")[0]
    return "segment" if ".i" in name else "blob" if "/blob/" in path else name


class DeafEnv(FaultyEnv):
    """A file system in memory on which the syncs of one site (or, with ``*`` at the end, of all that begin so) do nothing, and say that they did."""

    def __init__(self, clock: Any = None, ignored: str = "") -> None:
        super().__init__(clock)
        self.ignored = ignored
        self.sites: dict[str, int] = {}

    def deaf(self, op: str, path: str) -> bool:
        folder, _, inner = path.rstrip("/").partition("/")
        if folder != workload.PATH:  # a checkpoint or backup beside it is synced too, but nobody opens it here
            return False
        name = f"sync of {f'folder {inner or folder}' if op == 'sync_dir' else kind_of(path)} — {site()}"
        self.sites[name] = self.sites.get(name, 0) + 1
        return name == self.ignored or (self.ignored.endswith("*") and name.startswith(self.ignored[:-1]))

    def crash(self, seed: int = 0, keep: float = 0.5) -> DeafEnv:
        return self._like(super().crash(seed, keep))

    def kill(self) -> DeafEnv:
        return self._like(super().kill())

    def _like(self, after: DeafEnv) -> DeafEnv:
        """Deaf in the same place: recovery has syncs too."""
        after.ignored, after.sites = self.ignored, self.sites
        return after


# -- checksums -----------------------------------------------------------------------------------


def _blind(*modules: Any) -> Callable[[], Any]:
    """Checksums of these modules are always zero: written so, and found so."""

    @contextmanager
    def made() -> Iterator[None]:
        with mock.patch.multiple(modules[0], crc32c=lambda data, initial=0: 0):
            if modules[1:]:
                with _blind(*modules[1:])():
                    yield
            else:
                yield

    return made


@contextmanager
def _both(one: Any, other: Any) -> Iterator[None]:
    with one, other:
        yield


CHECKS: dict[str, Callable[[], Any]] = {
    "CRC of log records": _blind(wal_format),
    "CRC of manifest edits": _blind(manifest),
    "CRC of index segments": _blind(container),
    "CRC of a table file's chunks": lambda: mock.patch.object(checks.Checks, "check", lambda self, start, end: None),
    "CRC of a table file, all of them": lambda: _both(_blind(table_reader, table_writer)(), CHECKS["CRC of a table file's chunks"]()),
}


# -- what is tried -------------------------------------------------------------------------------


def tried(fault: str, deaf: str, scale: str) -> dict[str, Any]:
    """One class of power loss at the calls of one life; it stops at its first wrong state."""
    every, recovery_every, _ = SIZES[scale]
    if not deaf:
        every = -(-every // 2)  # the whole protocol: more states, none may be wrong
    with rotating():
        if fault == KILLED:
            return killed_then_lost(deaf, every)
        if fault == IN_RECOVERY:
            found = crash.enumerate_crashes(env=DeafEnv(ignored=deaf), every=every * 10, luck=((0.5, 5),), recovery_every=recovery_every)
            return {"fault": fault, "tried": found.in_recovery, "wrong": len(found.wrong), "first": _short(found.wrong)}
        found = crash.enumerate_crashes(env=DeafEnv(ignored=deaf), every=every, luck=LUCK[fault])
        return {"fault": fault, "tried": found.checked, "wrong": len(found.wrong), "first": _short(found.wrong)}


def killed_then_lost(deaf: str, every: int) -> dict[str, Any]:
    """The process is killed, and what it wrote stays in the page cache; the next one reads that, commits more, and the power is lost.
    What the second process saw must not go: a commit would be missing below one that was acknowledged."""
    env, done, wrong, calls, tried = DeafEnv(ignored=deaf), [], [], 0, 0

    def kill(op: str, path: str) -> None:
        nonlocal calls, tried
        calls += 1
        if calls % every or wrong:
            return
        tried += 1
        where = f"killed at call {calls} ({op} of {path}) in step {len(done)}"
        try:
            left = env.kill()
            db = lt.open(workload.PATH, env=left, config=workload.CONFIG)
            seen = workload.held(db)
            db.create_table("after", workload.WORDS).put("word", {"n": 1})
            with lt.open(workload.PATH, env=left.crash(keep=0.0), config=workload.CONFIG) as again:
                found = workload.held(again)
            for model in (found.tables, found.indexes):
                model.pop("after")
            assert found == seen, "what was read after the kill is gone after the power loss, though a later commit was acknowledged"
        except Exception as why:
            wrong.append(f"{where}: {type(why).__name__}: {why}")

    env.watch(kill)
    workload.run(env, done=done)
    return {"fault": KILLED, "tried": tried, "wrong": len(wrong), "first": _short(wrong)}


def flips(scale: str) -> dict[str, Any]:
    """A byte flipped here and there in every file of a whole database: found, or harmless; anything else is wrong."""
    env = FaultyEnv()
    workload.run(env)
    whole, tried, wrong = workload.models()[-1], 0, []
    luck = np.random.default_rng(0)
    for name in sorted(n for n in env.files if n.startswith(f"{workload.PATH}/")):
        data = env.files[name].data
        for at in sorted(set(luck.integers(0, max(1, len(data)), SIZES[scale][2]).tolist())) if len(data) else ():
            copy = env.crash(keep=1)
            copy.files[name].data[at] ^= 1 << int(luck.integers(8))
            tried += 1
            try:
                with lt.open(workload.PATH, env=copy, config=workload.CONFIG) as db:
                    found = workload.held(db)
            except lt.LsmTensorError:
                continue
            except Exception as why:
                wrong.append(f"{name} at {at}: {type(why).__name__}: {why}")
                continue
            if found != whole:
                wrong.append(f"{name} at {at}: read as if nothing were wrong")
    return {"fault": FLIPPED, "tried": tried, "wrong": len(wrong), "first": _short(wrong)}


def _short(wrong: list[str]) -> str | None:
    return wrong[0][:160] if wrong else None


def throughput(scale: str) -> Iterator[dict[str, Any]]:
    """Small commits a second by sync mode, on the disk that this runs on; one thread."""
    commits = 50 if scale == "smoke" else 2000
    for mode in MODES:
        for _ in range(1 if scale == "smoke" else 5):
            with tempfile.TemporaryDirectory(prefix="lsmtensor-paper-", dir=".") as folder:
                config = lt.RunConfig(background=False).with_set(f"wal.sync={mode}")
                with lt.open(f"{folder}/x.lsm", config=config) as db:
                    table = db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", pa.binary())], primary_key="id"))
                    table.put(0, {"v": b"x" * 100})
                    before, begin = db.stats()["io"], time.perf_counter()
                    for key in range(commits):
                        table.put(key, {"v": b"x" * 100})
                    seconds = time.perf_counter() - begin
                    after = db.stats()["io"]
                synced = sum(after[k] - before.get(k, 0) for k in after if k.startswith("io.syncs.wal"))
            yield {"part": "throughput", "mode": mode, "commits/s": commits / seconds, "syncs a commit": synced / commits}


def measure(scale: str, seed: int) -> dict[str, Callable[[], Iterable[dict[str, Any]]]]:
    """A job for each sync that a life or a recovery makes, and for none, with each fault; for each kind of checksum; for speed."""
    env = DeafEnv()
    with rotating():
        crash.enumerate_crashes(env=env, every=67 if scale == "smoke" else 37, recovery_every=20)
    losses = [*LUCK, IN_RECOVERY, KILLED]
    jobs: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {"none, flips": lambda: [{**_about("nothing", "none"), **flips(scale)}]}
    for name in ("", *sorted(env.sites), SEALING):
        for fault in losses if not name or scale != "smoke" else losses[:1]:
            jobs[f"{name or 'none'}: {fault}"] = partial(without, name, fault, scale)
    return jobs | {name: partial(blind, name, scale) for name in CHECKS} | {"throughput": partial(throughput, scale)}


def _about(name: str, kind: str) -> dict[str, Any]:
    return {"part": "matrix", "taken away": name, "kind": kind}


def rotating() -> Any:
    """A life is short: with the usual limit its manifest would never be written anew."""
    return mock.patch.object(manifest, "ROTATE_BYTES", 6000)


def without(name: str, fault: str, scale: str) -> lab.Rows:
    """A fault, with one sync left out, or none."""
    kind = "none" if not name else "both" if name == SEALING else "sync"
    return [{**_about(name or "nothing", kind), **tried(fault, name, scale)}]


def blind(name: str, scale: str) -> Iterator[dict[str, Any]]:
    """Flipped bytes with one kind of checksum blind; torn writes where these show nothing. In a process of its own, for bytes that nobody
    checked may well end it."""
    for fault in (FLIPPED, "a torn part survives"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                found = pool.submit(_blinded, name, fault, scale).result()
            except BrokenProcessPool:
                found = {"fault": fault, "tried": 1, "wrong": 1, "first": "the process died of a signal"}
        yield {**_about(name, "checksum"), **found}
        if found["wrong"] or scale == "smoke":
            return


def _blinded(name: str, fault: str, scale: str) -> dict[str, Any]:
    with CHECKS[name]():
        return flips(scale) if fault == FLIPPED else tried(fault, name, scale)  # no sync has this name: all are made


# -- what it says --------------------------------------------------------------------------------


def facts(rows: lab.Rows) -> dict[str, float]:
    matrix = [r for r in rows if r["part"] == "matrix"]
    full = [r for r in matrix if r["kind"] == "none"]
    noticed = {r["taken away"]: False for r in matrix if r["kind"] != "none"}
    for r in matrix:
        if r["kind"] != "none" and r["wrong"]:
            noticed[r["taken away"]] = True
    kind = {r["taken away"]: r["kind"] for r in matrix}
    rate = {mode: np.median([r["commits/s"] for r in rows if r.get("mode") == mode]) for mode in MODES}
    syncs = {mode: np.median([r["syncs a commit"] for r in rows if r.get("mode") == mode]) for mode in MODES}
    return {
        "violations": sum(r["wrong"] for r in full), "states": sum(r["tried"] for r in full),
        "syncs": sum(kind[n] == "sync" for n in noticed), "checksums": sum(kind[n] == "checksum" for n in noticed),
        "both syncs of a sealed log needed": float(noticed[SEALING]), "share of syncs needed": float(np.mean([noticed[n] for n in noticed if kind[n] == "sync"])),
        "share of checksums needed": float(np.mean([noticed[n] for n in noticed if kind[n] == "checksum"])),
        "none over group": rate["none"] / rate["group"], "group over every": rate["group"] / rate["every"],
        "syncs a commit, group": syncs["group"], "syncs a commit, none": syncs["none"],
    }  # fmt: skip


def show(rows: lab.Rows, plt: Any) -> tuple[dict[str, lab.Rows], Any]:
    matrix = [r for r in rows if r["part"] == "matrix"]
    names = list(dict.fromkeys(r["taken away"] for r in matrix))
    faults = [*LUCK, IN_RECOVERY, KILLED, FLIPPED]
    cells = {(r["taken away"], r["fault"]): r for r in matrix}
    table = []
    for name in names:
        row: dict[str, Any] = {"taken away": name}
        for fault in faults:
            found = cells.get((name, fault))
            row[fault] = "–" if found is None else f"**{found['wrong']} wrong** of {found['tried']}" if found["wrong"] else f"0 of {found['tried']}"
        table.append(row)
    rates = [
        {"mode": m, "commits/s": float(np.median([r["commits/s"] for r in rows if r.get("mode") == m])),
         "syncs a commit": float(np.median([r["syncs a commit"] for r in rows if r.get("mode") == m]))} for m in MODES
    ]  # fmt: skip
    firsts = [{"taken away": r["taken away"], "fault": r["fault"], "first wrong state": r["first"]} for r in matrix if r["wrong"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.28 * len(names) + 1.5), width_ratios=[2, 1], constrained_layout=True)
    shade = np.array([[np.nan if (c := cells.get((n, f))) is None else float(c["wrong"] > 0) for f in faults] for n in names])
    left.imshow(shade, aspect="auto", cmap="RdYlGn_r", vmin=-0.3, vmax=1.3)
    left.set_xticks(range(len(faults)), faults, rotation=20, ha="right", fontsize=7)
    left.set_yticks(range(len(names)), names, fontsize=6)
    left.set_title("red: a wrong state was found without it", fontsize=9)
    left.grid(False)
    right.barh(range(len(rates)), [r["commits/s"] for r in rates], color="#3a5ba0")
    right.set_yticks(range(len(rates)), [r["mode"] for r in rates])
    right.invert_yaxis()
    right.set(xscale="log", xlabel="commits a second, one thread", title="What durability costs")
    return {"Each sync and checksum taken away": table, "Throughput by sync mode": rates, "The first wrong state of each": firsts}, figure


if __name__ == "__main__":
    lab.main(__file__, measure, facts, show)
