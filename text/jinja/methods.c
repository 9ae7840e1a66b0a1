/* methods.c - the methods of texts, dicts and lists. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- texts ---- */

static jval upper(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_string(jinja__change_case(vm, self.u.s, J_UPPER));
}
static jval lower(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_string(jinja__change_case(vm, self.u.s, J_LOWER));
}
static jval title(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_string(jinja__change_case(vm, self.u.s, J_TITLE));
}
static jval capitalize(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_string(jinja__change_case(vm, self.u.s, J_CAPITALIZE));
}

static jval strip(jvm *vm, jval self, const jcall *call) {
    jstring *chars = jinja__arg_string(vm, call, 0, "chars");
    return jinja__of_string(jinja__stripped(vm, self.u.s, chars, true, true));
}
static jval lstrip(jvm *vm, jval self, const jcall *call) {
    jstring *chars = jinja__arg_string(vm, call, 0, "chars");
    return jinja__of_string(jinja__stripped(vm, self.u.s, chars, true, false));
}
static jval rstrip(jvm *vm, jval self, const jcall *call) {
    jstring *chars = jinja__arg_string(vm, call, 0, "chars");
    return jinja__of_string(jinja__stripped(vm, self.u.s, chars, false, true));
}

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
        if (most == 0) { /* the rest, without the white space at its end */
            at = s->n;
            while (at > begin && space_at(s, before(s, at), &len))
                at = before(s, at);
            push_part(vm, list, s, begin, at);
            return;
        }
        push_part(vm, list, s, begin, at);
        most--;
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

static jval split(jvm *vm, jval self, const jcall *call) {
    jstring *sep = jinja__arg_string(vm, call, 0, "sep");
    int64_t most = jinja__arg_int(vm, call, 1, "maxsplit", -1);
    jlist *list = jinja__new_list(vm, 0);
    if (sep && sep->n == 0) return jinja__fail(vm, "'split' has an empty separator");
    if (!jinja__work(vm, self.u.s->n)) return jinja__undefined(NULL);
    if (sep) split_at_text(vm, list, self.u.s, sep, most);
    else split_at_space(vm, list, self.u.s, most);
    return jinja__of_list(list);
}

static void reverse_list(jlist *list) {
    for (size_t i = 0; i < list->n / 2; i++) {
        jval kept = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = kept;
    }
}

/* The last place before `end` where `what` begins and is over. */
static size_t find_last(const jstring *s, size_t end, const jstring *what) {
    if (what->n > end) return SIZE_MAX;
    for (size_t at = end - what->n + 1; at-- > 0;) {
        if (what->n == 0 || memcmp(s->s + at, what->s, what->n) == 0) return at;
    }
    return SIZE_MAX;
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
        at = 0;
        while (at < end && space_at(s, at, &len))
            at += len;
        push_part(vm, list, s, at, end);
        return;
    }
}

static jval rsplit(jvm *vm, jval self, const jcall *call) {
    jstring *sep = jinja__arg_string(vm, call, 0, "sep"), *s = self.u.s;
    int64_t most = jinja__arg_int(vm, call, 1, "maxsplit", -1);
    jlist *list = jinja__new_list(vm, 0);
    if (sep && sep->n == 0) return jinja__fail(vm, "'rsplit' has an empty separator");
    if (list == NULL || !jinja__work(vm, s->n)) return jinja__undefined(NULL);
    if (sep == NULL) {
        rsplit_at_space(vm, list, s, most);
    } else {
        size_t end = s->n, at;
        while (most-- != 0 && jinja__work(vm, 1) && (at = find_last(s, end, sep)) != SIZE_MAX) {
            push_part(vm, list, s, at + sep->n, end);
            end = at;
        }
        push_part(vm, list, s, 0, end);
    }
    reverse_list(list);
    return jinja__of_list(list);
}

