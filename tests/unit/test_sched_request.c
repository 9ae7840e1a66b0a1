/* test_sched_request.c - what the scheduler refuses, and how one request ends. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

TestSuite(sched_request, .fini = fail_on_leaks, .timeout = HANGS_S);

static fake_opts small(void) {
    fake_opts f;
    fake_opts_default(&f);
    f.max_seq_len = 300;
    f.n_blocks = 8;
    f.n_slots = 8 * 32 * 10;
    return f;
}

static sched_opts plain(void) {
    sched_opts o;
    sched_opts_default(&o);
    o.prefix_cache = false;
    return o;
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

static void no_prompt(sched_request *q) {
    q->n_prompt = 0;
}
static void prompt_id(sched_request *q) {
    q->prompt = high_ids, q->n_prompt = 1;
}
static void no_tokens(sched_request *q) {
    q->max_tokens = 0;
}
static void stop_id(sched_request *q) {
    q->stop_ids = high_ids, q->n_stop_ids = 1;
}
static void bias_id(sched_request *q) {
    q->sampling.bias = high_bias, q->sampling.n_bias = 1;
}
static void bias_nan(sched_request *q) {
    q->sampling.bias = nan_bias, q->sampling.n_bias = 1;
}
static void many_top(sched_request *q) {
    q->n_top = ENG_MAX_TOP + 1;
}
static void deep(sched_request *q) {
    q->depth.max_loops = 9;
}
static void min_above_max(sched_request *q) {
    q->depth = (sched_depth){.min_loops = 5, .max_loops = 4};
}
static void high_threshold(sched_request *q) {
    q->depth.threshold = 1.5f;
}
static void low_threshold(sched_request *q) {
    q->depth.threshold = -1;
}
static void nan_threshold(sched_request *q) {
    q->depth.threshold = NAN;
}
static void beyond_context(sched_request *q) {
    q->max_tokens = 297;
}
static void beyond_count(sched_request *q) {
    q->max_tokens = UINT32_MAX;
}
static void beyond_cache(sched_request *q) {
    q->max_tokens = 290;
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
    fake_opts f = small();
    sched_opts o = plain();
    rig r = rig_open(&f, &o);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint32_t prompt[4];
        sched_request q = rig_request(prompt, 4, 4, 1);
        bad[i].spoil(&q);
        err e = {0};
        uint64_t id = 7;
        cr_expect_eq(sched_submit(r.s, &q, &id, &e), -1, "%s", bad[i].what);
        cr_expect_eq(e.code, bad[i].code, "%s: %s", bad[i].what, e.msg);
        cr_expect_str_eq(e.param, bad[i].param, "%s", bad[i].what);
        cr_expect_eq(id, 0);
    }
    cr_assert_eq(rig_stats(&r)->refused, ARRAY_LEN(bad));
    rig_close(&r);
}

Test(sched_request, a_full_queue_says_busy_and_has_room_again_later) {
    fake_opts f = small();
    sched_opts o = plain();
    o.max_running = 2;
    o.max_queue = 3;
    rig r = rig_open(&f, &o);
    uint32_t prompt[4];
    sched_request q = rig_request(prompt, 4, 4, 1);
    for (int i = 0; i < 5; i++)
        (void)rig_submit(&r, &q);
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(r.s, &q, &id, &e), -1);
    cr_assert_eq(e.code, ERR_BUSY);
    rig_finish(&r);
    (void)rig_submit(&r, &q);
    rig_finish(&r);
    rig_close(&r);
}

Test(sched_request, waiting_prompt_tokens_are_bounded_too) {
    fake_opts f = small();
    sched_opts o = plain();
    o.max_queue_tokens = 100;
    rig r = rig_open(&f, &o);
    uint32_t prompt[80];
    sched_request q = rig_request(prompt, 80, 4, 1);
    (void)rig_submit(&r, &q);
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(r.s, &q, &id, &e), -1);
    cr_assert_eq(e.code, ERR_BUSY);
    rig_finish(&r);
    rig_close(&r);
}

typedef struct {
    const char *what;
    void (*spoil)(sched_opts *o);
} bad_opts;
static void planes(sched_opts *o) {
    o->ceiling_loops = 9;
}
static void usual_above(sched_opts *o) {
    o->ceiling_loops = 4, o->default_max_loops = 5;
}
static void least_above(sched_opts *o) {
    o->default_max_loops = 3, o->default_min_loops = 4;
}
static void full_last(sched_opts *o) {
    o->batching = SCHED_FULL, o->halted_kv = KV_LAST;
}
static void none_running(sched_opts *o) {
    o->max_running = 0;
}
static void no_rows(sched_opts *o) {
    o->max_rows = 0;
}

Test(sched_request, options_that_cannot_work_are_refused) {
    static const bad_opts all[] = {
        {"more loops than planes", planes}, {"usual above ceiling", usual_above},
        {"least above usual", least_above}, {"full with last", full_last},
        {"nobody may run", none_running},   {"no rows", no_rows}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        fake_opts f = small();
        sched_opts o = plain();
        all[i].spoil(&o);
        eng_backend *b = fake_backend_create(&f);
        scheduler *s = (scheduler *)&f;
        err e = {0};
        cr_expect_eq(sched_create(&s, b, &o, NULL, NULL, &e), -1, "%s", all[i].what);
        cr_expect_null(s);
        cr_expect_eq(e.code, ERR_BAD_PARAM);
        eng_backend_close(b);
    }
}

/* ---- how it ends ---- */

