"""Values from wherever they lie to the buffers of Arrow arrays."""


cdef list gathered(RowFormat format, list wanted, long n, const cell *cells):
    """The values of columns ``wanted``, those of row i at ``cells[i * len(wanted)]``, as Arrow's buffers: (validity or None, offsets or
    None, data) of each; None where the bytes of one pass what its offsets can say."""
    cdef long count = len(wanted), i, k, size, total, nulls
    cdef const cell *c
    cdef uint8_t *valid
    cdef uint8_t *out
    cdef int32_t *ends
    cdef int64_t *wide
    cdef column_t *column
    cdef list made = []
    cdef cnp.ndarray validity, offsets, data
    for k in range(count):
        column = &format.col[<int>wanted[k]]
        nulls = total = 0
        for i in range(n):
            nulls += cells[i * count + k].at == NULL
            total += cells[i * count + k].size
        validity = offsets = None
        if nulls:
            validity = fresh((n + 7) // 8, cnp.NPY_UINT8, True)
            valid = <uint8_t *>cnp.PyArray_DATA(validity)
            for i in range(n):
                valid[i >> 3] |= <uint8_t>((cells[i * count + k].at != NULL) << (i & 7))
        ends, wide = NULL, NULL
        if is_text(column.code):
            if column.width == 4 and total > 0x7FFFFFFF:
                return None
            offsets = fresh(n + 1, cnp.NPY_INT32 if column.width == 4 else cnp.NPY_INT64, False)
            if column.width == 4:
                ends = <int32_t *>cnp.PyArray_DATA(offsets)
            else:
                wide = <int64_t *>cnp.PyArray_DATA(offsets)
            size = total
        else:
            size = (n + 7) // 8 if column.code == BOOL else n * column.width
        data = fresh(size, cnp.NPY_UINT8, nulls or column.code == BOOL)
        out = <uint8_t *>cnp.PyArray_DATA(data)
        with nogil:
            if column.code == BOOL:
                for i in range(n):
                    c = &cells[i * count + k]
                    if c.at != NULL and c.at[0]:
                        out[i >> 3] |= <uint8_t>(1 << (i & 7))
            elif ends == NULL and wide == NULL:
                for i in range(n):
                    if i + AHEAD < n:
                        fetch(cells[(i + AHEAD) * count + k].at)
                    c = &cells[i * count + k]
                    if c.at != NULL:
                        memcpy(out + i * column.width, c.at, column.width)
            else:
                total = 0
                for i in range(n):
                    if i + AHEAD < n:
                        fetch(cells[(i + AHEAD) * count + k].at)
                        fetch(cells[(i + AHEAD) * count + k].at + 64)
                    c = &cells[i * count + k]
                    if ends != NULL:
                        ends[i] = <int32_t>total
                    else:
                        wide[i] = total
                    if c.size:
                        memcpy(out + total, c.at, c.size)
                    total += c.size
                if ends != NULL:
                    ends[n] = <int32_t>total
                else:
                    wide[n] = total
        made.append((validity, offsets, data))
    return made


cdef cnp.ndarray fresh(long n, int kind, bint zeros):
    """A numpy array (n,)."""
    cdef cnp.npy_intp size = n
    return cnp.PyArray_ZEROS(1, &size, kind, 0) if zeros else cnp.PyArray_EMPTY(1, &size, kind, 0)
