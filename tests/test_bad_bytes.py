"""Bad bytes in every file of a small database: the right answer or an error that names the file, never anything else."""

from __future__ import annotations

import pytest

from lsmtensor.testing.damage import FAULTS, try_damages

SOME_OR_ALL = [pytest.param(97, id="some"), pytest.param(1, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("every", SOME_OR_ALL)
@pytest.mark.parametrize("fault", ["flip", "cut", "zeros"])
def test_damage_at_every_byte(fault, every):
    found = try_damages(every, faults=(fault,))
    assert not found.wrong, found.wrong[0]
    assert {kind for kind, _ in [*found.right, *found.said]} >= {"CURRENT", "MANIFEST", "wal", "arrow", "hnsw", "ivfflat", "diskann"}
    assert all(found.said[kind, fault] for kind in ("CURRENT", "MANIFEST", "wal", "arrow")) and found.slowest < 60


def test_files_that_are_missing_swapped_grown_or_of_another_database():
    found = try_damages(1000, faults=("grown", "deleted", "swapped", "foreign", "spliced"))
    assert not found.wrong, found.wrong[0]
    assert {fault for _, fault in [*found.right, *found.said]} == set(FAULTS) - {"flip", "cut", "zeros"}


@pytest.mark.parametrize("every", [pytest.param(149, id="some"), pytest.param(3, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_database_that_was_not_closed_is_found_as_it_was_at_some_commit(every):
    found = try_damages(every, closed=False)
    assert not found.wrong, found.wrong[0]
    assert found.tried > 100