Test(sched_request, stop_ids_end_it_but_not_before_min_tokens) {
    fake_opts f = small();
    sched_opts o = plain();
    rig r = rig_open(&f, &o);
    uint32_t prompt[8], stop[64];
    sched_request q = rig_request(prompt, 8, 20, 3);
    for (uint32_t i = 0; i < 64; i += 2)
        stop[i / 2] = i; /* every even id */
    q.stop_ids = stop;
    q.n_stop_ids = 32;
    q.min_tokens = 5;
    rig_out *out = &r.out[rig_submit(&r, &q)];
    rig_finish(&r);
    cr_assert_geq(out->n, 5);
    for (uint32_t i = 0; i < out->n; i++)
        cr_assert_eq(out->tokens[i] % 2, 1);
    cr_assert_eq(out->end.finish, SCHED_STOP);
    cr_assert_eq(out->end.stop_id % 2, 0);
    cr_assert_eq(out->end.n_output, out->n);
    rig_close(&r);
}

/* Allows 7 and 9 for three tokens, then everything; refuses what it is told to when it is
 * drawn. */
typedef struct {
    uint64_t words[1];
    eng_mask mask;
    size_t made, taken, refused;
    size_t fail_at;          /* the mask that cannot be made, from 1; 0: none */
    bool refuse_9, refuse_7; /* though the mask allows them */
} picky;

static err_code picky_make(void *ud) {
    picky *p = ud;
    p->words[0] = 1u << 7 | 1u << 9;
    p->mask = (eng_mask){p->words, 1};
    return ++p->made == p->fail_at ? ERR_COSTLY : ERR_NONE;
}
static const eng_mask *picky_mask(void *ud) {
    const picky *p = ud;
    return p->made <= 3 ? &p->mask : NULL;
}
static bool picky_take(void *ud, uint32_t token) {
    picky *p = ud;
    bool refused = p->made <= 3 && ((token == 9 && p->refuse_9) || (token == 7 && p->refuse_7));
    *(refused ? &p->refused : &p->taken) += 1;
    return !refused;
}
static const sched_constraint picky_calls = {picky_make, picky_mask, picky_take};

/* One constrained request among others, which must not notice. */
static rig_out run_picky(picky *p) {
    static rig_out out;
    fake_opts f = small();
    sched_opts o = plain();
    rig r = rig_open(&f, &o);
    uint32_t prompt[8], others[2][8];
    sched_request q = rig_request(prompt, 8, 6, 3);
    q.constraint = &picky_calls;
    q.ud = p;
    const rig_out *mine = &r.out[rig_submit(&r, &q)], *other[2];
    for (uint32_t i = 0; i < 2; i++) {
        sched_request plain_one = rig_request(others[i], 8, 6, 4 + i);
        other[i] = &r.out[rig_submit(&r, &plain_one)];
    }
    rig_finish(&r);
    for (uint32_t i = 0; i < 2; i++)
        cr_assert(other[i]->end.finish == SCHED_LENGTH && other[i]->n == 6);
    out = *mine;
    rig_close(&r);
    return out;
}

