/* attributes.c - members, items and slices of values. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

bool jinja__use_undefined(jvm *vm, jval v) {
    if (v.kind != J_UNDEFINED || vm->failed) return !vm->failed;
    const jnode *from = v.u.from;
    if (from == NULL) {
        jinja__fail(vm, "something undefined is used");
    } else if (from->kind == N_NAME) {
        jinja__fail(vm, "'%.80s' is undefined", vm->t->names[from->u.name]);
    } else if (from->kind == N_ATTR) {
        jinja__fail(vm, "the member '%.80s' is undefined", from->u.attr.name->s);
    } else if (from->kind == N_INDEX && from->u.index.key->kind == N_CONST &&
               from->u.index.key->u.constant.kind == J_STRING) {
        jinja__fail(vm, "the member '%.80s' is undefined", from->u.index.key->u.constant.u.s->s);
    } else {
        jinja__fail(vm, "an item is undefined");
    }
    return false;
}

/* ---- loop.* ---- */

static jval loop_neighbour(const jloop *loop, bool next, const jnode *from) {
    if (next ? loop->at + 1 >= loop->items->n : loop->at == 0) return jinja__undefined(from);
    return loop->items->items[next ? loop->at + 1 : loop->at - 1];
}

static jval loop_member(jvm *vm, jval of, const jstring *name, const jnode *from) {
    const jloop *loop = of.u.loop;
    size_t n = loop->items->n, at = loop->at;
    const struct {
        const char *name;
        jval value;
    } members[] = {
        {"index", jinja__int((int64_t)at + 1)},
        {"index0", jinja__int((int64_t)at)},
        {"first", jinja__bool(at == 0)},
        {"last", jinja__bool(at + 1 == n)},
        {"length", jinja__int((int64_t)n)},
        {"revindex", jinja__int((int64_t)(n - at))},
        {"revindex0", jinja__int((int64_t)(n - at) - 1)},
        {"depth", jinja__int(loop->depth)},
        {"depth0", jinja__int((int64_t)loop->depth - 1)},
        {"previtem", loop_neighbour(loop, false, from)},
        {"nextitem", loop_neighbour(loop, true, from)},
    };
    (void)vm;
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        if (jinja__is(name, members[i].name)) return members[i].value;
    }
    return jinja__undefined(from);
}

/* ---- members and items ---- */

static jval method_of(jvm *vm, jval of, const jfunction *f) {
    jmethod *m = jinja__alloc(vm, 1, sizeof *m);
    if (m == NULL) return jinja__undefined(NULL);
    *m = (jmethod){of, f};
    return (jval){.kind = J_METHOD, .u.method = m};
}

static jval key_of(jvm *vm, const jdict *d, jval key, const jnode *from) {
    const jval *v = jinja__dict_get(vm, d, key);
    return v ? *v : jinja__undefined(from);
}

jval jinja__attribute(jvm *vm, jval of, const jstring *name, const jnode *from) {
    if (vm->failed || !jinja__use_undefined(vm, of)) return jinja__undefined(NULL);
    jstring key = *name;
    if (of.kind == J_LOOP && !jinja__find_method(of, name->s, name->n))
        return loop_member(vm, of, name, from);
    const jfunction *f = jinja__find_method(of, name->s, name->n);
    if (f) return jinja__changes(f) ? jinja__undefined(from) : method_of(vm, of, f);
    if (of.kind == J_CYCLER && jinja__is(name, "current"))
        return of.u.cycler->items.items[of.u.cycler->at];
    if (of.kind == J_DICT || of.kind == J_NAMESPACE)
        return key_of(vm, of.u.dict, jinja__of_string(&key), from);
    return jinja__undefined(from);
}

static jval item_of_list(jval of, int64_t at, const jnode *from) {
    const jlist *list = of.u.list;
    if (list->form > J_IS_TUPLE && list->form != J_IS_RANGE) return jinja__undefined(from);
    if (at < 0) at += (int64_t)list->n;
    if (at < 0 || (uint64_t)at >= list->n) return jinja__undefined(from);
    return list->items[at];
}

static jval item_of_text(jvm *vm, jstring *s, int64_t at, const jnode *from) {
    int64_t n = (int64_t)jinja__chars(s);
    if (at < 0) at += n;
    if (at < 0 || at >= n) return jinja__undefined(from);
    if (s->chars != s->n && !jinja__work(vm, (size_t)at)) return jinja__undefined(from);
    size_t begin = jinja__char_at(s, (size_t)at), len;
    (void)jinja__code_point(s->s + begin, s->n - begin, &len);
    return jinja__of_string(jinja__part(vm, s, begin, begin + len));
}

jval jinja__item(jvm *vm, jval of, jval key, const jnode *from) {
    int64_t at;
    if (vm->failed || !jinja__use_undefined(vm, of)) return jinja__undefined(NULL);
    if (of.kind == J_DICT) {
        const jval *v = jinja__dict_get(vm, of.u.dict, key);
        if (v) return *v;
    } else if (jinja__integer(key, &at)) {
        if (of.kind == J_LIST) return item_of_list(of, at, from);
        if (of.kind == J_STRING) return item_of_text(vm, of.u.s, at, from);
    }
    if (key.kind == J_STRING && !vm->failed) return jinja__attribute(vm, of, key.u.s, from);
    return jinja__undefined(from);
}

