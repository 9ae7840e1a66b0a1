/* kernel_bench.h - the CPU kernels measured beside what the machine allows. */
#ifndef FATHOM_KERNEL_BENCH_H
#define FATHOM_KERNEL_BENCH_H

#include "engine/backend.h"

/* The CPU code path that would be chosen here, by a measurement of about a millisecond. */
const char *eng_cpu_kernels(void);
/* One measurement: alternated with its probes in one run, medians. */
typedef struct {
    const char *what;  /* "read probe", "fma probe", "gemm", "recurrent step", … */
    const char *dtype; /* of the weights */
    uint32_t threads, rows, context;
    double seconds, gbytes, gflop; /* of one pass: time, what it must read, what it computes */
    double percent;                /* its bound's time as a share of it; 0 for a probe itself */
    double percent_cpu;            /* the same by CPU time, which a busy neighbour takes less of */
    double cpu_seconds;            /* probes: CPU time of a thread in that time; 0 for others */
    const char *bound;             /* "read", "fma" or "int8": the probe that limits it */
} eng_kernel_time;
typedef void (*eng_kernel_sink)(void *ud, const eng_kernel_time *time);
/* Measures the CPU kernels chosen by o (kernels, threads) and, with a model, its stages;
 * with `only`, just what bears that name, with `rows` not 0 just that many. *kernels becomes the
 * name of the code path. Takes tens of seconds. */
int eng_cpu_bench(const model_folder *model, const eng_backend_opts *opts, const char *only,
                  uint32_t rows, const char **kernels, eng_kernel_sink sink, void *ud,
                  err *e) WARN_UNUSED;

#endif
