/* strings.c - texts that know, byte by byte, who wrote them. */
#include "base/utf8.h"
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- characters ---- */

uint32_t jinja__code_point(const char *s, size_t n, size_t *len) {
    const unsigned char *b = (const unsigned char *)s;
    *len = n ? utf8_char(s, n) : 0;
    switch (*len) {
    case 1: return b[0];
    case 2: return (b[0] & 31u) << 6 | (b[1] & 63u);
    case 3: return (b[0] & 15u) << 12 | (b[1] & 63u) << 6 | (b[2] & 63u);
    case 4: return (b[0] & 7u) << 18 | (b[1] & 63u) << 12 | (b[2] & 63u) << 6 | (b[3] & 63u);
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

/* As Python's str.isspace. */
bool jinja__is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

size_t jinja__chars(jstring *s) {
    if (s->chars == SIZE_MAX) s->chars = utf8_count(s->s, s->n);
    return s->chars;
}

size_t jinja__char_at(jstring *s, size_t index) {
    if (index >= jinja__chars(s)) return s->n;
    if (s->chars == s->n) return index;
    size_t at = 0;
    for (; index > 0; index--)
        at += utf8_length((unsigned char)s->s[at]);
    return at;
}

/* ---- origins ---- */

/* The first of the runs that ends behind `place`. */
static size_t run_of(const jstring *s, size_t place) {
    size_t low = 0, high = s->n_runs - 1;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (s->runs[mid].end > place) high = mid;
        else low = mid + 1;
    }
    return low;
}

bool jinja__origin(const jstring *s, size_t at, size_t *end) {
    *end = s->n;
    if (s->runs == NULL || at >= s->n) return s->trusted;
    const text_run *run = &s->runs[run_of(s, s->skip + at)];
    if (run->end - s->skip < s->n) *end = run->end - s->skip;
    return run->trusted;
}

bool jinja__all_trusted(const jstring *s) {
    for (size_t at = 0, end; at < s->n; at = end) {
        if (!jinja__origin(s, at, &end)) return false;
    }
    return true;
}

/* ---- writing ---- */

jwriter *jinja__new_writer(jvm *vm, size_t room) {
    jwriter *w = jinja__alloc(vm, 1, sizeof *w);
    if (w == NULL || room == 0) return w;
    w->bytes = jinja__alloc(vm, room, 1);
    w->cap = w->bytes ? room : 0;
    return w;
}

static bool room_for(jvm *vm, jwriter *w, size_t n) {
    if (w->used > vm->max_output || n > vm->max_output - w->used) {
        jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output);
        return false;
    }
    if (n <= w->cap - w->used) return true;
    size_t cap = w->cap < 64 ? 128 : w->cap * 2;
    if (cap < w->used + n) cap = w->used + n;
    char *bytes = jinja__alloc(vm, cap, 1);
    if (bytes == NULL) return false;
    if (w->used) memcpy(bytes, w->bytes, w->used);
    w->bytes = bytes;
    w->cap = cap;
    return true;
}

static bool add_run(jvm *vm, jwriter *w, bool trusted) {
    if (w->n_runs == w->cap_runs) {
        size_t cap = w->cap_runs ? w->cap_runs * 2 : 4;
        text_run *runs = jinja__alloc(vm, cap, sizeof *runs);
        if (runs == NULL) return false;
        if (w->n_runs) memcpy(runs, w->runs, w->n_runs * sizeof *runs);
        w->runs = runs;
        w->cap_runs = cap;
    }
    w->runs[w->n_runs++] = (text_run){w->used, trusted};
    return true;
}

void jinja__write(jvm *vm, jwriter *w, const char *s, size_t n, bool trusted) {
    if (n == 0 || w == NULL || vm->failed || !room_for(vm, w, n)) return;
    if (n > 256 && !jinja__work(vm, n)) return;
    if ((w->n_runs == 0 || w->runs[w->n_runs - 1].trusted != trusted) && !add_run(vm, w, trusted))
        return;
    memcpy(w->bytes + w->used, s, n);
    w->used += n;
    w->runs[w->n_runs - 1].end = w->used;
}

