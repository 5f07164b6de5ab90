"""A suite that notices nothing tests nothing: every sync and every checksum is taken away once."""

from __future__ import annotations

import importlib

import pytest

from lsmtensor.testing import mutation

MODULES = ["wal.format", "wal.reader", "lsm.manifest", "sstable.reader", "indexes.container", "lsm.recover", "lsm.segments"]


def test_a_sync_that_is_not_done_is_noticed():
    assert "step" in mutation.misses_sync(("sync", "wal", "_lead"), every=5)


@pytest.mark.slow
def test_a_checksum_that_is_not_compared_is_noticed():
    module = importlib.import_module("lsmtensor.wal.format")
    assert ("payload_of", 0) in mutation.checks_of(module)
    assert mutation.misses_check(module, "payload_of", 0, every=31)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_sync_is_needed_by_the_suite():
    sites = mutation.sync_sites()
    assert len(sites) > 10
    missed = [site for site in sites if site not in mutation.SPARE and not mutation.misses_sync(site)]
    assert not missed


@pytest.mark.slow
def test_every_checksum_is_found_and_can_be_taken_away():
    found = [(name, check) for name in MODULES for check in mutation.checks_of(importlib.import_module(f"lsmtensor.{name}"))]
    assert len(found) > 12
    for name, (function, number) in found:
        with mutation.without_check(importlib.import_module(f"lsmtensor.{name}"), function, number) as text:
            assert text
