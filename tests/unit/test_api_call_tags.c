/* test_api_call_tags.c - calls written as tags, as Qwen3-Coder and Nanbeige write them: found in
 * answers, streamed and not, and forced by a grammar. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/files.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* The parts of a published template that show functions and calls. */
#define TEMPLATE                                                                                   \
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{% else %}<|assistant|>{% endif %}"   \
    "{{ m.content }}{% for c in m.tool_calls %}{{ '<tool_call>\\n<function=' + c.function.name + " \
    "'>\\n' }}{% for k, v in c.function.arguments|items %}{{ '<parameter=' + k + '>\\n' + "        \
    "(v if v is string else v|tojson) + '\\n</parameter>\\n' }}{% endfor %}"                       \
    "{{ '</function>\\n</tool_call>' }}{% endfor %}<|end|>{% endfor %}"                            \
    "{% for t in tools %}{{ t|tojson }}{% endfor %}"                                               \
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"

static tmp_dir dir;
static api_fixture fixture;

static void open_fixture(void) {
    static char path[128];
    dir = tmp_dir_create();
    file_put(dir.path, "t.jinja", TEMPLATE, sizeof TEMPLATE - 1);
    (void)snprintf(path, sizeof path, "%s/t.jinja", dir.path);
    api_fixture_open(&fixture, &(api_opts){.chat_template = path, .served_name = "demo"}, false);
}

static void close_fixture(void) {
    api_fixture_close(&fixture);
    tmp_dir_remove(&dir);
    fail_on_leaks();
}

TestSuite(api_call_tags, .init = open_fixture, .fini = close_fixture, .timeout = HANGS_S);

#define PROPERTIES                                                                                 \
    "{\"city\":{\"type\":\"string\",\"maxLength\":6},\"days\":{\"type\":\"integer\",\"minimum\":"  \
    "1,\"maximum\":9},\"part\":{\"type\":\"number\"},\"dry\":{\"type\":\"boolean\"},\"tags\":{"    \
    "\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"maxItems\":2},\"at\":{\"type\":"        \
    "\"object\",\"additionalProperties\":false},\"unit\":{\"enum\":[\"c\",\"f\"]},\"note\":{"      \
    "\"anyOf\":[{\"type\":\"string\",\"maxLength\":3},{\"type\":\"null\"}]},\"many\":{\"$ref\":"   \
    "\"#/$defs/many\"},\"free\":{}}"
#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{"        \
    "\"type\":\"object\",\"$defs\":{\"many\":{\"type\":[\"integer\",\"string\"],\"maxLength\":3}"  \
    "},\"properties\":" PROPERTIES ",\"required\":[\"city\"]}}},{\"type\":\"function\","           \
    "\"function\":{\"name\":\"now\"}}]"
#define CHAT(rest)                                                                                 \
    "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"request_id\":"     \
    "\"r\"," TOOLS rest "}"

#define CALL(name, params) "<tool_call>\n<function=" name ">\n" params "</function>\n</tool_call>"
#define PARAM(key, value) "<parameter=" key ">\n" value "\n</parameter>\n"
#define NOW CALL("now", "")

