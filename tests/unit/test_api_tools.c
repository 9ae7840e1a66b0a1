/* test_api_tools.c - functions in the prompt, forced calls, calls found in the text. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(api_tools);

#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{"        \
    "\"type\":\"object\","                                                                         \
    "\"properties\":{\"city\":{\"type\":\"string\",\"maxLength\":6},\"days\":{\"type\":"           \
    "\"integer\",\"minimum\":1,"                                                                   \
    "\"maximum\":9}},\"required\":[\"city\"],\"additionalProperties\":false}}},{\"type\":"         \
    "\"function\","                                                                                \
    "\"function\":{\"name\":\"now\"}}]"
#define CHAT(rest)                                                                                 \
    "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"request_id\":"     \
    "\"r\"," TOOLS rest "}"

static json_t *parsed(const char *text, size_t n) {
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    cr_assert_not_null(root, "%s: %.*s", why.text, (int)n, text);
    return root;
}

static const char *str(const json_t *value, const char *key) {
    const char *s = json_string_value(json_object_get(value, key));
    return s ? s : "(none)";
}

/* The contents of a stream: content, name and arguments put together, finish reason. */
typedef struct {
    buf content, name, arguments;
    char finish[16];
    size_t chunks, calls;
} told;

static void told_deinit(told *got) {
    buf_deinit(&got->content);
    buf_deinit(&got->name);
    buf_deinit(&got->arguments);
}

static void add(buf *out, const json_t *value) {
    if (value) buf_append(out, json_string_value(value), json_string_length(value));
}

static void read_stream(const buf *sse, told *got) {
    *got = (told){0};
    for (const char *at = sse->data; at && *at && strncmp(at + 6, "[DONE]", 6) != 0;
         at = strstr(at, "\n\n") + 2) {
        json_t *root = parsed(at + 6, (size_t)(strstr(at, "\n\n") - at) - 6);
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0),
                     *delta = json_object_get(choice, "delta");
        const json_t *call = json_array_get(json_object_get(delta, "tool_calls"), 0);
        const json_t *function = json_object_get(call, "function");
        got->chunks++;
        add(&got->content, json_object_get(delta, "content"));
        add(&got->name, json_object_get(function, "name"));
        add(&got->arguments, json_object_get(function, "arguments"));
        if (call)
            cr_assert_eq(json_is_string(json_object_get(call, "id")), got->calls++ == 0,
                         "an id comes once, first");
        const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
        if (finish) snprintf(got->finish, sizeof got->finish, "%s", finish);
        json_decref(root);
    }
}

static const char *text_of(const buf *out) {
    return out->data ? out->data : "";
}

/* ---- auto ---- */

static const struct {
    const char *text, *content, *name, *arguments;
} answers[] = {
    {"{\"name\":\"weather\",\"arguments\":{\"city\":\"Ur\"}}", "", "weather", "{\"city\":\"Ur\"}"},
    {" {\"name\" : \"now\",\n \"arguments\": {} }", "", "now", "{}"},
    {"{\"name\":\"weather\",\"arguments\":{\"a\":\"}\\\"{\",\"b\":[{}]}} and more", "", "weather",
     "{\"a\":\"}\\\"{\",\"b\":[{}]}"},
    {"{\"name\":\"king\",\"arguments\":{}}", "{\"name\":\"king\",\"arguments\":{}}", "", ""},
    {"{\"arguments\":{},\"name\":\"now\"}", "{\"arguments\":{},\"name\":\"now\"}", "", ""},
    {"{\"name\":\"now\",\"arguments\":7}", "{\"name\":\"now\",\"arguments\":7}", "", ""},
    {"In the beginning {\"name\":\"now\"}", "In the beginning {\"name\":\"now\"}", "", ""},
    {"{\"name\":\"now\"", "", "now", ""},
    {"   ", "   ", "", ""},
    /* The tag of Hermes and Qwen around the same object. */
    {"<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "", "now", "{}"},
    {"\n<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":[1]}}</tool_call>\n", "", "now",
     "{\"a\":[1]}"},
    {"<tool_call>", "", "", ""},
    {"<tool_call> now", "<tool_call> now", "", ""},
    {"<tool_cal>{\"name\":\"now\",\"arguments\":{}}",
     "<tool_cal>{\"name\":\"now\",\"arguments\":{}}", "", ""},
    {"<tool_call><tool_call>{\"name\":\"now\",\"arguments\":{}}", "", "now", "{}"},
    {"{<tool_call>\"name\":\"now\",\"arguments\":{}}",
     "{<tool_call>\"name\":\"now\",\"arguments\":{}}", "", ""},
};

