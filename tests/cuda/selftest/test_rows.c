/* test_rows.c - the row kernels against plain twins: entering and leaving stages, cache slots,
 * edits of the maps in order, the end of a loop for running rows, tails and K/V-only rows. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-3f /* far from any default, so that a kernel which ignores it is found out */

enum { ROWS = 7, STATES = 11, VOCAB = 13, LOOPS = 5 };

static const uint32_t dims[] = {32, 40, 100, 2048};

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
    float *h, *e, *out, *x, *delta, *embed, *norm, *loop_norm, *loop_emb;
} numbers;

static numbers numbers_new(uint32_t dim, bool f32, rng *r) {
    uint32_t ld = cu_round(dim, 32);
    return (numbers){.dim = dim,
                     .ld = ld,
                     .width = dim / 8 / 2 * 2,
                     .f32 = f32,
                     .h = random_floats(r, STATES * dim, 2),
                     .e = random_floats(r, STATES * dim, 1),
                     .out = random_floats(r, STATES * dim, 3),
                     .x = random_floats(r, (ROWS + 1) * dim, 1),
                     .delta = random_floats(r, (ROWS + 1) * dim, 1),
                     .embed = random_floats(r, VOCAB * ld, 1),
                     .norm = random_floats(r, dim, 1),
                     .loop_norm = random_floats(r, dim, 1),
                     .loop_emb = random_floats(r, LOOPS * (dim / 8) + 1, 1)};
}

