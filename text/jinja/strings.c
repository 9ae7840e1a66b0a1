/* strings.c - texts with an origin for every byte, and the writer that makes them. */
#include "base/utf8.h"
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- characters ---- */

uint32_t jinja__code_point(const char *bytes, size_t n, size_t *len) {
    const unsigned char *at = (const unsigned char *)bytes;
    *len = n ? utf8_char(bytes, n) : 0;
    switch (*len) {
    case 1: return at[0];
    case 2: return (at[0] & 31u) << 6 | (at[1] & 63u);
    case 3: return (at[0] & 15u) << 12 | (at[1] & 63u) << 6 | (at[2] & 63u);
    case 4: return (at[0] & 7u) << 18 | (at[1] & 63u) << 12 | (at[2] & 63u) << 6 | (at[3] & 63u);
    default: *len = n ? 1 : 0; return 0xfffd;
    }
}

size_t jinja__put_code_point(char *out, uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; cp >>= 6)
        out[i] = (char)(0x80 | (cp & 63));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | cp);
    return n;
}

size_t jinja__char_before(const char *bytes, size_t at) {
    at--;
    while (at > 0 && ((unsigned char)bytes[at] & 0xc0) == 0x80)
        at--;
    return at;
}

/* As Python's str.isspace. */
bool jinja__is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

size_t jinja__chars(jstring *text) {
    if (text->chars == SIZE_MAX) text->chars = utf8_count(text->bytes, text->len);
    return text->chars;
}

size_t jinja__char_at(jstring *text, size_t index) {
    if (index >= jinja__chars(text)) return text->len;
    if (text->chars == text->len) return index;
    size_t at = 0;
    for (; index > 0; index--)
        at += utf8_length((unsigned char)text->bytes[at]);
    return at;
}

/* ---- origins ---- */

/* The first run that ends behind `place`. */
static size_t run_of(const jstring *text, size_t place) {
    size_t low = 0, high = text->n_runs - 1;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (text->runs[mid].end > place) high = mid;
        else low = mid + 1;
    }
    return low;
}

bool jinja__origin(const jstring *text, size_t at, size_t *end) {
    *end = text->len;
    if (text->runs == NULL || at >= text->len) return text->trusted;
    const text_run *run = &text->runs[run_of(text, text->skip + at)];
    if (run->end - text->skip < text->len) *end = run->end - text->skip;
    return run->trusted;
}

bool jinja__all_trusted(const jstring *text) {
    for (size_t at = 0, end; at < text->len; at = end) {
        if (!jinja__origin(text, at, &end)) return false;
    }
    return true;
}

/* ---- writing ---- */

jwriter *jinja__new_writer(jvm *vm, size_t room) {
    jwriter *out = jinja__alloc(vm, 1, sizeof *out);
    if (out == NULL || room == 0) return out;
    out->bytes = jinja__alloc(vm, room, 1);
    out->cap = out->bytes ? room : 0;
    return out;
}

static bool room_for(jvm *vm, jwriter *out, size_t n) {
    if (out->used > vm->max_output || n > vm->max_output - out->used) {
        jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output);
        return false;
    }
    if (n <= out->cap - out->used) return true;
    size_t cap = out->cap < 64 ? 128 : out->cap * 2;
    if (cap < out->used + n) cap = out->used + n;
    char *bytes = jinja__alloc(vm, cap, 1);
    if (bytes == NULL) return false;
    if (out->used) memcpy(bytes, out->bytes, out->used);
    out->bytes = bytes;
    out->cap = cap;
    return true;
}

static bool add_run(jvm *vm, jwriter *out, bool trusted) {
    if (out->n_runs == out->cap_runs) {
        size_t cap = out->cap_runs ? out->cap_runs * 2 : 4;
        text_run *runs = jinja__alloc(vm, cap, sizeof *runs);
        if (runs == NULL) return false;
        if (out->n_runs) memcpy(runs, out->runs, out->n_runs * sizeof *runs);
        out->runs = runs;
        out->cap_runs = cap;
    }
    out->runs[out->n_runs++] = (text_run){out->used, trusted};
    return true;
}

void jinja__write(jvm *vm, jwriter *out, const char *bytes, size_t n, bool trusted) {
    if (n == 0 || out == NULL || vm->failed || !room_for(vm, out, n)) return;
    if (n > 256 && !jinja__work(vm, n)) return;
    if ((out->n_runs == 0 || out->runs[out->n_runs - 1].trusted != trusted) &&
        !add_run(vm, out, trusted))
        return;
    memcpy(out->bytes + out->used, bytes, n);
    out->used += n;
    out->runs[out->n_runs - 1].end = out->used;
}

