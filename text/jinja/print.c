/* print.c - values as text: what Python's str and repr make of them. */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* "1e+16" with the digits and the power of ten that printf's %e gave: as Python writes it. */
static size_t place_point(const char *digits, int n_digits, int power, bool minus, char *out,
                          size_t room) {
    const char *sign = minus ? "-" : "";
    int n;
    if (power < -4 || power >= 16) {
        n = snprintf(out, room, "%s%c%s%.*se%c%02d", sign, digits[0], n_digits > 1 ? "." : "",
                     n_digits - 1, digits + 1, power < 0 ? '-' : '+', abs(power));
    } else if (power < 0) {
        n = snprintf(out, room, "%s0.%.*s%.*s", sign, -power - 1, "0000", n_digits, digits);
    } else if (n_digits <= power + 1) {
        n = snprintf(out, room, "%s%.*s%.*s.0", sign, n_digits, digits, power + 1 - n_digits,
                     "0000000000000000");
    } else {
        n = snprintf(out, room, "%s%.*s.%.*s", sign, power + 1, digits, n_digits - power - 1,
                     digits + power + 1);
    }
    return (size_t)n;
}

size_t jinja__format_real(double d, char *out, size_t room) {
    if (isnan(d)) return (size_t)snprintf(out, room, "nan");
    if (isinf(d)) return (size_t)snprintf(out, room, d < 0 ? "-inf" : "inf");
    char text[40], digits[20];
    for (int precision = 0; precision < 17; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision, fabs(d));
        if (strtod(text, NULL) == fabs(d)) break;
    }
    int n = 0;
    for (const char *c = text; *c && *c != 'e'; c++) {
        if (*c != '.' && n < 18) digits[n++] = *c;
    }
    int power = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    return place_point(digits, n, power, signbit(d) != 0, out, room);
}

static void write_number(jvm *vm, jwriter *w, jval v) {
    char text[48];
    size_t n;
    if (v.kind == J_INT) n = (size_t)snprintf(text, sizeof text, "%lld", (long long)v.u.i);
    else n = jinja__format_real(v.u.d, text, sizeof text);
    jinja__write(vm, w, text, n, !v.client);
}

/* ---- texts in quotes ---- */

static bool printable(uint32_t cp) {
    if (cp < 0x7f) return cp >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static size_t escaped(uint32_t cp, char quote, char *out, size_t room) {
    if (cp == (unsigned char)quote || cp == '\\')
        return (size_t)snprintf(out, room, "\\%c", (int)cp);
    if (cp == '\n' || cp == '\r' || cp == '\t')
        return (size_t)snprintf(out, room, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    const char *form = cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x";
    return (size_t)snprintf(out, room, form, (unsigned)cp);
}

static void write_quoted(jvm *vm, jwriter *w, const jstring *s) {
    bool single = s->n && memchr(s->s, '\'', s->n), both = single && memchr(s->s, '"', s->n);
    char quote = single && !both ? '"' : '\'', text[16];
    jinja__write(vm, w, &quote, 1, true);
    size_t kept = 0, len;
    for (size_t at = 0; at < s->n && !vm->failed; at += len) {
        uint32_t cp = jinja__code_point(s->s + at, s->n - at, &len);
        if (printable(cp) && cp != (unsigned char)quote && cp != '\\') continue;
        jinja__write_part(vm, w, s, kept, at);
        size_t end, n = escaped(cp, quote, text, sizeof text);
        jinja__write(vm, w, text, n, jinja__origin(s, at, &end));
        kept = at + len;
    }
    jinja__write_part(vm, w, s, kept, s->n);
    jinja__write(vm, w, &quote, 1, true);
}

/* ---- containers ---- */

static void write_items(jvm *vm, jwriter *w, const jlist *list, const char *open,
                        const char *close) {
    jinja__write_text(vm, w, open);
    for (size_t i = 0; i < list->n && !vm->failed; i++) {
        if (i) jinja__write_text(vm, w, ", ");
        jinja__write_repr(vm, w, list->items[i]);
    }
    jinja__write_text(vm, w, close);
}

static void write_list(jvm *vm, jwriter *w, const jlist *list) {
    char text[80];
    switch ((jform)list->form) {
    case J_IS_LIST: write_items(vm, w, list, "[", "]"); return;
    case J_IS_TUPLE: write_items(vm, w, list, "(", list->n == 1 ? ",)" : ")"); return;
    case J_IS_KEYS: write_items(vm, w, list, "dict_keys([", "])"); return;
    case J_IS_VALUES: write_items(vm, w, list, "dict_values([", "])"); return;
    case J_IS_ITEMS: write_items(vm, w, list, "dict_items([", "])"); return;
    case J_IS_RANGE:
        (void)snprintf(text, sizeof text,
                       list->range[2] == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
                       (long long)list->range[0], (long long)list->range[1],
                       (long long)list->range[2]);
        jinja__write_text(vm, w, text);
        return;
    case J_IS_ITERATOR:
        jinja__fail(vm, "the result of a filter is printed that only a loop or the filter 'list' "
                        "can read");
    }
}

static void write_dict(jvm *vm, jwriter *w, const jdict *d) {
    jinja__write_text(vm, w, "{");
    for (size_t i = 0; i < d->n && !vm->failed; i++) {
        if (i) jinja__write_text(vm, w, ", ");
        jinja__write_repr(vm, w, d->entries[i].key);
        jinja__write_text(vm, w, ": ");
        jinja__write_repr(vm, w, d->entries[i].value);
    }
    jinja__write_text(vm, w, "}");
}

static void write_word(jvm *vm, jwriter *w, jval v, const char *word) {
    jinja__write(vm, w, word, strlen(word), !v.client);
}

static void write_other(jvm *vm, jwriter *w, jval v) {
    switch ((jkind)v.kind) {
    case J_NONE: write_word(vm, w, v, "None"); return;
    case J_BOOL: write_word(vm, w, v, v.u.b ? "True" : "False"); return;
    case J_INT:
    case J_REAL: write_number(vm, w, v); return;
    case J_LIST: write_list(vm, w, v.u.list); return;
    case J_DICT: write_dict(vm, w, v.u.dict); return;
    default: jinja__fail(vm, "a %s is printed, which is no text", jinja__type(v));
    }
}

void jinja__write_value(jvm *vm, jwriter *w, jval v) {
    if (v.kind == J_UNDEFINED) return;
    if (v.kind == J_STRING) {
        jinja__write_string(vm, w, v.u.s);
    } else if (jinja__enter(vm)) {
        write_other(vm, w, v);
        jinja__leave(vm);
    }
}

void jinja__write_repr(jvm *vm, jwriter *w, jval v) {
    if (!jinja__enter(vm)) return;
    if (v.kind == J_UNDEFINED) write_word(vm, w, v, "Undefined");
    else if (v.kind == J_STRING) write_quoted(vm, w, v.u.s);
    else write_other(vm, w, v);
    jinja__leave(vm);
}

jstring *jinja__str(jvm *vm, jval v) {
    if (v.kind == J_STRING) return v.u.s;
    jwriter *w = jinja__new_writer(vm, 0);
    if (w) jinja__write_value(vm, w, v);
    return jinja__written(vm, w);
}
