"""What the tree keeps of a table file beside its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TableMeta:
    """Keys are int or bytes; ``root`` is the hex root of the file's hash tree, empty without one; ``blobs`` says of each blob file that rows
    refer to how many values and bytes of it they do."""

    number: int
    size: int
    rows: int
    tombstones: int
    min_key: int | bytes
    max_key: int | bytes
    min_seq: int
    max_seq: int
    root: str
    blobs: tuple[tuple[int, int, int], ...] = ()
