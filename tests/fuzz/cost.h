/* cost.h - inputs of full length, and what each costs.
 *
 * A fuzzer declares FUZZ_TARGET(function, MS, US_PER_KB): an input that takes more processor time
 * than MS milliseconds and US_PER_KB microseconds for each KB ends the fuzzer like any other
 * fault. Bounds are for a build under ASan, about twenty times as slow as a release. The worst
 * costs are printed at the end. */
#ifndef FATHOM_FUZZ_COST_H
#define FATHOM_FUZZ_COST_H

#include "base/clock.h"

#include <stddef.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Counts what an input took; aborts when it was more than it may. */
void fuzz_cost(uint64_t took_ns, size_t size, uint64_t ms, uint64_t us_per_kb);

#define FUZZ_TARGET(function, ms, us_per_kb)                                                       \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {                                 \
        uint64_t start = clock_thread_ns();                                                        \
        function(data, size);                                                                      \
        fuzz_cost(clock_thread_ns() - start, size, ms, us_per_kb);                                 \
        return 0;                                                                                  \
    }

#endif
