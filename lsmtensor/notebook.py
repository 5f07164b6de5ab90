"""HTML of tables for notebooks: plain, escaped, without scripts or styles from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

CELL = 60  # letters shown of a value


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A caption and a table; every value is text, cut after `CELL` letters."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(short(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def short(value: Any) -> str:
    """A value on one line: numbers of an array from its corner, long text cut."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        corner = value[tuple(slice(0, 4) for _ in value.shape)]
        text = f"{value.dtype} {tuple(value.shape)} {' '.join(str(corner).split())}"
    else:
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
