/* pattern_group.c - reads the groups of a pattern and the references to them. */
#include "text/pattern_tree_internal.h"

#include <string.h>

/* ---- names and numbers of groups ---- */

typedef struct {
    const char *name; /* NULL: a number */
    size_t len;
    uint32_t number;
} reference;

/* Reads a name or number and then `end`. */
static int read_reference(pattern *pat, size_t start, char end, reference *ref) {
    bool minus = pattern_at(pat, '-'), relative = minus || pattern_at(pat, '+');
    if (relative) pat->at++;
    *ref = (reference){.name = pat->text + pat->at};
    if (relative || pattern_at_digit(pat)) {
        size_t n;
        uint32_t value = pattern_number(pat, 10, SIZE_MAX, &n);
        ref->name = NULL;
        if (n == 0 || value > PATTERN_MAX || (relative && value == 0) ||
            (minus && value > pat->groups)) /* further back than the first group */
            return pattern_wrong(pat, start, "a reference to a missing group");
        ref->number = minus ? pat->groups + 1 - value : relative ? pat->groups + value : value;
    } else {
        while (pat->at < pat->len && pat->text[pat->at] && !strchr(">')+-", pat->text[pat->at]))
            pat->at++;
        ref->len = (size_t)(pat->text + pat->at - ref->name);
    }
    if (pattern_at(pat, '+') || pattern_at(pat, '-'))
        return pattern_unknown(pat, start, "a reference with a level");
    if (!pattern_take(pat, end) || (ref->name && ref->len == 0))
        return pattern_wrong(pat, start, "a reference to a missing group");
    return 0;
}

int pattern_reference(pattern *pat, node_kind kind, size_t start, char end, node **out) {
    reference ref;
    if (read_reference(pat, start, end, &ref) != 0) return -1;
    if ((*out = pattern_new_node(pat, kind, start)) == NULL) return -1;
    (*out)->name = ref.name;
    (*out)->name_len = ref.len;
    (*out)->group = ref.number;
    if (kind == NODE_CALL) pat->calls = true;
    else pat->refers = true;
    return 0;
}

static int add_name(pattern *pat, const char *name, size_t len) {
    if (pat->named == pat->names_cap) {
        size_t cap = pat->names_cap ? 2 * pat->names_cap : 8;
        pattern_name *more = arena_array(&pat->tree, cap, sizeof *more);
        if (more == NULL) return pattern_full(pat);
        if (pat->named) memcpy(more, pat->names, pat->named * sizeof *more);
        pat->names = more;
        pat->names_cap = cap;
    }
    pattern_name *entry = &pat->names[pat->named++];
    *entry = (pattern_name){name, len, pat->named, false};
    for (pattern_name *other = pat->names; other < entry; other++) {
        if (other->len == len && memcmp(other->name, name, len) == 0) other->twice = true;
    }
    return 0;
}

/* ---- groups ---- */

static int deeper(pattern *pat, size_t start, bool group_head, node **out) {
    if (pat->depth == PATTERN_DEPTH)
        return pattern_unknown(pat, start, "a group inside %d others", PATTERN_DEPTH);
    pat->depth++;
    int rc = pattern_choice(pat, group_head, out);
    pat->depth--;
    return rc;
}

static int inside(pattern *pat, size_t start, bool group_head, node **out) {
    if (deeper(pat, start, group_head, out) != 0) return -1;
    if (!pattern_take(pat, ')')) return pattern_wrong(pat, start, "a group without its ')'");
    return 0;
}

static int group_of(pattern *pat, node_kind kind, bool negated, size_t start, node **out) {
    node *body;
    if ((*out = pattern_new_node(pat, kind, start)) == NULL) return -1;
    (*out)->negated = negated;
    if (inside(pat, start, false, &body) != 0) return -1;
    pattern_append(*out, body);
    return 0;
}

static int capture(pattern *pat, size_t start, char end, node **out) {
    const char *name = NULL;
    size_t len = 0;
    if (end) {
        reference ref;
        if (pattern_at_digit(pat) || pattern_at(pat, '-') || pattern_at(pat, '+'))
            return pattern_wrong(pat, start, "an invalid group name");
        if (read_reference(pat, start, end, &ref) != 0) return -1;
        name = ref.name;
        len = ref.len;
    }
    pat->groups++;
    if (name && add_name(pat, name, len) != 0) return -1;
    if ((*out = pattern_new_node(pat, NODE_CAPTURE, start)) == NULL) return -1;
    (*out)->name = name;
    (*out)->group = name ? pat->named : pat->groups;
    node *body;
    if (inside(pat, start, false, &body) != 0) return -1;
    pattern_append(*out, body);
    return 0;
}

