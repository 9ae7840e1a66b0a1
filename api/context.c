/* context.c - reads the files beside the model: generation_config.json (end tokens, sampling
 * defaults), tokenizer_config.json (chat template, end token), config.json (end tokens),
 * examples.json (examples.c). */
#include "api/request_internal.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/model_json.h"
#include "base/size.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    MAX_CONFIG_BYTES = 4 << 20,
    MAX_GRAMMARS = 512,           /* compiled schemas kept for later requests */
    MAX_GRAMMAR_BYTES = 16 << 20, /* of all of them */
};

static const json_limits config_limits = {MAX_CONFIG_BYTES, 64, 200000};

int api__out_of_memory(err *e) {
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
}

bool api__file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

int api__read_config(json_t **out, const char *dir, const char *file, err *e) {
    *out = NULL;
    buf path = {0}, text = {0};
    err why = {0};
    int rc = 0;
    buf_printf(&path, "%s/%s", dir, file);
    if (path.failed) rc = api__out_of_memory(e);
    else if (api__file_exists(path.data)) rc = file_read(&text, path.data, MAX_CONFIG_BYTES, e);
    if (rc == 0 && text.data &&
        model_json_parse(out, text.data, text.len, &config_limits, file, &why) != 0) {
        if (why.code == ERR_NO_MEMORY) rc = api__out_of_memory(e);
        else log_line(LOG_WARN, "%s; the file is ignored", why.msg);
    }
    if (*out && !json_is_object(*out)) {
        log_line(LOG_WARN, "%s: must be a JSON object; the file is ignored", file);
        json_decref(*out);
        *out = NULL;
    }
    buf_deinit(&path);
    buf_deinit(&text);
    return rc;
}

/* The range of the request's field holds here too, so it is taken from the same table. */
static void read_default(api_context *ctx, const json_t *root, const char *name, float *out) {
    const json_t *value = json_object_get(root, name);
    ctx->own_sampling |= value != NULL;
    double x = (double)*out;
    for (size_t i = 0; i < api__n_shared_fields; i++) {
        const api__field *field = &api__shared_fields[i];
        err why = {0};
        if (strcmp(field->name, name) != 0) continue;
        if (api__read_num(value, name, field->min, field->above, field->max, &x, &why) == 0)
            *out = (float)x;
        else log_line(LOG_WARN, "generation_config.json: %s; the field is ignored", why.msg);
    }
}

static void read_top_k(api_context *ctx, const json_t *root) {
    int64_t top_k = 0;
    ctx->own_sampling |= json_object_get(root, "top_k") != NULL;
    err why = {0};
    if (api__read_int(json_object_get(root, "top_k"), "top_k", -1, INT32_MAX, &top_k, &why) != 0)
        log_line(LOG_WARN, "generation_config.json: %s; the field is ignored", why.msg);
    else if (top_k > 0 && top_k < ctx->plan->vocab_size) ctx->defaults.top_k = (uint32_t)top_k;
}

static int read_generation(api_context *ctx, err *e) {
    json_t *root;
    if (api__read_config(&root, ctx->opts.model_dir, "generation_config.json", e) != 0) return -1;
    api__read_ends(ctx, json_object_get(root, "eos_token_id"), "generation_config.json");
    read_default(ctx, root, "temperature", &ctx->defaults.temperature);
    read_default(ctx, root, "top_p", &ctx->defaults.top_p);
    read_default(ctx, root, "min_p", &ctx->defaults.min_p);
    read_default(ctx, root, "repetition_penalty", &ctx->defaults.repetition_penalty);
    read_top_k(ctx, root);
    api__settle_top_p(&ctx->defaults);
    json_decref(root);
    return 0;
}

