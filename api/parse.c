/* parse.c - a body becomes a checked request. */
#include "api/api_internal.h"
#include "base/hash.h"

#include <float.h>
#include <stdlib.h>
#include <sys/random.h>

int api__body(json_t **out, const api_context *c, const char *body, size_t n, err *e) {
    json_limits limits = {c->opts.max_body_bytes, API__MAX_DEPTH, API__MAX_STRUCTURAL};
    if (json_parse_nul(out, body ? body : "", body ? n : 0, &limits, "request body", e) != 0)
        return -1;
    if (json_is_object(*out)) return 0;
    json_decref(*out);
    *out = NULL;
    return err_set(e, ERR_BAD_PARAM, NULL, "request body: must be a JSON object");
}

int api__check_model(const api_context *c, const char *model, err *e) {
    if (model == NULL) return 0; /* one model is served, so leaving its name out is clear */
    for (const char *s = model; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return api__bad_param(e, "model", "may not hold control characters");
    }
    if (strcmp(model, c->name) == 0) return 0;
    return err_set(e, ERR_NOT_FOUND, "model",
                   "the model '%.128s' does not exist; this server has '%.128s'", model, c->name);
}

/* ---- sampling ---- */

static void take(float *out, double v) {
    if (!isnan(v)) *out = (float)v;
}

/* Decimal, without sign or leading zeros; -1 for anything else. */
static int64_t id_of_key(const char *key) {
    int64_t id = 0;
    if (key[0] == 0 || (key[0] == '0' && key[1])) return -1;
    for (const char *s = key; *s; s++) {
        if (*s < '0' || *s > '9' || id > INT32_MAX) return -1;
        id = id * 10 + (*s - '0');
    }
    return id;
}

static int read_bias(api_request *r, const api_context *c, const json_t *v, err *e) {
    if (v == NULL) return 0;
    if (!json_is_object(v))
        return api__bad_param(e, "logit_bias", "must be an object of token ids to numbers");
    size_t n = json_object_size(v);
    if (n > API__MAX_BIAS) return api__bad_param(e, "logit_bias", "may have at most 300 entries");
    eng_bias *bias = arena_array(&r->mem, n, sizeof *bias);
    if (bias == NULL) return api__out_of_memory(e);
    size_t at = 0, banned = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value) {
        int64_t id = id_of_key(key);
        if (id < 0 || id >= c->config->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "logit_bias",
                           "logit_bias: keys must be token ids from 0 to %u",
                           c->config->vocab_size - 1);
        }
        double x;
        if (json_is_null(value) ||
            api__read_num(value, "logit_bias", -100, false, 100, &x, NULL) != 0) {
            return api__bad_param(e, "logit_bias", "must map to numbers between -100 and 100");
        }
        bias[at++] = (eng_bias){(uint32_t)id, (float)x};
        banned += x <= -100;
    }
    if (banned == c->config->vocab_size)
        return api__bad_param(e, "logit_bias", "leaves no token to choose");
    r->sampling.bias = bias;
    r->sampling.n_bias = (uint32_t)n;
    return 0;
}

static int read_sampling(api_request *r, const api_context *c, const api__values *v, err *e) {
    eng_sampling *s = &r->sampling;
    *s = c->defaults;
    take(&s->temperature, v->temperature);
    take(&s->top_p, v->top_p);
    take(&s->min_p, v->min_p);
    take(&s->frequency_penalty, v->frequency_penalty);
    take(&s->presence_penalty, v->presence_penalty);
    take(&s->repetition_penalty, v->repetition_penalty);
    if (v->top_k != API__NO_INT) {
        if (v->top_k > c->config->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "top_k", "top_k may be at most %u, the vocabulary",
                           c->config->vocab_size);
        }
        s->top_k = v->top_k > 0 ? (uint32_t)v->top_k : 0;
    }
    if (v->seeded) s->seed = (uint64_t)v->seed;
    else if (getrandom(&s->seed, sizeof s->seed, 0) != (ssize_t)sizeof s->seed) {
        return err_set(e, ERR_IO, NULL, "the system gives no random bytes");
    }
    r->seeded = v->seeded;
    if (read_bias(r, c, v->logit_bias, e) != 0) return -1;
    return eng_sampling_check(s, e); /* now, and not after a prefill */
}

/* ---- stopping ---- */

