"""Arguments and checks for the kernels over quantized rows; see kernels.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from ..indexes.paged import Layout
from ..indexes.rows import Rows
from ..kernels import Kernels, numpy_codes, numpy_pages, numpy_pq
from ..kernels.contract import COSINE, HAMMING, IP, KERNELS, L1, L2
from ..kernels.numpy_pq import packed
from ..pages import PAGE, seal

Args = tuple[Any, ...]


def _codes(rng: np.random.Generator, metric: int, n: int, d: int) -> list[Any]:
    codes = np.full((n, -(-d // 64) * 64), 128, np.uint8)
    codes[:, :d] = rng.integers(100, 156, (n, d)) if metric != HAMMING else rng.integers(127, 129, (n, d))
    values = codes.astype(np.int32) - 128
    return [codes, np.stack([(values**2).sum(1), values.sum(1)], 1).astype(np.int32), metric]


def _links(rng: np.random.Generator, n: int, width: int, most: int) -> np.ndarray:
    links = np.full((n, width), 0xFFFFFFFF, np.uint32)
    for i in range(n):
        near = rng.permutation(n)[: rng.integers(0, most + 1)]
        links[i, : len(near)] = near[near != i][:width].tolist() + [0xFFFFFFFF] * max(0, len(near) - (near != i).sum())
    return links


def _code_link(rng: np.random.Generator) -> Iterator[Args]:
    for metric in range(5):
        for n, d in ((2, 3), (40, 64), (150, 70)):
            have = n if metric % 2 else n - n // 4
            links = _links(rng, n, 9, min(9, n - 1))
            links[have:] = 0xFFFFFFFF
            links[links >= have] = 0xFFFFFFFF
            links = np.sort(links, axis=1)
            nodes, starts = np.arange(0 if have == n else have, n), np.unique(rng.integers(0, have, 5)).astype(np.uint32)
            made = _codes(rng, metric, n, d)
            yield *made, links, nodes, starts, None, 12, 6, 310
            rows = np.sort(rng.permutation(have)[: have // 2 + 1]).astype(np.uint32)
            top = (made[0][rows], made[1][rows], _links(rng, len(rows), 5, min(5, len(rows) - 1)), rows)
            yield *made, links, nodes, starts[:0], top, 12, 6, 310
            yield *made, links, np.arange(n), starts[:0], None, 12, 6, 310


def _code_reverse(rng: np.random.Generator) -> Iterator[Args]:
    for metric in range(5):
        for part, parts in ((0, 1), (0, 2), (1, 2)):
            yield *_codes(rng, metric, 90, 40), _links(rng, 90, 7, 7), _links(rng, 90, 5, 5)[60:], rng.permutation(90)[:30], 256, part, parts


def _code_shrink(rng: np.random.Generator) -> Iterator[Args]:
    for metric in range(5):
        yield *(a[:70] if isinstance(a, np.ndarray) else a for a in _codes(rng, metric, 90, 40)), _links(rng, 90, 12, 12), 10, 60, 6, 310


def _code_near(rng: np.random.Generator) -> Iterator[Args]:
    for metric in range(5):
        for n, d, k in ((1, 3, 2), (40, 64, 7), (150, 70, 12)):
            made = _codes(rng, metric, n, d)
            yield *made, np.arange(n), np.sort(rng.permutation(n)[: n // 2 + 1]).astype(np.uint32), k
            yield *made, rng.permutation(n)[: n // 2], np.arange(n, dtype=np.uint32), k
            yield *made, np.arange(n), np.empty(0, np.uint32), k
        yield *made, np.arange(n), np.arange(n, dtype=np.uint32), 0


def _nets(rng: np.random.Generator) -> Iterator[tuple[Args, np.ndarray]]:
    """(arguments of `code_net`, queries): whole numbers, so that estimates and distances are the same in every backend."""
    for metric, bits in ((0, 8), (0, 4), (1, 8), (1, 4), (2, 8), (2, 4), (3, 8), (4, 8)):
        for n, d in ((3, 5), (200, 40), (120, 150)):
            values = rng.integers(0, 16, (n, d)) if bits == 4 else rng.integers(-127, 128, (n, d))
            if metric == HAMMING:
                values = values & 1
            points = (2 * values - 15 if bits == 4 else values).astype(np.float32)
            width = 128 if bits == 4 else 64
            codes: Any = np.zeros((n, -(-d // width) * width), np.uint8) if bits == 4 else np.full((n, -(-d // width) * width), 128, np.uint8)
            codes[:, :d] = values if bits == 4 else values + 128
            if bits == 4:
                lines = codes.reshape(n, -1, 2, 64)
                codes = (lines[:, :, 0] | lines[:, :, 1] << 4).reshape(n, -1)
            norms = (points**2).sum(1)
            scale = (1 / np.sqrt(np.maximum(norms, 1))).astype(np.float32) if metric == COSINE else np.ones(n, np.float32)
            squares = {0: norms, 2: np.zeros(n)}.get(metric, np.empty(0)).astype(np.float32)
            factors = np.ones(n if bits == 4 else 0, np.float32)
            if metric == COSINE and bits == 4:
                factors = scale.copy()
            queries = np.concatenate([points[:2], np.where(np.arange(d) % 3 == 0, 127.0, -1.0)[None]]).astype(np.float32)
            links = _links(rng, n, 8, min(8, n - 1))
            yield (points, scale, metric, np.zeros(d, np.float32), 1.0, codes, squares, factors, bits, links, None, None), queries


def _code_net(rng: np.random.Generator) -> Iterator[Args]:
    for args, _ in _nets(rng):
        yield args


def _code_forest(rng: np.random.Generator) -> Iterator[Args]:
    for args, _ in _nets(rng):
        yield _forest(args)


def _code_search(rng: np.random.Generator) -> Iterator[Args]:
    for args, queries in _nets(rng):
        n = len(args[0])
        for mask in (None, (rng.random(n) < 0.4).astype(np.uint8)):
            yield args, queries, 3, 12, 7, mask
            yield args, queries, 3, 12, 7, mask, rng.integers(0, n, (len(queries), 5)).astype(np.uint32)


def _code_one(rng: np.random.Generator) -> Iterator[Args]:
    for args, queries in _nets(rng):
        for query in (queries[0], queries[-1], queries[0].astype(np.float64), np.full_like(queries[0], np.nan), queries[0][:-1]):
            yield args, query, 3, 12, 7


def _code_scan(rng: np.random.Generator) -> Iterator[Args]:
    for args, queries in _nets(rng):
        n = len(args[0])
        for mask in (None, (rng.random(n) < 0.4).astype(np.uint8), np.zeros(n, np.uint8)):
            yield args, queries, 3, 7, mask


def _code_ranges(rng: np.random.Generator) -> Iterator[Args]:
    for args, queries in _nets(rng):
        n = len(args[0])
        cuts = np.sort(rng.integers(0, n + 1, (len(queries), 6)), axis=1).reshape(len(queries), 3, 2)
        for mask in (None, (rng.random(n) < 0.4).astype(np.uint8)):
            yield args, queries, rng.permutation(n), cuts, 3, 7, mask
            yield args, queries, np.arange(n), cuts[:, :0], 3, 3, mask


def _code_estimates(rng: np.random.Generator) -> Iterator[Args]:
    for args, queries in _nets(rng):
        n = len(args[0])
        yield args, queries, rng.integers(-1, n, (len(queries), 70))
        yield (args[0][:0], *args[1:]), queries, rng.integers(0, n, (len(queries), 0))


def _page_net(rng: np.random.Generator) -> Iterator[Args]:
    """(arguments of a `code_net`, the rest of those of `page_net`), rows in pages, in memory or both by turns; with the queries."""
    for turn, (net, queries) in enumerate(_nets(rng)):
        points, links, (n, d) = net[0], net[9], net[0].shape
        layout, order = Layout(d, links.shape[1]), rng.permutation(n).astype(np.uint32)
        place = np.argsort(order).astype(np.int32)
        pages, hot = layout.written(Rows(points), links, order), np.empty((0, layout.span * numpy_pages.BODY), np.uint8)
        bare, here = (points[:0], *net[1:9], links[:0, :0], None, None), -1 - np.arange(n, dtype=np.int32)
        if turn % 4 < 2:
            if turn % 4:
                hot = np.ascontiguousarray(pages[: layout.span, : numpy_pages.BODY]).reshape(1, -1)
            yield bare, (pages, hot, order, place, place, points[:0], links[:0], n, False), queries
        elif turn % 4 == 2:
            yield bare, (pages[:0], hot, order, place, here, points, links, n, False), queries
        else:
            other, slot = rng.permutation(order), np.where(np.arange(n) % 3 > 0, place, here).astype(np.int32)
            yield bare, (pages, hot, other, np.argsort(other).astype(np.int32), slot, points, links, n, False), queries


def _page_search(rng: np.random.Generator) -> Iterator[Args]:
    for bare, rest, queries in _page_net(rng):
        for mask in (None, (rng.random(len(rest[2])) < 0.4).astype(np.uint8)):
            yield bare, rest, queries, 3, 9, 2, mask


def _page_scan(rng: np.random.Generator) -> Iterator[Args]:
    for bare, rest, queries in _page_net(rng):
        for mask in (None, (rng.random(len(rest[2])) < 0.4).astype(np.uint8)):
            yield bare, rest, queries, 3, 7, mask


def _pq_encode(rng: np.random.Generator) -> Iterator[Args]:
    for n, d, m, width, count in ((0, 4, 2, 2, 16), (9, 5, 3, 2, 16), (70, 8, 2, 4, 256)):
        yield rng.integers(-20, 20, (n, d)).astype(np.float32), rng.integers(-20, 20, (m, width, count)).astype(np.float32)


def _product(rng: np.random.Generator) -> Iterator[tuple[Args, np.ndarray]]:
    """(arguments of `pq_net`, queries): tables are whole numbers of step 1 (not for cosine), so that every backend ranks alike."""
    for metric in range(5):
        for n, d, m, count in ((5, 3, 3, 16), (200, 9, 9, 16), (90, 12, 12, 256)):
            books = rng.integers(0, 128, (m, 1, count)).astype(np.float32) / (1 if metric == IP else 2)
            books[:, 0, :2] = 0, books.max() if metric == HAMMING else 127 if metric == IP else 63.5
            codes = rng.integers(0, count, (n, m)).astype(np.uint8)
            points = np.stack([books[np.arange(m), 0, row] for row in codes])[:, :d]
            norms = (points**2).sum(1)
            scale = (1 / np.sqrt(np.maximum(norms, 1))).astype(np.float32) if metric == COSINE else np.ones(n, np.float32)
            blocks = -(-n // 32)
            bias = np.zeros(32 * blocks, np.float32)
            bias[:n] = norms if metric in (L2, L1, HAMMING) else 0
            whole = np.zeros((32 * blocks, m), np.uint8)
            whole[:n] = codes
            laid = packed(codes) if count == 16 else whole
            yield (points, scale, metric, books, laid, bias), rng.choice([-1.0, 1.0], (3, d)).astype(np.float32)


def _pq_net(rng: np.random.Generator) -> Iterator[Args]:
    for args, _ in _product(rng):
        yield args


def _pq_ranges(rng: np.random.Generator) -> Iterator[Args]:
    for args, queries in _product(rng):
        n, metric = len(args[0]), args[2]
        cuts = np.sort(rng.integers(0, n + 1, (len(queries), 6)), axis=1).reshape(len(queries), 3, 2)
        cuts[0] = [[0, n], [n, n], [0, 0]]
        base = rng.integers(0, 9, (len(queries), 3)).astype(np.float32)
        for mask in (None, (rng.random(n) < 0.4).astype(np.uint8)):
            yield args, queries, base, np.arange(n), cuts, 3, n if metric == COSINE else 6, mask
            yield args, queries, base[:, :0], np.arange(n), cuts[:, :0], 3, 3, mask


def _turn(rng: np.random.Generator) -> Iterator[Args]:
    for n, d, rounds in ((0, 4, 4), (5, 1, 2), (33, 3, 0), (40, 24, 4), (16, 64, 3)):
        for back in (False, True):
            yield rng.normal(size=(n, d)).astype(np.float32), rng.choice([-1, 1], (rounds, d)).astype(np.float32), back


def _scalar_encode(rng: np.random.Generator) -> Iterator[Args]:
    for bits, (n, d) in zip((1, 2, 3, 4, 5, 8), ((0, 3), (17, 1), (40, 9), (5, 24), (16, 7), (33, 12)), strict=True):
        x = (rng.standard_t(2, (n, d)) * 10).astype(np.float32)
        yield x, rng.normal(size=d).astype(np.float32), rng.uniform(0, 2, d).astype(np.float32), bits


def _grid_encode(rng: np.random.Generator) -> Iterator[Args]:
    """Values whose grids and errors are whole numbers of a power of two, so that every backend finds the same."""
    for bits, second, (n, d) in ((1, 0, (0, 3)), (2, 3, (17, 1)), (4, 0, (40, 24)), (4, 8, (5, 9)), (3, 1, (16, 70)), (8, 0, (33, 12))):
        whole = rng.integers(0, 2**bits, (n, d))
        whole[1:, :1], whole[1:, 1:2] = 0, 2**bits - 1  # the first row may have any range
        if n:
            whole[0] = 5
        yield (whole * 2.0 ** rng.integers(-3, 3, (n, 1)) - 2).astype(np.float32), bits, second, np.array([1, 0.5][: 1 + d % 2], np.float32)


def _angle_encode(rng: np.random.Generator) -> Iterator[Args]:
    for bits, (n, d) in ((1, (0, 3)), (1, (17, 1)), (4, (40, 24)), (3, (5, 9)), (8, (33, 12))):
        x = rng.integers(-7, 8, (n, d)).astype(np.float32)
        x[1:, :1] = -8
        x[:1] = 0
        yield x, bits, np.array([1, 0.5][: 1 + (bits > 1)], np.float32)


def _half_encode(rng: np.random.Generator) -> Iterator[Args]:
    bits = rng.integers(0, 2**32, (64, 33), dtype=np.uint32).view(np.float32)
    small = (rng.normal(size=(64, 33)) * 2.0 ** rng.integers(-30, 20, (64, 33))).astype(np.float32)
    for x in (np.where(np.isfinite(bits), bits, np.float32(0)), small, np.array([[65504, 65519.9, -65520, 2**-24, 2**-25, 3 * 2**-26, -0.0, 3.4e38]], np.float32), small[:0]):
        for brain in (False, True):
            yield x, brain


ARGUMENTS: dict[str, Callable[[np.random.Generator], Iterator[Args]]] = {
    "turn": _turn, "scalar_encode": _scalar_encode, "grid_encode": _grid_encode, "angle_encode": _angle_encode, "half_encode": _half_encode,
    "code_link": _code_link, "code_reverse": _code_reverse, "code_near": _code_near, "code_shrink": _code_shrink, "code_forest": _code_forest, "code_net": _code_net, "code_search": _code_search, "code_one": _code_one, "code_scan": _code_scan, "code_ranges": _code_ranges, "code_estimates": _code_estimates, "page_net": _page_net, "page_search": _page_search, "page_scan": _page_scan, "pq_encode": _pq_encode, "pq_net": _pq_net, "pq_ranges": _pq_ranges,
}  # fmt: skip


def check_code_queries(name: str, kernels: Kernels, seed: int) -> None:
    """Nets are a backend's own; answers are compared by distance, since equal estimates of float32 may part in the last place."""
    reference = numpy_codes.Net
    for args in ARGUMENTS[name](np.random.default_rng(seed)):
        if name == "code_net":
            kernels.code_net(*args)
            for bad in ((0, args[0][:-1]), (3, args[3][:-1]), (5, args[5][:, 1:]), (6, np.ones(1, np.float32)), (8, 5)):
                try:
                    kernels.code_net(*args[: bad[0]], bad[1], *args[bad[0] + 1 :])
                except (InvalidArgumentError, ValueError):
                    continue
                raise AssertionError(f"code_net took a wrong argument {bad[0]}")
            continue
        net, rest = args[0], args[1:]
        if name == "code_estimates":
            want, got = KERNELS[name].define(reference(*net), *rest), kernels.code_estimates(kernels.code_net(*net), *rest)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)
            assert got.dtype == np.float32
            continue
        for rows in (None, np.arange(0, len(net[0]), 2, dtype=np.uint32)):
            made = [make(*_over(net, rows)) for make in (reference, kernels.code_net)] if rows is not None else [None, None]
            for forest in (None, _forest(net)) if name in ("code_search", "code_one") else (None,):
                planted = [None, None] if forest is None else [numpy_codes.Forest(*forest), kernels.code_forest(*forest)]
                nets = [make(*net[:-2], top, rows, f) for make, top, f in zip((reference, kernels.code_net), made, planted, strict=True)]
                _same_answers(name, KERNELS[name].define, getattr(kernels, name), nets, rest)


