/* test_api_format.c - response_format with the demo model itself: a small weak model at temperature
 * 1. Even so, each of its answers must be JSON that fits the schema. */
#include "api/dialect_internal.h"
#include "engine/backend.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(api_format, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    api_reply *reply;
    uint64_t ids[64];
    uint32_t n;
    buf out;
    unsigned bits;
    scheduler *sched;
} answer;

static void on_event(void *ud, const sched_event *ev) {
    answer *got = ud;
    err e = {0};
    for (uint32_t i = 0; i < got->n; i++) {
        if (got->ids[i] == ev->id) got->bits |= api_event(got->reply, i, ev, &got->out, &e);
    }
    cr_assert_eq(e.code, ERR_NONE, "%s", e.msg);
}

/* The whole body of the answer. */
static json_t *ask(const api_fixture *fixture, const api_dialect *dialect, const char *body) {
    answer got = {.reply = api_must_reply(fixture, dialect, body)};
    eng_backend *backend = NULL;
    sched_opts so;
    err e = {0};
    sched_opts_default(&so);
    eng_backend_opts bo = {.threads = 1,
                           .max_loops = 8,
                           .n_rows = 256,
                           .max_launch = 64,
                           .max_logits = 64,
                           .cache_bytes = 64 << 20,
                           .max_positions = 1024,
                           .kernels = "portable"};
    so.max_rows = 64;
    cr_assert_eq(eng_cpu_open(&backend, fixture->model, &bo, &e), 0, "%s", e.msg);
    cr_assert_eq(sched_create(&got.sched, backend, &so, on_event, &got, &e), 0, "%s", e.msg);
    for (uint32_t i = 0; i < api_reply_sequences(got.reply); i++) {
        sched_request req;
        api_reply_request(got.reply, i, &req);
        cr_assert_eq(sched_submit(got.sched, &req, &got.ids[got.n++], &e), 0, "%s", e.msg);
    }
    for (bool idle = false; !idle;)
        cr_assert_eq(sched_step(got.sched, &idle, &e), 0, "%s", e.msg);
    cr_assert(got.bits & API_DONE);
    json_t *json = json_loadb(got.out.data, got.out.len, 0, NULL);
    cr_assert(json, "%s", got.out.data);
    sched_destroy(got.sched);
    eng_backend_close(backend);
    api_reply_destroy(got.reply);
    buf_deinit(&got.out);
    return json;
}

static const json_t *choice(const json_t *body, size_t i) {
    return json_array_get(json_object_get(body, "choices"), i);
}

#define PERSON                                                                                     \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":12},"        \
    "\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":120},\"kind\":{\"enum\":[\"king\","   \
    "\"prophet\",null]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\","              \
    "\"maxLength\":5},"                                                                            \
    "\"maxItems\":3}},\"required\":[\"name\",\"age\",\"kind\",\"tags\"],\"additionalProperties\":" \
    "false}"

static void check_person(const char *text) {
    json_error_t why;
    json_t *value = json_loads(text, 0, &why), *one;
    size_t i;
    cr_assert(value, "%s in '%s'", why.text, text);
    cr_assert_eq(json_object_size(value), 4, "%s", text);
    cr_assert(json_is_string(json_object_get(value, "name")), "%s", text);
    json_int_t age = json_integer_value(json_object_get(value, "age"));
    cr_assert(json_is_integer(json_object_get(value, "age")) && age >= 0 && age <= 120, "%s", text);
    const json_t *dialect = json_object_get(value, "kind"), *tags = json_object_get(value, "tags");
    const char *word = json_string_value(dialect);
    cr_assert(json_is_null(dialect) ||
                  (word && (!strcmp(word, "king") || !strcmp(word, "prophet"))),
              "%s", text);
    cr_assert(json_is_array(tags) && json_array_size(tags) <= 3, "%s", text);
    json_array_foreach(tags, i, one) cr_assert(json_is_string(one), "%s", text);
    json_decref(value);
}

