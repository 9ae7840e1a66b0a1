/* methods_text.c - the methods of texts. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* A text given as an argument. None and other values are refused. */
static jstring *text_arg(jvm *vm, const jcall *call, size_t place, const char *name) {
    jstring *s = jinja__arg_string(vm, call, place, name);
    if (s == NULL && !vm->failed) jinja__fail(vm, "'%s' wants a text", call->what);
    return s;
}

/* ---- case ---- */

#define CASE(name, how)                                                                            \
    static jval name(jvm *vm, jval self, const jcall *call) {                                      \
        (void)call;                                                                                \
        return jinja__of_string(jinja__change_case(vm, self.u.s, how));                            \
    }
CASE(upper, J_UPPER)
CASE(lower, J_LOWER)
CASE(title, J_TITLE)
CASE(capitalize, J_CAPITALIZE)
CASE(swapcase, J_SWAP)

#define IS(name, kind)                                                                             \
    static jval name(jvm *vm, jval self, const jcall *call) {                                      \
        (void)call;                                                                                \
        return jinja__bool(jinja__work(vm, self.u.s->n) && jinja__text_is(self.u.s, kind));        \
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
    return jinja__of_string(jinja__stripped(vm, self.u.s, chars, left, right));
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

static bool has(const jstring *s, const jstring *what, size_t from, size_t to, bool at_end) {
    size_t n = what->n;
    if (from > to || n > to - from) return false;
    return n == 0 || memcmp(s->s + (at_end ? to - n : from), what->s, n) == 0;
}

static size_t place_of_char(jvm *vm, jstring *s, int64_t at) {
    int64_t n = (int64_t)jinja__chars(s);
    if (at < 0) at = at < -n ? 0 : at + n;
    if (at > n) return s->n + 1; /* behind the end, where nothing is found */
    return jinja__work(vm, (size_t)at) ? jinja__char_at(s, (size_t)at) : 0;
}

/* The bytes between the characters that the arguments "start" and "end" say. */
static bool span(jvm *vm, jstring *s, const jcall *call, size_t *from, size_t *to) {
    *from = place_of_char(vm, s, jinja__arg_int(vm, call, 1, "", 0));
    *to = place_of_char(vm, s, jinja__arg_int(vm, call, 2, "", INT64_MAX));
    if (*to > s->n) *to = s->n;
    return !vm->failed;
}

/* One text, or a tuple of which any will do. */
static jval has_end(jvm *vm, jval self, const jcall *call, bool at_end) {
    jval what = call->pos[0];
    jlist one = {.items = &what, .n = 1}, *list = &one;
    size_t from, to;
    if (!span(vm, self.u.s, call, &from, &to)) return jinja__undefined(NULL);
    if (jinja__is_list(what, J_IS_TUPLE)) list = what.u.list;
    for (size_t i = 0; i < list->n && jinja__work(vm, 1); i++) {
        jval v = list->items[i];
        if (v.kind != J_STRING) {
            if (!jinja__use_undefined(vm, v)) return jinja__undefined(NULL);
            return jinja__fail(vm, "'%s' wants a text, not a %s", call->what, jinja__type(v));
        }
        if (has(self.u.s, v.u.s, from, to, at_end)) return jinja__bool(true);
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
    jstring *s = self.u.s, *what = text_arg(vm, call, 0, "");
    if (what == NULL || !has(s, what, 0, s->n, false)) return self;
    return jinja__of_string(jinja__part(vm, s, what->n, s->n));
}
static jval removesuffix(jvm *vm, jval self, const jcall *call) {
    jstring *s = self.u.s, *what = text_arg(vm, call, 0, "");
    if (what == NULL || !has(s, what, 0, s->n, true)) return self;
    return jinja__of_string(jinja__part(vm, s, 0, s->n - what->n));
}

/* ---- parts ---- */

static jval split_from(jvm *vm, jval self, const jcall *call, bool right) {
    jstring *sep = jinja__arg_string(vm, call, 0, "sep");
    int64_t most = jinja__arg_int(vm, call, 1, "maxsplit", -1);
    if (sep && sep->n == 0) return jinja__fail(vm, "'%s' has an empty separator", call->what);
    return vm->failed ? jinja__undefined(NULL)
                      : jinja__of_list(jinja__split(vm, self.u.s, sep, most, right));
}
static jval split(jvm *vm, jval self, const jcall *call) {
    return split_from(vm, self, call, false);
}
static jval rsplit(jvm *vm, jval self, const jcall *call) {
    return split_from(vm, self, call, true);
}

static jval splitlines(jvm *vm, jval self, const jcall *call) {
    bool keep = jinja__arg_bool(call, 0, "keepends", false);
    return jinja__of_list(jinja__lines(vm, self.u.s, keep));
}

/* What stands before a text, the text, and what follows. */
static jval parted(jvm *vm, jval self, const jcall *call, bool last) {
    jstring *s = self.u.s, *sep = text_arg(vm, call, 0, "");
    jlist *list = jinja__new_list(vm, 3);
    if (sep == NULL || list == NULL || !jinja__work(vm, s->n)) return jinja__undefined(NULL);
    if (sep->n == 0) return jinja__fail(vm, "'%s' has an empty separator", call->what);
    size_t at = last ? jinja__find_last(vm, s, 0, s->n, sep) : jinja__find(s, 0, sep->s, sep->n);
    size_t from = at != SIZE_MAX ? at : last ? 0 : s->n, to = at != SIZE_MAX ? at + sep->n : from;
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, s, 0, from)));
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, s, from, to)));
    jinja__push(vm, list, jinja__of_string(jinja__part(vm, s, to, s->n)));
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
    jstring *what = text_arg(vm, call, 0, ""), *s = self.u.s;
    size_t from, to;
    if (what == NULL || !jinja__work(vm, s->n) || !span(vm, s, call, &from, &to))
        return jinja__undefined(NULL);
    size_t at =
        last ? jinja__find_last(vm, s, from, to, what) : jinja__find(s, from, what->s, what->n);
    if (at == SIZE_MAX || at + what->n > to) return jinja__int(-1);
    jstring before = {.s = s->s, .n = at, .chars = SIZE_MAX};
    return jinja__int((int64_t)jinja__chars(&before));
}
static jval find(jvm *vm, jval self, const jcall *call) {
    return place_of(vm, self, call, false);
}
static jval rfind(jvm *vm, jval self, const jcall *call) {
    return place_of(vm, self, call, true);
}
static jval found(jvm *vm, const jcall *call, jval v) {
    return v.kind == J_INT && v.u.i < 0 ? jinja__fail(vm, "'%s' does not find the text", call->what)
                                        : v;
}
static jval text_index(jvm *vm, jval self, const jcall *call) {
    return found(vm, call, find(vm, self, call));
}
static jval rindex_of(jvm *vm, jval self, const jcall *call) {
    return found(vm, call, rfind(vm, self, call));
}

