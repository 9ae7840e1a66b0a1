/* test_moe.c - routing, sorting and the grouped products against plain twins: ties, experts without
 * rows, inactive rows, no active row at all. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t rows, experts, top_k, shared_groups, parts; /* parts >= top_k + shared_groups */
    uint32_t idle; /* of 4 rows, how many only write K/V; 4: all */
    bool ties;
} mix;

typedef struct {
    mix m;
    cu_row *rows;
    float *logits, *bias, *weight;
    uint32_t *pick;
    void *desc;
    cu_moe moe;
} routed;

/* The twin of the router: sorts by biased logit, ties to the lower index. */
static void twin_route(const routed *t, uint32_t row, uint32_t *pick, float *weight) {
    const float *l = t->logits + (size_t)row * t->m.experts;
    bool taken[CU_MAX_EXPERTS] = {false};
    double top = -INFINITY, sum = 0;
    for (uint32_t k = 0; k < t->m.top_k; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < t->m.experts; e++) {
            if (!taken[e] && (best == UINT32_MAX || l[e] + t->bias[e] > l[best] + t->bias[best]))
                best = e;
        }
        taken[best] = true;
        pick[k] = best;
        if (l[best] > top) top = l[best];
    }
    for (uint32_t k = 0; k < t->m.top_k; k++)
        sum += exp((double)l[pick[k]] - top);
    for (uint32_t k = 0; k < t->m.top_k; k++)
        weight[k] = (float)(exp((double)l[pick[k]] - top) / sum);
}

/* together: routing and grouping by one kernel. */
static void route(routed *t, const mix *m, bool together, rng *r) {
    *t = (routed){.m = *m};
    t->rows = calloc(m->rows + 1, sizeof *t->rows);
    for (uint32_t i = 0; i < m->rows; i++)
        t->rows[i].flags = i % 4 < m->idle ? CU_ROW_KV_ONLY : 0;
    t->logits = random_floats(r, (size_t)m->rows * m->experts + 1, 4.0f);
    t->bias = random_floats(r, m->experts, 0.5f);
    if (m->ties) {
        for (size_t i = 0; i < (size_t)m->rows * m->experts; i++)
            t->logits[i] = rintf(t->logits[i]);
        memset(t->bias, 0, m->experts * sizeof *t->bias);
    }
    desc_spec d = {.rows = t->rows, .n_rows = m->rows};
    t->desc = dev_desc(&d);
    uint32_t max_tiles = m->rows * m->parts / CU_TILE_ROWS + m->experts + m->shared_groups;
    t->moe = (cu_moe){.n_experts = m->experts,
                      .top_k = m->top_k,
                      .n_shared_groups = m->shared_groups,
                      .parts_per_row = m->parts,
                      .max_tiles = max_tiles,
                      .pick = dev_poison((size_t)m->rows * m->top_k * 4),
                      .weight = dev_poison((size_t)m->rows * m->top_k * 4),
                      .order = dev_poison((size_t)m->rows * m->parts * 4),
                      .tiles = dev_poison(max_tiles * sizeof(cu_moe_tile)),
                      .n_tiles = dev_poison(4)};
    cu_route_args a = {.desc = t->desc,
                       .logits = dev_floats(t->logits, (size_t)m->rows * m->experts + 1),
                       .bias = dev_floats(t->bias, m->experts),
                       .moe = t->moe};
    if (together) {
        must(cu_moe_assign(test_stream, &a, m->rows + 6), "assign");
    } else {
        must(cu_moe_route(test_stream, &a, m->rows + 6), "route");
        must(cu_moe_group(test_stream, &a), "group");
    }
    t->pick = calloc((size_t)m->rows * m->top_k + 1, 4);
    t->weight = calloc((size_t)m->rows * m->top_k + 1, 4);
    host_bytes(t->pick, t->moe.pick, (size_t)m->rows * m->top_k * 4);
    host_bytes(t->weight, t->moe.weight, (size_t)m->rows * m->top_k * 4);
}

static void routed_free(routed *t) {
    free(t->rows);
    free(t->logits);
    free(t->bias);
    free(t->pick);
    free(t->weight);
    dev_free_all();
}