Test(api_tools, with_auto_a_call_is_found_in_the_text_and_anything_else_is_content) {
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        for (int stream = 0; stream < 2; stream++) {
            uint32_t ids[200];
            size_t n = api_ids(&fixture, answers[i].text, ids, 200);
            api_reply *reply = api_must_reply(
                &fixture, &api_dialect_chat,
                stream ? CHAT(",\"stream\":true,\"logprobs\":true,\"max_tokens\":300")
                       : CHAT(",\"max_tokens\":300"));
            buf out = {0};
            bool call = answers[i].name[0], chatter = call && strstr(answers[i].text, "more");
            unsigned bits = api_feed(reply, 0, ids, n, SCHED_STOP, &out);
            cr_expect_eq(bits, chatter ? API_CANCEL | API_DONE : API_DONE, "row %zu", i);
            if (stream) {
                told got;
                read_stream(&out, &got);
                cr_expect_str_eq(text_of(&got.content), answers[i].content, "row %zu", i);
                cr_expect_str_eq(text_of(&got.name), answers[i].name, "row %zu", i);
                cr_expect_str_eq(text_of(&got.arguments), answers[i].arguments, "row %zu", i);
                cr_expect_str_eq(got.finish, call ? "tool_calls" : "stop", "row %zu", i);
                told_deinit(&got);
            } else {
                json_t *root = parsed(out.data, out.len),
                       *choice = json_array_get(json_object_get(root, "choices"), 0);
                const json_t *message = json_object_get(choice, "message"),
                             *content = json_object_get(message, "content");
                const json_t *function = json_object_get(
                    json_array_get(json_object_get(message, "tool_calls"), 0), "function");
                if (call) cr_expect(json_is_null(content), "row %zu", i);
                else cr_expect_str_eq(json_string_value(content), answers[i].content, "row %zu", i);
                if (call) cr_expect_str_eq(str(function, "name"), answers[i].name);
                if (call) cr_expect_str_eq(str(function, "arguments"), answers[i].arguments);
                cr_expect_str_eq(str(choice, "finish_reason"), call ? "tool_calls" : "stop");
                json_decref(root);
            }
            api_reply_destroy(reply);
            buf_deinit(&out);
        }
    }
}

/* ---- forced ---- */

/* One answer that the grammar allows: any allowed token at random. Returns the finish bits. */
static unsigned run_constrained(api_reply *reply, unsigned seed, buf *out) {
    sched_request req;
    uint32_t output[400], n = 0;
    unsigned bits = 0;
    err e = {0};
    srand(seed);
    api_reply_request(reply, 0, &req);
    cr_assert_not_null(req.constraint);
    while (n < req.max_tokens && n < ARRAY_LEN(output) && !bits) {
        cr_assert_eq(req.constraint->make(req.ud), ERR_NONE);
        const eng_mask *mask = req.constraint->mask(req.ud, 0);
        uint32_t allowed[2048], k = 0;
        cr_assert_not_null(mask);
        for (uint32_t id = 0; id < 2048 && id / 64 < mask->n_words; id++) {
            if (mask->words[id / 64] >> (id % 64) & 1) allowed[k++] = id;
        }
        cr_assert_gt(k, 0, "nothing is allowed");
        uint32_t id = allowed[(unsigned)rand() % k];
        cr_assert(req.constraint->take(req.ud, id),
                  "the mask allows token %u, which leaves nothing", id);
        if (id == 2044 || id == 2047) break;
        output[n++] = id;
        sched_event ev = ev_token(id, 1, -1);
        bits |= api_event(reply, 0, &ev, out, &e);
    }
    sched_event end = ev_end(bits & API_CANCEL     ? SCHED_CANCELLED
                             : n == req.max_tokens ? SCHED_LENGTH
                                                   : SCHED_STOP,
                             1, n);
    return bits | api_event(reply, 0, &end, out, &e);
}

