/* log.c - lines to stderr, each in one write. */
#include "base/log.h"
#include "base/terminal.h"
#include "base/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES = 4096, /* a pipe takes so many in one piece */
    TEXT_BYTES = 1024, /* of the message */
    VALUE_BYTES = 256, /* of a field */
    END_BYTES = 8,     /* kept free for the end of a line */
};

/* What stderr is; found by the first line. */
typedef enum { PLAIN, UNKNOWN, COLOURED, JOURNAL, JSON } line_style;

static const struct {
    const char *name, *colour;
    int syslog; /* as in sd-daemon(3) */
} levels[] = {
    [LOG_ALERT] = {"alert", "\x1b[1;31m", 1},
    [LOG_WARN] = {"warn", "\x1b[33m", 4},
    [LOG_INFO] = {"info", "\x1b[32m", 6},
    [LOG_DEBUG] = {"debug", "\x1b[2m", 7},
};
static const char *const format_names[] = {
    [LOG_AUTO] = "auto", [LOG_TEXT] = "text", [LOG_JSON] = "json"};

static _Atomic int max_level = LOG_INFO;
static _Atomic int style = UNKNOWN;
static atomic_bool bar_shown;
static _Atomic uint64_t dropped;

void log_set_level(log_level max) {
    atomic_store_explicit(&max_level, (int)max, memory_order_relaxed);
}

int log_level_find(const char *name, log_level *out) {
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(name, levels[i].name) != 0) continue;
        *out = (log_level)i;
        return 0;
    }
    return -1;
}

int log_format_find(const char *name, log_format *out) {
    for (size_t i = 0; i < ARRAY_LEN(format_names); i++) {
        if (strcmp(name, format_names[i]) != 0) continue;
        *out = (log_format)i;
        return 0;
    }
    return -1;
}

/* systemd names the journal's socket by its device and inode. */
static bool is_journal(int fd) {
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    if (stream == NULL || fstat(fd, &st) != 0) return false;
    char own[48];
    (void)snprintf(own, sizeof own, "%llu:%llu", (unsigned long long)st.st_dev,
                   (unsigned long long)st.st_ino);
    return strcmp(stream, own) == 0;
}

static line_style find_style(void) {
    if (is_journal(STDERR_FILENO)) return JOURNAL;
    return terminal_has_colours(STDERR_FILENO) ? COLOURED : PLAIN;
}

void log_set_format(log_format format) {
    atomic_store(&style, format == LOG_AUTO   ? (int)find_style()
                         : format == LOG_JSON ? JSON
                                              : PLAIN);
}

void log_over_bar(bool shown) {
    atomic_store(&bar_shown, shown);
}

/* ---- a line in the making ---- */

typedef struct {
    char text[LINE_BYTES];
    size_t n;
    line_style style;
} line_buf;

/* Appends all n bytes or nothing: false if the line is full. */
static bool put(line_buf *line, const char *bytes, size_t n) {
    if (n > sizeof line->text - END_BYTES - line->n) return false;
    memcpy(line->text + line->n, bytes, n);
    line->n += n;
    return true;
}

static bool put_text(line_buf *line, const char *text) {
    return put(line, text, strlen(text));
}

static bool put_format(line_buf *line, const char *fmt, ...) PRINTF_LIKE(2, 3);
static bool put_format(line_buf *line, const char *fmt, ...) {
    char text[VALUE_BYTES];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return n >= 0 && (size_t)n < sizeof text && put(line, text, (size_t)n);
}

/* A text without control characters: one call, one line, no escape codes. */
static bool put_clean(line_buf *line, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char byte = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
        if (!put(line, &byte, 1)) return false;
    }
    return true;
}

