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

/* owner[page] counts its holders: the free list, or one block. */
static bool pages_sane(const kv_cache *cache, uint8_t *owner, err *e) {
    memset(owner, 0, cache->n_pages);
    uint32_t free_pages = 0;
    for (uint32_t page = cache->first_free_page; page != NONE && free_pages <= cache->n_pages;
         page = cache->page_next[page]) {
        MUST(page < cache->n_pages && owner[page]++ == 0, "page %u stands twice in the free list",
             page);
        free_pages++;
    }
    MUST(cache->n_promised_pages == 0, "%u pages are promised", cache->n_promised_pages);
    MUST(free_pages == cache->n_free_pages, "%u free pages, %u counted", free_pages,
         cache->n_free_pages);
    uint64_t used = 0, all = 0;
    for (uint32_t id = 0; id < cache->n_blocks; id++) {
        const block *blk = &cache->blocks[id];
        if (!blk->taken) continue;
        uint32_t n = 0, spare = 0;
        for (uint32_t page = blk->pages; page != NONE && n <= blk->n_pages;
             page = cache->page_next[page], n++) {
            MUST(page < cache->n_pages && owner[page]++ == 0, "page %u of block %u has two owners",
                 page, id);
            spare += (uint32_t)__builtin_popcount(cache->spare[page]);
        }
        MUST(spare == blk->n_spare, "block %u has %u slots given back, %u counted", id, spare,
             blk->n_spare);
        MUST(n == blk->n_pages, "block %u has %u pages, %u counted", id, n, blk->n_pages);
        MUST(blk->n_promised == 0, "block %u has promised slots that no launch took", id);
        MUST(blk->n_used + blk->n_spare + blk->n_unused == n * PAGE_SLOTS,
             "block %u: slots do not add up", id);
        used += blk->n_used;
        all += blk->full_depth_slots;
    }
    for (uint32_t page = 0; page < cache->n_pages; page++)
        MUST(owner[page] == 1, "page %u leaked", page);
    MUST(used == cache->n_used && all == cache->full_depth_slots, "sums of slots are off");
    return true;
}

static bool blocks_sane(const scheduler *sched, uint32_t home, uint32_t *refs, err *e) {
    const kv_cache *cache = &sched->caches[home];
    memset(refs, 0, cache->n_blocks * sizeof *refs);
    for (const list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        for (uint32_t i = 0; i < seq->n_blocks && seq->prefix_key.home == home; i++) {
            MUST(seq->blocks[i] < cache->n_blocks, "block %u is of no cache", seq->blocks[i]);
            refs[seq->blocks[i]]++;
        }
    }
    uint32_t free_blocks = 0, cached = 0, cached_pages = 0, in_table = 0, marked = 0;
    for (uint32_t id = 0; id < cache->n_blocks; id++) {
        const block *blk = &cache->blocks[id];
        free_blocks += !blk->taken;
        MUST(blk->taken || refs[id] == 0, "block %u is free and in use", id);
        if (!blk->taken) continue;
        MUST(blk->refs == refs[id], "block %u has %u references, %u counted", id, blk->refs,
             refs[id]);
        MUST(blk->refs > 0 || blk->cached, "block %u leaked", id);
        marked += blk->cached;
        MUST(!blk->cached || cache->contents[id].key.home == home,
             "the prefix cache of home %u has a block of home %u", home,
             cache->contents[id].key.home);
        cached += blk->refs == 0;
        cached_pages += blk->refs == 0 ? blk->n_pages : 0;
    }
    for (uint32_t i = 0; i < cache->n_buckets; i++) {
        for (uint32_t id = cache->buckets[i]; id != NONE && in_table <= marked;
             id = cache->blocks[id].hash_next)
            in_table++;
    }
    MUST(free_blocks == cache->n_free_blocks, "%u free blocks, %u counted", free_blocks,
         cache->n_free_blocks);
    MUST(cached == cache->n_cached_blocks, "%u blocks evictable, %u counted", cached,
         cache->n_cached_blocks);
    MUST(cached_pages == cache->n_cached_pages, "%u pages evictable, %u counted", cached_pages,
         cache->n_cached_pages);
    MUST(in_table == marked, "%u blocks cached, %u in the table", marked, in_table);
    return true;
}

