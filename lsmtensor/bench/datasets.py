"""Real data: Debian packages with texts, scalars, dependencies and embeddings.

A part of it is bundled (``lsmtensor/data``, with its provenance); a folder with the full set works too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError

BUNDLED = Path(__file__).resolve().parent.parent / "data" / "debian.parquet"
FULL_FILES = ("packages.parquet", "depends.parquet", "embeddings_f16.npy")
EDGES = pa.schema([("src", pa.string()), ("dst", pa.string()), ("kind", pa.string())])


@dataclass(frozen=True)
class Dataset:
    """``packages``: n rows of text and scalars; ``embeddings`` float32 (n, d), row by row with them; ``edges`` by name."""

    name: str
    packages: pa.Table
    embeddings: np.ndarray
    edges: pa.Table
    checksum: str

    def __len__(self) -> int:
        return self.packages.num_rows

    def describe(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"name": self.name, "rows": len(self), "dim": int(self.embeddings.shape[1]), "sha256": self.checksum}


def debian(path: str | os.PathLike[str] | None = None) -> Dataset:
    """The bundled part, or the full set in the folder ``path``; O(bytes).

    Raises `InvalidArgumentError` where the folder lacks a file of the set.
    """
    return _bundled() if path is None else _full(Path(path))


def _bundled() -> Dataset:
    import pyarrow.parquet as pq

    table = pq.read_table(BUNDLED)
    flat = table.column("embedding").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    embeddings = flat.reshape(table.num_rows, -1).astype(np.float32)
    edges = _edges_of(table)
    return Dataset("debian-part", table.drop_columns(["embedding", "edges"]), embeddings, edges, _sha256([BUNDLED]))


def _edges_of(table: pa.Table) -> pa.Table:
    """The nested lists of (dst, kind) as rows of (src, dst, kind)."""
    lists = table.column("edges").combine_chunks()
    counts = np.diff(lists.offsets.to_numpy())
    names = table.column("name").combine_chunks()
    inner = lists.flatten()
    src = names.take(pa.array(np.repeat(np.arange(len(names)), counts)))
    return pa.table([src, inner.field("dst"), inner.field("kind")], schema=EDGES)


def _full(folder: Path) -> Dataset:
    import pyarrow.parquet as pq

    files = [folder / name for name in FULL_FILES]
    absent = [f.name for f in files if not f.is_file()]
    if absent:
        raise InvalidArgumentError(f"{folder} lacks {', '.join(absent)}; give a folder with {', '.join(FULL_FILES)}, or leave the path out")
    packages = pq.read_table(files[0])
    pairs = pq.read_table(files[1])
    embeddings = np.load(files[2], allow_pickle=False).astype(np.float32)
    if len(embeddings) != packages.num_rows:
        raise InvalidArgumentError(f"{folder}: {len(embeddings)} embeddings for {packages.num_rows} packages; wanted one each")
    names = packages.column("name").combine_chunks()
    row_of = np.full(int(np.max(packages.column("id").to_numpy())) + 1, -1, np.int64)
    row_of[packages.column("id").to_numpy()] = np.arange(packages.num_rows)
    src, dst = row_of[pairs.column("src").to_numpy()], row_of[pairs.column("dst").to_numpy()]
    known = (src >= 0) & (dst >= 0)
    edges = pa.table(
        [names.take(pa.array(src[known])), names.take(pa.array(dst[known])), pairs.column("kind").filter(pa.array(known))],
        schema=EDGES,
    )
    return Dataset("debian", packages, embeddings, edges, _sha256(files))


def cut(full: Dataset, target: str | os.PathLike[str], rows: int = 4000) -> int:
    """Write a part of ``full`` as one Parquet file; returns its rows (at most ``rows``).

    Packages are taken in order of the SHA-256 of their name, each with all that it (pre-)depends on, as long as
    they fit: a part that is closed under dependency. Deterministic.
    """
    import pyarrow.parquet as pq

    names = full.packages.column("name").to_pylist()
    needs: dict[str, list[str]] = {}
    edges: dict[str, list[dict[str, str]]] = {}
    for edge in full.edges.to_pylist():
        edges.setdefault(edge["src"], []).append({"dst": edge["dst"], "kind": edge["kind"]})
        if edge["kind"] != "recommends":
            needs.setdefault(edge["src"], []).append(edge["dst"])
    chosen: set[str] = set()
    for name in sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()):
        more = _closure(name, needs) - chosen
        if len(chosen) + len(more) <= rows and len(more) <= rows // 50:
            chosen |= more
    kept = [i for i, name in enumerate(names) if name in chosen]
    inside = [[e for e in edges.get(names[i], ()) if e["dst"] in chosen] for i in kept]
    width = full.embeddings.shape[1]
    half = pa.array(np.ascontiguousarray(full.embeddings[kept].astype(np.float16)).reshape(-1))
    table = (
        full.packages.take(pa.array(kept))
        .append_column("edges", pa.array(inside, pa.list_(pa.struct([("dst", pa.string()), ("kind", pa.string())]))))
        .append_column("embedding", pa.FixedSizeListArray.from_arrays(half, width))
    )
    leaf = "embedding.list.element"
    others = [c for c in table.column_names if c not in ("embedding", "edges")]
    pq.write_table(
        table, target, compression="zstd", compression_level=19, column_encoding={leaf: "BYTE_STREAM_SPLIT"},
        use_dictionary=[*others, "edges.list.element.dst", "edges.list.element.kind"],
    )  # fmt: skip
    return len(kept)


def _closure(name: str, needs: dict[str, list[str]]) -> set[str]:
    found, open_names = {name}, [name]
    while open_names:
        for other in needs.get(open_names.pop(), ()):
            if other not in found:
                found.add(other)
                open_names.append(other)
    return found


def _sha256(files: Iterable[Path]) -> str:
    state = hashlib.sha256()
    for file in files:
        with open(file, "rb") as source:
            state.update(hashlib.file_digest(source, "sha256").digest())
    return state.hexdigest()
