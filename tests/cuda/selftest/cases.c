/* cases.c - golden cases and random workloads for the tests of the whole backend. */
#include "tests/cuda/selftest/cases.h"

const precision parity = {"f32", DTYPE_F32, 1e-3f, true};

eng_backend *open_backend(const model_folder *m, const eng_backend_opts *o) {
    err e = {0};
    eng_backend *b;
    if (eng__cuda_open_device(&b, m, o, 0, &e) != 0) check(false, "open: %s", e.msg);
    return b;
}

drive_spec golden_spec(const golden_case *g, const model_plan *c, kv_policy policy,
                       uint32_t max_rows, uint64_t seed) {
    return (drive_spec){.n_seqs = GOLDEN_SEQS,
                        .n_loops = g->n_loops,
                        .max_rows = max_rows,
                        .len = {GOLDEN_LEN, GOLDEN_LEN},
                        .ids = {g->ids[0], g->ids[1]},
                        .policy = policy,
                        .threshold = c->exit_threshold,
                        .seed = seed};
}

void compare_golden(const golden_case *g, const drive_spec *spec, const drive_result *r,
                    const precision *p) {
    const char *policy = spec->policy == KV_EXACT ? "exact" : "last";
    uint32_t depths = 0, far = 0, n = GOLDEN_SEQS * GOLDEN_LEN;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t s = i / GOLDEN_LEN, pos = i % GOLDEN_LEN;
        size_t at = (size_t)pos * g->vocab;
        const float *want = g->logits[spec->policy] + (size_t)s * GOLDEN_LEN * g->vocab + at;
        depths += r->depth[s][pos] != g->depth[spec->policy][s][pos];
        far += !(worst(r->logits[s] + at, want, g->vocab) <= (double)p->limit);
    }
    uint32_t most = p->all ? 0 : n / 2;
    check(far <= most && depths <= most,
          "%s %s %s seed %llu rows %u: %u of %u logits too far off, %u depths differ", g->dir,
          policy, p->kernels, (unsigned long long)spec->seed, spec->max_rows, far, n, depths);
}

drive_spec random_spec(const model_plan *c, uint32_t n_seqs, uint32_t most_len, uint64_t seed,
                       rng *r) {
    static uint32_t ids[DRIVE_SEQS][DRIVE_LEN];
    drive_spec spec = {.n_seqs = n_seqs,
                       .n_loops = c->loops_default - 2 + rng_below(r, 5),
                       .min_loops = rng_below(r, 3),
                       .max_rows = 5 + rng_below(r, 150),
                       .policy = seed & 1 ? KV_LAST : KV_EXACT,
                       .threshold = c->exit_threshold,
                       .seed = seed};
    for (uint32_t s = 0; s < n_seqs; s++) {
        spec.len[s] = 1 + rng_below(r, most_len);
        spec.ids[s] = ids[s];
        for (uint32_t i = 0; i < spec.len[s]; i++)
            ids[s][i] = rng_below(r, c->vocab_size);
    }
    return spec;
}

void compare_near(const drive_spec *spec, uint32_t vocab, const drive_result *a,
                  const drive_result *b, const char *what) {
    uint32_t depths = 0, far = 0, n = 0;
    for (uint32_t s = 0; s < spec->n_seqs; s++) {
        for (uint32_t i = 0; i < spec->len[s]; i++, n++) {
            size_t at = (size_t)i * vocab;
            depths += a->depth[s][i] != b->depth[s][i];
            far += !(worst(a->logits[s] + at, b->logits[s] + at, vocab) < 1e-3);
        }
    }
    check(depths <= n / 50 && far <= n / 10,
          "%s seed %llu: of %u positions %u depths and %u logits differ", what,
          (unsigned long long)spec->seed, n, depths, far);
}
