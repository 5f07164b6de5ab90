# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Single rows, compiled: the same as plain.py, which says what everything means.

The GIL is held throughout: a row takes less time than giving it up and getting it back. No Python code runs between a look at
a table's arrays and the use of what was found, so a reader and the writer never meet halfway; records never move once written.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_GetItem, PyDict_SetItem, PyDict_Size
from cpython.exc cimport PyErr_Clear
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isinf
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from ..errors import CorruptionError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    bint PyUnicode_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *)

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


# -- the format of a row --------------------------------------------------------------------------


cdef struct column_t:
    int code
    long width
    bint nullable
    bint shown


cdef class RowFormat:
    cdef readonly tuple columns
    cdef readonly bytes head
    cdef readonly int key_at
    cdef readonly bint key_is_int
    cdef tuple names, extras
    cdef column_t *col
    cdef int n, nulls
    cdef bint tensors

    def __cinit__(self, columns, int key_at, bint key_is_int, bytes head):
        self.columns, self.key_at, self.key_is_int, self.head = tuple(columns), key_at, key_is_int, head
        self.n = len(self.columns)
        self.nulls = (self.n + 6) // 8  # of all but the key
        self.col = <column_t *>calloc(self.n + 1, sizeof(column_t))
        if self.col == NULL:
            raise MemoryError
        names, extras = [], []
        for i, (name, code, width, nullable, shown, extra) in enumerate(self.columns):
            self.col[i].code, self.col[i].width, self.col[i].nullable, self.col[i].shown = code, width, nullable, shown
            names.append(name)
            extras.append(extra)
            self.tensors |= code == TENSOR
        self.names, self.extras = tuple(names), tuple(extras)
        if len(head) != HEAD or not 0 <= key_at < self.n:
            raise ValueError(f"head of {len(head)} bytes, key column {key_at} of {self.n}")

    def __dealloc__(self):
        free(self.col)

    def pack(self, key, row, int op=1):
        """The payload of a log record with this row, or None where it wants the long way."""
        cdef long sizes[64]
        cdef PyObject *values[64]
        cdef int64_t number
        cdef const char *key_data = NULL
        cdef Py_ssize_t key_size = 0, size = 0, used = 0, total
        cdef PyObject *found
        cdef int i, bit = 0
        cdef uint8_t *out
        cdef uint8_t *bits
        if self.n > 64 or not (row is None or PyDict_CheckExact(row)):
            return None
        if not self._key(key, &number, &key_data, &key_size):
            return None
        if self.tensors and row is not None:
            row = dict(row)  # looking at an array runs Python code: nobody may take the values away meanwhile
        total = HEAD + ROW_HEAD + key_size + self.nulls
        for i in range(self.n):
            values[i] = NULL
            if i == self.key_at:
                continue
            found = PyDict_GetItem(row, <object>self.names[i]) if row is not None else NULL
            if found != NULL:
                used += 1
            if found == NULL or <object>found is None:
                if op and not self.col[i].nullable:
                    return None
                continue
            size = self._size(i, <object>found)
            if size < 0:
                return None
            values[i], sizes[i] = found, size
            total += size
        if row is not None and used != PyDict_Size(row):
            return None
        if total > (1 << 20):
            return None
        made = PyBytes_FromStringAndSize(NULL, total)
        out = <uint8_t *>PyBytes_AS_STRING(made)
        memcpy(out, PyBytes_AS_STRING(self.head), HEAD)
        out += HEAD
        store32(out, <uint32_t>(total - HEAD))
        store32(out + 4, <uint32_t>key_size)
        store32(out + 8, <uint32_t>op)
        memcpy(out + ROW_HEAD, key_data, key_size)
        bits = out + ROW_HEAD + key_size
        memset(bits, 0, self.nulls)
        out = bits + self.nulls
        for i in range(self.n):
            if i == self.key_at:
                continue
            if values[i] != NULL:
                bits[bit >> 3] |= <uint8_t>(1 << (bit & 7))
                self._write(i, <object>values[i], out, sizes[i])
                out += sizes[i]
            bit += 1
        return made

    cdef bint _key(self, key, int64_t *number, const char **data, Py_ssize_t *size) except -1:
        """The key's bytes; ``number`` is their place where it is one. False where the codec must look at it."""
        cdef column_t *column = &self.col[self.key_at]
        if column.code == TEXT:
            if not PyUnicode_CheckExact(key):
                return False
            try:
                data[0] = PyUnicode_AsUTF8AndSize(key, size)
            except UnicodeEncodeError:
                return False
            return True
        if column.code == BYTES:
            if not PyBytes_CheckExact(key):
                return False
            data[0], size[0] = PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)
            return True
        if column.code == OTHER or not PyLong_CheckExact(key) or not self._int(column, key, number):
            return False
        data[0], size[0] = <const char *>number, 8
        return True

    cdef bint _int(self, column_t *column, value, int64_t *number) except -1:
        """A whole number that the column holds; unsigned ones of 64 bits only below 2^63."""
        cdef int over = 0
        cdef int64_t n = PyLong_AsLongLongAndOverflow(value, &over)
        cdef int bits = <int>(8 * column.width)
        if over:
            return False
        number[0] = n
        if column.code == UINT:
            return n >= 0 and (bits == 64 or (n >> bits) == 0)
        return bits == 64 or -(<int64_t>1 << (bits - 1)) <= n < (<int64_t>1 << (bits - 1))

    cdef long _size(self, int i, value) except -2:
        """Bytes of the value in a row, -1 where it is not what the column holds as it stands."""
        cdef column_t *column = &self.col[i]
        cdef Py_ssize_t size = 0
        cdef int64_t number
        cdef int over = 0
        cdef double real
        if column.code == BYTES:
            return 4 + PyBytes_GET_SIZE(value) if PyBytes_CheckExact(value) else -1
        if column.code == TEXT:
            if not PyUnicode_CheckExact(value):
                return -1
            try:
                PyUnicode_AsUTF8AndSize(value, &size)
            except UnicodeEncodeError:
                return -1
            return 4 + size
        if column.code == INT or column.code == UINT:
            return column.width if PyLong_CheckExact(value) and self._int(column, value, &number) else -1
        if column.code == FLOAT:
            if PyFloat_CheckExact(value):
                real = PyFloat_AS_DOUBLE(value)
                return column.width if column.width == 8 or isinf(real) or not isinf(<float>real) else -1
            if PyLong_CheckExact(value):
                number = PyLong_AsLongLongAndOverflow(value, &over)
                return column.width if not over and -NUMBER_LIMIT <= number <= NUMBER_LIMIT else -1
            return -1
        if column.code == BOOL:
            return 1 if value is True or value is False else -1
        if column.code == TENSOR and type(value) is ndarray:
            dtype, shape = self.extras[i]
            if value.dtype == dtype and value.shape == shape and value.flags.c_contiguous:
                return column.width
        return -1

    cdef int _write(self, int i, value, uint8_t *out, long size) except -1:
        cdef column_t *column = &self.col[i]
        cdef Py_ssize_t n = 0
        cdef int64_t number
        cdef double real
        cdef float single
        cdef const uint8_t[::1] raw
        if column.code == BYTES:
            store32(out, <uint32_t>(size - 4))
            memcpy(out + 4, PyBytes_AS_STRING(value), size - 4)
        elif column.code == TEXT:
            store32(out, <uint32_t>(size - 4))
            memcpy(out + 4, PyUnicode_AsUTF8AndSize(value, &n), size - 4)
        elif column.code == INT or column.code == UINT:
            number = value
            memcpy(out, &number, column.width)
        elif column.code == FLOAT:
            real = value
            if column.width == 8:
                memcpy(out, &real, 8)
            else:
                single = <float>real
                memcpy(out, &single, 4)
        elif column.code == BOOL:
            out[0] = value is True
        elif size:
            raw = value.reshape(-1).view(np.uint8)
            memcpy(out, &raw[0], size)
        return 0

    cdef object _value(self, int i, const uint8_t *at, long size):
        """One value from its bytes: ``size`` of them for text and bytes."""
        cdef column_t *column = &self.col[i]
        return decoded(column.code, column.width, at, size, self.extras[i])

    cdef dict _row(self, const uint8_t *row):
        """The row of a compact record, which was checked when it came in."""
        cdef dict made = {}
        cdef long key_size = load32(row + 4), size
        cdef const uint8_t *bits = row + ROW_HEAD + key_size
        cdef const uint8_t *at = bits + self.nulls
        cdef int i, bit = 0
        for i in range(self.n):
            if i == self.key_at:
                if self.col[i].shown:
                    if self.col[i].code == INT or self.col[i].code == UINT:
                        value = <int64_t>load64(row + ROW_HEAD)
                    else:
                        value = self._value(i, row + ROW_HEAD, key_size)
                    PyDict_SetItem(made, self.names[i], value)
                continue
            if not bits[bit >> 3] >> (bit & 7) & 1:
                value = None
            else:
                size = self.col[i].width
                if self.col[i].code == TEXT or self.col[i].code == BYTES:
                    size = load32(at)
                    at += 4
                value = self._value(i, at, size)
                at += size
            bit += 1
            if self.col[i].shown:
                PyDict_SetItem(made, self.names[i], value)
        return made

    cdef bint _whole(self, const uint8_t *row, long left) noexcept:
        """Whether a row from a log is one of this format and ends where it says."""
        cdef long size, at, n
        cdef int i, bit = 0
        cdef const uint8_t *bits
        if left < ROW_HEAD:
            return False
        size, at = load32(row), load32(row + 4)
        if size > left or at > size or row[8] > 1 or (self.key_is_int and at != 8):
            return False
        at += ROW_HEAD
        if at + self.nulls > size:
            return False
        bits = row + at
        at += self.nulls
        for i in range(self.n):
            if i == self.key_at:
                continue
            if bits[bit >> 3] >> (bit & 7) & 1:
                n = self.col[i].width
                if self.col[i].code == OTHER:
                    return False
                if self.col[i].code == TEXT or self.col[i].code == BYTES:
                    if at + 4 > size:
                        return False
                    n = load32(row + at)
                    at += 4
                if n > size - at:
                    return False
                at += n
            elif row[8] and not self.col[i].nullable:
                return False
            bit += 1
        return at == size


