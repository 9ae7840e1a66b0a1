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
} moe_mix;

typedef struct {
    moe_mix mix;
    cu_row *rows;
    float *logits, *bias, *weight;
    uint32_t *pick;
    void *desc;
    cu_moe moe;
} moe_routes;

/* The twin of the router: sorts by biased logit, ties to the lower index. */
static void twin_route(const moe_routes *routes, uint32_t row, uint32_t *pick, float *weight) {
    const float *logits = routes->logits + (size_t)row * routes->mix.experts;
    bool taken[CU_MAX_EXPERTS] = {false};
    double top = -INFINITY, sum = 0;
    for (uint32_t k = 0; k < routes->mix.top_k; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < routes->mix.experts; e++) {
            if (!taken[e] && (best == UINT32_MAX ||
                              logits[e] + routes->bias[e] > logits[best] + routes->bias[best]))
                best = e;
        }
        taken[best] = true;
        pick[k] = best;
        if (logits[best] > top) top = logits[best];
    }
    for (uint32_t k = 0; k < routes->mix.top_k; k++)
        sum += exp((double)logits[pick[k]] - top);
    for (uint32_t k = 0; k < routes->mix.top_k; k++)
        weight[k] = (float)(exp((double)logits[pick[k]] - top) / sum);
}

/* together: routing and grouping by one kernel. */
static void route(moe_routes *routes, const moe_mix *mix, bool together, rng *rnd) {
    *routes = (moe_routes){.mix = *mix};
    routes->rows = calloc(mix->rows + 1, sizeof *routes->rows);
    for (uint32_t i = 0; i < mix->rows; i++)
        routes->rows[i].flags = i % 4 < mix->idle ? CU_ROW_KV_ONLY : 0;
    routes->logits = random_floats(rnd, (size_t)mix->rows * mix->experts + 1, 4.0f);
    routes->bias = random_floats(rnd, mix->experts, 0.5f);
    if (mix->ties) {
        for (size_t i = 0; i < (size_t)mix->rows * mix->experts; i++)
            routes->logits[i] = rintf(routes->logits[i]);
        memset(routes->bias, 0, mix->experts * sizeof *routes->bias);
    }
    desc_spec spec = {.rows = routes->rows, .n_rows = mix->rows};
    routes->desc = dev_desc(&spec);
    uint32_t max_tiles = mix->rows * mix->parts / CU_TILE_ROWS + mix->experts + mix->shared_groups;
    routes->moe = (cu_moe){.n_experts = mix->experts,
                           .top_k = mix->top_k,
                           .n_shared_groups = mix->shared_groups,
                           .parts_per_row = mix->parts,
                           /* ties: a layer before the last, where such rows run fully */
                           .no_output = mix->ties ? 0 : CU_ROW_KV_ONLY,
                           .max_tiles = max_tiles,
                           .pick = dev_poison((size_t)mix->rows * mix->top_k * 4),
                           .weight = dev_poison((size_t)mix->rows * mix->top_k * 4),
                           .order = dev_poison((size_t)mix->rows * mix->parts * 4),
                           .tiles = dev_poison(max_tiles * sizeof(cu_moe_tile)),
                           .n_tiles = dev_poison(4)};
    cu_route_args args = {.desc = routes->desc,
                          .logits =
                              dev_floats(routes->logits, (size_t)mix->rows * mix->experts + 1),
                          .bias = dev_floats(routes->bias, mix->experts),
                          .moe = routes->moe};
    if (together) {
        must(cu_moe_assign(test_stream, &args, mix->rows + 6), "assign");
    } else {
        must(cu_moe_route(test_stream, &args, mix->rows + 6), "route");
        must(cu_moe_group(test_stream, &args), "group");
    }
    routes->pick = calloc((size_t)mix->rows * mix->top_k + 1, 4);
    routes->weight = calloc((size_t)mix->rows * mix->top_k + 1, 4);
    host_bytes(routes->pick, routes->moe.pick, (size_t)mix->rows * mix->top_k * 4);
    host_bytes(routes->weight, routes->moe.weight, (size_t)mix->rows * mix->top_k * 4);
}

static void routed_free(moe_routes *routes) {
    free(routes->rows);
    free(routes->logits);
    free(routes->bias);
    free(routes->pick);
    free(routes->weight);
    dev_free_all();
}

