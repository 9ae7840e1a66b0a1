/* tenants.c - limits of one key, fair to the others: requests, sequences, tokens, places in the
 * queue, priority; and the metrics of each key.
 *
 * A key with much work gets 429 before another key gets 503. A key may hold as many sequences as
 * stay free for the others. A key without sequences may send one request of up to three quarters of
 * the queue, so that a batch gets in. The same holds for prompt tokens. */
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

enum {
    KEPT_PART = 4
}; /* one part in KEPT_PART of the queue stays free for others when a key without sequences comes */

typedef struct {                        /* of one request */
    uint64_t sequences, prompt, tokens; /* tokens: prompts plus most output */
} demand;

static demand demand_of(const srv_job *job) {
    demand wanted = {.sequences = job->n_seqs};
    for (uint32_t i = 0; i < job->n_seqs; i++) {
        sched_request request;
        api_reply_request(job->reply, i, &request);
        wanted.prompt += request.n_prompt;
        wanted.tokens += (uint64_t)request.n_prompt + request.max_tokens;
    }
    return wanted;
}

/* Whether a key with `held` of `all` may have `more`, while others have `others`. */
static bool fair(uint64_t all, uint64_t others, uint64_t held, uint64_t more) {
    uint64_t left = all > others ? all - others : 0;
    if (held + more <= left / 2) return true;
    uint64_t kept = all / KEPT_PART;
    return held == 0 && (left > kept ? more <= left - kept : more == 1 && left > 0);
}

static int too_many(err *e, const char *what, uint64_t asked, uint64_t held, uint64_t most) {
    return err_set(
        e, ERR_BUSY, NULL, "this API key has %llu %s here and asks for %llu more; it may have %llu",
        (unsigned long long)held, what, (unsigned long long)asked, (unsigned long long)most);
}

static int check_demand(const srv *server, const srv_use *use, const demand *wanted, err *e) {
    const server_opts *opts = &server->opts;
    const sched_opts *limits = &server->model.sched;
    if (opts->max_seqs_per_key && use->sequences + wanted->sequences > opts->max_seqs_per_key) {
        return too_many(e, "sequences", wanted->sequences, use->sequences, opts->max_seqs_per_key);
    }
    if (opts->max_tokens_per_key && use->tokens + wanted->tokens > opts->max_tokens_per_key) {
        return too_many(e, "tokens", wanted->tokens, use->tokens, opts->max_tokens_per_key);
    }
    if (srv_keys_count(server->keys) < 2) return 0; /* no other key to leave room for */
    uint64_t places = (uint64_t)limits->max_running + limits->max_queue;
    if (!fair(places, server->n_sequences - use->sequences, use->sequences, wanted->sequences)) {
        return err_set(e, ERR_BUSY, NULL,
                       "this API key has %u sequences here and asks for %llu more; the rest of the "
                       "%llu places is kept for other keys",
                       use->sequences, (unsigned long long)wanted->sequences,
                       (unsigned long long)places);
    }
    bool alone = server->waiting_prompt == 0 && wanted->sequences <= 1;
    if (!alone && !fair(limits->max_queue_tokens, server->waiting_prompt - use->waiting_prompt,
                        use->waiting_prompt, wanted->prompt)) {
        return err_set(e, ERR_BUSY, NULL,
                       "this API key has %llu prompt tokens waiting and asks for %llu more; the "
                       "rest of the queue's %llu is kept for other keys",
                       (unsigned long long)use->waiting_prompt, (unsigned long long)wanted->prompt,
                       (unsigned long long)limits->max_queue_tokens);
    }
    return 0;
}

static bool answer_429(srv_req *req, const err *e) {
    req->server->counts.refused_busy++;
    srv_keys_use(req->server->keys, req->key)->refused++;
    srv_answer_http(req, 429, e->msg, "rate_limit_exceeded");
    return false;
}

bool srv_tenant_admit(srv_req *req) {
    srv *server = req->server;
    if (req->key < 0) return true;
    const srv_use *use = srv_keys_use(server->keys, req->key);
    err e = {0};
    if (server->opts.max_per_key && use->requests >= server->opts.max_per_key) {
        (void)err_set(&e, ERR_BUSY, NULL,
                      "this API key already has as many requests as it may have");
        return answer_429(req, &e);
    }
    /* The least that any request asks for; its real demand is known after parsing. */
    demand least = {1, 1, 2};
    return check_demand(server, use, &least, &e) == 0 || answer_429(req, &e);
}

int srv_tenant_check(const srv_job *job, err *e) {
    if (job->key < 0) return 0;
    demand wanted = demand_of(job);
    return check_demand(job->server, srv_keys_use(job->server->keys, job->key), &wanted, e);
}

void srv_tenant_refuse(srv_req *req, const err *e) {
    (void)answer_429(req, e);
}

int srv_tenant_priority(const srv_req *req, const api_request *request, int32_t *out, err *e) {
    static const srv_key_terms any = {.least_priority = INT32_MIN, .most_priority = INT32_MAX};
    const srv_key_terms *terms = req->key < 0 ? &any : srv_keys_terms(req->server->keys, req->key);
    int32_t least = terms->least_priority, most = terms->most_priority;
    *out = least > 0 ? least : most < 0 ? most : 0;
    int32_t wish;
    if (!req->server->opts.client_priority || !api_wants_priority(request, &wish)) return 0;
    if (wish < least || wish > most) {
        return err_set(e, ERR_BAD_PARAM, "priority",
                       "this API key may use a priority from %d to %d, not %d", least, most, wish);
    }
    *out = wish;
    return 0;
}

