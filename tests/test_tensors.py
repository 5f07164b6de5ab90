"""Named arrays: numpy's manners, one commit, versions that share chunks, exchange with other formats."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv

INLINE = lt.RunConfig(background=False)
BULK = lt.RunConfig(background=False, direct_commit_bytes=100)


@pytest.fixture(params=["log", "files"])
def db(request):
    with lt.open("db", env=MemoryEnv(), config=INLINE if request.param == "log" else BULK) as made:
        yield made


DTYPES = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "int64", "uint16", "uint64", "bool", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 0, 3), (4, 3, 2)])
def test_exact_round_trip(db, dtype, shape):
    from lsmtensor.dtypes import numpy_dtype

    w = np.random.default_rng(0).integers(0, 2, (*shape, 16)).astype(np.uint8).reshape(-1)
    kind = numpy_dtype(dtype)
    w = np.resize(w, max(1, int(np.prod(shape))) * kind.itemsize).view(kind)[: int(np.prod(shape))].reshape(shape)
    db.tensors["w"] = w
    for _ in range(2):
        back = db.tensors["w"]
        assert back.shape == shape and back.dtype == kind and back.dtype_name == dtype
        assert back.numpy().tobytes() == w.tobytes() and np.asarray(back).shape == shape
        db.flush()


def test_a_mapping(db):
    db.tensors.update({"layer1/w": np.ones((2, 3)), "layer1/b": np.zeros(3), "layer2/w": [1, 2, 3]})
    version = db.version
    assert db.tensors.list("layer1/") == ["layer1/b", "layer1/w"] and len(db.tensors) == 3 and "layer2/w" in db.tensors
    assert dict(db.tensors.items()).keys() == set(db.tensors) and db.tensors.list("none") == []
    del db.tensors["layer1/b"]
    assert db.tensors.keys() == ["layer1/w", "layer2/w"] and "layer1/b" not in db.tensors
    with pytest.raises(lt.KeyNotFoundError, match="layer1/w"):
        db.tensors["layer1/b"]
    with db.at(version=version) as past:
        assert past.tensors["layer1/b"].numpy().tolist() == [0, 0, 0]
        with pytest.raises(lt.ReadOnlyError):
            past.tensors["x"] = 1
    assert db.tables == []


def test_one_commit(db):
    db.tensors["first"] = 1
    before = db.version
    db.tensors.update({f"t{i}": np.full(50, i) for i in range(20)})
    assert db.version == before + 1
    with pytest.raises(lt.SchemaError):
        db.tensors.update({"good": np.ones(3), "bad": np.array([object()])})
    assert "good" not in db.tensors and db.version == before + 1


def test_a_large_array_is_one_view(tmp_path):
    w = np.random.default_rng(0).normal(size=(1000, 3000)).astype(np.float32)
    with lt.open(tmp_path / "db", config=INLINE) as db:
        db.tensors["w"] = w
        t = db.tensors["w"]
        assert t.contiguous and not t.copied and not t.numpy().flags.owndata and not t.numpy().flags.writeable
        np.testing.assert_array_equal(t.numpy(), w)
        np.testing.assert_array_equal(t.numpy(verify=False), w)
        for key in (5, -1, slice(10, 20), slice(None, None, -7), slice(900, 100, -3), (slice(3, 5), 7), (4, slice(None, None, 2)), ..., slice(5, 5)):
            np.testing.assert_array_equal(t[key], w[key])
        np.testing.assert_array_equal(np.from_dlpack(t), w)
        with pytest.raises(IndexError):
            t[1000]
        t[500:510, ::2] = 0
        w[500:510, ::2] = 0
        assert not t.contiguous
        np.testing.assert_array_equal(t.numpy(), w)
        np.testing.assert_array_equal(db.tensors["w"][499:511], w[499:511])


keys = st.one_of(
    st.integers(-7, 6), st.slices(7), st.tuples(st.slices(7), st.slices(5)), st.tuples(st.integers(0, 6), st.integers(-5, 4)),
    st.tuples(st.just(...), st.slices(5)),
)  # fmt: skip


@given(st.lists(st.tuples(keys, st.integers(-100, 100)), max_size=6), st.integers(1, 8), st.integers(1, 6), st.sampled_from(["none", "shuffle+zstd"]))
@settings(max_examples=60, deadline=None)
def test_slices_are_written_as_numpy_does(writes, a, b, codec):
    with lt.open("db", env=MemoryEnv(), config=INLINE) as db:
        t = db.tensors.create("t", (7, 5), "int16", chunks=(a, b), codec=codec, fill_value=3)
        model, past = np.full((7, 5), 3, np.int16), []
        for key, value in writes:
            t[key] = value
            model[key] = value
            past.append((db.version, model.copy()))
            np.testing.assert_array_equal(t[key], model[key])
        np.testing.assert_array_equal(db.tensors["t"].numpy(), model)
        for version, then in past:
            with db.at(version=version) as at:
                np.testing.assert_array_equal(at.tensors["t"].numpy(), then)


def test_a_slice_write_shares_the_rest(db):
    w = np.arange(4000, dtype=np.int32).reshape(100, 40)
    t = db.tensors.create("t", w.shape, "int32", chunks=(10, 40), data=w)
    db.flush()
    before = db.stats()["tables"]["_chunks"]["file_rows"]
    t[15, 3] = -1
    db.flush()
    assert db.stats()["tables"]["_chunks"]["file_rows"] == before + 1


@pytest.mark.parametrize("chunks", [(3, 4), (4, 6), (10, 6), (1, 1)])
def test_append_and_resize(db, chunks):
    w = np.arange(60, dtype=np.float32).reshape(10, 6)
    t = db.tensors.create("t", w.shape, "float32", chunks=chunks, data=w, fill_value=-1)
    more = np.full((5, 6), 7, np.float32)
    t.append(more)
    w = np.concatenate([w, more])
    np.testing.assert_array_equal(t.numpy(), w)
    t.append(np.zeros((15, 2), np.float32), axis=1)
    w = np.concatenate([w, np.zeros((15, 2), np.float32)], 1)
    np.testing.assert_array_equal(db.tensors["t"].numpy(), w)
    t.resize((9, 8))
    np.testing.assert_array_equal(t.numpy(), w[:9])
    t.resize((12, 9))
    want = np.full((12, 9), -1, np.float32)
    want[:9, :8] = w[:9]
    np.testing.assert_array_equal(db.tensors["t"].numpy(), want)
    with pytest.raises(lt.SchemaError, match="other sides"):
        t.append(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("sizes", [[10, 1, 20, 3, 66], [100], [7] * 14 + [2]])
def test_from_an_iterator(db, sizes):
    w = np.random.default_rng(0).normal(size=(100, 30))
    cuts = np.cumsum([0, *sizes])
    t = db.tensors.create("t", w.shape, "float64", chunks=(16, 30), data=(w[a:b] for a, b in zip(cuts, cuts[1:], strict=False)))
    np.testing.assert_array_equal(t.numpy(), w)
    for wrong in (w[:50], np.concatenate([w, w])):
        with pytest.raises(lt.SchemaError, match="rows"):
            db.tensors.create("u", w.shape, "float64", data=iter([wrong]))
    assert "u" not in db.tensors
    db.verify()


def test_in_a_transaction(db):
    db.tensors["w"] = np.zeros((40, 10))
    one, two = db.transaction(), db.transaction()
    one.tensors["w"][0:5] = 1
    one.tensors["new"] = np.arange(5)
    assert one.tensors["w"].numpy().sum() == 50 and "new" in one.tensors and "new" not in db.tensors
    two.tensors["w"][2] = 9
    one.commit()
    with pytest.raises(lt.ConflictError):
        two.commit()
    assert db.tensors["w"].numpy().sum() == 50 and db.tensors["new"].numpy().tolist() == [0, 1, 2, 3, 4]


def test_attrs(db):
    t = db.tensors.create("t", (2,), "float32", attrs={"unit": "m"})
    t.set_attrs({"unit": "km", "n": [1, 2]})
    assert db.tensors["t"].attrs == {"unit": "km", "n": [1, 2]}
    with pytest.raises(lt.InvalidArgumentError, match="JSON"):
        t.set_attrs({"x": object()})


def test_what_does_not_fit_is_refused(db):
    t = db.tensors.create("t", (4, 4), "int8")
    for value, kind in ((300, lt.SchemaError), (1.5, lt.SchemaError), (np.ones(3, np.int8), lt.SchemaError)):
        with pytest.raises(kind):
            t[0] = value
    with pytest.raises(IndexError, match="dimension of 4"):
        t[7] = 1
    with pytest.raises(IndexError, match="whole numbers"):
        t[np.array([True, False, True, False])] = 1
    with pytest.raises(lt.InvalidArgumentError, match="chunks"):
        db.tensors.create("u", (4, 4), "int8", chunks=(2,))
    with pytest.raises(lt.UnknownNameError):
        db.tensors.create("u", (4,), "float31")
    with pytest.raises(lt.UnknownNameError):
        db.tensors.create("u", (4,), "int8", codec="ztsd")
    with pytest.raises(lt.InvalidArgumentError):
        db.tensors[""] = 1
    assert db.tensors.list() == ["t"] and not db.tensors["t"].numpy().any()


def test_optimal_chunks():
    assert lt.optimal_chunks((10_000, 500), "float32") == (524, 500)
    assert lt.optimal_chunks((10_000, 500), "float32", "time series") == (10_000, 16)
    assert lt.optimal_chunks((100, 512, 512), "float32", "spatial") == (1, 512, 512)
    assert lt.optimal_chunks((1000, 1000, 1000), "float64", "random") == (64, 64, 32)
    with pytest.raises(lt.InvalidArgumentError, match="spatial"):
        lt.optimal_chunks((3,), "int8", "sideways")


def test_survives_a_crash():
    env = MemoryEnv()
    db = lt.open("db", env=env, config=BULK)
    w = np.random.default_rng(0).normal(size=(50, 20))
    db.tensors["w"] = w
    db.tensors["w"][3] = 0
    for seed in range(10):
        with lt.open("db", env=env.crash(seed=seed, keep=0.5), config=BULK) as after:
            np.testing.assert_array_equal(np.delete(after.tensors["w"].numpy(), 3, 0), np.delete(w, 3, 0))
            assert not after.tensors["w"][3].any()
            after.verify()
    db.close()


# -- safetensors ----------------------------------------------------------------------------------


def safetensors(path, entries, metadata=None, order=None):
    header = {} if metadata is None else {"__metadata__": metadata}
    at, body = 0, b""
    for name, (kind, array) in entries.items():
        data = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        at, body = at + len(data), body + data
    text = json.dumps(header, indent=1).encode() + b"   "  # odd spacing: it must come back
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_safetensors_come_back_byte_for_byte(db, tmp_path):
    rng = np.random.default_rng(0)
    entries = {
        "z/w": ("F32", rng.normal(size=(20, 5)).astype(np.float32)), "a": ("I64", np.arange(3)), "half": ("BF16", np.arange(6, dtype=np.uint16).reshape(2, 3)),
        "strange": ("F4_XYZ", np.arange(7, dtype=np.uint8)), "none": ("F32", np.empty((0, 3), np.float32)), "one": ("F64", np.float64(2.5)),
    }  # fmt: skip
    safetensors(tmp_path / "in.safetensors", entries, {"by": "hand"})
    names = db.tensors.import_safetensors(tmp_path / "in.safetensors", prefix="m/")
    assert names == [f"m/{n}" for n in entries] and db.tensors.list("m/") == sorted(names)
    np.testing.assert_array_equal(db.tensors["m/z/w"].numpy(), entries["z/w"][1])
    assert db.tensors["m/strange"].attrs["safetensors"]["dtype"] == "F4_XYZ"
    db.tensors.export_safetensors(tmp_path / "out.safetensors", prefix="m/")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "in.safetensors").read_bytes()
    db.tensors["m/a"] = np.arange(4)
    db.tensors.export_safetensors(tmp_path / "new.safetensors", prefix="m/")
    with pytest.raises(lt.InvalidArgumentError, match="nothing to export"):
        db.tensors.export_safetensors(tmp_path / "x", prefix="q/")


def test_the_package_reads_what_is_exported(db, tmp_path):
    from safetensors.numpy import load_file, save_file

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.int64), "c": np.array([True, False])}
    db.tensors.update(arrays)
    db.tensors.export_safetensors(tmp_path / "x.safetensors")
    back = load_file(tmp_path / "x.safetensors")
    assert all(np.array_equal(back[n], a) and back[n].dtype == a.dtype for n, a in arrays.items())
    save_file(arrays, tmp_path / "y.safetensors")
    db.tensors.import_safetensors(tmp_path / "y.safetensors", prefix="y/")
    db.tensors.export_safetensors(tmp_path / "z.safetensors", prefix="y/")
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "z.safetensors").read_bytes()


@pytest.mark.parametrize(
    "header",
    [
        b"{", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}', b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "U8", "shape": [99999999999999999999], "data_offsets": [0, 8]}}', b"[" * 5000,
        b'{"a": {"dtype": "U8", "shape": [true], "data_offsets": [0, 8]}}',
    ],
)  # fmt: skip
def test_hostile_headers_are_refused(db, tmp_path, header):
    (tmp_path / "bad").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(lt.CorruptionError):
        db.tensors.import_safetensors(tmp_path / "bad")
    assert db.tensors.list() == []


def test_truncated_files_are_refused(db, tmp_path):
    safetensors(tmp_path / "good", {"a": ("U8", np.arange(9, dtype=np.uint8))})
    whole = (tmp_path / "good").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "bad").write_bytes(whole[:size])
        with pytest.raises(lt.LsmTensorError):
            db.tensors.import_safetensors(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(struct.pack("<Q", 1 << 62) + whole)
    with pytest.raises(lt.CorruptionError, match="announced"):
        db.tensors.import_safetensors(tmp_path / "bad")
    with pytest.raises(lt.StorageError):
        db.tensors.import_safetensors(tmp_path / "absent")


def test_numpy_files(db, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones((2, 2)))
    assert db.tensors.import_npz(tmp_path / "x.npz", prefix="n/") == ["n/a", "n/b"]
    db.tensors.export_npz(tmp_path / "y.npz", prefix="n/")
    with np.load(tmp_path / "y.npz") as back:
        assert back["a"].tolist() == [0, 1, 2] and back["b"].shape == (2, 2)
    np.save(tmp_path / "one.npy", np.arange(4))
    assert db.tensors.import_npz(tmp_path / "one.npy", prefix="one") == ["one"]
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(lt.CorruptionError, match="objects"):
        db.tensors.import_npz(tmp_path / "objects.npy", prefix="o")
    assert os.path.exists(tmp_path / "objects.npy")


def test_xor_stores_what_changed(db, tmp_path):
    """Checkpoints that are near each other: one older version of a chunk is kept, every version reads exactly, also after compaction."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 500)).astype(np.float32)
    w = db.tensors.create("w", first.shape, "float32", chunks=(16, 300), codec="xor+shuffle+zstd", data=first)
    values, versions = [first], [db.version]
    for _ in range(4):
        near = (values[-1] * (1 + 1e-4 * rng.normal(size=first.shape))).astype(np.float32)
        db.tensors["w"] = near
        values.append(near)
        versions.append(db.version)
    assert db.tensors["w"].chunks == (16, 300)
    sizes = chunk_sizes(db, db.tensors["w"])
    heads, bases = ([n for k, n in sizes.items() if (k >= 0) == side] for side in (True, False))
    assert len(heads) == len(bases) == w._meta.count and sum(heads) < 0.6 * sum(bases)
    for _ in range(2):
        for value, version in zip(values, versions, strict=True):
            with db.at(version=version) as past:
                np.testing.assert_array_equal(past.tensors["w"].numpy(), value)
        db.compact()
    # another value altogether: the base gains nothing and goes
    other = rng.normal(size=first.shape).astype(np.float32) ** 5
    w = db.tensors["w"]
    w[:, 0:300] = other[:, 0:300]
    np.testing.assert_array_equal(w[:, 0:300], other[:, 0:300])
    np.testing.assert_array_equal(w[:, 300:], values[-1][:, 300:])
    assert sorted(k for k in chunk_sizes(db, w) if k < 0) == [-6, -4, -2]
    w.resize((20, 500))
    w.append(first[:30])
    np.testing.assert_array_equal(w.numpy()[20:], first[:30])
    np.testing.assert_array_equal(w[:20, 300:], values[-1][:20, 300:])
    del db.tensors["w"]
    assert chunk_sizes(db, w) == {}


