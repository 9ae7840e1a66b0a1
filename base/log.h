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
void log_line(log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
uint64_t log_dropped_lines(void);

#endif
