/* drive.c - one mode, driven by a closed loop of sequences from a seed. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdlib.h>

/* Holds one request at a time; the next one follows at once. */
typedef struct {
    uint64_t id; /* 0: empty */
    uint32_t request, n_out;
} lane;

typedef struct {
    const be_load *load;
    const runtime *run_on;
    scheduler *sched;
    be_watch watch;
    be_window window;
    lane *lanes; /* [n_lanes] */
    uint32_t n_lanes, n_empty;
    map lane_of; /* by id */
    be_tokens *first;
    bool recording; /* first is being filled */
    uint32_t next_request;
    uint32_t n_started; /* requests with a token, of the first load->sequences */
    uint64_t tokens, n_ended;
    size_t n_asked;     /* ended requests, of the first one for each real prompt */
    be_answers answers; /* of real prompts */
    be_run *run;
    bool failed;
    err why; /* a failure within an event */
} driver;

static uint64_t hash_pair(uint64_t x, uint64_t y) {
    return hash_mix(x * HASH_STEP + y + HASH_STEP);
}

/* mean/2 .. 3/2 mean */
static uint32_t length(const be_load *load, uint64_t hash, uint32_t mean) {
    if (load->same_lengths) return mean;
    uint32_t low = mean / 2 ? mean / 2 : 1;
    return low + (uint32_t)(hash % (mean + 1));
}

/* ---- requests ---- */

/* Request i is the same in every mode and beside any others. */
static uint32_t *made_up_prompt(const driver *drv, uint64_t own, uint32_t *n) {
    const be_load *load = drv->load;
    *n = length(load, hash_pair(own, 1), load->prompt_tokens);
    uint32_t vocab = model_plan_of(drv->run_on->model)->vocab_size;
    uint32_t *prompt = array_new(*n, sizeof *prompt);
    for (uint32_t k = 0; prompt && k < *n; k++)
        prompt[k] = (uint32_t)(hash_pair(k < load->shared ? load->seed : own, 100 + k) % vocab);
    return prompt;
}

static size_t prompt_of(const driver *drv, uint32_t request) {
    return request % drv->load->prompts->n;
}

static void take_prompt(const driver *drv, uint32_t request, sched_request *to) {
    const questions *prompts = drv->load->prompts;
    const question *row = &prompts->rows[prompt_of(drv, request)];
    uint32_t room = model_plan_of(drv->run_on->model)->max_seq_len - row->n_ids,
             most = drv->load->output_tokens;
    to->prompt = row->ids;
    to->n_prompt = row->n_ids;
    to->max_tokens = most < room ? most : room;
    to->stop_ids = prompts->stop_ids;
    to->n_stop_ids = prompts->n_stop_ids;
}

static int start(driver *drv, uint32_t at, uint32_t request, const sched_request *req, err *e) {
    int rc = drv->recording ? be_tokens_add(drv->first, request, req->max_tokens, e) : 0;
    lane *to = &drv->lanes[at];
    *to = (lane){.request = request};
    if (drv->load->prompts) be_answers_begin(&drv->answers, at);
    if (rc == 0) rc = sched_submit(drv->sched, req, &to->id, e);
    if (rc == 0) map_put(&drv->lane_of, to->id, at);
    return rc;
}

static int submit(driver *drv, uint32_t at, err *e) {
    const be_load *load = drv->load;
    uint32_t request = drv->next_request++, *made_up = NULL;
    uint64_t own = hash_pair(load->seed, request);
    sched_request req = {.sampling = {.temperature = load->temperature,
                                      .top_p = load->top_p,
                                      .repetition_penalty = 1,
                                      .seed = own}};
    if (load->prompts) {
        take_prompt(drv, request, &req);
    } else {
        req.prompt = made_up = made_up_prompt(drv, own, &req.n_prompt);
        req.max_tokens = length(load, hash_pair(own, 2), load->output_tokens);
    }
    int rc = req.prompt && map_reserve(&drv->lane_of, 1) == 0
                 ? start(drv, at, request, &req, e)
                 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request");
    free(made_up);
    return rc;
}

static void take_token(driver *drv, uint32_t at, uint32_t token) {
    lane *from = &drv->lanes[at];
    if (drv->load->prompts) be_answers_token(&drv->answers, at, token);
    if (drv->recording) be_tokens_record(drv->first, from->request, token);
    else be_tokens_compare(drv->first, from->request, from->n_out, token, drv->run);
    if (from->n_out++ == 0 && from->request < drv->load->sequences) drv->n_started++;
    drv->tokens++;
}

static void end(driver *drv, uint32_t at, const sched_event *ev) {
    lane *from = &drv->lanes[at];
    map_drop(&drv->lane_of, ev->id);
    from->id = 0;
    drv->n_empty++;
    drv->n_ended++;
    if (drv->load->prompts) drv->n_asked += from->request < drv->load->prompts->n;
    if (ev->finish == SCHED_FAILED) {
        (void)err_set(&drv->why, ERR_INTERNAL, NULL, "a sequence failed");
        drv->failed = true;
    } else if (drv->load->prompts &&
               be_answers_end(&drv->answers, at, prompt_of(drv, from->request), &drv->why) != 0) {
        drv->failed = true;
    }
}

