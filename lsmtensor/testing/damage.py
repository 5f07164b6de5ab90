"""Bad bytes: every byte of every file of a small database flipped, every file cut at every length, taken away, or replaced.

The answer must be the right one, or an error of ours that names the file; never a wrong answer, another exception or a hang. The
files are found by listing the database, so a new kind of file is damaged as soon as a workload makes one.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..config import RunConfig
from ..database import open as open_database
from ..env.memory import MemoryEnv
from ..errors import CorruptionError, FormatVersionError, NotADatabaseError
from . import workload
from .workload import Model, Step

CONFIG = workload.CONFIG.with_set("memtable.limit_bytes=100000", "wal.segment_bytes=3000", "index.min_rows=20", "sstable.filter=bloom(bits=8)")
TINY: list[Step] = [
    workload._create("docs", workload.DOCS, indexes={"v": "hnsw(m=4)"}), workload._upsert(0, 24), workload.FLUSH, workload._tag("early"), workload._upsert(1, 3),
    workload._arrays(small=workload.LARGE[0]), workload.FLUSH, workload._create("words", workload.WORDS, indexes={"word": "text"}), workload._words(0, 24), workload.REOPEN, workload._words(2),
    workload._create("films", workload.FILMS), workload._films(0, [1, 2, 3, 4]), workload.FLUSH, workload._index("second", "ivfflat(lists=2)"), workload._index("pages", "diskann"),
    workload._delete(0, 2), workload._tag("late"),
]  # fmt: skip
FAULTS = ("flip", "cut", "zeros", "grown", "deleted", "swapped", "foreign", "spliced")


@dataclass
class Damaged:
    """Of each (kind of file, fault): how often the answer was right, how often the damage was said; and what went wrong."""

    right: dict[tuple[str, str], int] = field(default_factory=dict)
    said: dict[tuple[str, str], int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def tried(self) -> int:
        return sum(self.right.values()) + sum(self.said.values()) + len(self.wrong)


def kind_of(path: str) -> str:
    """``MANIFEST``, ``CURRENT``, ``wal``, ``arrow``, or the name of an index."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2] if "." in name else re.sub(r"-\d+", "", name)


def made(steps: list[Step] = TINY, closed: bool = True, config: RunConfig = CONFIG) -> MemoryEnv:
    """A small database with one of each kind of file, closed or left as a killed process leaves it."""
    env = MemoryEnv()
    workload.run(env, config, steps, close=closed, rotate=1 << 20)
    return env.crash(keep=1)


def another(closed: bool = True, config: RunConfig = CONFIG) -> MemoryEnv:
    """A database that was made alike and holds other rows, the edits of its manifest at the same places."""
    steps, wanted = [TINY[0], workload._upsert(2, 24), *TINY[2:]], _edits(made(closed=closed, config=config))
    return next(env for env in iter(lambda: made(steps, closed, config), None) if _edits(env)[0] == wanted[0])


def _edits(env: MemoryEnv) -> list[int]:
    """Where the frames of the layout edits begin."""
    (name,) = (n for n in env.files if kind_of(n) == "MANIFEST")
    return [m.start() - 8 for m in re.finditer(b'{"ops"', bytes(env.files[name].data))]


