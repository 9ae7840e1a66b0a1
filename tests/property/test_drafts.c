/* test_drafts.c - speculation on real models: random requests in small random company, on the CPU
 * engine, with drafts and without. Tokens, depths, log-probabilities, alternatives and ends must be
 * equal to the bit, whatever the number of drafts, their loops, the policy, the exit rule, the
 * kind of weights and cache, the pool, the ranks and the sampling.
 *
 *   FATHOM_SEED=N   first seed (else from the clock; printed)
 *   FATHOM_RUNS=N   requests */
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"
#include "scheduler/scheduler_internal.h"
#include "tests/lib/fake_form.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/rank_group.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(drafts_property, .fini = fail_on_leaks, .timeout = 3 * HANGS_S);

enum {
    REQUESTS = 10,
    MOST_PROMPT = 60,
    SHORT_PROMPT = 12,
    MOST_TOKENS = 28,
    BIASES = 2,
    LAUNCH = 48
};

static uint64_t draw(uint64_t *state) {
    return hash_mix(*state += HASH_STEP);
}
static uint32_t between(uint64_t *state, uint32_t low, uint32_t high) {
    return low + (uint32_t)(draw(state) % (high - low + 1));
}
static bool chance(uint64_t *state, uint32_t percent) {
    return draw(state) % 100 < percent;
}
static uint32_t least(uint32_t x, uint32_t y) {
    return x < y ? x : y;
}

/* ---- requests ---- */

typedef struct {
    sched_request req;
    uint32_t prompt[MOST_PROMPT], stop[2];
    eng_bias bias[BIASES];
    uint64_t form_seed;
    uint32_t fails_one_in;
    uint32_t pause;      /* steps before it is sent */
    uint32_t cancels_at; /* it is cancelled at this token; 0 = never */
} wish;

static void draw_sampling(wish *ask, uint32_t vocab, uint64_t *state) {
    eng_sampling *sampling = &ask->req.sampling;
    *sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1, .seed = draw(state)};
    if (chance(state, 50)) sampling->temperature = chance(state, 50) ? 0.3f : 0.9f;
    if (chance(state, 20)) sampling->top_k = between(state, 1, 20);
    if (chance(state, 20)) sampling->top_p = 0.9f;
    if (chance(state, 20)) sampling->min_p = 0.05f;
    if (chance(state, 20)) sampling->repetition_penalty = chance(state, 50) ? 1.3f : 0.8f;
    if (chance(state, 20)) sampling->presence_penalty = 0.7f;
    if (chance(state, 20)) sampling->frequency_penalty = 0.4f;
    if (!chance(state, 20)) return;
    sampling->n_bias = BIASES;
    for (uint32_t i = 0; i < BIASES; i++)
        ask->bias[i] = (eng_bias){between(state, 0, vocab - 1), (float)between(state, 0, 12) - 6};
    sampling->bias = ask->bias;
}

static void draw_depth(wish *ask, const eng_backend_info *info, const model_plan *plan,
                       uint64_t *state) {
    static const float thresholds[] = {0.003f, 0.01f, 0.03f, 0.1f, 0.2f, 0.4f, 0.6f, 0.8f, 0.95f};
    sched_depth *depth = &ask->req.depth;
    uint32_t loops = info->n_planes - plan_planes(plan, 0);
    err e = {0};
    float threshold = thresholds[between(state, 0, ARRAY_LEN(thresholds) - 1)];
    if (chance(state, 50) && exit_rule_check(info->exit, threshold, "", &e) == 0)
        depth->threshold = threshold;
    uint32_t most = between(state, 1, loops), fewest = between(state, 1, most);
    bool own = chance(state, 30) && plan_check_loops(plan, most, "", &e) == 0;
    if (!own || plan_check_loops(plan, fewest, "", &e) != 0) return;
    depth->max_loops = (uint16_t)most;
    depth->min_loops = (uint16_t)fewest;
}

