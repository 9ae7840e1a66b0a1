/* test_sched_request.c - refused requests, and the ends of single requests. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

TestSuite(sched_request, .fini = fail_on_leaks, .timeout = HANGS_S);

static fake_opts small(void) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.max_seq_len = 300;
    fake.n_blocks = 8;
    fake.n_slots = 8 * 32 * 10;
    return fake;
}

/* ---- refused at submit, and by name ---- */

typedef struct {
    const char *what;
    void (*spoil)(sched_request *q);
    err_code code;
    const char *param;
} bad_case;

static uint32_t high_ids[] = {64};
static eng_bias high_bias[] = {{64, 1}}, nan_bias[] = {{1, NAN}};

static void no_prompt(sched_request *req) {
    req->n_prompt = 0;
}
static void prompt_id(sched_request *req) {
    req->prompt = high_ids, req->n_prompt = 1;
}
static void no_tokens(sched_request *req) {
    req->max_tokens = 0;
}
static void stop_id(sched_request *req) {
    req->stop_ids = high_ids, req->n_stop_ids = 1;
}
static void bias_id(sched_request *req) {
    req->sampling.bias = high_bias, req->sampling.n_bias = 1;
}
static void bias_nan(sched_request *req) {
    req->sampling.bias = nan_bias, req->sampling.n_bias = 1;
}
static void many_top(sched_request *req) {
    req->n_top = ENG_MAX_TOP + 1;
}
static void deep(sched_request *req) {
    req->depth.max_loops = 9;
}
static void min_above_max(sched_request *req) {
    req->depth = (sched_depth){.min_loops = 5, .max_loops = 4};
}
static void high_threshold(sched_request *req) {
    req->depth.threshold = 1.5f;
}
static void low_threshold(sched_request *req) {
    req->depth.threshold = -1;
}
static void nan_threshold(sched_request *req) {
    req->depth.threshold = NAN;
}
static void beyond_context(sched_request *req) {
    req->max_tokens = 297;
}
static void beyond_count(sched_request *req) {
    req->max_tokens = UINT32_MAX;
}
static void beyond_cache(sched_request *req) {
    req->max_tokens = 290;
}

static const bad_case bad[] = {
    {"no prompt", no_prompt, ERR_BAD_PARAM, "prompt"},
    {"prompt id not in the vocabulary", prompt_id, ERR_BAD_PARAM, "prompt"},
    {"nothing to put out and nothing to score", no_tokens, ERR_BAD_PARAM, "max_tokens"},
    {"stop id not in the vocabulary", stop_id, ERR_BAD_PARAM, "stop_token_ids"},
    {"bias on an id not in the vocabulary", bias_id, ERR_BAD_PARAM, "logit_bias"},
    {"bias that is not a number", bias_nan, ERR_BAD_PARAM, "logit_bias"},
    {"too many alternatives", many_top, ERR_BAD_PARAM, "logprobs"},
    {"more loops than the ceiling", deep, ERR_BAD_PARAM, "depth.max_loops"},
    {"least loops above most", min_above_max, ERR_BAD_PARAM, "depth.min_loops"},
    {"threshold above one", high_threshold, ERR_BAD_PARAM, "depth.threshold"},
    {"threshold below zero", low_threshold, ERR_BAD_PARAM, "depth.threshold"},
    {"threshold not a number", nan_threshold, ERR_BAD_PARAM, "depth.threshold"},
    {"longer than the context", beyond_context, ERR_TOO_LONG, "max_tokens"},
    {"longer than any number", beyond_count, ERR_TOO_LONG, "max_tokens"},
    {"more than the cache can ever hold", beyond_cache, ERR_TOO_LONG, "max_tokens"},
};

