"""``docs/reliability.md``: what was tried against the store and what came of it, measured now.

``python -m lsmtensor.testing.reliability [FILE] [THIN]``. ``THIN`` 1 tries everything that fits in about twenty minutes of two cores,
larger numbers every THIN-th fault.
"""

from __future__ import annotations

import errno
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from . import damage, mutation, workload
from .crash import enumerate_crashes, enumerate_errors
from .history import run_history

Row = tuple[str, str, int, str]

HEAD = """# Reliability

What was tried against the store, how often, and what came of it: `make reliability` writes this page. "Wrong" counts lost or invented
commits, wrong answers, errors that are not ours, interpreters that crashed. The suites are in `lsmtensor/testing/` and run on any
file kind that a workload makes: a step added to `workload.STEPS` joins all of them.

"""

TAIL = """
Beside these, by the tests themselves: a hypothesis state machine over the public API against dicts of versions, with crashes and refused
calls between its steps (`tests/test_model.py`; its findings are `tests/test_regressions.py`); readers in other processes while files
come and go, two writers, a killed writer's lock, handles across fork and spawn, limits of memory, file size and open files, a full
disk and a read-only mount (`tests/test_concurrency.py`); salvage from every damage (`tests/test_repair.py`); writers killed by
SIGKILL on real disks (`lsmtensor run --kills`); each parser against bytes with right checksums that somebody made on purpose, with what
it may allocate (`tests/test_fuzz.py`); proofs with anything in them changed (`tests/test_proofs.py`). `lsmtensor/testing/mutation.py` takes
each sync and each check of a checksum away and asks the suites whether they notice (`tests/test_mutation.py`).

## What is not promised

- A database that was killed and then damaged in the unsynced end of its newest log or manifest is found as it was some commits ago:
  such an end cannot be told from one that the power took. A closed database has no such end.
- Damage by somebody who computes checksums: CRC32C and the hash tree find accidents. Roots kept elsewhere (`db.root()`,
  `verify_proof`) find intent.
- The file system in memory knows lost, torn and reordered writes, names lost with their folder, and syncs that fail. It does not
  know disks that lie about syncs, and it keeps a rename whole.

- A database that somebody made to do harm may hold table files whose Arrow buffers lead astray under right checksums: `verify()` looks
  at every one, plain reads trust what the checksums say. Open a database that you were sent with `mode="r"` and verify it first.

## What others promise, and how they test it

| | promise | how it is tested |
|---|---|---|
| SQLite | Commits are atomic and survive a power loss with `synchronous=FULL`; in WAL mode with `NORMAL` the last ones may be lost. No checksums unless an extension adds them. | Three harnesses, every branch of the core both ways, each allocation and each call of the disk refused in turn, a disk that loses and reorders what was not synced, fuzzed files and statements. |
| RocksDB | With `sync=true` a write survives a power loss; the default may lose the last ones. Every block has a checksum that is compared when it is read. | `db_stress` under random options, killed at random and at points in the code, unsynced data dropped, errors injected; what is found must be a prefix of what was acknowledged. |
| LMDB | Pages are never written in place, two meta pages take turns: no log and no recovery; commits survive a power loss unless syncs are turned off. No checksums. | Small programs beside the library; studied by others (ALICE, OSDI 2014). |
| this | Above; every byte under a CRC32C that knows its file and place, hash trees over files, a chain of roots. | This page: each call of the disk, each byte of the files, each sync and each check taken away. |

Theirs are used by millions and have met more disks than any page lists; ours has met those of its tests.

## The tests that others fail

"""

