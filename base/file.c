/* file.c - regular files, mapped or read whole. */
#include "base/file.h"
#include "base/mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* O_NONBLOCK keeps open() from hanging on a FIFO without a writer. */
int file_open_at(int dir_fd, const char *path, int flags, struct stat *st, err *e) {
    int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags);
    int why = errno;
    if (fd >= 0 && fstat(fd, st) != 0) {
        why = errno;
        close(fd);
        fd = -1;
    }
    if (fd >= 0 && S_ISREG(st->st_mode)) return fd;
    if (fd >= 0) close(fd);
    /* ENXIO: a socket; ELOOP with O_NOFOLLOW: a link */
    bool other = fd >= 0 || why == ENXIO || (why == ELOOP && (flags & O_NOFOLLOW));
    bool ours = why == EMFILE || why == ENFILE || why == ENOMEM || why == EIO || why == EINTR;
    err_set(e, other || !ours ? ERR_BAD_FILE : ERR_IO, NULL, "%s: %s", path,
            other ? "expected a regular file, found something else" : strerror(why));
    errno = fd >= 0 ? EINVAL : why;
    return -1;
}

static int open_regular(const char *path, struct stat *st, err *e) {
    return file_open_at(AT_FDCWD, path, 0, st, e);
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
        if (mapped_note(data, (size_t)st.st_size, path, e) != 0) {
            munmap(data, (size_t)st.st_size);
            close(fd);
            return -1;
        }
        out->data = data;
    }
    out->size = (size_t)st.st_size;
    out->fd = fd;
    return 0;
}

void file_map_close(file_map *map) {
    if (map->data) {
        mapped_forget(map->data);
        munmap((void *)(uintptr_t)map->data, map->size);
    }
    if (map->fd >= 0) close(map->fd);
    *map = (file_map){.fd = -1};
}

int file_read(buf *out, const char *path, size_t max_bytes, err *e) {
    struct stat st;
    int fd = open_regular(path, &st, e);
    if (fd < 0) return -1;
    int rc = -1;
    for (;;) {
        if (buf_reserve(out, 64 << 10) != 0) {
            err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory while reading", path);
            break;
        }
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            err_set(e, ERR_IO, NULL, "%s: %s", path, strerror(errno));
            break;
        }
        if (n == 0) {
            out->data[out->len] = 0;
            rc = 0;
            break;
        }
        out->len += (size_t)n;
        if (out->len > max_bytes) {
            err_set(e, ERR_BAD_FILE, NULL, "%s: larger than the limit of %zu bytes", path,
                    max_bytes);
            break;
        }
    }
    close(fd);
    return rc;
}

void file_parent(buf *out, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    if (n == 0) buf_puts(out, ".");
    else buf_append(out, path, n > 1 ? n - 1 : 1);
}

bool file_program_dir(char *out, size_t room) {
    ssize_t n = readlink("/proc/self/exe", out, room - 1);
    if (n <= 0 || (size_t)n >= room - 1) return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (slash == NULL) return false;
    *slash = 0;
    return true;
}
