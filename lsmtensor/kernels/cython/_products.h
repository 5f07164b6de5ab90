/* Product codes: _products_body.h compiled once per instruction set, chosen at run time. */
#ifndef LSMTENSOR_PRODUCTS_H
#define LSMTENSOR_PRODUCTS_H
#include "_code_net.h"

/* Product codes: ``count`` centroids, 16 or 256, for each of ``m`` parts of ``width`` values, (m, width, count). */
typedef struct {
    code_net g; /* points, scale, n, d, metric */
    const float *books, *bias;
    const uint8_t *codes;
    int64_t m, width, count, pairs; /* pairs of parts, an even number: whole lines of two */
} pq_net;

#define BODY "_products_body.h"
#include "_each_isa.h"

typedef struct {
    const char *name;
    void (*pq_encode)(const float *, int64_t, int64_t, const float *, const float *, int64_t, int64_t, int64_t, uint8_t *);
    int64_t (*pq_ranges)(const pq_net *, const float *, const float *, const int64_t *, const int64_t *, int64_t, int64_t, int64_t, const uint8_t *,
                         code_scratch *, int64_t *, float *);
} pq_table;

#define ROW(name, set) {name, pq_encode_##set, pq_ranges_##set}
ISA_CHOICE(pq_table, ROW)
#endif
