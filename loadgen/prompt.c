/* prompt.c - the prompts of a plan: random, from a file, or after a trace. */
#include "base/hash.h"
#include "base/options.h"
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int bench_no_memory(err *e) {
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the prompts");
}

/* ---- random ---- */

static uint32_t around(bench_rng *rng, uint64_t len, double ratio) {
    uint64_t lo = (uint64_t)floor((double)len * (1 - ratio)),
             hi = (uint64_t)ceil((double)len * (1 + ratio));
    if (lo < 1) lo = 1;
    if (hi < lo) hi = lo;
    return (uint32_t)(lo + bench_rng_below(rng, hi - lo + 1));
}

/* The prompt of a chat must be text: made-up words of one or two tokens each. The server's usage
 * tells how many tokens they were. */
static char *words(bench_rng *rng, uint32_t n) {
    static const char *const heads[] = {"b", "d", "f", "g", "k", "l",  "m",  "n",
                                        "p", "r", "s", "t", "v", "st", "br", "th"};
    static const char *const vowels[] = {"a", "e", "i", "o", "u", "ea", "ou", "ai"};
    buf text = {0};
    for (uint32_t i = 0; i < n; i++) {
        if (i) buf_puts(&text, " ");
        for (uint64_t syllables = 1 + bench_rng_below(rng, 2); syllables > 0; syllables--) {
            buf_puts(&text, heads[bench_rng_below(rng, ARRAY_LEN(heads))]);
            buf_puts(&text, vowels[bench_rng_below(rng, ARRAY_LEN(vowels))]);
        }
    }
    if (text.failed) {
        buf_deinit(&text);
        return NULL;
    }
    return text.data;
}

/* A random prompt holds no special tokens, since they would end or open turns. */
uint32_t bench_random_id(const bench_opts *opts, bench_rng *rng) {
    uint32_t id = (uint32_t)bench_rng_below(rng, opts->vocab_size);
    /* Bounded, since a tokenizer may have special tokens only. */
    for (int tries = 0; tries < 100 && opts->tokenizer && tokenizer_is_special(opts->tokenizer, id);
         tries++)
        id = (uint32_t)bench_rng_below(rng, opts->vocab_size);
    return id;
}

static bool is_plain(const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] < 0x20 || bytes[i] > 0x7e) return false;
    }
    return n > 0;
}

/* Text of n tokens: random tokens are spelled out, encoded again and cut, because neighbours may
 * merge when encoded together. Plain ASCII tokens only, so a cut leaves valid text. */
static char *text_of_tokens(const bench_opts *opts, bench_rng *rng, uint32_t n, err *e) {
    buf text = {0};
    token_ids ids = {0};
    int rc = 0;
    for (uint32_t have = 0, rounds = 0; rc == 0 && have < n && rounds < 64; rounds++) {
        for (uint32_t tries = 0, added = have; added < n && tries < 64 * n; tries++) {
            size_t len;
            const char *bytes = tokenizer_bytes(opts->tokenizer, bench_random_id(opts, rng), &len);
            if (bytes == NULL || !is_plain(bytes, len)) continue;
            buf_append(&text, bytes, len);
            added++;
        }
        ids.n = 0;
        if (text.len == 0) break;
        rc = tokenizer_encode(opts->tokenizer, text.data, text.len, false, SIZE_MAX, &ids, e);
        have = (uint32_t)(ids.n < n ? ids.n : n);
    }
    size_t keep = 0, len = 0;
    for (size_t i = 0; rc == 0 && i < ids.n && i < n; i++, keep += len)
        (void)tokenizer_bytes(opts->tokenizer, ids.data[i], &len);
    token_ids_deinit(&ids);
    if (rc == 0 && !text.failed && keep > 0) {
        text.data[keep] = 0;
        return text.data;
    }
    if (rc == 0 && !text.failed)
        err_set(e, ERR_BAD_FILE, NULL, "the tokenizer has no tokens of plain ASCII text");
    buf_deinit(&text);
    return NULL;
}

