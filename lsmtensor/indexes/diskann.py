"""A graph larger than memory: codes in memory, full rows and links in pages of a file (DiskANN).

After Subramanya et al., NeurIPS 2019; deletion with repair after Singh et al., arXiv 2105.09613; neighbours that share a page are
expanded with it (Wang et al., SIGMOD 2024). The graph is that of `fqg`, built on whole numbers. A page that several queries of a batch ask for
is read once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from . import REGISTRY
from .above import NONE
from .base import Found
from .codes import taken
from .fqg import FQG, LEAST, LOOSE, connect
from .paged import Layout, Paged, lying
from .params import check_counts, settled
from .rows import Rows, aligned

# the most pages that are asked for at once
BEAM = 1024
# nanoseconds, for the choice between scan and walk under a filter: a code scanned, a page read
SCANNED, READ = 30.0, 50_000.0
# rows that came since the pages were laid out, as a share of those, when they are laid out anew
STALE = 0.25
# rows repaired at a time, each by so many candidates at most
REPAIRED, CANDIDATES = 2048, 1000


@REGISTRY.register("diskann")
class DiskANN(FQG):
    """``degree`` links a row, found by a beam of ``ef_construction`` in ``passes`` passes; a search keeps the ``ef`` nearest estimates by codes of
    ``quant`` and reads the pages of the ``beam`` nearest at a time. The hottest ``cache`` share of the pages stays in memory.

    Loaded from a file it holds d / 2 (int4) or d (int8) bytes a row, 16 beside, and the cache; about ``ef`` page reads a query, each of 4096 bytes with
    its rows in full. Before it is saved all is in memory. Build as `fqg`. Adding to a loaded index takes links and 8-bit codes into memory until it is
    saved; `consolidate` repairs the links around removed rows instead of building again. ``ef`` and ``beam`` are search parameters too.
    """

    name = "diskann"
    # before 2 the vectors of the graph above lay in memory
    version = 2
    search_params = ("ef", "beam")

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, degree: int = 64, ef_construction: int = 96,
        passes: int = 2, quant: str = "auto", ef: int = 32, beam: int = 8, cache: float = 0.02, seed: int = 0,
    ) -> None:  # fmt: skip
        (self.beam,) = settled("diskann", beam=(beam, 1, BEAM))
        if isinstance(cache, bool) or not isinstance(cache, (int, float)) or not 0 <= cache <= 1:
            raise InvalidArgumentError(f"diskann: cache={cache!r}; give a share of the pages, from 0 to 1")
        self.cache = float(cache)
        super().__init__(dim, metric, kernel, threads, degree, ef_construction, passes, quant, ef, 0, "top", seed)

    def _settings(self) -> dict[str, Any]:
        kept = super()._settings()
        del kept["rerank"], kept["entries"]
        return {**kept, "beam": self.beam, "cache": self.cache}

    def _clear(self) -> None:
        super()._clear()
        self._layout = Layout(self.dim, self.degree)
        # rows as they lie in pages, and how many there were when all were laid out
        self._order, self._laid = np.empty(0, np.uint32), 0
        # the links are those of the pages, and not in memory
        self._on_pages = False

    def _row_bytes(self) -> tuple[int, int]:
        kept, building = super()._row_bytes()
        # the order of the rows is made of all links
        return kept + 8, building + 6 * self.degree + 32

    # -- building --------------------------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        """Never: rows and links lie in pages by who is near whom, and all pages would be written anyway."""
        return False

    def plan(self, k: int, matches: int, **params: Any) -> dict[str, Any]:
        return {}

    def _insert(self, start: int, stop: int) -> None:
        self._lift()
        super()._insert(start, stop)

    def _lift(self) -> None:
        """Take the links off the pages, to change them."""
        if self._on_pages:
            assert isinstance(self._vectors, Paged)
            self._links, self._on_pages = Rows(self._vectors.links()), False

    def _build(self, start: int, stop: int) -> None:
        try:
            super()._build(start, stop)
        finally:
            self._lay()

    def _lay(self) -> None:
        """Rows that came since join the end; all are laid out anew when those are many."""
        n = self._done
        if len(self._order) > n or n - self._laid > STALE * self._laid:
            self._order, self._laid = self._layout.order(self._links.array[:n]), n
        else:
            self._order = np.concatenate([self._order, np.arange(len(self._order), n, dtype=np.uint32)])

    def _inserted(self, stop: int) -> int:
        done = super()._inserted(stop)
        if len(self._order) > done:
            self._lay()
        return done

    def consolidate(self) -> None:
        """Forget removed rows. Rows that were linked to them choose anew, of their other links and of where those of the removed lead.

        O(n degree + touched degree^2); with few rows left all is built again.
        """
        keep = self._live()
        if not self._dead or self._coded.grid is None or len(keep) < LEAST:
            super().consolidate()
            return
        self._lift()
        codes, sums = self._to_build_with(len(self._vectors))
        links = self._repaired(codes, sums, keep)
        number = np.full(len(self._vectors), NONE, np.uint32)
        number[keep] = np.arange(len(keep), dtype=np.uint32)
        links = np.where(links == NONE, NONE, number[np.where(links == NONE, 0, links)])
        ids, rows, next_id = self._all_ids()[keep], self._vectors.kept(keep), self._next_id
        coded, out = self._coded, self._out
        for part in coded.parts():
            whole = taken(part.array, keep)
            part.cut(0)
            part.append(whole)
        self._vectors, self._ids, self._alive, self._dead, self._row_of = rows, Rows(ids), None, 0, None
        self._clear()
        self._coded, self._out, self._next_id, self._done = coded, out, next_id, len(keep)
        self._eight = Rows(taken(codes, keep)), Rows(taken(sums, keep))
        self._raise(self._eight[0].array, self._eight[1].array, 0)
        connect(links, self._begins())
        self._links = Rows(links)
        self._lay()

    def _repaired(self, codes: np.ndarray, sums: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """uint32 (kept, degree): links among the rows kept, by their old numbers."""
        links = self._links.array
        dead = np.ones(len(links) + 1, bool)
        dead[keep], dead[-1] = False, False
        made = links[keep]
        for at in range(0, len(keep), REPAIRED):
            near = made[at : at + REPAIRED]
            gone = dead[np.minimum(near, len(links))]
            hit = np.flatnonzero(gone.any(1))
            if len(hit) == 0:
                continue
            near, gone, owners = near[hit], gone[hit], keep[at + hit]
            most = int(gone.sum(1).max())
            first = np.argsort(~gone, axis=1, kind="stable")[:, :most]
            lost, there = np.take_along_axis(near, first, 1), np.take_along_axis(gone, first, 1)
            # the first links of a row are the nearest as a rule
            through = links[np.where(there, lost, 0), : max(1, min(self.degree, (CANDIDATES - self.degree) // most))]
            through[~there] = NONE
            cand = np.concatenate([near, through.reshape(len(hit), -1)], 1)
            cand[dead[np.minimum(cand, len(links))] | (cand == owners[:, None])] = NONE
            cand.sort(1)
            cand[:, 1:][cand[:, 1:] == cand[:, :-1]] = NONE
            cand.sort(1)
            made[at + hit] = self._chosen(codes, sums, owners, cand[:, : max(self.degree, int((cand != NONE).sum(1).max()))])
        return made

    def _chosen(self, codes: np.ndarray, sums: np.ndarray, owners: np.ndarray, cand: np.ndarray) -> np.ndarray:
        """The links that rows choose of candidates, as when they are built."""
        there = cand[cand != NONE].astype(np.int64)
        names = np.concatenate([owners, np.setdiff1d(there, owners)])
        # names among these few
        at = np.argsort(names, kind="stable")
        local = np.full(cand.shape, NONE, np.uint32)
        local[cand != NONE] = at[np.searchsorted(names[at], there)]
        table = aligned((len(names), cand.shape[1]), np.uint32)
        table[: len(owners)] = local
        chosen = self._kernels.code_shrink(taken(codes, names), taken(sums, names), self._built, table, 0, len(owners), self.degree, LOOSE)
        made: np.ndarray = np.where(chosen == NONE, NONE, names[np.where(chosen == NONE, 0, chosen)]).astype(np.uint32)
        return made

    # -- searching -------------------------------------------------------------------------------

    def _ready(self) -> Any:
        """Rows, links and codes for the kernels."""
        if self._net is None:
            above = (self._above.net(self._coded), self._above.rows.array) if len(self._above) else None
            pages, hot, slot, points, ahead = lying(self._vectors, self._layout)
            if self._on_pages:
                place, links = slot, np.empty((0, self.degree), np.uint32)
            else:
                place, links = np.empty(self._done, np.int32), self._links.array
                place[self._order] = np.arange(self._done, dtype=np.int32)
            net = self._coded.net(np.empty((0, self.dim), np.float32), above=above)
            self._net = self._kernels.page_net(net, pages, hot, self._order, place, slot, points, links, len(self._order), ahead)
        return self._net

    def _near(  # type: ignore[override]
        self, queries: np.ndarray, k: int, mask: np.ndarray | None, ef: int | None = None, beam: int | None = None, **params: Any
    ) -> Found:
        check_counts(ef=ef, beam=beam)
        n = len(self._vectors)
        matches = n if mask is None else int(np.count_nonzero(mask))
        if matches == n:
            mask = None
        width, ahead = max(self.ef if ef is None else int(ef), k), min(int(beam or self.beam), BEAM)
        if self._done == 0 or width >= matches or k == 0:
            return self._exact(queries, k, mask)
        if mask is not None and matches * SCANNED <= READ * width * (n / matches):
            return self._counted(*self._kernels.page_scan(self._ready(), queries, k, width, mask))
        # enough of what the mask allows among as many
        found = self._counted(*self._kernels.page_search(self._ready(), queries, k, min(n, int(width * (n / matches))), ahead, mask))
        short = found[0][:, -1] < 0
        if short.any():
            # more equal rows than links lead to
            found[0][short], found[1][short] = self._counted(*self._kernels.page_scan(self._ready(), queries[short], k, width, mask))
        return found

    def _counted(self, ids: np.ndarray, far: np.ndarray, reads: int) -> Found:
        if isinstance(self._vectors, Paged):
            self._vectors.count(reads)
        return ids, far

    def _exact(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Found:
        """Every row that the mask allows, read in order."""
        allowed = np.arange(len(self._vectors)) if mask is None else np.flatnonzero(mask)
        ids, far = np.full((len(queries), k), -1), np.full((len(queries), k), np.inf, np.float32)
        for at in range(0, len(allowed), 16384):
            some = allowed[at : at + 16384]
            near, new = self._kernels.topk(queries, self._vectors.take(some), k, self._code, None)
            ids, far = np.concatenate([ids, np.where(near >= 0, some[near], -1)], 1), np.concatenate([far, new], 1)
            best = np.argsort(far, axis=1, kind="stable")[:, :k]  # rows rise: ties go to the lower
            ids, far = np.take_along_axis(ids, best, 1), np.take_along_axis(far, best, 1)
        return ids, far

    # -- as bytes --------------------------------------------------------------------------------

    def _small(self) -> dict[str, np.ndarray]:
        """What a loaded index holds in memory."""
        own: dict[str, np.ndarray] = {**self._above.arrays(), "order": self._order}
        return {**own, "out": np.array([self._out, self._laid], np.int64), **self._coded.arrays()}

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._coded.grid is None:
            return {}
        pages = self._vectors.pages if self._on_pages else self._layout.written(self._vectors, self._links.array, self._order)  # type: ignore[attr-defined]
        return {**self._small(), "pages": pages}

    def _saved_rows(self) -> dict[str, np.ndarray]:
        return super()._saved_rows() if self._coded.grid is None else {}

    def to_sections(self, *, include_vectors: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        header, arrays = super().to_sections(include_vectors=include_vectors)
        # the pages hold the rows, of a segment too
        return {**header, "whole": include_vectors}, arrays

    def _stored(self, header: dict[str, Any], arrays: dict[str, np.ndarray], vectors: np.ndarray | None) -> Any:
        n, pages, order = int(header["rows"]), arrays.get("pages"), arrays.get("order")
        fits = header["whole"] or (vectors is not None and vectors.shape == (n, self.dim))
        if pages is None or not fits:
            return super()._stored(header, arrays, vectors)
        units = self._layout.units(n)
        if pages.shape != (units * self._layout.span, 4096) or order is None or order.shape != (n,) or order.dtype != np.uint32:
            raise CorruptionError(f"{n} rows of {self.dim} with {self.degree} links in pages {pages.shape}, and no order of them")
        if n and (int(order.max()) >= n or (np.bincount(order, minlength=n) != 1).any()):
            raise CorruptionError(f"the order of {n} rows in pages names some twice")
        return Paged(pages, order, self._layout, self.cache)

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        n = len(self._vectors)
        if "pages" not in arrays:
            super()._restore(arrays)
            return
        # these are looked at by every query: a map's pages would come and go
        held = {name: _private(array) for name, array in arrays.items() if name != "pages"}
        self._coded.restore(held, n)
        if held["out"].shape != (2,) or held["out"].dtype != np.int64 or not 0 <= int(held["out"][1]) <= n:
            raise CorruptionError(f"of {n} rows of a diskann index {held['out']} were beyond the grid and laid out")
        self._above.restore(held, n)
        self._order = held["order"]
        self._out, self._laid = (int(value) for value in held["out"])
        self._done, self._on_pages, self._net = n, True, None

    def memory(self) -> dict[str, int]:
        """Bytes by part in a file; all but ``pages`` are in memory once it is loaded, and the cache."""
        if self._coded.grid is None:
            return super().memory()
        kept = {"ids": self._ids, "alive": self._alive}
        parts = {name: array.nbytes for name, array in self._small().items()} | {name: rows.array.nbytes for name, rows in kept.items() if rows is not None}
        parts["pages"] = self._pages * 4096
        return {**parts, "total": sum(parts.values())}

    @property
    def _pages(self) -> int:
        return self._layout.units(len(self._order)) * self._layout.span

    def stats(self) -> dict[str, Any]:
        """With ``page_reads`` since it was loaded (none before: all is in memory), and ``resident``, the bytes that a loaded index keeps in memory."""
        cached = int(np.ceil(self.cache * self._layout.units(len(self._order)))) * self._layout.span
        parts = self.memory()
        return {
            **super(FQG, self).stats(), "quant": f"int{self._coded.bits}", "degree": self.degree, "pages": self._pages, "cached_pages": cached,
            "rows_a_page": self._layout.per / self._layout.span, "page_reads": getattr(self._vectors, "reads", 0),
            "resident": parts["total"] - parts.get("pages", 0) + 4096 * cached + 4 * len(self._order),
        }  # fmt: skip


def _private(array: np.ndarray) -> np.ndarray:
    made = aligned(array.shape, array.dtype)
    made[...] = array
    return made
