/* test_attention.c - attention over slot lists against a plain softmax in double: contexts of
 * 1 to several tiles, any split, shared and scattered slots, all kernels, any shared memory. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLANES = 4, SEQS = 3, MAX_CTX = 331, BLOCKS = (MAX_CTX + 31) / 32, LOOPS = 2, PROMPT = 70 };

typedef struct {
    const char *name;
    uint32_t heads, kv_heads, dk, dv; /* kv_heads 0: MLA, the value is the head of the key */
    bool f32, cache_f32;
    uint32_t tile_rows;
} shape;

/* Called by cu_kernels_setup: allows the kernels of attention so much shared memory. */
cudaError_t cu_attn_setup(int most);
cudaError_t cu_gqa_setup(int most);

typedef struct {
    const shape *s;
    uint32_t n_slots, slot_values, offset; /* offset: of the layer inside a slot */
    uint16_t no_query;
    float *slots, *q;
    uint32_t *maps, tables[SEQS][BLOCKS];
    cu_row rows[PROMPT];
    cu_tile tiles[PROMPT];
    uint32_t n_rows, n_tiles, n_tables;
    uint32_t tile_rows, shared, per; /* per: least key tiles of a split */
    bool invariant;
} scene;

/* Slots in random order; every 7th position of the deeper plane shares the shallower one's. */
static void scene_cache(scene *c, rng *r) {
    uint32_t used = 0, n = SEQS * BLOCKS * 32 * LOOPS;
    bool gqa = c->s->kv_heads > 0;
    uint32_t layer = gqa ? 2 * c->s->kv_heads * c->s->dk : c->s->dk;
    c->slot_values = c->offset ? 2 * layer : layer;
    c->offset = c->offset ? layer : 0;
    c->n_slots = n;
    c->slots = random_floats(r, (size_t)n * c->slot_values, 1.0f);
    c->maps = malloc((size_t)SEQS * BLOCKS * PLANES * 32 * 4);
    memset(c->maps, 0xff, (size_t)SEQS * BLOCKS * PLANES * 32 * 4);
    uint32_t *turn = malloc(n * 4);
    for (uint32_t i = 0; i < n; i++)
        turn[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rng_below(r, i + 1), t = turn[i];
        turn[i] = turn[j];
        turn[j] = t;
    }
    for (uint32_t s = 0; s < SEQS; s++) {
        for (uint32_t b = 0; b < BLOCKS; b++)
            c->tables[s][b] = (b * SEQS + s * 5) % (SEQS * BLOCKS);
        for (uint32_t p = 0; p < BLOCKS * 32; p++) {
            uint32_t *at = c->maps + ((size_t)c->tables[s][p / 32] * PLANES + 1) * 32 + p % 32;
            if (at[0] == UINT32_MAX) at[0] = turn[used++];
            if (at[32] == UINT32_MAX) at[32] = p % 7 == 0 ? at[0] : turn[used++];
        }
    }
    free(turn);
}

/* Rows of one sequence next to each other make tiles of up to tile_rows. */
static void scene_rows(scene *c, const uint32_t (*want)[4], uint32_t n) {
    c->n_rows = n;
    c->n_tiles = 0;
    for (uint32_t i = 0; i < n; i++) {
        c->rows[i] = (cu_row){.row = i,
                              .pos = want[i][1],
                              .table = want[i][0] * BLOCKS,
                              .loop = (uint16_t)want[i][2],
                              .flags = (uint16_t)want[i][3]};
        const cu_row *p = i ? &c->rows[i - 1] : NULL;
        bool joins = p && p->table == c->rows[i].table && p->loop == c->rows[i].loop &&
                     p->pos < c->rows[i].pos && c->tiles[c->n_tiles - 1].n < c->tile_rows;
        if (joins) c->tiles[c->n_tiles - 1].n++;
        else c->tiles[c->n_tiles++] = (cu_tile){i, 1};
    }
}