/* want: the content (null if calls only), then each call's name and arguments. */
static const struct {
    const char *text, *want;
} answers[] = {
    {NOW, "null|now{}"},
    {"\n\n" NOW "\n", "null|now{}"},
    {CALL("weather", PARAM("city", "Ur")), "null|weather{\"city\":\"Ur\"}"},
    {CALL("weather", PARAM("days", "7") PARAM("city", "7")),
     "null|weather{\"days\":7,\"city\":\"7\"}"},
    /* types */
    {CALL("weather", PARAM("days", "soon")), "null|weather{\"days\":\"soon\"}"},
    {CALL("weather", PARAM("days", " 7 ")), "null|weather{\"days\":7}"},
    {CALL("weather", PARAM("days", "07")), "null|weather{\"days\":\"07\"}"},
    {CALL("weather", PARAM("days", "-")), "null|weather{\"days\":\"-\"}"},
    {CALL("weather", PARAM("part", "-0.5e+3")), "null|weather{\"part\":-0.5e+3}"},
    {CALL("weather", PARAM("part", "0.1")), "null|weather{\"part\":0.1}"},
    {CALL("weather", PARAM("part", "1.")), "null|weather{\"part\":\"1.\"}"},
    {CALL("weather", PARAM("part", "1e")), "null|weather{\"part\":\"1e\"}"},
    {CALL("weather", PARAM("part", "true")), "null|weather{\"part\":\"true\"}"},
    {CALL("weather", PARAM("part", "123456789012345678901234567890")),
     "null|weather{\"part\":123456789012345678901234567890}"},
    {CALL("weather", PARAM("dry", "true")), "null|weather{\"dry\":true}"},
    {CALL("weather", PARAM("dry", "False")), "null|weather{\"dry\":false}"},
    {CALL("weather", PARAM("dry", "yes")), "null|weather{\"dry\":\"yes\"}"},
    {CALL("weather", PARAM("tags", "[1, 2]")), "null|weather{\"tags\":[1, 2]}"},
    {CALL("weather", PARAM("tags", "[1, 2")), "null|weather{\"tags\":\"[1, 2\"}"},
    {CALL("weather", PARAM("tags", "{}")), "null|weather{\"tags\":\"{}\"}"},
    {CALL("weather", PARAM("at", "{\"a\": [\"\\n\"]}")), "null|weather{\"at\":{\"a\": [\"\\n\"]}}"},
    {CALL("weather", PARAM("at", "{\"a\":1,\"a\":2}")),
     "null|weather{\"at\":\"{\\\"a\\\":1,\\\"a\\\":2}\"}"},
    {CALL("weather", PARAM("at", "")), "null|weather{\"at\":\"\"}"},
    {CALL("weather", PARAM("unit", "c")), "null|weather{\"unit\":\"c\"}"},
    {CALL("weather", PARAM("note", "null")), "null|weather{\"note\":null}"},
    {CALL("weather", PARAM("note", "nul")), "null|weather{\"note\":\"nul\"}"},
    {CALL("weather", PARAM("many", "12")), "null|weather{\"many\":12}"},
    {CALL("weather", PARAM("many", "12a")), "null|weather{\"many\":\"12a\"}"},
    {CALL("weather", PARAM("free", "12")), "null|weather{\"free\":\"12\"}"},
    {CALL("weather", PARAM("unknown", "[1]")), "null|weather{\"unknown\":\"[1]\"}"},
    {CALL("weather", PARAM("cit", "1")), "null|weather{\"cit\":\"1\"}"},
    {CALL("now", PARAM("city", "1")), "null|now{\"city\":\"1\"}"},
    /* a string is text: quotes, newlines, tags of other kinds */
    {CALL("weather", PARAM("city", "\"Ur\"")), "null|weather{\"city\":\"\\\"Ur\\\"\"}"},
    {CALL("weather", PARAM("city", "\nUr\n\n")), "null|weather{\"city\":\"\\nUr\\n\\n\"}"},
    {CALL("weather", PARAM("city", "")), "null|weather{\"city\":\"\"}"},
    {CALL("weather", "<parameter=city></parameter>"), "null|weather{\"city\":\"\"}"},
    {CALL("weather", "<parameter=city>Ur</parameter>"), "null|weather{\"city\":\"Ur\"}"},
    {CALL("weather", PARAM("city", "a<b</function></tool_call></paramete<<")),
     "null|weather{\"city\":\"a<b</function></tool_call></paramete<<\"}"},
    {CALL("weather", PARAM("city", "<parameter=days>")),
     "null|weather{\"city\":\"<parameter=days>\"}"},
    {CALL("weather", PARAM("a\\\"b", "1")), "null|weather{\"a\\\\\\\"b\":\"1\"}"},
    /* several calls, and text around them */
    {NOW "\n" NOW NOW, "null|now{}|now{}|now{}"},
    {"I look.\n\n" NOW, "I look.|now{}"},
    {"I look.\n\n" NOW "\nAnd \nagain: \n" NOW " Done.\n",
     "I look.And \nagain:Done.\n|now{}|now{}"},
    {NOW "\n\nDone.", "Done.|now{}"},
    {"<think>\nWhat is <function= for?\n</think>\n\n" NOW,
     "<think>\nWhat is <function= for?\n</think>|now{}"},
    /* other spellings of the same */
    {"<function=now></function>", "null|now{}"},
    {"<tool_call><function=now> \t\n</function>", "null|now{}"},
    {"<function=now></function></tool_call>", "null|now{}"},
    {"<function=now></function><function=now></function>", "null|now{}|now{}"},
    {"<function=now></function> </tool_cal", "null|now{}"},
    {"<function=now></function> <b>", "<b>|now{}"},
    {"<function=now></function> </b>", "</b>|now{}"},
    /* no calls */
    {"", "|"},
    {" \n ", " \n |"},
    {"In the beginning\n", "In the beginning\n|"},
    {"a < b", "a < b|"},
    {"<", "<|"},
    {"<tool_call> \n now", "<tool_call> \n now|"},
    {"<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>",
     "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>|"},
    {CALL("king", ""), CALL("king", "") "|"},
    {CALL("", ""), CALL("", "") "|"},
    {"<function=no\nw></function>", "<function=no\nw></function>|"},
    {"<function=now</function>", "<function=now</function>|"},
    {"<function=now>x</function>", "<function=now>x</function>|"},
    {"<function=now><parameter=>1</parameter></function>",
     "<function=now><parameter=>1</parameter></function>|"},
    {"<function=now><parameter=a\n>1</parameter></function>",
     "<function=now><parameter=a\n>1</parameter></function>|"},
    {"<function=now><param=a>1</param></function>", "<function=now><param=a>1</param></function>|"},
    {CALL("now", PARAM("a", "1") PARAM("a", "2")),
     CALL("now", PARAM("a", "1") PARAM("a", "2")) "|"},
    /* of a call that is cut off nothing is left but its name and its complete parameters */
    {"<tool_call>", "|"},
    {"I look. <tool_call>\n<function=no", "I look.|"},
    {"<function=now><parameter=a>1</parameter></functio", "null|now{\"a\":\"1\""},
    {"<function=now><parameter=a>1</function>", "null|now{"},
    {"Well. <function=now>\n", "Well.|now{"},
    {NOW "<tool_call>\n<function=weather>\n" PARAM("days", "7") "<parameter=city>\nU",
     "null|now{}|weather{\"days\":7"},
    /* a mark inside a JSON string belongs to an object or a list, if the string has an end */
    {CALL("weather", PARAM("at", "{\"a\":\"</parameter>\\\"</parameter>\"}")),
     "null|weather{\"at\":{\"a\":\"</parameter>\\\"</parameter>\"}}"},
    {CALL("weather", PARAM("at", "{\"a\":\"b}") PARAM("city", "Ur")),
     "null|weather{\"at\":\"{\\\"a\\\":\\\"b}\",\"city\":\"Ur\"}"},
    {CALL("weather", PARAM("city", "\"")), "null|weather{\"city\":\"\\\"\"}"},
    /* a malformed call does not hide the next one */
    {"<tool_call>" NOW, "<tool_call>|now{}"},
    {"<<<" NOW, "<<<|now{}"},
    {"<function=now>" NOW, "<function=now>|now{}"},
    {CALL("king", "") NOW, CALL("king", "") "|now{}"},
};

