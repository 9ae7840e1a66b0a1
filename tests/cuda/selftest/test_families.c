/* test_families.c - other families than OpenMythos over the CUDA backend: the published answers
 * for any batches and launches in flight, other plans against the CPU engine, the scheduler. */
#include "tests/cuda/selftest/families.h"

#include "scheduler/scheduler_internal.h"
#include "tests/lib/files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The output after d loops does not depend on the exit rule: every rule's logits are the published
 * ones of the same depth. */
static void other_rules(const family_golden *family) {
    static const struct {
        exit_rule rule;
        float threshold;
    } ways[] = {{EXIT_LATENT_DIFF, 0.9f},
                {EXIT_LATENT_DIFF, 0.6f},
                {EXIT_COSINE, 0.4f},
                {EXIT_COSINE, 0.2f},
                {EXIT_HAZARD, 0.6f}};
    const family_case *deep = family_fixed(family, model_plan_of(family->model)->loops_default);
    if (!check(deep != NULL, "%s: no case of all loops", family->name)) return;
    uint32_t seen = 0;
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        drive_spec spec = family_spec(deep, 30, 90 + k, true);
        spec.own_exit = true;
        spec.exit = ways[k].rule;
        spec.threshold = ways[k].threshold;
        spec.flights = 1 + k % 2;
        eng_backend_opts opts = drive_opts(&spec, "f32-stream", DTYPE_F32);
        eng_backend *eng = open_backend(family->model, &opts);
        drive_result result = {0};
        double off = 0;
        if (eng && check(eng->info.exit == ways[k].rule, "the rule is not the one asked for") &&
            drive(eng, &spec, &result)) {
            for (uint32_t i = 0; i < deep->len; i++) {
                const family_case *gold = family_fixed(family, result.depth[0][i]);
                size_t at = (size_t)i * deep->vocab;
                if (!check(gold != NULL, "no case of %u loops", result.depth[0][i])) continue;
                off = fmax(off, worst(result.logits[0] + at, gold->logits + at, deep->vocab));
                seen |= 1u << gold->loops;
            }
            check(off <= 1e-4, "%s by %s, threshold %g: logits are off by %g", family->name,
                  exit_rule_name(ways[k].rule), (double)ways[k].threshold, off);
        }
        drive_result_deinit(&result);
        eng_backend_close(eng);
    }
    check((seen & (seen - 1)) != 0, "%s: the rules saw depths %x only", family->name, seen);
}

/* ---- other plans against the CPU engine ---- */

/* Queries wider than the residual stream, grouped keys, one embedding for head and input, another
 * eps and depth. */