Test(api_format, every_answer_of_a_weak_model_fits_its_schema) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    json_t *body = ask(
        &fixture, &api_dialect_chat,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"Who was David?\"}],"
        "\"temperature\":1,\"seed\":7,\"n\":8,\"max_tokens\":500,\"response_format\":{\"type\":"
        "\"json_schema\",\"json_schema\":{\"name\":\"person\",\"strict\":true,\"schema\":" PERSON
        "}}}");
    for (size_t i = 0; i < 8; i++) {
        const char *text = json_string_value(
            json_object_get(json_object_get(choice(body, i), "message"), "content"));
        const char *why = json_string_value(json_object_get(choice(body, i), "finish_reason"));
        cr_assert_str_eq(why, "stop", "%s", text);
        check_person(text);
    }
    json_decref(body);
    body = ask(&fixture, &api_dialect_completion,
               "{\"model\":\"demo\",\"prompt\":[\"In the beginning\",\"And it came to "
               "pass\"],\"temperature\":1.5,"
               "\"seed\":3,\"max_tokens\":500,\"response_format\":{\"type\":\"json_schema\",\"json_"
               "schema\":"
               "{\"name\":\"person\",\"schema\":" PERSON "}}}");
    for (size_t i = 0; i < 2; i++)
        check_person(json_string_value(json_object_get(choice(body, i), "text")));
    json_decref(body);
    body = ask(&fixture, &api_dialect_responses,
               "{\"model\":\"demo\",\"input\":\"Who was "
               "David?\",\"max_output_tokens\":500,\"text\":{\"format\":{"
               "\"type\":\"json_schema\",\"name\":\"person\",\"schema\":" PERSON "}}}");
    const json_t *message = json_array_get(json_object_get(body, "output"), 0);
    check_person(json_string_value(
        json_object_get(json_array_get(json_object_get(message, "content"), 0), "text")));
    json_decref(body);
    api_fixture_close(&fixture);
}

Test(api_format, a_json_object_is_one_or_a_beginning_of_one) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    json_t *body = ask(
        &fixture, &api_dialect_chat,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"Speak\"}],"
        "\"temperature\":1,"
        "\"seed\":1,\"n\":8,\"max_tokens\":300,\"response_format\":{\"type\":\"json_object\"}}");
    for (size_t i = 0; i < 8; i++) {
        const char *text = json_string_value(
            json_object_get(json_object_get(choice(body, i), "message"), "content"));
        const char *why = json_string_value(json_object_get(choice(body, i), "finish_reason"));
        cr_assert_eq(text[0], '{', "%s", text);
        if (strcmp(why, "length") == 0) continue; /* cut by max_tokens: a beginning */
        json_t *value = json_loads(text, 0, NULL);
        cr_assert(json_is_object(value), "%s", text);
        json_decref(value);
    }
    json_decref(body);
    api_fixture_close(&fixture);
}

Test(api_format, the_same_seed_gives_the_same_answer_alone_and_among_others) {
    static const char body[] =
        "{\"model\":\"demo\",\"prompt\":\"Moses\",\"temperature\":1,\"seed\":11,\"n\":%d,"
        "\"max_tokens\":500,\"response_format\":{\"type\":\"json_schema\",\"json_schema\":"
        "{\"name\":\"p\",\"schema\":" PERSON "}}}";
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    buf one = {0}, many = {0};
    buf_printf(&one, body, 1);
    buf_printf(&many, body, 6);
    json_t *alone = ask(&fixture, &api_dialect_completion, one.data),
           *among = ask(&fixture, &api_dialect_completion, many.data);
    cr_assert_str_eq(json_string_value(json_object_get(choice(alone, 0), "text")),
                     json_string_value(json_object_get(choice(among, 0), "text")));
    json_decref(alone);
    json_decref(among);
    buf_deinit(&one);
    buf_deinit(&many);
    api_fixture_close(&fixture);
}