def chunk_sizes(db, tensor):
    view = db.tensors._store.view("_chunks", db.tensors._store.moment())
    found = {}
    for window in view.windows():
        for row in window.gather(["tensor", "chunk", "data"]).to_pylist() if len(window) else []:
            if row["tensor"] == tensor._meta.id:
                found[row["chunk"]] = len(row["data"])
    return found


@pytest.mark.parametrize("limit", [16 * 4000, 0])
def test_recently_read_chunks_are_kept_within_their_limit(tmp_path, limit):
    w = np.arange(64_000, dtype=np.float32).reshape(80, 800)
    with lt.open(tmp_path / "db", config=lt.RunConfig(direct_commit_bytes=1000, memory_limit=limit)) as db:
        for codec in ("none", "shuffle+zstd"):
            t = db.tensors.create("t", w.shape, "float32", chunks=(10, 100), codec=codec, data=w)
            for _ in range(2):
                np.testing.assert_array_equal(t[5:55, 50:750], w[5:55, 50:750])
            kept = db.stats()["cache"]
            coded = codec != "none"
            assert (kept["values"], kept["bytes"]) == ((4, 16000) if limit and coded else (0, 0))
            source = t._source
            assert (source.read((0, 0)) is source.read((0, 0))) == (bool(limit) or not coded) and not source.read((0, 0)).flags.writeable
            t[0, 0] = -1.0
            assert t[0, 0] == -1 and db.tensors["t"][0, 0] == -1 and db.tensors["t"][3, 3] == w[3, 3]


