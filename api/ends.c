/* ends.c - collects the tokens that end an answer from the files beside the model.
 *
 * The end tokens of generation_config.json, of the tokenizer and of the chat template all count,
 * and so does the token before every text. config.json counts only if the first two have no end
 * token, because it is often copied from the base model. Ids outside the vocabulary, and values
 * that are no id, are dropped with a warning. */
#include "api/api_internal.h"
#include "base/log.h"

void api__add_end(api_context *ctx, uint32_t id, const char *file) {
    for (uint32_t i = 0; i < ctx->n_stop_ids; i++) {
        if (ctx->stop_ids[i] == id) return;
    }
    if (id >= ctx->plan->vocab_size) {
        log_line(LOG_WARN,
                 "%s: end token %u is outside the model's vocabulary of %u tokens; ignored", file,
                 id, ctx->plan->vocab_size);
    } else if (ctx->n_stop_ids == API__MAX_ENDS) {
        log_line(LOG_WARN, "%s: more than %d end tokens; %u is ignored", file, API__MAX_ENDS, id);
    } else {
        ctx->stop_ids[ctx->n_stop_ids++] = id;
    }
}

static void read_end(api_context *ctx, const json_t *value, const char *file) {
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (!json_is_number(value)) {
        log_line(LOG_WARN, "%s: eos_token_id must be a token id or a list of token ids; ignored",
                 file);
    } else if (n < 0 || n >= (json_int_t)ctx->plan->vocab_size) {
        log_line(LOG_WARN,
                 "%s: eos_token_id %.15g is outside the model's vocabulary of %u tokens; ignored",
                 file, json_number_value(value), ctx->plan->vocab_size);
    } else {
        api__add_end(ctx, (uint32_t)n, file);
    }
}

void api__read_ends(api_context *ctx, const json_t *eos, const char *file) {
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    if (eos == NULL || json_is_null(eos)) return;
    if (n > API__MAX_ENDS) {
        log_line(LOG_WARN, "%s: eos_token_id has %zu entries; only the first %d are used", file, n,
                 API__MAX_ENDS);
        n = API__MAX_ENDS;
    }
    for (size_t i = 0; i < n; i++)
        read_end(ctx, json_is_array(eos) ? json_array_get(eos, i) : eos, file);
}

void api__add_config_ends(api_context *ctx) {
    const tokenizer *tok = ctx->opts.tokenizer;
    bool silent = ctx->n_stop_ids == 0; /* no file before this one has an end token */
    for (uint32_t i = 0; i < ctx->plan->n_eos; i++) {
        uint32_t id = ctx->plan->eos_ids[i];
        if (tok && !tokenizer_is_control(tok, id)) {
            log_line(LOG_WARN,
                     "config.json: eos_token_id %u is not a control token of the tokenizer", id);
        }
        if (silent) api__add_end(ctx, id, "config.json");
    }
}