/* ---- reading answers ---- */

static json_t *parsed(const char *text, size_t n) {
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    cr_assert_not_null(root, "%s: %.*s", why.text, (int)n, text);
    return root;
}

static void put_string(buf *out, const json_t *value) {
    buf_append(out, json_string_value(value), json_string_length(value));
}

/* "content|name{arguments}|…" of a whole answer. */
static void tell_whole(const buf *body, buf *out, char *finish) {
    json_t *root = parsed(body->data, body->len), *call;
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0),
                 *message = json_object_get(choice, "message");
    size_t i;
    const json_t *content = json_object_get(message, "content");
    if (json_is_null(content)) buf_puts(out, "null");
    else put_string(out, content);
    if (!json_object_get(message, "tool_calls")) buf_puts(out, "|");
    json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
        char id[32];
        (void)snprintf(id, sizeof id, "call_0000000000000000_0_%u", (unsigned)i % 10);
        cr_expect_str_eq(json_string_value(json_object_get(call, "id")), id);
        buf_puts(out, "|");
        put_string(out, json_object_get(json_object_get(call, "function"), "name"));
        put_string(out, json_object_get(json_object_get(call, "function"), "arguments"));
    }
    (void)snprintf(finish, 16, "%s", json_string_value(json_object_get(choice, "finish_reason")));
    json_decref(root);
}

