/* driver.c - a scheduler in small: every position's stage, the wavefront rule, random batches.
 *
 * With two launches in flight the second is built on the assumption that no row of the first halts;
 * each row says what to do if it is wrong. After the wait for the first, the driver takes back the
 * losses of the second: slots, and states of finished rows, go at once to others. */
#include "tests/cuda/selftest/driver.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { FLIGHTS = 2, MOST_ROWS = DRIVE_SEQS * DRIVE_LEN, TABLE = DRIVE_LEN / ENG_BLOCK + 1 };

typedef struct {
    uint16_t loop;      /* loops started */
    uint16_t depth;     /* loops executed when it halted; 0: runs, as far as is known */
    uint16_t doubts;    /* launches in flight it may halt in */
    uint16_t guarded;   /* launches in flight it may be left out of */
    bool entered, left; /* prelude and coda started */
    uint32_t row;       /* its state */
    uint32_t slot;      /* of its last loop */
} position;

typedef struct {
    eng_stage stage;
    eng_row rows[MOST_ROWS];
    position *who[MOST_ROWS], *guard[MOST_ROWS];
    uint16_t seq[MOST_ROWS];
    bool out[MOST_ROWS]; /* left out: its guard has halted */
    eng_edit edits[MOST_ROWS * 6];
    uint32_t n_rows, n_edits;
} flight;

typedef struct {
    eng_backend *b;
    const drive_spec *spec;
    drive_result *out;
    position p[DRIVE_SEQS][DRIVE_LEN];
    uint32_t blocks[DRIVE_SEQS][TABLE];
    uint32_t next_slot, spare_slots[MOST_ROWS], n_spare;
    uint32_t free_rows[MOST_ROWS], n_free; /* the last one freed goes first */
    rng r;
    flight flights[FLIGHTS];
    uint32_t oldest, n_out, most_out;
    eng_edit after[MOST_ROWS]; /* for the next launch: map entries of halted positions */
    uint32_t n_after;
} driver;

eng_backend_opts drive_opts(const drive_spec *spec, const char *kernels, model_dtype cache) {
    return (eng_backend_opts){.threads = 1,
                              .max_loops = spec->n_loops,
                              .n_rows = MOST_ROWS,
                              .max_launch = spec->max_rows,
                              .cache_bytes = 12 << 20,
                              .max_positions = 96,
                              .cache_dtype = cache,
                              .kernels = kernels,
                              .own_exit = spec->own_exit,
                              .exit = spec->exit};
}

static uint32_t block_of(uint32_t s, uint32_t pos) {
    return s * TABLE + pos / ENG_BLOCK;
}

static uint32_t take_slot(driver *d) {
    return d->n_spare ? d->spare_slots[--d->n_spare] : d->next_slot++;
}

static eng_edit edit_of(uint32_t s, uint32_t pos, uint32_t plane, uint32_t n, uint32_t slot) {
    return (eng_edit){.block = block_of(s, pos),
                      .slot = slot,
                      .plane = (uint16_t)plane,
                      .n_planes = (uint16_t)n,
                      .off = (uint8_t)(pos % ENG_BLOCK)};
}

static void edit_planes(driver *d, flight *f, uint32_t s, uint32_t pos, uint32_t plane,
                        uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        f->edits[f->n_edits++] = edit_of(s, pos, plane + i, 1, take_slot(d));
}

static eng_row *add(driver *d, flight *f, uint32_t s, uint32_t pos) {
    position *p = &d->p[s][pos];
    uint32_t i = f->n_rows++;
    f->seq[i] = (uint16_t)s;
    f->who[i] = p;
    f->guard[i] = NULL;
    f->out[i] = false;
    f->rows[i] = (eng_row){.row = p->row,
                           .pos = pos,
                           .token = d->spec->ids[s][pos],
                           .guard = UINT32_MAX,
                           .blocks = d->blocks[s]};
    return &f->rows[i];
}

