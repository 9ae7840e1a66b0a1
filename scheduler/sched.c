/* sched.c - one step of the scheduler: settle, admit, choose, reserve, build, start.
 *
 *   settle   results of earlier launches: rows halt, tokens come out, sequences end
 *   admit    waiting sequences begin; running ones get rows for their next positions
 *   choose   the cohorts that go into a launch
 *   reserve  cache pages and blocks for them; sequences give way here where pages run out
 *   build    rows and edits for the backend; cannot fail
 *   start    the launch; state that does not depend on its result advances
 *
 * A step is one round of launches: coda and prelude where a flush pays, then one more loop. Each
 * launch goes through choose to start. With one launch in flight, it is settled at once; with
 * more, the next one is built meanwhile (ahead.c). */
#include "scheduler/feed_internal.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- one launch ---- */

static void choose(scheduler *sched, flight *next) {
    switch (next->stage) {
    case ENG_STAGE_PRELUDE: sched__choose_prelude(sched, next); break;
    case ENG_STAGE_RECURRENT: sched__choose_loops(sched, next); break;
    case ENG_STAGE_CODA: sched__choose_coda(sched, next); break;
    }
}

static void build(scheduler *sched, flight *next) {
    switch (next->stage) {
    case ENG_STAGE_PRELUDE: sched__build_prelude(sched, next); break;
    case ENG_STAGE_RECURRENT: sched__build_loops(sched, next); break;
    case ENG_STAGE_CODA: sched__build_coda(sched, next); break;
    }
}

static int start(scheduler *sched, flight *next, err *e) {
    eng_launch launch = {next->stage, next->rows, next->n_rows, next->edits, next->n_edits};
    if (sched->backend->ops->launch(sched->backend, &launch, e) != 0) return -1;
    sched__learn_host(sched);
    sched->n_out++;
    sched->n_started++;
    switch (next->stage) {
    case ENG_STAGE_PRELUDE: sched__started_prelude(sched, next); break;
    case ENG_STAGE_RECURRENT: sched__started_loops(next); break;
    case ENG_STAGE_CODA: sched__started_coda(sched, next); break;
    }
    return 0;
}

/* A launch ahead must not preempt: rows halting in the one that is out may make room. */
static int launch(scheduler *sched, eng_stage stage, err *e) {
    if (sched->n_out > 0 && !sched__ahead_fits(sched, stage) && sched__settle_all(sched, e) != 0) {
        return -1;
    }
    flight *next = sched__new_flight(sched, stage);
    choose(sched, next);
    sched__reserve(sched, next);
    build(sched, next);
    if (next->n_rows > 0 && start(sched, next, e) != 0) return -1;
    while (sched->n_out >= sched->max_flights) {
        if (sched__settle_oldest(sched, e) != 0) return -1;
    }
    return 0;
}

/* Ends, since a launch takes at least the first row of `waiting` away, or preempts its owner, or
 * withdraws it. */
static int launch_all(scheduler *sched, eng_stage stage, const list_link *waiting, err *e) {
    while (!list_empty(waiting)) {
        if (launch(sched, stage, e) != 0) return -1;
    }
    return 0;
}

/* ---- one round ---- */

/* Everything is settled on return, unless going on without the results pays. */
static int settle(scheduler *sched, err *e) {
    const flight *out = sched__newest_out(sched);
    return out == NULL || sched__ahead_pays(sched, out) ? 0 : sched__settle_all(sched, e);
}

static void admit(scheduler *sched) {
    sched__admit(sched);
    sched__start_cohorts(sched);
    sched__look_up_drafts(sched);
}

static int flush(scheduler *sched, err *e) {
    sched__flush_begins(sched);
    if (launch_all(sched, ENG_STAGE_CODA, &sched->to_coda, e) != 0) return -1;
    if (launch_all(sched, ENG_STAGE_CODA, &sched->to_draft, e) != 0) return -1;
    if (settle(sched, e) != 0) return -1;
    admit(sched);
    return launch_all(sched, ENG_STAGE_PRELUDE, &sched->to_prelude, e);
}

