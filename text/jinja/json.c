/* json.c - the filter "tojson": Python's json.dumps with the defaults of transformers. */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    jvm *vm;
    jwriter *out;
    const jstring *indent, *item, *colon; /* indent: NULL = all in one line */
    bool ascii, sorted;
} json_writer;

static void write_value(json_writer *json, jval value, uint32_t level);

static void newline(json_writer *json, uint32_t level) {
    if (json->indent == NULL) return;
    jinja__write_text(json->vm, json->out, "\n");
    for (uint32_t i = 0; i < level; i++)
        jinja__write_string(json->vm, json->out, json->indent);
}

static size_t escaped(const json_writer *json, uint32_t cp, char *out, size_t room) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *simple = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (simple) return (size_t)snprintf(out, room, "\\%c", to[simple - from]);
    if (cp >= 0x20 && (cp < 0x7f || !json->ascii || cp == 0x7f)) return 0;
    if (cp < 0x10000) return (size_t)snprintf(out, room, "\\u%04x", (unsigned)cp);
    cp -= 0x10000;
    return (size_t)snprintf(out, room, "\\u%04x\\u%04x", (unsigned)(0xd800 + (cp >> 10)),
                            (unsigned)(0xdc00 + (cp & 1023)));
}

static void write_string(json_writer *json, const jstring *text) {
    size_t kept = 0, len, end;
    char escape[16];
    jinja__write_text(json->vm, json->out, "\"");
    for (size_t at = 0; at < text->len; at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        size_t n = escaped(json, cp, escape, sizeof escape);
        if (n == 0) continue;
        jinja__write_part(json->vm, json->out, text, kept, at);
        jinja__write(json->vm, json->out, escape, n, jinja__origin(text, at, &end));
        kept = at + len;
    }
    jinja__write_part(json->vm, json->out, text, kept, text->len);
    jinja__write_text(json->vm, json->out, "\"");
}

static void write_word(json_writer *json, jval value, const char *word) {
    jinja__write(json->vm, json->out, word, strlen(word), !value.client);
}

static void write_number(json_writer *json, jval value) {
    char text[48];
    size_t n;
    if (value.kind == J_INT)
        n = (size_t)snprintf(text, sizeof text, "%lld", (long long)value.integer);
    else if (isnan(value.real)) n = (size_t)snprintf(text, sizeof text, "NaN");
    else if (isinf(value.real))
        n = (size_t)snprintf(text, sizeof text, value.real < 0 ? "-Infinity" : "Infinity");
    else n = jinja__format_real(value.real, text, sizeof text);
    jinja__write(json->vm, json->out, text, n, !value.client);
}

static void write_list(json_writer *json, const jlist *list, uint32_t level) {
    jinja__write_text(json->vm, json->out, "[");
    for (size_t i = 0; i < list->count && !json->vm->failed; i++) {
        if (i) jinja__write_string(json->vm, json->out, json->item);
        newline(json, level + 1);
        write_value(json, list->items[i], level + 1);
    }
    if (list->count) newline(json, level);
    jinja__write_text(json->vm, json->out, "]");
}

static void write_key(json_writer *json, jval key) {
    jvm *vm = json->vm;
    if (key.kind == J_STRING) {
        write_string(json, key.string);
    } else if (key.kind == J_INT || key.kind == J_REAL || key.kind == J_BOOL ||
               key.kind == J_NONE) {
        jinja__write_text(vm, json->out, "\"");
        write_value(json, key, 0);
        jinja__write_text(vm, json->out, "\"");
    } else if (jinja__check_defined(vm, key)) {
        jinja__fail(vm, "a %s cannot be a key in JSON", jinja__type(key));
    }
}

static jlist *sorted_keys(json_writer *json, const jdict *dict) {
    jlist *keys = jinja__new_list(json->vm, dict->count);
    for (size_t i = 0; keys && i < dict->count; i++)
        jinja__push(json->vm, keys, dict->entries[i].key);
    jval sorted = keys ? jinja__sorted(json->vm, keys, false, true, NULL) : jinja__none();
    return sorted.kind == J_LIST ? sorted.list : NULL;
}

