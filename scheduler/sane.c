/* sane.c - every invariant of cache, rows and lists, counted afresh. Slow; for tests. */
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

#define MUST(cond, ...)                                                                            \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            (void)err_set(e, ERR_INTERNAL, NULL, __VA_ARGS__);                                     \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

/* owner[page] counts who holds it: the free list or one block. */
static bool pages_sane(const cache *c, uint8_t *owner, err *e) {
    memset(owner, 0, c->n_pages);
    uint32_t free_pages = 0;
    for (uint32_t p = c->free_page; p != NONE && free_pages <= c->n_pages; p = c->page_next[p]) {
        MUST(p < c->n_pages && owner[p]++ == 0, "page %u stands twice in the free list", p);
        free_pages++;
    }
    MUST(free_pages == c->n_free_pages, "%u free pages, %u counted", free_pages, c->n_free_pages);
    uint64_t used = 0, all = 0;
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        const block *k = &c->blocks[b];
        if (!k->taken) continue;
        uint32_t n = 0;
        for (uint32_t p = k->pages; p != NONE && n <= k->n_pages; p = c->page_next[p], n++) {
            MUST(p < c->n_pages && owner[p]++ == 0, "page %u of block %u has two owners", p, b);
        }
        MUST(n == k->n_pages, "block %u has %u pages, %u counted", b, n, k->n_pages);
        MUST(k->used + k->n_spare + k->left == n * PAGE_SLOTS, "block %u: slots do not add up", b);
        used += k->used;
        all += k->all;
    }
    for (uint32_t p = 0; p < c->n_pages; p++)
        MUST(owner[p] == 1, "page %u leaked", p);
    MUST(used == c->used && all == c->all, "sums of slots are off");
    return true;
}

static bool blocks_sane(const scheduler *s, uint32_t *refs, err *e) {
    const cache *c = &s->cache;
    memset(refs, 0, c->n_blocks * sizeof *refs);
    for (const list_link *r = s->running.next; r != &s->running; r = r->next) {
        const seq *q = OWNER_OF((uintptr_t)r, seq, rank);
        for (uint32_t i = 0; i < q->n_blocks; i++)
            refs[q->blocks[i]]++;
    }
    uint32_t free_blocks = 0, cached = 0, cached_pages = 0, in_table = 0, marked = 0;
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        const block *k = &c->blocks[b];
        free_blocks += !k->taken;
        MUST(k->taken || refs[b] == 0, "block %u is free and in use", b);
        if (!k->taken) continue;
        MUST(k->refs == refs[b], "block %u has %u references, %u counted", b, k->refs, refs[b]);
        MUST(k->refs > 0 || k->cached, "block %u leaked", b);
        marked += k->cached;
        cached += k->refs == 0;
        cached_pages += k->refs == 0 ? k->n_pages : 0;
    }
    for (uint32_t i = 0; i < c->n_buckets; i++) {
        for (uint32_t b = c->buckets[i]; b != NONE && in_table <= marked;
             b = c->blocks[b].hash_next)
            in_table++;
    }
    MUST(free_blocks == c->n_free_blocks, "%u free blocks, %u counted", free_blocks,
         c->n_free_blocks);
    MUST(cached == c->n_cached_blocks, "%u blocks evictable, %u counted", cached,
         c->n_cached_blocks);
    MUST(cached_pages == c->n_cached_pages, "%u pages evictable, %u counted", cached_pages,
         c->n_cached_pages);
    MUST(in_table == marked, "%u blocks cached, %u in the table", marked, in_table);
    return true;
}

