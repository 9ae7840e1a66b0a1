/* parse.c - turns a body into a checked request. */
#include "api/dialect_internal.h"
#include "base/hash.h"

#include <float.h>
#include <stdlib.h>
#include <sys/random.h>

int api__body(json_t **out, const api_context *ctx, const char *body, size_t n, err *e) {
    json_limits limits = {ctx->opts.max_body_bytes, API__MAX_DEPTH, API__MAX_STRUCTURAL};
    if (json_parse_body(out, body ? body : "", body ? n : 0, &limits, "request body", e) != 0)
        return -1;
    if (json_is_object(*out)) return 0;
    json_decref(*out);
    *out = NULL;
    return err_set(e, ERR_BAD_PARAM, NULL, "request body: must be a JSON object");
}

int api__check_model(const api_context *ctx, const char *model, err *e) {
    if (model == NULL) return 0; /* optional, because only one model is served */
    for (const char *at = model; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return api__bad_param(e, "model", "may not contain control characters");
    }
    if (strcmp(model, ctx->name) == 0) return 0;
    return err_set(e, ERR_NOT_FOUND, "model",
                   "the model '%.128s' does not exist; this server has '%.128s'", model, ctx->name);
}

/* ---- sampling ---- */

static void take(float *out, double value) {
    if (!isnan(value)) *out = (float)value;
}

void api__settle_top_p(eng_sampling *sampling) {
    if (sampling->top_p > 0) return;
    sampling->top_k = 1;
    sampling->top_p = 1;
}

/* A decimal number without sign or leading zeros; -1 for anything else. */
static int64_t id_of_key(const char *key) {
    int64_t id = 0;
    if (key[0] == 0 || (key[0] == '0' && key[1])) return -1;
    for (const char *at = key; *at; at++) {
        if (*at < '0' || *at > '9' || id > INT32_MAX) return -1;
        id = id * 10 + (*at - '0');
    }
    return id;
}

static int read_bias(api_request *req, const api_context *ctx, const json_t *map, err *e) {
    if (map == NULL) return 0;
    if (!json_is_object(map))
        return api__bad_param(e, "logit_bias", "must be an object that maps token ids to numbers");
    size_t n = json_object_size(map);
    if (n > API__MAX_BIAS) return api__bad_param(e, "logit_bias", "may have at most 300 entries");
    eng_bias *bias = arena_array(&req->mem, n, sizeof *bias);
    if (bias == NULL) return api__out_of_memory(e);
    size_t at = 0, banned = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value) {
        int64_t id = id_of_key(key);
        if (id < 0 || id >= ctx->plan->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "logit_bias",
                           "logit_bias: keys must be token ids between 0 and %u",
                           ctx->plan->vocab_size - 1);
        }
        double x;
        if (json_is_null(value) ||
            api__read_num(value, "logit_bias", -100, false, 100, &x, NULL) != 0) {
            return api__bad_param(e, "logit_bias", "must map to numbers between -100 and 100");
        }
        bias[at++] = (eng_bias){(uint32_t)id, (float)x};
        banned += x <= -100;
    }
    if (banned == ctx->plan->vocab_size)
        return api__bad_param(e, "logit_bias", "bans every token of the vocabulary");
    req->sampling.bias = bias;
    req->sampling.n_bias = (uint32_t)n;
    return 0;
}