Test(sched_request, a_bad_one_is_refused_by_name_and_leaves_nothing_behind) {
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint32_t prompt[4];
        sched_request req = rig_request(prompt, 4, 4, 1);
        bad[i].spoil(&req);
        err e = {0};
        uint64_t id = 7;
        cr_expect_eq(sched_submit(rig.sched, &req, &id, &e), -1, "%s", bad[i].what);
        cr_expect_eq(e.code, bad[i].code, "%s: %s", bad[i].what, e.msg);
        cr_expect_str_eq(e.param, bad[i].param, "%s", bad[i].what);
        cr_expect_eq(id, 0);
    }
    cr_assert_eq(rig_stats(&rig)->refused, ARRAY_LEN(bad));
    rig_close(&rig);
}

Test(sched_request, a_model_of_fixed_loops_runs_that_number_and_no_other) {
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    model_plan nanbeige;
    err e = {0};
    uint64_t id;
    uint32_t prompt[4];
    cr_assert_eq(plan_variant(&nanbeige, "nanbeige_tiny", &e), 0, "%s", e.msg);
    eng_backend *backend = fake_backend_create(&fake);
    model_plan *plan = fake_backend_config(backend);
    plan->family = nanbeige.family; /* for its name */
    plan->loops_default = plan->loops_cap = plan->loops_least = 3;
    opts.ceiling_loops = 3;
    scheduler *sched;
    cr_assert_eq(sched_create(&sched, backend, &opts, NULL, NULL, &e), 0, "%s", e.msg);
    cr_assert_eq(sched->limits.opts.default_min_loops, 3);
    static const sched_depth wrong[] = {{.max_loops = 2}, {.min_loops = 2}, {.max_loops = 4}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        sched_request req = rig_request(prompt, 4, 4, 1);
        req.depth = wrong[i];
        cr_expect_eq(sched_submit(sched, &req, &id, &e), -1);
        cr_expect_eq(e.code, ERR_BAD_PARAM);
        cr_expect(strstr(e.msg, "nanbeige models run exactly 3 loops"), "%s", e.msg);
    }
    sched_request req = rig_request(prompt, 4, 4, 1);
    req.depth.min_loops = req.depth.max_loops = 3;
    cr_expect_eq(sched_submit(sched, &req, &id, &e), 0, "%s", e.msg);
    sched_destroy(sched);
    eng_backend_close(backend);
}

Test(sched_request, a_full_queue_says_busy_and_has_room_again_later) {
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    opts.max_running = 2;
    opts.max_queue = 3;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[4];
    sched_request req = rig_request(prompt, 4, 4, 1);
    for (int i = 0; i < 5; i++)
        (void)rig_submit(&rig, &req);
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(rig.sched, &req, &id, &e), -1);
    cr_assert_eq(e.code, ERR_BUSY);
    rig_finish(&rig);
    (void)rig_submit(&rig, &req);
    rig_finish(&rig);
    rig_close(&rig);
}

Test(sched_request, waiting_prompt_tokens_are_bounded_too) {
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    opts.max_queue_tokens = 100;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[80];
    sched_request req = rig_request(prompt, 80, 4, 1);
    (void)rig_submit(&rig, &req);
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(rig.sched, &req, &id, &e), -1);
    cr_assert_eq(e.code, ERR_BUSY);
    rig_finish(&rig);
    rig_close(&rig);
}

typedef struct {
    const char *what;
    void (*spoil)(sched_opts *opts);
} bad_opts;
static void planes(sched_opts *opts) {
    opts->ceiling_loops = 9;
}
static void usual_above(sched_opts *opts) {
    opts->ceiling_loops = 4, opts->default_max_loops = 5;
}
static void least_above(sched_opts *opts) {
    opts->default_max_loops = 3, opts->default_min_loops = 4;
}
static void full_last(sched_opts *opts) {
    opts->batching = SCHED_FULL, opts->halted_kv = KV_LAST;
}
static void none_running(sched_opts *opts) {
    opts->max_running = 0;
}
static void no_rows(sched_opts *opts) {
    opts->max_rows = 0;
}