Test(api_format, what_cannot_be_promised_is_refused_with_its_field) {
#define CHAT "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
#define SCHEMA(s) CHAT "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":" s "}}"
    static const struct {
        const char *body, *param;
        err_code code;
    } rows[] = {
        {CHAT "\"response_format\":{\"type\":\"json_schema\"}}", "response_format.json_schema",
         ERR_BAD_PARAM},
        {SCHEMA("{}"), "response_format.json_schema.name", ERR_BAD_PARAM},
        {SCHEMA("{\"name\":\"a b\",\"schema\":{}}"), "response_format.json_schema.name",
         ERR_BAD_PARAM},
        {SCHEMA("{\"name\":\"a\"}"), "response_format.json_schema.schema", ERR_BAD_PARAM},
        {SCHEMA("{\"name\":\"a\",\"schema\":7}"), "response_format.json_schema.schema",
         ERR_BAD_PARAM},
        {CHAT "\"response_format\":{\"type\":\"json_object\",\"schema\":[]}}",
         "response_format.schema", ERR_BAD_PARAM},
        {CHAT "\"guided_json\":\"{\"}", NULL, ERR_BAD_PARAM},
        {CHAT "\"guided_json\":7}", "guided_json", ERR_BAD_PARAM},
        {CHAT "\"guided_json\":{},\"json_schema\":{}}", "json_schema", ERR_BAD_PARAM},
        {CHAT "\"guided_json\":\"{}\",\"structured_outputs\":{\"json\":\"{}\"}}",
         "structured_outputs", ERR_BAD_PARAM},
        {CHAT "\"structured_outputs\":{\"json\":{\"$ref\":\"#/x\"}}}", "structured_outputs.json",
         ERR_BAD_PARAM},
        {CHAT "\"structured_outputs\":{\"choice\":[\"a\"]}}", "structured_outputs",
         ERR_UNSUPPORTED},
        {CHAT "\"guided_choice\":[\"a\"]}", "guided_choice", ERR_UNSUPPORTED},
        {SCHEMA("{\"name\":\"a\",\"schema\":{},\"strict\":1}"),
         "response_format.json_schema.strict", ERR_BAD_PARAM},
        {SCHEMA("{\"name\":\"a\",\"schema\":{\"type\":\"string\",\"pattern\":\"(?=x)\"},"
                "\"strict\":true}"),
         "response_format.json_schema.schema", ERR_UNSUPPORTED},
        {SCHEMA("{\"name\":\"a\",\"schema\":{\"$ref\":\"#/$defs/x\"}}"),
         "response_format.json_schema.schema", ERR_BAD_PARAM},
        {CHAT "\"response_format\":{\"type\":\"json_object\"},\"ignore_eos\":true}", "ignore_eos",
         ERR_BAD_PARAM},
        {CHAT "\"response_format\":{\"type\":\"json_object\"},\"min_tokens\":3}", "min_tokens",
         ERR_BAD_PARAM},
    };
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api_request *req = NULL;
        err e = {0};
        cr_assert_eq(
            api_parse(&req, fixture.ctx, &api_dialect_chat, rows[i].body, strlen(rows[i].body), &e),
            -1, "row %zu", i);
        cr_assert_null(req);
        cr_assert_eq(e.code, rows[i].code, "row %zu: %s", i, e.msg);
        if (rows[i].param) cr_assert_str_eq(e.param, rows[i].param, "row %zu: %s", i, e.msg);
        cr_assert_eq(api_status(&e), 400, "row %zu", i);
    }
    api_fixture_close(&fixture);
    api_fixture_open(&fixture, NULL, true);
    static const char ids[] =
        "{\"model\":\"demo\",\"prompt\":[1,2],\"response_format\":{\"type\":\"json_object\"}}";
    api_request *req = NULL;
    err e = {0};
    cr_assert_eq(api_parse(&req, fixture.ctx, &api_dialect_completion, ids, strlen(ids), &e), -1);
    cr_assert_eq(e.code, ERR_UNSUPPORTED, "%s", e.msg);
    api_fixture_close(&fixture);
}

/* ---- where clients put a schema, and what holds then ---- */

#define A "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}"
#define A_TEXT                                                                                     \
    "\"{\\\"type\\\":\\\"object\\\",\\\"properties\\\":{\\\"a\\\":{\\\"type\\\":\\\"integer\\\"}}" \
    ","                                                                                            \
    "\\\"required\\\":[\\\"a\\\"]}\""
