/* pattern_internal.h - the regular expressions of a tokenizer.json: compiled, and run over a text
 * within bounds. */
#ifndef FATHOM_TEXT_PATTERN_INTERNAL_H
#define FATHOM_TEXT_PATTERN_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "base/err.h"

#include <pcre2.h>

/* A compiled pattern. Only read after that, by any thread. */
typedef struct {
    pcre2_code *code; /* NULL: none */
    bool jit;         /* compiled to machine code, which some systems refuse */
    bool in_windows;  /* a search may be cut into several: nothing refers to where it begins */
} text__pattern;

/* Compiles n bytes that mean what they mean to Oniguruma or, if literal, stand for themselves.
 * `what` begins the message: the file and whose pattern it is. ERR_BAD_FILE, ERR_NO_MEMORY. */
int text__pattern_compile(text__pattern *p, const char *pattern, size_t n, bool literal,
                          const char *what, err *e) WARN_UNUSED;
void text__pattern_deinit(text__pattern *p);

/* What the searches in one text share: memory, and how much processor time they took. One
 * thread. Set n_bytes, zero the rest. */
typedef struct {
    size_t n_bytes;          /* of the whole text */
    uint64_t search_ns;      /* processor time that searches took so far, by samples */
    uint64_t last_sample_ns; /* of one search */
    uint32_t searches;       /* every so many one is timed */
    size_t window;           /* places where one search may begin before the time is looked at */
    pcre2_match_data *match;
    pcre2_match_context *context; /* both made at first use */
    pcre2_jit_stack *stack;
} text__search;

void text__search_deinit(text__search *s);

/* The matches in one text, from left to right. Zero what is not set here. */
typedef struct {
    const text__pattern *pattern;
    const char *text; /* n bytes of valid UTF-8 */
    size_t n;
    size_t start, end; /* the match found last */
    size_t from;       /* where the next search begins */
    bool any;          /* start and end mean something */
} text__matches;

/* 1: the next match; 0: no more; -1 with ERR_BAD_PARAM where the pattern needs too many steps on
 * this text, ERR_NO_MEMORY, or what cancel_check says. */
int text__match_next(text__search *s, text__matches *m, err *e) WARN_UNUSED;

#endif
