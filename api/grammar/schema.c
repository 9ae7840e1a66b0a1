/* schema.c - JSON Schema to a grammar. constrain_internal.h says which part of it.
 *
 * No recursion: a schema met inside another becomes a node that waits its turn, and the
 * same schema met again is the same node, which is all that $ref needs. */
#include "api/grammar/constrain_internal.h"
#include "base/size.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    T_NULL = 1,
    T_BOOLEAN = 2,
    T_INTEGER = 4,
    T_NUMBER = 8,
    T_STRING = 16,
    T_ARRAY = 32,
    T_OBJECT = 64,
};

/* What waits to be compiled into the node of the same index. */
typedef struct {
    const json_t *schema, *root; /* $ref starts from root */
    uint8_t types;               /* T_* it is narrowed to; 0: as the schema says */
} pending;

typedef struct {
    api__grammar *g;
    pending *todo;       /* [API__MAX_NODES] */
    const json_t *calls; /* function calls, whose arguments are schemas of their own; or NULL */
    size_t followed;     /* bytes of $refs read so far */
    const char *param;
    err *e;
} compiler;

enum { MOST_FOLLOWED = 1 << 20 };

static int wrong(compiler *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int wrong(compiler *c, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(c->e, ERR_BAD_PARAM, c->param, c->param, fmt, args);
    va_end(args);
    return -1;
}

static int unsupported(compiler *c, const char *keyword, const char *where) {
    return err_set(c->e, ERR_UNSUPPORTED, c->param,
                   "%s: the schema keyword '%.40s' is not supported%s", c->param, keyword, where);
}

static int no_memory(compiler *c) {
    return err_set(c->e, ERR_NO_MEMORY, c->param, "%s: the schema is too large", c->param);
}

/* ---- keywords ---- */

enum { ANNOTATION, TYPED, STRUCTURE, COMBINES };

static const struct {
    const char *name;
    uint8_t role;
    uint8_t types; /* TYPED: implied where the schema has no type */
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
    {"properties", TYPED, T_OBJECT},
    {"required", TYPED, T_OBJECT},
    {"additionalProperties", TYPED, T_OBJECT},
    {"items", TYPED, T_ARRAY},
    {"prefixItems", TYPED, T_ARRAY},
    {"minItems", TYPED, T_ARRAY},
    {"maxItems", TYPED, T_ARRAY},
    {"minLength", TYPED, T_STRING},
    {"maxLength", TYPED, T_STRING},
    {"minimum", TYPED, T_INTEGER},
    {"maximum", TYPED, T_INTEGER},
    {"exclusiveMinimum", TYPED, T_INTEGER},
    {"exclusiveMaximum", TYPED, T_INTEGER},
};

static size_t keyword_find(const char *name) {
    size_t i = 0;
    while (i < ARRAY_LEN(keywords) && strcmp(keywords[i].name, name) != 0)
        i++;
    return i;
}

/* Refuses unknown keywords and, beside one that combines, all but annotations. Collects
 * the types that the keywords imply. */
static int check_keywords(compiler *c, const json_t *schema, uint8_t *implied,
                          const char **combines) {
    const char *key;
    json_t *v;
    size_t others = 0;
    *implied = 0;
    *combines = NULL;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v) {
        size_t i = keyword_find(key);
        if (i == ARRAY_LEN(keywords)) return unsupported(c, key, "");
        if (keywords[i].role == COMBINES) {
            if (*combines) return unsupported(c, key, " beside another that combines schemas");
            *combines = keywords[i].name;
        } else if (keywords[i].role != ANNOTATION) {
            others++;
        }
        *implied |= keywords[i].types;
    }
    if (*combines && others) return unsupported(c, *combines, " beside other constraints");
    return 0;
}

static uint8_t type_of_name(const char *name) {
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    for (size_t i = 0; name && i < ARRAY_LEN(names); i++) {
        if (strcmp(names[i], name) == 0) return (uint8_t)(1 << i);
    }
    return 0;
}

