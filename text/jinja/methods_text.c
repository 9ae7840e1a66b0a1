/* methods_text.c - the methods of texts. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* A text argument. Refuses None and other types. */
static jstring *text_arg(jvm *vm, const jcall *call, size_t pos, const char *name) {
    jstring *text = jinja__arg_string(vm, call, pos, name);
    if (text == NULL && !vm->failed) jinja__fail(vm, "'%s' wants a text", call->name);
    return text;
}

/* ---- case ---- */

#define CASE(name, how)                                                                            \
    static jval name(jvm *vm, jval self, const jcall *call) {                                      \
        (void)call;                                                                                \
        return jinja__of_string(jinja__change_case(vm, self.string, how));                         \
    }
CASE(upper, J_UPPER)
CASE(lower, J_LOWER)
CASE(title, J_TITLE)
CASE(capitalize, J_CAPITALIZE)
CASE(swapcase, J_SWAP)

#define IS(name, kind)                                                                             \
    static jval name(jvm *vm, jval self, const jcall *call) {                                      \
        (void)call;                                                                                \
        return jinja__bool(jinja__work(vm, self.string->len) &&                                    \
                           jinja__text_is(self.string, kind));                                     \
    }
IS(is_alpha, J_ALPHA)
IS(is_alnum, J_ALNUM)
IS(is_decimal, J_DECIMAL)
IS(is_digit, J_DIGIT)
IS(is_space, J_SPACE)
IS(is_upper, J_ALL_UPPER)
IS(is_lower, J_ALL_LOWER)
IS(is_title, J_ALL_TITLE)

/* ---- ends ---- */

static jval strip_ends(jvm *vm, jval self, const jcall *call, bool left, bool right) {
    jstring *chars = jinja__arg_string(vm, call, 0, "chars");
    return jinja__of_string(jinja__stripped(vm, self.string, chars, left, right));
}
static jval strip(jvm *vm, jval self, const jcall *call) {
    return strip_ends(vm, self, call, true, true);
}
static jval lstrip(jvm *vm, jval self, const jcall *call) {
    return strip_ends(vm, self, call, true, false);
}
static jval rstrip(jvm *vm, jval self, const jcall *call) {
    return strip_ends(vm, self, call, false, true);
}

static bool has(const jstring *text, const jstring *end, size_t from, size_t to, bool at_end) {
    size_t n = end->len;
    if (from > to || n > to - from) return false;
    return n == 0 || memcmp(text->bytes + (at_end ? to - n : from), end->bytes, n) == 0;
}

static size_t place_of_char(jvm *vm, jstring *text, int64_t at) {
    int64_t n = (int64_t)jinja__chars(text);
    if (at < 0) at = at < -n ? 0 : at + n;
    if (at > n) return text->len + 1; /* behind the end: a search from here finds nothing */
    return jinja__work(vm, (size_t)at) ? jinja__char_at(text, (size_t)at) : 0;
}

/* The byte range of the arguments "start" and "end", which count characters. */
static bool span(jvm *vm, jstring *text, const jcall *call, size_t *from, size_t *to) {
    *from = place_of_char(vm, text, jinja__arg_int(vm, call, 1, "", 0));
    *to = place_of_char(vm, text, jinja__arg_int(vm, call, 2, "", INT64_MAX));
    if (*to > text->len) *to = text->len;
    return !vm->failed;
}

/* True if the argument, or any member of a tuple, is the beginning or end. */
static jval has_end(jvm *vm, jval self, const jcall *call, bool at_end) {
    jval ends = call->pos[0];
    jlist one = {.items = &ends, .count = 1}, *list = &one;
    size_t from, to;
    if (!span(vm, self.string, call, &from, &to)) return jinja__undefined(NULL);
    if (jinja__is_list(ends, J_IS_TUPLE)) list = ends.list;
    for (size_t i = 0; i < list->count && jinja__work(vm, 1); i++) {
        jval value = list->items[i];
        if (value.kind != J_STRING) {
            if (!jinja__check_defined(vm, value)) return jinja__undefined(NULL);
            return jinja__fail(vm, "'%s' wants a text, not a %s", call->name, jinja__type(value));
        }
        if (has(self.string, value.string, from, to, at_end)) return jinja__bool(true);
    }
    return jinja__bool(false);
}
static jval startswith(jvm *vm, jval self, const jcall *call) {
    return has_end(vm, self, call, false);
}
static jval endswith(jvm *vm, jval self, const jcall *call) {
    return has_end(vm, self, call, true);
}

