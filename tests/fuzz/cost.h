/* cost.h - bounds on the CPU time of each fuzz input.
 *
 * A fuzzer declares FUZZ_TARGET(function, MS, US_PER_KB). An input may take MS milliseconds plus
 * US_PER_KB microseconds per KB; more ends the fuzzer like any other fault. Bounds are for an ASan
 * build, about twenty times slower than a release. The worst costs are printed at the end. */
#ifndef FATHOM_FUZZ_COST_H
#define FATHOM_FUZZ_COST_H

#include "base/clock.h"

#include <stddef.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Records the cost of an input; aborts if it is above the bound. */
void fuzz_cost(uint64_t took_ns, size_t size, uint64_t ms, uint64_t us_per_kb);

#define FUZZ_TARGET(function, ms, us_per_kb)                                                       \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {                                 \
        uint64_t start = clock_thread_ns();                                                        \
        function(data, size);                                                                      \
        fuzz_cost(clock_thread_ns() - start, size, ms, us_per_kb);                                 \
        return 0;                                                                                  \
    }

#endif
