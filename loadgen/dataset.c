/* dataset.c - vLLM's data sets beyond random and custom: sharegpt, sonnet, prefix_repetition. */
#include "base/options.h"
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(err *e) {
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the prompts");
}

/* Exact with --tokenizer, else a token for every four bytes. 0 with the error recorded. */
static size_t tokens_in(const bench_opts *o, const char *text, size_t n, err *e) {
    if (o->tokenizer == NULL) return n / 4 + 1;
    token_ids ids = {0};
    int rc = tokenizer_encode(o->tokenizer, text, n, false, SIZE_MAX, &ids, e);
    size_t count = rc != 0 ? 0 : ids.n ? ids.n : 1;
    token_ids_deinit(&ids);
    return count;
}

static void shuffle(size_t *order, size_t n, bench_rng *rng) {
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)bench_rng_below(rng, i), held = order[i - 1];
        order[i - 1] = order[k];
        order[k] = held;
    }
}

/* 0 to n - 1 in an order drawn at random; the caller frees. */
static size_t *shuffled(size_t n, bench_rng *rng) {
    size_t *order = array_new(n ? n : 1, sizeof *order);
    if (order == NULL) return NULL;
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    shuffle(order, n, rng);
    return order;
}

/* ---- sharegpt: [{"conversations": [{"value": PROMPT}, {"value": ANSWER}, ...]}, ...] ---- */

enum { SHAREGPT_LEAST = 4, SHAREGPT_PROMPT = 1024, SHAREGPT_ALL = 2048 };

/* vLLM's choice: neither part is tiny, and the whole is not long. True if r was filled. */
static bool take_conversation(bench_req *r, const bench_opts *o, const json_t *one, err *e) {
    const json_t *turns = json_object_get(one, "conversations");
    const char *ask = json_string_value(json_object_get(json_array_get(turns, 0), "value"));
    const char *answer = json_string_value(json_object_get(json_array_get(turns, 1), "value"));
    if (ask == NULL || answer == NULL || ask[0] == 0) return false;
    size_t in = tokens_in(o, ask, strlen(ask), e);
    size_t out = o->sharegpt_output ? o->sharegpt_output : tokens_in(o, answer, strlen(answer), e);
    if (in < SHAREGPT_LEAST || in > SHAREGPT_PROMPT || in + out > SHAREGPT_ALL) return false;
    if (!o->sharegpt_output && out < SHAREGPT_LEAST) return false;
    r->output_len = (uint32_t)out;
    r->text = strdup(ask);
    if (r->text == NULL) (void)no_memory(e);
    return r->text != NULL;
}

int bench_sharegpt(bench_plan *p, const bench_opts *o, bench_rng *rng, err *e) {
    static const json_limits limits = {
        .max_bytes = 1 << 30, .max_depth = 32, .max_structural = 1 << 30};
    buf file = {0};
    json_t *root = NULL;
    err why = {0};
    int rc = opt_read_file(&file, "--dataset-path", o->dataset_path, limits.max_bytes, e);
    if (rc == 0) rc = json_parse(&root, file.data, file.len, &limits, o->dataset_path, e);
    buf_deinit(&file);
    if (rc != 0) return -1;
    size_t got = 0, n = json_array_size(root), *order = shuffled(n, rng);
    if (order == NULL) (void)no_memory(&why);
    for (size_t i = 0; order && i < n && got < p->n && why.code == ERR_NONE; i++)
        got += take_conversation(&p->reqs[got], o, json_array_get(root, order[i]), &why);
    free(order);
    json_decref(root);
    if (why.code != ERR_NONE) return err_set(e, why.code, why.param, "%s", why.msg);
    if (got == 0) {
        return err_set(e, ERR_BAD_FILE, "dataset-path",
                       "%s: holds no conversation of two turns with a prompt of %d to %d tokens "
                       "and at most %d tokens in all",
                       o->dataset_path, SHAREGPT_LEAST, SHAREGPT_PROMPT, SHAREGPT_ALL);
    }
    return bench_oversample(p, o, got, e);
}

/* ---- sonnet: lines of verse, the first of them shared ---- */

static const char opening[] = "Pick as many lines as you can from these poem lines:\n";

typedef struct {
    char *text; /* of the file; lines end at their 0 */
    const char **lines;
    size_t n;
    double mean; /* tokens of a line */
} poem;

static void poem_deinit(poem *v) {
    free(v->text);
    free(v->lines);
    *v = (poem){0};
}