def check_forests(name: str, kernels: Kernels, seed: int) -> None:
    """What does not fit together is refused; where walks begin is seen by what they find."""
    for args in ARGUMENTS[name](np.random.default_rng(seed)):
        kernels.code_forest(*args)
        for bad in ((0, args[0][:1]), (1, args[1][:, 1:].copy()), (2, args[2][:1]), (3, args[3][:1]), (4, 33), (5, 0), (5, 256)):
            try:
                kernels.code_forest(*args[: bad[0]], bad[1], *args[bad[0] + 1 :])
            except InvalidArgumentError:
                continue
            raise AssertionError(f"code_forest took a wrong argument {bad[0]}")


def check_pages(name: str, kernels: Kernels, seed: int) -> None:
    """As `check_code_queries`; the same pages are read, and a damaged one or links that lead astray are found."""
    for number, (bare, rest, *asked) in enumerate(ARGUMENTS[name](np.random.default_rng(seed))):
        if name == "page_net":
            net = kernels.code_net(*bare)
            kernels.page_net(net, *rest)
            lies = ((0, np.zeros((1, PAGE + 1), np.uint8)), (2, rest[2][1:]), (3, rest[3] * 0), (4, rest[4] - len(rest[5]) - 999), (4, rest[4] + 9999), (5, np.ones((0, 1), np.float32)))
            for at, wrong in lies:
                try:
                    kernels.page_net(net, *rest[:at], wrong, *rest[at + 1 :])
                except (InvalidArgumentError, ValueError):
                    continue
                raise AssertionError(f"page_net took a wrong argument {at}")
            continue
        # every other walk begins by a graph above
        rows = None if number // 2 % 2 else np.arange(0, len(rest[2]), 2, dtype=np.uint32)
        nets: list[Any] = []
        both: tuple[tuple[Any, Any], ...] = ((numpy_codes.Net, KERNELS["page_net"].define), (kernels.code_net, kernels.page_net))
        for make, pages in both:
            top = None if rows is None else make(*_over((asked[0].repeat(len(rest[2]), 0)[: len(rest[2])], *bare[1:]), rows))
            nets.append(pages(make(*bare[:-2], top, rows), *rest))
        _same_answers(name, KERNELS[name].define, getattr(kernels, name), nets, tuple(asked))
        reads = [of(net, *asked)[2] for of, net in zip((KERNELS[name].define, getattr(kernels, name)), nets, strict=True)]
        assert reads[0] == reads[1], f"{name} read {reads[1]} pages, wanted {reads[0]}"
        if rest[4].min() >= 0 and len(rest[1]) == 0 and asked[-1] is None:
            for fault in ("damaged", "links"):
                pages = rest[0].copy()
                pages[:, :4092] ^= 0 if fault == "links" else 1
                if fault == "links":
                    pages[:, :4088:4] |= 0x80
                    pages[:, 3:4088:4] = 0x40
                    seal(pages)
                try:
                    getattr(kernels, name)(kernels.page_net(kernels.code_net(*bare), pages, *rest[1:]), *asked)
                except CorruptionError as why:
                    assert fault in str(why), why
                    continue
                raise AssertionError(f"{name} took pages with {fault}")


