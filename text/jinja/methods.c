/* methods.c - the methods of dicts, lists and loops; methods by type and name. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- dicts ---- */

static jval get(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__none();
    const jval *value = jinja__dict_get(vm, self.dict, call->pos[0]);
    (void)jinja__arg(call, 1, "default", &otherwise);
    return value ? *value : otherwise;
}

static jval view(jvm *vm, const jdict *dict, jform form) {
    jlist *list = jinja__new_list(vm, dict->count);
    for (size_t i = 0; list && i < dict->count && jinja__work(vm, 0); i++) {
        jval value = form == J_IS_VALUES ? dict->entries[i].value : dict->entries[i].key;
        if (form == J_IS_ITEMS) {
            jlist *pair = jinja__new_list(vm, 2);
            jinja__push(vm, pair, dict->entries[i].key);
            jinja__push(vm, pair, dict->entries[i].value);
            if (pair) pair->form = J_IS_TUPLE;
            value = jinja__of_list(pair);
        }
        jinja__push(vm, list, value);
    }
    if (list) list->form = (uint8_t)form;
    return jinja__of_list(list);
}
jval jinja__dict_items(jvm *vm, const jdict *dict) {
    return view(vm, dict, J_IS_ITEMS);
}
static jval items(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return view(vm, self.dict, J_IS_ITEMS);
}
static jval keys(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return view(vm, self.dict, J_IS_KEYS);
}
static jval values(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return view(vm, self.dict, J_IS_VALUES);
}

static jval copy_list(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_list(jinja__copy_list(vm, self));
}

static jval copy(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jdict *out = jinja__new_dict(vm);
    for (size_t i = 0; out && i < self.dict->count; i++)
        jinja__dict_set(vm, out, self.dict->entries[i].key, self.dict->entries[i].value);
    return jinja__of_dict(out);
}

/* ---- lists ---- */

static jval list_index(jvm *vm, jval self, const jcall *call) {
    for (size_t i = 0; i < self.list->count; i++) {
        if (jinja__equal(vm, self.list->items[i], call->pos[0])) return jinja__int((int64_t)i);
    }
    return jinja__fail(vm, "'index' does not find the item");
}

static jval list_count(jvm *vm, jval self, const jcall *call) {
    int64_t n = 0;
    for (size_t i = 0; i < self.list->count; i++)
        n += jinja__equal(vm, self.list->items[i], call->pos[0]);
    return jinja__int(n);
}

/* As in transformers, a template cannot change lists and dicts, only members of a namespace. */
static jval forbidden(jvm *vm, jval self, const jcall *call) {
    return jinja__fail(vm, "'%s' would change a %s, which a template may not", call->name,
                       jinja__type(self));
}

/* ---- loop ---- */

static jval cycle(jvm *vm, jval self, const jcall *call) {
    if (call->n_pos == 0) return jinja__fail(vm, "'cycle' wants values");
    return call->pos[self.loop->at % call->n_pos];
}

static jval changed(jvm *vm, jval self, const jcall *call) {
    jlist *now = jinja__new_list(vm, call->n_pos), *before_now = self.loop->changed;
    for (size_t i = 0; now && i < call->n_pos; i++)
        jinja__push(vm, now, call->pos[i]);
    if (now && before_now && jinja__equal(vm, jinja__of_list(now), jinja__of_list(before_now)))
        return jinja__bool(false);
    self.loop->changed = now;
    return jinja__bool(true);
}

/* ---- cycler ---- */

static jval cycler_next(jvm *vm, jval self, const jcall *call) {
    (void)vm;
    (void)call;
    jcycler *cycler = self.cycler;
    jval value = cycler->items.items[cycler->at];
    cycler->at = (cycler->at + 1) % cycler->items.count;
    return value;
}

static jval cycler_reset(jvm *vm, jval self, const jcall *call) {
    (void)vm;
    (void)call;
    self.cycler->at = 0;
    return jinja__none();
}

static const jfunction cycler_methods[] = {
    {"next", cycler_next, "", 0, 0},
    {"reset", cycler_reset, "", 0, 0},
};
static const jfunction dict_methods[] = {
    {"get", get, "", 1, 2},          {"items", items, "", 0, 0},
    {"keys", keys, "", 0, 0},        {"values", values, "", 0, 0},
    {"copy", copy, "", 0, 0},        {"update", forbidden, "*", 0, 1 << 20},
    {"pop", forbidden, "*", 0, 2},   {"setdefault", forbidden, "*", 0, 2},
    {"clear", forbidden, "*", 0, 0}, {"popitem", forbidden, "*", 0, 0},
};
static const jfunction list_methods[] = {
    {"index", list_index, "", 1, 1},   {"count", list_count, "", 1, 1},
    {"copy", copy_list, "", 0, 0},     {"append", forbidden, "*", 0, 1},
    {"extend", forbidden, "*", 0, 1},  {"insert", forbidden, "*", 0, 2},
    {"pop", forbidden, "*", 0, 1},     {"remove", forbidden, "*", 0, 1},
    {"reverse", forbidden, "*", 0, 0}, {"sort", forbidden, "*", 0, 2},
    {"clear", forbidden, "*", 0, 0},
};
static const jfunction loop_methods[] = {
    {"cycle", cycle, "", 0, 1 << 20},
    {"changed", changed, "", 0, 1 << 20},
};

bool jinja__mutates(const jfunction *method) {
    return method->run == forbidden;
}

const jfunction *jinja__find_method(jval object, const char *name, size_t n) {
    switch ((jkind)object.kind) {
    case J_STRING: return jinja__find_in(jinja__text_methods, jinja__n_text_methods, name, n);
    case J_DICT: return jinja__find_in(dict_methods, ARRAY_LEN(dict_methods), name, n);
    case J_LOOP: return jinja__find_in(loop_methods, ARRAY_LEN(loop_methods), name, n);
    case J_CYCLER: return jinja__find_in(cycler_methods, ARRAY_LEN(cycler_methods), name, n);
    case J_LIST:
        if (object.list->form > J_IS_TUPLE) return NULL;
        return jinja__find_in(
            list_methods, object.list->form == J_IS_TUPLE ? 2 : ARRAY_LEN(list_methods), name, n);
    default: return NULL;
    }
}

bool jinja__is_method(const char *name, size_t n) {
    return jinja__find_in(jinja__text_methods, jinja__n_text_methods, name, n) ||
           jinja__find_in(dict_methods, ARRAY_LEN(dict_methods), name, n) ||
           jinja__find_in(loop_methods, ARRAY_LEN(loop_methods), name, n) ||
           jinja__find_in(cycler_methods, ARRAY_LEN(cycler_methods), name, n) ||
           jinja__find_in(list_methods, ARRAY_LEN(list_methods), name, n);
}
