/* unicode_internal.h - sets of code points, and the properties of characters in Unicode 16. */
#ifndef FATHOM_TEXT_UNICODE_INTERNAL_H
#define FATHOM_TEXT_UNICODE_INTERNAL_H

#include "base/arena.h"

enum { UNICODE_END = 0x110000, UNICODE_FOLD_LEN = 3 };

typedef struct {
    uint32_t lo, hi;
} text__range;

/* Ranges in order with gaps between them. A set lives as long as its arena. A function that makes a
 * set and finds no room marks the arena as failed and returns the empty set. */
typedef struct {
    text__range *items;
    size_t count;
} text__set;

/* Ranges in any order, from which a set is made. */
typedef struct {
    text__range *items;
    size_t count, cap;
} text__ranges;

void text__ranges_add(arena *mem, text__ranges *ranges, uint32_t lo, uint32_t hi);
void text__ranges_add_set(arena *mem, text__ranges *ranges, const text__set *set);
text__set text__set_of(arena *mem, text__ranges *ranges);

bool text__set_has(const text__set *set, uint32_t code);
bool text__set_equal(const text__set *set, const text__set *other);
bool text__set_within(const text__set *set, const text__set *outer); /* a subset of `outer` */
text__set text__set_not(arena *mem, const text__set *set);
text__set text__set_and(arena *mem, const text__set *set, const text__set *other);
/* The fewest ranges with all of `set` and nothing outside `reach`, a superset. */
text__set text__set_within_reach(arena *mem, const text__set *set, const text__set *reach);

/* The property with this name; case, blanks, hyphens and underscores do not count. -1: none. */
int text__property_find(const char *name, size_t n);
text__set text__property_set(arena *mem, int property);

/* Adds every code point with the same simple case folding as a member. */
text__set text__set_fold(arena *mem, const text__set *set);
/* The code point that `code` folds to, if it is a single one; otherwise `code`. */
uint32_t text__fold(uint32_t code);
/* One or two code points that fold to the same sequence of several. */
typedef struct {
    uint32_t to[UNICODE_FOLD_LEN]; /* ends at a 0, if shorter */
    uint32_t from[2];              /* the second may be 0: none */
} text__multi_fold;
/* All of them, in the order in which the reference tries them. */
const text__multi_fold *text__multi_folds(size_t *n);

/* A category or script that PCRE2 knows by name. In every version from Unicode 14 to 16 it holds
 * at least `sure` and at most `most`. */
typedef struct {
    const char *name;
    text__set sure, most;
} text__atom;
enum { TEXT__CATEGORIES = 37 }; /* 30, and 7 groups of categories */
text__atom text__atom_category(arena *mem, size_t k);
/* The atom of a property if it is a script; otherwise false. */
bool text__atom_script(arena *mem, int property, text__atom *out);

#endif