static int launch_round(scheduler *sched, err *e) {
    if (sched->rules.drafts) sched__plan_drafts(sched);
    if (sched__flush_pays(sched)) {
        if (flush(sched, e) != 0) return -1;
    } else if (sched->rules.prelude_at_once) {
        if (launch_all(sched, ENG_STAGE_PRELUDE, &sched->to_prelude, e) != 0) return -1;
    }
    sched__relieve_rows(sched);
    if (sched->n_looping_live + sched->n_looping_tail == 0) return 0;
    return launch(sched, ENG_STAGE_RECURRENT, e);
}

static int run_round(scheduler *sched, err *e) {
    uint64_t before = sched->n_started;
    bool was_out = sched->n_out > 0;
    if (settle(sched, e) != 0) return -1;
    sched__end_unmasked(sched);
    sched__admit_masked(sched);
    admit(sched);
    if (launch_round(sched, e) != 0) return -1;
    if (sched->n_started != before) return 0;
    /* Nothing could start, so all rows wait for launches in flight. */
    sched->awaits_masks_only = !was_out && !list_empty(&sched->to_mask);
    return sched__settle_all(sched, e);
}

/* ---- one step ---- */

static void free_ended(scheduler *sched) {
    if (sched->driver_reports_ends) return;
    for (sequence *seq; (seq = sched__take_ended(sched)) != NULL;)
        free(seq);
}

static bool at_rest(const scheduler *sched) {
    return sched->n_running + sched->n_waiting + sched->n_out == 0;
}

static int step(scheduler *sched, bool *idle, err *e) {
    sched->stats.steps++;
    sched->stepping = true;
    int rc = sched->dead ? err_set(e, ERR_DEVICE, NULL, "the device failed") : run_round(sched, e);
    if (rc != 0) {
        sched->dead = true;
        sched__end_all(sched, SCHED_FAILED, ERR_DEVICE);
        sched__drain(sched);
    }
    sched->stepping = false;
    if (sched->cancels_wanted) sched__end_cancelled(sched);
    free_ended(sched);
    *idle = at_rest(sched);
    if (*idle) sched->ahead.settled_at = 0; /* a pause is not host time between launches */
    return rc;
}

int sched_step(scheduler *sched, bool *idle, err *e) {
    *idle = at_rest(sched);
    sched->awaits_masks_only = false;
    int rc = *idle ? 0 : step(sched, idle, e);
    if (sched->limits.opts.feed) sched__feed_turn(sched->limits.opts.feed);
    return rc;
}

/* ---- submit and cancel ---- */

static bool queue_is_full(const scheduler *sched, const sched_request *req) {
    const sched_opts *opts = &sched->limits.opts;
    uint64_t inside = (uint64_t)sched->n_running + sched->n_waiting;
    if (inside >= (uint64_t)opts->max_running + opts->max_queue) return true;
    return sched->n_waiting > 0 && sched->waiting_tokens + req->n_prompt > opts->max_queue_tokens;
}

int sched_submit(scheduler *sched, const sched_request *req, uint64_t *id, err *e) {
    *id = 0;
    if (sched->dead) return err_set(e, ERR_DEVICE, NULL, "the device failed");
    if (queue_is_full(sched, req)) {
        sched->stats.refused++;
        return err_set(e, ERR_BUSY, NULL, "%u requests are waiting already", sched->n_waiting);
    }
    sequence *seq;
    if (sched__seq_create(&seq, &sched->limits, req, e) != 0) {
        sched->stats.refused++;
        return -1;
    }
    seq->id = *id = sched->next_id++;
    sched__accept(sched, seq);
    return 0;
}

static sequence *find_in(list_link *list, uint64_t id) {
    for (list_link *link = list->next; link != list; link = link->next) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (seq->id == id) return seq;
    }
    return NULL;
}

