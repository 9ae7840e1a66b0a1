/* create.c - a scheduler is made and destroyed. */
#include "base/size.h"
#include "scheduler/feed_internal.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>

enum { DEFAULT_WAIT_BOUND = 16 };
_Static_assert((int)SCHED_MOST_HOMES == (int)ENG_MOST_HOMES, "figures for each home");

void sched_opts_default(sched_opts *opts) {
    *opts = (sched_opts){.batching = SCHED_DEPTHWISE,
                         .halted_kv = KV_EXACT,
                         .max_running = 64,
                         .max_queue = 256,
                         .max_queue_tokens = 1u << 20,
                         .max_rows = 512,
                         .default_min_loops = 1,
                         .prefix_cache = true};
}

/* ---- options ---- */

static uint32_t at_most(uint32_t n, uint32_t most) {
    return n < most ? n : most;
}

/* Replaces 0 by each option's default. `loops`: the cache has planes for this many. */
static void fill_defaults(request_limits *limits, const rule_set *rules, uint32_t loops) {
    const model_plan *plan = limits->plan;
    sched_opts *opts = &limits->opts;
    if (opts->ceiling_loops == 0) opts->ceiling_loops = at_most(loops, PLAN_MAX_LOOPS);
    if (opts->default_max_loops == 0) {
        opts->default_max_loops = at_most(plan->loops_default, opts->ceiling_loops);
    }
    if (opts->default_min_loops < plan_loops_least(plan)) {
        opts->default_min_loops = plan_loops_least(plan);
    }
    if (opts->default_threshold == 0) {
        bool own = limits->exit == plan->exit;
        opts->default_threshold = own ? plan->exit_threshold : exit_rule_default(limits->exit);
    }
    if (opts->prompt_min_loops == 0 && plan->full_prompts && rules->last_stands_in) {
        opts->prompt_min_loops = PLAN_MAX_LOOPS;
    }
    if (opts->wait_bound == 0) opts->wait_bound = DEFAULT_WAIT_BOUND;
    if (opts->max_tenants == 0) opts->max_tenants = 1;
}

static int check_opts(const request_limits *limits, uint32_t loops, err *e) {
    const sched_opts *opts = &limits->opts;
    if (opts->ceiling_loops > loops || opts->ceiling_loops > PLAN_MAX_LOOPS) {
        return err_set(e, ERR_BAD_PARAM, "max-loops", "%u loops, but the cache has planes for %u",
                       opts->ceiling_loops, loops);
    }
    if (opts->default_max_loops > opts->ceiling_loops ||
        opts->default_min_loops > opts->default_max_loops) {
        return err_set(e, ERR_BAD_PARAM, "max-loops", "least %u, usual %u, ceiling %u do not rise",
                       opts->default_min_loops, opts->default_max_loops, opts->ceiling_loops);
    }
    if (opts->max_running == 0 || opts->max_rows == 0) {
        return err_set(e, ERR_BAD_PARAM, opts->max_rows ? "max-running" : "max-rows",
                       "must be at least 1");
    }
    return exit_rule_check(limits->exit, opts->default_threshold, "exit-threshold", e);
}

static int resolve_opts(scheduler *sched, const sched_opts *opts, err *e) {
    const eng_backend_info *info = &sched->backend->info;
    uint32_t loops = info->n_planes - plan_planes(sched->plan, 0);
    sched->limits = (request_limits){.plan = sched->plan, .exit = info->exit, .opts = *opts};
    if (sched__rules_init(&sched->rules, opts, e) != 0) return -1;
    sched->limits.collapses = sched->rules.collapses;
    fill_defaults(&sched->limits, &sched->rules, loops);
    return check_opts(&sched->limits, loops, e);
}

/* ---- memory ---- */

static void size_launches(scheduler *sched) {
    const eng_backend_info *info = &sched->backend->info;
    const sched_opts *opts = &sched->limits.opts;
    sched->n_rows = info->n_rows;
    sched->max_rows = at_most(at_most(opts->max_rows, info->max_launch), sched->n_rows);
    sched->chunk = opts->chunk ? opts->chunk : SCHED_CHUNK;
    if (sched->chunk > sched->max_rows) {
        /* Whole blocks if possible, so chunks and cached prefixes meet. */
        bool small = sched->max_rows < ENG_BLOCK;
        sched->chunk = small ? sched->max_rows : sched->max_rows / ENG_BLOCK * ENG_BLOCK;
    }
    uint32_t per_row = sched->rules.collapses ? 2 : 1; /* in the stage with the most */
    if (per_row < plan_planes_prelude(sched->plan)) per_row = plan_planes_prelude(sched->plan);
    if (per_row < plan_planes_coda(sched->plan)) per_row = plan_planes_coda(sched->plan);
    sched->max_edits = sched->max_rows * per_row;
}

/* Policy collapse: no more sequences than always have the rows they may need. */
static int limit_running(scheduler *sched, err *e) {
    sched_opts *opts = &sched->limits.opts;
    if (!sched->rules.collapses) return 0;
    uint32_t each = opts->ceiling_loops + 1;
    if (sched->n_rows < sched->chunk + each) {
        return err_set(e, ERR_BAD_PARAM, "halted-kv",
                       "policy collapse needs %u row states for one sequence, there are %u",
                       sched->chunk + each, sched->n_rows);
    }
    opts->max_running = at_most(opts->max_running, (sched->n_rows - sched->chunk) / each);
    return 0;
}

