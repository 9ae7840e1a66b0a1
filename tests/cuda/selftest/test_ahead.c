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
static void edits_apply_in_order_unless_their_guard_halted(rng *r) {
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
            uint32_t plane = rng_below(r, PLANES), left = PLANES - plane;
            uint32_t guard = rng_below(r, 3) ? CU_NO_GUARD : rng_below(r, GUARDS);
            edits[i] = (cu_edit){.block = rng_below(r, BLOCKS),
                                 .slot = i,
                                 .plane = (uint16_t)plane,
                                 .n_planes = (uint16_t)rng_below(r, left + 1),
                                 .off = rng_below(r, 4) & 31u,
                                 .guard = guard & CU_NO_GUARD};
            if (guard != CU_NO_GUARD && halted[guard]) {
                skipped++;
                continue;
            }
            for (uint32_t p = plane; p < plane + edits[i].n_planes; p++)
                want[((size_t)edits[i].block * PLANES + p) * 32 + edits[i].off] = i;
        }
        cu_cache c = {.maps = dev_poison(bytes), .n_blocks = BLOCKS, .n_planes = PLANES};
        /* Once few enough for the first read of the descriptor. */
        desc_spec d = {.edits = edits, .n_edits = n, .ahead = order == 1, .in_order = true};
        set_order(order);
        dev_begin(dev_desc(&d), &c, dev_bytes(halted, sizeof halted));
        host_bytes(got, c.maps, bytes);
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
        for (uint32_t p = 1; p < 1 + i % 3 && (i % 5 || i % 2 == 0); p++)
            want[(block * 3 + p) * 32 + off] = i;
    }
    cu_cache c = {.maps = dev_poison(bytes), .n_blocks = N_BLOCKS, .n_planes = 3};
    desc_spec d = {.edits = edits, .n_edits = n};
    set_order(order);
    dev_begin(dev_desc(&d), &c, dev_bytes(halted, sizeof halted));
    set_order(0);
    host_bytes(got, c.maps, bytes);
    check(memcmp(got, want, bytes) == 0, "%u edits do not apply", n);
    dev_free_all();
    free(edits);
    free(want);
    free(got);
}

