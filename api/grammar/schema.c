/* schema.c - compiles a JSON Schema to a grammar. constrain_internal.h lists the supported part.
 *
 * A schema inside another becomes a node and is compiled later. The same list of schemas is always
 * the same node, and $ref needs nothing more. */
#include "api/grammar/schema_internal.h"
#include "base/size.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- nodes ---- */

static bool same(const api__pending *left, const api__pending *right) {
    if (left->n_parts != right->n_parts || left->types != right->types ||
        left->form != right->form || left->strict != right->strict || left->keys != right->keys)
        return false;
    for (uint16_t i = 0; i < left->n_parts; i++) {
        const api__part *one = &left->parts[i], *other = &right->parts[i];
        if (one->schema != other->schema || one->skips_any != other->skips_any ||
            one->skips_one != other->skips_one)
            return false;
    }
    return true;
}

int api__pending_node(api__compiler *comp, api__pending item, uint16_t *out) {
    api__grammar *grammar = comp->grammar;
    item.strict = comp->strict;
    for (uint16_t i = API__N_BUILTIN; i < grammar->n_nodes; i++) {
        if (!same(&comp->todo[i], &item)) continue;
        *out = i;
        return 0;
    }
    if (grammar->n_nodes == API__MAX_NODES)
        return api__schema_wrong(comp, "the schema has more than %d parts", API__MAX_NODES);
    api__part *kept = arena_array(&grammar->mem, item.n_parts + 1u, sizeof *kept);
    if (kept == NULL) return api__schema_no_memory(comp);
    if (item.n_parts) memcpy(kept, item.parts, item.n_parts * sizeof *kept);
    item.parts = kept;
    comp->todo[grammar->n_nodes] = item;
    *out = grammar->n_nodes++;
    return 0;
}

int api__parts_node(api__compiler *comp, const api__parts *parts, uint8_t types,
                    api__form_kind form, uint16_t *out) {
    bool any = parts->n == 0 && form == API__FORM_JSON;
    if (parts->none) {
        *out = API__NODE_NONE;
        if (comp->why[0] == 0)
            (void)snprintf(comp->why, sizeof comp->why, "the schema false matches no value");
        return 0;
    }
    *out = types == 0 ? API__NODE_ANY : API__NODE_OBJECT;
    if (any && (types == 0 || types == API__TYPE_OBJECT)) return 0;
    return api__pending_node(comp,
                             (api__pending){.parts = parts->list,
                                            .n_parts = parts->n,
                                            .root = parts->root,
                                            .types = types,
                                            .form = (uint8_t)form},
                             out);
}

int api__schema_node(api__compiler *comp, const json_t *schema, const json_t *root, uint16_t *out) {
    api__parts parts = {.root = root};
    if (api__parts_add(comp, &parts, schema) != 0) return -1;
    return api__parts_node(comp, &parts, 0, API__FORM_JSON, out);
}

int api__form_node(api__compiler *comp, const json_t *thing, const json_t *root,
                   api__form_kind form, uint16_t *out) {
    const api__part part = {.schema = thing};
    return api__pending_node(
        comp, (api__pending){.parts = &part, .n_parts = 1, .root = root, .form = (uint8_t)form},
        out);
}

int api__schema_none(api__compiler *comp, api__node *node, const char *fmt, ...) {
    *node = (api__node){.kind = API__NONE};
    if (comp->why[0]) return 0;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(comp->why, sizeof comp->why, fmt, args);
    va_end(args);
    return 0;
}

/* ---- alternatives ---- */

int api__schema_alternatives(api__compiler *comp, api__node *node, size_t n) {
    if (n == 0 || n > API__MAX_ALTERNATIVES) {
        return api__schema_wrong(comp, "a schema has %zu alternatives; 1 to %d are allowed", n,
                                 API__MAX_ALTERNATIVES);
    }
    *node = (api__node){.kind = API__ALT};
    node->items = arena_array(&comp->grammar->mem, n, sizeof *node->items);
    return node->items ? 0 : api__schema_no_memory(comp);
}

/* oneOf is read as anyOf. That is exact if no two of its schemas have a value in common. */
static int check_apart(api__compiler *comp, const json_t *list, const json_t *root) {
    for (size_t i = 0; comp->strict && i < json_array_size(list); i++) {
        for (size_t k = 0; k < i; k++) {
            if (api__schemas_apart(comp, json_array_get(list, i), json_array_get(list, k), root))
                continue;
            return api__schema_unheld(comp, "oneOf", " if its schemas may overlap");
        }
    }
    return 0;
}

