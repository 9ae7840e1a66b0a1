/* pattern_parse.c - Oniguruma's default syntax read into a tree: quantifiers, escapes, anchors,
 * what stands beside each other. The rules, and even their order, are that library's,
 * version 6.9.10. */
#include "base/utf8.h"
#include "text/pattern_tree_internal.h"

#include <string.h>

/* ---- nodes ---- */

node *pattern_new_node(pattern *p, node_kind kind, size_t at) {
    node *n = arena_alloc(&p->tree, sizeof *n);
    if (n == NULL) {
        (void)pattern_full(p);
        return NULL;
    }
    n->kind = kind;
    n->at = at;
    n->icase = p->options & OPTION_I;
    return n;
}

void pattern_append(node *parent, node *child) {
    if (parent->first) parent->last->next = child;
    else parent->first = child;
    parent->last = child;
    child->next = NULL;
}

static node *string_of(pattern *p, size_t at, uint32_t c) {
    node *n = pattern_new_node(p, NODE_STRING, at);
    if (n == NULL) return NULL;
    n->string = arena_alloc(&p->tree, sizeof *n->string);
    if (n->string == NULL) {
        (void)pattern_full(p);
        return NULL;
    }
    n->string[0] = c;
    n->n = 1;
    return n;
}

static int set_node(pattern *p, size_t at, text__set set, bool negated, node **out) {
    if ((*out = pattern_new_node(p, NODE_SET, at)) == NULL) return -1;
    if (p->tree.failed) return pattern_full(p);
    (*out)->set = set;
    (*out)->negated = negated;
    (*out)->icase = false;
    return 0;
}

/* ---- what means nothing ---- */

/* Comments, and under (?x) blanks and comments of its kind. */
static int skip_ignored(pattern *p) {
    while (p->at < p->n) {
        const char *s = p->text + p->at;
        if (p->n - p->at >= 3 && memcmp(s, "(?#", 3) == 0) {
            size_t start = p->at;
            for (p->at += 3; p->at < p->n && p->text[p->at] != ')'; p->at++) {
                if (p->text[p->at] == '\\' && p->at + 1 < p->n) p->at++;
            }
            if (!pattern_take(p, ')')) return pattern_wrong(p, start, "a comment without its ')'");
        } else if ((p->options & OPTION_X) && *s && strchr(" \t\n\r\f", *s)) {
            p->at++;
        } else if ((p->options & OPTION_X) && *s == '#') {
            while (p->at < p->n && p->text[p->at++] != '\n')
                ;
        } else {
            break;
        }
    }
    return 0;
}

/* ---- quantifiers ---- */

typedef struct {
    int min, max;
    bool lazy, possessive, interval, fixed;
} quantifier;

/* {n}, {n,}, {,m}, {n,m}: 1, and beyond it; 0: only a brace. */
static int interval(pattern *p, quantifier *q) {
    size_t start = p->at, low_digits, high_digits = 0;
    p->at++;
    uint32_t low = pattern_number(p, 10, SIZE_MAX, &low_digits), high = low;
    bool comma = pattern_take(p, ',');
    if (comma) high = pattern_number(p, 10, SIZE_MAX, &high_digits);
    bool valid = pattern_take(p, '}') && low_digits + high_digits > 0;
    if ((low_digits && low > PATTERN_REPEAT_LIMIT) || (high_digits && high > PATTERN_REPEAT_LIMIT))
        return pattern_wrong(p, start, "a repeat of over %d", PATTERN_REPEAT_LIMIT);
    if (!valid) {
        p->at = start;
        return 0;
    }
    if (low > PATTERN_REPEAT_MAX || (high_digits && high > PATTERN_REPEAT_MAX))
        return pattern_unknown(p, start, "a repeat of over %d", PATTERN_REPEAT_MAX);
    bool forever = comma && high_digits == 0;
    *q = (quantifier){.min = (int)low, .max = forever ? PATTERN_FOREVER : (int)high};
    q->interval = true;
    q->fixed = !comma;
    if (!forever && low > high) { /* the reference's way to write a possessive one */
        q->min = (int)high;
        q->max = (int)low;
        q->possessive = true;
    }
    return 1;
}

