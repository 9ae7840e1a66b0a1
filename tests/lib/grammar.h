/* grammar.h - what the automaton of a grammar says to a text. */
#ifndef FATHOM_TEST_GRAMMAR_H
#define FATHOM_TEST_GRAMMAR_H

#include "api/grammar/constrain_internal.h"

/* 1: a whole value; 0: a beginning; -1: refused. */
int grammar_feed(const api__grammar *grammar, const char *text);

#endif
