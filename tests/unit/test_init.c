/* test_init.c - random weights: they load, repeat, behave, and never overwrite. */
#include "model/model_internal.h"
#include "tests/lib/files.h"
#include "tests/lib/oom.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(init, .fini = fail_on_leaks);

static model_plan variant(const char *name) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_variant(&plan, name, &e), 0, "%s", e.msg);
    return plan;
}

static size_t entries(const char *dir) {
    DIR *folder = opendir(dir);
    size_t n = 0;
    while (readdir(folder))
        n++;
    closedir(folder);
    return n - 2;
}

Test(init, the_same_seed_gives_the_same_bytes_and_another_seed_others) {
    tmp_dir first = tmp_dir_create(), same = tmp_dir_create(), other = tmp_dir_create();
    weights_write(first.path, "tiny", DTYPE_BF16, 7, 0);
    weights_write(same.path, "tiny", DTYPE_BF16, 7, 0);
    weights_write(other.path, "tiny", DTYPE_BF16, 8, 0);
    size_t first_len, same_len, other_len;
    char *first_bytes = file_get(first.path, "model.safetensors", &first_len),
         *same_bytes = file_get(same.path, "model.safetensors", &same_len),
         *other_bytes = file_get(other.path, "model.safetensors", &other_len);
    cr_assert(first_len == same_len && memcmp(first_bytes, same_bytes, first_len) == 0);
    cr_assert(first_len == other_len && memcmp(first_bytes, other_bytes, first_len) != 0);
    free(first_bytes), free(same_bytes), free(other_bytes);
    tmp_dir_remove(&first), tmp_dir_remove(&same), tmp_dir_remove(&other);
}

Test(init, any_split_of_a_tensor_gives_the_same_values) {
    model__fill fill = {.kind = MODEL_FILL_NORMAL, .mean = 1, .std = 2, .key = 99};
    float whole[1000], parts[1000];
    model__fill_values(&fill, DTYPE_F32, 0, 1000, whole);
    for (size_t at = 0, n = 1; at < 1000; at += n, n = n * 3 % 17 + 1) {
        model__fill_values(&fill, DTYPE_F32, at, at + n <= 1000 ? n : 1000 - at, parts + at);
    }
    cr_assert_eq(memcmp(whole, parts, sizeof whole), 0);
}

Test(init, values_have_the_mean_and_spread_asked_for) {
    enum { N = 100000 };
    float *values = malloc(N * sizeof *values);
    model__fill fill = {.kind = MODEL_FILL_NORMAL, .mean = 3, .std = 0.5f, .key = 1};
    model__fill_values(&fill, DTYPE_F32, 0, N, values);
    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++)
        sum += (double)values[i], squares += ((double)values[i] - 3) * ((double)values[i] - 3);
    free(values);
    cr_assert_float_eq(sum / N, 3, 0.01);
    cr_assert_float_eq(sqrt(squares / N), 0.5, 0.01);
}

Test(init, shards_hold_the_values_of_the_single_file) {
    tmp_dir one = tmp_dir_create(), many = tmp_dir_create();
    model_plan plan = variant("tiny");
    err e = {0};
    model_init_opts opts = {.seed = 5, .dtype = DTYPE_F16};
    cr_assert_eq(model_init_write(one.path, &plan, &opts, &e), 0, "%s", e.msg);
    opts.shard_bytes = 50000;
    cr_assert_eq(model_init_write(many.path, &plan, &opts, &e), 0, "%s", e.msg);
    cr_assert_gt(entries(many.path), 5);
    model_folder *single, *sharded;
    cr_assert_eq(model_open(&single, one.path, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&sharded, many.path, &e), 0, "%s", e.msg);
    static const char *const names[] = {"embed.weight",
                                        "recurrent.block.ffn.routed_experts.7.down.weight",
                                        "coda.0.ffn.up.weight", "norm.weight"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        model_tensor x, y;
        cr_assert(model_find_named(single, names[i], &x) &&
                  model_find_named(sharded, names[i], &y));
        cr_assert(x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0, "%s", names[i]);
    }
    model_close(single);
    model_close(sharded);
    tmp_dir_remove(&one), tmp_dir_remove(&many);
}

/* Mean and standard deviation of the depths of random tokens. */
static void depths_of(const char *dir, uint64_t seed, double *mean, double *std) {
    enum { N = 64, SEQS = 4 };
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    reference *ref = ref_open(model);
    uint32_t vocab = model_plan_of(model)->vocab_size, ids[N];
    model_close(model);
    double sum = 0, squares = 0;
    for (int seq = 0; seq < SEQS; seq++) {
        for (int i = 0; i < N; i++)
            ids[i] = (uint32_t)((seed = seed * 6364136223846793005u + 1) >> 33) % vocab;
        ref_result res = ref_run(ref, ids, N, &(ref_opts){.policy = KV_EXACT});
        for (int i = 0; i < N; i++) {
            sum += res.depth[i];
            squares += (double)res.depth[i] * res.depth[i];
            for (uint32_t k = 0; k < vocab; k++)
                cr_assert(isfinite(res.logits[(size_t)i * vocab + k]));
        }
        ref_result_deinit(&res);
    }
    *mean = sum / (N * SEQS);
    *std = sqrt(squares / (N * SEQS) - *mean * *mean);
    ref_close(ref);
}

