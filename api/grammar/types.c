/* types.c - the JSON types of values and schemas, and references inside a schema. */
#include "api/grammar/constrain_internal.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint8_t api__type_of_name(const char *name) {
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    for (size_t i = 0; name && i < ARRAY_LEN(names); i++) {
        if (strcmp(names[i], name) == 0) return (uint8_t)(1 << i);
    }
    return 0;
}

uint8_t api__type_of_value(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_NULL: return API__TYPE_NULL;
    case JSON_TRUE:
    case JSON_FALSE: return API__TYPE_BOOLEAN;
    case JSON_INTEGER: return API__TYPE_INTEGER | API__TYPE_NUMBER;
    case JSON_REAL:
        return json_real_value(value) == floor(json_real_value(value))
                   ? API__TYPE_INTEGER | API__TYPE_NUMBER
                   : API__TYPE_NUMBER;
    case JSON_STRING: return API__TYPE_STRING;
    case JSON_ARRAY: return API__TYPE_ARRAY;
    default: return API__TYPE_OBJECT;
    }
}

/* A part of a URI's fragment may stand as %XX. */
const json_t *api__schema_follow(const json_t *root, const char *ref) {
    const json_t *at = root;
    if (ref[0] != '#') return NULL;
    for (const char *from = ref + 1; at && *from;) {
        char key[256];
        size_t n = 0;
        if (*from++ != '/') return NULL;
        for (; *from && *from != '/'; from++) {
            if (n + 1 == sizeof key) return NULL;
            if (from[0] == '~' && (from[1] == '0' || from[1] == '1')) {
                key[n++] = *++from == '0' ? '~' : '/';
            } else if (from[0] == '%' && isxdigit((uint8_t)from[1]) && isxdigit((uint8_t)from[2])) {
                char digits[] = {from[1], from[2], 0};
                key[n++] = (char)strtoul(digits, NULL, 16);
                from += 2;
            } else {
                key[n++] = *from;
            }
        }
        key[n] = 0;
        if (json_is_array(at)) {
            char *end;
            unsigned long i = strtoul(key, &end, 10);
            at = n && *end == 0 ? json_array_get(at, i) : NULL;
        } else {
            at = json_object_get(at, key);
        }
    }
    return at;
}

/* ---- types of a schema ---- */

enum { MAX_SCHEMAS = 64 }; /* looked at for one parameter; further ones count as unknown */

static uint8_t types_of_words(const json_t *type) {
    size_t n = json_is_array(type) ? json_array_size(type) : 1;
    uint8_t types = 0;
    for (size_t i = 0; i < n; i++)
        types |=
            api__type_of_name(json_c_string(json_is_array(type) ? json_array_get(type, i) : type));
    return types;
}

static uint8_t types_of_values(const json_t *schema) {
    const json_t *values = json_object_get(schema, "enum"),
                 *only = json_object_get(schema, "const"), *one;
    uint8_t types = only ? api__type_of_value(only) : 0;
    size_t i;
    json_array_foreach(values, i, one) types |= api__type_of_value(one);
    return types;
}

/* The types of a schema without the schemas combined in it. */
static uint8_t own_types(const json_t *schema) {
    uint8_t types = types_of_words(json_object_get(schema, "type"));
    if (types == 0) types = types_of_values(schema);
    return types ? types : api__schema_implied(schema);
}

uint8_t api__schema_types(const json_t *schema, const json_t *root) {
    static const char *const combines[] = {"anyOf", "oneOf", "allOf"};
    const json_t *list[MAX_SCHEMAS] = {schema}, *one;
    size_t n = 1, i;
    uint8_t types = 0;
    for (size_t k = 0; k < n; k++) {
        const char *ref = json_c_string(json_object_get(list[k], "$ref"));
        types |= own_types(list[k]);
        if (ref && n < MAX_SCHEMAS) list[n++] = api__schema_follow(root, ref);
        for (size_t j = 0; j < sizeof combines / sizeof *combines; j++) {
            json_array_foreach(json_object_get(list[k], combines[j]), i, one) {
                if (n < MAX_SCHEMAS) list[n++] = one;
            }
        }
    }
    return types;
}
