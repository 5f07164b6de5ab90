/* Four rows at once for one instruction set; LANES and ISA(name) come from the file that includes this.
   Four rows share one pass over the query: four streams of memory and one reduction hide each other's latency.
   A row's sum never depends on the rows beside it. */

typedef float ISA(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ISA(ivec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define VEC ISA(vec)
#define IVEC ISA(ivec)

static inline VEC ISA(tail)(const float *p, int64_t left)
{
#if LANES == 16
    return (VEC)_mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), p);
#else
    VEC v = {0};
    for (int64_t i = 0; i < left; i++) v[i] = p[i];
    return v;
#endif
}

static inline VEC ISA(some)(const float *p, int64_t left) { return left == LANES ? *(const VEC *)p : ISA(tail)(p, left); }

static inline void ISA(sum4)(VEC a, VEC b, VEC c, VEC d, float *out)
{
#if LANES == 4
    out[0] = (a[0] + a[1]) + (a[2] + a[3]);
    out[1] = (b[0] + b[1]) + (b[2] + b[3]);
    out[2] = (c[0] + c[1]) + (c[2] + c[3]);
    out[3] = (d[0] + d[1]) + (d[2] + d[3]);
#else
    __m256 p, q, r, s;
#if LANES == 16
#define HALVES(v) _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1))
    p = HALVES(a), q = HALVES(b), r = HALVES(c), s = HALVES(d);
#undef HALVES
#else
    p = (__m256)a, q = (__m256)b, r = (__m256)c, s = (__m256)d;
#endif
    __m256 h = _mm256_hadd_ps(_mm256_hadd_ps(p, q), _mm256_hadd_ps(r, s));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
#endif
}

#define STEP_SQUARE(acc, q, p) { VEC x = q - p; acc += x * x; }
#define STEP_DOT(acc, q, p) acc += q * p;
#define STEP_ABSOLUTE(acc, q, p) acc += (VEC)((IVEC)(q - p) & 0x7FFFFFFF);
#define STEP_UNEQUAL(acc, q, p) acc -= __builtin_convertvector((IVEC)(q != p), VEC);

#define FOUR_ROWS(name, STEP)                                                                                          \
    static inline void ISA(name)(const float *q, const float *const *row, int64_t d, float *out)                       \
    {                                                                                                                  \
        VEC a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};                            \
        const float *r0 = row[0], *r1 = row[1], *r2 = row[2], *r3 = row[3];                                            \
        int64_t i = 0;                                                                                                 \
        for (; i + 2 * LANES <= d; i += 2 * LANES) {                                                                   \
            VEC u = *(const VEC *)(q + i), v = *(const VEC *)(q + i + LANES);                                          \
            STEP(a0, u, *(const VEC *)(r0 + i)) STEP(b0, v, *(const VEC *)(r0 + i + LANES))                            \
            STEP(a1, u, *(const VEC *)(r1 + i)) STEP(b1, v, *(const VEC *)(r1 + i + LANES))                            \
            STEP(a2, u, *(const VEC *)(r2 + i)) STEP(b2, v, *(const VEC *)(r2 + i + LANES))                            \
            STEP(a3, u, *(const VEC *)(r3 + i)) STEP(b3, v, *(const VEC *)(r3 + i + LANES))                            \
        }                                                                                                              \
        for (; i < d; i += LANES) {                                                                                    \
            int64_t left = d - i < LANES ? d - i : LANES;                                                              \
            VEC u = ISA(tail)(q + i, left), w;                                                                         \
            w = ISA(tail)(r0 + i, left); STEP(a0, u, w)                                                                \
            w = ISA(tail)(r1 + i, left); STEP(a1, u, w)                                                                \
            w = ISA(tail)(r2 + i, left); STEP(a2, u, w)                                                                \
            w = ISA(tail)(r3 + i, left); STEP(a3, u, w)                                                                \
        }                                                                                                              \
        ISA(sum4)(a0 + b0, a1 + b1, a2 + b2, a3 + b3, out);                                                            \
    }

/* The same sums, one row after the other: rows that lie so are one stream of memory, fetched ahead by STREAM bytes. */
#define STREAM 4096
#define FOUR_NEXT(name, STEP)                                                                                          \
    static inline void ISA(name)(const float *q, const float *row, int64_t d, float *out)                              \
    {                                                                                                                  \
        VEC sum[4];                                                                                                    \
        for (int r = 0; r < 4; r++, row += d) {                                                                        \
            VEC a = {0}, b = {0};                                                                                      \
            int64_t i = 0;                                                                                             \
            for (; i + 2 * LANES <= d; i += 2 * LANES) {                                                               \
                for (int64_t line = 0; line < 2 * LANES; line += 16) __builtin_prefetch(row + i + line + STREAM / 4);  \
                STEP(a, *(const VEC *)(q + i), *(const VEC *)(row + i))                                                \
                STEP(b, *(const VEC *)(q + i + LANES), *(const VEC *)(row + i + LANES))                                \
            }                                                                                                          \
            for (; i < d; i += LANES) {                                                                                \
                int64_t left = d - i < LANES ? d - i : LANES;                                                          \
                VEC u = ISA(tail)(q + i, left), w = ISA(tail)(row + i, left);                                          \
                STEP(a, u, w)                                                                                          \
            }                                                                                                          \
            sum[r] = a + b;                                                                                            \
        }                                                                                                              \
        ISA(sum4)(sum[0], sum[1], sum[2], sum[3], out);                                                                \
    }

FOUR_ROWS(square4, STEP_SQUARE)
FOUR_ROWS(dot4, STEP_DOT)
FOUR_ROWS(absolute4, STEP_ABSOLUTE)
FOUR_ROWS(unequal4, STEP_UNEQUAL)
