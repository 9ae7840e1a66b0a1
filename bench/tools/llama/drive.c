/* drive.c - llama.cpp's library under a stopwatch: one sequence, commands on stdin.
 *
 *   drive LIBRARIES MODEL THREADS
 *   prompt N      N positions in one batch, logits of the last
 *   decode P N    N positions one by one behind P others, logits of each
 *
 * Each answers {"wall": seconds, "cpu": seconds of all threads}. Token ids are arbitrary and
 * nothing is sampled: the figure is the model's cost alone. Built by run.sh, never by make. */
#include "ggml-backend.h"
#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CONTEXT = 1024, BATCH = 512, VOCAB = 32000 };

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void quiet(enum ggml_log_level level, const char *text, void *ud) {
    (void)ud;
    bool bad = level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR;
    if (bad || strstr(text, "loaded CPU")) fputs(text, stderr);
}

/* Runs n positions as one batch behind the context's positions. */
static int push(struct llama_context *context, int from, int n) {
    static llama_token ids[BATCH];
    for (int i = 0; i < n; i++)
        ids[i] = (from + i) * 7919 % VOCAB;
    if (llama_decode(context, llama_batch_get_one(ids, n)) != 0) return -1;
    return llama_get_logits_ith(context, -1) ? 0 : -1; /* waits for them */
}

static int fill(struct llama_context *context, int n) {
    llama_memory_clear(llama_get_memory(context), true);
    for (int at = 0; at < n; at += BATCH) {
        if (push(context, at, n - at < BATCH ? n - at : BATCH) != 0) return -1;
    }
    return 0;
}

static int obey(struct llama_context *context, const char *line) {
    int before = 0, n = 0;
    bool decode = sscanf(line, "decode %d %d", &before, &n) == 2;
    if (!decode && sscanf(line, "prompt %d", &n) != 1) return -1;
    if (n < 1 || before < 0 || n > CONTEXT - before || (!decode && n > BATCH)) return -1;
    if (fill(context, before) != 0) return -1;
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    if (!decode && push(context, 0, n) != 0) return -1;
    for (int i = 0; decode && i < n; i++) {
        if (push(context, before + i, 1) != 0) return -1;
    }
    wall = seconds(CLOCK_MONOTONIC) - wall;
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"wall\": %.6f, \"cpu\": %.6f}\n", wall, cpu);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    llama_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(argv[1]);
    struct llama_model_params mp = llama_model_default_params();
    struct llama_model *model = llama_model_load_from_file(argv[2], mp);
    if (model == NULL) return 1;
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = CONTEXT;
    cp.n_batch = cp.n_ubatch = BATCH;
    cp.n_threads = cp.n_threads_batch = (int32_t)strtol(argv[3], NULL, 10);
    struct llama_context *context = llama_init_from_model(model, cp);
    if (context == NULL) return 1;
    printf("{\"version\": \"%s\"}\n", llama_version());
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (obey(context, line) != 0) {
            fprintf(stderr, "drive: cannot do %s", line);
            return 1;
        }
    }
    llama_free(context);
    llama_model_free(model);
    return 0;
}