static void write_dict(json_writer *json, const jdict *dict, uint32_t level) {
    jlist *keys = json->sorted ? sorted_keys(json, dict) : NULL;
    jinja__write_text(json->vm, json->out, "{");
    for (size_t i = 0; i < dict->count && !json->vm->failed; i++) {
        jval key = keys ? keys->items[i] : dict->entries[i].key;
        const jval *value = keys ? jinja__dict_get(json->vm, dict, key) : &dict->entries[i].value;
        if (i) jinja__write_string(json->vm, json->out, json->item);
        newline(json, level + 1);
        write_key(json, key);
        jinja__write_string(json->vm, json->out, json->colon);
        if (value) write_value(json, *value, level + 1);
    }
    if (dict->count) newline(json, level);
    jinja__write_text(json->vm, json->out, "}");
}

static void write_value(json_writer *json, jval value, uint32_t level) {
    if (!jinja__enter(json->vm)) return;
    switch ((jkind)value.kind) {
    case J_NONE: write_word(json, value, "null"); break;
    case J_BOOL: write_word(json, value, value.boolean ? "true" : "false"); break;
    case J_INT:
    case J_REAL: write_number(json, value); break;
    case J_STRING: write_string(json, value.string); break;
    case J_DICT: write_dict(json, value.dict, level); break;
    case J_LIST:
        if (value.list->form <= J_IS_TUPLE) {
            write_list(json, value.list, level);
            break;
        } /* fall through */
    default:
        if (jinja__check_defined(json->vm, value))
            jinja__fail(json->vm, "a %s cannot be written as JSON", jinja__type(value));
    }
    jinja__leave(json->vm);
}

/* indent=2 or indent="\t" */
static const jstring *indent_of(jvm *vm, const jcall *call) {
    jval value;
    int64_t n;
    if (!jinja__arg(call, 1, "indent", &value) || value.kind == J_NONE) return NULL;
    if (value.kind == J_STRING) return value.string;
    if (!jinja__integer(value, &n)) {
        jinja__fail(vm, "'indent' of 'tojson' is a %s", jinja__type(value));
        return NULL;
    }
    if (n > 100) {
        jinja__costly(vm, "'indent' of 'tojson' is more than 100");
        return NULL;
    }
    jval spaces = jinja__binary(vm, OP_MUL, jinja__text(vm, " "), jinja__int(n));
    return spaces.kind == J_STRING ? spaces.string : NULL;
}

static void separators_of(json_writer *json, const jcall *call) {
    jval value;
    const char *item = json->indent ? "," : ", ";
    jval texts[2] = {jinja__text(json->vm, item), jinja__text(json->vm, ": ")};
    if (jinja__arg(call, 2, "separators", &value) && value.kind != J_NONE) {
        const jlist *list = jinja__iterate(json->vm, value);
        if (list == NULL) return;
        if (list->count != 2 || list->items[0].kind != J_STRING ||
            list->items[1].kind != J_STRING) {
            jinja__fail(json->vm, "'separators' of 'tojson' are not two texts");
            return;
        }
        texts[0] = list->items[0];
        texts[1] = list->items[1];
    }
    if (json->vm->failed) return;
    json->item = texts[0].string;
    json->colon = texts[1].string;
}

jval jinja__to_json(jvm *vm, jval value, const jcall *call) {
    json_writer json = {.vm = vm, .out = jinja__new_writer(vm, 0)};
    json.ascii = jinja__arg_bool(call, 0, "ensure_ascii", false);
    json.sorted = jinja__arg_bool(call, 3, "sort_keys", false);
    json.indent = indent_of(vm, call);
    separators_of(&json, call);
    if (vm->failed) return jinja__undefined(NULL);
    write_value(&json, value, 0);
    return jinja__of_string(jinja__written(vm, json.out));
}
