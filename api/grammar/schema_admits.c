/* schema_admits.c - whether a schema allows a value. The value is one of an enum, or the name of
 * a property. */
#include "api/grammar/schema_internal.h"

#include <string.h>

enum { MOST_NESTED = 40, MOST_STEPS = 200000 };

typedef struct {
    api__compiler *comp;
    const json_t *root;
    int nested;
} judge;

/* All of these return 1: yes, or unknown; 0: no; -1: error. */
static int admits(judge *self, const api__part *part, const json_t *value);

static int admits_schema(judge *self, const json_t *schema, const json_t *value) {
    const api__part part = {.schema = schema};
    if (json_is_boolean(schema)) return json_is_true(schema);
    if (!json_is_object(schema))
        return api__schema_wrong(self->comp, "a schema must be an object or a boolean");
    if (++self->nested > MOST_NESTED) {
        self->nested--;
        return 1;
    }
    int rc = admits(self, &part, value);
    self->nested--;
    return rc;
}

/* Numbers are equal by value. */
static bool equal(const json_t *left, const json_t *right) {
    if (json_is_number(left) && json_is_number(right)) return api__decimal_order(left, right) == 0;
    return json_equal(left, right);
}

static bool is_among(const json_t *list, const json_t *value) {
    const json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        if (equal(one, value)) return true;
    }
    return false;
}

/* How many schemas of a list allow the value; stops at `most`. -1: error. */
static int count(judge *self, const json_t *list, const json_t *value, int most) {
    const json_t *one;
    size_t i;
    int n = 0;
    json_array_foreach(list, i, one) {
        int rc = admits_schema(self, one, value);
        if (rc < 0) return -1;
        n += rc;
        if (n == most) break;
    }
    return n;
}

static int combined(judge *self, const api__part *part, const json_t *value) {
    const json_t *any = json_object_get(part->schema, "anyOf"),
                 *one = json_object_get(part->schema, "oneOf"),
                 *all = json_object_get(part->schema, "allOf"),
                 *ref = json_object_get(part->schema, "$ref");
    int n = any && !part->skips_any ? count(self, any, value, 1) : 1;
    if (n != 1) return n;
    n = one && !part->skips_one ? count(self, one, value, 2) : 1;
    if (n != 1) return n < 0 ? -1 : 0;
    n = all ? count(self, all, value, INT32_MAX) : 0;
    if (n < 0 || (size_t)n < json_array_size(all)) return n < 0 ? -1 : 0;
    if (ref == NULL || json_c_string(ref) == NULL) return 1;
    bool unheld;
    const json_t *target = api__schema_resolve(self->comp, self->root, json_c_string(ref), &unheld);
    return target ? admits_schema(self, target, value) : 1;
}

static bool in_range(const json_t *schema, const json_t *value) {
    const json_t *min = json_object_get(schema, "minimum"),
                 *max = json_object_get(schema, "maximum"),
                 *above = json_object_get(schema, "exclusiveMinimum"),
                 *below = json_object_get(schema, "exclusiveMaximum"),
                 *of = json_object_get(schema, "multipleOf");
    if (json_is_number(min) && api__decimal_order(value, min) < 0) return false;
    if (json_is_number(max) && api__decimal_order(value, max) > 0) return false;
    if (json_is_number(above) && api__decimal_order(value, above) <= 0) return false;
    if (json_is_number(below) && api__decimal_order(value, below) >= 0) return false;
    return !json_is_number(of) || api__decimal_multiple(value, of);
}

static bool has_count(const json_t *schema, const char *least, const char *most, size_t n) {
    const json_t *min = json_object_get(schema, least), *max = json_object_get(schema, most);
    return (!json_is_number(min) || (double)n >= json_number_value(min)) &&
           (!json_is_number(max) || (double)n <= json_number_value(max));
}

static size_t characters(const json_t *value) {
    const char *text = json_string_value(value);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(value); i++)
        n += ((uint8_t)text[i] & 0xc0) != 0x80;
    return n;
}