Test(init, depths_of_random_tokens_spread_around_the_mean_asked_for, .timeout = HANGS_S) {
    static const float means[] = {1.5f, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < ARRAY_LEN(means); i++) {
        tmp_dir dir = tmp_dir_create();
        weights_write(dir.path, "tiny", DTYPE_F32, 11 + i, means[i]);
        double mean, std;
        depths_of(dir.path, 3, &mean, &std);
        cr_assert_float_eq(mean, (double)means[i], 0.15 * (double)means[i], "asked %g, is %g",
                           (double)means[i], mean);
        cr_assert_gt(std, 0.2 * (double)means[i], "asked %g: depths spread by %g only",
                     (double)means[i], std);
        tmp_dir_remove(&dir);
    }
}

Test(init, nothing_is_overwritten_and_a_refusal_leaves_nothing_behind) {
    static const char *const taken[] = {"model.safetensors", "config.json",
                                        "model.safetensors.index.json"};
    model_plan plan = variant("tiny");
    model_init_opts opts = {.dtype = DTYPE_BF16};
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        tmp_dir dir = tmp_dir_create();
        file_put(dir.path, taken[i], "mine", 4);
        err e = {0};
        cr_assert_eq(model_init_write(dir.path, &plan, &opts, &e), -1);
        cr_assert_eq(e.code, ERR_USAGE);
        cr_assert(strstr(e.msg, taken[i]) && strstr(e.msg, "nothing is overwritten"), "%s", e.msg);
        cr_assert_eq(entries(dir.path), 1);
        char *text = file_get(dir.path, taken[i], NULL);
        cr_assert_str_eq(text, "mine");
        free(text);
        tmp_dir_remove(&dir);
    }
}

Test(init, what_cannot_be_written_is_refused) {
    model_plan plan = variant("tiny");
    model_init_opts opts = {.dtype = DTYPE_BF16, .mean_depth = 9};
    err deep = {0}, nowhere = {0}, big = {0};
    cr_assert_eq(model_init_write("/tmp/x", &plan, &opts, &deep), -1);
    cr_assert(strstr(deep.msg, "mean depth is 9, expected 1 to 8"), "%s", deep.msg);
    opts.mean_depth = 0;
    cr_assert_eq(model_init_write("/nowhere/at/all", &plan, &opts, &nowhere), -1);
    cr_assert_eq(nowhere.code, ERR_IO);
    tmp_dir dir = tmp_dir_create();
    char inner[128];
    (void)snprintf(inner, sizeof inner, "%s/model", dir.path);
    plan = variant("mythos_1t");
    cr_assert_eq(model_init_write(inner, &plan, &opts, &big), -1);
    cr_assert(strstr(big.msg, "free"), "%s", big.msg);
    cr_assert_eq(entries(dir.path), 0, "the folder made for it is gone again");
    tmp_dir_remove(&dir);
}

Test(init, a_check_before_the_writing_sees_names_and_room_and_makes_no_folder) {
    enum { SMALL = 1000 };
    tmp_dir dir = tmp_dir_create();
    char there[128];
    (void)snprintf(there, sizeof there, "%s/there", dir.path);
    cr_assert_eq(mkdir(there, 0755), 0);
    cr_assert_eq(chdir(dir.path), 0);
    const struct {
        const char *dir, *says; /* NULL: nothing */
        uint64_t bytes;
        err_code code;
    } rows[] = {
        {there, NULL, SMALL, ERR_NONE},
        {"there", NULL, SMALL, ERR_NONE},
        {"new", NULL, SMALL, ERR_NONE},
        {"new//", NULL, SMALL, ERR_NONE},
        {"there/new/", NULL, SMALL, ERR_NONE},
        {"/fathom-new", NULL, SMALL, ERR_NONE},
        {there, "GB free", UINT64_C(1) << 60, ERR_IO},
        {"new", "GB free", UINT64_C(1) << 60, ERR_IO},
        {"there/new/", "GB free", UINT64_C(1) << 60, ERR_IO},
        {"new/new", "No such file", SMALL, ERR_IO},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err e = {0};
        int rc = model_init_check(rows[i].dir, rows[i].bytes, &e);
        cr_expect_eq(rc, rows[i].says ? -1 : 0, "%s: %s", rows[i].dir, e.msg);
        cr_expect_eq(e.code, rows[i].code, "%s: %s", rows[i].dir, e.msg);
        if (rows[i].says) cr_expect_not_null(strstr(e.msg, rows[i].says), "%s", e.msg);
    }
    cr_assert_eq(entries(dir.path), 1);
    file_put(there, "config.json", "{}", 2);
    err taken = {0};
    cr_assert_eq(model_init_check(there, SMALL, &taken), -1);
    cr_assert_eq(taken.code, ERR_USAGE, "%s", taken.msg);
    cr_assert_eq(chdir("/"), 0);
    tmp_dir_remove(&dir);
}