/* Some prompts begin alike, to meet the prefix cache too. Short ones leave room for drafts. */
static void draw_wish(wish *ask, const eng_backend *backend, uint64_t *state) {
    const model_plan *plan = backend->plan;
    sched_request *req = &ask->req;
    *ask = (wish){.pause = between(state, 0, 12)};
    req->max_tokens = between(state, 1, MOST_TOKENS);
    uint32_t longest = chance(state, 40) ? SHORT_PROMPT : MOST_PROMPT;
    longest = least(longest, plan->max_seq_len - req->max_tokens);
    req->n_prompt = between(state, chance(state, 50) ? 1 : longest, longest);
    uint32_t family = between(state, 0, 1), alike = chance(state, 70) ? MOST_PROMPT : 20;
    for (uint32_t i = 0; i < req->n_prompt; i++)
        ask->prompt[i] = i < alike ? (i * 7 + family) % plan->vocab_size
                                   : between(state, 0, plan->vocab_size - 1);
    req->prompt = ask->prompt;
    draw_sampling(ask, plan->vocab_size, state);
    draw_depth(ask, &backend->info, plan, state);
    if (chance(state, 40)) {
        req->n_stop_ids = ARRAY_LEN(ask->stop);
        for (size_t i = 0; i < ARRAY_LEN(ask->stop); i++)
            ask->stop[i] = between(state, 0, plan->vocab_size - 1);
        req->stop_ids = ask->stop;
        req->min_tokens = between(state, 0, 9);
    }
    req->n_top = chance(state, 30) ? between(state, 1, 5) : 0;
    req->prompt_logprobs = chance(state, 10);
    req->priority = (int32_t)between(state, 0, 2);
    if (chance(state, 10)) ask->cancels_at = between(state, 1, req->max_tokens);
    if (!chance(state, 20)) return;
    ask->form_seed = draw(state) | 1;
    if (chance(state, 30)) ask->fails_one_in = 20;
}

/* ---- answers ---- */

typedef struct {
    uint64_t id;
    uint32_t n, n_shown, cancels_at; /* n_shown: drafts told and not replaced */
    uint32_t tokens[MOST_TOKENS], depths[MOST_TOKENS], shown[MOST_TOKENS];
    float logprobs[MOST_TOKENS];
    uint64_t tops[MOST_TOKENS], scores; /* hashes of alternatives, of prompt events */
    sched_event end;
    fake_form form;
} answer;

typedef struct {
    scheduler *sched;
    const wish *wishes;
    answer answers[REQUESTS];
    uint32_t n;
    uint64_t confirmed;    /* tokens shown as a draft before */
    uint64_t from_prompts; /* drafts told of first tokens */
} answers;

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint64_t hash_event(uint64_t hash, const sched_event *ev) {
    hash = hash_mix(hash + ev->token + ((uint64_t)ev->depth << 32));
    hash = hash_mix(hash + bits_of(ev->logprob));
    for (uint32_t i = 0; i < ev->n_top; i++)
        hash = hash_mix(hash_mix(hash + ev->top[i].id) + bits_of(ev->top[i].logprob));
    return hash;
}

static void on_token(answers *all, answer *ans, const sched_request *req, const sched_event *ev) {
    cr_assert_eq(ev->pos, req->n_prompt + ans->n, "a token out of order");
    bool confirms = ans->n_shown > 0 && ans->shown[0] == ev->token;
    all->confirmed += confirms;
    ans->n_shown = confirms ? ans->n_shown - 1 : 0;
    memmove(ans->shown, ans->shown + 1, ans->n_shown * sizeof *ans->shown);
    ans->tokens[ans->n] = ev->token;
    ans->depths[ans->n] = ev->depth;
    ans->logprobs[ans->n] = ev->logprob;
    ans->tops[ans->n++] = hash_event(0, ev);
    if (ans->n == ans->cancels_at) sched_cancel(all->sched, ans->id);
}

static void on_draft(answers *all, answer *ans, const sched_request *req, const sched_event *ev) {
    uint32_t next = req->n_prompt + ans->n;
    cr_assert(req->tell_drafts && ev->pos >= next && ev->pos <= next + ans->n_shown,
              "a draft for %u behind %u tokens and %u drafts", ev->pos, ans->n, ans->n_shown);
    cr_assert_lt(ev->pos + 1, req->n_prompt + req->max_tokens, "a draft of a token never run");
    ans->shown[ev->pos - next] = ev->token;
    ans->n_shown = ev->pos - next + 1;
    all->from_prompts += ev->pos == req->n_prompt;
}

static void on_event(void *ud, const sched_event *ev) {
    answers *all = ud;
    for (uint32_t i = 0; i < all->n; i++) {
        answer *ans = &all->answers[i];
        if (ans->id != ev->id) continue;
        const sched_request *req = &all->wishes[i].req;
        cr_assert_neq(ans->end.kind, SCHED_END, "an event after the end");
        if (ev->kind == SCHED_END) ans->end = *ev;
        if (ev->kind == SCHED_PROMPT) ans->scores = hash_event(ans->scores, ev);
        if (ev->kind == SCHED_TOKEN) on_token(all, ans, req, ev);
        if (ev->kind == SCHED_DRAFT) on_draft(all, ans, req, ev);
    }
}

