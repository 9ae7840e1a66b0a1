/* ahead.c - starting a launch before the results of the one before it are known.
 *
 * A backend with several launches in flight need not idle while the host settles one. The next
 * launch is then built on one assumption: no live row of an unsettled launch halts before its last
 * loop. State known at the start of a launch advances at its start (loops are counted, rows enter
 * the loop or leave the coda's queue). State known from the result follows when the launch is
 * settled (rows halt, tokens come out, sequences end).
 *
 * If a row may have halted, the launch tells the device how to treat it then (if_halted). When the
 * earlier launch is settled, the loops and slots of rows left out by the device are taken back. So
 * the cache still costs executed loops and nothing else.
 *
 * With one launch in flight nothing here has any effect. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

#include <math.h>

/* ---- whether it pays ---- */

/* Starting ahead hides the host's work between two launches. Its price: rows leaving the launch
 * that is out (into the coda, or as new tokens from it) are known too late to join the next one, so
 * their share of the pool idles for one launch. A launch whose rows have all halted is over at
 * once, so a sequence alone always goes ahead. From a prelude no row leaves. A sequence that will
 * draft after the launch that is out would begin its next position a loop late. A batch that stays
 * whole would come apart if a loop started before the tokens of its coda. */
bool sched__ahead_pays(const scheduler *sched, const flight *out) {
    if (sched->ahead.rule != AHEAD_BY_COST) return sched->ahead.rule == AHEAD_ALWAYS;
    if (out->stage == ENG_STAGE_PRELUDE) return true;
    if (sched->rules.batch_stays_whole) return out->stage == ENG_STAGE_RECURRENT;
    double live = sched->n_looping_live, n_rows = live + sched->n_looping_tail, leaving, share;
    if (n_rows > sched->max_rows) n_rows = sched->max_rows;
    double loop_ns = sched__fit_ns(&sched->cost.stage[ENG_STAGE_RECURRENT], n_rows);
    if (live == 0) return false; /* nothing to start */
    if (sched__draft_goes_first(sched, out, loop_ns)) return false;
    /* A launch ahead would hold only part of the rows. */
    if (sched->rules.collapses && out->n_may_halt > 0) return false;
    if (out->stage == ENG_STAGE_CODA) {
        leaving = out->n_heads;
        share = leaving / (leaving + live);
    } else {
        leaving = out->n_last_loop + sched->cost.exit_rate * out->n_may_halt;
        share = leaving < live ? leaving / live : 1;
        share *= 1 - pow(share, live - 1); /* not all the others left too */
    }
    return sched->ahead.host_ns[out->stage] >= share * loop_ns;
}

enum {
    FREE_HOST_NS = 2000
}; /* about its own time between two launches, as simulated runs have it */

/* The mean forgets slowly, and one pause of the machine counts little. */
void sched__learn_host(scheduler *sched) {
    ahead_state *ahead = &sched->ahead;
    if (ahead->settled_at == 0) return;
    double ns = sched->host_is_free ? FREE_HOST_NS : (double)(clock_ns() - ahead->settled_at);
    double *mean = &ahead->host_ns[ahead->settled_stage];
    ahead->settled_at = 0;
    if (*mean > 0 && ns > 10 * *mean) ns = 10 * *mean;
    *mean += *mean > 0 ? (ns - *mean) * 0.05 : ns;
}

void sched__host_begins(scheduler *sched, eng_stage settled) {
    if (sched->max_flights == 1) return;
    sched->ahead.settled_at = clock_ns();
    sched->ahead.settled_stage = settled;
}

/* ---- whether it fits: rows that halt in the launch that is out may make room ---- */

static uint64_t at_most(uint64_t n_rows, const scheduler *sched) {
    return n_rows < sched->max_rows ? n_rows : sched->max_rows;
}

/* At worst, all rows are of one home. */
static bool surely_fits(const scheduler *sched, uint64_t n_slots, uint64_t n_blocks) {
    for (uint32_t home = 0; home < sched->n_homes; home++) {
        if (sched->home_running[home] > 0 &&
            !sched__surely_fits(&sched->caches[home], n_slots, n_blocks))
            return false;
    }
    return true;
}

static bool prelude_fits(const scheduler *sched) {
    uint64_t n_rows = 0, n_blocks = 0;
    const list_link *link = sched->to_prelude.next;
    for (; link != &sched->to_prelude; link = link->next) {
        const cohort *coh = OWNER_OF((uintptr_t)link, cohort, stage_link);
        if (n_rows + coh->n_rows > sched->max_rows) break;
        n_rows += coh->n_rows;
        n_blocks += coh->n_rows / ENG_BLOCK + 2;
    }
    return surely_fits(sched, n_rows * plan_planes_prelude(sched->plan), n_blocks);
}

static uint64_t rows_to_draft(const scheduler *sched) {
    const list_link *list = &sched->to_draft, *link = list->next;
    uint64_t n = 0;
    for (; link != list; link = link->next)
        n += sched__draft_rows(sched, OWNER_OF((uintptr_t)link, cohort, stage_link));
    return n;
}

bool sched__ahead_fits(const scheduler *sched, eng_stage stage) {
    uint64_t looping = (uint64_t)sched->n_looping_live + sched->n_looping_tail + sched->n_parked;
    uint64_t n_coda =
        at_most(sched->n_to_coda + rows_to_draft(sched), sched) * plan_planes_coda(sched->plan);
    switch (stage) {
    case ENG_STAGE_PRELUDE: return prelude_fits(sched);
    case ENG_STAGE_RECURRENT: return surely_fits(sched, at_most(looping, sched), 0);
    case ENG_STAGE_CODA: return surely_fits(sched, n_coda, 0);
    }
    return false;
}

