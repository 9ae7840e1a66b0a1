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
    position *place[MOST_ROWS], *guard[MOST_ROWS];
    uint16_t seq[MOST_ROWS];
    bool out[MOST_ROWS]; /* left out: its guard has halted */
    eng_edit edits[MOST_ROWS * 6];
    uint32_t n_rows, n_edits;
} drive_flight;

typedef struct {
    eng_backend *eng;
    const drive_spec *spec;
    drive_result *out;
    position places[DRIVE_SEQS][DRIVE_LEN];
    uint32_t blocks[DRIVE_SEQS][TABLE];
    uint32_t next_slot, spare_slots[MOST_ROWS], n_spare;
    uint32_t free_rows[MOST_ROWS], n_free; /* the last one freed goes first */
    rng rnd;
    drive_flight flights[FLIGHTS];
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
                              .exit = spec->exit,
                              .own_state0 = spec->zero_state,
                              .state0 = spec->zero_state ? STATE_ZERO : STATE_EMBEDDING};
}

static uint32_t block_of(uint32_t seq, uint32_t pos) {
    return seq * TABLE + pos / ENG_BLOCK;
}

static uint32_t take_slot(driver *drv) {
    return drv->n_spare ? drv->spare_slots[--drv->n_spare] : drv->next_slot++;
}

static eng_edit edit_of(uint32_t seq, uint32_t pos, uint32_t plane, uint32_t n, uint32_t slot) {
    return (eng_edit){.block = block_of(seq, pos),
                      .slot = slot,
                      .plane = (uint16_t)plane,
                      .n_planes = (uint16_t)n,
                      .off = (uint8_t)(pos % ENG_BLOCK)};
}

static void edit_planes(driver *drv, drive_flight *flight, uint32_t seq, uint32_t pos,
                        uint32_t plane, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        flight->edits[flight->n_edits++] = edit_of(seq, pos, plane + i, 1, take_slot(drv));
}

static eng_row *add(driver *drv, drive_flight *flight, uint32_t seq, uint32_t pos) {
    position *place = &drv->places[seq][pos];
    uint32_t i = flight->n_rows++;
    flight->seq[i] = (uint16_t)seq;
    flight->place[i] = place;
    flight->guard[i] = NULL;
    flight->out[i] = false;
    flight->rows[i] = (eng_row){.row = place->row,
                                .pos = pos,
                                .token = drv->spec->ids[seq][pos],
                                .guard = UINT32_MAX,
                                .blocks = drv->blocks[seq]};
    return &flight->rows[i];
}

/* True if a position may run its next loop, given the rows already in this launch. */
static bool may_loop(const driver *drv, uint32_t seq, uint32_t pos, const uint16_t *after) {
    const position *place = &drv->places[seq][pos];
    if (!place->entered || place->loop >= drv->spec->n_loops) return false;
    if (place->depth && drv->spec->policy == KV_LAST) return false;
    for (uint32_t i = 0; i < pos; i++) {
        const position *before = &drv->places[seq][i];
        bool gone = drv->spec->policy == KV_LAST && before->depth && before->depth <= place->loop;
        if (after[i] <= place->loop && !gone) return false;
    }
    return true;
}

static void guard_by(drive_flight *flight, uint32_t i, position *guard) {
    flight->guard[i] = guard;
    flight->rows[i].flags |= ENG_ROW_GUARDED;
    flight->rows[i].guard = guard->row;
}