static int read_types(compiler *c, const json_t *type, uint8_t *out) {
    size_t n = json_is_array(type) ? json_array_size(type) : 1;
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(type) ? json_array_get(type, i) : type;
        uint8_t bit = type_of_name(json_c_string(one));
        if (bit == 0) return wrong(c, "an unknown type in the schema");
        *out |= bit;
    }
    if (*out & T_NUMBER) *out &= (uint8_t)~T_INTEGER; /* every integer is a number */
    return *out ? 0 : wrong(c, "an empty list of types in the schema");
}

static uint8_t type_of_value(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_NULL: return T_NULL;
    case JSON_TRUE:
    case JSON_FALSE: return T_BOOLEAN;
    case JSON_INTEGER: return T_INTEGER | T_NUMBER;
    case JSON_REAL: return T_NUMBER;
    case JSON_STRING: return T_STRING;
    case JSON_ARRAY: return T_ARRAY;
    default: return T_OBJECT;
    }
}

/* ---- references and nodes ---- */

/* "#/$defs/a~1b" from root; NULL if it leads nowhere. */
static const json_t *follow(const json_t *root, const char *ref) {
    const json_t *at = root;
    if (ref[0] != '#') return NULL;
    for (const char *p = ref + 1; at && *p;) {
        char key[256];
        size_t n = 0;
        if (*p++ != '/') return NULL;
        for (; *p && *p != '/'; p++) {
            if (n + 1 == sizeof key) return NULL;
            if (p[0] == '~' && (p[1] == '0' || p[1] == '1')) key[n++] = *++p == '0' ? '~' : '/';
            else key[n++] = *p;
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

/* The schema behind any number of $refs. */
static int resolve(compiler *c, const json_t *root, const json_t **schema) {
    for (int hops = 0; json_object_get(*schema, "$ref"); hops++) {
        const char *ref = json_c_string(json_object_get(*schema, "$ref")), *combines;
        uint8_t implied;
        if (check_keywords(c, *schema, &implied, &combines) != 0) return -1;
        const json_t *next = ref ? follow(root, ref) : NULL;
        c->followed += ref ? strlen(ref) : 0;
        if (c->followed > MOST_FOLLOWED) return wrong(c, "references that take too long to follow");
        if (next == NULL || hops == 32)
            return wrong(c, "$ref '%.80s' leads nowhere in this schema", ref ? ref : "");
        *schema = next;
    }
    return 0;
}

static int node_for(compiler *c, const json_t *schema, const json_t *root, uint8_t types,
                    uint16_t *out) {
    api__grammar *g = c->g;
    if (resolve(c, root, &schema) != 0) return -1;
    if (json_is_true(schema) || (json_is_object(schema) && json_object_size(schema) == 0)) {
        *out = API__NODE_ANY;
        return 0;
    }
    if (json_is_false(schema)) return wrong(c, "a schema that is false, which nothing can fit");
    if (!json_is_object(schema))
        return wrong(c, "a schema that is neither an object nor a boolean");
    for (uint16_t i = API__N_BUILTIN; i < g->n_nodes; i++) {
        if (c->todo[i].schema != schema || c->todo[i].types != types) continue;
        *out = i;
        return 0;
    }
    if (g->n_nodes == API__MAX_NODES)
        return wrong(c, "a schema of more than %d parts", API__MAX_NODES);
    c->todo[g->n_nodes] = (pending){schema, root, types};
    *out = g->n_nodes++;
    return 0;
}

/* ---- numbers in a schema ---- */

static int read_count(compiler *c, const json_t *schema, const char *key, uint32_t otherwise,
                      uint32_t *out) {
    const json_t *v = json_object_get(schema, key);
    json_int_t n = json_integer_value(v);
    if (v && (!json_is_integer(v) || n < 0))
        return wrong(c, "%s must be a whole number of at least 0", key);
    *out = v == NULL ? otherwise : n > 1 << 30 ? 1u << 30 : (uint32_t)n;
    return 0;
}

/* A bound of an integer, drawn in by one if exclusive. */
static int read_bound(compiler *c, const json_t *schema, const char *key, bool low, int64_t step,
                      int64_t *bound) {
    const json_t *v = json_object_get(schema, key);
    const int64_t limit = 100000000000000; /* 10 to the API__RANGED_DIGITS */
    if (v == NULL) return 0;
    if (!json_is_integer(v)) return unsupported(c, key, " unless it is a whole number");
    int64_t n = json_integer_value(v);
    n = n >= limit ? limit - 1 : n <= -limit ? 1 - limit : n;
    n += step;
    if (low) *bound = n > *bound ? n : *bound;
    else *bound = n < *bound ? n : *bound;
    return 0;
}

/* ---- texts ---- */

/* v as compact JSON in the arena; without the quotes of a string if bare. */
static int write_value(compiler *c, const json_t *v, bool bare, api__name *out) {
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    if (text == NULL) return no_memory(c);
    size_t n = strlen(text), skip = bare ? 1 : 0;
    int rc = 0;
    if (n > API__MAX_NAME_BYTES_G) {
        rc = wrong(c, "a name or value of more than %d bytes", API__MAX_NAME_BYTES_G);
    } else {
        out->text = arena_strndup(&c->g->mem, text + skip, n - 2 * skip);
        out->len = (uint16_t)(n - 2 * skip);
        if (out->text == NULL) rc = no_memory(c);
    }
    free(text);
    return rc;
}

static int compare_names(const api__name *a, const api__name *b) {
    size_t n = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->text, b->text, n);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static int by_text(const void *a, const void *b) {
    return compare_names(a, b);
}

static int by_text_of(const void *a, const void *b, void *names) {
    const api__name *all = names;
    return compare_names(&all[*(const uint16_t *)a], &all[*(const uint16_t *)b]);
}

/* ---- one kind each ---- */

static int compile_enum(compiler *c, api__node *node, const json_t *values, uint8_t types) {
    size_t n = json_array_size(values), i;
    const json_t *v;
    if (n == 0 || n > API__MAX_NAMES)
        return wrong(c, "an enum of %zu values (1 to %d are allowed)", n, API__MAX_NAMES);
    node->kind = API__ENUM;
    node->names = arena_array(&c->g->mem, n, sizeof *node->names);
    if (node->names == NULL) return no_memory(c);
    json_array_foreach(values, i, v) {
        if (types && !(type_of_value(v) & types)) continue; /* can never be valid */
        if (write_value(c, v, false, &node->names[node->n]) != 0) return -1;
        node->n++;
    }
    if (node->n == 0) return wrong(c, "an enum without a value of its type");
    qsort(node->names, node->n, sizeof *node->names, by_text);
    uint16_t kept = 1;
    for (uint16_t k = 1; k < node->n; k++) {
        if (compare_names(&node->names[k], &node->names[kept - 1]) != 0)
            node->names[kept++] = node->names[k];
    }
    node->n = kept;
    return 0;
}

static int compile_words(compiler *c, api__node *node, uint8_t types) {
    json_t *list = json_array();
    if (types & T_NULL) json_array_append_new(list, json_null());
    if (types & T_BOOLEAN) {
        json_array_append_new(list, json_true());
        json_array_append_new(list, json_false());
    }
    int rc = list ? compile_enum(c, node, list, 0) : no_memory(c);
    json_decref(list);
    return rc;
}

static int compile_number(compiler *c, api__node *node, const json_t *schema, uint8_t type) {
    static const char *const bounds[] = {"minimum", "exclusiveMinimum", "maximum",
                                         "exclusiveMaximum"};
    const int64_t limit = 100000000000000 - 1;
    node->kind = API__NUMBER;
    node->integer = type == T_INTEGER;
    node->low = -limit;
    node->high = limit;
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        if (!json_object_get(schema, bounds[i])) continue;
        if (!node->integer) return unsupported(c, bounds[i], " for numbers that are not integers");
        node->ranged = true;
        bool low = i < 2;
        int64_t step = i == 1 ? 1 : i == 3 ? -1 : 0;
        if (read_bound(c, schema, bounds[i], low, step, low ? &node->low : &node->high) != 0)
            return -1;
    }
    if (node->low > node->high) return wrong(c, "an integer whose minimum is above its maximum");
    return 0;
}

static int compile_string(compiler *c, api__node *node, const json_t *schema) {
    node->kind = API__STRING;
    if (read_count(c, schema, "minLength", 0, &node->min) != 0) return -1;
    if (read_count(c, schema, "maxLength", UINT32_MAX, &node->max) != 0) return -1;
    return node->min > node->max ? wrong(c, "a string whose minLength is above its maxLength") : 0;
}

/* The node of what comes beyond the declared; `absent` where the schema does not say. */
static int compile_rest(compiler *c, const json_t *v, const json_t *root, uint16_t absent,
                        uint16_t *out) {
    *out = v ? API__NO_NODE : absent;
    return v == NULL || json_is_false(v) ? 0 : node_for(c, v, root, 0, out);
}

static int compile_array(compiler *c, api__node *node, const json_t *schema, const json_t *root) {
    const json_t *prefix = json_object_get(schema, "prefixItems"), *v;
    size_t n = json_array_size(prefix), i;
    node->kind = API__ARRAY;
    if (prefix && !json_is_array(prefix)) return wrong(c, "prefixItems must be a list");
    if (n > API__MAX_NAMES) return wrong(c, "more than %d prefixItems", API__MAX_NAMES);
    node->items = arena_array(&c->g->mem, n + 1, sizeof *node->items);
    if (node->items == NULL) return no_memory(c);
    json_array_foreach(prefix, i, v) {
        if (node_for(c, v, root, 0, &node->items[node->n++]) != 0) return -1;
    }
    if (compile_rest(c, json_object_get(schema, "items"), root, API__NODE_ANY, &node->rest) != 0)
        return -1;
    if (read_count(c, schema, "minItems", 0, &node->min) != 0) return -1;
    if (read_count(c, schema, "maxItems", UINT32_MAX, &node->max) != 0) return -1;
    if (node->rest == API__NO_NODE && node->max > node->n) node->max = node->n;
    return node->min > node->max ? wrong(c, "an array that needs more items than it may have") : 0;
}

static int add_property(compiler *c, api__node *node, const char *key, uint16_t value) {
    json_t *text = json_string(key);
    int rc = text ? write_value(c, text, true, &node->names[node->n]) : no_memory(c);
    json_decref(text);
    node->names[node->n].node = value;
    if (rc == 0) node->n++;
    return rc;
}

static int require(compiler *c, api__node *node, const json_t *key, const json_t *properties) {
    const char *text = json_c_string(key), *name;
    json_t *v;
    uint16_t i = 0;
    if (text == NULL) return wrong(c, "required must be a list of strings");
    json_object_foreach((json_t *)(uintptr_t)properties, name, v) {
        if (strcmp(name, text) == 0) {
            node->names[i].required = true;
            return 0;
        }
        i++;
    }
    for (i = (uint16_t)json_object_size(properties); i < node->n;
         i++) { /* named twice in required */
        size_t n = strlen(text);
        if (node->names[i].len == n && memcmp(node->names[i].text, text, n) == 0) return 0;
    }
    if (node->rest == API__NO_NODE) {
        return wrong(c, "'%.80s' is required, but neither declared nor allowed as additional",
                     text);
    }
    if (add_property(c, node, text, node->rest) != 0) return -1;
    node->names[node->n - 1].required = true;
    return 0;
}

/* In a function call each property is a schema of its own, where its $refs start. */
static bool is_call(const compiler *c, const json_t *schema) {
    size_t i;
    json_t *one;
    json_array_foreach(c->calls, i, one) {
        if (one == schema) return true;
    }
    return false;
}

static int compile_object(compiler *c, api__node *node, const json_t *schema, const json_t *root) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required");
    const char *key;
    json_t *v;
    size_t i, room = json_object_size(properties) + json_array_size(required);
    node->kind = API__OBJECT;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required))) {
        return wrong(c, "properties must be an object and required a list");
    }
    if (room > API__MAX_NAMES)
        return wrong(c, "an object of more than %d properties", API__MAX_NAMES);
    node->names = arena_array(&c->g->mem, room + 1, sizeof *node->names);
    node->sorted = arena_array(&c->g->mem, room + 1, sizeof *node->sorted);
    if (!node->names || !node->sorted) return no_memory(c);
    uint16_t absent = properties ? API__NO_NODE : API__NODE_ANY;
    if (compile_rest(c, json_object_get(schema, "additionalProperties"), root, absent,
                     &node->rest) != 0)
        return -1;
    bool call = is_call(c, schema);
    json_object_foreach((json_t *)(uintptr_t)properties, key, v) {
        uint16_t value;
        if (node_for(c, v, call ? v : root, 0, &value) != 0 ||
            add_property(c, node, key, value) != 0)
            return -1;
    }
    json_array_foreach(required, i, v) {
        if (require(c, node, v, properties) != 0) return -1;
    }
    for (uint16_t k = 0; k < node->n; k++)
        node->sorted[k] = k;
    qsort_r(node->sorted, node->n, sizeof *node->sorted, by_text_of, node->names);
    return 0;
}