static int read_sampling(api_request *req, const api_context *ctx, const api__values *fields,
                         err *e) {
    eng_sampling *sampling = &req->sampling;
    *sampling = ctx->defaults;
    take(&sampling->temperature, fields->temperature);
    take(&sampling->top_p, fields->top_p);
    take(&sampling->min_p, fields->min_p);
    take(&sampling->frequency_penalty, fields->frequency_penalty);
    take(&sampling->presence_penalty, fields->presence_penalty);
    take(&sampling->repetition_penalty, fields->repetition_penalty);
    if (fields->top_k != API__NO_INT) {
        if (fields->top_k > ctx->plan->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "top_k",
                           "top_k may be at most %u, the size of the vocabulary",
                           ctx->plan->vocab_size);
        }
        sampling->top_k = fields->top_k > 0 ? (uint32_t)fields->top_k : 0;
    }
    api__settle_top_p(sampling);
    if (fields->seeded) sampling->seed = (uint64_t)fields->seed;
    else if (getrandom(&sampling->seed, sizeof sampling->seed, 0) !=
             (ssize_t)sizeof sampling->seed) {
        return err_set(e, ERR_IO, NULL, "the system provides no random bytes");
    }
    req->seeded = fields->seeded;
    if (read_bias(req, ctx, fields->logit_bias, e) != 0) return -1;
    return eng_sampling_check(sampling,
                              e); /* here rather than after the prompt has been computed */
}

/* ---- stopping ---- */

static int read_stop_strings(api_request *req, const api__values *fields, err *e) {
    const json_t *value = fields->stop;
    const char *param = fields->stop_field;
    size_t n = value == NULL ? 0 : json_is_array(value) ? json_array_size(value) : 1;
    if (value && !json_is_string(value) && !json_is_array(value))
        return api__bad_param(e, param, "must be a string or a list of strings");
    if (n > API__MAX_STOPS) return api__bad_param(e, param, "may have at most 16 entries");
    req->stops = arena_array(&req->mem, n, sizeof *req->stops);
    if (req->stops == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        size_t len = json_string_length(one);
        if (!json_is_string(one)) return api__bad_param(e, param, "must contain only strings");
        if (len == 0) continue; /* clients write an unused stop string so */
        if (len > API__MAX_STOP_BYTES)
            return api__bad_param(e, param, "entries may have at most 256 bytes");
        if (json_c_string(one) == NULL) return api__bad_param(e, param, "may not contain U+0000");
        const char *text = arena_strndup(&req->mem, json_string_value(one), len);
        if (text == NULL) return api__out_of_memory(e);
        api__stop_init(&req->stops[req->n_stops++], text, len);
    }
    return 0;
}

static int read_stop_ids(api_request *req, const api_context *ctx, const api__values *fields,
                         err *e) {
    size_t n = json_array_size(fields->stop_token_ids);
    if (fields->stop_token_ids && !json_is_array(fields->stop_token_ids)) {
        return api__bad_param(e, "stop_token_ids", "must be a list of token ids");
    }
    if (n > API__MAX_STOP_IDS)
        return api__bad_param(e, "stop_token_ids", "may have at most 16 entries");
    req->stop_ids = arena_array(&req->mem, n + ctx->n_stop_ids, sizeof *req->stop_ids);
    if (req->stop_ids == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        int64_t id = 0;
        const json_t *one = json_array_get(fields->stop_token_ids, i);
        if (json_is_null(one) ||
            api__read_int(one, "stop_token_ids", 0, (int64_t)ctx->plan->vocab_size - 1, &id,
                          NULL) != 0) {
            return err_set(e, ERR_BAD_PARAM, "stop_token_ids",
                           "stop_token_ids must be token ids between 0 and %u",
                           ctx->plan->vocab_size - 1);
        }
        req->stop_ids[req->n_stop_ids++] = (uint32_t)id;
    }
    req->n_own_stop_ids = req->n_stop_ids;
    for (uint32_t i = 0; i < ctx->n_stop_ids && !fields->ignore_eos; i++)
        req->stop_ids[req->n_stop_ids++] = ctx->stop_ids[i];
    return 0;
}

/* ---- depth ---- */

