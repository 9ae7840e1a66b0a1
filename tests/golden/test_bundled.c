/* test_bundled.c - the bundled models give the results of their expected.json: tokens and the depth
 * of every position, under both policies. */
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
    model_folder *model;
    eng_backend *backend;
    scheduler *sch;
    tokenizer *tok;
} model_rig;

typedef void (*on_event)(void *ud, const sched_event *ev);

static model_rig rig_open(const char *dir, uint32_t loops, kv_policy policy, on_event event,
                          void *ud) {
    model_rig rig = {0};
    err e = {0};
    cr_assert_eq(model_open(&rig.model, dir, &e), 0, "%s", e.msg);
    cr_assert_eq(tokenizer_open(&rig.tok, dir, model_plan_of(rig.model)->vocab_size, &e), 0, "%s",
                 e.msg);
    rig.backend = golden_backend(rig.model, loops, 1024, 256);
    sched_opts opts;
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    cr_assert_eq(sched_create(&rig.sch, rig.backend, &opts, event, ud, &e), 0, "%s", e.msg);
    return rig;
}

static void rig_close(model_rig *rig) {
    sched_destroy(rig->sch);
    eng_backend_close(rig->backend);
    tokenizer_close(rig->tok);
    model_close(rig->model);
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

static uint64_t submit_text(model_rig *rig, const char *text, uint32_t max_tokens,
                            uint16_t max_loops) {
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(rig->tok, text, strlen(text), false, MOST_PROMPT, &ids, &e), 0,
                 "%s", e.msg);
    sched_request req = {.prompt = ids.data,
                         .n_prompt = (uint32_t)ids.n,
                         .max_tokens = max_tokens,
                         .depth = {.max_loops = max_loops}};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    uint64_t id = golden_submit(rig->sch, &req);
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
    row_watch *seen = ud;
    json_int_t want = json_integer_value(json_array_get(seen->depths, pos));
    cr_assert_eq(depth, want, "depth at %u is %u, must be %d", pos, depth, (int)want);
    seen->got++;
}

static void row_event(void *ud, const sched_event *ev) {
    row_watch *seen = ud;
    if (ev->kind != SCHED_TOKEN) return;
    json_int_t want = json_integer_value(json_array_get(seen[ev->id - 1].ids, ev->pos));
    cr_assert_eq(ev->token, want, "token at %u is %u, must be %d", ev->pos, ev->token, (int)want);
}

/* The prompt ids of a row. If the row also has the text, the tokenizer must give the same ids. */
static uint32_t prompt_of(const model_rig *rig, json_t *row, uint32_t prompt[MOST_PROMPT]) {
    json_t *ids = json_object_get(row, "prompt_ids"), *value;
    const char *text = json_string_value(json_object_get(row, "prompt"));
    size_t i, n = json_array_size(ids);
    cr_assert(n > 0 && n <= MOST_PROMPT);
    json_array_foreach(ids, i, value) prompt[i] = (uint32_t)json_integer_value(value);
    if (text == NULL) return (uint32_t)n;
    token_ids own = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(rig->tok, text, strlen(text), true, MOST_PROMPT, &own, &e), 0,
                 "%s", e.msg);
    cr_assert(own.n == n && memcmp(own.data, prompt, n * sizeof *prompt) == 0, "%s", text);
    token_ids_deinit(&own);
    return (uint32_t)n;
}

static void run_greedy(const char *dir, json_t *greedy, kv_policy policy, bool together) {
    static row_watch seen[MOST_ROWS];
    model_rig rig = rig_open(dir, 8, policy, row_event, seen);
    size_t i, rows = json_array_size(greedy);
    json_t *one;
    cr_assert(rows > 0 && rows <= MOST_ROWS);
    json_array_foreach(greedy, i, one) {
        json_t *want = json_object_get(one, kv_policy_name(policy));
        uint32_t prompt[MOST_PROMPT], n_prompt = prompt_of(&rig, one, prompt);
        seen[i] = (row_watch){.ids = json_object_get(want, "ids"),
                              .depths = json_object_get(want, "depths")};
        sched_request req = {.prompt = prompt,
                             .n_prompt = n_prompt,
                             .max_tokens = (uint32_t)json_array_size(seen[i].ids) - n_prompt,
                             .tap = row_tap,
                             .ud = &seen[i]};
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        cr_assert_eq(golden_submit(rig.sch, &req), i + 1);
        if (!together) golden_step(rig.sch, 100000);
    }
    golden_step(rig.sch, 100000);
    for (i = 0; i < rows; i++)
        cr_assert_eq(seen[i].got + 1, json_array_size(seen[i].ids),
                     "all but the last token are run");
    rig_close(&rig);
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
    const model_rig *rig;
    uint64_t first; /* id of answers[0] */
    struct {
        char text[24];
        uint16_t depth;
    } answers[MOST_ANSWERS];
} answers;