static void add_loop(driver *drv, drive_flight *flight, uint32_t seq, uint32_t pos) {
    const drive_spec *spec = drv->spec;
    position *place = &drv->places[seq][pos];
    uint32_t i = flight->n_rows, plane = plan_plane_loop(drv->eng->plan, place->loop);
    bool deepest = place->loop + 1u == spec->n_loops;
    eng_row *row = add(drv, flight, seq, pos);
    row->loop = place->loop;
    row->min_loops = (uint16_t)spec->min_loops;
    row->max_loops = (uint16_t)spec->n_loops;
    row->threshold = spec->threshold;
    if (place->depth) {
        row->flags = deepest ? ENG_ROW_TAIL | ENG_ROW_KV_ONLY : ENG_ROW_TAIL;
    } else if (place->doubts && spec->policy == KV_LAST) {
        guard_by(flight, i, place);
    } else if (place->doubts) { /* whether the last loop of a tail is shortened is no matter */
        row->flags = deepest && rng_below(&drv->rnd, 2) ? ENG_ROW_OR_TAIL | ENG_ROW_KV_ONLY
                                                        : ENG_ROW_OR_TAIL;
    }
    /* With a halt not yet known, the slot of this loop stands in for all deeper ones. */
    bool last = spec->policy == KV_LAST && drv->most_out > 1;
    place->slot = take_slot(drv);
    eng_edit *edit = &flight->edits[flight->n_edits++];
    *edit = edit_of(seq, pos, plane, last ? spec->n_loops - place->loop : 1, place->slot);
    edit->guarded = flight->guard[i] != NULL;
    edit->guard = place->row;
}

/* One by one and exact: the newest position runs only if it has not halted; if it has, tails
 * from some position on need not run this loop yet either. Rows from `first` on belong to this
 * sequence. */
static void guard_with_the_newest(driver *drv, drive_flight *flight, uint32_t first) {
    uint32_t n = flight->n_rows, cut;
    if (n == first || !(flight->rows[n - 1].flags & ENG_ROW_OR_TAIL) ||
        rng_below(&drv->rnd, 4) == 0)
        return;
    position *newest = flight->place[n - 1];
    cut = first + rng_below(&drv->rnd, n - first);
    flight->rows[n - 1].flags = 0;
    for (uint32_t i = first; i < n; i++) {
        if (i < n - 1 && (i < cut || flight->rows[i].loop != flight->rows[n - 1].loop)) continue;
        guard_by(flight, i, newest);
        /* One edit for each row, the newest last. */
        eng_edit *edit = &flight->edits[flight->n_edits - (n - i)];
        edit->guarded = true;
        edit->guard = newest->row;
    }
}

uint16_t drive_head_flags(uint32_t seq, uint32_t pos) {
    static const uint16_t flags[] = {ENG_ROW_SAMPLE, ENG_ROW_LOGITS, 0,
                                     ENG_ROW_SAMPLE | ENG_ROW_LOGITS, ENG_ROW_SAMPLE};
    return flags[(3 * seq + pos + pos / 7) % ARRAY_LEN(flags)];
}

static void add_last(driver *drv, drive_flight *flight, uint32_t seq, uint32_t pos) {
    eng_row *row = add(drv, flight, seq, pos);
    const eng_draw *draws = drv->spec->draws[seq];
    row->flags = draws ? drive_head_flags(seq, pos) : ENG_ROW_LOGITS;
    if (row->flags & ENG_ROW_SAMPLE) row->draw = &draws[pos];
}

