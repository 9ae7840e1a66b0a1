/* test_ahead.c - how a launch begins, against plain twins: edits in order and guarded, rows left
 * out or turned into tails, tiles and runs made smaller or empty. */
#include "tests/cuda/selftest/selftest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Threads in several orders: a missing barrier gives different bits. */
static void set_order(unsigned order) {
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(order);
#else
    (void)order;
#endif
}

/* ---- edits ---- */

enum { BLOCKS = 9, PLANES = 300, EDITS = 500, GUARDS = 40, FEW_EDITS = 200 };

/* One edit in three is guarded; of the guards every second has halted. */
static void edits_apply_in_order_unless_their_guard_halted(rng *rnd) {
    size_t bytes = BLOCKS * PLANES * 32 * sizeof(uint32_t);
    cu_edit *edits = calloc(EDITS, sizeof *edits);
    uint32_t *want = malloc(bytes), *got = malloc(bytes), skipped = 0;
    uint8_t halted[GUARDS];
    for (uint32_t i = 0; i < GUARDS; i++)
        halted[i] = i & 1;
    for (unsigned order = 0; order < 3; order++) {
        uint32_t n = order == 2 ? FEW_EDITS : EDITS;
        memset(want, 0xff, bytes);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t plane = rng_below(rnd, PLANES), left = PLANES - plane;
            uint32_t guard = rng_below(rnd, 3) ? CU_NO_GUARD : rng_below(rnd, GUARDS);
            edits[i] = (cu_edit){.block = rng_below(rnd, BLOCKS),
                                 .slot = i,
                                 .plane = (uint16_t)plane,
                                 .n_planes = (uint16_t)rng_below(rnd, left + 1),
                                 .off = rng_below(rnd, 4) & 31u,
                                 .guard = guard & CU_NO_GUARD};
            if (guard != CU_NO_GUARD && halted[guard]) {
                skipped++;
                continue;
            }
            for (uint32_t plane_at = plane; plane_at < plane + edits[i].n_planes; plane_at++)
                want[((size_t)edits[i].block * PLANES + plane_at) * 32 + edits[i].off] = i;
        }
        cu_cache cache = {.maps = dev_poison(bytes), .n_blocks = BLOCKS, .n_planes = PLANES};
        /* Once few enough for the first read of the descriptor. */
        desc_spec spec = {.edits = edits, .n_edits = n, .ahead = order == 1, .in_order = true};
        set_order(order);
        dev_begin(dev_desc(&spec), &cache, dev_bytes(halted, sizeof halted));
        host_bytes(got, cache.maps, bytes);
        check(memcmp(got, want, bytes) == 0, "edits do not apply in order, or past their guard");
        dev_free_all();
    }
    set_order(0);
    check(skipped > EDITS / 6, "only %u edits had a guard that halted", skipped);
    free(edits);
    free(want);
    free(got);
}

/* Edits set every entry of the maps once, so `in_order` is not asked for. */
static void edits_of_different_entries_apply_at_once(uint32_t n, unsigned order) {
    enum { N_BLOCKS = 300 };
    size_t bytes = (size_t)N_BLOCKS * 32 * 3 * sizeof(uint32_t);
    cu_edit *edits = calloc(n + 1, sizeof *edits);
    uint32_t *want = malloc(bytes), *got = malloc(bytes);
    uint8_t halted[2] = {0, 1};
    memset(want, 0xff, bytes);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i * 7 % (N_BLOCKS * 32), block = at / 32, off = at % 32;
        edits[i] = (cu_edit){.block = block,
                             .slot = i,
                             .plane = 1,
                             .n_planes = (uint16_t)(i % 3),
                             .off = off & 31u,
                             .guard = (i % 5 ? CU_NO_GUARD : i % 2) & CU_NO_GUARD};
        for (uint32_t plane = 1; plane < 1 + i % 3 && (i % 5 || i % 2 == 0); plane++)
            want[(block * 3 + plane) * 32 + off] = i;
    }
    cu_cache cache = {.maps = dev_poison(bytes), .n_blocks = N_BLOCKS, .n_planes = 3};
    desc_spec spec = {.edits = edits, .n_edits = n};
    set_order(order);
    dev_begin(dev_desc(&spec), &cache, dev_bytes(halted, sizeof halted));
    set_order(0);
    host_bytes(got, cache.maps, bytes);
    check(memcmp(got, want, bytes) == 0, "%u edits do not apply", n);
    dev_free_all();
    free(edits);
    free(want);
    free(got);
}