char *bench_random_text(const bench_opts *opts, bench_rng *rng, uint32_t n, err *e) {
    char *text = opts->tokenizer ? text_of_tokens(opts, rng, n, e) : words(rng, n);
    if (text == NULL) (void)bench_no_memory(e); /* keeps an error that is already recorded */
    return text;
}

static int random_prompt(bench_plan *plan, bench_req *req, const bench_opts *opts, bench_rng *rng,
                         err *e) {
    req->input_len = around(rng, opts->input_len, opts->range_ratio);
    req->output_len = around(rng, opts->output_len, opts->range_ratio);
    if (opts->chat) {
        req->text = bench_random_text(opts, rng, req->input_len, e);
        return req->text ? 0 : -1;
    }
    size_t total = req->input_len + opts->prefix_len;
    req->ids = array_new(total, sizeof *req->ids);
    if (req->ids == NULL) return bench_no_memory(e);
    for (size_t k = 0; k < opts->prefix_len; k++)
        req->ids[k] = plan->prefix[k];
    for (size_t k = opts->prefix_len; k < total; k++)
        req->ids[k] = bench_random_id(opts, rng);
    req->input_len = (uint32_t)total;
    return 0;
}

static int random_prompts(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) {
    if (opts->prefix_len) {
        plan->prefix = array_new(opts->prefix_len, sizeof *plan->prefix);
        if (plan->prefix == NULL) return bench_no_memory(e);
        for (size_t k = 0; k < opts->prefix_len; k++)
            plan->prefix[k] = bench_random_id(opts, rng);
    }
    for (size_t i = 0; i < plan->n_reqs; i++) {
        if (random_prompt(plan, &plan->reqs[i], opts, rng, e) != 0) return -1;
    }
    return 0;
}

/* ---- from a file: one JSON object a line ---- */

static int bad_line(err *e, size_t line, const char *what) {
    return err_set(e, ERR_BAD_FILE, "dataset-path", "line %zu of the dataset: %s", line, what);
}

/* {"prompt": TEXT, "output_tokens": N} */
static int custom_line(bench_req *req, const bench_opts *opts, const json_t *root, size_t line,
                       err *e) {
    const char *text = json_string_value(json_object_get(root, "prompt"));
    json_int_t out = json_integer_value(json_object_get(root, "output_tokens"));
    if (text == NULL) return bad_line(e, line, "'prompt' must be a string");
    req->output_len = opts->custom_output          ? (uint32_t)opts->custom_output
                      : out > 0 && out < (1 << 24) ? (uint32_t)out
                                                   : (uint32_t)opts->output_len;
    req->text = strdup(text);
    return req->text ? 0 : bench_no_memory(e);
}

/* Mooncake's traces: {"timestamp", "input_length", "output_length", "hash_ids"}. Each hash id
 * stands for hash_chunk tokens and always for the same ones, so prefixes are shared as in the
 * trace. Tokens beyond the hash ids are random and the request's own. */
static int trace_line(bench_req *req, const bench_opts *opts, const json_t *root, size_t line,
                      err *e) {
    const json_t *at = json_object_get(root, "timestamp"),
                 *hashes = json_object_get(root, "hash_ids");
    json_int_t in = json_integer_value(json_object_get(root, "input_length"));
    json_int_t out = json_integer_value(json_object_get(root, "output_length"));
    if (!json_is_number(at) || json_number_value(at) < 0 || json_number_value(at) > 1e15)
        return bad_line(e, line, "'timestamp' must be a number from 0");
    if (in < 1 || in > (1 << 24) || out < 1 || out > (1 << 24))
        return bad_line(e, line, "'input_length' and 'output_length' must be 1 to 16777216");
    req->input_len = (uint32_t)in;
    req->output_len = (uint32_t)out;
    req->at_s = json_number_value(at) * opts->trace_seconds;
    req->ids = array_new(req->input_len, sizeof *req->ids);
    if (req->ids == NULL) return bench_no_memory(e);
    size_t n_hashes = json_array_size(hashes);
    bench_rng rng;
    for (uint32_t k = 0; k < req->input_len; k++) {
        size_t chunk = k / opts->hash_chunk;
        if (chunk < n_hashes && k % opts->hash_chunk == 0) {
            json_int_t id = json_integer_value(json_array_get(hashes, chunk));
            bench_rng_seed(&rng, opts->seed ^ ((uint64_t)id * HASH_STEP));
        } else if (k == n_hashes * opts->hash_chunk) {
            bench_rng_seed(&rng, ~opts->seed - line);
        }
        req->ids[k] = bench_random_id(opts, &rng);
    }
    return 0;
}

