/* sched.c - the plain machine: create, submit, cancel, step, stats. */
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_WAIT_BOUND = 16 };

void sched_opts_default(sched_opts *o) {
    *o = (sched_opts){.batching = SCHED_DEPTHWISE,
                      .halted_kv = KV_EXACT,
                      .max_running = 64,
                      .max_queue = 256,
                      .max_queue_tokens = 1u << 20,
                      .max_rows = 512,
                      .default_min_loops = 1,
                      .prefix_cache = true};
}

static int resolve(limits *l, const eng_backend *b, const sched_opts *opts, err *e) {
    const model_plan *c = b->plan;
    l->plan = c;
    l->opts = *opts;
    sched_opts *o = &l->opts;
    uint32_t planes = b->info.n_planes - plan_planes(c, 0);
    if (o->ceiling_loops == 0) o->ceiling_loops = planes < PLAN_MAX_LOOPS ? planes : PLAN_MAX_LOOPS;
    if (o->default_max_loops == 0) {
        o->default_max_loops =
            c->loops_default < o->ceiling_loops ? c->loops_default : o->ceiling_loops;
    }
    if (o->default_min_loops == 0) o->default_min_loops = 1;
    l->exit = b->info.exit;
    if (o->default_threshold == 0) {
        o->default_threshold = l->exit == c->exit ? c->exit_threshold : exit_rule_default(l->exit);
    }
    if (exit_rule_check(l->exit, o->default_threshold, "exit-threshold", e) != 0) return -1;
    if (o->prompt_min_loops == 0 && c->full_prompts && o->halted_kv == KV_LAST)
        o->prompt_min_loops = PLAN_MAX_LOOPS;
    if (o->wait_bound == 0) o->wait_bound = DEFAULT_WAIT_BOUND;
    if (o->max_tenants == 0) o->max_tenants = 1;
    if (o->ceiling_loops > planes || o->ceiling_loops > PLAN_MAX_LOOPS) {
        return err_set(e, ERR_BAD_PARAM, "max-loops", "%u loops, but the cache has planes for %u",
                       o->ceiling_loops, planes);
    }
    if (o->default_max_loops > o->ceiling_loops || o->default_min_loops > o->default_max_loops) {
        return err_set(e, ERR_BAD_PARAM, "max-loops", "least %u, usual %u, ceiling %u do not rise",
                       o->default_min_loops, o->default_max_loops, o->ceiling_loops);
    }
    if (o->batching == SCHED_FULL && o->halted_kv == KV_LAST) {
        return err_set(e, ERR_BAD_PARAM, "batching",
                       "full computes every loop of every row, which is what policy exact means; "
                       "it does not go with last");
    }
    if (o->max_running == 0 || o->max_rows == 0) {
        return err_set(e, ERR_BAD_PARAM, o->max_rows ? "max-running" : "max-rows",
                       "must be at least 1");
    }
    return 0;
}

static void size_launches(scheduler *s) {
    const eng_backend_info *info = &s->backend->info;
    const sched_opts *o = &s->limits.opts;
    s->n_rows = info->n_rows;
    s->max_rows = o->max_rows < info->max_launch ? o->max_rows : info->max_launch;
    if (s->max_rows > s->n_rows) s->max_rows = s->n_rows;
    s->chunk = o->chunk ? o->chunk : SCHED_CHUNK;
    if (s->chunk > s->max_rows) {
        /* Whole blocks where possible, so that chunks and cached prefixes meet. */
        s->chunk = s->max_rows < ENG_BLOCK ? s->max_rows : s->max_rows / ENG_BLOCK * ENG_BLOCK;
    }
    uint32_t edits = plan_planes_prelude(s->plan); /* of one row, in the stage with the most */
    if (edits < plan_planes_coda(s->plan)) edits = plan_planes_coda(s->plan);
    s->max_edits = s->max_rows * (edits ? edits : 1);
}

static int allocate(scheduler *s, err *e) {
    s->rows = array_new(s->n_rows, sizeof *s->rows);
    s->cohorts = array_new(s->n_rows, sizeof *s->cohorts);
    s->mask = array_new((s->plan->vocab_size + 63) / 64, sizeof *s->mask);
    if (!s->rows || !s->cohorts || !s->mask) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the scheduler");
    }
    for (uint32_t i = 0; i < s->n_rows; i++) {
        s->rows[i].next = i + 1 < s->n_rows ? i + 1 : NONE;
        s->cohorts[i].after = i + 1 < s->n_rows ? &s->cohorts[i + 1] : NULL;
    }
    s->free_cohort = s->cohorts;
    s->n_free_rows = s->n_rows;
    if (sched__flights_init(s, e) != 0) return -1;
    return eng_sampler_create(&s->sampler, s->plan->vocab_size, e);
}

