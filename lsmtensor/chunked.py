"""A named or stored array as a user holds it: numpy's manners over chunks that are read when asked for.

The module is not called ``tensor``: importing a module of that name would put it in the place of the
function `lsmtensor.tensor`.
"""

from __future__ import annotations

import html
import itertools
import math
from typing import Any, Protocol, cast

import numpy as np

from .dtypes import DTYPES, dtype_name, numpy_dtype
from .errors import CorruptionError, InvalidArgumentError, UnavailableError

BITS_ONLY = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # numpy has no such types of its own


class ChunkSource(Protocol):
    """Where the values of a tensor are: a grid of chunks, those at the far edges cut off by the shape."""

    @property
    def dtype(self) -> str:
        """The dtype's name, one of `lsmtensor.dtypes.DTYPES`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def chunks(self) -> tuple[int, ...]:
        """The shape of a whole chunk, each side 1 or more."""

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        """The chunk at a place of the grid, in the dtype's numpy type."""

    def whole(self) -> np.ndarray | None:
        """All values as one read-only view, where they lie so that this costs no copy; else None."""


class ArraySource:
    """One array in memory, as one chunk; what it shows is read-only."""

    def __init__(self, array: np.ndarray) -> None:
        self.dtype, self.shape = dtype_name(array.dtype), array.shape
        self.chunks = tuple(max(1, n) for n in array.shape)
        self._array = array.view()
        self._array.flags.writeable = False

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        return self._array

    def whole(self) -> np.ndarray | None:
        return self._array


