/* machine.h - what of this machine the process may use, and how many threads and how much memory
 * follow from that. Any thread. */
#ifndef FATHOM_MACHINE_H
#define FATHOM_MACHINE_H

#include "base/cgroup.h"

typedef struct {
    uint32_t cores;       /* that this process may run on; at least 1 */
    uint64_t memory;      /* of the host, in bytes; 0 = not known */
    cgroup_limits cgroup; /* what a container allows */
} machine;

/* Reads them now: a container's limits may change while it runs. */
void machine_read(machine *out);
/* Compute threads that do not wait for each other's time: one a core, or as many as the quota
 * pays for, rounded down. At least 1. */
uint32_t machine_threads(const machine *m);
/* The smaller of the host's memory and the container's limit; 0 = not known. */
uint64_t machine_memory(const machine *m);
/* Why there are so many threads: "4 cores, cgroup quota 2.5". */
const char *machine_why_threads(const machine *m, char out[64]);

#endif