Test(sched_request, options_that_cannot_work_are_refused) {
    static const bad_opts all[] = {
        {"more loops than planes", planes}, {"usual above ceiling", usual_above},
        {"least above usual", least_above}, {"full with last", full_last},
        {"no place to run", none_running},  {"no rows", no_rows}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        fake_opts fake = small();
        sched_opts opts = rig_opts(KV_EXACT);
        all[i].spoil(&opts);
        eng_backend *backend = fake_backend_create(&fake);
        scheduler *sched = (scheduler *)&fake;
        err e = {0};
        cr_expect_eq(sched_create(&sched, backend, &opts, NULL, NULL, &e), -1, "%s", all[i].what);
        cr_expect_null(sched);
        cr_expect_eq(e.code, ERR_BAD_PARAM);
        eng_backend_close(backend);
    }
}

/* ---- how it ends ---- */

Test(sched_request, stop_ids_end_it_but_not_before_min_tokens) {
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8], stop[64];
    sched_request req = rig_request(prompt, 8, 20, 3);
    for (uint32_t i = 0; i < 64; i += 2)
        stop[i / 2] = i; /* every even id */
    req.stop_ids = stop;
    req.n_stop_ids = 32;
    req.min_tokens = 5;
    rig_out *out = &rig.out[rig_submit(&rig, &req)];
    rig_finish(&rig);
    cr_assert_geq(out->n, 5);
    for (uint32_t i = 0; i < out->n; i++)
        cr_assert_eq(out->tokens[i] % 2, 1);
    cr_assert_eq(out->end.finish, SCHED_STOP);
    cr_assert_eq(out->end.stop_id % 2, 0);
    cr_assert_eq(out->end.n_output, out->n);
    rig_close(&rig);
}

/* Allows 7 and 9 for three tokens, then every token. Refuses a drawn token on demand. */
typedef struct {
    uint64_t words[1];
    eng_mask mask;
    size_t made, taken, refused;
    size_t fail_at;          /* number of the failing mask, from 1; 0 = no failure */
    bool refuse_9, refuse_7; /* though the mask allows them */
} picky;

static err_code picky_make(void *ud) {
    picky *form = ud;
    form->words[0] = 1u << 7 | 1u << 9;
    form->mask = (eng_mask){form->words, 1};
    return ++form->made == form->fail_at ? ERR_COSTLY : ERR_NONE;
}
static const eng_mask *picky_mask(void *ud, uint32_t n) {
    (void)n;
    const picky *form = ud;
    return form->made <= 3 ? &form->mask : NULL;
}
static bool picky_take(void *ud, uint32_t token) {
    picky *form = ud;
    bool refused =
        form->made <= 3 && ((token == 9 && form->refuse_9) || (token == 7 && form->refuse_7));
    *(refused ? &form->refused : &form->taken) += 1;
    return !refused;
}
static const sched_constraint picky_calls = {picky_make, picky_mask, picky_take, NULL};

/* One constrained request among others; the others must not change. */
static rig_out run_picky(picky *form) {
    static rig_out out;
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8], others[2][8];
    sched_request req = rig_request(prompt, 8, 6, 3);
    req.constraint = &picky_calls;
    req.ud = form;
    const rig_out *mine = &rig.out[rig_submit(&rig, &req)], *other[2];
    for (uint32_t i = 0; i < 2; i++) {
        sched_request plain_one = rig_request(others[i], 8, 6, 4 + i);
        other[i] = &rig.out[rig_submit(&rig, &plain_one)];
    }
    rig_finish(&rig);
    for (uint32_t i = 0; i < 2; i++)
        cr_assert(other[i]->end.finish == SCHED_LENGTH && other[i]->n == 6);
    out = *mine;
    rig_close(&rig);
    return out;
}

Test(sched_request, a_constraint_chooses_what_may_come) {
    picky form = {.refuse_9 = true};
    rig_out out = run_picky(&form);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(out.tokens[i], 7, "a token that is refused is banned, and another drawn");
    cr_assert_eq(out.n, 6);
    cr_assert(form.made == 6 && form.taken == 6, "one mask and one token at a time");
}

