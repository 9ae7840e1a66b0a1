/* admit.c - who runs and who waits, and who gives way when pages run out.
 *
 * Each tenant's waiting list and the running list stand in rank order: aged priority, then
 * arrival. Of one tenant only the last of the running ever gives way to another, so the first
 * one always goes on to its end, and then the next is first: every sequence ends, however small
 * the pool. Where several tenants run, one with two sequences or more gives way before one with
 * a single sequence, and among single ones the last of all. A sequence that could not fit alone
 * was refused when it came. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

#include <string.h>

static bool ranks_before(const seq *a, const seq *b) {
    if (a->order != b->order) return a->order < b->order;
    return a->arrival < b->arrival;
}

static void insert_ranked(list_link *list, seq *q) {
    list_link *at = list;
    while (at->prev != list && ranks_before(q, OWNER_OF(at->prev, seq, rank)))
        at = at->prev;
    list_insert_before(at, &q->rank);
}

static void enqueue(scheduler *s, seq *q) {
    sched_tenant *t = sched__tenant_of(s, q);
    q->state = SEQ_WAITING;
    insert_ranked(&t->waiting, q);
    t->n_waiting++;
    t->waiting_tokens += q->n_tokens;
    s->n_waiting++;
    s->waiting_tokens += q->n_tokens;
}

static void left_queue(scheduler *s, seq *q) {
    if (q->admitted_before) return;
    q->admitted_before = true;
    atomic_fetch_add_explicit(&s->left_waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->left_waiting_tokens, q->req.n_prompt, memory_order_relaxed);
}

static void dequeue(scheduler *s, seq *q) {
    sched_tenant *t = sched__tenant_of(s, q);
    list_remove(&q->rank);
    t->n_waiting--;
    t->waiting_tokens -= q->n_tokens;
    s->n_waiting--;
    s->waiting_tokens -= q->n_tokens;
    left_queue(s, q);
}

void sched__accept(scheduler *s, seq *q) {
    q->arrival = s->next_arrival++;
    q->order = sched__order(s, q);
    sched__activate(s, sched__tenant_of(s, q));
    enqueue(s, q);
    sched__want_mask(s, q);
}

/* Gives back everything q holds of the backend. */
void sched__release(scheduler *s, seq *q) {
    s->changes++;
    sched__drop_cohorts(s, q);
    list_remove(&q->start);
    while (q->n_blocks > 0)
        sched__give_block(&s->cache, q->blocks[--q->n_blocks]);
    if (q->state == SEQ_RUNNING) {
        list_remove(&q->rank);
        sched__tenant_of(s, q)->n_running--;
        s->n_running--;
    } else if (q->state == SEQ_WAITING) {
        dequeue(s, q);
    }
}

static void preempt(scheduler *s, seq *q) {
    sched__release(s, q);
    q->next_start = q->coda_next = q->n_offered = q->frontier = 0;
    s->stats.preemptions++;
    sched__tenant_of(s, q)->preemptions++;
    enqueue(s, q);
}

/* The last in rank of the running; of t alone unless that is NULL. */
static seq *last_running(const scheduler *s, const sched_tenant *t) {
    list_link *r = s->running.prev;
    while (t && sched__tenant_of(s, OWNER_OF(r, seq, rank)) != t)
        r = r->prev;
    return OWNER_OF(r, seq, rank);
}

bool sched__make_room(scheduler *s, seq *q) {
    seq *last = last_running(s, sched__most_pages(s));
    if (s->n_running == 1 && sched__prefix_evict(&s->cache, ANY_TENANT)) return true;
    if (s->n_running == 1) { /* refused at submit, so this is a fault of ours: end it, not us */
        sched__end(s, q, SCHED_FAILED, ERR_INTERNAL, 0);
        return false;
    }
    preempt(s, last);
    return last != q;
}

static prefix_root key_root(const scheduler *s, const seq *q) {
    prefix_root root = q->root;
    if (s->fault == FAULT_LOOSE_KEY) root = (prefix_root){0};
    if (s->fault == FAULT_LOOSE_TENANT) root.tenant = 0;
    return root;
}

/* Takes the longest cached run of full blocks, short of the last known position, which
 * must be run for its logits. */