Test(api_tools, a_forced_call_is_always_one_of_the_functions_with_arguments_that_fit) {
    static const char *const choices[] = {
        CHAT(",\"tool_choice\":\"required\",\"parallel_tool_calls\":false,\"stream\":true,\"max_"
             "tokens\":400"),
        CHAT(",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"weather\"}},"
             "\"stream\":true,\"max_tokens\":400")};
    size_t weather = 0, whole = 0;
    for (unsigned seed = 0; seed < 60; seed++) {
        for (int named = 0; named < 2; named++) {
            api_reply *reply = api_must_reply(&fixture, &api_dialect_chat, choices[named]);
            buf out = {0};
            told got;
            cr_assert(run_constrained(reply, seed, &out) & API_DONE);
            read_stream(&out, &got);
            cr_expect_str_eq(text_of(&got.content), "");
            bool is_weather = strcmp(text_of(&got.name), "weather") == 0;
            cr_expect(is_weather || (!named && strcmp(text_of(&got.name), "now") == 0), "%s",
                      text_of(&got.name));
            weather += is_weather;
            if (strcmp(got.finish, "length") != 0) {
                cr_expect_str_eq(got.finish, named ? "stop" : "tool_calls");
                json_t *args = parsed(text_of(&got.arguments), got.arguments.len);
                if (is_weather) cr_expect(json_is_string(json_object_get(args, "city")));
                else cr_expect_eq(json_object_size(args), 0);
                json_decref(args);
                whole++;
            }
            told_deinit(&got);
            buf_deinit(&out);
            api_reply_destroy(reply);
        }
    }
    cr_expect(weather > 60 && weather < 120, "%zu", weather);
    cr_expect_gt(whole, 60);
}

Test(api_tools, arguments_come_in_fragments_as_they_are_made) {
    static const char text[] =
        "{\"name\":\"weather\",\"arguments\":{\"city\":\"Babylon\",\"days\":3}}";
    uint32_t ids[100];
    size_t n = api_ids(&fixture, text, ids, 100);
    api_reply *reply = api_must_reply(&fixture, &api_dialect_chat, CHAT(",\"stream\":true"));
    buf out = {0};
    told got;
    api_feed(reply, 0, ids, n, SCHED_STOP, &out);
    read_stream(&out, &got);
    cr_expect_gt(got.calls, 4);
    cr_expect_not_null(
        strstr(out.data,
               "\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{\"index\":0,\"id\":\"call_"
               "0000000000000000_0_0\","
               "\"type\":\"function\",\"function\":{\"name\":\"weather\",\"arguments\":\""),
        "%s", out.data);
    told_deinit(&got);
    buf_deinit(&out);
    api_reply_destroy(reply);
}

/* ---- functions in the model's prompt ---- */

static void prompt_text(const api_request *req, buf *out) {
    for (uint32_t i = 0; i < req->prompts[0].n_ids; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(fixture.tokenizer, req->prompts[0].ids[i], &n);
        buf_append(out, bytes, n);
    }
}

Test(api_tools, the_functions_stand_before_the_conversation_unless_none_may_be_called) {
    static const char *const rest[] = {CHAT(""), CHAT(",\"tool_choice\":\"none\"")};
    for (int none = 0; none < 2; none++) {
        api_request *req = api_must_parse(&fixture, &api_dialect_chat, rest[none]);
        buf text = {0};
        prompt_text(req, &text);
        cr_expect_eq(strstr(text.data, "\"name\":\"weather\"") == NULL, none);
        cr_expect_eq(
            strncmp(text.data, none ? "<|user|>x<|end|>" : "<|user|>You can call", none ? 16 : 20),
            0, "%s", text.data);
        buf_deinit(&text);
        api_request_destroy(req);
    }
}

