/* prompt.c - prompts of completions: text, token ids, or lists of either. */
#include "api/request_internal.h"
#include "base/size.h"

#include <stdlib.h>

int api__check_id(const api_context *ctx, const json_t *value, const char *param, uint32_t *out,
                  err *e) {
    int64_t id = 0;
    if (!api__integer(value, &id)) return api__bad_param(e, param, "must contain only integers");
    if (id < 0 || id >= (int64_t)ctx->plan->vocab_size) {
        return err_set(e, ERR_BAD_PARAM, param, "%s: token ids must be between 0 and %u", param,
                       ctx->plan->vocab_size - 1);
    }
    *out = (uint32_t)id;
    return 0;
}

static int ids_prompt(api_request *req, const api_context *ctx, const json_t *list,
                      api__prompt *prompt, err *e) {
    size_t n = json_array_size(list);
    if (n == 0) return api__bad_param(e, "prompt", "may not be empty");
    /* Counted before copying, so a list that is too long costs nothing. */
    if (n > ctx->opts.max_context) return api__too_long(ctx, n, 0, "prompt", e);
    prompt->ids = arena_array(&req->mem, n, sizeof *prompt->ids);
    if (prompt->ids == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        if (api__check_id(ctx, json_array_get(list, i), "prompt", &prompt->ids[i], e) != 0)
            return -1;
        if (ctx->opts.tokenizer && !ctx->opts.control_ids &&
            tokenizer_is_control(ctx->opts.tokenizer, prompt->ids[i])) {
            return err_set(e, ERR_BAD_PARAM, "prompt",
                           "prompt: token %u is a control token; start the server with "
                           "--control-ids to allow it",
                           prompt->ids[i]);
        }
    }
    prompt->n_ids = (uint32_t)n;
    return 0;
}

int api__keep_ids(api_request *req, const api_context *ctx, const token_ids *ids,
                  api__prompt *prompt, const char *param, err *e) {
    if (ids->n == 0) return api__bad_param(e, param, "must have at least one token");
    if (ids->n > ctx->opts.max_context) return api__too_long(ctx, ids->n, 0, param, e);
    prompt->ids = arena_array(&req->mem, ids->n, sizeof *prompt->ids);
    if (prompt->ids == NULL) return api__out_of_memory(e);
    memcpy(prompt->ids, ids->data, ids->n * sizeof *prompt->ids);
    prompt->n_ids = (uint32_t)ids->n;
    return 0;
}

static int text_prompt(api_request *req, const api_context *ctx, const json_t *text,
                       api__prompt *prompt, err *e) {
    size_t n = json_string_length(text);
    if (n == 0) return api__bad_param(e, "prompt", "may not be empty");
    if (ctx->opts.tokenizer == NULL) {
        return api__no_tokenizer(ctx, "prompt", "prompts must be token ids", e);
    }
    token_ids ids = {0};
    int rc = api__encode(ctx, json_string_value(text), n, ctx->add_bos, ctx->opts.special_tokens,
                         SIZE_MAX, &ids, e);
    if (rc == 0) rc = api__keep_ids(req, ctx, &ids, prompt, "prompt", e);
    token_ids_deinit(&ids);
    return rc;
}

int api__no_tokenizer(const api_context *ctx, const char *param, const char *use, err *e) {
    const char *why = ctx->opts.no_tokenizer;
    return err_set(e, ERR_UNSUPPORTED, param, "this model has no tokenizer%s%s%s: %s",
                   why ? " (" : "", why ? why : "", why ? ")" : "", use);
}

/* True if the text already begins with the first token (BOS). */
static bool spells_bos(const api_context *ctx, const char *text, size_t n) {
    size_t len = 0;
    const char *bos = tokenizer_bytes(ctx->opts.tokenizer, ctx->bos_id, &len);
    return len > 0 && len <= n && memcmp(text, bos, len) == 0;
}

int api__encode(const api_context *ctx, const char *text, size_t n, bool bos, bool special,
                size_t max_ids, token_ids *out, err *e) {
    if (bos && !(special && spells_bos(ctx, text, n))) {
        if (api__push_id(out, ctx->bos_id, e) != 0) return -1;
        if (max_ids != SIZE_MAX) max_ids--;
    }
    return tokenizer_encode(ctx->opts.tokenizer, text, n, special, max_ids, out, e);
}

int api__push_id(token_ids *ids, uint32_t id, err *e) {
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64, bytes;
        uint32_t *data = size_mul(cap, sizeof *data, &bytes) ? realloc(ids->data, bytes) : NULL;
        if (data == NULL) return api__out_of_memory(e);
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->n++] = id;
    return 0;
}

int api_prompt_ids(const api_context *ctx, const char *text, size_t n, token_ids *out, err *e) {
    return api__encode(ctx, text, n, ctx->add_bos, true, SIZE_MAX, out, e);
}

int api__read_prompts(api_request *req, const api_context *ctx, const json_t *prompt, err *e) {
    if (prompt == NULL) return api__bad_param(e, "prompt", "is missing");
    if (!json_is_string(prompt) && !json_is_array(prompt)) {
        return api__bad_param(
            e, "prompt",
            "must be a string, a list of strings, of token ids, or of lists of token ids");
    }
    const json_t *first = json_array_get(prompt, 0);
    if (json_is_array(prompt) && first == NULL)
        return api__bad_param(e, "prompt", "may not be empty");
    bool many = json_is_array(first) || json_is_string(first);
    size_t n = many ? json_array_size(prompt) : 1;
    if (n > ctx->opts.max_prompts) {
        return err_set(e, ERR_BAD_PARAM, "prompt", "prompt may be a list of at most %u prompts",
                       ctx->opts.max_prompts);
    }
    req->prompts = arena_array(&req->mem, n, sizeof *req->prompts);
    if (req->prompts == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = many ? json_array_get(prompt, i) : prompt;
        if (many && json_typeof(one) != json_typeof(first)) {
            return api__bad_param(e, "prompt", "may not mix texts and token ids");
        }
        int rc = json_is_string(one) ? text_prompt(req, ctx, one, &req->prompts[i], e)
                                     : ids_prompt(req, ctx, one, &req->prompts[i], e);
        if (rc != 0) return -1;
    }
    req->n_prompts = (uint32_t)n;
    return 0;
}
