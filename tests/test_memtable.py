"""Every memtable under the shipped conformance suite, and what is particular to the default one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lsmtensor import memtable as memtables
from lsmtensor.errors import InvalidArgumentError, UnknownNameError
from lsmtensor.memtable.arrow import ArrowMemtable
from lsmtensor.memtable.base import FAN_IN, Memtable
from lsmtensor.testing import memtables as suite


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("key_kind", ["int64", "bytes"])
@pytest.mark.parametrize("kind", memtables.REGISTRY.names())
def test_conformance(kind, key_kind, check):
    check(lambda schema: memtables.create(kind, key_kind, schema), key_kind)


def test_names():
    assert {"arrow", "skiplist"} <= set(memtables.REGISTRY.names())
    assert isinstance(memtables.create("skiplist(seed=3)", "int64", suite.SCHEMA), Memtable)
    with pytest.raises(UnknownNameError, match="did you mean 'skiplist'"):
        memtables.create("skiplst", "int64", suite.SCHEMA)
    with pytest.raises(InvalidArgumentError, match="key kind 'text'; wanted one of int64, bytes"):
        memtables.create("arrow", "text", suite.SCHEMA)


class _Forgetful(ArrowMemtable):
    """Broken on purpose: ignores the snapshot."""

    def _limit(self, view, snapshot):
        return view.rows


def test_the_suite_notices_a_broken_memtable():
    caught = []
    for check in suite.CHECKS:
        try:
            check(lambda schema: _Forgetful("int64", schema), "int64")
        except AssertionError:
            caught.append(check.__name__)
    assert {"check_newest_of_each_snapshot", "check_sorted_run"} <= set(caught)


def test_many_small_commits_leave_few_batches():
    memtable = memtables.create("arrow", "int64", suite.SCHEMA)
    for version in range(1, 3000):
        suite.add(memtable, "int64", [(version, version, version, True)])
    assert len(memtable.view().batches) < 3 * FAN_IN
    assert memtable.table().column("value").to_pylist() == list(range(1, 3000))


def test_a_large_batch_is_kept_as_it_is():
    memtable = memtables.create("arrow", "int64", suite.SCHEMA)
    batch = suite.batch_of([(i, 1, i, True) for i in range(5000)])
    memtable.add(batch, suite.key_array("int64", range(5000)), 1)
    kept = memtable.table().column("value").chunk(0)
    assert kept.buffers()[1].address == batch.column("value").buffers()[1].address


@pytest.mark.parametrize("key_kind", ["int64", "bytes"])
def test_kinds_agree(key_kind):
    kinds = [memtables.create(name, key_kind, suite.SCHEMA) for name in memtables.REGISTRY.names()]
    luck = np.random.default_rng(3)
    for commit in suite.random_commits(9, 80, 30, 500):
        for memtable in kinds:
            suite.add(memtable, key_kind, commit)
        asked = suite.key_array(key_kind, luck.integers(-260, 260, 50).tolist())
        snapshot = int(luck.integers(0, commit[0][1] + 2))
        answers = [memtable.get(asked, snapshot).tolist() for memtable in kinds]
        assert all(answer == answers[0] for answer in answers)
    runs = [memtable.sorted_run(77) for memtable in kinds]
    assert all(t.equals(runs[0][0]) and k.equals(runs[0][1]) for t, k in runs)


def test_ragged_and_struct_columns_survive_joining():
    schema = pa.schema(
        [
            pa.field("ragged", pa.struct([("data", pa.list_(pa.uint8())), ("shape", pa.list_(pa.int32(), 2))])),
            pa.field("_seq", pa.uint64()),
            pa.field("_op", pa.uint8()),
        ]
    )
    memtable = memtables.create("arrow", "int64", schema)
    for version in range(1, 40):
        row = {"data": list(range(version)), "shape": [1, version]}
        batch = pa.record_batch(
            [pa.array([row], schema.field(0).type), pa.array([version], pa.uint64()), pa.array([1], pa.uint8())],
            schema=schema,
        )
        memtable.add(batch, pa.array([-version], pa.int64()), version)
    table, keys = memtable.sorted_run()
    assert keys.to_pylist() == list(range(-39, 0))
    assert [r["shape"] for r in table.column("ragged").to_pylist()] == [[1, n] for n in range(39, 0, -1)]