static void check_routes(const routed *t) {
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < t->m.rows; i++) {
        uint32_t pick[64];
        float weight[64];
        twin_route(t, i, pick, weight);
        wrong += memcmp(pick, t->pick + i * t->m.top_k, t->m.top_k * 4) != 0;
        for (uint32_t k = 0; k < t->m.top_k; k++)
            wrong += !(fabsf(weight[k] - t->weight[i * t->m.top_k + k]) < 1e-5f);
    }
    check(wrong == 0, "routes of %u rows, %u experts: %u differ", t->m.rows, t->m.experts, wrong);
}

/* The group of a part, or UINT32_MAX. */
static uint32_t group_of(const routed *t, uint32_t part) {
    uint32_t row = part / t->m.parts, k = part % t->m.parts;
    if (t->rows[row].flags & CU_ROW_KV_ONLY) return UINT32_MAX;
    if (k < t->m.top_k) return t->pick[row * t->m.top_k + k];
    return k < t->m.top_k + t->m.shared_groups ? t->m.experts + k - t->m.top_k : UINT32_MAX;
}

/* Every active part stands in exactly one tile of its group. */
static void check_groups(const routed *t) {
    uint32_t n_tiles = 0, parts = t->m.rows * t->m.parts, bad = 0;
    host_bytes(&n_tiles, t->moe.n_tiles, 4);
    if (!check(n_tiles <= t->moe.max_tiles, "%u tiles", n_tiles)) return;
    cu_moe_tile *tiles = calloc(t->moe.max_tiles + 1, sizeof *tiles);
    uint32_t *order = calloc(parts + 1, 4), *seen = calloc(parts + 1, 4);
    host_bytes(tiles, t->moe.tiles, n_tiles * sizeof *tiles);
    host_bytes(order, t->moe.order, parts * 4);
    for (uint32_t i = 0; i < n_tiles; i++) {
        bad += tiles[i].n == 0 || tiles[i].n > CU_TILE_ROWS || tiles[i].first + tiles[i].n > parts;
        for (uint32_t k = 0; bad == 0 && k < tiles[i].n; k++) {
            uint32_t part = order[tiles[i].first + k];
            bad += part >= parts || group_of(t, part) != tiles[i].group;
            if (part < parts) seen[part]++;
        }
    }
    for (uint32_t p = 0; p < parts; p++)
        bad += seen[p] != (group_of(t, p) != UINT32_MAX);
    check(bad == 0, "groups of %u rows, %u experts, idle %u: %u wrong", t->m.rows, t->m.experts,
          t->m.idle, bad);
    free(tiles);
    free(order);
    free(seen);
}

static double dot(const float *a, const float *b, uint32_t n) {
    double s = 0;
    for (uint32_t i = 0; i < n; i++)
        s += (double)a[i] * (double)b[i];
    return s;
}

