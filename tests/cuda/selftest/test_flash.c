/* test_flash.c - attention over expanded keys against plain sums in double, from the runs found by
 * eng__cuda_put_runs: ragged runs and contexts, decode rows between them, any scratch. */
#include "base/size.h"
#include "tests/cuda/selftest/driver.h"
#include "tests/lib/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQS = 3, LOOPS = 2, PLANE = 1, PLANES = PLANE + LOOPS + 1, CROSSOVER = 48, SPARE = 3 };

#define NOBODY 1024.0f /* value of o before a launch */

typedef struct {
    const char *name;
    uint32_t heads, nope, rope, lora, v, positions;
} shape;

/* Rows of one sequence: positions first, first + step, …; every kv_only-th writes K/V only. */
typedef struct {
    uint32_t seq, first, n, loop, step, kv_only;
} span;

typedef struct {
    const shape *s;
    uint32_t n_slots, slot_values, blocks, nope_ld;
    uint32_t *maps, *tables; /* [blocks * SEQS][PLANES][32]; [SEQS][blocks] */
    float *slots, *uk, *uv;
    float *k, *values; /* twin: [n_slots][heads][nope], [n_slots][heads][v], as bfloat16 */
    cu_flash_args a;   /* of this shape, without the fields of a launch */
    cu_backend *b;     /* only its options and sizes of runs */
} world;

typedef struct {
    uint32_t n, n_expanded;
    eng_row *rows;
    uint16_t *flags;
    float *q_nope, *q, *o; /* o [n + SPARE][o_ld], as it came back */
    cu_row *ran;           /* the device's rows after the launch; n_ran of them */
    uint32_t n_ran, bad;
} launch;

static void set_order(unsigned order) {
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(order);
#else
    (void)order;
#endif
}

/* ---- a cache, its maps, and the keys and values it stands for ---- */

static uint32_t *shuffled(rng *r, uint32_t n) {
    uint32_t *v = malloc(n * sizeof *v);
    for (uint32_t i = 0; i < n; i++)
        v[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rng_below(r, i + 1), t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
    return v;
}

/* Slots in random order; every 7th position of the deeper loop names the shallower one's. */
static void world_maps(world *w, rng *r) {
    uint32_t n_blocks = w->blocks * SEQS, used = 0;
    uint32_t *slot = shuffled(r, w->n_slots);
    w->tables = shuffled(r, n_blocks);
    w->maps = malloc((size_t)n_blocks * PLANES * 32 * 4);
    memset(w->maps, 0xff, (size_t)n_blocks * PLANES * 32 * 4);
    for (uint32_t b = 0; b < n_blocks; b++) {
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t *at = w->maps + ((size_t)b * PLANES + PLANE) * 32 + i;
            at[0] = slot[used++];
            at[32] = i % 7 == 3 ? at[0] : slot[used++];
        }
    }
    free(slot);
}

static void world_twin(world *w) {
    const shape *s = w->s;
    w->k = malloc((size_t)w->n_slots * s->heads * s->nope * 4);
    w->values = malloc((size_t)w->n_slots * s->heads * s->v * 4);
    for (size_t i = 0; i < (size_t)w->n_slots * s->heads; i++) {
        const float *c = w->slots + i / s->heads * w->slot_values;
        size_t h = i % s->heads;
        for (uint32_t d = 0; d < s->nope + s->v; d++) {
            bool key = d < s->nope;
            const float *m = key ? w->uk + h * w->a.uk_head + d
                                 : w->uv + h * w->a.uv_head + (size_t)(d - s->nope) * w->a.uv_ld;
            float sum = 0;
            for (uint32_t l = 0; l < s->lora; l++)
                sum += c[l] * m[key ? (size_t)l * w->a.uk_ld : l];
            sum = rm_bf16_widen(rm_bf16_narrow(sum));
            if (key) w->k[i * s->nope + d] = sum;
            else w->values[i * s->v + d - s->nope] = sum;
        }
    }
}

/* Weights with zeros in the padding of matrices. */
static float *padded(rng *r, uint32_t heads, uint32_t rows, uint32_t all, uint32_t n, uint32_t ld) {
    float *v = calloc((size_t)heads * all * ld, sizeof *v);
    for (uint32_t h = 0; h < heads; h++) {
        for (uint32_t i = 0; i < rows; i++) {
            for (uint32_t c = 0; c < n; c++)
                v[((size_t)h * all + i) * ld + c] = rng_float(r) * 2.0f / sqrtf((float)n);
        }
    }
    return v;
}

