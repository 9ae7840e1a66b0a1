/* values.c - lists, dicts, truth, equality and order as Python has them; values from JSON. */
#include "base/hash.h"
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <string.h>

const char *jinja__type(jval v) {
    static const char *const forms[] = {"list",      "tuple",       "generator", "range",
                                        "dict_keys", "dict_values", "dict_items"};
    switch ((jkind)v.kind) {
    case J_UNDEFINED: return "Undefined";
    case J_NONE: return "None";
    case J_BOOL: return "bool";
    case J_INT: return "int";
    case J_REAL: return "float";
    case J_STRING: return "str";
    case J_LIST: return forms[v.u.list->form];
    case J_DICT: return "dict";
    case J_NAMESPACE: return "namespace";
    case J_FUNCTION: return "function";
    case J_METHOD: return "method";
    case J_MACRO: return "macro";
    case J_LOOP: return "loop";
    case J_CYCLER: return "cycler";
    case J_JOINER: return "joiner";
    }
    return "value";
}

bool jinja__true(jval v) {
    switch ((jkind)v.kind) {
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.u.b;
    case J_INT: return v.u.i != 0;
    case J_REAL: return v.u.d != 0;
    case J_STRING: return v.u.s->n > 0;
    case J_LIST: return v.u.list->form == J_IS_ITERATOR || v.u.list->n > 0;
    case J_DICT: return v.u.dict->n > 0;
    default: return true;
    }
}

bool jinja__integer(jval v, int64_t *out) {
    if (v.kind == J_INT) *out = v.u.i;
    else if (v.kind == J_BOOL) *out = v.u.b;
    return v.kind == J_INT || v.kind == J_BOOL;
}

bool jinja__number(jval v, double *out) {
    int64_t i;
    if (v.kind == J_REAL) *out = v.u.d;
    else if (jinja__integer(v, &i)) *out = (double)i;
    else return false;
    return true;
}

/* ---- equality and order ---- */

static bool equal_lists(jvm *vm, const jlist *a, const jlist *b) {
    if (a->form != b->form || a->n != b->n) return false;
    if (a->form == J_IS_ITERATOR || a->form == J_IS_VALUES) return a == b;
    if (!jinja__enter(vm)) return false;
    bool same = true;
    for (size_t i = 0; i < a->n && same; i++)
        same = jinja__equal(vm, a->items[i], b->items[i]);
    jinja__leave(vm);
    return same;
}

static bool equal_dicts(jvm *vm, const jdict *a, const jdict *b) {
    if (a->n != b->n || !jinja__enter(vm)) return false;
    bool same = true;
    for (size_t i = 0; i < a->n && same; i++) {
        const jval *other = jinja__dict_get(vm, b, a->entries[i].key);
        same = other && jinja__equal(vm, a->entries[i].value, *other);
    }
    jinja__leave(vm);
    return same;
}

