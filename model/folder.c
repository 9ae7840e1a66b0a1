/* folder.c - opens a model folder: config.json and one or more safetensors files, mapped.
 *
 * All checks of the weights are here: names, shapes, dtypes, and a sample of the values.
 * Past model_open, a tensor is what the configuration says it is. */
#include "base/file.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/model_json.h"
#include "base/size.h"
#include "model/model_internal.h"
#include "model/safetensors_internal.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
    MAX_SHARDS = 4096,
    MAX_CONFIG_BYTES = 1 << 20,
    MAX_INDEX_BYTES = 64 << 20,
    SAMPLES = 16,      /* places looked at in a large tensor, */
    SAMPLE_VALUES = 64 /* and values at each: one page touched per place */
};

typedef struct {
    char *name; /* of the file, as messages show it; owned */
    file_map map;
    model__st_index index;
    struct timespec changed; /* mtime when mapped */
} weight_file;

typedef struct {
    const model__st_entry *entry;
    uint32_t file;
    bool used;
} placed;

typedef struct { /* a tensor of the plan */
    tensor_place place;
    const placed *in;
    uint64_t first_row, rows, cols;
    uint32_t rank;
} wanted;

struct model_folder {
    model_plan plan;
    char *dir;
    weight_file *files;
    size_t n_files;
    placed *tensors; /* of all files, sorted by name */
    size_t n_tensors;
    wanted *wanted; /* sorted by place */
    size_t n_wanted, cap_wanted;
    model_part_size parts[MODEL_PARTS];
};

/* A file that cannot be read is a model that cannot be loaded: exit status 2. */
static int unreadable(err *e, const err *why) {
    return err_set(e, why->code == ERR_IO ? ERR_BAD_FILE : why->code, NULL, "%s", why->msg);
}

static int no_memory(err *e, const char *dir) {
    return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory opening the model", dir);
}

/* dir/name, NULL when out of memory. The caller frees. */
static char *path_of(const char *dir, const char *name) {
    buf b = {0};
    buf_printf(&b, "%s/%s", dir, name);
    if (b.failed) buf_deinit(&b);
    return b.data;
}

/* ---- files ---- */

static int read_json_file(json_t **out, const char *path, size_t max_bytes, err *e) {
    const json_limits limits = {.max_bytes = max_bytes, .max_depth = 8, .max_structural = 2000000};
    *out = NULL;
    buf text = {.max = max_bytes + (1 << 20)};
    err why = {0};
    int rc = file_read(&text, path, max_bytes, &why);
    if (rc == 0) rc = model_json_parse(out, text.data, text.len, &limits, path, &why);
    buf_deinit(&text);
    if (rc == 0) return 0;
    return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_BAD_FILE, NULL, "%s",
                   why.msg);
}

static int read_config(model_folder *m, err *e) {
    char *path = path_of(m->dir, "config.json");
    if (path == NULL) return no_memory(e, m->dir);
    buf text = {.max = MAX_CONFIG_BYTES + (1 << 20)};
    err why = {0};
    int rc = file_read(&text, path, MAX_CONFIG_BYTES, &why);
    if (rc != 0) unreadable(e, &why);
    else rc = plan_parse(&m->plan, text.data, text.len, path, e);
    buf_deinit(&text);
    free(path);
    return rc;
}

/* Maps one file and reads its header. steal_path is owned by m from here on. */
static int add_file(model_folder *m, char *steal_path, err *e) {
    weight_file *f = &m->files[m->n_files++];
    *f = (weight_file){.name = steal_path, .map = {.fd = -1}};
    if (steal_path == NULL) return no_memory(e, m->dir);
    err why = {0};
    if (file_map_open(&f->map, f->name, &why) != 0) return unreadable(e, &why);
    struct stat st;
    if (fstat(f->map.fd, &st) != 0) {
        return err_set(e, ERR_BAD_FILE, NULL, "%s: %s", f->name, strerror(errno));
    }
    f->changed = st.st_mtim;
    return model__st_parse(&f->index, f->map.data, f->map.size, f->name, e);
}

/* ---- shards ---- */

static bool lies_in(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || n == 1);
}

