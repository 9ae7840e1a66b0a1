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
#include <unistd.h>

TestSuite(init, .fini = fail_on_leaks);

static model_plan variant(const char *name) {
    model_plan c;
    err e = {0};
    cr_assert_eq(plan_variant(&c, name, &e), 0, "%s", e.msg);
    return c;
}

static size_t entries(const char *dir) {
    DIR *d = opendir(dir);
    size_t n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

Test(init, the_same_seed_gives_the_same_bytes_and_another_seed_others) {
    tmp_dir a = tmp_dir_create(), b = tmp_dir_create(), c = tmp_dir_create();
    weights_write(a.path, "tiny", DTYPE_BF16, 7, 0);
    weights_write(b.path, "tiny", DTYPE_BF16, 7, 0);
    weights_write(c.path, "tiny", DTYPE_BF16, 8, 0);
    size_t na, nb, nc;
    char *xa = file_get(a.path, "model.safetensors", &na),
         *xb = file_get(b.path, "model.safetensors", &nb),
         *xc = file_get(c.path, "model.safetensors", &nc);
    cr_assert(na == nb && memcmp(xa, xb, na) == 0);
    cr_assert(na == nc && memcmp(xa, xc, na) != 0);
    free(xa), free(xb), free(xc);
    tmp_dir_remove(&a), tmp_dir_remove(&b), tmp_dir_remove(&c);
}

Test(init, any_split_of_a_tensor_gives_the_same_values) {
    model__fill f = {.kind = MODEL_FILL_NORMAL, .mean = 1, .std = 2, .key = 99};
    float whole[1000], parts[1000];
    model__fill_values(&f, DTYPE_F32, 0, 1000, whole);
    for (size_t at = 0, n = 1; at < 1000; at += n, n = n * 3 % 17 + 1) {
        model__fill_values(&f, DTYPE_F32, at, at + n <= 1000 ? n : 1000 - at, parts + at);
    }
    cr_assert_eq(memcmp(whole, parts, sizeof whole), 0);
}

Test(init, values_have_the_mean_and_spread_asked_for) {
    enum { N = 100000 };
    float *v = malloc(N * sizeof *v);
    model__fill f = {.kind = MODEL_FILL_NORMAL, .mean = 3, .std = 0.5f, .key = 1};
    model__fill_values(&f, DTYPE_F32, 0, N, v);
    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++)
        sum += (double)v[i], squares += ((double)v[i] - 3) * ((double)v[i] - 3);
    free(v);
    cr_assert_float_eq(sum / N, 3, 0.01);
    cr_assert_float_eq(sqrt(squares / N), 0.5, 0.01);
}

Test(init, shards_hold_the_values_of_the_single_file) {
    tmp_dir one = tmp_dir_create(), many = tmp_dir_create();
    model_plan c = variant("tiny");
    err e = {0};
    model_init_opts o = {.seed = 5, .dtype = DTYPE_F16};
    cr_assert_eq(model_init_write(one.path, &c, &o, &e), 0, "%s", e.msg);
    o.shard_bytes = 50000;
    cr_assert_eq(model_init_write(many.path, &c, &o, &e), 0, "%s", e.msg);
    cr_assert_gt(entries(many.path), 5);
    model_folder *a, *b;
    cr_assert_eq(model_open(&a, one.path, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&b, many.path, &e), 0, "%s", e.msg);
    static const char *const names[] = {"embed.weight",
                                        "recurrent.block.ffn.routed_experts.7.down.weight",
                                        "coda.0.ffn.up.weight", "norm.weight"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        model_tensor x, y;
        cr_assert(model_find_named(a, names[i], &x) && model_find_named(b, names[i], &y));
        cr_assert(x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0, "%s", names[i]);
    }
    model_close(a);
    model_close(b);
    tmp_dir_remove(&one), tmp_dir_remove(&many);
}