/* The pages of a tenant's blocks, and its list of evictable blocks. */
static bool part_sane(const kv_cache *cache, uint32_t tenant, uint32_t *in_lru, err *e) {
    const cache_part *part = &cache->parts[tenant];
    uint32_t pages = 0, cached_pages = 0, listed = 0;
    for (uint32_t id = 0; id < cache->n_blocks; id++) {
        const block *blk = &cache->blocks[id];
        if (blk->taken && blk->tenant == tenant) pages += blk->n_pages;
    }
    uint32_t before = NONE;
    for (uint32_t id = part->lru_first; id != NONE && listed <= cache->n_blocks;
         id = cache->blocks[id].lru_next) {
        const block *blk = &cache->blocks[id];
        MUST(blk->taken && blk->cached && blk->refs == 0 && blk->tenant == tenant,
             "block %u is not evictable, or of another tenant", id);
        MUST(blk->lru_prev == before, "the list of evictable blocks is broken at %u", id);
        before = id;
        cached_pages += blk->n_pages;
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

static bool parts_sane(const kv_cache *cache, err *e) {
    uint32_t in_lru = 0;
    for (uint32_t i = 0; i < cache->n_parts; i++) {
        if (!part_sane(cache, i, &in_lru, e)) return false;
    }
    MUST(in_lru == cache->n_cached_blocks, "%u blocks evictable, %u listed", cache->n_cached_blocks,
         in_lru);
    return true;
}

static bool is_out(const scheduler *sched, const flight *fl) {
    uint32_t i = (uint32_t)(fl - sched->flights);
    return (i + sched->max_flights - sched->first_out) % sched->max_flights < sched->n_out;
}

static bool cohort_sane(const scheduler *sched, const cohort *coh, uint8_t *seen, err *e) {
    uint32_t n = 0, live = 0, tail = 0;
    for (uint32_t row = coh->first_row; row != NONE && n <= coh->n_rows;
         row = sched->rows[row].next, n++) {
        MUST(seen[row]++ == 0, "row %u has two owners", row);
        MUST(sched->rows[row].pos == coh->first + n, "row %u has the wrong position", row);
        MUST(sched->rows[row].state != ROW_FREE, "row %u is free and in use", row);
        live += sched->rows[row].state == ROW_LIVE;
        tail += sched->rows[row].state == ROW_TAIL;
    }
    MUST(n == coh->n_rows && live == coh->n_live && tail == coh->n_tail,
         "rows of a cohort do not add up");
    MUST(coh->looping == !list_empty(&coh->loop_link), "a cohort is in the wrong list");
    MUST(!coh->looping || live + tail > 0, "a cohort loops without rows");
    for (list_link *link = coh->picks.next; link != &coh->picks; link = link->next) {
        const picked *pick = sched__pick_at(link);
        MUST(pick->cohort == coh && is_out(sched, pick->flight),
             "a cohort is still in a launch that is settled");
    }
    MUST(!coh->parked || !sched__loop_is_out(coh), "a parked cohort is in a launch");
    return true;
}

/* Policy collapse: a row is at most a tick behind the one that its sequence's live row is about to
 * run, and a position gives its slots back when the tick after its last loop begins. */
static bool clock_sane(const cohort *coh, err *e) {
    const sequence *seq = coh->owner;
    uint32_t tick = sched__tick(coh), n_loops = seq->prefix_key.max_loops;
    bool runs_on = coh->looping && coh->next_loop < n_loops;
    MUST(coh->timed == (coh->first >= seq->timed_from), "a position is timed, or not, by mistake");
    if (!coh->timed) return true;
    MUST(coh->n_rows == 1 && coh->decode, "a chunk is timed");
    MUST(!runs_on || (tick + 2 >= seq->frontier && (coh->n_live > 0 || tick <= seq->frontier)),
         "position %u is at tick %u, its sequence before %u", coh->first, tick, seq->frontier);
    MUST(coh->collapsed || coh->began + n_loops + 1 >= seq->frontier,
         "position %u began at tick %u and is not collapsed before %u", coh->first, coh->began,
         seq->frontier);
    return true;
}

/* Drafts stand behind the known tokens, one row each, and only a row that loops may draft. */
static bool drafts_sane(const cohort *coh, err *e) {
    const sequence *seq = coh->owner;
    MUST(coh->draft == (coh->first >= seq->n_tokens), "position %u of %u known is a draft: %d",
         coh->first, seq->n_tokens, coh->draft);
    MUST(!coh->draft || (coh->n_rows == 1 && coh->decode), "a chunk is drafted");
    MUST(!sched__waits_to_draft(coh) || (coh->n_live > 0 && !list_empty(&coh->stage_link)),
         "a cohort waits to draft that has left the loop");
    bool for_last_coda = !list_empty(&coh->stage_link) && coh->n_live == 0 && !coh->awaits_mask;
    MUST(!for_last_coda || !sched__lacks_mask(coh),
         "position %u enters the coda without its mask, or before another that waits", coh->first);
    return true;
}

static bool rows_sane(const scheduler *sched, uint8_t *seen, err *e) {
    memset(seen, 0, sched->n_rows);
    uint32_t n_free = 0, live = 0, tail = 0, parked = 0, coda = 0, prelude = 0, decode = 0;
    uint32_t draft = 0, found = 0, to_draft = 0;
    uint32_t at_home[ENG_MOST_HOMES] = {0};
    for (uint32_t row = sched->free_row; row != NONE && n_free <= sched->n_rows;
         row = sched->rows[row].next) {
        MUST(seen[row]++ == 0 && sched->rows[row].state == ROW_FREE,
             "row %u is free twice, or in use", row);
        n_free++;
    }
    MUST(n_free == sched->n_free_rows, "%u free rows, %u counted", n_free, sched->n_free_rows);
    for (const list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        uint32_t loop = PLAN_MAX_LOOPS, at = seq->first ? seq->first->first : seq->next_start;
        for (const cohort *coh = seq->first; coh; coh = coh->after) {
            MUST(coh->owner == seq && coh->first == at, "cohorts of a sequence leave a gap");
            at += coh->n_rows;
            if (!cohort_sane(sched, coh, seen, e) || !clock_sane(coh, e)) return false;
            if (coh->n_live + coh->n_tail > 0) {
                MUST(coh->next_loop <= loop, "a cohort overtook the one before");
                loop = coh->next_loop;
            }
            decode += coh->decode && !coh->draft;
            draft += coh->draft;
            found += coh->draft && coh->source != FROM_LOOPS;
            to_draft += coh->drafting == DRAFT_WAITS;
            if (!drafts_sane(coh, e)) return false;
            at_home[seq->prefix_key.home] += coh->n_rows;
            bool before = !coh->looping && coh->next_loop == 0;
            live += coh->looping ? coh->n_live : 0;
            tail += coh->looping && !coh->parked ? coh->n_tail : 0;
            parked += coh->parked ? coh->n_tail : 0;
            MUST(!coh->parked || (coh->n_live == 0 && sched__tick(coh) >= seq->frontier),
                 "a row that is needed is parked");
            prelude += before ? coh->n_rows : 0;
            bool waits = !before && !list_empty(&coh->stage_link) && !coh->awaits_mask;
            coda += waits && !sched__waits_to_draft(coh) ? coh->n_coda : 0;
        }
        MUST(at == seq->next_start, "cohorts of a sequence end early");
        MUST(seq->n_drafts == 0 || at == seq->n_tokens + seq->n_drafts,
             "%u drafts behind %u tokens, and cohorts up to %u", seq->n_drafts, seq->n_tokens, at);
    }
    for (uint32_t row = 0; row < sched->n_rows; row++)
        MUST(seen[row] == 1, "row %u leaked", row);
    MUST(live == sched->n_looping_live && tail == sched->n_looping_tail &&
             parked == sched->n_parked,
         "looping rows are miscounted");
    MUST(memcmp(at_home, sched->home_rows, sizeof at_home) == 0, "rows of homes are miscounted");
    MUST(decode == sched->n_decode_rows, "%u rows decode, %u counted", decode,
         sched->n_decode_rows);
    MUST(draft == sched->n_draft_rows && found == sched->n_found_rows &&
             to_draft == sched->n_to_draft,
         "drafts are miscounted");
    MUST(prelude == sched->n_to_prelude && coda == sched->n_to_coda, "waiting rows are miscounted");
    return true;
}

static bool in_order(const sequence *x, const sequence *y) {
    return x == NULL || x->order < y->order || (x->order == y->order && x->arrival < y->arrival);
}

static bool tenant_sane(const scheduler *sched, const sched_tenant *tenant, uint64_t *tokens,
                        err *e) {
    uint32_t running = 0, waiting = 0, rows = 0;
    uint64_t own = 0;
    const sequence *before = NULL;
    for (const list_link *link = tenant->waiting.next; link != &tenant->waiting;
         link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        MUST(seq->state == SEQ_WAITING && seq->n_blocks == 0 && seq->first == NULL,
             "a waiting sequence holds something");
        MUST(sched__tenant_of(sched, seq) == tenant,
             "a sequence waits among those of another tenant");
        MUST(in_order(before, seq), "the waiting are out of order");
        before = seq;
        waiting++;
        own += seq->n_tokens;
    }
    for (const list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        if (sched__tenant_of(sched, seq) != tenant) continue;
        running++;
        for (const cohort *coh = seq->first; coh; coh = coh->after)
            rows += coh->n_rows;
    }
    MUST(running == tenant->n_running && waiting == tenant->n_waiting &&
             own == tenant->waiting_tokens && rows == tenant->n_rows,
         "a tenant's sequences or rows are miscounted");
    MUST(running + waiting == 0 || !list_empty(&tenant->active_link),
         "a tenant with work is not active");
    *tokens += own;
    return true;
}

/* Adds the loops of the sequences in a list to *sum. */
static bool loops_sane(const list_link *list, loop_sums *sum, err *e) {
    for (const list_link *link = list->next; link != list; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        loop_sums own = sched__count_loops(seq);
        MUST(memcmp(&own, &seq->loops_left, sizeof own) == 0,
             "the loops left to a sequence were not noted");
        sum->known += own.known;
        sum->ahead += own.ahead;
        sum->of_a_token += own.of_a_token;
    }
    return true;
}

static bool backlog_sane(const scheduler *sched, err *e) {
    loop_sums sum = {0};
    if (!loops_sane(&sched->running, &sum, e)) return false;
    for (uint32_t i = 0; i < sched->n_tenants; i++) {
        if (!loops_sane(&sched->tenants[i].waiting, &sum, e)) return false;
    }
    MUST(memcmp(&sum, &sched->loops_left, sizeof sum) == 0, "sums of loops left are off");
    return true;
}

static bool lists_sane(const scheduler *sched, err *e) {
    uint32_t running = 0, waiting = 0, at_home[ENG_MOST_HOMES] = {0};
    uint64_t tokens = 0;
    const sequence *before = NULL;
    for (const list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        MUST(seq->state == SEQ_RUNNING, "the running list is wrong");
        MUST(in_order(before, seq), "the running are out of order");
        MUST(seq->prefix_key.home < sched->n_homes, "a sequence has no home");
        at_home[seq->prefix_key.home]++;
        before = seq;
        running++;
    }
    for (uint32_t i = 0; i < sched->n_tenants; i++) {
        if (!tenant_sane(sched, &sched->tenants[i], &tokens, e)) return false;
        waiting += sched->tenants[i].n_waiting;
    }
    MUST(running == sched->n_running && waiting == sched->n_waiting &&
             tokens == sched->waiting_tokens,
         "sequences are miscounted");
    MUST(running <= sched->limits.opts.max_running, "more run than there are places");
    for (uint32_t home = 0; home < ENG_MOST_HOMES; home++) {
        MUST(at_home[home] == sched->home_running[home], "%u sequences at home %u, %u counted",
             at_home[home], home, sched->home_running[home]);
    }
    return true;
}

static bool cache_sane(const scheduler *sched, uint32_t home, err *e) {
    const kv_cache *cache = &sched->caches[home];
    uint8_t *pages = array_new(cache->n_pages, 1);
    uint32_t *refs = array_new(cache->n_blocks, sizeof *refs);
    bool ok = pages && refs;
    if (!ok) (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory to look");
    ok = ok && pages_sane(cache, pages, e) && blocks_sane(sched, home, refs, e) &&
         parts_sane(cache, e);
    free(pages);
    free(refs);
    return ok;
}

bool sched_sane(const scheduler *sched, err *e) {
    uint8_t *rows = array_new(sched->n_rows, 1);
    bool ok = rows != NULL;
    if (!ok) (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory to look");
    ok = ok && lists_sane(sched, e) && rows_sane(sched, rows, e) && backlog_sane(sched, e);
    for (uint32_t home = 0; ok && home < sched->n_homes; home++)
        ok = cache_sane(sched, home, e);
    free(rows);
    return ok;
}
