/* buf.c - growable bytes. */
#include "base/buf.h"
#include "base/size.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int buf_reserve(buf *self, size_t extra) {
    size_t need;
    if (self->failed) return -1;
    if (!size_add(self->len, extra, &need) || !size_add(need, 1, &need)) goto fail;
    if (need <= self->cap) return 0;
    if (self->max && need > self->max + 1) goto fail;
    size_t cap = self->cap ? self->cap : 64;
    while (cap < need) {
        if (!size_mul(cap, 2, &cap)) goto fail;
    }
    if (self->max && cap > self->max + 1) cap = self->max + 1;
    char *data = realloc(self->data, cap);
    if (data == NULL) goto fail;
    self->data = data;
    self->cap = cap;
    return 0;
fail:
    self->failed = true;
    return -1;
}

void buf_append(buf *self, const void *bytes, size_t n) {
    if (n == 0 || buf_reserve(self, n) != 0) return;
    memcpy(self->data + self->len, bytes, n);
    self->len += n;
    self->data[self->len] = 0;
}

void buf_puts(buf *self, const char *text) {
    buf_append(self, text, strlen(text));
}

void buf_printf(buf *self, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        self->failed = true;
        return;
    }
    if (buf_reserve(self, (size_t)n) != 0) return;
    va_start(args, fmt);
    (void)vsnprintf(self->data + self->len, (size_t)n + 1, fmt, args);
    va_end(args);
    self->len += (size_t)n;
}

void buf_drop(buf *self, size_t n) {
    if (n >= self->len) {
        self->len = 0;
    } else {
        memmove(self->data, self->data + n, self->len - n);
        self->len -= n;
    }
    if (self->data) self->data[self->len] = 0;
}

void buf_clear(buf *self) {
    self->len = 0;
    self->failed = false;
    if (self->data) self->data[0] = 0;
}

void buf_deinit(buf *self) {
    free(self->data);
    *self = (buf){.max = self->max};
}
