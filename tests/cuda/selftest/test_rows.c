/* test_rows.c - the row kernels against plain twins: entering and leaving stages, cache slots,
 * edits of the maps in order, the end of a loop for running rows, tails and K/V-only rows. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-3f /* far from any default, to show a kernel ignoring it */

enum { ROWS = 7, STATES = 11, VOCAB = 13, LOOPS = 5 };

/* Some are no multiple of 4, one is more than a thread block holds with few accesses a thread, and
 * one has chunks of the end of a loop beyond a warp's lanes. */
enum { WIDE = 4356 };
static const uint32_t dims[] = {32, 40, 77, 100, 198, 2048, WIDE};

static cu_row plain_row(uint32_t i) {
    return (cu_row){.row = (i * 3 + 2) % STATES,
                    .pos = i * 17,
                    .token = (i * 5) % VOCAB,
                    .table = 0,
                    .logits = i % 3 == 1 ? i / 3 : CU_NO_LOGITS,
                    .loop = (uint16_t)(i % LOOPS),
                    .min_loops = 0,
                    .max_loops = 100,
                    .threshold = 0.99f};
}

static void twin_rms(const double *x, const float *weight, uint32_t n, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / n + (double)EPS);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)weight[i];
}

typedef struct {
    uint32_t dim, ld, width;
    bool f32;
    float *state, *input, *out, *stream, *delta, *embed, *norm, *loop_norm, *loop_emb, *out_norm;
} numbers;

/* One way through the row step. */
typedef struct {
    cu_row_from from;
    cu_row_to to;
    bool out_norm; /* of delta */
    bool bare;     /* the head reads the stream without a norm */
    bool no_input; /* no loop reads the input */
    cu_start start;
} step_way;

#define EMBED_SCALE 1.75f
#define START_STD 0.5f

static numbers numbers_new(uint32_t dim, bool f32, rng *rnd) {
    uint32_t ld = cu_round(dim, 32);
    return (numbers){.dim = dim,
                     .ld = ld,
                     .width = dim / 8,
                     .f32 = f32,
                     .state = random_floats(rnd, STATES * dim, 2),
                     .input = random_floats(rnd, STATES * dim, 1),
                     .out = random_floats(rnd, STATES * dim, 3),
                     .stream = random_floats(rnd, (ROWS + 1) * dim, 1),
                     .delta = random_floats(rnd, (ROWS + 1) * dim, 1),
                     .embed = random_floats(rnd, VOCAB * ld, 1),
                     .norm = random_floats(rnd, dim, 1),
                     .loop_norm = random_floats(rnd, dim, 1),
                     .loop_emb = random_floats(rnd, LOOPS * (dim / 8) + 1, 1),
                     .out_norm = random_floats(rnd, dim, 1)};
}

