/* schema_finish.c - properties of a grammar computed once all its nodes exist. */
#include "api/grammar/constrain_internal.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

static int too_many(const char *param, err *e) {
    return err_set(e, ERR_BAD_PARAM, param, "%s: a schema has more than %d alternatives", param,
                   API__MAX_ALTERNATIVES);
}

/* Nested alternatives become one list, so the automaton begins a value without recursion. */
static int flatten(api__grammar *grammar, uint16_t id, const char *param, err *e) {
    uint16_t found[API__MAX_ALTERNATIVES], stack[API__MAX_ALTERNATIVES * 2];
    size_t n = 0, waiting = 0;
    uint64_t *seen = array_new(API__MAX_NODES / 64, sizeof *seen);
    int rc = seen ? 0 : err_set(e, ERR_NO_MEMORY, param, "%s: the schema is too large", param);
    if (rc == 0) stack[waiting++] = id;
    while (rc == 0 && waiting > 0) {
        uint16_t at = stack[--waiting];
        const api__node *node = &grammar->nodes[at];
        if (seen[at / 64] >> at % 64 & 1) continue;
        seen[at / 64] |= (uint64_t)1 << at % 64;
        if (node->kind != API__ALT) {
            if (n == API__MAX_ALTERNATIVES) rc = too_many(param, e);
            else found[n++] = at;
            continue;
        }
        if (waiting + node->n_parts > ARRAY_LEN(stack)) {
            rc = too_many(param, e);
            continue;
        }
        for (uint16_t i = node->n_parts; i-- > 0;)
            stack[waiting++] = node->items[i];
    }
    if (rc == 0 && n == 0)
        rc = err_set(e, ERR_BAD_PARAM, param, "%s: alternatives refer only to themselves", param);
    uint16_t *items = rc == 0 ? arena_array(&grammar->mem, n, sizeof *items) : NULL;
    if (rc == 0 && items == NULL)
        rc = err_set(e, ERR_NO_MEMORY, param, "%s: the schema is too large", param);
    free(seen);
    if (rc != 0) return -1;
    memcpy(items, found, n * sizeof *items);
    grammar->nodes[id].items = items;
    grammar->nodes[id].n_parts = (uint16_t)n;
    return 0;
}

/* The need of the properties counted by min: the smallest ones besides the required. */
static uint8_t need_of_count(const api__grammar *grammar, const api__node *node) {
    uint16_t count[API__MAX_STACK + 2] = {0};
    uint32_t missing = node->min;
    for (uint16_t i = 0; i < node->n_parts; i++) {
        uint8_t need = grammar->nodes[node->names[i].node].need;
        if (node->names[i].required) missing -= missing > 0;
        else if (need <= API__MAX_STACK) count[need]++;
    }
    for (uint16_t i = 0; i < node->n_keyed; i++) {
        uint8_t need = grammar->nodes[node->keyed[i].node].need;
        if (need <= API__MAX_STACK && grammar->nodes[node->keyed[i].key].need <= API__MAX_STACK)
            count[need]++;
    }
    if (node->rest != API__NO_NODE && grammar->nodes[node->rest].need <= API__MAX_STACK)
        count[grammar->nodes[node->rest].need]++;
    for (uint8_t need = 0; need <= API__MAX_STACK; need++) {
        if (missing <= count[need]) return missing ? need : 0;
        missing -= count[need];
    }
    return missing ? UINT8_MAX : 0;
}

/* Stack depth of a node's smallest value, from the needs of its parts so far. */
static uint8_t need_of(const api__grammar *grammar, const api__node *node) {
    uint8_t most = 0, least = UINT8_MAX;
    switch (node->kind) {
    case API__OBJECT:
    case API__TAGS:
        for (uint16_t i = 0; i < node->n_parts; i++) {
            uint8_t need = grammar->nodes[node->names[i].node].need;
            if (node->names[i].required && need > most) most = need;
            if (need < least) least = need;
        }
        if (node->once) most = least;
        if (node->kind == API__OBJECT && node->min > 0) {
            uint8_t need = need_of_count(grammar, node);
            if (need > most) most = need;
        }
        break;
    case API__ARRAY:
        for (uint32_t i = 0; i < node->min && i <= node->n_parts; i++) {
            uint8_t need = grammar->nodes[i < node->n_parts ? node->items[i] : node->rest].need;
            if (need > most) most = need;
        }
        break;
    case API__NONE: return UINT8_MAX;
    case API__ALT:
        for (uint16_t i = 0; i < node->n_parts; i++) {
            uint8_t need = grammar->nodes[node->items[i]].need;
            if (need < least) least = need;
        }
        return least;
    default: break;
    }
    return most > API__MAX_STACK ? UINT8_MAX : (uint8_t)(most + 1);
}