jval jinja__path(jvm *vm, jval of, jval path) {
    int64_t at;
    if (jinja__integer(path, &at)) return jinja__item(vm, of, path, NULL);
    if (path.kind != J_STRING) return jinja__fail(vm, "an attribute's name is no text");
    jstring *s = path.u.s;
    for (size_t begin = 0; begin <= s->n && !vm->failed;) {
        size_t end = jinja__find(s, begin, ".", 1);
        if (end == SIZE_MAX) end = s->n;
        bool digits = end > begin && end - begin < 10;
        int64_t number = 0;
        for (size_t i = begin; i < end && digits; i++) {
            digits = s->s[i] >= '0' && s->s[i] <= '9';
            number = number * 10 + (s->s[i] - '0');
        }
        jval key = digits ? jinja__int(number) : jinja__of_string(jinja__part(vm, s, begin, end));
        of = jinja__item(vm, of, key, NULL);
        begin = end + 1;
    }
    return of;
}

/* ---- slices ---- */

typedef struct {
    int64_t from, to, step;
    size_t n; /* items */
} range;

static bool bound(jvm *vm, jval v, int64_t none, int64_t n, int64_t low, int64_t high,
                  int64_t *out) {
    *out = none;
    if (v.kind == J_NONE) return true;
    if (!jinja__integer(v, out)) {
        if (jinja__use_undefined(vm, v))
            jinja__fail(vm, "a slice wants numbers, not %s", jinja__type(v));
        return false;
    }
    if (*out < 0) *out = *out < -n ? low : *out + n;
    if (*out < low) *out = low;
    if (*out > high) *out = high;
    return true;
}

static bool find_range(jvm *vm, jval from, jval to, jval step, size_t len, range *r) {
    int64_t n = (int64_t)len;
    r->step = 1;
    if (step.kind != J_NONE && !jinja__integer(step, &r->step)) {
        if (jinja__use_undefined(vm, step)) jinja__fail(vm, "a slice's step is no number");
        return false;
    }
    if (r->step == 0) {
        jinja__fail(vm, "a slice's step is zero");
        return false;
    }
    bool down = r->step < 0;
    int64_t low = down ? -1 : 0, high = down ? n - 1 : n;
    if (!bound(vm, from, down ? high : low, n, low, high, &r->from) ||
        !bound(vm, to, down ? low : high, n, low, high, &r->to))
        return false;
    int64_t way = down ? r->from - r->to : r->to - r->from;
    if (r->step < -n - 1) r->step = -n - 1;
    if (r->step > n + 1) r->step = n + 1;
    int64_t stride = down ? -r->step : r->step;
    r->n = way > 0 ? (size_t)((way - 1) / stride + 1) : 0;
    return true;
}

static jval slice_text(jvm *vm, jstring *s, const range *r) {
    if (!jinja__work(vm, s->n)) return jinja__undefined(NULL);
    if (r->step == 1 || r->n == 0) {
        size_t begin = jinja__char_at(s, (size_t)r->from);
        size_t end = r->n ? jinja__char_at(s, (size_t)r->from + r->n) : begin;
        return jinja__of_string(jinja__part(vm, s, begin, end));
    }
    size_t *starts = jinja__alloc(vm, jinja__chars(s) + 1, sizeof *starts), n = 0, len;
    jwriter *w = jinja__new_writer(vm, 0);
    for (size_t at = 0; starts && at < s->n; at += len, n++) {
        starts[n] = at;
        (void)jinja__code_point(s->s + at, s->n - at, &len);
    }
    if (starts) starts[n] = s->n;
    int64_t at = r->from;
    for (size_t i = 0; starts && i < r->n && jinja__work(vm, 1); i++, at += r->step)
        jinja__write_part(vm, w, s, starts[at], starts[at + 1]);
    return jinja__of_string(jinja__written(vm, w));
}

static jval slice_list(jvm *vm, const jlist *list, const range *r) {
    jlist *out = jinja__new_list(vm, r->n);
    if (out == NULL || !jinja__work(vm, r->n * sizeof(jval))) return jinja__undefined(NULL);
    int64_t at = r->from;
    for (size_t i = 0; i < r->n; i++, at += r->step)
        jinja__push(vm, out, list->items[at]);
    out->form = list->form == J_IS_TUPLE ? J_IS_TUPLE : J_IS_LIST;
    return jinja__of_list(out);
}

jval jinja__slice(jvm *vm, jval of, jval from, jval to, jval step) {
    range r;
    if (vm->failed || !jinja__use_undefined(vm, of)) return jinja__undefined(NULL);
    bool list =
        of.kind == J_LIST && (of.u.list->form <= J_IS_TUPLE || of.u.list->form == J_IS_RANGE);
    if (of.kind != J_STRING && !list) return jinja__fail(vm, "a %s has no slices", jinja__type(of));
    size_t n = list ? of.u.list->n : jinja__chars(of.u.s);
    if (!find_range(vm, from, to, step, n, &r)) return jinja__undefined(NULL);
    return list ? slice_list(vm, of.u.list, &r) : slice_text(vm, of.u.s, &r);
}