/* A fraction of the trained loops. depth.max_loops overrides it. */
static int read_effort(api_request *req, const api_context *ctx, const char *effort,
                       const char *param, err *e) {
    static const struct {
        const char *name;
        uint32_t quarters;
    } levels[] = {{"none", 0}, {"minimal", 1}, {"low", 2}, {"medium", 3},
                  {"high", 4}, {"xhigh", 4},   {"max", 4}};
    if (effort == NULL) return 0;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(levels[i].name, effort) != 0) continue;
        uint32_t loops = (ctx->plan->loops_default * levels[i].quarters + 3) / 4;
        if (loops > ctx->opts.ceiling_loops) loops = ctx->opts.ceiling_loops;
        if (loops < plan_loops_least(ctx->plan)) loops = plan_loops_least(ctx->plan);
        req->depth.max_loops = (uint16_t)loops;
        return 0;
    }
    return api__bad_param(e, param, "must be none, minimal, low, medium, high, xhigh or max");
}

static int read_loops(const api_context *ctx, const json_t *value, const char *param, int64_t *out,
                      err *e) {
    int64_t loops;
    if (api__integer(value, &loops) && plan_check_loops(ctx->plan, loops, param, e) != 0) return -1;
    return api__read_int(value, param, 1, ctx->opts.ceiling_loops, out, e);
}

/* The range of the threshold depends on the exit rule in use. */
static int read_threshold(const api_context *ctx, const json_t *value, float *out, err *e) {
    static const char param[] = "depth.threshold";
    double x = 0;
    *out = 0;
    if (value == NULL || json_is_null(value)) return 0;
    if (api__read_num(value, param, -INFINITY, false, INFINITY, &x, e) != 0) return -1;
    *out = x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : (float)x;
    *out = exit_rule_from_written(ctx->opts.exit, *out);
    return exit_rule_check(ctx->opts.exit, *out, param, e);
}

static int read_depth(api_request *req, const api_context *ctx, const api__values *fields, err *e) {
    int64_t min = 0, max = 0;
    if (read_effort(req, ctx, fields->reasoning_effort, fields->effort_field, e) != 0) return -1;
    if (fields->depth == NULL) return 0;
    if (!json_is_object(fields->depth)) return api__bad_param(e, "depth", "must be an object");
    const json_t *lo = json_object_get(fields->depth, "min_loops"),
                 *hi = json_object_get(fields->depth, "max_loops");
    if (read_loops(ctx, lo, "depth.min_loops", &min, e) != 0) return -1;
    if (read_loops(ctx, hi, "depth.max_loops", &max, e) != 0) return -1;
    if (read_threshold(ctx, json_object_get(fields->depth, "threshold"), &req->depth.threshold,
                       e) != 0)
        return -1;
    req->depth.min_loops = (uint16_t)min;
    if (max > 0) req->depth.max_loops = (uint16_t)max;
    uint32_t most = req->depth.max_loops ? req->depth.max_loops : ctx->opts.ceiling_loops;
    if ((uint32_t)min <= most) return 0;
    return err_set(e, ERR_BAD_PARAM, "depth.min_loops",
                   "depth.min_loops is %lld; this request runs at most %u loops", (long long)min,
                   most);
}

/* ---- output options ---- */

static int read_stream(api_request *req, const api__values *fields, err *e) {
    req->stream = fields->stream;
    if (fields->stream_options == NULL) return 0;
    if (!fields->stream) return api__bad_param(e, "stream_options", "requires stream: true");
    if (!json_is_object(fields->stream_options))
        return api__bad_param(e, "stream_options", "must be an object");
    const json_t *usage = json_object_get(fields->stream_options, "include_usage");
    const json_t *each = json_object_get(fields->stream_options, "continuous_usage_stats");
    const json_t *drafts = json_object_get(fields->stream_options, "include_drafts");
    if (api__read_bool(usage, "stream_options.include_usage", &req->include_usage, e) != 0 ||
        api__read_bool(each, "stream_options.continuous_usage_stats", &req->continuous_usage, e) !=
            0 ||
        api__read_bool(drafts, "stream_options.include_drafts", &req->include_drafts, e) != 0)
        return -1;
    if (!req->include_drafts || req->dialect->chunk_object) return 0;
    return err_set(e, ERR_UNSUPPORTED, "stream_options.include_drafts",
                   "stream_options.include_drafts is for completions and chat only");
}

