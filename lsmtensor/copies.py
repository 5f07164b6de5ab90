"""Whole databases made from others: restored from backups, salvaged from damaged ones."""

from __future__ import annotations

import os
from typing import Any

from .config import RunConfig
from .env.base import Env
from .lsm.backup import backups as listed_backups
from .lsm.backup import restore_backup
from .lsm.blobs import BLOBS, BLOBS_SCHEMA
from .lsm.repair import repair as salvage
from .tensors import SYSTEM


def restore(folder: str | os.PathLike[str], path: str | os.PathLike[str], *, number: int | None = None, env: Env | None = None) -> int:
    """Copy a backup (the last unless ``number`` names one) to a new database at ``path``; returns its version.

    Every byte of the backup is checked first. Raises `NotADatabaseError` where there is none, `CorruptionError` for damage.
    """
    return restore_backup(env or local_env(), os.fspath(folder), os.fspath(path), number)


def repair(path: str | os.PathLike[str], new: str | os.PathLike[str], *, env: Env | None = None) -> dict[str, Any]:
    """Salvage what verifies of a damaged database at ``path`` to a new one at ``new``; the damaged one is only read.

    Versions, tags and indexes come along. Answers ``version``, ``tables``, ``rows`` and ``lost``: for each damage its path, offset,
    what is wrong and how many rows it cost (None where nobody can know). A file that is wholly unreadable costs all its rows, a
    damaged chunk the rows that lie in it, a damaged log record its commit. Raises `NotADatabaseError` where there is none.
    """
    return salvage(env or local_env(), os.fspath(path), os.fspath(new), RunConfig(), {name: s.to_dict() for name, s in {**SYSTEM, BLOBS: BLOBS_SCHEMA}.items()})


def backups(folder: str | os.PathLike[str], *, env: Env | None = None) -> list[dict[str, Any]]:
    """The finished backups of a folder, oldest first: number, version, and time_ns of the version."""
    return listed_backups(env or local_env(), os.fspath(folder))


def local_env() -> Env:
    """The file system of the machine."""
    from .env.local import LocalEnv

    return LocalEnv()
