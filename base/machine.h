/* machine.h - the cores and memory this process may use, and the number of threads they allow. Any
 * thread. */
#ifndef FATHOM_MACHINE_H
#define FATHOM_MACHINE_H

#include "base/cgroup.h"

typedef struct {
    uint32_t cores;       /* usable by this process; at least 1 */
    uint64_t memory;      /* of the host, in bytes; 0 = not known */
    cgroup_limits cgroup; /* of the container */
} machine;

/* Reads them now: a container's limits may change while it runs. */
void machine_read(machine *out);
/* Compute threads able to run at the same time: one per core, or the quota rounded down if it is
 * smaller. At least 1. */
uint32_t machine_threads(const machine *self);
/* The smaller of the host's memory and the container's limit; 0 = not known. */
uint64_t machine_memory(const machine *self);
/* Equal for processes that see each other's process ids: the boot of the machine and the namespace
 * of ids, as a hash; 0 = not known. */
uint64_t machine_identity(void);
/* The same with the cores this process may use: equal for processes that compete for them. */
uint64_t machine_cores_identity(void);
/* Leaves one of several processes its part: of the cores, and of the memory. */
void machine_divide(machine *self, uint32_t by_cores, uint32_t by_memory);
/* The reason for the number of threads: "4 cores, cgroup quota 2.5". */
const char *machine_why_threads(const machine *self, char out[64]);

#endif
