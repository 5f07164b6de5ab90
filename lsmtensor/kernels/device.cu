/* What the GPU runs beside BLAS. THREADS to a block, a power of two and at least a warp, comes from whoever compiles; tests
   compile the same text for the processor. Sums have one order whatever is asked beside: a query alone gets the same bits. */

typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;
typedef unsigned char u8;

#define WARP 32
/* queries that share the loads of a row */
#define TILE 8
/* keys of a thread; of a block's keys the least are picked, so at most half of them may be asked for */
#define EACH 8
#define SEGMENT (THREADS * EACH)
#define NOTHING 0xFFFFFFFFFFFFFFFFull

enum { L2, IP, COSINE, L1, HAMMING };

__device__ float warp_sum(float x)
{
    for (int step = WARP / 2; step; step >>= 1) x += __shfl_down_sync(0xFFFFFFFFu, x, step);
    return x;
}

__device__ int warp_sum_int(int x)
{
    for (int step = WARP / 2; step; step >>= 1) x += __shfl_down_sync(0xFFFFFFFFu, x, step);
    return x;
}

/* float32 (nq, n): how far queries are from rows [0, n), or, listed, from rows ids (nq, n), NaN where an id is below 0.
   A warp takes a row, its lanes every 32nd dimension; blockIdx.y is a tile of queries, or one query where rows are listed. */
