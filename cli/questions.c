/* questions.c - reads prompts with known answers, and judges generated texts. */
#include "cli/questions.h"

#include "api/api.h"
#include "base/json.h"
#include "base/size.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 256 << 20, MAX_STEPS = 1000000 };

static const json_limits line_limits = {
    .max_bytes = 16 << 20, .max_depth = 16, .max_structural = 1 << 16};

void questions_deinit(questions *all) {
    for (size_t i = 0; i < all->n; i++) {
        free(all->rows[i].answer);
        free(all->rows[i].ids);
    }
    free(all->rows);
    free(all->stop_ids);
    *all = (questions){0};
}

/* ---- one line ---- */

/* A number as an answer is its text. */
static int copy_answer(question *to, const json_t *value, const char *where, err *e) {
    char number[32];
    const char *text = json_c_string(value);
    if (json_is_integer(value)) {
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        text = number;
    }
    if (text == NULL || text[strspn(text, " \t\n\r")] == 0)
        return err_set(e, ERR_USAGE, NULL, "%s: \"answer\" must be text or a whole number", where);
    to->answer = strdup(text);
    return to->answer ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for an answer");
}

static int read_steps(question *to, const json_t *object, const char *where, err *e) {
    const json_t *value = json_object_get(object, "steps");
    if (value == NULL) value = json_object_get(object, "hops");
    if (value == NULL) return 0;
    json_int_t steps = json_is_integer(value) ? json_integer_value(value) : 0;
    if (steps < 1 || steps > MAX_STEPS) {
        return err_set(e, ERR_USAGE, NULL, "%s: \"steps\" must be a whole number from 1 to %d",
                       where, MAX_STEPS);
    }
    to->steps = (uint32_t)steps;
    return 0;
}

static int encode(question *to, const char *prompt, const runtime *rt, const api_context *api,
                  const char *where, err *e) {
    uint32_t context = model_plan_of(rt->model)->max_seq_len;
    token_ids ids = {0}, answer = {0};
    int rc = api_prompt_ids(api, prompt, strlen(prompt), &ids, e);
    if (rc == 0 && to->answer)
        rc = tokenizer_encode(rt->tokenizer, to->answer, strlen(to->answer), false, 1 << 20,
                              &answer, e);
    if (rc == 0 && ids.n == 0) rc = err_set(e, ERR_USAGE, NULL, "%s: the prompt is empty", where);
    if (rc == 0 && ids.n + answer.n >= context) {
        rc = err_set(e, ERR_USAGE, NULL,
                     "%s: prompt and answer have %zu tokens, and the model's context is %u", where,
                     ids.n + answer.n, context);
    }
    to->ids = ids.data;
    to->n_ids = (uint32_t)ids.n;
    to->n_answer = (uint32_t)answer.n;
    token_ids_deinit(&answer);
    return rc;
}

static int read_line(questions *all, const char *line, size_t n, const char *where,
                     const runtime *rt, const api_context *api, err *e) {
    json_t *object = NULL;
    question *to = &all->rows[all->n++];
    *to = (question){0};
    if (json_parse(&object, line, n, &line_limits, where, e) != 0) {
        if (e->code == ERR_BAD_PARAM) e->code = ERR_USAGE;
        return -1;
    }
    const char *prompt = json_c_string(json_object_get(object, "prompt"));
    const json_t *answer = json_object_get(object, "answer");
    int rc = prompt ? 0
                    : err_set(e, ERR_USAGE, NULL, "%s: expected an object with a text \"prompt\"",
                              where);
    if (rc == 0 && answer) rc = copy_answer(to, answer, where, e);
    if (rc == 0) rc = read_steps(to, object, where, e);
    if (rc == 0) rc = encode(to, prompt, rt, api, where, e);
    if (to->answer) all->n_answers++;
    if (to->n_ids > all->longest) all->longest = to->n_ids;
    json_decref(object);
    return rc;
}

/* ---- the file ---- */

