/* metrics.c - the Prometheus page. A metric with vLLM's meaning has vLLM's name, so vLLM's
 * dashboards and gateways work; metrics of depth and of this server begin with fathom_.
 *
 * The page is rendered from the loop's counters and the scheduler's snapshot, and kept for 20 ms,
 * so that frequent scrapes cost little. */
#include "base/clock.h"
#include "engine/backend.h"
#include "server/server_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_LIFE_NS UINT64_C(20000000)
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

static const double ttft_bounds[] = {.001, .005, .01, .02, .04, .06,  .08,     .1,
                                     .25,  .5,   .75, 1,   2.5, 5,    7.5,     10,
                                     20,   40,   80,  160, 640, 2560, INFINITY};
static const double itl_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                    .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80, INFINITY};
static const double e2e_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,   20,
                                    30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680, INFINITY};
static const double n_bounds[] = {1, 2, 5, 10, 20, INFINITY};
static const double iteration_bounds[] = {1,   8,    16,   32,   64,   128,   256,
                                          512, 1024, 2048, 4096, 8192, 16384, INFINITY};
static const double cancel_bounds[] = {.0001, .0002, .0005, .001, .002, .005, .01, .02,
                                       .05,   .1,    .2,    .5,   1,    2,    5,   INFINITY};
static const double depth_bounds[] = {1,  2,  3,  4,  5,  6,  8,   10,
                                      12, 16, 24, 32, 48, 64, 128, INFINITY};

/* 1-2-5 decades up to the context, as vLLM builds them; one table for the process. */
static double token_bounds[SRV_BUCKETS];

static void make_token_bounds(uint32_t max_context) {
    static const unsigned steps[] = {1, 2, 5};
    size_t n = 0;
    for (uint64_t decade = 1; n + 1 < SRV_BUCKETS; decade *= 10) {
        for (size_t i = 0; i < ARRAY_LEN(steps) && n + 1 < SRV_BUCKETS; i++) {
            if (steps[i] * decade > max_context) goto done;
            token_bounds[n++] = (double)(steps[i] * decade);
        }
    }
done:
    token_bounds[n] = INFINITY;
}

void srv_metrics_init(srv_counts *counts, uint32_t max_context) {
    make_token_bounds(max_context);
    counts->ttft.bounds = ttft_bounds;
    counts->itl.bounds = counts->tpot.bounds = itl_bounds;
    counts->e2e.bounds = counts->queue_time.bounds = counts->inference.bounds = e2e_bounds;
    counts->prefill.bounds = counts->decode.bounds = e2e_bounds;
    counts->prompt_tokens.bounds = counts->output_tokens.bounds = counts->max_tokens.bounds =
        token_bounds;
    counts->max_output_tokens.bounds = token_bounds;
    counts->cancel.bounds = cancel_bounds;
    counts->params_n.bounds = n_bounds;
    counts->iteration_tokens.bounds = iteration_bounds;
    counts->depth.bounds = depth_bounds;
}

void srv_observe(srv_hist *hist, double value, uint64_t times) {
    size_t i = 0;
    while (value > hist->bounds[i])
        i++;
    hist->buckets[i] += times;
    hist->count += times;
    hist->sum += value * (double)times;
}

/* ---- writing ---- */

typedef struct {
    buf *out;
    char labels[256]; /* model_name="…",engine="0" */
} metric_page;

