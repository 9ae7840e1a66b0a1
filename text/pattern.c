/* pattern.c - the regular expressions of a tokenizer.json, compiled. */
#include "text/pattern_internal.h"

#include "base/buf.h"

#include <string.h>

enum { MAX_PATTERN = 16 << 10 };

/* PCRE2's \s has U+180E and depends on its version; the references mean White_Space. */
static int portable(buf *out, const char *pattern, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (pattern[i] != '\\' || i + 1 == n) {
            buf_append(out, pattern + i, 1);
            continue;
        }
        char c = pattern[++i];
        if (c == 's') buf_puts(out, "\\p{White_Space}");
        else if (c == 'S') buf_puts(out, "\\P{White_Space}");
        else buf_append(out, pattern + i - 1, 2);
    }
    return out->failed ? -1 : 0;
}

int text__pattern_compile(text__pattern *p, const char *pattern, size_t n, bool literal,
                          const char *what, err *e) {
    buf text = {0};
    int rc = -1, code = 0;
    size_t at = 0;
    if (n > MAX_PATTERN) {
        return err_set(e, ERR_BAD_FILE, NULL, "%s: a pattern over %d bytes", what, MAX_PATTERN);
    }
    if (literal) buf_append(&text, pattern, n);
    if (text.failed || (!literal && portable(&text, pattern, n) != 0)) {
        err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", what);
        goto end;
    }
    uint32_t options = PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT |
                       (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
    p->in_windows = literal || text.len == 0 || strstr(text.data, "\\G") == NULL;
    PCRE2_SPTR source = (PCRE2_SPTR)(text.len ? text.data : "");
    p->code = pcre2_compile(source, text.len, options, &code, &at, NULL);
    if (p->code == NULL) {
        char why[120] = "";
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        err_code kind = code == PCRE2_ERROR_HEAP_FAILED ? ERR_NO_MEMORY : ERR_BAD_FILE;
        err_set(e, kind, NULL, "%s: %s (byte %zu)", what, why, at);
        goto end;
    }
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0; /* refused on some systems */
    rc = 0;
end:
    buf_deinit(&text);
    return rc;
}

void text__pattern_deinit(text__pattern *p) {
    pcre2_code_free(p->code);
    *p = (text__pattern){0};
}
