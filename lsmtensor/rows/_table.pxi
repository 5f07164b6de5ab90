"""Rows in memory, by number, by key, and in the order of their keys."""



cdef struct record:
    record *before  # the row of the same key before this one
    uint64_t seq
    uint64_t hash
    uint32_t row
    uint32_t compact  # 0: the key alone, the row is in a batch


cdef struct place:
    PyObject *batch  # a `BatchRows` that somebody holds, or NULL
    record *rec  # a row in memory, or NULL
    long row  # in the batch
    long number  # in its source
    long source  # -1 where there is no row


cdef struct query:
    place *place
    const uint8_t *key
    long size
    int64_t number
    uint64_t hash  # of filters
    uint64_t hash_here  # of memtables
    long in_batch, low, high


cdef struct slot:
    record *newest
    uint64_t hash


cdef inline uint8_t *bytes_of(record *r) noexcept nogil:
    return <uint8_t *>(r + 1)


cdef struct entry:
    uint64_t leading
    record *rec


cdef int by_int(const void *a, const void *b) noexcept nogil:
    cdef entry *x = <entry *>a
    cdef entry *y = <entry *>b
    if x.leading != y.leading:
        return -1 if x.leading < y.leading else 1
    return -1 if x.rec.row > y.rec.row else x.rec.row < y.rec.row


cdef int by_key(const void *a, const void *b) noexcept nogil:
    cdef entry *x = <entry *>a
    cdef entry *y = <entry *>b
    cdef uint32_t n, m
    cdef int c
    if x.leading != y.leading:
        return -1 if x.leading < y.leading else 1
    n, m = load32(bytes_of(x.rec) + 4), load32(bytes_of(y.rec) + 4)
    c = memcmp(bytes_of(x.rec) + ROW_HEAD, bytes_of(y.rec) + ROW_HEAD, min(n, m))
    if c == 0:
        c = (n > m) - (n < m)
    return c if c else -1 if x.rec.row > y.rec.row else x.rec.row < y.rec.row


cdef class SortedRows:
    """Rows of a `RowTable`, sorted."""

    cdef entry *rows
    cdef long n

    def __cinit__(self, long n):
        self.n = n
        self.rows = <entry *>malloc(max(1, n) * sizeof(entry))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.rows)


cdef SortedRows merged(SortedRows a, SortedRows b, bint ints):
    cdef SortedRows made = SortedRows(a.n + b.n)
    cdef long i = 0, j = 0, k
    for k in range(made.n):
        if j >= b.n or (i < a.n and (by_int if ints else by_key)(&a.rows[i], &b.rows[j]) < 0):
            made.rows[k] = a.rows[i]
            i += 1
        else:
            made.rows[k] = b.rows[j]
            j += 1
    return made


