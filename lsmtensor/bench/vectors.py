"""Vectors by name, for the workloads that search: rows, queries that are not among them, exact neighbours.

    debian | FOLDER                       the bundled embeddings; the full set in a folder (`datasets`)
    uniform(rows=10000, dim=128)          a generator, with its parameters; `GENERATORS` lists them
    FILE or URL                           .hdf5 as ann-benchmarks has them, .fvecs .bvecs .ivecs, .fbin .u8bin .i8bin, .npy, .parquet

A file or URL may end in ``#rows=N&sha256=…&column=NAME&metric=l2``: at most so many rows, a checksum that must hold, the column of a Parquet file. What comes from
a URL is kept in ``$LSMTENSOR_CACHE`` (else ~/.cache/lsmtensor) with the checksum that it had the first time; another one later is refused. Exact neighbours that took
long are kept there too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError, UnavailableError, UnknownNameError
from ..registry import Spec, near
from . import datasets
from .recall import truth

QUERIES = 1000
"""A generator makes so many queries beside its rows."""
LONG = 1 << 31
"""Rows x queries x dimensions from which on exact neighbours are kept."""
METRICS = {"angular": "cosine", "euclidean": "l2", "dot": "ip"}
"""What ann-benchmarks calls them."""


@dataclass
class Vectors:
    """float32 ``points`` (n, d) and ``queries`` (q, d); ``true`` int64 (q, k): the rows nearest by ``metric``."""

    points: np.ndarray
    queries: np.ndarray
    true: np.ndarray
    metric: str
    about: dict[str, Any]


def load(what: str | None, queries: int, k: int, seed: int = 0) -> Vectors:
    """``queries`` of them at most: those that a file brings, or as many rows held out at random. `UnknownNameError` for a name that is none,
    `InvalidArgumentError` for a file that cannot be read as what its ending says."""
    text = what or "debian"
    if text == "debian" or Path(text).is_dir():
        found = datasets.debian(None if text == "debian" else text)
        rows, asked, metric, about = found.embeddings, None, "cosine", found.describe()
    else:
        made = _file(text) if _suffix(text) in READERS else _generated(text, seed)
        rows, asked, metric = made
        about = {"name": text, "rows": len(rows), "dim": int(rows.shape[1]), "sha256": checksum(rows, asked)}
    rng = np.random.default_rng(seed)
    if asked is None:
        order = rng.permutation(len(rows))
        asked, rows = rows[order[:queries]], rows[np.sort(order[queries:])]
    points, asked = (np.ascontiguousarray(part, np.float32) for part in (rows, asked[:queries]))
    return Vectors(points, asked, _truth(points, asked, k, metric, about["sha256"]), metric, {**about, "metric": metric, "queries": len(asked)})


def checksum(*arrays: np.ndarray | None) -> str:
    state = hashlib.sha256()
    for array in arrays:
        if array is not None:
            state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _truth(points: np.ndarray, queries: np.ndarray, k: int, metric: str, sha256: str) -> np.ndarray:
    if points.size * len(queries) < LONG:
        return truth(points, queries, k, metric)
    of = hashlib.sha256(f"{sha256} {checksum(queries)} {len(points)} {k} {metric}".encode()).hexdigest()
    path = cache() / f"truth-{of[:32]}.npy"
    if path.exists():
        kept: np.ndarray = np.load(path, allow_pickle=False)
        if kept.shape == (len(queries), k):
            return kept
    found = truth(points, queries, k, metric)
    part = path.with_suffix(".part")
    with open(part, "wb") as out:
        np.save(out, found, allow_pickle=False)
    part.replace(path)
    return found


def cache() -> Path:
    """The folder of what was downloaded or took long; made if it is not there."""
    folder = Path(os.environ.get("LSMTENSOR_CACHE") or Path.home() / ".cache" / "lsmtensor")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- generators ------------------------------------------------------------------------------------
# Each: (rows (n, d), queries drawn like them), from rows, dimensions and a random generator.

Made = tuple[np.ndarray, np.ndarray | None, str]


def _uniform(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Every value uniform in [0, 1): no structure at all."""
    return rng.random((n, dim), dtype=np.float32)


