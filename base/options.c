/* options.c - the table of a command's options: looking it up, and parsing a command line. */
#include "base/file.h"
#include "base/nearest.h"
#include "base/options_internal.h"
#include "base/version.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXT_BYTES = 4 << 20 };

void opt_args_init(opt_args *args, int argc, char **argv) {
    *args = (opt_args){.argc = argc, .argv = argv};
    arena_init(&args->texts, MAX_TEXT_BYTES);
}

void opt_args_deinit(opt_args *args) {
    arena_deinit(&args->texts);
}

/* ---- the table ---- */

static bool is_mark(const opt_row *row, opt_mark mark) {
    return row->type == OPT_MARK && row->min == (double)mark;
}

static bool is_name(const opt_row *row) {
    return row->type != OPT_MARK || is_mark(row, OPT_MARK_OTHER_NAME) ||
           is_mark(row, OPT_MARK_OLD_NAME);
}

const opt_row *opt_find(const opt_command *command, const char *name, size_t len) {
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *row = &command->options[i];
        if (!is_name(row) || strlen(row->name) != len || memcmp(row->name, name, len) != 0)
            continue;
        return row->type == OPT_MARK ? opt_find(command, row->meta, strlen(row->meta)) : row;
    }
    return NULL;
}

const opt_row *opt_marked(const opt_command *command, opt_mark mark) {
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *row = &command->options[i];
        if (is_mark(row, mark)) return opt_find(command, row->meta, strlen(row->meta));
    }
    return NULL;
}

/* Steps through the options of one group. */
static const opt_row *nth_of_group(const opt_command *command, const char *title, size_t *n) {
    const char *group = "";
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *row = &command->options[i];
        if (is_mark(row, OPT_MARK_GROUP)) group = row->name;
        if (row->type == OPT_MARK || strcmp(group, title) != 0) continue;
        if ((*n)-- == 0) return row;
    }
    return NULL;
}

static bool is_new_group(const opt_command *command, size_t at) {
    const opt_row *row = &command->options[at];
    if (!is_mark(row, OPT_MARK_GROUP) || row->name[0] == 0) return false;
    for (size_t i = 0; i < at; i++) {
        if (is_mark(&command->options[i], OPT_MARK_GROUP) &&
            strcmp(command->options[i].name, row->name) == 0)
            return false;
    }
    return true;
}

const opt_row *opt_next(const opt_command *command, size_t n, const char **group) {
    *group = "";
    const opt_row *row = nth_of_group(command, "", &n);
    for (size_t i = 0; row == NULL && i < command->n_options; i++) {
        if (!is_new_group(command, i)) continue;
        *group = command->options[i].name;
        row = nth_of_group(command, *group, &n);
    }
    return row;
}

bool opt_variable(buf *out, const opt_command *command, const opt_row *row) {
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *other = &command->options[i];
        if (is_mark(other, OPT_MARK_NO_ENVIRONMENT) && strcmp(other->meta, row->name) == 0)
            return false;
    }
    buf_puts(out, "FATHOM");
    for (const char *at = row->name + 1; *at; at++) {
        char byte = *at == '-' ? '_' : *at >= 'a' && *at <= 'z' ? (char)(*at - 'a' + 'A') : *at;
        buf_append(out, &byte, 1);
    }
    return true;
}

void opt__suggest(buf *out, const opt_command *command, const char *name, const char *dashes) {
    nearest found;
    nearest_start(&found, name);
    for (size_t i = 0; i < command->n_options; i++) {
        if (is_name(&command->options[i])) nearest_offer(&found, command->options[i].name);
    }
    nearest_offer(&found, "--config");
    nearest_offer(&found, "--help");
    nearest_offer(&found, "--version");
    if (found.best) buf_printf(out, "; did you mean '%s%s'?", dashes, found.best + 2);
}

int opt__usage(const opt_parser *self, const char *fmt, ...) {
    const char *command = self->command->command;
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "fathom %s: ", command);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (see 'fathom %s --help')\n", command);
    va_end(args);
    return -1;
}

/* ---- the command line ---- */

static int unknown(const opt_parser *self, const char *arg) {
    buf hint = {0};
    if (arg[0] == '-') opt__suggest(&hint, self->command, arg, "--");
    int rc = opt__usage(self, "unknown %s '%s'%s", arg[0] == '-' ? "option" : "argument", arg,
                        hint.data ? hint.data : "");
    buf_deinit(&hint);
    return rc;
}

