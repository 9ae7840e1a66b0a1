/* prelude_coda.c - prelude and coda: what a position goes through before its loops and after. */
#include "scheduler/scheduler_internal.h"

/* ---- prelude ---- */

static bool place_prelude(scheduler *s, flight *f, seq *q, uint32_t pos) {
    if (!sched__have_block(s, q, pos)) return false;
    for (uint32_t i = 0; i < s->plan->n_prelude; i += s->plan->n_core) {
        if (!sched__place(s, f, q, pos, plan_plane_prelude(s->plan, i), 1)) return false;
    }
    return true;
}

static void add_prelude(scheduler *s, flight *f, cohort *c) {
    seq *q = c->owner;
    for (uint32_t row = c->head; row != NONE; row = s->rows[row].next) {
        if (!place_prelude(s, f, q, s->rows[row].pos)) return;
        (void)sched__add_row(s, f, c, row);
    }
}

static void enter_loop(scheduler *s, cohort *c) {
    list_remove(&c->stage);
    s->n_to_prelude -= c->n;
    list_insert_before(&s->looping[c->list], &c->loop);
    c->looping = true;
    s->n_looping_live += c->n_live;
    if (c->owner->coda_next == c->first) sched__lower_frontier(c->owner); /* it alone is live */
    sched__raise_frontier(s, c->owner, 1);
}

static bool prelude_fits_ahead(const scheduler *s) {
    uint64_t rows = 0, blocks = 0;
    for (const list_link *r = s->to_prelude.next; r != &s->to_prelude; r = r->next) {
        const cohort *c = OWNER_OF((uintptr_t)r, cohort, stage);
        if (rows + c->n > s->max_rows) break;
        rows += c->n;
        blocks += c->n / ENG_BLOCK + 2;
    }
    return sched__surely_fits(&s->cache, rows * plan_planes_prelude(s->plan), blocks);
}

static int run_prelude_once(scheduler *s, err *e) {
    flight *f = sched__new_flight(s, ENG_STAGE_PRELUDE);
    uint32_t rows = 0;
    for (list_link *r = s->to_prelude.next; r != &s->to_prelude; r = r->next) {
        cohort *c = OWNER_OF(r, cohort, stage);
        if (rows + c->n > s->max_rows) break; /* in order: a chunk needs the one before */
        rows += c->n;
        sched__pick(f, c);
    }
    for (uint32_t i = 0; i < f->n_picks; i++) {
        if (f->picks[i]) add_prelude(s, f, f->picks[i]);
    }
    if (sched__launch(s, f, e) != 0) return -1;
    for (uint32_t i = 0; i < f->n_picks; i++) {
        if (f->picks[i]) enter_loop(s, f->picks[i]);
    }
    return sched__settle_surplus(s, e);
}

int sched__run_prelude(scheduler *s, err *e) {
    while (!list_empty(&s->to_prelude)) {
        if (s->n_out > 0 && !prelude_fits_ahead(s) && sched__settle_all(s, e) != 0) return -1;
        if (run_prelude_once(s, e) != 0) return -1;
    }
    return 0;
}

void sched__settle_prelude(flight *f) { /* nothing in it was in doubt */
    for (uint32_t i = 0; i < f->n_picks; i++) {
        if (f->picks[i]) sched__unpick(f, f->picks[i]);
    }
}

/* ---- coda ---- */

static const eng_draw *add_draw(flight *f, const seq *q) {
    eng_draw *d = &f->draws[f->n_draws++];
    *d = (eng_draw){&q->req.sampling, seq_n_output(q), q->req.n_top};
    return d;
}

/* Takes rows of c into the launch while rows and heads allow; false when the launch is full. */
static bool add_coda_rows(scheduler *s, flight *f, cohort *c) {
    const seq *q = c->owner;
    for (uint32_t row = c->coda_row; row != NONE; row = s->rows[row].next) {
        uint16_t head = sched__head_wanted(s, q, s->rows[row].pos);
        if (f->n_rows == s->max_rows) return false;
        if (head && f->n_heads == s->backend->info.max_logits) return false;
        if (c->pick[f->index] == NONE) sched__pick(f, c);
        eng_row *r = sched__add_row(s, f, c, row);
        r->flags = head;
        if (head & ENG_ROW_SAMPLE) r->draw = add_draw(f, q);
        f->n_heads += head != 0;
    }
    return true;
}