Test(sched_request, a_constraint_chooses_what_may_come) {
    picky p = {.refuse_9 = true};
    rig_out out = run_picky(&p);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(out.tokens[i], 7, "a token that is refused is banned, and another drawn");
    cr_assert_eq(out.n, 6);
    cr_assert(p.made == 6 && p.taken == 6, "one mask and one token at a time");
}

Test(sched_request, an_answer_without_any_token_left_ends_alone_and_with_its_own_error) {
    picky p = {.refuse_9 = true, .refuse_7 = true};
    rig_out out = run_picky(&p);
    cr_assert(out.ended && out.n == 0 && p.refused == 2);
    cr_assert_eq(out.end.finish, SCHED_FAILED);
    cr_assert_eq(out.end.why, ERR_CONSTRAINT);
}

Test(sched_request, an_answer_whose_mask_cannot_be_made_ends_alone_and_with_its_own_error) {
    for (size_t at = 1; at <= 4; at++) {
        picky p = {.fail_at = at};
        rig_out out = run_picky(&p);
        cr_assert(out.ended && out.n == at - 1);
        cr_assert_eq(out.end.finish, SCHED_FAILED);
        cr_assert_eq(out.end.why, ERR_COSTLY);
    }
}

Test(sched_request, a_logit_that_is_not_a_number_ends_one_request_only) {
    fake_opts f = small();
    f.nan_at = 6;
    f.policy = KV_LAST;
    sched_opts o = plain();
    o.halted_kv = KV_LAST;
    rig r = rig_open(&f, &o);
    uint32_t prompt[8];
    rig_out *out[6];
    for (uint32_t i = 0; i < 6; i++) {
        sched_request q = rig_request(prompt, 3 + i, 12, i);
        out[i] = &r.out[rig_submit(&r, &q)];
    }
    rig_finish(&r);
    int failed = 0;
    for (int i = 0; i < 6; i++) {
        failed += out[i]->end.finish == SCHED_FAILED && out[i]->end.why == ERR_NUMERIC;
        if (out[i]->end.finish != SCHED_FAILED) cr_assert_eq(out[i]->n, 12);
    }
    cr_assert_eq(failed, 1);
    rig_close(&r);
}

Test(sched_request, a_failed_device_ends_all_and_takes_no_more) {
    fake_opts f = small();
    f.fail_at = 9;
    sched_opts o = plain();
    o.max_running = 2;
    rig r = rig_open(&f, &o);
    uint32_t prompt[8];
    for (uint32_t i = 0; i < 4; i++) {
        sched_request q = rig_request(prompt, 8, 20, i);
        (void)rig_submit(&r, &q);
    }
    err e = {0};
    bool idle = false;
    while (sched_step(r.s, &idle, &e) == 0)
        cr_assert(!idle);
    cr_assert_eq(e.code, ERR_DEVICE);
    for (uint64_t id = 1; id <= 4; id++) {
        cr_assert_eq(r.out[id].end.finish, SCHED_FAILED);
        cr_assert_eq(r.out[id].end.why, ERR_DEVICE);
    }
    sched_request q = rig_request(prompt, 8, 20, 9);
    uint64_t id;
    err again = {0};
    cr_assert_eq(sched_submit(r.s, &q, &id, &again), -1);
    cr_assert_eq(again.code, ERR_DEVICE);
    rig_close(&r);
}

Test(sched_request, cancel_frees_its_pages_before_it_returns) {
    fake_opts f = small();
    sched_opts o = plain();
    rig r = rig_open(&f, &o);
    uint32_t prompt[100];
    for (uint32_t at = 0; at < 40; at += 3) {
        sched_request q = rig_request(prompt, 100, 30, at);
        uint64_t id = rig_submit(&r, &q);
        rig_steps(&r, at);
        sched_cancel(r.s, id);
        sched_cancel(r.s, id);
        sched_cancel(r.s, 100000);
        const sched_stats *st = rig_stats(&r);
        cr_assert_eq(st->pages_free, st->pages);
        cr_assert_eq(r.s->n_free_rows, r.s->n_rows);
        cr_assert_eq(r.out[id].end.finish, SCHED_CANCELLED);
    }
    rig_close(&r);
}

