"""Key filters: no false negatives ever, and as few false positives as the theory says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.sstable import filters


@pytest.mark.parametrize("spec, expected", [("bloom(bits=10)", 0.0082), ("bloom(bits=5)", 0.092), ("blocked_bloom(bits=10)", 0.0115)])
def test_false_positive_rates(spec, expected):
    keys = filters.hashes(pa.array(np.arange(50_000)))
    parameters, bits = filters.build(spec, keys)
    assert filters.test(parameters, bits, keys).all()
    other = filters.hashes(pa.array(np.arange(10**6, 10**6 + 200_000)))
    assert filters.test(parameters, bits, other).mean() == pytest.approx(expected, rel=0.25)


@given(st.lists(st.binary(max_size=20), unique=True), st.sampled_from(["bloom(bits=3)", "blocked_bloom(bits=12)"]))
def test_what_is_there_is_found(keys, spec):
    hashes = filters.hashes(pa.array(keys, pa.binary()))
    parameters, bits = filters.build(spec, hashes)
    assert filters.test(parameters, bits, hashes).all()


def test_monkey_gives_upper_levels_more_bits():
    assert filters.for_level("monkey(bits=8)", 0, 10) == "bloom(bits=8.0)"
    assert filters.for_level("monkey(bits=8)", 2, 10) == "bloom(bits=17.59)"  # 4.8 bits a level at T = 10
    assert filters.for_level("bloom(bits=7)", 2, 10) == "bloom(bits=7)"


@pytest.mark.parametrize("spec", ["bloom", "blocked_bloom(bits=12)", "monkey(bits=6)", "none"])
def test_the_engine_finds_every_key(spec):
    config = lt.RunConfig(background=False).with_set(f"sstable.filter={spec}", "compaction.level0_runs=2")
    with lt.open("db", env=MemoryEnv(), config=config) as db:
        table = db.create_table("t", lt.Schema([lt.Column("k", pa.string()), lt.Column("v", pa.int64())], primary_key="k"))
        for i in range(5):
            table.upsert({"k": [f"{j}" for j in range(i, 200, 3)], "v": np.full(len(range(i, 200, 3)), i)})
            db.flush()
        assert all(table.get(f"{j}") is not None for j in range(200)) and table.get("x") is None


def test_filters_are_refused_by_name():
    with pytest.raises(lt.UnknownNameError, match="bloom"):
        filters.build("blom", np.zeros(1, np.uint64))
    with pytest.raises(lt.InvalidArgumentError, match="bits"):
        filters.build("bloom(bits=0)", np.zeros(1, np.uint64))
    with pytest.raises(lt.CorruptionError):
        filters.test({"name": "bloom", "probes": 0}, np.zeros(64, np.uint8), np.zeros(1, np.uint64))