static int read_stop_strings(api_request *r, const json_t *v, err *e) {
    size_t n = v == NULL ? 0 : json_is_array(v) ? json_array_size(v) : 1;
    if (v && !json_is_string(v) && !json_is_array(v))
        return api__bad_param(e, "stop", "must be a string or a list of strings");
    if (n > API__MAX_STOPS) return api__bad_param(e, "stop", "may have at most 4 entries");
    r->stops = arena_array(&r->mem, n, sizeof *r->stops);
    if (r->stops == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
        size_t len = json_string_length(one);
        if (!json_is_string(one)) return api__bad_param(e, "stop", "must hold strings only");
        if (len == 0 || len > API__MAX_STOP_BYTES)
            return api__bad_param(e, "stop", "entries must have 1 to 64 bytes");
        if (json_c_string(one) == NULL) return api__bad_param(e, "stop", "may not hold U+0000");
        const char *text = arena_strndup(&r->mem, json_string_value(one), len);
        if (text == NULL) return api__out_of_memory(e);
        api__stop_init(&r->stops[r->n_stops++], text, len);
    }
    return 0;
}

static int read_stop_ids(api_request *r, const api_context *c, const api__values *v, err *e) {
    size_t n = json_array_size(v->stop_token_ids);
    if (v->stop_token_ids && !json_is_array(v->stop_token_ids)) {
        return api__bad_param(e, "stop_token_ids", "must be a list of token ids");
    }
    if (n > API__MAX_STOP_IDS)
        return api__bad_param(e, "stop_token_ids", "may have at most 16 entries");
    r->stop_ids = arena_array(&r->mem, n + c->n_stop_ids, sizeof *r->stop_ids);
    if (r->stop_ids == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        int64_t id = 0;
        const json_t *one = json_array_get(v->stop_token_ids, i);
        if (json_is_null(one) ||
            api__read_int(one, "stop_token_ids", 0, (int64_t)c->config->vocab_size - 1, &id,
                          NULL) != 0) {
            return err_set(e, ERR_BAD_PARAM, "stop_token_ids",
                           "stop_token_ids must be token ids from 0 to %u",
                           c->config->vocab_size - 1);
        }
        r->stop_ids[r->n_stop_ids++] = (uint32_t)id;
    }
    r->n_own_stop_ids = r->n_stop_ids;
    for (uint32_t i = 0; i < c->n_stop_ids && !v->ignore_eos; i++)
        r->stop_ids[r->n_stop_ids++] = c->stop_ids[i];
    return 0;
}

/* ---- depth ---- */

/* A share of the loops the model was trained for; depth.max_loops says it exactly and wins. */
static int read_effort(api_request *r, const api_context *c, const char *effort, const char *param,
                       err *e) {
    static const struct {
        const char *name;
        uint32_t quarters;
    } levels[] = {{"minimal", 1}, {"low", 2}, {"medium", 3}, {"high", 4}};
    if (effort == NULL) return 0;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(levels[i].name, effort) != 0) continue;
        uint32_t loops = (c->config->loops_default * levels[i].quarters + 3) / 4;
        r->depth.max_loops =
            (uint16_t)(loops < c->opts.ceiling_loops ? loops : c->opts.ceiling_loops);
        return 0;
    }
    return api__bad_param(e, param, "must be minimal, low, medium or high");
}

static int read_loops(const api_context *c, const json_t *v, const char *param, int64_t *out,
                      err *e) {
    uint32_t cap = c->config->loops_cap;
    if (json_is_integer(v) && cap && json_integer_value(v) > cap) {
        return err_set(e, ERR_BAD_PARAM, param, "%s is %lld; %s models run 1 to %u loops", param,
                       (long long)json_integer_value(v), plan_family_name(c->config), cap);
    }
    return api__read_int(v, param, 1, c->opts.ceiling_loops, out, e);
}

/* The range is that of the rule by which this server's model leaves the loop. */
static int read_threshold(const api_context *c, const json_t *v, float *out, err *e) {
    static const char param[] = "depth.threshold";
    double x = 0;
    *out = 0;
    if (v == NULL || json_is_null(v)) return 0;
    if (api__read_num(v, param, -INFINITY, false, INFINITY, &x, e) != 0) return -1;
    *out = x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : (float)x;
    return exit_rule_check(c->opts.exit, *out, param, e);
}