Test(sched_request, an_answer_without_any_token_left_ends_alone_and_with_its_own_error) {
    picky form = {.refuse_9 = true, .refuse_7 = true};
    rig_out out = run_picky(&form);
    cr_assert(out.ended && out.n == 0 && form.refused == 2);
    cr_assert_eq(out.end.finish, SCHED_FAILED);
    cr_assert_eq(out.end.why, ERR_CONSTRAINT);
}

Test(sched_request, an_answer_whose_mask_cannot_be_made_ends_alone_and_with_its_own_error) {
    for (size_t at = 1; at <= 4; at++) {
        picky form = {.fail_at = at};
        rig_out out = run_picky(&form);
        cr_assert(out.ended && out.n == at - 1);
        cr_assert_eq(out.end.finish, SCHED_FAILED);
        cr_assert_eq(out.end.why, ERR_COSTLY);
    }
}

Test(sched_request, a_logit_that_is_not_a_number_ends_one_request_only) {
    fake_opts fake = small();
    fake.nan_at = 6;
    fake.policy = KV_LAST;
    sched_opts opts = rig_opts(KV_EXACT);
    opts.halted_kv = KV_LAST;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8];
    rig_out *out[6];
    for (uint32_t i = 0; i < 6; i++) {
        sched_request req = rig_request(prompt, 3 + i, 12, i);
        out[i] = &rig.out[rig_submit(&rig, &req)];
    }
    rig_finish(&rig);
    int failed = 0;
    for (int i = 0; i < 6; i++) {
        failed += out[i]->end.finish == SCHED_FAILED && out[i]->end.why == ERR_NUMERIC;
        if (out[i]->end.finish != SCHED_FAILED) cr_assert_eq(out[i]->n, 12);
    }
    cr_assert_eq(failed, 1);
    rig_close(&rig);
}

Test(sched_request, a_failed_device_ends_all_and_takes_no_more) {
    fake_opts fake = small();
    fake.fail_at = 9;
    sched_opts opts = rig_opts(KV_EXACT);
    opts.max_running = 2;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8];
    for (uint32_t i = 0; i < 4; i++) {
        sched_request req = rig_request(prompt, 8, 20, i);
        (void)rig_submit(&rig, &req);
    }
    err e = {0};
    bool idle = false;
    while (sched_step(rig.sched, &idle, &e) == 0)
        cr_assert(!idle);
    cr_assert_eq(e.code, ERR_DEVICE);
    for (uint64_t id = 1; id <= 4; id++) {
        cr_assert_eq(rig.out[id].end.finish, SCHED_FAILED);
        cr_assert_eq(rig.out[id].end.why, ERR_DEVICE);
    }
    sched_request req = rig_request(prompt, 8, 20, 9);
    uint64_t id;
    err again = {0};
    cr_assert_eq(sched_submit(rig.sched, &req, &id, &again), -1);
    cr_assert_eq(again.code, ERR_DEVICE);
    rig_close(&rig);
}

Test(sched_request, cancel_frees_its_pages_before_it_returns) {
    fake_opts fake = small();
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[100];
    for (uint32_t at = 0; at < 40; at += 3) {
        sched_request req = rig_request(prompt, 100, 30, at);
        uint64_t id = rig_submit(&rig, &req);
        rig_steps(&rig, at);
        sched_cancel(rig.sched, id);
        sched_cancel(rig.sched, id);
        sched_cancel(rig.sched, 100000);
        const sched_stats *st = rig_stats(&rig);
        cr_assert_eq(st->pages_free, st->pages);
        cr_assert_eq(rig.sched->n_free_rows, rig.sched->n_rows);
        cr_assert_eq(rig.out[id].end.finish, SCHED_CANCELLED);
    }
    rig_close(&rig);
}

/* ---- depth ---- */