/* (?(1)yes|no) */
static int condition(pattern *pat, size_t start, node **out) {
    char end = pattern_take(pat, '<') ? '>' : pattern_take(pat, '\'') ? '\'' : ')';
    if (end == ')' && !pattern_at_digit(pat) && !pattern_at(pat, '-') && !pattern_at(pat, '+'))
        return pattern_unknown(pat, start, "a condition that is not the number or name of a group");
    if (pattern_reference(pat, NODE_CONDITION, start, end, out) != 0) return -1;
    if (end != ')' && !pattern_take(pat, ')'))
        return pattern_wrong(pat, start, "a condition without its ')'");
    if (pattern_take(pat, ')')) { /* without branches: matches no text, or fails */
        node *yes = pattern_new_node(pat, NODE_EMPTY, start),
             *no = pattern_new_node(pat, NODE_AHEAD, start);
        if (yes == NULL || no == NULL) return -1;
        node *nothing = pattern_new_node(pat, NODE_EMPTY, start);
        if (nothing == NULL) return -1;
        no->negated = true;
        pattern_append(no, nothing);
        pattern_append(*out, yes);
        pattern_append(*out, no);
        return 0;
    }
    bool no_then = pattern_take(pat, '|');
    node *body;
    if (inside(pat, start, true, &body) != 0) return -1;
    if (no_then) {
        node *yes = pattern_new_node(pat, NODE_EMPTY, start);
        if (yes == NULL) return -1;
        pattern_append(*out, yes);
        pattern_append(*out, body);
        return 0;
    }
    if (body->kind != NODE_CHOICE) {
        pattern_append(*out, body);
        return 0;
    }
    node *yes = body->first;
    body->first = yes->next;
    pattern_append(*out, yes);
    pattern_append(*out, body);
    return 0;
}

static unsigned option_of(uint32_t letter) {
    switch (letter) {
    case 'i': return OPTION_I;
    case 'm': return OPTION_M;
    case 'x': return OPTION_X;
    case 'W': return OPTION_W;
    case 'D': return OPTION_D;
    case 'S': return OPTION_S;
    case 'P': return OPTION_P;
    default: return 0;
    }
}

/* (?i) applies to the end of the enclosing group, (?i:...) to its own content. */
static int option_group(pattern *pat, size_t start, node **out) {
    unsigned options = pat->options, before = pat->options;
    bool off = false;
    uint32_t letter;
    for (;;) {
        if (!pattern_next(pat, &letter))
            return pattern_wrong(pat, start, "a group without its ')'");
        if (letter == ':' || letter == ')') break;
        unsigned one = option_of(letter);
        if (letter == '-') off = true;
        else if (one) options = off ? options & ~one : options | one;
        else if (letter == 'y' || letter == 'C' || letter == 'I' || letter == 'L')
            return pattern_unknown(pat, start, "the option (?%c", (char)letter);
        else return pattern_wrong(pat, start, "an unknown option");
    }
    if ((*out = pattern_new_node(pat, NODE_GROUP, start)) == NULL) return -1;
    node *body;
    pat->options = options;
    int rc = letter == ':' ? inside(pat, start, false, &body) : deeper(pat, start, false, &body);
    pat->options = before;
    if (rc != 0) return -1;
    pattern_append(*out, body);
    return 0;
}

int pattern_group(pattern *pat, size_t start, bool *plain, node **out) {
    if (pattern_at(pat, '*')) return pattern_unknown(pat, start, "the callout (*");
    if (!pattern_take(pat, '?')) return capture(pat, start, 0, out);
    if (pat->at == pat->len) return pattern_wrong(pat, start, "a group without its ')'");
    switch (pat->text[pat->at++]) {
    case ':': *plain = true; return inside(pat, start, false, out);
    case '=': return group_of(pat, NODE_AHEAD, false, start, out);
    case '!': return group_of(pat, NODE_AHEAD, true, start, out);
    case '>': pat->atomic = true; return group_of(pat, NODE_ATOMIC, false, start, out);
    case '\'': return capture(pat, start, '\'', out);
    case '<':
        if (pattern_take(pat, '=')) return group_of(pat, NODE_BEHIND, false, start, out);
        if (pattern_take(pat, '!')) return group_of(pat, NODE_BEHIND, true, start, out);
        return capture(pat, start, '>', out);
    case '~': return pattern_unknown(pat, start, "the absent operator (?~");
    case '{': return pattern_unknown(pat, start, "the callout (?{");
    case '(': return condition(pat, start, out);
    default: pat->at--; return option_group(pat, start, out);
    }
}
