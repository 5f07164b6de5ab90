"""The newest version and the end of the log, as single rows move them on."""


cdef class LogEnd:
    """See committing.py."""

    cdef public uint64_t number, _end, _written, _synced
    cdef public uint64_t _last_version
    cdef public int64_t _last_time
    cdef public int kind
    cdef public bint waits, _plain, _syncing
    cdef public set declared
    cdef public list _held
    cdef public object _file, _torn, _lost

    def _extend(self, uint64_t version, int64_t time_ns, bytes payload):
        return self._extended(version, time_ns, payload)

    cdef bint _extended(self, uint64_t version, int64_t time_ns, bytes payload) except -1:
        cdef bytes record
        if not self._plain or self._held or self._syncing or self._lost is not None:
            return False
        record = log_record(self.number, self._end, version, time_ns, self.kind, self._synced, payload)
        try:
            self._file.write(record)
        except BaseException as why:
            self.failed(why)
            raise
        self._last_version, self._last_time = version, time_ns
        self._end = self._written = self._end + <uint64_t>PyBytes_GET_SIZE(record)
        return True


cdef class Door:
    """What a single row needs to know of a table; of one state, like the table."""

    cdef object table, format, memtable
    cdef RowTable store
    cdef Points points
    cdef bint reads, writes

    def __cinit__(self, table):
        self.table, self.format = table, table.format
        self.reads, self.writes = table.short, table.short_writes and bool(table.mems)
        if table.mems:
            self.memtable = table.mems[0].memtable
            self.store = self.memtable.store if isinstance(self.memtable.store, RowTable) else None
        if self.reads and isinstance(table.points, Points):
            self.points = table.points


cdef class Commits:
    """See committing.py."""

    cdef public uint64_t logged, visible
    cdef public int64_t _time, _commit_time
    cdef public bint calm, closed
    cdef public long memtable_limit, log_limit
    cdef public object log, _clock
    cdef public array.array _times
    cdef object _state, _writing, acquire, release
    cdef dict doors

    @property
    def state(self):
        return self._state

    @state.setter
    def state(self, state):
        before = self._state, self.doors  # let go of after the new ones are in their place
        self._state, self.doors = state, {}

    @property
    def writing(self):
        return self._writing

    @writing.setter
    def writing(self, lock):
        self._writing, self.acquire, self.release = lock, lock.acquire, lock.release

    def commit_time(self):
        return self._next_time()

    cdef int64_t _next_time(self) except? -1:
        cdef int64_t time = self._clock(), last = max(self._commit_time, self._time)
        self._commit_time = time = time if time > last else last + 1
        return time

    def note_time(self, uint64_t version, int64_t time_ns):
        self._note(version, time_ns)

    cdef int _note(self, uint64_t version, int64_t time_ns) except -1:
        cdef Py_ssize_t noted = len(self._times)
        array.resize_smart(self._times, noted + 2)
        self._times.data.as_longlongs[noted], self._times.data.as_longlongs[noted + 1] = <int64_t>version, time_ns
        return 0

    cdef Door _door(self, table_id):
        cdef dict doors = self.doors  # before the state: a door of an older one then goes to a dict that nobody asks
        cdef PyObject *found = PyDict_GetItem(doors, table_id)
        if found != NULL:
            return <Door>found
        table = self._state.tables.get(table_id)
        if table is None:
            return None
        door = doors[table_id] = Door(table)
        return door

    def read_row(self, table_id, key):
        cdef Door door = self._door(table_id)
        if door is None or not door.reads or self.closed:
            return NotImplemented
        if door.points is None:
            return door.table.points.get(key, self.visible)
        return door.points._find(key, self.visible, 0)

    def write_row(self, table_id, format, bytes payload, check=None):
        cdef Door door
        cdef LogEnd log
        cdef uint64_t version, place, end
        cdef int64_t now
        cdef long held
        cdef bint known
        if not self.calm:
            self.check_writable()
            self.make_room()
        self.acquire()
        try:
            door = self._door(table_id)
            if door is None or not door.writes or door.format is not format or self.closed:
                return None
            if check is not None and not check(door.table):
                return self.logged, self.log, 0
            log, version, now = <LogEnd?>self.log, self.logged + 1, self._next_time()
            known = format in log.declared
            if known and log._extended(version, now, payload):
                end = log._end
            else:
                end = log.append_rows(version, now, payload if known else door.table.declared(payload))
                if not known:
                    log.declared.add(format)
            if door.store is not None:
                door.store._append(<RowFormat>format, payload, version, False)
                held = <long>door.memtable.batch_bytes + door.store.nbytes
            else:
                held = door.memtable.append(format, payload, version)
            self._note(version, now)
            self.logged = version
            if log.waits:
                place = end
            else:
                self.visible, place = version, 0
            if held > self.memtable_limit or <long>end > self.log_limit:
                self.turn_over(held > self.memtable_limit)
        finally:
            self.release()
        return version, log, place
