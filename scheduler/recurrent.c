/* recurrent.c - recurrent launches: one more loop of many rows. */
#include "scheduler/scheduler_internal.h"

void sched__choose_loops(scheduler *sched, flight *next) {
    sched__assume_none_halts(sched);
    if (sched->n_tenants > 1) sched__seat_tenants(sched);
    sched__pick_loops(sched, next);
    sched__doubt_picks(sched, next);
}

/* ---- building ---- */

static void count_exits(scheduler *sched, flight *next, const cohort *coh, const eng_row *row) {
    bool last_loop = row->loop + 1 == row->max_loops;
    next->n_last_loop += last_loop;
    /* A chunk goes when its last row does. */
    next->n_may_halt += !last_loop && coh->n_live == 1 &&
                        sched__may_halt(&sched->limits, coh->owner, coh->first, row->loop + 1u);
}

/* The next loop of one row. Under last_stands_in its slot serves all deeper planes until a deeper
 * loop is run. */
static void add_loop(scheduler *sched, flight *next, picked *pick, uint32_t at) {
    cohort *coh = pick->cohort;
    const sequence *seq = coh->owner;
    uint32_t max_loops = seq->prefix_key.max_loops, loop = coh->next_loop;
    bool is_tail = sched->rows[at].state == ROW_TAIL;
    eng_row *row = sched__add_row(sched, next, pick, at);
    row->loop = coh->next_loop;
    if (is_tail) row->flags = ENG_ROW_TAIL;
    if (is_tail && loop + 1 == max_loops && sched->rules.tails_end_early) {
        row->flags |= ENG_ROW_KV_ONLY;
    }
    sched__doubt_row(pick, is_tail, row);
    if (!is_tail) count_exits(sched, next, coh, row);
    eng_edit *edit = sched__place(sched, next, seq, at, plan_plane_loop(sched->plan, loop),
                                  sched->rules.last_stands_in ? max_loops - loop : 1);
    edit->guarded = (row->flags & ENG_ROW_GUARDED) != 0;
    edit->guard = row->guard;
    row_origin *origin = &next->origins[next->n_rows - 1];
    origin->slot = edit->slot;
    origin->prompt = row->pos < seq->req.n_prompt;
    coh->n_run++;
}

/* Counts the slots that coh would take if every loop were stored. */
static void count_full_depth(scheduler *sched, const cohort *coh) {
    uint32_t n_slots = plan_planes(sched->plan, coh->owner->prefix_key.max_loops);
    kv_cache *cache = sched__cache_of(sched, coh->owner);
    for (uint32_t i = 0; i < coh->n_rows; i++) {
        uint32_t id = coh->owner->blocks[(coh->first + i) / ENG_BLOCK];
        cache->blocks[id].full_depth_slots += n_slots;
        cache->full_depth_slots += n_slots;
    }
}

void sched__build_loops(scheduler *sched, flight *next) {
    for (uint32_t i = 0; i < next->n_picks; i++) {
        picked *pick = &next->picks[i];
        if (pick->cohort->timed) sched__collapse_before(sched, next, pick->cohort);
        for (uint32_t row = pick->first_row; row != NONE; row = sched->rows[row].next) {
            if (sched->rows[row].state != ROW_DONE) add_loop(sched, next, pick, row);
        }
        if (pick->cohort->next_loop == 0) count_full_depth(sched, pick->cohort);
    }
}

void sched__started_loops(flight *next) {
    for (uint32_t i = 0; i < next->n_picks; i++)
        next->picks[i].cohort->next_loop++;
}

/* ---- settling ---- */

/* A row left the loop, or its tail ended, in its launch of loop `loops` - 1. */
static void settle_row(scheduler *sched, cohort *coh, row_info *row, uint32_t loops, bool halted) {
    bool deepest = loops == coh->owner->prefix_key.max_loops;
    if (row->state == ROW_TAIL) {
        if (!deepest) return;
        row->state = ROW_DONE;
        coh->n_tail--;
        sched->n_looping_tail--;
        return;
    }
    if (row->state != ROW_LIVE || (!halted && !deepest)) return;
    row->depth = (uint16_t)loops;
    coh->n_live--;
    sched->n_looping_live--;
    if (coh->timed) coh->owner->clock = coh->began + loops;
    bool tail = sched->rules.tails && !deepest;
    row->state = tail ? ROW_TAIL : ROW_DONE;
    if (tail) {
        coh->n_tail++;
        sched->n_looping_tail++;
    }
}

static void count_row(scheduler *sched, const cohort *coh, const eng_row *row) {
    if (sched->rows[row->row].state == ROW_LIVE) {
        *(coh->decode ? &sched->stats.decode_rows : &sched->stats.prompt_rows) += 1;
    } else {
        sched->stats.tail_rows++;
        sched->stats.kv_only_rows += (row->flags & ENG_ROW_KV_ONLY) != 0;
    }
}

/* Returns how many rows were live in the launch. */
static uint32_t settle_rows(scheduler *sched, const flight *done, const eng_result *result) {
    uint32_t n_live = 0;
    for (uint32_t i = 0; i < done->n_rows; i++) {
        const eng_row *row = &done->rows[i];
        cohort *coh = done->origins[i].pick->cohort;
        if (coh == NULL || done->origins[i].left_out) continue;
        n_live += sched->rows[row->row].state == ROW_LIVE;
        count_row(sched, coh, row);
        settle_row(sched, coh, &sched->rows[row->row], row->loop + 1u, result->halted[i] != 0);
    }
    return n_live;
}

/* Every cohort leaves the launch before any is settled, because settling asks earlier cohorts. */
void sched__settle_loops(scheduler *sched, flight *done, const eng_result *result) {
    if (sched->n_to_coda + sched->n_to_draft > 0) sched->flush_waited++;
    uint32_t live_before = sched->n_looping_live;
    uint32_t n_live = settle_rows(sched, done, result);
    uint32_t exited = live_before - sched->n_looping_live;
    sched__take_back(sched);
    for (uint32_t i = 0; i < done->n_picks; i++) {
        if (done->picks[i].cohort) list_remove(&done->picks[i].cohort_link);
    }
    for (uint32_t i = 0; i < done->n_picks; i++) {
        if (done->picks[i].cohort) sched__settle_cohort(sched, done->picks[i].cohort);
    }
    sched__follow_drafts(sched);
    sched__learn_exits(&sched->cost, n_live, exited);
}