/* An argument without dashes: the value of the option that is marked for it. */
static int bare(opt_parser *self, const char *arg) {
    const opt_row *row = NULL;
    if (strcmp(arg, "-") == 0) row = opt_marked(self->command, OPT_MARK_DASH);
    if (row == NULL) row = opt_marked(self->command, OPT_MARK_BARE);
    if (row == NULL) return unknown(self, arg);
    if (self->source[row - self->command->options] == FROM_ARGUMENT && row->type != OPT_TEXT_MANY)
        return opt__usage(self, "unexpected argument '%s': %s is given already", arg, row->name);
    self->bare = row;
    return opt__set(self, row, row->name, arg, FROM_ARGUMENT);
}

static bool is_option(const char *arg, size_t len, const char *name) {
    return strlen(name) == len && memcmp(arg, name, len) == 0;
}

/* Reads the option at *i, and its value. 1: printed help or version. */
static int option(opt_parser *self, int *i) {
    const opt_args *args = self->args;
    const char *arg = args->argv[*i], *eq = strchr(arg, '='), *value = eq ? eq + 1 : NULL;
    size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
    const opt_row *row = opt_find(self->command, arg, len);
    if (strcmp(arg, "-h") == 0 || is_option(arg, len, "--help"))
        return opt__help(self, value) == 0 ? 1 : -1;
    if (strcmp(arg, "--version") == 0) return printf("%s\n", version_line()), 1;
    bool config = row == NULL && is_option(arg, len, "--config");
    if (row == NULL && !config) return unknown(self, arg);
    const char *name = config ? "--config" : row->name;
    if (!config && row->type == OPT_FLAG && value == NULL) value = "true";
    if (value == NULL && *i + 1 >= args->argc) return opt__usage(self, "%s needs a value", name);
    if (value == NULL) value = args->argv[++*i];
    if (!config && row == self->bare && row->type != OPT_TEXT_MANY)
        return opt__usage(self, "%s is given twice: by its name, and without it", name);
    if (!config) return opt__set(self, row, name, value, FROM_ARGUMENT);
    self->config = value;
    return 0;
}

static int arguments(opt_parser *self) {
    bool options = true; /* until "--" */
    for (int i = 1; i < self->args->argc; i++) {
        const char *arg = self->args->argv[i];
        int rc = 0;
        if (options && strcmp(arg, "--") == 0) options = false;
        else if (options && arg[0] == '-' && arg[1]) rc = option(self, &i);
        else rc = bare(self, arg);
        if (rc != 0) return rc;
    }
    return 0;
}

int opt_parse(const opt_command *command, opt_args *args) {
    if (args->show) return args->show(args->ud, command), 1;
    opt_parser self = {.command = command, .args = args};
    if (command->n_options > OPT_MAX_ROWS) return opt__usage(&self, "too many rows in the table");
    int rc = arguments(&self);
    if (rc == 0) rc = opt__read_environment(&self);
    if (rc == 0) rc = opt__read_config(&self);
    if (rc != 0) return rc;
    for (size_t i = 0; i < command->n_options; i++) {
        if (command->options[i].required && self.source[i] == FROM_DEFAULT)
            return opt__usage(&self, "%s is required", command->options[i].name);
    }
    return 0;
}

/* ---- failures ---- */

int opt_read_file(buf *out, const char *option, const char *path, size_t max_bytes, err *e) {
    err why = {0};
    if (file_read(out, path, max_bytes, &why) == 0) return 0;
    return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_USAGE, option, "%s: %s",
                   option, why.msg);
}

int opt_read_stdin(buf *out, const char *option, size_t max_bytes, err *e) {
    char chunk[65536];
    size_t n;
    out->max = max_bytes;
    while (!out->failed && (n = fread(chunk, 1, sizeof chunk, stdin)) > 0)
        buf_append(out, chunk, n);
    if (ferror(stdin)) return err_set(e, ERR_IO, option, "%s -: %s", option, strerror(errno));
    if (!out->failed) return 0;
    return err_set(e, ERR_USAGE, option, "%s -: stdin holds more than %zu MB", option,
                   max_bytes >> 20);
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
