/* split.c - the pre-tokenizers: text into the pieces that merging may not cross.
 *
 * Steps run depth first: what one step cuts off goes through the rest before the next cut,
 * so no list of pieces is ever held.
 *
 * PCRE2 limits the steps of one attempt to match, but an attempt begins at every character, and
 * each may look through the rest of the text: `\s+$` on a line of blanks that does not end so.
 * So a search runs in windows of starting places, and its processor time is counted. */
#include "base/cancel.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* What Hugging Face's ByteLevel splits by: GPT-2's pattern. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

enum {
    MATCH_LIMIT = 1000 * 1000, /* backtracking steps of one attempt to match */
    MATCH_LIMIT_PER_BYTE = 64, /* and what each byte of the text adds */
    MATCH_LIMIT_MOST = 50 * 1000 * 1000,
    SEARCH_NS = 100 * 1000 * 1000, /* processor time of all searches in one text */
    SEARCH_NS_PER_BYTE = 1000,     /* and what each byte adds; patterns in use take 50 */
    SAMPLE = 64,                   /* of so many searches one is timed */
    FIRST_WINDOW = 16,
    /* A window is doubled if it took less than this, else halved. JIT looks through the rest of
     * the text once for a whole window, so that must count as little. */
    WINDOW_NS = 200 * 1000,
    WINDOW_NS_PER_BYTE = 20,
    HEAP_LIMIT_KIB = 64 << 10, /* of the interpreter, where JIT is not allowed */
    JIT_STACK = 8 << 20,
    MAX_PATTERN = 16 << 10,
};

/* ---- running ---- */

/* An item is a match or what stands between two matches. */
typedef struct {
    text__encoder *c;
    uint32_t step;
    const char *text;
    size_t start, end; /* held back: the next item may join it */
    bool held, was_match;
} splitter;

static int flush(splitter *s) {
    if (!s->held || s->start == s->end) return 0;
    s->held = false;
    return text__encode_split(s->c, s->step + 1, s->text + s->start, s->end - s->start);
}

static bool joins(const splitter *s, text__behavior b, bool is_match) {
    if (!s->held) return false;
    switch (b) {
    case TEXT__MERGED_WITH_PREVIOUS: return is_match && !s->was_match;
    case TEXT__MERGED_WITH_NEXT: return !is_match && s->was_match;
    case TEXT__CONTIGUOUS: return is_match == s->was_match;
    default: return false;
    }
}

static int item(splitter *s, size_t start, size_t end, bool is_match) {
    const text__step *step = &s->c->t->steps[s->step];
    is_match = is_match != step->invert;
    if (step->behavior == TEXT__REMOVED && is_match) {
        int rc = flush(s);
        s->held = false;
        return rc;
    }
    if (joins(s, step->behavior, is_match)) {
        s->end = end;
    } else {
        if (flush(s) != 0) return -1;
        s->start = start;
        s->end = end;
        s->held = true;
    }
    s->was_match = is_match;
    return 0;
}

static int match_init(text__encoder *c) {
    if (c->match) return 0;
    c->match = pcre2_match_data_create(1, NULL); /* only where the whole match lies */
    c->context = pcre2_match_context_create(NULL);
    if (c->match == NULL || c->context == NULL) {
        return err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
    }
    size_t most = (MATCH_LIMIT_MOST - MATCH_LIMIT) / MATCH_LIMIT_PER_BYTE;
    size_t bytes = c->n_bytes < most ? c->n_bytes : most;
    pcre2_set_match_limit(c->context, MATCH_LIMIT + (uint32_t)bytes * MATCH_LIMIT_PER_BYTE);
    pcre2_set_heap_limit(c->context, HEAP_LIMIT_KIB);
    c->window = FIRST_WINDOW;
    return 0;
}

static int match_once(text__encoder *c, const text__step *step, const char *text, size_t n,
                      size_t at, uint32_t options) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    if (!step->jit || options) {
        options |= PCRE2_NO_UTF_CHECK | (step->jit ? 0 : PCRE2_NO_JIT);
        return pcre2_match(step->code, subject, n, at, options, c->match, c->context);
    }
    int rc = pcre2_jit_match(step->code, subject, n, at, PCRE2_NO_UTF_CHECK, c->match, c->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && c->stack == NULL) {
        c->stack = pcre2_jit_stack_create(64 << 10, JIT_STACK, NULL);
        if (c->stack == NULL) return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(c->context, NULL, c->stack);
        rc = pcre2_jit_match(step->code, subject, n, at, PCRE2_NO_UTF_CHECK, c->match, c->context);
    }
    return rc;
}

/* The next attempt after the place `limit` begins at a character. */
static size_t window_end(const char *text, size_t n, size_t limit) {
    size_t at = limit + 1;
    while (at < n && ((unsigned char)text[at] & 0xc0) == 0x80)
        at++;
    return at;
}

