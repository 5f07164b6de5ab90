"""Sorted rows to the table files of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import pyarrow as pa

from ..config import RunConfig, SSTableConfig
from ..dtypes import RaggedType, SparseType, TensorType
from ..env.base import Env, memory
from ..sstable import coded, filters
from ..sstable.writer import TableWriter
from . import keyspace
from .blobs import BLOBS, Leaving, leaving
from .layout import FileRef, Run
from .manifest import file_path
from .segments import whole_runs
from .state import TableVersion

HOT_SHARE = 16


class Written(NamedTuple):
    """The files of a run, and runs of blob files that rows of them refer to: both enter the layout in one edit."""

    files: tuple[FileRef, ...]
    blobs: tuple[Run, ...]


def write_files(
    env: Env, folder: str, config: RunConfig, table: TableVersion, batches: Iterable[tuple[pa.RecordBatch, pa.Array]], cause: str,
    level: int, number: Callable[[], int], blobs: Callable[[], TableVersion] | None,
) -> Written:  # fmt: skip
    """Sorted (batch, keys) pairs to synced files of about ``sstable.file_bytes`` (one where `whole_runs`) in ``folder``, which is synced too. Large values of tensor columns
    go to runs of the table that ``blobs`` answers, unless it is None."""
    deepest = max((r.run.level for r in table.runs), default=0)
    spec = filters.for_level(config.sstable.filter, deepest - level, config.compaction.size_ratio)
    # what a merge rewrites of a table that is small beside the memory is read again soon: it stays in the page cache
    hot = cause == "compaction" and sum(r.run.bytes for r in table.runs) <= memory() // HOT_SHARE
    settings = replace(config.sstable, filter=spec, direct=config.sstable.direct and not hot)
    files: list[FileRef] = []
    runs: list[Run] = []

    def create_blobs() -> tuple[int, TableWriter]:
        assert blobs is not None
        return create(blobs(), replace(settings, filter="none"), {})

    def create(of: TableVersion, config: SSTableConfig, codecs: dict[str, coded.Chain]) -> tuple[int, TableWriter]:
        own, meta = number(), {"table": of.state.id, "schema": of.state.schema}
        writer = TableWriter(
            env, file_path(folder, "table", own), own, schema=of.physical, key_kind=of.codec.kind, config=config, cause=cause, meta=meta, codecs=codecs
        )
        return own, writer

    limit = settings.file_bytes
    if whole_runs(table):
        limit, batches = sys.maxsize, _even(batches, settings.batch_rows)
    for group in _Split(batches, limit):
        first = next(group)
        chains = chains_of(table, config, cause)
        kinds = leaving(first[0], table.physical, chains, config.large_tensor_bytes) if blobs is not None else {}
        chains |= {name: coded.Chain(kind.codec, outside=True) for name, kind in kinds.items()}
        with create(table, settings, chains)[1] as file, Leaving(
            chain([first], group), kinds, config.large_tensor_bytes, create_blobs
        ) as left:
            for batch, keys in left:
                file.add(batch, keys)
            runs += left.finish()
            files.append(FileRef.from_meta(file.finish()))
    env.sync_dir(f"{folder}/sst")
    return Written(tuple(files), tuple(runs))


def chains_of(table: TableVersion, config: RunConfig, cause: str) -> dict[str, coded.Chain]:
    """The codecs of columns in a new file: their own; of tensors and of named arrays without one, what merges are asked for."""
    made = {c.name: coded.Chain(c.codec or "none", c.rounding) for c in table.schema.columns if (c.codec or "none") != "none" or c.rounding is not None}
    cold = config.compaction.codec
    if cause == "compaction" and cold != "none" and table.state.name != BLOBS:
        coded.check_codec("of tensors", cold)
        for column in table.schema.columns:
            # large_binary is what chunks of named arrays are kept in
            tensors = isinstance(column.type, (TensorType, RaggedType, SparseType)) or column.type == pa.large_binary()
            if tensors and column.codec is None:
                made[column.name] = coded.Chain(cold, column.rounding)
    return made


def _even(pairs: Iterable[tuple[pa.RecordBatch, pa.Array]], rows: int) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """The same rows in batches of ``rows``, but for the last: their vectors are whole pages, which can be mapped behind each other."""
    parts: list[tuple[pa.RecordBatch, pa.Array]] = []
    have = 0
    for batch, keys in pairs:
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, rows - have)
            parts.append((part, keys.slice(at, part.num_rows)))
            at, have = at + part.num_rows, have + part.num_rows
            if have == rows:
                yield _joined(parts)
                parts, have = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[tuple[pa.RecordBatch, pa.Array]]) -> tuple[pa.RecordBatch, pa.Array]:
    if len(parts) == 1:
        return parts[0]
    return pa.Table.from_batches([b for b, _ in parts]).combine_chunks().to_batches()[0], keyspace.concat([k for _, k in parts])


class _Split:
    """A stream of (batch, keys) cut into groups of about ``limit`` bytes; the rows of one key stay together."""

    def __init__(self, batches: Iterable[tuple[pa.RecordBatch, pa.Array]], limit: int) -> None:
        self._rest, self._limit = iter(batches), limit
        self._next = next(self._rest, None)

    def __iter__(self) -> Iterator[Iterator[tuple[pa.RecordBatch, pa.Array]]]:
        while self._next is not None:
            yield self._group()

    def _group(self) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        size = 0
        while self._next is not None:
            batch, keys = self._next
            yield batch, keys
            size += batch.nbytes
            self._next = next(self._rest, None)
            if self._next is not None and size > self._limit and self._next[1][0].as_py() != keys[-1].as_py():
                return
