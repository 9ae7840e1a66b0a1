/* prompt.c - the prompts of a plan: random, from a file, or after a trace. */
#include "base/hash.h"
#include "base/options.h"
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(err *e) {
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

/* A chat's prompt must be text: made-up words, about a token or two each. How many tokens
 * they were is read from the server's usage. */
static char *words(bench_rng *rng, uint32_t n) {
    static const char *const heads[] = {"b", "d", "f", "g", "k", "l",  "m",  "n",
                                        "p", "r", "s", "t", "v", "st", "br", "th"};
    static const char *const vowels[] = {"a", "e", "i", "o", "u", "ea", "ou", "ai"};
    buf b = {0};
    for (uint32_t i = 0; i < n; i++) {
        if (i) buf_puts(&b, " ");
        for (uint64_t s = 1 + bench_rng_below(rng, 2); s > 0; s--) {
            buf_puts(&b, heads[bench_rng_below(rng, ARRAY_LEN(heads))]);
            buf_puts(&b, vowels[bench_rng_below(rng, ARRAY_LEN(vowels))]);
        }
    }
    if (b.failed) {
        buf_deinit(&b);
        return NULL;
    }
    return b.data;
}

/* Special tokens would end or open turns; a random prompt holds none. */
uint32_t bench_random_id(const bench_opts *o, bench_rng *rng) {
    uint32_t id = (uint32_t)bench_rng_below(rng, o->vocab_size);
    /* Bounded: a folder may hold nothing but special tokens. */
    for (int tries = 0; tries < 100 && o->tokenizer && tokenizer_is_special(o->tokenizer, id);
         tries++)
        id = (uint32_t)bench_rng_below(rng, o->vocab_size);
    return id;
}

static bool is_plain(const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] < 0x20 || bytes[i] > 0x7e) return false;
    }
    return n > 0;
}

/* Text of n tokens: random tokens spelled out, read again and cut, since neighbours may
 * merge when they are read together. Plain ASCII ones, so that a cut leaves whole text. */
static char *text_of_tokens(const bench_opts *o, bench_rng *rng, uint32_t n, err *e) {
    buf b = {0};
    token_ids ids = {0};
    int rc = 0;
    for (uint32_t have = 0, rounds = 0; rc == 0 && have < n && rounds < 64; rounds++) {
        for (uint32_t tries = 0, added = have; added < n && tries < 64 * n; tries++) {
            size_t len;
            const char *bytes = tokenizer_bytes(o->tokenizer, bench_random_id(o, rng), &len);
            if (bytes == NULL || !is_plain(bytes, len)) continue;
            buf_append(&b, bytes, len);
            added++;
        }
        ids.n = 0;
        if (b.len == 0) break;
        rc = tokenizer_encode(o->tokenizer, b.data, b.len, false, SIZE_MAX, &ids, e);
        have = (uint32_t)(ids.n < n ? ids.n : n);
    }
    size_t keep = 0, len = 0;
    for (size_t i = 0; rc == 0 && i < ids.n && i < n; i++, keep += len)
        (void)tokenizer_bytes(o->tokenizer, ids.data[i], &len);
    token_ids_deinit(&ids);
    if (rc == 0 && !b.failed && keep > 0) {
        b.data[keep] = 0;
        return b.data;
    }
    if (rc == 0 && !b.failed)
        err_set(e, ERR_BAD_FILE, NULL, "the tokenizer has no tokens of plain ASCII text");
    buf_deinit(&b);
    return NULL;
}

char *bench_random_text(const bench_opts *o, bench_rng *rng, uint32_t n, err *e) {
    char *text = o->tokenizer ? text_of_tokens(o, rng, n, e) : words(rng, n);
    if (text == NULL) (void)no_memory(e); /* unless a reason stands there */
    return text;
}

static int random_prompt(bench_plan *p, bench_req *r, const bench_opts *o, bench_rng *rng, err *e) {
    r->input_len = around(rng, o->input_len, o->range_ratio);
    r->output_len = around(rng, o->output_len, o->range_ratio);
    if (o->chat) {
        r->text = bench_random_text(o, rng, r->input_len, e);
        return r->text ? 0 : -1;
    }
    size_t total = r->input_len + o->prefix_len;
    r->ids = array_new(total, sizeof *r->ids);
    if (r->ids == NULL) return no_memory(e);
    for (size_t k = 0; k < o->prefix_len; k++)
        r->ids[k] = p->prefix[k];
    for (size_t k = o->prefix_len; k < total; k++)
        r->ids[k] = bench_random_id(o, rng);
    r->input_len = (uint32_t)total;
    return 0;
}

static int random_prompts(bench_plan *p, const bench_opts *o, bench_rng *rng, err *e) {
    if (o->prefix_len) {
        p->prefix = array_new(o->prefix_len, sizeof *p->prefix);
        if (p->prefix == NULL) return no_memory(e);
        for (size_t k = 0; k < o->prefix_len; k++)
            p->prefix[k] = bench_random_id(o, rng);
    }
    for (size_t i = 0; i < p->n; i++) {
        if (random_prompt(p, &p->reqs[i], o, rng, e) != 0) return -1;
    }
    return 0;
}

/* ---- from a file: one JSON object a line ---- */

static int bad_line(err *e, size_t line, const char *what) {
    return err_set(e, ERR_BAD_FILE, "dataset-path", "line %zu of the dataset: %s", line, what);
}

