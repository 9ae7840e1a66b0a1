/* pattern_group.c - the groups of a pattern: what stands behind a parenthesis, and how other places
 * refer to it. */
#include "text/pattern_tree_internal.h"

#include <string.h>

/* ---- names and numbers of groups ---- */

typedef struct {
    const char *name; /* NULL: a number */
    size_t len;
    uint32_t number;
} reference;

/* Up to `end`, behind which it leaves p->at. */
static int read_reference(pattern *p, size_t start, char end, reference *r) {
    bool minus = pattern_at(p, '-'), relative = minus || pattern_at(p, '+');
    if (relative) p->at++;
    *r = (reference){.name = p->text + p->at};
    if (relative || pattern_at_digit(p)) {
        size_t n;
        uint32_t v = pattern_number(p, 10, SIZE_MAX, &n);
        r->name = NULL;
        if (n == 0 || v > PATTERN_MAX || (relative && v == 0) ||
            (minus && v > p->groups)) /* there are not so many */
            return pattern_wrong(p, start, "a reference to no group");
        r->number = minus ? p->groups + 1 - v : relative ? p->groups + v : v;
    } else {
        while (p->at < p->n && p->text[p->at] && !strchr(">')+-", p->text[p->at]))
            p->at++;
        r->len = (size_t)(p->text + p->at - r->name);
    }
    if (pattern_at(p, '+') || pattern_at(p, '-'))
        return pattern_unknown(p, start, "a reference with a level");
    if (!pattern_take(p, end) || (r->name && r->len == 0))
        return pattern_wrong(p, start, "a reference to no group");
    return 0;
}

int pattern_reference(pattern *p, node_kind kind, size_t start, char end, node **out) {
    reference r;
    if (read_reference(p, start, end, &r) != 0) return -1;
    if ((*out = pattern_new_node(p, kind, start)) == NULL) return -1;
    (*out)->name = r.name;
    (*out)->name_len = r.len;
    (*out)->group = r.number;
    if (kind == NODE_CALL) p->calls = true;
    else p->refers = true;
    return 0;
}

static int add_name(pattern *p, const char *name, size_t len) {
    if (p->named == p->names_cap) {
        size_t cap = p->names_cap ? 2 * p->names_cap : 8;
        pattern_name *more = arena_array(&p->tree, cap, sizeof *more);
        if (more == NULL) return pattern_full(p);
        if (p->named) memcpy(more, p->names, p->named * sizeof *more);
        p->names = more;
        p->names_cap = cap;
    }
    pattern_name *n = &p->names[p->named++];
    *n = (pattern_name){name, len, p->named, false};
    for (pattern_name *other = p->names; other < n; other++) {
        if (other->len == len && memcmp(other->name, name, len) == 0) other->twice = true;
    }
    return 0;
}

/* ---- groups ---- */

static int deeper(pattern *p, size_t start, bool group_head, node **out) {
    if (p->depth == PATTERN_DEPTH)
        return pattern_unknown(p, start, "the group inside %d others", PATTERN_DEPTH);
    p->depth++;
    int rc = pattern_choice(p, group_head, out);
    p->depth--;
    return rc;
}

static int inside(pattern *p, size_t start, bool group_head, node **out) {
    if (deeper(p, start, group_head, out) != 0) return -1;
    if (!pattern_take(p, ')')) return pattern_wrong(p, start, "a group without its ')'");
    return 0;
}

static int group_of(pattern *p, node_kind kind, bool negated, size_t start, node **out) {
    node *body;
    if ((*out = pattern_new_node(p, kind, start)) == NULL) return -1;
    (*out)->negated = negated;
    if (inside(p, start, false, &body) != 0) return -1;
    pattern_append(*out, body);
    return 0;
}

static int capture(pattern *p, size_t start, char end, node **out) {
    const char *name = NULL;
    size_t len = 0;
    if (end) {
        reference r;
        if (pattern_at_digit(p) || pattern_at(p, '-') || pattern_at(p, '+'))
            return pattern_wrong(p, start, "a group's name that is none");
        if (read_reference(p, start, end, &r) != 0) return -1;
        name = r.name;
        len = r.len;
    }
    p->groups++;
    if (name && add_name(p, name, len) != 0) return -1;
    if ((*out = pattern_new_node(p, NODE_CAPTURE, start)) == NULL) return -1;
    (*out)->name = name;
    (*out)->group = name ? p->named : p->groups;
    node *body;
    if (inside(p, start, false, &body) != 0) return -1;
    pattern_append(*out, body);
    return 0;
}

