/* folder_values.c - checks of the weights' values: finite numbers, and a second copy of the
 * embedding that equals it; hashes of them. */
#include "base/hash.h"
#include "model/folder_internal.h"

#include <math.h>
#include <string.h>

/* values per place, so a place touches one page; bytes per place of a hash */
enum { SAMPLE_VALUES = 64, HASH_BYTES = 64 };

bool model__float_dtype(const model__st_entry *entry, model_dtype *out) {
    for (int i = DTYPE_F32; i <= DTYPE_BF16; i++) {
        if (strcmp(entry->dtype, model_dtype_name((model_dtype)i)) == 0)
            return *out = (model_dtype)i, true;
    }
    return false;
}

bool model__fill_tensor(const model_folder *folder, const placed *tensor, model_tensor *out) {
    const model__st_entry *entry = tensor->entry;
    *out = (model_tensor){0};
    if (entry->rank > ARRAY_LEN(out->shape) || !model__float_dtype(entry, &out->dtype))
        return false;
    out->data = folder->files[tensor->file].map.data + entry->first;
    out->rank = entry->rank;
    memcpy(out->shape, entry->shape, entry->rank * sizeof entry->shape[0]);
    out->n_values = (size_t)entry->n_values;
    out->bytes = (size_t)entry->bytes;
    return true;
}

static int check_range(const model_folder *folder, const placed *tensor, const model_tensor *data,
                       size_t first, size_t n, err *e) {
    float values[SAMPLE_VALUES];
    model_tensor_read(data, first, n, values);
    for (size_t k = 0; k < n; k++) {
        if (isfinite(values[k])) continue;
        return err_set(e, ERR_BAD_FILE, tensor->entry->name,
                       "%s: tensor %s: value %zu is %s, expected a finite number",
                       folder->files[tensor->file].name, tensor->entry->name, first + k,
                       isnan(values[k]) ? "NaN" : "infinite");
    }
    return 0;
}

/* Checks a few values of each tensor, spread from its first to its last. At a bounded cost this
 * finds a file full of NaN, or a model saved after its training diverged. */
int model__check_sample(const model_folder *folder, const placed *tensor, err *e) {
    model_tensor data;
    if (!model__fill_tensor(folder, tensor, &data)) return 0;
    size_t n = data.n_values < SAMPLE_VALUES ? data.n_values : SAMPLE_VALUES;
    size_t last = data.n_values - n; /* first value of the last place */
    size_t places = last == 0 ? 1 : SAMPLES;
    for (size_t i = 0; i < places; i++) {
        size_t first = i + 1 == places ? last : last / (places - 1) * i;
        if (check_range(folder, tensor, &data, first, n, e) != 0) return -1;
    }
    return 0;
}

/* ---- a second copy of the embedding ---- */

static int compare_range(const model_folder *folder, const model_tensor *copy,
                         const model_tensor *embedding, size_t first, size_t n, err *e) {
    float ours[SAMPLE_VALUES], theirs[SAMPLE_VALUES];
    model_tensor_read(copy, first, n, ours);
    model_tensor_read(embedding, first, n, theirs);
    for (size_t k = 0; k < n; k++) {
        if (ours[k] == theirs[k]) continue;
        size_t row = (first + k) / (size_t)embedding->shape[1];
        const char *name = folder->copy->entry->name;
        return err_set(e, ERR_BAD_FILE, name,
                       "%s: tensor %s differs from %s at row %zu; the configuration ties them, so "
                       "they must be equal",
                       folder->files[folder->copy->file].name, name, folder->embedding->entry->name,
                       row);
    }
    return 0;
}

int model__check_copy(const model_folder *folder, size_t places, err *e) {
    model_tensor copy, embedding;
    if (folder->copy == NULL || !model__fill_tensor(folder, folder->copy, &copy) ||
        !model__fill_tensor(folder, folder->embedding, &embedding))
        return 0;
    size_t n_places = (copy.n_values + SAMPLE_VALUES - 1) / SAMPLE_VALUES;
    if (places == 0 || places > n_places) places = n_places;
    for (size_t i = 0; i < places; i++) {
        size_t place = i + 1 == places ? n_places - 1 : n_places / places * i;
        size_t first = place * SAMPLE_VALUES, left = copy.n_values - first;
        size_t n = left < SAMPLE_VALUES ? left : SAMPLE_VALUES;
        if (compare_range(folder, &copy, &embedding, first, n, e) != 0) return -1;
    }
    return 0;
}

/* ---- the whole ---- */

int model_check(const model_folder *folder, err *e) {
    for (size_t i = 0; i < folder->n_tensors; i++) {
        const placed *tensor = &folder->tensors[i];
        model_tensor data;
        if (!tensor->used || !model__fill_tensor(folder, tensor, &data)) continue;
        for (size_t first = 0; first < data.n_values; first += SAMPLE_VALUES) {
            size_t n =
                data.n_values - first < SAMPLE_VALUES ? data.n_values - first : SAMPLE_VALUES;
            if (check_range(folder, tensor, &data, first, n, e) != 0) return -1;
        }
    }
    return model__check_copy(folder, 0, e);
}

/* ---- hashes ---- */

uint64_t model_tensor_hash(uint64_t seed, const model_tensor *tensor) {
    seed = hash_seeded(seed, &tensor->dtype, sizeof tensor->dtype);
    seed = hash_seeded(seed, tensor->shape, tensor->rank * sizeof tensor->shape[0]);
    size_t n = tensor->bytes < HASH_BYTES ? tensor->bytes : HASH_BYTES;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t at = (tensor->bytes - n) / (SAMPLES - 1) * i;
        seed = hash_seeded(seed, (const uint8_t *)tensor->data + at, n);
    }
    return seed;
}

uint64_t model_fingerprint(const model_folder *folder) {
    uint64_t hash = 0;
    for (size_t i = 0; i < folder->n_wanted; i++) {
        const wanted *want = &folder->wanted[i];
        model_tensor tensor;
        if (want->in == NULL || !model__fill_tensor(folder, want->in, &tensor)) continue;
        hash = hash_seeded(hash, &want->place, sizeof want->place);
        hash = model_tensor_hash(hash, &tensor);
    }
    return hash;
}
