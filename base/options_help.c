/* options_help.c - prints the table of a command's options: --help, and its parts. */
#include "base/options_internal.h"

#include <stdio.h>
#include <string.h>

enum { HELP_COLUMN = 34, HELP_WIDTH = 100 };
#define MAX_SHOWN 1e9 /* a larger limit is no use to a reader */

static const opt_row common[] = {
    {"--config", OPT_TEXT, NULL, "FILE",
     "file of options, a line each: 'max-rows: 64' or 'max-rows = 64'; lines after [serve] are for "
     "that command only",
     0, 0, false},
    {"--help", OPT_FLAG, NULL, "[=WORD]",
     "this text, or the groups and options that WORD is part of", 0, 0, false},
    {"--version", OPT_FLAG, NULL, NULL, "the version", 0, 0, false},
};

const opt_row *opt_common(size_t n) {
    return n < ARRAY_LEN(common) ? &common[n] : NULL;
}

/* Appends the numbers that an option takes: " [1 to 65536]", " [at least 64K]". */
static void add_range(buf *out, const opt_row *row) {
    bool whole = row->type == OPT_UINT || row->type == OPT_INT || opt_takes_number(row);
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

bool opt_takes_number(const opt_row *row) {
    return row->type == OPT_CHOICE && row->max > row->min;
}

void opt_describe(buf *out, const opt_command *command, const opt_row *row) {
    buf variable = {0};
    buf_printf(out, "%s%s", row->help, row->required ? " (required)" : "");
    add_range(out, row);
    const char *before = "; also ";
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *other = &command->options[i];
        if (other->type != OPT_MARK || other->min != OPT_MARK_OTHER_NAME ||
            strcmp(other->meta, row->name) != 0)
            continue;
        buf_printf(out, "%s%s", before, other->name);
        before = ", ";
    }
    if (row->out && !opt_variable(&variable, command, row)) buf_puts(out, "; no variable sets it");
    buf_deinit(&variable);
}

void opt_usage(buf *out, const opt_command *command) {
    const opt_row *bare = opt_marked(command, OPT_MARK_BARE);
    buf_printf(out, "fathom %s", command->command);
    if (bare)
        buf_printf(out, "%s%s%s", bare->required ? " " : " [", bare->meta,
                   bare->required ? "" : "]");
    buf_puts(out, " [options]");
}

void opt_wrap(FILE *to, int indent, const char *text) {
    int column = indent;
    for (const char *word = text; *word;) {
        int len = (int)strcspn(word, " ");
        if (column > indent && column + 1 + len > HELP_WIDTH) {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', to);
            column++;
        }
        fprintf(to, "%.*s", len, word);
        column += len;
        word += len;
        word += strspn(word, " ");
    }
    fputc('\n', to);
}

static void print_row(const opt_command *command, const opt_row *row) {
    char left[128];
    const char *space = row->meta && row->meta[0] != '[' ? " " : "";
    (void)snprintf(left, sizeof left, "%s%s%s", row->name, space, row->meta ? row->meta : "");
    /* An option wider than its column has its help on the next line. */
    bool wide = strlen(left) > HELP_COLUMN;
    printf("  %-*s%s%*s ", HELP_COLUMN, left, wide ? "\n" : "", wide ? HELP_COLUMN + 2 : 0, "");
    buf help = {0};
    opt_describe(&help, command, row);
    opt_wrap(stdout, HELP_COLUMN + 3, help.failed ? row->help : help.data);
    buf_deinit(&help);
}

/* Whether the row, or its group, is about the word. NULL: every row is. */
static bool is_about(const opt_row *row, const char *group, const char *word) {
    return word == NULL || strcasestr(group, word) || strcasestr(row->name, word) ||
           strcasestr(row->help, word);
}

static size_t print_rows(const opt_command *command, const char *word) {
    const char *group = "", *printed = NULL;
    size_t shown = 0;
    const opt_row *row;
    for (size_t i = 0; (row = opt_next(command, i, &group)) != NULL; i++) {
        if (!is_about(row, group, word)) continue;
        if (printed == NULL || strcmp(printed, group) != 0)
            printf("\n%s:\n", group[0] ? group : "Options");
        printed = group;
        print_row(command, row);
        shown++;
    }
    return shown;
}

static void print_common(const opt_command *command) {
    printf("\nCommon:\n");
    for (size_t i = 0; i < ARRAY_LEN(common); i++) {
        if (!opt_find(command, common[i].name, strlen(common[i].name)))
            print_row(command, &common[i]);
    }
    printf("\nEach option is also an environment variable: --max-rows is FATHOM_MAX_ROWS. The "
           "command line\ncounts first, then the environment, then the file of --config.\n");
}

/* What the command does, and how it is called. */
static void print_summary(const opt_command *command) {
    buf usage = {0}, first = {0};
    size_t n = strcspn(command->summary, "\n");
    const char *more = command->summary + n;
    opt_usage(&usage, command);
    buf_printf(&first, "fathom %s - %.*s", command->command, (int)n, command->summary);
    if (!usage.failed && !first.failed) {
        opt_wrap(stdout, 0, first.data);
        printf("%s%s\nUsage: %s\n", more + (more[0] ? 1 : 0), more[0] ? "\n" : "", usage.data);
    }
    buf_deinit(&usage);
    buf_deinit(&first);
}

int opt__help(const opt_parser *self, const char *part) {
    const opt_command *command = self->command;
    if (part) {
        if (print_rows(command, part) > 0) return 0;
        return opt__usage(self, "no option is about '%s'", part);
    }
    print_summary(command);
    print_rows(command, NULL);
    print_common(command);
    printf("\nExample:\n  %s\n", command->example);
    return 0;
}
