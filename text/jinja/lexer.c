/* lexer.c - splits the text of a template into tokens. Removes white space around tags as
 * trim_blocks and lstrip_blocks say. */
#include "base/utf8.h"
#include "text/jinja/parse_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    jparser *parser;
    const char *bytes;
    size_t len, at;
    uint32_t line;
    bool line_starting;           /* `at` is the start of a line */
    char open[JINJA__MAX_HEIGHT]; /* the closing brackets still expected */
    size_t n_open;
} lexer;

static void add(lexer *lex, jtoken_kind kind, const char *bytes, size_t n) {
    jparser *parser = lex->parser;
    if (parser->failed) return;
    if (parser->n_tokens == parser->cap_tokens) {
        size_t cap = parser->cap_tokens ? parser->cap_tokens * 2 : 256;
        jtoken *grown = realloc(parser->tokens, cap * sizeof *grown);
        if (parser->n_tokens >= JINJA__MAX_TOKENS) {
            jinja__syntax(parser, lex->line, "it has more than %d words", JINJA__MAX_TOKENS);
        }
        if (grown == NULL) {
            parser->failed = true;
            err_set(parser->error, ERR_NO_MEMORY, NULL, "%s: out of memory", parser->tmpl->source);
            return;
        }
        parser->tokens = grown;
        parser->cap_tokens = cap;
    }
    parser->tokens[parser->n_tokens++] =
        (jtoken){.kind = (uint8_t)kind, .line = lex->line, .bytes = bytes, .len = n};
}

static void advance(lexer *lex, size_t to) {
    for (; lex->at < to; lex->at++)
        lex->line += lex->bytes[lex->at] == '\n';
}

static bool looking_at(const lexer *lex, size_t at, const char *text) {
    size_t n = strlen(text);
    return lex->len - at >= n && memcmp(lex->bytes + at, text, n) == 0;
}

/* The offset behind the white space at `at`. */
static size_t behind_space(const lexer *lex, size_t at) {
    while (at < lex->len) {
        size_t len;
        if (!jinja__is_space(jinja__code_point(lex->bytes + at, lex->len - at, &len))) break;
        at += len;
    }
    return at;
}

/* The number of bytes without the white space at their end. */
static size_t without_space(const char *bytes, size_t n) {
    while (n > 0) {
        size_t begin = jinja__char_before(bytes, n), len;
        if (!jinja__is_space(jinja__code_point(bytes + begin, n - begin, &len))) break;
        n = begin;
    }
    return n;
}

/* Adds the text before the tag at `end`. sign is '-', '+' or 0. */
static void add_text(lexer *lex, size_t end, char sign, bool is_print) {
    const char *bytes = lex->bytes + lex->at;
    size_t n = end - lex->at;
    if (sign == '-') {
        n = without_space(bytes, n);
    } else if (sign != '+' && !is_print) {
        size_t line = n;
        while (line > 0 && bytes[line - 1] != '\n')
            line--;
        if ((line > 0 || lex->line_starting) && without_space(bytes + line, n - line) == 0)
            n = line;
    }
    if (n > 0) add(lex, T_TEXT, bytes, n);
    advance(lex, end);
}

/* Goes on behind the end of a tag: "%}", "#}" or "}}" at `at`. */
static void close_tag(lexer *lex, size_t at, char sign, bool trims) {
    size_t end = at + 2;
    if (sign == '-') end = behind_space(lex, end);
    else if (sign != '+' && trims && end < lex->len && lex->bytes[end] == '\n') end++;
    lex->line_starting = lex->bytes[end - 1] == '\n';
    advance(lex, end);
}

static char sign_at(const lexer *lex, size_t at) {
    return at < lex->len && (lex->bytes[at] == '-' || lex->bytes[at] == '+') ? lex->bytes[at] : 0;
}

static void comment(lexer *lex) {
    uint32_t line = lex->line;
    for (size_t at = lex->at + 2; at + 1 < lex->len; at++) {
        if (lex->bytes[at] != '#' || lex->bytes[at + 1] != '}') continue;
        char before = at > lex->at + 2 ? lex->bytes[at - 1] : 0;
        close_tag(lex, at, before == '-' || before == '+' ? before : 0, true);
        return;
    }
    jinja__syntax(lex->parser, line, "a comment has no end");
}

/* Whether a tag of just this name begins at `at`, as "{%- raw -%}": the offset of its "%}", or 0.
 */
