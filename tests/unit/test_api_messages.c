/* test_api_messages.c - Anthropic's messages: their prompts, refusals and errors; and the parts of
 * an answer in every dialect with conversations. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(api_messages);

/* ---- prompts ---- */

#define TOOL_USE "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"a\":1}}"
#define CALL                                                                                       \
    "\"tool_calls\":[{\"id\":\"t1\",\"type\":\"function\",\"function\":{\"name\":\"f\","           \
    "\"arguments\":\"{\\\"a\\\":1}\"}}]"

/* Bodies of both dialects with the same prompt. */
static const struct {
    const char *messages, *chat;
} pairs[] = {
    {"\"messages\":[{\"role\":\"user\",\"content\":\"In\"}]",
     "\"messages\":[{\"role\":\"user\",\"content\":\"In\"}]"},
    {"\"system\":\"S\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
     "\"text\":\"In\"}]}]",
     "\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":"
     "\"In\"}]"},
    {"\"system\":[{\"type\":\"text\",\"text\":\"A\",\"cache_control\":{\"type\":\"ephemeral\"}},"
     "{\"type\":\"text\",\"text\":\"B\"}],\"messages\":[{\"role\":\"user\",\"content\":\"In\"}]",
     "\"messages\":[{\"role\":\"system\",\"content\":\"A\\nB\"},{\"role\":\"user\",\"content\":"
     "\"In\"}]"},
    {"\"messages\":[{\"role\":\"user\",\"content\":\"In\"},{\"role\":\"assistant\",\"content\":"
     "\"the\"}]",
     "\"messages\":[{\"role\":\"user\",\"content\":\"In\"},{\"role\":\"assistant\",\"content\":"
     "\"the\"}],\"continue_final_message\":true"},
    {"\"messages\":[{\"role\":\"user\",\"content\":\"In\"},{\"role\":\"assistant\",\"content\":["
     "{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"s\"},{\"type\":"
     "\"redacted_thinking\",\"data\":\"x\"},{\"type\":\"text\",\"text\":\"so\"}," TOOL_USE
     "]},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t1\","
     "\"content\":[{\"type\":\"text\",\"text\":\"42\"}]},{\"type\":\"text\",\"text\":\"go\"}]}]",
     "\"messages\":[{\"role\":\"user\",\"content\":\"In\"},{\"role\":\"assistant\",\"content\":"
     "\"so\",\"reasoning_content\":\"hm\"," CALL "},{\"role\":\"tool\",\"tool_call_id\":\"t1\","
     "\"content\":\"42\"},{\"role\":\"user\",\"content\":\"go\"}]"},
    {"\"messages\":[{\"role\":\"user\",\"content\":\"In\"},{\"role\":\"assistant\",\"content\":["
     "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\"}]},{\"role\":\"user\",\"content\":[{"
     "\"type\":\"tool_result\",\"tool_use_id\":\"t1\"}]}]",
     "\"messages\":[{\"role\":\"user\",\"content\":\"In\"},{\"role\":\"assistant\",\"tool_calls\":"
     "[{\"id\":\"t1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
     "{\"role\":\"tool\",\"tool_call_id\":\"t1\",\"content\":\"\"}]"},
    {"\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"tools\":[{\"name\":\"f\","
     "\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}},{\"type\":"
     "\"web_search_20250305\",\"name\":\"web_search\"}]",
     "\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"tools\":[{\"type\":\"function\","
     "\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\"}}}]"},
};

static api_request *parsed(const api_dialect *dialect, const char *members) {
    char body[1200];
    snprintf(body, sizeof body, "{\"model\":\"demo\",\"max_tokens\":9,%s}", members);
    return api_must_parse(&fixture, dialect, body);
}

Test(api_messages, a_prompt_is_that_of_the_chat_with_the_same_messages) {
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        api_request *own = parsed(&api_dialect_messages, pairs[i].messages),
                    *chat = parsed(&api_dialect_chat, pairs[i].chat);
        cr_assert_eq(own->prompts[0].n_ids, chat->prompts[0].n_ids, "row %zu", i);
        cr_expect_arr_eq(own->prompts[0].ids, chat->prompts[0].ids,
                         own->prompts[0].n_ids * sizeof *own->prompts[0].ids, "row %zu", i);
        cr_expect_eq(own->n_warnings, 0, "row %zu: %s", i, own->n_warnings ? own->warnings[0] : "");
        api_request_destroy(own);
        api_request_destroy(chat);
    }
}