static void check_routes(const moe_routes *routes) {
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < routes->mix.rows; i++) {
        uint32_t pick[64];
        float weight[64];
        twin_route(routes, i, pick, weight);
        wrong += memcmp(pick, routes->pick + i * routes->mix.top_k, routes->mix.top_k * 4) != 0;
        for (uint32_t k = 0; k < routes->mix.top_k; k++)
            wrong += !(fabsf(weight[k] - routes->weight[i * routes->mix.top_k + k]) < 1e-5f);
    }
    check(wrong == 0, "routes of %u rows, %u experts: %u differ", routes->mix.rows,
          routes->mix.experts, wrong);
}

/* The group of a part, or UINT32_MAX. */
static uint32_t group_of(const moe_routes *routes, uint32_t part) {
    uint32_t row = part / routes->mix.parts, k = part % routes->mix.parts;
    if (routes->rows[row].flags & routes->moe.no_output) return UINT32_MAX;
    if (k < routes->mix.top_k) return routes->pick[row * routes->mix.top_k + k];
    return k < routes->mix.top_k + routes->mix.shared_groups
               ? routes->mix.experts + k - routes->mix.top_k
               : UINT32_MAX;
}

/* Every active part stands in exactly one tile of its group. */
static void check_groups(const moe_routes *routes) {
    uint32_t n_tiles = 0, parts = routes->mix.rows * routes->mix.parts, bad = 0;
    host_bytes(&n_tiles, routes->moe.n_tiles, 4);
    if (!check(n_tiles <= routes->moe.max_tiles, "%u tiles", n_tiles)) return;
    cu_moe_tile *tiles = calloc(routes->moe.max_tiles + 1, sizeof *tiles);
    uint32_t *order = calloc(parts + 1, 4), *seen = calloc(parts + 1, 4);
    host_bytes(tiles, routes->moe.tiles, n_tiles * sizeof *tiles);
    host_bytes(order, routes->moe.order, parts * 4);
    for (uint32_t i = 0; i < n_tiles; i++) {
        bad += tiles[i].n == 0 || tiles[i].n > CU_TILE_ROWS || tiles[i].first + tiles[i].n > parts;
        for (uint32_t k = 0; bad == 0 && k < tiles[i].n; k++) {
            uint32_t part = order[tiles[i].first + k];
            bad += part >= parts || group_of(routes, part) != tiles[i].group;
            if (part < parts) seen[part]++;
        }
    }
    for (uint32_t part = 0; part < parts; part++)
        bad += seen[part] != (group_of(routes, part) != UINT32_MAX);
    check(bad == 0, "groups of %u rows, %u experts, idle %u: %u wrong", routes->mix.rows,
          routes->mix.experts, routes->mix.idle, bad);
    free(tiles);
    free(order);
    free(seen);
}

static double dot(const float *one, const float *two, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)one[i] * (double)two[i];
    return sum;
}

