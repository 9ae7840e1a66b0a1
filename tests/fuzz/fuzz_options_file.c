/* fuzz_options_file.c - any bytes as a file of options. Every entry is a text inside the file, and
 * the entries written anew, with quotes, are read back the same. */
#include "base/buf.h"
#include "base/config_file.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *text;
    size_t n;
    unsigned line;
    buf plain; /* the entries, to compare */
    buf file;  /* the entries as a file */
} reading;

static bool is_inside(const reading *self, const char *text) {
    return text >= self->text && text + strlen(text) <= self->text + self->n;
}

static int on_entry(void *ud, const config_entry *entry) {
    reading *self = ud;
    if (entry->line < self->line || entry->line == 0 || entry->name[0] == 0) abort();
    if (!is_inside(self, entry->name) || !is_inside(self, entry->value)) abort();
    if (entry->section[0] && !is_inside(self, entry->section)) abort();
    self->line = entry->line;
    buf_printf(&self->plain, "%zu:%s%zu:%s%zu:%s", strlen(entry->section), entry->section,
               strlen(entry->name), entry->name, strlen(entry->value), entry->value);
    if (entry->section[0]) buf_printf(&self->file, "[%s]\n", entry->section);
    buf_printf(&self->file, "%s = \"", entry->name);
    for (const char *at = entry->value; *at; at++) {
        if (*at == '"' || *at == '\\') buf_printf(&self->file, "\\%c", *at);
        else if (*at == '\n') buf_puts(&self->file, "\\n");
        else buf_append(&self->file, at, 1);
    }
    buf_puts(&self->file, "\"\n");
    return 0;
}

static int read(reading *self, const void *data, size_t n, err *e) {
    char *copy = malloc(n + 1);
    if (copy == NULL) abort();
    if (n) memcpy(copy, data, n);
    copy[n] = 0;
    *self = (reading){.text = copy, .n = n};
    int rc = config_file_read(copy, n, on_entry, self, e);
    free(copy);
    return rc;
}

static void one_input(const uint8_t *data, size_t n) {
    reading first, again = {0};
    err e = {0};
    if (read(&first, data, n, &e) != 0) {
        if (e.code != ERR_USAGE || e.msg[0] == 0) abort();
    } else if (first.file.len) {
        if (read(&again, first.file.data, first.file.len, &e) != 0) abort();
        if (again.plain.len != first.plain.len ||
            memcmp(again.plain.data, first.plain.data, first.plain.len) != 0)
            abort();
    }
    buf_deinit(&first.plain);
    buf_deinit(&first.file);
    buf_deinit(&again.plain);
    buf_deinit(&again.file);
}

FUZZ_TARGET(one_input, 100, 200)
