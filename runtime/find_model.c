/* find_model.c - finds a model folder by its path, by its name, or without either. */
#include "runtime/find_model.h"
#include "base/file.h"
#include "base/nearest.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PLACES = 5, MAX_NAMES = 100, MAX_REF_BYTES = 128, NAMES_BYTES = 90, WHERE_BYTES = 170 };
#define DEFAULT_NAME "demo"
#define SECOND_NAME "hops" /* stands in where demo is not installed */

typedef struct {
    char dirs[MAX_PLACES][MODEL_PATH_BYTES];
    size_t n;
    size_t own; /* index of the user's data folder; n: the user has none */
} places;

/* False: it does not fit. */
static bool join(char out[MODEL_PATH_BYTES], const char *fmt, ...) PRINTF_LIKE(2, 3);
static bool join(char out[MODEL_PATH_BYTES], const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(out, MODEL_PATH_BYTES, fmt, args);
    va_end(args);
    return n >= 0 && n < MODEL_PATH_BYTES;
}

/* A variable of the environment; NULL if it is empty. */
static const char *variable(const char *name) {
    const char *text = getenv(name);
    return text && text[0] ? text : NULL;
}

static bool holds(const char *dir, const char *file) {
    char path[MODEL_PATH_BYTES];
    return join(path, "%s/%s", dir, file) && access(path, F_OK) == 0;
}

static bool is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

static bool is_model(const char *dir) {
    return holds(dir, "config.json") || holds(dir, "tokenizer.json");
}

