/* json.c - jansson behind limits, and JSON strings for writing.
 *
 * jansson limits nesting but not memory: a megabyte of "[{},{}," becomes 75 MB of heap. So one
 * pass over the text counts the elements before any memory is spent. */
#include "base/json.h"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/utf8.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* jansson 2.14 does not survive a failed allocation: it may report a syntax error, drop a
 * byte of a string and report success, write past its memory, or abort. So jansson never sees a
 * failed allocation: the hook notes each pointer, leaves the parse by longjmp, and the noted
 * allocations are freed. A cancelled parse is left the same way.
 *
 * Notes cost constant time: free() looks for its pointer among the last few taken and otherwise
 * appends it to a second list. Only leaving by longjmp subtracts the second list from the first. */
typedef struct {
    void **at;
    size_t n, cap;
} allocations;

enum { LAST_FEW = 8, CHECK_EVERY = 1024 }; /* CHECK_EVERY: allocations between cancel checks */
enum { OUT_OF_MEMORY = 1, CANCELLED };     /* why a parse was left */

static _Thread_local struct {
    bool active;
    allocations taken; /* by this parse; an address appears once per malloc() */
    allocations freed; /* freed ones still listed in `taken` */
    unsigned since_check;
    jmp_buf escape;
} parse;

static bool note(allocations *list, void *ptr) {
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 256;
        void **at = realloc(list->at, cap * sizeof *at);
        if (at == NULL) return false;
        list->at = at;
        list->cap = cap;
    }
    list->at[list->n++] = ptr;
    return true;
}

static void *hook_malloc(size_t n) {
    if (!parse.active) return malloc(n);
    if (++parse.since_check >= CHECK_EVERY) {
        parse.since_check = 0;
        if (cancel_asked()) longjmp(parse.escape, CANCELLED);
    }
    void *ptr = malloc(n);
    if (ptr && note(&parse.taken, ptr)) return ptr;
    free(ptr);
    longjmp(parse.escape, OUT_OF_MEMORY);
}

static void hook_free(void *ptr) {
    if (parse.active && ptr) {
        allocations *taken = &parse.taken;
        size_t i = taken->n, floor = i > LAST_FEW ? i - LAST_FEW : 0;
        while (i > floor && taken->at[i - 1] != ptr)
            i--;
        if (i > floor) taken->at[i - 1] = taken->at[--taken->n];
        else if (!note(&parse.freed, ptr)) longjmp(parse.escape, OUT_OF_MEMORY);
    }
    free(ptr);
}

void json_setup(void) {
    size_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed || seed == 0) {
        seed = (size_t)clock_ns() | 1;
    }
    json_set_alloc_funcs(hook_malloc, hook_free);
    json_object_seed(seed);
}

static int by_address(const void *one, const void *other) {
    uintptr_t left = (uintptr_t) * (void *const *)one, right = (uintptr_t) * (void *const *)other;
    return left < right ? -1 : left > right;
}

/* Frees the allocations taken and not yet freed, in one pass over both lists sorted by address. */
static void free_the_rest(void) {
    allocations *taken = &parse.taken, *freed = &parse.freed;
    size_t next = 0;
    if (taken->n) qsort(taken->at, taken->n, sizeof *taken->at, by_address);
    if (freed->n) qsort(freed->at, freed->n, sizeof *freed->at, by_address);
    for (size_t i = 0; i < taken->n; i++) {
        if (next < freed->n && freed->at[next] == taken->at[i]) next++;
        else free(taken->at[i]);
    }
}

static void forget(allocations *list) {
    free(list->at);
    *list = (allocations){0};
}

/* 0 with *out, or with NULL and *why for malformed text; else the reason for leaving. */
static int load(json_t **out, const char *text, size_t n, size_t flags, json_error_t *why) {
    *out = NULL;
    int left = setjmp(parse.escape);
    if (left == 0) {
        parse.active = true;
        parse.since_check = 0;
        *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | flags, why);
    } else {
        free_the_rest();
    }
    parse.active = false;
    forget(&parse.taken);
    forget(&parse.freed);
    return left;
}

