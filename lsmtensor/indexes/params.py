"""Checks of whole numbers that users give: settings of an index and parameters of a search."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError

SEEDS = (0, 2**63)


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is an integer, numpy's too but no bool, of ``least`` or more."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def settled(owner: str, **given: tuple[Any, int, int]) -> list[int]:
    """Settings of an index, each (value, lowest, highest), as int; `InvalidArgumentError` for the first that is not within."""
    for name, (value, low, high) in given.items():
        if not is_whole(value, low) or value > high:
            raise InvalidArgumentError(f"{owner}: {name}={value!r}; give a whole number from {low} to {high}")
    return [int(value) for value, _, _ in given.values()]


def check_counts(**given: Any) -> None:
    """`InvalidArgumentError` for the first of some search parameters that is neither None nor a whole number of 1 or more."""
    for name, value in given.items():
        if value is not None and not is_whole(value, 1):
            raise InvalidArgumentError(f"{name}={value!r}; give a whole number of 1 or more")
