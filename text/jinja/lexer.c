/* lexer.c - a template's text into tokens; white space around tags as trim_blocks and lstrip_blocks
 * leave it. */
#include "base/utf8.h"
#include "text/jinja/jinja_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    jparser *p;
    const char *s;
    size_t n, at;
    uint32_t line;
    bool line_starting;           /* what ended here ended with its line's break */
    char open[JINJA__MAX_HEIGHT]; /* brackets that wait for their other half */
    size_t n_open;
} lexer;

static void add(lexer *l, jtoken_kind kind, const char *s, size_t n) {
    jparser *p = l->p;
    if (p->failed) return;
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 256;
        jtoken *grown = realloc(p->tokens, cap * sizeof *grown);
        if (p->n >= JINJA__MAX_TOKENS) {
            jinja__syntax(p, l->line, "it has more than %d words", JINJA__MAX_TOKENS);
        }
        if (grown == NULL) {
            p->failed = true;
            err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory", p->t->what);
            return;
        }
        p->tokens = grown;
        p->cap = cap;
    }
    p->tokens[p->n++] = (jtoken){.kind = (uint8_t)kind, .line = l->line, .s = s, .n = n};
}

static void advance(lexer *l, size_t to) {
    for (; l->at < to; l->at++)
        l->line += l->s[l->at] == '\n';
}

static bool looking_at(const lexer *l, size_t at, const char *text) {
    size_t n = strlen(text);
    return l->n - at >= n && memcmp(l->s + at, text, n) == 0;
}

/* Behind the white space at `at`. */
static size_t behind_space(const lexer *l, size_t at) {
    while (at < l->n) {
        size_t len;
        if (!jinja__is_space(jinja__code_point(l->s + at, l->n - at, &len))) break;
        at += len;
    }
    return at;
}

/* How many of the n bytes are left when white space at their end goes. */
static size_t without_space(const char *s, size_t n) {
    while (n > 0) {
        size_t begin = n - 1, len;
        while (begin > 0 && ((unsigned char)s[begin] & 0xc0) == 0x80)
            begin--;
        if (!jinja__is_space(jinja__code_point(s + begin, n - begin, &len))) break;
        n = begin;
    }
    return n;
}

/* The text from `at` up to a tag at `end` whose sign is '-', '+' or something else. */
static void add_text(lexer *l, size_t end, char sign, bool is_print) {
    const char *s = l->s + l->at;
    size_t n = end - l->at;
    if (sign == '-') {
        n = without_space(s, n);
    } else if (sign != '+' && !is_print) {
        size_t line = n;
        while (line > 0 && s[line - 1] != '\n')
            line--;
        if ((line > 0 || l->line_starting) && without_space(s + line, n - line) == 0) n = line;
    }
    if (n > 0) add(l, T_TEXT, s, n);
    advance(l, end);
}

/* Behind the end of a tag whose first byte (of "%}", "#}" or "}}") stands at `at`. */
static void close_tag(lexer *l, size_t at, char sign, bool trims) {
    size_t end = at + 2;
    if (sign == '-') end = behind_space(l, end);
    else if (sign != '+' && trims && end < l->n && l->s[end] == '\n') end++;
    l->line_starting = l->s[end - 1] == '\n';
    advance(l, end);
}

static char sign_at(const lexer *l, size_t at) {
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : 0;
}

static void comment(lexer *l) {
    uint32_t line = l->line;
    for (size_t at = l->at + 2; at + 1 < l->n; at++) {
        if (l->s[at] != '#' || l->s[at + 1] != '}') continue;
        char before = at > l->at + 2 ? l->s[at - 1] : 0;
        close_tag(l, at, before == '-' || before == '+' ? before : 0, true);
        return;
    }
    jinja__syntax(l->p, line, "a comment has no end");
}