static world world_new(const shape *s, rng *r) {
    world w = {.s = s, .blocks = (s->positions + 31) / 32, .slot_values = s->lora + s->rope};
    w.n_slots = w.blocks * SEQS * 32 * LOOPS;
    w.nope_ld = cu_round(s->nope, CU_K_STEP);
    w.slots = random_floats(r, (size_t)w.n_slots * w.slot_values, 1.0f);
    uint32_t v16 = cu_round(s->v, CU_MM_ROWS), lora16 = cu_round(s->lora, CU_MM_ROWS);
    w.a = (cu_flash_args){.plane = PLANE,
                          .by_loop = true,
                          .no_query = CU_ROW_KV_ONLY,
                          .n_heads = s->heads,
                          .nope = s->nope,
                          .rope = s->rope,
                          .kv_lora = s->lora,
                          .v = s->v,
                          .uk_head = (uint64_t)lora16 * w.nope_ld,
                          .uv_head = (uint64_t)v16 * s->lora,
                          .uk_ld = w.nope_ld,
                          .uv_ld = s->lora,
                          .nope_ld = w.nope_ld,
                          .scale = 0.3f,
                          .o_ld = cu_round(s->heads * s->v, CU_K_STEP) + 32};
    world_maps(&w, r);
    w.uk = padded(r, s->heads, s->lora, lora16, s->nope, w.nope_ld);
    w.uv = padded(r, s->heads, s->v, v16, s->lora, s->lora);
    w.a.uk = dev_act(w.uk, s->heads * w.a.uk_head, false);
    w.a.uv = dev_act(w.uv, s->heads * w.a.uv_head, false);
    w.a.cache = (cu_cache){.slots = dev_act(w.slots, (size_t)w.n_slots * w.slot_values, false),
                           .maps = dev_bytes(w.maps, (size_t)w.blocks * SEQS * PLANES * 32 * 4),
                           .n_slots = w.n_slots,
                           .n_blocks = w.blocks * SEQS,
                           .n_planes = PLANES,
                           .slot_values = w.slot_values};
    world_twin(&w);
    w.b = array_new(1, sizeof *w.b);
    w.b->plan.n_core = 1;
    w.b->opts.max_launch = 1024;
    w.b->opts.max_positions = w.blocks * 32;
    check(cu_flash_fits(&w.a, 99 << 10) || s->nope + s->v > 200, "flash %s: does not fit", s->name);
    return w;
}

static void world_free(world *w) {
    free(w->maps);
    free(w->tables);
    free(w->slots);
    free(w->uk);
    free(w->uv);
    free(w->k);
    free(w->values);
    free(w->b);
    dev_free_all();
}

/* ---- one launch ---- */

static launch launch_new(const world *w, const span *spans, size_t n_spans, rng *r) {
    const shape *s = w->s;
    launch l = {0};
    for (size_t i = 0; i < n_spans; i++)
        l.n += spans[i].n;
    l.rows = array_new(l.n + 1, sizeof *l.rows);
    l.flags = array_new(l.n + 1, sizeof *l.flags);
    uint32_t n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        for (uint32_t k = 0; k < spans[i].n; k++, n++) {
            l.rows[n] = (eng_row){.row = n,
                                  .pos = spans[i].first + k * (spans[i].step ? spans[i].step : 1),
                                  .loop = (uint16_t)spans[i].loop,
                                  .blocks = w->tables + spans[i].seq * w->blocks};
            if (spans[i].kv_only && k % spans[i].kv_only == 1) l.flags[n] = CU_ROW_KV_ONLY;
        }
    }
    size_t heads = (size_t)(l.n + SPARE) * s->heads;
    l.q_nope = random_floats(r, heads * w->nope_ld, 1.0f);
    l.q = random_floats(r, heads * w->slot_values, 1.0f);
    for (size_t i = 0; i < heads; i++) {
        for (uint32_t c = s->nope; c < w->nope_ld; c++)
            l.q_nope[i * w->nope_ld + c] = 0;
        for (uint32_t c = 0; c < s->lora; c++)
            l.q[i * w->slot_values + c] = NAN; /* absorbed: not for us */
    }
    l.o = array_new((size_t)(l.n + SPARE) * w->a.o_ld, sizeof *l.o);
    l.ran = array_new(l.n + 1, sizeof *l.ran);
    return l;
}