/* ---- rows in doubt ---- */

/* coh is the one live position of its sequence and no cohort stands behind it. So under policy
 * exact the tails of its sequence loop for coh alone, and its own tail would park. */
static bool runs_alone(const scheduler *sched, const cohort *coh) {
    const sequence *seq = coh->owner;
    return sched->rules.tails_park && coh->decode && !coh->timed && coh == seq->last &&
           seq->next_start == seq->n_tokens && seq->coda_next == coh->first;
}

/* Raises frontiers as if the newest launch were settled and all its live rows went on. */
void sched__assume_none_halts(scheduler *sched) {
    const flight *out = sched__newest_out(sched);
    if (out == NULL || out->stage != ENG_STAGE_RECURRENT) return;
    for (uint32_t i = 0; i < out->n_picks; i++) {
        cohort *coh = out->picks[i].cohort;
        if (coh == NULL || coh->n_live == 0) continue;
        if (coh->next_loop == coh->owner->prefix_key.max_loops) continue;
        if (coh->timed && sched__may_halt(&sched->limits, coh->owner, coh->first, coh->next_loop))
            continue;
        coh->raised_on_a_guess = runs_alone(sched, coh);
        sched__raise_frontier(sched, coh);
    }
}

void sched__guess_failed(scheduler *sched, cohort *coh) {
    coh->raised_on_a_guess = false;
    sched__lower_frontier(sched, coh->owner, coh->next_loop);
}

/* Whether the cohort of `pick` is in an earlier recurrent launch too. */
static bool is_in_doubt(picked *pick) {
    list_link *link = pick->cohort->picks.next;
    for (; link != &pick->cohort_link; link = link->next) {
        if (sched__pick_at(link)->flight->stage == ENG_STAGE_RECURRENT) return true;
    }
    return false;
}

/* Marks the tails directly before coh that run only for coh. Stops at the first cohort that would
 * run anyway, because it needs the tails before it itself. */
static void mark_followers(const scheduler *sched, const flight *next, const cohort *coh) {
    for (cohort *tail = coh->before; tail; tail = tail->before) {
        if (tail->n_live + tail->n_tail == 0) continue;
        if (!sched__is_picked(next, tail) || tail->next_loop != coh->next_loop ||
            tail->n_live > 0 || !sched__parks_at_all(sched, tail)) {
            return;
        }
        picked *pick = sched__pick_at(tail->picks.prev);
        pick->if_halted = LEAVE_OUT_WITH;
        pick->guard = coh->first_row;
    }
}

void sched__doubt_picks(scheduler *sched, flight *next) {
    if (sched->n_out == 0) return;
    for (uint32_t i = 0; i < next->n_picks; i++) {
        picked *pick = &next->picks[i];
        if (pick->cohort->n_live == 0 || pick->cohort->timed || !is_in_doubt(pick)) continue;
        bool alone = runs_alone(sched, pick->cohort);
        pick->if_halted = alone || !sched->rules.tails ? LEAVE_OUT : CONTINUE_AS_TAIL;
        if (alone) mark_followers(sched, next, pick->cohort);
    }
}

void sched__doubt_row(const picked *pick, bool is_tail, eng_row *row) {
    row->guard = is_tail ? pick->guard : row->row;
    switch (pick->if_halted) {
    case CANNOT_HALT: break;
    case LEAVE_OUT: row->flags |= is_tail ? 0 : ENG_ROW_GUARDED; break;
    case LEAVE_OUT_WITH: row->flags |= is_tail ? ENG_ROW_GUARDED : 0; break;
    case CONTINUE_AS_TAIL: row->flags |= is_tail ? 0 : ENG_ROW_OR_TAIL; break;
    }
}

/* ---- rows left out ---- */

static bool runs_no_row(const scheduler *sched, const picked *pick) {
    if (pick->if_halted == LEAVE_OUT) return pick->cohort->n_live == 0;
    return pick->if_halted == LEAVE_OUT_WITH && sched->rows[pick->guard].state != ROW_LIVE;
}

static void take_back_from(scheduler *sched, flight *later) {
    for (uint32_t i = 0; i < later->n_rows; i++) {
        const eng_row *row = &later->rows[i];
        row_origin *origin = &later->origins[i];
        cohort *coh = origin->pick->cohort;
        if (coh == NULL || !(row->flags & ENG_ROW_GUARDED)) continue;
        if (sched->rows[row->guard].state == ROW_LIVE) continue;
        origin->left_out = true;
        later->n_left_out++;
        sched__give_slot(sched__cache_of(sched, coh->owner),
                         coh->owner->blocks[row->pos / ENG_BLOCK], origin->slot);
        uint32_t *slots = sched__row_slots(sched, row->row);
        if (slots) slots[plan_plane_loop(sched->plan, row->loop)] = NONE;
        coh->n_run--;
        if (coh->n_tail > 0) coh->next_loop = row->loop;
    }
    for (uint32_t i = 0; i < later->n_picks; i++) {
        picked *pick = &later->picks[i];
        if (pick->cohort && runs_no_row(sched, pick)) sched__unpick(pick);
    }
}

void sched__take_back(scheduler *sched) {
    flight *later = sched__newest_out(sched);
    if (later && later->stage == ENG_STAGE_RECURRENT) take_back_from(sched, later);
}
