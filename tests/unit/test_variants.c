/* test_variants.c - the variants of all families: the published numbers of weights and of cached
 * bytes, and random weights that open again and behave. */
#include "tests/lib/files.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

TestSuite(variants, .fini = fail_on_leaks);

static model_plan variant(const char *name) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_variant(&plan, name, &e), 0, "%s", e.msg);
    return plan;
}

/* ---- published sizes ---- */

/* Bytes of the files hold a second copy of the head where Huginn's do, and no headers. */
static const struct {
    const char *name;
    uint64_t params, cache_bytes; /* of one token at `loops`, bfloat16 */
    uint32_t loops;
} published[] = {
    {"ouro_1.4b", 1434652673, 786432, 4},       {"ouro_2.6b", 2667974657, 1572864, 4},
    {"nanbeige_3b", 4169800704, 180224, 2},     {"huginn_0125", 3564976800, 2787840, 32},
    {"retro_llama_1b", 1385228288, 212992, 16}, {"retro_tinyllama_1b", 844171264, 139264, 16},
    {"retro_olmo_1b", 1359071232, 851968, 16},  {"parcae_140m", 144323136, 61440, 8},
    {"parcae_370m", 388003328, 163840, 8},      {"parcae_770m", 776655680, 307200, 8},
    {"parcae_1.3b", 1338591744, 491520, 8},
};

Test(variants, the_published_sizes_have_the_published_numbers_of_weights_and_cached_bytes) {
    for (size_t i = 0; i < ARRAY_LEN(published); i++) {
        model_plan plan = variant(published[i].name);
        uint64_t layers = plan.n_prelude + plan.n_coda + (uint64_t)plan.n_core * plan.loops_default;
        cr_assert_eq(plan_params(&plan), published[i].params, "%s", published[i].name);
        cr_assert_eq(plan.loops_default, published[i].loops, "%s", published[i].name);
        cr_assert_eq(2 * layers * plan.layer_values, published[i].cache_bytes, "%s",
                     published[i].name);
    }
}

/* The rest of a file's published size is its headers: a few kB per shard. Huginn's shards hold the
 * head a second time and a table of RoPE. */
Test(variants, the_published_files_hold_the_weights_and_small_headers) {
    static const struct {
        const char *name;
        uint64_t file_bytes, value_bytes, extra_values, shards;
    } rows[] = {
        {"ouro_1.4b", 2869336434, 2, 0, 1},
        {"ouro_2.6b", 5336011242, 2, 0, 1},
        {"nanbeige_3b", 8339624768, 2, 0, 1},
        {"huginn_0125", 4771970936u + 4744780096u + 4744737616u + 1384120448u, 4,
         65536ull * 5280 + 4096 * 48 * 2, 4},
        {"retro_llama_1b", 5540913152, 4, 0, 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        model_plan plan = variant(rows[i].name);
        uint64_t data = (plan_params(&plan) + rows[i].extra_values) * rows[i].value_bytes;
        cr_assert_geq(rows[i].file_bytes, data, "%s", rows[i].name);
        cr_assert_lt(rows[i].file_bytes - data, 65536 * rows[i].shards, "%s: %llu bytes of headers",
                     rows[i].name, (unsigned long long)(rows[i].file_bytes - data));
    }
}

/* ---- random weights ---- */

static const char *const tiny[] = {
    "tiny",          "ouro_tiny",  "huginn_tiny", "retro_tiny_llama", "retro_tiny_olmo",
    "nanbeige_tiny", "parcae_tiny"};

static model_folder *open_folder(const char *dir) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    return model;
}

Test(variants, random_weights_of_every_family_open_again_with_an_equal_plan) {
    for (size_t i = 0; i < ARRAY_LEN(tiny); i++) {
        for (uint64_t shard_bytes = 0; shard_bytes <= 70000; shard_bytes += 70000) {
            tmp_dir dir = tmp_dir_create();
            model_plan plan = variant(tiny[i]);
            model_init_opts opts = {.dtype = DTYPE_BF16, .shard_bytes = shard_bytes};
            err e = {0};
            cr_assert_eq(model_init_write(dir.path, &plan, &opts, &e), 0, "%s", e.msg);
            model_folder *model = open_folder(dir.path);
            cr_assert_eq(memcmp(model_plan_of(model), &plan, sizeof plan), 0, "%s", tiny[i]);
            cr_assert_eq(model_params(model), plan_params(&plan), "%s", tiny[i]);
            cr_assert_eq(model_bytes(model), 2 * plan_params(&plan), "%s", tiny[i]);
            cr_assert_eq(model_check(model, &e), 0, "%s", e.msg);
            model_close(model);
            tmp_dir_remove(&dir);
        }
    }
}