/* Strings are skipped, escapes included; anything malformed is left to jansson. */
static int scan(const char *text, size_t n, const json_limits *limits, const char *what, err *e) {
    size_t depth = 0, structural = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char byte = text[i];
        if (in_string) {
            if (byte == '\\') i++;
            else if (byte == '"') in_string = false;
            continue;
        }
        switch (byte) {
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

/* The key ending at text[end]; "" if it has escapes or does not fit. */
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

static int parse_text(json_t **out, const char *text, size_t n, bool nul, bool long_integers,
                      const json_limits *limits, const char *what, err *e) {
    *out = NULL;
    if (n > limits->max_bytes) {
        return err_set(e, ERR_BAD_PARAM, NULL, "%s: %zu bytes, at most %zu are accepted", what, n,
                       limits->max_bytes);
    }
    if (scan(text, n, limits, what, e) != 0) return -1;
    json_error_t why;
    json_t *root;
    size_t flags = nul ? JSON_ALLOW_NUL : 0;
    int left = load(&root, text, n, flags, &why);
    if (left == 0 && root == NULL && long_integers &&
        json_error_code(&why) == json_error_numeric_overflow)
        left = load(&root, text, n, flags | JSON_DECODE_INT_AS_REAL, &why);
    if (left == CANCELLED) return cancel_check(what, e);
    if (left != 0) return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory while parsing", what);
    if (root == NULL) { /* jansson's message would quote the input */
        if (json_error_code(&why) == json_error_duplicate_key) {
            char key[64];
            key_before(text, n, why.position, key, sizeof key);
            return err_set(e, ERR_BAD_PARAM, key, "%s: a key appears twice (line %d, column %d)",
                           what, why.line, why.column);
        }
        enum json_error_code code = json_error_code(&why);
        if (code == json_error_numeric_overflow) {
            return err_set(e, ERR_BAD_PARAM, NULL, "%s: a number is too large (line %d, column %d)",
                           what, why.line, why.column);
        }
        if (code == json_error_null_character || code == json_error_null_byte_in_key) {
            return err_set(e, ERR_BAD_PARAM, NULL, "%s: a %s holds U+0000 (line %d, column %d)",
                           what, code == json_error_null_character ? "string" : "key", why.line,
                           why.column);
        }
        return err_set(e, ERR_BAD_PARAM, NULL, "%s: not valid JSON (line %d, column %d)", what,
                       why.line, why.column);
    }
    *out = root;
    return 0;
}

int json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
               const char *what, err *e) {
    return parse_text(out, text, n, false, false, limits, what, e);
}

int json_parse_nul(json_t **out, const char *text, size_t n, const json_limits *limits,
                   const char *what, err *e) {
    return parse_text(out, text, n, true, false, limits, what, e);
}

int json_parse_body(json_t **out, const char *text, size_t n, const json_limits *limits,
                    const char *what, err *e) {
    static const char order_mark[] = "\xef\xbb\xbf";
    size_t skipped = n >= 3 && memcmp(text, order_mark, 3) == 0 ? 3 : 0;
    return parse_text(out, text + skipped, n - skipped, true, true, limits, what, e);
}

const char *json_c_string(const json_t *value) {
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

static void put_escape(buf *out, unsigned char byte) {
    static const char hex[] = "0123456789abcdef";
    const char text[6] = {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};
    buf_append(out, text, sizeof text);
}

/* U+2028, U+2029 and U+0085 are escaped too: a reader splitting lines by Unicode's rules would cut
 * an event in two. */
void buf_json_escaped(buf *out, const char *text, size_t n) {
    const unsigned char *bytes = (const unsigned char *)text;
    size_t plain = 0; /* start of the text not yet written */
    for (size_t i = 0; i < n;) {
        if (bytes[i] >= 0x20 && bytes[i] < 0x7f && bytes[i] != '"' &&
            bytes[i] != '\\') { /* nearly always */
            i++;
            continue;
        }
        size_t len = utf8_char(text + i, n - i);
        bool line_end = (len == 3 && bytes[i] == 0xe2 && bytes[i + 1] == 0x80 &&
                         (bytes[i + 2] & 0xfe) == 0xa8) ||
                        (len == 2 && bytes[i] == 0xc2 && bytes[i + 1] == 0x85);
        bool escape = len == 0 || bytes[i] < 0x20 || bytes[i] == '"' || bytes[i] == '\\' ||
                      bytes[i] == 0x7f || line_end;
        if (!escape) {
            i += len;
            continue;
        }
        buf_append(out, text + plain, i - plain);
        if (len == 0) buf_puts(out, UTF8_REPLACEMENT);
        else if (bytes[i] == '"') buf_puts(out, "\\\"");
        else if (bytes[i] == '\\') buf_puts(out, "\\\\");
        else if (bytes[i] == '\n') buf_puts(out, "\\n");
        else if (line_end)
            buf_puts(out, len == 2 ? "\\u0085" : bytes[i + 2] == 0xa8 ? "\\u2028" : "\\u2029");
        else put_escape(out, bytes[i]);
        i += len ? len : utf8_broken(text + i, n - i);
        plain = i;
    }
    buf_append(out, text + plain, n - plain);
}

void buf_json_string(buf *out, const char *text, size_t n) {
    buf_append(out, "\"", 1);
    buf_json_escaped(out, text, n);
    buf_append(out, "\"", 1);
}

void buf_json_text(buf *out, const char *text) {
    buf_json_string(out, text, strlen(text));
}

void buf_json_float(buf *out, float value) {
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    buf_puts(out, text);
}
