/* loops.c - recurrent launches: slots for a loop, rows, and who left. */
#include "scheduler/scheduler_internal.h"

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
        if (!sched__place(s, q, pos, eng_plane_loop(g, c->next_loop), n_planes)) return false;
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
        eng_row *r = sched__add_row(s, c->owner, row);
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

static void learn_exits(sched *s, uint32_t live, uint32_t exits) {
    if (live == 0) return;
    double rate = (double)exits / live;
    s->exit_rate += s->exit_rate > 0 ? (rate - s->exit_rate) * 0.05 : rate;
}

int sched__run_loops(sched *s, err *e) {
    sched__pick_loops(s);
    for (uint32_t i = 0; i < s->n_picks; i++) {
        if (s->picks[i]) (void)place_loop(s, s->picks[i]);
    }
    for (uint32_t i = 0; i < s->n_picks; i++) {
        if (s->picks[i]) add_loop_rows(s, s->picks[i]);
    }
    eng_result r;
    if (s->n_launch > 0 && sched__run_launch(s, ENG_STAGE_RECURRENT, &r, e) != 0) return -1;
    sched__unpick_all(s);
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
        sched__settle_cohort(s, c);
        sched__offer_blocks(s, q);
    }
    return 0;
}
