/* routes.c - what is served: /v1/models. */
#include "api/api_internal.h"

/* How deep tokens go: the layers of a loop, when a token leaves it, how many loops there are. */
static void write_depth(const api_context *c, buf *out) {
    const api_opts *o = &c->opts;
    float above, most;
    buf_printf(out, ",\"family\":\"%s\",\"core_layers\":%u,\"exit\":{\"rule\":\"%s\",",
               plan_family_name(c->config), c->config->n_core, exit_rule_name(o->exit));
    if (exit_rule_range(o->exit, &above, &most)) {
        buf_printf(out, "\"threshold\":%.6g,\"above\":%g,\"most\":%g}", (double)o->threshold,
                   (double)above, (double)most);
    } else {
        buf_puts(out, "\"threshold\":null,\"above\":null,\"most\":null}");
    }
    buf_printf(out, ",\"loops\":{\"default\":%u,\"cap\":%u},\"halted_kv\":\"%s\"", o->default_loops,
               o->ceiling_loops, o->halted_kv == KV_LAST ? "last" : "exact");
}

static void write_model(const api_context *c, buf *out) {
    const model_plan *m = c->config;
    buf_puts(out, "{\"id\":");
    buf_json_text(out, c->name);
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"fathom\",\"root\":",
               (long long)c->created);
    buf_json_text(out, c->name);
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%u,\"max_loops\":%u,\"trained_loops\":%u",
               c->opts.max_context, c->opts.ceiling_loops, m->loops_default);
    write_depth(c, out);
    buf_printf(out,
               ",\"meta\":{\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,\"n_params\":%llu,"
               "\"size\":%llu,"
               "\"chat_template\":",
               m->vocab_size, m->max_seq_len, m->dim,
               (unsigned long long)model_params(c->opts.model),
               (unsigned long long)model_bytes(c->opts.model));
    if (c->template && !api__template_broken(c->template))
        buf_json_text(out, api__template_name(c->template));
    else buf_puts(out, "null");
    buf_printf(out, ",\"tokenizer\":%s}}", c->opts.tokenizer ? "true" : "false");
}

void api_models(const api_context *c, buf *out) {
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    write_model(c, out);
    buf_puts(out, "]}");
}

int api_model(const api_context *c, const char *id, buf *out, err *e) {
    if (api__check_model(c, id, e) != 0) return -1;
    write_model(c, out);
    return 0;
}

int api__read_model(const api_context *c, const json_t *root, const char **out, err *e) {
    const json_t *model = json_object_get(root, "model");
    *out = json_c_string(model);
    if (model && !json_is_null(model) && !json_is_string(model))
        return err_set(e, ERR_BAD_PARAM, "model", "model must be a string");
    if (json_is_string(model) && *out == NULL)
        return api__bad_param(e, "model", "may not hold U+0000");
    return api__check_model(c, *out, e);
}