Test(sched_request, depth_is_what_the_request_wishes) {
    for (int policy = 0; policy < 2; policy++) {
        fake_opts fake = small();
        fake.policy = (kv_policy)policy;
        sched_opts opts = rig_opts(KV_EXACT);
        opts.halted_kv = fake.policy;
        opts.default_max_loops = 4; /* "trained"; the ceiling stays at 8 planes */
        sched_rig rig = rig_open(&fake, &opts);
        static const sched_depth wish[] = {{0, 0, 0}, {0, 1, 0}, {3, 3, 0},
                                           {8, 8, 0}, {5, 0, 0}, {2, 7, 0.5f}};
        static const uint16_t low[] = {1, 1, 3, 8, 5, 2}, high[] = {4, 1, 3, 8, 5, 7};
        uint32_t prompt[40];
        for (uint32_t i = 0; i < 6; i++) {
            sched_request req = rig_request(prompt, 20, 16, i);
            req.depth = wish[i];
            (void)rig_submit(&rig, &req);
        }
        rig_finish(&rig);
        for (uint32_t i = 0; i < 6; i++) {
            const rig_out *out = &rig.out[i + 1];
            uint64_t loops = 0;
            for (uint32_t k = 0; k < 16; k++) {
                cr_assert(out->depth[k] >= low[i] && out->depth[k] <= high[i], "%u: %u", i,
                          out->depth[k]);
                if (k > 0) loops += out->depth[k];
            }
            cr_assert_eq(out->end.output_loops, loops);
            cr_assert(out->end.prompt_loops >= 20u * low[i] &&
                      out->end.prompt_loops <= 20u * high[i]);
        }
        rig_close(&rig);
    }
}

Test(sched_request, the_cap_lowers_depth_under_load_and_gives_it_back) {
    fake_opts fake = small();
    fake.mean_depth = 6;
    sched_opts opts = rig_opts(KV_EXACT);
    opts.max_running = 2;
    opts.max_queue = 100;
    opts.depth_cap = true;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8];
    uint64_t first = 0, last = 0;
    for (uint32_t i = 0; i < 40; i++) {
        sched_request req = rig_request(prompt, 4, 8, i);
        req.depth.min_loops = i == 20 ? 8 : 0; /* a wish for at least so many is kept */
        last = rig_submit(&rig, &req);
        if (i == 0) first = last;
    }
    rig_steps(&rig, 30);
    cr_assert_gt(rig_stats(&rig)->depth_cap_now, 0);
    rig_finish(&rig);
    (void)rig_submit(&rig, &(sched_request){.prompt = prompt,
                                            .n_prompt = 4,
                                            .max_tokens = 8,
                                            .sampling = {.top_p = 1, .repetition_penalty = 1}});
    rig_finish(&rig);
    cr_assert_eq(rig_stats(&rig)->depth_cap_now, 0);
    for (int k = 0; k < 8; k++)
        cr_assert_eq(rig.out[first + 20].depth[k], 8);
    uint16_t late = 0;
    for (uint32_t i = 2; i < 15; i++) {
        for (int k = 0; k < 8; k++)
            late = rig.out[first + i].depth[k] > late ? rig.out[first + i].depth[k] : late;
    }
    cr_assert_lt(late, 8, "with a queue of thirty for two places no request runs all loops");
    rig_close(&rig);
}

/* ---- scoring ---- */

typedef struct {
    uint32_t n, with_logits;
} taps;
static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    taps *seen = ud;
    (void)id;
    cr_assert_eq(pos, seen->n++);
    cr_assert_gt(depth, 0);
    seen->with_logits += logits != NULL;
}

Test(sched_request, scores_every_prompt_position_once_also_when_preempted) {
    fake_opts fake = small();
    fake.n_slots = 5 * 32 * 10; /* room for about one and a half of them */
    fake.max_logits = 3;
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[100];
    taps seen[4] = {{0}};
    for (uint32_t i = 0; i < 4; i++) {
        sched_request req = rig_request(prompt, 100, 0, i);
        req.prompt_logprobs = true;
        req.tap = on_tap;
        req.tap_logits = i % 2;
        req.ud = &seen[i];
        (void)rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_eq(rig.out[i + 1].n_prompt, 100);
        cr_assert_eq(rig.out[i + 1].end.finish, SCHED_LENGTH);
        cr_assert_eq(seen[i].n, 100);
        cr_assert_eq(seen[i].with_logits, i % 2 ? 100 : 0);
    }
    rig_close(&rig);
}
