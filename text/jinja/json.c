/* json.c - the filter "tojson", as transformers defines it: Python's json.dumps. */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    jvm *vm;
    jwriter *w;
    const jstring *indent, *item, *colon; /* indent: NULL = all in one line */
    bool ascii, sorted;
} dump;

static void write_value(dump *d, jval v, uint32_t level);

static void newline(dump *d, uint32_t level) {
    if (d->indent == NULL) return;
    jinja__write_text(d->vm, d->w, "\n");
    for (uint32_t i = 0; i < level; i++)
        jinja__write_string(d->vm, d->w, d->indent);
}

static size_t escaped(const dump *d, uint32_t cp, char *out, size_t room) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *simple = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (simple) return (size_t)snprintf(out, room, "\\%c", to[simple - from]);
    if (cp >= 0x20 && (cp < 0x7f || !d->ascii || cp == 0x7f)) return 0;
    if (cp < 0x10000) return (size_t)snprintf(out, room, "\\u%04x", (unsigned)cp);
    cp -= 0x10000;
    return (size_t)snprintf(out, room, "\\u%04x\\u%04x", (unsigned)(0xd800 + (cp >> 10)),
                            (unsigned)(0xdc00 + (cp & 1023)));
}

static void write_string(dump *d, const jstring *s) {
    size_t kept = 0, len, end;
    char text[16];
    jinja__write_text(d->vm, d->w, "\"");
    for (size_t at = 0; at < s->n; at += len) {
        uint32_t cp = jinja__code_point(s->s + at, s->n - at, &len);
        size_t n = escaped(d, cp, text, sizeof text);
        if (n == 0) continue;
        jinja__write_part(d->vm, d->w, s, kept, at);
        jinja__write(d->vm, d->w, text, n, jinja__origin(s, at, &end));
        kept = at + len;
    }
    jinja__write_part(d->vm, d->w, s, kept, s->n);
    jinja__write_text(d->vm, d->w, "\"");
}

static void write_word(dump *d, jval v, const char *word) {
    jinja__write(d->vm, d->w, word, strlen(word), !v.client);
}

static void write_number(dump *d, jval v) {
    char text[48];
    size_t n;
    if (v.kind == J_INT) n = (size_t)snprintf(text, sizeof text, "%lld", (long long)v.u.i);
    else if (isnan(v.u.d)) n = (size_t)snprintf(text, sizeof text, "NaN");
    else if (isinf(v.u.d))
        n = (size_t)snprintf(text, sizeof text, v.u.d < 0 ? "-Infinity" : "Infinity");
    else n = jinja__format_real(v.u.d, text, sizeof text);
    jinja__write(d->vm, d->w, text, n, !v.client);
}

static void write_list(dump *d, const jlist *list, uint32_t level) {
    jinja__write_text(d->vm, d->w, "[");
    for (size_t i = 0; i < list->n && !d->vm->failed; i++) {
        if (i) jinja__write_string(d->vm, d->w, d->item);
        newline(d, level + 1);
        write_value(d, list->items[i], level + 1);
    }
    if (list->n) newline(d, level);
    jinja__write_text(d->vm, d->w, "]");
}

static void write_key(dump *d, jval key) {
    jvm *vm = d->vm;
    if (key.kind == J_STRING) {
        write_string(d, key.u.s);
    } else if (key.kind == J_INT || key.kind == J_REAL || key.kind == J_BOOL ||
               key.kind == J_NONE) {
        jinja__write_text(vm, d->w, "\"");
        write_value(d, key, 0);
        jinja__write_text(vm, d->w, "\"");
    } else if (jinja__use_undefined(vm, key)) {
        jinja__fail(vm, "a %s cannot be a key in JSON", jinja__type(key));
    }
}

static jlist *sorted_keys(dump *d, const jdict *dict) {
    jlist *keys = jinja__new_list(d->vm, dict->n);
    for (size_t i = 0; keys && i < dict->n; i++)
        jinja__push(d->vm, keys, dict->entries[i].key);
    jval sorted = keys ? jinja__sorted(d->vm, keys, false, true, NULL) : jinja__none();
    return sorted.kind == J_LIST ? sorted.u.list : NULL;
}