static int text_fits(judge *self, const json_t *schema, const json_t *value) {
    const json_t *pattern = json_object_get(schema, "pattern"),
                 *format = json_object_get(schema, "format");
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    if (!has_count(schema, "minLength", "maxLength", characters(value))) return 0;
    int rc = pattern ? api__pattern_matches(self->comp, "pattern", pattern, text, n) : 1;
    if (rc > 0 && json_c_string(format))
        rc = api__format_matches(self->comp, json_c_string(format), text, n);
    return rc > 1 ? 1 : rc;
}

static int list_fits(judge *self, const json_t *schema, const json_t *value) {
    const json_t *items = json_object_get(schema, "items"), *one;
    const json_t *prefix = json_is_array(items) ? items : json_object_get(schema, "prefixItems");
    if (json_is_array(items)) items = json_object_get(schema, "additionalItems");
    size_t i;
    if (!has_count(schema, "minItems", "maxItems", json_array_size(value))) return 0;
    json_array_foreach(value, i, one) {
        const json_t *sub = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        int rc = sub ? admits_schema(self, sub, one) : 1;
        if (rc != 1) return rc;
    }
    return 1;
}

/* The value of one key. */
static int member_fits(judge *self, const json_t *schema, const char *key, const json_t *value) {
    const json_t *own = json_object_get(json_object_get(schema, "properties"), key),
                 *rest = json_object_get(schema, "additionalProperties"),
                 *names = json_object_get(schema, "propertyNames");
    const char *text;
    json_t *sub;
    int rc = own ? admits_schema(self, own, value) : 1;
    bool matched = own != NULL;
    json_object_foreach((json_t *)(uintptr_t)json_object_get(schema, "patternProperties"), text,
                        sub) {
        json_t *pattern = json_string(text);
        int hit = rc != 1 ? 0
                          : api__pattern_matches(self->comp, "patternProperties", pattern, key,
                                                 strlen(key));
        json_decref(pattern);
        matched = matched || hit == 1;
        if (hit < 0) rc = -1;
        else if (hit == 1) rc = admits_schema(self, sub, value);
    }
    if (rc == 1 && !matched && rest) rc = admits_schema(self, rest, value);
    json_t *name = rc == 1 && names ? json_string(key) : NULL;
    if (name) rc = admits_schema(self, names, name);
    json_decref(name);
    return rc;
}

static int object_fits(judge *self, const json_t *schema, const json_t *value) {
    const json_t *required = json_object_get(schema, "required"), *one;
    const char *key;
    json_t *member;
    size_t i;
    if (!has_count(schema, "minProperties", "maxProperties", json_object_size(value))) return 0;
    json_array_foreach(required, i, one) {
        const char *name = json_c_string(one);
        if (name && json_object_get(value, name) == NULL) return 0;
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        int rc = member_fits(self, schema, key, member);
        if (rc != 1) return rc;
    }
    return 1;
}

static int admits(judge *self, const api__part *part, const json_t *value) {
    const json_t *schema = part->schema;
    const json_t *type = json_object_get(schema, "type"), *list = json_object_get(schema, "enum"),
                 *only = json_object_get(schema, "const"), *not = json_object_get(schema, "not");
    if (++self->comp->expanded > MOST_STEPS)
        return api__schema_wrong(self->comp, "the values of enum take too long to check");
    if (type) {
        uint8_t types = api__schema_named_types(self->comp, type);
        if (types == 0) return -1;
        if (!(types & api__type_of_value(value))) return 0;
    }
    if ((list && !is_among(list, value)) || (only && !equal(only, value))) return 0;
    int rc = not ? admits_schema(self, not, value) : 0;
    if (rc != 0 && not ) return rc < 0 ? -1 : 0;
    rc = combined(self, part, value);
    if (rc != 1) return rc;
    if (json_is_number(value)) return in_range(schema, value);
    if (json_is_string(value)) return text_fits(self, schema, value);
    if (json_is_array(value)) return list_fits(self, schema, value);
    return json_is_object(value) ? object_fits(self, schema, value) : 1;
}

int api__schema_admits(api__compiler *comp, const api__part *part, const json_t *root,
                       const json_t *value) {
    judge self = {.comp = comp, .root = root};
    return admits(&self, part, value);
}