static void head(metric_page *page, const char *name, const char *type, const char *help) {
    buf_printf(page->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(metric_page *page, const char *name, const char *type, const char *help,
                double value) {
    head(page, name, type, help);
    buf_printf(page->out, "%s{%s} %.17g\n", name, page->labels, value);
}

static void sample(metric_page *page, const char *name, const char *label, const char *value,
                   double number) {
    buf_printf(page->out, "%s{%s,%s=\"%s\"} %.17g\n", name, page->labels, label, value, number);
}

static void sample_n(metric_page *page, const char *name, const char *label, unsigned value,
                     double number) {
    char text[16];
    (void)snprintf(text, sizeof text, "%u", value);
    sample(page, name, label, text, number);
}

static void histogram(metric_page *page, const char *name, const char *help, const srv_hist *hist) {
    head(page, name, "histogram", help);
    uint64_t sum = 0;
    for (size_t i = 0;; i++) {
        sum += hist->buckets[i];
        bool last = isinf(hist->bounds[i]);
        if (last)
            buf_printf(page->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, page->labels,
                       (unsigned long long)sum);
        else {
            buf_printf(page->out, "%s_bucket{%s,le=\"%g\"} %llu\n", name, page->labels,
                       hist->bounds[i], (unsigned long long)sum);
        }
        if (last) break;
    }
    buf_printf(page->out, "%s_sum{%s} %.17g\n%s_count{%s} %llu\n", name, page->labels, hist->sum,
               name, page->labels, (unsigned long long)hist->count);
}

/* Gateways take the two first labels for tokens of a block, and for blocks; fewer loops than usual
 * let more fit. Absent until the cache is there: a gateway would divide by 0. */
static void write_cache_info(metric_page *page, const srv *server, const sched_stats *st) {
    if (st->pages == 0) return;
    head(page, "vllm:cache_config_info", "gauge",
         "Sizes of the key/value cache, as labels: blocks of tokens that fit if every token runs "
         "its usual loops; and pages of slots.");
    buf_printf(page->out,
               "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%llu\","
               "page_slots=\"%u\",pages=\"%llu\",slot_bytes=\"%zu\","
               "enable_prefix_caching=\"%s\"} 1\n",
               page->labels, ENG_BLOCK, (unsigned long long)st->blocks, st->page_slots,
               (unsigned long long)st->pages, st->slot_bytes,
               server->model.sched.prefix_cache ? "True" : "False");
}

static void write_vllm(metric_page *page, const srv *server, const sched_stats *st) {
    const srv_counts *counts = &server->counts;
    double used =
        st->pages ? (double)(st->pages - st->pages_free - st->pages_cached) / (double)st->pages : 0;
    one(page, "vllm:num_requests_running", "gauge", "Sequences that are running.", st->running);
    one(page, "vllm:num_requests_waiting", "gauge", "Sequences that wait in the queue.",
        st->waiting);
    head(page, "vllm:num_requests_waiting_by_reason", "gauge",
         "Sequences that wait in the queue, by reason.");
    sample(page, "vllm:num_requests_waiting_by_reason", "reason", "capacity", st->waiting);
    sample(page, "vllm:num_requests_waiting_by_reason", "reason", "deferred", 0);
    one(page, "vllm:kv_cache_usage_perc", "gauge", "Share of the cache pages in use, from 0 to 1.",
        used);
    write_cache_info(page, server, st);
    one(page, "vllm:prefix_cache_queries_total", "counter",
        "Prompt tokens looked up in the prefix cache.", (double)st->prefix_queries);
    one(page, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.",
        (double)st->prefix_hits);
    one(page, "vllm:num_preemptions_total", "counter",
        "Sequences sent back to the queue because pages ran out.", (double)st->preemptions);
    one(page, "vllm:prompt_tokens_total", "counter",
        "Prompt tokens of requests that have begun; several choices count their prompt once.",
        (double)counts->all_prompt_tokens);
    one(page, "vllm:prompt_tokens_cached_total", "counter",
        "Prompt tokens that were taken from the prefix cache instead of being computed.",
        (double)counts->cached_tokens);
    one(page, "vllm:generation_tokens_total", "counter", "Output tokens generated.",
        (double)st->output_tokens);
    static const char *const reasons[] = {"stop", "length", "abort", "error"};
    head(page, "vllm:request_success_total", "counter", "Sequences that ended, by reason.");
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        sample(page, "vllm:request_success_total", "finished_reason", reasons[i],
               (double)counts->finished[i]);
    }
    one(page, "vllm:corrupted_requests_total", "counter",
        "Requests that ended because the model produced a value that is not a number.",
        (double)counts->numeric_failures);
    histogram(page, "vllm:time_to_first_token_seconds",
              "Time from a request's arrival to its first token.", &counts->ttft);
    histogram(page, "vllm:inter_token_latency_seconds", "Time between two tokens of one sequence.",
              &counts->itl);
    histogram(page, "vllm:request_time_per_output_token_seconds",
              "Mean time per token of a sequence after its first token.", &counts->tpot);
    histogram(page, "vllm:e2e_request_latency_seconds",
              "Time from a request's arrival to its last token.", &counts->e2e);
    histogram(page, "vllm:request_queue_time_seconds", "Time that a sequence waits in the queue.",
              &counts->queue_time);
    histogram(page, "vllm:request_inference_time_seconds",
              "Time from a sequence's admission to its last token.", &counts->inference);
    histogram(page, "vllm:request_prefill_time_seconds",
              "Time from a sequence's admission to its first token.", &counts->prefill);
    histogram(page, "vllm:request_decode_time_seconds",
              "Time from a sequence's first token to its last.", &counts->decode);
    histogram(page, "vllm:request_prompt_tokens",
              "Prompt tokens of a prompt; several choices count it once.", &counts->prompt_tokens);
    histogram(page, "vllm:request_generation_tokens", "Output tokens of a sequence.",
              &counts->output_tokens);
    histogram(page, "vllm:request_max_num_generation_tokens",
              "Output tokens of the longest choice of a request.", &counts->max_output_tokens);
    histogram(page, "vllm:request_params_max_tokens",
              "Most output tokens that a sequence was allowed.", &counts->max_tokens);
    histogram(page, "vllm:iteration_tokens_total",
              "Prompt and output tokens that one turn of the engine brings.",
              &counts->iteration_tokens);
    histogram(page, "vllm:request_params_n", "Sequences of a request.", &counts->params_n);
}

uint32_t srv_default_loops(const srv *server) {
    if (server->model.model == NULL) return 0;
    uint32_t loops = server->model.sched.default_max_loops;
    return loops ? loops : model_plan_of(server->model.model)->loops_default;
}

/* The backend belongs to the engine thread, so the exit rule is the one noted at loading. */
static void write_info(metric_page *page, const srv *server) {
    if (server->model.model == NULL) return;
    const model_plan *plan = model_plan_of(server->model.model);
    head(page, "fathom_model_info", "gauge",
         "Family, exit rule and cache policy of the model, as labels.");
    buf_printf(page->out,
               "fathom_model_info{%s,family=\"%s\",exit_rule=\"%s\",core_layers=\"%u\","
               "halted_kv=\"%s\"} 1\n",
               page->labels, plan_family_name(plan), exit_rule_name(server->exit), plan->n_core,
               kv_policy_name(server->model.sched.halted_kv));
    one(page, "fathom_default_loops", "gauge",
        "Most loops that a token runs unless its request says otherwise.",
        srv_default_loops(server));
    one(page, "fathom_ceiling_loops", "gauge", "Most loops that a request may ask for.",
        server->model.sched.ceiling_loops);
}

/* The ranks are the engine thread's, but their counters any thread's. */
static void write_ranks(metric_page *page, const srv *server) {
    const eng_ranks *ranks = server->model.ranks;
    one(page, "fathom_ranks", "gauge", "Processes that run the model together.",
        ranks ? ranks->n : 1);
    if (ranks == NULL) return;
    eng_ranks_counts counts = eng_ranks_read(ranks);
    one(page, "fathom_rank_gathers_total", "counter",
        "Times that this rank has gathered the columns of all ranks.", (double)counts.gathers);
    one(page, "fathom_rank_messages_total", "counter", "Messages received in gathers.",
        (double)counts.messages);
    one(page, "fathom_rank_bytes_total", "counter", "Bytes received in gathers.",
        (double)counts.bytes);
    one(page, "fathom_rank_seconds_total", "counter",
        "Time spent in gathers, waiting for other ranks included, in seconds.",
        (double)counts.ns * 1e-9);
    one(page, "fathom_rank_launch_bytes_total", "counter",
        "Bytes of launches sent to each other rank.", (double)counts.launch_bytes);
}

static void write_depth(metric_page *page, const srv *server, const sched_stats *st) {
    static const char *const stages[] = {"prelude", "recurrent", "coda"};
    unsigned loops = server->model.sched.ceiling_loops;
    if (loops == 0 || loops > PLAN_MAX_LOOPS) loops = PLAN_MAX_LOOPS;
    one(page, "fathom_loops_to_run", "gauge",
        "Loops that waiting and running sequences are expected to run still.",
        (double)st->loops_to_run);
    head(page, "fathom_rows", "gauge", "Rows whose next loop is this one.");
    for (unsigned i = 0; i < loops; i++)
        sample_n(page, "fathom_rows", "loop", i, st->rows_by_loop[i]);
    head(page, "fathom_loop_rows_total", "counter", "Rows that ran this loop; the first is 1.");
    for (unsigned i = 0; i < loops; i++)
        sample_n(page, "fathom_loop_rows_total", "loop", i + 1, (double)st->rows_run_by_loop[i]);
    head(page, "fathom_exits_total", "counter", "Tokens that left the loop after this many loops.");
    for (unsigned i = 1; i <= loops; i++) {
        sample_n(page, "fathom_exits_total", "depth", i, (double)st->exits_by_depth[i]);
    }
    histogram(page, "fathom_token_depth", "Loops that a generated token ran.",
              &server->counts.depth);
    struct {
        const char *name, *help;
        const uint64_t *values;
        double scale;
    } const by_stage[] = {
        {"fathom_launches_total", "Launches, by stage.", st->launches, 1},
        {"fathom_launch_rows_total", "Rows in launches, by stage.", st->launch_rows, 1},
        {"fathom_launch_seconds_total", "Time spent in launches, in seconds, by stage.",
         st->launch_ns, 1e-9}};
    for (size_t k = 0; k < ARRAY_LEN(by_stage); k++) {
        head(page, by_stage[k].name, "counter", by_stage[k].help);
        for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
            sample(page, by_stage[k].name, "stage", stages[i],
                   (double)by_stage[k].values[i] * by_stage[k].scale);
        }
    }
    head(page, "fathom_recurrent_rows_total", "counter", "Rows in recurrent launches, by kind.");
    sample(page, "fathom_recurrent_rows_total", "kind", "prompt", (double)st->prompt_rows);
    sample(page, "fathom_recurrent_rows_total", "kind", "decode", (double)st->decode_rows);
    sample(page, "fathom_recurrent_rows_total", "kind", "tail", (double)st->tail_rows);
    sample(page, "fathom_recurrent_rows_total", "kind", "kv_only", (double)st->kv_only_rows);
    one(page, "fathom_collapsed_positions_total", "counter",
        "Generated tokens that keep one cache slot for all their loops (policy collapse).",
        (double)st->collapsed);
    one(page, "fathom_voided_rows_total", "counter",
        "Rows of launches started ahead that the device left out because they had halted.",
        (double)st->voided_rows);
    one(page, "fathom_head_rows_total", "counter", "Rows for which logits were computed.",
        (double)st->head_rows);
    one(page, "fathom_prompt_loops_total", "counter", "Loops run for prompt tokens.",
        (double)st->prompt_loops);
    one(page, "fathom_output_loops_total", "counter", "Loops run for output tokens.",
        (double)st->output_loops);
    one(page, "fathom_sample_seconds_total", "counter", "Time spent in the sampler, in seconds.",
        (double)st->sample_ns * 1e-9);
    one(page, "fathom_steps_total", "counter", "Steps of the scheduler.", (double)st->steps);
    one(page, "fathom_depth_cap_loops", "gauge",
        "Most loops per token that --depth-cap allows under the present load; 0: no cap.",
        st->depth_cap_now);
    one(page, "fathom_longest_wait_launches", "gauge",
        "Most launches one after another that ever left out a ready row.", st->longest_wait);
}