/* The same of a stream, put together as clients do. */
static void tell_stream(const buf *sse, buf *out, char *finish) {
    buf content = {0}, calls[8] = {0};
    size_t n_calls = 0;
    bool any = false;
    finish[0] = 0;
    for (const char *at = sse->data; at && *at && strncmp(at + 6, "[DONE]", 6) != 0;
         at = strstr(at, "\n\n") + 2) {
        json_t *root = parsed(at + 6, (size_t)(strstr(at, "\n\n") - at) - 6), *call;
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0),
                     *delta = json_object_get(choice, "delta");
        const json_t *text = json_object_get(delta, "content"),
                     *why = json_object_get(choice, "finish_reason");
        size_t i;
        cr_expect_eq(finish[0], 0, "nothing follows the reason");
        if (text) any = true;
        if (text) put_string(&content, text);
        json_array_foreach(json_object_get(delta, "tool_calls"), i, call) {
            size_t k = (size_t)json_integer_value(json_object_get(call, "index"));
            const json_t *function = json_object_get(call, "function");
            cr_assert_lt(k, ARRAY_LEN(calls));
            cr_expect_eq(json_object_get(call, "id") != NULL, k == n_calls, "an id comes first");
            if (k == n_calls) n_calls++;
            if (json_object_get(function, "name"))
                put_string(&calls[k], json_object_get(function, "name"));
            put_string(&calls[k], json_object_get(function, "arguments"));
        }
        if (!json_is_null(why)) (void)snprintf(finish, 16, "%s", json_string_value(why));
        json_decref(root);
    }
    if (n_calls > 0 && !any) buf_puts(out, "null");
    buf_append(out, content.data, content.len);
    if (n_calls == 0) buf_puts(out, "|");
    for (size_t k = 0; k < n_calls; k++) {
        buf_puts(out, "|");
        buf_append(out, calls[k].data, calls[k].len);
        buf_deinit(&calls[k]);
    }
    buf_deinit(&content);
}

/* Runs a text through a reply and compares. */
static void check_answer(const char *body, const char *text, const char *want, unsigned want_bits,
                         const char *want_finish, size_t row) {
    uint32_t ids[400];
    size_t n = api_ids(&fixture, text, ids, ARRAY_LEN(ids));
    api_reply *reply = api_must_reply(&fixture, &api_dialect_chat, body);
    buf out = {0}, got = {0};
    char finish[16];
    unsigned bits = api_feed(reply, 0, ids, n, SCHED_STOP, &out);
    cr_expect_eq(bits, want_bits, "row %zu", row);
    if (strstr(body, "\"stream\":true")) tell_stream(&out, &got, finish);
    else tell_whole(&out, &got, finish);
    cr_expect_str_eq(got.data, want, "row %zu: %s, not %s", row, got.data, want);
    cr_expect_str_eq(finish, want_finish, "row %zu: %s", row, finish);
    api_reply_destroy(reply);
    buf_deinit(&out);
    buf_deinit(&got);
}

Test(api_call_tags, calls_become_tool_calls_and_the_rest_is_content_streamed_and_not) {
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        const char *finish = strstr(answers[i].want, "{") &&
                                     strcmp(answers[i].text, answers[i].want) != 0 &&
                                     answers[i].want[strlen(answers[i].want) - 1] != '|'
                                 ? "tool_calls"
                                 : "stop";
        check_answer(CHAT(",\"max_tokens\":400"), answers[i].text, answers[i].want, API_DONE,
                     finish, i);
        check_answer(CHAT(",\"max_tokens\":400,\"stream\":true"), answers[i].text, answers[i].want,
                     API_DONE, finish, i);
    }
}

Test(api_call_tags, an_answer_is_the_same_however_its_text_arrives) {
    api_request *req = api_must_parse(&fixture, &api_dialect_chat, CHAT(""));
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        const char *text = answers[i].text;
        size_t n = strlen(text);
        api__answer whole = {0};
        req->notation->read(req, &whole, text, n, true);
        for (size_t cut = 0; cut <= n; cut++) {
            api__answer parts = {0};
            req->notation->read(req, &parts, text, cut, false);
            req->notation->read(req, &parts, text, n, true);
            cr_expect_eq(parts.n_calls, whole.n_calls, "row %zu cut %zu", i, cut);
            cr_expect_eq(parts.n_parts, whole.n_parts, "row %zu cut %zu", i, cut);
            cr_expect_eq(parts.said.len, whole.said.len, "row %zu cut %zu", i, cut);
            cr_expect_eq(parts.args.len, whole.args.len, "row %zu cut %zu", i, cut);
            if (parts.said.len == whole.said.len && whole.said.len)
                cr_expect_arr_eq(parts.said.data, whole.said.data, whole.said.len);
            if (parts.args.len == whole.args.len && whole.args.len)
                cr_expect_arr_eq(parts.args.data, whole.args.data, whole.args.len);
            api__answer_deinit(&parts);
        }
        api__answer_deinit(&whole);
    }
    api_request_destroy(req);
}

Test(api_call_tags, without_parallel_calls_the_answer_ends_after_the_first) {
    check_answer(CHAT(",\"max_tokens\":400,\"parallel_tool_calls\":false"), "So: " NOW NOW " Done.",
                 "So:|now{}", API_CANCEL | API_DONE, "tool_calls", 0);
}

