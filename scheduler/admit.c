/* admit.c - waiting sequences begin, and with how many loops.
 *
 * A sequence gives way to others only in two files: here, when a tenant takes back its share of
 * places or of pages, and in reserve.c, when pages run out. It is always the last in rank of its
 * tenant, and never the only one of a tenant while another tenant runs two. Requests too large to
 * fit alone were refused at submit. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

#include <string.h>

/* Under pressure new sequences get fewer loops: all of them while the queue is no longer than
 * max_running, down to the mean depth when it is four times as long. Fixed for the life of a
 * sequence, so its latents stay of one kind. */
static uint32_t depth_cap(const scheduler *sched) {
    const sched_opts *opts = &sched->limits.opts;
    if (!opts->depth_cap) return opts->ceiling_loops;
    double places = opts->max_running;
    double pressure = (sched->n_waiting - places) / (3 * places);
    if (pressure <= 0) return opts->ceiling_loops;
    if (pressure > 1) pressure = 1;
    double low = sched->cost.mean_depth < 1 ? 1 : sched->cost.mean_depth;
    double full = opts->default_max_loops;
    if (low > full) low = full;
    double cap = full - pressure * (full - low);
    return cap < 1 ? 1 : (uint32_t)(cap + 0.5);
}

static uint16_t capped_loops(const sequence *seq, uint32_t cap) {
    uint16_t least = seq->prefix_key.min_loops;
    if (cap >= seq->wish_loops) return seq->wish_loops;
    return cap > least ? (uint16_t)cap : least;
}

/* Loop slots of n timed positions: one each, and every loop of positions not collapsed yet. */
static double expected_timed(double n, double loops, double mean) {
    double open = mean > 0 ? loops / mean + 1 : loops;
    if (open > n) open = n;
    return n - open + open * loops;
}

/* Pages for n more positions of seq, estimated from the mean depth so far. */
static uint64_t expected_pages(const scheduler *sched, const sequence *seq, uint64_t n) {
    double loops = seq->prefix_key.max_loops, mean = sched->cost.mean_depth;
    uint64_t end = seq->next_start + n, timed = end > seq->timed_from ? end - seq->timed_from : 0;
    if (timed > n) timed = n;
    double n_slots = expected_timed((double)timed, loops, mean);
    if (sched->rules.last_stands_in && mean > 0 && mean < loops) loops = mean;
    n_slots += (double)(n - timed) * loops + (double)n * plan_planes(sched->plan, 0);
    return (uint64_t)(n_slots / PAGE_SLOTS) + 1;
}

/* A new sequence needs room for its prompt; one preempted before needs room for its whole possible
 * length. Otherwise two sequences could push each other out for ever. */
static bool fits_now(const scheduler *sched, const sequence *seq, uint64_t *wanted) {
    const kv_cache *cache = sched__cache_of(sched, seq);
    uint64_t pages, blocks;
    sched__room_for(cache, seq->req.tenant, &pages, &blocks);
    uint64_t whole = (uint64_t)seq->req.n_prompt + seq->req.max_tokens;
    uint64_t n = (seq->admitted_before ? whole : seq->n_tokens + 1u) - seq->next_start;
    *wanted = expected_pages(sched, seq, n);
    /* A margin for running sequences keeps a newcomer from being preempted at once. */
    uint64_t margin = cache->n_pages / 64 + sched->home_running[seq->prefix_key.home];
    if (sched->n_tenants > 1) {
        margin += sched__claimed_pages(sched, sched__tenant_of(sched, seq), *wanted);
    }
    return *wanted + margin <= pages && n / ENG_BLOCK + 1 <= blocks;
}

/* Within its share a tenant need not wait for pages held by another beyond its own share. Without
 * may_take it does. */
static bool has_room(scheduler *sched, const sequence *seq, bool may_take) {
    uint32_t home = seq->prefix_key.home;
    uint64_t wanted;
    while (sched->home_running[home] > 0 && !fits_now(sched, seq, &wanted)) {
        const sched_tenant *tenant = sched__tenant_of(sched, seq), *from = NULL;
        if (sched->n_tenants > 1 && may_take)
            from = sched__gives_pages(sched, tenant, home, wanted);
        if (from == NULL || from == tenant) return false;
        sched__preempt(sched, sched__last_running(sched, from, home));
    }
    return true;
}

/* A running sequence is computing the first block missing to seq: seq waits for the block rather
 * than compute it again. The running sequence ends or goes on, so the wait ends. */
static bool being_made(const scheduler *sched, const sequence *seq) {
    size_t n = ((size_t)seq->n_blocks + 1) * ENG_BLOCK;
    if (!seq->may_share || n >= seq->n_tokens) return false;
    for (const list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *maker = OWNER_OF((uintptr_t)link, sequence, rank_link);
        if (maker->n_offered <= seq->n_blocks && maker->req.n_prompt >= n &&
            sched__same_key(&maker->prefix_key, &seq->prefix_key) &&
            memcmp(maker->tokens, seq->tokens, n * sizeof *seq->tokens) == 0) {
            return true;
        }
    }
    return false;
}