/* The hub's cache keeps files in blobs/ and links to them from snapshots/REVISION/. */
static bool lies_in_blobs(const model_folder *m, const char *path) {
    char *name = path_of(m->dir, "../../blobs"), *blobs = name ? realpath(name, NULL) : NULL;
    bool in = blobs && lies_in(path, blobs);
    free(blobs);
    free(name);
    return in;
}

/* A shard's name comes from a file: it may name a file of this folder and nothing else,
 * also when followed through links, but for those of the hub's cache. */
static int check_shard_name(const model_folder *m, const char *name, const char *path, err *e) {
    if (name[0] == 0 || name[0] == '.' || strchr(name, '/') || strlen(name) > 255) {
        return err_set(
            e, ERR_BAD_FILE, "weight_map",
            "%s: model.safetensors.index.json names the file \"%.60s\", expected a plain "
            "file name in the folder",
            m->dir, name);
    }
    char *folder = realpath(m->dir, NULL), *target = realpath(path, NULL);
    int why = errno, rc = 0;
    if (folder == NULL || target == NULL) {
        rc = err_set(e, why == ENOMEM ? ERR_NO_MEMORY : ERR_BAD_FILE, "weight_map", "%s: %s", path,
                     strerror(why));
    } else if (!lies_in(target, folder) && !lies_in_blobs(m, target)) {
        rc = err_set(e, ERR_BAD_FILE, "weight_map",
                     "%s: the link leads out of the model folder; expected the file itself", path);
    }
    free(folder);
    free(target);
    return rc;
}

static int file_index(const model_folder *m, const char *name) {
    for (size_t i = 0; i < m->n_files; i++) {
        const char *slash = m->files[i].name ? strrchr(m->files[i].name, '/') : NULL;
        if (slash && strcmp(slash + 1, name) == 0) return (int)i;
    }
    return -1;
}

static int add_shard(model_folder *m, const char *name, err *e) {
    if (m->n_files == MAX_SHARDS) {
        return err_set(e, ERR_BAD_FILE, "weight_map", "%s: more than %d shards", m->dir,
                       MAX_SHARDS);
    }
    char *path = path_of(m->dir, name);
    if (path == NULL) return no_memory(e, m->dir);
    if (check_shard_name(m, name, path, e) != 0) {
        free(path);
        return -1;
    }
    return add_file(m, path, e);
}

/* Opens every file that weight_map names; each tensor must be in the file it names. */
static int add_shards(model_folder *m, const json_t *root, const char *path, err *e) {
    json_t *map = json_object_get(root, "weight_map"), *file;
    const char *tensor, *last = "";
    int at = -1;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return err_set(e, ERR_BAD_FILE, "weight_map", "%s: weight_map is missing or empty", path);
    }
    m->files = array_new(MAX_SHARDS, sizeof *m->files);
    if (m->files == NULL) return no_memory(e, m->dir);
    json_object_foreach(map, tensor, file) {
        const char *name = json_string_value(file);
        if (name == NULL) {
            return err_set(e, ERR_BAD_FILE, "weight_map",
                           "%s: weight_map \"%.60s\" is no file name", path, tensor);
        }
        if (strcmp(name, last) != 0) at = file_index(m, name); /* shards come in runs */
        if (at < 0) {
            if (add_shard(m, name, e) != 0) return -1;
            at = (int)m->n_files - 1;
        }
        last = name;
        if (model__st_find(&m->files[at].index, tensor) == NULL) {
            return err_set(e, ERR_BAD_FILE, "weight_map",
                           "%s: tensor %.80s is not in %s, where weight_map says it is", path,
                           tensor, name);
        }
    }
    return 0;
}

static int open_shards(model_folder *m, const char *path, err *e) {
    json_t *root;
    if (read_json_file(&root, path, MAX_INDEX_BYTES, e) != 0) return -1;
    int rc = add_shards(m, root, path, e);
    json_decref(root);
    return rc;
}

static bool has_bin(const model_folder *m) {
    static const char *const names[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    bool there = false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = path_of(m->dir, names[i]);
        struct stat st;
        there |= path && stat(path, &st) == 0;
        free(path);
    }
    return there;
}