/* 1: there was a quantifier. A + behind an interval is not part of it, nor a ? behind {n}. */
static int read_quantifier(pattern *p, quantifier *q) {
    if (skip_ignored(p) != 0) return -1;
    if (pattern_at(p, '{')) {
        int rc = interval(p, q);
        if (rc <= 0) return rc;
    } else if (pattern_take(p, '*')) {
        *q = (quantifier){.min = 0, .max = PATTERN_FOREVER};
    } else if (pattern_take(p, '+')) {
        *q = (quantifier){.min = 1, .max = PATTERN_FOREVER};
    } else if (pattern_take(p, '?')) {
        *q = (quantifier){.min = 0, .max = 1};
    } else {
        return 0;
    }
    if (!q->possessive && !q->fixed && pattern_take(p, '?')) q->lazy = true;
    else if (!q->interval && pattern_take(p, '+')) q->possessive = true;
    return 1;
}

static bool is_anchor(const node *n) {
    switch (n->kind) {
    case NODE_AHEAD:
    case NODE_BEHIND:
    case NODE_LINE_START:
    case NODE_LINE_END:
    case NODE_TEXT_START:
    case NODE_TEXT_END:
    case NODE_TEXT_END_OR_LINE:
    case NODE_SEARCH_START:
    case NODE_WORD_EDGE:
    case NODE_KEEP: return true;
    default: return false;
    }
}

/* Of a string that is no group only the last character is repeated: *before becomes the rest. */
static int split_last(pattern *p, node **target, node **before) {
    node *all = *target, *last = string_of(p, all->at, all->string[all->n - 1]);
    if (last == NULL) return -1;
    last->icase = all->icase;
    all->n--;
    *before = all;
    *target = last;
    return 0;
}

static int quantified(pattern *p, node **out, bool group) {
    node *target = *out, *before = NULL;
    quantifier q;
    for (unsigned depth = p->depth;; depth++) {
        size_t at = p->at;
        int rc = read_quantifier(p, &q);
        if (rc < 0) return -1;
        if (rc == 0) break;
        if (is_anchor(target)) return pattern_wrong(p, at, "a repeat of what matches no text");
        if (depth >= PATTERN_DEPTH)
            return pattern_unknown(p, at, "the quantifier inside %d others", PATTERN_DEPTH);
        if (q.min == 1 && q.max == 1 && !q.possessive) { /* (?:ab){1}? is ab? to the reference */
            group = false;
            continue;
        }
        if (target->kind == NODE_STRING && target->n > 1 && !group &&
            split_last(p, &target, &before) != 0)
            return -1;
        node *repeat = pattern_new_node(p, NODE_REPEAT, at);
        if (repeat == NULL) return -1;
        pattern_append(repeat, target);
        repeat->min = q.min;
        repeat->max = q.max;
        repeat->lazy = q.lazy;
        repeat->possessive = q.possessive;
        bool one = target->kind == NODE_SET || target->kind == NODE_STRING;
        if (q.possessive && !one) p->atomic = true;
        target = repeat;
        group = false;
    }
    *out = target;
    if (before == NULL) return 0;
    node *both = pattern_new_node(p, NODE_SEQUENCE, before->at);
    if (both == NULL) return -1;
    pattern_append(both, before);
    pattern_append(both, target);
    *out = both;
    return 0;
}

/* ---- escapes ---- */

static int anchor(pattern *p, node_kind kind, size_t start, node **out) {
    *out = pattern_new_node(p, kind, start);
    return *out ? 0 : -1;
}

static int word_edge(pattern *p, size_t start, bool negated, node **out) {
    if (anchor(p, NODE_WORD_EDGE, start, out) != 0) return -1;
    (*out)->set = pattern_type(p, 'w', false);
    (*out)->negated = negated;
    return p->tree.failed ? pattern_full(p) : 0;
}

/* Any character, or all but a line feed. */
static int dot(pattern *p, size_t start, bool any, node **out) {
    text__ranges none = {0};
    if (!any) text__ranges_add(&p->tree, &none, '\n', '\n');
    return set_node(p, start, text__set_of(&p->tree, &none), true, out);
}

/* \1 to \9, and more where there are so many groups; else an octal number or a digit. */
static int digits(pattern *p, size_t start, uint32_t first, node **out) {
    uint32_t c = first;
    size_t n;
    if (first != '0') {
        p->at--;
        uint32_t v = pattern_number(p, 10, SIZE_MAX, &n);
        if (v <= 1000 && (v <= p->groups || v <= 9)) {
            if (anchor(p, NODE_BACK_REFERENCE, start, out) != 0) return -1;
            (*out)->group = v;
            p->refers = true;
            return 0;
        }
        p->at = start + 2;
    }
    if (first < '8' && pattern_numbered(p, start, first, false, &c) != 0) return -1;
    *out = string_of(p, start, c);
    return *out ? 0 : -1;
}

