/* search.c - a pattern run over a text, within bounds.
 *
 * PCRE2 limits the steps of one attempt to match, but an attempt begins at every character, and
 * each may look through the rest of the text: `\s+$` on a line of blanks that does not end so.
 * So a search runs in windows of starting places, and its processor time is counted. */
#include "base/cancel.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "text/pattern_internal.h"

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
};

static int no_memory(err *e) {
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
}

static int search_init(text__search *s, err *e) {
    if (s->match) return 0;
    s->match = pcre2_match_data_create(1, NULL); /* only where the whole match lies */
    s->context = pcre2_match_context_create(NULL);
    if (s->match == NULL || s->context == NULL) return no_memory(e);
    size_t most = (MATCH_LIMIT_MOST - MATCH_LIMIT) / MATCH_LIMIT_PER_BYTE;
    size_t bytes = s->n_bytes < most ? s->n_bytes : most;
    pcre2_set_match_limit(s->context, MATCH_LIMIT + (uint32_t)bytes * MATCH_LIMIT_PER_BYTE);
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    s->window = FIRST_WINDOW;
    return 0;
}

void text__search_deinit(text__search *s) {
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    if (s->stack) pcre2_jit_stack_free(s->stack);
    *s = (text__search){0};
}

static int match_once(text__search *s, const text__matches *m, size_t at) {
    const text__pattern *p = m->pattern;
    PCRE2_SPTR subject = (PCRE2_SPTR)m->text;
    if (!p->jit) {
        return pcre2_match(p->code, subject, m->n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match,
                           s->context);
    }
    int rc = pcre2_jit_match(p->code, subject, m->n, at, PCRE2_NO_UTF_CHECK, s->match, s->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && s->stack == NULL) {
        s->stack = pcre2_jit_stack_create(64 << 10, JIT_STACK, NULL);
        if (s->stack == NULL) return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
        rc = pcre2_jit_match(p->code, subject, m->n, at, PCRE2_NO_UTF_CHECK, s->match, s->context);
    }
    return rc;
}

/* The character behind the one at `at`, or behind the text. */
static size_t next_character(const text__matches *m, size_t at) {
    at++;
    while (at < m->n && ((unsigned char)m->text[at] & 0xc0) == 0x80)
        at++;
    return at;
}

/* Counts what a search, or a window of n bytes to look through, has taken. MATCHLIMIT when the
 * text has cost too much, CALLOUT when nobody waits. */
static int charge(text__search *s, uint64_t ns, unsigned stands_for, size_t n) {
    if (stands_for > 1) { /* one sample alone may have met with a page fault or a thief of time */
        s->search_ns += (ns < s->last_sample_ns ? ns : s->last_sample_ns) * stands_for;
        s->last_sample_ns = ns;
    } else {
        s->search_ns += ns;
        if (ns < WINDOW_NS + (uint64_t)n * WINDOW_NS_PER_BYTE) s->window *= 2;
        else if (s->window > 1) s->window /= 2;
    }
    if (cancel_asked()) return PCRE2_ERROR_CALLOUT;
    bool dear = s->search_ns / SEARCH_NS_PER_BYTE > s->n_bytes + SEARCH_NS / SEARCH_NS_PER_BYTE;
    return dear ? PCRE2_ERROR_MATCHLIMIT : 0;
}

/* The leftmost match that begins at or after `at`, and what pcre2_match says. */
static int search(text__search *s, const text__matches *m, size_t at) {
    unsigned stands_for = ++s->searches % SAMPLE == 0 ? SAMPLE : 0; /* how many, if timed */
    for (;;) {
        bool last = !m->pattern->in_windows || m->n - at <= s->window;
        size_t limit = last ? PCRE2_UNSET : at + s->window;
        pcre2_set_offset_limit(s->context, limit);
        /* Reading the clock may take longer than a search: what it takes is no part of one. */
        uint64_t before = stands_for ? clock_thread_ns() : 0;
        uint64_t start = stands_for ? clock_thread_ns() : 0;
        int rc = match_once(s, m, at);
        uint64_t took = stands_for ? clock_thread_ns() - start : 0;
        took -= took < start - before ? took : start - before;
        int stop = stands_for ? charge(s, took, stands_for, m->n - at) : 0;
        if (stop != 0) return stop;
        if (rc != PCRE2_ERROR_NOMATCH || last) return rc;
        stands_for = 1;
        at = next_character(m, limit);
        if (at >= m->n) at = m->n;
    }
}

int text__match_next(text__search *s, text__matches *m, err *e) {
    if (search_init(s, e) != 0) return -1;
    for (;;) {
        if (m->from > m->n) return 0;
        int rc = search(s, m, m->from);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc == PCRE2_ERROR_CALLOUT) return cancel_check("tokenizing", e);
        if (rc == PCRE2_ERROR_NOMEMORY) return no_memory(e);
        if (rc < 0) {
            return err_set(e, ERR_BAD_PARAM, NULL,
                           "the tokenizer's pattern needs too many steps on this text");
        }
        const size_t *at = pcre2_get_ovector_pointer(s->match);
        /* As the reference: an empty match where the last one ended does not count, and then the
         * search goes on one character later. */
        if (at[0] == at[1] && m->any && m->end == at[1]) {
            m->from = next_character(m, m->from);
            continue;
        }
        m->start = at[0];
        m->end = m->from = at[1];
        m->any = true;
        return 1;
    }
}
