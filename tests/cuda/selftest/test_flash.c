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

#define UNWRITTEN 1024.0f /* value of the output before a launch */

typedef struct {
    const char *name;
    uint32_t heads, nope, rope, lora, value, positions;
} flash_shape;

/* Rows of one sequence: positions first, first + step, …; every kv_only-th writes K/V only. */
typedef struct {
    uint32_t seq, first, n_rows, loop, step, kv_only;
} span;

typedef struct {
    const flash_shape *shape;
    uint32_t n_slots, slot_values, blocks, nope_ld;
    uint32_t *maps, *tables; /* [blocks * SEQS][PLANES][32]; [SEQS][blocks] */
    float *slots, *uk, *uv;
    float *keys, *values; /* twin: [n_slots][heads][nope], [n_slots][heads][value], as bfloat16 */
    cu_flash_args args;   /* of this shape, without the fields of a launch */
    cu_backend *cuda;     /* only its options and sizes of runs */
} flash_world;

typedef struct {
    uint32_t n_rows, n_expanded;
    eng_row *rows;
    uint16_t *flags;
    float *q_nope, *query, *out; /* out [n_rows + SPARE][o_ld], as it came back */
    cu_row *ran;                 /* the device's rows after the launch; n_ran of them */
    uint32_t n_ran, bad;
} flash_launch;

static void set_order(unsigned order) {
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(order);
#else
    (void)order;
#endif
}

/* ---- a cache, its maps, and the keys and values it stands for ---- */

static uint32_t *shuffled(rng *rnd, uint32_t n) {
    uint32_t *order = malloc(n * sizeof *order);
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rng_below(rnd, i + 1), held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
    return order;
}

/* Slots in random order; every 7th position of the deeper loop names the shallower one's. */
static void world_maps(flash_world *world, rng *rnd) {
    uint32_t n_blocks = world->blocks * SEQS, used = 0;
    uint32_t *slot = shuffled(rnd, world->n_slots);
    world->tables = shuffled(rnd, n_blocks);
    world->maps = malloc((size_t)n_blocks * PLANES * 32 * 4);
    memset(world->maps, 0xff, (size_t)n_blocks * PLANES * 32 * 4);
    for (uint32_t block = 0; block < n_blocks; block++) {
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t *at = world->maps + ((size_t)block * PLANES + PLANE) * 32 + i;
            at[0] = slot[used++];
            at[32] = i % 7 == 3 ? at[0] : slot[used++];
        }
    }
    free(slot);
}

static void world_twin(flash_world *world) {
    const flash_shape *shape = world->shape;
    world->keys = malloc((size_t)world->n_slots * shape->heads * shape->nope * 4);
    world->values = malloc((size_t)world->n_slots * shape->heads * shape->value * 4);
    for (size_t i = 0; i < (size_t)world->n_slots * shape->heads; i++) {
        const float *slot = world->slots + i / shape->heads * world->slot_values;
        size_t head = i % shape->heads;
        for (uint32_t dim = 0; dim < shape->nope + shape->value; dim++) {
            bool key = dim < shape->nope;
            const float *weight = key ? world->uk + head * world->args.uk_head + dim
                                      : world->uv + head * world->args.uv_head +
                                            (size_t)(dim - shape->nope) * world->args.uv_ld;
            float sum = 0;
            for (uint32_t from = 0; from < shape->lora; from++)
                sum += slot[from] * weight[key ? (size_t)from * world->args.uk_ld : from];
            sum = rm_bf16_widen(rm_bf16_narrow(sum));
            if (key) world->keys[i * shape->nope + dim] = sum;
            else world->values[i * shape->value + dim - shape->nope] = sum;
        }
    }
}

/* Weights with zeros in the padding of matrices. */
static float *padded(rng *rnd, uint32_t heads, uint32_t rows, uint32_t all, uint32_t n,
                     uint32_t ld) {
    float *out = calloc((size_t)heads * all * ld, sizeof *out);
    for (uint32_t head = 0; head < heads; head++) {
        for (uint32_t i = 0; i < rows; i++) {
            for (uint32_t col = 0; col < n; col++)
                out[((size_t)head * all + i) * ld + col] = rng_float(rnd) * 2.0f / sqrtf((float)n);
        }
    }
    return out;
}