static int read_logprobs(api_request *req, const api__values *fields, err *e) {
    req->logprobs = fields->logprobs;
    req->n_top = (uint32_t)fields->n_top;
    if (fields->prompt_logprobs == API__NO_INT) return 0;
    if (req->stream) return api__bad_param(e, "prompt_logprobs", "is not available with stream");
    req->prompt_logprobs = true;
    req->n_prompt_top = (uint32_t)fields->prompt_logprobs;
    return 0;
}

static int read_choices(api_request *req, const api_context *ctx, const api__values *fields,
                        err *e) {
    int64_t n = fields->n == API__NO_INT ? 1 : fields->n;
    if (n > ctx->opts.max_n) {
        return err_set(e, ERR_BAD_PARAM, "n", "n may be at most %u on this server",
                       ctx->opts.max_n);
    }
    if (fields->best_of != API__NO_INT && fields->best_of < n)
        return api__bad_param(e, "best_of", "may not be less than n");
    if (fields->best_of != API__NO_INT && fields->best_of > n) {
        return err_set(e, ERR_UNSUPPORTED, "best_of",
                       "best_of greater than n is not supported: answers are not ranked");
    }
    req->n_per_prompt = (uint32_t)n;
    return 0;
}

/* Per-token data stays in memory until the answer is written. A stream keeps the prompt's data
 * only, unless its last events repeat everything. */
static int check_scored(const api_request *req, uint64_t output, err *e) {
    bool prompt = req->prompt_logprobs || (req->echo && (req->logprobs || req->return_depth));
    uint64_t tops = req->n_top > req->n_prompt_top ? req->n_top : req->n_prompt_top;
    bool waits = req->logprobs && (!req->stream || req->dialect->keeps_tokens);
    uint64_t kept = (prompt ? req->prompt_tokens * req->n_per_prompt : 0) + (waits ? output : 0);
    if (kept * (tops + 1) <= API__MAX_SCORED) return 0;
    const char *field = req->prompt_logprobs ? "prompt_logprobs" : "logprobs";
    return err_set(e, ERR_BAD_PARAM, field,
                   "%s asks for %llu log-probabilities; one answer may have at most %d", field,
                   (unsigned long long)(kept * (tops + 1)), API__MAX_SCORED);
}

/* Cuts the limit of a prompt to the room that its context leaves. field: the field with the limit,
 * or NULL. */
static int limit_prompt(const api_context *ctx, api_request *req, api__prompt *prompt,
                        uint64_t limit, const char *field, err *e) {
    uint64_t context = ctx->opts.max_context,
             left = context > prompt->n_ids ? context - prompt->n_ids : 0;
    if (prompt->n_ids > context || (left == 0 && limit > 0))
        return api__too_long(ctx, prompt->n_ids, 0, req->dialect->input, e);
    if (limit > left && field && ctx->opts.refuse_long)
        return api__too_long(ctx, prompt->n_ids, limit, field, e);
    prompt->max_tokens = (uint32_t)(limit < left ? limit : left);
    req->prompt_tokens += prompt->n_ids;
    return 0;
}

