/* flight.c - the parts of one launch: its picks, rows, edits and draws.
 *
 * Launches run in the order they were started in, so rows, slots and blocks freed while a flight
 * names them may be handed out again at once: the new owner's launches come later. A freed cohort
 * leaves NULL in its picks, so the result of an old launch never reaches a new cohort in the same
 * memory or rows. */
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

static int flight_init(scheduler *sched, flight *fl, err *e) {
    fl->picks = array_new(sched->max_rows, sizeof *fl->picks);
    fl->rows = array_new(sched->max_rows, sizeof *fl->rows);
    fl->origins = array_new(sched->max_rows, sizeof *fl->origins);
    fl->edits = array_new(sched->max_edits, sizeof *fl->edits);
    fl->draws = array_new(sched->max_rows, sizeof *fl->draws);
    if (fl->picks && fl->rows && fl->origins && fl->edits && fl->draws) return 0;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the scheduler's launches");
}

int sched__flights_init(scheduler *sched, err *e) {
    uint32_t most = sched->backend->info.max_flights;
    sched->max_flights = most < 1 ? 1 : most > MOST_FLIGHTS ? MOST_FLIGHTS : most;
    sched->flights = array_new(sched->max_flights, sizeof *sched->flights);
    if (sched->flights == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for launches");
    for (uint32_t i = 0; i < sched->max_flights; i++) {
        if (flight_init(sched, &sched->flights[i], e) != 0) return -1;
    }
    return 0;
}

void sched__flights_deinit(scheduler *sched) {
    for (uint32_t i = 0; i < sched->max_flights && sched->flights; i++) {
        flight *fl = &sched->flights[i];
        free(fl->picks);
        free(fl->rows);
        free(fl->origins);
        free(fl->edits);
        free(fl->draws);
    }
    free(sched->flights);
}

flight *sched__new_flight(scheduler *sched, eng_stage stage) {
    flight *next = &sched->flights[(sched->first_out + sched->n_out) % sched->max_flights];
    next->stage = stage;
    next->n_picks = next->n_rows = next->n_edits = next->n_draws = next->n_left_out = 0;
    next->n_last_loop = next->n_may_halt = next->n_heads = 0;
    memset(next->home_rows, 0, sizeof next->home_rows);
    return next;
}

/* ---- picks ---- */

static void link_pick(picked *pick) {
    list_insert_before(&pick->cohort->picks, &pick->cohort_link);
}

void sched__pick(flight *next, cohort *coh, uint32_t first_row, uint32_t n_rows) {
    picked *pick = &next->picks[next->n_picks++];
    *pick = (picked){.cohort = coh, .flight = next, .first_row = first_row, .n_rows = n_rows};
    link_pick(pick);
}

void sched__unpick(picked *pick) {
    list_remove(&pick->cohort_link);
    pick->cohort = NULL;
}

void sched__drop_lost_picks(flight *next) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < next->n_picks; i++) {
        if (next->picks[i].cohort == NULL) continue;
        if (n != i) {
            list_remove(&next->picks[i].cohort_link);
            next->picks[n] = next->picks[i];
            link_pick(&next->picks[n]);
        }
        n++;
    }
    next->n_picks = n;
}

bool sched__loop_is_out(const cohort *coh) {
    for (list_link *link = coh->picks.next; link != &coh->picks; link = link->next) {
        if (sched__pick_at(link)->flight->stage == ENG_STAGE_RECURRENT) return true;
    }
    return false;
}

/* ---- rows ---- */

eng_edit *sched__place(scheduler *sched, flight *next, const sequence *seq, uint32_t row,
                       uint32_t plane, uint32_t n_planes) {
    uint32_t pos = sched->rows[row].pos, id = seq->blocks[pos / ENG_BLOCK];
    uint32_t *slots = sched__row_slots(sched, row);
    eng_edit *edit = &next->edits[next->n_edits++];
    *edit = (eng_edit){.block = id,
                       .slot = sched__take_slot(sched__cache_of(sched, seq), id),
                       .plane = (uint16_t)plane,
                       .n_planes = (uint16_t)n_planes,
                       .off = (uint8_t)(pos % ENG_BLOCK),
                       .home = seq->prefix_key.home};
    if (slots) slots[plane] = edit->slot;
    return edit;
}

eng_row *sched__add_row(const scheduler *sched, flight *next, picked *pick, uint32_t row) {
    const sequence *seq = pick->cohort->owner;
    uint32_t pos = sched->rows[row].pos;
    next->origins[next->n_rows] = (row_origin){.pick = pick};
    eng_row *out = &next->rows[next->n_rows++];
    *out = (eng_row){.row = row,
                     .pos = pos,
                     .token = seq->tokens[pos],
                     .min_loops = sched__min_loops(seq, pos),
                     .max_loops = seq->prefix_key.max_loops,
                     .threshold = seq->prefix_key.threshold,
                     .home = seq->prefix_key.home,
                     .blocks = seq->blocks};
    return out;
}
