/* home.c - the rank that runs the attention of a sequence and has its cache.
 *
 * A sequence takes a home each time it begins, for its cache will be there and nowhere else. It
 * goes where the longest part of its prompt is cached, unless that home is crowded: a prompt common
 * to all would bring all to one home. Sent away, it computes the prompt anew, and then another home
 * has it too. Otherwise it goes to the home with the fewest sequences, and among these to the one
 * with the most room. If it does not fit there, the next home is tried (admit.c). */
#include "scheduler/scheduler_internal.h"

typedef struct {
    uint32_t n_cached; /* blocks of its prompt; 0 if the home is crowded */
    uint32_t n_running;
    uint64_t room; /* pages */
} home_merit;

/* More than one sequence above 5/4 of the mean. */
static bool crowded(const scheduler *sched, uint32_t home) {
    uint64_t n = sched->n_homes;
    return 4 * n * sched->home_running[home] > 5ull * sched->n_running + 4 * n;
}

static home_merit merit_of(const scheduler *sched, const sequence *seq, uint32_t home) {
    home_merit merit = {.n_running = sched->home_running[home]};
    prefix_key key = seq->prefix_key;
    uint64_t blocks;
    key.home = (uint16_t)home;
    if (!crowded(sched, home))
        merit.n_cached = sched__count_prefix(&sched->caches[home], seq, &key);
    sched__room_for(&sched->caches[home], seq->req.tenant, &merit.room, &blocks);
    return merit;
}

static bool is_better(const home_merit *x, const home_merit *y) {
    if (x->n_cached != y->n_cached) return x->n_cached > y->n_cached;
    if (x->n_running != y->n_running) return x->n_running < y->n_running;
    return x->room > y->room;
}

void sched__order_homes(const scheduler *sched, const sequence *seq,
                        uint16_t order[ENG_MOST_HOMES]) {
    home_merit merits[ENG_MOST_HOMES];
    order[0] = 0;
    if (sched->n_homes == 1) return;
    for (uint32_t home = 0; home < sched->n_homes; home++) {
        merits[home] = merit_of(sched, seq, home);
        uint32_t at = home;
        for (; at > 0 && is_better(&merits[home], &merits[order[at - 1]]); at--)
            order[at] = order[at - 1];
        order[at] = (uint16_t)home;
    }
}