static void twin(const scene *c, uint32_t i, uint32_t h, float scale, double *out) {
    const shape *s = c->s;
    const cu_row *r = &c->rows[i];
    uint32_t kv_heads = s->kv_heads ? s->kv_heads : 1, kv = h / (s->heads / kv_heads);
    uint32_t v_at = s->kv_heads ? s->kv_heads * s->dk + kv * s->dv : 0;
    const float *q = c->q + ((size_t)i * s->heads + h) * s->dk;
    double score[MAX_CTX], top = -INFINITY, sum = 0;
    const uint32_t *table = &c->tables[0][0] + r->table;
    for (uint32_t p = 0; p <= r->pos; p++) {
        uint32_t slot = rm_slot(c->maps, table, PLANES, 1u + r->loop, p);
        const float *k = c->slots + (size_t)slot * c->slot_values + c->offset + kv * s->dk;
        score[p] = 0;
        for (uint32_t d = 0; d < s->dk; d++)
            score[p] += (double)q[d] * (double)k[d];
        score[p] *= (double)scale;
        top = fmax(top, score[p]);
    }
    memset(out, 0, s->dv * sizeof *out);
    for (uint32_t p = 0; p <= r->pos; p++)
        sum += exp(score[p] - top);
    for (uint32_t p = 0; p <= r->pos; p++) {
        uint32_t slot = rm_slot(c->maps, table, PLANES, 1u + r->loop, p);
        const float *v = c->slots + (size_t)slot * c->slot_values + c->offset + v_at;
        for (uint32_t d = 0; d < s->dv; d++)
            out[d] += exp(score[p] - top) / sum * (double)v[d];
    }
}

static void verify(const scene *c, const cu_attn_args *a, const float *o, float scale) {
    const shape *s = c->s;
    double bad = 0, want[512];
    bool pads = true;
    for (uint32_t i = 0; i < c->n_rows; i++) {
        for (uint32_t h = 0; h < s->heads; h++) {
            const float *got = o + (size_t)i * a->o_ld + h * a->o_head;
            twin(c, i, h, scale, want);
            for (uint32_t d = 0; d < s->dv; d++) {
                double w = c->rows[i].flags & c->no_query ? 0 : want[d],
                       e = fabs(w - (double)got[d]);
                if (!(e <= bad)) bad = e;
            }
            for (uint32_t d = s->dv; d < a->o_head; d++)
                pads &= got[d] == 0;
        }
        for (uint32_t d = s->heads * a->o_head; d < a->o_ld; d++)
            pads &= o[(size_t)i * a->o_ld + d] == 0;
    }
    bool untouched = true;
    for (uint32_t d = 0; d < a->o_ld; d++)
        untouched &= isnan(o[(size_t)c->n_rows * a->o_ld + d]) != 0;
    check(bad < (s->f32 && s->cache_f32 ? 1e-5 : 1.2e-2),
          "attention %s, %u splits, %u rows: error %g", s->name, a->splits, c->n_rows, bad);
    check(pads && untouched, "attention %s: padding is not zero, or a row that is not there",
          s->name);
}

static void run_scene(scene *c, uint32_t splits, rng *r) {
    const shape *s = c->s;
    uint32_t cap = c->n_rows + 1, flag = 0;
    float scale = 0.15f;
    c->q = random_floats(r, (size_t)cap * s->heads * s->dk, 2.0f);
    desc_spec d = {.rows = c->rows,
                   .n_rows = c->n_rows,
                   .tiles = c->tiles,
                   .n_tiles = c->n_tiles,
                   .bad = dev_bytes(&flag, 4),
                   .tables = &c->tables[0][0],
                   .n_tables = SEQS * BLOCKS};
    cu_attn_args a = {.desc = dev_desc(&d),
                      .plane = 1,
                      .by_loop = true,
                      .no_query = c->no_query,
                      .n_heads = s->heads,
                      .n_kv_heads = s->kv_heads ? s->kv_heads : 1,
                      .dk = s->dk,
                      .dv = s->dv,
                      .v_offset = s->kv_heads * s->dk,
                      .scale = scale,
                      .splits = splits,
                      .per = c->per,
                      .shared = c->shared,
                      .invariant = c->invariant};
    a.cache =
        (cu_cache){.slots = dev_act(c->slots, (size_t)c->n_slots * c->slot_values, s->cache_f32),
                   .maps = dev_bytes(c->maps, (size_t)SEQS * BLOCKS * PLANES * 32 * 4),
                   .n_slots = c->n_slots,
                   .n_blocks = SEQS * BLOCKS,
                   .n_planes = PLANES,
                   .slot_values = c->slot_values,
                   .f32 = s->cache_f32};
    a.cache.slots = (char *)a.cache.slots + (size_t)c->offset * (s->cache_f32 ? 4 : 2);
    a.q = dev_act(c->q, (size_t)cap * s->heads * s->dk, s->f32);
    a.o_head = s->kv_heads ? s->dv : cu_round(s->dv, 32);
    a.o_ld = cu_round(s->heads * a.o_head, 32) + 32;
    size_t parts = (size_t)cap * splits * s->heads, n = (size_t)cap * a.o_ld;
    float *o = malloc(n * 4), *first = malloc(n * 4);
    uint32_t *counts = calloc((size_t)cap * s->heads, 4), left = 0;
    a.arrived = dev_bytes(counts, (size_t)cap * s->heads * 4);
    for (unsigned order = 0; order < (on_shim ? 2u : 1u); order++) {
#ifdef FATHOM_CUDA_SHIM
        shim_set_order(order ? 1 : 0);
#endif
        a.part_o = dev_poison(parts * s->dv * 4);
        a.part_ml = dev_poison(parts * 2 * 4);
        a.o = dev_act(NULL, n, s->f32);
        bool one_row = true;
        for (uint32_t i = 0; i < c->n_tiles; i++)
            one_row &= c->tiles[i].n == 1;
        must(cu_attn(test_stream, &a, cap, s->f32, one_row), "attention");
        host_act(o, a.o, n, s->f32);
        if (order == 0) verify(c, &a, o, scale);
        if (order == 0) memcpy(first, o, n * 4);
        check(memcmp(first, o, n * 4) == 0, "attention %s: the order of threads matters", s->name);
    }
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(0);
#endif
    host_bytes(&flag, d.bad, 4);
    check(flag == 0, "attention %s: a slot was called bad", s->name);
    host_bytes(counts, a.arrived, (size_t)cap * s->heads * 4);
    for (size_t i = 0; i < (size_t)cap * s->heads; i++)
        left |= counts[i];
    check(left == 0, "attention %s: counters are left for the next kernel", s->name);
    free(counts);
    free(o);
    free(first);
    free(c->q);
}

