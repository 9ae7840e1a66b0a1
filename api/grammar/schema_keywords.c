/* schema_keywords.c - the role of each keyword of JSON Schema, and lists of schemas.
 *
 * allOf, $ref and the keywords beside them become one list, so a node sees every schema of its
 * value. An unknown keyword is an annotation (JSON Schema core, 4.3.1). */
#include "api/grammar/schema_internal.h"

#include <math.h>
#include <string.h>

enum { MOST_FOLLOWED = 1 << 20, MOST_EXPANDED = 100000, MOST_HOPS = 40 };

int api__schema_wrong(api__compiler *comp, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(comp->error, ERR_BAD_PARAM, comp->param, comp->param, fmt, args);
    va_end(args);
    return -1;
}

int api__schema_unheld(api__compiler *comp, const char *keyword, const char *where) {
    if (!comp->strict) return 0;
    return err_set(comp->error, ERR_UNSUPPORTED, comp->param,
                   "%s: the schema keyword '%.40s' cannot be enforced%s, and strict requires it",
                   comp->param, keyword, where);
}

int api__schema_no_memory(api__compiler *comp) {
    return err_set(comp->error, ERR_NO_MEMORY, comp->param, "%s: the schema is too large",
                   comp->param);
}

/* ---- keywords ---- */

/* PLAIN: enforced. COMBINES: holds schemas for the same value. UNHELD: constrains, and cannot be
 * enforced. Keywords with a type are checked with the values of the type. */
enum { PLAIN, COMBINES, UNHELD };

static const struct {
    const char *name;
    uint8_t role;
    uint8_t types; /* implied if the schema names no type */
} keywords[] = {
    {"type", PLAIN, 0},
    {"enum", PLAIN, 0},
    {"const", PLAIN, 0},
    {"anyOf", COMBINES, 0},
    {"oneOf", COMBINES, 0},
    {"not", UNHELD, 0},
    {"if", UNHELD, 0},
    {"$dynamicRef", UNHELD, 0},
    {"$recursiveRef", UNHELD, 0},
    {"properties", PLAIN, API__TYPE_OBJECT},
    {"required", PLAIN, API__TYPE_OBJECT},
    {"additionalProperties", PLAIN, API__TYPE_OBJECT},
    {"patternProperties", PLAIN, API__TYPE_OBJECT},
    {"propertyNames", PLAIN, API__TYPE_OBJECT},
    {"minProperties", PLAIN, API__TYPE_OBJECT},
    {"maxProperties", PLAIN, API__TYPE_OBJECT},
    {"dependentRequired", PLAIN, API__TYPE_OBJECT},
    {"dependentSchemas", PLAIN, API__TYPE_OBJECT},
    {"dependencies", PLAIN, API__TYPE_OBJECT},
    {"unevaluatedProperties", PLAIN, API__TYPE_OBJECT},
    {"items", PLAIN, API__TYPE_ARRAY},
    {"prefixItems", PLAIN, API__TYPE_ARRAY},
    {"minItems", PLAIN, API__TYPE_ARRAY},
    {"maxItems", PLAIN, API__TYPE_ARRAY},
    {"uniqueItems", PLAIN, API__TYPE_ARRAY},
    {"contains", PLAIN, API__TYPE_ARRAY},
    {"unevaluatedItems", PLAIN, API__TYPE_ARRAY},
    {"minLength", PLAIN, API__TYPE_STRING},
    {"maxLength", PLAIN, API__TYPE_STRING},
    {"pattern", PLAIN, API__TYPE_STRING},
    {"format", PLAIN, API__TYPE_STRING},
    {"minimum", PLAIN, API__TYPE_NUMBER | API__TYPE_INTEGER},
    {"maximum", PLAIN, API__TYPE_NUMBER | API__TYPE_INTEGER},
    {"exclusiveMinimum", PLAIN, API__TYPE_NUMBER | API__TYPE_INTEGER},
    {"exclusiveMaximum", PLAIN, API__TYPE_NUMBER | API__TYPE_INTEGER},
    {"multipleOf", PLAIN, API__TYPE_NUMBER | API__TYPE_INTEGER},
};

/* Does this value of an UNHELD keyword allow everything? */
static bool says_nothing(const json_t *schema, const char *name, const json_t *value) {
    if (strcmp(name, "not") == 0) return json_is_false(value);
    if (strcmp(name, "if") == 0)
        return !json_object_get(schema, "then") && !json_object_get(schema, "else");
    return false;
}

/* Sets *says if some keyword, not skipped by the part, constrains the value. */
static int read_keywords(api__compiler *comp, const api__part *part, bool *says) {
    *says = false;
    for (size_t i = 0; i < ARRAY_LEN(keywords); i++) {
        const char *name = keywords[i].name;
        const json_t *value = json_object_get(part->schema, name);
        if (value == NULL) continue;
        if (keywords[i].role == UNHELD) {
            if (!says_nothing(part->schema, name, value) && api__schema_unheld(comp, name, "") != 0)
                return -1;
            continue;
        }
        bool skipped = (part->skips_any && strcmp(name, "anyOf") == 0) ||
                       (part->skips_one && strcmp(name, "oneOf") == 0);
        *says = *says || !skipped;
    }
    return 0;
}

/* ---- references ---- */

const json_t *api__schema_resolve(api__compiler *comp, const json_t *root, const char *ref,
                                  bool *unheld) {
    const char *id = json_c_string(json_object_get(root, "$id"));
    size_t n = id ? strlen(id) : 0;
    comp->followed += strlen(ref);
    if (n && strncmp(ref, id, n) == 0 && (ref[n] == '#' || ref[n] == 0)) ref += n;
    *unheld = ref[0] != 0 && (ref[0] != '#' || (ref[1] != 0 && ref[1] != '/'));
    return ref[0] == 0 ? root : *unheld ? NULL : api__schema_follow(root, ref);
}

