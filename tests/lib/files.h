/* files.h - temporary folders and byte files for tests. Every call aborts on failure. */
#ifndef FATHOM_TEST_FILES_H
#define FATHOM_TEST_FILES_H

#include <stddef.h>

typedef struct {
    char path[64];
} tmp_dir;

tmp_dir tmp_dir_create(void);
void tmp_dir_remove(const tmp_dir *dir); /* with all it holds */
void file_put(const char *dir, const char *name, const void *bytes, size_t n);
/* The caller frees; *n may be NULL. A 0 follows the last byte. */
char *file_get(const char *dir, const char *name, size_t *n);

/* Bytes directly before an unreadable page: reading one byte too far faults. */
typedef struct {
    char *data;
    void *map;
    size_t map_bytes;
} guarded;
guarded guard_copy(const void *bytes, size_t n);
void guard_free(guarded *copy);

#endif
