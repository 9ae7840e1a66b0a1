/* grammar.c - compiles a schema, and feeds a text to its automaton, byte by byte. */
#include "tests/lib/grammar.h"

#include <criterion/criterion.h>
#include <stdlib.h>

api__grammar *grammar_compile(const char *text, bool strict, err *e) {
    json_error_t why;
    json_t *schema = text ? json_loads(text, JSON_DECODE_ANY, &why) : NULL;
    api__grammar *grammar = NULL;
    if (text) cr_assert(schema, "the test's schema: %s in %s", why.text, text);
    int rc = api__grammar_compile(&grammar, schema, strict, "schema", e);
    cr_assert_eq(rc == 0, grammar != NULL);
    json_decref(schema);
    return grammar;
}

int grammar_feed(const api__grammar *grammar, const char *text) {
    api__automaton machine;
    api__readings now, next;
    err e = {0};
    api__stacks *scratch = malloc(sizeof *scratch);
    cr_assert_eq(api__automaton_init(&machine, grammar, &e), 0);
    api__automaton_start(&machine, &now);
    for (const char *at = text; *at && now.n_tops; at++) {
        api__automaton_step(&machine, &now, (uint8_t)*at, &next);
        now = next;
        api__automaton_compact(&machine, &now, scratch);
    }
    int result = now.n_tops == 0 ? -1 : api__automaton_done(&machine, &now);
    api__automaton_deinit(&machine);
    free(scratch);
    return result;
}
