"""Single rows: the compiled module and its twin in plain Python agree byte for byte, and a database on either is the same."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor import rows
from lsmtensor.config import RunConfig
from lsmtensor.errors import CorruptionError, SchemaError, UnavailableError
from lsmtensor.keys import KeyCodec, physical_schema
from lsmtensor.rows import plain
from lsmtensor.rows.columns import declared, format_of, read_head, to_batch, undeclared
from lsmtensor.wal.format import ROWS, encode_record

try:
    KITS = [plain, rows.kit("cython")]
except UnavailableError:
    KITS = [plain]
both = pytest.mark.parametrize("kit", KITS, ids=lambda k: k.__name__.rpartition(".")[2])

WIDE = lt.Schema(
    [
        lt.Column("id", pa.int64()), lt.Column("flag", pa.bool_()), lt.Column("tiny", pa.int8()), lt.Column("count", pa.uint32()),
        lt.Column("real", pa.float64()), lt.Column("single", pa.float32()), lt.Column("name", pa.string(), nullable=False),
        lt.Column("blob", pa.large_binary()), lt.Column("v", lt.tensor("float32", (2, 3))), lt.Column("when", pa.timestamp("us")),
    ],
    primary_key="id",
)  # fmt: skip
TEXT = lt.Schema([lt.Column("key", pa.string()), lt.Column("value", pa.binary())], primary_key="key")
PAIR = lt.Schema([lt.Column("shard", pa.int32()), lt.Column("name", pa.string()), lt.Column("n", pa.uint64())], primary_key=("shard", "name"))


def formats(schema):
    codec = KeyCodec(schema)
    return [format_of(kit, schema, codec, physical_schema(schema), 7) for kit in KITS]


VALUES = {
    "flag": st.none() | st.booleans() | st.just(1), "tiny": st.none() | st.integers(-200, 200) | st.just(1.5), "count": st.none() | st.integers(-1, 2**32),
    "real": st.none() | st.floats() | st.integers(-(2**60), 2**60), "single": st.none() | st.floats() | st.just(3), "name": st.none() | st.text(),
    "blob": st.none() | st.binary(max_size=40), "when": st.none() | st.just("2020-01-01"), "other": st.just(1),
    "v": st.none() | st.just(np.arange(6, dtype=np.float32).reshape(2, 3)) | st.just(np.zeros((3, 2), np.float32)) | st.just([1.0]),
}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**64), 2**64) | st.text(), st.fixed_dictionaries({}, optional=VALUES), st.sampled_from([1, 1, 1, 0]))
def test_both_pack_alike(key, row, op):
    packed = [f.pack(key, row, op) for f in formats(WIDE)]
    assert all(p == packed[0] for p in packed)
    if packed[0] is not None:
        assert read_head(memoryview(packed[0]))[0] == 7 and len(packed[0]) <= plain.PACKED_LIMIT


@both
def test_what_goes_the_long_way(kit):
    def packs(key, row):
        return format_of(kit, WIDE, KeyCodec(WIDE), physical_schema(WIDE), 1).pack(key, row) is not None

    assert packs(1, {"name": "a"}) and packs(-(2**63), {"name": "", "count": 2**32 - 1, "tiny": -128})
    for row in ({}, {"name": None}, {"name": b"a"}, {"name": "a", "unknown": 1}, {"name": "a", "tiny": 128}, {"name": "a", "count": -1},
                {"name": "a", "single": 1e39}, {"name": "a", "tiny": True}, {"name": "\ud800"}, {"name": "x" * (1 << 20)},
                {"name": "a", "when": "2020"}, {"name": "a", "v": np.zeros((3, 2), np.float32)}, {"name": "a", "real": 2**60}):  # fmt: skip
        assert not packs(1, row), row
    assert not packs(2**63, {"name": "a"}) and not packs("1", {"name": "a"}) and not packs(True, {"name": "a"})


def _same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n], equal_nan=isinstance(a[n], float)) and type(a[n]) is type(b[n]) for n in a)


@both
@pytest.mark.parametrize("schema", [WIDE, TEXT])
def test_rows_come_back(kit, schema):
    codec, physical = KeyCodec(schema), physical_schema(schema)
    format, table, luck = format_of(kit, schema, codec, physical, 1), kit.RowTable(), random.Random(1)
    given = []
    for seq in range(1, 200):
        number = luck.randrange(50)
        key = number if schema is WIDE else f"key {number}"
        row = {"name": f"name {seq}", "flag": seq % 3 == 0 or None, "tiny": seq % 100, "count": seq, "real": float("nan"), "single": 0.5,
               "blob": bytes(seq % 5), "v": np.full((2, 3), seq, np.float32), "when": None} if schema is WIDE else {"value": bytes(seq % 7)}  # fmt: skip
        op = luck.random() > 0.2
        table.append(format, format.pack(key, row if op else None, int(op)), seq)
        given.append((seq, key, {schema.primary_key[0]: key, **row} if op else None))
    for snapshot in (0, 1, 57, 500):
        for asked in {k for _, k, _ in given}:
            seen = [(s, r) for s, k, r in given if k == asked and s <= snapshot]
            found = table.lookup(asked if schema is WIDE else asked.encode(), snapshot)
            assert (found is None) == (not seen)
            if seen:
                assert found[:2] == (seen[-1][0], int(seen[-1][1] is not None))
                assert found[3] is None if seen[-1][1] is None else _same(found[3], {n: seen[-1][1].get(n) for n in schema.names})
    batch, keys = to_batch(table, 0, table.rows, physical, codec.kind)
    batch.validate(full=True)
    assert batch.schema.equals(physical) and keys.equals(codec.encode(batch))
    for i, (seq, _, row) in enumerate(given):
        assert (batch.column("_seq")[i].as_py(), batch.column("_op")[i].as_py()) == (seq, int(row is not None))
        if row is not None:
            assert _same(schema.row(batch, i), {n: row.get(n) for n in schema.names})
    if schema is TEXT:
        data, offsets = np.frombuffer(b"key 3key 99", np.uint8), np.array([0, 5, 11], np.int32)
        last = max(i for i, (_, key, _) in enumerate(given) if key == "key 3")
        assert table.find_many(data, offsets, table.rows).tolist() == [last, -1] and table.find_many(data, offsets, last)[0] < last


@both
def test_rows_of_batches_between_compact_ones(kit):
    codec, physical = KeyCodec(WIDE), physical_schema(WIDE)
    format, table = format_of(kit, WIDE, codec, physical, 1), kit.RowTable()
    table.append(format, format.pack(1, {"name": "a"}), 1)
    table.skip(3, 2)
    table.append(format, format.pack(2, {"name": "b"}), 3)
    assert (table.rows, table.waiting, table.missing(0), table.min_seq, table.max_seq) == (5, 3, (1, 4), 1, 3)
    assert table.lookup(2, 9) is None  # not before the rows before it are known
    table.fill(1, np.array([1, 2, 3]), None, np.array([1, 1, 0], np.uint8), np.array([2, 2, 2], np.uint64))
    assert table.waiting == 0 and table.missing(0) is None
    assert table.lookup(1, 9) == (2, 1, 1, None) and table.lookup(1, 1)[:3] == (1, 1, 0) and table.lookup(3, 9)[:2] == (2, 0)
    assert table.lookup(2, 9)[3]["name"] == "b" and table.lookup(2, 2)[:3] == (2, 1, 2) and table.lookup(4, 9) is None
    with pytest.raises(ValueError):
        table.fill(4, np.array([1, 2]), None, np.zeros(2, np.uint8), np.zeros(2, np.uint64))
    with pytest.raises(ValueError):
        table.columns(0, 2)


@both
def test_damaged_rows_are_refused(kit):
    format = format_of(kit, WIDE, KeyCodec(WIDE), physical_schema(WIDE), 1)
    good = format.pack(1, {"name": "abc", "blob": b"12", "count": 7, "v": np.ones((2, 3), np.float32)})
    kit.RowTable().append(format, good, 1, True)
    luck, refused = random.Random(2), 0
    for _ in range(3000):
        bad = bytearray(good)
        bad[luck.randrange(plain.HEAD, len(bad))] ^= 1 << luck.randrange(8)
        data = bytes(bad if luck.random() < 0.5 else bad[: luck.randrange(plain.HEAD, len(bad))])
        try:
            table = kit.RowTable()
            table.append(format, data, 1, True)
            if table.rows:  # what is taken can be read without a crash
                table.columns(0, table.rows)
                table.lookup(1, 9)
        except (ValueError, CorruptionError):
            refused += 1
    assert refused > 1000


@both
@given(st.binary(max_size=100), st.integers(0, 2**63), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_log_records(kit, payload, version, offset):
    joined = b"".join(bytes(b) for b in encode_record(9, offset, version, -5, ROWS, 32, [payload]))
    assert kit.log_record(9, offset, version, -5, ROWS, 32, payload) == joined


def test_a_schema_travels_with_the_first_row_of_a_log():
    format, physical = formats(TEXT)[0], physical_schema(TEXT)
    payload = format.pack("k", {"value": b"v"})
    table, fingerprint, schema = read_head(memoryview(declared(payload, physical)))
    assert table == 7 and pa.ipc.read_schema(pa.py_buffer(schema)).equals(physical)
    assert undeclared(memoryview(declared(payload, physical)), len(schema)) == payload and read_head(memoryview(payload))[1] == fingerprint
    for bad in (b"", payload[:15], payload[:12] + b"\1\0\0\0", payload[:8] + b"\xff\xff\0\0" + payload[12:]):
        with pytest.raises(ValueError):
            read_head(memoryview(bad))


@pytest.fixture(params=KITS, ids=lambda k: k.__name__.rpartition(".")[2])
def on_kit(request, monkeypatch):
    monkeypatch.setattr(rows, "kit", lambda kernel=None: request.param)


CASES = {
    "int": (WIDE, lambda i: i - 20, lambda i: {"name": str(i), "real": i / 2, "v": np.full((2, 3), i, np.float32)}),
    "text": (TEXT, lambda i: f"k{i}", lambda i: {"value": bytes([i % 256])}),
    "pair": (PAIR, lambda i: (i % 3, f"n\0{i}"), lambda i: {"n": i}),
}


@pytest.mark.parametrize("kind", ["arrow", "skiplist"])
@pytest.mark.parametrize("case", CASES)
def test_a_database_by_single_rows(case, kind, on_kit, tmp_path):
    """Puts, deletes, batches, flushes, snapshots and openings in any order: get, get_many, scan and the model agree."""
    schema, key_of, row_of = CASES[case]
    config = RunConfig(background=False).with_set(f"memtable.kind={kind}", "memtable.limit_bytes=6000", "wal.sync=none", "sstable.batch_rows=16")
    luck, model, held = random.Random(case + kind), {}, []
    names = schema.primary_key
    db = lt.open(str(tmp_path / "x.lsm"), config=config)
    table = db.create_table("t", schema)

    def full(key, row):
        parts = key if len(names) > 1 else (key,)
        return {n: {**dict(zip(names, parts, strict=True)), **row}.get(n) for n in schema.names}

    for step in range(400):
        i = luck.randrange(60)
        key, what = key_of(i), luck.random()
        if what < 0.6:
            before = db.version
            row = row_of(luck.randrange(250))
            assert table.put(key, row) == before + 1
            model[key] = full(key, row)
        elif what < 0.75:
            table.delete(key)
            model.pop(key, None)
        elif what < 0.8:
            some = {key_of(j): full(key_of(j), row_of(j)) for j in range(i, i + 5)}
            table.upsert(list(some.values()))
            model |= some
        elif what < 0.84:
            db.flush() if what < 0.83 else db.compact()
        elif what < 0.86:
            held.append((db.snapshot(), dict(model)))
        elif what < 0.87:
            for snap, _ in held:
                snap.close()
            held = []
            db.close()
            db = lt.open(str(tmp_path / "x.lsm"), config=config)
            table = db["t"]
        asked = key_of(luck.randrange(70))
        found = table.get(asked)
        assert (found is None) == (asked not in model) and (asked in table) == (asked in model), (step, asked)
        if found is not None:
            assert _same(found, model[asked])
        if held and step % 5 == 0:
            snap, then = luck.choice(held)
            old = snap["t"].get(asked)
            assert (old is None) == (asked not in then) and (old is None or _same(old, then[asked]))
    assert {tuple(r[n] for n in names) for r in table.to_arrow(list(names)).to_pylist()} == {k if len(names) > 1 else (k,) for k in model}
    assert len(table.get_many(list(model))) == len(model)
    asked = [key_of(i) for i in range(0, 70, 3)]
    many = table.get_many(asked, missing="null").select([n for n in schema.names if n not in names]).to_pylist()
    for key, row in zip(asked, many, strict=True):
        assert _same({n: v for n, v in row.items() if n != "v"}, {n: model.get(key, {}).get(n) for n in row if n != "v"})
    for snap, then in [(db.snapshot(), model), *held]:
        for _ in range(30):
            low, high = sorted((key_of(luck.randrange(70)), key_of(luck.randrange(70))))
            low, high = luck.choice([low, None]), luck.choice([high, None])
            limit, reverse = luck.choice([None, 0, 1, 3, 50]), luck.random() < 0.5
            keys = sorted((k for k in then if (low is None or k >= low) and (high is None or k < high)), reverse=reverse)[:limit]
            rows_ = snap["t"].scan(start=low, stop=high, limit=limit, reverse=reverse).read_all()
            assert [tuple(r[n] for n in names) for r in rows_.select(list(names)).to_pylist()] == [k if len(names) > 1 else (k,) for k in keys]
            rows_.validate(full=True)
            for batch in rows_.to_batches():
                for i in range(0, batch.num_rows, 7):
                    row = schema.row(batch, i)
                    assert _same(row, then[tuple(row[n] for n in names) if len(names) > 1 else row[names[0]]])
        snap.close()
    db.close()


KEYS = {
    "ints": lambda luck: luck.randrange(-500, 500),
    "few": lambda luck: luck.choice([-(2**63), 2**63 - 1, 0]),
    "random": lambda luck: luck.randbytes(16),
    "of every length": lambda luck: luck.randbytes(luck.randrange(4)),
    "shared": lambda luck: b"a prefix that is shared" + luck.randbytes(luck.randrange(3)),
    "shared by parts": lambda luck: luck.choice([b"one tenant", b"two tenants", b"two"]) + b"%05d" % luck.randrange(400),
    "zeros": lambda luck: bytes(luck.randrange(20)),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_in_files(kind, on_kit, tmp_path):
    """Every way to ask for keys that are there and for those that are not, over files of many rows and versions."""
    luck = random.Random(kind)
    make = KEYS[kind]
    first = make(luck)
    schema = lt.Schema([lt.Column("k", pa.int64() if isinstance(first, int) else pa.binary()), lt.Column("n", pa.int32())], primary_key="k")
    model = {}
    with lt.open(str(tmp_path / "x.lsm"), config=RunConfig(background=False).with_set("wal.sync=none", "sstable.batch_rows=50", "compaction.policy=none")) as db:
        table = db.create_table("t", schema, history="forever")
        for step in range(4):
            rows_ = {make(luck): luck.randrange(1000) for _ in range(300)}
            if step == 3:
                for k, n in rows_.items():
                    table.put(k, {"n": n})  # these stay in memory
            else:
                table.upsert({"k": list(rows_), "n": list(rows_.values())})
                db.flush()
            model |= rows_
            gone = luck.sample(sorted(model), min(20, len(model)))
            table.delete(gone)
            for k in gone:
                del model[k]
        asked = [make(luck) for _ in range(200)] + list(model)
        if kind != "ints" and kind != "few":
            asked += [k[:-1] for k in model] + [k + b"\0" for k in model] + [b"", b"\xff" * 30]
        luck.shuffle(asked)
        assert [(r := table.get(k)) and r["n"] for k in asked] == [model.get(k) for k in asked]
        assert table.get_many(asked, missing="null").column("n").to_pylist() == [model.get(k) for k in asked]
        assert table.get_many(asked).column("k").to_pylist() == [k for k in asked if k in model]
        for low, high in [(asked[i], asked[i + 1]) for i in range(60)]:
            wanted = sorted(k for k in model if low <= k < high)
            for reverse in (False, True):
                found = table.scan(["k"], start=low, stop=high, limit=5, reverse=reverse).read_all().column("k").to_pylist()
                assert found == (wanted[::-1] if reverse else wanted)[:5]
            assert table.scan(["k"], start=low, stop=high).read_all().column("k").to_pylist() == wanted


def test_wrong_rows_say_what_is_wrong(tmp_path):
    with lt.open(str(tmp_path / "x.lsm")) as db:
        table = db.create_table("t", WIDE)
        for key, row, said in ((1, {}, "name"), (1, {"name": 3}, "name"), (1, {"name": "a", "nme": 1}, "nme"), ("1", {"name": "a"}, "id"),
                               (1, {"id": 1, "name": "a"}, "twice"), (1, {"name": "a", "tiny": 128}, "tiny")):  # fmt: skip
            with pytest.raises(SchemaError, match=said):
                table.put(key, row)
        with pytest.raises(SchemaError, match="id"):
            table.get("1")
        assert len(table) == 0 and db.version == 1
        table.put(True + 0, {"name": "a", "single": 3, "when": None})
        assert table.get(np.int64(1))["single"] == 3.0


def test_the_record_of_an_older_schema_becomes_a_batch(tmp_path):
    from lsmtensor.lsm import short

    with lt.open(str(tmp_path / "x.lsm")) as db:
        table = db.create_table("t", TEXT)
        table.put("a", {"value": b"1"})
        older = lt.Schema([lt.Column("key", pa.string()), lt.Column("value", pa.binary()), lt.Column("gone", pa.int8())], primary_key="key")
        physical = physical_schema(older)
        payload = format_of(rows.kit(), older, KeyCodec(older), physical, table._id).pack("b", {"value": b"2", "gone": 5})
        known = {}
        made = short.replay(table._tree, known, memoryview(declared(payload, physical)), 9, path="log", offset=3)
        assert made[0][0] == table._id and made[0][1].to_pylist() == [{"key": "b", "value": b"2", "gone": 5, "_op": 1}]
        assert short.replay(table._tree, known, memoryview(payload), 9, path="log", offset=3)[0][1].num_rows == 1
        with pytest.raises(CorruptionError, match="log at offset 3.*compact rows"):
            short.replay(table._tree, {}, memoryview(payload), 9, path="log", offset=3)
        with pytest.raises(CorruptionError, match="compact rows"):
            short.replay(table._tree, known, memoryview(payload[:-1]), 9, path="log", offset=3)


@both
@example([b"", b"\x01"], [])
@given(st.lists(st.binary(max_size=3), max_size=40), st.lists(st.integers(-9, 9), max_size=12))
@settings(max_examples=100, deadline=None)
def test_distinct(kit, texts, numbers):
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    assert kit.distinct(np.frombuffer(b"".join(texts), np.uint8), offsets) == (len(set(texts)) == len(texts))
    assert kit.distinct(np.array(numbers, np.int64), None) == (len(set(numbers)) == len(numbers))


def test_a_transaction_of_one_row(tmp_path):
    with lt.open(str(tmp_path / "x.lsm")) as db:
        table = db.create_table("t", TEXT)
        txn = db.transaction()
        txn["t"].put("a", {"value": b"1"})
        assert txn["t"].get("a") == {"key": "a", "value": b"1"} and table.get("a") is None
        assert txn.commit() == db.version and table.get("a")["value"] == b"1"
        first, second = db.transaction(), db.transaction()
        first["t"].put("b", {"value": b"1"})
        second["t"].put("b", {"value": b"2"})
        assert first.commit(wait=False).result() == db.version
        with pytest.raises(lt.ConflictError, match="key 'b'"):
            second.commit()
        row = {"value": b"3"}
        with db.transaction() as txn:
            txn["t"].put("c", row)
            row["value"] = b"4"
            txn["t"].put("c2", row)
            txn["t"].delete("b")
        assert [table.get(k) and table.get(k)["value"] for k in ("b", "c", "c2")] == [None, b"3", b"4"]
        txn = db.transaction()
        txn["t"].put("d", row)
        txn.rollback()
        assert "d" not in table
