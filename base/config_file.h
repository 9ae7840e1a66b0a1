/* config_file.h - reads a file of options: flat YAML ("name: value") or INI ("name = value", with
 * sections).
 *
 *   # a comment
 *   max-rows: 64
 *   cors-origin:            # a list
 *     - https://one.example
 *     - https://two.example
 *   [bench engine]          # the lines that follow are for this command only
 *   served-name = 'a name'  # quotes keep blanks, '#' and an empty text
 *
 * Any thread. */
#ifndef FATHOM_CONFIG_FILE_H
#define FATHOM_CONFIG_FILE_H

#include "base/err.h"

typedef struct {
    const char *section; /* "" before the first */
    const char *name, *value;
    bool quoted; /* the value stood in quotes */
    unsigned line;
} config_entry;

/* Calls put for each value, in order, until it returns another number than 0. `text` holds n bytes
 * and a 0 after them; entries point into it, and it is changed. Returns what put returned, or -1
 * for a line that cannot be read; the message begins with the number of the line. */
int config_file_read(char *text, size_t n, int (*put)(void *ud, const config_entry *entry),
                     void *ud, err *e) WARN_UNUSED;

#endif
