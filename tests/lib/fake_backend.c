/* fake_backend.c - the integer model as a backend. */
#include "tests/lib/fake_backend.h"

#include "tests/lib/fake_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void fake_opts_default(fake_opts *o) {
    *o = (fake_opts){.seed = 1,
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
    uint32_t block, off, plane; /* where it was written for */
    bool written, halted;       /* halted: that position left the loop here (or the tail ended) */
} fake_slot;

typedef struct {
    uint64_t h, e, out;
    uint32_t last_slot; /* of the last loop run */
    bool halted;
} fake_row;

typedef struct { /* a launch as it was given: nothing in it is the caller's */
    eng_launch l;
    eng_row *rows;
    eng_edit *edits;
    eng_draw *draws; /* one a row that samples, and its sampling */
    eng_sampling *sampling;
    uint32_t *blocks;
} fake_flight;

enum { MAX_QUEUE = 2 };

typedef struct {
    eng_backend base;
    model_plan config;
    fake_opts o;
    fake_slot *slots;
    uint32_t *maps; /* [block][plane][off] */
    fake_row *rows;
    fake_flight queue[MAX_QUEUE]; /* oldest first */
    uint32_t n_queued;
    eng_row *kept; /* of a recurrent launch: the rows not left out, and where they stood */
    uint32_t *kept_at;
    uint8_t *halted, *seen;
    float *logits, *head;
    eng_choice *choices;
    eng_sampler *sampler;
    uint64_t *x, *sum;
    uint64_t launches, codas, schedule, written, idle_loops, left_out, logits_given, choices_given;
    uint32_t n_logits, n_choices, n_ran;
    char breach[200];
} fake;

static void breach(fake *f, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void breach(fake *f, const char *fmt, ...) {
    if (f->breach[0]) return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->breach, sizeof f->breach, fmt, args);
    va_end(args);
}

static uint32_t *map_at(fake *f, uint32_t b, uint32_t plane, uint32_t off) {
    return &f->maps[((size_t)b * f->base.info.n_planes + plane) * ENG_BLOCK + off];
}

static void apply_edits(fake *f, const eng_launch *l) {
    for (uint32_t i = 0; i < l->n_edits; i++) {
        const eng_edit *d = &l->edits[i];
        if (d->block >= f->o.n_blocks || d->slot >= f->o.n_slots || d->off >= ENG_BLOCK ||
            d->plane + d->n_planes > f->base.info.n_planes || d->n_planes == 0) {
            breach(f, "edit %u is out of range", i);
            continue;
        }
        if (d->guarded && d->guard >= f->o.n_rows) {
            breach(f, "the guard of edit %u is out of range", i);
            continue;
        }
        if (d->guarded && f->rows[d->guard].halted) continue;
        /* The scheduler maps a slot once, for all planes it will serve: this is a fresh one. */
        f->slots[d->slot].written = false;
        for (uint32_t p = d->plane; p < (uint32_t)d->plane + d->n_planes; p++) {
            *map_at(f, d->block, p, d->off) = d->slot;
        }
    }
}

static void write_slot(fake *f, const eng_row *r, uint32_t plane, uint64_t content) {
    uint32_t b = r->blocks[r->pos / ENG_BLOCK], off = r->pos % ENG_BLOCK;
    uint32_t slot = *map_at(f, b, plane, off);
    if (slot == ENG_NO_SLOT) {
        breach(f, "position %u plane %u is written without a slot", r->pos, plane);
        return;
    }
    fake_slot *k = &f->slots[slot];
    if (k->written)
        breach(f, "position %u plane %u: slot %u is written twice", r->pos, plane, slot);
    *k = (fake_slot){content, b, off, plane, true, false};
    f->written++;
    f->rows[r->row].last_slot = slot;
}

