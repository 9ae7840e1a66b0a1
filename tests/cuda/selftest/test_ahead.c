/* test_ahead.c - how a launch begins, against plain twins: edits in order and guarded, rows
 * that are left out or become tails, tiles and runs that shrink or go. */
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

enum { BLOCKS = 9, PLANES = 300, EDITS = 500, GUARDS = 40 };

/* One edit in three is guarded; of the guards every second has halted. */
static void edits_apply_in_order_unless_their_guard_halted(rng *r) {
    size_t bytes = BLOCKS * PLANES * 32 * sizeof(uint32_t);
    cu_edit *edits = calloc(EDITS, sizeof *edits);
    uint32_t *want = malloc(bytes), *got = malloc(bytes), skipped = 0;
    uint8_t halted[GUARDS];
    for (uint32_t i = 0; i < GUARDS; i++)
        halted[i] = i & 1;
    for (unsigned order = 0; order < 3; order++) {
        memset(want, 0xff, bytes);
        for (uint32_t i = 0; i < EDITS; i++) {
            uint32_t plane = rng_below(r, PLANES), left = PLANES - plane;
            uint32_t guard = rng_below(r, 3) ? CU_NO_GUARD : rng_below(r, GUARDS);
            edits[i] = (cu_edit){.block = rng_below(r, BLOCKS),
                                 .slot = i,
                                 .plane = (uint16_t)plane,
                                 .n_planes = (uint16_t)rng_below(r, left + 1),
                                 .off = rng_below(r, 4),
                                 .guard = guard};
            if (guard != CU_NO_GUARD && halted[guard]) {
                skipped++;
                continue;
            }
            for (uint32_t p = plane; p < plane + edits[i].n_planes; p++)
                want[((size_t)edits[i].block * PLANES + p) * 32 + edits[i].off] = i;
        }
        cu_cache c = {.maps = dev_poison(bytes), .n_blocks = BLOCKS, .n_planes = PLANES};
        cu_state state = {.halted = dev_bytes(halted, sizeof halted)};
        desc_spec d = {.edits = edits, .n_edits = EDITS, .ahead = order == 1};
        set_order(order);
        must(cu_begin(test_stream, dev_desc(&d), &c, &state, NULL), "edits");
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

/* Runs of 1 to 40 rows with some between them that are of no run. */
static void put_runs(launch_scene *s, rng *r) {
    for (uint32_t i = rng_below(r, 4), n; i < s->n; i += n + rng_below(r, 9)) {
        n = 1 + rng_below(r, 40);
        if (n > s->n - i) n = s->n - i;
        s->runs[s->n_runs++] = (cu_run){i, n};
    }
}

/* Rows of states in a scrambled order, in tiles of 1 to tile_rows. A guard is the row itself or,
 * at MIXED, anybody. */
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
        uint32_t state = n - i; /* never 0 or beyond n: those have halted and nobody is there */
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
        cu_state state = {.halted = dev_bytes(s.halted, s.states)};
        desc_spec d = {.rows = s.rows,
                       .n_rows = n,
                       .tiles = s.tiles,
                       .n_tiles = s.n_tiles,
                       .runs = s.runs,
                       .n_runs = s.n_runs,
                       .ahead = ahead};
        void *desc = dev_desc(&d);
        set_order(order == 2 ? 77 : order);
        must(cu_begin(test_stream, desc, &c, &state, NULL), "beginning");
        compare(&s, &want, desc, ahead, what);
        uint8_t *after = malloc(s.states);
        host_bytes(after, state.halted, s.states);
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
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (int h = 0; h < N_HALTS; h++) {
            for (int a = 0; a < N_ASKS; a++) {
                rows_that_halted_are_left_out_or_become_tails(counts[i], (halts)h, (asks)a, &r);
            }
        }
    }
}