static flash_world world_new(const flash_shape *shape, rng *rnd) {
    flash_world world = {.shape = shape,
                         .blocks = (shape->positions + 31) / 32,
                         .slot_values = shape->lora + shape->rope};
    world.n_slots = world.blocks * SEQS * 32 * LOOPS;
    world.nope_ld = cu_round(shape->nope, CU_K_STEP);
    world.slots = random_floats(rnd, (size_t)world.n_slots * world.slot_values, 1.0f);
    uint32_t v16 = cu_round(shape->value, CU_MM_ROWS), lora16 = cu_round(shape->lora, CU_MM_ROWS);
    world.args = (cu_flash_args){.plane = PLANE,
                                 .by_loop = true,
                                 .no_query = CU_ROW_KV_ONLY,
                                 .n_heads = shape->heads,
                                 .nope = shape->nope,
                                 .rope = shape->rope,
                                 .kv_lora = shape->lora,
                                 .v = shape->value,
                                 .uk_head = (uint64_t)lora16 * world.nope_ld,
                                 .uv_head = (uint64_t)v16 * shape->lora,
                                 .uk_ld = world.nope_ld,
                                 .uv_ld = shape->lora,
                                 .nope_ld = world.nope_ld,
                                 .scale = 0.3f,
                                 .o_ld = cu_round(shape->heads * shape->value, CU_K_STEP) + 32};
    world_maps(&world, rnd);
    world.uk = padded(rnd, shape->heads, shape->lora, lora16, shape->nope, world.nope_ld);
    world.uv = padded(rnd, shape->heads, shape->value, v16, shape->lora, shape->lora);
    world.args.uk = dev_act(world.uk, shape->heads * world.args.uk_head, false);
    world.args.uv = dev_act(world.uv, shape->heads * world.args.uv_head, false);
    world.args.cache =
        (cu_cache){.slots = dev_act(world.slots, (size_t)world.n_slots * world.slot_values, false),
                   .maps = dev_bytes(world.maps, (size_t)world.blocks * SEQS * PLANES * 32 * 4),
                   .n_slots = world.n_slots,
                   .n_blocks = world.blocks * SEQS,
                   .n_planes = PLANES,
                   .slot_values = world.slot_values};
    world_twin(&world);
    world.cuda = array_new(1, sizeof *world.cuda);
    world.cuda->plan.n_core = 1;
    world.cuda->opts.max_launch = 1024;
    world.cuda->opts.max_positions = world.blocks * 32;
    check(cu_flash_fits(&world.args, 99 << 10) || shape->nope + shape->value > 200,
          "flash %s: does not fit", shape->name);
    return world;
}

static void world_free(flash_world *world) {
    free(world->maps);
    free(world->tables);
    free(world->slots);
    free(world->uk);
    free(world->uv);
    free(world->keys);
    free(world->values);
    free(world->cuda);
    dev_free_all();
}

/* ---- one launch ---- */

static flash_launch launch_new(const flash_world *world, const span *spans, size_t n_spans,
                               rng *rnd) {
    const flash_shape *shape = world->shape;
    flash_launch launch = {0};
    for (size_t i = 0; i < n_spans; i++)
        launch.n_rows += spans[i].n_rows;
    launch.rows = array_new(launch.n_rows + 1, sizeof *launch.rows);
    launch.flags = array_new(launch.n_rows + 1, sizeof *launch.flags);
    uint32_t n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        for (uint32_t k = 0; k < spans[i].n_rows; k++, n++) {
            launch.rows[n] =
                (eng_row){.row = n,
                          .pos = spans[i].first + k * (spans[i].step ? spans[i].step : 1),
                          .loop = (uint16_t)spans[i].loop,
                          .blocks = world->tables + spans[i].seq * world->blocks};
            if (spans[i].kv_only && k % spans[i].kv_only == 1) launch.flags[n] = CU_ROW_KV_ONLY;
        }
    }
    size_t heads = (size_t)(launch.n_rows + SPARE) * shape->heads;
    launch.q_nope = random_floats(rnd, heads * world->nope_ld, 1.0f);
    launch.query = random_floats(rnd, heads * world->slot_values, 1.0f);
    for (size_t i = 0; i < heads; i++) {
        for (uint32_t col = shape->nope; col < world->nope_ld; col++)
            launch.q_nope[i * world->nope_ld + col] = 0;
        for (uint32_t col = 0; col < shape->lora; col++)
            launch.query[i * world->slot_values + col] = NAN; /* absorbed: not for us */
    }
    launch.out = array_new((size_t)(launch.n_rows + SPARE) * world->args.o_ld, sizeof *launch.out);
    launch.ran = array_new(launch.n_rows + 1, sizeof *launch.ran);
    return launch;
}

