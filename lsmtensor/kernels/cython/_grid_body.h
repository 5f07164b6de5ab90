/* The loops over grids for one instruction set. A tile holds value j of LANES rows in one vector, so that every loop runs over values and no sum
   crosses lanes: a row's result does not depend on the rows beside it. */

typedef float ISA(wide) __attribute__((vector_size(4 * LANES)));
typedef int32_t ISA(whole) __attribute__((vector_size(4 * LANES)));
typedef uint16_t ISA(halves) __attribute__((vector_size(2 * LANES)));
typedef uint8_t ISA(bytes) __attribute__((vector_size(LANES)));
#define WIDE ISA(wide)
#define WHOLE ISA(whole)
#define HALVES ISA(halves)
#define BYTES ISA(bytes)
#define PICK(mask, a, b) ((WIDE)(((WHOLE)(a) & (mask)) | ((WHOLE)(b) & ~(mask))))
#define CLIP(v, low, high) (v = PICK(v < (low), (low), v), v = PICK(v > (high), (high), v))
/* to the nearest whole number, halves to even: right below 2^22, and what is clipped first is */
#define NEAREST(v) ((v) + 12582912.0f - 12582912.0f)

/* The rows [0, rows) of x, the last of them again in lanes that are over. */
static inline void ISA(tile_in)(const float *x, int64_t d, int64_t rows, float *tile)
{
    const float *from[LANES];
    for (int64_t r = 0; r < LANES; r++) from[r] = x + (r < rows ? r : rows - 1) * d;
    for (int64_t j = 0; j < d; j++)
        for (int64_t r = 0; r < LANES; r++) tile[j * LANES + r] = from[r][j];
}

static void ISA(grid_turn)(const float *x, int64_t n, int64_t d, const float *signs, int64_t rounds, int back, void *room, float *out)
{
    WIDE *tile = room;
    int64_t t = 1;
    while (2 * t <= d) t *= 2;
    const float by = (float)(1 / sqrt((double)t));
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t rows = n - i < LANES ? n - i : LANES;
        ISA(tile_in)(x + i * d, d, rows, (float *)tile);
        for (int64_t step = 0; step < rounds; step++) {
            int64_t r = back ? rounds - 1 - step : step;
            const float *sign = signs + r * d;
            WIDE *part = tile + (r % 2 ? d - t : 0);
            if (!back)
                for (int64_t j = 0; j < d; j++) tile[j] *= sign[j];
            for (int64_t h = 1; h < t; h *= 2)
                for (int64_t from = 0; from < t; from += 2 * h)
                    for (int64_t j = from; j < from + h; j++) {
                        WIDE a = part[j], b = part[j + h];
                        part[j] = a + b, part[j + h] = a - b;
                    }
            for (int64_t j = 0; j < t; j++) part[j] *= by;
            if (back)
                for (int64_t j = 0; j < d; j++) tile[j] *= sign[j];
        }
        const float *flat = (const float *)tile;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < d; j++) out[(i + r) * d + j] = flat[j * LANES + r];
    }
}

/* Bits that wait to be whole bytes, of every lane as many. */
typedef struct {
    WHOLE waiting;
    int have;
    BYTES *to;
} ISA(packer);

static inline __attribute__((always_inline)) void ISA(pack)(ISA(packer) *p, const WIDE *codes, int bits)
{
    p->waiting |= __builtin_convertvector(*codes, WHOLE) << p->have;
    p->have += bits;
    if (p->have >= 8) {
        *p->to++ = __builtin_convertvector(p->waiting, BYTES);
        p->waiting >>= 8, p->have -= 8;
    }
}

static inline void ISA(pack_end)(ISA(packer) *p)
{
    if (p->have) *p->to++ = __builtin_convertvector(p->waiting, BYTES);
    p->waiting = (WHOLE){0}, p->have = 0;
}