void sched_cancel(scheduler *sched, uint64_t id) {
    sequence *seq = find_in(&sched->running, id);
    for (uint32_t i = 0; i < sched->n_tenants && seq == NULL; i++)
        seq = find_in(&sched->tenants[i].waiting, id);
    if (seq == NULL) return;
    if (sched->stepping) { /* from a sink or a tap: its rows may be in the launch being settled */
        atomic_store_explicit(&seq->cancel_wanted, true, memory_order_relaxed);
        sched->cancels_wanted = true;
        return;
    }
    sched__end(sched, seq, SCHED_CANCELLED, ERR_NONE, 0);
    free_ended(sched);
}

/* ---- figures ---- */

static void count_rows_by_loop(const scheduler *sched, sched_stats *out) {
    memset(out->rows_by_loop, 0, sizeof out->rows_by_loop);
    for (int i = 0; i < N_LISTS; i++) {
        const list_link *list = &sched->looping[i];
        for (const list_link *link = list->next; link != list; link = link->next) {
            const cohort *coh = OWNER_OF((uintptr_t)link, cohort, loop_link);
            out->rows_by_loop[coh->next_loop] += coh->n_live + coh->n_tail;
        }
    }
}

static uint64_t blocks_that_fit(const scheduler *sched) {
    const request_limits *limits = &sched->limits;
    uint64_t each = sched__worst_pages(limits, ENG_BLOCK, limits->opts.default_max_loops);
    uint64_t n = limits->n_pages / (each ? each : 1);
    return (n < limits->n_blocks ? n : limits->n_blocks) * sched->n_homes;
}

static void add_cache(const scheduler *sched, uint32_t home, sched_stats *out) {
    const eng_backend_info *info = &sched->backend->info;
    const kv_cache *cache = &sched->caches[home];
    uint64_t n_slots = (uint64_t)(cache->n_pages - cache->n_free_pages) * PAGE_SLOTS;
    uint64_t map_bytes = (uint64_t)(cache->n_blocks - cache->n_free_blocks) * info->block_map_bytes;
    out->pages += cache->n_pages;
    out->pages_free += cache->n_free_pages;
    out->pages_cached += cache->n_cached_pages;
    out->slots_used += cache->n_used;
    out->cache_bytes += n_slots * info->slot_bytes + map_bytes;
    out->cache_bytes_all_loops += cache->full_depth_slots * info->slot_bytes + map_bytes;
    out->homes[home] = (sched_home_stats){.running = sched->home_running[home],
                                          .pages = cache->n_pages,
                                          .pages_free = cache->n_free_pages,
                                          .pages_cached = cache->n_cached_pages};
}

void sched_get_stats(const scheduler *sched, sched_stats *out) {
    *out = sched->stats;
    out->n_homes = sched->n_homes;
    out->running = sched->n_running;
    out->waiting = sched->n_waiting;
    out->waiting_tokens = sched->waiting_tokens;
    out->page_slots = PAGE_SLOTS;
    out->slot_bytes = sched->backend->info.slot_bytes;
    out->blocks = blocks_that_fit(sched);
    out->loops_to_run = sched__loops_to_run(sched);
    for (uint32_t home = 0; home < sched->n_homes; home++)
        add_cache(sched, home, out);
    out->rows_held = sched->n_rows - sched->n_free_rows;
    count_rows_by_loop(sched, out);
}

bool sched_get_launch(const scheduler *sched, uint64_t id, sched_launch *out) {
    return sched__launches_get(&sched->launches, id, out);
}

void sched_get_tenant_stats(const scheduler *sched, uint32_t tenant_index,
                            sched_tenant_stats *out) {
    *out = (sched_tenant_stats){0};
    if (tenant_index >= sched->n_tenants) return;
    const sched_tenant *tenant = &sched->tenants[tenant_index];
    *out = (sched_tenant_stats){.running = tenant->n_running,
                                .waiting = tenant->n_waiting,
                                .waiting_tokens = tenant->waiting_tokens,
                                .rows = tenant->rows,
                                .charged_ns = (uint64_t)tenant->charged_ns,
                                .output_tokens = tenant->output_tokens,
                                .preemptions = tenant->preemptions};
    for (uint32_t home = 0; home < sched->n_homes; home++) {
        out->pages += sched->caches[home].parts[tenant_index].n_pages;
        out->pages_cached += sched->caches[home].parts[tenant_index].n_cached_pages;
    }
}
