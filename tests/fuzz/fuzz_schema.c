/* fuzz_schema.c - a schema, a zero byte, then text for the automaton it becomes.
 *
 * Whatever compiles must have a way in, never wedge (every state that is not whole allows
 * some byte), and only call text whole that is JSON. The bytes after the zero also choose among
 * the tokens that masks allow: each must leave a reading, at a bounded price. */
#include "api/grammar/constrain_internal.h"
#include "base/buf.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

static void must_be_json(const uint8_t *text, size_t n) {
    json_t *v = json_loadb((const char *)text, n, JSON_DECODE_ANY, NULL);
    if (v == NULL) __builtin_trap();
    json_decref(v);
}

static bool any_byte(api__automaton *a, const api__readings *t) {
    api__readings next;
    uint32_t used = a->used;
    for (int b = 0; b < 256; b++) {
        api__automaton_step(a, t, (uint8_t)b, &next);
        api__automaton_rewind(a, used);
        if (next.n_tops > 0) return true;
    }
    return false;
}

enum { TOKENS = 300, STOP = TOKENS - 1, STEPS = 40 };

/* The bytes, and pieces that open or close several values at once. */
static void open_vocabulary(tokenizer **t, api__vocab **v) {
    static const char *const pieces[] = {
        "{\"",      "[\"",      "[[",  "\":\"", "\",\"", "\":{\"", "{\"a\":", "{\"a\":{\"a\":",
        "[{\"a\":", "{\"a\":1", "\"}", "\"}}",  "}}",    "]}",     "]]",      "},{\"a\":",
        "11",       "12",       "99",  "1,1",   "-1",    "0.",     "true",    "ab",
        "ab\"",     "\\u00"};
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
    for (unsigned b = 0, moved = 256; b < 256; b++) { /* bytes that print stand for themselves */
        bool plain = (b > 32 && b < 127) || (b > 160 && b != 173);
        buf_printf(&json, "%s\"\\u%04x\":%u", b ? "," : "", plain ? b : moved, b);
        moved += !plain;
    }
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        buf_puts(&json, ",");
        buf_json_text(&json, pieces[i]);
        buf_printf(&json, ":%u", id++);
    }
    buf_puts(&json, "}}}");
    if (tokenizer_parse(t, json.data, json.len, TOKENS, "fuzz", &e) != 0 ||
        api__vocab_open(v, *t, TOKENS, &e) != 0)
        __builtin_trap();
    buf_deinit(&json);
}

/* Takes allowed tokens as the bytes say. What the mask allows must leave a reading, and a mask
 * must keep to its fuel; some token must be left unless the pool of readings ran full. */
static void walk_masks(const api__grammar *g, const uint8_t *choices, size_t n) {
    static tokenizer *t;
    static api__vocab *v;
    if (v == NULL) open_vocabulary(&t, &v);
    const uint32_t stop = STOP;
    api__workspace *w = NULL;
    api__constraint *c = NULL;
    err e = {0};
    if (api__workspace_create(&w, g, v, &stop, 1, &e) == 0 &&
        api__constraint_create(&c, w, &e) == 0) {
        for (size_t k = 0; k < STEPS; k++) {
            bool costly = api__constraint_make(c) != ERR_NONE;
            if (api__constraint_fuel(c) > API__MASK_FUEL + 20000) __builtin_trap();
            if (costly) break;
            const uint64_t *words = api__constraint_mask(c)->words;
            uint32_t can[TOKENS], n_can = 0;
            for (uint32_t id = 0; id < TOKENS; id++) {
                if (words[id / 64] >> id % 64 & 1) can[n_can++] = id;
            }
            if (n_can == 0) __builtin_trap();
            uint32_t id = can[(k < n ? choices[k] : 255u - k) * 7u % n_can];
            if (!api__constraint_take(c, id)) __builtin_trap();
            if (id == STOP) break;
        }
    }
    api__constraint_destroy(c);
    api__workspace_destroy(w);
}

static void feed(const api__grammar *g, const uint8_t *text, size_t n) {
    static api__stacks scratch;
    api__automaton a;
    api__readings now, next;
    err e = {0};
    if (api__automaton_init(&a, g, &e) != 0) return;
    api__automaton_start(&a, &now);
    for (size_t i = 0; i <= n && i < 2000; i++) {
        bool done = api__automaton_done(&a, &now);
        if (done) must_be_json(text, i);
        if (!done && !any_byte(&a, &now)) __builtin_trap();
        if (i == n) break;
        api__automaton_step(&a, &now, text[i], &next);
        now = next;
        if (now.n_tops == 0) break;
        api__automaton_compact(&a, &now, &scratch);
    }
    api__automaton_deinit(&a);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    return 0;
}

static void one_input(const uint8_t *data, size_t n) {
    static const json_limits limits = {
        .max_bytes = 1 << 20, .max_depth = 64, .max_structural = 100000};
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t schema_len = zero ? (size_t)(zero - data) : n;
    json_t *schema = NULL;
    err e = {0};
    if (json_parse(&schema, (const char *)data, schema_len, &limits, "schema", &e) != 0) return;
    api__grammar *g = NULL;
    e = (err){0};
    if (api__grammar_compile(&g, schema, "schema", &e) != 0) {
        if (g != NULL || e.code == ERR_NONE) __builtin_trap();
    } else {
        const uint8_t *rest = zero ? zero + 1 : (const uint8_t *)"";
        size_t n_rest = zero ? n - schema_len - 1 : 0;
        feed(g, rest, n_rest);
        walk_masks(g, rest, n_rest);
    }
    api__grammar_free(g);
    json_decref(schema);
}

FUZZ_TARGET(one_input, 3000, 8000)
