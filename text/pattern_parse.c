/* pattern_parse.c - Oniguruma's default syntax read into a tree: groups, options, anchors,
 * quantifiers. The rules, and even their order, are that library's, version 6.9.10. */
#include "base/size.h"
#include "base/utf8.h"
#include "text/pattern_tree_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

static int complain(pattern *p, size_t at, bool unknown, const char *fmt, va_list args) {
    char thing[200];
    (void)vsnprintf(thing, sizeof thing, fmt, args);
    return err_set(p->e, ERR_BAD_FILE, NULL, "%s: %s at byte %zu%s", p->what, thing, at,
                   unknown ? " is not known" : "");
}

int pattern_unknown(pattern *p, size_t at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)complain(p, at, true, fmt, args);
    va_end(args);
    return -1;
}

int pattern_wrong(pattern *p, size_t at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)complain(p, at, false, fmt, args);
    va_end(args);
    return -1;
}

int pattern_full(pattern *p) {
    if (p->tree.used < p->tree.max / 2)
        return err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory", p->what);
    return err_set(p->e, ERR_BAD_FILE, NULL, "%s: takes more than %d MB", p->what,
                   PATTERN_TREE_BYTES >> 20);
}

/* ---- characters ---- */

bool pattern_next(pattern *p, uint32_t *c) {
    if (p->at == p->n) return false;
    const unsigned char *s = (const unsigned char *)p->text + p->at;
    size_t len = utf8_length(*s);
    uint32_t v = len == 1 ? *s : *s & (0x7fU >> len);
    for (size_t i = 1; i < len; i++)
        v = v << 6 | (s[i] & 0x3fU);
    p->at += len;
    *c = v;
    return true;
}

bool pattern_at(const pattern *p, char c) {
    return p->at < p->n && p->text[p->at] == c;
}

static bool take(pattern *p, char c) {
    if (!pattern_at(p, c)) return false;
    p->at++;
    return true;
}

static bool at_digit(const pattern *p) {
    return p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9';
}

static int digit_value(char c, unsigned base) {
    int v = c >= '0' && c <= '9'   ? c - '0'
            : c >= 'a' && c <= 'f' ? c - 'a' + 10
            : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                   : 99;
    return v < (int)base ? v : -1;
}

/* At most `most` digits; *n is how many there were. Too large a number stays the largest. */
static uint32_t number(pattern *p, unsigned base, size_t most, size_t *n) {
    uint64_t v = 0;
    for (*n = 0; *n < most && p->at < p->n; ++*n, p->at++) {
        int d = digit_value(p->text[p->at], base);
        if (d < 0) break;
        v = v * base + (unsigned)d;
        if (v > UINT32_MAX) v = UINT32_MAX;
    }
    return (uint32_t)v;
}

static int in_braces(pattern *p, size_t start, unsigned base, uint32_t *c) {
    size_t n;
    *c = number(p, base, base == 16 ? 8 : 11, &n);
    if (n == 0) return pattern_unknown(p, start, "a code point without digits");
    if (p->at == p->n || digit_value(p->text[p->at], base == 16 ? 16 : 10) >= 0)
        return pattern_wrong(p, start, "a code point of too many digits or without its '}'");
    if (!take(p, '}')) return pattern_unknown(p, start, "a list of code points");
    return 0;
}

/* The byte has been read; more of them must follow until it is a character. */
static int whole_character(pattern *p, size_t start, uint32_t byte, uint32_t *c) {
    char bytes[4] = {(char)byte};
    size_t len = utf8_length((unsigned char)byte), n;
    if (len == 0) return pattern_unknown(p, start, "a byte that begins no character");
    for (size_t i = 1; i < len; i++) {
        bool hex = p->at + 1 < p->n && p->text[p->at] == '\\' && p->text[p->at + 1] == 'x';
        if (!hex && !pattern_at(p, '\\'))
            return pattern_wrong(p, start, "bytes that are no character");
        p->at += hex ? 2 : 1;
        uint32_t v = number(p, hex ? 16 : 8, hex ? 2 : 3, &n);
        if (n == 0 || v > 0xff) return pattern_wrong(p, start, "bytes that are no character");
        bytes[i] = (char)v;
    }
    if (utf8_char(bytes, len) != len) return pattern_wrong(p, start, "bytes that are no character");
    pattern spelled = {.text = bytes, .n = len};
    (void)pattern_next(&spelled, c);
    return 0;
}

