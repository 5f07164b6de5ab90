"""Readers in other processes say that they are there: a flocked ``readers/PID-N-VERSION``, without the version while they open.

The file is empty: the last ``close`` of one with bytes, unlinked before they reached the disk, waits some 4 ms for ext4. The kernel drops the lock
with the process, so a dead reader's file is told by its lock. A reader that cannot write there (a read-only mount) holds every file of its layout
open instead, which it does anyway: an unlinked file lives while it is open.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from itertools import count
from typing import Any

from ..env.base import Env, Lock
from ..errors import LockedError, LsmTensorError

_NUMBERS = count(1)


# files that a writer no longer needs and somebody who is opening the database may
_LEFT: weakref.WeakKeyDictionary[Env, dict[str, list[str]]] = weakref.WeakKeyDictionary()


def register(env: Env, path: str, version: int | None) -> tuple[str, Lock] | None:
    """(file, its lock), or None where the folder cannot be written. Version None: it is being opened, and files that the layout does not
    name any more stay until it is."""
    told = "" if version is None else f"-{version}"
    name = f"{path}/readers/{os.getpid()}-{next(_NUMBERS)}{told}"
    try:
        return name, env.lock(name, None)
    except LsmTensorError:
        return None


def release(env: Env, pin: tuple[str, Lock] | None) -> None:
    if pin is not None:
        with contextlib.suppress(LsmTensorError):  # the folder became read-only; a pin without a lock holds nothing
            env.unlink(pin[0])
        pin[1].close()


def discard(env: Env, path: str, file: str) -> None:
    """Unlink a file of the database at ``path``, now or, while somebody opens it, at a later call; what is left is swept at the next open."""
    waiting = _LEFT.setdefault(env, {})
    left = [*waiting.pop(path, []), file]
    if any(reader["version"] is None for reader in listed(env, path)):
        waiting[path] = left
        return
    for name in left:
        env.unlink(name)


def listed(env: Env, path: str) -> list[dict[str, Any]]:
    """Living readers: ``name`` (PID-N) and ``version``. Files of dead ones are removed where that can be done."""
    found: list[dict[str, Any]] = []
    for name in env.listdir(f"{path}/readers"):
        file = f"{path}/readers/{name}"
        try:
            lock = env.lock(file, None)
        except LockedError:
            parts = name.split("-")
            found.append({"name": "-".join(parts[:2]), "version": int(parts[2]) if parts[2:] and parts[2].isdigit() else None})
        except LsmTensorError:
            continue
        else:
            env.unlink(file)
            lock.close()
    return found