Test(api_messages, count_tokens_counts_the_prompt_of_the_message) {
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        char body[1200], want[64];
        buf out = {0};
        err e = {0};
        api_request *req = parsed(&api_dialect_messages, pairs[i].messages);
        snprintf(body, sizeof body, "{\"model\":\"demo\",%s}", pairs[i].messages);
        snprintf(want, sizeof want, "{\"input_tokens\":%u}", req->prompts[0].n_ids);
        cr_assert_eq(api_list(api__count_tokens, fixture.ctx, body, strlen(body), 10, &out, &e), 0,
                     "row %zu: %s", i, e.msg);
        cr_expect_str_eq(out.data, want, "row %zu", i);
        api_request_destroy(req);
        buf_deinit(&out);
    }
}

Test(api_messages, count_tokens_counts_a_prompt_that_is_too_long) {
    buf body = {0}, out = {0};
    err e = {0};
    buf_puts(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 3000; i++)
        buf_puts(&body, " the");
    buf_puts(&body, "\"}]}");
    cr_assert_eq(api_list(api__count_tokens, fixture.ctx, body.data, body.len, 10, &out, &e), 0,
                 "%s", e.msg);
    cr_expect_gt(atoi(strchr(out.data, ':') + 1), 2999, "%s", out.data);
    buf_deinit(&body);
    buf_deinit(&out);
}

/* ---- refusals ---- */

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"

static const struct {
    const char *members, *says;
} refused[] = {
    {"\"system\":\"s\"", "messages is missing"},
    {"\"messages\":[]", "messages must be a list of 1 to 1000 messages"},
    {"\"messages\":\"x\"", "messages must be a list of 1 to 1000 messages"},
    {"\"messages\":[7]", "messages[0].role must be user or assistant"},
    {"\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]",
     "messages[0].role must be user or assistant"},
    {"\"messages\":[{\"role\":\"user\"}]", "messages[0].content is missing"},
    {"\"messages\":[{\"role\":\"user\",\"content\":7}]",
     "messages must be a string or a list of text blocks"},
    {"\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"source\":{}}]}]",
     "messages[0].content of a user may hold text and tool_result blocks only"},
    {"\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\"}]}]",
     "messages[0].content has a tool_result without a tool_use_id"},
    {"\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":"
     "\"t\",\"content\":[{\"type\":\"image\"}]}]}]",
     "tool_result.content must be a string or a list of text blocks"},
    {"\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\"}]}]",
     "messages[0].content has a tool_use without an id and a name"},
    {"\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"image\"}]}]",
     "of an assistant may hold text, tool_use and thinking blocks only"},
    {"\"system\":[{\"type\":\"image\"}]," USER, "system must be a string or a list of text"},
    {USER ",\"tools\":{}", "tools must be a list of tools"},
    {USER ",\"tools\":[7]", "tools must be a list of objects"},
    {USER ",\"tools\":[{\"name\":\"no such name\",\"input_schema\":{}}]", "tools[0].name"},
    {USER ",\"tool_choice\":\"auto\"", "tool_choice must have the type"},
    {USER ",\"tool_choice\":{\"type\":\"tool\"}", "tool_choice must have the type"},
    {USER ",\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":7}",
     "tool_choice.disable_parallel_tool_use must be true or false"},
    {USER ",\"thinking\":{\"type\":\"perhaps\"}", "thinking must have the type"},
    {USER ",\"output_config\":{\"effort\":7}", "output_config.effort must be a string"},
    {USER ",\"output_config\":{\"effort\":\"huge\"}", "output_config.effort must be"},
    {USER ",\"output_config\":{\"format\":{\"type\":\"xml\"}}", "output_config.format must have"},
    {USER ",\"output_format\":{\"type\":\"json_schema\"}", "output_format must have the type"},
    {USER ",\"stop_sequences\":7", "stop_sequences must be"},
    {USER ",\"thread\":{\"type\":\"create\"}", "thread is not supported"},
};