static int tabulate_counts(api__grammar *grammar, api__node *node) {
    const uint16_t n = node->n_parts;
    uint16_t required = 0;
    for (uint16_t i = 0; i < n; i++)
        required += node->names[i].required;
    bool closed = node->rest == API__NO_NODE && node->n_keyed == 0;
    if (required >= node->min && (node->max == UINT32_MAX || (closed && n <= node->max))) return 0;
    node->required_left = arena_array(&grammar->mem, n + 1u, sizeof *node->required_left);
    node->possible_left = arena_array(&grammar->mem, n + 1u, sizeof *node->possible_left);
    if (!node->required_left || !node->possible_left) return -1;
    for (uint16_t i = n; i-- > 0;) {
        const api__name *name = &node->names[i];
        bool possible = grammar->nodes[name->node].need < node->need;
        node->required_left[i] = (uint16_t)(node->required_left[i + 1] + name->required);
        node->possible_left[i] = (uint16_t)(node->possible_left[i + 1] + possible);
    }
    return 0;
}

/* Tables of an object's properties or of tags, so the automaton needs no search per byte. */
static int tabulate(api__grammar *grammar, api__node *node) {
    node->rank = arena_array(&grammar->mem, node->n_parts + 1u, sizeof *node->rank);
    node->required_from =
        arena_array(&grammar->mem, node->n_parts + 1u, sizeof *node->required_from);
    node->least_need = arena_array(&grammar->mem, node->n_parts + 1u, sizeof *node->least_need);
    if (!node->rank || !node->required_from || !node->least_need) return -1;
    node->required_from[node->n_parts] = node->n_parts;
    node->least_need[node->n_parts] = UINT8_MAX;
    for (uint16_t i = node->n_parts; i-- > 0;) {
        uint8_t need = grammar->nodes[node->names[i].node].need, later = node->least_need[i + 1];
        node->required_from[i] = node->names[i].required ? i : node->required_from[i + 1];
        node->least_need[i] = node->names[i].required || need < later ? need : later;
    }
    for (uint16_t i = 0; i < node->n_parts; i++)
        node->rank[node->sorted[i]] = i;
    return node->kind == API__OBJECT ? tabulate_counts(grammar, node) : 0;
}

int api__grammar_measure(api__grammar *grammar, const char *param, err *e) {
    for (uint16_t i = 0; i < grammar->n_nodes; i++) {
        if (grammar->nodes[i].kind == API__ALT && flatten(grammar, i, param, e) != 0) return -1;
        grammar->nodes[i].need = UINT8_MAX;
    }
    for (bool changed = true; changed;) { /* each round settles at least one depth */
        changed = false;
        for (uint16_t i = 0; i < grammar->n_nodes; i++) {
            uint8_t need = need_of(grammar, &grammar->nodes[i]);
            changed = changed || need < grammar->nodes[i].need;
            if (need < grammar->nodes[i].need) grammar->nodes[i].need = need;
        }
    }
    return 0;
}

int api__grammar_finish(api__grammar *grammar, const char *why, const char *param, err *e) {
    if (grammar->nodes[grammar->root].need > API__MAX_STACK) {
        if (why[0])
            return err_set(e, ERR_BAD_PARAM, param, "%s: no value matches the schema: %s", param,
                           why);
        return err_set(e, ERR_BAD_PARAM, param,
                       "%s: no value with a depth of at most %d matches the schema", param,
                       API__MAX_STACK);
    }
    for (uint16_t i = 0; i < grammar->n_nodes; i++) {
        bool named = grammar->nodes[i].kind == API__OBJECT || grammar->nodes[i].kind == API__TAGS;
        if (named && tabulate(grammar, &grammar->nodes[i]) != 0)
            return err_set(e, ERR_NO_MEMORY, param, "%s: the schema is too large", param);
    }
    return 0;
}
