/* The CPU backend alone against the golden cases: positions of a chunk move together,
 * each leaves at its own depth. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/golden.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

TestSuite(cpu_golden, .fini = fail_on_leaks);

/* window: positions that are expanded together, 0 for none, as the rule has it for such
 * short prompts. */
static void check_form(const char *name, kv_policy policy, uint32_t chunk, uint32_t window,
                       const eng_backend_opts *opts, double limit) {
    static driver d;
    golden_case x = golden_open(name);
    driver_open(&d, x.dir, x.n_loops, policy, opts);
    eng__cpu *g = (eng__cpu *)d.b;
    if (window) cr_assert(g->crossover > 0, "%s cannot be expanded", name);
    g->window = window;
    driver_start(&d, GOLDEN_SEQS, GOLDEN_LEN);
    for (uint32_t s = 0; s < GOLDEN_SEQS; s++)
        memcpy(d.seq[s].ids, x.ids[s], sizeof x.ids[s]);
    driver_run(&d, chunk);
    for (uint32_t s = 0; s < GOLDEN_SEQS; s++) {
        size_t n = (size_t)GOLDEN_LEN * x.vocab;
        for (uint32_t p = 0; p < GOLDEN_LEN; p++) {
            cr_assert_eq(d.seq[s].depth[p], x.depth[policy][s][p],
                         "%s policy %d chunk %u: depth at %u,%u is %u, not %u", name, policy, chunk,
                         s, p, d.seq[s].depth[p], x.depth[policy][s][p]);
        }
        double worst = ref_relative_error(d.seq[s].logits, x.logits[policy] + s * n, n);
        cr_assert(worst <= limit, "%s policy %d chunk %u %s: logit error %g of the largest logit",
                  name, policy, chunk, d.b->info.kernels, worst);
    }
    driver_close(&d);
    golden_close(&x);
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
        eng_backend_opts o = {.threads = 2, .kernels = paths[k]};
        for (size_t i = 0; i < GOLDEN_CASES; i++) {
            check_case(golden_names[i], i & 1 ? KV_LAST : KV_EXACT, 16, &o, 2e-5);
        }
    }
}

Test(cpu_golden, expanded_attention_holds_every_case_on_every_path) {
    static const char *const paths[] = {"avx512", "avx2", "portable"};
    for (size_t k = 0; k < ARRAY_LEN(paths); k++) {
        const eng__kernels *found;
        if (eng__kernels_choose(&found, paths[k], NULL) != 0) continue;
        eng_backend_opts o = {.threads = 2, .kernels = paths[k]};
        for (size_t i = 0; i < GOLDEN_CASES; i++) {
            if (strncmp(golden_names[i], "gqa", 3) == 0) continue;
            check_form(golden_names[i], i & 1 ? KV_LAST : KV_EXACT, 48, ENG_BLOCK, &o, 2e-5);
        }
    }
}

Test(cpu_golden, a_bfloat16_cache_stays_close) {
    eng_backend_opts o = {.threads = 1, .cache_dtype = DTYPE_BF16};
    check_case("mla", KV_EXACT, 48, &o, 0.05);
    check_case("gqa", KV_LAST, 48, &o, 0.05);
}