void srv_metrics_speculation(const sched_stats *st, const char *labels, buf *out) {
    metric_page page = {.out = out};
    (void)snprintf(page.labels, sizeof page.labels, "%s", labels);
    one(&page, "vllm:spec_decode_num_drafts_total", "counter",
        "Chains of drafted tokens: each begins behind a token that is certain.",
        (double)st->draft_chains);
    one(&page, "vllm:spec_decode_num_draft_tokens_total", "counter",
        "Drafted tokens that were begun before they were certain.", (double)st->draft_tokens);
    one(&page, "vllm:spec_decode_num_accepted_tokens_total", "counter",
        "Drafted tokens that turned out right.", (double)st->drafts_accepted);
    static const char places[] = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
    head(&page, places, "counter",
         "Drafted tokens that turned out right, by the number of uncertain tokens before them; the "
         "last place counts all later ones.");
    for (unsigned i = 0; i < SCHED_DRAFT_PLACES; i++)
        sample_n(&page, places, "position", i, (double)st->accepted_by_place[i]);
    one(&page, "fathom_withdrawn_drafts_total", "counter",
        "Drafted tokens that were dropped: they or one before them were wrong, or the answer "
        "ended.",
        (double)st->drafts_withdrawn);
    one(&page, "fathom_withdrawn_rows_total", "counter",
        "Rows run, in any stage, for drafted tokens that were dropped.",
        (double)st->withdrawn_rows);
    one(&page, "fathom_text_drafts_total", "counter",
        "Drafted tokens that were copied from the text so far.", (double)st->text_drafts);
    one(&page, "fathom_text_drafts_accepted_total", "counter",
        "Drafted tokens copied from the text so far that turned out right.",
        (double)st->text_drafts_accepted);
    one(&page, "fathom_forced_drafts_total", "counter",
        "Drafted tokens that an answer's schema left no choice about.", (double)st->forced_drafts);
    one(&page, "fathom_forced_drafts_accepted_total", "counter",
        "Drafted tokens that a schema left no choice about and that turned out right.",
        (double)st->forced_drafts_accepted);
    one(&page, "fathom_draft_heads_total", "counter",
        "Rows of the coda that only named a drafted token.", (double)st->draft_heads);
    one(&page, "fathom_draft_loops", "gauge",
        "Loops that a token runs now before it drafts the next one; 0: no token is drafted.",
        st->draft_loops_now);
    one(&page, "fathom_draft_limit", "gauge",
        "Most drafted tokens of one sequence that may be uncertain now; 0: no token is drafted.",
        st->drafts_now);
}

