/* filters_list.c - filters over lists and dicts. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

static jval iterator(jlist *list) {
    if (list) list->form = J_IS_ITERATOR;
    return jinja__of_list(list);
}

static jval list(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_list(jinja__copy_list(vm, self));
}

static jval first(jvm *vm, jval self, const jcall *call) {
    (void)call;
    const jlist *all = jinja__iterate(vm, self);
    return all && all->count ? all->items[0] : jinja__undefined(NULL);
}

static jval last(jvm *vm, jval self, const jcall *call) {
    (void)call;
    if (jinja__is_list(self, J_IS_ITERATOR)) return jinja__fail(vm, "'last' of a generator");
    const jlist *all = jinja__iterate(vm, self);
    return all && all->count ? all->items[all->count - 1] : jinja__undefined(NULL);
}

static jval join(jvm *vm, jval self, const jcall *call) {
    jval separator = jinja__text(vm, ""), path;
    (void)jinja__arg(call, 0, "d", &separator);
    bool by_path = jinja__arg(call, 1, "attribute", &path);
    jstring *between = jinja__str(vm, separator);
    const jlist *all = jinja__iterate(vm, self);
    jwriter *out = jinja__new_writer(vm, 0);
    for (size_t i = 0; all && i < all->count && jinja__work(vm, 1); i++) {
        if (i) jinja__write_string(vm, out, between);
        jinja__write_value(vm, out, by_path ? jinja__path(vm, all->items[i], path) : all->items[i]);
    }
    return jinja__of_string(jinja__written(vm, out));
}

static jval items(jvm *vm, jval self, const jcall *call) {
    (void)call;
    if (self.kind == J_UNDEFINED) return iterator(jinja__new_list(vm, 0));
    if (self.kind != J_DICT) return jinja__fail(vm, "'items' of a %s", jinja__type(self));
    jval value = jinja__dict_items(vm, self.dict);
    return value.kind == J_LIST ? iterator(value.list) : value;
}

static jval reverse(jvm *vm, jval self, const jcall *call) {
    (void)call;
    if (self.kind == J_STRING)
        return jinja__slice(vm, self, jinja__none(), jinja__none(), jinja__int(-1));
    jlist *out = jinja__copy_list(vm, self);
    if (out) jinja__reverse_list(out);
    return iterator(out);
}

/* ---- order ---- */

typedef struct {
    jval key, value;
} keyed;

/* Equal keys are in order even if their type has no order: Python's list comparison skips them. */
static bool out_of_order(jvm *vm, const keyed *left, const keyed *right, bool reverse) {
    if (jinja__equal(vm, left->key, right->key)) return false;
    return reverse ? jinja__less(vm, left->key, right->key)
                   : jinja__less(vm, right->key, left->key);
}

/* Stable: items with equal keys keep their order. */
static void merge_sort(jvm *vm, keyed *items, keyed *spare, size_t n, bool reverse) {
    if (n < 2 || vm->failed) return;
    size_t half = n / 2, left = 0, right = half;
    merge_sort(vm, items, spare, half, reverse);
    merge_sort(vm, items + half, spare, n - half, reverse);
    for (size_t i = 0; i < n && !vm->failed; i++) {
        bool take_right =
            left == half || (right < n && out_of_order(vm, &items[left], &items[right], reverse));
        spare[i] = items[take_right ? right++ : left++];
    }
    if (!vm->failed) memcpy(items, spare, n * sizeof *items);
}

static jval folded(jvm *vm, jval value, bool by_case) {
    if (by_case || value.kind != J_STRING) return value;
    return jinja__of_string(jinja__change_case(vm, value.string, J_LOWER));
}

/* attribute="a,b": the key is a list of both attributes */
static jval sort_key(jvm *vm, jval value, const jval *path, bool by_case) {
    if (path == NULL || path->kind != J_STRING || jinja__find(path->string, 0, ",", 1) == SIZE_MAX)
        return folded(vm, path ? jinja__path(vm, value, *path) : value, by_case);
    static const jstring comma = {.bytes = ",", .len = 1, .trusted = true};
    const jlist *paths = jinja__split(vm, path->string, &comma, -1, false);
    jlist *keys = jinja__new_list(vm, 0);
    for (size_t i = 0; paths && i < paths->count && !vm->failed; i++)
        jinja__push(vm, keys, folded(vm, jinja__path(vm, value, paths->items[i]), by_case));
    return jinja__of_list(keys);
}

jval jinja__sorted(jvm *vm, jlist *all, bool reverse, bool by_case, const jval *path) {
    keyed *items = jinja__alloc(vm, all->count + 1, sizeof *items);
    keyed *spare = jinja__alloc(vm, all->count + 1, sizeof *spare);
    jlist *out = jinja__new_list(vm, all->count);
    if (items == NULL || spare == NULL || out == NULL) return jinja__undefined(NULL);
    for (size_t i = 0; i < all->count && !vm->failed; i++) {
        items[i] = (keyed){sort_key(vm, all->items[i], path, by_case), all->items[i]};
    }
    merge_sort(vm, items, spare, all->count, reverse);
    for (size_t i = 0; i < all->count; i++)
        jinja__push(vm, out, items[i].value);
    return jinja__of_list(out);
}