int pattern_numbered(pattern *p, size_t start, uint32_t kind, bool in_class, uint32_t *c) {
    size_t n;
    uint32_t v;
    switch (kind) {
    case 'u':
        v = number(p, 16, 4, &n);
        if (n < 4) return pattern_wrong(p, start, "\\u without four digits");
        break;
    case 'x':
    case 'o':
        if (p->at == p->n || (kind == 'o' && !pattern_at(p, '{'))) {
            *c = kind;
            return 0;
        }
        if (take(p, '{')) {
            if (in_braces(p, start, kind == 'x' ? 16 : 8, &v) != 0) return -1;
            break;
        }
        v = number(p, 16, 2, &n);
        return whole_character(p, start, v, c);
    default:
        p->at--; /* the digit itself */
        v = number(p, 8, 3, &n);
        if (v > 0xff) return pattern_wrong(p, start, "an octal number over 377");
        return whole_character(p, start, v, c);
    }
    if (!in_class && v >= UNICODE_END) return pattern_unknown(p, start, "a code point over 10ffff");
    if (!in_class && v >= 0xd800 && v < 0xe000)
        return pattern_unknown(p, start, "a surrogate code point");
    *c = v;
    return 0;
}

/* \cX and \C-X, where X may be another of these or \M-X. */
int pattern_escaped_value(pattern *p, uint32_t *c) {
    size_t start = p->at - 1;
    bool control = false, meta = false;
    uint32_t v = 0;
    for (unsigned nested = 0;; nested++) {
        if (nested == 8) return pattern_unknown(p, start, "control in control");
        if (!pattern_next(p, &v)) return pattern_wrong(p, start, "an escape without a character");
        if (v != 'c' && v != 'C' && v != 'M') break;
        if (v != 'c' && !take(p, '-'))
            return pattern_wrong(p, start, "\\%c without its hyphen", (char)v);
        if (meta || (control && v != 'M')) return pattern_unknown(p, start, "control in control");
        if (v == 'M') meta = true;
        else control = true;
        if (!take(p, '\\')) {
            if (!pattern_next(p, &v))
                return pattern_wrong(p, start, "an escape without a character");
            goto plain;
        }
    }
    static const char from[] = "ntrfabev", to[] = "\n\t\r\f\a\b\x1b\v";
    const char *known = v < 0x80 && v ? strchr(from, (char)v) : NULL;
    if (known) v = (unsigned char)to[known - from];
plain:
    if (meta) v = (v & 0xff) | 0x80;
    if (control) v = v == '?' && !meta ? 0x7f : v & 0x9f;
    *c = v;
    return 0;
}

/* ---- nodes ---- */

static node *new_node(pattern *p, node_kind kind, size_t at) {
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

static void append(node *parent, node *child) {
    if (parent->first) parent->last->next = child;
    else parent->first = child;
    parent->last = child;
    child->next = NULL;
}

static node *string_of(pattern *p, size_t at, uint32_t c) {
    node *n = new_node(p, NODE_STRING, at);
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
    if ((*out = new_node(p, NODE_SET, at)) == NULL) return -1;
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
            if (!take(p, ')')) return pattern_wrong(p, start, "a comment without its ')'");
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
    uint32_t low = number(p, 10, SIZE_MAX, &low_digits), high = low;
    bool comma = take(p, ',');
    if (comma) high = number(p, 10, SIZE_MAX, &high_digits);
    bool valid = take(p, '}') && low_digits + high_digits > 0;
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
    } else if (take(p, '*')) {
        *q = (quantifier){.min = 0, .max = PATTERN_FOREVER};
    } else if (take(p, '+')) {
        *q = (quantifier){.min = 1, .max = PATTERN_FOREVER};
    } else if (take(p, '?')) {
        *q = (quantifier){.min = 0, .max = 1};
    } else {
        return 0;
    }
    if (!q->possessive && !q->fixed && take(p, '?')) q->lazy = true;
    else if (!q->interval && take(p, '+')) q->possessive = true;
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
        node *repeat = new_node(p, NODE_REPEAT, at);
        if (repeat == NULL) return -1;
        append(repeat, target);
        repeat->min = q.min;
        repeat->max = q.max;
        repeat->lazy = q.lazy;
        repeat->possessive = q.possessive;
        target = repeat;
        group = false;
    }
    *out = target;
    if (before == NULL) return 0;
    node *both = new_node(p, NODE_SEQUENCE, before->at);
    if (both == NULL) return -1;
    append(both, before);
    append(both, target);
    *out = both;
    return 0;
}

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
    if (relative || at_digit(p)) {
        size_t n;
        uint32_t v = number(p, 10, SIZE_MAX, &n);
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
    if (!take(p, end) || (r->name && r->len == 0))
        return pattern_wrong(p, start, "a reference to no group");
    return 0;
}

