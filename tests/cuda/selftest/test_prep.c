/* test_prep.c - the preparation of queries and cache slots against plain twins. */
#include "tests/cuda/selftest/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t maps[2][3][32], table[2];
    cu_row rows[4];
    cu_cache cache;
    void *desc, *slots;
    uint32_t *bad;
    float *rope;
    uint32_t rot, layer_values;
} slots_scene;

enum { N_SLOTS = 20, PLANE = 1 };

/* Slots hold three layers; the kernel is given the middle one. */
static void slots_open(slots_scene *scene, uint32_t layer_values, uint32_t rot, bool f32,
                       rng *rnd) {
    static const uint32_t pos[4] = {0, 5, 31, 40};
    memset(scene, 0, sizeof *scene);
    memset(scene->maps, 0xff, sizeof scene->maps);
    scene->table[0] = 1;
    scene->table[1] = 0;
    for (uint32_t i = 0; i < 4; i++) {
        scene->rows[i] =
            (cu_row){.row = i, .pos = pos[i], .token = (i + 1) % 3, .loop = (uint16_t)(i & 1)};
        scene->maps[scene->table[pos[i] / 32]][PLANE + (i & 1)][pos[i] % 32] = 3 + 4 * i;
    }
    uint32_t zero = 0;
    scene->bad = dev_bytes(&zero, 4);
    desc_spec spec = {
        .rows = scene->rows, .n_rows = 4, .tables = scene->table, .n_tables = 2, .bad = scene->bad};
    scene->desc = dev_desc(&spec);
    scene->layer_values = layer_values;
    scene->slots = dev_act(NULL, N_SLOTS * 3 * layer_values, f32);
    scene->cache = (cu_cache){.slots = (char *)scene->slots + (size_t)layer_values * (f32 ? 4 : 2),
                              .maps = dev_bytes(scene->maps, sizeof scene->maps),
                              .n_slots = N_SLOTS,
                              .n_blocks = 2,
                              .n_planes = 3,
                              .slot_values = 3 * layer_values,
                              .f32 = f32};
    scene->rot = rot;
    scene->rope = random_floats(rnd, 41 * rot, 3);
    for (uint32_t i = 0; i < 41 * rot; i += 2) {
        float angle = scene->rope[i];
        scene->rope[i] = cosf(angle);
        scene->rope[i + 1] = sinf(angle);
    }
}

/* The middle layer of slots 3 + 4i holds `want`; nothing else was touched. */
static void slots_check(const slots_scene *scene, const double *want, const char *what) {
    uint32_t n = scene->cache.slot_values, layer = scene->layer_values, flag;
    float *got = malloc(N_SLOTS * n * 4);
    host_act(got, scene->slots, N_SLOTS * n, scene->cache.f32);
    double bad = 0;
    bool touched = false;
    for (uint32_t k = 0; k < N_SLOTS; k++) {
        bool ours = k % 4 == 3 && k < 16;
        for (uint32_t col = 0; col < n; col++) {
            if (ours && col / layer == 1)
                bad = fmax(bad,
                           relative_error(want[(k / 4) * layer + col % layer], got[k * n + col]));
            else touched |= !isnan(got[k * n + col]);
        }
    }
    host_bytes(&flag, scene->bad, 4);
    check(bad < (scene->cache.f32 ? 1e-5 : 8e-3) && !touched && flag == 0, "%s: slots error %g",
          what, bad);
    free(got);
}

static void turn(double *x0, double *x1, const float *cs) {
    double first = *x0, second = *x1, cosine = (double)cs[0], sine = (double)cs[1];
    *x0 = first * cosine - second * sine;
    *x1 = first * sine + second * cosine;
}

static void mla_slots(rng *rnd, bool f32, bool cache_f32, uint32_t lora) {
    enum { Q = 48, C = 32, R = 8, LDQ = 64, SV = C + R };
    const uint32_t ld = Q + lora + R, sv = lora + R;
    slots_scene scene;
    slots_open(&scene, sv, R, cache_f32, rnd);
    float *in = random_floats(rnd, 5 * ld, 2), *qn = random_floats(rnd, Q, 1),
          *kn = random_floats(rnd, lora, 1);
    cu_prep_args args = {.desc = scene.desc,
                         .cache = scene.cache,
                         .plane = PLANE,
                         .by_loop = true,
                         .q_lora = Q,
                         .kv_lora = lora,
                         .rope_dim = R,
                         .in = dev_floats(in, 5 * ld),
                         .ld_in = ld,
                         .q_norm = dev_floats(qn, Q),
                         .kv_norm = dev_floats(kn, lora),
                         .rope = dev_floats(scene.rope, 41 * R),
                         .norm_eps = EPS,
                         .q = dev_act(NULL, 5 * LDQ, f32),
                         .ld_q = LDQ};
    must(cu_mla_prep(test_stream, &args, 5, f32), "mla prep");
    double want[4 * SV], x[Q], y[Q], bad = 0;
    float query[5 * LDQ];
    host_act(query, args.q, 5 * LDQ, f32);
    bool pads = isnan(query[4 * LDQ]);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t col = 0; col < Q; col++)
            x[col] = (double)in[i * ld + col];
        twin_rms(x, qn, Q, y);
        for (uint32_t col = 0; col < LDQ; col++) {
            if (col < Q) bad = fmax(bad, relative_error(y[col], query[i * LDQ + col]));
            else pads &= query[i * LDQ + col] == 0;
        }
        for (uint32_t col = 0; col < sv; col++)
            x[col] = (double)in[i * ld + Q + col];
        twin_rms(x, kn, lora, want + i * sv);
        for (uint32_t col = 0; col < R; col += 2) {
            turn(&x[lora + col], &x[lora + col + 1], scene.rope + scene.rows[i].pos * R + col);
            want[i * sv + lora + col] = x[lora + col];
            want[i * sv + lora + col + 1] = x[lora + col + 1];
        }
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && pads, "mla prep: query error %g", bad);
    slots_check(&scene, want, "mla prep");
    free(in);
    free(qn);
    free(kn);
    free(scene.rope);
    dev_free_all();
}

