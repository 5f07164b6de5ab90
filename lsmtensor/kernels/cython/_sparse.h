/* Posting lists: _sparse_body.h compiled once per instruction set, chosen at run time; see `sparse_net` in contract_sparse.py. */
#ifndef LSMTENSOR_SPARSE_H
#define LSMTENSOR_SPARSE_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* rows of a chunk: their numbers fit 16 bits, their bounds the second-level cache */
#define SPARSE_CHUNK 65536
/* rows whose bounds lie in registers together, and of how many of them the largest bound is kept: one of each stripe */
#define SPARSE_BLOCK 256
#define SPARSE_STRIPES 32
/* lists whose bounds are added up, at most: the others count as one bound of every row */
#define SPARSE_TERMS 200
/* levels of impacts, and the lowest of each; a cache line of where they begin */
#define SPARSE_PARTS 15
static const uint8_t sparse_lowest[SPARSE_PARTS] = {192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1};
/* postings that a search of few adds up, at most */
#define SPARSE_FEW 262144

typedef struct {
    /* rows: where each begins, its terms, their weights */
    const int64_t *row_starts;
    const uint32_t *terms;
    const float *weights;
    /* of saturating weights (BM25): a divisor a row, see `worth` */
    const float *norms;
    float gain, shift, extra;
    /* lists: how large their weights are, where they begin chunk by chunk, rows within the chunk, 255ths of the largest */
    const float *most;
    const int64_t *starts;
    const uint16_t *rows;
    const uint8_t *impacts;
    /* those of many rows: chunk * lists + list, rising; 255ths of every row of the chunk */
    const int64_t *dense_of;
    const uint8_t *dense;
    /* of them those of whole chunks; only the last chunk may be narrower */
    int64_t n, lists, dense_count, dense_full;
    float stretch;
    /* the heaviest of each list, for a search of few: where its SPARSE_PARTS parts begin and the last one ends, by falling impacts */
    const uint32_t *begins, *heavy;
    const uint8_t *heavy_impacts;
} sparse_net;

typedef struct { uint32_t term; float factor; } sparse_slot;

typedef struct {
    uint16_t sums[SPARSE_CHUNK], tops[SPARSE_CHUNK / SPARSE_BLOCK * SPARSE_STRIPES];
    uint32_t found[SPARSE_CHUNK];
    const uint8_t *wide[SPARSE_TERMS];
    uint32_t wide_by[SPARSE_TERMS];
    /* of a query: its terms by falling bound, and what a bound of 65535 is made of */
    uint32_t *terms, *by;
    float *factors, *bounds;
    int64_t room;
    /* factors by term */
    sparse_slot *slots;
    uint32_t slot_mask, *taken; /* a bit a slot */
    /* of a search of few: a sum a row, all zero between searches; the rows touched, in order of arrival, and their sums */
    uint16_t *few, *few_sums;
    uint32_t *few_rows;
    int64_t few_room, touched_room;
} sparse_scratch;

static inline uint32_t sparse_place(uint32_t term) { return (term * 0x9E3779B1u) >> 8; }

static inline int64_t sparse_width(const sparse_net *g, int64_t chunk)
{
    int64_t left = g->n - chunk * SPARSE_CHUNK, n = left < SPARSE_CHUNK ? left : SPARSE_CHUNK;
    return (n + SPARSE_BLOCK - 1) / SPARSE_BLOCK * SPARSE_BLOCK;
}

/* The bits of a number as a float, less ``drop`` of them: which of 2^(23 - drop) levels an octave it is of. */
static inline uint32_t sparse_grade(uint32_t number, int drop)
{
    float value = (float)number;
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits >> drop;
}

/* Every row of a list of many rows in a chunk, or NULL. */
static const uint8_t *sparse_wide(const sparse_net *g, int64_t chunk, uint32_t term)
{
    int64_t key = chunk * g->lists + term, low = 0, high = g->dense_count, full = g->dense_full;
    while (low < high) {
        int64_t middle = (low + high) >> 1;
        if (g->dense_of[middle] < key) low = middle + 1; else high = middle;
    }
    if (low == g->dense_count || g->dense_of[low] != key) return NULL;
    return low < full ? g->dense + low * SPARSE_CHUNK : g->dense + full * SPARSE_CHUNK + (low - full) * sparse_width(g, chunk);
}

/* Keep (score, row) among the k best, larger first, then lower rows; how many there are. */
static inline int64_t sparse_put(float *best, int64_t *ids, int64_t size, int64_t k, float score, int64_t row)
{
    if (size == k) {
        if (score < best[k - 1] || (score == best[k - 1] && row > ids[k - 1])) return size;
        size--;
    }
    int64_t at = size;
    for (; at > 0 && (best[at - 1] < score || (best[at - 1] == score && ids[at - 1] > row)); at--) best[at] = best[at - 1], ids[at] = ids[at - 1];
    best[at] = score, ids[at] = row;
    return size + 1;
}

