/* Rows with their links in pages of a file, and who reads them; what they are is said at page_net in contract_codes.py. */
#ifndef LSMTENSOR_PAGES_H
#define LSMTENSOR_PAGES_H
#include "_checksum.h"
#include "_code_net.h"
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

#define PAGE_BYTES 4096
#define PAGE_BODY 4092
/* the most rows expanded at once, and pages asked for ahead by a scan */
#define PAGE_BEAM 1024
#define PAGE_AHEAD 32

typedef struct {
    const code_net *g;
    const uint8_t *pages, *hot; /* ``warm`` units of ``hot`` are in memory, checked and without their sums */
    const uint32_t *order, *links;
    const int32_t *place, *slot;
    const float *points;
    int64_t per, span, record, width, warm, known;
    int ahead;                  /* the pages are a map of a file: to be asked for before they are read */
} page_net;

/* Of one call: the bodies of units that were read, each where its number leaves it; how many pages that took. */
typedef struct {
    uint8_t *held;
    int64_t *whose;             /* -1: nobody's */
    int64_t room, reads, bad;   /* the page that is damaged, or -1 - the unit whose links lead astray */
} page_reader;

static int page_has_unit;

static void page_begin(void)
{
    crc_tables();
    page_has_unit = crc_has_unit();
}

/* The body of a unit, until another takes its place; NULL where it is damaged. */
static const uint8_t *page_unit(const page_net *f, page_reader *r, int64_t unit)
{
    int64_t bytes = f->span * PAGE_BODY, place = unit % r->room;
    if (unit < f->warm) return f->hot + unit * bytes;
    uint8_t *to = r->held + place * bytes;
    if (r->whose[place] == unit) return to;
    r->whose[place] = -1;
    for (int64_t i = 0; i < f->span; i++) {
        int64_t number = unit * f->span + i;
        const uint8_t *page = f->pages + number * PAGE_BYTES;
        uint32_t sum, start = ~(uint32_t)number;
        memcpy(to + i * PAGE_BODY, page, PAGE_BODY);
        memcpy(&sum, page + PAGE_BODY, 4);
        r->reads++;
        if (sum != ~(page_has_unit ? crc_hard(start, to + i * PAGE_BODY, PAGE_BODY) : crc_plain(start, to + i * PAGE_BODY, PAGE_BODY))) {
            r->bad = number;
            return NULL;
        }
    }
    for (int64_t m = 0; m < f->per; m++) {
        const uint32_t *link = (const uint32_t *)(to + (m + 1) * f->record) - f->width;
        int wrong = 0;
        for (int64_t j = 0; j < f->width; j++) wrong |= link[j] >= f->known && link[j] != GRAPH_NO_LINK;
        if (wrong) {
            r->bad = -1 - unit;
            return NULL;
        }
    }
    r->whose[place] = unit;
    return to;
}

/* Ask for the page of a row, and of its neighbours there. */
static inline void page_soon(const page_net *f, const page_reader *r, uint32_t node)
{
#ifdef MADV_WILLNEED
    int64_t first = f->place[node] / f->per * f->per, last = first + f->per < f->g->n ? first + f->per : f->g->n, before = -1;
    for (int64_t i = first; f->ahead && i < last; i++) {
        int64_t slot = f->slot[f->order[i]], unit = slot < 0 ? -1 : slot / f->per;
        if (unit >= f->warm && unit != before && r->whose[unit % r->room] != unit)
            madvise((void *)(f->pages + unit * f->span * PAGE_BYTES), (size_t)f->span * PAGE_BYTES, MADV_WILLNEED);
        before = unit;
    }
#else
    (void)f, (void)r, (void)node;
#endif
}

/* Put e, expanded, among sorted entries; it may be there unexpanded. */
static inline void page_expand(graph_entry *pool, int64_t *size, int64_t cap, graph_entry e)
{
    int64_t low = 0, count = *size;
    while (count > 0) {
        int64_t half = count >> 1;
        int right = pool[low + half] < e;
        low = right ? low + half + 1 : low;
        count = right ? count - half - 1 : half;
    }
    if (low < *size && (pool[low] | 1) == (e | 1))
        pool[low] |= 1;
    else if (graph_add(pool, *size, cap, e | 1) >= 0)
        *size += *size < cap;
}

static int page_order(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void page_sort(int64_t *of, int64_t n) { qsort(of, (size_t)n, sizeof *of, page_order); }
#endif