static void submit(answers *all, const wish *ask, bool tell) {
    answer *ans = &all->answers[all->n];
    sched_request req = ask->req;
    err e = {0};
    *ans = (answer){.cancels_at = ask->cancels_at};
    req.tell_drafts = tell;
    if (ask->form_seed) {
        uint32_t vocab = least(all->sched->plan->vocab_size, FAKE_FORM_VOCAB);
        ans->form = fake_form_begin(ask->form_seed, vocab, ask->fails_one_in);
        fake_form_expect(&ans->form, ask->form_seed >> 32);
        req.constraint = &fake_form_calls;
        req.ud = &ans->form;
    }
    all->n++;
    cr_assert_eq(sched_submit(all->sched, &req, &ans->id, &e), 0, "%s", e.msg);
}

/* Sends each request after its pause, and runs all to their ends. */
static void run(eng_backend *backend, const sched_opts *opts, wish *wishes, bool tell, answers *out,
                sched_stats *stats) {
    err e = {0};
    *out = (answers){.wishes = wishes};
    for (uint32_t i = 0; i < REQUESTS; i++)
        wishes[i].req.tell_drafts = tell;
    cr_assert_eq(sched_create(&out->sched, backend, opts, on_event, out, &e), 0, "%s", e.msg);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        submit(out, &wishes[i], tell);
        for (uint32_t k = wishes[i].pause; k > 0; k--)
            (void)rig_step_of(out->sched);
    }
    while (rig_step_of(out->sched)) {
    }
    sched_get_stats(out->sched, stats);
    /* One withdrawn for want of pages may prove right all the same. */
    if (tell) cr_assert_geq(out->confirmed, stats->drafts_accepted);
    sched_destroy(out->sched);
}

static void is_equal(const answer *got, const answer *want, const wish *ask, const char *what) {
    bool whole = ask->cancels_at == 0;
    cr_assert(!got->form.misused && !want->form.misused, "%s: a constraint is misused", what);
    uint32_t n = least(got->n, want->n);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(got->tokens[i], want->tokens[i], "%s: token %u of %u", what, i, n);
        cr_assert_eq(got->depths[i], want->depths[i], "%s: depth of token %u", what, i);
        cr_assert_eq(bits_of(got->logprobs[i]), bits_of(want->logprobs[i]),
                     "%s: log-probability %u", what, i);
        cr_assert_eq(got->tops[i], want->tops[i], "%s: alternatives of token %u", what, i);
    }
    if (!whole) return;
    cr_assert_eq(got->n, want->n, "%s: %u tokens, not %u", what, got->n, want->n);
    cr_assert(got->end.finish == want->end.finish && got->end.why == want->end.why &&
                  got->end.stop_id == want->end.stop_id,
              "%s: another end", what);
    cr_assert_eq(got->end.output_loops, want->end.output_loops, "%s: loops", what);
    bool scored = ask->req.prompt_logprobs && want->end.finish != SCHED_FAILED;
    if (scored) cr_assert_eq(got->scores, want->scores, "%s: scores of the prompt", what);
}

/* ---- machines ---- */

typedef struct {
    uint64_t requests, tokens, drafts, from_prompts, accepted, withdrawn, preemptions, cached;
} counts;

static const char *const bundled[] = {"models/hops", "models/demo"};
enum { MODELS = GOLDEN_FOLDERS + ARRAY_LEN(bundled) };

static const char *folder(uint64_t k) {
    k %= MODELS;
    return k < GOLDEN_FOLDERS ? golden_folders[k] : bundled[k - GOLDEN_FOLDERS];
}

/* With any exit rule that the weights allow. */
static eng_backend_opts draw_backend(const model_plan *plan, uint64_t *state) {
    eng_backend_opts opts = {.threads = 1,
                             .n_rows = 2 * LAUNCH,
                             .max_launch = LAUNCH,
                             .max_positions = least(MOST_PROMPT + MOST_TOKENS, plan->max_seq_len),
                             .cache_bytes = 32u << 20};
    opts.weights = (eng_weights)between(state, 0, ENG_WEIGHTS_KINDS - 1);
    opts.cache_dtype = chance(state, 30) ? DTYPE_BF16 : DTYPE_F32;
    exit_rule rule = (exit_rule)between(state, 0, 31);
    if (plan->exits >> rule & 1) opts.own_exit = true, opts.exit = rule;
    return opts;
}

/* Positions of the longest request, and half as many more. */
static uint64_t tight_bytes(const model_plan *plan, const eng_backend_opts *opts) {
    uint64_t value = opts->cache_dtype == DTYPE_BF16 ? 2 : 4;
    uint64_t slot = (uint64_t)plan->slot_values * value;
    return plan_planes(plan, plan->loops_default) * slot * (MOST_PROMPT + MOST_TOKENS) * 3 / 2;
}

