/* cgroup.h - how much processor and memory the kernel's control groups leave this process.
 *
 * Both versions, and both beside each other: whatever /proc/self/mountinfo says is mounted. A
 * limit of any ancestor that can be seen from here counts, since the tightest one binds. Any
 * thread. */
#ifndef FATHOM_CGROUP_H
#define FATHOM_CGROUP_H

#include "base/lang.h"

typedef struct {
    double cpus;     /* processors' worth of time that the tightest quota gives; 0 = no quota */
    uint64_t memory; /* bytes, of the tightest limit; 0 = no limit */
} cgroup_limits;

/* Reads root/proc/self/cgroup, root/proc/self/mountinfo and the groups they name below root; ""
 * is this machine. What is missing, unreadable or no number limits nothing. */
void cgroup_read(cgroup_limits *out, const char *root);

#endif
