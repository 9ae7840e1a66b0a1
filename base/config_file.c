/* config_file.c - reads a file of options, line by line and in place. */
#include "base/config_file.h"
#include "base/utf8.h"

#include <string.h>

typedef struct {
    config_entry entry;
    unsigned open; /* line of a name without a value, which list items may follow; 0: none */
    unsigned n_items;
    err *e;
} reader;

static int wrong(const reader *self, const char *what) {
    return err_set(self->e, ERR_USAGE, NULL, "%u: %s", self->entry.line, what);
}

static bool is_blank(char byte) {
    return byte == ' ' || byte == '\t' || byte == '\r';
}

static char *skip_blanks(char *at) {
    while (is_blank(*at))
        at++;
    return at;
}

/* Cuts blanks off the end. */
static void trim(char *text) {
    size_t n = strlen(text);
    while (n > 0 && is_blank(text[n - 1]))
        text[--n] = 0;
}

/* Only a comment may follow a quoted text or a section. */
static bool is_end(char *at) {
    bool blank = is_blank(*at);
    at = skip_blanks(at);
    return *at == 0 || (blank && (*at == '#' || *at == ';'));
}

/* 'it''s' */
static int single_quoted(const reader *self, char *at, char **value) {
    char *out = at, *from = at + 1;
    *value = out;
    for (;; from++) {
        if (*from == 0) return wrong(self, "the closing ' is missing");
        if (*from == '\'' && *++from != '\'') break;
        *out++ = *from;
    }
    if (!is_end(from)) return wrong(self, "text follows the closing '");
    *out = 0;
    return 0;
}

/* "a \"word\" \\ \n \t" */
static int double_quoted(const reader *self, char *at, char **value) {
    static const char escapes[] = "\"\\nt", bytes[] = "\"\\\n\t";
    char *out = at, *from = at + 1;
    *value = out;
    for (; *from != '"'; from++) {
        if (*from == 0) return wrong(self, "the closing \" is missing");
        if (*from == '\\') {
            const char *known = from[1] ? strchr(escapes, from[1]) : NULL;
            if (known == NULL) return wrong(self, "after \\ only \" \\ n and t may stand");
            *out++ = bytes[known - escapes];
            from++;
        } else {
            *out++ = *from;
        }
    }
    if (!is_end(from + 1)) return wrong(self, "text follows the closing \"");
    *out = 0;
    return 0;
}

/* The value that begins at `at`. NULL: there is none. */
static int read_value(reader *self, char *at, char **value) {
    at = skip_blanks(at);
    *value = NULL;
    self->entry.quoted = *at == '\'' || *at == '"';
    if (*at == '\'') return single_quoted(self, at, value);
    if (*at == '"') return double_quoted(self, at, value);
    for (char *end = at; *end; end++) {
        if (*end == '#' && (end == at || is_blank(end[-1]))) *end = 0;
        if (*end == 0) break;
    }
    trim(at);
    if (*at) *value = at;
    return 0;
}

static int read_section(reader *self, char *at) {
    char *name = skip_blanks(at + 1), *end = strchr(name, ']');
    if (end == NULL) return wrong(self, "the closing ] is missing");
    if (!is_end(end + 1)) return wrong(self, "text follows the closing ]");
    *end = 0;
    trim(name);
    if (*name == 0) return wrong(self, "the section has no name");
    self->entry.section = name;
    return 0;
}

static bool is_name_byte(char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
}

/* Ends a list: its name must have had a value. */
static int close_entry(reader *self) {
    unsigned line = self->open;
    self->open = 0;
    if (line == 0 || self->n_items > 0) return 0;
    return err_set(self->e, ERR_USAGE, NULL, "%u: the name has no value; '' is an empty text",
                   line);
}

static int read_item(reader *self, char *at, bool *found) {
    char *value;
    if (self->open == 0) return wrong(self, "a list item needs a line 'name:' before it");
    if (read_value(self, at, &value) != 0) return -1;
    if (value == NULL) return wrong(self, "the list item has no value; '' is an empty text");
    self->entry.value = value;
    self->n_items++;
    *found = true;
    return 0;
}

static int read_name(reader *self, char *at, bool *found) {
    char *end = at, *value;
    while (is_name_byte(*end))
        end++;
    char *mark = skip_blanks(end);
    if (end == at || *at == '-' || (*mark != ':' && *mark != '='))
        return wrong(self, "expected 'name: value', 'name = value' or [command]");
    if (read_value(self, mark + 1, &value) != 0) return -1;
    *end = 0;
    self->entry.name = at;
    self->entry.value = value;
    self->open = value ? 0 : self->entry.line;
    self->n_items = 0;
    *found = value != NULL;
    return 0;
}

/* *found: the line holds a value. */
static int read_line(reader *self, char *line, bool *found) {
    *found = false;
    char *at = skip_blanks(line);
    if (*at == 0 || *at == '#' || *at == ';') return 0;
    if (*at == '-' && (is_blank(at[1]) || at[1] == 0)) return read_item(self, at + 1, found);
    if (close_entry(self) != 0) return -1;
    if (strncmp(at, "---", 3) == 0 && is_end(at + 3)) return 0; /* YAML's mark of a document */
    return *at == '[' ? read_section(self, at) : read_name(self, at, found);
}

int config_file_read(char *text, size_t n, int (*put)(void *ud, const config_entry *entry),
                     void *ud, err *e) {
    reader self = {.entry.section = "", .e = e};
    if (!utf8_valid(text, n)) return err_set(e, ERR_USAGE, NULL, " the file is not UTF-8 text");
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, n -= 3; /* Windows' mark of UTF-8 */
    for (char *line = text, *end = text + n; line < end;) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (stop == NULL) stop = end;
        *stop = 0;
        self.entry.line++;
        bool found;
        if (strlen(line) != (size_t)(stop - line))
            return wrong(&self, "the line holds a zero byte");
        if (read_line(&self, line, &found) != 0) return -1;
        int rc = found ? put(ud, &self.entry) : 0;
        if (rc != 0) return rc;
        line = stop + 1;
    }
    return close_entry(&self);
}
