"""Checking an index that a table is to have, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import indexes
from ..dtypes import TensorType
from ..errors import DuplicateKeyError, InvalidArgumentError
from ..registry import Spec
from ..schema import Schema


def check_index(schema: Schema, column: str, spec: Any, *, name: str | None = None, taken: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(index name, layout entry) of an index spec for a column; the spec is tried on an empty index."""
    kind = schema.field(column).type
    if not isinstance(kind, TensorType) or len(kind.shape) != 1 or kind.dtype not in ("float16", "float32", "float64"):
        raise InvalidArgumentError(f"column {column!r} is a {kind}; vector indexes are for one-dimensional float tensors")
    parsed = Spec.of(spec)
    indexes.create(parsed, dim=kind.shape[0])
    chosen = name or f"{column}_{parsed.name}"
    if chosen in taken:
        raise DuplicateKeyError(f"an index named {chosen!r} is there already; give another name=")
    return chosen, {"column": column, "spec": str(parsed)}
