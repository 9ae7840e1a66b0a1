/* admit.c - who runs and who waits, and who gives way when pages run out.
 *
 * Both lists stand in rank order: priority, then arrival. Only the last of the running
 * ever gives way to another, so the first one always goes on to its end, and then the
 * next is first: every sequence ends, however small the pool. A sequence that could not
 * fit alone was refused when it came. */
#include "scheduler/scheduler_internal.h"

static bool ranks_before(const seq *a, const seq *b) {
    if (a->req.priority != b->req.priority) return a->req.priority < b->req.priority;
    return a->arrival < b->arrival;
}

static void insert_ranked(ring *list, seq *q) {
    ring *at = list;
    while (at->prev != list && ranks_before(q, RING_OWNER(at->prev, seq, rank)))
        at = at->prev;
    ring_insert_before(at, &q->rank);
}

static void enqueue(sched *s, seq *q) {
    q->state = SEQ_WAITING;
    insert_ranked(&s->waiting, q);
    s->n_waiting++;
    s->waiting_tokens += q->n_tokens;
}

static void left_queue(sched *s, seq *q) {
    if (q->admitted_before) return;
    q->admitted_before = true;
    atomic_fetch_add_explicit(&s->left_waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->left_waiting_tokens, q->req.n_prompt, memory_order_relaxed);
}

static void dequeue(sched *s, seq *q) {
    ring_remove(&q->rank);
    s->n_waiting--;
    s->waiting_tokens -= q->n_tokens;
    left_queue(s, q);
}

void sched__accept(sched *s, seq *q) {
    q->arrival = s->next_arrival++;
    enqueue(s, q);
}

/* Gives back everything q holds of the backend. */
void sched__release(sched *s, seq *q) {
    sched__drop_cohorts(s, q);
    ring_remove(&q->start);
    while (q->n_blocks > 0)
        sched__give_block(&s->cache, q->blocks[--q->n_blocks]);
    if (q->state == SEQ_RUNNING) {
        ring_remove(&q->rank);
        s->n_running--;
    } else if (q->state == SEQ_WAITING) {
        dequeue(s, q);
    }
}

static void preempt(sched *s, seq *q) {
    sched__release(s, q);
    q->next_start = q->coda_next = q->n_offered = 0;
    s->stats.preemptions++;
    enqueue(s, q);
}

bool sched__make_room(sched *s, seq *q) {
    seq *last = RING_OWNER(s->running.prev, seq, rank);
    if (s->n_running == 1) { /* refused at submit, so this is a fault of ours: end it, not us */
        sched__end(s, q, SCHED_FAILED, ERR_INTERNAL, 0);
        return false;
    }
    preempt(s, last);
    return last != q;
}

/* Takes the longest cached run of full blocks, short of the last known position, which
 * must be run for its logits. */
static void take_prefix(sched *s, seq *q) {
    prefix_root root = q->root;
    if (s->fault == FAULT_LOOSE_KEY) root = (prefix_root){0};
    q->hash = (hash128){{0, 0}};
    q->n_offered = 0;
    uint32_t most = q->may_share ? (q->n_tokens - 1) / ENG_BLOCK : 0;
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

void sched__offer_blocks(sched *s, seq *q) {
    if (!s->limits.opts.prefix_cache) return;
    prefix_root root = q->root;
    if (s->fault == FAULT_LOOSE_KEY) root = (prefix_root){0};
    uint32_t ready = complete(q);
    if (s->fault == FAULT_SHARE_EARLY) ready = q->next_start;
    while ((q->n_offered + 1) * ENG_BLOCK <= ready && q->n_offered < q->n_blocks) {
        const uint32_t *tokens = q->tokens + (size_t)q->n_offered * ENG_BLOCK;
        hash128 hash = sched__prefix_hash(&s->cache, &q->hash, &root, tokens);
        sched__prefix_offer(&s->cache, q->blocks[q->n_offered], &hash, &q->hash, &root, tokens);
        q->hash = hash;
        q->n_offered++;
    }
}

/* Under pressure new sequences get fewer loops: full allowance with a queue no longer
 * than what runs, down to the mean depth when it is four times that. Fixed for the life
 * of a sequence, so that its latents stay of one kind. */
static uint32_t depth_cap(const sched *s) {
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

/* Pages the known tokens of q will take, by what positions have taken so far. */
static uint64_t expected_pages(const sched *s, const seq *q) {
    const eng_config *c = s->config;
    double loops = q->root.max_loops;
    if (s->limits.opts.halted_kv == ENG_LAST && s->depth_mean > 0 && s->depth_mean < loops) {
        loops = s->depth_mean;
    }
    double n = q->n_tokens - q->next_start + 1;
    return (uint64_t)(n * (c->prelude_layers + c->coda_layers + loops) / PAGE_SLOTS) + 1;
}

static bool fits_now(const sched *s, const seq *q) {
    const cache *c = &s->cache;
    uint64_t pages = c->n_free_pages + c->n_cached_pages;
    uint64_t blocks = c->n_free_blocks + c->n_cached_blocks;
    /* A margin for what already runs keeps a newcomer from being thrown out at once. */
    uint64_t margin = c->n_pages / 64 + s->n_running;
    uint64_t need_blocks = (q->n_tokens - q->next_start) / ENG_BLOCK + 2;
    return expected_pages(s, q) + margin <= pages && need_blocks <= blocks;
}

void sched__admit(sched *s) {
    uint32_t cap = depth_cap(s);
    s->stats.depth_cap_now = cap < s->limits.opts.ceiling_loops ? cap : 0;
    while (s->n_running < s->limits.opts.max_running && !ring_empty(&s->waiting)) {
        seq *q = RING_OWNER(s->waiting.next, seq, rank);
        if (!q->admitted_before) q->root.max_loops = capped_loops(q, cap);
        take_prefix(s, q);
        if (s->n_running > 0 && !fits_now(s, q)) {
            while (q->n_blocks > 0)
                sched__give_block(&s->cache, q->blocks[--q->n_blocks]);
            q->next_start = q->coda_next = q->n_offered = 0;
            return;
        }
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
        s->n_running++;
        q->waited = 0;
        sched__want_start(s, q);
    }
}
