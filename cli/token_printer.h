/* token_printer.h - prints the tokens of an answer, each in the colour of its depth, and tells what
 * depth cost and saved. */
#ifndef FATHOM_CLI_TOKEN_PRINTER_H
#define FATHOM_CLI_TOKEN_PRINTER_H

#include "cli/cli.h"

#include <stdio.h>

typedef struct {
    FILE *to;
    bool terminal;    /* control characters of the text are left out */
    bool tint;        /* colours */
    uint32_t most;    /* loops of the last colour: the most that a token may run */
    uint32_t trained; /* loops without an early exit */
    uint32_t n_tokens;
    uint64_t loops; /* of all tokens */
} token_printer;

/* loops: the most of a token, as asked for; 0: the model's. */
void token_printer_init(token_printer *self, FILE *to, const runtime *rt, uint64_t loops);
/* Counts a token of this depth. */
void token_printer_count(token_printer *self, uint32_t depth);
/* Prints n bytes that belong to a token of this depth. dim: not the answer itself. */
void token_printer_put(const token_printer *self, const char *text, size_t n, uint32_t depth,
                       bool dim);
/* Appends "mean depth 2.66 of 8, 67 % of loops saved". */
void token_printer_depth(const token_printer *self, buf *out);
/* Appends "loops: 1 2 3 4", each number in its colour; nothing without colours. */
void token_printer_legend(const token_printer *self, buf *out);

#endif
