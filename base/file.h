/* file.h - files mapped or read whole. Any thread. */
#ifndef FATHOM_FILE_H
#define FATHOM_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <sys/stat.h>

/* Opens a regular file for reading and returns its descriptor, or -1 with errno set. Never waits.
 * ERR_BAD_FILE: the file is missing or not accessible, or it is a FIFO, socket, device or
 * directory. ERR_IO: another try may succeed. `path` is relative to dir_fd (AT_FDCWD: the working
 * directory); flags (0 or O_NOFOLLOW) go to open(); *st is filled by fstat(); e may be NULL. */
int file_open_at(int dir_fd, const char *path, int flags, struct stat *st, err *e) WARN_UNUSED;

typedef struct {
    const uint8_t *data; /* read-only map; NULL when size is 0 */
    size_t size;
    int fd;
} file_map;
/* Regular files only, with the errors of file_open_at. */
int file_map_open(file_map *out, const char *path, err *e) WARN_UNUSED;
void file_map_close(file_map *map);
/* Appends a file of at most max_bytes to out. */
int file_read(buf *out, const char *path, size_t max_bytes, err *e) WARN_UNUSED;
/* Appends the folder that holds the last part of a path, without a slash behind it; "." and "/"
 * where the path has no other. */
void file_parent(buf *out, const char *path);
/* Writes the directory of the running program, without the last slash; false if it is unknown. */
bool file_program_dir(char *out, size_t room) WARN_UNUSED;

#endif