static void launch_free(flash_launch *launch) {
    free(launch->rows);
    free(launch->flags);
    free(launch->q_nope);
    free(launch->query);
    free(launch->out);
    free(launch->ran);
}

/* The descriptor as launch.c packs it, on the host. */
static uint8_t *pack(const flash_world *world, flash_launch *launch, size_t *bytes, bool *all,
                     uint32_t *bad, bool ahead) {
    size_t tables = (size_t)SEQS * world->blocks;
    cu_head head = {.n_rows = launch->n_rows, .rows = sizeof head, .ahead = ahead, .bad = bad};
    head.tiles = head.rows + launch->n_rows * (uint32_t)sizeof(cu_row);
    head.edits = head.draws = head.tables = cu_round(head.tiles, 16);
    *bytes = cu_round(head.tables + (uint32_t)tables * 4, 16);
    uint8_t *desc = array_new(*bytes + eng__cuda_runs_bytes(world->cuda) + 16, 1);
    memcpy(desc, &head, sizeof head);
    memcpy(desc + head.tables, world->tables, tables * 4);
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        ((cu_row *)(void *)(desc + head.rows))[i] =
            (cu_row){.row = row->row,
                     .pos = row->pos,
                     .loop = row->loop,
                     .table = (uint32_t)(row->blocks - world->tables),
                     .flags = launch->flags[i],
                     .guard = row->guard,
                     .at = i};
    }
    eng_launch el = {.stage = ENG_STAGE_RECURRENT, .rows = launch->rows, .n_rows = launch->n_rows};
    *bytes = cu_round((uint32_t)eng__cuda_put_runs(world->cuda, &el, desc, *bytes, all), 16);
    ((cu_head *)(void *)desc)->bytes = (uint32_t)*bytes;
    return desc;
}

/* Runs the launch with a crossover and a scratch of so many keys; halted: rows with a halted
 * guard. */
static void go(flash_world *world, flash_launch *launch, uint32_t crossover, uint32_t keys,
               const uint8_t *halted) {
    const flash_shape *shape = world->shape;
    cu_flash_args args = world->args;
    uint32_t cap = launch->n_rows + SPARE, zero[4] = {0};
    size_t bytes, parts = (size_t)cap * CU_FLASH_SPLITS * shape->heads;
    bool all;
    eng__cuda_size_runs(world->cuda, crossover, keys, cu_flash_key_bytes(&args));
    args.keys = world->cuda->flash.keys;
    uint32_t *bad = dev_bytes(zero, sizeof zero);
    uint8_t *host = pack(world, launch, &bytes, &all, bad, halted != NULL);
    cu_head head;
    memcpy(&head, host, sizeof head);
    void *desc = dev_bytes(host, bytes);
    args.desc = desc;
    args.q_nope = dev_act(launch->q_nope, (size_t)cap * shape->heads * world->nope_ld, false);
    args.q = dev_act(launch->query, (size_t)cap * shape->heads * world->slot_values, false);
    args.k = dev_poison((size_t)shape->heads * args.keys * cu_round(shape->nope, 16) * 2);
    args.values = dev_poison((size_t)shape->heads * args.keys * cu_round(shape->value, 16) * 2);
    args.k_rope = dev_poison((size_t)args.keys * cu_round(shape->rope, 16) * 2);
    args.part_o = dev_poison(parts * shape->value * 4);
    args.part_ml = dev_poison(parts * 8);
    for (size_t i = 0; i < (size_t)cap * args.o_ld; i++)
        launch->out[i] = UNWRITTEN; /* not NaN: a sum over poison would be NaN too */
    args.o = dev_act(launch->out, (size_t)cap * args.o_ld, false);
    if (halted) dev_begin(desc, &args.cache, dev_bytes(halted, launch->n_rows));
    for (uint32_t pass = 0; pass < (head.n_passes ? head.n_passes : 1); pass++) {
        must(cu_flash_expand(test_stream, &args, pass), "expand");
        must(cu_flash_attend(test_stream, &args, pass, eng__cuda_flash_tiles(world->cuda, cap) + 1),
             "attend");
    }
    must(cu_flash_merge(test_stream, &args, cap), "merge");
    host_act(launch->out, args.o, (size_t)cap * args.o_ld, false);
    host_bytes(host, desc, bytes);
    memcpy(&head, host, sizeof head);
    launch->n_ran = head.n_rows;
    launch->n_expanded = 0;
    memcpy(launch->ran, host + head.rows, head.n_rows * sizeof(cu_row));
    for (uint32_t i = 0; i < head.n_rows; i++)
        launch->n_expanded += (launch->ran[i].flags & CU_ROW_EXPANDED) != 0;
    host_bytes(&launch->bad, bad, 4);
    check(all == (launch->n_rows > 0 && launch->n_expanded == launch->n_rows) || halted != NULL,
          "flash %s: %u of %u rows expanded are%s all", shape->name, launch->n_expanded,
          launch->n_rows, all ? "" : " not");
    free(host);
}