cdef object decoded(int code, long width, const uint8_t *at, long size, extra):
    cdef uint8_t[::1] raw
    cdef float single
    cdef double real
    cdef uint64_t word = 0
    if code == BYTES:
        return PyBytes_FromStringAndSize(<const char *>at, size)
    if code == TEXT:
        try:
            return PyUnicode_DecodeUTF8(<const char *>at, size, NULL)
        except UnicodeDecodeError as why:
            raise CorruptionError(f"text of a row is not UTF-8 ({why})") from why
    if code == INT:
        if width == 8:
            return <int64_t>load64(at)
        if width == 4:
            return <int32_t>load32(at)
        return (<int16_t *>at)[0] if width == 2 else (<int8_t *>at)[0]
    if code == UINT:
        memcpy(&word, at, width)
        return word
    if code == FLOAT:
        if width == 8:
            memcpy(&real, at, 8)
            return real
        memcpy(&single, at, 4)
        return single
    if code == BOOL:
        return at[0] != 0
    dtype, shape = extra
    made = empty(shape, dtype)
    if width:
        raw = made.reshape(-1).view(np.uint8)
        memcpy(&raw[0], at, width)
    return made


# -- rows in memory -------------------------------------------------------------------------------


cdef struct record:
    record *before  # the row of the same key before this one
    uint64_t seq
    uint64_t hash
    uint32_t row
    uint32_t compact  # 0: the key alone, the row is in a batch