/* Rows of three sequences, most of them alone in their tile or next to one of their own. */
static const uint32_t pairs[][4] = {{0, 61, 0, 0},  {0, 62, 0, 0},  {0, 63, 0, 2}, {0, 64, 0, 0},
                                    {1, 130, 0, 0}, {1, 131, 0, 0}, {2, 330, 1, 0}};

static uint32_t tile_rows_of(const scene *c) {
    const shape *s = c->s;
    cu_attn_args a = {.cache = {.slot_values = c->slot_values, .f32 = s->cache_f32},
                      .n_heads = s->heads,
                      .n_kv_heads = s->kv_heads ? s->kv_heads : 1,
                      .dk = s->dk,
                      .dv = s->dv,
                      .v_offset = s->kv_heads * s->dk,
                      .shared = c->shared};
    return cu_attn_tile_rows(&a, s->f32);
}

/* Shapes of mythos_10b and wide grouped keys on devices with 99 KiB a block (L4, L40, RTX), 163
 * (A100) and 227 (H100). A kernel asking for more than its device gives ends the shim. */
static void any_device(void) {
    static const shape shapes[] = {{"mythos_10b", 32, 0, 576, 512, false, false, 0},
                                   {"mythos_10b in float32", 32, 0, 576, 512, true, true, 0},
                                   {"mythos_1b", 16, 0, 288, 256, false, false, 0},
                                   {"grouped 128", 8, 2, 128, 128, false, false, 0}};
    static const uint32_t limits[] = {48 << 10, 99 << 10, 163 << 10, 227 << 10};
    static const uint32_t tile_rows[][4] = {
        {1, 1, 2, 2}, {1, 1, 1, 1}, {1, 4, 4, 4}, {1, 16, 16, 16}};
    rng r = {23};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        scene c = {.s = &shapes[i], .no_query = CU_ROW_KV_ONLY};
        scene_cache(&c, &r);
        for (size_t k = 0; k < ARRAY_LEN(limits); k++) {
            const shape *s = c.s;
            if (limits[k] > (uint32_t)shared_bytes) continue; /* of the tested device */
            must(cu_attn_setup((int)limits[k]), "sizing");
            must(cu_gqa_setup((int)limits[k]), "sizing");
            c.shared = limits[k];
            c.tile_rows = tile_rows_of(&c);
            check(c.tile_rows == tile_rows[i][k], "%s in %u bytes: %u rows to a tile", s->name,
                  limits[k], c.tile_rows);
            scene_rows(&c, pairs, ARRAY_LEN(pairs));
            run_scene(&c, 2, &r);
            scene_rows(&c, pairs + 6, 1);
            run_scene(&c, 1, &r);
        }
        free(c.slots);
        free(c.maps);
        dev_free_all();
    }
    must(cu_kernels_setup(0, 64), "sizing shared memory");
}

