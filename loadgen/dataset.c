/* dataset.c - vLLM's data sets beyond random and custom: sharegpt, sonnet, prefix_repetition. */
#include "base/options.h"
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of a text: exact with --tokenizer, else one for every four bytes. 0 with the error
 * recorded. */
static size_t tokens_in(const bench_opts *opts, const char *text, size_t n, err *e) {
    if (opts->tokenizer == NULL) return n / 4 + 1;
    token_ids ids = {0};
    int rc = tokenizer_encode(opts->tokenizer, text, n, false, SIZE_MAX, &ids, e);
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

/* 0 to n - 1 in random order; the caller frees the list. */
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

/* Takes conversations as vLLM does: neither part is tiny and the whole is not long. True if req was
 * filled. */
static bool take_conversation(bench_req *req, const bench_opts *opts, const json_t *one, err *e) {
    const json_t *turns = json_object_get(one, "conversations");
    const char *ask = json_string_value(json_object_get(json_array_get(turns, 0), "value"));
    const char *answer = json_string_value(json_object_get(json_array_get(turns, 1), "value"));
    if (ask == NULL || answer == NULL || ask[0] == 0) return false;
    size_t in = tokens_in(opts, ask, strlen(ask), e);
    size_t out =
        opts->sharegpt_output ? opts->sharegpt_output : tokens_in(opts, answer, strlen(answer), e);
    if (in < SHAREGPT_LEAST || in > SHAREGPT_PROMPT || in + out > SHAREGPT_ALL) return false;
    if (!opts->sharegpt_output && out < SHAREGPT_LEAST) return false;
    req->output_len = (uint32_t)out;
    req->text = strdup(ask);
    if (req->text == NULL) (void)bench_no_memory(e);
    return req->text != NULL;
}

int bench_sharegpt(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) {
    static const json_limits limits = {
        .max_bytes = 1 << 30, .max_depth = 32, .max_structural = 1 << 30};
    buf file = {0};
    json_t *root = NULL;
    err why = {0};
    int rc = opt_read_file(&file, "--dataset-path", opts->dataset_path, limits.max_bytes, e);
    if (rc == 0) rc = json_parse(&root, file.data, file.len, &limits, opts->dataset_path, e);
    buf_deinit(&file);
    if (rc != 0) return -1;
    size_t got = 0, n = json_array_size(root), *order = shuffled(n, rng);
    if (order == NULL) (void)bench_no_memory(&why);
    for (size_t i = 0; order && i < n && got < plan->n_reqs && why.code == ERR_NONE; i++)
        got += take_conversation(&plan->reqs[got], opts, json_array_get(root, order[i]), &why);
    free(order);
    json_decref(root);
    if (why.code != ERR_NONE) return err_set(e, why.code, why.param, "%s", why.msg);
    if (got == 0) {
        return err_set(e, ERR_BAD_FILE, "dataset-path",
                       "%s: holds no conversation of two turns with a prompt of %d to %d tokens "
                       "and at most %d tokens in all",
                       opts->dataset_path, SHAREGPT_LEAST, SHAREGPT_PROMPT, SHAREGPT_ALL);
    }
    return bench_oversample(plan, opts, got, e);
}

/* ---- sonnet: lines of verse, the first lines shared by all prompts ---- */

static const char opening[] = "Pick as many lines as you can from these poem lines:\n";

typedef struct {
    char *text; /* of the file; each line ends with 0 */
    const char **lines;
    size_t n_lines;
    double mean; /* tokens of a line */
} poem;

static void poem_deinit(poem *verse) {
    free(verse->text);
    free(verse->lines);
    *verse = (poem){0};
}

static int read_poem(poem *verse, const bench_opts *opts, err *e) {
    buf file = {0};
    *verse = (poem){0};
    if (opt_read_file(&file, "--dataset-path", opts->dataset_path, 64 << 20, e) != 0) {
        buf_deinit(&file);
        return -1;
    }
    verse->text = file.data;
    verse->lines = array_new(file.len + 1, sizeof *verse->lines);
    if (verse->lines == NULL) return bench_no_memory(e);
    size_t tokens = file.len ? tokens_in(opts, file.data, file.len, e) : 1;
    if (tokens == 0) return -1;
    char *rest = NULL;
    for (char *line = strtok_r(verse->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        verse->lines[verse->n_lines++] = line;
    if (verse->n_lines == 0)
        return err_set(e, ERR_BAD_FILE, NULL, "%s: holds no line of text", opts->dataset_path);
    verse->mean = (double)tokens / (double)verse->n_lines;
    return 0;
}

static size_t lines_for(const poem *verse, uint64_t tokens, size_t taken) {
    double n = round(((double)tokens - (double)taken) / verse->mean);
    return n > 0 ? (size_t)n : 0;
}

static char *sonnet_text(const poem *verse, size_t shared, size_t own, bench_rng *rng) {
    buf text = {0};
    buf_puts(&text, opening);
    for (size_t i = 0; i < shared + own; i++) {
        size_t at = i < shared ? i % verse->n_lines : (size_t)bench_rng_below(rng, verse->n_lines);
        buf_puts(&text, verse->lines[at]);
        buf_puts(&text, "\n");
    }
    if (text.failed) buf_deinit(&text);
    return text.data;
}

int bench_sonnet(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) {
    poem verse;
    int rc = read_poem(&verse, opts, e);
    size_t base = rc == 0 ? tokens_in(opts, opening, sizeof opening - 1, e) : 0;
    if (rc == 0 && base == 0) rc = -1;
    size_t shared = rc == 0 ? lines_for(&verse, opts->sonnet_prefix, base) : 0;
    size_t all = rc == 0 ? lines_for(&verse, opts->sonnet_input, base) : 0;
    for (size_t i = 0; rc == 0 && i < plan->n_reqs; i++) {
        plan->reqs[i].output_len = (uint32_t)opts->sonnet_output;
        plan->reqs[i].text = sonnet_text(&verse, shared, all > shared ? all - shared : 0, rng);
        if (plan->reqs[i].text == NULL) rc = bench_no_memory(e);
    }
    poem_deinit(&verse);
    return rc;
}

/* ---- prefix_repetition: a few prefixes, each before several different suffixes, in random order
 * ---- */

static int repeat_ids(bench_req *req, const bench_opts *opts, bench_rng *rng, uint64_t which,
                      err *e) {
    bench_rng prefix;
    bench_rng_seed(&prefix, ~opts->seed - which);
    req->input_len = (uint32_t)(opts->shared_prefix + opts->shared_suffix);
    req->ids = array_new(req->input_len, sizeof *req->ids);
    if (req->ids == NULL) return bench_no_memory(e);
    for (uint32_t k = 0; k < req->input_len; k++)
        req->ids[k] = bench_random_id(opts, k < opts->shared_prefix ? &prefix : rng);
    return 0;
}

static int repeat_text(bench_req *req, const bench_opts *opts, bench_rng *rng, uint64_t which,
                       err *e) {
    bench_rng prefix;
    bench_rng_seed(&prefix, ~opts->seed - which);
    char *start = bench_random_text(opts, &prefix, (uint32_t)opts->shared_prefix, e);
    char *end = start ? bench_random_text(opts, rng, (uint32_t)opts->shared_suffix, e) : NULL;
    buf text = {0};
    if (end) buf_printf(&text, "%s %s", start, end);
    free(start);
    free(end);
    if (end == NULL) return -1;
    if (text.failed) {
        buf_deinit(&text);
        return bench_no_memory(e);
    }
    req->text = text.data;
    return 0;
}

int bench_prefix_repetition(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) {
    size_t *order = shuffled(plan->n_reqs, rng);
    size_t prefixes = opts->n_prefixes < plan->n_reqs
                          ? opts->n_prefixes
                          : plan->n_reqs; /* there may be few warm-ups */
    int rc = order ? 0 : bench_no_memory(e);
    for (size_t i = 0; rc == 0 && i < plan->n_reqs; i++) {
        bench_req *req = &plan->reqs[order[i]];
        req->output_len = (uint32_t)opts->shared_output;
        rc = opts->chat ? repeat_text(req, opts, rng, i % prefixes, e)
                        : repeat_ids(req, opts, rng, i % prefixes, e);
    }
    free(order);
    return rc;
}