static void launch_free(launch *l) {
    free(l->rows);
    free(l->flags);
    free(l->q_nope);
    free(l->q);
    free(l->o);
    free(l->ran);
}

/* The descriptor as launch.c packs it, on the host. */
static uint8_t *pack(const world *w, launch *l, size_t *bytes, bool *all, uint32_t *bad,
                     bool ahead) {
    size_t tables = (size_t)SEQS * w->blocks;
    cu_head h = {.n_rows = l->n, .rows = sizeof h, .ahead = ahead, .bad = bad};
    h.tiles = h.rows + l->n * (uint32_t)sizeof(cu_row);
    h.edits = h.draws = h.tables = cu_round(h.tiles, 16);
    *bytes = cu_round(h.tables + (uint32_t)tables * 4, 16);
    uint8_t *desc = array_new(*bytes + eng__cuda_runs_bytes(w->b) + 16, 1);
    memcpy(desc, &h, sizeof h);
    memcpy(desc + h.tables, w->tables, tables * 4);
    for (uint32_t i = 0; i < l->n; i++) {
        const eng_row *r = &l->rows[i];
        ((cu_row *)(void *)(desc + h.rows))[i] =
            (cu_row){.row = r->row,
                     .pos = r->pos,
                     .loop = r->loop,
                     .table = (uint32_t)(r->blocks - w->tables),
                     .flags = l->flags[i],
                     .guard = r->guard,
                     .at = i};
    }
    eng_launch el = {.stage = ENG_STAGE_RECURRENT, .rows = l->rows, .n_rows = l->n};
    *bytes = cu_round((uint32_t)eng__cuda_put_runs(w->b, &el, desc, *bytes, all), 16);
    ((cu_head *)(void *)desc)->bytes = (uint32_t)*bytes;
    return desc;
}

/* Runs the launch with a crossover and a scratch of so many keys; halted: rows with a halted
 * guard. */
static void go(world *w, launch *l, uint32_t crossover, uint32_t keys, const uint8_t *halted) {
    const shape *s = w->s;
    cu_flash_args a = w->a;
    uint32_t cap = l->n + SPARE, zero[4] = {0};
    size_t bytes, parts = (size_t)cap * CU_FLASH_SPLITS * s->heads;
    bool all;
    eng__cuda_size_runs(w->b, crossover, keys, cu_flash_key_bytes(&a));
    a.keys = w->b->flash.keys;
    uint32_t *bad = dev_bytes(zero, sizeof zero);
    uint8_t *host = pack(w, l, &bytes, &all, bad, halted != NULL);
    cu_head h;
    memcpy(&h, host, sizeof h);
    void *desc = dev_bytes(host, bytes);
    a.desc = desc;
    a.q_nope = dev_act(l->q_nope, (size_t)cap * s->heads * w->nope_ld, false);
    a.q = dev_act(l->q, (size_t)cap * s->heads * w->slot_values, false);
    a.k = dev_poison((size_t)s->heads * a.keys * cu_round(s->nope, 16) * 2);
    a.values = dev_poison((size_t)s->heads * a.keys * cu_round(s->v, 16) * 2);
    a.k_rope = dev_poison((size_t)a.keys * cu_round(s->rope, 16) * 2);
    a.part_o = dev_poison(parts * s->v * 4);
    a.part_ml = dev_poison(parts * 8);
    for (size_t i = 0; i < (size_t)cap * a.o_ld; i++)
        l->o[i] = NOBODY; /* not NaN: a sum over poison would be NaN too */
    a.o = dev_act(l->o, (size_t)cap * a.o_ld, false);
    if (halted) dev_begin(desc, &a.cache, dev_bytes(halted, l->n));
    for (uint32_t pass = 0; pass < (h.n_passes ? h.n_passes : 1); pass++) {
        must(cu_flash_expand(test_stream, &a, pass), "expand");
        must(cu_flash_attend(test_stream, &a, pass, eng__cuda_flash_tiles(w->b, cap) + 1),
             "attend");
    }
    must(cu_flash_merge(test_stream, &a, cap), "merge");
    host_act(l->o, a.o, (size_t)cap * a.o_ld, false);
    host_bytes(host, desc, bytes);
    memcpy(&h, host, sizeof h);
    l->n_ran = h.n_rows;
    l->n_expanded = 0;
    memcpy(l->ran, host + h.rows, h.n_rows * sizeof(cu_row));
    for (uint32_t i = 0; i < h.n_rows; i++)
        l->n_expanded += (l->ran[i].flags & CU_ROW_EXPANDED) != 0;
    host_bytes(&l->bad, bad, 4);
    check(all == (l->n > 0 && l->n_expanded == l->n) || halted != NULL,
          "flash %s: %u of %u rows expanded are%s all", s->name, l->n_expanded, l->n,
          all ? "" : " not");
    free(host);
}

