/* pattern_emit.c - writes the tree of a pattern for PCRE2 (UTF, DOTALL, newline is LF). It does not
 * use PCRE2's own character types and case folding. */
#include "text/pattern_emit_internal.h"

#include <string.h>

static int emit(emitter *gen, const node *part);

/* ---- case-insensitive strings ---- */

static text__set folded_set(emitter *gen, uint32_t code) {
    text__range one[] = {{code, code}};
    text__set set = {one, 1};
    return text__set_fold(&gen->pat->tree, &set);
}

static void emit_folded(emitter *gen, uint32_t code) {
    text__set set = folded_set(gen, code);
    emit_set(gen, &set, false);
}

static void emit_folded_sequence(emitter *gen, const uint32_t *to) {
    for (size_t i = 0; i < UNICODE_FOLD_LEN && to[i]; i++)
        emit_folded(gen, to[i]);
}

static size_t fold_length(const text__multi_fold *fold) {
    return fold->to[2] ? 3 : 2;
}

/* The longest folding of one code point that the n code points, folded, begin with. */
static const text__multi_fold *folds_together(const uint32_t *string, size_t n) {
    size_t n_folds;
    const text__multi_fold *all = text__multi_folds(&n_folds), *found = NULL;
    for (size_t i = 0; i < n_folds; i++) {
        size_t len = fold_length(&all[i]), k = 0;
        if (len > n || (found && fold_length(found) >= len)) continue;
        while (k < len && text__fold(string[k]) == all[i].to[k])
            k++;
        if (k == len) found = &all[i];
    }
    return found;
}

static const text__multi_fold *folds_apart(uint32_t code) {
    size_t n;
    const text__multi_fold *all = text__multi_folds(&n);
    for (size_t i = 0; i < n; i++) {
        if (all[i].from[0] == code || all[i].from[1] == code) return &all[i];
    }
    return NULL;
}

/* (?i)ss is [sSſ][sSſ] or one of [ßẞ], and so is (?i)ß. In a look-behind a code point matches
 * single ones only. */
static void emit_any_case(emitter *gen, const uint32_t *string, size_t n) {
    for (size_t i = 0; i < n;) {
        const text__multi_fold *fold = gen->behind ? NULL : folds_together(string + i, n - i);
        size_t len = fold ? fold_length(fold) : 1;
        if (fold == NULL && !gen->behind) fold = folds_apart(string[i]);
        if (fold) {
            buf_puts(gen->out, "(?:");
            emit_folded_sequence(gen, fold->to);
            buf_puts(gen->out, "|");
            emit_folded(gen, fold->from[0]);
            buf_puts(gen->out, ")");
        } else {
            emit_folded(gen, string[i]);
        }
        i += len;
    }
}

/* Writes adjacent strings as one. */
static int emit_strings(emitter *gen, const node *first, const node *end) {
    size_t len = 0;
    for (const node *item = first; item != end; item = item->next)
        len += item->len;
    uint32_t *all = arena_array(&gen->pat->tree, len, sizeof *all);
    if (all == NULL) return pattern_full(gen->pat);
    len = 0;
    for (const node *item = first; item != end; item = item->next) {
        memcpy(all + len, item->string, item->len * sizeof *all);
        len += item->len;
    }
    if (first->icase) {
        emit_any_case(gen, all, len);
        return 0;
    }
    for (size_t i = 0; i < len; i++)
        emit_code_point(gen->out, all[i]);
    return 0;
}

/* ---- case-insensitive sets ---- */

/* (?i)[ß] is [ßẞ] or [sSſ][sSſ]. A negated set matches single characters only. */
static int emit_class(emitter *gen, const node *part) {
    size_t n_folds, several = 0;
    const text__multi_fold *all = text__multi_folds(&n_folds);
    for (int pass = 0; pass < 2; pass++) {
        if (pass && several) buf_puts(gen->out, "(?:");
        if (pass) emit_set(gen, &part->set, part->negated);
        if (!part->icase || part->negated) continue;
        for (size_t i = 0; i < n_folds; i++) {
            if (!text__set_has(&part->set, all[i].from[0])) continue;
            several++;
            if (pass == 0) continue;
            buf_puts(gen->out, "|");
            emit_folded_sequence(gen, all[i].to);
        }
        if (pass && several) buf_puts(gen->out, ")");
        if (several && gen->behind) {
            return pattern_unknown(
                gen->pat, part->at,
                "a case-insensitive class in a look-behind that matches several characters");
        }
    }
    return 0;
}