static void numbers_free(numbers *n) {
    float *all[] = {n->h,     n->e,    n->out,       n->x,       n->delta,
                    n->embed, n->norm, n->loop_norm, n->loop_emb};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* The value a row enters with. */
static void twin_enter(const numbers *n, cu_row_from from, const cu_row *r, uint32_t i, double *x) {
    double tmp[2048];
    for (uint32_t c = 0; c < n->dim; c++) {
        size_t at = (size_t)r->row * n->dim + c, here = (size_t)i * n->dim + c;
        x[c] = from == CU_FROM_TOKEN ? (double)n->embed[(size_t)r->token * n->ld + c]
               : from == CU_FROM_OUT ? (double)n->out[at]
               : from == CU_FROM_X   ? (double)n->x[here] + (double)n->delta[here]
                                     : (double)n->h[at] + (double)n->e[at];
        if (from == CU_FROM_LOOP && c < n->width)
            x[c] += (double)n->loop_emb[r->loop * n->width + c];
    }
    if (from != CU_FROM_LOOP) return;
    memcpy(tmp, x, n->dim * sizeof *x);
    twin_rms(tmp, n->loop_norm, n->dim, x);
}

static double off(double want, float got) {
    double d = fabs(want - (double)got) / (fabs(want) + 0.1);
    return d <= 1e30 ? d : INFINITY;
}

static void step(const numbers *n, cu_row_from from, cu_row_to to) {
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
                     .x = dev_floats(n->x, (size_t)cap * dim),
                     .delta = dev_floats(n->delta, (size_t)cap * dim),
                     .embed = dev_act(n->embed, VOCAB * n->ld, n->f32),
                     .norm = dev_floats(n->norm, dim),
                     .loop_norm = dev_floats(n->loop_norm, dim),
                     .loop_emb = dev_floats(n->loop_emb, LOOPS * (dim / 8) + 1),
                     .act = dev_act(NULL, (size_t)cap * n->ld, n->f32)};
    a.state =
        (cu_state){dev_floats(n->h, STATES * dim), dev_floats(n->e, STATES * dim),
                   dev_floats(n->out, STATES * dim), dev_poison(STATES * 4), dev_poison(STATES)};
    must(cu_row_step(test_stream, &a, cap, n->f32), "row step");
    host_act(act, a.act, (size_t)cap * n->ld, n->f32);
    host_act(x, a.x, (size_t)cap * dim, true);
    host_act(h, a.state.h, STATES * dim, true);
    host_act(e, a.state.e, STATES * dim, true);
    host_act(out, a.state.out, STATES * dim, true);
    host_act(cum, a.state.cum, STATES, true);
    host_bytes(halted, a.state.halted, STATES);
    double bad = 0, in[2048], normed[2048];
    bool same = true, state_written[STATES] = {false};
    for (uint32_t i = 0; i < ROWS; i++) {
        const cu_row *r = &rows[i];
        twin_enter(n, from, r, i, in);
        twin_rms(in, n->norm, dim, normed);
        uint32_t at = to == CU_TO_HEAD ? r->logits : i;
        for (uint32_t c = 0; c < dim; c++) {
            size_t s = (size_t)r->row * dim + c;
            if (to == CU_TO_STATE) {
                bad = fmax(bad, fmax(off(in[c], h[s]), off(in[c], e[s])));
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
            for (int from = 0; from < 4; from++) {
                for (int to = 0; to < 3; to++)
                    step(&n, (cu_row_from)from, (cu_row_to)to);
            }
            numbers_free(&n);
        }
    }
}

/* ---- cache slots ---- */

typedef struct {
    uint32_t maps[2][3][32], table[2];
    cu_row rows[4];
    cu_cache cache;
    void *desc;
    uint32_t *bad;
    float *rope;
    uint32_t rot;
} slots_scene;

enum { N_SLOTS = 20, PLANE = 1 };

static void slots_open(slots_scene *s, uint32_t slot_values, uint32_t rot, bool f32, rng *r) {
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
    s->cache = (cu_cache){.slots = dev_act(NULL, N_SLOTS * slot_values, f32),
                          .maps = dev_bytes(s->maps, sizeof s->maps),
                          .n_slots = N_SLOTS,
                          .n_blocks = 2,
                          .n_planes = 3,
                          .slot_values = slot_values,
                          .f32 = f32};
    s->rot = rot;
    s->rope = random_floats(r, 41 * rot, 1);
}

/* Slots 3 + 4i hold what `want` says; no other was touched. */
static void slots_check(const slots_scene *s, const double *want, const char *what) {
    uint32_t n = s->cache.slot_values, flag;
    float *got = malloc(N_SLOTS * n * 4);
    host_act(got, s->cache.slots, N_SLOTS * n, s->cache.f32);
    double bad = 0;
    bool touched = false;
    for (uint32_t k = 0; k < N_SLOTS; k++) {
        bool ours = k % 4 == 3 && k < 16;
        for (uint32_t c = 0; c < n; c++) {
            if (ours) bad = fmax(bad, off(want[(k / 4) * n + c], got[k * n + c]));
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

static void mla_slots(rng *r, bool f32, bool cache_f32) {
    enum { Q = 48, C = 32, R = 8, LD = Q + C + R, LDQ = 64, SV = C + R };
    slots_scene s;
    slots_open(&s, SV, R, cache_f32, r);
    float *in = random_floats(r, 5 * LD, 2), *qn = random_floats(r, Q, 1),
          *kn = random_floats(r, C, 1);
    cu_prep_args a = {.desc = s.desc,
                      .cache = s.cache,
                      .plane = PLANE,
                      .by_loop = true,
                      .q_lora = Q,
                      .kv_lora = C,
                      .rope_dim = R,
                      .in = dev_floats(in, 5 * LD),
                      .ld_in = LD,
                      .q_norm = dev_floats(qn, Q),
                      .kv_norm = dev_floats(kn, C),
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
            x[c] = (double)in[i * LD + c];
        twin_rms(x, qn, Q, y);
        for (uint32_t c = 0; c < LDQ; c++) {
            if (c < Q) bad = fmax(bad, off(y[c], q[i * LDQ + c]));
            else pads &= q[i * LDQ + c] == 0;
        }
        for (uint32_t c = 0; c < SV; c++)
            x[c] = (double)in[i * LD + Q + c];
        twin_rms(x, kn, C, want + i * SV);
        for (uint32_t c = 0; c < R; c += 2) {
            turn(&x[C + c], &x[C + c + 1], s.rope + s.rows[i].pos * R + c);
            want[i * SV + C + c] = x[C + c];
            want[i * SV + C + c + 1] = x[C + c + 1];
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

static void gqa_slots(rng *r, bool f32, bool cache_f32) {
    enum { H = 4, KV = 2, HD = 6, LD = (H + 2 * KV) * HD, SV = 2 * KV * HD };
    slots_scene s;
    slots_open(&s, SV, HD, cache_f32, r);
    float *in = random_floats(r, 5 * LD, 2), q[5 * H * HD];
    cu_prep_args a = {.desc = s.desc,
                      .cache = s.cache,
                      .plane = PLANE,
                      .by_loop = true,
                      .n_heads = H,
                      .n_kv_heads = KV,
                      .head_dim = HD,
                      .in = dev_floats(in, 5 * LD),
                      .ld_in = LD,
                      .rope = dev_floats(s.rope, 41 * HD),
                      .q = dev_act(NULL, 5 * H * HD, f32),
                      .ld_q = H * HD};
    must(cu_gqa_prep(test_stream, &a, 5, f32), "gqa prep");
    host_act(q, a.q, 5 * H * HD, f32);
    double want[4 * SV], bad = 0;
    for (uint32_t i = 0; i < 4; i++) {
        double x[LD];
        for (uint32_t c = 0; c < LD; c++)
            x[c] = (double)in[i * LD + c];
        for (uint32_t c = 0; c < (H + KV) * HD; c += 2) {
            turn(&x[c], &x[c + 1], s.rope + s.rows[i].pos * HD + c % HD);
        }
        for (uint32_t c = 0; c < H * HD; c++)
            bad = fmax(bad, off(x[c], q[i * H * HD + c]));
        memcpy(want + i * SV, x + H * HD, SV * sizeof *x);
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && isnan(q[4 * H * HD]), "gqa prep: query error %g", bad);
    slots_check(&s, want, "gqa prep");
    free(in);
    free(s.rope);
    dev_free_all();
}

static void queries(rng *r, bool f32) {
    enum {
        H = 3,
        N = 20,
        NL = 32,
        R = 6,
        C = 16,
        LD = H * (N + R),
        DK = C + R,
        OV = 10,
        OL = 32,
        CAP = 5
    };
    cu_row rows[4];
    for (uint32_t i = 0; i < 4; i++)
        rows[i] = (cu_row){.pos = i * 3};
    desc_spec d = {.rows = rows, .n_rows = 4};
    float *in = random_floats(r, CAP * LD, 1), *rope = random_floats(r, 10 * R, 1);
    float nope[CAP * H * NL], q[CAP * H * DK], o[CAP * OL];
    cu_query_args a = {.desc = dev_desc(&d),
                       .n_heads = H,
                       .nope = N,
                       .nope_ld = NL,
                       .rope_dim = R,
                       .kv_lora = C,
                       .in = dev_floats(in, CAP * LD),
                       .ld_in = LD,
                       .rope = dev_floats(rope, 10 * R),
                       .q_nope = dev_act(NULL, CAP * H * NL, f32),
                       .q = dev_act(NULL, CAP * H * DK, f32),
                       .o = dev_act(NULL, CAP * OL, f32),
                       .o_values = OV,
                       .o_ld = OL};
    must(cu_mla_query(test_stream, &a, CAP, f32), "mla query");
    host_act(nope, a.q_nope, CAP * H * NL, f32);
    host_act(q, a.q, CAP * H * DK, f32);
    host_act(o, a.o, CAP * OL, f32);
    double bad = 0;
    bool rest = true;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t h = 0; h < H; h++) {
            for (uint32_t c = 0; c < NL; c++) {
                double want = c < N ? (double)in[i * LD + h * N + c] : 0;
                bad = fmax(bad, off(want, nope[(i * H + h) * NL + c]));
            }
            for (uint32_t c = 0; c < R; c += 2) {
                double x0 = (double)in[i * LD + H * N + h * R + c],
                       x1 = (double)in[i * LD + H * N + h * R + c + 1];
                turn(&x0, &x1, rope + rows[i].pos * R + c);
                bad = fmax(bad, fmax(off(x0, q[(i * H + h) * DK + C + c]),
                                     off(x1, q[(i * H + h) * DK + C + c + 1])));
            }
            for (uint32_t c = 0; c < C; c++)
                rest &= isnan(q[(i * H + h) * DK + c]) != 0;
        }
        for (uint32_t c = 0; c < OL; c++)
            rest &= c < OV ? isnan(o[i * OL + c]) != 0 : o[i * OL + c] == 0;
    }
    check(bad < (f32 ? 1e-5 : 8e-3) && rest, "mla query: error %g", bad);
    free(in);
    free(rope);
    dev_free_all();
}

/* ---- edits ---- */

/* ---- the end of a loop ---- */

typedef struct {
    uint32_t dim, rank, parts, lora_rows;
    float *x, *part, *down, *lb, *scale, *a, *b, *w, *h, *e, *out, cum[STATES];
} loop_numbers;

static void twin_loop_end(const loop_numbers *n, const cu_row *r, uint32_t i, double *h,
                          double *out, rm_act_step *s) {
    double y[2048], z[16], dot = 0;
    for (uint32_t c = 0; c < n->dim; c++) {
        y[c] = (double)n->x[i * n->dim + c];
        for (uint32_t k = 0; k < n->parts; k++)
            y[c] += (double)n->part[(i * n->parts + k) * n->dim + c];
    }
    uint32_t row = r->loop < n->lora_rows ? r->loop : n->lora_rows - 1;
    for (uint32_t k = 0; k < n->rank; k++) {
        z[k] = 0;
        for (uint32_t c = 0; c < n->dim; c++)
            z[k] += y[c] * (double)n->down[k * n->dim + c];
        z[k] *= (double)n->scale[row * n->rank + k];
    }
    for (uint32_t c = 0; c < n->dim; c++) {
        for (uint32_t k = 0; k < n->rank; k++)
            y[c] += z[k] * (double)n->lb[k * n->dim + c];
        size_t at = (size_t)r->row * n->dim + c;
        h[c] = (double)n->a[c] * (double)n->h[at] + (double)n->b[c] * (double)n->e[at] + y[c];
        dot += h[c] * (double)n->w[c];
    }
    float p = (float)(1 / (1 + exp(-(dot + 0.25))));
    *s = rm_act(n->cum[r->row], p, r->threshold, r->loop + 1u, r->min_loops, r->max_loops);
    for (uint32_t c = 0; c < n->dim; c++)
        out[c] = (double)n->out[(size_t)r->row * n->dim + c] + (double)s->weight * h[c];
}

static void loop_ends(rng *r, uint32_t dim, uint32_t rank, uint32_t parts, uint32_t flags) {
    uint32_t lora_rows = 3, cap = ROWS + 2;
    cu_row rows[ROWS];
    loop_numbers n = {.dim = dim,
                      .rank = rank,
                      .parts = parts,
                      .lora_rows = lora_rows,
                      .x = random_floats(r, cap * dim, 1),
                      .part = random_floats(r, cap * parts * dim, 1),
                      .down = random_floats(r, rank * dim + 1, 0.1f),
                      .lb = random_floats(r, rank * dim + 1, 0.1f),
                      .scale = random_floats(r, lora_rows * rank + 1, 1),
                      .a = random_floats(r, dim, 1),
                      .b = random_floats(r, dim, 1),
                      .w = random_floats(r, dim, 0.1f),
                      .h = random_floats(r, STATES * dim, 1),
                      .e = random_floats(r, STATES * dim, 1),
                      .out = random_floats(r, STATES * dim, 1)};
    for (uint32_t i = 0; i < STATES; i++)
        n.cum[i] = (float)(i % 5) * 0.24f;
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = plain_row(i);
        rows[i].at = 2 * i + 1; /* as if every other row had been left out */
        rows[i].threshold = 0.9f;
        rows[i].min_loops = i % 3 == 0 ? 4 : 1;
        if (i == 5) rows[i].max_loops = 1;
        rows[i].flags = (uint16_t)(flags ? flags : i == 2 ? CU_ROW_TAIL : i == 4 ? 3 : 0);
    }
    uint8_t none[2 * ROWS] = {0}, was[STATES] = {0};
    was[rows[0].row] = 9; /* loop_end never takes a flag back */
    desc_spec d = {.rows = rows, .n_rows = ROWS, .halted = dev_bytes(none, sizeof none)};
    cu_loop_end_args a = {.desc = dev_desc(&d),
                          .dim = dim,
                          .lora_rank = rank,
                          .lora_rows = lora_rows,
                          .n_parts = parts,
                          .x = dev_floats(n.x, cap * dim),
                          .parts = dev_floats(n.part, cap * parts * dim),
                          .lora_down = dev_floats(n.down, rank * dim + 1),
                          .lora_b = dev_floats(n.lb, rank * dim + 1),
                          .lora_scale = dev_floats(n.scale, lora_rows * rank + 1),
                          .inj_a = dev_floats(n.a, dim),
                          .inj_b = dev_floats(n.b, dim),
                          .halt_w = dev_floats(n.w, dim),
                          .halt_bias = 0.25f};
    a.state = (cu_state){dev_floats(n.h, STATES * dim), dev_floats(n.e, STATES * dim),
                         dev_floats(n.out, STATES * dim), dev_floats(n.cum, STATES),
                         dev_bytes(was, STATES)};
    must(cu_loop_end(test_stream, &a, cap), "loop end");
    float *h = malloc(STATES * dim * 4), *out = malloc(STATES * dim * 4), cum[STATES];
    uint8_t halted[2 * ROWS], kept[STATES];
    host_act(h, a.state.h, STATES * dim, true);
    host_act(out, a.state.out, STATES * dim, true);
    host_act(cum, a.state.cum, STATES, true);
    host_bytes(halted, d.halted, sizeof halted);
    host_bytes(kept, a.state.halted, STATES);
    double bad = 0, wh[2048], wo[2048];
    bool right = true;
    for (uint32_t i = 0; i < ROWS; i++) {
        rm_act_step s;
        uint32_t row = rows[i].row, f = rows[i].flags;
        twin_loop_end(&n, &rows[i], i, wh, wo, &s);
        for (uint32_t c = 0; c < dim; c++) {
            size_t at = (size_t)row * dim + c;
            bad = fmax(bad, off(f & CU_ROW_KV_ONLY ? (double)n.h[at] : wh[c], h[at]));
            bad = fmax(bad, off(f ? (double)n.out[at] : wo[c], out[at]));
        }
        uint8_t leaves = f ? 0 : (uint8_t)s.halted;
        right &= halted[2 * i] == 0 && halted[2 * i + 1] == leaves;
        right &= kept[row] == (leaves ? 1 : was[row]);
        bad = fmax(bad, off((double)(f ? n.cum[row] : s.cum), cum[row]));
    }
    check(bad < 2e-5, "loop end, dim %u, rank %u, flags %u: error %g", dim, rank, flags, bad);
    check(right, "loop end, dim %u, flags %u: a halting flag is wrong", dim, flags);
    float *all[] = {n.x, n.part, n.down, n.lb, n.scale, n.a, n.b, n.w, n.h, n.e, n.out, h, out};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
    dev_free_all();
}

void test_rows(void) {
    rng r = {3};
    row_steps(&r);
    for (int k = 0; k < 4; k++) {
        mla_slots(&r, k & 1, k >> 1);
        gqa_slots(&r, k & 1, k >> 1);
        queries(&r, k & 1);
    }
    for (size_t k = 0; k < ARRAY_LEN(dims); k++) {
        loop_ends(&r, dims[k], 4, 3, 0);
        loop_ends(&r, dims[k], 0, 1, 0);
        loop_ends(&r, dims[k], 7, 12, CU_ROW_TAIL);
        loop_ends(&r, dims[k], 7, 2, CU_ROW_TAIL | CU_ROW_KV_ONLY);
    }
}
