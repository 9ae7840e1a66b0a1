/* reserve.c - room in the cache for a launch, found before it is built.
 *
 * Only here does a sequence give way to others of its home: first drafts are withdrawn, then the
 * last in rank of the tenant with the most pages there is preempted. So the first in rank of a home
 * always goes on to its end, and then the next is first: every sequence ends, however small the
 * pool. */
#include "scheduler/scheduler_internal.h"

/* Withdraws drafts, then preempts a sequence or, if seq runs alone at its home, evicts protected
 * blocks. The pick that needs the room may be lost. */
static void make_room(scheduler *sched, sequence *seq) {
    uint32_t home = seq->prefix_key.home;
    if (sched__withdraw_some(sched, home)) return;
    if (sched->home_running[home] > 1) {
        sequence *last = sched__last_running(sched, sched__most_pages(sched, home), home);
        sched__preempt(sched, last);
    } else if (!sched__evict(sched__cache_of(sched, seq), ANY_TENANT)) {
        /* A request too large to fit alone is refused at submit, so this is our fault. End only it.
         */
        sched__end(sched, seq, SCHED_FAILED, ERR_INTERNAL, 0);
    }
}

/* The block of pos is taken when its first position starts. */
static bool reserve_block(scheduler *sched, const picked *pick, uint32_t pos) {
    sequence *seq = pick->cohort->owner;
    kv_cache *cache = sched__cache_of(sched, seq);
    while (pos / ENG_BLOCK >= seq->n_blocks) {
        if (sched__take_block(cache, seq->req.tenant, &seq->blocks[seq->n_blocks])) {
            seq->n_blocks++;
            continue;
        }
        make_room(sched, seq);
        if (pick->cohort == NULL) return false;
    }
    return true;
}

static bool reserve_slots(scheduler *sched, picked *pick, uint32_t pos, uint32_t n_slots) {
    sequence *seq = pick->cohort->owner;
    kv_cache *cache = sched__cache_of(sched, seq);
    while (!sched__promise_slots(cache, seq->blocks[pos / ENG_BLOCK], n_slots)) {
        make_room(sched, seq);
        if (pick->cohort == NULL) return false;
    }
    pick->n_promised += n_slots;
    return true;
}

static uint32_t slots_per_row(const scheduler *sched, eng_stage stage) {
    switch (stage) {
    case ENG_STAGE_PRELUDE: return plan_planes_prelude(sched->plan);
    case ENG_STAGE_RECURRENT: return 1;
    case ENG_STAGE_CODA: return plan_planes_coda(sched->plan);
    }
    return 0;
}

static void reserve_pick(scheduler *sched, eng_stage stage, picked *pick) {
    uint32_t n_slots = slots_per_row(sched, stage), row = pick->first_row;
    if (stage == ENG_STAGE_CODA && pick->cohort->coda_placed) return;
    for (uint32_t i = 0; i < pick->n_rows; i++, row = sched->rows[row].next) {
        uint32_t pos = sched->rows[row].pos;
        if (stage == ENG_STAGE_RECURRENT && sched->rows[row].state == ROW_DONE) continue;
        if (stage == ENG_STAGE_PRELUDE && !reserve_block(sched, pick, pos)) return;
        if (!reserve_slots(sched, pick, pos, n_slots)) return;
    }
}

void sched__reserve(scheduler *sched, flight *next) {
    for (uint32_t i = 0; i < next->n_picks; i++) {
        if (next->picks[i].cohort) reserve_pick(sched, next->stage, &next->picks[i]);
    }
    sched__drop_lost_picks(next);
    for (uint32_t i = 0; i < next->n_picks; i++)
        next->picks[i].n_promised = 0; /* building takes them */
}
