/* buf.h - growable bytes with a ceiling.
 *
 * The zero value is empty and ready. After a failed append `failed` stays set and later appends
 * do nothing, so a long run of appends needs one check. A buf belongs to one thread. */
#ifndef FATHOM_BUF_H
#define FATHOM_BUF_H

#include "base/lang.h"

typedef struct {
    char *data; /* NULL while cap is 0; otherwise data[len] is 0 */
    size_t len, cap;
    size_t max; /* most bytes ever held; 0 = no ceiling */
    bool failed;
} buf;
int buf_reserve(buf *b, size_t extra) WARN_UNUSED; /* room for extra more bytes */
void buf_append(buf *b, const void *bytes, size_t n);
void buf_puts(buf *b, const char *text);
void buf_printf(buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_drop(buf *b, size_t n); /* removes n bytes from the front */
void buf_clear(buf *b);          /* keeps the memory, forgets `failed` */
void buf_deinit(buf *b);

#endif
