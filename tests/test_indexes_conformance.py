"""Every registered index against the shipped suite."""

from __future__ import annotations

import pytest

from lsmtensor import indexes
from lsmtensor.testing import indexes as suite


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", [*indexes.names(), "flat(quant=int8)"])
def test_conformance(name, check):
    check(lambda dim, metric="l2": indexes.create(name, dim=dim, metric=metric))
