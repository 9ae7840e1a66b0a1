/* row_driver.c - see row_driver.h. */
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

void driver_open(driver *drv, const char *dir, uint32_t n_loops, kv_policy policy,
                 const eng_backend_opts *opts) {
    err e = {0};
    memset(drv, 0, sizeof *drv);
    cr_assert_eq(model_open(&drv->model, dir, &e), 0, "%s", e.msg);
    drv->plan = model_plan_of(drv->model);
    drv->n_loops = n_loops;
    drv->policy = policy;
    eng_backend_opts own = {.threads = 1};
    if (opts) own = *opts;
    own.n_rows = DRIVER_SEQS * DRIVER_POS;
    if (own.cache_bytes == 0) own.cache_bytes = 8 << 20;
    own.max_loops = n_loops;
    cr_assert_eq(eng_cpu_open(&drv->backend, drv->model, &own, &e), 0, "%s", e.msg);
}

void driver_close(driver *drv) {
    for (uint32_t seq_idx = 0; seq_idx < DRIVER_SEQS; seq_idx++)
        free(drv->seq[seq_idx].logits);
    eng_backend_close(drv->backend);
    model_close(drv->model);
}

void driver_start(driver *drv, uint32_t n_seq, uint32_t n_pos) {
    drv->n_seq = n_seq;
    drv->n_pos = n_pos;
    drv->next_slot = drv->next_block = 0;
    drv->n_rows = drv->n_edits = 0;
    for (uint32_t seq_idx = 0; seq_idx < n_seq; seq_idx++) {
        struct driver_seq *seq = &drv->seq[seq_idx];
        seq->row0 = seq_idx * DRIVER_POS;
        seq->home = 0;
        for (uint32_t i = 0; i <= n_pos / ENG_BLOCK; i++)
            seq->blocks[i] = drv->next_block++;
        memset(seq->depth, 0, sizeof seq->depth);
        free(seq->logits);
        seq->logits = calloc((size_t)n_pos * drv->plan->vocab_size, sizeof(float));
    }
}

static void map_slot(driver *drv, uint32_t seq_idx, uint32_t pos, uint32_t plane, uint32_t slot) {
    drv->edits[drv->n_edits++] = (eng_edit){.block = drv->seq[seq_idx].blocks[pos / ENG_BLOCK],
                                            .slot = slot,
                                            .plane = (uint16_t)plane,
                                            .n_planes = 1,
                                            .off = (uint8_t)(pos % ENG_BLOCK),
                                            .home = (uint16_t)drv->seq[seq_idx].home};
}

static eng_row *add_row(driver *drv, uint32_t seq_idx, uint32_t pos) {
    struct driver_seq *seq = &drv->seq[seq_idx];
    drv->source[drv->n_rows][0] = seq_idx;
    drv->source[drv->n_rows][1] = pos;
    eng_row *row = &drv->rows[drv->n_rows++];
    *row = (eng_row){.row = seq->row0 + pos,
                     .pos = pos,
                     .token = seq->ids[pos],
                     .home = seq->home,
                     .blocks = seq->blocks};
    return row;
}

void driver_add_prelude(driver *drv, uint32_t seq_idx, uint32_t first, uint32_t end) {
    for (uint32_t pos = first; pos < end; pos++) {
        add_row(drv, seq_idx, pos);
        for (uint32_t i = 0; i < drv->plan->n_prelude; i += drv->plan->n_core) {
            map_slot(drv, seq_idx, pos, plan_plane_prelude(drv->plan, i), drv->next_slot++);
        }
    }
}

/* Running positions and, under KV_EXACT, halted positions as tails. */
void driver_add_loop(driver *drv, uint32_t seq_idx, uint32_t loop, uint32_t first, uint32_t end) {
    struct driver_seq *seq = &drv->seq[seq_idx];
    for (uint32_t pos = first; pos < end; pos++) {
        bool gone = seq->depth[pos] != 0, tail = gone && drv->policy == KV_EXACT;
        if (!gone || tail) seq->last_slot[pos] = drv->next_slot++;
        map_slot(drv, seq_idx, pos, plan_plane_loop(drv->plan, loop), seq->last_slot[pos]);
        if (gone && !tail) continue;
        eng_row *row = add_row(drv, seq_idx, pos);
        row->loop = (uint16_t)loop;
        row->min_loops = (uint16_t)drv->min_loops;
        row->max_loops = (uint16_t)drv->n_loops;
        row->threshold = drv->plan->exit_threshold;
        if (tail) row->flags = ENG_ROW_TAIL;
        if (tail && loop + 1 == drv->n_loops && !drv->full_tails) row->flags |= ENG_ROW_KV_ONLY;
    }
}

void driver_add_coda(driver *drv, uint32_t seq_idx, uint32_t first, uint32_t end) {
    for (uint32_t pos = first; pos < end; pos++) {
        add_row(drv, seq_idx, pos)->flags = ENG_ROW_LOGITS;
        for (uint32_t i = 0; i < drv->plan->n_coda; i += drv->plan->n_core) {
            map_slot(drv, seq_idx, pos, plan_plane_coda(drv->plan, i), drv->next_slot++);
        }
    }
}

void driver_launch(driver *drv, eng_stage stage) {
    err e = {0};
    eng_result result;
    eng_launch launch = {stage, drv->rows, drv->n_rows, drv->edits, drv->n_edits};
    cr_assert_eq(eng_run(drv->backend, &launch, &result, &e), 0, "%s", e.msg);
    if (stage == ENG_STAGE_CODA) cr_assert_eq(result.n_logits, drv->n_rows);
    for (uint32_t i = 0; i < drv->n_rows; i++) {
        struct driver_seq *seq = &drv->seq[drv->source[i][0]];
        uint32_t pos = drv->source[i][1];
        size_t vocab = drv->plan->vocab_size;
        if (stage == ENG_STAGE_CODA) {
            memcpy(seq->logits + pos * vocab, result.logits + i * vocab, vocab * sizeof(float));
        } else if (stage == ENG_STAGE_RECURRENT && result.halted[i]) {
            seq->depth[pos] = drv->rows[i].loop + 1u;
        }
    }
    drv->n_rows = drv->n_edits = 0;
}

static void run_chunk(driver *drv, uint32_t first, uint32_t end) {
    for (uint32_t seq_idx = 0; seq_idx < drv->n_seq; seq_idx++)
        driver_add_prelude(drv, seq_idx, first, end);
    driver_launch(drv, ENG_STAGE_PRELUDE);
    for (uint32_t loop = 0; loop < drv->n_loops; loop++) {
        for (uint32_t seq_idx = 0; seq_idx < drv->n_seq; seq_idx++)
            driver_add_loop(drv, seq_idx, loop, first, end);
        driver_launch(drv, ENG_STAGE_RECURRENT);
    }
    for (uint32_t seq_idx = 0; seq_idx < drv->n_seq; seq_idx++)
        driver_add_coda(drv, seq_idx, first, end);
    driver_launch(drv, ENG_STAGE_CODA);
}

void driver_run(driver *drv, uint32_t chunk) {
    for (uint32_t first = 0; first < drv->n_pos; first += chunk) {
        run_chunk(drv, first, first + chunk < drv->n_pos ? first + chunk : drv->n_pos);
    }
}