static int make_room(questions *all, err *e) {
    if (all->n < all->cap) return 0;
    size_t cap = all->cap ? 2 * all->cap : 256;
    question *more = realloc(all->rows, cap * sizeof *more);
    if (more == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the prompts");
    all->rows = more;
    all->cap = cap;
    return 0;
}

static int copy_stop_ids(questions *all, const api_context *api, err *e) {
    uint32_t n;
    const uint32_t *ids = api_stop_ids(api, &n);
    all->stop_ids = array_new(n ? n : 1, sizeof *all->stop_ids);
    if (all->stop_ids == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (n) memcpy(all->stop_ids, ids, n * sizeof *ids);
    all->n_stop_ids = n;
    return 0;
}

static int read_lines(questions *all, const buf *text, const runtime *rt, const api_context *api,
                      const char *option, const char *path, err *e) {
    uint32_t number = 0;
    for (size_t at = 0; at < text->len;) {
        const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
        size_t n = end ? (size_t)(end - line) : text->len - at;
        char where[300];
        at += n + 1;
        (void)snprintf(where, sizeof where, "%s: line %u of %.200s", option, ++number, path);
        if (strspn(line, " \t\r") >= n) continue;
        if (make_room(all, e) != 0 || read_line(all, line, n, where, rt, api, e) != 0) return -1;
        all->rows[all->n - 1].line = number;
    }
    if (all->n == 0) return err_set(e, ERR_USAGE, option, "%s: %s has no line", option, path);
    return copy_stop_ids(all, api, e);
}

int questions_read(questions *out, const runtime *rt, const char *option, const char *path,
                   err *e) {
    *out = (questions){0};
    if (rt->tokenizer == NULL) return runtime_needs_tokenizer(rt, option, "", e);
    api_opts settings = {.model_dir = model_dir(rt->model),
                         .model = rt->model,
                         .tokenizer = rt->tokenizer,
                         .max_context = model_plan_of(rt->model)->max_seq_len,
                         .max_n = 1,
                         .max_prompts = 1,
                         .ceiling_loops = rt->sched.ceiling_loops};
    api_context *api = NULL;
    buf text = {0};
    if (api_context_open(&api, &settings, e) != 0) return -1;
    int rc = opt_read_file(&text, option, path, MAX_FILE, e);
    if (rc == 0) rc = read_lines(out, &text, rt, api, option, path, e);
    api_context_close(api);
    buf_deinit(&text);
    if (rc != 0) questions_deinit(out);
    return rc;
}

/* ---- judging ---- */

static size_t skip_space(const char *text, size_t n) {
    size_t at = 0;
    while (at < n && strchr(" \t\r\n", text[at]) && text[at])
        at++;
    return at;
}

static bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

answer_state question_judge(const question *asked, const char *text, size_t n, bool ended) {
    size_t n_answer = strlen(asked->answer), skip = skip_space(asked->answer, n_answer);
    const char *answer = asked->answer + skip;
    n_answer -= skip;
    while (n_answer && strchr(" \t\r\n", answer[n_answer - 1]))
        n_answer--;
    skip = skip_space(text, n);
    text += skip;
    n -= skip;
    if (memcmp(text, answer, n < n_answer ? n : n_answer) != 0) return ANSWER_WRONG;
    if (n > n_answer) return is_word(text[n_answer]) ? ANSWER_WRONG : ANSWER_RIGHT;
    if (!ended) return ANSWER_OPEN;
    return n == n_answer ? ANSWER_RIGHT : ANSWER_WRONG;
}

int question_judge_tokens(const question *asked, const tokenizer *tok, const uint32_t *ids,
                          size_t n, bool ended, answer_state *out, err *e) {
    buf text = {0};
    int rc = tokenizer_decode(tok, ids, n, true, &text, e);
    if (rc == 0) *out = question_judge(asked, text.data ? text.data : "", text.len, ended);
    buf_deinit(&text);
    return rc;
}