/* Both grouped products: into the experts with SILU, and out of them, weighed. */
static void check_products(const routed *t, bool f32, rng *r) {
    enum { D = 64, H = 32 };
    const mix *m = &t->m;
    uint32_t groups = m->experts + m->shared_groups, parts = m->rows * m->parts;
    size_t in_values = (size_t)groups * 2 * H * D, out_values = (size_t)groups * D * H;
    float *x = random_floats(r, (size_t)(m->rows + 1) * D, 1.0f),
          *wi = random_floats(r, in_values, 0.3f);
    float *wo = random_floats(r, out_values, 0.3f), *h = calloc((size_t)parts * H + 1, 4);
    float *y = calloc((size_t)parts * D + 1, 4);
    void *dh = dev_act(NULL, (size_t)parts * H + 1, f32),
         *dy = dev_poison(((size_t)parts * D + 1) * 4);
    size_t size = f32 ? 4 : 2;
    char *dwi = dev_act(wi, in_values, f32), *dwo = dev_act(wo, out_values, f32);
    cu_mm_args in = {.desc = t->desc,
                     .map = CU_MAP_IN,
                     .store = CU_STORE_SILU,
                     .w = dwi,
                     .w_shared = dwi + (size_t)m->experts * 2 * H * D * size,
                     .w_group = 2 * H * D,
                     .w_shared_group = 2 * H * D,
                     .ldw = D,
                     .ldw_shared = D,
                     .x = dev_act(x, (size_t)(m->rows + 1) * D, f32),
                     .ldx = D,
                     .y = dh,
                     .ldy = H,
                     .n = 2 * H,
                     .k = D,
                     .moe = t->moe};
    cu_mm_args out = {.desc = t->desc,
                      .map = CU_MAP_OUT,
                      .store = CU_STORE_F32,
                      .w = dwo,
                      .w_shared = dwo + (size_t)m->experts * D * H * size,
                      .w_group = D * H,
                      .w_shared_group = D * H,
                      .ldw = H,
                      .ldw_shared = H,
                      .x = dh,
                      .ldx = H,
                      .y = dy,
                      .ldy = D,
                      .n = D,
                      .k = H,
                      .moe = t->moe};
    must(cu_mm(test_stream, &in, m->rows + 2, 7, f32), "experts in");
    must(cu_mm(test_stream, &out, m->rows + 2, 7, f32), "experts out");
    host_act(h, dh, (size_t)parts * H, f32);
    host_act(y, dy, (size_t)parts * D, true);
    double bad_h = 0, bad_y = 0;
    bool touched = false;
    for (uint32_t p = 0; p < parts; p++) {
        uint32_t g = group_of(t, p), row = p / m->parts, k = p % m->parts;
        for (uint32_t i = 0; i < H; i++) {
            if (g == UINT32_MAX) touched |= !isnan(h[p * H + i]);
            if (g == UINT32_MAX) continue;
            const float *w = wi + ((size_t)g * 2 * H + i / 8 * 16 + i % 8) * D;
            double gate = dot(w, x + (size_t)row * D, D),
                   up = dot(w + 8 * D, x + (size_t)row * D, D);
            double want = gate / (1 + exp(-gate)) * up;
            bad_h = fmax(bad_h, fabs(want - (double)h[p * H + i]) / (fabs(want) + 0.2));
            if (isnan(h[p * H + i])) bad_h = INFINITY;
        }
        double weight = k < m->top_k ? (double)t->weight[row * m->top_k + k] : 1.0;
        for (uint32_t i = 0; i < D; i++) {
            if (g == UINT32_MAX) touched |= !isnan(y[p * D + i]);
            if (g == UINT32_MAX) continue;
            double want = weight * dot(wo + ((size_t)g * D + i) * H, h + (size_t)p * H, H);
            bad_y = fmax(bad_y, fabs(want - (double)y[p * D + i]) / (fabs(want) + 0.1));
            if (isnan(y[p * D + i])) bad_y = INFINITY;
        }
    }
    check(bad_h < (f32 ? 1e-4 : 1e-2) && bad_y < 1e-4,
          "experts %s, %u rows of %u: errors %g and %g", f32 ? "f32" : "bf16", m->rows, m->experts,
          bad_h, bad_y);
    check(!touched, "experts, %u rows: wrote a part nobody takes", m->rows);
    free(x);
    free(wi);
    free(wo);
    free(h);
    free(y);
}

void test_moe(void) {
    static const mix mixes[] = {
        {1, 4, 2, 2, 4, 0, false},     {5, 4, 2, 2, 4, 0, true},       {33, 8, 3, 3, 6, 1, false},
        {64, 64, 4, 8, 12, 0, false},  {65, 2, 1, 1, 2, 0, false},     {130, 4, 2, 0, 3, 2, true},
        {17, 4, 2, 2, 4, 4, false},    {0, 4, 2, 2, 4, 0, false},      {9, 72, 6, 0, 7, 3, true},
        {70, 1, 1, 1, 2, 0, false},    {3, 1000, 8, 16, 24, 0, false}, {2, 200, 40, 3, 43, 0, true},
        {700, 70, 6, 8, 14, 1, false},
    };
    rng r = {5};
    for (size_t i = 0; i < ARRAY_LEN(mixes); i++) {
        for (unsigned pass = 0; pass < (on_shim ? 4u : 2u); pass++) {
#ifdef FATHOM_CUDA_SHIM
            shim_set_order(pass > 1 ? 31 : 0);
#endif
            bool multiply = pass == 0 || pass == 3;
            routed t;
            route(&t, &mixes[i], pass & 1 && mixes[i].experts <= CU_ASSIGN_EXPERTS, &r);
            check_routes(&t);
            check_groups(&t);
            if (multiply && mixes[i].experts <= 72) check_products(&t, i & 1, &r);
            if (multiply && mixes[i].experts <= 8) check_products(&t, !(i & 1), &r);
            routed_free(&t);
        }
    }
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(0);
#endif
}