/* ---- verdicts ---- */

/* Launch row i, as it ran, in double. */
static void twin(const flash_world *world, const flash_launch *launch, uint32_t i, uint32_t head,
                 double *out) {
    const flash_shape *shape = world->shape;
    const cu_row *row = &launch->ran[i];
    const float *qn = launch->q_nope + ((size_t)i * shape->heads + head) * world->nope_ld;
    const float *qr =
        launch->query + ((size_t)i * shape->heads + head) * world->slot_values + shape->lora;
    double *score = malloc((row->pos + 1) * sizeof *score), top = -INFINITY, sum = 0;
    for (uint32_t pos = 0; pos <= row->pos; pos++) {
        size_t slot =
            rm_slot(world->maps, world->tables + row->table, PLANES, PLANE + row->loop, pos);
        const float *k = world->keys + (slot * shape->heads + head) * shape->nope;
        const float *kr = world->slots + slot * world->slot_values + shape->lora;
        score[pos] = 0;
        for (uint32_t dim = 0; dim < shape->nope; dim++)
            score[pos] += (double)qn[dim] * (double)k[dim];
        for (uint32_t dim = 0; dim < shape->rope; dim++)
            score[pos] += (double)qr[dim] * (double)kr[dim];
        score[pos] *= (double)world->args.scale;
        top = fmax(top, score[pos]);
    }
    memset(out, 0, shape->value * sizeof *out);
    for (uint32_t pos = 0; pos <= row->pos; pos++)
        sum += score[pos] = exp(score[pos] - top);
    for (uint32_t pos = 0; pos <= row->pos; pos++) {
        size_t slot =
            rm_slot(world->maps, world->tables + row->table, PLANES, PLANE + row->loop, pos);
        const float *value = world->values + (slot * shape->heads + head) * shape->value;
        for (uint32_t dim = 0; dim < shape->value; dim++)
            out[dim] += score[pos] / sum * (double)value[dim];
    }
    free(score);
}

/* Expanded rows are near the twin (K/V-only ones zero), everything else is as it was. */
static void verify(const flash_world *world, const flash_launch *launch, const char *what) {
    const flash_shape *shape = world->shape;
    double bad = 0, top = 0, want[128];
    bool untouched = true;
    for (uint32_t i = 0; i < launch->n_rows + SPARE; i++) {
        const float *out = launch->out + (size_t)i * world->args.o_ld;
        bool mine = i < launch->n_ran && launch->ran[i].flags & CU_ROW_EXPANDED;
        for (uint32_t col = mine ? shape->heads * shape->value : 0; col < world->args.o_ld; col++)
            untouched &= out[col] == UNWRITTEN;
        for (uint32_t head = 0; mine && head < shape->heads; head++) {
            bool none = launch->ran[i].flags & CU_ROW_KV_ONLY;
            if (!none) twin(world, launch, i, head, want);
            for (uint32_t dim = 0; dim < shape->value; dim++) {
                double e = fabs((none ? 0 : want[dim]) - (double)out[head * shape->value + dim]);
                if (!(e <= bad)) bad = e;
                if (!none) top = fmax(top, fabs(want[dim]));
            }
        }
    }
    check(bad <= 5e-3 * top, "flash %s, %s: error %g of %g", shape->name, what, bad, top);
    check(untouched, "flash %s, %s: writes where nothing belongs", shape->name, what);
    check(launch->bad == 0, "flash %s, %s: a slot was called bad", shape->name, what);
}