Test(api_tools, calls_and_results_of_a_history_are_told_in_order) {
    api_request *req =
        api_must_parse(&fixture, &api_dialect_chat,
                       "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{"
                       "\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
                       "\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"now\","
                       "\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\","
                       "\"content\":\"noon\"}]}");
    buf text = {0};
    prompt_text(req, &text);
    cr_expect_str_eq(text.data, "<|user|>q<|end|><|assistant|>{\"name\":\"now\",\"arguments\":{}}<|"
                                "end|><|user|>Result: noon<|end|>"
                                "<|assistant|>");
    buf_deinit(&text);
    api_request_destroy(req);
}

/* ---- responses ---- */

Test(api_tools, responses_have_a_call_as_an_item_with_events_of_its_own) {
    static const char *const order[] = {"response.created",
                                        "response.in_progress",
                                        "response.output_item.added",
                                        "response.function_call_arguments.delta",
                                        "response.function_call_arguments.done",
                                        "response.output_item.done",
                                        "response.completed"};
    uint32_t ids[64];
    size_t n = api_ids(&fixture, "{\"name\":\"now\",\"arguments\":{\"a\":1}}", ids, 64),
           at_order = 0;
    api_reply *reply =
        api_must_reply(&fixture, &api_dialect_responses,
                       "{\"model\":\"demo\",\"input\":\"x\",\"stream\":true,\"request_"
                       "id\":\"r\",\"tools\":[{\"type\":\"function\","
                       "\"name\":\"now\",\"parameters\":{\"type\":\"object\"}}]}");
    buf out = {0}, arguments = {0};
    api_feed(reply, 0, ids, n, SCHED_STOP, &out);
    for (const char *at = out.data; at && *at; at = strstr(at, "\n\n") + 2) {
        const char *data = strstr(at, "data: ") + 6;
        json_t *root = parsed(data, (size_t)(strstr(at, "\n\n") - data));
        add(&arguments, json_object_get(root, "delta"));
        if (at_order > 0 && strcmp(str(root, "type"), order[at_order - 1]) == 0)
            at_order--; /* deltas repeat */
        cr_assert_str_eq(str(root, "type"), order[at_order]);
        const json_t *item = json_object_get(root, "item");
        if (item) cr_expect_str_eq(str(item, "call_id"), "call_0000000000000000_0_0");
        if (item) cr_expect_str_eq(str(item, "name"), "now");
        at_order++;
        json_decref(root);
    }
    cr_expect_eq(at_order, ARRAY_LEN(order));
    cr_expect_str_eq(text_of(&arguments), "{\"a\":1}");
    buf_deinit(&out);
    buf_deinit(&arguments);
    api_reply_destroy(reply);
}

/* ---- forced calls that are cut ---- */

static void feed_cut(const api_dialect *dialect, const char *body, buf *out) {
    static const char text[] = "{\"name\":\"weather\",\"arguments\":{\"city\":\"Ur\",\"days\":3}}";
    uint32_t ids[100];
    sched_request req;
    size_t n = api_ids(&fixture, text, ids, 100);
    api_reply *reply = api_must_reply(&fixture, dialect, body);
    api_reply_request(reply, 0, &req);
    buf_clear(out);
    api_feed(reply, 0, ids, req.max_tokens < n ? req.max_tokens : n, SCHED_LENGTH, out);
    api_reply_destroy(reply);
}

/* The arguments of the whole answer's call; NULL: it has none. */
static const char *call_of(const json_t *root, bool responses) {
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0),
                 *message = json_object_get(choice, "message"), *output, *item;
    size_t i;
    if (!responses) {
        const char *content = json_string_value(json_object_get(message, "content"));
        cr_expect(content == NULL || content[0] == 0, "%s", content);
        const json_t *call = json_array_get(json_object_get(message, "tool_calls"), 0);
        return json_string_value(json_object_get(json_object_get(call, "function"), "arguments"));
    }
    output = json_object_get(root, "output");
    json_array_foreach(output, i, item) {
        if (strcmp(str(item, "type"), "function_call") == 0) return str(item, "arguments");
        const json_t *part = json_array_get(json_object_get(item, "content"), 0);
        cr_expect_str_eq(str(part, "text"), "");
    }
    return NULL;
}

