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
} attn_shape;

/* Called by cu_kernels_setup: allows the kernels of attention so much shared memory. */
cudaError_t cu_attn_setup(int most);
cudaError_t cu_gqa_setup(int most);

typedef struct {
    const attn_shape *shape;
    uint32_t n_slots, slot_values, offset; /* offset: of the layer inside a slot */
    uint16_t no_query;
    float *slots, *query;
    uint32_t *maps, tables[SEQS][BLOCKS];
    cu_row rows[PROMPT];
    cu_tile tiles[PROMPT];
    uint32_t n_rows, n_tiles, n_tables;
    uint32_t tile_rows, shared, per; /* per: least key tiles of a split */
    bool invariant;
} attn_scene;

/* Slots in random order; every 7th position of the deeper plane shares the shallower one's. */
static void scene_cache(attn_scene *scene, rng *rnd) {
    uint32_t used = 0, n = SEQS * BLOCKS * 32 * LOOPS;
    bool gqa = scene->shape->kv_heads > 0;
    uint32_t layer = gqa ? 2 * scene->shape->kv_heads * scene->shape->dk : scene->shape->dk;
    scene->slot_values = scene->offset ? 2 * layer : layer;
    scene->offset = scene->offset ? layer : 0;
    scene->n_slots = n;
    scene->slots = random_floats(rnd, (size_t)n * scene->slot_values, 1.0f);
    scene->maps = malloc((size_t)SEQS * BLOCKS * PLANES * 32 * 4);
    memset(scene->maps, 0xff, (size_t)SEQS * BLOCKS * PLANES * 32 * 4);
    uint32_t *turn = malloc(n * 4);
    for (uint32_t i = 0; i < n; i++)
        turn[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rng_below(rnd, i + 1), held = turn[i];
        turn[i] = turn[j];
        turn[j] = held;
    }
    for (uint32_t seq = 0; seq < SEQS; seq++) {
        for (uint32_t block = 0; block < BLOCKS; block++)
            scene->tables[seq][block] = (block * SEQS + seq * 5) % (SEQS * BLOCKS);
        for (uint32_t pos = 0; pos < BLOCKS * 32; pos++) {
            uint32_t *at =
                scene->maps + ((size_t)scene->tables[seq][pos / 32] * PLANES + 1) * 32 + pos % 32;
            if (at[0] == UINT32_MAX) at[0] = turn[used++];
            if (at[32] == UINT32_MAX) at[32] = pos % 7 == 0 ? at[0] : turn[used++];
        }
    }
    free(turn);
}

/* Rows of one sequence next to each other make tiles of up to tile_rows. */
static void scene_rows(attn_scene *scene, const uint32_t (*want)[4], uint32_t n) {
    scene->n_rows = n;
    scene->n_tiles = 0;
    for (uint32_t i = 0; i < n; i++) {
        scene->rows[i] = (cu_row){.row = i,
                                  .pos = want[i][1],
                                  .table = want[i][0] * BLOCKS,
                                  .loop = (uint16_t)want[i][2],
                                  .flags = (uint16_t)want[i][3]};
        const cu_row *before = i ? &scene->rows[i - 1] : NULL;
        bool joins = before && before->table == scene->rows[i].table &&
                     before->loop == scene->rows[i].loop && before->pos < scene->rows[i].pos &&
                     scene->tiles[scene->n_tiles - 1].n < scene->tile_rows;
        if (joins) scene->tiles[scene->n_tiles - 1].n++;
        else scene->tiles[scene->n_tiles++] = (cu_tile){i, 1};
    }
}