/* The tag NAME and nothing else, as in "{%- raw -%}": where its end stands, or 0. */
static size_t bare_tag(const lexer *l, size_t at, const char *name, char *sign, char *end_sign) {
    if (!looking_at(l, at, "{%")) return 0;
    *sign = sign_at(l, at + 2);
    at = behind_space(l, at + 2 + (*sign != 0));
    if (!looking_at(l, at, name)) return 0;
    at = behind_space(l, at + strlen(name));
    *end_sign = sign_at(l, at);
    if (*end_sign) at++;
    return looking_at(l, at, "%}") ? at : 0;
}

/* From "{% raw %}" to "{% endraw %}": text. */
static void raw(lexer *l, size_t end, char end_sign) {
    uint32_t line = l->line;
    close_tag(l, end, end_sign, false);
    l->line_starting = false;
    for (size_t at = l->at; at < l->n; at++) {
        char sign;
        size_t close = l->s[at] == '{' ? bare_tag(l, at, "endraw", &sign, &end_sign) : 0;
        if (close == 0) continue;
        add_text(l, at, sign, false);
        close_tag(l, close, end_sign, true);
        return;
    }
    jinja__syntax(l->p, line, "raw has no endraw");
}

static bool is_word(char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static size_t digits(const lexer *l, size_t at) {
    while (at < l->n &&
           (is_digit(l->s[at]) || (l->s[at] == '_' && at + 1 < l->n && is_digit(l->s[at + 1]))))
        at++;
    return at;
}

static void number(lexer *l) {
    size_t begin = l->at, end;
    const char *s = l->s;
    if (s[begin] == '0' && begin + 2 < l->n && strchr("xXoObB", s[begin + 1]) &&
        is_word(s[begin + 2])) {
        end = begin + 2;
        while (end < l->n && is_word(s[end]))
            end++;
        add(l, T_INT, s + begin, end - begin);
        l->at = end;
        return;
    }
    end = digits(l, begin);
    jtoken_kind kind = T_INT;
    if (end + 1 < l->n && s[end] == '.' && is_digit(s[end + 1])) {
        kind = T_REAL;
        end = digits(l, end + 1);
    }
    if (end < l->n && (s[end] == 'e' || s[end] == 'E')) {
        size_t power = end + 1;
        if (power < l->n && (s[power] == '+' || s[power] == '-')) power++;
        if (power < l->n && is_digit(s[power])) {
            kind = T_REAL;
            end = digits(l, power);
        }
    }
    add(l, kind, s + begin, end - begin);
    l->at = end;
}

static void string(lexer *l) {
    char quote = l->s[l->at];
    for (size_t at = l->at + 1; at < l->n; at++) {
        if (l->s[at] == '\\') {
            at++;
        } else if (l->s[at] == quote) {
            add(l, T_STRING, l->s + l->at + 1, at - l->at - 1);
            advance(l, at + 1);
            return;
        }
    }
    jinja__syntax(l->p, l->line, "a string has no end");
}

static void bracket(lexer *l, char c) {
    if (strchr("([{", c)) {
        if (l->n_open == sizeof l->open) {
            jinja__syntax(l->p, l->line, "brackets are nested more than %d deep",
                          JINJA__MAX_HEIGHT);
            return;
        }
        l->open[l->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (l->n_open == 0 || l->open[--l->n_open] != c) {
        jinja__syntax(l->p, l->line, "unexpected '%c'", c);
    }
}

static void operator(lexer *l) {
    static const char *const two[] = {"//", "**", "==", "!=", "<=", ">="};
    const char *s = l->s + l->at;
    for (size_t i = 0; i < ARRAY_LEN(two); i++) {
        if (!looking_at(l, l->at, two[i])) continue;
        add(l, T_OP, s, 2);
        l->at += 2;
        return;
    }
    if (*s == 0 || !strchr("+-/*%~[](){}<>=.:|,;", *s)) {
        jinja__syntax(l->p, l->line, "unexpected character '%.*s'",
                      (int)(utf8_length((unsigned char)*s) ? utf8_length((unsigned char)*s) : 1),
                      s);
        return;
    }
    if (strchr("([{}])", *s)) bracket(l, *s);
    add(l, T_OP, s, 1);
    l->at++;
}

/* Whether the tag ends at l->at: then behind it. */
static bool tag_end(lexer *l, const char *end, jtoken_kind kind) {
    if (l->n_open > 0) return false;
    char sign = l->s[l->at] == '-' || (l->s[l->at] == '+' && end[0] == '%') ? l->s[l->at] : 0;
    size_t at = l->at + (sign != 0);
    if (!looking_at(l, at, end)) return false;
    add(l, kind, l->s + at, 2);
    close_tag(l, at, sign, end[0] == '%');
    return true;
}

static void inside_tag(lexer *l, const char *end, jtoken_kind kind) {
    uint32_t line = l->line;
    l->n_open = 0;
    while (!l->p->failed) {
        advance(l, behind_space(l, l->at));
        if (l->at >= l->n) {
            jinja__syntax(l->p, line, "'%s' has no '%s'", end[0] == '%' ? "{%" : "{{", end);
            return;
        }
        char c = l->s[l->at];
        if (tag_end(l, end, kind)) return;
        if (is_digit(c)) {
            number(l);
        } else if (is_word(c)) {
            size_t begin = l->at;
            while (l->at < l->n && is_word(l->s[l->at]))
                l->at++;
            add(l, T_NAME, l->s + begin, l->at - begin);
        } else if (c == '"' || c == '\'') {
            string(l);
        } else {
            operator(l);
        }
    }
}

static void tag(lexer *l, size_t at) {
    char kind = l->s[at + 1], sign = sign_at(l, at + 2), end_sign;
    size_t raw_end = kind == '%' ? bare_tag(l, at, "raw", &sign, &end_sign) : 0;
    add_text(l, at, sign, kind == '{');
    if (kind == '#') {
        comment(l);
    } else if (raw_end) {
        raw(l, raw_end, end_sign);
    } else {
        add(l, kind == '%' ? T_BLOCK_BEGIN : T_PRINT_BEGIN, l->s + at, 2);
        advance(l, at + 2 + (sign != 0));
        if (kind == '%') inside_tag(l, "%}", T_BLOCK_END);
        else inside_tag(l, "}}", T_PRINT_END);
    }
}

static void all(lexer *l) {
    while (l->at < l->n && !l->p->failed) {
        size_t at = l->at;
        while (at + 1 < l->n && !(l->s[at] == '{' && strchr("{%#", l->s[at + 1]) && l->s[at + 1]))
            at++;
        if (at + 1 >= l->n) {
            add(l, T_TEXT, l->s + l->at, l->n - l->at);
            break;
        }
        tag(l, at);
    }
    add(l, T_END, l->s + l->n, 0);
}

/* Line breaks of every kind become one byte each, and the one at the end goes. */
static size_t with_plain_breaks(char *s, size_t n) {
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\r') {
            if (i + 1 < n && s[i + 1] == '\n') i++;
            s[out++] = '\n';
        } else {
            s[out++] = s[i];
        }
    }
    return out > 0 && s[out - 1] == '\n' ? out - 1 : out;
}

int jinja__lex(jparser *p, const char *text, size_t n) {
    if (n > JINJA__MAX_TEMPLATE) {
        jinja__syntax(p, 1, "it has more than %d bytes", JINJA__MAX_TEMPLATE);
        return -1;
    }
    size_t good = utf8_prefix(text, n);
    if (good < n) {
        uint32_t line = 1;
        for (size_t i = 0; i < good; i++)
            line += text[i] == '\n';
        jinja__syntax(p, line, "it is not UTF-8");
        return -1;
    }
    char *copy = jinja__node_memory(p, n + 1, 1);
    if (copy == NULL) return -1;
    if (n) memcpy(copy, text, n);
    lexer l = {.p = p, .s = copy, .line = 1, .line_starting = true};
    l.n = with_plain_breaks(copy, n);
    all(&l);
    return p->failed ? -1 : 0;
}