static int open_files(model_folder *m, err *e) {
    char *one = path_of(m->dir, "model.safetensors");
    char *many = path_of(m->dir, "model.safetensors.index.json");
    struct stat st;
    int rc = -1;
    if (one == NULL || many == NULL) {
        no_memory(e, m->dir);
    } else if (lstat(one, &st) == 0) {
        m->files = array_new(1, sizeof *m->files);
        if (m->files == NULL) {
            no_memory(e, m->dir);
        } else {
            rc = add_file(m, one, e);
            one = NULL;
        }
    } else if (lstat(many, &st) == 0) {
        rc = open_shards(m, many, e);
    } else {
        bool denied = errno != ENOENT;
        err_set(e, ERR_BAD_FILE, NULL,
                "%s: holds neither model.safetensors nor model.safetensors.index.json%s%s", m->dir,
                denied ? " that can be read" : "",
                has_bin(m) ? " (tools/convert_bin.py makes them of pytorch_model.bin)" : "");
    }
    free(one);
    free(many);
    return rc;
}

/* ---- tensors ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const placed *)a)->entry->name, ((const placed *)b)->entry->name);
}

static int merge_tensors(model_folder *m, err *e) {
    size_t n = 0;
    for (size_t i = 0; i < m->n_files; i++)
        n += m->files[i].index.n;
    m->tensors = array_new(n, sizeof *m->tensors);
    if (m->tensors == NULL) return no_memory(e, m->dir);
    for (size_t i = 0; i < m->n_files; i++) {
        for (size_t k = 0; k < m->files[i].index.n; k++) {
            m->tensors[m->n_tensors++] =
                (placed){&m->files[i].index.entries[k], (uint32_t)i, false};
        }
    }
    qsort(m->tensors, n, sizeof *m->tensors, by_name);
    for (size_t i = 1; i < n; i++) {
        const placed *a = &m->tensors[i - 1], *b = &m->tensors[i];
        if (strcmp(a->entry->name, b->entry->name) == 0) {
            return err_set(e, ERR_BAD_FILE, a->entry->name, "tensor %s is in both %s and %s",
                           a->entry->name, m->files[a->file].name, m->files[b->file].name);
        }
    }
    return 0;
}

static placed *find(const model_folder *m, const char *name) {
    model__st_entry entry = {.name = name};
    placed key = {.entry = &entry};
    if (m->n_tensors == 0) return NULL;
    return bsearch(&key, m->tensors, m->n_tensors, sizeof *m->tensors, by_name);
}

static bool float_dtype(const model__st_entry *t, model_dtype *out) {
    for (int d = DTYPE_F32; d <= DTYPE_BF16; d++) {
        if (strcmp(t->dtype, model_dtype_name((model_dtype)d)) == 0)
            return *out = (model_dtype)d, true;
    }
    return false;
}

static bool fill_tensor(const model_folder *m, const placed *p, model_tensor *out) {
    const model__st_entry *t = p->entry;
    *out = (model_tensor){0};
    if (t->rank > ARRAY_LEN(out->shape) || !float_dtype(t, &out->dtype)) return false;
    out->data = m->files[p->file].map.data + t->first;
    out->rank = t->rank;
    memcpy(out->shape, t->shape, t->rank * sizeof t->shape[0]);
    out->n_values = (size_t)t->n_values;
    out->bytes = (size_t)t->bytes;
    return true;
}

static int check_range(const model_folder *m, const placed *p, const model_tensor *t, size_t first,
                       size_t n, err *e) {
    float values[SAMPLE_VALUES];
    model_tensor_read(t, first, n, values);
    for (size_t k = 0; k < n; k++) {
        if (isfinite(values[k])) continue;
        return err_set(e, ERR_BAD_FILE, p->entry->name,
                       "%s: tensor %s: value %zu is %s, expected a finite number",
                       m->files[p->file].name, p->entry->name, first + k,
                       isnan(values[k]) ? "NaN" : "infinite");
    }
    return 0;
}

/* A few values of each tensor, from its first to its last: catches a file of NaN, or one
 * saved after training diverged, at a bounded cost. */
static int check_sample(const model_folder *m, const placed *p, err *e) {
    model_tensor t;
    if (!fill_tensor(m, p, &t)) return 0;
    size_t n = t.n_values < SAMPLE_VALUES ? t.n_values : SAMPLE_VALUES;
    size_t last = t.n_values - n; /* where the last place begins */
    size_t places = last == 0 ? 1 : SAMPLES;
    for (size_t i = 0; i < places; i++) {
        size_t first = i + 1 == places ? last : last / (places - 1) * i;
        if (check_range(m, p, &t, first, n, e) != 0) return -1;
    }
    return 0;
}

