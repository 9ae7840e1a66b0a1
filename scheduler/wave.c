/* wave.c - cohorts: from rows through prelude, loops and coda, by the wavefront rule.
 *
 * The rule: a cohort may run loop t in a launch when every earlier position of its
 * sequence has executed loop t by the end of that launch's K/V writes, or (ENG_LAST)
 * halted before it. Along a sequence the loops of cohorts never rise, so only the
 * nearest earlier cohort that still loops has to be asked.
 *
 * Rows cannot deadlock: cohorts of a sequence take rows in position order and all at
 * once, and the first cohort of a sequence waits for no other row; it ends after at most
 * max_loops launches and one flush, and gives its rows back. */
#include "scheduler/scheduler_internal.h"

/* ---- rows and cohorts ---- */

static uint32_t take_rows(sched *s, uint32_t n, uint32_t first_pos) {
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

static void give_rows(sched *s, uint32_t head) {
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

static void count_out(sched *s, cohort *c) { /* of every sum it stands in */
    if (before_loops(c)) {
        s->n_to_prelude -= c->n;
        return;
    }
    if (c->looping) {
        s->n_looping_live -= c->n_live;
        *(c->parked ? &s->n_parked : &s->n_looping_tail) -= c->n_tail;
    }
    if (!ring_empty(&c->stage)) s->n_to_coda -= c->n_coda;
}

static void free_cohort(sched *s, cohort *c) {
    seq *q = c->owner;
    count_out(s, c);
    ring_remove(&c->loop);
    ring_remove(&c->stage);
    if (c->pick != NONE) s->picks[c->pick] = NULL;
    *(c->before ? &c->before->after : &q->first) = c->after;
    *(c->after ? &c->after->before : &q->last) = c->before;
    give_rows(s, c->head);
    c->owner = NULL;
    c->after = s->free_cohort;
    s->free_cohort = c;
}

void sched__drop_cohorts(sched *s, seq *q) {
    while (q->last)
        free_cohort(s, q->last);
}

void sched__want_start(sched *s, seq *q) {
    bool decode = q->next_start >= q->req.n_prompt && q->next_start + 1 == q->n_tokens;
    ring_move_back(decode ? &s->want_decode : &s->want_prompt, &q->start);
    q->waited = 0;
}

static uint32_t next_cohort_rows(const sched *s, const seq *q) {
    uint32_t end =
        (q->next_start / s->chunk + 1) * s->chunk; /* fixed positions, whatever the load */
    if (end > q->n_tokens) end = q->n_tokens;
    return end - q->next_start;
}

static void start_cohort(sched *s, seq *q) {
    cohort *c = s->free_cohort;
    s->free_cohort = c->after;
    uint32_t n = next_cohort_rows(s, q);
    *c = (cohort){
        .owner = q, .first = q->next_start, .n = n, .n_live = n, .n_coda = n, .pick = NONE};
    c->decode = q->next_start >= q->req.n_prompt && n == 1;
    c->list = c->decode ? LIST_DECODE : LIST_PROMPT;
    c->head = c->coda_row = take_rows(s, n, q->next_start);
    ring_init(&c->loop);
    ring_init(&c->stage);
    c->before = q->last;
    *(q->last ? &q->last->after : &q->first) = c;
    q->last = c;
    q->next_start += n;
    q->waited = 0;
    ring_insert_before(&s->to_prelude, &c->stage);
    s->n_to_prelude += n;
    if (q->next_start == q->n_tokens) ring_remove(&q->start);
}

static seq *longest_waiting(const sched *s) {
    seq *a = ring_empty(&s->want_decode) ? NULL : RING_OWNER(s->want_decode.next, seq, start);
    for (ring *r = s->want_prompt.next; r != &s->want_prompt; r = r->next) {
        seq *q = RING_OWNER(r, seq, start);
        if (a == NULL || q->waited > a->waited) a = q;
    }
    return a;
}

static void count_refused(ring *list) {
    for (ring *r = list->next; r != list; r = r->next)
        RING_OWNER(r, seq, start)->waited++;
}

/* Gives rows to the next cohorts: decoding first, then prompts in turn, who leave a row
 * for each sequence that decodes. Who was refused for wait_bound rounds is served before
 * anybody else gets a row; since every row held comes back, that wait is bounded too. */
void sched__start_cohorts(sched *s) {
    for (;;) {
        seq *q = longest_waiting(s);
        if (q == NULL || q->waited < s->limits.opts.wait_bound) break;
        if (next_cohort_rows(s, q) > s->n_free_rows) {
            count_refused(&s->want_decode);
            count_refused(&s->want_prompt);
            return;
        }
        start_cohort(s, q);
    }
    while (s->n_free_rows > 0 && !ring_empty(&s->want_decode)) {
        start_cohort(s, RING_OWNER(s->want_decode.next, seq, start));
    }
    uint32_t keep = s->n_running < s->n_rows / 4 ? s->n_running : s->n_rows / 4;
    while (!ring_empty(&s->want_prompt)) {
        seq *q = RING_OWNER(s->want_prompt.next, seq, start);
        uint32_t n = next_cohort_rows(s, q);
        if (n + keep > s->n_free_rows && s->n_free_rows < s->n_rows) break;
        if (n > s->n_free_rows) break;
        start_cohort(s, q);
    }
    count_refused(&s->want_decode);
    count_refused(&s->want_prompt);
}

/* ---- building a launch ---- */

static void clear_launch(sched *s) {
    s->n_picks = s->n_launch = s->n_edits = s->n_logits = 0;
}

static void pick(sched *s, cohort *c) {
    c->pick = s->n_picks;
    s->picks[s->n_picks++] = c;
}

static void unpick_all(sched *s) {
    for (uint32_t i = 0; i < s->n_picks; i++) {
        if (s->picks[i]) s->picks[i]->pick = NONE;
    }
}

/* The block of pos, taken when its first position starts. */
static bool have_block(sched *s, seq *q, uint32_t pos) {
    while (pos / ENG_BLOCK >= q->n_blocks) {
        if (sched__take_block(&s->cache, &q->blocks[q->n_blocks])) {
            q->n_blocks++;
        } else if (!sched__make_room(s, q)) {
            return false;
        }
    }
    return true;
}

/* A free slot of position pos into planes [plane, plane + n_planes): preempts others when
 * there is none. False: q itself was preempted or ended. */
static bool place(sched *s, seq *q, uint32_t pos, uint32_t plane, uint32_t n_planes) {
    uint32_t at = pos / ENG_BLOCK, slot;
    while (!sched__take_slot(&s->cache, q->blocks[at], &slot)) {
        if (!sched__make_room(s, q)) return false;
    }
    s->edits[s->n_edits++] = (eng_edit){.block = q->blocks[at],
                                        .slot = slot,
                                        .plane = (uint16_t)plane,
                                        .n_planes = (uint16_t)n_planes,
                                        .off = (uint8_t)(pos % ENG_BLOCK)};
    return true;
}

static eng_row *add_row(sched *s, seq *q, uint32_t row) {
    s->launch_seq[s->n_launch] = q;
    eng_row *r = &s->launch_rows[s->n_launch++];
    *r = (eng_row){.row = row,
                   .pos = s->rows[row].pos,
                   .token = q->tokens[s->rows[row].pos],
                   .min_loops = q->root.min_loops,
                   .max_loops = q->root.max_loops,
                   .threshold = q->root.threshold,
                   .blocks = q->blocks};
    return r;
}

static int run_launch(sched *s, eng_stage stage, eng_result *r, err *e) {
    eng_launch l = {stage, s->launch_rows, s->n_launch, s->edits, s->n_edits};
    if (eng_run(s->backend, &l, r, e) != 0) return -1;
    sched__cost_add(&s->cost[stage], s->n_launch, r->ns);
    s->stats.launches[stage]++;
    s->stats.launch_rows[stage] += s->n_launch;
    s->stats.launch_ns[stage] += r->ns;
    return 0;
}

/* ---- prelude ---- */

static bool place_prelude(sched *s, cohort *c) {
    seq *q = c->owner;
    for (uint32_t pos = c->first; pos < c->first + c->n; pos++) {
        if (!have_block(s, q, pos)) return false;
        for (uint32_t i = 0; i < s->config->prelude_layers; i++) {
            if (!place(s, q, pos, eng_plane_prelude(s->config, i), 1)) return false;
        }
    }
    return true;
}

static void enter_loop(sched *s, cohort *c) {
    ring_remove(&c->stage);
    s->n_to_prelude -= c->n;
    ring_insert_before(&s->looping[c->list], &c->loop);
    c->looping = true;
    s->n_looping_live += c->n_live;
    if (c->owner->coda_next == c->first) sched__lower_frontier(c->owner); /* it alone is live */
    sched__raise_frontier(s, c->owner, 1);
}

int sched__run_prelude(sched *s, err *e) {
    while (!ring_empty(&s->to_prelude)) {
        clear_launch(s);
        uint32_t rows = 0;
        for (ring *r = s->to_prelude.next; r != &s->to_prelude; r = r->next) {
            cohort *c = RING_OWNER(r, cohort, stage);
            if (rows + c->n > s->max_rows) break; /* in order: a chunk needs the one before */
            rows += c->n;
            pick(s, c);
        }
        for (uint32_t i = 0; i < s->n_picks; i++) {
            if (s->picks[i]) (void)place_prelude(s, s->picks[i]); /* a failure unpicks it */
        }
        for (uint32_t i = 0; i < s->n_picks; i++) {
            cohort *c = s->picks[i];
            for (uint32_t row = c ? c->head : NONE; row != NONE; row = s->rows[row].next) {
                (void)add_row(s, c->owner, row);
            }
        }
        eng_result r;
        if (s->n_launch > 0 && run_launch(s, ENG_STAGE_PRELUDE, &r, e) != 0) return -1;
        unpick_all(s);
        for (uint32_t i = 0; i < s->n_picks; i++) {
            if (s->picks[i]) enter_loop(s, s->picks[i]);
        }
    }
    return 0;
}

/* ---- loops ---- */

static cohort *loops_before(const cohort *c) {
    cohort *p = c->before;
    while (p && p->n_live + p->n_tail == 0)
        p = p->before;
    return p;
}

typedef enum { MUST_WAIT, IF_BEFORE_RUNS, MAY_RUN } readiness;

static readiness rule(const sched *s, const cohort *c) {
    const cohort *p = loops_before(c);
    if (p == NULL || p->next_loop > c->next_loop || s->fault == FAULT_BREAK_RULE) return MAY_RUN;
    return p->looping && p->next_loop == c->next_loop ? IF_BEFORE_RUNS : MUST_WAIT;
}

static bool rule_now(const sched *s, const cohort *c) {
    readiness r = rule(s, c);
    return r == MAY_RUN || (r == IF_BEFORE_RUNS && loops_before(c)->pick != NONE);
}

/* Picks from one list, front first, what fits into `room` rows. Returns the rows taken. */
static uint32_t pick_from(sched *s, ring *list, uint32_t room) {
    uint32_t taken = 0;
    for (ring *r = list->next; r != list && taken < room; r = r->next) {
        cohort *c = RING_OWNER(r, cohort, loop);
        uint32_t n = c->n_live + c->n_tail;
        if (c->pick != NONE || taken + n > room || !rule_now(s, c)) continue;
        pick(s, c);
        taken += n;
    }
    return taken;
}

static uint32_t longest_passed_over(const sched *s) {
    uint32_t most = 0;
    for (int i = 0; i < N_LISTS; i++) {
        for (const ring *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
            uint32_t waited = RING_OWNER((uintptr_t)r, cohort, loop)->waited;
            if (waited > most) most = waited;
        }
    }
    return most;
}

/* Those passed over for wait_bound launches, the longest first; when the next of them
 * does not fit, no other goes before it. Returns the rows left. */
static uint32_t pick_overdue(sched *s, uint32_t room) {
    for (uint32_t w = longest_passed_over(s); w >= s->limits.opts.wait_bound; w--) {
        for (int i = 0; i < N_LISTS; i++) {
            for (ring *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
                cohort *c = RING_OWNER(r, cohort, loop);
                if (c->waited != w) continue;
                uint32_t n = c->n_live + c->n_tail;
                if (n > room) return 0;
                pick(s, c);
                room -= n;
            }
        }
    }
    return room;
}

/* Cohorts that could have run and did not grow older; the picked ones go to the back,
 * so that each list is served in turn. */
static void age_cohorts(sched *s) {
    for (int i = 0; i < N_LISTS; i++) {
        ring *list = &s->looping[i], *end = list->prev;
        for (ring *r = list->next, *next; r != list; r = next) {
            cohort *c = RING_OWNER(r, cohort, loop);
            bool last = r == end;
            next = r->next;
            if (c->pick != NONE) {
                c->waited = 0;
                ring_move_back(list, r);
            } else if (rule(s, c) == MAY_RUN) {
                c->waited++;
                if (c->waited > s->stats.longest_wait) s->stats.longest_wait = c->waited;
            }
            if (last) break;
        }
    }
}

/* Decode rows first, then tails, then prompt rows; when not all fit, tails keep an eighth
 * and prompts a quarter of the launch, and whoever was passed over for wait_bound launches
 * goes before everybody, the longest first. Each launch then takes at least
 * max_rows - chunk + 1 overdue rows, so with R rows in the pool a ready row is passed over
 * at most wait_bound + R / (max_rows - chunk + 1) + 1 times. */
static void pick_loops(sched *s) {
    clear_launch(s);
    uint32_t cap = s->max_rows, room = cap;
    if (s->n_looping_live + s->n_looping_tail <= cap) {
        /* Everything fits. A chunk follows its neighbour, which stands before it in the
         * list or in a list before; lists out of order after a squeeze need a second look. */
        uint32_t before;
        do {
            before = s->n_picks;
            for (int i = N_LISTS - 1; i >= 0; i--)
                room -= pick_from(s, &s->looping[i], room);
        } while (s->n_picks > before);
        age_cohorts(s);
        return;
    }
    if (s->fault != FAULT_STARVE) room = pick_overdue(s, room);
    uint32_t tails = ring_empty(&s->looping[LIST_TAIL]) ? 0 : cap / 8;
    uint32_t prompts = ring_empty(&s->looping[LIST_PROMPT]) ? 0 : cap / 4;
    if (prompts > 0 && prompts < s->chunk) prompts = s->chunk < cap / 2 ? s->chunk : cap / 2;
    if (room > tails + prompts) {
        room -= pick_from(s, &s->looping[LIST_DECODE], room - tails - prompts);
    }
    if (room > prompts) room -= pick_from(s, &s->looping[LIST_TAIL], room - prompts);
    room -= pick_from(s, &s->looping[LIST_PROMPT], room);
    for (int i = 0; i < N_LISTS; i++)
        room -= pick_from(s, &s->looping[i], room);
    age_cohorts(s);
}

static bool place_loop(sched *s, cohort *c) {
    seq *q = c->owner;
    const eng_config *g = s->config;
    /* Under ENG_LAST this loop's slot stands in for all deeper ones until one is run. */
    bool last = s->limits.opts.halted_kv == ENG_LAST && s->fault != FAULT_KEEP_LAST;
    uint32_t n_planes = last ? (uint32_t)q->root.max_loops - c->next_loop : 1;
    uint32_t all = g->prelude_layers + g->coda_layers + q->root.max_loops;
    for (uint32_t row = c->head; row != NONE; row = s->rows[row].next) {
        if (s->rows[row].state == ROW_DONE) continue;
        uint32_t pos = s->rows[row].pos;
        if (!place(s, q, pos, eng_plane_loop(g, c->next_loop), n_planes)) return false;
        if (c->next_loop == 0) {
            s->cache.blocks[q->blocks[pos / ENG_BLOCK]].all += all;
            s->cache.all += all;
        }
    }
    return true;
}

static void add_loop_rows(sched *s, cohort *c) {
    for (uint32_t row = c->head; row != NONE; row = s->rows[row].next) {
        if (s->rows[row].state == ROW_DONE) continue;
        eng_row *r = add_row(s, c->owner, row);
        r->loop = c->next_loop;
        if (s->rows[row].state != ROW_TAIL) continue;
        r->flags = ENG_ROW_TAIL;
        s->stats.tail_rows++;
        if (c->next_loop + 1 == r->max_loops && s->limits.opts.batching != SCHED_FULL) {
            r->flags |= ENG_ROW_KV_ONLY;
            s->stats.kv_only_rows++;
        }
    }
    *(c->decode ? &s->stats.decode_rows : &s->stats.prompt_rows) += c->n_live;
}

/* A row left the loop, or its tail ended, in the launch that ran next_loop - 1. */
static void settle_row(sched *s, cohort *c, row_info *row, bool halted) {
    bool deepest = c->next_loop == c->owner->root.max_loops;
    if (row->state == ROW_TAIL) {
        if (!deepest) return;
        row->state = ROW_DONE;
        c->n_tail--;
        s->n_looping_tail--;
        return;
    }
    if (!halted && !deepest) return;
    row->depth = c->next_loop;
    c->n_live--;
    s->n_looping_live--;
    bool tail = s->limits.opts.halted_kv == ENG_EXACT && !deepest && s->fault != FAULT_DROP_TAIL;
    row->state = tail ? ROW_TAIL : ROW_DONE;
    if (tail) {
        c->n_tail++;
        s->n_looping_tail++;
    }
}

/* Into the coda once all its rows halted and every earlier cohort is in it or through it;
 * then those behind it that only waited for it. */
static void queue_coda(sched *s, cohort *c) {
    for (; c; c = c->after) {
        const cohort *p = c->before;
        if (c->n_live > 0) return;
        if (c->coda_row == NONE || !ring_empty(&c->stage)) continue;
        bool in_order =
            p == NULL || p->coda_row == NONE || (p->n_live == 0 && !ring_empty(&p->stage));
        if (!in_order && s->fault != FAULT_CODA_ORDER) return;
        ring_insert_before(&s->to_coda, &c->stage);
        s->n_to_coda += c->n_coda;
    }
}

/* What the cohort does next, now that a launch or a coda is behind it. */
static void settle_cohort(sched *s, cohort *c) {
    if (c->looping && c->n_live + c->n_tail == 0) {
        ring_remove(&c->loop);
        c->looping = false;
    } else if (c->looping && c->decode && c->n_live == 0 && c->list == LIST_DECODE) {
        c->list = LIST_TAIL;
        ring_move_back(&s->looping[LIST_TAIL], &c->loop);
    }
    if (c->n_live > 0) sched__raise_frontier(s, c->owner, c->next_loop + 1u);
    if (sched__may_park(s, c)) sched__park(s, c);
    queue_coda(s, c);
    if (!c->looping && c->coda_row == NONE) free_cohort(s, c);
}

static void learn_exits(sched *s, uint32_t live, uint32_t exits) {
    if (live == 0) return;
    double rate = (double)exits / live;
    s->exit_rate += s->exit_rate > 0 ? (rate - s->exit_rate) * 0.05 : rate;
}

int sched__run_loops(sched *s, err *e) {
    pick_loops(s);
    for (uint32_t i = 0; i < s->n_picks; i++) {
        if (s->picks[i]) (void)place_loop(s, s->picks[i]);
    }
    for (uint32_t i = 0; i < s->n_picks; i++) {
        if (s->picks[i]) add_loop_rows(s, s->picks[i]);
    }
    eng_result r;
    if (s->n_launch > 0 && run_launch(s, ENG_STAGE_RECURRENT, &r, e) != 0) return -1;
    unpick_all(s);
    if (s->n_launch == 0) return 0;
    s->since_flush_ns += (double)r.ns;
    if (s->n_to_coda > 0) s->flush_waited++;
    uint32_t at = 0, live = 0, before = s->n_looping_live;
    for (uint32_t i = 0; i < s->n_picks; i++) {
        cohort *c = s->picks[i];
        if (c == NULL) continue;
        c->next_loop++;
        for (uint32_t row = c->head; row != NONE; row = s->rows[row].next) {
            if (s->rows[row].state == ROW_DONE) continue;
            live += s->rows[row].state == ROW_LIVE;
            settle_row(s, c, &s->rows[row], r.halted[at++] != 0);
        }
    }
    learn_exits(s, live, before - s->n_looping_live);
    for (uint32_t i = 0; i < s->n_picks; i++) {
        cohort *c = s->picks[i];
        if (c == NULL) continue;
        seq *q = c->owner;
        settle_cohort(s, c);
        sched__offer_blocks(s, q);
    }
    return 0;
}

/* ---- coda ---- */

static bool place_coda(sched *s, seq *q, uint32_t pos) {
    for (uint32_t i = 0; i < s->config->coda_layers; i++) {
        if (!place(s, q, pos, eng_plane_coda(s->config, i), 1)) return false;
    }
    return true;
}

/* Takes rows of c into the launch while rows and logits allow; false when the launch is full. */
static bool add_coda_rows(sched *s, cohort *c) {
    seq *q = c->owner;
    for (uint32_t row = c->coda_row; row != NONE; row = s->rows[row].next) {
        bool logits = sched__wants_logits(q, s->rows[row].pos);
        if (s->n_launch == s->max_rows) return false;
        if (logits && s->n_logits == s->backend->info.max_logits) return false;
        s->launch_cohort[s->n_launch] = c;
        eng_row *r = add_row(s, q, row);
        if (logits) r->flags = ENG_ROW_LOGITS;
        s->n_logits += logits;
    }
    return true;
}

static void drop_lost_rows(sched *s) { /* of sequences preempted while slots were found */
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_launch; i++) {
        if (s->launch_seq[i]->state != SEQ_RUNNING) continue;
        s->launch_rows[n] = s->launch_rows[i];
        s->launch_cohort[n] = s->launch_cohort[i];
        s->launch_seq[n++] = s->launch_seq[i];
    }
    s->n_launch = n;
}

/* One position's coda is behind it. The books first, since its result may end the sequence. */
static void settle_coda_row(sched *s, cohort *c, const float *logits) {
    seq *q = c->owner;
    const row_info info = s->rows[c->coda_row];
    s->n_to_coda--;
    c->n_coda--;
    c->coda_row = info.next;
    q->coda_next = info.pos + 1;
    bool done = info.next == NONE;
    if (done) ring_remove(&c->stage);
    sched__finish_position(s, q, info.pos, info.depth, logits);
    if (!done || q->state != SEQ_RUNNING) return;
    settle_cohort(s, c);
    sched__offer_blocks(s, q);
}

static int run_coda_once(sched *s, err *e) {
    clear_launch(s);
    for (ring *r = s->to_coda.next; r != &s->to_coda; r = r->next) {
        if (!add_coda_rows(s, RING_OWNER(r, cohort, stage))) break;
    }
    for (uint32_t i = 0; i < s->n_launch; i++) {
        seq *q = s->launch_seq[i];
        if (q->state == SEQ_RUNNING) (void)place_coda(s, q, s->launch_rows[i].pos);
    }
    drop_lost_rows(s);
    if (s->n_launch == 0) return 0;
    eng_result r;
    if (run_launch(s, ENG_STAGE_CODA, &r, e) != 0) return -1;
    const float *logits = r.logits;
    for (uint32_t i = 0; i < s->n_launch; i++) {
        seq *q = s->launch_seq[i];
        const float *mine = NULL;
        if (s->launch_rows[i].flags & ENG_ROW_LOGITS) {
            mine = logits;
            logits += s->config->vocab_size;
            s->stats.head_rows++;
        }
        if (q->state == SEQ_RUNNING) settle_coda_row(s, s->launch_cohort[i], mine);
    }
    return 0;
}

int sched__run_coda(sched *s, err *e) {
    while (!ring_empty(&s->to_coda)) { /* ends: a launch takes at least its first row away */
        if (run_coda_once(s, e) != 0) return -1;
    }
    return 0;
}
