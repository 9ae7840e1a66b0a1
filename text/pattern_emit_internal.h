/* pattern_emit_internal.h - shared by pattern_emit.c, which writes a tree for PCRE2, and
 * pattern_set.c, which writes its sets. */
#ifndef FATHOM_TEXT_PATTERN_EMIT_INTERNAL_H
#define FATHOM_TEXT_PATTERN_EMIT_INTERNAL_H

#include "text/pattern_internal.h"
#include "text/pattern_tree_internal.h"

enum { EMIT_ATOMS = TEXT__CATEGORIES + PATTERN_SCRIPTS, EMIT_WRITTEN = 32 };

typedef struct {
    pattern *pat;
    buf *out;
    bool captures;                /* the pattern refers to groups, so they keep their numbers */
    bool *closed;                 /* [pat->groups + 1] the group has ended */
    bool *called;                 /* [pat->groups + 1] the pattern calls the group */
    unsigned behind;              /* number of enclosing look-behinds */
    unsigned look;                /* of enclosing look-arounds */
    unsigned inside_called;       /* of enclosing groups that are called */
    text__atom atoms[EMIT_ATOMS]; /* categories first; loaded on first use */
    size_t n_atoms, n_categories;
    bool atoms_loaded;
    struct {
        text__set set;
        size_t at, len; /* in `out` */
    } written[EMIT_WRITTEN];
    size_t n_written;
} emitter;

void emit_code_point(buf *out, uint32_t code);
/* Writes one character in the set, or outside if negated, as one item that may take a quantifier.
 * A failure marks the arena or `out`. */
void emit_set(emitter *gen, const text__set *set, bool negated);

#endif