/* True if position pos of s may run its next loop, given the rows already in this launch. */
static bool may_loop(const driver *d, uint32_t s, uint32_t pos, const uint16_t *after) {
    const position *p = &d->p[s][pos];
    if (!p->entered || p->loop >= d->spec->n_loops) return false;
    if (p->depth && d->spec->policy == KV_LAST) return false;
    for (uint32_t i = 0; i < pos; i++) {
        const position *q = &d->p[s][i];
        bool gone = d->spec->policy == KV_LAST && q->depth && q->depth <= p->loop;
        if (after[i] <= p->loop && !gone) return false;
    }
    return true;
}

static void guard_by(flight *f, uint32_t i, position *guard) {
    f->guard[i] = guard;
    f->rows[i].flags |= ENG_ROW_GUARDED;
    f->rows[i].guard = guard->row;
}

static void add_loop(driver *d, flight *f, uint32_t s, uint32_t pos) {
    const drive_spec *c = d->spec;
    position *p = &d->p[s][pos];
    uint32_t i = f->n_rows, plane = plan_plane_loop(d->b->plan, p->loop);
    bool deepest = p->loop + 1u == c->n_loops;
    eng_row *r = add(d, f, s, pos);
    r->loop = p->loop;
    r->min_loops = (uint16_t)c->min_loops;
    r->max_loops = (uint16_t)c->n_loops;
    r->threshold = c->threshold;
    if (p->depth) {
        r->flags = deepest ? ENG_ROW_TAIL | ENG_ROW_KV_ONLY : ENG_ROW_TAIL;
    } else if (p->doubts && c->policy == KV_LAST) {
        guard_by(f, i, p);
    } else if (p->doubts) { /* whether the last loop of a tail is shortened is no matter */
        r->flags =
            deepest && rng_below(&d->r, 2) ? ENG_ROW_OR_TAIL | ENG_ROW_KV_ONLY : ENG_ROW_OR_TAIL;
    }
    /* With a halt not yet known, the slot of this loop stands in for all deeper ones. */
    bool last = c->policy == KV_LAST && d->most_out > 1;
    p->slot = take_slot(d);
    eng_edit *e = &f->edits[f->n_edits++];
    *e = edit_of(s, pos, plane, last ? c->n_loops - p->loop : 1, p->slot);
    e->guarded = f->guard[i] != NULL;
    e->guard = p->row;
}

/* One by one and exact: the newest position runs only if it has not halted; if it has, tails from
 * some position on need not run this loop yet either. Rows first.. of the flight belong to s. */
static void guard_with_the_newest(driver *d, flight *f, uint32_t first) {
    uint32_t n = f->n_rows, cut;
    if (n == first || !(f->rows[n - 1].flags & ENG_ROW_OR_TAIL) || rng_below(&d->r, 4) == 0) return;
    position *newest = f->who[n - 1];
    cut = first + rng_below(&d->r, n - first);
    f->rows[n - 1].flags = 0;
    for (uint32_t i = first; i < n; i++) {
        if (i < n - 1 && (i < cut || f->rows[i].loop != f->rows[n - 1].loop)) continue;
        guard_by(f, i, newest);
        eng_edit *e = &f->edits[f->n_edits - (n - i)]; /* one for each row, the newest last */
        e->guarded = true;
        e->guard = newest->row;
    }
}

uint16_t drive_head_flags(uint32_t s, uint32_t pos) {
    static const uint16_t flags[] = {ENG_ROW_SAMPLE, ENG_ROW_LOGITS, 0,
                                     ENG_ROW_SAMPLE | ENG_ROW_LOGITS, ENG_ROW_SAMPLE};
    return flags[(3 * s + pos + pos / 7) % ARRAY_LEN(flags)];
}

static void add_last(driver *d, flight *f, uint32_t s, uint32_t pos) {
    eng_row *r = add(d, f, s, pos);
    const eng_draw *draws = d->spec->draws[s];
    r->flags = draws ? drive_head_flags(s, pos) : ENG_ROW_LOGITS;
    if (r->flags & ENG_ROW_SAMPLE) r->draw = &draws[pos];
}