/* Sets the token limit of each prompt; the prompts must have been read. */
static int read_limits(api_request *req, const api_context *ctx, const api__values *fields,
                       err *e) {
    const char *field = fields->limit_field;
    int64_t wish = fields->limit == -1 ? API__NO_INT : fields->limit; /* -1 is no limit elsewhere */
    bool named = wish != API__NO_INT;
    bool scores = req->echo || req->prompt_logprobs;
    if (wish == 0 && !scores)
        return api__bad_param(e, field, "must be at least 1 (0 only with echo or prompt_logprobs)");
    if (!named) {
        wish = req->dialect->max_tokens ? req->dialect->max_tokens : ctx->opts.default_max_tokens;
    }
    if (fields->min_tokens != API__NO_INT && fields->min_tokens > wish) {
        return err_set(e, ERR_BAD_PARAM, "min_tokens", "min_tokens may not exceed %s (%lld)", field,
                       (long long)wish);
    }
    if (fields->min_tokens != API__NO_INT) req->min_tokens = (uint32_t)fields->min_tokens;
    uint64_t all = 0;
    for (uint32_t i = 0; i < req->n_prompts; i++) {
        if (limit_prompt(ctx, req, &req->prompts[i], (uint64_t)wish, named ? field : NULL, e) != 0)
            return -1;
        all += req->prompts[i].max_tokens;
    }
    if (all * req->n_per_prompt <= ctx->opts.max_request_tokens)
        return check_scored(req, all * req->n_per_prompt, e);
    return err_set(e, ERR_BAD_PARAM, req->n_per_prompt > 1 ? "n" : field,
                   "this request could generate %llu tokens; one request may ask for at most %llu",
                   (unsigned long long)(all * req->n_per_prompt),
                   (unsigned long long)ctx->opts.max_request_tokens);
}

int api__too_long(const api_context *ctx, uint64_t n_prompt, uint64_t max_tokens, const char *param,
                  err *e) {
    if (e && e->code == ERR_NONE) {
        e->have = n_prompt;
        e->limit = ctx->opts.max_context;
    }
    if (max_tokens == 0) {
        return err_set(e, ERR_TOO_LONG, param,
                       "the maximum context length is %u tokens, but the prompt has %llu tokens%s: "
                       "it exceeds the available context size",
                       ctx->opts.max_context, (unsigned long long)n_prompt,
                       n_prompt == ctx->opts.max_context ? " and leaves no room for an answer"
                                                         : "");
    }
    return err_set(e, ERR_TOO_LONG, param,
                   "the maximum context length is %u tokens, but this request has %llu tokens in "
                   "the prompt and asks for %llu more: it exceeds the available context size",
                   ctx->opts.max_context, (unsigned long long)n_prompt,
                   (unsigned long long)max_tokens);
}

/* ---- labels ---- */

static bool label_ok(const char *text) {
    for (; *text; text++) {
        bool letter = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z');
        if (!letter && !(*text >= '0' && *text <= '9') && strchr("-_.:", *text) == NULL)
            return false;
    }
    return true;
}

static int read_labels(api_request *req, const api_context *ctx, const api__values *fields,
                       err *e) {
    req->has_priority = fields->priority != API__NO_INT;
    if (req->has_priority) req->priority = (int32_t)fields->priority;
    if (fields->cache_salt) {
        size_t n = strlen(fields->cache_salt);
        const char *at = fields->cache_salt;
        if (n == 0) return api__bad_param(e, "cache_salt", "may not be empty");
        /* A keyed hash: clients cannot construct two salts with the same value. 0, 0 means
         * shared. */
        req->salt[0] = hash_sip64(ctx->hash_key, at, n) | 1;
        req->salt[1] = hash_sip64(ctx->hash_key + 2, at, n);
    }
    if (fields->request_id == NULL || fields->request_id[0] == 0) return 0;
    if (!label_ok(fields->request_id)) {
        return api__bad_param(e, "request_id",
                              "may only contain letters, digits, '-', '_', '.' and ':'");
    }
    req->request_id = arena_strndup(&req->mem, fields->request_id, strlen(fields->request_id));
    return req->request_id ? 0 : api__out_of_memory(e);
}

void api__take_limit(api__values *values) {
    bool newer = values->max_completion_tokens != API__NO_INT;
    values->limit = newer ? values->max_completion_tokens : values->max_tokens;
    if (newer) values->limit_field = "max_completion_tokens";
}

/* ---- the whole request ---- */

