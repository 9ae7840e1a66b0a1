/* json.h - jansson behind limits that are checked before it parses, and JSON strings written. */
#ifndef FATHOM_JSON_H
#define FATHOM_JSON_H

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>

typedef struct {
    size_t max_bytes;      /* longest text */
    size_t max_depth;      /* deepest nesting, 1 = a flat object */
    size_t max_structural; /* most of { } [ ] , : outside strings; bounds the heap used */
} json_limits;
/* Duplicate keys, U+0000, bad UTF-8 and trailing bytes are refused. `what` names the text in the
 * message ("request body", a file name). On success *out is a new reference. ERR_BAD_PARAM;
 * ERR_NO_MEMORY when memory ran out; ERR_CANCELLED (base/cancel.h). Time is linear in n, for broken
 * text too. Any thread. */
int json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
               const char *what, err *e) WARN_UNUSED;
/* The same, but strings may hold U+0000 (keys may not): whoever reads them needs their lengths. */
int json_parse_nul(json_t **out, const char *text, size_t n, const json_limits *limits,
                   const char *what, err *e) WARN_UNUSED;
/* Once in main before threads: routes jansson's allocations so that running out
 * of memory can be told from bad input, and seeds its hash. */
void json_setup(void);
/* The text of a string that is one to C too; NULL for one that holds U+0000, and for what is no
 * string. Borrowed from v. */
const char *json_c_string(const json_t *v);
/* Appends s as a quoted JSON string; bytes that are not UTF-8 become U+FFFD. */
void buf_json_string(buf *b, const char *s, size_t n);
void buf_json_escaped(buf *b, const char *s, size_t n); /* what stands between the quotes */
void buf_json_text(buf *b, const char *s);              /* the same, of a C string */

#endif