/* ---- the width of a look-behind ---- */

typedef struct {
    uint64_t min, max;
    bool forever;
} width;

static width width_of(const node *part) {
    width sum = {0};
    switch (part->kind) {
    case NODE_STRING: return (width){part->len, part->len, false};
    case NODE_SET: return (width){1, 1, false};
    case NODE_NEWLINE: return (width){1, 2, false};
    case NODE_BACK_REFERENCE:
    case NODE_CALL: return (width){0, 0, true};
    case NODE_SEQUENCE:
    case NODE_GROUP:
    case NODE_CAPTURE:
    case NODE_ATOMIC:
        for (const node *child = part->first; child; child = child->next) {
            width one = width_of(child);
            sum = (width){sum.min + one.min, sum.max + one.max, sum.forever || one.forever};
        }
        return sum;
    case NODE_CHOICE:
    case NODE_CONDITION:
        sum.min = part->kind == NODE_CHOICE || part->first->next ? UINT64_MAX : 0;
        for (const node *child = part->first; child; child = child->next) {
            width one = width_of(child);
            if (one.min < sum.min) sum.min = one.min;
            if (one.max > sum.max) sum.max = one.max;
            sum.forever = sum.forever || one.forever;
        }
        return sum;
    case NODE_REPEAT:
        sum = width_of(part->first);
        if (part->max == PATTERN_FOREVER) sum.forever = sum.forever || sum.max > 0;
        sum.min *= (uint64_t)part->min;
        sum.max *= part->max == PATTERN_FOREVER ? 1 : (uint64_t)part->max;
        if (sum.min > UINT32_MAX) sum.min = UINT32_MAX;
        if (sum.max > UINT32_MAX) sum.max = UINT32_MAX;
        return sum;
    default: return sum;
    }
}

/* In PCRE2 each alternative of a look-behind must have a fixed width. */
static int check_width(emitter *gen, const node *body) {
    const node *one = body->kind == NODE_CHOICE ? body->first : body;
    for (;;) {
        width span = width_of(one);
        if (span.forever || span.min != span.max)
            return pattern_unknown(gen->pat, one->at,
                                   "an alternative of varying width in a look-behind");
        if (span.max > 1000)
            return pattern_unknown(gen->pat, one->at, "a look-behind over 1000 characters");
        if (body->kind != NODE_CHOICE || one->next == NULL) return 0;
        one = one->next;
    }
}

/* ---- references ---- */

static int check_reference(emitter *gen, const node *part, const char *thing) {
    if (gen->pat->calls)
        return pattern_unknown(gen->pat, part->at, "%s beside a call of a group", thing);
    if (part->group > gen->pat->groups || part->group == 0)
        return pattern_wrong(gen->pat, part->at, "a reference to a missing group");
    if (!gen->closed[part->group])
        return pattern_unknown(gen->pat, part->at, "%s to a group that has not ended", thing);
    return 0;
}

static int emit_back_reference(emitter *gen, const node *part) {
    if (check_reference(gen, part, "a back-reference") != 0) return -1;
    if (part->icase)
        return pattern_unknown(gen->pat, part->at, "a case-insensitive back-reference");
    buf_printf(gen->out, "\\g{%u}", (unsigned)part->group);
    return 0;
}

