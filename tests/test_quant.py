"""Quantizers: every one through the shipped suite, and what each promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor import quant
from lsmtensor.bench import datasets
from lsmtensor.kernels.numpy_grid import packed
from lsmtensor.kernels.training import kmeans
from lsmtensor.quant.base import unpack_bits
from lsmtensor.testing import quantizers as suite

SPECS = [
    "fp16", "bf16", "int8", "int8(per=channel)", "int8(per=tensor, affine=true)", "int8(affine=true)", "int4", "int4(rotate=false)",
    *(f"scalar(bits={b})" for b in (2, 3, 5, 8)), "scalar(bits=6, range=quantile)", "binary", "lvq(bits=2)", "lvq(bits=4, second=8)",
    "pq(m=6, bits=4)", "pq(m=12, bits=8)", "opq(m=6, bits=4, rounds=3)", "rabitq", "rabitq(bits=3)", "rabitq(bits=8)",
]  # fmt: skip


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("spec", SPECS)
def test_conformance(spec, check):
    check(lambda dim: quant.create(spec, dim=dim))


def test_every_quantizer_is_tested():
    assert {s.partition("(")[0] for s in SPECS} == set(quant.names())


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32))
def test_bits_are_packed(bits, dim, n, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, (n, dim)).astype(np.uint8)
    made = packed(values, bits)
    assert made.shape == (n, -(-dim * bits // 8))
    np.testing.assert_array_equal(unpack_bits(made, bits, dim), values)


def recall(spec, x, queries, truth, rerank=0):
    qz = quant.create(spec, dim=x.shape[1]).fit(x)
    ids, _ = qz.search(queries, qz.encode(x), max(10, rerank), "cosine")
    if rerank:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        scores = np.einsum("qd,qkd->qk", queries, unit[ids])
        ids = np.take_along_axis(ids, np.argsort(-scores, 1)[:, :10], 1)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids[:, :10].tolist(), truth.tolist(), strict=True)])), qz.ratio


@pytest.fixture(scope="module")
def real():
    x = np.asarray(datasets.debian().embeddings, np.float32)
    queries, rows = x[::20], np.delete(x, np.s_[::20], 0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, queries, np.argsort(-(queries @ unit.T), 1)[:, :10]


@pytest.mark.parametrize(
    "spec, floor, most, rerank",
    [
        ("int8", 0.985, 0.26, 0), ("int4", 0.94, 0.14, 0), ("lvq(bits=4)", 0.94, 0.14, 0), ("rabitq(bits=1)", 0.98, 0.04, 100),
        ("rabitq(bits=1)", 0.97, 0.04, 50), ("rabitq(bits=4)", 0.94, 0.14, 0), ("fp16", 0.995, 0.5, 0),
    ],
)  # fmt: skip
def test_recall_on_real_embeddings(real, spec, floor, most, rerank):
    found, ratio = recall(spec, *real, rerank)
    assert found >= floor and ratio <= most, f"{spec}: recall {found:.3f} at {ratio:.1%} of the bytes"


def test_opq_is_nearer_than_pq(real):
    rows = real[0]
    plain = quant.create("pq(m=48, bits=4)", dim=384).fit(rows).errors(rows)["mse"]
    assert quant.create("opq(m=48, bits=4, rounds=3)", dim=384).fit(rows).errors(rows)["mse"] < plain


def test_rabitq_is_unbiased(real):
    """What a code stands for has the row's own inner product with it."""
    rows = real[0]
    for bits in (1, 2, 4):
        qz = quant.create(f"rabitq(bits={bits})", dim=384).fit(rows)
        mean = rows.mean(0)
        made = qz.decode(qz.encode(rows)) - mean
        inner, norms = ((rows - mean) * made).sum(1), ((rows - mean) ** 2).sum(1)
        np.testing.assert_allclose(inner, norms, rtol=2e-3)


def test_int8_errs_by_half_a_step():
    x = np.random.default_rng(0).normal(size=(500, 40)).astype(np.float32)
    qz = quant.create("int8", dim=40)
    step = np.abs(x).max(1, keepdims=True) / 127
    assert (np.abs(qz.decode(qz.encode(x)) - x) <= 0.5001 * step).all()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["fp16", "bf16", "int8", "int8(affine=True)", "int8(per=channel)", "int8(per=tensor, affine=True)", "scalar(bits=8)", "scalar(bits=3, range=quantile)"]),
    st.integers(1, 20), st.integers(0, 2**32), st.floats(-6, 6),
)  # fmt: skip
def test_no_error_is_over_its_bound(spec, dim, seed, magnitude):
    x = (np.random.default_rng(seed).standard_t(3, (40, dim)) * 10.0**magnitude).astype(np.float32)
    qz = quant.create(spec, dim=dim).fit(x[:20])
    bound = qz.bound(x)
    assert bound.shape == x.shape and (np.abs(qz.decode(qz.encode(x)) - x) <= bound).all()
    assert quant.create("binary", dim=dim).fit(x).bound(x) is None


def test_kmeans():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(5, 3)) * 20
    x = (centers[np.arange(500) % 5] + rng.normal(size=(500, 3)) * 0.01).astype(np.float32)
    found = kmeans(x, 20, seed=1)
    far = ((x[:, None] - found[None]) ** 2).sum(2).min(1)
    assert far.max() < 1 and found.shape == (20, 3)
    np.testing.assert_array_equal(found, kmeans(x, 20, seed=1))
    np.testing.assert_allclose(kmeans(x[:7], 7).sum(), x[:7].sum(), rtol=1e-4)
    with pytest.raises(lt.InvalidArgumentError, match="at least as many"):
        kmeans(x[:3], 4)


def test_bad_parameters():
    for spec in ("pq(m=7)", "pq(m=8, bits=5)", "int8(per=row)", "scalar(bits=9)", "rabitq(bits=0)", "lvq(bits=4, second=9)", "scalar(range=all)"):
        with pytest.raises(lt.InvalidArgumentError):
            quant.create(spec, dim=24)
    with pytest.raises(lt.UnknownNameError, match="int8"):
        quant.create("int9", dim=24)
    with pytest.raises(lt.InvalidArgumentError, match="256"):
        quant.create("pq(m=2)", dim=4).fit(np.ones((10, 4)))
    with pytest.raises(lt.InvalidArgumentError, match="dim"):
        quant.create("int8", dim=0)
    with pytest.raises(lt.SchemaError, match="codes"):
        quant.create("int8", dim=4).decode(np.zeros((2, 3), np.uint8))


def test_damaged_parameters_are_refused():
    data = bytearray(quant.save(quant.create("pq(m=2, bits=4)", dim=4).fit(np.random.default_rng(0).normal(size=(50, 4)))))
    for at in range(0, len(data), 7):
        bad = bytearray(data)
        bad[at] ^= 0x40
        with pytest.raises(lt.LsmTensorError):
            quant.load(bytes(bad))
    for size in range(0, len(data), 13):
        with pytest.raises(lt.LsmTensorError):
            quant.load(bytes(data[:size]))
