/* machine.c - see machine.h. */
#include "base/machine.h"
#include "base/hash.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        int n = CPU_COUNT(&set);
        if (n > 0) return (uint32_t)n;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more cores than the set has bits */
    return n > 0 ? (uint32_t)n : 1;
}

static uint64_t host_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

void machine_read(machine *out) {
    *out = (machine){.cores = cores(), .memory = host_memory()};
    cgroup_read(&out->cgroup, "");
}

uint32_t machine_threads(const machine *self) {
    double quota = self->cgroup.cpus;
    if (quota == 0 || quota >= self->cores) return self->cores;
    return quota < 1 ? 1 : (uint32_t)quota;
}

uint64_t machine_memory(const machine *self) {
    uint64_t limit = self->cgroup.memory;
    return limit && (self->memory == 0 || limit < self->memory) ? limit : self->memory;
}

const char *machine_why_threads(const machine *self, char out[64]) {
    int n = snprintf(out, 64, "%u core%s", self->cores, self->cores == 1 ? "" : "s");
    if (self->cgroup.cpus > 0 && n > 0) {
        (void)snprintf(out + n, 64 - (size_t)n, ", cgroup quota %.4g", self->cgroup.cpus);
    }
    return out;
}

uint64_t machine_identity(void) {
    char boot[64];
    struct stat st;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, boot, sizeof boot);
    if (fd >= 0) close(fd);
    if (n <= 0 || stat("/proc/self/ns/pid", &st) != 0) return 0;
    return hash_seeded((uint64_t)st.st_ino, boot, (size_t)n);
}

uint64_t machine_cores_identity(void) {
    cpu_set_t set;
    uint64_t here = machine_identity();
    if (here == 0 || sched_getaffinity(0, sizeof set, &set) != 0) return here;
    return hash_seeded(here, &set, sizeof set);
}

void machine_divide(machine *self, uint32_t by_cores, uint32_t by_memory) {
    self->cores = self->cores > by_cores ? self->cores / by_cores : 1;
    self->cgroup.cpus /= by_cores;
    self->memory /= by_memory;
    self->cgroup.memory /= by_memory;
}
