/* pick.c - the cohorts of a recurrent launch: the wavefront rule, and the order.
 *
 * The rule: a cohort may run loop t in a launch when every earlier position of its sequence has
 * executed loop t by the end of that launch's K/V writes, or (policy last) halted before it. Along
 * a sequence the loops of cohorts never rise, so only the nearest earlier looping cohort has to be
 * asked. Launches run in the order they are started in, so a loop counts as executed as soon as it
 * is started. */
#include "scheduler/scheduler_internal.h"

static cohort *nearest_looping(const cohort *coh) {
    cohort *earlier = coh->before;
    while (earlier && earlier->n_live + earlier->n_tail == 0)
        earlier = earlier->before;
    return earlier;
}

readiness sched__readiness(const cohort *coh) {
    if (coh->next_loop == coh->owner->prefix_key.max_loops) return MUST_WAIT; /* the last is out */
    if (coh->timed && !sched__may_tick(coh)) return MUST_WAIT;
    const cohort *earlier = nearest_looping(coh);
    if (earlier == NULL || earlier->next_loop > coh->next_loop) return MAY_RUN;
    return earlier->looping && earlier->next_loop == coh->next_loop ? IF_BEFORE_RUNS : MUST_WAIT;
}

static bool sits_out(const scheduler *sched, const cohort *coh) { /* with its tenant */
    return sched->n_tenants > 1 && sched__tenant_of(sched, coh->owner)->sits_out;
}

static bool rule_holds(const flight *next, const cohort *coh) {
    readiness ready = sched__readiness(coh);
    return ready == MAY_RUN ||
           (ready == IF_BEFORE_RUNS && sched__is_picked(next, nearest_looping(coh)));
}

static uint32_t home_of(const cohort *coh) {
    return coh->owner->prefix_key.home;
}

static void pick(flight *next, cohort *coh) {
    sched__pick(next, coh, coh->first_row, coh->n_rows);
    next->home_rows[home_of(coh)] += coh->n_live + coh->n_tail;
}

/* Picks from one list, front first, up to `room` rows, and of a home's second and later cohorts up
 * to `each` rows of the home. Returns the rows taken. */
static uint32_t pick_up_to(const scheduler *sched, flight *next, list_link *list, uint32_t room,
                           uint32_t each) {
    uint32_t taken = 0;
    for (list_link *link = list->next; link != list && taken < room; link = link->next) {
        cohort *coh = OWNER_OF(link, cohort, loop_link);
        uint32_t n = coh->n_live + coh->n_tail, here = next->home_rows[home_of(coh)];
        if (sched__is_picked(next, coh) || taken + n > room || sits_out(sched, coh)) continue;
        if (here > 0 && here + n > each) continue;
        if (!rule_holds(next, coh)) continue;
        pick(next, coh);
        taken += n;
    }
    return taken;
}

/* The attention of a launch takes as long as that of its fullest home. So each home has its part of
 * the launch first, and what then is free goes to any. */
static uint32_t pick_from(const scheduler *sched, flight *next, list_link *list, uint32_t room) {
    uint32_t taken = 0;
    if (sched->n_homes > 1)
        taken = pick_up_to(sched, next, list, room, sched->max_rows / sched->n_homes);
    return taken + pick_up_to(sched, next, list, room - taken, UINT32_MAX);
}

static uint32_t longest_wait(const scheduler *sched) {
    uint32_t most = 0;
    for (int i = 0; i < N_LISTS; i++) {
        const list_link *list = &sched->looping[i];
        for (const list_link *link = list->next; link != list; link = link->next) {
            const cohort *coh = OWNER_OF((uintptr_t)link, cohort, loop_link);
            if (coh->waited > most && !sits_out(sched, coh)) most = coh->waited;
        }
    }
    return most;
}

/* Picks the cohorts passed over for wait_bound launches, the longest first. When the next one does
 * not fit, no other goes before it. Returns the rows left. */
static uint32_t pick_overdue(scheduler *sched, flight *next, uint32_t room) {
    for (uint32_t wait = longest_wait(sched); wait >= sched->limits.opts.wait_bound; wait--) {
        for (int i = 0; i < N_LISTS; i++) {
            list_link *list = &sched->looping[i];
            for (list_link *link = list->next; link != list; link = link->next) {
                cohort *coh = OWNER_OF(link, cohort, loop_link);
                if (coh->waited != wait || sits_out(sched, coh)) continue;
                uint32_t n = coh->n_live + coh->n_tail;
                if (n > room) return 0;
                pick(next, coh);
                room -= n;
            }
        }
    }
    return room;
}

static void age(scheduler *sched, const flight *next, list_link *list) {
    list_link *end = list->prev;
    for (list_link *link = list->next, *after; link != list; link = after) {
        cohort *coh = OWNER_OF(link, cohort, loop_link);
        bool last = link == end;
        after = link->next;
        if (sched__is_picked(next, coh)) {
            coh->waited = 0;
            list_move_back(list, link);
        } else if (!sits_out(sched, coh) && sched__readiness(coh) == MAY_RUN) {
            coh->waited++;
            if (coh->waited > sched->stats.longest_wait) sched->stats.longest_wait = coh->waited;
        }
        if (last) break;
    }
}

/* Picked cohorts go to the back of their list, so each list is served in turn. The others grow
 * older if they could have run and their tenant does not sit out. */
static void age_cohorts(scheduler *sched, const flight *next) {
    for (int i = 0; i < N_LISTS; i++)
        age(sched, next, &sched->looping[i]);
}

/* Everything fits. A chunk follows its neighbour in the same list or in an earlier one. Lists out
 * of order after a squeeze need a second look. */
static void pick_all(scheduler *sched, flight *next) {
    uint32_t room = sched->max_rows, before;
    do {
        before = next->n_picks;
        for (int i = N_LISTS - 1; i >= 0; i--)
            room -= pick_from(sched, next, &sched->looping[i], room);
    } while (next->n_picks > before);
}

/* Decode rows first, then tails, then prompt rows. Tails keep an eighth and prompts a quarter of
 * the launch, and a cohort passed over for wait_bound launches goes before all others. */
static void pick_some(scheduler *sched, flight *next) {
    list_link *lists = sched->looping;
    uint32_t cap = sched->max_rows, room = pick_overdue(sched, next, cap);
    uint32_t tails = list_empty(&lists[LIST_TAIL]) ? 0 : cap / 8;
    uint32_t prompts = list_empty(&lists[LIST_PROMPT]) ? 0 : cap / 4;
    if (prompts > 0 && prompts < sched->chunk) {
        prompts = sched->chunk < cap / 2 ? sched->chunk : cap / 2;
    }
    if (room > tails + prompts) {
        room -= pick_from(sched, next, &lists[LIST_DECODE], room - tails - prompts);
    }
    if (room > prompts) room -= pick_from(sched, next, &lists[LIST_TAIL], room - prompts);
    room -= pick_from(sched, next, &lists[LIST_PROMPT], room);
    for (int i = 0; i < N_LISTS; i++)
        room -= pick_from(sched, next, &lists[i], room);
}

/* Each launch takes at least max_rows - chunk + 1 overdue rows, so with R rows in the pool a ready
 * row is passed over at most wait_bound + R / (max_rows - chunk + 1) + 1 times. */
void sched__pick_loops(scheduler *sched, flight *next) {
    if (sched->n_looping_live + sched->n_looping_tail <= sched->max_rows) {
        pick_all(sched, next);
    } else {
        pick_some(sched, next);
    }
    age_cohorts(sched, next);
}
