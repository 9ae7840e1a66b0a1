/* recurrent.c - recurrent launches: one more loop of many rows, and who left. */
#include "scheduler/scheduler_internal.h"

/* ---- ahead of the result ---- */

/* c is the one live position of its sequence and nothing stands behind it: whoever of its
 * sequence runs along under policy exact does so for c alone, and c's own tail would park. */
static bool runs_alone(const scheduler *s, const cohort *c) {
    const seq *q = c->owner;
    return s->limits.opts.batching == SCHED_DEPTHWISE && s->limits.opts.halted_kv == KV_EXACT &&
           c->decode && c == q->last && q->next_start == q->n_tokens && q->coda_next == c->first;
}

/* What settling the launch that is out would do if none of its live rows halted. */
static void assume_nobody_halts(scheduler *s, const flight *out) {
    for (uint32_t i = 0; i < out->n_picks; i++) {
        cohort *c = out->picks[i];
        if (c == NULL || c->n_live == 0 || c->next_loop == c->owner->root.max_loops) continue;
        c->called = runs_alone(s, c);
        sched__raise_frontier(s, c->owner, c->next_loop + 1u);
    }
}

/* Tails that run only because c does stand right before it, at the same loop. One that
 * runs anyway needs those before it too, so the row of them ends there. */
static void guard_followers(const scheduler *s, const flight *f, const cohort *c) {
    for (cohort *p = c->before; p; p = p->before) {
        if (p->n_live + p->n_tail == 0) continue;
        if (p->pick[f->index] == NONE || p->next_loop != c->next_loop || p->n_live > 0 ||
            !sched__parks_at_all(s, p)) {
            return;
        }
        p->hedge = FOLLOWS_GUARD;
        p->guard = c->head;
    }
}

/* `out` is the launch before f, not settled; NULL: nothing is in doubt. */
static void hedge_picks(const scheduler *s, flight *f, const flight *out) {
    for (uint32_t i = 0; i < f->n_picks; i++)
        f->picks[i]->hedge = IS_SURE;
    if (out == NULL || out->stage != ENG_STAGE_RECURRENT || s->fault == FAULT_NO_GUARD) return;
    for (uint32_t i = 0; i < f->n_picks; i++) {
        cohort *c = f->picks[i];
        if (c->n_live == 0 || c->pick[out->index] == NONE) continue;
        bool alone = runs_alone(s, c);
        c->hedge = s->limits.opts.halted_kv == KV_LAST || alone ? SELF_GUARDED : OR_TAIL;
        if (alone) guard_followers(s, f, c);
    }
}

/* ---- building ---- */

static void fill_row(const scheduler *s, flight *f, const cohort *c, eng_row *r) {
    r->loop = c->next_loop;
    bool last_loop = c->next_loop + 1 == r->max_loops;
    if (s->rows[r->row].state == ROW_TAIL) {
        r->flags = ENG_ROW_TAIL;
        if (last_loop && s->limits.opts.batching != SCHED_FULL) r->flags |= ENG_ROW_KV_ONLY;
        if (c->hedge == FOLLOWS_GUARD) r->flags |= ENG_ROW_GUARDED;
        r->guard = c->guard;
        return;
    }
    if (c->hedge == SELF_GUARDED) r->flags = ENG_ROW_GUARDED;
    if (c->hedge == OR_TAIL) r->flags = ENG_ROW_OR_TAIL;
    r->guard = r->row;
    f->n_last += last_loop;
    /* A chunk goes when its last row does. */
    f->n_may += !last_loop && c->n_live == 1 && c->next_loop + 1 >= r->min_loops;
}

/* Slots and rows for the next loop of c. */
static void add_loop(scheduler *s, flight *f, cohort *c) {
    seq *q = c->owner;
    const model_plan *g = s->plan;
    /* Under KV_LAST this loop's slot stands in for all deeper ones until one is run. */
    bool last = s->limits.opts.halted_kv == KV_LAST && s->fault != FAULT_KEEP_LAST;
    uint32_t n_planes = last ? (uint32_t)q->root.max_loops - c->next_loop : 1;
    uint32_t all = plan_planes(g, q->root.max_loops);
    for (uint32_t row = c->head; row != NONE; row = s->rows[row].next) {
        if (s->rows[row].state == ROW_DONE) continue;
        uint32_t pos = s->rows[row].pos;
        eng_edit *d = sched__place(s, f, q, pos, plan_plane_loop(g, c->next_loop), n_planes);
        if (d == NULL) return;
        if (c->next_loop == 0) {
            s->cache.blocks[d->block].all += all;
            s->cache.all += all;
        }
        eng_row *r = sched__add_row(s, f, c, row);
        f->who[f->n_rows - 1].slot = d->slot;
        fill_row(s, f, c, r);
        d->guarded = (r->flags & ENG_ROW_GUARDED) != 0;
        d->guard = r->guard;
    }
}

/* Starting ahead must not throw anybody out: what halts in the launch that is out may
 * make the room. */
static bool fits_ahead(const scheduler *s) {
    uint64_t rows = (uint64_t)s->n_looping_live + s->n_looping_tail + s->n_parked;
    return sched__surely_fits(&s->cache, rows < s->max_rows ? rows : s->max_rows, 0);
}