static int reference_node(pattern *p, node_kind kind, size_t start, char end, node **out) {
    reference r;
    if (read_reference(p, start, end, &r) != 0) return -1;
    if ((*out = new_node(p, kind, start)) == NULL) return -1;
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

static int choice(pattern *p, bool group_head, node **out);

static int deeper(pattern *p, size_t start, bool group_head, node **out) {
    if (p->depth == PATTERN_DEPTH)
        return pattern_unknown(p, start, "the group inside %d others", PATTERN_DEPTH);
    p->depth++;
    int rc = choice(p, group_head, out);
    p->depth--;
    return rc;
}

static int inside(pattern *p, size_t start, bool group_head, node **out) {
    if (deeper(p, start, group_head, out) != 0) return -1;
    if (!take(p, ')')) return pattern_wrong(p, start, "a group without its ')'");
    return 0;
}

static int group_of(pattern *p, node_kind kind, bool negated, size_t start, node **out) {
    node *body;
    if ((*out = new_node(p, kind, start)) == NULL) return -1;
    (*out)->negated = negated;
    if (inside(p, start, false, &body) != 0) return -1;
    append(*out, body);
    return 0;
}

static int capture(pattern *p, size_t start, char end, node **out) {
    const char *name = NULL;
    size_t len = 0;
    if (end) {
        reference r;
        if (at_digit(p) || pattern_at(p, '-') || pattern_at(p, '+'))
            return pattern_wrong(p, start, "a group's name that is none");
        if (read_reference(p, start, end, &r) != 0) return -1;
        name = r.name;
        len = r.len;
    }
    p->groups++;
    if (name && add_name(p, name, len) != 0) return -1;
    if ((*out = new_node(p, NODE_CAPTURE, start)) == NULL) return -1;
    (*out)->name = name;
    (*out)->group = name ? p->named : p->groups;
    node *body;
    if (inside(p, start, false, &body) != 0) return -1;
    append(*out, body);
    return 0;
}

/* (?(1)yes|no) */
static int condition(pattern *p, size_t start, node **out) {
    char end = take(p, '<') ? '>' : take(p, '\'') ? '\'' : ')';
    if (end == ')' && !at_digit(p) && !pattern_at(p, '-') && !pattern_at(p, '+'))
        return pattern_unknown(p, start, "a condition that is no group's number or name");
    if (reference_node(p, NODE_CONDITION, start, end, out) != 0) return -1;
    if (end != ')' && !take(p, ')')) return pattern_wrong(p, start, "a condition without its ')'");
    if (take(p, ')')) { /* a mere check: then nothing, else no match */
        node *yes = new_node(p, NODE_EMPTY, start), *no = new_node(p, NODE_AHEAD, start);
        if (yes == NULL || no == NULL) return -1;
        node *nothing = new_node(p, NODE_EMPTY, start);
        if (nothing == NULL) return -1;
        no->negated = true;
        append(no, nothing);
        append(*out, yes);
        append(*out, no);
        return 0;
    }
    bool no_then = take(p, '|');
    node *body;
    if (inside(p, start, true, &body) != 0) return -1;
    if (no_then) {
        node *yes = new_node(p, NODE_EMPTY, start);
        if (yes == NULL) return -1;
        append(*out, yes);
        append(*out, body);
        return 0;
    }
    if (body->kind != NODE_CHOICE) {
        append(*out, body);
        return 0;
    }
    node *yes = body->first;
    body->first = yes->next;
    append(*out, yes);
    append(*out, body);
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
    if ((*out = new_node(p, NODE_GROUP, start)) == NULL) return -1;
    node *body;
    p->options = options;
    int rc = c == ':' ? inside(p, start, false, &body) : deeper(p, start, false, &body);
    p->options = before;
    if (rc != 0) return -1;
    append(*out, body);
    return 0;
}

/* Behind the parenthesis. *plain: (?:...), which is what it holds. */
static int group(pattern *p, size_t start, bool *plain, node **out) {
    if (pattern_at(p, '*')) return pattern_unknown(p, start, "the callout (*");
    if (!take(p, '?')) return capture(p, start, 0, out);
    if (p->at == p->n) return pattern_wrong(p, start, "a group without its ')'");
    switch (p->text[p->at++]) {
    case ':': *plain = true; return inside(p, start, false, out);
    case '=': return group_of(p, NODE_AHEAD, false, start, out);
    case '!': return group_of(p, NODE_AHEAD, true, start, out);
    case '>': p->atomic = true; return group_of(p, NODE_ATOMIC, false, start, out);
    case '\'': return capture(p, start, '\'', out);
    case '<':
        if (take(p, '=')) return group_of(p, NODE_BEHIND, false, start, out);
        if (take(p, '!')) return group_of(p, NODE_BEHIND, true, start, out);
        return capture(p, start, '>', out);
    case '~': return pattern_unknown(p, start, "the absent operator (?~");
    case '{': return pattern_unknown(p, start, "the callout (?{");
    case '(': return condition(p, start, out);
    default: p->at--; return option_group(p, start, out);
    }
}

/* ---- escapes ---- */

static int anchor(pattern *p, node_kind kind, size_t start, node **out) {
    *out = new_node(p, kind, start);
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
        uint32_t v = number(p, 10, SIZE_MAX, &n);
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
        if (take(p, '{')) {
            text__set set;
            bool negated = (*c == 'P') != take(p, '^');
            if (pattern_property(p, start, false, &set) != 0) return -1;
            return set_node(p, start, set, negated, out);
        }
        *plain = true;
        return 0;
    case 'k':
    case 'g':
        if (pattern_at(p, '<') || pattern_at(p, '\'')) {
            char end = take(p, '<') ? '>' : '\'';
            if (end == '\'') p->at++;
            return reference_node(p, *c == 'k' ? NODE_BACK_REFERENCE : NODE_CALL, start, end, out);
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
        if (group(p, start, &plain, out) != 0) return -1;
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
        node *kept = new_node(p, NODE_GROUP, start);
        if (kept == NULL) return -1;
        append(kept, before);
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
        *out = new_node(p, NODE_EMPTY, p->at);
        return *out ? 0 : -1;
    }
    if (expression(p, group_head, &one) != 0) return -1;
    for (*out = one;;) {
        if (skip_ignored(p) != 0) return -1;
        if (ended(p)) return 0;
        if (all == NULL) {
            if ((all = new_node(p, NODE_SEQUENCE, one->at)) == NULL) return -1;
            append(all, one);
            *out = all;
        }
        if (expression(p, false, &one) != 0) return -1;
        for (node *next, *n = one->kind == NODE_SEQUENCE ? one->first : one; n; n = next) {
            next = n->next;
            append(all, n);
            if (n == one) break;
        }
    }
}

static int choice(pattern *p, bool group_head, node **out) {
    unsigned before = p->options;
    node *all = NULL;
    if (sequence(p, group_head, out) != 0) return -1;
    while (take(p, '|')) {
        if (all == NULL) {
            if ((all = new_node(p, NODE_CHOICE, (*out)->at)) == NULL) return -1;
            append(all, *out);
        }
        node *one;
        if (sequence(p, false, &one) != 0) return -1;
        append(all, one);
        *out = all;
    }
    p->options = before;
    return 0;
}

int pattern_parse(pattern *p, node **root) {
    if (!utf8_valid(p->text, p->n))
        return err_set(p->e, ERR_BAD_FILE, NULL, "%s: not UTF-8", p->what);
    if (choice(p, false, root) != 0) return -1;
    if (p->at < p->n) return pattern_wrong(p, p->at, "a ')' without its group");
    return 0;
}
