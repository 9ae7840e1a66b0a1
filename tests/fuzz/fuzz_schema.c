/* fuzz_schema.c - a schema, a zero byte, then text for the automaton of the schema.
 *
 * A compiled schema must never get stuck: every incomplete state allows some byte. It must call
 * text complete only if it is JSON, or, if the schema is that of a function called by tags, one
 * whole call. The bytes after the zero also choose among the tokens the masks allow: each must keep
 * the text readable, at a bounded cost. */
#include "api/dialect_internal.h"
#include "base/buf.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

static void must_be_json(const uint8_t *text, size_t n) {
    json_t *value = json_loadb((const char *)text, n, JSON_DECODE_ANY, NULL);
    if (value == NULL) __builtin_trap();
    json_decref(value);
}

/* Calls written as tags: the reader of answers must find exactly one. JSON inside a call may hold
 * the closing tag in a string; then the reader cannot. */
static void must_be_call(const uint8_t *text, size_t n) {
    const uint8_t *at = text, *end = text + n;
    while ((at = memmem(at, (size_t)(end - at), API__CLOSER, sizeof API__CLOSER - 1))) {
        if (*(at++ - 1) != '\n') return;
    }
    api__tool tool = {.name = "f"};
    const api_request req = {.tools = &tool, .n_tools = 1};
    api__answer answer = {0};
    api__notation_tags.read(&req, &answer, (const char *)text, n, true);
    if (answer.n_calls != 1 || answer.said.len > 0 || answer.said.failed) __builtin_trap();
    must_be_json((const uint8_t *)answer.args.data, answer.args.len);
    api__answer_deinit(&answer);
}

static bool any_byte(api__automaton *automaton, const api__readings *readings) {
    api__readings next;
    uint32_t used = automaton->used;
    for (int byte = 0; byte < 256; byte++) {
        api__automaton_step(automaton, readings, (uint8_t)byte, &next);
        api__automaton_rewind(automaton, used);
        if (next.n_tops > 0) return true;
    }
    return false;
}

enum { TOKENS = 300, STOP = TOKENS - 1, STEPS = 40 };

/* All bytes, and pieces that open or close several values at once. */
static void open_vocabulary(tokenizer **tok, api__vocab **vocab) {
    static const char *const pieces[] = {"{\"",
                                         "[\"",
                                         "[[",
                                         "\":\"",
                                         "\",\"",
                                         "\":{\"",
                                         "{\"a\":",
                                         "{\"a\":{\"a\":",
                                         "[{\"a\":",
                                         "{\"a\":1",
                                         "\"}",
                                         "\"}}",
                                         "}}",
                                         "]}",
                                         "]]",
                                         "},{\"a\":",
                                         "11",
                                         "12",
                                         "99",
                                         "1,1",
                                         "-1",
                                         "0.",
                                         "true",
                                         "ab",
                                         "ab\"",
                                         "\\u00",
                                         "<tool_call>\n<function=f>\n",
                                         "<parameter=",
                                         "<parameter=a>\n",
                                         "\n</parameter>\n",
                                         "</parameter>",
                                         "</param",
                                         "eter>",
                                         "eter>\n",
                                         "a</parameter>b\n",
                                         "x\n<",
                                         "</function>\n</tool_call>"};
    buf json = {0};
    err e = {0};
    uint32_t id = 256;
    buf_printf(&json,
               "{\"added_tokens\":[{\"id\":%d,\"content\":\"<|end|>\",\"special\":true}],\"pre_"
               "tokenizer\":{"
               "\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},\"decoder\":{"
               "\"type\":"
               "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{",
               STOP);
    for (unsigned code = 0, moved = 256; code < 256;
         code++) { /* printable bytes map to themselves */
        bool plain = (code > 32 && code < 127) || (code > 160 && code != 173);
        buf_printf(&json, "%s\"\\u%04x\":%u", code ? "," : "", plain ? code : moved, code);
        moved += !plain;
    }
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        buf_puts(&json, ",");
        buf_json_text(&json, pieces[i]);
        buf_printf(&json, ":%u", id++);
    }
    buf_puts(&json, "}}}");
    if (tokenizer_parse(tok, json.data, json.len, TOKENS, "fuzz", &e) != 0 ||
        api__vocab_open(vocab, *tok, TOKENS, &e) != 0)
        __builtin_trap();
    buf_deinit(&json);
}