Test(api_call_tags, with_tool_choice_none_a_call_is_text) {
    check_answer(CHAT(",\"max_tokens\":400,\"tool_choice\":\"none\""), NOW, NOW "|", API_DONE,
                 "stop", 0);
}

Test(api_call_tags, a_call_with_more_parameters_than_allowed_is_text) {
    for (int n = API__MAX_NAMES; n <= API__MAX_NAMES + 1; n++) {
        api_request *req = api_must_parse(&fixture, &api_dialect_chat, CHAT(""));
        api__answer answer = {0};
        buf text = {0};
        buf_puts(&text, "<function=now>");
        for (int i = 0; i < n; i++)
            buf_printf(&text, "<parameter=p%d>1</parameter>", i);
        buf_puts(&text, "</function>");
        req->notation->read(req, &answer, text.data, text.len, true);
        cr_expect_eq(answer.n_calls, n == API__MAX_NAMES);
        cr_expect_eq(answer.said.len, n == API__MAX_NAMES ? 0 : text.len);
        api__answer_deinit(&answer);
        buf_deinit(&text);
        api_request_destroy(req);
    }
}

/* ---- responses ---- */

Test(api_call_tags, a_parameter_whose_name_holds_NUL_makes_the_call_text) {
    static const char text[] = "<tool_call>\n<function=now>\n<parameter=a\0b>\nx\n</parameter>\n"
                               "</function>\n</tool_call>";
    api__tool tools[] = {{.name = "now"}};
    api_request req = {.tools = tools, .n_tools = 1};
    api__answer answer = {0};
    api__notation_tags.read(&req, &answer, text, sizeof text - 1, true);
    cr_expect_eq(answer.n_calls, 0);
    cr_assert_eq(answer.said.len, sizeof text - 1);
    cr_expect_arr_eq(answer.said.data, text, sizeof text - 1);
    api__answer_deinit(&answer);
}

Test(api_call_tags, responses_have_a_message_and_calls_as_items_in_their_order) {
    static const char *const kinds[] = {"", ",\"stream\":true"};
    static const char *const texts[] = {"Well: " NOW CALL("weather", PARAM("city", "Ur")),
                                        NOW " Done."};
    static const char *const want[] = {
        "message msg_0000000000000000_0_0 Well:\nfunction_call fc_0000000000000000_0_1 {}\n"
        "function_call fc_0000000000000000_0_2 {\"city\":\"Ur\"}\n",
        "function_call fc_0000000000000000_0_0 {}\nmessage msg_0000000000000000_0_1 Done.\n"};
    for (size_t row = 0; row < 4; row++) {
        uint32_t ids[200];
        size_t n = api_ids(&fixture, texts[row / 2], ids, 200), i;
        buf body = {0}, out = {0}, got = {0}, deltas = {0};
        buf_printf(
            &body,
            "{\"model\":\"demo\",\"input\":\"x\",\"request_id\":\"r\",\"tools\":[{\"type\":"
            "\"function\",\"name\":\"now\"},{\"type\":\"function\",\"name\":\"weather\"}]%s}",
            kinds[row % 2]);
        api_reply *reply = api_must_reply(&fixture, &api_dialect_responses, body.data);
        api_feed(reply, 0, ids, n, SCHED_STOP, &out);
        const char *last = out.data;
        for (const char *at = out.data; row % 2 && at && *at; at = strstr(at, "\n\n") + 2) {
            last = strstr(at, "data: ") + 6;
            json_t *event = parsed(last, (size_t)(strstr(last, "\n\n") - last));
            const char *type = json_string_value(json_object_get(event, "type"));
            json_t *item = json_object_get(event, "item");
            if (strcmp(type, "response.output_item.added") == 0 &&
                strcmp(json_string_value(json_object_get(item, "type")), "message") != 0)
                cr_expect_str_eq(json_string_value(json_object_get(item, "arguments")), "");
            if (strstr(type, ".delta")) put_string(&deltas, json_object_get(event, "delta"));
            if (strcmp(type, "response.output_item.done") == 0)
                buf_printf(&deltas, "|%lld",
                           (long long)json_integer_value(json_object_get(event, "output_index")));
            json_decref(event);
        }
        json_t *root = parsed(last, row % 2 ? (size_t)(strstr(last, "\n\n") - last) : out.len),
               *item;
        const json_t *response = row % 2 ? json_object_get(root, "response") : root;
        json_array_foreach(json_object_get(response, "output"), i, item) {
            const json_t *part = json_array_get(json_object_get(item, "content"), 0);
            buf_printf(&got, "%s %s ", json_string_value(json_object_get(item, "type")),
                       json_string_value(json_object_get(item, "id")));
            put_string(&got, json_object_get(part ? part : item, part ? "text" : "arguments"));
            buf_puts(&got, "\n");
        }
        cr_expect_str_eq(got.data, want[row / 2], "row %zu: %s", row, got.data);
        if (row % 2)
            cr_expect_str_eq(deltas.data,
                             row < 2 ? "Well:|0{}|1{\"city\":\"Ur\"}|2" : "{}|0Done.|1", "%s",
                             deltas.data);
        json_decref(root);
        api_reply_destroy(reply);
        buf_deinit(&body);
        buf_deinit(&out);
        buf_deinit(&got);
        buf_deinit(&deltas);
    }
}

