/* print.c - values as text, as Python's str and repr write them. */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Writes digits and a power of ten (from printf's %e) in Python's form: "1e+16", "0.001", "1.5". */
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

size_t jinja__format_real(double real, char *out, size_t room) {
    if (isnan(real)) return (size_t)snprintf(out, room, "nan");
    if (isinf(real)) return (size_t)snprintf(out, room, real < 0 ? "-inf" : "inf");
    char text[40], digits[20];
    for (int precision = 0; precision < 17; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision, fabs(real));
        if (strtod(text, NULL) == fabs(real)) break;
    }
    int n = 0;
    for (const char *ch = text; *ch && *ch != 'e'; ch++) {
        if (*ch != '.' && n < 18) digits[n++] = *ch;
    }
    int power = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    return place_point(digits, n, power, signbit(real) != 0, out, room);
}

static void write_number(jvm *vm, jwriter *out, jval value) {
    char text[48];
    size_t n;
    if (value.kind == J_INT)
        n = (size_t)snprintf(text, sizeof text, "%lld", (long long)value.integer);
    else n = jinja__format_real(value.real, text, sizeof text);
    jinja__write(vm, out, text, n, !value.client);
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

static void write_quoted(jvm *vm, jwriter *out, const jstring *text) {
    bool single = text->len && memchr(text->bytes, '\'', text->len),
         both = single && memchr(text->bytes, '"', text->len);
    char quote = single && !both ? '"' : '\'', escape[16];
    jinja__write(vm, out, &quote, 1, true);
    size_t kept = 0, len;
    for (size_t at = 0; at < text->len && !vm->failed; at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        if (printable(cp) && cp != (unsigned char)quote && cp != '\\') continue;
        jinja__write_part(vm, out, text, kept, at);
        size_t end, n = escaped(cp, quote, escape, sizeof escape);
        jinja__write(vm, out, escape, n, jinja__origin(text, at, &end));
        kept = at + len;
    }
    jinja__write_part(vm, out, text, kept, text->len);
    jinja__write(vm, out, &quote, 1, true);
}

/* ---- containers ---- */

static void write_items(jvm *vm, jwriter *out, const jlist *list, const char *open,
                        const char *close) {
    jinja__write_text(vm, out, open);
    for (size_t i = 0; i < list->count && !vm->failed; i++) {
        if (i) jinja__write_text(vm, out, ", ");
        jinja__write_repr(vm, out, list->items[i]);
    }
    jinja__write_text(vm, out, close);
}

static void write_list(jvm *vm, jwriter *out, const jlist *list) {
    char text[80];
    switch ((jform)list->form) {
    case J_IS_LIST: write_items(vm, out, list, "[", "]"); return;
    case J_IS_TUPLE: write_items(vm, out, list, "(", list->count == 1 ? ",)" : ")"); return;
    case J_IS_KEYS: write_items(vm, out, list, "dict_keys([", "])"); return;
    case J_IS_VALUES: write_items(vm, out, list, "dict_values([", "])"); return;
    case J_IS_ITEMS: write_items(vm, out, list, "dict_items([", "])"); return;
    case J_IS_RANGE:
        (void)snprintf(text, sizeof text,
                       list->range[2] == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)",
                       (long long)list->range[0], (long long)list->range[1],
                       (long long)list->range[2]);
        jinja__write_text(vm, out, text);
        return;
    case J_IS_ITERATOR:
        jinja__fail(vm, "the result of a filter is printed that only a loop or the filter 'list' "
                        "can read");
    }
}

static void write_dict(jvm *vm, jwriter *out, const jdict *dict) {
    jinja__write_text(vm, out, "{");
    for (size_t i = 0; i < dict->count && !vm->failed; i++) {
        if (i) jinja__write_text(vm, out, ", ");
        jinja__write_repr(vm, out, dict->entries[i].key);
        jinja__write_text(vm, out, ": ");
        jinja__write_repr(vm, out, dict->entries[i].value);
    }
    jinja__write_text(vm, out, "}");
}

static void write_word(jvm *vm, jwriter *out, jval value, const char *word) {
    jinja__write(vm, out, word, strlen(word), !value.client);
}

static void write_other(jvm *vm, jwriter *out, jval value) {
    switch ((jkind)value.kind) {
    case J_NONE: write_word(vm, out, value, "None"); return;
    case J_BOOL: write_word(vm, out, value, value.boolean ? "True" : "False"); return;
    case J_INT:
    case J_REAL: write_number(vm, out, value); return;
    case J_LIST: write_list(vm, out, value.list); return;
    case J_DICT: write_dict(vm, out, value.dict); return;
    default: jinja__fail(vm, "a %s is printed, which is no text", jinja__type(value));
    }
}

void jinja__write_value(jvm *vm, jwriter *out, jval value) {
    if (value.kind == J_UNDEFINED) return;
    if (value.kind == J_STRING) {
        jinja__write_string(vm, out, value.string);
    } else if (jinja__enter(vm)) {
        write_other(vm, out, value);
        jinja__leave(vm);
    }
}

void jinja__write_repr(jvm *vm, jwriter *out, jval value) {
    if (!jinja__enter(vm)) return;
    if (value.kind == J_UNDEFINED) write_word(vm, out, value, "Undefined");
    else if (value.kind == J_STRING) write_quoted(vm, out, value.string);
    else write_other(vm, out, value);
    jinja__leave(vm);
}

jstring *jinja__str(jvm *vm, jval value) {
    if (value.kind == J_STRING) return value.string;
    jwriter *out = jinja__new_writer(vm, 0);
    if (out) jinja__write_value(vm, out, value);
    return jinja__written(vm, out);
}
