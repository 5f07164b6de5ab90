/* Rows coded on grids: _grid_body.h compiled once per instruction set, chosen at run time; definitions in contract_grid.py. */
#ifndef LSMTENSOR_GRID_H
#define LSMTENSOR_GRID_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "_isa.h"

/* No product is joined with a sum to one rounding: codes are the same bytes on every processor. */
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#define LANES 4
#define ISA(name) name##_base
#include "_grid_body.h"
#undef ISA
#undef LANES

#if defined(__x86_64__) && defined(__GNUC__)
#define GRID_X86 1
#pragma GCC push_options
#pragma GCC target("avx2")
#define LANES 8
#define ISA(name) name##_avx2
#include "_grid_body.h"
#undef ISA
#undef LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2")
#define LANES 16
#define ISA(name) name##_avx512
#include "_grid_body.h"
#undef ISA
#undef LANES
#pragma GCC pop_options
#endif
#pragma GCC pop_options

typedef struct {
    const char *name;
    void (*turn)(const float *, int64_t, int64_t, const float *, int64_t, int, void *, float *);
    void (*scalar)(const float *, int64_t, int64_t, const float *, const float *, int, void *, uint8_t *);
    void (*grid)(const float *, int64_t, int64_t, int, int, const float *, int64_t, void *, uint8_t *, int64_t);
    void (*angle)(const float *, int64_t, int64_t, int, const float *, int64_t, void *, uint8_t *, int64_t);
    void (*half)(const float *, int64_t, int, uint16_t *);
} grid_table;

static const grid_table grid_tables[] = {
    {"baseline", grid_turn_base, grid_scalar_base, grid_grid_base, grid_angle_base, grid_half_base},
#ifdef GRID_X86
    {"avx2", grid_turn_avx2, grid_scalar_avx2, grid_grid_avx2, grid_angle_avx2, grid_half_avx2},
    {"avx512", grid_turn_avx512, grid_scalar_avx512, grid_grid_avx512, grid_angle_avx512, grid_half_avx512},
#endif
};

static const grid_table *grid_chosen = &grid_tables[0];

ISA_CHOICE(grid_choose, grid_tables, grid_chosen)
#endif