/* Behind the backslash at `start`. *plain: an ordinary character, *out is not set. */
static int escape(pattern *p, size_t start, bool *plain, uint32_t *c, node **out) {
    bool found = pattern_next(p, c);
    if (!found) return pattern_wrong(p, start, "a backslash at the end");
    switch (*c) {
    case 'w':
    case 'd':
    case 's':
    case 'h': return set_node(p, start, pattern_type(p, *c, false), false, out);
    case 'W':
    case 'D':
    case 'S':
    case 'H': return set_node(p, start, pattern_type(p, *c - 'A' + 'a', false), true, out);
    case 'b': return word_edge(p, start, false, out);
    case 'B': return word_edge(p, start, true, out);
    case 'A': return anchor(p, NODE_TEXT_START, start, out);
    case 'Z': return anchor(p, NODE_TEXT_END_OR_LINE, start, out);
    case 'z': return anchor(p, NODE_TEXT_END, start, out);
    case 'G': p->search_start = true; return anchor(p, NODE_SEARCH_START, start, out);
    case 'K': return anchor(p, NODE_KEEP, start, out);
    case 'R': p->atomic = true; return anchor(p, NODE_NEWLINE, start, out);
    case 'N': return dot(p, start, false, out);
    case 'O': return dot(p, start, true, out);
    case 'X':
    case 'y':
    case 'Y': return pattern_unknown(p, start, "\\%c", (char)*c);
    case 'p':
    case 'P':
        if (pattern_take(p, '{')) {
            text__set set;
            bool negated = (*c == 'P') != pattern_take(p, '^');
            if (pattern_property(p, start, false, &set) != 0) return -1;
            return set_node(p, start, set, negated, out);
        }
        *plain = true;
        return 0;
    case 'k':
    case 'g':
        if (pattern_at(p, '<') || pattern_at(p, '\'')) {
            char end = pattern_take(p, '<') ? '>' : '\'';
            if (end == '\'') p->at++;
            return pattern_reference(p, *c == 'k' ? NODE_BACK_REFERENCE : NODE_CALL, start, end,
                                     out);
        }
        *plain = true;
        return 0;
    case 'x':
    case 'u':
    case 'o':
        if ((*c != 'o' && p->at == p->n) || (*c == 'o' && !pattern_at(p, '{'))) {
            *plain = true;
            return 0;
        }
        if (pattern_numbered(p, start, *c, false, c) != 0) return -1;
        *out = string_of(p, start, *c);
        return *out ? 0 : -1;
    default: break;
    }
    if (*c >= '0' && *c <= '9') return digits(p, start, *c, out);
    uint32_t letter = *c;
    p->at = start + 1;
    if (pattern_escaped_value(p, c) != 0) return -1;
    *plain = *c == letter;
    if (*plain) return 0;
    *out = string_of(p, start, *c);
    return *out ? 0 : -1;
}

/* ---- expressions ---- */

/* An ordinary character at p->at, spelt as it is or behind a backslash: beyond it, and 1. */
static int plain_character(pattern *p, uint32_t *c) {
    size_t start = p->at;
    if (p->at == p->n) return 0;
    if (p->text[p->at] == '{') {
        quantifier q;
        int rc = interval(p, &q);
        if (rc != 0) {
            p->at = start;
            return rc < 0 ? -1 : 0;
        }
    } else if (p->text[p->at] && strchr(".*+?|()^$[", p->text[p->at])) {
        return 0;
    }
    (void)pattern_next(p, c);
    if (*c != '\\' || p->text[start] != '\\') return 1;
    uint32_t letter;
    if (p->at < p->n &&
        ((unsigned char)p->text[p->at] >= 0x80 ||
         strchr("wWdDsShHbBAZzGKRNOXyYpPkgxuo0123456789ntrfabevcCM", p->text[p->at]) == NULL)) {
        (void)pattern_next(p, &letter);
        *c = letter;
        return 1;
    }
    p->at = start;
    return 0;
}

