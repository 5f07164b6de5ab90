/* Instruction sets: which of those compiled in this processor runs, and the choice of one.

   A header names a file of loops by BODY and includes _each_isa.h, which compiles it once per set, every function with its set's
   suffix; ISA_CHOICE then makes the table of a module: of type rows, ROW(name, suffix) the functions of one set. */
#ifndef LSMTENSOR_ISA_H
#define LSMTENSOR_ISA_H
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ISA_ROWS(ROW) ROW("baseline", base), ROW("avx2", avx2), ROW("avx512", avx512)
#else
#define ISA_ROWS(ROW) ROW("baseline", base)
#endif

static inline int isa_can_run(const char *name)
{
    if (!strcmp(name, "baseline")) return 1;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
    if (!strcmp(name, "avx2")) return avx2;
    if (!strcmp(name, "avx512"))
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#endif
    return 0;
}

/* ``chosen`` is a row of functions. choose_isa(name): the row of that name, or without one the last that runs, the widest; 0 where it cannot run. */
#define ISA_CHOICE(type, ROW)                                                                                          \
    static const type isa_rows[] = {ISA_ROWS(ROW)};                                                                    \
    static const type *chosen = isa_rows;                                                                              \
    static const char *isa_name(int i) { return i < (int)(sizeof isa_rows / sizeof *isa_rows) ? isa_rows[i].name : 0; } \
    static int choose_isa(const char *name)                                                                            \
    {                                                                                                                  \
        for (int i = (int)(sizeof isa_rows / sizeof *isa_rows) - 1; i >= 0; i--)                                       \
            if ((!name || !strcmp(name, isa_rows[i].name)) && isa_can_run(isa_rows[i].name)) {                         \
                chosen = &isa_rows[i];                                                                                 \
                return 1;                                                                                              \
            }                                                                                                          \
        return 0;                                                                                                      \
    }
#endif
