"""Sorted rows to the table files of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from ..config import RunConfig
from ..dtypes import RaggedType, SparseType, TensorType
from ..env.base import Env
from ..sstable import coded, filters
from ..sstable.writer import write_table
from .layout import FileRef
from .manifest import file_path
from .state import TableVersion


def write_files(
    env: Env, folder: str, config: RunConfig, table: TableVersion, batches: Iterable[tuple[pa.RecordBatch, pa.Array]], cause: str,
    level: int, number: Callable[[], int],
) -> tuple[FileRef, ...]:  # fmt: skip
    """Sorted (batch, keys) pairs to synced files of about ``sstable.file_bytes`` in ``folder``, which is synced too."""
    deepest = max((r.run.level for r in table.runs), default=0)
    spec = filters.for_level(config.sstable.filter, deepest - level, config.compaction.size_ratio)
    settings = replace(config.sstable, filter=spec)
    files: list[FileRef] = []
    for group in _Split(batches, settings.file_bytes):
        own = number()
        meta = write_table(
            env, file_path(folder, "table", own), own, group, schema=table.physical, key_kind=table.codec.kind, config=settings,
            cause=cause, meta={"table": table.state.id, "schema": table.state.schema},
            codecs=chains_of(table, config, cause),
        )  # fmt: skip
        files.append(FileRef.from_meta(meta))
    env.sync_dir(f"{folder}/sst")
    return tuple(files)


def chains_of(table: TableVersion, config: RunConfig, cause: str) -> dict[str, coded.Chain]:
    """The codecs of columns in a new file: their own; of tensors and of named arrays without one, what merges are asked for."""
    made = {c.name: coded.Chain(c.codec or "none", c.quant) for c in table.schema.columns if (c.codec or "none") != "none" or c.quant is not None}
    cold = config.compaction.codec
    if cause == "compaction" and cold != "none":
        coded.check_codec("of tensors", cold)
        for column in table.schema.columns:
            # large_binary is what chunks of named arrays are kept in
            tensors = isinstance(column.type, (TensorType, RaggedType, SparseType)) or column.type == pa.large_binary()
            if tensors and column.codec is None:
                made[column.name] = coded.Chain(cold, column.quant)
    return made


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