typedef int (*read_line)(bench_req *req, const bench_opts *opts, const json_t *root, size_t line,
                         err *e);

static int read_lines(bench_plan *plan, const bench_opts *opts, read_line read, size_t *got,
                      err *e) {
    static const json_limits limits = {
        .max_bytes = 16 << 20, .max_depth = 16, .max_structural = 1 << 20};
    buf file = {0};
    int rc = opt_read_file(&file, "--dataset-path", opts->dataset_path, (size_t)1 << 30, e);
    const char *at = file.data, *end = file.data ? file.data + file.len : NULL;
    for (size_t line = 1; rc == 0 && at < end && *got < plan->n_reqs; line++) {
        const char *eol = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((eol ? eol : end) - at);
        char what[64];
        (void)snprintf(what, sizeof what, "line %zu of the dataset", line);
        json_t *root = NULL;
        if (n > 0) rc = json_parse(&root, at, n, &limits, what, e);
        if (root) rc = read(&plan->reqs[(*got)++], opts, root, line, e);
        json_decref(root);
        at += n + 1;
    }
    buf_deinit(&file);
    if (rc == 0 && *got == 0)
        rc = err_set(e, ERR_BAD_FILE, NULL, "%s: holds no prompt", opts->dataset_path);
    return rc;
}

/* Repeats a short file from its start, as often as needed. */
int bench_oversample(bench_plan *plan, const bench_opts *opts, size_t got, err *e) {
    if (opts->no_oversample) plan->n_reqs = got;
    for (size_t i = got; i < plan->n_reqs; i++) {
        plan->reqs[i].output_len = plan->reqs[i - got].output_len;
        plan->reqs[i].text = strdup(plan->reqs[i - got].text);
        if (plan->reqs[i].text == NULL) return bench_no_memory(e);
    }
    return 0;
}

static int custom_prompts(bench_plan *plan, const bench_opts *opts, err *e) {
    size_t got = 0;
    if (read_lines(plan, opts, custom_line, &got, e) != 0) return -1;
    return bench_oversample(plan, opts, got, e);
}

/* A trace is replayed once, in order of time. */
static int trace_prompts(bench_plan *plan, const bench_opts *opts, err *e) {
    size_t got = 0;
    if (read_lines(plan, opts, trace_line, &got, e) != 0) return -1;
    plan->n_reqs = got;
    double first = plan->reqs[0].at_s, last = 0;
    for (size_t i = 0; i < got; i++) {
        plan->reqs[i].at_s = opts->self_timed ? plan->reqs[i].at_s - first : 0;
        if (plan->reqs[i].at_s < last)
            return bad_line(e, i + 1, "the timestamp is earlier than that of the line before");
        last = plan->reqs[i].at_s;
    }
    return 0;
}

int bench_prompts(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) {
    if (strcmp(opts->dataset, "custom") == 0) return custom_prompts(plan, opts, e);
    if (strcmp(opts->dataset, "timed_trace") == 0) return trace_prompts(plan, opts, e);
    if (strcmp(opts->dataset, "sharegpt") == 0) return bench_sharegpt(plan, opts, rng, e);
    if (strcmp(opts->dataset, "sonnet") == 0) return bench_sonnet(plan, opts, rng, e);
    if (strcmp(opts->dataset, "prefix_repetition") == 0)
        return bench_prefix_repetition(plan, opts, rng, e);
    return random_prompts(plan, opts, rng, e);
}