/* Packed bytes to rows ``stride`` apart. */
static inline void ISA(tile_out)(const BYTES *packed, int64_t size, int64_t rows, uint8_t *out, int64_t stride)
{
    const uint8_t *flat = (const uint8_t *)packed;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < size; j++) out[r * stride + j] = flat[j * LANES + r];
}

static inline void ISA(floats_out)(const WIDE *values, int64_t rows, uint8_t *out, int64_t stride)
{
    for (int64_t r = 0; r < rows; r++) memcpy(out + r * stride, (const float *)values + r, 4);
}

static void ISA(grid_scalar)(const float *x, int64_t n, int64_t d, const float *low, const float *by, int bits, void *room, uint8_t *out)
{
    WIDE *tile = room;
    BYTES *packed = (BYTES *)(tile + d);
    const WIDE none = {0}, top = none + (float)((1 << bits) - 1);
    int64_t size = (d * bits + 7) / 8;
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t rows = n - i < LANES ? n - i : LANES;
        ISA(tile_in)(x + i * d, d, rows, (float *)tile);
        ISA(packer) p = {{0}, 0, packed};
        for (int64_t j = 0; j < d; j++) {
            WIDE v = (tile[j] - low[j]) * by[j];
            CLIP(v, none, top);
            v = NEAREST(v);
            ISA(pack)(&p, &v, bits);
        }
        ISA(pack_end)(&p);
        ISA(tile_out)(packed, size, rows, out + i * size, size);
    }
}

static void ISA(grid_grid)(const float *x, int64_t n, int64_t d, int bits, int second, const float *shares, int64_t count, void *room, uint8_t *out,
                           int64_t stride)
{
    WIDE *tile = room;
    BYTES *packed = (BYTES *)(tile + d);
    const WIDE none = {0}, top = none + (float)((1 << bits) - 1), finer = none + (float)(1 << second);
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t rows = n - i < LANES ? n - i : LANES;
        ISA(tile_in)(x + i * d, d, rows, (float *)tile);
        WIDE low = tile[0], high = low;
        for (int64_t j = 1; j < d; j++) low = PICK(tile[j] < low, tile[j], low), high = PICK(tile[j] > high, tile[j], high);
        WIDE middle = (low + high) / 2, half = (high - low) / 2, best = none + INFINITY, begin = low, step = none + 1;
        for (int64_t s = 0; s < count; s++) {
            WIDE start = middle - half * shares[s], unit = 2 * half * shares[s] / top, error = none;
            unit = PICK(unit > none, unit, none + 1);
            if (count == 1) {
                begin = start, step = unit;
                break;
            }
            WIDE inverse = 1 / unit;
            for (int64_t j = 0; j < d; j++) {
                WIDE v = (tile[j] - start) * inverse;
                CLIP(v, none, top);
                v = NEAREST(v);
                v = v * unit + start - tile[j];
                error += v * v;
            }
            WHOLE better = error < best;
            best = PICK(better, error, best), begin = PICK(better, start, begin), step = PICK(better, unit, step);
        }
        WIDE inverse = 1 / step;
        ISA(packer) p = {{0}, 0, packed};
        for (int64_t j = 0; j < d; j++) {
            WIDE v = (tile[j] - begin) * inverse;
            CLIP(v, none, top);
            v = NEAREST(v);
            ISA(pack)(&p, &v, bits);
            tile[j] = (tile[j] - (v * step + begin)) * inverse + 0.5f;
        }
        ISA(pack_end)(&p);
        if (second) {
            for (int64_t j = 0; j < d; j++) {
                WIDE v = tile[j] * finer, last = finer - 1;
                CLIP(v, none, last); /* what is cut off below is its floor */
                ISA(pack)(&p, &v, second);
            }
            ISA(pack_end)(&p);
        }
        int64_t size = p.to - packed;
        ISA(tile_out)(packed, size, rows, out + i * stride, stride);
        ISA(floats_out)(&begin, rows, out + i * stride + size, stride);
        ISA(floats_out)(&step, rows, out + i * stride + size + 4, stride);
    }
}

