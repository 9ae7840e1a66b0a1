/* grammar.c - feeds a text to an automaton, byte by byte. */
#include "tests/lib/grammar.h"

#include <criterion/criterion.h>
#include <stdlib.h>

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