/* What a model adds to its queries, keys and values. */
typedef struct {
    bool bias, values;
    cu_qk_norm norm;
} qkv_extras;

enum { H = 4, KV = 2, HD = 8, LD = (H + 2 * KV) * HD, SV = 2 * KV * HD, TOKENS = 3 };
#define QK_EPS 0.02f

typedef struct {
    float *in, *bias, *weights, *table;
    uint32_t ld, width, value_ld; /* ld: of in, gates behind the values */
} qkv_numbers;

/* Channels [0, n) share one scale. */
static void twin_scale(double *x, const float *weights, uint32_t n) {
    double sum = 0;
    for (uint32_t col = 0; col < n; col++)
        sum += x[col] * x[col];
    for (uint32_t col = 0; col < n; col++)
        x[col] *= (weights ? (double)weights[col] : 1) / sqrt(sum / n + (double)QK_EPS);
}

/* One row's [q | k | v] as the reference makes it: a norm of heads behind the rotation. */
static void twin_qkv(const qkv_numbers *nums, const qkv_extras *with, const float *in,
                     const float *turns, uint32_t token, double *x) {
    uint32_t width = nums->width, q = H * width, turned = q + KV * width;
    for (uint32_t col = 0; col < turned + KV * width; col++)
        x[col] = (double)in[col] + (with->bias && col < turned ? (double)nums->bias[col] : 0);
    if (with->norm == CU_QK_NORM_FULL) {
        twin_scale(x, nums->weights, q);
        twin_scale(x + q, nums->weights + q, turned - q);
    }
    for (uint32_t col = 0; col < turned; col += 2)
        turn(&x[col], &x[col + 1], turns + col % width);
    for (uint32_t head = 0; with->norm == CU_QK_NORM_HEAD_UNIT && head < H + KV; head++)
        twin_scale(x + head * width, NULL, width);
    for (uint32_t col = 0; with->values && col < KV * width; col++) {
        double gate = 2 / (1 + exp(-(double)in[turned + KV * width + col / width]));
        x[turned + col] += gate * (double)nums->table[token * nums->value_ld + col];
    }
}

static void gqa_slots(rng *rnd, bool f32, bool cache_f32, uint32_t hd, const qkv_extras *with) {
    const uint32_t all = (H + 2 * KV) * hd, sv = 2 * KV * hd;
    slots_scene scene;
    slots_open(&scene, sv, hd, cache_f32, rnd);
    qkv_numbers nums = {.ld = cu_round(all + KV, 4), .width = hd, .value_ld = 32};
    nums.in = random_floats(rnd, 5 * nums.ld, 2);
    nums.bias = random_floats(rnd, (H + KV) * hd, 1);
    nums.weights = random_floats(rnd, (H + KV) * hd, 1);
    nums.table = random_floats(rnd, TOKENS * nums.value_ld, 1);
    float query[5 * H * HD];
    cu_prep_args args = {.desc = scene.desc,
                         .cache = scene.cache,
                         .plane = PLANE,
                         .by_loop = true,
                         .n_heads = H,
                         .n_kv_heads = KV,
                         .head_dim = hd,
                         .in = dev_floats(nums.in, 5 * nums.ld),
                         .ld_in = nums.ld,
                         .rope = dev_floats(scene.rope, 41 * hd),
                         .qk_bias = with->bias ? dev_floats(nums.bias, (H + KV) * hd) : NULL,
                         .qk_weights = dev_floats(nums.weights, (H + KV) * hd),
                         .qk_norm = with->norm,
                         .qk_norm_eps = QK_EPS,
                         .value_table =
                             with->values ? dev_act(nums.table, TOKENS * nums.value_ld, f32) : NULL,
                         .value_ld = nums.value_ld,
                         .q = dev_act(NULL, 5 * H * hd, f32),
                         .ld_q = H * hd};
    must(cu_gqa_prep(test_stream, &args, 5, f32), "gqa prep");
    host_act(query, args.q, 5 * H * hd, f32);
    double want[4 * SV], bad = 0;
    for (uint32_t i = 0; i < 4; i++) {
        double x[LD];
        twin_qkv(&nums, with, nums.in + i * nums.ld, scene.rope + scene.rows[i].pos * hd,
                 scene.rows[i].token, x);
        for (uint32_t col = 0; col < H * hd; col++)
            bad = fmax(bad, relative_error(x[col], query[i * H * hd + col]));
        memcpy(want + i * sv, x + H * hd, sv * sizeof *x);
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && isnan(query[4 * H * hd]),
          "gqa prep, heads of %u, bias %d, norm %d, values %d: query error %g", hd, with->bias,
          with->norm, with->values, bad);
    slots_check(&scene, want, "gqa prep");
    float *hosts[] = {nums.in, nums.bias, nums.weights, nums.table, scene.rope};
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
        free(hosts[i]);
    dev_free_all();
}