/* Takes allowed tokens, chosen by the bytes. An allowed token must be accepted, a mask must keep to
 * its fuel, and it must allow some token unless it was stopped as too costly. */
static void walk_masks(const api__grammar *grammar, const uint8_t *choices, size_t n) {
    static tokenizer *tok;
    static api__vocab *vocab;
    if (vocab == NULL) open_vocabulary(&tok, &vocab);
    const uint32_t stop = STOP;
    api__workspace *space = NULL;
    api__constraint *constraint = NULL;
    err e = {0};
    if (api__workspace_create(&space, grammar, vocab, &stop, 1, &e) == 0 &&
        api__constraint_create(&constraint, space, &e) == 0) {
        for (size_t k = 0; k < STEPS; k++) {
            bool costly = api__constraint_make(constraint) != ERR_NONE;
            if (api__constraint_fuel(constraint) > API__MASK_FUEL + 20000) __builtin_trap();
            if (costly) break;
            const uint64_t *words = api__constraint_mask(constraint, 0)->words;
            uint32_t can[TOKENS], n_can = 0;
            for (uint32_t id = 0; id < TOKENS; id++) {
                if (words[id / 64] >> id % 64 & 1) can[n_can++] = id;
            }
            if (n_can == 0) __builtin_trap();
            uint32_t id = can[(k < n ? choices[k] : 255u - k) * 7u % n_can];
            if (!api__constraint_take(constraint, id)) __builtin_trap();
            if (id == STOP) break;
        }
    }
    api__constraint_destroy(constraint);
    api__workspace_destroy(space);
}

static void feed(const api__grammar *grammar, const uint8_t *text, size_t n,
                 void (*check)(const uint8_t *text, size_t n)) {
    static api__stacks scratch;
    api__automaton automaton;
    api__readings now, next;
    err e = {0};
    if (api__automaton_init(&automaton, grammar, &e) != 0) return;
    api__automaton_start(&automaton, &now);
    for (size_t i = 0; i <= n && i < 2000; i++) {
        bool done = api__automaton_done(&automaton, &now);
        if (done) check(text, i);
        if (!done && !any_byte(&automaton, &now)) __builtin_trap();
        if (i == n) break;
        api__automaton_step(&automaton, &now, text[i], &next);
        now = next;
        if (now.n_tops == 0) break;
        api__automaton_compact(&automaton, &now, &scratch);
    }
    api__automaton_deinit(&automaton);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    return 0;
}

/* The schema as that of a function's parameters, in calls written as tags. */
static void as_parameters(json_t *schema, const uint8_t *rest, size_t n_rest) {
    json_t *tools = json_pack("[{s:{s:s, s:O}}]", "function", "name", "f", "parameters", schema);
    api__grammar *grammar = NULL;
    err e = {0};
    if (tools == NULL) __builtin_trap();
    if (api__grammar_compile_tags(&grammar, tools, NULL, "tools", &e) != 0) {
        if (grammar != NULL || e.code == ERR_NONE) __builtin_trap();
    } else {
        feed(grammar, rest, n_rest, must_be_call);
        walk_masks(grammar, rest, n_rest);
    }
    api__grammar_free(grammar);
    json_decref(tools);
}

static void one_input(const uint8_t *data, size_t n) {
    static const json_limits limits = {
        .max_bytes = 1 << 20, .max_depth = 64, .max_structural = 100000};
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t schema_len = zero ? (size_t)(zero - data) : n;
    const uint8_t *rest = zero ? zero + 1 : (const uint8_t *)"";
    size_t n_rest = zero ? n - schema_len - 1 : 0;
    json_t *schema = NULL;
    err e = {0};
    if (json_parse(&schema, (const char *)data, schema_len, &limits, "schema", &e) != 0) return;
    api__grammar *grammar = NULL;
    e = (err){0};
    if (api__grammar_compile(&grammar, schema, schema_len % 2 == 1, "schema", &e) != 0) {
        if (grammar != NULL || e.code == ERR_NONE) __builtin_trap();
    } else {
        feed(grammar, rest, n_rest, must_be_json);
        walk_masks(grammar, rest, n_rest);
    }
    api__grammar_free(grammar);
    if (json_is_object(schema)) as_parameters(schema, rest, n_rest);
    json_decref(schema);
}

FUZZ_TARGET(one_input, 3000, 8000)