Test(api_messages, every_bad_body_is_refused_by_name) {
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        char body[1000];
        api_request *req = NULL;
        buf out = {0};
        err e = {0};
        snprintf(body, sizeof body, "{\"max_tokens\":9,%s}", refused[i].members);
        int rc = api_parse(&req, fixture.ctx, &api_dialect_messages, body, strlen(body), &e);
        cr_expect_eq(rc, -1, "row %zu", i);
        cr_expect_eq(api_status(&e), 400, "row %zu", i);
        cr_expect_not_null(strstr(e.msg, refused[i].says), "row %zu: %s", i, e.msg);
        api_error_body(&out, &api_dialect_messages, &e);
        json_t *root = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
        const json_t *error = json_object_get(root, "error");
        cr_expect_str_eq(json_string_value(json_object_get(root, "type")), "error");
        cr_expect_str_eq(json_string_value(json_object_get(error, "type")), "invalid_request_error",
                         "row %zu", i);
        bool thread = json_object_get(json_object_get(error, "details"), "error_code") != NULL;
        cr_expect_eq(thread, strstr(body, "thread") != NULL, "row %zu", i);
        json_decref(root);
        buf_deinit(&out);
        api_request_destroy(req);
    }
}

/* ---- the parts of an answer ---- */

static const char *str(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Parts of a chat: reasoning in brackets, then text, then calls in braces. */
static void tell_message(const json_t *message, buf *out) {
    json_t *call;
    size_t i;
    if (str(message, "reasoning_content")[0])
        buf_printf(out, "[%s]", str(message, "reasoning_content"));
    buf_puts(out, str(message, "content"));
    json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
        const json_t *function = json_object_get(call, "function");
        if (str(function, "name")[0]) buf_printf(out, "{%s ", str(function, "name"));
        buf_puts(out, str(function, "arguments"));
    }
}

/* Parts of a response or of a message of Anthropic's: both have lists. */
static void tell_list(const json_t *list, buf *out) {
    json_t *one;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i, one) {
        const char *type = str(one, "type");
        const json_t *part = json_array_get(json_object_get(one, "content"), 0);
        if (strcmp(type, "reasoning") == 0) buf_printf(out, "[%s]", str(part, "text"));
        else if (strcmp(type, "thinking") == 0) buf_printf(out, "[%s]", str(one, "thinking"));
        else if (strcmp(type, "message") == 0) buf_puts(out, str(part, "text"));
        else if (strcmp(type, "text") == 0) buf_puts(out, str(one, "text"));
        else if (strcmp(type, "function_call") == 0)
            buf_printf(out, "{%s %s", str(one, "name"), str(one, "arguments"));
        else {
            char *input = json_dumps(json_object_get(one, "input"), JSON_COMPACT);
            buf_printf(out, "{%s %s", str(one, "name"), input);
            free(input);
        }
    }
}

/* What the events of a stream add up to. */
static void tell_event(const json_t *event, buf *out) {
    const char *type = str(event, "type");
    const json_t *delta = json_object_get(event, "delta"),
                 *choice = json_array_get(json_object_get(event, "choices"), 0),
                 *item = json_object_get(event, "item"),
                 *block = json_object_get(event, "content_block");
    bool thought = strstr(type, "reasoning") || strcmp(str(block, "type"), "thinking") == 0;
    if (choice) tell_message(json_object_get(choice, "delta"), out);
    if (strcmp(str(item, "type"), "function_call") == 0 && strstr(type, "added"))
        buf_printf(out, "{%s ", str(item, "name"));
    if (strcmp(str(block, "type"), "tool_use") == 0) buf_printf(out, "{%s ", str(block, "name"));
    if (thought && !strstr(type, "delta") && !strstr(type, "done")) buf_puts(out, "[");
    if (json_is_string(delta) && thought) buf_printf(out, "[%s]", json_string_value(delta));
    else if (json_is_string(delta)) buf_puts(out, json_string_value(delta));
    if (str(delta, "thinking")[0]) buf_printf(out, "%s]", str(delta, "thinking"));
    buf_puts(out, str(delta, "text"));
    buf_puts(out, str(delta, "partial_json"));
}