static int start_alt(compiler *c, api__node *node, size_t n) {
    if (n == 0 || n > API__MAX_ALTERNATIVES) {
        return wrong(c, "%zu alternatives (1 to %d are allowed)", n, API__MAX_ALTERNATIVES);
    }
    node->kind = API__ALT;
    node->items = arena_array(&c->g->mem, n, sizeof *node->items);
    return node->items ? 0 : no_memory(c);
}

static int compile_combined(compiler *c, api__node *node, const pending *p, const char *keyword) {
    const json_t *list = json_object_get(p->schema, keyword), *v;
    size_t i, n = json_array_size(list);
    if (strcmp(keyword, "allOf") == 0 && n != 1)
        return unsupported(c, keyword, " with more than one schema");
    if (start_alt(c, node, n) != 0) return -1;
    json_array_foreach(list, i, v) {
        if (node_for(c, v, p->root, 0, &node->items[node->n++]) != 0) return -1;
    }
    return 0;
}

static int compile_typed(compiler *c, api__node *node, const pending *p, uint8_t types) {
    uint8_t words = types & (T_NULL | T_BOOLEAN);
    switch (types) {
    case T_OBJECT: return compile_object(c, node, p->schema, p->root);
    case T_ARRAY: return compile_array(c, node, p->schema, p->root);
    case T_STRING: return compile_string(c, node, p->schema);
    case T_INTEGER:
    case T_NUMBER: return compile_number(c, node, p->schema, types);
    default: break;
    }
    if (types == words) return compile_words(c, node, types);
    if (start_alt(c, node, 7) != 0) return -1;
    for (unsigned bit = T_INTEGER; bit <= T_OBJECT; bit <<= 1) {
        if (!(types & bit)) continue;
        if (node_for(c, p->schema, p->root, (uint8_t)bit, &node->items[node->n++]) != 0) return -1;
    }
    return words ? node_for(c, p->schema, p->root, words, &node->items[node->n++]) : 0;
}

