/* How graphs over codes are built: _links_body.h compiled once per instruction set, chosen at run time. */
#ifndef LSMTENSOR_LINKS_H
#define LSMTENSOR_LINKS_H
#include "_code_net.h"

/* the most rows that are compared in blocks: what they are packed into stays in cache */
#define CODE_BLOCKS 8192

#define BODY "_links_body.h"
#include "_each_isa.h"

typedef struct {
    const char *name;
    void (*link)(const code_net *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, int64_t, int64_t, uint32_t *, code_scratch *);
    void (*reverse)(code_net *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, int64_t, int64_t, code_scratch *);
    void (*near)(const code_net *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, uint32_t *, code_scratch *);
    void (*shrink)(const code_net *, int64_t, int64_t, int64_t, int64_t, uint32_t *, code_scratch *);
} link_table;

#define ROW(name, set) {name, link_##set, reverse_##set, near_##set, shrink_##set}
ISA_CHOICE(link_table, ROW)
#endif
