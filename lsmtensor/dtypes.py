"""The column types that Arrow does not have by itself: tensors of fixed shape, ragged, sparse, JSON text.

A fixed-shape tensor of a type that Arrow knows IS ``arrow.fixed_shape_tensor``; bf16, fp8, bool and
complex are kept as unsigned integers or float pairs under the extension ``lsmtensor.tensor``.
"""

from __future__ import annotations

import json as _json
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from .errors import InvalidArgumentError, UnknownNameError
from .registry import near

# name -> (numpy type of the stored values, stored values per element)
DTYPES: dict[str, tuple[str, int]] = {
    **{n: (n, 1) for n in ("float16", "float32", "float64")},
    **{f"{s}int{b}": (f"{s}int{b}", 1) for s in ("", "u") for b in (8, 16, 32, 64)},
    "bool": ("uint8", 1),
    "bfloat16": ("uint16", 1),
    "float8_e4m3fn": ("uint8", 1),
    "float8_e5m2": ("uint8", 1),
    "complex64": ("float32", 2),
    "complex128": ("float64", 2),
}
_ALIASES = {"f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "half": "float16"}
_ALIASES |= {"fp8": "float8_e4m3fn", "float8_e4m3": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
_PLAIN = {n for n, (stored, per) in DTYPES.items() if stored == n and per == 1}


def dtype_name(dtype: Any) -> str:
    """The name of a dtype given as text, numpy dtype or type; `UnknownNameError` for one that is not stored."""
    if isinstance(dtype, str):
        name = _ALIASES.get(dtype, dtype)
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError as why:
            raise InvalidArgumentError(f"{dtype!r} is no dtype; give a name such as 'float32'") from why
    if name not in DTYPES:
        raise UnknownNameError(f"no tensor dtype named {name!r}; {near(name, DTYPES)}")
    return name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype that users see. bf16 and fp8 need the package ml_dtypes; without it their bits are shown."""
    stored, _ = DTYPES[name]
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        try:
            import ml_dtypes
        except ImportError:
            return np.dtype(stored)
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


@dataclass(frozen=True)
class TensorType:
    """Values of one dtype and shape per row."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def arrow_type(self) -> pa.DataType:
        stored, _ = DTYPES[self.dtype]
        if self.dtype in _PLAIN:
            return pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(stored)), list(self.shape))
        return _FixedTensor(self.dtype, self.shape)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "tensor", "dtype": self.dtype, "shape": list(self.shape)}

    def __str__(self) -> str:
        return f"tensor({self.dtype}, {self.shape})"


@dataclass(frozen=True)
class RaggedType:
    """Values of one dtype, a shape of ``ndim`` dimensions per row."""

    dtype: str
    ndim: int

    @property
    def arrow_type(self) -> pa.DataType:
        return _Ragged(self.dtype, self.ndim)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "ragged", "dtype": self.dtype, "ndim": self.ndim}

    def __str__(self) -> str:
        return f"ragged({self.dtype}, ndim={self.ndim})"


@dataclass(frozen=True)
class SparseType:
    """Indices below ``dim`` and their values per row; indices rise strictly. With a ``shape`` of two or more sides a row is a sparse
    tensor of that shape, ``dim`` is their product and an index counts in row-major order."""

    dtype: str
    dim: int
    shape: tuple[int, ...] = ()

    @property
    def arrow_type(self) -> pa.DataType:
        return _Sparse(self.dtype, self.dim, self.shape)

    @property
    def searchable(self) -> bool:
        """Whether rows are vectors of plain numbers, so that inner products of them are asked for."""
        return not self.shape and self.dtype in _PLAIN

    @property
    def index_type(self) -> pa.DataType:
        return _positions(self.dim)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "sparse", "dtype": self.dtype, "dim": list(self.shape) or self.dim}

    def __str__(self) -> str:
        return f"sparse({self.dtype}, {self.shape or self.dim})"


@dataclass(frozen=True)
class JsonType:
    """Text that is JSON."""

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.string()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "json"}

    def __str__(self) -> str:
        return "json"


LogicalType = TensorType | RaggedType | SparseType | JsonType


def tensor(dtype: Any, shape: tuple[int, ...] | list[int] | int) -> TensorType:
    """A tensor column type of one fixed shape."""
    dims = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if not dims or any(n < 1 for n in dims):
        raise InvalidArgumentError(f"shape {shape!r}: give at least one dimension, each 1 or more; scalars are plain Arrow types")
    return TensorType(dtype_name(dtype), dims)


def ragged(dtype: Any, ndim: int) -> RaggedType:
    """A tensor column type with a shape per row."""
    if not 1 <= int(ndim) <= 32:
        raise InvalidArgumentError(f"ndim={ndim}; give 1 to 32")
    return RaggedType(dtype_name(dtype), int(ndim))


def sparse(dtype: Any, shape: int | tuple[int, ...] | list[int]) -> SparseType:
    """A sparse vector column type of as many dimensions, or of a sparse tensor of two or more sides per row."""
    sides = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    dim = math.prod(sides)
    limit = 2**31 - 1 if len(sides) == 1 else 2**63 - 1
    if not sides or len(sides) > 32 or min(sides) < 1 or dim > limit:
        raise InvalidArgumentError(f"dim={shape}; give 1 to 2**31 - 1, or up to 32 sides of 1 or more whose product is below 2**63")
    return SparseType(dtype_name(dtype), dim, sides if len(sides) > 1 else ())


