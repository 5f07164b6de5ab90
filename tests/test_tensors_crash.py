"""Power loss at every call while arrays are written: a commit of arrays is wholly there or wholly absent, and every byte is right."""

from __future__ import annotations

import errno
import gc

import numpy as np
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import FaultyEnv, MemoryEnv, SimulatedCrashError

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = lt.RunConfig(background=False, direct_commit_bytes=3000).with_set("memtable.limit_bytes=6000", "sstable.chunk_bytes=4096")
FIRST = np.arange(1200, dtype=np.float32).reshape(30, 40)
NEAR = np.where(np.arange(1200).reshape(30, 40) % 97 == 0, 7, FIRST).astype(np.float32)


def steps():
    """(what is done, what the arrays are after it): large and small ones in one commit, slices, xor, append, deletion, a failed slab."""
    xored = {"codec": "xor+shuffle+zstd", "chunks": (10, 40)}
    return [
        (lambda db: db.tensors.update({"big": FIRST, "small": FIRST[0]}), {"big": FIRST, "small": FIRST[0]}),
        (lambda db: db.tensors.create("x", FIRST.shape, "float32", data=iter([FIRST[:7], FIRST[7:]]), **xored), {"x": FIRST}),
        (lambda db: db.tensors.update({"x": NEAR, "small": NEAR[5], "big": NEAR}), {"x": NEAR, "small": NEAR[5], "big": NEAR}),
        (lambda db: db.tensors["big"].__setitem__((slice(3, 9), 0), -1), {"big": sliced(NEAR)}),
        (lambda db: db.tensors["x"].append(FIRST[:9]), {"x": np.concatenate([NEAR, FIRST[:9]])}),
        (lambda db: db.tensors.__delitem__("small"), {"small": None}),
    ]


def sliced(array):
    made = array.copy()
    made[3:9, 0] = -1
    return made


def workload(env, done):
    db = lt.open("db", env=env, config=CONFIG)
    for act, _ in steps():
        act(db)
        done.append(1)
    db.flush()
    db.compact()
    db.close()


def model(count):
    arrays = {}
    for _, after in steps()[:count]:
        arrays.update(after)
    return {n: a for n, a in arrays.items() if a is not None}


def same(db, arrays):
    return list(db.tensors) == sorted(arrays) and all(np.array_equal(db.tensors[n].numpy(), a) for n, a in arrays.items())


def check(env, done):
    with lt.open("db", env=env, config=CONFIG) as db:
        assert any(same(db, model(count)) for count in (len(done), len(done) + 1)), f"after {len(done)} commits"
        db.verify()
        db.tensors["after"] = FIRST
        np.testing.assert_array_equal(db.tensors["after"].numpy(), FIRST)


SOME_OR_ALL = [pytest.param(9, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("every", SOME_OR_ALL)
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_power_loss_at_every_call(keep, every):
    env = FaultyEnv()
    workload(env, [])
    calls = sum(op in FaultyEnv.MUTATING for op, _ in env.calls)
    for at in range(1, 1 + calls, every):
        env, done = FaultyEnv(), []
        env.crash_at(at)
        try:
            workload(env, done)
        except SimulatedCrashError:
            pass
        else:
            # files that merges replaced are unlinked when the last view of them is collected, now or later
            assert calls - at < 12 and len(done) == len(steps())
        check(env.crash(seed=at, keep=keep), done)


@pytest.mark.parametrize("every", SOME_OR_ALL)
@pytest.mark.parametrize("op", ["write", "sync"])
def test_an_error_at_every_call_loses_nothing(op, every):
    for at in range(1, 1000, every):
        env, done = FaultyEnv(), []
        env.fail(op, at, errno.ENOSPC if op == "write" else errno.EIO)
        try:
            workload(env, done)
        except lt.LsmTensorError:
            env.heal()
            env.locks.clear()
            check(env, done)
        else:
            break
    assert at > 5


def test_flipped_bytes_of_arrays_are_never_served():
    env = MemoryEnv()
    workload(env, [])
    gc.collect()  # files that merges replaced go with the last view of them
    names = [n for n in env.files if "/sst/" in n]
    assert names
    for name in names:
        for at in range(0, len(env.files[name].data), max(1, len(env.files[name].data) // 40)):
            copy = env.crash(keep=1)
            copy.files[name].data[at] ^= 0x10
            try:
                with lt.open("db", env=copy, config=CONFIG) as db:
                    assert same(db, model(len(steps()))), f"{name} at {at}"
            except (lt.CorruptionError, lt.FormatVersionError):
                continue
