/* Distances, scans and blocks for one instruction set; LANES and ISA(name) come from _kernels.h.
   The order of every sum is fixed, so a result depends on the instruction set and on nothing else. */

#include "_rows_body.h"

/* dot products of q with four rows, and the rows' squares, in one pass */
static inline void ISA(dot_norm4)(const float *q, const float *const *row, int64_t d, float *dots, float *squares)
{
    VEC a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    for (int64_t i = 0; i < d; i += LANES) {
        int64_t left = d - i < LANES ? d - i : LANES;
        VEC u = ISA(some)(q + i, left), w0 = ISA(some)(row[0] + i, left), w1 = ISA(some)(row[1] + i, left);
        VEC w2 = ISA(some)(row[2] + i, left), w3 = ISA(some)(row[3] + i, left);
        a0 += u * w0, a1 += u * w1, a2 += u * w2, a3 += u * w3;
        s0 += w0 * w0, s1 += w1 * w1, s2 += w2 * w2, s3 += w3 * w3;
    }
    ISA(sum4)(a0, a1, a2, a3, dots);
    ISA(sum4)(s0, s1, s2, s3, squares);
}

/* the same of rows that follow each other, two at a time */
static inline void ISA(dot_norm_next)(const float *q, const float *row, int64_t d, float *dots, float *squares)
{
    VEC a[4], s[4];
    for (int r = 0; r < 4; r += 2, row += 2 * d) {
        VEC a0 = {0}, a1 = {0}, s0 = {0}, s1 = {0};
        for (int64_t i = 0; i < d; i += LANES) {
            int64_t left = d - i < LANES ? d - i : LANES;
            VEC u = ISA(some)(q + i, left), w0 = ISA(some)(row + i, left), w1 = ISA(some)(row + d + i, left);
            if (i % 16 == 0) __builtin_prefetch(row + i + STREAM / 4), __builtin_prefetch(row + d + i + STREAM / 4);
            a0 += u * w0, a1 += u * w1, s0 += w0 * w0, s1 += w1 * w1;
        }
        a[r] = a0, a[r + 1] = a1, s[r] = s0, s[r + 1] = s1;
    }
    ISA(sum4)(a[0], a[1], a[2], a[3], dots);
    ISA(sum4)(s[0], s[1], s[2], s[3], squares);
}

static inline float ISA(square_of)(const float *a, int64_t d)
{
    float four[4];
    const float *row[4] = {a, a, a, a};
    ISA(dot4)(a, row, d, four);
    return four[0];
}

static inline float ISA(cosine)(float dot, float aa, float bb)
{
    float norms = __builtin_sqrtf(aa) * __builtin_sqrtf(bb);
    return norms == 0 ? 1.0f : 1.0f - dot / norms;
}

FOUR_NEXT(square_next, STEP_SQUARE)
FOUR_NEXT(dot_next, STEP_DOT)

/* distances of q, whose square is qq (cosine only), to 1 to 4 rows; ``stream``: four, one behind the other */
static inline void ISA(four_rows)(const float *q, float qq, const float *const *row, int64_t d, int metric, int stream, float *out)
{
    float squares[4];
    switch (metric) {
    case 0:
        if (stream) ISA(square_next)(q, row[0], d, out);
        else ISA(square4)(q, row, d, out);
        return;
    case 1:
        if (stream) ISA(dot_next)(q, row[0], d, out);
        else ISA(dot4)(q, row, d, out);
        for (int j = 0; j < 4; j++) out[j] = -out[j];
        return;
    case 2:
        if (stream) ISA(dot_norm_next)(q, row[0], d, out, squares);
        else ISA(dot_norm4)(q, row, d, out, squares);
        for (int j = 0; j < 4; j++) out[j] = ISA(cosine)(out[j], qq, squares[j]);
        return;
    case 3: ISA(absolute4)(q, row, d, out); return;
    default: ISA(unequal4)(q, row, d, out); return;
    }
}

/* Rows that the second-level cache does not hold come faster as one stream than as four. */
#define STREAM_FROM (1 << 18)

static void ISA(one_to_many)(const float *q, const float *points, const int64_t *ids, int64_t n, int64_t d, int metric, float *out)
{
    float qq = metric == 2 ? ISA(square_of)(q, d) : 0, four[4];
    int stream = !ids && n * d > STREAM_FROM;
    for (int64_t i = 0; i < n; i += 4) {
        const float *row[4];
        int64_t left = n - i < 4 ? n - i : 4;
        for (int64_t j = 0; j < 4; j++) {
            int64_t at = i + (j < left ? j : 0);
            row[j] = points + (ids ? ids[at] : at) * d;
        }
        if (ids)
            for (int64_t j = i + 8; j < n && j < i + 12; j++)
                for (int64_t b = 0; b < d && b < 256; b += 16) __builtin_prefetch(points + ids[j] * d + b);
        ISA(four_rows)(q, qq, row, d, metric, stream && left == 4, four);
        for (int64_t j = 0; j < left; j++) out[i + j] = four[j];
    }
}

