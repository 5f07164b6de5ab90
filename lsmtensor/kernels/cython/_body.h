/* Distances, compiled once per instruction set: ISA(name) gives each its own names.

   Sums run in W independent lanes that the compiler keeps in registers; the lanes are added at the
   end in a fixed order, so a result depends on the instruction set but on nothing else. */

static inline float ISA(add_lanes)(const float *lane)
{
    float sum = 0;
    for (int i = 0; i < W; i++) sum += lane[i];
    return sum;
}

static float ISA(dot)(const float *a, const float *b, long d)
{
    float lane[W] = {0};
    long i = 0;
    for (; i + W <= d; i += W)
        for (int j = 0; j < W; j++) lane[j] += a[i + j] * b[i + j];
    float rest = 0;
    for (; i < d; i++) rest += a[i] * b[i];
    return ISA(add_lanes)(lane) + rest;
}

static float ISA(square)(const float *a, const float *b, long d)
{
    float lane[W] = {0};
    long i = 0;
    for (; i + W <= d; i += W)
        for (int j = 0; j < W; j++) { float x = a[i + j] - b[i + j]; lane[j] += x * x; }
    float rest = 0;
    for (; i < d; i++) { float x = a[i] - b[i]; rest += x * x; }
    return ISA(add_lanes)(lane) + rest;
}

static float ISA(absolute)(const float *a, const float *b, long d)
{
    float lane[W] = {0};
    long i = 0;
    for (; i + W <= d; i += W)
        for (int j = 0; j < W; j++) lane[j] += __builtin_fabsf(a[i + j] - b[i + j]);
    float rest = 0;
    for (; i < d; i++) rest += __builtin_fabsf(a[i] - b[i]);
    return ISA(add_lanes)(lane) + rest;
}

static float ISA(unequal)(const float *a, const float *b, long d)
{
    long count = 0;
    for (long i = 0; i < d; i++) count += a[i] != b[i];
    return (float)count;
}

/* the distance with the inverse norms known (cosine only) */
static inline float ISA(dist)(const float *a, float sa, const float *b, float sb, long d, int metric)
{
    switch (metric) {
    case 0: return ISA(square)(a, b, d);
    case 1: return -ISA(dot)(a, b, d);
    case 2: return 1.0f - ISA(dot)(a, b, d) * sa * sb;
    case 3: return ISA(absolute)(a, b, d);
    default: return ISA(unequal)(a, b, d);
    }
}

static float ISA(inverse_norm)(const float *a, long d)
{
    float s = ISA(dot)(a, a, d);
    return s > 0 ? 1.0f / __builtin_sqrtf(s) : (s == 0 ? 0.0f : s);
}

static void ISA(one_to_many)(const float *q, const float *points, const long *ids, long n, long d, int metric, float *out)
{
    float sq = metric == 2 ? ISA(inverse_norm)(q, d) : 0;
    for (long i = 0; i < n; i++) {
        const float *p = points + (ids ? ids[i] : i) * d;
        if (ids && i + 2 < n) __builtin_prefetch(points + ids[i + 2] * d);
        float sp = metric == 2 ? ISA(inverse_norm)(p, d) : 0;
        out[i] = ISA(dist)(q, sq, p, sp, d, metric);
    }
}

/* the k nearest of n points, kept in a sorted list; a block of distances is compared with the worst first */
static void ISA(nearest)(const float *q, const float *points, long n, long d, int metric, const unsigned char *mask,
                         long k, long *ids, float *best)
{
    long size = 0;
    float sq = metric == 2 ? ISA(inverse_norm)(q, d) : 0;
    for (long i = 0; i < n; i++) {
        if (mask && !mask[i]) continue;
        const float *p = points + i * d;
        float sp = metric == 2 ? ISA(inverse_norm)(p, d) : 0;
        float x = ISA(dist)(q, sq, p, sp, d, metric);
        if (x != x || (size == k && !(x < best[k - 1]))) continue;
        long at = size < k ? size++ : k - 1;
        for (; at > 0 && best[at - 1] > x; at--) { best[at] = best[at - 1]; ids[at] = ids[at - 1]; }
        best[at] = x;
        ids[at] = i;
    }
}