/* Fills the launch with ready rows of one stage. */
static void gather(driver *drv, drive_flight *flight, eng_stage stage, uint32_t limit) {
    const model_plan *plan = drv->eng->plan;
    const drive_spec *spec = drv->spec;
    uint32_t first = spec->seed ? rng_below(&drv->rnd, spec->n_seqs) : 0;
    for (uint32_t k = 0; k < spec->n_seqs; k++) {
        uint32_t seq = (first + k) % spec->n_seqs, row = flight->n_rows;
        uint16_t after[DRIVE_LEN]; /* loops started once this launch has */
        for (uint32_t i = 0; i < spec->len[seq]; i++)
            after[i] = drv->places[seq][i].loop;
        for (uint32_t i = 0; i < spec->len[seq] && flight->n_rows < limit; i++) {
            position *place = &drv->places[seq][i];
            if (stage == ENG_STAGE_PRELUDE && !place->entered) {
                if (spec->one_by_one && i && !drv->places[seq][i - 1].depth) break;
                place->row = drv->free_rows[--drv->n_free];
                add(drv, flight, seq, i);
                edit_planes(drv, flight, seq, i, plan_plane_prelude(plan, 0),
                            plan_planes_prelude(plan));
                place->entered = true;
            } else if (stage == ENG_STAGE_CODA && !place->left) {
                if (!place->depth) break; /* in order */
                add_last(drv, flight, seq, i);
                edit_planes(drv, flight, seq, i, plan_plane_coda(plan, 0), plan_planes_coda(plan));
                place->left = true;
            } else if (stage == ENG_STAGE_RECURRENT && may_loop(drv, seq, i, after)) {
                if (spec->seed && rng_below(&drv->rnd, 8) == 0) continue;
                add_loop(drv, flight, seq, i);
                after[i]++;
            }
        }
        if (stage == ENG_STAGE_RECURRENT && spec->one_by_one && spec->policy == KV_EXACT)
            guard_with_the_newest(drv, flight, row);
    }
}

/* ---- starting ---- */

static void free_row_if_through(driver *drv, position *place) {
    bool loops =
        drv->spec->policy == KV_EXACT && (place->loop < drv->spec->n_loops || place->guarded);
    if (!place->left || loops || place->row == UINT32_MAX) return;
    drv->free_rows[drv->n_free++] = place->row; /* the next owner starts after this launch */
    place->row = UINT32_MAX;
}

static bool start(driver *drv, drive_flight *flight) {
    err e = {0};
    eng_launch launch = {flight->stage, flight->rows, flight->n_rows, flight->edits,
                         flight->n_edits};
    if (drv->spec->poison && !check(eng__cuda_poison((cu_backend *)drv->eng, &e) == 0, "%s", e.msg))
        return false;
    if (!check(drv->eng->ops->launch(drv->eng, &launch, &e) == 0, "launch: %s", e.msg))
        return false;
    drv->out->launches++;
    drv->n_out++;
    for (uint32_t i = 0; i < flight->n_rows; i++) {
        position *place = flight->place[i];
        if (flight->stage == ENG_STAGE_RECURRENT) {
            place->loop++;
            place->doubts += place->depth == 0;
            place->guarded += flight->guard[i] != NULL;
        }
        free_row_if_through(drv, place);
    }
    if (drv->most_out == 1) return true;
    /* The backend has copied the launch: it does not read the caller's memory again. */
    for (uint32_t i = 0; i < flight->n_rows; i++) {
        flight->rows[i].row = flight->rows[i].token = UINT32_MAX;
        flight->rows[i].blocks = NULL;
    }
    memset(flight->edits, 0xff, flight->n_edits * sizeof *flight->edits);
    return true;
}

/* ---- waiting ---- */

/* Under LAST a halted position's deeper planes name its last slot. */
static void point_deeper(driver *drv, uint32_t seq, uint32_t pos) {
    const position *place = &drv->places[seq][pos];
    if (drv->spec->policy != KV_LAST || place->depth == drv->spec->n_loops || drv->most_out > 1)
        return;
    drv->after[drv->n_after++] = edit_of(seq, pos, plan_plane_loop(drv->eng->plan, place->depth),
                                         drv->spec->n_loops - place->depth, place->slot);
}

/* The flight is the launch behind the one just settled. */
static void take_back(driver *drv, drive_flight *flight) {
    uint32_t lost = 0;
    for (uint32_t i = 0; i < flight->n_rows; i++) {
        position *place = flight->place[i];
        if (flight->guard[i] && flight->guard[i]->depth) {
            flight->out[i] = true;
            place->loop--;
            drv->spare_slots[drv->n_spare++] = place->slot;
            lost++;
        } else {
            drv->out->became_tails += (flight->rows[i].flags & ENG_ROW_OR_TAIL) && place->depth;
        }
    }
    drv->out->left_out += lost;
    drv->out->empty += lost == flight->n_rows;
}

