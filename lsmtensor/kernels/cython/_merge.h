/* Merging sorted runs of keys: two by two without branches, a block that fits the cache at a time. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* so many rows are merged at a time: both copies of them stay in the second cache */
#define MERGE_ROWS 8192

/* Keys int64, or byte strings that agree in their first ``skip`` bytes; of equal ones the larger seq goes first. */
typedef struct {
    const int64_t *keys;
    const unsigned char *data;
    const int *offsets;
    int64_t skip;
    const uint64_t *seqs;
} merge_keys;

/* Where a row is, and its key as a number that orders alike; of bytes the first eight that may differ. */
typedef struct {
    uint64_t key;
    int64_t at;
} merge_row;

static inline uint64_t merge_number(const merge_keys *k, int64_t i)
{
    if (k->keys) return (uint64_t)k->keys[i] ^ 1ull << 63;
    const unsigned char *from = k->data + k->offsets[i] + k->skip;
    int64_t n = k->offsets[i + 1] - k->offsets[i] - k->skip;
    uint64_t word = 0;
    for (int64_t j = 0; j < 8; j++) word = word << 8 | (j < n ? from[j] : 0);
    return word;
}

/* what all rows of sorted runs agree in: what the ends of each agree in with the first row */
static int64_t merge_common(const merge_keys *k, const int64_t *starts, int64_t runs)
{
    int64_t common = INT64_MAX, first = -1;
    for (int64_t r = 0; r < runs; r++)
        for (int64_t end = 0; end < 2 && starts[r] < starts[r + 1]; end++) {
            int64_t i = end ? starts[r + 1] - 1 : starts[r], n = k->offsets[i + 1] - k->offsets[i], same = 0;
            if (first < 0) first = i;
            while (same < n && same < common && same < k->offsets[first + 1] - k->offsets[first] &&
                   k->data[k->offsets[i] + same] == k->data[k->offsets[first] + same])
                same++;
            common = same;
        }
    return common;
}

/* of rows whose numbers are equal: whether b, of a later run, goes first */
static int merge_tie(const merge_keys *k, int64_t a, int64_t b)
{
    if (!k->keys) {
        int one = k->offsets[a + 1] - k->offsets[a], other = k->offsets[b + 1] - k->offsets[b];
        int c = memcmp(k->data + k->offsets[b], k->data + k->offsets[a], (size_t)(one < other ? one : other));
        if (c || one != other) return c ? c < 0 : other < one;
    }
    return k->seqs[b] > k->seqs[a];
}

static void merge_two(const merge_row *a, const merge_row *a_end, const merge_row *b, const merge_row *b_end, merge_row *out, const merge_keys *k)
{
    while (a < a_end && b < b_end) {
        int64_t second = b->key < a->key;
        if (__builtin_expect(b->key == a->key, 0)) second = merge_tie(k, a->at, b->at);
        /* without a branch: which is next is a coin's toss */
        const merge_row *from = (const merge_row *)((uintptr_t)a ^ (((uintptr_t)a ^ (uintptr_t)b) & (uintptr_t)-second));
        *out++ = *from;
        b += second;
        a += 1 - second;
    }
    memcpy(out, a < a_end ? a : b, (size_t)((a_end - a) + (b_end - b)) * sizeof *out);
}

/* Runs [starts[i], starts[i + 1]) of rows, merged two by two until one is left, in ``rows`` or in ``spare``; starts are used up. */
static const merge_row *merge_block(merge_row *rows, merge_row *spare, int64_t *starts, int64_t runs, const merge_keys *k)
{
    while (runs > 1) {
        int64_t left = 0;
        for (int64_t i = 0; i < runs; i += 2, left++) {
            int64_t from = starts[i], middle = starts[i + 1], to = i + 2 <= runs ? starts[i + 2] : middle;
            merge_two(rows + from, rows + middle, rows + middle, rows + to, spare + from, k);
            starts[left] = from;
        }
        starts[left] = starts[runs];
        runs = left;
        merge_row *swap = rows;
        rows = spare, spare = swap;
    }
    return rows;
}

/* The order of all rows, a block after the other: what is not above a key that every run's next few rows reach to. 0 without memory. */
static int merge_runs(merge_keys k, const int64_t *starts, int64_t runs, int64_t *out)
{
    int64_t room = MERGE_ROWS, step = MERGE_ROWS / (runs ? runs : 1), total = 1;
    merge_row *rows = malloc(2 * (size_t)room * sizeof *rows);
    int64_t *at = malloc((2 * (size_t)runs + 2) * sizeof *at), *bounds = at + runs;
    if (step < 64) step = 64;
    if (at) memcpy(at, starts, (size_t)runs * sizeof *at);
    if (!k.keys) k.skip = merge_common(&k, starts, runs);
    while (total && rows && at) {
        uint64_t edge = UINT64_MAX;
        for (int64_t r = 0; r < runs; r++)
            if (starts[r + 1] - at[r] > step) {
                uint64_t reach = merge_number(&k, at[r] + step - 1);
                edge = reach < edge ? reach : edge;
            }
        int64_t many = 0;
        total = bounds[0] = 0;
        for (int64_t r = 0; r < runs; r++) {
            int64_t low = at[r], n = starts[r + 1] - low;
            while (edge != UINT64_MAX && n > 0) {
                int64_t half = n / 2;
                if (merge_number(&k, low + half) <= edge) low += half + 1, n -= half + 1;
                else n = half;
            }
            int64_t to = edge == UINT64_MAX ? starts[r + 1] : low;
            if (to == at[r]) continue;
            if (total + to - at[r] > room) {
                merge_row *more = malloc(4 * (size_t)(total + to - at[r]) * sizeof *rows);
                if (more) memcpy(more, rows, (size_t)total * sizeof *rows);
                free(rows);
                rows = more, room = 2 * (total + to - at[r]);
                if (!rows) break;
            }
            for (; at[r] < to; at[r]++, total++) rows[total] = (merge_row){merge_number(&k, at[r]), at[r]};
            bounds[++many] = total;
        }
        if (!rows) break;
        const merge_row *whole = merge_block(rows, rows + room, bounds, many, &k);
        for (int64_t i = 0; i < total; i++) *out++ = whole[i].at;
    }
    int done = rows && at;
    free(rows), free(at);
    return done;
}