/* Of several homes: gauges without `home` are sums over them. */
static void write_homes(metric_page *page, const sched_stats *st) {
    static const char *const states[] = {"free", "cached", "used"};
    if (st->n_homes < 2) return;
    head(page, "fathom_home_sequences_running", "gauge", "Running sequences, by home.");
    for (unsigned i = 0; i < st->n_homes; i++)
        sample_n(page, "fathom_home_sequences_running", "home", i, st->homes[i].running);
    head(page, "fathom_home_cache_pages", "gauge", "Cache pages, by home and state.");
    for (unsigned i = 0; i < st->n_homes; i++) {
        const sched_home_stats *home = &st->homes[i];
        const uint32_t n[] = {home->pages_free, home->pages_cached,
                              home->pages - home->pages_free - home->pages_cached};
        for (size_t k = 0; k < ARRAY_LEN(states); k++) {
            buf_printf(page->out, "fathom_home_cache_pages{%s,home=\"%u\",state=\"%s\"} %u\n",
                       page->labels, i, states[k], n[k]);
        }
    }
}

static void write_cache(metric_page *page, const sched_stats *st) {
    head(page, "fathom_cache_pages", "gauge", "Cache pages, by state.");
    sample(page, "fathom_cache_pages", "state", "free", (double)st->pages_free);
    sample(page, "fathom_cache_pages", "state", "cached", (double)st->pages_cached);
    sample(page, "fathom_cache_pages", "state", "used",
           (double)(st->pages - st->pages_free - st->pages_cached));
    one(page, "fathom_cache_slots_used", "gauge",
        "Cache slots in use; a slot holds keys and values of one token at one loop.",
        (double)st->slots_used);
    one(page, "fathom_cache_bytes", "gauge", "Bytes of the cache slots in use.",
        (double)st->cache_bytes);
    one(page, "fathom_cache_all_loops_bytes", "gauge",
        "Bytes that the cache would hold if every token stored every loop.",
        (double)st->cache_bytes_all_loops);
    double saved = st->cache_bytes_all_loops > st->cache_bytes
                       ? (double)(st->cache_bytes_all_loops - st->cache_bytes)
                       : 0;
    one(page, "fathom_cache_saved_bytes", "gauge",
        "Bytes that are not stored because tokens left the loop early.", saved);
}