static uint64_t attend(fake *f, const eng_row *r, uint32_t plane) {
    if (f->o.instant) return 0;
    uint32_t first_loop = fake_planes(&f->o, 0);
    uint64_t sum = 0;
    for (uint32_t q = 0; q <= r->pos; q++) {
        uint32_t b = r->blocks[q / ENG_BLOCK], off = q % ENG_BLOCK;
        uint32_t slot = *map_at(f, b, plane, off);
        const fake_slot *k = slot == ENG_NO_SLOT ? NULL : &f->slots[slot];
        if (k == NULL || !k->written) {
            breach(f, "position %u reads position %u at plane %u: unwritten", r->pos, q, plane);
            continue;
        }
        if (k->block != b || k->off != off) {
            breach(f, "position %u reads position %u at plane %u: another's slot", r->pos, q,
                   plane);
        }
        if (k->plane != plane) {
            bool stands_in =
                f->o.policy == KV_LAST && k->plane >= first_loop && k->plane < plane && k->halted;
            if (!stands_in) {
                breach(f, "position %u reads position %u at plane %u and finds plane %u", r->pos, q,
                       plane, k->plane);
            }
        }
        sum = mix(sum, k->content);
    }
    return sum;
}

/* One layer or loop over all rows: every write, then every read. */
static void layer(fake *f, const eng_launch *l, uint32_t plane) {
    for (uint32_t i = 0; i < l->n_rows; i++) {
        uint32_t p = l->stage == ENG_STAGE_RECURRENT ? plane + l->rows[i].loop : plane;
        write_slot(f, &l->rows[i], p, model_latent(f->x[i], p));
    }
    for (uint32_t i = 0; i < l->n_rows; i++) {
        if (l->stage == ENG_STAGE_RECURRENT && l->rows[i].flags & ENG_ROW_KV_ONLY) continue;
        uint32_t p = l->stage == ENG_STAGE_RECURRENT ? plane + l->rows[i].loop : plane;
        f->sum[i] = attend(f, &l->rows[i], p);
    }
}

static void prelude(fake *f, const eng_launch *l) {
    for (uint32_t i = 0; i < l->n_rows; i++)
        f->x[i] = model_embed(&f->o, l->rows[i].token, l->rows[i].pos);
    for (uint32_t p = 0; p < fake_bundles(&f->o, f->o.n_prelude); p++) {
        layer(f, l, p);
        for (uint32_t i = 0; i < l->n_rows; i++)
            f->x[i] = mix(f->x[i], f->sum[i]);
    }
    for (uint32_t i = 0; i < l->n_rows; i++) {
        f->rows[l->rows[i].row] = (fake_row){f->x[i], f->x[i], 0, ENG_NO_SLOT, false};
    }
}

/* Who halted in an earlier launch is left out, or becomes its own tail, as the rows say. */
static eng_launch keep_rows(fake *f, const eng_launch *l) {
    eng_launch kept = {l->stage, f->kept, 0, NULL, 0};
    for (uint32_t i = 0; i < l->n_rows; i++) {
        eng_row r = l->rows[i];
        const fake_row *s = &f->rows[r.row];
        f->halted[i] = 0;
        if (r.flags & ENG_ROW_GUARDED && f->rows[r.guard].halted) {
            f->left_out++;
            continue;
        }
        if (r.flags & ENG_ROW_OR_TAIL && s->halted) r.flags |= ENG_ROW_TAIL;
        bool tail = r.flags & (ENG_ROW_TAIL | ENG_ROW_KV_ONLY);
        if (tail != s->halted) {
            breach(f,
                   tail ? "position %u: the tail of a row that has not halted"
                        : "position %u: a row that halted runs on",
                   r.pos);
        }
        f->kept_at[kept.n_rows] = i;
        f->kept[kept.n_rows++] = r;
    }
    return kept;
}

static void loops(fake *f, const eng_launch *all) {
    uint32_t first = fake_planes(&f->o, 0);
    eng_launch kept = keep_rows(f, all), *l = &kept;
    f->n_ran = l->n_rows;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const fake_row *s = &f->rows[l->rows[i].row];
        f->x[i] = mix(mix(s->h, s->e), l->rows[i].loop);
    }
    layer(f, l, first);
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i];
        fake_row *s = &f->rows[r->row];
        if (r->flags & ENG_ROW_KV_ONLY) continue;
        s->h = mix(f->x[i], f->sum[i]);
        if (r->flags & ENG_ROW_TAIL) continue;
        s->out = mix(s->out, s->h);
        s->halted =
            model_halts(&f->o, s->h, s->e, r->loop + 1u, r->min_loops, r->max_loops, r->threshold);
        f->halted[f->kept_at[i]] = s->halted;
        if (s->halted && s->last_slot != ENG_NO_SLOT) f->slots[s->last_slot].halted = true;
    }
}