/* Draws and tables, not read on the way, of descriptors around the size of the first read. */
static void what_is_only_copied_arrives(uint32_t n_draws, uint32_t n_tables, uint32_t n_runs,
                                        rng *r) {
    cu_draw *draws = calloc(n_draws + 1, sizeof *draws),
            *got_draws = calloc(n_draws + 1, sizeof *draws);
    uint32_t *tables = calloc(n_tables + 1, 4), *got_tables = calloc(n_tables + 1, 4);
    cu_run *runs = calloc(n_runs + 1, sizeof *runs), *got_runs = calloc(n_runs + 1, sizeof *runs);
    for (uint32_t i = 0; i < n_draws; i++)
        draws[i] = (cu_draw){.seed = rng_next(r), .index = i, .logits = rng_next(r)};
    for (uint32_t i = 0; i < n_tables; i++)
        tables[i] = rng_next(r);
    for (uint32_t i = 0; i < n_runs; i++)
        runs[i] = (cu_run){rng_next(r), i};
    desc_spec d = {.draws = draws,
                   .n_draws = n_draws,
                   .tables = tables,
                   .n_tables = n_tables,
                   .runs = runs,
                   .n_runs = n_runs};
    char *desc = dev_desc(&d);
    cu_cache c = {.n_blocks = 1, .n_planes = 1};
    dev_begin(desc, &c, dev_poison(1));
    cu_head h;
    host_bytes(&h, desc, sizeof h);
    host_bytes(got_draws, desc + h.draws, n_draws * sizeof *draws);
    host_bytes(got_tables, desc + h.tables, n_tables * 4);
    host_bytes(got_runs, desc + h.runs, n_runs * sizeof *runs);
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

typedef enum { NOBODY, EVERYBODY, EVERY_OTHER, AT_RANDOM, ALL_BUT_LAST, N_HALTS } halts;
typedef enum { NO_FLAGS, ALL_GUARDED, ALL_OR_TAIL, MIXED, N_ASKS } asks;

typedef struct {
    uint32_t n, states, tile_rows, n_tiles, n_runs;
    cu_row *rows;
    cu_tile *tiles;
    cu_run *runs;
    uint8_t *halted;
} launch_scene;

static bool has_halted(halts h, uint32_t i, uint32_t n, rng *r) {
    switch (h) {
    case NOBODY: return false;
    case EVERYBODY: return true;
    case EVERY_OTHER: return i & 1;
    case AT_RANDOM: return rng_below(r, 3) == 0;
    case ALL_BUT_LAST: return i + 1 < n;
    case N_HALTS: break;
    }
    return false;
}

static uint16_t flags_of(asks a, rng *r) {
    static const uint16_t mixed[] = {0,
                                     CU_ROW_GUARDED,
                                     CU_ROW_OR_TAIL,
                                     CU_ROW_OR_TAIL | CU_ROW_KV_ONLY,
                                     CU_ROW_GUARDED | CU_ROW_OR_TAIL,
                                     CU_ROW_TAIL,
                                     CU_ROW_TAIL | CU_ROW_KV_ONLY | CU_ROW_GUARDED};
    if (a == NO_FLAGS) return 0;
    if (a == ALL_GUARDED) return CU_ROW_GUARDED;
    if (a == ALL_OR_TAIL) return CU_ROW_OR_TAIL;
    return mixed[rng_below(r, ARRAY_LEN(mixed))];
}

/* Runs of 1 to 40 rows, with some rows outside runs between them. */
static void put_runs(launch_scene *s, rng *r) {
    for (uint32_t i = rng_below(r, 4), n; i < s->n; i += n + rng_below(r, 9)) {
        n = 1 + rng_below(r, 40);
        if (n > s->n - i) n = s->n - i;
        s->runs[s->n_runs++] = (cu_run){i, n};
    }
}

/* Rows of states in a scrambled order, in tiles of 1 to tile_rows. A guard is the row itself or, at
 * MIXED, any row. */
static launch_scene scene_new(uint32_t n, halts h, asks a, rng *r) {
    launch_scene s = {.n = n,
                      .states = n + 3,
                      .tile_rows = 1 + rng_below(r, 4),
                      .rows = calloc(n + 1, sizeof *s.rows),
                      .tiles = calloc(n + 1, sizeof *s.tiles),
                      .runs = calloc(n + 1, sizeof *s.runs),
                      .halted = calloc(n + 3, 1)};
    uint32_t in_tile = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t state = n - i; /* never row 0 (halted) or beyond n (no row) */
        s.rows[i] = (cu_row){.row = state,
                             .pos = i * 3 + 1,
                             .token = i + 7,
                             .table = i,
                             .logits = CU_NO_LOGITS,
                             .loop = (uint16_t)(i % 5),
                             .max_loops = (uint16_t)i,
                             .flags = flags_of(a, r),
                             .threshold = (float)i,
                             .guard = a == MIXED ? rng_below(r, s.states) : state,
                             .at = i};
        s.halted[state] = has_halted(h, i, n, r);
        if (in_tile == 0) {
            in_tile = 1 + rng_below(r, s.tile_rows);
            s.tiles[s.n_tiles++] = (cu_tile){i, 0};
        }
        s.tiles[s.n_tiles - 1].n++;
        in_tile--;
    }
    put_runs(&s, r);
    s.halted[0] = s.halted[n + 1] = s.halted[n + 2] = 1;
    return s;
}

static bool stays(const launch_scene *s, cu_row *r) {
    bool gone = (r->flags & CU_ROW_GUARDED) && s->halted[r->guard];
    bool asks_itself = (r->flags & CU_ROW_OR_TAIL) && !(r->flags & CU_ROW_TAIL);
    if (asks_itself && s->halted[r->row]) r->flags |= CU_ROW_TAIL;
    else if (asks_itself) r->flags &= (uint16_t)~CU_ROW_KV_ONLY;
    return !gone;
}

static void twin(const launch_scene *s, launch_scene *out) {
    *out = (launch_scene){
        .rows = calloc(s->n + 1, sizeof *out->rows),
        .tiles = calloc(s->n + 1, sizeof *out->tiles),
        .runs = calloc(s->n + 1, sizeof *out->runs),
    };
    for (uint32_t t = 0; t < s->n_tiles; t++) {
        uint32_t first = out->n;
        for (uint32_t i = s->tiles[t].first; i < s->tiles[t].first + s->tiles[t].n; i++) {
            cu_row r = s->rows[i];
            if (stays(s, &r)) out->rows[out->n++] = r;
        }
        if (out->n > first) out->tiles[out->n_tiles++] = (cu_tile){first, out->n - first};
    }
}

