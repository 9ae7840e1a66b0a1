/* schema.c - compiles a JSON Schema to a grammar. constrain_internal.h lists the supported part.
 *
 * There is no recursion: a schema inside another becomes a node and is compiled later. The same
 * schema is always the same node, and $ref needs nothing more. */
#include "api/grammar/schema_internal.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_FOLLOWED = 1 << 20 };
static const int64_t most_ranged = 99999999999999; /* API__RANGED_DIGITS nines */

int api__schema_wrong(api__compiler *comp, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(comp->error, ERR_BAD_PARAM, comp->param, comp->param, fmt, args);
    va_end(args);
    return -1;
}

int api__schema_unsupported(api__compiler *comp, const char *keyword, const char *where) {
    return err_set(comp->error, ERR_UNSUPPORTED, comp->param,
                   "%s: the schema keyword '%.40s' is not supported%s", comp->param, keyword,
                   where);
}

int api__schema_no_memory(api__compiler *comp) {
    return err_set(comp->error, ERR_NO_MEMORY, comp->param, "%s: the schema is too large",
                   comp->param);
}

/* ---- keywords ---- */

enum { ANNOTATION, TYPED, STRUCTURE, COMBINES };

static const struct {
    const char *name;
    uint8_t role;
    uint8_t types; /* TYPED: the type implied if the schema has none */
} keywords[] = {
    {"title", ANNOTATION, 0},
    {"description", ANNOTATION, 0},
    {"default", ANNOTATION, 0},
    {"examples", ANNOTATION, 0},
    {"$schema", ANNOTATION, 0},
    {"$id", ANNOTATION, 0},
    {"$comment", ANNOTATION, 0},
    {"$defs", ANNOTATION, 0},
    {"definitions", ANNOTATION, 0},
    {"deprecated", ANNOTATION, 0},
    {"readOnly", ANNOTATION, 0},
    {"writeOnly", ANNOTATION, 0},
    {"type", STRUCTURE, 0},
    {"enum", STRUCTURE, 0},
    {"const", STRUCTURE, 0},
    {"anyOf", COMBINES, 0},
    {"oneOf", COMBINES, 0},
    {"allOf", COMBINES, 0},
    {"$ref", COMBINES, 0},
    {"properties", TYPED, API__TYPE_OBJECT},
    {"required", TYPED, API__TYPE_OBJECT},
    {"additionalProperties", TYPED, API__TYPE_OBJECT},
    {"items", TYPED, API__TYPE_ARRAY},
    {"prefixItems", TYPED, API__TYPE_ARRAY},
    {"minItems", TYPED, API__TYPE_ARRAY},
    {"maxItems", TYPED, API__TYPE_ARRAY},
    {"minLength", TYPED, API__TYPE_STRING},
    {"maxLength", TYPED, API__TYPE_STRING},
    {"minimum", TYPED, API__TYPE_INTEGER},
    {"maximum", TYPED, API__TYPE_INTEGER},
    {"exclusiveMinimum", TYPED, API__TYPE_INTEGER},
    {"exclusiveMaximum", TYPED, API__TYPE_INTEGER},
};

static size_t keyword_find(const char *name) {
    size_t i = 0;
    while (i < ARRAY_LEN(keywords) && strcmp(keywords[i].name, name) != 0)
        i++;
    return i;
}

int api__schema_keywords(api__compiler *comp, const json_t *schema, uint8_t *implied,
                         const char **combines) {
    const char *key;
    json_t *value;
    size_t others = 0;
    *implied = 0;
    *combines = NULL;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        size_t i = keyword_find(key);
        if (i == ARRAY_LEN(keywords)) return api__schema_unsupported(comp, key, "");
        if (keywords[i].role == COMBINES) {
            if (*combines)
                return api__schema_unsupported(comp, key,
                                               " beside another keyword that combines schemas");
            *combines = keywords[i].name;
        } else if (keywords[i].role != ANNOTATION) {
            others++;
        }
        *implied |= keywords[i].types;
    }
    if (*combines && others)
        return api__schema_unsupported(comp, *combines, " beside other constraints");
    return 0;
}

