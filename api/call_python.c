/* call_python.c - the arguments of a call that a model writes in Python, as Llama does:
 *
 *   brave_search.call(query="weather in Ur", days=3, exact=True)
 *
 * Values are strings, numbers, True, False, None, and lists or dicts that are JSON too. */
#include "api/request_internal.h"

enum { MAX_ARGUMENTS = 64 };

typedef struct {
    const char *text;
    size_t n;
} piece;

bool api__python_byte(api__reader *reader, char byte) {
    if (reader->in_string) {
        if (reader->escaped) reader->escaped = false;
        else if (byte == '\\') reader->escaped = true;
        else if (byte == reader->quote) reader->in_string = false;
    } else if (byte == '"' || byte == '\'') {
        reader->in_string = true;
        reader->quote = byte;
    } else if (byte && strchr("([{", byte)) {
        reader->depth++;
    } else if (byte && strchr(")]}", byte)) {
        return --reader->depth == 0;
    }
    return false;
}

static piece trimmed(piece part) {
    while (part.n > 0 && api__is_blank(part.text[part.n - 1]))
        part.n--;
    while (part.n > 0 && api__is_blank(*part.text)) {
        part.text++;
        part.n--;
    }
    return part;
}

/* Takes the next argument, up to a comma outside strings and brackets. */
static piece take(piece *rest) {
    api__reader reader = {.depth = 1};
    size_t n = 0;
    while (n < rest->n) {
        char byte = rest->text[n];
        if (byte == ',' && reader.depth == 1 && !reader.in_string) break;
        (void)api__python_byte(&reader, byte);
        n++;
    }
    piece part = {rest->text, n};
    size_t taken = n < rest->n ? n + 1 : n;
    rest->text += taken;
    rest->n -= taken;
    return trimmed(part);
}

/* The byte of an escape; 0: the backslash is a byte of its own. */
static char unescaped(char byte) {
    switch (byte) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case '\\':
    case '\'':
    case '"': return byte;
    default: return 0;
    }
}

static bool write_string(buf *out, piece value) {
    buf plain = {0};
    size_t i = 1;
    for (; i < value.n && value.text[i] != value.text[0]; i++) {
        char byte = value.text[i],
             escape = byte == '\\' && i + 1 < value.n ? unescaped(value.text[i + 1]) : 0;
        if (escape) i++;
        buf_append(&plain, escape ? &escape : &byte, 1);
    }
    bool ended = i + 1 == value.n;
    if (ended) buf_json_string(out, plain.data ? plain.data : "", plain.len);
    if (plain.failed) out->failed = true;
    buf_deinit(&plain);
    return ended;
}

static bool is_json(buf *out, piece value) {
    const json_limits limits = {value.n, API__MAX_DEPTH, API__MAX_STRUCTURAL};
    json_t *root = NULL;
    err why = {0};
    if (!strchr("[{", value.text[0])) return false;
    int rc = json_parse_nul(&root, value.text, value.n, &limits, "value", &why);
    json_decref(root);
    if (rc != 0 && why.code == ERR_NO_MEMORY) out->failed = true;
    return rc == 0;
}

static bool write_value(buf *out, piece value) {
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    if (value.n == 0) return false;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strlen(words[i][0]) != value.n || memcmp(words[i][0], value.text, value.n) != 0)
            continue;
        buf_puts(out, words[i][1]);
        return true;
    }
    if (value.text[0] == '"' || value.text[0] == '\'') return write_string(out, value);
    if (!api__is_number(value.text, value.n) && !is_json(out, value)) return false;
    buf_append(out, value.text, value.n);
    return true;
}

static bool is_word(piece name) {
    for (size_t i = 0; i < name.n; i++) {
        char byte = name.text[i];
        bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
        if (!letter && !(byte >= '0' && byte <= '9') && byte != '_') return false;
    }
    return name.n > 0;
}

static bool is_among(const piece *names, size_t n, piece name) {
    for (size_t i = 0; i < n; i++) {
        if (names[i].n == name.n && memcmp(names[i].text, name.text, name.n) == 0) return true;
    }
    return false;
}

bool api__python_arguments(buf *out, const char *text, size_t n) {
    piece rest = {text, n}, names[MAX_ARGUMENTS];
    buf_puts(out, "{");
    for (size_t i = 0; trimmed(rest).n > 0; i++) {
        piece argument = take(&rest), name = argument, value = argument;
        const char *equals = memchr(argument.text, '=', argument.n);
        if (equals == NULL || i == MAX_ARGUMENTS) return false;
        name.n = (size_t)(equals - argument.text);
        value.text = equals + 1;
        value.n -= name.n + 1;
        names[i] = trimmed(name);
        if (!is_word(names[i]) || is_among(names, i, names[i])) return false;
        if (i > 0) buf_puts(out, ",");
        buf_json_string(out, names[i].text, names[i].n);
        buf_puts(out, ":");
        if (!write_value(out, trimmed(value))) return false;
    }
    buf_puts(out, "}");
    return !out->failed;
}
