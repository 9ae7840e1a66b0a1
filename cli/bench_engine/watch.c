/* watch.c - the backend of a run: times each launch by the chosen clock and writes it down. */
#include "base/clock.h"
#include "cli/bench_engine/bench_engine_internal.h"
#include "engine/backend.h"

#include <stdlib.h>
#include <time.h>

uint64_t be_clock_ns(const be_load *load) {
    if (load->virtual_ns) return *load->virtual_ns;
    if (!load->cpu_clock) return clock_ns();
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

const char *be_clock_name(const be_load *load) {
    return load->virtual_ns ? "virtual" : load->cpu_clock ? "cpu" : "wall";
}

/* ---- the table of launches ---- */

void be_table_deinit(be_table *table) {
    free(table->launches);
    *table = (be_table){0};
}

static int add_launch(be_table *table, const be_launch *launch, err *e) {
    if (table->n == table->cap) {
        size_t cap = table->cap ? 2 * table->cap : 1024;
        be_launch *more = realloc(table->launches, cap * sizeof *more);
        if (more == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the launches");
        table->launches = more;
        table->cap = cap;
    }
    table->launches[table->n++] = *launch;
    return 0;
}

void be_watch_open_window(be_watch *watch) {
    watch->n_skip = watch->n_out;
    watch->table->n = watch->n_settled = 0;
}

void be_watch_close_window(be_watch *watch) {
    watch->table->n = watch->n_settled;
}

/* ---- the backend ---- */

/* Rows of other sequences or positions that this launch leaves waiting. */
static uint32_t waiting_rows(const be_watch *watch, const be_launch *launch) {
    uint32_t looping = watch->n_looping, ready = watch->n_ready;
    if (watch->drafts) return 0;
    switch ((eng_stage)launch->stage) {
    case ENG_STAGE_PRELUDE: return looping + ready;
    case ENG_STAGE_RECURRENT: return looping - (launch->rows - launch->tails) + ready;
    case ENG_STAGE_CODA: break;
    }
    return looping + ready - launch->rows;
}

static int note_launch(be_watch *watch, const eng_launch *asked, err *e) {
    be_launch launch = {.stage = (uint8_t)asked->stage, .rows = asked->n_rows};
    for (uint32_t i = 0; i < asked->n_rows; i++) {
        launch.tails += (asked->rows[i].flags & ENG_ROW_TAIL) != 0;
        launch.kv_only += (asked->rows[i].flags & ENG_ROW_KV_ONLY) != 0;
    }
    launch.waiting = waiting_rows(watch, &launch);
    if (asked->stage == ENG_STAGE_PRELUDE) watch->n_looping += asked->n_rows;
    if (asked->stage == ENG_STAGE_CODA) watch->n_ready -= asked->n_rows;
    if (add_launch(watch->table, &launch, e) != 0) return -1;
    watch->began = be_clock_ns(watch->load);
    watch->out_stage[watch->n_out] = asked->stage;
    watch->out_rows[watch->n_out++] = asked->n_rows;
    return watch->inner->ops->launch(watch->inner, asked, e);
}

static int note_result(be_watch *watch, eng_result *result, err *e) {
    int rc = watch->inner->ops->wait(watch->inner, result, e);
    if (rc == 0 && watch->load->cpu_clock) result->ns = be_clock_ns(watch->load) - watch->began;
    eng_stage stage = watch->out_stage[0];
    uint32_t rows = watch->out_rows[0];
    watch->out_stage[0] = watch->out_stage[1];
    watch->out_rows[0] = watch->out_rows[1];
    watch->n_out--;
    if (rc != 0) return rc;
    for (uint32_t i = 0; i < rows && stage == ENG_STAGE_RECURRENT; i++) {
        watch->n_looping -= result->halted[i];
        watch->n_ready += result->halted[i];
    }
    if (watch->n_skip > 0) watch->n_skip--;
    else watch->table->launches[watch->n_settled++].ns = result->ns;
    return 0;
}

static int watched_launch(eng_backend *backend, const eng_launch *asked, err *e) {
    be_watch *watch = (be_watch *)(void *)backend;
    uint64_t began = clock_thread_ns();
    int rc = note_launch(watch, asked, e);
    watch->inside_ns += clock_thread_ns() - began;
    return rc;
}

static int watched_wait(eng_backend *backend, eng_result *result, err *e) {
    be_watch *watch = (be_watch *)(void *)backend;
    uint64_t began = clock_thread_ns();
    int rc = note_result(watch, result, e);
    watch->inside_ns += clock_thread_ns() - began;
    return rc;
}

static void watched_close(eng_backend *backend) {
    (void)backend; /* the caller keeps the inner backend */
}

void be_watch_init(be_watch *watch, eng_backend *inner, const be_load *load, be_table *table) {
    static const eng_backend_ops ops = {watched_launch, watched_wait, watched_close};
    *watch = (be_watch){.base = *inner, .inner = inner, .load = load, .table = table};
    watch->base.ops = &ops;
}