def json() -> JsonType:
    """A column of JSON texts, checked when written."""
    return JsonType()


def from_dict(value: dict[str, Any]) -> LogicalType:
    kind = value["kind"]
    if kind == "tensor":
        return tensor(value["dtype"], tuple(value["shape"]))
    if kind == "ragged":
        return ragged(value["dtype"], value["ndim"])
    if kind == "sparse":
        return sparse(value["dtype"], value["dim"])
    if kind == "json":
        return json()
    raise UnknownNameError(f"no column type named {kind!r}; {near(str(kind), ('tensor', 'ragged', 'sparse', 'json'))}")


def of_arrow(kind: pa.DataType) -> LogicalType | pa.DataType:
    """The column type that an Arrow type means: ours for tensors and JSON, itself for what Arrow stores plainly.

    Raises `InvalidArgumentError` for types that no table file holds (dictionaries, unions, maps, views).
    """
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise InvalidArgumentError(f"{kind} is permuted; give tensors in row-major order: lsmtensor.tensor(dtype, shape)")
        return tensor(np.dtype(kind.value_type.to_pandas_dtype()), tuple(kind.shape))
    if isinstance(kind, _FixedTensor):
        return TensorType(kind.dtype, kind.shape)
    if isinstance(kind, _Ragged):
        return RaggedType(kind.dtype, kind.ndim)
    if isinstance(kind, _Sparse):
        return SparseType(kind.dtype, kind.dim, kind.shape)
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.json":
            return json()
        raise InvalidArgumentError(f"Arrow extension type {kind} is not stored; give its storage type {kind.storage_type}")
    _check_plain(kind)
    return kind


def _check_plain(kind: pa.DataType) -> None:
    t = pa.types
    if t.is_struct(kind):
        for i in range(kind.num_fields):
            _check_plain(kind.field(i).type)
    elif t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        _check_plain(kind.value_type)
    elif t.is_dictionary(kind):
        raise InvalidArgumentError(f"Arrow type {kind} is not stored; give its value type {kind.value_type} (dictionary data is accepted)")
    elif not (
        t.is_primitive(kind) or t.is_decimal(kind) or t.is_fixed_size_binary(kind) or t.is_string(kind)
        or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind)
    ):  # fmt: skip
        raise InvalidArgumentError(f"Arrow type {kind} is not stored; give a scalar, string, binary, list or struct type")


def _stored(dtype: str) -> pa.DataType:
    return pa.from_numpy_dtype(np.dtype(DTYPES[dtype][0]))


_Extension = TypeVar("_Extension", bound=pa.ExtensionType)


def _same(made: _Extension, storage_type: pa.DataType) -> _Extension:
    if made.storage_type != storage_type:
        raise InvalidArgumentError(f"extension {made.extension_name}: its metadata wants {made.storage_type}, the column holds {storage_type}")
    return made


class _FixedTensor(pa.ExtensionType):
    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, tuple(shape)
        super().__init__(pa.list_(_stored(dtype), math.prod(shape) * DTYPES[dtype][1]), "lsmtensor.tensor")

    def __arrow_ext_serialize__(self) -> bytes:
        return _json.dumps({"dtype": self.dtype, "shape": list(self.shape)}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _FixedTensor:
        value = _json.loads(serialized)
        # the metadata may come from a foreign file: the shape must be that of the values which are there
        return _same(cls(dtype_name(value["dtype"]), tuple(int(n) for n in value["shape"])), storage_type)


class _Ragged(pa.ExtensionType):
    """The layout of Arrow's canonical variable-shape tensor."""

    def __init__(self, dtype: str, ndim: int) -> None:
        self.dtype, self.ndim = dtype, ndim
        storage = pa.struct([("data", pa.list_(_stored(dtype))), ("shape", pa.list_(pa.int32(), ndim))])
        super().__init__(storage, "lsmtensor.ragged")

    def __arrow_ext_serialize__(self) -> bytes:
        return _json.dumps({"dtype": self.dtype, "ndim": self.ndim}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _Ragged:
        value = _json.loads(serialized)
        return _same(cls(dtype_name(value["dtype"]), int(value["ndim"])), storage_type)


def _positions(dim: int) -> pa.DataType:
    """What indices below ``dim`` are kept in."""
    return pa.int32() if dim < 2**31 else pa.int64()


class _Sparse(pa.ExtensionType):
    def __init__(self, dtype: str, dim: int, shape: tuple[int, ...] = ()) -> None:
        self.dtype, self.dim, self.shape = dtype, dim, tuple(shape)
        storage = pa.struct([("indices", pa.list_(_positions(dim))), ("values", pa.list_(_stored(dtype)))])
        super().__init__(storage, "lsmtensor.sparse")

    def __arrow_ext_serialize__(self) -> bytes:
        return _json.dumps({"dtype": self.dtype, "dim": self.dim} | ({"shape": list(self.shape)} if self.shape else {})).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _Sparse:
        value = _json.loads(serialized)
        dim, shape = int(value["dim"]), tuple(int(n) for n in value.get("shape", ()))
        if shape and (len(shape) < 2 or min(shape) < 1 or math.prod(shape) != dim):
            raise InvalidArgumentError(f"extension lsmtensor.sparse: shape {shape} for {dim} places")
        return _same(cls(dtype_name(value["dtype"]), dim, shape), storage_type)


for _kind in (_FixedTensor("bool", (1,)), _Ragged("float32", 1), _Sparse("float32", 1)):
    pa.register_extension_type(_kind)
