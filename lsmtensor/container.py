"""The file of an index: a JSON header and arrays, each aligned to 64 bytes and checked by CRC32C.

    "LSMTIDX\\x01" | u32 format | u32 header length | u32 header CRC | u32 CRC of these 20 bytes | header | arrays

The header lists the arrays: name, dtype, shape, offset, CRC. Every byte between them is zero. An array named ``pages`` or ``….pages``, uint8 (n, 4096), begins
with a page of the file, and its rows carry sums of their own (`pages`).
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any

import numpy as np

from .env.checksum import crc32c
from .errors import CorruptionError, FormatVersionError, InvalidArgumentError
from .pages import PAGE, check

MAGIC = b"LSMTIDX\x01"
FORMAT = 1
_HEAD = struct.Struct("<8sIIII")
# on disk: what an array may be of
DTYPES = ("|u1", "|i1", "<u2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4")


def are_pages(name: str) -> bool:
    return name.rpartition(".")[2] == "pages"


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[Any]:
    """The file as buffers; arrays are not copied when C-contiguous."""
    listed: list[dict[str, Any]] = []
    buffers: list[Any] = []
    at = 0
    for name, array in arrays.items():
        whole = np.ascontiguousarray(array)
        if whole.dtype.str not in DTYPES:
            raise InvalidArgumentError(f"array {name!r} of dtype {whole.dtype} in an index file; give one of {', '.join(DTYPES)}")
        paged = are_pages(name)
        if paged and at % PAGE:
            buffers.append(bytes(-at % PAGE))
            at += -at % PAGE
        flat = memoryview(whole.reshape(-1).view(np.uint8).data) if whole.size else memoryview(b"")
        listed.append({"name": name, "dtype": whole.dtype.str, "shape": list(whole.shape), "offset": at, "crc": None if paged else crc32c(flat)})
        pad = -len(flat) % 64
        buffers += [flat, bytes(pad)]
        at += len(flat) + pad
    text = json.dumps({"header": header, "arrays": listed, "bytes": at}, separators=(",", ":")).encode()
    text += b" " * (-(_HEAD.size + len(text)) % (PAGE if any(map(are_pages, arrays)) else 64))
    head = _HEAD.pack(MAGIC, FORMAT, len(text), crc32c(text), 0)[:-4]
    return [head + struct.pack("<I", crc32c(head)), text, *buffers]


def write(path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """The file, whole or not at all; a present one is replaced."""
    from .env.local import LocalEnv

    env, name = LocalEnv(), os.fspath(path)
    with env.create(f"{name}.{os.getpid()}.tmp", kind="index", cause="commit") as file:
        file.writev(pack(header, arrays))
        file.sync()
    env.rename(f"{name}.{os.getpid()}.tmp", name)
    env.sync_dir(os.path.dirname(name) or ".")


def read(path: str | os.PathLike[str], name: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`unpack` of the map of a file that holds an index of that name, of a format up to ``version``."""
    from .env.local import LocalEnv

    where = os.fspath(path)
    header, arrays = unpack(LocalEnv().open(where, kind="index").map(), where=where)
    if header.get("name") != name or not isinstance(header.get("version"), int):
        raise CorruptionError(f"the file holds an index named {header.get('name')!r}, not {name!r}", where, 0)
    if header["version"] > version:
        raise FormatVersionError(f"this index {name!r} has format {header['version']}; this lsmtensor reads up to {version}: upgrade it")
    return header, arrays


def unpack(data: Any, *, where: str = "", whole: bool = True, sums: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(header, arrays as views), every byte checked. O(bytes). `CorruptionError` names the place.

    ``whole=False`` leaves pages to who reads them, each with its own sum; ``sums=False`` leaves the sums of arrays to who calls this again.
    """
    view = memoryview(data)
    if len(view) < _HEAD.size:
        raise CorruptionError("the file is shorter than an index header", where, 0)
    magic, form, length, crc, own = _HEAD.unpack_from(view, 0)
    if magic != MAGIC or crc32c(view[: _HEAD.size - 4]) != own:
        raise CorruptionError("the head of the index file is damaged", where, 0)
    if form > FORMAT:
        raise FormatVersionError(f"{where} has index format {form}; this lsmtensor reads up to {FORMAT}: upgrade it")
    base = _HEAD.size + length
    text = view[_HEAD.size : base]
    if len(text) != length or crc32c(text) != crc:
        raise CorruptionError("the header of the index file is damaged", where, _HEAD.size)
    try:
        value = json.loads(bytes(text))
        if base + value["bytes"] != len(view):
            raise CorruptionError(f"the index file has {len(view)} bytes, its header says {base + value['bytes']}", where, base)
        arrays, end = {}, base
        for entry in value["arrays"]:
            start, shape = base + int(entry["offset"]), [int(n) for n in entry["shape"]]
            if entry["dtype"] not in DTYPES or any(n < 0 for n in shape):
                raise CorruptionError(f"array {entry['name']!r} has dtype {entry['dtype']} and shape {shape}", where, start)
            size = math.prod(shape) * np.dtype(entry["dtype"]).itemsize
            if start < end or start + size > len(view) or any(view[end:start]):
                raise CorruptionError(f"array {entry['name']!r} lies outside the file", where, start)
            raw = view[start : start + size]
            if are_pages(entry["name"]):
                if shape[1:] != [PAGE] or entry["dtype"] != "|u1" or start % PAGE:
                    raise CorruptionError(f"pages of {entry['dtype']} {shape}", where, start)
                if whole:
                    check(np.frombuffer(raw, np.uint8).reshape(shape), range(shape[0]), where)
            elif sums and crc32c(raw) != entry["crc"]:
                raise CorruptionError(f"array {entry['name']!r} is damaged", where, start)
            arrays[entry["name"]] = np.frombuffer(raw, entry["dtype"]).reshape(shape)
            end = start + size
        if any(view[end:]):
            raise CorruptionError("bytes behind the last array", where, end)
        return dict(value["header"]), arrays
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as why:
        raise CorruptionError(f"the header of the index file does not parse ({why!r})", where, _HEAD.size) from why
