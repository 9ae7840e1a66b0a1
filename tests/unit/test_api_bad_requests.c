/* test_api_bad_requests.c - each folder of tests/suites/bad_request holds one refused body:
 * input.json, and `expected` with lines of "key value" (route, status, param, code, message: a part
 * of the message). Adding a case needs no C. */
#include "api/dialect_internal.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(api_bad_requests);

static int answer(const char *route, const char *body, size_t n, err *e) {
    buf out = {0};
    api_request *req = NULL;
    const api_dialect *dialect = strcmp(route, "chat") == 0        ? &api_dialect_chat
                                 : strcmp(route, "responses") == 0 ? &api_dialect_responses
                                                                   : &api_dialect_completion;
    int rc;
    if (strcmp(route, "tokenize") == 0)
        rc = api_list(api_tokenize, fixture.ctx, body, n, SIZE_MAX, &out, e);
    else if (strcmp(route, "detokenize") == 0)
        rc = api_list(api_detokenize, fixture.ctx, body, n, SIZE_MAX, &out, e);
    else rc = api_parse(&req, fixture.ctx, dialect, body, n, e);
    if (strcmp(route, "chat") == 0 || strcmp(route, "completion") == 0) {
        err same = {0};
        api_lister render =
            dialect == &api_dialect_chat ? api__render_chat : api__render_completion;
        cr_expect_eq(api_list(render, fixture.ctx, body, n, SIZE_MAX, &out, &same), rc);
        cr_expect_eq(same.code, e->code, "its /render answers another error");
        cr_expect_str_eq(same.msg, e->msg);
    }
    if (rc != 0) cr_expect_eq(out.len, 0, "a refusal must leave no half answer");
    buf_deinit(&out);
    api_request_destroy(req);
    return rc;
}

static const char *want(const buf *expected, const char *key, char *out, size_t cap) {
    const char *at = expected->data;
    size_t n = strlen(key);
    out[0] = 0;
    while (at) {
        if (strncmp(at, key, n) == 0 && at[n] == ' ') {
            snprintf(out, cap, "%.*s", (int)strcspn(at + n + 1, "\n"), at + n + 1);
            break;
        }
        at = strchr(at, '\n');
        if (at) at++;
    }
    return out;
}

static const char *or_null(const json_t *value) {
    return json_is_null(value) ? "null" : json_string_value(value);
}

/* The body a client would see: its four keys, and the lines of the case. */
static void check_error(const char *name, const buf *expected, const err *e) {
    char value[400];
    buf out = {0};
    api_error_body(&out, NULL, e);
    json_t *root = json_loadb(out.data, out.len, 0, NULL), *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    cr_assert_not_null(message, "%s: %s", name, out.data);
    cr_expect_eq(api_status(e),
                 (unsigned)strtoul(want(expected, "status", value, sizeof value), NULL, 10),
                 "%s: status %u: %s", name, api_status(e), message);
    cr_expect_str_eq(or_null(json_object_get(error, "param")),
                     want(expected, "param", value, sizeof value), "%s: %s", name, out.data);
    cr_expect_str_eq(or_null(json_object_get(error, "code")),
                     want(expected, "code", value, sizeof value), "%s: %s", name, out.data);
    cr_expect_str_eq(json_string_value(json_object_get(error, "type")), "invalid_request_error",
                     "%s", name);
    cr_expect_not_null(strstr(message, want(expected, "message", value, sizeof value)), "%s: %s",
                       name, message);
    cr_expect_lt(strlen(message), 400, "%s", name);
    bool numbers = json_is_integer(json_object_get(error, "n_ctx"));
    cr_expect_eq(numbers, e->code == ERR_TOO_LONG, "%s: n_ctx goes with TOO_LONG", name);
    json_decref(root);
    buf_deinit(&out);
}

static void run_case(const char *name) {
    char path[512], route[64];
    buf input = {0}, expected = {0};
    err e = {0};
    snprintf(path, sizeof path, "tests/suites/bad_request/%s/input.json", name);
    cr_assert_eq(file_read(&input, path, 4 << 20, &e), 0, "%s", e.msg);
    snprintf(path, sizeof path, "tests/suites/bad_request/%s/expected", name);
    cr_assert_eq(file_read(&expected, path, 4096, &e), 0, "%s", e.msg);
    /* An exact copy: one byte of over-read is a fault under ASan. */
    char *exact = malloc(input.len ? input.len : 1);
    memcpy(exact, input.data ? input.data : "", input.len);
    int rc = answer(want(&expected, "route", route, sizeof route), exact, input.len, &e);
    free(exact);
    cr_expect_eq(rc, -1, "%s: was not refused", name);
    if (rc != 0) check_error(name, &expected, &e);
    buf_deinit(&input);
    buf_deinit(&expected);
}