/* Counts what a search, or a window of n bytes to look through, has taken. MATCHLIMIT when the
 * text has cost too much, CALLOUT when nobody waits. */
static int charge(text__encoder *c, uint64_t ns, unsigned stands_for, size_t n) {
    if (stands_for > 1) { /* one sample alone may have met with a page fault or a thief of time */
        c->search_ns += (ns < c->last_sample_ns ? ns : c->last_sample_ns) * stands_for;
        c->last_sample_ns = ns;
    } else {
        c->search_ns += ns;
        if (ns < WINDOW_NS + (uint64_t)n * WINDOW_NS_PER_BYTE) c->window *= 2;
        else if (c->window > 1) c->window /= 2;
    }
    if (cancel_asked()) return PCRE2_ERROR_CALLOUT;
    bool dear = c->search_ns / SEARCH_NS_PER_BYTE > c->n_bytes + SEARCH_NS / SEARCH_NS_PER_BYTE;
    return dear ? PCRE2_ERROR_MATCHLIMIT : 0;
}

/* The next match at or after `at`, and what pcre2_match says. */
static int search(text__encoder *c, const text__step *step, const char *text, size_t n, size_t at,
                  uint32_t options) {
    unsigned stands_for = ++c->searches % SAMPLE == 0 ? SAMPLE : 0; /* how many, if timed */
    for (;;) {
        bool last = !step->in_windows || n - at <= c->window;
        size_t limit = last ? PCRE2_UNSET : at + c->window;
        pcre2_set_offset_limit(c->context, limit);
        uint64_t start = stands_for ? clock_thread_ns() : 0;
        int rc = match_once(c, step, text, n, at, options);
        int stop = stands_for ? charge(c, clock_thread_ns() - start, stands_for, n - at) : 0;
        if (stop != 0) return stop;
        if (rc != PCRE2_ERROR_NOMATCH || last) return rc;
        stands_for = 1;
        options = 0; /* they spoke of the place where the search began */
        at = window_end(text, n, limit);
        if (at >= n) return rc;
    }
}

static int split(text__encoder *c, uint32_t k, const char *text, size_t n) {
    const text__step *step = &c->t->steps[k];
    splitter s = {.c = c, .step = k, .text = text};
    size_t done = 0; /* end of the last match */
    uint32_t options = 0;
    if (match_init(c) != 0) return -1;
    while (done < n) {
        int rc = search(c, step, text, n, done, options);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc == PCRE2_ERROR_CALLOUT) return cancel_check("tokenizing", c->e);
        if (rc == PCRE2_ERROR_NOMEMORY) {
            return err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
        }
        if (rc < 0) {
            return err_set(c->e, ERR_BAD_PARAM, NULL,
                           "the tokenizer's pattern needs too many steps on this text");
        }
        const size_t *at = pcre2_get_ovector_pointer(c->match);
        size_t start = at[0], end = at[1];
        if (end < start || start < done) break; /* \K in a look-around may do this */
        if (start > done && item(&s, done, start, false) != 0) return -1;
        if (item(&s, start, end, true) != 0) return -1;
        /* After an empty match the same place may only match something. */
        options = start == end ? PCRE2_NOTEMPTY_ATSTART : 0;
        done = end;
    }
    if (done < n && item(&s, done, n, false) != 0) return -1;
    return flush(&s);
}

/* HF's ByteLevel puts a space before every text that reaches it without one. */
static int with_space(text__encoder *c, uint32_t k, const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (copy == NULL) return err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
    copy[0] = ' ';
    memcpy(copy + 1, text, n);
    int rc =
        c->t->steps[k].code ? split(c, k, copy, n + 1) : text__encode_split(c, k + 1, copy, n + 1);
    free(copy);
    return rc;
}

int text__encode_split(text__encoder *c, uint32_t k, const char *text, size_t n) {
    if (n == 0) return 0;
    if (k == c->t->n_steps) return text__encode_piece(c, text, n);
    const text__step *step = &c->t->steps[k];
    if (step->add_prefix_space && text[0] != ' ') return with_space(c, k, text, n);
    if (step->code == NULL) return text__encode_split(c, k + 1, text, n);
    return split(c, k, text, n);
}

/* ---- loading ---- */

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

