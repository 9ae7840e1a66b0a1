/* test_bundled.c - the models that come with Fathom write what their expected.json says: tokens and
 * the depth of every position, under both policies. */
#include "base/file.h"
#include "base/json.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/testlib.h"
#include "text/tokenizer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(bundled, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { MOST_ROWS = 8, MOST_PROMPT = 256 };

/* A model with a scheduler of its own. */
typedef struct {
    model_folder *m;
    eng_backend *b;
    sched *s;
    tokenizer *t;
} rig;

typedef void (*on_event)(void *ud, const sched_event *ev);

static rig rig_open(const char *dir, uint32_t loops, kv_policy policy, on_event event, void *ud) {
    rig r = {0};
    err e = {0};
    cr_assert_eq(model_open(&r.m, dir, &e), 0, "%s", e.msg);
    cr_assert_eq(tokenizer_open(&r.t, dir, model_plan_of(r.m)->vocab_size, &e), 0, "%s", e.msg);
    r.b = golden_backend(r.m, loops, 1024, 256);
    sched_opts o;
    sched_opts_default(&o);
    o.halted_kv = policy;
    cr_assert_eq(sched_create(&r.s, r.b, &o, event, ud, &e), 0, "%s", e.msg);
    return r;
}

static void rig_close(rig *r) {
    sched_destroy(r->s);
    eng_backend_close(r->b);
    tokenizer_close(r->t);
    model_close(r->m);
}

static json_t *expected(const char *dir, const char *key) {
    json_error_t je;
    char path[96];
    (void)snprintf(path, sizeof path, "%s/expected.json", dir);
    json_t *all = json_load_file(path, 0, &je);
    cr_assert_not_null(all, "%s", je.text);
    json_t *part = json_incref(json_object_get(all, key));
    json_decref(all);
    cr_assert_not_null(part, "%s has no %s", path, key);
    return part;
}

static uint64_t submit_text(rig *r, const char *text, uint32_t max_tokens, uint16_t max_loops) {
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(r->t, text, strlen(text), false, MOST_PROMPT, &ids, &e), 0, "%s",
                 e.msg);
    sched_request q = {.prompt = ids.data,
                       .n_prompt = (uint32_t)ids.n,
                       .max_tokens = max_tokens,
                       .depth = {.max_loops = max_loops}};
    q.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    uint64_t id = golden_submit(r->s, &q);
    token_ids_deinit(&ids);
    return id;
}

/* ---- greedy texts ---- */

typedef struct {
    json_t *ids, *depths;
    size_t got;
} row_watch;

static void row_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)id, (void)logits;
    row_watch *w = ud;
    json_int_t want = json_integer_value(json_array_get(w->depths, pos));
    cr_assert_eq(depth, want, "depth at %u is %u, must be %d", pos, depth, (int)want);
    w->got++;
}

static void row_event(void *ud, const sched_event *ev) {
    row_watch *w = ud;
    if (ev->kind != SCHED_TOKEN) return;
    json_int_t want = json_integer_value(json_array_get(w[ev->id - 1].ids, ev->pos));
    cr_assert_eq(ev->token, want, "token at %u is %u, must be %d", ev->pos, ev->token, (int)want);
}

/* The prompt as the file has it, in text where it says so: the tokenizer must agree. */
static uint32_t prompt_of(const rig *r, json_t *row, uint32_t prompt[MOST_PROMPT]) {
    json_t *ids = json_object_get(row, "prompt_ids"), *v;
    const char *text = json_string_value(json_object_get(row, "prompt"));
    size_t i, n = json_array_size(ids);
    cr_assert(n > 0 && n <= MOST_PROMPT);
    json_array_foreach(ids, i, v) prompt[i] = (uint32_t)json_integer_value(v);
    if (text == NULL) return (uint32_t)n;
    token_ids own = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(r->t, text, strlen(text), true, MOST_PROMPT, &own, &e), 0, "%s",
                 e.msg);
    cr_assert(own.n == n && memcmp(own.data, prompt, n * sizeof *prompt) == 0, "%s", text);
    token_ids_deinit(&own);
    return (uint32_t)n;
}

static void run_greedy(const char *dir, json_t *greedy, kv_policy policy, bool together) {
    static row_watch w[MOST_ROWS];
    rig r = rig_open(dir, 8, policy, row_event, w);
    size_t i, rows = json_array_size(greedy);
    json_t *one;
    cr_assert(rows > 0 && rows <= MOST_ROWS);
    json_array_foreach(greedy, i, one) {
        json_t *want = json_object_get(one, policy == KV_LAST ? "last" : "exact");
        uint32_t prompt[MOST_PROMPT], n_prompt = prompt_of(&r, one, prompt);
        w[i] = (row_watch){.ids = json_object_get(want, "ids"),
                           .depths = json_object_get(want, "depths")};
        sched_request q = {.prompt = prompt,
                           .n_prompt = n_prompt,
                           .max_tokens = (uint32_t)json_array_size(w[i].ids) - n_prompt,
                           .tap = row_tap,
                           .ud = &w[i]};
        q.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        cr_assert_eq(golden_submit(r.s, &q), i + 1);
        if (!together) golden_step(r.s, 100000);
    }
    golden_step(r.s, 100000);
    for (i = 0; i < rows; i++)
        cr_assert_eq(w[i].got + 1, json_array_size(w[i].ids), "all but the last token are run");
    rig_close(&r);
}

