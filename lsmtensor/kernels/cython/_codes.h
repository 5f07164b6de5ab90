/* Queries over codes: _codes_body.h compiled once per instruction set, chosen at run time. */
#ifndef LSMTENSOR_CODES_H
#define LSMTENSOR_CODES_H
#include "_code_net.h"
#include "_pages.h"

#define BODY "_codes_body.h"
#include "_each_isa.h"

typedef struct {
    const char *name;
    int64_t (*search)(const code_net *, const float *, const float *, float, int64_t, int64_t, int64_t, int64_t, const uint8_t *,
                      const uint32_t *, int64_t, code_scratch *, int64_t *, float *);
    int64_t (*scan)(const code_net *, const float *, const float *, float, int64_t, int64_t, const uint8_t *, code_scratch *, int64_t *,
                    float *);
    int64_t (*ranges)(const code_net *, const float *, const float *, float, const int64_t *, const int64_t *, int64_t, int64_t, int64_t,
                      const uint8_t *, code_scratch *, int64_t *, float *);
    void (*estimates)(const code_net *, const float *, const float *, float, const int64_t *, int64_t, code_scratch *, float *);
    int64_t (*page_walk)(const page_net *, const float *, const float *, float, int64_t, int64_t, int64_t, const uint8_t *, code_scratch *,
                         page_reader *, int64_t *, float *);
    int64_t (*page_scan)(const page_net *, const float *, const float *, float, int64_t, int64_t, const uint8_t *, code_scratch *, page_reader *,
                         int64_t *, float *);
} code_table;

#define ROW(name, set) {name, search_##set, scan_##set, ranges_##set, estimates_##set, page_walk_##set, page_scan_##set}
ISA_CHOICE(code_table, ROW)
#endif