def _clustered(n: int, dim: int, rng: np.random.Generator, clusters: int = 100, spread: float = 0.6, decay: float = 0.5) -> np.ndarray:
    """Normal around ``clusters`` centres, value i with standard deviation (1 + i)^-decay, as embeddings have."""
    scale = (1.0 + np.arange(dim, dtype=np.float32)) ** np.float32(-decay)
    centres = rng.standard_normal((clusters, dim), dtype=np.float32) * scale
    return rng.standard_normal((n, dim), dtype=np.float32) * (np.float32(spread) * scale) + centres[rng.integers(0, clusters, n)]


def _heavy_tailed(n: int, dim: int, rng: np.random.Generator, degrees: float = 3.0) -> np.ndarray:
    """Student's t: some values, and so some rows, lie far out."""
    return rng.standard_t(degrees, (n, dim)).astype(np.float32)


def _hard(n: int, dim: int, rng: np.random.Generator, intrinsic: int = 0) -> np.ndarray:
    """On a sphere of ``intrinsic`` dimensions (0: all), turned into ``dim``: the nearest are hardly nearer than the rest."""
    of = intrinsic or dim
    rows = rng.standard_normal((n, of), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows if of == dim else rows @ np.linalg.qr(rng.standard_normal((dim, of)))[0].T.astype(np.float32)


def _drifting(n: int, dim: int, rng: np.random.Generator, clusters: int = 100, speed: float = 1.0) -> np.ndarray:
    """A stream: rows in the order in which they came, around centres that move ``speed`` times their own spread meanwhile. Queries are of its end."""
    rows, way = _clustered(n, dim, rng, clusters), rng.standard_normal(dim).astype(np.float32)
    return rows + np.linspace(0, speed, n, dtype=np.float32)[:, None] * way * (np.linalg.norm(rows.std(0)) / np.linalg.norm(way))


GENERATORS: dict[str, Callable[..., np.ndarray]] = {
    "clustered": _clustered, "drifting": _drifting, "hard": _hard, "heavy_tailed": _heavy_tailed, "uniform": _uniform,
}  # fmt: skip


def _generated(text: str, seed: int) -> Made:
    spec = Spec.parse(text)
    if spec.name not in GENERATORS:
        raise UnknownNameError(f"no data set named {spec.name!r}; {near(spec.name, [*GENERATORS, 'debian'])}; or a file of {', '.join(READERS)}")
    given: dict[str, Any] = {"rows": 10_000, "dim": 128, "seed": seed, "metric": "l2", **spec.params}
    n, dim, own, metric = (given.pop(name) for name in ("rows", "dim", "seed", "metric"))
    try:
        rows = GENERATORS[spec.name](n + QUERIES, dim, np.random.default_rng(own), **given)
    except TypeError as why:
        raise InvalidArgumentError(f"{text}: {why}; give rows, dim, seed, metric and what the generator takes") from why
    # of a stream the last rows are the queries, of the rest any
    return rows[:n], rows[n:], metric


# -- files -----------------------------------------------------------------------------------------


def _file(text: str) -> Made:
    where, _, fragment = text.partition("#")
    asked = dict(urllib.parse.parse_qsl(fragment, strict_parsing=bool(fragment)))
    if unknown := set(asked) - {"rows", "sha256", "column", "metric"}:
        raise InvalidArgumentError(f"{text}: {', '.join(sorted(unknown))} after '#'; give rows, sha256, column or metric")
    path = fetch(where, asked.get("sha256"))
    try:
        rows, queries, metric = READERS[_suffix(where)](path, int(asked.get("rows", 1 << 62)), asked.get("column"))
    except (OSError, ValueError, KeyError) as why:
        raise InvalidArgumentError(f"{path} cannot be read as {_suffix(where)}: {why}") from why
    if rows.ndim != 2 or not len(rows):
        raise InvalidArgumentError(f"{path} holds an array of shape {rows.shape}; wanted rows of one length")
    return rows, queries, asked.get("metric", metric)


def fetch(where: str, sha256: str | None = None) -> Path:
    """The file of a path or an http, https or file URL, downloaded once. `CorruptionError` where its checksum is not ``sha256``, or not what it was."""
    scheme = urllib.parse.urlsplit(where).scheme
    if scheme in ("http", "https", "file"):
        name = hashlib.sha256(where.encode()).hexdigest()[:16] + "-" + Path(urllib.parse.urlsplit(where).path).name
        path, known = cache() / name, cache() / f"{name}.sha256"
        if not path.exists():
            part = path.with_name(f"{name}.{os.getpid()}.part")
            with urllib.request.urlopen(where, timeout=60) as source, open(part, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            part.replace(path)
        sha256 = sha256 or (known.read_text().strip() if known.exists() else None)
    elif scheme and not Path(where).exists():
        raise InvalidArgumentError(f"{where}: give a path or an http, https or file URL")
    else:
        path, known = Path(where), None
        if not path.is_file():
            raise InvalidArgumentError(f"no file {where}")
    if sha256 is not None or known is not None:
        with open(path, "rb") as source:
            found = hashlib.file_digest(source, "sha256").hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise CorruptionError(f"{path} has the SHA-256 {found}, not {sha256}" + ("; remove it to have it fetched again" if known else ""))
        if known is not None and not known.exists():
            known.write_text(found + "\n")
    return path


def _hdf5(path: Path, rows: int, column: str | None) -> Made:
    """As ann-benchmarks has them: train, test, and the distance by name. Its neighbours are of all rows: they are computed again."""
    try:
        import h5py
    except ImportError as why:
        raise UnavailableError(f"HDF5 files need h5py ({why}); install it with: pip install 'lsmtensor[bench]'") from why
    with h5py.File(path, "r") as file:
        said = str(file.attrs.get("distance", "euclidean"))
        if said not in METRICS:
            raise InvalidArgumentError(f"{path} is of the distance {said!r}; read are {', '.join(METRICS)}")
        return file[column or "train"][:rows], file["test"][:], METRICS[said]


def _vecs(kind: str) -> Callable[[Path, int, str | None], Made]:
    """Each row an int32, its length, and its values (TEXMEX)."""
    dtype = np.dtype(kind)

    def read(path: Path, rows: int, column: str | None) -> Made:
        flat = np.memmap(path, np.uint8, "r")
        dim = int(flat[:4].view("<i4")[0])
        width = 4 + dim * dtype.itemsize
        if dim < 1 or len(flat) % width:
            raise ValueError(f"{len(flat)} bytes are no rows of {dim} values")
        whole = flat.reshape(-1, width)[:rows]
        if (np.ascontiguousarray(whole[:, :4]).view("<i4") != dim).any():
            raise ValueError(f"rows are not all of {dim} values")
        return np.ascontiguousarray(whole[:, 4:]).view(dtype), None, "l2"

    return read


def _bin(kind: str) -> Callable[[Path, int, str | None], Made]:
    """Rows and dimensions as uint32, then all values (big-ann-benchmarks)."""
    dtype = np.dtype(kind)

    def read(path: Path, rows: int, column: str | None) -> Made:
        n, dim = np.fromfile(path, "<u4", 2).tolist()
        if path.stat().st_size != 8 + n * dim * dtype.itemsize:
            raise ValueError(f"{path.stat().st_size} bytes are not {n} x {dim} values of {dtype}")
        return np.memmap(path, dtype, "r", 8, (n, dim))[:rows], None, "l2"

    return read


def _npy(path: Path, rows: int, column: str | None) -> Made:
    return np.load(path, mmap_mode="r", allow_pickle=False)[:rows], None, "l2"


def _parquet(path: Path, rows: int, column: str | None) -> Made:
    """A column of lists of one length: the one that is named, or the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    lists = [f.name for f in schema if pa.types.is_list(f.type) or pa.types.is_large_list(f.type) or pa.types.is_fixed_size_list(f.type)]
    if not lists or (column is not None and column not in lists):
        raise ValueError(f"no column {column or 'of lists'}; of lists are: {', '.join(lists) or 'none'}")
    held = pq.read_table(path, columns=[column or lists[0]]).slice(0, min(rows, 1 << 62)).column(0).combine_chunks()
    values = held.flatten().to_numpy(zero_copy_only=False)
    if held.null_count or len(values) % max(1, len(held)):
        raise ValueError("its lists are not all of one length")
    return values.reshape(len(held), -1), None, "l2"


READERS: dict[str, Callable[[Path, int, str | None], Made]] = {
    ".hdf5": _hdf5, ".h5": _hdf5, ".fvecs": _vecs("<f4"), ".bvecs": _vecs("u1"), ".ivecs": _vecs("<i4"), ".fbin": _bin("<f4"), ".u8bin": _bin("u1"),
    ".i8bin": _bin("i1"), ".npy": _npy, ".parquet": _parquet,
}  # fmt: skip


def _suffix(text: str) -> str:
    return Path(text.partition("#")[0]).suffix.lower()