static int read_types(api__compiler *comp, const json_t *type, uint8_t *out) {
    size_t n = json_is_array(type) ? json_array_size(type) : 1;
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(type) ? json_array_get(type, i) : type;
        uint8_t bit = api__type_of_name(json_c_string(one));
        if (bit == 0) return api__schema_wrong(comp, "the schema has an unknown type");
        *out |= bit;
    }
    if (*out & API__TYPE_NUMBER)
        *out &= (uint8_t)~API__TYPE_INTEGER; /* every integer is a number */
    return *out ? 0 : api__schema_wrong(comp, "the schema has an empty list of types");
}

/* ---- references and nodes ---- */

int api__schema_resolve(api__compiler *comp, const json_t *root, const json_t **schema) {
    for (int hops = 0; json_object_get(*schema, "$ref"); hops++) {
        const char *ref = json_c_string(json_object_get(*schema, "$ref")), *combines;
        uint8_t implied;
        if (api__schema_keywords(comp, *schema, &implied, &combines) != 0) return -1;
        const json_t *next = ref ? api__schema_follow(root, ref) : NULL;
        comp->followed += ref ? strlen(ref) : 0;
        if (comp->followed > MOST_FOLLOWED)
            return api__schema_wrong(comp, "the $ref references take too long to follow");
        if (next == NULL || hops == 32)
            return api__schema_wrong(comp, "$ref '%.80s' does not lead to a part of this schema",
                                     ref ? ref : "");
        *schema = next;
    }
    return 0;
}

int api__schema_node(api__compiler *comp, const json_t *schema, const json_t *root, uint8_t types,
                     uint16_t *out) {
    if (api__schema_resolve(comp, root, &schema) != 0) return -1;
    if (json_is_true(schema) || (json_is_object(schema) && json_object_size(schema) == 0)) {
        *out = API__NODE_ANY;
        return 0;
    }
    if (json_is_false(schema)) return api__schema_wrong(comp, "the schema false matches no value");
    if (!json_is_object(schema))
        return api__schema_wrong(comp, "a schema must be an object or a boolean");
    return api__schema_node_of(comp, (api__pending){schema, root, types, API__FORM_JSON}, out);
}

int api__schema_node_of(api__compiler *comp, api__pending item, uint16_t *out) {
    api__grammar *grammar = comp->grammar;
    for (uint16_t i = API__N_BUILTIN; i < grammar->n_nodes; i++) {
        const api__pending *other = &comp->todo[i];
        if (other->schema != item.schema || other->types != item.types || other->form != item.form)
            continue;
        *out = i;
        return 0;
    }
    if (grammar->n_nodes == API__MAX_NODES)
        return api__schema_wrong(comp, "the schema has more than %d parts", API__MAX_NODES);
    comp->todo[grammar->n_nodes] = item;
    *out = grammar->n_nodes++;
    return 0;
}

/* ---- numbers in a schema ---- */

int api__schema_count(api__compiler *comp, const json_t *schema, const char *key,
                      uint32_t otherwise, uint32_t *out) {
    const json_t *value = json_object_get(schema, key);
    json_int_t n = json_integer_value(value);
    if (value && (!json_is_integer(value) || n < 0))
        return api__schema_wrong(comp, "%s must be an integer of at least 0", key);
    *out = value == NULL ? otherwise : n > 1 << 30 ? 1u << 30 : (uint32_t)n;
    return 0;
}

/* Reads a bound of an integer; step makes an exclusive bound inclusive. */
static int read_bound(api__compiler *comp, const json_t *schema, const char *key, bool low,
                      int64_t step, int64_t *bound) {
    const json_t *value = json_object_get(schema, key);
    if (value == NULL) return 0;
    if (!json_is_integer(value))
        return api__schema_unsupported(comp, key, " unless it is an integer");
    int64_t n = json_integer_value(value);
    n = n > most_ranged ? most_ranged : n < -most_ranged ? -most_ranged : n;
    n += step;
    if (low) *bound = n > *bound ? n : *bound;
    else *bound = n < *bound ? n : *bound;
    return 0;
}

/* ---- texts ---- */