/* (?(1)yes|no) */
static int condition(pattern *p, size_t start, node **out) {
    char end = pattern_take(p, '<') ? '>' : pattern_take(p, '\'') ? '\'' : ')';
    if (end == ')' && !pattern_at_digit(p) && !pattern_at(p, '-') && !pattern_at(p, '+'))
        return pattern_unknown(p, start, "a condition that is no group's number or name");
    if (pattern_reference(p, NODE_CONDITION, start, end, out) != 0) return -1;
    if (end != ')' && !pattern_take(p, ')'))
        return pattern_wrong(p, start, "a condition without its ')'");
    if (pattern_take(p, ')')) { /* a mere check: then nothing, else no match */
        node *yes = pattern_new_node(p, NODE_EMPTY, start),
             *no = pattern_new_node(p, NODE_AHEAD, start);
        if (yes == NULL || no == NULL) return -1;
        node *nothing = pattern_new_node(p, NODE_EMPTY, start);
        if (nothing == NULL) return -1;
        no->negated = true;
        pattern_append(no, nothing);
        pattern_append(*out, yes);
        pattern_append(*out, no);
        return 0;
    }
    bool no_then = pattern_take(p, '|');
    node *body;
    if (inside(p, start, true, &body) != 0) return -1;
    if (no_then) {
        node *yes = pattern_new_node(p, NODE_EMPTY, start);
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

static unsigned option_of(uint32_t c) {
    switch (c) {
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

/* (?i) reaches to the end of the group it stands in, (?i:...) over its own. */
static int option_group(pattern *p, size_t start, node **out) {
    unsigned options = p->options, before = p->options;
    bool off = false;
    uint32_t c;
    for (;;) {
        if (!pattern_next(p, &c)) return pattern_wrong(p, start, "a group without its ')'");
        if (c == ':' || c == ')') break;
        unsigned one = option_of(c);
        if (c == '-') off = true;
        else if (one) options = off ? options & ~one : options | one;
        else if (c == 'y' || c == 'C' || c == 'I' || c == 'L')
            return pattern_unknown(p, start, "the option (?%c", (char)c);
        else return pattern_wrong(p, start, "an option that is none");
    }
    if ((*out = pattern_new_node(p, NODE_GROUP, start)) == NULL) return -1;
    node *body;
    p->options = options;
    int rc = c == ':' ? inside(p, start, false, &body) : deeper(p, start, false, &body);
    p->options = before;
    if (rc != 0) return -1;
    pattern_append(*out, body);
    return 0;
}

/* Behind the parenthesis. *plain: (?:...), which is what it holds. */
int pattern_group(pattern *p, size_t start, bool *plain, node **out) {
    if (pattern_at(p, '*')) return pattern_unknown(p, start, "the callout (*");
    if (!pattern_take(p, '?')) return capture(p, start, 0, out);
    if (p->at == p->n) return pattern_wrong(p, start, "a group without its ')'");
    switch (p->text[p->at++]) {
    case ':': *plain = true; return inside(p, start, false, out);
    case '=': return group_of(p, NODE_AHEAD, false, start, out);
    case '!': return group_of(p, NODE_AHEAD, true, start, out);
    case '>': p->atomic = true; return group_of(p, NODE_ATOMIC, false, start, out);
    case '\'': return capture(p, start, '\'', out);
    case '<':
        if (pattern_take(p, '=')) return group_of(p, NODE_BEHIND, false, start, out);
        if (pattern_take(p, '!')) return group_of(p, NODE_BEHIND, true, start, out);
        return capture(p, start, '>', out);
    case '~': return pattern_unknown(p, start, "the absent operator (?~");
    case '{': return pattern_unknown(p, start, "the callout (?{");
    case '(': return condition(p, start, out);
    default: p->at--; return option_group(p, start, out);
    }
}
