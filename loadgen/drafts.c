/* drafts.c - drafted tokens of a run, from the server's metrics before and after it.
 *
 * The counters have vLLM's names. A server may have several of each, for its engines and models:
 * their sum counts. Drafts of other clients are among them. */
#include "loadgen/loadgen_internal.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 16 << 20 };
static const double WAIT_S = 5; /* a silent server must not hold up the report */

static const double MOST = 1e15; /* a counter; no more than this is exact */

static const char head[] = "vllm:spec_decode_num_";

/* Returns the end of the labels, or NULL if the line is no sample. */
static const char *skip_labels(const char *at) {
    bool quoted = false;
    if (*at != '{') return *at == ' ' ? at : NULL;
    for (at++; *at && *at != '\n'; at++) {
        if (quoted && *at == '\\' && at[1] && at[1] != '\n') at++;
        else if (*at == '"') quoted = !quoted;
        else if (*at == '}' && !quoted) return at + 1;
    }
    return NULL;
}

/* The label `position` of [labels, end), or BENCH_DRAFT_PLACES if it is none of the first. */
static size_t place_of(const char *labels, const char *end) {
    static const char key[] = "position=\"";
    for (const char *at = labels; at + strlen(key) < end; at++) {
        if (memcmp(at, key, strlen(key)) != 0 || (at[-1] != '{' && at[-1] != ',')) continue;
        char *after;
        unsigned long place = strtoul(at + strlen(key), &after, 10);
        return *after == '"' && place < BENCH_DRAFT_PLACES ? place : BENCH_DRAFT_PLACES;
    }
    return BENCH_DRAFT_PLACES;
}

static void read_line(bench_drafts *out, const char *line) {
    const struct {
        const char *name;
        double *sum;
    } counters[] = {{"drafts_total", &out->chains},
                    {"draft_tokens_total", &out->tokens},
                    {"accepted_tokens_total", &out->accepted},
                    {"accepted_tokens_per_pos_total", NULL}};
    if (strncmp(line, head, strlen(head)) != 0) return;
    line += strlen(head);
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        size_t n = strlen(counters[i].name);
        if (strncmp(line, counters[i].name, n) != 0) continue;
        const char *labels = line + n, *value = skip_labels(labels);
        double *sum = counters[i].sum;
        if (value == NULL) continue;
        if (sum == NULL) {
            size_t place = value > labels ? place_of(labels + 1, value) : BENCH_DRAFT_PLACES;
            if (place == BENCH_DRAFT_PLACES) return;
            sum = &out->by_place[place];
        }
        double number = strtod(value, NULL);
        if (number >= 0 && number < MOST) *sum += number;
        return;
    }
}

void bench_drafts_parse(bench_drafts *out, const char *page) {
    *out = (bench_drafts){0};
    while (page) {
        read_line(out, page);
        page = strchr(page, '\n');
        page += page != NULL;
    }
}

bench_drafts bench_drafts_now(const bench_opts *opts) {
    bench_drafts now = {0};
    buf page = {.max = PAGE_BYTES};
    long status = 0;
    err ignored = {0};
    int rc = bench_get(opts, "/metrics", WAIT_S, &page, &status, &ignored);
    if (rc == 0 && status == 200 && page.data && !page.failed) {
        bench_drafts_parse(&now, page.data);
        now.known = true;
    }
    buf_deinit(&page);
    return now;
}

bench_drafts bench_drafts_between(const bench_drafts *before, const bench_drafts *after) {
    bench_drafts won = {.chains = after->chains - before->chains,
                        .tokens = after->tokens - before->tokens,
                        .accepted = after->accepted - before->accepted};
    if (!before->known || !after->known) return (bench_drafts){0};
    /* A server counts from 0 after a restart. */
    if (!(won.chains > 0 && won.tokens > 0 && won.accepted >= 0)) return (bench_drafts){0};
    for (size_t i = 0; i < BENCH_DRAFT_PLACES; i++) {
        if (!(after->by_place[i] > before->by_place[i])) continue;
        won.by_place[i] = after->by_place[i] - before->by_place[i];
        won.n_places = i + 1;
    }
    return won;
}
