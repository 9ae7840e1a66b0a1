/* safetensors_internal.h - the checked header of a safetensors file.
 *
 * The file: 8 bytes little-endian header length, the header (a JSON object from tensor name to
 * dtype, shape and byte range), then the data. Nothing here reads the data. */
#ifndef FATHOM_SAFETENSORS_INTERNAL_H
#define FATHOM_SAFETENSORS_INTERNAL_H

#include "base/arena.h"
#include "model/model.h"

enum {
    MODEL_ST_MAX_HEADER = 100000000, /* bytes, the format's own limit */
    MODEL_ST_MAX_NAME = 256,
    MODEL_ST_MAX_RANK = 8, /* Fathom's tensors have at most 2; unused buffers may have more */
};

typedef struct {
    const char *name;  /* inside the index's arena */
    const char *dtype; /* "F32"; a static string */
    uint32_t bits;     /* of one value */
    uint32_t rank;
    uint64_t shape[MODEL_ST_MAX_RANK];
    uint64_t n_values;
    uint64_t first, bytes; /* within the file */
} model__st_entry;

typedef struct {
    model__st_entry *entries; /* sorted by name */
    size_t n;
    arena names;
    char n_loops[16]; /* __metadata__.n_loops of golden cases, "" if absent */
} model__st_index;

/* Parses the header of a file of `size` bytes at `bytes`. Checks that every range lies inside the
 * file and that the ranges cover the data exactly. `what` is the file's name for messages. On
 * failure (ERR_BAD_FILE, ERR_NO_MEMORY) *out is empty. */
int model__st_parse(model__st_index *out, const uint8_t *bytes, size_t size, const char *what,
                    err *e) WARN_UNUSED;
void model__st_deinit(model__st_index *index);
const model__st_entry *model__st_find(const model__st_index *index,
                                      const char *name); /* may be NULL */
/* "[2, 3]" into out; cut to fit. */
void model__st_shape_text(char *out, size_t n, const uint64_t *shape, uint32_t rank);

#endif
