/* launches.c - a ring of the last recurrent launches. */
#include "scheduler/launches.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

int sched__launches_init(launch_ring *ring, uint32_t n_loops, err *e) {
    size_t n_rows;
    if (!size_mul(SCHED_LAUNCHES, n_loops, &n_rows)) n_rows = SIZE_MAX;
    ring->n_loops = n_loops;
    ring->launches = array_new(SCHED_LAUNCHES, sizeof *ring->launches);
    ring->rows = array_new(n_rows, sizeof *ring->rows);
    if (ring->launches && ring->rows) return 0;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the last launches");
}

void sched__launches_deinit(launch_ring *ring) {
    free(ring->launches);
    free(ring->rows);
}

/* The place of a launch. Its rows stand in this ring. */
static sched_launch *place_of(const launch_ring *ring, uint64_t id) {
    size_t at = id % SCHED_LAUNCHES;
    ring->launches[at].rows = &ring->rows[at * ring->n_loops];
    return &ring->launches[at];
}

sched_launch *sched__launches_add(launch_ring *ring) {
    sched_launch *next = place_of(ring, ++ring->last);
    memset(next->rows, 0, ring->n_loops * sizeof *next->rows);
    *next = (sched_launch){.id = ring->last, .rows = next->rows, .n_loops = ring->n_loops};
    return next;
}

void sched__launches_copy(launch_ring *to, const launch_ring *from) {
    if (from->last - to->last > SCHED_LAUNCHES) to->last = from->last - SCHED_LAUNCHES;
    while (to->last < from->last) {
        const sched_launch *source = &from->launches[++to->last % SCHED_LAUNCHES];
        sched_launch *copy = place_of(to, to->last);
        memcpy(copy->rows, source->rows, to->n_loops * sizeof *copy->rows);
        uint32_t *rows = copy->rows;
        *copy = *source;
        copy->rows = rows;
    }
}

bool sched__launches_get(const launch_ring *ring, uint64_t id, sched_launch *out) {
    if (id == 0 || id > ring->last || ring->last - id >= SCHED_LAUNCHES) return false;
    *out = ring->launches[id % SCHED_LAUNCHES];
    return true;
}
