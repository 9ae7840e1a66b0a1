/* pattern_emit.c - a pattern's tree written for PCRE2 (UTF, UCP, DOTALL, newline is LF), whose
 * own character types, case folding and quantifier suffixes are not used. */
#include "text/pattern_emit_internal.h"

#include <string.h>

static int emit(emitter *w, const node *n);

/* ---- strings, whatever their case ---- */

static text__set folded_set(emitter *w, uint32_t c) {
    text__range one[] = {{c, c}};
    text__set s = {one, 1};
    return text__set_fold(&w->p->tree, &s);
}

static void emit_folded(emitter *w, uint32_t c) {
    text__set s = folded_set(w, c);
    emit_set(w, &s, false);
}

static void emit_folded_sequence(emitter *w, const uint32_t *to) {
    for (size_t i = 0; i < UNICODE_FOLD_LEN && to[i]; i++)
        emit_folded(w, to[i]);
}

static size_t fold_length(const text__multi_fold *m) {
    return m->to[2] ? 3 : 2;
}

/* What n code points, folded, begin with: the longest that one code point folds to. */
static const text__multi_fold *folds_together(const uint32_t *s, size_t n) {
    size_t n_folds;
    const text__multi_fold *all = text__multi_folds(&n_folds), *found = NULL;
    for (size_t i = 0; i < n_folds; i++) {
        size_t len = fold_length(&all[i]), k = 0;
        if (len > n || (found && fold_length(found) >= len)) continue;
        while (k < len && text__fold(s[k]) == all[i].to[k])
            k++;
        if (k == len) found = &all[i];
    }
    return found;
}

static const text__multi_fold *folds_apart(uint32_t c) {
    size_t n;
    const text__multi_fold *all = text__multi_folds(&n);
    for (size_t i = 0; i < n; i++) {
        if (all[i].from[0] == c || all[i].from[1] == c) return &all[i];
    }
    return NULL;
}

/* (?i)ss is [sSſ][sSſ] or one of [ßẞ], and so is (?i)ß. A look-behind knows single ones only. */
static void emit_any_case(emitter *w, const uint32_t *s, size_t n) {
    for (size_t i = 0; i < n;) {
        const text__multi_fold *m = w->behind ? NULL : folds_together(s + i, n - i);
        size_t len = m ? fold_length(m) : 1;
        if (m == NULL && !w->behind) m = folds_apart(s[i]);
        if (m) {
            buf_puts(w->out, "(?:");
            emit_folded_sequence(w, m->to);
            buf_puts(w->out, "|");
            emit_folded(w, m->from[0]);
            buf_puts(w->out, ")");
        } else {
            emit_folded(w, s[i]);
        }
        i += len;
    }
}

