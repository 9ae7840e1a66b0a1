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

static void twin_rms(const double *x, const float *w, uint32_t n, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double s = 1 / sqrt(sum / n + (double)EPS);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * s * (double)w[i];
}

typedef struct {
    uint32_t dim, ld, width;
    bool f32;
    float *h, *e, *out, *x, *delta, *embed, *norm, *loop_norm, *loop_emb, *out_norm;
} numbers;

/* One way through the row step. */
typedef struct {
    cu_row_from from;
    cu_row_to to;
    bool out_norm; /* of delta */
    bool bare;     /* the head reads x without a norm */
    bool no_e;     /* no loop reads e */
    cu_start start;
} way;

#define EMBED_SCALE 1.75f
#define START_STD 0.5f

static numbers numbers_new(uint32_t dim, bool f32, rng *r) {
    uint32_t ld = cu_round(dim, 32);
    return (numbers){.dim = dim,
                     .ld = ld,
                     .width = dim / 8,
                     .f32 = f32,
                     .h = random_floats(r, STATES * dim, 2),
                     .e = random_floats(r, STATES * dim, 1),
                     .out = random_floats(r, STATES * dim, 3),
                     .x = random_floats(r, (ROWS + 1) * dim, 1),
                     .delta = random_floats(r, (ROWS + 1) * dim, 1),
                     .embed = random_floats(r, VOCAB * ld, 1),
                     .norm = random_floats(r, dim, 1),
                     .loop_norm = random_floats(r, dim, 1),
                     .loop_emb = random_floats(r, LOOPS * (dim / 8) + 1, 1),
                     .out_norm = random_floats(r, dim, 1)};
}