/* Fills the launch with ready rows of one stage. */
static void gather(driver *d, flight *f, eng_stage stage, uint32_t limit) {
    const model_plan *c = d->b->plan;
    const drive_spec *spec = d->spec;
    uint32_t first = spec->seed ? rng_below(&d->r, spec->n_seqs) : 0;
    for (uint32_t k = 0; k < spec->n_seqs; k++) {
        uint32_t s = (first + k) % spec->n_seqs, row = f->n_rows;
        uint16_t after[DRIVE_LEN]; /* loops started once this launch has */
        for (uint32_t i = 0; i < spec->len[s]; i++)
            after[i] = d->p[s][i].loop;
        for (uint32_t i = 0; i < spec->len[s] && f->n_rows < limit; i++) {
            position *p = &d->p[s][i];
            if (stage == ENG_STAGE_PRELUDE && !p->entered) {
                if (spec->one_by_one && i && !d->p[s][i - 1].depth) break;
                p->row = d->free_rows[--d->n_free];
                add(d, f, s, i);
                edit_planes(d, f, s, i, plan_plane_prelude(c, 0), plan_planes_prelude(c));
                p->entered = true;
            } else if (stage == ENG_STAGE_CODA && !p->left) {
                if (!p->depth) break; /* in order */
                add_last(d, f, s, i);
                edit_planes(d, f, s, i, plan_plane_coda(c, 0), plan_planes_coda(c));
                p->left = true;
            } else if (stage == ENG_STAGE_RECURRENT && may_loop(d, s, i, after)) {
                if (spec->seed && rng_below(&d->r, 8) == 0) continue;
                add_loop(d, f, s, i);
                after[i]++;
            }
        }
        if (stage == ENG_STAGE_RECURRENT && spec->one_by_one && spec->policy == KV_EXACT)
            guard_with_the_newest(d, f, row);
    }
}

/* ---- starting ---- */

static void free_row_if_through(driver *d, position *p) {
    bool loops = d->spec->policy == KV_EXACT && (p->loop < d->spec->n_loops || p->guarded);
    if (!p->left || loops || p->row == UINT32_MAX) return;
    d->free_rows[d->n_free++] = p->row; /* the next owner starts after this launch */
    p->row = UINT32_MAX;
}

static bool start(driver *d, flight *f) {
    err e = {0};
    eng_launch l = {f->stage, f->rows, f->n_rows, f->edits, f->n_edits};
    if (d->spec->poison && !check(eng__cuda_poison((cu_backend *)d->b, &e) == 0, "%s", e.msg))
        return false;
    if (!check(d->b->ops->launch(d->b, &l, &e) == 0, "launch: %s", e.msg)) return false;
    d->out->launches++;
    d->n_out++;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        position *p = f->who[i];
        if (f->stage == ENG_STAGE_RECURRENT) {
            p->loop++;
            p->doubts += p->depth == 0;
            p->guarded += f->guard[i] != NULL;
        }
        free_row_if_through(d, p);
    }
    if (d->most_out == 1) return true;
    /* The backend has copied the launch: it does not read the caller's memory again. */
    for (uint32_t i = 0; i < f->n_rows; i++) {
        f->rows[i].row = f->rows[i].token = UINT32_MAX;
        f->rows[i].blocks = NULL;
    }
    memset(f->edits, 0xff, f->n_edits * sizeof *f->edits);
    return true;
}

/* ---- waiting ---- */

/* Under LAST a halted position's deeper planes name its last slot. */
static void point_deeper(driver *d, uint32_t s, uint32_t pos) {
    const position *p = &d->p[s][pos];
    if (d->spec->policy != KV_LAST || p->depth == d->spec->n_loops || d->most_out > 1) return;
    d->after[d->n_after++] = edit_of(s, pos, plan_plane_loop(d->b->plan, p->depth),
                                     d->spec->n_loops - p->depth, p->slot);
}