/* The life of the process. Prometheus' own libraries have the first name, without labels. */
static void write_process(metric_page *page, srv *server) {
    static const char started[] = "process_start_time_seconds";
    head(page, started, "gauge", "Start time of the process since 1970, in seconds.");
    buf_printf(page->out, "%s %lld\n", started, (long long)server->start_unix_s);
    one(page, "fathom_ready", "gauge", "1 while /ready answers 200, else 0.",
        srv_not_ready(server) == NULL);
}

static void write_kv_events(metric_page *page, const srv *server) {
    srv_kv_counts counts;
    if (!srv_kv_events_counts(server->kv, &counts)) return;
    head(page, "fathom_kv_events_total", "counter", "KV events that were published, by kind.");
    sample(page, "fathom_kv_events_total", "kind", "stored", (double)counts.stored);
    sample(page, "fathom_kv_events_total", "kind", "removed", (double)counts.removed);
    sample(page, "fathom_kv_events_total", "kind", "cleared", (double)counts.cleared);
    one(page, "fathom_kv_events_messages_total", "counter",
        "Messages with KV events; the number of the next one.", (double)counts.messages);
    one(page, "fathom_kv_events_bytes_total", "counter", "Bytes of KV events in these messages.",
        (double)counts.bytes);
    one(page, "fathom_kv_events_waits_total", "counter",
        "Waits, of 20 ms each, because the queue of a subscriber was full.", (double)counts.waits);
    one(page, "fathom_kv_events_late", "gauge", "KV events that are not published yet.",
        (double)counts.late);
}

