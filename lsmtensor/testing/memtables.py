"""What every memtable must do: run each of ``CHECKS`` on a factory, by any test runner.

::

    @pytest.mark.parametrize("check", memtables.CHECKS, ids=lambda c: c.__name__)
    def test_mine(check):
        for key_kind in ("int64", "bytes"):
            check(lambda schema: MyMemtable(key_kind, schema), key_kind)

A check raises AssertionError; the model that it compares with is a list of (key, version, value, is put).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError
from ..memtable.base import Memtable

Factory = Callable[[pa.Schema], Memtable]
Row = tuple[Any, int, int | None, bool]

# a scalar, text, and a tensor column, as tables have them
SCHEMA = pa.schema(
    [
        pa.field("value", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("vector", pa.fixed_shape_tensor(pa.float32(), (3,))),
        pa.field("_seq", pa.uint64(), nullable=False),
        pa.field("_op", pa.uint8(), nullable=False),
    ]
)


def key_array(key_kind: str, numbers: Sequence[int]) -> pa.Array:
    """Keys of either kind whose order is that of the numbers (below 10^6 in size)."""
    if key_kind == "int64":
        return pa.array(numbers, pa.int64())
    return pa.array([b"%07d\x00\xff" % (n + 10**6) for n in numbers], pa.binary())


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """A physical batch; a delete has nulls where a put has values."""
    values = [value for _, _, value, _ in rows]
    storage = pa.array([None if v is None else [v, v + 0.5, -v] for v in values], pa.list_(pa.float32(), 3))
    columns = [
        pa.array(values, pa.int64()),
        pa.array([None if v is None else "v" * (v % 5) for v in values], pa.string()),
        pa.ExtensionArray.from_storage(SCHEMA.field("vector").type, storage),
        pa.array([version for _, version, _, _ in rows], pa.uint64()),
        pa.array([int(is_put) for _, _, _, is_put in rows], pa.uint8()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def add(memtable: Memtable, key_kind: str, rows: Sequence[Row]) -> None:
    memtable.add(batch_of(rows), key_array(key_kind, [key for key, _, _, _ in rows]), rows[0][1])


def random_commits(seed: int, commits: int, largest: int, keys: int) -> list[list[Row]]:
    """Commits of 1 to ``largest`` rows over few keys, so that most are superseded; every fifth row is a delete."""
    luck = np.random.default_rng(seed)
    made: list[list[Row]] = []
    for version in range(1, 2 * commits, 2):
        rows: list[Row] = []
        for _ in range(int(luck.integers(1, largest + 1))):
            is_put = bool(luck.random() > 0.2)
            value = int(luck.integers(0, 10**6)) if is_put else None
            rows.append((int(luck.integers(-keys // 2, keys // 2)), version, value, is_put))
        made.append(rows)
    return made


def _newest(rows: Sequence[Row], snapshot: int) -> dict[int, Row]:
    return {row[0]: row for row in rows if row[1] <= snapshot}


def _compare(memtable: Memtable, key_kind: str, rows: list[Row], snapshots: Sequence[int]) -> None:
    asked = [*range(-60, 60), 999_999, 3, 3]
    for snapshot in snapshots:
        seen = _newest(rows, snapshot)
        found = memtable.get(key_array(key_kind, asked), snapshot)
        assert found.dtype == np.int64 and found.shape == (len(asked),)
        assert [key for key, row in zip(asked, found, strict=True) if row >= 0] == [k for k in asked if k in seen]
        present = found[found >= 0]
        taken = memtable.take(present, ["value", "_seq", "_op"])
        got = list(zip(*(c.to_pylist() for c in taken.columns), strict=True))
        wanted = [(seen[k][2], seen[k][1], int(seen[k][3])) for k in asked if k in seen]
        assert got == wanted, f"snapshot {snapshot}: {got} is not {wanted}"


def check_empty(make: Factory, key_kind: str) -> None:
    memtable = make(SCHEMA)
    assert (memtable.rows, memtable.nbytes, memtable.min_seq, memtable.max_seq) == (0, 0, 0, 0)
    assert memtable.get(key_array(key_kind, [1, 2]), 10).tolist() == [-1, -1]
    assert memtable.get(key_array(key_kind, []), 10).tolist() == []
    table, keys = memtable.sorted_run()
    assert table.schema == SCHEMA and table.num_rows == 0 and len(keys) == 0
    assert memtable.table().schema == SCHEMA and len(memtable.keys()) == 0
    assert memtable.take(np.empty(0, np.int64), ["value"]).column_names == ["value"]
    memtable.add(batch_of([]), key_array(key_kind, []), 5)
    assert memtable.rows == 0 and memtable.max_seq == 0


def check_rows_by_number(make: Factory, key_kind: str) -> None:
    """Row numbers are the order of adding, and never change."""
    memtable = make(SCHEMA)
    rows: list[Row] = []
    sizes = [1] * 40 + [5, 1, 300, 1, 1, 5000] + [2] * 40
    for version, size in enumerate(sizes, 1):
        commit: list[Row] = [(len(rows) + i, version, len(rows) + i, True) for i in range(size)]
        add(memtable, key_kind, commit)
        rows += commit
        assert memtable.rows == len(rows)
    assert (memtable.min_seq, memtable.max_seq) == (1, len(sizes)) and memtable.nbytes > 20 * len(rows)
    numbers = np.arange(len(rows))
    assert memtable.table().column("value").to_pylist() == numbers.tolist()
    assert memtable.table().schema == SCHEMA
    assert memtable.keys().equals(key_array(key_kind, numbers.tolist()))
    np.random.default_rng(1).shuffle(numbers)
    taken = memtable.take(np.concatenate([numbers, numbers[:3]]))
    assert taken.schema == SCHEMA
    assert taken.slice(0, len(numbers)).to_pydict() == batch_of([rows[n] for n in numbers]).to_pydict()
    assert memtable.take(np.array([2])).column("value").to_pylist() == [2]


def check_newest_of_each_snapshot(make: Factory, key_kind: str) -> None:
    for seed in range(4):
        memtable = make(SCHEMA)
        rows: list[Row] = []
        for commit in random_commits(seed, 60, 3 if seed % 2 else 40, 100):
            add(memtable, key_kind, commit)
            rows += commit
            if seed < 2 and commit[0][1] % 5 == 0:
                # asked while it grows: an index built early must learn what came later
                _compare(memtable, key_kind, rows, [commit[0][1], commit[0][1] - 4])
        _compare(memtable, key_kind, rows, [0, 1, 2, 33, 60, 118, 119, 2**63])
        _compare(memtable, key_kind, rows, [40, 119])


def check_many_versions_of_one_key(make: Factory, key_kind: str) -> None:
    memtable = make(SCHEMA)
    rows: list[Row] = [(7, version, version, True) for version in range(1, 400)]
    for row in rows:
        add(memtable, key_kind, [row])
    for snapshot in (400, 399, 200, 1, 0, 57):
        _compare(memtable, key_kind, rows, [snapshot])


def check_sorted_run(make: Factory, key_kind: str) -> None:
    """By key ascending, then version descending; of a key's rows in one commit the last."""
    for seed in range(4):
        memtable = make(SCHEMA)
        rows: list[Row] = []
        for commit in random_commits(seed, 50, 12, 40):
            add(memtable, key_kind, commit)
            rows += commit
        for snapshot in (None, 0, 31, 99):
            seen = {(r[0], -r[1]): r for r in rows if snapshot is None or r[1] <= snapshot}
            wanted = [seen[place] for place in sorted(seen)]
            table, keys = memtable.sorted_run(snapshot)
            assert table.schema == SCHEMA
            assert keys.to_pylist() == key_array(key_kind, [r[0] for r in wanted]).to_pylist()
            assert table.to_pydict() == batch_of(wanted).to_pydict()


