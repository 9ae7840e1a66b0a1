/* test_costs.c - the worst bodies and model files known cost their size (tests/lib/costs.h). */
#include "api/dialect_internal.h"
#include "base/json.h"
#include "base/model_json.h"
#include "model/model_internal.h"
#include "model/safetensors_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/costs.h"
#include "tests/lib/files.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(costs);

/* ---- JSON ---- */

static void read_json(const buf *text) {
    static const json_limits limits = {8 << 20, 64, 8 << 20};
    json_t *root;
    err e = {0};
    if (json_parse(&root, text->data, text->len, &limits, "text", &e) == 0) json_decref(root);
}

static void broken_numbers(buf *text, size_t size) {
    buf_puts(text, "[");
    cost_repeat(text, "1,", size);
}

static void broken_objects(buf *text, size_t size) {
    buf_puts(text, "[");
    cost_repeat(text, "{},[],", size);
}

static void whole_objects(buf *text, size_t size) {
    broken_objects(text, size);
    buf_puts(text, "0]");
}

static void keys(buf *text, size_t size) {
    for (size_t i = 0; text->len < size; i++)
        buf_printf(text, "%s\"k%zu\":%zu", i ? "," : "{", i, i);
}

static void key_twice(buf *text, size_t size) {
    keys(text, size);
    buf_puts(text, ",\"k0\":1}");
}

/* The value of each key of a nest is the rest of the nest: a key is freed after its value. */
static void nests(buf *text, size_t size) {
    buf_puts(text, "[");
    for (size_t i = 0; text->len < size; i++) {
        if (i) buf_puts(text, ",");
        for (int depth = 0; depth < 60; depth++)
            buf_puts(text, "{\"a\":0,\"b\":");
        buf_puts(text, "0");
        for (int depth = 0; depth < 60; depth++)
            buf_puts(text, "}");
    }
}

static void nest_of_lists(buf *text, size_t size) {
    for (int depth = 0; depth < 60; depth++)
        buf_puts(text, "{\"a\":0,\"b\":");
    buf_puts(text, "[");
    cost_repeat(text, "0,", size);
}

static void long_string(buf *text, size_t size) {
    buf_puts(text, "[\"");
    cost_repeat(text, "x", size);
    buf_puts(text, "\"]");
}

static void escapes(buf *text, size_t size) {
    buf_puts(text, "[\"");
    cost_repeat(text, "\\ud83d\\ude00", size);
    buf_puts(text, "\"]");
}

static void open_string(buf *text, size_t size) {
    buf_puts(text, "[\"");
    cost_repeat(text, "\\\\", size);
}

static void long_integer(buf *text, size_t size) {
    buf_puts(text, "[1");
    cost_repeat(text, "7", size);
    buf_puts(text, "]");
}

static void long_fraction(buf *text, size_t size) {
    buf_puts(text, "[0.");
    cost_repeat(text, "4999999999999999", size);
    buf_puts(text, "]");
}

static void thousand_digits(buf *text, size_t size) {
    buf_puts(text, "[");
    while (text->len < size) {
        buf_puts(text, "1.");
        for (int i = 0; i < 100; i++)
            buf_puts(text, "2345678901");
        buf_puts(text, "e-300,");
    }
    buf_puts(text, "0]");
}

static void letters(buf *text, size_t size) {
    buf_puts(text, "[");
    cost_repeat(text, "a", size);
}

static const cost_row json_rows[] = {
    {"numbers, the list not closed", 1500, broken_numbers, NULL, read_json},
    {"keys, the last one twice", 1500, key_twice, NULL, read_json},
    {"keys, the object not closed", 1500, keys, NULL, read_json},
    {"nests of 60 objects, not closed", 1500, nests, NULL, read_json},
    {"a list under 60 objects, not closed", 1500, nest_of_lists, NULL, read_json},
    {"one string", 300, long_string, NULL, read_json},
    {"one string of surrogate pairs", 300, escapes, NULL, read_json},
    {"one string of backslashes, not closed", 300, open_string, NULL, read_json},
    {"one integer", 300, long_integer, NULL, read_json},
    {"one fraction", 1000, long_fraction, NULL, read_json},
    {"numbers of 1000 digits", 1000, thousand_digits, NULL, read_json},
    {"one word of letters", 300, letters, NULL, read_json},
};

/* Many small blocks of memory for each KB. */
static const cost_row empty_rows[] = {
    {"empty objects and lists, not closed", 1500, broken_objects, NULL, read_json},
    {"empty objects and lists", 1500, whole_objects, NULL, read_json},
};

enum { BEYOND_CACHES = 8 };

Test(costs, json_costs_its_size_whether_it_is_whole_or_broken) {
    check_costs("json_parse", json_rows, ARRAY_LEN(json_rows));
    check_costs_at(BEYOND_CACHES, "json_parse", empty_rows, ARRAY_LEN(empty_rows));
}