/* Draws and tables, not read on the way, of descriptors around the size of the first read. */
static void what_is_only_copied_arrives(uint32_t n_draws, uint32_t n_tables, uint32_t n_runs,
                                        rng *rnd) {
    cu_draw *draws = calloc(n_draws + 1, sizeof *draws),
            *got_draws = calloc(n_draws + 1, sizeof *draws);
    uint32_t *tables = calloc(n_tables + 1, 4), *got_tables = calloc(n_tables + 1, 4);
    cu_run *runs = calloc(n_runs + 1, sizeof *runs), *got_runs = calloc(n_runs + 1, sizeof *runs);
    for (uint32_t i = 0; i < n_draws; i++)
        draws[i] = (cu_draw){.seed = rng_next(rnd), .index = i, .logits = rng_next(rnd)};
    for (uint32_t i = 0; i < n_tables; i++)
        tables[i] = rng_next(rnd);
    for (uint32_t i = 0; i < n_runs; i++)
        runs[i] = (cu_run){rng_next(rnd), i};
    desc_spec spec = {.draws = draws,
                      .n_draws = n_draws,
                      .tables = tables,
                      .n_tables = n_tables,
                      .runs = runs,
                      .n_runs = n_runs};
    char *desc = dev_desc(&spec);
    cu_cache cache = {.n_blocks = 1, .n_planes = 1};
    dev_begin(desc, &cache, dev_poison(1));
    cu_head head;
    host_bytes(&head, desc, sizeof head);
    host_bytes(got_draws, desc + head.draws, n_draws * sizeof *draws);
    host_bytes(got_tables, desc + head.tables, n_tables * 4);
    host_bytes(got_runs, desc + head.runs, n_runs * sizeof *runs);
    check(memcmp(draws, got_draws, n_draws * sizeof *draws) == 0 &&
              memcmp(tables, got_tables, n_tables * 4) == 0 &&
              memcmp(runs, got_runs, n_runs * sizeof *runs) == 0,
          "a descriptor of %u draws, %u entries of tables and %u runs arrives wrong", n_draws,
          n_tables, n_runs);
    dev_free_all();
    free(draws);
    free(got_draws);
    free(tables);
    free(got_tables);
    free(runs);
    free(got_runs);
}

/* ---- rows and tiles ---- */

typedef enum { NO_ROW, EVERY_ROW, EVERY_OTHER, AT_RANDOM, ALL_BUT_LAST, N_HALTS } halts;
typedef enum { NO_FLAGS, ALL_GUARDED, ALL_OR_TAIL, MIXED, N_ASKS } asks;

typedef struct {
    uint32_t n_rows, states, tile_rows, n_tiles, n_runs;
    cu_row *rows;
    cu_tile *tiles;
    cu_run *runs;
    uint8_t *halted;
} launch_scene;

static bool has_halted(halts halting, uint32_t i, uint32_t n, rng *rnd) {
    switch (halting) {
    case NO_ROW: return false;
    case EVERY_ROW: return true;
    case EVERY_OTHER: return i & 1;
    case AT_RANDOM: return rng_below(rnd, 3) == 0;
    case ALL_BUT_LAST: return i + 1 < n;
    case N_HALTS: break;
    }
    return false;
}

static uint16_t flags_of(asks asked, rng *rnd) {
    static const uint16_t mixed[] = {0,
                                     CU_ROW_GUARDED,
                                     CU_ROW_OR_TAIL,
                                     CU_ROW_OR_TAIL | CU_ROW_KV_ONLY,
                                     CU_ROW_GUARDED | CU_ROW_OR_TAIL,
                                     CU_ROW_TAIL,
                                     CU_ROW_TAIL | CU_ROW_KV_ONLY | CU_ROW_GUARDED};
    if (asked == NO_FLAGS) return 0;
    if (asked == ALL_GUARDED) return CU_ROW_GUARDED;
    if (asked == ALL_OR_TAIL) return CU_ROW_OR_TAIL;
    return mixed[rng_below(rnd, ARRAY_LEN(mixed))];
}

