/* folder.c - opens a model folder: config.json and one or more safetensors files, mapped.
 *
 * Checks names, shapes and dtypes of the weights, and by folder_values.c a sample of the values.
 * After model_open, every tensor has the shape the configuration gives it. */
#include "base/log.h"
#include "base/machine.h"
#include "base/size.h"
#include "model/folder_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- tensors ---- */

static int by_name(const void *one, const void *other) {
    return strcmp(((const placed *)one)->entry->name, ((const placed *)other)->entry->name);
}

static int merge_tensors(model_folder *folder, err *e) {
    size_t n = 0;
    for (size_t i = 0; i < folder->n_files; i++)
        n += folder->files[i].index.n;
    folder->tensors = array_new(n, sizeof *folder->tensors);
    if (folder->tensors == NULL) return model__folder_no_memory(e, folder->dir);
    for (size_t i = 0; i < folder->n_files; i++) {
        for (size_t k = 0; k < folder->files[i].index.n; k++) {
            folder->tensors[folder->n_tensors++] =
                (placed){&folder->files[i].index.entries[k], (uint32_t)i, false};
        }
    }
    qsort(folder->tensors, n, sizeof *folder->tensors, by_name);
    for (size_t i = 1; i < n; i++) {
        const placed *left = &folder->tensors[i - 1], *right = &folder->tensors[i];
        if (strcmp(left->entry->name, right->entry->name) == 0) {
            return err_set(e, ERR_BAD_FILE, left->entry->name, "tensor %s is in both %s and %s",
                           left->entry->name, folder->files[left->file].name,
                           folder->files[right->file].name);
        }
    }
    return 0;
}

static placed *find(const model_folder *folder, const char *name) {
    model__st_entry entry = {.name = name};
    placed key = {.entry = &entry};
    if (folder->n_tensors == 0) return NULL;
    return bsearch(&key, folder->tensors, folder->n_tensors, sizeof *folder->tensors, by_name);
}

static bool has_tensor(const void *ud, const char *name) {
    return find(ud, name) != NULL;
}

typedef struct {
    model_folder *folder;
    err *err;
} checker;

static int keep_wanted(model_folder *folder, const model__want *want, const placed *tensor,
                       err *e) {
    if (folder->n_wanted == folder->cap_wanted) {
        size_t cap = folder->cap_wanted ? 2 * folder->cap_wanted : 256;
        wanted *more = realloc(folder->wanted, cap * sizeof *more);
        if (more == NULL) return model__folder_no_memory(e, folder->dir);
        folder->wanted = more;
        folder->cap_wanted = cap;
    }
    folder->wanted[folder->n_wanted++] = (wanted){.place = want->place,
                                                  .in = tensor,
                                                  .first_row = want->first_row,
                                                  .rows = want->shape[0],
                                                  .cols = want->shape[1],
                                                  .rank = want->rank};
    return 0;
}

static int check_want(void *ud, const model__want *want) {
    checker *check = ud;
    model_folder *folder = check->folder;
    placed *tensor = find(folder, want->name);
    char expected[64], found[160];
    model__shape shape = model__file_shape(want);
    model__st_shape_text(expected, sizeof expected, shape.sizes, shape.rank);
    if (tensor == NULL) {
        if (want->optional) return 0;
        return err_set(
            check->err, ERR_BAD_FILE, want->name, "%s: tensor %s is missing, expected %s",
            folder->n_files == 1 ? folder->files[0].name : folder->dir, want->name, expected);
    }
    const model__st_entry *entry = tensor->entry;
    const char *file = folder->files[tensor->file].name;
    if (entry->rank != shape.rank ||
        memcmp(entry->shape, shape.sizes, shape.rank * sizeof shape.sizes[0]) != 0) {
        model__st_shape_text(found, sizeof found, entry->shape, entry->rank);
        return err_set(check->err, ERR_BAD_FILE, want->name,
                       "%s: tensor %s has shape %s, expected %s", file, want->name, found,
                       expected);
    }
    model_dtype dtype;
    if (!model__float_dtype(entry, &dtype)) {
        return err_set(check->err, ERR_BAD_FILE, want->name,
                       "%s: tensor %s has dtype %s, expected F32, F16 or BF16", file, want->name,
                       entry->dtype);
    }
    bool seen = tensor->used;
    tensor->used = true;
    if (want->copy) {
        folder->copy = tensor;
        return model__check_copy(folder, SAMPLES, check->err);
    }
    if (want->place.role == TENSOR_EMBED) folder->embedding = tensor;
    uint64_t values = want->shape[0] * want->shape[1];
    folder->parts[want->part].params += values;
    folder->parts[want->part].bytes += values * model_dtype_bytes(dtype);
    if (keep_wanted(folder, want, tensor, check->err) != 0) return -1;
    return seen ? 0 : model__check_sample(folder, tensor, check->err);
}

