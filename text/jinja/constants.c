/* constants.c - string and number literals of a template. */
#include "text/jinja/parse_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

jnode *jinja__constant(jparser *parser, uint32_t line, jval value) {
    jnode *node = jinja__new_node(parser, N_CONST, line);
    if (node) node->constant = value;
    return node;
}

static int hex_value(const char *bytes, size_t n, size_t digits, uint32_t *out) {
    *out = 0;
    if (n < digits) return -1;
    for (size_t i = 0; i < digits; i++) {
        char ch = bytes[i];
        uint32_t digit = ch >= '0' && ch <= '9'   ? (uint32_t)(ch - '0')
                         : ch >= 'a' && ch <= 'f' ? (uint32_t)(ch - 'a' + 10)
                         : ch >= 'A' && ch <= 'F' ? (uint32_t)(ch - 'A' + 10)
                                                  : 16;
        if (digit == 16) return -1;
        *out = *out << 4 | digit;
    }
    return 0;
}

/* Decodes the escape behind a backslash (n > 0 bytes) into out. Returns the bytes it used, 0 if it
 * is wrong, SIZE_MAX if the backslash stands for itself. */
static size_t escape(const char *bytes, size_t n, char *out, size_t *out_n) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = *bytes ? strchr(from, *bytes) : NULL;
    if (simple) {
        out[(*out_n)++] = to[simple - from];
        return 1;
    }
    if (*bytes == '\n') return 1;
    uint32_t cp = 0;
    if (*bytes >= '0' && *bytes <= '7') {
        size_t i = 0;
        for (; i < 3 && i < n && bytes[i] >= '0' && bytes[i] <= '7'; i++)
            cp = cp << 3 | (uint32_t)(bytes[i] - '0');
        *out_n += jinja__put_code_point(out + *out_n, cp);
        return i;
    }
    size_t digits = *bytes == 'x' ? 2 : *bytes == 'u' ? 4 : *bytes == 'U' ? 8 : 0;
    if (digits == 0) {
        out[(*out_n)++] = '\\';
        return *bytes == 'N' ? 0 : SIZE_MAX;
    }
    if (hex_value(bytes + 1, n - 1, digits, &cp) != 0) return 0;
    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) return 0;
    *out_n += jinja__put_code_point(out + *out_n, cp);
    return digits + 1;
}

/* Appends the decoded bytes of a string token. They fit: no escape grows when decoded. */
static bool unescape(jparser *parser, const jtoken *token, char *out, size_t *n) {
    for (size_t i = 0; i < token->len;) {
        if (token->bytes[i] != '\\') {
            out[(*n)++] = token->bytes[i++];
            continue;
        }
        size_t took = escape(token->bytes + i + 1, token->len - i - 1, out, n);
        if (took == 0) {
            jinja__syntax(parser, token->line, "the escape '\\%c' is wrong or not supported",
                          token->bytes[i + 1]);
            return false;
        }
        i += took == SIZE_MAX ? 1 : took + 1;
    }
    return true;
}

jnode *jinja__string_constant(jparser *parser) {
    uint32_t line = jinja__token(parser)->line;
    size_t room = 1;
    for (size_t i = parser->at; parser->tokens[i].kind == T_STRING; i++)
        room += parser->tokens[i].len;
    char *bytes = jinja__node_memory(parser, room, 1);
    jstring *text = jinja__node_memory(parser, 1, sizeof *text);
    if (bytes == NULL || text == NULL) return NULL;
    size_t n = 0;
    for (; jinja__token(parser)->kind == T_STRING; parser->at++) {
        if (!unescape(parser, jinja__token(parser), bytes, &n)) return NULL;
    }
    *text = (jstring){.bytes = bytes, .len = n, .chars = SIZE_MAX, .trusted = true};
    (void)jinja__chars(text); /* counted now: threads share the parsed template */
    jnode *node = jinja__constant(parser, line, jinja__of_string(text));
    return jinja__push_node(parser, &parser->tmpl->texts, node) ? node : NULL;
}

/* Copies a number without its underscores; false: too long. */
static bool plain_digits(const jtoken *token, char *out, size_t room) {
    size_t n = 0;
    for (size_t i = 0; i < token->len; i++) {
        if (token->bytes[i] == '_') continue;
        if (n + 1 == room) return false;
        out[n++] = token->bytes[i];
    }
    out[n] = 0;
    return true;
}

jnode *jinja__number_constant(jparser *parser) {
    const jtoken *token = jinja__token(parser);
    char text[64], *end = text;
    bool fits = plain_digits(token, text, sizeof text);
    jval value = jinja__none();
    errno = 0;
    if (fits && token->kind == T_REAL) {
        value = jinja__real(strtod(text, &end));
    } else if (fits) {
        bool prefixed = text[0] == '0' && strchr("xXoObB", text[1]) && text[1];
        int base = !prefixed ? 10 : (text[1] | 32) == 'x' ? 16 : (text[1] | 32) == 'o' ? 8 : 2;
        value = jinja__int(strtoll(text + (prefixed ? 2 : 0), &end, base));
    }
    if (!fits || *end || (token->kind == T_INT && errno == ERANGE))
        return jinja__syntax(parser, token->line, "the number %.*s is not supported",
                             (int)(token->len < 60 ? token->len : 60), token->bytes);
    parser->at++;
    return jinja__constant(parser, token->line, value);
}