static size_t bare_tag(const lexer *lex, size_t at, const char *name, char *sign, char *end_sign) {
    if (!looking_at(lex, at, "{%")) return 0;
    *sign = sign_at(lex, at + 2);
    at = behind_space(lex, at + 2 + (*sign != 0));
    if (!looking_at(lex, at, name)) return 0;
    at = behind_space(lex, at + strlen(name));
    *end_sign = sign_at(lex, at);
    if (*end_sign) at++;
    return looking_at(lex, at, "%}") ? at : 0;
}

/* Adds everything up to "{% endraw %}" as text. */
static void raw(lexer *lex, size_t end, char end_sign) {
    uint32_t line = lex->line;
    close_tag(lex, end, end_sign, false);
    lex->line_starting = false;
    for (size_t at = lex->at; at < lex->len; at++) {
        char sign;
        size_t close = lex->bytes[at] == '{' ? bare_tag(lex, at, "endraw", &sign, &end_sign) : 0;
        if (close == 0) continue;
        add_text(lex, at, sign, false);
        close_tag(lex, close, end_sign, true);
        return;
    }
    jinja__syntax(lex->parser, line, "raw has no endraw");
}

static bool is_word(char ch) {
    return ch == '_' || (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
           (ch >= 'A' && ch <= 'Z');
}

static bool is_digit(char ch) {
    return ch >= '0' && ch <= '9';
}

static size_t digits(const lexer *lex, size_t at) {
    while (at < lex->len &&
           (is_digit(lex->bytes[at]) ||
            (lex->bytes[at] == '_' && at + 1 < lex->len && is_digit(lex->bytes[at + 1]))))
        at++;
    return at;
}

static void number(lexer *lex) {
    size_t begin = lex->at, end;
    const char *bytes = lex->bytes;
    if (bytes[begin] == '0' && begin + 2 < lex->len && strchr("xXoObB", bytes[begin + 1]) &&
        is_word(bytes[begin + 2])) {
        end = begin + 2;
        while (end < lex->len && is_word(bytes[end]))
            end++;
        add(lex, T_INT, bytes + begin, end - begin);
        lex->at = end;
        return;
    }
    end = digits(lex, begin);
    jtoken_kind kind = T_INT;
    if (end + 1 < lex->len && bytes[end] == '.' && is_digit(bytes[end + 1])) {
        kind = T_REAL;
        end = digits(lex, end + 1);
    }
    if (end < lex->len && (bytes[end] == 'e' || bytes[end] == 'E')) {
        size_t power = end + 1;
        if (power < lex->len && (bytes[power] == '+' || bytes[power] == '-')) power++;
        if (power < lex->len && is_digit(bytes[power])) {
            kind = T_REAL;
            end = digits(lex, power);
        }
    }
    add(lex, kind, bytes + begin, end - begin);
    lex->at = end;
}

static void string(lexer *lex) {
    char quote = lex->bytes[lex->at];
    for (size_t at = lex->at + 1; at < lex->len; at++) {
        if (lex->bytes[at] == '\\') {
            at++;
        } else if (lex->bytes[at] == quote) {
            add(lex, T_STRING, lex->bytes + lex->at + 1, at - lex->at - 1);
            advance(lex, at + 1);
            return;
        }
    }
    jinja__syntax(lex->parser, lex->line, "a string has no end");
}

static void bracket(lexer *lex, char ch) {
    if (strchr("([{", ch)) {
        if (lex->n_open == sizeof lex->open) {
            jinja__syntax(lex->parser, lex->line, "brackets are nested more than %d deep",
                          JINJA__MAX_HEIGHT);
            return;
        }
        lex->open[lex->n_open++] = ch == '(' ? ')' : ch == '[' ? ']' : '}';
    } else if (lex->n_open == 0 || lex->open[--lex->n_open] != ch) {
        jinja__syntax(lex->parser, lex->line, "unexpected '%c'", ch);
    }
}

static void operator(lexer *lex) {
    static const char *const two[] = {"//", "**", "==", "!=", "<=", ">="};
    const char *bytes = lex->bytes + lex->at;
    for (size_t i = 0; i < ARRAY_LEN(two); i++) {
        if (!looking_at(lex, lex->at, two[i])) continue;
        add(lex, T_OP, bytes, 2);
        lex->at += 2;
        return;
    }
    if (*bytes == 0 || !strchr("+-/*%~[](){}<>=.:|,;", *bytes)) {
        jinja__syntax(
            lex->parser, lex->line, "unexpected character '%.*s'",
            (int)(utf8_length((unsigned char)*bytes) ? utf8_length((unsigned char)*bytes) : 1),
            bytes);
        return;
    }
    if (strchr("([{}])", *bytes)) bracket(lex, *bytes);
    add(lex, T_OP, bytes, 1);
    lex->at++;
}

/* If the tag ends at lex->at, goes on behind it. */
static bool tag_end(lexer *lex, const char *end, jtoken_kind kind) {
    if (lex->n_open > 0) return false;
    char sign = lex->bytes[lex->at] == '-' || (lex->bytes[lex->at] == '+' && end[0] == '%')
                    ? lex->bytes[lex->at]
                    : 0;
    size_t at = lex->at + (sign != 0);
    if (!looking_at(lex, at, end)) return false;
    add(lex, kind, lex->bytes + at, 2);
    close_tag(lex, at, sign, end[0] == '%');
    return true;
}

static void inside_tag(lexer *lex, const char *end, jtoken_kind kind) {
    uint32_t line = lex->line;
    lex->n_open = 0;
    while (!lex->parser->failed) {
        advance(lex, behind_space(lex, lex->at));
        if (lex->at >= lex->len) {
            jinja__syntax(lex->parser, line, "'%s' has no '%s'", end[0] == '%' ? "{%" : "{{", end);
            return;
        }
        char ch = lex->bytes[lex->at];
        if (tag_end(lex, end, kind)) return;
        if (is_digit(ch)) {
            number(lex);
        } else if (is_word(ch)) {
            size_t begin = lex->at;
            while (lex->at < lex->len && is_word(lex->bytes[lex->at]))
                lex->at++;
            add(lex, T_NAME, lex->bytes + begin, lex->at - begin);
        } else if (ch == '"' || ch == '\'') {
            string(lex);
        } else {
            operator(lex);
        }
    }
}

static void tag(lexer *lex, size_t at) {
    char kind = lex->bytes[at + 1], sign = sign_at(lex, at + 2), end_sign;
    size_t raw_end = kind == '%' ? bare_tag(lex, at, "raw", &sign, &end_sign) : 0;
    add_text(lex, at, sign, kind == '{');
    if (kind == '#') {
        comment(lex);
    } else if (raw_end) {
        raw(lex, raw_end, end_sign);
    } else {
        add(lex, kind == '%' ? T_BLOCK_BEGIN : T_PRINT_BEGIN, lex->bytes + at, 2);
        advance(lex, at + 2 + (sign != 0));
        if (kind == '%') inside_tag(lex, "%}", T_BLOCK_END);
        else inside_tag(lex, "}}", T_PRINT_END);
    }
}

static void lex_all(lexer *lex) {
    while (lex->at < lex->len && !lex->parser->failed) {
        size_t at = lex->at;
        while (at + 1 < lex->len &&
               !(lex->bytes[at] == '{' && strchr("{%#", lex->bytes[at + 1]) && lex->bytes[at + 1]))
            at++;
        if (at + 1 >= lex->len) {
            add(lex, T_TEXT, lex->bytes + lex->at, lex->len - lex->at);
            break;
        }
        tag(lex, at);
    }
    add(lex, T_END, lex->bytes + lex->len, 0);
}

/* Turns "\r\n" and "\r" into "\n" and drops one line break at the end. Returns the length. */
static size_t with_plain_breaks(char *bytes, size_t n) {
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\r') {
            if (i + 1 < n && bytes[i + 1] == '\n') i++;
            bytes[out++] = '\n';
        } else {
            bytes[out++] = bytes[i];
        }
    }
    return out > 0 && bytes[out - 1] == '\n' ? out - 1 : out;
}

int jinja__lex(jparser *parser, const char *text, size_t n) {
    if (n > JINJA__MAX_TEMPLATE) {
        jinja__syntax(parser, 1, "it has more than %d bytes", JINJA__MAX_TEMPLATE);
        return -1;
    }
    size_t good = utf8_prefix(text, n);
    if (good < n) {
        uint32_t line = 1;
        for (size_t i = 0; i < good; i++)
            line += text[i] == '\n';
        jinja__syntax(parser, line, "it is not UTF-8");
        return -1;
    }
    char *copy = jinja__node_memory(parser, n + 1, 1);
    if (copy == NULL) return -1;
    if (n) memcpy(copy, text, n);
    lexer lex = {.parser = parser, .bytes = copy, .line = 1, .line_starting = true};
    lex.len = with_plain_breaks(copy, n);
    lex_all(&lex);
    return parser->failed ? -1 : 0;
}
