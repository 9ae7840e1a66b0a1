/* driver.c - a scheduler in small: every position's stage, the wavefront rule, random batches. */
#include "tests/cuda/selftest/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint16_t loop;      /* loops executed */
    uint16_t depth;     /* loops executed when it halted; 0: still runs */
    bool entered, left; /* prelude done; coda done */
    uint32_t slot;      /* of its last loop */
} position;

typedef struct {
    eng_backend *b;
    const drive_spec *spec;
    drive_result *out;
    position p[DRIVE_SEQS][DRIVE_LEN];
    uint32_t blocks[DRIVE_SEQS][DRIVE_LEN / ENG_BLOCK + 1];
    uint32_t next_slot;
    rng r;
    eng_row rows[DRIVE_SEQS * DRIVE_LEN];
    uint16_t seq[DRIVE_SEQS * DRIVE_LEN];
    eng_edit edits[DRIVE_SEQS * DRIVE_LEN * 4];
    uint32_t n_rows, n_edits;
} driver;

eng_backend_opts drive_opts(const drive_spec *spec, const char *kernels, eng_dtype cache) {
    return (eng_backend_opts){.threads = 1,
                              .max_loops = spec->n_loops,
                              .n_rows = DRIVE_SEQS * DRIVE_LEN,
                              .max_launch = spec->max_rows,
                              .cache_bytes = 12 << 20,
                              .max_positions = 96,
                              .cache_dtype = cache,
                              .kernels = kernels};
}

static void edit(driver *d, uint32_t s, uint32_t pos, uint32_t plane, uint32_t slot) {
    d->edits[d->n_edits++] = (eng_edit){.block = d->blocks[s][pos / ENG_BLOCK],
                                        .slot = slot,
                                        .plane = (uint16_t)plane,
                                        .n_planes = 1,
                                        .off = (uint8_t)(pos % ENG_BLOCK)};
}

static void edit_layers(driver *d, uint32_t s, uint32_t pos, uint32_t plane, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        edit(d, s, pos, plane + i, d->next_slot++);
}

static eng_row *add(driver *d, uint32_t s, uint32_t pos) {
    d->seq[d->n_rows] = (uint16_t)s;
    eng_row *r = &d->rows[d->n_rows++];
    *r = (eng_row){.row = s * DRIVE_LEN + pos,
                   .pos = pos,
                   .token = d->spec->ids[s][pos],
                   .blocks = d->blocks[s]};
    return r;
}

/* True if position pos of s may run its next loop, given the rows already in this launch. */
static bool may_loop(const driver *d, uint32_t s, uint32_t pos, const uint16_t *after) {
    const position *p = &d->p[s][pos];
    if (!p->entered || p->loop >= d->spec->n_loops) return false;
    if (p->depth && d->spec->policy == ENG_LAST) return false;
    for (uint32_t i = 0; i < pos; i++) {
        const position *q = &d->p[s][i];
        bool gone = d->spec->policy == ENG_LAST && q->depth && q->depth <= p->loop;
        if (after[i] <= p->loop && !gone) return false;
    }
    return true;
}

static void add_loop(driver *d, uint32_t s, uint32_t pos) {
    const drive_spec *c = d->spec;
    position *p = &d->p[s][pos];
    eng_row *r = add(d, s, pos);
    r->loop = p->loop;
    r->min_loops = (uint16_t)c->min_loops;
    r->max_loops = (uint16_t)c->n_loops;
    r->threshold = c->threshold;
    if (p->depth)
        r->flags = p->loop + 1u == c->n_loops ? ENG_ROW_TAIL | ENG_ROW_KV_ONLY : ENG_ROW_TAIL;
    p->slot = d->next_slot++;
    edit(d, s, pos, eng_plane_loop(d->b->config, p->loop), p->slot);
}

/* Fills the launch with ready rows of one stage. */
static void gather(driver *d, eng_stage stage, uint32_t limit) {
    const eng_config *c = d->b->config;
    uint32_t first = d->spec->seed ? rng_below(&d->r, d->spec->n_seqs) : 0;
    for (uint32_t k = 0; k < d->spec->n_seqs; k++) {
        uint32_t s = (first + k) % d->spec->n_seqs;
        uint16_t after[DRIVE_LEN]; /* loops executed once this launch has written its K/V */
        for (uint32_t i = 0; i < d->spec->len[s]; i++)
            after[i] = d->p[s][i].loop;
        for (uint32_t i = 0; i < d->spec->len[s] && d->n_rows < limit; i++) {
            position *p = &d->p[s][i];
            if (stage == ENG_STAGE_PRELUDE && !p->entered) {
                add(d, s, i);
                edit_layers(d, s, i, eng_plane_prelude(c, 0), c->prelude_layers);
            } else if (stage == ENG_STAGE_CODA && !p->left) {
                if (!p->depth) break; /* in order */
                add(d, s, i)->flags = ENG_ROW_LOGITS;
                edit_layers(d, s, i, eng_plane_coda(c, 0), c->coda_layers);
            } else if (stage == ENG_STAGE_RECURRENT && may_loop(d, s, i, after)) {
                if (d->spec->seed && rng_below(&d->r, 8) == 0) continue;
                add_loop(d, s, i);
                after[i]++;
            }
        }
    }
}

