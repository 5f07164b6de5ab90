"""Tables as files of other programs: Parquet, Arrow and CSV, read and written as streams of batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from .errors import InvalidArgumentError, SchemaError, StorageError
from .registry import near
from .schema import Column, Schema

ENDINGS = {
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".csv": "csv",
}  # fmt: skip
FORMATS = ("parquet", "arrow", "csv")


def format_of(path: str, given: str | None) -> str:
    """The format of a file, by its ending unless it is given."""
    if given is not None:
        if given not in FORMATS:
            raise InvalidArgumentError(f"format={given!r}; {near(given, FORMATS)}")
        return given
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise InvalidArgumentError(f"{path} ends in {ending or 'nothing'}; name it {', '.join(ENDINGS)}, or give format=, one of {', '.join(FORMATS)}")
    return ENDINGS[ending]


def write(rows: pa.RecordBatchReader, path: str, given: str | None = None) -> int:
    """Write a stream to a file, which appears under its name when it is whole; returns the rows. Memory: a batch."""
    kind = format_of(path, given)
    if kind == "csv":
        nested = [f.name for f in rows.schema if isinstance(f.type, pa.BaseExtensionType) or pa.types.is_nested(f.type)]
        if nested:
            raise InvalidArgumentError(f"CSV does not hold {', '.join(map(repr, nested))}; leave them out with columns=, or write Parquet or Arrow")
    unfinished, count = f"{path}.unfinished", 0
    try:
        with _said(path, "written"), _writer(unfinished, rows.schema, kind) as writer:
            for batch in rows:
                writer.write_batch(batch)
                count += batch.num_rows
        with _said(path, "written"):
            os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise
    return count


def read(path: str, given: str | None = None, schema: Schema | None = None) -> Iterator[pa.RecordBatch]:
    """The batches of a file; text of CSV becomes the types of ``schema`` where it has the column. Memory: a batch or row group."""
    with _said(path, "read"):
        kind = format_of(path, given)
        if kind == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path, memory_map=True) as file:
                yield from file.iter_batches()
        elif kind == "arrow":
            with pa.memory_map(path) as source:
                file = pa.ipc.open_file(source)
                for i in range(file.num_record_batches):
                    batch = file.get_batch(i)
                    batch.validate(full=True)  # lengths and offsets of another program's file may lead anywhere
                    yield batch
        else:
            import pyarrow.csv as csv

            types = {c.name: c.type for c in schema.columns if isinstance(c.type, pa.DataType)} if schema is not None else {}
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False)
            with csv.open_csv(path, convert_options=options) as reader:
                yield from reader


def schema_of(path: str, primary_key: Any, given: str | None = None) -> Schema:
    """The schema of a table that would hold the file's rows."""
    with _said(path, "read"):
        kind = format_of(path, given)
        if kind == "parquet":
            import pyarrow.parquet as pq

            found = pq.read_schema(path)
        elif kind == "arrow":
            with pa.memory_map(path) as source:
                found = pa.ipc.open_file(source).schema
        else:
            import pyarrow.csv as csv

            with csv.open_csv(path) as reader:
                found = reader.schema
    return Schema([Column(f.name, f.type, f.nullable) for f in found], primary_key)


@contextmanager
def _writer(path: str, schema: pa.Schema, kind: str) -> Iterator[Any]:
    if kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, schema) as writer:
            yield writer
    elif kind == "arrow":
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            yield writer
    else:
        import pyarrow.csv as csv

        with csv.CSVWriter(path, schema) as writer:
            yield writer


@contextmanager
def _said(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as why:
        raise SchemaError(f"{path} cannot be {what} ({why}); check its format, or give format=") from why
    except OSError as why:
        raise StorageError(f"{path} cannot be {what}: {why.strerror or why}", why.errno) from why
