/* texts.c - what methods and filters do with texts: stripping, splitting, replacing. Every byte
 * keeps its origin. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- stripping ---- */

static bool stripped(const jstring *chars, const char *s, size_t len) {
    if (chars) return jinja__find(chars, 0, s, len) != SIZE_MAX;
    size_t n;
    return jinja__is_space(jinja__code_point(s, len, &n));
}

jstring *jinja__stripped(jvm *vm, jstring *s, const jstring *chars, bool left, bool right) {
    size_t from = 0, to = s->n, len;
    while (left && from < to && jinja__work(vm, chars ? chars->n : 0)) {
        (void)jinja__code_point(s->s + from, to - from, &len);
        if (!stripped(chars, s->s + from, len)) break;
        from += len;
    }
    while (right && to > from && jinja__work(vm, chars ? chars->n : 0)) {
        size_t begin = to - 1;
        while (begin > from && ((unsigned char)s->s[begin] & 0xc0) == 0x80)
            begin--;
        if (!stripped(chars, s->s + begin, to - begin)) break;
        to = begin;
    }
    return from == 0 && to == s->n ? s : jinja__part(vm, s, from, to);
}

/* ---- replacing ---- */

jstring *jinja__replace(jvm *vm, const jstring *s, const jstring *old, const jstring *by,
                        int64_t count) {
    jwriter *w = jinja__new_writer(vm, s->n);
    size_t kept = 0, from = 0;
    (void)jinja__work(vm, s->n);
    while (count != 0 && from <= s->n && jinja__work(vm, 1)) {
        size_t at = jinja__find(s, from, old->s, old->n);
        if (at == SIZE_MAX) break;
        jinja__write_part(vm, w, s, kept, at);
        jinja__write_string(vm, w, by);
        kept = from = at + old->n;
        count -= count > 0;
        if (old->n == 0) { /* between all characters */
            size_t len = 1;
            if (at < s->n) (void)jinja__code_point(s->s + at, s->n - at, &len);
            from = at + len;
        }
    }
    jinja__write_part(vm, w, s, kept, s->n);
    return jinja__written(vm, w);
}

/* ---- splitting ---- */

static void push_part(jvm *vm, jlist *list, const jstring *s, size_t from, size_t to) {
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, s, from, to)));
}

static bool space_at(const jstring *s, size_t at, size_t *len) {
    return jinja__is_space(jinja__code_point(s->s + at, s->n - at, len));
}

/* The byte where the character that ends before `at` begins. */
static size_t before(const jstring *s, size_t at) {
    at--;
    while (at > 0 && ((unsigned char)s->s[at] & 0xc0) == 0x80)
        at--;
    return at;
}

static void split_at_space(jvm *vm, jlist *list, const jstring *s, int64_t most) {
    size_t at = 0, len;
    while (jinja__work(vm, 0)) {
        while (at < s->n && space_at(s, at, &len))
            at += len;
        if (at >= s->n) return;
        size_t begin = at;
        while (at < s->n && most != 0 && !space_at(s, at, &len))
            at += len;
        push_part(vm, list, s, begin, most == 0 ? s->n : at);
        if (most-- == 0) return;
    }
}

static void split_at_text(jvm *vm, jlist *list, const jstring *s, const jstring *sep,
                          int64_t most) {
    size_t from = 0, at;
    while (most-- != 0 && jinja__work(vm, 1) &&
           (at = jinja__find(s, from, sep->s, sep->n)) != SIZE_MAX) {
        push_part(vm, list, s, from, at);
        from = at + sep->n;
    }
    push_part(vm, list, s, from, s->n);
}

static void reverse_list(jlist *list) {
    for (size_t i = 0; i < list->n / 2; i++) {
        jval kept = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = kept;
    }
}

/* The n bytes from behind. Looking for the last place is looking for the first one there, which
 * takes time in proportion to the text. */
static char *backwards(jvm *vm, const char *s, size_t n) {
    char *out = jinja__alloc(vm, n + 1, 1);
    for (size_t i = 0; out && i < n; i++)
        out[i] = s[n - 1 - i];
    return out;
}

