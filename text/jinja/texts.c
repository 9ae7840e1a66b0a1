/* texts.c - stripping, splitting, replacing and padding of texts, for methods and filters. Every
 * byte keeps its origin. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- stripping ---- */

static bool stripped(const jstring *chars, const char *bytes, size_t len) {
    if (chars) return jinja__find(chars, 0, bytes, len) != SIZE_MAX;
    size_t n;
    return jinja__is_space(jinja__code_point(bytes, len, &n));
}

jstring *jinja__stripped(jvm *vm, jstring *text, const jstring *chars, bool left, bool right) {
    size_t from = 0, to = text->len, len;
    while (left && from < to && jinja__work(vm, chars ? chars->len : 0)) {
        (void)jinja__code_point(text->bytes + from, to - from, &len);
        if (!stripped(chars, text->bytes + from, len)) break;
        from += len;
    }
    while (right && to > from && jinja__work(vm, chars ? chars->len : 0)) {
        size_t begin = jinja__char_before(text->bytes, to);
        if (!stripped(chars, text->bytes + begin, to - begin)) break;
        to = begin;
    }
    return from == 0 && to == text->len ? text : jinja__part(vm, text, from, to);
}

/* ---- replacing ---- */

jstring *jinja__replace(jvm *vm, const jstring *text, const jstring *old, const jstring *by,
                        int64_t count) {
    jwriter *out = jinja__new_writer(vm, text->len);
    size_t kept = 0, from = 0;
    (void)jinja__work(vm, text->len);
    while (count != 0 && from <= text->len && jinja__work(vm, 1)) {
        size_t at = jinja__find(text, from, old->bytes, old->len);
        if (at == SIZE_MAX) break;
        jinja__write_part(vm, out, text, kept, at);
        jinja__write_string(vm, out, by);
        kept = from = at + old->len;
        count -= count > 0;
        if (old->len == 0) { /* between all characters */
            size_t len = 1;
            if (at < text->len) (void)jinja__code_point(text->bytes + at, text->len - at, &len);
            from = at + len;
        }
    }
    jinja__write_part(vm, out, text, kept, text->len);
    return jinja__written(vm, out);
}

/* ---- splitting ---- */

static void push_part(jvm *vm, jlist *list, const jstring *text, size_t from, size_t to) {
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, text, from, to)));
}

static bool space_at(const jstring *text, size_t at, size_t *len) {
    return jinja__is_space(jinja__code_point(text->bytes + at, text->len - at, len));
}

static void split_at_space(jvm *vm, jlist *list, const jstring *text, int64_t most) {
    size_t at = 0, len;
    while (jinja__work(vm, 0)) {
        while (at < text->len && space_at(text, at, &len))
            at += len;
        if (at >= text->len) return;
        size_t begin = at;
        while (at < text->len && most != 0 && !space_at(text, at, &len))
            at += len;
        push_part(vm, list, text, begin, most == 0 ? text->len : at);
        if (most-- == 0) return;
    }
}

static void split_at_text(jvm *vm, jlist *list, const jstring *text, const jstring *sep,
                          int64_t most) {
    size_t from = 0, at;
    while (most-- != 0 && jinja__work(vm, 1) &&
           (at = jinja__find(text, from, sep->bytes, sep->len)) != SIZE_MAX) {
        push_part(vm, list, text, from, at);
        from = at + sep->len;
    }
    push_part(vm, list, text, from, text->len);
}

/* The n bytes in reverse. The last match in a text is the first in its reverse, which memmem finds
 * in linear time. */
static char *backwards(jvm *vm, const char *bytes, size_t n) {
    char *out = jinja__alloc(vm, n + 1, 1);
    for (size_t i = 0; out && i < n; i++)
        out[i] = bytes[n - 1 - i];
    return out;
}

