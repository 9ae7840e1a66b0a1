/* home.c - the rank that runs the attention of a sequence.
 *
 * A sequence takes a home each time it begins, for its cache will be there and nowhere else. It
 * goes where the longest part of its prompt is cached, unless that home is crowded: a prompt common
 * to all would bring all to one home. Sent away, it computes the prompt anew, and then another home
 * has it too. */
#include "scheduler/scheduler_internal.h"

/* More than one sequence above 5/4 of the mean. */
static bool crowded(const scheduler *sched, uint32_t home) {
    uint64_t n = sched->n_homes;
    return 4 * n * sched->home_running[home] > 5ull * sched->n_running + 4 * n;
}

void sched__choose_home(scheduler *sched, sequence *seq) {
    uint32_t best = 0, most = 0;
    if (sched->n_homes < 2) return;
    for (uint32_t home = 1; home < sched->n_homes; home++)
        if (sched->home_running[home] < sched->home_running[best]) best = home;
    for (uint32_t home = 0; home < sched->n_homes; home++) {
        prefix_key key = seq->prefix_key;
        key.home = (uint16_t)home;
        if (crowded(sched, home)) continue;
        uint32_t n = sched__count_prefix(&sched->cache, seq, &key);
        if (n <= most) continue;
        most = n;
        best = home;
    }
    seq->prefix_key.home = (uint16_t)best;
}