static void draw_token(fake *f, const eng_draw *d, const float *logits) {
    eng_choice *c = &f->choices[f->n_choices++];
    eng_history none = {NULL, NULL, 0, 0};
    err e = {0};
    if (!eng_sampling_is_plain(d->sampling)) breach(f, "a draw that is not plain");
    if (eng_sample(f->sampler, d->sampling, &none, NULL, logits, d->index, d->n_top, c, &e) != 0)
        c->token = ENG_NO_TOKEN;
}

static void coda(fake *f, const eng_launch *l) {
    f->codas++;
    for (uint32_t i = 0; i < l->n_rows; i++)
        f->x[i] = f->rows[l->rows[i].row].out;
    for (uint32_t p = 0; p < fake_bundles(&f->o, f->o.n_coda); p++) {
        layer(f, l, fake_bundles(&f->o, f->o.n_prelude) + p);
        for (uint32_t i = 0; i < l->n_rows; i++)
            f->x[i] = mix(f->x[i], f->sum[i]);
    }
    uint32_t heads = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        uint16_t flags = l->rows[i].flags;
        if (!(flags & (ENG_ROW_LOGITS | ENG_ROW_SAMPLE))) continue;
        if (heads++ == f->o.max_logits) {
            breach(f, "more than %u rows run the head", f->o.max_logits);
            break;
        }
        model_logits(f->x[i], f->o.vocab, f->head);
        if (f->codas == f->o.nan_at && heads == 1) f->head[0] = NAN;
        if (flags & ENG_ROW_SAMPLE) draw_token(f, l->rows[i].draw, f->head);
        if (!(flags & ENG_ROW_LOGITS)) continue;
        memcpy(f->logits + (size_t)f->n_logits++ * f->o.vocab, f->head,
               f->o.vocab * sizeof *f->head);
    }
    f->logits_given += f->n_logits;
    f->choices_given += f->n_choices;
}

static void check_rows(fake *f, const eng_launch *l) {
    memset(f->seen, 0, f->o.n_rows);
    if (l->n_rows == 0 || l->n_rows > f->o.max_launch) breach(f, "a launch of %u rows", l->n_rows);
    f->schedule = mix(f->schedule, l->stage);
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i];
        f->schedule = mix(mix(f->schedule, r->pos), r->loop);
        if (r->row >= f->o.n_rows || f->seen[r->row]++)
            breach(f, "row %u is wrong or twice in a launch", r->row);
        if (r->loop >= f->o.max_loops || r->pos >= f->o.max_seq_len)
            breach(f, "loop or position out of range");
        for (uint32_t k = 0; k <= r->pos / ENG_BLOCK; k++) {
            if (r->blocks[k] >= f->o.n_blocks)
                breach(f, "position %u: block %u of its table is out of range", r->pos, k);
        }
        if (l->stage == ENG_STAGE_PRELUDE && r->token >= f->o.vocab)
            breach(f, "token out of range");
        if (r->flags & ENG_ROW_GUARDED && r->guard >= f->o.n_rows) breach(f, "guard out of range");
        if (r->flags & ENG_ROW_SAMPLE && (!f->o.samples || r->draw == NULL))
            breach(f, "a row to sample that cannot be");
        if (r->flags & (ENG_ROW_GUARDED | ENG_ROW_OR_TAIL) && f->n_queued == 0)
            breach(f, "a row in doubt with nothing in flight");
    }
}

static void forget(fake_flight *q) {
    free(q->rows);
    free(q->edits);
    free(q->draws);
    free(q->sampling);
    free(q->blocks);
    *q = (fake_flight){0};
}

