/* test_rows.c - the row kernels against plain twins: entering and leaving stages, cache slots,
 * queries; test_loop_end.c has the end of a loop. */
#include "tests/cuda/selftest/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const uint32_t row_dims[ROW_DIMS] = {32, 40, 77, 100, 198, 2048, WIDE};

cu_row plain_row(uint32_t i) {
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

void twin_rms(const double *x, const float *weight, uint32_t n, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / n + (double)EPS);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)weight[i];
}

double relative_error(double want, float got) {
    double apart = fabs(want - (double)got) / (fabs(want) + 0.1);
    return apart <= 1e30 ? apart : INFINITY;
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
                bad =
                    fmax(bad, fmax(relative_error(twin_start(way, row, col, in[col]), state[here]),
                                   relative_error(keeps, input[here])));
                same &= out[here] == 0;
            } else if (at != CU_NO_LOGITS) {
                bad = fmax(bad, relative_error(normed[col], act[(size_t)at * nums->ld + col]));
            }
            if (to == CU_TO_NORM)
                bad = fmax(bad, relative_error(in[col], x[(size_t)i * dim + col]));
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
    for (size_t k = 0; k < ROW_DIMS; k++) {
        for (int f32 = 0; f32 < 2; f32++) {
            numbers nums = numbers_new(row_dims[k], f32, rnd);
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
            bad = fmax(bad, relative_error(x[col], query[i * H * hd + col]));
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
                bad = fmax(bad, relative_error(want, nope[(i * H + head) * NL + col]));
            }
            for (uint32_t col = 0; col < rot; col += 2) {
                double x0 = (double)in[i * ld + H * N + head * rot + col],
                       x1 = (double)in[i * ld + H * N + head * rot + col + 1];
                turn(&x0, &x1, rope + rows[i].pos * rot + col);
                bad = fmax(bad, fmax(relative_error(x0, query[(i * H + head) * dk + C + col]),
                                     relative_error(x1, query[(i * H + head) * dk + C + col + 1])));
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