class Tensor:
    """An N-dimensional value of one version: it does not change.

    Indexing gives numpy arrays: a read-only view where `contiguous`, else a copy of the chunks touched.
    """

    def __init__(self, source: ChunkSource | np.ndarray) -> None:
        # not asked whether it is a ChunkSource: a protocol is slow to ask for
        self._source = cast("ChunkSource", source) if hasattr(source, "whole") else ArraySource(np.asarray(source))
        self._shape = tuple(self._source.shape)
        self._dtype = numpy_dtype(self._source.dtype)
        if len(self._source.chunks) != len(self._shape) or any(c < 1 for c in self._source.chunks):
            raise InvalidArgumentError(f"chunks {self._source.chunks} for shape {self._shape}; wanted one side of 1 or more a dimension")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype; `dtype_name` is the stored one's name (bf16 needs ml_dtypes to be more than bits)."""
        return self._dtype

    @property
    def dtype_name(self) -> str:
        return self._source.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(self._source.chunks)

    @property
    def ndim(self) -> int:
        return len(self._shape)

    @property
    def size(self) -> int:
        return math.prod(self._shape)

    @property
    def nbytes(self) -> int:
        return self.size * self._dtype.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether all values are one view, so that `numpy()` is O(1)."""
        return self._source.whole() is not None

    @property
    def copied(self) -> bool:
        """Whether `numpy()` has to copy."""
        return not self.contiguous

    def numpy(self) -> np.ndarray:
        """All values, read-only: a view where `contiguous`, else a copy, O(size)."""
        whole = self._source.whole()
        if whole is None:
            whole = self._box([(0, n) for n in self._shape])
            whole.flags.writeable = False
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        wanted = self._dtype if dtype is None else np.dtype(dtype)
        if copy is False and (self.copied or wanted != self._dtype):
            raise ValueError(f"{self!r} becomes a {wanted} array only by a copy; give copy=None")
        return self.numpy().astype(wanted, copy=bool(copy))

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None) -> Any:
        """A capsule of `numpy()`, read-only without ``copy``. A consumer that does not know DLPack 1.0, and with it that flag, may write into the private
        map of a file that it is shown, and needs ``copy=True`` of other memory."""
        array = self.numpy().copy() if copy else self._exported().view()
        if max_version is not None:
            array.flags.writeable = bool(copy)
        if copy is False and self.copied:
            raise BufferError("a chunked tensor is exported only by a copy; give copy=None")
        given = {"stream": stream, "max_version": max_version, "dl_device": dl_device}
        try:
            return array.__dlpack__(**{n: v for n, v in given.items() if v is not None})
        except BufferError as why:
            raise BufferError(f"{why}; np.from_dlpack(…, copy=True) and copy=True elsewhere export a writable copy") from why

    def _exported(self) -> np.ndarray:
        """What others are shown: values of a file over a private map, so that a consumer who writes all the same hurts nothing."""
        return self.numpy()

    def to_torch(self, *, copy: bool | None = None) -> Any:
        """A CPU tensor of PyTorch. O(1) where `contiguous`: it then shares a private map of the file; else, or with ``copy``, a copy."""
        try:
            import torch
        except ImportError as why:
            raise UnavailableError("to_torch() needs the package torch, which is not installed; numpy() and __dlpack__ need none") from why
        array = self._exported()
        if copy or not array.flags.writeable:  # PyTorch knows no read-only tensors
            array = array.copy()
        if self.dtype_name not in BITS_ONLY:
            return torch.from_dlpack(array)
        bits = np.dtype(DTYPES[self.dtype_name][0])
        return torch.from_dlpack(array.view(bits)).view(getattr(torch, self.dtype_name))

    def to_jax(self) -> Any:
        """An array of JAX on its default device."""
        try:
            import jax.numpy
        except ImportError as why:
            raise UnavailableError("to_jax() needs the package jax, which is not installed; numpy() and __dlpack__ need none") from why
        return jax.numpy.asarray(self.numpy())

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("a tensor of no dimensions has no length")
        return self._shape[0]

    def __getitem__(self, key: Any) -> Any:
        whole = self._source.whole()
        if whole is not None:
            return whole[key]
        parts = key if isinstance(key, tuple) else (key,)
        if any(not isinstance(p, (int, np.integer, slice, type(Ellipsis))) or isinstance(p, bool) for p in parts):
            return self.numpy()[key]  # masks, lists of positions and new axes: numpy's rules over all values
        spans = sum(p is Ellipsis for p in parts)
        if spans > 1 or len(parts) - spans > self.ndim:
            raise IndexError(f"index {key!r} for a tensor of shape {self._shape}; give at most {self.ndim} places and one '...'")
        at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
        full = (slice(None),) * (self.ndim - len(parts) + spans)
        box, inner = [], []
        for part, n in zip((*parts[:at], *full, *parts[at + 1 :]), self._shape, strict=True):
            if isinstance(part, slice):
                steps = range(*part.indices(n))
                lo, hi = (min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1) if steps else (0, 0)
                box.append((lo, hi))
                # the same values counted from the box's own edge
                inner.append(slice(None, None, steps.step) if steps else slice(0, 0))
            else:
                place = int(part) + (n if part < 0 else 0)
                if not 0 <= place < n:
                    raise IndexError(f"index {part} for a dimension of {n} in a tensor of shape {self._shape}")
                box.append((place, place + 1))
                inner.append(0)  # type: ignore[arg-type]
        return self._box(box)[tuple(inner)]

    def _box(self, box: list[tuple[int, int]]) -> np.ndarray:
        """The values of a rectangle, gathered from the chunks that it touches."""
        out = np.empty([hi - lo for lo, hi in box], self._dtype)
        if out.size == 0:
            return out
        sides = self._source.chunks
        for index in itertools.product(*(range(lo // c, (hi - 1) // c + 1) for (lo, hi), c in zip(box, sides, strict=True))):
            chunk = self._source.read(index)
            start = [i * c for i, c in zip(index, sides, strict=True)]
            held = tuple(min(c, n - s) for c, n, s in zip(sides, self._shape, start, strict=True))
            if chunk.shape != held or chunk.dtype != self._dtype:
                raise CorruptionError(f"chunk {index} is {chunk.dtype} of shape {chunk.shape}; the grid says {self._dtype} of shape {held}")
            lows = [max(lo, s) for (lo, _), s in zip(box, start, strict=True)]
            highs = [min(hi, s + h) for (_, hi), s, h in zip(box, start, held, strict=True)]
            target = tuple(slice(a - lo, b - lo) for a, b, (lo, _) in zip(lows, highs, box, strict=True))
            out[target] = chunk[tuple(slice(a - s, b - s) for a, b, s in zip(lows, highs, start, strict=True))]
        return out

    def _repr_html_(self) -> str:
        """For notebooks: what `repr` tells, and the numbers of the first corner."""
        corner = self[tuple(slice(0, 4) for _ in self._shape)]
        return f"<pre>{html.escape(repr(self))}\n{html.escape(str(np.asarray(corner)))}</pre>"

    def __repr__(self) -> str:
        how = "contiguous" if self.contiguous else f"chunks {self.chunks}"
        return f"<lsmtensor.Tensor {self.dtype_name} {self._shape}, {self.nbytes:,} bytes, {how}>"
