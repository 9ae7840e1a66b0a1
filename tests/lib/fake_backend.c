/* fake_backend.c - the integer model as a backend. */
#include "tests/lib/fake_backend.h"

#include "tests/lib/fake_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void fake_opts_default(fake_opts *opts) {
    *opts = (fake_opts){.seed = 1,
                        .policy = KV_EXACT,
                        .vocab = 64,
                        .n_core = 1,
                        .n_prelude = 1,
                        .n_coda = 1,
                        .max_loops = 8,
                        .max_seq_len = 4096,
                        .n_slots = 1 << 16,
                        .n_blocks = 1 << 10,
                        .n_rows = 512,
                        .max_launch = 256,
                        .max_logits = 64,
                        .mean_depth = 3,
                        .fixed_ns = {1000, 4000, 2000},
                        .row_ns = {10, 20, 20},
                        .max_flights = 1};
}

/* ---- the backend ---- */

typedef struct {
    uint64_t content;
    uint32_t block, off, plane; /* the place it was written for */
    bool written, halted;       /* halted: the position left the loop here, or its tail ended */
    bool collapsed;             /* stands in for all loops of its position */
    bool draft;                 /* written by the coda of a draft */
} fake_slot;

typedef struct {
    uint64_t state, input, out;
    uint32_t last_slot; /* of the last loop run */
    bool halted;
} fake_row;

typedef struct { /* a deep copy of a launch */
    eng_launch launch;
    eng_row *rows;
    eng_edit *edits;
    eng_draw *draws; /* one per sampling row */
    eng_sampling *sampling;
    uint32_t *blocks;
} fake_flight;

enum { MAX_QUEUE = 2 };

typedef struct {
    eng_backend base;
    model_plan config;
    fake_opts opts;
    fake_slot *slots; /* [home][slot] */
    uint32_t *maps;   /* [home][block][plane][off] */
    fake_row *rows;
    fake_flight queue[MAX_QUEUE]; /* oldest first */
    uint32_t n_queued;
    eng_row *kept; /* of a recurrent launch: the rows not left out, and their indices */
    uint32_t *kept_at;
    uint8_t *halted, *seen;
    float *logits, *head;
    eng_choice *choices;
    eng_sampler *sampler;
    uint64_t *hidden, *sum;
    uint64_t launches, codas, schedule, written, idle_loops, left_out, logits_given, choices_given,
        fullest_rows;
    uint32_t n_logits, n_choices, n_ran;
    char breach[200];
} fake;