extern "C" __global__ void distances(const float *queries, i64 nq, const float *points, const i64 *ids, int listed, i64 n, i64 d,
                                     int metric, float *out)
{
    int lane = threadIdx.x % WARP;
    i64 at = (i64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, first = (i64)blockIdx.y * (listed ? 1 : TILE);
    int count = listed ? 1 : nq - first < TILE ? (int)(nq - first) : TILE;
    i64 id = at >= n ? -1 : listed ? ids[first * n + at] : at;
    const float *row = points + (id < 0 ? 0 : id) * d, *own = queries + first * d;
    float sum[TILE], square[TILE], of_row = 0;
    for (int a = 0; a < TILE; a++) sum[a] = square[a] = 0;
    for (i64 i = lane; i < d; i += WARP) {
        float p = row[i];
        of_row += p * p;
#pragma unroll
        for (int a = 0; a < TILE; a++)
            if (a < count) {
                float q = own[a * d + i], apart = q - p;
                sum[a] += metric == L2 ? apart * apart : metric == L1 ? fabsf(apart) : metric == HAMMING ? (float)(q != p) : q * p;
                square[a] += q * q;
            }
    }
    if (metric == COSINE) of_row = sqrtf(warp_sum(of_row));
#pragma unroll
    for (int a = 0; a < TILE; a++) {
        if (a >= count) continue; /* the same in the whole block */
        float far = warp_sum(sum[a]);
        if (metric == IP) far = -far;
        if (metric == COSINE) {
            float norms = sqrtf(warp_sum(square[a])) * of_row;
            far = norms == 0 ? 1 : 1 - far / norms;
        }
        if (lane == 0 && at < n) out[(first + a) * n + at] = id < 0 ? __int_as_float(0x7fffffff) : far;
    }
}

/* float32 (nq, n): what 8-bit codes (c - 128) or 4-bit codes (2 c - 15, words of a line hold values i and i + 64) of rows estimate,
   rows as in `distances`, infinity where one is below 0. queries: the values of each as bytes, as many as a row's codes have; words are
   4 bytes; sums and by: the sum of a query's values and what undoes its scale. */
extern "C" __global__ void estimates(const int *queries, const int *sums, const float *by, i64 nq, const int *codes, i64 words,
                                     const float *squares, const float *factors, int bits, int metric, const i64 *rows, int listed,
                                     i64 n, float *out)
{
    int lane = threadIdx.x % WARP;
    i64 at = (i64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, first = (i64)blockIdx.y * (listed ? 1 : TILE);
    int count = listed ? 1 : nq - first < TILE ? (int)(nq - first) : TILE;
    i64 id = at >= n ? -1 : listed ? rows[first * n + at] : at, wide = words * (8 / bits);
    const int *row = codes + (id < 0 ? 0 : id) * words, *own = queries + first * wide;
    int sum[TILE];
    for (int a = 0; a < TILE; a++) sum[a] = 0;
    for (i64 i = lane; i < words; i += WARP) {
        int word = row[i];
#pragma unroll
        for (int a = 0; a < TILE; a++)
            if (a < count) {
                const int *q = own + a * wide;
                if (bits == 4) {
                    i64 low = i / 16 * 32 + i % 16;
                    sum[a] = __dp4a(word & 0x0F0F0F0F, q[low], sum[a]);
                    sum[a] = __dp4a(word >> 4 & 0x0F0F0F0F, q[low + 16], sum[a]);
                } else if (metric < L1) {
                    sum[a] = __dp4a((int)((u32)word ^ 0x80808080u), q[i], sum[a]);
                } else {
                    for (int b = 0; b < 32; b += 8) {
                        int apart = (word >> b & 255) - 128 - (signed char)(q[i] >> b & 255);
                        sum[a] += metric == HAMMING ? apart != 0 : apart < 0 ? -apart : apart;
                    }
                }
            }
    }
#pragma unroll
    for (int a = 0; a < TILE; a++) {
        if (a >= count) continue;
        int whole = warp_sum_int(sum[a]);
        if (lane || at >= n) continue;
        float far = (float)whole;
        if (id >= 0 && metric < L1) {
            if (bits == 4) far = (float)(2 * whole - 15 * sums[first + a]);
            far = (metric == IP ? 0 : squares[id]) - (bits == 4 ? factors[id] : 1) * (by[first + a] * far);
        }
        out[(first + a) * n + at] = id < 0 ? __int_as_float(0x7f800000) : far;
    }
}

/* A key orders by distance and then by number: the float's bits made to rise, the number below them. */
__device__ u64 key_of(float far, u32 number)
{
    u32 bits = __float_as_uint(far == 0 ? 0.0f : far);
    return (u64)(bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u)) << 32 | number;
}

/* the k least of a block's keys, rising; keys are distinct but for NOTHING */
__device__ void pick(u64 *mine, int k, u64 *out)
{
    __shared__ u64 least[THREADS];
    for (int round = 0; round < k; round++) {
        u64 best = NOTHING;
#pragma unroll
        for (int j = 0; j < EACH; j++) best = mine[j] < best ? mine[j] : best;
        least[threadIdx.x] = best;
        __syncthreads();
        for (int half = THREADS / 2; half; half >>= 1) {
            if (threadIdx.x < half && least[threadIdx.x + half] < least[threadIdx.x]) least[threadIdx.x] = least[threadIdx.x + half];
            __syncthreads();
        }
        best = least[0];
        __syncthreads();
        if (threadIdx.x == 0) out[round] = best;
#pragma unroll
        for (int j = 0; j < EACH; j++) mine[j] = mine[j] == best ? NOTHING : mine[j];
    }
}

/* Each block picks from SEGMENT columns of a row of blockIdx.y: u64 (rows, segments, k). */
#define EVERY_COLUMN(key)                                                          \
    u64 mine[EACH];                                                                \
    for (int j = 0; j < EACH; j++) {                                               \
        i64 at = (i64)blockIdx.x * SEGMENT + j * THREADS + threadIdx.x;            \
        i64 cell = (i64)blockIdx.y * width + at;                                   \
        mine[j] = at < width ? (key) : NOTHING;                                    \
    }                                                                              \
    pick(mine, k, out + ((i64)blockIdx.y * gridDim.x + blockIdx.x) * k);

extern "C" __global__ void pick_keys(const u64 *keys, i64 width, int k, u64 *out)
{
    EVERY_COLUMN(keys[cell])
}

/* from distances (rows, width); a column's number is base + column, or, listed, ids (rows, width); NaN and what the mask leaves out are not picked */
extern "C" __global__ void pick_far(const float *far, i64 width, u32 base, const i64 *ids, int listed, const u8 *mask, int masked, int k, u64 *out)
{
    EVERY_COLUMN(far[cell] != far[cell] || (masked && !mask[base + at]) ? NOTHING : key_of(far[cell], listed ? (u32)ids[cell] : base + (u32)at))
}

/* From dot products (rows, width) by the least distance that rounding leaves possible; NaN counts as the nearest of all. Of a query and of a
   column: for l2 the square, slack taken off, for ip the norm, a column's times slack, for cosine the inverse norm. */
extern "C" __global__ void pick_dots(const float *dots, i64 width, u32 base, const float *of_query, const float *of_column, int metric,
                                     float slack, const u8 *mask, int masked, int k, u64 *out)
{
    float u = of_query[blockIdx.y];
#define LEAST (metric == L2 ? u + of_column[at] - 2 * dots[cell] : metric == IP ? -dots[cell] - u * of_column[at] : 1 - slack - dots[cell] * u * of_column[at])
    EVERY_COLUMN(masked && !mask[base + at] ? NOTHING : LEAST != LEAST ? (u64)(base + (u32)at) : key_of(LEAST, base + (u32)at))
}
