/* flight.c - a launch from its start until it is settled.
 *
 * The host is one step late where the backend takes launches ahead: while one runs, the
 * next is built from what is known plus one assumption, that no live row of the one that
 * runs halts unless it ran its last loop. So the state of cohorts advances when a launch
 * is started (loops are counted, rows enter the loop or leave the coda's queue) and what
 * only the result tells follows when it is settled: who halted, which tokens came, who
 * ended. Where the assumption was wrong the device left rows out (or ran them as tails),
 * and settling takes their loop and their slot back.
 *
 * With one flight each launch is settled before anything else happens.
 *
 * Launches run in the order they were started in, so rows, slots and blocks freed while a
 * flight names them may be handed out again at once: the new owner's launches come after.
 * A cohort that is freed leaves NULL among the picks of its flights, so what was launched
 * for it is never settled onto whoever comes by its memory or its rows next. */
#include "base/clock.h"
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>

int sched__flights_init(scheduler *s, err *e) {
    uint32_t most = s->backend->info.max_flights;
    s->max_flights = most < 1 ? 1 : most > MAX_FLIGHTS ? MAX_FLIGHTS : most;
    for (uint32_t i = 0; i < MAX_FLIGHTS; i++) {
        flight *f = &s->flights[i];
        f->index = i;
        f->picks = array_new(s->max_rows, sizeof(cohort *));
        f->rows = array_new(s->max_rows, sizeof *f->rows);
        f->who = array_new(s->max_rows, sizeof *f->who);
        f->edits = array_new(s->max_edits, sizeof *f->edits);
        f->draws = array_new(s->max_rows, sizeof *f->draws);
        if (!f->picks || !f->rows || !f->who || !f->edits || !f->draws) {
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the scheduler's launches");
        }
    }
    return 0;
}

void sched__flights_deinit(scheduler *s) {
    for (uint32_t i = 0; i < MAX_FLIGHTS; i++) {
        flight *f = &s->flights[i];
        free(f->picks);
        free(f->rows);
        free(f->who);
        free(f->edits);
        free(f->draws);
    }
}

/* ---- building ---- */

flight *sched__new_flight(scheduler *s, eng_stage stage) {
    flight *f = &s->flights[(s->first_out + s->n_out) % MAX_FLIGHTS];
    f->stage = stage;
    f->of_flush = s->flushing;
    f->n_picks = f->n_rows = f->n_edits = f->n_left_out = 0;
    f->n_last = f->n_may = f->n_heads = f->n_draws = 0;
    return f;
}

void sched__pick(flight *f, cohort *c) {
    c->pick[f->index] = f->n_picks;
    f->picks[f->n_picks++] = c;
}

void sched__unpick(flight *f, cohort *c) {
    f->picks[c->pick[f->index]] = NULL;
    c->pick[f->index] = NONE;
}

bool sched__loop_is_out(const scheduler *s, const cohort *c) {
    for (uint32_t i = 0; i < MAX_FLIGHTS; i++) {
        if (c->pick[i] != NONE && s->flights[i].stage == ENG_STAGE_RECURRENT) return true;
    }
    return false;
}

bool sched__have_block(scheduler *s, seq *q, uint32_t pos) {
    while (pos / ENG_BLOCK >= q->n_blocks) {
        if (sched__take_block(&s->cache, q->req.tenant, &q->blocks[q->n_blocks])) {
            q->n_blocks++;
        } else if (!sched__make_room(s, q)) {
            return false;
        }
    }
    return true;
}

eng_edit *sched__place(scheduler *s, flight *f, seq *q, uint32_t pos, uint32_t plane,
                       uint32_t n_planes) {
    uint32_t at = pos / ENG_BLOCK, slot;
    while (!sched__take_slot(&s->cache, q->blocks[at], &slot)) {
        if (!sched__make_room(s, q)) return NULL;
    }
    eng_edit *d = &f->edits[f->n_edits++];
    *d = (eng_edit){.block = q->blocks[at],
                    .slot = slot,
                    .plane = (uint16_t)plane,
                    .n_planes = (uint16_t)n_planes,
                    .off = (uint8_t)(pos % ENG_BLOCK)};
    return d;
}

