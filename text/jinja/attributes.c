/* attributes.c - members, items and slices of values. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

bool jinja__check_defined(jvm *vm, jval value) {
    if (value.kind != J_UNDEFINED || vm->failed) return !vm->failed;
    const jnode *from = value.from;
    if (from == NULL) {
        jinja__fail(vm, "something undefined is used");
    } else if (from->kind == N_NAME) {
        jinja__fail(vm, "'%.80s' is undefined", vm->tmpl->names[from->name]);
    } else if (from->kind == N_ATTR) {
        jinja__fail(vm, "the member '%.80s' is undefined", from->attr.name->bytes);
    } else if (from->kind == N_INDEX && from->index.key->kind == N_CONST &&
               from->index.key->constant.kind == J_STRING) {
        jinja__fail(vm, "the member '%.80s' is undefined", from->index.key->constant.string->bytes);
    } else {
        jinja__fail(vm, "an item is undefined");
    }
    return false;
}

/* ---- loop.* ---- */

static jval loop_neighbour(const jloop *loop, bool next, const jnode *from) {
    if (next ? loop->at + 1 >= loop->items->count : loop->at == 0) return jinja__undefined(from);
    return loop->items->items[next ? loop->at + 1 : loop->at - 1];
}

static jval loop_member(jvm *vm, jval object, const jstring *name, const jnode *from) {
    const jloop *loop = object.loop;
    size_t n = loop->items->count, at = loop->at;
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
        {"depth", jinja__int(1)},
        {"depth0", jinja__int(0)},
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

static jval method_of(jvm *vm, jval object, const jfunction *func) {
    jmethod *method = jinja__alloc(vm, 1, sizeof *method);
    if (method == NULL) return jinja__undefined(NULL);
    *method = (jmethod){object, func};
    return (jval){.kind = J_METHOD, .method = method};
}

static jval key_of(jvm *vm, const jdict *dict, jval key, const jnode *from) {
    const jval *value = jinja__dict_get(vm, dict, key);
    return value ? *value : jinja__undefined(from);
}

jval jinja__attribute(jvm *vm, jval object, const jstring *name, const jnode *from) {
    if (vm->failed || !jinja__check_defined(vm, object)) return jinja__undefined(NULL);
    jstring key = *name;
    if (object.kind == J_LOOP && !jinja__find_method(object, name->bytes, name->len))
        return loop_member(vm, object, name, from);
    const jfunction *func = jinja__find_method(object, name->bytes, name->len);
    if (func) return jinja__mutates(func) ? jinja__undefined(from) : method_of(vm, object, func);
    if (object.kind == J_CYCLER && jinja__is(name, "current"))
        return object.cycler->items.items[object.cycler->at];
    if (object.kind == J_DICT || object.kind == J_NAMESPACE)
        return key_of(vm, object.dict, jinja__of_string(&key), from);
    return jinja__undefined(from);
}

static jval item_of_list(jval object, int64_t at, const jnode *from) {
    const jlist *list = object.list;
    if (list->form > J_IS_TUPLE && list->form != J_IS_RANGE) return jinja__undefined(from);
    if (at < 0) at += (int64_t)list->count;
    if (at < 0 || (uint64_t)at >= list->count) return jinja__undefined(from);
    return list->items[at];
}

static jval item_of_text(jvm *vm, jstring *text, int64_t at, const jnode *from) {
    int64_t n = (int64_t)jinja__chars(text);
    if (at < 0) at += n;
    if (at < 0 || at >= n) return jinja__undefined(from);
    if (text->chars != text->len && !jinja__work(vm, (size_t)at)) return jinja__undefined(from);
    size_t begin = jinja__char_at(text, (size_t)at), len;
    (void)jinja__code_point(text->bytes + begin, text->len - begin, &len);
    return jinja__of_string(jinja__part(vm, text, begin, begin + len));
}

jval jinja__item(jvm *vm, jval object, jval key, const jnode *from) {
    int64_t at;
    if (vm->failed || !jinja__check_defined(vm, object)) return jinja__undefined(NULL);
    if (object.kind == J_DICT) {
        const jval *value = jinja__dict_get(vm, object.dict, key);
        if (value) return *value;
    } else if (jinja__integer(key, &at)) {
        if (object.kind == J_LIST) return item_of_list(object, at, from);
        if (object.kind == J_STRING) return item_of_text(vm, object.string, at, from);
    }
    if (key.kind == J_STRING && !vm->failed) return jinja__attribute(vm, object, key.string, from);
    return jinja__undefined(from);
}

jval jinja__path(jvm *vm, jval object, jval path) {
    int64_t at;
    if (jinja__integer(path, &at)) return jinja__item(vm, object, path, NULL);
    if (path.kind != J_STRING) return jinja__fail(vm, "an attribute's name is no text");
    jstring *text = path.string;
    for (size_t begin = 0; begin <= text->len && !vm->failed;) {
        size_t end = jinja__find(text, begin, ".", 1);
        if (end == SIZE_MAX) end = text->len;
        bool digits = end > begin && end - begin < 10;
        int64_t number = 0;
        for (size_t i = begin; i < end && digits; i++) {
            digits = text->bytes[i] >= '0' && text->bytes[i] <= '9';
            number = number * 10 + (text->bytes[i] - '0');
        }
        jval key =
            digits ? jinja__int(number) : jinja__of_string(jinja__part(vm, text, begin, end));
        object = jinja__item(vm, object, key, NULL);
        begin = end + 1;
    }
    return object;
}

/* ---- slices ---- */

typedef struct {
    int64_t from, to, step;
    size_t count; /* items */
} range;

static bool bound(jvm *vm, jval value, int64_t absent, int64_t count, int64_t low, int64_t high,
                  int64_t *out) {
    *out = absent;
    if (value.kind == J_NONE) return true;
    if (!jinja__integer(value, out)) {
        if (jinja__check_defined(vm, value))
            jinja__fail(vm, "a slice wants numbers, not %s", jinja__type(value));
        return false;
    }
    if (*out < 0) *out = *out < -count ? low : *out + count;
    if (*out < low) *out = low;
    if (*out > high) *out = high;
    return true;
}

static bool find_range(jvm *vm, jval from, jval to, jval step, size_t len, range *slice) {
    int64_t count = (int64_t)len;
    slice->step = 1;
    if (step.kind != J_NONE && !jinja__integer(step, &slice->step)) {
        if (jinja__check_defined(vm, step)) jinja__fail(vm, "a slice's step is no number");
        return false;
    }
    if (slice->step == 0) {
        jinja__fail(vm, "a slice's step is zero");
        return false;
    }
    bool down = slice->step < 0;
    int64_t low = down ? -1 : 0, high = down ? count - 1 : count;
    if (!bound(vm, from, down ? high : low, count, low, high, &slice->from) ||
        !bound(vm, to, down ? low : high, count, low, high, &slice->to))
        return false;
    int64_t way = down ? slice->from - slice->to : slice->to - slice->from;
    if (slice->step < -count - 1) slice->step = -count - 1;
    if (slice->step > count + 1) slice->step = count + 1;
    int64_t stride = down ? -slice->step : slice->step;
    slice->count = way > 0 ? (size_t)((way - 1) / stride + 1) : 0;
    return true;
}

static jval slice_text(jvm *vm, jstring *text, const range *slice) {
    if (!jinja__work(vm, text->len)) return jinja__undefined(NULL);
    if (slice->step == 1 || slice->count == 0) {
        size_t begin = jinja__char_at(text, (size_t)slice->from);
        size_t end =
            slice->count ? jinja__char_at(text, (size_t)slice->from + slice->count) : begin;
        return jinja__of_string(jinja__part(vm, text, begin, end));
    }
    size_t *starts = jinja__alloc(vm, jinja__chars(text) + 1, sizeof *starts), n = 0, len;
    jwriter *out = jinja__new_writer(vm, 0);
    for (size_t at = 0; starts && at < text->len; at += len, n++) {
        starts[n] = at;
        (void)jinja__code_point(text->bytes + at, text->len - at, &len);
    }
    if (starts) starts[n] = text->len;
    int64_t at = slice->from;
    for (size_t i = 0; starts && i < slice->count && jinja__work(vm, 1); i++, at += slice->step)
        jinja__write_part(vm, out, text, starts[at], starts[at + 1]);
    return jinja__of_string(jinja__written(vm, out));
}

static jval slice_list(jvm *vm, const jlist *list, const range *slice) {
    jlist *out = jinja__new_list(vm, slice->count);
    if (out == NULL || !jinja__work(vm, slice->count * sizeof(jval))) return jinja__undefined(NULL);
    int64_t at = slice->from;
    for (size_t i = 0; i < slice->count; i++, at += slice->step)
        jinja__push(vm, out, list->items[at]);
    out->form = list->form == J_IS_TUPLE ? J_IS_TUPLE : J_IS_LIST;
    return jinja__of_list(out);
}

jval jinja__slice(jvm *vm, jval object, jval from, jval to, jval step) {
    range slice;
    if (vm->failed || !jinja__check_defined(vm, object)) return jinja__undefined(NULL);
    bool list = object.kind == J_LIST &&
                (object.list->form <= J_IS_TUPLE || object.list->form == J_IS_RANGE);
    if (object.kind != J_STRING && !list)
        return jinja__fail(vm, "a %s has no slices", jinja__type(object));
    size_t n = list ? object.list->count : jinja__chars(object.string);
    if (!find_range(vm, from, to, step, n, &slice)) return jinja__undefined(NULL);
    return list ? slice_list(vm, object.list, &slice) : slice_text(vm, object.string, &slice);
}