/* ---- depth ---- */

Test(sched_request, depth_is_what_the_request_wishes) {
    for (int policy = 0; policy < 2; policy++) {
        fake_opts f = small();
        f.policy = (kv_policy)policy;
        sched_opts o = plain();
        o.halted_kv = f.policy;
        o.default_max_loops = 4; /* "trained"; the ceiling stays at 8 planes */
        rig r = rig_open(&f, &o);
        static const sched_depth wish[] = {{0, 0, 0}, {0, 1, 0}, {3, 3, 0},
                                           {8, 8, 0}, {5, 0, 0}, {2, 7, 0.5f}};
        static const uint16_t low[] = {1, 1, 3, 8, 5, 2}, high[] = {4, 1, 3, 8, 5, 7};
        uint32_t prompt[40];
        for (uint32_t i = 0; i < 6; i++) {
            sched_request q = rig_request(prompt, 20, 16, i);
            q.depth = wish[i];
            (void)rig_submit(&r, &q);
        }
        rig_finish(&r);
        for (uint32_t i = 0; i < 6; i++) {
            const rig_out *out = &r.out[i + 1];
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
        rig_close(&r);
    }
}

Test(sched_request, the_cap_lowers_depth_under_load_and_gives_it_back) {
    fake_opts f = small();
    f.mean_depth = 6;
    sched_opts o = plain();
    o.max_running = 2;
    o.max_queue = 100;
    o.depth_cap = true;
    rig r = rig_open(&f, &o);
    uint32_t prompt[8];
    uint64_t first = 0, last = 0;
    for (uint32_t i = 0; i < 40; i++) {
        sched_request q = rig_request(prompt, 4, 8, i);
        q.depth.min_loops = i == 20 ? 8 : 0; /* a wish for at least so many is kept */
        last = rig_submit(&r, &q);
        if (i == 0) first = last;
    }
    rig_steps(&r, 30);
    cr_assert_gt(rig_stats(&r)->depth_cap_now, 0);
    rig_finish(&r);
    (void)rig_submit(&r, &(sched_request){.prompt = prompt,
                                          .n_prompt = 4,
                                          .max_tokens = 8,
                                          .sampling = {.top_p = 1, .repetition_penalty = 1}});
    rig_finish(&r);
    cr_assert_eq(rig_stats(&r)->depth_cap_now, 0);
    for (int k = 0; k < 8; k++)
        cr_assert_eq(r.out[first + 20].depth[k], 8);
    uint16_t late = 0;
    for (uint32_t i = 2; i < 15; i++) {
        for (int k = 0; k < 8; k++)
            late = r.out[first + i].depth[k] > late ? r.out[first + i].depth[k] : late;
    }
    cr_assert_lt(late, 8, "with a queue of thirty for two places nobody runs all loops");
    rig_close(&r);
}

/* ---- scoring ---- */

typedef struct {
    uint32_t n, with_logits;
} taps;
static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    taps *t = ud;
    (void)id;
    cr_assert_eq(pos, t->n++);
    cr_assert_gt(depth, 0);
    t->with_logits += logits != NULL;
}

Test(sched_request, scores_every_prompt_position_once_also_when_preempted) {
    fake_opts f = small();
    f.n_slots = 5 * 32 * 10; /* room for about one and a half of them */
    f.max_logits = 3;
    sched_opts o = plain();
    rig r = rig_open(&f, &o);
    uint32_t prompt[100];
    taps t[4] = {{0}};
    for (uint32_t i = 0; i < 4; i++) {
        sched_request q = rig_request(prompt, 100, 0, i);
        q.prompt_logprobs = true;
        q.tap = on_tap;
        q.tap_logits = i % 2;
        q.ud = &t[i];
        (void)rig_submit(&r, &q);
    }
    rig_finish(&r);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_eq(r.out[i + 1].n_prompt, 100);
        cr_assert_eq(r.out[i + 1].end.finish, SCHED_LENGTH);
        cr_assert_eq(t[i].n, 100);
        cr_assert_eq(t[i].with_logits, i % 2 ? 100 : 0);
    }
    rig_close(&r);
}