static eng_backend *open_cpu(const model_folder *model, const eng_backend_opts *opts) {
    eng_backend *backend;
    err e = {0};
    cr_assert_eq(eng_cpu_open(&backend, model, opts, &e), 0, "%s", e.msg);
    return backend;
}

/* Few sequences at once: then there is room for drafts. */
static sched_opts draw_opts(uint64_t *state) {
    static const uint32_t drafts[] = {SCHED_DRAFTS_AUTO, 1, 3, 8};
    sched_opts opts;
    sched_opts_default(&opts);
    opts.halted_kv = chance(state, 50) ? KV_EXACT : KV_LAST;
    opts.chunk = between(state, 1, 40);
    opts.max_rows = between(state, 8, LAUNCH);
    opts.max_running = chance(state, 60) ? between(state, 1, 3) : between(state, 4, REQUESTS);
    opts.prefix_cache = chance(state, 50);
    opts.drafts = drafts[between(state, 0, ARRAY_LEN(drafts) - 1)];
    opts.draft_loops = between(state, 0, 2);
    return opts;
}

static void count(const sched_stats *stats, const answers *got, counts *sum) {
    sum->requests += REQUESTS;
    for (uint32_t i = 0; i < REQUESTS; i++)
        sum->tokens += got->answers[i].n;
    sum->drafts += stats->draft_tokens;
    sum->from_prompts += got->from_prompts;
    sum->accepted += stats->drafts_accepted;
    sum->withdrawn += stats->drafts_withdrawn;
    sum->preemptions += stats->preemptions;
    sum->cached += stats->prefix_hits;
}

static void one_machine(uint64_t seed, counts *sum) {
    static wish wishes[REQUESTS];
    static answers got, want;
    static sched_stats stats;
    uint64_t state = seed;
    const char *dir = folder(seed);
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    const model_plan *plan = model_plan_of(model);
    eng_backend_opts opts = draw_backend(plan, &state);
    eng_backend *plain = open_cpu(model, &opts);
    if (chance(&state, 40)) opts.cache_bytes = tight_bytes(plan, &opts);
    opts.homes = chance(&state, 50);
    rank_group *group;
    uint32_t n_ranks = chance(&state, 85) ? 1 : between(&state, 2, 3);
    eng_backend *other = rank_group_start(&group, n_ranks, model, &opts, 1, eng_cpu_open, &e);
    cr_assert_not_null(other, "%s", e.msg);
    for (uint32_t i = 0; i < REQUESTS; i++)
        draw_wish(&wishes[i], plain, &state);
    sched_opts with = draw_opts(&state), without = with;
    without.drafts = 0;
    without.chunk = between(&state, 1, 40);
    run(plain, &without, wishes, false, &want, &stats);
    cr_assert_eq(stats.draft_tokens, 0);
    run(other, &with, wishes, chance(&state, 50), &got, &stats);
    char what[160];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        (void)snprintf(what, sizeof what,
                       "FATHOM_SEED=%" PRIu64 " FATHOM_RUNS=%d: %s on %u ranks, request %u", seed,
                       REQUESTS, dir, n_ranks, i);
        is_equal(&got.answers[i], &want.answers[i], &wishes[i], what);
    }
    count(&stats, &got, sum);
    eng_backend_close(plain);
    rank_group_close(group);
    model_close(model);
}

static uint64_t env_u64(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

/* Everything was met that the answers must not show. */
static bool met_all(const counts *sum) {
    return sum->accepted > 0 && sum->withdrawn > 0 && sum->preemptions > 0 && sum->cached > 0 &&
           sum->from_prompts > 0;
}

Test(drafts_property, answers_with_drafts_are_those_without_to_the_bit) {
    uint64_t seed = env_u64("FATHOM_SEED", clock_ns() & 0xffffffff),
             runs = env_u64("FATHOM_RUNS", 400);
    counts sum = {0};
    /* A seed from the clock may meet something late, so that many runs go on until all is met. */
    bool many = runs >= 200;
    for (uint64_t i = 0;
         sum.requests < runs || (many && !met_all(&sum) && sum.requests < 20 * runs); i++)
        one_machine(seed + i, &sum);
    fprintf(stderr,
            "FATHOM_SEED=%" PRIu64 " FATHOM_RUNS=%" PRIu64 ": %" PRIu64 " requests, %" PRIu64
            " tokens, %" PRIu64 " drafts, %" PRIu64 " told from prompts, %" PRIu64
            " accepted, %" PRIu64 " withdrawn, %" PRIu64 " preemptions, %" PRIu64
            " prompt tokens from the prefix cache\n",
            seed, runs, sum.requests, sum.tokens, sum.drafts, sum.from_prompts, sum.accepted,
            sum.withdrawn, sum.preemptions, sum.cached);
    cr_assert(!many || met_all(&sum), "something never happened");
}