void test_attention(void) {
    static const shape shapes[] = {
        {"mla mma, 4 heads", 4, 0, 40, 32, false, false, 4},
        {"mla mma, 16 heads", 16, 0, 288, 256, false, false, 4},
        {"mla mma, 20 heads", 20, 0, 72, 48, false, false, 1},
        {"mla mma, wide", 16, 0, 336, 304, false, false, 2},
        {"mla mma, widest", 17, 0, 576, 512, false, false, 2},
        {"mla plain f32", 4, 0, 40, 32, true, true, 1},
        {"mla plain odd", 3, 0, 27, 21, false, false, 1},
        {"gqa f32", 6, 2, 16, 16, true, true, 1},
        {"gqa bf16", 8, 4, 24, 24, false, false, 1},
        {"gqa mixed", 4, 1, 16, 16, false, true, 1},
        {"gqa mma 64", 8, 2, 64, 64, false, false, 16},
        {"gqa mma 128", 16, 2, 128, 128, false, false, 8},
        {"gqa mma, a head each", 3, 3, 16, 16, false, false, 64},
        {"gqa mma, one for 16", 16, 1, 32, 32, false, false, 4},
        {"gqa mma, groups of 5", 10, 2, 80, 80, false, false, 12},
        {"gqa mma 128, a head each", 2, 2, 128, 128, false, false, 64},
        {"gqa f32 over bf16", 4, 4, 16, 16, true, false, 1},
        {"mla mma, 24 heads of 384", 24, 0, 416, 384, false, false, 2},
        {"mha 128", 5, 5, 128, 128, false, false, 1},
        {"mha 128, two to a head", 4, 2, 128, 128, false, false, 1},
        {"mha 64", 3, 3, 64, 64, false, false, 1},
        {"mha 64, two to a head", 4, 2, 64, 64, false, false, 1},
    };
    /* sequence, position, loop, flags */
    static const uint32_t mixed[][4] = {
        {0, 0, 0, 0},  {0, 1, 0, 0},   {0, 62, 0, 0},  {0, 63, 0, 0},  {0, 64, 0, 0}, {1, 64, 1, 0},
        {1, 65, 0, 0}, {2, 330, 1, 0}, {2, 130, 1, 2}, {2, 131, 1, 0}, {2, 192, 1, 0}};
    static const uint32_t lone[][4] = {{1, 127, 1, 0}}, none[][4] = {{1, 9, 1, 2}, {1, 10, 1, 2}};
    uint32_t prompt[PROMPT][4];
    for (uint32_t i = 0; i < PROMPT; i++) {
        const uint32_t row[4] = {1, 60 + i, 0, i % 9 == 4 ? CU_ROW_KV_ONLY : 0};
        memcpy(prompt[i], row, sizeof row);
    }
    rng r = {21};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        static const uint32_t splits[] = {1, 2, 3, 64};
        /* Every other shape is the second layer of two in a slot. Rows with ENG_ROW_KV_ONLY get
         * zeros in the last core layer; the second pass is any other layer, without zeros. */
        scene c = {.s = &shapes[i],
                   .offset = i & 1,
                   .no_query = CU_ROW_KV_ONLY,
                   .tile_rows = shapes[i].tile_rows,
                   .shared = (uint32_t)shared_bytes};
        scene_cache(&c, &r);
        if (c.tile_rows > tile_rows_of(&c)) c.tile_rows = tile_rows_of(&c);
        for (size_t k = 0; k < ARRAY_LEN(splits); k++) {
            if (on_shim && shapes[i].dk > 200 && k == 1) continue;
            c.per = k == 3 ? 2 : 0;
            scene_rows(&c, mixed, ARRAY_LEN(mixed));
            run_scene(&c, splits[k], &r);
            scene_rows(&c, lone, 1);
            run_scene(&c, splits[k], &r);
        }
        for (size_t k = 0; c.tile_rows > 4 && k < 2; k++) { /* full tiles of one prompt */
            scene_rows(&c, prompt, PROMPT);
            run_scene(&c, k ? 3 : 1, &r);
        }
        scene_rows(&c, none, ARRAY_LEN(none));
        run_scene(&c, 2, &r);
        c.no_query = 0;
        run_scene(&c, 2, &r);
        scene_rows(&c, mixed, ARRAY_LEN(mixed));
        run_scene(&c, 2, &r);
        scene_rows(&c, none, 0);
        run_scene(&c, 2, &r);
        free(c.slots);
        free(c.maps);
        dev_free_all();
    }
    any_device();
}