/* ---- the model's own form ---- */

Test(api_call_tags, a_history_shows_calls_in_the_templates_form) {
    api_request *req = api_must_parse(
        &fixture, &api_dialect_chat,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":"
        "\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\","
        "\"function\":{\"name\":\"weather\",\"arguments\":\"{\\\"city\\\":\\\"Ur\\\",\\\"days\\\":"
        "3}\"}}]}]}");
    buf text = {0};
    for (uint32_t i = 0; i < req->prompts[0].n_ids; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(fixture.tokenizer, req->prompts[0].ids[i], &n);
        buf_append(&text, bytes, n);
    }
    cr_expect_str_eq(text.data,
                     "<|user|>q<|end|><|assistant|>" CALL(
                         "weather", PARAM("city", "Ur") PARAM("days", "3")) "<|end|><|assistant|>",
                     "%s", text.data);
    buf_deinit(&text);
    api_request_destroy(req);
}

/* ---- forced calls ---- */

static json_t *tools_of(const char *body) {
    json_t *root = parsed(body, strlen(body)), *tools = json_incref(json_object_get(root, "tools"));
    json_decref(root);
    return tools;
}

#define CITY PARAM("city", "Ur")

Test(api_call_tags, the_grammar_allows_calls_that_fit_the_schema_and_nothing_else) {
    static const struct {
        const char *text;
        int want;
    } rows[] = {
        {NOW, 1},
        {NOW "\n", -1},
        {"\n", -1},
        {"{", -1},
        {"<tool_call>\n<function=", 0},
        {CALL("king", ""), -1},
        {CALL("now", PARAM("a", "1")), -1},
        {CALL("weather", ""), -1}, /* city is missing */
        {CALL("weather", CITY), 1},
        {CALL("weather", CITY CITY), -1},
        {CALL("weather", CITY PARAM("days", "3")), 1},
        {CALL("weather", PARAM("days", "3") CITY), -1}, /* the order of the schema */
        {CALL("weather", CITY PARAM("days", "12")), -1},
        {CALL("weather", CITY PARAM("days", "x")), -1},
        {CALL("weather", CITY PARAM("part", "0.5") PARAM("dry", "true")), 1},
        {CALL("weather", CITY PARAM("dry", "True")), -1},
        {CALL("weather", CITY PARAM("tags", "[1, 2]")), 1},
        {CALL("weather", CITY PARAM("tags", "[1, 2, 3]")), -1},
        {CALL("weather", CITY PARAM("at", "{}")), 1},
        {CALL("weather", CITY PARAM("unit", "c")), 1},
        {CALL("weather", CITY PARAM("unit", "\"c\"")), -1},
        {CALL("weather", CITY PARAM("note", "null")), 1},
        {CALL("weather", CITY PARAM("note", "nul")), 1},
        {CALL("weather", CITY PARAM("note", "nulls")), -1},
        {CALL("weather", CITY PARAM("many", "12")), 1},
        {CALL("weather", CITY PARAM("free", "any\ntext \"at\" all")), 1},
        {CALL("weather", PARAM("city", "")), 1},
        {CALL("weather", PARAM("city", "\n\n\n\n\n\n")), 1},
        {CALL("weather", PARAM("city", "\n\n\n\n\n\n\n")), -1},
        {CALL("weather", PARAM("city", "\xc3\xa9\xe6\x97\xa5")), 1},
        {CALL("weather", PARAM("city", "\xc3")), -1},
        {CALL("weather", PARAM("city", "\x01")), -1},
        {CALL("weather", PARAM("city", "1234567")), -1},
        {CALL("weather", CITY PARAM("free", "a</parameter>b")), -1},
        {CALL("weather", CITY PARAM("free", "a</paramete</parameter")), 1},
        {CALL("weather", CITY PARAM("free", "\n</parameter")), 1},
    };
    json_t *tools = tools_of(CHAT(""));
    api__grammar *grammar = NULL;
    err e = {0};
    cr_assert_eq(api__grammar_compile_tags(&grammar, tools, NULL, "tools", &e), 0, "%s", e.msg);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cr_expect_eq(grammar_feed(grammar, rows[i].text), rows[i].want, "row %zu: %s", i,
                     rows[i].text);
    api__grammar_free(grammar);
    cr_assert_eq(api__grammar_compile_tags(&grammar, tools, "now", "tools", &e), 0, "%s", e.msg);
    cr_expect_eq(grammar_feed(grammar, NOW), 1);
    cr_expect_eq(grammar_feed(grammar, CALL("weather", CITY)), -1, "another function is named");
    api__grammar_free(grammar);
    json_decref(tools);
}

