/* kernels.c - chooses the code path for this machine, by measurement. */
#include "base/clock.h"
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"
#include "engine/kernel_bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const eng__kernels *kern;
    bool runs_here;
} path;

enum { N_PATHS = 4, PROBE_K = 512 };

#if defined(__x86_64__)
static eng__kernels avx512vnni;
static pthread_once_t vnni_once = PTHREAD_ONCE_INIT;

static void make_vnni(void) {
    avx512vnni = eng__kernels_avx512;
    eng__use_vnni(&avx512vnni);
}
#endif

static void find_paths(path out[N_PATHS]) {
    memset(out, 0, N_PATHS * sizeof *out);
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    pthread_once(&vnni_once, make_vnni);
    out[0] = (path){&avx512vnni, avx512 && __builtin_cpu_supports("avx512vnni")};
    out[1] = (path){&eng__kernels_avx512, avx512};
    out[2] = (path){&eng__kernels_avx2, avx2};
#endif
    out[3] = (path){&eng__kernels_portable, true};
}

/* Best time, in ns, of several passes over a tile in the nearest cache. */
static uint64_t probe(const eng__kernels *kern, const uint16_t *weights, const float *x,
                      float *acc) {
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 24; i++) {
        uint64_t took = clock_ns();
        kern->tile_bf16(weights, PROBE_K, x, PROBE_K + ENG__PAD, ENG__TILE, acc, ENG__PANEL, false);
        took = clock_ns() - took;
        if (took < best) best = took;
    }
    return best;
}

static const eng__kernels *measure(const path paths[N_PATHS]) {
    /* prefetches reach beyond the panel, but only as addresses */
    uint16_t *weights = array_new_aligned(PROBE_K * ENG__PANEL, sizeof *weights);
    float *x = array_new_aligned((PROBE_K + ENG__PAD) * ENG__TILE, sizeof *x);
    float *acc = array_new_aligned(ENG__TILE * ENG__PANEL, sizeof *acc);
    const eng__kernels *best = &eng__kernels_portable;
    uint64_t best_ns = UINT64_MAX;
    if (weights && x && acc) {
        memset(weights, 0, PROBE_K * ENG__PANEL * sizeof *weights);
        memset(x, 0, (PROBE_K + ENG__PAD) * ENG__TILE * sizeof *x);
        for (int i = 0; i < N_PATHS; i++) {
            if (!paths[i].runs_here) continue;
            uint64_t ns = probe(paths[i].kern, weights, x, acc);
            /* wider vectors come first and stay unless clearly slower: measurements are noisy */
            if (ns < best_ns - best_ns / 8) best_ns = ns, best = paths[i].kern;
        }
    }
    free(weights);
    free(x);
    free(acc);
    return best;
}

/* The fastest path of this machine, measured once per process. Paths round differently, and a model
 * opened twice must give the same bits, also if the load of the machine has changed. */
static const eng__kernels *measured(const path paths[N_PATHS]) {
    static _Atomic(const eng__kernels *) first;
    const eng__kernels *none = NULL, *best = atomic_load(&first);
    if (best) return best;
    best = measure(paths);
    return atomic_compare_exchange_strong(&first, &none, best) ? best : none;
}

int eng__kernels_choose(const eng__kernels **out, const char *name, err *e) {
    path paths[N_PATHS];
    bool known = false;
    *out = NULL;
    find_paths(paths);
    if (name == NULL || name[0] == 0 || strcmp(name, "auto") == 0) {
        *out = measured(paths);
        return 0;
    }
    for (int i = 0; i < N_PATHS; i++) {
        if (paths[i].kern == NULL || strcmp(paths[i].kern->name, name) != 0) continue;
        known = true;
        if (!paths[i].runs_here) continue;
        *out = paths[i].kern;
        return 0;
    }
    if (known) return err_set(e, ERR_USAGE, "kernels", "this processor does not support %s", name);
    return err_set(e, ERR_USAGE, "kernels", "kernels must be avx512, avx2 or portable, not '%s'",
                   name);
}

const char *eng_cpu_kernels(void) {
    const eng__kernels *kern;
    return eng__kernels_choose(&kern, NULL, NULL) == 0 ? kern->name : "none";
}
