/* cohort.c - cohorts: who gets rows, and where a cohort goes after a launch.
 *
 * Rows cannot deadlock: cohorts of a sequence take rows in position order and all at
 * once, and the first cohort of a sequence waits for no other row; it ends after at most
 * max_loops launches and one flush, and gives its rows back. */
#include "base/queue.h"
#include "scheduler/scheduler_internal.h"

/* ---- rows and cohorts ---- */

static uint32_t take_rows(scheduler *s, uint32_t n, uint32_t first_pos) {
    uint32_t head = s->free_row, row = head;
    for (uint32_t i = 0;; i++) {
        s->rows[row] =
            (row_info){.pos = first_pos + i, .next = s->rows[row].next, .state = ROW_LIVE};
        if (i + 1 == n) break;
        row = s->rows[row].next;
    }
    s->free_row = s->rows[row].next;
    s->rows[row].next = NONE;
    s->n_free_rows -= n;
    return head;
}

static void give_rows(scheduler *s, uint32_t head) {
    while (head != NONE) {
        uint32_t next = s->rows[head].next;
        s->rows[head].state = ROW_FREE;
        s->rows[head].next = s->free_row;
        s->free_row = head;
        s->n_free_rows++;
        head = next;
    }
}

static bool before_loops(const cohort *c) {
    return !c->looping && c->next_loop == 0;
}

static void count_out(scheduler *s, cohort *c) { /* of every sum it stands in */
    if (before_loops(c)) {
        s->n_to_prelude -= c->n;
        return;
    }
    if (c->looping) {
        s->n_looping_live -= c->n_live;
        *(c->parked ? &s->n_parked : &s->n_looping_tail) -= c->n_tail;
    }
    if (!list_empty(&c->stage) && !c->unmasked) s->n_to_coda -= c->n_coda;
}

static void free_cohort(scheduler *s, cohort *c) {
    seq *q = c->owner;
    count_out(s, c);
    list_remove(&c->loop);
    list_remove(&c->stage);
    for (uint32_t i = 0; i < MAX_FLIGHTS; i++) {
        if (c->pick[i] != NONE) s->flights[i].picks[c->pick[i]] = NULL;
    }
    *(c->before ? &c->before->after : &q->first) = c->after;
    *(c->after ? &c->after->before : &q->last) = c->before;
    give_rows(s, c->head);
    sched__tenant_of(s, q)->n_rows -= c->n;
    s->n_decode_rows -= c->decode;
    c->owner = NULL;
    c->after = s->free_cohort;
    s->free_cohort = c;
}

void sched__drop_cohorts(scheduler *s, seq *q) {
    while (q->last)
        free_cohort(s, q->last);
}

static bool is_decode(const seq *q) { /* its next cohort */
    return q->next_start >= q->req.n_prompt && q->next_start + 1 == q->n_tokens;
}

void sched__want_start(scheduler *s, seq *q) {
    list_move_back(is_decode(q) ? &s->want_decode : &s->want_prompt, &q->start);
    q->waited = 0;
}

static uint32_t next_cohort_rows(const scheduler *s, const seq *q) {
    uint32_t end =
        (q->next_start / s->chunk + 1) * s->chunk; /* fixed positions, whatever the load */
    if (end > q->n_tokens) end = q->n_tokens;
    return end - q->next_start;
}

static void start_cohort(scheduler *s, seq *q) {
    cohort *c = s->free_cohort;
    s->free_cohort = c->after;
    uint32_t n = next_cohort_rows(s, q);
    *c = (cohort){
        .owner = q, .first = q->next_start, .n = n, .n_live = n, .n_coda = n, .pick = {NONE, NONE}};
    c->decode = q->next_start >= q->req.n_prompt && n == 1;
    c->list = c->decode ? LIST_DECODE : LIST_PROMPT;
    s->n_decode_rows += c->decode;
    sched__tenant_of(s, q)->n_rows += n;
    c->head = c->coda_row = take_rows(s, n, q->next_start);
    list_init(&c->loop);
    list_init(&c->stage);
    c->before = q->last;
    *(q->last ? &q->last->after : &q->first) = c;
    q->last = c;
    q->next_start += n;
    q->waited = 0;
    list_insert_before(&s->to_prelude, &c->stage);
    s->n_to_prelude += n;
    if (q->next_start == q->n_tokens) list_remove(&q->start);
}

static seq *longest_waiting(const scheduler *s) {
    seq *a = list_empty(&s->want_decode) ? NULL : OWNER_OF(s->want_decode.next, seq, start);
    for (list_link *r = s->want_prompt.next; r != &s->want_prompt; r = r->next) {
        seq *q = OWNER_OF(r, seq, start);
        if (a == NULL || q->waited > a->waited) a = q;
    }
    return a;
}

static void count_refused(list_link *list) {
    for (list_link *r = list->next; r != list; r = r->next)
        OWNER_OF(r, seq, start)->waited++;
}

/* Rows to be left free for sequences that decode: a row for each of those running, up to a
 * quarter of the pool and short of what the next chunk takes, less what they hold. */
