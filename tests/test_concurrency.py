"""Threads and processes at once: what they see is checked as a history, and what the machine refuses costs nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.testing.history import Done, History, run_history

SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("n", pa.int64())], primary_key="k")
SMALL = lt.RunConfig().with_set("memtable.limit_bytes=3000", "wal.segment_bytes=4000", "compaction.level0_runs=2")


@pytest.mark.parametrize("seeds", [pytest.param(range(2), id="some"), pytest.param(range(2, 60), id="all", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_threads_see_snapshots(seeds):
    for seed in seeds:
        history = run_history(seed)
        assert history.check() == [], f"seed {seed}"
        assert sum(d.commit is not None for d in history.done) > 20 and sum(d.commit is None for d in history.done) > 20


def test_the_checker_sees_what_isolation_forbids():
    def told(*done):
        return History(list(done), {1: 10, 2: 20}, begun=5).check()

    first = Done(5, 6, {1: 10}, {1: 11}, False)
    assert told(first, Done(6, 7, {1: 11}, {1: 12}, False)) == []
    assert "newest write there is 11" in told(first, Done(6, None, {1: 10}, {}, False))[0]
    assert "was written at [6]" in told(first, Done(5, 7, {1: 10}, {1: 12}, False))[0]  # a lost update
    skew = Done(5, 7, {1: 10, 2: 20}, {2: 21}, False), Done(5, 7, {1: 10, 2: 20}, {2: 21}, True)
    assert told(first, skew[0]) == [] and "committed at 7" in told(first, skew[1])[0]


def child(code, *arguments, limit=None, **options):
    """Run Python code in another process; its output, or an AssertionError with what it said."""
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, timeout=120, preexec_fn=limit, **options
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return made.stdout


READER = """
    import sys, lsmtensor as lt
    seen = 0
    for _ in range(8):
        with lt.open(sys.argv[1], mode="r") as db:
            n = db["t"].to_arrow()["n"].to_pylist()
            assert len(n) == 50 and len(set(n)) == 1 and n[0] >= seen, (seen, set(n))
            seen = n[0]
            assert db.refresh() >= 0
            assert len(set(db["t"].to_arrow()["n"].to_pylist())) == 1
    print(seen)
"""


def test_readers_in_other_processes_while_files_come_and_go(tmp_path):
    path = tmp_path / "odd näme, with 'quotes' and\nnewline.lsm"
    with lt.open(path, config=SMALL) as db:
        table = db.create_table("t", SCHEMA, history="none")
        keys = np.arange(50)
        table.upsert({"k": keys, "n": keys * 0})
        readers = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", textwrap.dedent(READER), str(path)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
        n = 0
        while any(r.poll() is None for r in readers):
            n += 1
            table.upsert({"k": keys, "n": keys * 0 + n})
            if n % 7 == 0:
                db.compact()
        for reader in readers:
            assert reader.wait() == 0, reader.stderr.read()
            reader.stderr.close()
        assert n > 10 and db.verify()


def test_two_writers_and_a_killed_one(tmp_path):
    code = """
        import sys, time, lsmtensor as lt, pyarrow as pa
        db = lt.open(sys.argv[1])
        db.create_table("t", lt.Schema([lt.Column("k", pa.int64()), lt.Column("n", pa.int64())], primary_key="k")).put(1, {"n": 1})
        print("ready", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a")], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        with pytest.raises(lt.LockedError, match=str(writer.pid)):
            lt.open(tmp_path / "a")
        with lt.open(tmp_path / "a", mode="r") as reader:
            assert reader["t"].get(1)["n"] == 1
        writer.send_signal(signal.SIGKILL)
    with lt.open(tmp_path / "a") as db:
        assert db["t"].get(1)["n"] == 1
        db["t"].put(2, {"n": 2})


def loaded(handle):
    return int(handle.count() if hasattr(handle, "count") else handle["t"].count())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_handles_in_workers_of_a_data_loader(tmp_path, method):
    with lt.open(tmp_path / "a") as db:
        table = db.create_table("t", SCHEMA)
        table.upsert({"k": np.arange(10), "n": np.arange(10)})
        with db.snapshot() as snap, multiprocessing.get_context(method).Pool(2) as pool:
            table.put(11, {"n": 1})
            assert pool.map(loaded, [snap, snap["t"]]) == [10, 10]
            assert pool.map(loaded, [db, table]) in ([11, 11], [10, 10])
        assert table.put(12, {"n": 1}) and table.count() == 12


INGEST = """
    import sys, numpy as np, pyarrow as pa, lsmtensor as lt
    db = lt.open(sys.argv[1], config=lt.RunConfig().with_set("memtable.limit_bytes=4000000"))
    table = db.create_table("t", lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", lt.tensor("float32", (256,)))], primary_key="k"))
    import resource
    LIMIT
    done, size = 0, 2000
    try:
        for n in range(60):
            table.upsert({"k": np.arange(size) + n * size, "v": np.full((size, 256), n, np.float32)})
            done = n + 1
        THEN
        db.compact()
    except (MemoryError, OSError, lt.LsmTensorError, pa.ArrowException) as why:
        print("refused", type(why).__name__, file=sys.stderr)
    print(done, flush=True)
    import os
    os._exit(0)
"""


LITTLE = "resource.setrlimit(resource.RLIMIT_AS, (__import__('psutil').Process().memory_info().vms + {},) * 2)"


@pytest.mark.parametrize(
    "what, limit",
    [
        ("memory", LITTLE.format(60_000_000)),
        ("memory, in a merge", f"then: {LITTLE.format(30_000_000)}"),
        ("file size", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000,) * 2)"),
        ("open files", "resource.setrlimit(resource.RLIMIT_NOFILE, (len(__import__('os').listdir('/proc/self/fd')) + 4,) * 2)"),
    ],
)
def test_what_the_machine_refuses_costs_no_commit(tmp_path, what, limit):
    first, _, then = limit.rpartition("then:") if "then:" in limit else (limit, "", "pass")
    code = INGEST.replace("LIMIT", first or "pass").replace("THEN", then.strip())
    done = int(child(code, tmp_path / "a"))
    with lt.open(tmp_path / "a") as db:
        rows = db["t"].to_numpy(["k"])["k"]
        assert len(rows) % 2000 == 0 and done <= len(rows) // 2000 <= done + 1 and (np.diff(rows) == 1).all(), what
        db.verify()
        db["t"].upsert({"k": [-1], "v": np.zeros((1, 256), np.float32)})


@pytest.mark.skipif(not os.path.isdir("/dev/shm") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_full_and_a_mount_that_is_read_only(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        with lt.open(folder / "a", config=SMALL) as db:
            table = db.create_table("t", SCHEMA)
            done = 0
            with pytest.raises(lt.StorageError, match="full"):
                for n in range(3000):
                    table.upsert({"k": np.arange(500) + n * 500, "n": np.full(500, n)})
                    done = n + 1
                db.flush()
            assert db["t"].count() >= done * 500
            with pytest.raises(lt.LsmTensorError):
                db.close()
                raise lt.StorageError("closed without another write")
        subprocess.run(["mount", "-o", "remount,size=30m", str(folder)], check=True)
        with lt.open(folder / "a", config=SMALL) as db:
            assert done * 500 <= db["t"].count() <= (done + 1) * 500
            db["t"].put(-1, {"n": 0})
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(lt.LsmTensorError):
            lt.open(folder / "a")
        with lt.open(folder / "a", mode="r") as db:
            assert db["t"].get(-1)["n"] == 0 and db.verify() and db["t"].count() > done
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