static void numbers_free(numbers *n) {
    float *all[] = {n->h,     n->e,    n->out,       n->x,        n->delta,
                    n->embed, n->norm, n->loop_norm, n->loop_emb, n->out_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* The value a row enters with. */
static void twin_enter(const numbers *n, const way *w, const cu_row *r, uint32_t i, double *x) {
    double tmp[WIDE];
    cu_row_from from = w->from;
    bool normed_delta = from == CU_FROM_X && w->out_norm;
    for (uint32_t c = 0; c < n->dim; c++) {
        size_t at = (size_t)r->row * n->dim + c, here = (size_t)i * n->dim + c;
        double embed = (double)n->embed[(size_t)r->token * n->ld + c] * (double)EMBED_SCALE;
        x[c] = from == CU_FROM_TOKEN   ? embed
               : from == CU_FROM_OUT   ? (double)n->out[at]
               : from == CU_FROM_STATE ? (double)n->h[at]
               : normed_delta          ? (double)n->delta[here]
               : from == CU_FROM_X     ? (double)n->x[here] + (double)n->delta[here]
                                       : (double)n->h[at] + (double)n->e[at];
        if (from == CU_FROM_LOOP && c < n->width)
            x[c] += (double)n->loop_emb[r->loop * n->width + c];
    }
    memcpy(tmp, x, n->dim * sizeof *x);
    if (from == CU_FROM_LOOP) twin_rms(tmp, n->loop_norm, n->dim, x);
    if (!normed_delta) return;
    twin_rms(tmp, n->out_norm, n->dim, x);
    for (uint32_t c = 0; c < n->dim; c++)
        x[c] += (double)n->x[(size_t)i * n->dim + c];
}

static double off(double want, float got) {
    double d = fabs(want - (double)got) / (fabs(want) + 0.1);
    return d <= 1e30 ? d : INFINITY;
}

/* The state before the first loop, of a row entering with x. */
static double twin_start(const way *w, const cu_row *r, uint32_t c, double x) {
    if (w->start == CU_START_ZERO) return 0;
    return w->start == CU_START_SEEDED ? (double)rm_seeded_state(r->pos, c, START_STD) : x;
}

static void step(const numbers *n, const way *w) {
    cu_row_from from = w->from;
    cu_row_to to = w->to;
    cu_row rows[ROWS];
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] = plain_row(i);
    desc_spec d = {.rows = rows, .n_rows = ROWS, .n_logits = 2};
    uint32_t cap = ROWS + 1, dim = n->dim;
    float *act = malloc((size_t)cap * n->ld * 4), *x = malloc((size_t)cap * dim * 4);
    float *h = malloc(STATES * dim * 4), *e = malloc(STATES * dim * 4),
          *out = malloc(STATES * dim * 4);
    float cum[STATES], *embed = malloc(VOCAB * n->ld * 4);
    uint8_t halted[STATES];
    memcpy(embed, n->embed, VOCAB * n->ld * 4);
    cu_row_args a = {.desc = dev_desc(&d),
                     .from = from,
                     .to = to,
                     .dim = dim,
                     .ld = n->ld,
                     .loop_width = n->width,
                     .norm_eps = EPS,
                     .embed_scale = EMBED_SCALE,
                     .start = w->start,
                     .start_std = START_STD,
                     .x = dev_floats(n->x, (size_t)cap * dim),
                     .delta = dev_floats(n->delta, (size_t)cap * dim),
                     .embed = dev_act(n->embed, VOCAB * n->ld, n->f32),
                     .norm = w->bare ? NULL : dev_floats(n->norm, dim),
                     .out_norm = w->out_norm ? dev_floats(n->out_norm, dim) : NULL,
                     .loop_norm = dev_floats(n->loop_norm, dim),
                     .loop_emb = dev_floats(n->loop_emb, LOOPS * (dim / 8) + 1),
                     .act = dev_act(NULL, (size_t)cap * n->ld, n->f32)};
    a.state =
        (cu_state){dev_floats(n->h, STATES * dim), dev_floats(n->e, STATES * dim),
                   dev_floats(n->out, STATES * dim), dev_poison(STATES * 4), dev_poison(STATES)};
    float *dev_e = a.state.e;
    if (w->no_e) a.state.e = NULL;
    must(cu_row_step(test_stream, &a, cap, n->f32), "row step");
    host_act(act, a.act, (size_t)cap * n->ld, n->f32);
    host_act(x, a.x, (size_t)cap * dim, true);
    host_act(h, a.state.h, STATES * dim, true);
    host_act(e, dev_e, STATES * dim, true);
    host_act(out, a.state.out, STATES * dim, true);
    host_act(cum, a.state.cum, STATES, true);
    host_bytes(halted, a.state.halted, STATES);
    double bad = 0, in[WIDE], normed[WIDE];
    bool same = true, state_written[STATES] = {false};
    for (uint32_t i = 0; i < ROWS; i++) {
        const cu_row *r = &rows[i];
        twin_enter(n, w, r, i, in);
        twin_rms(in, n->norm, dim, normed);
        if (w->bare) memcpy(normed, in, dim * sizeof *in);
        uint32_t at = to == CU_TO_HEAD ? r->logits : i;
        for (uint32_t c = 0; c < dim; c++) {
            size_t s = (size_t)r->row * dim + c;
            if (to == CU_TO_STATE) {
                double keeps = w->no_e ? (double)n->e[s] : in[c];
                bad = fmax(bad, fmax(off(twin_start(w, r, c, in[c]), h[s]), off(keeps, e[s])));
                same &= out[s] == 0;
            } else if (at != CU_NO_LOGITS) {
                bad = fmax(bad, off(normed[c], act[(size_t)at * n->ld + c]));
            }
            if (to == CU_TO_NORM) bad = fmax(bad, off(in[c], x[(size_t)i * dim + c]));
        }
        for (uint32_t c = dim; to != CU_TO_STATE && at != CU_NO_LOGITS && c < n->ld; c++)
            same &= act[(size_t)at * n->ld + c] == 0;
        if (to != CU_TO_STATE) continue;
        same &= cum[r->row] == 0 && halted[r->row] == 0;
        state_written[r->row] = true;
    }
    for (uint32_t s = 0; s < STATES; s++) {
        if (state_written[s]) continue;
        same &= halted[s] == 0xff && memcmp(h + s * dim, n->h + s * dim, dim * 4) == 0;
    }
    uint32_t written = to == CU_TO_HEAD ? 2 : to == CU_TO_NORM ? ROWS : 0;
    same &= isnan(act[(size_t)written * n->ld]) != 0;
    check(bad < (n->f32 ? 1e-5 : 8e-3), "row step %d to %d, dim %u: error %g", from, to, dim, bad);
    check(same, "row step %d to %d, dim %u: wrote what it must not, or left padding", from, to,
          dim);
    float *all[] = {act, x, h, e, out, embed};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
    dev_free_all();
}

static void row_steps(rng *r) {
    for (size_t k = 0; k < ARRAY_LEN(dims); k++) {
        for (int f32 = 0; f32 < 2; f32++) {
            numbers n = numbers_new(dims[k], f32, r);
            for (int from = CU_FROM_TOKEN; from <= CU_FROM_X; from++) {
                for (int to = CU_TO_NORM; to <= CU_TO_HEAD; to++)
                    step(&n, &(way){.from = (cu_row_from)from, .to = (cu_row_to)to});
            }
            static const way others[] = {
                {.from = CU_FROM_X, .to = CU_TO_NORM, .out_norm = true},
                {.from = CU_FROM_X, .to = CU_TO_STATE, .out_norm = true, .no_e = true},
                {.from = CU_FROM_X, .to = CU_TO_HEAD, .out_norm = true},
                {.from = CU_FROM_X, .to = CU_TO_HEAD, .out_norm = true, .bare = true},
                {.from = CU_FROM_OUT, .to = CU_TO_HEAD, .bare = true},
                {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .no_e = true},
                {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .start = CU_START_ZERO},
                {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .start = CU_START_SEEDED},
            };
            for (size_t i = 0; i < ARRAY_LEN(others); i++)
                step(&n, &others[i]);
            numbers_free(&n);
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
static void slots_open(slots_scene *s, uint32_t layer_values, uint32_t rot, bool f32, rng *r) {
    static const uint32_t pos[4] = {0, 5, 31, 40};
    memset(s, 0, sizeof *s);
    memset(s->maps, 0xff, sizeof s->maps);
    s->table[0] = 1;
    s->table[1] = 0;
    for (uint32_t i = 0; i < 4; i++) {
        s->rows[i] = (cu_row){.row = i, .pos = pos[i], .loop = (uint16_t)(i & 1)};
        s->maps[s->table[pos[i] / 32]][PLANE + (i & 1)][pos[i] % 32] = 3 + 4 * i;
    }
    uint32_t zero = 0;
    s->bad = dev_bytes(&zero, 4);
    desc_spec d = {.rows = s->rows, .n_rows = 4, .tables = s->table, .n_tables = 2, .bad = s->bad};
    s->desc = dev_desc(&d);
    s->layer_values = layer_values;
    s->slots = dev_act(NULL, N_SLOTS * 3 * layer_values, f32);
    s->cache = (cu_cache){.slots = (char *)s->slots + (size_t)layer_values * (f32 ? 4 : 2),
                          .maps = dev_bytes(s->maps, sizeof s->maps),
                          .n_slots = N_SLOTS,
                          .n_blocks = 2,
                          .n_planes = 3,
                          .slot_values = 3 * layer_values,
                          .f32 = f32};
    s->rot = rot;
    s->rope = random_floats(r, 41 * rot, 1);
}

/* The middle layer of slots 3 + 4i holds `want`; nothing else was touched. */
static void slots_check(const slots_scene *s, const double *want, const char *what) {
    uint32_t n = s->cache.slot_values, layer = s->layer_values, flag;
    float *got = malloc(N_SLOTS * n * 4);
    host_act(got, s->slots, N_SLOTS * n, s->cache.f32);
    double bad = 0;
    bool touched = false;
    for (uint32_t k = 0; k < N_SLOTS; k++) {
        bool ours = k % 4 == 3 && k < 16;
        for (uint32_t c = 0; c < n; c++) {
            if (ours && c / layer == 1)
                bad = fmax(bad, off(want[(k / 4) * layer + c % layer], got[k * n + c]));
            else touched |= !isnan(got[k * n + c]);
        }
    }
    host_bytes(&flag, s->bad, 4);
    check(bad < (s->cache.f32 ? 1e-5 : 8e-3) && !touched && flag == 0, "%s: slots error %g", what,
          bad);
    free(got);
}

static void turn(double *x0, double *x1, const float *cs) {
    double a = *x0, b = *x1, c = (double)cs[0], s = (double)cs[1];
    *x0 = a * c - b * s;
    *x1 = a * s + b * c;
}

static void mla_slots(rng *r, bool f32, bool cache_f32, uint32_t lora) {
    enum { Q = 48, C = 32, R = 8, LDQ = 64, SV = C + R };
    const uint32_t ld = Q + lora + R, sv = lora + R;
    slots_scene s;
    slots_open(&s, sv, R, cache_f32, r);
    float *in = random_floats(r, 5 * ld, 2), *qn = random_floats(r, Q, 1),
          *kn = random_floats(r, lora, 1);
    cu_prep_args a = {.desc = s.desc,
                      .cache = s.cache,
                      .plane = PLANE,
                      .by_loop = true,
                      .q_lora = Q,
                      .kv_lora = lora,
                      .rope_dim = R,
                      .in = dev_floats(in, 5 * ld),
                      .ld_in = ld,
                      .q_norm = dev_floats(qn, Q),
                      .kv_norm = dev_floats(kn, lora),
                      .rope = dev_floats(s.rope, 41 * R),
                      .norm_eps = EPS,
                      .q = dev_act(NULL, 5 * LDQ, f32),
                      .ld_q = LDQ};
    must(cu_mla_prep(test_stream, &a, 5, f32), "mla prep");
    double want[4 * SV], x[Q], y[Q], bad = 0;
    float q[5 * LDQ];
    host_act(q, a.q, 5 * LDQ, f32);
    bool pads = isnan(q[4 * LDQ]);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t c = 0; c < Q; c++)
            x[c] = (double)in[i * ld + c];
        twin_rms(x, qn, Q, y);
        for (uint32_t c = 0; c < LDQ; c++) {
            if (c < Q) bad = fmax(bad, off(y[c], q[i * LDQ + c]));
            else pads &= q[i * LDQ + c] == 0;
        }
        for (uint32_t c = 0; c < sv; c++)
            x[c] = (double)in[i * ld + Q + c];
        twin_rms(x, kn, lora, want + i * sv);
        for (uint32_t c = 0; c < R; c += 2) {
            turn(&x[lora + c], &x[lora + c + 1], s.rope + s.rows[i].pos * R + c);
            want[i * sv + lora + c] = x[lora + c];
            want[i * sv + lora + c + 1] = x[lora + c + 1];
        }
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && pads, "mla prep: query error %g", bad);
    slots_check(&s, want, "mla prep");
    free(in);
    free(qn);
    free(kn);
    free(s.rope);
    dev_free_all();
}

static void gqa_slots(rng *r, bool f32, bool cache_f32, uint32_t hd) {
    enum { H = 4, KV = 2, HD = 8, LD = (H + 2 * KV) * HD, SV = 2 * KV * HD };
    const uint32_t ld = (H + 2 * KV) * hd, sv = 2 * KV * hd;
    slots_scene s;
    slots_open(&s, sv, hd, cache_f32, r);
    float *in = random_floats(r, 5 * ld, 2), q[5 * H * HD];
    cu_prep_args a = {.desc = s.desc,
                      .cache = s.cache,
                      .plane = PLANE,
                      .by_loop = true,
                      .n_heads = H,
                      .n_kv_heads = KV,
                      .head_dim = hd,
                      .in = dev_floats(in, 5 * ld),
                      .ld_in = ld,
                      .rope = dev_floats(s.rope, 41 * hd),
                      .q = dev_act(NULL, 5 * H * hd, f32),
                      .ld_q = H * hd};
    must(cu_gqa_prep(test_stream, &a, 5, f32), "gqa prep");
    host_act(q, a.q, 5 * H * hd, f32);
    double want[4 * SV], bad = 0;
    for (uint32_t i = 0; i < 4; i++) {
        double x[LD];
        for (uint32_t c = 0; c < ld; c++)
            x[c] = (double)in[i * ld + c];
        for (uint32_t c = 0; c < (H + KV) * hd; c += 2) {
            turn(&x[c], &x[c + 1], s.rope + s.rows[i].pos * hd + c % hd);
        }
        for (uint32_t c = 0; c < H * hd; c++)
            bad = fmax(bad, off(x[c], q[i * H * hd + c]));
        memcpy(want + i * sv, x + H * hd, sv * sizeof *x);
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && isnan(q[4 * H * hd]), "gqa prep: query error %g", bad);
    slots_check(&s, want, "gqa prep");
    free(in);
    free(s.rope);
    dev_free_all();
}

static void queries(rng *r, bool f32, uint32_t rot) {
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
    desc_spec d = {.rows = rows, .n_rows = 4};
    float *in = random_floats(r, CAP * ld, 1), *rope = random_floats(r, 10 * rot, 1);
    float nope[CAP * H * NL], q[CAP * H * DK], o[CAP * OL];
    cu_query_args a = {.desc = dev_desc(&d),
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
    must(cu_mla_query(test_stream, &a, CAP, f32), "mla query");
    host_act(nope, a.q_nope, CAP * H * NL, f32);
    host_act(q, a.q, CAP * H * dk, f32);
    host_act(o, a.o, CAP * OL, f32);
    double bad = 0;
    bool rest = true;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t h = 0; h < H; h++) {
            for (uint32_t c = 0; c < NL; c++) {
                double want = c < N ? (double)in[i * ld + h * N + c] : 0;
                bad = fmax(bad, off(want, nope[(i * H + h) * NL + c]));
            }
            for (uint32_t c = 0; c < rot; c += 2) {
                double x0 = (double)in[i * ld + H * N + h * rot + c],
                       x1 = (double)in[i * ld + H * N + h * rot + c + 1];
                turn(&x0, &x1, rope + rows[i].pos * rot + c);
                bad = fmax(bad, fmax(off(x0, q[(i * H + h) * dk + C + c]),
                                     off(x1, q[(i * H + h) * dk + C + c + 1])));
            }
            for (uint32_t c = 0; c < C; c++)
                rest &= isnan(q[(i * H + h) * dk + c]) != 0;
        }
        for (uint32_t c = 0; c < OL; c++)
            rest &= c < OV ? isnan(o[i * OL + c]) != 0 : o[i * OL + c] == 0;
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
    float *x, *part, *down, *lb, *scale, *a, *b, *w, *h, *e, *out, *out_norm, *loop_norm;
    float cum[STATES];
} loop_numbers;

typedef struct {
    double h[WIDE], out[WIDE], cum;
    bool halted;
} loop_twin;

/* How near the decision was: rounding may turn it. */
static double close_call(double value, double threshold) {
    return fabs(value - threshold) / (fabs(threshold) + 1e-30);
}

static void twin_stream(const loop_numbers *n, const ending *k, uint32_t i, double *y) {
    uint32_t dim = n->dim;
    double part[WIDE] = {0};
    for (uint32_t c = 0; c < dim; c++) {
        part[c] = 0;
        for (uint32_t j = 0; j < k->parts; j++)
            part[c] += (double)n->part[(i * k->parts + j) * dim + c];
    }
    memcpy(y, part, dim * sizeof *y);
    if (k->out_norm) twin_rms(part, n->out_norm, dim, y);
    for (uint32_t c = 0; c < dim; c++)
        y[c] += (double)n->x[i * dim + c];
}

static void twin_inject(const loop_numbers *n, const ending *k, const cu_row *r, double *y) {
    double z[16];
    uint32_t dim = n->dim, row = r->loop < LORA_ROWS ? r->loop : LORA_ROWS - 1;
    for (uint32_t j = 0; j < k->rank; j++) {
        z[j] = 0;
        for (uint32_t c = 0; c < dim; c++)
            z[j] += y[c] * (double)n->down[j * dim + c];
        z[j] *= (double)n->scale[row * k->rank + j];
    }
    for (uint32_t c = 0; c < dim; c++) {
        size_t at = (size_t)r->row * dim + c;
        for (uint32_t j = 0; j < k->rank; j++)
            y[c] += z[j] * (double)n->lb[j * dim + c];
        y[c] += (double)n->a[c] * (double)n->h[at] + (double)n->b[c] * (double)n->e[at];
    }
}

/* The rule itself, not rowmath's: 1 - prod(1 - p), |h - old| / |h|, 1 - cos. */
static bool twin_leaves(const loop_numbers *n, const ending *k, const cu_row *r, loop_twin *t) {
    double dot = 0, moved = 0, now = 0, old = 0, product = 0;
    for (uint32_t c = 0; c < n->dim; c++) {
        double was = (double)n->h[(size_t)r->row * n->dim + c], h = t->h[c];
        dot += h * (double)n->w[c];
        moved += (h - was) * (h - was);
        now += h * h;
        old += was * was;
        product += h * was;
    }
    double p = 1 / (1 + exp(-(dot + (double)HALT_BIAS))), cum = (double)n->cum[r->row];
    uint32_t done = r->loop + 1u;
    bool may = done >= r->min_loops, must_go = done >= r->max_loops;
    double threshold = (double)r->threshold;
    t->cum = cum;
    if (k->exit == CU_EXIT_FIXED) return must_go;
    if (k->exit == CU_EXIT_ACT) {
        rm_act_step s =
            rm_act((float)cum, (float)p, r->threshold, done, r->min_loops, r->max_loops);
        for (uint32_t c = 0; k->weighted && c < n->dim; c++)
            t->out[c] += (double)s.weight * t->h[c];
        t->cum = (double)s.cum;
        return s.halted != 0;
    }
    if (k->exit == CU_EXIT_HAZARD) {
        t->cum = 1 - (1 - cum) * (1 - p);
        check(close_call(t->cum, threshold) > 1e-4, "a decision too near to test");
        return (may && threshold < 1 && t->cum >= threshold) || must_go;
    }
    double far = k->exit == CU_EXIT_COSINE ? 1 - product / sqrt(now * old) : sqrt(moved / now);
    check(close_call(far, threshold) > 1e-4, "a decision too near to test");
    return (may && far < threshold) || must_go;
}

static void twin_loop_end(const loop_numbers *n, const ending *k, const cu_row *r, uint32_t i,
                          loop_twin *t) {
    double y[WIDE];
    twin_stream(n, k, i, y);
    if (k->inject) twin_inject(n, k, r, y);
    memcpy(t->h, y, sizeof y);
    if (k->loop_norm) twin_rms(y, n->loop_norm, n->dim, t->h);
    for (uint32_t c = 0; c < n->dim; c++)
        t->out[c] = (double)n->out[(size_t)r->row * n->dim + c];
    t->halted = twin_leaves(n, k, r, t);
    if (t->halted && !k->weighted) memcpy(t->out, t->h, n->dim * sizeof *t->out);
}

static loop_numbers loop_numbers_new(uint32_t dim, const ending *k, rng *r) {
    uint32_t cap = ROWS + 2, rank = k->rank;
    loop_numbers n = {.dim = dim,
                      .x = random_floats(r, cap * dim, 1),
                      .part = random_floats(r, cap * k->parts * dim, 1),
                      .down = random_floats(r, rank * dim + 1, 0.1f),
                      .lb = random_floats(r, rank * dim + 1, 0.1f),
                      .scale = random_floats(r, LORA_ROWS * rank + 1, 1),
                      .a = random_floats(r, dim, 1),
                      .b = random_floats(r, dim, 1),
                      .w = random_floats(r, dim, 0.1f),
                      .h = random_floats(r, STATES * dim, 1),
                      .e = random_floats(r, STATES * dim, 1),
                      .out = random_floats(r, STATES * dim, 1),
                      .out_norm = random_floats(r, dim, 1),
                      .loop_norm = random_floats(r, dim, 1)};
    for (uint32_t i = 0; i < STATES; i++)
        n.cum[i] = (float)(i % 5) * 0.24f;
    return n;
}

static void loop_numbers_free(loop_numbers *n) {
    float *all[] = {n->x, n->part, n->down, n->lb,  n->scale,    n->a,        n->b,
                    n->w, n->h,    n->e,    n->out, n->out_norm, n->loop_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

static void loop_rows(const ending *k, const loop_numbers *n, cu_row *rows) {
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = plain_row(i);
        rows[i].at = 2 * i + 1; /* as if every other row had been left out */
        rows[i].threshold = k->threshold;
        rows[i].min_loops = i % 3 == 0 ? 4 : 1;
        if (i == 5) rows[i].max_loops = 1;
        rows[i].flags = (uint16_t)(k->flags ? k->flags : i == 2 ? CU_ROW_TAIL : i == 4 ? 3 : 0);
        /* Row 1's state hardly moves: it leaves by its distance, if that is the rule. */
        size_t at = (size_t)rows[i].row * n->dim;
        double y[WIDE], h[WIDE];
        if (i != 1 || !k->loop_norm) continue;
        twin_stream(n, k, i, y);
        twin_rms(y, n->loop_norm, n->dim, h);
        for (uint32_t c = 0; c < n->dim; c++)
            n->h[at + c] = (float)(h[c] * (c & 1 ? 1.01 : 0.99));
    }
}

static void loop_ends(rng *r, uint32_t dim, const ending *k) {
    uint32_t cap = ROWS + 2;
    cu_row rows[ROWS];
    loop_numbers n = loop_numbers_new(dim, k, r);
    loop_rows(k, &n, rows);
    uint8_t none[2 * ROWS] = {0}, was[STATES] = {0};
    was[rows[0].row] = 9; /* loop_end never takes a flag back */
    desc_spec d = {.rows = rows, .n_rows = ROWS, .halted = dev_bytes(none, sizeof none)};
    float *sums = dev_poison(cap * cu_loop_sums(dim, k->rank) * sizeof *sums);
    cu_loop_end_args a = {.desc = dev_desc(&d),
                          .dim = dim,
                          .n_parts = k->parts,
                          .norm_eps = EPS,
                          .x = dev_floats(n.x, cap * dim),
                          .parts = dev_floats(n.part, cap * k->parts * dim),
                          .out_norm = k->out_norm ? dev_floats(n.out_norm, dim) : NULL,
                          .inject = k->inject,
                          .lora_rank = k->rank,
                          .lora_rows = LORA_ROWS,
                          .lora_down = dev_floats(n.down, k->rank * dim + 1),
                          .lora_b = dev_floats(n.lb, k->rank * dim + 1),
                          .lora_scale = dev_floats(n.scale, LORA_ROWS * k->rank + 1),
                          .inj_a = k->inject ? dev_floats(n.a, dim) : NULL,
                          .inj_b = k->inject ? dev_floats(n.b, dim) : NULL,
                          .sums = sums,
                          .loop_norm = k->loop_norm ? dev_floats(n.loop_norm, dim) : NULL,
                          .exit = k->exit,
                          .halt_w = k->exit <= CU_EXIT_HAZARD ? dev_floats(n.w, dim) : NULL,
                          .halt_bias = HALT_BIAS,
                          .weighted = k->weighted};
    a.state = (cu_state){
        dev_floats(n.h, STATES * dim), k->inject ? dev_floats(n.e, STATES * dim) : NULL,
        dev_floats(n.out, STATES * dim), dev_floats(n.cum, STATES), dev_bytes(was, STATES)};
    if (k->rank && a.halt_w) {
        float *gate = dev_poison(k->rank * sizeof *gate);
        must(cu_loop_gate(test_stream, a.lora_b, a.halt_w, dim, k->rank, gate), "loop gate");
        a.lora_gate = gate;
    }
    if (a.inject) must(cu_loop_mix(test_stream, &a, cap), "mixing");
    if (a.inject) must(cu_loop_leave(test_stream, &a, cap), "leaving");
    if (cu_loop_by_row(&a)) must(cu_loop_row(test_stream, &a, cap), "a row");
    float *h = malloc(STATES * dim * 4), *out = malloc(STATES * dim * 4), cum[STATES];
    uint8_t halted[2 * ROWS], kept[STATES];
    host_act(h, a.state.h, STATES * dim, true);
    host_act(out, a.state.out, STATES * dim, true);
    host_act(cum, a.state.cum, STATES, true);
    host_bytes(halted, d.halted, sizeof halted);
    host_bytes(kept, a.state.halted, STATES);
    double bad = 0;
    bool right = true;
    static loop_twin t;
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t row = rows[i].row, f = rows[i].flags;
        twin_loop_end(&n, k, &rows[i], i, &t);
        for (uint32_t c = 0; c < dim; c++) {
            size_t at = (size_t)row * dim + c;
            bad = fmax(bad, off(f & CU_ROW_KV_ONLY ? (double)n.h[at] : t.h[c], h[at]));
            bad = fmax(bad, off(f ? (double)n.out[at] : t.out[c], out[at]));
        }
        uint8_t leaves = f ? 0 : t.halted;
        right &= halted[2 * i] == 0 && halted[2 * i + 1] == leaves;
        right &= kept[row] == (leaves ? 1 : was[row]);
        bad = fmax(bad, off(f ? (double)n.cum[row] : t.cum, cum[row]));
    }
    check(bad < 2e-5, "loop end, dim %u, exit %d, flags %u: error %g", dim, k->exit, k->flags, bad);
    check(right, "loop end, dim %u, exit %d, flags %u: a halting flag is wrong", dim, k->exit,
          k->flags);
    loop_numbers_free(&n);
    free(h);
    free(out);
    dev_free_all();
}

static void all_loop_ends(rng *r) {
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
            loop_ends(r, dims[k], &endings[i]);
    }
}

static void all_rows(rng *r) {
    row_steps(r);
    for (int k = 0; k < 4; k++) {
        mla_slots(r, k & 1, k >> 1, 32);
        mla_slots(r, k & 1, k >> 1, 30);
        for (uint32_t width = 6; width <= 8; width += 2) { /* in pairs, and in fours */
            gqa_slots(r, k & 1, k >> 1, width);
            queries(r, k & 1, width);
        }
    }
    all_loop_ends(r);
}

/* Threads in several orders: a missing barrier gives wrong sums. */
void test_rows(void) {
    rng r = {3};
    all_rows(&r);
#ifdef FATHOM_CUDA_SHIM
    for (unsigned order = 1; order < 100; order += 76) {
        shim_set_order(order);
        all_rows(&r);
    }
    shim_set_order(0);
#endif
}
