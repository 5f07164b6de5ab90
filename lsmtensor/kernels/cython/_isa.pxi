# The instruction set of a module's loops; of _isa.h, which the module's own header includes.
cdef extern from *:
    int choose_isa(const char *)
    int isa_can_run(const char *)
    const char *isa_name(int)


def set_isa(name):
    """Choose an instruction set by name (None: the widest); False where this processor cannot run it."""
    if name is None:
        return bool(choose_isa(NULL))
    cdef bytes text = name.encode()
    return bool(choose_isa(text))


def isa():
    return (<bytes>chosen.name).decode()


def compiled():
    """{instruction set in this build: whether this processor runs it}, the widest last."""
    cdef int i = 0
    made = {}
    while isa_name(i) != NULL:
        made[(<bytes>isa_name(i)).decode()] = bool(isa_can_run(isa_name(i)))
        i += 1
    return made


choose_isa(NULL)