static int emit_condition(emitter *gen, const node *part) {
    if (check_reference(gen, part, "a condition") != 0) return -1;
    buf_printf(gen->out, "(?(%u)", (unsigned)part->group);
    for (const node *child = part->first; child; child = child->next) {
        bool several = child->kind == NODE_CHOICE;
        if (child != part->first) buf_puts(gen->out, "|");
        if (several) buf_puts(gen->out, "(?:");
        if (emit(gen, child) != 0) return -1;
        if (several) buf_puts(gen->out, ")");
    }
    buf_puts(gen->out, ")");
    return 0;
}

static int emit_call(emitter *gen, const node *part) {
    if (part->group > gen->pat->groups)
        return pattern_wrong(gen->pat, part->at, "a call of a missing group");
    if (part->group == 0 || gen->inside_called)
        return pattern_unknown(gen->pat, part->at, "a call inside a group that is called");
    buf_printf(gen->out, "(?%u)", (unsigned)part->group);
    return 0;
}

/* Replaces names of groups by numbers and marks called groups. */
static int resolve(emitter *gen, const node *part) {
    for (node *child = part->first; child; child = child->next) {
        if (resolve(gen, child) != 0) return -1;
        bool refers = child->kind == NODE_BACK_REFERENCE || child->kind == NODE_CALL ||
                      child->kind == NODE_CONDITION;
        if (!refers) continue;
        if (child->name == NULL && gen->pat->named > 0 && child->group > 0)
            return pattern_wrong(gen->pat, child->at, "a reference by number beside named groups");
        const pattern_name *found = NULL;
        for (size_t i = 0; child->name && i < gen->pat->named && !found; i++) {
            const pattern_name *name = &gen->pat->names[i];
            bool same =
                name->len == child->name_len && memcmp(name->name, child->name, name->len) == 0;
            if (same) found = name;
        }
        if (child->name && !found)
            return pattern_wrong(gen->pat, child->at, "a reference to a missing group");
        if (found && found->twice)
            return pattern_unknown(gen->pat, child->at,
                                   "a reference to a name that two groups have");
        if (found) child->group = found->group;
        if (child->kind == NODE_CALL && child->group <= gen->pat->groups)
            gen->called[child->group] = true;
    }
    return 0;
}

/* ---- groups ---- */

static int emit_inside(emitter *gen, const char *open, const node *part) {
    buf_puts(gen->out, open);
    if (emit(gen, part->first) != 0) return -1;
    buf_puts(gen->out, ")");
    return 0;
}

static bool is_kept(const emitter *gen, const node *part) {
    return part->kind == NODE_CAPTURE && gen->captures && (gen->pat->named == 0 || part->name);
}

/* A group without capture, in parentheses only if it needs them. */
static int emit_group(emitter *gen, const node *part) {
    if (part->first->kind == NODE_CHOICE) return emit_inside(gen, "(?:", part);
    return emit(gen, part->first);
}

static int emit_capture(emitter *gen, const node *part) {
    if (!is_kept(gen, part)) return emit_group(gen, part);
    bool called = gen->called[part->group];
    gen->inside_called += called;
    if (emit_inside(gen, "(", part) != 0) return -1;
    gen->inside_called -= called;
    gen->closed[part->group] = true;
    return 0;
}

static int emit_look(emitter *gen, const node *part) {
    bool behind = part->kind == NODE_BEHIND;
    if (behind && check_width(gen, part->first) != 0) return -1;
    gen->look++;
    gen->behind += behind;
    const char *open = behind ? part->negated ? "(?<!" : "(?<=" : part->negated ? "(?!" : "(?=";
    if (emit_inside(gen, open, part) != 0) return -1;
    gen->behind -= behind;
    gen->look--;
    return 0;
}

/* The part is written as one character or one pair of parentheses, so it may take a quantifier. */
static bool is_unit(const emitter *gen, const node *part) {
    switch (part->kind) {
    case NODE_SET: return true;              /* emit_class writes one class, or a group */
    case NODE_STRING: return part->len == 1; /* a class or a group too, if case-insensitive */
    case NODE_ATOMIC:
    case NODE_NEWLINE: return true;
    case NODE_GROUP:
    case NODE_CAPTURE:
        return is_kept(gen, part) || part->first->kind == NODE_CHOICE || is_unit(gen, part->first);
    default: return false;
    }
}