def check_extreme_keys(make: Factory, key_kind: str) -> None:
    if key_kind == "int64":
        keys = pa.array([2**63 - 1, 0, -(2**63), -1, 1], pa.int64())
    else:
        keys = pa.array([b"\xff" * 40, b"a", b"", b"\x00", b"a\x00"], pa.binary())
    memtable = make(SCHEMA)
    memtable.add(batch_of([(None, 1, i, True) for i in range(5)]), keys, 1)
    assert memtable.get(keys, 1).tolist() == [0, 1, 2, 3, 4]
    _, ordered = memtable.sorted_run()
    assert ordered.to_pylist() == sorted(keys.to_pylist())


def check_wrong_input_is_refused(make: Factory, key_kind: str) -> None:
    """And nothing of it is kept."""
    memtable = make(SCHEMA)
    good, keys = batch_of([(1, 5, 1, True)]), key_array(key_kind, [1])
    memtable.add(good, keys, 5)
    wrong = [
        (good, keys, 4),
        (good, key_array(key_kind, [1, 2]), 6),
        (good.select(["value", "_seq", "_op"]), keys, 6),
        (good, pa.array(["1"]), 6),
    ]
    for arguments in wrong:
        try:
            memtable.add(*arguments)
        except InvalidArgumentError:
            assert memtable.rows == 1 and memtable.get(key_array(key_kind, [1, 2]), 9).tolist() == [0, -1]
        else:
            raise AssertionError(f"{arguments} was taken")


def check_a_view_does_not_change(make: Factory, key_kind: str) -> None:
    memtable = make(SCHEMA)
    for version in range(1, 40):
        add(memtable, key_kind, [(version, version, version, True)])
    view = memtable.view()
    table, keys = view.table(), view.keys()
    for version in range(40, 200):
        add(memtable, key_kind, [(version, version, version, True)])
    assert view.rows == table.num_rows == len(keys) == len(view.keys()) == 39 and view.max_seq == 39
    assert view.table().equals(table) and memtable.rows == 199


def check_readers_beside_the_writer(make: Factory, key_kind: str) -> None:
    """Commit v puts value v under three keys: whoever looks at any moment sees one v, and no older one than before."""
    memtable, trouble, done = make(SCHEMA), [], threading.Event()
    trio = key_array(key_kind, [5, -5, 50])

    def read() -> None:
        last = 0
        while not done.is_set():
            snapshot = memtable.max_seq
            rows = memtable.get(trio, snapshot)
            seen = set(memtable.take(rows[rows >= 0], ["value"]).column(0).to_pylist()) or {0}
            table, keys = memtable.sorted_run(snapshot)
            if seen != {snapshot} or snapshot < last or table.num_rows != len(keys) or len(keys) != 3 * snapshot:
                trouble.append((seen, snapshot, last, table.num_rows, len(keys)))
                return
            last = snapshot

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for version in range(1, 250):
            add(memtable, key_kind, [(key, version, version, True) for key in (5, -5, 50)])
    finally:
        done.set()
        for reader in readers:
            reader.join(30)
    assert not trouble, f"(values, snapshot, snapshot before, rows, keys): {trouble}"


CHECKS: tuple[Callable[[Factory, str], None], ...] = (
    check_empty,
    check_rows_by_number,
    check_newest_of_each_snapshot,
    check_many_versions_of_one_key,
    check_sorted_run,
    check_extreme_keys,
    check_wrong_input_is_refused,
    check_a_view_does_not_change,
    check_readers_beside_the_writer,
)
