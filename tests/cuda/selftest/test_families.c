/* test_families.c - other families than OpenMythos over the CUDA backend: the published answers
 * for any batches and launches in flight, other plans against the CPU engine, the scheduler. */
#include "tests/cuda/selftest/families.h"

#include "scheduler/scheduler_internal.h"
#include "tests/lib/files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Runs one case and says how far it is off; worst is infinite if it does not run. */
static family_error run_spec(const family_golden *f, const family_case *c, const drive_spec *spec,
                             const char *kernels, model_dtype held) {
    family_error far = {.depths = c->n, .worst = INFINITY};
    eng_backend_opts o = drive_opts(spec, kernels, held);
    eng_backend *b = open_backend(f->model, &o);
    drive_result r = {0};
    if (b && drive(b, spec, &r)) far = family_compare(c, spec, &r);
    drive_result_deinit(&r);
    eng_backend_close(b);
    return far;
}

/* Graphs for a whole prompt. poisoned_graphs compares their results to the bit, and capturing them
 * takes the shim longer than these runs. */
static void published(const family_golden *f, const family_case *c, const drive_spec *spec,
                      const char *how) {
    bool graphs = !on_shim || (spec->seed == 0 && spec->max_rows > c->n);
    family_error far = run_spec(f, c, spec, graphs ? "f32" : "f32-stream", DTYPE_F32);
    check(far.depths == 0 && far.worst <= 1e-4,
          "%s, %u loops, threshold %g, %s: %u depths differ, logits are off by %g", f->name,
          c->loops, (double)c->threshold, how, far.depths, far.worst);
}

/* Whole and in chunks of any size, alone and among others, one launch or two in flight, as a
 * prompt and position by position. */
static void golden_ways(const family_golden *f) {
    for (uint32_t i = 0; i < f->n_cases; i++) {
        const family_case *c = &f->cases[i];
        drive_spec whole = family_spec(c, 96, 0, false), chunks = family_spec(c, 5, 0, false);
        drive_spec mixed = family_spec(c, 96, 40 + i, true), few = family_spec(c, 7, 70 + i, true);
        published(f, c, &whole, "whole");
        published(f, c, &chunks, "chunks of 5");
        published(f, c, &mixed, "in company");
        published(f, c, &few, "in company, few rows");
        mixed.flights = few.flights = 2;
        published(f, c, &mixed, "two in flight");
        few.one_by_one = true;
        published(f, c, &few, "two in flight, one by one");
        if (!c->fixed) continue;
        whole.own_exit = true;
        whole.exit = EXIT_FIXED;
        whole.threshold = 0;
        published(f, c, &whole, "by the rule fixed");
    }
}

/* The output after d loops does not depend on the exit rule: every rule's logits are the published
 * ones of the same depth. */
static void other_rules(const family_golden *f) {
    static const struct {
        exit_rule rule;
        float threshold;
    } ways[] = {{EXIT_LATENT_DIFF, 0.9f},
                {EXIT_LATENT_DIFF, 0.6f},
                {EXIT_COSINE, 0.4f},
                {EXIT_COSINE, 0.2f},
                {EXIT_HAZARD, 0.6f}};
    const family_case *deep = family_fixed(f, model_plan_of(f->model)->loops_default);
    if (!check(deep != NULL, "%s: no case of all loops", f->name)) return;
    uint32_t seen = 0;
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        drive_spec spec = family_spec(deep, 30, 90 + k, true);
        spec.own_exit = true;
        spec.exit = ways[k].rule;
        spec.threshold = ways[k].threshold;
        spec.flights = 1 + k % 2;
        eng_backend_opts o = drive_opts(&spec, "f32-stream", DTYPE_F32);
        eng_backend *b = open_backend(f->model, &o);
        drive_result r = {0};
        double off = 0;
        if (b && check(b->info.exit == ways[k].rule, "the rule is not the one asked for") &&
            drive(b, &spec, &r)) {
            for (uint32_t i = 0; i < deep->n; i++) {
                const family_case *c = family_fixed(f, r.depth[0][i]);
                size_t at = (size_t)i * deep->vocab;
                if (!check(c != NULL, "no case of %u loops", r.depth[0][i])) continue;
                off = fmax(off, worst(r.logits[0] + at, c->logits + at, deep->vocab));
                seen |= 1u << c->loops;
            }
            check(off <= 1e-4, "%s by %s, threshold %g: logits are off by %g", f->name,
                  exit_rule_name(ways[k].rule), (double)ways[k].threshold, off);
        }
        drive_result_deinit(&r);
        eng_backend_close(b);
    }
    check((seen & (seen - 1)) != 0, "%s: the rules saw depths %x only", f->name, seen);
}

