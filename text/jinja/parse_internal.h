/* parse_internal.h - tokens and the parser: from the text of a template to its tree. */
#ifndef FATHOM_TEXT_JINJA_PARSE_INTERNAL_H
#define FATHOM_TEXT_JINJA_PARSE_INTERNAL_H

#include "text/jinja/jinja_internal.h"

typedef enum {
    T_END,
    T_TEXT,
    T_PRINT_BEGIN,
    T_PRINT_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING, /* without its quotes, escapes as written */
    T_INT,
    T_REAL,
    T_OP /* one or two characters */
} jtoken_kind;

typedef struct {
    uint8_t kind;
    uint32_t line;
    const char *bytes;
    size_t len;
} jtoken;

typedef struct {
    jinja *tmpl;
    err *error;
    jtoken *tokens; /* the last is T_END */
    size_t n_tokens, cap_tokens, at;
    uint32_t depth;
    uint32_t loops;     /* loops around the statement, within the same macro */
    jmacro_node *macro; /* the macro being read, or NULL */
    bool failed;
} jparser;

int jinja__lex(jparser *parser, const char *text, size_t n);
/* Fails with ERR_BAD_FILE; returns NULL. */
void *jinja__syntax(jparser *parser, uint32_t line, const char *fmt, ...) PRINTF_LIKE(3, 4);
void *jinja__node_memory(jparser *parser, size_t n, size_t each);
uint32_t jinja__name_id(jparser *parser, const char *bytes, size_t n);
jnode *jinja__new_node(jparser *parser, jnode_kind kind, uint32_t line);
/* Raises the height of parent above the height of child. */
void jinja__above(jparser *parser, jnode *parent, const jnode *child);
/* The array of n elements with room for one more; NULL: the parser failed. */
void *jinja__grown(jparser *parser, const void *items, uint32_t n, size_t each);
bool jinja__push_node(jparser *parser, jnodes *list, jnode *node);

const jtoken *jinja__token(const jparser *parser);
bool jinja__is_op(const jparser *parser, const char *op);
bool jinja__is_name(const jparser *parser, const char *name);
bool jinja__skip_op(jparser *parser, const char *op);
bool jinja__skip_name(jparser *parser, const char *name);
bool jinja__expect_op(jparser *parser, const char *op);
void *jinja__unexpected(jparser *parser, const char *wanted); /* returns NULL */
void jinja__describe(const jtoken *token, char *out, size_t room);

jnode *jinja__constant(jparser *parser, uint32_t line, jval value);
jnode *jinja__string_constant(jparser *parser); /* joins adjacent strings */
jnode *jinja__number_constant(jparser *parser);
jnode *jinja__expression(jparser *parser);
jnode *jinja__expression_without_if(jparser *parser);
/* One expression, or a tuple of them without brackets. */
jnode *jinja__expressions(jparser *parser, bool with_if);
jnode *jinja__filters(jparser *parser, jnode *subject); /* the rest of a chain: NAME(args) | ... */
bool jinja__args(jparser *parser, jargs *args);         /* starts at the opening bracket */
jnode *jinja__target(jparser *parser, bool single, bool members);
jnode *jinja__postfix(jparser *parser, jnode *node);
jnode *jinja__primary(jparser *parser);

#endif