static int compile(text__step *step, const char *pattern, size_t n, bool literal, const char *what,
                   err *e) {
    buf text = {0};
    int rc = -1, code = 0;
    size_t at = 0;
    if (n == 0)
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: an empty split pattern", what);
    if (n > MAX_PATTERN) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: a split pattern over %d bytes", what,
                       MAX_PATTERN);
    }
    if (literal) buf_append(&text, pattern, n);
    if (text.failed || (!literal && portable(&text, pattern, n) != 0)) {
        err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", what);
        goto end;
    }
    uint32_t options = PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT |
                       (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
    step->in_windows = literal || strstr(text.data, "\\G") == NULL;
    step->code = pcre2_compile((PCRE2_SPTR)text.data, text.len, options, &code, &at, NULL);
    if (step->code == NULL) {
        char why[120] = "";
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        err_code kind = code == PCRE2_ERROR_HEAP_FAILED ? ERR_NO_MEMORY : ERR_BAD_FILE;
        err_set(e, kind, "pre_tokenizer", "%s: split pattern: %s (byte %zu)", what, why, at);
        goto end;
    }
    step->jit =
        pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE) == 0; /* refused on some systems */
    rc = 0;
end:
    buf_deinit(&text);
    return rc;
}

static int load_bool(const json_t *object, const char *key, bool otherwise, bool *out,
                     const char *what, err *e) {
    const json_t *v = json_object_get(object, key);
    if (v && !json_is_boolean(v)) {
        return err_set(e, ERR_BAD_FILE, key, "%s: %s must be true or false", what, key);
    }
    *out = v ? json_is_true(v) : otherwise;
    return 0;
}

static int load_byte_level(text__step *step, const json_t *pre, const char *what, err *e) {
    bool use_regex = true;
    if (load_bool(pre, "add_prefix_space", true, &step->add_prefix_space, what, e) != 0) return -1;
    if (load_bool(pre, "use_regex", true, &use_regex, what, e) != 0) return -1;
    return use_regex ? compile(step, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, false, what, e) : 0;
}

static int load_split(text__step *step, const json_t *pre, const char *what, err *e) {
    static const char *const names[] = {
        [TEXT__ISOLATED] = "Isolated",
        [TEXT__REMOVED] = "Removed",
        [TEXT__MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TEXT__MERGED_WITH_NEXT] = "MergedWithNext",
        [TEXT__CONTIGUOUS] = "Contiguous",
    };
    const char *behavior = json_string_value(json_object_get(pre, "behavior"));
    size_t b = 0;
    while (b < ARRAY_LEN(names) && (behavior == NULL || strcmp(names[b], behavior) != 0))
        b++;
    if (b == ARRAY_LEN(names)) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: unknown Split behavior", what);
    }
    step->behavior = (text__behavior)b;
    if (load_bool(pre, "invert", false, &step->invert, what, e) != 0) return -1;
    const json_t *pattern = json_object_get(pre, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *plain = json_object_get(pattern, "String");
    const json_t *text = regex ? regex : plain;
    if (!json_is_string(text)) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: a Split without Regex or String",
                       what);
    }
    return compile(step, json_string_value(text), json_string_length(text), regex == NULL, what, e);
}

static int load_digits(text__step *step, const json_t *pre, const char *what, err *e) {
    bool individual = false;
    if (load_bool(pre, "individual_digits", false, &individual, what, e) != 0) return -1;
    step->behavior = individual ? TEXT__ISOLATED : TEXT__CONTIGUOUS;
    return compile(step, "\\p{N}", 5, false, what, e);
}

/* *bytes is set when the step turns text into bytes, which has to happen and comes last. */
static int load_step(tokenizer *t, const json_t *pre, bool *bytes, const char *what, err *e) {
    const char *type = json_string_value(json_object_get(pre, "type"));
    if (type == NULL)
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: a pre_tokenizer without type", what);
    if (*bytes) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: a %.40s pre_tokenizer after ByteLevel", what, type);
    }
    if (t->n_steps == TEXT__MAX_STEPS) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: more than %d pre_tokenizers", what,
                       TEXT__MAX_STEPS);
    }
    text__step *step = &t->steps[t->n_steps++];
    if (strcmp(type, "Split") == 0) return load_split(step, pre, what, e);
    if (strcmp(type, "Digits") == 0) return load_digits(step, pre, what, e);
    if (strcmp(type, "ByteLevel") == 0) {
        *bytes = true;
        return load_byte_level(step, pre, what, e);
    }
    return err_set(
        e, ERR_BAD_FILE, "pre_tokenizer",
        "%s: pre_tokenizer %.40s is not supported (ByteLevel, Split, Digits, Sequence are)", what,
        type);
}

int text__steps_load(tokenizer *t, const json_t *pre, const char *what, err *e) {
    bool bytes = false;
    const char *type = json_string_value(json_object_get(pre, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(pre, "pretokenizers"), *one;
        size_t i;
        json_array_foreach(list, i, one) {
            if (load_step(t, one, &bytes, what, e) != 0) return -1;
        }
    } else if (load_step(t, pre, &bytes, what, e) != 0) {
        return -1;
    }
    if (!bytes) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: no ByteLevel pre_tokenizer; only byte-level BPE is supported", what);
    }
    return 0;
}