/* bfloat16 weights, activations and cache, by own kernels and through (emulated) cuBLAS. Only a
 * position with a sum near the threshold may leave elsewhere. */
static void half_precision(const family_golden *f) {
    enum { MOST_DEPTHS = 3 };
    const double limit = 0.03; /* 0.02 on the shim */
    for (uint32_t i = 0; i < f->n_cases; i++) {
        const family_case *c = &f->cases[i];
        drive_spec few = family_spec(c, 20, 11 + i, true), many = family_spec(c, 96, 0, true);
        family_error a = run_spec(f, c, &few, "bf16-stream", DTYPE_BF16);
        family_error b = run_spec(f, c, &many, "bf16", DTYPE_BF16);
        uint32_t most = c->fixed ? 0 : MOST_DEPTHS;
        check(
            a.worst <= limit && b.worst <= limit && a.depths <= most && b.depths <= most,
            "%s, %u loops, threshold %g in bf16: %u and %u depths differ, logits off by %g and %g",
            f->name, c->loops, (double)c->threshold, a.depths, b.depths, a.worst, b.worst);
    }
}

static void poisoned_graphs(const family_golden *f) {
    const family_case *c = &f->cases[1];
    drive_spec one = family_spec(c, 40, 3, true), two = family_spec(c, 80, 0, true);
    two.flights = 2;
    two.one_by_one = true;
    check_poisoned_spec(f->model, &one, "f32", "f32-stream", DTYPE_F32, f->name);
    check_poisoned_spec(f->model, &two, "bf16", "bf16-stream", DTYPE_BF16, f->name);
}

/* The number of nodes follows the README's arithmetic: begin, 8 kernels a layer (9 with a SiLU
 * kernel beside cuBLAS), loop_end; a graph of two nodes for a stage without layers, for the head,
 * one and the sampling. */
static void graphs_are_counted(const family_golden *f) {
    static const struct {
        const char *kernels;
        uint32_t shared; /* graphs for prompts with shared tiles, from capacity 2 on */
        uint32_t silu;   /* of a layer, from the first capacity with products by cuBLAS on */
    } ways[] = {{"f32", 0, 0}, {"bf16", 1, 1}};
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        eng_backend_opts o = {.n_rows = 96,
                              .cache_bytes = 8 << 20,
                              .max_positions = 64,
                              .cache_dtype = DTYPE_BF16,
                              .kernels = ways[k].kernels};
        eng_backend *b = open_backend(f->model, &o);
        uint32_t layers = model_plan_of(f->model)->n_core, graphs = 0, nodes = 0, more = 0;
        if (b == NULL) continue;
        const cu_backend *c = (const cu_backend *)b;
        for (uint32_t rows = 1; rows < 192; rows *= 2) { /* 1, 2, 4, … 64, 96 */
            uint32_t modes = rows > 1 ? 1 + ways[k].shared : 1;
            bool blas = rows >= c->blas_rows;
            nodes += modes * (2 + layers * (8 + (blas ? ways[k].silu : 0))) + 3 * 2;
            graphs += modes + 3;
            /* cuBLAS may split a product in two nodes: 4 of a layer, and the head. */
            if (blas && !on_shim) more += modes * 4 * layers + 1;
        }
        check(c->n_graphs == graphs && c->graph_nodes >= nodes && c->graph_nodes <= nodes + more,
              "%s: %u graphs of %llu nodes, must be %u of %u to %u", ways[k].kernels, c->n_graphs,
              (unsigned long long)c->graph_nodes, graphs, nodes, nodes + more);
        eng_backend_close(b);
    }
}