static int emit_repeat(emitter *gen, const node *part) {
    bool unit = is_unit(gen, part->first);
    if (part->max == 0 && gen->behind && gen->captures)
        return pattern_unknown(gen->pat, part->at,
                               "a repeat of zero times in a look-behind, beside references");
    width one = width_of(part->first);
    bool counted = part->min > 1 || part->max > 1;
    if (counted && one.min == 0 && (one.max > 0 || one.forever)) {
        return pattern_unknown(gen->pat, part->at,
                               "a counted repeat of a part that may match no text");
    }
    if (part->max == 0 && !gen->captures) { /* otherwise groups inside keep their numbers */
        buf_puts(gen->out, "(?:)");
        return 0;
    }
    if (!unit) buf_puts(gen->out, "(?:");
    if (emit(gen, part->first) != 0) return -1;
    if (!unit) buf_puts(gen->out, ")");
    if (part->min == 0 && part->max == 1) buf_puts(gen->out, "?");
    else if (part->min == 0 && part->max == PATTERN_FOREVER) buf_puts(gen->out, "*");
    else if (part->min == 1 && part->max == PATTERN_FOREVER) buf_puts(gen->out, "+");
    else if (part->max == PATTERN_FOREVER) buf_printf(gen->out, "{%d,}", part->min);
    else buf_printf(gen->out, "{%d,%d}", part->min, part->max);
    if (part->lazy) buf_puts(gen->out, "?");
    if (part->possessive) buf_puts(gen->out, "+");
    return 0;
}

static bool is_any_character(const node *part) {
    while (part->kind == NODE_GROUP || part->kind == NODE_CAPTURE)
        part = part->first;
    return part->kind == NODE_SET && part->negated && part->set.count == 0;
}

/* The part begins with an unbounded repeat of any character. */
static bool is_any_repeat(const node *part) {
    switch (part->kind) {
    case NODE_REPEAT:
        return (part->max == PATTERN_FOREVER && is_any_character(part->first)) ||
               is_any_repeat(part->first);
    case NODE_GROUP:
    case NODE_CAPTURE:
    case NODE_ATOMIC:
    case NODE_SEQUENCE: return is_any_repeat(part->first);
    case NODE_CHOICE:
        for (const node *child = part->first; child; child = child->next) {
            if (is_any_repeat(child)) return true;
        }
        return false;
    default: return false;
    }
}

/* The reference tries (?m:.*) only at the start of a search, even after a part that matches no text
 * but may fail there. So \B(?m:.*) misses matches, and such a pattern is refused. */
static int check_any_repeat(emitter *gen, const node *part) {
    for (const node *child = part->first; child && child->next; child = child->next) {
        width one = width_of(child);
        if (one.forever || one.max > 0) return 0;
        bool at_start = child->kind == NODE_TEXT_START || child->kind == NODE_SEARCH_START;
        if (!at_start && is_any_repeat(child->next)) {
            return pattern_unknown(
                gen->pat, child->next->at,
                "an unbounded repeat of any character after a part that matches no text");
        }
    }
    return 0;
}

static int emit_children(emitter *gen, const node *part) {
    if (check_any_repeat(gen, part) != 0) return -1;
    for (const node *child = part->first; child;) {
        const node *next = child->next;
        if (child->kind == NODE_STRING) {
            while (next && next->kind == NODE_STRING && next->icase == child->icase)
                next = next->next;
            if (emit_strings(gen, child, next) != 0) return -1;
        } else if (child->kind == NODE_CHOICE) {
            buf_puts(gen->out, "(?:");
            if (emit(gen, child) != 0) return -1;
            buf_puts(gen->out, ")");
        } else if (emit(gen, child) != 0) {
            return -1;
        }
        child = next;
    }
    return 0;
}

static int emit_choice(emitter *gen, const node *part) {
    for (const node *child = part->first; child; child = child->next) {
        if (child != part->first) buf_puts(gen->out, "|");
        if (emit(gen, child) != 0) return -1;
    }
    return 0;
}