int api__schema_value(api__compiler *comp, const json_t *value, bool bare, api__name *out) {
    char *json = bare && json_is_string(value)
                     ? strndup(json_string_value(value), json_string_length(value))
                     : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (json == NULL) return api__schema_no_memory(comp);
    size_t n = strlen(json);
    int rc = 0;
    if (n > API__MAX_TEXT_BYTES) {
        rc = api__schema_wrong(comp, "a name or value has more than %d bytes", API__MAX_TEXT_BYTES);
    } else {
        out->text = arena_strndup(&comp->grammar->mem, json, n);
        out->len = (uint16_t)n;
        if (out->text == NULL) rc = api__schema_no_memory(comp);
    }
    free(json);
    return rc;
}

static int compare_names(const api__name *left, const api__name *right) {
    size_t n = left->len < right->len ? left->len : right->len;
    int order = memcmp(left->text, right->text, n);
    return order ? order : (left->len > right->len) - (left->len < right->len);
}

static int by_text(const void *left, const void *right) {
    return compare_names(left, right);
}

static int by_text_of(const void *left, const void *right, void *names) {
    const api__name *all = names;
    return compare_names(&all[*(const uint16_t *)left], &all[*(const uint16_t *)right]);
}

void api__sort_enum(api__node *node) {
    uint16_t kept = 1;
    qsort(node->names, node->n_parts, sizeof *node->names, by_text);
    for (uint16_t k = 1; k < node->n_parts; k++) {
        if (compare_names(&node->names[k], &node->names[kept - 1]) != 0)
            node->names[kept++] = node->names[k];
    }
    node->n_parts = kept;
}

void api__sort_names(api__node *node) {
    for (uint16_t k = 0; k < node->n_parts; k++)
        node->sorted[k] = k;
    qsort_r(node->sorted, node->n_parts, sizeof *node->sorted, by_text_of, node->names);
}

/* ---- one kind each ---- */

static int compile_enum(api__compiler *comp, api__node *node, const json_t *values, uint8_t types) {
    size_t n = json_array_size(values), i;
    const json_t *value;
    if (n == 0 || n > API__MAX_NAMES)
        return api__schema_wrong(comp, "an enum has %zu values; 1 to %d are allowed", n,
                                 API__MAX_NAMES);
    node->kind = API__ENUM;
    node->names = arena_array(&comp->grammar->mem, n, sizeof *node->names);
    if (node->names == NULL) return api__schema_no_memory(comp);
    json_array_foreach(values, i, value) {
        if (types && !(api__type_of_value(value) & types)) continue; /* never valid */
        if (api__schema_value(comp, value, false, &node->names[node->n_parts]) != 0) return -1;
        node->n_parts++;
    }
    if (node->n_parts == 0) return api__schema_wrong(comp, "an enum has no value of its type");
    api__sort_enum(node);
    return 0;
}

static int compile_words(api__compiler *comp, api__node *node, uint8_t types) {
    json_t *list = json_array();
    if (types & API__TYPE_NULL) json_array_append_new(list, json_null());
    if (types & API__TYPE_BOOLEAN) {
        json_array_append_new(list, json_true());
        json_array_append_new(list, json_false());
    }
    int rc = list ? compile_enum(comp, node, list, 0) : api__schema_no_memory(comp);
    json_decref(list);
    return rc;
}

static int compile_number(api__compiler *comp, api__node *node, const json_t *schema,
                          uint8_t type) {
    static const char *const bounds[] = {"minimum", "exclusiveMinimum", "maximum",
                                         "exclusiveMaximum"};
    node->kind = API__NUMBER;
    node->integer = type == API__TYPE_INTEGER;
    node->low = -most_ranged;
    node->high = most_ranged;
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        if (!json_object_get(schema, bounds[i])) continue;
        if (!node->integer)
            return api__schema_unsupported(comp, bounds[i], " for numbers that are not integers");
        node->ranged = true;
        bool low = i < 2;
        int64_t step = i == 1 ? 1 : i == 3 ? -1 : 0;
        if (read_bound(comp, schema, bounds[i], low, step, low ? &node->low : &node->high) != 0)
            return -1;
    }
    if (node->low > node->high)
        return api__schema_wrong(comp, "an integer has a minimum above its maximum");
    return 0;
}