static int read_depth(api_request *r, const api_context *c, const api__values *v, err *e) {
    int64_t min = 0, max = 0;
    const char *effort = v->reasoning ? "reasoning.effort" : "reasoning_effort";
    if (read_effort(r, c, v->reasoning_effort, effort, e) != 0) return -1;
    if (v->depth == NULL) return 0;
    if (!json_is_object(v->depth)) return api__bad_param(e, "depth", "must be an object");
    const json_t *lo = json_object_get(v->depth, "min_loops"),
                 *hi = json_object_get(v->depth, "max_loops");
    if (read_loops(c, lo, "depth.min_loops", &min, e) != 0) return -1;
    if (read_loops(c, hi, "depth.max_loops", &max, e) != 0) return -1;
    if (read_threshold(c, json_object_get(v->depth, "threshold"), &r->depth.threshold, e) != 0)
        return -1;
    r->depth.min_loops = (uint16_t)min;
    if (max > 0) r->depth.max_loops = (uint16_t)max;
    uint32_t most = r->depth.max_loops ? r->depth.max_loops : c->opts.ceiling_loops;
    if ((uint32_t)min <= most) return 0;
    return err_set(e, ERR_BAD_PARAM, "depth.min_loops",
                   "depth.min_loops is %lld; this request runs at most %u loops", (long long)min,
                   most);
}

/* ---- what is sent back ---- */

static int read_stream(api_request *r, const api__values *v, err *e) {
    r->stream = v->stream;
    if (v->stream_options == NULL) return 0;
    if (!v->stream) return api__bad_param(e, "stream_options", "needs stream to be true");
    if (!json_is_object(v->stream_options))
        return api__bad_param(e, "stream_options", "must be an object");
    const json_t *usage = json_object_get(v->stream_options, "include_usage");
    const json_t *each = json_object_get(v->stream_options, "continuous_usage_stats");
    if (api__read_bool(usage, "stream_options.include_usage", &r->include_usage, e) != 0) return -1;
    return api__read_bool(each, "stream_options.continuous_usage_stats", &r->continuous_usage, e);
}

static int read_logprobs(api_request *r, const api__values *v, err *e) {
    int64_t top = v->top_logprobs;
    if (r->kind == API_COMPLETION) {
        r->logprobs = v->logprobs != API__NO_INT;
        top = r->logprobs ? v->logprobs : 0;
    } else {
        r->logprobs = v->chat_logprobs; /* responses: by include, or by asking for the top ones */
        if (top != API__NO_INT && !r->logprobs)
            return api__bad_param(e, "top_logprobs", "needs logprobs to be true");
        if (top == API__NO_INT) top = 0;
    }
    r->n_top = (uint32_t)top;
    if (v->prompt_logprobs == API__NO_INT) return 0;
    if (r->stream) return api__bad_param(e, "prompt_logprobs", "is not available with stream");
    r->prompt_logprobs = true;
    r->n_prompt_top = (uint32_t)v->prompt_logprobs;
    return 0;
}

static int read_choices(api_request *r, const api_context *c, const api__values *v, err *e) {
    int64_t n = v->n == API__NO_INT ? 1 : v->n;
    if (n > c->opts.max_n) {
        return err_set(e, ERR_BAD_PARAM, "n", "n may be at most %u here", c->opts.max_n);
    }
    if (v->best_of != API__NO_INT && v->best_of < n)
        return api__bad_param(e, "best_of", "may not be below n");
    if (v->best_of != API__NO_INT && v->best_of > n) {
        return err_set(
            e, ERR_UNSUPPORTED, "best_of",
            "best_of above n is not supported: answers are not ranked here; ask for n and choose");
    }
    r->n = (uint32_t)n;
    return 0;
}

static const char *token_limit_field(api_kind kind, const api__values *v) {
    if (kind == API_RESPONSES) return "max_output_tokens";
    return v->max_completion_tokens != API__NO_INT ? "max_completion_tokens" : "max_tokens";
}

/* What is told of single tokens waits in memory until the answer is written; of a stream only
 * the prompt's, but that of a response, whose last events repeat it all. */