/* The flight is the launch behind the one just settled. */
static void take_back(driver *d, flight *f) {
    uint32_t lost = 0;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        position *p = f->who[i];
        if (f->guard[i] && f->guard[i]->depth) {
            f->out[i] = true;
            p->loop--;
            d->spare_slots[d->n_spare++] = p->slot;
            lost++;
        } else {
            d->out->became_tails += (f->rows[i].flags & ENG_ROW_OR_TAIL) && p->depth;
        }
    }
    d->out->left_out += lost;
    d->out->empty += lost == f->n_rows;
}

static void after_loop(driver *d, flight *f, const eng_result *r) {
    for (uint32_t i = 0; i < f->n_rows; i++) {
        uint32_t s = f->seq[i], pos = f->rows[i].pos;
        position *p = f->who[i];
        bool live = !(f->rows[i].flags & ENG_ROW_TAIL);
        p->doubts -= live && p->doubts > 0;
        p->guarded -= f->guard[i] != NULL;
        if (!r->halted[i]) continue;
        check(p->depth == 0 && live && !f->out[i], "position %u of sequence %u halts twice", pos,
              s);
        p->depth = f->rows[i].loop + 1u;
        d->out->depth[s][pos] = p->depth;
        point_deeper(d, s, pos);
    }
    if (d->n_out) {
        flight *next = &d->flights[d->oldest];
        if (next->stage == ENG_STAGE_RECURRENT) take_back(d, next);
    }
    for (uint32_t i = 0; i < f->n_rows; i++)
        free_row_if_through(d, f->who[i]);
}

static void after_coda(driver *d, flight *f, const eng_result *r) {
    size_t vocab = d->b->plan->vocab_size;
    uint32_t n_logits = 0, n_choices = 0;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        uint32_t s = f->seq[i], pos = f->rows[i].pos;
        if (f->rows[i].flags & ENG_ROW_LOGITS && n_logits++ < r->n_logits) {
            memcpy(d->out->logits[s] + pos * vocab, r->logits + (n_logits - 1) * vocab,
                   vocab * sizeof(float));
        }
        if (f->rows[i].flags & ENG_ROW_SAMPLE && n_choices++ < r->n_choices)
            d->out->choices[s][pos] = r->choices[n_choices - 1];
    }
    check(r->n_logits == n_logits && r->n_choices == n_choices,
          "%u logits and %u choices for rows that asked for %u and %u", r->n_logits, r->n_choices,
          n_logits, n_choices);
}

static bool settle(driver *d) {
    err e = {0};
    eng_result r;
    flight *f = &d->flights[d->oldest];
    d->oldest = (d->oldest + 1) % FLIGHTS;
    d->n_out--;
    if (!check(d->b->ops->wait(d->b, &r, &e) == 0, "wait: %s", e.msg)) return false;
    if (f->stage == ENG_STAGE_RECURRENT) after_loop(d, f, &r);
    if (f->stage == ENG_STAGE_CODA) after_coda(d, f, &r);
    return true;
}

/* ---- rounds ---- */

static bool all_left(const driver *d) {
    for (uint32_t s = 0; s < d->spec->n_seqs; s++) {
        for (uint32_t i = 0; i < d->spec->len[s]; i++) {
            const position *p = &d->p[s][i];
            bool loops = d->spec->policy == KV_EXACT && p->loop < d->spec->n_loops;
            if (!p->left || loops) return false;
        }
    }
    return d->n_out == 0;
}

