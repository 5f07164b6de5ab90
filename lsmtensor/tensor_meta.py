"""What is known of a named array without its values: its row in ``_tensors``, its grid of chunks, and advice for one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from . import codecs
from .dtypes import dtype_name, numpy_dtype
from .errors import CorruptionError, InvalidArgumentError
from .quant.grouped import Grouped, is_grouped
from .schema import Column, Schema
from .tensor_args import fitting

NAMES, CHUNKS = "_tensors", "_chunks"
SLAB_BYTES = 1 << 20
NAMES_SCHEMA = Schema(
    [
        Column("name", pa.string()), Column("id", pa.int64()), Column("dtype", pa.string()), Column("shape", pa.list_(pa.int64())),
        Column("chunks", pa.list_(pa.int64())), Column("codec", pa.string()), Column("fill", pa.binary()), Column("attrs", pa.string()),
    ],
    primary_key="name",
)  # fmt: skip
CHUNKS_SCHEMA = Schema(
    [Column("tensor", pa.int64()), Column("chunk", pa.int64()), Column("coded", pa.bool_()), Column("data", pa.large_binary())],
    primary_key=["tensor", "chunk"],
)
SYSTEM = {NAMES: NAMES_SCHEMA, CHUNKS: CHUNKS_SCHEMA}


def default_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Slabs of axis 0 of about a MiB: whole rows, so that the array is contiguous in its chunks' order."""
    if not shape:
        return ()
    row = max(1, math.prod(shape[1:]) * itemsize)
    return (max(1, min(shape[0], SLAB_BYTES // row)), *(max(1, n) for n in shape[1:]))


def optimal_chunks(shape: Sequence[int], dtype: Any, access: str = "sequential", chunk_bytes: int = SLAB_BYTES) -> tuple[int, ...]:
    """Advice for ``chunks=``: a grid of about ``chunk_bytes`` a chunk for how the array will be read.

    ``sequential``: slabs of axis 0 (the default grid). ``time series``: long in axis 0, narrow in the others. ``spatial``: whole in
    the trailing axes, one step of axis 0. ``random``: as near to cubes as the shape allows.
    """
    sides = tuple(int(n) for n in shape)
    items = max(1, chunk_bytes // numpy_dtype(dtype_name(dtype)).itemsize)
    if not sides:
        return ()
    if access == "sequential":
        return default_chunks(sides, numpy_dtype(dtype_name(dtype)).itemsize)
    grow = {"time series": [0], "spatial": list(range(len(sides) - 1, 0, -1)), "random": []}
    if access not in grow:
        raise InvalidArgumentError(f"access={access!r}; give 'time series', 'spatial', 'sequential' or 'random'")
    made = [1] * len(sides)
    for axis in grow[access]:
        made[axis] = max(1, min(sides[axis], items // math.prod(made)))
    while math.prod(made) * 2 <= items and (small := [i for i, n in enumerate(sides) if made[i] < n]):
        axis = min(small, key=lambda i: made[i])
        made[axis] = min(sides[axis], made[axis] * 2)
    return tuple(made)


class Meta:
    """One row of ``_tensors``."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.name, self.id = str(row["name"]), int(row["id"])
        self.dtype, self.shape = dtype_name(row["dtype"]), tuple(int(n) for n in row["shape"])
        self.chunks = tuple(int(n) for n in row["chunks"])
        self.codec, self.fill, self.attrs = str(row["codec"]), bytes(row["fill"]), dict(json.loads(row["attrs"]))
        if len(self.chunks) != len(self.shape) or any(c < 1 for c in self.chunks) or any(n < 0 for n in self.shape):
            raise CorruptionError(f"tensor {self.name!r} has shape {self.shape} and chunks {self.chunks}")

    @property
    def grid(self) -> tuple[int, ...]:
        """How many chunks in each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    @property
    def count(self) -> int:
        return math.prod(self.grid)

    @property
    def itemsize(self) -> int:
        return numpy_dtype(self.dtype).itemsize

    @property
    def uses_base(self) -> bool:
        """Whether chunks are stored by what changed since an older version."""
        return self.chain.uses_base

    @property
    def chain(self) -> codecs.Chain | Grouped:
        """How chunks become bytes."""
        if is_grouped(self.codec):
            return Grouped(self.codec, self.shape[1] if len(self.shape) == 2 else 0, self.dtype)
        return codecs.create(self.codec, self.itemsize)

    def held(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a chunk; those at the far edges are cut off."""
        return tuple(min(c, n - i * c) for i, c, n in zip(index, self.chunks, self.shape, strict=True))

    def index(self, number: int) -> tuple[int, ...]:
        """The place in the grid of a chunk number."""
        return tuple(int(i) for i in np.unravel_index(number, self.grid)) if self.grid else ()

    def number(self, index: tuple[int, ...]) -> int:
        return int(np.ravel_multi_index(index, self.grid)) if self.grid else 0

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "id": self.id, "dtype": self.dtype, "shape": list(self.shape), "chunks": list(self.chunks),
            "codec": self.codec, "fill": self.fill, "attrs": json.dumps(self.attrs, sort_keys=True),
        }  # fmt: skip

    def with_(self, **changes: Any) -> Meta:
        return Meta({**self.row(), **changes})


def new_meta(
    name: str, shape: tuple[int, ...], dtype: str, chunks: Sequence[int] | None, codec: str | None, fill_value: Any, attrs: dict[str, Any]
) -> Meta:
    if any(n < 0 for n in shape):
        raise InvalidArgumentError(f"tensor {name!r}: shape {shape} has a side below 0")
    itemsize = numpy_dtype(dtype).itemsize
    grid = default_chunks(shape, itemsize) if chunks is None else tuple(int(c) for c in chunks)
    if len(grid) != len(shape) or any(c < 1 for c in grid):
        raise InvalidArgumentError(f"tensor {name!r}: chunks {grid} for shape {shape}; give one side of 1 or more for each dimension")
    if is_grouped(codec or ""):
        if len(shape) != 2 or (chunks is not None and grid[1] != max(1, shape[1])):
            raise InvalidArgumentError(f"tensor {name!r} of shape {shape} and chunks {grid} with quant={codec}: weights of two dimensions, in chunks of whole rows")
        stored = Grouped(str(codec), shape[1], dtype).spec
    else:
        stored = codecs.create(codec or "none", itemsize).spec
    fill = fitting(fill_value, dtype, f"fill_value of tensor {name!r}")
    if fill.shape:
        raise InvalidArgumentError(f"fill_value of tensor {name!r} has shape {fill.shape}; give one value")
    try:
        text = json.dumps(attrs, sort_keys=True)
    except (TypeError, ValueError) as why:
        raise InvalidArgumentError(f"attrs of tensor {name!r}: {why}; give values that JSON has") from why
    return Meta(
        {
            "name": name, "id": 0, "dtype": dtype, "shape": shape, "chunks": grid, "codec": stored, "fill": fill.tobytes(), "attrs": text,
        }  # fmt: skip
    )
