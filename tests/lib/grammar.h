/* grammar.h - the grammar of a schema, and the verdict of its automaton on a text. */
#ifndef FATHOM_TEST_GRAMMAR_H
#define FATHOM_TEST_GRAMMAR_H

#include "api/grammar/constrain_internal.h"

/* The grammar of a schema's JSON text (NULL: any object). NULL: it was refused, and e says why. */
api__grammar *grammar_compile(const char *text, bool strict, err *e);
/* 1: a whole value; 0: a beginning; -1: refused. */
int grammar_feed(const api__grammar *grammar, const char *text);

#endif
