/* files.c - temporary folders, byte files, and bytes before an unreadable page. */
#include "tests/lib/files.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void must(int ok, const char *what) {
    if (ok) return;
    perror(what);
    abort();
}

tmp_dir tmp_dir_create(void) {
    tmp_dir dir = {"/tmp/fathom-test-XXXXXX"};
    must(mkdtemp(dir.path) != NULL, "mkdtemp");
    return dir;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where) {
    (void)st, (void)type, (void)where;
    return remove(path);
}

void tmp_dir_remove(const tmp_dir *dir) {
    must(nftw(dir->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS) == 0, dir->path);
}

void file_put(const char *dir, const char *name, const void *bytes, size_t n) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    must(file != NULL, path);
    must(fwrite(bytes, 1, n, file) == n && fclose(file) == 0, path);
}

char *file_get(const char *dir, const char *name, size_t *n) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "rb");
    must(file != NULL && fseek(file, 0, SEEK_END) == 0, path);
    long size = ftell(file);
    must(size >= 0 && fseek(file, 0, SEEK_SET) == 0, path);
    char *bytes = calloc(1, (size_t)size + 1);
    must(bytes && fread(bytes, 1, (size_t)size, file) == (size_t)size && fclose(file) == 0, path);
    if (n) *n = (size_t)size;
    return bytes;
}

guarded guard_copy(const void *bytes, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
    guarded copy = {.map_bytes = room + page};
    copy.map =
        mmap(NULL, copy.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(copy.map != MAP_FAILED, "mmap");
    must(mprotect((char *)copy.map + room, page, PROT_NONE) == 0, "mprotect");
    copy.data = (char *)copy.map + room - n;
    if (n) memcpy(copy.data, bytes, n);
    return copy;
}

void guard_free(guarded *copy) {
    munmap(copy->map, copy->map_bytes);
    *copy = (guarded){0};
}
