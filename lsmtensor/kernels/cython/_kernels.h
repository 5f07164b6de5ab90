/* Distances, scans and blocks: _body.h compiled once per instruction set, chosen at run time. */
#include <math.h>
#include <stdint.h>
#include <string.h>
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

#define BODY "_body.h"
#include "_each_isa.h"

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

#define ROW(name, set)                                                                                                 \
    {name, one_to_many_##set, nearest_##set, nearest_block_##set, all_pairs_##set, square_of_##set, assign_##set}
ISA_CHOICE(table_t, ROW)