/* Deep, and no byte larger than it must be, so that a sanitizer sees what reads beyond. */
static bool copy(fake_flight *q, const eng_launch *l) {
    size_t n_blocks = 0, n_draws = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        n_blocks += l->rows[i].pos / ENG_BLOCK + 1;
        n_draws += l->rows[i].draw != NULL;
    }
    *q = (fake_flight){.l = *l,
                       .rows = malloc(l->n_rows * sizeof *q->rows),
                       .edits = malloc((l->n_edits + 1) * sizeof *q->edits),
                       .draws = malloc((n_draws + 1) * sizeof *q->draws),
                       .sampling = malloc((n_draws + 1) * sizeof *q->sampling),
                       .blocks = malloc(n_blocks * sizeof *q->blocks)};
    if (!q->rows || !q->edits || !q->draws || !q->sampling || !q->blocks) return false;
    memcpy(q->rows, l->rows, l->n_rows * sizeof *q->rows);
    if (l->n_edits) memcpy(q->edits, l->edits, l->n_edits * sizeof *q->edits);
    uint32_t *blocks = q->blocks;
    n_draws = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        eng_row *r = &q->rows[i];
        size_t n = r->pos / ENG_BLOCK + 1;
        memcpy(blocks, r->blocks, n * sizeof *blocks);
        r->blocks = blocks;
        blocks += n;
        if (r->draw == NULL) continue;
        q->sampling[n_draws] = *r->draw->sampling;
        q->draws[n_draws] = *r->draw;
        q->draws[n_draws].sampling = &q->sampling[n_draws];
        r->draw = &q->draws[n_draws++];
    }
    q->l.rows = q->rows;
    q->l.edits = q->edits;
    return true;
}

static void spoil_results(fake *f) {
    memset(f->halted, 0xee, f->o.max_launch);
    memset(f->logits, 0xee, (size_t)f->n_logits * f->o.vocab * sizeof *f->logits);
    memset(f->choices, 0xee, f->n_choices * sizeof *f->choices);
}

static bool planned_failure(const fake *f, uint64_t launch) {
    return f->o.fail_at && launch >= f->o.fail_at;
}

static int fake_launch(eng_backend *b, const eng_launch *l, err *e) {
    fake *f = (fake *)b;
    f->launches++;
    if (f->n_queued == f->o.max_flights) breach(f, "%u launches in flight", f->n_queued + 1);
    if (planned_failure(f, f->launches) && f->o.max_flights == 1)
        return err_set(e, ERR_DEVICE, NULL, "planned failure");
    if (l->n_rows > 0 && l->stage == ENG_STAGE_RECURRENT && l->rows[0].loop > 0)
        f->idle_loops += f->n_queued == 0;
    check_rows(f, l);
    if (f->breach[0]) {
        /* What follows could read out of range; the test ends here anyway. */
        return err_set(e, ERR_DEVICE, NULL, "%s", f->breach);
    }
    spoil_results(f);
    if (!copy(&f->queue[f->n_queued++], l)) return err_set(e, ERR_DEVICE, NULL, "out of memory");
    return 0;
}

static void execute(fake *f, const eng_launch *l) {
    apply_edits(f, l);
    f->n_ran = l->n_rows;
    f->n_logits = f->n_choices = 0;
    switch (l->stage) {
    case ENG_STAGE_PRELUDE: prelude(f, l); break;
    case ENG_STAGE_RECURRENT: loops(f, l); break;
    case ENG_STAGE_CODA: coda(f, l); break;
    }
    if (f->o.nap_us) {
        struct timespec nap = {0, (long)f->o.nap_us * 1000};
        nanosleep(&nap, NULL);
    }
}

static int fake_wait(eng_backend *b, eng_result *r, err *e) {
    fake *f = (fake *)b;
    if (f->n_queued == 0) return err_set(e, ERR_DEVICE, NULL, "nothing to wait for");
    fake_flight q = f->queue[0];
    f->queue[0] = f->queue[1];
    f->queue[1] = (fake_flight){0};
    f->n_queued--;
    bool fails = planned_failure(f, f->launches - f->n_queued);
    if (!fails) execute(f, &q.l);
    eng_stage stage = q.l.stage;
    forget(&q);
    if (fails) return err_set(e, ERR_DEVICE, NULL, "planned failure");
    if (f->breach[0]) return err_set(e, ERR_DEVICE, NULL, "%s", f->breach);
    uint64_t ns = f->n_ran ? f->o.fixed_ns[stage] + f->o.row_ns[stage] * f->n_ran : 0;
    *r = (eng_result){.halted = f->halted,
                      .logits = f->logits,
                      .n_logits = f->n_logits,
                      .choices = f->choices,
                      .n_choices = f->n_choices,
                      .ns = ns};
    return 0;
}