#define TOOL(rest) "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"" rest "}}]"
#define NEEDS_B                                                                                    \
    ",\"parameters\":{\"type\":\"object\",\"properties\":{\"b\":{\"$ref\":\"#/$defs/b\"}},"        \
    "\"required\":[\"b\"],\"$defs\":{\"b\":{\"type\":\"boolean\"}}}"
#define REFERS                                                                                     \
    "{\"$defs\":{\"b\":{\"type\":\"string\"}},\"type\":\"object\",\"properties\":{\"a\":{\"$"      \
    "ref\":"                                                                                       \
    "\"#/$defs/b\"}},\"required\":[\"a\"]}"
#define RESPONSE "{\"model\":\"demo\",\"input\":\"x\","
#define PROMPT "{\"model\":\"demo\",\"prompt\":\"x\","

static const struct {
    const api_dialect *dialect;
    const char *body, *whole, *refused;
} places[] = {
    {&api_dialect_chat,
     CHAT
     "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":" A
     "}}}",
     "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"response_format\":{\"type\":\"json_object\",\"schema\":" A "}}",
     "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"response_format\":{\"type\":\"json_schema\",\"schema\":" A "}}",
     "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"guided_json\":" A "}", "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"guided_json\":" A_TEXT "}", "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"json_schema\":" A "}", "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"structured_outputs\":{\"json\":" A "}}", "{\"a\":1}", "{}"},
    {&api_dialect_chat, CHAT "\"structured_outputs\":{\"json_object\":true}}", "{}", "[]"},
    {&api_dialect_completion, PROMPT "\"guided_json\":" A "}", "{\"a\":1}", "{}"},
    {&api_dialect_responses, RESPONSE "\"guided_json\":" A "}", "{\"a\":1}", "{}"},
    {&api_dialect_responses,
     RESPONSE "\"text\":{\"format\":{\"type\":\"json_object\",\"schema\":" A "}}}", "{\"a\":1}",
     "{}"},
    /* An empty schema is any JSON value, and no text. */
    {&api_dialect_chat, CHAT "\"guided_json\":{}}", "[7]", "x"},
    {&api_dialect_chat,
     CHAT
     "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":"
     "{}}}}",
     "7.5", "x"},
    {&api_dialect_chat, CHAT "\"structured_outputs\":{\"json\":true}}", "null", "x"},
    /* With functions the answer is a call or fits the schema. References stay in their schemas. */
    {&api_dialect_chat, CHAT TOOL(NEEDS_B) ",\"guided_json\":" REFERS "}", "{\"a\":\"x\"}",
     "{\"a\":true}"},
    {&api_dialect_chat, CHAT TOOL(NEEDS_B) ",\"guided_json\":" REFERS "}",
     "{\"name\":\"f\",\"arguments\":{\"b\":true}}", "{\"name\":\"f\",\"arguments\":{\"b\":\"x\"}}"},
    {&api_dialect_chat, CHAT TOOL("") ",\"response_format\":{\"type\":\"json_object\"}}",
     "{\"x\":[1]}", "[1]"},
    /* A call that must be made takes the place of the schema; one that may not leaves it. */
    {&api_dialect_chat, CHAT TOOL(NEEDS_B) ",\"tool_choice\":\"required\",\"guided_json\":" A "}",
     "{\"name\":\"f\",\"arguments\":{\"b\":true}}", "{\"a\":1}"},
    {&api_dialect_chat, CHAT TOOL(NEEDS_B) ",\"tool_choice\":\"none\",\"guided_json\":" A "}",
     "{\"a\":1}", "{\"name\":\"f\",\"arguments\":{\"b\":true}}"},
};

Test(api_format, a_schema_is_enforced_wherever_clients_put_it) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        api_request *req = api_must_parse(&fixture, places[i].dialect, places[i].body);
        cr_assert_not_null(req->grammar, "row %zu", i);
        cr_expect_eq(grammar_feed(req->grammar, places[i].whole), 1, "row %zu", i);
        cr_expect_eq(grammar_feed(req->grammar, places[i].refused), -1, "row %zu", i);
        api_request_destroy(req);
    }
    api_fixture_close(&fixture);
}