/* A run without rows may begin anywhere. */
static bool same_runs(const launch_scene *want, const cu_run *got, const launch_scene *before) {
    uint32_t kept = 0, at = 0;
    for (uint32_t i = 0; i < before->n_runs; i++) {
        cu_run w = {0};
        for (; at < before->runs[i].first; at++)
            kept += kept < want->n && want->rows[kept].at == at;
        w.first = kept;
        for (; at < before->runs[i].first + before->runs[i].n; at++)
            kept += kept < want->n && want->rows[kept].at == at;
        w.n = kept - w.first;
        if (got[i].n != w.n || (w.n && got[i].first != w.first)) return false;
    }
    return true;
}

static void scene_free(launch_scene *s) {
    free(s->rows);
    free(s->tiles);
    free(s->runs);
    free(s->halted);
}

static void compare(const launch_scene *s, const launch_scene *want, const void *desc, bool ahead,
                    const char *what) {
    cu_head head;
    host_bytes(&head, desc, sizeof head);
    if (!ahead) want = s;
    bool ok = check(head.n_rows == want->n && head.n_tiles == want->n_tiles,
                    "%s: %u rows and %u tiles, not %u and %u", what, head.n_rows, head.n_tiles,
                    want->n, want->n_tiles);
    if (!ok) return;
    cu_row *rows = calloc(want->n + 1, sizeof *rows);
    cu_tile *tiles = calloc(want->n + 1, sizeof *tiles);
    host_bytes(rows, (const char *)desc + head.rows, want->n * sizeof *rows);
    host_bytes(tiles, (const char *)desc + head.tiles, want->n_tiles * sizeof *tiles);
    check(memcmp(rows, want->rows, want->n * sizeof *rows) == 0, "%s: rows differ", what);
    cu_run *runs = calloc(s->n_runs + 1, sizeof *runs);
    host_bytes(runs, (const char *)desc + head.runs, s->n_runs * sizeof *runs);
    check(same_runs(want, runs, s), "%s: runs differ", what);
    free(runs);
    check(memcmp(tiles, want->tiles, want->n_tiles * sizeof *tiles) == 0, "%s: tiles differ", what);
    free(rows);
    free(tiles);
}

static void rows_that_halted_are_left_out_or_become_tails(uint32_t n, halts h, asks a, rng *r) {
    launch_scene s = scene_new(n, h, a, r), want;
    bool ahead = a != NO_FLAGS;
    char what[64];
    (void)snprintf(what, sizeof what, "%u rows, halted %d, asked %d", n, h, a);
    twin(&s, &want);
    cu_cache c = {.n_blocks = 1, .n_planes = 1};
    for (unsigned order = 0; order < (on_shim ? 3u : 1u); order++) {
        uint8_t *halted = dev_bytes(s.halted, s.states);
        desc_spec d = {.rows = s.rows,
                       .n_rows = n,
                       .tiles = s.tiles,
                       .n_tiles = s.n_tiles,
                       .runs = s.runs,
                       .n_runs = s.n_runs,
                       .ahead = ahead};
        void *desc = dev_desc(&d);
        set_order(order == 2 ? 77 : order);
        dev_begin(desc, &c, halted);
        compare(&s, &want, desc, ahead, what);
        uint8_t *after = malloc(s.states);
        host_bytes(after, halted, s.states);
        check(memcmp(after, s.halted, s.states) == 0, "%s: changed who has halted", what);
        free(after);
        dev_free_all();
    }
    set_order(0);
    scene_free(&s);
    scene_free(&want);
}

void test_ahead(void) {
    static const uint32_t counts[] = {0,  1,   2,   5,   31,  32,  33,  64,
                                      65, 255, 256, 257, 511, 512, 513, CU_MAX_LAUNCH};
    rng r = {11};
    edits_apply_in_order_unless_their_guard_halted(&r);
    static const uint32_t n_edits[] = {0, 1, 249, 250, 251, 255, 256, 257, 1000, 4097, 9000};
    for (size_t i = 0; i < ARRAY_LEN(n_edits); i++) {
        for (unsigned order = 0; order < (on_shim ? 2u : 1u); order++)
            edits_of_different_entries_apply_at_once(n_edits[i], order);
    }
    static const uint32_t n_tables[] = {0, 1, 999, 1000, 1001, 1003, 4097, 70001};
    for (size_t i = 0; i < ARRAY_LEN(n_tables); i++) {
        for (uint32_t n = 0; n < 4; n++)
            what_is_only_copied_arrives(n * 30, n_tables[i], n * 21, &r);
    }
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (int h = 0; h < N_HALTS; h++) {
            for (int a = 0; a < N_ASKS; a++) {
                rows_that_halted_are_left_out_or_become_tails(counts[i], (halts)h, (asks)a, &r);
            }
        }
    }
}
