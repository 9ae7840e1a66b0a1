/* pattern_parse.c - parses Oniguruma's default syntax into a tree: sequences, alternatives,
 * quantifiers, escapes, anchors. The rules and their order are those of version 6.9.10. */
#include "base/utf8.h"
#include "text/pattern_tree_internal.h"

#include <string.h>

/* ---- nodes ---- */

node *pattern_new_node(pattern *pat, node_kind kind, size_t at) {
    node *made = arena_alloc(&pat->tree, sizeof *made);
    if (made == NULL) {
        (void)pattern_full(pat);
        return NULL;
    }
    made->kind = kind;
    made->at = at;
    made->icase = pat->options & OPTION_I;
    return made;
}

void pattern_append(node *parent, node *child) {
    if (parent->first) parent->last->next = child;
    else parent->first = child;
    parent->last = child;
    child->next = NULL;
}

static node *string_of(pattern *pat, size_t at, uint32_t code) {
    node *made = pattern_new_node(pat, NODE_STRING, at);
    if (made == NULL) return NULL;
    made->string = arena_alloc(&pat->tree, sizeof *made->string);
    if (made->string == NULL) {
        (void)pattern_full(pat);
        return NULL;
    }
    made->string[0] = code;
    made->len = 1;
    return made;
}

static int set_node(pattern *pat, size_t at, text__set set, bool negated, node **out) {
    if ((*out = pattern_new_node(pat, NODE_SET, at)) == NULL) return -1;
    if (pat->tree.failed) return pattern_full(pat);
    (*out)->set = set;
    (*out)->negated = negated;
    (*out)->icase = false;
    return 0;
}

/* ---- ignored text ---- */

