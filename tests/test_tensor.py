"""Tensors: indexing agrees with numpy over any grid of chunks, and reads no chunk that it need not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsmtensor.chunked import Tensor
from lsmtensor.errors import CorruptionError, InvalidArgumentError


class Grid:
    """An array cut into chunks that are never one view; notes what is read."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...]) -> None:
        self.array, self.chunks = array, chunks
        self.dtype, self.shape = array.dtype.name, array.shape
        self.reads: list[tuple[int, ...]] = []

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        self.reads.append(index)
        return self.array[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, self.chunks, strict=True))]

    def whole(self) -> np.ndarray | None:
        return None


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7))
    chunks = tuple(draw(st.integers(1, 8)) for _ in shape)
    return Grid(np.arange(math.prod(shape), dtype=np.int32).reshape(shape), chunks)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_basic_indexing_is_numpys(data):
    grid = data.draw(grids())
    tensor, array = Tensor(grid), grid.array
    key = data.draw(hnp.basic_indices(array.shape, allow_newaxis=data.draw(st.booleans())))
    got = tensor[key]
    assert np.shape(got) == array[key].shape and np.array_equal(got, array[key])
    assert np.array_equal(Tensor(array)[key], array[key])
    assert len(set(grid.reads)) == len(grid.reads)


@given(grids(), st.data())
def test_masks_and_positions_are_numpys(grid, data):
    tensor = Tensor(grid)
    assert np.array_equal(tensor.numpy(), grid.array)
    if grid.array.ndim and grid.array.shape[0]:
        rows = data.draw(st.lists(st.integers(0, grid.array.shape[0] - 1), max_size=4))
        assert np.array_equal(tensor[rows], grid.array[rows])
        assert np.array_equal(tensor[np.ones(grid.array.shape[0], bool)], grid.array)
    assert np.array_equal(tensor[grid.array % 2 == 0], grid.array[grid.array % 2 == 0])


def test_only_touched_chunks_are_read():
    grid = Grid(np.arange(100).reshape(10, 10), (3, 4))
    Tensor(grid)[4, 5:9]
    assert grid.reads == [(1, 1), (1, 2)]
    grid.reads.clear()
    Tensor(grid)[2:2]
    assert grid.reads == []


def test_indices_out_of_range():
    for tensor in (Tensor(Grid(np.zeros((3, 4)), (2, 2))), Tensor(np.zeros((3, 4)))):
        for key in (3, -4, (0, 4), (0, 0, 0), (..., ...)):
            with pytest.raises(IndexError):
                tensor[key]
        assert [row.shape for row in tensor] == [(4,)] * 3


def test_what_it_tells():
    x = np.zeros((3, 4), np.float32)
    view, chunked = Tensor(x), Tensor(Grid(x, (2, 2)))
    assert (view.shape, view.ndim, view.size, view.nbytes, len(view), view.dtype_name) == ((3, 4), 2, 12, 48, 3, "float32")
    assert view.dtype == np.float32 and view.contiguous and not view.copied and chunked.copied and not chunked.contiguous
    assert repr(view) == "<lsmtensor.Tensor float32 (3, 4), 48 bytes, contiguous>"
    assert repr(chunked) == "<lsmtensor.Tensor float32 (3, 4), 48 bytes, chunks (2, 2)>"
    with pytest.raises(TypeError, match="no dimensions"):
        len(Tensor(np.float32(1)))
    assert Tensor(np.float32(2))[()] == 2


def test_views_are_read_only_and_the_array_given_is_left_writable():
    x = np.arange(6.0).reshape(2, 3)
    view = Tensor(x)
    assert np.shares_memory(view.numpy(), x) and np.shares_memory(np.asarray(view), x) and np.shares_memory(view[1:], x)
    for out in (view.numpy(), view[0], np.asarray(view), Tensor(Grid(x, (1, 1))).numpy()):
        with pytest.raises(ValueError, match="read-only"):
            out[...] = 0
    x[0, 0] = 7
    own = np.array(view)
    own[0, 0] = 8
    assert view[0, 0] == 7


def test_array_protocol():
    x = np.arange(6.0).reshape(2, 3)
    view, chunked = Tensor(x), Tensor(Grid(x, (1, 2)))
    assert np.asarray(chunked, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="only by a copy"):
        view.__array__(np.float32, copy=False)
    with pytest.raises(ValueError, match="only by a copy"):
        chunked.__array__(copy=False)
    assert np.array_equal(np.add(view, chunked), 2 * x)


def test_dlpack():
    x = np.arange(6.0).reshape(2, 3)
    view, chunked = Tensor(x), Tensor(Grid(x, (1, 2)))
    shared = np.from_dlpack(view)
    assert np.shares_memory(shared, x) and not shared.flags.writeable and view.__dlpack_device__() == (1, 0)
    assert np.array_equal(np.from_dlpack(chunked), x)
    with pytest.raises(BufferError, match="copy=True"):
        view.__dlpack__()  # a consumer older than DLPack 1.0 would not know that the memory is read-only
    assert "dltensor" in repr(view.__dlpack__(copy=True))
    with pytest.raises(BufferError, match="only by a copy"):
        chunked.__dlpack__(copy=False)


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(4).astype(ml_dtypes.bfloat16)
    assert Tensor(x).dtype_name == "bfloat16" and Tensor(Grid(x, (3,)))[1:].tolist() == [1, 2, 3]


def test_sources_that_lie_are_caught():
    grid = Grid(np.zeros((4, 4)), (2, 2))
    grid.array = np.zeros((4, 3))
    with pytest.raises(CorruptionError, match=r"chunk \(0, 1\) is float64 of shape \(2, 1\); the grid says float64 of shape \(2, 2\)"):
        Tensor(grid).numpy()
    for chunks in ((2,), (0, 2)):
        with pytest.raises(InvalidArgumentError, match="one side of 1 or more"):
            Tensor(Grid(np.zeros((4, 4)), chunks))