/* ---- verdicts ---- */

/* Launch row i, as it ran, in double. */
static void twin(const world *w, const launch *l, uint32_t i, uint32_t h, double *out) {
    const shape *s = w->s;
    const cu_row *r = &l->ran[i];
    const float *qn = l->q_nope + ((size_t)i * s->heads + h) * w->nope_ld;
    const float *qr = l->q + ((size_t)i * s->heads + h) * w->slot_values + s->lora;
    double *score = malloc((r->pos + 1) * sizeof *score), top = -INFINITY, sum = 0;
    for (uint32_t p = 0; p <= r->pos; p++) {
        size_t slot = rm_slot(w->maps, w->tables + r->table, PLANES, PLANE + r->loop, p);
        const float *k = w->k + (slot * s->heads + h) * s->nope;
        const float *kr = w->slots + slot * w->slot_values + s->lora;
        score[p] = 0;
        for (uint32_t d = 0; d < s->nope; d++)
            score[p] += (double)qn[d] * (double)k[d];
        for (uint32_t d = 0; d < s->rope; d++)
            score[p] += (double)qr[d] * (double)kr[d];
        score[p] *= (double)w->a.scale;
        top = fmax(top, score[p]);
    }
    memset(out, 0, s->v * sizeof *out);
    for (uint32_t p = 0; p <= r->pos; p++)
        sum += score[p] = exp(score[p] - top);
    for (uint32_t p = 0; p <= r->pos; p++) {
        size_t slot = rm_slot(w->maps, w->tables + r->table, PLANES, PLANE + r->loop, p);
        const float *v = w->values + (slot * s->heads + h) * s->v;
        for (uint32_t d = 0; d < s->v; d++)
            out[d] += score[p] / sum * (double)v[d];
    }
    free(score);
}

/* Expanded rows are near the twin (K/V-only ones zero), everything else is as it was. */
static void verify(const world *w, const launch *l, const char *what) {
    const shape *s = w->s;
    double bad = 0, top = 0, want[128];
    bool untouched = true;
    for (uint32_t i = 0; i < l->n + SPARE; i++) {
        const float *o = l->o + (size_t)i * w->a.o_ld;
        bool mine = i < l->n_ran && l->ran[i].flags & CU_ROW_EXPANDED;
        for (uint32_t c = mine ? s->heads * s->v : 0; c < w->a.o_ld; c++)
            untouched &= o[c] == NOBODY;
        for (uint32_t h = 0; mine && h < s->heads; h++) {
            bool none = l->ran[i].flags & CU_ROW_KV_ONLY;
            if (!none) twin(w, l, i, h, want);
            for (uint32_t d = 0; d < s->v; d++) {
                double e = fabs((none ? 0 : want[d]) - (double)o[h * s->v + d]);
                if (!(e <= bad)) bad = e;
                if (!none) top = fmax(top, fabs(want[d]));
            }
        }
    }
    check(bad <= 5e-3 * top, "flash %s, %s: error %g of %g", s->name, what, bad, top);
    check(untouched, "flash %s, %s: writes where nothing belongs", s->name, what);
    check(l->bad == 0, "flash %s, %s: a slot was called bad", s->name, what);
}

static void same_bits(const world *w, const launch *l, const float *o, const char *what) {
    check(memcmp(l->o, o, (size_t)(l->n + SPARE) * w->a.o_ld * sizeof *o) == 0,
          "flash %s: bits depend on %s", w->s->name, what);
}

static float *copy_of(const world *w, const launch *l) {
    size_t bytes = (size_t)(l->n + SPARE) * w->a.o_ld * sizeof(float);
    float *o = malloc(bytes);
    memcpy(o, l->o, bytes);
    return o;
}