def test_chunks_of_nothing_but_fill_are_not_written(tmp_path):
    with lt.open(tmp_path / "a.lsm") as db:
        chunks = lambda: sum(len(db._tree.view(t).sources and list(db._tree.view(t).windows())[0]) for t in [db._tree.head()[0].by_name("_chunks").state.id])  # noqa: E731
        t = db.tensors.create("t", (10, 10), "float32", chunks=(4, 4), fill_value=7)
        t[0:3, 0:3] = 1
        assert chunks() == 1
        t.resize((4_000_000, 10))
        assert chunks() == 1 and t[3_999_999, 9] == 7
        t.resize((4_000_000, 4_000))
        assert chunks() == 1 and t[2, 2] == 1 and t[2, 3] == 7 and t[3_999_999, 3_999] == 7
        t.append(np.full((1, 4_000), 5, np.float32))
        assert t.shape == (4_000_001, 4_000) and t[4_000_000, 17] == 5 and t[3_999_999, 17] == 7 and chunks() == 1001
        t.resize((9, 9))
        assert chunks() == 1 and t.numpy().sum() == 9 + 7 * 72
        t.append(np.zeros((9, 2), np.float32), axis=1)
        assert t.numpy()[:, 9:].sum() == 0 and t.numpy()[:, :9].sum() == 9 + 7 * 72


