"""The contract: a policy answers, a worker acts. A policy touches no file and keeps no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..layout import TableState


@dataclass(frozen=True)
class DoNothing:
    """The tree is in shape."""


@dataclass(frozen=True)
class Move:
    """Runs that only change level."""

    runs: tuple[int, ...]
    level: int


@dataclass(frozen=True)
class Merge:
    """Runs to merge into one of ``level``. They must be neighbours in version order, so that intervals stay apart."""

    runs: tuple[int, ...]
    level: int


@dataclass(frozen=True)
class Drop:
    """Runs to forget with all their rows."""

    runs: tuple[int, ...]


Decision = DoNothing | Move | Merge | Drop


class Policy(Protocol):
    def choose(self, table: TableState) -> Decision:
        """The next thing to do; asked again after it was done. ``table.runs`` are newest first."""
        ...
