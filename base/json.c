/* json.c - jansson behind limits, and JSON strings for writing.
 *
 * jansson bounds nesting but not memory: a megabyte of "[{},{}," becomes 75 MB of
 * heap. One pass over the text counts what will cost memory before any is spent. */
#include "base/json.h"
#include "base/clock.h"
#include "base/utf8.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* jansson 2.14 does not survive a failed allocation: it may report a syntax error, drop a
 * byte of a string and report success, write past a block, or abort. So a parse that runs
 * out never sees the failure: the hook leaves it by longjmp, and what it held, noted here,
 * is freed. */
static _Thread_local struct {
    bool active;
    void **live; /* allocated by this parse and not freed */
    size_t n, cap;
    jmp_buf escape;
} parse;

static bool note(void *p) {
    if (parse.n == parse.cap) {
        size_t cap = parse.cap ? 2 * parse.cap : 256;
        void **live = realloc(parse.live, cap * sizeof *live);
        if (live == NULL) return false;
        parse.live = live;
        parse.cap = cap;
    }
    parse.live[parse.n++] = p;
    return true;
}

static void *hook_malloc(size_t n) {
    void *p = malloc(n);
    if (!parse.active || (p && note(p))) return p;
    free(p);
    longjmp(parse.escape, 1);
}

static void hook_free(void *p) {
    if (parse.active && p) { /* nearly always among the last */
        size_t i = parse.n;
        while (i > 0 && parse.live[i - 1] != p)
            i--;
        if (i > 0) parse.live[i - 1] = parse.live[--parse.n];
    }
    free(p);
}

void json_setup(void) {
    size_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed || seed == 0) {
        seed = (size_t)clock_ns() | 1;
    }
    json_set_alloc_funcs(hook_malloc, hook_free);
    json_object_seed(seed);
}

/* -1 when memory ran out; 0 with *out NULL and *why filled when the text is wrong. */
static int load(json_t **out, const char *text, size_t n, json_error_t *why) {
    *out = NULL;
    int rc = 0;
    if (setjmp(parse.escape) == 0) {
        parse.active = true;
        *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, why);
    } else {
        while (parse.n > 0)
            free(parse.live[--parse.n]);
        rc = -1;
    }
    parse.active = false;
    free(parse.live);
    parse.live = NULL;
    parse.n = parse.cap = 0;
    return rc;
}

/* Strings are skipped, escapes included; anything malformed is left to jansson. */
static int scan(const char *text, size_t n, const json_limits *limits, const char *what, err *e) {
    size_t depth = 0, structural = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
            continue;
        }
        switch (c) {
        case '"': in_string = true; break;
        case '{':
        case '[':
            if (++depth > limits->max_depth) {
                return err_set(e, ERR_BAD_PARAM, NULL, "%s: nested deeper than %zu at byte %zu",
                               what, limits->max_depth, i);
            }
            structural++;
            break;
        case '}':
        case ']':
            if (depth > 0) depth--;
            structural++;
            break;
        case ',':
        case ':': structural++; break;
        default: break;
        }
    }
    if (structural > limits->max_structural) {
        return err_set(e, ERR_BAD_PARAM, NULL, "%s: more than %zu JSON elements", what,
                       limits->max_structural);
    }
    return 0;
}

/* The plain key that ends at text[end]; "" if it has escapes or does not fit. */
static void key_before(const char *text, size_t n, int end, char *out, size_t cap) {
    out[0] = 0;
    if (end < 2 || (size_t)end > n || text[end - 1] != '"') return;
    size_t at = (size_t)end - 1, len = 0;
    while (at > 0 && text[at - 1] != '"' && text[at - 1] != '\\' && len < cap)
        at--, len++;
    if (at == 0 || text[at - 1] != '"' || len >= cap) return;
    memcpy(out, text + at, len);
    out[len] = 0;
}

int json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
               const char *what, err *e) {
    *out = NULL;
    if (n > limits->max_bytes) {
        return err_set(e, ERR_BAD_PARAM, NULL, "%s: %zu bytes, at most %zu are accepted", what, n,
                       limits->max_bytes);
    }
    if (scan(text, n, limits, what, e) != 0) return -1;
    json_error_t why;
    json_t *root;
    if (load(&root, text, n, &why) != 0) {
        return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory while parsing", what);
    }
    if (root == NULL) { /* jansson's own text quotes the input; the place is enough */
        if (json_error_code(&why) == json_error_duplicate_key) {
            char key[64];
            key_before(text, n, why.position, key, sizeof key);
            return err_set(e, ERR_BAD_PARAM, key, "%s: a key appears twice (line %d, column %d)",
                           what, why.line, why.column);
        }
        return err_set(e, ERR_BAD_PARAM, NULL, "%s: not valid JSON (line %d, column %d)", what,
                       why.line, why.column);
    }
    *out = root;
    return 0;
}

/* U+2028, U+2029 and U+0085 are escaped too: readers that split text into lines by Unicode's
 * rules would cut an event in two. */
void buf_json_escaped(buf *b, const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t plain = 0; /* start of the run not yet written */
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char(text + i, n - i);
        bool line_end =
            (len == 3 && s[i] == 0xe2 && s[i + 1] == 0x80 && (s[i + 2] & 0xfe) == 0xa8) ||
            (len == 2 && s[i] == 0xc2 && s[i + 1] == 0x85);
        bool escape =
            len == 0 || s[i] < 0x20 || s[i] == '"' || s[i] == '\\' || s[i] == 0x7f || line_end;
        if (!escape) {
            i += len;
            continue;
        }
        buf_append(b, text + plain, i - plain);
        if (len == 0) buf_puts(b, UTF8_REPLACEMENT);
        else if (s[i] == '"') buf_puts(b, "\\\"");
        else if (s[i] == '\\') buf_puts(b, "\\\\");
        else if (s[i] == '\n') buf_puts(b, "\\n");
        else if (line_end)
            buf_puts(b, len == 2 ? "\\u0085" : s[i + 2] == 0xa8 ? "\\u2028" : "\\u2029");
        else buf_printf(b, "\\u%04x", s[i]);
        i += len > 1 ? len : 1;
        plain = i;
    }
    buf_append(b, text + plain, n - plain);
}

void buf_json_string(buf *b, const char *text, size_t n) {
    buf_append(b, "\"", 1);
    buf_json_escaped(b, text, n);
    buf_append(b, "\"", 1);
}

void buf_json_text(buf *b, const char *text) {
    buf_json_string(b, text, strlen(text));
}
