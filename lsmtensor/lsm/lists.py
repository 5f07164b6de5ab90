"""Posting lists of the sources of a table: from the index segment of a file, else made when first asked for and kept beside the source.

A memtable's rows come in order of arrival and stay: those that came since are made lists of by themselves, and joined as they become many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from .. import container
from ..beside import beside
from ..errors import CorruptionError, InvalidArgumentError
from ..indexes.analyze import TextSpec
from ..indexes.postings import Csr, Postings, asking, restored
from ..indexes.text import TextLists, grown
from ..registry import Spec
from .sorted import opened
from .source import MemSource, RunSource, Source

Part = TypeVar("Part", TextLists, Postings)
# from the header and the arrays of a segment
Over = Callable[[dict[str, Any], dict[str, np.ndarray]], Part]
# indexes whose segments are lists
LEXICAL = ("text", "sparse")


@dataclass(frozen=True)
class Asked(Generic[Part]):
    """Which lists: of a column, under a name that tells them from others of it, from segments of an index. How they are made, and read."""

    column: str
    name: str
    index: str | None
    make: Callable[[pa.ChunkedArray], Part]
    over: Over[Part]


def asked_text(column: str, spec: TextSpec, index: str | None, kernel: Any) -> Asked[TextLists]:
    """The words of texts."""

    def over(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> TextLists:
        return TextLists.over(header, arrays, spec, kernel)

    return Asked(column, f"{column} {spec}", index, lambda texts: TextLists.of(texts, spec, kernel), over)


def asked_sparse(column: str, dim: int, index: str | None, kernel: Any) -> Asked[Postings]:
    """Sparse vectors."""

    def over(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Postings:
        made = restored((arrays["row_starts"], arrays["terms"], arrays["row_weights"]), dim, kernel, arrays)
        made.curve = [(int(budget), int(depth), float(reached)) for budget, depth, reached in header.get("curve", [])]
        return made

    return Asked(column, column, index, lambda values: Postings(csr_of(values), dim, kernel), over)


def lists_of(source: Source, asked: Asked[Part]) -> list[Part]:
    """Those of a source, part by part, their rows one after the other."""
    column, key = asked.column, asked.name
    if isinstance(source, MemSource):
        home: dict[Any, list[Part]] = beside(source.memtable, "_lists", dict)
        parts, values = home.get(key, []), source.memtable.view().table().column(column)
        have = sum(map(len, parts))
        if len(values) > have:
            parts = home[key] = grown(parts, asked.make(values.slice(have)))
        return parts
    kept: dict[Any, list[Part]] = beside(source, "_lists", dict)
    if key not in kept:
        kept[key] = [_stored(source, at, asked.index, asked.over) or asked.make(values_of(source, at, column)) for at in range(len(source.files))]
    return kept[key]


def _stored(source: RunSource, at: int, index: str | None, over: Over[Part]) -> Part | None:
    """The lists of a file's segment; None where it has none that is whole."""
    file = source.files[at]

    def open_(name: str) -> Part:
        path = f"{file.path.rsplit('/', 1)[0]}/{name}"
        header, arrays = container.unpack(file.env.open(path, kind="index").map(), where=path)
        try:
            made = over(header["index"], arrays)
        except (KeyError, TypeError, ValueError, InvalidArgumentError) as why:
            raise CorruptionError(f"the lists do not fit together ({why!r})", path, 0) from why
        if len(made) != file.ref.rows or header.get("of") != file.ref.root:
            raise CorruptionError("the segment was built over another table file", path, 0)
        return made

    return None if index is None else opened(source, at, index, open_)


def values_of(source: RunSource, at: int, column: str) -> pa.ChunkedArray:
    """A column of a run's file number ``at``."""
    reader = source.reader(at)
    return pa.chunked_array([c for i in range(reader.num_batches) for c in pa.chunked_array([reader.column(i, column)]).chunks], reader.schema.field(column).type)


def csr_of(values: pa.ChunkedArray) -> Csr:
    """Rows of a sparse column, nulls as rows of nothing, zeros left out."""
    starts, terms, weights = [np.zeros(1, np.int64)], [np.empty(0, np.uint32)], [np.empty(0, np.float32)]
    for chunk in values.chunks:
        storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        indices, numbers = storage.field("indices"), storage.field("values")
        valid = storage.is_valid()
        sizes = np.where(valid.to_numpy(zero_copy_only=False), indices.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), 0)
        if int(sizes.sum()) != len(indices.flatten()):  # null rows that hold entries
            indices, numbers = indices.filter(valid), numbers.filter(valid)
        entries = numbers.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        there = entries != 0
        ends = np.concatenate([[0], np.cumsum(there)])[np.cumsum(sizes)]
        starts.append(ends + starts[-1][-1])
        terms.append(indices.flatten().to_numpy(zero_copy_only=False).astype(np.uint32)[there])
        weights.append(entries[there])
    return np.concatenate(starts).astype(np.int64), np.concatenate(terms), np.concatenate(weights)


def sections(run: RunSource, at: int, spec: Spec, column: str, kernel: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the segment of a file holds."""
    values = values_of(run, at, column)
    if spec.name == "text":
        texts = TextLists.of(values, TextSpec.of(spec), kernel)
        return {"kind": "text", "documents": texts.documents, "mean": texts.mean}, texts.arrays()
    rows = csr_of(values)
    own, lists = dict(zip(("row_starts", "terms", "row_weights"), rows, strict=True)), Postings(rows, values.type.dim, kernel)
    about = {"curve": lists.calibrate(asking(rows))} if spec.params.get("nearly") else {}
    return {"kind": "sparse", **about}, {**own, **lists.arrays()}