static void all_gqa_slots(rng *rnd, bool f32, bool cache_f32) {
    static const qkv_extras ways[] = {
        {0},
        {.bias = true},
        {.norm = CU_QK_NORM_FULL},
        {.norm = CU_QK_NORM_HEAD_UNIT, .values = true},
        {.values = true},
        {.bias = true, .norm = CU_QK_NORM_FULL, .values = true},
    };
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        gqa_slots(rnd, f32, cache_f32, 6, &ways[i]); /* in pairs */
        gqa_slots(rnd, f32, cache_f32, 8, &ways[i]); /* in fours */
    }
}

static void queries(rng *rnd, bool f32, uint32_t rot) {
    enum {
        QH = 3,
        N = 20,
        NL = 32,
        R = 8,
        C = 16,
        QLD = QH * (N + R),
        DK = C + R,
        OV = 10,
        OL = 32,
        CAP = 5
    };
    const uint32_t ld = QH * (N + rot), dk = C + rot;
    cu_row rows[4];
    for (uint32_t i = 0; i < 4; i++)
        rows[i] = (cu_row){.pos = i * 3};
    desc_spec spec = {.rows = rows, .n_rows = 4};
    float *in = random_floats(rnd, CAP * ld, 1), *rope = random_floats(rnd, 10 * rot, 1);
    float nope[CAP * QH * NL], query[CAP * QH * DK], out[CAP * OL];
    cu_query_args args = {.desc = dev_desc(&spec),
                          .n_heads = QH,
                          .nope = N,
                          .nope_ld = NL,
                          .rope_dim = rot,
                          .kv_lora = C,
                          .in = dev_floats(in, CAP * ld),
                          .ld_in = ld,
                          .rope = dev_floats(rope, 10 * rot),
                          .q_nope = dev_act(NULL, CAP * QH * NL, f32),
                          .q = dev_act(NULL, CAP * QH * dk, f32),
                          .o = dev_act(NULL, CAP * OL, f32),
                          .o_values = OV,
                          .o_ld = OL};
    must(cu_mla_query(test_stream, &args, CAP, f32), "mla query");
    host_act(nope, args.q_nope, CAP * QH * NL, f32);
    host_act(query, args.q, CAP * QH * dk, f32);
    host_act(out, args.o, CAP * OL, f32);
    double bad = 0;
    bool rest = true;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t head = 0; head < QH; head++) {
            for (uint32_t col = 0; col < NL; col++) {
                double want = col < N ? (double)in[i * ld + head * N + col] : 0;
                bad = fmax(bad, relative_error(want, nope[(i * QH + head) * NL + col]));
            }
            for (uint32_t col = 0; col < rot; col += 2) {
                double x0 = (double)in[i * ld + QH * N + head * rot + col],
                       x1 = (double)in[i * ld + QH * N + head * rot + col + 1];
                turn(&x0, &x1, rope + rows[i].pos * rot + col);
                bad =
                    fmax(bad, fmax(relative_error(x0, query[(i * QH + head) * dk + C + col]),
                                   relative_error(x1, query[(i * QH + head) * dk + C + col + 1])));
            }
            for (uint32_t col = 0; col < C; col++)
                rest &= isnan(query[(i * QH + head) * dk + col]) != 0;
        }
        for (uint32_t col = 0; col < OL; col++)
            rest &= col < OV ? isnan(out[i * OL + col]) != 0 : out[i * OL + col] == 0;
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && rest, "mla query: error %g", bad);
    free(in);
    free(rope);
    dev_free_all();
}

void all_preps(rng *rnd) {
    for (int k = 0; k < 4; k++) {
        mla_slots(rnd, k & 1, k >> 1, 32);
        mla_slots(rnd, k & 1, k >> 1, 30);
        queries(rnd, k & 1, 6); /* in pairs */
        queries(rnd, k & 1, 8); /* in fours */
        all_gqa_slots(rnd, k & 1, k >> 1);
    }
}