Test(api_call_tags, a_schema_that_the_form_cannot_hold_is_refused_with_its_reason) {
    static const struct {
        const char *parameters, *want;
    } rows[] = {
        {"{\"properties\":{\"a>b\":{}}}", "cannot hold a parameter named 'a>b'"},
        {"{\"properties\":{\"a\\nb\":{}}}", "cannot hold a parameter named 'a"},
        {"{\"properties\":{\"\":{}}}", "cannot hold a parameter named ''"},
        {"{\"properties\":{\"a\":{\"enum\":[\"\"]}}}", "cannot hold the value ''"},
        {"{\"properties\":{\"a\":{\"enum\":[\"</parameter>\"]}}}",
         "cannot hold the value '</parameter>'"},
        {"{\"properties\":{\"a\":{\"const\":\"a\\u0000b\"}}}", "cannot hold the value 'a'"},
        {"{\"properties\":{\"a\":{\"enum\":[]}}}", "an enum has 0 values"},
        {"{\"properties\":{\"a\":{\"enum\":\"x\"}}}", "enum must be a list"},
        {"{\"properties\":{\"a\":{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}},"
         "\"required\":[\"a\"]}",
         "function 'f' allow no object: a string has a minLength above its maxLength"},
        {"{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^</parameter>$\"}},"
         "\"required\":[\"a\"]}",
         "no string matches"},
        {"{\"properties\":{\"a\":{\"type\":\"string\",\"minLength\":-1}}}", "minLength must be"},
        {"{\"properties\":{\"a\":false},\"required\":[\"a\"]}",
         "function 'f' allow no object: 'a'"},
        {"{\"properties\":{\"a\":7}}", "a schema must be an object or a boolean"},
        {"{\"properties\":{\"a\":{\"allOf\":[]}}}", "allOf must be a list"},
        {"{\"properties\":{\"a\":{\"anyOf\":[]}}}", "0 alternatives"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#/$defs/x\"}}}", "does not lead to a part"},
        {"{\"properties\":7}", "properties must be an object"},
        {"{\"required\":{}}", "required a list"},
        {"{\"required\":[7]}", "required must be a list of strings"},
        {"{\"type\":\"string\"}", "function 'f' allow no object: the schema's types exclude"},
        {"{\"anyOf\":[{\"const\":1}]}", "function 'f' allow no object"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf body = {0};
        api__grammar *grammar = NULL;
        err e = {0};
        buf_printf(&body, "{\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":%s}}]}",
                   rows[i].parameters);
        json_error_t why;
        json_t *root = json_loadb(body.data, body.len, JSON_ALLOW_NUL, &why);
        cr_assert_not_null(root, "%s", why.text);
        cr_expect_eq(
            api__grammar_compile_tags(&grammar, json_object_get(root, "tools"), NULL, "tools", &e),
            -1, "row %zu", i);
        cr_expect(strstr(e.msg, rows[i].want), "row %zu: %s", i, e.msg);
        cr_expect_str_eq(e.param, "tools");
        json_decref(root);
        buf_deinit(&body);
    }
}

Test(api_call_tags, required_parameters_without_a_description_are_texts) {
    json_t *tools = tools_of("{\"tools\":[{\"function\":{\"name\":\"now\",\"parameters\":{"
                             "\"required\":[\"a\",\"a\"]}}}]}");
    api__grammar *grammar = NULL;
    err e = {0};
    cr_assert_eq(api__grammar_compile_tags(&grammar, tools, NULL, "tools", &e), 0, "%s", e.msg);
    cr_expect_eq(grammar_feed(grammar, NOW), -1);
    cr_expect_eq(grammar_feed(grammar, CALL("now", PARAM("a", "x"))), 1);
    api__grammar_free(grammar);
    json_decref(tools);
}

