/* file.h - files mapped or read whole. Any thread. */
#ifndef FATHOM_FILE_H
#define FATHOM_FILE_H

#include "base/buf.h"
#include "base/err.h"

typedef struct {
    const uint8_t *data; /* read-only map; NULL when size is 0 */
    size_t size;
    int fd;
} file_map;
/* Regular files only (no FIFO, no directory). ERR_IO names the path. */
int file_map_open(file_map *out, const char *path, err *e) WARN_UNUSED;
void file_map_close(file_map *m);
/* A text file of at most max_bytes into b. */
int file_read(buf *b, const char *path, size_t max_bytes, err *e) WARN_UNUSED;

#endif