static void write_http(metric_page *page, const srv *server) {
    const srv_counts *counts = &server->counts;
    size_t n_routes = 0;
    const srv_route *routes = srv_routes(&n_routes);
    static const char *const classes[] = {"other", "1xx", "2xx", "3xx", "4xx", "5xx"};
    one(page, "fathom_http_connections", "gauge", "Open connections.", server->n_conns);
    one(page, "fathom_http_requests_in_flight", "gauge", "Requests whose answer is not complete.",
        server->n_reqs);
    one(page, "fathom_http_connections_total", "counter", "Connections that were accepted.",
        (double)counts->connections);
    head(page, "fathom_http_requests_total", "counter", "Requests, by route.");
    for (size_t i = 0; i < n_routes; i++) {
        sample(page, "fathom_http_requests_total", "route", routes[i].path,
               (double)counts->requests_by_route[i]);
    }
    head(page, "fathom_http_responses_total", "counter", "Answers, by class of status.");
    for (size_t i = 2; i < ARRAY_LEN(classes); i++) {
        sample(page, "fathom_http_responses_total", "class", classes[i],
               (double)counts->answers[i]);
    }
    one(page, "fathom_http_streams_total", "counter", "Answers that were started as event streams.",
        (double)counts->streams);
    one(page, "fathom_http_body_bytes_total", "counter",
        "Bytes of request bodies that were received.", (double)counts->bytes_in);
    one(page, "fathom_http_sent_bytes_total", "counter", "Bytes of answers that were sent.",
        (double)counts->bytes_out);
    head(page, "fathom_request_memory_bytes", "gauge", "Bytes held for requests, by purpose.");
    for (unsigned k = 0; k < SRV_HELD_KINDS; k++) {
        sample(page, "fathom_request_memory_bytes", "kind", srv_held_names[k],
               (double)srv_ledger_held(server->ledger, k));
    }
    one(page, "fathom_request_memory_limit_bytes", "gauge",
        "Most bytes that may be held for requests.", (double)srv_ledger_ceiling(server->ledger));
    one(page, "fathom_request_memory_evictions_total", "counter",
        "Requests that were ended because all requests together held more than the limit.",
        (double)counts->evicted);
    head(page, "fathom_http_cut_total", "counter",
         "Connections that the server closed, by reason.");
    sample(page, "fathom_http_cut_total", "why", "slow_reader", (double)counts->slow_cut);
    sample(page, "fathom_http_cut_total", "why", "deadline", (double)counts->deadline_cut);
    sample(page, "fathom_http_cut_total", "why", "crowd", (double)counts->crowd_cut);
    head(page, "fathom_http_refused_total", "counter",
         "Requests and connections that were refused, by reason.");
    sample(page, "fathom_http_refused_total", "why", "busy", (double)counts->refused_busy);
    sample(page, "fathom_http_refused_total", "why", "draining", (double)counts->refused_draining);
    sample(page, "fathom_http_refused_total", "why", "key", (double)counts->refused_key);
    sample(page, "fathom_http_refused_total", "why", "address", (double)counts->refused_address);
    sample(page, "fathom_http_refused_total", "why", "foreign", (double)counts->refused_foreign);
    one(page, "fathom_http_client_left_total", "counter",
        "Requests whose client closed the connection before the answer was complete.",
        (double)counts->cancelled_by_client);
    histogram(page, "fathom_cancel_seconds",
              "Time from a client's leaving to the release of its cache pages.", &counts->cancel);
    one(page, "fathom_http_bad_clients_total", "counter",
        "Reports of the HTTP library about clients that break the protocol.",
        (double)counts->bad_clients);
    one(page, "fathom_log_dropped_lines_total", "counter", "Log lines that could not be written.",
        (double)log_dropped_lines());
    one(page, "fathom_loop_turn_max_seconds", "gauge",
        "Longest time that one callback has held the event loop.",
        (double)counts->loop_turn_max_ns * 1e-9);
}

