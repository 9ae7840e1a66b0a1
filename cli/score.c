/* score.c - `fathom score`: log-probability and depth of each position of given token sequences,
 * all in one batch; perplexity of a text. */
#include "base/json.h"
#include "base/progress.h"
#include "base/size.h"
#include "cli/describe.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    runtime_opts run;
    const char *ids, *text, *logits;
    uint64_t window, max_tokens;
    bool quiet;
} options;

typedef struct {
    uint32_t *ids;
    uint32_t n_ids;
    uint64_t first; /* positions of all sequences before this one */
} sequence;

typedef struct {
    sequence *seqs;
    size_t n_seqs;
    uint64_t n_positions;
    float *logprob;  /* [n_positions], NaN at the first position of a sequence */
    uint16_t *depth; /* [n_positions] */
    uint32_t vocab;
    int logits_fd; /* -1: not wanted */
    bool write_failed;
    err_code failed;
} scores;

/* Events and taps find their sequence by its id. */
typedef struct {
    scores *all;
    uint64_t *id_of; /* [n_seqs] scheduler id */
    progress bar;
} sink_state;

static sequence *find(sink_state *st, uint64_t id) {
    size_t lo = 0, hi = st->all->n_seqs; /* ids rise with the order of submission */
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (st->id_of[mid] < id) lo = mid + 1;
        else hi = mid;
    }
    return &st->all->seqs[lo];
}

static void on_event(void *ud, const sched_event *ev) {
    sink_state *st = ud;
    scores *all = st->all;
    if (ev->kind == SCHED_PROMPT) {
        uint64_t at = find(st, ev->id)->first + ev->pos;
        all->logprob[at] = ev->pos ? ev->logprob : NAN;
        all->depth[at] = ev->depth;
        progress_add(&st->bar, 1);
    } else if (ev->kind == SCHED_END && ev->finish == SCHED_FAILED && all->failed == ERR_NONE) {
        all->failed = ev->why;
    }
}

static void on_logits(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)depth;
    sink_state *st = ud;
    if (logits == NULL) return;
    size_t bytes = st->all->vocab * sizeof(float);
    off_t at = (off_t)((find(st, id)->first + pos) * bytes);
    if (pwrite(st->all->logits_fd, logits, bytes, at) != (ssize_t)bytes)
        st->all->write_failed = true;
}