static jval text_count(jvm *vm, jval self, const jcall *call) {
    jstring *what = text_arg(vm, call, 0, ""), *s = self.u.s;
    size_t from, to;
    int64_t n = 0;
    if (what == NULL || !jinja__work(vm, s->n) || !span(vm, s, call, &from, &to))
        return jinja__undefined(NULL);
    jstring part = {.s = s->s + (from < to ? from : to), .n = from < to ? to - from : 0};
    part.chars = SIZE_MAX;
    if (what->n == 0) return jinja__int(from > to ? 0 : (int64_t)jinja__chars(&part) + 1);
    for (size_t at = 0; (at = jinja__find(&part, at, what->s, what->n)) != SIZE_MAX; at += what->n)
        n++;
    return jinja__int(n);
}

/* ---- making ---- */

static jval replace(jvm *vm, jval self, const jcall *call) {
    jstring *old = text_arg(vm, call, 0, ""), *by = text_arg(vm, call, 1, "");
    int64_t count = jinja__arg_int(vm, call, 2, "count", -1);
    if (vm->failed || !jinja__is_plain(vm, self.u.s, call->what)) return jinja__undefined(NULL);
    return jinja__of_string(jinja__replace(vm, self.u.s, old, by, count));
}

static jval join(jvm *vm, jval self, const jcall *call) {
    if (!jinja__is_plain(vm, self.u.s, call->what)) return jinja__undefined(NULL);
    jlist *list = jinja__iterate(vm, call->pos[0]);
    jwriter *w = jinja__new_writer(vm, 0);
    for (size_t i = 0; list && i < list->n && jinja__work(vm, 1); i++) {
        jval v = list->items[i];
        if (v.kind != J_STRING) {
            if (!jinja__use_undefined(vm, v)) break;
            return jinja__fail(vm, "'join' wants texts, not a %s", jinja__type(v));
        }
        if (i) jinja__write_string(vm, w, self.u.s);
        jinja__write_string(vm, w, v.u.s);
    }
    return jinja__of_string(jinja__written(vm, w));
}

static jval pad(jvm *vm, jval self, const jcall *call, char align) {
    static jstring space = {.s = " ", .n = 1, .chars = 1, .trusted = true};
    int64_t width = jinja__arg_int(vm, call, 0, "", 0);
    jval given;
    jstring *fill = jinja__arg(call, 1, "", &given) ? text_arg(vm, call, 1, "") : &space;
    if (fill == NULL || vm->failed || !jinja__is_plain(vm, self.u.s, call->what))
        return jinja__undefined(NULL);
    if (jinja__chars(fill) != 1)
        return jinja__fail(vm, "'%s' fills with one character", call->what);
    return jinja__of_string(jinja__padded(vm, self.u.s, width, fill, align));
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
    static const jstring zero = {.s = "0", .n = 1, .chars = 1, .trusted = true};
    int64_t width = jinja__arg_int(vm, call, 0, "", 0);
    return vm->failed ? self : jinja__of_string(jinja__padded(vm, self.u.s, width, &zero, '='));
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