Test(bundled, each_model_writes_the_expected_texts_at_the_expected_depths) {
    static const char *const dirs[] = {"models/demo", "models/hops", "models/hops-extrapolates"};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        json_t *greedy = expected(dirs[i], "greedy");
        for (int policy = 0; policy < 2; policy++) {
            run_greedy(dirs[i], greedy, (kv_policy)policy, false);
            run_greedy(dirs[i], greedy, (kv_policy)policy, true);
        }
        json_decref(greedy);
    }
}

/* ---- hops: as many loops as steps ---- */

enum { MOST_ANSWERS = 512 };

typedef struct {
    const rig *r;
    uint64_t first; /* id of answers[0] */
    struct {
        char text[24];
        uint16_t depth;
    } answers[MOST_ANSWERS];
} answers;

static void answer_event(void *ud, const sched_event *ev) {
    answers *a = ud;
    if (ev->kind != SCHED_TOKEN) return;
    size_t n, at = ev->id - a->first;
    cr_assert_lt(at, MOST_ANSWERS);
    const char *text = tokenizer_bytes(a->r->t, ev->token, &n);
    (void)snprintf(a->answers[at].text, sizeof a->answers[at].text, "%.*s", (int)n, text);
    a->answers[at].depth = ev->depth;
}

static void check_answer(const answers *a, size_t i, const char *text, uint32_t depth) {
    cr_assert_str_eq(a->answers[i].text, text, "answer %zu", i);
    cr_assert_eq(a->answers[i].depth, depth, "answer %zu took %u loops, must take %u", i,
                 a->answers[i].depth, depth);
}

/* Allowed fewer loops than a question needs, the model names whom it has reached by then. */
Test(bundled, hops_allowed_fewer_loops_names_the_friend_it_has_reached) {
    static const char *const dirs[] = {"models/hops", "models/hops-extrapolates"};
    for (size_t d = 0; d < 2 * ARRAY_LEN(dirs); d++) {
        static answers a;
        json_t *greedy = expected(dirs[d / 2], "greedy"), *one, *want;
        rig r = rig_open(dirs[d / 2], 8, d % 2 ? KV_LAST : KV_EXACT, answer_event, &a);
        a = (answers){.r = &r, .first = 1};
        size_t i, n = 0;
        for (int pass = 0; pass < 2; pass++) { /* asks, then looks at the answers */
            n = 0;
            json_array_foreach(greedy, i, one) {
                for (uint16_t cap = 1; cap <= 8; cap++, n++) {
                    char key[4];
                    (void)snprintf(key, sizeof key, "%u", cap);
                    want = json_object_get(json_object_get(one, "at_most"), key);
                    if (pass) {
                        json_int_t depth = json_integer_value(json_object_get(want, "depth"));
                        check_answer(&a, n, json_string_value(json_object_get(want, "answer")),
                                     (uint32_t)depth);
                    } else {
                        submit_text(&r, json_string_value(json_object_get(one, "prompt")), 1, cap);
                    }
                }
            }
            golden_step(r.s, 100000);
        }
        cr_assert_eq(n, 40);
        rig_close(&r);
        json_decref(greedy);
    }
}

