"""The layout log: ``CURRENT`` names a ``MANIFEST-NNNNNN`` of framed JSON records, one an edit.

A frame is ``u32 length | u32 CRC32C | JSON``; the checksum covers file number, offset and text, so a
frame of another file or place is not taken. The first frame holds a whole layout. Each edit records
``root = H(0x02 || previous root || H(edit) || state root)``: a chain over every layout there was.
A torn last frame is cut off; damage before a good frame is `CorruptionError`.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..env.base import Env, WritableFile
from ..env.checksum import crc32c
from ..errors import CorruptionError, FormatVersionError, NotADatabaseError, StorageError
from .layout import Layout, apply

FORMAT = 1
ROTATE_BYTES = 1 << 20
MAX_FRAME = 256 << 20
_FRAME = struct.Struct("<II")
_NAMES = {
    "manifest": re.compile(r"MANIFEST-(\d{6,})"),
    "wal": re.compile(r"(\d{6,})\.wal"),
    "table": re.compile(r"(\d{6,})\.arrow"),
    "index": re.compile(r"\d{6,}\.i(\d+)\.\w+"),
}


def file_path(folder: str, kind: str, number: int) -> str:
    """Where a file lies: logs in ``wal/``, table files in ``sst/``."""
    if kind == "wal":
        return f"{folder}/wal/{number:06d}.wal"
    if kind == "table":
        return f"{folder}/sst/{number:06d}.arrow"
    return f"{folder}/MANIFEST-{number:06d}"


def parse_file_name(name: str) -> tuple[str, int] | None:
    """(kind, number) of a file name of ours, None for any other. An index segment answers its own number."""
    for kind, pattern in _NAMES.items():
        match = pattern.fullmatch(name)
        if match:
            return kind, int(match[1])
    return None


def check_folder(env: Env, path: str) -> bool:
    """True for a database, False where one can be made (nothing there, or a half-made one); else `NotADatabaseError`."""
    if env.exists(f"{path}/CURRENT"):
        return True
    if not env.exists(path):
        return False
    held = [f"{path}/{d}/{name}" for d in ("wal", "sst", "blob") for name in env.listdir(f"{path}/{d}")]
    if held and any(_NAMES["manifest"].fullmatch(name) for name in env.listdir(path)):
        raise CorruptionError(f"the file is missing that says which manifest counts; {held[0]} and a manifest are there", f"{path}/CURRENT", 0)
    ours = {"LOCK", "CURRENT.tmp", "wal", "sst", "blob", "readers"}
    others = [n for n in env.listdir(path) if n not in ours and not _NAMES["manifest"].fullmatch(n)]
    if others or held:
        shown = ", ".join(others[:3]) or "data files without a CURRENT"
        raise NotADatabaseError(f"{path} is not a database: it holds {shown}; choose an empty or new folder")
    return False


def create_folder(env: Env, path: str, layout: Layout | None = None) -> None:
    """A new database in an empty or half-made folder; ``CURRENT`` comes last, so a crash leaves a half-made one."""
    for folder in ("wal", "sst", "blob", "readers"):
        env.mkdir(f"{path}/{folder}")
    for name in env.listdir(path):
        if _NAMES["manifest"].fullmatch(name) or name == "CURRENT.tmp":
            env.unlink(f"{path}/{name}")
    first = layout or Layout(next_file=2, root=hashlib.sha256(b"lsmtensor").hexdigest())
    # never 0, which is what logs without an owner say
    _start(env, path, 1, replace(first, id=1 + secrets.randbelow(2**32 - 1)), ("00" * 32, "00" * 32)).close()


def _frame(number: int, offset: int, value: dict[str, Any]) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return _FRAME.pack(len(text), _crc(number, offset, text)) + text


def _crc(number: int, offset: int, text: bytes | memoryview) -> int:
    return crc32c(text, crc32c(struct.pack("<QQ", number, offset)))


def _start(env: Env, path: str, number: int, layout: Layout, links: tuple[str, str]) -> WritableFile:
    """Write a new manifest that begins with ``layout``, and switch ``CURRENT`` to it."""
    name = file_path(path, "manifest", number)
    env.unlink(name)
    file = env.create(name, kind="manifest", cause="layout")
    file.write(_frame(number, 0, {"format": FORMAT, "previous": links[0], "edit": links[1], "layout": layout.to_dict()}))
    file.sync()
    temporary = f"{path}/CURRENT.tmp"
    env.unlink(temporary)
    with env.create(temporary, kind="current", cause="layout") as current:
        current.write(f"MANIFEST-{number:06d}\n".encode())
        current.sync()
    env.sync_dir(path)
    env.rename(temporary, f"{path}/CURRENT")
    env.sync_dir(path)
    return file


class Manifest:
    """The open layout log of a folder."""

    def __init__(
        self, env: Env, path: str, number: int, layout: Layout, file: WritableFile | None, links: tuple[str, str], end: int
    ) -> None:  # fmt: skip
        self._env, self._path, self._number, self._file = env, path, number, file
        self.layout = layout
        self.links = links
        self._broken = False
        self._end = end

    @property
    def place(self) -> tuple[int, int]:
        """(number, length of what is durable): a manifest that is found to be less later has lost edits."""
        return self._number, self._end

    @property
    def broken(self) -> bool:
        """Whether a write failed, so that it takes no more edits."""
        return self._broken or self._file is None

    @classmethod
    def open(cls, env: Env, path: str, *, read_only: bool) -> Manifest:
        """Read ``CURRENT`` and replay its manifest; O(manifest)."""
        number, last = cls.read(env, path)
        name = file_path(path, "manifest", number)
        file = None
        if not read_only:
            # what was read must not be lost later while newer edits survive; the last frame's sync may have failed
            file = env.append_to(name, kind="manifest", cause="layout", truncate_at=last.end, again_from=last.offset)
            file.sync()
            # nor may its name: a writer killed between the rename of CURRENT and the folder's sync leaves one that only the page cache knows
            env.sync_dir(path)
            for other in env.listdir(path):
                parsed = parse_file_name(other)
                if parsed is not None and parsed[0] == "manifest" and parsed[1] != number:
                    env.unlink(f"{path}/{other}")
        return cls(env, path, number, last.layout, file, last.links, last.end)

    @staticmethod
    def read(env: Env, path: str) -> tuple[int, Edit]:
        """(manifest number, its last good frame), changing nothing."""
        current = f"{path}/CURRENT"
        reader = env.open(current, kind="current")
        text = reader.pread(0, min(reader.size, 64)).decode("ascii", "replace").strip()
        parsed = parse_file_name(text)
        if parsed is None or parsed[0] != "manifest":
            raise CorruptionError(f"CURRENT holds {text!r}, not the name of a manifest", current, 0)
        number = parsed[1]
        name = file_path(path, "manifest", number)
        if not env.exists(name):
            raise CorruptionError("the manifest that CURRENT names is missing", name, 0)
        whole = env.open(name, kind="manifest")
        return number, replay(whole.pread(0, whole.size), number, name)

    def append(
        self, ops: list[dict[str, Any]], *, version: int, time_ns: int, next_file: int, times: Sequence[tuple[int, int]] = ()
    ) -> Layout:
        """Make an edit durable and return the layout after it. After a failed write the manifest takes no more."""
        if self._file is None or self.broken:
            raise StorageError(f"the manifest of {self._path} takes no more edits after a failed write; reopen the database")
        edit: dict[str, Any] = {"ops": ops, "version": version, "time_ns": time_ns, "next_file": next_file}
        if times:
            edit["times"] = [list(mark) for mark in times]
        layout = apply(self.layout, edit)
        links = (self.layout.root, edit_hash(edit))
        layout = layout.with_root(chain(*links, layout))
        try:
            if self._file.tell() > ROTATE_BYTES:
                old = self._number
                self._file.close()
                self._file = _start(self._env, self._path, old + 1, layout, links)
                self._number = old + 1
                self._env.unlink(file_path(self._path, "manifest", old))
            else:
                self._file.write(_frame(self._number, self._file.tell(), {**edit, "root": layout.root}))
                self._file.sync()
        except (StorageError, OSError):
            self._broken = True
            raise
        self.layout, self.links, self._end = layout, links, self._file.tell()
        return layout

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def edit_hash(edit: dict[str, Any]) -> str:
    """SHA-256 of the edit's canonical text."""
    return hashlib.sha256(json.dumps(edit, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def chain(previous: str, edit: str, layout: Layout) -> str:
    """The root after an edit, from the root before and the hash of the edit."""
    return hashlib.sha256(b"\x02" + bytes.fromhex(previous) + bytes.fromhex(edit) + layout.state_root()).hexdigest()


@dataclass(frozen=True)
class Edit:
    """A frame of a manifest: its place, what it says, and the layout after it. ``links``: root before, hash of this edit."""

    offset: int
    end: int
    ops: list[dict[str, Any]]
    layout: Layout
    links: tuple[str, str]


def edits(data: bytes, number: int, name: str) -> Iterator[Edit]:
    """The good frames from the front, the first with a whole layout and no ``ops``; `CorruptionError` for one that does not fit."""
    layout: Layout | None = None
    at = 0
    while (frame := _read_frame(data, at, number)) is not None:
        value, end = frame
        try:
            if layout is None:
                if value["format"] > FORMAT:
                    raise FormatVersionError(f"{name} has format {value['format']}; this lsmtensor reads up to {FORMAT}: upgrade it")
                layout, links = Layout.from_dict(value["layout"]), (value["previous"], value["edit"])
            else:
                edit = {k: value[k] for k in ("ops", "version", "time_ns", "next_file")}
                edit |= {k: value[k] for k in ("times",) if k in value}
                after = apply(layout, edit)
                links = (layout.root, edit_hash(edit))
                if chain(*links, after) != value["root"]:
                    raise CorruptionError("a layout edit does not continue the chain of roots", name, at)
                layout = after.with_root(value["root"])
        except (KeyError, TypeError, ValueError, AttributeError) as why:
            raise CorruptionError(f"a layout record does not parse ({why!r})", name, at) from why
        except CorruptionError as why:
            raise CorruptionError(why.message, name, at) from why
        yield Edit(at, end, value.get("ops", []), layout, links)
        at = end


def replay(data: bytes, number: int, name: str) -> Edit:
    """The last good frame. `CorruptionError` where a good one stands behind damage."""
    last = deque(edits(data, number, name), maxlen=1)
    if not last:
        raise CorruptionError("the manifest holds no whole layout", name, 0)
    # a frame that was being written when the machine stopped is the last; a good one behind damage is not
    end = last[0].end
    text = data.find(b'{"', end + 1 + _FRAME.size)
    while text >= 0:
        if _read_frame(data, text - _FRAME.size, number) is not None:
            raise CorruptionError("a layout record is damaged, and good ones follow it", name, end)
        text = data.find(b'{"', text + 1)
    return last[0]


def _read_frame(data: bytes, at: int, number: int) -> tuple[dict[str, Any], int] | None:
    if at + _FRAME.size > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    if length < 2 or length > MAX_FRAME or start + length > len(data) or data[start] != 0x7B:
        return None
    text = memoryview(data)[start : start + length]
    if _crc(number, at, text) != crc:
        return None
    try:
        value = json.loads(bytes(text))
    except (ValueError, RecursionError):
        return None
    return (value, start + length) if isinstance(value, dict) else None