static void ISA(nearest)(const float *q, const float *points, int64_t n, int64_t d, int metric, const uint8_t *mask, int64_t k,
                         int64_t *ids, float *best)
{
    nearest_list list = {k, 0, ids, best};
    float qq = metric == 2 ? ISA(square_of)(q, d) : 0, four[4];
    int stream = n * d > STREAM_FROM;
    for (int64_t i = 0; i < n;) {
        const float *row[4];
        int64_t id[4], count = 0;
        for (; i < n && count < 4; i++)
            if (!mask || mask[i]) id[count++] = i;
        if (!count) break;
        for (int64_t j = 0; j < 4; j++) row[j] = points + id[j < count ? j : 0] * d;
        ISA(four_rows)(q, qq, row, d, metric, stream && count == 4 && id[3] == id[0] + 3, four);
        for (int64_t j = 0; j < count; j++) nearest_add(&list, four[j], id[j]);
    }
}

/* Dot products of QUERIES queries with four rows: every load of a row serves them all, so that the sums are bound
   by arithmetic and not by loads. */
#if LANES == 16
#define QUERIES 4
#else
#define QUERIES 2
#endif

static inline void ISA(block)(const float *const *q, const float *const *row, int64_t d, float (*out)[4])
{
    VEC sum[QUERIES][4];
    for (int a = 0; a < QUERIES; a++)
        for (int b = 0; b < 4; b++) sum[a][b] = (VEC){0};
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        VEC w0 = *(const VEC *)(row[0] + i), w1 = *(const VEC *)(row[1] + i);
        VEC w2 = *(const VEC *)(row[2] + i), w3 = *(const VEC *)(row[3] + i);
#pragma GCC unroll 4
        for (int a = 0; a < QUERIES; a++) {
            VEC u = *(const VEC *)(q[a] + i);
            sum[a][0] += u * w0, sum[a][1] += u * w1, sum[a][2] += u * w2, sum[a][3] += u * w3;
        }
    }
    if (i < d)
        for (int a = 0; a < QUERIES; a++)
            for (int b = 0; b < 4; b++) sum[a][b] += ISA(tail)(q[a] + i, d - i) * ISA(tail)(row[b] + i, d - i);
    for (int a = 0; a < QUERIES; a++) ISA(sum4)(sum[a][0], sum[a][1], sum[a][2], sum[a][3], out[a]);
}

/* The k nearest rows of each of many queries. Dot products of a block of rows, in cache, with all queries say which
   rows can be near; only these get their exact distance, the same as ``nearest`` gives. */
static void ISA(nearest_block)(const float *queries, int64_t nq, const float *points, int64_t n, int64_t d, int metric,
                               const uint8_t *mask, int64_t k, int64_t *ids, float *best, const float *squares, float *of_point,
                               nearest_list *lists)
{
    int64_t tile = 131072 / (4 * d) < 8 ? 8 : 131072 / (4 * d) / 4 * 4;
    /* twice what rounding can do to sums of d terms in LANES lanes: what is farther beyond the worst cannot be near */
    float slack = 1.2e-7f * (float)(d / LANES + 8);
    for (int64_t a = 0; a < nq; a++) lists[a] = (nearest_list){k, 0, ids + a * k, best + a * k};
    for (int64_t from = 0; from < n; from += tile) {
        int64_t to = from + tile < n ? from + tile : n;
        for (int64_t i = from; i < from + tile; i++) {
            float pp = i < to ? ISA(square_of)(points + i * d, d) : 0, root = __builtin_sqrtf(pp);
            of_point[i - from] = metric == 0 ? pp * (1 - slack) : metric == 1 ? root * slack : root == 0 ? 0 : 1 / root;
        }
        for (int64_t a = 0; a < nq; a += QUERIES) {
            const float *q[QUERIES];
            float of_query[QUERIES];
            for (int64_t b = 0; b < QUERIES; b++) {
                int64_t at = a + b < nq ? a + b : a;
                float qq = squares[at], root = __builtin_sqrtf(qq);
                q[b] = queries + at * d;
                of_query[b] = metric == 0 ? qq * (1 - slack) : metric == 1 ? root : root == 0 ? 0 : 1 / root;
            }
            for (int64_t i = from; i < to; i += 4) {
                const float *row[4];
                float dots[QUERIES][4];
                for (int64_t j = 0; j < 4; j++) row[j] = points + (i + j < to ? i + j : i) * d;
                ISA(block)(q, row, d, dots);
                for (int64_t b = 0; b < QUERIES && a + b < nq; b++) {
                    nearest_list *list = lists + a + b;
                    float worst = list->size == k ? list->best[k - 1] : INFINITY, u = of_query[b], least[4], exact[4];
                    const float *w = of_point + (i - from), *dot = dots[b];
                    int near = 0;
                    for (int64_t j = 0; j < 4; j++) {
                        least[j] = metric == 0 ? u + w[j] - 2 * dot[j] : metric == 1 ? -dot[j] - u * w[j] : 1 - slack - dot[j] * u * w[j];
                        near |= !(least[j] > worst);
                    }
                    if (!near) continue;
                    for (int64_t j = 0; j < 4 && i + j < to; j++) {
                        if ((mask && !mask[i + j]) || least[j] > worst) continue;
                        const float *same[4] = {row[j], row[j], row[j], row[j]};
                        ISA(four_rows)(q[b], squares[a + b], same, d, metric, 0, exact);
                        nearest_add(list, exact[0], i + j);
                        worst = list->size == k ? list->best[k - 1] : INFINITY;
                    }
                }
            }
        }
    }
}

