/* fuzz_answer.c - a number of bytes to cut at, then the text of an answer that may hold calls or
 * begin with reasoning.
 *
 * Every notation must find the same in the text at once and in two parts. Arguments written as tags
 * or in Python must become JSON, except those of a call cut off in the middle. Reasoning and
 * content must be as the plain search of split_plainly finds them, at once and in two parts. */
#include "api/dialect_internal.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>

static bool same(const buf *left, const buf *right) {
    return left->len == right->len &&
           (left->len == 0 || memcmp(left->data, right->data, left->len) == 0);
}

static void check_arguments(const api__answer *answer) {
    for (uint32_t i = 0; i < answer->n_calls; i++) {
        const api__call *call = &answer->calls[i];
        if (!call->whole) continue;
        json_t *value = json_loadb(answer->args.data + call->args, call->args_end - call->args,
                                   JSON_ALLOW_NUL, NULL);
        if (!json_is_object(value)) __builtin_trap();
        json_decref(value);
    }
}

static void read_twice(const api_request *req, const char *text, size_t n, size_t cut) {
    const api__notation *notation = req->notation;
    api__answer whole = {0}, parts = {0};
    notation->read(req, &whole, text, n, true);
    notation->read(req, &parts, text, cut, false);
    notation->read(req, &parts, text, n, true);
    if (!same(&whole.said, &parts.said) || !same(&whole.args, &parts.args)) __builtin_trap();
    if (whole.n_calls != parts.n_calls || whole.n_parts != parts.n_parts) __builtin_trap();
    if (notation == &api__notation_tags) check_arguments(&whole);
    api__answer_deinit(&whole);
    api__answer_deinit(&parts);
}

/* ---- reasoning ---- */

typedef struct {
    size_t from, to; /* the reasoning, without the blanks around it */
    size_t content;
} parts;

static size_t skip_blanks(const char *text, size_t at, size_t n) {
    while (at < n && text[at] && strchr(" \n\r\t", text[at]))
        at++;
    return at;
}

/* The same as api__read_thought, for a whole text and with one search. */
static parts split_plainly(const api_request *req, const char *text, size_t n) {
    const char *open = req->marks->open, *close = req->marks->close;
    size_t at = skip_blanks(text, 0, n);
    bool opens = n - at >= strlen(open) && memcmp(text + at, open, strlen(open)) == 0;
    if (!opens && !req->thinks_first) return (parts){0};
    if (opens) at += strlen(open);
    const char *found = memmem(text + at, n - at, close, strlen(close));
    size_t end = found ? (size_t)(found - text) : n, from = skip_blanks(text, at, end);
    size_t content = found ? skip_blanks(text, end + strlen(close), n) : n;
    return (parts){from, from + api__without_blanks(text + from, end - from), content};
}

static void expect_split(const api_request *req, const char *text, size_t n, size_t cut) {
    parts want = split_plainly(req, text, n);
    api__thinker thinker = {0};
    api__answer answer = {0};
    size_t early = api__read_thought(&thinker, req, &answer, text, cut, false);
    size_t held = answer.thought.len;
    size_t content = api__read_thought(&thinker, req, &answer, text, n, true);
    if (content != want.content || (early != SIZE_MAX && early != content)) __builtin_trap();
    if (answer.thought.len != want.to - want.from || held > answer.thought.len) __builtin_trap();
    if (answer.thought.len &&
        memcmp(answer.thought.data, text + want.from, answer.thought.len) != 0)
        __builtin_trap();
    api__answer_deinit(&answer);
}

static void check_reasoning(const char *text, size_t n, size_t cut) {
    /* The second pair meets its own beginning again in the middle. */
    static const api__marks pairs[] = {{"<think>", "</think>"}, {"aab", "aac"}};
    for (size_t i = 0; i < ARRAY_LEN(pairs) * 2; i++) {
        api_request req = {.marks = &pairs[i / 2], .thinks_first = i % 2, .show_thought = true};
        expect_split(&req, text, n, cut);
        expect_split(&req, text, n, 0);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    return 0;
}

static void one_input(const uint8_t *data, size_t n) {
    static api__param params[] = {{"a", API__TYPE_STRING},
                                  {"b", API__TYPE_INTEGER | API__TYPE_NULL},
                                  {"c", API__TYPE_OBJECT | API__TYPE_ARRAY | API__TYPE_STRING},
                                  {"d", API__TYPE_BOOLEAN}};
    static api__tool tools[] = {{"f", params, ARRAY_LEN(params)}, {.name = "g"}};
    static const api__notation *const notations[] = {&api__notation_json, &api__notation_mistral,
                                                     &api__notation_llama, &api__notation_tags};
    api_request req = {.tools = tools, .n_tools = ARRAY_LEN(tools), .calls = API__CALLS_AUTO};
    if (n < 2) return;
    size_t cut = (size_t)(data[0] | data[1] << 8), len = n - 2;
    req.one_call = data[1] >> 7;
    if (data[1] >> 6 & 1) req.calls = API__CALLS_FORCED;
    char *text = malloc(len + 1); /* its end is checked */
    if (text == NULL) return;
    memcpy(text, data + 2, len);
    text[len] = 0;
    cut = len > 0 ? cut % (len + 1) : 0;
    for (size_t i = 0; i < ARRAY_LEN(notations); i++) {
        req.notation = notations[i];
        read_twice(&req, text, len, cut);
    }
    check_reasoning(text, len, cut);
    free(text);
}

FUZZ_TARGET(one_input, 3000, 8000)