static void answer_event(void *ud, const sched_event *ev) {
    answers *all = ud;
    if (ev->kind != SCHED_TOKEN) return;
    size_t n, at = ev->id - all->first;
    cr_assert_lt(at, MOST_ANSWERS);
    const char *text = tokenizer_bytes(all->rig->tok, ev->token, &n);
    (void)snprintf(all->answers[at].text, sizeof all->answers[at].text, "%.*s", (int)n, text);
    all->answers[at].depth = ev->depth;
}

static void check_answer(const answers *all, size_t i, const char *text, uint32_t depth) {
    cr_assert_str_eq(all->answers[i].text, text, "answer %zu", i);
    cr_assert_eq(all->answers[i].depth, depth, "answer %zu took %u loops, must take %u", i,
                 all->answers[i].depth, depth);
}

/* With fewer loops than the question needs, the answer is the friend reached so far. */
Test(bundled, hops_allowed_fewer_loops_names_the_friend_it_has_reached) {
    static const char *const dirs[] = {"models/hops", "models/hops-extrapolates"};
    for (size_t which = 0; which < 2 * ARRAY_LEN(dirs); which++) {
        static answers all;
        json_t *greedy = expected(dirs[which / 2], "greedy"), *one, *want;
        model_rig rig =
            rig_open(dirs[which / 2], 8, which % 2 ? KV_LAST : KV_EXACT, answer_event, &all);
        all = (answers){.rig = &rig, .first = 1};
        size_t i, n = 0;
        for (int pass = 0; pass < 2;
             pass++) { /* the first pass asks, the second checks the answers */
            n = 0;
            json_array_foreach(greedy, i, one) {
                for (uint16_t cap = 1; cap <= 8; cap++, n++) {
                    char key[4];
                    (void)snprintf(key, sizeof key, "%u", cap);
                    want = json_object_get(json_object_get(one, "at_most"), key);
                    if (pass) {
                        json_int_t depth = json_integer_value(json_object_get(want, "depth"));
                        check_answer(&all, n, json_string_value(json_object_get(want, "answer")),
                                     (uint32_t)depth);
                    } else {
                        submit_text(&rig, json_string_value(json_object_get(one, "prompt")), 1,
                                    cap);
                    }
                }
            }
            golden_step(rig.sch, 100000);
        }
        cr_assert_eq(n, 40);
        rig_close(&rig);
        json_decref(greedy);
    }
}