static void numbers_free(numbers *nums) {
    float *all[] = {nums->state, nums->input, nums->out,       nums->stream,   nums->delta,
                    nums->embed, nums->norm,  nums->loop_norm, nums->loop_emb, nums->out_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* The value a row enters with. */
static void twin_enter(const numbers *nums, const step_way *way, const cu_row *row, uint32_t i,
                       double *x) {
    double tmp[WIDE];
    cu_row_from from = way->from;
    bool normed_delta = from == CU_FROM_X && way->out_norm;
    for (uint32_t col = 0; col < nums->dim; col++) {
        size_t at = (size_t)row->row * nums->dim + col, here = (size_t)i * nums->dim + col;
        double embed =
            (double)nums->embed[(size_t)row->token * nums->ld + col] * (double)EMBED_SCALE;
        x[col] = from == CU_FROM_TOKEN   ? embed
                 : from == CU_FROM_OUT   ? (double)nums->out[at]
                 : from == CU_FROM_STATE ? (double)nums->state[at]
                 : normed_delta          ? (double)nums->delta[here]
                 : from == CU_FROM_X     ? (double)nums->stream[here] + (double)nums->delta[here]
                                         : (double)nums->state[at] + (double)nums->input[at];
        if (from == CU_FROM_LOOP && col < nums->width)
            x[col] += (double)nums->loop_emb[row->loop * nums->width + col];
    }
    memcpy(tmp, x, nums->dim * sizeof *x);
    if (from == CU_FROM_LOOP) twin_rms(tmp, nums->loop_norm, nums->dim, x);
    if (!normed_delta) return;
    twin_rms(tmp, nums->out_norm, nums->dim, x);
    for (uint32_t col = 0; col < nums->dim; col++)
        x[col] += (double)nums->stream[(size_t)i * nums->dim + col];
}

static double off(double want, float got) {
    double apart = fabs(want - (double)got) / (fabs(want) + 0.1);
    return apart <= 1e30 ? apart : INFINITY;
}

/* The state before the first loop, of a row entering with x. */
static double twin_start(const step_way *way, const cu_row *row, uint32_t col, double x) {
    if (way->start == CU_START_ZERO) return 0;
    return way->start == CU_START_SEEDED ? (double)rm_seeded_state(row->pos, col, START_STD) : x;
}

static void step(const numbers *nums, const step_way *way) {
    cu_row_from from = way->from;
    cu_row_to to = way->to;
    cu_row rows[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] = plain_row(i);
    desc_spec spec = {.rows = rows, .n_rows = ROWS, .n_logits = 2};
    uint32_t cap = ROWS + 1, dim = nums->dim;
    float *act = malloc((size_t)cap * nums->ld * 4), *x = malloc((size_t)cap * dim * 4);
    float *state = malloc(STATES * dim * 4), *input = malloc(STATES * dim * 4),
          *out = malloc(STATES * dim * 4);
    float cum[STATES], *embed = malloc(VOCAB * nums->ld * 4);
    uint8_t halted[STATES];
    memcpy(embed, nums->embed, VOCAB * nums->ld * 4);
    cu_row_args args = {.desc = dev_desc(&spec),
                        .from = from,
                        .to = to,
                        .dim = dim,
                        .ld = nums->ld,
                        .loop_width = nums->width,
                        .norm_eps = EPS,
                        .embed_scale = EMBED_SCALE,
                        .start = way->start,
                        .start_std = START_STD,
                        .x = dev_floats(nums->stream, (size_t)cap * dim),
                        .delta = dev_floats(nums->delta, (size_t)cap * dim),
                        .embed = dev_act(nums->embed, VOCAB * nums->ld, nums->f32),
                        .norm = way->bare ? NULL : dev_floats(nums->norm, dim),
                        .out_norm = way->out_norm ? dev_floats(nums->out_norm, dim) : NULL,
                        .loop_norm = dev_floats(nums->loop_norm, dim),
                        .loop_emb = dev_floats(nums->loop_emb, LOOPS * (dim / 8) + 1),
                        .act = dev_act(NULL, (size_t)cap * nums->ld, nums->f32)};
    args.state =
        (cu_state){dev_floats(nums->state, STATES * dim), dev_floats(nums->input, STATES * dim),
                   dev_floats(nums->out, STATES * dim), dev_poison(STATES * 4), dev_poison(STATES)};
    float *dev_e = args.state.e;
    if (way->no_input) args.state.e = NULL;
    must(cu_row_step(test_stream, &args, cap, nums->f32), "row step");
    host_act(act, args.act, (size_t)cap * nums->ld, nums->f32);
    host_act(x, args.x, (size_t)cap * dim, true);
    host_act(state, args.state.h, STATES * dim, true);
    host_act(input, dev_e, STATES * dim, true);
    host_act(out, args.state.out, STATES * dim, true);
    host_act(cum, args.state.cum, STATES, true);
    host_bytes(halted, args.state.halted, STATES);
    double bad = 0, in[WIDE], normed[WIDE];
    bool same = true, state_written[STATES] = {false};
    for (uint32_t i = 0; i < ROWS; i++) {
        const cu_row *row = &rows[i];
        twin_enter(nums, way, row, i, in);
        twin_rms(in, nums->norm, dim, normed);
        if (way->bare) memcpy(normed, in, dim * sizeof *in);
        uint32_t at = to == CU_TO_HEAD ? row->logits : i;
        for (uint32_t col = 0; col < dim; col++) {
            size_t here = (size_t)row->row * dim + col;
            if (to == CU_TO_STATE) {
                double keeps = way->no_input ? (double)nums->input[here] : in[col];
                bad = fmax(bad, fmax(off(twin_start(way, row, col, in[col]), state[here]),
                                     off(keeps, input[here])));
                same &= out[here] == 0;
            } else if (at != CU_NO_LOGITS) {
                bad = fmax(bad, off(normed[col], act[(size_t)at * nums->ld + col]));
            }
            if (to == CU_TO_NORM) bad = fmax(bad, off(in[col], x[(size_t)i * dim + col]));
        }
        for (uint32_t col = dim; to != CU_TO_STATE && at != CU_NO_LOGITS && col < nums->ld; col++)
            same &= act[(size_t)at * nums->ld + col] == 0;
        if (to != CU_TO_STATE) continue;
        same &= cum[row->row] == 0 && halted[row->row] == 0;
        state_written[row->row] = true;
    }
    for (uint32_t seq = 0; seq < STATES; seq++) {
        if (state_written[seq]) continue;
        same &=
            halted[seq] == 0xff && memcmp(state + seq * dim, nums->state + seq * dim, dim * 4) == 0;
    }
    uint32_t written = to == CU_TO_HEAD ? 2 : to == CU_TO_NORM ? ROWS : 0;
    same &= isnan(act[(size_t)written * nums->ld]) != 0;
    check(bad < (nums->f32 ? 1e-5 : 8e-3), "row step %d to %d, dim %u: error %g", from, to, dim,
          bad);
    check(same, "row step %d to %d, dim %u: wrote what it must not, or left padding", from, to,
          dim);
    float *all[] = {act, x, state, input, out, embed};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
    dev_free_all();
}

static void row_steps(rng *rnd) {
    for (size_t k = 0; k < ARRAY_LEN(dims); k++) {
        for (int f32 = 0; f32 < 2; f32++) {
            numbers nums = numbers_new(dims[k], f32, rnd);
            for (int from = CU_FROM_TOKEN; from <= CU_FROM_X; from++) {
                for (int to = CU_TO_NORM; to <= CU_TO_HEAD; to++)
                    step(&nums, &(step_way){.from = (cu_row_from)from, .to = (cu_row_to)to});
            }
            static const step_way others[] = {
                {.from = CU_FROM_X, .to = CU_TO_NORM, .out_norm = true},
                {.from = CU_FROM_X, .to = CU_TO_STATE, .out_norm = true, .no_input = true},
                {.from = CU_FROM_X, .to = CU_TO_HEAD, .out_norm = true},
                {.from = CU_FROM_X, .to = CU_TO_HEAD, .out_norm = true, .bare = true},
                {.from = CU_FROM_OUT, .to = CU_TO_HEAD, .bare = true},
                {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .no_input = true},
                {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .start = CU_START_ZERO},
                {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .start = CU_START_SEEDED},
            };
            for (size_t i = 0; i < ARRAY_LEN(others); i++)
                step(&nums, &others[i]);
            numbers_free(&nums);
        }
    }
}

/* ---- cache slots ---- */

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
        scene->rows[i] = (cu_row){.row = i, .pos = pos[i], .loop = (uint16_t)(i & 1)};
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
    scene->rope = random_floats(rnd, 41 * rot, 1);
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
                bad = fmax(bad, off(want[(k / 4) * layer + col % layer], got[k * n + col]));
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
            if (col < Q) bad = fmax(bad, off(y[col], query[i * LDQ + col]));
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

static void gqa_slots(rng *rnd, bool f32, bool cache_f32, uint32_t hd) {
    enum { H = 4, KV = 2, HD = 8, LD = (H + 2 * KV) * HD, SV = 2 * KV * HD };
    const uint32_t ld = (H + 2 * KV) * hd, sv = 2 * KV * hd;
    slots_scene scene;
    slots_open(&scene, sv, hd, cache_f32, rnd);
    float *in = random_floats(rnd, 5 * ld, 2), query[5 * H * HD];
    cu_prep_args args = {.desc = scene.desc,
                         .cache = scene.cache,
                         .plane = PLANE,
                         .by_loop = true,
                         .n_heads = H,
                         .n_kv_heads = KV,
                         .head_dim = hd,
                         .in = dev_floats(in, 5 * ld),
                         .ld_in = ld,
                         .rope = dev_floats(scene.rope, 41 * hd),
                         .q = dev_act(NULL, 5 * H * hd, f32),
                         .ld_q = H * hd};
    must(cu_gqa_prep(test_stream, &args, 5, f32), "gqa prep");
    host_act(query, args.q, 5 * H * hd, f32);
    double want[4 * SV], bad = 0;
    for (uint32_t i = 0; i < 4; i++) {
        double x[LD];
        for (uint32_t col = 0; col < ld; col++)
            x[col] = (double)in[i * ld + col];
        for (uint32_t col = 0; col < (H + KV) * hd; col += 2) {
            turn(&x[col], &x[col + 1], scene.rope + scene.rows[i].pos * hd + col % hd);
        }
        for (uint32_t col = 0; col < H * hd; col++)
            bad = fmax(bad, off(x[col], query[i * H * hd + col]));
        memcpy(want + i * sv, x + H * hd, sv * sizeof *x);
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && isnan(query[4 * H * hd]), "gqa prep: query error %g", bad);
    slots_check(&scene, want, "gqa prep");
    free(in);
    free(scene.rope);
    dev_free_all();
}

static void queries(rng *rnd, bool f32, uint32_t rot) {
    enum {
        H = 3,
        N = 20,
        NL = 32,
        R = 8,
        C = 16,
        LD = H * (N + R),
        DK = C + R,
        OV = 10,
        OL = 32,
        CAP = 5
    };
    const uint32_t ld = H * (N + rot), dk = C + rot;
    cu_row rows[4];
    for (uint32_t i = 0; i < 4; i++)
        rows[i] = (cu_row){.pos = i * 3};
    desc_spec spec = {.rows = rows, .n_rows = 4};
    float *in = random_floats(rnd, CAP * ld, 1), *rope = random_floats(rnd, 10 * rot, 1);
    float nope[CAP * H * NL], query[CAP * H * DK], out[CAP * OL];
    cu_query_args args = {.desc = dev_desc(&spec),
                          .n_heads = H,
                          .nope = N,
                          .nope_ld = NL,
                          .rope_dim = rot,
                          .kv_lora = C,
                          .in = dev_floats(in, CAP * ld),
                          .ld_in = ld,
                          .rope = dev_floats(rope, 10 * rot),
                          .q_nope = dev_act(NULL, CAP * H * NL, f32),
                          .q = dev_act(NULL, CAP * H * dk, f32),
                          .o = dev_act(NULL, CAP * OL, f32),
                          .o_values = OV,
                          .o_ld = OL};
    must(cu_mla_query(test_stream, &args, CAP, f32), "mla query");
    host_act(nope, args.q_nope, CAP * H * NL, f32);
    host_act(query, args.q, CAP * H * dk, f32);
    host_act(out, args.o, CAP * OL, f32);
    double bad = 0;
    bool rest = true;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t head = 0; head < H; head++) {
            for (uint32_t col = 0; col < NL; col++) {
                double want = col < N ? (double)in[i * ld + head * N + col] : 0;
                bad = fmax(bad, off(want, nope[(i * H + head) * NL + col]));
            }
            for (uint32_t col = 0; col < rot; col += 2) {
                double x0 = (double)in[i * ld + H * N + head * rot + col],
                       x1 = (double)in[i * ld + H * N + head * rot + col + 1];
                turn(&x0, &x1, rope + rows[i].pos * rot + col);
                bad = fmax(bad, fmax(off(x0, query[(i * H + head) * dk + C + col]),
                                     off(x1, query[(i * H + head) * dk + C + col + 1])));
            }
            for (uint32_t col = 0; col < C; col++)
                rest &= isnan(query[(i * H + head) * dk + col]) != 0;
        }
        for (uint32_t col = 0; col < OL; col++)
            rest &= col < OV ? isnan(out[i * OL + col]) != 0 : out[i * OL + col] == 0;
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && rest, "mla query: error %g", bad);
    free(in);
    free(rope);
    dev_free_all();
}