/* What a tenant's blocks hold, and the list of those evictable. */
static bool part_sane(const cache *c, uint32_t tenant, uint32_t *in_lru, err *e) {
    const cache_part *part = &c->parts[tenant];
    uint32_t pages = 0, cached_pages = 0, listed = 0;
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        const block *k = &c->blocks[b];
        if (k->taken && k->tenant == tenant) pages += k->n_pages;
    }
    uint32_t before = NONE;
    for (uint32_t b = part->lru_first; b != NONE && listed <= c->n_blocks;
         b = c->blocks[b].lru_next) {
        const block *k = &c->blocks[b];
        MUST(k->taken && k->cached && k->refs == 0 && k->tenant == tenant,
             "block %u is not evictable, or of another tenant", b);
        MUST(k->lru_prev == before, "the list of evictable blocks is broken at %u", b);
        before = b;
        cached_pages += k->n_pages;
        listed++;
    }
    MUST(part->lru_last == before, "the list of evictable blocks has a wrong end");
    MUST(pages == part->n_pages, "tenant %u holds %u pages, %u counted", tenant, pages,
         part->n_pages);
    MUST(listed == part->n_cached_blocks && cached_pages == part->n_cached_pages,
         "what only the cache holds of tenant %u is miscounted", tenant);
    *in_lru += listed;
    return true;
}

static bool parts_sane(const cache *c, err *e) {
    uint32_t in_lru = 0;
    for (uint32_t i = 0; i < c->n_parts; i++) {
        if (!part_sane(c, i, &in_lru, e)) return false;
    }
    MUST(in_lru == c->n_cached_blocks, "%u blocks evictable, %u listed", c->n_cached_blocks,
         in_lru);
    return true;
}

static bool cohort_sane(const scheduler *s, const cohort *c, uint8_t *seen, err *e) {
    uint32_t n = 0, live = 0, tail = 0;
    for (uint32_t row = c->head; row != NONE && n <= c->n; row = s->rows[row].next, n++) {
        MUST(seen[row]++ == 0, "row %u has two owners", row);
        MUST(s->rows[row].pos == c->first + n, "row %u has the wrong position", row);
        MUST(s->rows[row].state != ROW_FREE, "row %u is free and in use", row);
        live += s->rows[row].state == ROW_LIVE;
        tail += s->rows[row].state == ROW_TAIL;
    }
    MUST(n == c->n && live == c->n_live && tail == c->n_tail, "rows of a cohort do not add up");
    MUST(c->looping == !list_empty(&c->loop), "a cohort is in the wrong list");
    MUST(!c->looping || live + tail > 0, "a cohort loops without rows");
    for (uint32_t i = 0; i < MAX_FLIGHTS; i++) {
        const flight *f = &s->flights[i];
        bool out = (i + MAX_FLIGHTS - s->first_out) % MAX_FLIGHTS < s->n_out;
        MUST(c->pick[i] == NONE || (out && c->pick[i] < f->n_picks && f->picks[c->pick[i]] == c),
             "a cohort is still in a launch that is settled");
    }
    MUST(!c->parked || !sched__loop_is_out(s, c), "a parked cohort is in a launch");
    return true;
}

static bool rows_sane(const scheduler *s, uint8_t *seen, err *e) {
    memset(seen, 0, s->n_rows);
    uint32_t n_free = 0, live = 0, tail = 0, parked = 0, coda = 0, prelude = 0, decode = 0;
    for (uint32_t row = s->free_row; row != NONE && n_free <= s->n_rows; row = s->rows[row].next) {
        MUST(seen[row]++ == 0 && s->rows[row].state == ROW_FREE, "row %u is free twice, or in use",
             row);
        n_free++;
    }
    MUST(n_free == s->n_free_rows, "%u free rows, %u counted", n_free, s->n_free_rows);
    for (const list_link *r = s->running.next; r != &s->running; r = r->next) {
        const seq *q = OWNER_OF((uintptr_t)r, seq, rank);
        uint32_t loop = PLAN_MAX_LOOPS, at = q->first ? q->first->first : q->next_start;
        for (const cohort *c = q->first; c; c = c->after) {
            MUST(c->owner == q && c->first == at, "cohorts of a sequence leave a gap");
            at += c->n;
            if (!cohort_sane(s, c, seen, e)) return false;
            if (c->n_live + c->n_tail > 0 && s->fault != FAULT_BREAK_RULE) {
                MUST(c->next_loop <= loop, "a cohort overtook the one before");
                loop = c->next_loop;
            }
            decode += c->decode;
            bool before = !c->looping && c->next_loop == 0;
            live += c->looping ? c->n_live : 0;
            tail += c->looping && !c->parked ? c->n_tail : 0;
            parked += c->parked ? c->n_tail : 0;
            MUST(!c->parked || (c->n_live == 0 && c->next_loop >= q->frontier),
                 "a row that is needed is parked");
            prelude += before ? c->n : 0;
            coda += !before && !list_empty(&c->stage) && !c->unmasked ? c->n_coda : 0;
        }
        MUST(at == q->next_start, "cohorts of a sequence end early");
    }
    for (uint32_t row = 0; row < s->n_rows; row++)
        MUST(seen[row] == 1, "row %u leaked", row);
    MUST(live == s->n_looping_live && tail == s->n_looping_tail && parked == s->n_parked,
         "looping rows are miscounted");
    MUST(decode == s->n_decode_rows, "%u rows decode, %u counted", decode, s->n_decode_rows);
    MUST(prelude == s->n_to_prelude && coda == s->n_to_coda, "waiting rows are miscounted");
    return true;
}

