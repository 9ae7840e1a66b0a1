/* file.h - files mapped or read whole. Any thread. */
#ifndef FATHOM_FILE_H
#define FATHOM_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <sys/stat.h>

/* A descriptor of a regular file to read, -1 and errno otherwise: a FIFO, a socket, a device or
 * a directory in its place is ERR_BAD_FILE, which names the path, and never a wait. So is a file
 * that is not there or not for us; ERR_IO is what another try may not meet. `path` is seen from
 * dir_fd (AT_FDCWD: from here), flags (0 or O_NOFOLLOW) go to open(), *st is what fstat() says,
 * e may be NULL. */
int file_open_at(int dir_fd, const char *path, int flags, struct stat *st, err *e) WARN_UNUSED;

typedef struct {
    const uint8_t *data; /* read-only map; NULL when size is 0 */
    size_t size;
    int fd;
} file_map;
/* Regular files only, with the errors of file_open_at. */
int file_map_open(file_map *out, const char *path, err *e) WARN_UNUSED;
void file_map_close(file_map *m);
/* A text file of at most max_bytes into b. */
int file_read(buf *b, const char *path, size_t max_bytes, err *e) WARN_UNUSED;

#endif