/* As many ordinary characters as follow each other. */
static int run(pattern *p, size_t start, uint32_t c, node **out) {
    node *n = string_of(p, start, c);
    if (n == NULL) return -1;
    size_t cap = 1;
    for (;;) {
        if (skip_ignored(p) != 0) return -1;
        int rc = plain_character(p, &c);
        if (rc < 0) return -1;
        if (rc == 0) break;
        if (n->n == cap) {
            uint32_t *more = arena_array(&p->tree, cap *= 2, sizeof *more);
            if (more == NULL) return pattern_full(p);
            memcpy(more, n->string, n->n * sizeof *more);
            n->string = more;
        }
        n->string[n->n++] = c;
    }
    *out = n;
    return 0;
}

static int expression(pattern *p, bool group_head, node **out) {
    size_t start = p->at;
    uint32_t c = 0;
    bool plain = false;
    int rc = plain_character(p, &c);
    if (rc < 0) return -1;
    if (rc > 0) {
        if (run(p, start, c, out) != 0) return -1;
        return quantified(p, out, false);
    }
    switch (p->text[p->at++]) {
    case '\\':
        if (escape(p, start, &plain, &c, out) != 0) return -1;
        if (plain && run(p, start, c, out) != 0) return -1;
        plain = false;
        break;
    case '(':
        if (pattern_group(p, start, &plain, out) != 0) return -1;
        break;
    case '[': {
        text__set set;
        bool negated, icase = p->options & OPTION_I;
        if (pattern_class(p, start, &set, &negated) != 0) return -1;
        if (icase) set = text__set_fold(&p->tree, &set);
        if (set_node(p, start, set, negated, out) != 0) return -1;
        (*out)->icase = icase;
        break;
    }
    case '.':
        if (dot(p, start, p->options & OPTION_M, out) != 0) return -1;
        break;
    case '^':
        if (anchor(p, NODE_LINE_START, start, out) != 0) return -1;
        break;
    case '$':
        if (anchor(p, NODE_LINE_END, start, out) != 0) return -1;
        break;
    default: return pattern_wrong(p, start, "a repeat of nothing");
    }
    node *before = *out;
    if (quantified(p, out, plain) != 0) return -1;
    if (plain && group_head && *out == before) {
        node *kept = pattern_new_node(p, NODE_GROUP, start);
        if (kept == NULL) return -1;
        pattern_append(kept, before);
        *out = kept;
    }
    return 0;
}

static bool ended(const pattern *p) {
    return p->at == p->n || p->text[p->at] == '|' || p->text[p->at] == ')';
}

/* What stands one after another. A plain group that is not the first joins its neighbours. */
static int sequence(pattern *p, bool group_head, node **out) {
    node *one, *all = NULL;
    if (skip_ignored(p) != 0) return -1;
    if (ended(p)) {
        *out = pattern_new_node(p, NODE_EMPTY, p->at);
        return *out ? 0 : -1;
    }
    if (expression(p, group_head, &one) != 0) return -1;
    for (*out = one;;) {
        if (skip_ignored(p) != 0) return -1;
        if (ended(p)) return 0;
        if (all == NULL) {
            if ((all = pattern_new_node(p, NODE_SEQUENCE, one->at)) == NULL) return -1;
            pattern_append(all, one);
            *out = all;
        }
        if (expression(p, false, &one) != 0) return -1;
        for (node *next, *n = one->kind == NODE_SEQUENCE ? one->first : one; n; n = next) {
            next = n->next;
            pattern_append(all, n);
            if (n == one) break;
        }
    }
}

int pattern_choice(pattern *p, bool group_head, node **out) {
    unsigned before = p->options;
    node *all = NULL;
    if (sequence(p, group_head, out) != 0) return -1;
    while (pattern_take(p, '|')) {
        if (all == NULL) {
            if ((all = pattern_new_node(p, NODE_CHOICE, (*out)->at)) == NULL) return -1;
            pattern_append(all, *out);
        }
        node *one;
        if (sequence(p, false, &one) != 0) return -1;
        pattern_append(all, one);
        *out = all;
    }
    p->options = before;
    return 0;
}

int pattern_parse(pattern *p, node **root) {
    if (!utf8_valid(p->text, p->n))
        return err_set(p->e, ERR_BAD_FILE, NULL, "%s: not UTF-8", p->what);
    if (pattern_choice(p, false, root) != 0) return -1;
    if (p->at < p->n) return pattern_wrong(p, p->at, "a ')' without its group");
    return 0;
}
