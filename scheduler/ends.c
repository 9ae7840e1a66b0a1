/* ends.c - prelude and coda: what a position goes through before its loops and after. */
#include "scheduler/scheduler_internal.h"

/* ---- prelude ---- */

static bool place_prelude(sched *s, cohort *c) {
    seq *q = c->owner;
    for (uint32_t pos = c->first; pos < c->first + c->n; pos++) {
        if (!sched__have_block(s, q, pos)) return false;
        for (uint32_t i = 0; i < s->config->prelude_layers; i++) {
            if (!sched__place(s, q, pos, eng_plane_prelude(s->config, i), 1)) return false;
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
        sched__clear_launch(s);
        uint32_t rows = 0;
        for (ring *r = s->to_prelude.next; r != &s->to_prelude; r = r->next) {
            cohort *c = RING_OWNER(r, cohort, stage);
            if (rows + c->n > s->max_rows) break; /* in order: a chunk needs the one before */
            rows += c->n;
            sched__pick(s, c);
        }
        for (uint32_t i = 0; i < s->n_picks; i++) {
            if (s->picks[i]) (void)place_prelude(s, s->picks[i]); /* a failure unpicks it */
        }
        for (uint32_t i = 0; i < s->n_picks; i++) {
            cohort *c = s->picks[i];
            for (uint32_t row = c ? c->head : NONE; row != NONE; row = s->rows[row].next) {
                (void)sched__add_row(s, c->owner, row);
            }
        }
        eng_result r;
        if (s->n_launch > 0 && sched__run_launch(s, ENG_STAGE_PRELUDE, &r, e) != 0) return -1;
        sched__unpick_all(s);
        for (uint32_t i = 0; i < s->n_picks; i++) {
            if (s->picks[i]) enter_loop(s, s->picks[i]);
        }
    }
    return 0;
}

/* ---- coda ---- */

static bool place_coda(sched *s, seq *q, uint32_t pos) {
    for (uint32_t i = 0; i < s->config->coda_layers; i++) {
        if (!sched__place(s, q, pos, eng_plane_coda(s->config, i), 1)) return false;
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
        eng_row *r = sched__add_row(s, q, row);
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
    sched__settle_cohort(s, c);
    sched__offer_blocks(s, q);
}

static int run_coda_once(sched *s, err *e) {
    sched__clear_launch(s);
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
    if (sched__run_launch(s, ENG_STAGE_CODA, &r, e) != 0) return -1;
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
        if (s->launch_told) s->launch_told(s->ud);
    }
    return 0;
}