/* "][" joins pieces of one reasoning. */
static void join(buf *text) {
    char *at;
    if (text->data == NULL) return;
    while ((at = strstr(text->data, "][")) != NULL)
        memmove(at, at + 2, strlen(at + 2) + 1);
    for (at = text->data; (at = strchr(at, ']')) != NULL;) { /* "a]b]" of Anthropic's deltas */
        char *next = strpbrk(at + 1, "[]{");
        if (next && *next == ']') memmove(at, at + 1, strlen(at + 1) + 1);
        else at++;
    }
}

static void tell(const api_dialect *dialect, bool stream, const buf *out, buf *told) {
    if (!stream) {
        json_t *root = json_loadb(out->data, out->len, JSON_REJECT_DUPLICATES, NULL);
        cr_assert_not_null(root, "%s", out->data);
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        if (choice) tell_message(json_object_get(choice, "message"), told);
        else tell_list(json_object_get(root, dialect->flat ? "output" : "content"), told);
        json_decref(root);
        return;
    }
    for (const char *at = out->data; (at = strstr(at, "data: ")) != NULL;) {
        const char *end = strstr(at, "\n\n");
        json_t *event = json_loadb(at + 6, (size_t)(end - at - 6), JSON_REJECT_DUPLICATES, NULL);
        if (event) tell_event(event, told);
        json_decref(event);
        at = end;
    }
    join(told);
}

static const api__marks think = {"<think>", "</think>"};
#define FUNCTION "{\"name\": \"f\", \"arguments\": {\"a\":1}}"

static const struct {
    const char *text, *want;
    bool thinks, cut; /* cut: the answer ends by its limit of tokens */
    unsigned thought; /* least tokens of reasoning */
} answers[] = {
    {"Hello there", "Hello there", false, false, 0},
    {"<think>a b</think>Hello", "[a b]Hello", true, false, 3},
    {"<think>a b c", "[a b c]", true, true, 4},
    {FUNCTION, "{f {\"a\":1}", false, false, 0},
    {"<think>so</think>" FUNCTION, "[so]{f {\"a\":1}", true, false, 3},
    {"", "", false, false, 0},
};

static void check_answer(const api_dialect *dialect, size_t i, bool stream) {
    static const char *const tools[] = {"[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
                                        "[{\"type\":\"function\",\"name\":\"f\"}]",
                                        "[{\"name\":\"f\",\"input_schema\":{}}]"};
    uint32_t ids[128];
    char body[600];
    buf out = {0}, told = {0};
    size_t n = api_ids(&fixture, answers[i].text, ids, 128),
           row = dialect == &api_dialect_chat        ? 0
                 : dialect == &api_dialect_responses ? 1
                                                     : 2;
    snprintf(body, sizeof body,
             "{\"model\":\"demo\",\"%s\":[{\"role\":\"user\",\"content\":\"x\"}],"
             "\"tools\":%s%s}",
             dialect->input, tools[row], stream ? ",\"stream\":true" : "");
    api_reply *reply = api_must_reply(&fixture, dialect, body);
    if (answers[i].thinks) reply->req->marks = &think;
    api_feed(reply, 0, ids, n, answers[i].cut ? SCHED_LENGTH : SCHED_STOP, &out);
    tell(dialect, stream, &out, &told);
    cr_expect_str_eq(told.data ? told.data : "", answers[i].want, "row %zu, %s%s: %s", i,
                     dialect->schema, stream ? ", streamed" : "", out.data);
    cr_expect_geq(reply->n_thought, answers[i].thought, "row %zu, %s", i, dialect->schema);
    cr_expect_eq(reply->n_thought > 0, answers[i].thinks, "row %zu, %s", i, dialect->schema);
    api_reply_destroy(reply);
    buf_deinit(&out);
    buf_deinit(&told);
}

Test(api_messages, reasoning_text_and_calls_are_the_same_in_every_dialect_streamed_or_not) {
    static const api_dialect *const dialects[] = {&api_dialect_chat, &api_dialect_responses,
                                                  &api_dialect_messages};
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        for (size_t k = 0; k < ARRAY_LEN(dialects); k++) {
            check_answer(dialects[k], i, false);
            check_answer(dialects[k], i, true);
        }
    }
}

/* ---- ids, and fields without effect ---- */

