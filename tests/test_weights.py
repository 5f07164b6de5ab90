"""Weights in 8 and 4 bits: bounds of the error, slices, versions, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.quant.grouped import Grouped


def bound(x, spec, group):
    """Half a step of each value's group, and a little for float32."""
    wide = np.empty(x.shape)
    for at in range(0, x.shape[1], group or x.shape[1]):
        part = x[:, at : at + (group or x.shape[1])].astype(np.float64)
        step = np.abs(part).max(1) / 127 if spec == "int8" else (part.max(1) - part.min(1)) / 15
        wide[:, at : at + (group or x.shape[1])] = step[:, None]
    return wide * 0.5001 + 1e-6 * np.abs(x).max() + 1e-30


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["int8", "int4"]), st.integers(0, 9), st.integers(1, 5), st.integers(1, 23), st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 1e-30, 1e30, 0.0]), st.sampled_from(["float32", "float64"]),
)  # fmt: skip
def test_the_error_is_at_most_half_a_step(spec, group, rows, columns, seed, scale, dtype):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(rows, columns)) ** 3 * scale).astype(dtype)
    coder = Grouped(f"{spec}(group={group})", columns, dtype)
    coded = coder.encode(x.reshape(-1).view(np.uint8))
    assert len(coded) == rows * coder.row_bytes
    back = coder.decode(coded, x.nbytes).view(dtype).reshape(x.shape)
    assert (np.abs(back.astype(np.float64) - x) <= bound(x, spec, min(group, columns) or columns)).all()
    with pytest.raises(lt.CorruptionError):
        coder.decode(coded[:-1], x.nbytes)


def test_the_largest_floats_have_codes():
    top = np.float32(1e38)
    x = np.array([[top, -top, 0, 1], [0, 0, 0, 0]], np.float32)
    for spec in ("int8", "int4"):
        coder = Grouped(spec, 4, "float32")
        back = coder.decode(coder.encode(x.reshape(-1).view(np.uint8)), x.nbytes).view(np.float32).reshape(x.shape)
        assert np.isfinite(back).all() and np.abs(back[0, 0] / top - 1) < 1e-6 and not back[1].any()
        for bad in (np.nan, np.inf, -1.1e38):
            with pytest.raises(lt.SchemaError, match="row 1 of"):
                coder.encode(np.array([0, 0, 0, 0, 1, 2, 3, bad], np.float32).view(np.uint8))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("spec", ["int8", "int8(group=64)", "int4(group=32)"])
def test_weights_in_a_database(tmp_path, spec, dtype):
    from lsmtensor.dtypes import numpy_dtype

    kind = numpy_dtype(dtype)
    w = (np.random.default_rng(0).normal(size=(700, 500)) / 20).astype(kind)
    with lt.open(tmp_path / "a.lsm") as db:
        t = db.tensors.create("w", w.shape, dtype, quant=spec, data=w, attrs={"layer": 1})
        db.tensors["full"] = w
        seen = t.numpy()
        group = 64 if "64" in spec else 32 if "32" in spec else 0
        exact = w.astype(np.float32)
        most = bound(exact, spec[:4], group)
        most += (np.abs(exact) + most) * (0 if dtype == "float32" else 2.0**-8)  # rounded to the dtype
        assert (np.abs(seen.astype(np.float32) - exact) <= most).all()
        assert t.dtype == kind and t.codec == spec and not t.contiguous and t.attrs == {"layer": 1}
        assert np.array_equal(t[10:50:3, 7], seen[10:50:3, 7]) and np.array_equal(t[-1], seen[-1])
        first = db.version
        t[5] = w[6]
        assert np.array_equal(t[5], seen[6]) and np.array_equal(db.at(version=first).tensors["w"][5], seen[5])
        t.append(w[:3])
        assert t.shape == (703, 500) and np.array_equal(t[700:], seen[:3])
        t.resize((600, 500))
        db.flush()
        db.compact()
    with lt.open(tmp_path / "a.lsm") as db:
        t = db.tensors["w"]
        assert np.array_equal(t[6:600], seen[6:600]) and db.verify()
        with pytest.raises(lt.InvalidArgumentError, match="whole rows"):
            t.resize((600, 400))
        with pytest.raises(lt.SchemaError, match="NaN"):
            t[0] = np.full(500, np.nan, kind)


def test_bytes_are_saved(tmp_path):
    w = np.random.default_rng(0).normal(size=(4096, 1024)).astype(np.float32)
    sizes = {}
    for spec in (None, "int8", "int4(group=64)"):
        with lt.open(tmp_path / f"{spec}.lsm") as db:
            db.tensors.create("w", w.shape, "float32", quant=spec, data=w)
            db.flush()
            sizes[spec] = db.stats()["tables"]["_chunks"]["file_bytes"] / w.nbytes
    assert sizes["int8"] < 0.26 and sizes["int4(group=64)"] < 0.16 and sizes[None] < 1.01


def test_what_weights_are_not(tmp_path):
    with lt.open(tmp_path / "a.lsm") as db:
        for words, arguments in (
            ("with an optional", {"quant": "int7"}), ("group= only", {"quant": "int8(bits=3)"}), ("group= only", {"quant": "int8(group=-1)"}),
            ("without a codec", {"quant": "int8", "codec": "zstd"}), ("whole rows", {"quant": "int4", "chunks": (2, 3)}),
            ("two dimensions", {"quant": "int8", "shape": (9,)}), ("float32, float16", {"quant": "int8", "dtype": "int32"}),
        ):  # fmt: skip
            given_ = {"shape": (4, 6), "dtype": "float32", **arguments}
            with pytest.raises(lt.InvalidArgumentError, match=words):
                db.tensors.create("w", **given_)
        assert len(db.tensors) == 0
