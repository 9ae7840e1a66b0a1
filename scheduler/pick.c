/* pick.c - which cohorts go into a recurrent launch: the rule, and in what order.
 *
 * The rule: a cohort may run loop t in a launch when every earlier position of its
 * sequence has executed loop t by the end of that launch's K/V writes, or (KV_LAST)
 * halted before it. Along a sequence the loops of cohorts never rise, so only the
 * nearest earlier cohort that still loops has to be asked. Launches run in the order they
 * are started in, so a loop counts as executed as soon as it is started. */
#include "scheduler/scheduler_internal.h"

static cohort *loops_before(const cohort *c) {
    cohort *p = c->before;
    while (p && p->n_live + p->n_tail == 0)
        p = p->before;
    return p;
}

readiness sched__readiness(const scheduler *s, const cohort *c) {
    if (c->next_loop == c->owner->root.max_loops) return MUST_WAIT; /* its last loop is out */
    const cohort *p = loops_before(c);
    if (p == NULL || p->next_loop > c->next_loop || s->fault == FAULT_BREAK_RULE) return MAY_RUN;
    return p->looping && p->next_loop == c->next_loop ? IF_BEFORE_RUNS : MUST_WAIT;
}

/* Its tenant lets another go first. */
static bool held(const scheduler *s, const cohort *c) {
    return s->n_tenants > 1 && sched__tenant_of(s, c->owner)->held;
}

static bool rule_now(const scheduler *s, const flight *f, const cohort *c) {
    readiness r = sched__readiness(s, c);
    return r == MAY_RUN || (r == IF_BEFORE_RUNS && loops_before(c)->pick[f->index] != NONE);
}

/* Picks from one list, front first, what fits into `room` rows. Returns the rows taken. */
static uint32_t pick_from(const scheduler *s, flight *f, list_link *list, uint32_t room) {
    uint32_t taken = 0;
    for (list_link *r = list->next; r != list && taken < room; r = r->next) {
        cohort *c = OWNER_OF(r, cohort, loop);
        uint32_t n = c->n_live + c->n_tail;
        if (c->pick[f->index] != NONE || taken + n > room || held(s, c)) continue;
        if (!rule_now(s, f, c)) continue;
        sched__pick(f, c);
        taken += n;
    }
    return taken;
}

static uint32_t longest_passed_over(const scheduler *s) {
    uint32_t most = 0;
    for (int i = 0; i < N_LISTS; i++) {
        for (const list_link *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
            const cohort *c = OWNER_OF((uintptr_t)r, cohort, loop);
            if (c->waited > most && !held(s, c)) most = c->waited;
        }
    }
    return most;
}

/* Those passed over for wait_bound launches, the longest first; when the next of them
 * does not fit, no other goes before it. Returns the rows left. */
static uint32_t pick_overdue(scheduler *s, flight *f, uint32_t room) {
    for (uint32_t w = longest_passed_over(s); w >= s->limits.opts.wait_bound; w--) {
        for (int i = 0; i < N_LISTS; i++) {
            for (list_link *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
                cohort *c = OWNER_OF(r, cohort, loop);
                if (c->waited != w || held(s, c)) continue;
                uint32_t n = c->n_live + c->n_tail;
                if (n > room) return 0;
                sched__pick(f, c);
                room -= n;
            }
        }
    }
    return room;
}

/* Cohorts that could have run and did not grow older, unless their tenant lets others go first;
 * the picked ones go to the back, so that each list is served in turn. */
static void age_cohorts(scheduler *s, const flight *f) {
    for (int i = 0; i < N_LISTS; i++) {
        list_link *list = &s->looping[i], *end = list->prev;
        for (list_link *r = list->next, *next; r != list; r = next) {
            cohort *c = OWNER_OF(r, cohort, loop);
            bool last = r == end;
            next = r->next;
            if (c->pick[f->index] != NONE) {
                c->waited = 0;
                list_move_back(list, r);
            } else if (!held(s, c) && sched__readiness(s, c) == MAY_RUN) {
                c->waited++;
                if (c->waited > s->stats.longest_wait) s->stats.longest_wait = c->waited;
            }
            if (last) break;
        }
    }
}

/* Decode rows first, then tails, then prompt rows; when not all fit, tails keep an eighth
 * and prompts a quarter of the launch, and whoever was passed over for wait_bound launches
 * goes before everybody, the longest first. Each launch then takes at least
 * max_rows - chunk + 1 overdue rows, so with R rows in the pool a ready row is passed over
 * at most wait_bound + R / (max_rows - chunk + 1) + 1 times. */
void sched__pick_loops(scheduler *s, flight *f) {
    if (s->n_tenants > 1) sched__hold_tenants(s);
    uint32_t cap = s->max_rows, room = cap;
    if (s->n_looping_live + s->n_looping_tail <= cap) {
        /* Everything fits. A chunk follows its neighbour, which stands before it in the
         * list or in a list before; lists out of order after a squeeze need a second look. */
        uint32_t before;
        do {
            before = f->n_picks;
            for (int i = N_LISTS - 1; i >= 0; i--)
                room -= pick_from(s, f, &s->looping[i], room);
        } while (f->n_picks > before);
        age_cohorts(s, f);
        return;
    }
    if (s->fault != FAULT_STARVE) room = pick_overdue(s, f, room);
    uint32_t tails = list_empty(&s->looping[LIST_TAIL]) ? 0 : cap / 8;
    uint32_t prompts = list_empty(&s->looping[LIST_PROMPT]) ? 0 : cap / 4;
    if (prompts > 0 && prompts < s->chunk) prompts = s->chunk < cap / 2 ? s->chunk : cap / 2;
    if (room > tails + prompts) {
        room -= pick_from(s, f, &s->looping[LIST_DECODE], room - tails - prompts);
    }
    if (room > prompts) room -= pick_from(s, f, &s->looping[LIST_TAIL], room - prompts);
    room -= pick_from(s, f, &s->looping[LIST_PROMPT], room);
    for (int i = 0; i < N_LISTS; i++)
        room -= pick_from(s, f, &s->looping[i], room);
    age_cohorts(s, f);
}