Test(api_bad_requests, each_folder_of_the_suite_is_refused_as_it_says, .timeout = HANGS_S) {
    DIR *dir = opendir("tests/suites/bad_request");
    cr_assert_not_null(dir);
    size_t cases = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        run_case(entry->d_name);
        cases++;
    }
    closedir(dir);
    cr_expect_geq(cases, 250);
}

/* ---- bodies too long to keep as a file ---- */

static void many(const char *item, const char *last, size_t n) {
    buf body = {0};
    err e = {0};
    buf_puts(&body, "{\"model\":\"demo\",\"prompt\":[");
    for (size_t i = 0; i < n; i++)
        buf_puts(&body, item);
    buf_puts(&body, last);
    buf_puts(&body, "]}");
    cr_expect_eq(answer("completion", body.data, body.len, &e), -1);
    cr_expect_eq(api_status(&e), 400);
    cr_expect_not_null(strstr(e.msg, "JSON elements"), "%s", e.msg);
    buf_deinit(&body);
}

Test(api_bad_requests, a_body_of_very_many_elements_is_refused_before_it_costs_memory) {
    many("{},", "{}", 200000);
    many("[],", "[]", 200000);
    many("0,", "0", 250000);
}

Test(api_bad_requests, more_log_probabilities_than_one_answer_may_hold_are_refused) {
    buf body = {0};
    err e = {0};
    buf_puts(&body, "{\"model\":\"demo\",\"n\":8,\"prompt_logprobs\":20,\"prompt\":[");
    for (int i = 0; i < 20; i++) {
        buf_puts(&body, i ? ",[1" : "[1");
        for (int k = 1; k < 1000; k++)
            buf_puts(&body, ",1");
        buf_puts(&body, "]");
    }
    buf_puts(&body, "]}");
    cr_assert_eq(answer("completion", body.data, body.len, &e), -1);
    cr_assert_eq(api_status(&e), 400);
    cr_assert_str_eq(e.param, "prompt_logprobs");
    buf_deinit(&body);
}

Test(api_bad_requests, a_body_over_the_limit_is_refused) {
    size_t n = (2 << 20) + 1;
    char *body = malloc(n);
    memset(body, ' ', n);
    err e = {0};
    cr_assert_eq(answer("chat", body, n, &e), -1);
    cr_assert_eq(api_status(&e), 400);
    free(body);
}

/* ---- accepted bodies ---- */

static const char *const good[] = {
    "{\"model\":\"demo\",\"prompt\":\"x\"}",
    "\xef\xbb\xbf{\"model\":\"demo\",\"prompt\":\"x\"}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"unknown_key\":{\"deep\":[1]}}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"max_tokens\":null,\"stop\":null,\"logprobs\":null,"
    "\"n\":null,"
    "\"stream\":null,\"stream_options\":null,\"logit_bias\":null,\"seed\":null,\"depth\":null,"
    "\"user\":null,"
    "\"suffix\":null,\"response_format\":null,\"temperature\":null,\"best_of\":null,\"tools\":"
    "null}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"temperature\":1e-400}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"temperature\":1e-38,\"seed\":-0}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"seed\":-9223372036854775808}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"n\":2,\"best_of\":2,\"suffix\":\"\",\"repetition_"
    "penalty\":1.0}",
    "{\"model\":\"demo\",\"prompt\":[\"x\",\"y\"],\"stop\":[\"a\",\"b\",\"c\",\"d\"],\"ignore_"
    "eos\":true}",
    "{\"model\":\"demo\",\"prompt\":[[1,2],[3]],\"stop_token_ids\":[0,2047],\"min_tokens\":2}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"max_tokens\":0,\"echo\":true,\"logprobs\":5}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"stream\":true,\"stream_options\":{\"include_usage\":"
    "true,"
    "\"continuous_usage_stats\":true,\"include_obfuscation\":false}}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"logit_bias\":{\"0\":-100,\"2047\":100}}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"depth\":{\"min_loops\":1,\"max_loops\":8,\"threshold\":"
    "1}}",
    "{\"model\":\"demo\",\"prompt\":\"<|end|>\"}",
    "{\"model\":\"demo\",\"prompt\":\"x\",\"response_format\":{\"type\":\"text\"},\"priority\":-5,"
    "\"cache_salt\":\"a\"}",
};

Test(api_bad_requests, what_is_allowed_is_not_refused) {
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        err e = {0};
        cr_expect_eq(answer("completion", good[i], strlen(good[i]), &e), 0, "%s: %s", good[i],
                     e.msg);
    }
}