static void same_bits(const flash_world *world, const flash_launch *launch, const float *out,
                      const char *what) {
    check(memcmp(launch->out, out,
                 (size_t)(launch->n_rows + SPARE) * world->args.o_ld * sizeof *out) == 0,
          "flash %s: bits depend on %s", world->shape->name, what);
}

static float *copy_of(const flash_world *world, const flash_launch *launch) {
    size_t bytes = (size_t)(launch->n_rows + SPARE) * world->args.o_ld * sizeof(float);
    float *out = malloc(bytes);
    memcpy(out, launch->out, bytes);
    return out;
}

/* ---- what is shown ---- */

static void runs_and_contexts(flash_world *world, const span *spans, size_t n, rng *rnd) {
    for (size_t i = 0; i < n; i++) {
        char what[64];
        if (spans[i].first + spans[i].n_rows > world->shape->positions) continue;
        flash_launch launch = launch_new(world, &spans[i], 1, rnd);
        (void)snprintf(what, sizeof what, "%u queries from position %u", spans[i].n_rows,
                       spans[i].first);
        go(world, &launch, CROSSOVER, 0, NULL);
        verify(world, &launch, what);
        uint32_t want = spans[i].n_rows >= CROSSOVER ? launch.n_rows : 0;
        check(launch.n_expanded == want, "flash %s, %s: %u rows are expanded, not %u",
              world->shape->name, what, launch.n_expanded, want);
        float *first =
            copy_of(world, &launch); /* sums of several splits, put away between passes */
        go(world, &launch, CROSSOVER, 384, NULL);
        same_bits(world, &launch, first, "the scratch");
        free(first);
        launch_free(&launch);
    }
}

/* Runs of three sequences at both loops with decode rows between them: right, the same in any
 * scratch and any order of threads, and each run as when it is alone. */
static void mixed(flash_world *world, rng *rnd) {
    static const span spans[] = {{0, 330, 1, 0, 1, 0}, {1, 0, 47, 0, 1, 0},   {2, 65, 48, 1, 1, 0},
                                 {0, 100, 1, 1, 1, 0}, {1, 200, 90, 1, 2, 3}, {2, 1, 100, 0, 1, 0},
                                 {0, 64, 70, 1, 1, 0}, {1, 500, 1, 0, 1, 0}};
    static const uint32_t scratch[] = {128, 256, 640};
    flash_launch launch = launch_new(world, spans, ARRAY_LEN(spans), rnd);
    go(world, &launch, CROSSOVER, 0, NULL);
    verify(world, &launch, "mixed");
    check(launch.n_expanded == 48 + 90 + 100 + 70, "flash %s: %u rows are expanded",
          world->shape->name, launch.n_expanded);
    float *first = copy_of(world, &launch);
    for (size_t i = 0; i < ARRAY_LEN(scratch); i++) {
        set_order((unsigned)i + 1);
        go(world, &launch, CROSSOVER, scratch[i], NULL);
        same_bits(world, &launch, first, "the scratch, or the order of threads");
    }
    set_order(0);
    for (size_t i = 0, at = 0; i < ARRAY_LEN(spans); at += spans[i++].n_rows) {
        flash_launch alone = launch_new(world, &spans[i], 1, rnd);
        size_t heads = (size_t)spans[i].n_rows * world->shape->heads;
        memcpy(alone.q_nope, launch.q_nope + at * world->shape->heads * world->nope_ld,
               heads * world->nope_ld * 4);
        memcpy(alone.query, launch.query + at * world->shape->heads * world->slot_values,
               heads * world->slot_values * 4);
        go(world, &alone, CROSSOVER, 0, NULL);
        check(memcmp(alone.out, first + at * world->args.o_ld,
                     (size_t)spans[i].n_rows * world->args.o_ld * 4) == 0,
              "flash %s: bits depend on what else is in the launch", world->shape->name);
        launch_free(&alone);
    }
    free(first);
    launch_free(&launch);
}

/* Rows made superfluous by an earlier launch leave their runs before attention starts: one run
 * shrinks below the crossover, one goes. */