static int read_poem(poem *v, const bench_opts *o, err *e) {
    buf file = {0};
    *v = (poem){0};
    if (opt_read_file(&file, "--dataset-path", o->dataset_path, 64 << 20, e) != 0) {
        buf_deinit(&file);
        return -1;
    }
    v->text = file.data;
    v->lines = array_new(file.len + 1, sizeof *v->lines);
    if (v->lines == NULL) return no_memory(e);
    size_t tokens = file.len ? tokens_in(o, file.data, file.len, e) : 1;
    if (tokens == 0) return -1;
    char *rest = NULL;
    for (char *line = strtok_r(v->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        v->lines[v->n++] = line;
    if (v->n == 0)
        return err_set(e, ERR_BAD_FILE, NULL, "%s: holds no line of text", o->dataset_path);
    v->mean = (double)tokens / (double)v->n;
    return 0;
}

static size_t lines_for(const poem *v, uint64_t tokens, size_t taken) {
    double n = round(((double)tokens - (double)taken) / v->mean);
    return n > 0 ? (size_t)n : 0;
}

static char *sonnet_text(const poem *v, size_t shared, size_t own, bench_rng *rng) {
    buf b = {0};
    buf_puts(&b, opening);
    for (size_t i = 0; i < shared + own; i++) {
        size_t at = i < shared ? i % v->n : (size_t)bench_rng_below(rng, v->n);
        buf_puts(&b, v->lines[at]);
        buf_puts(&b, "\n");
    }
    if (b.failed) buf_deinit(&b);
    return b.data;
}

int bench_sonnet(bench_plan *p, const bench_opts *o, bench_rng *rng, err *e) {
    poem v;
    int rc = read_poem(&v, o, e);
    size_t base = rc == 0 ? tokens_in(o, opening, sizeof opening - 1, e) : 0;
    if (rc == 0 && base == 0) rc = -1;
    size_t shared = rc == 0 ? lines_for(&v, o->sonnet_prefix, base) : 0;
    size_t all = rc == 0 ? lines_for(&v, o->sonnet_input, base) : 0;
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        p->reqs[i].output_len = (uint32_t)o->sonnet_output;
        p->reqs[i].text = sonnet_text(&v, shared, all > shared ? all - shared : 0, rng);
        if (p->reqs[i].text == NULL) rc = no_memory(e);
    }
    poem_deinit(&v);
    return rc;
}

/* ---- prefix_repetition: a few prefixes, each before many endings, in any order ---- */

static int repeat_ids(bench_req *r, const bench_opts *o, bench_rng *rng, uint64_t which, err *e) {
    bench_rng prefix;
    bench_rng_seed(&prefix, ~o->seed - which);
    r->input_len = (uint32_t)(o->shared_prefix + o->shared_suffix);
    r->ids = array_new(r->input_len, sizeof *r->ids);
    if (r->ids == NULL) return no_memory(e);
    for (uint32_t k = 0; k < r->input_len; k++)
        r->ids[k] = bench_random_id(o, k < o->shared_prefix ? &prefix : rng);
    return 0;
}

static int repeat_text(bench_req *r, const bench_opts *o, bench_rng *rng, uint64_t which, err *e) {
    bench_rng prefix;
    bench_rng_seed(&prefix, ~o->seed - which);
    char *start = bench_random_text(o, &prefix, (uint32_t)o->shared_prefix, e);
    char *end = start ? bench_random_text(o, rng, (uint32_t)o->shared_suffix, e) : NULL;
    buf b = {0};
    if (end) buf_printf(&b, "%s %s", start, end);
    free(start);
    free(end);
    if (end == NULL) return -1;
    if (b.failed) {
        buf_deinit(&b);
        return no_memory(e);
    }
    r->text = b.data;
    return 0;
}

int bench_prefix_repetition(bench_plan *p, const bench_opts *o, bench_rng *rng, err *e) {
    size_t *order = shuffled(p->n, rng);
    size_t prefixes = o->n_prefixes < p->n ? o->n_prefixes : p->n; /* of few warm-ups */
    int rc = order ? 0 : no_memory(e);
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        bench_req *r = &p->reqs[order[i]];
        r->output_len = (uint32_t)o->shared_output;
        rc = o->chat ? repeat_text(r, o, rng, i % prefixes, e)
                     : repeat_ids(r, o, rng, i % prefixes, e);
    }
    free(order);
    return rc;
}
