/* row_driver.c - see row_driver.h. */
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

void driver_open(driver *d, const char *dir, uint32_t n_loops, kv_policy policy,
                 const eng_backend_opts *opts) {
    err e = {0};
    memset(d, 0, sizeof *d);
    cr_assert_eq(model_open(&d->m, dir, &e), 0, "%s", e.msg);
    d->c = model_plan_of(d->m);
    d->n_loops = n_loops;
    d->policy = policy;
    eng_backend_opts o = {.threads = 1};
    if (opts) o = *opts;
    o.n_rows = DRIVER_SEQS * DRIVER_POS;
    if (o.cache_bytes == 0) o.cache_bytes = 8 << 20;
    o.max_loops = n_loops;
    cr_assert_eq(eng_cpu_open(&d->b, d->m, &o, &e), 0, "%s", e.msg);
}

void driver_close(driver *d) {
    for (uint32_t s = 0; s < DRIVER_SEQS; s++)
        free(d->seq[s].logits);
    eng_backend_close(d->b);
    model_close(d->m);
}

void driver_start(driver *d, uint32_t n_seq, uint32_t n_pos) {
    d->n_seq = n_seq;
    d->n_pos = n_pos;
    d->next_slot = d->next_block = 0;
    d->n_rows = d->n_edits = 0;
    for (uint32_t s = 0; s < n_seq; s++) {
        struct driver_seq *q = &d->seq[s];
        q->row0 = s * DRIVER_POS;
        for (uint32_t i = 0; i <= n_pos / ENG_BLOCK; i++)
            q->blocks[i] = d->next_block++;
        memset(q->depth, 0, sizeof q->depth);
        free(q->logits);
        q->logits = calloc((size_t)n_pos * d->c->vocab_size, sizeof(float));
    }
}

static void map_slot(driver *d, uint32_t s, uint32_t pos, uint32_t plane, uint32_t slot) {
    d->edits[d->n_edits++] = (eng_edit){.block = d->seq[s].blocks[pos / ENG_BLOCK],
                                        .slot = slot,
                                        .plane = (uint16_t)plane,
                                        .n_planes = 1,
                                        .off = (uint8_t)(pos % ENG_BLOCK)};
}

static eng_row *add_row(driver *d, uint32_t s, uint32_t pos) {
    struct driver_seq *q = &d->seq[s];
    d->who[d->n_rows][0] = s;
    d->who[d->n_rows][1] = pos;
    eng_row *r = &d->rows[d->n_rows++];
    *r = (eng_row){.row = q->row0 + pos, .pos = pos, .token = q->ids[pos], .blocks = q->blocks};
    return r;
}

void driver_add_prelude(driver *d, uint32_t s, uint32_t first, uint32_t end) {
    for (uint32_t p = first; p < end; p++) {
        add_row(d, s, p);
        for (uint32_t i = 0; i < d->c->n_prelude; i += d->c->n_core) {
            map_slot(d, s, p, plan_plane_prelude(d->c, i), d->next_slot++);
        }
    }
}

/* Positions that still run, and under KV_EXACT those that halted, as tails. */
void driver_add_loop(driver *d, uint32_t s, uint32_t t, uint32_t first, uint32_t end) {
    struct driver_seq *q = &d->seq[s];
    for (uint32_t p = first; p < end; p++) {
        bool gone = q->depth[p] != 0, tail = gone && d->policy == KV_EXACT;
        if (!gone || tail) q->last_slot[p] = d->next_slot++;
        map_slot(d, s, p, plan_plane_loop(d->c, t), q->last_slot[p]);
        if (gone && !tail) continue;
        eng_row *row = add_row(d, s, p);
        row->loop = (uint16_t)t;
        row->min_loops = (uint16_t)d->min_loops;
        row->max_loops = (uint16_t)d->n_loops;
        row->threshold = d->c->exit_threshold;
        if (tail) row->flags = ENG_ROW_TAIL;
        if (tail && t + 1 == d->n_loops) row->flags |= ENG_ROW_KV_ONLY;
    }
}

void driver_add_coda(driver *d, uint32_t s, uint32_t first, uint32_t end) {
    for (uint32_t p = first; p < end; p++) {
        add_row(d, s, p)->flags = ENG_ROW_LOGITS;
        for (uint32_t i = 0; i < d->c->n_coda; i += d->c->n_core) {
            map_slot(d, s, p, plan_plane_coda(d->c, i), d->next_slot++);
        }
    }
}

void driver_launch(driver *d, eng_stage stage) {
    err e = {0};
    eng_result r;
    eng_launch l = {stage, d->rows, d->n_rows, d->edits, d->n_edits};
    cr_assert_eq(eng_run(d->b, &l, &r, &e), 0, "%s", e.msg);
    if (stage == ENG_STAGE_CODA) cr_assert_eq(r.n_logits, d->n_rows);
    for (uint32_t i = 0; i < d->n_rows; i++) {
        struct driver_seq *q = &d->seq[d->who[i][0]];
        uint32_t pos = d->who[i][1];
        size_t vocab = d->c->vocab_size;
        if (stage == ENG_STAGE_CODA) {
            memcpy(q->logits + pos * vocab, r.logits + i * vocab, vocab * sizeof(float));
        } else if (stage == ENG_STAGE_RECURRENT && r.halted[i]) {
            q->depth[pos] = d->rows[i].loop + 1u;
        }
    }
    d->n_rows = d->n_edits = 0;
}

static void run_chunk(driver *d, uint32_t first, uint32_t end) {
    for (uint32_t s = 0; s < d->n_seq; s++)
        driver_add_prelude(d, s, first, end);
    driver_launch(d, ENG_STAGE_PRELUDE);
    for (uint32_t t = 0; t < d->n_loops; t++) {
        for (uint32_t s = 0; s < d->n_seq; s++)
            driver_add_loop(d, s, t, first, end);
        driver_launch(d, ENG_STAGE_RECURRENT);
    }
    for (uint32_t s = 0; s < d->n_seq; s++)
        driver_add_coda(d, s, first, end);
    driver_launch(d, ENG_STAGE_CODA);
}

void driver_run(driver *d, uint32_t chunk) {
    for (uint32_t p = 0; p < d->n_pos; p += chunk) {
        run_chunk(d, p, p + chunk < d->n_pos ? p + chunk : d->n_pos);
    }
}