Test(api_messages, ids_differ_though_the_request_id_is_the_same) {
    static const api_dialect *const dialects[] = {&api_dialect_completion, &api_dialect_chat,
                                                  &api_dialect_responses, &api_dialect_messages};
    for (size_t k = 0; k < ARRAY_LEN(dialects); k++) {
        char ids[2][64], body[200];
        snprintf(body, sizeof body, "{\"%s\":%s,\"request_id\":\"r\"}", dialects[k]->input,
                 k == 0 ? "\"x\"" : "[{\"role\":\"user\",\"content\":\"x\"}]");
        for (int i = 0; i < 2; i++) {
            api_reply *reply = NULL;
            err e = {0};
            api_request *req = api_must_parse(&fixture, dialects[k], body);
            cr_assert_eq(api_reply_create(&reply, fixture.ctx, req, "given", &e), 0, "%s", e.msg);
            snprintf(ids[i], sizeof ids[i], "%s", api_reply_id(reply));
            cr_expect_eq(strncmp(ids[i], dialects[k]->id_head, strlen(dialects[k]->id_head)), 0);
            cr_expect_not_null(strstr(ids[i], "given-"), "%s", ids[i]);
            api_reply_destroy(reply);
        }
        cr_expect_str_neq(ids[0], ids[1]);
    }
}

Test(api_messages, warnings_stand_in_answers_of_every_dialect_if_the_server_tells_them) {
    static const api_dialect *const dialects[] = {&api_dialect_completion, &api_dialect_chat,
                                                  &api_dialect_responses, &api_dialect_messages};
    for (size_t i = 0; i < 4 * ARRAY_LEN(dialects); i++) {
        const api_dialect *dialect = dialects[i / 4];
        bool tells = i % 2, stream = i / 2 % 2;
        uint32_t ids[8];
        char body[300];
        buf out = {0};
        size_t n = api_ids(&fixture, "the", ids, 8);
        snprintf(body, sizeof body, "{\"%s\":%s,\"temperatur\":1%s}", dialect->input,
                 i < 4 ? "\"x\"" : "[{\"role\":\"user\",\"content\":\"x\"}]",
                 stream ? ",\"stream\":true" : "");
        fixture.ctx->opts.warn_unknown = tells;
        api_reply *reply = api_must_reply(&fixture, dialect, body);
        api_feed(reply, 0, ids, n, SCHED_STOP, &out);
        const char *found = strstr(out.data, "\"warnings\":[\"");
        cr_expect_eq(found != NULL, tells, "%s: %s", dialect->schema, out.data);
        if (found) cr_expect_null(strstr(found + 1, "\"warnings\""), "once: %s", out.data);
        if (found) cr_expect_not_null(strstr(found, "temperature"), "%s", found);
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
    fixture.ctx->opts.warn_unknown = false;
}

Test(api_messages, a_call_cut_by_a_stop_string_is_told_as_incomplete_in_every_dialect) {
    static const struct {
        const api_dialect *dialect;
        const char *members, *says[2];
    } rows[] = {
        {&api_dialect_chat,
         "\"stop\":\"Z\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
         {"\"finish_reason\":\"stop\",\"stop_reason\":\"Z\"", "\"name\":\"f\""}},
        {&api_dialect_responses,
         "\"stop\":\"Z\",\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]",
         {"\"status\":\"incomplete\",\"call_id\"", "\"name\":\"f\""}},
        {&api_dialect_messages,
         "\"stop_sequences\":[\"Z\"],\"tools\":[{\"name\":\"f\",\"input_schema\":{}}]",
         {"\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"Z\"", "\"INVALID_JSON\":"}},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t ids[128];
        char body[400];
        buf out = {0};
        size_t n = api_ids(&fixture, "{\"name\": \"f\", \"arguments\": {\"a\":\"AZB\"}}", ids, 128);
        snprintf(body, sizeof body, "{\"%s\":[{\"role\":\"user\",\"content\":\"x\"}],%s}",
                 rows[i].dialect->input, rows[i].members);
        api_reply *reply = api_must_reply(&fixture, rows[i].dialect, body);
        api_feed(reply, 0, ids, n, SCHED_STOP, &out);
        for (size_t k = 0; k < 2; k++)
            cr_expect_not_null(strstr(out.data, rows[i].says[k]), "row %zu: %s", i, out.data);
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
}