static int order_of_int_and_real(int64_t i, double d) {
    if (isnan(d)) return 2;
    if (d >= 9223372036854775808.0) return -1;
    if (d < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)d;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = d - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

/* -1, 0, 1; 2: neither of them (NaN). False: not two numbers. */
static bool order_of_numbers(jval a, jval b, int *out) {
    int64_t i, j;
    if (jinja__integer(a, &i)) {
        if (jinja__integer(b, &j)) *out = i < j ? -1 : i > j;
        else if (b.kind == J_REAL) *out = order_of_int_and_real(i, b.u.d);
        else return false;
        return true;
    }
    if (a.kind != J_REAL) return false;
    if (jinja__integer(b, &j)) {
        *out = order_of_int_and_real(j, a.u.d);
        if (*out != 2) *out = -*out;
        return true;
    }
    if (b.kind != J_REAL) return false;
    *out = a.u.d < b.u.d ? -1 : a.u.d > b.u.d ? 1 : a.u.d == b.u.d ? 0 : 2;
    return true;
}

bool jinja__equal(jvm *vm, jval a, jval b) {
    int order;
    if (!jinja__work(vm, 0)) return false;
    if (order_of_numbers(a, b, &order)) return order == 0;
    if (a.kind != b.kind) return false;
    switch ((jkind)a.kind) {
    case J_UNDEFINED:
    case J_NONE: return true;
    case J_STRING: return jinja__work(vm, a.u.s->n) && jinja__same(a.u.s, b.u.s);
    case J_LIST: return equal_lists(vm, a.u.list, b.u.list);
    case J_DICT: return equal_dicts(vm, a.u.dict, b.u.dict);
    case J_NAMESPACE: return a.u.dict == b.u.dict;
    case J_FUNCTION: return a.u.function == b.u.function;
    case J_METHOD: return a.u.method == b.u.method;
    case J_MACRO: return a.u.macro == b.u.macro;
    case J_LOOP: return a.u.loop == b.u.loop;
    case J_CYCLER: return a.u.cycler == b.u.cycler;
    case J_JOINER: return a.u.joiner == b.u.joiner;
    default: return false;
    }
}

static bool less_strings(const jstring *a, const jstring *b) {
    size_t n = a->n < b->n ? a->n : b->n;
    int order = n ? memcmp(a->s, b->s, n) : 0;
    return order ? order < 0 : a->n < b->n;
}

static bool less_lists(jvm *vm, const jlist *a, const jlist *b) {
    size_t n = a->n < b->n ? a->n : b->n;
    if (!jinja__enter(vm)) return false;
    bool less = a->n < b->n;
    for (size_t i = 0; i < n && !vm->failed; i++) {
        if (jinja__equal(vm, a->items[i], b->items[i])) continue;
        less = jinja__less(vm, a->items[i], b->items[i]);
        break;
    }
    jinja__leave(vm);
    return less;
}

bool jinja__less(jvm *vm, jval a, jval b) {
    int order;
    if (!jinja__work(vm, 1)) return false;
    if (order_of_numbers(a, b, &order)) return order == -1;
    if (a.kind == J_STRING && b.kind == J_STRING)
        return jinja__work(vm, a.u.s->n) && less_strings(a.u.s, b.u.s);
    if (a.kind == J_LIST && b.kind == J_LIST && a.u.list->form == b.u.list->form &&
        a.u.list->form <= J_IS_TUPLE)
        return less_lists(vm, a.u.list, b.u.list);
    if (jinja__use_undefined(vm, a) && jinja__use_undefined(vm, b))
        jinja__fail(vm, "%s and %s have no order", jinja__type(a), jinja__type(b));
    return false;
}

static bool contains_text(jvm *vm, const jstring *in, jval what) {
    if (what.kind != J_STRING) {
        if (jinja__use_undefined(vm, what))
            jinja__fail(vm, "'in' a text wants a text, not %s", jinja__type(what));
        return false;
    }
    return jinja__work(vm, in->n) && jinja__find(in, 0, what.u.s->s, what.u.s->n) != SIZE_MAX;
}

bool jinja__contains(jvm *vm, jval in, jval what) {
    if (in.kind == J_STRING) return contains_text(vm, in.u.s, what);
    if (in.kind == J_DICT) return jinja__dict_get(vm, in.u.dict, what) != NULL;
    if (in.kind == J_UNDEFINED) return false;
    if (in.kind != J_LIST) {
        jinja__fail(vm, "'in' wants a list, a dict or a text, not %s", jinja__type(in));
        return false;
    }
    const jlist *list = jinja__iterate(vm, in);
    for (size_t i = 0; list && i < list->n && !vm->failed; i++) {
        if (jinja__equal(vm, list->items[i], what)) return true;
    }
    return false;
}

/* ---- lists ---- */

jlist *jinja__new_list(jvm *vm, size_t cap) {
    jlist *list = jinja__alloc(vm, 1, sizeof *list);
    if (list == NULL || cap == 0) return list;
    list->items = jinja__alloc(vm, cap, sizeof(jval));
    if (list->items == NULL) return NULL;
    list->cap = cap;
    return list;
}

void jinja__push(jvm *vm, jlist *list, jval v) {
    if (list == NULL || vm->failed) return;
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 4;
        jval *items = jinja__alloc(vm, cap, sizeof *items);
        if (items == NULL) return;
        if (list->n) memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = v;
}

static jlist *characters(jvm *vm, jstring *s) {
    jlist *list = jinja__new_list(vm, jinja__chars(s));
    if (!jinja__work(vm, s->n)) return list;
    for (size_t at = 0, len; list && at < s->n; at += len) {
        (void)jinja__code_point(s->s + at, s->n - at, &len);
        jinja__push(vm, list, jinja__of_string(jinja__part(vm, s, at, at + len)));
    }
    return list;
}

static jlist *keys(jvm *vm, const jdict *d) {
    jlist *list = jinja__new_list(vm, d->n);
    for (size_t i = 0; list && i < d->n; i++)
        jinja__push(vm, list, d->entries[i].key);
    return list;
}

jlist *jinja__iterate(jvm *vm, jval v) {
    static const jlist nothing;
    if (vm->failed) return NULL;
    if (v.kind == J_UNDEFINED) return jinja__new_list(vm, 0);
    if (v.kind == J_STRING) return characters(vm, v.u.s);
    if (v.kind == J_DICT) return keys(vm, v.u.dict);
    if (v.kind != J_LIST) {
        jinja__fail(vm, "%s is nothing to go through", jinja__type(v));
        return NULL;
    }
    if (v.u.list->form != J_IS_ITERATOR) return v.u.list;
    jlist *copy = jinja__new_list(vm, 0);
    if (copy == NULL) return NULL;
    *copy = v.u.list->spent ? nothing : *v.u.list;
    v.u.list->spent = true;
    return copy;
}

/* ---- dicts ---- */

enum { FEW = 8 };

static bool hash_of(jvm *vm, jval key, uint64_t *out) {
    double d;
    int64_t i;
    if (key.kind == J_STRING) {
        *out = hash_sip64(vm->hash_key, key.u.s->s, key.u.s->n);
    } else if (jinja__integer(key, &i)) {
        *out = hash_sip64(vm->hash_key, &i, sizeof i);
    } else if (jinja__number(key, &d)) {
        if (d >= -9e18 && d <= 9e18 && d == (double)(int64_t)d)
            return hash_of(vm, jinja__int((int64_t)d), out); /* 1.0 is 1 */
        *out = hash_sip64(vm->hash_key, &d, sizeof d);
    } else if (jinja__is_list(key, J_IS_TUPLE) && jinja__enter(vm)) {
        *out = 7;
        bool ok = true;
        for (size_t k = 0; k < key.u.list->n && ok; k++) {
            uint64_t part = 0;
            ok = hash_of(vm, key.u.list->items[k], &part);
            *out = hash_mix(*out + part);
        }
        jinja__leave(vm);
        return ok;
    } else if (key.kind == J_NONE || key.kind == J_UNDEFINED) {
        *out = key.kind;
    } else {
        if (!vm->failed) jinja__fail(vm, "%s cannot be the key of a dict", jinja__type(key));
        return false;
    }
    return true;
}

static size_t find_entry(jvm *vm, const jdict *d, jval key, uint64_t hash) {
    if (d->slots == NULL) {
        for (size_t i = 0; i < d->n; i++) {
            if (d->entries[i].hash == hash && jinja__equal(vm, d->entries[i].key, key)) return i;
        }
        return SIZE_MAX;
    }
    for (size_t at = (size_t)hash & (d->n_slots - 1); d->slots[at];
         at = (at + 1) & (d->n_slots - 1)) {
        size_t i = d->slots[at] - 1;
        if (d->entries[i].hash == hash && jinja__equal(vm, d->entries[i].key, key)) return i;
    }
    return SIZE_MAX;
}

static void place(jdict *d, size_t i) {
    size_t at = (size_t)d->entries[i].hash & (d->n_slots - 1);
    while (d->slots[at])
        at = (at + 1) & (d->n_slots - 1);
    d->slots[at] = (uint32_t)i + 1;
}

static bool grow(jvm *vm, jdict *d) {
    size_t cap = d->cap ? d->cap * 2 : 4;
    jentry *entries = jinja__alloc(vm, cap, sizeof *entries);
    uint32_t *slots = cap > FEW ? jinja__alloc(vm, cap * 2, sizeof *slots) : NULL;
    if (entries == NULL || (cap > FEW && slots == NULL)) return false;
    if (d->n) memcpy(entries, d->entries, d->n * sizeof *entries);
    d->entries = entries;
    d->cap = cap;
    d->slots = slots;
    d->n_slots = cap * 2;
    for (size_t i = 0; slots && i < d->n; i++)
        place(d, i);
    return true;
}

jdict *jinja__new_dict(jvm *vm) {
    return jinja__alloc(vm, 1, sizeof(jdict));
}

jval *jinja__dict_get(jvm *vm, const jdict *d, jval key) {
    uint64_t hash;
    if (d == NULL || !hash_of(vm, key, &hash)) return NULL;
    size_t i = find_entry(vm, d, key, hash);
    return i == SIZE_MAX ? NULL : &d->entries[i].value;
}

void jinja__dict_set(jvm *vm, jdict *d, jval key, jval value) {
    uint64_t hash;
    if (d == NULL || vm->failed || !hash_of(vm, key, &hash)) return;
    size_t i = find_entry(vm, d, key, hash);
    if (i != SIZE_MAX) {
        d->entries[i].value = value;
        return;
    }
    if (d->n == d->cap && !grow(vm, d)) return;
    d->entries[d->n] = (jentry){key, value, hash};
    if (d->slots) place(d, d->n);
    d->n++;
}

/* ---- values from JSON ---- */

static bool is_role(const jvm *vm, const json_t *json) {
    const char *const *role = vm->in->roles;
    if (!json_is_string(json)) return false;
    for (; role && *role; role++) {
        if (strlen(*role) == json_string_length(json) &&
            memcmp(*role, json_string_value(json), json_string_length(json)) == 0)
            return true;
    }
    return false;
}

static jval list_from_json(jvm *vm, const json_t *json, bool trusted) {
    jlist *list = jinja__new_list(vm, json_array_size(json));
    for (size_t i = 0; list && i < json_array_size(json) && !vm->failed; i++)
        jinja__push(vm, list, jinja__from_json(vm, json_array_get(json, i), trusted));
    return jinja__of_list(list);
}

static jval dict_from_json(jvm *vm, const json_t *json, bool trusted) {
    jdict *dict = jinja__new_dict(vm);
    /* Iterating does not change an object; jansson only lacks the word for it. */
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *at = json_object_iter(object); at && !vm->failed;
         at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        bool role = strcmp(key, "role") == 0 && is_role(vm, value);
        jstring *name = jinja__string(vm, key, json_object_iter_key_len(at), trusted);
        jinja__dict_set(vm, dict, jinja__of_string(name),
                        jinja__from_json(vm, value, trusted || role));
    }
    return jinja__of_dict(dict);
}

static jval nested_from_json(jvm *vm, const json_t *json, bool trusted) {
    if (++vm->nesting > JINJA__MAX_NESTING)
        return jinja__costly(vm, "a value is nested more than %d deep", JINJA__MAX_NESTING);
    jval v =
        json_is_array(json) ? list_from_json(vm, json, trusted) : dict_from_json(vm, json, trusted);
    vm->nesting--;
    return v;
}

jval jinja__from_json(jvm *vm, const json_t *json, bool trusted) {
    if (!jinja__work(vm, 1) || json == NULL) return jinja__undefined(NULL);
    switch (json_typeof(json)) {
    case JSON_STRING:
        return jinja__of_string(
            jinja__string(vm, json_string_value(json), json_string_length(json), trusted));
    case JSON_INTEGER: return jinja__owned(jinja__int(json_integer_value(json)), !trusted);
    case JSON_REAL: return jinja__owned(jinja__real(json_real_value(json)), !trusted);
    case JSON_TRUE: return jinja__owned(jinja__bool(true), !trusted);
    case JSON_FALSE: return jinja__owned(jinja__bool(false), !trusted);
    case JSON_NULL: return jinja__owned(jinja__none(), !trusted);
    default: return nested_from_json(vm, json, trusted);
    }
}
