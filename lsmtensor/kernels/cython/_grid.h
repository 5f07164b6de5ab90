/* Rows coded on grids: _grid_body.h compiled once per instruction set, chosen at run time; definitions in contract_grid.py. */
#ifndef LSMTENSOR_GRID_H
#define LSMTENSOR_GRID_H
#include <math.h>
#include <stdint.h>
#include <string.h>

/* No product is joined with a sum to one rounding: codes are the same bytes on every processor. */
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#define BODY "_grid_body.h"
#include "_each_isa.h"
#pragma GCC pop_options

typedef struct {
    const char *name;
    void (*turn)(const float *, int64_t, int64_t, const float *, int64_t, int, void *, float *);
    void (*scalar)(const float *, int64_t, int64_t, const float *, const float *, int, void *, uint8_t *);
    void (*grid)(const float *, int64_t, int64_t, int, int, const float *, int64_t, void *, uint8_t *, int64_t);
    void (*angle)(const float *, int64_t, int64_t, int, const float *, int64_t, void *, uint8_t *, int64_t);
    void (*half)(const float *, int64_t, int, uint16_t *);
} grid_table;

#define ROW(name, set) {name, grid_turn_##set, grid_scalar_##set, grid_grid_##set, grid_angle_##set, grid_half_##set}
ISA_CHOICE(grid_table, ROW)
#endif
