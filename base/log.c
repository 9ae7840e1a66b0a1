/* log.c - lines to stderr, each in one write. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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