static void on_event(void *ud, const sched_event *ev) {
    driver *drv = ud;
    uint64_t at = map_get(&drv->lane_of, ev->id);
    if (at == MAP_NONE) return;
    if (ev->kind == SCHED_TOKEN) take_token(drv, (uint32_t)at, ev->token);
    if (ev->kind == SCHED_END) end(drv, (uint32_t)at, ev);
}

static int refill(driver *drv, err *e) {
    for (uint32_t i = 0; i < drv->n_lanes && drv->n_empty > 0; i++) {
        if (drv->lanes[i].id != 0) continue;
        if (submit(drv, i, e) != 0) return -1;
        drv->n_empty--;
    }
    if (drv->failed) *e = drv->why;
    return drv->failed ? -1 : 0;
}

/* ---- the window ---- */

/* One step, and the real processor time it took beside its launches. */
static int step(driver *drv, err *e) {
    bool idle;
    if (refill(drv, e) != 0) return -1;
    uint64_t inside = drv->watch.inside_ns, began = clock_thread_ns();
    int rc = sched_step(drv->sched, &idle, e);
    drv->run->scheduler_ns += clock_thread_ns() - began - (drv->watch.inside_ns - inside);
    return rc;
}

/* Tokens, or with prompts requests, that end the window: see be_run. */
static uint64_t progress(const driver *drv) {
    return drv->load->prompts ? drv->n_ended : drv->tokens;
}

static uint64_t goal(const driver *drv) {
    const be_load *load = drv->load;
    if (load->prompts) return drv->n_ended + load->rounds * load->prompts->n;
    /* Every sequence has put out one token already. */
    return drv->tokens + load->rounds * load->sequences * (load->output_tokens - 1);
}

/* Requests do not end in their order. This runs the requests left when the window closes, so every
 * prompt is judged. Their time does not count. */
static int finish_answers(driver *drv, err *e) {
    be_table aside = {0};
    uint64_t scheduler_ns = drv->run->scheduler_ns;
    int rc = 0;
    drv->watch.table = &aside;
    be_watch_open_window(&drv->watch);
    while (rc == 0 && drv->n_asked < drv->load->prompts->n)
        rc = step(drv, e);
    drv->run->scheduler_ns = scheduler_ns;
    if (rc == 0) be_answers_count(&drv->answers, drv->run);
    be_table_deinit(&aside);
    return rc;
}

static int measure(driver *drv, err *e) {
    const be_load *load = drv->load;
    while (drv->n_started < load->sequences) { /* warm up */
        if (step(drv, e) != 0) return -1;
    }
    uint64_t most = goal(drv);
    uint64_t tokens_before = drv->tokens, aside = 0; /* ns of looking, not part of a server */
    be_window_open(&drv->window, drv->run, drv->sched);
    be_watch_open_window(&drv->watch);
    drv->run->warm_up_ns = drv->run->scheduler_ns;
    drv->run->scheduler_ns = 0;
    uint64_t opened = be_clock_ns(load);
    while (progress(drv) < most) {
        if (step(drv, e) != 0) return -1;
        uint64_t now = be_clock_ns(load);
        be_window_look(&drv->window, drv->sched, now - opened - aside);
        aside += be_clock_ns(load) - now;
    }
    drv->run->seconds = (double)(be_clock_ns(load) - opened - aside) / 1e9;
    drv->run->tokens = drv->tokens - tokens_before;
    drv->run->requests = drv->next_request;
    be_watch_close_window(&drv->watch);
    be_window_close(&drv->window, drv->sched);
    return load->prompts ? finish_answers(drv, e) : 0;
}

static int open_and_measure(driver *drv, const be_mode *mode, err *e) {
    const be_load *load = drv->load;
    sched_opts opts = drv->run_on->sched;
    opts.batching = mode->batching;
    opts.halted_kv = mode->halted_kv;
    opts.drafts = mode->drafts;
    opts.draft_loops = mode->draft_loops;
    opts.max_running = load->sequences;
    opts.max_queue = drv->n_lanes;
    opts.max_queue_tokens = UINT64_MAX;
    opts.prefix_cache = load->prefix_cache;
    be_watch_init(&drv->watch, drv->run_on->backend, load, &drv->run->table);
    drv->watch.drafts = mode->drafts > 0;
    if (sched_create(&drv->sched, &drv->watch.base, &opts, on_event, drv, e) != 0) return -1;
    return measure(drv, e);
}

int be_drive(be_run *out, const runtime *run_on, const be_mode *mode, const be_load *load,
             be_tokens *first, err *e) {
    *out = (be_run){0};
    uint32_t n_lanes = load->sequences + load->waiting;
    driver *drv = calloc(1, sizeof *drv);
    lane *lanes = array_new(n_lanes, sizeof *lanes);
    int rc = -1;
    if (drv == NULL || lanes == NULL) {
        (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the benchmark");
    } else {
        *drv = (driver){.load = load,
                        .run_on = run_on,
                        .lanes = lanes,
                        .n_lanes = n_lanes,
                        .n_empty = n_lanes,
                        .first = first,
                        .recording = first->n_requests == 0,
                        .run = out};
        rc = load->prompts
                 ? be_answers_init(&drv->answers, load->prompts, run_on->tokenizer, n_lanes, e)
                 : 0;
        if (rc == 0) rc = open_and_measure(drv, mode, e);
        be_answers_deinit(&drv->answers);
        sched_destroy(drv->sched);
        map_deinit(&drv->lane_of);
    }
    free(lanes);
    free(drv);
    return rc;
}
