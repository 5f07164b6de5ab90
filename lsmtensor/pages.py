"""Pages of a file, each with a sum of its own, so that one of them can be read and checked alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from .env.checksum import crc32c
from .errors import CorruptionError

PAGE, BODY = 4096, 4092


def seal(pages: np.ndarray, first: int = 0) -> None:
    """Give pages uint8 (n, 4096), the file's from number ``first`` on, their sums."""
    for number, page in enumerate(pages, first):
        page[BODY:] = np.frombuffer(crc32c(page[:BODY], number).to_bytes(4, "little"), np.uint8)


def check(pages: np.ndarray, numbers: Any, where: str = "") -> None:
    """`CorruptionError` for a page that is not what was written at its number."""
    sums = np.ascontiguousarray(pages[:, BODY:]).view("<u4")[:, 0].tolist()
    for number, page, crc in zip(numbers, pages, sums, strict=True):
        if crc32c(page[:BODY], number) != crc:
            raise CorruptionError(f"page {number} of the rows is damaged", where, number * PAGE)