Test(api_tools, a_limit_inside_a_forced_call_leaves_the_call_and_no_text) {
    for (int responses = 0; responses < 2; responses++) {
        size_t with_call = 0;
        for (int limit = 1; limit < 40; limit++) {
            char body[1000];
            buf out = {0};
            (void)snprintf(body, sizeof body,
                           responses
                               ? "{\"model\":\"demo\",\"input\":\"x\",\"max_output_tokens\":%d,"
                                 "\"tool_choice\":\"required\",\"tools\":[{\"type\":\"function\","
                                 "\"name\":\"weather\"}]}"
                               : CHAT(",\"tool_choice\":\"required\",\"max_tokens\":%d"),
                           limit);
            feed_cut(responses ? &api_dialect_responses : &api_dialect_chat, body, &out);
            json_t *root = parsed(out.data, out.len);
            const char *arguments = call_of(root, responses);
            with_call += arguments != NULL;
            cr_expect(arguments || with_call == 0, "the call stays, %d", limit);
            json_decref(root);
            buf_deinit(&out);
        }
        cr_expect_gt(with_call, 10);
    }
}

Test(api_tools, a_stream_of_a_cut_forced_call_shows_no_text) {
    for (int limit = 1; limit < 40; limit++) {
        char body[1000];
        buf out = {0};
        told got;
        (void)snprintf(body, sizeof body,
                       CHAT(",\"tool_choice\":\"required\",\"stream\":true,\"max_tokens\":%d"),
                       limit);
        feed_cut(&api_dialect_chat, body, &out);
        read_stream(&out, &got);
        cr_expect_str_eq(text_of(&got.content), "");
        told_deinit(&got);
        buf_deinit(&out);
    }
}

Test(api_tools, a_stop_string_inside_a_forced_call_leaves_the_call_and_no_text) {
    static const struct {
        const char *stop, *arguments;
    } rows[] = {{"Ur", "{\"city\":\""}, {"weather", NULL}, {"arguments", ""}, {"{\\\"na", NULL}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char body[1000];
        buf out = {0};
        (void)snprintf(body, sizeof body, CHAT(",\"tool_choice\":\"required\",\"stop\":\"%s\""),
                       rows[i].stop);
        feed_cut(&api_dialect_chat, body, &out);
        json_t *root = parsed(out.data, out.len);
        const char *arguments = call_of(root, false);
        if (rows[i].arguments) cr_expect_str_eq(arguments, rows[i].arguments, "row %zu", i);
        else cr_expect_null(arguments, "row %zu", i);
        json_decref(root);
        buf_deinit(&out);
    }
}

/* ---- several calls ---- */

Test(api_tools, an_answer_has_several_calls_unless_the_request_allows_one_only) {
    static const char text[] = "{\"name\":\"now\",\"arguments\":{}}\n"
                               "{\"name\":\"weather\",\"arguments\":{\"city\":\"Ur\"}}";
    for (int many = 0; many < 2; many++) {
        uint32_t ids[100];
        size_t n = api_ids(&fixture, text, ids, 100);
        api_reply *reply = api_must_reply(&fixture, &api_dialect_chat,
                                          many ? CHAT("") : CHAT(",\"parallel_tool_calls\":false"));
        buf out = {0};
        unsigned bits = api_feed(reply, 0, ids, n, SCHED_STOP, &out);
        cr_expect_eq(bits, many ? API_DONE : API_CANCEL | API_DONE);
        json_t *root = parsed(out.data, out.len);
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0),
                     *calls = json_object_get(json_object_get(choice, "message"), "tool_calls");
        cr_expect_eq(json_array_size(calls), many ? 2 : 1);
        cr_expect_str_eq(str(choice, "finish_reason"), "tool_calls");
        json_decref(root);
        buf_deinit(&out);
        api_reply_destroy(reply);
    }
}

