/* Products of one query's whole numbers with four rows of codes, and distances between codes, for one instruction set. */

#if ISA_LEVEL == 2

static inline void ISA(sums)(__m512i a, __m512i b, __m512i c, __m512i d, int32_t *out)
{
#define HALVES(v) _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1))
    __m256i h = _mm256_hadd_epi32(_mm256_hadd_epi32(HALVES(a), HALVES(b)), _mm256_hadd_epi32(HALVES(c), HALVES(d)));
#undef HALVES
    _mm_storeu_si128((__m128i *)out, _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

static inline void ISA(dot8)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i < stride; i += LINE) {
        __m512i u = _mm512_load_si512(q + i);
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row[0] + i), u);
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(row[1] + i), u);
        c = _mm512_dpbusd_epi32(c, _mm512_loadu_si512(row[2] + i), u);
        d = _mm512_dpbusd_epi32(d, _mm512_loadu_si512(row[3] + i), u);
    }
    ISA(sums)(a, b, c, d, out);
}

static inline void ISA(dot4bit)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i < stride; i += LINE) {
        __m512i u = _mm512_load_si512(q + 2 * i), v = _mm512_load_si512(q + 2 * i + LINE), x;
#define STEP(acc, r)                                                                                                   \
    x = _mm512_loadu_si512(row[r] + i);                                                                                \
    acc = _mm512_dpbusd_epi32(acc, _mm512_and_si512(x, low), u);                                                       \
    acc = _mm512_dpbusd_epi32(acc, _mm512_and_si512(_mm512_srli_epi16(x, 4), low), v);
        STEP(a, 0) STEP(b, 1) STEP(c, 2) STEP(d, 3)
#undef STEP
    }
    ISA(sums)(a, b, c, d, out);
}

static inline int32_t ISA(apart)(const uint8_t *q, const uint8_t *row, int64_t stride, int metric)
{
    __m512i sum = _mm512_setzero_si512();
    int64_t unequal = 0;
    for (int64_t i = 0; i < stride; i += LINE) {
        __m512i a = _mm512_loadu_si512(q + i), b = _mm512_loadu_si512(row + i);
        if (metric == 3)
            sum = _mm512_add_epi64(sum, _mm512_sad_epu8(a, b));
        else
            unequal += __builtin_popcountll(_mm512_cmpneq_epi8_mask(a, b));
    }
    return (int32_t)(metric == 3 ? _mm512_reduce_add_epi64(sum) : unequal);
}

#elif ISA_LEVEL == 1

static inline int32_t ISA(sum)(__m256i v)
{
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xB1)));
}

/* bytes are widened: pairs of 255 * 127 do not fit the 16 bits of a product of bytes */
static inline void ISA(dot8)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    __m256i acc[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t i = 0; i < stride; i += 16) {
        __m256i u = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(q + i)));
        for (int r = 0; r < 4; r++)
            acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(u, _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(row[r] + i)))));
    }
    for (int r = 0; r < 4; r++) out[r] = ISA(sum)(acc[r]);
}

/* 15 * 127 * 2 fits 16 bits, and eight of those too */
static inline void ISA(dot4bit)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    __m256i acc[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t i = 0; i < stride; i += LINE)
        for (int r = 0; r < 4; r++) {
            __m256i pairs = _mm256_setzero_si256();
            for (int64_t h = 0; h < LINE; h += 32) {
                __m256i x = _mm256_loadu_si256((const __m256i *)(row[r] + i + h));
                __m256i u = _mm256_load_si256((const __m256i *)(q + 2 * i + h)), v = _mm256_load_si256((const __m256i *)(q + 2 * i + LINE + h));
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(_mm256_and_si256(x, low), u));
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), low), v));
            }
            acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(pairs, one));
        }
    for (int r = 0; r < 4; r++) out[r] = ISA(sum)(acc[r]);
}

static inline int32_t ISA(apart)(const uint8_t *q, const uint8_t *row, int64_t stride, int metric)
{
    __m256i sum = _mm256_setzero_si256();
    int64_t unequal = 0;
    for (int64_t i = 0; i < stride; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(q + i)), b = _mm256_loadu_si256((const __m256i *)(row + i));
        if (metric == 3)
            sum = _mm256_add_epi64(sum, _mm256_sad_epu8(a, b));
        else
            unequal += 32 - __builtin_popcount((unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)));
    }
    return metric == 3 ? ISA(sum)(sum) : (int32_t)unequal;
}

#else

static inline void ISA(dot8)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    for (int r = 0; r < 4; r++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < stride; i++) sum += (int32_t)q[i] * row[r][i];
        out[r] = sum;
    }
}

static inline void ISA(dot4bit)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    for (int r = 0; r < 4; r++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < stride; i += LINE)
            for (int64_t j = 0; j < LINE; j++)
                sum += (int32_t)q[2 * i + j] * (row[r][i + j] & 15) + (int32_t)q[2 * i + LINE + j] * (row[r][i + j] >> 4);
        out[r] = sum;
    }
}

static inline int32_t ISA(apart)(const uint8_t *q, const uint8_t *row, int64_t stride, int metric)
{
    int32_t sum = 0;
    for (int64_t i = 0; i < stride; i++) sum += metric == 3 ? abs((int)q[i] - (int)row[i]) : q[i] != row[i];
    return sum;
}

#endif