Test(bundled, hops_answers_every_held_out_question_after_as_many_loops_as_it_has_steps) {
    static answers a;
    rig r = rig_open("models/hops", 8, KV_LAST, answer_event, &a);
    a = (answers){.r = &r, .first = 1};
    buf text = {0};
    err e = {0};
    cr_assert_eq(file_read(&text, "models/hops/questions.jsonl", 1 << 20, &e), 0, "%s", e.msg);
    json_t *rows = json_array(), *one;
    for (char *line = text.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
        json_array_append_new(rows, json_loadb(line, (size_t)(end - line), 0, NULL));
    size_t i;
    json_array_foreach(rows, i, one) {
        submit_text(&r, json_string_value(json_object_get(one, "prompt")), 1, 0);
    }
    cr_assert_eq(i, 200);
    golden_step(r.s, 1000000);
    json_array_foreach(rows, i, one) {
        check_answer(&a, i, json_string_value(json_object_get(one, "answer")),
                     (uint32_t)json_integer_value(json_object_get(one, "hops")));
    }
    json_decref(rows);
    buf_deinit(&text);
    rig_close(&r);
}

/* A circle of friends, and a question of so many steps that begins at one of them. */
static const char *const circle[] = {"Ann", "Kim", "Bob", "Zoe", "Eve", "Hal",
                                     "Mia", "Tom", "Sue", "Ray", "Val", "Jon"};

static void ask_circle(rig *r, size_t from, size_t steps, uint16_t max_loops) {
    buf text = {0};
    for (size_t i = 0; i < ARRAY_LEN(circle); i++) {
        buf_printf(&text, "%s%s's friend is %s.", i ? " " : "", circle[i],
                   circle[(i + 1) % ARRAY_LEN(circle)]);
    }
    buf_printf(&text, "\n%s", circle[from]);
    for (size_t i = 0; i < steps; i++)
        buf_puts(&text, "'s friend");
    buf_puts(&text, " is");
    submit_text(r, text.data, 1, max_loops);
    buf_deinit(&text);
}

Test(bundled, hops_extrapolates_takes_a_ninth_step_with_a_ninth_loop) {
    static answers a;
    rig r = rig_open("models/hops-extrapolates", 9, KV_LAST, answer_event, &a);
    a = (answers){.r = &r, .first = 1};
    for (size_t i = 0; i < ARRAY_LEN(circle); i++) {
        ask_circle(&r, i, 9, 9);
        ask_circle(&r, i, 9, 8);
    }
    golden_step(r.s, 100000);
    for (size_t i = 0; i < ARRAY_LEN(circle); i++) {
        for (uint32_t loops = 9; loops >= 8; loops--) {
            char name[8];
            (void)snprintf(name, sizeof name, " %s", circle[(i + loops) % ARRAY_LEN(circle)]);
            check_answer(&a, 2 * i + (9 - loops), name, loops);
        }
    }
    rig_close(&r);
}

/* ---- demo: the loss on text that it was not trained on ---- */

enum { ROW = 128, ROWS = 64 };

typedef struct {
    double nll;
    uint32_t n, histogram[9];
} held_out;

static void held_out_event(void *ud, const sched_event *ev) {
    held_out *h = ud;
    if (ev->kind != SCHED_PROMPT) return;
    if (ev->pos + 1 < ROW) h->histogram[ev->depth]++;
    if (ev->pos == 0) return;
    h->nll -= ev->logprob;
    h->n++;
}

static held_out run_held_out(const uint32_t *ids, kv_policy policy) {
    held_out h = {0};
    rig r = rig_open("models/demo", 8, policy, held_out_event, &h);
    for (int i = 0; i < ROWS; i++) {
        sched_request q = {
            .prompt = ids + (size_t)i * ROW, .n_prompt = ROW, .prompt_logprobs = true};
        (void)golden_submit(r.s, &q);
    }
    err e = {0};
    for (bool idle = false; !idle;)
        cr_assert_eq(sched_step(r.s, &idle, &e), 0, "%s", e.msg);
    rig_close(&r);
    return h;
}

static void held_out_equals(json_t *all, const uint32_t *ids, kv_policy policy) {
    json_t *want = json_object_get(all, policy == KV_LAST ? "last" : "exact"), *v;
    held_out h = run_held_out(ids, policy);
    double nll = json_number_value(json_object_get(want, "nll_per_token")), loops = 0;
    cr_assert_float_eq(h.nll / h.n, nll, 2e-4, "loss %f, must be %f", h.nll / h.n, nll);
    size_t i;
    uint32_t rows = 0, moved = 0;
    json_array_foreach(json_object_get(want, "depth_histogram"), i, v) {
        uint32_t n = h.histogram[i + 1]; /* bins count from depth 1 */
        loops += (double)((i + 1) * n);
        rows += n;
        json_int_t d = json_integer_value(v) - (json_int_t)n;
        moved += (uint32_t)(d < 0 ? -d : d);
    }
    fprintf(stderr, "held out, %s: loss %.4f (%.4f), mean depth %.3f, %u of %u in other bins\n",
            policy == KV_LAST ? "last" : "exact", h.nll / h.n, nll, loops / rows, moved / 2, rows);
    double mean = json_number_value(json_object_get(want, "mean_depth"));
    cr_assert_float_eq(loops / rows, mean, 2e-3, "mean depth %f, must be %f", loops / rows, mean);
    /* A halting probability may lie within rounding of the threshold: 1 in 1000 may differ. */
    cr_assert_leq(moved / 2, 8);
}

Test(bundled, the_demo_model_has_the_expected_loss_and_depths_on_held_out_text) {
    json_t *all = expected("models/demo", "held_out");
    tokenizer *t;
    err e = {0};
    cr_assert_eq(tokenizer_open(&t, "models/demo", 2048, &e), 0, "%s", e.msg);
    buf text = {0};
    cr_assert_eq(file_read(&text, "models/demo/held_out.txt", 1u << 22, &e), 0, "%s", e.msg);
    token_ids ids = {0};
    cr_assert_eq(tokenizer_encode(t, text.data, text.len, false, 1u << 20, &ids, &e), 0, "%s",
                 e.msg);
    cr_assert_geq(ids.n, ROWS * ROW);
    held_out_equals(all, ids.data, KV_EXACT);
    held_out_equals(all, ids.data, KV_LAST);
    token_ids_deinit(&ids);
    buf_deinit(&text);
    tokenizer_close(t);
    json_decref(all);
}
