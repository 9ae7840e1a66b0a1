/* tenants.c - what one key may have here beside the others: requests, sequences, tokens, places
 * in the queue, a priority. And what each key has, for the metrics.
 *
 * The queue is shared so that a greedy key hears 429 before another hears 503. A key may hold as
 * many sequences as stay free for the others; one that holds nothing may send a single request
 * of up to three quarters of the queue, so that a batch gets in. Prompt tokens likewise. */
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

enum { KEPT_PART = 4 }; /* of the queue, for others, before a key's first request */

typedef struct {                        /* of one request */
    uint64_t sequences, prompt, tokens; /* tokens: prompts and all they may put out */
} demand;

static demand demand_of(const srv_gen *g) {
    demand d = {.sequences = g->n};
    for (uint32_t i = 0; i < g->n; i++) {
        sched_request q;
        api_reply_request(g->reply, i, &q);
        d.prompt += q.n_prompt;
        d.tokens += (uint64_t)q.n_prompt + q.max_tokens;
    }
    return d;
}

/* Whether a key that holds `held` of `all` may have `more`, when others hold `others`. */
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

static int check_demand(const srv *s, const srv_use *u, const demand *d, err *e) {
    const server_opts *o = &s->o;
    const sched_opts *m = &s->model.sched;
    if (o->max_seqs_per_key && u->sequences + d->sequences > o->max_seqs_per_key) {
        return too_many(e, "sequences", d->sequences, u->sequences, o->max_seqs_per_key);
    }
    if (o->max_tokens_per_key && u->tokens + d->tokens > o->max_tokens_per_key) {
        return too_many(e, "tokens", d->tokens, u->tokens, o->max_tokens_per_key);
    }
    if (srv_keys_count(s->keys) < 2) return 0; /* nobody else to leave room for */
    uint64_t places = (uint64_t)m->max_running + m->max_queue;
    if (!fair(places, s->n_sequences - u->sequences, u->sequences, d->sequences)) {
        return err_set(e, ERR_BUSY, NULL,
                       "this API key has %u sequences here and asks for %llu more; the rest of the "
                       "%llu places is kept for other keys",
                       u->sequences, (unsigned long long)d->sequences, (unsigned long long)places);
    }
    bool alone = s->waiting_prompt == 0 && d->sequences <= 1;
    if (!alone && !fair(m->max_queue_tokens, s->waiting_prompt - u->waiting_prompt,
                        u->waiting_prompt, d->prompt)) {
        return err_set(e, ERR_BUSY, NULL,
                       "this API key has %llu prompt tokens waiting and asks for %llu more; the "
                       "rest of the queue's %llu is kept for other keys",
                       (unsigned long long)u->waiting_prompt, (unsigned long long)d->prompt,
                       (unsigned long long)m->max_queue_tokens);
    }
    return 0;
}

static bool answer_429(srv_req *r, const err *e) {
    r->s->counts.refused_busy++;
    srv_keys_use(r->s->keys, r->key)->refused++;
    srv_answer_http(r, 429, e->msg, "rate_limit_exceeded");
    return false;
}

bool srv_tenant_admit(srv_req *r) {
    srv *s = r->s;
    if (r->key < 0) return true;
    const srv_use *u = srv_keys_use(s->keys, r->key);
    err e = {0};
    if (s->o.max_per_key && u->requests >= s->o.max_per_key) {
        (void)err_set(&e, ERR_BUSY, NULL,
                      "this API key already has as many requests as it may have");
        return answer_429(r, &e);
    }
    /* What any request asks for at least; its real demand is known once it is parsed. */
    demand least = {1, 1, 2};
    return check_demand(s, u, &least, &e) == 0 || answer_429(r, &e);
}

int srv_tenant_check(const srv_gen *g, err *e) {
    if (g->key < 0) return 0;
    demand d = demand_of(g);
    return check_demand(g->s, srv_keys_use(g->s->keys, g->key), &d, e);
}

void srv_tenant_refuse(srv_req *r, const err *e) {
    (void)answer_429(r, e);
}

int srv_tenant_priority(const srv_req *r, const api_request *q, int32_t *out, err *e) {
    static const srv_key_terms any = {.least_priority = INT32_MIN, .most_priority = INT32_MAX};
    const srv_key_terms *t = r->key < 0 ? &any : srv_keys_terms(r->s->keys, r->key);
    int32_t least = t->least_priority, most = t->most_priority;
    *out = least > 0 ? least : most < 0 ? most : 0;
    int32_t wish;
    if (!r->s->o.client_priority || !api_wants_priority(q, &wish)) return 0;
    if (wish < least || wish > most) {
        return err_set(e, ERR_BAD_PARAM, "priority",
                       "this API key may use a priority from %d to %d, not %d", least, most, wish);
    }
    *out = wish;
    return 0;
}

