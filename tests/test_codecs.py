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


@given(st.sampled_from(["zstd", "shuffle+zstd(level=1)", "bitshuffle+lz4", "delta+shuffle+zstd", "narrow+zstd", "none"]), st.binary(max_size=3000), st.sampled_from([1, 2, 4, 8]))
def test_chains_give_back_the_bytes(spec, data, width):
    chain = codecs.create(spec, width)
    given_ = np.frombuffer(data, np.uint8)
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
