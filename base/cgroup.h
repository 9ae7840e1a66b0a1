/* cgroup.h - how much processor and memory the kernel's control groups allow this process.
 *
 * Version 1, version 2, or both at once, as /proc/self/mountinfo lists them. The limits of all
 * visible ancestors count, since the tightest one binds. Any thread. */
#ifndef FATHOM_CGROUP_H
#define FATHOM_CGROUP_H

#include "base/lang.h"

typedef struct {
    double cpus;     /* tightest quota, in processors; 0 = no quota */
    uint64_t memory; /* tightest limit, in bytes; 0 = no limit */
} cgroup_limits;

/* Reads root/proc/self/cgroup, root/proc/self/mountinfo and the groups they name below root; ""
 * is this machine. A missing, unreadable or malformed file sets no limit. */
void cgroup_read(cgroup_limits *out, const char *root);

#endif
