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

enum { HELP_COLUMN = 34, HELP_WIDTH = 100 };
#define MAX_SHOWN 1e9 /* a larger limit is no use to a reader */

/* Appends the numbers that an option takes: " [1 to 65536]", " [at least 64K]". */
static void add_range(buf *out, const opt_row *row) {
    bool whole = row->type == OPT_UINT || row->type == OPT_INT;
    if (row->max <= row->min || (row->max > MAX_SHOWN && row->min <= 0)) return;
    if (whole && row->max <= MAX_SHOWN) {
        buf_printf(out, " [%.0f to %.0f]", row->min, row->max);
    } else if (row->type == OPT_REAL || row->type == OPT_GIVEN_REAL) {
        buf_printf(out, " [%g to %g]", row->min, row->max);
    } else if (row->type == OPT_BYTES && row->min > 0) {
        bool mega = row->min >= 1 << 20;
        buf_printf(out, " [at least %.0f%s]", row->min / (mega ? 1 << 20 : 1 << 10),
                   mega ? "M" : "K");
    } else if (whole) {
        buf_printf(out, " [at least %.0f]", row->min);
    }
}

/* Prints words from HELP_COLUMN on; each line after the first is indented as far. */
static void print_wrapped(const char *text) {
    const int indent = HELP_COLUMN + 3;
    int column = indent;
    for (const char *word = text; *word;) {
        int len = (int)strcspn(word, " ");
        if (column > indent && column + 1 + len > HELP_WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            printf(" ");
            column++;
        }
        printf("%.*s", len, word);
        column += len;
        word += len;
        word += strspn(word, " ");
    }
    printf("\n");
}

static void print_help(const opt_command *command) {
    printf("fathom %s - %s\n\nOptions:\n", command->command, command->summary);
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *option = &command->options[i];
        char left[80];
        (void)snprintf(left, sizeof left, "%s%s%s", option->name, option->meta ? " " : "",
                       option->meta ? option->meta : "");
        /* An option wider than its column has its help on the next line. */
        bool wide = strlen(left) > HELP_COLUMN;
        printf("  %-*s%s%*s ", HELP_COLUMN, left, wide ? "\n" : "", wide ? HELP_COLUMN + 2 : 0, "");
        buf help = {0};
        buf_printf(&help, "%s%s", option->help, option->required ? " (required)" : "");
        add_range(&help, option);
        print_wrapped(help.failed ? option->help : help.data);
        buf_deinit(&help);
    }
    printf("  %-*s %s\n  %-*s %s\n", HELP_COLUMN, "--help", "this text", HELP_COLUMN, "--version",
           "the version");
    printf("\nExample:\n  %s\n", command->example);
}

static int usage(const opt_command *command, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int usage(const opt_command *command, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "fathom %s: ", command->command);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (see 'fathom %s --help')\n", command->command);
    va_end(args);
    return -1;
}

static int set_number(const opt_command *command, const opt_row *option, const char *text) {
    char *end = NULL;
    errno = 0;
    if (option->type == OPT_REAL || option->type == OPT_GIVEN_REAL) {
        double value = strtod(text, &end);
        if (end == text || *end || !isfinite(value))
            return usage(command, "%s takes a number, not '%s'", option->name, text);
        if (value < option->min || value > option->max)
            return usage(command, "%s must be %g to %g, not %s", option->name, option->min,
                         option->max, text);
        if (option->type == OPT_REAL) *(double *)option->out = value;
        else *(opt_real *)option->out = (opt_real){value, true};
        return 0;
    }
    if (option->type == OPT_INT) {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || errno)
            return usage(command, "%s takes a whole number, not '%s'", option->name, text);
        if ((double)value < option->min || (double)value > option->max)
            return usage(command, "%s must be %.0f to %.0f, not %s", option->name, option->min,
                         option->max, text);
        *(int64_t *)option->out = value;
        return 0;
    }
    if (!isdigit((unsigned char)text[0]))
        return usage(command, "%s takes a whole number, not '%s'", option->name, text);
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (option->type == OPT_BYTES && *end) {
        shift = *end == 'K' || *end == 'k'   ? 10
                : *end == 'M' || *end == 'm' ? 20
                : *end == 'G' || *end == 'g' ? 30
                                             : 0;
        if (shift) end++;
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (*end || errno || (value << shift) >> shift != value) {
        return usage(command, "%s takes %s, not '%s'", option->name,
                     option->type == OPT_BYTES ? "bytes, as in 512M or 4G" : "a whole number",
                     text);
    }
    value <<= shift;
    if ((double)value < option->min || (double)value > option->max) {
        return usage(command, "%s must be %.0f to %.0f, not %s", option->name, option->min,
                     option->max, text);
    }
    *(uint64_t *)option->out = value;
    return 0;
}

