"""Backups: numbered folders, each a whole database, which share unchanged files with the one before by hard links.

A backup can be opened, verified and removed by itself; its files are never those of the database, so that damage here does not
reach there. A file is shared where number, size and hash-tree root agree with the last backup; all others are copied and synced.
``CURRENT`` comes last: a backup that was cut short has none, is never listed, and the next one frees its bytes.
"""

from __future__ import annotations

from typing import Any

from ..config import RunConfig
from ..env.base import Env
from ..errors import NotADatabaseError, UnknownNameError
from .branch import make_branch
from .integrity import verify_tree
from .layout import FileRef
from .manifest import Manifest, file_path
from .recover import FOLDERS, open_tree
from .tree import Tree

PIECE = 8 << 20


def make_backup(tree: Tree, folder: str) -> dict[str, int]:
    """The body of `Database.backup`. O(bytes of files made since the last backup)."""
    env = tree.env
    env.mkdir(folder)
    lock = env.lock(f"{folder}/LOCK", "backup")
    try:
        whole = numbers(env, folder)
        _free_unfinished(env, folder, whole)
        last = f"{folder}/{whole[-1]:06d}" if whole else ""
        shared = _files_of(env, last) if whole else {}
        number = max(_names(env, folder), default=0) + 1
        counts = {"number": number, "version": 0, "files": 0, "copied_files": 0, "copied_bytes": 0}

        def place(ref: FileRef, old: str, new: str) -> None:
            name = old.rsplit("/", 1)[-1]
            counts["files"] += 1
            there = f"{last}/sst/{name}"
            if ref.root and shared.get(name) == (ref.root, ref.size) and env.exists(there) and env.size(there) == env.size(old):
                env.link(there, new)
            else:
                counts["copied_files"] += 1
                counts["copied_bytes"] += _copy(env, old, new)

        counts["version"] = make_branch(tree, f"{folder}/{number:06d}", None, place)
        return counts
    finally:
        lock.close()


def restore_backup(env: Env, folder: str, path: str, number: int | None) -> int:
    """The body of `lsmtensor.restore`. O(bytes), read twice: nothing is written before every byte was checked."""
    whole = numbers(env, folder)
    if not whole:
        raise NotADatabaseError(f"{folder} holds no finished backup; make one with db.backup({folder!r})")
    if number is not None and number not in whole:
        raise UnknownNameError(f"no backup number {number} in {folder}; there: {', '.join(map(str, whole))}")
    tree = open_tree(env, f"{folder}/{number or whole[-1]:06d}", RunConfig(), read_only=True)
    try:
        verify_tree(tree)
        return make_branch(tree, path, None, lambda ref, old, new: _copy(env, old, new))
    finally:
        tree.close()


def backups(env: Env, folder: str) -> list[dict[str, Any]]:
    """The body of `lsmtensor.backups`: number, version, time_ns of each finished backup, oldest first."""
    made = []
    for number in numbers(env, folder):
        layout = Manifest.read(env, f"{folder}/{number:06d}")[1].layout
        made.append({"number": number, "version": layout.version, "time_ns": layout.time_ns})
    return made


def numbers(env: Env, folder: str) -> list[int]:
    """Numbers of the finished backups, rising."""
    return [n for n in _names(env, folder) if env.exists(f"{folder}/{n:06d}/CURRENT")]


def _names(env: Env, folder: str) -> list[int]:
    return sorted(int(name) for name in env.listdir(folder) if name.isdecimal() and len(name) >= 6)


def _free_unfinished(env: Env, folder: str, whole: list[int]) -> None:
    for number in set(_names(env, folder)) - set(whole):
        for inner in ("", *(f"/{name}" for name in FOLDERS)):
            path = f"{folder}/{number:06d}{inner}"
            for name in env.listdir(path):
                if name not in FOLDERS:
                    env.unlink(f"{path}/{name}")


def _files_of(env: Env, path: str) -> dict[str, tuple[str, int]]:
    """File name to (root, size) of its table file, for table files and the index segments over them."""
    layout = Manifest.read(env, path)[1].layout
    refs = [f for t in layout.tables.values() for r in t.runs for f in r.files]
    found = {file_path("", "table", f.number).rsplit("/", 1)[-1]: (f.root, f.size) for f in refs}
    return found | {name: (f.root, f.size) for f in refs for s in f.segments for name in s.names}


def _copy(env: Env, old: str, new: str) -> int:
    reader = env.open(old, kind="table")
    data = reader.map()
    with env.create(new, kind="table", cause="backup") as file:
        for at in range(0, len(data), PIECE):
            file.write(data[at : at + PIECE])
        file.sync()
    return len(data)