/* The list of an item with part `at` replaced by one of its branches. */
static int add_branch(api__compiler *comp, api__node *node, const api__pending *item, uint16_t at,
                      api__part rest, const json_t *branch) {
    api__parts parts = {.root = item->root};
    for (uint16_t i = 0; i < item->n_parts; i++) {
        if (api__parts_keep(comp, &parts, i == at ? rest : item->parts[i]) != 0) return -1;
    }
    if (api__parts_add(comp, &parts, branch) != 0) return -1;
    uint16_t id;
    if (api__parts_node(comp, &parts, item->types, (api__form_kind)item->form, &id) != 0) return -1;
    if (id != API__NODE_NONE) node->items[node->n_parts++] = id;
    return 0;
}

int api__compile_branches(api__compiler *comp, api__node *node, const api__pending *item,
                          bool *split) {
    *split = false;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        api__part part = item->parts[i];
        const json_t *any = part.skips_any ? NULL : json_object_get(part.schema, "anyOf");
        const json_t *list = any;
        if (list == NULL && !part.skips_one) list = json_object_get(part.schema, "oneOf");
        if (list == NULL) continue;
        *split = true;
        if (any) part.skips_any = true;
        else part.skips_one = true;
        const json_t *branch;
        size_t k;
        if (api__schema_alternatives(comp, node, json_array_size(list)) != 0) return -1;
        if (!any && check_apart(comp, list, item->root) != 0) return -1;
        json_array_foreach(list, k, branch) {
            if (add_branch(comp, node, item, i, part, branch) != 0) return -1;
        }
        return node->n_parts ? 0
                             : api__schema_none(comp, node, "no alternative of %s matches a value",
                                                any ? "anyOf" : "oneOf");
    }
    return 0;
}

/* ---- arrays ---- */

/* The schema of item i in a part, or NULL: any. A list in `items` is the older form of
 * prefixItems, and additionalItems of the items after it. */
static const json_t *item_schema(const json_t *schema, size_t i) {
    const json_t *items = json_object_get(schema, "items");
    bool older = json_is_array(items);
    const json_t *prefix = older ? items : json_object_get(schema, "prefixItems");
    if (i < json_array_size(prefix)) return json_array_get(prefix, i);
    return older ? json_object_get(schema, "additionalItems") : items;
}

static int item_node(api__compiler *comp, const api__pending *item, size_t i, uint16_t *out) {
    api__parts parts = {.root = item->root};
    for (uint16_t k = 0; k < item->n_parts; k++) {
        const json_t *schema = item_schema(item->parts[k].schema, i);
        if (schema && api__parts_add(comp, &parts, schema) != 0) return -1;
    }
    *out = API__NO_NODE;
    return parts.none ? 0 : api__parts_node(comp, &parts, 0, API__FORM_JSON, out);
}

/* Finds the number of items with a schema of their own, and checks the other keywords. */
static int measure_array(api__compiler *comp, const api__node *node, const api__pending *item,
                         size_t *n) {
    *n = 0;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        const json_t *schema = item->parts[i].schema;
        const json_t *items = json_object_get(schema, "items"),
                     *prefix = json_object_get(schema, "prefixItems");
        const json_t *rest = json_object_get(schema, "unevaluatedItems");
        if (prefix && !json_is_array(prefix))
            return api__schema_wrong(comp, "prefixItems must be a list");
        size_t own = json_is_array(items) ? json_array_size(items) : json_array_size(prefix);
        if (own > *n) *n = own;
        if (json_is_true(json_object_get(schema, "uniqueItems")) && node->max > 1 &&
            api__schema_unheld(comp, "uniqueItems", "") != 0)
            return -1;
        if (json_object_get(schema, "contains") && api__schema_unheld(comp, "contains", "") != 0)
            return -1;
        if (rest && !json_is_true(rest) && api__schema_unheld(comp, "unevaluatedItems", "") != 0)
            return -1;
    }
    if (*n > API__MAX_NAMES)
        return api__schema_wrong(comp, "an array has more than %d prefixItems", API__MAX_NAMES);
    return 0;
}