/* A label value must escape quotes and backslashes and cannot hold a newline. */
static void write_labels(metric_page *page, const char *model) {
    size_t n = (size_t)snprintf(page->labels, sizeof page->labels, "model_name=\"");
    for (; *model && n + 24 < sizeof page->labels; model++) {
        if (*model == '"' || *model == '\\') page->labels[n++] = '\\';
        page->labels[n++] = *model == '\n' ? ' ' : *model;
    }
    (void)snprintf(page->labels + n, sizeof page->labels - n, "\",engine=\"0\"");
}

void srv_metrics_write(srv *server, buf *out) {
    static sched_stats st; /* 8 KB; the loop thread's alone */
    memset(&st, 0, sizeof st);
    if (server->engine) sched_thread_stats(server->engine, &st);
    metric_page page = {.out = out};
    write_labels(&page, server->api ? api_model_name(server->api) : "");
    write_vllm(&page, server, &st);
    write_process(&page, server);
    write_info(&page, server);
    write_ranks(&page, server);
    write_depth(&page, server, &st);
    srv_metrics_speculation(&st, page.labels, out);
    write_cache(&page, &st);
    write_homes(&page, &st);
    write_kv_events(&page, server);
    srv_tenants_write(server, out, page.labels);
    write_http(&page, server);
}

void srv_handle_metrics(srv_req *req) {
    srv *server = req->server;
    uint64_t now = clock_ns();
    if (server->metrics_page.len == 0 || now - server->metrics_page_ns > PAGE_LIFE_NS) {
        buf_clear(&server->metrics_page);
        srv_metrics_write(server, &server->metrics_page);
        server->metrics_page_ns = now;
    }
    buf copy = {0};
    buf_append(&copy, server->metrics_page.data, server->metrics_page.len);
    copy.failed |= server->metrics_page.failed;
    srv_answer(req, 200, METRICS_TYPE, &copy, NULL, 0);
}