/* Strings that stand beside each other are one. */
static int emit_strings(emitter *w, const node *first, const node *end) {
    size_t n = 0;
    for (const node *k = first; k != end; k = k->next)
        n += k->n;
    uint32_t *all = arena_array(&w->p->tree, n, sizeof *all);
    if (all == NULL) return pattern_full(w->p);
    n = 0;
    for (const node *k = first; k != end; k = k->next) {
        memcpy(all + n, k->string, k->n * sizeof *all);
        n += k->n;
    }
    if (first->icase) {
        emit_any_case(w, all, n);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        emit_code_point(w->out, all[i]);
    return 0;
}

/* ---- sets, whatever the case ---- */

/* (?i)[ß] is [ßẞ] or [sSſ][sSſ]. A negated set is of single characters only. */
static int emit_class(emitter *w, const node *n) {
    size_t n_folds, several = 0;
    const text__multi_fold *all = text__multi_folds(&n_folds);
    for (int pass = 0; pass < 2; pass++) {
        if (pass && several) buf_puts(w->out, "(?:");
        if (pass) emit_set(w, &n->set, n->negated);
        if (!n->icase || n->negated) continue;
        for (size_t i = 0; i < n_folds; i++) {
            if (!text__set_has(&n->set, all[i].from[0])) continue;
            several++;
            if (pass == 0) continue;
            buf_puts(w->out, "|");
            emit_folded_sequence(w, all[i].to);
        }
        if (pass && several) buf_puts(w->out, ")");
        if (several && w->behind) {
            return pattern_unknown(w->p, n->at,
                                   "a class in a look-behind that matches "
                                   "several characters whatever their case");
        }
    }
    return 0;
}

/* ---- how much a look-behind looks behind ---- */

typedef struct {
    uint64_t min, max;
    bool forever;
} width;

static width width_of(const node *n) {
    width sum = {0};
    switch (n->kind) {
    case NODE_STRING: return (width){n->n, n->n, false};
    case NODE_SET: return (width){1, 1, false};
    case NODE_NEWLINE: return (width){1, 2, false};
    case NODE_BACK_REFERENCE:
    case NODE_CALL: return (width){0, 0, true};
    case NODE_SEQUENCE:
    case NODE_GROUP:
    case NODE_CAPTURE:
    case NODE_ATOMIC:
        for (const node *k = n->first; k; k = k->next) {
            width one = width_of(k);
            sum = (width){sum.min + one.min, sum.max + one.max, sum.forever || one.forever};
        }
        return sum;
    case NODE_CHOICE:
    case NODE_CONDITION:
        sum.min = n->kind == NODE_CHOICE || n->first->next ? UINT64_MAX : 0;
        for (const node *k = n->first; k; k = k->next) {
            width one = width_of(k);
            if (one.min < sum.min) sum.min = one.min;
            if (one.max > sum.max) sum.max = one.max;
            sum.forever = sum.forever || one.forever;
        }
        return sum;
    case NODE_REPEAT:
        sum = width_of(n->first);
        if (n->max == PATTERN_FOREVER) sum.forever = sum.forever || sum.max > 0;
        sum.min *= (uint64_t)n->min;
        sum.max *= n->max == PATTERN_FOREVER ? 1 : (uint64_t)n->max;
        if (sum.min > UINT32_MAX) sum.min = UINT32_MAX;
        if (sum.max > UINT32_MAX) sum.max = UINT32_MAX;
        return sum;
    default: return sum;
    }
}

/* PCRE2 wants each alternative of a look-behind to have one width. */
static int check_width(emitter *w, const node *body) {
    const node *one = body->kind == NODE_CHOICE ? body->first : body;
    for (;;) {
        width k = width_of(one);
        if (k.forever || k.min != k.max)
            return pattern_unknown(w->p, one->at,
                                   "an alternative of varying width in a "
                                   "look-behind");
        if (k.max > 1000)
            return pattern_unknown(w->p, one->at, "a look-behind over 1000 characters");
        if (body->kind != NODE_CHOICE || one->next == NULL) return 0;
        one = one->next;
    }
}

/* ---- references ---- */

static int check_reference(emitter *w, const node *n, const char *thing) {
    if (w->p->calls) return pattern_unknown(w->p, n->at, "%s beside a call of a group", thing);
    if (n->group > w->p->groups || n->group == 0)
        return pattern_wrong(w->p, n->at, "a reference to no group");
    if (!w->closed[n->group])
        return pattern_unknown(w->p, n->at, "%s to a group that has not ended", thing);
    return 0;
}

static int emit_back_reference(emitter *w, const node *n) {
    if (check_reference(w, n, "a back-reference") != 0) return -1;
    if (n->icase) return pattern_unknown(w->p, n->at, "a back-reference whatever the case");
    buf_printf(w->out, "\\g{%u}", (unsigned)n->group);
    return 0;
}

static int emit_condition(emitter *w, const node *n) {
    if (check_reference(w, n, "a condition") != 0) return -1;
    buf_printf(w->out, "(?(%u)", (unsigned)n->group);
    for (const node *k = n->first; k; k = k->next) {
        bool several = k->kind == NODE_CHOICE;
        if (k != n->first) buf_puts(w->out, "|");
        if (several) buf_puts(w->out, "(?:");
        if (emit(w, k) != 0) return -1;
        if (several) buf_puts(w->out, ")");
    }
    buf_puts(w->out, ")");
    return 0;
}

static int emit_call(emitter *w, const node *n) {
    if (n->group > w->p->groups) return pattern_wrong(w->p, n->at, "a call of no group");
    if (n->group == 0 || w->inside_called)
        return pattern_unknown(w->p, n->at, "a call inside a group that is called");
    buf_printf(w->out, "(?%u)", (unsigned)n->group);
    return 0;
}

/* Names become numbers. */
static int resolve(emitter *w, const node *n) {
    for (node *k = n->first; k; k = k->next) {
        if (resolve(w, k) != 0) return -1;
        bool refers =
            k->kind == NODE_BACK_REFERENCE || k->kind == NODE_CALL || k->kind == NODE_CONDITION;
        if (!refers) continue;
        if (k->name == NULL && w->p->named > 0 && k->group > 0)
            return pattern_wrong(w->p, k->at, "a reference by number beside named groups");
        const pattern_name *found = NULL;
        for (size_t i = 0; k->name && i < w->p->named && !found; i++) {
            const pattern_name *name = &w->p->names[i];
            bool same = name->len == k->name_len && memcmp(name->name, k->name, name->len) == 0;
            if (same) found = name;
        }
        if (k->name && !found) return pattern_wrong(w->p, k->at, "a reference to no group");
        if (found && found->twice)
            return pattern_unknown(w->p, k->at, "a reference to a name that two groups have");
        if (found) k->group = found->group;
        if (k->kind == NODE_CALL && k->group <= w->p->groups) w->called[k->group] = true;
    }
    return 0;
}

/* ---- groups ---- */

static int emit_inside(emitter *w, const char *open, const node *n) {
    buf_puts(w->out, open);
    if (emit(w, n->first) != 0) return -1;
    buf_puts(w->out, ")");
    return 0;
}

static bool is_kept(const emitter *w, const node *n) {
    return n->kind == NODE_CAPTURE && w->captures && (w->p->named == 0 || n->name);
}

/* A group that only holds things together: parentheses where that needs any. */
static int emit_group(emitter *w, const node *n) {
    if (n->first->kind == NODE_CHOICE) return emit_inside(w, "(?:", n);
    return emit(w, n->first);
}

static int emit_capture(emitter *w, const node *n) {
    if (!is_kept(w, n)) return emit_group(w, n);
    bool called = w->called[n->group];
    w->inside_called += called;
    if (emit_inside(w, "(", n) != 0) return -1;
    w->inside_called -= called;
    w->closed[n->group] = true;
    return 0;
}

static int emit_look(emitter *w, const node *n) {
    bool behind = n->kind == NODE_BEHIND;
    if (behind && check_width(w, n->first) != 0) return -1;
    w->look++;
    w->behind += behind;
    const char *open = behind ? n->negated ? "(?<!" : "(?<=" : n->negated ? "(?!" : "(?=";
    if (emit_inside(w, open, n) != 0) return -1;
    w->behind -= behind;
    w->look--;
    return 0;
}

/* One character or one pair of parentheses, which a quantifier may follow. */
static bool is_unit(const emitter *w, const node *n) {
    switch (n->kind) {
    case NODE_SET: return true;         /* emit_class writes one class, or a group */
    case NODE_STRING: return n->n == 1; /* a class or a group too, whatever its case */
    case NODE_ATOMIC:
    case NODE_NEWLINE: return true;
    case NODE_GROUP:
    case NODE_CAPTURE:
        return is_kept(w, n) || n->first->kind == NODE_CHOICE || is_unit(w, n->first);
    default: return false;
    }
}

static int emit_repeat(emitter *w, const node *n) {
    bool unit = is_unit(w, n->first);
    if (n->max == 0 && w->behind && w->captures)
        return pattern_unknown(w->p, n->at,
                               "a repeat of zero times in a look-behind, beside "
                               "references");
    width one = width_of(n->first);
    bool counted = n->min > 1 || n->max > 1;
    if (counted && one.min == 0 && (one.max > 0 || one.forever)) {
        return pattern_unknown(w->p, n->at, "a counted repeat of what may match no text");
    }
    if (n->max == 0 && !w->captures) { /* else what stands there keeps its number */
        buf_puts(w->out, "(?:)");
        return 0;
    }
    if (!unit) buf_puts(w->out, "(?:");
    if (emit(w, n->first) != 0) return -1;
    if (!unit) buf_puts(w->out, ")");
    if (n->min == 0 && n->max == 1) buf_puts(w->out, "?");
    else if (n->min == 0 && n->max == PATTERN_FOREVER) buf_puts(w->out, "*");
    else if (n->min == 1 && n->max == PATTERN_FOREVER) buf_puts(w->out, "+");
    else if (n->max == PATTERN_FOREVER) buf_printf(w->out, "{%d,}", n->min);
    else buf_printf(w->out, "{%d,%d}", n->min, n->max);
    if (n->lazy) buf_puts(w->out, "?");
    if (n->possessive) buf_puts(w->out, "+");
    return 0;
}

static bool is_any_character(const node *n) {
    while (n->kind == NODE_GROUP || n->kind == NODE_CAPTURE)
        n = n->first;
    return n->kind == NODE_SET && n->negated && n->set.n == 0;
}

/* Begins with any characters, without end. */
static bool is_any_repeat(const node *n) {
    switch (n->kind) {
    case NODE_REPEAT:
        return (n->max == PATTERN_FOREVER && is_any_character(n->first)) || is_any_repeat(n->first);
    case NODE_GROUP:
    case NODE_CAPTURE:
    case NODE_ATOMIC:
    case NODE_SEQUENCE: return is_any_repeat(n->first);
    case NODE_CHOICE:
        for (const node *k = n->first; k; k = k->next) {
            if (is_any_repeat(k)) return true;
        }
        return false;
    default: return false;
    }
}

/* The reference tries (?m:.*) at the start of a search only, even if what stands before it matches
 * no text but may refuse that place: \B(?m:.*) misses matches. */
static int check_any_repeat(emitter *w, const node *n) {
    for (const node *k = n->first; k && k->next; k = k->next) {
        width one = width_of(k);
        if (one.forever || one.max > 0) return 0;
        bool at_start = k->kind == NODE_TEXT_START || k->kind == NODE_SEARCH_START;
        if (!at_start && is_any_repeat(k->next)) {
            return pattern_unknown(w->p, k->next->at,
                                   "an endless repeat of any character behind "
                                   "what matches no text");
        }
    }
    return 0;
}

static int emit_children(emitter *w, const node *n) {
    if (check_any_repeat(w, n) != 0) return -1;
    for (const node *k = n->first; k;) {
        const node *next = k->next;
        if (k->kind == NODE_STRING) {
            while (next && next->kind == NODE_STRING && next->icase == k->icase)
                next = next->next;
            if (emit_strings(w, k, next) != 0) return -1;
        } else if (k->kind == NODE_CHOICE) {
            buf_puts(w->out, "(?:");
            if (emit(w, k) != 0) return -1;
            buf_puts(w->out, ")");
        } else if (emit(w, k) != 0) {
            return -1;
        }
        k = next;
    }
    return 0;
}

static int emit_choice(emitter *w, const node *n) {
    for (const node *k = n->first; k; k = k->next) {
        if (k != n->first) buf_puts(w->out, "|");
        if (emit(w, k) != 0) return -1;
    }
    return 0;
}

/* ---- anchors ---- */

static void emit_word_edge(emitter *w, const node *n) {
    buf_puts(w->out, n->negated ? "(?:(?<=" : "(?:(?<!");
    emit_set(w, &n->set, false);
    buf_puts(w->out, ")(?=");
    emit_set(w, &n->set, false);
    buf_puts(w->out, n->negated ? ")|(?<!" : ")|(?<=");
    emit_set(w, &n->set, false);
    buf_puts(w->out, ")(?!");
    emit_set(w, &n->set, false);
    buf_puts(w->out, "))");
}

static int emit_keep(emitter *w, const node *n) {
    if (w->look) return pattern_unknown(w->p, n->at, "\\K in a look-around");
    buf_puts(w->out, "\\K");
    return 0;
}

static int emit(emitter *w, const node *n) {
    switch (n->kind) {
    case NODE_EMPTY: return 0;
    case NODE_STRING: return emit_strings(w, n, n->next);
    case NODE_SET: return emit_class(w, n);
    case NODE_SEQUENCE: return emit_children(w, n);
    case NODE_CHOICE: return emit_choice(w, n);
    case NODE_REPEAT: return emit_repeat(w, n);
    case NODE_GROUP: return emit_group(w, n);
    case NODE_CAPTURE: return emit_capture(w, n);
    case NODE_ATOMIC: return emit_inside(w, "(?>", n);
    case NODE_AHEAD:
    case NODE_BEHIND: return emit_look(w, n);
    case NODE_LINE_START: buf_puts(w->out, "(?m:^)"); return 0;
    case NODE_LINE_END: buf_puts(w->out, "(?m:$)"); return 0;
    case NODE_TEXT_START: buf_puts(w->out, "\\A"); return 0;
    case NODE_TEXT_END: buf_puts(w->out, "\\z"); return 0;
    case NODE_TEXT_END_OR_LINE: buf_puts(w->out, "\\Z"); return 0;
    case NODE_SEARCH_START: buf_puts(w->out, "\\G"); return 0;
    case NODE_WORD_EDGE: emit_word_edge(w, n); return 0;
    case NODE_KEEP: return emit_keep(w, n);
    case NODE_NEWLINE:
        buf_puts(w->out, "(?>\\x{d}\\x{a}|[\\x{a}-\\x{d}\\x{85}\\x{2028}\\x{2029}])");
        return 0;
    case NODE_BACK_REFERENCE: return emit_back_reference(w, n);
    case NODE_CALL: return emit_call(w, n);
    case NODE_CONDITION: return emit_condition(w, n);
    }
    return err_set(w->p->e, ERR_INTERNAL, NULL, "%s: a node of no kind", w->p->what);
}

int pattern_emit(pattern *p, const node *root, buf *out) {
    emitter *w = arena_alloc(&p->tree, sizeof *w);
    if (w == NULL) return pattern_full(p);
    w->p = p;
    w->out = out;
    w->captures = p->refers || p->calls;
    w->closed = arena_alloc(&p->tree, p->groups + 1);
    w->called = arena_alloc(&p->tree, p->groups + 1);
    if (p->tree.failed) return pattern_full(p);
    node top = {.kind = NODE_SEQUENCE, .first = (node *)root};
    if (resolve(w, &top) != 0) return -1;
    buf_puts(out, "(*LF)");
    if (emit(w, root) != 0) return -1;
    if (p->tree.failed) return pattern_full(p);
    if (!out->failed) return 0;
    if (out->len < out->max / 2)
        return err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory", p->what);
    return err_set(p->e, ERR_BAD_FILE, NULL, "%s: becomes longer than %d MB", p->what,
                   PATTERN_OUT_BYTES >> 20);
}