static int read_values(api_request *req, const api_context *ctx, api__values *fields,
                       const json_t *root, err *e) {
    const api_dialect *dialect = req->dialect;
    if (api__read_fields(fields, dialect, root, e) != 0) return -1;
    if (api__check_model(ctx, fields->model, e) != 0) return -1;
    fields->seeded = api__member(root, "seed") != NULL;
    fields->limit = API__NO_INT;
    fields->limit_field = "max_tokens";
    fields->stop_field = "stop";
    fields->format_field = "response_format";
    fields->effort_field = "reasoning_effort";
    return dialect->prepare(req, ctx, fields, e);
}

/* 1: the template or the schema takes too much work for the loop thread. */
static int read_request(api_request *req, const api_context *ctx, const json_t *root, err *e) {
    const api_dialect *dialect = req->dialect;
    api__values *fields = arena_alloc(&req->mem, dialect->values_bytes);
    if (fields == NULL) return api__out_of_memory(e);
    if (read_values(req, ctx, fields, root, e) != 0) return -1;
    if (api__collect_warnings(req, root, e) != 0) return -1;
    req->echo = fields->echo;
    req->return_depth = fields->return_depth;
    req->return_ids = fields->return_token_ids ||
                      ctx->opts.tokenizer == NULL; /* the answer then consists of ids only */
    req->include_stop = fields->include_stop_str_in_output;
    if (read_sampling(req, ctx, fields, e) != 0 || read_stop_strings(req, fields, e) != 0)
        return -1;
    if (read_stop_ids(req, ctx, fields, e) != 0 || read_depth(req, ctx, fields, e) != 0) return -1;
    if (read_stream(req, fields, e) != 0 || read_logprobs(req, fields, e) != 0) return -1;
    if (read_choices(req, ctx, fields, e) != 0 || read_labels(req, ctx, fields, e) != 0) return -1;
    int rc = api__read_format(req, ctx, fields, e);
    if (rc == 0) rc = dialect->read_input(req, ctx, fields, e);
    if (rc != 0) return rc;
    if (dialect->finish && dialect->finish(req, fields, e) != 0) return -1;
    return read_limits(req, ctx, fields, e);
}

static int parse(api_request **out, const api_context *ctx, const api_dialect *dialect,
                 const char *body, size_t n, bool soon, err *e) {
    *out = NULL;
    json_t *root;
    if (api__body(&root, ctx, body, n, e) != 0) return -1;
    api_request *req = calloc(1, sizeof *req);
    int rc = req ? 0 : api__out_of_memory(e);
    if (req) {
        req->dialect = dialect;
        req->soon = soon;
        req->open_id = req->close_id = UINT32_MAX;
        /* One byte of text may be a token with an id of four bytes; texts are copied at most
         * three times. */
        arena_init(&req->mem, ctx->opts.max_body_bytes * 12 + (1 << 20));
        rc = read_request(req, ctx, root, e);
        json_decref(req->form);
        json_decref(req->made);
        req->form = req->made = NULL;
    }
    json_decref(root);
    if (rc == 0) *out = req;
    else api_request_destroy(req);
    return rc;
}

int api_parse(api_request **out, const api_context *ctx, const api_dialect *dialect,
              const char *body, size_t n, err *e) {
    return parse(out, ctx, dialect, body, n, false, e);
}

int api_parse_soon(api_request **out, const api_context *ctx, const api_dialect *dialect,
                   const char *body, size_t n, err *e) {
    return parse(out, ctx, dialect, body, n, true, e);
}

size_t api_request_bytes(const api_request *req) {
    return sizeof *req + req->mem.held + api__grammar_held(req->grammar);
}

void api_request_destroy(api_request *req) {
    if (req == NULL) return;
    api__grammar_release(req->grammar);
    arena_deinit(&req->mem);
    free(req);
}

bool api_wants_stream(const api_request *req) {
    return req->stream;
}

uint64_t api_prompt_tokens(const api_request *req) {
    return req->prompt_tokens;
}

bool api_wants_priority(const api_request *req, int32_t *priority) {
    *priority = req->priority;
    return req->has_priority;
}
