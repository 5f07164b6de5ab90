"""What is particular to the graph kernels, hnsw, flat and the index file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from blake3 import blake3

from lsmtensor import container, indexes, kernels
from lsmtensor.errors import CorruptionError, FormatVersionError, InvalidArgumentError, UnknownNameError
from lsmtensor.indexes.rows import Rows
from lsmtensor.testing.indexes import METRICS, recall, true_distances, vectors

NONE = 0xFFFFFFFF


def backends():
    return [b for b in ("numpy", "cython", "numba") if not kernels.available()[b].startswith("unavailable")]


def runs():
    """(backend, instruction set) of every graph kernel that runs here."""
    for backend in backends():
        if backend == "cython":
            from lsmtensor.kernels.cython import _graph

            yield from ((backend, isa) for isa, runs in _graph.compiled().items() if runs)
        else:
            yield backend, None


@pytest.fixture
def kernel_of():
    """The kernels of a backend under an instruction set, put back afterwards."""

    def choose(backend, isa):
        if isa is not None:
            from lsmtensor.kernels.cython import _graph

            assert _graph.set_isa(isa) and _graph.isa() == isa
        return kernels.choose(backend)

    yield choose
    if "cython" in backends():
        from lsmtensor.kernels.cython import _graph

        _graph.set_isa(os.environ.get("LSMTENSOR_ISA") or None)


def integers(seed, n, d):
    """Small whole numbers: every sum is exact, so every backend must walk and link alike, many ties included."""
    return np.random.default_rng(seed).integers(-2, 3, (n, d)).astype(np.float32)


def graph_of(rows, metric, backend):
    index = indexes.create("hnsw(m=4, ef_construction=20, quant=none)", dim=rows.shape[1], metric=metric, kernel=backend)
    index.add(rows)
    return index


# cosine divides: it rounds, and fused multiply-add rounds otherwise
@pytest.mark.parametrize("metric", sorted({*METRICS} - {"cosine"}))
@pytest.mark.parametrize("dim", [1, 7, 16, 33, 70])
def test_backends_build_and_walk_alike(metric, dim, kernel_of):
    rows, queries = integers(1, 250, dim), integers(2, 12, dim)
    mask = (np.random.default_rng(3).random(250) < 0.4).astype(np.uint8)
    seen = []
    for backend, isa in runs():
        kernel_of(backend, isa)
        index = graph_of(rows, metric, backend)
        graph = index._levels
        parts = [index._arrays()[name] for name in ("links", "upper", "levels", "state")]
        answers = []
        for k, ef, allowed in ((5, 5, None), (10, 30, None), (10, 10, mask), (1, 40, mask)):
            answers += index._kernels.graph_search(
                queries, rows, graph.scale.array, index._code, graph.links.array, graph.upper.array, graph.upper_at.array, graph.state, k, ef, allowed
            )
        seen.append((backend, isa, parts, answers))
    for backend, isa, parts, answers in seen[1:]:
        for mine, theirs in zip(parts, seen[0][2], strict=True):
            assert np.array_equal(mine, theirs), f"{backend} {isa} builds another graph than numpy"
        for mine, theirs in zip(answers, seen[0][3], strict=True):
            assert np.allclose(mine, theirs, rtol=1e-6, atol=1e-6), f"{backend} {isa} answers otherwise than numpy"


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_real_valued_rows_agree_in_recall(backend):
    if backend not in backends():
        pytest.skip(f"{backend} is not there")
    rows, queries = vectors(1, 2000, 31), vectors(2, 50, 31)
    for metric in METRICS[:4]:
        index = indexes.create("hnsw(m=8, ef=40, quant=none)", dim=31, metric=metric, kernel=backend)
        index.add(rows)
        ids, distances = index.search(queries, k=10)
        truth = true_distances(queries, rows, metric)
        assert np.allclose(distances, np.take_along_axis(truth, ids, 1), rtol=1e-4, atol=1e-4)
        assert recall(distances, truth, 10) > 0.9
        assert recall(index.search(queries, k=10, ef=500)[1], truth, 10) > 0.995


@pytest.mark.parametrize(("backend", "isa"), list(runs()))
def test_nan_and_overflow_stay_inside(backend, isa, kernel_of):
    """Values that an index refuses must still not lead a kernel astray."""
    kernel_of(backend, isa)
    rows = integers(1, 60, 4)
    rows[7], rows[30], rows[31] = np.nan, 3e38, -3e38
    for code in range(5):
        links, levels = np.full((60, 8), NONE, np.uint32), np.zeros(60, np.uint8)
        state, upper, at, scale = np.array([-1, 0]), np.empty((0, 4), np.uint32), np.zeros(60, np.int64), np.ones(60, np.float32)
        with np.errstate(all="ignore"):
            kernels.choose(backend).graph_insert(rows, scale, code, links, upper, at, levels, state, 0, 60, 10)
            ids, distances = kernels.choose(backend).graph_search(rows, rows, scale, code, links, upper, at, state, 10, 20, None)
        assert ((links < 60) | (links == NONE)).all() and (ids >= -1).all() and (ids < 60).all()
        assert not np.isnan(distances).any()


@pytest.mark.skipif("cython" not in backends(), reason="the compiled kernels are not there")
def test_compiled_kernels_refuse_what_does_not_fit():
    index = graph_of(integers(1, 20, 4), "l2", "cython")
    graph = index._levels
    good = dict(
        queries=np.zeros((2, 4), np.float32), points=index._vectors.array, scale=graph.scale.array, metric=0, links=graph.links.array,
        upper=graph.upper.array, upper_at=graph.upper_at.array, state=graph.state, k=3, ef=5, mask=None,
    )  # fmt: skip
    search = kernels.choose("cython").graph_search
    assert search(*good.values())[0].shape == (2, 3)
    wrong = {
        "queries": np.zeros((2, 5), np.float32), "scale": np.ones(19, np.float32), "links": graph.links.array[:19],
        "upper_at": graph.upper_at.array[:19], "k": 6, "mask": np.ones(19, np.uint8),
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(InvalidArgumentError):
            search(*{**good, name: value}.values())
    for name, value in {"points": index._vectors.array.astype(np.float64), "state": np.zeros(2, np.int32)}.items():
        with pytest.raises(ValueError, match="mismatch"):
            search(*{**good, name: value}.values())


def test_batches_do_not_change_the_graph():
    rows = vectors(1, 300, 8)
    whole, parts = (indexes.create("hnsw(m=6, quant=none)", dim=8, metric="cosine") for _ in range(2))
    whole.add(rows)
    for at in (0, 1, 2, 77, 290):
        parts.add(rows[at : {0: 1, 1: 2, 2: 77, 77: 290, 290: 300}[at]])
    assert whole.digest() == parts.digest()
    other = indexes.create("hnsw(m=6, seed=5, quant=none)", dim=8, metric="cosine")
    other.add(rows)
    assert other.digest() != whole.digest()


@pytest.mark.parametrize("spec", ["hnsw", "hnsw(quant=none)"])
def test_every_row_finds_itself(spec):
    """At a wide beam: rows that no link reaches would be missing."""
    rows = vectors(1, 3000, 16, 30)
    index = indexes.create(spec, dim=16)
    index.add(rows)
    found = index.search(rows, k=1, ef=200)[0][:, 0] == np.arange(3000)
    assert found.mean() > 0.998


def test_ef_and_settings_are_checked():
    for spec in ("hnsw(m=1)", "hnsw(ef_construction=-1)", "hnsw(m=2.5)", "hnsw(ef=true)", "hnsw(seed=-1)"):
        with pytest.raises(InvalidArgumentError, match="give a whole number"):
            indexes.create(spec, dim=3)
    with pytest.raises(UnknownNameError, match="did you mean 'hnsw'"):
        indexes.create("hsnw", dim=3)
    with pytest.raises(UnknownNameError, match="no parameter 'M'"):
        indexes.create("hnsw(M=4)", dim=3)
    with pytest.raises(InvalidArgumentError, match="give one"):
        indexes.create("hnsw(metric=l1)", dim=3, metric="ip")
    index = indexes.create("hnsw(m=4, metric=l1)", dim=3)
    assert index.metric == "l1" and str(index.spec) == "hnsw(m=4, metric=l1)" and indexes.create(index, dim=9) is index
    for ef in (0, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="ef="):
            index.search(np.zeros(3), ef=ef)


def test_a_broken_off_build_keeps_the_rows_it_linked(monkeypatch):
    rows = vectors(1, 3000, 4)
    index = indexes.create("hnsw(m=4, ef_construction=10, quant=none)", dim=4)
    index.add(rows[:10], ids=np.arange(10) * 2)
    insert, calls = index._kernels.graph_insert, []

    def interrupted(*arguments):
        insert(*arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setitem(index._kernels._functions, "graph_insert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.add(rows[10:], ids=np.arange(10, 3000) * 2)
    monkeypatch.undo()
    assert len(index) == 10 + 2 * 1024
    again = indexes.from_sections(*index.to_sections(include_vectors=True))
    assert again.digest() == index.digest()
    ids, _ = index.search(rows[:5], k=5)
    assert (ids >= 0).all() and ids.max() < 2 * len(index)
    index.add(rows[len(index) :], ids=np.arange(len(index), 3000) * 2)
    clean = indexes.create("hnsw(m=4, ef_construction=10, quant=none)", dim=4)
    clean.add(rows, ids=np.arange(3000) * 2)
    assert np.array_equal(index.search(rows[:50], k=5)[0], clean.search(rows[:50], k=5)[0])


def sections():
    index = graph_of(vectors(1, 200, 4), "cosine", None)
    header, arrays = index.to_sections(include_vectors=True)
    return json.loads(json.dumps(header)), {n: a.copy() for n, a in arrays.items()}


def damage(name, change):
    def apply(header, arrays):
        arrays[name] = change(arrays[name])

    return apply


def put(where, value):
    def change(array):
        array[where] = value
        return array

    return change


@pytest.mark.parametrize(
    "change",
    [
        damage("links", put((3, 0), 200)),
        damage("links", put((3, 7), 2**31)),
        damage("links", lambda a: a[:, :-1].copy()),
        damage("links", lambda a: a.astype(np.int32)),
        damage("upper", put((0, 0), 201)),
        damage("upper", lambda a: a[:-1]),
        damage("levels", put(0, 30)),
        damage("levels", lambda a: a[:-1]),
        damage("state", put(0, 200)),
        damage("state", put(0, -1)),
        damage("state", put(0, -2)),
        damage("state", put(1, 60)),
        damage("scale", lambda a: a[1:]),
        lambda header, arrays: arrays.pop("links"),
        lambda header, arrays: arrays.pop("scale"),
        lambda header, arrays: header.pop("dim"),
        lambda header, arrays: header.update(settings={"depth": 3}),
        lambda header, arrays: header.update(version="one"),
    ],
)
def test_a_hostile_graph_is_refused(change):
    header, arrays = sections()
    indexes.from_sections(header, arrays)
    change(header, arrays)
    with pytest.raises(CorruptionError, match="a.idx"):
        indexes.from_sections(header, arrays, where="a.idx")


def test_files_of_version_1_are_read():
    """They had no codes."""
    header, arrays = sections()
    del header["settings"]["quant"]
    index = indexes.from_sections({**header, "version": 1}, arrays)
    assert index.quant == "none" and np.array_equal(index.search(arrays["vectors"], k=1)[0][:, 0], np.arange(200))


def test_hnsw_over_codes_is_one_graph_however_it_is_made():
    """For every backend and number of threads; rows that come later join the graph above, in any batches the same rows."""
    rows = integers(1, 4600, 8) + np.arange(4600, dtype=np.float32)[:, None] % 7
    made = []
    for backend, threads in (("cython", 1), ("cython", 3), ("numba", 2)):
        if backend in backends():
            index = indexes.create("hnsw(m=4, ef_construction=16)", dim=8, kernel=backend, threads=threads)
            index.add(rows[:4200])
            index.add(rows[4200:])
            made.append(index._arrays())
    assert len(made[0]["top_rows"]) > 1000
    for other in made[1:]:
        assert all(np.array_equal(array, other[name]) for name, array in made[0].items())
    names = blake3(b"".join(made[0][name].tobytes() for name in ("links", "top_rows", "top_links"))).hexdigest()[:16]
    assert names == "73156ebb62b5f2bb", "bytes on disk are a promise: other links are a new version of the format"
    bit_by_bit = indexes.create("hnsw(m=4, ef_construction=16)", dim=8)
    for at in range(0, 4600, 575):
        bit_by_bit.add(rows[at : at + 575])
    assert np.array_equal(bit_by_bit._arrays()["top_rows"], made[0]["top_rows"])


def test_an_upper_link_to_a_lower_row_is_refused():
    header, arrays = sections()
    arrays["upper"][-1, 0] = np.flatnonzero(arrays["levels"] == 0)[0]
    with pytest.raises(CorruptionError, match="level that it does not have"):
        indexes.from_sections(header, arrays)


def test_newer_formats_and_unknown_names_are_told_apart():
    header, arrays = sections()
    with pytest.raises(FormatVersionError, match="format 3"):
        indexes.from_sections({**header, "version": 3}, arrays)
    with pytest.raises(UnknownNameError):
        indexes.from_sections({**header, "name": "hsnw"}, arrays)
    data = b"".join(bytes(b) for b in container.pack({}, {}))
    newer = data[:8] + (2).to_bytes(4, "little") + data[12:20]
    from lsmtensor.env.checksum import crc32c

    with pytest.raises(FormatVersionError, match="index format 2"):
        container.unpack(newer + crc32c(newer).to_bytes(4, "little") + data[24:])


def test_container_keeps_arrays_aligned_and_whole():
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.ones((2, 3), np.float32), "none": np.empty((0, 4), np.int64), "c": np.arange(6)[::2]}
    data = b"".join(bytes(b) for b in container.pack({"x": [1, "ö"]}, arrays))
    header, again = container.unpack(data)
    assert header == {"x": [1, "ö"]} and list(again) == list(arrays)
    start = np.frombuffer(data, np.uint8).ctypes.data
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and np.array_equal(again[name], array)
        assert array.size == 0 or (again[name].ctypes.data - start) % 64 == 0
    with pytest.raises(InvalidArgumentError, match="dtype"):
        container.pack({}, {"text": np.array(["a"])})


def test_rows_grow_and_leave_what_they_borrowed():
    mine = np.arange(4)
    mine.flags.writeable = False
    rows = Rows(mine)
    assert rows.array.base is mine and len(rows) == 4
    for i in range(4, 100):
        rows.append(np.array([i]))
    assert np.array_equal(rows.array, np.arange(100)) and np.array_equal(mine, np.arange(4))
    rows.cut(3)
    rows.append(np.array([9]))
    assert rows.array.tolist() == [0, 1, 2, 9]


def test_a_borrowed_array_is_not_copied():
    rows = vectors(1, 50, 4)
    index = indexes.create("flat", dim=4)
    index.add(rows, copy=False)
    assert np.shares_memory(index._vectors.array, rows)
    index.add(rows[:1])
    assert not np.shares_memory(index._vectors.array, rows)
    copied = indexes.create("flat", dim=4)
    copied.add(rows)
    rows[:] = 0
    assert copied.reconstruct(3).any()


@pytest.mark.skipif("cython" not in backends(), reason="the compiled kernels are not there")
def test_instruction_set_is_chosen_by_the_environment():
    code = "from lsmtensor import indexes; print(indexes.create('hnsw', dim=3, kernel='cython').stats()['isa'])"
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, "LSMTENSOR_ISA": "baseline"}, capture_output=True, text=True, check=True)
    assert "baseline" in found.stdout


@pytest.mark.parametrize("name", ["fqg", "gwi", "hnsw", "hybrid", "ivfflat", "ivfpq", "lsh"])
def test_trained_and_empty_comes_back_from_a_file(name, tmp_path):
    rows = np.random.default_rng(0).standard_normal((300, 48)).astype(np.float32)
    trained = indexes.create(name, dim=48, metric="cosine")
    trained.train(rows)
    trained.save(str(tmp_path / "x.index"))
    again = indexes.load(str(tmp_path / "x.index"))
    again.add(rows)
    assert len(again) == 300 and again.search(rows[7], k=1)[0][0] == 7