/* ---- other plans against the CPU engine ---- */

/* Random mixes under both policies and every rule the weights allow. */
static void mixes(const model_folder *m, uint32_t rounds, uint32_t flights, const char *what) {
    static const struct {
        exit_rule rule;
        float threshold;
    } ways[] = {{EXIT_HAZARD, 0.5f},      {EXIT_HAZARD, 0.8f},  {EXIT_FIXED, 0},
                {EXIT_LATENT_DIFF, 0.7f}, {EXIT_COSINE, 0.25f}, {EXIT_HAZARD, 0.3f}};
    rng r = {17 + flights};
    for (uint32_t k = 0; k < rounds; k++) {
        drive_spec spec = random_spec(model_plan_of(m), 4, on_shim ? 20 : DRIVE_LEN, 500 + k, &r);
        spec.own_exit = true;
        spec.exit = ways[k % ARRAY_LEN(ways)].rule;
        spec.threshold = ways[k % ARRAY_LEN(ways)].threshold;
        spec.flights = flights;
        spec.one_by_one = k & 2;
        compare_with_cpu(m, &spec, "f32-stream", what);
    }
}

/* Queries wider than the residual stream, grouped keys, one embedding for head and input, another
 * eps and depth. */
static void an_odd_shape(void) {
    model_plan p;
    err e = {0};
    model_folder *m = NULL;
    if (!check(plan_variant(&p, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    p.dim = 40;
    p.n_heads = 6;
    p.n_kv_heads = 2;
    p.head_dim = 24;
    p.ffn_dim = 50;
    p.n_core = 5;
    p.norm_eps = 1e-3f;
    p.tied_head = true;
    plan_derive(&p);
    tmp_dir dir = tmp_dir_create();
    if (family_random(&m, &dir, &p, 2)) mixes(m, on_shim ? 3 : 12, 1, "an odd shape");
    model_close(m);
    tmp_dir_remove(&dir);
}

/* OpenMythos of widths not divisible by a vector access; the loop embedding has 9, 2 and no
 * channels. */
static void odd_widths(void) {
    static const uint32_t widths[] = {72, 23, 7};
    for (size_t k = 0; k < ARRAY_LEN(widths); k++) {
        model_plan p;
        err e = {0};
        model_folder *m = NULL;
        char what[32];
        rng r = {41};
        if (!check(plan_variant(&p, "tiny", &e) == 0, "%s", e.msg)) return;
        p.dim = widths[k];
        p.ffn_dim = p.dim * 4 / 3;
        plan_derive(&p);
        tmp_dir dir = tmp_dir_create();
        if (family_random(&m, &dir, &p, 3)) {
            drive_spec spec = random_spec(&p, 2, 16, 600 + k, &r);
            (void)snprintf(what, sizeof what, "width %u", p.dim);
            compare_with_cpu(m, &spec, "f32", what);
        }
        model_close(m);
        tmp_dir_remove(&dir);
    }
}

/* Capacities 1 and 2, the latter with a graph for shared tiles too; stages of no layers and the
 * head have two nodes each. */
static void deep_graphs(const model_folder *m, uint32_t layers) {
    eng_backend_opts o = {.n_rows = 8,
                          .max_launch = 2,
                          .max_logits = 2,
                          .cache_bytes = 8 << 20,
                          .max_positions = 32,
                          .cache_dtype = DTYPE_BF16,
                          .kernels = "bf16"};
    eng_backend *b = open_backend(m, &o);
    const cu_backend *c = (const cu_backend *)b;
    uint32_t nodes = 3 * (2 + 8 * layers) + 2 * 3 * 2;
    if (b == NULL) return;
    check(c->n_graphs == 9 && c->graph_nodes == nodes,
          "%u layers: %u graphs of %llu nodes, must be %u", layers, c->n_graphs,
          (unsigned long long)c->graph_nodes, nodes);
    eng_backend_close(b);
}

/* Graphs on the device's side, and few positions: 192 layers a position then take the shim only
 * seconds. */
static void deep_answers(const model_folder *m, uint32_t layers) {
    static uint32_t ids[2][5];
    char what[32];
    rng r = {layers};
    for (uint32_t i = 0; i < 10; i++)
        ids[i / 5][i % 5] = rng_below(&r, model_plan_of(m)->vocab_size);
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
    compare_with_cpu(m, &spec, "f32", what);
}

/* As many layers as Ouro has, of tiny width: the graphs hold as many nodes as the README's
 * arithmetic says, and depths and logits are the CPU engine's. */
static void deep_cores(void) {
    static const uint32_t layers[] = {24, 48};
    for (size_t k = 0; k < ARRAY_LEN(layers); k++) {
        model_plan p;
        err e = {0};
        model_folder *m = NULL;
        if (!check(plan_variant(&p, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
        p.dim = p.ffn_dim = 32;
        p.n_heads = p.n_kv_heads = 2;
        p.vocab_size = 64;
        p.n_core = layers[k];
        plan_derive(&p);
        tmp_dir dir = tmp_dir_create();
        if (family_random(&m, &dir, &p, 2)) {
            deep_graphs(m, layers[k]);
            deep_answers(m, layers[k]);
        }
        model_close(m);
        tmp_dir_remove(&dir);
    }
}

/* The published plan with one thing changed: no file says so, but both engines read the plan. */
static void changed_plans(void) {
    model_folder *m;
    err e = {0};
    const char *dir = "tests/golden/families/ouro";
    if (!check(model_open(&m, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    model_plan *p = (model_plan *)(uintptr_t)model_plan_of(m);
    const model_plan was = *p;
    p->norms = NORM_PRE;
    mixes(m, on_shim ? 2 : 6, 2, "norms before the sublayers only");
    *p = was;
    p->loop_norm = false;
    mixes(m, on_shim ? 1 : 6, 1, "no norm between loops");
    *p = was;
    p->embed_scale = 3.5f;
    p->rope_halves = false;
    mixes(m, on_shim ? 1 : 6, 1, "scaled embeddings, neighbours turned");
    *p = was;
    model_close(m);
}

/* ---- the scheduler over it ---- */

enum { REQUESTS = 9, MOST_TOKENS = 30 };

typedef struct {
    uint64_t ids[REQUESTS];
    uint32_t tokens[REQUESTS][MOST_TOKENS], depths[REQUESTS][MOST_TOKENS], n[REQUESTS];
    bool ended[REQUESTS];
    uint64_t left_out;
} answers;

static void on_event(void *ud, const sched_event *ev) {
    answers *a = ud;
    uint32_t i = 0;
    while (i < REQUESTS && a->ids[i] != ev->id)
        i++;
    if (!check(i < REQUESTS, "an event for nobody")) return;
    if (ev->kind == SCHED_TOKEN && a->n[i] < MOST_TOKENS) {
        a->tokens[i][a->n[i]] = ev->token;
        a->depths[i][a->n[i]++] = ev->depth;
    }
    if (ev->kind == SCHED_END) a->ended[i] = ev->finish == SCHED_LENGTH;
}

/* Prompts of 3 to 40 tokens, some sampled, some of fewer loops, thresholds of their own. */
static void submit(scheduler *s, answers *a, uint32_t k, uint32_t vocab) {
    static const float thresholds[] = {0, 0.4f, 1, 0.7f};
    uint32_t prompt[40], n = 3 + k * 17 % 38;
    err e = {0};
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (i * 31 + k * 7 + 13) % vocab;
    sched_request r = {.prompt = prompt, .n_prompt = n, .max_tokens = 6 + k * 2};
    r.sampling = (eng_sampling){
        .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
    r.depth.threshold = thresholds[k % ARRAY_LEN(thresholds)];
    if (k % 4 == 1) r.depth.max_loops = 2;
    if (k % 4 == 2) r.depth.min_loops = 2;
    check(sched_submit(s, &r, &a->ids[k], &e) == 0, "submit: %s", e.msg);
}

static void run_scheduler(answers *a, eng_backend *b, kv_policy policy, ahead_rule ahead) {
    sched_opts o;
    err e = {0};
    scheduler *s;
    bool idle = false;
    *a = (answers){0};
    sched_opts_default(&o);
    o.halted_kv = policy;
    o.chunk = 7;
    o.max_rows = 64;
    if (!check(sched_create(&s, b, &o, on_event, a, &e) == 0, "scheduler: %s", e.msg)) return;
    s->ahead.rule = ahead;
    for (uint32_t k = 0; k < REQUESTS; k++) {
        submit(s, a, k, b->plan->vocab_size);
        for (int i = 0; i < 2; i++)
            check(sched_step(s, &idle, &e) == 0 && sched_sane(s, &e), "%s", e.msg);
    }
    for (uint32_t n = 0; n < 100000 && !idle; n++) {
        if (!check(sched_step(s, &idle, &e) == 0 && sched_sane(s, &e), "%s", e.msg)) break;
    }
    a->left_out = s->stats.voided_rows;
    sched_destroy(s);
}

static void the_scheduler(void) {
    model_plan p;
    err e = {0};
    model_folder *m = NULL;
    static answers gpu, cpu;
    uint64_t left_out = 0;
    uint32_t depths = 0;
    if (!check(plan_variant(&p, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    tmp_dir dir = tmp_dir_create();
    eng_backend_opts o = {.threads = 1,
                          .n_rows = 150,
                          .max_launch = 64,
                          .max_logits = 16,
                          .cache_bytes = 16 << 20,
                          .max_positions = 128,
                          .cache_dtype = DTYPE_F32};
    eng_backend_opts f32 = o;
    f32.kernels = "f32";
    eng_backend *b = NULL, *c = NULL;
    if (family_random(&m, &dir, &p, 2)) {
        b = open_backend(m, &f32);
        check(eng_cpu_open(&c, m, &o, &e) == 0, "cpu: %s", e.msg);
    }
    for (int k = 0; b && c && k < 3; k++) {
        kv_policy policy = k == 1 ? KV_LAST : KV_EXACT;
        run_scheduler(&gpu, b, policy, k == 2 ? AHEAD_BY_COST : AHEAD_ALWAYS);
        run_scheduler(&cpu, c, policy, AHEAD_NEVER);
        left_out += gpu.left_out;
        for (uint32_t i = 0; i < REQUESTS; i++) {
            check(gpu.ended[i] && cpu.ended[i] && gpu.n[i] == 6 + i * 2, "request %u gives %u", i,
                  gpu.n[i]);
            check(memcmp(gpu.tokens[i], cpu.tokens[i], sizeof gpu.tokens[i]) == 0 &&
                      memcmp(gpu.depths[i], cpu.depths[i], sizeof gpu.depths[i]) == 0,
                  "request %u, policy %d: the answer differs from the CPU's", i, policy);
            for (uint32_t n = 0; n < gpu.n[i]; n++)
                depths |= 1u << gpu.depths[i][n];
        }
    }
    check(left_out > 10, "only %llu rows were left out", (unsigned long long)left_out);
    check((depths & (depths - 1)) != 0, "all tokens have one depth: %x", depths);
    eng_backend_close(b);
    eng_backend_close(c);
    model_close(m);
    tmp_dir_remove(&dir);
}

void test_families(void) {
    family_golden ouro;
    if (!family_open(&ouro, "ouro")) return;
    check(ouro.n_cases == 9, "ouro: %u cases", ouro.n_cases);
    golden_ways(&ouro);
    other_rules(&ouro);
    half_precision(&ouro);
    poisoned_graphs(&ouro);
    graphs_are_counted(&ouro);
    mixes(ouro.model, on_shim ? 6 : 24, 1, "ouro");
    mixes(ouro.model, on_shim ? 6 : 24, 2, "ouro, two in flight");
    family_close(&ouro);
    an_odd_shape();
    odd_widths();
    deep_cores();
    changed_plans();
    the_scheduler();
}