static void take_prefix(scheduler *s, seq *q) {
    prefix_root root = key_root(s, q);
    q->hash = (hash128){{0, 0}};
    q->n_offered = 0;
    uint32_t known = q->n_tokens - 1, shared = sched__shared_positions(q);
    uint32_t most = q->may_share ? (known < shared ? known : shared) / ENG_BLOCK : 0;
    while (q->n_blocks < most) {
        const uint32_t *tokens = q->tokens + (size_t)q->n_blocks * ENG_BLOCK;
        hash128 hash = sched__prefix_hash(&s->cache, &q->hash, &root, tokens);
        uint32_t b = sched__prefix_take(&s->cache, &hash, &q->hash, &root, tokens);
        if (b == NONE) break;
        q->blocks[q->n_blocks++] = b;
        q->hash = hash;
    }
    q->n_offered = q->n_blocks;
    q->next_start = q->coda_next = q->n_blocks * ENG_BLOCK;
}

/* Positions up to here need nothing more from this sequence. */
static uint32_t complete(const seq *q) {
    return q->first ? q->first->first : q->next_start;
}

void sched__offer_blocks(scheduler *s, seq *q) {
    if (!s->limits.opts.prefix_cache) return;
    prefix_root root = key_root(s, q);
    uint32_t ready = complete(q);
    if (s->fault == FAULT_SHARE_EARLY) ready = q->next_start;
    if (ready > sched__shared_positions(q)) ready = sched__shared_positions(q);
    while ((q->n_offered + 1) * ENG_BLOCK <= ready && q->n_offered < q->n_blocks) {
        const uint32_t *tokens = q->tokens + (size_t)q->n_offered * ENG_BLOCK;
        hash128 hash = sched__prefix_hash(&s->cache, &q->hash, &root, tokens);
        sched__prefix_offer(&s->cache, q->blocks[q->n_offered], &hash, &q->hash, &root, tokens);
        q->hash = hash;
        q->n_offered++;
        s->changes++;
    }
}

/* Under pressure new sequences get fewer loops: full allowance with a queue no longer
 * than what runs, down to the mean depth when it is four times that. Fixed for the life
 * of a sequence, so that its latents stay of one kind. */
static uint32_t depth_cap(const scheduler *s) {
    uint32_t most = s->limits.opts.ceiling_loops;
    if (!s->limits.opts.depth_cap) return most;
    double room = s->limits.opts.max_running;
    double pressure = (s->n_waiting - room) / (3 * room);
    if (pressure <= 0) return most;
    if (pressure > 1) pressure = 1;
    double low = s->depth_mean < 1 ? 1 : s->depth_mean;
    double full = s->limits.opts.default_max_loops;
    if (low > full) low = full;
    double cap = full - pressure * (full - low);
    return cap < 1 ? 1 : (uint32_t)(cap + 0.5);
}

static uint16_t capped_loops(const seq *q, uint32_t cap) {
    uint16_t wish = q->wish_loops;
    if (cap >= wish) return wish;
    return cap > q->root.min_loops ? (uint16_t)cap : q->root.min_loops;
}

/* Pages and blocks for n more positions of q, by what positions have taken so far. */
static uint64_t expected_pages(const scheduler *s, const seq *q, uint64_t n) {
    const model_plan *c = s->plan;
    double loops = q->root.max_loops;
    if (s->limits.opts.halted_kv == KV_LAST && s->depth_mean > 0 && s->depth_mean < loops) {
        loops = s->depth_mean;
    }
    return (uint64_t)((double)n * (plan_planes(c, 0) + loops) / PAGE_SLOTS) + 1;
}

/* A newcomer needs room for its prompt; who was preempted before, for all it may still
 * become, so that the two do not push each other out for ever. */
static bool fits_now(const scheduler *s, const seq *q, uint64_t *wanted) {
    const cache *c = &s->cache;
    uint64_t pages, blocks;
    sched__room_for(c, q->req.tenant, &pages, &blocks);
    uint64_t n =
        q->admitted_before ? (uint64_t)q->req.n_prompt + q->req.max_tokens : q->n_tokens + 1u;
    n -= q->next_start;
    *wanted = expected_pages(s, q, n);
    /* A margin for what already runs keeps a newcomer from being thrown out at once. */
    uint64_t margin = c->n_pages / 64 + s->n_running;
    if (s->n_tenants > 1) margin += sched__claimed_pages(s, sched__tenant_of(s, q), *wanted);
    return *wanted + margin <= pages && n / ENG_BLOCK + 1 <= blocks;
}

/* Within its share a tenant need not wait for pages that another holds beyond its own. */
static bool has_room(scheduler *s, const seq *q) {
    uint64_t wanted;
    while (s->n_running > 0 && !fits_now(s, q, &wanted)) {
        const sched_tenant *t = sched__tenant_of(s, q);
        const sched_tenant *from = s->n_tenants > 1 ? sched__gives_pages(s, t, wanted) : NULL;
        if (from == NULL || from == t) return false;
        preempt(s, last_running(s, from));
    }
    return true;
}

