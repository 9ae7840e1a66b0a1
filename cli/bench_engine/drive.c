/* drive.c - one mode, driven by a closed loop of sequences from a seed. */
#include "base/hash.h"
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t id;
    uint32_t request, n_out;
} lane;

typedef struct {
    const be_load *load;
    const runtime *r;
    scheduler *s;
    lane *lanes;
    be_tokens *first;
    bool recording;                   /* first is being filled */
    uint32_t next_request, n_started; /* lanes past their first token, of the first round */
    uint64_t tokens;
    be_run *out;
    bool failed;
} driver;

static uint64_t mix(uint64_t a, uint64_t b) {
    return hash_mix(a * HASH_STEP + b + HASH_STEP);
}

void be_tokens_deinit(be_tokens *t) {
    for (uint32_t i = 0; i < t->n_requests; i++)
        free(t->tokens[i]);
    free(t->tokens);
    free(t->n);
    *t = (be_tokens){0};
}

static int record_request(be_tokens *t, uint32_t request, uint32_t max_tokens, err *e) {
    if (request == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 256;
        uint32_t **tokens = realloc(t->tokens, cap * sizeof *tokens);
        if (tokens) t->tokens = tokens;
        uint32_t *n = realloc(t->n, cap * sizeof *n);
        if (n) t->n = n;
        if (!tokens || !n) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokens");
        t->cap = cap;
    }
    t->tokens[request] = array_new(max_tokens, sizeof **t->tokens);
    if (t->tokens[request] == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokens");
    t->n[request] = 0;
    t->n_requests = request + 1;
    return 0;
}

static uint32_t length(uint64_t draw, uint32_t mean) { /* mean/2 .. 3/2 mean */
    uint32_t low = mean / 2 ? mean / 2 : 1;
    return low + (uint32_t)(draw % (mean + 1));
}

/* Request i is the same whatever mode runs and whoever else is running. */
static int submit(driver *d, lane *l, err *e) {
    const be_load *w = d->load;
    uint32_t i = d->next_request++;
    uint64_t own = mix(w->seed, i);
    uint32_t n = length(mix(own, 1), w->prompt_tokens),
             vocab = model_plan_of(d->r->model)->vocab_size;
    uint32_t *prompt = array_new(n, sizeof *prompt);
    if (prompt == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a prompt");
    for (uint32_t k = 0; k < n; k++)
        prompt[k] = (uint32_t)(mix(own, 100 + k) % vocab);
    sched_request q = {
        .prompt = prompt, .n_prompt = n, .max_tokens = length(mix(own, 2), w->output_tokens)};
    q.sampling = (eng_sampling){
        .temperature = w->temperature, .top_p = w->top_p, .repetition_penalty = 1, .seed = own};
    *l = (lane){.request = i};
    int rc = d->recording ? record_request(d->first, i, q.max_tokens, e) : 0;
    if (rc == 0) rc = sched_submit(d->s, &q, &l->id, e);
    free(prompt);
    return rc;
}

static void compare_token(driver *d, const lane *l, uint32_t token) {
    be_tokens *t = d->first;
    if (d->recording) {
        t->tokens[l->request][t->n[l->request]++] = token;
    } else if (l->request < t->n_requests && l->n_out < t->n[l->request]) {
        d->out->compared++;
        d->out->differing += t->tokens[l->request][l->n_out] != token;
    }
}

static void on_event(void *ud, const sched_event *ev) {
    driver *d = ud;
    lane *l = NULL;
    for (uint32_t i = 0; i < d->load->sequences && l == NULL; i++) {
        if (d->lanes[i].id == ev->id) l = &d->lanes[i];
    }
    if (l == NULL) return; /* being cancelled at the end */
    if (ev->kind == SCHED_TOKEN) {
        compare_token(d, l, ev->token);
        if (l->n_out++ == 0 && l->request < d->load->sequences) d->n_started++;
        d->tokens++;
    } else if (ev->kind == SCHED_END) {
        l->id = 0;
        if (ev->finish == SCHED_FAILED) d->failed = true;
    }
}

static int refill(driver *d, err *e) {
    for (uint32_t i = 0; i < d->load->sequences; i++) {
        if (d->lanes[i].id == 0 && submit(d, &d->lanes[i], e) != 0) return -1;
    }
    return d->failed ? err_set(e, ERR_INTERNAL, NULL, "a sequence failed") : 0;
}

/* Pool size over time: when the samples are full every other one goes. */
typedef struct {
    uint64_t every, seen, sum, launches, rows_before, launches_before;
} pool_watch;

static void watch_pool(be_run *o, pool_watch *p, const sched_stats *st, uint64_t since_ns) {
    uint64_t rows = st->launch_rows[ENG_STAGE_RECURRENT],
             launches = st->launches[ENG_STAGE_RECURRENT];
    if (launches == p->launches_before) return;
    uint64_t pool = (rows - p->rows_before) / (launches - p->launches_before);
    p->rows_before = rows;
    p->launches_before = launches;
    if (p->seen++ % p->every != 0) return;
    if (o->n_samples == BE_SAMPLES) {
        for (uint32_t i = 0; i < BE_SAMPLES / 2; i++) {
            o->at_ms[i] = o->at_ms[2 * i];
            o->pool[i] = o->pool[2 * i];
        }
        o->n_samples = BE_SAMPLES / 2;
        p->every *= 2;
    }
    o->at_ms[o->n_samples] = (double)since_ns / 1e6;
    o->pool[o->n_samples++] = (uint32_t)pool;
}

static void watch_cache(be_run *o, const sched_stats *st) {
    if (st->cache_bytes <= o->cache_bytes) return;
    o->cache_bytes = st->cache_bytes;
    o->cache_bytes_all_loops = st->cache_bytes_all_loops;
    o->slots_ideal_bytes = st->slots_used * st->slot_bytes;
}

static void close_window(be_run *o, const sched_stats *a, const sched_stats *b) {
    for (int i = 0; i < SCHED_DEPTH_BINS; i++) {
        o->depth[i] = b->exits_by_depth[i] - a->exits_by_depth[i];
        o->positions += o->depth[i];
        o->loops += o->depth[i] * (uint64_t)i;
    }
    for (int i = 0; i < 3; i++) {
        o->launches[i] = b->launches[i] - a->launches[i];
        o->rows[i] = b->launch_rows[i] - a->launch_rows[i];
        o->ns[i] = b->launch_ns[i] - a->launch_ns[i];
    }
    o->sample_ns = b->sample_ns - a->sample_ns;
    o->tail_rows = b->tail_rows - a->tail_rows;
    o->pool_mean = o->launches[1] ? (double)o->rows[1] / (double)o->launches[1] : 0;
}

static int measure(driver *d, be_watch *watch, sched_stats *before, sched_stats *now, err *e) {
    bool idle;
    while (d->n_started < d->load->sequences) { /* warm up */
        if (refill(d, e) != 0 || sched_step(d->s, &idle, e) != 0) return -1;
    }
    uint64_t want = (uint64_t)d->load->sequences * d->load->output_tokens * d->load->rounds,
             start_tokens = d->tokens;
    sched_get_stats(d->s, before);
    be_watch_open_window(watch);
    uint64_t t0 = be_clock_ns(d->load), aside = 0; /* ns spent watching, which no server would */
    pool_watch p = {.every = 1,
                    .rows_before = before->launch_rows[ENG_STAGE_RECURRENT],
                    .launches_before = before->launches[ENG_STAGE_RECURRENT]};
    while (d->tokens - start_tokens < want) {
        if (refill(d, e) != 0 || sched_step(d->s, &idle, e) != 0) return -1;
        uint64_t look = be_clock_ns(d->load);
        sched_get_stats(d->s, now);
        watch_pool(d->out, &p, now, look - t0 - aside);
        watch_cache(d->out, now);
        aside += be_clock_ns(d->load) - look;
    }
    d->out->seconds = (double)(be_clock_ns(d->load) - t0 - aside) / 1e9;
    d->out->tokens = d->tokens - start_tokens;
    d->out->requests = d->next_request;
    sched_get_stats(d->s, now);
    be_watch_close_window(watch);
    close_window(d->out, before, now);
    return 0;
}

int be_drive(be_run *out, const runtime *r, const be_mode *m, const be_load *l, be_tokens *first,
             err *e) {
    *out = (be_run){0};
    sched_opts o = r->sched;
    o.batching = m->batching;
    o.halted_kv = m->halted_kv;
    o.max_running = l->sequences;
    o.max_queue = l->sequences;
    o.prefix_cache = false; /* every prompt is runtime */
    driver d = {.load = l, .r = r, .first = first, .recording = first->n_requests == 0, .out = out};
    be_watch watch;
    be_watch_init(&watch, r->backend, l, &out->table);
    sched_stats *st = array_new(2, sizeof *st);
    d.lanes = array_new(l->sequences, sizeof *d.lanes);
    int rc = -1;
    if (!st || !d.lanes) {
        (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the benchmark");
    } else if (sched_create(&d.s, &watch.base, &o, on_event, &d, e) == 0) {
        rc = measure(&d, &watch, &st[0], &st[1], e);
    }
    sched_destroy(d.s);
    free(d.lanes);
    free(st);
    return rc;
}
