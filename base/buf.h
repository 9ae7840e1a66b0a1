/* buf.h - growable bytes with a limit.
 *
 * The zero value is empty and ready. After a failed append, `failed` stays set and later appends
 * do nothing, so many appends need one check at the end. A buf belongs to one thread. */
#ifndef FATHOM_BUF_H
#define FATHOM_BUF_H

#include "base/lang.h"

typedef struct {
    char *data; /* NULL while cap is 0; otherwise data[len] is 0 */
    size_t len, cap;
    size_t max; /* most bytes ever held; 0 = no limit */
    bool failed;
} buf;
int buf_reserve(buf *self, size_t extra) WARN_UNUSED; /* room for `extra` more bytes */
void buf_append(buf *self, const void *bytes, size_t n);
void buf_puts(buf *self, const char *text);
void buf_printf(buf *self, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_drop(buf *self, size_t n); /* removes n bytes from the front */
void buf_clear(buf *self);          /* keeps the memory, forgets `failed` */
void buf_deinit(buf *self);

#endif