static void an_odd_shape(void) {
    model_plan plan;
    err e = {0};
    model_folder *model = NULL;
    if (!check(plan_variant(&plan, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    plan.dim = 40;
    plan.n_heads = 6;
    plan.n_kv_heads = 2;
    plan.head_dim = 24;
    plan.ffn_dim = 50;
    plan.n_core = 5;
    plan.norm_eps = 1e-3f;
    plan.tied_head = true;
    plan_derive(&plan);
    tmp_dir dir = tmp_dir_create();
    if (family_random(&model, &dir, &plan, 2))
        family_mixes(model, on_shim ? 3 : 12, 1, "an odd shape");
    model_close(model);
    tmp_dir_remove(&dir);
}

/* OpenMythos of widths not divisible by a vector access; the loop embedding has 9, 2 and no
 * channels. */
static void odd_widths(void) {
    static const uint32_t widths[] = {72, 23, 7};
    for (size_t k = 0; k < ARRAY_LEN(widths); k++) {
        model_plan plan;
        err e = {0};
        model_folder *model = NULL;
        char what[32];
        rng rnd = {41};
        if (!check(plan_variant(&plan, "tiny", &e) == 0, "%s", e.msg)) return;
        plan.dim = widths[k];
        plan.ffn_dim = plan.dim * 4 / 3;
        plan_derive(&plan);
        tmp_dir dir = tmp_dir_create();
        if (family_random(&model, &dir, &plan, 3)) {
            drive_spec spec = random_spec(&plan, 2, 16, 600 + k, &rnd);
            (void)snprintf(what, sizeof what, "width %u", plan.dim);
            compare_with_cpu(model, &spec, "f32", what);
        }
        model_close(model);
        tmp_dir_remove(&dir);
    }
}

/* Capacities 1 and 2, the latter with a graph for shared tiles too; stages of no layers and the
 * head have two nodes each. */
static void deep_graphs(const model_folder *model, uint32_t layers) {
    eng_backend_opts opts = {.n_rows = 8,
                             .max_launch = 2,
                             .max_logits = 2,
                             .cache_bytes = 8 << 20,
                             .max_positions = 32,
                             .cache_dtype = DTYPE_BF16,
                             .kernels = "bf16"};
    eng_backend *eng = open_backend(model, &opts);
    const cu_backend *cuda = (const cu_backend *)eng;
    uint32_t nodes = 3 * (2 + 8 * layers) + 2 * 3 * 2;
    if (eng == NULL) return;
    check(cuda->n_graphs == 9 && cuda->graph_nodes == nodes,
          "%u layers: %u graphs of %llu nodes, must be %u", layers, cuda->n_graphs,
          (unsigned long long)cuda->graph_nodes, nodes);
    eng_backend_close(eng);
}

/* Graphs on the device's side, and few positions: 192 layers a position then take the shim only
 * seconds. */
static void deep_answers(const model_folder *model, uint32_t layers) {
    static uint32_t ids[2][5];
    char what[32];
    rng rnd = {layers};
    for (uint32_t i = 0; i < 10; i++)
        ids[i / 5][i % 5] = rng_below(&rnd, model_plan_of(model)->vocab_size);
    drive_spec spec = {.n_seqs = 2,
                       .n_loops = 4,
                       .max_rows = 4,
                       .len = {5, 3},
                       .ids = {ids[0], ids[1]},
                       .policy = KV_EXACT,
                       .threshold = 0.5f,
                       .flights = 2,
                       .seed = 7};
    (void)snprintf(what, sizeof what, "%u layers", layers);
    compare_with_cpu(model, &spec, "f32", what);
}

/* As many layers as Ouro has, of tiny width: the graphs hold as many nodes as the README's
 * arithmetic says, and depths and logits are the CPU engine's. */
static void deep_cores(void) {
    static const uint32_t layers[] = {24, 48};
    for (size_t k = 0; k < ARRAY_LEN(layers); k++) {
        model_plan plan;
        err e = {0};
        model_folder *model = NULL;
        if (!check(plan_variant(&plan, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
        plan.dim = plan.ffn_dim = 32;
        plan.n_heads = plan.n_kv_heads = 2;
        plan.vocab_size = 64;
        plan.n_core = layers[k];
        plan_derive(&plan);
        tmp_dir dir = tmp_dir_create();
        if (family_random(&model, &dir, &plan, 2)) {
            deep_graphs(model, layers[k]);
            deep_answers(model, layers[k]);
        }
        model_close(model);
        tmp_dir_remove(&dir);
    }
}

/* The published plan with one thing changed: no file says so, but both engines read the plan. */
static void changed_plans(void) {
    model_folder *model;
    err e = {0};
    const char *dir = "tests/golden/families/ouro";
    if (!check(model_open(&model, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    model_plan *plan = (model_plan *)(uintptr_t)model_plan_of(model);
    const model_plan was = *plan;
    plan->norms = NORM_PRE;
    family_mixes(model, on_shim ? 2 : 6, 2, "norms before the sublayers only");
    *plan = was;
    plan->loop_norm = false;
    family_mixes(model, on_shim ? 1 : 6, 1, "no norm between loops");
    *plan = was;
    plan->embed_scale = 3.5f;
    plan->rope_halves = false;
    family_mixes(model, on_shim ? 1 : 6, 1, "scaled embeddings, neighbours turned");
    *plan = was;
    model_close(model);
}

/* ---- the scheduler over it ---- */

enum { REQUESTS = 9, MOST_TOKENS = 30 };

typedef struct {
    uint64_t ids[REQUESTS];
    uint32_t tokens[REQUESTS][MOST_TOKENS], depths[REQUESTS][MOST_TOKENS], n_tokens[REQUESTS];
    bool ended[REQUESTS];
    uint64_t left_out;
} answers;

static void on_event(void *ud, const sched_event *ev) {
    answers *ans = ud;
    uint32_t i = 0;
    while (i < REQUESTS && ans->ids[i] != ev->id)
        i++;
    if (!check(i < REQUESTS, "an event for no request")) return;
    if (ev->kind == SCHED_TOKEN && ans->n_tokens[i] < MOST_TOKENS) {
        ans->tokens[i][ans->n_tokens[i]] = ev->token;
        ans->depths[i][ans->n_tokens[i]++] = ev->depth;
    }
    if (ev->kind == SCHED_END) ans->ended[i] = ev->finish == SCHED_LENGTH;
}

/* Prompts of 3 to 40 tokens, some sampled, some of fewer loops, thresholds of their own. */
static void submit(scheduler *sched, answers *ans, uint32_t k, uint32_t vocab) {
    static const float thresholds[] = {0, 0.4f, 1, 0.7f};
    uint32_t prompt[40], n = 3 + k * 17 % 38;
    err e = {0};
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (i * 31 + k * 7 + 13) % vocab;
    sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = 6 + k * 2};
    req.sampling = (eng_sampling){
        .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
    req.depth.threshold = thresholds[k % ARRAY_LEN(thresholds)];
    if (k % 4 == 1) req.depth.max_loops = 2;
    if (k % 4 == 2) req.depth.min_loops = 2;
    check(sched_submit(sched, &req, &ans->ids[k], &e) == 0, "submit: %s", e.msg);
}

static void run_scheduler(answers *ans, eng_backend *eng, kv_policy policy, ahead_rule ahead) {
    sched_opts opts;
    err e = {0};
    scheduler *sched;
    bool idle = false;
    *ans = (answers){0};
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    opts.chunk = 7;
    opts.max_rows = 64;
    if (!check(sched_create(&sched, eng, &opts, on_event, ans, &e) == 0, "scheduler: %s", e.msg))
        return;
    sched->ahead.rule = ahead;
    for (uint32_t k = 0; k < REQUESTS; k++) {
        submit(sched, ans, k, eng->plan->vocab_size);
        for (int i = 0; i < 2; i++)
            check(sched_step(sched, &idle, &e) == 0 && sched_sane(sched, &e), "%s", e.msg);
    }
    for (uint32_t n = 0; n < 100000 && !idle; n++) {
        if (!check(sched_step(sched, &idle, &e) == 0 && sched_sane(sched, &e), "%s", e.msg)) break;
    }
    ans->left_out = sched->stats.voided_rows;
    sched_destroy(sched);
}

static void the_scheduler(void) {
    model_plan plan;
    err e = {0};
    model_folder *model = NULL;
    static answers gpu, cpu;
    uint64_t left_out = 0;
    uint32_t depths = 0;
    if (!check(plan_variant(&plan, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    tmp_dir dir = tmp_dir_create();
    eng_backend_opts opts = {.threads = 1,
                             .n_rows = 150,
                             .max_launch = 64,
                             .max_logits = 16,
                             .cache_bytes = 16 << 20,
                             .max_positions = 128,
                             .cache_dtype = DTYPE_F32};
    eng_backend_opts f32 = opts;
    f32.kernels = "f32";
    eng_backend *gpu_eng = NULL, *cpu_eng = NULL;
    if (family_random(&model, &dir, &plan, 2)) {
        gpu_eng = open_backend(model, &f32);
        check(eng_cpu_open(&cpu_eng, model, &opts, &e) == 0, "cpu: %s", e.msg);
    }
    static const kv_policy policies[] = {KV_EXACT, KV_LAST, KV_EXACT, KV_COLLAPSE};
    for (size_t k = 0; gpu_eng && cpu_eng && k < ARRAY_LEN(policies); k++) {
        kv_policy policy = policies[k];
        run_scheduler(&gpu, gpu_eng, policy, k == 2 ? AHEAD_BY_COST : AHEAD_ALWAYS);
        run_scheduler(&cpu, cpu_eng, policy, AHEAD_NEVER);
        left_out += gpu.left_out;
        for (uint32_t i = 0; i < REQUESTS; i++) {
            check(gpu.ended[i] && cpu.ended[i] && gpu.n_tokens[i] == 6 + i * 2,
                  "request %u gives %u", i, gpu.n_tokens[i]);
            check(memcmp(gpu.tokens[i], cpu.tokens[i], sizeof gpu.tokens[i]) == 0 &&
                      memcmp(gpu.depths[i], cpu.depths[i], sizeof gpu.depths[i]) == 0,
                  "request %u, policy %d: the answer differs from the CPU's", i, policy);
            for (uint32_t n = 0; n < gpu.n_tokens[i]; n++)
                depths |= 1u << gpu.depths[i][n];
        }
    }
    check(left_out > 10, "only %llu rows were left out", (unsigned long long)left_out);
    check((depths & (depths - 1)) != 0, "all tokens have one depth: %x", depths);
    eng_backend_close(gpu_eng);
    eng_backend_close(cpu_eng);
    model_close(model);
    tmp_dir_remove(&dir);
}

void test_families(void) {
    family_golden ouro;
    if (!family_open(&ouro, "ouro")) return;
    check(ouro.n_cases == 9, "ouro: %u cases", ouro.n_cases);
    family_ways(&ouro);
    other_rules(&ouro);
    family_half_precision(&ouro);
    family_poisoned(&ouro);
    family_graphs(&ouro);
    family_mixes(ouro.model, on_shim ? 6 : 24, 1, "ouro");
    family_mixes(ouro.model, on_shim ? 6 : 24, 2, "ouro, two in flight");
    family_close(&ouro);
    an_odd_shape();
    odd_widths();
    deep_cores();
    changed_plans();
    the_scheduler();
}
