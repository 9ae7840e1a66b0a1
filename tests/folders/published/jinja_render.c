/* jinja_render.c - renders chat templates, for comparison with other implementations.
 *
 * A line in: {"template": text, "vars": {...}, "trusted": [names], "roles": [words], "now":
 * seconds}. A line out: {"text": ..., "runs": [[end, trusted], ...], "us": processor time of
 * rendering in microseconds} or {"error": message}. Consecutive lines with the same template parse
 * it once. */
#include "base/json.h"
#include "text/jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const json_limits limits = {
    .max_bytes = 64 << 20, .max_depth = 1000, .max_structural = 16 << 20};

typedef struct {
    jinja *tmpl;
    char *text; /* of the template */
} parsed;

static bool contains(const json_t *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));
        if (item && strcmp(item, name) == 0) return true;
    }
    return false;
}

static int parse(parsed *last, const json_t *line, err *e) {
    const json_t *text = json_object_get(line, "template");
    if (!json_is_string(text)) return err_set(e, ERR_BAD_PARAM, NULL, "no template");
    if (last->tmpl && strcmp(last->text, json_string_value(text)) == 0) return 0;
    jinja_close(last->tmpl);
    free(last->text);
    last->tmpl = NULL;
    last->text = strdup(json_string_value(text));
    return jinja_parse(&last->tmpl, json_string_value(text), json_string_length(text), "template",
                       e);
}

static void print(const jinja_output *out, double us) {
    buf text = {0};
    buf_puts(&text, "{\"text\":");
    buf_json_string(&text, out->text.data ? out->text.data : "", out->text.len);
    buf_puts(&text, ",\"runs\":[");
    for (size_t i = 0; i < out->n_runs; i++)
        buf_printf(&text, "%s[%zu,%s]", i ? "," : "", out->runs[i].end,
                   out->runs[i].trusted ? "true" : "false");
    buf_printf(&text, "],\"us\":%.1f}\n", us);
    fwrite(text.data, 1, text.len, stdout);
    buf_deinit(&text);
}

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int render(const jinja *tmpl, json_t *line, err *e) {
    json_t *vars = json_object_get(line, "vars"), *value;
    const json_t *trusted = json_object_get(line, "trusted"),
                 *roles = json_object_get(line, "roles");
    const char *name;
    jinja_var *list = calloc(json_object_size(vars) + 1, sizeof *list);
    const char **words = calloc(json_array_size(roles) + 1, sizeof *words);
    jinja_input in = {.vars = list, .roles = words};
    in.now = json_integer_value(json_object_get(line, "now"));
    if (list == NULL || words == NULL) abort();
    json_object_foreach(vars, name, value) list[in.n_vars++] =
        (jinja_var){name, value, contains(trusted, name)};
    for (size_t i = 0; i < json_array_size(roles); i++)
        words[i] = json_string_value(json_array_get(roles, i));
    jinja_output out;
    double begin = now_us();
    int rc = jinja_render(tmpl, &in, &out, e);
    if (rc == 0) print(&out, now_us() - begin);
    jinja_output_deinit(&out);
    free(list);
    free(words);
    return rc;
}

int main(void) {
    json_setup();
    parsed last = {0};
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&text, &cap, stdin)) > 0) {
        err e = {0};
        json_t *line = NULL;
        int rc = json_parse_nul(&line, text, (size_t)n, &limits, "line", &e);
        if (rc == 0) rc = parse(&last, line, &e);
        if (rc == 0) rc = render(last.tmpl, line, &e);
        if (rc != 0) {
            buf out = {0};
            buf_puts(&out, "{\"error\":");
            buf_json_text(&out, e.msg);
            buf_puts(&out, "}\n");
            fwrite(out.data, 1, out.len, stdout);
            buf_deinit(&out);
        }
        json_decref(line);
        fflush(stdout);
    }
    jinja_close(last.tmpl);
    free(last.text);
    free(text);
    return 0;
}
