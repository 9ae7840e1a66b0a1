/* published.h - the folders of tests/golden/families, changed in one place. Aborts on failure. */
#ifndef FATHOM_TEST_PUBLISHED_H
#define FATHOM_TEST_PUBLISHED_H

#include "model/model.h"
#include "tests/lib/weights.h"

typedef struct {
    const char *key, *value, *says;
} bad_key;

/* The family's config.json with a key set to a JSON value, or removed when value is NULL.
 * "init_values.std" is a key inside an object. The caller frees. */
char *published_edited(const char *family, const char *key, const char *value);
int published_parse(const char *family, const char *key, const char *value, model_plan *plan,
                    err *e);
/* Each row is refused with ERR_BAD_FILE, the file's name and the row's words. */
void published_refuses_keys(const char *family, const bad_key *rows, size_t n);
/* The plan after plan_write and plan_parse is the same. */
void published_reads_back(const model_plan *plan);
/* A temporary copy of config.json and model.safetensors. */
tmp_dir published_copy(const char *family);
/* Opening the folder fails with these words. */
void published_refuses_folder(const char *dir, const char *says);
/* The copy's tensor loses its name (shape NULL) or gets a shape; opening it fails with the words.
 */
typedef struct {
    const char *tensor, *shape, *says;
} bad_tensor;
void published_refuses_tensors(const char *family, const bad_tensor *rows, size_t n);

#endif