/* Both grouped products: into the experts with SILU, and out of them, weighed. */
static void check_products(const moe_routes *routes, bool f32, rng *rnd) {
    enum { D = 64, H = 32 };
    const moe_mix *mix = &routes->mix;
    uint32_t groups = mix->experts + mix->shared_groups, parts = mix->rows * mix->parts;
    size_t in_values = (size_t)groups * 2 * H * D, out_values = (size_t)groups * D * H;
    float *x = random_floats(rnd, (size_t)(mix->rows + 1) * D, 1.0f),
          *wi = random_floats(rnd, in_values, 0.3f);
    float *wo = random_floats(rnd, out_values, 0.3f), *hidden = calloc((size_t)parts * H + 1, 4);
    float *y = calloc((size_t)parts * D + 1, 4);
    void *dh = dev_act(NULL, (size_t)parts * H + 1, f32),
         *dy = dev_poison(((size_t)parts * D + 1) * 4);
    size_t size = f32 ? 4 : 2;
    char *dwi = dev_act(wi, in_values, f32), *dwo = dev_act(wo, out_values, f32);
    cu_mm_args in = {.desc = routes->desc,
                     .map = CU_MAP_IN,
                     .store = CU_STORE_SILU,
                     .w = dwi,
                     .w_shared = dwi + (size_t)mix->experts * 2 * H * D * size,
                     .w_group = 2 * H * D,
                     .w_shared_group = 2 * H * D,
                     .ldw = D,
                     .ldw_shared = D,
                     .x = dev_act(x, (size_t)(mix->rows + 1) * D, f32),
                     .ldx = D,
                     .y = dh,
                     .ldy = H,
                     .n = 2 * H,
                     .k = D,
                     .moe = routes->moe};
    cu_mm_args out = {.desc = routes->desc,
                      .map = CU_MAP_OUT,
                      .store = CU_STORE_F32,
                      .w = dwo,
                      .w_shared = dwo + (size_t)mix->experts * D * H * size,
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
                      .moe = routes->moe};
    must(cu_mm(test_stream, &in, mix->rows + 2, 7, f32), "experts in");
    must(cu_mm(test_stream, &out, mix->rows + 2, 7, f32), "experts out");
    host_act(hidden, dh, (size_t)parts * H, f32);
    host_act(y, dy, (size_t)parts * D, true);
    double bad_h = 0, bad_y = 0;
    bool touched = false;
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t group = group_of(routes, part), row = part / mix->parts, k = part % mix->parts;
        for (uint32_t i = 0; i < H; i++) {
            if (group == UINT32_MAX) touched |= !isnan(hidden[part * H + i]);
            if (group == UINT32_MAX) continue;
            const float *pair = wi + ((size_t)group * 2 * H + i / 8 * 16 + i % 8) * D;
            double gate = dot(pair, x + (size_t)row * D, D),
                   up = dot(pair + 8 * D, x + (size_t)row * D, D);
            double want = gate / (1 + exp(-gate)) * up;
            bad_h = fmax(bad_h, fabs(want - (double)hidden[part * H + i]) / (fabs(want) + 0.2));
            if (isnan(hidden[part * H + i])) bad_h = INFINITY;
        }
        double weight = k < mix->top_k ? (double)routes->weight[row * mix->top_k + k] : 1.0;
        for (uint32_t i = 0; i < D; i++) {
            if (group == UINT32_MAX) touched |= !isnan(y[part * D + i]);
            if (group == UINT32_MAX) continue;
            double want =
                weight * dot(wo + ((size_t)group * D + i) * H, hidden + (size_t)part * H, H);
            bad_y = fmax(bad_y, fabs(want - (double)y[part * D + i]) / (fabs(want) + 0.1));
            if (isnan(y[part * D + i])) bad_y = INFINITY;
        }
    }
    check(bad_h < (f32 ? 1e-4 : 1e-2) && bad_y < 1e-4,
          "experts %s, %u rows of %u: errors %g and %g", f32 ? "f32" : "bf16", mix->rows,
          mix->experts, bad_h, bad_y);
    check(!touched, "experts, %u rows: wrote a part of no group", mix->rows);
    free(x);
    free(wi);
    free(wo);
    free(hidden);
    free(y);
}

void test_moe(void) {
    static const moe_mix mixes[] = {
        {1, 4, 2, 2, 4, 0, false},     {5, 4, 2, 2, 4, 0, true},       {33, 8, 3, 3, 6, 1, false},
        {64, 64, 4, 8, 12, 0, false},  {65, 2, 1, 1, 2, 0, false},     {130, 4, 2, 0, 3, 2, true},
        {17, 4, 2, 2, 4, 4, false},    {0, 4, 2, 2, 4, 0, false},      {9, 72, 6, 0, 7, 3, true},
        {70, 1, 1, 1, 2, 0, false},    {3, 1000, 8, 16, 24, 0, false}, {2, 200, 40, 3, 43, 0, true},
        {700, 70, 6, 8, 14, 1, false},
    };
    rng rnd = {5};
    for (size_t i = 0; i < ARRAY_LEN(mixes); i++) {
        for (unsigned pass = 0; pass < (on_shim ? 4u : 2u); pass++) {
#ifdef FATHOM_CUDA_SHIM
            shim_set_order(pass > 1 ? 31 : 0);
#endif
            bool multiply = pass == 0 || pass == 3;
            moe_routes routes;
            route(&routes, &mixes[i], pass & 1 && mixes[i].experts <= CU_ASSIGN_EXPERTS, &rnd);
            check_routes(&routes);
            check_groups(&routes);
            if (multiply && mixes[i].experts <= 72) check_products(&routes, i & 1, &rnd);
            if (multiply && mixes[i].experts <= 8) check_products(&routes, !(i & 1), &rnd);
            routed_free(&routes);
        }
    }
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(0);
#endif
}
