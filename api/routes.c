/* routes.c - GET /v1/models. */
#include "api/request_internal.h"

/* Writes the limits of depth: layers of a loop, exit rule, number of loops. */
static void write_depth(const api_context *ctx, buf *out) {
    const api_opts *opts = &ctx->opts;
    float above, most, all = exit_rule_never(opts->exit);
    buf_printf(out, ",\"family\":\"%s\",\"core_layers\":%u,\"exit\":{\"rule\":\"%s\",",
               plan_family_name(ctx->plan), ctx->plan->n_core, exit_rule_name(opts->exit));
    if (exit_rule_range(opts->exit, &above, &most)) {
        buf_printf(out, "\"threshold\":%.6g,\"above\":%g,\"most\":%g,\"all_loops_at\":",
                   (double)exit_rule_written(opts->exit, opts->threshold), (double)above,
                   (double)most);
        if (all > 0) buf_printf(out, "%g}", (double)exit_rule_written(opts->exit, all));
        else buf_puts(out, "null}");
    } else {
        buf_puts(out, "\"threshold\":null,\"above\":null,\"most\":null,\"all_loops_at\":null}");
    }
    buf_printf(out, ",\"loops\":{\"default\":%u,\"least\":%u,\"cap\":%u},\"halted_kv\":\"%s\"",
               opts->default_loops, plan_loops_least(ctx->plan), opts->ceiling_loops,
               kv_policy_name(opts->halted_kv));
}

static void write_model(const api_context *ctx, buf *out) {
    const model_plan *plan = ctx->plan;
    buf_puts(out, "{\"id\":");
    buf_json_text(out, ctx->name);
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"fathom\",\"root\":",
               (long long)ctx->created);
    buf_json_text(out, ctx->name);
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%u,\"max_loops\":%u,\"trained_loops\":%u",
               ctx->opts.max_context, ctx->opts.ceiling_loops, plan->loops_default);
    write_depth(ctx, out);
    buf_printf(out,
               ",\"meta\":{\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,\"n_params\":%llu,"
               "\"size\":%llu,"
               "\"chat_template\":",
               plan->vocab_size, plan->max_seq_len, plan->dim,
               (unsigned long long)model_params(ctx->opts.model),
               (unsigned long long)model_bytes(ctx->opts.model));
    if (ctx->template && !api__template_broken(ctx->template))
        buf_json_text(out, api__template_name(ctx->template));
    else buf_puts(out, "null");
    buf_printf(out, ",\"tokenizer\":%s", ctx->opts.tokenizer ? "true" : "false");
    if (ctx->examples.len > 0) {
        buf_puts(out, ",\"examples\":");
        buf_append(out, ctx->examples.data, ctx->examples.len);
    }
    buf_puts(out, "}}");
}

void api_models(const api_context *ctx, buf *out) {
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    write_model(ctx, out);
    buf_puts(out, "]}");
}

int api_model(const api_context *ctx, const char *id, buf *out, err *e) {
    if (api__check_model(ctx, id, e) != 0) return -1;
    write_model(ctx, out);
    return 0;
}

int api__read_model(const api_context *ctx, const json_t *root, const char **out, err *e) {
    const json_t *model = json_object_get(root, "model");
    *out = json_c_string(model);
    if (model && !json_is_null(model) && !json_is_string(model))
        return err_set(e, ERR_BAD_PARAM, "model", "model must be a string");
    if (json_is_string(model) && *out == NULL)
        return api__bad_param(e, "model", "may not contain U+0000");
    return api__check_model(ctx, *out, e);
}