int sched_create(scheduler **out, eng_backend *b, const sched_opts *opts, sched_sink sink, void *ud,
                 err *e) {
    *out = NULL;
    scheduler *s = calloc(1, sizeof *s);
    if (s == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the scheduler");
    s->backend = b;
    s->plan = b->plan;
    s->sink = sink;
    s->ud = ud;
    s->next_id = s->changes = 1;
    list_init(&s->running);
    list_init(&s->active);
    list_init(&s->want_decode);
    list_init(&s->want_prompt);
    list_init(&s->to_prelude);
    list_init(&s->to_coda);
    list_init(&s->to_mask);
    list_init(&s->parked);
    for (int i = 0; i < N_LISTS; i++)
        list_init(&s->looping[i]);
    if (resolve(&s->limits, b, opts, e) != 0) goto fail;
    size_launches(s);
    if (sched__tenants_init(s, e) != 0) goto fail;
    if (sched__cache_init(&s->cache, &b->info, s->n_tenants, s->limits.opts.weights, e) != 0) {
        goto fail;
    }
    s->limits.opts.weights = NULL; /* the caller's */
    s->limits.n_blocks = s->cache.n_blocks;
    s->limits.n_pages = s->cache.n_pages;
    if (allocate(s, e) != 0) goto fail;
    *out = s;
    return 0;
fail:
    sched_destroy(s);
    return -1;
}

seq *sched__take_ended(scheduler *s) {
    seq *q = s->ended;
    if (q) s->ended = q->rank.next ? OWNER_OF(q->rank.next, seq, rank) : NULL;
    return q;
}

static void free_ended(scheduler *s) {
    if (s->keep_ended) return;
    for (seq *q; (q = sched__take_ended(s)) != NULL;)
        free(q);
}

static void free_list(list_link *list) {
    while (!list_empty(list)) {
        seq *q = OWNER_OF(list->next, seq, rank);
        list_remove(&q->rank);
        free(q);
    }
}

void sched_destroy(scheduler *s) {
    if (s == NULL) return;
    sched__drain(s);
    if (!s->keep_ended) {
        for (uint32_t i = 0; i < s->n_tenants && s->tenants; i++)
            free_list(&s->tenants[i].waiting);
        free_list(&s->running);
    }
    free_ended(s);
    eng_sampler_destroy(s->sampler);
    sched__cache_deinit(&s->cache);
    free(s->tenants);
    free(s->rows);
    free(s->cohorts);
    sched__flights_deinit(s);
    free(s->mask);
    free(s);
}

int sched_submit(scheduler *s, const sched_request *r, uint64_t *id, err *e) {
    *id = 0;
    const sched_opts *o = &s->limits.opts;
    if (s->dead) return err_set(e, ERR_DEVICE, NULL, "the device failed");
    bool full = (uint64_t)s->n_running + s->n_waiting >= (uint64_t)o->max_running + o->max_queue;
    bool heavy = s->n_waiting > 0 && s->waiting_tokens + r->n_prompt > o->max_queue_tokens;
    if (full || heavy) {
        s->stats.refused++;
        return err_set(e, ERR_BUSY, NULL, "%u requests are waiting already", s->n_waiting);
    }
    seq *q;
    if (sched__seq_create(&q, &s->limits, r, e) != 0) {
        s->stats.refused++;
        return -1;
    }
    q->id = *id = s->next_id++;
    sched__accept(s, q);
    return 0;
}

static seq *find_in(list_link *list, uint64_t id) {
    for (list_link *r = list->next; r != list; r = r->next) {
        if (OWNER_OF(r, seq, rank)->id == id) return OWNER_OF(r, seq, rank);
    }
    return NULL;
}

void sched_cancel(scheduler *s, uint64_t id) {
    seq *q = find_in(&s->running, id);
    for (uint32_t i = 0; i < s->n_tenants && q == NULL; i++)
        q = find_in(&s->tenants[i].waiting, id);
    if (q == NULL) return;
    if (s->stepping) { /* from a sink or a tap: rows of q may be in the launch at hand */
        atomic_store_explicit(&q->cancel_wanted, true, memory_order_relaxed);
        s->cancels_wanted = true;
        return;
    }
    sched__end(s, q, SCHED_CANCELLED, ERR_NONE, 0);
    free_ended(s);
}

static void cancel_wanted_in(scheduler *s, list_link *list) {
    for (list_link *r = list->next, *next; r != list; r = next) {
        seq *q = OWNER_OF(r, seq, rank);
        next = r->next;
        if (atomic_load_explicit(&q->cancel_wanted, memory_order_relaxed)) {
            sched__end(s, q, SCHED_CANCELLED, ERR_NONE, 0);
        }
    }
}

void sched__cancel_wanted(scheduler *s) {
    s->cancels_wanted = false;
    cancel_wanted_in(s, &s->running);
    for (uint32_t i = 0; i < s->n_tenants; i++)
        cancel_wanted_in(s, &s->tenants[i].waiting);
}

void sched__end_all(scheduler *s, sched_finish finish, err_code why) {
    while (!list_empty(&s->running)) {
        sched__end(s, OWNER_OF(s->running.next, seq, rank), finish, why, 0);
    }
    for (uint32_t i = 0; i < s->n_tenants; i++) {
        list_link *waiting = &s->tenants[i].waiting;
        while (!list_empty(waiting))
            sched__end(s, OWNER_OF(waiting->next, seq, rank), finish, why, 0);
    }
}

/* Everything settled, unless going on without it pays. */
static int catch_up(scheduler *s, err *e) {
    const flight *out = sched__newest_out(s);
    return out == NULL || sched__ahead_pays(s, out) ? 0 : sched__settle_all(s, e);
}

static int flush(scheduler *s, err *e) {
    s->flushing = s->flush_open = true;
    if (sched__run_coda(s, e) != 0 || catch_up(s, e) != 0) return -1;
    sched__admit(s);
    sched__start_cohorts(s);
    if (sched__run_prelude(s, e) != 0) return -1;
    s->flushing = false;
    s->flush_waited = 0;
    if (s->n_flush_out == 0) sched__learn_cycle(s);
    return 0;
}

static int round_of_launches(scheduler *s, err *e) {
    uint64_t before = s->n_started;
    bool was_out = s->n_out > 0;
    if (catch_up(s, e) != 0) return -1;
    sched__look_at_masks(s);
    sched__admit(s);
    sched__start_cohorts(s);
    if (sched__flush_pays(s)) {
        if (flush(s, e) != 0) return -1;
    } else if (s->limits.opts.batching == SCHED_DEPTHWISE && s->n_to_prelude > 0) {
        if (sched__run_prelude(s, e) != 0) return -1; /* newcomers do not wait for a coda */
    }
    sched__relieve_rows(s);
    if (s->n_looping_live + s->n_looping_tail > 0 && sched__run_loops(s, e) != 0) return -1;
    /* With nothing to start, what is out is what everybody waits for. */
    if (s->n_started != before) return 0;
    s->starved = !was_out && !list_empty(&s->to_mask);
    return sched__settle_all(s, e);
}

static bool at_rest(const scheduler *s) {
    return s->n_running + s->n_waiting + s->n_out == 0;
}

int sched_step(scheduler *s, bool *idle, err *e) {
    *idle = at_rest(s);
    s->starved = false;
    if (*idle) return 0;
    s->stats.steps++;
    s->stepping = true;
    int rc = s->dead ? err_set(e, ERR_DEVICE, NULL, "the device failed") : round_of_launches(s, e);
    if (rc != 0) {
        s->dead = true;
        sched__end_all(s, SCHED_FAILED, ERR_DEVICE);
        sched__drain(s);
    }
    s->stepping = false;
    if (s->cancels_wanted) sched__cancel_wanted(s);
    free_ended(s);
    *idle = at_rest(s);
    if (*idle) s->settled_at = 0; /* a pause is not what the host needs between launches */
    return rc;
}

static void count_rows_by_loop(const scheduler *s, sched_stats *out) {
    memset(out->rows_by_loop, 0, sizeof out->rows_by_loop);
    for (int i = 0; i < N_LISTS; i++) {
        for (const list_link *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
            const cohort *c = OWNER_OF((uintptr_t)r, cohort, loop);
            out->rows_by_loop[c->next_loop] += c->n_live + c->n_tail;
        }
    }
}

void sched_get_stats(const scheduler *s, sched_stats *out) {
    *out = s->stats;
    const cache *c = &s->cache;
    out->running = s->n_running;
    out->waiting = s->n_waiting;
    out->waiting_tokens = s->waiting_tokens;
    out->pages = c->n_pages;
    out->pages_free = c->n_free_pages;
    out->pages_cached = c->n_cached_pages;
    out->page_slots = PAGE_SLOTS;
    out->slot_bytes = s->backend->info.slot_bytes;
    out->slots_used = c->used;
    uint64_t blocks = c->n_blocks - c->n_free_blocks;
    uint64_t maps = blocks * s->backend->info.block_map_bytes;
    out->cache_bytes =
        (uint64_t)(c->n_pages - c->n_free_pages) * PAGE_SLOTS * out->slot_bytes + maps;
    out->cache_bytes_all_loops = c->all * out->slot_bytes + maps;
    count_rows_by_loop(s, out);
}

void sched_get_tenant_stats(const scheduler *s, uint32_t tenant_index, sched_tenant_stats *out) {
    *out = (sched_tenant_stats){0};
    if (tenant_index >= s->n_tenants) return;
    const sched_tenant *t = &s->tenants[tenant_index];
    const cache_part *p = &s->cache.parts[tenant_index];
    *out = (sched_tenant_stats){.running = t->n_running,
                                .waiting = t->n_waiting,
                                .waiting_tokens = t->waiting_tokens,
                                .pages = p->n_pages,
                                .pages_cached = p->n_cached_pages,
                                .rows = t->rows,
                                .charged_ns = (uint64_t)t->charged_ns,
                                .output_tokens = t->output_tokens,
                                .preemptions = t->preemptions};
}