/* all distances; L1 and Hamming have no dot product to share, L2 keeps its small ones exact by differences */
static void ISA(all_pairs)(const float *queries, int64_t nq, const float *points, int64_t n, int64_t d, int metric, float *out,
                           const float *squares, float *point_squares)
{
    if ((metric != 1 && metric != 2) || nq < QUERIES) {
        for (int64_t a = 0; a < nq; a++) ISA(one_to_many)(queries + a * d, points, NULL, n, d, metric, out + a * n);
        return;
    }
    int64_t tile = 131072 / (4 * d) < 8 ? 8 : 131072 / (4 * d) / 4 * 4;
    for (int64_t from = 0; from < n; from += tile) {
        int64_t to = from + tile < n ? from + tile : n;
        if (metric == 2)
            for (int64_t i = from; i < to; i++) point_squares[i - from] = ISA(square_of)(points + i * d, d);
        for (int64_t a = 0; a < nq; a += QUERIES) {
            const float *q[QUERIES];
            for (int64_t b = 0; b < QUERIES; b++) q[b] = queries + (a + b < nq ? a + b : a) * d;
            for (int64_t i = from; i < to; i += 4) {
                const float *row[4];
                float dots[QUERIES][4];
                for (int64_t j = 0; j < 4; j++) row[j] = points + (i + j < to ? i + j : i) * d;
                ISA(block)(q, row, d, dots);
                for (int64_t b = 0; b < QUERIES && a + b < nq; b++)
                    for (int64_t j = 0; j < 4 && i + j < to; j++)
                        out[(a + b) * n + i + j] =
                            metric == 1 ? -dots[b][j] : ISA(cosine)(dots[b][j], squares[a + b], point_squares[i + j - from]);
            }
        }
    }
}
#undef QUERIES
/* The nearest of k centroids for n rows. ``turned`` is (d, kp), the centroids as columns, kp a multiple of the block, those
   beyond k with norms of infinity: lanes run over centroids, so no sum is split and a block of rows shares every load. */
#if LANES == 16
#define ROWS 4
#define COLUMNS 4
#else
#define ROWS 2
#define COLUMNS 2
#endif
static void ISA(assign)(const float *x, int64_t n, int64_t d, const float *turned, int64_t kp, const float *norms, int64_t *ids, float *far)
{
    for (int64_t i = 0; i < n; i += ROWS) {
        const float *row[ROWS];
        float best[ROWS];
        int64_t at[ROWS];
        for (int64_t r = 0; r < ROWS; r++) row[r] = x + (i + r < n ? i + r : i) * d, best[r] = INFINITY, at[r] = 0;
        for (int64_t c = 0; c < kp; c += COLUMNS * LANES) {
            VEC sum[ROWS][COLUMNS];
            for (int r = 0; r < ROWS; r++)
                for (int b = 0; b < COLUMNS; b++) sum[r][b] = (VEC){0};
            for (int64_t j = 0; j < d; j++) {
                VEC w[COLUMNS];
                for (int b = 0; b < COLUMNS; b++) w[b] = *(const VEC *)(turned + j * kp + c + b * LANES);
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    float value = row[r][j];
                    for (int b = 0; b < COLUMNS; b++) sum[r][b] += w[b] * value;
                }
            }
            for (int r = 0; r < ROWS; r++)
                for (int b = 0; b < COLUMNS; b++) {
                    const float *norm = norms + c + b * LANES;
                    VEC score = *(const VEC *)norm - 2 * sum[r][b];
                    IVEC nearer = score < best[r];
                    int any = 0;
                    for (int l = 0; l < LANES; l++) any |= nearer[l];
                    if (!any) continue;
                    for (int l = 0; l < LANES; l++)
                        if (score[l] < best[r]) best[r] = score[l], at[r] = c + b * LANES + l;
                }
        }
        for (int64_t r = 0; r < ROWS && i + r < n; r++) {
            float left = best[r] + ISA(square_of)(row[r], d);
            ids[i + r] = at[r];
            far[i + r] = left > 0 ? left : 0;
        }
    }
}
#undef ROWS
#undef COLUMNS