def damages(env: MemoryEnv, other: MemoryEnv, every: int, faults: tuple[str, ...] = FAULTS) -> Iterator[tuple[str, str, str, MemoryEnv]]:
    """(kind, fault, told, the damaged copy). ``other`` is another database, from which files come under the same name."""
    names = [n for n in sorted(env.files) if not n.endswith("LOCK")]
    for number, name in enumerate(names):
        kind, data = kind_of(name), bytes(env.files[name].data)
        first = number % every  # so that small files do not always give the same byte
        for fault in faults:
            for at, changed in _changed(fault, data, first, every):
                yield kind, fault, f"{fault} of {name} at {at}", with_file(env, name, changed)
        if "deleted" in faults:
            yield kind, "deleted", f"{name} deleted", with_file(env, name, None)
        if "swapped" in faults:
            for twin in names:
                if twin > name and kind_of(twin) == kind:
                    theirs = bytes(env.files[twin].data)
                    yield kind, "swapped", f"{twin} also in the place of {name}", with_file(env, name, theirs)
                    yield kind, "swapped", f"{name} and {twin} swapped", with_file(with_file(env, name, theirs), twin, data)
        if "foreign" in faults:
            for alien in (n for n in sorted(other.files) if kind_of(n) == kind and bytes(other.files[n].data) != data):
                yield kind, "foreign", f"{alien} of another database in the place of {name}", with_file(env, name, bytes(other.files[alien].data))
        if "spliced" in faults and kind == "MANIFEST" and name in other.files:
            theirs = bytes(other.files[name].data)
            for at in _edits(env):
                yield kind, "spliced", f"{name} from {at} on of another database", with_file(env, name, data[:at] + theirs[at:])


def _changed(fault: str, data: bytes, first: int, every: int) -> Iterator[tuple[int, bytes]]:
    if fault == "flip":
        for at in range(first, len(data), every):
            yield at, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
    elif fault == "cut":
        for at in range(first, len(data), every):
            yield at, data[:at]
    elif fault == "zeros":
        for at in range(first, len(data), every * 16):
            yield at, data[:at] + bytes(len(data) - at)
    elif fault == "grown":
        for size in (1, 8, 4096):
            yield len(data), data + bytes(size)
            yield len(data), data + b"\xa5" * size


def with_file(env: MemoryEnv, name: str, data: bytes | None) -> MemoryEnv:
    """A copy of a file system with other bytes in one file, or without it."""
    copy = env.crash(keep=1)
    if data is None:
        del copy.files[name], copy.durable[name]
    else:
        copy.files[name].data[:] = data
        copy.files[name].safe = data
    return copy


def try_damages(every: int = 1, *, closed: bool = True, faults: tuple[str, ...] = FAULTS, stop_at: int = 1) -> Damaged:
    """Damage, open, read everything and compare; ends when ``stop_at`` went wrong. O(bytes^2 / every).

    A database that was not ``closed`` may also be found with the rows and arrays of some commits ago, and without its newest tags
    and indexes: the end of a log or manifest that was being written cannot be told from one that a power loss took.
    """
    right, found = workload.models(TINY)[-1 if closed else 0 :], Damaged()
    for kind, fault, told, copy in damages(made(closed=closed), another(closed), every, faults):
        begin = time.perf_counter()
        outcome = read(copy, right)
        found.slowest = max(found.slowest, time.perf_counter() - begin)
        if outcome in ("right", "said"):
            counts = found.right if outcome == "right" else found.said
            counts[kind, fault] = counts.get((kind, fault), 0) + 1
        else:
            found.wrong.append(f"{told}: {outcome}")
            if len(found.wrong) >= stop_at:
                break
    return found


def read(env: MemoryEnv, right: list[Model], verify: bool = False) -> str:
    """``right``, ``said`` (an error of ours that names a file), or what happened instead; with ``verify`` every byte is read too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an index that cannot be used is searched without
            with open_database(workload.PATH, env=env, config=CONFIG) as db:
                held = workload.held(db)
                if verify and _same(held, right):
                    db.verify()
    except CorruptionError as why:
        return "said" if why.path else f"an error without a place: {why}"
    except (FormatVersionError, NotADatabaseError):
        return "said"
    except Exception as why:
        return f"{type(why).__name__}: {why}"
    return "right" if _same(held, right) else f"another answer: {workload.told(held)} instead of {workload.told(right[-1])}"


def _same(held: Model, right: list[Model]) -> bool:
    return held == right[0] if len(right) == 1 else any((held.tables, held.tensors) == (r.tables, r.tensors) for r in right)
