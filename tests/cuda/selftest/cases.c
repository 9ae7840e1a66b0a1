/* cases.c - golden cases and random workloads for the tests of the whole backend. */
#include "tests/cuda/selftest/cases.h"

const precision parity = {"f32", DTYPE_F32, 1e-3f, true};

eng_backend *open_backend(const model_folder *model, const eng_backend_opts *opts) {
    err e = {0};
    eng_backend *eng;
    if (eng__cuda_open_device(&eng, model, opts, 0, &e) != 0) check(false, "open: %s", e.msg);
    return eng;
}

drive_spec golden_spec(const golden_case *golden, const model_plan *plan, kv_policy policy,
                       uint32_t max_rows, uint64_t seed) {
    return (drive_spec){.n_seqs = GOLDEN_SEQS,
                        .n_loops = golden->n_loops,
                        .max_rows = max_rows,
                        .len = {GOLDEN_LEN, GOLDEN_LEN},
                        .ids = {golden->ids[0], golden->ids[1]},
                        .policy = policy,
                        .threshold = plan->exit_threshold,
                        .seed = seed};
}

void compare_golden(const golden_case *golden, const drive_spec *spec, const drive_result *result,
                    const precision *prec) {
    const char *policy = spec->policy == KV_EXACT ? "exact" : "last";
    uint32_t depths = 0, far = 0, n = GOLDEN_SEQS * GOLDEN_LEN;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t seq = i / GOLDEN_LEN, pos = i % GOLDEN_LEN;
        size_t at = (size_t)pos * golden->vocab;
        const float *want =
            golden->logits[spec->policy] + (size_t)seq * GOLDEN_LEN * golden->vocab + at;
        depths += result->depth[seq][pos] != golden->depth[spec->policy][seq][pos];
        far += !(worst(result->logits[seq] + at, want, golden->vocab) <= (double)prec->limit);
    }
    uint32_t most = prec->all ? 0 : n / 2;
    check(far <= most && depths <= most,
          "%s %s %s seed %llu rows %u: %u of %u logits too far off, %u depths differ", golden->dir,
          policy, prec->kernels, (unsigned long long)spec->seed, spec->max_rows, far, n, depths);
}

drive_spec random_spec(const model_plan *plan, uint32_t n_seqs, uint32_t most_len, uint64_t seed,
                       rng *rnd) {
    static uint32_t ids[DRIVE_SEQS][DRIVE_LEN];
    uint32_t n_loops = plan->loops_default + rng_below(rnd, 5);
    drive_spec spec = {.n_seqs = n_seqs,
                       .n_loops = n_loops > 3 ? n_loops - 2 : 1,
                       .min_loops = rng_below(rnd, 3),
                       .max_rows = 5 + rng_below(rnd, 150),
                       .policy = seed & 1 ? KV_LAST : KV_EXACT,
                       .threshold = plan->exit_threshold,
                       .seed = seed};
    for (uint32_t seq = 0; seq < n_seqs; seq++) {
        spec.len[seq] = 1 + rng_below(rnd, most_len);
        spec.ids[seq] = ids[seq];
        for (uint32_t i = 0; i < spec.len[seq]; i++)
            ids[seq][i] = rng_below(rnd, plan->vocab_size);
    }
    return spec;
}

void compare_near(const drive_spec *spec, uint32_t vocab, const drive_result *one,
                  const drive_result *two, const char *what) {
    uint32_t depths = 0, far = 0, n = 0;
    for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
        for (uint32_t i = 0; i < spec->len[seq]; i++, n++) {
            size_t at = (size_t)i * vocab;
            depths += one->depth[seq][i] != two->depth[seq][i];
            far += !(worst(one->logits[seq] + at, two->logits[seq] + at, vocab) < 1e-3);
        }
    }
    check(depths <= n / 50 && far <= n / 10,
          "%s seed %llu: of %u positions %u depths and %u logits differ", what,
          (unsigned long long)spec->seed, n, depths, far);
}
