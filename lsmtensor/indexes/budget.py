"""How much memory the build of an index may take: what does not fit is refused before it begins, and samples and blocks shrink to fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError, MemoryBudgetError
from .params import is_whole

if TYPE_CHECKING:
    from .base import VectorIndex

# a row's id, mark and place while it is checked, ordered and dealt out
BESIDE = 64
# of a budget a quarter is for samples and blocks, each of half of that at most
SHARE = 8


def settled_budget(budget: int | None) -> int | None:
    """`InvalidArgumentError` unless it is a number of bytes or None."""
    if budget is not None and not is_whole(budget, 1):
        raise InvalidArgumentError(f"budget={budget!r}; give bytes, 1 or more, or None")
    return None if budget is None else int(budget)


def build_bytes(index: VectorIndex, rows: int, borrowed: bool = False) -> int:
    """About the most that adding rows up to so many takes at a time, the index itself counted, and its vectors unless they are borrowed."""
    kept, building = index._row_bytes()
    kept += 0 if borrowed else 4 * index.dim
    # what grows is there twice for a while, and a half more
    old = len(index._vectors)
    return (rows * (kept + building + BESIDE) + old * kept * 3 // 2) * SHARE // (SHARE - 2)


def check_budget(index: VectorIndex, rows: int, borrowed: bool = False) -> None:
    """`MemoryBudgetError` where so many rows more would not fit."""
    stop = len(index._vectors) + rows
    if index.budget is not None and (needed := build_bytes(index, stop, borrowed)) > index.budget:
        raise MemoryBudgetError(
            f"{index.spec} of {stop:,} rows of {index.dim} takes about {needed:,} bytes while it is built, its budget is {index.budget:,}; "
            "give more, fewer rows to an index, or one that keeps less a row"
        )


def at_once(budget: int | None, most: int, row_bytes: int, least: int = 1) -> int:
    """How many rows, of ``most``, are looked at together that take so many bytes each."""
    return most if budget is None else min(most, max(least, budget // SHARE // row_bytes))
