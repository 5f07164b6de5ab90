"""The flat quantized graph: one level, built and walked on small codes, answered from the full rows.

After Vamana (Subramanya et al., NeurIPS 2019), without the hierarchy (Munyampirwa et al., arXiv 2412.01940), with codes of 4 or 8
bits (Aguerrebere et al., PVLDB 2023) and rows inserted in batches that see the graph as it was before them (Manohar et al.,
PPoPP 2024), so that the graph does not depend on the number of threads. Distances between codes are whole numbers: one graph on
every machine.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError, UnknownNameError
from ..kernels.contract import IP, L2
from ..kernels.numpy_codes import entries
from ..registry import near
from . import REGISTRY
from .above import NONE, Above
from .base import Found, VectorIndex
from .carry import KNOWN, LOST, connect, kept_links, leads_inside, numbers
from .codes import CodedRows
from .dial import dialled
from .forest import BITS, Forest
from .forest import BLOCK as PLANTED
from .leaves import Leaves, leaf_bytes
from .params import SEEDS, check_counts, settled
from .rows import Rows, aligned

ENTRIES = ("forest", "top")
# rows are held flat until there are so many to learn a grid from
LEAST = 256
# a batch is at most this share of the rows that are linked, and this many
SHARE, BATCH = 16, 2048
# rows whose codes are made again at a time
BLOCK = 65536
# over this share of rows that stick out of the grid it is learned again
DRIFT = 0.05
# a graph above is there from so many rows on, and a forest
TOP_LEAST = 4096
# squared, in 256ths: links of the last pass may be 1.1 times as far as what is reached through others
TIGHT, LOOSE = 256, 310
# where walks begin: tables, keys asked for in each, rows around each key
TREES, KEYS, AROUND = 4, 2, 8
# nanoseconds, for the choice between scan and walk: a row that a filter leaves out, a row scanned, a row walked to
PASSED, SCANNED, WALKED = 0.03, 8.5, 22.0


@REGISTRY.register("fqg")
class FQG(VectorIndex):
    """``degree`` links a row, found by a beam of ``ef_construction`` in ``passes`` passes; walked over codes of ``quant`` (int4, int8;
    auto: int4 from 128 dimensions where it tells neighbours apart) with a beam of ``ef``, whose ``rerank`` nearest (0: all) are looked at in full, until the
    error seen allows no more. Walks of queries begin at rows that are hashed alike (``entries`` forest, from 4,096 rows on) or at the nearest of a
    small graph above, where walks of the build do (top).

    Build about O(n log n), ``ef_construction * degree`` code distances a row and pass; search O(ef log n). Memory 4 ``degree`` + d / 2
    (int4) or d (int8) bytes a row beside the vectors. ``ef`` and ``rerank`` are search parameters too.
    """

    name = "fqg"
    search_params: ClassVar[tuple[str, ...]] = ("ef", "rerank")
    dial = "ef"
    # rows from which on walks begin by hashing
    planted_from: ClassVar[int] = TOP_LEAST
    # of so many rows one is in the graph above, with so many links
    above: tuple[int, int] = (64, 16)

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, degree: int = 32,
        ef_construction: int = 64, passes: int = 2, quant: str = "auto", ef: int = 64, rerank: int = 0, entries: str = "forest",
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.degree, self.ef_construction, self.passes, self.ef, self.rerank, self.seed = settled(
            self.name, degree=(degree, 4, 512), ef_construction=(ef_construction, 1, 100_000), passes=(passes, 1, 4), ef=(ef, 1, 1_000_000),
            rerank=(rerank, 0, 1_000_000), seed=(seed, *SEEDS),
        )  # fmt: skip
        if entries not in ENTRIES:
            raise UnknownNameError(f"fqg: entries={entries!r}; {near(str(entries), ENTRIES)}")
        self.quant, self.entries = quant, entries
        super().__init__(dim, metric, kernel, threads)
        self._check_quant()

    def _settings(self) -> dict[str, Any]:
        return {
            "degree": self.degree, "ef_construction": self.ef_construction, "passes": self.passes, "quant": self.quant, "ef": self.ef,
            "rerank": self.rerank, "entries": self.entries, "seed": self.seed,
        }  # fmt: skip

    def _check_quant(self) -> None:
        CodedRows.check(self.name, self.dim, self._code, self.quant)

    def _clear(self) -> None:
        self._coded = CodedRows(self.dim, self._code, self.quant, self._kernels)
        self._links = Rows(np.empty((0, self.degree), np.uint32))
        # the graph in which walks find where to begin
        share, width = self.above
        self._above = Above(share, min(width, self.degree), self.seed)
        # or the hashed keys by which they find it
        self._forest: Forest | None = None
        # 8-bit codes and their sums while rows are being added
        self._eight: tuple[Rows, Rows] | None = None
        # rows linked, and those that the grid does not hold
        self._done = self._out = 0
        # rows linked and to link, in all passes, of the addition at work
        self._work: list[float] = [0, 1]
        self._net: Any = None
        # the kernel of one query, while nothing stands in its way
        self._short: Any = None

    @property
    def _built(self) -> int:
        """The metric that links are made by: rows lifted onto a sphere have squared distances for products."""
        return L2 if self._code == IP else self._code

    def _row_bytes(self) -> tuple[int, int]:
        codes, eight = self._coded.row_bytes()
        # links have half as much room again while they are made, and are then put together; lifted rows are coded once more
        begun = leaf_bytes(self.degree) if self.passes > 1 else 0
        return codes + 4 * self.degree + 8 * self._trees[0], eight * (2 if self._code == IP else 1) + 64 + 6 * self.degree + begun

    # -- building --------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Learn mean and step of the codes from a sample (n, dim); rows that are there are built anew."""
        rows = self._check(x, "x")
        if len(rows):
            self._clear()
            self._coded.learn(rows, self.seed, self.budget)
            if len(self._vectors):
                self._insert(0, len(self._vectors))
        return self

    def _check_count(self, n: int) -> None:
        if n >= 2**31:
            raise InvalidArgumentError(f"{n} rows in one {self.name}; give fewer than 2**31")

    def _insert(self, start: int, stop: int) -> None:
        self._check_count(stop)
        self._cut(start)
        fresh = self._coded.grid is None
        if fresh:
            if stop < LEAST:
                return
            self._coded.learn(self._vectors.part(0, stop), self.seed, self.budget)
        start = self._done
        self._encode(start, stop)
        if self._out > DRIFT * stop and not fresh:
            # what came is not like what the grid was learned from: all anew
            self._clear()
            self._insert(0, stop)
            return
        self._build(start, stop)
        if stop - start > stop // 8:
            # made again from the rows if more come one by one
            self._eight = None
            self._above.finished()

    def _encode(self, start: int, stop: int) -> None:
        rows = self._vectors.part(start, stop)
        codes, sums, out = self._coded.append(rows)
        self._out += out
        if start == 0:
            self._coded.settle(rows, (codes, sums), self.seed)
        else:
            self._to_build_with(start)
        self._keep(start, codes, sums)

    def _to_build_with(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """8-bit codes and sums of the first n rows."""
        if self._eight is None:
            assert self._coded.grid is not None
            for at in range(0, n, BLOCK):
                end = min(n, at + BLOCK)
                self._keep(at, *self._coded.grid.eight(self._vectors.part(at, end), self._coded.scale.array[at:end])[:2])
        assert self._eight is not None
        return self._eight[0].array, self._eight[1].array

    def _keep(self, start: int, codes: np.ndarray, sums: np.ndarray) -> None:
        """8-bit codes of rows from ``start`` on, to build with."""
        assert self._coded.grid is not None
        if self._code == IP:
            codes, sums = self._coded.grid.lifted(self._vectors.part(start, start + len(codes)), codes, sums)
        if start == 0:
            self._eight = Rows(codes), Rows(sums)
            return
        assert self._eight is not None
        for rows, new in zip(self._eight, (codes, sums), strict=True):
            rows.append(new)

    def _build(self, start: int, stop: int) -> None:
        assert self._eight is not None
        codes, sums = (rows.array[:stop] for rows in self._eight)
        bulk = stop - start > start // 8
        if bulk:
            # rows have slack while many come: to thin one out costs as much as to find its links
            links = aligned((stop, self.degree + self.degree // 2), np.uint32)
            links[:] = NONE
            links[:start, : self.degree] = self._links.array
        else:
            self._links.append(np.full((stop - start, self.degree), NONE, np.uint32))
            links = self._links.array
        passes, first = self.passes if bulk else 1, len(self._above) == 0
        self._work = [0, passes * (stop - start)]
        try:
            if first:
                self._raise(codes, sums, 0)
            nodes = np.arange(start, stop)
            for number in range(passes):
                alpha = LOOSE if number == passes - 1 else TIGHT
                if number > 0:
                    self._batches(codes, sums, links, nodes, stop, None, alpha, True, start)
                elif start == 0 and passes > 1 and stop >= TOP_LEAST:
                    nodes = Leaves(codes, sums, self._built, self.seed, self.threads, self._kernels, self._told).link(links, self.degree, alpha)
                    self._done = stop
                else:
                    self._pass(codes, sums, links, nodes, alpha)
            if not first:
                self._raise(codes, sums, start)
        finally:
            # broken off, the rows linked so far stay
            if bulk or self._done < stop:
                self._links = Rows(self._shrunk(codes, sums, links))
            self._above.cut(self._done)
            if bulk and not self._carrying:
                connect(self._links.array, self._begins())
            self._net = self._short = None
        if bulk and not self._carrying:
            self._plant()

    def _plant(self) -> None:
        self._forest = None
        if self.entries == "forest" and self._done >= self.planted_from:
            step = self._at_once(PLANTED, 16 * BITS * self._trees[0] + 8 * self.dim)
            self._forest = Forest.plant(self._vectors.array[: self._done], self._coded, self._trees, self.seed, self._kernels, step)

    @property
    def _trees(self) -> tuple[int, int, int]:
        """Tables, keys asked for in each, rows around each key."""
        return TREES, KEYS, AROUND

    def _raise(self, codes: np.ndarray, sums: np.ndarray, start: int) -> None:
        """Link rows from ``start`` on into the graph above: in tight clusters a walk from anywhere would end in the first one it meets."""
        have, new = len(self._above), self._above.members(start, len(codes))
        if len(codes) < TOP_LEAST or len(new) == 0:
            return
        try:
            self._above.take(new, codes, sums)
            above = *self._above.eight(codes, sums), self._above.links.array
            self._batches(*above, np.arange(have, have + len(new)), have, None, LOOSE, False)
        except BaseException:
            # there may be links to rows that have none; all join again with the next that come
            self._above.forget()
            raise

    def _pass(self, codes: np.ndarray, sums: np.ndarray, links: np.ndarray, nodes: np.ndarray, alpha: int) -> None:
        """Insert rows, the last ones."""
        top, start = None, int(nodes[0])
        if len(self._above):
            rows = self._above.rows.array
            top = *self._above.eight(codes, sums), self._above.links.array, rows
            above = rows[rows >= start].astype(np.int64)
            if len(above):
                # those above first: others begin at them
                self._batches(codes, sums, links, above, start, None, alpha, False)
                self._batches(codes, sums, links, np.setdiff1d(nodes, above), start + len(above), top, alpha, False, start)
                return
        self._batches(codes, sums, links, nodes, start, top, alpha, False, start)

    def _batches(
        self, codes: np.ndarray, sums: np.ndarray, links: np.ndarray, nodes: np.ndarray, have: int, top: Any, alpha: int, again: bool,
        start: int | None = None,
    ) -> None:  # fmt: skip
        """Link some rows, beside ``have`` that are; each batch sees the graph as it was before. ``again``: rows that have links, where their walks begin."""
        at, none = 0, np.empty(0, np.uint32)
        linked = np.arange(have) if top is None and have and not again else nodes[:0]
        if have == 0:
            at, linked = 1, nodes[:1]
            self._note(nodes, 0, at, start)
        with ThreadPoolExecutor(self.threads) as pool:
            while at < len(nodes):
                end = min(len(nodes), at + min(BATCH, max(1, (have if again else have + at) // SHARE)))
                some, starts = nodes[at:end], none
                if top is None and not again:
                    there = np.concatenate([linked, nodes[:at]]) if have else nodes[:at]
                    starts = there[entries(len(there))].astype(np.uint32)

                def link(part: np.ndarray, starts: np.ndarray = starts) -> np.ndarray:
                    made: np.ndarray = self._kernels.code_link(
                        codes, sums, self._built, links, part, starts, top, self.ef_construction, min(self.degree, links.shape[1]), alpha
                    )
                    return made

                parts = min(self.threads, len(some))
                if parts == 1:
                    self._kernels.code_reverse(codes, sums, self._built, links, link(some), some, alpha, 0, 1)
                else:
                    out = np.concatenate(list(pool.map(link, np.array_split(some, parts))))
                    back = [
                        pool.submit(self._kernels.code_reverse, codes, sums, self._built, links, out, some, alpha, part, parts)
                        for part in range(parts)
                    ]
                    for done in back:
                        done.result()
                self._note(nodes, at, end, start)
                at = end

    def _note(self, nodes: np.ndarray, at: int, end: int, start: int | None) -> None:
        """Rows are whole up to the last of those that come in order."""
        if start is not None:
            self._done = max(self._done, int(nodes[end - 1]) + 1)
            self._told(end - at)

    def _told(self, rows: float) -> None:
        self._work[0] += rows
        self._tell(min(1.0, self._work[0] / self._work[1]))

    def _shrunk(self, codes: np.ndarray, sums: np.ndarray, links: np.ndarray) -> np.ndarray:
        n = self._done
        made: np.ndarray = self._kernels.code_shrink(codes[:n], sums[:n], self._built, links, 0, n, self.degree, LOOSE)
        return made

    def _begins(self) -> np.ndarray:
        """Rows that walks begin at."""
        return self._above.rows.array.astype(np.int64) if len(self._above) else entries(self._done) if self._done else np.empty(0, np.int64)

    def _cut(self, n: int) -> None:
        for part in (self._links, self._coded, *(self._eight or ())):
            part.cut(n)
        self._above.cut(n)
        self._done, self._net, self._short = min(self._done, n), None, None
        if self._forest is not None and n < self._forest.keys.shape[1]:
            self._forest = None

    def _inserted(self, stop: int) -> int:
        if self._coded.grid is None:
            return stop
        self._cut(self._done)
        return self._done

    # -- carried over to merged rows ---------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        return self._coded.grid is not None and known >= KNOWN * rows and known >= (1 - LOST) * len(self._vectors)

    def _select(self, rows: np.ndarray) -> None:
        place = numbers(rows, len(self._links))
        self._above.select(place)
        self._links = Rows(kept_links(self._links.array, rows))
        self._coded.select(rows)
        self._done, self._out = len(rows), min(self._out, len(rows))
        self._eight = self._forest = self._net = self._short = None

    def _finish(self) -> None:
        connect(self._links.array, self._begins())
        self._plant()

    # -- searching -------------------------------------------------------------------------------

    def search(self, queries: Any, k: int = 10, filter: Any = None, *, recall: float | None = None, **params: Any) -> Found:  # noqa: A002 - as users type
        if recall is not None:
            params = dialled(self, recall, params)
        # one plain query takes the short way: the checks of many cost more than its walk
        if filter is None and self._short is not None and type(k) is int:
            ef = params.get("ef", self.ef) if params else self.ef
            if type(ef) is int and len(params) == ("ef" in params):
                width = max(ef, k, self.rerank)
                found = self._short(self._net, queries, k, width, max(k, self.rerank) if self.rerank else width) if width < self._done else None
                if found is not None:
                    rows, distances = found
                    if self._code == L2:
                        np.sqrt(distances, out=distances)
                    return (rows if self._ids is None else self._ids.array[rows]), distances
        return super().search(queries, k, filter, **params)

    def _near(
        self, queries: np.ndarray, k: int, mask: np.ndarray | None, ef: int | None = None, rerank: int | None = None, **params: Any
    ) -> Found:
        check_counts(ef=ef, rerank=rerank)
        n = len(self._vectors)
        matches = n if mask is None else int(np.count_nonzero(mask))
        if matches == n:
            mask = None
        most = int(rerank or self.rerank)
        width = max(self.ef if ef is None else int(ef), k, most)
        depth = max(k, most) if most else width
        if self._done == 0 or (width >= matches and mask is None):
            rows, distances = self._kernels.topk(queries, self._vectors.array, k, self._code, mask)
            return rows, distances
        net = self._ready()
        scan, walk = self._costs(width, matches)
        if mask is not None and (width >= matches or scan <= walk):
            rows, distances = self._kernels.code_scan(net, queries, k, max(depth, min(width, matches)), mask)
            return rows, distances
        rows, distances = self._reach(net, queries, k, width, depth, mask, **params)
        # a walk can come back short: matches far from the query, or an island of equal rows
        if k and len(rows) and rows[:, k - 1].min() < 0:
            short = rows[:, k - 1] < 0
            rows[short], distances[short] = self._kernels.code_scan(net, queries[short], k, depth, mask)
        return rows, distances

    def _costs(self, width: int, matches: int) -> tuple[float, float]:
        """Microseconds expected of a scan of the matching codes, and of a walk under their filter."""
        return (len(self._vectors) * PASSED + matches * SCANNED) / 1e3, 16 * width * (len(self._vectors) / max(1, matches)) ** 0.6 * WALKED / 1e3

    def plan(self, k: int, matches: int, **params: Any) -> dict[str, Any]:
        width = max(int(params.get("ef") or self.ef), k, int(params.get("rerank") or self.rerank))
        if self._done == 0 or width >= matches:
            return {"way": "scan of the matching rows"}
        scan, walk = self._costs(width, matches)
        way = "walk" if matches == len(self._vectors) or scan > walk else "scan of the matching codes"
        return {"way": way, "scan_us": round(scan, 1), "walk_us": round(walk, 1)}

    def _reach(self, net: Any, queries: np.ndarray, k: int, ef: int, depth: int, mask: np.ndarray | None, **params: Any) -> Found:
        rows, distances = self._kernels.code_search(net, queries, k, ef, depth, mask)
        return rows, distances

    def _ready(self) -> Any:
        if self._net is None:
            forest = None if self._forest is None else self._forest.planted
            above = (self._above.net(self._coded), self._above.rows.array) if forest is None and len(self._above) else None
            self._net = self._coded.net(self._vectors.array, self._links.array, above, forest=forest)
            self._short = self._kernels.code_one if self._dead == 0 else None
        return self._net

    def remove(self, ids: Any) -> int:
        self._short = self._net = None
        return super().remove(ids)

    # -- as bytes --------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._coded.grid is None:
            return {}
        own: dict[str, np.ndarray] = {**self._above.arrays(), "out": np.array([self._out], np.int64), "links": self._links.array}
        return {**own, **self._coded.arrays(), **(self._forest.arrays() if self._forest is not None else {})}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        n = len(self._vectors)
        if "mean" not in arrays:
            if n >= LEAST:
                raise CorruptionError(f"an fqg index of {n} rows has no codes")
            return
        self._coded.restore(arrays, n)
        if not {"links", "out", "top_rows", "top_links"} <= set(arrays):
            raise CorruptionError(f"an fqg index of {n} rows has no graph")
        links, out = arrays["links"], arrays["out"]
        if links.shape != (n, self.degree) or links.dtype != np.uint32 or not leads_inside(links, n):
            raise CorruptionError(f"the graph of an fqg index of {n} rows is {links.dtype} {links.shape}, or leads beyond them")
        if out.shape != (1,) or out.dtype != np.int64:
            raise CorruptionError(f"an fqg index of {n} rows has a count of {out.dtype} {out.shape}")
        self._above.restore(arrays, n)
        self._links, self._done, self._out, self._net, self._short = Rows(links), n, int(out[0]), None, None
        self._forest = Forest.restore(arrays, n, self.dim, self._trees, self._kernels)

    def stats(self) -> dict[str, Any]:
        links = self._links.array
        return {
            **super().stats(), "quant": f"int{self._coded.bits}", "degree": self.degree,
            "entries": "forest" if self._forest is not None else "top", "mean_degree": float((links != NONE).sum() / len(links)) if len(links) else 0.0,
        }  # fmt: skip