static int by_place(const void *one, const void *other) {
    const tensor_place *left = &((const wanted *)one)->place,
                       *right = &((const wanted *)other)->place;
    if (left->stage != right->stage) return left->stage < right->stage ? -1 : 1;
    if (left->layer != right->layer) return left->layer < right->layer ? -1 : 1;
    if (left->role != right->role) return left->role < right->role ? -1 : 1;
    return (left->index > right->index) - (left->index < right->index);
}

static const wanted *find_place(const model_folder *folder, tensor_place place) {
    wanted key = {.place = place};
    if (folder->n_wanted == 0) return NULL;
    return bsearch(&key, folder->wanted, folder->n_wanted, sizeof *folder->wanted, by_place);
}

static void warn_of_extra(const model_folder *folder) {
    size_t n = 0;
    const placed *first = NULL;
    for (size_t i = 0; i < folder->n_tensors; i++) {
        const placed *tensor = &folder->tensors[i];
        if (tensor->used || strncmp(tensor->entry->name, "freqs_cis", 9) == 0) continue;
        if (first == NULL) first = tensor;
        n++;
    }
    if (n) {
        log_line(LOG_WARN, "%s: %zu tensors are not used by this configuration, among them %s",
                 folder->dir, n, first->entry->name);
    }
}

/* ---- open and close ---- */

/* Starts reading ahead, unless the weights exceed half of the memory. */
static void read_ahead(const model_folder *folder) {
    machine here;
    machine_read(&here);
    if (model_bytes(folder) > machine_memory(&here) / 2) return;
    for (size_t i = 0; i < folder->n_files; i++) {
        (void)madvise((void *)(uintptr_t)folder->files[i].map.data, folder->files[i].map.size,
                      MADV_WILLNEED);
    }
}

int model_unchanged(const model_folder *folder, err *e) {
    for (size_t i = 0; i < folder->n_files; i++) {
        const weight_file *file = &folder->files[i];
        struct stat st;
        if (fstat(file->map.fd, &st) != 0)
            continue; /* an unreachable file system is no proof of a change */
        if ((uint64_t)st.st_size == file->map.size && st.st_mtim.tv_sec == file->changed.tv_sec &&
            st.st_mtim.tv_nsec == file->changed.tv_nsec) {
            continue;
        }
        return err_set(e, ERR_BAD_FILE, NULL,
                       "%s: changed in place while it was in use; replace models by rename",
                       file->name);
    }
    return 0;
}

static int check_folder(const char *dir, err *e) {
    struct stat st;
    if (stat(dir, &st) != 0) {
        return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_BAD_FILE, "model",
                       "model folder %s: %s", dir, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        size_t n = strlen(dir);
        bool torch = n > 3 && strcmp(dir + n - 3, ".pt") == 0;
        return err_set(e, ERR_BAD_FILE, "model", "%s: expected a model folder, found a file%s", dir,
                       torch ? " (tools/convert_openmythos.py makes a folder of it)" : "");
    }
    return 0;
}