static int compile_array(api__compiler *comp, api__node *node, const api__pending *item) {
    size_t n = 0;
    node->kind = API__ARRAY;
    if (api__parts_count(comp, item, "minItems", true, 0, &node->min) != 0 ||
        api__parts_count(comp, item, "maxItems", false, UINT32_MAX, &node->max) != 0 ||
        measure_array(comp, node, item, &n) != 0)
        return -1;
    node->items = arena_array(&comp->grammar->mem, n + 1, sizeof *node->items);
    if (node->items == NULL) return api__schema_no_memory(comp);
    for (size_t i = 0; i < n && i < node->max; i++) {
        uint16_t id;
        if (item_node(comp, item, i, &id) != 0) return -1;
        if (id == API__NO_NODE) node->max = (uint32_t)i; /* the array ends before */
        else node->items[node->n_parts++] = id;
    }
    if (item_node(comp, item, n, &node->rest) != 0) return -1;
    if (node->rest == API__NO_NODE && node->max > node->n_parts) node->max = node->n_parts;
    if (node->min > node->max)
        return api__schema_none(comp, node, "an array needs more items than it may have");
    return 0;
}

/* ---- all kinds ---- */

static int compile_words(api__compiler *comp, api__node *node, uint8_t types) {
    static const struct {
        const char *text;
        uint8_t type;
    } words[] = {
        {"false", API__TYPE_BOOLEAN}, {"null", API__TYPE_NULL}, {"true", API__TYPE_BOOLEAN}};
    if (api__start_names(comp, node, API__ENUM, ARRAY_LEN(words)) != 0) return -1;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) { /* in byte order */
        if (!(types & words[i].type)) continue;
        node->names[node->n_parts++] =
            (api__name){.text = words[i].text, .len = (uint16_t)strlen(words[i].text)};
    }
    return 0;
}

static int compile_typed(api__compiler *comp, api__node *node, const api__pending *item,
                         uint8_t types) {
    uint8_t words = types & (API__TYPE_NULL | API__TYPE_BOOLEAN);
    switch (types) {
    case 0: return api__schema_none(comp, node, "the schema's types exclude each other");
    case API__TYPE_OBJECT: return api__compile_object(comp, node, item);
    case API__TYPE_ARRAY: return compile_array(comp, node, item);
    case API__TYPE_STRING: return api__compile_string(comp, node, item, API__STRING);
    case API__TYPE_INTEGER:
    case API__TYPE_NUMBER: return api__compile_number(comp, node, item, types == API__TYPE_INTEGER);
    default: break;
    }
    if (types == words) return compile_words(comp, node, types);
    if (api__schema_alternatives(comp, node, 7) != 0) return -1;
    api__pending one = *item;
    for (unsigned bit = API__TYPE_INTEGER; bit <= API__TYPE_OBJECT; bit <<= 1) {
        if (!(types & bit)) continue;
        one.types = (uint8_t)bit;
        if (bit == API__TYPE_NUMBER) one.types |= API__TYPE_INTEGER;
        if (api__pending_node(comp, one, &node->items[node->n_parts++]) != 0) return -1;
    }
    one.types = words;
    return words ? api__pending_node(comp, one, &node->items[node->n_parts++]) : 0;
}

static int compile_schema(api__compiler *comp, api__node *node, const api__pending *item) {
    bool open, done = false;
    uint8_t types;
    if (api__parts_types(comp, item->parts, item->n_parts, &types, &open) != 0) return -1;
    if (item->types) types &= item->types;
    if (api__compile_values(comp, node, item, &done) != 0) return -1;
    if (!done && api__compile_branches(comp, node, item, &done) != 0) return -1;
    if (done) return 0;
    if (open && item->types == 0) { /* nothing that can be enforced */
        node->kind = API__ANY;
        return 0;
    }
    if (types & API__TYPE_NUMBER) types &= (uint8_t)~API__TYPE_INTEGER;
    return compile_typed(comp, node, item, types);
}

static int compile_node(api__compiler *comp, api__node *node, const api__pending *item) {
    comp->strict = item->strict;
    switch ((api__form_kind)item->form) {
    case API__FORM_JSON: return compile_schema(comp, node, item);
    case API__FORM_CALLS:
    case API__FORM_CALL:
    case API__FORM_NAME:
    case API__FORM_NO_ARGUMENTS: return api__compile_call(comp, node, item);
    default: return api__compile_tags(comp, node, item);
    }
}

