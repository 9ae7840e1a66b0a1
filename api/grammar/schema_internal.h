/* schema_internal.h - shared by the files that compile schemas to grammars: schema.c reads JSON
 * Schema, tags.c makes the form of calls that are tags. */
#ifndef FATHOM_API_SCHEMA_INTERNAL_H
#define FATHOM_API_SCHEMA_INTERNAL_H

#include "api/grammar/constrain_internal.h"

/* The form of a node's text. */
typedef enum {
    API__FORM_JSON,
    API__FORM_CALL,   /* one call of one of the functions: schema is the list of tools */
    API__FORM_BODY,   /* the parameters of a function: schema is its description */
    API__FORM_VALUE,  /* a parameter's value: strings without quotes, other values as JSON */
    API__FORM_END,    /* the end of a call */
    API__FORM_EITHER, /* a call or another value: schema holds both (either.c) */
} api__form_kind;

/* A schema to be compiled into the node of the same index. */
typedef struct {
    const json_t *schema, *root; /* root: start of $ref */
    uint8_t types;               /* API__TYPE_* allowed for the node; 0: types of the schema */
    uint8_t form;                /* api__form_kind */
} api__pending;

typedef struct {
    api__grammar *grammar;
    api__pending *todo;  /* [API__MAX_NODES] */
    const json_t *calls; /* schemas of function calls, each with its own $refs; or NULL */
    const char *only;    /* the one function allowed, or NULL */
    size_t followed;     /* bytes of $ref read so far */
    const char *param;
    err *error;
} api__compiler;

/* Compiles `root` and all that it needs. calls and only: as in api__compiler. */
int api__compile_from(api__grammar **out, api__pending root, const json_t *calls, const char *only,
                      const char *param, err *e) WARN_UNUSED;

/* Errors; all return -1. */
int api__schema_wrong(api__compiler *comp, const char *fmt, ...) PRINTF_LIKE(2, 3);
int api__schema_unsupported(api__compiler *comp, const char *keyword, const char *where);
int api__schema_no_memory(api__compiler *comp);

/* The node of a schema in JSON form, compiled later. */
int api__schema_node(api__compiler *comp, const json_t *schema, const json_t *root, uint8_t types,
                     uint16_t *out) WARN_UNUSED;
/* The node of an item in any form, compiled later. Equal items have one node. */
int api__schema_node_of(api__compiler *comp, api__pending item, uint16_t *out) WARN_UNUSED;
/* Follows a chain of $refs. */
int api__schema_resolve(api__compiler *comp, const json_t *root, const json_t **schema) WARN_UNUSED;
/* Refuses unknown keywords and, beside a combining keyword, all but annotations. Collects the types
 * implied by the keywords. */
int api__schema_keywords(api__compiler *comp, const json_t *schema, uint8_t *implied,
                         const char **combines) WARN_UNUSED;
int api__schema_count(api__compiler *comp, const json_t *schema, const char *key,
                      uint32_t otherwise, uint32_t *out) WARN_UNUSED;
/* Writes a value as compact JSON into the arena; bare: a string as its own text. */
int api__schema_value(api__compiler *comp, const json_t *value, bool bare,
                      api__name *out) WARN_UNUSED;
/* Sort the names of an enum, and drop repeated ones; list the names of an object in byte order. */
void api__sort_enum(api__node *node);
void api__sort_names(api__node *node);
/* A node of alternatives, without any yet. */
int api__schema_alternatives(api__compiler *comp, api__node *node, size_t n) WARN_UNUSED;

/* The schemas of all calls in JSON form: a new reference. NULL: out of memory. */
json_t *api__call_schemas(const json_t *tools, const char *only);
int api__compile_either(api__compiler *comp, api__node *node, const api__pending *item) WARN_UNUSED;
/* Compiles an item of any form but JSON. */
int api__compile_tags(api__compiler *comp, api__node *node, const api__pending *item) WARN_UNUSED;

#endif