int model_open(model_folder **out, const char *dir, err *e) {
    *out = NULL;
    if (check_folder(dir, e) != 0) return -1;
    model_folder *folder = array_new(1, sizeof *folder);
    if (folder == NULL) return model__folder_no_memory(e, dir);
    folder->dir = strdup(dir);
    if (folder->dir == NULL) {
        model__folder_no_memory(e, dir);
        goto fail;
    }
    if (model__read_config(folder, e) != 0 || model__open_files(folder, e) != 0 ||
        merge_tensors(folder, e) != 0)
        goto fail;
    const model_family *family = folder->plan.family;
    if (family->refine) family->refine(&folder->plan, has_tensor, folder);
    plan_derive(&folder->plan);
    checker check = {folder, e};
    if (model__wants(&folder->plan, check_want, &check) != 0) goto fail;
    qsort(folder->wanted, folder->n_wanted, sizeof *folder->wanted, by_place);
    if (model_unchanged(folder, e) != 0) goto fail;
    warn_of_extra(folder);
    read_ahead(folder);
    *out = folder;
    return 0;
fail:
    model_close(folder);
    return -1;
}

void model_close(model_folder *folder) {
    if (folder == NULL) return;
    for (size_t i = 0; i < folder->n_files; i++) {
        model__st_deinit(&folder->files[i].index);
        file_map_close(&folder->files[i].map);
        free(folder->files[i].name);
    }
    free(folder->wanted);
    free(folder->tensors);
    free(folder->files);
    free(folder->dir);
    free(folder);
}

const model_plan *model_plan_of(const model_folder *folder) {
    return &folder->plan;
}

const char *model_dir(const model_folder *folder) {
    return folder->dir;
}

bool model_find(const model_folder *folder, tensor_place place, model_tensor *out) {
    const wanted *found = find_place(folder, place);
    *out = (model_tensor){0};
    if (found == NULL || !model__fill_tensor(folder, found->in, out)) return false;
    size_t value = model_dtype_bytes(out->dtype);
    out->data = (const uint8_t *)out->data + found->first_row * found->cols * value;
    out->rank = found->rank;
    out->shape[0] = found->rows;
    if (found->rank > 1) out->shape[1] = found->cols;
    out->n_values = (size_t)(found->rows * found->cols);
    out->bytes = out->n_values * value;
    return true;
}

bool model_find_named(const model_folder *folder, const char *name, model_tensor *out) {
    const placed *found = find(folder, name);
    *out = (model_tensor){0};
    return found && model__fill_tensor(folder, found, out);
}

const char *model_tensor_name(const model_folder *folder, tensor_place place) {
    const wanted *found = find_place(folder, place);
    return found ? found->in->entry->name : "?";
}

void model_parts(const model_folder *folder, model_part_size out[MODEL_PARTS]) {
    memcpy(out, folder->parts, sizeof folder->parts);
}

uint64_t model_bytes(const model_folder *folder) {
    uint64_t sum = 0;
    for (size_t i = 0; i < MODEL_PARTS; i++)
        sum += folder->parts[i].bytes;
    return sum;
}

uint64_t model_params(const model_folder *folder) {
    uint64_t sum = 0;
    for (size_t i = 0; i < MODEL_PARTS; i++)
        sum += folder->parts[i].params;
    return sum;
}

const char *model_part_name(model_part part) {
    static const char *const names[MODEL_PARTS] = {
        [MODEL_PART_EMBED] = "embedding and head", [MODEL_PART_ATTENTION] = "attention",
        [MODEL_PART_DENSE] = "dense FFN",          [MODEL_PART_EXPERTS] = "routed experts",
        [MODEL_PART_SHARED] = "shared experts",    [MODEL_PART_VALUES] = "value embeddings",
        [MODEL_PART_OTHER] = "norms and loop",
    };
    return (unsigned)part < MODEL_PARTS ? names[part] : "?";
}
