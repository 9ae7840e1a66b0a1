/* traffic.c - runs random workloads until one fails, to find a mutant of the scheduler.
 *
 *   traffic FLIGHTS MOST   exit status 1 and a line when one of MOST workloads fails, else 0 */
#include "tests/property/workload.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    unsigned long most = strtoul(argv[2], NULL, 10);
    for (unsigned long i = 1; i <= most; i++) {
        work_case workload = {.seed = 999 + i,
                              .keep = (1u << WORK_MAX) - 1,
                              .flights = (uint32_t)strtoul(argv[1], NULL, 10)};
        work_report report;
        char why[300];
        if (work_run(&workload, &report, why, sizeof why)) continue;
        printf("workload %lu: %s\n", i, why);
        return 1;
    }
    return 0;
}
