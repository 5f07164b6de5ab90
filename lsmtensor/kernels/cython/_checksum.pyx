# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Checksums of chunks, without the GIL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

import numpy as np

cdef extern from "_checksum.h" nogil:
    void crc_tables()
    void crc_chunks(const unsigned char *, long, long, uint64_t, uint64_t, uint32_t *)

crc_tables()


def crc32c_chunks(data, long chunk, uint64_t file, uint64_t offset):
    cdef const uint8_t[::1] d = data
    cdef long n = d.shape[0]
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; give at least 1 byte")
    out = np.empty((n + chunk - 1) // chunk, np.uint32)
    cdef uint32_t[::1] o = out
    if n:
        with nogil:
            crc_chunks(&d[0], n, chunk, file, offset, &o[0])
    return out