static int compile_node(compiler *c, api__node *node, const pending *p) {
    uint8_t implied, types = p->types;
    const char *combines;
    if (types == 0) {
        if (check_keywords(c, p->schema, &implied, &combines) != 0) return -1;
        if (combines) return compile_combined(c, node, p, combines);
        const json_t *type = json_object_get(p->schema, "type");
        if (type && read_types(c, type, &types) != 0) return -1;
        const json_t *only = json_object_get(p->schema, "const"),
                     *values = json_object_get(p->schema, "enum");
        if (only || values) {
            if (only && values) return unsupported(c, "const", " beside enum");
            if (implied)
                return unsupported(c, only ? "const" : "enum", " beside other constraints");
            if (values && !json_is_array(values)) return wrong(c, "enum must be a list");
            json_t *list = only ? json_pack("[O]", only) : json_incref((json_t *)(uintptr_t)values);
            int rc = list ? compile_enum(c, node, list, types) : no_memory(c);
            json_decref(list);
            return rc;
        }
        if (types == 0 && implied == 0) { /* annotations only */
            node->kind = API__ANY;
            return 0;
        }
        if (types == 0) types = implied;
    }
    return compile_typed(c, node, p, types);
}

/* ---- the whole ---- */

static int add_builtins(compiler *c) {
    api__node *nodes = c->g->nodes;
    nodes[API__NODE_ANY].kind = API__ANY;
    nodes[API__NODE_OBJECT] = (api__node){.kind = API__OBJECT, .rest = API__NODE_ANY};
    nodes[API__NODE_ARRAY] =
        (api__node){.kind = API__ARRAY, .rest = API__NODE_ANY, .max = UINT32_MAX};
    nodes[API__NODE_STRING] = (api__node){.kind = API__STRING, .max = UINT32_MAX};
    nodes[API__NODE_NUMBER].kind = API__NUMBER;
    c->g->n_nodes = API__N_BUILTIN;
    return compile_words(c, &nodes[API__NODE_WORD], T_NULL | T_BOOLEAN);
}

