/* main.c - runs the CUDA self-test and prints plain counts. Exit status: 0 all checks hold (or
 * there is no device), 1 some do not. One argument runs one group; --list names them. */
#include "base/clock.h"
#include "base/log.h"
#include "tests/cuda/selftest/selftest.h"

#include <stdio.h>
#include <string.h>

cudaStream_t test_stream;
int shared_bytes;
#ifdef FATHOM_CUDA_SHIM
bool on_shim = true;
#else
bool on_shim = false;
#endif

static const struct {
    const char *name;
    void (*run)(void);
} groups[] = {
    {"rows", test_rows},         {"ahead", test_ahead},         {"mm", test_mm},
    {"moe", test_moe},           {"attention", test_attention}, {"flash", test_flash},
    {"sample", test_sample},     {"backend", test_backend},     {"head", test_head},
    {"flights", test_flights},   {"drafts", test_drafts},       {"scheduler", test_scheduler},
    {"families", test_families}, {"published", test_published}, {"plans", test_plans},
    {"limits", test_limits},     {"errors", test_errors},       {"failures", test_failures},
    {"clock", test_clock},       {"invariant", test_invariant}, {"ranks", test_ranks},
    {"sums", test_sums},
};

int main(int argc, char **argv) {
    int devices = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_set_level(LOG_WARN);
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < ARRAY_LEN(groups); i++)
            printf("%s\n", groups[i].name);
        return 0;
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no CUDA device\n");
        return 0;
    }
    must(cudaSetDevice(0), "choosing a device");
    must(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
         "asking");
    must(cu_kernels_setup(0, 64), "sizing shared memory");
    must(cudaStreamCreateWithFlags(&test_stream, cudaStreamNonBlocking), "opening a stream");
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        if (argc > 1 && strcmp(argv[1], groups[i].name) != 0) continue;
        uint32_t done = checks_done, failed = checks_failed;
        uint64_t start = clock_ns();
        groups[i].run();
        dev_free_all();
        printf("%-10s %6u checks, %u failed, %.1f s\n", groups[i].name, checks_done - done,
               checks_failed - failed, (double)(clock_ns() - start) * 1e-9);
        fflush(stdout);
    }
    (void)cudaStreamDestroy(test_stream);
    printf("%u checks, %u failed\n", checks_done, checks_failed);
    return checks_failed || checks_done == 0;
}