/* Under LAST a halted position's deeper planes name its last slot. */
static void after_loop(driver *d, const eng_result *r) {
    for (uint32_t i = 0; i < d->n_rows; i++) {
        uint32_t s = d->seq[i], pos = d->rows[i].pos;
        position *p = &d->p[s][pos];
        p->loop++;
        if (!r->halted[i]) continue;
        check(p->depth == 0, "position %u of sequence %u halts twice", pos, s);
        p->depth = p->loop;
        d->out->depth[s][pos] = p->loop;
    }
}

static void point_deeper(driver *d, uint32_t n) {
    d->n_edits = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t s = d->seq[i], pos = d->rows[i].pos;
        const position *p = &d->p[s][pos];
        if (d->spec->policy != ENG_LAST || p->depth == 0 || p->depth == d->spec->n_loops) continue;
        edit(d, s, pos, eng_plane_loop(d->b->config, p->depth), p->slot);
        d->edits[d->n_edits - 1].n_planes = (uint16_t)(d->spec->n_loops - p->depth);
    }
}

static void after_coda(driver *d, const eng_result *r) {
    size_t vocab = d->b->config->vocab_size;
    check(r->n_logits == d->n_rows, "%u logits for %u rows", r->n_logits, d->n_rows);
    for (uint32_t i = 0; i < d->n_rows; i++) {
        uint32_t s = d->seq[i], pos = d->rows[i].pos;
        d->p[s][pos].left = true;
        memcpy(d->out->logits[s] + pos * vocab, r->logits + i * vocab, vocab * sizeof(float));
    }
}

static bool launch(driver *d, eng_stage stage) {
    err e = {0};
    eng_result r;
    eng_launch l = {stage, d->rows, d->n_rows, d->edits, d->n_edits};
    if (d->spec->poison && !check(eng__cuda_poison((cu_backend *)d->b, &e) == 0, "%s", e.msg))
        return false;
    if (!check(eng_run(d->b, &l, &r, &e) == 0, "launch: %s", e.msg)) return false;
    d->out->launches++;
    uint32_t n = d->n_rows;
    d->n_edits = 0;
    if (stage == ENG_STAGE_PRELUDE) {
        for (uint32_t i = 0; i < n; i++)
            d->p[d->seq[i]][d->rows[i].pos].entered = true;
    } else if (stage == ENG_STAGE_RECURRENT) {
        after_loop(d, &r);
        point_deeper(d, n); /* goes with the next launch, whatever it is */
    } else {
        after_coda(d, &r);
    }
    d->n_rows = 0;
    return true;
}

static bool all_left(const driver *d) {
    for (uint32_t s = 0; s < d->spec->n_seqs; s++) {
        for (uint32_t i = 0; i < d->spec->len[s]; i++) {
            if (!d->p[s][i].left) return false;
        }
    }
    return true;
}

static bool step(driver *d) {
    const drive_spec *c = d->spec;
    uint32_t limit = c->seed ? 1 + rng_below(&d->r, c->max_rows) : c->max_rows;
    eng_stage order[3] = {ENG_STAGE_PRELUDE, ENG_STAGE_RECURRENT, ENG_STAGE_CODA};
    for (uint32_t i = 2; c->seed && i > 0; i--) {
        uint32_t j = rng_below(&d->r, i + 1);
        eng_stage t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int k = 0; k < 3; k++) {
        uint32_t edits = d->n_edits;
        gather(d, order[k], limit);
        if (d->n_rows) return launch(d, order[k]);
        d->n_edits = edits;
    }
    return true;
}

bool drive(eng_backend *b, const drive_spec *spec, drive_result *out) {
    driver *d = array_new(1, sizeof *d);
    *out = (drive_result){0};
    if (d == NULL) return check(false, "out of memory");
    d->b = b;
    d->spec = spec;
    d->out = out;
    d->r.s = spec->seed;
    uint32_t next_block = 0;
    for (uint32_t s = 0; s < spec->n_seqs; s++) {
        out->logits[s] = array_new((size_t)spec->len[s] * b->config->vocab_size, sizeof(float));
        for (uint32_t i = 0; i < DRIVE_LEN / ENG_BLOCK + 1; i++)
            d->blocks[s][i] = next_block++;
    }
    bool ok = true;
    uint32_t steps = 0;
    while (ok && !all_left(d) && ++steps < 100000)
        ok = step(d);
    ok = check(ok && all_left(d), "the driver does not end");
    free(d);
    return ok;
}

void drive_result_deinit(drive_result *r) {
    for (uint32_t s = 0; s < DRIVE_SEQS; s++)
        free(r->logits[s]);
    *r = (drive_result){0};
}
