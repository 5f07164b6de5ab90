"""Tensors as others see them, by DLPack; PyTorch and JAX are real ones where `make test-all` installed them, and `make test` installs neither."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt

BULK = lt.RunConfig(background=False, direct_commit_bytes=100)
DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "bool", "float8_e4m3fn")


@pytest.fixture
def db(tmp_path):
    with lt.open(tmp_path / "x.lsm", config=lt.RunConfig(direct_commit_bytes=1000)) as made:
        yield made


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed; make test-all installs it")


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed; make test-all installs it")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_of_pytorch(db, torch, dtype):
    made = (torch.arange(6000).reshape(60, 100) % 2).to(getattr(torch, dtype))
    db.tensors["w"] = made
    db.tensors["again"] = db.tensors["w"]
    grid = db.tensors.create("grid", made.shape, dtype, chunks=(20, 30))
    grid[...] = made
    for t in (db.tensors["w"], db.tensors["again"], grid):
        for copy in (None, True):
            found = t.to_torch(copy=copy)
            assert t.dtype_name == dtype and found.dtype == made.dtype and torch.equal(found.float(), made.float())


def test_what_pytorch_writes_into_stays_with_it(db, torch):
    db.tensors["w"] = np.arange(6000, dtype=np.float32).reshape(60, 100)
    db.flush()
    shared = db.tensors["w"].to_torch()
    shared[0, 0] = 7.0
    assert db.tensors["w"][0, 0] == 0 and db.tensors["w"].to_torch()[0, 0] == 0 and shared[0, 0] == 7
    db.verify()


def test_weights_of_a_module_come_back(db, torch):
    """A state dict in one commit, a later one beside it; the module loads either."""
    module = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 2))
    first = {name: value.clone() for name, value in module.state_dict().items()}
    db.tensors.update({f"m/{name}": value for name, value in first.items()})
    version = db.version
    with torch.no_grad():
        for value in module.parameters():
            value.add_(1)
    db.tensors.update({f"m/{name}": value for name, value in module.named_parameters()})
    with db.at(version=version) as past:
        module.load_state_dict({name: past.tensors[f"m/{name}"].to_torch(copy=True) for name in first})
    assert all(torch.equal(module.state_dict()[name], value) for name, value in first.items())


def test_an_array_of_jax(db, jax):
    w = np.arange(6000, dtype=np.float32).reshape(60, 100)
    db.tensors["w"] = jax.numpy.asarray(w)
    found = db.tensors["w"].to_jax()
    assert isinstance(found, jax.Array) and found.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(found), w)
    np.testing.assert_array_equal(np.asarray(jax.numpy.from_dlpack(db.tensors["w"])), w)


def test_vectors_of_frameworks_are_searched(db, torch, jax):
    x = np.random.default_rng(0).random((200, 8), np.float32)
    docs = db.create_table("docs", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8,)))], primary_key="id"), indexes={"v": "flat"})
    docs.insert({"id": np.arange(200), "v": torch.from_numpy(x)})
    for query in (torch.from_numpy(x[17]), jax.numpy.asarray(x[17])):
        assert docs.search(query, k=1).column("id").to_pylist() == [17]


def test_what_is_exported_can_be_written_to_and_hurts_nothing(tmp_path):
    """PyTorch ignores DLPack's read-only flag: a consumer that writes all the same changes memory of its own, not the file."""
    import ctypes

    w = np.arange(600_000, dtype=np.float64).reshape(3, -1)
    with lt.open(tmp_path / "db", config=BULK) as db:
        db.tensors["w"] = w
        t = db.tensors["w"]
        first, second = np.from_dlpack(t), np.from_dlpack(t)
        assert not first.flags.writeable and first.ctypes.data != second.ctypes.data
        np.testing.assert_array_equal(first, w)
        ctypes.memset(first.ctypes.data, 255, first.nbytes)
        assert np.isnan(first).all()
        for other in (second, t.numpy(), np.from_dlpack(t)):
            np.testing.assert_array_equal(other, w)
        db.verify()
        assert t.__dlpack__() is not None, "a consumer of before DLPack 1.0 gets the private map"
        chunked = db.tensors.create("grid", w.shape, w.dtype, chunks=(2, 1000), data=w)
        with pytest.raises(BufferError, match="copy=True"):
            chunked.__dlpack__()
        assert chunked.__dlpack__(copy=True) is not None and t.__dlpack_device__() == (1, 0)


def test_frameworks_that_are_not_there_are_named(db, monkeypatch):
    import sys

    db.tensors["w"] = np.ones((2, 3), np.float32)
    for name, call in (("torch", "to_torch"), ("jax", "to_jax")):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.numpy", None)
        with pytest.raises(lt.UnavailableError, match=name):
            getattr(db.tensors["w"], call)()


def test_frameworks_get_a_capsule(db, monkeypatch):
    import sys
    import types

    torch = types.SimpleNamespace(from_dlpack=np.from_dlpack, bfloat16=np.uint16)
    monkeypatch.setitem(sys.modules, "torch", torch)
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    db.tensors["w"] = w
    np.testing.assert_array_equal(db.tensors["w"].to_torch(), w)
    np.testing.assert_array_equal(db.tensors["w"].to_torch(copy=True), w)
    t = db.tensors.create("b", (3,), "bfloat16")
    np.testing.assert_array_equal(t.to_torch(), np.zeros(3, np.uint16))