static void twin(const attn_scene *scene, uint32_t i, uint32_t head, float scale, double *out) {
    const attn_shape *shape = scene->shape;
    const cu_row *row = &scene->rows[i];
    uint32_t kv_heads = shape->kv_heads ? shape->kv_heads : 1,
             kv = head / (shape->heads / kv_heads);
    uint32_t v_at = shape->kv_heads ? shape->kv_heads * shape->dk + kv * shape->dv : 0;
    const float *query = scene->query + ((size_t)i * shape->heads + head) * shape->dk;
    double score[MAX_CTX], top = -INFINITY, sum = 0;
    const uint32_t *table = &scene->tables[0][0] + row->table;
    for (uint32_t pos = 0; pos <= row->pos; pos++) {
        uint32_t slot = rm_slot(scene->maps, table, PLANES, 1u + row->loop, pos);
        const float *k =
            scene->slots + (size_t)slot * scene->slot_values + scene->offset + kv * shape->dk;
        score[pos] = 0;
        for (uint32_t dim = 0; dim < shape->dk; dim++)
            score[pos] += (double)query[dim] * (double)k[dim];
        score[pos] *= (double)scale;
        top = fmax(top, score[pos]);
    }
    memset(out, 0, shape->dv * sizeof *out);
    for (uint32_t pos = 0; pos <= row->pos; pos++)
        sum += exp(score[pos] - top);
    for (uint32_t pos = 0; pos <= row->pos; pos++) {
        uint32_t slot = rm_slot(scene->maps, table, PLANES, 1u + row->loop, pos);
        const float *value =
            scene->slots + (size_t)slot * scene->slot_values + scene->offset + v_at;
        for (uint32_t dim = 0; dim < shape->dv; dim++)
            out[dim] += exp(score[pos] - top) / sum * (double)value[dim];
    }
}

static void verify(const attn_scene *scene, const cu_attn_args *args, const float *out,
                   float scale) {
    const attn_shape *shape = scene->shape;
    double bad = 0, want[512];
    bool pads = true;
    for (uint32_t i = 0; i < scene->n_rows; i++) {
        for (uint32_t head = 0; head < shape->heads; head++) {
            const float *got = out + (size_t)i * args->o_ld + head * args->o_head;
            twin(scene, i, head, scale, want);
            for (uint32_t dim = 0; dim < shape->dv; dim++) {
                double want_d = scene->rows[i].flags & scene->no_query ? 0 : want[dim],
                       e = fabs(want_d - (double)got[dim]);
                if (!(e <= bad)) bad = e;
            }
            for (uint32_t dim = shape->dv; dim < args->o_head; dim++)
                pads &= got[dim] == 0;
        }
        for (uint32_t dim = shape->heads * args->o_head; dim < args->o_ld; dim++)
            pads &= out[(size_t)i * args->o_ld + dim] == 0;
    }
    bool untouched = true;
    for (uint32_t dim = 0; dim < args->o_ld; dim++)
        untouched &= isnan(out[(size_t)scene->n_rows * args->o_ld + dim]) != 0;
    check(bad < (shape->f32 && shape->cache_f32 ? 1e-5 : 1.2e-2),
          "attention %s, %u splits, %u rows: error %g", shape->name, args->splits, scene->n_rows,
          bad);
    check(pads && untouched, "attention %s: padding is not zero, or a row that is not there",
          shape->name);
}

