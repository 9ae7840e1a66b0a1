/* json.c - jansson behind limits, and JSON strings for writing.
 *
 * jansson bounds nesting but not memory: a megabyte of "[{},{}," becomes 75 MB of
 * heap. One pass over the text counts what will cost memory before any is spent. */
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
 * byte of a string and report success, write past a block, or abort. So a parse that runs
 * out never sees the failure: the hook leaves it by longjmp, and what it held, noted here,
 * is freed. A parse that nobody waits for is left the same way.
 *
 * A note costs the same whatever the text: a free looks among the last few blocks, and what is
 * not there goes on a second list. Only who leaves by longjmp subtracts the one from the other. */
typedef struct {
    void **at;
    size_t n, cap;
} blocks;

enum { LAST_FEW = 8, CHECK_EVERY = 1024 }; /* CHECK_EVERY: allocations between looks at the flag */
enum { OUT_OF_MEMORY = 1, CANCELLED };     /* why a parse was left */

static _Thread_local struct {
    bool active;
    blocks taken; /* by this parse; an address stands here as often as malloc gave it */
    blocks freed; /* of those, the freed ones that still stand in `taken` */
    unsigned since_check;
    jmp_buf escape;
} parse;

static bool note(blocks *b, void *p) {
    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 256;
        void **at = realloc(b->at, cap * sizeof *at);
        if (at == NULL) return false;
        b->at = at;
        b->cap = cap;
    }
    b->at[b->n++] = p;
    return true;
}

static void *hook_malloc(size_t n) {
    if (!parse.active) return malloc(n);
    if (++parse.since_check >= CHECK_EVERY) {
        parse.since_check = 0;
        if (cancel_asked()) longjmp(parse.escape, CANCELLED);
    }
    void *p = malloc(n);
    if (p && note(&parse.taken, p)) return p;
    free(p);
    longjmp(parse.escape, OUT_OF_MEMORY);
}

static void hook_free(void *p) {
    if (parse.active && p) {
        blocks *b = &parse.taken;
        size_t i = b->n, floor = i > LAST_FEW ? i - LAST_FEW : 0;
        while (i > floor && b->at[i - 1] != p)
            i--;
        if (i > floor) b->at[i - 1] = b->at[--b->n];
        else if (!note(&parse.freed, p)) longjmp(parse.escape, OUT_OF_MEMORY);
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

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;
    return x < y ? -1 : x > y;
}

/* Frees what was taken and not freed, in one sweep over both lists in order of address. */
static void free_the_rest(void) {
    blocks *taken = &parse.taken, *freed = &parse.freed;
    size_t k = 0;
    if (taken->n) qsort(taken->at, taken->n, sizeof *taken->at, by_address);
    if (freed->n) qsort(freed->at, freed->n, sizeof *freed->at, by_address);
    for (size_t i = 0; i < taken->n; i++) {
        if (k < freed->n && freed->at[k] == taken->at[i]) k++;
        else free(taken->at[i]);
    }
}

static void forget_blocks(blocks *b) {
    free(b->at);
    *b = (blocks){0};
}

/* 0 with *out, or with NULL and *why filled when the text is wrong; else why it was left. */
static int load(json_t **out, const char *text, size_t n, bool nul, json_error_t *why) {
    *out = NULL;
    int left = setjmp(parse.escape);
    if (left == 0) {
        parse.active = true;
        parse.since_check = 0;
        *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | (nul ? JSON_ALLOW_NUL : 0), why);
    } else {
        free_the_rest();
    }
    parse.active = false;
    forget_blocks(&parse.taken);
    forget_blocks(&parse.freed);
    return left;
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

static int parse_text(json_t **out, const char *text, size_t n, bool nul, const json_limits *limits,
                      const char *what, err *e) {
    *out = NULL;
    if (n > limits->max_bytes) {
        return err_set(e, ERR_BAD_PARAM, NULL, "%s: %zu bytes, at most %zu are accepted", what, n,
                       limits->max_bytes);
    }
    if (scan(text, n, limits, what, e) != 0) return -1;
    json_error_t why;
    json_t *root;
    int left = load(&root, text, n, nul, &why);
    if (left == CANCELLED) return cancel_check(what, e);
    if (left != 0) return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory while parsing", what);
    if (root == NULL) { /* jansson's own text quotes the input; the place is enough */
        if (json_error_code(&why) == json_error_duplicate_key) {
            char key[64];
            key_before(text, n, why.position, key, sizeof key);
            return err_set(e, ERR_BAD_PARAM, key, "%s: a key appears twice (line %d, column %d)",
                           what, why.line, why.column);
        }
        enum json_error_code code = json_error_code(&why);
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
    return parse_text(out, text, n, false, limits, what, e);
}

int json_parse_nul(json_t **out, const char *text, size_t n, const json_limits *limits,
                   const char *what, err *e) {
    return parse_text(out, text, n, true, limits, what, e);
}

const char *json_c_string(const json_t *v) {
    const char *text = json_string_value(v);
    return text && strlen(text) == json_string_length(v) ? text : NULL;
}

static void put_escape(buf *b, unsigned char c) {
    static const char hex[] = "0123456789abcdef";
    const char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    buf_append(b, text, sizeof text);
}

/* U+2028, U+2029 and U+0085 are escaped too: readers that split text into lines by Unicode's
 * rules would cut an event in two. */
void buf_json_escaped(buf *b, const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t plain = 0; /* start of the run not yet written */
    for (size_t i = 0; i < n;) {
        if (s[i] >= 0x20 && s[i] < 0x7f && s[i] != '"' && s[i] != '\\') { /* nearly always */
            i++;
            continue;
        }
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
        else put_escape(b, s[i]);
        i += len ? len : utf8_broken(text + i, n - i);
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