/* ---- anchors ---- */

static void emit_word_edge(emitter *gen, const node *part) {
    buf_puts(gen->out, part->negated ? "(?:(?<=" : "(?:(?<!");
    emit_set(gen, &part->set, false);
    buf_puts(gen->out, ")(?=");
    emit_set(gen, &part->set, false);
    buf_puts(gen->out, part->negated ? ")|(?<!" : ")|(?<=");
    emit_set(gen, &part->set, false);
    buf_puts(gen->out, ")(?!");
    emit_set(gen, &part->set, false);
    buf_puts(gen->out, "))");
}

static int emit_keep(emitter *gen, const node *part) {
    if (gen->look) return pattern_unknown(gen->pat, part->at, "\\K in a look-around");
    buf_puts(gen->out, "\\K");
    return 0;
}

static int emit(emitter *gen, const node *part) {
    switch (part->kind) {
    case NODE_EMPTY: return 0;
    case NODE_STRING: return emit_strings(gen, part, part->next);
    case NODE_SET: return emit_class(gen, part);
    case NODE_SEQUENCE: return emit_children(gen, part);
    case NODE_CHOICE: return emit_choice(gen, part);
    case NODE_REPEAT: return emit_repeat(gen, part);
    case NODE_GROUP: return emit_group(gen, part);
    case NODE_CAPTURE: return emit_capture(gen, part);
    case NODE_ATOMIC: return emit_inside(gen, "(?>", part);
    case NODE_AHEAD:
    case NODE_BEHIND: return emit_look(gen, part);
    case NODE_LINE_START: buf_puts(gen->out, "(?m:^)"); return 0;
    case NODE_LINE_END: buf_puts(gen->out, "(?m:$)"); return 0;
    case NODE_TEXT_START: buf_puts(gen->out, "\\A"); return 0;
    case NODE_TEXT_END: buf_puts(gen->out, "\\z"); return 0;
    case NODE_TEXT_END_OR_LINE: buf_puts(gen->out, "\\Z"); return 0;
    case NODE_SEARCH_START: buf_puts(gen->out, "\\G"); return 0;
    case NODE_WORD_EDGE: emit_word_edge(gen, part); return 0;
    case NODE_KEEP: return emit_keep(gen, part);
    case NODE_NEWLINE:
        buf_puts(gen->out, "(?>\\x{d}\\x{a}|[\\x{a}-\\x{d}\\x{85}\\x{2028}\\x{2029}])");
        return 0;
    case NODE_BACK_REFERENCE: return emit_back_reference(gen, part);
    case NODE_CALL: return emit_call(gen, part);
    case NODE_CONDITION: return emit_condition(gen, part);
    }
    return err_set(gen->pat->e, ERR_INTERNAL, NULL, "%s: a node of no kind", gen->pat->label);
}

int pattern_emit(pattern *pat, const node *root, buf *out) {
    emitter *gen = arena_alloc(&pat->tree, sizeof *gen);
    if (gen == NULL) return pattern_full(pat);
    gen->pat = pat;
    gen->out = out;
    gen->captures = pat->refers || pat->calls;
    gen->closed = arena_alloc(&pat->tree, pat->groups + 1);
    gen->called = arena_alloc(&pat->tree, pat->groups + 1);
    if (pat->tree.failed) return pattern_full(pat);
    node top = {.kind = NODE_SEQUENCE, .first = (node *)root};
    if (resolve(gen, &top) != 0) return -1;
    buf_puts(out, "(*LF)");
    if (emit(gen, root) != 0) return -1;
    if (pat->tree.failed) return pattern_full(pat);
    if (!out->failed) return 0;
    if (out->len < out->max / 2)
        return err_set(pat->e, ERR_NO_MEMORY, NULL, "%s: out of memory", pat->label);
    return err_set(pat->e, ERR_BAD_FILE, NULL, "%s: it becomes longer than %d MB for PCRE2",
                   pat->label, PATTERN_OUT_BYTES >> 20);
}