/* ---- model files ---- */

static void read_model_json(const buf *text) {
    static const json_limits limits = {8 << 20, 64, 8 << 20};
    json_t *root;
    err e = {0};
    if (model_json_parse(&root, text->data, text->len, &limits, "text", &e) == 0) json_decref(root);
}

static void wide_integers(buf *text, size_t size) {
    buf_puts(text, "[");
    cost_repeat(text, "99999999999999999999,", size);
    buf_puts(text, "0]");
}

static void read_plan(const buf *text) {
    model_plan plan;
    err e = {0};
    cr_assert_neq(plan_parse(&plan, text->data, text->len, "config.json", &e), 0);
}

static void plain_keys(buf *text, size_t size) {
    keys(text, size);
    buf_puts(text, "}");
}

static void read_safetensors(const buf *text) {
    model__st_index index;
    err e = {0};
    if (model__st_parse(&index, (const uint8_t *)text->data, text->len, "file", &e) == 0)
        model__st_deinit(&index);
}

/* All empty tensors lie at the same place. */
static void many_tensors(buf *text, size_t size, const char *end) {
    uint64_t len = 0;
    buf_append(text, &len, sizeof len);
    for (size_t i = 0; text->len < size; i++) {
        buf_printf(text, "%s\"%zu\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}",
                   i ? "," : "{", i);
    }
    buf_puts(text, end);
    len = text->len - sizeof len;
    memcpy(text->data, &len, sizeof len);
}

static void whole_tensors(buf *text, size_t size) {
    many_tensors(text, size, "}");
}

static void broken_tensors(buf *text, size_t size) {
    many_tensors(text, size, ",}");
}

static void vocabulary(buf *text, size_t size) {
    buf_puts(text,
             "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
             "\"added_tokens\":[],\"model\":{\"vocab\":{");
    put_byte_vocabulary(text, 0);
    for (size_t i = 0; text->len < size / 2; i++)
        buf_printf(text, ",\"ab%zu\":%zu", i, i + 256);
    buf_puts(text, "},\"merges\":[");
    cost_repeat(text, "\"a b0\",", size);
    buf_puts(text, "\"a b0\"]}}");
}

static void read_vocabulary(const buf *text) {
    tokenizer *tok;
    err e = {0};
    if (tokenizer_parse(&tok, text->data, text->len, 1 << 20, "tokenizer.json", &e) == 0)
        tokenizer_close(tok);
}

static const cost_row model_rows[] = {
    {"integers of over 64 bits", 2000, wide_integers, NULL, read_model_json},
    {"signs and digits", 300, NULL, "1-", read_model_json},
    {"config.json of unknown keys", 2000, plain_keys, NULL, read_plan},
    {"safetensors header of empty tensors", 2000, whole_tensors, NULL, read_safetensors},
    {"safetensors header, broken at its end", 2000, broken_tensors, NULL, read_safetensors},
    {"tokenizer.json", 2000, vocabulary, NULL, read_vocabulary},
};

Test(costs, a_model_file_costs_its_size) {
    check_costs("model files", model_rows, ARRAY_LEN(model_rows));
}

/* ---- requests ---- */

static const api_dialect *parsing;

static void parse_request(const buf *text) {
    api_request *req;
    err e = {0};
    if (api_parse(&req, fixture.ctx, parsing, text->data, text->len, &e) == 0)
        api_request_destroy(req);
    else cr_assert(e.code == ERR_BAD_PARAM || e.code == ERR_TOO_LONG || e.code == ERR_UNSUPPORTED);
}

/* n bytes in `count` entries of one list. */
static void entries(buf *text, size_t size, const char *head, size_t count, const char *open,
                    const char *close, const char *tail) {
    buf_puts(text, head);
    for (size_t i = 0; i < count; i++) {
        buf_puts(text, i ? "," : "");
        buf_puts(text, open);
        cost_repeat(text, "ab ", size * (i + 1) / count);
        buf_puts(text, close);
    }
    buf_puts(text, tail);
}

static void one_prompt(buf *text, size_t size) {
    cost_fill(text, size, "{\"prompt\":\"", "a", "\"}");
}

static void prompt_ids(buf *text, size_t size) {
    cost_fill(text, size, "{\"prompt\":[1", ",1", "]}");
}

static void many_prompts(buf *text, size_t size) {
    entries(text, size, "{\"prompt\":[", 64, "\"", "\"", "]}");
}

static void many_stops(buf *text, size_t size) {
    cost_fill(text, size, "{\"prompt\":\"a\",\"stop\":[\"\"", ",\"a\"", "]}");
}

static void biases(buf *text, size_t size) {
    buf_puts(text, "{\"prompt\":\"a\",\"logit_bias\":");
    plain_keys(text, size);
    buf_puts(text, "}");
}