cdef struct slot:
    record *newest
    uint64_t hash


cdef inline uint8_t *bytes_of(record *r) noexcept nogil:
    return <uint8_t *>(r + 1)


cdef class RowTable:
    cdef readonly RowFormat format
    cdef readonly long rows, nbytes, waiting, min_seq, max_seq
    cdef record **recs
    cdef slot *slots
    cdef long room, indexed, size
    cdef char **blocks
    cdef long block_count, left
    cdef char *free_at

    def __cinit__(self):
        self.blocks, self.block_count = NULL, 0

    def __dealloc__(self):
        cdef long i
        for i in range(self.block_count):
            free(self.blocks[i])
        free(self.blocks)
        free(self.recs)
        free(self.slots)

    cdef record *_alloc(self, long size) except NULL:
        cdef long want = (sizeof(record) + size + 7) & ~7
        cdef long block
        cdef record *made
        if want > self.left:
            block = max(want, min(<long>1 << 20, <long>4096 << min(self.block_count, 8)))
            grown = <char **>realloc(self.blocks, (self.block_count + 1) * sizeof(char *))
            if grown == NULL:
                raise MemoryError
            self.blocks = grown
            self.free_at = <char *>malloc(block)
            if self.free_at == NULL:
                raise MemoryError
            self.blocks[self.block_count] = self.free_at
            self.block_count += 1
            self.left = block
        made = <record *>self.free_at
        self.free_at += want
        self.left -= want
        self.nbytes += want
        return made

    cdef int _room(self, long more) except -1:
        cdef long room = self.room
        if self.rows + more <= room:
            return 0
        while self.rows + more > room:
            room = max(64, 2 * room)
        grown = <record **>realloc(self.recs, room * sizeof(record *))
        if grown == NULL:
            raise MemoryError
        self.recs, self.room = grown, room
        return 0

    def append(self, RowFormat format, payload, uint64_t seq, bint check=False):
        """The rows of a payload, seen from ``seq`` on; answers how many. ``check`` for those that come from a file."""
        cdef const uint8_t[::1] view
        cdef const uint8_t *at
        cdef long left, n = 0, size
        cdef record *made
        if PyBytes_CheckExact(payload):
            at, left = <const uint8_t *>PyBytes_AS_STRING(payload) + HEAD, PyBytes_GET_SIZE(payload) - HEAD
        else:
            view = payload
            at, left = &view[0] + HEAD, view.shape[0] - HEAD
        if self.format is None:
            self.format = format
        while left > 0:
            if check and not format._whole(at, left):
                raise ValueError("a compact row does not fit its format")
            size = load32(at)
            self._room(1)
            made = self._alloc(size)
            made.seq, made.row, made.compact = seq, <uint32_t>self.rows, 1
            memcpy(bytes_of(made), at, size)
            self.recs[self.rows] = made
            self.rows += 1
            at += size
            left -= size
            n += 1
        self._seen(seq, n)
        return n

    cdef void _seen(self, uint64_t seq, long n) noexcept:
        if n and self.min_seq == 0:
            self.min_seq = seq
        if n:
            self.max_seq = seq

    def skip(self, long n, uint64_t seq):
        """As many rows are in a batch; their keys come with `fill` when somebody asks for one."""
        self._room(n)
        memset(self.recs + self.rows, 0, n * sizeof(record *))
        self.rows += n
        self.waiting += n
        self._seen(seq, n)

    def fill(self, long first, keys, offsets, ops, seqs):
        """The keys of rows that were skipped: int64 (n), or bytes with int32 offsets (n + 1); uint8 and uint64 (n)."""
        cdef const uint8_t[::1] op = ops
        cdef const uint64_t[::1] seq = seqs
        cdef const uint8_t[::1] data
        cdef const int64_t[::1] ints
        cdef const int32_t[::1] ends
        cdef long n = op.shape[0], i, size
        cdef const uint8_t *key
        cdef record *made
        cdef uint8_t *out
        cdef uint8_t none = 0
        if first < 0 or first + n > self.rows or seq.shape[0] != n:
            raise ValueError("rows that were not skipped")
        if offsets is None:
            ints = keys
        else:
            data, ends = keys, offsets
        for i in range(n):
            if self.recs[first + i] != NULL:
                continue
            if offsets is None:
                key, size = <const uint8_t *>&ints[i], 8
            else:
                size = ends[i + 1] - ends[i]
                key = &data[ends[i]] if size else &none
            made = self._alloc(ROW_HEAD + size)
            made.seq, made.row, made.compact = seq[i], <uint32_t>(first + i), 0
            out = bytes_of(made)
            store32(out, <uint32_t>(ROW_HEAD + size))
            store32(out + 4, <uint32_t>size)
            store32(out + 8, op[i])
            memcpy(out + ROW_HEAD, key, size)
            self.recs[first + i] = made
            self.waiting -= 1

    def missing(self, long start):
        """The first rows at or after ``start`` whose keys wait, as (first, behind the last); None where none do."""
        cdef long i = start, j
        while i < self.rows and self.recs[i] != NULL:
            i += 1
        if i >= self.rows:
            return None
        j = i
        while j < self.rows and self.recs[j] == NULL:
            j += 1
        return i, j

    # -- by key ----------------------------------------------------------------------------------

    cdef int _index(self) except -1:
        """Bring the index up to date; every key is there."""
        cdef long i, need
        cdef record *r
        cdef slot *s
        cdef uint8_t *row
        cdef uint32_t size
        if 2 * self.rows > self.size:
            need = max(1024, self.size)
            while need < 3 * self.rows:
                need *= 2
            self._resize(need)
        for i in range(self.indexed, self.rows):
            r = self.recs[i]
            if r == NULL:
                break  # skipped since the last `fill`: rows newer than any that a reader may ask for
            row = bytes_of(r)
            size = load32(row + 4)
            r.hash = hash_bytes(row + ROW_HEAD, size)
            s = self._slot(r.hash, row + ROW_HEAD, size)
            r.before = s.newest
            s.newest, s.hash = r, r.hash
            self.indexed = i + 1
        return 0

    cdef int _resize(self, long size) except -1:
        cdef slot *old = self.slots
        cdef long i, n = self.size, at
        cdef slot *fresh = <slot *>calloc(size, sizeof(slot))
        if fresh == NULL:
            raise MemoryError
        for i in range(n):
            if old[i].newest != NULL:
                at = old[i].hash & (size - 1)
                while fresh[at].newest != NULL:
                    at = (at + 1) & (size - 1)
                fresh[at] = old[i]
        self.slots, self.size = fresh, size
        free(old)
        return 0

    cdef slot *_slot(self, uint64_t hash, const uint8_t *key, uint32_t size) noexcept:
        """The slot of a key, an empty one where it is not there."""
        cdef long at = hash & (self.size - 1)
        cdef uint8_t *row
        while self.slots[at].newest != NULL:
            if self.slots[at].hash == hash:
                row = bytes_of(self.slots[at].newest)
                if load32(row + 4) == size and memcmp(row + ROW_HEAD, key, size) == 0:
                    break
            at = (at + 1) & (self.size - 1)
        return &self.slots[at]

    cdef record *_find(self, const uint8_t *key, uint32_t size, uint64_t snapshot) except? NULL:
        cdef record *r
        if self.rows == 0:
            return NULL
        if self.indexed < self.rows:
            self._index()
        r = self._slot(hash_bytes(key, size), key, size).newest
        while r != NULL and r.seq > snapshot:
            r = r.before
        return r

    def find_many(self, keys, offsets, long limit):
        """int64 (q): the last row below ``limit`` of each key, -1 where none."""
        cdef const uint8_t[::1] data
        cdef const int64_t[::1] ints
        cdef const int32_t[::1] ends
        cdef long n, i, size
        cdef const uint8_t *key
        cdef record *r
        cdef uint8_t none = 0
        if offsets is None:
            ints = keys
            n = ints.shape[0]
        else:
            data, ends = keys, offsets
            n = ends.shape[0] - 1
        out = np.full(n, -1, np.int64)
        cdef int64_t[::1] found = out
        if self.rows == 0:
            return out
        if self.indexed < self.rows:
            self._index()
        for i in range(n):
            if offsets is None:
                key, size = <const uint8_t *>&ints[i], 8
            else:
                size = ends[i + 1] - ends[i]
                key = &data[ends[i]] if size else &none
            r = self._slot(hash_bytes(key, size), key, <uint32_t>size).newest
            while r != NULL and r.row >= limit:
                r = r.before
            if r != NULL:
                found[i] = r.row
        return out

    def lookup(self, key, uint64_t snapshot):
        """(seq, op, row number, the row as a dict, or None where it is a delete or in a batch) of a key's newest version
        that the snapshot sees; None where there is none."""
        cdef int64_t number
        cdef record *r
        cdef const uint8_t *row
        if PyLong_CheckExact(key):
            number = key
            r = self._find(<const uint8_t *>&number, 8, snapshot)
        else:
            r = self._find(<const uint8_t *>PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key), snapshot)
        if r == NULL:
            return None
        row = bytes_of(r)
        return r.seq, row[8], r.row, self.format._row(row) if r.compact and row[8] else None

    # -- as columns ------------------------------------------------------------------------------

    def columns(self, long start, long stop):
        """Rows [start, stop), all compact, column by column: (present uint8 (n), offsets int64 (n + 1) or None, data uint8);
        then their versions uint64 (n) and operations uint8 (n)."""
        cdef RowFormat f = self.format
        cdef long n = stop - start, i, size, total
        cdef int c, bit, b
        cdef const uint8_t *row
        cdef const uint8_t *at
        cdef const uint8_t *bits
        cdef uint8_t[::1] present, data
        cdef int64_t[::1] ends
        cdef bint variable
        seqs, ops = np.empty(n, np.uint64), np.empty(n, np.uint8)
        cdef uint64_t[::1] seq = seqs
        cdef uint8_t[::1] op = ops
        places = np.empty(n, np.uint64)
        cdef uint64_t[::1] place = places
        for i in range(n):
            if self.recs[start + i] == NULL or not self.recs[start + i].compact:
                raise ValueError("rows of a batch among compact ones")
            row = bytes_of(self.recs[start + i])
            seq[i], op[i] = self.recs[start + i].seq, row[8]
            place[i] = <uint64_t><uintptr_t>(row + ROW_HEAD + load32(row + 4) + f.nulls)
        made = []
        bit = 0
        for c in range(f.n):
            variable = f.col[c].code == TEXT or f.col[c].code == BYTES
            flags = np.ones(n, np.uint8)
            present = flags
            offsets = np.zeros(n + 1, np.int64) if variable else None
            if variable:
                ends = offsets
            total = 0 if variable else n * f.col[c].width
            if c == f.key_at:
                if variable:
                    for i in range(n):
                        ends[i + 1] = ends[i] + load32(bytes_of(self.recs[start + i]) + 4)
                    total = ends[n]
                out = np.zeros(total, np.uint8)
                data = out
                for i in range(n):
                    row = bytes_of(self.recs[start + i])
                    if variable and ends[i + 1] > ends[i]:
                        memcpy(&data[ends[i]], row + ROW_HEAD, ends[i + 1] - ends[i])
                    elif not variable:
                        memcpy(&data[i * f.col[c].width], row + ROW_HEAD, f.col[c].width)
                made.append((flags, offsets, out))
                continue
            for i in range(n):
                row = bytes_of(self.recs[start + i])
                bits = row + ROW_HEAD + load32(row + 4)
                present[i] = bits[bit >> 3] >> (bit & 7) & 1
                if variable:
                    ends[i + 1] = ends[i] + (load32(<const uint8_t *><uintptr_t>place[i]) if present[i] else 0)
            if variable:
                total = ends[n]
            out = np.zeros(total, np.uint8)
            data = out
            for i in range(n):
                if not present[i]:
                    continue
                at = <const uint8_t *><uintptr_t>place[i]
                size = f.col[c].width
                if variable:
                    size = load32(at)
                    at += 4
                if size:
                    memcpy(&data[ends[i] if variable else i * size], at, size)
                place[i] = <uint64_t><uintptr_t>(at + size)
            bit += 1
            made.append((flags, offsets, out))
        return made, seqs, ops