static void after_loop(driver *drv, drive_flight *flight, const eng_result *result) {
    for (uint32_t i = 0; i < flight->n_rows; i++) {
        uint32_t seq = flight->seq[i], pos = flight->rows[i].pos;
        position *place = flight->place[i];
        bool live = !(flight->rows[i].flags & ENG_ROW_TAIL);
        place->doubts -= live && place->doubts > 0;
        place->guarded -= flight->guard[i] != NULL;
        if (!result->halted[i]) continue;
        check(place->depth == 0 && live && !flight->out[i],
              "position %u of sequence %u halts twice", pos, seq);
        place->depth = flight->rows[i].loop + 1u;
        drv->out->depth[seq][pos] = place->depth;
        point_deeper(drv, seq, pos);
    }
    if (drv->n_out) {
        drive_flight *next = &drv->flights[drv->oldest];
        if (next->stage == ENG_STAGE_RECURRENT) take_back(drv, next);
    }
    for (uint32_t i = 0; i < flight->n_rows; i++)
        free_row_if_through(drv, flight->place[i]);
}

static void after_coda(driver *drv, drive_flight *flight, const eng_result *result) {
    size_t vocab = drv->eng->plan->vocab_size;
    uint32_t n_logits = 0, n_choices = 0;
    for (uint32_t i = 0; i < flight->n_rows; i++) {
        uint32_t seq = flight->seq[i], pos = flight->rows[i].pos;
        if (flight->rows[i].flags & ENG_ROW_LOGITS && n_logits++ < result->n_logits) {
            memcpy(drv->out->logits[seq] + pos * vocab, result->logits + (n_logits - 1) * vocab,
                   vocab * sizeof(float));
        }
        if (flight->rows[i].flags & ENG_ROW_SAMPLE && n_choices++ < result->n_choices)
            drv->out->choices[seq][pos] = result->choices[n_choices - 1];
    }
    check(result->n_logits == n_logits && result->n_choices == n_choices,
          "%u logits and %u choices for rows that asked for %u and %u", result->n_logits,
          result->n_choices, n_logits, n_choices);
}

static bool settle(driver *drv) {
    err e = {0};
    eng_result result;
    drive_flight *flight = &drv->flights[drv->oldest];
    drv->oldest = (drv->oldest + 1) % FLIGHTS;
    drv->n_out--;
    if (!check(drv->eng->ops->wait(drv->eng, &result, &e) == 0, "wait: %s", e.msg)) return false;
    if (flight->stage == ENG_STAGE_RECURRENT) after_loop(drv, flight, &result);
    if (flight->stage == ENG_STAGE_CODA) after_coda(drv, flight, &result);
    return true;
}

/* ---- rounds ---- */

static bool all_left(const driver *drv) {
    for (uint32_t seq = 0; seq < drv->spec->n_seqs; seq++) {
        for (uint32_t i = 0; i < drv->spec->len[seq]; i++) {
            const position *place = &drv->places[seq][i];
            bool loops = drv->spec->policy == KV_EXACT && place->loop < drv->spec->n_loops;
            if (!place->left || loops) return false;
        }
    }
    return drv->n_out == 0;
}