def check_product_queries(name: str, kernels: Kernels, seed: int) -> None:
    """As `check_code_queries`."""
    for args in ARGUMENTS[name](np.random.default_rng(seed)):
        if name == "pq_ranges":
            nets = [make(*args[0]) for make in (numpy_pq.Net, kernels.pq_net)]
            _same_answers(name, KERNELS[name].define, kernels.pq_ranges, nets, args[1:])
            continue
        kernels.pq_net(*args)
        for bad in ((0, args[0][:-1]), (1, args[1][:-1]), (3, args[3][:, :, 1:].copy()), (4, args[4][:-1]), (5, args[5][:-1])):
            try:
                kernels.pq_net(*args[: bad[0]], bad[1], *args[bad[0] + 1 :])
            except (InvalidArgumentError, ValueError):
                continue
            raise AssertionError(f"pq_net took a wrong argument {bad[0]}")


def _forest(net: Args) -> Any:
    """Two tables over most rows, their planes along a few dimensions, so that sides are sums of few whole numbers."""
    points, n = net[0], len(net[0])
    rng = np.random.default_rng(n)
    planes = np.zeros((2, 32, points.shape[1]), np.float32)
    for table in planes:
        table[np.arange(32), rng.integers(0, points.shape[1], 32)] = rng.choice([-1, 1], 32)
    shifts = np.full((2, 32), 0.25, np.float32)
    some = np.arange(0, max(1, n - 2))
    sides = np.einsum("nd,tbd->ntb", points[some] * net[1][some, None], planes) > shifts
    keys = np.packbits(sides, axis=2).view(">u4")[:, :, 0].astype(np.uint32).T
    order = np.argsort(keys, axis=1, kind="stable")
    return planes, shifts, np.ascontiguousarray(np.take_along_axis(keys, order, 1)), order.astype(np.uint32), 3, 4


def _over(net: Args, rows: np.ndarray) -> Args:
    """The net of some rows, each linked to the next few."""
    points, scale, metric, mean, step, codes, squares, factors, bits = net[:9]
    links = (np.arange(len(rows))[:, None] + np.arange(1, 4)) % len(rows)
    cut = [a[rows] if len(a) else a for a in (squares, factors)]
    return points[rows], scale[rows], metric, mean, step, codes[rows], *cut, bits, links.astype(np.uint32), None, None


def _same_answers(name: str, define: Any, run: Any, nets: list[Any], rest: Args) -> None:
    want, got = define(nets[0], *rest), run(nets[1], *rest)
    assert (got is None) == (want is None), f"{name}: {got}, wanted {want}"
    if want is not None:
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6, err_msg=name)
        assert got[0].dtype == np.int64 and got[1].dtype == np.float32
        assert ((got[0] < 0) == (want[0] < 0)).all() and (got[0] == want[0]).mean() > 0.9, f"{name}: {got[0]}, wanted {want[0]}"
