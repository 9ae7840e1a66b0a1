/* kernel_bench.h - measures the CPU kernels against the limits of the machine, and the sampler. */
#ifndef FATHOM_KERNEL_BENCH_H
#define FATHOM_KERNEL_BENCH_H

#include "engine/backend.h"

/* The CPU code path chosen on this machine, by a measurement of about a millisecond. */
const char *eng_cpu_kernels(void);
/* One measurement: the medians of rounds that alternate with the probes. */
typedef struct {
    const char *what;  /* "read probe", "fma probe", "gemm", "recurrent step", … */
    const char *dtype; /* of the weights */
    uint32_t threads, rows, context;
    double seconds, gbytes, gflop; /* of one pass: time, bytes to read, operations */
    double percent;                /* time of its bound as a share of `seconds`; 0 for a probe */
    double percent_cpu;            /* the same, by CPU time (less disturbed by other processes) */
    double cpu_seconds;            /* probes: CPU time per thread; 0 for other measurements */
    const char *bound;             /* "read", "fma" or "int8": the probe that limits it */
} eng_kernel_time;
typedef void (*eng_kernel_sink)(void *ud, const eng_kernel_time *time);
/* Measures the CPU kernels chosen by the options (kernels, threads) and, with a model, its stages.
 * `only` selects one name, `rows` other than 0 one number of rows. *kernels becomes the name of the
 * code path. Takes tens of seconds. */
int eng_cpu_bench(const model_folder *model, const eng_backend_opts *opts, const char *only,
                  uint32_t rows, const char **kernels, eng_kernel_sink sink, void *ud,
                  err *e) WARN_UNUSED;
/* Measures eng_sample on one thread: greedily, drawing, and with filters. Of a time, `context` is
 * the vocabulary and `seconds` processor time; there is no bound. Takes some seconds. */
int eng_sampler_bench(eng_kernel_sink sink, void *ud, err *e) WARN_UNUSED;

#endif
