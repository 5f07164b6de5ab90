"""Files of earlier versions stay readable, and docs/format.md says what is in them: here it is read again, by the page alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
from pathlib import Path

import blake3
import crc32c
import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt

GOLDEN = Path(__file__).parent / "golden" / "v1"
BLOBS = GOLDEN.with_name("v1-blobs")
sys.path.insert(0, str(GOLDEN.parent))
from make import films, rows  # noqa: E402


def expected() -> dict[str, tuple[int, object, list[float], object]]:
    made: dict[str, tuple[int, object, list[float], object]] = {}

    def put(given):
        for i, name in enumerate(given["name"]):
            made[name] = (int(given["count"][i]), given["note"][i], given["vector"][i].tolist(), given["image"][i].tolist())

    put(rows(0, 300))
    for i in range(0, 300, 10):
        del made[f"key-{i:04d}"]
    put(rows(290, 310))
    made["key-0001"] = (-1, "only in the log", [0.0] * 8, [[0]])
    return made


def content(table) -> dict[str, tuple[int, object, list[float], object]]:
    return {
        r["name"]: (r["count"], r["note"], np.asarray(r["vector"]).tolist(), np.asarray(r["image"]).tolist())
        for r in (table.get(k) for k in table.to_arrow(["name"]).column(0).to_pylist())
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["a", "r"])
def test_the_first_format_is_read(tmp_path, mode):
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    with lt.open(str(folder), mode=mode) as db:
        assert content(db["things"]) == expected()
        pairs = db["pairs"].to_arrow().to_pylist()
        assert [(r["a"], r["b"], r["x"]) for r in pairs] == [(1, "x", None), (1, "y", 1.5), (2, "x", 0.5)]
        db.verify()
        found = db["things"].search(np.zeros(8, np.float32), k=1)
        assert found.column("name").to_pylist() == ["key-0001"]
        if mode == "a":
            db["things"].insert(rows(400, 410))
            db.compact()
            assert len(db["things"]) == len(expected()) + 10


def crc(*parts: bytes) -> int:
    return crc32c.crc32c(b"".join(parts))


def tree(leaves: list[bytes]) -> bytes:
    while len(leaves) > 1:
        pairs = [blake3.blake3(b"\x01" + a + b).digest() for a, b in zip(leaves[::2], leaves[1::2])]
        leaves = pairs + leaves[len(pairs) * 2 :]
    return leaves[0]


def read_table(path: Path) -> tuple[dict[str, bytes], bytes, list[dict]]:
    """(sections, root, directory) of a table file, every checksum compared."""
    data = path.read_bytes()
    assert data[:8] == b"ARROW1\0\0" and data[-6:] == b"ARROW1"
    (footer,) = struct.unpack("<I", data[-10:-6])
    at = len(data) - 10 - footer - 64
    magic, form, length, offset, own, footer_length, footer_crc, zeros, end, number, last, _ = struct.unpack(
        "<8sIIQIII4sQQII", data[at : at + 64]
    )
    assert (magic, form, footer_length, zeros) == (b"LSMTSST\x01", 1, footer, b"\0\0\0\0")
    assert last == crc(data[at : at + 56]) and footer_crc == crc(data[at + 64 : at + 64 + footer])
    assert number == int(path.stem)
    directory = data[offset : offset + length]
    assert own == crc(directory)
    sections = {}
    for entry in json.loads(directory):
        assert entry["offset"] % 64 == 0
        sections[entry["name"]] = data[entry["offset"] : entry["offset"] + entry["size"]]
        assert entry["crc"] == crc(struct.pack("<QQ", number, entry["offset"]), sections[entry["name"]])
    size = json.loads(sections["meta"])["chunk_bytes"]
    places = [(struct.pack("<QQ", number, i), data[i : min(i + size, end)]) for i in range(0, end, size)]
    assert [crc(*p) for p in places] == list(np.frombuffer(sections["crcs"], "<u4"))
    leaves = [blake3.blake3(b"\0" + here + chunk).digest() for here, chunk in places]
    assert b"".join(leaves) == sections["leaves"]
    return sections, tree([*leaves, blake3.blake3(b"\0" + directory).digest()]), json.loads(directory)


def read_manifest(path: Path) -> list[dict]:
    data, number, at, frames = path.read_bytes(), int(path.name[-6:]), 0, []
    while at < len(data):
        length, own = struct.unpack_from("<II", data, at)
        text = data[at + 8 : at + 8 + length]
        assert own == crc(struct.pack("<QQ", number, at), text)
        frames.append(json.loads(text))
        at += 8 + length
    return frames


def test_table_files_are_as_the_page_says():
    roots = {}
    for path in (GOLDEN / "sst").glob("*.arrow"):
        sections, root, directory = read_table(path)
        roots[int(path.stem)] = root.hex()
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        blocks = json.loads(sections["blocks"])
        assert table.num_rows == sum(b["rows"] for b in blocks) and {"_seq", "_op"} <= set(table.column_names)
        assert pa.ipc.open_stream(pa.memory_map(str(path)).read_buffer()[8:]).read_all().num_rows == table.num_rows
        keys = np.array([mixed(k) for k in table.column("name").to_pylist()] if "name" in table.column_names else [], np.uint64)
        bits = np.unpackbits(np.frombuffer(sections["filter"], np.uint8), bitorder="little")
        probes = next(e["parameters"]["probes"] for e in directory if e["name"] == "filter")
        for h in keys.tolist():
            step = (h >> 32 | h << 32) & (2**64 - 1) | 1
            assert all(bits[(h + i * step) % 2**64 % len(bits)] for i in range(probes))
    listed = {f["number"]: f["root"] for run in files_of(read_manifest(GOLDEN / "MANIFEST-000001")) for f in run}
    assert roots == listed


def files_of(frames: list[dict]) -> list[list[dict]]:
    found: list[list[dict]] = []

    def look(value):
        if isinstance(value, dict):
            if "files" in value:
                found.append(value["files"])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(frames)
    return found


def mixed(text: str) -> int:
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    data = text.encode()
    h = len(data)
    for i in range(0, len(data), 8):
        h = mix(h ^ int.from_bytes(data[i : i + 8].ljust(8, b"\0"), "little"))
    return mix(h)


def test_the_manifest_is_as_the_page_says():
    first, *edits = read_manifest(GOLDEN / (GOLDEN / "CURRENT").read_text().strip())
    assert first["format"] == 1 and edits
    previous = bytes.fromhex(first["previous"]) if first["previous"] else bytes(32)
    for edit in edits:
        assert set(edit) == {"ops", "version", "time_ns", "next_file", "root"}
        assert len(bytes.fromhex(edit["root"])) == 32 != previous
    assert edits[-1]["version"] <= 8


def test_the_log_is_as_the_page_says():
    (path,) = (GOLDEN / "wal").glob("*.wal")
    data, number = path.read_bytes(), int(path.stem)
    assert data[:8] == b"LSMTWAL\0" and struct.unpack_from("<HH", data, 8) == (1, 0)
    assert struct.unpack_from("<Q", data, 16) == (number,) and struct.unpack_from("<I", data, 28) == (crc(data[:28]),)
    at, kinds, versions = 32, [], []
    while at < len(data):
        own, mark, length, version, _, synced, kind, payload_crc = struct.unpack_from("<I4sQQqQB3xI", data, at)
        assert mark == b"LTWR" and synced <= at
        assert own == crc(struct.pack("<QQ", number, at), data[at + 4 : at + 48])
        stop = at + 48 + length + -length % 8
        assert payload_crc == crc(data[at + 48 : stop])
        kinds.append(kind)
        versions.append(version)
        at = stop
    assert kinds[-1] == 3 and set(kinds[:-1]) == {1} and versions[:-1] == sorted(set(versions[:-1]))


def test_index_segments_are_as_the_page_says():
    for path in (GOLDEN / "sst").glob("*.hnsw"):
        data = path.read_bytes()
        magic, form, length, header_crc, own = struct.unpack_from("<8sIIII", data)
        assert (magic, form, own) == (b"LSMTIDX\x01", 1, crc(data[:20]))
        text = data[24 : 24 + length]
        assert header_crc == crc(text)
        for array in json.loads(text)["arrays"]:
            size = int(np.prod(array["shape"])) * np.dtype(array["dtype"]).itemsize
            assert array["crc"] == crc(data[24 + length + array["offset"] :][:size]) and array["offset"] % 64 == 0


def test_values_outside_are_as_the_page_says(tmp_path):
    shutil.copytree(BLOBS, tmp_path / "golden")
    wanted = {i: None if frames is None else frames.tobytes() for i, frames in zip(range(7), films(range(7))["frames"], strict=True)}
    with lt.open(str(tmp_path / "golden")) as db:
        found = {i: db["films"].get(i)["frames"] for i in db["films"].to_arrow(["id"]).column("id").to_pylist()}
        assert {i: None if frames is None else frames.tobytes() for i, frames in found.items()} == wanted
        assert all(frames is None or frames.shape == (1 + i * i, 20) for i, frames in found.items()) and db.verify()
    columns, sections = {}, {}
    for path in (BLOBS / "sst").glob("*.arrow"):
        sections[int(path.stem)], _, directory = read_table(path)
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        columns[int(path.stem)] = {n: table.column(n).combine_chunks() for n in table.column_names}
        assert {e["must"] for e in directory if e["name"] == "blobs"} <= {True}
    (blobs,) = (number for number, table in columns.items() if "data" in table)
    (films_,) = (number for number in columns if number != blobs)
    data = dict(zip(columns[blobs]["id"].to_pylist(), columns[blobs]["data"].to_pylist(), strict=True))
    referred = {}
    for i, group in zip(columns[films_]["id"].to_pylist(), columns[films_]["frames"].storage.to_pylist(), strict=True):
        if group[:8] == bytes(8):
            assert len(group) == 56
            _, own, size = struct.unpack_from("<QQQ", group)
            group = data[own]
            assert len(group) == size and blake3.blake3(b"\0" + group).digest() == referred.setdefault(own, columns[films_]["frames"].storage[i].as_py()[24:])
        rows_, nodes, buffers = struct.unpack_from("<QHH", group)
        assert rows_ == 1 and len(group) % 64 == 0
        described = [struct.unpack_from("<QQBB", group, 16 + 16 * nodes + 24 * b) for b in range(buffers)]
        at, frames = -(-(16 + 16 * nodes + 24 * buffers) // 64) * 64, []
        for _, stored, _, _ in described:
            frames.append(group[at : at + stored])
            at += -(-stored // 64) * 64
        assert at == len(group)
        assert wanted[i] is None or wanted[i] in frames
    assert len(referred) == 3 and list(data) == sorted(referred) and {own >> 24 for own in referred} == {int(k) for k in json.loads(sections[films_]["blobs"])}
    assert blobs not in {own >> 24 for own in referred}, "it was written anew when row 7 had gone"
    told = [f["blobs"] for run in files_of(read_manifest(BLOBS / "MANIFEST-000001")) for f in run if f["number"] == films_]
    assert told and all([[int(k), *v]] == t for t in told for k, v in json.loads(sections[films_]["blobs"]).items())


def test_a_newer_format_is_refused(tmp_path):
    folder = tmp_path / "newer"
    shutil.copytree(GOLDEN, folder)
    name = (folder / "CURRENT").read_text().strip()
    frames = read_manifest(folder / name)
    frames[0]["format"] = 99
    out, at = b"", 0
    for frame in frames:
        text = json.dumps(frame, separators=(",", ":")).encode()
        out += struct.pack("<II", len(text), crc(struct.pack("<QQ", 1, at), text)) + text
        at = len(out)
    (folder / name).write_bytes(out)
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(lt.FormatVersionError, match="99"):
        lt.open(str(folder))
    after = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file() and p.name != "LOCK"}
    assert after == {p: h for p, h in before.items() if p.name != "LOCK"}
