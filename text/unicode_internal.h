/* unicode_internal.h - sets of code points, and what Unicode 16 says of them. */
#ifndef FATHOM_TEXT_UNICODE_INTERNAL_H
#define FATHOM_TEXT_UNICODE_INTERNAL_H

#include "base/arena.h"

enum { UNICODE_END = 0x110000, UNICODE_FOLD_LEN = 3 };

typedef struct {
    uint32_t lo, hi;
} text__range;

/* Ranges in order, none touching the next. Lives as long as its arena. What makes one marks the
 * arena as failed when there is no room, and yields the empty set. */
typedef struct {
    text__range *at;
    size_t n;
} text__set;

/* Ranges in any order, to be made a set. */
typedef struct {
    text__range *at;
    size_t n, cap;
} text__ranges;

void text__ranges_add(arena *a, text__ranges *r, uint32_t lo, uint32_t hi);
void text__ranges_add_set(arena *a, text__ranges *r, const text__set *s);
text__set text__set_of(arena *a, text__ranges *r);

bool text__set_has(const text__set *s, uint32_t c);
bool text__set_equal(const text__set *s, const text__set *t);
bool text__set_within(const text__set *s, const text__set *t); /* no code point is in s alone */
text__set text__set_not(arena *a, const text__set *s);
text__set text__set_and(arena *a, const text__set *s, const text__set *t);
/* The fewest ranges that hold all of s and nothing beyond t, of which s is a part. */
text__set text__set_within_reach(arena *a, const text__set *s, const text__set *t);

/* The property of this name, whatever its case, blanks, hyphens and low lines; -1: none. */
int text__property_find(const char *name, size_t n);
text__set text__property_set(arena *a, int property);

/* Adds whatever has the same simple case folding as something in the set. */
text__set text__set_fold(arena *a, const text__set *s);
/* What `c` folds to if that is one code point, else c. */
uint32_t text__fold(uint32_t c);
/* Code points that fold to several; the others, up to two, fold alike. */
typedef struct {
    uint32_t to[UNICODE_FOLD_LEN]; /* 0: no more */
    uint32_t from[2];              /* 0: no second */
} text__multi_fold;
/* All of them, in the order in which the reference tries them. */
const text__multi_fold *text__multi_folds(size_t *n);

/* A category or script that PCRE2 knows by name. Between Unicode 14 and 16 it always held
 * `sure`, and never more than `most`. */
typedef struct {
    const char *name;
    text__set sure, most;
} text__atom;
enum { TEXT__CATEGORIES = 37 }; /* 30 and their groups */
/* The k-th category or group of such. */
text__atom text__atom_category(arena *a, size_t k);
/* The atom of a property that is a script; false: it is none. */
bool text__atom_script(arena *a, int property, text__atom *out);

#endif
