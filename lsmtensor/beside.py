"""What is remembered beside an object that does not change, such as a version of a table or the rows of a file, and goes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def beside(holder: Any, what: str, make: Callable[[], T]) -> T:
    """What ``make`` gave when this was first asked of the object under a name; of two threads that ask at once, what the first gave."""
    kept = holder.__dict__
    found: T | None = kept.get(what)
    return kept.setdefault(what, make()) if found is None else found  # type: ignore[no-any-return]