static void run_scene(attn_scene *scene, uint32_t splits, rng *rnd) {
    const attn_shape *shape = scene->shape;
    uint32_t cap = scene->n_rows + 1, flag = 0;
    float scale = 0.15f;
    scene->query = random_floats(rnd, (size_t)cap * shape->heads * shape->dk, 2.0f);
    desc_spec spec = {.rows = scene->rows,
                      .n_rows = scene->n_rows,
                      .tiles = scene->tiles,
                      .n_tiles = scene->n_tiles,
                      .bad = dev_bytes(&flag, 4),
                      .tables = &scene->tables[0][0],
                      .n_tables = SEQS * BLOCKS};
    cu_attn_args args = {.desc = dev_desc(&spec),
                         .plane = 1,
                         .by_loop = true,
                         .no_query = scene->no_query,
                         .n_heads = shape->heads,
                         .n_kv_heads = shape->kv_heads ? shape->kv_heads : 1,
                         .dk = shape->dk,
                         .dv = shape->dv,
                         .v_offset = shape->kv_heads * shape->dk,
                         .scale = scale,
                         .splits = splits,
                         .per = scene->per,
                         .shared = scene->shared,
                         .invariant = scene->invariant};
    args.cache =
        (cu_cache){.slots = dev_act(scene->slots, (size_t)scene->n_slots * scene->slot_values,
                                    shape->cache_f32),
                   .maps = dev_bytes(scene->maps, (size_t)SEQS * BLOCKS * PLANES * 32 * 4),
                   .n_slots = scene->n_slots,
                   .n_blocks = SEQS * BLOCKS,
                   .n_planes = PLANES,
                   .slot_values = scene->slot_values,
                   .f32 = shape->cache_f32};
    args.cache.slots =
        (char *)args.cache.slots + (size_t)scene->offset * (shape->cache_f32 ? 4 : 2);
    args.q = dev_act(scene->query, (size_t)cap * shape->heads * shape->dk, shape->f32);
    args.o_head = shape->kv_heads ? shape->dv : cu_round(shape->dv, 32);
    args.o_ld = cu_round(shape->heads * args.o_head, 32) + 32;
    size_t parts = (size_t)cap * splits * shape->heads, n = (size_t)cap * args.o_ld;
    float *out = malloc(n * 4), *first = malloc(n * 4);
    uint32_t *counts = calloc((size_t)cap * shape->heads, 4), left = 0;
    args.arrived = dev_bytes(counts, (size_t)cap * shape->heads * 4);
    for (unsigned order = 0; order < (on_shim ? 2u : 1u); order++) {
#ifdef FATHOM_CUDA_SHIM
        shim_set_order(order ? 1 : 0);
#endif
        args.part_o = dev_poison(parts * shape->dv * 4);
        args.part_ml = dev_poison(parts * 2 * 4);
        args.o = dev_act(NULL, n, shape->f32);
        bool one_row = true;
        for (uint32_t i = 0; i < scene->n_tiles; i++)
            one_row &= scene->tiles[i].n == 1;
        must(cu_attn(test_stream, &args, cap, shape->f32, one_row), "attention");
        host_act(out, args.o, n, shape->f32);
        if (order == 0) verify(scene, &args, out, scale);
        if (order == 0) memcpy(first, out, n * 4);
        check(memcmp(first, out, n * 4) == 0, "attention %s: the order of threads matters",
              shape->name);
    }
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(0);
#endif
    host_bytes(&flag, spec.bad, 4);
    check(flag == 0, "attention %s: a slot was called bad", shape->name);
    host_bytes(counts, args.arrived, (size_t)cap * shape->heads * 4);
    for (size_t i = 0; i < (size_t)cap * shape->heads; i++)
        left |= counts[i];
    check(left == 0, "attention %s: counters are left for the next kernel", shape->name);
    free(counts);
    free(out);
    free(first);
    free(scene->query);
}

/* Rows of three sequences, most of them alone in their tile or next to one of their own. */
static const uint32_t pairs[][4] = {{0, 61, 0, 0},  {0, 62, 0, 0},  {0, 63, 0, 2}, {0, 64, 0, 0},
                                    {1, 130, 0, 0}, {1, 131, 0, 0}, {2, 330, 1, 0}};

static uint32_t tile_rows_of(const attn_scene *scene) {
    const attn_shape *shape = scene->shape;
    cu_attn_args args = {.cache = {.slot_values = scene->slot_values, .f32 = shape->cache_f32},
                         .n_heads = shape->heads,
                         .n_kv_heads = shape->kv_heads ? shape->kv_heads : 1,
                         .dk = shape->dk,
                         .dv = shape->dv,
                         .v_offset = shape->kv_heads * shape->dk,
                         .shared = scene->shared};
    return cu_attn_tile_rows(&args, shape->f32);
}

/* Shapes of mythos_10b and wide grouped keys on devices with 99 KiB a block (L4, L40, RTX), 163
 * (A100) and 227 (H100). A kernel asking for more than its device gives ends the shim. */
