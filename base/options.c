/* options.c - one table per command: it parses the options and prints --help. */
#include "base/options.h"
#include "base/file.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMN = 34 };

static void print_help(const opt_command *c) {
    printf("fathom %s - %s\n\nOptions:\n", c->command, c->summary);
    for (size_t i = 0; i < c->n_options; i++) {
        const opt_row *o = &c->options[i];
        char left[80];
        (void)snprintf(left, sizeof left, "%s%s%s", o->name, o->meta ? " " : "",
                       o->meta ? o->meta : "");
        /* What is wider than its column has the help on a line of its own. */
        bool wide = strlen(left) > HELP_COLUMN;
        printf("  %-*s%s%*s %s%s\n", HELP_COLUMN, left, wide ? "\n" : "",
               wide ? HELP_COLUMN + 2 : 0, "", o->help, o->required ? " (required)" : "");
    }
    printf("  %-*s %s\n  %-*s %s\n", HELP_COLUMN, "--help", "this text", HELP_COLUMN, "--version",
           "the version");
    printf("\nExample:\n  %s\n", c->example);
}

static int usage(const opt_command *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int usage(const opt_command *c, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "fathom %s: ", c->command);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (see 'fathom %s --help')\n", c->command);
    va_end(args);
    return -1;
}

static int set_number(const opt_command *c, const opt_row *o, const char *text) {
    char *end = NULL;
    errno = 0;
    if (o->type == OPT_REAL) {
        double v = strtod(text, &end);
        if (end == text || *end || !isfinite(v))
            return usage(c, "%s takes a number, not '%s'", o->name, text);
        if (v < o->min || v > o->max)
            return usage(c, "%s must be %g to %g, not %s", o->name, o->min, o->max, text);
        *(double *)o->out = v;
        return 0;
    }
    if (o->type == OPT_INT) {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || errno)
            return usage(c, "%s takes a whole number, not '%s'", o->name, text);
        if ((double)v < o->min || (double)v > o->max)
            return usage(c, "%s must be %.0f to %.0f, not %s", o->name, o->min, o->max, text);
        *(int64_t *)o->out = v;
        return 0;
    }
    if (!isdigit((unsigned char)text[0]))
        return usage(c, "%s takes a whole number, not '%s'", o->name, text);
    unsigned long long v = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (o->type == OPT_BYTES && *end) {
        shift = *end == 'K' || *end == 'k'   ? 10
                : *end == 'M' || *end == 'm' ? 20
                : *end == 'G' || *end == 'g' ? 30
                                             : 0;
        if (shift) end++;
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (*end || errno || (v << shift) >> shift != v) {
        return usage(c, "%s takes %s, not '%s'", o->name,
                     o->type == OPT_BYTES ? "bytes, as in 512M or 4G" : "a whole number", text);
    }
    v <<= shift;
    if ((double)v < o->min || (double)v > o->max) {
        return usage(c, "%s must be %.0f to %.0f, not %s", o->name, o->min, o->max, text);
    }
    *(uint64_t *)o->out = v;
    return 0;
}

static int set_choice(const opt_command *c, const opt_row *o, const char *text) {
    size_t n = strlen(text);
    for (const char *p = o->meta; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, text, n) == 0) {
            *(const char **)o->out = text;
            return 0;
        }
        p += len + (p[len] == '|');
    }
    return usage(c, "%s must be one of %s, not '%s'", o->name, o->meta, text);
}

static int set_value(const opt_command *c, const opt_row *o, const char *text) {
    switch (o->type) {
    case OPT_TEXT: *(const char **)o->out = text; return 0;
    case OPT_CHOICE: return set_choice(c, o, text);
    case OPT_TEXT_MANY: {
        opt_list *list = o->out;
        if (list->n == OPT_LIST_MAX)
            return usage(c, "%s given more than %d times", o->name, OPT_LIST_MAX);
        list->items[list->n++] = text;
        return 0;
    }
    default: return set_number(c, o, text);
    }
}

int opt_parse(const opt_command *c, int argc, char **argv) {
    bool seen[128] = {false};
    if (c->n_options > ARRAY_LEN(seen)) return usage(c, "too many options in the table");
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) return print_help(c), 1;
        if (strcmp(arg, "--version") == 0) return printf("fathom " FATHOM_VERSION "\n"), 1;
        size_t k = 0;
        while (k < c->n_options &&
               !(strlen(c->options[k].name) == len && memcmp(c->options[k].name, arg, len) == 0))
            k++;
        if (k == c->n_options) return usage(c, "unknown option '%s'", arg);
        const opt_row *o = &c->options[k];
        seen[k] = true;
        if (o->type == OPT_FLAG) {
            if (eq) return usage(c, "%s takes no value", o->name);
            *(bool *)o->out = true;
            continue;
        }
        if (eq == NULL && i + 1 >= argc) return usage(c, "%s needs a value", o->name);
        if (set_value(c, o, eq ? eq + 1 : argv[++i]) != 0) return -1;
    }
    for (size_t k = 0; k < c->n_options; k++) {
        if (c->options[k].required && !seen[k])
            return usage(c, "%s is required", c->options[k].name);
    }
    return 0;
}

int opt_read_file(buf *out, const char *option, const char *path, size_t max_bytes, err *e) {
    err why = {0};
    if (file_read(out, path, max_bytes, &why) == 0) return 0;
    return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_USAGE, option, "%s: %s",
                   option, why.msg);
}

int opt_fail(const err *e) {
    fprintf(stderr, "fathom: %s\n", e->msg[0] ? e->msg : err_text(e->code));
    return e->code == ERR_USAGE || e->code == ERR_BAD_FILE || e->code == ERR_NOT_FOUND ||
                   e->code == ERR_BAD_PARAM || e->code == ERR_TOO_LONG
               ? EXIT_USAGE
               : EXIT_FAILED;
}
