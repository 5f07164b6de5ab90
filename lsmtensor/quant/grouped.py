"""Weights of models in 8 or 4 bits: each run of ``group`` neighbouring values of a row on a grid of its own, or each whole row.

    int8(group=128)    symmetric: x ~ scale * code, code in -127..127, an error of at most scale / 2 = largest / 254
    int4(group=64)     affine: x ~ low + scale * code, code in 0..15, an error of at most scale / 2 = range / 30

Not a `Quantizer`: nothing is learned and nothing is searched. It stands where a codec of a named array stands, and is the one that
loses something.
"""

from __future__ import annotations

import numpy as np

from ..dtypes import numpy_dtype
from ..errors import CorruptionError, InvalidArgumentError, SchemaError
from ..registry import Spec, near

FLOATS = ("float32", "float16", "bfloat16", "float64")
NAMES = ("int8", "int4")
LARGEST = np.float32(1e38)  # so that a range, and a step times a code, are floats too


def is_grouped(codec: str) -> bool:
    """Whether the codec of an array is one of these."""
    return codec.partition("(")[0] in NAMES


class Grouped:
    """Rows of ``columns`` values, ``group`` of them (0: all) to a scale. Has what `codecs.Chain` has."""

    plain = uses_base = False

    def __init__(self, spec: str | Spec, columns: int, dtype: str) -> None:
        parsed = Spec.of(spec)
        if parsed.name not in NAMES:
            raise InvalidArgumentError(f"quant={str(spec)!r}: weights are kept as int8 or int4; {near(parsed.name, NAMES)}")
        unknown = set(parsed.params) - {"group"}
        group = parsed.params.get("group", 0)
        if unknown or isinstance(group, bool) or not isinstance(group, int) or group < 0:
            raise InvalidArgumentError(f"quant={str(spec)!r}: takes group= only, a whole number of values to a scale (0: a row)")
        if dtype not in FLOATS or columns < 1:
            raise InvalidArgumentError(f"quant={str(spec)!r} of {dtype} rows of {columns} values; wanted {', '.join(FLOATS)}, 1 or more")
        self.bits, self.group = (8 if parsed.name == "int8" else 4), int(group) or columns
        self.spec = f"{parsed.name}(group={group})" if group else parsed.name
        self.columns, self._dtype = columns, numpy_dtype(dtype)
        if self._dtype.kind == "u":
            raise InvalidArgumentError(f"quant={self.spec} of {dtype} needs the package ml_dtypes: pip install ml_dtypes")
        self.groups = -(-columns // self.group)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's codes and scales."""
        return self.groups * (4 if self.bits == 8 else 8) + -(-self.columns * self.bits // 8)

    def against(self, base: np.ndarray | None) -> Grouped:
        return self

    def encode(self, data: np.ndarray, old: np.ndarray | None = None) -> np.ndarray:
        """uint8: the scales of all rows (float32; of int4 the lows too), then the codes. Rows that are what the codes in ``old`` stand for keep
        those, so that what is read and written again stays as it is. O(n)."""
        x = np.ascontiguousarray(data).view(self._dtype).astype(np.float32).reshape(-1, self.columns)
        good = np.abs(x) <= LARGEST
        if not good.all():
            raise SchemaError(f"values hold NaN, infinity or numbers past {LARGEST:.0e}, which {self.spec} has no codes for; row {int(np.argmin(good.all(1)))} of a chunk")
        starts = np.arange(0, self.columns, self.group)
        low, high = np.minimum.reduceat(x, starts, axis=1), np.maximum.reduceat(x, starts, axis=1)
        step = np.maximum(-low, high) / np.float32(127) if self.bits == 8 else (high - low) / np.float32(15)
        step = np.where(step > 0, step, np.float32(1)).astype(np.float32)
        wide = self._widened(step)
        if self.bits == 8:
            parts = [step, np.clip(np.rint(x / wide), -127, 127).astype(np.int8).view(np.uint8)]
        else:
            codes = np.clip(np.rint((x - self._widened(low)) / wide), 0, 15).astype(np.uint8)
            if self.columns % 2:
                codes = np.concatenate([codes, np.zeros((len(codes), 1), np.uint8)], 1)
            parts = [step, low, codes[:, ::2] | codes[:, 1::2] << np.uint8(4)]
        if old is not None:
            n = min(len(x), len(old) // self.row_bytes)
            before = self._parts(old)
            width = self.columns * self._dtype.itemsize
            now, then = np.ascontiguousarray(data).reshape(-1, width)[:n], self._values(before).reshape(-1, width)[:n]
            same = np.flatnonzero((now == then).all(1))
            for part, kept in zip(parts, before, strict=True):
                part[same] = kept[same]
        return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])

    def decode(self, data: np.ndarray, size: int) -> np.ndarray:
        """uint8 (size,): the values that the codes stand for, in the array's dtype. O(n)."""
        rows, left = divmod(size, self.columns * self._dtype.itemsize)
        if left or len(data) != rows * self.row_bytes:
            raise CorruptionError(f"a chunk of {len(data)} bytes as {self.spec}; wanted {rows * self.row_bytes} for {size} bytes of values")
        return self._values(self._parts(data))

    def _parts(self, coded: np.ndarray) -> list[np.ndarray]:
        """Scales, of int4 lows, and codes, each (rows, …), of whole rows."""
        raw, rows = np.ascontiguousarray(coded), len(coded) // self.row_bytes
        ends = rows * self.groups * 4
        floats = [raw[at : at + ends].view(np.float32).reshape(rows, self.groups) for at in range(0, ends if self.bits == 8 else 2 * ends, ends or 1)]
        return [*floats, raw[len(floats) * ends :].reshape(rows, -1)]

    def _values(self, parts: list[np.ndarray]) -> np.ndarray:
        step, codes = self._widened(parts[0]), parts[-1]
        if self.bits == 8:
            made = codes.view(np.int8) * step
        else:
            each = np.empty((len(codes), 2 * codes.shape[1]), np.uint8)
            each[:, ::2], each[:, 1::2] = codes & np.uint8(15), codes >> np.uint8(4)
            made = each[:, : self.columns] * step + self._widened(parts[1])
        return np.ascontiguousarray(made.astype(self._dtype)).reshape(-1).view(np.uint8)

    def _widened(self, of_groups: np.ndarray) -> np.ndarray:
        """(rows, columns) or (rows, 1): each value's own scale."""
        return of_groups if self.groups == 1 else np.repeat(of_groups, self.group, axis=1)[:, : self.columns]
