/* load.c - opens the model on a worker while the loop already answers /health. */
#include "base/clock.h"
#include "engine/backend.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

struct srv_load {
    uv_work_t w;
    srv *s;
    runtime model; /* the worker's until it is done */
    api_context *api;
    int rc;
    err e;
};

static int open_api(srv_load *l, err *e) {
    const server_opts *o = &l->s->o;
    const model_plan *c = model_plan_of(l->model.model);
    const sched_opts *run = &l->model.sched;
    uint32_t output = c->max_output_tokens ? c->max_output_tokens : c->max_seq_len;
    if (o->max_tokens) output = (uint32_t)o->max_tokens;
    api_opts a = {
        .model_dir = o->run.model,
        .chat_template = o->chat_template,
        .served_name = o->served_name,
        .model = l->model.model,
        .tokenizer = l->model.tokenizer,
        .no_tokenizer = l->model.no_tokenizer[0] ? l->model.no_tokenizer : NULL,
        .max_context = c->max_seq_len,
        .default_max_tokens = output,
        .max_n = (uint32_t)o->max_n,
        .max_prompts = (uint32_t)o->max_prompts,
        .control_ids = o->control_ids,
        .special_tokens = o->special_tokens,
        .ceiling_loops = run->ceiling_loops,
        .own_run = true,
        .default_loops = run->default_max_loops ? run->default_max_loops : c->loops_default,
        .halted_kv = run->halted_kv,
        .exit = l->model.backend->info.exit,
        .threshold = runtime_threshold(&l->model),
        .max_body_bytes = o->max_body,
    };
    return api_context_open(&l->api, &a, e);
}

static void on_load(uv_work_t *w) {
    srv_load *l = OWNER_OF(w, srv_load, w);
    l->rc = runtime_open(&l->model, &l->s->o.run, &l->e);
    if (l->rc != 0) return;
    l->rc = open_api(l, &l->e);
    if (l->rc != 0) runtime_close(&l->model);
}

/* What was asked for beyond runtime_opts. */
static void fill_limits(srv *s) {
    sched_opts *o = &s->model.sched;
    const server_opts *from = &s->o;
    o->max_queue = (uint32_t)from->max_queue;
    if (from->max_queue_tokens) o->max_queue_tokens = from->max_queue_tokens;
    if (from->no_prefix_cache) o->prefix_cache = false;
    o->depth_cap = from->depth_cap;
    srv_tenants_fill(s, o);
}

static void say_ready(const srv *s, const eng_backend_info *info) {
    const model_plan *c = model_plan_of(s->model.model);
    const sched_opts *o = &s->model.sched;
    log_line(
        LOG_INFO,
        "model %s: %s, %.1f M parameters, %u core layer%s, %u loops by default, at most %u, exit "
        "by %s, context %u%s",
        api_model_name(s->api), plan_family_name(c), (double)model_params(s->model.model) / 1e6,
        c->n_core, c->n_core == 1 ? "" : "s",
        o->default_max_loops ? o->default_max_loops : c->loops_default, o->ceiling_loops,
        exit_rule_name(info->exit), c->max_seq_len,
        s->model.tokenizer ? "" : "; no tokenizer, token-id prompts only");
    log_line(LOG_INFO, "device %s, kernels %s, %u thread%s%s%s, %.1f MB of weights", info->device,
             info->kernels, info->threads, info->threads == 1 ? "" : "s",
             info->why_threads[0] ? ": " : "", info->why_threads, (double)info->weight_bytes / 1e6);
    /* Were every position to run every loop, this many would still fit. */
    double planes = plan_planes(c, c->loops_default);
    log_line(LOG_INFO,
             "cache %u slots of %zu bytes (%.1f MB%s%s): %.0f positions at full depth; policy of "
             "halted tokens: %s",
             info->n_slots, info->slot_bytes,
             (double)info->n_slots * (double)info->slot_bytes / 1e6, info->why_cache[0] ? ", " : "",
             info->why_cache, info->n_slots / planes, o->halted_kv == KV_LAST ? "last" : "exact");
    log_line(LOG_INFO, "ready on %s after %.2f s", s->main.address,
             (double)(clock_ns() - s->start_ns) / 1e9);
}

static void on_loaded(uv_work_t *w, int status) {
    (void)status;
    srv_load *l = OWNER_OF(w, srv_load, w);
    srv *s = l->s;
    s->load = NULL;
    if (l->rc != 0) {
        srv_stop(s, opt_fail(&l->e), "the model could not be loaded");
        free(l);
        return;
    }
    s->model = l->model;
    s->api = l->api;
    free(l);
    eng_backend_info info = s->model.backend->info;
    s->exit = info.exit;
    fill_limits(s);
    srv_metrics_init(&s->counts, model_plan_of(s->model.model)->max_seq_len);
    err e = {0};
    if (srv_engine_open(s, &e) != 0) {
        srv_stop(s, opt_fail(&e), "the engine thread did not start");
        return;
    }
    s->loaded = true;
    srv_sandbox_loaded(s);
    say_ready(s, &info);
}

int srv_load_start(srv *s, err *e) {
    srv_load *l = calloc(1, sizeof *l);
    if (l == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory to load the model");
    l->s = s;
    s->load = l;
    if (uv_queue_work(&s->loop, &l->w, on_load, on_loaded) == 0) return 0;
    s->load = NULL;
    free(l);
    return err_set(e, ERR_IO, NULL, "the loading of the model did not start");
}