def distinct(keys, offsets):
    """Whether no key is there twice: int64 (n), or bytes with int32 offsets (n + 1). O(n); a wrong "twice" costs a sort."""
    cdef const uint8_t[::1] data
    cdef const int64_t[::1] ints
    cdef const int32_t[::1] ends
    cdef long n, i, size = 1024, at
    cdef uint64_t hash
    cdef uint64_t *seen
    cdef uint8_t none = 0
    cdef bint twice = False, whole_numbers = offsets is None
    if offsets is None:
        ints = keys
        n = ints.shape[0]
    else:
        data, ends = keys, offsets
        n = ends.shape[0] - 1
    if offsets is None:
        i = 1
        while i < n and ints[i - 1] < ints[i]:
            i += 1
        if i >= n:
            return True
    while size < 2 * n:
        size *= 2
    seen = <uint64_t *>calloc(size, sizeof(uint64_t))
    if seen == NULL:
        raise MemoryError
    with nogil:
        for i in range(n):
            if whole_numbers:
                hash = mix64(<uint64_t>ints[i])
            else:
                hash = hash_bytes(&data[ends[i]] if ends[i + 1] > ends[i] else &none, ends[i + 1] - ends[i])
            hash |= hash == 0
            at = hash & (size - 1)
            while seen[at] != 0 and seen[at] != hash:
                at = (at + 1) & (size - 1)
            if seen[at] == hash:
                twice = True
                break
            seen[at] = hash
    free(seen)
    return not twice


