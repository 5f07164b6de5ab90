"""What callers give to named arrays: names, values, indexes; checked, with messages that say what was given and what is wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from .chunked import BITS_ONLY, Tensor
from .dtypes import dtype_name, numpy_dtype
from .errors import InvalidArgumentError, SchemaError


def check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or name.startswith("\x00"):
        raise InvalidArgumentError(f"tensor name {name!r}; give a non-empty text that does not begin with a zero character")


def as_array(value: Any, where: str) -> tuple[np.ndarray, str]:
    """(values, the name of their dtype): without ml_dtypes numpy sees only bits where bf16 and fp8 are meant."""
    if isinstance(value, Tensor):
        return value.numpy(), value.dtype_name
    try:
        if hasattr(value, "detach"):
            return _of_torch(value)
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as why:
        raise SchemaError(f"{where}: {why}; give an array") from why
    if array.dtype == object:
        raise SchemaError(f"{where}: values of different kinds or shapes; give an array of numbers")
    return array, dtype_name(array.dtype)


def _of_torch(tensor: Any) -> tuple[np.ndarray, str]:
    """A tensor or parameter of PyTorch, from whatever device; shared where it lies in memory."""
    import torch

    there, name = tensor.detach().cpu(), str(tensor.dtype).removeprefix("torch.")
    if name in BITS_ONLY:
        bits = torch.int16 if tensor.dtype.itemsize == 2 else torch.uint8
        return there.view(bits).numpy().view(numpy_dtype(name)), name
    return there.numpy(), dtype_name(name)


def fitting(value: Any, dtype: str, where: str) -> np.ndarray:
    """The value in a dtype; one that cannot hold it is refused."""
    (array, name), wanted = as_array(value, where), numpy_dtype(dtype)
    if name == dtype or array.dtype == wanted:
        return array
    python = isinstance(value, (bool, int, float, complex, list, tuple))
    if not (np.can_cast(array.dtype, wanted, "same_kind") or (python and array.dtype.kind in "biuf" and wanted.kind in "biufcV")):
        raise SchemaError(f"{where}: {array.dtype} values do not fit {dtype}; convert them first, so that the loss is yours to choose")
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(wanted)
    if array.dtype.kind in "iu" and made.dtype.kind in "biu" and not np.array_equal(made.astype(array.dtype), array):
        raise SchemaError(f"{where}: values from {array.min()} to {array.max()} do not fit {dtype}")
    if python and array.dtype.kind == "f" and made.dtype.kind in "biu":
        raise SchemaError(f"{where}: float values do not fit {dtype}")
    return made


def box_of(key: Any, shape: tuple[int, ...]) -> tuple[list[tuple[int, int]], tuple[Any, ...]]:
    """(the rectangle that a basic index touches, the index inside it)."""
    parts = list(key) if isinstance(key, tuple) else [key]
    spans = sum(p is Ellipsis for p in parts)
    if spans > 1 or len(parts) - spans > len(shape):
        raise IndexError(f"index {key!r} for a tensor of shape {shape}; give at most {len(shape)} places and one '...'")
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    parts[at : at + spans] = [slice(None)] * (len(shape) - len(parts) + spans)
    box: list[tuple[int, int]] = []
    inner: list[Any] = []
    for part, n in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            steps = range(*part.indices(n))
            lo, hi = (min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1) if steps else (0, 0)
            inner.append(slice(None, None, steps.step) if steps else slice(0, 0))
        elif isinstance(part, (int, np.integer)) and not isinstance(part, bool):
            lo = int(part) + (n if part < 0 else 0)
            if not 0 <= lo < n:
                raise IndexError(f"index {part} for a dimension of {n} in a tensor of shape {shape}")
            hi = lo + 1
            inner.append(0)
        else:
            raise IndexError(f"index {part!r}: a tensor is written by whole numbers and slices; read, change and assign for others")
        box.append((lo, hi))
    return box, tuple(inner)


def touched_chunks(box: list[tuple[int, int]], chunks: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    if any(lo >= hi for lo, hi in box):
        return []
    return itertools.product(*(range(lo // c, (hi - 1) // c + 1) for (lo, hi), c in zip(box, chunks, strict=True)))
