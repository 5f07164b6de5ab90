"""Every error that lsmtensor raises on purpose. Each is also the builtin that a Python reader expects.

Sorted by what the caller does next: fix the call (`SchemaError`, `InvalidArgumentError`, …), retry
(`ConflictError`), open elsewhere (`LockedError`, `ReadOnlyError`), mend the disk (`StorageError`), restore
or repair (`CorruptionError`), upgrade (`FormatVersionError`), install an extra (`UnavailableError`).
"""

from __future__ import annotations

from typing import Any


class LsmTensorError(Exception):
    """The root of all of them."""


class InvalidArgumentError(LsmTensorError, ValueError):
    """An argument that means nothing here; the message says what would."""


class SchemaError(LsmTensorError, ValueError):
    """Rows that do not fit the table: wrong column, dtype, shape, a null or NaN where none may be."""


class DuplicateKeyError(LsmTensorError, ValueError):
    """A key or a name that is there already."""


class _Lookup(LsmTensorError, KeyError):
    def __str__(self) -> str:
        # KeyError would print its message in quotes
        return str(self.args[0]) if self.args else ""


class KeyNotFoundError(_Lookup):
    """No row has this key."""


class TableNotFoundError(_Lookup):
    """No table has this name."""


class UnknownNameError(LsmTensorError, LookupError):
    """A plug-in, parameter or setting that does not exist; the message lists the near ones."""


class UnavailableError(LsmTensorError, ImportError):
    """Something that needs a package that is not installed; the message names the extra."""


class DeviceMemoryError(LsmTensorError, MemoryError):
    """The GPU's memory, or the part of it that may be used, is not enough."""


class MemoryBudgetError(LsmTensorError, MemoryError):
    """What is asked for would take more memory than it was allowed; nothing was begun."""


class LockedError(LsmTensorError, OSError):
    """Another process has the folder open for writing."""


class ClosedError(LsmTensorError, ValueError):
    """The handle was closed."""


class ReadOnlyError(LsmTensorError, PermissionError):
    """A write through a reader, or into a folder that cannot be written."""


class NotADatabaseError(LsmTensorError, ValueError):
    """The folder holds something else, or nothing where something was wanted."""


class ConflictError(LsmTensorError):
    """Another commit changed what this one read or wrote; run the transaction again."""


class VersionExpiredError(LsmTensorError, LookupError):
    """The version is below what retention keeps; the message names the oldest."""


class FormatVersionError(LsmTensorError):
    """The bytes are fine, this code is too old for them."""


class StorageError(LsmTensorError, OSError):
    """A write, sync or read that the operating system refused; ``errno`` is kept."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        LsmTensorError.__init__(self, message)
        self.message, self.errno = message, errno

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.errno)


class CorruptionError(LsmTensorError):
    """Bytes that are not what was written. ``path`` and ``offset`` say where."""

    def __init__(self, message: str, path: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.message, self.path, self.offset = message, path, offset

    def __str__(self) -> str:
        return f"{self.path} at offset {self.offset}: {self.message}" if self.path else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.path, self.offset)
