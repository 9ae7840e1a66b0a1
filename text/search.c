/* search.c - searches a text for the matches of a pattern, within bounds.
 *
 * PCRE2 limits the steps of one attempt to match. But an attempt begins at every character, and
 * each may scan the rest of the text, such as `\s+$` on a line of blanks with a letter at its end.
 * So a search tries a window of starting places at a time, and its processor time is counted. */
#include "base/cancel.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "text/pattern_internal.h"

enum {
    MATCH_LIMIT = 1000 * 1000, /* backtracking steps of one attempt to match */
    MATCH_LIMIT_PER_BYTE = 64, /* added per byte of the text */
    MATCH_LIMIT_MOST = 50 * 1000 * 1000,
    SEARCH_NS = 100 * 1000 * 1000, /* processor time of all searches in one text */
    SEARCH_NS_PER_BYTE = 1000,     /* added per byte; patterns in use take 50 */
    SAMPLE = 64,                   /* one of so many searches is timed */
    FIRST_WINDOW = 16,
    /* A window that took less time than this is doubled, otherwise halved. Machine code scans the
     * rest of the text once per window, so small windows would make the search quadratic. */
    WINDOW_NS = 200 * 1000,
    WINDOW_NS_PER_BYTE = 20,
    HEAP_LIMIT_KIB = 64 << 10, /* of the interpreter, used if JIT is not allowed */
    JIT_STACK = 8 << 20,
};

static int no_memory(err *e) {
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
}

static int search_init(text__search *search, err *e) {
    if (search->match) return 0;
    search->match = pcre2_match_data_create(1, NULL); /* the bounds of the match, no groups */
    search->context = pcre2_match_context_create(NULL);
    if (search->match == NULL || search->context == NULL) return no_memory(e);
    size_t most = (MATCH_LIMIT_MOST - MATCH_LIMIT) / MATCH_LIMIT_PER_BYTE;
    size_t bytes = search->n_bytes < most ? search->n_bytes : most;
    pcre2_set_match_limit(search->context, MATCH_LIMIT + (uint32_t)bytes * MATCH_LIMIT_PER_BYTE);
    pcre2_set_heap_limit(search->context, HEAP_LIMIT_KIB);
    search->window = FIRST_WINDOW;
    return 0;
}

void text__search_deinit(text__search *search) {
    pcre2_match_data_free(search->match);
    pcre2_match_context_free(search->context);
    if (search->stack) pcre2_jit_stack_free(search->stack);
    *search = (text__search){0};
}

static int match_once(text__search *search, const text__matches *matches, size_t at) {
    const text__pattern *pattern = matches->pattern;
    PCRE2_SPTR subject = (PCRE2_SPTR)matches->text;
    if (!pattern->jit) {
        return pcre2_match(pattern->code, subject, matches->len, at,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, search->match, search->context);
    }
    int rc = pcre2_jit_match(pattern->code, subject, matches->len, at, PCRE2_NO_UTF_CHECK,
                             search->match, search->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && search->stack == NULL) {
        search->stack = pcre2_jit_stack_create(64 << 10, JIT_STACK, NULL);
        if (search->stack == NULL) return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(search->context, NULL, search->stack);
        rc = pcre2_jit_match(pattern->code, subject, matches->len, at, PCRE2_NO_UTF_CHECK,
                             search->match, search->context);
    }
    return rc;
}

/* The next character after the one at `at`, or the end of the text. */
static size_t next_character(const text__matches *matches, size_t at) {
    at++;
    while (at < matches->len && ((unsigned char)matches->text[at] & 0xc0) == 0x80)
        at++;
    return at;
}

/* Adds the time of a search, or of one window with n bytes of text after it. Returns MATCHLIMIT if
 * the text has taken too long, CALLOUT if the request was cancelled. */
static int charge(text__search *search, uint64_t ns, unsigned stands_for, size_t n) {
    if (stands_for > 1) { /* a page fault or another process may have slowed a single sample */
        search->search_ns +=
            (ns < search->last_sample_ns ? ns : search->last_sample_ns) * stands_for;
        search->last_sample_ns = ns;
    } else {
        search->search_ns += ns;
        if (ns < WINDOW_NS + (uint64_t)n * WINDOW_NS_PER_BYTE) search->window *= 2;
        else if (search->window > 1) search->window /= 2;
    }
    if (cancel_asked()) return PCRE2_ERROR_CALLOUT;
    bool too_slow =
        search->search_ns / SEARCH_NS_PER_BYTE > search->n_bytes + SEARCH_NS / SEARCH_NS_PER_BYTE;
    return too_slow ? PCRE2_ERROR_MATCHLIMIT : 0;
}

/* Finds the leftmost match that begins at or after `at`; returns the result of pcre2_match. */
static int find_leftmost(text__search *search, const text__matches *matches, size_t at) {
    unsigned stands_for = ++search->searches % SAMPLE == 0 ? SAMPLE : 0; /* searches, if timed */
    for (;;) {
        bool last = !matches->pattern->in_windows || matches->len - at <= search->window;
        size_t limit = last ? PCRE2_UNSET : at + search->window;
        pcre2_set_offset_limit(search->context, limit);
        /* Reading the clock may take longer than a search, so its time is subtracted. */
        uint64_t before = stands_for ? clock_thread_ns() : 0;
        uint64_t start = stands_for ? clock_thread_ns() : 0;
        int rc = match_once(search, matches, at);
        uint64_t took = stands_for ? clock_thread_ns() - start : 0;
        took -= took < start - before ? took : start - before;
        int stop = stands_for ? charge(search, took, stands_for, matches->len - at) : 0;
        if (stop != 0) return stop;
        if (rc != PCRE2_ERROR_NOMATCH || last) return rc;
        stands_for = 1;
        at = next_character(matches, limit);
        if (at >= matches->len) at = matches->len;
    }
}

int text__match_next(text__search *search, text__matches *matches, err *e) {
    if (search_init(search, e) != 0) return -1;
    for (;;) {
        if (matches->from > matches->len) return 0;
        int rc = find_leftmost(search, matches, matches->from);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc == PCRE2_ERROR_CALLOUT) return cancel_check("tokenizing", e);
        if (rc == PCRE2_ERROR_NOMEMORY) return no_memory(e);
        if (rc < 0) {
            return err_set(e, ERR_BAD_PARAM, NULL,
                           "the tokenizer's pattern needs too many steps on this text");
        }
        const size_t *at = pcre2_get_ovector_pointer(search->match);
        /* As in the reference, an empty match at the end of the last match does not count. The
         * search then continues one character later. */
        if (at[0] == at[1] && matches->any && matches->end == at[1]) {
            matches->from = next_character(matches, matches->from);
            continue;
        }
        matches->start = at[0];
        matches->end = matches->from = at[1];
        matches->any = true;
        return 1;
    }
}
