"""Rows in Arrow batches, those of table files sorted by key."""



cdef struct lane:
    int code, offset_width
    long width
    const uint8_t *data
    long size  # bytes of data
    const uint8_t *offsets
    const uint8_t *valid
    long first  # bits before row 0 in `valid`, and in `data` of bool


cdef uint8_t TRUTH[2]
TRUTH[0], TRUTH[1] = 0, 1


cdef inline int compared(const uint8_t *a, long n, const uint8_t *b, long m) noexcept nogil:
    """One key against another: -1, 0 or 1."""
    cdef int c = memcmp(a, b, min(n, m))
    return (c > 0) - (c < 0) if c else (n > m) - (n < m)


cdef class BatchRows:
    """One Arrow batch, its keys sorted where it is of a file; ``guard`` is (good uint8 (chunks), bytes a chunk, base, check, path) or None.

    Of a file's keys every ``STEP``-th is in a fence, by its first bytes behind those that all keys share: a search takes the fence,
    which stays in the processor's cache, and then a few rows that lie together.
    """

    cdef long n, key_bytes, chunk, base, shared, uniform, fences
    cdef bint ints, plain
    cdef const uint8_t *keys
    cdef const int32_t *ends
    cdef const uint64_t *seqs
    cdef const uint8_t *ops
    cdef uint64_t *fence
    cdef uint64_t newest
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
        if n and self.seqs != NULL:
            self._survey()

    def __dealloc__(self):
        free(self.lanes)
        free(self.fence)

    cdef int _survey(self) except -1:
        """One look at all keys, versions and operations: what a search need not ask row by row."""
        cdef long i, size
        self.plain = True
        for i in range(self.n):
            self.newest = max(self.newest, self.seqs[i])
            self.plain &= self.ops[i] != 0
        if not self.ints:
            self.uniform = self.ends[1] - self.ends[0]
            for i in range(self.n):
                size = self.ends[i + 1] - self.ends[i]
                if self.ends[i] < 0 or size < 0 or self.ends[i + 1] > self.key_bytes:
                    raise CorruptionError("offsets of the key column lie outside its bytes", self.path)
                if size != self.uniform:
                    self.uniform = 0
            size = min(self.ends[1] - self.ends[0], self.ends[self.n] - self.ends[self.n - 1])
            while self.shared < size and self.keys[self.ends[0] + self.shared] == self.keys[self.ends[self.n - 1] + self.shared]:
                self.shared += 1
        self.fences = (self.n + STEP - 1) // STEP
        self.fence = <uint64_t *>malloc(self.fences * sizeof(uint64_t))
        if self.fence == NULL:
            raise MemoryError
        for i in range(self.fences):
            self.fence[i] = self._leading(i * STEP)
        return 0

    cdef inline const uint8_t *_key(self, long i, long *size) noexcept nogil:
        cdef long start
        if self.ints:
            size[0] = 8
            return self.keys + 8 * i
        if self.uniform:
            size[0] = self.uniform
            return self.keys + self.ends[0] + i * self.uniform
        start = self.ends[i]
        size[0] = self.ends[i + 1] - start
        return self.keys + start

    cdef inline uint64_t _leading(self, long i) noexcept nogil:
        """The first bytes of a key behind those that all share."""
        cdef long size
        cdef const uint8_t *at = self._key(i, &size)
        return leading_int(<int64_t>load64(at)) if self.ints else leading(at + self.shared, size - self.shared)

    cdef inline int _compare(self, long i, const uint8_t *key, long size, int64_t number) noexcept nogil:
        """The key of row i against one: -1, 0 or 1."""
        cdef int64_t here
        cdef long have
        cdef const uint8_t *at
        if self.ints:
            here = (<const int64_t *>self.keys)[i]
            return (here > number) - (here < number)
        at = self._key(i, &have)
        return compared(at, have, key, size)

    cdef void _between(self, const uint8_t *key, long size, int64_t number, long *low, long *high) noexcept nogil:
        """The least row whose key is not below the one sought is in [low, high]."""
        cdef uint64_t lead
        cdef long at, n, half
        cdef int c = 0
        low[0], high[0] = 0, self.n
        if self.ints:
            lead = leading_int(number)
        else:
            if self.shared:
                c = compared(self.keys + self.ends[0], self.shared, key, min(size, self.shared))
            if c or size < self.shared:
                low[0] = high[0] = self.n if c < 0 else 0
                return
            lead = leading(key + self.shared, size - self.shared)
        at, n = 0, self.fences
        while n > 1:
            half = n >> 1
            at += half if self.fence[at + half - 1] < lead else 0
            n -= half
        at += self.fence[at] < lead
        if at:
            low[0] = (at - 1) * STEP + 1
        if at < self.fences and self.fence[at] == lead:  # keys that differ later
            n = self.fences - at
            while n > 0:
                half = n >> 1
                if self.fence[at + half] == lead:
                    at += half + 1
                    n -= half + 1
                else:
                    n = half
        if at < self.fences:
            high[0] = at * STEP

    cdef long _lower(self, long low, long high, const uint8_t *key, long size, int64_t number) noexcept nogil:
        cdef long n = high - low, half
        while n > 0:
            half = n >> 1
            if self._compare(low + half, key, size, number) < 0:
                low += half + 1
                n -= half + 1
            else:
                n = half
        return low

    cdef long lower(self, const uint8_t *key, long size, int64_t number) noexcept nogil:
        cdef long low, high
        self._between(key, size, number, &low, &high)
        return self._lower(low, high, key, size, number)

    cdef bint laned(self, const int *slots) noexcept:
        """Whether the values of these columns can be found here."""
        cdef int k
        for k in range(self.lane_count):
            if slots[k] >= 0 and self.lanes[k].code == OTHER:
                return False
        return True

    cdef void _ahead(self, long i) noexcept nogil:
        """Fetch what `_cells` of a row looks at first."""
        cdef int k
        for k in range(self.lane_count):
            if self.lanes[k].offsets != NULL:
                fetch(self.lanes[k].offsets + i * self.lanes[k].offset_width)

    cdef int _cells(self, long i, const int *slots, cell *out) except -1:
        """Where the values of a row lie, checked: that of column k at ``out[slots[k]]``, unless that is negative."""
        cdef lane *c
        cdef int k
        cdef int64_t start, stop
        for k in range(self.lane_count):
            if slots[k] < 0:
                continue
            c = &self.lanes[k]
            if c.valid != NULL and not c.valid[(c.first + i) >> 3] >> ((c.first + i) & 7) & 1:
                out[slots[k]] = cell(NULL, 0)
                continue
            if c.code == BOOL:
                self._checked(c.data + ((c.first + i) >> 3), 1)
                out[slots[k]] = cell(&TRUTH[c.data[(c.first + i) >> 3] >> ((c.first + i) & 7) & 1], 1)
                continue
            if c.offsets != NULL:
                self._span(k, i, &start, &stop)
            else:
                start, stop = i * c.width, (i + 1) * c.width
            self._checked(c.data + start, stop - start)
            out[slots[k]] = cell(c.data + start, stop - start)
            if stop == start:
                out[slots[k]].at = TRUTH  # not NULL, which is no value
        return 0

    cdef int _span(self, int k, long i, int64_t *start, int64_t *stop) except -1:
        """Where a text of a row begins and ends in its column's bytes."""
        cdef lane *c = &self.lanes[k]
        if c.offset_width == 4:
            start[0], stop[0] = (<const int32_t *>c.offsets)[i], (<const int32_t *>c.offsets)[i + 1]
        else:
            start[0], stop[0] = (<const int64_t *>c.offsets)[i], (<const int64_t *>c.offsets)[i + 1]
        if not 0 <= start[0] <= stop[0] <= c.size:
            raise CorruptionError(f"offsets of column {self.names[k]!r} lie outside its bytes", self.path)
        return 0

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
                self._span(k, i, &start, &stop)
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
        if self.ints:
            return number < <int64_t>self.firsts[0]
        return compared(<const uint8_t *>PyBytes_AS_STRING(self.firsts[0]), PyBytes_GET_SIZE(self.firsts[0]), key, size) > 0

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
        cdef long low = 0, n = self.n, half
        cdef bint below
        while n > 0:
            half = n >> 1
            if self.ints:
                below = self.last_ints[low + half] < number
            else:
                last = <object>PyList_GET_ITEM(self.lasts, low + half)
                below = compared(<const uint8_t *>PyBytes_AS_STRING(last), PyBytes_GET_SIZE(last), key, size) < 0
            if below:
                low += half + 1
                n -= half + 1
            else:
                n = half
        return low

    cdef BatchRows _batch(self, long i):
        batch = self.batches[i]
        if batch is None:
            batch = self.batches[i] = self.load(i)
        return <BatchRows>batch

    cdef BatchRows find(self, const uint8_t *key, long size, int64_t number, uint64_t hash, uint64_t snapshot, long *row, long *number_of):
        """The batch, its row and the row's number of the newest version that the snapshot sees; None where there is none."""
        cdef long i
        cdef BatchRows batch
        i = self._place(key, size, number)
        if i >= self.n or self._below_first(key, size, number):
            return None
        self.sought += 1
        if self.bits is not None and not self._may_hold(hash):
            return None
        self.passed += 1
        batch = self._batch(i)
        return self._seen(i, batch.lower(key, size, number), key, size, number, snapshot, row, number_of)

    cdef BatchRows _seen(
        self, long i, long at, const uint8_t *key, long size, int64_t number, uint64_t snapshot, long *row, long *number_of
    ):
        """What `find` answers, from the least row of a batch on whose key is not below the one sought."""
        cdef BatchRows batch
        while i < self.n:
            batch = self._batch(i)
            while at < batch.n and batch._compare(at, key, size, number) == 0:
                if batch.newest <= snapshot or batch.seqs[at] <= snapshot:
                    self.met += 1
                    row[0], number_of[0] = at, self.starts[i] + at
                    return batch
                at += 1
            if at < batch.n:
                return None
            i, at = i + 1, 0  # versions of one key may go on in the next batch
        return None

    cdef int find_group(self, query *asked, int n, uint64_t snapshot) except -1:
        """`find` for some keys side by side: while one waits for memory, the others go on. Sets ``place`` of those that are found."""
        cdef query *q
        cdef int g
        cdef BatchRows batch
        for g in range(n):
            q = &asked[g]
            q.in_batch = self._place(q.key, q.size, q.number)
            if q.in_batch >= self.n or self._below_first(q.key, q.size, q.number):
                q.in_batch = -1
                continue
            self.sought += 1
            if self.bits is not None and self.blocked:
                fetch(&self.bloom[((q.hash >> 32) * <uint64_t>(self.bloom.shape[0] // 64) >> 32) * 64])
        for g in range(n):
            q = &asked[g]
            if q.in_batch < 0:
                continue
            if self.bits is not None and not self._may_hold(q.hash):
                q.in_batch = -1
                continue
            self.passed += 1
            batch = self._batch(q.in_batch)
            batch._between(q.key, q.size, q.number, &q.low, &q.high)
            fetch(batch.keys + (8 if batch.ints else batch.uniform) * ((q.low + q.high) >> 1))
            if not batch.ints and not batch.uniform:
                fetch(batch.ends + ((q.low + q.high) >> 1))
        for g in range(n):
            q = &asked[g]
            if q.in_batch < 0:
                continue
            batch = <BatchRows>PyList_GET_ITEM(self.batches, q.in_batch)
            q.low = batch._lower(q.low, q.high, q.key, q.size, q.number)
            if not batch.plain:
                fetch(&batch.ops[min(q.low, batch.n - 1)])
            if batch.newest > snapshot:
                fetch(&batch.seqs[min(q.low, batch.n - 1)])
        for g in range(n):
            q = &asked[g]
            if q.in_batch < 0:
                continue
            batch = self._seen(q.in_batch, q.low, q.key, q.size, q.number, snapshot, &q.place.row, &q.place.number)
            if batch is not None:
                q.place.batch = <PyObject *>batch
        return 0
