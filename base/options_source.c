/* options_source.c - values of options from the environment and from the file of --config. */
#include "base/config_file.h"
#include "base/options_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20 };

/* ---- the environment ---- */

/* Kubernetes sets FATHOM_PORT=tcp://10.0.0.1:8080 in every pod beside a service called fathom. */
static bool is_service_link(const opt_row *row, const char *text) {
    return strcmp(row->name, "--port") == 0 && strncmp(text, "tcp://", 6) == 0;
}

/* The values of a list stand between commas. */
static int set_list(opt_parser *self, const opt_row *row, const char *said, const char *text) {
    for (const char *at = text; *at;) {
        size_t len = strcspn(at, ",");
        char *item = arena_strndup(&self->args->texts, at, len);
        if (item == NULL) return opt__usage(self, "%s is too long", said);
        if (len > 0 && opt__set(self, row, said, item, FROM_ENVIRONMENT) != 0) return -1;
        at += len + (at[len] == ',');
    }
    return 0;
}

static int read_variable(opt_parser *self, const opt_row *row) {
    buf name = {0};
    int rc = 0;
    const char *text = NULL;
    if (opt_variable(&name, self->command, row) && !name.failed) text = getenv(name.data);
    if (text == NULL || text[0] == 0) {
        rc = 0; /* an empty variable is no value */
    } else if (is_service_link(row, text)) {
        fprintf(stderr, "fathom %s: %s=%s was set by Kubernetes for a service and is ignored\n",
                self->command->command, name.data, text);
    } else if (row->type == OPT_TEXT_MANY) {
        rc = set_list(self, row, name.data, text);
    } else {
        rc = opt__set(self, row, name.data, text, FROM_ENVIRONMENT);
    }
    buf_deinit(&name);
    return rc;
}

int opt__read_environment(opt_parser *self) {
    for (size_t i = 0; i < self->command->n_options; i++) {
        const opt_row *row = &self->command->options[i];
        if (row->type == OPT_MARK || self->source[i] != FROM_DEFAULT) continue;
        if (read_variable(self, row) != 0) return -1;
    }
    return 0;
}

/* ---- the file ---- */

typedef struct {
    opt_parser *parser;
    const char *path;
    opt_source pass; /* FROM_SECTION: lines of this command; then FROM_FILE: lines of all */
    unsigned line_of[OPT_MAX_ROWS];
} file_reader;

static int unknown_entry(const file_reader *self, const config_entry *entry, const char *name) {
    const opt_parser *parser = self->parser;
    bool (*known)(const char *, const char *) = parser->args->known;
    /* Lines before the first section serve every command. */
    if (self->pass == FROM_FILE && known && known(NULL, name)) return 0;
    buf hint = {0};
    if (known && known(entry->name, NULL))
        buf_printf(&hint, "; the options of a command stand after a line [%s]", entry->name);
    else opt__suggest(&hint, parser->command, name, "");
    int rc = opt__usage(parser, "%s:%u: unknown option '%s'%s", self->path, entry->line,
                        entry->name, hint.data ? hint.data : "");
    buf_deinit(&hint);
    return rc;
}

/* One item of a list in brackets; *at moves behind it. */
static int set_item(file_reader *self, const opt_row *row, const char *said, const char **at) {
    const char *from = *at, *mark = strchr("'\"", *from);
    size_t n = strcspn(from, ",]");
    if (*from && mark) {
        const char *end = strchr(++from, *mark);
        if (end == NULL)
            return opt__usage(self->parser, "%s: the closing %c is missing", said, *mark);
        n = (size_t)(end - from);
        *at = end + 1;
    } else {
        *at = from + n;
        while (n > 0 && (from[n - 1] == ' ' || from[n - 1] == '\t'))
            n--;
    }
    char *item = arena_strndup(&self->parser->args->texts, from, n);
    if (item == NULL) return opt__usage(self->parser, "%s is too long", said);
    return opt__set(self->parser, row, said, item, self->pass);
}