/* Somebody who runs is making the very block q misses first: q waits for it rather than
 * make it again. Who runs ends or goes on, so the wait does. */
static bool being_made(const scheduler *s, const seq *q) {
    size_t n = ((size_t)q->n_blocks + 1) * ENG_BLOCK;
    if (!q->may_share || n >= q->n_tokens) return false;
    for (const list_link *r = s->running.next; r != &s->running; r = r->next) {
        const seq *o = OWNER_OF((uintptr_t)r, seq, rank);
        if (o->n_offered <= q->n_blocks && o->req.n_prompt >= n &&
            sched__same_root(&o->root, &q->root) &&
            memcmp(o->tokens, q->tokens, n * sizeof *q->tokens) == 0) {
            return true;
        }
    }
    return false;
}

static void begin(scheduler *s, seq *q) {
    if (!q->admitted_before) {
        q->t_admit = clock_ns();
        q->n_cached = q->next_start;
        q->seen = q->next_start;
        s->stats.prefix_hits += q->next_start;
        s->stats.prefix_queries += q->may_share ? q->req.n_prompt : 0;
        s->stats.prompt_tokens += q->req.n_prompt;
    }
    dequeue(s, q);
    q->state = SEQ_RUNNING;
    insert_ranked(&s->running, q);
    sched__tenant_of(s, q)->n_running++;
    s->n_running++;
    q->waited = 0;
    sched__want_start(s, q);
}

typedef enum { BEGUN, HELD, NO_ROOM } attempt;

static attempt try_begin(scheduler *s, seq *q, uint32_t cap) {
    if (q->tried == s->changes) return q->held ? HELD : NO_ROOM; /* nothing has happened since */
    if (!q->admitted_before) q->root.max_loops = capped_loops(q, cap);
    take_prefix(s, q);
    attempt a = being_made(s, q) ? HELD : has_room(s, q) ? BEGUN : NO_ROOM;
    if (a == BEGUN) {
        begin(s, q);
        return a;
    }
    while (q->n_blocks > 0)
        sched__give_block(&s->cache, q->blocks[--q->n_blocks]);
    q->next_start = q->coda_next = q->n_offered = 0;
    q->tried = s->changes;
    q->held = a == HELD;
    return a;
}

/* The first of t, in rank order, that can be let in. Who lacks room stops all behind it; who
 * waits for a block in the making lets others pass. */
static attempt admit_one(scheduler *s, sched_tenant *t, uint32_t cap) {
    for (list_link *r = t->waiting.next, *next; r != &t->waiting; r = next) {
        next = r->next;
        attempt a = try_begin(s, OWNER_OF(r, seq, rank), cap);
        if (a != HELD) return a;
    }
    return HELD;
}

/* As admit_one, and somebody of `from`, unless that is NULL, gives up his place. */
static attempt place_one(scheduler *s, sched_tenant *t, sched_tenant *from, uint32_t cap) {
    attempt a = admit_one(s, t, cap);
    if (a == BEGUN && from && s->n_running > s->limits.opts.max_running) {
        preempt(s, last_running(s, from));
    }
    return a;
}

/* Where the one with the fewest places may have no more, others hardly may: after a few the
 * round is over, so that its cost does not grow with the square of the tenants. */
static void admit_in_turn(scheduler *s, uint32_t cap) {
    enum { MOST_REFUSED = 4 };
    uint32_t refused = 0;
    sched__roll_claims(s);
    for (list_link *r = s->active.next; r != &s->active; r = r->next)
        OWNER_OF(r, sched_tenant, active)->passed = false;
    for (sched_tenant *t, *from; (t = sched__next_tenant(s)) != NULL;) {
        if (!sched__may_place(s, t, &from)) {
            t->passed = true;
            if (++refused == MOST_REFUSED) return;
            continue;
        }
        attempt a = place_one(s, t, from, cap);
        if (a == NO_ROOM) return;
        t->passed = a == HELD;
    }
}

void sched__admit(scheduler *s) {
    uint32_t cap = depth_cap(s);
    s->stats.depth_cap_now = cap < s->limits.opts.ceiling_loops ? cap : 0;
    if (s->n_waiting == 0) return;
    if (s->n_tenants > 1) {
        admit_in_turn(s, cap);
        return;
    }
    sched_tenant *t = s->tenants;
    while (s->n_running < s->limits.opts.max_running && admit_one(s, t, cap) == BEGUN) {
    }
}