static int check_scored(const api_request *r, uint64_t output, err *e) {
    bool prompt = r->prompt_logprobs || (r->echo && (r->logprobs || r->return_depth));
    uint64_t tops = r->n_top > r->n_prompt_top ? r->n_top : r->n_prompt_top;
    bool waits = r->logprobs && (!r->stream || r->kind == API_RESPONSES);
    uint64_t kept = (prompt ? r->prompt_tokens * r->n : 0) + (waits ? output : 0);
    if (kept * (tops + 1) <= API__MAX_SCORED) return 0;
    const char *field = r->prompt_logprobs ? "prompt_logprobs" : "logprobs";
    return err_set(e, ERR_BAD_PARAM, field,
                   "%s asks for %llu log-probabilities; one answer may hold %d", field,
                   (unsigned long long)(kept * (tops + 1)), API__MAX_SCORED);
}

/* How many tokens may be generated for each prompt; needs the prompts. */
static int read_limits(api_request *r, const api_context *c, const api__values *v, err *e) {
    const char *field = token_limit_field(r->kind, v);
    static const char *const inputs[] = {"prompt", "messages", "input"}; /* by api_kind */
    const char *prompt = inputs[r->kind];
    int64_t wish =
        v->max_completion_tokens != API__NO_INT ? v->max_completion_tokens : v->max_tokens;
    bool named = wish != API__NO_INT;
    bool scores = (r->echo && r->kind == API_COMPLETION) || r->prompt_logprobs;
    if (wish == 0 && !scores)
        return api__bad_param(e, field, "must be at least 1 (0 only with echo or prompt_logprobs)");
    if (!named) wish = r->kind == API_COMPLETION ? 16 : c->opts.default_max_tokens;
    uint64_t all = 0, context = c->opts.max_context;
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        api__prompt *p = &r->prompts[i];
        uint64_t left = context > p->n ? context - p->n : 0, max = (uint64_t)wish;
        if (p->n > context || (left == 0 && max > 0))
            return api__too_long(c, p->n, named ? max : 0, prompt, e);
        if (max > left && named) return api__too_long(c, p->n, max, field, e);
        p->max_tokens = (uint32_t)(max < left ? max : left);
        all += p->max_tokens;
        r->prompt_tokens += p->n;
        if (v->min_tokens != API__NO_INT && v->min_tokens > p->max_tokens) {
            return err_set(e, ERR_BAD_PARAM, "min_tokens",
                           "min_tokens may not exceed max_tokens (%u)", p->max_tokens);
        }
    }
    if (v->min_tokens != API__NO_INT) r->min_tokens = (uint32_t)v->min_tokens;
    if (all * r->n <= c->opts.max_request_tokens) return check_scored(r, all * r->n, e);
    return err_set(e, ERR_BAD_PARAM, r->n > 1 ? "n" : field,
                   "this request could generate %llu tokens; one request may ask for %llu",
                   (unsigned long long)(all * r->n),
                   (unsigned long long)c->opts.max_request_tokens);
}

int api__too_long(const api_context *c, uint64_t n_prompt, uint64_t max_tokens, const char *param,
                  err *e) {
    if (e && e->code == ERR_NONE) {
        e->have = n_prompt;
        e->limit = c->opts.max_context;
    }
    return err_set(e, ERR_TOO_LONG, param,
                   "the maximum context length is %u tokens, but this request has %llu in the "
                   "prompt and asks for "
                   "%llu more: it exceeds the available context size",
                   c->opts.max_context, (unsigned long long)n_prompt,
                   (unsigned long long)max_tokens);
}

/* ---- labels ---- */

static bool label_ok(const char *s) {
    for (; *s; s++) {
        bool letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z');
        if (!letter && !(*s >= '0' && *s <= '9') && strchr("-_.:", *s) == NULL) return false;
    }
    return true;
}

static int read_labels(api_request *r, const api_context *c, const api__values *v, err *e) {
    r->has_priority = v->priority != API__NO_INT;
    if (r->has_priority) r->priority = (int32_t)v->priority;
    if (v->cache_salt) {
        size_t n = strlen(v->cache_salt);
        const char *s = v->cache_salt;
        if (n == 0) return api__bad_param(e, "cache_salt", "may not be empty");
        /* Keyed: nobody can make two salts meet. 0,0 means shared. */
        r->salt[0] = hash_sip64(c->hash_key, s, n) | 1;
        r->salt[1] = hash_sip64(c->hash_key + 2, s, n);
    }
    if (v->request_id == NULL || v->request_id[0] == 0) return 0;
    if (!label_ok(v->request_id)) {
        return api__bad_param(e, "request_id",
                              "may hold letters, digits, '-', '_', '.' and ':' only");
    }
    r->request_id = arena_strndup(&r->mem, v->request_id, strlen(v->request_id));
    return r->request_id ? 0 : api__out_of_memory(e);
}