static int compile_string(api__compiler *comp, api__node *node, const json_t *schema) {
    node->kind = API__STRING;
    if (api__schema_count(comp, schema, "minLength", 0, &node->min) != 0) return -1;
    if (api__schema_count(comp, schema, "maxLength", UINT32_MAX, &node->max) != 0) return -1;
    return node->min > node->max
               ? api__schema_wrong(comp, "a string has a minLength above its maxLength")
               : 0;
}

/* The node of undeclared properties or further items; `absent` if the schema does not say. */
static int compile_rest(api__compiler *comp, const json_t *value, const json_t *root,
                        uint16_t absent, uint16_t *out) {
    *out = value ? API__NO_NODE : absent;
    return value == NULL || json_is_false(value) ? 0 : api__schema_node(comp, value, root, 0, out);
}

static int compile_array(api__compiler *comp, api__node *node, const json_t *schema,
                         const json_t *root) {
    const json_t *prefix = json_object_get(schema, "prefixItems"), *item;
    size_t n = json_array_size(prefix), i;
    node->kind = API__ARRAY;
    if (prefix && !json_is_array(prefix))
        return api__schema_wrong(comp, "prefixItems must be a list");
    if (n > API__MAX_NAMES)
        return api__schema_wrong(comp, "an array has more than %d prefixItems", API__MAX_NAMES);
    node->items = arena_array(&comp->grammar->mem, n + 1, sizeof *node->items);
    if (node->items == NULL) return api__schema_no_memory(comp);
    json_array_foreach(prefix, i, item) {
        if (api__schema_node(comp, item, root, 0, &node->items[node->n_parts++]) != 0) return -1;
    }
    if (compile_rest(comp, json_object_get(schema, "items"), root, API__NODE_ANY, &node->rest) != 0)
        return -1;
    if (api__schema_count(comp, schema, "minItems", 0, &node->min) != 0) return -1;
    if (api__schema_count(comp, schema, "maxItems", UINT32_MAX, &node->max) != 0) return -1;
    if (node->rest == API__NO_NODE && node->max > node->n_parts) node->max = node->n_parts;
    return node->min > node->max
               ? api__schema_wrong(comp, "an array requires more items than it allows")
               : 0;
}

static int add_property(api__compiler *comp, api__node *node, const char *key, uint16_t value) {
    api__name *name = &node->names[node->n_parts];
    json_t *text = json_string(key);
    int rc = text ? api__schema_value(comp, text, false, name) : api__schema_no_memory(comp);
    json_decref(text);
    if (rc != 0) return -1;
    name->text++; /* without the quotes */
    name->len -= 2;
    name->node = value;
    node->n_parts++;
    return 0;
}

static int require(api__compiler *comp, api__node *node, const json_t *key,
                   const json_t *properties) {
    const char *text = json_c_string(key), *name;
    json_t *value;
    uint16_t i = 0;
    if (text == NULL) return api__schema_wrong(comp, "required must be a list of strings");
    json_object_foreach((json_t *)(uintptr_t)properties, name, value) {
        if (strcmp(name, text) == 0) {
            node->names[i].required = true;
            return 0;
        }
        i++;
    }
    for (i = (uint16_t)json_object_size(properties); i < node->n_parts;
         i++) { /* repeated in required */
        size_t n = strlen(text);
        if (node->names[i].len == n && memcmp(node->names[i].text, text, n) == 0) return 0;
    }
    if (node->rest == API__NO_NODE) {
        return api__schema_wrong(
            comp,
            "'%.80s' is required, but not in properties and not allowed by additionalProperties",
            text);
    }
    if (add_property(comp, node, text, node->rest) != 0) return -1;
    node->names[node->n_parts - 1].required = true;
    return 0;
}

/* In a function call each property is a schema of its own, and its $refs start there. */
static bool is_call(const api__compiler *comp, const json_t *schema) {
    size_t i;
    json_t *one;
    json_array_foreach(comp->calls, i, one) {
        if (one == schema) return true;
    }
    return false;
}