static jval sort(jvm *vm, jval self, const jcall *call) {
    bool reversed = jinja__arg_bool(call, 0, "reverse", false);
    bool by_case = jinja__arg_bool(call, 1, "case_sensitive", false);
    jval path;
    bool by_path = jinja__arg(call, 2, "attribute", &path) && path.kind != J_NONE;
    jlist *all = jinja__iterate(vm, self);
    return all ? jinja__sorted(vm, all, reversed, by_case, by_path ? &path : NULL)
               : jinja__undefined(NULL);
}

static jval dictsort(jvm *vm, jval self, const jcall *call) {
    bool by_case = jinja__arg_bool(call, 0, "case_sensitive", false);
    jstring *by = jinja__arg_string(vm, call, 1, "by");
    bool reversed = jinja__arg_bool(call, 2, "reverse", false);
    if (self.kind != J_DICT) {
        if (jinja__check_defined(vm, self))
            jinja__fail(vm, "'dictsort' of a %s", jinja__type(self));
        return jinja__undefined(NULL);
    }
    if (by && !jinja__is(by, "key") && !jinja__is(by, "value"))
        return jinja__fail(vm, "'dictsort' is by 'key' or by 'value'");
    jval place = jinja__int(by && jinja__is(by, "value")), pairs = jinja__dict_items(vm, self.dict);
    if (pairs.kind != J_LIST) return pairs;
    return jinja__sorted(vm, pairs.list, reversed, by_case, &place);
}

static jval extreme(jvm *vm, jval self, const jcall *call, bool largest) {
    bool by_case = jinja__arg_bool(call, 0, "case_sensitive", false);
    jval path, best = jinja__undefined(NULL), best_key = best;
    bool by_path = jinja__arg(call, 1, "attribute", &path);
    const jlist *all = jinja__iterate(vm, self);
    for (size_t i = 0; all && i < all->count && !vm->failed; i++) {
        jval key =
            folded(vm, by_path ? jinja__path(vm, all->items[i], path) : all->items[i], by_case);
        if (i && !(largest ? jinja__less(vm, best_key, key) : jinja__less(vm, key, best_key)))
            continue;
        best = all->items[i];
        best_key = key;
    }
    return best;
}
static jval smallest(jvm *vm, jval self, const jcall *call) {
    return extreme(vm, self, call, false);
}
static jval largest(jvm *vm, jval self, const jcall *call) {
    return extreme(vm, self, call, true);
}

static jval sum(jvm *vm, jval self, const jcall *call) {
    jval path, total = jinja__int(0);
    bool by_path = jinja__arg(call, 0, "attribute", &path) && path.kind != J_NONE;
    (void)jinja__arg(call, 1, "start", &total);
    const jlist *all = jinja__iterate(vm, self);
    for (size_t i = 0; all && i < all->count && !vm->failed; i++)
        total = jinja__binary(vm, OP_ADD, total,
                              by_path ? jinja__path(vm, all->items[i], path) : all->items[i]);
    return total;
}

static jval unique(jvm *vm, jval self, const jcall *call) {
    bool by_case = jinja__arg_bool(call, 0, "case_sensitive", false);
    jval path;
    bool by_path = jinja__arg(call, 1, "attribute", &path) && path.kind != J_NONE;
    const jlist *all = jinja__iterate(vm, self);
    jdict *seen = jinja__new_dict(vm);
    jlist *out = jinja__new_list(vm, 0);
    for (size_t i = 0; all && i < all->count && !vm->failed; i++) {
        jval key =
            folded(vm, by_path ? jinja__path(vm, all->items[i], path) : all->items[i], by_case);
        if (jinja__dict_get(vm, seen, key)) continue;
        jinja__dict_set(vm, seen, key, jinja__none());
        jinja__push(vm, out, all->items[i]);
    }
    return iterator(out);
}

static jval batch(jvm *vm, jval self, const jcall *call) {
    int64_t n = jinja__arg_int(vm, call, 0, "linecount", 0);
    jval fill = jinja__none();
    (void)jinja__arg(call, 1, "fill_with", &fill);
    if (n < 1 || n > 1 << 20) return jinja__fail(vm, "'batch' wants a number of items");
    const jlist *all = jinja__iterate(vm, self);
    jlist *out = jinja__new_list(vm, 0), *line = NULL;
    for (size_t i = 0; all && i < all->count && jinja__work(vm, 1); i++) {
        if (i % (size_t)n == 0) jinja__push(vm, out, jinja__of_list(line = jinja__new_list(vm, 0)));
        jinja__push(vm, line, all->items[i]);
    }
    while (line && fill.kind != J_NONE && line->count < (size_t)n && jinja__work(vm, 1))
        jinja__push(vm, line, fill);
    return iterator(out);
}

