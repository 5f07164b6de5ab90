/* Compilations of _body.h for each instruction set, and a table of the one chosen at run time. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "_isa.h"
#include "_keys.h"
#include "_merge.h"

/* the k best so far, nearest first; ties keep the order in which they were added */
typedef struct {
    int64_t k, size;
    int64_t *ids;
    float *best;
} nearest_list;

static inline void nearest_add(nearest_list *list, float far, int64_t id)
{
    if (far != far || (list->size == list->k && !(far < list->best[list->k - 1]))) return;
    int64_t low = 0, count = list->size;
    while (count > 0) {
        int64_t half = count >> 1;
        int right = list->best[low + half] <= far;
        low = right ? low + half + 1 : low;
        count = right ? count - half - 1 : half;
    }
    if (list->size < list->k) list->size++;
    memmove(list->best + low + 1, list->best + low, (size_t)(list->size - 1 - low) * sizeof *list->best);
    memmove(list->ids + low + 1, list->ids + low, (size_t)(list->size - 1 - low) * sizeof *list->ids);
    list->best[low] = far;
    list->ids[low] = id;
}

#define LANES 4
#define ISA(name) name##_base
#include "_body.h"
#undef ISA
#undef LANES

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86 1
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define ISA(name) name##_avx2
#include "_body.h"
#undef ISA
#undef LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#define LANES 16
#define ISA(name) name##_avx512
#include "_body.h"
#undef ISA
#undef LANES
#pragma GCC pop_options
#endif

typedef struct {
    const char *name;
    void (*one_to_many)(const float *, const float *, const int64_t *, int64_t, int64_t, int, float *);
    void (*nearest)(const float *, const float *, int64_t, int64_t, int, const uint8_t *, int64_t, int64_t *, float *);
    void (*nearest_block)(const float *, int64_t, const float *, int64_t, int64_t, int, const uint8_t *, int64_t, int64_t *, float *,
                          const float *, float *, nearest_list *);
    void (*all_pairs)(const float *, int64_t, const float *, int64_t, int64_t, int, float *, const float *, float *);
    float (*square_of)(const float *, int64_t);
    void (*assign)(const float *, int64_t, int64_t, const float *, int64_t, const float *, int64_t *, float *);
} table_t;

static const table_t tables[] = {
    {"baseline", one_to_many_base, nearest_base, nearest_block_base, all_pairs_base, square_of_base, assign_base},
#ifdef HAS_X86
    {"avx2", one_to_many_avx2, nearest_avx2, nearest_block_avx2, all_pairs_avx2, square_of_avx2, assign_avx2},
    {"avx512", one_to_many_avx512, nearest_avx512, nearest_block_avx512, all_pairs_avx512, square_of_avx512, assign_avx512},
#endif
};

static const table_t *chosen = &tables[0];

ISA_CHOICE(choose_isa, tables, chosen)