/* ---- the end of a loop ---- */

/* One kind of end: experts and injection, or one delta, perhaps between two norms. */
typedef struct {
    uint32_t rank, parts;
    bool inject, out_norm, loop_norm, weighted;
    cu_exit exit;
    float threshold;
    uint32_t flags; /* of all rows; 0: some tails among them */
} ending;

enum { LORA_ROWS = 3 };
#define HALT_BIAS 0.25f

typedef struct {
    uint32_t dim;
    float *stream, *part, *down, *lb, *scale, *inj_a, *inj_b, *halt_w, *state, *input, *out,
        *out_norm, *loop_norm;
    float cum[STATES];
} loop_numbers;

typedef struct {
    double state[WIDE], out[WIDE], cum;
    bool halted;
} loop_twin;

/* How near the decision was: rounding may turn it. */
static double close_call(double value, double threshold) {
    return fabs(value - threshold) / (fabs(threshold) + 1e-30);
}

static void twin_stream(const loop_numbers *nums, const ending *end, uint32_t i, double *y) {
    uint32_t dim = nums->dim;
    double part[WIDE] = {0};
    for (uint32_t col = 0; col < dim; col++) {
        part[col] = 0;
        for (uint32_t j = 0; j < end->parts; j++)
            part[col] += (double)nums->part[(i * end->parts + j) * dim + col];
    }
    memcpy(y, part, dim * sizeof *y);
    if (end->out_norm) twin_rms(part, nums->out_norm, dim, y);
    for (uint32_t col = 0; col < dim; col++)
        y[col] += (double)nums->stream[i * dim + col];
}