Test(api_format, a_call_written_as_tags_may_stand_instead_of_the_schema_too) {
    json_t *tools = json_loads("[{\"function\":{\"name\":\"f\"}}]", 0, NULL),
           *form = json_loads(REFERS, 0, NULL);
    api__grammar *grammar = NULL;
    err e = {0};
    cr_assert_eq(api__grammar_compile_either(&grammar, tools, true, form, false, "tools", &e), 0,
                 "%s", e.msg);
    cr_expect_eq(grammar_feed(grammar, "{\"a\":\"x\"}"), 1);
    cr_expect_eq(grammar_feed(grammar, "<tool_call>\n<function=f>\n</function>\n</tool_call>"), 1);
    cr_expect_eq(grammar_feed(grammar, "{\"a\":1}"), -1);
    cr_expect_eq(grammar_feed(grammar, "<tool_call>\n<function=g>"), -1);
    api__grammar_free(grammar);
    json_decref(tools);
    json_decref(form);
}

Test(api_format, a_form_that_cannot_be_had_is_told_with_the_field_that_asked_for_it) {
    static const struct {
        const api_dialect *dialect;
        const char *body, *field;
    } rows[] = {
        {&api_dialect_chat,
         "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
         "\"response_format\":{\"type\":\"json_object\"}}",
         "response_format"},
        {&api_dialect_responses,
         "{\"model\":\"demo\",\"input\":\"x\",\"text\":{\"format\":{\"type\":\"json_object\"}}}",
         "text.format"},
        {&api_dialect_chat,
         "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{"
         "\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\"}",
         "tools"},
    };
    static const struct {
        err_code why;
        const char *code;
    } ends[] = {{ERR_COSTLY, "form_too_costly"}, {ERR_CONSTRAINT, "no_token_left"}};
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    for (size_t i = 0; i < 2 * ARRAY_LEN(rows); i++) {
        api_reply *reply = api_must_reply(&fixture, rows[i / 2].dialect, rows[i / 2].body);
        sched_event end = ev_end(SCHED_FAILED, 1, 0);
        end.why = ends[i % 2].why;
        buf out = {0}, body = {0};
        err e = {0};
        cr_assert_eq(api_reply_event(reply, 0, &end, &out, &e), API_FAILED);
        cr_assert_eq(api_status(&e), 400);
        api_error_body(&body, NULL, &e);
        cr_expect_str_eq(e.param, rows[i / 2].field);
        cr_expect(strstr(body.data, ends[i % 2].code), "%s", body.data);
        cr_expect(strstr(body.data, err_text(ends[i % 2].why)), "%s", body.data);
        api_reply_destroy(reply);
        buf_deinit(&out);
        buf_deinit(&body);
    }
    api_fixture_close(&fixture);
}

Test(api_format, five_hundred_and_twelve_properties_may_all_be_required) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    for (uint32_t n = 300; n <= 513; n += n < 512 ? 212 : 1) {
        buf body = {0};
        api_request *req = NULL;
        err e = {0};
        buf_puts(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{"
                        "\"name\":\"n\",\"schema\":{\"type\":\"object\",\"properties\":{");
        for (uint32_t i = 0; i < n; i++)
            buf_printf(&body, "%s\"p%u\":{}", i ? "," : "", i);
        buf_puts(&body, "},\"required\":[");
        for (uint32_t i = 0; i < n; i++)
            buf_printf(&body, "%s\"p%u\"", i ? "," : "", i);
        buf_puts(&body, "]}}}}");
        int rc = api_parse(&req, fixture.ctx, &api_dialect_chat, body.data, body.len, &e);
        cr_expect_eq(rc, n <= 512 ? 0 : -1, "%u: %s", n, e.msg);
        api_request_destroy(req);
        buf_deinit(&body);
    }
    api_fixture_close(&fixture);
}