static void breach(fake *dev, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void breach(fake *dev, const char *fmt, ...) {
    if (dev->breach[0]) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(dev->breach, sizeof dev->breach, fmt, args);
    va_end(args);
}

static uint32_t *map_at(fake *dev, uint32_t home, uint32_t block, uint32_t plane, uint32_t off) {
    size_t at = (size_t)home * dev->opts.n_blocks + block;
    return &dev->maps[(at * dev->base.info.n_planes + plane) * ENG_BLOCK + off];
}

static fake_slot *slot_at(fake *dev, uint32_t home, uint32_t slot) {
    return &dev->slots[(size_t)home * dev->opts.n_slots + slot];
}

static bool is_home(const fake *dev, uint32_t home) {
    return home == 0 || home < dev->opts.n_homes;
}

/* The slot of a position's deepest loop becomes that of all its loops. */
static void collapse(fake *dev, const eng_edit *edit) {
    fake_slot *deepest = slot_at(dev, edit->home, edit->slot);
    uint32_t last = (uint32_t)edit->plane + edit->n_planes - 1;
    if (!deepest->written || deepest->block != edit->block || deepest->off != edit->off ||
        deepest->plane != last || edit->plane != fake_planes(&dev->opts, 0)) {
        breach(dev, "slot %u is not that of the deepest loop of a position, or not written yet",
               edit->slot);
    }
    for (uint32_t plane = edit->plane; plane < last; plane++)
        slot_at(dev, edit->home, *map_at(dev, edit->home, edit->block, plane, edit->off))->written =
            false;
    deepest->collapsed = true;
    dev->written -= last - edit->plane;
}

static void apply_edits(fake *dev, const eng_launch *launch) {
    for (uint32_t i = 0; i < launch->n_edits; i++) {
        const eng_edit *edit = &launch->edits[i];
        if (edit->block >= dev->opts.n_blocks || edit->slot >= dev->opts.n_slots ||
            edit->off >= ENG_BLOCK || edit->plane + edit->n_planes > dev->base.info.n_planes ||
            edit->n_planes == 0 || !is_home(dev, edit->home)) {
            breach(dev, "edit %u is out of range", i);
            continue;
        }
        if (edit->guarded && edit->guard >= dev->opts.n_rows) {
            breach(dev, "the guard of edit %u is out of range", i);
            continue;
        }
        if (edit->guarded && dev->rows[edit->guard].halted) continue;
        bool collapses = dev->opts.policy == KV_COLLAPSE && edit->n_planes > 1;
        if (collapses) collapse(dev, edit);
        /* Any other slot is mapped once, for all its planes, and starts empty. */
        else slot_at(dev, edit->home, edit->slot)->written = false;
        for (uint32_t plane = edit->plane; plane < (uint32_t)edit->plane + edit->n_planes;
             plane++) {
            *map_at(dev, edit->home, edit->block, plane, edit->off) = edit->slot;
        }
    }
}

static void write_slot(fake *dev, const eng_row *row, uint32_t plane, uint64_t content) {
    uint32_t block = row->blocks[row->pos / ENG_BLOCK], off = row->pos % ENG_BLOCK;
    uint32_t slot = *map_at(dev, row->home, block, plane, off);
    if (slot == ENG_NO_SLOT) {
        breach(dev, "position %u plane %u is written without a slot", row->pos, plane);
        return;
    }
    fake_slot *cell = slot_at(dev, row->home, slot);
    bool again = cell->written && cell->draft;
    if (cell->written && !again)
        breach(dev, "position %u plane %u: slot %u is written twice", row->pos, plane, slot);
    *cell = (fake_slot){.content = content,
                        .block = block,
                        .off = off,
                        .plane = plane,
                        .written = true,
                        .draft = (row->flags & ENG_ROW_DRAFT) != 0};
    dev->written += !again;
    dev->rows[row->row].last_slot = slot;
}

static uint64_t attend(fake *dev, const eng_row *row, uint32_t plane) {
    if (dev->opts.instant) return 0;
    uint32_t first_loop = fake_planes(&dev->opts, 0);
    uint64_t sum = 0;
    for (uint32_t from = 0; from <= row->pos; from++) {
        uint32_t block = row->blocks[from / ENG_BLOCK], off = from % ENG_BLOCK;
        uint32_t slot = *map_at(dev, row->home, block, plane, off);
        const fake_slot *cell = slot == ENG_NO_SLOT ? NULL : slot_at(dev, row->home, slot);
        if (cell == NULL || !cell->written) {
            breach(dev, "position %u reads position %u at plane %u: unwritten", row->pos, from,
                   plane);
            continue;
        }
        if (cell->block != block || cell->off != off) {
            breach(dev, "position %u reads position %u at plane %u: another's slot", row->pos, from,
                   plane);
        }
        if (cell->draft && !(row->flags & ENG_ROW_DRAFT))
            breach(dev, "position %u reads a draft of position %u", row->pos, from);
        if (cell->plane != plane) {
            bool stands_in = plane >= first_loop && cell->plane >= first_loop &&
                             (cell->collapsed ||
                              (dev->opts.policy == KV_LAST && cell->plane < plane && cell->halted));
            if (!stands_in) {
                breach(dev, "position %u reads position %u at plane %u and finds plane %u",
                       row->pos, from, plane, cell->plane);
            }
        }
        sum = mix(sum, cell->content);
    }
    return sum;
}

/* One layer or loop over all rows: first all writes, then all reads. */
static void layer(fake *dev, const eng_launch *launch, uint32_t plane) {
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        uint32_t own = launch->stage == ENG_STAGE_RECURRENT ? plane + launch->rows[i].loop : plane;
        write_slot(dev, &launch->rows[i], own, model_latent(dev->hidden[i], own));
    }
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        if (launch->stage == ENG_STAGE_RECURRENT && launch->rows[i].flags & ENG_ROW_KV_ONLY)
            continue;
        uint32_t own = launch->stage == ENG_STAGE_RECURRENT ? plane + launch->rows[i].loop : plane;
        dev->sum[i] = attend(dev, &launch->rows[i], own);
    }
}

static void prelude(fake *dev, const eng_launch *launch) {
    for (uint32_t i = 0; i < launch->n_rows; i++)
        dev->hidden[i] = model_embed(&dev->opts, launch->rows[i].token, launch->rows[i].pos);
    for (uint32_t plane = 0; plane < fake_bundles(&dev->opts, dev->opts.n_prelude); plane++) {
        layer(dev, launch, plane);
        for (uint32_t i = 0; i < launch->n_rows; i++)
            dev->hidden[i] = mix(dev->hidden[i], dev->sum[i]);
    }
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        dev->rows[launch->rows[i].row] =
            (fake_row){dev->hidden[i], dev->hidden[i], 0, ENG_NO_SLOT, false};
    }
}

