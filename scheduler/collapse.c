/* collapse.c - policy collapse: when generated positions give their slots back.
 *
 * A generated position runs as under exact: it halts, and its tail fills the cache at every deeper
 * loop. Then the slot of its deepest loop stands in for all its loops, and its other loop slots are
 * given back. From then on later positions read other values. So the moment must not depend on the
 * load, or answers would depend on it too.
 *
 * Therefore each sequence has a clock, counted in loops. A generated position begins at the tick
 * when the position before it has halted, and runs one loop per tick. All generated positions of a
 * sequence run their loops of one tick, tails too, before any of them runs a loop of the next.
 * Tails park while no row is live. A position begun at tick b is collapsed at tick b + max_loops.
 * So the depths of a sequence alone decide which values its positions read, in company as well.
 *
 * The edit of a collapse stands in the first launch with a row of its tick. Launches run in the
 * order they were started in, and edits before rows, so no launch reads a slot given back. A launch
 * ahead takes no row in doubt: a tail must not be a tick ahead of the position behind it.
 *
 * After a preemption generated positions are computed again one after another, not in chunks.
 * Prompt positions keep every slot, because the published figures collapse generated tokens only.
 * No block with generated positions enters the prefix cache: a prompt of the same tokens would find
 * other values there than its own.
 *
 * A row stays with its position until the collapse: at most max_loops + 1 rows per sequence. So
 * many are kept for each running sequence (cohort.c), or tails could hold every row. */
#include "scheduler/scheduler_internal.h"

static bool runs_on(const cohort *coh) { /* it has a loop to start */
    return coh->looping && coh->next_loop < coh->owner->prefix_key.max_loops;
}

bool sched__may_tick(const cohort *coh) {
    uint32_t tick = sched__tick(coh);
    if (tick >= coh->owner->frontier) return false; /* not before a live row is there */
    for (const cohort *other = coh->owner->last; other && other->timed; other = other->before) {
        if (runs_on(other) && sched__tick(other) < tick) return false;
    }
    return true;
}

/* ---- collapsing ---- */

static void collapse(scheduler *sched, flight *next, cohort *coh) {
    sequence *seq = coh->owner;
    uint32_t n_loops = seq->prefix_key.max_loops, id = seq->blocks[coh->first / ENG_BLOCK];
    kv_cache *cache = sched__cache_of(sched, seq);
    uint32_t free_pages = cache->n_free_pages;
    const uint32_t *slots =
        sched__row_slots(sched, coh->first_row) + plan_plane_loop(sched->plan, 0);
    for (uint32_t loop = 0; loop + 1 < n_loops; loop++)
        sched__give_slot(cache, id, slots[loop]);
    if (cache->n_free_pages > free_pages) sched->epoch++;
    coh->collapsed = true;
    sched->stats.collapsed++;
    sched__free_if_over(sched, coh);
    if (n_loops == 1) return;
    next->edits[next->n_edits++] = (eng_edit){.block = id,
                                              .slot = slots[n_loops - 1],
                                              .plane = (uint16_t)plan_plane_loop(sched->plan, 0),
                                              .n_planes = (uint16_t)n_loops,
                                              .off = (uint8_t)(coh->first % ENG_BLOCK),
                                              .home = seq->prefix_key.home};
}

void sched__collapse_before(scheduler *sched, flight *next, const cohort *reader) {
    uint32_t tick = sched__tick(reader), n_loops = reader->owner->prefix_key.max_loops;
    for (cohort *coh = reader->before, *before; coh && coh->timed; coh = before) {
        before = coh->before;
        if (!coh->collapsed && coh->began + n_loops <= tick) collapse(sched, next, coh);
    }
}