/* One answer that the grammar allows: any allowed token at random. True if it is whole. */
static bool run_forced(api_reply *reply, unsigned seed, buf *out) {
    sched_request req;
    uint32_t n = 0, id = 0;
    unsigned bits = 0;
    err e = {0};
    bool stop = false;
    srand(seed);
    api_reply_request(reply, 0, &req);
    cr_assert_not_null(req.constraint);
    while (n < req.max_tokens && !stop) {
        uint32_t allowed[2048], k = 0;
        cr_assert_eq(req.constraint->make(req.ud), ERR_NONE);
        const eng_mask *mask = req.constraint->mask(req.ud, 0);
        for (uint32_t i = 0; i < 2048; i++) {
            if (mask->words[i / 64] >> (i % 64) & 1) allowed[k++] = i;
        }
        cr_assert_gt(k, 0, "nothing is allowed");
        id = allowed[(unsigned)rand() % k];
        cr_assert(req.constraint->take(req.ud, id),
                  "the mask allows token %u, which leaves nothing", id);
        stop = id == 2044 || id == 2047;
        sched_event ev = ev_token(id, 1, -1);
        if (!stop) bits |= api_event(reply, 0, &ev, out, &e);
        n += !stop;
    }
    sched_event end = ev_end(stop ? SCHED_STOP : SCHED_LENGTH, 1, n);
    cr_assert((bits | api_event(reply, 0, &end, out, &e)) & API_DONE);
    return stop;
}

/* Compares a parameter's value with its schema. */
static void check_fits(const json_t *args) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)args, key, value) {
        bool fits = strcmp(key, "days") == 0   ? json_is_integer(value)
                    : strcmp(key, "part") == 0 ? json_is_number(value)
                    : strcmp(key, "dry") == 0  ? json_is_boolean(value)
                    : strcmp(key, "tags") == 0 ? json_is_array(value)
                    : strcmp(key, "at") == 0   ? json_is_object(value)
                    : strcmp(key, "many") == 0 ? json_is_integer(value) || json_is_string(value)
                    : strcmp(key, "note") == 0 ? json_is_null(value) || json_is_string(value)
                                               : json_is_string(value);
        cr_expect(fits, "%s", key);
    }
}

Test(api_call_tags, a_forced_call_is_always_read_as_a_call_with_arguments_that_fit) {
    size_t whole = 0, weather = 0;
    for (unsigned seed = 0; seed < 80; seed++) {
        api_reply *reply = api_must_reply(&fixture, &api_dialect_chat,
                                          CHAT(",\"tool_choice\":\"required\",\"max_tokens\":480"));
        buf out = {0};
        if (run_forced(reply, seed, &out)) {
            json_t *root = parsed(out.data, out.len);
            const json_t *choice = json_array_get(json_object_get(root, "choices"), 0),
                         *message = json_object_get(choice, "message");
            const json_t *function = json_object_get(
                json_array_get(json_object_get(message, "tool_calls"), 0), "function");
            cr_assert_not_null(function, "%s", out.data);
            cr_expect(json_is_null(json_object_get(message, "content")), "%s", out.data);
            const json_t *text = json_object_get(function, "arguments");
            json_t *args = parsed(json_string_value(text), json_string_length(text));
            if (json_object_size(args) > 0) {
                cr_expect_not_null(json_object_get(args, "city"));
                weather++;
            }
            check_fits(args);
            json_decref(args);
            json_decref(root);
            whole++;
        }
        buf_deinit(&out);
        api_reply_destroy(reply);
    }
    cr_expect_gt(whole, 40, "%zu", whole);
    cr_expect_gt(weather, 10, "%zu", weather);
}

Test(api_call_tags, a_required_answer_may_go_on_with_another_call_unless_one_is_named_or_allowed) {
    static const char *const rest[] = {
        CHAT(",\"tool_choice\":\"required\""),
        CHAT(",\"tool_choice\":\"required\",\"parallel_tool_calls\":false"),
        CHAT(",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"now\"}}")};
    for (size_t i = 0; i < ARRAY_LEN(rest); i++) {
        api_request *req = api_must_parse(&fixture, &api_dialect_chat, rest[i]);
        cr_expect_eq(grammar_feed(req->grammar, NOW), 1);
        cr_expect_eq(grammar_feed(req->grammar, NOW "\n" NOW "\n" NOW), i == 0 ? 1 : -1, "%zu", i);
        cr_expect_eq(grammar_feed(req->grammar, NOW "\n"), i == 0 ? 0 : -1, "row %zu", i);
        api_request_destroy(req);
    }
}
