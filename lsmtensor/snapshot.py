"""One version of a whole database, and what databases and snapshots have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from .cache import Cache
from .errors import InvalidArgumentError, KeyNotFoundError, ReadOnlyError, TableNotFoundError
from .lsm.integrity import prove_chunk, root_of
from .lsm.state import State, View
from .lsm.tree import Head, Tree, Write
from .registry import near
from .table import TableView
from .tensors import SYSTEM, Tensors


class Container:
    """``db["docs"]``, ``"docs" in db`` and ``db.tables``, shared by databases and snapshots."""

    def _state(self) -> State:
        raise InvalidArgumentError("a table container without a state")  # pragma: no cover - abstract

    @property
    def tables(self) -> list[str]:
        """The names of the tables, sorted."""
        return sorted(t.name for t in self._state().layout.tables.values() if not t.name.startswith("_"))

    def __contains__(self, name: object) -> bool:
        return name in self.tables

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables)

    def _find(self, name: str) -> int:
        found = self._state().by_name(name)
        if found is None:
            raise TableNotFoundError(f"no table named {name!r}; {near(str(name), self.tables)}")
        return found.state.id


class HeadStore:
    """Tensors at the newest version."""

    def __init__(self, tree: Tree) -> None:
        self._tree, self.cache = tree, tree.cache
        self.direct_bytes = tree.config.direct_commit_bytes

    def moment(self, version: int | None = None) -> tuple[State, int]:
        state, visible = self._tree.head()
        return state, visible if version is None else version

    def known(self, moment: tuple[State, int]) -> dict[str, Any]:
        # with the state, not here: what is superseded is let go with it, its files too
        kept = moment[0].__dict__.get("_opened")
        if kept is None or kept[0] != moment[1]:
            kept = moment[0].__dict__["_opened"] = (moment[1], {})
        names: dict[str, Any] = kept[1]
        return names

    def view(self, name: str, moment: tuple[State, int]) -> View | None:
        table = moment[0].by_name(name)
        return None if table is None else View(table, moment[1])

    def number(self, name: str) -> int:
        return self._tree.system_table(name, SYSTEM[name].to_dict())

    def fresh_id(self) -> int:
        return self._tree.now()  # not a file number: those of a log's last commits are given again after a crash

    def commit(self, prepare: Callable[[Head], list[Write]]) -> int:
        return self._tree.commit(prepare)


class _SnapshotStore:
    """Tensors at a fixed version."""

    direct_bytes = 0

    def __init__(self, state: State, version: int, cache: Cache) -> None:
        self._fixed, self._version, self.cache = state, version, cache

    def moment(self, version: int | None = None) -> None:
        """There is but one."""

    def known(self, moment: None) -> None:
        """Nothing is remembered: a snapshot's mapping is made anew for each use."""

    def view(self, name: str, moment: None) -> View | None:
        table = self._fixed.by_name(name)
        return None if table is None or table.state.created > self._version else View(table, self._version)

    def number(self, name: str) -> int:
        raise ReadOnlyError("tensors of a snapshot cannot be written; write through db.tensors or in a transaction")

    def fresh_id(self) -> int:
        return self.number("")

    def commit(self, prepare: Callable[[Head], list[Write]]) -> int:
        return self.number("")


class Snapshot(Container):
    """One version of the whole database; never changes; a context manager."""

    _keeps: Any = None

    def __init__(self, tree: Tree, state: State, version: int) -> None:
        self._tree, self._fixed, self.version, self.closed = tree, state, version, False
        tree.pin(self)

    def _state(self) -> State:
        self._tree.check_open()
        if self.closed:
            raise InvalidArgumentError("the snapshot is closed; take another with db.snapshot()")
        return self._fixed

    @property
    def tables(self) -> list[str]:
        """The tables that existed at this version, sorted."""
        return sorted(t.name for t in self._state().layout.tables.values() if t.created <= self.version and not t.name.startswith("_"))

    def __getitem__(self, name: str) -> TableView:
        if name not in self.tables:
            self._find_missing(name)
        table = self._state().tables[self._find(name)]
        return TableView(View(table.at(self.version), self.version), self._tree)

    @property
    def tensors(self) -> Tensors:
        """The named arrays as they were at this version."""
        return Tensors(_SnapshotStore(self._state(), self.version, self._tree.cache))

    def _find_missing(self, name: str) -> None:
        raise TableNotFoundError(f"no table named {name!r} at version {self.version}; known: {', '.join(self.tables) or 'none'}")

    def root(self) -> str:
        """The root of the hash tree over every file of the layout that holds this version; flushes first."""

        return root_of(self._tree)

    def prove_tensor(self, name: str, chunk: Sequence[int] = ()) -> dict[str, Any]:
        """A proof that a chunk of a named array, by its place in the grid, is in this version; `lsmtensor.verify_proof` checks it without
        the database and gives the values. `KeyNotFoundError` for an array that is not there and a chunk that was never written."""
        store = _SnapshotStore(self._state(), self.version, self._tree.cache)
        names, chunks = (store.view(table, None) for table in SYSTEM)
        if names is None or chunks is None:
            raise KeyNotFoundError(f"no tensor named {name!r} at version {self.version}")
        return prove_chunk(self._tree, names, chunks, name, chunk)

    def close(self) -> None:
        """Let go of the version; reading through the snapshot is refused afterwards."""
        self.closed = True

    def __del__(self) -> None:
        if not getattr(self, "closed", True) and not self._tree.closed and not self._tree.warned_of_leak:
            self._tree.warned_of_leak = True
            warnings.warn(
                f"a snapshot of version {self.version} was dropped without close(); use it in a with block (said once a database)",
                ResourceWarning, stacklevel=2,
            )  # fmt: skip

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<lsmtensor.Snapshot version {self.version} of {self._tree.path!r}>"