/* Starts a launch of whichever stage has rows ready; *any = whether one has. */
static bool start_some(driver *d, bool *any) {
    const drive_spec *c = d->spec;
    uint32_t limit = c->seed ? 1 + rng_below(&d->r, c->max_rows) : c->max_rows;
    eng_stage order[3] = {ENG_STAGE_PRELUDE, ENG_STAGE_RECURRENT, ENG_STAGE_CODA};
    for (uint32_t i = 2; c->seed && i > 0; i--) {
        uint32_t j = rng_below(&d->r, i + 1);
        eng_stage t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    flight *f = &d->flights[(d->oldest + d->n_out) % FLIGHTS];
    for (int k = 0; k < 3; k++) {
        f->stage = order[k];
        f->n_rows = 0;
        f->n_edits = d->n_after;
        memcpy(f->edits, d->after, d->n_after * sizeof *d->after);
        gather(d, f, order[k], limit);
        *any = f->n_rows > 0;
        if (!*any) continue;
        d->n_after = 0;
        return start(d, f);
    }
    return true;
}

static bool step(driver *d) {
    bool any = false;
    bool room = d->n_out < d->most_out && !(d->n_out && d->spec->seed && !rng_below(&d->r, 5));
    if (room && !start_some(d, &any)) return false;
    return any || d->n_out == 0 || settle(d);
}

bool drive(eng_backend *b, const drive_spec *spec, drive_result *out) {
    driver *d = array_new(1, sizeof *d);
    *out = (drive_result){0};
    if (d == NULL) return check(false, "out of memory");
    d->b = b;
    d->spec = spec;
    d->out = out;
    d->r.s = spec->seed;
    d->most_out = spec->flights > 1 && b->info.max_flights > 1 ? FLIGHTS : 1;
    for (uint32_t s = 0; s < spec->n_seqs; s++) {
        out->logits[s] = array_new((size_t)spec->len[s] * b->plan->vocab_size, sizeof(float));
        out->choices[s] = array_new(spec->len[s], sizeof(eng_choice));
        for (uint32_t i = 0; i < TABLE; i++)
            d->blocks[s][i] = block_of(s, i * ENG_BLOCK);
    }
    for (uint32_t i = 0; i < MOST_ROWS; i++)
        d->free_rows[d->n_free++] = MOST_ROWS - 1 - i;
    bool ok = true;
    uint32_t steps = 0;
    while (ok && !all_left(d) && ++steps < 100000)
        ok = step(d);
    ok = check(ok && all_left(d), "the driver does not end");
    free(d);
    return ok;
}

void drive_result_deinit(drive_result *r) {
    for (uint32_t s = 0; s < DRIVE_SEQS; s++) {
        free(r->logits[s]);
        free(r->choices[s]);
    }
    *r = (drive_result){0};
}

float *drive_latents(const eng_backend *base, const drive_spec *spec, uint32_t s, size_t *n) {
    const cu_cache *c = &((const cu_backend *)base)->cache;
    size_t slot = c->slot_values, map = (size_t)c->n_planes * ENG_BLOCK;
    uint32_t *maps = array_new(c->n_blocks * map, sizeof *maps);
    float *slots = array_new((size_t)c->n_slots * slot, sizeof *slots);
    float *out = array_new((size_t)spec->len[s] * c->n_planes * slot, sizeof *out);
    *n = 0;
    if (!check(maps && slots && out, "out of memory")) goto end;
    must(cudaMemcpy(maps, c->maps, c->n_blocks * map * 4, cudaMemcpyDeviceToHost), "copying");
    must(cudaMemcpy(slots, c->slots, c->n_slots * slot * 4, cudaMemcpyDeviceToHost), "copying");
    for (uint32_t pos = 0; pos < spec->len[s]; pos++) {
        const uint32_t *at = maps + block_of(s, pos) * map + pos % ENG_BLOCK;
        for (uint32_t plane = 0; plane < c->n_planes; plane++, *n += slot) {
            uint32_t from = at[(size_t)plane * ENG_BLOCK];
            if (!check(from < c->n_slots, "plane %u of position %u has no slot", plane, pos))
                goto end;
            memcpy(out + *n, slots + from * slot, slot * sizeof *out);
        }
    }
end:
    free(maps);
    free(slots);
    return out;
}
