/* schema_internal.h - shared by the files that compile schemas to grammars.
 *
 * - schema_keywords.c  the role of each keyword, and lists of schemas (allOf, $ref)
 * - schema.c           nodes, alternatives, arrays, and the order of work
 * - schema_object.c    objects
 * - schema_string.c    strings: lengths, patterns, formats
 * - schema_number.c    numbers: ranges and multiples
 * - schema_values.c    enum and const
 * - schema_admits.c    whether a schema allows a given value
 * - schema_apart.c     whether two schemas have no value in common
 * - grammar.c, tags.c  the form of calls that are JSON, or tags */
#ifndef FATHOM_API_SCHEMA_INTERNAL_H
#define FATHOM_API_SCHEMA_INTERNAL_H

#include "api/grammar/constrain_internal.h"
#include "api/grammar/regex_internal.h"

enum { API__MAX_PARTS = 48, API__ALL_TYPES = 127 };

/* The form of a node's text. */
typedef enum {
    API__FORM_JSON,
    API__FORM_CALLS, /* one call of one of the functions: schema is the list of tools */
    API__FORM_CALL,  /* a call of one function: schema is its description */
    API__FORM_NAME,  /* the name of a function: schema is its description */
    API__FORM_NO_ARGUMENTS,
    API__FORM_TAG_CALLS,  /* the same as tags: schema is the list of tools */
    API__FORM_TAG_BODY,   /* the parameters of a function: schema is its description */
    API__FORM_TAG_PARAMS, /* the same as a schema */
    API__FORM_TAG_VALUE,  /* a parameter's value: strings without quotes, other values as JSON */
    API__FORM_EITHER,     /* a call or another value: schema holds both (either.c) */
    API__FORM_TAG_END,    /* the end of a call */
} api__form_kind;

/* A schema. skips: its anyOf or oneOf stands in the list as one branch. */
typedef struct {
    const json_t *schema;
    bool skips_any, skips_one;
} api__part;

/* Schemas for one value, all in force, without $ref, allOf, true, or empty ones. */
typedef struct {
    api__part list[API__MAX_PARTS];
    uint16_t n;
    bool none;          /* false was among them */
    const json_t *root; /* start of $ref */
} api__parts;

/* The source of the node of the same index. */
typedef struct {
    const api__part *parts;
    const json_t *root;
    uint16_t n_parts;
    uint8_t types; /* API__TYPE_* allowed for the node; 0: types of the schemas */
    uint8_t form;  /* api__form_kind */
    bool strict;   /* refuses keywords beyond the enforced ones; else they are left out */
    const struct api__pattern *keys; /* further patterns of a key */
    uint16_t n_keys;
} api__pending;

typedef struct {
    const char *key; /* patterns and lengths */
    size_t n;
    const api__dfa *dfa;
} api__known_dfa;

typedef struct {
    api__grammar *grammar;
    api__pending *todo; /* [API__MAX_NODES] */
    const char *only;   /* the one function allowed, or NULL */
    bool strict;        /* of the node being compiled */
    size_t followed;    /* bytes of $ref read so far */
    uint32_t expanded;  /* schemas looked at so far */
    uint64_t fuel;      /* left for patterns */
    api__known_dfa *known;
    uint16_t n_known;
    char why[160]; /* the first reason why a part allows no value, or empty */
    const char *param;
    err *error;
} api__compiler;

/* Compiles the root and everything below it. parts NULL: any object. */
int api__compile_from(api__grammar **out, api__pending root, const char *only, const char *param,
                      err *e) WARN_UNUSED;

/* Errors; all return -1. */
int api__schema_wrong(api__compiler *comp, const char *fmt, ...) PRINTF_LIKE(2, 3);
int api__schema_no_memory(api__compiler *comp);
/* A keyword beyond the enforced ones: an error if the schema is strict, else 0. */
int api__schema_unheld(api__compiler *comp, const char *keyword, const char *where);

/* ---- lists of schemas ---- */

/* Adds a schema, and the schemas of its $ref and allOf. */
int api__parts_add(api__compiler *comp, api__parts *parts, const json_t *schema) WARN_UNUSED;
/* Adds one schema alone, unless it is empty beside the keyword it skips. */
int api__parts_keep(api__compiler *comp, api__parts *parts, api__part part) WARN_UNUSED;
/* The types of a value of the schemas; numbers have the bit of integers, too. *open: no keyword
 * names or implies one. */
int api__parts_types(api__compiler *comp, const api__part *parts, uint16_t n, uint8_t *out,
                     bool *open) WARN_UNUSED;
/* The types named by a value of `type`. 0 after an error. */
uint8_t api__schema_named_types(api__compiler *comp, const json_t *type);
/* The greatest (most) or least count given for a keyword, or `otherwise`. */
int api__parts_count(api__compiler *comp, const api__pending *item, const char *key, bool most,
                     uint32_t otherwise, uint32_t *out) WARN_UNUSED;