static int compile(api__grammar **out, const json_t *schema, const json_t *calls, const char *param,
                   err *e) {
    *out = NULL;
    compiler c = {.param = param, .e = e, .calls = calls};
    int rc = -1;
    c.g = calloc(1, sizeof *c.g);
    c.todo = array_new(API__MAX_NODES, sizeof *c.todo);
    if (c.g == NULL || c.todo == NULL) {
        no_memory(&c);
        goto end;
    }
    arena_init(&c.g->mem, 3 << 20);
    c.g->nodes = array_new(API__MAX_NODES, sizeof *c.g->nodes);
    if (c.g->nodes == NULL || add_builtins(&c) != 0) {
        no_memory(&c);
        goto end;
    }
    if (schema == NULL) c.g->root = API__NODE_OBJECT;
    else if (node_for(&c, schema, schema, 0, &c.g->root) != 0) goto end;
    for (uint16_t i = API__N_BUILTIN; i < c.g->n_nodes; i++) {
        if (compile_node(&c, &c.g->nodes[i], &c.todo[i]) != 0) goto end;
    }
    rc = api__grammar_finish(c.g, param, e);
    api__node *fewer = realloc(c.g->nodes, c.g->n_nodes * sizeof *fewer);
    if (fewer) c.g->nodes = fewer;
end:
    free(c.todo);
    if (rc == 0) *out = c.g;
    else api__grammar_free(c.g);
    return rc;
}