static void write_dict(dump *d, const jdict *dict, uint32_t level) {
    jlist *keys = d->sorted ? sorted_keys(d, dict) : NULL;
    jinja__write_text(d->vm, d->w, "{");
    for (size_t i = 0; i < dict->n && !d->vm->failed; i++) {
        jval key = keys ? keys->items[i] : dict->entries[i].key;
        const jval *v = keys ? jinja__dict_get(d->vm, dict, key) : &dict->entries[i].value;
        if (i) jinja__write_string(d->vm, d->w, d->item);
        newline(d, level + 1);
        write_key(d, key);
        jinja__write_string(d->vm, d->w, d->colon);
        if (v) write_value(d, *v, level + 1);
    }
    if (dict->n) newline(d, level);
    jinja__write_text(d->vm, d->w, "}");
}

static void write_value(dump *d, jval v, uint32_t level) {
    if (!jinja__enter(d->vm)) return;
    switch ((jkind)v.kind) {
    case J_NONE: write_word(d, v, "null"); break;
    case J_BOOL: write_word(d, v, v.u.b ? "true" : "false"); break;
    case J_INT:
    case J_REAL: write_number(d, v); break;
    case J_STRING: write_string(d, v.u.s); break;
    case J_DICT: write_dict(d, v.u.dict, level); break;
    case J_LIST:
        if (v.u.list->form <= J_IS_TUPLE) {
            write_list(d, v.u.list, level);
            break;
        } /* fall through */
    default:
        if (jinja__use_undefined(d->vm, v))
            jinja__fail(d->vm, "a %s cannot be written as JSON", jinja__type(v));
    }
    jinja__leave(d->vm);
}

/* indent=2 or indent="\t" */
static const jstring *indent_of(jvm *vm, const jcall *call) {
    jval v;
    int64_t n;
    if (!jinja__arg(call, 1, "indent", &v) || v.kind == J_NONE) return NULL;
    if (v.kind == J_STRING) return v.u.s;
    if (!jinja__integer(v, &n)) {
        jinja__fail(vm, "'indent' of 'tojson' is a %s", jinja__type(v));
        return NULL;
    }
    if (n > 100) {
        jinja__costly(vm, "'indent' of 'tojson' is more than 100");
        return NULL;
    }
    jval spaces = jinja__binary(vm, OP_MUL, jinja__text(vm, " "), jinja__int(n));
    return spaces.kind == J_STRING ? spaces.u.s : NULL;
}

static void separators_of(dump *d, const jcall *call) {
    jval v;
    const char *item = d->indent ? "," : ", ";
    jval texts[2] = {jinja__text(d->vm, item), jinja__text(d->vm, ": ")};
    if (jinja__arg(call, 2, "separators", &v) && v.kind != J_NONE) {
        const jlist *list = jinja__iterate(d->vm, v);
        if (list == NULL) return;
        if (list->n != 2 || list->items[0].kind != J_STRING || list->items[1].kind != J_STRING) {
            jinja__fail(d->vm, "'separators' of 'tojson' are not two texts");
            return;
        }
        texts[0] = list->items[0];
        texts[1] = list->items[1];
    }
    if (d->vm->failed) return;
    d->item = texts[0].u.s;
    d->colon = texts[1].u.s;
}

jval jinja__to_json(jvm *vm, jval v, const jcall *call) {
    dump d = {.vm = vm, .w = jinja__new_writer(vm, 0)};
    d.ascii = jinja__arg_bool(call, 0, "ensure_ascii", false);
    d.sorted = jinja__arg_bool(call, 3, "sort_keys", false);
    d.indent = indent_of(vm, call);
    separators_of(&d, call);
    if (vm->failed) return jinja__undefined(NULL);
    write_value(&d, v, 0);
    return jinja__of_string(jinja__written(vm, d.w));
}