/* Leaves out rows that halted in an earlier launch, or turns them into tails, as their flags say.
 */
static eng_launch keep_rows(fake *dev, const eng_launch *launch) {
    eng_launch kept = {launch->stage, dev->kept, 0, NULL, 0};
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        eng_row row = launch->rows[i];
        const fake_row *at = &dev->rows[row.row];
        dev->halted[i] = 0;
        if (row.flags & ENG_ROW_GUARDED && dev->rows[row.guard].halted) {
            dev->left_out++;
            continue;
        }
        if (row.flags & ENG_ROW_OR_TAIL && at->halted) row.flags |= ENG_ROW_TAIL;
        bool tail = row.flags & (ENG_ROW_TAIL | ENG_ROW_KV_ONLY);
        if (tail != at->halted) {
            breach(dev,
                   tail ? "position %u: the tail of a row that has not halted"
                        : "position %u: a row that halted runs on",
                   row.pos);
        }
        dev->kept_at[kept.n_rows] = i;
        dev->kept[kept.n_rows++] = row;
    }
    return kept;
}

static void loops(fake *dev, const eng_launch *all) {
    uint32_t first = fake_planes(&dev->opts, 0);
    eng_launch kept = keep_rows(dev, all), *launch = &kept;
    dev->n_ran = launch->n_rows;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const fake_row *at = &dev->rows[launch->rows[i].row];
        dev->hidden[i] = mix(mix(at->state, at->input), launch->rows[i].loop);
    }
    layer(dev, launch, first);
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        fake_row *at = &dev->rows[row->row];
        if (row->flags & ENG_ROW_KV_ONLY) continue;
        at->state = mix(dev->hidden[i], dev->sum[i]);
        if (row->flags & ENG_ROW_TAIL) continue;
        at->out = mix(at->out, at->state);
        at->halted = model_halts(&dev->opts, at->state, at->input, row->loop + 1u, row->min_loops,
                                 row->max_loops, row->threshold);
        dev->halted[dev->kept_at[i]] = at->halted;
        if (at->halted && at->last_slot != ENG_NO_SLOT)
            slot_at(dev, row->home, at->last_slot)->halted = true;
    }
}

static void draw_token(fake *dev, const eng_draw *draw, const float *logits) {
    eng_choice *choice = &dev->choices[dev->n_choices++];
    eng_history none = {NULL, NULL, 0, 0};
    err e = {0};
    if (!eng_sampling_is_plain(draw->sampling)) breach(dev, "a draw that is not plain");
    if (eng_sample(dev->sampler, draw->sampling, &none, NULL, logits, draw->index, draw->n_top,
                   choice, &e) != 0)
        choice->token = ENG_NO_TOKEN;
}

static void coda(fake *dev, const eng_launch *launch) {
    dev->codas++;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const fake_row *at = &dev->rows[launch->rows[i].row];
        dev->hidden[i] = at->out;
        if (!at->halted && !(launch->rows[i].flags & ENG_ROW_DRAFT))
            breach(dev, "position %u: the last coda of a row that loops", launch->rows[i].pos);
    }
    for (uint32_t plane = 0; plane < fake_bundles(&dev->opts, dev->opts.n_coda); plane++) {
        layer(dev, launch, fake_bundles(&dev->opts, dev->opts.n_prelude) + plane);
        for (uint32_t i = 0; i < launch->n_rows; i++)
            dev->hidden[i] = mix(dev->hidden[i], dev->sum[i]);
    }
    uint32_t heads = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        uint16_t flags = launch->rows[i].flags;
        if (!(flags & (ENG_ROW_LOGITS | ENG_ROW_SAMPLE))) continue;
        if (heads++ == dev->opts.max_logits) {
            breach(dev, "more than %u rows run the head", dev->opts.max_logits);
            break;
        }
        model_logits(&dev->opts, dev->hidden[i], launch->rows[i].token, launch->rows[i].pos,
                     (flags & ENG_ROW_DRAFT) != 0, dev->head);
        if (dev->codas == dev->opts.nan_at && heads == 1) dev->head[0] = NAN;
        if (flags & ENG_ROW_SAMPLE) draw_token(dev, launch->rows[i].draw, dev->head);
        if (!(flags & ENG_ROW_LOGITS)) continue;
        memcpy(dev->logits + (size_t)dev->n_logits++ * dev->opts.vocab, dev->head,
               dev->opts.vocab * sizeof *dev->head);
    }
    dev->logits_given += dev->n_logits;
    dev->choices_given += dev->n_choices;
}