static jval removeprefix(jvm *vm, jval self, const jcall *call) {
    jstring *text = self.string, *prefix = text_arg(vm, call, 0, "");
    if (prefix == NULL || !has(text, prefix, 0, text->len, false)) return self;
    return jinja__of_string(jinja__part(vm, text, prefix->len, text->len));
}
static jval removesuffix(jvm *vm, jval self, const jcall *call) {
    jstring *text = self.string, *suffix = text_arg(vm, call, 0, "");
    if (suffix == NULL || !has(text, suffix, 0, text->len, true)) return self;
    return jinja__of_string(jinja__part(vm, text, 0, text->len - suffix->len));
}

/* ---- parts ---- */

static jval split_from(jvm *vm, jval self, const jcall *call, bool right) {
    jstring *sep = jinja__arg_string(vm, call, 0, "sep");
    int64_t most = jinja__arg_int(vm, call, 1, "maxsplit", -1);
    if (sep && sep->len == 0) return jinja__fail(vm, "'%s' has an empty separator", call->name);
    return vm->failed ? jinja__undefined(NULL)
                      : jinja__of_list(jinja__split(vm, self.string, sep, most, right));
}
static jval split(jvm *vm, jval self, const jcall *call) {
    return split_from(vm, self, call, false);
}
static jval rsplit(jvm *vm, jval self, const jcall *call) {
    return split_from(vm, self, call, true);
}

static jval splitlines(jvm *vm, jval self, const jcall *call) {
    bool keep = jinja__arg_bool(call, 0, "keepends", false);
    return jinja__of_list(jinja__lines(vm, self.string, keep));
}

/* A tuple: the text before the separator, the separator, the text behind it. */
static jval parted(jvm *vm, jval self, const jcall *call, bool last) {
    jstring *text = self.string, *sep = text_arg(vm, call, 0, "");
    jlist *list = jinja__new_list(vm, 3);
    if (sep == NULL || list == NULL || !jinja__work(vm, text->len)) return jinja__undefined(NULL);
    if (sep->len == 0) return jinja__fail(vm, "'%s' has an empty separator", call->name);
    size_t at = last ? jinja__find_last(vm, text, 0, text->len, sep)
                     : jinja__find(text, 0, sep->bytes, sep->len);
    size_t from = at != SIZE_MAX ? at
                  : last         ? 0
                                 : text->len,
           to = at != SIZE_MAX ? at + sep->len : from;
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, text, 0, from)));
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, text, from, to)));
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, text, to, text->len)));
    list->form = J_IS_TUPLE;
    return jinja__of_list(list);
}
static jval partition(jvm *vm, jval self, const jcall *call) {
    return parted(vm, self, call, false);
}
static jval rpartition(jvm *vm, jval self, const jcall *call) {
    return parted(vm, self, call, true);
}

/* ---- finding ---- */

static jval place_of(jvm *vm, jval self, const jcall *call, bool last) {
    jstring *needle = text_arg(vm, call, 0, ""), *text = self.string;
    size_t from, to;
    if (needle == NULL || !jinja__work(vm, text->len) || !span(vm, text, call, &from, &to))
        return jinja__undefined(NULL);
    size_t at = last ? jinja__find_last(vm, text, from, to, needle)
                     : jinja__find(text, from, needle->bytes, needle->len);
    if (at == SIZE_MAX || at + needle->len > to) return jinja__int(-1);
    jstring before = {.bytes = text->bytes, .len = at, .chars = SIZE_MAX};
    return jinja__int((int64_t)jinja__chars(&before));
}
static jval find(jvm *vm, jval self, const jcall *call) {
    return place_of(vm, self, call, false);
}
static jval rfind(jvm *vm, jval self, const jcall *call) {
    return place_of(vm, self, call, true);
}
static jval found(jvm *vm, const jcall *call, jval value) {
    return value.kind == J_INT && value.integer < 0
               ? jinja__fail(vm, "'%s' does not find the text", call->name)
               : value;
}
static jval text_index(jvm *vm, jval self, const jcall *call) {
    return found(vm, call, find(vm, self, call));
}
static jval rindex_of(jvm *vm, jval self, const jcall *call) {
    return found(vm, call, rfind(vm, self, call));
}

static jval text_count(jvm *vm, jval self, const jcall *call) {
    jstring *needle = text_arg(vm, call, 0, ""), *text = self.string;
    size_t from, to;
    int64_t n = 0;
    if (needle == NULL || !jinja__work(vm, text->len) || !span(vm, text, call, &from, &to))
        return jinja__undefined(NULL);
    jstring part = {.bytes = text->bytes + (from < to ? from : to),
                    .len = from < to ? to - from : 0};
    part.chars = SIZE_MAX;
    if (needle->len == 0) return jinja__int(from > to ? 0 : (int64_t)jinja__chars(&part) + 1);
    for (size_t at = 0; (at = jinja__find(&part, at, needle->bytes, needle->len)) != SIZE_MAX;
         at += needle->len)
        n++;
    return jinja__int(n);
}