/* ---- the whole ---- */

static int add_builtins(api__compiler *comp) {
    api__node *nodes = comp->grammar->nodes;
    nodes[API__NODE_ANY].kind = API__ANY;
    nodes[API__NODE_OBJECT] =
        (api__node){.kind = API__OBJECT, .rest = API__NODE_ANY, .max = UINT32_MAX};
    nodes[API__NODE_ARRAY] =
        (api__node){.kind = API__ARRAY, .rest = API__NODE_ANY, .max = UINT32_MAX};
    nodes[API__NODE_STRING] = (api__node){.kind = API__STRING, .max = UINT32_MAX};
    nodes[API__NODE_NUMBER].kind = API__NUMBER;
    nodes[API__NODE_NONE].kind = API__NONE;
    comp->grammar->n_nodes = API__N_BUILTIN;
    return compile_words(comp, &nodes[API__NODE_WORD], API__TYPE_NULL | API__TYPE_BOOLEAN);
}

/* Refuses a function that no call may name, because no object fits its parameters. */
static int check_calls(api__compiler *comp) {
    for (uint16_t i = API__N_BUILTIN; i < comp->grammar->n_nodes; i++) {
        const api__pending *item = &comp->todo[i];
        if (comp->grammar->nodes[i].need <= API__MAX_STACK ||
            (item->form != API__FORM_CALL && item->form != API__FORM_TAG_BODY))
            continue;
        const char *name = json_c_string(json_object_get(item->parts[0].schema, "name"));
        return api__schema_wrong(comp, "the parameters of function '%.64s' allow no object%s%s",
                                 name ? name : "", comp->why[0] ? ": " : "", comp->why);
    }
    return 0;
}

static int compile_all(api__compiler *comp, api__pending root) {
    api__grammar *grammar = comp->grammar;
    int rc = 0;
    grammar->root = API__NODE_OBJECT;
    comp->strict = root.strict;
    if (root.form != API__FORM_JSON) rc = api__pending_node(comp, root, &grammar->root);
    else if (root.parts) rc = api__schema_node(comp, root.parts->schema, root.root, &grammar->root);
    for (uint16_t i = API__N_BUILTIN; rc == 0 && i < grammar->n_nodes; i++)
        rc = compile_node(comp, &grammar->nodes[i], &comp->todo[i]);
    if (rc == 0) rc = api__grammar_measure(grammar, comp->param, comp->error);
    if (rc == 0) rc = check_calls(comp);
    return rc == 0 ? api__grammar_finish(grammar, comp->why, comp->param, comp->error) : -1;
}

int api__compile_from(api__grammar **out, api__pending root, const char *only, const char *param,
                      err *e) {
    *out = NULL;
    api__compiler comp = {.param = param, .error = e, .only = only, .fuel = API__DFA_FUEL};
    int rc = -1;
    comp.grammar = api__grammar_new();
    comp.todo = array_new(API__MAX_NODES, sizeof *comp.todo);
    comp.known = array_new(API__MAX_NODES, sizeof *comp.known);
    if (comp.grammar) {
        arena_init(&comp.grammar->mem, 6 << 20);
        comp.grammar->nodes = array_new(API__MAX_NODES, sizeof *comp.grammar->nodes);
    }
    if (comp.grammar && comp.todo && comp.known && comp.grammar->nodes && add_builtins(&comp) == 0)
        rc = compile_all(&comp, root);
    else api__schema_no_memory(&comp);
    free(comp.todo);
    free(comp.known);
    if (rc != 0) {
        api__grammar_free(comp.grammar);
        return -1;
    }
    api__node *fewer = realloc(comp.grammar->nodes, comp.grammar->n_nodes * sizeof *fewer);
    if (fewer) comp.grammar->nodes = fewer;
    *out = comp.grammar;
    return 0;
}

int api__grammar_compile(api__grammar **out, const json_t *schema, bool strict, const char *param,
                         err *e) {
    const api__part part = {.schema = schema};
    api__pending root = {.root = schema, .form = API__FORM_JSON, .strict = strict};
    if (schema) root.parts = &part;
    return api__compile_from(out, root, NULL, param, e);
}