static void count_fullest(fake *dev, const eng_launch *launch) {
    uint32_t rows[ENG_MOST_HOMES] = {0}, most = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        uint32_t n = ++rows[launch->rows[i].home % ENG_MOST_HOMES];
        most = n > most ? n : most;
    }
    if (launch->stage == ENG_STAGE_RECURRENT) dev->fullest_rows += most;
}

static void check_rows(fake *dev, const eng_launch *launch) {
    memset(dev->seen, 0, dev->opts.n_rows);
    count_fullest(dev, launch);
    if (launch->n_rows == 0 || launch->n_rows > dev->opts.max_launch)
        breach(dev, "a launch of %u rows", launch->n_rows);
    dev->schedule = mix(dev->schedule, launch->stage);
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        dev->schedule = mix(mix(dev->schedule, row->pos), row->loop);
        if (row->row >= dev->opts.n_rows || dev->seen[row->row]++)
            breach(dev, "row %u is wrong or twice in a launch", row->row);
        if (row->loop >= dev->opts.max_loops || row->pos >= dev->opts.max_seq_len)
            breach(dev, "loop or position out of range");
        if (!is_home(dev, row->home)) breach(dev, "home %u out of range", row->home);
        for (uint32_t k = 0; k <= row->pos / ENG_BLOCK; k++) {
            if (row->blocks[k] >= dev->opts.n_blocks)
                breach(dev, "position %u: block %u of its table is out of range", row->pos, k);
        }
        if (launch->stage == ENG_STAGE_PRELUDE && row->token >= dev->opts.vocab)
            breach(dev, "token out of range");
        if (row->flags & ENG_ROW_GUARDED && row->guard >= dev->opts.n_rows)
            breach(dev, "guard out of range");
        if (row->flags & ENG_ROW_DRAFT && launch->stage != ENG_STAGE_CODA)
            breach(dev, "a draft outside the coda");
        if (row->flags & ENG_ROW_SAMPLE && (!dev->opts.samples || row->draw == NULL))
            breach(dev, "a row to sample that cannot be");
        if (row->flags & (ENG_ROW_GUARDED | ENG_ROW_OR_TAIL) && dev->n_queued == 0)
            breach(dev, "a row in doubt with nothing in flight");
    }
}

static void forget(fake_flight *flight) {
    free(flight->rows);
    free(flight->edits);
    free(flight->draws);
    free(flight->sampling);
    free(flight->blocks);
    *flight = (fake_flight){0};
}

/* Copies a launch. Each array has its exact size, so a sanitizer sees any read beyond it. */
static bool copy(fake_flight *flight, const eng_launch *launch) {
    size_t n_blocks = 0, n_draws = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        n_blocks += launch->rows[i].pos / ENG_BLOCK + 1;
        n_draws += launch->rows[i].draw != NULL;
    }
    *flight = (fake_flight){.launch = *launch,
                            .rows = malloc(launch->n_rows * sizeof *flight->rows),
                            .edits = malloc((launch->n_edits + 1) * sizeof *flight->edits),
                            .draws = malloc((n_draws + 1) * sizeof *flight->draws),
                            .sampling = malloc((n_draws + 1) * sizeof *flight->sampling),
                            .blocks = malloc(n_blocks * sizeof *flight->blocks)};
    if (!flight->rows || !flight->edits || !flight->draws || !flight->sampling || !flight->blocks)
        return false;
    memcpy(flight->rows, launch->rows, launch->n_rows * sizeof *flight->rows);
    if (launch->n_edits)
        memcpy(flight->edits, launch->edits, launch->n_edits * sizeof *flight->edits);
    uint32_t *blocks = flight->blocks;
    n_draws = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        eng_row *row = &flight->rows[i];
        size_t n = row->pos / ENG_BLOCK + 1;
        memcpy(blocks, row->blocks, n * sizeof *blocks);
        row->blocks = blocks;
        blocks += n;
        if (row->draw == NULL) continue;
        flight->sampling[n_draws] = *row->draw->sampling;
        flight->draws[n_draws] = *row->draw;
        flight->draws[n_draws].sampling = &flight->sampling[n_draws];
        row->draw = &flight->draws[n_draws++];
    }
    flight->launch.rows = flight->rows;
    flight->launch.edits = flight->edits;
    return true;
}

