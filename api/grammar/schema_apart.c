/* schema_apart.c - whether two schemas have no value in common, judged by their
 * types, their values, or a property required in objects. */
#include "api/grammar/schema_internal.h"

#include <string.h>

enum { MOST_NESTED = 4 };

static bool apart(api__compiler *comp, const api__parts *one, const api__parts *other, int nested);

static uint8_t types_of(api__compiler *comp, const api__parts *parts) {
    uint8_t types = API__ALL_TYPES;
    for (uint16_t i = 0; i < parts->n; i++) {
        const json_t *type = json_object_get(parts->list[i].schema, "type");
        if (type) types &= api__schema_named_types(comp, type);
    }
    return types;
}

static bool refused(api__compiler *comp, const api__parts *parts, const json_t *value) {
    for (uint16_t i = 0; i < parts->n; i++) {
        if (api__schema_admits(comp, &parts->list[i], parts->root, value) == 0) return true;
    }
    return false;
}

/* True if one lists its values, and the other refuses each. */
static bool lists_others(api__compiler *comp, const api__parts *one, const api__parts *other) {
    for (uint16_t i = 0; i < one->n; i++) {
        const json_t *only = json_object_get(one->list[i].schema, "const"),
                     *list = json_object_get(one->list[i].schema, "enum"), *value;
        size_t k;
        bool all = json_is_array(list);
        if (only && refused(comp, other, only)) return true;
        json_array_foreach(list, k, value) all = all && refused(comp, other, value);
        if (all) return true;
    }
    return false;
}

/* All schemas for the values of a key. */
static int key_parts(api__compiler *comp, const api__parts *from, const char *key,
                     api__parts *out) {
    *out = (api__parts){.root = from->root};
    for (uint16_t i = 0; i < from->n; i++) {
        const json_t *schema = from->list[i].schema;
        const json_t *own = json_object_get(json_object_get(schema, "properties"), key);
        if (own == NULL && json_object_get(schema, "patternProperties") == NULL)
            own = json_object_get(schema, "additionalProperties");
        if (own && api__parts_add(comp, out, own) != 0) return -1;
    }
    return 0;
}

/* True if one requires a key, and the two have no value of the key in common. */
static bool has_mark(api__compiler *comp, const api__parts *one, const api__parts *other,
                     int nested) {
    for (uint16_t i = 0; i < one->n; i++) {
        const json_t *required = json_object_get(one->list[i].schema, "required"), *name;
        size_t k;
        json_array_foreach(required, k, name) {
            api__parts left, right;
            const char *key = json_c_string(name);
            if (key == NULL || key_parts(comp, one, key, &left) != 0 ||
                key_parts(comp, other, key, &right) != 0)
                return false;
            if (apart(comp, &left, &right, nested + 1)) return true;
        }
    }
    return false;
}

static bool apart(api__compiler *comp, const api__parts *one, const api__parts *other, int nested) {
    if (one->none || other->none) return true;
    uint8_t both = types_of(comp, one) & types_of(comp, other);
    if (both == 0 || lists_others(comp, one, other) || lists_others(comp, other, one)) return true;
    if (both != API__TYPE_OBJECT || nested > MOST_NESTED) return false;
    return has_mark(comp, one, other, nested) || has_mark(comp, other, one, nested);
}

bool api__schemas_apart(api__compiler *comp, const json_t *one, const json_t *other,
                        const json_t *root) {
    api__parts left = {.root = root}, right = {.root = root};
    if (api__parts_add(comp, &left, one) != 0 || api__parts_add(comp, &right, other) != 0)
        return false;
    return apart(comp, &left, &right, 0);
}
