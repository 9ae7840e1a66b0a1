/* sys.c - the clock, the log and files: what is asked of the operating system. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int64_t clock_unix_s(void) {
    return (int64_t)time(NULL);
}

/* ---- log ---- */

static _Atomic int max_level = LOG_INFO;
static _Atomic uint64_t dropped;
static const char *const level_names[] = {"alert", "warn", "info", "debug"};

void log_set_level(log_level max) {
    atomic_store_explicit(&max_level, (int)max, memory_order_relaxed);
}

int log_level_find(const char *name, log_level *out) {
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (strcmp(name, level_names[i]) != 0) continue;
        *out = (log_level)i;
        return 0;
    }
    return -1;
}

void log_line(log_level level, const char *fmt, ...) {
    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed)) return;
    char line[1024];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%SZ ", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, "%s ", level_names[level]);
    va_list args;
    va_start(args, fmt);
    int text = vsnprintf(line + n, sizeof line - n - 1, fmt, args);
    va_end(args);
    if (text < 0) return;
    n = (size_t)text < sizeof line - n - 1 ? n + (size_t)text : sizeof line - 2;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)line[i] < 0x20) line[i] = ' '; /* one call, one line, no escape codes */
    }
    line[n++] = '\n';
    /* One write per line keeps lines of several threads whole. */
    if (write(STDERR_FILENO, line, n) != (ssize_t)n) {
        atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
    }
}

uint64_t log_dropped_lines(void) {
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}

/* ---- files ---- */

/* O_NONBLOCK keeps open() from hanging on a FIFO that nobody writes to. */
static int open_regular(const char *path, struct stat *st, err *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_set(e, ERR_IO, NULL, "%s: %s", path, strerror(errno));
    if (fstat(fd, st) != 0) {
        int why = errno;
        close(fd);
        return err_set(e, ERR_IO, NULL, "%s: %s", path, strerror(why));
    }
    if (!S_ISREG(st->st_mode)) {
        close(fd);
        return err_set(e, ERR_IO, NULL, "%s: expected a regular file, found something else", path);
    }
    return fd;
}

int file_map_open(file_map *out, const char *path, err *e) {
    *out = (file_map){.fd = -1};
    struct stat st;
    int fd = open_regular(path, &st, e);
    if (fd < 0) return -1;
    if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            int why = errno;
            close(fd);
            return err_set(e, ERR_IO, NULL, "%s: cannot map: %s", path, strerror(why));
        }
        out->data = data;
    }
    out->size = (size_t)st.st_size;
    out->fd = fd;
    return 0;
}

void file_map_close(file_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    if (m->fd >= 0) close(m->fd);
    *m = (file_map){.fd = -1};
}

int file_read(buf *b, const char *path, size_t max_bytes, err *e) {
    struct stat st;
    int fd = open_regular(path, &st, e);
    if (fd < 0) return -1;
    int rc = -1;
    for (;;) {
        if (buf_reserve(b, 64 << 10) != 0) {
            err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory while reading", path);
            break;
        }
        ssize_t n = read(fd, b->data + b->len, b->cap - b->len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            err_set(e, ERR_IO, NULL, "%s: %s", path, strerror(errno));
            break;
        }
        if (n == 0) {
            b->data[b->len] = 0;
            rc = 0;
            break;
        }
        b->len += (size_t)n;
        if (b->len > max_bytes) {
            err_set(e, ERR_BAD_FILE, NULL, "%s: larger than the limit of %zu bytes", path,
                    max_bytes);
            break;
        }
    }
    close(fd);
    return rc;
}