/* *out: the target of $ref, or NULL if the $ref is left out. */
static int follow(api__compiler *comp, const json_t *root, const json_t *value,
                  const json_t **out) {
    const char *ref = json_c_string(value);
    bool unheld = false;
    *out = ref ? api__schema_resolve(comp, root, ref, &unheld) : NULL;
    if (comp->followed > MOST_FOLLOWED)
        return api__schema_wrong(comp, "the $ref references take too long to follow");
    if (unheld) return api__schema_unheld(comp, "$ref", " outside this schema");
    if (*out == NULL)
        return api__schema_wrong(comp, "$ref '%.80s' does not lead to a part of this schema",
                                 ref ? ref : "");
    return 0;
}

/* ---- lists ---- */

static int append(api__compiler *comp, api__parts *parts, api__part part) {
    bool says;
    if (read_keywords(comp, &part, &says) != 0) return -1;
    if (!says) return 0;
    for (uint16_t i = 0; i < parts->n; i++) {
        const api__part *one = &parts->list[i];
        if (one->schema == part.schema && one->skips_any == part.skips_any &&
            one->skips_one == part.skips_one)
            return 0;
    }
    if (parts->n == API__MAX_PARTS)
        return api__schema_wrong(comp, "more than %d schemas hold for one value", API__MAX_PARTS);
    parts->list[parts->n++] = part;
    return 0;
}

static int add(api__compiler *comp, api__parts *parts, const json_t *schema, int hops) {
    const json_t *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf");
    const json_t *next, *one;
    size_t i;
    if (json_is_true(schema)) return 0;
    const json_t *not = json_object_get(schema, "not");
    if (json_is_false(schema) || json_is_true(not ) ||
        (json_is_object(not ) && json_object_size(not ) == 0)) {
        parts->none = true;
        return 0;
    }
    if (!json_is_object(schema))
        return api__schema_wrong(comp, "a schema must be an object or a boolean");
    if (hops > MOST_HOPS)
        return api__schema_wrong(comp, "$ref '%.80s' does not lead to a part of this schema",
                                 ref && json_c_string(ref) ? json_c_string(ref) : "#");
    if (++comp->expanded > MOST_EXPANDED)
        return api__schema_wrong(comp, "the schemas that hold together take too long to follow");
    if (append(comp, parts, (api__part){.schema = schema}) != 0) return -1;
    if (ref) {
        if (follow(comp, parts->root, ref, &next) != 0) return -1;
        if (next && add(comp, parts, next, hops + 1) != 0) return -1;
    }
    if (all && json_array_size(all) == 0)
        return api__schema_wrong(comp, "allOf must be a list of schemas");
    json_array_foreach(all, i, one) {
        if (add(comp, parts, one, hops + 1) != 0) return -1;
    }
    return 0;
}

int api__parts_add(api__compiler *comp, api__parts *parts, const json_t *schema) {
    return add(comp, parts, schema, 0);
}

int api__parts_keep(api__compiler *comp, api__parts *parts, api__part part) {
    return append(comp, parts, part);
}

/* ---- types ---- */

uint8_t api__schema_named_types(api__compiler *comp, const json_t *type) {
    size_t n = json_is_array(type) ? json_array_size(type) : 1;
    uint8_t types = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(type) ? json_array_get(type, i) : type;
        uint8_t bit = api__type_of_name(json_c_string(one));
        if (bit == 0) {
            api__schema_wrong(comp, "the schema has an unknown type");
            return 0;
        }
        types |= bit & API__TYPE_NUMBER ? API__TYPE_NUMBER | API__TYPE_INTEGER : bit;
    }
    if (types == 0) api__schema_wrong(comp, "the schema has an empty list of types");
    return types;
}

uint8_t api__schema_implied(const json_t *schema) {
    uint8_t types = 0;
    for (size_t k = 0; k < ARRAY_LEN(keywords); k++) {
        if (keywords[k].types && json_object_get(schema, keywords[k].name))
            types |= keywords[k].types;
    }
    return types;
}

int api__parts_types(api__compiler *comp, const api__part *parts, uint16_t n, uint8_t *out,
                     bool *open) {
    uint8_t named = API__ALL_TYPES, implied = 0;
    bool any_named = false;
    for (uint16_t i = 0; i < n; i++) {
        const json_t *type = json_object_get(parts[i].schema, "type");
        if (type) {
            uint8_t types = api__schema_named_types(comp, type);
            if (types == 0) return -1;
            any_named = true;
            named &= types;
        }
        implied |= api__schema_implied(parts[i].schema);
    }
    *open = !any_named && implied == 0;
    *out = any_named || implied == 0 ? named : implied;
    return 0;
}

int api__parts_count(api__compiler *comp, const api__pending *item, const char *key, bool most,
                     uint32_t otherwise, uint32_t *out) {
    *out = otherwise;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        const json_t *value = json_object_get(item->parts[i].schema, key);
        double n = json_number_value(value);
        if (value == NULL) continue;
        if (!json_is_number(value) || n < 0 || n != floor(n))
            return api__schema_wrong(comp, "%s must be an integer of at least 0", key);
        uint32_t count = n > 1 << 30 ? 1u << 30 : (uint32_t)n;
        if (most ? count > *out : count < *out) *out = count;
    }
    return 0;
}