static json_t *read_questions(void) {
    buf text = {0};
    err e = {0};
    cr_assert_eq(file_read(&text, "models/hops/questions.jsonl", 1 << 20, &e), 0, "%s", e.msg);
    json_t *rows = json_array();
    for (char *line = text.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
        json_array_append_new(rows, json_loadb(line, (size_t)(end - line), 0, NULL));
    cr_assert_eq(json_array_size(rows), 200);
    buf_deinit(&text);
    return rows;
}

Test(bundled, hops_answers_every_held_out_question_after_as_many_loops_as_it_has_steps) {
    static const char *const dirs[] = {"models/hops", "models/hops-extrapolates"};
    json_t *rows = read_questions(), *one;
    for (size_t which = 0; which < 2 * ARRAY_LEN(dirs); which++) {
        static answers all;
        model_rig rig =
            rig_open(dirs[which / 2], 8, which % 2 ? KV_LAST : KV_EXACT, answer_event, &all);
        all = (answers){.rig = &rig, .first = 1};
        size_t i;
        json_array_foreach(rows, i, one) {
            submit_text(&rig, json_string_value(json_object_get(one, "prompt")), 1, 0);
        }
        golden_step(rig.sch, 1000000);
        json_array_foreach(rows, i, one) {
            check_answer(&all, i, json_string_value(json_object_get(one, "answer")),
                         (uint32_t)json_integer_value(json_object_get(one, "hops")));
        }
        rig_close(&rig);
    }
    json_decref(rows);
}

/* A circle of friends, and questions of many steps along it. */
static const char *const circle[] = {"Ann", "Kim", "Bob", "Zoe", "Eve", "Hal",
                                     "Mia", "Tom", "Sue", "Ray", "Val", "Jon"};

static void ask_circle(model_rig *rig, size_t from, size_t steps, uint16_t max_loops) {
    buf text = {0};
    for (size_t i = 0; i < ARRAY_LEN(circle); i++) {
        buf_printf(&text, "%s%s's friend is %s.", i ? " " : "", circle[i],
                   circle[(i + 1) % ARRAY_LEN(circle)]);
    }
    buf_printf(&text, "\n%s", circle[from]);
    for (size_t i = 0; i < steps; i++)
        buf_puts(&text, "'s friend");
    buf_puts(&text, " is");
    submit_text(rig, text.data, 1, max_loops);
    buf_deinit(&text);
}

static void ask_a_ninth_step(kv_policy policy) {
    static answers all;
    model_rig rig = rig_open("models/hops-extrapolates", 9, policy, answer_event, &all);
    all = (answers){.rig = &rig, .first = 1};
    for (size_t i = 0; i < ARRAY_LEN(circle); i++) {
        ask_circle(&rig, i, 9, 9);
        ask_circle(&rig, i, 9, 8);
    }
    golden_step(rig.sch, 100000);
    for (size_t i = 0; i < ARRAY_LEN(circle); i++) {
        for (uint32_t loops = 9; loops >= 8; loops--) {
            char name[8];
            (void)snprintf(name, sizeof name, " %s", circle[(i + loops) % ARRAY_LEN(circle)]);
            check_answer(&all, 2 * i + (9 - loops), name, loops);
        }
    }
    rig_close(&rig);
}

Test(bundled, hops_extrapolates_takes_a_ninth_step_with_a_ninth_loop) {
    ask_a_ninth_step(KV_EXACT);
    ask_a_ninth_step(KV_LAST);
}

/* ---- demo: the loss on held-out text ---- */

enum { ROW = 128, ROWS = 64 };

typedef struct {
    double nll;
    uint32_t count, histogram[9];
} held_out;

static void held_out_event(void *ud, const sched_event *ev) {
    held_out *sum = ud;
    if (ev->kind != SCHED_PROMPT) return;
    if (ev->pos + 1 < ROW) sum->histogram[ev->depth]++;
    if (ev->pos == 0) return;
    sum->nll -= ev->logprob;
    sum->count++;
}

static held_out run_held_out(const uint32_t *ids, kv_policy policy) {
    held_out sum = {0};
    model_rig rig = rig_open("models/demo", 8, policy, held_out_event, &sum);
    for (int i = 0; i < ROWS; i++) {
        sched_request req = {
            .prompt = ids + (size_t)i * ROW, .n_prompt = ROW, .prompt_logprobs = true};
        (void)golden_submit(rig.sch, &req);
    }
    err e = {0};
    for (bool idle = false; !idle;)
        cr_assert_eq(sched_step(rig.sch, &idle, &e), 0, "%s", e.msg);
    rig_close(&rig);
    return sum;
}

static void held_out_equals(json_t *all, const uint32_t *ids, kv_policy policy) {
    json_t *want = json_object_get(all, kv_policy_name(policy)), *value;
    held_out sum = run_held_out(ids, policy);
    double nll = json_number_value(json_object_get(want, "nll_per_token")), loops = 0;
    cr_assert_float_eq(sum.nll / sum.count, nll, 2e-4, "loss %f, must be %f", sum.nll / sum.count,
                       nll);
    size_t i;
    uint32_t rows = 0, moved = 0;
    json_array_foreach(json_object_get(want, "depth_histogram"), i, value) {
        uint32_t n = sum.histogram[i + 1]; /* bins count from depth 1 */
        loops += (double)((i + 1) * n);
        rows += n;
        json_int_t moved_by = json_integer_value(value) - (json_int_t)n;
        moved += (uint32_t)(moved_by < 0 ? -moved_by : moved_by);
    }
    fprintf(stderr, "held out, %s: loss %.4f (%.4f), mean depth %.3f, %u of %u in other bins\n",
            kv_policy_name(policy), sum.nll / sum.count, nll, loops / rows, moved / 2, rows);
    double mean = json_number_value(json_object_get(want, "mean_depth"));
    cr_assert_float_eq(loops / rows, mean, 2e-3, "mean depth %f, must be %f", loops / rows, mean);
    /* A halting probability may lie within rounding of the threshold: 1 in 1000 may differ. */
    cr_assert_leq(moved / 2, 8);
}

Test(bundled, the_demo_model_has_the_expected_loss_and_depths_on_held_out_text) {
    json_t *all = expected("models/demo", "held_out");
    tokenizer *tok;
    err e = {0};
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 2048, &e), 0, "%s", e.msg);
    buf text = {0};
    cr_assert_eq(file_read(&text, "models/demo/held_out.txt", 1u << 22, &e), 0, "%s", e.msg);
    token_ids ids = {0};
    cr_assert_eq(tokenizer_encode(tok, text.data, text.len, false, 1u << 20, &ids, &e), 0, "%s",
                 e.msg);
    cr_assert_geq(ids.n, ROWS * ROW);
    held_out_equals(all, ids.data, KV_EXACT);
    held_out_equals(all, ids.data, KV_LAST);
    token_ids_deinit(&ids);
    buf_deinit(&text);
    tokenizer_close(tok);
    json_decref(all);
}
