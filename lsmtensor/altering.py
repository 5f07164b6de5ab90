"""What changes a table rather than its rows: its columns, its indexes. The writes of `Table` that are layout edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .lsm import alter, unique
from .lsm.tree import Tree
from .schema import Column
from .search import declare


class Alterable:
    """Mixed into `Table`. Each change is a commit of its own, outside transactions; writers wait for it, readers do not."""

    _tree: Tree
    _id: int

    # -- indexes ---------------------------------------------------------------------------------

    def create_index(self, column: str, spec: Any, name: str | None = None, *, wait: bool = False, replaces: str | None = None) -> str:
        """Index a column; returns the index's name, ``column_kind`` unless given.

        Segments are built in the background while reads and writes go on: a search is a scan until they are there. ``wait`` builds them before this
        returns. Several indexes may stand beside each other on a column: ``search(index=name)``. ``replaces`` names one of them, which
        answers searches until this one is built and is then dropped.
        """
        return declare.create_index(self._tree, self._id, column, spec, name, wait, replaces)

    def drop_index(self, name: str) -> None:
        """Forget an index; its segments go with the next collection of garbage. `UnknownNameError` where there is none."""
        declare.drop_index(self._tree, self._id, name)

    # -- columns ---------------------------------------------------------------------------------

    def add_column(self, column: Column, value: Any = None, *, columns: Sequence[str] | None = None) -> int:
        """Add a column behind the others; returns the version from which it is there. No table file is written again.

        ``value`` is what the rows that are there get: one value (null without it), or a function that is called with record
        batches of them (of ``columns`` only, if named; which rows stand together means nothing) and answers one value a
        row. Rows written later have null where they leave the column out. O(1) with a value, O(rows) with a function.
        Raises `SchemaError` for values that do not fit, `DuplicateKeyError` for a name that is taken; nothing is changed then.
        """
        return alter.add_column(self._tree, self._id, column, value, columns)

    def drop_column(self, name: str) -> int:
        """Drop a column that is not of the key and has no index; returns the version from which it is gone. O(1).

        Snapshots, tags and time travel to before still see it: its bytes go as files are merged, once the retention has passed.
        """
        return alter.drop_column(self._tree, self._id, name)

    def rename_column(self, old: str, new: str) -> int:
        """Call a column otherwise, one of the key too; its indexes stay. Returns the version from which it is so. O(1)."""
        return alter.rename_column(self._tree, self._id, old, new)

    def add_unique(self, columns: str | Sequence[str]) -> int:
        """From now on no two rows share a value of a column, or of several together; rows of null may. Returns the version from which it holds.

        A write that would give a row another's value raises `DuplicateKeyError`, and so does this where rows share one now. O(rows log rows).
        """
        return unique.add(self._tree, self._id, columns)

    def drop_unique(self, columns: str | Sequence[str]) -> int:
        """Let rows share values again."""
        return unique.drop(self._tree, self._id, columns)

    def set_ttl(self, ttl: Any) -> int:
        """Let rows expire: after a duration from their commit (``"7d"``, ``"12h"``, a timedelta), from a time in a column of theirs (``{"created": "7d"}``; rows
        of null stay), or never (None). Returns the version from which it holds; see `Database.create_table`.
        """
        return alter.set_ttl(self._tree, self._id, ttl)

    def widen_column(self, name: str, type: Any) -> int:
        """Give a column a type that holds each of its values unchanged; returns the version from which it has it. O(1).

        Integers to wider ones or to floats that hold them, floats to wider ones, tensors of these likewise, decimals to more digits, text and binary to
        their large kinds, date32 to date64. Raises `SchemaError` for any other.
        """
        return alter.widen_column(self._tree, self._id, name, type)