static void fake_close(eng_backend *b) {
    fake *f = (fake *)b;
    for (uint32_t i = 0; i < MAX_QUEUE; i++)
        forget(&f->queue[i]);
    eng_sampler_destroy(f->sampler);
    free(f->kept);
    free(f->kept_at);
    free(f->head);
    free(f->choices);
    free(f->slots);
    free(f->maps);
    free(f->rows);
    free(f->halted);
    free(f->seen);
    free(f->logits);
    free(f->x);
    free(f->sum);
    free(f);
}

eng_backend *fake_backend_create(const fake_opts *o) {
    static const eng_backend_ops ops = {fake_launch, fake_wait, fake_close};
    fake *f = calloc(1, sizeof *f);
    if (f == NULL) return NULL;
    f->o = *o;
    f->config = (model_plan){.vocab_size = o->vocab,
                             .max_seq_len = o->max_seq_len,
                             .loops_default = o->max_loops,
                             .n_prelude = o->n_prelude,
                             .n_coda = o->n_coda,
                             .n_core = o->n_core,
                             .exit = EXIT_ACT,
                             .exits = 1u << EXIT_ACT,
                             .exit_threshold = 0.99f,
                             .halted_kv = o->policy};
    uint32_t planes = plan_planes(&f->config, o->max_loops);
    f->base.ops = &ops;
    f->base.plan = &f->config;
    f->base.info = (eng_backend_info){.device = "fake",
                                      .kernels = "integers",
                                      .threads = 1,
                                      .n_slots = o->n_slots,
                                      .n_blocks = o->n_blocks,
                                      .n_planes = planes,
                                      .n_rows = o->n_rows,
                                      .max_launch = o->max_launch,
                                      .max_logits = o->max_logits,
                                      .max_flights = o->max_flights,
                                      .samples = o->samples,
                                      .slot_bytes = 320,
                                      .block_map_bytes = (size_t)planes * ENG_BLOCK * 4};
    f->slots = calloc(o->n_slots, sizeof *f->slots);
    f->maps = malloc((size_t)o->n_blocks * planes * ENG_BLOCK * sizeof *f->maps);
    f->rows = calloc(o->n_rows, sizeof *f->rows);
    f->halted = calloc(o->max_launch, 1);
    f->seen = calloc(o->n_rows, 1);
    f->logits = calloc((size_t)o->max_logits * o->vocab, sizeof *f->logits);
    f->x = calloc(o->max_launch, sizeof *f->x);
    f->sum = calloc(o->max_launch, sizeof *f->sum);
    f->kept = calloc(o->max_launch, sizeof *f->kept);
    f->kept_at = calloc(o->max_launch, sizeof *f->kept_at);
    f->head = calloc(o->vocab, sizeof *f->head);
    f->choices = calloc(o->max_logits, sizeof *f->choices);
    err e = {0};
    if (!f->slots || !f->maps || !f->rows || !f->halted || !f->seen || !f->logits || !f->x ||
        !f->sum || !f->kept || !f->kept_at || !f->head || !f->choices ||
        eng_sampler_create(&f->sampler, o->vocab, &e) != 0) {
        fake_close(&f->base);
        return NULL;
    }
    memset(f->maps, 0xff, (size_t)o->n_blocks * planes * ENG_BLOCK * sizeof *f->maps);
    return &f->base;
}

const char *fake_backend_breach(const eng_backend *b) {
    const fake *f = (const fake *)b;
    return f->breach[0] ? f->breach : NULL;
}
uint64_t fake_backend_launches(const eng_backend *b) {
    return ((const fake *)b)->launches;
}
uint64_t fake_backend_schedule_hash(const eng_backend *b) {
    return ((const fake *)b)->schedule;
}
uint64_t fake_backend_slots_written(const eng_backend *b) {
    return ((const fake *)b)->written;
}
uint64_t fake_backend_idle_loops(const eng_backend *b) {
    return ((const fake *)b)->idle_loops;
}
uint64_t fake_backend_left_out(const eng_backend *b) {
    return ((const fake *)b)->left_out;
}
uint64_t fake_backend_logits(const eng_backend *b) {
    return ((const fake *)b)->logits_given;
}
uint64_t fake_backend_choices(const eng_backend *b) {
    return ((const fake *)b)->choices_given;
}
model_plan *fake_backend_config(eng_backend *b) {
    return &((fake *)b)->config;
}
