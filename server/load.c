/* load.c - opens the model on a worker while the loop already answers /health. */
#include "base/clock.h"
#include "engine/backend.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct srv_load {
    uv_work_t task;
    srv *server;
    runtime model; /* the worker's until it is done */
    api_context *api;
    int rc;
    err error;
};

static int open_api(srv_load *load, err *e) {
    const server_opts *opts = &load->server->opts;
    const model_plan *plan = model_plan_of(load->model.model);
    const sched_opts *run = &load->model.sched;
    uint32_t output = plan->max_output_tokens ? plan->max_output_tokens : plan->max_seq_len;
    if (opts->max_tokens) output = (uint32_t)opts->max_tokens;
    api_opts options = {
        .model_dir = opts->run.model,
        .chat_template = opts->chat_template,
        .served_name = opts->served_name,
        .model = load->model.model,
        .tokenizer = load->model.tokenizer,
        .no_tokenizer = load->model.no_tokenizer[0] ? load->model.no_tokenizer : NULL,
        .max_context = plan->max_seq_len,
        .default_max_tokens = output,
        .max_n = (uint32_t)opts->max_n,
        .max_prompts = (uint32_t)opts->max_prompts,
        .refuse_long = opts->refuse_long,
        .warn_unknown = opts->warn_unknown,
        .control_ids = opts->control_ids,
        .special_tokens = opts->special_tokens,
        .ceiling_loops = run->ceiling_loops,
        .own_run = true,
        .default_loops = run->default_max_loops ? run->default_max_loops : plan->loops_default,
        .halted_kv = run->halted_kv,
        .exit = load->model.backend->info.exit,
        .threshold = runtime_threshold(&load->model),
        .max_body_bytes = opts->max_body,
    };
    return api_context_open(&load->api, &options, e);
}

static void on_load(uv_work_t *task) {
    srv_load *load = OWNER_OF(task, srv_load, task);
    load->rc = runtime_open(&load->model, &load->server->opts.run, &load->error);
    if (load->rc != 0) return;
    load->rc = open_api(load, &load->error);
    if (load->rc != 0) runtime_close(&load->model);
}

/* Applies the options of `serve` that runtime_opts does not have. */
static void fill_limits(srv *server) {
    sched_opts *limits = &server->model.sched;
    const server_opts *opts = &server->opts;
    limits->max_queue = (uint32_t)opts->max_queue;
    if (opts->max_queue_tokens) limits->max_queue_tokens = opts->max_queue_tokens;
    if (opts->no_prefix_cache) limits->prefix_cache = false;
    limits->depth_cap = opts->depth_cap;
    srv_tenants_fill(server, limits);
    limits->feed = srv_kv_events_feed(server->kv);
}

/* The value of --speculate that is in force; a number is written into `number`. */
static const char *speculation_name(const sched_opts *limits, char *number, size_t cap) {
    if (limits->drafts == 0) return "off";
    if (limits->drafts == SCHED_DRAFTS_AUTO) return "auto";
    (void)snprintf(number, cap, "%u", limits->drafts);
    return number;
}

static void say_ready(const srv *server, const eng_backend_info *info) {
    const model_plan *plan = model_plan_of(server->model.model);
    const sched_opts *limits = &server->model.sched;
    log_line(
        LOG_INFO,
        "model %s: %s, %.1f M parameters, %u core layer%s, %u loops by default, at most %u, exit "
        "by %s, context %u%s",
        api_model_name(server->api), plan_family_name(plan),
        (double)model_params(server->model.model) / 1e6, plan->n_core, plan->n_core == 1 ? "" : "s",
        limits->default_max_loops ? limits->default_max_loops : plan->loops_default,
        limits->ceiling_loops, exit_rule_name(info->exit), plan->max_seq_len,
        server->model.tokenizer ? "" : "; no tokenizer, token-id prompts only");
    log_line(LOG_INFO, "device %s, kernels %s, %u thread%s%s%s, %.1f MB of weights", info->device,
             info->kernels, info->threads, info->threads == 1 ? "" : "s",
             info->why_threads[0] ? ": " : "", info->why_threads, (double)info->weight_bytes / 1e6);
    /* So many positions fit if every position runs every loop. */
    double planes = plan_planes(plan, plan->loops_default);
    char number[16];
    log_line(LOG_INFO,
             "cache %u slots of %zu bytes%s (%.1f MB%s%s): %.0f positions at full depth; policy of "
             "halted tokens: %s; speculation: %s",
             info->n_slots, info->slot_bytes, info->n_homes ? " on each rank" : "",
             (double)info->n_slots * (double)info->slot_bytes / 1e6, info->why_cache[0] ? ", " : "",
             info->why_cache, info->n_slots / planes, kv_policy_name(limits->halted_kv),
             speculation_name(limits, number, sizeof number));
    log_line(LOG_INFO, "ready on %s after %.2f s", server->main.address,
             (double)(clock_ns() - server->start_ns) / 1e9);
}

static void on_loaded(uv_work_t *task, int status) {
    (void)status;
    srv_load *load = OWNER_OF(task, srv_load, task);
    srv *server = load->server;
    server->load = NULL;
    if (load->rc != 0) {
        srv_stop_for(server, &load->error, "the model could not be loaded");
        free(load);
        return;
    }
    server->model = load->model;
    server->api = load->api;
    free(load);
    eng_backend_info info = server->model.backend->info;
    server->exit = info.exit;
    fill_limits(server);
    srv_metrics_init(&server->counts, model_plan_of(server->model.model)->max_seq_len);
    err e = {0};
    if (srv_engine_open(server, &e) != 0 || srv_kv_events_start(server, &e) != 0) {
        srv_stop_for(server, &e, "the engine thread did not start");
        return;
    }
    server->loaded = true;
    srv_sandbox_loaded(server);
    say_ready(server, &info);
    srv_notify_ready(server);
}

int srv_load_start(srv *server, err *e) {
    srv_load *load = calloc(1, sizeof *load);
    if (load == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory to load the model");
    load->server = server;
    server->load = load;
    if (uv_queue_work(&server->loop, &load->task, on_load, on_loaded) == 0) return 0;
    server->load = NULL;
    free(load);
    return err_set(e, ERR_IO, NULL, "the loading of the model did not start");
}