eng_row *sched__add_row(scheduler *s, flight *f, const cohort *c, uint32_t row) {
    const seq *q = c->owner;
    f->who[f->n_rows] = (flight_row){.pick = c->pick[f->index]};
    eng_row *r = &f->rows[f->n_rows++];
    *r = (eng_row){.row = row,
                   .pos = s->rows[row].pos,
                   .token = q->tokens[s->rows[row].pos],
                   .min_loops = sched__min_loops(q, s->rows[row].pos),
                   .max_loops = q->root.max_loops,
                   .threshold = q->root.threshold,
                   .blocks = q->blocks};
    return r;
}

static void drop_lost_rows(flight *f) { /* of sequences preempted while slots were found */
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        if (f->picks[f->who[i].pick] == NULL) continue;
        f->rows[n] = f->rows[i];
        f->who[n++] = f->who[i];
    }
    f->n_rows = n;
}

/* ---- starting ---- */

/* What the host does between a result and the next launch, forgetting slowly: what
 * starting ahead hides. One pause in the middle of it counts little. */
static void learn_host(scheduler *s) {
    if (s->settled_at == 0) return;
    double ns = (double)(clock_ns() - s->settled_at), *mean = &s->host_ns[s->settled_stage];
    s->settled_at = 0;
    if (*mean > 0 && ns > 10 * *mean) ns = 10 * *mean;
    *mean += *mean > 0 ? (ns - *mean) * 0.05 : ns;
}

int sched__launch(scheduler *s, flight *f, err *e) {
    drop_lost_rows(f);
    if (f->n_rows == 0) return 0;
    eng_launch l = {f->stage, f->rows, f->n_rows, f->edits, f->n_edits};
    if (s->backend->ops->launch(s->backend, &l, e) != 0) return -1;
    learn_host(s);
    s->n_out++;
    s->n_started++;
    s->n_flush_out += f->of_flush;
    return 0;
}

/* ---- settling ---- */

static void count(scheduler *s, const flight *f, uint64_t ns) {
    uint32_t n = f->n_rows - f->n_left_out;
    if (n > 0) sched__cost_add(&s->cost[f->stage], n, ns);
    s->stats.launches[f->stage]++;
    s->stats.launch_rows[f->stage] += n;
    s->stats.launch_ns[f->stage] += ns;
    s->stats.voided_rows += f->n_left_out;
    if (!f->of_flush) return;
    s->n_flush_out--;
    s->flush_ns += ns;
    s->flush_rows += f->stage == ENG_STAGE_CODA ? n : 0;
}

int sched__settle_oldest(scheduler *s, err *e) {
    flight *f = &s->flights[s->first_out];
    s->first_out = (s->first_out + 1) % MAX_FLIGHTS;
    s->n_out--;
    eng_result r;
    if (s->backend->ops->wait(s->backend, &r, e) != 0) return -1;
    if (s->max_flights > 1) {
        s->settled_at = clock_ns();
        s->settled_stage = f->stage;
    }
    count(s, f, r.ns);
    if (s->n_tenants > 1) sched__charge(s, f, r.ns);
    switch (f->stage) {
    case ENG_STAGE_PRELUDE: sched__settle_prelude(f); break;
    case ENG_STAGE_RECURRENT: sched__settle_loops(s, f, &r); break;
    case ENG_STAGE_CODA: sched__settle_coda(s, f, &r); break;
    }
    if (s->flush_open && !s->flushing && s->n_flush_out == 0) sched__learn_cycle(s);
    if (f->stage == ENG_STAGE_CODA && s->launch_told) s->launch_told(s->ud);
    return 0;
}

int sched__settle_surplus(scheduler *s, err *e) {
    while (s->n_out >= s->max_flights) {
        if (sched__settle_oldest(s, e) != 0) return -1;
    }
    return 0;
}

int sched__settle_all(scheduler *s, err *e) {
    while (s->n_out > 0) {
        if (sched__settle_oldest(s, e) != 0) return -1;
    }
    return 0;
}

void sched__drain(scheduler *s) {
    for (; s->n_out > 0; s->n_out--) {
        eng_result r;
        err e = {0};
        (void)s->backend->ops->wait(s->backend, &r, &e); /* all it would tell is for nobody now */
        s->first_out = (s->first_out + 1) % MAX_FLIGHTS;
    }
}
