/* The CPU backend alone against the golden cases: positions of a chunk move together, and each
 * leaves at its own depth. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/golden.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

TestSuite(cpu_golden, .fini = fail_on_leaks);

/* window: positions expanded together; 0 for none, as for such short prompts. */
static void check_form(const char *name, kv_policy policy, uint32_t chunk, uint32_t window,
                       const eng_backend_opts *opts, double limit) {
    static driver drv;
    golden_case golden = golden_open(name);
    driver_open(&drv, golden.dir, golden.n_loops, policy, opts);
    eng__cpu *cpu = (eng__cpu *)drv.backend;
    if (window) cr_assert(cpu->crossover > 0, "%s cannot be expanded", name);
    cpu->window = window;
    driver_start(&drv, GOLDEN_SEQS, GOLDEN_LEN);
    for (uint32_t seq_idx = 0; seq_idx < GOLDEN_SEQS; seq_idx++)
        memcpy(drv.seq[seq_idx].ids, golden.ids[seq_idx], sizeof golden.ids[seq_idx]);
    driver_run(&drv, chunk);
    for (uint32_t seq_idx = 0; seq_idx < GOLDEN_SEQS; seq_idx++) {
        size_t n = (size_t)GOLDEN_LEN * golden.vocab;
        for (uint32_t pos = 0; pos < GOLDEN_LEN; pos++) {
            cr_assert_eq(drv.seq[seq_idx].depth[pos], golden.depth[policy][seq_idx][pos],
                         "%s policy %d chunk %u: depth at %u,%u is %u, not %u", name, policy, chunk,
                         seq_idx, pos, drv.seq[seq_idx].depth[pos],
                         golden.depth[policy][seq_idx][pos]);
        }
        double worst =
            ref_relative_error(drv.seq[seq_idx].logits, golden.logits[policy] + seq_idx * n, n);
        cr_assert(worst <= limit, "%s policy %d chunk %u %s: logit error %g of the largest logit",
                  name, policy, chunk, drv.backend->info.kernels, worst);
    }
    driver_close(&drv);
    golden_close(&golden);
}

static void check_case(const char *name, kv_policy policy, uint32_t chunk,
                       const eng_backend_opts *opts, double limit) {
    check_form(name, policy, chunk, 0, opts, limit);
}

Test(cpu_golden, every_case_and_policy_equals_the_published_model) {
    for (size_t i = 0; i < GOLDEN_CASES; i++) {
        check_case(golden_names[i], KV_EXACT, 48, NULL, 2e-5);
        check_case(golden_names[i], KV_LAST, 48, NULL, 2e-5);
    }
}

Test(cpu_golden, any_chunking_gives_the_same_answers) {
    static const uint32_t chunks[] = {1, 7, 33};
    for (size_t i = 0; i < GOLDEN_CASES; i++) {
        for (size_t k = 0; k < ARRAY_LEN(chunks); k++) {
            check_case(golden_names[i], k & 1 ? KV_EXACT : KV_LAST, chunks[k], NULL, 2e-5);
        }
    }
}

Test(cpu_golden, every_kernel_path_holds_every_case) {
    static const char *const paths[] = {"avx512", "avx2", "portable"};
    for (size_t k = 0; k < ARRAY_LEN(paths); k++) {
        const eng__kernels *found;
        if (eng__kernels_choose(&found, paths[k], NULL) != 0) continue;
        eng_backend_opts opts = {.threads = 2, .kernels = paths[k]};
        for (size_t i = 0; i < GOLDEN_CASES; i++) {
            check_case(golden_names[i], i & 1 ? KV_LAST : KV_EXACT, 16, &opts, 2e-5);
        }
    }
}

Test(cpu_golden, expanded_attention_holds_every_case_on_every_path) {
    static const char *const paths[] = {"avx512", "avx2", "portable"};
    for (size_t k = 0; k < ARRAY_LEN(paths); k++) {
        const eng__kernels *found;
        if (eng__kernels_choose(&found, paths[k], NULL) != 0) continue;
        eng_backend_opts opts = {.threads = 2, .kernels = paths[k]};
        for (size_t i = 0; i < GOLDEN_CASES; i++) {
            if (strncmp(golden_names[i], "gqa", 3) == 0) continue;
            check_form(golden_names[i], i & 1 ? KV_LAST : KV_EXACT, 48, ENG_BLOCK, &opts, 2e-5);
        }
    }
}

Test(cpu_golden, a_bfloat16_cache_stays_close) {
    eng_backend_opts opts = {.threads = 1, .cache_dtype = DTYPE_BF16};
    check_case("mla", KV_EXACT, 48, &opts, 0.05);
    check_case("gqa", KV_LAST, 48, &opts, 0.05);
}
