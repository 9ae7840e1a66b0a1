/* warnings.c - fields that a request has and no table knows: misspelt ones, and those of other
 * servers. They have no effect, so the log names each once, and the request keeps a sentence for
 * each. */
#include "api/dialect_internal.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/nearest.h"

#include <stdatomic.h>

enum { MAX_LOGGED = 64, MAX_SENTENCE = 240, MAX_NAMES = 8 };

/* Fields of clients' types that would change nothing here. */
static const char *const idle[] = {
    "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier",
    "store",    "verbosity"};

/* The members of objects inside a body. */
static const struct {
    const char *path;
    const char *names[MAX_NAMES];
} objects[] = {
    {"depth", {"min_loops", "max_loops", "threshold"}},
    {"stream_options",
     {"include_usage", "continuous_usage_stats", "include_drafts", "include_obfuscation"}},
    {"response_format", {"type", "json_schema", "schema", "name", "strict"}},
    {"response_format.json_schema", {"name", "description", "schema", "strict"}},
    {"text", {"format", "verbosity"}},
    {"text.format", {"type", "name", "description", "schema", "strict"}},
    {"reasoning", {"effort", "summary", "generate_summary"}},
    {"structured_outputs", {"json", "json_object", "regex", "choice", "grammar", "structural_tag"}},
};

/* The names allowed at one place: the fields of a dialect, or the members of an object. */
typedef struct {
    const api_dialect *dialect; /* NULL: an object */
    const char *const *names;
    size_t at;
} names;

static const char *next_name(names *list) {
    /* Without a dialect there are names. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    if (list->dialect == NULL) return list->at < MAX_NAMES ? list->names[list->at++] : NULL;
    const api__field *field = api__next_field(list->dialect, &list->at);
    return field ? field->name : NULL;
}

static bool is_known(names list, const char *key) {
    const char *name;
    while ((name = next_name(&list)) != NULL) {
        if (strcmp(name, key) == 0) return true;
    }
    for (size_t i = 0; list.dialect && i < ARRAY_LEN(idle); i++) {
        if (strcmp(idle[i], key) == 0) return true;
    }
    return false;
}

/* The name that the key may be meant to be, or NULL. */
static const char *nearest_name(names list, const char *key) {
    nearest found;
    const char *name;
    nearest_start(&found, key);
    while ((name = next_name(&list)) != NULL)
        nearest_offer(&found, name);
    return found.best;
}

/* ---- the log ---- */

/* True the first time for each name; the process keeps no more than MAX_LOGGED of them. */
static bool is_new(const char *name) {
    static _Atomic uint64_t logged[MAX_LOGGED];
    uint64_t hash = hash_fnv(HASH_FNV_START, name, strlen(name)) | 1;
    for (size_t i = 0; i < MAX_LOGGED; i++) {
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&logged[i], &there, hash)) return true;
        if (there == hash) return false;
    }
    return false;
}

/* ---- one field ---- */

/* The key as far as it is shown: printable ASCII. */
static void show(char *out, size_t cap, const char *path, const char *key) {
    size_t n = (size_t)snprintf(out, cap, "%s%s%.*s", path, path[0] ? "." : "",
                                (int)API__MAX_LABEL_BYTES, key);
    for (size_t i = 0; i < n && i + 1 < cap; i++) {
        if (out[i] < 0x20 || out[i] > 0x7e || out[i] == '\'') out[i] = '?';
    }
}

static int warn(api_request *req, names list, const char *path, const char *key, err *e) {
    char shown[120], text[MAX_SENTENCE];
    const char *meant = nearest_name(list, key);
    show(shown, sizeof shown, path, key);
    int n = snprintf(text, sizeof text, "the field '%s' is unknown and has no effect%s%s%s", shown,
                     meant ? "; did you mean '" : "", meant ? meant : "", meant ? "'?" : "");
    if (is_new(shown)) log_line(LOG_WARN, "a request: %s", text);
    const char *kept = arena_strndup(&req->mem, text, (size_t)n);
    if (kept == NULL) return api__out_of_memory(e);
    req->warnings[req->n_warnings++] = kept;
    return 0;
}

static int look_at(api_request *req, const json_t *object, names list, const char *path, err *e) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        if (req->n_warnings == API__MAX_WARNINGS) return 0;
        if (json_is_null(value) || is_known(list, key)) continue;
        if (warn(req, list, path, key, e) != 0) return -1;
    }
    return 0;
}

/* ---- all ---- */

/* The object at a path with at most one dot; NULL: there is none. */
static const json_t *object_at(const json_t *root, const char *path) {
    char first[32];
    size_t n = strcspn(path, ".");
    (void)snprintf(first, sizeof first, "%.*s", (int)n, path);
    const json_t *object = json_object_get(root, first);
    return path[n] ? json_object_get(object, path + n + 1) : object;
}

int api__collect_warnings(api_request *req, const json_t *root, err *e) {
    req->warnings = arena_array(&req->mem, API__MAX_WARNINGS, sizeof *req->warnings);
    if (req->warnings == NULL) return api__out_of_memory(e);
    if (look_at(req, root, (names){.dialect = req->dialect}, "", e) != 0) return -1;
    for (size_t i = 0; i < ARRAY_LEN(objects); i++) {
        const json_t *object = object_at(root, objects[i].path);
        if (look_at(req, object, (names){.names = objects[i].names}, objects[i].path, e) != 0)
            return -1;
    }
    return 0;
}
