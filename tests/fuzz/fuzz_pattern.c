/* fuzz_pattern.c - a pattern of a tokenizer.json, a zero byte, then text to find it in.
 *
 * A pattern is refused with a reason or compiles. What compiles finds matches one behind the
 * other, between characters, or is stopped with a reason. */
#include "tests/fuzz/cost.h"
#include "text/pattern_internal.h"

#include "base/utf8.h"

#include <string.h>

static void check_matches(const text__pattern *p, const char *text, size_t n) {
    text__search s = {.n_bytes = n};
    text__matches m = {.pattern = p, .text = text, .len = n};
    size_t done = 0;
    for (;;) {
        err e = {0};
        int rc = text__match_next(&s, &m, &e);
        if (rc < 0 && e.code == ERR_NONE) __builtin_trap();
        if (rc <= 0) break;
        if (m.start < done || m.end < m.start || m.end > n) __builtin_trap();
        if (utf8_prefix(text, m.start) != m.start) __builtin_trap();
        if (utf8_prefix(text, m.end) != m.end) __builtin_trap();
        done = m.end;
    }
    text__search_deinit(&s);
}

static void one_input(const uint8_t *data, size_t n) {
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    const char *pattern = (const char *)data;
    size_t len = zero ? (size_t)(zero - data) : n;
    text__pattern p = {0};
    err e = {0};
    if (text__pattern_compile(&p, pattern, len, false, "file: pattern", &e) != 0) {
        if (p.code || e.code != ERR_BAD_FILE || strncmp(e.msg, "file: pattern: ", 15) != 0)
            __builtin_trap();
        /* Only the size of what was translated is PCRE2's to judge. */
        if (strstr(e.msg, " at byte ") == NULL && len < 256 && utf8_valid(pattern, len))
            __builtin_trap();
        return;
    }
    const char *text = zero ? (const char *)zero + 1 : pattern;
    size_t n_text = zero ? n - len - 1 : len;
    n_text = utf8_prefix(text, n_text);
    check_matches(&p, text, n_text < 2000 ? n_text : utf8_prefix(text, 2000));
    text__pattern_deinit(&p);
}

FUZZ_TARGET(one_input, 4000, 16000)
