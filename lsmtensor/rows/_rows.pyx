# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Single rows, compiled: the same as plain.py, which says what everything means.

The GIL is held throughout: a row takes less time than giving it up and getting it back. No Python code runs between a look at
a table's arrays and the use of what was found, so a reader and the writer never meet halfway; records never move once written.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItem, PyDict_SetItem, PyDict_Size
from cpython.exc cimport PyErr_Clear
from cpython.list cimport PyList_GET_ITEM
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isinf
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

cimport numpy as cnp
from cpython cimport array
from bisect import bisect_right

import numpy as np

from ..errors import CorruptionError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    bint PyUnicode_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *)

cdef extern from * nogil:
    """
    #define fetch(p) __builtin_prefetch((const void *)(p))
    static inline uint64_t big64(uint64_t x) { return __builtin_bswap64(x); }
    """
    void fetch(const void *)
    uint64_t big64(uint64_t)

cdef extern from "../kernels/cython/_keys.h" nogil:
    uint64_t mix64(uint64_t)
    uint64_t hash_bytes(const unsigned char *, long)

cdef extern from "../kernels/cython/_checksum.h" nogil:
    void crc_tables()
    uint32_t crc_hard(uint32_t, const unsigned char *, long)
    uint32_t crc_plain(uint32_t, const unsigned char *, long)
    int crc_has_unit()

cdef enum:
    BOOL = 1
    INT = 2
    UINT = 3
    FLOAT = 4
    TEXT = 5
    BYTES = 6
    TENSOR = 7
    OTHER = 8
    HEAD = 16
    ROW_HEAD = 12
    FRAME = 48
    MOST = 64  # columns of a row that goes the short way
    AHEAD = 8  # rows that are fetched before they are needed
    STEP = 16  # rows of a batch between two of its fence
    GROUP = 32  # keys sought side by side
    TURN = 4096  # keys after which other threads get theirs

cnp.import_array()
crc_tables()
cdef bint HAS_UNIT = crc_has_unit()
cdef object ndarray = np.ndarray, empty = np.empty
cdef long long NUMBER_LIMIT = (<long long>1) << 53


cdef inline uint32_t crc(uint32_t c, const unsigned char *p, long n) noexcept nogil:
    return crc_hard(c, p, n) if HAS_UNIT else crc_plain(c, p, n)


cdef inline uint64_t load64(const uint8_t *p) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, p, 4)
    return word


cdef inline void store32(uint8_t *p, uint32_t word) noexcept nogil:
    memcpy(p, &word, 4)


cdef inline void store64(uint8_t *p, uint64_t word) noexcept nogil:
    memcpy(p, &word, 8)


cdef inline uint64_t leading(const uint8_t *p, long n) noexcept nogil:
    """The first bytes of a key as a number: where two of them differ, the keys differ likewise."""
    cdef uint64_t word = 0
    if n >= 8:
        return big64(load64(p))
    if n > 0:
        memcpy(&word, p, n)
    return big64(word)


cdef inline uint64_t leading_int(int64_t number) noexcept nogil:
    return <uint64_t>number ^ (<uint64_t>1 << 63)


def log_record(uint64_t number, uint64_t offset, uint64_t version, int64_t time_ns, int kind, uint64_t synced, bytes payload):
    """The log record (docs/format-wal.md) as one piece of bytes."""
    cdef uint64_t n = PyBytes_GET_SIZE(payload), pad = (8 - n % 8) % 8
    cdef bytes made = PyBytes_FromStringAndSize(NULL, FRAME + n + pad)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(made)
    cdef uint64_t place[2]
    memcpy(out + 4, b"LTWR", 4)
    store64(out + 8, n)
    store64(out + 16, version)
    store64(out + 24, <uint64_t>time_ns)
    store64(out + 32, synced)
    store32(out + 40, <uint32_t>kind)
    memcpy(out + FRAME, PyBytes_AS_STRING(payload), n)
    memset(out + FRAME + n, 0, pad)
    store32(out + 44, ~crc(0xFFFFFFFFu, out + FRAME, n + pad))
    place[0] = number
    place[1] = offset
    store32(out, ~crc(crc(0xFFFFFFFFu, <uint8_t *>place, 16), out + 4, FRAME - 4))
    return made


include "_format.pxi"
include "_cells.pxi"
include "_table.pxi"
include "_batches.pxi"
include "_points.pxi"
include "_commits.pxi"