static bool in_order(const seq *a, const seq *b) {
    return a == NULL || a->order < b->order || (a->order == b->order && a->arrival < b->arrival);
}

static bool tenant_sane(const scheduler *s, const sched_tenant *t, uint64_t *tokens, err *e) {
    uint32_t running = 0, waiting = 0, rows = 0;
    uint64_t own = 0;
    const seq *before = NULL;
    for (const list_link *r = t->waiting.next; r != &t->waiting; r = r->next) {
        const seq *q = OWNER_OF((uintptr_t)r, seq, rank);
        MUST(q->state == SEQ_WAITING && q->n_blocks == 0 && q->first == NULL,
             "a waiting sequence holds something");
        MUST(sched__tenant_of(s, q) == t, "a sequence waits among those of another tenant");
        MUST(in_order(before, q), "the waiting are out of order");
        before = q;
        waiting++;
        own += q->n_tokens;
    }
    for (const list_link *r = s->running.next; r != &s->running; r = r->next) {
        const seq *q = OWNER_OF((uintptr_t)r, seq, rank);
        if (sched__tenant_of(s, q) != t) continue;
        running++;
        for (const cohort *c = q->first; c; c = c->after)
            rows += c->n;
    }
    MUST(running == t->n_running && waiting == t->n_waiting && own == t->waiting_tokens &&
             rows == t->n_rows,
         "a tenant's sequences or rows are miscounted");
    MUST(running + waiting == 0 || !list_empty(&t->active), "a tenant with work is not active");
    *tokens += own;
    return true;
}

static bool lists_sane(const scheduler *s, err *e) {
    uint32_t running = 0, waiting = 0;
    uint64_t tokens = 0;
    const seq *before = NULL;
    for (const list_link *r = s->running.next; r != &s->running; r = r->next) {
        const seq *q = OWNER_OF((uintptr_t)r, seq, rank);
        MUST(q->state == SEQ_RUNNING, "the running list is wrong");
        MUST(in_order(before, q), "the running are out of order");
        before = q;
        running++;
    }
    for (uint32_t i = 0; i < s->n_tenants; i++) {
        if (!tenant_sane(s, &s->tenants[i], &tokens, e)) return false;
        waiting += s->tenants[i].n_waiting;
    }
    MUST(running == s->n_running && waiting == s->n_waiting && tokens == s->waiting_tokens,
         "sequences are miscounted");
    MUST(running <= s->limits.opts.max_running, "more run than there are places");
    return true;
}

bool sched_sane(const scheduler *s, err *e) {
    uint8_t *pages = array_new(s->cache.n_pages, 1), *rows = array_new(s->n_rows, 1);
    uint32_t *refs = array_new(s->cache.n_blocks, sizeof *refs);
    bool ok = pages && rows && refs;
    if (!ok) (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory to look");
    ok = ok && pages_sane(&s->cache, pages, e) && blocks_sane(s, refs, e) &&
         parts_sane(&s->cache, e) && rows_sane(s, rows, e) && lists_sane(s, e);
    free(pages);
    free(rows);
    free(refs);
    return ok;
}