/* Skips comments and, under (?x), blanks and comments from # to the end of the line. */
static int skip_ignored(pattern *pat) {
    while (pat->at < pat->len) {
        const char *next = pat->text + pat->at;
        if (pat->len - pat->at >= 3 && memcmp(next, "(?#", 3) == 0) {
            size_t start = pat->at;
            for (pat->at += 3; pat->at < pat->len && pat->text[pat->at] != ')'; pat->at++) {
                if (pat->text[pat->at] == '\\' && pat->at + 1 < pat->len) pat->at++;
            }
            if (!pattern_take(pat, ')'))
                return pattern_wrong(pat, start, "a comment without its ')'");
        } else if ((pat->options & OPTION_X) && *next && strchr(" \t\n\r\f", *next)) {
            pat->at++;
        } else if ((pat->options & OPTION_X) && *next == '#') {
            while (pat->at < pat->len && pat->text[pat->at++] != '\n')
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

/* Takes {n}, {n,}, {,m} or {n,m} and returns 1; 0: the brace is an ordinary character. */
static int interval(pattern *pat, quantifier *quant) {
    size_t start = pat->at, low_digits, high_digits = 0;
    pat->at++;
    uint32_t low = pattern_number(pat, 10, SIZE_MAX, &low_digits), high = low;
    bool comma = pattern_take(pat, ',');
    if (comma) high = pattern_number(pat, 10, SIZE_MAX, &high_digits);
    bool valid = pattern_take(pat, '}') && low_digits + high_digits > 0;
    if ((low_digits && low > PATTERN_REPEAT_LIMIT) || (high_digits && high > PATTERN_REPEAT_LIMIT))
        return pattern_wrong(pat, start, "a repeat of more than %d times", PATTERN_REPEAT_LIMIT);
    if (!valid) {
        pat->at = start;
        return 0;
    }
    if (low > PATTERN_REPEAT_MAX || (high_digits && high > PATTERN_REPEAT_MAX))
        return pattern_unknown(pat, start, "a repeat of more than %d times", PATTERN_REPEAT_MAX);
    bool forever = comma && high_digits == 0;
    *quant = (quantifier){.min = (int)low, .max = forever ? PATTERN_FOREVER : (int)high};
    quant->interval = true;
    quant->fixed = !comma;
    if (!forever && low > high) { /* in the reference this means possessive */
        quant->min = (int)high;
        quant->max = (int)low;
        quant->possessive = true;
    }
    return 1;
}

/* 1: there was a quantifier. A + after an interval and a ? after {n} are not part of the
 * quantifier. */
static int read_quantifier(pattern *pat, quantifier *quant) {
    if (skip_ignored(pat) != 0) return -1;
    if (pattern_at(pat, '{')) {
        int rc = interval(pat, quant);
        if (rc <= 0) return rc;
    } else if (pattern_take(pat, '*')) {
        *quant = (quantifier){.min = 0, .max = PATTERN_FOREVER};
    } else if (pattern_take(pat, '+')) {
        *quant = (quantifier){.min = 1, .max = PATTERN_FOREVER};
    } else if (pattern_take(pat, '?')) {
        *quant = (quantifier){.min = 0, .max = 1};
    } else {
        return 0;
    }
    if (!quant->possessive && !quant->fixed && pattern_take(pat, '?')) quant->lazy = true;
    else if (!quant->interval && pattern_take(pat, '+')) quant->possessive = true;
    return 1;
}

static bool is_anchor(const node *part) {
    switch (part->kind) {
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

/* A quantifier after a string repeats its last character only. That becomes *target, the rest of
 * the string *before. */
static int split_last(pattern *pat, node **target, node **before) {
    node *all = *target, *last = string_of(pat, all->at, all->string[all->len - 1]);
    if (last == NULL) return -1;
    last->icase = all->icase;
    all->len--;
    *before = all;
    *target = last;
    return 0;
}

static int quantified(pattern *pat, node **out, bool group) {
    node *target = *out, *before = NULL;
    quantifier quant;
    for (unsigned depth = pat->depth;; depth++) {
        size_t at = pat->at;
        int rc = read_quantifier(pat, &quant);
        if (rc < 0) return -1;
        if (rc == 0) break;
        if (is_anchor(target))
            return pattern_wrong(pat, at, "a repeat of a part that matches no text");
        if (depth >= PATTERN_DEPTH)
            return pattern_unknown(pat, at, "a quantifier inside %d others", PATTERN_DEPTH);
        if (quant.min == 1 && quant.max == 1 &&
            !quant.possessive) { /* in the reference (?:ab){1}? is ab? */
            group = false;
            continue;
        }
        if (target->kind == NODE_STRING && target->len > 1 && !group &&
            split_last(pat, &target, &before) != 0)
            return -1;
        node *repeat = pattern_new_node(pat, NODE_REPEAT, at);
        if (repeat == NULL) return -1;
        pattern_append(repeat, target);
        repeat->min = quant.min;
        repeat->max = quant.max;
        repeat->lazy = quant.lazy;
        repeat->possessive = quant.possessive;
        bool one = target->kind == NODE_SET || target->kind == NODE_STRING;
        if (quant.possessive && !one) pat->atomic = true;
        target = repeat;
        group = false;
    }
    *out = target;
    if (before == NULL) return 0;
    node *both = pattern_new_node(pat, NODE_SEQUENCE, before->at);
    if (both == NULL) return -1;
    pattern_append(both, before);
    pattern_append(both, target);
    *out = both;
    return 0;
}

/* ---- escapes ---- */

static int anchor(pattern *pat, node_kind kind, size_t start, node **out) {
    *out = pattern_new_node(pat, kind, start);
    return *out ? 0 : -1;
}

static int word_edge(pattern *pat, size_t start, bool negated, node **out) {
    if (anchor(pat, NODE_WORD_EDGE, start, out) != 0) return -1;
    (*out)->set = pattern_type(pat, 'w', false);
    (*out)->negated = negated;
    return pat->tree.failed ? pattern_full(pat) : 0;
}

/* Any character, or (not any) every character but a line feed. */
static int dot(pattern *pat, size_t start, bool any, node **out) {
    text__ranges none = {0};
    if (!any) text__ranges_add(&pat->tree, &none, '\n', '\n');
    return set_node(pat, start, text__set_of(&pat->tree, &none), true, out);
}

/* A back-reference: \1 to \9, or a higher number if there are so many groups. Otherwise an octal
 * number or a digit. */
static int digits(pattern *pat, size_t start, uint32_t first, node **out) {
    uint32_t code = first;
    size_t n;
    if (first != '0') {
        pat->at--;
        uint32_t value = pattern_number(pat, 10, SIZE_MAX, &n);
        if (value <= 1000 && (value <= pat->groups || value <= 9)) {
            if (anchor(pat, NODE_BACK_REFERENCE, start, out) != 0) return -1;
            (*out)->group = value;
            pat->refers = true;
            return 0;
        }
        pat->at = start + 2;
    }
    if (first < '8' && pattern_numbered(pat, start, first, false, &code) != 0) return -1;
    *out = string_of(pat, start, code);
    return *out ? 0 : -1;
}

/* After the backslash at `start`. *plain: an ordinary character in *code; *out is not set. */
static int escape(pattern *pat, size_t start, bool *plain, uint32_t *code, node **out) {
    bool found = pattern_next(pat, code);
    if (!found) return pattern_wrong(pat, start, "a backslash at the end");
    switch (*code) {
    case 'w':
    case 'd':
    case 's':
    case 'h': return set_node(pat, start, pattern_type(pat, *code, false), false, out);
    case 'W':
    case 'D':
    case 'S':
    case 'H': return set_node(pat, start, pattern_type(pat, *code - 'A' + 'a', false), true, out);
    case 'b': return word_edge(pat, start, false, out);
    case 'B': return word_edge(pat, start, true, out);
    case 'A': return anchor(pat, NODE_TEXT_START, start, out);
    case 'Z': return anchor(pat, NODE_TEXT_END_OR_LINE, start, out);
    case 'z': return anchor(pat, NODE_TEXT_END, start, out);
    case 'G': pat->search_start = true; return anchor(pat, NODE_SEARCH_START, start, out);
    case 'K': return anchor(pat, NODE_KEEP, start, out);
    case 'R': pat->atomic = true; return anchor(pat, NODE_NEWLINE, start, out);
    case 'N': return dot(pat, start, false, out);
    case 'O': return dot(pat, start, true, out);
    case 'X':
    case 'y':
    case 'Y': return pattern_unknown(pat, start, "\\%c", (char)*code);
    case 'p':
    case 'P':
        if (pattern_take(pat, '{')) {
            text__set set;
            bool negated = (*code == 'P') != pattern_take(pat, '^');
            if (pattern_property(pat, start, false, &set) != 0) return -1;
            return set_node(pat, start, set, negated, out);
        }
        *plain = true;
        return 0;
    case 'k':
    case 'g':
        if (pattern_at(pat, '<') || pattern_at(pat, '\'')) {
            char end = pattern_take(pat, '<') ? '>' : '\'';
            if (end == '\'') pat->at++;
            return pattern_reference(pat, *code == 'k' ? NODE_BACK_REFERENCE : NODE_CALL, start,
                                     end, out);
        }
        *plain = true;
        return 0;
    case 'x':
    case 'u':
    case 'o':
        if ((*code != 'o' && pat->at == pat->len) || (*code == 'o' && !pattern_at(pat, '{'))) {
            *plain = true;
            return 0;
        }
        if (pattern_numbered(pat, start, *code, false, code) != 0) return -1;
        *out = string_of(pat, start, *code);
        return *out ? 0 : -1;
    default: break;
    }
    if (*code >= '0' && *code <= '9') return digits(pat, start, *code, out);
    uint32_t letter = *code;
    pat->at = start + 1;
    if (pattern_escaped_value(pat, code) != 0) return -1;
    *plain = *code == letter;
    if (*plain) return 0;
    *out = string_of(pat, start, *code);
    return *out ? 0 : -1;
}

/* ---- expressions ---- */

/* Takes an ordinary character, with or without a backslash, and returns 1; 0: it is none. */
static int plain_character(pattern *pat, uint32_t *code) {
    size_t start = pat->at;
    if (pat->at == pat->len) return 0;
    if (pat->text[pat->at] == '{') {
        quantifier quant;
        int rc = interval(pat, &quant);
        if (rc != 0) {
            pat->at = start;
            return rc < 0 ? -1 : 0;
        }
    } else if (pat->text[pat->at] && strchr(".*+?|()^$[", pat->text[pat->at])) {
        return 0;
    }
    (void)pattern_next(pat, code);
    if (*code != '\\' || pat->text[start] != '\\') return 1;
    uint32_t letter;
    if (pat->at < pat->len &&
        ((unsigned char)pat->text[pat->at] >= 0x80 ||
         strchr("wWdDsShHbBAZzGKRNOXyYpPkgxuo0123456789ntrfabevcCM", pat->text[pat->at]) == NULL)) {
        (void)pattern_next(pat, &letter);
        *code = letter;
        return 1;
    }
    pat->at = start;
    return 0;
}

/* Takes a string of ordinary characters. `code` is the first, already taken. */
static int take_string(pattern *pat, size_t start, uint32_t code, node **out) {
    node *string = string_of(pat, start, code);
    if (string == NULL) return -1;
    size_t cap = 1;
    for (;;) {
        if (skip_ignored(pat) != 0) return -1;
        int rc = plain_character(pat, &code);
        if (rc < 0) return -1;
        if (rc == 0) break;
        if (string->len == cap) {
            uint32_t *more = arena_array(&pat->tree, cap *= 2, sizeof *more);
            if (more == NULL) return pattern_full(pat);
            memcpy(more, string->string, string->len * sizeof *more);
            string->string = more;
        }
        string->string[string->len++] = code;
    }
    *out = string;
    return 0;
}

static int expression(pattern *pat, bool group_head, node **out) {
    size_t start = pat->at;
    uint32_t code = 0;
    bool plain = false;
    int rc = plain_character(pat, &code);
    if (rc < 0) return -1;
    if (rc > 0) {
        if (take_string(pat, start, code, out) != 0) return -1;
        return quantified(pat, out, false);
    }
    switch (pat->text[pat->at++]) {
    case '\\':
        if (escape(pat, start, &plain, &code, out) != 0) return -1;
        if (plain && take_string(pat, start, code, out) != 0) return -1;
        plain = false;
        break;
    case '(':
        if (pattern_group(pat, start, &plain, out) != 0) return -1;
        break;
    case '[': {
        text__set set;
        bool negated, icase = pat->options & OPTION_I;
        if (pattern_class(pat, start, &set, &negated) != 0) return -1;
        if (icase) set = text__set_fold(&pat->tree, &set);
        if (set_node(pat, start, set, negated, out) != 0) return -1;
        (*out)->icase = icase;
        break;
    }
    case '.':
        if (dot(pat, start, pat->options & OPTION_M, out) != 0) return -1;
        break;
    case '^':
        if (anchor(pat, NODE_LINE_START, start, out) != 0) return -1;
        break;
    case '$':
        if (anchor(pat, NODE_LINE_END, start, out) != 0) return -1;
        break;
    default: return pattern_wrong(pat, start, "a repeat of nothing");
    }
    node *before = *out;
    if (quantified(pat, out, plain) != 0) return -1;
    if (plain && group_head && *out == before) {
        node *kept = pattern_new_node(pat, NODE_GROUP, start);
        if (kept == NULL) return -1;
        pattern_append(kept, before);
        *out = kept;
    }
    return 0;
}

static bool ended(const pattern *pat) {
    return pat->at == pat->len || pat->text[pat->at] == '|' || pat->text[pat->at] == ')';
}

/* Takes expressions up to the next alternative or the end. The content of a (?:...) becomes part of
 * the sequence. */
static int sequence(pattern *pat, bool group_head, node **out) {
    node *one, *all = NULL;
    if (skip_ignored(pat) != 0) return -1;
    if (ended(pat)) {
        *out = pattern_new_node(pat, NODE_EMPTY, pat->at);
        return *out ? 0 : -1;
    }
    if (expression(pat, group_head, &one) != 0) return -1;
    for (*out = one;;) {
        if (skip_ignored(pat) != 0) return -1;
        if (ended(pat)) return 0;
        if (all == NULL) {
            if ((all = pattern_new_node(pat, NODE_SEQUENCE, one->at)) == NULL) return -1;
            pattern_append(all, one);
            *out = all;
        }
        if (expression(pat, false, &one) != 0) return -1;
        for (node *next, *child = one->kind == NODE_SEQUENCE ? one->first : one; child;
             child = next) {
            next = child->next;
            pattern_append(all, child);
            if (child == one) break;
        }
    }
}

int pattern_choice(pattern *pat, bool group_head, node **out) {
    unsigned before = pat->options;
    node *all = NULL;
    if (sequence(pat, group_head, out) != 0) return -1;
    while (pattern_take(pat, '|')) {
        if (all == NULL) {
            if ((all = pattern_new_node(pat, NODE_CHOICE, (*out)->at)) == NULL) return -1;
            pattern_append(all, *out);
        }
        node *one;
        if (sequence(pat, false, &one) != 0) return -1;
        pattern_append(all, one);
        *out = all;
    }
    pat->options = before;
    return 0;
}

int pattern_parse(pattern *pat, node **root) {
    if (!utf8_valid(pat->text, pat->len))
        return err_set(pat->e, ERR_BAD_FILE, NULL, "%s: it is not UTF-8", pat->label);
    if (pattern_choice(pat, false, root) != 0) return -1;
    if (pat->at < pat->len) return pattern_wrong(pat, pat->at, "a ')' without its group");
    return 0;
}
