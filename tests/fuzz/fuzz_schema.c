/* fuzz_schema.c - a schema, a zero byte, then text for the automaton it becomes.
 *
 * Whatever compiles must have a way in, never wedge (every state that is not whole allows
 * some byte), and only call text whole that is JSON. */
#include "api/grammar/constrain_internal.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

static void must_be_json(const uint8_t *text, size_t n) {
    json_t *v = json_loadb((const char *)text, n, JSON_DECODE_ANY, NULL);
    if (v == NULL) __builtin_trap();
    json_decref(v);
}

static bool any_byte(api__automaton *a, const api__threads *t) {
    api__threads next;
    uint32_t used = a->used;
    for (int b = 0; b < 256; b++) {
        api__automaton_step(a, t, (uint8_t)b, &next);
        api__automaton_rewind(a, used);
        if (next.n > 0) return true;
    }
    return false;
}

static void feed(const api__grammar *g, const uint8_t *text, size_t n) {
    static api__stacks scratch;
    api__automaton a;
    api__threads now, next;
    err e = {0};
    if (api__automaton_init(&a, g, &e) != 0) return;
    api__automaton_start(&a, &now);
    for (size_t i = 0; i <= n && i < 500; i++) {
        bool done = api__automaton_done(&a, &now);
        if (done) must_be_json(text, i);
        if (!done && !any_byte(&a, &now)) __builtin_trap();
        if (i == n) break;
        api__automaton_step(&a, &now, text[i], &next);
        now = next;
        if (now.n == 0) break;
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
    } else if (zero) {
        feed(g, zero + 1, n - schema_len - 1);
    } else {
        feed(g, (const uint8_t *)"", 0);
    }
    api__grammar_free(g);
    json_decref(schema);
}

FUZZ_TARGET(one_input, 3000, 8000)
