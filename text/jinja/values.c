/* values.c - lists, dicts, truth, equality and order as in Python; values from JSON. */
#include "base/hash.h"
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <string.h>

const char *jinja__type(jval value) {
    static const char *const forms[] = {"list",      "tuple",       "generator", "range",
                                        "dict_keys", "dict_values", "dict_items"};
    switch ((jkind)value.kind) {
    case J_UNDEFINED: return "Undefined";
    case J_NONE: return "None";
    case J_BOOL: return "bool";
    case J_INT: return "int";
    case J_REAL: return "float";
    case J_STRING: return "str";
    case J_LIST: return forms[value.list->form];
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

bool jinja__true(jval value) {
    switch ((jkind)value.kind) {
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return value.boolean;
    case J_INT: return value.integer != 0;
    case J_REAL: return value.real != 0;
    case J_STRING: return value.string->len > 0;
    case J_LIST: return value.list->form == J_IS_ITERATOR || value.list->count > 0;
    case J_DICT: return value.dict->count > 0;
    default: return true;
    }
}

bool jinja__integer(jval value, int64_t *out) {
    if (value.kind == J_INT) *out = value.integer;
    else if (value.kind == J_BOOL) *out = value.boolean;
    return value.kind == J_INT || value.kind == J_BOOL;
}

bool jinja__number(jval value, double *out) {
    int64_t whole;
    if (value.kind == J_REAL) *out = value.real;
    else if (jinja__integer(value, &whole)) *out = (double)whole;
    else return false;
    return true;
}

/* ---- equality and order ---- */

static bool equal_lists(jvm *vm, const jlist *left, const jlist *right) {
    if (left->form != right->form || left->count != right->count) return false;
    if (left->form == J_IS_ITERATOR || left->form == J_IS_VALUES) return left == right;
    if (!jinja__enter(vm)) return false;
    bool same = true;
    for (size_t i = 0; i < left->count && same; i++)
        same = jinja__equal(vm, left->items[i], right->items[i]);
    jinja__leave(vm);
    return same;
}

static bool equal_dicts(jvm *vm, const jdict *left, const jdict *right) {
    if (left->count != right->count || !jinja__enter(vm)) return false;
    bool same = true;
    for (size_t i = 0; i < left->count && same; i++) {
        const jval *other = jinja__dict_get(vm, right, left->entries[i].key);
        same = other && jinja__equal(vm, left->entries[i].value, *other);
    }
    jinja__leave(vm);
    return same;
}

static int order_of_int_and_real(int64_t integer, double real) {
    if (isnan(real)) return 2;
    if (real >= 9223372036854775808.0) return -1;
    if (real < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)real;
    if (integer != whole) return integer < whole ? -1 : 1;
    double rest = real - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

/* *out: -1, 0, 1, or 2 for NaN, which has no order. False: not two numbers. */
static bool order_of_numbers(jval left, jval right, int *out) {
    int64_t i, j;
    if (jinja__integer(left, &i)) {
        if (jinja__integer(right, &j)) *out = i < j ? -1 : i > j;
        else if (right.kind == J_REAL) *out = order_of_int_and_real(i, right.real);
        else return false;
        return true;
    }
    if (left.kind != J_REAL) return false;
    if (jinja__integer(right, &j)) {
        *out = order_of_int_and_real(j, left.real);
        if (*out != 2) *out = -*out;
        return true;
    }
    if (right.kind != J_REAL) return false;
    *out = left.real < right.real    ? -1
           : left.real > right.real  ? 1
           : left.real == right.real ? 0
                                     : 2;
    return true;
}

bool jinja__equal(jvm *vm, jval left, jval right) {
    int order;
    if (!jinja__work(vm, 0)) return false;
    if (order_of_numbers(left, right, &order)) return order == 0;
    if (left.kind != right.kind) return false;
    switch ((jkind)left.kind) {
    case J_UNDEFINED:
    case J_NONE: return true;
    case J_STRING:
        return jinja__work(vm, left.string->len) && jinja__same(left.string, right.string);
    case J_LIST: return equal_lists(vm, left.list, right.list);
    case J_DICT: return equal_dicts(vm, left.dict, right.dict);
    case J_NAMESPACE: return left.dict == right.dict;
    case J_FUNCTION: return left.function == right.function;
    case J_METHOD: return left.method == right.method;
    case J_MACRO: return left.macro == right.macro;
    case J_LOOP: return left.loop == right.loop;
    case J_CYCLER: return left.cycler == right.cycler;
    case J_JOINER: return left.joiner == right.joiner;
    default: return false;
    }
}

static bool less_strings(const jstring *left, const jstring *right) {
    size_t n = left->len < right->len ? left->len : right->len;
    int order = n ? memcmp(left->bytes, right->bytes, n) : 0;
    return order ? order < 0 : left->len < right->len;
}

static bool less_lists(jvm *vm, const jlist *left, const jlist *right) {
    size_t n = left->count < right->count ? left->count : right->count;
    if (!jinja__enter(vm)) return false;
    bool less = left->count < right->count;
    for (size_t i = 0; i < n && !vm->failed; i++) {
        if (jinja__equal(vm, left->items[i], right->items[i])) continue;
        less = jinja__less(vm, left->items[i], right->items[i]);
        break;
    }
    jinja__leave(vm);
    return less;
}

bool jinja__less(jvm *vm, jval left, jval right) {
    int order;
    if (!jinja__work(vm, 1)) return false;
    if (order_of_numbers(left, right, &order)) return order == -1;
    if (left.kind == J_STRING && right.kind == J_STRING)
        return jinja__work(vm, left.string->len) && less_strings(left.string, right.string);
    if (left.kind == J_LIST && right.kind == J_LIST && left.list->form == right.list->form &&
        left.list->form <= J_IS_TUPLE)
        return less_lists(vm, left.list, right.list);
    if (jinja__check_defined(vm, left) && jinja__check_defined(vm, right))
        jinja__fail(vm, "%s and %s have no order", jinja__type(left), jinja__type(right));
    return false;
}

static bool contains_text(jvm *vm, const jstring *text, jval item) {
    if (item.kind != J_STRING) {
        if (jinja__check_defined(vm, item))
            jinja__fail(vm, "'in' a text wants a text, not %s", jinja__type(item));
        return false;
    }
    return jinja__work(vm, text->len) &&
           jinja__find(text, 0, item.string->bytes, item.string->len) != SIZE_MAX;
}

bool jinja__contains(jvm *vm, jval container, jval item) {
    if (container.kind == J_STRING) return contains_text(vm, container.string, item);
    if (container.kind == J_DICT) return jinja__dict_get(vm, container.dict, item) != NULL;
    if (container.kind == J_UNDEFINED) return false;
    if (container.kind != J_LIST) {
        jinja__fail(vm, "'in' wants a list, a dict or a text, not %s", jinja__type(container));
        return false;
    }
    const jlist *list = jinja__iterate(vm, container);
    for (size_t i = 0; list && i < list->count && !vm->failed; i++) {
        if (jinja__equal(vm, list->items[i], item)) return true;
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

void jinja__push(jvm *vm, jlist *list, jval value) {
    if (list == NULL || vm->failed) return;
    if (list->count == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 4;
        jval *items = jinja__alloc(vm, cap, sizeof *items);
        if (items == NULL) return;
        if (list->count) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count++] = value;
}

static jlist *characters(jvm *vm, jstring *text) {
    jlist *list = jinja__new_list(vm, jinja__chars(text));
    if (!jinja__work(vm, text->len)) return list;
    for (size_t at = 0, len; list && at < text->len; at += len) {
        (void)jinja__code_point(text->bytes + at, text->len - at, &len);
        jinja__push(vm, list, jinja__of_string(jinja__part(vm, text, at, at + len)));
    }
    return list;
}

static jlist *keys(jvm *vm, const jdict *dict) {
    jlist *list = jinja__new_list(vm, dict->count);
    for (size_t i = 0; list && i < dict->count; i++)
        jinja__push(vm, list, dict->entries[i].key);
    return list;
}

jlist *jinja__iterate(jvm *vm, jval value) {
    static const jlist nothing;
    if (vm->failed) return NULL;
    if (value.kind == J_UNDEFINED) return jinja__new_list(vm, 0);
    if (value.kind == J_STRING) return characters(vm, value.string);
    if (value.kind == J_DICT) return keys(vm, value.dict);
    if (value.kind != J_LIST) {
        jinja__fail(vm, "%s is nothing to go through", jinja__type(value));
        return NULL;
    }
    if (value.list->form != J_IS_ITERATOR) return value.list;
    jlist *copy = jinja__new_list(vm, 0);
    if (copy == NULL) return NULL;
    *copy = value.list->spent ? nothing : *value.list;
    value.list->spent = true;
    return copy;
}

jlist *jinja__copy_list(jvm *vm, jval value) {
    const jlist *all = jinja__iterate(vm, value);
    jlist *out = all ? jinja__new_list(vm, all->count) : NULL;
    if (out && !jinja__work(vm, all->count * sizeof(jval))) return NULL;
    for (size_t i = 0; out && i < all->count; i++)
        jinja__push(vm, out, all->items[i]);
    return out;
}

void jinja__reverse_list(jlist *list) {
    for (size_t i = 0; i < list->count / 2; i++) {
        jval kept = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = kept;
    }
}

/* ---- dicts ---- */

enum { FEW = 8 };

static bool hash_of(jvm *vm, jval key, uint64_t *out) {
    double real;
    int64_t i;
    if (key.kind == J_STRING) {
        *out = hash_sip64(vm->hash_key, key.string->bytes, key.string->len);
    } else if (jinja__integer(key, &i)) {
        *out = hash_sip64(vm->hash_key, &i, sizeof i);
    } else if (jinja__number(key, &real)) {
        if (real >= -9e18 && real <= 9e18 && real == (double)(int64_t)real)
            return hash_of(vm, jinja__int((int64_t)real), out); /* 1.0 is 1 */
        *out = hash_sip64(vm->hash_key, &real, sizeof real);
    } else if (jinja__is_list(key, J_IS_TUPLE) && jinja__enter(vm)) {
        *out = 7;
        bool ok = true;
        for (size_t k = 0; k < key.list->count && ok; k++) {
            uint64_t part = 0;
            ok = hash_of(vm, key.list->items[k], &part);
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

static size_t find_entry(jvm *vm, const jdict *dict, jval key, uint64_t hash) {
    if (dict->slots == NULL) {
        for (size_t i = 0; i < dict->count; i++) {
            if (dict->entries[i].hash == hash && jinja__equal(vm, dict->entries[i].key, key))
                return i;
        }
        return SIZE_MAX;
    }
    for (size_t at = (size_t)hash & (dict->n_slots - 1); dict->slots[at];
         at = (at + 1) & (dict->n_slots - 1)) {
        size_t i = dict->slots[at] - 1;
        if (dict->entries[i].hash == hash && jinja__equal(vm, dict->entries[i].key, key)) return i;
    }
    return SIZE_MAX;
}

static void place(jdict *dict, size_t i) {
    size_t at = (size_t)dict->entries[i].hash & (dict->n_slots - 1);
    while (dict->slots[at])
        at = (at + 1) & (dict->n_slots - 1);
    dict->slots[at] = (uint32_t)i + 1;
}

static bool grow(jvm *vm, jdict *dict) {
    size_t cap = dict->cap ? dict->cap * 2 : 4;
    jentry *entries = jinja__alloc(vm, cap, sizeof *entries);
    uint32_t *slots = cap > FEW ? jinja__alloc(vm, cap * 2, sizeof *slots) : NULL;
    if (entries == NULL || (cap > FEW && slots == NULL)) return false;
    if (dict->count) memcpy(entries, dict->entries, dict->count * sizeof *entries);
    dict->entries = entries;
    dict->cap = cap;
    dict->slots = slots;
    dict->n_slots = cap * 2;
    for (size_t i = 0; slots && i < dict->count; i++)
        place(dict, i);
    return true;
}

jdict *jinja__new_dict(jvm *vm) {
    return jinja__alloc(vm, 1, sizeof(jdict));
}

jval *jinja__dict_get(jvm *vm, const jdict *dict, jval key) {
    uint64_t hash;
    if (dict == NULL || !hash_of(vm, key, &hash)) return NULL;
    size_t i = find_entry(vm, dict, key, hash);
    return i == SIZE_MAX ? NULL : &dict->entries[i].value;
}

void jinja__dict_set(jvm *vm, jdict *dict, jval key, jval value) {
    uint64_t hash;
    if (dict == NULL || vm->failed || !hash_of(vm, key, &hash)) return;
    size_t i = find_entry(vm, dict, key, hash);
    if (i != SIZE_MAX) {
        dict->entries[i].value = value;
        return;
    }
    if (dict->count == dict->cap && !grow(vm, dict)) return;
    dict->entries[dict->count] = (jentry){key, value, hash};
    if (dict->slots) place(dict, dict->count);
    dict->count++;
}

/* ---- values from JSON ---- */

static bool is_role(const jvm *vm, const json_t *json) {
    const char *const *role = vm->input->roles;
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
    /* Iterating does not change an object, but jansson has no const iterator. */
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
    jval value =
        json_is_array(json) ? list_from_json(vm, json, trusted) : dict_from_json(vm, json, trusted);
    vm->nesting--;
    return value;
}

jval jinja__from_json(jvm *vm, const json_t *json, bool trusted) {
    if (!jinja__work(vm, 1) || json == NULL) return jinja__undefined(NULL);
    switch (json_typeof(json)) {
    case JSON_STRING:
        return jinja__of_string(
            jinja__string(vm, json_string_value(json), json_string_length(json), trusted));
    case JSON_INTEGER: return jinja__with_client(jinja__int(json_integer_value(json)), !trusted);
    case JSON_REAL: return jinja__with_client(jinja__real(json_real_value(json)), !trusted);
    case JSON_TRUE: return jinja__with_client(jinja__bool(true), !trusted);
    case JSON_FALSE: return jinja__with_client(jinja__bool(false), !trusted);
    case JSON_NULL: return jinja__with_client(jinja__none(), !trusted);
    default: return nested_from_json(vm, json, trusted);
    }
}