static int add_sequence(scores *all, const uint32_t *ids, size_t n, err *e) {
    sequence *grown = realloc(all->seqs, (all->n_seqs + 1) * sizeof *grown);
    if (grown == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu sequences", all->n_seqs);
    all->seqs = grown;
    uint32_t *copy = array_new(n, sizeof *copy);
    if (copy == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu ids", n);
    memcpy(copy, ids, n * sizeof *copy);
    all->seqs[all->n_seqs++] = (sequence){copy, (uint32_t)n, all->n_positions};
    all->n_positions += n;
    return 0;
}

static int add_json_row(scores *all, const json_t *row, size_t index, const model_plan *plan,
                        err *e) {
    size_t n = json_array_size(row);
    if (!json_is_array(row) || n == 0 || n > plan->max_seq_len) {
        return err_set(e, ERR_USAGE, "--ids", "--ids: sequence %zu must hold 1 to %u token ids",
                       index, plan->max_seq_len);
    }
    uint32_t *ids = array_new(n, sizeof *ids);
    if (ids == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu ids", n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const json_t *item = json_array_get(row, i);
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= (json_int_t)plan->vocab_size) {
            rc = err_set(e, ERR_USAGE, "--ids",
                         "--ids: sequence %zu, index %zu: expected a token id below %u", index, i,
                         plan->vocab_size);
        } else {
            ids[i] = (uint32_t)id;
        }
    }
    if (rc == 0) rc = add_sequence(all, ids, n, e);
    free(ids);
    return rc;
}

static int read_ids(scores *all, const char *path, const model_plan *plan, err *e) {
    static const json_limits limits = {256u << 20, 4, 64u << 20};
    buf text = {0};
    json_t *root = NULL;
    int rc = opt_read_file(&text, "--ids", path, limits.max_bytes, e);
    if (rc == 0) rc = json_parse(&root, text.data ? text.data : "", text.len, &limits, path, e);
    if (rc == 0 && !json_is_array(root)) {
        rc = err_set(e, ERR_USAGE, "--ids", "%s: expected an array of token-id arrays", path);
    }
    for (size_t i = 0; rc == 0 && i < json_array_size(root); i++) {
        rc = add_json_row(all, json_array_get(root, i), i, plan, e);
    }
    json_decref(root);
    buf_deinit(&text);
    return rc;
}

/* Encodes the text once and cuts the tokens into independent windows. */
static int read_text(scores *all, const runtime *rt, const options *opts, err *e) {
    const model_plan *plan = model_plan_of(rt->model);
    if (rt->tokenizer == NULL)
        return runtime_needs_tokenizer(rt, "--text", "give token ids with --ids", e);
    if (opts->window > plan->max_seq_len) {
        return err_set(e, ERR_USAGE, "--window", "--window: the model's context is %u tokens",
                       plan->max_seq_len);
    }
    size_t window = opts->window ? opts->window : plan->max_seq_len;
    buf text = {0};
    token_ids ids = {0};
    int rc = opt_read_file(&text, "--text", opts->text, 1u << 30, e);
    if (rc == 0)
        rc = tokenizer_encode(rt->tokenizer, text.data ? text.data : "", text.len, true, 1u << 28,
                              &ids, e);
    size_t n = opts->max_tokens && opts->max_tokens < ids.n ? opts->max_tokens : ids.n;
    for (size_t at = 0; rc == 0 && at + 1 < n; at += window) {
        rc = add_sequence(all, ids.data + at, n - at < window ? n - at : window, e);
    }
    token_ids_deinit(&ids);
    buf_deinit(&text);
    return rc;
}

static int submit(scheduler *sched, sink_state *st, size_t i, const options *opts, err *e) {
    const sequence *seq = &st->all->seqs[i];
    sched_request request = {
        .prompt = seq->ids,
        .n_prompt = seq->n_ids,
        .prompt_logprobs = true,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .depth = {.min_loops = (uint16_t)opts->run.min_loops},
        .tap = st->all->logits_fd >= 0 ? on_logits : NULL,
        .tap_logits = st->all->logits_fd >= 0,
        .ud = st,
    };
    return sched_submit(sched, &request, &st->id_of[i], e);
}

static int run_scores(const runtime *rt, const options *opts, scores *all, err *e) {
    sink_state st = {.all = all, .id_of = array_new(all->n_seqs, sizeof(uint64_t))};
    scheduler *sched = NULL;
    int rc = -1;
    if (st.id_of == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (size_t i = 0; i < all->n_seqs; i++)
        st.id_of[i] = UINT64_MAX;
    progress_start(&st.bar, "scoring", "tokens", all->n_positions);
    if (sched_create(&sched, rt->backend, &rt->sched, on_event, &st, e) != 0) goto done;
    size_t sent = 0;
    for (bool idle = false; !idle || sent < all->n_seqs;) {
        err busy = {0};
        while (sent < all->n_seqs && submit(sched, &st, sent, opts, &busy) == 0)
            sent++;
        if (busy.code != ERR_NONE && busy.code != ERR_BUSY) {
            err_set(e, busy.code, busy.param, "sequence %zu: %s", sent, busy.msg);
            goto done;
        }
        if (sched_step(sched, &idle, e) != 0) goto done;
    }
    if (all->failed != ERR_NONE) {
        err_set(e, all->failed, NULL, "the scoring failed: %s", err_text(all->failed));
        goto done;
    }
    if (all->write_failed) {
        err_set(e, ERR_IO, "--logits", "--logits: %s could not be written completely",
                opts->logits);
        goto done;
    }
    rc = 0;
done:
    progress_stop(&st.bar);
    sched_destroy(sched);
    free(st.id_of);
    return rc;
}

static void print_lines(const scores *all) {
    for (size_t i = 0; i < all->n_seqs; i++) {
        const sequence *seq = &all->seqs[i];
        for (uint32_t pos = 0; pos < seq->n_ids; pos++) {
            float lp = all->logprob[seq->first + pos];
            printf("{\"seq\":%zu,\"pos\":%u,\"id\":%u,\"logprob\":", i, pos, seq->ids[pos]);
            if (isnan(lp)) printf("null");
            else printf("%.6f", (double)lp);
            printf(",\"depth\":%u}\n", all->depth[seq->first + pos]);
        }
    }
}

static void print_summary(const scores *all, const runtime *rt) {
    double nll = 0, loops = 0;
    uint64_t n = 0, histogram[PLAN_MAX_LOOPS + 1] = {0}, deepest = 0;
    for (uint64_t i = 0; i < all->n_positions; i++) {
        uint16_t depth = all->depth[i] <= PLAN_MAX_LOOPS ? all->depth[i] : PLAN_MAX_LOOPS;
        loops += depth;
        histogram[depth]++;
        if (depth > deepest) deepest = depth;
        if (isnan(all->logprob[i])) continue;
        nll -= (double)all->logprob[i];
        n++;
    }
    double mean = n ? nll / (double)n : 0;
    printf("{\"tokens\":%llu,\"predicted\":%llu,\"nll_per_token\":%.4f,\"perplexity\":%.4f,\"mean_"
           "depth\":%.4f,"
           "\"depth_histogram\":[",
           (unsigned long long)all->n_positions, (unsigned long long)n, mean, exp(mean),
           all->n_positions ? loops / (double)all->n_positions : 0);
    for (uint64_t depth = 1; depth <= deepest; depth++)
        printf("%s%llu", depth > 1 ? "," : "", (unsigned long long)histogram[depth]);
    buf plan = {0};
    describe_runtime_json(&plan, rt);
    printf("],%s}\n", plan.data ? plan.data : "\"family\":null");
    buf_deinit(&plan);
}

static int score(const runtime *rt, const options *opts, err *e) {
    scores all = {.vocab = model_plan_of(rt->model)->vocab_size, .logits_fd = -1};
    int rc = opts->ids ? read_ids(&all, opts->ids, model_plan_of(rt->model), e)
                       : read_text(&all, rt, opts, e);
    if (rc == 0 && all.n_seqs == 0)
        rc = err_set(e, ERR_USAGE, NULL, "the file holds nothing to score");
    if (rc == 0) {
        all.logprob = array_new(all.n_positions, sizeof *all.logprob);
        all.depth = array_new(all.n_positions, sizeof *all.depth);
        if (!all.logprob || !all.depth) rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    }
    if (rc == 0 && opts->logits) {
        all.logits_fd = open(opts->logits, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
        if (all.logits_fd < 0)
            rc = err_set(e, ERR_IO, "--logits", "%s: %s", opts->logits, strerror(errno));
    }
    if (rc == 0) rc = run_scores(rt, opts, &all, e);
    if (rc == 0 && !opts->quiet && opts->ids) print_lines(&all);
    if (rc == 0 && (opts->text || opts->quiet)) print_summary(&all, rt);
    if (all.logits_fd >= 0 && close(all.logits_fd) != 0 && rc == 0) {
        rc = err_set(e, ERR_IO, "--logits", "%s: %s", opts->logits, strerror(errno));
    }
    for (size_t i = 0; i < all.n_seqs; i++)
        free(all.seqs[i].ids);
    free(all.seqs);
    free(all.logprob);
    free(all.depth);
    return rc;
}

int cmd_score(opt_args *args) {
    options opts = {.run.speculate = "off"}; /* nothing is generated */
    const opt_row table[] = {
        RUN_OPTIONS(&opts.run),
        {"--ids", OPT_TEXT, &opts.ids, "FILE",
         "file with a JSON array of token-id arrays to score; prints one line per token", 0, 0,
         false},
        {"--text", OPT_TEXT, &opts.text, "FILE",
         "text file to score instead of --ids; prints its perplexity", 0, 0, false},
        {"--logits", OPT_TEXT, &opts.logits, "FILE",
         "also write the logits into FILE, as raw float32 [tokens][vocabulary]", 0, 0, false},
        OPT_OLD_NAME("--loops", "--max-loops"),
        GROUP_DEPTH,
        {"--min-loops", OPT_UINT, &opts.run.min_loops, "N",
         "fewest loops that a token runs (default 1)", 1, PLAN_MAX_LOOPS, false},
        OPT_GROUP(""),
        {"--window", OPT_UINT, &opts.window, "N",
         "with --text: tokens of one window, scored without what stands before it (default: the "
         "model's context)",
         2, 1e9, false},
        {"--first", OPT_UINT, &opts.max_tokens, "N",
         "with --text: score only the first N tokens (default: all)", 2, 1e9, false},
        {"--summary", OPT_FLAG, &opts.quiet, NULL,
         "with --ids: print one line for the whole file instead of one line per token", 0, 0,
         false},
    };
    const opt_command command = {
        "score", "prints each given token's log-probability and depth, or a text's perplexity",
        "fathom score demo --text models/demo/held_out.txt "
        "--window 128 --first 8192",
        table, ARRAY_LEN(table)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    if ((opts.ids != NULL) == (opts.text != NULL)) {
        fprintf(stderr, "fathom score: give one of --ids and --text\n");
        return EXIT_USAGE;
    }
    err e = {0};
    runtime rt;
    model_place place;
    if (take_model(&opts.run.model, &place, &e) != 0) return opt_fail(&e);
    join_ranks(&opts.run);
    if (runtime_open(&rt, &opts.run, &e) != 0) return opt_fail(&e);
    int rc = score(&rt, &opts, &e);
    runtime_close(&rt);
    return rc == 0 ? 0 : opt_fail(&e);
}