/* Room for m terms, and for n rows of which so many are touched by a search of few; 0 without memory. */
static int sparse_reserve(sparse_scratch *s, int64_t m, int64_t n, int64_t touched)
{
    if (m > s->room) {
        uint32_t slots = 512;
        while (slots < 16 * m) slots *= 2;
        free(s->terms), free(s->by), free(s->factors), free(s->bounds), free(s->slots), free(s->taken);
        s->terms = malloc(m * 4), s->by = malloc(m * 4), s->factors = malloc(m * 4), s->bounds = malloc(m * 4);
        s->slots = malloc(slots * sizeof *s->slots), s->taken = malloc(slots / 8);
        s->slot_mask = slots - 1, s->room = m;
        if (!s->terms || !s->by || !s->factors || !s->bounds || !s->slots || !s->taken) return s->room = 0;
    }
    if (touched && n > s->few_room) {
        free(s->few);
        s->few = calloc(n, sizeof *s->few), s->few_room = s->few ? n : 0;
        if (!s->few) return 0;
    }
    if (touched > s->touched_room) {
        free(s->few_rows), free(s->few_sums);
        s->few_rows = malloc((touched + 1) * 4), s->few_sums = malloc((touched + SPARSE_STRIPES) * 2);
        s->touched_room = s->few_rows && s->few_sums ? touched : 0;
        if (!s->touched_room) return 0;
    }
    return 1;
}

static void sparse_free(sparse_scratch *s)
{
    if (s) free(s->terms), free(s->by), free(s->factors), free(s->bounds), free(s->slots), free(s->taken), free(s->few), free(s->few_rows), free(s->few_sums), free(s);
}

#define BODY "_sparse_body.h"
#include "_each_isa.h"

typedef struct {
    const char *name;
    int64_t (*search)(const sparse_net *, const uint32_t *, const float *, int64_t, int64_t, const uint8_t *, sparse_scratch *, int64_t *, float *);
    int64_t (*near)(const sparse_net *, const uint32_t *, const float *, int64_t, int64_t, int64_t, int64_t, const uint8_t *, sparse_scratch *, int64_t *,
                    float *);
} sparse_table;

#define ROW(name, set) {name, search_##set, near_##set}
ISA_CHOICE(sparse_table, ROW)

/* A weight in 255ths of the largest of its list, rounded up. */
static inline uint8_t sparse_impact(float weight, float most)
{
    double size = fabs((double)weight), step = (double)most / 255;
    int64_t units = (int64_t)(size / step);
    units += units * step < size;
    return (uint8_t)(units > 255 ? 255 : units < 1 ? 1 : units);
}

/* Rows to lists, weights to 255ths of the largest, rounded up. ``at`` (chunks, lists) is where the next posting of a list goes, or for one of every row
   minus one less the place of its first row in ``dense``. */
static void sparse_fill(const int64_t *row_starts, const uint32_t *terms, const float *weights, const float *most, int64_t n, int64_t lists,
                        int64_t *at, uint16_t *rows, uint8_t *impacts, uint8_t *dense)
{
    for (int64_t row = 0; row < n; row++) {
        int64_t *next = at + row / SPARSE_CHUNK * lists;
        for (int64_t p = row_starts[row]; p < row_starts[row + 1]; p++) {
            int64_t place = next[terms[p]];
            uint8_t impact = sparse_impact(weights[p], most[terms[p]]);
            if (place < 0) {
                dense[-1 - place + row % SPARSE_CHUNK] = impact;
            } else {
                rows[place] = (uint16_t)(row % SPARSE_CHUNK), impacts[place] = impact;
                next[terms[p]] = place + 1;
            }
        }
    }
}

/* The part of an impact. */
static inline int sparse_part(uint8_t impact)
{
    int level = (int)(sparse_grade(impact, 22) - sparse_grade(1, 22));
    return level ? SPARSE_PARTS - level : SPARSE_PARTS - 1;
}

/* A list, ``many`` postings in order of rows, to its parts, ``limit`` postings at most, from place ``at`` on; where the next one goes. */
static int64_t sparse_parts(const uint32_t *list, const uint8_t *list_impacts, int64_t many, int64_t limit, int64_t at, uint32_t *begins, uint32_t *rows,
                            uint8_t *impacts)
{
    int64_t next[SPARSE_PARTS] = {0}, end = at + (limit < many ? limit : many);
    for (int64_t p = 0; p < many; p++) next[sparse_part(list_impacts[p])]++;
    for (int i = 0; i < SPARSE_PARTS; i++) {
        int64_t size = next[i];
        begins[i] = (uint32_t)(next[i] = at);
        at = at + size < end ? at + size : end;
    }
    begins[SPARSE_PARTS] = (uint32_t)at;
    for (int64_t p = 0; p < many; p++) {
        int i = sparse_part(list_impacts[p]);
        if (next[i] < begins[i + 1]) rows[next[i]] = list[p], impacts[next[i]++] = list_impacts[p];
    }
    return at;
}
#endif