const json_t *api__schema_resolve(api__compiler *comp, const json_t *root, const char *ref,
                                  bool *unheld);

/* ---- nodes ---- */

/* The node of a list of schemas, compiled later. Equal lists have one node. */
int api__parts_node(api__compiler *comp, const api__parts *parts, uint8_t types,
                    api__form_kind form, uint16_t *out) WARN_UNUSED;
int api__pending_node(api__compiler *comp, api__pending item, uint16_t *out) WARN_UNUSED;
int api__schema_node(api__compiler *comp, const json_t *schema, const json_t *root,
                     uint16_t *out) WARN_UNUSED;
/* The node of something else, such as a function. */
int api__form_node(api__compiler *comp, const json_t *thing, const json_t *root,
                   api__form_kind form, uint16_t *out) WARN_UNUSED;
/* Makes a node without values, and keeps the reason if it is the first. */
int api__schema_none(api__compiler *comp, api__node *node, const char *fmt, ...) PRINTF_LIKE(3, 4);
int api__schema_alternatives(api__compiler *comp, api__node *node, size_t n) WARN_UNUSED;
/* Splits a list at its first anyOf or oneOf into a node of alternatives. *split: there was one. */
int api__compile_branches(api__compiler *comp, api__node *node, const api__pending *item,
                          bool *split) WARN_UNUSED;

/* ---- kinds of values ---- */

int api__compile_object(api__compiler *comp, api__node *node, const api__pending *item) WARN_UNUSED;
int api__compile_string(api__compiler *comp, api__node *node, const api__pending *item,
                        api__node_kind kind) WARN_UNUSED;
int api__compile_number(api__compiler *comp, api__node *node, const api__pending *item,
                        bool integer) WARN_UNUSED;
/* *found: the schemas have an enum or const, and the node allows its values. */
int api__compile_values(api__compiler *comp, api__node *node, const api__pending *item,
                        bool *found) WARN_UNUSED;
/* Writes a value as compact JSON into the arena; bare: a string as its own text. */
int api__schema_value(api__compiler *comp, const json_t *value, bool bare,
                      api__name *out) WARN_UNUSED;
/* Sort the names of an enum, and drop repeated ones; list the names of an object in byte order. */
void api__sort_enum(api__node *node);
void api__sort_names(api__node *node);
int api__start_names(api__compiler *comp, api__node *node, api__node_kind kind,
                     size_t room) WARN_UNUSED;

/* The DFA of patterns: a list of [pattern, wanted]. Patterns alike share one. *out is NULL if a
 * pattern cannot be held and the schema is not strict. *empty: no text fits. */
typedef struct api__pattern {
    const char *text;
    size_t n;
    bool wanted, literal, inside; /* literal: not a pattern but a text, whole or inside */
    const char *keyword;          /* to be named in errors */
} api__pattern;
int api__patterns_dfa(api__compiler *comp, const api__pattern *list, size_t n, uint32_t min,
                      uint32_t max, const api__dfa **out, bool *empty) WARN_UNUSED;
/* 1: the text matches; 0: not; API__PATTERN_UNKNOWN: the pattern cannot be held; -1: error. */
enum { API__PATTERN_UNKNOWN = 2 };
int api__pattern_matches(api__compiler *comp, const char *keyword, const json_t *pattern,
                         const char *text, size_t n) WARN_UNUSED;
int api__format_matches(api__compiler *comp, const char *name, const char *text,
                        size_t n) WARN_UNUSED;

/* A decimal number: value times 10 to the power of -places. */
typedef struct {
    int64_t value;
    int places;
} api__decimal;
bool api__decimal_read(const json_t *number, api__decimal *out); /* false: too large or too fine */
/* -1, 0, 1: how two numbers compare. */
int api__decimal_order(const json_t *left, const json_t *right);
/* Is the number a multiple? */
bool api__decimal_multiple(const json_t *number, const json_t *of);

/* Does a schema allow a value? 1: yes, or unknown; 0: no; -1: error. */
int api__schema_admits(api__compiler *comp, const api__part *part, const json_t *root,
                       const json_t *value) WARN_UNUSED;
/* True if no value fits both. False: perhaps some does. */
bool api__schemas_apart(api__compiler *comp, const json_t *one, const json_t *other,
                        const json_t *root);

bool api__function_strict(const json_t *function);
/* Compiles an item of any form but JSON. */
int api__compile_call(api__compiler *comp, api__node *node, const api__pending *item) WARN_UNUSED;
int api__compile_either(api__compiler *comp, api__node *node, const json_t *both) WARN_UNUSED;
int api__compile_tags(api__compiler *comp, api__node *node, const api__pending *item) WARN_UNUSED;

#endif