size_t jinja__find_last(jvm *vm, const jstring *s, size_t from, size_t end, const jstring *what) {
    if (end > s->n || end < from || what->n > end - from) return SIZE_MAX;
    size_t n = end - from;
    const char *text = backwards(vm, s->s + from, n), *word = backwards(vm, what->s, what->n);
    const char *found = text && word ? memmem(text, n, word, what->n) : NULL;
    return found ? end - (size_t)(found - text) - what->n : SIZE_MAX;
}

static void rsplit_at_space(jvm *vm, jlist *list, const jstring *s, int64_t most) {
    size_t at = s->n, len;
    while (jinja__work(vm, 0)) {
        while (at > 0 && space_at(s, before(s, at), &len))
            at = before(s, at);
        if (at == 0) return;
        size_t end = at;
        while (at > 0 && most != 0 && !space_at(s, before(s, at), &len))
            at = before(s, at);
        if (most-- != 0) {
            push_part(vm, list, s, at, end);
            continue;
        }
        push_part(vm, list, s, 0, end);
        return;
    }
}

static void rsplit_at_text(jvm *vm, jlist *list, const jstring *s, const jstring *sep,
                           int64_t most) {
    const char *text = backwards(vm, s->s, s->n), *word = backwards(vm, sep->s, sep->n), *found;
    size_t end = s->n;
    while (text && word && most-- != 0 && jinja__work(vm, 1) &&
           (found = memmem(text + (s->n - end), end, word, sep->n)) != NULL) {
        size_t behind = s->n - (size_t)(found - text);
        push_part(vm, list, s, behind, end);
        end = behind - sep->n;
    }
    push_part(vm, list, s, 0, end);
}

jlist *jinja__split(jvm *vm, const jstring *s, const jstring *sep, int64_t most, bool from_right) {
    jlist *list = jinja__new_list(vm, 0);
    if (list == NULL || !jinja__work(vm, s->n)) return NULL;
    if (!from_right) {
        if (sep) split_at_text(vm, list, s, sep, most);
        else split_at_space(vm, list, s, most);
        return list;
    }
    if (sep) rsplit_at_text(vm, list, s, sep, most);
    else rsplit_at_space(vm, list, s, most);
    reverse_list(list);
    return list;
}

jlist *jinja__lines(jvm *vm, const jstring *s, bool keep_ends) {
    jlist *list = jinja__new_list(vm, 0);
    size_t from = 0, len;
    for (size_t at = 0; at < s->n && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(s->s + at, s->n - at, &len);
        if (!((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
              cp == 0x2029))
            continue;
        if (cp == '\r' && at + 1 < s->n && s->s[at + 1] == '\n') len = 2;
        push_part(vm, list, s, from, keep_ends ? at + len : at);
        from = at + len;
    }
    if (from < s->n) push_part(vm, list, s, from, s->n);
    return list;
}

/* ---- filling up ---- */

jstring *jinja__padded(jvm *vm, const jstring *s, int64_t width, const jstring *fill, char align) {
    jstring counted = *s;
    size_t n = jinja__chars(&counted),
           pad = width > 0 && (uint64_t)width > n ? (size_t)width - n : 0;
    if (pad > vm->max_output / fill->n) {
        jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output);
        return NULL;
    }
    size_t before = align == '<' ? 0 : align == '^' ? pad / 2 + (pad & (size_t)width & 1) : pad;
    size_t sign = align == '=' && s->n && (*s->s == '-' || *s->s == '+');
    jwriter *w = jinja__new_writer(vm, s->n + pad * fill->n);
    jinja__write_part(vm, w, s, 0, sign);
    for (size_t i = 0; i < before && jinja__work(vm, 0); i++)
        jinja__write_string(vm, w, fill);
    jinja__write_part(vm, w, s, sign, s->n);
    for (size_t i = before; i < pad && jinja__work(vm, 0); i++)
        jinja__write_string(vm, w, fill);
    return jinja__written(vm, w);
}