static void spoil_results(fake *dev) {
    memset(dev->halted, 0xee, dev->opts.max_launch);
    memset(dev->logits, 0xee, (size_t)dev->n_logits * dev->opts.vocab * sizeof *dev->logits);
    memset(dev->choices, 0xee, dev->n_choices * sizeof *dev->choices);
}

static bool planned_failure(const fake *dev, uint64_t launch) {
    return dev->opts.fail_at && launch >= dev->opts.fail_at;
}

static int fake_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    fake *dev = (fake *)backend;
    dev->launches++;
    if (dev->n_queued == dev->opts.max_flights)
        breach(dev, "%u launches in flight", dev->n_queued + 1);
    if (planned_failure(dev, dev->launches) && dev->opts.max_flights == 1)
        return err_set(e, ERR_DEVICE, NULL, "planned failure");
    if (launch->n_rows > 0 && launch->stage == ENG_STAGE_RECURRENT && launch->rows[0].loop > 0)
        dev->idle_loops += dev->n_queued == 0;
    check_rows(dev, launch);
    if (dev->breach[0]) {
        /* Running the launch could read out of range. The test fails anyway. */
        return err_set(e, ERR_DEVICE, NULL, "%s", dev->breach);
    }
    spoil_results(dev);
    if (!copy(&dev->queue[dev->n_queued++], launch))
        return err_set(e, ERR_DEVICE, NULL, "out of memory");
    return 0;
}

static void execute(fake *dev, const eng_launch *launch) {
    apply_edits(dev, launch);
    dev->n_ran = launch->n_rows;
    dev->n_logits = dev->n_choices = 0;
    switch (launch->stage) {
    case ENG_STAGE_PRELUDE: prelude(dev, launch); break;
    case ENG_STAGE_RECURRENT: loops(dev, launch); break;
    case ENG_STAGE_CODA: coda(dev, launch); break;
    }
    if (dev->opts.nap_us) {
        struct timespec nap = {0, (long)dev->opts.nap_us * 1000};
        nanosleep(&nap, NULL);
    }
}

static int fake_wait(eng_backend *backend, eng_result *result, err *e) {
    fake *dev = (fake *)backend;
    if (dev->n_queued == 0) return err_set(e, ERR_DEVICE, NULL, "nothing to wait for");
    fake_flight flight = dev->queue[0];
    dev->queue[0] = dev->queue[1];
    dev->queue[1] = (fake_flight){0};
    dev->n_queued--;
    bool fails = planned_failure(dev, dev->launches - dev->n_queued);
    if (!fails) execute(dev, &flight.launch);
    eng_stage stage = flight.launch.stage;
    forget(&flight);
    if (fails) return err_set(e, ERR_DEVICE, NULL, "planned failure");
    if (dev->breach[0]) return err_set(e, ERR_DEVICE, NULL, "%s", dev->breach);
    uint64_t ns = dev->n_ran ? dev->opts.fixed_ns[stage] + dev->opts.row_ns[stage] * dev->n_ran : 0;
    *result = (eng_result){.halted = dev->halted,
                           .logits = dev->logits,
                           .n_logits = dev->n_logits,
                           .choices = dev->choices,
                           .n_choices = dev->n_choices,
                           .ns = ns};
    return 0;
}

static void fake_close(eng_backend *backend) {
    fake *dev = (fake *)backend;
    for (uint32_t i = 0; i < MAX_QUEUE; i++)
        forget(&dev->queue[i]);
    eng_sampler_destroy(dev->sampler);
    free(dev->kept);
    free(dev->kept_at);
    free(dev->head);
    free(dev->choices);
    free(dev->slots);
    free(dev->maps);
    free(dev->rows);
    free(dev->halted);
    free(dev->seen);
    free(dev->logits);
    free(dev->hidden);
    free(dev->sum);
    free(dev);
}

