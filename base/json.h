/* json.h - parses JSON under limits checked beforehand, and writes JSON strings. */
#ifndef FATHOM_JSON_H
#define FATHOM_JSON_H

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>

typedef struct {
    size_t max_bytes;      /* longest text */
    size_t max_depth;      /* deepest nesting, 1 = a flat object */
    size_t max_structural; /* most of { } [ ] , : outside strings; limits the heap used */
} json_limits;
/* Duplicate keys, U+0000, bad UTF-8 and trailing bytes are refused. `what` names the text in the
 * message ("request body", a file name). On success *out is a new reference. ERR_BAD_PARAM;
 * ERR_NO_MEMORY when memory ran out; ERR_CANCELLED (base/cancel.h). Time is linear in n, for broken
 * text too. Any thread. */
int json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
               const char *what, err *e) WARN_UNUSED;
/* The same, but strings may hold U+0000 (keys may not), so their readers must use lengths. */
int json_parse_nul(json_t **out, const char *text, size_t n, const json_limits *limits,
                   const char *what, err *e) WARN_UNUSED;
/* The same. An integer beyond 64 bits is read as a real, so that its field can name the range; all
 * others of the text become reals then too, and most are small enough to stay exact. A byte order
 * mark at the start is skipped (RFC 8259, 8.1). */
int json_parse_body(json_t **out, const char *text, size_t n, const json_limits *limits,
                    const char *what, err *e) WARN_UNUSED;
/* Call once in main before any thread starts. Routes jansson's allocations, to tell "out of memory"
 * from bad input, and seeds its hash. */
void json_setup(void);
/* The text of a JSON string without U+0000; NULL for any other value. Borrowed from value. */
const char *json_c_string(const json_t *value);
/* Appends text as a quoted JSON string; bytes outside UTF-8 become U+FFFD. */
void buf_json_string(buf *out, const char *text, size_t n);
void buf_json_escaped(buf *out, const char *text, size_t n); /* without the quotes */
void buf_json_text(buf *out, const char *text);              /* quoted, from a C string */
void buf_json_float(buf *out, float value); /* finite; the fewest digits that read back as it */

#endif