int model_check(const model_folder *m, err *e) {
    for (size_t i = 0; i < m->n_tensors; i++) {
        const placed *p = &m->tensors[i];
        model_tensor t;
        if (!p->used || !fill_tensor(m, p, &t)) continue;
        for (size_t first = 0; first < t.n_values; first += SAMPLE_VALUES) {
            size_t n = t.n_values - first < SAMPLE_VALUES ? t.n_values - first : SAMPLE_VALUES;
            if (check_range(m, p, &t, first, n, e) != 0) return -1;
        }
    }
    return 0;
}

typedef struct {
    model_folder *m;
    err *e;
} checker;

static int keep_wanted(model_folder *m, const model__want *w, const placed *p, err *e) {
    if (m->n_wanted == m->cap_wanted) {
        size_t cap = m->cap_wanted ? 2 * m->cap_wanted : 256;
        wanted *more = realloc(m->wanted, cap * sizeof *more);
        if (more == NULL) return no_memory(e, m->dir);
        m->wanted = more;
        m->cap_wanted = cap;
    }
    m->wanted[m->n_wanted++] = (wanted){.place = w->place,
                                        .in = p,
                                        .first_row = w->first_row,
                                        .rows = w->shape[0],
                                        .cols = w->shape[1],
                                        .rank = w->rank};
    return 0;
}

static int check_want(void *ud, const model__want *w) {
    checker *k = ud;
    model_folder *m = k->m;
    placed *p = find(m, w->name);
    char expected[64], found[160];
    uint64_t shape[2] = {w->file_rows ? w->file_rows : w->shape[0], w->shape[1]};
    model__st_shape_text(expected, sizeof expected, shape, w->rank);
    if (p == NULL) {
        if (w->optional) return 0;
        return err_set(k->e, ERR_BAD_FILE, w->name, "%s: tensor %s is missing, expected %s",
                       m->n_files == 1 ? m->files[0].name : m->dir, w->name, expected);
    }
    const model__st_entry *t = p->entry;
    const char *file = m->files[p->file].name;
    if (t->rank != w->rank || memcmp(t->shape, shape, w->rank * sizeof shape[0]) != 0) {
        model__st_shape_text(found, sizeof found, t->shape, t->rank);
        return err_set(k->e, ERR_BAD_FILE, w->name, "%s: tensor %s has shape %s, expected %s", file,
                       w->name, found, expected);
    }
    model_dtype dtype;
    if (!float_dtype(t, &dtype)) {
        return err_set(k->e, ERR_BAD_FILE, w->name,
                       "%s: tensor %s has dtype %s, expected F32, F16 or BF16", file, w->name,
                       t->dtype);
    }
    bool seen = p->used;
    p->used = true;
    uint64_t values = w->shape[0] * w->shape[1];
    m->parts[w->part].params += values;
    m->parts[w->part].bytes += values * model_dtype_bytes(dtype);
    if (keep_wanted(m, w, p, k->e) != 0) return -1;
    return seen ? 0 : check_sample(m, p, k->e);
}

static int by_place(const void *a, const void *b) {
    const tensor_place *x = &((const wanted *)a)->place, *y = &((const wanted *)b)->place;
    if (x->stage != y->stage) return x->stage < y->stage ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->role != y->role) return x->role < y->role ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static const wanted *find_place(const model_folder *m, tensor_place place) {
    wanted key = {.place = place};
    if (m->n_wanted == 0) return NULL;
    return bsearch(&key, m->wanted, m->n_wanted, sizeof *m->wanted, by_place);
}

static void warn_of_extra(const model_folder *m) {
    size_t n = 0;
    const placed *first = NULL;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const placed *p = &m->tensors[i];
        if (p->used || strncmp(p->entry->name, "freqs_cis", 9) == 0) continue;
        if (first == NULL) first = p;
        n++;
    }
    if (n) {
        log_line(LOG_WARN, "%s: %zu tensors are not used by this configuration, among them %s",
                 m->dir, n, first->entry->name);
    }
}

/* ---- open and close ---- */