# -- rows in batches ------------------------------------------------------------------------------


cdef struct lane:
    int code, offset_width
    long width
    const uint8_t *data
    long size  # bytes of data
    const uint8_t *offsets
    const uint8_t *valid
    long first  # bits before row 0 in `valid`, and in `data` of bool


cdef class BatchRows:
    """One Arrow batch, its keys sorted where it is of a file; ``guard`` is (good uint8 (chunks), bytes a chunk, base, check, path) or None."""

    cdef long n, key_bytes, chunk, base
    cdef bint ints
    cdef const uint8_t *keys
    cdef const int32_t *ends
    cdef const uint64_t *seqs
    cdef const uint8_t *ops
    cdef lane *lanes
    cdef int lane_count
    cdef tuple names, extras
    cdef object keep, check, good, path
    cdef const uint8_t[::1] flags

    def __cinit__(self, long n, keys, uint64_t seqs, uint64_t ops, lanes, guard, keep):
        cdef int i
        self.n, self.keep, self.lane_count = n, keep, len(lanes)
        self.ints, key_data, self.key_bytes, key_ends = keys
        self.keys, self.ends = <const uint8_t *><uintptr_t><uint64_t>key_data, <const int32_t *><uintptr_t><uint64_t>key_ends
        self.seqs, self.ops = <const uint64_t *><uintptr_t>seqs, <const uint8_t *><uintptr_t>ops
        self.lanes = <lane *>calloc(self.lane_count + 1, sizeof(lane))
        if self.lanes == NULL:
            raise MemoryError
        names, extras = [], []
        for i, (name, code, width, data, size, offsets, offset_width, valid, first, extra) in enumerate(lanes):
            self.lanes[i] = lane(
                code, offset_width, width, <const uint8_t *><uintptr_t><uint64_t>data, size,
                <const uint8_t *><uintptr_t><uint64_t>offsets, <const uint8_t *><uintptr_t><uint64_t>valid, first,
            )
            names.append(name)
            extras.append(extra)
        self.names, self.extras = tuple(names), tuple(extras)
        if guard is not None:
            self.good, self.chunk, self.base, self.check, self.path = guard
            self.flags = self.good

    def __dealloc__(self):
        free(self.lanes)

    cdef int _compare(self, long i, const uint8_t *key, long size, int64_t number) except -2:
        """The key of row i against one: -1, 0 or 1."""
        cdef long start, stop, have
        cdef int c
        cdef int64_t here
        if self.ints:
            here = (<const int64_t *>self.keys)[i]
            return (here > number) - (here < number)
        start, stop = self.ends[i], self.ends[i + 1]
        if not 0 <= start <= stop <= self.key_bytes:
            raise CorruptionError("offsets of the key column lie outside its bytes", self.path)
        have = stop - start
        c = memcmp(self.keys + start, key, min(have, size))
        return (c > 0) - (c < 0) if c else (have > size) - (have < size)

    cdef long lower(self, const uint8_t *key, long size, int64_t number) except -1:
        cdef long low = 0, n = self.n, half
        while n > 0:
            half = n >> 1
            if self._compare(low + half, key, size, number) < 0:
                low += half + 1
                n -= half + 1
            else:
                n = half
        return low

    cdef int _checked(self, const uint8_t *at, long size) except -1:
        """The chunks under these bytes of a file were found right, now or before."""
        cdef long start, c
        if self.check is None or size <= 0:
            return 0
        start = <long><uintptr_t>at - self.base
        for c in range(start // self.chunk, (start + size - 1) // self.chunk + 1):
            if not self.flags[c]:
                self.check(start, start + size)
                return 0
        return 0

    def row(self, long i):
        """Row i as a dict."""
        if not 0 <= i < self.n:
            raise IndexError(i)
        return self._row(i)

    cdef dict _row(self, long i):
        cdef dict made = {}
        cdef lane *c
        cdef int k
        cdef int64_t start, stop
        cdef uint8_t bit
        for k in range(self.lane_count):
            c = &self.lanes[k]
            if c.code == OTHER:
                value = self.extras[k](i)
            elif c.valid != NULL and not c.valid[(c.first + i) >> 3] >> ((c.first + i) & 7) & 1:
                value = None
            elif c.code == BOOL:
                self._checked(c.data + ((c.first + i) >> 3), 1)
                bit = c.data[(c.first + i) >> 3] >> ((c.first + i) & 7) & 1
                value = bit != 0
            elif c.offsets != NULL:
                if c.offset_width == 4:
                    start, stop = (<const int32_t *>c.offsets)[i], (<const int32_t *>c.offsets)[i + 1]
                else:
                    start, stop = (<const int64_t *>c.offsets)[i], (<const int64_t *>c.offsets)[i + 1]
                if not 0 <= start <= stop <= c.size:
                    raise CorruptionError(f"offsets of column {self.names[k]!r} lie outside its bytes", self.path)
                self._checked(c.data + start, stop - start)
                value = decoded(c.code, c.width, c.data + start, stop - start, None)
            else:
                self._checked(c.data + i * c.width, c.width)
                value = decoded(c.code, c.width, c.data + i * c.width, c.width, self.extras[k])
            PyDict_SetItem(made, self.names[k], value)
        return made


cdef class FileRows:
    """The batches of a table file by key: ``load(i)`` makes one, at its first use. ``bloom`` is (bits, probes, blocked) or None;
    ``starts`` the number of each batch's first row, ``tell`` is told what was sought."""

    cdef object load, bits
    cdef list batches, firsts, lasts
    cdef const uint8_t[::1] bloom
    cdef int probes
    cdef bint blocked, ints
    cdef int64_t *last_ints
    cdef int64_t *starts
    cdef long n, sought, passed, met
    cdef object tell, __weakref__

    def __cinit__(self, bint ints, list firsts, list lasts, bloom, load, starts, tell):
        cdef long i
        self.tell = tell
        self.ints, self.firsts, self.lasts, self.load, self.n = ints, firsts, lasts, load, len(lasts)
        self.batches = [None] * self.n
        if bloom is not None:
            self.bits, self.probes, self.blocked = bloom
            self.bloom = self.bits
        self.last_ints = <int64_t *>malloc((self.n + 1) * sizeof(int64_t))
        self.starts = <int64_t *>malloc((self.n + 1) * sizeof(int64_t))
        if self.last_ints == NULL or self.starts == NULL:
            raise MemoryError
        for i in range(self.n):
            self.starts[i] = starts[i]
        for i in range(self.n if ints else 0):
            self.last_ints[i] = lasts[i]

    def __dealloc__(self):
        free(self.last_ints)
        free(self.starts)

    def report(self):
        """Tell how many keys were sought since the last time, how many the filter let through, and how many were there."""
        sought, passed, met = self.sought, self.passed, self.met
        self.sought = self.passed = self.met = 0
        if sought:
            self.tell(sought, passed, met)

    def __del__(self):
        self.report()

    cdef bint _below_first(self, const uint8_t *key, long size, int64_t number) noexcept:
        cdef long have
        cdef int c
        if self.ints:
            return number < <int64_t>self.firsts[0]
        have = PyBytes_GET_SIZE(self.firsts[0])
        c = memcmp(PyBytes_AS_STRING(self.firsts[0]), key, min(have, size))
        return c > 0 or (c == 0 and have > size)

    cdef bint _may_hold(self, uint64_t h) noexcept:
        """The filter's answer; the same arithmetic as the kernels' ``bloom_test`` and ``block_bloom_test``."""
        cdef uint64_t size, step, start, bit
        cdef uint32_t a, b, at
        cdef int p
        if self.blocked:
            start = ((h >> 32) * <uint64_t>(self.bloom.shape[0] // 64) >> 32) * 64
            a = <uint32_t>h
            b = ((a << 15) | (a >> 17)) | 1
            for p in range(self.probes):
                at = a >> 23
                if not (self.bloom[start + (at >> 3)] >> (at & 7)) & 1:
                    return False
                a = a + b
            return True
        size = <uint64_t>self.bloom.shape[0] * 8
        step = ((h >> 32) | (h << 32)) | 1
        for p in range(self.probes):
            bit = h % size
            if not (self.bloom[bit >> 3] >> (bit & 7)) & 1:
                return False
            h = h + step
        return True

    cdef long _place(self, const uint8_t *key, long size, int64_t number) noexcept:
        """The first batch whose last key is not below the key."""
        cdef long low = 0, n = self.n, half, have
        cdef int c
        while n > 0:
            half = n >> 1
            if self.ints:
                c = -1 if self.last_ints[low + half] < number else 0
            else:
                have = PyBytes_GET_SIZE(self.lasts[low + half])
                c = memcmp(PyBytes_AS_STRING(self.lasts[low + half]), key, min(have, size))
                if c == 0 and have < size:
                    c = -1
            if c < 0:
                low += half + 1
                n -= half + 1
            else:
                n = half
        return low

    cdef BatchRows find(self, const uint8_t *key, long size, int64_t number, uint64_t hash, uint64_t snapshot, long *row, long *number_of):
        """The batch, its row and the row's number of the newest version that the snapshot sees; None where there is none."""
        cdef long i, at
        cdef BatchRows batch
        i = self._place(key, size, number)
        if i >= self.n or self._below_first(key, size, number):
            return None
        self.sought += 1
        if self.bits is not None and not self._may_hold(hash):
            return None
        self.passed += 1
        while i < self.n:
            batch = self.batches[i]
            if batch is None:
                batch = self.batches[i] = self.load(i)
            at = batch.lower(key, size, number)
            while at < batch.n and batch._compare(at, key, size, number) == 0:
                if batch.seqs[at] <= snapshot:
                    self.met += 1
                    row[0], number_of[0] = at, self.starts[i] + at
                    return batch
                at += 1
            if at < batch.n:
                return None
            i += 1  # versions of one key may go on in the next batch
        return None


cdef class Points:
    """One key in every source of a table, newest first. See plain.py."""

    cdef RowFormat format
    cdef object scalar
    cdef list sources, tables, files

    def __cinit__(self, RowFormat format, scalar, sources):
        self.format, self.scalar, self.sources = format, scalar, list(sources)
        self.tables = [s.table for s in self.sources]
        self.files = [None] * len(self.sources)

    def get(self, key, uint64_t snapshot):
        """The row as a dict, or None."""
        return self._find(key, snapshot, 0)

    def has(self, key, uint64_t snapshot):
        """Whether there is a row."""
        return self._find(key, snapshot, 1) is not None

    def newest(self, key):
        """The version of the newest row or delete of an encoded key; 0 where there is none."""
        found = self._encoded(key, <uint64_t>-1, 2)
        return 0 if found is None else found

    cdef object _find(self, key, uint64_t snapshot, int what):
        cdef int64_t number = 0
        cdef const char *data = NULL
        cdef Py_ssize_t size = 0
        if self.format is not None and self.format._key(key, &number, &data, &size):
            return self._look(<const uint8_t *>data, size, number, snapshot, what, key)
        return self._encoded(self.scalar(key), snapshot, what)

    cdef object _encoded(self, key, uint64_t snapshot, int what):
        cdef int64_t number
        if PyLong_CheckExact(key):
            number = key
            return self._look(<const uint8_t *>&number, 8, number, snapshot, what, key)
        return self._look(<const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), 0, snapshot, what, key)

    cdef object _look(self, const uint8_t *key, long size, int64_t number, uint64_t snapshot, int what, given):
        cdef long i, row = 0, place = 0
        cdef RowTable table
        cdef record *r
        cdef FileRows file
        cdef BatchRows batch
        cdef uint64_t hash = 0
        cdef bint hashed = False
        cdef bint ints = self.format.key_is_int
        for i in range(len(self.sources)):
            if self.tables[i] is not None:
                table = <RowTable>self.tables[i]
                while table.waiting:
                    self.sources[i].fill()
                r = table._find(key, <uint32_t>size, snapshot)
                if r == NULL:
                    continue
                if what == 2:
                    return r.seq
                if not bytes_of(r)[8]:
                    return None
                if what == 1:
                    return True
                return table.format._row(bytes_of(r)) if r.compact else self.sources[i].batch_row(r.row)
            files = self.files[i]
            if files is None:
                files = self.files[i] = self.sources[i].points()
            if files is False:
                # a kind of memtable, or a file of an older schema, that only Arrow reads
                encoded = number if ints else PyBytes_FromStringAndSize(<const char *>key, size)
                found = self.sources[i].lookup(encoded, snapshot)
                if found is None:
                    continue
                seq, op, made = found
                return seq if what == 2 else None if not op else True if what == 1 else made()
            if not hashed:
                hash = mix64(<uint64_t>number + <uint64_t>0x9E3779B97F4A7C15) if ints else hash_bytes(key, size)
                hashed = True
            for item in <tuple>files:
                file = <FileRows>item
                batch = file.find(key, size, number, hash, snapshot, &row, &place)
                if batch is None:
                    continue
                if what == 2:
                    return batch.seqs[row]
                if not batch.ops[row]:
                    return None
                return True if what == 1 else batch._row(row)
        return None

    def locate(self, keys, offsets, uint64_t snapshot):
        """(source, row number) int64 (q) of encoded keys, given as int64 (q) or bytes with int32 offsets (q + 1); source -1 where there
        is no row. None where a source is one that only Arrow reads."""
        cdef const uint8_t[::1] data
        cdef const int64_t[::1] ints
        cdef const int32_t[::1] ends
        cdef long n, i, k, size = 8, row = 0, place = 0
        cdef const uint8_t *key
        cdef uint8_t none = 0
        cdef int64_t number = 0
        cdef uint64_t hash
        cdef bint whole = offsets is None, found
        cdef long count = len(self.sources)
        cdef record *r
        cdef RowTable table
        cdef FileRows file
        cdef BatchRows batch
        for k in range(count):
            if self.tables[k] is not None:
                if (<RowTable>self.tables[k]).waiting:
                    self.sources[k].fill()
                continue
            if self.files[k] is None:
                self.files[k] = self.sources[k].points()
            if self.files[k] is False:
                return None
        if whole:
            ints = keys
            n = ints.shape[0]
        else:
            data, ends = keys, offsets
            n = ends.shape[0] - 1
        owners, numbers = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        cdef int64_t[::1] owner = owners
        cdef int64_t[::1] at = numbers
        for i in range(n):
            if whole:
                number = ints[i]
                key = <const uint8_t *>&ints[i]
                hash = mix64(<uint64_t>number + <uint64_t>0x9E3779B97F4A7C15)
            else:
                size = ends[i + 1] - ends[i]
                key = &data[ends[i]] if size else &none
                hash = hash_bytes(key, size)
            found = False
            for k in range(count):
                if self.tables[k] is not None:
                    table = <RowTable>self.tables[k]
                    r = table._find(key, <uint32_t>size, snapshot)
                    if r != NULL:
                        found = True
                        if bytes_of(r)[8]:
                            owner[i], at[i] = k, r.row
                else:
                    for item in <tuple>self.files[k]:
                        file = <FileRows>item
                        batch = file.find(key, size, number, hash, snapshot, &row, &place)
                        if batch is not None:
                            found = True
                            if batch.ops[row]:
                                owner[i], at[i] = k, place
                            break
                if found:
                    break
        return owners, numbers
