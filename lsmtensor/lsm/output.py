"""Sorted rows to the table files of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from ..config import RunConfig
from ..env.base import Env
from ..sstable import filters
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
        )  # fmt: skip
        files.append(FileRef.from_meta(meta))
    env.sync_dir(f"{folder}/sst")
    return tuple(files)


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
