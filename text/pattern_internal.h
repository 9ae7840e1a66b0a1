/* pattern_internal.h - the regular expressions of a tokenizer.json: how they are compiled and how
 * they search a text within bounds. */
#ifndef FATHOM_TEXT_PATTERN_INTERNAL_H
#define FATHOM_TEXT_PATTERN_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "base/err.h"

#include <pcre2.h>

/* A compiled pattern. Any thread may read it. */
typedef struct {
    pcre2_code *code; /* NULL: no pattern */
    bool jit;         /* compiled to machine code; some systems refuse this */
    bool in_windows;  /* a search may be cut into several: no part refers to its start */
} text__pattern;

/* Compiles n bytes in Oniguruma's syntax or, if literal, as plain text. `label` begins the
 * messages: the file and the part that has the pattern. ERR_BAD_FILE, ERR_NO_MEMORY. */
int text__pattern_compile(text__pattern *compiled, const char *source, size_t n, bool literal,
                          const char *label, err *e) WARN_UNUSED;
void text__pattern_deinit(text__pattern *compiled);

/* Shared by all searches in one text: memory, and the processor time they took. One thread. Set
 * n_bytes, zero the rest. */
typedef struct {
    size_t n_bytes;          /* of the whole text */
    uint64_t search_ns;      /* processor time of all searches so far, estimated from samples */
    uint64_t last_sample_ns; /* of one search */
    uint32_t searches;       /* so far; every 64th is timed */
    size_t window;           /* starting places that one call of PCRE2 may try */
    pcre2_match_data *match;
    pcre2_match_context *context; /* both created by the first search */
    pcre2_jit_stack *stack;
} text__search;

void text__search_deinit(text__search *search);

/* The matches in one text, from left to right. Set pattern, text and len, zero the rest. */
typedef struct {
    const text__pattern *pattern;
    const char *text;  /* valid UTF-8 */
    size_t len;        /* bytes of text */
    size_t start, end; /* the last match */
    size_t from;       /* the next search begins here */
    bool any;          /* there was a match: start and end are set */
} text__matches;

/* 1: the next match; 0: no more; -1 with ERR_BAD_PARAM if the pattern needs too many steps on this
 * text, with ERR_NO_MEMORY, or with the error of cancel_check. */
int text__match_next(text__search *search, text__matches *matches, err *e) WARN_UNUSED;

#endif
