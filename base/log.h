/* log.h - one line per call to stderr.
 *
 * Any thread. A full disk never blocks the caller: a line is dropped and counted if the write
 * fails. */
#ifndef FATHOM_LOG_H
#define FATHOM_LOG_H

#include "base/lang.h"

typedef enum { LOG_ALERT, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;
void log_set_level(log_level max);
int log_level_find(const char *name, log_level *out) WARN_UNUSED; /* "alert|warn|info|debug" */

/* AUTO: lines of text; on a terminal the levels have colours; under systemd each line begins with
 * its level as <N>, and has no time, because the journal has its own. TEXT: the same anywhere.
 * JSON: an object a line, with "time", "level", "message" and the fields of an event. */
typedef enum { LOG_AUTO, LOG_TEXT, LOG_JSON } log_format;
void log_set_format(log_format format);
int log_format_find(const char *name, log_format *out) WARN_UNUSED; /* "auto|text|json" */

void log_line(log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A field of an event. Text: "key=value". */
typedef enum { LOG_A_TEXT, LOG_A_COUNT, LOG_A_REAL, LOG_A_BOOL } log_kind;
typedef struct {
    const char *key;
    log_kind kind;
    const char *text; /* NULL: none; "-" as text, null as JSON */
    uint64_t count;   /* BOOL: 0 or 1 */
    double real;
    int digits; /* of a REAL, after the point */
} log_field;
/* Logs an event: its name, then its fields. */
void log_event(log_level level, const char *event, const log_field *fields, size_t n);

/* Says whether a line that is redrawn stands on the terminal: log lines then erase it first. */
void log_over_bar(bool shown);
uint64_t log_dropped_lines(void);

#endif