static int set_choice(const opt_command *command, const opt_row *option, const char *text) {
    size_t n = strlen(text);
    for (const char *at = option->meta; *at;) {
        size_t len = strcspn(at, "|");
        if (len == n && memcmp(at, text, n) == 0) {
            *(const char **)option->out = text;
            return 0;
        }
        at += len + (at[len] == '|');
    }
    return usage(command, "%s must be one of %s, not '%s'", option->name, option->meta, text);
}

static int set_value(const opt_command *command, const opt_row *option, const char *text) {
    switch (option->type) {
    case OPT_TEXT: *(const char **)option->out = text; return 0;
    case OPT_CHOICE: return set_choice(command, option, text);
    case OPT_TEXT_MANY: {
        opt_list *list = option->out;
        if (list->n == OPT_LIST_MAX)
            return usage(command, "%s given more than %d times", option->name, OPT_LIST_MAX);
        list->items[list->n++] = text;
        return 0;
    }
    default: return set_number(command, option, text);
    }
}

int opt_parse(const opt_command *command, int argc, char **argv) {
    bool seen[128] = {false};
    if (command->n_options > ARRAY_LEN(seen))
        return usage(command, "too many options in the table");
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *eq = strchr(arg, '=');
        size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) return print_help(command), 1;
        if (strcmp(arg, "--version") == 0) return printf("fathom " FATHOM_VERSION "\n"), 1;
        size_t row = 0;
        while (row < command->n_options && !(strlen(command->options[row].name) == len &&
                                             memcmp(command->options[row].name, arg, len) == 0))
            row++;
        if (row == command->n_options) return usage(command, "unknown option '%s'", arg);
        const opt_row *option = &command->options[row];
        seen[row] = true;
        if (option->type == OPT_FLAG) {
            if (eq) return usage(command, "%s takes no value", option->name);
            *(bool *)option->out = true;
            continue;
        }
        if (eq == NULL && i + 1 >= argc) return usage(command, "%s needs a value", option->name);
        if (set_value(command, option, eq ? eq + 1 : argv[++i]) != 0) return -1;
    }
    for (size_t row = 0; row < command->n_options; row++) {
        if (command->options[row].required && !seen[row])
            return usage(command, "%s is required", command->options[row].name);
    }
    return 0;
}

int opt_read_file(buf *out, const char *option, const char *path, size_t max_bytes, err *e) {
    err why = {0};
    if (file_read(out, path, max_bytes, &why) == 0) return 0;
    return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_USAGE, option, "%s: %s",
                   option, why.msg);
}

int opt_exit_status(const err *e) {
    return e->code == ERR_USAGE || e->code == ERR_BAD_FILE || e->code == ERR_NOT_FOUND ||
                   e->code == ERR_BAD_PARAM || e->code == ERR_TOO_LONG
               ? EXIT_USAGE
               : EXIT_FAILED;
}

int opt_fail(const err *e) {
    fprintf(stderr, "fathom: %s\n", e->msg[0] ? e->msg : err_text(e->code));
    return opt_exit_status(e);
}