/* ---- what is under way ---- */

void srv_tenant_entered(srv_gen *g, srv_seq *seq) {
    g->s->n_sequences++;
    g->s->waiting_prompt += seq->n_prompt;
    seq->waits = true;
    if (g->key < 0) return;
    srv_use *u = srv_keys_use(g->s->keys, g->key);
    u->sequences++;
    u->tokens += (uint64_t)seq->n_prompt + seq->max_tokens;
    u->waiting_prompt += seq->n_prompt;
}

void srv_tenant_began(srv_gen *g, srv_seq *seq) {
    if (!seq->waits) return;
    seq->waits = false;
    g->s->waiting_prompt -= seq->n_prompt;
    if (g->key >= 0) srv_keys_use(g->s->keys, g->key)->waiting_prompt -= seq->n_prompt;
}

void srv_tenant_left(srv_gen *g, srv_seq *seq) {
    srv_tenant_began(g, seq);
    g->s->n_sequences--;
    if (g->key < 0) return;
    srv_use *u = srv_keys_use(g->s->keys, g->key);
    u->sequences--;
    u->tokens -= (uint64_t)seq->n_prompt + seq->max_tokens;
}

void srv_tenants_fill(const srv *s, sched_opts *o) {
    static uint32_t weights[SRV_MAX_KEYS + 1]; /* read by sched_create, and not after it */
    o->max_tenants = s->keys ? (uint32_t)srv_keys_count(s->keys) + 1 : 1;
    o->share_cache = s->o.share_cache;
    o->weights = weights;
    weights[0] = 1;
    for (uint32_t i = 1; i < o->max_tenants; i++)
        weights[i] = srv_keys_terms(s->keys, (int)i - 1)->weight;
}

/* ---- metrics ---- */

typedef struct {
    sched_tenant_stats sched;
    uint64_t tokens, refused;
    bool used;
} key_sums;

static void add_key(const srv *s, int i, key_sums *sum) {
    const srv_use *u = srv_keys_use(s->keys, i);
    sched_tenant_stats t = {0};
    if (s->engine) sched_thread_tenant_stats(s->engine, (uint32_t)i + 1, &t);
    sum->used |= u->ever;
    sum->tokens += u->tokens;
    sum->refused += u->refused;
    sum->sched.running += t.running;
    sum->sched.waiting += t.waiting;
    sum->sched.pages += t.pages;
    sum->sched.pages_cached += t.pages_cached;
    sum->sched.rows += t.rows;
    sum->sched.charged_ns += t.charged_ns;
    sum->sched.output_tokens += t.output_tokens;
    sum->sched.preemptions += t.preemptions;
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

static uint64_t value_of(const key_sums *k, int series_index) {
    const sched_tenant_stats *t = &k->sched;
    const uint64_t values[N_SERIES] = {t->running,
                                       t->waiting,
                                       k->tokens,
                                       t->pages - t->pages_cached,
                                       t->pages_cached,
                                       t->rows,
                                       t->charged_ns / 1000,
                                       t->output_tokens,
                                       t->preemptions,
                                       k->refused};
    return values[series_index];
}

static void write_name(buf *out, const char *name) { /* as a label's value */
    for (; *name; name++) {
        if (*name == '"' || *name == '\\') buf_append(out, "\\", 1);
        buf_append(out, name, 1);
    }
}

void srv_tenants_write(const srv *s, buf *out, const char *labels) {
    if (s->keys == NULL) return;
    static key_sums sums[SRV_MAX_KEYS]; /* the loop thread's alone */
    memset(sums, 0, sizeof sums);
    int n = (int)srv_keys_count(s->keys);
    for (int i = 0; i < n; i++) /* keys of one name are one series */
        add_key(s, i, &sums[srv_keys_first_of_name(s->keys, i)]);
    for (int k = 0; k < N_SERIES; k++) {
        if (series[k].type) {
            buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", series[k].name, series[k].help,
                       series[k].name, series[k].type);
        }
        for (int i = 0; i < n; i++) {
            if (!sums[i].used) continue;
            buf_printf(out, "%s{%s,key=\"", series[k].name, labels);
            write_name(out, srv_keys_name(s->keys, i));
            buf_printf(out, "\"%s%s} %llu\n", series[k].label ? "," : "",
                       series[k].label ? series[k].label : "",
                       (unsigned long long)value_of(&sums[i], k));
        }
    }
}