int sched__run_loops(scheduler *s, err *e) {
    if (s->n_out > 0 && !fits_ahead(s) && sched__settle_all(s, e) != 0) return -1;
    const flight *out = sched__newest_out(s);
    if (out && out->stage == ENG_STAGE_RECURRENT) assume_nobody_halts(s, out);
    flight *f = sched__new_flight(s, ENG_STAGE_RECURRENT);
    sched__pick_loops(s, f);
    hedge_picks(s, f, out);
    for (uint32_t i = 0; i < f->n_picks; i++) {
        if (f->picks[i]) add_loop(s, f, f->picks[i]);
    }
    if (sched__launch(s, f, e) != 0) return -1;
    for (uint32_t i = 0; i < f->n_picks; i++) {
        if (f->picks[i]) f->picks[i]->next_loop++;
    }
    return sched__settle_surplus(s, e);
}

/* ---- settling ---- */

/* A row left the loop, or its tail ended, in its launch of loop `loops` - 1. */
static void settle_row(scheduler *s, cohort *c, row_info *row, uint32_t loops, bool halted) {
    bool deepest = loops == c->owner->root.max_loops;
    if (row->state == ROW_TAIL) {
        if (!deepest) return;
        row->state = ROW_DONE;
        c->n_tail--;
        s->n_looping_tail--;
        return;
    }
    if (row->state != ROW_LIVE || (!halted && !deepest)) return;
    row->depth = (uint16_t)loops;
    c->n_live--;
    s->n_looping_live--;
    bool tail = s->limits.opts.halted_kv == KV_EXACT && !deepest && s->fault != FAULT_DROP_TAIL;
    row->state = tail ? ROW_TAIL : ROW_DONE;
    if (tail) {
        c->n_tail++;
        s->n_looping_tail++;
    }
}

static void count_row(scheduler *s, const cohort *c, const eng_row *r) {
    if (s->rows[r->row].state == ROW_LIVE) {
        *(c->decode ? &s->stats.decode_rows : &s->stats.prompt_rows) += 1;
    } else {
        s->stats.tail_rows++;
        s->stats.kv_only_rows += (r->flags & ENG_ROW_KV_ONLY) != 0;
    }
}

/* By rows, so that the first launch full of prompt rows outweighs what few rows taught. */
static void learn_exits(scheduler *s, uint32_t live, uint32_t exits, uint32_t ready) {
    if (live == 0) return;
    s->seen_live = s->seen_live * 0.95 + live;
    s->seen_exits = s->seen_exits * 0.95 + exits;
    s->seen_ready = s->seen_ready * 0.95 + ready;
    s->exit_rate = s->seen_exits / s->seen_live;
    s->ready_rate = s->seen_ready / s->seen_live;
}

static bool goes_nowhere(const scheduler *s, const cohort *c) { /* no row of it is run in `f` */
    if (c->hedge == SELF_GUARDED) return c->n_live == 0;
    return c->hedge == FOLLOWS_GUARD && s->rows[c->guard].state != ROW_LIVE;
}

/* The rows of f, started behind the launch just settled, that the device leaves out now
 * that it is known who halted: their slots go back, and their loop was none. */
static void take_back(scheduler *s, flight *f) {
    for (uint32_t i = 0; i < f->n_rows; i++) {
        const eng_row *r = &f->rows[i];
        cohort *c = f->picks[f->who[i].pick];
        if (c == NULL || !(r->flags & ENG_ROW_GUARDED)) continue;
        if (s->rows[r->guard].state == ROW_LIVE) continue;
        f->who[i].left_out = true;
        f->n_left_out++;
        if (s->fault != FAULT_KEEP_SLOT) {
            sched__give_slot(&s->cache, c->owner->blocks[r->pos / ENG_BLOCK], f->who[i].slot);
        }
        if (c->n_tail > 0) c->next_loop = r->loop;
    }
    for (uint32_t i = 0; i < f->n_picks; i++) {
        cohort *c = f->picks[i];
        if (c && goes_nowhere(s, c)) sched__unpick(f, c);
    }
}

void sched__settle_loops(scheduler *s, flight *f, const eng_result *r) {
    s->since_flush_ns += (double)r->ns;
    if (s->n_to_coda > 0) s->flush_waited++;
    uint32_t live = 0, exits = s->n_looping_live, ready = s->n_to_coda;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        cohort *c = f->picks[f->who[i].pick];
        if (c == NULL || f->who[i].left_out) continue;
        row_info *row = &s->rows[f->rows[i].row];
        live += row->state == ROW_LIVE;
        count_row(s, c, &f->rows[i]);
        settle_row(s, c, row, f->rows[i].loop + 1u, r->halted[i] != 0);
    }
    exits -= s->n_looping_live;
    flight *behind = sched__newest_out(s);
    if (behind && behind->stage == ENG_STAGE_RECURRENT) take_back(s, behind);
    for (uint32_t i = 0; i < f->n_picks; i++) {
        if (f->picks[i]) f->picks[i]->pick[f->index] = NONE;
    }
    for (uint32_t i = 0; i < f->n_picks; i++) {
        cohort *c = f->picks[i];
        if (c == NULL) continue;
        seq *q = c->owner;
        sched__settle_cohort(s, c); /* may free it */
        sched__offer_blocks(s, q);
    }
    learn_exits(s, live, exits, s->n_to_coda - ready);
}
