"""Every choice of a run in one frozen, nested value: numbers and names only.

Objects (file system, clock) are passed beside it. It reads and writes TOML and dicts, and its hash
names it in every record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_type_hints

from .errors import InvalidArgumentError, UnknownNameError
from .registry import near


@cache
def _hints(group: Any) -> dict[str, Any]:
    return get_type_hints(group)


class _Group:
    """Settings are checked when made, whoever makes them; a whole number for a float becomes one, so that equals hash alike."""

    def __post_init__(self) -> None:
        group: Any = type(self)
        for name, kind in _hints(group).items():
            value = getattr(self, name)
            object.__setattr__(self, name, _check(value, kind, name))


@dataclass(frozen=True)
class WalConfig(_Group):
    """The log. ``sync``: ``group`` (default), ``every``, ``interval(ms=…)``, ``none``, ``buffered(ms=…)``."""

    sync: str = "group"
    segment_bytes: int = 64 << 20


@dataclass(frozen=True)
class MemtableConfig(_Group):
    """A memtable of ``limit_bytes`` is sealed and flushed."""

    kind: str = "arrow"
    limit_bytes: int = 64 << 20


@dataclass(frozen=True)
class SSTableConfig(_Group):
    """Table files. ``chunk_bytes`` is the unit of CRC32C and of hash-tree leaves; ``direct`` writes past the page cache."""

    filter: str = "bloom(bits=10)"
    hash: str = "blake3"
    batch_rows: int = 65536
    chunk_bytes: int = 262144
    file_bytes: int = 512 << 20
    direct: bool = True


@dataclass(frozen=True)
class CompactionConfig(_Group):
    """``policy`` decides: ``lazy_leveled``, ``leveled``, ``tiered``, ``fifo(ttl=7d)``, ``none``.

    ``level0_runs`` flushed runs are merged into level 1; level i holds up to ``level_bytes * size_ratio ** i`` bytes or
    ``size_ratio`` runs. ``trivial_moves`` lets runs that share no keys become one without being rewritten. Over
    ``slowdown_runs`` runs of level 0 each commit waits a little, over ``stop_runs`` until there are fewer.
    ``rate_limit`` (bytes a second, 0 for none) slows the writing of merges down. ``codec`` is what merges, `Database.compact`
    among them, give to tensor columns and named arrays that have no codec of their own: cold values become smaller, and copies.
    """

    policy: str = "lazy_leveled"
    size_ratio: float = 4.0
    level0_runs: int = 4
    level_bytes: int = 256 << 20
    trivial_moves: bool = True
    slowdown_runs: int = 20
    stop_runs: int = 36
    rate_limit: int = 0
    codec: str = "none"


@dataclass(frozen=True)
class IndexConfig(_Group):
    """Files of fewer than ``min_rows`` rows stay flat: a scan of them is as fast.

    Open segments, what is mapped counted too, hold at most ``memory_bytes`` (0: an eighth of the machine's, or a quarter of ``memory_limit``);
    the least recently used are closed. ``prefetch``: ``none`` maps a segment at the first search that wants it, ``open`` opens and reads
    all in the background when the database is opened. ``threads`` build a segment (0: in the background one a core, of low priority; else as many
    as the run has).
    """

    min_rows: int = 10_000
    threads: int = 0
    memory_bytes: int = 0
    prefetch: str = "none"


@dataclass(frozen=True)
class RunConfig(_Group):
    """Every choice of a run. ``kernel`` None means the fastest there is; ``threads`` split rows, never sums. ``memory_limit`` None means
    half of the machine's; a quarter of it may hold what was decoded lately, another the memtables that are written to, which
    share it. A commit of more than ``direct_commit_bytes`` goes to files of its own
    rather than through the log; a value of a tensor column of more than ``large_tensor_bytes`` to a blob file, which merges do not rewrite."""

    kernel: str | None = None
    threads: int = 1
    storage_kernel: str | None = None
    background: bool = True
    direct_commit_bytes: int = 8 << 20
    large_tensor_bytes: int = 64 << 10
    seed: int = 0
    memory_limit: int | None = None
    wal: WalConfig = field(default_factory=WalConfig)
    memtable: MemtableConfig = field(default_factory=MemtableConfig)
    sstable: SSTableConfig = field(default_factory=SSTableConfig)
    compaction: CompactionConfig = field(default_factory=CompactionConfig)
    index: IndexConfig = field(default_factory=IndexConfig)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """Unknown keys raise `UnknownNameError`, wrong types `InvalidArgumentError`."""
        made: RunConfig = _build(cls, values, "")
        return made

    def to_toml(self) -> str:
        """TOML text; keys whose value is None are left out."""
        top, sections = [], []
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                sections.append(f"\n[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in value.items()))
            elif value is not None:
                top.append(f"{name} = {json.dumps(value)}\n")
        return "".join(top + sections)

    @classmethod
    def from_toml(cls, text: str) -> RunConfig:
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as why:
            raise InvalidArgumentError(f"this is not TOML: {why}") from why

    def with_set(self, *settings: str) -> RunConfig:
        """A copy with ``"sstable.filter=none"``-like settings applied, left to right."""
        values = self.to_dict()
        for setting in settings:
            path, equals, text = setting.partition("=")
            if not equals:
                raise InvalidArgumentError(f"--set {setting!r}: give name=value, such as sstable.filter=none")
            *groups, last = path.strip().split(".")
            here = values
            for group in groups:
                if not isinstance(here.get(group), dict):
                    raise UnknownNameError(f"no setting {path.strip()!r}; {near(group, values)}")
                here = here[group]
            if last not in here or isinstance(here[last], dict):
                raise UnknownNameError(f"no setting {path.strip()!r}; {near(last, here)}")
            try:
                here[last] = json.loads(text)
            except json.JSONDecodeError:
                here[last] = text.strip()
        return self.from_dict(values)

    def hash(self) -> str:
        """16 hexadecimal digits of SHA-256 over the canonical JSON; the same on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise InvalidArgumentError(f"setting {where or 'config'} is {values!r}; wanted a group of settings")
    hints = _hints(cls)
    made: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        if name not in hints:
            raise UnknownNameError(f"no setting {path!r}; {near(name, hints)}")
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            made[name] = _build(kind, value, path)
        else:
            made[name] = _check(value, kind, path)
    return cls(**made)


def _check(value: Any, kind: Any, path: str) -> Any:
    wanted = [k for k in getattr(kind, "__args__", (kind,))]
    if value is None and type(None) in wanted:
        return None
    number = float in wanted and isinstance(value, int)
    good = bool in wanted if isinstance(value, bool) else isinstance(value, tuple(wanted)) or number
    if not good:
        names = " or ".join("nothing" if k is type(None) else k.__name__ for k in wanted)
        raise InvalidArgumentError(f"setting {path} is {value!r}; wanted {names}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < math.inf:
            raise InvalidArgumentError(f"setting {path} is {value}; wanted 0 or more")
        return value if int in wanted else float(value)
    return value
