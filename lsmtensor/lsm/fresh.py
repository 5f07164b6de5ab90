"""Rows that no segment covers, as small codes in memory: a tenth of the work of a graph, so that a search need not read all their vectors.

Codes are made beside the searches that ask for them. A memtable's grow with it, and what came since is scanned as it is; those of a table file lie in cells.
A flush or merge of what lay in codes makes those of its files before anybody sees them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import indexes, kernels
from ..beside import beside
from ..errors import LsmTensorError, SchemaError
from ..indexes.codes import CodedRows
from ..indexes.rows import Rows
from ..kernels.contract import L2, METRICS
from ..registry import Spec
from .layout import Run
from .segments import Part, Segment, matrices, nodes_of
from .source import MemSource, RunSource, TableFile

if TYPE_CHECKING:
    from .state import TableVersion
    from .tree import Tree

# fewer rows are scanned as they are; a memtable's codes grow by so many at a time
LEAST, STEP = 2048, 512
# cells of a file have about LEAF rows; a search looks into PROBES of them, or into all for a recall above USUAL
LEAF, PROBES, USUAL = 128, 40, 0.95
# rows looked at in full: so many, and twice as many as are wanted
DEPTH = 32
Found = tuple[np.ndarray, np.ndarray]


@dataclass
class FileCodes(Segment):
    """The rows of a file in cells; ``schema`` is what its column was named by."""

    schema: Any = None

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> Found:
        asked = params.get("recall")
        return super().search(queries, k, mask, nprobe=1 << 24 if asked is not None and asked > USUAL else None)


class MemoryCodes:
    """The codes of a memtable's first rows, and a copy of their vectors. One thread adds; what a search took of them stays as it is."""

    def __init__(self, dim: int, metric: str, kernel: str | None) -> None:
        self._kernels: Any = kernels.choose(kernel)
        self._vectors = Rows(np.empty((0, dim), np.float32))
        self._coded = CodedRows(dim, METRICS[metric], "auto", self._kernels)
        # (the codes as the kernels take them, how many rows)
        self._seen: tuple[Any, int] = None, 0

    def __len__(self) -> int:
        return self._seen[1]

    def add(self, rows: np.ndarray) -> None:
        """O(n d). `SchemaError` for infinity, which has no code."""
        if not np.isfinite(rows).all():
            raise SchemaError("a memtable holds vectors with infinity")
        if first := len(self) == 0:
            self._coded.learn(rows, 0)
        codes, sums, _ = self._coded.append(rows)
        if first:
            self._coded.settle(rows, (codes, sums), 0)
        self._vectors.append(rows)
        self._seen = self._coded.net(self._vectors.array), len(self._vectors)

    def search(self, queries: np.ndarray, k: int, stop: int, mask: np.ndarray | None) -> Found:
        """(rows, distances) among the first ``stop``, at most as many as there are; ``mask`` bool of them."""
        net, rows = self._seen
        if stop < rows:
            mask = np.concatenate([np.ones(stop, bool) if mask is None else mask, np.zeros(rows - stop, bool)])
        found, far = self._kernels.code_scan(net, queries, k, DEPTH + 2 * k, None if mask is None else mask.view(np.uint8))
        return found, np.sqrt(far) if self._coded.metric == L2 else far


def wanted(table: TableVersion, index: str | None) -> bool:
    """Whether rows that an index does not cover may be searched by codes: who wants no index, or all rows looked at, gets that."""
    spec = None if index is None else Spec.parse(table.state.indexes[index]["spec"])
    return spec is not None and (spec.name != "flat" or "quant" in spec.params)


def codes_of(holder: MemSource | TableFile) -> dict[tuple[str, str], Any]:
    """The `MemoryCodes` of a memtable, the `FileCodes` of a file, by column and metric."""
    return beside(holder, "_coded", dict)


def of_memory(tree: Tree, mem: MemSource, column: str, metric: str) -> MemoryCodes | None:
    """The codes of a memtable, to which what they lack is added in the background; None while there are none or too few rows."""
    made = codes_of(mem)
    codes = made.get((column, metric))
    if mem.rows - (0 if codes is None else len(codes)) >= (LEAST if codes is None else STEP):
        _background(tree, mem, (column, metric), partial(_grow, tree, mem, column, metric))
    return made.get((column, metric))


def _grow(tree: Tree, mem: MemSource, column: str, metric: str) -> None:
    views, _ = matrices(mem, column)
    made = codes_of(mem)
    codes = made.get((column, metric)) or MemoryCodes(views[0][1].shape[1], metric, tree.config.kernel)
    have = len(codes)
    codes.add(np.concatenate([m[max(0, have - first) :] for first, m in views if first + len(m) > have], dtype=np.float32))
    made[column, metric] = codes


def of_file(tree: Tree, part: Part, column: str, metric: str) -> FileCodes | None:
    """The codes of a file, which are made in the background; None while there are none or too few rows."""
    source, at = part
    file = source.files[at]
    if file.ref.rows < LEAST:
        return None
    made = codes_of(file)
    if (column, metric) not in made or made[column, metric].schema is not source.schema:
        _background(tree, file, (column, metric), partial(_code, tree, part, column, metric))
    codes = made.get((column, metric))
    return codes if codes is not None and codes.schema is source.schema else None


def _code(tree: Tree, part: Part, column: str, metric: str) -> None:
    source, at = part
    nodes = nodes_of([part], column)
    index = indexes.create(f"gwi(leaf={LEAF}, nprobe={PROBES}, metric={metric})", dim=nodes.vectors.shape[1], kernel=tree.config.kernel)
    index.add(nodes.vectors, copy=False)
    codes_of(source.files[at])[column, metric] = FileCodes(index, nodes.rows, nodes.rows is not None, 0, schema=source.schema)


def _background(tree: Tree, holder: MemSource | TableFile, about: tuple[str, str], work: Callable[[], None]) -> None:
    """Do it in a thread of its own, unless it is being done or failed once."""
    busy: set[Any] = beside(holder, "_coding", set)
    if about in busy:
        return
    busy.add(about)

    def run() -> None:
        if _done(tree, work):
            busy.discard(about)

    if tree.config.background:
        threading.Thread(target=run, name="lsmtensor-codes", daemon=True).start()
    else:
        run()


def _done(tree: Tree, work: Callable[[], None]) -> bool:
    """Whether it could be done: of damage and of what has no codes speaks who reads the vectors."""
    with beside(tree, "_coder", threading.Lock):  # one at a time: searches go on beside
        try:
            work()
        except (LsmTensorError, OSError):
            return False
    return True


def follow(tree: Tree, table: TableVersion, olds: Sequence[MemSource | RunSource], run: Run) -> None:
    """Code the files of a run that nobody sees yet where what it was made from was coded."""
    holders = [h for old in olds for h in ([old] if isinstance(old, MemSource) else old.files)]
    asked = {about for holder in holders for about in list(codes_of(holder))}
    if not asked:
        return
    made = RunSource(run, [tree.file(ref) for ref in run.files], table.state.schema)
    for at, file in enumerate(made.files):
        covered = {s.column for s in file.ref.segments}
        for column, metric in asked:
            if column not in covered and file.ref.rows >= LEAST:
                _done(tree, partial(_code, tree, (made, at), column, metric))


def forget(parts: Sequence[Part]) -> None:
    """A segment covers these files."""
    for source, at in parts:
        codes_of(source.files[at]).clear()
