"""Codecs: every one through the shipped suite, and chains of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor import codecs
from lsmtensor.testing import codecs as suite


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", codecs.names())
def test_conformance(name, check):
    check(lambda width: codecs.REGISTRY.create(name, itemsize=width))


@given(st.sampled_from(["zstd", "shuffle+zstd(level=1)", "bitshuffle+lz4", "delta+shuffle+zstd", "narrow+zstd", "xor+shuffle+zstd", "auto", "none"]), st.binary(max_size=3000), st.sampled_from([1, 2, 4, 8]))
def test_chains_give_back_the_bytes(spec, data, width):
    chain = codecs.create(spec, width)
    given_ = np.frombuffer(data, np.uint8)
    chain = chain.against(np.roll(given_, 1))
    coded = chain.encode(given_)
    if coded is not None:
        assert len(coded) <= 0.95 * len(data)
        np.testing.assert_array_equal(chain.decode(coded, len(data)), given_)


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
def test_a_filter_that_changes_the_length_before_a_compressor(compressor):
    chain, data = codecs.create(f"narrow+{compressor}", 4), np.zeros(3000, np.uint8)
    np.testing.assert_array_equal(chain.decode(chain.encode(data), 3000), data)


def test_filters_help_where_they_should():
    smooth = np.sin(np.arange(20_000) / 500).astype(np.float32).view(np.uint8)
    assert len(codecs.create("shuffle+zstd", 4).encode(smooth)) < 0.8 * len(codecs.create("zstd", 4).encode(smooth))
    counts = np.arange(10**6, 10**6 + 50_000, dtype=np.int64).view(np.uint8)
    assert len(codecs.create("delta+zstd", 8).encode(counts)) < 0.01 * len(counts)
    halves = np.random.default_rng(0).normal(size=5000).astype(np.float16).astype(np.float32).view(np.uint8)
    assert len(codecs.create("narrow", 4).encode(halves)) == len(halves) // 2 + 1


def test_what_gains_nothing_is_stored_plain():
    noise = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8)
    assert codecs.create("zstd", 1).encode(noise) is None and codecs.create("none", 1).encode(noise) is None


def test_bad_specs_and_bad_bytes():
    with pytest.raises(lt.UnknownNameError, match="zstd"):
        codecs.create("ztsd", 4)
    with pytest.raises(lt.InvalidArgumentError, match="last"):
        codecs.create("zstd+shuffle", 4)
    with pytest.raises(lt.InvalidArgumentError, match="level"):
        codecs.create("zstd(level=99)", 4)
    chain = codecs.create("zstd", 4)
    coded = chain.encode(np.zeros(10_000, np.uint8))
    with pytest.raises(lt.CorruptionError):
        chain.decode(coded[:-3], 10_000)
    with pytest.raises(lt.CorruptionError):
        chain.decode(coded, 9_000)  # a frame that claims more is not believed


def test_xor_between_checkpoints_saves_what_the_issue_asks():
    """Values that changed by 1e-3 of themselves: 40 % of float32 and 85 % of bfloat16 are saved."""
    rng = np.random.default_rng(0)
    old = rng.normal(size=100_000).astype(np.float32)
    new = (old * (1 + 1e-3 * rng.normal(size=old.size))).astype(np.float32)
    saved = codecs.create("xor+shuffle+zstd", 4).against(old.view(np.uint8)).encode(new.view(np.uint8))
    assert len(saved) < 0.6 * new.nbytes

    def rounded(values):
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.uint8)

    saved = codecs.create("xor+shuffle+zstd", 2).against(rounded(old)).encode(rounded(new))
    assert len(saved) < 0.15 * 2 * new.size


@pytest.mark.parametrize("make", [
    lambda rng: np.arange(100_000, dtype=np.int64), lambda rng: rng.normal(size=50_000).astype(np.float16).astype(np.float32),
    lambda rng: np.zeros(9999, np.float64), lambda rng: (np.cumsum(rng.integers(0, 9, 60_000)) + 10**9).astype(np.int64),
])  # fmt: skip
def test_auto_is_about_as_small_as_the_best_chain(make):
    values = make(np.random.default_rng(0))
    data = values.view(np.uint8)
    auto = codecs.create("auto", values.itemsize)
    coded = auto.encode(data)
    best = min(len(c) for spec in ("shuffle+zstd", "narrow+shuffle+zstd", "delta+shuffle+zstd") if (c := codecs.create(spec, values.itemsize).encode(data)) is not None)
    assert len(coded) <= best + 0.4 * len(data)  # what decoding costs counts too
    np.testing.assert_array_equal(auto.decode(coded, len(data)), data)
    with pytest.raises(lt.CorruptionError):
        auto.decode(np.array([99, 1, 2], np.uint8), len(data))


def test_xor_and_auto_have_their_places():
    for bad, why in (("shuffle+xor+zstd", "first"), ("xor", "compressor"), ("xor+shuffle", "compressor"), ("shuffle+auto", "alone")):
        with pytest.raises(lt.InvalidArgumentError, match=why):
            codecs.create(bad, 4)