# T1 to T15: failures of stores of this kind, each with the tests that show ours does not have it
TESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "T1": ("a killed writer loses at most what was not synced", ("test_crash.py::test_power_loss_at_every_call_and_in_recovery", "test_concurrency.py::test_two_writers_and_a_killed_one")),
    "T2": ("a torn record, then more appends: no later record is lost", ("test_wal.py::test_round_trip_of_any_payloads", "test_regressions.py::test_what_a_failed_sync_left_in_memory_is_written_again")),
    "T3": ("any flipped byte is detected and located, the rest stays readable", ("test_bad_bytes.py::test_damage_at_every_byte", "test_mutation.py::test_every_check_of_a_checksum_is_needed", "test_repair.py::test_a_damaged_chunk_costs_the_rows_that_lie_in_it")),
    "T4": ("deletes and duplicates, then a reopen: indexes answer as an exact search", ("test_model.py::test_a_life_of_a_database_agrees_with_dicts", "test_database.py::test_search_agrees_with_brute_force_everywhere")),
    "T5": ("a key written k times is read at flat cost", ("test_others_fail.py::test_a_key_written_often_is_read_at_flat_cost", "test_history.py::test_a_reader_of_now_opens_no_older_versions")),
    "T6": ("rows inserted after an index was built are found at once", ("test_create_index.py::test_segments_are_made_used_kept_and_dropped",)),
    "T7": ("one writer and readers in other processes; a second writer gets a clear error", ("test_concurrency.py::test_readers_in_other_processes_while_files_come_and_go", "test_concurrency.py::test_two_writers_and_a_killed_one")),
    "T8": ("the same seed gives the same index and results, whatever the threads", ("test_indexes_conformance.py",)),
    "T9": ("arrays keep dtype, shape and byte order", ("test_tensors.py::test_exact_round_trip",)),
    "T10": ("closed and reopened in another process, rows and metadata are intact", ("test_versions.py::test_pickled_handles",)),
    "T11": ("data loaders with fork and spawn", ("test_concurrency.py::test_handles_in_workers_of_a_data_loader",)),
    "T12": ("numbers on a screen are computed from the store (there is no studio; notebooks show tables)", ("test_notebook.py::test_html",)),
    "T13": ("examples of the documentation are run", ("test_docs.py",)),
    "T14": ("building HNSW is sub-quadratic: `papers/build_cost` has the curve, its claim the exponent", ("test_papers.py::test_an_artifact_is_whole_and_its_verdicts_are_those_of_its_record", "test_papers.py::test_small_runs_confirm_the_claims")),
    "T15": ("a published recall curve of GWI (docs/indexes.md) with a floor that is checked", ("test_others_fail.py::test_the_published_recall_of_gwi_is_reached",)),
}