size_t jinja__find_last(jvm *vm, const jstring *text, size_t from, size_t end,
                        const jstring *needle) {
    if (end > text->len || end < from || needle->len > end - from) return SIZE_MAX;
    size_t n = end - from;
    const char *back = backwards(vm, text->bytes + from, n),
               *word = backwards(vm, needle->bytes, needle->len);
    const char *found = back && word ? memmem(back, n, word, needle->len) : NULL;
    return found ? end - (size_t)(found - back) - needle->len : SIZE_MAX;
}

static void rsplit_at_space(jvm *vm, jlist *list, const jstring *text, int64_t most) {
    size_t at = text->len, len;
    while (jinja__work(vm, 0)) {
        while (at > 0 && space_at(text, jinja__char_before(text->bytes, at), &len))
            at = jinja__char_before(text->bytes, at);
        if (at == 0) return;
        size_t end = at;
        while (at > 0 && most != 0 && !space_at(text, jinja__char_before(text->bytes, at), &len))
            at = jinja__char_before(text->bytes, at);
        if (most-- != 0) {
            push_part(vm, list, text, at, end);
            continue;
        }
        push_part(vm, list, text, 0, end);
        return;
    }
}

static void rsplit_at_text(jvm *vm, jlist *list, const jstring *text, const jstring *sep,
                           int64_t most) {
    const char *back = backwards(vm, text->bytes, text->len),
               *word = backwards(vm, sep->bytes, sep->len), *found;
    size_t end = text->len;
    while (back && word && most-- != 0 && jinja__work(vm, 1) &&
           (found = memmem(back + (text->len - end), end, word, sep->len)) != NULL) {
        size_t behind = text->len - (size_t)(found - back);
        push_part(vm, list, text, behind, end);
        end = behind - sep->len;
    }
    push_part(vm, list, text, 0, end);
}

jlist *jinja__split(jvm *vm, const jstring *text, const jstring *sep, int64_t most,
                    bool from_right) {
    jlist *list = jinja__new_list(vm, 0);
    if (list == NULL || !jinja__work(vm, text->len)) return NULL;
    if (!from_right) {
        if (sep) split_at_text(vm, list, text, sep, most);
        else split_at_space(vm, list, text, most);
        return list;
    }
    if (sep) rsplit_at_text(vm, list, text, sep, most);
    else rsplit_at_space(vm, list, text, most);
    jinja__reverse_list(list);
    return list;
}

jlist *jinja__lines(jvm *vm, const jstring *text, bool keep_ends) {
    jlist *list = jinja__new_list(vm, 0);
    size_t from = 0, len;
    for (size_t at = 0; at < text->len && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        if (!((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
              cp == 0x2029))
            continue;
        if (cp == '\r' && at + 1 < text->len && text->bytes[at + 1] == '\n') len = 2;
        push_part(vm, list, text, from, keep_ends ? at + len : at);
        from = at + len;
    }
    if (from < text->len) push_part(vm, list, text, from, text->len);
    return list;
}

/* ---- padding ---- */

jstring *jinja__padded(jvm *vm, const jstring *text, int64_t width, const jstring *fill,
                       char align) {
    jstring counted = *text;
    size_t n = jinja__chars(&counted),
           pad = width > 0 && (uint64_t)width > n ? (size_t)width - n : 0;
    if (pad > vm->max_output / fill->len) {
        jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output);
        return NULL;
    }
    size_t before = align == '<' ? 0 : align == '^' ? pad / 2 + (pad & (size_t)width & 1) : pad;
    size_t sign = align == '=' && text->len && (*text->bytes == '-' || *text->bytes == '+');
    jwriter *out = jinja__new_writer(vm, text->len + pad * fill->len);
    jinja__write_part(vm, out, text, 0, sign);
    for (size_t i = 0; i < before && jinja__work(vm, 0); i++)
        jinja__write_string(vm, out, fill);
    jinja__write_part(vm, out, text, sign, text->len);
    for (size_t i = before; i < pad && jinja__work(vm, 0); i++)
        jinja__write_string(vm, out, fill);
    return jinja__written(vm, out);
}