static void twin_inject(const loop_numbers *nums, const ending *end, const cu_row *info,
                        double *y) {
    double low[16];
    uint32_t dim = nums->dim, row = info->loop < LORA_ROWS ? info->loop : LORA_ROWS - 1;
    for (uint32_t j = 0; j < end->rank; j++) {
        low[j] = 0;
        for (uint32_t col = 0; col < dim; col++)
            low[j] += y[col] * (double)nums->down[j * dim + col];
        low[j] *= (double)nums->scale[row * end->rank + j];
    }
    for (uint32_t col = 0; col < dim; col++) {
        size_t at = (size_t)info->row * dim + col;
        for (uint32_t j = 0; j < end->rank; j++)
            y[col] += low[j] * (double)nums->lb[j * dim + col];
        y[col] += (double)nums->inj_a[col] * (double)nums->state[at] +
                  (double)nums->inj_b[col] * (double)nums->input[at];
    }
}

/* The rule itself, not rowmath's: 1 - prod(1 - p), |h - old| / |h|, 1 - cos. */
static bool twin_leaves(const loop_numbers *nums, const ending *end, const cu_row *row,
                        loop_twin *twin) {
    double dot = 0, moved = 0, now = 0, old = 0, product = 0;
    for (uint32_t col = 0; col < nums->dim; col++) {
        double was = (double)nums->state[(size_t)row->row * nums->dim + col],
               now_at = twin->state[col];
        dot += now_at * (double)nums->halt_w[col];
        moved += (now_at - was) * (now_at - was);
        now += now_at * now_at;
        old += was * was;
        product += now_at * was;
    }
    double halt = 1 / (1 + exp(-(dot + (double)HALT_BIAS))), cum = (double)nums->cum[row->row];
    uint32_t done = row->loop + 1u;
    bool may = done >= row->min_loops, must_go = done >= row->max_loops;
    double threshold = (double)row->threshold;
    twin->cum = cum;
    if (end->exit == CU_EXIT_FIXED) return must_go;
    if (end->exit == CU_EXIT_ACT) {
        rm_act_step act =
            rm_act((float)cum, (float)halt, row->threshold, done, row->min_loops, row->max_loops);
        for (uint32_t col = 0; end->weighted && col < nums->dim; col++)
            twin->out[col] += (double)act.weight * twin->state[col];
        twin->cum = (double)act.cum;
        return act.halted != 0;
    }
    if (end->exit == CU_EXIT_HAZARD) {
        twin->cum = 1 - (1 - cum) * (1 - halt);
        check(close_call(twin->cum, threshold) > 1e-4, "a decision too near to test");
        return (may && threshold < 1 && twin->cum >= threshold) || must_go;
    }
    double far = end->exit == CU_EXIT_COSINE ? 1 - product / sqrt(now * old) : sqrt(moved / now);
    check(close_call(far, threshold) > 1e-4, "a decision too near to test");
    return (may && far < threshold) || must_go;
}