static uint32_t reserve(const scheduler *s, uint32_t chunk) {
    uint32_t keep = s->n_running < s->n_rows / 4 ? s->n_running : s->n_rows / 4;
    if (keep > s->n_rows - chunk) keep = s->n_rows - chunk;
    return keep > s->n_decode_rows ? keep - s->n_decode_rows : 0;
}

/* Serves those refused for wait_bound rounds, the longest first. False: the next of them
 * must wait for rows, and nobody else gets any but decoding sequences out of the reserve. */
static bool start_overdue(scheduler *s) {
    for (;;) {
        seq *q = longest_waiting(s);
        if (q == NULL || q->waited < s->limits.opts.wait_bound) return true;
        uint32_t n = next_cohort_rows(s, q), kept = is_decode(q) ? 0 : reserve(s, n);
        if (n + kept <= s->n_free_rows) {
            start_cohort(s, q);
            continue;
        }
        while (kept-- > 0 && s->n_free_rows > 0 && !list_empty(&s->want_decode))
            start_cohort(s, OWNER_OF(s->want_decode.next, seq, start));
        return false;
    }
}

/* Prompts in turn, those of the tenant least served first. */
static seq *next_prompt(const scheduler *s) {
    seq *best = NULL;
    for (list_link *r = s->want_prompt.next; r != &s->want_prompt; r = r->next) {
        seq *q = OWNER_OF(r, seq, start);
        if (best == NULL || sched__tenant_of(s, q)->served < sched__tenant_of(s, best)->served) {
            best = q;
        }
        if (s->n_tenants == 1) break;
    }
    return best;
}

/* A tenant with half of a large pool leaves rows for the first chunk of another. */
static uint32_t kept_for_others(const scheduler *s, const seq *q) {
    bool most = s->n_tenants > 1 && sched__tenant_of(s, q)->n_rows >= s->n_rows / 2;
    return most && s->n_rows >= 4 * s->chunk ? s->chunk : 0;
}

/* Gives rows to the next cohorts: decoding first, then prompts in turn, who leave a row
 * for each sequence that decodes. Who was refused for wait_bound rounds is served before
 * anybody else gets a row outside that reserve; since every row held comes back, and those
 * who decode hold no more than the reserve meanwhile, that wait is bounded too. */
void sched__start_cohorts(scheduler *s) {
    if (!start_overdue(s)) {
        count_refused(&s->want_decode);
        count_refused(&s->want_prompt);
        return;
    }
    while (s->n_free_rows > 0 && !list_empty(&s->want_decode)) {
        start_cohort(s, OWNER_OF(s->want_decode.next, seq, start));
    }
    uint32_t keep = s->n_running < s->n_rows / 4 ? s->n_running : s->n_rows / 4;
    for (seq *q; (q = next_prompt(s)) != NULL;) {
        uint32_t n = next_cohort_rows(s, q);
        if (n + keep + kept_for_others(s, q) > s->n_free_rows && s->n_free_rows < s->n_rows) break;
        if (n > s->n_free_rows) break;
        start_cohort(s, q);
    }
    count_refused(&s->want_decode);
    count_refused(&s->want_prompt);
}

/* ---- what a cohort does next ---- */

/* Into the coda once all its rows halted and every earlier cohort is in it or through it;
 * then those behind it that only waited for it. */
static void queue_coda(scheduler *s, cohort *c) {
    for (; c; c = c->after) {
        const cohort *p = c->before;
        if (c->n_live > 0) return;
        if (c->coda_row == NONE || !list_empty(&c->stage)) continue;
        bool in_order =
            p == NULL || p->coda_row == NONE || (p->n_live == 0 && !list_empty(&p->stage));
        if (!in_order && s->fault != FAULT_CODA_ORDER) return;
        c->unmasked = sched__lacks_mask(c);
        list_insert_before(c->unmasked ? &s->to_mask : &s->to_coda, &c->stage);
        if (!c->unmasked) s->n_to_coda += c->n_coda;
    }
}

/* What the cohort does next, now that a launch or a coda is behind it. */
void sched__settle_cohort(scheduler *s, cohort *c) {
    if (c->looping && c->n_live + c->n_tail == 0) {
        list_remove(&c->loop);
        c->looping = false;
    } else if (c->looping && c->decode && c->n_live == 0 && c->list == LIST_DECODE) {
        c->list = LIST_TAIL;
        list_move_back(&s->looping[LIST_TAIL], &c->loop);
    }
    if (c->n_live == 0 && c->called) {
        c->called = false;
        sched__call_back(s, c->owner, c->next_loop);
    }
    if (c->n_live > 0 && !sched__loop_is_out(s, c)) {
        sched__raise_frontier(s, c->owner, c->next_loop + 1u);
    }
    if (sched__may_park(s, c)) sched__park(s, c);
    queue_coda(s, c);
    if (!c->looping && c->coda_row == NONE && !sched__in_flight(c)) free_cohort(s, c);
}