static int compile_object(api__compiler *comp, api__node *node, const json_t *schema,
                          const json_t *root) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required");
    const char *key;
    json_t *property;
    size_t i, room = json_object_size(properties) + json_array_size(required);
    node->kind = API__OBJECT;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required))) {
        return api__schema_wrong(comp, "properties must be an object and required a list");
    }
    if (room > API__MAX_NAMES)
        return api__schema_wrong(comp, "an object has more than %d properties", API__MAX_NAMES);
    node->names = arena_array(&comp->grammar->mem, room + 1, sizeof *node->names);
    node->sorted = arena_array(&comp->grammar->mem, room + 1, sizeof *node->sorted);
    if (!node->names || !node->sorted) return api__schema_no_memory(comp);
    uint16_t absent = properties ? API__NO_NODE : API__NODE_ANY;
    if (compile_rest(comp, json_object_get(schema, "additionalProperties"), root, absent,
                     &node->rest) != 0)
        return -1;
    bool call = is_call(comp, schema);
    json_object_foreach((json_t *)(uintptr_t)properties, key, property) {
        uint16_t value;
        if (api__schema_node(comp, property, call ? property : root, 0, &value) != 0 ||
            add_property(comp, node, key, value) != 0)
            return -1;
    }
    json_array_foreach(required, i, property) {
        if (require(comp, node, property, properties) != 0) return -1;
    }
    api__sort_names(node);
    return 0;
}

int api__schema_alternatives(api__compiler *comp, api__node *node, size_t n) {
    if (n == 0 || n > API__MAX_ALTERNATIVES) {
        return api__schema_wrong(comp, "a schema has %zu alternatives; 1 to %d are allowed", n,
                                 API__MAX_ALTERNATIVES);
    }
    node->kind = API__ALT;
    node->items = arena_array(&comp->grammar->mem, n, sizeof *node->items);
    return node->items ? 0 : api__schema_no_memory(comp);
}

static int compile_combined(api__compiler *comp, api__node *node, const api__pending *item,
                            const char *keyword) {
    const json_t *list = json_object_get(item->schema, keyword), *one;
    size_t i, n = json_array_size(list);
    if (strcmp(keyword, "allOf") == 0 && n != 1)
        return api__schema_unsupported(comp, keyword, " with more than one schema");
    if (api__schema_alternatives(comp, node, n) != 0) return -1;
    json_array_foreach(list, i, one) {
        if (api__schema_node(comp, one, item->root, 0, &node->items[node->n_parts++]) != 0)
            return -1;
    }
    return 0;
}

static int compile_typed(api__compiler *comp, api__node *node, const api__pending *item,
                         uint8_t types) {
    uint8_t words = types & (API__TYPE_NULL | API__TYPE_BOOLEAN);
    switch (types) {
    case API__TYPE_OBJECT: return compile_object(comp, node, item->schema, item->root);
    case API__TYPE_ARRAY: return compile_array(comp, node, item->schema, item->root);
    case API__TYPE_STRING: return compile_string(comp, node, item->schema);
    case API__TYPE_INTEGER:
    case API__TYPE_NUMBER: return compile_number(comp, node, item->schema, types);
    default: break;
    }
    if (types == words) return compile_words(comp, node, types);
    if (api__schema_alternatives(comp, node, 7) != 0) return -1;
    for (unsigned bit = API__TYPE_INTEGER; bit <= API__TYPE_OBJECT; bit <<= 1) {
        if (!(types & bit)) continue;
        if (api__schema_node(comp, item->schema, item->root, (uint8_t)bit,
                             &node->items[node->n_parts++]) != 0)
            return -1;
    }
    return words ? api__schema_node(comp, item->schema, item->root, words,
                                    &node->items[node->n_parts++])
                 : 0;
}