static void twin_loop_end(const loop_numbers *nums, const ending *end, const cu_row *row,
                          uint32_t i, loop_twin *twin) {
    double y[WIDE];
    twin_stream(nums, end, i, y);
    if (end->inject) twin_inject(nums, end, row, y);
    memcpy(twin->state, y, sizeof y);
    if (end->loop_norm) twin_rms(y, nums->loop_norm, nums->dim, twin->state);
    for (uint32_t col = 0; col < nums->dim; col++)
        twin->out[col] = (double)nums->out[(size_t)row->row * nums->dim + col];
    twin->halted = twin_leaves(nums, end, row, twin);
    if (twin->halted && !end->weighted)
        memcpy(twin->out, twin->state, nums->dim * sizeof *twin->out);
}

static loop_numbers loop_numbers_new(uint32_t dim, const ending *end, rng *rnd) {
    uint32_t cap = ROWS + 2, rank = end->rank;
    loop_numbers nums = {.dim = dim,
                         .stream = random_floats(rnd, cap * dim, 1),
                         .part = random_floats(rnd, cap * end->parts * dim, 1),
                         .down = random_floats(rnd, rank * dim + 1, 0.1f),
                         .lb = random_floats(rnd, rank * dim + 1, 0.1f),
                         .scale = random_floats(rnd, LORA_ROWS * rank + 1, 1),
                         .inj_a = random_floats(rnd, dim, 1),
                         .inj_b = random_floats(rnd, dim, 1),
                         .halt_w = random_floats(rnd, dim, 0.1f),
                         .state = random_floats(rnd, STATES * dim, 1),
                         .input = random_floats(rnd, STATES * dim, 1),
                         .out = random_floats(rnd, STATES * dim, 1),
                         .out_norm = random_floats(rnd, dim, 1),
                         .loop_norm = random_floats(rnd, dim, 1)};
    for (uint32_t i = 0; i < STATES; i++)
        nums.cum[i] = (float)(i % 5) * 0.24f;
    return nums;
}