def test_writes_through_several_handles_are_all_kept(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig().with_set("wal.sync=none")) as db:
        db.tensors["t"] = np.zeros((64, 8), np.int64)  # one chunk

        def work(i):
            handle = db.tensors["t"]
            for row in range(i, 64, 4):
                handle[row] = row + 1
                assert handle[row, 0] == row + 1

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert np.array_equal(db.tensors["t"].numpy(), np.repeat(np.arange(1, 65)[:, None], 8, 1))


def test_a_handle_of_what_is_gone_writes_nothing(tmp_path):
    with lt.open(tmp_path / "a.lsm") as db:
        db.tensors["t"] = np.zeros(8)
        old = db.tensors["t"]
        db.tensors["t"] = np.ones(8)
        for write in (lambda: old.__setitem__(0, 5.0), lambda: old.append([1.0]), lambda: old.resize((2,)), lambda: old.set_attrs({"a": 1})):
            with pytest.raises(lt.ConflictError, match="was replaced since"):
                write()
        assert old.numpy().sum() == 0 and db.tensors["t"].numpy().sum() == 8
        old = db.tensors["t"]
        db.tensors["t"].append([1.0])
        with pytest.raises(lt.ConflictError, match="resized to"):
            old[0] = 3
        del db.tensors["t"]
        with pytest.raises(lt.ConflictError, match="was deleted"):
            old[0] = 3
        assert len(old.numpy()) == 8 and "t" not in db.tensors