static jval splitlines(jvm *vm, jval self, const jcall *call) {
    bool keep = jinja__arg_bool(call, 0, "keepends", false);
    const jstring *s = self.u.s;
    jlist *list = jinja__new_list(vm, 0);
    size_t from = 0, len;
    for (size_t at = 0; at < s->n && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(s->s + at, s->n - at, &len);
        if (!((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
              cp == 0x2029))
            continue;
        if (cp == '\r' && at + 1 < s->n && s->s[at + 1] == '\n') len = 2;
        push_part(vm, list, s, from, keep ? at + len : at);
        from = at + len;
    }
    if (from < s->n) push_part(vm, list, s, from, s->n);
    return jinja__of_list(list);
}

/* One text, or a tuple of which any will do. */
static jval has_end(jvm *vm, jval self, const jcall *call, bool at_end) {
    jval what = call->pos[0];
    const jstring *s = self.u.s;
    jlist one = {.items = &what, .n = 1},
          *list = jinja__is_list(what, J_IS_TUPLE) ? what.u.list : &one;
    for (size_t i = 0; i < list->n; i++) {
        jval v = list->items[i];
        if (v.kind != J_STRING) {
            if (!jinja__use_undefined(vm, v)) return jinja__undefined(NULL);
            return jinja__fail(vm, "'%s' wants a text, not a %s", call->what, jinja__type(v));
        }
        size_t n = v.u.s->n;
        if (n <= s->n && (n == 0 || memcmp(s->s + (at_end ? s->n - n : 0), v.u.s->s, n) == 0))
            return jinja__bool(true);
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
    jstring *s = self.u.s, *what = jinja__arg_string(vm, call, 0, "prefix");
    if (what == NULL || what->n > s->n || what->n == 0 || memcmp(s->s, what->s, what->n) != 0)
        return self;
    return jinja__of_string(jinja__part(vm, s, what->n, s->n));
}
static jval removesuffix(jvm *vm, jval self, const jcall *call) {
    jstring *s = self.u.s, *what = jinja__arg_string(vm, call, 0, "suffix");
    if (what == NULL || what->n > s->n || what->n == 0 ||
        memcmp(s->s + s->n - what->n, what->s, what->n) != 0)
        return self;
    return jinja__of_string(jinja__part(vm, s, 0, s->n - what->n));
}

static jval replace(jvm *vm, jval self, const jcall *call) {
    jstring *old = jinja__arg_string(vm, call, 0, "old"),
            *by = jinja__arg_string(vm, call, 1, "new");
    int64_t count = jinja__arg_int(vm, call, 2, "count", -1);
    if (vm->failed) return jinja__undefined(NULL);
    if (old == NULL || by == NULL) return jinja__fail(vm, "'replace' wants two texts");
    return jinja__of_string(jinja__replace(vm, self.u.s, old, by, count));
}

static size_t chars_before(const jstring *s, size_t at) {
    jstring part = {.s = s->s, .n = at, .chars = SIZE_MAX};
    return jinja__chars(&part);
}

static jval place_of(jvm *vm, jval self, const jcall *call, bool last) {
    jstring *what = jinja__arg_string(vm, call, 0, "sub"), *s = self.u.s;
    if (vm->failed || !jinja__work(vm, s->n)) return jinja__undefined(NULL);
    if (what == NULL) return jinja__fail(vm, "'%s' wants a text", call->what);
    size_t at = last ? find_last(s, s->n, what) : jinja__find(s, 0, what->s, what->n);
    return jinja__int(at == SIZE_MAX ? -1 : (int64_t)chars_before(s, at));
}
static jval find(jvm *vm, jval self, const jcall *call) {
    return place_of(vm, self, call, false);
}
static jval rfind(jvm *vm, jval self, const jcall *call) {
    return place_of(vm, self, call, true);
}
static jval text_index(jvm *vm, jval self, const jcall *call) {
    jval v = place_of(vm, self, call, false);
    return v.kind == J_INT && v.u.i < 0 ? jinja__fail(vm, "'index' does not find the text") : v;
}

static jval text_count(jvm *vm, jval self, const jcall *call) {
    jstring *what = jinja__arg_string(vm, call, 0, "sub"), *s = self.u.s;
    int64_t n = 0;
    if (vm->failed || !jinja__work(vm, s->n)) return jinja__undefined(NULL);
    if (what == NULL) return jinja__fail(vm, "'count' wants a text");
    if (what->n == 0) return jinja__int((int64_t)jinja__chars(s) + 1);
    for (size_t at = 0; (at = jinja__find(s, at, what->s, what->n)) != SIZE_MAX; at += what->n)
        n++;
    return jinja__int(n);
}

static jval text_join(jvm *vm, jval self, const jcall *call) {
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

/* ---- dicts ---- */

static jval get(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__none();
    const jval *v = jinja__dict_get(vm, self.u.dict, call->pos[0]);
    (void)jinja__arg(call, 1, "default", &otherwise);
    return v ? *v : otherwise;
}

static jval view(jvm *vm, const jdict *d, jform form) {
    jlist *list = jinja__new_list(vm, d->n);
    for (size_t i = 0; list && i < d->n && jinja__work(vm, 0); i++) {
        jval v = form == J_IS_VALUES ? d->entries[i].value : d->entries[i].key;
        if (form == J_IS_ITEMS) {
            jlist *pair = jinja__new_list(vm, 2);
            jinja__push(vm, pair, d->entries[i].key);
            jinja__push(vm, pair, d->entries[i].value);
            if (pair) pair->form = J_IS_TUPLE;
            v = jinja__of_list(pair);
        }
        jinja__push(vm, list, v);
    }
    if (list) list->form = (uint8_t)form;
    return jinja__of_list(list);
}
jval jinja__dict_items(jvm *vm, const jdict *d) {
    return view(vm, d, J_IS_ITEMS);
}
static jval items(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return view(vm, self.u.dict, J_IS_ITEMS);
}
static jval keys(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return view(vm, self.u.dict, J_IS_KEYS);
}
static jval values(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return view(vm, self.u.dict, J_IS_VALUES);
}

static jval copy(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jdict *d = jinja__new_dict(vm);
    for (size_t i = 0; d && i < self.u.dict->n; i++)
        jinja__dict_set(vm, d, self.u.dict->entries[i].key, self.u.dict->entries[i].value);
    return jinja__of_dict(d);
}

/* ---- lists ---- */

static jval list_index(jvm *vm, jval self, const jcall *call) {
    for (size_t i = 0; i < self.u.list->n; i++) {
        if (jinja__equal(vm, self.u.list->items[i], call->pos[0])) return jinja__int((int64_t)i);
    }
    return jinja__fail(vm, "'index' does not find the item");
}

static jval list_count(jvm *vm, jval self, const jcall *call) {
    int64_t n = 0;
    for (size_t i = 0; i < self.u.list->n; i++)
        n += jinja__equal(vm, self.u.list->items[i], call->pos[0]);
    return jinja__int(n);
}

/* As transformers: a template changes no list and no dict, only members of a namespace. */
static jval forbidden(jvm *vm, jval self, const jcall *call) {
    return jinja__fail(vm, "'%s' would change a %s, which a template may not", call->what,
                       jinja__type(self));
}

/* ---- loop ---- */

static jval cycle(jvm *vm, jval self, const jcall *call) {
    if (call->n_pos == 0) return jinja__fail(vm, "'cycle' wants values");
    return call->pos[self.u.loop->at % call->n_pos];
}

static jval changed(jvm *vm, jval self, const jcall *call) {
    jlist *now = jinja__new_list(vm, call->n_pos), *before_now = self.u.loop->changed;
    for (size_t i = 0; now && i < call->n_pos; i++)
        jinja__push(vm, now, call->pos[i]);
    if (now && before_now && jinja__equal(vm, jinja__of_list(now), jinja__of_list(before_now)))
        return jinja__bool(false);
    self.u.loop->changed = now;
    return jinja__bool(true);
}

static const jfunction text_methods[] = {
    {"split", split, "sep maxsplit", 0, 2},
    {"strip", strip, "", 0, 1},
    {"lstrip", lstrip, "", 0, 1},
    {"rstrip", rstrip, "", 0, 1},
    {"startswith", startswith, "", 1, 1},
    {"endswith", endswith, "", 1, 1},
    {"replace", replace, "count", 2, 3},
    {"upper", upper, "", 0, 0},
    {"lower", lower, "", 0, 0},
    {"title", title, "", 0, 0},
    {"capitalize", capitalize, "", 0, 0},
    {"rsplit", rsplit, "sep maxsplit", 0, 2},
    {"splitlines", splitlines, "keepends", 0, 1},
    {"find", find, "", 1, 1},
    {"rfind", rfind, "", 1, 1},
    {"index", text_index, "", 1, 1},
    {"count", text_count, "", 1, 1},
    {"join", text_join, "", 1, 1},
    {"removeprefix", removeprefix, "", 1, 1},
    {"removesuffix", removesuffix, "", 1, 1},
};
static const jfunction dict_methods[] = {
    {"get", get, "", 1, 2},          {"items", items, "", 0, 0},
    {"keys", keys, "", 0, 0},        {"values", values, "", 0, 0},
    {"copy", copy, "", 0, 0},        {"update", forbidden, "*", 0, 1 << 20},
    {"pop", forbidden, "*", 0, 2},   {"setdefault", forbidden, "*", 0, 2},
    {"clear", forbidden, "*", 0, 0}, {"popitem", forbidden, "*", 0, 0},
};
static const jfunction list_methods[] = {
    {"index", list_index, "", 1, 1},  {"count", list_count, "", 1, 1},
    {"append", forbidden, "*", 0, 1}, {"extend", forbidden, "*", 0, 1},
    {"insert", forbidden, "*", 0, 2}, {"pop", forbidden, "*", 0, 1},
    {"remove", forbidden, "*", 0, 1}, {"reverse", forbidden, "*", 0, 0},
    {"sort", forbidden, "*", 0, 2},   {"clear", forbidden, "*", 0, 0},
};
static const jfunction loop_methods[] = {
    {"cycle", cycle, "", 0, 1 << 20},
    {"changed", changed, "", 0, 1 << 20},
};

const jfunction *jinja__find_method(jval of, const char *name, size_t n) {
    switch ((jkind)of.kind) {
    case J_STRING: return jinja__find_in(text_methods, ARRAY_LEN(text_methods), name, n);
    case J_DICT: return jinja__find_in(dict_methods, ARRAY_LEN(dict_methods), name, n);
    case J_LOOP: return jinja__find_in(loop_methods, ARRAY_LEN(loop_methods), name, n);
    case J_LIST:
        if (of.u.list->form > J_IS_TUPLE) return NULL;
        return jinja__find_in(list_methods,
                              of.u.list->form == J_IS_TUPLE ? 2 : ARRAY_LEN(list_methods), name, n);
    default: return NULL;
    }
}

bool jinja__is_method(const char *name, size_t n) {
    return jinja__find_in(text_methods, ARRAY_LEN(text_methods), name, n) ||
           jinja__find_in(dict_methods, ARRAY_LEN(dict_methods), name, n) ||
           jinja__find_in(loop_methods, ARRAY_LEN(loop_methods), name, n) ||
           jinja__find_in(list_methods, ARRAY_LEN(list_methods), name, n);
}