cdef class RowTable:
    cdef readonly RowFormat format
    cdef readonly long rows, nbytes, waiting, min_seq, max_seq
    cdef bint ints
    cdef list runs
    cdef long sorted
    cdef record **recs
    cdef slot *slots
    cdef long room, indexed, size
    cdef char **blocks
    cdef long block_count, left
    cdef char *free_at

    def __cinit__(self):
        self.runs = []

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
        if PyBytes_CheckExact(payload):
            return self._append(format, payload, seq, check)
        view = payload
        return self._rows_of(format, &view[0] + HEAD, view.shape[0] - HEAD, seq, check)

    cdef long _append(self, RowFormat format, bytes payload, uint64_t seq, bint check) except -1:
        return self._rows_of(format, <const uint8_t *>PyBytes_AS_STRING(payload) + HEAD, PyBytes_GET_SIZE(payload) - HEAD, seq, check)

    cdef long _rows_of(self, RowFormat format, const uint8_t *at, long left, uint64_t seq, bint check) except -1:
        cdef long n = 0, size
        cdef record *made
        if self.format is None:
            self.format, self.ints = format, format.key_is_int
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
            ints, self.ints = keys, True
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

    cdef int find_group(self, query *asked, int n, uint64_t snapshot) except -1:
        """`_find` for some keys side by side: while one waits for memory, the others go on. Sets ``place`` of those that are found."""
        cdef int g
        cdef record *r
        cdef query *q
        if self.rows == 0:
            return 0
        if self.indexed < self.rows:
            self._index()
        for g in range(n):
            q = &asked[g]
            q.hash_here = hash_bytes(q.key, q.size)
            fetch(&self.slots[q.hash_here & (self.size - 1)])
        for g in range(n):
            r = self.slots[asked[g].hash_here & (self.size - 1)].newest
            if r != NULL:
                fetch(r)
                fetch(bytes_of(r) + 40)
        for g in range(n):
            q = &asked[g]
            r = self._slot(q.hash_here, q.key, <uint32_t>q.size).newest
            while r != NULL and r.seq > snapshot:
                r = r.before
            if r != NULL:
                q.place.rec, q.place.number = r, r.row
        return 0

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
        """Rows [start, stop), all compact, column by column: (validity uint8 or None, offsets (n + 1) or None, data uint8), Arrow's
        buffers; then their versions uint64 (n) and operations uint8 (n)."""
        cdef RowFormat f = self.format
        cdef long n = stop - start, i
        cdef int slots[MOST]
        cdef const uint8_t *row
        cdef cnp.ndarray seqs = fresh(n, cnp.NPY_UINT64, False), ops = fresh(n, cnp.NPY_UINT8, False)
        cdef cell *cells = <cell *>malloc(max(1, n * f.n) * sizeof(cell))
        if cells == NULL:
            raise MemoryError
        try:
            for i in range(f.n):
                slots[i] = <int>i
            for i in range(n):
                if self.recs[start + i] == NULL or not self.recs[start + i].compact:
                    raise ValueError("rows of a batch among compact ones")
                row = bytes_of(self.recs[start + i])
                (<uint64_t *>cnp.PyArray_DATA(seqs))[i] = self.recs[start + i].seq
                (<uint8_t *>cnp.PyArray_DATA(ops))[i] = row[8]
                f._cells(row, slots, &cells[i * f.n])
            made = gathered(f, list(range(f.n)), n, cells)
        finally:
            free(cells)
        if made is None:
            raise ValueError(f"compact rows {start} to {stop} have more bytes in a column than its offsets can say")
        return made, seqs, ops

    # -- in order --------------------------------------------------------------------------------

    cdef int _sort(self) except -1:
        """Every row is in a run of ``self.runs``, sorted by key, then newest first; few runs, each more than twice the next."""
        cdef SortedRows made
        cdef long i, n = self.rows - self.sorted
        if n <= 0:
            return 0
        made = SortedRows(n)
        for i in range(n):
            if self.recs[self.sorted + i] == NULL:
                made.n = i
                break  # skipped since the last `fill`, as in `_index`
            made.rows[i] = entry(self._leading(self.recs[self.sorted + i]), self.recs[self.sorted + i])
        if made.n == 0:
            return 0
        self.sorted += made.n
        qsort(made.rows, made.n, sizeof(entry), by_int if self.ints else by_key)
        runs = list(self.runs)
        while runs and (<SortedRows>runs[len(runs) - 1]).n < 2 * made.n:
            made = merged(<SortedRows>runs.pop(), made, self.ints)
        runs.append(made)
        self.runs = runs  # whoever walks the old ones goes on with them

    cdef inline uint64_t _leading(self, record *r) noexcept nogil:
        cdef const uint8_t *row = bytes_of(r)
        return leading_int(<int64_t>load64(row + ROW_HEAD)) if self.ints else leading(row + ROW_HEAD, load32(row + 4))


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
                # with its length: the filters' hash of b"" and b"\1" is one
                hash = hash_bytes(&data[ends[i]] if ends[i + 1] > ends[i] else &none, ends[i + 1] - ends[i]) ^ mix64(ends[i + 1] - ends[i])
            hash |= <uint64_t>1 << 63  # 0 is a free place
            at = hash & (size - 1)
            while seen[at] != 0 and seen[at] != hash:
                at = (at + 1) & (size - 1)
            if seen[at] == hash:
                twice = True
                break
            seen[at] = hash
    free(seen)
    return not twice