def suites(thin: int) -> list[Callable[[], Row]]:
    """Each makes one row, (fault, where, tried, what came of it). O(20 min / thin) together."""
    refused = [
        ("write", errno.ENOSPC, 24), ("write", errno.EIO, 26), ("sync", errno.EIO, 4), ("create", errno.EMFILE, 2), ("rename", errno.EIO, 1),
        ("link", errno.EMLINK, 1), ("unlink", errno.EROFS, 2), ("sync_dir", errno.EIO, 2), ("truncate", errno.EIO, 1), ("open", errno.EMFILE, 2), ("read", errno.EIO, 2),
    ]  # fmt: skip
    made: list[Callable[[], Row]] = [partial(_power, thin)]
    made += [partial(_power_by_mode, sync, thin) for sync in ("every", "none", "buffered(ms=5)")]
    made += [partial(_refused, op, code, every * max(1, thin // 2) if every > 1 else 1) for op, code, every in refused]
    made += [partial(_damaged, fault, 5 * thin if fault in ("flip", "cut", "zeros") else 1) for fault in damage.FAULTS]
    made.append(partial(_damaged_after_a_kill, thin))
    if thin <= 10:
        made += [_without_syncs, partial(_without_checks, thin)]
    return [*made, partial(_threads, max(2, 40 // thin))]


def _power(thin: int) -> Row:
    crashes = enumerate_crashes(every=2 * thin, recovery_every=60, stop_at=1000)
    told = f"{len(crashes.wrong)} wrong; {crashes.checked:,} different states opened and checked"
    return "power loss", f"every {_nth(2 * thin)} of {crashes.calls:,} disk calls, and in recoveries", crashes.left, told


def _power_by_mode(sync: str, thin: int) -> Row:
    made = enumerate_crashes(config=workload.CONFIG.with_set(f"wal.sync={sync}"), every=16 * thin, prefix=sync != "every", stop_at=1000)
    return f"power loss, `wal.sync={sync}`", "a prefix of the commits" if sync != "every" else "every commit", made.left, f"{len(made.wrong)} wrong"


def _refused(op: str, code: int, every: int) -> Row:
    pair = [enumerate_errors(op, code, every=every, lasting=lasting, stop_at=1000) for lasting in (False, True)]
    return f"{errno.errorcode[code]} of {op}", "once, and from there on", sum(p.calls for p in pair), f"{sum(len(p.wrong) for p in pair)} wrong"


def _damaged(fault: str, every: int) -> Row:
    found = damage.try_damages(every, faults=(fault,), stop_at=1000)
    kinds = ", ".join(sorted({kind for kind, _ in [*found.right, *found.said]}))
    told = f"{len(found.wrong)} wrong; {sum(found.said.values()):,} told, {sum(found.right.values()):,} answered rightly"
    return f"bytes: {fault}", kinds, found.tried, told


def _damaged_after_a_kill(thin: int) -> Row:
    killed = damage.try_damages(20 * thin, closed=False, stop_at=1000)
    return "bytes after a kill", "all of these", killed.tried, f"{len(killed.wrong)} wrong"


def _without_syncs() -> Row:
    sites = [site for site in mutation.sync_sites() if site[1:] not in mutation.SPARE_SYNCS]
    missed = [site for site in sites if not mutation.misses_sync(site)]
    return "a sync left out", "each place that asks for one, until the suite notices", len(sites), _noticed(missed)


def _without_checks(thin: int) -> Row:
    met = mutation.meetings(23 * thin)
    checks = [check for check in met if check not in mutation.SPARE_CHECKS]
    return "a check left out", "each comparison of a checksum, hash or root", len(checks), _noticed([c for c in checks if not mutation.misses_check(c, met[c])])


def _noticed(missed: Sequence[object]) -> str:
    return f"{len(missed)} wrong: the suite noticed the others" + "".join(f"; not {m}" for m in missed)


def _threads(seeds: int) -> Row:
    histories = [run_history(seed) for seed in range(seeds)]
    wrong = sum(len(history.check()) for history in histories)
    where = "transactions, snapshots and searches beside flushes and merges"
    return "threads", where, sum(len(history.done) for history in histories), f"{wrong} violations of snapshot isolation"


def _run(suite: Callable[[], Row]) -> tuple[Row, float]:
    """A suite's row and the processor time that it took."""
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return suite(), time.process_time() - begin


def _nth(n: int) -> str:
    return "one" if n == 1 else f"{n}th"


def write(path: Path, thin: int, say: Callable[[str], object] = print) -> list[Row]:
    """Run everything, as many suites at once as there are cores, and write the page; answers its rows."""
    made, took = [], 0.0
    lines = ["| fault | where | tried | outcome |", "|---|---|---|---|"]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for row, seconds in pool.map(_run, suites(thin)):
            made.append(row)
            took += seconds
            lines.append(f"| {row[0]} | {row[1]} | {row[2]:,} | {row[3]} |")
            say(f"{took:6.0f} s  {row[0]}: {row[2]:,} tried, {row[3]}")
    lines.append(f"\n{sum(r[2] for r in made):,} faults in {took:,.0f} s of processor time, thinned {thin}-fold.")
    shown = ["| | what | tests |", "|---|---|---|"]
    for name, (what, tests) in TESTS.items():
        shown.append(f"| {name} | {what} | {', '.join(f'`{t}`' for t in tests)} |")
    path.write_text(HEAD + "\n".join(lines) + "\n" + TAIL + "\n".join(shown) + "\n", encoding="utf-8")
    return made


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reliability.md"), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
