/* models.c - fathom models: the models that commands find by name. */
#include "base/json.h"
#include "cli/cli.h"

#include <stdio.h>

static void print_line(void *ud, const char *name, const char *dir) {
    size_t *n = ud;
    printf("%-24s %s\n", name, dir);
    ++*n;
}

static void add_json(void *ud, const char *name, const char *dir) {
    buf *out = ud;
    buf_puts(out, out->len > 1 ? "," : "");
    buf_puts(out, "{\"name\":");
    buf_json_text(out, name);
    buf_puts(out, ",\"folder\":");
    buf_json_text(out, dir);
    buf_puts(out, "}");
}

int cmd_models(opt_args *args) {
    bool json = false;
    const opt_row options[] = {
        {"--json", OPT_FLAG, &json, NULL, "print a JSON list instead of lines", 0, 0, false},
    };
    const opt_command command = {"models",
                                 "lists the models that commands find by name, in the order of "
                                 "the search; the first of a name is taken",
                                 "fathom models", options, ARRAY_LEN(options)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    if (json) {
        buf out = {0};
        buf_puts(&out, "[");
        find_models(add_json, &out);
        printf("%s]\n", out.failed ? "[" : out.data);
        bool failed = out.failed;
        buf_deinit(&out);
        return failed ? EXIT_FAILED : 0;
    }
    size_t n = 0;
    find_models(print_line, &n);
    if (n == 0) fprintf(stderr, "fathom models: none found; 'fathom init' writes one\n");
    return 0;
}
