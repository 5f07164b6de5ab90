"""The last few filters asked, with what was worked out for each."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """A small cache by Arrow expression. Compared as expressions: their text leaves the middle of a long list out."""

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._kept: tuple[tuple[Any, T], ...] = ()  # replaced, never changed: safe beside other threads

    def get(self, where: Any) -> T | None:
        for known, value in self._kept:
            if known is where or known.equals(where):
                return value
        return None

    def put(self, where: Any, value: T) -> T:
        self._kept = ((where, value), *self._kept[: self._size - 1])
        return value