/* Starts a launch of whichever stage has rows ready; *any = whether one has. */
static bool start_some(driver *drv, bool *any) {
    const drive_spec *spec = drv->spec;
    uint32_t limit = spec->seed ? 1 + rng_below(&drv->rnd, spec->max_rows) : spec->max_rows;
    eng_stage order[3] = {ENG_STAGE_PRELUDE, ENG_STAGE_RECURRENT, ENG_STAGE_CODA};
    for (uint32_t i = 2; spec->seed && i > 0; i--) {
        uint32_t j = rng_below(&drv->rnd, i + 1);
        eng_stage held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
    drive_flight *flight = &drv->flights[(drv->oldest + drv->n_out) % FLIGHTS];
    for (int k = 0; k < 3; k++) {
        flight->stage = order[k];
        flight->n_rows = 0;
        flight->n_edits = drv->n_after;
        memcpy(flight->edits, drv->after, drv->n_after * sizeof *drv->after);
        gather(drv, flight, order[k], limit);
        *any = flight->n_rows > 0;
        if (!*any) continue;
        drv->n_after = 0;
        return start(drv, flight);
    }
    return true;
}

static bool step(driver *drv) {
    bool any = false;
    bool room =
        drv->n_out < drv->most_out && !(drv->n_out && drv->spec->seed && !rng_below(&drv->rnd, 5));
    if (room && !start_some(drv, &any)) return false;
    return any || drv->n_out == 0 || settle(drv);
}

bool drive(eng_backend *eng, const drive_spec *spec, drive_result *out) {
    driver *drv = array_new(1, sizeof *drv);
    *out = (drive_result){0};
    if (drv == NULL) return check(false, "out of memory");
    drv->eng = eng;
    drv->spec = spec;
    drv->out = out;
    drv->rnd.state = spec->seed;
    drv->most_out = spec->flights > 1 && eng->info.max_flights > 1 ? FLIGHTS : 1;
    for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
        out->logits[seq] = array_new((size_t)spec->len[seq] * eng->plan->vocab_size, sizeof(float));
        out->choices[seq] = array_new(spec->len[seq], sizeof(eng_choice));
        for (uint32_t i = 0; i < TABLE; i++)
            drv->blocks[seq][i] = block_of(seq, i * ENG_BLOCK);
    }
    for (uint32_t i = 0; i < MOST_ROWS; i++)
        drv->free_rows[drv->n_free++] = MOST_ROWS - 1 - i;
    bool ok = true;
    uint32_t steps = 0;
    while (ok && !all_left(drv) && ++steps < 100000)
        ok = step(drv);
    ok = check(ok && all_left(drv), "the driver does not end");
    free(drv);
    return ok;
}

void drive_result_deinit(drive_result *result) {
    for (uint32_t seq = 0; seq < DRIVE_SEQS; seq++) {
        free(result->logits[seq]);
        free(result->choices[seq]);
    }
    *result = (drive_result){0};
}

float *drive_latents(const eng_backend *base, const drive_spec *spec, uint32_t seq, size_t *n) {
    const cu_cache *cache = &((const cu_backend *)base)->cache;
    size_t slot = cache->slot_values, map = (size_t)cache->n_planes * ENG_BLOCK;
    uint32_t *maps = array_new(cache->n_blocks * map, sizeof *maps);
    float *slots = array_new((size_t)cache->n_slots * slot, sizeof *slots);
    float *out = array_new((size_t)spec->len[seq] * cache->n_planes * slot, sizeof *out);
    *n = 0;
    if (!check(maps && slots && out, "out of memory")) goto end;
    must(cudaMemcpy(maps, cache->maps, cache->n_blocks * map * 4, cudaMemcpyDeviceToHost),
         "copying");
    must(cudaMemcpy(slots, cache->slots, cache->n_slots * slot * 4, cudaMemcpyDeviceToHost),
         "copying");
    for (uint32_t pos = 0; pos < spec->len[seq]; pos++) {
        const uint32_t *at = maps + block_of(seq, pos) * map + pos % ENG_BLOCK;
        for (uint32_t plane = 0; plane < cache->n_planes; plane++, *n += slot) {
            uint32_t from = at[(size_t)plane * ENG_BLOCK];
            if (!check(from < cache->n_slots, "plane %u of position %u has no slot", plane, pos))
                goto end;
            memcpy(out + *n, slots + from * slot, slot * sizeof *out);
        }
    }
end:
    free(maps);
    free(slots);
    return out;
}