void jinja__write_part(jvm *vm, jwriter *out, const jstring *text, size_t from, size_t to) {
    for (size_t at = from, end; text && at < to && !vm->failed; at = end) {
        bool trusted = jinja__origin(text, at, &end);
        if (end > to) end = to;
        jinja__write(vm, out, text->bytes + at, end - at, trusted);
    }
}

void jinja__write_string(jvm *vm, jwriter *out, const jstring *text) {
    if (text) jinja__write_part(vm, out, text, 0, text->len);
}

void jinja__write_text(jvm *vm, jwriter *out, const char *bytes) {
    jinja__write(vm, out, bytes, strlen(bytes), true);
}

jstring *jinja__written(jvm *vm, jwriter *out) {
    jstring *text = jinja__alloc(vm, 1, sizeof *text);
    if (text == NULL || out == NULL) return NULL;
    *text = (jstring){
        .bytes = out->bytes ? out->bytes : "", .len = out->used, .chars = SIZE_MAX, .writer = out};
    text->trusted = out->n_runs == 0 || out->runs[0].trusted;
    if (out->n_runs > 1) {
        text->runs = out->runs;
        text->n_runs = out->n_runs;
    }
    return text;
}

/* ---- strings ---- */

jstring *jinja__string(jvm *vm, const char *bytes, size_t n, bool trusted) {
    jstring *out = jinja__alloc(vm, 1, sizeof *out);
    if (out) *out = (jstring){.bytes = bytes, .len = n, .chars = SIZE_MAX, .trusted = trusted};
    return out;
}

jstring *jinja__copy(jvm *vm, const char *bytes, size_t n, bool trusted) {
    char *copy = jinja__alloc(vm, n ? n : 1, 1);
    if (copy == NULL) return NULL;
    if (n) memcpy(copy, bytes, n);
    return jinja__string(vm, copy, n, trusted);
}

jval jinja__text(jvm *vm, const char *bytes) {
    return jinja__of_string(jinja__string(vm, bytes, strlen(bytes), true));
}

jstring *jinja__part(jvm *vm, const jstring *text, size_t from, size_t to) {
    jstring *out = jinja__alloc(vm, 1, sizeof *out);
    if (out == NULL) return NULL;
    if (from > text->len) from = text->len;
    if (to > text->len) to = text->len;
    if (to < from) to = from;
    *out = (jstring){
        .bytes = text->bytes + from, .len = to - from, .chars = SIZE_MAX, .safe = text->safe};
    size_t end;
    out->trusted = jinja__origin(text, from, &end);
    if (text->chars == text->len) out->chars = out->len;
    if (end < to) {
        size_t first = run_of(text, text->skip + from);
        out->runs = text->runs + first;
        out->n_runs = text->n_runs - first;
        out->skip = text->skip + from;
    }
    return out;
}

/* If left ends where its writer stopped, the writer appends in place: a loop that builds a text
 * piece by piece takes linear time. */
jstring *jinja__concat(jvm *vm, jstring *left, const jstring *right) {
    if (vm->failed || left == NULL || right == NULL) return NULL;
    if (right->len == 0) return left;
    jwriter *writer = left->writer;
    if (writer == NULL || left->bytes != writer->bytes || left->len != writer->used) {
        if (right->len > vm->max_output || left->len > vm->max_output - right->len)
            return jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output)
                .string;
        writer = jinja__new_writer(vm, left->len + right->len + (left->len + right->len) / 4 + 64);
        jinja__write_string(vm, writer, left);
    }
    jinja__write_string(vm, writer, right);
    jstring *out = jinja__written(vm, writer);
    if (out) {
        if (left->chars != SIZE_MAX && right->chars != SIZE_MAX)
            out->chars = left->chars + right->chars;
        out->safe = left->safe || right->safe;
    }
    return out;
}

size_t jinja__find(const jstring *text, size_t from, const char *needle, size_t n) {
    if (from > text->len || n > text->len - from) return SIZE_MAX;
    if (n == 0) return from;
    const char *found = memmem(text->bytes + from, text->len - from, needle, n);
    return found ? (size_t)(found - text->bytes) : SIZE_MAX;
}

bool jinja__same(const jstring *left, const jstring *right) {
    return left->len == right->len &&
           (left->len == 0 || memcmp(left->bytes, right->bytes, left->len) == 0);
}

bool jinja__is(const jstring *text, const char *expected) {
    return strlen(expected) == text->len && memcmp(text->bytes, expected, text->len) == 0;
}
