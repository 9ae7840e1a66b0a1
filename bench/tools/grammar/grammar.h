/* grammar.h - shared by the files of the benchmark of masks: vocabulary.c makes a vocabulary,
 * schemas.c and dear.c list the schemas, grammar.c measures. */
#ifndef FATHOM_BENCH_GRAMMAR_H
#define FATHOM_BENCH_GRAMMAR_H

#include "base/buf.h"
#include "base/json.h"
#include "text/tokenizer.h"

enum { BENCH_VOCAB = 200000 }; /* entries of the vocabulary made here; the last one ends a text */

uint32_t bench_below(uint32_t n); /* a number below n, in the same order in every run */
tokenizer *bench_vocabulary(void);

typedef enum { BENCH_SCHEMA, BENCH_ANY, BENCH_CALLS, BENCH_TAGS } bench_form;

typedef struct {
    const char *what;
    bench_form form;
    void (*write)(buf *out, int n); /* the schema or the list of tools as JSON; BENCH_ANY: NULL */
    int n;
} bench_schema;

extern const bench_schema bench_usual[], bench_worst[], bench_dear[];
extern const size_t bench_n_usual, bench_n_worst, bench_n_dear;

#endif