static void count_first_begin(scheduler *sched, sequence *seq) {
    seq->t_admit = clock_ns();
    seq->n_cached = seq->n_reported = seq->next_start;
    sched->stats.prefix_hits += seq->next_start;
    sched->stats.prefix_queries += seq->may_share ? seq->req.n_prompt : 0;
    sched->stats.prompt_tokens += seq->req.n_prompt;
}

typedef enum { BEGUN, WAITS_FOR_BLOCK, NO_ROOM } attempt;

static attempt try_home(scheduler *sched, sequence *seq, uint16_t home, bool may_take) {
    seq->prefix_key.home = home;
    sched__take_prefix(sched__cache_of(sched, seq), seq);
    bool waits = being_made(sched, seq);
    if (!waits && has_room(sched, seq, may_take)) {
        if (!seq->admitted_before) count_first_begin(sched, seq);
        sched__begin(sched, seq);
        return BEGUN;
    }
    sched__give_blocks(sched__cache_of(sched, seq), seq);
    return waits ? WAITS_FOR_BLOCK : NO_ROOM;
}

/* Takes pages of other tenants only if it fits at no home without them. */
static attempt try_homes(scheduler *sched, sequence *seq) {
    uint16_t homes[ENG_MOST_HOMES];
    int n_passes = sched->n_homes > 1 && sched->n_tenants > 1 ? 2 : 1;
    sched__order_homes(sched, seq, homes);
    for (int pass = 1; pass <= n_passes; pass++) {
        for (uint32_t i = 0; i < sched->n_homes; i++) {
            attempt result = try_home(sched, seq, homes[i], pass == n_passes);
            if (result != NO_ROOM) return result;
        }
    }
    return NO_ROOM;
}

static attempt try_begin(scheduler *sched, sequence *seq, uint32_t cap) {
    if (seq->refused_epoch == sched->epoch) { /* nothing has changed since */
        return seq->waits_for_block ? WAITS_FOR_BLOCK : NO_ROOM;
    }
    if (!seq->admitted_before) seq->prefix_key.max_loops = capped_loops(seq, cap);
    attempt result = try_homes(sched, seq);
    if (result == BEGUN) return BEGUN;
    seq->refused_epoch = sched->epoch;
    seq->waits_for_block = result == WAITS_FOR_BLOCK;
    return result;
}

/* Begins the first possible sequence of tenant, in rank order. A sequence without room blocks the
 * ones behind it. A sequence waiting for another's block does not, but MOST_PASSED of them do: the
 * time of a round must not grow with a burst of requests that share a prompt. */
static attempt admit_one(scheduler *sched, sched_tenant *tenant, uint32_t cap) {
    enum { MOST_PASSED = 32 };
    list_link *waiting = &tenant->waiting, *link = waiting->next, *next;
    for (int i = 0; link != waiting && i < MOST_PASSED; i++, link = next) {
        next = link->next;
        attempt result = try_begin(sched, OWNER_OF(link, sequence, rank_link), cap);
        if (result != WAITS_FOR_BLOCK) return result;
    }
    return WAITS_FOR_BLOCK;
}

/* As admit_one; the last sequence of `from`, unless that is NULL, gives up its place. */
static attempt place_one(scheduler *sched, sched_tenant *tenant, sched_tenant *from, uint32_t cap) {
    attempt result = admit_one(sched, tenant, cap);
    if (result == BEGUN && from && sched->n_running > sched->limits.opts.max_running) {
        sched__preempt(sched, sched__last_running(sched, from, ANY_HOME));
    }
    return result;
}

/* If the tenant with the fewest places may have no more, others hardly may. After a few refusals
 * the round is over, or its cost would grow with the square of the tenants. */
static void admit_in_turn(scheduler *sched, uint32_t cap) {
    enum { MOST_REFUSED = 4 };
    uint32_t n_refused = 0;
    sched__roll_claims(sched);
    for (list_link *link = sched->active.next; link != &sched->active; link = link->next)
        OWNER_OF(link, sched_tenant, active_link)->refused = false;
    for (sched_tenant *tenant, *from; (tenant = sched__next_tenant(sched)) != NULL;) {
        if (!sched__may_place(sched, tenant, &from)) {
            tenant->refused = true;
            if (++n_refused == MOST_REFUSED) return;
            continue;
        }
        attempt result = place_one(sched, tenant, from, cap);
        if (result == NO_ROOM) return;
        tenant->refused = result == WAITS_FOR_BLOCK;
    }
}

void sched__admit(scheduler *sched) {
    const sched_opts *opts = &sched->limits.opts;
    uint32_t cap = depth_cap(sched);
    sched->stats.depth_cap_now = cap < opts->ceiling_loops ? cap : 0;
    if (sched->n_waiting == 0) return;
    if (sched->n_tenants > 1) {
        admit_in_turn(sched, cap);
        return;
    }
    while (sched->n_running < opts->max_running && admit_one(sched, sched->tenants, cap) == BEGUN) {
    }
}
