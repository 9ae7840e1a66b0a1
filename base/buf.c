/* buf.c - growable bytes. */
#include "base/buf.h"
#include "base/size.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int buf_reserve(buf *b, size_t extra) {
    size_t need;
    if (b->failed) return -1;
    if (!size_add(b->len, extra, &need) || !size_add(need, 1, &need)) goto fail;
    if (need <= b->cap) return 0;
    if (b->max && need > b->max + 1) goto fail;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need) {
        if (!size_mul(cap, 2, &cap)) goto fail;
    }
    if (b->max && cap > b->max + 1) cap = b->max + 1;
    char *data = realloc(b->data, cap);
    if (data == NULL) goto fail;
    b->data = data;
    b->cap = cap;
    return 0;
fail:
    b->failed = true;
    return -1;
}

void buf_append(buf *b, const void *bytes, size_t n) {
    if (n == 0 || buf_reserve(b, n) != 0) return;
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_puts(buf *b, const char *text) {
    buf_append(b, text, strlen(text));
}

void buf_printf(buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        b->failed = true;
        return;
    }
    if (buf_reserve(b, (size_t)n) != 0) return;
    va_start(args, fmt);
    (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
}

void buf_drop(buf *b, size_t n) {
    if (n >= b->len) {
        b->len = 0;
    } else {
        memmove(b->data, b->data + n, b->len - n);
        b->len -= n;
    }
    if (b->data) b->data[b->len] = 0;
}

void buf_clear(buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}

void buf_deinit(buf *b) {
    free(b->data);
    *b = (buf){.max = b->max};
}