static int compile_node(api__compiler *comp, api__node *node, const api__pending *item) {
    uint8_t implied, types = item->types;
    const char *combines;
    if (item->form != API__FORM_JSON) return api__compile_tags(comp, node, item);
    if (types == 0) {
        if (api__schema_keywords(comp, item->schema, &implied, &combines) != 0) return -1;
        if (combines) return compile_combined(comp, node, item, combines);
        const json_t *type = json_object_get(item->schema, "type");
        if (type && read_types(comp, type, &types) != 0) return -1;
        const json_t *only = json_object_get(item->schema, "const"),
                     *values = json_object_get(item->schema, "enum");
        if (only || values) {
            if (only && values) return api__schema_unsupported(comp, "const", " beside enum");
            if (implied)
                return api__schema_unsupported(comp, only ? "const" : "enum",
                                               " beside other constraints");
            if (values && !json_is_array(values))
                return api__schema_wrong(comp, "enum must be a list");
            json_t *list = only ? json_pack("[O]", only) : json_incref((json_t *)(uintptr_t)values);
            int rc = list ? compile_enum(comp, node, list, types) : api__schema_no_memory(comp);
            json_decref(list);
            return rc;
        }
        if (types == 0 && implied == 0) { /* only annotations */
            node->kind = API__ANY;
            return 0;
        }
        if (types == 0) types = implied;
    }
    return compile_typed(comp, node, item, types);
}

/* ---- the whole ---- */

static int add_builtins(api__compiler *comp) {
    api__node *nodes = comp->grammar->nodes;
    nodes[API__NODE_ANY].kind = API__ANY;
    nodes[API__NODE_OBJECT] = (api__node){.kind = API__OBJECT, .rest = API__NODE_ANY};
    nodes[API__NODE_ARRAY] =
        (api__node){.kind = API__ARRAY, .rest = API__NODE_ANY, .max = UINT32_MAX};
    nodes[API__NODE_STRING] = (api__node){.kind = API__STRING, .max = UINT32_MAX};
    nodes[API__NODE_NUMBER].kind = API__NUMBER;
    comp->grammar->n_nodes = API__N_BUILTIN;
    return compile_words(comp, &nodes[API__NODE_WORD], API__TYPE_NULL | API__TYPE_BOOLEAN);
}

int api__compile_from(api__grammar **out, api__pending root, const json_t *calls, const char *only,
                      const char *param, err *e) {
    *out = NULL;
    api__compiler comp = {.param = param, .error = e, .calls = calls, .only = only};
    int rc = -1;
    comp.grammar = api__grammar_new();
    comp.todo = array_new(API__MAX_NODES, sizeof *comp.todo);
    if (comp.grammar == NULL || comp.todo == NULL) {
        api__schema_no_memory(&comp);
        goto end;
    }
    arena_init(&comp.grammar->mem, 3 << 20);
    comp.grammar->nodes = array_new(API__MAX_NODES, sizeof *comp.grammar->nodes);
    if (comp.grammar->nodes == NULL || add_builtins(&comp) != 0) {
        api__schema_no_memory(&comp);
        goto end;
    }
    if (root.schema == NULL) comp.grammar->root = API__NODE_OBJECT;
    else if (root.form != API__FORM_JSON)
        rc = api__schema_node_of(&comp, root, &comp.grammar->root);
    else rc = api__schema_node(&comp, root.schema, root.root, 0, &comp.grammar->root);
    if (root.schema && rc != 0) goto end;
    rc = -1;
    for (uint16_t i = API__N_BUILTIN; i < comp.grammar->n_nodes; i++) {
        if (compile_node(&comp, &comp.grammar->nodes[i], &comp.todo[i]) != 0) goto end;
    }
    rc = api__grammar_finish(comp.grammar, param, e);
    api__node *fewer = realloc(comp.grammar->nodes, comp.grammar->n_nodes * sizeof *fewer);
    if (fewer) comp.grammar->nodes = fewer;
end:
    free(comp.todo);
    if (rc == 0) *out = comp.grammar;
    else api__grammar_free(comp.grammar);
    return rc;
}

int api__grammar_compile_schema(api__grammar **out, const json_t *schema, const json_t *calls,
                                const char *param, err *e) {
    return api__compile_from(out, (api__pending){schema, schema, 0, API__FORM_JSON}, calls, NULL,
                             param, e);
}
