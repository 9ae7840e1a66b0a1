/* jinja_render.c - renders chat templates for tests that compare with other implementations.
 *
 * A line in: {"template": text, "vars": {...}, "trusted": [names], "roles": [words], "now":
 * seconds}. A line out: {"text": ..., "runs": [[end, trusted], ...], "us": microseconds of
 * rendering} or
 * {"error": message}. A template is parsed once while lines repeat it. */
#include "base/json.h"
#include "text/jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const json_limits limits = {
    .max_bytes = 64 << 20, .max_depth = 1000, .max_structural = 16 << 20};

typedef struct {
    jinja *t;
    char *text; /* of t */
} parsed;

static bool contains(const json_t *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));
        if (item && strcmp(item, name) == 0) return true;
    }
    return false;
}

static int parse(parsed *p, const json_t *line, err *e) {
    const json_t *text = json_object_get(line, "template");
    if (!json_is_string(text)) return err_set(e, ERR_BAD_PARAM, NULL, "no template");
    if (p->t && strcmp(p->text, json_string_value(text)) == 0) return 0;
    jinja_close(p->t);
    free(p->text);
    p->t = NULL;
    p->text = strdup(json_string_value(text));
    return jinja_parse(&p->t, json_string_value(text), json_string_length(text), "template", e);
}

static void print(const jinja_output *out, double us) {
    buf b = {0};
    buf_puts(&b, "{\"text\":");
    buf_json_string(&b, out->text.data ? out->text.data : "", out->text.len);
    buf_puts(&b, ",\"runs\":[");
    for (size_t i = 0; i < out->n_runs; i++)
        buf_printf(&b, "%s[%zu,%s]", i ? "," : "", out->runs[i].end,
                   out->runs[i].trusted ? "true" : "false");
    buf_printf(&b, "],\"us\":%.1f}\n", us);
    fwrite(b.data, 1, b.len, stdout);
    buf_deinit(&b);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int render(const jinja *t, json_t *line, err *e) {
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
    int rc = jinja_render(t, &in, &out, e);
    if (rc == 0) print(&out, now_us() - begin);
    jinja_output_deinit(&out);
    free(list);
    free(words);
    return rc;
}

int main(void) {
    json_setup();
    parsed p = {0};
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&text, &cap, stdin)) > 0) {
        err e = {0};
        json_t *line = NULL;
        int rc = json_parse_nul(&line, text, (size_t)n, &limits, "line", &e);
        if (rc == 0) rc = parse(&p, line, &e);
        if (rc == 0) rc = render(p.t, line, &e);
        if (rc != 0) {
            buf b = {0};
            buf_puts(&b, "{\"error\":");
            buf_json_text(&b, e.msg);
            buf_puts(&b, "}\n");
            fwrite(b.data, 1, b.len, stdout);
            buf_deinit(&b);
        }
        json_decref(line);
        fflush(stdout);
    }
    jinja_close(p.t);
    free(p.text);
    free(text);
    return 0;
}
