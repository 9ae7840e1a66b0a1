/* flight.c - a launch: its rows, the slots they write, and running it. */
#include "scheduler/scheduler_internal.h"

void sched__clear_launch(sched *s) {
    s->n_picks = s->n_launch = s->n_edits = s->n_logits = 0;
}

void sched__pick(sched *s, cohort *c) {
    c->pick = s->n_picks;
    s->picks[s->n_picks++] = c;
}

void sched__unpick_all(sched *s) {
    for (uint32_t i = 0; i < s->n_picks; i++) {
        if (s->picks[i]) s->picks[i]->pick = NONE;
    }
}

bool sched__have_block(sched *s, seq *q, uint32_t pos) {
    while (pos / ENG_BLOCK >= q->n_blocks) {
        if (sched__take_block(&s->cache, &q->blocks[q->n_blocks])) {
            q->n_blocks++;
        } else if (!sched__make_room(s, q)) {
            return false;
        }
    }
    return true;
}

bool sched__place(sched *s, seq *q, uint32_t pos, uint32_t plane, uint32_t n_planes) {
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

eng_row *sched__add_row(sched *s, seq *q, uint32_t row) {
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

int sched__run_launch(sched *s, eng_stage stage, eng_result *r, err *e) {
    eng_launch l = {stage, s->launch_rows, s->n_launch, s->edits, s->n_edits};
    if (eng_run(s->backend, &l, r, e) != 0) return -1;
    sched__cost_add(&s->cost[stage], s->n_launch, r->ns);
    s->stats.launches[stage]++;
    s->stats.launch_rows[stage] += s->n_launch;
    s->stats.launch_ns[stage] += r->ns;
    return 0;
}