/* ---- map, select, reject ---- */

/* The call without its first `skip` positional arguments. */
static jcall rest_of(const jcall *call, size_t skip, const char *name) {
    jcall rest = *call;
    rest.name = name;
    rest.pos = call->n_pos > skip ? call->pos + skip : NULL;
    rest.n_pos = call->n_pos > skip ? call->n_pos - skip : 0;
    return rest;
}

static jval map_all(jvm *vm, jval self, const jcall *call) {
    jval path, otherwise = jinja__undefined(NULL);
    bool by_path = call->n_pos == 0 && jinja__arg(call, 0, "attribute", &path);
    (void)jinja__arg(call, SIZE_MAX, "default", &otherwise);
    const jfunction *func = NULL;
    if (!by_path) {
        jstring *name = jinja__arg_string(vm, call, 0, "");
        if (vm->failed) return jinja__undefined(NULL);
        func = name ? jinja__find_filter(name->bytes, name->len) : NULL;
        if (func == NULL)
            return jinja__fail(vm, "'map' wants the name of a filter or an attribute");
    }
    jcall rest = rest_of(call, 1, func ? func->name : NULL);
    if (!jinja__true(self)) return iterator(jinja__new_list(vm, 0));
    const jlist *all = jinja__iterate(vm, self);
    jlist *out = all ? jinja__new_list(vm, all->count) : NULL;
    for (size_t i = 0; out && i < all->count && !vm->failed; i++) {
        jval value = by_path ? jinja__path(vm, all->items[i], path)
                             : jinja__run_builtin(vm, func, all->items[i], &rest);
        jinja__push(vm, out, by_path && value.kind == J_UNDEFINED ? otherwise : value);
    }
    return iterator(out);
}

static jval select_where(jvm *vm, jval self, const jcall *call, bool by_path, bool wanted) {
    size_t skip = by_path ? 1 : 0;
    const jfunction *test = NULL;
    if (call->n_pos > skip) {
        jval name = call->pos[skip];
        test =
            name.kind == J_STRING ? jinja__find_test(name.string->bytes, name.string->len) : NULL;
        if (test == NULL) return jinja__fail(vm, "'%s' does not find the test", call->name);
    }
    if (by_path && call->n_pos == 0) return jinja__fail(vm, "'%s' wants an attribute", call->name);
    jcall rest = rest_of(call, skip + 1, test ? test->name : NULL);
    if (!jinja__true(self)) return iterator(jinja__new_list(vm, 0));
    const jlist *all = jinja__iterate(vm, self);
    jlist *out = jinja__new_list(vm, 0);
    for (size_t i = 0; all && i < all->count && !vm->failed; i++) {
        jval value = by_path ? jinja__path(vm, all->items[i], call->pos[0]) : all->items[i];
        if (test) value = jinja__run_builtin(vm, test, value, &rest);
        if (jinja__true(value) == wanted) jinja__push(vm, out, all->items[i]);
    }
    return iterator(out);
}
static jval choose(jvm *vm, jval self, const jcall *call) {
    return select_where(vm, self, call, false, true);
}
static jval reject(jvm *vm, jval self, const jcall *call) {
    return select_where(vm, self, call, false, false);
}
static jval selectattr(jvm *vm, jval self, const jcall *call) {
    return select_where(vm, self, call, true, true);
}
static jval rejectattr(jvm *vm, jval self, const jcall *call) {
    return select_where(vm, self, call, true, false);
}

const jfunction jinja__list_filters[] = {
    {"list", list, "", 0, 0},
    {"first", first, "", 0, 0},
    {"last", last, "", 0, 0},
    {"join", join, "d attribute", 0, 2},
    {"items", items, "", 0, 0},
    {"reverse", reverse, "", 0, 0},
    {"sort", sort, "reverse case_sensitive attribute", 0, 3},
    {"dictsort", dictsort, "case_sensitive by reverse", 0, 3},
    {"min", smallest, "case_sensitive attribute", 0, 2},
    {"max", largest, "case_sensitive attribute", 0, 2},
    {"sum", sum, "attribute start", 0, 2},
    {"unique", unique, "case_sensitive attribute", 0, 2},
    {"batch", batch, "linecount fill_with", 1, 2},
    {"map", map_all, "*", 1, 8},
    {"select", choose, "*", 0, 8},
    {"reject", reject, "*", 0, 8},
    {"selectattr", selectattr, "*", 1, 8},
    {"rejectattr", rejectattr, "*", 1, 8},
};
const size_t jinja__n_list_filters = ARRAY_LEN(jinja__list_filters);