static bool place_coda(scheduler *s, flight *f, seq *q, uint32_t pos) {
    for (uint32_t i = 0; i < s->plan->n_coda; i += s->plan->n_core) {
        if (!sched__place(s, f, q, pos, plan_plane_coda(s->plan, i), 1)) return false;
    }
    return true;
}

/* Its row is on its way: whatever comes of it, the coda's queue has done with it. */
static void leave_queue(scheduler *s, cohort *c) {
    s->n_to_coda--;
    c->n_coda--;
    c->coda_row = s->rows[c->coda_row].next;
    if (c->coda_row == NONE) list_remove(&c->stage);
}

static int run_coda_once(scheduler *s, err *e) {
    flight *f = sched__new_flight(s, ENG_STAGE_CODA);
    for (list_link *r = s->to_coda.next; r != &s->to_coda; r = r->next) {
        if (!add_coda_rows(s, f, OWNER_OF(r, cohort, stage))) break;
    }
    for (uint32_t i = 0; i < f->n_rows; i++) {
        const cohort *c = f->picks[f->who[i].pick];
        if (c) (void)place_coda(s, f, c->owner, f->rows[i].pos); /* a failure unpicks it */
    }
    if (sched__launch(s, f, e) != 0) return -1;
    for (uint32_t i = 0; i < f->n_rows; i++)
        leave_queue(s, f->picks[f->who[i].pick]);
    return sched__settle_surplus(s, e);
}

static bool coda_fits_ahead(const scheduler *s) {
    uint64_t rows = s->n_to_coda < s->max_rows ? s->n_to_coda : s->max_rows;
    return sched__surely_fits(&s->cache, rows * plan_planes_coda(s->plan), 0);
}

/* Where it takes several, the host samples from one while the next runs. Rows leave the
 * queue when they are started, so none is sampled twice. */
int sched__run_coda(scheduler *s, err *e) {
    while (!list_empty(&s->to_coda)) { /* ends: a launch takes at least its first row away */
        if (s->n_out > 0 && !coda_fits_ahead(s) && sched__settle_all(s, e) != 0) return -1;
        if (run_coda_once(s, e) != 0) return -1;
    }
    return 0;
}

typedef struct { /* what a result still holds, row by row */
    const float *logits;
    const eng_choice *choices;
} heads;

/* One position is through its coda; its result may end the sequence, and c with it. */
static void settle_coda_row(scheduler *s, flight *f, cohort *c, const eng_row *r, heads h) {
    seq *q = c->owner;
    const row_info info = s->rows[r->row];
    uint32_t pick = c->pick[f->index];
    q->coda_next = info.pos + 1;
    sched__finish_position(s, q, info.pos, info.depth, r->flags & ENG_ROW_LOGITS ? h.logits : NULL,
                           r->flags & ENG_ROW_SAMPLE ? h.choices : NULL);
    if (info.next != NONE || f->picks[pick] == NULL) return;
    sched__unpick(f, c);
    sched__settle_cohort(s, c); /* may free it */
    sched__offer_blocks(s, q);
}

void sched__settle_coda(scheduler *s, flight *f, const eng_result *r) {
    heads h = {r->logits, r->choices};
    for (uint32_t i = 0; i < f->n_rows; i++) {
        const eng_row *row = &f->rows[i];
        cohort *c = f->picks[f->who[i].pick];
        if (s->beat && row->flags) s->beat(s->ud); /* a row of logits takes up to a millisecond */
        if (c) settle_coda_row(s, f, c, row, h);
        if (row->flags & ENG_ROW_LOGITS) h.logits += s->plan->vocab_size;
        if (row->flags & ENG_ROW_SAMPLE) h.choices++;
    }
    s->stats.head_rows += f->n_heads;
    for (uint32_t i = 0; i < f->n_picks; i++) { /* of which rows are left for the next coda */
        if (f->picks[i]) sched__unpick(f, f->picks[i]);
    }
}