def test_an_array_replaced_while_it_is_opened_is_seen_whole(tmp_path):
    import threading

    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig().with_set("wal.sync=none")) as db:
        db.tensors["t"] = np.full(2000, 1)
        stop = threading.Event()

        def write():
            n = 1
            while not stop.is_set():
                n += 1
                db.tensors["t"] = np.full(2000, n)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(300):
                seen = db.tensors["t"].numpy()
                assert seen[0] > 0 and (seen == seen[0]).all()
        finally:
            stop.set()
            writer.join()


def test_keys_of_chunks_are_those_of_the_codec():
    from lsmtensor.keys import KeyCodec
    from lsmtensor.tensor_meta import CHUNKS_SCHEMA
    from lsmtensor.tensor_rows import encoded_key

    codec = KeyCodec(CHUNKS_SCHEMA)
    for key in ((0, 0), (5, -1), (2**62, 2**40), (7, -(2**63))):
        assert encoded_key(*key) == codec.scalar(key)


@pytest.mark.parametrize("limit", [1000, 1 << 20])
def test_whether_an_array_is_contiguous_is_found_out(tmp_path, limit):
    w = np.arange(3 << 18, dtype=np.float64).reshape(-1, 512)  # 6 chunks
    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig(direct_commit_bytes=limit)) as db:
        db.tensors.update({"a": w, "b": w + 1, "c": w[:100]})
        assert db.tensors["a"].contiguous and db.tensors["b"].contiguous and db.tensors["c"].contiguous
        old = db.snapshot()
        db.tensors["b"][700] = 5.0
        a, b = db.tensors["a"], db.tensors["b"]
        assert a.contiguous and not b.contiguous and b[700, 0] == 5 and np.array_equal(b[701:], w[701:] + 1) and np.array_equal(a.numpy(), w)
        assert old.tensors["b"].contiguous and np.array_equal(old.tensors["b"].numpy(), w + 1)
        old.close()
        db.flush()
        assert not db.tensors["b"].contiguous and db.tensors["b"][700, 0] == 5
        db.tensors["b"].resize((600, 512))
        assert np.array_equal(db.tensors["b"].numpy(), w[:600] + 1)
        db.tensors["c"].resize((0, 512))
        db.flush()
        db.tensors["c"].resize((100, 512))
        assert not db.tensors["c"].contiguous and not db.tensors["c"].numpy().any()
        db.tensors["c"] = w[:100]
        del db.tensors["a"]
        assert db.tensors.list() == ["b", "c"] and "a" not in db.tensors and np.array_equal(db.tensors["c"].numpy(), w[:100])