static void unknown_keys(buf *text, size_t size) {
    plain_keys(text, size);
}

static void many_messages(buf *text, size_t size) {
    entries(text, size, "{\"messages\":[", API__MAX_MESSAGES, "{\"role\":\"user\",\"content\":\"",
            "\"}", "]}");
}

static void many_parts(buf *text, size_t size) {
    cost_fill(text, size, "{\"messages\":[{\"role\":\"user\",\"content\":[",
              "{\"type\":\"text\",\"text\":\"\"},", "{\"type\":\"text\",\"text\":\"a\"}]}]}");
}

static void many_calls(buf *text, size_t size) {
    cost_fill(text, size, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[",
              "{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},",
              "{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
              "{\"role\":\"user\",\"content\":\"a\"}]}");
}

static void many_tools(buf *text, size_t size) {
    buf_puts(text,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":\"required\","
             "\"tools\":[");
    for (size_t i = 0; i < 128; i++) {
        buf_printf(text,
                   "%s{\"type\":\"function\",\"function\":{\"name\":\"f%zu\",\"description\":\"",
                   i ? "," : "", i);
        cost_repeat(text, "ab ", size * (i + 1) / 128);
        buf_puts(text, "\"}}");
    }
    buf_puts(text, "]}");
}

static void schema_of(buf *text, const char *schema_head) {
    buf_puts(text, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{"
                   "\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":");
    buf_puts(text, schema_head);
}

static void long_enum(buf *text, size_t size) {
    schema_of(text, "{\"enum\":[");
    for (size_t i = 0; i < 512; i++) {
        buf_printf(text, "%s\"%zu", i ? "," : "", i);
        cost_repeat(text, "a", size * (i + 1) / 512);
        buf_puts(text, "\"");
    }
    buf_puts(text, "]}}}}");
}

/* 400 to an object, `padding` bytes longer than need be. */
static void put_properties(buf *text, size_t size, int padding) {
    schema_of(text, "{\"type\":\"array\",\"prefixItems\":[");
    for (size_t i = 0; text->len < size; i++) {
        if (i % 400 == 0) {
            buf_puts(text, i ? "}}," : "");
            buf_puts(text, "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
        }
        buf_printf(text, "%s\"k%zu\":{\"type\":\"string\"%*s}", i % 400 ? "," : "", i, padding, "");
    }
    buf_puts(text, "}}]}}}}");
}

/* Fewer than a grammar may have. */
static void some_properties(buf *text, size_t size) {
    put_properties(text, size, 140);
}

/* From 64 KB on more than a grammar may have, which is noticed at a cost of its own. */
static void many_properties(buf *text, size_t size) {
    put_properties(text, size, 0);
}

static void many_references(buf *text, size_t size) {
    schema_of(text, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
    for (size_t i = 0; text->len < size; i++) {
        buf_printf(text, "\"d%zu\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%zu\"},{\"type\":\"null\"}]},",
                   i, i + 1);
    }
    buf_puts(text, "\"x\":true}}}}}");
}

static void annotations(buf *text, size_t size) {
    schema_of(text, "{\"type\":\"string\",\"examples\":[0");
    cost_fill(text, size, "", ",{}", "]}}}}");
}

static void many_items(buf *text, size_t size) {
    entries(text, size, "{\"input\":[", API__MAX_MESSAGES,
            "{\"type\":\"function_call_output\",\"output\":\"", "\"}", "]}");
}

static void many_call_items(buf *text, size_t size) {
    entries(text, size, "{\"input\":[", API__MAX_MESSAGES,
            "{\"type\":\"function_call\",\"name\":\"f\",\"arguments\":\"", "\"}", "]}");
}

static void echoed_tools(buf *text, size_t size) {
    cost_fill(text, size,
              "{\"input\":\"a\",\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{"
              "\"enum\":[0",
              ",\"\\u2028\"", "]}}]}");
}

static const cost_row completion_rows[] = {
    {"a prompt of one letter", 3000, one_prompt, NULL, parse_request},
    {"a prompt of ids", 3000, prompt_ids, NULL, parse_request},
    {"64 prompts", 3000, many_prompts, NULL, parse_request},
    {"stop strings", 3000, many_stops, NULL, parse_request},
    {"biases", 3000, biases, NULL, parse_request},
    {"unknown keys", 3000, unknown_keys, NULL, parse_request},
};

static const cost_row chat_rows[] = {
    {"1000 messages", 3000, many_messages, NULL, parse_request},
    {"empty parts of a content", 3000, many_parts, NULL, parse_request},
    {"calls in a message", 3000, many_calls, NULL, parse_request},
    {"128 tools, one of them forced", 3000, many_tools, NULL, parse_request},
    {"schema: an enum of 512", 3000, long_enum, NULL, parse_request},
    {"schema: properties", 3000, some_properties, NULL, parse_request},
    {"schema: a chain of references", 3000, many_references, NULL, parse_request},
    {"schema: annotations", 3000, annotations, NULL, parse_request},
};

enum { BEYOND_LIMIT = 4 };
static const cost_row properties_row = {"schema: too many properties", 3000, many_properties, NULL,
                                        parse_request};

static const cost_row responses_rows[] = {
    {"1000 items", 3000, many_items, NULL, parse_request},
    {"1000 calls that join one turn", 3000, many_call_items, NULL, parse_request},
    {"tools that are repeated in the answer", 3000, echoed_tools, NULL, parse_request},
};

Test(costs, a_request_costs_its_size_on_every_route) {
    parsing = &api_dialect_completion;
    check_costs("completion", completion_rows, ARRAY_LEN(completion_rows));
    parsing = &api_dialect_chat;
    check_costs("chat", chat_rows, ARRAY_LEN(chat_rows));
    check_costs_at(BEYOND_LIMIT, "chat", &properties_row, 1);
    parsing = &api_dialect_responses;
    check_costs("responses", responses_rows, ARRAY_LEN(responses_rows));
}

/* ---- a chat template that prints every variable ---- */

static api_chat *chat;

static void render_body(const buf *text) {
    jinja_output out = {0};
    token_ids ids = {0};
    err e = {0};
    (void)!api_chat_render(chat, text->data, text->len, &out, &ids, &e);
    cr_assert(e.code == ERR_NONE || e.code == ERR_BAD_PARAM, "%s", e.msg);
    jinja_output_deinit(&out);
    token_ids_deinit(&ids);
}

#define ASKS "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}"

static void long_arguments(buf *text, size_t size) {
    cost_fill(text, size,
              ASKS ",{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":"
                   "\"f\",\"arguments\":\"{\\\"a\\\":[0",
              ",{\\\"b\\\":1}", "]}\"}}]}]}");
}

static void broken_arguments(buf *text, size_t size) {
    cost_fill(text, size,
              ASKS ",{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":"
                   "\"f\",\"arguments\":\"{\\\"a\\\":[0",
              ",{}", "\"}}]}]}");
}

static void long_tools(buf *text, size_t size) {
    cost_fill(text, size,
              ASKS
              "],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"
              "{\"enum\":[0",
              ",\"\u2028<|end|>\"", "]}}}]}");
}

static void long_kwargs(buf *text, size_t size) {
    cost_fill(text, size, ASKS "],\"chat_template_kwargs\":{\"x\":[0", ",[{}]", "]}}");
}

static void many_kwargs(buf *text, size_t size) {
    buf_puts(text, ASKS "],\"chat_template_kwargs\":");
    plain_keys(text, size);
    buf_puts(text, "}");
}

static void open_end(buf *text, size_t size) {
    cost_fill(text, size,
              ASKS ",{\"role\":\"assistant\",\"content\":\"\"}],\"continue_final_message\":true,"
                   "\"chat_template_kwargs\":{\"x\":\"",
              "CONTINUE_FINAL_MESSAGE_TA", "\"}}");
}

static void markers(buf *text, size_t size) {
    cost_fill(text, size, "{\"messages\":[{\"role\":\"user\",\"content\":\"", "<|end|>", "\"}]}");
}

static const cost_row template_rows[] = {
    {"arguments of a call", 6000, long_arguments, NULL, render_body},
    {"arguments that are no JSON", 3000, broken_arguments, NULL, render_body},
    {"one tool", 6000, long_tools, NULL, render_body},
    {"a long argument", 6000, long_kwargs, NULL, render_body},
    {"too many arguments", 3000, many_kwargs, NULL, render_body},
    {"marks of an open end", 3000, open_end, NULL, render_body},
    {"1000 messages", 3000, many_messages, NULL, render_body},
    {"spelled control tokens", 3000, markers, NULL, render_body},
};

Test(costs, a_conversation_costs_its_size_in_a_template_that_prints_all_of_it) {
    static const char all[] =
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% for c in m.tool_calls %}"
        "{{ c.function.arguments | tojson }}{% endfor %}<|end|>{% endfor %}{% if tools %}{{ tools "
        "| "
        "tojson(indent=4) }}{% endif %}{{ x }}";
    tmp_dir dir = tmp_dir_create();
    err e = {0};
    file_put(dir.path, "chat_template.jinja", all, sizeof all - 1);
    cr_assert_eq(api_chat_open(&chat, dir.path, NULL, fixture.tokenizer, &e), 0, "%s", e.msg);
    check_costs("template", template_rows, ARRAY_LEN(template_rows));
    api_chat_close(chat);
    tmp_dir_remove(&dir);
}
