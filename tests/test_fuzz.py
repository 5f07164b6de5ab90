"""Each parser against bytes that somebody made on purpose, with the right checksums: an answer or an error of ours, no more memory than
the file deserves, nothing outside the folder."""

from __future__ import annotations

import copy
import json
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor import container
from lsmtensor.env.checksum import crc32c
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.exchange import SafetensorsFile
from lsmtensor.lsm import commit as commits
from lsmtensor.lsm import manifest
from lsmtensor.sstable.format import TRAILER, place
from lsmtensor.sstable.reader import TableReader
from lsmtensor.testing import damage, workload
from lsmtensor.wal.format import BATCHES, encode_header, encode_record
from lsmtensor.wal.reader import read_wal

SPACE = 8 << 20  # what may be allocated beside a multiple of the file
RUNS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30]), st.text(max_size=5),
    st.sampled_from(["../x", "/etc/passwd", "a\x00b", "float32", "none"]), st.floats(allow_nan=False, allow_infinity=False), st.builds(list), st.builds(dict), st.builds(lambda: [[0]]),
)  # fmt: skip


def changed(value, data):
    """A JSON value with one to three of its places replaced or removed."""
    made = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        spots = []

        def walk(here, spots=spots):
            for key, part in here.items() if isinstance(here, dict) else enumerate(here):
                spots.append((here, key))
                if isinstance(part, (dict, list)):
                    walk(part)

        walk(made)
        if not spots:
            return made
        owner, key = spots[data.draw(st.integers(0, len(spots) - 1))]
        if data.draw(st.integers(0, 4)) == 0:
            del owner[key]
        else:
            owner[key] = data.draw(JUNK)
    return made


class allowed:
    """Within: errors of ours, and ``times`` the bytes of the input beside `SPACE`."""

    def __init__(self, size: int, times: int = 20) -> None:
        self.limit = SPACE + times * size

    def __enter__(self) -> None:
        tracemalloc.start()
        self.arrow = pa.total_allocated_bytes()

    def __exit__(self, kind, why, trace) -> bool:
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - self.arrow
        tracemalloc.stop()
        assert peak < self.limit, f"{peak} bytes were allocated, {self.limit} allowed"
        return kind is not None and issubclass(kind, lt.LsmTensorError)


@pytest.fixture(scope="module")
def made():
    env = damage.made()
    return env, {damage.kind_of(name): (name, bytes(file.data)) for name, file in env.files.items()}


@given(data=st.data())
@RUNS
def test_safetensors(tmp_path_factory, data):
    body = bytes(64)
    header = {"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}, "b": {"dtype": "I8", "shape": [32], "data_offsets": [32, 64]}, "__metadata__": {"x": "y"}}
    text = json.dumps(changed(header, data)).encode()
    raw = struct.pack("<Q", len(text) if data.draw(st.integers(0, 5)) else data.draw(st.sampled_from([0, 2**32, 2**63, 2**64 - 1]))) + text + body
    path = tmp_path_factory.mktemp("s") / "x.safetensors"
    path.write_bytes(raw)
    with allowed(len(raw)):
        file = SafetensorsFile(path)
        for name in file.entries:
            file.array(name)


def test_deep_nesting_is_an_error_of_ours(made, tmp_path):
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(lt.CorruptionError):
        SafetensorsFile(tmp_path / "x.safetensors")
    frame = struct.pack("<II", len(deep), manifest._crc(1, 0, deep)) + deep
    with pytest.raises(lt.CorruptionError):
        manifest.replay(frame, 1, "MANIFEST-000001")
    with pytest.raises(lt.CorruptionError):
        commits.decode(memoryview(commits._LENGTH.pack(len(deep)) + deep), path="x", offset=0)
    with pytest.raises(lt.CorruptionError):
        container.unpack(sealed_index(deep))


@given(data=st.data())
@RUNS
def test_layouts(made, data):
    """A whole database whose manifest is one frame of a hostile layout."""
    env, files = made
    name, raw = files["MANIFEST"]
    number = int(name[-6:])
    last = manifest.replay(raw, number, name)
    value = {"format": 1, "previous": last.links[0], "edit": last.links[1], "layout": json.loads(json.dumps(last.layout.to_dict()))}
    after = damage.with_file(env, name, manifest._frame(number, 0, changed(value, data)))
    before = set(after.files)
    with allowed(1 << 20, 40), lt.open(workload.PATH, env=after, config=damage.CONFIG) as db:
        for table in db.tables:
            db[table].to_arrow()
            db[table].get(1 if table == "docs" else "w1")
        db.verify()
    assert all(path.startswith(f"{workload.PATH}/") and "/../" not in path for path in {*before, *after.files})


@given(data=st.data())
@RUNS
def test_log_records(made, data):
    batch = pa.record_batch({"id": pa.array([1, 2]), "_op": pa.array([1, 1], pa.uint8())})
    buffers = [bytes(b) for b in commits.encode(commits.Commit(parts=[(1, batch)], runs=[]))[0]]
    (length,) = commits._LENGTH.unpack_from(buffers[0])
    header = json.loads(buffers[0][commits._LENGTH.size : commits._LENGTH.size + length])
    text = json.dumps(changed(header, data)).encode()
    payload = commits._pad(commits._LENGTH.pack(len(text)) + text) + b"".join(buffers[1:])
    env, path = MemoryEnv(), "x.wal"
    with env.create(path, kind="wal", cause="commit") as file:
        file.write(encode_header(1))
        file.writev(encode_record(1, 32, data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(-(2**63), 2**63 - 1)), BATCHES, 0, [payload]))
    with allowed(len(payload)):
        for record in read_wal(env, path, 1):
            commits.decode(record.payload, path=path, offset=record.offset)