/* Mean and standard deviation of the depths of random tokens. */
static void depths_of(const char *dir, uint64_t seed, double *mean, double *std) {
    enum { N = 64, SEQS = 4 };
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, dir, &e), 0, "%s", e.msg);
    reference *r = ref_open(m);
    uint32_t vocab = model_plan_of(m)->vocab_size, ids[N];
    model_close(m);
    double sum = 0, squares = 0;
    for (int s = 0; s < SEQS; s++) {
        for (int i = 0; i < N; i++)
            ids[i] = (uint32_t)((seed = seed * 6364136223846793005u + 1) >> 33) % vocab;
        ref_result res = ref_run(r, ids, N, &(ref_opts){.policy = KV_EXACT});
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
    ref_close(r);
}

Test(init, depths_of_random_tokens_spread_around_the_mean_asked_for, .timeout = HANGS_S) {
    static const float means[] = {1.5f, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < ARRAY_LEN(means); i++) {
        tmp_dir d = tmp_dir_create();
        weights_write(d.path, "tiny", DTYPE_F32, 11 + i, means[i]);
        double mean, std;
        depths_of(d.path, 3, &mean, &std);
        cr_assert_float_eq(mean, (double)means[i], 0.15 * (double)means[i], "asked %g, is %g",
                           (double)means[i], mean);
        cr_assert_gt(std, 0.2 * (double)means[i], "asked %g: depths spread by %g only",
                     (double)means[i], std);
        tmp_dir_remove(&d);
    }
}

Test(init, nothing_is_overwritten_and_a_refusal_leaves_nothing_behind) {
    static const char *const taken[] = {"model.safetensors", "config.json",
                                        "model.safetensors.index.json"};
    model_plan c = variant("tiny");
    model_init_opts o = {.dtype = DTYPE_BF16};
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        tmp_dir d = tmp_dir_create();
        file_put(d.path, taken[i], "mine", 4);
        err e = {0};
        cr_assert_eq(model_init_write(d.path, &c, &o, &e), -1);
        cr_assert_eq(e.code, ERR_USAGE);
        cr_assert(strstr(e.msg, taken[i]) && strstr(e.msg, "nothing is overwritten"), "%s", e.msg);
        cr_assert_eq(entries(d.path), 1);
        char *text = file_get(d.path, taken[i], NULL);
        cr_assert_str_eq(text, "mine");
        free(text);
        tmp_dir_remove(&d);
    }
}

Test(init, what_cannot_be_written_is_refused) {
    model_plan c = variant("tiny");
    model_init_opts o = {.dtype = DTYPE_BF16, .mean_depth = 9};
    err deep = {0}, nowhere = {0}, big = {0};
    cr_assert_eq(model_init_write("/tmp/x", &c, &o, &deep), -1);
    cr_assert(strstr(deep.msg, "mean depth is 9, expected 1 to 8"), "%s", deep.msg);
    o.mean_depth = 0;
    cr_assert_eq(model_init_write("/nowhere/at/all", &c, &o, &nowhere), -1);
    cr_assert_eq(nowhere.code, ERR_IO);
    tmp_dir d = tmp_dir_create();
    char inner[128];
    (void)snprintf(inner, sizeof inner, "%s/model", d.path);
    c = variant("mythos_1t");
    cr_assert_eq(model_init_write(inner, &c, &o, &big), -1);
    cr_assert(strstr(big.msg, "free"), "%s", big.msg);
    cr_assert_eq(entries(d.path), 0, "the folder made for it is gone again");
    tmp_dir_remove(&d);
}

Test(init, writing_survives_every_failed_allocation, .timeout = HANGS_S) {
    model_plan c = variant("tiny");
    for (long n = 0;; n++) {
        tmp_dir d = tmp_dir_create();
        char inner[128];
        (void)snprintf(inner, sizeof inner, "%s/model", d.path);
        err e = {0};
        model_init_opts o = {.dtype = DTYPE_BF16, .shard_bytes = 300000};
        oom_after(n, true);
        int rc = model_init_write(inner, &c, &o, &e);
        bool refused = oom_stop();
        if (rc != 0) {
            cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
            cr_assert_eq(entries(d.path), 0, "allocation %ld left files behind", n);
        }
        tmp_dir_remove(&d);
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