/* ---- new texts ---- */

static jval replace(jvm *vm, jval self, const jcall *call) {
    jstring *old = text_arg(vm, call, 0, ""), *by = text_arg(vm, call, 1, "");
    int64_t count = jinja__arg_int(vm, call, 2, "count", -1);
    if (vm->failed || !jinja__check_plain(vm, self.string, call->name))
        return jinja__undefined(NULL);
    return jinja__of_string(jinja__replace(vm, self.string, old, by, count));
}

static jval join(jvm *vm, jval self, const jcall *call) {
    if (!jinja__check_plain(vm, self.string, call->name)) return jinja__undefined(NULL);
    jlist *list = jinja__iterate(vm, call->pos[0]);
    jwriter *out = jinja__new_writer(vm, 0);
    for (size_t i = 0; list && i < list->count && jinja__work(vm, 1); i++) {
        jval value = list->items[i];
        if (value.kind != J_STRING) {
            if (!jinja__check_defined(vm, value)) break;
            return jinja__fail(vm, "'join' wants texts, not a %s", jinja__type(value));
        }
        if (i) jinja__write_string(vm, out, self.string);
        jinja__write_string(vm, out, value.string);
    }
    return jinja__of_string(jinja__written(vm, out));
}

static jval pad(jvm *vm, jval self, const jcall *call, char align) {
    static jstring space = {.bytes = " ", .len = 1, .chars = 1, .trusted = true};
    int64_t width = jinja__arg_int(vm, call, 0, "", 0);
    jval given;
    jstring *fill = jinja__arg(call, 1, "", &given) ? text_arg(vm, call, 1, "") : &space;
    if (fill == NULL || vm->failed || !jinja__check_plain(vm, self.string, call->name))
        return jinja__undefined(NULL);
    if (jinja__chars(fill) != 1)
        return jinja__fail(vm, "'%s' fills with one character", call->name);
    return jinja__of_string(jinja__padded(vm, self.string, width, fill, align));
}
static jval ljust(jvm *vm, jval self, const jcall *call) {
    return pad(vm, self, call, '<');
}
static jval rjust(jvm *vm, jval self, const jcall *call) {
    return pad(vm, self, call, '>');
}
static jval center(jvm *vm, jval self, const jcall *call) {
    return pad(vm, self, call, '^');
}

static jval zfill(jvm *vm, jval self, const jcall *call) {
    static const jstring zero = {.bytes = "0", .len = 1, .chars = 1, .trusted = true};
    int64_t width = jinja__arg_int(vm, call, 0, "", 0);
    return vm->failed ? self : jinja__of_string(jinja__padded(vm, self.string, width, &zero, '='));
}

const jfunction jinja__text_methods[] = {
    {"split", split, "sep maxsplit", 0, 2},
    {"strip", strip, "", 0, 1},
    {"lstrip", lstrip, "", 0, 1},
    {"rstrip", rstrip, "", 0, 1},
    {"startswith", startswith, "", 1, 3},
    {"endswith", endswith, "", 1, 3},
    {"replace", replace, "", 2, 3},
    {"upper", upper, "", 0, 0},
    {"lower", lower, "", 0, 0},
    {"title", title, "", 0, 0},
    {"capitalize", capitalize, "", 0, 0},
    {"swapcase", swapcase, "", 0, 0},
    {"rsplit", rsplit, "sep maxsplit", 0, 2},
    {"splitlines", splitlines, "keepends", 0, 1},
    {"partition", partition, "", 1, 1},
    {"rpartition", rpartition, "", 1, 1},
    {"find", find, "", 1, 3},
    {"rfind", rfind, "", 1, 3},
    {"index", text_index, "", 1, 3},
    {"rindex", rindex_of, "", 1, 3},
    {"count", text_count, "", 1, 3},
    {"join", join, "", 1, 1},
    {"removeprefix", removeprefix, "", 1, 1},
    {"removesuffix", removesuffix, "", 1, 1},
    {"format", jinja__str_format, "*", 0, 1 << 20},
    {"isalpha", is_alpha, "", 0, 0},
    {"isalnum", is_alnum, "", 0, 0},
    {"isdecimal", is_decimal, "", 0, 0},
    {"isdigit", is_digit, "", 0, 0},
    {"isspace", is_space, "", 0, 0},
    {"isupper", is_upper, "", 0, 0},
    {"islower", is_lower, "", 0, 0},
    {"istitle", is_title, "", 0, 0},
    {"ljust", ljust, "", 1, 2},
    {"rjust", rjust, "", 1, 2},
    {"center", center, "", 1, 2},
    {"zfill", zfill, "", 1, 1},
};
const size_t jinja__n_text_methods = ARRAY_LEN(jinja__text_methods);