/* {"prompt": TEXT, "output_tokens": N} */
static int custom_line(bench_req *r, const bench_opts *o, const json_t *root, size_t line, err *e) {
    const char *text = json_string_value(json_object_get(root, "prompt"));
    json_int_t out = json_integer_value(json_object_get(root, "output_tokens"));
    if (text == NULL) return bad_line(e, line, "'prompt' must be a string");
    r->output_len = o->custom_output             ? (uint32_t)o->custom_output
                    : out > 0 && out < (1 << 24) ? (uint32_t)out
                                                 : (uint32_t)o->output_len;
    r->text = strdup(text);
    return r->text ? 0 : no_memory(e);
}

/* Mooncake's traces: {"timestamp", "input_length", "output_length", "hash_ids"}. Every hash id
 * stands for hash_chunk tokens, the same wherever it comes again, so that prefixes are shared
 * as they were; what the ids do not cover is this request's own. */
static int trace_line(bench_req *r, const bench_opts *o, const json_t *root, size_t line, err *e) {
    const json_t *at = json_object_get(root, "timestamp"),
                 *hashes = json_object_get(root, "hash_ids");
    json_int_t in = json_integer_value(json_object_get(root, "input_length"));
    json_int_t out = json_integer_value(json_object_get(root, "output_length"));
    if (!json_is_number(at) || json_number_value(at) < 0 || json_number_value(at) > 1e15)
        return bad_line(e, line, "'timestamp' must be a number from 0");
    if (in < 1 || in > (1 << 24) || out < 1 || out > (1 << 24))
        return bad_line(e, line, "'input_length' and 'output_length' must be 1 to 16777216");
    r->input_len = (uint32_t)in;
    r->output_len = (uint32_t)out;
    r->at_s = json_number_value(at) * o->trace_seconds;
    r->ids = array_new(r->input_len, sizeof *r->ids);
    if (r->ids == NULL) return no_memory(e);
    size_t n_hashes = json_array_size(hashes);
    bench_rng rng;
    for (uint32_t k = 0; k < r->input_len; k++) {
        size_t chunk = k / o->hash_chunk;
        if (chunk < n_hashes && k % o->hash_chunk == 0) {
            json_int_t id = json_integer_value(json_array_get(hashes, chunk));
            bench_rng_seed(&rng, o->seed ^ ((uint64_t)id * HASH_STEP));
        } else if (k == n_hashes * o->hash_chunk) {
            bench_rng_seed(&rng, ~o->seed - line);
        }
        r->ids[k] = bench_random_id(o, &rng);
    }
    return 0;
}

typedef int (*read_line)(bench_req *r, const bench_opts *o, const json_t *root, size_t line,
                         err *e);

static int read_lines(bench_plan *p, const bench_opts *o, read_line read, size_t *got, err *e) {
    static const json_limits limits = {
        .max_bytes = 16 << 20, .max_depth = 16, .max_structural = 1 << 20};
    buf file = {0};
    int rc = opt_read_file(&file, "--dataset-path", o->dataset_path, (size_t)1 << 30, e);
    const char *at = file.data, *end = file.data ? file.data + file.len : NULL;
    for (size_t line = 1; rc == 0 && at < end && *got < p->n; line++) {
        const char *eol = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((eol ? eol : end) - at);
        char what[64];
        (void)snprintf(what, sizeof what, "line %zu of the dataset", line);
        json_t *root = NULL;
        if (n > 0) rc = json_parse(&root, at, n, &limits, what, e);
        if (root) rc = read(&p->reqs[(*got)++], o, root, line, e);
        json_decref(root);
        at += n + 1;
    }
    buf_deinit(&file);
    if (rc == 0 && *got == 0)
        rc = err_set(e, ERR_BAD_FILE, NULL, "%s: holds no prompt", o->dataset_path);
    return rc;
}

/* A short file is asked again from its start, as often as needed. */
int bench_oversample(bench_plan *p, const bench_opts *o, size_t got, err *e) {
    if (o->no_oversample) p->n = got;
    for (size_t i = got; i < p->n; i++) {
        p->reqs[i].output_len = p->reqs[i - got].output_len;
        p->reqs[i].text = strdup(p->reqs[i - got].text);
        if (p->reqs[i].text == NULL) return no_memory(e);
    }
    return 0;
}

static int custom_prompts(bench_plan *p, const bench_opts *o, err *e) {
    size_t got = 0;
    if (read_lines(p, o, custom_line, &got, e) != 0) return -1;
    return bench_oversample(p, o, got, e);
}

/* A trace is replayed once, in its own order of time. */
static int trace_prompts(bench_plan *p, const bench_opts *o, err *e) {
    size_t got = 0;
    if (read_lines(p, o, trace_line, &got, e) != 0) return -1;
    p->n = got;
    double first = p->reqs[0].at_s, last = 0;
    for (size_t i = 0; i < got; i++) {
        p->reqs[i].at_s = o->self_timed ? p->reqs[i].at_s - first : 0;
        if (p->reqs[i].at_s < last)
            return bad_line(e, i + 1, "the timestamp is earlier than that of the line before");
        last = p->reqs[i].at_s;
    }
    return 0;
}

int bench_prompts(bench_plan *p, const bench_opts *o, bench_rng *rng, err *e) {
    if (strcmp(o->dataset, "custom") == 0) return custom_prompts(p, o, e);
    if (strcmp(o->dataset, "timed_trace") == 0) return trace_prompts(p, o, e);
    if (strcmp(o->dataset, "sharegpt") == 0) return bench_sharegpt(p, o, rng, e);
    if (strcmp(o->dataset, "sonnet") == 0) return bench_sonnet(p, o, rng, e);
    if (strcmp(o->dataset, "prefix_repetition") == 0) return bench_prefix_repetition(p, o, rng, e);
    return random_prompts(p, o, rng, e);
}