/* The grid point of a value in units: halves, none at zero. */
#define POINT(v, whole, reach) \
    (CLIP(v, -(reach) - 1, reach), whole = NEAREST(v), whole = PICK(whole > v, whole - 1, whole) + 0.5f, CLIP(whole, -(reach), reach))

static void ISA(grid_angle)(const float *x, int64_t n, int64_t d, int bits, const float *shares, int64_t count, void *room, uint8_t *out, int64_t stride)
{
    WIDE *tile = room;
    BYTES *packed = (BYTES *)(tile + d);
    const WIDE none = {0}, reach = none + (float)((1 << bits) - 1) / 2;
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t rows = n - i < LANES ? n - i : LANES;
        ISA(tile_in)(x + i * d, d, rows, (float *)tile);
        WIDE spread = none, square = none, best = none - 1, inverse = none + 1, inner = none, v, point;
        for (int64_t j = 0; j < d; j++) {
            WIDE size = PICK(tile[j] < none, -tile[j], tile[j]);
            spread = PICK(size > spread, size, spread);
            square += size * size;
        }
        spread = PICK(spread > none, spread, none + 1);
        for (int64_t s = 0; s < count; s++) {
            WIDE by = 1 / (spread * (shares[s] * 2 / (float)(1 << bits))), dot = none, norm = none;
            for (int64_t j = 0; j < d; j++) {
                v = tile[j] * by;
                POINT(v, point, reach);
                dot += point * tile[j], norm += point * point;
            }
            WIDE angle = dot * dot / norm;
            WHOLE better = angle > best;
            best = PICK(better, angle, best), inverse = PICK(better, by, inverse), inner = PICK(better, dot, inner);
        }
        ISA(packer) p = {{0}, 0, packed};
        for (int64_t j = 0; j < d; j++) {
            v = tile[j] * inverse;
            POINT(v, point, reach);
            v = point + reach;
            ISA(pack)(&p, &v, bits);
        }
        ISA(pack_end)(&p);
        WIDE factor = PICK(inner > none, square / PICK(inner > none, inner, none + 1), none);
        int64_t size = p.to - packed;
        ISA(tile_out)(packed, size, rows, out + i * stride, stride);
        ISA(floats_out)(&factor, rows, out + i * stride + size, stride);
    }
}
/* The bits of n values in half precision; see numpy_grid.py. Small ones of IEEE's are rounded by adding 0.5, whose last bit is theirs. */
static void ISA(grid_half)(const float *x, int64_t n, int brain, uint16_t *out)
{
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t have = n - i < LANES ? n - i : LANES;
        WIDE v = {0};
        WHOLE made;
        memcpy(&v, x + i, 4 * (size_t)have);
        WHOLE size = (WHOLE)v & 0x7fffffff, sign = ((WHOLE)v ^ size) >> 16 & 0x8000;
        if (brain) {
            made = (size + 0x7fff + (size >> 16 & 1)) >> 16;
            WHOLE past = made >= 0x7f80;
            made = (made & ~past) | (0x7f7f & past);
        } else {
            WHOLE past = size > 0x477fe000;
            size = (size & ~past) | (0x477fe000 & past);
            WHOLE small = size < (113 << 23), tiny = (WHOLE)((WIDE)size + 0.5f) - (126 << 23);
            made = (size - (112 << 23) + 0xfff + (size >> 13 & 1)) >> 13;
            made = (tiny & small) | (made & ~small);
        }
        HALVES halves = __builtin_convertvector(made | sign, HALVES);
        memcpy(out + i, &halves, 2 * (size_t)have);
    }
}
#undef WIDE
#undef HALVES
#undef WHOLE
#undef BYTES
#undef PICK
#undef CLIP
#undef NEAREST
#undef POINT
