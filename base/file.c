/* file.c - regular files, mapped or read whole. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
