"""Arrays in and out: safetensors files, with the header kept to the byte, and numpy's.

A safetensors file is ``u64 header length | JSON header | bytes``. It is read here rather than by the package: nothing in it is
trusted, and the header must come out of the database as it went in. Data is copied nowhere on the way in: it is written from the map.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from .dtypes import numpy_dtype
from .errors import CorruptionError, InvalidArgumentError, StorageError

MAX_HEADER = 100_000_000  # as the format's own reader allows
HEADERS = "\x00safetensors/"  # names that begin with it hold the headers of imported files; they are not listed
TO_OURS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
FROM_OURS = {ours: theirs for theirs, ours in TO_OURS.items()}


class SafetensorsFile:
    """A mapped file whose header was checked: every tensor lies inside it, none overlaps another, nothing is left over."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < 8:
                    raise self._bad(f"{size} bytes are too few for a header", 0)
                self._map = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except OSError as why:
            raise StorageError(f"reading {self.path}: {why.strerror}", why.errno) from why
        (length,) = struct.unpack_from("<Q", self._map)
        if length > min(MAX_HEADER, size - 8):
            raise self._bad(f"a header of {length} bytes is announced, {size - 8} follow", 0)
        self.header = bytes(self._map[8 : 8 + length])
        self.base = 8 + length
        try:
            parsed = json.loads(self.header, object_pairs_hook=_no_twice)
        except (ValueError, RecursionError) as why:
            raise self._bad(f"the header does not parse ({why})", 8) from why
        if not isinstance(parsed, dict):
            raise self._bad("the header is no JSON object", 8)
        self.metadata: dict[str, Any] = parsed.pop("__metadata__", {})
        self.entries = {str(name): self._entry(str(name), value, size - self.base) for name, value in parsed.items()}
        at = 0
        for name, (_, _, start, stop) in sorted(self.entries.items(), key=lambda e: e[1][2:]):
            if start != at:
                raise self._bad(f"tensor {name!r} begins at {start}; wanted {at}, where the one before ends", self.base)
            at = stop
        if at != size - self.base:
            raise self._bad(f"{size - self.base - at} bytes belong to no tensor", self.base + at)

    def _bad(self, what: str, offset: int) -> CorruptionError:
        return CorruptionError(what, self.path, offset)

    def _entry(self, name: str, value: Any, size: int) -> tuple[str, tuple[int, ...], int, int]:
        try:
            kind, shape, (start, stop) = str(value["dtype"]), tuple(value["shape"]), value["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
        except (KeyError, TypeError, ValueError) as why:
            raise self._bad(f"the entry of tensor {name!r} lacks something ({why!r})", 8) from why
        if not whole or not start <= stop <= size or len(shape) > 32:
            raise self._bad(f"tensor {name!r} lies at [{start}, {stop}) of {size} bytes, with shape {shape}", 8)
        if kind in TO_OURS and stop - start != math.prod(shape) * numpy_dtype(TO_OURS[kind]).itemsize:
            raise self._bad(f"tensor {name!r} of {kind} and shape {shape} has {stop - start} bytes", 8)
        return kind, shape, start, stop

    def array(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(the values as a view of the map, attrs): a dtype that we do not know is bytes, its name and shape in the attrs."""
        kind, shape, start, stop = self.entries[name]
        data = np.frombuffer(self._map, np.uint8)[self.base + start : self.base + stop]
        if kind not in TO_OURS:
            return data, {"safetensors": {"dtype": kind, "shape": list(shape)}}
        return data.view(numpy_dtype(TO_OURS[kind])).reshape(shape), {}


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def import_safetensors(tensors: Any, path: str | os.PathLike[str], prefix: str = "") -> list[str]:
    """All tensors of a file, in one commit, named ``prefix`` and their names; the names are returned."""
    file = SafetensorsFile(path)
    plans = {prefix + name: file.array(name) for name in file.entries}
    plans[HEADERS + prefix] = (np.frombuffer(file.header, np.uint8), {})
    tensors._import(plans)
    return [prefix + name for name in file.entries]


def export_safetensors(tensors: Any, path: str | os.PathLike[str], prefix: str = "") -> None:
    """A file of the tensors whose names begin with ``prefix``. Where they are those of an imported file, its very bytes."""
    names = tensors.list(prefix)
    if not names:
        raise InvalidArgumentError(f"no tensor's name begins with {prefix!r}; there is nothing to export")
    found = {name[len(prefix) :]: tensors[name] for name in names}
    header = _kept_header(tensors, HEADERS + prefix, found) or _new_header(found)
    parsed = json.loads(header)
    parsed.pop("__metadata__", None)
    order = sorted(parsed, key=lambda name: parsed[name]["data_offsets"])
    _write(os.fspath(path), header, (found[name] for name in order))


def _write(path: str, header: bytes, tensors: Iterator[Any]) -> None:
    temporary = f"{path}.part"
    try:
        with open(temporary, "wb") as out:
            out.write(struct.pack("<Q", len(header)) + header)
            for tensor in tensors:
                array = np.ascontiguousarray(tensor.numpy())
                out.write(array.reshape(-1).view(np.uint8).data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except OSError as why:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise StorageError(f"writing {path}: {why.strerror}", why.errno) from why


def _described(tensor: Any) -> tuple[str, list[int]]:
    opaque = tensor.attrs.get("safetensors")
    if opaque:
        return str(opaque["dtype"]), list(opaque["shape"])
    if tensor.dtype_name not in FROM_OURS:
        raise InvalidArgumentError(f"tensor {tensor.name!r} is {tensor.dtype_name}, which safetensors files do not hold")
    return FROM_OURS[tensor.dtype_name], list(tensor.shape)


def _kept_header(tensors: Any, name: str, found: dict[str, Any]) -> bytes | None:
    """The header as imported, where it still describes what is there."""
    if name not in tensors:
        return None
    header = tensors[name].numpy().tobytes()
    parsed = json.loads(header)
    parsed.pop("__metadata__", None)
    same = set(parsed) == set(found) and all((parsed[n]["dtype"], parsed[n]["shape"]) == _described(t) for n, t in found.items())
    return header if same else None


def _new_header(found: dict[str, Any]) -> bytes:
    made, at = {}, 0
    # widest values first, then by name, as the format's own writer does: every tensor is aligned
    for name, tensor in sorted(found.items(), key=lambda e: (-e[1].dtype.itemsize, e[0])):
        kind, shape = _described(tensor)
        made[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def import_npz(tensors: Any, path: str | os.PathLike[str], prefix: str = "") -> list[str]:
    """The arrays of a ``.npz`` file (or the one of a ``.npy``, named by ``prefix``) in one commit. Pickled objects are refused."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as why:
        raise CorruptionError(f"not a file of numpy arrays without objects ({why})", os.fspath(path), 0) from why
    if isinstance(loaded, np.ndarray):
        if not prefix:
            raise InvalidArgumentError("a .npy file holds one array without a name; give the name as prefix=")
        arrays = {prefix: loaded}
    else:
        with loaded:
            try:
                arrays = {prefix + name: loaded[name] for name in loaded.files}
            except ValueError as why:
                raise CorruptionError(f"an array of objects, which would be unpickled ({why})", os.fspath(path), 0) from why
    tensors.update(arrays)
    return list(arrays)


def export_npz(tensors: Any, path: str | os.PathLike[str], prefix: str = "") -> None:
    """A ``.npz`` file of the tensors whose names begin with ``prefix``, uncompressed."""
    found = {name[len(prefix) :]: tensors[name].numpy() for name in tensors.list(prefix)}
    if not found:
        raise InvalidArgumentError(f"no tensor's name begins with {prefix!r}; there is nothing to export")
    with open(path, "wb") as out:
        np.savez(out, **found)