static int refuse_unsupported(const api_request *r, const api__values *v, err *e) {
    if (v->suffix && v->suffix[0]) {
        return err_set(e, ERR_UNSUPPORTED, "suffix",
                       "suffix is not supported: this model only continues text");
    }
    if (v->echo && r->kind == API_CHAT) {
        return err_set(e, ERR_UNSUPPORTED, "echo",
                       "echo is for completions; chat does not support it");
    }
    return 0;
}

/* ---- all of it ---- */

static int read_conversation(api_request *r, const api_context *c, const api__values *v, err *e) {
    json_t *tools = NULL;
    if (api__read_tools(r, c, v, &tools, e) != 0) return -1;
    int rc = api__read_turns(r, c, v, tools, e);
    json_decref(tools);
    return rc;
}

/* 1: not that soon. */
static int read_request(api_request *r, const api_context *c, json_t *root, err *e) {
    api__values v;
    if (api__read_fields(&v, r->kind, root, e) != 0) return -1;
    if (api__check_model(c, v.model, e) != 0) return -1;
    if (r->kind == API_RESPONSES && api__read_response_fields(r, &v, e) != 0) return -1;
    if (refuse_unsupported(r, &v, e) != 0) return -1;
    r->echo = v.echo;
    r->return_depth = v.return_depth;
    r->return_ids = v.return_token_ids || c->opts.tokenizer == NULL; /* ids are then all there is */
    r->include_stop = v.include_stop;
    if (read_sampling(r, c, &v, e) != 0 || read_stop_strings(r, v.stop, e) != 0) return -1;
    if (read_stop_ids(r, c, &v, e) != 0 || read_depth(r, c, &v, e) != 0) return -1;
    if (read_stream(r, &v, e) != 0 || read_logprobs(r, &v, e) != 0) return -1;
    if (read_choices(r, c, &v, e) != 0 || read_labels(r, c, &v, e) != 0) return -1;
    if (api__read_format(r, c, &v, e) != 0) return -1;
    int rc = r->kind == API_COMPLETION ? api__read_prompts(r, c, v.prompt, e)
                                       : read_conversation(r, c, &v, e);
    if (rc != 0) return rc;
    if (r->kind == API_RESPONSES && api__keep_echoed(r, &v, e) != 0) return -1;
    return read_limits(r, c, &v, e);
}

static int parse(api_request **out, const api_context *c, api_kind kind, const char *body, size_t n,
                 bool soon, err *e) {
    *out = NULL;
    json_t *root;
    if (api__body(&root, c, body, n, e) != 0) return -1;
    api_request *r = calloc(1, sizeof *r);
    int rc = r ? 0 : api__out_of_memory(e);
    if (r) {
        r->kind = kind;
        r->soon = soon;
        /* Ids take four bytes where a byte of text is a token; texts are copied at most once. */
        arena_init(&r->mem, c->opts.max_body_bytes * 12 + (1 << 20));
        rc = read_request(r, c, root, e);
    }
    json_decref(root);
    if (rc == 0) *out = r;
    else api_request_destroy(r);
    return rc;
}

int api_parse(api_request **out, const api_context *c, api_kind kind, const char *body, size_t n,
              err *e) {
    return parse(out, c, kind, body, n, false, e);
}

int api_parse_soon(api_request **out, const api_context *c, api_kind kind, const char *body,
                   size_t n, err *e) {
    return parse(out, c, kind, body, n, true, e);
}

size_t api_request_bytes(const api_request *r) {
    const api__grammar *g = r->grammar;
    size_t form = g ? sizeof *g + g->mem.held + g->n_nodes * sizeof *g->nodes : 0;
    return sizeof *r + r->mem.held + form;
}

void api_request_destroy(api_request *r) {
    if (r == NULL) return;
    api__grammar_free(r->grammar);
    arena_deinit(&r->mem);
    free(r);
}

bool api_wants_stream(const api_request *r) {
    return r->stream;
}

uint64_t api_prompt_tokens(const api_request *r) {
    return r->prompt_tokens;
}

bool api_wants_priority(const api_request *r, int32_t *priority) {
    *priority = r->priority;
    return r->has_priority;
}