/* Runs of 1 to 40 rows, with some rows outside runs between them. */
static void put_runs(launch_scene *scene, rng *rnd) {
    for (uint32_t i = rng_below(rnd, 4), n; i < scene->n_rows; i += n + rng_below(rnd, 9)) {
        n = 1 + rng_below(rnd, 40);
        if (n > scene->n_rows - i) n = scene->n_rows - i;
        scene->runs[scene->n_runs++] = (cu_run){i, n};
    }
}

/* Rows of states in a scrambled order, in tiles of 1 to tile_rows. A guard is the row itself or, at
 * MIXED, any row. */
static launch_scene scene_new(uint32_t n, halts halting, asks asked, rng *rnd) {
    launch_scene scene = {.n_rows = n,
                          .states = n + 3,
                          .tile_rows = 1 + rng_below(rnd, 4),
                          .rows = calloc(n + 1, sizeof *scene.rows),
                          .tiles = calloc(n + 1, sizeof *scene.tiles),
                          .runs = calloc(n + 1, sizeof *scene.runs),
                          .halted = calloc(n + 3, 1)};
    uint32_t in_tile = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t state = n - i; /* never row 0 (halted) or beyond n (no row) */
        scene.rows[i] = (cu_row){.row = state,
                                 .pos = i * 3 + 1,
                                 .token = i + 7,
                                 .table = i,
                                 .logits = CU_NO_LOGITS,
                                 .loop = (uint16_t)(i % 5),
                                 .max_loops = (uint16_t)i,
                                 .flags = flags_of(asked, rnd),
                                 .threshold = (float)i,
                                 .guard = asked == MIXED ? rng_below(rnd, scene.states) : state,
                                 .at = i};
        scene.halted[state] = has_halted(halting, i, n, rnd);
        if (in_tile == 0) {
            in_tile = 1 + rng_below(rnd, scene.tile_rows);
            scene.tiles[scene.n_tiles++] = (cu_tile){i, 0};
        }
        scene.tiles[scene.n_tiles - 1].n++;
        in_tile--;
    }
    put_runs(&scene, rnd);
    scene.halted[0] = scene.halted[n + 1] = scene.halted[n + 2] = 1;
    return scene;
}

static bool stays(const launch_scene *scene, cu_row *row) {
    bool gone = (row->flags & CU_ROW_GUARDED) && scene->halted[row->guard];
    bool asks_itself = (row->flags & CU_ROW_OR_TAIL) && !(row->flags & CU_ROW_TAIL);
    if (asks_itself && scene->halted[row->row]) row->flags |= CU_ROW_TAIL;
    else if (asks_itself) row->flags &= (uint16_t)~CU_ROW_KV_ONLY;
    return !gone;
}

static void twin(const launch_scene *scene, launch_scene *out) {
    *out = (launch_scene){
        .rows = calloc(scene->n_rows + 1, sizeof *out->rows),
        .tiles = calloc(scene->n_rows + 1, sizeof *out->tiles),
        .runs = calloc(scene->n_rows + 1, sizeof *out->runs),
    };
    for (uint32_t tile = 0; tile < scene->n_tiles; tile++) {
        uint32_t first = out->n_rows;
        for (uint32_t i = scene->tiles[tile].first;
             i < scene->tiles[tile].first + scene->tiles[tile].n; i++) {
            cu_row row = scene->rows[i];
            if (stays(scene, &row)) out->rows[out->n_rows++] = row;
        }
        if (out->n_rows > first) out->tiles[out->n_tiles++] = (cu_tile){first, out->n_rows - first};
    }
}

/* A run without rows may begin anywhere. */
static bool same_runs(const launch_scene *want, const cu_run *got, const launch_scene *before) {
    uint32_t kept = 0, at = 0;
    for (uint32_t i = 0; i < before->n_runs; i++) {
        cu_run run = {0};
        for (; at < before->runs[i].first; at++)
            kept += kept < want->n_rows && want->rows[kept].at == at;
        run.first = kept;
        for (; at < before->runs[i].first + before->runs[i].n; at++)
            kept += kept < want->n_rows && want->rows[kept].at == at;
        run.n = kept - run.first;
        if (got[i].n != run.n || (run.n && got[i].first != run.first)) return false;
    }
    return true;
}