/* YAML's list in one line: [a, 'b', "c"]. */
static int set_items(file_reader *self, const opt_row *row, const char *said, const char *text) {
    for (const char *at = text + 1;;) {
        at += strspn(at, " \t");
        if (*at == ']' && at[1] == 0) return 0;
        if (*at == 0 || *at == ']' || *at == ',')
            return opt__usage(self->parser, "%s: expected [a, b, c], not '%s'", said, text);
        if (set_item(self, row, said, &at) != 0) return -1;
        at += strspn(at, " \t");
        if (*at == ',') at++;
        else if (*at != ']')
            return opt__usage(self->parser, "%s: expected [a, b, c], not '%s'", said, text);
    }
}

static int apply(file_reader *self, const config_entry *entry, const char *name) {
    opt_parser *parser = self->parser;
    const opt_row *row = opt_find(parser->command, name, strlen(name));
    if (row == NULL) return unknown_entry(self, entry, name);
    size_t at = (size_t)(row - parser->command->options);
    if (parser->source[at] > self->pass) return 0;
    if (parser->source[at] == self->pass && row->type != OPT_TEXT_MANY)
        return opt__usage(parser, "%s:%u: '%s' is given in line %u already", self->path,
                          entry->line, entry->name, self->line_of[at]);
    self->line_of[at] = entry->line;
    buf said = {0};
    buf_printf(&said, "%s:%u: %s", self->path, entry->line, entry->name);
    const char *label = said.data ? said.data : name;
    bool items = row->type == OPT_TEXT_MANY && !entry->quoted && entry->value[0] == '[';
    int rc = items ? set_items(self, row, label, entry->value)
                   : opt__set(parser, row, label, entry->value, self->pass);
    buf_deinit(&said);
    return rc;
}

/* 1 ends the reading after an error is printed. */
static int on_entry(void *ud, const config_entry *entry) {
    file_reader *self = ud;
    const opt_parser *parser = self->parser;
    bool section = entry->section[0] != 0;
    bool own = section && strcmp(entry->section, parser->command->command) == 0;
    if (section && !own && parser->args->known && !parser->args->known(entry->section, NULL))
        return (void)opt__usage(parser, "%s:%u: there is no command '%s'", self->path, entry->line,
                                entry->section),
               1;
    if (self->pass == FROM_SECTION ? !own : section) return 0;
    buf name = {0};
    buf_printf(&name, "--%s", entry->name);
    for (char *at = name.data; at && *at; at++) {
        if (*at == '_') *at = '-';
    }
    bool whole = name.data && !name.failed;
    int rc = whole ? apply(self, entry, name.data) : opt__usage(parser, "out of memory");
    buf_deinit(&name);
    return rc == 0 ? 0 : 1;
}

static int read_passes(opt_parser *self, const char *path, buf *text) {
    static const opt_source passes[] = {FROM_SECTION, FROM_FILE};
    for (size_t i = 0; i < ARRAY_LEN(passes); i++) {
        file_reader reader = {.parser = self, .path = path, .pass = passes[i]};
        err e = {0};
        char *copy = arena_strndup(&self->args->texts, text->data ? text->data : "", text->len);
        if (copy == NULL) return opt__usage(self, "--config: out of memory");
        int rc = config_file_read(copy, text->len, on_entry, &reader, &e);
        if (rc < 0) return opt__usage(self, "%s:%s", path, e.msg);
        if (rc > 0) return -1;
    }
    return 0;
}

int opt__read_config(opt_parser *self) {
    const char *path = self->config ? self->config : getenv("FATHOM_CONFIG");
    if (path == NULL || path[0] == 0) return 0;
    buf text = {0};
    err e = {0};
    int rc = opt_read_file(&text, self->config ? "--config" : "FATHOM_CONFIG", path,
                           MAX_CONFIG_BYTES, &e);
    if (rc != 0) (void)opt__usage(self, "%s", e.msg);
    else rc = read_passes(self, path, &text);
    buf_deinit(&text);
    return rc;
}
