"""How a row lies in a log record and in memory."""



cdef struct cell:
    const uint8_t *at  # NULL: no value
    long size


cdef inline bint is_text(int code) noexcept nogil:
    return code == TEXT or code == BYTES


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
        cdef long sizes[MOST]
        cdef PyObject *values[MOST]
        cdef int64_t number
        cdef const char *key_data = NULL
        cdef Py_ssize_t key_size = 0, size = 0, used = 0, total
        cdef PyObject *found
        cdef int i, bit = 0
        cdef uint8_t *out
        cdef uint8_t *bits
        if self.n > MOST or not (row is None or PyDict_CheckExact(row)):
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
                if is_text(self.col[i].code):
                    size = load32(at)
                    at += 4
                value = self._value(i, at, size)
                at += size
            bit += 1
            if self.col[i].shown:
                PyDict_SetItem(made, self.names[i], value)
        return made

    cdef void _cells(self, const uint8_t *row, const int *slots, cell *out) noexcept nogil:
        """Where the values of a compact row lie: those of column i at ``out[slots[i]]``, unless that is negative."""
        cdef long key_size = load32(row + 4), size
        cdef const uint8_t *bits = row + ROW_HEAD + key_size
        cdef const uint8_t *at = bits + self.nulls
        cdef int i, bit = 0
        for i in range(self.n):
            if i == self.key_at:
                if slots[i] >= 0:
                    out[slots[i]] = cell(row + ROW_HEAD, key_size if is_text(self.col[i].code) else self.col[i].width)
                continue
            if bits[bit >> 3] >> (bit & 7) & 1:
                size = self.col[i].width
                if is_text(self.col[i].code):
                    size = load32(at)
                    at += 4
                if slots[i] >= 0:
                    out[slots[i]] = cell(at, size)
                at += size
            elif slots[i] >= 0:
                out[slots[i]] = cell(NULL, 0)
            bit += 1

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
                if is_text(self.col[i].code):
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