/* ---- what is shown ---- */

static void runs_and_contexts(world *w, const span *spans, size_t n, rng *r) {
    for (size_t i = 0; i < n; i++) {
        char what[64];
        if (spans[i].first + spans[i].n > w->s->positions) continue;
        launch l = launch_new(w, &spans[i], 1, r);
        (void)snprintf(what, sizeof what, "%u queries from position %u", spans[i].n,
                       spans[i].first);
        go(w, &l, CROSSOVER, 0, NULL);
        verify(w, &l, what);
        uint32_t want = spans[i].n >= CROSSOVER ? l.n : 0;
        check(l.n_expanded == want, "flash %s, %s: %u rows are expanded, not %u", w->s->name, what,
              l.n_expanded, want);
        float *first = copy_of(w, &l); /* sums of several splits, put away between passes */
        go(w, &l, CROSSOVER, 384, NULL);
        same_bits(w, &l, first, "the scratch");
        free(first);
        launch_free(&l);
    }
}

/* Runs of three sequences at both loops with decode rows between them: right, the same in any
 * scratch and any order of threads, and each run as when it is alone. */
static void mixed(world *w, rng *r) {
    static const span spans[] = {{0, 330, 1, 0, 1, 0}, {1, 0, 47, 0, 1, 0},   {2, 65, 48, 1, 1, 0},
                                 {0, 100, 1, 1, 1, 0}, {1, 200, 90, 1, 2, 3}, {2, 1, 100, 0, 1, 0},
                                 {0, 64, 70, 1, 1, 0}, {1, 500, 1, 0, 1, 0}};
    static const uint32_t scratch[] = {128, 256, 640};
    launch l = launch_new(w, spans, ARRAY_LEN(spans), r);
    go(w, &l, CROSSOVER, 0, NULL);
    verify(w, &l, "mixed");
    check(l.n_expanded == 48 + 90 + 100 + 70, "flash %s: %u rows are expanded", w->s->name,
          l.n_expanded);
    float *first = copy_of(w, &l);
    for (size_t i = 0; i < ARRAY_LEN(scratch); i++) {
        set_order((unsigned)i + 1);
        go(w, &l, CROSSOVER, scratch[i], NULL);
        same_bits(w, &l, first, "the scratch, or the order of threads");
    }
    set_order(0);
    for (size_t i = 0, at = 0; i < ARRAY_LEN(spans); at += spans[i++].n) {
        launch alone = launch_new(w, &spans[i], 1, r);
        size_t heads = (size_t)spans[i].n * w->s->heads;
        memcpy(alone.q_nope, l.q_nope + at * w->s->heads * w->nope_ld, heads * w->nope_ld * 4);
        memcpy(alone.q, l.q + at * w->s->heads * w->slot_values, heads * w->slot_values * 4);
        go(w, &alone, CROSSOVER, 0, NULL);
        check(memcmp(alone.o, first + at * w->a.o_ld, (size_t)spans[i].n * w->a.o_ld * 4) == 0,
              "flash %s: bits depend on what else is in the launch", w->s->name);
        launch_free(&alone);
    }
    free(first);
    launch_free(&l);
}

/* Rows made superfluous by an earlier launch leave their runs before attention starts: one run
 * shrinks below the crossover, one goes. */
static void runs_shrink(world *w, rng *r) {
    static const span spans[] = {
        {0, 10, 60, 0, 1, 0}, {1, 30, 50, 1, 1, 0}, {2, 0, 1, 0, 1, 0}, {2, 70, 130, 0, 1, 0}};
    launch l = launch_new(w, spans, ARRAY_LEN(spans), r);
    uint8_t *halted = array_new(l.n, 1);
    for (uint32_t i = 0; i < l.n; i++) {
        l.flags[i] = CU_ROW_GUARDED;
        l.rows[i].guard = i;
        halted[i] = i >= 60 && i < 110 ? 1 : i == 110 ? 0 : (uint8_t)(rng_below(r, 3) == 0);
    }
    halted[59] = 1;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < l.n; i++)
        kept += !halted[i];
    go(w, &l, CROSSOVER, 128, halted);
    check(l.n_ran == kept, "flash %s: %u rows ran, not %u", w->s->name, l.n_ran, kept);
    verify(w, &l, "rows left out");
    free(halted);
    launch_free(&l);
}

