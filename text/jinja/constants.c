/* constants.c - texts and numbers that stand in a template. */
#include "text/jinja/jinja_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

jnode *jinja__constant(jparser *p, uint32_t line, jval v) {
    jnode *node = jinja__new_node(p, N_CONST, line);
    if (node) node->u.constant = v;
    return node;
}

static int hex_value(const char *s, size_t n, size_t digits, uint32_t *out) {
    *out = 0;
    if (n < digits) return -1;
    for (size_t i = 0; i < digits; i++) {
        char c = s[i];
        uint32_t d = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                     : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                     : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                            : 16;
        if (d == 16) return -1;
        *out = *out << 4 | d;
    }
    return 0;
}

/* What stands behind a backslash, n > 0 bytes: writes to out what it means, and says how many
 * bytes it took; 0 where it is wrong. */
static size_t escape(const char *s, size_t n, char *out, size_t *out_n) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = *s ? strchr(from, *s) : NULL;
    if (simple) {
        out[(*out_n)++] = to[simple - from];
        return 1;
    }
    if (*s == '\n') return 1;
    uint32_t cp = 0;
    if (*s >= '0' && *s <= '7') {
        size_t i = 0;
        for (; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            cp = cp << 3 | (uint32_t)(s[i] - '0');
        *out_n += jinja__put_code_point(out + *out_n, cp);
        return i;
    }
    size_t digits = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    if (digits == 0) { /* an unknown one stands for itself */
        out[(*out_n)++] = '\\';
        return *s == 'N' ? 0 : SIZE_MAX;
    }
    if (hex_value(s + 1, n - 1, digits, &cp) != 0) return 0;
    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) return 0;
    *out_n += jinja__put_code_point(out + *out_n, cp);
    return digits + 1;
}

/* Appends the meaning of a string token; no escape is shorter than what it stands for. */
static bool unescape(jparser *p, const jtoken *t, char *out, size_t *n) {
    for (size_t i = 0; i < t->n;) {
        if (t->s[i] != '\\') {
            out[(*n)++] = t->s[i++];
            continue;
        }
        size_t took = escape(t->s + i + 1, t->n - i - 1, out, n);
        if (took == 0) {
            jinja__syntax(p, t->line, "the escape '\\%c' is wrong or not supported", t->s[i + 1]);
            return false;
        }
        i += took == SIZE_MAX ? 1 : took + 1;
    }
    return true;
}

jnode *jinja__string_constant(jparser *p) {
    uint32_t line = jinja__token(p)->line;
    size_t room = 1;
    for (size_t i = p->at; p->tokens[i].kind == T_STRING; i++)
        room += p->tokens[i].n;
    char *bytes = jinja__node_memory(p, room, 1);
    jstring *s = jinja__node_memory(p, 1, sizeof *s);
    if (bytes == NULL || s == NULL) return NULL;
    size_t n = 0;
    for (; jinja__token(p)->kind == T_STRING; p->at++) {
        if (!unescape(p, jinja__token(p), bytes, &n)) return NULL;
    }
    *s = (jstring){.s = bytes, .n = n, .chars = SIZE_MAX, .trusted = true};
    (void)jinja__chars(s); /* now: later it is read only */
    jnode *node = jinja__constant(p, line, jinja__of_string(s));
    return jinja__push_node(p, &p->t->texts, node) ? node : NULL;
}

/* Without the underscores between digits; false where it is too long. */
static bool plain_digits(const jtoken *t, char *out, size_t room) {
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (t->s[i] == '_') continue;
        if (n + 1 == room) return false;
        out[n++] = t->s[i];
    }
    out[n] = 0;
    return true;
}

jnode *jinja__number_constant(jparser *p) {
    const jtoken *t = jinja__token(p);
    char text[64], *end = text;
    bool fits = plain_digits(t, text, sizeof text);
    jval v = jinja__none();
    errno = 0;
    if (fits && t->kind == T_REAL) {
        v = jinja__real(strtod(text, &end));
    } else if (fits) {
        bool prefixed = text[0] == '0' && strchr("xXoObB", text[1]) && text[1];
        int base = !prefixed ? 10 : (text[1] | 32) == 'x' ? 16 : (text[1] | 32) == 'o' ? 8 : 2;
        v = jinja__int(strtoll(text + (prefixed ? 2 : 0), &end, base));
    }
    if (!fits || *end || (t->kind == T_INT && errno == ERANGE))
        return jinja__syntax(p, t->line, "the number %.*s is not supported",
                             (int)(t->n < 60 ? t->n : 60), t->s);
    p->at++;
    return jinja__constant(p, t->line, v);
}
