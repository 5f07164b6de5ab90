# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Bytes and bits of elements put together, without the GIL."""

from libc.stdint cimport uint8_t

import numpy as np

cdef extern from "_shuffle.h" nogil:
    void shuffle_bytes(const uint8_t *, uint8_t *, long, long)
    void unshuffle_bytes(const uint8_t *, uint8_t *, long, long)
    void shuffle_bits(const uint8_t *, uint8_t *, long, long)
    void unshuffle_bits(const uint8_t *, uint8_t *, long, long)

ctypedef void (*Move)(const uint8_t *, uint8_t *, long, long) noexcept nogil


cdef _moved(const uint8_t[::1] data, long itemsize, Move move):
    cdef long n = data.shape[0]
    if itemsize < 1:
        raise ValueError(f"itemsize={itemsize}; give at least 1 byte")
    out = np.empty(n, np.uint8)
    cdef uint8_t[::1] o = out
    if n:
        with nogil:
            move(&data[0], &o[0], n, itemsize)
    return out


def shuffle(data, long itemsize):
    return _moved(data, itemsize, shuffle_bytes)


def unshuffle(data, long itemsize):
    return _moved(data, itemsize, unshuffle_bytes)


def bitshuffle(data, long itemsize):
    return _moved(data, itemsize, shuffle_bits)


def unbitshuffle(data, long itemsize):
    return _moved(data, itemsize, unshuffle_bits)
