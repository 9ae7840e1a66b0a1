/* fuzz_pattern.c - a pattern of a tokenizer.json, a zero byte, then text to search.
 *
 * A pattern is refused with a reason or compiles. A compiled pattern finds matches in order, at
 * boundaries of characters, or stops with a reason. */
#include "tests/fuzz/cost.h"
#include "text/pattern_internal.h"

#include "base/utf8.h"

#include <string.h>

static void check_matches(const text__pattern *pattern, const char *text, size_t n) {
    text__search search = {.n_bytes = n};
    text__matches match = {.pattern = pattern, .text = text, .len = n};
    size_t done = 0;
    for (;;) {
        err e = {0};
        int rc = text__match_next(&search, &match, &e);
        if (rc < 0 && e.code == ERR_NONE) __builtin_trap();
        if (rc <= 0) break;
        if (match.start < done || match.end < match.start || match.end > n) __builtin_trap();
        if (utf8_prefix(text, match.start) != match.start) __builtin_trap();
        if (utf8_prefix(text, match.end) != match.end) __builtin_trap();
        done = match.end;
    }
    text__search_deinit(&search);
}

static void one_input(const uint8_t *data, size_t n) {
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    const char *pattern = (const char *)data;
    size_t len = zero ? (size_t)(zero - data) : n;
    text__pattern compiled = {0};
    err e = {0};
    if (text__pattern_compile(&compiled, pattern, len, false, "file: pattern", &e) != 0) {
        if (compiled.code || e.code != ERR_BAD_FILE || strncmp(e.msg, "file: pattern: ", 15) != 0)
            __builtin_trap();
        /* PCRE2 may refuse a pattern only for its size. */
        if (strstr(e.msg, " at byte ") == NULL && len < 256 && utf8_valid(pattern, len))
            __builtin_trap();
        return;
    }
    const char *text = zero ? (const char *)zero + 1 : pattern;
    size_t n_text = zero ? n - len - 1 : len;
    n_text = utf8_prefix(text, n_text);
    check_matches(&compiled, text, n_text < 2000 ? n_text : utf8_prefix(text, 2000));
    text__pattern_deinit(&compiled);
}

FUZZ_TARGET(one_input, 4000, 16000)