/* Slices of one tensor are drawn apart: equal queries and keys would attend to themselves only. */
Test(variants, slices_of_one_tensor_have_values_of_their_own) {
    tmp_dir dir = tmp_dir_create();
    model_tensor q, k;
    float one[16], other[16];
    weights_write(dir.path, "huginn_tiny", DTYPE_F32, 1, 0);
    model_folder *model = open_folder(dir.path);
    cr_assert(model_find(model, (tensor_place){.role = TENSOR_WV, .stage = PART_OF_CORE}, &q) &&
              model_find(model, (tensor_place){.role = TENSOR_WK, .stage = PART_OF_CORE}, &k));
    model_tensor_read(&q, 0, 16, one);
    model_tensor_read(&k, 0, 16, other);
    for (int i = 0; i < 16; i++)
        cr_assert_neq(one[i], other[i]);
    model_close(model);
    tmp_dir_remove(&dir);
}

typedef struct {
    double depth, depth_std, logit_std;
} behaviour;

/* Of two random sequences. */
static behaviour behaviour_of(const char *dir) {
    enum { N = 64, SEQS = 2 };
    model_folder *model = open_folder(dir);
    reference *ref = ref_open(model);
    kv_policy policy = model_plan_of(model)->halted_kv;
    uint32_t vocab = model_plan_of(model)->vocab_size, ids[N];
    uint64_t seed = 3;
    model_close(model);
    double sum = 0, squares = 0, logits = 0;
    for (int seq = 0; seq < SEQS; seq++) {
        for (int i = 0; i < N; i++)
            ids[i] = (uint32_t)((seed = seed * 6364136223846793005u + 1) >> 33) % vocab;
        ref_result res = ref_run(ref, ids, N, &(ref_opts){.policy = policy});
        for (int i = 0; i < N; i++) {
            sum += res.depth[i];
            squares += (double)res.depth[i] * res.depth[i];
            for (uint32_t k = 0; k < vocab; k++) {
                double logit = (double)res.logits[(size_t)i * vocab + k];
                cr_assert(isfinite(logit));
                logits += logit * logit / vocab;
            }
        }
        ref_result_deinit(&res);
    }
    ref_close(ref);
    double n = N * SEQS, mean = sum / n;
    return (behaviour){mean, sqrt(squares / n - mean * mean), sqrt(logits / n)};
}

Test(variants, random_logits_have_the_same_spread_in_every_family, .timeout = HANGS_S) {
    for (size_t i = 0; i < ARRAY_LEN(tiny); i++) {
        tmp_dir dir = tmp_dir_create();
        weights_write(dir.path, tiny[i], DTYPE_F32, 7, 0);
        behaviour seen = behaviour_of(dir.path);
        cr_assert_float_eq(seen.logit_std, 2.5, 0.5, "%s: %g", tiny[i], seen.logit_std);
        tmp_dir_remove(&dir);
    }
}

Test(variants, latent_diff_models_run_the_mean_depth_asked_for_and_all_loops_without_one,
     .timeout = HANGS_S) {
    static const struct {
        const char *name;
        float asked;
        double within, spread; /* fractions of the mean */
    } rows[] = {
        {"huginn_tiny", 3, 0.15, 0.2},      {"huginn_tiny", 5, 0.15, 0.2},
        {"retro_tiny_llama", 4, 0.2, 0.15}, {"retro_tiny_olmo", 4, 0.2, 0.15},
        {"parcae_tiny", 4, 0.15, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tmp_dir dir = tmp_dir_create(), whole = tmp_dir_create();
        weights_write(dir.path, rows[i].name, DTYPE_F32, 5, rows[i].asked);
        behaviour seen = behaviour_of(dir.path);
        double asked = (double)rows[i].asked;
        cr_assert_float_eq(seen.depth, asked, rows[i].within * asked, "%s: asked %g, is %g",
                           rows[i].name, asked, seen.depth);
        cr_assert_geq(seen.depth_std, rows[i].spread * asked, "%s: depths spread by %g only",
                      rows[i].name, seen.depth_std);
        weights_write(whole.path, rows[i].name, DTYPE_F32, 5, 0);
        seen = behaviour_of(whole.path);
        cr_assert(seen.depth == 8 && seen.depth_std == 0, "%s: %g", rows[i].name, seen.depth);
        tmp_dir_remove(&dir), tmp_dir_remove(&whole);
    }
}
