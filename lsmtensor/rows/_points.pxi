"""One key, many keys or a range of them in every source of a table."""


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
                files = self._files(i)
            if files is False:
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

    # -- many keys -------------------------------------------------------------------------------

    cdef bint _ready(self) except -1:
        """Whether all sources can be asked here."""
        cdef long k
        for k in range(len(self.sources)):
            if self.tables[k] is not None:
                if (<RowTable>self.tables[k]).waiting:
                    self.sources[k].fill()
            elif self._files(k) is False:
                return False
        return True

    cdef object _files(self, long k):
        files = self.files[k]
        if files is None:
            # a kind of memtable, or a file of an older schema, that only Arrow reads, is False
            files = self.files[k] = self.sources[k].points()
        return files

    cdef int _search(self, keys, offsets, uint64_t snapshot, long n, place *found) except -1:
        """Where the row of each key is. Keys go side by side, a group at a time through all sources."""
        cdef const uint8_t[::1] data
        cdef const int64_t[::1] ints
        cdef const int32_t[::1] ends
        cdef query asked[GROUP]
        cdef query *q
        cdef uint8_t none = 0
        cdef long i, k, count = len(self.sources)
        cdef int g, size, left
        cdef bint whole = offsets is None
        if whole:
            ints = keys
        else:
            data, ends = keys, offsets
        for i in range(0, n, GROUP):
            size = <int>min(GROUP, n - i)
            for g in range(size):
                q = &asked[g]
                q.place = &found[i + g]
                q.place[0] = place(NULL, NULL, 0, 0, -1)
                if whole:
                    q.number, q.size, q.key = ints[i + g], 8, <const uint8_t *>&ints[i + g]
                    q.hash = mix64(<uint64_t>q.number + <uint64_t>0x9E3779B97F4A7C15)
                else:
                    q.number, q.size = 0, ends[i + g + 1] - ends[i + g]
                    q.key = &data[ends[i + g]] if q.size else &none
                    q.hash = hash_bytes(q.key, q.size)
            left = size
            for k in range(count):
                if self.tables[k] is not None:
                    (<RowTable>self.tables[k]).find_group(asked, left, snapshot)
                    left = settled(asked, left, k)
                else:
                    for file in <tuple>self.files[k]:
                        (<FileRows>file).find_group(asked, left, snapshot)
                        left = settled(asked, left, k)
                if left == 0:
                    break
            if (i // GROUP) % (TURN // GROUP) == TURN // GROUP - 1:
                with nogil:
                    pass  # others may have their turn
        return 0

    def locate(self, keys, offsets, uint64_t snapshot):
        """(source, row number) int64 (q) of encoded keys, given as int64 (q) or bytes with int32 offsets (q + 1); source -1 where there
        is no row. None where a source is one that only Arrow reads."""
        cdef long n = len(keys) if offsets is None else len(offsets) - 1, i
        cdef cnp.ndarray owners = fresh(n, cnp.NPY_INT64, False), numbers = fresh(n, cnp.NPY_INT64, False)
        cdef place *found
        if not self._ready():
            return None
        found = <place *>malloc(max(1, n) * sizeof(place))
        if found == NULL:
            raise MemoryError
        try:
            self._search(keys, offsets, snapshot, n, found)
            for i in range(n):
                (<int64_t *>cnp.PyArray_DATA(owners))[i] = found[i].source
                (<int64_t *>cnp.PyArray_DATA(numbers))[i] = found[i].number if found[i].source >= 0 else -1
        finally:
            free(found)
        return owners, numbers

    def many(self, keys, offsets, uint64_t snapshot, list wanted, bint skip):
        """(rows, Arrow's buffers of the columns of these numbers) of encoded keys, given as in `locate`; absent ones left out with ``skip``,
        else nulls. None where a source or a column is one that only Arrow reads."""
        cdef long n = len(keys) if offsets is None else len(offsets) - 1, i, there = 0
        cdef place *found
        if not self._ready():
            return None
        found = <place *>malloc(max(1, n) * sizeof(place))
        if found == NULL:
            raise MemoryError
        try:
            self._search(keys, offsets, snapshot, n, found)
            for i in range(n):
                if found[i].source >= 0 or not skip:
                    found[there] = found[i]
                    there += 1
            made = self._gather(found, there, wanted)
        finally:
            free(found)
        return None if made is None else (there, made)

    cdef object _gather(self, place *found, long n, list wanted):
        """Arrow's buffers of some columns of rows, in their order."""
        cdef int slots[MOST]
        cdef long i, at, count = len(wanted), sources = len(self.sources)
        cdef cell *cells
        cdef BatchRows batch
        cdef list held = [None] * sources
        if self.format is None or self.format.n > MOST:
            return None
        for i in range(MOST):
            slots[i] = -1
        for i in range(count):
            at = wanted[i]
            slots[at] = <int>i
            if self.format.col[at].code == OTHER:
                return None
        cells = <cell *>malloc(max(1, n * count) * sizeof(cell))
        if cells == NULL:
            raise MemoryError
        try:
            for i in range(n):
                if found[i].rec != NULL and not found[i].rec.compact:
                    if held[found[i].source] is None:
                        held[found[i].source] = self.sources[found[i].source].batches()
                    starts, readers = held[found[i].source]
                    at = bisect_right(starts, found[i].number) - 1
                    found[i].batch, found[i].row = <PyObject *>readers[at], found[i].number - <long>starts[at]
            for i in range(n):
                if i + AHEAD < n:
                    if found[i + AHEAD].batch != NULL:
                        (<BatchRows>found[i + AHEAD].batch)._ahead(found[i + AHEAD].row)
                    elif found[i + AHEAD].rec != NULL:
                        fetch(bytes_of(found[i + AHEAD].rec))
                if found[i].batch != NULL:
                    batch = <BatchRows>found[i].batch
                    if not batch.laned(slots):
                        return None
                    batch._cells(found[i].row, slots, &cells[i * count])
                elif found[i].rec != NULL:
                    (<RowTable>self.tables[found[i].source]).format._cells(bytes_of(found[i].rec), slots, &cells[i * count])
                else:
                    memset(&cells[i * count], 0, count * sizeof(cell))
            return gathered(self.format, wanted, n, cells)
        finally:
            free(cells)

    # -- a range of keys -------------------------------------------------------------------------

    def some(self, start, stop, uint64_t snapshot, long limit, bint reverse, list wanted):
        """The first (last with ``reverse``) ``limit`` rows in the order of their encoded keys in [start, stop), answered as by `many`."""
        cdef Walk walk
        cdef list walks = []
        cdef long k, n = 0, steps = 0
        cdef place *found
        cdef const uint8_t *key
        cdef long size
        cdef uint64_t lead, best
        cdef int64_t edge_number = 0
        cdef bint ints = self.format is not None and self.format.key_is_int, live
        edge = start if reverse else stop
        if not self._ready():
            return None
        for k in range(len(self.sources)):
            if self.tables[k] is not None:
                table = <RowTable>self.tables[k]
                (<RowTable>table)._sort()
                walks += [Walk(k, ints, run, None) for run in (<RowTable>table).runs]
            else:
                walks += [Walk(k, ints, None, self.files[k])] if self.files[k] else []
        for item in walks:
            (<Walk>item).begin(stop if reverse else start, reverse)
        found = <place *>malloc(max(1, limit) * sizeof(place))
        if found == NULL:
            raise MemoryError
        try:
            while n < limit:
                steps += 1
                if steps % TURN == 0:
                    with nogil:
                        pass
                walk = None
                for item in walks:
                    if not (<Walk>item).done and (walk is None or (<Walk>item).before(walk.key, walk.size, walk.lead)):
                        walk = <Walk>item
                if walk is None or (edge is not None and walk.past(edge)):
                    break
                # all versions of the key, in all walks; what it was goes on lying where it lies
                key, size, lead, best, live = walk.key, walk.size, walk.lead, 0, False
                for item in walks:
                    while not (<Walk>item).done and (<Walk>item).at_key(key, size, lead):
                        if best < (<Walk>item).seq <= snapshot:
                            best, live = (<Walk>item).seq, (<Walk>item).op != 0
                            found[n] = (<Walk>item).where
                        (<Walk>item).step()
                n += live
            made = self._gather(found, n, wanted)
        finally:
            free(found)
        return None if made is None else (n, made)


cdef int settled(query *asked, int n, long source) noexcept:
    """Those of ``asked`` that were found leave it: their place gets the source, or none for a delete. Answers how many are left."""
    cdef int g, left = 0
    cdef place *p
    for g in range(n):
        p = asked[g].place
        if p.batch != NULL:
            if (<BatchRows>p.batch).ops[p.row]:
                p.source = source
        elif p.rec != NULL:
            if bytes_of(p.rec)[8]:
                p.source = source
        else:
            asked[left] = asked[g]
            left += 1
            continue
        if p.source < 0:
            p.batch, p.rec = NULL, NULL
    return left


cdef class Walk:
    """A place in one sorted sequence of rows: a run of a memtable, or the files of a table run."""

    cdef long source, number, file, at
    cdef bint ints, reverse, done
    cdef SortedRows rows
    cdef tuple files
    cdef BatchRows batch
    cdef const uint8_t *key
    cdef long size
    cdef uint64_t lead, seq
    cdef uint8_t op
    cdef place where

    def __cinit__(self, long source, bint ints, SortedRows rows, files):
        self.source, self.ints, self.rows = source, ints, rows
        if files is not None:
            self.files = files

    cdef int begin(self, bound, bint reverse) except -1:
        """Stand on the first row at or after an encoded key (None: the very first), in reverse on the last one before it."""
        cdef const uint8_t *key = NULL
        cdef long size = 0
        cdef int64_t number = 0
        self.reverse = reverse
        if bound is not None and self.ints:
            number = bound
            key, size = <const uint8_t *>&number, 8
        elif bound is not None:
            key, size = <const uint8_t *>PyBytes_AS_STRING(bound), PyBytes_GET_SIZE(bound)
        if self.rows is not None:
            self.at = self._lower(key, size, number) if key != NULL else self.rows.n if reverse else 0
        else:
            self._seek(key, size, number)
        self.at -= reverse
        self._look()
        return 0

    cdef long _lower(self, const uint8_t *key, long size, int64_t number) noexcept:
        cdef long low = 0, n = self.rows.n, half
        cdef uint64_t lead = leading_int(number) if self.ints else leading(key, size)
        cdef entry *e
        while n > 0:
            half = n >> 1
            e = &self.rows.rows[low + half]
            if e.leading < lead or (e.leading == lead and not self.ints and compared(bytes_of(e.rec) + ROW_HEAD, load32(bytes_of(e.rec) + 4), key, size) < 0):
                low += half + 1
                n -= half + 1
            else:
                n = half
        return low

    cdef int _seek(self, const uint8_t *key, long size, int64_t number) except -1:
        cdef FileRows file
        cdef long i
        self.file = len(self.files) - 1 if self.reverse else 0
        if key == NULL:
            file = <FileRows>self.files[self.file]
            self.number = file.n - 1 if self.reverse else 0
            self.batch = file._batch(self.number)
            self.at = self.batch.n if self.reverse else 0
            return 0
        for i in range(len(self.files)):
            file = <FileRows>self.files[i]
            self.file, self.number = i, file._place(key, size, number)
            if self.number < file.n:
                self.batch = file._batch(self.number)
                self.at = self.batch.lower(key, size, number)
                return 0
        self.number = file.n - 1
        self.batch = file._batch(self.number)
        self.at = self.batch.n
        return 0

    cdef int step(self) except -1:
        self.at += -1 if self.reverse else 1
        return self._look()

    cdef int _look(self) except -1:
        """See what is at ``at``, in the batch before or after where it is outside of this one."""
        cdef entry *e
        cdef uint8_t *row
        if self.rows is not None:
            if not 0 <= self.at < self.rows.n:
                self.done = True
                return 0
            e = &self.rows.rows[self.at]
            row = bytes_of(e.rec)
            self.key, self.size, self.lead, self.seq, self.op = row + ROW_HEAD, load32(row + 4), e.leading, e.rec.seq, row[8]
            self.where = place(NULL, e.rec, 0, e.rec.row, self.source)
            return 0
        while not 0 <= self.at < self.batch.n:
            self.number += -1 if self.reverse else 1
            if not 0 <= self.number < (<FileRows>self.files[self.file]).n:
                self.file += -1 if self.reverse else 1
                if not 0 <= self.file < len(self.files):
                    self.done = True
                    return 0
                self.number = (<FileRows>self.files[self.file]).n - 1 if self.reverse else 0
            self.batch = (<FileRows>self.files[self.file])._batch(self.number)
            self.at = self.batch.n - 1 if self.reverse else 0
        self.key = self.batch._key(self.at, &self.size)
        self.lead = leading_int(<int64_t>load64(self.key)) if self.ints else leading(self.key, self.size)
        self.seq, self.op = self.batch.seqs[self.at], self.batch.ops[self.at]
        self.where = place(<PyObject *>self.batch, NULL, self.at, (<FileRows>self.files[self.file]).starts[self.number] + self.at, self.source)
        return 0

    cdef bint at_key(self, const uint8_t *key, long size, uint64_t lead) noexcept:
        return self.lead == lead and (self.ints or (self.size == size and memcmp(self.key, key, size) == 0))

    cdef bint before(self, const uint8_t *key, long size, uint64_t lead) noexcept:
        """Whether this key comes before another on the way."""
        cdef int c = -1 if self.lead < lead else self.lead > lead
        if c == 0 and not self.ints:
            c = compared(self.key, self.size, key, size)
        return c > 0 if self.reverse else c < 0

    cdef bint past(self, edge) except -1:
        """Whether this key is at or behind ``stop``, in reverse before ``start``."""
        cdef int64_t number
        cdef int c
        if self.ints:
            number = edge
            c = -1 if self.lead < leading_int(number) else self.lead > leading_int(number)
        else:
            c = compared(self.key, self.size, <const uint8_t *>PyBytes_AS_STRING(edge), PyBytes_GET_SIZE(edge))
        return c < 0 if self.reverse else c >= 0