/* The text as a JSON string; bytes outside UTF-8 become U+FFFD. */
static bool put_quoted(line_buf *line, const char *text, size_t n) {
    bool room = put_text(line, "\"");
    for (size_t i = 0; i < n && room;) {
        size_t bytes = utf8_char(text + i, n - i);
        if (bytes == 0) {
            room = put_text(line, UTF8_REPLACEMENT);
            i += utf8_broken(text + i, n - i);
            continue;
        }
        if (text[i] == '"' || text[i] == '\\') room = put_text(line, "\\");
        if (room) room = bytes == 1 ? put_clean(line, text + i, 1) : put(line, text + i, bytes);
        i += bytes;
    }
    return room && put_text(line, "\"");
}

/* People read seconds; a program that sorts the lines of several servers needs more. */
static void put_time(line_buf *line) {
    struct timespec now;
    struct tm tm;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    put(line, stamp, strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm));
    if (line->style == JSON) put_format(line, ".%03d", (int)(now.tv_nsec / 1000000));
    put_text(line, "Z");
}

static void open_line(line_buf *line, log_level level) {
    line->n = 0;
    if (atomic_load_explicit(&style, memory_order_relaxed) == UNKNOWN) log_set_format(LOG_AUTO);
    line->style = (line_style)atomic_load_explicit(&style, memory_order_relaxed);
    if (atomic_load_explicit(&bar_shown, memory_order_relaxed)) put_text(line, "\r\x1b[K");
    if (line->style == JSON) {
        put_text(line, "{\"time\":\"");
        put_time(line);
        put_format(line, "\",\"level\":\"%s\",\"message\":", levels[level].name);
        return;
    }
    if (line->style == JOURNAL) {
        put_format(line, "<%d>", levels[level].syslog);
    } else {
        put_time(line);
        put_text(line, " ");
    }
    if (line->style == COLOURED)
        put_format(line, "%s%s\x1b[0m ", levels[level].colour, levels[level].name);
    else put_format(line, "%s ", levels[level].name);
}

static void put_message(line_buf *line, const char *text, size_t n) {
    if (line->style == JSON) put_quoted(line, text, n);
    else put_clean(line, text, n);
}

/* One write per line keeps lines of several threads whole. */
static void close_line(line_buf *line) {
    if (line->style == JSON) line->text[line->n++] = '}';
    line->text[line->n++] = '\n';
    if (write(STDERR_FILENO, line->text, line->n) != (ssize_t)line->n)
        atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
}

static bool is_wanted(log_level level) {
    return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

void log_line(log_level level, const char *fmt, ...) {
    if (!is_wanted(level)) return;
    line_buf line;
    char text[TEXT_BYTES];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) return;
    open_line(&line, level);
    put_message(&line, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    close_line(&line);
}

/* ---- events ---- */

static bool put_value(line_buf *line, const log_field *field) {
    bool json = line->style == JSON;
    size_t n = field->text ? strnlen(field->text, VALUE_BYTES) : 0;
    switch (field->kind) {
    case LOG_A_TEXT:
        if (field->text == NULL) return put_text(line, json ? "null" : "-");
        return json ? put_quoted(line, field->text, n) : put_clean(line, field->text, n);
    case LOG_A_COUNT: return put_format(line, "%llu", (unsigned long long)field->count);
    case LOG_A_REAL:
        if (!isfinite(field->real)) return put_text(line, json ? "null" : "-");
        return put_format(line, "%.*f", field->digits, field->real);
    case LOG_A_BOOL: return put_text(line, field->count ? "true" : "false");
    }
    return false;
}

void log_event(log_level level, const char *event, const log_field *fields, size_t n) {
    if (!is_wanted(level)) return;
    line_buf line;
    open_line(&line, level);
    put_message(&line, event, strnlen(event, TEXT_BYTES - 1));
    for (size_t i = 0; i < n; i++) {
        size_t before = line.n;
        bool room = put_format(&line, line.style == JSON ? ",\"%s\":" : " %s=", fields[i].key) &&
                    put_value(&line, &fields[i]);
        if (!room) line.n = before; /* a field is whole or absent */
    }
    close_line(&line);
}

uint64_t log_dropped_lines(void) {
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}
