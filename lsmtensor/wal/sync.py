"""When a commit counts as safe: the sync modes of ``RunConfig.wal.sync``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgumentError, UnknownNameError
from ..registry import Spec, near

# name -> the default of its one parameter in milliseconds, None where it has none
_MODES: dict[str, float | None] = {"group": None, "every": None, "none": None, "interval": 100.0, "buffered": 100.0}


@dataclass(frozen=True)
class SyncMode:
    """A sync mode; ``ms`` is the longest wait of ``interval`` and ``buffered``, 0 elsewhere.

    What a commit that returned survives: ``buffered`` nothing but this process, ``none`` a killed process,
    ``interval`` also a power loss once ``ms`` have passed, ``group`` and ``every`` a power loss at once.
    """

    name: str
    ms: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}(ms={self.ms:g})" if self.ms else self.name


def sync_mode(what: Any) -> SyncMode:
    """The mode of a spec such as ``"group"`` or ``"interval(ms=50)"``; a `SyncMode` passes through.

    `UnknownNameError` for another name or parameter, `InvalidArgumentError` for ``ms`` not above 0.
    """
    if isinstance(what, SyncMode):
        return what
    spec = Spec.of(what)
    if spec.name not in _MODES:
        raise UnknownNameError(f"no WAL sync mode named {spec.name!r}; {near(spec.name, _MODES)}")
    default = _MODES[spec.name]
    known = [] if default is None else ["ms"]
    for name in spec.params:
        if name not in known:
            raise UnknownNameError(f"WAL sync mode {spec.name!r} has no parameter {name!r}; {near(name, known)}")
    if default is None:
        return SyncMode(spec.name)
    ms = spec.params.get("ms", default)
    if isinstance(ms, bool) or not isinstance(ms, (int, float)) or not 0 < ms < float("inf"):
        raise InvalidArgumentError(f"WAL sync mode {spec.name!r} got ms={ms!r}; wanted milliseconds above 0")
    return SyncMode(spec.name, float(ms))