eng_backend *fake_backend_create(const fake_opts *opts) {
    static const eng_backend_ops ops = {fake_launch, fake_wait, fake_close};
    fake *dev = calloc(1, sizeof *dev);
    if (dev == NULL) return NULL;
    dev->opts = *opts;
    dev->config = (model_plan){.vocab_size = opts->vocab,
                               .max_seq_len = opts->max_seq_len,
                               .loops_default = opts->max_loops,
                               .n_prelude = opts->n_prelude,
                               .n_coda = opts->n_coda,
                               .n_core = opts->n_core,
                               .exit = EXIT_ACT,
                               .exits = 1u << EXIT_ACT,
                               .exit_threshold = 0.99f,
                               .halted_kv = opts->policy};
    uint32_t planes = plan_planes(&dev->config, opts->max_loops);
    dev->base.ops = &ops;
    dev->base.plan = &dev->config;
    dev->base.info = (eng_backend_info){.device = "fake",
                                        .kernels = "integers",
                                        .threads = 1,
                                        .n_slots = opts->n_slots,
                                        .n_blocks = opts->n_blocks,
                                        .n_planes = planes,
                                        .n_rows = opts->n_rows,
                                        .max_launch = opts->max_launch,
                                        .max_logits = opts->max_logits,
                                        .max_flights = opts->max_flights,
                                        .samples = opts->samples,
                                        .n_homes = opts->n_homes,
                                        .slot_bytes = 320,
                                        .block_map_bytes = (size_t)planes * ENG_BLOCK * 4};
    size_t n_caches = opts->n_homes ? opts->n_homes : 1;
    size_t map_bytes = n_caches * opts->n_blocks * planes * ENG_BLOCK * sizeof *dev->maps;
    dev->slots = calloc(n_caches * opts->n_slots, sizeof *dev->slots);
    dev->maps = malloc(map_bytes);
    dev->rows = calloc(opts->n_rows, sizeof *dev->rows);
    dev->halted = calloc(opts->max_launch, 1);
    dev->seen = calloc(opts->n_rows, 1);
    dev->logits = calloc((size_t)opts->max_logits * opts->vocab, sizeof *dev->logits);
    dev->hidden = calloc(opts->max_launch, sizeof *dev->hidden);
    dev->sum = calloc(opts->max_launch, sizeof *dev->sum);
    dev->kept = calloc(opts->max_launch, sizeof *dev->kept);
    dev->kept_at = calloc(opts->max_launch, sizeof *dev->kept_at);
    dev->head = calloc(opts->vocab, sizeof *dev->head);
    dev->choices = calloc(opts->max_logits, sizeof *dev->choices);
    err e = {0};
    if (!dev->slots || !dev->maps || !dev->rows || !dev->halted || !dev->seen || !dev->logits ||
        !dev->hidden || !dev->sum || !dev->kept || !dev->kept_at || !dev->head || !dev->choices ||
        eng_sampler_create(&dev->sampler, opts->vocab, &e) != 0) {
        fake_close(&dev->base);
        return NULL;
    }
    memset(dev->maps, 0xff, map_bytes);
    return &dev->base;
}

const char *fake_backend_breach(const eng_backend *backend) {
    const fake *dev = (const fake *)backend;
    return dev->breach[0] ? dev->breach : NULL;
}
uint64_t fake_backend_launches(const eng_backend *backend) {
    return ((const fake *)backend)->launches;
}
uint64_t fake_backend_schedule_hash(const eng_backend *backend) {
    return ((const fake *)backend)->schedule;
}
uint64_t fake_backend_slots_written(const eng_backend *backend) {
    return ((const fake *)backend)->written;
}
uint64_t fake_backend_idle_loops(const eng_backend *backend) {
    return ((const fake *)backend)->idle_loops;
}
uint64_t fake_backend_left_out(const eng_backend *backend) {
    return ((const fake *)backend)->left_out;
}
uint64_t fake_backend_fullest_rows(const eng_backend *backend) {
    return ((const fake *)backend)->fullest_rows;
}
uint64_t fake_backend_logits(const eng_backend *backend) {
    return ((const fake *)backend)->logits_given;
}
uint64_t fake_backend_choices(const eng_backend *backend) {
    return ((const fake *)backend)->choices_given;
}
uint32_t fake_backend_slots_of(const eng_backend *backend, uint32_t home, uint32_t block,
                               uint32_t n_planes) {
    fake *dev = (fake *)(uintptr_t)backend;
    uint32_t n = 0;
    for (uint32_t off = 0; off < ENG_BLOCK; off++) {
        uint32_t before = ENG_NO_SLOT; /* planes with one slot stand side by side */
        for (uint32_t plane = 0; plane < n_planes; plane++) {
            uint32_t slot = *map_at(dev, home, block, plane, off);
            n += slot != before;
            before = slot;
        }
    }
    return n;
}
model_plan *fake_backend_config(eng_backend *backend) {
    return &((fake *)backend)->config;
}