/* Starts reading ahead, unless the weights are a large part of what memory there is. */
static void read_ahead(const model_folder *m) {
    machine here;
    machine_read(&here);
    if (model_bytes(m) > machine_memory(&here) / 2) return;
    for (size_t i = 0; i < m->n_files; i++) {
        (void)madvise((void *)(uintptr_t)m->files[i].map.data, m->files[i].map.size, MADV_WILLNEED);
    }
}

int model_unchanged(const model_folder *m, err *e) {
    for (size_t i = 0; i < m->n_files; i++) {
        const weight_file *f = &m->files[i];
        struct stat st;
        if (fstat(f->map.fd, &st) != 0) continue; /* a file system that is away says nothing */
        if ((uint64_t)st.st_size == f->map.size && st.st_mtim.tv_sec == f->changed.tv_sec &&
            st.st_mtim.tv_nsec == f->changed.tv_nsec) {
            continue;
        }
        return err_set(e, ERR_BAD_FILE, NULL,
                       "%s: changed in place while it was in use; replace models by rename",
                       f->name);
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
    model_folder *m = array_new(1, sizeof *m);
    if (m == NULL) return no_memory(e, dir);
    m->dir = strdup(dir);
    if (m->dir == NULL) {
        no_memory(e, dir);
        goto fail;
    }
    if (read_config(m, e) != 0 || open_files(m, e) != 0 || merge_tensors(m, e) != 0) goto fail;
    checker k = {m, e};
    if (model__wants(&m->plan, check_want, &k) != 0) goto fail;
    qsort(m->wanted, m->n_wanted, sizeof *m->wanted, by_place);
    if (model_unchanged(m, e) != 0) goto fail;
    warn_of_extra(m);
    read_ahead(m);
    *out = m;
    return 0;
fail:
    model_close(m);
    return -1;
}

void model_close(model_folder *m) {
    if (m == NULL) return;
    for (size_t i = 0; i < m->n_files; i++) {
        model__st_deinit(&m->files[i].index);
        file_map_close(&m->files[i].map);
        free(m->files[i].name);
    }
    free(m->wanted);
    free(m->tensors);
    free(m->files);
    free(m->dir);
    free(m);
}

const model_plan *model_plan_of(const model_folder *m) {
    return &m->plan;
}

const char *model_dir(const model_folder *m) {
    return m->dir;
}

bool model_find(const model_folder *m, tensor_place place, model_tensor *out) {
    const wanted *w = find_place(m, place);
    *out = (model_tensor){0};
    if (w == NULL || !fill_tensor(m, w->in, out)) return false;
    size_t value = model_dtype_bytes(out->dtype);
    out->data = (const uint8_t *)out->data + w->first_row * w->cols * value;
    out->rank = w->rank;
    out->shape[0] = w->rows;
    if (w->rank > 1) out->shape[1] = w->cols;
    out->n_values = (size_t)(w->rows * w->cols);
    out->bytes = out->n_values * value;
    return true;
}

bool model_find_named(const model_folder *m, const char *name, model_tensor *out) {
    const placed *p = find(m, name);
    *out = (model_tensor){0};
    return p && fill_tensor(m, p, out);
}

const char *model_tensor_name(const model_folder *m, tensor_place place) {
    const wanted *w = find_place(m, place);
    return w ? w->in->entry->name : "?";
}

void model_parts(const model_folder *m, model_part_size out[MODEL_PARTS]) {
    memcpy(out, m->parts, sizeof m->parts);
}

uint64_t model_bytes(const model_folder *m) {
    uint64_t n = 0;
    for (size_t i = 0; i < MODEL_PARTS; i++)
        n += m->parts[i].bytes;
    return n;
}

uint64_t model_params(const model_folder *m) {
    uint64_t n = 0;
    for (size_t i = 0; i < MODEL_PARTS; i++)
        n += m->parts[i].params;
    return n;
}

const char *model_part_name(model_part part) {
    static const char *const names[MODEL_PARTS] = {
        [MODEL_PART_EMBED] = "embedding and head", [MODEL_PART_ATTENTION] = "attention",
        [MODEL_PART_DENSE] = "dense FFN",          [MODEL_PART_EXPERTS] = "routed experts",
        [MODEL_PART_SHARED] = "shared experts",    [MODEL_PART_OTHER] = "norms and loop",
    };
    return (unsigned)part < MODEL_PARTS ? names[part] : "?";
}