static void loop_numbers_free(loop_numbers *nums) {
    float *all[] = {nums->stream, nums->part,     nums->down,     nums->lb,    nums->scale,
                    nums->inj_a,  nums->inj_b,    nums->halt_w,   nums->state, nums->input,
                    nums->out,    nums->out_norm, nums->loop_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

static void loop_rows(const ending *end, const loop_numbers *nums, cu_row *rows) {
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = plain_row(i);
        rows[i].at = 2 * i + 1; /* as if every other row had been left out */
        rows[i].threshold = end->threshold;
        rows[i].min_loops = i % 3 == 0 ? 4 : 1;
        if (i == 5) rows[i].max_loops = 1;
        rows[i].flags = (uint16_t)(end->flags ? end->flags : i == 2 ? CU_ROW_TAIL : i == 4 ? 3 : 0);
        /* Row 1's state hardly moves: it leaves by its distance, if that is the rule. */
        size_t at = (size_t)rows[i].row * nums->dim;
        double y[WIDE], state[WIDE];
        if (i != 1 || !end->loop_norm) continue;
        twin_stream(nums, end, i, y);
        twin_rms(y, nums->loop_norm, nums->dim, state);
        for (uint32_t col = 0; col < nums->dim; col++)
            nums->state[at + col] = (float)(state[col] * (col & 1 ? 1.01 : 0.99));
    }
}

static void loop_ends(rng *rnd, uint32_t dim, const ending *end) {
    uint32_t cap = ROWS + 2;
    cu_row rows[ROWS];
    loop_numbers nums = loop_numbers_new(dim, end, rnd);
    loop_rows(end, &nums, rows);
    uint8_t none[2 * ROWS] = {0}, was[STATES] = {0};
    was[rows[0].row] = 9; /* loop_end never takes a flag back */
    desc_spec spec = {.rows = rows, .n_rows = ROWS, .halted = dev_bytes(none, sizeof none)};
    float *sums = dev_poison(cap * cu_loop_sums(dim, end->rank) * sizeof *sums);
    cu_loop_end_args args = {.desc = dev_desc(&spec),
                             .dim = dim,
                             .n_parts = end->parts,
                             .norm_eps = EPS,
                             .x = dev_floats(nums.stream, cap * dim),
                             .parts = dev_floats(nums.part, cap * end->parts * dim),
                             .out_norm = end->out_norm ? dev_floats(nums.out_norm, dim) : NULL,
                             .inject = end->inject,
                             .lora_rank = end->rank,
                             .lora_rows = LORA_ROWS,
                             .lora_down = dev_floats(nums.down, end->rank * dim + 1),
                             .lora_b = dev_floats(nums.lb, end->rank * dim + 1),
                             .lora_scale = dev_floats(nums.scale, LORA_ROWS * end->rank + 1),
                             .inj_a = end->inject ? dev_floats(nums.inj_a, dim) : NULL,
                             .inj_b = end->inject ? dev_floats(nums.inj_b, dim) : NULL,
                             .sums = sums,
                             .loop_norm = end->loop_norm ? dev_floats(nums.loop_norm, dim) : NULL,
                             .exit = end->exit,
                             .halt_w =
                                 end->exit <= CU_EXIT_HAZARD ? dev_floats(nums.halt_w, dim) : NULL,
                             .halt_bias = HALT_BIAS,
                             .weighted = end->weighted};
    args.state = (cu_state){dev_floats(nums.state, STATES * dim),
                            end->inject ? dev_floats(nums.input, STATES * dim) : NULL,
                            dev_floats(nums.out, STATES * dim), dev_floats(nums.cum, STATES),
                            dev_bytes(was, STATES)};
    if (end->rank && args.halt_w) {
        float *gate = dev_poison(end->rank * sizeof *gate);
        must(cu_loop_gate(test_stream, args.lora_b, args.halt_w, dim, end->rank, gate),
             "loop gate");
        args.lora_gate = gate;
    }
    if (args.inject) must(cu_loop_mix(test_stream, &args, cap), "mixing");
    if (args.inject) must(cu_loop_leave(test_stream, &args, cap), "leaving");
    if (cu_loop_by_row(&args)) must(cu_loop_row(test_stream, &args, cap), "a row");
    float *state = malloc(STATES * dim * 4), *out = malloc(STATES * dim * 4), cum[STATES];
    uint8_t halted[2 * ROWS], kept[STATES];
    host_act(state, args.state.h, STATES * dim, true);
    host_act(out, args.state.out, STATES * dim, true);
    host_act(cum, args.state.cum, STATES, true);
    host_bytes(halted, spec.halted, sizeof halted);
    host_bytes(kept, args.state.halted, STATES);
    double bad = 0;
    bool right = true;
    static loop_twin twin;
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t row = rows[i].row, flags = rows[i].flags;
        twin_loop_end(&nums, end, &rows[i], i, &twin);
        for (uint32_t col = 0; col < dim; col++) {
            size_t at = (size_t)row * dim + col;
            bad = fmax(bad, off(flags & CU_ROW_KV_ONLY ? (double)nums.state[at] : twin.state[col],
                                state[at]));
            bad = fmax(bad, off(flags ? (double)nums.out[at] : twin.out[col], out[at]));
        }
        uint8_t leaves = flags ? 0 : twin.halted;
        right &= halted[2 * i] == 0 && halted[2 * i + 1] == leaves;
        right &= kept[row] == (leaves ? 1 : was[row]);
        bad = fmax(bad, off(flags ? (double)nums.cum[row] : twin.cum, cum[row]));
    }
    check(bad < 2e-5, "loop end, dim %u, exit %d, flags %u: error %g", dim, end->exit, end->flags,
          bad);
    check(right, "loop end, dim %u, exit %d, flags %u: a halting flag is wrong", dim, end->exit,
          end->flags);
    loop_numbers_free(&nums);
    free(state);
    free(out);
    dev_free_all();
}

