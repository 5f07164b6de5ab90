# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Rows coded on grids, without the GIL; see contract_grid.py."""

from libc.stdint cimport int64_t, uint8_t, uint16_t

import numpy as np

from ..numpy_grid import check

cdef extern from "_grid.h" nogil:
    ctypedef struct grid_table:
        const char *name
        void (*turn)(const float *, int64_t, int64_t, const float *, int64_t, int, void *, float *) noexcept nogil
        void (*scalar)(const float *, int64_t, int64_t, const float *, const float *, int, void *, uint8_t *) noexcept nogil
        void (*grid)(const float *, int64_t, int64_t, int, int, const float *, int64_t, void *, uint8_t *, int64_t) noexcept nogil
        void (*angle)(const float *, int64_t, int64_t, int, const float *, int64_t, void *, uint8_t *, int64_t) noexcept nogil
        void (*half)(const float *, int64_t, int, uint16_t *) noexcept nogil
    const grid_table *chosen

include "_isa.pxi"


cdef uint8_t[::1] _room(int64_t d):
    """For a tile of 16 rows of d float32 and their codes on two levels, at a multiple of 64."""
    made = np.empty(64 * d + 32 * (d + 1) + 64, np.uint8)
    return made[-made.ctypes.data % 64:]


def turn(const float[:, ::1] x, const float[:, ::1] signs, bint back):
    cdef int64_t n = x.shape[0], d = x.shape[1]
    if signs.shape[1] != d:
        raise ValueError(f"signs of {signs.shape[1]} dimensions for rows of {d}")
    made = np.empty((n, d), np.float32)
    cdef float[:, ::1] out = made
    cdef uint8_t[::1] room = _room(d)
    if n and d:
        with nogil:
            chosen.turn(&x[0, 0], n, d, &signs[0, 0] if signs.shape[0] else NULL, signs.shape[0], back, &room[0], &out[0, 0])
    return made


def scalar_encode(const float[:, ::1] x, const float[::1] low, const float[::1] by, int bits):
    cdef int64_t n = x.shape[0], d = x.shape[1]
    if low.shape[0] != d or by.shape[0] != d or not 1 <= bits <= 8:
        raise ValueError(f"bounds of {low.shape[0]} and {by.shape[0]} dimensions and {bits} bits for rows of {d}")
    made = np.empty((n, (d * bits + 7) // 8), np.uint8)
    cdef uint8_t[:, ::1] out = made
    cdef uint8_t[::1] room = _room(d)
    if n and d:
        with nogil:
            chosen.scalar(&x[0, 0], n, d, &low[0], &by[0], bits, &room[0], &out[0, 0])
    return made


def grid_encode(const float[:, ::1] x, int bits, int second, const float[::1] shares):
    check(bits, second, shares)
    cdef int64_t n = x.shape[0], d = x.shape[1]
    made = np.empty((n, (d * bits + 7) // 8 + (d * second + 7) // 8 + 8), np.uint8)
    cdef uint8_t[:, ::1] out = made
    cdef uint8_t[::1] room = _room(d)
    if n and d:
        with nogil:
            chosen.grid(&x[0, 0], n, d, bits, second, &shares[0], shares.shape[0], &room[0], &out[0, 0], out.shape[1])
    return made


def angle_encode(const float[:, ::1] x, int bits, const float[::1] shares):
    check(bits, 0, shares)
    cdef int64_t n = x.shape[0], d = x.shape[1]
    made = np.empty((n, (d * bits + 7) // 8 + 4), np.uint8)
    cdef uint8_t[:, ::1] out = made
    cdef uint8_t[::1] room = _room(d)
    if n and d:
        with nogil:
            chosen.angle(&x[0, 0], n, d, bits, &shares[0], shares.shape[0], &room[0], &out[0, 0], out.shape[1])
    return made


def half_encode(const float[:, ::1] x, bint brain):
    made = np.empty((x.shape[0], x.shape[1]), np.uint16)
    cdef uint16_t[:, ::1] out = made
    if made.size:
        with nogil:
            chosen.half(&x[0, 0], x.shape[0] * x.shape[1], brain, &out[0, 0])
    return made
