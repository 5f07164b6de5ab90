/* Which of the instruction sets compiled in this processor runs, and the choice of one. */
#ifndef LSMTENSOR_ISA_H
#define LSMTENSOR_ISA_H
#include <string.h>

static int isa_can_run(const char *name)
{
    if (!strcmp(name, "baseline")) return 1;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2")) return avx2;
    if (!strcmp(name, "avx512"))
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
    return 0;
}

/* int choose(name): the row of ``tables`` of that name, or without one the last that runs, the widest, is ``chosen``; 0 where it cannot run. */
#define ISA_CHOICE(choose, tables, chosen)                                                                             \
    static inline int choose(const char *name)                                                                         \
    {                                                                                                                  \
        for (int i = (int)(sizeof tables / sizeof *tables) - 1; i >= 0; i--)                                           \
            if ((!name || !strcmp(name, tables[i].name)) && isa_can_run(tables[i].name)) {                             \
                chosen = &tables[i];                                                                                   \
                return 1;                                                                                              \
            }                                                                                                          \
        return 0;                                                                                                      \
    }
#endif
