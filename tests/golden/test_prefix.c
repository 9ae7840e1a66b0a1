/* test_prefix.c - the prefix cache on the CPU backend and the demo model: a hit gives the tokens of
 * a miss, and the first token sooner.
 *
 *   FATHOM_PREFIX=tokens,requests   a larger run than the default 320,8 */
#include "base/clock.h"
#include "base/file.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"
#include "tests/lib/testlib.h"
#include "text/tokenizer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(golden_prefix, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { MOST = 64, OUTPUT = 8, OWN = 8 };

typedef struct {
    uint32_t tokens[MOST + 1][OUTPUT], count[MOST + 1], cached[MOST + 1];
    uint64_t first_ns[MOST + 1], began;
} outcome;

static void on_event(void *ud, const sched_event *ev) {
    outcome *out = ud;
    if (ev->kind == SCHED_TOKEN) {
        if (out->count[ev->id] == 0) out->first_ns[ev->id] = clock_ns() - out->began;
        out->tokens[ev->id][out->count[ev->id]++] = ev->token;
    } else if (ev->kind == SCHED_END) {
        cr_assert_eq(ev->finish, SCHED_LENGTH);
        out->cached[ev->id] = ev->n_cached;
    }
}

static outcome run_shared(eng_backend *backend, const token_ids *text, kv_policy policy,
                          bool shared, uint32_t prefix, uint32_t requests) {
    sched_opts so;
    sched_opts_default(&so);
    so.halted_kv = policy;
    so.prefix_cache = shared;
    outcome out = {.began = clock_ns()};
    scheduler *sch;
    err e = {0};
    cr_assert_eq(sched_create(&sch, backend, &so, on_event, &out, &e), 0, "%s", e.msg);
    uint32_t *prompt = malloc((prefix + OWN) * sizeof *prompt);
    memcpy(prompt, text->data, prefix * sizeof *prompt);
    for (uint32_t i = 0; i < requests; i++) { /* the shared prefix, then words of its own */
        memcpy(prompt + prefix, text->data + prefix + i * OWN, OWN * sizeof *prompt);
        sched_request req = {.prompt = prompt, .n_prompt = prefix + OWN, .max_tokens = OUTPUT};
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        uint64_t id;
        cr_assert_eq(sched_submit(sch, &req, &id, &e), 0, "%s", e.msg);
    }
    for (bool idle = false; !idle;)
        cr_assert_eq(sched_step(sch, &idle, &e), 0, "%s", e.msg);
    sched_destroy(sch);
    free(prompt);
    return out;
}

static double mean_first(const outcome *out, uint32_t requests) {
    double sum = 0;
    for (uint32_t i = 1; i <= requests; i++)
        sum += (double)out->first_ns[i] / requests;
    return sum;
}

Test(golden_prefix, a_hit_gives_the_tokens_of_a_miss_sooner) {
    unsigned prefix = 320, requests = 8;
    const char *wish = getenv("FATHOM_PREFIX");
    if (wish) cr_assert_eq(sscanf(wish, "%u,%u", &prefix, &requests), 2);
    cr_assert(requests <= MOST && prefix >= ENG_BLOCK && prefix <= 1000);
    model_folder *model;
    tokenizer *tok;
    token_ids text = {0};
    buf bytes = {0};
    err e = {0};
    cr_assert_eq(model_open(&model, "models/demo", &e), 0, "%s", e.msg);
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 2048, &e), 0, "%s", e.msg);
    cr_assert_eq(file_read(&bytes, "models/demo/held_out.txt", 1u << 22, &e), 0, "%s", e.msg);
    cr_assert_eq(tokenizer_encode(tok, bytes.data, bytes.len, false, 1u << 20, &text, &e), 0, "%s",
                 e.msg);
    eng_backend_opts bo = {.threads = 1,
                           .max_loops = 8,
                           .n_rows = 2048,
                           .max_launch = 512,
                           .max_logits = 64,
                           .cache_bytes = 1u << 28,
                           .max_positions = 1024,
                           .cache_dtype = DTYPE_F32,
                           .prompt_chunk = 128};
    eng_backend *backend;
    cr_assert_eq(eng_cpu_open(&backend, model, &bo, &e), 0, "%s", e.msg);
    for (int policy = 0; policy < 2; policy++) {
        outcome miss = run_shared(backend, &text, (kv_policy)policy, false, prefix, requests);
        outcome hit = run_shared(backend, &text, (kv_policy)policy, true, prefix, requests);
        for (uint32_t i = 1; i <= requests; i++) {
            cr_assert_eq(hit.cached[i], i == 1 ? 0 : prefix / ENG_BLOCK * ENG_BLOCK);
            cr_assert_arr_eq(hit.tokens[i], miss.tokens[i], sizeof hit.tokens[i], "request %u", i);
        }
        fprintf(stderr,
                "%s, %u requests of %u shared tokens at once: first token after %.0f ms, %.0f "
                "without the cache\n",
                kv_policy_name(policy), requests, prefix, mean_first(&hit, requests) / 1e6,
                mean_first(&miss, requests) / 1e6);
    }
    eng_backend_close(backend);
    model_close(model);
    tokenizer_close(tok);
    token_ids_deinit(&text);
    buf_deinit(&bytes);
}
