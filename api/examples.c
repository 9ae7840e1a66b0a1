/* examples.c - examples.json in the model's folder: prompts that a page may offer.
 *
 * The file is a list of objects. A wrong file costs a warning, never the start of the server. The
 * checked list is kept as JSON text, which /v1/models shows as meta.examples. */
#include "api/request_internal.h"
#include "base/file.h"
#include "base/log.h"

enum {
    MAX_FILE_BYTES = 64 << 10,
    MAX_EXAMPLES = 32,
    MAX_TITLE_BYTES = 200,
    MAX_TEXT_BYTES = 8 << 10,
    MAX_LOOP_COUNTS = 8,
};

static const json_limits file_limits = {MAX_FILE_BYTES, 8, 4000};

/* ---- values ---- */

static bool is_text(const json_t *value, size_t max_bytes) {
    size_t n = json_string_length(value);
    return json_is_string(value) && n > 0 && n <= max_bytes;
}

static bool is_short(const json_t *value) {
    return is_text(value, MAX_TITLE_BYTES);
}

static bool is_long(const json_t *value) {
    return is_text(value, MAX_TEXT_BYTES);
}

static bool is_kind(const json_t *value) {
    static const char *const kinds[] = {"completion", "chat", "compare"};
    for (size_t i = 0; json_is_string(value) && i < ARRAY_LEN(kinds); i++) {
        if (strcmp(json_string_value(value), kinds[i]) == 0) return true;
    }
    return false;
}

static bool is_number(const json_t *value, double least, double most) {
    return json_is_number(value) && json_number_value(value) >= least &&
           json_number_value(value) <= most;
}

static bool is_tokens(const json_t *value) {
    return json_is_integer(value) && is_number(value, 1, INT32_MAX);
}

static bool is_temperature(const json_t *value) {
    return is_number(value, 0, 2);
}

static bool is_stop(const json_t *value) {
    if (!json_is_array(value)) return is_text(value, API__MAX_STOP_BYTES);
    if (json_array_size(value) > API__MAX_STOPS) return false;
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!is_text(json_array_get(value, i), API__MAX_STOP_BYTES)) return false;
    }
    return true;
}

/* null: the model decides. */
static bool is_loop_count(const json_t *value) {
    return json_is_null(value) || (json_is_integer(value) && is_number(value, 1, PLAN_MAX_LOOPS));
}

static bool is_loops(const json_t *value) {
    if (!json_is_array(value)) return is_loop_count(value);
    size_t n = json_array_size(value);
    for (size_t i = 0; i < n; i++) {
        if (!is_loop_count(json_array_get(value, i))) return false;
    }
    return n > 0 && n <= MAX_LOOP_COUNTS;
}

static bool is_seed(const json_t *value) {
    return json_is_integer(value);
}

/* ---- examples ---- */

static const struct {
    const char *name;
    bool required;
    bool (*fits)(const json_t *value);
    const char *rule;
} members[] = {
    {"title", true, is_short, "a text of 1 to 200 bytes"},
    {"prompt", true, is_long, "a text of 1 to 8192 bytes"},
    {"kind", false, is_kind, "completion, chat or compare"},
    {"max_tokens", false, is_tokens, "an integer of at least 1"},
    {"temperature", false, is_temperature, "a number from 0 to 2"},
    {"seed", false, is_seed, "an integer"},
    {"stop", false, is_stop, "a text, or a list of at most 16 texts, of 1 to 256 bytes"},
    {"loops", false, is_loops, "a number of loops or null, or a list of 1 to 8 of these"},
    {"answer", false, is_long, "a text of 1 to 8192 bytes"},
    {"note", false, is_long, "a text of 1 to 8192 bytes"},
};
_Static_assert(API__MAX_STOPS == 16 && API__MAX_STOP_BYTES == 256, "the rule of stop names them");

/* The known members of one example; NULL: refused, or out of memory. */
static json_t *read_example(const json_t *example, size_t number, err *e) {
    json_t *out = json_object();
    if (out == NULL) api__out_of_memory(e);
    for (size_t i = 0; out && i < ARRAY_LEN(members); i++) {
        json_t *value = json_object_get(example, members[i].name);
        if (value == NULL && !members[i].required) continue;
        bool fits = value && members[i].fits(value);
        if (!fits)
            err_set(e, ERR_BAD_PARAM, NULL, "example %zu: %s must be %s", number, members[i].name,
                    members[i].rule);
        else if (json_object_set(out, members[i].name, value) == 0) continue;
        else api__out_of_memory(e);
        json_decref(out);
        out = NULL;
    }
    return out;
}

static int read_list(json_t *list, const json_t *root, err *e) {
    size_t n = json_array_size(root);
    if (!json_is_array(root) || n > MAX_EXAMPLES)
        return err_set(e, ERR_BAD_PARAM, NULL, "must be a list of at most %d examples",
                       MAX_EXAMPLES);
    for (size_t i = 0; i < n; i++) {
        json_t *example = read_example(json_array_get(root, i), i + 1, e);
        if (example == NULL) return -1;
        if (json_array_append_new(list, example) != 0) return api__out_of_memory(e);
    }
    return 0;
}

/* Writes the list of a file's text. */
static int read_text(buf *out, const buf *text, err *e) {
    json_t *root = NULL, *list = json_array();
    int rc = list ? json_parse(&root, text->data, text->len, &file_limits, "the text", e)
                  : api__out_of_memory(e);
    if (rc == 0) rc = read_list(list, root, e);
    if (rc == 0 && json_array_size(list) > 0) api__dump(out, list);
    json_decref(root);
    json_decref(list);
    return rc == 0 && out->failed ? api__out_of_memory(e) : rc;
}

int api__read_examples(buf *out, const char *dir, err *e) {
    buf path = {0}, text = {0};
    err why = {0};
    int rc = 0;
    buf_printf(&path, "%s/examples.json", dir);
    if (path.failed) rc = api__out_of_memory(&why);
    else if (api__file_exists(path.data)) rc = file_read(&text, path.data, MAX_FILE_BYTES, &why);
    if (rc == 0 && text.data) rc = read_text(out, &text, &why);
    buf_deinit(&path);
    buf_deinit(&text);
    if (rc == 0) return 0;
    buf_deinit(out);
    if (why.code == ERR_NO_MEMORY) return api__out_of_memory(e);
    log_line(LOG_WARN, "examples.json: %s; the file is ignored", why.msg);
    return 0;
}
