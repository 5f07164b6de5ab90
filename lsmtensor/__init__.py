"""lsmtensor: a tensor database in a folder, and a laboratory for building one.

Names are loaded when first used: importing this package imports neither numpy nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    ClosedError,
    ConflictError,
    CorruptionError,
    DeviceMemoryError,
    DuplicateKeyError,
    FormatVersionError,
    InvalidArgumentError,
    KeyNotFoundError,
    LockedError,
    LsmTensorError,
    MemoryBudgetError,
    NotADatabaseError,
    ReadOnlyError,
    SchemaError,
    StorageError,
    TableNotFoundError,
    UnavailableError,
    UnknownNameError,
    VersionExpiredError,
)

if TYPE_CHECKING:
    from . import codecs, indexes, kernels, quant
    from .config import RunConfig
    from .copies import backups, repair, restore
    from .database import Database, open
    from .dtypes import json, ragged, sparse, tensor
    from .lsm.integrity import verify_proof
    from .registry import register
    from .schema import Column, Schema
    from .snapshot import Snapshot
    from .tensors import NamedTensor, optimal_chunks
    from .transaction import Transaction

__version__ = "0.1.0"

_HOMES = {
    "Column": "schema",
    "Database": "database",
    "RunConfig": "config",
    "Schema": "schema",
    "Snapshot": "snapshot",
    "NamedTensor": "tensors",
    "Transaction": "transaction",
    "optimal_chunks": "tensors",
    "backups": "copies",
    "json": "dtypes",
    "open": "database",
    "ragged": "dtypes",
    "register": "registry",
    "repair": "copies",
    "restore": "copies",
    "sparse": "dtypes",
    "tensor": "dtypes",
    "verify_proof": "lsm.integrity",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name in ("codecs", "indexes", "kernels", "quant"):
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ClosedError", "Column", "ConflictError", "CorruptionError", "Database", "DeviceMemoryError", "DuplicateKeyError", "FormatVersionError",
    "InvalidArgumentError", "KeyNotFoundError", "LockedError", "LsmTensorError", "MemoryBudgetError", "NamedTensor", "NotADatabaseError", "ReadOnlyError",
    "RunConfig", "Schema", "SchemaError", "Snapshot", "StorageError", "TableNotFoundError", "Transaction", "UnavailableError",
    "UnknownNameError", "VersionExpiredError", "backups", "codecs", "indexes", "json", "kernels", "open", "optimal_chunks", "quant", "ragged", "register", "repair", "restore", "sparse",
    "tensor", "verify_proof",
]  # fmt: skip