static void init_lists(scheduler *sched) {
    list_init(&sched->running);
    list_init(&sched->active);
    list_init(&sched->want_decode);
    list_init(&sched->want_prompt);
    list_init(&sched->to_prelude);
    list_init(&sched->to_draft);
    list_init(&sched->to_coda);
    list_init(&sched->to_mask);
    list_init(&sched->parked);
    for (int i = 0; i < N_LISTS; i++)
        list_init(&sched->looping[i]);
}

static int allocate_rows(scheduler *sched, err *e) {
    uint32_t n = sched->n_rows;
    sched->rows = array_new(n, sizeof *sched->rows);
    sched->cohorts = array_new(n, sizeof *sched->cohorts);
    sched->mask = array_new((sched->plan->vocab_size + 63) / 64, sizeof *sched->mask);
    bool keeps_slots = sched->rules.collapses || sched->rules.drafts;
    size_t n_slots;
    sched->n_planes = plan_planes(sched->plan, sched->limits.opts.ceiling_loops);
    if (!size_mul(n, sched->n_planes, &n_slots)) n_slots = SIZE_MAX;
    if (keeps_slots) sched->row_slots = array_new(n_slots, sizeof *sched->row_slots);
    if (!sched->rows || !sched->cohorts || !sched->mask || (keeps_slots && !sched->row_slots)) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the scheduler");
    }
    for (uint32_t i = 0; i < n; i++) {
        sched->rows[i].next = i + 1 < n ? i + 1 : NONE;
        sched->cohorts[i].after = i + 1 < n ? &sched->cohorts[i + 1] : NULL;
    }
    sched->free_cohort = sched->cohorts;
    sched->n_free_rows = n;
    return 0;
}

static int allocate_caches(scheduler *sched, err *e) {
    sched->caches = calloc(sched->n_homes, sizeof *sched->caches);
    if (sched->caches == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the cache's books");
    for (uint32_t home = 0; home < sched->n_homes; home++) {
        if (sched__cache_init(&sched->caches[home], &sched->backend->info, sched->n_tenants,
                              sched->limits.opts.weights, e) != 0)
            return -1;
    }
    return 0;
}

static int allocate(scheduler *sched, err *e) {
    request_limits *limits = &sched->limits;
    if (sched__tenants_init(sched, e) != 0 || allocate_caches(sched, e) != 0) return -1;
    limits->opts.weights = NULL; /* belong to the caller */
    limits->n_blocks = sched->caches[0].n_blocks;
    limits->n_pages = sched->caches[0].n_pages;
    if (allocate_rows(sched, e) != 0 || sched__flights_init(sched, e) != 0 ||
        sched__launches_init(&sched->launches, limits->opts.ceiling_loops, e) != 0)
        return -1;
    return eng_sampler_create(&sched->sampler, sched->plan->vocab_size, e);
}

static int open_feed(scheduler *sched, err *e) {
    const sched_opts *opts = &sched->limits.opts;
    prefix_key plain;
    if (opts->feed == NULL) return 0;
    if (sched__plain_key(&sched->limits, &plain, e) != 0) return -1;
    bool shared = opts->share_cache || opts->max_tenants == 1;
    return sched__feed_open(opts->feed, sched->caches, sched->n_homes, shared ? &plain : NULL, e);
}

int sched_create(scheduler **out, eng_backend *backend, const sched_opts *opts, sched_sink sink,
                 void *ud, err *e) {
    *out = NULL;
    scheduler *sched = calloc(1, sizeof *sched);
    if (sched == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the scheduler");
    sched->backend = backend;
    sched->plan = backend->plan;
    sched->sink = sink;
    sched->ud = ud;
    sched->next_id = sched->epoch = 1;
    sched->n_homes = backend->info.n_homes ? backend->info.n_homes : 1;
    init_lists(sched);
    if (resolve_opts(sched, opts, e) != 0) goto fail;
    size_launches(sched);
    if (limit_running(sched, e) != 0) goto fail;
    if (allocate(sched, e) != 0 || open_feed(sched, e) != 0) goto fail;
    *out = sched;
    return 0;
fail:
    sched_destroy(sched);
    return -1;
}

static void free_list(list_link *list) {
    while (!list_empty(list)) {
        sequence *seq = OWNER_OF(list->next, sequence, rank_link);
        list_remove(&seq->rank_link);
        free(seq);
    }
}

void sched_destroy(scheduler *sched) {
    if (sched == NULL) return;
    sched__drain(sched);
    if (!sched->driver_reports_ends) {
        for (uint32_t i = 0; i < sched->n_tenants && sched->tenants; i++)
            free_list(&sched->tenants[i].waiting);
        free_list(&sched->running);
        for (sequence *seq; (seq = sched__take_ended(sched)) != NULL;)
            free(seq);
    }
    eng_sampler_destroy(sched->sampler);
    for (uint32_t home = 0; home < sched->n_homes && sched->caches; home++)
        sched__cache_deinit(&sched->caches[home]);
    free(sched->caches);
    free(sched->tenants);
    free(sched->rows);
    free(sched->cohorts);
    free(sched->row_slots);
    sched__flights_deinit(sched);
    sched__launches_deinit(&sched->launches);
    free(sched->mask);
    free(sched);
}
