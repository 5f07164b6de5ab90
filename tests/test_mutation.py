"""A suite that notices nothing tests nothing: every sync and every check of a checksum is taken away once."""

from __future__ import annotations

import importlib

import pytest

from lsmtensor.testing import damage, mutation


def test_a_sync_that_is_not_done_is_noticed():
    sites = mutation.sync_sites()
    assert len(sites) > 15
    log = next(site for site in sites if site[:3] == ("sync", "wal", "_lead"))
    assert "step 0" in mutation.misses_sync(log)


def test_a_check_is_taken_away_and_comes_back():
    check = ("sstable.checks", "Checks._sum", 0)
    assert mutation.checks_of(importlib.import_module("lsmtensor.sstable.checks")) == [check]
    met = mutation.meetings(397, scenes=mutation.SCENES[:1], faults=("flip",))
    assert met[check].often and mutation.misses_check(check, met[check])
    with mutation.edited(["sstable.checks"], lambda this, test: test) as texts:
        assert texts[check] == "len(wrong)"
    assert all(damage.read(copy.crash(keep=1), right, verify=True) == outcome for _, outcome, copy, right in met[check].some)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_sync_is_needed():
    missed = [site for site in mutation.sync_sites() if site[1:] not in mutation.SPARE_SYNCS and not mutation.misses_sync(site)]
    assert not missed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_check_of_a_checksum_is_needed():
    met = mutation.meetings(23)
    assert len(met) > 15
    missed = [check for check in met if check not in mutation.SPARE_CHECKS and not mutation.misses_check(check, met[check])]
    assert not missed