static void all_loop_ends(rng *rnd) {
    const uint32_t tail = CU_ROW_TAIL, writes = CU_ROW_TAIL | CU_ROW_KV_ONLY;
    const ending endings[] = {
        /* MYTHOS */
        {.rank = 4, .parts = 3, .inject = true, .weighted = true, .threshold = 0.9f},
        {.parts = 1, .inject = true, .weighted = true, .threshold = 0.9f},
        {.rank = 7, .parts = 12, .inject = true, .weighted = true, .flags = tail},
        {.rank = 7, .parts = 2, .inject = true, .weighted = true, .flags = writes},
        {.rank = 8, .parts = 13, .inject = true, .weighted = true, .threshold = 0.9f},
        {.rank = 16, .parts = 24, .inject = true, .weighted = true, .threshold = 0.7f},
        {.rank = 9, .parts = 25, .inject = true, .exit = CU_EXIT_HAZARD, .threshold = 0.6f},
        {.rank = 4, .parts = 2, .inject = true, .exit = CU_EXIT_FIXED},
        {.rank = 8, .parts = 5, .inject = true, .exit = CU_EXIT_LATENT_DIFF, .threshold = 1.2f},
        {.rank = 3, .parts = 3, .inject = true, .exit = CU_EXIT_COSINE, .threshold = 0.8f},
        {.rank = 3, .parts = 3, .inject = true, .exit = CU_EXIT_COSINE, .flags = tail},
        {.rank = 4, .parts = 3, .inject = true, .loop_norm = true, .threshold = 0.6f},
        /* plain states: norms inside the residual or not, every rule, tails */
        {.parts = 1,
         .out_norm = true,
         .loop_norm = true,
         .exit = CU_EXIT_HAZARD,
         .threshold = 0.6f},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_HAZARD, .threshold = 0.85f},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_HAZARD, .threshold = 1},
        {.parts = 1, .out_norm = true, .exit = CU_EXIT_HAZARD, .threshold = 0.3f},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_ACT, .threshold = 0.7f},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_LATENT_DIFF, .threshold = 0.03f},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_LATENT_DIFF, .threshold = 30},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_COSINE, .threshold = 1e-3f},
        {.parts = 1, .out_norm = true, .exit = CU_EXIT_COSINE, .threshold = 1.9f},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_FIXED},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_HAZARD, .flags = tail},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_HAZARD, .flags = writes},
    };
    for (size_t k = 0; k < ARRAY_LEN(dims); k++) {
        for (size_t i = 0; i < ARRAY_LEN(endings); i++)
            loop_ends(rnd, dims[k], &endings[i]);
    }
}

static void all_rows(rng *rnd) {
    row_steps(rnd);
    for (int k = 0; k < 4; k++) {
        mla_slots(rnd, k & 1, k >> 1, 32);
        mla_slots(rnd, k & 1, k >> 1, 30);
        for (uint32_t width = 6; width <= 8; width += 2) { /* in pairs, and in fours */
            gqa_slots(rnd, k & 1, k >> 1, width);
            queries(rnd, k & 1, width);
        }
    }
    all_loop_ends(rnd);
}

/* Threads in several orders: a missing barrier gives wrong sums. */
void test_rows(void) {
    rng rnd = {3};
    all_rows(&rnd);
#ifdef FATHOM_CUDA_SHIM
    for (unsigned order = 1; order < 100; order += 76) {
        shim_set_order(order);
        all_rows(&rnd);
    }
    shim_set_order(0);
#endif
}