def sealed_index(text: bytes, body: bytes = b"") -> bytes:
    head = container._HEAD.pack(container.MAGIC, container.FORMAT, len(text), crc32c(text), 0)[:-4]
    return head + struct.pack("<I", crc32c(head)) + text + body


@given(data=st.data())
@RUNS
@pytest.mark.parametrize("kind", ["hnsw", "ivfflat", "diskann"])
def test_index_segments(made, kind, data):
    _, raw = made[1][kind]
    length = container._HEAD.unpack_from(raw)[2]
    base = container._HEAD.size + length
    text = json.dumps(changed(json.loads(raw[container._HEAD.size : base]), data)).encode()
    with allowed(len(raw)):
        header, arrays = container.unpack(sealed_index(text, raw[base:]))
        found = lt.indexes.from_sections(header.get("index", {}), arrays, vectors=workload.vectors(np.arange(24)))
        found.search(np.ones((1, 4), np.float32), 3)


@given(data=st.data())
@RUNS
def test_table_files(made, data):
    """Sections and their directory, sealed again after the change."""
    name, raw = made[1]["arrow"]
    footer = int.from_bytes(raw[-10:-6], "little")
    at = len(raw) - 10 - footer - TRAILER.size
    fields = list(TRAILER.unpack(raw[at : at + TRAILER.size]))
    number, chunks_end, directory = fields[8], fields[7], json.loads(raw[fields[3] : fields[3] + fields[2]])
    parts = {entry["name"]: raw[entry["offset"] : entry["offset"] + entry["size"]] for entry in directory}
    victim = data.draw(st.sampled_from(["meta", "blocks", "crcs", "leaves", "directory", "trailer"]))
    if victim in ("meta", "blocks"):
        parts[victim] = json.dumps(changed(json.loads(parts[victim]), data)).encode()
    elif victim in ("crcs", "leaves"):
        parts[victim] = parts[victim][: data.draw(st.integers(0, len(parts[victim])))]
    if victim == "trailer":
        chunks_end = data.draw(st.sampled_from([0, 8, chunks_end - 1, chunks_end + 64, 2**40, 2**63]))
    body, listed = bytearray(raw[: fields[7]]), []
    for entry in directory:
        body += bytes(-len(body) % 64)
        sum_ = crc32c(parts[entry["name"]], crc32c(place(number, len(body))))
        listed.append({**entry, "offset": len(body), "size": len(parts[entry["name"]]), "crc": sum_})
        body += parts[entry["name"]]
    described = json.dumps(changed(listed, data) if victim == "directory" else listed).encode()
    tail = raw[at + TRAILER.size : -10]
    trailer = TRAILER.pack(*fields[:2], len(described), len(body), crc32c(described), len(tail), crc32c(tail), chunks_end, number, 0)
    trailer = trailer[:-8] + crc32c(trailer[:-8]).to_bytes(4, "little") + bytes(4)
    whole = bytes(body) + described + bytes(-(len(body) + len(described) + TRAILER.size) % 8) + trailer + raw[at + TRAILER.size :]
    env = damage.with_file(made[0], name, whole)
    with allowed(len(raw), 40):
        reader = TableReader(env, name, number)
        reader.verify("")
        for i in range(reader.num_batches):
            reader._batch(i)


def test_an_arrow_file_whose_offsets_lead_anywhere(tmp_path):
    batch = pa.record_batch({"id": pa.array([1, 2, 3]), "text": pa.array(["a", "b", "c"])})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    raw = (tmp_path / "x.arrow").read_bytes()
    offsets = struct.pack("<4i", 0, 1, 2, 3)
    assert raw.count(offsets) == 1
    (tmp_path / "x.arrow").write_bytes(raw.replace(offsets, struct.pack("<4i", 0, 2**30, 2**30, 2**31 - 1)))
    with lt.open(tmp_path / "db") as db, pytest.raises(lt.SchemaError, match="cannot be read"):
        db.import_table("t", tmp_path / "x.arrow", "id")