int api__grammar_compile(api__grammar **out, const json_t *schema, const char *param, err *e) {
    return compile(out, schema, NULL, param, e);
}

static json_t *call_schema(const json_t *function) {
    json_t *parameters = json_incref(json_object_get(function, "parameters"));
    if (parameters == NULL) {
        parameters = json_pack("{s:s, s:b}", "type", "object", "additionalProperties", 0);
    }
    /* A NULL among its parts makes json_pack fail, so nothing is left out. */
    return json_pack("{s:s, s:{s:{s:O}, s:o}, s:[s,s], s:b}", "type", "object", "properties",
                     "name", "const", json_object_get(function, "name"), "arguments", parameters,
                     "required", "name", "arguments", "additionalProperties", 0);
}

int api__grammar_compile_tools(api__grammar **out, const json_t *tools, const char *only,
                               const char *param, err *e) {
    json_t *calls = json_array(), *schema = json_pack("{s:O}", "anyOf", calls);
    const json_t *tool;
    size_t i;
    int rc = calls && schema ? 0 : -1;
    *out = NULL;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        if (name == NULL || (only && strcmp(only, name) != 0)) continue;
        if (json_array_append_new(calls, call_schema(function)) != 0) rc = -1;
    }
    if (rc != 0) err_set(e, ERR_NO_MEMORY, param, "out of memory for the tools");
    else rc = compile(out, schema, calls, param, e);
    json_decref(schema);
    json_decref(calls);
    return rc;
}

void api__grammar_free(api__grammar *g) {
    if (g == NULL) return;
    arena_deinit(&g->mem);
    free(g->nodes);
    free(g);
}