static void a_wrong_map_is_told(world *w, rng *r) {
    static const span spans[] = {{0, 0, 60, 0, 1, 0}};
    launch l = launch_new(w, spans, 1, r);
    uint32_t *maps = malloc((size_t)w->blocks * SEQS * PLANES * 32 * 4);
    memcpy(maps, w->maps, (size_t)w->blocks * SEQS * PLANES * 32 * 4);
    maps[((size_t)w->tables[0] * PLANES + PLANE) * 32 + 17] = w->n_slots;
    world other = *w;
    other.a.cache.maps = dev_bytes(maps, (size_t)w->blocks * SEQS * PLANES * 32 * 4);
    go(&other, &l, CROSSOVER, 0, NULL);
    check(l.bad == 1, "flash %s: a slot out of range goes unseen", w->s->name);
    free(maps);
    launch_free(&l);
}

/* The backend expands a prompt from its crossover on. */
static void a_backend_expands(void) {
    static const uint32_t block[] = {3};
    golden_case g = golden_open("mla");
    err e = {0};
    model_folder *m;
    eng_backend *b = NULL;
    eng_backend_opts o = {.max_loops = 2,
                          .n_rows = 16,
                          .max_launch = 8,
                          .cache_bytes = 1 << 20,
                          .max_positions = 64,
                          .cache_dtype = DTYPE_BF16,
                          .kernels = "bf16-expand"};
    if (!check(model_open(&m, g.dir, &e) == 0, "%s", e.msg)) return;
    if (check(eng__cuda_open_device(&b, m, &o, 0, &e) == 0, "open: %s", e.msg)) {
        eng_row rows[4];
        eng_edit edits[4];
        eng_result r;
        for (uint32_t i = 0; i < 4; i++) {
            rows[i] = (eng_row){.row = i, .pos = i, .token = i, .blocks = block};
            edits[i] = (eng_edit){.block = 3, .slot = i, .n_planes = 1, .off = (uint8_t)i};
        }
        eng_launch l = {ENG_STAGE_PRELUDE, rows, 4, edits, 4};
        check(eng_run(b, &l, &r, &e) == 0, "a launch: %s", e.msg);
        cu_head h;
        memcpy(&h, ((cu_backend *)b)->flight[0].desc, sizeof h);
        check(h.n_runs == 1 && h.n_passes == 1, "%u runs in %u passes", h.n_runs, h.n_passes);
    }
    eng_backend_close(b);
    model_close(m);
    golden_close(&g);
}

void test_flash(void) {
    static const shape shapes[] = {{"4 narrow heads", 4, 16, 8, 32, 16, 600},
                                   {"as mythos_1b", 2, 64, 32, 64, 64, 600},
                                   {"as mythos_10b", 1, 128, 64, 96, 128, 600},
                                   {"odd widths", 3, 88, 8, 32, 40, 600},
                                   {"long", 1, 16, 8, 32, 16, 2400}};
    static const span alone[] = {{0, 0, 1, 0, 1, 0},    {1, 0, 47, 1, 1, 0},  {2, 0, 48, 0, 1, 0},
                                 {0, 1, 63, 1, 1, 0},   {1, 63, 64, 0, 1, 0}, {2, 64, 65, 1, 1, 0},
                                 {0, 65, 128, 0, 1, 0}, {1, 331, 49, 0, 1, 0}};
    static const span far[] = {{0, 0, 513, 1, 1, 0},    {1, 65, 513, 0, 1, 0},
                               {0, 1990, 70, 0, 1, 0},  {1, 2330, 65, 1, 1, 0},
                               {2, 500, 100, 0, 19, 0}, {2, 0, 128, 1, 4, 7}};
    rng r = {77};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        bool is_long = shapes[i].positions > 1000;
        world w = world_new(&shapes[i], &r);
        if (!cu_flash_fits(&w.a, (uint32_t)shared_bytes)) { /* nor does the backend expand then */
            world_free(&w);
            continue;
        }
        if (is_long) runs_and_contexts(&w, far, ARRAY_LEN(far), &r);
        else runs_and_contexts(&w, alone, on_shim && i == 2 ? 4 : ARRAY_LEN(alone), &r);
        if (i == 0 || !on_shim) {
            mixed(&w, &r);
            runs_shrink(&w, &r);
            a_wrong_map_is_told(&w, &r);
        }
        world_free(&w);
    }
    a_backend_expands();
}
