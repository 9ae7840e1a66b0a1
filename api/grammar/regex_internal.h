/* regex_internal.h - regular expressions of JSON Schema as automata over characters.
 *
 * regex_parse.c reads ECMA-262 patterns into states with several ways on. regex_dfa.c turns the
 * states of one or more patterns into one deterministic automaton (DFA), matching if all of them
 * match. A pattern matches anywhere in a text unless ^ and $ tie it to the ends.
 *
 * Supported: characters, escapes (\t \n \v \f \r \0 \cX \xHH \uHHHH \u{H} \d \D \w \W \s \S, and
 * any escaped punctuation), the dot, classes, groups with and without a name, alternatives, ^, $,
 * and the repeats * + ? {n} {n,} {n,m}, greedy or lazy. Not supported: back references, \b, \p, and
 * looking ahead or behind. No pattern matches U+0000 or half a surrogate pair. */
#ifndef FATHOM_API_REGEX_INTERNAL_H
#define FATHOM_API_REGEX_INTERNAL_H

#include "base/arena.h"
#include "base/lang.h"

enum {
    API__RE_MAX_STATES = 16384,
    API__RE_MAX_SETS = 512,
    API__RE_MAX_RANGES = 4096,
    API__RE_MAX_REPEAT = 2000,
    API__RE_MAX_PARTS = 64,
    API__DFA_MAX_STATES = 4096,
    API__DFA_MAX_CLASSES = 255,
    API__DFA_MAX_MIN = 1024, /* the greatest minLength beside a pattern */
    API__DFA_FUEL = 1000000, /* for all patterns of a schema; a unit takes a few ns */
};
#define API__DFA_DEAD UINT16_MAX

typedef enum {
    API__RE_OK,
    API__RE_UNSUPPORTED, /* `why` says more */
    API__RE_COSTLY,      /* the pattern needs too many states or too much time */
    API__RE_EMPTY,       /* no text fits */
    API__RE_NO_MEMORY
} api__re_result;

typedef enum { API__RE_SET, API__RE_SPLIT, API__RE_START, API__RE_END, API__RE_MATCH } api__re_kind;

typedef struct {
    uint8_t kind;   /* api__re_kind */
    uint16_t set;   /* characters of API__RE_SET */
    uint16_t out;   /* the next state */
    uint16_t other; /* the second way of API__RE_SPLIT */
} api__re_state;

typedef struct {
    uint32_t from, to; /* characters */
} api__re_range;

/* Several patterns, each wanted or unwanted. */
typedef struct {
    api__re_state *states;
    api__re_range *ranges;
    struct {
        uint16_t first, n; /* in ranges */
    } sets[API__RE_MAX_SETS];
    struct {
        uint16_t first, end, start; /* states */
        bool wanted;
    } parts[API__RE_MAX_PARTS];
    uint16_t n_states, n_ranges, n_sets, n_parts;
    uint64_t *fuel; /* what is left */
    const char *why;
} api__regex;

int api__regex_init(api__regex *regex, uint64_t *fuel) WARN_UNUSED; /* -1: out of memory */
void api__regex_deinit(api__regex *regex);
/* Adds a pattern: texts must match it or, if it is not wanted, must not match it. An unsupported
 * pattern changes nothing. */
api__re_result api__regex_add(api__regex *regex, const char *pattern, size_t n,
                              bool wanted) WARN_UNUSED;
/* The same for the text `literal` as a whole or, if inside, anywhere in a text. */
api__re_result api__regex_add_literal(api__regex *regex, const char *literal, size_t n, bool inside,
                                      bool wanted) WARN_UNUSED;

/* State 0 is the first. Every other state but the first is on a way to the end of some text. */
typedef struct api__dfa {
    uint32_t *bounds;   /* [n_bounds] first character of each interval */
    uint8_t *classes;   /* [n_bounds] class of each interval; class 0 leads nowhere */
    uint8_t ascii[128]; /* the class of each */
    uint16_t *next;     /* [n_states][n_classes] */
    uint16_t *least;    /* [n_states] characters to the nearest end */
    bool *ends;         /* [n_states] may the text end here? */
    bool *steady;       /* [n_states] any text may follow */
    uint64_t *early;    /* [min][early_words] bit s: n characters read, and s leads to an end */
    uint32_t min, max;  /* characters of a text; max UINT32_MAX: no limit */
    uint16_t n_bounds, n_states, n_classes, early_words;
    uint16_t farthest; /* the most of `least` */
} api__dfa;

/* Makes the DFA in `mem`. Scratch memory is on the heap. */
api__re_result api__dfa_build(api__dfa **out, api__regex *regex, uint32_t min, uint32_t max,
                              arena *mem) WARN_UNUSED;
/* The state after one more character, the text's character number `chars` with it, or
 * API__DFA_DEAD. */
uint16_t api__dfa_step(const api__dfa *dfa, uint16_t state, uint32_t character, uint32_t chars);
/* May some character of from..to come next? */
bool api__dfa_some(const api__dfa *dfa, uint16_t state, uint32_t from, uint32_t to, uint32_t chars);
bool api__dfa_matches(const api__dfa *dfa, const char *text, size_t n);
/* Reads one character of UTF-8. Its bytes, or 0: there is no whole character. */
size_t api__character(const char *text, size_t n, uint32_t *out);

#endif
