/* pattern_emit_internal.h - between pattern_emit.c, which writes a tree for PCRE2, and
 * pattern_set.c, which writes its sets. */
#ifndef FATHOM_TEXT_PATTERN_EMIT_INTERNAL_H
#define FATHOM_TEXT_PATTERN_EMIT_INTERNAL_H

#include "text/pattern_internal.h"
#include "text/pattern_tree_internal.h"

enum { EMIT_ATOMS = TEXT__CATEGORIES + PATTERN_SCRIPTS, EMIT_WRITTEN = 32 };

typedef struct {
    pattern *p;
    buf *out;
    bool captures;   /* groups keep their numbers, something refers to them */
    bool *closed;    /* [p->groups + 1] groups that have ended */
    bool *called;    /* [p->groups + 1] groups that something calls */
    unsigned behind; /* look-behinds around */
    unsigned look;   /* look-arounds */
    unsigned inside_called;
    text__atom atoms[EMIT_ATOMS]; /* categories first; loaded when first needed */
    size_t n_atoms, n_categories;
    bool atoms_loaded;
    struct {
        text__set set;
        size_t at, len; /* in `out` */
    } written[EMIT_WRITTEN];
    size_t n_written;
} emitter;

void emit_code_point(buf *out, uint32_t c);
/* One character that is in the set, or is not; one item that a quantifier may follow. What fails
 * marks the arena or `out`. */
void emit_set(emitter *w, const text__set *set, bool negated);

#endif