void jinja__write_part(jvm *vm, jwriter *w, const jstring *s, size_t from, size_t to) {
    for (size_t at = from, end; s && at < to && !vm->failed; at = end) {
        bool trusted = jinja__origin(s, at, &end);
        if (end > to) end = to;
        jinja__write(vm, w, s->s + at, end - at, trusted);
    }
}

void jinja__write_string(jvm *vm, jwriter *w, const jstring *s) {
    if (s) jinja__write_part(vm, w, s, 0, s->n);
}

void jinja__write_text(jvm *vm, jwriter *w, const char *s) {
    jinja__write(vm, w, s, strlen(s), true);
}

jstring *jinja__written(jvm *vm, jwriter *w) {
    jstring *s = jinja__alloc(vm, 1, sizeof *s);
    if (s == NULL || w == NULL) return NULL;
    *s = (jstring){.s = w->bytes ? w->bytes : "", .n = w->used, .chars = SIZE_MAX, .in = w};
    s->trusted = w->n_runs == 0 || w->runs[0].trusted;
    if (w->n_runs > 1) {
        s->runs = w->runs;
        s->n_runs = w->n_runs;
    }
    return s;
}

/* ---- strings ---- */

jstring *jinja__string(jvm *vm, const char *s, size_t n, bool trusted) {
    jstring *out = jinja__alloc(vm, 1, sizeof *out);
    if (out) *out = (jstring){.s = s, .n = n, .chars = SIZE_MAX, .trusted = trusted};
    return out;
}

jstring *jinja__copy(jvm *vm, const char *s, size_t n, bool trusted) {
    char *copy = jinja__alloc(vm, n ? n : 1, 1);
    if (copy == NULL) return NULL;
    if (n) memcpy(copy, s, n);
    return jinja__string(vm, copy, n, trusted);
}

jval jinja__text(jvm *vm, const char *s) {
    return jinja__of_string(jinja__string(vm, s, strlen(s), true));
}

jstring *jinja__part(jvm *vm, const jstring *s, size_t from, size_t to) {
    jstring *out = jinja__alloc(vm, 1, sizeof *out);
    if (out == NULL) return NULL;
    if (from > s->n) from = s->n;
    if (to > s->n) to = s->n;
    if (to < from) to = from;
    *out = (jstring){.s = s->s + from, .n = to - from, .chars = SIZE_MAX, .safe = s->safe};
    size_t end;
    out->trusted = jinja__origin(s, from, &end);
    if (s->chars == s->n) out->chars = out->n;
    if (end < to) {
        size_t first = run_of(s, s->skip + from);
        out->runs = s->runs + first;
        out->n_runs = s->n_runs - first;
        out->skip = s->skip + from;
    }
    return out;
}

/* A text that ends where its writer stopped is lengthened in place, so a text that a loop makes
 * longer step by step takes time in proportion to its length. */
jstring *jinja__concat(jvm *vm, jstring *a, const jstring *b) {
    if (vm->failed || a == NULL || b == NULL) return NULL;
    if (b->n == 0) return a;
    jwriter *w = a->in;
    if (w == NULL || a->s != w->bytes || a->n != w->used) {
        if (b->n > vm->max_output || a->n > vm->max_output - b->n)
            return jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output).u.s;
        w = jinja__new_writer(vm, a->n + b->n + (a->n + b->n) / 4 + 64);
        jinja__write_string(vm, w, a);
    }
    jinja__write_string(vm, w, b);
    jstring *out = jinja__written(vm, w);
    if (out) {
        if (a->chars != SIZE_MAX && b->chars != SIZE_MAX) out->chars = a->chars + b->chars;
        out->safe = a->safe || b->safe;
    }
    return out;
}

size_t jinja__find(const jstring *s, size_t from, const char *what, size_t n) {
    if (from > s->n || n > s->n - from) return SIZE_MAX;
    if (n == 0) return from;
    const char *found = memmem(s->s + from, s->n - from, what, n);
    return found ? (size_t)(found - s->s) : SIZE_MAX;
}

bool jinja__same(const jstring *a, const jstring *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->s, b->s, a->n) == 0);
}

bool jinja__is(const jstring *s, const char *text) {
    return strlen(text) == s->n && memcmp(s->s, text, s->n) == 0;
}