/* Adds a place, unless it is there already. */
static void add_place(places *out, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void add_place(places *out, const char *fmt, ...) {
    char *dir = out->dirs[out->n];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(dir, MODEL_PATH_BYTES, fmt, args);
    va_end(args);
    bool fits = n >= 0 && n < MODEL_PATH_BYTES;
    for (size_t i = 0; i < out->n; i++)
        fits &= strcmp(out->dirs[i], dir) != 0;
    if (fits) out->n++;
}

static void list_places(places *out) {
    char program[MODEL_PATH_BYTES];
    const char *data = variable("XDG_DATA_HOME"), *home = variable("HOME");
    *out = (places){0};
    add_place(out, "models");
    out->own = out->n;
    if (data) add_place(out, "%s/fathom/models", data);
    else if (home) add_place(out, "%s/.local/share/fathom/models", home);
    bool has_own = out->n > out->own;
    if (file_program_dir(program, sizeof program)) {
        char *slash = strrchr(program, '/');
        if (slash) *slash = 0; /* bin */
        add_place(out, "%s/share/fathom/models", program);
    }
    add_place(out, "/usr/local/share/fathom/models");
    add_place(out, "/usr/share/fathom/models");
    if (!has_own) out->own = out->n;
}

/* ---- names ---- */

static bool is_dots(const char *name, size_t n) {
    return (n == 1 && name[0] == '.') || (n == 2 && name[0] == '.' && name[1] == '.');
}

static int by_name(const struct dirent **one, const struct dirent **other) {
    return strcmp((*one)->d_name, (*other)->d_name);
}

/* Calls put for each model in the folder, by name. */
static void each_in(const char *place, void (*put)(void *ud, const char *name, const char *dir),
                    void *ud) {
    struct dirent **found = NULL;
    int n = scandir(place, &found, NULL, by_name);
    for (int i = 0; i < n; i++) {
        char dir[MODEL_PATH_BYTES];
        const char *name = found[i]->d_name;
        if (name[0] != '.' && join(dir, "%s/%s", place, name) && holds(dir, "config.json"))
            put(ud, name, dir);
        free(found[i]);
    }
    free(found);
}

void find_models(void (*put)(void *ud, const char *name, const char *dir), void *ud) {
    places search;
    list_places(&search);
    for (size_t i = 0; i < search.n; i++)
        each_in(search.dirs[i], put, ud);
}

typedef struct {
    buf list; /* "demo, hops" */
    char *names[MAX_NAMES];
    size_t n;
} found_names;

static void add_name(void *ud, const char *name, const char *dir) {
    found_names *self = ud;
    (void)dir;
    for (size_t i = 0; i < self->n; i++) {
        if (strcmp(self->names[i], name) == 0) return;
    }
    char *copy = self->n < MAX_NAMES ? strdup(name) : NULL;
    if (copy == NULL) return;
    self->names[self->n++] = copy;
    if (self->list.len < NAMES_BYTES)
        buf_printf(&self->list, "%s%s", self->n > 1 ? ", " : "", name);
}

/* "no model 'dmo'; did you mean 'demo'? Found: demo, hops. Searched: models, …" */
static int not_found(const places *search, const char *asked, err *e) {
    found_names found = {0};
    nearest near;
    buf where = {0};
    find_models(add_name, &found);
    nearest_start(&near, asked);
    for (size_t i = 0; i < found.n; i++)
        nearest_offer(&near, found.names[i]);
    for (size_t i = 0; i < search->n; i++)
        buf_printf(&where, "%s%s", i ? ", " : "", search->dirs[i]);
    (void)err_set(e, ERR_NOT_FOUND, "--model", "no model '%.60s'%s%s%s (found: %s; searched: %.*s)",
                  asked, near.best ? "; did you mean '" : "", near.best ? near.best : "",
                  near.best ? "'?" : "", found.n ? found.list.data : "none", WHERE_BYTES,
                  where.data ? where.data : "");
    for (size_t i = 0; i < found.n; i++)
        free(found.names[i]);
    buf_deinit(&found.list);
    buf_deinit(&where);
    return -1;
}

/* True: a place has a model of this name, which is one folder's name. */
static bool find_name(model_place *out, const places *search, const char *name) {
    for (size_t i = 0; i < search->n; i++) {
        if (join(out->dir, "%s/%s", search->dirs[i], name) && is_model(out->dir)) return true;
    }
    return false;
}

/* ---- the Hugging Face cache ---- */

static bool cache_dir(char out[MODEL_PATH_BYTES]) {
    const char *hub = variable("HF_HUB_CACHE"), *hf = variable("HF_HOME"), *home = variable("HOME");
    if (hub) return join(out, "%s", hub);
    if (hf) return join(out, "%s/hub", hf);
    return home && join(out, "%s/.cache/huggingface/hub", home);
}

/* Reads refs/main: a hash, and so no path. */
static bool read_ref(const char *path, char out[MAX_REF_BYTES]) {
    buf text = {0};
    bool ok = file_read(&text, path, MAX_REF_BYTES - 1, NULL) == 0 && text.len > 0;
    size_t n = ok ? strcspn(text.data, " \r\n") : 0;
    ok = ok && n > 0 && strspn(text.data, "0123456789abcdefABCDEF") == n;
    if (ok) (void)snprintf(out, MAX_REF_BYTES, "%.*s", (int)n, text.data);
    buf_deinit(&text);
    return ok;
}

static int find_in_cache(model_place *out, const char *asked, err *e) {
    char cache[MODEL_PATH_BYTES], path[MODEL_PATH_BYTES], ref[MAX_REF_BYTES];
    const char *slash = strchr(asked, '/');
    int org = (int)(slash - asked);
    if (!cache_dir(cache)) (void)join(cache, "~/.cache/huggingface/hub");
    bool there =
        join(path, "%s/models--%.*s--%s/refs/main", cache, org, asked, slash + 1) &&
        read_ref(path, ref) &&
        join(out->dir, "%s/models--%.*s--%s/snapshots/%s", cache, org, asked, slash + 1, ref) &&
        is_model(out->dir);
    if (!there)
        return err_set(e, ERR_NOT_FOUND, "--model",
                       "no model '%.100s': there is no such folder, and the Hugging Face cache "
                       "%.150s does not hold it ('hf download %.100s' would get it)",
                       asked, cache, asked);
    (void)snprintf(out->name, sizeof out->name, "%s", asked);
    return 0;
}

/* "org/name" as a model of the cache, and not a path. */
static bool is_cache_name(const char *asked) {
    const char *slash = strchr(asked, '/');
    if (slash == NULL || slash == asked || slash[1] == 0 || strchr(slash + 1, '/')) return false;
    if (strlen(asked) >= MODEL_NAME_BYTES || asked[0] == '.' || asked[0] == '~') return false;
    if (is_dots(slash + 1, strlen(slash + 1))) return false;
    return access(asked, F_OK) != 0;
}

/* ---- without a name ---- */

typedef struct {
    model_place *out;
    struct timespec changed;
    bool found;
} newest;

static void keep_newer(void *ud, const char *name, const char *dir) {
    newest *self = ud;
    struct stat st;
    (void)name;
    if (stat(dir, &st) != 0) return;
    bool older = self->found && (st.st_mtim.tv_sec < self->changed.tv_sec ||
                                 (st.st_mtim.tv_sec == self->changed.tv_sec &&
                                  st.st_mtim.tv_nsec <= self->changed.tv_nsec));
    if (older || !join(self->out->dir, "%s", dir)) return;
    self->changed = st.st_mtim;
    self->found = true;
}

static int find_default(model_place *out, const places *search, err *e) {
    newest own = {.out = out};
    if (search->own < search->n) each_in(search->dirs[search->own], keep_newer, &own);
    if (!own.found && !find_name(out, search, DEFAULT_NAME) &&
        !find_name(out, search, SECOND_NAME)) {
        err why = {0};
        (void)not_found(search, DEFAULT_NAME, &why);
        return err_set(e, why.code, "--model", "no model is given, and there is %s", why.msg);
    }
    (void)snprintf(out->why, sizeof out->why, "no model is given; taking %s%s", out->dir,
                   own.found ? ", the newest of your own" : "");
    return 0;
}

int find_model(model_place *out, const char *asked, err *e) {
    places search;
    *out = (model_place){0};
    list_places(&search);
    if (asked == NULL) return find_default(out, &search, e);
    size_t n = strlen(asked);
    if (n == 0) return err_set(e, ERR_USAGE, "--model", "the name of the model is empty");
    if (is_cache_name(asked)) {
        if (find_in_cache(out, asked, e) != 0) return -1;
    } else if (strchr(asked, '/') || is_dots(asked, n) || is_model(asked) || is_file(asked)) {
        if (join(out->dir, "%s", asked)) return 0;
        return err_set(e, ERR_USAGE, "--model", "the path of the model is too long");
    } else if (!find_name(out, &search, asked)) {
        return not_found(&search, asked, e);
    }
    (void)snprintf(out->why, sizeof out->why, "model %s: %s", asked, out->dir);
    return 0;
}