static void runs_shrink(flash_world *world, rng *rnd) {
    static const span spans[] = {
        {0, 10, 60, 0, 1, 0}, {1, 30, 50, 1, 1, 0}, {2, 0, 1, 0, 1, 0}, {2, 70, 130, 0, 1, 0}};
    flash_launch launch = launch_new(world, spans, ARRAY_LEN(spans), rnd);
    uint8_t *halted = array_new(launch.n_rows, 1);
    for (uint32_t i = 0; i < launch.n_rows; i++) {
        launch.flags[i] = CU_ROW_GUARDED;
        launch.rows[i].guard = i;
        halted[i] = i >= 60 && i < 110 ? 1 : i == 110 ? 0 : (uint8_t)(rng_below(rnd, 3) == 0);
    }
    halted[59] = 1;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < launch.n_rows; i++)
        kept += !halted[i];
    go(world, &launch, CROSSOVER, 128, halted);
    check(launch.n_ran == kept, "flash %s: %u rows ran, not %u", world->shape->name, launch.n_ran,
          kept);
    verify(world, &launch, "rows left out");
    free(halted);
    launch_free(&launch);
}

static void a_wrong_map_is_told(flash_world *world, rng *rnd) {
    static const span spans[] = {{0, 0, 60, 0, 1, 0}};
    flash_launch launch = launch_new(world, spans, 1, rnd);
    uint32_t *maps = malloc((size_t)world->blocks * SEQS * PLANES * 32 * 4);
    memcpy(maps, world->maps, (size_t)world->blocks * SEQS * PLANES * 32 * 4);
    maps[((size_t)world->tables[0] * PLANES + PLANE) * 32 + 17] = world->n_slots;
    flash_world other = *world;
    other.args.cache.maps = dev_bytes(maps, (size_t)world->blocks * SEQS * PLANES * 32 * 4);
    go(&other, &launch, CROSSOVER, 0, NULL);
    check(launch.bad == 1, "flash %s: a slot out of range goes unseen", world->shape->name);
    free(maps);
    launch_free(&launch);
}

/* The backend expands a prompt from its crossover on. */
static void a_backend_expands(void) {
    static const uint32_t block[] = {3};
    golden_case golden = golden_open("mla");
    err e = {0};
    model_folder *model;
    eng_backend *eng = NULL;
    eng_backend_opts opts = {.max_loops = 2,
                             .n_rows = 16,
                             .max_launch = 8,
                             .cache_bytes = 1 << 20,
                             .max_positions = 64,
                             .cache_dtype = DTYPE_BF16,
                             .kernels = "bf16-expand"};
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s", e.msg)) return;
    if (check(eng__cuda_open_device(&eng, model, &opts, 0, &e) == 0, "open: %s", e.msg)) {
        eng_row rows[4];
        eng_edit edits[4];
        eng_result result;
        for (uint32_t i = 0; i < 4; i++) {
            rows[i] = (eng_row){.row = i, .pos = i, .token = i, .blocks = block};
            edits[i] = (eng_edit){.block = 3, .slot = i, .n_planes = 1, .off = (uint8_t)i};
        }
        eng_launch launch = {ENG_STAGE_PRELUDE, rows, 4, edits, 4};
        check(eng_run(eng, &launch, &result, &e) == 0, "a launch: %s", e.msg);
        cu_head head;
        memcpy(&head, ((cu_backend *)eng)->flight[0].desc, sizeof head);
        check(head.n_runs == 1 && head.n_passes == 1, "%u runs in %u passes", head.n_runs,
              head.n_passes);
    }
    eng_backend_close(eng);
    model_close(model);
    golden_close(&golden);
}

void test_flash(void) {
    static const flash_shape shapes[] = {{"4 narrow heads", 4, 16, 8, 32, 16, 600},
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
    rng rnd = {77};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        bool is_long = shapes[i].positions > 1000;
        flash_world world = world_new(&shapes[i], &rnd);
        if (!cu_flash_fits(&world.args,
                           (uint32_t)shared_bytes)) { /* nor does the backend expand then */
            world_free(&world);
            continue;
        }
        if (is_long) runs_and_contexts(&world, far, ARRAY_LEN(far), &rnd);
        else runs_and_contexts(&world, alone, on_shim && i == 2 ? 4 : ARRAY_LEN(alone), &rnd);
        if (i == 0 || !on_shim) {
            mixed(&world, &rnd);
            runs_shrink(&world, &rnd);
            a_wrong_map_is_told(&world, &rnd);
        }
        world_free(&world);
    }
    a_backend_expands();
}