/* ---- every shape of parameters ---- */

/* Parameters as clients write them; "" leaves them out. */
static const struct {
    const char *parameters, *holds;
} shapes[] = {
    {"", "{}"},
    {"null", "{}"},
    {"true", "{}"},
    {"{}", "{\"a\":[1]}"},
    {"{\"title\":\"t\",\"description\":\"d\",\"$comment\":\"c\"}", "{\"a\":[1]}"},
    {"{\"type\":[\"object\",\"null\"]}", "{\"a\":[1]}"},
    {"{\"properties\":{\"a\":{\"type\":\"integer\"}}}", "{\"a\":1}"},
    {"{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}", "{\"a\":1}"},
    {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"object\"}]}", "{}"},
    {"{\"$ref\":\"#/$defs/p\",\"$defs\":{\"p\":{\"type\":\"object\"}}}", "{}"},
};

static void shape_body(char *out, size_t cap, const char *parameters, bool responses, bool named) {
    char function[400];
    (void)snprintf(function, sizeof function, "\"name\":\"f\"%s%s",
                   parameters[0] ? ",\"parameters\":" : "", parameters);
    if (responses) {
        (void)snprintf(out, cap,
                       "{\"model\":\"demo\",\"input\":\"x\",\"tools\":[{\"type\":\"function\",%s}],"
                       "\"tool_choice\":%s}",
                       function, named ? "{\"type\":\"function\",\"name\":\"f\"}" : "\"required\"");
        return;
    }
    (void)snprintf(
        out, cap,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
        "\"tools\":[{\"type\":\"function\",\"function\":{%s}}],\"tool_choice\":%s}",
        function, named ? "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}" : "\"required\"");
}

Test(api_tools, the_arguments_of_a_forced_call_are_an_object_whatever_the_parameters) {
    static const char *const others[] = {"7", "\"x\"", "[]", "null", "true"};
    for (size_t i = 0; i < 4 * ARRAY_LEN(shapes); i++) {
        char body[1000], call[200];
        bool responses = i & 1, named = i & 2;
        const size_t row = i / 4;
        shape_body(body, sizeof body, shapes[row].parameters, responses, named);
        api_request *req =
            api_must_parse(&fixture, responses ? &api_dialect_responses : &api_dialect_chat, body);
        cr_assert_not_null(req->grammar, "%s", body);
        (void)snprintf(call, sizeof call, "{\"name\":\"f\",\"arguments\":%s}", shapes[row].holds);
        cr_expect_eq(grammar_feed(req->grammar, call), 1, "%s: %s", body, call);
        for (size_t k = 0; k < ARRAY_LEN(others); k++) {
            (void)snprintf(call, sizeof call, "{\"name\":\"f\",\"arguments\":%s", others[k]);
            cr_expect_eq(grammar_feed(req->grammar, call), -1, "%s: %s", body, call);
        }
        api_request_destroy(req);
    }
}

Test(api_tools, parameters_that_admit_no_object_are_refused_by_name) {
    static const char *const none[] = {"false",
                                       "{\"type\":\"string\"}",
                                       "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"array\"}]}",
                                       "{\"enum\":[1,\"a\"]}",
                                       "[]",
                                       "7"};
    for (size_t i = 0; i < 2 * ARRAY_LEN(none); i++) {
        char body[1000];
        api_request *req = NULL;
        err e = {0};
        shape_body(body, sizeof body, none[i / 2], i % 2, false);
        const api_dialect *dialect = i % 2 ? &api_dialect_responses : &api_dialect_chat;
        cr_expect_eq(api_parse(&req, fixture.ctx, dialect, body, strlen(body), &e), -1, "%s", body);
        cr_expect_str_eq(e.param, "tools[0].parameters", "%s: %s", body, e.msg);
        api_request_destroy(req);
    }
}