/* A token is written as "text" or as {"content": "text", …}. */
static const char *token_text(const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* Reads the end token and the first token (BOS) of the tokenizer. */
static void read_tokens(api_context *ctx, const json_t *root) {
    const tokenizer *tok = ctx->opts.tokenizer;
    const char *eos = token_text(root, "eos_token"), *bos = token_text(root, "bos_token");
    uint32_t id;
    if (eos && tokenizer_find(tok, eos, &id)) api__add_end(ctx, id, "tokenizer_config.json");
    /* add_bos_token decides if it is present; otherwise the template of tokenizer.json does. */
    const json_t *add_bos = json_object_get(root, "add_bos_token");
    if (json_is_boolean(add_bos))
        ctx->add_bos = json_is_true(add_bos) && bos && tokenizer_find(tok, bos, &ctx->bos_id);
    else ctx->add_bos = tokenizer_bos(tok, &ctx->bos_id);
    if (ctx->add_bos && ctx->bos_id >= ctx->plan->vocab_size) {
        log_line(
            LOG_WARN,
            "tokenizer_config.json: the first token %u is outside the model's vocabulary; ignored",
            ctx->bos_id);
        ctx->add_bos = false;
    }
}

/* End tokens are added in the order of ends.c: config.json after the tokenizer and before the
 * template; last the token before every text, because an answer ends where the next text begins.
 * The template is opened first, because it tells which tokens are control tokens. */
static int read_files(api_context *ctx, err *e) {
    json_t *root = NULL;
    const char *dir = ctx->opts.model_dir;
    bool text = ctx->opts.tokenizer != NULL;
    uint32_t n = 0;
    if (read_generation(ctx, e) != 0 || api__read_examples(&ctx->examples, dir, e) != 0) return -1;
    if (text && api__read_config(&root, dir, "tokenizer_config.json", e) != 0) return -1;
    int rc = text ? api__template_open(&ctx->template, dir, ctx->opts.chat_template, root,
                                       ctx->opts.tokenizer, e)
                  : 0;
    if (rc == 0 && text) read_tokens(ctx, root);
    if (rc == 0) api__add_config_ends(ctx);
    const uint32_t *ends = ctx->template ? api__template_stops(ctx->template, &n) : NULL;
    for (uint32_t i = 0; i < n; i++)
        api__add_end(ctx, ends[i], "the chat template");
    if (rc == 0 && ctx->add_bos) api__add_end(ctx, ctx->bos_id, "the tokenizer's first token");
    json_decref(root);
    return rc;
}

/* The last name of a path, without trailing slashes. */
static char *folder_name(const char *path) {
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    return end > start ? strndup(path + start, end - start) : strdup("model");
}

static void fill_defaults(api_opts *opts, const model_plan *config) {
    if (opts->max_context == 0 || opts->max_context > config->max_seq_len)
        opts->max_context = config->max_seq_len;
    if (opts->default_max_tokens == 0) opts->default_max_tokens = 512;
    if (opts->max_n == 0) opts->max_n = 8;
    if (opts->max_prompts == 0) opts->max_prompts = 64;
    if (opts->ceiling_loops == 0) opts->ceiling_loops = config->loops_default;
    if (opts->ceiling_loops > PLAN_MAX_LOOPS) opts->ceiling_loops = PLAN_MAX_LOOPS;
    if (!opts->own_run) {
        opts->default_loops = config->loops_default;
        opts->halted_kv = config->halted_kv;
        opts->exit = config->exit;
        opts->threshold = config->exit_threshold;
    }
    if (opts->max_body_bytes == 0) opts->max_body_bytes = 2 << 20;
    if (opts->max_request_tokens == 0) {
        opts->max_request_tokens =
            (uint64_t)opts->max_context *
            (opts->max_n > opts->max_prompts ? opts->max_n : opts->max_prompts);
    }
}

/* The same for every process with this program and model. */
static void make_fingerprint(api_context *ctx) {
    const uint64_t sizes[] = {model_params(ctx->opts.model), model_bytes(ctx->opts.model),
                              ctx->plan->vocab_size, ctx->plan->dim, ctx->plan->loops_default};
    uint64_t hash = hash_fnv(HASH_FNV_START, FATHOM_VERSION, sizeof FATHOM_VERSION);
    hash = hash_fnv(hash, ctx->name, strlen(ctx->name));
    hash = hash_fnv(hash, sizes, sizeof sizes);
    (void)snprintf(ctx->fingerprint, sizeof ctx->fingerprint, "fp_%016llx",
                   (unsigned long long)hash);
}

int api_context_open(api_context **out, const api_opts *opts, err *e) {
    *out = NULL;
    api_context *ctx = calloc(1, sizeof *ctx);
    if (ctx == NULL) return api__out_of_memory(e);
    ctx->opts = *opts;
    ctx->plan = model_plan_of(opts->model);
    fill_defaults(&ctx->opts, ctx->plan);
    if (ctx->opts.model_dir == NULL) ctx->opts.model_dir = model_dir(opts->model);
    ctx->defaults = (eng_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    ctx->created = clock_unix_s();
    if (getrandom(ctx->hash_key, sizeof ctx->hash_key, 0) != (ssize_t)sizeof ctx->hash_key) {
        err_set(e, ERR_IO, NULL, "the system provides no random bytes");
        goto fail;
    }
    ctx->name = opts->served_name ? strdup(opts->served_name) : folder_name(ctx->opts.model_dir);
    ctx->stop_ids = array_new(API__MAX_ENDS, sizeof *ctx->stop_ids);
    if (opts->no_tokenizer) ctx->no_tokenizer = strdup(opts->no_tokenizer);
    if (ctx->name == NULL || ctx->stop_ids == NULL || (opts->no_tokenizer && !ctx->no_tokenizer)) {
        api__out_of_memory(e);
        goto fail;
    }
    make_fingerprint(ctx);
    if (read_files(ctx, e) != 0) goto fail;
    if (ctx->opts.tokenizer && ctx->n_stop_ids > 0 &&
        (api__vocab_open(&ctx->vocab, ctx->opts.tokenizer, ctx->plan->vocab_size, e) != 0 ||
         api__grammar_cache_open(&ctx->grammars, ctx->hash_key, MAX_GRAMMARS, MAX_GRAMMAR_BYTES,
                                 e) != 0)) {
        goto fail;
    }
    ctx->opts.model_dir = NULL; /* the caller's string, read during open only */
    ctx->opts.no_tokenizer = ctx->no_tokenizer;
    ctx->opts.chat_template = NULL;
    ctx->opts.served_name = ctx->name;
    *out = ctx;
    return 0;
fail:
    api_context_close(ctx);
    return -1;
}

void api_context_close(api_context *ctx) {
    if (ctx == NULL) return;
    api__template_close(ctx->template);
    api__grammar_cache_close(ctx->grammars);
    api__vocab_close(ctx->vocab);
    free(ctx->stop_ids);
    free(ctx->name);
    free(ctx->no_tokenizer);
    buf_deinit(&ctx->examples);
    free(ctx);
}

const char *api_model_name(const api_context *ctx) {
    return ctx->name;
}

bool api_sampling(const api_context *ctx, eng_sampling *out) {
    *out = ctx->defaults;
    return ctx->own_sampling;
}

const char *api_chat_template(const api_context *ctx, const char **why) {
    *why = ctx->template ? api__template_broken(ctx->template) : NULL;
    return ctx->template && *why == NULL ? api__template_name(ctx->template) : NULL;
}

const uint32_t *api_stop_ids(const api_context *ctx, uint32_t *n) {
    *n = ctx->n_stop_ids;
    return ctx->stop_ids;
}
