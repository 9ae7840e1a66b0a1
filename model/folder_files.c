/* folder_files.c - the files of a model folder: config.json, and one safetensors file or the shards
 * of an index, mapped. */
#include "base/model_json.h"
#include "base/size.h"
#include "model/folder_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_SHARDS = 4096, MAX_CONFIG_BYTES = 1 << 20, MAX_INDEX_BYTES = 64 << 20 };

/* An unreadable file means an unusable model: exit status 2, as for a malformed file. */
static int unreadable(err *e, const err *why) {
    return err_set(e, why->code == ERR_IO ? ERR_BAD_FILE : why->code, NULL, "%s", why->msg);
}

int model__folder_no_memory(err *e, const char *dir) {
    return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory opening the model", dir);
}

/* dir/name, NULL when out of memory. The caller frees. */
static char *path_of(const char *dir, const char *name) {
    buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    if (path.failed) buf_deinit(&path);
    return path.data;
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

int model__read_config(model_folder *folder, err *e) {
    char *path = path_of(folder->dir, "config.json");
    if (path == NULL) return model__folder_no_memory(e, folder->dir);
    buf text = {.max = MAX_CONFIG_BYTES + (1 << 20)};
    err why = {0};
    int rc = file_read(&text, path, MAX_CONFIG_BYTES, &why);
    if (rc != 0) unreadable(e, &why);
    else rc = plan_parse(&folder->plan, text.data, text.len, path, e);
    buf_deinit(&text);
    free(path);
    return rc;
}

/* Maps one file and reads its header. Takes ownership of steal_path. */
static int add_file(model_folder *folder, char *steal_path, err *e) {
    weight_file *file = &folder->files[folder->n_files++];
    *file = (weight_file){.name = steal_path, .map = {.fd = -1}};
    if (steal_path == NULL) return model__folder_no_memory(e, folder->dir);
    err why = {0};
    if (file_map_open(&file->map, file->name, &why) != 0) return unreadable(e, &why);
    struct stat st;
    if (fstat(file->map.fd, &st) != 0) {
        return err_set(e, ERR_BAD_FILE, NULL, "%s: %s", file->name, strerror(errno));
    }
    file->changed = st.st_mtim;
    return model__st_parse(&file->index, file->map.data, file->map.size, file->name, e);
}

/* ---- shards ---- */

static bool lies_in(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || n == 1);
}

/* The hub's cache keeps files in blobs/ and links to them from snapshots/REVISION/. */
static bool lies_in_blobs(const model_folder *folder, const char *path) {
    char *name = path_of(folder->dir, "../../blobs"), *blobs = name ? realpath(name, NULL) : NULL;
    bool in = blobs && lies_in(path, blobs);
    free(blobs);
    free(name);
    return in;
}

/* A shard's name comes from an untrusted file. It must name a file inside this folder, after
 * following links; links into the hub's cache are allowed too. */
static int check_shard_name(const model_folder *folder, const char *name, const char *path,
                            err *e) {
    if (name[0] == 0 || name[0] == '.' || strchr(name, '/') || strlen(name) > 255) {
        return err_set(
            e, ERR_BAD_FILE, "weight_map",
            "%s: model.safetensors.index.json names the file \"%.60s\", expected a plain "
            "file name in the folder",
            folder->dir, name);
    }
    char *home = realpath(folder->dir, NULL), *target = realpath(path, NULL);
    int why = errno, rc = 0;
    if (home == NULL || target == NULL) {
        rc = err_set(e, why == ENOMEM ? ERR_NO_MEMORY : ERR_BAD_FILE, "weight_map", "%s: %s", path,
                     strerror(why));
    } else if (!lies_in(target, home) && !lies_in_blobs(folder, target)) {
        rc = err_set(e, ERR_BAD_FILE, "weight_map",
                     "%s: the link leads out of the model folder; expected the file itself", path);
    }
    free(home);
    free(target);
    return rc;
}

static int file_index(const model_folder *folder, const char *name) {
    for (size_t i = 0; i < folder->n_files; i++) {
        const char *slash = folder->files[i].name ? strrchr(folder->files[i].name, '/') : NULL;
        if (slash && strcmp(slash + 1, name) == 0) return (int)i;
    }
    return -1;
}

static int add_shard(model_folder *folder, const char *name, err *e) {
    if (folder->n_files == MAX_SHARDS) {
        return err_set(e, ERR_BAD_FILE, "weight_map", "%s: more than %d shards", folder->dir,
                       MAX_SHARDS);
    }
    char *path = path_of(folder->dir, name);
    if (path == NULL) return model__folder_no_memory(e, folder->dir);
    if (check_shard_name(folder, name, path, e) != 0) {
        free(path);
        return -1;
    }
    return add_file(folder, path, e);
}

/* Opens every file of weight_map; each tensor must be in its file. */
static int add_shards(model_folder *folder, const json_t *root, const char *path, err *e) {
    json_t *map = json_object_get(root, "weight_map"), *file;
    const char *tensor, *last = "";
    int at = -1;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return err_set(e, ERR_BAD_FILE, "weight_map", "%s: weight_map is missing or empty", path);
    }
    folder->files = array_new(MAX_SHARDS, sizeof *folder->files);
    if (folder->files == NULL) return model__folder_no_memory(e, folder->dir);
    json_object_foreach(map, tensor, file) {
        const char *name = json_string_value(file);
        if (name == NULL) {
            return err_set(e, ERR_BAD_FILE, "weight_map",
                           "%s: weight_map \"%.60s\" is no file name", path, tensor);
        }
        if (strcmp(name, last) != 0) at = file_index(folder, name); /* shards come in runs */
        if (at < 0) {
            if (add_shard(folder, name, e) != 0) return -1;
            at = (int)folder->n_files - 1;
        }
        last = name;
        if (model__st_find(&folder->files[at].index, tensor) == NULL) {
            return err_set(e, ERR_BAD_FILE, "weight_map",
                           "%s: tensor %.80s is not in %s, where weight_map says it is", path,
                           tensor, name);
        }
    }
    return 0;
}

static int open_shards(model_folder *folder, const char *path, err *e) {
    json_t *root;
    if (read_json_file(&root, path, MAX_INDEX_BYTES, e) != 0) return -1;
    int rc = add_shards(folder, root, path, e);
    json_decref(root);
    return rc;
}

static bool has_bin(const model_folder *folder) {
    static const char *const names[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    bool there = false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = path_of(folder->dir, names[i]);
        struct stat st;
        there |= path && stat(path, &st) == 0;
        free(path);
    }
    return there;
}

int model__open_files(model_folder *folder, err *e) {
    char *one = path_of(folder->dir, "model.safetensors");
    char *many = path_of(folder->dir, "model.safetensors.index.json");
    struct stat st;
    int rc = -1;
    if (one == NULL || many == NULL) {
        model__folder_no_memory(e, folder->dir);
    } else if (lstat(one, &st) == 0) {
        folder->files = array_new(1, sizeof *folder->files);
        if (folder->files == NULL) {
            model__folder_no_memory(e, folder->dir);
        } else {
            rc = add_file(folder, one, e);
            one = NULL;
        }
    } else if (lstat(many, &st) == 0) {
        rc = open_shards(folder, many, e);
    } else {
        bool denied = errno != ENOENT;
        err_set(e, ERR_BAD_FILE, NULL,
                "%s: holds neither model.safetensors nor model.safetensors.index.json%s%s",
                folder->dir, denied ? " that can be read" : "",
                has_bin(folder) ? " (tools/convert_bin.py makes them of pytorch_model.bin)" : "");
    }
    free(one);
    free(many);
    return rc;
}