/* ---- unfinished work ---- */

void srv_tenant_entered(srv_job *job, srv_seq *seq) {
    job->server->n_sequences++;
    job->server->waiting_prompt += seq->n_prompt;
    seq->waits = true;
    if (job->key < 0) return;
    srv_use *use = srv_keys_use(job->server->keys, job->key);
    use->sequences++;
    use->tokens += (uint64_t)seq->n_prompt + seq->max_tokens;
    use->waiting_prompt += seq->n_prompt;
}

void srv_tenant_began(srv_job *job, srv_seq *seq) {
    if (!seq->waits) return;
    seq->waits = false;
    job->server->waiting_prompt -= seq->n_prompt;
    if (job->key >= 0) srv_keys_use(job->server->keys, job->key)->waiting_prompt -= seq->n_prompt;
}

void srv_tenant_left(srv_job *job, srv_seq *seq) {
    srv_tenant_began(job, seq);
    job->server->n_sequences--;
    if (job->key < 0) return;
    srv_use *use = srv_keys_use(job->server->keys, job->key);
    use->sequences--;
    use->tokens -= (uint64_t)seq->n_prompt + seq->max_tokens;
}

void srv_tenants_fill(const srv *server, sched_opts *limits) {
    static uint32_t weights[SRV_MAX_KEYS + 1]; /* read by sched_create only */
    limits->max_tenants = server->keys ? (uint32_t)srv_keys_count(server->keys) + 1 : 1;
    limits->share_cache = server->opts.share_cache;
    limits->weights = weights;
    weights[0] = 1;
    for (uint32_t i = 1; i < limits->max_tenants; i++)
        weights[i] = srv_keys_terms(server->keys, (int)i - 1)->weight;
}

/* ---- metrics ---- */

typedef struct {
    sched_tenant_stats sched;
    uint64_t tokens, refused;
    bool used;
} key_sums;

static void add_key(const srv *server, int i, key_sums *sum) {
    const srv_use *use = srv_keys_use(server->keys, i);
    sched_tenant_stats stats = {0};
    if (server->engine) sched_thread_tenant_stats(server->engine, (uint32_t)i + 1, &stats);
    sum->used |= use->ever;
    sum->tokens += use->tokens;
    sum->refused += use->refused;
    sum->sched.running += stats.running;
    sum->sched.waiting += stats.waiting;
    sum->sched.pages += stats.pages;
    sum->sched.pages_cached += stats.pages_cached;
    sum->sched.rows += stats.rows;
    sum->sched.charged_ns += stats.charged_ns;
    sum->sched.output_tokens += stats.output_tokens;
    sum->sched.preemptions += stats.preemptions;
}

enum { N_SERIES = 10 };
static const struct {
    const char *name, *type, *label, *help;
} series[N_SERIES] = {
    {"fathom_key_sequences", "gauge", "state=\"running\"",
     "Sequences of an API key, running or waiting."},
    {"fathom_key_sequences", NULL, "state=\"waiting\"", NULL},
    {"fathom_key_tokens", "gauge", NULL,
     "Prompt tokens and output tokens that the unfinished requests of an API key may have."},
    {"fathom_key_pages", "gauge", "state=\"used\"", "Cache pages of an API key."},
    {"fathom_key_pages", NULL, "state=\"cached\"", NULL},
    {"fathom_key_rows_total", "counter", NULL, "Rows run for an API key."},
    {"fathom_key_engine_microseconds_total", "counter", NULL,
     "Engine time spent for an API key, in microseconds."},
    {"fathom_key_generation_tokens_total", "counter", NULL,
     "Output tokens generated for an API key."},
    {"fathom_key_preemptions_total", "counter", NULL,
     "Sequences of an API key that were sent back to the queue to free pages."},
    {"fathom_key_refused_total", "counter", NULL,
     "Requests of an API key that were answered with status 429."},
};

static uint64_t value_of(const key_sums *sum, int series_index) {
    const sched_tenant_stats *stats = &sum->sched;
    const uint64_t values[N_SERIES] = {stats->running,
                                       stats->waiting,
                                       sum->tokens,
                                       stats->pages - stats->pages_cached,
                                       stats->pages_cached,
                                       stats->rows,
                                       stats->charged_ns / 1000,
                                       stats->output_tokens,
                                       stats->preemptions,
                                       sum->refused};
    return values[series_index];
}

static void write_name(buf *out, const char *name) { /* as a label's value */
    for (; *name; name++) {
        if (*name == '"' || *name == '\\') buf_append(out, "\\", 1);
        buf_append(out, name, 1);
    }
}

void srv_tenants_write(const srv *server, buf *out, const char *labels) {
    if (server->keys == NULL) return;
    static key_sums sums[SRV_MAX_KEYS]; /* for the loop thread only */
    memset(sums, 0, sizeof sums);
    int n = (int)srv_keys_count(server->keys);
    for (int i = 0; i < n; i++) /* keys with one name share one series */
        add_key(server, i, &sums[srv_keys_first_of_name(server->keys, i)]);
    for (int k = 0; k < N_SERIES; k++) {
        if (series[k].type) {
            buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", series[k].name, series[k].help,
                       series[k].name, series[k].type);
        }
        for (int i = 0; i < n; i++) {
            if (!sums[i].used) continue;
            buf_printf(out, "%s{%s,key=\"", series[k].name, labels);
            write_name(out, srv_keys_name(server->keys, i));
            buf_printf(out, "\"%s%s} %llu\n", series[k].label ? "," : "",
                       series[k].label ? series[k].label : "",
                       (unsigned long long)value_of(&sums[i], k));
        }
    }
}
