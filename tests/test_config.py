"""A configuration goes through text and dicts unchanged, hashes stably, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmtensor.config import CompactionConfig, RunConfig, WalConfig
from lsmtensor.errors import InvalidArgumentError, UnknownNameError

configs = st.builds(
    RunConfig,
    kernel=st.none() | st.sampled_from(["numpy", "cython"]),
    threads=st.integers(0, 64),
    background=st.booleans(),
    wal=st.builds(WalConfig, sync=st.sampled_from(["group", "interval(ms=5)", "none"]), segment_bytes=st.integers(1, 1 << 40)),
    compaction=st.builds(CompactionConfig, size_ratio=st.floats(1, 100)),
)


@given(configs)
def test_both_ways(config):
    for again in (RunConfig.from_dict(config.to_dict()), RunConfig.from_toml(config.to_toml())):
        assert again == config and again.hash() == config.hash()


def test_hash_is_the_same_in_another_process_and_tells_choices_apart():
    code = "from lsmtensor.config import RunConfig; print(RunConfig(seed=3).hash())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == RunConfig(seed=3).hash() != RunConfig(seed=4).hash()
    assert RunConfig(compaction=CompactionConfig(size_ratio=4)).hash() == RunConfig().hash()


def test_with_set():
    config = RunConfig().with_set("sstable.filter=none", "threads=2", "background=false", "wal.sync=interval(ms=5)", "kernel=numba")
    assert (config.sstable.filter, config.threads, config.background, config.wal.sync, config.kernel) == (
        "none", 2, False, "interval(ms=5)", "numba",
    )  # fmt: skip
    assert config.with_set("kernel=null").kernel is None


@pytest.mark.parametrize("setting", ["sstable.filtre=none", "sstabel.filter=none", "thread=2", "wal=3", "wal.sync.x=1"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(UnknownNameError, match="no setting"):
        RunConfig().with_set(setting)


@pytest.mark.parametrize("setting", ["threads=two", "threads=1.5", "background=1", "threads=-1", "threads=true", "threads", "wal.sync=3"])
def test_wrong_values_are_refused(setting):
    with pytest.raises(InvalidArgumentError):
        RunConfig().with_set(setting)


@pytest.mark.parametrize("values", [{"threads": "4"}, {"wal": 3}, {"compaction": {"size_ratio": float("nan")}}, {"seed": None}])
def test_wrong_dicts_are_refused(values):
    with pytest.raises(InvalidArgumentError, match="setting"):
        RunConfig.from_dict(values)


def test_constructors_check_too():
    with pytest.raises(InvalidArgumentError, match="threads"):
        RunConfig(threads="4")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="wal"):
        RunConfig(wal={"sync": "none"})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="TOML"):
        RunConfig.from_toml("threads = = 2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().threads = 3  # type: ignore[misc]