Test(init, writing_survives_every_failed_allocation, .timeout = HANGS_S) {
    model_plan plan = variant("tiny");
    for (long n = 0;; n++) {
        tmp_dir dir = tmp_dir_create();
        char inner[128];
        (void)snprintf(inner, sizeof inner, "%s/model", dir.path);
        err e = {0};
        model_init_opts opts = {.dtype = DTYPE_BF16, .shard_bytes = 300000};
        oom_after(n, true);
        int rc = model_init_write(inner, &plan, &opts, &e);
        bool refused = oom_stop();
        if (rc != 0) {
            cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
            cr_assert_eq(entries(dir.path), 0, "allocation %ld left files behind", n);
        }
        tmp_dir_remove(&dir);
        if (!refused) {
            cr_assert_eq(rc, 0, "%s", e.msg);
            break;
        }
    }
}

Test(init, narrowing_rounds_to_nearest_even) {
    static const struct {
        float value;
        uint16_t f16, bf16;
    } rows[] = {
        {1.0f, 0x3c00, 0x3f80},       {-2.5f, 0xc100, 0xc020},      {65504.0f, 0x7bff, 0x4780},
        {65519.0f, 0x7bff, 0x4780},   {65520.0f, 0x7c00, 0x4780},   {0x1p-24f, 0x0001, 0x3380},
        {0x1p-25f, 0x0000, 0x3300},   {0x1.8p-25f, 0x0001, 0x3340}, {0x1.002p0f, 0x3c00, 0x3f80},
        {0x1.006p0f, 0x3c02, 0x3f80}, {0x1.01p0f, 0x3c04, 0x3f80},  {0x1.03p0f, 0x3c0c, 0x3f82},
        {INFINITY, 0x7c00, 0x7f80},   {-0.0f, 0x8000, 0x8000},      {0x1.ffep-15f, 0x0400, 0x3880},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_assert_eq(model__f16_narrow(rows[i].value), rows[i].f16, "row %zu: %04x", i,
                     model__f16_narrow(rows[i].value));
        cr_assert_eq(model__bf16_narrow(rows[i].value), rows[i].bf16, "row %zu: %04x", i,
                     model__bf16_narrow(rows[i].value));
    }
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        cr_assert_eq(model__f16_narrow(model__f16_widen((uint16_t)bits)), bits, "%04x", bits);
    }
}

static uint32_t likeliest(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* Part of random tokens after which one loop names the same likeliest token as all loops. */
static double agreement_of(const char *variant_name, float motion) {
    enum { N = 200 };
    tmp_dir dir = tmp_dir_create();
    model_plan plan = variant(variant_name);
    model_init_opts opts = {.seed = 4, .dtype = DTYPE_F32, .motion = motion};
    model_folder *model;
    err e = {0};
    uint32_t ids[N], equal = 0, vocab = plan.vocab_size;
    cr_assert_eq(model_init_write(dir.path, &plan, &opts, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
    reference *ref = ref_open(model);
    model_close(model);
    uint64_t seed = 9;
    for (int i = 0; i < N; i++)
        ids[i] = (uint32_t)((seed = seed * 6364136223846793005u + 1) >> 33) % vocab;
    ref_result all = ref_run(ref, ids, N, &(ref_opts){.policy = KV_EXACT}),
               one = ref_run(ref, ids, N, &(ref_opts){.policy = KV_EXACT, .max_loops = 1});
    for (size_t i = 0; i < N; i++)
        equal +=
            likeliest(all.logits + i * vocab, vocab) == likeliest(one.logits + i * vocab, vocab);
    ref_result_deinit(&all), ref_result_deinit(&one);
    ref_close(ref);
    tmp_dir_remove(&dir);
    return (double)equal / N;
}

Test(init, with_less_motion_one_loop_names_the_token_of_all_loops_more_often, .timeout = HANGS_S) {
    static const char *const variants[] = {"tiny", "ouro_tiny", "huginn_tiny", "retro_tiny_olmo",
                                           "parcae_tiny"};
    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        double usual = agreement_of(variants[i], 1), half = agreement_of(variants[i], 0.1f),
               still = agreement_of(variants[i], 0.001f);
        cr_expect(usual < half && half < still, "%s: %.3f, %.3f, %.3f", variants[i], usual, half,
                  still);
        cr_expect_gt(still, 0.97, "%s with hardly any motion: %.3f", variants[i], still);
    }
}