static void any_device(void) {
    static const attn_shape shapes[] = {{"mythos_10b", 32, 0, 576, 512, false, false, 0},
                                        {"mythos_10b in float32", 32, 0, 576, 512, true, true, 0},
                                        {"mythos_1b", 16, 0, 288, 256, false, false, 0},
                                        {"grouped 128", 8, 2, 128, 128, false, false, 0}};
    static const uint32_t limits[] = {48 << 10, 99 << 10, 163 << 10, 227 << 10};
    static const uint32_t tile_rows[][4] = {
        {1, 1, 2, 2}, {1, 1, 1, 1}, {1, 4, 4, 4}, {1, 16, 16, 16}};
    rng rnd = {23};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        attn_scene scene = {.shape = &shapes[i], .no_query = CU_ROW_KV_ONLY};
        scene_cache(&scene, &rnd);
        for (size_t k = 0; k < ARRAY_LEN(limits); k++) {
            const attn_shape *shape = scene.shape;
            if (limits[k] > (uint32_t)shared_bytes) continue; /* of the tested device */
            must(cu_attn_setup((int)limits[k]), "sizing");
            must(cu_gqa_setup((int)limits[k]), "sizing");
            scene.shared = limits[k];
            scene.tile_rows = tile_rows_of(&scene);
            check(scene.tile_rows == tile_rows[i][k], "%s in %u bytes: %u rows to a tile",
                  shape->name, limits[k], scene.tile_rows);
            scene_rows(&scene, pairs, ARRAY_LEN(pairs));
            run_scene(&scene, 2, &rnd);
            scene_rows(&scene, pairs + 6, 1);
            run_scene(&scene, 1, &rnd);
        }
        free(scene.slots);
        free(scene.maps);
        dev_free_all();
    }
    must(cu_kernels_setup(0, 64), "sizing shared memory");
}

void test_attention(void) {
    static const attn_shape shapes[] = {
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
        {"mha 96", 5, 5, 96, 96, false, false, 1},
        {"mha 96, two to a head", 4, 2, 96, 96, false, false, 1},
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
    rng rnd = {21};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        static const uint32_t splits[] = {1, 2, 3, 64};
        /* Every other shape is the second layer of two in a slot. Rows with ENG_ROW_KV_ONLY get
         * zeros in the last core layer; the second pass is any other layer, without zeros. */
        attn_scene scene = {.shape = &shapes[i],
                            .offset = i & 1,
                            .no_query = CU_ROW_KV_ONLY,
                            .tile_rows = shapes[i].tile_rows,
                            .shared = (uint32_t)shared_bytes};
        scene_cache(&scene, &rnd);
        if (scene.tile_rows > tile_rows_of(&scene)) scene.tile_rows = tile_rows_of(&scene);
        for (size_t k = 0; k < ARRAY_LEN(splits); k++) {
            if (on_shim && shapes[i].dk > 200 && k == 1) continue;
            scene.per = k == 3 ? 2 : 0;
            scene_rows(&scene, mixed, ARRAY_LEN(mixed));
            run_scene(&scene, splits[k], &rnd);
            scene_rows(&scene, lone, 1);
            run_scene(&scene, splits[k], &rnd);
        }
        for (size_t k = 0; scene.tile_rows > 4 && k < 2; k++) { /* full tiles of one prompt */
            scene_rows(&scene, prompt, PROMPT);
            run_scene(&scene, k ? 3 : 1, &rnd);
        }
        scene_rows(&scene, none, ARRAY_LEN(none));
        run_scene(&scene, 2, &rnd);
        scene.no_query = 0;
        run_scene(&scene, 2, &rnd);
        scene_rows(&scene, mixed, ARRAY_LEN(mixed));
        run_scene(&scene, 2, &rnd);
        scene_rows(&scene, none, 0);
        run_scene(&scene, 2, &rnd);
        free(scene.slots);
        free(scene.maps);
        dev_free_all();
    }
    any_device();
}
