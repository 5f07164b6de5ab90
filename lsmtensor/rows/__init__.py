"""Single rows without Arrow: packed into a log record, kept in memory, found by key. Compiled where a compiler was at hand.

`plain` says what everything means and is the twin of the compiled module; both run under the same tests. `of_schema` makes the
format of a schema, `lanes` shows the compiled reader where the values of an Arrow batch lie.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

from ..errors import UnavailableError
from . import plain


@lru_cache
def kit(kernel: str | None = None) -> Any:
    """The module to use: ``cython``, or ``plain`` for any other name; unnamed, the compiled one where it is there."""
    if kernel not in (None, "cython"):
        return plain
    try:
        return importlib.import_module("._rows", __name__)
    except ImportError as why:
        if kernel is None:
            return plain
        raise UnavailableError(f"storage kernel 'cython' was not built ({why}); install a C compiler and reinstall, or use 'numpy'") from why
