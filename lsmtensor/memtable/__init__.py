"""Memtables: what is committed and in the log but in no table file yet. See docs/memtable.md."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..registry import Registry
from .base import Memtable, View

REGISTRY = Registry("memtable", __name__)


def create(kind: Any, key_kind: str, physical: pa.Schema) -> Memtable:
    """An empty memtable of a kind (``"arrow"``, ``"skiplist"``, …) for rows of the physical schema.

    ``key_kind`` is ``"int64"`` or ``"bytes"``. `UnknownNameError` for a kind that is not there.
    """
    memtable: Memtable = REGISTRY.create(kind, key_kind=key_kind, physical=physical)
    return memtable


__all__ = ["REGISTRY", "Memtable", "View", "create"]