static void scene_free(launch_scene *scene) {
    free(scene->rows);
    free(scene->tiles);
    free(scene->runs);
    free(scene->halted);
}

static void compare(const launch_scene *scene, const launch_scene *want, const void *desc,
                    bool ahead, const char *what) {
    cu_head head;
    host_bytes(&head, desc, sizeof head);
    if (!ahead) want = scene;
    bool ok = check(head.n_rows == want->n_rows && head.n_tiles == want->n_tiles,
                    "%s: %u rows and %u tiles, not %u and %u", what, head.n_rows, head.n_tiles,
                    want->n_rows, want->n_tiles);
    if (!ok) return;
    cu_row *rows = calloc(want->n_rows + 1, sizeof *rows);
    cu_tile *tiles = calloc(want->n_rows + 1, sizeof *tiles);
    host_bytes(rows, (const char *)desc + head.rows, want->n_rows * sizeof *rows);
    host_bytes(tiles, (const char *)desc + head.tiles, want->n_tiles * sizeof *tiles);
    check(memcmp(rows, want->rows, want->n_rows * sizeof *rows) == 0, "%s: rows differ", what);
    cu_run *runs = calloc(scene->n_runs + 1, sizeof *runs);
    host_bytes(runs, (const char *)desc + head.runs, scene->n_runs * sizeof *runs);
    check(same_runs(want, runs, scene), "%s: runs differ", what);
    free(runs);
    check(memcmp(tiles, want->tiles, want->n_tiles * sizeof *tiles) == 0, "%s: tiles differ", what);
    free(rows);
    free(tiles);
}

static void rows_that_halted_are_left_out_or_become_tails(uint32_t n, halts halting, asks asked,
                                                          rng *rnd) {
    launch_scene scene = scene_new(n, halting, asked, rnd), want;
    bool ahead = asked != NO_FLAGS;
    char what[64];
    (void)snprintf(what, sizeof what, "%u rows, halted %d, asked %d", n, halting, asked);
    twin(&scene, &want);
    cu_cache cache = {.n_blocks = 1, .n_planes = 1};
    for (unsigned order = 0; order < (on_shim ? 3u : 1u); order++) {
        uint8_t *halted = dev_bytes(scene.halted, scene.states);
        desc_spec spec = {.rows = scene.rows,
                          .n_rows = n,
                          .tiles = scene.tiles,
                          .n_tiles = scene.n_tiles,
                          .runs = scene.runs,
                          .n_runs = scene.n_runs,
                          .ahead = ahead};
        void *desc = dev_desc(&spec);
        set_order(order == 2 ? 77 : order);
        dev_begin(desc, &cache, halted);
        compare(&scene, &want, desc, ahead, what);
        uint8_t *after = malloc(scene.states);
        host_bytes(after, halted, scene.states);
        check(memcmp(after, scene.halted, scene.states) == 0, "%s: changed who has halted", what);
        free(after);
        dev_free_all();
    }
    set_order(0);
    scene_free(&scene);
    scene_free(&want);
}

void test_ahead(void) {
    static const uint32_t counts[] = {0,  1,   2,   5,   31,  32,  33,  64,
                                      65, 255, 256, 257, 511, 512, 513, CU_MAX_LAUNCH};
    rng rnd = {11};
    edits_apply_in_order_unless_their_guard_halted(&rnd);
    static const uint32_t n_edits[] = {0, 1, 249, 250, 251, 255, 256, 257, 1000, 4097, 9000};
    for (size_t i = 0; i < ARRAY_LEN(n_edits); i++) {
        for (unsigned order = 0; order < (on_shim ? 2u : 1u); order++)
            edits_of_different_entries_apply_at_once(n_edits[i], order);
    }
    static const uint32_t n_tables[] = {0, 1, 999, 1000, 1001, 1003, 4097, 70001};
    for (size_t i = 0; i < ARRAY_LEN(n_tables); i++) {
        for (uint32_t n = 0; n < 4; n++)
            what_is_only_copied_arrives(n * 30, n_tables[i], n * 21, &rnd);
    }
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (int halting = 0; halting < N_HALTS; halting++) {
            for (int asked = 0; asked < N_ASKS; asked++) {
                rows_that_halted_are_left_out_or_become_tails(counts[i], (halts)halting,
                                                              (asks)asked, &rnd);
            }
        }
    }
}
